//! Walking the records of one segment, and the evidence that tells a torn tail from damage.

use super::index_file::{IndexEntry, INDEX_ENTRY_BYTES, INDEX_HEADER_BYTES};
use super::record::*;

/// A valid record: its CRC, its place in the chain and its padding are right.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    pub record_type: RecordType,
    /// In the segment file.
    pub offset: u64,
    pub header: RecordHeader,
    pub payload: &'a [u8],
    /// Of the payload alone.
    pub payload_crc: u32,
}

/// What stands at the scanner's place.
#[derive(Debug)]
pub enum Step<'a> {
    Record(Record<'a>),
    /// A header of zeros, or no room for one.
    Blank,
    /// Something else; the scanner stays where it is.
    Invalid {
        expected: String,
        found: String,
    },
    /// A record with a valid CRC that this program does not know.
    Newer {
        what: &'static str,
        found: u64,
    },
}

/// Reads the records of a segment in order.
#[derive(Clone, Copy, Debug)]
pub struct Scanner {
    salt: u32,
    offset: u64,
    prev_crc: u32,
}

impl Scanner {
    /// Starts at `offset`, behind a record with `prev_crc`.
    pub fn new(salt: u32, offset: u64, prev_crc: u32) -> Scanner {
        Scanner { salt, offset, prev_crc }
    }

    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// CRC of the last record read.
    pub fn prev_crc(&self) -> u32 {
        self.prev_crc
    }

    /// Looks at the next record of `segment` (the whole file) and steps over it if it is valid.
    pub fn next<'a>(&mut self, segment: &'a [u8]) -> Step<'a> {
        let step = self.look(segment);
        if let Step::Record(record) = &step {
            self.offset += record_bytes(record.header.length);
            self.prev_crc = record.header.crc;
        }
        step
    }

    fn look<'a>(&self, segment: &'a [u8]) -> Step<'a> {
        let Some(header) = header_at(segment, self.offset) else { return Step::Blank };
        if *header == [0; HEADER_BYTES] {
            return Step::Blank;
        }
        let header = RecordHeader::decode(header);
        let Some((payload, padding)) = payload_at(segment, self.offset, header.length) else {
            let room = segment.len() as u64 - self.offset - HEADER_BYTES as u64;
            return Step::Invalid {
                expected: format!("a record of at most {room} payload bytes"),
                found: format!("a length of {} bytes", header.length),
            };
        };
        let payload_crc = crc32fast::hash(payload);
        let expected = header.expected_crc(self.salt, payload_crc);
        if expected != header.crc {
            return Step::Invalid {
                expected: format!("crc {expected:08x}"),
                found: format!("crc {:08x}", header.crc),
            };
        }
        if padding.iter().any(|byte| *byte != 0) {
            return Step::Invalid {
                expected: "zeros up to the next record".to_string(),
                found: format!("{padding:02x?}"),
            };
        }
        if header.prev_crc != self.prev_crc {
            return Step::Invalid {
                expected: format!("a record that follows the one with crc {:08x}", self.prev_crc),
                found: format!("one that follows crc {:08x}", header.prev_crc),
            };
        }
        if header.flags != 0 || header.zero != 0 {
            let found = u64::from(header.flags) | u64::from(header.zero) << 8;
            return Step::Newer { what: "record flags", found };
        }
        let Some(record_type) = RecordType::from_u8(header.record_type) else {
            return Step::Newer { what: "record type", found: u64::from(header.record_type) };
        };
        Step::Record(Record { record_type, offset: self.offset, header, payload, payload_crc })
    }
}

/// The 32 bytes of a header, if the segment reaches that far.
pub fn header_at(segment: &[u8], offset: u64) -> Option<&[u8; HEADER_BYTES]> {
    let start = usize::try_from(offset).ok()?;
    segment.get(start..start.checked_add(HEADER_BYTES)?)?.try_into().ok()
}

/// Payload and padding of a record, if the segment reaches that far.
pub fn payload_at(segment: &[u8], offset: u64, length: u32) -> Option<(&[u8], &[u8])> {
    let start = usize::try_from(offset).ok()?.checked_add(HEADER_BYTES)?;
    let end = start.checked_add(length as usize)?;
    let padded_end = end.checked_add(padding_bytes(length))?;
    Some((segment.get(start..end)?, segment.get(end..padded_end)?))
}

/// Offset behind the last byte of `segment` at or behind `from` that is not zero; `from` if there is none.
pub fn end_of_data(segment: &[u8], from: u64) -> u64 {
    let from = (from as usize).min(segment.len());
    let tail = &segment[from..];
    let zero_chunks = tail.rchunks(4096).take_while(|chunk| **chunk == [0; 4096][..chunk.len()]).count();
    let unchecked = tail.len().saturating_sub(zero_chunks * 4096);
    let data = tail[..unchecked].iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    (from + data) as u64
}

/// The largest durable offset that a valid mark behind `from` names: everything before it was on the disk once.
pub fn durable_by_marks(segment: &[u8], salt: u32, from: u64) -> u64 {
    let end = end_of_data(segment, from);
    let mut durable_offset = 0;
    for offset in (from.next_multiple_of(8)..end).step_by(8) {
        let Some(header) = header_at(segment, offset) else { break };
        if header[24] != RecordType::Mark as u8 {
            continue;
        }
        let header = RecordHeader::decode(header);
        if header.length as usize != MARK_PAYLOAD_BYTES {
            continue;
        }
        let Some((payload, _)) = payload_at(segment, offset, header.length) else { continue };
        if header.crc != header.expected_crc(salt, crc32fast::hash(payload)) {
            continue;
        }
        // A copy of a mark inside a payload says nothing false either, but must not speak of what is behind it.
        let mark = Mark::decode(payload).filter(|mark| mark.durable_offset <= offset);
        durable_offset = durable_offset.max(mark.map_or(0, |mark| mark.durable_offset));
    }
    durable_offset
}

/// The valid lines of an index file from line `from` on, with their numbers.
pub fn index_entries(index: &[u8], salt: u32, from: usize) -> impl Iterator<Item = (usize, IndexEntry)> + '_ {
    let lines = index.get(INDEX_HEADER_BYTES..).unwrap_or(&[]).chunks_exact(INDEX_ENTRY_BYTES).enumerate();
    lines.skip(from).filter_map(move |(line, bytes)| Some((line, IndexEntry::decode(salt, bytes)?)))
}

/// One line of an index file, as bytes.
pub fn index_line(index: &[u8], line: usize) -> Option<&[u8]> {
    let start = INDEX_HEADER_BYTES + line * INDEX_ENTRY_BYTES;
    index.get(start..start + INDEX_ENTRY_BYTES)
}

/// The order of records: which may follow which.
///
/// Invariant: entries have consecutive indexes and terms that never fall (Raft section 5.3, Log Matching).
#[derive(Clone, Debug)]
pub struct Sequence {
    base: (u64, u64),
    last_index: u64,
    /// (first index, term) of each run of entries of one term; strictly increasing in both.
    runs: Vec<(u64, u64)>,
}

impl Sequence {
    /// Of a log that starts behind entry `base_index` of `base_term`.
    pub fn new(base_index: u64, base_term: u64) -> Sequence {
        Sequence { base: (base_index, base_term), last_index: base_index, runs: Vec::new() }
    }

    pub fn first_index(&self) -> u64 {
        self.base.0 + 1
    }

    pub fn last_index(&self) -> u64 {
        self.last_index
    }

    pub fn last_term(&self) -> u64 {
        self.runs.last().map_or(self.base.1, |run| run.1)
    }

    /// Takes the next record, or says what was expected instead.
    pub fn apply(&mut self, record: &Record) -> Result<(), (String, String)> {
        let RecordHeader { index, term, .. } = record.header;
        match record.record_type {
            RecordType::Normal | RecordType::NoOp | RecordType::Membership => {
                if index != self.last_index + 1 || term < self.last_term() {
                    let expected =
                        format!("entry {} of term {} or later", self.last_index + 1, self.last_term());
                    return Err((expected, format!("entry {index} of term {term}")));
                }
                self.last_index = index;
                if self.runs.is_empty() || term > self.last_term() {
                    self.runs.push((index, term));
                }
            }
            RecordType::Truncate => {
                if index < self.first_index() || index > self.last_index + 1 {
                    let expected =
                        format!("a truncation from {}..={}", self.first_index(), self.last_index + 1);
                    return Err((expected, format!("one from {index}")));
                }
                self.last_index = index - 1;
                while self.runs.last().is_some_and(|run| run.0 >= index) {
                    self.runs.pop();
                }
            }
            RecordType::Seal => {
                if index != self.last_index {
                    return Err((
                        format!("a seal after entry {}", self.last_index),
                        format!("after {index}"),
                    ));
                }
            }
            RecordType::Mark => {
                if Mark::decode(record.payload).is_none_or(|mark| mark.durable_offset > record.offset) {
                    return Err(("a mark that speaks of what is before it".into(), "another".into()));
                }
            }
        }
        Ok(())
    }
}
