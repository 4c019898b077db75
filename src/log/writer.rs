//! The files as the sync thread writes them: one aligned `pwrite` and one `fdatasync` per batch.
//!
//! Order of effects, on which recovery rests:
//! 1. META before the entries of the same batch.
//! 2. A batch only after the one before is durable; the flag of its first record says so.
//! 3. A segment's header with its first batch, only after the seal of the segment before is durable.
//! 4. Frames of the index file only after their records are durable; a batch is acknowledged after them.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::active::{Active, SegmentView};
use super::buffer::Buffer;
use super::disk::{Disk, FileHandle, Mode};
use super::error::LogError;
use super::heal::Rewrite;
use super::helper::Helper;
use super::meta::{self, Meta, META_BYTES, META_NAME};
use super::patience::Patience;
use super::record::*;
use super::segment::*;
use super::stats::SyncStats;
use super::table::Placement;
use super::{Entry, HardState};

/// What need not be durable at once is synced this often: the index file, and segments without fsync.
pub const SYNC_PERIOD: Duration = Duration::from_secs(1);
const MARK_BYTES: u64 = (HEADER_BYTES + MARK_PAYLOAD_BYTES) as u64;
const SEAL_BYTES: u64 = HEADER_BYTES as u64;

/// A request on its way to the disk.
pub struct Work {
    /// Of the request.
    pub id: u64,
    pub hard_state: Option<HardState>,
    pub promise_us: Option<u64>,
    pub regain_trust: bool,
    pub truncate_from: Option<u64>,
    /// Term of the last entry that `truncate_from` leaves.
    pub term_left: u64,
    /// Shared with the cache: the payloads are not touched until one of both lets go.
    pub entries: Arc<Vec<Entry>>,
    /// Of all entries.
    pub payload_bytes: usize,
}

/// The beginning of the log is given up.
pub struct Purge {
    /// Only when this request is durable: the new first entry may be part of it.
    pub after_request: u64,
    /// The log starts behind this entry from now on, with segment `first_sequence`.
    pub base_index: u64,
    pub base_term: u64,
    pub first_sequence: u32,
    /// What is given up.
    pub views: Vec<Arc<SegmentView>>,
}

/// Where writing starts, as recovery found it.
pub struct Start {
    pub meta: Meta,
    pub active: Option<Active>,
    /// Of the segment that comes after the active one.
    pub next_sequence: u32,
    /// CRC of the last record.
    pub prev_crc: u32,
    /// Index and term of the last entry.
    pub last: (u64, u64),
    /// Bytes in use of each segment of the log, in order.
    pub used_bytes: Vec<u64>,
}

/// Owner of all files while the log is open.
pub struct LogWriter {
    disk: Arc<dyn Disk>,
    directory: PathBuf,
    helper: Helper,
    patience: Patience,
    meta: Meta,
    meta_path: PathBuf,
    meta_file: FileHandle,
    active: Option<Active>,
    next_sequence: u32,
    prev_crc: u32,
    last: (u64, u64),
    /// Since when, by the disk's clock, there is something written and not synced.
    unsynced_since: Option<Duration>,
    index_dirty_since: Option<Duration>,
    /// What happened since it was last taken.
    pub placements: Vec<Placement>,
    pub new_segments: Vec<Arc<SegmentView>>,
    /// Bytes in use of each segment from META's first to the one before the active, and their sum.
    used_bytes: VecDeque<u64>,
    sealed_bytes: u64,
    stats: Arc<Mutex<SyncStats>>,
}

impl LogWriter {
    pub fn new(
        disk: Arc<dyn Disk>,
        directory: PathBuf,
        helper: Helper,
        patience: Patience,
        stats: Arc<Mutex<SyncStats>>,
        start: Start,
    ) -> Result<LogWriter, LogError> {
        let meta_path = directory.join(META_NAME);
        let meta_file = disk
            .open(&meta_path, Mode::Write)
            .map_err(|source| LogError::io("open", &meta_path, None, source))?;
        let Start { meta, active, next_sequence, prev_crc, last, used_bytes } = start;
        assert!(meta.first_sequence + used_bytes.len() as u32 == next_sequence, "segments have no gaps");
        let mut used_bytes = VecDeque::from(used_bytes);
        if active.is_some() {
            used_bytes.pop_back();
        }
        Ok(LogWriter {
            disk,
            directory,
            helper,
            patience,
            meta,
            meta_path,
            meta_file,
            active,
            next_sequence,
            prev_crc,
            last,
            unsynced_since: None,
            index_dirty_since: None,
            placements: Vec::new(),
            new_segments: Vec::new(),
            sealed_bytes: used_bytes.iter().sum(),
            used_bytes,
            stats,
        })
    }

    /// Writes a batch; on return with `fsync` all of it is durable. An error is final.
    pub fn write_batch(&mut self, batch: &[Work], fsync: bool) -> Result<(), LogError> {
        let hard_state = batch.iter().rev().find_map(|work| work.hard_state).unwrap_or(self.meta.hard_state);
        let promise_us = batch.iter().rev().find_map(|work| work.promise_us).unwrap_or(self.meta.promise_us);
        let trust = self.meta.distrusted && batch.iter().any(|work| work.regain_trust);
        if hard_state != self.meta.hard_state || promise_us != self.meta.promise_us || trust {
            self.meta.hard_state = hard_state;
            self.meta.promise_us = promise_us;
            self.meta.distrusted &= !trust;
            self.write_meta()?;
        }
        let mut written = false;
        for work in batch {
            if let Some(from) = work.truncate_from {
                self.put(RecordType::Truncate, (from, 0), &[], 0)?;
                self.last = (from - 1, work.term_left);
                written = true;
            }
            for entry in work.entries.iter() {
                self.put_entry(work.id, entry)?;
                written = true;
            }
        }
        if written {
            self.finish(fsync)?;
            self.keep_ahead();
        }
        Ok(())
    }

    fn put_entry(&mut self, request: u64, entry: &Entry) -> Result<(), LogError> {
        let position = (entry.index, entry.term);
        let record_type = RecordType::from(entry.kind);
        let offset = self.put(record_type, position, &entry.payload, entry.payload_crc)?;
        self.last = position;
        let segment = self.active.as_ref().expect("just put into").view.sequence;
        let end = offset + entry.segment_bytes() as u32;
        match self.placements.last_mut() {
            Some(last) if (last.request, last.segment, last.end) == (request, segment, offset) => {
                last.count += 1;
                last.end = end;
            }
            _ => {
                let first_index = entry.index;
                self.placements.push(Placement { request, first_index, count: 1, segment, offset, end });
            }
        }
        Ok(())
    }

    /// Gives up the entries up to `purge.base_index`, and the segments before `purge.first_sequence`. META is the commit
    /// point: what is left undone behind it is finished by the next start.
    pub fn purge(&mut self, purge: Purge) -> Result<(), LogError> {
        let Purge { base_index, base_term, first_sequence, views, .. } = purge;
        let sequences = self.meta.first_sequence..first_sequence;
        assert!(first_sequence < self.next_sequence, "the active segment is kept");
        assert!(base_index >= self.meta.base_index && base_index <= self.last.0, "the log holds its base");
        if self.unsynced_since.is_some() {
            self.sync()?;
        }
        (self.meta.base_index, self.meta.base_term) = (base_index, base_term);
        self.meta.first_sequence = first_sequence;
        self.write_meta()?;
        self.sealed_bytes -= self.used_bytes.drain(..sequences.len()).sum::<u64>();
        if !sequences.is_empty() {
            self.helper.put_away(sequences, views);
        }
        self.note(|_| ());
        Ok(())
    }

    /// Writes damaged records again, each durable on return. What was purged meanwhile is passed over.
    pub fn mend<'r>(&mut self, rewrites: impl Iterator<Item = &'r Rewrite>) -> Result<(), LogError> {
        for Rewrite { file: path, sequence, offset, bytes, .. } in rewrites {
            if *sequence < self.meta.first_sequence {
                continue;
            }
            let open = self.disk.open(path, Mode::Write);
            let file = open.map_err(|source| LogError::io("open", path, None, source))?;
            file.write_at(bytes, *offset).map_err(|source| LogError::io("write", path, *offset, source))?;
            file.sync_data().map_err(|source| LogError::io("fdatasync", path, *offset, source))?;
            if let Some(active) = self.active.as_mut().filter(|active| active.view.sequence == *sequence) {
                active.patch(*offset, bytes);
            }
        }
        Ok(())
    }

    /// Everything before was durable when it was last synced: segment and offset.
    pub fn durable_place(&self) -> (u32, u64) {
        (self.meta.floor_sequence, self.meta.floor_offset)
    }

    /// Syncs what has waited for `SYNC_PERIOD`: to be called after each batch, and when nothing comes. False:
    /// nothing had.
    pub fn maintain(&mut self) -> Result<bool, LogError> {
        let now = self.disk.now();
        let is_due = |since: Duration| now.saturating_sub(since) >= SYNC_PERIOD;
        let unsynced = self.unsynced_since.is_some_and(is_due);
        if unsynced {
            self.sync()?;
        }
        let index_dirty = self.index_dirty_since.is_some_and(is_due);
        if index_dirty {
            self.index_dirty_since = None;
            let active = self.active.as_ref().expect("its index was written");
            self.helper.sync_index(active.index_file.clone(), active.index_path.clone());
        }
        Ok(unsynced || index_dirty)
    }

    /// Whether `maintain` has something to do, now or soon.
    pub fn needs_maintenance(&self) -> bool {
        self.unsynced_since.is_some() || self.index_dirty_since.is_some()
    }

    /// Without a thread for it: does something that was asked of the helper. False: there is nothing.
    pub fn help(&mut self) -> bool {
        self.helper.run_once()
    }

    /// Leaves nothing unsynced behind.
    pub fn close(&mut self) -> Result<(), LogError> {
        if self.unsynced_since.is_some() {
            self.sync()?;
        }
        let Some(active) = self.active.as_ref().filter(|_| self.index_dirty_since.is_some()) else {
            return Ok(());
        };
        let sync = active.index_file.sync_data();
        sync.map_err(|source| LogError::io("fdatasync", &active.index_path, None, source))
    }

    fn write_meta(&mut self) -> Result<(), LogError> {
        self.meta.generation += 1;
        let started = self.disk.now();
        meta::write(self.meta_file.as_ref(), &self.meta_path, &self.meta)?;
        let duration = self.disk.now().saturating_sub(started);
        self.note(|stats| {
            stats.record_sync(duration);
            stats.written_bytes += META_BYTES as u64 / 2;
        });
        Ok(())
    }

    /// Adds a record to the batch, in a new segment if there is no room. Returns its offset.
    fn put(
        &mut self,
        record_type: RecordType,
        position: (u64, u64),
        payload: &[u8],
        payload_crc: u32,
    ) -> Result<u32, LogError> {
        let found = crc32fast::hash(payload);
        if found != payload_crc {
            let file = self.active.as_ref().map_or(&self.directory, |active| &active.view.path).clone();
            return Err(LogError::PayloadChanged { file, index: position.0, expected: payload_crc, found });
        }
        let length = u32::try_from(payload.len()).expect("payloads are below 1 GiB");
        // Room for a mark and a copy too, and the seal that must still fit behind.
        let copies = if record_type == RecordType::Membership { 2 } else { 1 };
        let bytes = MARK_BYTES + copies * record_bytes(length) + SEAL_BYTES;
        if self.active.as_ref().is_none_or(|active| active.cursor() + bytes > active.capacity) {
            self.roll(bytes)?;
        }
        let active = self.active.as_mut().expect("rolled if there was none");
        if active.marked_generation != self.meta.generation {
            active.marked_generation = self.meta.generation;
            let mark = Mark { meta_generation: self.meta.generation }.encode();
            self.emit(RecordType::Mark, self.last, &mark, crc32fast::hash(&mark))?;
        }
        let offset = self.emit(record_type, position, payload, payload_crc)?;
        if record_type == RecordType::Membership {
            self.emit(RecordType::Copy, position, payload, payload_crc)?;
        }
        Ok(offset)
    }

    fn emit(
        &mut self,
        record_type: RecordType,
        position: (u64, u64),
        payload: &[u8],
        payload_crc: u32,
    ) -> Result<u32, LogError> {
        let active = self.active.as_mut().expect("records are put into an active segment");
        let (offset, crc) = active.put(record_type, position, (payload, payload_crc), self.prev_crc)?;
        self.prev_crc = crc;
        Ok(offset)
    }

    /// Ends the batch: written, and durable if `fsync`.
    fn finish(&mut self, fsync: bool) -> Result<(), LogError> {
        let started = self.disk.now();
        self.active.as_mut().expect("something was put").write(fsync)?;
        if fsync {
            self.synced(started)?;
        } else {
            self.unsynced_since.get_or_insert(started);
            self.note(|_| ());
        }
        Ok(())
    }

    fn sync(&mut self) -> Result<(), LogError> {
        let started = self.disk.now();
        self.active.as_mut().expect("something was written").sync()?;
        self.synced(started)
    }

    /// Names in the index file what was put: it is durable. The write or sync that made it so began at `started`.
    fn synced(&mut self, started: Duration) -> Result<(), LogError> {
        let now = self.disk.now();
        let active = self.active.as_mut().expect("something was written");
        self.patience.until_there_is_space(|| active.write_index())?;
        self.unsynced_since = None;
        self.index_dirty_since.get_or_insert(now);
        self.meta.floor_sequence = active.view.sequence;
        self.meta.floor_offset = active.durable_offset;
        self.note(|stats| stats.record_sync(now.saturating_sub(started)));
        Ok(())
    }

    /// Seals the active segment and begins the next one, with room for `bytes`. A seal is always synced.
    fn roll(&mut self, bytes: u64) -> Result<(), LogError> {
        let mut buffer = None;
        if self.active.is_some() {
            self.emit(RecordType::Seal, self.last, &[], 0)?;
            self.finish(true)?;
            let sealed = self.active.take().expect("just seen");
            self.index_dirty_since = None;
            self.helper.sync_index(sealed.index_file.clone(), sealed.index_path.clone());
            self.used_bytes.push_back(sealed.cursor());
            self.sealed_bytes += sealed.cursor();
            buffer = Some(sealed.into_buffer());
        }
        let capacity = (SEGMENT_HEADER_BYTES as u64 + bytes).next_multiple_of(BLOCK_BYTES as u64);
        let (helper, next) = (&mut self.helper, self.next_sequence);
        let mut prepared = self.patience.until_there_is_space(|| helper.take(next))?;
        if prepared.capacity < capacity {
            self.patience.until_there_is_space(|| prepared.grow(capacity))?;
        }
        let header = SegmentHeader {
            salt: prepared.salt,
            sequence: prepared.sequence,
            next_index: self.last.0 + 1,
            prev_term: self.last.1,
            prev_crc: self.prev_crc,
            recycled: prepared.recycled,
            capacity: prepared.capacity,
            owner: self.meta.owner.clone(),
        };
        let active = Active::begin(prepared, &header, buffer.unwrap_or_else(Buffer::new));
        self.new_segments.push(active.view.clone());
        self.active = Some(active);
        self.next_sequence += 1;
        Ok(())
    }

    /// Brings the shared numbers up to date.
    fn note(&mut self, change: impl FnOnce(&mut SyncStats)) {
        let (mut active_bytes, mut written_bytes) = (0, 0);
        if let Some(active) = &mut self.active {
            active_bytes = active.cursor();
            written_bytes = std::mem::take(&mut active.written_bytes);
        }
        let mut stats = self.stats.lock().expect("no thread of the log panics");
        stats.file_bytes = self.sealed_bytes + active_bytes;
        stats.written_bytes += written_bytes;
        change(&mut stats);
    }

    /// Keeps segments ready once an eighth of this one is used: a log that is hardly written takes no space.
    fn keep_ahead(&mut self) {
        if self.active.as_ref().is_some_and(|active| active.cursor() > active.capacity / 8) {
            self.helper.keep_ahead(self.next_sequence, self.disk.now());
        }
    }
}
