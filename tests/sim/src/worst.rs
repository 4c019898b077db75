//! Faults at the worst moment rather than at any: when a node has begun to lead, while a change of the members is not
//! committed, when a snapshot is about to take the place of the log. What goes wrong there (Ongaro 2015 needs two
//! changes and two partitions in a row) is met by chance once in very many seeds.

use crate::coverage;
use crate::disk::Crash;
use crate::network::Host;
use crate::random::Random;
use crate::simulation::Simulation;
use redisraft::consensus::{Index, Role, Term};

pub struct Worst {
    random: Random,
    /// The last term that began with a leader.
    term: Term,
    /// The last change of members that a leader was seen with.
    change: (Term, Index),
}

impl Worst {
    pub fn new(random: Random) -> Worst {
        Worst { random, term: 0, change: (0, 0) }
    }
}

impl Simulation {
    /// Looks whether a node that had its turn, and has sent nothing of it yet, has just made such a moment.
    pub fn use_worst_moment(&mut self, host: Host) {
        let node = self.machines[host].process.as_ref().and_then(|process| process.node.as_ref());
        let Some(raft) = node.map(|node| node.raft()).filter(|raft| raft.role() == Role::Leader) else {
            return;
        };
        let (term, change, commit) = (raft.term(), raft.membership_index(), raft.commit());
        if self.healed {
            return;
        }
        if term > self.worst.term {
            self.worst.term = term;
            if self.worst.random.chance(self.plan.worst.election_per_mille) {
                self.disturb_election(host);
            }
        }
        if change > commit && (term, change) > self.worst.change {
            self.worst.change = (term, change);
            if self.worst.random.chance(self.plan.worst.change_per_mille) {
                self.disturb_change(host);
            }
        }
    }

    /// The new leader is asked to remove somebody before it has committed anything, or is cut off from some.
    fn disturb_election(&mut self, leader: Host) {
        coverage::mark("disturbed when it began to lead");
        if self.plan.weights.remove > 0 && self.worst.random.chance(600) {
            let target = self.worst.random.index(self.machines.len());
            self.remove_machine(leader, target);
        }
        if self.worst.random.chance(600) {
            let side = self.worst.random.draw();
            self.cut_in_two(side);
        }
    }

    /// The leader reaches one machine only: as likely as not the one that it has just made a voter.
    fn disturb_change(&mut self, leader: Host) {
        coverage::mark("cut off while members change");
        let newest = (0..self.machines.len()).max_by_key(|host| self.machines[*host].last_id);
        let anybody = self.worst.random.index(self.machines.len());
        let reached = newest.filter(|_| self.worst.random.chance(500)).unwrap_or(anybody);
        for other in (0..self.machines.len()).filter(|other| ![leader, reached].contains(other)) {
            self.network.cut_pair(leader, other);
            self.network.cut_pair(reached, other);
        }
    }

    /// A part of a snapshot has left this machine: the end of the file rots before it is read.
    pub fn rot_while_sending(&mut self, host: Host) {
        let chosen = !self.healed && self.worst.random.chance(self.plan.worst.sending_per_mille);
        if chosen && self.atlas_allows(host) {
            if let Some(damage) = self.machines[host].disk.rot_end_where(|name| name.ends_with(".rdb")) {
                coverage::mark("snapshot rots while it is sent");
                log::info!("machine {host}: {damage:?}");
            }
        }
    }

    /// A snapshot is there in full, and the log does not begin behind it yet.
    pub fn crash_on_receipt(&mut self, host: Host) {
        if !self.healed && self.worst.random.chance(self.plan.worst.receipt_per_mille) {
            coverage::mark("crashed when a snapshot had come");
            let crash = *self.worst.random.pick(&[Crash::Process, Crash::Power]);
            self.crash_as(host, crash);
        }
    }
}
