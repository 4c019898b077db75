//! One node at a time: the tests play the disk, the peers and the clock.

mod electing;
mod following;
mod leading;
mod leasing;
mod reading;
mod replicating;
mod snapshots;
mod trusting;

use super::*;

pub(super) const TIMEOUT_US: u64 = 1_000_000;
pub(super) const HEARTBEAT_US: u64 = 100_000;

/// A node with its clock.
pub(super) struct Bench {
    pub raft: Raft,
    pub now_us: u64,
    /// When it was elected, if it was.
    elected_us: u64,
    /// The last write handed out.
    pub write: WriteId,
}

pub(super) fn members(voters: &[NodeId], learners: &[NodeId]) -> Membership {
    Membership { voters: voters.iter().copied().collect(), learners: learners.iter().copied().collect() }
}

pub(super) fn at(index: Index, term: Term) -> Position {
    Position { index, term }
}

pub(super) fn normal(term: Term) -> EntryMeta {
    EntryMeta { term, kind: EntryKind::Normal, bytes: 10 }
}

pub(super) fn change(term: Term, membership: Membership) -> EntryMeta {
    EntryMeta { term, kind: EntryKind::Membership(membership.into()), bytes: 10 }
}

pub(super) fn settings(id: NodeId) -> Settings {
    Settings {
        id,
        election_timeout_us: TIMEOUT_US,
        heartbeat_us: HEARTBEAT_US,
        max_inflight_messages: 2,
        max_message_bytes: 20,
        lease_us: 0,
        seed: 7,
    }
}

/// What was sent to `peer`.
pub(super) fn sent(outputs: &[Output], peer: NodeId) -> Vec<Message> {
    let message = |output: &Output| match output {
        Output::Send { to, message } if *to == peer => Some(message.clone()),
        _ => None,
    };
    outputs.iter().filter_map(message).collect()
}

pub(super) fn writes(outputs: &[Output]) -> Vec<Write> {
    let write = |output: &Output| match output {
        Output::Persist(write) => Some(write.clone()),
        _ => None,
    };
    outputs.iter().filter_map(write).collect()
}

/// The last index reported as committed.
pub(super) fn committed(outputs: &[Output]) -> Option<Index> {
    let commit = |output: &Output| match output {
        Output::Commit { index } => Some(*index),
        _ => None,
    };
    outputs.iter().rev().find_map(commit)
}

impl Bench {
    /// Node `id` of `membership`, restarted in `term` with entries of `terms`.
    pub fn new(id: NodeId, membership: Membership, term: Term, terms: &[Term]) -> Bench {
        let entries = terms.iter().map(|term| normal(*term)).collect();
        let restored = Restored { term, membership, entries, ..Restored::default() };
        Bench::restored(id, restored)
    }

    pub fn restored(id: NodeId, restored: Restored) -> Bench {
        Bench { raft: Raft::new(settings(id), restored, 0), now_us: 0, elected_us: 0, write: 0 }
    }

    /// The clock goes to `us` after the election.
    pub fn pass_to(&mut self, us: u64) {
        self.now_us = self.elected_us + us;
    }

    pub fn give(&mut self, input: Input) -> Vec<Output> {
        let mut outputs = Vec::new();
        self.raft.step(self.now_us, input, &mut outputs);
        self.write = writes(&outputs).last().map_or(self.write, |write| write.id);
        outputs
    }

    pub fn hear(&mut self, from: NodeId, term: Term, body: Body) -> Vec<Output> {
        self.give(Input::Receive { from, message: Message { term, body } })
    }

    /// The disk is done with everything.
    pub fn persist(&mut self) -> Vec<Output> {
        self.give(Input::Persisted { write: self.write })
    }

    /// The clock goes to the deadline.
    pub fn tick(&mut self) -> Vec<Output> {
        self.now_us = self.now_us.max(self.raft.next_deadline_us());
        self.give(Input::Tick)
    }

    pub fn append(&mut self, from: NodeId, term: Term, prev: Position, entries: &[EntryMeta]) -> Vec<Output> {
        self.hear(
            from,
            term,
            Body::Append { prev, entries: entries.to_vec(), commit: 0, round: 0, lease_us: 0 },
        )
    }

    pub fn acknowledge(&mut self, from: NodeId, matched: Index, round: u64) -> Vec<Output> {
        let term = self.raft.term();
        self.hear(from, term, Body::Appended { matched, round })
    }

    /// Elected by all voters; its no-op is on its disk and nowhere else. The outputs of the election's last step.
    pub fn elect(&mut self) -> Vec<Output> {
        self.tick();
        self.elected_us = self.now_us;
        let voters: Vec<NodeId> = self.raft.membership().voters.iter().copied().collect();
        let asked = self.raft.term() + 1;
        for voter in &voters {
            if self.raft.role() == Role::PreCandidate {
                self.hear(*voter, asked, Body::PreVoteReply { granted: true });
            }
        }
        let mut outputs = self.persist();
        for voter in &voters {
            if self.raft.role() == Role::Candidate {
                outputs = self.hear(*voter, asked, Body::VoteReply { granted: true });
            }
        }
        assert_eq!(self.raft.role(), Role::Leader);
        self.persist();
        outputs
    }

    /// A leader of `voters` (itself is 1), whose log is on all of them and committed.
    pub fn leader(voters: &[NodeId], learners: &[NodeId]) -> Bench {
        let mut bench = Bench::new(1, members(voters, learners), 0, &[]);
        bench.elect();
        for voter in voters.iter().skip(1) {
            bench.acknowledge(*voter, 1, 0);
        }
        assert!(bench.raft.own_term_committed());
        bench
    }
}
