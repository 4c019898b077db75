//! Nodes that were taken out: how they learn of it, and how others keep them from disturbing.
//!
//! The entry that removes a node is sent to it, too, but it may be down, or cut off, when that is committed. So every
//! node that knows of it says farewell: at once, and again to a removed node that calls later. Ids are used once, so a
//! committed membership without a node that was in one before is the last word on it. Nothing else that a removed node
//! sends is looked at.

use super::local::Local;
use super::notices::{encode, Notice};
use super::removal::Leaving;
use super::{Node, World};
use crate::consensus::NodeId;
use std::collections::BTreeMap;

/// How long a node that was taken out is still dialled, so that it can be told.
const PARTING_US: u64 = 10_000_000;
/// Most of them at once.
const MAX_PARTINGS: usize = 32;

struct Parting {
    peer_address: String,
    until_us: u64,
}

#[derive(Default)]
pub(super) struct Partings {
    others: BTreeMap<NodeId, Parting>,
    /// This node is no member any more.
    own: bool,
    /// Frames of removed nodes that were not looked at.
    pub refused_frames: u64,
}

impl Partings {
    pub fn addresses(&self) -> impl Iterator<Item = (NodeId, &String)> {
        self.others.iter().map(|(id, parting)| (*id, &parting.peer_address))
    }

    pub fn deadline_us(&self) -> u64 {
        self.others.values().map(|parting| parting.until_us).min().unwrap_or(u64::MAX)
    }
}

impl Node {
    /// Whether a committed membership has taken this node out. It never comes back under this id.
    pub(super) fn was_removed(&self, id: NodeId) -> bool {
        // What a joiner was told (index 0) is from later than the first entries of the log.
        let decided = |(index, _): &&(u64, super::Members)| *index > 0 && *index <= self.committed;
        let mut decided = self.member_history.iter().filter(decided).map(|(_, members)| members);
        let Some(present) = decided.clone().next_back() else { return false };
        let is_member = present.0.contains_key(&id);
        // A snapshot that came may be ahead of what this node knows to be committed: it may name who joined since.
        let given_out =
            self.snapshots.newest_index() <= self.committed && self.snapshots.used_ids.contains(&id);
        !is_member && (given_out || decided.any(|m| m.0.contains_key(&id)))
    }

    /// This node was taken out, and its Redis is at rest: it may be put away.
    pub fn is_removed(&self) -> bool {
        self.partings.own && matches!(self.local, Local::Following(_))
    }

    /// Entries after `before` were committed: perhaps some of them took nodes out.
    pub(super) fn members_committed<W: World>(&mut self, world: &mut W, before: u64) {
        let is_news = |(index, _): &(u64, super::Members)| *index > before && *index <= self.committed;
        if !self.member_history.iter().any(is_news) {
            return;
        }
        self.partings.own |= self.was_removed(self.id);
        let former = self.member_history.iter().rev().find(|(index, _)| *index > 0 && *index <= before);
        let left: Vec<(NodeId, String)> = former
            .iter()
            .flat_map(|(_, members)| &members.0)
            .filter(|(id, _)| **id != self.id && self.was_removed(**id))
            .map(|(id, member)| (*id, member.peer_address.clone()))
            .collect();
        for (id, peer_address) in left {
            log::info!("node {id} is no member any more");
            self.part(world, id, peer_address);
        }
        let present = self.members_at(self.committed).clone();
        let mut callers = std::mem::take(&mut self.callers);
        callers.agree(self.current_members(), |id| self.was_removed(id));
        self.callers = callers;
        let mut told = std::mem::take(&mut self.told);
        told.retain(|id, _| !present.0.contains_key(id) && !self.was_removed(*id));
        self.told = told;
        self.dial(world);
        self.report_now(world);
    }

    /// A removed node is told, now and as long as it is dialled.
    fn part<W: World>(&mut self, world: &mut W, id: NodeId, peer_address: String) {
        let others = &mut self.partings.others;
        if others.len() < MAX_PARTINGS || others.contains_key(&id) {
            others.insert(id, Parting { peer_address, until_us: world.now_us() + PARTING_US });
        }
        world.send(id, encode(&Notice::Farewell { id }));
    }

    pub(super) fn pump_partings<W: World>(&mut self, world: &mut W) {
        let now_us = world.now_us();
        if now_us >= self.partings.deadline_us() {
            self.partings.others.retain(|_, parting| now_us < parting.until_us);
            self.dial(world);
        }
    }

    /// A frame of a removed node came. It is answered, and not looked at further.
    pub(super) fn on_stranger<W: World>(&mut self, world: &mut W, from: NodeId, notice: Option<Notice>) {
        self.partings.refused_frames += 1;
        match notice {
            Some(Notice::Here { peer_address, .. }) => {
                log::info!("node {from} calls from {peer_address}, and is no member any more");
                self.part(world, from, peer_address);
                self.dial(world);
            }
            _ => world.send(from, encode(&Notice::Farewell { id: from })),
        }
        self.reports.touch();
    }

    pub(super) fn on_notice<W: World>(&mut self, world: &mut W, from: NodeId, notice: Notice) {
        match notice {
            Notice::Here { peer_address, address } => {
                self.on_whereabouts(world, from, from, peer_address, address)
            }
            Notice::There { id, peer_address, address } => {
                self.on_hearsay(world, from, id, peer_address, address)
            }
            Notice::Leave => self.on_leave(world, from),
            Notice::Denied { reason } => self.leaving_failed(world, &reason),
            // Whoever runs at the place of a removed node is not meant.
            Notice::Farewell { id } if id != self.id => {}
            Notice::Farewell { .. } => {
                if !self.partings.own {
                    log::warn!("node {from} says that this node is no member any more");
                }
                self.partings.own = true;
            }
        }
    }

    /// Dials whoever is a member, was one by the last decided membership, says that it is one, or must be told that it is
    /// none. The first entries that a joiner is sent hold old memberships, without those who came since, perhaps the
    /// leader: without a link to it the joiner could not answer, and would be sent no more. So whom it was told of is
    /// dialled until the log knows it.
    pub(super) fn dial<W: World>(&self, world: &mut W) {
        world.set_peers(&self.addresses().into_iter().collect::<Vec<_>>());
    }

    /// Where each of them is dialled.
    pub(super) fn addresses(&self) -> BTreeMap<NodeId, String> {
        let mut peers = self.told.clone();
        peers.extend(self.partings.addresses().map(|(id, address)| (id, address.clone())));
        for (_, members) in self.current_members() {
            peers.extend(members.0.iter().map(|(id, member)| (*id, member.peer_address.clone())));
        }
        peers.extend(self.callers.iter().map(|(id, caller)| (id, caller.peer_address.clone())));
        peers.remove(&self.id);
        peers
    }

    /// The last words of a removed node: whoever waits for it is answered. The dataset and the log are the caller's.
    pub fn retire<W: World>(&mut self, world: &mut W) {
        assert!(self.is_removed(), "a member does not retire");
        self.has_left(world);
        self.changes_lost(world);
        self.answer_before_role_change(world);
        world.set_peers(&[]);
    }

    /// Where clients of this node are sent once it is no member any more.
    pub fn where_to_go(&self) -> Option<String> {
        let others = || self.members().0.iter().filter(|(id, member)| **id != self.id && member.voting);
        let leader = others().find(|(id, _)| self.raft.leader() == Some(**id));
        leader.or_else(|| others().next()).map(|(_, member)| member.address.clone())
    }
}

/// For the deadline of the node.
pub(super) fn deadline_us(partings: &Partings, leaving: Option<&Leaving>) -> u64 {
    partings.deadline_us().min(leaving.map_or(u64::MAX, Leaving::deadline_us))
}
