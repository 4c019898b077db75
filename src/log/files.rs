//! Segment files that were read lately, kept open.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, Mutex};

use super::disk::{Disk, FileHandle, Mode};
use super::error::LogError;

/// Readers of the log's past are few; each reads on where it was.
const MAX_OPEN_FILES: usize = 16;

/// Opens segments for reading, and keeps those open that were asked for last.
pub struct ReadFiles {
    disk: Arc<dyn Disk>,
    /// The one asked for last is the first.
    open: Mutex<VecDeque<(u32, FileHandle)>>,
}

impl ReadFiles {
    pub fn new(disk: Arc<dyn Disk>) -> ReadFiles {
        ReadFiles { disk, open: Mutex::default() }
    }

    /// Segment `sequence`, which stands at `path`.
    pub fn get(&self, sequence: u32, path: &Path) -> Result<FileHandle, LogError> {
        let mut open = self.open.lock().expect("no thread of the log panics");
        if let Some(position) = open.iter().position(|(other, _)| *other == sequence) {
            open.swap(0, position);
            return Ok(open[0].1.clone());
        }
        let file =
            self.disk.open(path, Mode::Read).map_err(|source| LogError::io("open", path, None, source))?;
        open.truncate(MAX_OPEN_FILES - 1);
        open.push_front((sequence, file.clone()));
        Ok(file)
    }

    /// Closes what stands before segment `first`: the space of a file that was removed is free only then.
    pub fn forget_before(&self, first: u32) {
        self.open.lock().expect("no thread of the log panics").retain(|(sequence, _)| *sequence >= first);
    }
}
