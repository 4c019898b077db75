//! Taking a node out: when it may be done, and how a leader goes itself.
//!
//! A removal is refused while it would leave the cluster without a majority that can be reached: its entry could never be
//! committed. So there is no way to force one: removing a dead node needs only that the others are up.
//!
//! **A leader hands over first**, in the planned way that no client notices, and then asks its successor to be removed,
//! like any follower. The other way, to commit its own removal while it leads and to stop then, was not taken: between
//! that commit and the successor's first one whoever was held would be closed with an unknown outcome.

use super::bridge::{Answer, Ticket};
use super::change::{too_many, AskedBy, Change, Removal};
use super::notices::{encode, Notice};
use super::{Node, World};
use crate::consensus::{NodeId, Role};

/// A successor that has not taken this node out for this long after it was asked to hand over.
const LEAVING_US: u64 = 4_000_000;

/// Why a node cannot go.
pub(super) struct Obstacle {
    pub reason: String,
    /// Waiting does not help.
    pub lasting: bool,
}

/// How likely a voter is to answer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Standing {
    /// Its process is not there.
    Gone,
    /// It has not been heard for a moment.
    Silent,
    Up,
}

/// This node, which leads or has led, was told to remove itself.
pub(super) struct Leaving {
    tickets: Vec<Ticket>,
    until_us: u64,
    /// Leadership is being handed over, or is gone. Before, changes that were asked for earlier are waited for.
    begun: bool,
    /// When the new leader is asked again; `None`: it was not asked yet.
    ask_again_us: Option<u64>,
}

impl Leaving {
    pub fn deadline_us(&self) -> u64 {
        self.until_us.min(self.ask_again_us.unwrap_or(u64::MAX))
    }
}

impl Node {
    /// `RAFT.NODE REMOVE`.
    pub fn on_remove_node<W: World>(&mut self, world: &mut W, ticket: Ticket, id: NodeId) {
        if self.raft.role() != Role::Leader {
            let answer = self.not_leader();
            return world.bridge().answer(ticket, answer);
        }
        let now_us = world.now_us();
        let obstacle = match () {
            _ if self.was_removed(id) => Some(format!("node {id} was removed already")),
            _ if !self.members().0.contains_key(&id) => {
                Some(format!("node {id} is not a member, see RAFT.INFO"))
            }
            _ if !self.changes.have_room() => Some(too_many()),
            _ if id == self.id => {
                self.want_to_leave(ticket, now_us);
                None
            }
            _ => {
                let asked_by = AskedBy::Administrator(ticket);
                self.push_removal(id, asked_by, now_us);
                None
            }
        };
        if let Some(reason) = obstacle {
            world.bridge().answer(ticket, Answer::Refused(reason));
        }
    }

    fn push_removal(&mut self, id: NodeId, asked_by: AskedBy, now_us: u64) {
        let patience_until_us = now_us + 2 * self.settings.election_timeout_ms * 1000;
        self.changes.push(Change::Remove(Removal { id, asked_by, patience_until_us }));
    }

    /// Whether the members without `id` can go on: a majority of their voters is reachable, and of the present ones.
    pub(super) fn check_removal(&self, id: NodeId, now_us: u64) -> Result<(), Obstacle> {
        let voters: Vec<NodeId> = self.members().membership().voters.into_iter().collect();
        let left: Vec<NodeId> = voters.iter().copied().filter(|voter| *voter != id).collect();
        if left.is_empty() {
            let reason = format!("node {id} is the last voter: without it there is no cluster");
            return Err(Obstacle { reason, lasting: true });
        }
        let count = |of: &[NodeId], is: Standing| {
            of.iter().filter(|voter| self.standing(**voter, now_us) >= is).count()
        };
        let suffices = |is| count(&left, is) > left.len() / 2 && count(&voters, is) > voters.len() / 2;
        if left.len() == voters.len() || suffices(Standing::Up) {
            return Ok(());
        }
        let is_down = |voter: &&NodeId| self.standing(**voter, now_us) < Standing::Up;
        let down: Vec<String> = left.iter().filter(is_down).map(NodeId::to_string).collect();
        let reason = format!(
            "without node {id} there are {} voters left, of which {} must be up, and only {} can be reached: the cluster \
             would stop. Start node {} first, or remove it if it is gone for good",
            left.len(),
            left.len() / 2 + 1,
            count(&left, Standing::Up),
            down.join(", ")
        );
        Err(Obstacle { reason, lasting: !suffices(Standing::Silent) })
    }

    /// Whether a node was heard a moment ago, and its process has not ended since.
    pub(super) fn is_up(&self, id: NodeId, now_us: u64) -> bool {
        self.standing(id, now_us) == Standing::Up
    }

    fn standing(&self, voter: NodeId, now_us: u64) -> Standing {
        let progress = self.raft.progress().find(|(peer, _)| *peer == voter).map(|(_, progress)| progress);
        match progress {
            _ if voter == self.id => Standing::Up,
            Some(progress) if self.is_reachable(&progress, now_us) => Standing::Up,
            Some(progress) if progress.reachable => Standing::Silent,
            _ => Standing::Gone,
        }
    }

    /// The leader itself is to go.
    fn want_to_leave(&mut self, ticket: Ticket, now_us: u64) {
        let until_us = now_us + LEAVING_US;
        let leaving = Leaving { tickets: Vec::new(), until_us, begun: false, ask_again_us: None };
        self.leaving.get_or_insert(leaving).tickets.push(ticket);
    }

    /// Hands over, and asks whoever leads then to take this node out.
    pub(super) fn pump_leaving<W: World>(&mut self, world: &mut W) {
        let Some(Leaving { until_us, begun, .. }) = self.leaving else { return };
        let now_us = world.now_us();
        if now_us >= until_us {
            let reason = match begun {
                true => {
                    "leadership was handed over, but the new leader has not removed this node in time: ask it"
                }
                false => "other changes of the membership take too long: try again later",
            };
            return self.leaving_failed(world, reason);
        }
        if self.raft.role() == Role::Leader {
            let outcome = match begun {
                true if self.is_handing_over() => Ok(()),
                true => {
                    Err("leadership could not be handed over, see the server's log; this node leads on"
                        .into())
                }
                false if self.changes.are_idle() => self.begin_leaving(world, now_us),
                false => Ok(()),
            };
            if let Err(reason) = outcome {
                self.leaving_failed(world, &reason);
            }
            return;
        }
        let Some(leaving) = &mut self.leaving else { return };
        leaving.begun = true; // however it came about
        if leaving.ask_again_us.is_some_and(|at| now_us < at) {
            return;
        }
        // Without a leader there is nothing to be woken for: it is asked as soon as there is one.
        let leader = self.raft.leader();
        leaving.ask_again_us = leader.map(|_| now_us + self.settings.request_timeout_ms * 1000);
        if let Some(leader) = leader {
            world.send(leader, encode(&Notice::Leave));
        }
    }

    fn begin_leaving<W: World>(&mut self, world: &mut W, now_us: u64) -> Result<(), String> {
        self.check_removal(self.id, now_us).map_err(|obstacle| obstacle.reason)?;
        if !self.is_handing_over() {
            self.begin_handover(world, None)?;
        }
        if let Some(leaving) = &mut self.leaving {
            leaving.begun = true;
            leaving.until_us = now_us + self.settings.transfer_timeout_ms * 1000 + LEAVING_US;
        }
        Ok(())
    }

    pub(super) fn leaving_failed<W: World>(&mut self, world: &mut W, reason: &str) {
        if let Some(leaving) = self.leaving.take() {
            log::warn!("this node was not removed: {reason}");
            let answer = Answer::Refused(reason.to_string());
            leaving.tickets.into_iter().for_each(|ticket| world.bridge().answer(ticket, answer.clone()));
        }
    }

    /// This node is out.
    pub(super) fn has_left<W: World>(&mut self, world: &mut W) {
        for ticket in self.leaving.take().into_iter().flat_map(|leaving| leaving.tickets) {
            world.bridge().answer(ticket, Answer::Ok);
        }
    }

    /// A member asks to be taken out; it repeats that.
    pub(super) fn on_leave<W: World>(&mut self, world: &mut W, from: NodeId) {
        let leads = self.raft.role() == Role::Leader && self.members().0.contains_key(&from);
        if !leads || self.changes.lets_go(from) {
            return;
        }
        match self.changes.have_room() {
            true => self.push_removal(from, AskedBy::Itself, world.now_us()),
            false => self.deny(world, from, too_many()),
        }
    }

    /// Answers `Leave`.
    pub(super) fn deny<W: World>(&self, world: &mut W, id: NodeId, reason: String) {
        world.send(id, encode(&Notice::Denied { reason }));
    }
}
