//! What must hold after every step.
//!
//! Cheap ones, asserted always ([`Checkpoint::verify`]):
//!
//! * I1. The term never falls.
//! * I2. Within one term the vote is given at most once.
//! * I3. The commit index never falls, and is never beyond the end of the log.
//!
//! The rest, asserted in tests and debug builds, and by the simulator ([`Raft::check_invariants`]):
//!
//! * I4. The log holds no entry of a later term than the node's own; its own structure is sound.
//! * I5. What is durable is in the log.
//! * I6. A follower has compared no more of its log with the leader's than it has.
//! * I7. A candidate has voted for itself.
//! * I8. A leader's vote for itself is durable, and its term starts with its no-op.
//! * I9. A leader knows every other member, and nobody else but those on their way out; itself never.
//! * I10. No peer is thought to hold more than the leader's log; its window lies between `matched` and `next`.
//! * I11. Of an own term, the leader's commit index is held by a majority of voters, or was before one of them forgot.
//! * I12. The membership in force is valid, or empty on a node that was never told one.
//! * I13. The holes rise and lie within the log.
//! * I14. Who stands or leads is trusted, and who stands has no hole.
//! * I15. Nobody stands before its promise to a leader has run out, unless that leader asked for it (asserted always).

use super::leader::Leader;
use super::message::{Index, NodeId, Term};
use super::raft::{Core, Raft, State};
use super::trust::Trust;

/// What the cheap invariants compare with: taken before a step, verified after.
#[derive(Clone, Copy, Debug)]
pub(super) struct Checkpoint {
    term: Term,
    vote: Option<NodeId>,
    commit: Index,
}

impl Checkpoint {
    pub fn of(raft: &Raft) -> Checkpoint {
        Checkpoint { term: raft.core.term, vote: raft.core.vote, commit: raft.core.commit }
    }

    pub fn verify(self, raft: &Raft) {
        let core = &raft.core;
        assert!(core.term >= self.term, "I1: the term fell from {} to {}", self.term, core.term);
        assert!(
            core.term > self.term || self.vote.is_none() || core.vote == self.vote,
            "I2: the vote of term {} went from {:?} to {:?}",
            core.term,
            self.vote,
            core.vote
        );
        assert!(
            core.commit >= self.commit,
            "I3: the commit index fell from {} to {}",
            self.commit,
            core.commit
        );
        let last = core.log.last_index();
        assert!(core.commit <= last, "I3: entry {} is committed, but the log ends at {last}", core.commit);
    }
}

/// Panics, naming the invariant, when one does not hold.
pub(super) fn check(raft: &Raft) {
    let core = &raft.core;
    let last = core.log.last();
    assert!(last.term <= core.term, "I4: the log ends at {last:?} in term {}", core.term);
    assert!(core.log.is_consistent(), "I4: {:?}", core.log);
    assert!(core.disk.durable() <= last.index, "I5: durable {} of {last:?}", core.disk.durable());
    let ends = core.holes.first().zip(core.holes.last());
    let within = ends.is_none_or(|(first, end)| *first > core.log.base().index && *end <= last.index);
    assert!(within && core.holes.is_sorted_by(|a, b| a < b), "I13: {:?} with {last:?}", core.holes);
    match &raft.state {
        State::Follower(follower) => {
            assert!(follower.verified <= last.index, "I6: {follower:?} with {last:?}");
        }
        State::PreCandidate(_) => assert!(core.may_vote(), "I14"),
        State::Candidate(_) => {
            assert_eq!(core.vote, Some(core.id()), "I7");
            assert!(core.may_vote(), "I14");
        }
        State::Leader(leader) => check_leader(core, leader),
    }
    let membership = core.membership();
    let untold = core.log.membership_index() == core.log.base().index && membership.voters.is_empty();
    assert!(membership.is_valid() || untold, "I12: {membership:?}");
}

fn check_leader(core: &Core, leader: &Leader) {
    let last = core.log.last();
    assert!(core.trust == Trust::Full, "I14");
    assert!(core.vote == Some(core.id()) && core.disk.hard_state_durable(), "I8: {:?}", core.disk);
    let compacted = leader.no_op <= core.log.base().index;
    let starts = compacted
        || core.log.term_at(leader.no_op) == Some(core.term)
            && core.log.term_at(leader.no_op - 1).is_none_or(|term| term < core.term);
    assert!(starts, "I8: term {} does not start at {}", core.term, leader.no_op);
    let others: Vec<NodeId> = core.membership().nodes().filter(|id| *id != core.id()).collect();
    assert!(
        others.iter().all(|id| leader.peers.get(id).is_some_and(|p| !p.leaving)),
        "I9: a member is unknown"
    );
    for (id, peer) in &leader.peers {
        assert!(*id != core.id() && (peer.leaving || others.contains(id)), "I9: {id} is no member");
        assert!(peer.is_consistent(last.index), "I10: {id}: {peer:?} with {last:?}");
    }
    let forgotten = leader.peers.values().any(|peer| peer.forgotten.is_some());
    if !forgotten && core.commit >= leader.no_op && core.log.membership_index() <= core.commit {
        let durable = |id: &NodeId| match leader.peers.get(id) {
            Some(peer) => peer.matched,
            None => core.disk.durable(),
        };
        let voters = &core.membership().voters;
        let holding = voters.iter().filter(|id| durable(id) >= core.commit).count();
        assert!(
            2 * holding > voters.len(),
            "I11: {} is committed, held by {holding} of {voters:?}",
            core.commit
        );
    }
}
