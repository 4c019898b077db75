//! The walk through the records of one segment, and the decision where they end: clean, torn or damaged.

use super::error::LogError;
use super::heal::{Chain, Evidence, Piece, Rewrite};
use super::hole::Hole;
use super::index_file::{self, Comparison, IndexEntry};
use super::meta::{self, META_NAME};
use super::reader::{OpenSegment, ReadRecord, Reader, ScanEnd, SegmentEnd, Torn, Visitor};
use super::record::{Mark, RecordType, BATCH_START, HEADER_BYTES};
use super::scan::{Behind, Record, Step};
use super::segment::*;
use super::window::Window;

/// How often something that looks wrong beside a running writer is looked at again before it counts.
const LIVE_RETRIES: usize = 3;

/// The walk through one segment whose header is known.
pub(super) struct Walk<'r> {
    pub reader: &'r Reader,
    pub segment: &'r OpenSegment,
    /// Read before the first record: whatever it names was durable then.
    pub index: &'r [u8],
    pub header: SegmentHeader,
    /// Whether a later segment is in use.
    pub later_active: bool,
    /// What the next segment's header says about the seal of this one.
    pub seal_crc: Option<u32>,
}

/// How far the walk has come.
struct Progress<'w> {
    window: Window,
    chain: Chain,
    comparison: Comparison<'w>,
    sealed: bool,
    /// How often this place was looked at again.
    retries: usize,
    /// What stands behind a place that was passed already, if it was looked for.
    behind: Option<Behind>,
}

impl Walk<'_> {
    /// Reads all records, from where the segment before ended.
    pub fn run(&self, end: &mut ScanEnd, visit: &mut Visitor) -> Result<SegmentEnd, LogError> {
        self.check_succession(end)?;
        let SegmentHeader { salt, prev_crc, .. } = self.header;
        let last = (end.sequence.last_index(), end.sequence.known_last_term());
        let mut progress = Progress {
            window: self.reader.window(&self.segment.path)?,
            chain: Chain::new(salt, SEGMENT_HEADER_BYTES as u64, prev_crc, last),
            comparison: Comparison::of(self.index, salt, self.segment.sequence),
            sealed: false,
            retries: 0,
            behind: None,
        };
        while !progress.sealed && !end.stopped {
            let Progress { window, chain, comparison, .. } = &mut progress;
            let step = chain.scanner.next(window)?;
            match step {
                Step::Record(record) => {
                    self.take(&record, None, comparison, end, visit)?;
                    chain.note(&record);
                    progress.sealed = record.record_type == RecordType::Seal;
                    progress.retries = 0;
                }
                Step::Newer { what, found } => {
                    return Err(self.newer(what, found, chain.scanner.offset()));
                }
                Step::Blank => {
                    let texts = ("a record".to_string(), "zeros".to_string());
                    if !self.stop(texts, &mut progress, end, visit)? {
                        break;
                    }
                }
                Step::Invalid { expected, found } => {
                    if !self.stop((expected, found), &mut progress, end, visit)? {
                        break;
                    }
                }
            }
        }
        let Progress { window, chain, comparison, sealed, .. } = progress;
        Ok(SegmentEnd {
            sequence: self.segment.sequence,
            path: self.segment.path.clone(),
            capacity: window.file_bytes(),
            header: Some(self.header.clone()),
            offset: chain.scanner.offset(),
            prev_crc: chain.scanner.prev_crc(),
            sealed,
            meta_generation: chain.generation(),
            index_bytes: self.index.len() as u64,
            index_intact: comparison.is_exact(),
        })
    }

    /// Checks a record, whether read, rebuilt or lost, and shows it to the visitor.
    fn take(
        &self,
        record: &Record,
        hole: Option<&Hole>,
        comparison: &mut Comparison,
        end: &mut ScanEnd,
        visit: &mut Visitor,
    ) -> Result<(), LogError> {
        self.check_record(record, end)?;
        self.check_index(record, comparison)?;
        if record.record_type == RecordType::Truncate {
            let dropped = end.lost.iter_mut().filter(|lost| lost.hole.index >= record.header.index);
            dropped.for_each(|lost| lost.superseded = true);
        }
        let file = &self.segment.path;
        let read = ReadRecord { file, segment_sequence: self.segment.sequence, record: *record, hole };
        end.stopped = visit(read).is_break();
        Ok(())
    }

    /// No valid record stands here. True: the walk goes on; false: the records end, cleanly or torn. `Err`: damage that
    /// nothing identifies.
    fn stop(
        &self,
        (expected, found): (String, String),
        progress: &mut Progress,
        end: &mut ScanEnd,
        visit: &mut Visitor,
    ) -> Result<bool, LogError> {
        let Progress { window, chain, .. } = progress;
        let offset = chain.scanner.offset();
        let mut behind = progress.behind.unwrap_or_default();
        if offset >= self.durable_offset(window, behind) {
            behind = Behind::look(window, self.header.salt, offset)?;
            progress.behind = Some(behind);
        }
        let covered_end = self.durable_offset(window, behind);
        if offset >= covered_end {
            end.torn = self.torn(offset, behind, (expected, found));
            return Ok(false);
        }
        if progress.retries < LIVE_RETRIES {
            progress.retries += 1;
            window.forget();
            return Ok(true);
        }
        progress.retries = 0;
        let evidence = Evidence {
            sequence: self.segment.sequence,
            named: progress.comparison.named(),
            meta_generation: self.reader.meta.generation,
            seal_crc: self.seal_crc,
            expected,
            found,
        };
        let pieces = if end.past_damage { chain.resolve(window, &evidence)? } else { None };
        let Some(pieces) = pieces else {
            let Evidence { named, expected, found, .. } = evidence;
            let named = named.filter(|named| u64::from(named.offset) == offset);
            let index = named.map_or(end.sequence.last_index() + 1, |named| named.index);
            return Err(LogError::corrupt(&self.segment.path, offset, Some(index), expected, found));
        };
        for piece in pieces {
            self.take_piece(&piece, progress, end, visit)?;
            progress.chain.pass(&piece);
            if let Piece::Lost(lost) = piece {
                end.lost.push(lost);
            }
        }
        Ok(true)
    }

    fn take_piece(
        &self,
        piece: &Piece,
        progress: &mut Progress,
        end: &mut ScanEnd,
        visit: &mut Visitor,
    ) -> Result<(), LogError> {
        let Progress { chain, comparison, .. } = progress;
        let offset = chain.scanner.offset();
        match piece {
            Piece::Rebuilt { record_type, header, bytes, what } => {
                let payload = &bytes[HEADER_BYTES..][..header.length as usize];
                let payload_crc = crc32fast::hash(payload);
                let record =
                    Record { record_type: *record_type, offset, header: *header, payload, payload_crc };
                self.take(&record, None, comparison, end, visit)?;
                progress.sealed = *record_type == RecordType::Seal;
                let (file, sequence) = (self.segment.path.clone(), self.segment.sequence);
                let (bytes, what) = (bytes.clone(), what.clone());
                end.rewrites.push(Rewrite { file, sequence, offset, bytes, what });
            }
            Piece::Lost(lost) => {
                let record_type = RecordType::from(lost.hole.kind);
                let record =
                    Record { record_type, offset, header: lost.header(), payload: &[], payload_crc: 0 };
                if lost.index_entry().is_none() {
                    comparison.skip();
                }
                self.take(&record, Some(&lost.hole), comparison, end, visit)?;
            }
        }
        Ok(())
    }

    fn newer(&self, what: &'static str, found: u64, offset: u64) -> LogError {
        let known = if what == "record type" { RecordType::Copy as u64 } else { u64::from(BATCH_START) };
        LogError::NewerFormat { file: self.segment.path.clone(), offset, what, found, known }
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
