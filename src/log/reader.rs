//! Reading a whole log without changing it: the decision between clean, torn and damaged is made here, once, for
//! recovery as for `raftlog-tool`. Works beside a running writer: what looks wrong is looked at again.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::disk::{Disk, Mode, SystemDisk};
use super::error::LogError;
use super::heal::Rewrite;
use super::hole::{Hole, Lost};
use super::index_file;
use super::meta::{self, Meta};
use super::record::RecordType;
use super::scan::{own_record_at, Behind, Record};
use super::segment::*;
use super::sequence::Sequence;
use super::walk::Walk;
use super::window::Window;

/// Bytes at the end of the log that belong to no durable record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Torn {
    pub file: PathBuf,
    pub offset: u64,
    /// From `offset` to the last byte that was written.
    pub bytes: u64,
    pub reason: String,
}

/// How far a segment goes, and in what state it is.
pub struct SegmentEnd {
    pub sequence: u32,
    pub path: PathBuf,
    /// Length of the file.
    pub capacity: u64,
    /// `None`: prepared, or torn before its header was complete.
    pub header: Option<SegmentHeader>,
    /// Offset behind the last valid record; 0 without a header.
    pub offset: u64,
    /// CRC of the last valid record.
    pub prev_crc: u32,
    pub sealed: bool,
    /// Generation of META that the last mark names; 0 if there is none.
    pub meta_generation: u64,
    /// Length of the index file.
    pub index_bytes: u64,
    /// Whether the index file names exactly the records.
    pub index_intact: bool,
}

/// What a scan found.
pub struct ScanEnd {
    pub segments: Vec<SegmentEnd>,
    pub sequence: Sequence,
    pub torn: Option<Torn>,
    /// Entries that were acknowledged and cannot be read.
    pub lost: Vec<Lost>,
    /// Damaged bytes that are known nevertheless.
    pub rewrites: Vec<Rewrite>,
    /// Files that a crash left behind while they were made, or purged.
    pub leftovers: Vec<PathBuf>,
    /// Whether the visitor ended the scan early.
    pub stopped: bool,
    /// Whether damage that is known does not end the scan.
    pub(super) past_damage: bool,
}

impl ScanEnd {
    /// The entries of the log that were acknowledged and cannot be read.
    pub fn holes(&self) -> impl Iterator<Item = &Hole> {
        self.lost.iter().filter(|lost| !lost.superseded).map(|lost| &lost.hole)
    }
}

/// A record, and the file it stands in.
pub struct ReadRecord<'a> {
    pub file: &'a Path,
    pub segment_sequence: u32,
    pub record: Record<'a>,
    /// The payload is damaged, see `scan_past_damage`: `record` says what it was, without payload and its crc, and without flags.
    pub hole: Option<&'a Hole>,
}

/// Called for every record in log order, entries up to META's base index included; may end the scan.
pub type Visitor<'v> = dyn FnMut(ReadRecord<'_>) -> ControlFlow<()> + 'v;

/// A log opened for reading only, without its lock.
pub struct Reader {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) directory: PathBuf,
    pub(super) meta: Meta,
    damaged_meta_copies: usize,
    /// The log is locked by this process: nobody writes it, so its segments can be mapped.
    locked: bool,
}

impl Reader {
    /// Reads META. Errors: no log there, META damaged, or of a newer format.
    pub fn open(directory: &Path) -> Result<Reader, LogError> {
        Reader::open_on(Arc::new(SystemDisk), directory)
    }

    /// The same on another disk.
    pub fn open_on(disk: Arc<dyn Disk>, directory: &Path) -> Result<Reader, LogError> {
        let meta::MetaRead { meta, damaged_copies } = meta::read(disk.as_ref(), directory)?;
        let directory = directory.to_path_buf();
        Ok(Reader { disk, directory, meta, damaged_meta_copies: damaged_copies, locked: false })
    }

    /// For who holds the log's lock and has not begun to write: segments are mapped instead of copied.
    pub(super) fn of_a_locked_log(self) -> Reader {
        Reader { locked: true, ..self }
    }

    pub fn meta(&self) -> &Meta {
        &self.meta
    }

    /// Copies of META that are damaged; the others serve.
    pub fn damaged_meta_copies(&self) -> usize {
        self.damaged_meta_copies
    }

    /// Goes through all records in order. `Err`: the first damage, or what could not be read.
    pub fn scan(&self, visit: &mut Visitor) -> Result<ScanEnd, LogError> {
        self.read_all(visit, false)
    }

    /// Goes on behind damage, as long as it is certain what stood there: what is known but for its payload is shown
    /// to the visitor as a hole. `Err`: damage of which that is not certain, or what could not be read.
    pub fn scan_past_damage(&self, visit: &mut Visitor) -> Result<ScanEnd, LogError> {
        self.read_all(visit, true)
    }

    fn read_all(&self, visit: &mut Visitor, past_damage: bool) -> Result<ScanEnd, LogError> {
        let Files { segments: files, leftovers } = self.list()?;
        let sequence = Sequence::new(self.meta.base_index, self.meta.base_term);
        let mut end = ScanEnd {
            segments: Vec::new(),
            sequence,
            torn: None,
            lost: Vec::new(),
            rewrites: Vec::new(),
            leftovers,
            stopped: false,
            past_damage,
        };
        let opened =
            files.iter().map(|sequence| self.open_segment(*sequence)).collect::<Result<Vec<_>, _>>()?;
        let last_active = opened.iter().rposition(|segment| matches!(segment.header, HeaderState::Valid(_)));
        let seal_crcs: Vec<_> = opened.iter().skip(1).map(OpenSegment::seal_crc).chain([None]).collect();
        for (position, segment) in opened.into_iter().enumerate() {
            let later_active = last_active.is_some_and(|last| last > position);
            let index = self.read_index(segment.sequence)?;
            let header = match &segment.header {
                HeaderState::Valid(header) => Some(header.clone()),
                _ => self.judge_headless(&segment, &index, later_active, &mut end)?,
            };
            let segment_end = if let Some(header) = header {
                let seal_crc = seal_crcs[position];
                let walk =
                    Walk { reader: self, segment: &segment, index: &index, header, later_active, seal_crc };
                walk.run(&mut end, visit)?
            } else {
                SegmentEnd::unused(&segment, &index)
            };
            end.segments.push(segment_end);
            if end.stopped {
                return Ok(end);
            }
        }
        let first_index = end.sequence.first_index();
        let purged = end.lost.iter_mut().filter(|lost| lost.hole.index < first_index);
        purged.for_each(|lost| lost.superseded = true);
        end.sequence.check_base().map_err(|(expected, found)| {
            let last = end.segments.iter().rev().find(|segment| segment.header.is_some());
            let (path, offset) =
                last.map_or((self.directory.clone(), 0), |last| (last.path.clone(), last.offset));
            LogError::corrupt(&path, offset, Some(self.meta.base_index), expected, found)
        })?;
        Ok(end)
    }

    fn list(&self) -> Result<Files, LogError> {
        let directory = &self.directory;
        let names =
            self.disk.list(directory).map_err(|source| LogError::io("list", directory, None, source))?;
        let mut segments = BTreeSet::new();
        let mut indexes = BTreeSet::new();
        let mut leftovers = Vec::new();
        for name in names {
            match parse_file_name(&name) {
                FileName::Segment(sequence) => drop(segments.insert(sequence)),
                FileName::Index(sequence) => drop(indexes.insert(sequence)),
                FileName::Temporary => leftovers.push(directory.join(name)),
                FileName::Free(_) | FileName::Other => {}
            }
        }
        // A purge that was interrupted: META is its commit point.
        let first = self.meta.first_sequence;
        let kept = (segments.split_off(&first), indexes.split_off(&first));
        leftovers.extend(segments.iter().map(|sequence| segment_path(directory, *sequence)));
        leftovers.extend(indexes.iter().map(|sequence| index_path(directory, *sequence)));
        let (segments, indexes) = kept;
        for sequence in indexes.difference(&segments) {
            let path = index_path(directory, *sequence);
            let bytes = index_file::read(self.disk.as_ref(), &path)?;
            let used = index_file::decode_header(&bytes)
                .is_some_and(|(salt, _)| index_file::entries(&bytes, salt).next().is_some());
            // Looked for again: beside a writer it may have got its name since.
            if used && !self.disk.exists(&segment_path(directory, *sequence)) {
                return Err(self.missing(*sequence, "its index file names records in it"));
            }
            leftovers.push(path);
        }
        let last = segments.last().copied().unwrap_or(0).max(self.meta.floor_sequence).max(first);
        if let Some(gap) = (first..=last).find(|sequence| !segments.contains(sequence)) {
            return Err(self.missing(gap, "META or a later segment says that it belongs to the log"));
        }
        Ok(Files { segments: segments.into_iter().collect(), leftovers })
    }

    fn missing(&self, sequence: u32, because: &str) -> LogError {
        let path = segment_path(&self.directory, sequence);
        LogError::corrupt(&path, 0, None, format!("segment {sequence} ({because})"), "no such file")
    }

    fn open_segment(&self, sequence: u32) -> Result<OpenSegment, LogError> {
        let path = segment_path(&self.directory, sequence);
        let mut window = self.window(&path)?;
        let header = SegmentHeader::decode(&first_block(&mut window)?);
        let file_bytes = window.file_bytes();
        match &header {
            HeaderState::Newer { version } => Err(LogError::NewerFormat {
                file: path,
                offset: 8,
                what: "segment version",
                found: u64::from(*version),
                known: u64::from(FORMAT_VERSION),
            }),
            HeaderState::Valid(valid) => {
                valid.check(&path, &self.meta.owner, sequence, file_bytes)?;
                Ok(OpenSegment { sequence, path, file_bytes, header })
            }
            HeaderState::Blank | HeaderState::Invalid { .. } => {
                Ok(OpenSegment { sequence, path, file_bytes, header })
            }
        }
    }

    pub(super) fn window(&self, path: &Path) -> Result<Window, LogError> {
        let file =
            self.disk.open(path, Mode::Read).map_err(|source| LogError::io("open", path, None, source))?;
        match self.locked {
            true => Window::mapped(file, path),
            false => Window::of(file, path),
        }
    }

    fn read_index(&self, sequence: u32) -> Result<Vec<u8>, LogError> {
        index_file::read(self.disk.as_ref(), &index_path(&self.directory, sequence))
    }

    /// A segment without a valid header: prepared, or torn in its first batch - or damaged, if there is evidence
    /// that it was in use; then its header is returned as it must have been. Bytes of a former life do not count: the
    /// file gets a new salt before it is used.
    fn judge_headless(
        &self,
        segment: &OpenSegment,
        index: &[u8],
        later_active: bool,
        end: &mut ScanEnd,
    ) -> Result<Option<SegmentHeader>, LogError> {
        let OpenSegment { sequence, path, header, .. } = segment;
        let mut window = self.window(path)?;
        let block = first_block(&mut window)?;
        let index_salt = index_file::decode_header(index).filter(|(_, other)| other == sequence);
        let salt = index_salt.map_or(SegmentHeader::salt_of_damaged(&block), |(salt, _)| salt);
        let floor = self.meta.floor_sequence > *sequence
            || (self.meta.floor_sequence == *sequence && self.meta.floor_offset > 0);
        let indexed = index_file::entries(index, salt).next().map(|entry| entry.index);
        let is_blank = *header == HeaderState::Blank;
        // Only behind a segment that was sealed can one be in use.
        let possible = end.torn.is_none() && end.segments.last().is_none_or(|before| before.sealed);
        let from = SEGMENT_HEADER_BYTES as u64;
        let begun = possible && (!is_blank || own_record_at(&mut window, salt, from)?.is_some());
        let behind = if begun { Behind::look(&mut window, salt, from)? } else { Behind::default() };
        window.forget();
        if matches!(SegmentHeader::decode(&first_block(&mut window)?), HeaderState::Valid(_)) {
            // A running writer has just begun it: it was not part of the log when the scan started.
            return Ok(None);
        }
        let (expected, found) = match header {
            HeaderState::Invalid { expected, found } => (expected.clone(), found.clone()),
            _ => ("a segment header".to_string(), "zeros".to_string()),
        };
        if later_active || floor || indexed.is_some() || behind.durable_offset > 0 {
            let header = self.rebuild_header(&mut window, (*sequence, salt), &block, end)?;
            let header = header.filter(|_| end.past_damage);
            let index = indexed.or(Some(end.sequence.last_index() + 1));
            let header = header.ok_or_else(|| LogError::corrupt(path, 0, index, expected, found))?;
            let (file, bytes) = (path.clone(), header.encode().to_vec());
            let what = "the header of the segment".to_string();
            end.rewrites.push(Rewrite { file, sequence: *sequence, offset: 0, bytes, what });
            return Ok(Some(header));
        }
        if begun {
            let reason = format!("its first batch was not complete: expected {expected}, found {found}");
            let bytes = behind.own_end.max(if is_blank { 0 } else { from });
            end.torn = Some(Torn { file: path.clone(), offset: 0, bytes, reason });
        }
        Ok(None)
    }

    /// The header of a segment that is in use, from what stands around it. `None`: nothing confirms it.
    fn rebuild_header(
        &self,
        window: &mut Window,
        (sequence, salt): (u32, u32),
        block: &[u8; SEGMENT_HEADER_BYTES],
        end: &ScanEnd,
    ) -> Result<Option<SegmentHeader>, LogError> {
        let capacity = window.file_bytes();
        if !capacity.is_multiple_of(BLOCK_BYTES as u64) {
            return Ok(None); // not the length that it was made with: that went with the header
        }
        let first = own_record_at(window, salt, SEGMENT_HEADER_BYTES as u64)?.map(|first| first.header);
        let before = end.segments.last().map(|before| before.prev_crc);
        let (Some(first), Some(prev_crc)) = (first, before.or(first.map(|first| first.prev_crc))) else {
            return Ok(None);
        };
        // The first record is a mark: it names the entry before it.
        let (next_index, prev_term) = (first.index.saturating_add(1), first.term);
        let owner = self.meta.owner.clone();
        let header = SegmentHeader {
            salt,
            sequence,
            next_index,
            prev_term,
            prev_crc,
            recycled: true,
            capacity,
            owner,
        };
        if first.record_type != RecordType::Mark as u8 || first.prev_crc != prev_crc {
            return Ok(None);
        }
        // What is left of the old one may tell whether the file was recycled. Else it may have been.
        let fresh = SegmentHeader { recycled: false, ..header.clone() };
        let is_fresh = fresh.encode()[12..16] == block[12..16] || fresh.encode()[16..] == block[16..];
        Ok(Some(if is_fresh { fresh } else { header }))
    }
}

impl SegmentEnd {
    fn unused(segment: &OpenSegment, index: &[u8]) -> SegmentEnd {
        SegmentEnd {
            sequence: segment.sequence,
            path: segment.path.clone(),
            capacity: segment.file_bytes,
            header: None,
            offset: 0,
            prev_crc: 0,
            sealed: false,
            meta_generation: 0,
            index_bytes: index.len() as u64,
            index_intact: false,
        }
    }
}

/// A copy of the first block; a file that is shorter goes on with zeros.
fn first_block(window: &mut Window) -> Result<[u8; SEGMENT_HEADER_BYTES], LogError> {
    let available = window.file_bytes().min(SEGMENT_HEADER_BYTES as u64);
    let bytes = window.get(0, available)?.expect("inside the file");
    let mut block = [0; SEGMENT_HEADER_BYTES];
    block[..bytes.len()].copy_from_slice(bytes);
    Ok(block)
}

struct Files {
    segments: Vec<u32>,
    leftovers: Vec<PathBuf>,
}

/// A segment file, and what its first block says.
pub(super) struct OpenSegment {
    pub sequence: u32,
    pub path: PathBuf,
    pub file_bytes: u64,
    pub header: HeaderState,
}

impl OpenSegment {
    /// CRC of the seal that ends the segment before.
    fn seal_crc(&self) -> Option<u32> {
        match &self.header {
            HeaderState::Valid(header) => Some(header.prev_crc),
            _ => None,
        }
    }
}
