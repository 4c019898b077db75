//! Walking the records of one segment, and finding them without their neighbours.

use super::error::LogError;
use super::record::*;
use super::window::Window;

/// Bytes that are searched for headers at once.
const SEARCH_BYTES: u64 = 4096;
/// How many times the length of a file is hashed for nothing in one search.
const WASTE_LIMIT: u64 = 16;

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

    /// Looks at the next record of a segment and steps over it if it is valid. Errors: the disk's.
    pub fn next<'w>(&mut self, window: &'w mut Window) -> Result<Step<'w>, LogError> {
        let step = self.look(window)?;
        if let Step::Record(record) = &step {
            self.offset += record_bytes(record.header.length);
            self.prev_crc = record.header.crc;
        }
        Ok(step)
    }

    fn look<'w>(&self, window: &'w mut Window) -> Result<Step<'w>, LogError> {
        let offset = self.offset;
        let Some(header) = window.get_array::<HEADER_BYTES>(offset)? else { return Ok(Step::Blank) };
        if *header == [0; HEADER_BYTES] {
            return Ok(Step::Blank);
        }
        let header = RecordHeader::decode(header);
        let room = window.file_bytes() - offset - HEADER_BYTES as u64;
        let Some(padded) = padded_payload(window, offset, header.length)? else {
            return Ok(Step::Invalid {
                expected: format!("a record of at most {room} payload bytes"),
                found: format!("a length of {} bytes", header.length),
            });
        };
        let (payload, padding) = padded.split_at(header.length as usize);
        let payload_crc = crc32fast::hash(payload);
        let expected = header.expected_crc(Place { salt: self.salt, offset }, payload_crc);
        if expected != header.crc {
            return Ok(Step::Invalid {
                expected: format!("crc {expected:08x}"),
                found: format!("crc {:08x}", header.crc),
            });
        }
        if padding.iter().any(|byte| *byte != 0) {
            return Ok(Step::Invalid {
                expected: "zeros up to the next record".to_string(),
                found: format!("{padding:02x?}"),
            });
        }
        if header.prev_crc != self.prev_crc {
            return Ok(Step::Invalid {
                expected: format!("a record that follows the one with crc {:08x}", self.prev_crc),
                found: format!("one that follows crc {:08x}", header.prev_crc),
            });
        }
        if header.flags & !BATCH_START != 0 || header.zero != 0 {
            let found = u64::from(header.flags) | u64::from(header.zero) << 8;
            return Ok(Step::Newer { what: "record flags", found });
        }
        let Some(record_type) = RecordType::from_u8(header.record_type) else {
            return Ok(Step::Newer { what: "record type", found: u64::from(header.record_type) });
        };
        Ok(Step::Record(Record { record_type, offset, header, payload, payload_crc }))
    }
}

/// Payload and padding of a record, in one piece, if the segment reaches that far.
fn padded_payload(window: &mut Window, offset: u64, length: u32) -> Result<Option<&[u8]>, LogError> {
    let padded = u64::from(length) + padding_bytes(length) as u64;
    window.get(offset + HEADER_BYTES as u64, padded)
}

/// The record at `offset`, whatever stands before it: its CRC says that it was written there in this life.
pub fn own_record_at(window: &mut Window, salt: u32, offset: u64) -> Result<Option<Record<'_>>, LogError> {
    let Some(header) = window.get_array::<HEADER_BYTES>(offset)? else { return Ok(None) };
    if !may_be_header(header) {
        return Ok(None);
    }
    let header = RecordHeader::decode(header);
    let Some(record_type) = RecordType::from_u8(header.record_type) else { return Ok(None) };
    let Some(padded) = padded_payload(window, offset, header.length)? else { return Ok(None) };
    let payload = &padded[..header.length as usize];
    let payload_crc = crc32fast::hash(payload);
    let valid = header.crc == header.expected_crc(Place { salt, offset }, payload_crc);
    Ok(valid.then_some(Record { record_type, offset, header, payload, payload_crc }))
}

/// A cheap test, as it is asked at every multiple of 8: type, flags and the zeros behind them.
fn may_be_header(bytes: &[u8]) -> bool {
    bytes[24].wrapping_sub(1) < 7 && bytes[25] & !BATCH_START == 0 && bytes[26] == 0 && bytes[27] == 0
}

/// Where a record was found without its neighbours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    pub offset: u64,
    pub record_type: RecordType,
    pub header: RecordHeader,
    pub payload_crc: u32,
}

impl Found {
    pub fn end(&self) -> u64 {
        self.offset + record_bytes(self.header.length)
    }
}

/// Looks for records at every multiple of 8.
///
/// Bytes that only look like the header of a long record cost the checksum of that length. A payload made of such
/// headers could make that quadratic; so when too much was hashed for nothing, long ones are not looked at any more.
struct Search<'w> {
    window: &'w mut Window,
    salt: u32,
    /// Bytes that were hashed and were no record.
    wasted_bytes: u64,
}

impl<'w> Search<'w> {
    fn new(window: &'w mut Window, salt: u32) -> Search<'w> {
        Search { window, salt, wasted_bytes: 0 }
    }

    /// The first record at or behind `from`, and before `end`.
    fn next(&mut self, from: u64, end: u64) -> Result<Option<Found>, LogError> {
        let mut start = from.next_multiple_of(8);
        // The last place where a header fits.
        let end = end.min((self.window.file_bytes() + 1).saturating_sub(HEADER_BYTES as u64));
        while start < end {
            let length = SEARCH_BYTES.min(end - start);
            let bytes = self.window.get(start, length + HEADER_BYTES as u64 - 1)?.expect("inside the file");
            let headers = (0..length as usize).step_by(8).map(|at| (at, &bytes[at..at + HEADER_BYTES]));
            let headers = headers.filter(|(_, header)| may_be_header(header));
            let places: Vec<_> =
                headers.map(|(at, header)| (start + at as u64, get_u32(header, 4))).collect();
            for (offset, length) in places {
                let found = self.look(offset, length)?;
                if found.is_some() {
                    return Ok(found);
                }
            }
            start += length.next_multiple_of(8);
        }
        Ok(None)
    }

    fn look(&mut self, offset: u64, length: u32) -> Result<Option<Found>, LogError> {
        let file_bytes = self.window.file_bytes();
        let limit = WASTE_LIMIT * file_bytes;
        if u64::from(length) > SEARCH_BYTES && self.wasted_bytes > limit {
            return Ok(None);
        }
        if let Some(record) = own_record_at(self.window, self.salt, offset)? {
            let Record { record_type, header, payload_crc, .. } = record;
            return Ok(Some(Found { offset, record_type, header, payload_crc }));
        }
        if offset + record_bytes(length) <= file_bytes {
            self.wasted_bytes += u64::from(length);
        }
        Ok(None)
    }
}

/// The first record of this life at or behind `from`, and before `end`.
pub fn find_own_record(
    window: &mut Window,
    salt: u32,
    from: u64,
    end: u64,
) -> Result<Option<Found>, LogError> {
    Search::new(window, salt).next(from, end)
}

/// What the records of this life say that stand somewhere behind a place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Behind {
    /// Offset of the last record that was written when all before it was durable; 0 if there is none.
    pub durable_offset: u64,
    /// Offset behind the last record; 0 if there is none.
    pub own_end: u64,
    /// Offset behind the last byte that is not zero.
    pub data_end: u64,
}

impl Behind {
    /// Looks at all that stands at or behind `from`. What the payload of a record holds is passed over.
    pub fn look(window: &mut Window, salt: u32, from: u64) -> Result<Behind, LogError> {
        let mut behind = Behind { data_end: window.end_of_data(from)?, ..Behind::default() };
        let mut offset = from;
        let mut search = Search::new(window, salt);
        while let Some(found) = search.next(offset, behind.data_end)? {
            if found.header.flags & BATCH_START != 0 {
                behind.durable_offset = found.offset;
            }
            behind.own_end = found.end();
            offset = found.end();
        }
        Ok(behind)
    }
}
