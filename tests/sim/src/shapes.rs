//! Partitions that leave everybody somebody to talk to: chains and bridges, where two that cannot see each other have
//! neighbours in common; and half-open connections, which are dead in one direction until their time is over.

use crate::coverage;
use crate::network::Host;
use crate::simulation::{Event, Simulation};

/// Bounds of the time after which a connection that brings nothing is closed and dialled again.
const SILENCE_US: (u64, u64) = (500_000, 4_000_000);

impl Simulation {
    /// A-B-C-..: each sees its neighbours only.
    pub fn chain(&mut self, _: Host) {
        let mut order: Vec<Host> = (0..self.machines.len()).collect();
        for place in (1..order.len()).rev() {
            order.swap(place, self.faults.index(place + 1));
        }
        if order.len() > 2 {
            coverage::mark("chain");
        }
        for (place, one) in order.iter().enumerate() {
            order.iter().skip(place + 2).for_each(|other| self.network.cut_pair(*one, *other));
        }
    }

    /// Two sides that see only one machine of the other.
    pub fn bridge(&mut self, bridge: Host) {
        let side = self.faults.draw();
        for one in (0..self.machines.len()).filter(|one| *one != bridge) {
            for other in (0..one).filter(|other| *other != bridge) {
                if side >> one & 1 != side >> other & 1 {
                    coverage::mark("pair with a bridge between them");
                    self.network.cut_pair(one, other);
                }
            }
        }
    }

    /// What `host` sends is taken and arrives nowhere, and nobody is told, until the connection's own time is over.
    pub fn half_open(&mut self, host: Host) {
        let other = self.faults.index(self.machines.len());
        if other == host || self.network.is_cut(host, other) {
            return;
        }
        coverage::mark("connection half open");
        self.network.cut_direction(host, other);
        let for_us = self.faults.between(SILENCE_US.0, SILENCE_US.1);
        self.queue.after(for_us, Event::HalfOpenOver { from: host, to: other });
    }

    /// The dead connection is closed, and another one takes its place.
    pub fn half_open_over(&mut self, from: Host, to: Host) {
        if self.network.is_cut(from, to) && !self.network.is_cut(to, from) {
            self.hint_down(from, to);
            self.network.mend_direction(from, to);
            self.link_up(from, to);
        }
    }
}
