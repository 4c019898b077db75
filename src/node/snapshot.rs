//! Snapshots: when one is made, at which entry, and what becomes of it.
//!
//! ```text
//!   follower: feed  .. entry 900, APPLIED 900, SNAPSHOT 7 ..      the server forks when it runs it: entry 900
//!   leader:   Snapshot 7 -> BEFORE_SLEEP: fork, MARK 4 31 7       the stream up to the mark is entry 901: when it is
//!                                                                 committed, the dump is that of entry 901
//!   Asked ---- forked, position known ----> Saving ---- the file is there, its entry committed and durable ----.
//!     |                                       |                                                                |
//!     `------- failed: pause, again ----------+---- position truncated, leadership lost before it was known    v
//!                                             `---> the file is thrown away                                 Keeping
//!                                                                        newest; the log is purged  <-----------'
//! ```
//!
//! * N5 A dump is kept as that of an entry only when this entry is committed, of the very term, and durable here.
//! * N6 The log is purged only of what a durable snapshot holds.

use super::local::{Following, Local};
use super::members::Members;
use super::status::SnapshotStatus;
use super::{Fatal, Node, World};
use crate::consensus::{Index, Input, NodeId, PeerProgress, Position, Role};
use crate::limits::MAX_USED_IDS;
use crate::node::bridge::{Answer, Ticket, ToMain};
use crate::snapshot::{About, Done, Draft, Id, Job, SnapshotError};
use bytes::Bytes;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Pause after a snapshot that failed: the first, and the longest after several.
const RETRY_PAUSE_US: u64 = 1_000_000;
const MAX_RETRY_PAUSE_US: u64 = 60_000_000;
/// How often it is looked whether what keeps the log from being purged is still there.
const PURGE_PAUSE_US: u64 = 1_000_000;
/// What the log holds of an entry besides its payload, about.
const ENTRY_OVERHEAD_BYTES: u64 = 40;
/// Of `raft.log-max-file-size`, this part is kept in the log behind a snapshot for followers that are close; but not
/// more than the snapshot itself has bytes: then it is as cheap to send.
const KEPT_PART: u64 = 8;
/// A leader with a damaged snapshot is stuck when it has committed nothing for so many election timeouts.
const STUCK_TIMEOUTS: u64 = 2;

/// Name of a dump in the server's directory, which several servers may share.
pub fn dump_name(cluster_id: &str, id: NodeId) -> String {
    format!("raft-{cluster_id}-{id}.rdb")
}

/// A snapshot that is being made.
struct Making {
    attempt: u64,
    started_us: u64,
    /// The server has forked.
    forked: bool,
    /// Entry that the dump is of. On a leader it is known when its mark is read in the stream.
    position: Option<Position>,
    /// The server is done.
    file: Option<PathBuf>,
    /// It will not be used; only its file is awaited, to be removed.
    abandoned: bool,
    /// The store is at work on it.
    keeping: bool,
}

pub(super) struct Snapshots {
    /// Durable, with its sidecar.
    pub newest: Option<About>,
    /// All node ids that were given out by decided entries, as far as the log does not tell any more.
    pub used_ids: BTreeSet<NodeId>,
    making: Option<Making>,
    /// Attempts so far, in this process.
    attempts: u64,
    retry_at_us: u64,
    /// One is wanted and waits for `retry_at_us`.
    put_off: bool,
    retry_pause_us: u64,
    /// Administrators who asked for a snapshot and wait for one that holds what was committed when they asked.
    waiting: Vec<(Ticket, Index)>,
    /// Somebody asked, and nothing has been begun since.
    pub asked: bool,
    /// Part of what the newest snapshot holds was still needed: from this time on it is tried to purge that.
    purge_again_us: Option<u64>,
    /// The file of the newest one is damaged. It is sent to nobody; another is made as soon as there is more to put in it.
    rotten: bool,
    /// Up to where and since when nothing more was committed.
    standstill: (Index, u64),
    /// Bytes that the log has grown by since the newest snapshot.
    bytes_since: u64,
    created: u64,
    pub received: u64,
    took_us: Option<u64>,
}

impl Snapshots {
    pub fn new(newest: Option<About>) -> Snapshots {
        let used_ids = newest.iter().flat_map(|about| about.used_ids.iter().copied()).collect();
        Snapshots {
            newest,
            used_ids,
            making: None,
            attempts: 0,
            retry_at_us: 0,
            put_off: false,
            retry_pause_us: RETRY_PAUSE_US,
            waiting: Vec::new(),
            asked: false,
            purge_again_us: None,
            rotten: false,
            standstill: (0, 0),
            bytes_since: 0,
            created: 0,
            received: 0,
            took_us: None,
        }
    }

    /// What may be sent to others.
    pub fn to_offer(&self) -> Option<&About> {
        self.newest.as_ref().filter(|_| !self.rotten)
    }

    pub fn newest_index(&self) -> Index {
        self.newest.as_ref().map_or(0, |about| about.id.index)
    }

    /// An entry was appended to the log.
    pub fn grew(&mut self, payload_bytes: usize) {
        self.bytes_since += payload_bytes as u64 + ENTRY_OVERHEAD_BYTES;
    }

    /// Nothing of the snapshot under way may be used.
    pub fn abandon(&mut self) {
        if let Some(making) = self.making.as_mut().filter(|making| !making.keeping) {
            making.abandoned = true;
        }
    }

    /// The log lost `from` and all after it.
    pub fn truncated(&mut self, from: Index) {
        if self.making.as_ref().and_then(|making| making.position).is_some_and(|at| at.index >= from) {
            self.abandon();
        }
    }

    /// A leadership is over: a mark that was not read by now says nothing any more.
    pub fn leadership_lost(&mut self) {
        if self.making.as_ref().is_some_and(|making| making.position.is_none()) {
            self.abandon();
        }
    }

    /// The feed begins anew: a command in the old one that was not run by now will not be.
    pub fn feed_replaced(&mut self) {
        if self.making.as_ref().is_some_and(|making| making.position.is_some() && !making.forked) {
            self.making = None;
        }
    }

    /// When the next attempt may be made, if one is wanted and had to be put off.
    pub fn deadline_us(&self) -> u64 {
        let retry_at_us = if self.put_off { self.retry_at_us } else { u64::MAX };
        retry_at_us.min(self.purge_again_us.unwrap_or(u64::MAX))
    }

    pub fn status(&self) -> SnapshotStatus {
        let newest = self.newest.as_ref();
        SnapshotStatus {
            filename: newest.map_or(String::new(), About::file_name),
            last_index: newest.map(|about| about.id.index),
            last_term: newest.map(|about| about.id.term),
            size_bytes: newest.map(|about| about.id.bytes),
            time_secs: self.took_us.map(|us| us / 1_000_000),
            created: self.created,
            received: self.received,
            in_progress: self.making.is_some(),
        }
    }
}

impl Node {
    /// `RAFT.DEBUG COMPACT`. `wait`: it is answered when the snapshot is there; one that was under way before may lack
    /// what the administrator has just seen written.
    pub fn on_compact<W: World>(&mut self, world: &mut W, ticket: Ticket, wait: bool) {
        self.snapshots.asked = true;
        self.snapshots.retry_at_us = 0;
        match wait {
            true => self.snapshots.waiting.push((ticket, self.raft.commit())),
            false => world.bridge().answer(ticket, Answer::Ok),
        }
    }

    /// Begins a snapshot when one is due and can be had, hands a finished dump to the store, and purges what was still
    /// needed when the newest snapshot came.
    pub(super) fn pump_snapshots<W: World>(&mut self, world: &mut W) -> Result<(), Fatal> {
        if self.snapshots.purge_again_us.is_some_and(|at| world.now_us() >= at) {
            self.compact_log(world)?;
        }
        self.snapshots.asked |= self.snapshots.bytes_since > self.settings.log_max_file_bytes;
        self.snapshots.asked |= self.snapshots.rotten && self.committed > self.snapshots.newest_index();
        self.snapshots.asked |= self.snapshots.making.is_none() && !self.snapshots.waiting.is_empty();
        self.snapshots.put_off = false;
        if self.committed != self.snapshots.standstill.0 || self.raft.role() != Role::Leader {
            self.snapshots.standstill = (self.committed, world.now_us());
        }
        // What is being received may be complete on the disk already: an older one must not take its place.
        if self.is_installing() {
            return Ok(());
        }
        let now_us = world.now_us();
        if self.snapshots.making.is_some() {
            self.keep_dump(world);
        } else if self.snapshots.asked {
            match now_us >= self.snapshots.retry_at_us {
                true => self.begin_snapshot(world, now_us),
                false => self.snapshots.put_off = true,
            }
        }
        Ok(())
    }

    /// A leader that commits nothing because voters wait for a snapshot, and its own is damaged.
    pub(super) fn is_stuck(&self, now_us: u64) -> bool {
        let waits = |peer: &PeerProgress| peer.needs_snapshot && !peer.learner;
        let since_us = self.snapshots.standstill.1;
        self.snapshots.rotten
            && self.raft.role() == Role::Leader
            && self.committed < self.raft.last().index
            && now_us.saturating_sub(since_us) >= STUCK_TIMEOUTS * self.settings.election_timeout_ms * 1000
            && self.raft.progress().any(|(_, peer)| waits(&peer))
    }

    fn begin_snapshot<W: World>(&mut self, world: &mut W, now_us: u64) {
        let file = dump_name(&self.cluster_id, self.id);
        let attempt = self.snapshots.attempts + 1;
        let newest = self.snapshots.newest_index();
        let leads = self.raft.role() == Role::Leader;
        let position = match &mut self.local {
            Local::Following(Following { feed: Some(feed), connected: true, loading: None, .. })
                if !leads =>
            {
                let index = feed.next() - 1;
                if index <= newest {
                    return self.nothing_to_do(world, index);
                }
                let term = self.raft.term_at(index).expect("what is fed is in the log or is its base");
                let bytes = feed.snapshot(attempt, &file);
                world.feed_write(bytes);
                Some(Position { index, term })
            }
            Local::Leading(leading) => {
                if self.raft.last().index <= newest {
                    return self.nothing_to_do(world, newest);
                }
                let epoch = leading.epoch;
                world.bridge().tell_main(ToMain::Snapshot { epoch, attempt, file });
                None
            }
            // It is about to be one of both, or is being loaded.
            _ => return,
        };
        self.snapshots.attempts = attempt;
        self.snapshots.asked = false;
        self.snapshots.making = Some(Making {
            attempt,
            started_us: now_us,
            forked: false,
            position,
            file: None,
            abandoned: false,
            keeping: false,
        });
    }

    /// The newest snapshot holds all that there is: whoever asked has what was asked for.
    fn nothing_to_do<W: World>(&mut self, world: &mut W, index: Index) {
        if index < self.raft.commit() {
            return; // the dataset is on its way there
        }
        self.snapshots.asked = false;
        self.answer_waiting(world, Index::MAX, Answer::Ok);
    }

    /// Whoever waits for a snapshot is told before the role changes: that would end blocked clients without a word.
    pub(super) fn answer_before_role_change<W: World>(&mut self, world: &mut W) {
        let text = "this node does not lead any more, and may be making the snapshot still: ask again";
        self.answer_waiting(world, Index::MAX, Answer::Refused(text.to_string()));
    }

    /// Those are answered who asked when no more than `through` was committed; the others wait for one more.
    fn answer_waiting<W: World>(&mut self, world: &mut W, through: Index, answer: Answer) {
        self.snapshots.waiting.retain(|(ticket, committed)| {
            let is_answered = *committed <= through;
            if is_answered {
                world.bridge().answer(*ticket, answer.clone());
            }
            !is_answered
        });
    }

    /// The mark of attempt `attempt` was read in the stream: all before it is in the log up to `index`.
    pub(super) fn snapshot_marked(&mut self, attempt: u64, index: Index) {
        let term = self.raft.term_at(index).expect("the leader's own last entries are in its log");
        if let Some(making) = self.snapshots.making.as_mut().filter(|making| making.attempt == attempt) {
            making.position = Some(Position { index, term });
        }
    }

    pub fn on_snapshot_forked(&mut self, attempt: u64) {
        if let Some(making) = self.snapshots.making.as_mut().filter(|making| making.attempt == attempt) {
            making.forked = true;
        }
    }

    /// The server has written the dump.
    pub fn on_snapshot_saved<W: World>(&mut self, world: &mut W, attempt: u64, file: PathBuf) {
        match self.snapshots.making.as_mut().filter(|making| making.attempt == attempt) {
            Some(making) => making.file = Some(file),
            None => world.snapshot(Job::Discard { file }),
        }
    }

    /// Whether a dump has the name that this node gives to its own.
    pub fn is_own_dump(&self, file: &Path) -> bool {
        file.file_name().is_some_and(|name| *name == *dump_name(&self.cluster_id, self.id))
    }

    pub fn on_snapshot_failed<W: World>(&mut self, world: &mut W, attempt: u64, reason: &str) {
        if self.snapshots.making.take_if(|making| making.attempt == attempt).is_some() {
            self.snapshot_failed(world, reason);
        }
    }

    fn snapshot_failed<W: World>(&mut self, world: &mut W, reason: &str) {
        let pause_us = self.snapshots.retry_pause_us;
        log::error!("no snapshot was made, trying again in {} s: {reason}", pause_us / 1_000_000);
        self.snapshots.retry_pause_us = (pause_us * 2).min(MAX_RETRY_PAUSE_US);
        self.snapshots.retry_at_us = world.now_us() + pause_us;
        let refused = Answer::Refused(format!("no snapshot was made: {reason}"));
        self.answer_waiting(world, Index::MAX, refused);
        self.report_now(world);
    }

    /// The dump is there: it is kept as soon as its entry is decided and durable (N5).
    fn keep_dump<W: World>(&mut self, world: &mut W) {
        let Some(making) = self.snapshots.making.as_mut().filter(|making| !making.keeping) else { return };
        let Some(file) = making.file.clone() else { return };
        if making.abandoned {
            self.snapshots.making = None;
            world.snapshot(Job::Discard { file });
            // Nothing failed; whoever waits gets another one.
            self.snapshots.asked = true;
            return;
        }
        let Some(position) = making.position else { return };
        if self.snapshots.newest.as_ref().is_some_and(|newest| newest.id.index >= position.index) {
            making.abandoned = true; // a peer's has come meanwhile
            return self.keep_dump(world);
        }
        if position.index > self.committed || position.index > self.raft.durable() {
            return;
        }
        assert_eq!(
            self.raft.term_at(position.index),
            Some(position.term),
            "N5: entry {position:?} was decided, and is another one"
        );
        making.keeping = true;
        let draft = Draft {
            index: position.index,
            term: position.term,
            members: Bytes::from(self.members_at(position.index).encode()),
            used_ids: self.used_ids(position.index),
        };
        world.snapshot(Job::Keep { source: file, draft });
    }

    /// The members in force at `index`, which is not before the log.
    pub(super) fn members_at(&self, index: Index) -> &Members {
        let known = self.member_history.iter().rev().find(|(at, _)| *at <= index);
        &known.expect("the history begins at or before the log").1
    }

    /// The members of the last committed change, and of those behind it.
    pub(super) fn current_members(&self) -> &[(Index, Members)] {
        let decided = self.member_history.iter().rposition(|(at, _)| *at <= self.committed);
        &self.member_history[decided.unwrap_or(0)..]
    }

    /// All ids given out up to entry `index`, which is decided. Not one more: who is in here and no member at `index`
    /// was removed.
    pub(super) fn used_ids(&self, index: Index) -> Vec<NodeId> {
        let decided = self.member_history.iter().filter(|(at, _)| *at > 0 && *at <= index);
        let mut ids = self.snapshots.used_ids.clone();
        ids.extend(decided.flat_map(|(_, members)| members.0.keys().copied()));
        ids.into_iter().take(MAX_USED_IDS).collect()
    }

    /// The store has done a job.
    pub fn on_snapshot_done<W: World>(&mut self, world: &mut W, done: Done) -> Result<(), Fatal> {
        match done {
            Done::Kept { result } => self.dump_kept(world, result),
            Done::Read { reader, id, offset, result } => self.on_part_read(world, reader, id, offset, result),
            Done::Checked { id, result } => {
                self.snapshot_checked(id, result);
                Ok(())
            }
            Done::Parted { id, through, result } => self.on_part_written(world, id, through, result),
        }
    }

    fn snapshot_checked(&mut self, id: Id, result: Result<(), SnapshotError>) {
        let is_newest = self.snapshots.newest.as_ref().is_some_and(|about| about.id == id);
        if let Err(error) = result {
            if is_newest {
                log::error!("{error}. It is sent to nobody any more: this node makes another one");
                self.snapshots.rotten = true;
            }
        }
    }

    fn dump_kept<W: World>(
        &mut self,
        world: &mut W,
        result: Result<About, SnapshotError>,
    ) -> Result<(), Fatal> {
        let making = self.snapshots.making.take().expect("a dump is kept once, while it is being made");
        match result {
            Err(error) => {
                self.snapshot_failed(world, &error.to_string());
                Ok(())
            }
            Ok(about) => {
                let took_us = world.now_us() - making.started_us;
                let id = about.id;
                log::info!("snapshot of entry {}: {} bytes in {} ms", id.index, id.bytes, took_us / 1000);
                self.snapshots.took_us = Some(took_us);
                self.snapshots.created += 1;
                self.snapshots.retry_pause_us = RETRY_PAUSE_US;
                self.has_snapshot(about);
                self.compact_log(world)?;
                self.report_now(world); // before whoever asked looks
                self.answer_waiting(world, id.index, Answer::Ok);
                Ok(())
            }
        }
    }

    /// A snapshot is durable.
    pub(super) fn has_snapshot(&mut self, about: About) {
        let index = about.id.index;
        self.snapshots.used_ids.extend(about.used_ids.iter().copied());
        self.snapshots.newest = Some(about);
        self.snapshots.rotten = false;
        let entries = self.raft.last().index.saturating_sub(index);
        self.snapshots.bytes_since = self.raft.bytes_after(index) + entries * ENTRY_OVERHEAD_BYTES;
    }

    /// The log loses what the newest snapshot holds, but for a part that spares close followers a snapshot (N6).
    pub(super) fn compact_log<W: World>(&mut self, world: &mut W) -> Result<(), Fatal> {
        let Some(id) = self.snapshots.newest.as_ref().map(|about| about.id) else { return Ok(()) };
        let kept_bytes = (self.settings.log_max_file_bytes / KEPT_PART).min(id.bytes);
        let settled = self.committed.min(self.raft.durable());
        // A hole goes in any case: nobody may be able to fill it any more.
        let wanted =
            self.raft.leaving(id.index, kept_bytes).max(self.healing.last_hole_up_to(id.index).unwrap_or(0));
        let now_us = world.now_us();
        // Nor does keeping what nobody gives help a peer that needs it: it is brought the snapshot.
        let lost = self.healing.last_refused_up_to(id.index).unwrap_or(0);
        let needed = self.needed_by_peers(now_us).max(lost).min(self.needed_here()).min(settled);
        let through = wanted.min(needed);
        self.snapshots.purge_again_us =
            (through < wanted && wanted > self.raft.base().index).then_some(now_us + PURGE_PAUSE_US);
        if through <= self.raft.base().index {
            return Ok(());
        }
        assert!(through <= id.index, "N6: entry {through} is in no snapshot");
        let base = world.purge(through);
        let known = self.member_history.iter().rposition(|(at, _)| *at <= base);
        self.snapshots.used_ids.extend(self.used_ids(base));
        self.member_history.drain(..known.expect("the history begins at or before the log"));
        self.healing.look_again();
        self.step(world, Input::Compacted { through: base }, &[])
    }
}
