//! A piece of a file in memory, moved along as it is read.
//!
//! Files that nobody writes are mapped. Where a page cannot be had - the disk fails, or somebody cut the file - and
//! for files that are being written, a `pread` into a buffer takes over: it returns an error, block by block.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::disk::FileHandle;
use super::error::LogError;
use super::map::Mapping;
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
    /// As long as all that was wanted could be populated; `populated` was last.
    mapping: Option<Mapping>,
    populated: Range<u64>,
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
    /// On a file that nobody writes meanwhile, as long as it is now.
    pub fn mapped(file: FileHandle, path: &Path) -> Result<Window, LogError> {
        let mapping = file.map();
        Ok(Window { mapping, ..Window::of(file, path)? })
    }

    /// On a file as long as it is now.
    pub fn of(file: FileHandle, path: &Path) -> Result<Window, LogError> {
        let file_bytes =
            file.length().map_err(|source| LogError::io("find the length of", path, None, source))?;
        Ok(Window {
            file,
            path: path.to_path_buf(),
            file_bytes,
            mapping: None,
            populated: 0..0,
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
        self.populate(offset..end);
        let buffered = offset >= self.start && end <= self.start + self.length as u64;
        if self.mapping.is_none() && !buffered {
            self.load(offset, end)?;
        }
        Ok(Some(match &self.mapping {
            Some(mapping) => mapping.bytes(offset..end),
            None => {
                let first = self.shift + (offset - self.start) as usize;
                &self.buffer[first..first + length as usize]
            }
        }))
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

    fn populate(&mut self, wanted: Range<u64>) {
        let Some(mapping) = &self.mapping else { return };
        if wanted.start >= self.populated.start && wanted.end <= self.populated.end {
            return;
        }
        let start = wanted.start - wanted.start % BLOCK;
        let range = start..wanted.end.max(start + WINDOW_BYTES).min(self.file_bytes);
        match mapping.populate(range.clone()) {
            Ok(()) => self.populated = range,
            Err(_) => self.mapping = None, // the buffer finds out what it is
        }
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

#[cfg(test)]
mod tests {
    use super::super::disk::{Disk, Mode, SystemDisk};
    use super::*;

    const FILE_BYTES: u64 = 1 << 20;

    fn windows(path: &Path) -> [Window; 2] {
        let file = || SystemDisk.open(path, Mode::Read).expect("open");
        [Window::of(file(), path).expect("window"), Window::mapped(file(), path).expect("window")]
    }

    #[test]
    fn mapped_or_not_the_bytes_are_those_of_the_file() {
        let directory = tempfile::tempdir().expect("tempdir");
        let path = directory.path().join("file");
        let content: Vec<u8> = (0..FILE_BYTES as u32).map(|at| (at / 7 + at) as u8).collect();
        std::fs::write(&path, &content).expect("write");
        for mut window in windows(&path) {
            for (offset, length) in [(0, 32), (300_000, 700_000), (4095, 2), (FILE_BYTES - 1, 1), (77, 0)] {
                let expected = &content[offset as usize..(offset + length) as usize];
                assert_eq!(window.get(offset, length).expect("read"), Some(expected));
            }
            assert_eq!(window.get(FILE_BYTES - 1, 2).expect("read"), None);
            assert_eq!(window.get(u64::MAX, 2).expect("read"), None);
        }
    }

    #[test]
    fn a_file_that_was_cut_is_an_error_and_no_signal() {
        let directory = tempfile::tempdir().expect("tempdir");
        let path = directory.path().join("file");
        std::fs::write(&path, vec![1; FILE_BYTES as usize]).expect("write");
        for mut window in windows(&path) {
            assert!(window.get(0, 8).expect("read").is_some());
            let file = std::fs::OpenOptions::new().write(true).open(&path).expect("open");
            file.set_len(4096).expect("cut");
            let error = window.get(FILE_BYTES / 2, 8).expect_err("cut");
            assert!(error.to_string().contains(&path.display().to_string()), "{error}");
            file.set_len(FILE_BYTES).expect("grow");
        }
    }
}
