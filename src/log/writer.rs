//! The files as the sync thread writes them: one aligned `pwrite` and one `fdatasync` per batch.
//!
//! Order of effects, on which recovery rests:
//! 1. META before the entries of the same batch.
//! 2. A batch only after the one before is durable; its mark says so.
//! 3. A segment's header with its first batch, only after the seal of the segment before is durable.
//! 4. Lines of the index file only after their records are durable; a batch is acknowledged after them.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::disk::{Disk, FileHandle, Map, Mode};
use super::error::LogError;
use super::index_file::{IndexEntry, INDEX_HEADER_BYTES};
use super::meta::{self, Meta, META_NAME};
use super::prepare::{Prepared, Preparer};
use super::record::*;
use super::segment::*;
use super::stats::SyncStats;
use super::table::Placement;
use super::WriteRequest;

/// A batch larger than this is written in several pieces (and synced once): bounds the buffer.
const WRITE_CHUNK_BYTES: usize = 1 << 20;
/// What need not be durable at once is synced this often: the index file, and segments without fsync.
pub const SYNC_PERIOD: Duration = Duration::from_secs(1);
const MARK_BYTES: u64 = (HEADER_BYTES + MARK_PAYLOAD_BYTES) as u64;
const SEAL_BYTES: u64 = HEADER_BYTES as u64;

/// A segment, for reading.
pub struct SegmentView {
    pub sequence: u32,
    pub salt: u32,
    pub path: PathBuf,
    pub map: Map,
}

/// A request on its way to the disk.
pub struct Work {
    pub request: WriteRequest,
    /// Term of the last entry that `truncate_from` leaves.
    pub term_left: u64,
}

/// The segment being written.
pub struct Active {
    view: Arc<SegmentView>,
    capacity: u64,
    file: FileHandle,
    index_path: PathBuf,
    index_file: FileHandle,
    index_offset: u64,
    /// Lines of records that are written but not known to be durable.
    index_lines: Vec<u8>,
    /// Where `buffer` belongs; a multiple of the block size.
    block_offset: u64,
    /// The bytes from `block_offset` on: a block that is partly written already, then what is to be written.
    buffer: Vec<u8>,
    /// Everything before is durable; 0: not even the header.
    durable_offset: u64,
}

impl Active {
    fn cursor(&self) -> u64 {
        self.block_offset + self.buffer.len() as u64
    }

    /// A prepared segment, its header to be written with the first batch.
    fn begin(prepared: Prepared, header: &SegmentHeader) -> Active {
        let Prepared { sequence, capacity, salt, path, file, map, index_path, index_file } = prepared;
        Active {
            view: Arc::new(SegmentView { sequence, salt, path, map }),
            capacity,
            file,
            index_path,
            index_file,
            index_offset: INDEX_HEADER_BYTES as u64,
            index_lines: Vec::new(),
            block_offset: 0,
            buffer: header.encode().to_vec(),
            durable_offset: 0,
        }
    }

    /// A segment that recovery found open, with everything before `offset` durable.
    pub fn resume(
        disk: &dyn Disk,
        view: Arc<SegmentView>,
        offset: u64,
        index_path: PathBuf,
        index_offset: u64,
    ) -> Result<Active, LogError> {
        let open = |path: &Path| {
            disk.open(path, Mode::Write).map_err(|source| LogError::io("open", path, None, source))
        };
        let (file, index_file) = (open(&view.path)?, open(&index_path)?);
        let bytes: &[u8] = (*view.map).as_ref();
        let block_offset = offset - offset % BLOCK_BYTES as u64;
        let buffer = bytes[block_offset as usize..offset as usize].to_vec();
        let capacity = bytes.len() as u64;
        Ok(Active {
            view,
            capacity,
            file,
            index_path,
            index_file,
            index_offset,
            index_lines: Vec::new(),
            block_offset,
            buffer,
            durable_offset: offset,
        })
    }

    /// Writes the buffer: whole blocks of it, or all of it padded with zeros to a whole block.
    fn flush(&mut self, padded: bool) -> Result<(), LogError> {
        let length = self.buffer.len();
        let whole = length - length % BLOCK_BYTES;
        let write_bytes = if padded { length.next_multiple_of(BLOCK_BYTES) } else { whole };
        assert!(self.block_offset + write_bytes as u64 <= self.capacity, "a write stays inside its segment");
        self.buffer.resize(write_bytes.max(length), 0);
        self.file
            .write_at(&self.buffer[..write_bytes], self.block_offset)
            .map_err(|source| LogError::io("write", &self.view.path, self.block_offset, source))?;
        self.buffer.truncate(length);
        self.buffer.drain(..whole);
        self.block_offset += whole as u64;
        Ok(())
    }

    fn push(&mut self, bytes: &[u8]) -> Result<(), LogError> {
        for piece in bytes.chunks(WRITE_CHUNK_BYTES) {
            self.buffer.extend_from_slice(piece);
            if self.buffer.len() >= WRITE_CHUNK_BYTES {
                self.flush(false)?;
            }
        }
        Ok(())
    }

    fn write_index(&mut self) -> Result<(), LogError> {
        self.index_file
            .write_at(&self.index_lines, self.index_offset)
            .map_err(|source| LogError::io("write", &self.index_path, self.index_offset, source))?;
        self.index_offset += self.index_lines.len() as u64;
        self.index_lines.clear();
        Ok(())
    }
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
    /// Bytes of the log that are in use.
    pub file_bytes: u64,
}

/// Owner of all files while the log is open.
pub struct LogWriter {
    disk: Arc<dyn Disk>,
    directory: PathBuf,
    segment_bytes: u64,
    preparer: Preparer,
    meta: Meta,
    meta_path: PathBuf,
    meta_file: FileHandle,
    active: Option<Active>,
    next_sequence: u32,
    prev_crc: u32,
    last: (u64, u64),
    /// The last entry that is durable.
    durable: (u64, u64),
    /// Whether the batch being written has its mark in the active segment.
    marked: bool,
    /// Since when there is something written and not synced.
    unsynced_since: Option<Duration>,
    index_dirty_since: Option<Duration>,
    /// What happened since it was last taken.
    pub placements: Vec<Placement>,
    pub new_segments: Vec<Arc<SegmentView>>,
    file_bytes: u64,
    stats: Arc<Mutex<SyncStats>>,
}

impl LogWriter {
    pub fn new(
        disk: Arc<dyn Disk>,
        directory: PathBuf,
        segment_bytes: u64,
        preparer: Preparer,
        stats: Arc<Mutex<SyncStats>>,
        start: Start,
    ) -> Result<LogWriter, LogError> {
        let meta_path = directory.join(META_NAME);
        let meta_file = disk
            .open(&meta_path, Mode::Write)
            .map_err(|source| LogError::io("open", &meta_path, None, source))?;
        let Start { meta, active, next_sequence, prev_crc, last, file_bytes } = start;
        Ok(LogWriter {
            disk,
            directory,
            segment_bytes,
            preparer,
            meta,
            meta_path,
            meta_file,
            active,
            next_sequence,
            prev_crc,
            last,
            durable: last,
            marked: false,
            unsynced_since: None,
            index_dirty_since: None,
            placements: Vec::new(),
            new_segments: Vec::new(),
            file_bytes,
            stats,
        })
    }

    /// Writes a batch; on return with `fsync` all of it is durable. An error is final.
    pub fn write_batch(&mut self, batch: &[Work], fsync: bool) -> Result<(), LogError> {
        let hard_state = batch.iter().rev().find_map(|work| work.request.hard_state);
        if hard_state.is_some_and(|hard_state| hard_state != self.meta.hard_state) {
            self.meta.hard_state = hard_state.expect("just seen");
            self.write_meta()?;
        }
        self.marked = false;
        let mut written = false;
        for Work { request, term_left } in batch {
            if let Some(from) = request.truncate_from {
                self.put(RecordType::Truncate, (from, 0), &[], 0)?;
                self.last = (from - 1, *term_left);
                written = true;
            }
            for entry in &request.entries {
                let record_type = RecordType::from(entry.kind);
                let position = (entry.index, entry.term);
                let offset = self.put(record_type, position, &entry.payload, entry.payload_crc)?;
                let segment = self.active.as_ref().expect("just put into").view.sequence;
                self.placements.push(Placement { request: request.id, index: entry.index, segment, offset });
                self.last = position;
                written = true;
            }
        }
        if written {
            self.finish(fsync)?;
            self.prepare_ahead();
        }
        Ok(())
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
            self.preparer.sync_index(active.index_file.clone(), active.index_path.clone());
        }
        Ok(unsynced || index_dirty)
    }

    /// Whether `maintain` has something to do, now or soon.
    pub fn needs_maintenance(&self) -> bool {
        self.unsynced_since.is_some() || self.index_dirty_since.is_some()
    }

    /// Without a thread for it: does something that was asked of the helper. False: there is nothing.
    pub fn help(&mut self) -> bool {
        self.preparer.run_once()
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
        self.note_sync(self.disk.now().saturating_sub(started));
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
        // Room for the mark too, and the seal that must still fit behind.
        let bytes = MARK_BYTES + record_bytes(length) + SEAL_BYTES;
        if self.active.as_ref().is_none_or(|active| active.cursor() + bytes > active.capacity) {
            self.roll(bytes)?;
        }
        if !self.marked {
            self.marked = true;
            let durable_offset = self.active.as_ref().expect("rolled").durable_offset;
            let mark = Mark { durable_offset, meta_generation: self.meta.generation }.encode();
            self.emit(RecordType::Mark, self.durable, &mark, crc32fast::hash(&mark))?;
        }
        self.emit(record_type, position, payload, payload_crc)
    }

    fn emit(
        &mut self,
        record_type: RecordType,
        position: (u64, u64),
        payload: &[u8],
        payload_crc: u32,
    ) -> Result<u32, LogError> {
        let active = self.active.as_mut().expect("records are put into an active segment");
        let offset = u32::try_from(active.cursor()).expect("segments are below 4 GiB");
        let length = payload.len() as u32;
        let salt = active.view.salt;
        let header = RecordHeader::sealed(salt, record_type, position, (length, payload_crc), self.prev_crc);
        self.prev_crc = header.crc;
        active.push(&header.encode())?;
        active.push(payload)?;
        active.push(&[0; 7][..padding_bytes(length)])?;
        if record_type != RecordType::Mark {
            let line = IndexEntry::of(&header, record_type, offset).encode(salt);
            active.index_lines.extend_from_slice(&line);
        }
        self.file_bytes += record_bytes(length);
        Ok(offset)
    }

    /// Ends the batch: written, and durable if `fsync`.
    fn finish(&mut self, fsync: bool) -> Result<(), LogError> {
        self.active.as_mut().expect("something was put").flush(true)?;
        let now = self.disk.now();
        self.unsynced_since.get_or_insert(now);
        if fsync {
            self.sync()?;
        }
        Ok(())
    }

    fn sync(&mut self) -> Result<(), LogError> {
        let active = self.active.as_mut().expect("something was written");
        let started = self.disk.now();
        let sync = active.file.sync_data();
        sync.map_err(|source| LogError::io("fdatasync", &active.view.path, active.durable_offset, source))?;
        let duration = self.disk.now().saturating_sub(started);
        active.durable_offset = active.cursor();
        active.write_index()?;
        self.unsynced_since = None;
        self.durable = self.last;
        self.meta.floor_sequence = active.view.sequence;
        self.meta.floor_offset = active.durable_offset;
        self.index_dirty_since.get_or_insert(started);
        self.note_sync(duration);
        Ok(())
    }

    /// Seals the active segment and begins the next one, with room for `bytes`. A seal is always synced.
    fn roll(&mut self, bytes: u64) -> Result<(), LogError> {
        if self.active.is_some() {
            self.emit(RecordType::Seal, self.last, &[], 0)?;
            self.finish(true)?;
            let sealed = self.active.take().expect("just seen");
            self.index_dirty_since = None;
            self.preparer.sync_index(sealed.index_file, sealed.index_path);
        }
        let capacity = (SEGMENT_HEADER_BYTES as u64 + bytes).next_multiple_of(BLOCK_BYTES as u64);
        let prepared = self.take_prepared(capacity)?;
        let header = SegmentHeader {
            salt: prepared.salt,
            sequence: prepared.sequence,
            next_index: self.last.0 + 1,
            prev_term: self.last.1,
            prev_crc: self.prev_crc,
            capacity: prepared.capacity,
            owner: self.meta.owner.clone(),
        };
        let active = Active::begin(prepared, &header);
        self.new_segments.push(active.view.clone());
        self.active = Some(active);
        self.next_sequence += 1;
        self.file_bytes += SEGMENT_HEADER_BYTES as u64;
        self.marked = false;
        Ok(())
    }

    fn take_prepared(&mut self, capacity: u64) -> Result<Prepared, LogError> {
        self.preparer.request(self.next_sequence, self.segment_bytes);
        let mut prepared = self.preparer.take();
        if prepared.is_err() {
            // Nothing that was acknowledged is in it, and what failed ahead of need may work now: space came back.
            self.preparer.request(self.next_sequence, self.segment_bytes);
            prepared = self.preparer.take();
        }
        let mut prepared = prepared?;
        assert!(prepared.sequence == self.next_sequence, "segments are prepared in order");
        if prepared.capacity < capacity {
            prepared.grow(capacity)?;
        }
        Ok(prepared)
    }

    fn note_sync(&self, duration: Duration) {
        let mut stats = self.stats.lock().expect("no thread of the log panics");
        stats.record_sync(duration);
        stats.file_bytes = self.file_bytes;
    }

    /// Asks for the next segment once half of this one is used.
    fn prepare_ahead(&mut self) {
        if self.active.as_ref().is_some_and(|active| active.cursor() > active.capacity / 2) {
            self.preparer.request(self.next_sequence, self.segment_bytes);
        }
    }
}
