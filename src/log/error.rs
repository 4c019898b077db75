//! What can go wrong with a log: every variant names the file, the place in it, and what to do.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::hole::Hole;
use super::record::Kind;

/// An error of the log. Cloneable, because a failed write or sync is final and is told to everyone who asks.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LogError {
    #[error("cannot {operation} {}{}: {source}; {}", .file.display(), At(*.offset), io_advice(.source))]
    Io {
        /// The verb, as in "cannot write".
        operation: &'static str,
        file: PathBuf,
        offset: Option<u64>,
        source: Arc<io::Error>,
    },
    #[error(
        "log {} is in use{}; stop that server, or give this one another raft.log-filename",
        .directory.display(), Holder(*.holder)
    )]
    InUse {
        directory: PathBuf,
        /// Process id of the holder, when it could be found out.
        holder: Option<u32>,
    },
    #[error("{} holds no log (no META file in it); create one with RAFT.CLUSTER INIT or JOIN", .directory.display())]
    NotALog { directory: PathBuf },
    #[error("{} already holds a log; open it, or choose another raft.log-filename", .directory.display())]
    AlreadyExists { directory: PathBuf },
    #[error(
        "{} is a segment of a log but there is no META beside it; restore META from where it went, or move the \
         directory away to start anew",
        .file.display()
    )]
    MetaMissing { file: PathBuf },
    #[error("{} at offset {offset}{}: damaged: expected {expected}, found {found}; {advice}", .file.display(), Entry(*.index))]
    Corrupt {
        file: PathBuf,
        offset: u64,
        /// The entry concerned, when there is one.
        index: Option<u64>,
        expected: String,
        found: String,
        advice: String,
    },
    /// Met while the log was in use: a peer's copy can be put in its place.
    #[error("{0}; waiting for a copy from another node")]
    Damaged(Box<Hole>),
    #[error(
        "{} at offset {offset}: entry {index} was lost and is not filled with another one: expected {expected}, found \
         {found}; ask another node for it",
        .file.display()
    )]
    AnotherEntry { file: PathBuf, offset: u64, index: u64, expected: String, found: String },
    #[error(
        "{} at offset {offset}: does not belong to this log: expected {expected}, found {found}; put back the \
         file that belongs here, or restore the whole directory",
        .file.display()
    )]
    Foreign { file: PathBuf, offset: u64, expected: String, found: String },
    #[error(
        "{} at offset {offset}: written in a newer format ({what} {found}, this program knows {known}); use the \
         newer program",
        .file.display()
    )]
    NewerFormat { file: PathBuf, offset: u64, what: &'static str, found: u64, known: u64 },
    #[error("entry {index} is not in the log {}, which holds {first}..={last}", .directory.display())]
    OutOfRange { directory: PathBuf, index: u64, first: u64, last: u64 },
    #[error(
        "entry {index}: its payload does not match its checksum (expected {expected:08x}, found {found:08x}), so \
         it changed in memory or on the wire and is not written to {}; check this machine's memory",
        .file.display()
    )]
    PayloadChanged { file: PathBuf, index: u64, expected: u32, found: u32 },
    #[error("log {}: segments of {segment_bytes} bytes are not supported, choose {min} to {max}", .directory.display())]
    InvalidSegmentSize { directory: PathBuf, segment_bytes: u64, min: u64, max: u64 },
}

impl LogError {
    /// Whether the disk was full, or the user's share of it.
    pub(super) fn is_for_want_of_space(&self) -> bool {
        let LogError::Io { source, .. } = self else { return false };
        matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
    }

    pub(super) fn io(
        operation: &'static str,
        file: &Path,
        offset: impl Into<Option<u64>>,
        source: io::Error,
    ) -> LogError {
        LogError::Io { operation, file: file.to_path_buf(), offset: offset.into(), source: Arc::new(source) }
    }

    /// Damage in `file`; the advice names the command that shows it in full.
    pub(super) fn corrupt(
        file: &Path,
        offset: u64,
        index: Option<u64>,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> LogError {
        let directory = file.parent().unwrap_or(file).display();
        let advice = format!(
            "nothing was changed; run `raftlog-tool verify {directory}`, then restore the file, or remove this \
             node from the cluster and let it join anew with an empty directory"
        );
        LogError::Corrupt {
            file: file.to_path_buf(),
            offset,
            index,
            expected: expected.into(),
            found: found.into(),
            advice,
        }
    }
}

fn io_advice(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "free space on this disk",
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            "make the directory writable for this user"
        }
        io::ErrorKind::NotFound => "check raft.log-filename and the server's dir",
        _ => "check the disk and the kernel log before starting again",
    }
}

/// " at offset 4096", or nothing.
struct At(Option<u64>);
impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |offset| write!(f, " at offset {offset}"))
    }
}

/// " (entry 17)", or nothing.
struct Entry(Option<u64>);
impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |index| write!(f, " (entry {index})"))
    }
}

/// " by process 4711", or nothing.
struct Holder(Option<u32>);
impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |pid| write!(f, " by process {pid}"))
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Normal => "normal",
            Kind::NoOp => "no-op",
            Kind::Membership => "membership",
        })
    }
}
