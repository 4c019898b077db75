//! A rolling restart, as an administrator does it: one node after the other is shut down, a leader hands over first
//! (`src/redis/shutdown.rs`), and the next one is not touched before the last one is back.

use crate::coverage;
use crate::disk::Crash;
use crate::network::Host;
use crate::simulation::{Event, Simulation};
use redisraft::consensus::Role;
use redisraft::node::bridge::{Ticket, ToRaft};

/// Between two looks of the administrator.
const LOOK_US: u64 = 20_000;
/// A leader that has not handed over by then shuts down all the same (`transfer-timeout`).
const HAND_OVER_US: u64 = 2_000_000;
/// From the hand-over to the shutdown.
const LINGER_US: u64 = 50_000;
/// A node that is not back by then is left alone.
const PATIENCE_US: u64 = 5_000_000;

#[derive(Clone, Copy)]
enum Stage {
    Up,
    HandingOver { ticket: Ticket, until_us: u64 },
    ShuttingDown { at_us: u64 },
    ComingBack { until_us: u64 },
}

pub struct Rolling {
    host: Host,
    /// The process that is to end.
    life: u64,
    stage: Stage,
}

impl Simulation {
    pub fn restart_all(&mut self) {
        if self.rolling.is_none() {
            self.rolling = Some(Rolling { host: 0, life: self.machines[0].life, stage: Stage::Up });
            self.queue.after(0, Event::RollingRestart);
        }
    }

    /// The administrator looks, and goes on.
    pub fn go_on_restarting(&mut self) {
        let Some(Rolling { host, life, stage }) = self.rolling.take().filter(|_| !self.healed) else {
            return;
        };
        let now_us = self.now_us();
        let next = match stage {
            _ if host == self.machines.len() => return coverage::mark("rolling restart finished"),
            Stage::Up => match self.ask_to_hand_over(host) {
                Some(ticket) => Stage::HandingOver { ticket, until_us: now_us + HAND_OVER_US },
                None => Stage::ShuttingDown { at_us: now_us },
            },
            Stage::HandingOver { ticket, until_us } => {
                let answered = !self.machines[host].transfers.contains(&ticket);
                match answered || now_us >= until_us {
                    true => Stage::ShuttingDown { at_us: now_us + LINGER_US },
                    false => stage,
                }
            }
            Stage::ShuttingDown { at_us } if now_us < at_us => stage,
            Stage::ShuttingDown { .. } => {
                // One that has died meanwhile comes back by itself; one in memory must wait for the others.
                if self.machines[host].life == life {
                    self.crash_as(host, Crash::Process);
                }
                match self.machines[host].process.as_ref().is_some_and(|process| process.life == life) {
                    true => stage,
                    false => Stage::ComingBack { until_us: now_us + PATIENCE_US },
                }
            }
            Stage::ComingBack { until_us } if now_us < until_us && !self.is_back(host) => stage,
            Stage::ComingBack { .. } => {
                let life = self.machines.get(host + 1).map_or(0, |machine| machine.life);
                self.rolling = Some(Rolling { host: host + 1, life, stage: Stage::Up });
                return self.queue.after(LOOK_US, Event::RollingRestart);
            }
        };
        self.rolling = Some(Rolling { host, life, stage: next });
        self.queue.after(LOOK_US, Event::RollingRestart);
    }

    /// The ticket of a leader's hand-over.
    fn ask_to_hand_over(&mut self, host: Host) -> Option<Ticket> {
        let machine = &mut self.machines[host];
        let process = machine.process.as_mut()?;
        process.node.as_ref().filter(|node| node.raft().role() == Role::Leader)?;
        coverage::mark("leader shuts down");
        let ticket = process.server.new_ticket();
        machine.transfers.insert(ticket);
        process.world.bridge.tell_raft(ToRaft::Transfer { ticket, target: None });
        self.plan_turns(host);
        Some(ticket)
    }

    /// The node is a member that knows who leads, and holds what is committed there.
    fn is_back(&self, host: Host) -> bool {
        let node_on = |host: Host| self.machines[host].process.as_ref()?.node.as_ref();
        let Some(raft) = node_on(host).map(|node| node.raft()) else { return false };
        let leading = self.leader().and_then(node_on).map(|node| node.raft());
        leading.is_some_and(|leading| {
            raft.leader() == leading.leader() && raft.is_voter() && raft.commit() >= leading.base().index
        })
    }
}
