//! Snapshots that are being read: their files can be read on after they have lost their names.

use super::about::Id;
use crate::log::disk::FileHandle;
use std::collections::BTreeSet;

struct OpenFile {
    id: Id,
    file: FileHandle,
    /// Those that have read some of it and not all.
    readers: BTreeSet<u64>,
}

/// Invariant: who reads, reads one snapshot.
#[derive(Default)]
pub(super) struct Readers(Vec<OpenFile>);

impl Readers {
    /// The file, for `reader`, which has done with all others.
    pub fn file(&mut self, id: Id, reader: u64) -> Option<FileHandle> {
        for other in self.0.iter_mut().filter(|open| open.id != id) {
            other.readers.remove(&reader);
        }
        let open = self.0.iter_mut().find(|open| open.id == id)?;
        open.readers.insert(reader);
        Some(open.file.clone())
    }

    pub fn opened(&mut self, id: Id, file: FileHandle, reader: u64) {
        self.0.push(OpenFile { id, file, readers: BTreeSet::from([reader]) });
    }

    /// `reader` has read the end.
    pub fn finished(&mut self, id: Id, reader: u64) {
        if let Some(open) = self.0.iter_mut().find(|open| open.id == id) {
            open.readers.remove(&reader);
        }
    }

    /// A snapshot has taken the place of `former`: whoever reads one that is older still has had its time.
    pub fn replaced(&mut self, former: Option<Id>) {
        for open in self.0.iter_mut().filter(|open| Some(open.id) != former) {
            open.readers.clear();
        }
    }

    /// Closes what nobody reads.
    pub fn close_idle(&mut self) -> Vec<(Id, FileHandle)> {
        let is_read = |open: &OpenFile| !open.readers.is_empty();
        let (read, idle) = std::mem::take(&mut self.0).into_iter().partition(is_read);
        self.0 = read;
        idle.into_iter().map(|open| (open.id, open.file)).collect()
    }
}
