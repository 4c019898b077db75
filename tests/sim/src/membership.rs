//! Members that go and come back: `RAFT.NODE REMOVE`, and what becomes of the node that was taken out.

use crate::coverage;
use crate::network::Host;
use crate::simulation::Simulation;
use redisraft::consensus::NodeId;
use redisraft::node::bridge::{Answer, ToRaft};
use std::path::Path;

/// Pause before a node that was removed joins anew.
const REST_US: u64 = 300_000;

impl Simulation {
    /// Somebody is to be taken out: a follower, the leader itself, one that is down, several at once.
    pub fn remove_nodes(&mut self, host: Host) {
        let several = if self.faults.chance(200) { 2 } else { 1 };
        for _ in 0..several {
            let target = match self.faults.chance(200) {
                true => host,
                false => self.faults.index(self.machines.len()),
            };
            self.remove_machine(host, target);
        }
    }

    /// Asks `host` to remove the node that is or was on `target`.
    pub fn remove_machine(&mut self, host: Host, target: Host) {
        let target = &self.machines[target];
        // Where nodes do not come back only the dead are taken out: one that dies at that moment would be one too many.
        if self.plan.in_memory.is_empty() || (target.in_memory && target.node_id().is_none()) {
            self.remove_node(host, target.last_id);
        }
    }

    fn remove_node(&mut self, host: Host, id: NodeId) {
        let machine = &mut self.machines[host];
        let Some(process) = machine.process.as_mut().filter(|process| process.node.is_some() && id > 0)
        else {
            return;
        };
        let ticket = process.server.new_ticket();
        machine.removals.insert(ticket, id);
        process.world.bridge.tell_raft(ToRaft::RemoveNode { ticket, id });
        self.plan_turns(host);
    }

    /// What a server answered to a removal.
    pub fn removal_answered(&mut self, host: Host, id: NodeId, answer: &Answer) {
        coverage::mark(match answer {
            Answer::Ok if self.machines[host].last_id == id => "leader removed itself",
            Answer::Ok => "node removed",
            Answer::Unknown { .. } => "removal of unknown outcome",
            _ => "removal refused",
        });
        if *answer == Answer::Ok {
            assert!(self.judge.was_removed(id), "node {id} is said to be removed, and is a member");
        }
    }

    /// Puts a node away that was taken out, as the runtime does.
    pub fn retire_if_removed(&mut self, host: Host) {
        let machine = &mut self.machines[host];
        let Some(process) = &mut machine.process else { return };
        let Some((id, store)) = process.retire_if_removed() else { return };
        assert!(self.judge.was_removed(id), "node {id} retires, and was not removed");
        coverage::mark("node retired");
        let promise = store.cutting();
        let (disk, _) = store.close();
        let archive = format!("{}.removed-{id}", crate::store::DIRECTORY);
        disk.move_directory(Path::new(crate::store::DIRECTORY), Path::new(&archive));
        machine.promise = Some(promise);
        let life = machine.life;
        self.join_after(REST_US, host, life);
    }

    /// A machine gets another address with its next process.
    pub fn move_machine(&mut self, host: Host) {
        let machine = &mut self.machines[host];
        machine.moves += 1;
        let (host, moves) = (host, machine.moves);
        machine.names.address = format!("n{host}-{moves}:5000");
        machine.names.peer_address = format!("n{host}-{moves}:15000");
        coverage::mark("machine moved");
    }
}
