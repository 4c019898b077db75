//! A leader and one peer: what is sent, and what an answer tells (paper 5.3, dissertation 10.2.1).

use super::io::Output;
use super::leader::Leader;
use super::lease::Stamp;
use super::message::{Body, EntryMeta, Index, NodeId, Position};
use super::progress::{Mode, Progress};
use super::raft::{Core, Raft, State};
use crate::limits::MAX_ENTRIES_PER_MESSAGE;

/// A message not acknowledged for this many heartbeats is taken for lost. A full window is sent again then, so it
/// must outlast an ordinary slow sync.
const LOST_AFTER_HEARTBEATS: u64 = 3;

impl Leader {
    /// Sends every peer what its window allows.
    pub fn replicate_all(&mut self, core: &Core, outputs: &mut Vec<Output>) {
        let stamp = self.stamp(core);
        for (id, peer) in &mut self.peers {
            replicate(core, *id, peer, stamp, outputs);
        }
    }

    /// One message without entries to each voter, so that it answers the read round.
    pub fn heartbeat_voters(&mut self, core: &Core, outputs: &mut Vec<Output>) {
        let stamp = self.stamp(core);
        for (id, peer) in &mut self.peers {
            if core.membership().is_voter(*id) {
                heartbeat(core, *id, peer, stamp, outputs);
            }
        }
    }

    /// One message without entries to each peer, after looking for lost ones.
    pub fn heartbeat_all(&mut self, core: &Core, outputs: &mut Vec<Output>) {
        let stamp = self.stamp(core);
        let patience_us = core.settings.heartbeat_us.max(1).saturating_mul(LOST_AFTER_HEARTBEATS);
        for (id, peer) in &mut self.peers {
            if peer.has_lost(core.now_us, patience_us) {
                peer.probe_from(peer.matched + 1);
            }
            heartbeat(core, *id, peer, stamp, outputs);
        }
    }

    /// The membership is committed: peers that left it hear so once more, and are forgotten.
    pub fn say_goodbye(&mut self, core: &Core, outputs: &mut Vec<Output>) {
        let stamp = self.stamp(core);
        self.peers.retain(|id, peer| {
            if peer.leaving {
                append(core, *id, (peer.next - 1).max(core.log.base().index), Vec::new(), stamp, outputs);
            }
            !peer.leaving
        });
    }

    /// The voter with the longest acknowledged log, the one heard last among equals.
    pub fn best_successor(&self, core: &Core) -> Option<NodeId> {
        let voters = self.peers.iter().filter(|(id, peer)| core.membership().is_voter(**id) && !peer.paused);
        voters.max_by_key(|(_, peer)| (peer.matched, peer.heard_us)).map(|(id, _)| *id)
    }

    /// Tells the target of a transfer to stand, once it holds everything.
    pub fn advance_transfer(&mut self, core: &Core, outputs: &mut Vec<Output>) {
        let Some(transfer) = &mut self.transfer else { return };
        let up_to_date = self.peers.get(&transfer.target).is_some_and(|p| p.matched == core.log.last_index());
        if up_to_date && !transfer.told {
            transfer.told = true;
            self.lease.give_up();
            core.send(transfer.target, Body::TimeoutNow, outputs);
        }
    }
}

/// A peer that lacks what lies before our log is asked at its start, and its refusal there counts as one of what was asked.
fn begin_within_log(core: &Core, peer: &mut Progress) {
    peer.next = peer.next.max(core.log.base().index + 1);
}

/// Sends entries as long as the window is open.
fn replicate(core: &Core, id: NodeId, peer: &mut Progress, stamp: Stamp, outputs: &mut Vec<Output>) {
    let last = core.log.last_index();
    begin_within_log(core, peer);
    let mut first = peer.next;
    while first <= last && peer.may_send(core.settings.max_inflight_messages) {
        let entries = core.log.entries(first, MAX_ENTRIES_PER_MESSAGE, core.settings.max_message_bytes);
        let end = first + entries.len() as Index - 1;
        append(core, id, first - 1, entries, stamp, outputs);
        peer.sent(end, core.now_us);
        first = end + 1;
    }
}

/// A message without entries. It never leads to a refusal, except while probing, where that is its use.
fn heartbeat(core: &Core, id: NodeId, peer: &mut Progress, stamp: Stamp, outputs: &mut Vec<Output>) {
    begin_within_log(core, peer);
    let prev = match peer.mode {
        Mode::Probe { .. } | Mode::Snapshot => peer.next - 1,
        Mode::Replicate => peer.matched,
    };
    append(core, id, prev.max(core.log.base().index), Vec::new(), stamp, outputs);
}

fn append(
    core: &Core,
    to: NodeId,
    prev: Index,
    entries: Vec<EntryMeta>,
    stamp: Stamp,
    outputs: &mut Vec<Output>,
) {
    let prev = core.log.position_at(prev).expect("I10: what is sent to a peer is in the log");
    let Stamp { round, lease_us, commit } = stamp;
    core.send(to, Body::Append { prev, entries, commit, round, lease_us }, outputs);
}

impl Raft {
    /// A peer holds everything up to `matched`, durably.
    pub(super) fn on_appended(
        &mut self,
        from: NodeId,
        matched: Index,
        round: u64,
        outputs: &mut Vec<Output>,
    ) {
        let Raft { core, state: State::Leader(leader), .. } = self else { return };
        let stamp = leader.stamp(core);
        let Some(peer) = leader.peers.get_mut(&from) else { return };
        if matched > core.log.last_index() || round > stamp.round {
            return;
        }
        peer.heard(core.now_us, round);
        if peer.counts(round) {
            peer.acknowledge(matched);
        }
        replicate(core, from, peer, stamp, outputs);
        self.leader_progressed(outputs);
        self.report_learner(from, outputs);
    }

    /// A peer does not hold `prev`: look for the last entry that both logs hold, whole terms at a time.
    pub(super) fn on_refused(
        &mut self,
        from: NodeId,
        prev: Index,
        conflict: Position,
        round: u64,
        outputs: &mut Vec<Output>,
    ) {
        let Raft { core, state: State::Leader(leader), .. } = self else { return };
        let stamp = leader.stamp(core);
        let Some(peer) = leader.peers.get_mut(&from) else { return };
        if round > stamp.round {
            return;
        }
        peer.heard(core.now_us, round);
        let base = core.log.base().index;
        let fresh = peer.take_refusal(prev, core.now_us, core.settings.heartbeat_us);
        if fresh && prev <= base && base > 0 {
            peer.await_snapshot(base + 1);
            outputs.push(Output::SnapshotNeeded { to: from });
        } else if fresh {
            let candidate = core.log.at_or_before(conflict.index.min(prev - 1), conflict.term).index;
            let lowest = peer.matched.max(base);
            let next = candidate.max(lowest) + 1;
            // The start of our log was refused: nothing left to try until the peer has changed.
            let exhausted = next > prev;
            peer.probe_from(next);
            if !exhausted {
                replicate(core, from, peer, stamp, outputs);
            }
        }
        self.leader_progressed(outputs);
    }

    /// Reports a learner that has caught up, when a change of the membership would be taken now.
    fn report_learner(&mut self, id: NodeId, outputs: &mut Vec<Output>) {
        let Raft { core, state: State::Leader(leader), .. } = self else { return };
        let may_change = leader.own_term_committed(core)
            && core.log.membership_index() <= core.commit
            && leader.transfer.is_none();
        if !may_change || !core.membership().is_learner(id) {
            return;
        }
        let Some(peer) = leader.peers.get_mut(&id) else { return };
        if peer.take_ready(core.log.last_index(), core.now_us, core.settings.heartbeat_us) {
            outputs.push(Output::LearnerReady { id });
        }
    }

    /// A message without entries to one peer.
    pub(super) fn inform(&mut self, id: NodeId, outputs: &mut Vec<Output>) {
        let Raft { core, state: State::Leader(leader), .. } = self else { return };
        let stamp = leader.stamp(core);
        if let Some(peer) = leader.peers.get_mut(&id) {
            heartbeat(core, id, peer, stamp, outputs);
        }
    }

    /// The link to a peer is gone, and what was in flight with it.
    pub(super) fn pause_peer(&mut self, id: NodeId) {
        let State::Leader(leader) = &mut self.state else { return };
        if let Some(peer) = leader.peers.get_mut(&id) {
            peer.probe_from(peer.matched + 1);
            peer.paused = true;
        }
    }

    /// The link to a peer is back: what was in flight on the old one is lost.
    pub(super) fn resume_peer(&mut self, id: NodeId, outputs: &mut Vec<Output>) {
        let Raft { core, state: State::Leader(leader), .. } = self else { return };
        let stamp = leader.stamp(core);
        let Some(peer) = leader.peers.get_mut(&id) else { return };
        peer.paused = false;
        peer.probe_from(peer.matched + 1);
        heartbeat(core, id, peer, stamp, outputs);
        replicate(core, id, peer, stamp, outputs);
    }
}
