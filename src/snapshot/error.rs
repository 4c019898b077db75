//! What can go wrong with a snapshot: which file, what was expected, what to do.

use std::io;
use std::path::{Path, PathBuf};

#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    #[error("cannot {operation} {}: {source}", .file.display())]
    Io {
        /// The verb, as in "cannot write".
        operation: &'static str,
        file: PathBuf,
        source: io::Error,
    },
    #[error(
        "{} at offset {offset}: damaged: expected {expected}, found {found}; restore the file, or move the node's \
         log directory away and let it join anew",
        .file.display()
    )]
    Damaged { file: PathBuf, offset: u64, expected: String, found: String },
    #[error(
        "the server's dump {} is damaged at offset {offset}: expected {expected}, found {found}; it is not kept: if the \
         next one is damaged, too, look at the memory and the disk of this machine",
        .file.display()
    )]
    Dump { file: PathBuf, offset: u64, expected: String, found: String },
    #[error("{} belongs to another cluster: expected {expected}, found {found}", .file.display())]
    Foreign { file: PathBuf, expected: String, found: String },
    #[error("{}: written in a newer format (version {found}, this program knows {known}); use the newer program", .file.display())]
    NewerFormat { file: PathBuf, found: u32, known: u32 },
    #[error("a snapshot of entry {index} of term {term} is there already")]
    Exists { index: u64, term: u64 },
    #[error("a snapshot of entry {newest} is there already, later than {index}")]
    Older { index: u64, newest: u64 },
    #[error("snapshot {index}-{term} is not here any more")]
    Gone { index: u64, term: u64 },
    #[error("a part of a snapshot came out of order: expected offset {expected}, found {found}")]
    OutOfOrder { expected: u64, found: u64 },
    #[error("the snapshot that was sent is damaged: expected crc {expected:08x}, found {found:08x}")]
    Received { expected: u32, found: u32 },
}

impl SnapshotError {
    /// For `map_err`: the operation that failed, and on which file.
    pub(super) fn io<'a>(
        operation: &'static str,
        file: &'a Path,
    ) -> impl FnOnce(io::Error) -> SnapshotError + 'a {
        move |source| SnapshotError::Io { operation, file: file.to_path_buf(), source }
    }

    pub(super) fn damaged(
        file: &Path,
        offset: u64,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> SnapshotError {
        let (expected, found) = (expected.into(), found.into());
        SnapshotError::Damaged { file: file.to_path_buf(), offset, expected, found }
    }
}
