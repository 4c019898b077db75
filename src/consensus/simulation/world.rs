//! The simulated machines: time, network, disks, processes.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::super::random::Random;
use super::super::*;
use super::clock::Clock;
use super::disk::{membership_at, position_of, replace_tail, DiskImage, PendingWrite, Stored};
use super::faults::Faults;
use super::judge::Judge;

pub(super) struct Machine {
    /// None while the process is down.
    pub(super) raft: Option<Raft>,
    /// Tells the events of a former process from those of the present one.
    pub(super) life: u64,
    pub(super) disk: DiskImage,
    pub(super) pending: VecDeque<PendingWrite>,
    /// The driver's log: what was handed to the disk, durable or not.
    pub(super) log: Vec<Stored>,
    /// The holes in it.
    pub(super) holes: BTreeSet<Index>,
    pub(super) commit: Index,
    pub(super) disk_free_us: u64,
    pub(super) next_tick_us: u64,
    pub(super) clock: Clock,
    /// What this node asks voters to promise, when it leads.
    pub(super) lease_us: u64,
}

pub(super) enum Event {
    Deliver {
        to: NodeId,
        from: NodeId,
        message: Message,
        payloads: Vec<u64>,
    },
    DiskDone {
        id: NodeId,
        life: u64,
        write: WriteId,
    },
    Tick {
        id: NodeId,
        life: u64,
    },
    /// A snapshot of the first entries arrives.
    Install {
        to: NodeId,
        entries: Vec<Stored>,
    },
    Heal {
        id: NodeId,
        life: u64,
    },
    Client,
    Fault,
}

pub(super) struct World {
    pub(super) now_us: u64,
    pub(super) random: Random,
    pub(super) faults: Faults,
    pub(super) seed: u64,
    pub(super) machines: BTreeMap<NodeId, Machine>,
    pub(super) events: BTreeMap<(u64, u64), Event>,
    pub(super) sequence: u64,
    /// Directed links that lose everything.
    pub(super) cut: BTreeSet<(NodeId, NodeId)>,
    pub(super) judge: Judge,
    pub compactions: u64,
    pub installations: u64,
    /// Reads that a lease answered.
    pub reads_by_lease: u64,
    pub(super) next_payload: u64,
    pub(super) next_read: u64,
    pub(super) fingerprint: u64,
}

pub(super) const NODES: NodeId = 5;
pub(super) const ELECTION_TIMEOUT_US: u64 = 100_000;
const HEARTBEAT_US: u64 = 20_000;

impl World {
    pub fn new(seed: u64, faults: Faults) -> World {
        let random = Random::new(seed, 0);
        let mut world = World {
            now_us: 0,
            random,
            faults,
            seed,
            machines: BTreeMap::new(),
            events: BTreeMap::new(),
            sequence: 0,
            cut: BTreeSet::new(),
            judge: Judge::default(),
            compactions: 0,
            installations: 0,
            reads_by_lease: 0,
            next_payload: 1,
            next_read: 1,
            fingerprint: 0,
        };
        for id in 1..=NODES {
            let machine = Machine {
                raft: None,
                life: 0,
                disk: DiskImage::default(),
                pending: VecDeque::new(),
                log: Vec::new(),
                holes: BTreeSet::new(),
                commit: 0,
                disk_free_us: 0,
                next_tick_us: u64::MAX,
                clock: if faults.leases { Clock::drawn(&mut world.random) } else { Clock::true_one() },
                lease_us: if faults.leases { ELECTION_TIMEOUT_US } else { 0 },
            };
            world.machines.insert(id, machine);
            world.start(id);
        }
        world.schedule(0, Event::Client);
        world.schedule(200_000, Event::Fault);
        world
    }

    /// Three voters from the start; the other nodes know nothing until they are told.
    pub(super) fn membership_at_start(id: NodeId) -> Membership {
        if id <= 3 {
            Membership { voters: [1, 2, 3].into(), learners: BTreeSet::new() }
        } else {
            Membership::default()
        }
    }

    pub(super) fn settings(&self, id: NodeId) -> Settings {
        Settings {
            id,
            election_timeout_us: ELECTION_TIMEOUT_US,
            heartbeat_us: HEARTBEAT_US,
            max_inflight_messages: 1 + (self.seed % 4) as usize,
            max_message_bytes: 40,
            lease_us: self.machines[&id].lease_us,
            seed: self.seed,
        }
    }

    pub(super) fn start(&mut self, id: NodeId) {
        let settings = self.settings(id);
        let now_us = self.now_us;
        let Some(machine) = self.machines.get_mut(&id) else { return };
        machine.life += 1;
        machine.log = machine.disk.log.clone();
        machine.commit = machine.disk.base;
        machine.holes = machine.disk.holes.clone();
        machine.next_tick_us = u64::MAX;
        machine.disk_free_us = now_us;
        let restored = Restored {
            term: machine.disk.term,
            vote: machine.disk.vote,
            promise_us: machine.disk.promise_us,
            base: position_of(&machine.log, machine.disk.base),
            membership: membership_at(&machine.log, machine.disk.base)
                .unwrap_or_else(|| Self::membership_at_start(id)),
            entries: machine.log[machine.disk.base as usize..].iter().map(|s| s.meta.clone()).collect(),
            committed: machine.disk.base,
            holes: machine.holes.iter().copied().collect(),
            distrusted: machine.disk.cut_at.map(|_| self.seed ^ machine.life),
        };
        let life = machine.life;
        machine.raft = Some(Raft::new(settings, restored, machine.clock.local_us(now_us)));
        self.schedule_tick(id);
        self.schedule(now_us + 5_000, Event::Heal { id, life });
    }

    /// The process dies; of the writes under way, some first ones may have reached the disk.
    pub(super) fn crash(&mut self, id: NodeId) {
        let Some(machine) = self.machines.get_mut(&id) else { return };
        let survive = self.random.below(machine.pending.len() as u64 + 1);
        for _ in 0..survive {
            if let Some(pending) = machine.pending.pop_front() {
                let trusted = pending.write.regain_trust;
                machine.disk.apply(pending);
                if let Some(known) = machine.disk.cut_at.take_if(|_| trusted) {
                    self.judge.trusted(id, known, &machine.disk.log);
                }
            }
        }
        machine.pending.clear();
        machine.raft = None;
        machine.life += 1;
        self.judge.reads_lost(id);
    }

    pub(super) fn schedule(&mut self, at_us: u64, event: Event) {
        self.sequence += 1;
        self.events.insert((at_us, self.sequence), event);
    }

    fn schedule_tick(&mut self, id: NodeId) {
        let Some(machine) = self.machines.get_mut(&id) else { return };
        let Some(raft) = &machine.raft else { return };
        let due_us = machine.clock.true_us(raft.next_deadline_us()).max(self.now_us);
        if due_us < machine.next_tick_us && raft.next_deadline_us() != u64::MAX {
            machine.next_tick_us = due_us;
            let life = machine.life;
            self.schedule(due_us, Event::Tick { id, life });
        }
    }

    pub fn run_until(&mut self, end_us: u64) {
        while let Some((&(at_us, sequence), _)) = self.events.first_key_value() {
            if at_us > end_us {
                break;
            }
            let Some(event) = self.events.remove(&(at_us, sequence)) else { break };
            self.now_us = at_us;
            self.dispatch(event);
        }
        self.now_us = end_us;
        self.match_logs();
    }

    fn dispatch(&mut self, event: Event) {
        match event {
            Event::Deliver { to, from, message, payloads } => {
                if !self.cut.contains(&(from, to)) {
                    self.input(to, Input::Receive { from, message }, payloads);
                }
            }
            Event::DiskDone { id, life, write } => self.disk_done(id, life, write),
            Event::Tick { id, life } => {
                if self.machines[&id].life == life {
                    if let Some(machine) = self.machines.get_mut(&id) {
                        machine.next_tick_us = u64::MAX;
                    }
                    self.input(id, Input::Tick, Vec::new());
                }
            }
            Event::Install { to, entries } => self.install(to, entries),
            Event::Heal { id, life } if self.machines[&id].life == life => self.fill_holes(id),
            Event::Heal { .. } => {}
            Event::Client => self.client(),
            Event::Fault => self.fault(),
        }
    }

    pub(super) fn disk_done(&mut self, id: NodeId, life: u64, write: WriteId) {
        let Some(machine) = self.machines.get_mut(&id).filter(|machine| machine.life == life) else { return };
        while machine.pending.front().is_some_and(|pending| pending.write.id <= write) {
            if let Some(pending) = machine.pending.pop_front() {
                let trusted = pending.write.regain_trust;
                machine.disk.apply(pending);
                if let Some(known) = machine.disk.cut_at.take_if(|_| trusted) {
                    self.judge.trusted(id, known, &machine.disk.log);
                }
            }
        }
        self.input(id, Input::Persisted { write }, Vec::new());
    }

    /// Steps one node and carries out what it wants. `payloads` belong to the entries of the input.
    pub(super) fn input(&mut self, id: NodeId, input: Input, payloads: Vec<u64>) {
        let Some(machine) = self.machines.get_mut(&id) else { return };
        let Some(raft) = &mut machine.raft else { return };
        let mut outputs = Vec::new();
        raft.step(machine.clock.local_us(self.now_us), input, &mut outputs);
        if raft.role() == Role::Leader {
            let term = raft.term();
            // The no-op of a new leader is not in the driver's log yet; it is not committed either.
            self.judge.leads(id, term, &self.machines[&id].log);
            self.verify_leases(id, term);
        }
        for output in outputs {
            self.output(id, output, &payloads);
        }
        self.verify_driver_log(id);
        self.schedule_tick(id);
    }

    fn output(&mut self, id: NodeId, output: Output, payloads: &[u64]) {
        let Some(machine) = self.machines.get_mut(&id) else { return };
        match output {
            Output::Send { to, message } => self.send(id, to, message),
            Output::Persist(write) => {
                let payloads = match write.append.as_ref().map(|append| append.source) {
                    Some(Source::Message { skip }) => payloads[skip..].to_vec(),
                    Some(Source::Proposal) => payloads.to_vec(),
                    Some(Source::NoOp) => vec![0],
                    None => Vec::new(),
                };
                replace_tail(&mut machine.log, &write, &payloads);
                if let Some(from) = write.truncate_from {
                    machine.holes.split_off(&from);
                }
                let stalls = self.random.below(50) == 0;
                let delay_us = 100 + self.random.below(if stalls { 60_000 } else { 1_500 });
                machine.disk_free_us = machine.disk_free_us.max(self.now_us) + delay_us;
                let (life, done_us, write_id) = (machine.life, machine.disk_free_us, write.id);
                machine.pending.push_back(PendingWrite { write, payloads });
                self.schedule(done_us, Event::DiskDone { id, life, write: write_id });
            }
            Output::Commit { index } => {
                assert!(index > machine.commit, "a commit that is no news");
                self.judge.commits(id, machine.commit, index, &machine.log);
                machine.commit = index;
            }
            Output::ReadReady { id: read, index } => self.judge.read_ready(id, read, index, machine.commit),
            Output::ReadFailed { id: read } => self.judge.read_failed(id, read),
            Output::SnapshotNeeded { to } => self.send_snapshot(id, to),
            Output::LearnerReady { id: learner } => self.promote(id, learner),
            Output::Changed { .. }
            | Output::MembershipChanged { .. }
            | Output::ProposalRefused { .. }
            | Output::TransferFailed => {}
        }
    }

    fn send(&mut self, from: NodeId, to: NodeId, mut message: Message) {
        self.fingerprint = self
            .fingerprint
            .wrapping_mul(31)
            .wrapping_add(self.now_us ^ (from << 8) ^ to ^ (message.term << 16));
        self.verify_promise(from, to, &message);
        let mut payloads = Vec::new();
        if let Body::Append { prev, entries, .. } = &mut message.body {
            let holes = &self.machines[&from].holes;
            let intact = (prev.index + 1..).take(entries.len()).take_while(|at| !holes.contains(at)).count();
            if intact == 0 && !entries.is_empty() {
                return;
            }
            entries.truncate(intact);
            let log = &self.machines[&from].log;
            let first = prev.index as usize;
            let base = self.machines[&from].disk.base;
            assert!(
                prev.index >= base,
                "{from} sends what follows {prev:?} and holds only what follows {base}"
            );
            payloads = log[first..first + entries.len()].iter().map(|stored| stored.payload).collect();
            let metas: Vec<_> = log[first..first + entries.len()].iter().map(|s| s.meta.clone()).collect();
            assert_eq!(&metas, entries, "a message tells the log as it is");
        }
        let copies = 1 + u64::from(self.random.below(100) < self.faults.duplication);
        for _ in 0..copies {
            if self.random.below(100) < self.faults.loss || self.cut.contains(&(from, to)) {
                continue;
            }
            let slow = self.random.below(100) < self.faults.reordering;
            // Some arrive late, some when everybody is terms ahead.
            let longest_us = if !slow { 50 } else { [20_000, 600_000][self.random.below(2) as usize] };
            let delay_us = 200 + self.random.below(longest_us);
            let (message, payloads) = (message.clone(), payloads.clone());
            self.schedule(self.now_us + delay_us, Event::Deliver { to, from, message, payloads });
        }
    }

    /// What a message promises is on the sender's disk when it leaves.
    fn verify_promise(&self, from: NodeId, to: NodeId, message: &Message) {
        let machine = &self.machines[&from];
        let (disk, log) = (&machine.disk, &machine.log);
        match message.body {
            Body::Appended { matched, .. } => {
                assert!(disk.term == message.term, "{from} acknowledges in a term it may forget");
                let at = (matched as usize).checked_sub(1);
                assert!(
                    at.is_none_or(|at| disk.log.get(at) == Some(&log[at])),
                    "{from} acknowledges {matched}"
                );
                let lost = machine.holes.range(machine.commit + 1..).next().filter(|hole| **hole <= matched);
                assert_eq!(lost, None, "{from} acknowledges {matched} and cannot read that");
            }
            Body::PreVoteReply { granted: true } => self.verify_whole(from),
            Body::VoteReply { granted: true } => {
                assert!(
                    (disk.term, disk.vote) == (message.term, Some(to)),
                    "{from} may forget its vote for {to}"
                );
                assert!(disk.cut_at.is_none(), "{from} votes and may have lost entries");
            }
            Body::Vote { .. } => {
                assert!(disk.cut_at.is_none(), "{from} stands and may have lost entries");
                assert!(
                    (disk.term, disk.vote) == (message.term, Some(from)),
                    "{from} may forget its own vote"
                );
            }
            _ => {}
        }
    }

    fn verify_whole(&self, id: NodeId) {
        let machine = &self.machines[&id];
        let whole = machine.disk.cut_at.is_none() && machine.holes.is_empty();
        assert!(whole, "{id} would vote, and its log is not whole\n{}", self.describe());
    }

    pub(super) fn leaders(&self) -> Vec<NodeId> {
        let leads = |m: &Machine| m.raft.as_ref().is_some_and(|raft| raft.role() == Role::Leader);
        self.machines.iter().filter(|(_, machine)| leads(machine)).map(|(id, _)| *id).collect()
    }

    /// Clients write and read at every node that thinks it leads, also at deposed ones.
    fn client(&mut self) {
        for id in self.leaders() {
            self.read_by_lease(id);
            // Whoever has missed nothing but heartbeats may be elected: the case that leases are about.
            let quiet = self.faults.leases && self.seed % 4 < 2 && self.random.below(12) > 0;
            let count = if quiet { 0 } else { self.random.below(4) };
            let bytes: Vec<u32> = (0..count).map(|_| 1 + self.random.below(30) as u32).collect();
            let payloads = (0..count).map(|at| self.next_payload + at).collect();
            self.next_payload += count;
            self.input(id, Input::Propose { bytes }, payloads);
            if self.random.below(2) == 0 {
                let read = self.next_read;
                self.next_read += 1;
                self.judge.read_asked(id, read);
                self.input(id, Input::Read { id: read }, Vec::new());
            }
        }
        if self.faults.compaction {
            self.compact();
        }
        self.repeat_snapshots();
        let pause_us = 1_000 + self.random.below(30_000);
        self.schedule(self.now_us + pause_us, Event::Client);
    }

    /// Adds `other` as a learner, takes it out, or demotes it, as the leaders see it.
    pub(super) fn change_membership(&mut self, other: NodeId) {
        for id in self.leaders() {
            let Some(raft) = &self.machines[&id].raft else { continue };
            let mut membership = raft.membership().clone();
            let was_voter = membership.voters.remove(&other);
            let was_learner = membership.learners.remove(&other);
            if (!was_voter && !was_learner) || (was_voter && self.random.below(3) == 0) {
                membership.learners.insert(other);
            }
            self.propose_membership(id, membership);
        }
    }

    fn promote(&mut self, id: NodeId, learner: NodeId) {
        let Some(raft) = &self.machines[&id].raft else { return };
        let mut membership = raft.membership().clone();
        membership.learners.remove(&learner);
        membership.voters.insert(learner);
        self.propose_membership(id, membership);
    }

    fn propose_membership(&mut self, id: NodeId, membership: Membership) {
        let payload = self.next_payload;
        self.next_payload += 1;
        self.input(id, Input::ProposeMembership { membership, bytes: 8 }, vec![payload]);
    }

    /// The core's picture of the log is the log.
    fn verify_driver_log(&self, id: NodeId) {
        let machine = &self.machines[&id];
        let Some(raft) = &machine.raft else { return };
        assert_eq!(raft.last().index as usize, machine.log.len());
        assert_eq!(
            raft.term_at(raft.last().index),
            machine.log.last().map_or(Some(0), |s| Some(s.meta.term))
        );
        assert_eq!(raft.commit(), machine.commit);
        assert!(raft.durable() as usize <= machine.disk.log.len(), "durable is what is on the disk");
    }

    pub(super) fn match_logs(&self) {
        let logs: Vec<&[Stored]> = self.machines.values().map(|machine| machine.log.as_slice()).collect();
        Judge::match_logs(&logs);
    }

    /// Nothing goes wrong from here on.
    pub fn heal(&mut self) {
        self.faults = Faults::default();
        self.cut.clear();
        for id in 1..=NODES {
            if self.machines[&id].raft.is_none() {
                self.start(id);
            }
        }
        for (id, peer) in (1..=NODES).flat_map(|id| (1..=NODES).map(move |peer| (id, peer))) {
            self.input(id, Input::PeerReachable { peer }, Vec::new());
        }
        for id in 1..=NODES {
            self.input(id, Input::Abstain { abstain: false }, Vec::new());
        }
    }

    /// After a while without faults one leader leads, all voters follow it, and all is committed.
    pub fn judge_liveness(&mut self) {
        if self.is_blocked() {
            return;
        }
        let leaders = self.leaders();
        assert_eq!(leaders.len(), 1, "leaders {leaders:?} after healing\n{}", self.describe());
        let Some(leader) = self.machines.get(&leaders[0]).and_then(|machine| machine.raft.as_ref()) else {
            return;
        };
        assert!(leader.own_term_committed());
        let term = leader.term();
        let commit = leader.commit();
        assert!(leader.last().index - commit < 100, "commits lag: {commit} of {:?}", leader.last());
        assert!(
            self.judge.reads_open(leaders[0]) < 10 && self.judge.reads_answered > 0,
            "reads are not answered"
        );
        assert!(self.judge.committed.len() > 20, "only {} commits", self.judge.committed.len());
        for id in &leader.membership().voters {
            let Some(raft) = &self.machines[id].raft else { panic!("{id} is down") };
            assert_eq!(raft.term(), term, "{id} follows in the leader's term");
            assert_eq!(raft.leader(), Some(leaders[0]), "{id} knows the leader");
            assert!(commit - raft.commit() < 100, "{id} lags: {} of {commit}", raft.commit());
            self.verify_whole(*id);
        }
    }

    /// By some node's word, fewer than a majority of the voters are whole, and nobody has what they lack: no election
    /// can be won, because the log that is missing may hold what was committed.
    fn is_blocked(&self) -> bool {
        let whole = |id: &&NodeId| {
            let machine = &self.machines[id];
            machine.disk.cut_at.is_none() && machine.holes.is_empty()
        };
        let blocked = |raft: &Raft| {
            let voters = &raft.membership().voters;
            voters.len() > 1 && 2 * voters.iter().filter(whole).count() <= voters.len()
        };
        self.leaders().is_empty() && self.machines.values().filter_map(|m| m.raft.as_ref()).any(blocked)
    }

    /// One line per node, for the message of a failed assertion.
    fn describe(&self) -> String {
        let line = |(id, machine): (&NodeId, &Machine)| match &machine.raft {
            Some(raft) => format!(
                "{id}: {:?} term {} leader {:?} commit {} last {:?} {:?}\n",
                raft.role(),
                raft.term(),
                raft.leader(),
                raft.commit(),
                raft.last(),
                raft.membership()
            ),
            None => format!("{id}: down\n"),
        };
        self.machines.iter().map(line).collect()
    }

    pub fn fingerprint(&self) -> u64 {
        self.fingerprint
    }
}
