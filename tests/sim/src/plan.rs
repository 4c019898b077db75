//! Swarm testing (Groce et al. 2012): each seed first draws which faults exist at all, and how often. A run in which
//! everything fails a little finds less than many runs that each overdo a few things.

use crate::network::Host;
use crate::random::Random;
use std::collections::BTreeSet;

#[derive(Clone, Debug, Default)]
pub struct NetworkPlan {
    pub delay_us: u64,
    pub loss_per_mille: u64,
    pub duplication_per_mille: u64,
    /// Frames overtake each other.
    pub reorders: bool,
    /// So many frames arrive any time up to `latest_us` later.
    pub late_per_mille: u64,
    pub latest_us: u64,
    pub garbage_per_mille: u64,
}

/// Of a thousand worst moments, how many are used (`worst.rs`).
#[derive(Clone, Debug, Default)]
pub struct WorstMoments {
    /// A node has begun to lead.
    pub election_per_mille: u64,
    /// A leader has had its turn, as so often: it is cut off, and only the others know.
    pub isolate_per_mille: u64,
    /// A leader's log holds a change of the members that is not committed.
    pub change_per_mille: u64,
    /// A leader has made a fifth or seventh voter: the worst is done with that, and with the leader that follows.
    pub regroup_per_mille: u64,
    /// A snapshot has been received, and the log is not replaced yet.
    pub receipt_per_mille: u64,
    /// A part of a snapshot has been sent: what follows rots on the sender's disk.
    pub sending_per_mille: u64,
    /// A child has written its dump: it rots before it is taken over.
    pub dump_per_mille: u64,
    /// A turn after a server has gone on with its dataset: its feed is cut.
    pub feed_per_mille: u64,
}

/// Weights of the faults that are drawn one after the other; 0 = does not exist.
#[derive(Clone, Debug, Default)]
pub struct Weights {
    pub crash: u64,
    /// The process dies between two calls of a turn.
    pub crash_inside: u64,
    pub power_loss: u64,
    pub partition: u64,
    pub reconnect: u64,
    pub pause: u64,
    pub stall_main: u64,
    pub clock: u64,
    pub cut_feed: u64,
    pub cut_capture: u64,
    pub false_hint: u64,
    pub slow_disk: u64,
    pub disk_error: u64,
    pub disk_full: u64,
    /// Bit rot and lying writes, within what the atlas allows.
    pub damage: u64,
    pub reconfigure: u64,
    pub refuse_promotion: u64,
    pub transfer: u64,
    /// `RAFT.DEBUG COMPACT`.
    pub compact: u64,
    pub refuse_fork: u64,
    /// `RAFT.NODE REMOVE`; not where disks damage what they store.
    pub remove: u64,
    /// All nodes are shut down and started, one after the other.
    pub rolling_restart: u64,
    pub chain: u64,
    pub bridge: u64,
    pub half_open: u64,
    /// One file of the log is put back from a backup; a kind of damage.
    pub stale_segment: u64,
}

#[derive(Clone, Debug)]
pub struct Plan {
    /// Machines of the cluster that is there at the beginning.
    pub founders: usize,
    /// Machines that join later.
    pub joiners: usize,
    /// How long faults go on.
    pub fault_us: u64,
    pub network: NetworkPlan,
    pub weights: Weights,
    pub worst: WorstMoments,
    /// Mean time between two faults.
    pub fault_period_us: u64,
    pub election_timeout_ms: u64,
    pub request_timeout_ms: u64,
    pub max_inflight: u64,
    pub max_message_bytes: u64,
    pub segment_bytes: u64,
    pub direct_io: bool,
    /// A snapshot is due when the log has grown by so much.
    pub log_max_file_bytes: u64,
    pub snapshot_parts: u64,
    pub snapshot_part_bytes: u64,
    /// What a server's child takes for a dump.
    pub dump_us: u64,
    pub sync_us: u64,
    /// How fast the log is read to find what rots; 0: not at all.
    pub scrub_bytes_per_s: u64,
    pub backlog_bytes: usize,
    /// A master pings its replicas so often, also when it is about to become one.
    pub ping_period_us: u64,
    pub feed_kernel_bytes: usize,
    pub clients: usize,
    /// Clients that said `READONLY` and read at any node.
    pub readers: usize,
    pub think_us: u64,
    /// Requests that a client sends at once.
    pub pipeline: u64,
    /// Of a thousand registers written, so many expire.
    pub expiring_per_mille: u64,
    pub drift_ppm: u64,
    /// Reads are answered under a lease; no clock jumps then.
    pub read_lease: bool,
    /// Of a thousand starts of the first machine, so many are under another address.
    pub moving_per_mille: u64,
    /// Machines whose nodes keep their log in memory.
    pub in_memory: BTreeSet<Host>,
}

// Each of these has a stream of its own, so that seeds which do not have it go on as they did before it was there.
const READERS: u64 = 10;
const IN_MEMORY: u64 = 11;
const RESTARTS: u64 = 12;
const SHAPES: u64 = 13;
const SCRUB: u64 = 14;
const STALE: u64 = 15;
const WORST: u64 = 16;
const REGROUPING: u64 = 17;
const DUMP: u64 = 18;
const PINGS: u64 = 19;
const ISOLATION: u64 = 21;

impl Plan {
    pub fn draw(seed: u64) -> Plan {
        let random = &mut Random::new(seed, 1);
        let calm = random.chance(100);
        let request_timeout_ms = *random.pick(&[20, 50, 100]);
        let mut plan = Plan {
            founders: *random.pick(&[1, 3, 3, 3, 3, 5, 5, 7]),
            joiners: if random.chance(300) { random.between(1, 3) as usize } else { 0 },
            fault_us: random.between(8_000_000, 25_000_000),
            network: network(random, calm),
            weights: if calm { Weights::default() } else { weights(random) },
            worst: WorstMoments::default(),
            fault_period_us: *random.pick(&[100_000, 300_000, 1_000_000]),
            election_timeout_ms: request_timeout_ms * random.between(3, 10),
            request_timeout_ms,
            max_inflight: *random.pick(&[1, 2, 8, 64]),
            max_message_bytes: *random.pick(&[64, 1024, 1 << 20]),
            segment_bytes: *random.pick(&[8 << 10, 8 << 10, 16 << 10, 64 << 10]),
            direct_io: random.chance(500),
            log_max_file_bytes: *random.pick(&[3 << 10, 10 << 10, 10 << 10, 30 << 10, 1 << 40]),
            snapshot_parts: *random.pick(&[1, 2, 8, 32]),
            snapshot_part_bytes: *random.pick(&[128, 1 << 10, 64 << 10]),
            dump_us: *random.pick(&[500, 20_000, 300_000]),
            sync_us: *random.pick(&[50, 200, 1_000, 5_000]),
            scrub_bytes_per_s: 0,
            ping_period_us: 3_000_000,
            backlog_bytes: *random.pick(&[200, 4 << 10, 1 << 20]),
            feed_kernel_bytes: *random.pick(&[0, 300, 64 << 10]),
            clients: random.between(2, 8) as usize,
            readers: 0,
            think_us: *random.pick(&[5_000, 20_000, 60_000]),
            pipeline: *random.pick(&[1, 1, 2, 5]),
            expiring_per_mille: *random.pick(&[0, 0, 100, 400]),
            drift_ppm: *random.pick(&[0, 0, 10_000, 100_000]),
            moving_per_mille: *random.pick(&[0, 0, 0, 100]),
            read_lease: random.chance(300),
            in_memory: BTreeSet::new(),
        };
        if plan.weights.damage > 0 || plan.founders == 1 {
            plan.weights.remove = 0;
        }
        plan.draw_readers(&mut Random::new(seed, READERS));
        plan.draw_in_memory(&mut Random::new(seed, IN_MEMORY));
        if !calm {
            plan.weights.rolling_restart = some(&mut Random::new(seed, RESTARTS), 250);
            let shapes = &mut Random::new(seed, SHAPES);
            plan.weights.chain = some(shapes, 150);
            plan.weights.bridge = some(shapes, 150);
            plan.weights.half_open = some(shapes, 150);
            let stale_segment = some(&mut Random::new(seed, STALE), 400);
            plan.weights.stale_segment = if plan.weights.damage > 0 { stale_segment } else { 0 };
            plan.draw_worst_moments(&mut Random::new(seed, WORST));
            plan.draw_isolation(&mut Random::new(seed, ISOLATION));
            plan.draw_regrouping(&mut Random::new(seed, REGROUPING));
            if plan.may_rot_snapshots() {
                plan.worst.dump_per_mille = *Random::new(seed, DUMP).pick(&[0, 0, 0, 0, 200, 600]);
            }
        }
        plan.draw_pings(calm, &mut Random::new(seed, PINGS));
        plan.scrub_bytes_per_s = *Random::new(seed, SCRUB).pick(&[0, 50_000, 1_000_000]);
        plan
    }

    /// Not where disks damage what they store: then other nodes lose their vote as well.
    fn draw_in_memory(&mut self, random: &mut Random) {
        if !random.chance(200) {
            return;
        }
        let likely = *random.pick(&[300, 600, 1000]);
        let machines = 0..self.founders + self.joiners;
        self.in_memory = machines.filter(|_| random.chance(likely)).collect();
        if !self.in_memory.is_empty() && self.weights.reconnect > 0 {
            self.weights.damage = 0;
            self.weights.crash = self.weights.crash.max(random.between(1, 10));
        }
    }

    /// Not where nodes end for good, or are taken out: the atlas counts the founders.
    fn may_rot_snapshots(&self) -> bool {
        self.joiners == 0 && self.in_memory.is_empty() && self.weights.remove == 0
    }

    /// Who is cut off at each change must be connected again before the next.
    fn draw_worst_moments(&mut self, random: &mut Random) {
        let rots = self.may_rot_snapshots();
        let mut some = || *random.pick(&[0, 0, 0, 200, 600]);
        self.worst = WorstMoments {
            election_per_mille: some(),
            change_per_mille: some(),
            receipt_per_mille: some(),
            sending_per_mille: if rots { some() } else { 0 },
            ..WorstMoments::default()
        };
        if self.worst.election_per_mille + self.worst.change_per_mille > 0 {
            self.weights.reconnect = self.weights.reconnect.max(random.between(3, 10));
        }
    }

    /// Who is cut off so often must be connected again soon.
    fn draw_isolation(&mut self, random: &mut Random) {
        if random.chance(150) {
            self.worst.isolate_per_mille = 1;
            self.readers = self.readers.max(3);
            self.weights.reconnect = self.weights.reconnect.max(10);
        }
    }

    /// The worst of it needs an even number of voters: there are some who join.
    fn draw_regrouping(&mut self, random: &mut Random) {
        if self.worst.change_per_mille > 0 && self.weights.remove > 0 {
            self.worst.regroup_per_mille = *random.pick(&[500, 1000]);
            self.joiners = self.joiners.max(2);
        }
    }

    /// What a master sends while it becomes a replica counts where it goes on.
    fn draw_pings(&mut self, calm: bool, random: &mut Random) {
        self.ping_period_us = *random.pick(&[500, 3_000_000]);
        self.worst.feed_per_mille = if calm { 0 } else { *random.pick(&[0, 300]) };
    }

    fn draw_readers(&mut self, random: &mut Random) {
        self.readers = if random.chance(350) { random.between(1, 4) as usize } else { 0 };
    }
}

fn network(random: &mut Random, calm: bool) -> NetworkPlan {
    let delay_us = *random.pick(&[100, 300, 2_000]);
    if calm {
        return NetworkPlan { delay_us, ..NetworkPlan::default() };
    }
    let mut some = |values: &[u64]| if random.chance(500) { *random.pick(values) } else { 0 };
    NetworkPlan {
        delay_us,
        loss_per_mille: some(&[2, 20, 100]),
        duplication_per_mille: some(&[5, 50, 200]),
        reorders: some(&[1]) == 1,
        late_per_mille: some(&[1, 10, 50]),
        latest_us: 2_000_000,
        garbage_per_mille: some(&[1, 10]),
    }
}

/// The weight of a fault that so many of a thousand seeds have.
fn some(random: &mut Random, likely: u64) -> u64 {
    if random.chance(likely) {
        random.between(1, 10)
    } else {
        0
    }
}

fn weights(random: &mut Random) -> Weights {
    let mut some = |likely: u64| some(random, likely);
    Weights {
        crash: some(600),
        crash_inside: some(600),
        power_loss: some(500),
        partition: some(600),
        reconnect: 10,
        pause: some(400),
        stall_main: some(300),
        clock: some(300),
        cut_feed: some(400),
        cut_capture: some(400),
        false_hint: some(300),
        slow_disk: some(400),
        disk_error: some(300),
        disk_full: some(200),
        damage: some(300),
        reconfigure: some(200),
        refuse_promotion: some(100),
        transfer: some(400),
        compact: some(300),
        refuse_fork: some(300),
        remove: some(250),
        ..Weights::default()
    }
}
