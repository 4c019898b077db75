//! Purged segments wait here for their next life, as `<n>.free`: their space is there already, so that making a
//! segment of one costs a block of zeros instead of a whole file of them.

use std::ops::Range;
use std::path::{Path, PathBuf};

use super::disk::{Disk, Mode};
use super::error::LogError;
use super::segment::{free_path, index_path, parse_file_name, segment_path, FileName};
use crate::limits::LOG_FREE_SEGMENTS;

/// The free files of a log's directory.
pub struct Pool {
    directory: PathBuf,
    /// `None`: not looked for yet. Invariant: all of them are durable under this name, and under no other.
    free: Option<Vec<PathBuf>>,
    /// Renamed, and the name not durable yet.
    renamed: Vec<PathBuf>,
    /// The first segment of those whose putting away was begun and failed.
    unfinished: Option<u32>,
}

impl Pool {
    pub fn new(directory: &Path) -> Pool {
        Pool { directory: directory.to_path_buf(), free: None, renamed: Vec::new(), unfinished: None }
    }

    /// What an earlier process left is looked for once.
    fn free(&mut self, disk: &dyn Disk) -> Result<&mut Vec<PathBuf>, LogError> {
        if self.free.is_none() {
            let directory = &self.directory;
            let names =
                disk.list(directory).map_err(|source| LogError::io("list", directory, None, source))?;
            let is_free = |name: &String| matches!(parse_file_name(name), FileName::Free(_));
            let mut free: Vec<_> =
                names.iter().filter(|name| is_free(name)).map(|name| directory.join(name)).collect();
            free.sort();
            for surplus in free.drain(LOG_FREE_SEGMENTS.min(free.len())..) {
                remove(disk, &surplus)?;
            }
            // Put away, perhaps, just before a crash.
            disk.sync_directory(directory)
                .map_err(|source| LogError::io("fsync", directory, None, source))?;
            self.free = Some(free);
        }
        Ok(self.free.as_mut().expect("just looked for"))
    }

    /// Takes a free file of `capacity` bytes; those of another length are removed.
    pub fn take(&mut self, disk: &dyn Disk, capacity: u64) -> Result<Option<PathBuf>, LogError> {
        let free = self.free(disk)?;
        while let Some(path) = free.pop() {
            if length(disk, &path)? == capacity {
                return Ok(Some(path));
            }
            remove(disk, &path)?;
        }
        Ok(None)
    }

    /// Takes purged segments out of the log's directory: the first ones of `capacity` bytes into the pool, up to
    /// its limit. What fails is tried again with the next ones, or by the next start.
    pub fn put_away(
        &mut self,
        disk: &dyn Disk,
        sequences: Range<u32>,
        capacity: u64,
    ) -> Result<(), LogError> {
        let first = self.unfinished.map_or(sequences.start, |first| first.min(sequences.start));
        self.unfinished = Some(first);
        for sequence in first..sequences.end {
            self.put_one_away(disk, sequence, capacity)?;
        }
        let directory = &self.directory;
        disk.sync_directory(directory).map_err(|source| LogError::io("fsync", directory, None, source))?;
        let renamed = std::mem::take(&mut self.renamed);
        self.free(disk)?.extend(renamed);
        self.unfinished = None;
        Ok(())
    }

    fn put_one_away(&mut self, disk: &dyn Disk, sequence: u32, capacity: u64) -> Result<(), LogError> {
        let segment = segment_path(&self.directory, sequence);
        let index = index_path(&self.directory, sequence);
        // The index first: one without its segment would name records that are missing.
        if disk.exists(&index) {
            remove(disk, &index)?;
        }
        if !disk.exists(&segment) {
            return Ok(());
        }
        let waiting = self.free(disk)?.len() + self.renamed.len();
        if waiting < LOG_FREE_SEGMENTS && length(disk, &segment)? == capacity {
            let free = free_path(&self.directory, sequence);
            disk.rename(&segment, &free).map_err(|source| LogError::io("rename", &segment, None, source))?;
            self.renamed.push(free);
            return Ok(());
        }
        remove(disk, &segment)
    }
}

fn length(disk: &dyn Disk, path: &Path) -> Result<u64, LogError> {
    let file = disk.open(path, Mode::Read).map_err(|source| LogError::io("open", path, None, source))?;
    file.length().map_err(|source| LogError::io("find the length of", path, None, source))
}

fn remove(disk: &dyn Disk, path: &Path) -> Result<(), LogError> {
    disk.remove(path).map_err(|source| LogError::io("remove", path, None, source))
}
