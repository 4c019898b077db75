//! Removing files of any size without holding up the log beside them.
//!
//! A file system frees a whole file in one go when its last name and its last user are gone, and whatever is synced
//! meanwhile waits: the log stood still for a quarter of a second for each GiB. So a file gives its space back from
//! its end, a little at a time.

use crate::log::disk::{Disk, FileHandle, Mode};
use std::io;
use std::path::Path;
use std::time::Duration;

/// Given back at once.
const STEP_BYTES: u64 = 4 << 20;
/// Between two steps.
pub const STEP_PAUSE: Duration = Duration::from_millis(3);

/// Files that have lost their names.
#[derive(Default)]
pub(super) struct Removal(Vec<FileHandle>);

impl Removal {
    /// Takes the name away. Whoever of this program uses the file still will [`add`](Removal::add) it when that is over.
    ///
    /// Errors: the disk's; the file has its name then.
    pub fn unlink(&mut self, disk: &dyn Disk, path: &Path) -> io::Result<()> {
        let file = disk.open(path, Mode::Write);
        disk.remove(path)?;
        self.0.extend(file); // what cannot be opened goes whole
        Ok(())
    }

    pub fn add(&mut self, file: FileHandle) {
        self.0.push(file);
    }

    pub fn is_done(&self) -> bool {
        self.0.is_empty()
    }

    pub fn step(&mut self) {
        let Some(file) = self.0.last() else { return };
        let left = file.length().map_or(0, |length| length.saturating_sub(STEP_BYTES));
        // What has another name, or is being read or copied, stays as long as that; it is not cut.
        if left == 0 || file.give_back(left).is_err() {
            self.0.pop();
        }
    }
}
