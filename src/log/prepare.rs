//! Makes segments ahead of need: allocated, zero-filled and synced, so that an append is one `pwrite` into existing
//! blocks and its `fdatasync` has no metadata to write. A full disk shows up here first.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use super::disk::{Disk, FileHandle, Mode};
use super::error::LogError;
use super::index_file;
use super::segment::{index_path, segment_path, temporary_path, SEGMENT_HEADER_BYTES};

/// Length of the first segment of a log.
const FIRST_SEGMENT_BYTES: u64 = 1 << 20;
/// Zeros are written in pieces of this many bytes.
const ZERO_CHUNK_BYTES: u64 = 1 << 20;
/// A sync after this many bytes of zeros keeps the disk's queue short for the appends that go on meanwhile.
const ZERO_SYNC_BYTES: u64 = 8 << 20;

/// A segment file that is ready to be written: its name, space and zeros are durable, its header is zeros.
pub struct Prepared {
    pub sequence: u32,
    pub capacity: u64,
    /// Of the index file already; the segment header takes it over.
    pub salt: u32,
    /// Whether bytes of a former life stand behind the header.
    pub recycled: bool,
    pub path: PathBuf,
    pub file: FileHandle,
    pub index_path: PathBuf,
    pub index_file: FileHandle,
}

/// How long segment `sequence` is made: the first ones are short, so that a new log is there at once and is ahead of
/// its first burst.
pub fn planned_bytes(sequence: u32, segment_bytes: u64) -> u64 {
    let doublings = 2 * sequence.saturating_sub(1).min(8);
    segment_bytes.min(FIRST_SEGMENT_BYTES << doublings)
}

/// Makes segment files in a directory.
pub struct Maker<'d> {
    pub disk: &'d dyn Disk,
    pub directory: &'d Path,
    /// How the segments are opened for writing.
    pub mode: Mode,
}

impl Maker<'_> {
    /// Makes segment `sequence`: complete under a temporary name, then renamed, then the directory synced. What is
    /// half-made when that fails, or `stop` is set, is removed again: it holds space that is needed.
    pub fn make(&self, sequence: u32, capacity: u64, stop: &AtomicBool) -> Result<Prepared, LogError> {
        let path = segment_path(self.directory, sequence);
        let temporary = temporary_path(&path);
        if self.disk.exists(&temporary) {
            self.disk
                .remove(&temporary)
                .map_err(|source| LogError::io("remove", &temporary, None, source))?;
        }
        let file = self
            .disk
            .open(&temporary, Mode::CreateNew)
            .map_err(|source| LogError::io("create", &temporary, None, source))?;
        let filled = fill_with_zeros(&file, &temporary, capacity, stop);
        let named = filled.and_then(|()| self.name(&temporary, sequence, false));
        if named.is_err() && self.disk.exists(&temporary) {
            // Else the next start removes it: the first error is the one to be told.
            let _ = self.disk.remove(&temporary);
        }
        named
    }

    /// Makes segment `sequence` of a purged one, whose records end with their header: first its zeros are durable, then
    /// it gets its name.
    pub fn recycle(&self, free: &Path, sequence: u32) -> Result<Prepared, LogError> {
        let file =
            self.disk.open(free, Mode::Write).map_err(|source| LogError::io("open", free, None, source))?;
        file.write_at(&[0; SEGMENT_HEADER_BYTES], 0)
            .map_err(|source| LogError::io("write zeros to", free, 0, source))?;
        file.sync_data().map_err(|source| LogError::io("fdatasync", free, 0, source))?;
        self.name(free, sequence, true)
    }

    /// Gives a file that is ready the name of segment `sequence`, and an index file.
    fn name(&self, from: &Path, sequence: u32, recycled: bool) -> Result<Prepared, LogError> {
        let path = segment_path(self.directory, sequence);
        let (salt, index_file) = self.new_index(sequence)?;
        self.disk.rename(from, &path).map_err(|source| LogError::io("rename", from, None, source))?;
        self.open(path, sequence, recycled, (salt, index_file))
    }

    /// Takes over a prepared segment that an earlier process left; the caller has seen that its header is zeros, and
    /// behind it, too, if it is not `recycled`.
    pub fn adopt(&self, sequence: u32, recycled: bool) -> Result<Prepared, LogError> {
        let index = self.new_index(sequence)?;
        self.open(segment_path(self.directory, sequence), sequence, recycled, index)
    }

    fn open(
        &self,
        path: PathBuf,
        sequence: u32,
        recycled: bool,
        (salt, index_file): (u32, FileHandle),
    ) -> Result<Prepared, LogError> {
        let directory = self.directory;
        self.disk
            .sync_directory(directory)
            .map_err(|source| LogError::io("fsync", directory, None, source))?;
        let open = || {
            let file = self.disk.open(&path, self.mode)?;
            Ok((file.length()?, file))
        };
        let (capacity, file) = open().map_err(|source| LogError::io("open", &path, None, source))?;
        let index_path = index_path(directory, sequence);
        Ok(Prepared { sequence, capacity, salt, recycled, path, file, index_path, index_file })
    }

    /// A fresh index file, with a salt that no earlier life of the segment had.
    fn new_index(&self, sequence: u32) -> Result<(u32, FileHandle), LogError> {
        let path = index_path(self.directory, sequence);
        let salt =
            self.disk.random().map_err(|source| LogError::io("get random bytes for", &path, None, source))?;
        let file = index_file::replace(self.disk, &path, &index_file::encode_header(salt, sequence))?;
        Ok((salt, file))
    }
}

impl Prepared {
    /// Makes room for an entry that is larger than a segment. The space is only reserved - it reads as zeros - as the
    /// entry is written at once; but the length must be durable before a header can be that names it.
    pub fn grow(&mut self, capacity: u64) -> Result<(), LogError> {
        assert!(capacity > self.capacity, "segments only grow");
        let allocated = self.file.allocate(capacity);
        allocated.map_err(|source| LogError::io("allocate", &self.path, capacity, source))?;
        self.file.sync_all().map_err(|source| LogError::io("fsync", &self.path, None, source))?;
        self.capacity = capacity;
        Ok(())
    }
}

fn fill_with_zeros(file: &FileHandle, path: &Path, capacity: u64, stop: &AtomicBool) -> Result<(), LogError> {
    file.allocate(capacity).map_err(|source| LogError::io("allocate", path, capacity, source))?;
    let zeros = vec![0; ZERO_CHUNK_BYTES.min(capacity) as usize];
    let mut offset = 0;
    while offset < capacity {
        if stop.load(Ordering::Relaxed) {
            let source = std::io::Error::other("the log is being closed");
            return Err(LogError::io("go on with", path, offset, source));
        }
        let length = (zeros.len() as u64).min(capacity - offset);
        file.write_at(&zeros[..length as usize], offset)
            .map_err(|source| LogError::io("write zeros to", path, offset, source))?;
        offset += length;
        if offset % ZERO_SYNC_BYTES == 0 {
            file.sync_data().map_err(|source| LogError::io("fdatasync", path, offset, source))?;
        }
    }
    file.sync_all().map_err(|source| LogError::io("fsync", path, None, source))
}
