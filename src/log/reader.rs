//! Reading a whole log without changing it: the decision between clean, torn and damaged is made here, once, for
//! recovery as for `raftlog-tool`. Works beside a running writer: what looks wrong is looked at again.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::disk::{Disk, Map, Mode, SystemDisk};
use super::error::LogError;
use super::index_file::{self, Comparison, IndexEntry};
use super::meta::{self, Meta, META_NAME};
use super::record::{Mark, RecordType, BATCH_START};
use super::scan::*;
use super::segment::*;

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
    pub map: Map,
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
    /// Files that a crash left behind while they were made, or purged.
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

/// Called for every record in log order, entries up to META's base index included; may end the scan.
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
            let index = self.read_index(segment.sequence)?;
            let segment_end = if let HeaderState::Valid(header) = segment.header.clone() {
                let mut walk = Walk { reader: self, segment: &segment, index: &index, header, later_active };
                walk.run(&mut end, visit)?
            } else {
                self.judge_headless(segment, &index, later_active, &mut end)?
            };
            end.segments.push(segment_end);
            if end.stopped {
                return Ok(end);
            }
        }
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
    /// that it was in use. Bytes of a former life do not count: it gets a new salt before it is used.
    fn judge_headless(
        &self,
        segment: OpenSegment,
        index: &[u8],
        later_active: bool,
        end: &mut ScanEnd,
    ) -> Result<SegmentEnd, LogError> {
        let OpenSegment { sequence, path, map, header } = segment;
        let bytes: &[u8] = (*map).as_ref();
        let index_salt = index_file::decode_header(index).map(|(salt, _)| salt);
        let damaged_salt = SegmentHeader::salt_of_damaged(&first_block(bytes));
        let salt = index_salt.unwrap_or(damaged_salt);
        let floor = self.meta.floor_sequence > sequence
            || (self.meta.floor_sequence == sequence && self.meta.floor_offset > 0);
        let indexed = index_file::entries(index, salt).next().map(|entry| entry.index);
        // Only behind a segment that was sealed can one be in use.
        let possible = end.torn.is_none() && end.segments.last().is_none_or(|before| before.sealed);
        let from = SEGMENT_HEADER_BYTES as u64;
        let flagged = possible && durable_by_flags(bytes, salt, from) > 0;
        let (expected, found) = match header {
            HeaderState::Invalid { expected, found } => (expected, found),
            _ => ("a segment header".to_string(), "zeros".to_string()),
        };
        let covered = later_active || floor || indexed.is_some() || flagged;
        if matches!(SegmentHeader::decode(&first_block(bytes)), HeaderState::Valid(_)) {
            // A running writer has just begun it: it was not part of the log when the scan started.
        } else if covered {
            let index = indexed.or(Some(end.sequence.last_index() + 1));
            return Err(LogError::corrupt(&path, 0, index, expected, found));
        } else if possible {
            let header_bytes = end_of_data(&first_block(bytes), 0);
            let own_end = end_of_own_records(bytes, salt, from);
            let torn_bytes = if own_end > from { own_end } else { header_bytes };
            if torn_bytes > 0 {
                let reason = format!("its first batch was not complete: expected {expected}, found {found}");
                end.torn = Some(Torn { file: path.clone(), offset: 0, bytes: torn_bytes, reason });
            }
        }
        Ok(SegmentEnd {
            sequence,
            path,
            map,
            header: None,
            offset: 0,
            prev_crc: 0,
            sealed: false,
            meta_generation: 0,
            index_bytes: index.len() as u64,
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
    index: &'r [u8],
    header: SegmentHeader,
    later_active: bool,
}

impl Walk<'_> {
    fn run(&mut self, end: &mut ScanEnd, visit: &mut Visitor) -> Result<SegmentEnd, LogError> {
        self.check_succession(end)?;
        let mut bytes: &[u8] = (*self.segment.map).as_ref();
        let SegmentHeader { salt, prev_crc, .. } = self.header;
        let mut scanner = Scanner::new(salt, SEGMENT_HEADER_BYTES as u64, prev_crc);
        let mut comparison = Comparison::of(self.index, salt, self.segment.sequence);
        let mut meta_generation = 0;
        let mut sealed = false;
        let mut retries = 0;
        while !sealed && !end.stopped {
            match scanner.next(bytes) {
                Step::Record(record) => {
                    self.check_record(&record, &mut meta_generation, end)?;
                    self.check_index(&record, &mut comparison)?;
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
                        known: if what == "record type" {
                            RecordType::Copy as u64
                        } else {
                            u64::from(BATCH_START)
                        },
                    })
                }
                step => {
                    let covered = scanner.offset() < self.durable_offset(scanner.offset());
                    if !covered || retries == LIVE_RETRIES {
                        let named = comparison.named_at(scanner.offset());
                        self.judge_stop(step, covered, named, scanner.offset(), end)?;
                        break;
                    }
                    retries += 1;
                    bytes = (*self.segment.map).as_ref();
                }
            }
        }
        Ok(SegmentEnd {
            sequence: self.segment.sequence,
            path: self.segment.path.clone(),
            map: self.segment.map.clone(),
            header: Some(self.header.clone()),
            offset: scanner.offset(),
            prev_crc: scanner.prev_crc(),
            sealed,
            meta_generation,
            index_bytes: self.index.len() as u64,
            index_intact: comparison.is_exact(),
        })
    }

    /// The segment must continue exactly where the one before ended. The first one may begin before META's base:
    /// segments are purged whole.
    fn check_succession(&self, end: &mut ScanEnd) -> Result<(), LogError> {
        let found = (self.header.next_index, self.header.prev_term, self.header.prev_crc);
        let mut expected = (end.sequence.last_index() + 1, end.sequence.known_last_term(), Some(0));
        if let Some(before) = end.segments.last() {
            expected.2 = Some(before.prev_crc);
        } else {
            if self.segment.sequence > 1 {
                expected.2 = None;
            }
            if (1..expected.0).contains(&found.0) {
                end.sequence.start_behind(found.0 - 1, found.1);
                expected = (found.0, Some(found.1), expected.2);
            }
        }
        let fits = found.0 == expected.0
            && expected.1.is_none_or(|term| found.1 == term)
            && expected.2.is_none_or(|crc| found.2 == crc);
        if fits {
            return Ok(());
        }
        let describe = |(index, term, crc): (u64, u64, u32)| {
            format!("a segment from entry {index} on, after term {term} and the record with crc {crc:08x}")
        };
        Err(LogError::Foreign {
            file: self.segment.path.clone(),
            offset: 24,
            expected: describe((expected.0, expected.1.unwrap_or(found.1), expected.2.unwrap_or(found.2))),
            found: describe(found),
        })
    }

    fn check_record(
        &self,
        record: &Record,
        meta_generation: &mut u64,
        end: &mut ScanEnd,
    ) -> Result<(), LogError> {
        end.sequence.apply(record).map_err(|(expected, found)| {
            LogError::corrupt(&self.segment.path, record.offset, Some(record.header.index), expected, found)
        })?;
        let Some(mark) = Mark::decode(record.payload).filter(|_| record.record_type == RecordType::Mark)
        else {
            return Ok(());
        };
        *meta_generation = mark.meta_generation;
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

    /// The index may lack the record; naming another one in its place is damage.
    fn check_index(&self, record: &Record, comparison: &mut Comparison) -> Result<(), LogError> {
        if !record.record_type.is_indexed() {
            return Ok(());
        }
        let entry = IndexEntry::of(&record.header, record.record_type, record.offset as u32);
        comparison.take(&entry).map_err(|named| {
            LogError::corrupt(
                &self.segment.path,
                record.offset,
                Some(record.header.index),
                format!("the record that the index file names: {named:?}"),
                format!("{entry:?}"),
            )
        })
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
        let indexed = index_file::entries(self.index, self.header.salt).map(|entry| entry.end()).max();
        floor.max(indexed.unwrap_or(0)).max(durable_by_flags(bytes, self.header.salt, from))
    }

    /// The records end here: cleanly, torn, or by damage.
    fn judge_stop(
        &self,
        step: Step,
        covered: bool,
        named: Option<IndexEntry>,
        offset: u64,
        end: &mut ScanEnd,
    ) -> Result<(), LogError> {
        let (expected, found) = match step {
            Step::Invalid { expected, found } => (expected, found),
            _ => ("a record".to_string(), "zeros".to_string()),
        };
        if covered {
            let index = named.map_or(end.sequence.last_index() + 1, |named| named.index);
            return Err(LogError::corrupt(&self.segment.path, offset, Some(index), expected, found));
        }
        let bytes: &[u8] = (*self.segment.map).as_ref();
        let written_end = if self.header.recycled {
            end_of_own_records(bytes, self.header.salt, offset)
        } else {
            end_of_data(bytes, offset)
        };
        if written_end > offset {
            let reason = format!("the last batch was not complete: expected {expected}, found {found}");
            let bytes = written_end - offset;
            end.torn = Some(Torn { file: self.segment.path.clone(), offset, bytes, reason });
        }
        Ok(())
    }
}
