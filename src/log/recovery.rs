//! Opening a log: lock, read all, decide, and only then mend what a crash left.

use std::fmt;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::active::{Active, SegmentView};
use super::disk::{Disk, FileHandle, Guard, Mode};
use super::error::LogError;
use super::heal::Rewrite;
use super::hole::{Hole, Lost};
use super::index_file::{self, FrameBuilder, IndexEntry};
use super::mend::Holes;
use super::meta::{self, Meta, META_NAME};
use super::prepare::{planned_bytes, Maker, Prepared};
use super::reader::{ReadRecord, Reader, ScanEnd, SegmentEnd, Torn};
use super::record::RecordType;
use super::scan::{Scanner, Step};
use super::segment::*;
use super::table::{Line, Table};
use super::window::Window;
use super::writer::Start;
use crate::limits::{LOG_CACHE_BYTES, LOG_SEGMENTS_AHEAD, LOG_SEGMENT_MIN_BYTES};

pub const LOCK_NAME: &str = "LOCK";

/// What was found when the log was opened. `Display`: one line for the operator.
#[derive(Clone, Debug, Default)]
pub struct Recovery {
    /// What was dropped: bytes that no durable write can have left.
    pub torn: Option<Torn>,
    pub entries: u64,
    pub segments: u64,
    /// Bytes of the segments in use.
    pub bytes: u64,
    /// Index files that were incomplete or damaged, and were made anew from their segments.
    pub rebuilt_indexes: Vec<PathBuf>,
    /// Acknowledged entries that cannot be read; see `Log::fill`.
    pub holes: Vec<Hole>,
    /// What was damaged and known nevertheless, one line each; it was written anew.
    pub rewritten: Vec<String>,
    /// Copies of META that were damaged and rewritten.
    pub damaged_meta_copies: usize,
    /// Half-made files of a crash that were removed.
    pub leftovers: Vec<PathBuf>,
    pub duration: Duration,
}

impl fmt::Display for Recovery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Recovery { entries, segments, bytes, duration, .. } = self;
        let duration_ms = duration.as_millis();
        write!(f, "log opened: {entries} entries in {segments} segments, {bytes} bytes, {duration_ms} ms")?;
        if let Some(Torn { file, offset, bytes, reason }) = &self.torn {
            let file = file.display();
            write!(
                f,
                "; torn tail dropped: {bytes} bytes of {file} from offset {offset}, never acknowledged"
            )?;
            write!(f, " ({reason})")?;
        }
        if !self.holes.is_empty() {
            write!(f, "; {} acknowledged entries are damaged: check the disk", self.holes.len())?;
        }
        if !self.rewritten.is_empty() {
            write!(f, "; {} damaged places mended: check the disk", self.rewritten.len())?;
        }
        if self.damaged_meta_copies > 0 {
            write!(f, "; {} damaged copies of META rewritten: check the disk", self.damaged_meta_copies)?;
        }
        if !self.rebuilt_indexes.is_empty() {
            write!(f, "; {} index files completed", self.rebuilt_indexes.len())?;
        }
        if !self.leftovers.is_empty() {
            write!(f, "; {} half-made files removed", self.leftovers.len())?;
        }
        Ok(())
    }
}

/// A log read back from its directory.
pub struct Opened {
    pub lock: Guard,
    pub meta: Meta,
    pub table: Table,
    pub views: Vec<Arc<SegmentView>>,
    pub start: Start,
    /// Segments that are ready to be written, in order.
    pub prepared: Vec<Prepared>,
    pub recovery: Recovery,
    pub holes: Holes,
}

/// Takes the lock of a log's directory.
pub fn lock(disk: &dyn Disk, directory: &Path) -> Result<Guard, LogError> {
    let path = directory.join(LOCK_NAME);
    match disk.lock(&path) {
        Ok(Some(guard)) => Ok(guard),
        Ok(None) => Err(LogError::InUse { directory: directory.to_path_buf(), holder: holder(disk, &path) }),
        Err(source) => Err(LogError::io("lock", &path, None, source)),
    }
}

/// Process id that a lock's holder wrote into it.
fn holder(disk: &dyn Disk, path: &Path) -> Option<u32> {
    let file = disk.open(path, Mode::Read).ok()?;
    let mut text = vec![0; file.length().ok()?.min(16) as usize];
    file.read_at(&mut text, 0).ok()?;
    std::str::from_utf8(&text).ok()?.trim().parse().ok()
}

/// Makes a new log in `directory`. META is written last: a directory without it holds no log, whatever else a
/// crash left there.
pub fn create(disk: &dyn Disk, directory: &Path, meta: &Meta, segment_bytes: u64) -> Result<(), LogError> {
    let path = directory.join(META_NAME);
    disk.create_directory(directory).map_err(|source| LogError::io("create", directory, None, source))?;
    let parent = directory.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    disk.sync_directory(parent).map_err(|source| LogError::io("fsync", parent, None, source))?;
    let _lock = lock(disk, directory)?;
    if disk.exists(&path) {
        return Err(LogError::AlreadyExists { directory: directory.to_path_buf() });
    }
    let names = disk.list(directory).map_err(|source| LogError::io("list", directory, None, source))?;
    let mut leftovers = Vec::new();
    for name in names {
        let file = directory.join(&name);
        match parse_file_name(&name) {
            FileName::Segment(_) => {
                if open_window(disk, &file)?.has_data(0..u64::MAX)? {
                    return Err(LogError::MetaMissing { file });
                }
                leftovers.push(file);
            }
            FileName::Index(_) | FileName::Free(_) | FileName::Temporary => leftovers.push(file),
            FileName::Other => {}
        }
    }
    remove_all(disk, &leftovers)?;
    let maker = Maker { disk, directory, mode: Mode::Write };
    maker.make(
        meta.first_sequence,
        planned_bytes(meta.first_sequence, segment_bytes),
        &AtomicBool::new(false),
    )?;
    let temporary = temporary_path(&path);
    let file = disk
        .open(&temporary, Mode::CreateNew)
        .map_err(|source| LogError::io("create", &temporary, None, source))?;
    meta::write_new(&file, &temporary, meta)?;
    file.sync_all().map_err(|source| LogError::io("fsync", &temporary, None, source))?;
    disk.rename(&temporary, &path).map_err(|source| LogError::io("rename", &temporary, None, source))?;
    disk.sync_directory(directory).map_err(|source| LogError::io("fsync", directory, None, source))
}

fn open_window(disk: &dyn Disk, path: &Path) -> Result<Window, LogError> {
    let file = disk.open(path, Mode::Read).map_err(|source| LogError::io("open", path, None, source))?;
    Window::of(file, path)
}

fn remove_all(disk: &dyn Disk, files: &[PathBuf]) -> Result<(), LogError> {
    files
        .iter()
        .try_for_each(|file| disk.remove(file).map_err(|source| LogError::io("remove", file, None, source)))
}

/// Opens the log in `directory`. Nothing is changed on the disk unless all of it was found good.
/// `mode`: how segments are opened for writing.
pub fn open(
    disk: &Arc<dyn Disk>,
    directory: &Path,
    segment_bytes: u64,
    mode: Mode,
) -> Result<Opened, LogError> {
    let started = Instant::now();
    if !disk.exists(&directory.join(META_NAME)) {
        return Err(LogError::NotALog { directory: directory.to_path_buf() });
    }
    let lock = lock(disk.as_ref(), directory)?;
    sync_segments(disk.as_ref(), directory)?;
    let reader = Reader::open_on(disk.clone(), directory)?.of_a_locked_log();
    let mut meta = reader.meta().clone();
    let mut table = Table::new(meta.base_index, meta.base_term, LOG_CACHE_BYTES);
    let mut end = reader.scan_past_damage(&mut |read| {
        load(&mut table, read);
        ControlFlow::Continue(())
    })?;
    assert!(table.last_index() == end.sequence.last_index(), "the table follows the records");
    let repair = Repair { disk: disk.as_ref(), directory };
    let rebuilt_indexes = repair.apply(&mut end)?;
    let damaged_meta_copies = reader.damaged_meta_copies();
    if damaged_meta_copies > 0 {
        repair.rewrite_meta(&mut meta)?;
    }
    let (used, unused) =
        end.segments.split_at(end.segments.iter().take_while(|s| s.header.is_some()).count());
    let next_sequence = used.last().map_or(meta.first_sequence, |last| last.sequence + 1);
    let maker = Maker { disk: disk.as_ref(), directory, mode };
    let prepared = repair.prepared(&maker, unused, next_sequence, segment_bytes)?;
    let used_bytes: Vec<u64> = used.iter().map(|segment| segment.offset).collect();
    let views: Vec<_> = used.iter().map(view).collect();
    let mut active = None;
    if let Some((last, view)) = used.last().zip(views.last()) {
        (meta.floor_sequence, meta.floor_offset) = (last.sequence, last.offset);
        if !last.sealed {
            let index = index_path(directory, last.sequence);
            let index = (index, last.index_bytes);
            let written = (last.offset, last.meta_generation);
            active = Some(Active::resume(disk.as_ref(), mode, view.clone(), written, index)?);
        }
    }
    let recovery = Recovery {
        holes: end.holes().cloned().collect(),
        rewritten: end.rewrites.iter().map(Rewrite::to_string).collect(),
        torn: end.torn,
        entries: table.last_index() + 1 - table.first_index(),
        segments: used.len() as u64,
        bytes: used_bytes.iter().sum(),
        rebuilt_indexes,
        damaged_meta_copies,
        leftovers: end.leftovers,
        duration: started.elapsed(),
    };
    let durable_place = used.last().map_or((meta.first_sequence, 0), |last| (last.sequence, last.offset));
    let start = Start {
        meta: meta.clone(),
        active,
        next_sequence,
        prev_crc: used.last().map_or(0, |last| last.prev_crc),
        last: (end.sequence.last_index(), end.sequence.last_term()),
        used_bytes,
    };
    let holes = Holes::new(end.lost, durable_place);
    Ok(Opened { lock, meta, table, views, start, prepared, recovery, holes })
}

/// What is read back may still sit in the page cache only; it counts as durable from now on, so it must be.
fn sync_segments(disk: &dyn Disk, directory: &Path) -> Result<(), LogError> {
    let names = disk.list(directory).map_err(|source| LogError::io("list", directory, None, source))?;
    for name in names {
        if matches!(parse_file_name(&name), FileName::Segment(_)) || name == META_NAME {
            let path = directory.join(name);
            let file =
                disk.open(&path, Mode::Write).map_err(|source| LogError::io("open", &path, None, source))?;
            file.sync_data().map_err(|source| LogError::io("fdatasync", &path, None, source))?;
        }
    }
    Ok(())
}

fn load(table: &mut Table, read: ReadRecord) {
    let header = read.record.header;
    if let Some(kind) = read.record.record_type.entry_kind() {
        if header.index < table.first_index() {
            return;
        }
        table.push_recovered(Line {
            term: header.term,
            offset: read.record.offset as u32,
            length: header.length,
            segment: read.segment_sequence,
            kind,
        });
    } else if read.record.record_type == RecordType::Truncate {
        table.truncate(header.index.max(table.first_index()));
    }
}

fn view(segment: &SegmentEnd) -> Arc<SegmentView> {
    let header = segment.header.as_ref().expect("segments in use have a header");
    Arc::new(SegmentView::new(header, segment.path.clone()))
}

/// The mending of what a crash left; every step may be interrupted and is then done again by the next start.
struct Repair<'d> {
    disk: &'d dyn Disk,
    directory: &'d Path,
}

impl Repair<'_> {
    fn apply(&self, end: &mut ScanEnd) -> Result<Vec<PathBuf>, LogError> {
        if let Some(torn) = &end.torn {
            self.zero(torn)?;
        }
        self.rewrite(&end.rewrites)?;
        // Before anything is made: what a start left that was interrupted here has the name of what is made now.
        remove_all(self.disk, &end.leftovers)?;
        let mut rebuilt = Vec::new();
        let used = end.segments.iter_mut().filter(|segment| segment.header.is_some());
        for segment in used.filter(|segment| !segment.index_intact) {
            let path = index_path(self.directory, segment.sequence);
            let index = self.rebuild_index(segment, &end.lost)?;
            index_file::replace(self.disk, &path, &index)?;
            segment.index_bytes = index.len() as u64;
            rebuilt.push(path);
        }
        if !rebuilt.is_empty() || !end.leftovers.is_empty() {
            let directory = self.directory;
            self.disk
                .sync_directory(directory)
                .map_err(|source| LogError::io("fsync", directory, None, source))?;
        }
        Ok(rebuilt)
    }

    fn open(&self, path: &Path) -> Result<FileHandle, LogError> {
        self.disk.open(path, Mode::Write).map_err(|source| LogError::io("open", path, None, source))
    }

    /// A torn tail becomes zeros before anything is written behind it: else its remains could pass for records
    /// of a later batch.
    fn zero(&self, torn: &Torn) -> Result<(), LogError> {
        let file = self.open(&torn.file)?;
        let zeros = vec![0; (1 << 20).min(torn.bytes as usize)];
        let end = torn.offset + torn.bytes;
        let mut offset = torn.offset;
        while offset < end {
            let length = (zeros.len() as u64).min(end - offset);
            file.write_at(&zeros[..length as usize], offset)
                .map_err(|source| LogError::io("write zeros to", &torn.file, offset, source))?;
            offset += length;
        }
        file.sync_data().map_err(|source| LogError::io("fdatasync", &torn.file, offset, source))
    }

    /// Damaged bytes that are known: the record that stood there needs nothing from elsewhere. A crash on the way leaves
    /// old or new sectors: damaged again, or whole.
    fn rewrite(&self, rewrites: &[Rewrite]) -> Result<(), LogError> {
        for Rewrite { file: path, offset, bytes, .. } in rewrites {
            let file = self.open(path)?;
            file.write_at(bytes, *offset).map_err(|source| LogError::io("write", path, *offset, source))?;
            file.sync_data().map_err(|source| LogError::io("fdatasync", path, *offset, source))?;
        }
        Ok(())
    }

    /// Two new generations: so every one of the four copies is written.
    fn rewrite_meta(&self, meta: &mut Meta) -> Result<(), LogError> {
        let path = self.directory.join(META_NAME);
        let file = self.open(&path)?;
        for _ in 0..2 {
            meta.generation += 1;
            meta::write(file.as_ref(), &path, meta)?;
        }
        Ok(())
    }

    /// Takes over the segments that were prepared to be the next ones. There is always one before the first entry.
    fn prepared(
        &self,
        maker: &Maker,
        unused: &[SegmentEnd],
        next_sequence: u32,
        segment_bytes: u64,
    ) -> Result<Vec<Prepared>, LogError> {
        let (next, surplus) = unused.split_at(unused.len().min(LOG_SEGMENTS_AHEAD as usize));
        let surplus: Vec<PathBuf> = surplus
            .iter()
            .flat_map(|segment| [segment.path.clone(), index_path(self.directory, segment.sequence)])
            .filter(|path| self.disk.exists(path))
            .collect();
        remove_all(self.disk, &surplus)?;
        let mut prepared = Vec::new();
        for (segment, sequence) in next.iter().zip(next_sequence..) {
            assert!(segment.sequence == sequence, "segments are numbered without gaps");
            let capacity = segment.capacity;
            let usable = capacity >= LOG_SEGMENT_MIN_BYTES && capacity % BLOCK_BYTES as u64 == 0;
            let mut window = open_window(self.disk, &segment.path)?;
            let header = window.get_array::<SEGMENT_HEADER_BYTES>(0)?;
            prepared.push(if usable && header == Some(&[0; SEGMENT_HEADER_BYTES]) {
                // In the first one a batch may have been begun. Of the others it is enough to see their first record:
                // that of a former life, or zeros.
                let body = SEGMENT_HEADER_BYTES as u64;
                let looked_at = if sequence == next_sequence { capacity } else { body + BLOCK_BYTES as u64 };
                let recycled = window.has_data(body..looked_at)?;
                maker.adopt(sequence, recycled)?
            } else {
                // Cut, or grown by a crash half-way: a new file takes its name.
                let capacity = planned_bytes(sequence, segment_bytes);
                maker.make(sequence, capacity, &AtomicBool::new(false))?
            });
        }
        Ok(prepared)
    }

    /// The index file of a segment, from its records and what is known of lost ones.
    fn rebuild_index(&self, segment: &SegmentEnd, lost: &[Lost]) -> Result<Vec<u8>, LogError> {
        let header = segment.header.as_ref().expect("segments in use have a header");
        let salt = header.salt;
        let mut index = index_file::encode_header(salt, segment.sequence).to_vec();
        let mut frames = FrameBuilder::new(salt);
        let mut scanner = Scanner::new(salt, SEGMENT_HEADER_BYTES as u64, header.prev_crc);
        let mut window = open_window(self.disk, &segment.path)?;
        let mut lost = lost.iter().filter(|lost| lost.sequence == segment.sequence).peekable();
        while scanner.offset() < segment.offset {
            let offset = scanner.offset();
            let entry = if let Some(lost) = lost.next_if(|lost| lost.hole.offset == offset) {
                scanner = Scanner::new(salt, lost.end(), lost.crc());
                lost.index_entry()
            } else {
                let Step::Record(record) = scanner.next(&mut window)? else { break };
                let entry = IndexEntry::of(&record.header, record.record_type, offset as u32);
                record.record_type.is_indexed().then_some(entry)
            };
            entry.into_iter().for_each(|entry| frames.push(entry));
        }
        index.extend_from_slice(frames.bytes());
        Ok(index)
    }
}
