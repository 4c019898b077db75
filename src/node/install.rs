//! Installing: a node that lacks what the leader's log does not hold any more is brought a snapshot.
//!
//! The leader offers its newest one to each peer that the core says needs it, again with each heartbeat. The peer asks
//! for the parts, a window at a time; its store's thread writes them, and gives the snapshot its name when the checksum
//! is right. Only then is the log replaced, and the local Redis loads it like any other. Nothing of this holds up
//! consensus: heartbeats, votes and reads go on.

use super::members::Members;
use super::transfer::{encode, Frame};
use super::{Fatal, Node, World};
use crate::consensus::{Index, Input, NodeId, PeerProgress, Position, Role};
use crate::snapshot::{About, Id, Job, SnapshotError};
use bytes::Bytes;
use std::collections::BTreeMap;

/// No part for this long: those asked for were lost.
const STALL_US: u64 = 1_000_000;
/// A peer that has asked for nothing for this long does not keep the log from being purged.
const FORGOTTEN_US: u64 = 10_000_000;
/// The log may hold this many times `raft.log-max-file-size` for a peer that follows slowly.
const KEPT_FOR_PEERS: u64 = 2;
/// Pause after the disk refused a snapshot.
const REFUSED_PAUSE_US: u64 = 1_000_000;
/// Bytes received and not written yet, beyond which no more are asked for.
const UNWRITTEN_BYTES: u64 = 16 << 20;

/// A snapshot that is on its way to a peer.
struct Outgoing {
    id: Id,
    /// When it last asked for something.
    wanted_us: u64,
    /// Parts being read for it.
    reading: u64,
    /// It has asked for the beginning before: what it got was not what was announced.
    begun: bool,
    /// Its file was looked at for that.
    checked: bool,
}

/// A snapshot that is on its way here. Invariant: `written <= got <= asked <= about.id.bytes`. What is here in full is
/// waited for, however slow the disk is: the store makes it its newest one, and removes the one before.
struct Incoming {
    about: Box<About>,
    members: Members,
    from: NodeId,
    asked: u64,
    got: u64,
    written: u64,
    heard_us: u64,
}

#[derive(Default)]
pub(super) struct Transfers {
    outgoing: BTreeMap<NodeId, Outgoing>,
    offer_at_us: Option<u64>,
    incoming: Option<Incoming>,
    not_before_us: u64,
}

impl Transfers {
    pub fn deadline_us(&self) -> u64 {
        self.offer_at_us.unwrap_or(u64::MAX)
    }
}

impl Node {
    /// A snapshot of a peer is being received: none is made meanwhile.
    pub(super) fn is_installing(&self) -> bool {
        self.transfers.incoming.is_some()
    }

    /// Up to here the log may be purged for the sake of peers. What follows the snapshot that a peer is being sent is what
    /// it needs next; and who follows, however slowly, is not to be sent a snapshot, unless the log would grow too long
    /// for its sake. Without this a slow follower could go in circles: each snapshot old before it is there.
    pub(super) fn needed_by_peers(&self, now_us: u64) -> Index {
        let is_recent = |at_us: u64| now_us.saturating_sub(at_us) < FORGOTTEN_US;
        let asking = self.transfers.outgoing.values().filter(|outgoing| is_recent(outgoing.wanted_us));
        let follows =
            |peer: &PeerProgress| is_recent(peer.heard_us) && peer.reachable && !peer.needs_snapshot;
        let following = self.raft.progress().filter(|(_, peer)| follows(peer));
        let most_bytes = self.settings.log_max_file_bytes.saturating_mul(KEPT_FOR_PEERS);
        let matched = following.map(|(_, peer)| peer.matched);
        let within_reach = matched.filter(|matched| self.raft.bytes_after(*matched) <= most_bytes);
        asking.map(|outgoing| outgoing.id.index).chain(within_reach).min().unwrap_or(Index::MAX)
    }

    /// Offers the newest snapshot to whoever needs one, now and then.
    pub(super) fn pump_offers<W: World>(&mut self, world: &mut W) {
        let now_us = world.now_us();
        if self.transfers.offer_at_us.is_none_or(|at| now_us < at) {
            return;
        }
        let needing: Vec<_> =
            self.raft.progress().filter(|(_, p)| p.needs_snapshot).map(|(id, _)| id).collect();
        self.transfers.outgoing.retain(|_, outgoing| now_us - outgoing.wanted_us < FORGOTTEN_US);
        for to in &needing {
            self.offer(world, *to);
        }
        let period_us = self.settings.request_timeout_ms * 1000;
        self.transfers.offer_at_us = (!needing.is_empty()).then_some(now_us + period_us);
    }

    /// A snapshot that is not needed any more, or that nobody sends any more, must not keep this node from making its own.
    pub(super) fn pump_incoming<W: World>(&mut self, world: &mut W) {
        let now_us = world.now_us();
        let Some(incoming) = &self.transfers.incoming else { return };
        let received = incoming.got == incoming.about.id.bytes;
        let needed = incoming.about.id.index > self.committed && self.raft.role() != Role::Leader;
        let useless = !needed && !self.is_healed_by(incoming.about.id.index);
        if !received && (useless || now_us - incoming.heard_us >= FORGOTTEN_US) {
            log::info!(
                "not waiting for the rest of the snapshot of entry {} any more",
                incoming.about.id.index
            );
            self.transfers.incoming = None;
            world.snapshot(Job::StopReceiving);
        }
    }

    /// The core says that a peer has begun to need a snapshot.
    pub(super) fn snapshot_needed(&mut self, to: NodeId) {
        log::info!("node {to} needs entries that are not in the log any more: offering a snapshot");
        self.transfers.offer_at_us = Some(0);
    }

    pub(super) fn offer<W: World>(&self, world: &mut W, to: NodeId) {
        match self.snapshots.to_offer() {
            Some(about) => world.send(to, encode(&Frame::Offer(Box::new(about.clone())))),
            None if self.snapshots.newest.is_some() => {} // damaged; another is being made
            None => log::error!(
                "the log begins behind entry {}, and there is no snapshot",
                self.raft.base().index
            ),
        }
    }

    pub(super) fn on_transfer_frame<W: World>(
        &mut self,
        world: &mut W,
        from: NodeId,
        frame: Frame,
    ) -> Result<(), Fatal> {
        match frame {
            Frame::Offer(about) => self.on_offer(world, from, about),
            Frame::Want { id, offset, bytes } => self.on_want(world, from, id, offset, bytes),
            Frame::Part { id, offset, bytes } => self.on_part(world, id, offset, bytes),
        }
        Ok(())
    }

    fn on_want<W: World>(&mut self, world: &mut W, from: NodeId, id: Id, offset: u64, bytes: u32) {
        let now_us = world.now_us();
        let entry = self.transfers.outgoing.entry(from);
        let outgoing =
            entry.or_insert(Outgoing { id, wanted_us: now_us, reading: 0, begun: false, checked: false });
        if outgoing.id != id {
            *outgoing =
                Outgoing { id, wanted_us: now_us, reading: outgoing.reading, begun: false, checked: false };
        }
        if offset == 0 && outgoing.begun && !outgoing.checked {
            outgoing.checked = true;
            world.snapshot(Job::Check { id });
        }
        outgoing.begun |= offset == 0;
        outgoing.wanted_us = now_us;
        if outgoing.reading >= self.settings.snapshot_req_max_count {
            return; // it asks for more than its window; what it misses it asks for again
        }
        outgoing.reading += 1;
        let bytes = u64::from(bytes).min(self.settings.snapshot_req_max_bytes) as usize;
        world.snapshot(Job::Read { reader: from, id, offset, bytes });
    }

    /// A part was read for a peer.
    pub(super) fn send_part<W: World>(
        &mut self,
        world: &mut W,
        to: NodeId,
        id: Id,
        offset: u64,
        result: Result<Bytes, SnapshotError>,
    ) {
        if let Some(outgoing) = self.transfers.outgoing.get_mut(&to) {
            outgoing.reading = outgoing.reading.saturating_sub(1);
        }
        match result {
            Ok(bytes) => world.send(to, encode(&Frame::Part { id, offset, bytes })),
            Err(SnapshotError::Gone { .. }) => {
                self.transfers.outgoing.remove(&to);
                self.offer(world, to);
            }
            Err(error) => log::error!("cannot send a snapshot to node {to}: {error}"),
        }
    }

    fn on_offer<W: World>(&mut self, world: &mut W, from: NodeId, about: Box<About>) {
        let now_us = world.now_us();
        let position = Position { index: about.id.index, term: about.id.term };
        let holds = self.raft.holds(position);
        let needed = position.index > self.committed && !holds && self.raft.role() != Role::Leader;
        let useful = needed || (holds && self.is_healed_by(position.index));
        if !useful || now_us < self.transfers.not_before_us {
            return;
        }
        if about.cluster_id != self.cluster_id {
            return log::error!("node {from} offers a snapshot of cluster {}", about.cluster_id);
        }
        if let Some(incoming) = self.transfers.incoming.as_mut() {
            let stalled = now_us - incoming.heard_us >= STALL_US;
            if incoming.about.id == about.id {
                if stalled || incoming.from != from {
                    // Goes on where it was: with the sender of now, and what was lost again.
                    log::info!("asking node {from} for the snapshot again, from byte {} on", incoming.got);
                    (incoming.from, incoming.asked, incoming.heard_us) = (from, incoming.got, now_us);
                }
                return self.ask(world);
            }
            let received = incoming.got == incoming.about.id.bytes;
            if received || !stalled {
                return; // the one under way is as good, or about to be the newest one of the store
            }
        }
        let members = match Members::decode(&about.members) {
            Ok(members) => members,
            Err(error) => {
                return log::error!("node {from} offers a snapshot with unreadable members: {error}")
            }
        };
        log::info!(
            "receiving the snapshot of entry {} from node {from}: {} bytes",
            position.index,
            about.id.bytes
        );
        world.snapshot(Job::Receive { about: about.clone() });
        self.transfers.incoming =
            Some(Incoming { about, members, from, asked: 0, got: 0, written: 0, heard_us: now_us });
        self.ask(world);
    }

    /// Asks for parts as far as the window reaches.
    fn ask<W: World>(&mut self, world: &mut W) {
        let Some(incoming) = &mut self.transfers.incoming else { return };
        let part_bytes = self.settings.snapshot_req_max_bytes.min(u64::from(u32::MAX));
        let window = self.settings.snapshot_req_max_count * part_bytes;
        let id = incoming.about.id;
        while incoming.asked < id.bytes
            && incoming.asked - incoming.got < window
            && incoming.got - incoming.written < UNWRITTEN_BYTES
        {
            let (offset, bytes) = (incoming.asked, part_bytes.min(id.bytes - incoming.asked));
            world.send(incoming.from, encode(&Frame::Want { id, offset, bytes: bytes as u32 }));
            incoming.asked += bytes;
        }
    }

    fn on_part<W: World>(&mut self, world: &mut W, id: Id, offset: u64, bytes: Bytes) {
        let now_us = world.now_us();
        let Some(incoming) = self.transfers.incoming.as_mut().filter(|i| i.about.id == id) else { return };
        let end = offset.saturating_add(bytes.len() as u64);
        if offset != incoming.got || end > id.bytes || bytes.is_empty() {
            return; // came before, or what is between was lost
        }
        incoming.heard_us = now_us;
        incoming.got = end;
        incoming.asked = incoming.asked.max(end);
        world.snapshot(Job::Part { id, offset, bytes });
        self.ask(world);
    }

    /// A part is on the disk, or could not be put there.
    pub(super) fn on_part_written<W: World>(
        &mut self,
        world: &mut W,
        id: Id,
        through: u64,
        result: Result<bool, SnapshotError>,
    ) -> Result<(), Fatal> {
        let Some(incoming) = self.transfers.incoming.as_mut().filter(|i| i.about.id == id) else {
            assert!(
                !matches!(result, Ok(true)),
                "I1: the snapshot of entry {} took its place unseen",
                id.index
            );
            return Ok(());
        };
        match result {
            Ok(false) => {
                incoming.written = incoming.written.max(through);
                self.ask(world);
                Ok(())
            }
            Ok(true) => self.install(world),
            Err(error) => {
                log::error!("the snapshot of entry {} was not taken over: {error}", id.index);
                self.transfers.incoming = None;
                self.transfers.not_before_us = world.now_us() + REFUSED_PAUSE_US;
                Ok(())
            }
        }
    }

    /// The snapshot is durable and the newest one here. If the log does not hold its entry, the log begins anew behind
    /// it, and the local Redis is given all of it. Else the log loses its holes up to there; Redis is given the snapshot
    /// if they kept it from getting as far.
    fn install<W: World>(&mut self, world: &mut W) -> Result<(), Fatal> {
        let Incoming { about, members, from, .. } =
            self.transfers.incoming.take().expect("what was received was being received");
        let position = Position { index: about.id.index, term: about.id.term };
        log::info!("received the snapshot of entry {} from node {from}", position.index);
        self.snapshots.received += 1;
        loop {
            let write = world.settle_log()?;
            self.on_durable(world, write)?;
            if self.last_write <= write {
                break;
            }
        }
        let membership = members.membership();
        if !self.raft.holds(position) && self.raft.role() != Role::Leader {
            assert!(
                position.index > self.committed,
                "entry {position:?} is committed, and the log does not hold it"
            );
            self.snapshots.abandon();
            self.snapshots.used_ids.extend(self.used_ids(self.committed));
            self.load_anew(world);
            world.replace_log(position)?;
            self.last_write = 0; // those before are in the log that was replaced
            self.member_history = vec![(position.index, members)];
            self.healing.look_again();
            self.has_snapshot(*about);
            self.step(world, Input::InstalledSnapshot { position, membership }, &[])?;
            self.dial(world);
        } else {
            self.has_snapshot(*about);
            if self.raft.role() != Role::Leader {
                self.step(world, Input::InstalledSnapshot { position, membership }, &[])?;
            }
            let hole = self.healing.last_hole_up_to(position.index);
            if hole.is_some_and(|hole| !self.dataset_holds(hole)) {
                self.load_anew(world);
            }
            self.compact_log(world)?;
        }
        self.report_now(world);
        Ok(())
    }
}
