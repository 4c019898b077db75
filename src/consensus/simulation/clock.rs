//! Clocks that run too fast or too slow, and what must hold of leases all the same.

use super::super::random::Random;
use super::super::*;
use super::world::{World, ELECTION_TIMEOUT_US, NODES};

/// One machine's clock. Its error is constant: a lease is short.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    /// What it shows after a million microseconds.
    rate: u64,
}

impl Clock {
    pub fn true_one() -> Clock {
        Clock { rate: 1_000_000 }
    }

    /// Up to a tenth off, and often exactly that.
    pub fn drawn(random: &mut Random) -> Clock {
        match random.below(3) {
            0 => Clock { rate: 900_000 },
            1 => Clock { rate: 1_100_000 },
            _ => Clock { rate: 900_000 + random.below(200_001) },
        }
    }

    /// What it shows at a true time.
    pub fn local_us(self, true_us: u64) -> u64 {
        (u128::from(true_us) * u128::from(self.rate) / 1_000_000) as u64
    }

    /// When it shows `local_us`, or a moment later.
    pub fn true_us(self, local_us: u64) -> u64 {
        let rate = u128::from(self.rate);
        u64::try_from((u128::from(local_us) * 1_000_000).div_ceil(rate)).unwrap_or(u64::MAX)
    }
}

impl World {
    /// `id` leads in `term`: no leader of an earlier term may answer reads by itself now, whatever it has heard.
    pub(super) fn verify_leases(&self, id: NodeId, term: Term) {
        for (other, machine) in &self.machines {
            let Some(raft) = &machine.raft else { continue };
            let holds = machine.clock.local_us(self.now_us) < raft.lease_until_us();
            assert!(
                !holds || raft.term() >= term || *other == id,
                "{id} leads in term {term}, and {other} of term {} has a lease",
                raft.term()
            );
        }
    }

    /// What the driver's main thread does: it looks at the lease it was told of, and at its clock.
    pub(super) fn read_by_lease(&mut self, id: NodeId) {
        let machine = &self.machines[&id];
        let Some(raft) = &machine.raft else { return };
        if machine.clock.local_us(self.now_us) < raft.lease_until_us() {
            let known = self.judge.committed.len() as Index;
            assert!(machine.commit >= known, "{id} reads {} of {known} committed", machine.commit);
            self.reads_by_lease += 1;
        }
    }

    /// What a lease must be proof against: a leader that the others take for dead, one that a voter does not hear any more,
    /// and a voter that restarts at once.
    pub(super) fn trouble_leases(&mut self, id: NodeId, other: NodeId) {
        match self.random.below(5) {
            0 => self.change_lease(id),
            1 => {
                for peer in (1..=NODES).filter(|peer| *peer != id) {
                    self.cut.extend([(id, peer), (peer, id)]);
                    self.input(peer, Input::PeerUnreachable { peer: id }, Vec::new());
                }
            }
            2 | 3 => self.cut.extend([(id, other), (other, id)]),
            _ if self.machines[&other].raft.is_some() => {
                self.crash(other);
                self.start(other);
            }
            _ => {}
        }
    }

    /// The setting changes on one node, at run time.
    fn change_lease(&mut self, id: NodeId) {
        let lease_us = match self.random.below(4) {
            0 => 0,
            1 => ELECTION_TIMEOUT_US / 2,
            2 => ELECTION_TIMEOUT_US * 2,
            _ => ELECTION_TIMEOUT_US,
        };
        self.machines.get_mut(&id).expect("a machine").lease_us = lease_us;
        let settings = self.settings(id);
        self.input(id, Input::Reconfigure { settings }, Vec::new());
    }
}
