//! Logs that lose their beginning, and the snapshots that stand for it.

use super::super::*;
use super::disk::{membership_at, position_of, Stored};
use super::world::{Event, World, NODES};

impl World {
    /// Somebody makes a snapshot of some of what it knows to be decided, and drops those entries.
    pub(super) fn compact(&mut self) {
        let id = 1 + self.random.below(NODES);
        let Some(machine) = self.machines.get_mut(&id) else { return };
        let Some(raft) = &machine.raft else { return };
        let (base, end) = (machine.disk.base, raft.commit().min(raft.durable()));
        if end <= base {
            return;
        }
        let through = base + 1 + self.random.below(end - base);
        machine.disk.base = through;
        machine.holes.retain(|hole| *hole > through);
        machine.disk.holes.retain(|hole| *hole > through);
        self.compactions += 1;
        self.input(id, Input::Compacted { through }, Vec::new());
    }

    /// What drivers do: as long as the core says that a peer needs a snapshot.
    pub(super) fn repeat_snapshots(&mut self) {
        for id in self.leaders() {
            let Some(raft) = &self.machines[&id].raft else { continue };
            let wanting: Vec<_> =
                raft.progress().filter(|(_, p)| p.needs_snapshot).map(|(id, _)| id).collect();
            wanting.into_iter().for_each(|to| self.send_snapshot(id, to));
        }
    }

    pub(super) fn send_snapshot(&mut self, from: NodeId, to: NodeId) {
        let Some(machine) = self.machines.get(&from) else { return };
        let index = machine.disk.base + self.random.below(machine.commit + 1 - machine.disk.base);
        let entries = machine.log[..index as usize].to_vec();
        if self.random.below(100) >= self.faults.loss && !self.cut.contains(&(from, to)) {
            let delay_us = 1_000 + self.random.below(40_000);
            self.schedule(self.now_us + delay_us, Event::Install { to, entries });
        }
    }

    /// The driver's part of an installation: nothing is under way, the log on disk is replaced, the core is told.
    pub(super) fn install(&mut self, id: NodeId, entries: Vec<Stored>) {
        let Some(machine) = self.machines.get(&id) else { return };
        let Some(raft) = &machine.raft else { return };
        let position = position_of(&entries, entries.len() as Index);
        if position.index <= machine.commit || raft.role() == Role::Leader {
            return;
        }
        let last_write = machine.pending.back().map(|pending| pending.write.id);
        if let Some(write) = last_write {
            self.disk_done(id, self.machines[&id].life, write);
        }
        let Some(machine) = self.machines.get_mut(&id) else { return };
        let Some(raft) = &machine.raft else { return };
        // The answers to the last writes may have led to new ones, or to leadership.
        if !machine.pending.is_empty() || raft.role() == Role::Leader {
            return;
        }
        if !raft.holds(position) {
            machine.log = entries.clone();
            machine.disk.log = entries.clone();
            machine.disk.base = position.index;
            machine.holes.clear();
            machine.disk.holes.clear();
            self.installations += 1;
        }
        let membership =
            membership_at(&entries, position.index).unwrap_or_else(|| Self::membership_at_start(1));
        self.input(id, Input::InstalledSnapshot { position, membership }, Vec::new());
    }
}
