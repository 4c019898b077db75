//! Changes of the membership: one at a time, queued while another is under way (dissertation 4.1).

use super::bridge::{Answer, Ticket};
use super::members::{Member, Members};
use super::{Fatal, Node, World};
use crate::consensus::{Input, NodeId, Refusal, Role};
use crate::log::{Entry, Kind};
use bytes::Bytes;
use std::collections::VecDeque;

/// Most changes that wait; one more is refused.
const MAX_QUEUED: usize = 64;

enum Change {
    Add { ticket: Ticket, id: NodeId, member: Member },
    Promote { id: NodeId },
}

/// A change in the log that is not committed yet.
struct InFlight {
    index: u64,
    added: Option<(Ticket, NodeId)>,
}

#[derive(Default)]
pub(super) struct Changes {
    queue: VecDeque<Change>,
    in_flight: Option<InFlight>,
}

impl Node {
    /// A node asks to become a learner; `id` 0: it is given one.
    pub fn on_add_node<W: World>(
        &mut self,
        world: &mut W,
        ticket: Ticket,
        id: NodeId,
        address: String,
        peer_address: String,
    ) {
        if self.raft.role() != Role::Leader {
            let answer = self.not_leader();
            return world.bridge().answer(ticket, answer);
        }
        if let Some(known) = self.invited_before(id, &address, &peer_address) {
            let answer = self.added(known);
            return world.bridge().answer(ticket, answer);
        }
        match self.check_new_member(id, &address, &peer_address) {
            Err(reason) => world.bridge().answer(ticket, Answer::Refused(reason)),
            Ok(()) => {
                let id = if id == 0 { self.unused_id(world) } else { id };
                let member = Member { voting: false, address, peer_address };
                self.changes.queue.push_back(Change::Add { ticket, id, member });
            }
        }
    }

    /// The learner with these very addresses that never took an entry: its invitation was lost on the way.
    fn invited_before(&self, id: NodeId, address: &str, peer_address: &str) -> Option<NodeId> {
        let same = |(known, member): &(&NodeId, &Member)| {
            !member.voting
                && member.address == address
                && member.peer_address == peer_address
                && (id == 0 || id == **known)
        };
        let committed = self.member_history.iter().rev().find(|(index, _)| *index <= self.committed)?;
        let known = *committed.1 .0.iter().find(same)?.0;
        self.raft.progress().any(|(peer, progress)| peer == known && progress.matched == 0).then_some(known)
    }

    fn added(&self, id: NodeId) -> Answer {
        let (cluster_id, secret) = (self.cluster_id.clone(), self.secret.clone());
        Answer::Added { id, cluster_id, secret, members: self.members().encode() }
    }

    pub(super) fn not_leader(&self) -> Answer {
        let leader = self.raft.leader().and_then(|id| self.members().0.get(&id));
        leader.map_or(Answer::NoLeader, |leader| Answer::Moved { address: leader.address.clone() })
    }

    fn check_new_member(&self, id: NodeId, address: &str, peer_address: &str) -> Result<(), String> {
        if self.changes.queue.len() >= MAX_QUEUED {
            return Err(format!("{MAX_QUEUED} membership changes are waiting already; try again later"));
        }
        if self.id_is_used(id) {
            return Err(format!("node id {id} was used already; an id is used once, ever (0 = choose one)"));
        }
        for (other, member) in &self.members().0 {
            if member.address == address || member.peer_address == peer_address {
                return Err(format!(
                    "{address} (peers: {peer_address}) is the address of node {other} already"
                ));
            }
        }
        Ok(())
    }

    fn id_is_used(&self, id: NodeId) -> bool {
        let queued =
            self.changes.queue.iter().any(|c| matches!(c, Change::Add { id: other, .. } if *other == id));
        queued
            || self.snapshots.used_ids.contains(&id)
            || self.member_history.iter().any(|(_, members)| members.0.contains_key(&id))
    }

    fn unused_id<W: World>(&self, world: &mut W) -> NodeId {
        loop {
            let id = random_id(world);
            if !self.id_is_used(id) {
                return id;
            }
        }
    }

    /// The core says that a learner has caught up; it says so again until the learner votes.
    pub(super) fn learner_ready(&mut self, id: NodeId) {
        let queued =
            self.changes.queue.iter().any(|c| matches!(c, Change::Promote { id: other } if *other == id));
        if !queued && self.changes.in_flight.is_none() && self.changes.queue.len() < MAX_QUEUED {
            self.changes.queue.push_back(Change::Promote { id });
        }
    }

    /// Proposes the next change once the one before is committed.
    pub(super) fn pump_changes<W: World>(&mut self, world: &mut W) -> Result<(), Fatal> {
        let waits = self.changes.in_flight.is_some() || self.handover.holds_clients();
        if waits || !self.raft.own_term_committed() {
            return Ok(());
        }
        let Some(change) = self.changes.queue.pop_front() else { return Ok(()) };
        let mut members = self.members().clone();
        let added = match &change {
            Change::Add { ticket, id, member } => {
                members.0.insert(*id, member.clone());
                Some((*ticket, *id))
            }
            Change::Promote { id } => match members.0.get_mut(id).filter(|member| !member.voting) {
                Some(member) => {
                    member.voting = true;
                    None
                }
                None => return Ok(()), // votes already, or is gone
            },
        };
        self.propose_members(world, &members)?;
        match self.refused.take() {
            None => self.changes.in_flight = Some(InFlight { index: self.raft.last().index, added }),
            Some(Refusal::ChangeInProgress | Refusal::TermNotCommitted) => {
                self.changes.queue.push_front(change)
            }
            Some(reason) => {
                if let Some((ticket, _)) = added {
                    let reason = format!("the change was not made: {reason:?}");
                    world.bridge().answer(ticket, Answer::Refused(reason));
                }
            }
        }
        Ok(())
    }

    fn propose_members<W: World>(&mut self, world: &mut W, members: &Members) -> Result<(), Fatal> {
        let entry = Entry::new(0, 0, Kind::Membership, Bytes::from(members.encode()));
        let (membership, bytes) = (members.membership(), entry.payload.len() as u32);
        self.refused = None;
        self.step(world, Input::ProposeMembership { membership, bytes }, &[entry])
    }

    pub(super) fn changes_committed<W: World>(&mut self, world: &mut W, commit: u64) {
        let Some(done) = self.changes.in_flight.take_if(|change| change.index <= commit) else { return };
        if let Some((ticket, id)) = done.added {
            let answer = self.added(id);
            world.bridge().answer(ticket, answer);
        }
    }

    /// Not the leader any more: what waits is sent there, what is under way has an unknown outcome.
    pub(super) fn changes_lost<W: World>(&mut self, world: &mut W) {
        let elsewhere = self.not_leader();
        for change in self.changes.queue.drain(..) {
            if let Change::Add { ticket, .. } = change {
                world.bridge().answer(ticket, elsewhere.clone());
            }
        }
        if let Some((ticket, id)) = self.changes.in_flight.take().and_then(|change| change.added) {
            world.bridge().answer(ticket, Answer::Unknown { id });
        }
    }
}

/// Ids are positive 31-bit numbers, as in RedisRaft, so that its clients and scripts can hold them.
pub fn random_id<W: World>(world: &mut W) -> NodeId {
    let hex = world.fresh_replid();
    let number = u64::from_str_radix(&hex[..8], 16).expect("a replication id is hex");
    (number & 0x7fff_ffff).max(1)
}
