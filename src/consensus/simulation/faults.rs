//! What goes wrong with the simulated machines, and what is brought back.

use super::super::*;
use super::world::{Event, Machine, World, NODES};

/// What may go wrong. The numbers are percent of messages.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Faults {
    pub loss: u64,
    pub duplication: u64,
    pub reordering: u64,
    pub partitions: bool,
    pub crashes: bool,
    pub membership: bool,
    /// Links are said to be broken that are not, and nodes that they must not stand.
    pub false_hints: bool,
    /// Logs lose their beginning, and whoever needs it is sent a snapshot.
    pub compaction: bool,
    /// Payloads of durable entries become unreadable, and ends of logs are cut away, on one node at a time.
    pub damage: bool,
    /// Leaders answer reads by themselves, on clocks that run up to a tenth too fast or too slow; the setting changes,
    /// processes die and are back at once.
    pub leases: bool,
}

impl World {
    pub(super) fn fault(&mut self) {
        let anybody = 1 + self.random.below(NODES);
        let other = 1 + self.random.below(NODES);
        // Leaders are hit more often: what they alone hold is what can go wrong.
        let id = self.leaders().pop().filter(|_| self.random.below(2) == 0).unwrap_or(anybody);
        let Faults { partitions, crashes, membership, false_hints, damage, leases, .. } = self.faults;
        match self.random.below(if damage { 14 } else { 10 }) {
            _ if leases && self.random.below(2) == 0 => self.trouble_leases(id, other),
            0 | 1 if partitions => self.partition(id, other),
            2 | 3 if partitions => self.cut.clear(),
            4 | 5 if crashes && self.machines[&id].raft.is_some() => {
                self.crash(id);
                if leases && self.random.below(2) == 0 {
                    self.start(id);
                }
                for peer in 1..=NODES {
                    self.input(peer, Input::PeerUnreachable { peer: id }, Vec::new());
                }
            }
            6 if false_hints => self.input(id, Input::PeerUnreachable { peer: other }, Vec::new()),
            7 if false_hints => self.input(id, Input::PeerReachable { peer: other }, Vec::new()),
            8 if membership => self.change_membership(other),
            9 if membership => {
                let target = (self.random.below(2) == 0).then_some(other);
                self.leaders()
                    .into_iter()
                    .for_each(|id| self.input(id, Input::Transfer { target }, Vec::new()));
            }
            0..4 if false_hints => {
                let abstain = self.random.below(2) == 0;
                self.input(id, Input::Abstain { abstain }, Vec::new());
            }
            10 | 11 => self.damage(id),
            12 | 13 => self.cut_log(id),
            _ => {}
        }
        self.match_logs();
        for id in 1..=NODES {
            if self.machines[&id].raft.is_none() && self.random.below(3) == 0 {
                self.start(id);
            }
        }
        let pause_us = 20_000 + self.random.below(200_000);
        self.schedule(self.now_us + pause_us, Event::Fault);
    }

    /// No other node lacks anything: then what one loses is still on a majority less one, and no more is lost.
    pub(super) fn others_are_whole(&self, id: NodeId) -> bool {
        let whole = |machine: &Machine| machine.disk.cut_at.is_none() && machine.disk.holes.is_empty();
        self.machines.iter().all(|(other, machine)| *other == id || whole(machine))
    }

    /// Some durable entries cannot be read any more.
    pub(super) fn damage(&mut self, id: NodeId) {
        let durable = match &self.machines[&id].raft {
            // What a sole voter loses is lost.
            Some(raft) if raft.membership().voters.len() < 2 => return,
            Some(raft) => raft.durable(),
            None => self.machines[&id].disk.log.len() as Index,
        };
        let base = self.machines[&id].disk.base;
        if durable <= base || !self.others_are_whole(id) {
            return;
        }
        for _ in 0..=self.random.below(4) {
            // The newest entries are the interesting ones.
            let newest = self.random.below(2) == 0;
            let hole = if newest {
                durable - self.random.below((durable - base).min(3))
            } else {
                base + 1 + self.random.below(durable - base)
            };
            let machine = self.machines.get_mut(&id).expect("a machine");
            machine.disk.holes.insert(hole);
            machine.holes.insert(hole);
        }
        self.report_holes(id);
        let life = self.machines[&id].life;
        self.schedule(self.now_us + 5_000, Event::Heal { id, life });
    }

    pub(super) fn report_holes(&mut self, id: NodeId) {
        let holes = self.machines[&id].holes.iter().copied().collect();
        self.input(id, Input::Impaired { holes }, Vec::new());
    }

    /// What another node can give is read and written again.
    pub(super) fn fill_holes(&mut self, id: NodeId) {
        let machine = &self.machines[&id];
        let filled = machine.holes.iter().find(|hole| {
            let at = **hole as usize - 1;
            self.machines.iter().any(|(other, from)| {
                *other != id
                    && from.raft.is_some()
                    && !self.cut.contains(&(id, *other))
                    && !self.cut.contains(&(*other, id))
                    && !from.holes.contains(hole)
                    && from.log.get(at) == machine.log.get(at)
            })
        });
        if let Some(filled) = filled.copied() {
            let machine = self.machines.get_mut(&id).expect("a machine");
            machine.disk.holes.remove(&filled);
            machine.holes.remove(&filled);
            self.report_holes(id);
        }
        if !self.machines[&id].holes.is_empty() {
            let pause_us = 1_000 + self.random.below(if self.faults.damage { 100_000 } else { 1_000 });
            let life = self.machines[&id].life;
            self.schedule(self.now_us + pause_us, Event::Heal { id, life });
        }
    }

    /// The process dies, and an operator cuts the end of its log off.
    pub(super) fn cut_log(&mut self, id: NodeId) {
        let machine = &self.machines[&id];
        let Some(raft) = &machine.raft else { return };
        // What a sole voter loses is lost.
        if machine.disk.log.is_empty() || raft.membership().voters.len() < 2 || !self.others_are_whole(id) {
            return;
        }
        self.crash(id);
        let known = self.judge.committed.len() as Index;
        let lost = 1 + self.random.below(5);
        let machine = self.machines.get_mut(&id).expect("a machine");
        let kept = machine.disk.log.len().saturating_sub(lost as usize).max(machine.disk.base as usize);
        machine.disk.log.truncate(kept);
        machine.disk.holes.split_off(&(kept as Index + 1));
        machine.disk.cut_at = Some(known);
    }

    pub(super) fn partition(&mut self, id: NodeId, other: NodeId) {
        match self.random.below(3) {
            // One node alone.
            0 => {
                for peer in 1..=NODES {
                    self.cut.extend([(id, peer), (peer, id)]);
                }
            }
            // One link, in one direction.
            1 => {
                self.cut.insert((id, other));
            }
            // Two sides.
            _ => {
                let side = self.random.below(1 << NODES);
                for (a, b) in (1..=NODES).flat_map(|a| (1..=NODES).map(move |b| (a, b))) {
                    if side >> (a - 1) & 1 != side >> (b - 1) & 1 {
                        self.cut.insert((a, b));
                    }
                }
            }
        }
    }
}
