//! A piece of a file in memory, moved along as it is read.
//!
//! Why not mapped: a page of a mapping that cannot be read, because the disk fails or somebody cut the file, ends
//! the process with a signal. A `pread` returns an error. From the page cache it costs half a microsecond more.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::disk::FileHandle;
use super::error::LogError;
use super::segment::BLOCK_BYTES;

/// Fits into the cache of a core, and is large enough for a disk to stream.
const WINDOW_BYTES: u64 = 256 << 10;
/// A buffer that grew for one long record is given back when it is this much too large.
const SPARE_BYTES: usize = 8 << 20;
const BLOCK: u64 = BLOCK_BYTES as u64;

/// Reads a file of fixed length, in any order; sequential reading is fast.
pub struct Window {
    file: FileHandle,
    path: PathBuf,
    file_bytes: u64,
    /// Of what is in the buffer.
    start: u64,
    length: usize,
    buffer: Vec<u8>,
    /// First byte of the buffer that stands at a multiple of the block size in memory, as O_DIRECT wants it.
    shift: usize,
    /// Blocks that the disk could not read; zeros stand in their place.
    unreadable: BTreeSet<u64>,
}

impl Window {
    /// On a file as long as it is now.
    pub fn of(file: FileHandle, path: &Path) -> Result<Window, LogError> {
        let file_bytes =
            file.length().map_err(|source| LogError::io("find the length of", path, None, source))?;
        Ok(Window {
            file,
            path: path.to_path_buf(),
            file_bytes,
            start: 0,
            length: 0,
            buffer: Vec::new(),
            shift: 0,
            unreadable: BTreeSet::new(),
        })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Length of the file when it was opened.
    pub fn file_bytes(&self) -> u64 {
        self.file_bytes
    }

    /// `length` bytes from `offset` on; `None` if the file is not that long. What the disk cannot read (EIO) is
    /// zeros: see `unreadable_at`. Other errors, and a file that was cut since, are returned.
    pub fn get(&mut self, offset: u64, length: u64) -> Result<Option<&[u8]>, LogError> {
        let Some(end) = offset.checked_add(length).filter(|end| *end <= self.file_bytes) else {
            return Ok(None);
        };
        if offset < self.start || end > self.start + self.length as u64 {
            self.load(offset, end)?;
        }
        let first = self.shift + (offset - self.start) as usize;
        Ok(Some(&self.buffer[first..first + length as usize]))
    }

    /// The same for a length that is known while compiling.
    pub fn get_array<const N: usize>(&mut self, offset: u64) -> Result<Option<&[u8; N]>, LogError> {
        Ok(self.get(offset, N as u64)?.map(|bytes| bytes.try_into().expect("as many as were asked for")))
    }

    /// The next look reads the file again: what is being written may have changed.
    pub fn forget(&mut self) {
        self.length = 0;
    }

    /// Whether the disk could not read one of these bytes when they were last looked at.
    pub fn is_unreadable(&self, offset: u64, length: u64) -> bool {
        self.unreadable.range(offset - offset % BLOCK..offset.saturating_add(length)).next().is_some()
    }

    fn load(&mut self, offset: u64, end: u64) -> Result<(), LogError> {
        let start = offset - offset % BLOCK;
        let end = end.max(start + WINDOW_BYTES).next_multiple_of(BLOCK).min(self.file_bytes);
        let length = (end - start) as usize;
        let wanted = length + BLOCK_BYTES;
        if self.buffer.len() < wanted || self.buffer.len() > wanted + SPARE_BYTES {
            self.buffer = vec![0; wanted];
            self.shift = self.buffer.as_ptr().align_offset(BLOCK_BYTES).min(BLOCK_BYTES);
        }
        // Set when the bytes are there: an error must not leave old ones under a new place.
        self.length = 0;
        let bytes = &mut self.buffer[self.shift..self.shift + length];
        if let Err(error) = self.file.read_at(bytes, start) {
            if error.raw_os_error() != Some(nix::libc::EIO) {
                return Err(LogError::io("read", &self.path, start, error));
            }
            self.read_by_blocks(start, end)?;
        }
        (self.start, self.length) = (start, length);
        Ok(())
    }

    fn read_by_blocks(&mut self, start: u64, end: u64) -> Result<(), LogError> {
        for block in (start..end).step_by(BLOCK_BYTES) {
            let from = self.shift + (block - start) as usize;
            let to = self.shift + ((block + BLOCK).min(end) - start) as usize;
            let bytes = &mut self.buffer[from..to];
            match self.file.read_at(bytes, block) {
                Ok(()) => drop(self.unreadable.remove(&block)),
                Err(error) if error.raw_os_error() == Some(nix::libc::EIO) => {
                    bytes.fill(0);
                    self.unreadable.insert(block);
                }
                Err(error) => return Err(LogError::io("read", &self.path, block, error)),
            }
        }
        Ok(())
    }

    /// Whether some block that begins in `range`, or is cut by its start, has a byte that is not zero.
    pub fn has_data(&mut self, range: Range<u64>) -> Result<bool, LogError> {
        let mut offset = range.start;
        while offset < self.file_bytes.min(range.end) {
            let bytes = self.block_at(offset)?;
            if bytes != &[0; BLOCK_BYTES][..bytes.len()] {
                return Ok(true);
            }
            offset += bytes.len() as u64;
        }
        Ok(false)
    }

    /// What is left of the block in which `offset` is.
    fn block_at(&mut self, offset: u64) -> Result<&[u8], LogError> {
        let length = (BLOCK - offset % BLOCK).min(self.file_bytes - offset);
        Ok(self.get(offset, length)?.expect("inside the file"))
    }

    /// Offset behind the last byte at or behind `from` that is not zero; `from` if there is none.
    pub fn end_of_data(&mut self, from: u64) -> Result<u64, LogError> {
        let mut data_end = from;
        let mut offset = from;
        while offset < self.file_bytes {
            let bytes = self.block_at(offset)?;
            let length = bytes.len() as u64;
            if bytes != &[0; BLOCK_BYTES][..bytes.len()] {
                let last = bytes.iter().rposition(|byte| *byte != 0).expect("one is not zero");
                data_end = offset + last as u64 + 1;
            }
            offset += length;
        }
        Ok(data_end)
    }
}
