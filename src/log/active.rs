//! The segment that is being written: records are encoded into a buffer of whole blocks, and go to the disk from it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::buffer::Buffer;
use super::disk::{Disk, FileHandle, Mode};
use super::error::LogError;
use super::index_file::{FrameBuilder, IndexEntry, INDEX_HEADER_BYTES};
use super::prepare::Prepared;
use super::record::*;
use super::segment::*;

/// A segment, for reading.
pub struct SegmentView {
    pub sequence: u32,
    pub salt: u32,
    /// Index of the next entry and term of the last one when the segment was begun.
    pub next_index: u64,
    pub prev_term: u64,
    pub path: PathBuf,
}

impl SegmentView {
    pub fn new(header: &SegmentHeader, path: PathBuf) -> SegmentView {
        let SegmentHeader { sequence, salt, next_index, prev_term, .. } = *header;
        SegmentView { sequence, salt, next_index, prev_term, path }
    }
}

/// The segment being written.
///
/// Invariants: `block_offset` is a multiple of the block size; `durable_offset <= cursor() <= capacity`.
pub struct Active {
    pub view: Arc<SegmentView>,
    pub capacity: u64,
    file: FileHandle,
    pub index_path: PathBuf,
    pub index_file: FileHandle,
    index_offset: u64,
    /// Records that are written but not known to be durable.
    frames: FrameBuilder,
    /// Generation of META in the last mark; 0 if there is none.
    pub marked_generation: u64,
    /// Where `buffer` belongs.
    block_offset: u64,
    /// The bytes from `block_offset` on: a block that is partly written already, then what is to be written.
    buffer: Buffer,
    /// Everything before is durable; 0: not even the header.
    pub durable_offset: u64,
    /// Something was written that waits for its sync.
    unsynced: bool,
    /// Bytes given to the disk, of the segment and of its index file.
    pub written_bytes: u64,
}

impl Active {
    /// Where the next record goes.
    pub fn cursor(&self) -> u64 {
        self.block_offset + self.buffer.len() as u64
    }

    /// A prepared segment, its header to be written with the first batch.
    pub fn begin(prepared: Prepared, header: &SegmentHeader, mut buffer: Buffer) -> Active {
        buffer.clear();
        buffer.append(SEGMENT_HEADER_BYTES).copy_from_slice(&header.encode());
        let Prepared { capacity, salt, path, file, index_path, index_file, .. } = prepared;
        Active {
            view: Arc::new(SegmentView::new(header, path)),
            capacity,
            file,
            index_path,
            index_file,
            index_offset: INDEX_HEADER_BYTES as u64,
            frames: FrameBuilder::new(salt),
            marked_generation: 0,
            block_offset: 0,
            buffer,
            durable_offset: 0,
            unsynced: false,
            written_bytes: 0,
        }
    }

    /// A segment that recovery found open: everything before `offset` is durable, with a mark of
    /// `marked_generation`, and the index file is complete. `mode`: how it is written.
    pub fn resume(
        disk: &dyn Disk,
        mode: Mode,
        view: Arc<SegmentView>,
        (offset, marked_generation): (u64, u64),
        (index_path, index_offset): (PathBuf, u64),
    ) -> Result<Active, LogError> {
        let open = |path: &Path, mode| {
            disk.open(path, mode).map_err(|source| LogError::io("open", path, None, source))
        };
        let (file, index_file) = (open(&view.path, mode)?, open(&index_path, Mode::Write)?);
        let block_offset = offset - offset % BLOCK_BYTES as u64;
        let mut buffer = Buffer::new();
        file.read_at(buffer.append((offset - block_offset) as usize), block_offset)
            .map_err(|source| LogError::io("read", &view.path, block_offset, source))?;
        let capacity =
            file.length().map_err(|source| LogError::io("find the length of", &view.path, None, source))?;
        Ok(Active {
            frames: FrameBuilder::new(view.salt),
            marked_generation,
            view,
            capacity,
            file,
            index_path,
            index_file,
            index_offset,
            block_offset,
            buffer,
            durable_offset: offset,
            unsynced: false,
            written_bytes: 0,
        })
    }

    /// Bytes of a record were wrong on the disk and were written again: what of them is still to be written with the
    /// rest of its block is put right, too.
    pub fn patch(&mut self, offset: u64, bytes: &[u8]) {
        let skipped = self.block_offset.saturating_sub(offset).min(bytes.len() as u64);
        let at = (offset + skipped).saturating_sub(self.block_offset);
        self.buffer.patch(at as usize, &bytes[skipped as usize..]);
    }

    /// Adds a record behind the one with `prev_crc`. Returns its offset and crc.
    pub fn put(
        &mut self,
        record_type: RecordType,
        position: (u64, u64),
        (payload, payload_crc): (&[u8], u32),
        prev_crc: u32,
    ) -> Result<(u32, u32), LogError> {
        let offset = self.cursor();
        let place = Place { salt: self.view.salt, offset };
        let flags = if self.durable_offset == offset { BATCH_START } else { 0 };
        let length = payload.len() as u32;
        let header =
            RecordHeader::sealed(place, (record_type, flags), position, (length, payload_crc), prev_crc);
        let bytes = record_bytes(length) as usize;
        if bytes <= self.buffer.room() {
            let record = self.buffer.append(bytes);
            record[..HEADER_BYTES].copy_from_slice(&header.encode());
            record[HEADER_BYTES..HEADER_BYTES + payload.len()].copy_from_slice(payload);
            record[HEADER_BYTES + payload.len()..].fill(0);
        } else {
            self.push(&header.encode())?;
            self.push(payload)?;
            self.push(&[0; 7][..padding_bytes(length)])?;
        }
        let offset = u32::try_from(offset).expect("segments are below 4 GiB");
        if record_type.is_indexed() {
            self.frames.push(IndexEntry::of(&header, record_type, offset));
        }
        Ok((offset, header.crc))
    }

    /// Adds bytes; what does not fit into the buffer is written.
    fn push(&mut self, mut bytes: &[u8]) -> Result<(), LogError> {
        while !bytes.is_empty() {
            if self.buffer.room() == 0 {
                self.flush()?;
            }
            let (piece, rest) = bytes.split_at(bytes.len().min(self.buffer.room()));
            self.buffer.append(piece.len()).copy_from_slice(piece);
            bytes = rest;
        }
        Ok(())
    }

    /// Writes the full blocks of the buffer, in the middle of a batch.
    fn flush(&mut self) -> Result<(), LogError> {
        self.unsynced = true;
        let (bytes, offset) = (self.buffer.whole_blocks(), self.block_offset);
        assert!(offset + bytes.len() as u64 <= self.capacity, "a write stays inside its segment");
        let written = self.file.write_at(bytes, offset);
        written.map_err(|source| LogError::io("write", &self.view.path, offset, source))?;
        self.written_bytes += bytes.len() as u64;
        self.block_offset += self.buffer.keep_partial_block() as u64;
        Ok(())
    }

    /// Ends a batch: writes what is buffered, padded with zeros to a whole block, and makes it durable if `durable`.
    pub fn write(&mut self, durable: bool) -> Result<(), LogError> {
        let offset = self.block_offset;
        let bytes = self.buffer.padded();
        assert!(offset + bytes.len() as u64 <= self.capacity, "a write stays inside its segment");
        let path = &self.view.path;
        if durable && !self.unsynced {
            let written = self.file.write_durable_at(bytes, offset);
            written.map_err(|source| LogError::io("write and sync", path, offset, source))?;
        } else {
            self.unsynced = true;
            self.file
                .write_at(bytes, offset)
                .map_err(|source| LogError::io("write", path, offset, source))?;
        }
        self.written_bytes += bytes.len() as u64;
        self.block_offset += self.buffer.keep_partial_block() as u64;
        if !durable {
            return Ok(());
        }
        self.sync()
    }

    /// Makes all that was written durable. It may be acknowledged when it stands in the index file, too.
    pub fn sync(&mut self) -> Result<(), LogError> {
        if std::mem::take(&mut self.unsynced) {
            let path = &self.view.path;
            let sync = self.file.sync_data();
            sync.map_err(|source| LogError::io("fdatasync", path, self.durable_offset, source))?;
        }
        self.durable_offset = self.cursor();
        Ok(())
    }

    /// Names in the index file what is durable. May be tried again when it fails.
    pub fn write_index(&mut self) -> Result<(), LogError> {
        assert!(!self.unsynced, "only what is durable is named");
        let frames = self.frames.bytes();
        let written = self.index_file.write_at(frames, self.index_offset);
        written.map_err(|source| LogError::io("write", &self.index_path, self.index_offset, source))?;
        self.index_offset += frames.len() as u64;
        self.written_bytes += frames.len() as u64;
        self.frames.clear();
        Ok(())
    }

    /// The buffer, for the next segment. Panics if something in it is not written.
    pub fn into_buffer(self) -> Buffer {
        assert!(self.durable_offset == self.cursor(), "a segment is left when all of it is durable");
        self.buffer
    }
}
