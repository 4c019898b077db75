//! META: term, vote and identity. Two generations, two copies of each, one block apart.
//!
//! ```text
//! block 0: generation even, copy 1 | block 1: odd, copy 1 | block 2: even, copy 2 | block 3: odd, copy 2
//! ```
//!
//! A write replaces the older generation, so the newer one is intact whatever happens meanwhile. All that a copy
//! holds stands in one 512-byte sector: a crash leaves it old or new, so an invalid copy is damage, never a tear.
//! Hence: one copy of a generation invalid, the other is used; both, nobody knows whether that was the newer one,
//! and a node that may forget its vote must not run.

use std::path::Path;

use super::disk::{Disk, DiskFile, FileHandle, Mode};
use super::error::LogError;
use super::record::{get_u32, get_u64};
use super::segment::{crc_around, parse_file_name, FileName, Owner, BLOCK_BYTES, FORMAT_VERSION};
use super::HardState;
use crate::limits::SECRET_BYTES;

pub const META_NAME: &str = "META";
const META_MAGIC: [u8; 8] = *b"RRAFTMET";
const COPIES: usize = 4;
pub const META_BYTES: usize = COPIES * BLOCK_BYTES;

/// What META says.
#[derive(Clone, PartialEq, Eq)]
pub struct Meta {
    /// Grows by one with each write.
    pub generation: u64,
    pub owner: Owner,
    pub secret: [u8; SECRET_BYTES],
    pub hard_state: HardState,
    /// The log starts behind this entry; (0, 0) when it starts at 1.
    pub base_index: u64,
    pub base_term: u64,
    /// The oldest segment that belongs to the log.
    pub first_sequence: u32,
    /// Durable when this was written: everything before `floor_offset` of this segment, and all older ones.
    pub floor_sequence: u32,
    pub floor_offset: u64,
    /// Acknowledged entries may have been cut away by an operator: the node neither votes nor stands until it has
    /// caught up.
    pub distrusted: bool,
    /// The longest promise to a leader, to elect nobody else, that may be in force; in microseconds.
    pub promise_us: u64,
}

/// What one copy turned out to be.
#[derive(Clone, PartialEq, Eq)]
pub enum CopyState {
    Valid(Box<Meta>),
    Invalid,
    Newer { version: u32 },
}

impl Meta {
    /// magic 0..8 | version 8 | crc 12 | generation 16 | cluster id 24..56 | node id 56 | secret 64..96 | term 96 |
    /// vote 104 | has vote 112 | base index 120 | base term 128 | first sequence 136 | floor sequence 140 |
    /// floor offset 144 | distrusted 152 |
    /// promise 160 | zeros; `crc` covers all 4096 bytes but itself.
    pub fn encode(&self) -> [u8; BLOCK_BYTES] {
        let mut bytes = [0; BLOCK_BYTES];
        bytes[0..8].copy_from_slice(&META_MAGIC);
        bytes[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.generation.to_le_bytes());
        bytes[24..56].copy_from_slice(&self.owner.cluster_id);
        bytes[56..64].copy_from_slice(&self.owner.node_id.to_le_bytes());
        bytes[64..96].copy_from_slice(&self.secret);
        bytes[96..104].copy_from_slice(&self.hard_state.term.to_le_bytes());
        bytes[104..112].copy_from_slice(&self.hard_state.vote.unwrap_or(0).to_le_bytes());
        bytes[112] = u8::from(self.hard_state.vote.is_some());
        bytes[120..128].copy_from_slice(&self.base_index.to_le_bytes());
        bytes[128..136].copy_from_slice(&self.base_term.to_le_bytes());
        bytes[136..140].copy_from_slice(&self.first_sequence.to_le_bytes());
        bytes[140..144].copy_from_slice(&self.floor_sequence.to_le_bytes());
        bytes[144..152].copy_from_slice(&self.floor_offset.to_le_bytes());
        bytes[152] = u8::from(self.distrusted);
        bytes[160..168].copy_from_slice(&self.promise_us.to_le_bytes());
        let crc = crc_around(&bytes, 12);
        bytes[12..16].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    pub fn decode(bytes: &[u8; BLOCK_BYTES]) -> CopyState {
        if bytes[0..8] != META_MAGIC || get_u32(bytes, 12) != crc_around(bytes, 12) {
            return CopyState::Invalid;
        }
        let version = get_u32(bytes, 8);
        if version != FORMAT_VERSION {
            return CopyState::Newer { version };
        }
        let vote = (bytes[112] == 1).then(|| get_u64(bytes, 104));
        CopyState::Valid(Box::new(Meta {
            generation: get_u64(bytes, 16),
            owner: Owner {
                cluster_id: bytes[24..56].try_into().expect("32 bytes"),
                node_id: get_u64(bytes, 56),
            },
            secret: bytes[64..96].try_into().expect("32 bytes"),
            hard_state: HardState { term: get_u64(bytes, 96), vote },
            base_index: get_u64(bytes, 120),
            base_term: get_u64(bytes, 128),
            first_sequence: get_u32(bytes, 136),
            floor_sequence: get_u32(bytes, 140),
            floor_offset: get_u64(bytes, 144),
            distrusted: bytes[152] != 0,
            promise_us: get_u64(bytes, 160),
        }))
    }
}

/// META as read, with the number of copies that were damaged.
pub struct MetaRead {
    pub meta: Meta,
    pub damaged_copies: usize,
}

/// Whether `write` puts `meta` in this block.
fn belongs_in(block: usize, meta: &Meta) -> bool {
    meta.generation % 2 == block as u64 % 2
}

/// Chooses the newest valid copy, which counts only in a block of its generation's parity; refuses when both copies of a generation are damaged.
pub fn choose(path: &Path, bytes: &[u8; META_BYTES]) -> Result<MetaRead, LogError> {
    let mut copies = Vec::with_capacity(COPIES);
    for (block, bytes) in bytes.chunks_exact(BLOCK_BYTES).enumerate() {
        match Meta::decode(bytes.try_into().expect("one block")) {
            // A copy of the other parity is a write that went astray: what belongs here is lost.
            CopyState::Valid(meta) => copies.push(Some(*meta).filter(|meta| belongs_in(block, meta))),
            CopyState::Invalid => copies.push(None),
            CopyState::Newer { version } => {
                return Err(LogError::NewerFormat {
                    file: path.to_path_buf(),
                    offset: (block * BLOCK_BYTES + 8) as u64,
                    what: "META version",
                    found: u64::from(version),
                    known: u64::from(FORMAT_VERSION),
                })
            }
        }
    }
    for parity in 0..2 {
        if copies[parity].is_none() && copies[parity + 2].is_none() {
            return Err(LogError::corrupt(
                path,
                (parity * BLOCK_BYTES) as u64,
                None,
                "a valid copy of this generation of term and vote",
                "two damaged ones",
            ));
        }
    }
    let damaged_copies = copies.iter().filter(|copy| copy.is_none()).count();
    let meta =
        copies.into_iter().flatten().max_by_key(|meta| meta.generation).expect("two generations are valid");
    Ok(MetaRead { meta, damaged_copies })
}

/// Why there is no META: no log was ever made here, or it was taken away.
fn absent(disk: &dyn Disk, directory: &Path) -> LogError {
    let names = disk.list(directory).unwrap_or_default();
    match names.iter().find(|name| matches!(parse_file_name(name), FileName::Segment(_))) {
        Some(segment) => LogError::MetaMissing { file: directory.join(segment) },
        None => LogError::NotALog { directory: directory.to_path_buf() },
    }
}

/// Reads META of a directory.
pub fn read(disk: &dyn Disk, directory: &Path) -> Result<MetaRead, LogError> {
    let path = directory.join(META_NAME);
    if !disk.exists(&path) {
        return Err(absent(disk, directory));
    }
    let file = disk.open(&path, Mode::Read).map_err(|source| LogError::io("open", &path, None, source))?;
    let length = file.length().map_err(|source| LogError::io("find the length of", &path, None, source))?;
    if length != META_BYTES as u64 {
        let expected = format!("a file of {META_BYTES} bytes");
        return Err(LogError::corrupt(&path, length, None, expected, format!("{length} bytes")));
    }
    let mut bytes = [0; META_BYTES];
    file.read_at(&mut bytes, 0).map_err(|source| LogError::io("read", &path, 0, source))?;
    choose(&path, &bytes)
}

/// Writes both copies of `meta`'s generation and syncs them.
pub fn write(file: &dyn DiskFile, path: &Path, meta: &Meta) -> Result<(), LogError> {
    let bytes = meta.encode();
    let parity = meta.generation % 2;
    for copy in 0..2 {
        let offset = (parity + 2 * copy) * BLOCK_BYTES as u64;
        file.write_at(&bytes, offset).map_err(|source| LogError::io("write", path, offset, source))?;
    }
    file.sync_data().map_err(|source| LogError::io("fdatasync", path, None, source))
}

/// Writes all four copies into a new file and syncs them: generations `meta.generation` and the one before.
pub fn write_new(file: &FileHandle, path: &Path, meta: &Meta) -> Result<(), LogError> {
    assert!(meta.generation > 0);
    let older = Meta { generation: meta.generation - 1, ..meta.clone() };
    write(file.as_ref(), path, &older)?;
    write(file.as_ref(), path, meta)
}
