//! The votes of one election, or of one pre-vote.

use std::collections::BTreeSet;

use super::message::{Membership, NodeId};
use super::quorum::majority;

/// Who has said yes. Noes are not counted: a poll that is not won ends with its deadline.
#[derive(Debug, Default)]
pub(super) struct Poll {
    granted: BTreeSet<NodeId>,
}

impl Poll {
    pub fn grant(&mut self, id: NodeId) {
        self.granted.insert(id);
    }

    /// A majority of the voters has said yes; only voters count, whoever answered.
    pub fn is_won(&self, membership: &Membership) -> bool {
        let yes = self.granted.iter().filter(|id| membership.is_voter(**id)).count();
        yes >= majority(membership.voters.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_majority_of_voters_wins_and_nobody_counts_twice() {
        let membership = Membership { voters: [1, 2, 3].into(), learners: [4].into() };
        let mut poll = Poll::default();
        poll.grant(1);
        poll.grant(1);
        poll.grant(4);
        poll.grant(9);
        assert!(!poll.is_won(&membership));
        poll.grant(3);
        assert!(poll.is_won(&membership));
    }
}
