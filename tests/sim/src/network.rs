//! Frames between machines: lost, doubled, late, out of order, cut off; each direction by itself.

use crate::coverage;
use crate::plan::NetworkPlan;
use crate::random::Random;
use std::collections::{BTreeMap, BTreeSet};

/// A machine, by its place in the simulation.
pub type Host = usize;

pub struct Network {
    plan: NetworkPlan,
    random: Random,
    /// Delays have no long tails.
    steady: bool,
    /// Directions in which nothing arrives.
    cut: BTreeSet<(Host, Host)>,
    /// When the last frame of a direction arrives: a connection does not reorder.
    last_us: BTreeMap<(Host, Host), u64>,
}

impl Network {
    pub fn new(plan: NetworkPlan, random: Random) -> Network {
        Network { plan, random, steady: false, cut: BTreeSet::new(), last_us: BTreeMap::new() }
    }

    pub fn is_cut(&self, from: Host, to: Host) -> bool {
        self.cut.contains(&(from, to))
    }

    pub fn cut_direction(&mut self, from: Host, to: Host) {
        self.cut.insert((from, to));
    }

    pub fn mend_direction(&mut self, from: Host, to: Host) {
        self.cut.remove(&(from, to));
    }

    pub fn cut_pair(&mut self, one: Host, other: Host) {
        self.cut.extend([(one, other), (other, one)]);
    }

    /// Everything connects again; the pairs that did not.
    pub fn reconnect(&mut self) -> BTreeSet<(Host, Host)> {
        std::mem::take(&mut self.cut)
    }

    /// No fault from now on.
    pub fn heal(&mut self) -> BTreeSet<(Host, Host)> {
        self.plan = NetworkPlan { delay_us: self.plan.delay_us, ..NetworkPlan::default() };
        self.steady = true;
        self.reconnect()
    }

    fn delay_us(&mut self) -> u64 {
        match self.steady {
            true => self.plan.delay_us / 2 + self.random.below(self.plan.delay_us + 1),
            false => self.random.long_tailed(self.plan.delay_us),
        }
    }

    /// When a frame that is sent now arrives: once, twice, or never.
    pub fn arrivals(&mut self, from: Host, to: Host, now_us: u64) -> Vec<u64> {
        if self.is_cut(from, to) || self.random.chance(self.plan.loss_per_mille) {
            return Vec::new();
        }
        let copies = if self.random.chance(self.plan.duplication_per_mille) { 2 } else { 1 };
        let arrival = |_| {
            let late = self.random.chance(self.plan.late_per_mille);
            let delay_us = match late {
                true => {
                    coverage::mark("frame came very late");
                    self.random.below(self.plan.latest_us)
                }
                false => self.delay_us(),
            };
            let at_us = now_us + delay_us;
            if late || self.plan.reorders {
                return at_us;
            }
            let last_us = self.last_us.entry((from, to)).or_insert(0);
            *last_us = at_us.max(*last_us);
            *last_us
        };
        (0..copies).map(arrival).collect()
    }

    /// Delay between a client and a server; clients are not cut off.
    pub fn client_delay_us(&mut self) -> u64 {
        self.delay_us()
    }

    /// What becomes of a frame's bytes on the way: a peer that sends garbage is refused, never believed.
    pub fn garble(&mut self, kind: &mut u8, header: &mut Vec<u8>, payload: &mut Vec<u8>) {
        if !self.random.chance(self.plan.garbage_per_mille) {
            return;
        }
        coverage::mark("garbage on the wire");
        match self.random.below(4) {
            0 => *kind = 200 + self.random.below(50) as u8,
            1 => header.truncate(self.random.index(header.len())),
            2 => header.push(self.random.draw() as u8),
            _ if payload.is_empty() => payload.push(1),
            _ => {
                let at = self.random.index(payload.len());
                payload[at] ^= 1 << self.random.below(8);
            }
        }
    }
}
