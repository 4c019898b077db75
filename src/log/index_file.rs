//! The index file beside each segment: 32 bytes per record, written only after the record is durable.
//!
//! So a valid line in it proves that its record was on the disk: it tells a torn tail from damage, and keeps the
//! identity of an entry that can no longer be read. It is derived data: a damaged index is rebuilt from its segment.

use std::path::Path;

use super::disk::{Disk, FileHandle, Mode};
use super::error::LogError;
use super::record::{get_u32, get_u64, record_bytes, RecordHeader, RecordType};
use super::segment::{crc_around, temporary_path, FORMAT_VERSION};

pub const INDEX_HEADER_BYTES: usize = 32;
pub const INDEX_ENTRY_BYTES: usize = 32;
const INDEX_MAGIC: [u8; 8] = *b"RRAFTIDX";

/// magic 0..8 | version 8 | crc 12 | salt 16 | sequence 20 | zeros; the salt is the segment's.
pub fn encode_header(salt: u32, sequence: u32) -> [u8; INDEX_HEADER_BYTES] {
    let mut bytes = [0; INDEX_HEADER_BYTES];
    bytes[0..8].copy_from_slice(&INDEX_MAGIC);
    bytes[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
    bytes[16..20].copy_from_slice(&salt.to_le_bytes());
    bytes[20..24].copy_from_slice(&sequence.to_le_bytes());
    let crc = crc_around(&bytes, 12);
    bytes[12..16].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// The salt and sequence of an index file, if its header is intact.
pub fn decode_header(bytes: &[u8]) -> Option<(u32, u32)> {
    let header = bytes.get(..INDEX_HEADER_BYTES)?;
    let valid = header[0..8] == INDEX_MAGIC
        && get_u32(header, 12) == crc_around(header, 12)
        && get_u32(header, 8) == FORMAT_VERSION;
    valid.then(|| (get_u32(header, 16), get_u32(header, 20)))
}

/// Where one record is, and what it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexEntry {
    pub record_type: RecordType,
    pub index: u64,
    pub term: u64,
    /// Offset of the record in its segment; a multiple of 8.
    pub offset: u32,
    pub length: u32,
    pub record_crc: u32,
}

impl IndexEntry {
    pub fn of(header: &RecordHeader, record_type: RecordType, offset: u32) -> IndexEntry {
        let RecordHeader { index, term, length, crc, .. } = *header;
        IndexEntry { record_type, index, term, offset, length, record_crc: crc }
    }

    /// index 0 | term 8 | offset (the low three bits hold the type) 16 | length 20 | record crc 24 | own crc 28,
    /// which covers the salt and the first 28 bytes.
    pub fn encode(&self, salt: u32) -> [u8; INDEX_ENTRY_BYTES] {
        assert!(self.offset % 8 == 0, "records stand at multiples of 8");
        let mut bytes = [0; INDEX_ENTRY_BYTES];
        bytes[0..8].copy_from_slice(&self.index.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.term.to_le_bytes());
        bytes[16..20].copy_from_slice(&(self.offset | self.record_type as u32).to_le_bytes());
        bytes[20..24].copy_from_slice(&self.length.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.record_crc.to_le_bytes());
        let crc = own_crc(salt, &bytes);
        bytes[28..32].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// `None`: damaged, or of another life of the file.
    pub fn decode(salt: u32, bytes: &[u8]) -> Option<IndexEntry> {
        let bytes: &[u8; INDEX_ENTRY_BYTES] = bytes.try_into().ok()?;
        if get_u32(bytes, 28) != own_crc(salt, bytes) {
            return None;
        }
        let place = get_u32(bytes, 16);
        Some(IndexEntry {
            record_type: RecordType::from_u8((place & 7) as u8)?,
            index: get_u64(bytes, 0),
            term: get_u64(bytes, 8),
            offset: place & !7,
            length: get_u32(bytes, 20),
            record_crc: get_u32(bytes, 24),
        })
    }

    /// Offset behind the record.
    pub fn end(&self) -> u64 {
        u64::from(self.offset) + record_bytes(self.length)
    }
}

fn own_crc(salt: u32, bytes: &[u8; INDEX_ENTRY_BYTES]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&salt.to_le_bytes());
    hasher.update(&bytes[..28]);
    hasher.finalize()
}

/// The bytes of an index file; empty when there is none.
pub fn read(disk: &dyn Disk, path: &Path) -> Result<Vec<u8>, LogError> {
    if !disk.exists(path) {
        return Ok(Vec::new());
    }
    let file = disk.open(path, Mode::Read).map_err(|source| LogError::io("open", path, None, source))?;
    let length = file.length().map_err(|source| LogError::io("find the length of", path, None, source))?;
    let mut bytes = vec![0; length as usize];
    file.read_at(&mut bytes, 0).map_err(|source| LogError::io("read", path, 0, source))?;
    Ok(bytes)
}

/// Replaces an index file by `bytes`, in one step: the file is complete under another name before it gets its own.
pub fn replace(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> Result<FileHandle, LogError> {
    let temporary = temporary_path(path);
    if disk.exists(&temporary) {
        disk.remove(&temporary).map_err(|source| LogError::io("remove", &temporary, None, source))?;
    }
    let file = disk
        .open(&temporary, Mode::CreateNew)
        .map_err(|source| LogError::io("create", &temporary, None, source))?;
    file.write_at(bytes, 0).map_err(|source| LogError::io("write", &temporary, 0, source))?;
    file.sync_all().map_err(|source| LogError::io("fsync", &temporary, None, source))?;
    disk.rename(&temporary, path).map_err(|source| LogError::io("rename", &temporary, None, source))?;
    Ok(file)
}
