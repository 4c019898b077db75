//! Reading a whole log without changing it: the decision between clean, torn and damaged is made here, once, for
//! recovery as for `raftlog-tool`. Works beside a running writer: what looks wrong is looked at again.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::disk::{Disk, Map, Mode, SystemDisk};
use super::error::LogError;
use super::index_file::{self, IndexEntry};
use super::meta::{self, Meta, META_NAME};
use super::record::{Mark, RecordType};
use super::scan::*;
use super::segment::*;

/// Bytes at the end of the log that belong to no durable record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Torn {
    pub file: PathBuf,
    pub offset: u64,
    /// From `offset` to the last byte that is not zero.
    pub bytes: u64,
    pub reason: String,
}

/// How far a segment goes, and in what state it is.
pub struct SegmentEnd {
    pub sequence: u32,
    pub path: PathBuf,
    pub map: Map,
    /// `None`: prepared, or torn before its header was complete.
    pub header: Option<SegmentHeader>,
    /// Offset behind the last valid record; 0 without a header.
    pub offset: u64,
    /// CRC of the last valid record.
    pub prev_crc: u32,
    pub sealed: bool,
    /// Lines that the index file should have.
    pub index_lines: usize,
    /// Whether the index file has exactly these.
    pub index_intact: bool,
}

/// What a scan found.
pub struct ScanEnd {
    pub segments: Vec<SegmentEnd>,
    pub sequence: Sequence,
    pub torn: Option<Torn>,
    /// Files that a crash left behind while they were made.
    pub leftovers: Vec<PathBuf>,
    /// Whether the visitor ended the scan early.
    pub stopped: bool,
}

/// A record, and the file it stands in.
pub struct ReadRecord<'a> {
    pub file: &'a Path,
    pub segment_sequence: u32,
    pub record: Record<'a>,
}

/// Called for every record in log order; may end the scan.
pub type Visitor<'v> = dyn FnMut(ReadRecord<'_>) -> ControlFlow<()> + 'v;

/// A log opened for reading only, without its lock.
pub struct Reader {
    disk: Arc<dyn Disk>,
    directory: PathBuf,
    meta: Meta,
    damaged_meta_copies: usize,
}

/// How often something that looks wrong beside a running writer is looked at again before it counts.
const LIVE_RETRIES: usize = 3;

impl Reader {
    /// Reads META. Errors: no log there, META damaged, or of a newer format.
    pub fn open(directory: &Path) -> Result<Reader, LogError> {
        Reader::open_on(Arc::new(SystemDisk), directory)
    }

    /// The same on another disk.
    pub fn open_on(disk: Arc<dyn Disk>, directory: &Path) -> Result<Reader, LogError> {
        let meta::MetaRead { meta, damaged_copies } = meta::read(disk.as_ref(), directory)?;
        Ok(Reader { disk, directory: directory.to_path_buf(), meta, damaged_meta_copies: damaged_copies })
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
        let Files { segments: files, leftovers } = self.list()?;
        let sequence = Sequence::new(self.meta.base_index, self.meta.base_term);
        let mut end = ScanEnd { segments: Vec::new(), sequence, torn: None, leftovers, stopped: false };
        let opened =
            files.iter().map(|sequence| self.open_segment(*sequence)).collect::<Result<Vec<_>, _>>()?;
        let last_active = opened.iter().rposition(|segment| matches!(segment.header, HeaderState::Valid(_)));
        for (position, segment) in opened.into_iter().enumerate() {
            let later_active = last_active.is_some_and(|last| last > position);
            if let HeaderState::Valid(header) = segment.header.clone() {
                let index = self.read_index(segment.sequence)?;
                let mut walk = Walk { reader: self, segment: &segment, index, header, later_active, line: 0 };
                let segment_end = walk.run(&mut end, visit)?;
                end.segments.push(segment_end);
            } else {
                let segment_end = self.judge_headless(segment, later_active, &mut end)?;
                end.segments.push(segment_end);
            }
            if end.stopped {
                break;
            }
        }
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
                FileName::Other => {}
            }
        }
        for sequence in indexes.difference(&segments) {
            let path = index_path(directory, *sequence);
            let bytes = index_file::read(self.disk.as_ref(), &path)?;
            let used = index_file::decode_header(&bytes)
                .is_some_and(|(salt, _)| index_entries(&bytes, salt, 0).next().is_some());
            // Looked for again: beside a writer it may have got its name since.
            if used && !self.disk.exists(&segment_path(directory, *sequence)) {
                return Err(self.missing(*sequence, "its index file names records in it"));
            }
            leftovers.push(path);
        }
        let first = self.meta.first_sequence;
        let last = segments.last().copied().unwrap_or(0).max(self.meta.floor_sequence).max(first);
        if let Some(foreign) = segments.first().filter(|sequence| **sequence < first) {
            return Err(LogError::Foreign {
                file: segment_path(directory, *foreign),
                offset: 0,
                expected: format!("segments from {first} on"),
                found: format!("segment {foreign}"),
            });
        }
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
        let open = || {
            let file = self.disk.open(&path, Mode::Read)?;
            if file.length()? == 0 {
                return Ok(Arc::new(Vec::new()) as Map);
            }
            file.map()
        };
        let map = open().map_err(|source| LogError::io("map", &path, None, source))?;
        let bytes: &[u8] = (*map).as_ref();
        let header = SegmentHeader::decode(&first_block(bytes));
        match &header {
            HeaderState::Newer { version } => Err(LogError::NewerFormat {
                file: path,
                offset: 8,
                what: "segment version",
                found: u64::from(*version),
                known: u64::from(FORMAT_VERSION),
            }),
            HeaderState::Valid(valid) => {
                valid.check(&path, &self.meta.owner, sequence, bytes.len() as u64)?;
                Ok(OpenSegment { sequence, path, map, header })
            }
            HeaderState::Blank | HeaderState::Invalid { .. } => {
                Ok(OpenSegment { sequence, path, map, header })
            }
        }
    }

    fn read_index(&self, sequence: u32) -> Result<Vec<u8>, LogError> {
        index_file::read(self.disk.as_ref(), &index_path(&self.directory, sequence))
    }

    /// A segment without a valid header: prepared, or torn in its first batch - or damaged, if there is evidence
    /// that it was in use.
    fn judge_headless(
        &self,
        segment: OpenSegment,
        later_active: bool,
        end: &mut ScanEnd,
    ) -> Result<SegmentEnd, LogError> {
        let OpenSegment { sequence, path, map, header } = segment;
        let index = self.read_index(sequence)?;
        let bytes: &[u8] = (*map).as_ref();
        let index_salt = index_file::decode_header(&index).map(|(salt, _)| salt);
        let damaged_salt = SegmentHeader::salt_of_damaged(&first_block(bytes));
        let salt = index_salt.unwrap_or(damaged_salt);
        let floor = self.meta.floor_sequence > sequence
            || (self.meta.floor_sequence == sequence && self.meta.floor_offset > 0);
        let indexed = index_entries(&index, salt, 0).next().map(|(_, entry)| entry.index);
        let marked = durable_by_marks(bytes, salt, SEGMENT_HEADER_BYTES as u64) > 0;
        let (expected, found) = match header {
            HeaderState::Invalid { expected, found } => (expected, found),
            _ => ("a segment header".to_string(), "zeros".to_string()),
        };
        let covered = later_active || floor || indexed.is_some() || marked;
        let data = end_of_data(bytes, 0);
        if matches!(SegmentHeader::decode(&first_block(bytes)), HeaderState::Valid(_)) {
            // A running writer has just begun it: it was not part of the log when the scan started.
        } else if covered {
            let index = indexed.or(Some(end.sequence.last_index() + 1));
            return Err(LogError::corrupt(&path, 0, index, expected, found));
        } else if data > 0 && end.torn.is_none() {
            let reason = format!("its first batch was not complete: expected {expected}, found {found}");
            end.torn = Some(Torn { file: path.clone(), offset: 0, bytes: data, reason });
        }
        Ok(SegmentEnd {
            sequence,
            path,
            map,
            header: None,
            offset: 0,
            prev_crc: 0,
            sealed: false,
            index_lines: 0,
            index_intact: false,
        })
    }
}

/// A copy of the first block; a file that is shorter goes on with zeros.
fn first_block(bytes: &[u8]) -> [u8; SEGMENT_HEADER_BYTES] {
    let mut block = [0; SEGMENT_HEADER_BYTES];
    let available = bytes.len().min(SEGMENT_HEADER_BYTES);
    block[..available].copy_from_slice(&bytes[..available]);
    block
}

struct Files {
    segments: Vec<u32>,
    leftovers: Vec<PathBuf>,
}

struct OpenSegment {
    sequence: u32,
    path: PathBuf,
    map: Map,
    header: HeaderState,
}

/// The walk through one segment with a valid header.
struct Walk<'r> {
    reader: &'r Reader,
    segment: &'r OpenSegment,
    /// Read before the first record: whatever it names was durable then.
    index: Vec<u8>,
    header: SegmentHeader,
    later_active: bool,
    /// Lines of the index file that have been compared.
    line: usize,
}

impl Walk<'_> {
    fn run(&mut self, end: &mut ScanEnd, visit: &mut Visitor) -> Result<SegmentEnd, LogError> {
        self.check_succession(end)?;
        let mut bytes: &[u8] = (*self.segment.map).as_ref();
        let header_crc = self.header.prev_crc;
        let mut scanner = Scanner::new(self.header.salt, SEGMENT_HEADER_BYTES as u64, header_crc);
        let mut index_intact =
            index_file::decode_header(&self.index) == Some((self.header.salt, self.segment.sequence));
        let mut sealed = false;
        let mut retries = 0;
        while !sealed && !end.stopped {
            match scanner.next(bytes) {
                Step::Record(record) => {
                    self.check_record(&record, end)?;
                    index_intact &= self.check_index_line(&record)?;
                    sealed = record.record_type == RecordType::Seal;
                    let file = &self.segment.path;
                    let read = ReadRecord { file, segment_sequence: self.segment.sequence, record };
                    end.stopped = visit(read).is_break();
                    retries = 0;
                }
                Step::Newer { what, found } => {
                    return Err(LogError::NewerFormat {
                        file: self.segment.path.clone(),
                        offset: scanner.offset(),
                        what,
                        found,
                        known: if what == "record type" { RecordType::Seal as u64 } else { 0 },
                    })
                }
                step => {
                    let covered = scanner.offset() < self.durable_offset(scanner.offset());
                    if !covered || retries == LIVE_RETRIES {
                        self.judge_stop(step, covered, &scanner, end)?;
                        break;
                    }
                    retries += 1;
                    bytes = (*self.segment.map).as_ref();
                }
            }
        }
        let full_index = index_file::INDEX_HEADER_BYTES + self.line * index_file::INDEX_ENTRY_BYTES;
        index_intact &= self.index.len() == full_index;
        Ok(SegmentEnd {
            sequence: self.segment.sequence,
            path: self.segment.path.clone(),
            map: self.segment.map.clone(),
            header: Some(self.header.clone()),
            offset: scanner.offset(),
            prev_crc: scanner.prev_crc(),
            sealed,
            index_lines: self.line,
            index_intact,
        })
    }

    /// The segment must continue exactly where the one before ended.
    fn check_succession(&self, end: &ScanEnd) -> Result<(), LogError> {
        let prev_crc = end.segments.last().map_or(0, |before| before.prev_crc);
        let expected = (end.sequence.last_index() + 1, end.sequence.last_term(), prev_crc);
        let found = (self.header.next_index, self.header.prev_term, self.header.prev_crc);
        if expected == found {
            return Ok(());
        }
        let describe = |(index, term, crc): (u64, u64, u32)| {
            format!("a segment from entry {index} on, after term {term} and the record with crc {crc:08x}")
        };
        Err(LogError::Foreign {
            file: self.segment.path.clone(),
            offset: 24,
            expected: describe(expected),
            found: describe(found),
        })
    }

    fn check_record(&self, record: &Record, end: &mut ScanEnd) -> Result<(), LogError> {
        end.sequence.apply(record).map_err(|(expected, found)| {
            LogError::corrupt(&self.segment.path, record.offset, Some(record.header.index), expected, found)
        })?;
        let Some(mark) = Mark::decode(record.payload).filter(|_| record.record_type == RecordType::Mark)
        else {
            return Ok(());
        };
        let mut generation = self.reader.meta.generation;
        if mark.meta_generation > generation {
            // Beside a running writer META may just have been written.
            generation = meta::read(self.reader.disk.as_ref(), &self.reader.directory)?.meta.generation;
        }
        if mark.meta_generation > generation {
            let path = self.reader.directory.join(META_NAME);
            let expected = format!("generation {} or later, as the log says", mark.meta_generation);
            return Err(LogError::corrupt(&path, 16, None, expected, format!("generation {generation}")));
        }
        Ok(())
    }

    /// Whether the index has the right line for this record. A valid line that says otherwise is damage.
    fn check_index_line(&mut self, record: &Record) -> Result<bool, LogError> {
        if record.record_type == RecordType::Mark {
            return Ok(true);
        }
        let expected = IndexEntry::of(&record.header, record.record_type, record.offset as u32);
        let line = index_line(&self.index, self.line);
        self.line += 1;
        if line.is_some_and(|line| line == expected.encode(self.header.salt)) {
            return Ok(true);
        }
        match line.and_then(|line| IndexEntry::decode(self.header.salt, line)) {
            None => Ok(false),
            Some(found) => Err(LogError::corrupt(
                &self.segment.path,
                record.offset,
                Some(record.header.index),
                format!("the record that the index file names: {found:?}"),
                format!("{expected:?}"),
            )),
        }
    }

    /// Offset before which everything was durable once.
    fn durable_offset(&self, from: u64) -> u64 {
        let bytes: &[u8] = (*self.segment.map).as_ref();
        let sequence = self.segment.sequence;
        let floor = &self.reader.meta;
        if self.later_active || floor.floor_sequence > sequence {
            return bytes.len() as u64;
        }
        let floor = if floor.floor_sequence == sequence { floor.floor_offset } else { 0 };
        let indexed = index_entries(&self.index, self.header.salt, self.line).map(|(_, entry)| entry.end());
        floor.max(indexed.max().unwrap_or(0)).max(durable_by_marks(bytes, self.header.salt, from))
    }

    /// The records end here: cleanly, torn, or by damage.
    fn judge_stop(
        &self,
        step: Step,
        covered: bool,
        scanner: &Scanner,
        end: &mut ScanEnd,
    ) -> Result<(), LogError> {
        let offset = scanner.offset();
        let (expected, found) = match step {
            Step::Invalid { expected, found } => (expected, found),
            _ => ("a record".to_string(), "zeros".to_string()),
        };
        if covered {
            let index = index_entries(&self.index, self.header.salt, self.line)
                .find(|(_, entry)| u64::from(entry.offset) == offset)
                .map_or(end.sequence.last_index() + 1, |(_, entry)| entry.index);
            return Err(LogError::corrupt(&self.segment.path, offset, Some(index), expected, found));
        }
        let data = end_of_data((*self.segment.map).as_ref(), offset);
        if data > offset {
            let reason = format!("the last batch was not complete: expected {expected}, found {found}");
            end.torn = Some(Torn { file: self.segment.path.clone(), offset, bytes: data - offset, reason });
        }
        Ok(())
    }
}
