//! Nodes that keep their log in memory (`raft.persist no`): the end of a process is the end of its node, and the machine
//! joins anew under another id, which takes the place of the old one.
//!
//! A node that is gone keeps its seat until it is taken out. The atlas lets so many of them end that a majority of the
//! seats is left, in whatever membership any log may bring into force.

use crate::coverage;
use crate::machine::Machine;
use crate::network::Host;
use crate::simulation::Simulation;
use redisraft::consensus::{Membership, NodeId};

impl Machine {
    /// The node with this id is here, or comes back here.
    fn keeps(&self, id: NodeId) -> bool {
        match self.in_memory {
            true => self.node_id() == Some(id),
            false => self.last_id == id,
        }
    }

    /// The process has ended; `was_member`: with a node.
    pub fn forget_node(&mut self, was_member: bool) {
        self.wipe();
        self.membership = Membership::default();
        if was_member {
            coverage::mark("log in memory lost");
        }
    }

    fn known_membership(&self) -> &Membership {
        let node = self.process.as_ref().and_then(|process| process.node.as_ref());
        node.map_or(&self.membership, |node| node.raft().membership())
    }
}

impl Simulation {
    /// Whether the process on this machine may end now.
    pub fn atlas_allows_end(&self, host: Host) -> bool {
        let ends = self.machines[host].node_id().filter(|_| self.machines[host].in_memory);
        ends.is_none_or(|id| {
            let memberships = self.machines.iter().map(Machine::known_membership);
            memberships.filter(|members| !members.voters.is_empty()).all(|members| self.survives(members, id))
        })
    }

    /// Whether the seats that are left without node `ends` are a majority. A learner's seat may become a voter's.
    fn survives(&self, members: &Membership, ends: NodeId) -> bool {
        let is_lost = |id: &&NodeId| **id == ends || !self.machines.iter().any(|machine| machine.keeps(**id));
        let lost = members.voters.iter().chain(&members.learners).filter(is_lost).count();
        2 * lost < members.voters.len()
    }
}
