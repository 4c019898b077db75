//! A snapshot that a peer sends, part by part.

use super::about::{About, Id};
use super::error::SnapshotError;
use crate::log::disk::{Disk, FileHandle, Mode};
use std::path::{Path, PathBuf};

/// The disk is given this much at a time: a whole dump at once would hold up what the log writes meanwhile.
pub(super) const SYNC_BYTES: u64 = 16 << 20;

/// Invariant: the first `through` bytes are in the file, and `crc` is theirs.
pub(super) struct Receiving {
    about: About,
    path: PathBuf,
    file: Option<FileHandle>,
    through: u64,
    crc: crc32fast::Hasher,
}

impl Receiving {
    pub fn new(about: About, path: PathBuf) -> Receiving {
        Receiving { about, path, file: None, through: 0, crc: crc32fast::Hasher::new() }
    }

    pub fn id(&self) -> Id {
        self.about.id
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn has_begun(&self) -> bool {
        self.file.is_some()
    }

    /// Writes the next part; true when it was the last. A part that came before is no error and changes nothing.
    pub fn write(&mut self, disk: &dyn Disk, offset: u64, bytes: &[u8]) -> Result<bool, SnapshotError> {
        let end = offset.saturating_add(bytes.len() as u64);
        if end <= self.through && self.file.is_some() {
            return Ok(false);
        }
        if offset != self.through || end > self.about.id.bytes {
            return Err(SnapshotError::OutOfOrder { expected: self.through, found: offset });
        }
        let file = match &self.file {
            Some(file) => file,
            None => {
                let file = disk
                    .open(&self.path, Mode::CreateNew)
                    .map_err(SnapshotError::io("create", &self.path))?;
                self.file.insert(file)
            }
        };
        file.write_at(bytes, offset).map_err(SnapshotError::io("write", &self.path))?;
        if end / SYNC_BYTES > offset / SYNC_BYTES {
            file.sync_data().map_err(SnapshotError::io("fdatasync", &self.path))?;
        }
        self.crc.update(bytes);
        self.through = end;
        Ok(self.through == self.about.id.bytes)
    }

    /// All is there: durable and as announced, or an error.
    pub fn finish(self) -> Result<About, SnapshotError> {
        let (expected, found) = (self.about.id.crc, self.crc.finalize());
        if found != expected {
            return Err(SnapshotError::Received { expected, found });
        }
        if let Some(file) = self.file {
            file.sync_all().map_err(SnapshotError::io("fsync", &self.path))?;
        }
        Ok(self.about)
    }
}
