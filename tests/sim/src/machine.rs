//! One machine: its disk and its clock outlive the processes on it.

use crate::clock::Clock;
use crate::coverage;
use crate::disk::{Crash, SimDisk};
use crate::network::Host;
use crate::plan::Plan;
use crate::process::{Names, Process, RaftEvent};
use crate::random::Random;
use crate::redis::{Dataset, Server};
use crate::simulation::{Event, Simulation};
use crate::snapshots::Worker;
use crate::store::{Promise, Store, DIRECTORY};
use crate::world::SimWorld;
use bytes::Bytes;
use redisraft::consensus::{Membership, NodeId};
use redisraft::log::{Entry, HardState, Identity, Kind, LogError, Options, Recovery, WriteRequest};
use redisraft::node::bridge::Ticket;
use redisraft::node::members::{Member, Members};
use redisraft::node::runtime;
use redisraft::node::settings::Settings;
use redisraft::node::Fatal;
use redisraft::snapshot::{About, SnapshotError};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

pub struct Machine {
    pub names: Names,
    pub disk: SimDisk,
    pub clock: Clock,
    /// What the wall clock shows more than the true time.
    pub wall_skew_ms: u64,
    /// Counts the processes so far.
    pub life: u64,
    pub process: Option<Process>,
    pub settings: Arc<Settings>,
    /// When the next turn of each thread is planned.
    pub raft_at_us: u64,
    pub main_at_us: u64,
    /// When it asks for an invitation.
    pub join_at_us: u64,
    pub paused_until_us: u64,
    pub stalled_until_us: u64,
    /// What each sync takes longer, for now.
    pub slow_sync_us: u64,
    /// The atlas has this machine among those whose disk may damage what it stores.
    pub may_be_damaged: bool,
    /// It refused to start: what it stores is damaged.
    pub refused: bool,
    /// The process that comes up next dies while it recovers.
    pub crash_in_recovery: bool,
    pub promise: Option<Promise>,
    /// A segment of its log as it once was.
    pub backup: Option<(String, Vec<u8>)>,
    /// Entry of the newest snapshot that was durable.
    pub snapshot_index: u64,
    /// The node that runs here, or ran here last; 0: none.
    pub last_id: NodeId,
    /// Its node keeps its log in memory: what lies on the disk goes with the process.
    pub in_memory: bool,
    /// The members that its last node knew.
    pub membership: Membership,
    /// How often it got another address.
    pub moves: u64,
    /// Removals that were asked for here.
    pub removals: BTreeMap<Ticket, NodeId>,
    /// What an RDB would bring back.
    stale: Option<(Dataset, String, u64)>,
    /// Who asked for an invitation here.
    pub tickets: BTreeMap<Ticket, (Host, u64)>,
    /// Transfers that were asked for here.
    pub transfers: BTreeSet<Ticket>,
    random: Random,
}

/// Cluster and secret of all simulations.
pub const CLUSTER_ID: &str = "cccccccccccccccccccccccccccccccc";

fn settings(plan: &Plan, id: NodeId) -> Settings {
    Settings {
        id,
        election_timeout_ms: plan.election_timeout_ms,
        request_timeout_ms: plan.request_timeout_ms,
        append_req_max_count: plan.max_inflight,
        append_req_max_bytes: plan.max_message_bytes,
        log_max_file_bytes: plan.log_max_file_bytes,
        read_lease: plan.read_lease,
        snapshot_req_max_count: plan.snapshot_parts,
        snapshot_req_max_bytes: plan.snapshot_part_bytes,
        log_scrub_bytes_per_s: plan.scrub_bytes_per_s,
        ..Settings::default()
    }
}

impl Machine {
    pub fn new(seed: u64, host: Host, plan: &Plan) -> Machine {
        let mut random = Random::new(seed, 100 + host as u64);
        let rate_ppm = 1_000_000 + random.below(2 * plan.drift_ppm + 1) - plan.drift_ppm;
        let id = if host < plan.founders { host as u64 + 1 } else { 0 };
        Machine {
            names: Names { address: format!("n{host}:5000"), peer_address: format!("n{host}:15000") },
            disk: SimDisk::new(Random::new(seed, 200 + host as u64)),
            clock: Clock::new(random.below(1 << 40), rate_ppm),
            wall_skew_ms: random.below(2_000),
            life: 0,
            process: None,
            settings: Arc::new(Settings { persist: !plan.in_memory.contains(&host), ..settings(plan, id) }),
            raft_at_us: u64::MAX,
            main_at_us: u64::MAX,
            join_at_us: u64::MAX,
            paused_until_us: 0,
            stalled_until_us: 0,
            slow_sync_us: 0,
            may_be_damaged: false,
            refused: false,
            crash_in_recovery: false,
            promise: None,
            backup: None,
            snapshot_index: 0,
            last_id: id,
            in_memory: plan.in_memory.contains(&host),
            membership: Membership::default(),
            moves: 0,
            removals: BTreeMap::new(),
            stale: None,
            tickets: BTreeMap::new(),
            transfers: BTreeSet::new(),
            random,
        }
    }

    /// The process of this life, if it still lives.
    pub fn process_of(&mut self, life: u64) -> Option<&mut Process> {
        self.process.as_mut().filter(|process| process.life == life)
    }

    /// The node that runs here.
    pub fn node_id(&self) -> Option<NodeId> {
        self.process.as_ref()?.node.as_ref().map(|node| node.id())
    }

    fn options(plan: &Plan) -> Options {
        Options { segment_bytes: plan.segment_bytes, direct_io: plan.direct_io, ..Options::default() }
    }

    fn member(&self) -> Member {
        Member {
            voting: true,
            address: self.names.address.clone(),
            peer_address: self.names.peer_address.clone(),
            in_memory: self.in_memory,
        }
    }

    /// Makes the log of a node of the cluster; `first`: its first entry, if it is there from the beginning.
    pub fn create_log(&mut self, plan: &Plan, id: NodeId, first: Option<Entry>) -> Result<Store, LogError> {
        let identity = Identity { cluster_id: CLUSTER_ID.into(), node_id: id, secret: [7; 32] };
        let mut store = Store::create(&self.disk, identity, Machine::options(plan))?;
        if let Some(first) = first {
            let hard_state = Some(HardState { term: 1, vote: None });
            store.write_through(WriteRequest {
                id: 1,
                hard_state,
                entries: vec![first],
                ..Default::default()
            })?;
        }
        Ok(store)
    }

    /// The disk is a new one, and nothing was promised.
    pub fn wipe(&mut self) {
        self.disk.wipe();
        self.promise = None;
        self.backup = None;
        self.snapshot_index = 0;
    }

    /// The snapshot store beside a log that was just made.
    pub fn create_snapshots(&self, store: &mut Store) -> Result<Worker, Fatal> {
        let disk = Arc::new(self.disk.clone());
        let (snapshots, anew) = runtime::beside(disk, Path::new(DIRECTORY), store.log_mut())?;
        assert!(anew.is_none(), "a new log has no snapshot");
        Ok(Worker::new(snapshots, self.disk.clone()))
    }

    /// A new process with nothing but a server.
    fn new_process(&mut self, plan: &Plan, now_us: u64, store: Option<Store>) -> Process {
        self.life += 1;
        let random = Random::new(self.random.draw(), 1);
        let feed_token = format!("token{:016x}", self.random.draw()).into_bytes();
        let local_us = self.clock.local_us(now_us);
        let stale = self.stale.take();
        let server = Server::new(local_us, feed_token.clone(), plan, &mut self.random, stale);
        let mut world = SimWorld::new(random, store, plan.feed_kernel_bytes);
        let may_crash = plan.weights.crash_inside > 0 && !self.in_memory;
        world.crash_replacing_per_mille = if may_crash { 400 } else { 0 };
        Process::new(self.life, world, server, self.settings.clone(), feed_token)
    }

    /// Opens the log and the snapshots beside it, and makes both fit, as the runtime does. Nothing has settled on return.
    fn open(&mut self, plan: &Plan) -> Result<Opened, Fatal> {
        let (mut store, recovery) = Store::open(&self.disk, Machine::options(plan))?;
        log::info!("{recovery}");
        note_recovery(&recovery, &store);
        if store.last_index() == 0 {
            return Ok(Opened::Unfinished(store));
        }
        let disk = Arc::new(self.disk.clone());
        let (snapshots, anew) = runtime::beside(disk, Path::new(DIRECTORY), store.log_mut())?;
        if let Some(base) = anew {
            coverage::mark("interrupted installation finished");
            if let Some(promise) = &mut self.promise {
                promise.cutting = true;
            }
            let (disk, options) = store.close();
            redisraft::log::replace(&disk, Path::new(DIRECTORY), base, options.segment_bytes)?;
            (store, _) = Store::open(&disk, options)?;
        }
        Ok(Opened::Log(store, Box::new(Worker::new(snapshots, self.disk.clone()))))
    }

    /// What was promised is there.
    fn keeps_promises(&self, store: &Store, snapshot: Option<&About>) -> Result<(), String> {
        let index = snapshot.map_or(0, |about| about.id.index);
        if index < self.snapshot_index {
            return Err(format!(
                "the snapshot of entry {} was durable, {index} came back",
                self.snapshot_index
            ));
        }
        self.promise.as_ref().map_or(Ok(()), |promise| store.keeps(promise))
    }

    fn forget(&mut self) {
        self.raft_at_us = u64::MAX;
        self.main_at_us = u64::MAX;
        self.tickets.clear();
        self.transfers.clear();
        self.removals.clear();
    }
}

/// What a start finds.
enum Opened {
    Log(Store, Box<Worker>),
    /// A log without an entry.
    Unfinished(Store),
}

fn note_recovery(recovery: &Recovery, store: &Store) {
    let marks = [
        (recovery.torn.is_some(), "torn tail dropped"),
        (!recovery.rebuilt_indexes.is_empty(), "index file made anew"),
        (recovery.damaged_meta_copies > 0, "copy of META made anew"),
        (!store.holes().is_empty(), "started with holes"),
    ];
    marks.into_iter().filter(|(seen, _)| *seen).for_each(|(_, name)| coverage::mark(name));
}

impl Simulation {
    /// The logs of a cluster as it is after its first hour, without the hour.
    pub fn found_cluster(&mut self) {
        let founders = &self.machines[..self.plan.founders];
        let members = Members((1..).zip(founders.iter().map(Machine::member)).collect());
        for host in 0..self.plan.founders {
            let first = Entry::new(1, 1, Kind::Membership, Bytes::from(members.encode()));
            let machine = &mut self.machines[host];
            let store = machine.create_log(&self.plan, host as u64 + 1, Some(first)).expect("a sound disk");
            machine.promise = Some(store.crash(Crash::Process));
        }
    }

    /// A process starts on this machine.
    pub fn start(&mut self, host: Host) {
        let now_us = self.now_us();
        let machine = &mut self.machines[host];
        if machine.process.is_some() || machine.refused {
            return;
        }
        crate::trace::set_machine(host);
        // A majority stays where it was known: by that those find each other that have moved.
        let may_move = host < (self.plan.founders - 1).max(1).div_ceil(2) && !machine.in_memory;
        let moves = machine.life > 0 && may_move;
        if moves && machine.random.chance(self.plan.moving_per_mille) {
            self.move_machine(host);
        }
        let machine = &mut self.machines[host];
        let opened = match Store::exists(&machine.disk) {
            false => None,
            true => match machine.open(&self.plan) {
                Ok(opened) => Some(opened),
                Err(error) => return self.start_failed(host, &error),
            },
        };
        if std::mem::take(&mut machine.crash_in_recovery) {
            coverage::mark("crashed while recovering");
            drop(opened);
            machine.disk.crash(if machine.random.chance(500) { Crash::Power } else { Crash::Process });
            self.queue.after(50_000, Event::Start { host });
            return;
        }
        machine.disk.settle();
        // A node that was stopped before the first entry came has promised nothing, and joins anew.
        let (store, snapshots) = match opened {
            Some(Opened::Log(store, snapshots)) => {
                if let (Err(broken), false) =
                    (machine.keeps_promises(&store, snapshots.durable()), machine.may_be_damaged)
                {
                    panic!("machine {host} forgot what was on its disk: {broken}");
                }
                (Some(store), Some(*snapshots))
            }
            Some(Opened::Unfinished(store)) => {
                coverage::mark("unfinished join set aside");
                drop(store);
                machine.wipe();
                (None, None)
            }
            None => (None, None),
        };
        let has_log = store.is_some();
        let mut process = machine.new_process(&self.plan, now_us, store);
        process.world.now_us = machine.clock.local_us(now_us);
        process.world.snapshots = snapshots;
        let seed = machine.random.draw();
        if has_log {
            if let Err(fatal) = process.start_node(seed, &machine.names) {
                drop(process);
                return self.start_failed(host, &fatal);
            }
        }
        machine.process = Some(process);
        if has_log {
            self.announce(host);
        } else {
            // Links to the node that was here find that it is not any more.
            (0..self.machines.len()).filter(|peer| *peer != host).for_each(|peer| self.link_up(peer, host));
            let life = self.machines[host].life;
            self.join_after(10_000, host, life);
        }
        self.start_snapshot_job(host);
        self.plan_turns(host);
    }

    fn start_failed(&mut self, host: Host, error: &Fatal) {
        log::info!("does not start: {error}");
        let machine = &mut self.machines[host];
        machine.disk.crash(Crash::Process);
        match error {
            Fatal::Log(LogError::Io { .. }) | Fatal::Snapshot(SnapshotError::Io { .. }) => {
                coverage::mark("start failed by its disk");
                self.queue.after(100_000, Event::Start { host });
            }
            _ => {
                assert!(machine.may_be_damaged, "machine {host} refuses its log without a fault: {error}");
                coverage::mark("damaged log refused");
                machine.refused = true;
            }
        }
    }

    /// The process of this machine dies, as the plan's crashes go.
    pub fn crash(&mut self, host: Host) {
        let weights = &self.plan.weights;
        let power = self.faults.below(weights.power_loss + weights.crash.max(1)) < weights.power_loss;
        self.crash_as(host, if power { Crash::Power } else { Crash::Process });
    }

    pub fn crash_as(&mut self, host: Host, crash: Crash) {
        let now_us = self.now_us();
        if !self.atlas_allows_end(host) {
            return;
        }
        let machine = &mut self.machines[host];
        let Some(process) = machine.process.take() else { return };
        log::info!("machine {host} crashes: {crash:?}");
        if crash == Crash::Power {
            coverage::mark("loss of power");
        }
        machine.forget();
        let Process { world, server, node, .. } = process;
        if let Some(node) = &node {
            machine.membership = node.raft().membership().clone();
        }
        if machine.random.chance(200) {
            let (replid, offset) = server.position();
            machine.stale = Some((server.dataset, replid, offset));
        }
        if let Some(id) = world.snapshots.and_then(Worker::crash) {
            machine.snapshot_index = id.index;
        }
        match world.store {
            Some(store) => machine.promise = Some(store.crash(crash)),
            None => {
                machine.promise = world.replacing.or(machine.promise);
                machine.disk.crash(crash);
            }
        }
        if machine.in_memory {
            machine.forget_node(node.is_some());
        }
        machine.paused_until_us = 0;
        machine.stalled_until_us = 0;
        self.connections_broken(host);
        for peer in (0..self.machines.len()).filter(|peer| *peer != host) {
            if crash == Crash::Process && !self.network.is_cut(host, peer) && self.faults.chance(800) {
                self.hint_down(peer, host);
            }
        }
        let down_us = match self.healed {
            true => 10_000,
            false => self.faults.long_tailed(*self.faults.clone().pick(&[1_000, 100_000, 1_000_000])),
        };
        self.queue.at(now_us + down_us, Event::Start { host });
    }

    /// `host` learns that the process on `peer` is gone.
    pub fn hint_down(&mut self, host: Host, peer: Host) {
        let Some(id) = self.known_id(peer) else { return };
        let life = self.machines[host].life;
        let delay_us = self.faults.below(20_000);
        self.queue.after(delay_us, Event::Hint { host, life, hint: RaftEvent::PeerUnreachable { id } });
    }

    /// Links between these two are there again, if both run.
    pub fn hint_up(&mut self, one: Host, other: Host) {
        self.link_up(one, other);
        self.link_up(other, one);
    }

    /// The link that `host` has dialled to `peer` takes frames.
    pub fn link_up(&mut self, host: Host, peer: Host) {
        let running = self.machines[peer].process.is_some() && !self.network.is_cut(host, peer);
        let Some(id) = self.known_id(peer).filter(|_| running) else { return };
        let life = self.machines[host].life;
        self.queue.after(1_000, Event::Hint { host, life, hint: RaftEvent::PeerUp { id } });
    }

    fn announce(&mut self, host: Host) {
        for peer in (0..self.machines.len()).filter(|peer| *peer != host) {
            self.hint_up(host, peer);
        }
    }

    /// The id of the node on a machine, running or not.
    fn known_id(&self, host: Host) -> Option<NodeId> {
        Some(self.machines[host].last_id).filter(|id| *id > 0)
    }
}
