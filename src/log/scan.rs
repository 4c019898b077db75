//! Walking the records of one segment, and the evidence that tells a torn tail from damage.

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
        let place = Place { salt: self.salt, offset: self.offset };
        let expected = header.expected_crc(place, payload_crc);
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
        if header.flags & !BATCH_START != 0 || header.zero != 0 {
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

/// Finds records without the chain: whatever stands at a multiple of 8 and has the CRC of this segment's life there.
pub struct OwnRecords<'a> {
    segment: &'a [u8],
    salt: u32,
    at: u64,
    end: u64,
}

impl<'a> OwnRecords<'a> {
    /// All at or behind `from`.
    pub fn behind(segment: &'a [u8], salt: u32, from: u64) -> OwnRecords<'a> {
        let at = from.next_multiple_of(8);
        OwnRecords { segment, salt, at, end: end_of_data(segment, at) }
    }
}

impl<'a> Iterator for OwnRecords<'a> {
    type Item = Record<'a>;

    /// The next one; what its payload holds is passed over.
    fn next(&mut self) -> Option<Record<'a>> {
        while self.at < self.end {
            let offset = self.at;
            self.at += 8;
            if let Some(record) = own_record_at(self.segment, self.salt, offset) {
                self.at = offset + record_bytes(record.header.length);
                return Some(record);
            }
        }
        None
    }
}

/// The record at `offset`, whatever stands before it.
pub fn own_record_at(segment: &[u8], salt: u32, offset: u64) -> Option<Record<'_>> {
    let header = header_at(segment, offset)?;
    // The cheap tests first: this is asked at every multiple of 8.
    let record_type = RecordType::from_u8(header[24])?;
    if header[25] & !BATCH_START != 0 || header[26..28] != [0; 2] {
        return None;
    }
    let header = RecordHeader::decode(header);
    let (payload, _) = payload_at(segment, offset, header.length)?;
    let payload_crc = crc32fast::hash(payload);
    let valid = header.crc == header.expected_crc(Place { salt, offset }, payload_crc);
    valid.then_some(Record { record_type, offset, header, payload, payload_crc })
}

/// The offset of the last record at or behind `from` that was written when all before it was durable; 0 if there
/// is none.
pub fn durable_by_flags(segment: &[u8], salt: u32, from: u64) -> u64 {
    let flagged =
        OwnRecords::behind(segment, salt, from).filter(|record| record.header.flags & BATCH_START != 0);
    flagged.last().map_or(0, |record| record.offset)
}

/// The offset behind the last record of this life at or behind `from`; `from` if there is none.
pub fn end_of_own_records(segment: &[u8], salt: u32, from: u64) -> u64 {
    let last = OwnRecords::behind(segment, salt, from).last();
    last.map_or(from, |record| record.offset + record_bytes(record.header.length))
}

/// The order of records: which may follow which.
///
/// Invariant: entries have consecutive indexes and terms that never fall (Raft section 5.3, Log Matching).
#[derive(Clone, Debug)]
pub struct Sequence {
    /// Index and term of the entry behind which the log starts; entries up to it may still be read.
    base: (u64, u64),
    /// The entry before the first that was read, and its term if that is known.
    start: (u64, Option<u64>),
    last_index: u64,
    /// (first index, term) of each run of entries of one term; strictly increasing in both.
    runs: Vec<(u64, u64)>,
    /// The membership that the record before this one was, for its copy.
    membership: Option<(RecordHeader, u32)>,
}

impl Sequence {
    /// Of a log that starts behind entry `base_index` of `base_term`.
    pub fn new(base_index: u64, base_term: u64) -> Sequence {
        Sequence {
            base: (base_index, base_term),
            start: (base_index, Some(base_term)),
            last_index: base_index,
            runs: Vec::new(),
            membership: None,
        }
    }

    /// The first segment that was not purged may begin with entries that the log does not count any more.
    pub fn start_behind(&mut self, index: u64, term: u64) {
        assert!(index <= self.base.0 && self.runs.is_empty());
        self.start = (index, Some(term));
        self.last_index = index;
    }

    /// Of the log: entries before it are read and skipped.
    pub fn first_index(&self) -> u64 {
        self.base.0 + 1
    }

    pub fn last_index(&self) -> u64 {
        self.last_index
    }

    /// 0 if the last entry was purged and its term with it.
    pub fn last_term(&self) -> u64 {
        self.known_last_term().unwrap_or(0)
    }

    /// `None`: a truncation left an entry that was purged.
    pub fn known_last_term(&self) -> Option<u64> {
        self.runs.last().map_or(self.start.1, |run| Some(run.1))
    }

    /// Says what is missing if the log ends before its base, or has another entry there.
    pub fn check_base(&self) -> Result<(), (String, String)> {
        let (index, term) = self.base;
        let run = self.runs.iter().rev().find(|run| run.0 <= index).map(|run| run.1);
        let found = run.or(if index == self.start.0 { self.start.1 } else { None });
        if self.last_index < index || found.is_some_and(|found| found != term) {
            let expected =
                format!("entry {index} of term {term}, behind which META says that the log starts");
            let found = found.map_or(String::new(), |term| format!(" of term {term} there"));
            return Err((expected, format!("entries up to {}{found}", self.last_index)));
        }
        Ok(())
    }

    /// Takes the next record, or says what was expected instead.
    pub fn apply(&mut self, record: &Record) -> Result<(), (String, String)> {
        let RecordHeader { index, term, .. } = record.header;
        let membership = self.membership.take();
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
                if record.record_type == RecordType::Membership {
                    self.membership = Some((record.header, record.payload_crc));
                }
            }
            RecordType::Truncate => self.truncate(index)?,
            RecordType::Seal | RecordType::Mark => {
                let expected = (self.last_index, self.known_last_term().unwrap_or(term));
                if (index, term) != expected {
                    let what = if record.record_type == RecordType::Seal { "seal" } else { "mark" };
                    return Err((
                        format!("a {what} after entry {} of term {}", expected.0, expected.1),
                        format!("after entry {index} of term {term}"),
                    ));
                }
                if record.record_type == RecordType::Mark && Mark::decode(record.payload).is_none() {
                    return Err((
                        format!("a mark with {MARK_PAYLOAD_BYTES} bytes"),
                        format!("{}", record.payload.len()),
                    ));
                }
            }
            RecordType::Copy => {
                let identity = |header: &RecordHeader, crc| (header.index, header.term, header.length, crc);
                let copied = membership.map(|(header, crc)| identity(&header, crc));
                if copied != Some(identity(&record.header, record.payload_crc)) {
                    let expected = "a copy right behind its membership".to_string();
                    return Err((expected, format!("a copy of entry {index} of term {term}")));
                }
            }
        }
        Ok(())
    }

    /// Drops `index` and all after it. What was purged may be dropped too: entries that came later took its place.
    fn truncate(&mut self, index: u64) -> Result<(), (String, String)> {
        let lowest = if self.base.0 == 0 { self.first_index() } else { 1 };
        if index < lowest || index > self.last_index + 1 {
            let expected = format!("a truncation from {lowest}..={}", self.last_index + 1);
            return Err((expected, format!("one from {index}")));
        }
        self.last_index = index - 1;
        while self.runs.last().is_some_and(|run| run.0 >= index) {
            self.runs.pop();
        }
        if self.last_index < self.start.0 {
            self.start = (self.last_index, None);
        }
        Ok(())
    }
}
