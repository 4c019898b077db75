//! Entries whose record on the disk is damaged although it was acknowledged: known by what they were, not by payload.

use std::fmt;
use std::path::{Path, PathBuf};

use super::heal::encode_record;
use super::index_file::IndexEntry;
use super::record::{Entry, Kind, Place, RecordHeader, RecordType, BATCH_START, HEADER_BYTES};

/// An entry that was durable once and cannot be read any more. Its identity is certain: the records around it, or
/// the index file, say what stood there; so whatever is put in its place can be checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hole {
    pub index: u64,
    pub term: u64,
    pub kind: Kind,
    /// Without an index file known only up to padding; then the longest that is possible.
    pub payload_bytes: u32,
    /// The segment, and the offset of the record in it.
    pub file: PathBuf,
    pub offset: u64,
    pub expected: String,
    pub found: String,
}

impl fmt::Display for Hole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Hole { index, term, file, offset, expected, found, .. } = self;
        let file = file.display();
        write!(f, "{file} at offset {offset} (entry {index} of term {term}): damaged: expected {expected}, found {found}")
    }
}

/// A hole, and what a record must be to fit into it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    pub hole: Hole,
    /// Of the segment.
    pub sequence: u32,
    /// Whether a later truncation, or the base of the log, makes the entry superfluous: damaged, and no hole.
    pub superseded: bool,
    place: Place,
    record_bytes: u64,
    /// Of the payload, if it is known exactly.
    length: Option<u32>,
    prev_crc: u32,
    crc: u32,
}

impl Lost {
    pub(super) fn new(
        (file, sequence): (&Path, u32),
        place: Place,
        (index, term, kind): (u64, u64, Kind),
        (record_bytes, length): (u64, Option<u32>),
        (prev_crc, crc): (u32, u32),
        (expected, found): (String, String),
    ) -> Lost {
        let payload_bytes = length.unwrap_or((record_bytes - HEADER_BYTES as u64) as u32);
        let (file, offset) = (file.to_path_buf(), place.offset);
        let hole = Hole { index, term, kind, payload_bytes, file, offset, expected, found };
        Lost { hole, sequence, superseded: false, place, record_bytes, length, prev_crc, crc }
    }

    /// Offset behind the record.
    pub fn end(&self) -> u64 {
        self.place.offset + self.record_bytes
    }

    /// Segment and offset.
    pub fn place(&self) -> (u32, u64) {
        (self.sequence, self.place.offset)
    }

    /// CRC that the record had.
    pub fn crc(&self) -> u32 {
        self.crc
    }

    /// The header that the record had, but for its flags.
    pub fn header(&self) -> RecordHeader {
        let Hole { index, term, kind, payload_bytes, .. } = self.hole;
        let record_type = RecordType::from(kind) as u8;
        let (crc, prev_crc, length) = (self.crc, self.prev_crc, payload_bytes);
        RecordHeader { crc, length, index, term, record_type, flags: 0, zero: 0, prev_crc }
    }

    /// What the index file says of it; `None` if the length is not known exactly.
    pub fn index_entry(&self) -> Option<IndexEntry> {
        self.length?;
        Some(IndexEntry::of(&self.header(), RecordType::from(self.hole.kind), self.place.offset as u32))
    }

    /// The bytes of the record with `entry` in it, or what differs from the entry that was lost. The crc that the
    /// record had decides: index, term, kind, length and payload are all in it.
    pub fn rebuild(&self, entry: &Entry) -> Result<Vec<u8>, (String, String)> {
        let Hole { index, term, kind, .. } = self.hole;
        let length = entry.payload.len() as u32;
        let sum = (length, entry.payload_crc);
        let fits = (entry.index, entry.term, entry.kind) == (index, term, kind)
            && self.length.is_none_or(|known| known == length)
            && super::record::record_bytes(length) == self.record_bytes
            && entry.is_intact();
        let headers = [0, BATCH_START].map(|flags| {
            RecordHeader::sealed(self.place, (kind.into(), flags), (index, term), sum, self.prev_crc)
        });
        let header = headers.iter().find(|header| header.crc == self.crc).filter(|_| fits);
        header.map(|header| encode_record(header, &entry.payload)).ok_or_else(|| {
            let describe = |index, term, kind, length, crc| {
                format!("entry {index} of term {term} ({kind}, {length} bytes, record crc {crc:08x})")
            };
            (
                describe(index, term, kind, self.hole.payload_bytes, self.crc),
                describe(entry.index, entry.term, entry.kind, length, headers[0].crc),
            )
        })
    }
}
