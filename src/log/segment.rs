//! Segment files: their names, and the 4 KiB header that says whose, which and after what.

use std::path::{Path, PathBuf};

use super::error::LogError;
use super::record::{get_u32, get_u64};
use crate::limits::CLUSTER_ID_BYTES;

/// Unit of writing: a batch is padded to a multiple of this.
pub const BLOCK_BYTES: usize = 4096;
/// The header fills one block; the first record stands right behind it.
pub const SEGMENT_HEADER_BYTES: usize = BLOCK_BYTES;
/// Version of segment, record, index and META formats: they change together.
pub const FORMAT_VERSION: u32 = 1;
/// Suffix of a file that is not complete yet; left behind only by a crash.
pub const TEMPORARY_SUFFIX: &str = ".tmp";

const SEGMENT_MAGIC: [u8; 8] = *b"RRAFTSEG";
const SEGMENT_SUFFIX: &str = ".log";
const INDEX_SUFFIX: &str = ".idx";
const FREE_SUFFIX: &str = ".free";

pub fn segment_path(directory: &Path, sequence: u32) -> PathBuf {
    directory.join(format!("{sequence:010}{SEGMENT_SUFFIX}"))
}

pub fn index_path(directory: &Path, sequence: u32) -> PathBuf {
    directory.join(format!("{sequence:010}{INDEX_SUFFIX}"))
}

/// A purged segment that waits for its next life.
pub fn free_path(directory: &Path, number: u32) -> PathBuf {
    directory.join(format!("{number:010}{FREE_SUFFIX}"))
}

pub fn temporary_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(TEMPORARY_SUFFIX);
    PathBuf::from(name)
}

/// What a name in the directory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileName {
    Segment(u32),
    Index(u32),
    Free(u32),
    Temporary,
    Other,
}

pub fn parse_file_name(name: &str) -> FileName {
    // `u32::from_str` would also take a leading plus sign; the file would be looked for under another name then.
    let is_number = |stem: &str| stem.len() == 10 && stem.bytes().all(|byte| byte.is_ascii_digit());
    let sequence = |stem: &str| is_number(stem).then(|| stem.parse::<u32>().ok()).flatten();
    if name.ends_with(TEMPORARY_SUFFIX) {
        return FileName::Temporary;
    }
    if let Some(sequence) = name.strip_suffix(SEGMENT_SUFFIX).and_then(sequence) {
        return FileName::Segment(sequence);
    }
    if let Some(sequence) = name.strip_suffix(INDEX_SUFFIX).and_then(sequence) {
        return FileName::Index(sequence);
    }
    if let Some(number) = name.strip_suffix(FREE_SUFFIX).and_then(sequence) {
        return FileName::Free(number);
    }
    FileName::Other
}

/// Who a log belongs to; in META and in every segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    pub cluster_id: [u8; CLUSTER_ID_BYTES],
    pub node_id: u64,
}

impl Owner {
    pub fn describe(&self) -> String {
        format!("cluster {} node {}", self.cluster_id.escape_ascii(), self.node_id)
    }
}

/// The header of a segment. A header of zeros: prepared, never written to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    /// Random; part of every CRC in the segment, so that bytes of a file's former life are never taken for records.
    pub salt: u32,
    /// Position among the segments, from 1; also the file's name.
    pub sequence: u32,
    /// Index of the next entry when the segment was begun.
    pub next_index: u64,
    /// Term of the entry before `next_index`.
    pub prev_term: u64,
    /// CRC of the seal that ends the segment before; 0 in the first.
    pub prev_crc: u32,
    /// Whether bytes of the file's former life may stand behind the last record; else there are zeros.
    pub recycled: bool,
    /// Length of the file in bytes: a file that is not this long was cut.
    pub capacity: u64,
    pub owner: Owner,
}

/// What the first block of a segment file turned out to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeaderState {
    Valid(SegmentHeader),
    /// All zeros.
    Blank,
    Invalid {
        expected: String,
        found: String,
    },
    Newer {
        version: u32,
    },
}

impl SegmentHeader {
    /// magic 0..8 | version 8 | crc 12 | salt 16 | sequence 20 | next index 24 | prev term 32 | prev crc 40 |
    /// recycled 44 | capacity 48 | cluster id 56..88 | node id 88 | zeros; `crc` covers all 4096 bytes but itself.
    pub fn encode(&self) -> [u8; SEGMENT_HEADER_BYTES] {
        let mut bytes = [0; SEGMENT_HEADER_BYTES];
        bytes[0..8].copy_from_slice(&SEGMENT_MAGIC);
        bytes[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.salt.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.sequence.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.next_index.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.prev_term.to_le_bytes());
        bytes[40..44].copy_from_slice(&self.prev_crc.to_le_bytes());
        bytes[44] = u8::from(self.recycled);
        bytes[48..56].copy_from_slice(&self.capacity.to_le_bytes());
        bytes[56..88].copy_from_slice(&self.owner.cluster_id);
        bytes[88..96].copy_from_slice(&self.owner.node_id.to_le_bytes());
        let crc = crc_around(&bytes, 12);
        bytes[12..16].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    pub fn decode(bytes: &[u8; SEGMENT_HEADER_BYTES]) -> HeaderState {
        if *bytes == [0; SEGMENT_HEADER_BYTES] {
            return HeaderState::Blank;
        }
        let (expected, found) = (crc_around(bytes, 12), get_u32(bytes, 12));
        if bytes[0..8] != SEGMENT_MAGIC || expected != found {
            return HeaderState::Invalid {
                expected: format!("a segment header with crc {expected:08x}"),
                found: format!("magic \"{}\", crc {found:08x}", bytes[0..8].escape_ascii()),
            };
        }
        let version = get_u32(bytes, 8);
        if version != FORMAT_VERSION {
            return HeaderState::Newer { version };
        }
        HeaderState::Valid(SegmentHeader {
            salt: get_u32(bytes, 16),
            sequence: get_u32(bytes, 20),
            next_index: get_u64(bytes, 24),
            prev_term: get_u64(bytes, 32),
            prev_crc: get_u32(bytes, 40),
            recycled: bytes[44] != 0,
            capacity: get_u64(bytes, 48),
            owner: Owner {
                cluster_id: bytes[56..88].try_into().expect("32 bytes"),
                node_id: get_u64(bytes, 88),
            },
        })
    }

    /// The salt of a header that may be damaged elsewhere: good enough to look for records with, as their own CRC
    /// tells whether it was right.
    pub fn salt_of_damaged(bytes: &[u8; SEGMENT_HEADER_BYTES]) -> u32 {
        get_u32(bytes, 16)
    }

    /// Refuses a segment of another log, or one that stands under another's name, or was cut.
    pub fn check(&self, path: &Path, owner: &Owner, sequence: u32, file_bytes: u64) -> Result<(), LogError> {
        let foreign = |offset, expected, found| {
            Err(LogError::Foreign { file: path.to_path_buf(), offset, expected, found })
        };
        if self.owner != *owner {
            return foreign(56, owner.describe(), self.owner.describe());
        }
        if self.sequence != sequence {
            return foreign(20, format!("segment {sequence}"), format!("segment {}", self.sequence));
        }
        if self.capacity != file_bytes {
            return Err(LogError::corrupt(
                path,
                file_bytes.min(self.capacity),
                None,
                format!("a file of {} bytes", self.capacity),
                format!("{file_bytes} bytes"),
            ));
        }
        Ok(())
    }
}

/// crc32 of `bytes` without the four at `at`.
pub(super) fn crc_around(bytes: &[u8], at: usize) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&bytes[..at]);
    hasher.update(&bytes[at + 4..]);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_that_are_given_and_no_others() {
        let directory = Path::new("log");
        let name =
            |path: PathBuf| parse_file_name(path.file_name().and_then(|name| name.to_str()).expect("text"));
        assert_eq!(name(segment_path(directory, 12)), FileName::Segment(12));
        assert_eq!(name(index_path(directory, u32::MAX)), FileName::Index(u32::MAX));
        assert_eq!(name(free_path(directory, 0)), FileName::Free(0));
        assert_eq!(name(temporary_path(&segment_path(directory, 12))), FileName::Temporary);
        for other in ["+000000012.log", "12.log", "00000000012.log", "9999999999.log", "META", ".log"] {
            assert_eq!(parse_file_name(other), FileName::Other, "{other}");
        }
    }
}
