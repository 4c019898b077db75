//! Changes of the membership: one at a time, queued while another is under way (dissertation 4.1).
//!
//! One node joins, gets its vote, moves to another address, or goes with each entry, so that any majority before shares a
//! node with any majority after. The core takes the next only when the last is committed, and none before an entry of
//! the leader's own term is.

use super::bridge::{Answer, Ticket};
use super::members::{Member, Members};
use super::{Fatal, Node, World};
use crate::consensus::{Input, NodeId, Refusal, Role};
use crate::log::{Entry, Kind};
use bytes::Bytes;
use std::collections::VecDeque;

/// Most changes that wait; one more is refused.
const MAX_QUEUED: usize = 64;

#[derive(Debug)]
pub(super) enum Change {
    /// Until `patience_until_us` it may wait for the node whose place it takes to be down.
    Add {
        ticket: Ticket,
        id: NodeId,
        member: Member,
        patience_until_us: u64,
    },
    Promote {
        id: NodeId,
    },
    Remove(Removal),
    Move {
        id: NodeId,
        address: String,
        peer_address: String,
    },
}

/// A node is to go.
#[derive(Debug)]
pub(super) struct Removal {
    pub id: NodeId,
    pub asked_by: AskedBy,
    /// Until then it may wait for the voters that it needs.
    pub patience_until_us: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AskedBy {
    Administrator(Ticket),
    /// The node that takes its place, which is added next.
    Successor(Ticket),
    /// The node itself, which was told so while it led.
    Itself,
}

/// A change in the log that is not committed yet.
struct InFlight {
    index: u64,
    id: NodeId,
    /// Who is answered, and whether with an invitation.
    waiting: Option<(Ticket, bool)>,
}

#[derive(Default)]
pub(super) struct Changes {
    queue: VecDeque<Change>,
    in_flight: Option<InFlight>,
    /// Another member has this node's own new address: said once.
    own_address_refused: bool,
}

impl Changes {
    /// One more may wait.
    pub fn have_room(&self) -> bool {
        self.queue.len() < MAX_QUEUED
    }

    /// None waits, and none is under way.
    pub fn are_idle(&self) -> bool {
        self.queue.is_empty() && self.in_flight.is_none()
    }

    pub fn push(&mut self, change: Change) {
        self.queue.push_back(change);
    }

    /// The node is on its way out already, because it asked for that itself.
    pub fn lets_go(&self, id: NodeId) -> bool {
        self.queue.iter().any(|change| matches!(change, Change::Remove(removal) if removal.id == id))
    }
}

/// What is to become of a change whose turn has come.
enum Next {
    Propose(Members),
    /// There is nothing to be done any more.
    Done,
    /// The learner is a member, and does not know.
    Invite(NodeId),
    /// Not now.
    Wait,
    /// This node goes first: its log was in memory, and another one comes from its address.
    Replace(NodeId),
    Refuse(String),
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
        let member = Member { voting: false, address, peer_address, in_memory: false };
        self.on_add_member(world, ticket, id, member);
    }

    /// The same of a node whose log is in memory. Where a member of that kind was, it takes its place.
    pub fn on_add_in_memory<W: World>(
        &mut self,
        world: &mut W,
        ticket: Ticket,
        address: String,
        peer_address: String,
    ) {
        let member = Member { voting: false, address, peer_address, in_memory: true };
        self.on_add_member(world, ticket, 0, member);
    }

    fn on_add_member<W: World>(&mut self, world: &mut W, ticket: Ticket, id: NodeId, member: Member) {
        if self.raft.role() != Role::Leader {
            let answer = self.not_leader();
            return world.bridge().answer(ticket, answer);
        }
        let again = id != 0 && self.members().0.get(&id) == Some(&member);
        let refusal = match () {
            _ if !self.changes.have_room() => Some(too_many()),
            _ if again => None, // it has not got its invitation, and asks once more
            _ => self.used_before(id),
        };
        match refusal {
            Some(reason) => world.bridge().answer(ticket, Answer::Refused(reason)),
            None => {
                let patience_until_us = world.now_us() + 2 * self.settings.election_timeout_ms * 1000;
                self.changes.push(Change::Add { ticket, id, member, patience_until_us });
            }
        }
    }

    /// The learner with these very addresses that never took an entry: its invitation was lost on the way.
    fn invited_before(&self, id: NodeId, joiner: &Member) -> Option<NodeId> {
        // In another process, and with another memory, it is another node.
        if joiner.in_memory {
            return None;
        }
        let same = |(known, member): &(&NodeId, &Member)| *member == joiner && (id == 0 || id == **known);
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

    fn used_before(&self, id: NodeId) -> Option<String> {
        let used = id != 0 && self.id_is_used(id);
        used.then(|| format!("node id {id} was used already; an id is used once, ever (0 = choose one)"))
    }

    /// The member, other than `id`, that has one of these addresses.
    fn others_address(&self, id: NodeId, address: &str, peer_address: &str) -> Option<NodeId> {
        let claimed = |member: &Member| member.address == address || member.peer_address == peer_address;
        self.members()
            .0
            .iter()
            .find(|(other, member)| **other != id && claimed(member))
            .map(|(other, _)| *other)
    }

    /// The member that had its log in memory at the very addresses of a node that joins: its process has ended, and
    /// with it what it had promised.
    fn former(&self, joiner: &Member) -> Option<NodeId> {
        let same = |member: &Member| {
            member.in_memory && member.address == joiner.address && member.peer_address == joiner.peer_address
        };
        let mut members = self.members().0.iter().filter(|(id, _)| **id != self.id);
        members.find(|(_, member)| same(member)).map(|(id, _)| *id)
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
        if !queued && self.changes.in_flight.is_none() && self.changes.have_room() {
            self.changes.push(Change::Promote { id });
        }
    }

    /// Proposes the next change once the one before is committed.
    pub(super) fn pump_changes<W: World>(&mut self, world: &mut W) -> Result<(), Fatal> {
        let waits = self.changes.in_flight.is_some() || self.handover.holds_clients();
        if waits || !self.raft.own_term_committed() {
            return Ok(());
        }
        let Some(mut change) = self.changes.queue.pop_front().or_else(|| self.next_move()) else {
            return Ok(());
        };
        if let Change::Add { id: id @ 0, member, .. } = &mut change {
            *id = self.invited_before(0, member).unwrap_or_else(|| self.unused_id(world));
        }
        match self.next_members(world, &change) {
            Next::Propose(members) => self.propose_change(world, change, &members)?,
            Next::Wait => self.changes.queue.push_front(change),
            Next::Replace(former) => {
                if let Change::Add { ticket, .. } = &change {
                    let (asked_by, patience_until_us) = (AskedBy::Successor(*ticket), world.now_us());
                    let removal = Removal { id: former, asked_by, patience_until_us };
                    self.changes.queue.push_front(change);
                    self.changes.queue.push_front(Change::Remove(removal));
                    return self.pump_changes(world);
                }
            }
            Next::Invite(id) => {
                if let Change::Add { ticket, .. } = change {
                    world.bridge().answer(ticket, self.added(id));
                }
            }
            Next::Done => {
                if let Change::Remove(Removal { asked_by: AskedBy::Administrator(ticket), .. }) = change {
                    world.bridge().answer(ticket, Answer::Ok);
                }
            }
            Next::Refuse(reason) => self.refuse_change(world, &change, reason),
        }
        Ok(())
    }

    fn next_members<W: World>(&self, world: &W, change: &Change) -> Next {
        let mut members = self.members().clone();
        match change {
            Change::Add { id, member, patience_until_us, .. } => {
                if let Some(known) = self.invited_before(*id, member) {
                    return Next::Invite(known);
                }
                let (address, peer_address) = (&member.address, &member.peer_address);
                if let Some(former) = self.former(member) {
                    return match self.is_up(former, world.now_us()) {
                        false => Next::Replace(former),
                        true if world.now_us() < *patience_until_us => Next::Wait,
                        true => Next::Refuse(format!(
                            "{address} (peers: {peer_address}) is the address of node {former}, which is up"
                        )),
                    };
                }
                let refusal = self.used_before(*id).or_else(|| {
                    let other = self.others_address(*id, address, peer_address)?;
                    Some(format!("{address} (peers: {peer_address}) is the address of node {other} already"))
                });
                if let Some(reason) = refusal {
                    return Next::Refuse(reason);
                }
                members.0.insert(*id, member.clone());
            }
            Change::Promote { id } => match members.0.get_mut(id).filter(|member| !member.voting) {
                Some(member) => member.voting = true,
                None => return Next::Done, // votes already, or is gone
            },
            Change::Remove(removal) => {
                if !members.0.contains_key(&removal.id) {
                    return Next::Done;
                }
                if let Err(obstacle) = self.check_removal(removal.id, world.now_us()) {
                    let waits = !obstacle.lasting && world.now_us() < removal.patience_until_us;
                    return if waits { Next::Wait } else { Next::Refuse(obstacle.reason) };
                }
                members.0.remove(&removal.id);
            }
            Change::Move { id, address, peer_address } => match members.0.get_mut(id) {
                Some(member) => {
                    (member.address, member.peer_address) = (address.clone(), peer_address.clone());
                }
                None => return Next::Done,
            },
        }
        Next::Propose(members)
    }

    /// A member that is not where the log says, this node included. Two members cannot have one address.
    fn next_move(&mut self) -> Option<Change> {
        let change = |id, address: &str, peer_address: &str| {
            Some(Change::Move { id, address: address.to_string(), peer_address: peer_address.to_string() })
        };
        let own = self.members().0.get(&self.id);
        if own.is_some_and(|own| own.address != self.address || own.peer_address != self.peer_address) {
            let (address, peer_address) = (&self.address, &self.peer_address);
            match self.others_address(self.id, address, peer_address) {
                None => return change(self.id, address, peer_address),
                Some(other) if !self.changes.own_address_refused => {
                    self.changes.own_address_refused = true;
                    log::error!(
                        "{address} (peers: {peer_address}) is the address of node {other}: set raft.addr"
                    );
                }
                Some(_) => {}
            }
        }
        let (id, caller) = self.callers.moved(self.members())?;
        let (address, peer_address) = (caller.address.clone(), caller.peer_address.clone());
        match self.others_address(id, &address, &peer_address) {
            None => change(id, &address, &peer_address),
            Some(other) => {
                log::error!(
                    "node {id} says that it is at {address} (peers: {peer_address}): there is node {other}"
                );
                self.callers.refuse(id);
                None
            }
        }
    }

    fn propose_change<W: World>(
        &mut self,
        world: &mut W,
        change: Change,
        members: &Members,
    ) -> Result<(), Fatal> {
        self.propose_members(world, members)?;
        match self.refused.take() {
            None => {
                let (id, waiting) = match &change {
                    Change::Add { ticket, id, .. } => (*id, Some((*ticket, true))),
                    Change::Remove(Removal { id, asked_by: AskedBy::Administrator(ticket), .. }) => {
                        (*id, Some((*ticket, false)))
                    }
                    Change::Promote { id } | Change::Move { id, .. } | Change::Remove(Removal { id, .. }) => {
                        (*id, None)
                    }
                };
                log::info!("membership of entry {}: {change:?}", self.raft.last().index);
                self.changes.in_flight = Some(InFlight { index: self.raft.last().index, id, waiting });
            }
            Some(Refusal::ChangeInProgress | Refusal::TermNotCommitted) => {
                self.changes.queue.push_front(change)
            }
            Some(reason) => {
                self.refuse_change(world, &change, format!("the change was not made: {reason:?}"))
            }
        }
        Ok(())
    }

    fn refuse_change<W: World>(&mut self, world: &mut W, change: &Change, reason: String) {
        match change {
            Change::Add { ticket, .. } => world.bridge().answer(*ticket, Answer::Refused(reason)),
            Change::Remove(Removal { id, asked_by, .. }) => match asked_by {
                AskedBy::Administrator(ticket) => world.bridge().answer(*ticket, Answer::Refused(reason)),
                AskedBy::Successor(ticket) => {
                    let waits =
                        |c: &Change| matches!(c, Change::Add { ticket: other, .. } if other == ticket);
                    self.changes.queue.retain(|change| !waits(change));
                    world.bridge().answer(*ticket, Answer::Refused(reason));
                }
                AskedBy::Itself => self.deny(world, *id, reason),
            },
            Change::Promote { .. } | Change::Move { .. } => log::warn!("{change:?}: {reason}"),
        }
    }

    fn propose_members<W: World>(&mut self, world: &mut W, members: &Members) -> Result<(), Fatal> {
        let entry = Entry::new(0, 0, Kind::Membership, Bytes::from(members.encode()));
        let (membership, bytes) = (members.membership(), entry.payload.len() as u32);
        self.refused = None;
        self.step(world, Input::ProposeMembership { membership, bytes }, &[entry])
    }

    pub(super) fn changes_committed<W: World>(&mut self, world: &mut W, commit: u64) {
        let Some(done) = self.changes.in_flight.take_if(|change| change.index <= commit) else { return };
        match done.waiting {
            Some((ticket, true)) => world.bridge().answer(ticket, self.added(done.id)),
            Some((ticket, false)) => world.bridge().answer(ticket, Answer::Ok),
            None => {}
        }
    }

    /// Not the leader any more: what waits is sent there, what is under way has an unknown outcome.
    pub(super) fn changes_lost<W: World>(&mut self, world: &mut W) {
        let elsewhere = self.not_leader();
        for change in self.changes.queue.drain(..) {
            match change {
                Change::Add { ticket, .. }
                | Change::Remove(Removal { asked_by: AskedBy::Administrator(ticket), .. }) => {
                    world.bridge().answer(ticket, elsewhere.clone());
                }
                Change::Remove(_) | Change::Promote { .. } | Change::Move { .. } => {}
            }
        }
        let lost = self.changes.in_flight.take();
        if let Some((id, (ticket, _))) = lost.and_then(|change| Some((change.id, change.waiting?))) {
            world.bridge().answer(ticket, Answer::Unknown { id });
        }
    }
}

pub(super) fn too_many() -> String {
    format!("{MAX_QUEUED} membership changes are waiting already; try again later")
}

/// Ids are positive 31-bit numbers, as in RedisRaft, so that its clients and scripts can hold them.
pub fn random_id<W: World>(world: &mut W) -> NodeId {
    let hex = world.fresh_replid();
    let number = u64::from_str_radix(&hex[..8], 16).expect("a replication id is hex");
    (number & 0x7fff_ffff).max(1)
}
