//! Peers that do not know where this node is, or where another one is, are told again.
//!
//! A node says where it is when a link is up ([`super::notices`]). That can be too early: a joiner still reads old
//! memberships, or takes a snapshot that is older than what it was told. It can come too late, after something newer.
//! And it can reach the wrong one: a node that has moved while another was made leader cannot dial that one. So
//! whoever is not heard for an election timeout is told again, and who hears of a member that the log has elsewhere
//! passes that on: to its leader, or to all while there is none. What was told wrongly is put right in the same way.

use super::notices::{encode, Notice};
use super::settings::Settings;
use super::{Node, World};
use crate::consensus::{NodeId, Role};

/// When the silent ones are told again.
pub(super) struct Whereabouts {
    again_us: u64,
}

impl Whereabouts {
    /// The first words come when links are up.
    pub fn new(now_us: u64, settings: &Settings) -> Whereabouts {
        Whereabouts { again_us: now_us + settings.election_timeout_ms * 1000 }
    }

    pub fn deadline_us(&self) -> u64 {
        self.again_us
    }
}

impl Node {
    pub(super) fn pump_whereabouts<W: World>(&mut self, world: &mut W) {
        let now_us = world.now_us();
        if now_us < self.whereabouts.again_us {
            return;
        }
        let timeout_us = self.settings.election_timeout_ms * 1000;
        self.whereabouts.again_us = now_us + timeout_us;
        for peer in self.silent_peers(now_us, timeout_us) {
            self.say_where(world, peer);
        }
    }

    /// To a leader those that do not answer; to others everybody, as long as no leader is heard.
    fn silent_peers(&self, now_us: u64, timeout_us: u64) -> Vec<NodeId> {
        if self.raft.role() == Role::Leader {
            let silent =
                self.raft.progress().filter(|(_, peer)| now_us.saturating_sub(peer.heard_us) > timeout_us);
            return silent.map(|(id, _)| id).collect();
        }
        match self.raft.leader_silence_us(now_us).is_some_and(|silent_us| silent_us <= timeout_us) {
            true => Vec::new(),
            false => self.addresses().into_keys().filter(|id| !self.was_removed(*id)).collect(),
        }
    }

    pub(super) fn say_where<W: World>(&self, world: &mut W, peer: NodeId) {
        let (address, peer_address) = (self.address.clone(), self.peer_address.clone());
        world.send(peer, encode(&Notice::Here { peer_address, address }));
    }

    /// `id` says where it is, or another node says it of `id`.
    pub(super) fn on_whereabouts<W: World>(
        &mut self,
        world: &mut W,
        from: NodeId,
        id: NodeId,
        peer_address: String,
        address: String,
    ) {
        let is_member = self.members_at(self.committed).0.contains_key(&id);
        // After a restart nothing is known to be committed yet, and members may need each other to get on.
        let in_log = self.members().0.get(&id);
        let is_elsewhere = in_log.is_some_and(|m| m.peer_address != peer_address || m.address != address);
        if id == from && is_elsewhere {
            self.pass_on(world, id, &peer_address, &address);
        }
        let mut callers = std::mem::take(&mut self.callers);
        let is_new = callers.heard(id, peer_address.clone(), address, self.current_members());
        self.callers = callers;
        if is_new {
            match is_member {
                true => log::info!("node {id} has moved to {peer_address}"),
                false => log::info!("node {id} at {peer_address} is not in the log yet"),
            }
            self.dial(world);
        }
    }

    /// To the leader; while there is none, to all: those that have moved may need each other's votes.
    fn pass_on<W: World>(&self, world: &mut W, id: NodeId, peer_address: &str, address: &str) {
        let notice = || {
            let (peer_address, address) = (peer_address.to_string(), address.to_string());
            encode(&Notice::There { id, peer_address, address })
        };
        match self.raft.leader() {
            Some(leader) if leader == self.id || leader == id => {}
            Some(leader) => world.send(leader, notice()),
            None => {
                let others = self.addresses().into_keys();
                others
                    .filter(|to| *to != id && !self.was_removed(*to))
                    .for_each(|to| world.send(to, notice()))
            }
        }
    }

    /// Node `from` has heard that the member `id` is elsewhere than the log says.
    pub(super) fn on_hearsay<W: World>(
        &mut self,
        world: &mut W,
        from: NodeId,
        id: NodeId,
        peer_address: String,
        address: String,
    ) {
        let is_member = self.members().0.contains_key(&id);
        let listens = self.raft.leader().is_none_or(|leader| leader == self.id);
        if is_member && id != self.id && listens {
            self.on_whereabouts(world, from, id, peer_address, address);
        }
    }
}
