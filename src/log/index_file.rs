//! The index file beside each segment: what the records are, written only after they are durable.
//!
//! So whatever valid in it proves that its record was on the disk: it tells a torn tail from damage, and keeps the
//! identity of an entry that can no longer be read. It is derived data: a damaged index is rebuilt from its segment.
//!
//! ```text
//! frame:  0 crc u32 | 4 count u16 | 6 type u8 | 7 uniform u8 | 8 index u64 | 16 term u64 | 24 offset u32 | 28 length u32
//!         then  count x crc u32              when all payloads have the same length (uniform = 1)
//!         or    count x (length u32, crc u32)
//! ```
//!
//! A frame names records that stand one right behind the other, of one type and term, with consecutive indexes. Its
//! crc covers the segment's salt and the frame behind the crc. Behind a damaged frame the next one is found by
//! trying every multiple of 4.

use std::path::Path;

use super::disk::{Disk, FileHandle, Mode};
use super::error::LogError;
use super::record::{get_u32, get_u64, record_bytes, RecordHeader, RecordType};
use super::segment::{crc_around, temporary_path, FORMAT_VERSION};

pub const INDEX_HEADER_BYTES: usize = 32;
pub const FRAME_HEADER_BYTES: usize = 32;
/// A longer run of records gets several frames: bounds what one damage hides.
const MAX_FRAME_RECORDS: usize = 4096;
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

    /// Offset behind the record.
    pub fn end(&self) -> u64 {
        u64::from(self.offset) + record_bytes(self.length)
    }
}

/// Gathers records into frames.
pub struct FrameBuilder {
    salt: u32,
    /// Frames that are complete.
    bytes: Vec<u8>,
    /// The first record of the frame being made.
    first: Option<IndexEntry>,
    /// Length and crc of all its records.
    records: Vec<(u32, u32)>,
    uniform: bool,
    /// Offset behind the last of them.
    end: u64,
}

impl FrameBuilder {
    pub fn new(salt: u32) -> FrameBuilder {
        FrameBuilder { salt, bytes: Vec::new(), first: None, records: Vec::new(), uniform: true, end: 0 }
    }

    /// Takes the next record. Panics on a type that is not indexed.
    pub fn push(&mut self, entry: IndexEntry) {
        assert!(entry.record_type.is_indexed() && entry.offset.is_multiple_of(8));
        let continues = self.first.is_some_and(|first| {
            entry.record_type == first.record_type
                && entry.record_type.entry_kind().is_some()
                && entry.term == first.term
                && entry.index == first.index.wrapping_add(self.records.len() as u64)
                && u64::from(entry.offset) == self.end
                && self.records.len() < MAX_FRAME_RECORDS
        });
        if !continues {
            self.close();
            self.first = Some(entry);
        }
        self.uniform &= self.first.is_some_and(|first| first.length == entry.length);
        self.records.push((entry.length, entry.record_crc));
        self.end = entry.end();
    }

    fn close(&mut self) {
        let Some(first) = self.first.take() else { return };
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&(self.records.len() as u16).to_le_bytes());
        self.bytes.extend_from_slice(&[first.record_type as u8, u8::from(self.uniform)]);
        self.bytes.extend_from_slice(&first.index.to_le_bytes());
        self.bytes.extend_from_slice(&first.term.to_le_bytes());
        self.bytes.extend_from_slice(&first.offset.to_le_bytes());
        let length = if self.uniform { first.length } else { 0 };
        self.bytes.extend_from_slice(&length.to_le_bytes());
        if self.uniform {
            self.bytes.extend(self.records.iter().flat_map(|(_, crc)| crc.to_le_bytes()));
        } else {
            let pair = |(length, crc): &(u32, u32)| u64::from(*length) | u64::from(*crc) << 32;
            self.bytes.extend(self.records.iter().flat_map(|record| pair(record).to_le_bytes()));
        }
        let crc = frame_crc(self.salt, &self.bytes[start..]);
        self.bytes[start..start + 4].copy_from_slice(&crc.to_le_bytes());
        self.records.clear();
        self.uniform = true;
    }

    /// All frames, the last one ended.
    pub fn bytes(&mut self) -> &[u8] {
        self.close();
        &self.bytes
    }

    /// Forgets the frames: they are written.
    pub fn clear(&mut self) {
        assert!(self.first.is_none(), "only frames that were ended can have been written");
        self.bytes.clear();
    }
}

fn frame_crc(salt: u32, frame: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&salt.to_le_bytes());
    hasher.update(&frame[4..]);
    hasher.finalize()
}

/// A valid frame.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    record_type: RecordType,
    uniform: bool,
    index: u64,
    term: u64,
    offset: u32,
    length: u32,
    records: &'a [u8],
}

impl<'a> Frame<'a> {
    /// The frame at the start of `bytes` and its length. `None`: damaged, or of another life of the file.
    pub fn decode(salt: u32, bytes: &'a [u8]) -> Option<(Frame<'a>, usize)> {
        let header = bytes.get(..FRAME_HEADER_BYTES)?;
        let count = usize::from(u16::from_le_bytes([header[4], header[5]]));
        let record_type = RecordType::from_u8(header[6]).filter(|record_type| record_type.is_indexed())?;
        let uniform = match header[7] {
            0 => false,
            1 => true,
            _ => return None,
        };
        if count == 0 {
            return None;
        }
        let frame_bytes = FRAME_HEADER_BYTES + count * if uniform { 4 } else { 8 };
        let frame = bytes.get(..frame_bytes)?;
        if get_u32(header, 0) != frame_crc(salt, frame) {
            return None;
        }
        let frame = Frame {
            record_type,
            uniform,
            index: get_u64(header, 8),
            term: get_u64(header, 16),
            offset: get_u32(header, 24),
            length: get_u32(header, 28),
            records: &frame[FRAME_HEADER_BYTES..],
        };
        Some((frame, frame_bytes))
    }

    /// What the frame names, in order.
    pub fn entries(self) -> FrameEntries<'a> {
        FrameEntries { frame: self }
    }
}

/// What is left of a frame.
#[derive(Clone, Debug)]
pub struct FrameEntries<'a> {
    frame: Frame<'a>,
}

impl Iterator for FrameEntries<'_> {
    type Item = IndexEntry;

    /// Ends where offsets or indexes would overflow: no segment is that long.
    fn next(&mut self) -> Option<IndexEntry> {
        let Frame { record_type, uniform, index, term, offset, length, records } = self.frame;
        let (record, rest) = records.split_at_checked(if uniform { 4 } else { 8 })?;
        let (length, record_crc) =
            if uniform { (length, get_u32(record, 0)) } else { (get_u32(record, 0), get_u32(record, 4)) };
        let entry = IndexEntry { record_type, index, term, offset, length, record_crc };
        self.frame.records = rest;
        self.frame.offset = u32::try_from(entry.end()).ok()?;
        self.frame.index = index.checked_add(1)?;
        Some(entry)
    }
}

/// The valid frames of an index file.
pub struct Frames<'a> {
    salt: u32,
    bytes: &'a [u8],
    at: usize,
    /// Bytes that belong to no valid frame were passed.
    damaged: bool,
}

impl<'a> Frames<'a> {
    /// Of a whole index file.
    pub fn of(index: &'a [u8], salt: u32) -> Frames<'a> {
        Frames { salt, bytes: index, at: INDEX_HEADER_BYTES, damaged: false }
    }

    /// Whether anything but valid frames was passed.
    pub fn is_damaged(&self) -> bool {
        self.damaged
    }
}

impl<'a> Iterator for Frames<'a> {
    type Item = Frame<'a>;

    fn next(&mut self) -> Option<Frame<'a>> {
        while self.at < self.bytes.len() {
            if let Some((frame, bytes)) = Frame::decode(self.salt, &self.bytes[self.at..]) {
                self.at += bytes;
                return Some(frame);
            }
            self.damaged = true;
            self.at += 4;
        }
        None
    }
}

/// All that the valid frames of an index file name.
pub fn entries(index: &[u8], salt: u32) -> impl Iterator<Item = IndexEntry> + '_ {
    Frames::of(index, salt).flat_map(Frame::entries)
}

/// Compares what an index file names with the records, one by one.
pub struct Comparison<'a> {
    frames: Frames<'a>,
    frame: Option<FrameEntries<'a>>,
    /// What is named next.
    named: Option<IndexEntry>,
    /// Whether the header was right, and every record was named so far.
    complete: bool,
}

impl<'a> Comparison<'a> {
    /// Of the index file of segment `sequence` with `salt`.
    pub fn of(index: &'a [u8], salt: u32, sequence: u32) -> Comparison<'a> {
        let complete = decode_header(index) == Some((salt, sequence));
        let mut comparison =
            Comparison { frames: Frames::of(index, salt), frame: None, named: None, complete };
        comparison.advance();
        comparison
    }

    fn advance(&mut self) {
        loop {
            self.named = self.frame.as_mut().and_then(Iterator::next);
            if self.named.is_some() {
                return;
            }
            self.frame = self.frames.next().map(Frame::entries);
            if self.frame.is_none() {
                return;
            }
        }
    }

    /// Takes the next record. `Err`: another one was durable here.
    pub fn take(&mut self, record: &IndexEntry) -> Result<(), IndexEntry> {
        match self.named {
            Some(named) if named == *record => {
                self.advance();
                Ok(())
            }
            Some(named) if named.offset <= record.offset => Err(named),
            _ => {
                self.complete = false;
                Ok(())
            }
        }
    }

    /// A record was passed of which not all is known that the index says.
    pub fn skip(&mut self) {
        self.complete = false;
    }

    /// What the index names next.
    pub fn named(&self) -> Option<IndexEntry> {
        self.named
    }

    /// Whether the file names exactly the records that were taken.
    pub fn is_exact(&self) -> bool {
        self.complete && self.named.is_none() && !self.frames.is_damaged()
    }
}

/// The first record at or behind `offset` that an index file names.
pub fn first_behind(index: &[u8], salt: u32, offset: u64) -> Option<IndexEntry> {
    entries(index, salt).find(|named| u64::from(named.offset) >= offset)
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
