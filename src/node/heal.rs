//! Healing: entries whose record on this node's disk is damaged come back from the other nodes, or from memory.
//!
//! ```text
//!   Open ---- Fetch to a peer ----> Asked ---- the entry ----> Filled ---- durable ----> no hole any more
//!     ^                               |
//!     `-- not there, wrong, silent ---'   the next peer; after the last one a pause, and again from the first
//! ```
//!
//! What an entry is, is known: index, term, kind, length and checksum. So any node may give it, leader or not, and the
//! log refuses what is not it. An AppendEntries that happens to carry a lost entry is as good.
//!
//! The log says what its holes are ([`World::holes`]); here is only what is being done about them. While there are
//! any, the core neither votes nor stands.
//!
//! What nobody has any more is in somebody's snapshot. When the peers were asked in vain, this node makes one of its own
//! dataset, if that holds the entry; else it takes the snapshot of a peer that has purged the entry (see `install`). The
//! log then loses the hole together with what lies before it.

use super::fetch::{self, Frame};
use super::{Fatal, Node, World};
use crate::consensus::{Index, Input, NodeId, Position, Role, Term};
use crate::limits::{HEAL_WINDOW_BYTES, HEAL_WINDOW_ENTRIES};
use crate::log::{Entry, Hole, LogError};
use std::collections::{BTreeMap, BTreeSet};

/// How long a peer may take for an answer, and how much longer for each byte that it must send: at least 10 MB/s.
const ANSWER_TIMEOUT_US: u64 = 500_000;
const ANSWER_BYTES_PER_US: u64 = 10;
/// Pause after all peers were asked for one entry in vain.
const ROUND_PAUSE_US: u64 = 1_000_000;
/// How long writing an entry may take.
const WRITE_PATIENCE_US: u64 = 10_000_000;
/// What is not healed after the first is said, and after the second again.
const PATIENCE_US: u64 = 5_000_000;
const REMINDER_US: u64 = 60_000_000;
/// Most new holes that are named in the log one by one.
const MAX_NAMED: usize = 10;

/// What the log has met so far in this process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Damage {
    /// Entries that were found damaged.
    pub found: u64,
    /// Those of them that were made good.
    pub repaired: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// To be asked for, not before this time.
    Open {
        from_us: u64,
    },
    Asked {
        peer: NodeId,
        until_us: u64,
    },
    /// It was put back and is being written. Should it be a hole still after this time, it is fetched once more.
    Filled {
        until_us: u64,
    },
}

/// One hole.
struct Missing {
    term: Term,
    bytes: u64,
    state: State,
    /// Who could not give it, in this round.
    asked: BTreeSet<NodeId>,
    /// All peers that could be reached were asked, in vain.
    refused: bool,
}

pub(super) struct Healing {
    missing: BTreeMap<Index, Missing>,
    /// The first hole as INFO shows it: file, offset and index.
    first: String,
    /// The counters when the list of holes was taken from the log.
    seen: Damage,
    /// The list of holes may have changed in a way that the counters do not show.
    look_again: bool,
    /// When the next answer is late, or the next pause over.
    next_us: u64,
    /// When to say that nobody has an entry.
    remind_at_us: u64,
    /// Peers to whom entries could not be sent: they are told as soon as an entry is back.
    starved: BTreeSet<NodeId>,
}

impl Default for Healing {
    fn default() -> Healing {
        Healing {
            missing: BTreeMap::new(),
            first: String::new(),
            seen: Damage::default(),
            look_again: true,
            next_us: u64::MAX,
            remind_at_us: 0,
            starved: BTreeSet::new(),
        }
    }
}

impl Healing {
    pub fn deadline_us(&self) -> u64 {
        if self.look_again {
            0
        } else {
            self.next_us
        }
    }

    /// File, offset and index of the first hole; empty when there is none.
    pub fn first_hole(&self) -> &str {
        &self.first
    }

    /// The log was cut, perhaps before a hole.
    pub fn look_again(&mut self) {
        self.look_again = true;
    }

    /// A read has met damage. What is known already is being healed, and no reason for another turn.
    pub fn met(&mut self, index: Index) {
        self.look_again |= !self.missing.contains_key(&index);
    }

    /// `peer` was to be sent an entry that cannot be read.
    pub fn starves(&mut self, peer: NodeId, index: Index) {
        self.met(index);
        self.starved.insert(peer);
    }

    fn lacks(&self, index: Index, term: Term) -> bool {
        let open = |missing: &Missing| missing.term == term && !matches!(missing.state, State::Filled { .. });
        self.missing.get(&index).is_some_and(open)
    }

    /// Entries asked for and not answered, and their bytes.
    fn under_way(&self) -> (usize, u64) {
        let asked = self.missing.values().filter(|missing| matches!(missing.state, State::Asked { .. }));
        asked.fold((0, 0), |(count, bytes), missing| (count + 1, bytes + missing.bytes))
    }

    /// Takes the list over; what is being done about a hole that stays goes on.
    fn take(&mut self, holes: &[Hole], now_us: u64) {
        if self.missing.is_empty() {
            self.remind_at_us = now_us + PATIENCE_US;
        }
        let mut former = std::mem::take(&mut self.missing);
        for hole in holes {
            let known = former.remove(&hole.index).filter(|missing| missing.term == hole.term);
            let fresh = || Missing {
                term: hole.term,
                bytes: u64::from(hole.payload_bytes),
                state: State::Open { from_us: 0 },
                asked: BTreeSet::new(),
                refused: false,
            };
            self.missing.insert(hole.index, known.unwrap_or_else(fresh));
        }
        self.first = holes
            .first()
            .map_or(String::new(), |hole| format!("{},{},{}", hole.file.display(), hole.offset, hole.index));
    }

    /// The last hole at or before `index`.
    pub fn last_hole_up_to(&self, index: Index) -> Option<Index> {
        self.missing.range(..=index).next_back().map(|(hole, _)| *hole)
    }

    /// The last one that all peers were asked for in vain: no log leads over it.
    pub fn last_refused_up_to(&self, index: Index) -> Option<Index> {
        self.missing.range(..=index).rev().find(|(_, missing)| missing.refused).map(|(hole, _)| *hole)
    }

    /// `peer` does not give the entry.
    fn refused(&mut self, index: Index, peer: NodeId) {
        let Some(missing) = self.missing.get_mut(&index) else { return };
        missing.asked.insert(peer);
        if matches!(missing.state, State::Asked { peer: asked, .. } if asked == peer) {
            missing.state = State::Open { from_us: 0 };
        }
    }
}

impl Node {
    /// Looks for new holes, and goes on with those that are known.
    pub(super) fn pump_healing<W: World>(&mut self, world: &mut W) -> Result<(), Fatal> {
        let damage = world.damage();
        let due = world.now_us() >= self.healing.deadline_us();
        if damage == self.healing.seen && !due {
            return Ok(());
        }
        self.healing.seen = damage;
        self.healing.look_again = false;
        self.look_at_holes(world)?;
        self.expire(world.now_us());
        self.fetch(world);
        Ok(())
    }

    fn look_at_holes<W: World>(&mut self, world: &mut W) -> Result<(), Fatal> {
        let holes = world.holes();
        let is_new = |hole: &&Hole| self.healing.missing.get(&hole.index).is_none_or(|m| m.term != hole.term);
        let new: Vec<Hole> = holes.iter().filter(is_new).cloned().collect();
        if new.is_empty() && holes.len() == self.healing.missing.len() {
            return Ok(());
        }
        for hole in new.iter().take(MAX_NAMED) {
            log::warn!("{hole}; {}", self.remedy());
        }
        if new.len() > MAX_NAMED {
            log::warn!(
                "{} more entries are damaged; the last one is {}",
                new.len() - MAX_NAMED,
                new[new.len() - 1]
            );
        }
        if holes.is_empty() {
            log::info!(
                "no entry of the log is damaged any more: {} were made good",
                self.healing.seen.repaired
            );
        }
        self.healing.take(&holes, world.now_us());
        self.reports.touch();
        let indexes = holes.iter().map(|hole| hole.index).collect();
        self.step(world, Input::Impaired { holes: indexes }, &[])?;
        for hole in new {
            // A record that was damaged a moment after it was written is still in memory.
            if let Ok(entry) = world.read(hole.index) {
                self.fill(world, entry)?;
            }
        }
        // What a snapshot holds need not be fetched.
        let newest = self.snapshots.newest_index();
        match self.healing.last_hole_up_to(newest) {
            Some(_) => self.compact_log(world),
            None => Ok(()),
        }
    }

    /// Whether the snapshot of entry `index` holds what nobody gives, and this node's dataset has not got.
    pub(super) fn is_healed_by(&self, index: Index) -> bool {
        let lacking = |(hole, missing): (&Index, &Missing)| missing.refused && !self.dataset_holds(*hole);
        self.healing.missing.range(..=index).any(lacking)
    }

    fn remedy(&self) -> &'static str {
        match self.members().0.len() {
            0 | 1 => {
                "there is no other node to fetch it from: a snapshot of the dataset is made in its place"
            }
            _ => "fetching it from the other nodes",
        }
    }

    fn expire(&mut self, now_us: u64) {
        for missing in self.healing.missing.values_mut() {
            match missing.state {
                State::Asked { peer, until_us } if until_us <= now_us => {
                    missing.asked.insert(peer);
                    missing.state = State::Open { from_us: 0 };
                }
                State::Filled { until_us } if until_us <= now_us => {
                    missing.state = State::Open { from_us: 0 }
                }
                _ => {}
            }
        }
    }

    /// Asks for entries as far as the window goes, each from the next peer that was not asked for it yet.
    fn fetch<W: World>(&mut self, world: &mut W) {
        let now_us = world.now_us();
        let members = self.members().0.keys().copied().filter(|id| *id != self.id);
        let peers: Vec<NodeId> = members.filter(|id| world.peer_report(*id).connected).collect();
        let (mut count, mut bytes) = self.healing.under_way();
        let (mut exhausted, mut next_us) = (None, u64::MAX);
        for (index, missing) in &mut self.healing.missing {
            let from_us = match missing.state {
                State::Open { from_us } => from_us,
                State::Asked { until_us, .. } | State::Filled { until_us } => {
                    next_us = next_us.min(until_us);
                    continue;
                }
            };
            if now_us < from_us {
                next_us = next_us.min(from_us);
                continue;
            }
            if count >= HEAL_WINDOW_ENTRIES || (count > 0 && bytes + missing.bytes > HEAL_WINDOW_BYTES) {
                continue; // until an answer, or its lack, makes room
            }
            // Neighbours go to different peers first, so that one silent peer does not hold up all.
            let turn = *index as usize % peers.len().max(1);
            let mut order = peers[turn..].iter().chain(&peers[..turn]);
            let Some(peer) = order.find(|peer| !missing.asked.contains(peer)).copied() else {
                missing.asked.clear();
                missing.refused = true;
                missing.state = State::Open { from_us: now_us + ROUND_PAUSE_US };
                next_us = next_us.min(now_us + ROUND_PAUSE_US);
                exhausted = exhausted.or(Some(*index));
                continue;
            };
            let patience_us = ANSWER_TIMEOUT_US + missing.bytes / ANSWER_BYTES_PER_US;
            missing.state = State::Asked { peer, until_us: now_us + patience_us };
            next_us = next_us.min(now_us + patience_us);
            (count, bytes) = (count + 1, bytes + missing.bytes);
            let wanted = Position { index: *index, term: missing.term };
            world.send(peer, fetch::encode(&Frame::Fetch(wanted)));
        }
        self.healing.next_us = next_us;
        if let Some(first) = exhausted {
            self.remind(now_us);
            // Only what is committed is ever in a snapshot.
            if first <= self.committed && self.dataset_holds(first) && !self.snapshots.asked {
                log::info!("no node gives entry {first}: a snapshot that holds it is made here");
                self.snapshots.asked = true;
            }
        }
    }

    fn remind(&mut self, now_us: u64) {
        if now_us >= self.healing.remind_at_us && self.members().0.len() > 1 {
            self.healing.remind_at_us = now_us + REMINDER_US;
            log::warn!(
                "no node that can be reached has what is damaged here: {} entries, the first is {}; trying on",
                self.healing.missing.len(),
                self.healing.first
            );
        }
    }

    /// A frame of healing came.
    pub(super) fn on_fetch_frame<W: World>(
        &mut self,
        world: &mut W,
        from: NodeId,
        frame: Frame,
    ) -> Result<(), Fatal> {
        match frame {
            Frame::Fetch(wanted) => {
                let entry = self.own_copy(world, wanted)?;
                let purged = entry.is_none() && wanted.index <= self.raft.base().index;
                world.send(from, fetch::encode(&Frame::Fetched(wanted, entry)));
                if purged {
                    self.offer(world, from);
                }
                Ok(())
            }
            Frame::Fetched(wanted, None) => {
                self.healing.refused(wanted.index, from);
                self.healing.look_again = true;
                Ok(())
            }
            Frame::Fetched(wanted, Some(entry)) => {
                if self.healing.lacks(wanted.index, wanted.term) && !self.fill(world, entry)? {
                    self.healing.refused(wanted.index, from);
                }
                self.healing.look_again = true;
                Ok(())
            }
        }
    }

    /// This node's own copy of exactly that entry, if it can be read.
    fn own_copy<W: World>(&self, world: &W, wanted: Position) -> Result<Option<Entry>, Fatal> {
        let held = wanted.index >= self.first_index() && self.raft.term_at(wanted.index) == Some(wanted.term);
        if !held {
            return Ok(None);
        }
        match world.read(wanted.index) {
            Ok(entry) => Ok(Some(entry)),
            // Damaged here too, which is looked at in this turn; or purged.
            Err(LogError::Damaged(_) | LogError::OutOfRange { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Entries that came for another reason: those that are lost here are put back.
    pub(super) fn take_lost<W: World>(&mut self, world: &mut W, entries: &[Entry]) -> Result<(), Fatal> {
        if self.healing.missing.is_empty() {
            return Ok(());
        }
        for entry in entries {
            if self.healing.lacks(entry.index, entry.term) {
                self.fill(world, entry.clone())?;
            }
        }
        Ok(())
    }

    /// Puts an entry back where it is missing; false when it is not the one that is.
    fn fill<W: World>(&mut self, world: &mut W, entry: Entry) -> Result<bool, Fatal> {
        let index = entry.index;
        match world.fill(entry) {
            Ok(true) => {
                let until_us = world.now_us() + WRITE_PATIENCE_US;
                let missing = self.healing.missing.get_mut(&index);
                missing.expect("asked for because it is missing").state = State::Filled { until_us };
                self.healing.next_us = self.healing.next_us.min(until_us);
                self.feed_starved(world)?;
            }
            Ok(false) => self.healing.look_again = true,
            Err(error) => {
                log::warn!("a copy of entry {index} is not the entry that was lost: {error}");
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Peers that waited for an entry get what can be read now.
    fn feed_starved<W: World>(&mut self, world: &mut W) -> Result<(), Fatal> {
        for peer in std::mem::take(&mut self.healing.starved) {
            if self.raft.role() == Role::Leader {
                self.step(world, Input::PeerReachable { peer }, &[])?;
            }
        }
        Ok(())
    }

    /// A peer can be reached: perhaps it has what nobody else had.
    pub(super) fn healing_peer_up(&mut self) {
        for missing in self.healing.missing.values_mut() {
            if let State::Open { from_us } = &mut missing.state {
                *from_us = 0;
                self.healing.look_again = true;
            }
        }
    }
}
