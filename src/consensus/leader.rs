//! Leading: proposals, commits, reads, and stepping down.
//!
//! What goes to the single peer, and when, is in `replication.rs`.

use std::collections::BTreeMap;

use super::io::{Output, Refusal, Source};
use super::lease::{Lease, Stamp};
use super::message::{Body, EntryKind, EntryMeta, Index, Membership, NodeId};
use super::progress::{PeerProgress, Progress};
use super::quorum::agreed;
use super::raft::{Core, Raft, State};
use super::reads::Reads;
use crate::limits::MAX_ENTRY_BYTES;

/// What a leader knows beyond its log.
#[derive(Debug)]
pub(super) struct Leader {
    /// The first entry of our term: no read, and no commit, before it is committed (paper 5.4.2 and 8).
    pub no_op: Index,
    /// All other members, and nodes that are about to leave.
    pub peers: BTreeMap<NodeId, Progress>,
    pub reads: Reads,
    pub lease: Lease,
    pub transfer: Option<Transfer>,
    pub heartbeat_deadline_us: u64,
    /// An entry that is not committed cannot be read here: how long it may take to get it back.
    pub hole_deadline_us: u64,
    /// No later than the moment at which the quorum has been silent for an election timeout.
    quorum_deadline_us: u64,
    /// Spares an allocation for each count.
    votes: Vec<u64>,
}

/// Leadership is being handed over.
#[derive(Debug)]
pub(super) struct Transfer {
    pub target: NodeId,
    /// `TimeoutNow` was sent since the last heartbeat.
    pub told: bool,
    pub deadline_us: u64,
}

impl Leader {
    fn new(core: &Core) -> Leader {
        let no_op = core.log.last_index() + 1;
        let others = core.membership().nodes().filter(|id| *id != core.id());
        Leader {
            no_op,
            peers: others.map(|id| (id, Progress::new(no_op, core.now_us))).collect(),
            reads: Reads::default(),
            lease: Lease::default(),
            transfer: None,
            heartbeat_deadline_us: core.now_us + core.settings.heartbeat_us.max(1),
            hole_deadline_us: u64::MAX,
            quorum_deadline_us: core.now_us + core.settings.election_timeout_us,
            votes: Vec::new(),
        }
    }

    pub fn deadline_us(&self) -> u64 {
        let transfer_us = self.transfer.as_ref().map_or(u64::MAX, |transfer| transfer.deadline_us);
        let own_us = self.heartbeat_deadline_us.min(self.quorum_deadline_us);
        own_us.min(self.hole_deadline_us).min(transfer_us)
    }

    /// The timeouts have changed, and perhaps the length of the lease.
    pub fn reset_timers(&mut self, core: &Core) {
        self.begin_lease(core);
        self.heartbeat_deadline_us = core.now_us;
        self.quorum_deadline_us = core.now_us;
    }

    pub fn own_term_committed(&self, core: &Core) -> bool {
        core.commit >= self.no_op
    }

    pub fn progress<'a>(&'a self, core: &'a Core) -> impl Iterator<Item = (NodeId, PeerProgress)> + 'a {
        self.peers.iter().map(|(id, peer)| {
            let progress = PeerProgress {
                matched: peer.matched,
                inflight_messages: peer.inflight_messages(),
                heard_us: peer.heard_us,
                learner: !core.membership().is_voter(*id),
                needs_snapshot: peer.awaits_snapshot(),
                reachable: !peer.paused,
            };
            (*id, progress)
        })
    }

    /// What messages carry from now on.
    pub fn stamp(&self, core: &Core) -> Stamp {
        Stamp { round: self.reads.round(), lease_us: self.lease.announced_us(), commit: core.commit }
    }

    /// A lease of the length that the settings say, from a new round on.
    fn begin_lease(&mut self, core: &Core) {
        if self.lease.resize(core.settings.lease_us) {
            self.mark_lease(core);
        }
    }

    /// The messages that follow renew the lease, once they are answered.
    fn mark_lease(&mut self, core: &Core) {
        if self.lease.announced_us() > 0 {
            self.lease.mark(self.reads.advance(), core.now_us);
        }
    }

    /// Voters have answered, or are others now.
    fn renew_lease(&mut self, core: &Core) {
        let lease = std::mem::take(&mut self.lease);
        let start_us = self.agreed(core, core.now_us, |peer| lease.promised_us(peer.answered_round));
        self.lease = lease;
        self.lease.renew(start_us);
    }

    /// Until when, on the driver's clock, nobody else can lead; 0 while reads need a round.
    pub fn lease_until_us(&self, core: &Core) -> u64 {
        match self.own_term_committed(core) {
            true => self.lease.until_us(),
            false => 0,
        }
    }

    /// The largest value that a majority of voters has reached; `own` is ours, and counts only if we vote.
    fn agreed(&mut self, core: &Core, own: u64, of_peer: impl Fn(&Progress) -> u64) -> u64 {
        self.votes.clear();
        for voter in &core.membership().voters {
            let value = if *voter == core.id() { own } else { self.peers.get(voter).map_or(0, &of_peer) };
            self.votes.push(value);
        }
        agreed(&mut self.votes)
    }

    /// Makes the peers those of the membership in force; who left stays until it can have heard of it.
    fn follow_membership(&mut self, core: &Core) {
        // The first message to a new peer brings the change itself, or the refusal that tells where it stands.
        let next = core.log.membership_index();
        for (id, peer) in &mut self.peers {
            peer.leaving = !core.membership().nodes().any(|member| member == *id);
        }
        for id in core.membership().nodes().filter(|id| *id != core.id()) {
            self.peers.entry(id).or_insert_with(|| Progress::new(next, core.now_us));
        }
        // A peer in or out moves the quorum: look again at the next input.
        self.quorum_deadline_us = core.now_us;
        self.renew_lease(core);
    }

    /// Answers reads by the lease; else begins rounds and ends them, as far as the answers allow.
    fn advance_reads(&mut self, core: &Core, outputs: &mut Vec<Output>) {
        if !self.own_term_committed(core) {
            return;
        }
        if core.now_us < self.lease_until_us(core) {
            if let Some(id) = self.reads.take_all() {
                outputs.push(Output::ReadReady { id, index: core.commit });
            }
            return;
        }
        loop {
            if self.reads.begin(core.commit) {
                self.lease.mark(self.reads.round(), core.now_us);
                self.heartbeat_voters(core, outputs);
            }
            let Some(round) = self.reads.needed_round() else { return };
            if self.agreed(core, round, |peer| peer.answered_round) < round {
                return;
            }
            if let Some((id, index)) = self.reads.complete() {
                outputs.push(Output::ReadReady { id, index });
            }
        }
    }
}

impl Raft {
    /// Won the election: the first entry of the term is a no-op, which also tells everybody who leads.
    pub(super) fn become_leader(&mut self, outputs: &mut Vec<Output>) {
        let core = &mut self.core;
        core.hurry = None;
        let mut leader = Leader::new(core);
        let no_op = EntryMeta { term: core.term, kind: EntryKind::NoOp, bytes: 0 };
        core.replace_tail(leader.no_op, vec![no_op], Source::NoOp, outputs);
        leader.begin_lease(core);
        leader.replicate_all(core, outputs);
        self.state = State::Leader(leader);
    }

    /// CheckQuorum (dissertation 6.2): a leader that has not heard from a majority for an election timeout leads
    /// nobody. Looked at before every input, so that a process that was stopped does not act on what it knew.
    pub(super) fn check_quorum(&mut self, outputs: &mut Vec<Output>) {
        let Raft { core, state: State::Leader(leader), .. } = self else { return };
        if core.now_us < leader.quorum_deadline_us {
            return;
        }
        let heard_us = leader.agreed(core, core.now_us, |peer| peer.heard_us);
        leader.quorum_deadline_us = heard_us.saturating_add(core.settings.election_timeout_us);
        if core.now_us >= leader.quorum_deadline_us {
            self.become_follower(self.core.term, None, outputs);
        }
    }

    pub(super) fn leader_tick(&mut self, outputs: &mut Vec<Output>) {
        let Raft { core, state: State::Leader(leader), .. } = self else { return };
        if core.now_us >= leader.hole_deadline_us {
            if core.has_open_hole() {
                return self.become_follower(self.core.term, None, outputs);
            }
            leader.hole_deadline_us = u64::MAX;
        }
        if leader.transfer.as_ref().is_some_and(|transfer| core.now_us >= transfer.deadline_us) {
            leader.transfer = None;
            outputs.push(Output::TransferFailed);
        }
        if core.now_us >= leader.heartbeat_deadline_us {
            leader.heartbeat_deadline_us = core.now_us + core.settings.heartbeat_us.max(1);
            leader.mark_lease(core);
            leader.heartbeat_all(core, outputs);
            leader.renew_lease(core); // a sole voter's own promise is all it needs
            if let Some(transfer) = &mut leader.transfer {
                transfer.told = false;
            }
            leader.advance_transfer(core, outputs);
        }
    }

    /// A peer, or our own disk, has got on: commits, answers reads, and hands over what waits for that.
    pub(super) fn leader_progressed(&mut self, outputs: &mut Vec<Output>) {
        let Raft { core, state: State::Leader(leader), .. } = self else { return };
        leader.renew_lease(core);
        let own = core.intact();
        let agreed = leader.agreed(core, own, |peer| peer.matched);
        // Paper 5.4.2: only entries of our own term are committed by counting; they take the older ones along.
        if agreed > core.commit && agreed >= leader.no_op {
            core.commit_up_to(agreed, outputs);
            if core.log.membership_index() <= core.commit {
                leader.say_goodbye(core, outputs);
                if !core.is_voter() {
                    return self.resign(outputs);
                }
            }
        }
        leader.advance_reads(core, outputs);
        leader.advance_transfer(core, outputs);
    }

    /// The membership without us is committed: tell everybody, ask the most advanced voter to go on, and follow.
    fn resign(&mut self, outputs: &mut Vec<Output>) {
        let Raft { core, state: State::Leader(leader), .. } = self else { return };
        leader.heartbeat_all(core, outputs);
        leader.lease.give_up();
        if let Some(successor) = leader.best_successor(core) {
            core.send(successor, Body::TimeoutNow, outputs);
        }
        self.become_follower(self.core.term, None, outputs);
    }

    /// The transfer's target is gone, or declines: nobody need wait for it.
    pub(super) fn abandon_transfer(&mut self, peer: NodeId, outputs: &mut Vec<Output>) {
        let State::Leader(leader) = &mut self.state else { return };
        if leader.transfer.take_if(|transfer| transfer.target == peer).is_some() {
            outputs.push(Output::TransferFailed);
        }
    }

    pub(super) fn propose(&mut self, bytes: Vec<u32>, outputs: &mut Vec<Output>) {
        let Raft { core, state: State::Leader(leader), .. } = self else {
            return refuse(Refusal::NotLeader, outputs);
        };
        if leader.transfer.is_some() {
            return refuse(Refusal::Transferring, outputs);
        }
        if bytes.is_empty() {
            return;
        }
        let longest = bytes.iter().copied().max().unwrap_or(0);
        assert!(longest as usize <= MAX_ENTRY_BYTES, "an entry of {longest} bytes, beyond {MAX_ENTRY_BYTES}");
        let term = core.term;
        let entry = |bytes| EntryMeta { term, kind: EntryKind::Normal, bytes };
        let entries = bytes.into_iter().map(entry).collect();
        core.replace_tail(core.log.last_index() + 1, entries, Source::Proposal, outputs);
        leader.replicate_all(core, outputs);
    }

    pub(super) fn propose_membership(&mut self, next: Membership, bytes: u32, outputs: &mut Vec<Output>) {
        let Raft { core, state: State::Leader(leader), .. } = self else {
            return refuse(Refusal::NotLeader, outputs);
        };
        if leader.transfer.is_some() {
            return refuse(Refusal::Transferring, outputs);
        }
        if !leader.own_term_committed(core) {
            return refuse(Refusal::TermNotCommitted, outputs);
        }
        if core.log.membership_index() > core.commit {
            return refuse(Refusal::ChangeInProgress, outputs);
        }
        if !core.membership().may_become(&next) {
            return refuse(Refusal::InvalidChange, outputs);
        }
        let entry = EntryMeta { term: core.term, kind: EntryKind::Membership(next.into()), bytes };
        core.replace_tail(core.log.last_index() + 1, vec![entry], Source::Proposal, outputs);
        leader.follow_membership(core);
        leader.replicate_all(core, outputs);
        // With one voter less, what is already acknowledged may be enough.
        self.leader_progressed(outputs);
    }

    pub(super) fn read(&mut self, id: u64, outputs: &mut Vec<Output>) {
        let Raft { core, state: State::Leader(leader), .. } = self else {
            outputs.push(Output::ReadFailed { id });
            return;
        };
        leader.reads.add(id);
        leader.advance_reads(core, outputs);
    }

    pub(super) fn transfer(&mut self, target: Option<NodeId>, outputs: &mut Vec<Output>) {
        let Raft { core, state: State::Leader(leader), .. } = self else {
            return refuse(Refusal::NotLeader, outputs);
        };
        if leader.transfer.is_some() {
            return refuse(Refusal::Transferring, outputs);
        }
        let target = target.or_else(|| leader.best_successor(core));
        let Some(target) = target.filter(|id| *id != core.id() && core.membership().is_voter(*id)) else {
            return refuse(Refusal::InvalidTarget, outputs);
        };
        let deadline_us = core.now_us + core.settings.election_timeout_us;
        leader.transfer = Some(Transfer { target, told: false, deadline_us });
        leader.advance_transfer(core, outputs);
    }
}

fn refuse(reason: Refusal, outputs: &mut Vec<Output>) {
    outputs.push(Output::ProposalRefused { reason });
}
