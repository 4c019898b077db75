//! Faults at the worst moment rather than at any: when a node has begun to lead, while a change of the members is not
//! committed, when a snapshot is about to take the place of the log. What goes wrong there (Ongaro 2015 needs two
//! changes and two partitions in a row) is met by chance once in more than 4,000 seeds.

use crate::coverage;
use crate::disk::Crash;
use crate::network::Host;
use crate::random::Random;
use crate::redis::Kill;
use crate::simulation::Simulation;
use redisraft::consensus::{Index, NodeId, Role, Term};
use std::collections::BTreeSet;
use std::path::Path;

pub struct Worst {
    random: Random,
    /// The last term that began with a leader.
    term: Term,
    /// The last change of members that a leader was seen with.
    change: (Term, Index),
    /// Who votes by the last change that was committed.
    voters: BTreeSet<NodeId>,
    /// A leader that was cut off with a voter that it has just made.
    apart: Option<[Host; 2]>,
    /// Servers that go on with their dataset, and whose feed is not cut yet.
    went_on: BTreeSet<Host>,
    // One for each kind of fault that came later: what it draws does not shift the others.
    regrouping: Random,
    rotting: Random,
    cutting: Random,
    isolating: Random,
}

impl Worst {
    pub fn new(seed: u64) -> Worst {
        Worst {
            random: Random::new(seed, 6),
            term: 0,
            change: (0, 0),
            voters: BTreeSet::new(),
            apart: None,
            went_on: BTreeSet::new(),
            regrouping: Random::new(seed, 7),
            rotting: Random::new(seed, 8),
            cutting: Random::new(seed, 9),
            isolating: Random::new(seed, 20),
        }
    }
}

impl Simulation {
    /// Looks whether a node that had its turn, and has sent nothing of it yet, has just made such a moment.
    pub fn use_worst_moment(&mut self, host: Host) {
        self.cut_first_feed(host);
        let node = self.machines[host].process.as_ref().and_then(|process| process.node.as_ref());
        let Some(raft) = node.map(|node| node.raft()).filter(|raft| raft.role() == Role::Leader) else {
            return;
        };
        let (term, change, commit) = (raft.term(), raft.membership_index(), raft.commit());
        // Copied only for who plays with it: this is every turn of a leader.
        let voters = match self.plan.worst.regroup_per_mille {
            0 => BTreeSet::new(),
            _ => raft.membership().voters.clone(),
        };
        if self.healed {
            return;
        }
        if self.worst.isolating.chance(self.plan.worst.isolate_per_mille) {
            self.isolate(host);
        }
        if term > self.worst.term {
            self.worst.term = term;
            let disturbs = self.worst.random.chance(self.plan.worst.election_per_mille);
            if !self.regroup(host) && disturbs {
                self.disturb_election(host);
            }
        }
        if change <= commit {
            self.worst.voters = voters;
        } else if (term, change) > self.worst.change {
            self.worst.change = (term, change);
            let disturbs = self.worst.random.chance(self.plan.worst.change_per_mille);
            if !self.cut_off_with_new_voter(host, &voters) && disturbs {
                self.disturb_change(host);
            }
        }
    }

    /// A server has gone on with its dataset, and has been sent something: it asks for the rest from where it thinks it is.
    fn cut_first_feed(&mut self, host: Host) {
        let process = self.machines[host].process.as_mut();
        if process.is_some_and(|process| std::mem::take(&mut process.world.went_on)) && !self.healed {
            self.worst.went_on.insert(host);
        }
        let waits = self.worst.went_on.contains(&host);
        if waits && self.worst.cutting.chance(self.plan.worst.feed_per_mille) {
            self.worst.went_on.remove(&host);
            self.cut_local(host, Kill::Feed);
        }
    }

    /// The others know at once that the leader cannot be reached, and it does not: they elect while it still answers - as
    /// long as nobody writes to it, since no read overtakes a write that waits.
    fn isolate(&mut self, leader: Host) {
        coverage::mark("leader cut off without knowing it");
        for other in (0..self.machines.len()).filter(|other| *other != leader) {
            self.network.cut_pair(leader, other);
            self.hint_down(other, leader);
        }
        self.send_writers_away(leader);
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
        self.cut_off(leader, reached);
    }

    fn cut_off(&mut self, leader: Host, reached: Host) {
        for other in (0..self.machines.len()).filter(|other| ![leader, reached].contains(other)) {
            self.network.cut_pair(leader, other);
            self.network.cut_pair(reached, other);
        }
    }

    /// A fifth or seventh voter: two majorities, each by its own change, can do without each other then.
    fn cut_off_with_new_voter(&mut self, leader: Host, voters: &BTreeSet<NodeId>) -> bool {
        let mut new = voters.difference(&self.worst.voters);
        let (Some(new), None) = (new.next(), new.next()) else { return false };
        let Some(reached) = (0..self.machines.len()).find(|host| self.machines[*host].last_id == *new) else {
            return false;
        };
        let decisive = voters.len() >= 5 && !voters.len().is_multiple_of(2) && reached != leader;
        if !decisive || !self.worst.regrouping.chance(self.plan.worst.regroup_per_mille) {
            return false;
        }
        self.cut_off(leader, reached);
        self.worst.apart = Some([leader, reached]);
        true
    }

    /// The others have elected somebody, who is asked to remove another voter at once; and the leader that was cut off with
    /// its change reaches one that has voted now.
    fn regroup(&mut self, leader: Host) -> bool {
        let Some(apart) = self.worst.apart.take().filter(|apart| !apart.contains(&leader)) else {
            return false;
        };
        let votes = |host: &Host| self.worst.voters.contains(&self.machines[*host].last_id);
        let others = (0..self.machines.len()).filter(|host| *host != leader && !apart.contains(host));
        let others: Vec<Host> = others.filter(votes).collect();
        if others.is_empty() {
            return false;
        }
        coverage::mark("regrouped while members change");
        let joined = *self.worst.regrouping.pick(&others);
        let target = *self.worst.regrouping.pick(&[apart[0], joined]);
        self.remove_machine(leader, target);
        let side = [apart[0], apart[1], joined];
        self.reconnect();
        self.cut_in_two(side.iter().map(|host| 1 << host).sum());
        true
    }

    /// A part of a snapshot has left this machine: the end of the file rots before it is read.
    pub fn rot_while_sending(&mut self, host: Host) {
        let chosen = !self.healed && self.worst.random.chance(self.plan.worst.sending_per_mille);
        if chosen && self.atlas_allows(host) {
            self.rot_end(host, "snapshot rots while it is sent", |name| name.ends_with(".rdb"));
        }
    }

    /// A child has written its dump, and nobody has looked at it.
    pub fn rot_dump(&mut self, host: Host, dump: &Path) {
        let chosen = !self.healed && self.worst.rotting.chance(self.plan.worst.dump_per_mille);
        if chosen && self.atlas_allows(host) {
            self.machines[host].disk.settle(); // the child has synced it
            self.rot_end(host, "dump rots before it is taken over", |name| Path::new(name) == dump);
        }
    }

    /// Of a file whose name will do.
    fn rot_end(&mut self, host: Host, mark: &'static str, will_do: impl Fn(&str) -> bool) {
        if let Some(damage) = self.machines[host].disk.rot_end_where(will_do) {
            coverage::mark(mark);
            log::info!("machine {host}: {damage:?}");
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
