//! What a store is asked, and what it answers.

use super::about::{About, Id};
use super::error::SnapshotError;
use bytes::Bytes;
use std::path::PathBuf;

/// A snapshot to be made of an RDB that the server has written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draft {
    pub index: u64,
    pub term: u64,
    pub members: Bytes,
    pub used_ids: Vec<u64>,
}

/// One piece of work; all of them may wait for the disk. Jobs are done in order.
#[derive(Debug)]
pub enum Job {
    /// Take the file over as the newest snapshot; older ones are removed afterwards.
    Keep { source: PathBuf, draft: Draft },
    /// Remove a file that the server wrote for nothing; it is no error if it is not there.
    Discard { file: PathBuf },
    /// Read a part, for `reader`, a number of the caller's.
    Read { reader: u64, id: Id, offset: u64, bytes: usize },
    /// Read the newest one whole and compare its checksum: it was sent, and arrived as another.
    Check { id: Id },
    /// The newest one was read whole, and its checksum is right.
    Proven,
    /// A peer will send this one. Whatever was being received is dropped.
    Receive { about: Box<About> },
    /// Drop what was being received.
    StopReceiving,
    /// The next part of it.
    Part { id: Id, offset: u64, bytes: Bytes },
}

/// The answer to a job.
#[derive(Debug)]
pub enum Done {
    /// `Keep`: the newest snapshot now, or why it is the old one still.
    Kept {
        result: Result<About, SnapshotError>,
    },
    Read {
        reader: u64,
        id: Id,
        offset: u64,
        result: Result<Bytes, SnapshotError>,
    },
    Checked {
        id: Id,
        result: Result<(), SnapshotError>,
    },
    /// All up to `through` is written; with the last part the snapshot has become the newest one (`complete`), or
    /// was dropped because of its checksum.
    Parted {
        id: Id,
        through: u64,
        result: Result<bool, SnapshotError>,
    },
}
