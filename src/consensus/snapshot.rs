//! Snapshots as the core sees them: the log loses its beginning, or all of it, to a state that holds the same.

use super::io::Output;
use super::leader::Leader;
use super::log_view::LogView;
use super::message::{Index, Membership, Position};
use super::raft::{Core, Raft, State};

impl Raft {
    /// A durable snapshot holds everything up to `through`: the log starts behind it from now on.
    ///
    /// # Panics
    /// When an entry is dropped that is not committed and durable.
    pub(super) fn compacted(&mut self, through: Index) {
        let Raft { core, state, .. } = self;
        if through <= core.log.base().index {
            return;
        }
        let (commit, durable) = (core.commit, core.disk.durable());
        assert!(
            through <= commit && through <= durable,
            "entry {through} is not decided and durable (committed {commit}, durable {durable})"
        );
        core.log.compact(through);
        core.holes.retain(|hole| *hole > through);
        if let State::Leader(leader) = state {
            leader.compacted(core);
        }
    }

    /// The local state is that of `position`, durably, and the log on disk starts behind it - unless it holds
    /// `position`: then it stays as it is. Term and vote stay in any case.
    ///
    /// # Panics
    /// When this node leads or has writes under way: the driver waits for both to end.
    pub(super) fn installed(
        &mut self,
        position: Position,
        membership: Membership,
        outputs: &mut Vec<Output>,
    ) {
        if !self.core.log.holds(position) {
            assert!(!matches!(self.state, State::Leader(_)), "a leader holds all that is committed");
            if position.term > self.core.term {
                self.become_follower(position.term, None, outputs);
            }
            let core = &mut self.core;
            let changed = **core.log.membership() != membership;
            core.log = LogView::new(position, membership);
            core.disk.restart(position.index);
            core.holes.clear();
            if changed {
                outputs.push(Output::MembershipChanged { membership: core.membership().clone() });
            }
        }
        self.core.commit_up_to(position.index, outputs);
        if let State::Follower(follower) = &mut self.state {
            follower.holds_all_up_to(position.index);
        }
        self.core.save_hard_state(outputs);
        self.acknowledge(outputs);
    }
}

impl Leader {
    /// Peers that still need what was dropped are asked whether they hold the base; who does not is sent a snapshot.
    fn compacted(&mut self, core: &Core) {
        let base = core.log.base().index;
        for peer in self.peers.values_mut().filter(|peer| peer.matched < base) {
            if peer.awaits_snapshot() {
                peer.await_snapshot(base + 1);
            } else if peer.next <= base + 1 || !peer.is_probing() {
                peer.probe_from(base + 1);
            }
        }
    }
}
