//! The simulation: machines, their network and their clients, moved by one queue of events.

use crate::client::{Client, Workload};
use crate::coverage;
use crate::disk::Crash;
use crate::history::History;
use crate::judge::Judge;
use crate::machine::Machine;
use crate::network::{Host, Network};
use crate::plan::Plan;
use crate::process::{Ended, RaftEvent};
use crate::queue::Queue;
use crate::random::Random;
use crate::redis::dump::Child;
use crate::redis::{Delivery, Request};
use crate::restarts::Rolling;
use crate::trace;
use crate::worst::Worst;
use redisraft::consensus::{NodeId, Role};
use redisraft::log::LogError;
use redisraft::node::bridge::Answer;
use redisraft::node::kinds;
use redisraft::node::Fatal;
use redisraft::snapshot::SnapshotError;
use std::collections::BTreeMap;

/// What a write takes where it goes to memory.
const IN_MEMORY_US: u64 = 5;
/// More events than any seed needs: something goes round in circles.
const MAX_EVENTS: u64 = 5_000_000;
/// From a wake-up to the thread that it wakes.
const WAKE_US: u64 = 40;

#[derive(Debug)]
pub enum Event {
    /// On a link to the node `to_id`: the handshake refuses any other that runs there.
    Frame {
        to: Host,
        to_id: NodeId,
        from: NodeId,
        kind: u8,
        header: Vec<u8>,
        payload: Vec<u8>,
    },
    /// A hint from the links, for the process that lived when it was given.
    Hint {
        host: Host,
        life: u64,
        hint: RaftEvent,
    },
    RaftTurn {
        host: Host,
        life: u64,
    },
    MainTurn {
        host: Host,
        life: u64,
    },
    DiskDone {
        host: Host,
        life: u64,
        batch: u64,
    },
    SnapshotJobDone {
        host: Host,
        life: u64,
        node: NodeId,
    },
    /// The child that a server has forked has written its dump.
    ChildDone {
        host: Host,
        life: u64,
        child: Child,
    },
    Start {
        host: Host,
    },
    ToServer {
        host: Host,
        life: u64,
        connection: u64,
        requests: Vec<Request>,
    },
    ClientGone {
        host: Host,
        life: u64,
        connection: u64,
    },
    ToClient {
        client: usize,
        delivery: Delivery,
    },
    ClientActs {
        client: usize,
    },
    ClientTimeout {
        client: usize,
        connection: u64,
        request: u64,
    },
    Fault,
    Reconnect {
        one: Host,
        other: Host,
    },
    HalfOpenOver {
        from: Host,
        to: Host,
    },
    RollingRestart,
    SlowDiskOver {
        host: Host,
    },
    DiskFullOver {
        host: Host,
    },
    MatchLogs,
    Join {
        host: Host,
        life: u64,
    },
    Invite {
        to: Host,
        joiner: Host,
        life: u64,
    },
    Invited {
        joiner: Host,
        life: u64,
        answer: Answer,
    },
    Audit,
}

fn clients(plan: &Plan) -> Vec<Client> {
    let readers = (0..plan.readers).map(|_| Client::reader());
    (0..plan.clients).map(|_| Client::new()).chain(readers).collect()
}

pub struct Simulation {
    pub plan: Plan,
    pub queue: Queue<Event>,
    pub machines: Vec<Machine>,
    pub network: Network,
    pub judge: Judge,
    pub history: History,
    pub clients: Vec<Client>,
    pub workload: Workload,
    /// Connections to servers: machine, life and client of each.
    pub connections: BTreeMap<u64, (Host, u64, usize)>,
    pub connections_made: u64,
    /// Chance for events, faults and clients.
    pub random: Random,
    pub faults: Random,
    pub asking: Random,
    pub worst: Worst,
    /// The rolling restart under way.
    pub rolling: Option<Rolling>,
    /// Faults are over: the cluster has to converge.
    pub healed: bool,
    /// Clients ask for nothing new.
    pub quiet: bool,
    /// Bundles that still have to be read at the end.
    pub to_audit: Vec<u32>,
    pub audit_from_us: u64,
    pub fingerprint: u64,
}

impl Simulation {
    pub fn new(seed: u64) -> Simulation {
        let plan = Plan::draw(seed);
        let queue = Queue::new();
        let machines =
            (0..plan.founders + plan.joiners).map(|host| Machine::new(seed, host, &plan)).collect();
        let mut simulation = Simulation {
            network: Network::new(plan.network.clone(), Random::new(seed, 2)),
            queue,
            machines,
            judge: Judge::default(),
            history: History::default(),
            clients: clients(&plan),
            workload: Workload::new(plan.expiring_per_mille),
            connections: BTreeMap::new(),
            connections_made: 0,
            random: Random::new(seed, 3),
            faults: Random::new(seed, 4),
            asking: Random::new(seed, 5),
            worst: Worst::new(seed),
            rolling: None,
            healed: false,
            quiet: false,
            to_audit: Vec::new(),
            audit_from_us: 0,
            fingerprint: 0,
            plan,
        };
        simulation.found_cluster();
        for host in 0..simulation.machines.len() {
            simulation.queue.at(0, Event::Start { host });
        }
        for client in 0..simulation.clients.len() {
            simulation.queue.at(1000 * client as u64, Event::ClientActs { client });
        }
        simulation.queue.at(500_000, Event::Fault);
        simulation.queue.at(1_000_000, Event::MatchLogs);
        simulation
    }

    pub fn now_us(&self) -> u64 {
        self.queue.now_us()
    }

    /// Lets everything happen up to `end_us`, or until `enough`.
    pub fn run_until(&mut self, end_us: u64, enough: impl Fn(&Simulation) -> bool) {
        while !enough(self) {
            let Some(event) = self.queue.next(end_us) else { return };
            assert!(
                self.queue.scheduled() < MAX_EVENTS,
                "{MAX_EVENTS} events: something goes round in circles"
            );
            trace::set_time(self.queue.now_us());
            self.dispatch(event);
        }
    }

    fn dispatch(&mut self, event: Event) {
        match event {
            Event::Frame { to, to_id, from, kind, header, payload } => {
                let event = RaftEvent::Frame { to: to_id, from, kind, header, payload: payload.into() };
                let life = self.machines[to].life;
                self.give_raft(to, life, event);
            }
            Event::Hint { host, life, hint } => {
                let machine = &self.machines[host];
                let Some(process) = machine.process.as_ref().filter(|process| process.life == life) else {
                    return;
                };
                let hint = match hint {
                    RaftEvent::PeerUp { id } => {
                        let Some((_, address)) = process.world.peers.iter().find(|(peer, _)| *peer == id)
                        else {
                            return; // it is not dialled
                        };
                        match self.found_at(id, address) {
                            Some(_) => hint,
                            // Whoever runs there now refuses the handshake.
                            None => RaftEvent::PeerUnreachable { id },
                        }
                    }
                    other => other,
                };
                self.give_raft(host, life, hint);
            }
            Event::RaftTurn { host, life } => self.raft_turn(host, life),
            Event::MainTurn { host, life } => self.main_turn(host, life),
            Event::DiskDone { host, life, batch } => self.disk_done(host, life, batch),
            Event::SnapshotJobDone { host, life, node } => self.snapshot_job_done(host, life, node),
            Event::ChildDone { host, life, child } => self.child_done(host, life, child),
            Event::Start { host } => self.start(host),
            Event::ToServer { host, life, connection, requests } => {
                self.reach_server(host, life, connection, requests)
            }
            Event::ClientGone { host, life, connection } => self.client_gone(host, life, connection),
            Event::ToClient { client, delivery } => self.reach_client(client, delivery),
            Event::ClientActs { client } => self.client_acts(client),
            Event::ClientTimeout { client, connection, request } => {
                self.client_timeout(client, connection, request)
            }
            Event::Fault => self.fault(),
            Event::Reconnect { one, other } => self.hint_up(one, other),
            Event::HalfOpenOver { from, to } => self.half_open_over(from, to),
            Event::RollingRestart => self.go_on_restarting(),
            Event::SlowDiskOver { host } => self.machines[host].slow_sync_us = 0,
            Event::DiskFullOver { host } => self.machines[host].disk.set_full(false),
            Event::MatchLogs => self.match_logs(),
            Event::Join { host, life } => self.join(host, life),
            Event::Invite { to, joiner, life } => self.invite(to, joiner, life),
            Event::Invited { joiner, life, answer } => self.invited(joiner, life, answer),
            Event::Audit => self.audit(),
        }
    }

    /// Notes something in the history of the seed: two runs of it must note the same.
    pub fn note(&mut self, what: u64) {
        let mixed = self.fingerprint ^ what ^ self.now_us().rotate_left(32);
        self.fingerprint = mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    }

    fn give_raft(&mut self, host: Host, life: u64, event: RaftEvent) {
        if let Some(process) = self.machines[host].process_of(life) {
            process.inbox.push_back(event);
            self.plan_turns(host);
        }
    }

    /// Sees to it that each thread of a machine has its next turn.
    pub fn plan_turns(&mut self, host: Host) {
        let now_us = self.now_us();
        let machine = &mut self.machines[host];
        let Some(process) = &machine.process else { return };
        let life = machine.life;
        let wake_us = now_us + 1 + self.random.below(WAKE_US);
        let raft_us = match process.raft_has_work() || process.world.wake_raft.is_set() {
            true => wake_us,
            false => machine.clock.true_us(process.node.as_ref().map_or(u64::MAX, |node| node.deadline_us())),
        };
        let main_us = match process.main_has_work() || process.world.wake_main.is_set() {
            true => wake_us,
            false => machine.clock.true_us(process.server.deadline_us()),
        };
        let (raft_us, main_us) = (
            raft_us.max(machine.paused_until_us),
            main_us.max(machine.paused_until_us).max(machine.stalled_until_us),
        );
        if raft_us < machine.raft_at_us {
            machine.raft_at_us = raft_us.max(now_us);
            self.queue.at(raft_us, Event::RaftTurn { host, life });
        }
        if main_us < machine.main_at_us {
            machine.main_at_us = main_us.max(now_us);
            self.queue.at(main_us, Event::MainTurn { host, life });
        }
    }

    fn raft_turn(&mut self, host: Host, life: u64) {
        let now_us = self.now_us();
        let machine = &mut self.machines[host];
        if machine.life != life || machine.raft_at_us != now_us || machine.process.is_none() {
            return; // another turn was planned in its place
        }
        machine.raft_at_us = u64::MAX;
        if now_us < machine.paused_until_us {
            return self.plan_turns(host);
        }
        trace::set_machine(host);
        let local_us = machine.clock.local_us(now_us);
        let connected = self.connected(host);
        let process = self.machines[host].process.as_mut().expect("checked above");
        process.world.connected = connected;
        process.world.wake_raft.take();
        let ended = process.raft_turn(local_us);
        match ended {
            Ended::No { look_again } => {
                self.observe(host);
                self.use_worst_moment(host);
                self.flush(host);
                self.retire_if_removed(host);
                if look_again {
                    self.machines[host].process.as_ref().expect("goes on").world.wake_raft.set();
                }
                self.plan_turns(host);
            }
            Ended::Dead => {
                coverage::mark("crashed inside a turn");
                self.observe_commits(host);
                self.send_frames(host);
                self.crash(host);
            }
            Ended::Fatal(fatal) => {
                self.observe_commits(host);
                self.send_frames(host);
                self.fatal(host, fatal);
            }
        }
    }

    /// The machine of a node, if it is at this address.
    fn found_at(&self, id: NodeId, peer_address: &str) -> Option<Host> {
        let is_there =
            |machine: &Machine| machine.node_id() == Some(id) && machine.names.peer_address == peer_address;
        self.machines.iter().position(is_there)
    }

    /// The nodes that can be reached from a machine.
    fn connected(&self, host: Host) -> Vec<NodeId> {
        let others = (0..self.machines.len()).filter(|other| *other != host);
        let reached = others.filter(|other| !self.network.is_cut(host, *other));
        reached.filter_map(|other| self.machines[other].node_id()).collect()
    }

    fn observe(&mut self, host: Host) {
        let machine = &mut self.machines[host];
        let process = machine.process.as_mut().expect("it had a turn");
        if let Some(node) = &process.node {
            self.judge.observe(node, process.world.store(), machine.may_be_damaged, &mut process.judged);
            let what = node.raft().commit() << 20 ^ node.raft().term() << 4 ^ node.raft().role() as u64;
            self.note(what ^ (host as u64) << 56);
        }
    }

    fn observe_commits(&mut self, host: Host) {
        let machine = &mut self.machines[host];
        let process = machine.process.as_mut().expect("it had a turn");
        if let (Some(node), Some(store)) = (&process.node, &process.world.store) {
            self.judge.observe_commits(node, store, machine.may_be_damaged, &mut process.judged);
        }
    }

    /// Sends what was queued, then lets the disk begin with what was queued for it.
    fn flush(&mut self, host: Host) {
        self.send_frames(host);
        let process = self.machines[host].process.as_mut().expect("it had a turn");
        for id in std::mem::take(&mut process.world.dialled) {
            if let Some(peer) = self.machines.iter().position(|machine| machine.node_id() == Some(id)) {
                self.link_up(host, peer);
            }
        }
        self.start_writing(host);
        self.start_snapshot_job(host);
    }

    fn start_writing(&mut self, host: Host) {
        let now_us = self.now_us();
        let machine = &mut self.machines[host];
        let life = machine.life;
        let local_us = machine.clock.local_us(now_us);
        let process = machine.process.as_mut().expect("it had a turn");
        let Some(store) = &mut process.world.store else { return };
        let begun = store.start_writing(local_us);
        if let Some(error) = store.scrub_failure().filter(|_| !machine.may_be_damaged) {
            panic!("machine {host} is sound, and its scrubber says: {error}");
        }
        if begun {
            let sync_us = match self.healed {
                _ if machine.in_memory => IN_MEMORY_US,
                true => self.plan.sync_us,
                false => self.faults.long_tailed(self.plan.sync_us) + machine.slow_sync_us,
            };
            let batch = store.batch().expect("it has begun");
            self.queue.after(sync_us.max(1), Event::DiskDone { host, life, batch });
        }
    }

    fn disk_done(&mut self, host: Host, life: u64, batch: u64) {
        let now_us = self.now_us();
        let paused_until_us = self.machines[host].paused_until_us;
        let Some(process) = self.machines[host].process_of(life) else { return };
        if now_us < paused_until_us {
            return self.queue.at(paused_until_us, Event::DiskDone { host, life, batch });
        }
        trace::set_machine(host);
        let Some(store) = &mut process.world.store else { return };
        if store.batch() != Some(batch) {
            return; // was waited for, before the log was replaced
        }
        store.done();
        process.world.wake_raft.set();
        self.start_writing(host);
        self.plan_turns(host);
    }

    fn send_frames(&mut self, host: Host) {
        let now_us = self.now_us();
        let Some(process) = &mut self.machines[host].process else { return };
        let Some(from) = process.node.as_ref().map(|node| node.id()) else { return };
        let peers = process.world.peers.clone();
        let sent = std::mem::take(&mut process.world.sent);
        let sends_snapshot = sent.iter().any(|(_, frame)| frame.kind == kinds::PART);
        for (to_id, frame) in sent {
            // Frames leave only on links that were dialled.
            let Some((_, address)) = peers.iter().find(|(id, _)| *id == to_id) else { continue };
            let Some(to) = self.found_at(to_id, address) else { continue };
            for at_us in self.network.arrivals(host, to, now_us) {
                let (mut kind, mut header) = (frame.kind, frame.header.clone());
                let mut payload = frame.payloads.concat();
                self.network.garble(&mut kind, &mut header, &mut payload);
                self.queue.at(at_us, Event::Frame { to, to_id, from, kind, header, payload });
            }
        }
        if sends_snapshot {
            self.rot_while_sending(host);
        }
    }

    fn main_turn(&mut self, host: Host, life: u64) {
        let now_us = self.now_us();
        let machine = &mut self.machines[host];
        if machine.life != life || machine.main_at_us != now_us || machine.process.is_none() {
            return;
        }
        machine.main_at_us = u64::MAX;
        if now_us < machine.paused_until_us.max(machine.stalled_until_us) {
            return self.plan_turns(host);
        }
        trace::set_machine(host);
        let local_us = machine.clock.local_us(now_us);
        let wall_ms = now_us / 1000 + machine.wall_skew_ms;
        let process = machine.process.as_mut().expect("checked above");
        let outcome = process.main_turn(local_us, wall_ms, &mut self.random);
        let node = process.node.as_ref().map_or(0, |node| node.id());
        for applied in outcome.applied {
            self.judge.applied(node, applied);
            self.note(applied.digest);
        }
        for delivery in outcome.deliveries {
            self.deliver(host, delivery);
        }
        if let Some(child) = outcome.child {
            self.forked(host, child);
        }
        self.plan_turns(host);
    }

    /// A node cannot go on. That is right after a fault of its disk, and a defect otherwise.
    fn fatal(&mut self, host: Host, fatal: Fatal) {
        log::info!("stops: {fatal}");
        let machine = &self.machines[host];
        let expected = match &fatal {
            Fatal::Log(LogError::Io { .. }) | Fatal::Snapshot(SnapshotError::Io { .. }) => true,
            Fatal::Snapshot(_) | Fatal::SnapshotDamaged { .. } | Fatal::Log(_) => machine.may_be_damaged,
            Fatal::Promotion(_) => true,
            Fatal::Unhealable { .. } | Fatal::CutAlone { .. } => machine.may_be_damaged,
            Fatal::Capture(_) | Fatal::Entry(_) | Fatal::Start(_) => false,
        };
        assert!(expected, "machine {host} stops without a fault: {fatal}");
        assert!(!machine.in_memory, "machine {host} stops, and nothing has failed there: {fatal}");
        coverage::mark("stopped by its disk");
        self.crash_as(host, Crash::Process);
    }

    fn match_logs(&mut self) {
        let stores: Vec<_> = self
            .machines
            .iter()
            .filter_map(|machine| Some((machine.node_id()?, machine.process.as_ref()?.world.store.as_ref()?)))
            .collect();
        self.judge.match_logs(&stores);
        self.queue.after(1_000_000, Event::MatchLogs);
    }

    /// The machine whose node leads in the latest term.
    pub fn leader(&self) -> Option<Host> {
        let leads = |machine: &Machine| {
            let raft = machine.process.as_ref()?.node.as_ref()?.raft();
            (raft.role() == Role::Leader).then(|| raft.term())
        };
        let hosts = (0..self.machines.len()).filter_map(|host| Some((leads(&self.machines[host])?, host)));
        hosts.max().map(|(_, host)| host)
    }
}
