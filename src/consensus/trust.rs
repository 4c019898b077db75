//! Nodes whose log is not what they acknowledged: impaired ones, and distrusted ones. Neither votes nor stands.
//!
//! # Impaired: holes
//!
//! Of some entries only index, term and kind are left; the payload cannot be read. The picture of the log is whole, so
//! Log Matching holds and consistency checks stay right: such a node follows, and the peers give the payloads back.
//! An acknowledgement never names a hole that is not known to be committed: it says that an entry can be had here
//! ([`Core::intact`]). Refusing to vote is always safe; it keeps a node from leading that could not send its entries.
//!
//! A leader that becomes impaired leads on. It was elected for its positions, which it still has; what it commits by
//! counting leaves its own holes out; and a committed entry is, or was, on other nodes of a majority. Only a hole that
//! is not committed may be an entry that nobody else has. Then nothing behind it can be committed either, so the leader
//! gives way if the hole is not filled within an election timeout.
//!
//! # Distrusted: entries were cut away
//!
//! ```text
//!   follower, nonce n                      leader
//!      | <---------- Append ----------------- |
//!      | ----------- Forgot n --------------> |  matched = 0, a new round r, through = end of its log
//!      | <---------- Remember n, through ---- |
//!      | <---------- Append, round r -------- |  (probing, then everything from where the logs agree)
//!      | ----------- Appended, round r -----> |  counts
//!      |  durable up to through: writes that it is trusted, and votes when that is durable
//! ```
//!
//! Claim: a node B that is trusted holds every entry that was committed with the help of an acknowledgement of B's,
//! before or after the cut, or will be.
//!
//! 1. Every leader elected while B is distrusted has all committed entries, B's lost copies counted or not. Two
//!    majorities of the same voters share a node; B did not vote, so the set of those that acknowledged (without B: at
//!    least a majority less one) and the set that voted (a majority out of the voters without B) share a node other
//!    than B. The same holds for several distrusted nodes: none of them votes.
//! 2. B regains trust under one leader L in one term, at least as high as any in which B acknowledged before the cut,
//!    because the cut leaves B's term alone. What earlier leaders commit, L has by 1. What L itself commits with the
//!    help of an acknowledgement from before the cut is not beyond the end of L's log when L heard of the cut:
//!    `through`; from then on L counts only answers to messages with a later round, which B has sent after the cut.
//!    This does not depend on the order in which messages arrive.
//! 3. So when B holds L's log up to `through`, compared in L's term and durable, nothing is missing. Until the write
//!    that says so is durable, B does not vote: a crash leaves it distrusted, and under a new nonce.
//! 4. With another leader or term, before that, it begins anew (`Follower::whole_at` belongs to one of both).
//!
//! L's commit index does not fall when B forgets: what was committed stays decided, on fewer copies.

use super::io::Output;
use super::message::{Body, Index, NodeId, Nonce, WriteId};
use super::raft::{Raft, State};

/// Whether the end of this node's log may be missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trust {
    Full,
    /// Acknowledged entries may be missing; `nonce` names this start of the process.
    Lost {
        nonce: Nonce,
    },
    /// Nothing is missing any more; the write that says so is not durable yet.
    Regaining {
        write: WriteId,
    },
}

impl Raft {
    /// The entries whose payload cannot be read are these now.
    pub(super) fn impaired(&mut self, holes: Vec<Index>, outputs: &mut Vec<Output>) {
        self.core.holes = holes;
        let deadline_us = self.core.draw_election_deadline_us();
        match &mut self.state {
            State::PreCandidate(_) | State::Candidate(_) if !self.core.may_vote() => {
                self.become_follower(self.core.term, None, outputs);
            }
            State::PreCandidate(_) | State::Candidate(_) => {}
            State::Follower(follower) => {
                // It may have been due while it was not allowed to stand.
                follower.wait_until(follower.election_deadline_us.max(deadline_us));
                self.acknowledge(outputs);
            }
            State::Leader(leader) => {
                leader.hole_deadline_us = match self.core.has_open_hole() {
                    true => {
                        leader.hole_deadline_us.min(self.core.now_us + self.core.settings.election_timeout_us)
                    }
                    false => u64::MAX,
                };
                self.leader_progressed(outputs);
            }
        }
    }

    /// A peer has lost what it had acknowledged. Under a nonce that is news, it is counted anew.
    pub(super) fn on_forgot(&mut self, from: NodeId, nonce: Nonce, outputs: &mut Vec<Output>) {
        let Raft { core, state: State::Leader(leader), .. } = self else { return };
        let Some(peer) = leader.peers.get_mut(&from) else { return };
        peer.heard(core.now_us, 0);
        let known = peer.forgotten.filter(|forgotten| forgotten.nonce == nonce);
        let through = known.map_or(core.log.last_index(), |forgotten| forgotten.through);
        core.send(from, Body::Remember { nonce, through }, outputs);
        if known.is_none() {
            peer.forget(nonce, through, leader.reads.fence());
            leader.heartbeat_all(core, outputs);
        }
    }

    /// The leader counts this node anew, and says what makes it whole.
    pub(super) fn on_remember(&mut self, from: NodeId, nonce: Nonce, through: Index) {
        let Raft { core, state: State::Follower(follower), .. } = self else { return };
        if follower.leader == Some(from) && core.trust == (Trust::Lost { nonce }) {
            follower.whole_at = Some(through);
        }
    }

    /// Writes that this node is trusted again, if nothing is missing any more.
    pub(super) fn regain_trust(&mut self, outputs: &mut Vec<Output>) {
        let Raft { core, state: State::Follower(follower), .. } = self else { return };
        let held = core.disk.durable().min(follower.verified);
        let whole = follower.whole_at.is_some_and(|through| held >= through);
        if whole && matches!(core.trust, Trust::Lost { .. }) {
            core.trust = Trust::Regaining { write: core.write(None, None, true, outputs) };
        }
    }

    /// A write has become durable, perhaps the one that says that this node is trusted again.
    pub(super) fn trust_regained(&mut self) {
        let core = &mut self.core;
        if !matches!(core.trust, Trust::Regaining { write } if core.disk.is_durable(write)) {
            return;
        }
        core.trust = Trust::Full;
        let deadline_us = core.draw_election_deadline_us();
        if let State::Follower(follower) = &mut self.state {
            follower.wait_until(deadline_us);
        }
    }
}
