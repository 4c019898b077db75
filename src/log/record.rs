//! The record: one 32-byte header, the payload, zero padding to a multiple of 8 bytes.
//!
//! ```text
//!  0 crc u32 | 4 length u32 | 8 index u64 | 16 term u64 | 24 type u8 | 25 flags u8 | 26 zero u16 | 28 prev_crc u32
//! ```
//!
//! `crc` = crc32 of payload, padding, place, and the header after `crc`, in this order: the payload comes first, so
//! that the checksum which the leader made of it once is simply continued, and stays end to end. Place is the
//! segment's salt XOR the record's offset: a record counts only where it was written, in this life of the file.

use bytes::Bytes;

use super::checksum;

pub const HEADER_BYTES: usize = 32;
/// Payload of a mark: META generation.
pub const MARK_PAYLOAD_BYTES: usize = 8;
/// Record flag: when this record was written, everything before it in its segment was on stable storage.
pub const BATCH_START: u8 = 1;

/// What an entry is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[repr(u8)]
pub enum Kind {
    /// Effects of commands.
    Normal = 1,
    /// First entry of a term, without a payload.
    NoOp = 2,
    /// A new membership.
    Membership = 3,
}

/// One entry of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub index: u64,
    pub term: u64,
    pub kind: Kind,
    pub payload: Bytes,
    /// crc32 (IEEE) of the payload, made once by the leader and carried on the wire.
    pub payload_crc: u32,
}

impl Entry {
    /// A new entry, its checksum made here.
    pub fn new(index: u64, term: u64, kind: Kind, payload: Bytes) -> Entry {
        let payload_crc = crc32fast::hash(&payload);
        Entry { index, term, kind, payload, payload_crc }
    }

    /// What the entry takes in a segment: its record, and the copy of a membership.
    pub fn segment_bytes(&self) -> u64 {
        let copies = if self.kind == Kind::Membership { 2 } else { 1 };
        copies * record_bytes(self.payload.len() as u32)
    }

    /// Whether the payload is what its checksum says; to be asked of every entry that came over the wire.
    pub fn is_intact(&self) -> bool {
        crc32fast::hash(&self.payload) == self.payload_crc
    }
}

/// What a record is; the first three are the entry kinds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum RecordType {
    Normal = 1,
    NoOp = 2,
    Membership = 3,
    /// Drops entry `index` and all after it.
    Truncate = 4,
    /// Says which META was durable: first in each segment, and before the next record when META has changed.
    Mark = 5,
    /// Ends a segment: the log goes on in the next one.
    Seal = 6,
    /// Stands right behind a membership and repeats it, so that no single damage takes it away. Not an entry.
    Copy = 7,
}

impl RecordType {
    pub fn from_u8(value: u8) -> Option<RecordType> {
        Some(match value {
            1 => RecordType::Normal,
            2 => RecordType::NoOp,
            3 => RecordType::Membership,
            4 => RecordType::Truncate,
            5 => RecordType::Mark,
            6 => RecordType::Seal,
            7 => RecordType::Copy,
            _ => return None,
        })
    }

    /// The entry kind, if records of this type are entries.
    pub fn entry_kind(self) -> Option<Kind> {
        match self {
            RecordType::Normal => Some(Kind::Normal),
            RecordType::NoOp => Some(Kind::NoOp),
            RecordType::Membership => Some(Kind::Membership),
            RecordType::Truncate | RecordType::Mark | RecordType::Seal | RecordType::Copy => None,
        }
    }

    /// Whether the index file names records of this type.
    pub fn is_indexed(self) -> bool {
        !matches!(self, RecordType::Mark | RecordType::Copy)
    }
}

/// Where a record stands; part of its CRC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Of the segment.
    pub salt: u32,
    /// Of the record's header in the segment.
    pub offset: u64,
}

impl Place {
    fn hashed(self) -> u32 {
        self.salt ^ self.offset as u32
    }
}

impl From<Kind> for RecordType {
    fn from(kind: Kind) -> RecordType {
        match kind {
            Kind::Normal => RecordType::Normal,
            Kind::NoOp => RecordType::NoOp,
            Kind::Membership => RecordType::Membership,
        }
    }
}

/// The header of a record, decoded. `record_type` and `flags` are raw: only a valid CRC gives them a meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordHeader {
    pub crc: u32,
    /// Bytes of the payload, without padding.
    pub length: u32,
    pub index: u64,
    pub term: u64,
    pub record_type: u8,
    pub flags: u8,
    pub zero: u16,
    /// `crc` of the record before this one; of the segment header's `prev_crc` for the first in a segment.
    pub prev_crc: u32,
}

/// Bytes of a record on disk: header, payload, padding.
pub fn record_bytes(payload_length: u32) -> u64 {
    (HEADER_BYTES as u64 + u64::from(payload_length)).next_multiple_of(8)
}

/// Zero bytes between the payload and the next record.
pub fn padding_bytes(payload_length: u32) -> usize {
    (payload_length.wrapping_neg() % 8) as usize
}

impl RecordHeader {
    /// A header whose `crc` is right for `payload_crc` at `place`.
    pub fn sealed(
        place: Place,
        (record_type, flags): (RecordType, u8),
        (index, term): (u64, u64),
        (length, payload_crc): (u32, u32),
        prev_crc: u32,
    ) -> RecordHeader {
        let record_type = record_type as u8;
        let mut header = RecordHeader { crc: 0, length, index, term, record_type, flags, zero: 0, prev_crc };
        header.crc = header.expected_crc(place, payload_crc);
        header
    }

    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[0..4].copy_from_slice(&self.crc.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.length.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.index.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.term.to_le_bytes());
        bytes[24] = self.record_type;
        bytes[25] = self.flags;
        bytes[26..28].copy_from_slice(&self.zero.to_le_bytes());
        bytes[28..32].copy_from_slice(&self.prev_crc.to_le_bytes());
        bytes
    }

    pub fn decode(bytes: &[u8; HEADER_BYTES]) -> RecordHeader {
        RecordHeader {
            crc: get_u32(bytes, 0),
            length: get_u32(bytes, 4),
            index: get_u64(bytes, 8),
            term: get_u64(bytes, 16),
            record_type: bytes[24],
            flags: bytes[25],
            zero: u16::from_le_bytes([bytes[26], bytes[27]]),
            prev_crc: get_u32(bytes, 28),
        }
    }

    /// What `crc` must be, given the checksum of the payload; `crc` itself is not looked at.
    pub fn expected_crc(&self, place: Place, payload_crc: u32) -> u32 {
        // Padding, place, header without its crc.
        let RecordHeader { length, index, term, record_type, flags, zero, prev_crc, .. } = *self;
        let zero = zero.to_le_bytes();
        let kind = u32::from_le_bytes([record_type, flags, zero[0], zero[1]]);
        let pair = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
        let words = [pair(place.hashed(), length), index, term, pair(kind, prev_crc)];
        checksum::continued(payload_crc, padding_bytes(length), words)
    }
}

/// Reads a little-endian u32; the caller has checked the length.
pub(super) fn get_u32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

/// Reads a little-endian u64; the caller has checked the length.
pub(super) fn get_u64(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// What a mark says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// The newest durable META then: a META older than this is not the one of this log.
    pub meta_generation: u64,
}

impl Mark {
    pub fn encode(&self) -> [u8; MARK_PAYLOAD_BYTES] {
        self.meta_generation.to_le_bytes()
    }

    /// `None` unless the payload has exactly the length of a mark's.
    pub fn decode(payload: &[u8]) -> Option<Mark> {
        Some(Mark { meta_generation: u64::from_le_bytes(payload.try_into().ok()?) })
    }
}
