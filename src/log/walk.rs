//! The walk through the records of one segment, and the decision where they end: clean, torn or damaged.

use super::error::LogError;
use super::index_file::{self, Comparison, IndexEntry};
use super::meta::{self, META_NAME};
use super::reader::{OpenSegment, ReadRecord, Reader, ScanEnd, SegmentEnd, Torn, Visitor};
use super::record::{Mark, RecordType, BATCH_START};
use super::scan::{Behind, Record, Scanner, Step};
use super::segment::*;
use super::window::Window;

/// How often something that looks wrong beside a running writer is looked at again before it counts.
const LIVE_RETRIES: usize = 3;

/// The walk through one segment with a valid header.
pub(super) struct Walk<'r> {
    pub reader: &'r Reader,
    pub segment: &'r OpenSegment,
    /// Read before the first record: whatever it names was durable then.
    pub index: &'r [u8],
    pub header: SegmentHeader,
    /// Whether a later segment is in use.
    pub later_active: bool,
}

impl Walk<'_> {
    /// Reads all records, from where the segment before ended.
    pub fn run(&self, end: &mut ScanEnd, visit: &mut Visitor) -> Result<SegmentEnd, LogError> {
        self.check_succession(end)?;
        let mut window = self.reader.window(&self.segment.path)?;
        let SegmentHeader { salt, prev_crc, .. } = self.header;
        let mut scanner = Scanner::new(salt, SEGMENT_HEADER_BYTES as u64, prev_crc);
        let mut comparison = Comparison::of(self.index, salt, self.segment.sequence);
        let mut meta_generation = 0;
        let mut sealed = false;
        let mut retries = 0;
        while !sealed && !end.stopped {
            match scanner.next(&mut window)? {
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
                    let (expected, found) = match step {
                        Step::Invalid { expected, found } => (expected, found),
                        _ => ("a record".to_string(), "zeros".to_string()),
                    };
                    let behind = Behind::look(&mut window, salt, scanner.offset())?;
                    let covered = scanner.offset() < self.durable_offset(&window, behind);
                    if covered && retries < LIVE_RETRIES {
                        retries += 1;
                        window.forget();
                        continue;
                    }
                    if covered {
                        let named = comparison.named_at(scanner.offset());
                        let index = named.map_or(end.sequence.last_index() + 1, |named| named.index);
                        let path = &self.segment.path;
                        return Err(LogError::corrupt(path, scanner.offset(), Some(index), expected, found));
                    }
                    end.torn = self.torn(scanner.offset(), behind, (expected, found));
                    break;
                }
            }
        }
        Ok(SegmentEnd {
            sequence: self.segment.sequence,
            path: self.segment.path.clone(),
            capacity: window.file_bytes(),
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

    /// Offset before which everything was durable once, given what stands behind the place in question.
    fn durable_offset(&self, window: &Window, behind: Behind) -> u64 {
        let sequence = self.segment.sequence;
        let floor = &self.reader.meta;
        if self.later_active || floor.floor_sequence > sequence {
            return window.file_bytes();
        }
        let floor = if floor.floor_sequence == sequence { floor.floor_offset } else { 0 };
        let indexed = index_file::entries(self.index, self.header.salt).map(|entry| entry.end()).max();
        floor.max(indexed.unwrap_or(0)).max(behind.durable_offset)
    }

    /// What stands behind the last record, if it is of this life.
    fn torn(&self, offset: u64, behind: Behind, (expected, found): (String, String)) -> Option<Torn> {
        let written_end = if self.header.recycled { behind.own_end } else { behind.data_end };
        let reason = format!("the last batch was not complete: expected {expected}, found {found}");
        let file = self.segment.path.clone();
        (written_end > offset).then(|| Torn { file, offset, bytes: written_end - offset, reason })
    }
}
