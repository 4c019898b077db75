//! What a membership must be, and which changes of it are allowed.

use super::message::{Membership, NodeId};

impl Membership {
    pub fn is_voter(&self, id: NodeId) -> bool {
        self.voters.contains(&id)
    }

    pub fn is_learner(&self, id: NodeId) -> bool {
        self.learners.contains(&id)
    }

    /// All nodes, voters first.
    pub fn nodes(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.voters.iter().chain(self.learners.iter()).copied()
    }

    /// At least one voter, nobody in both roles, no node 0.
    pub(super) fn is_valid(&self) -> bool {
        !self.voters.is_empty() && self.voters.is_disjoint(&self.learners) && self.nodes().all(|id| id != 0)
    }

    /// Whether `next` may follow: at most one node is added, removed, or changes its role. Then any majority of the
    /// one and any majority of the other share a node (dissertation 4.1). None: what the driver knows of the nodes
    /// has changed, and nothing for the core.
    pub(super) fn may_become(&self, next: &Membership) -> bool {
        let mut touched = 0;
        let mut all: Vec<NodeId> = self.nodes().chain(next.nodes()).collect();
        all.sort_unstable();
        all.dedup();
        for id in all {
            let before = (self.is_voter(id), self.is_learner(id));
            let after = (next.is_voter(id), next.is_learner(id));
            touched += usize::from(before != after);
        }
        next.is_valid() && touched <= 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(voters: &[NodeId], learners: &[NodeId]) -> Membership {
        Membership { voters: voters.iter().copied().collect(), learners: learners.iter().copied().collect() }
    }

    #[test]
    fn one_node_at_a_time() {
        let now = members(&[1, 2, 3], &[4]);
        assert!(now.may_become(&members(&[1, 2, 3, 4], &[])), "promotion");
        assert!(now.may_become(&members(&[1, 2], &[3, 4])), "demotion");
        assert!(now.may_become(&members(&[1, 2, 3], &[4, 5])), "new learner");
        assert!(now.may_become(&members(&[1, 2, 3], &[])), "learner leaves");
        assert!(now.may_become(&members(&[2, 3], &[4])), "voter leaves");
        assert!(now.may_become(&now.clone()), "a node has moved");
        assert!(!now.may_become(&members(&[1, 2], &[])), "two leave");
        assert!(!now.may_become(&members(&[1, 2, 5], &[4])), "one replaced by another is two changes");
        assert!(!now.may_become(&members(&[1, 2, 3, 4], &[4])), "both roles");
        assert!(!members(&[1], &[]).may_become(&members(&[], &[])), "no voter left");
        assert!(!members(&[1], &[]).may_become(&members(&[1, 0], &[])), "node 0");
    }
}
