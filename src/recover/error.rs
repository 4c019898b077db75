//! Why nothing was recovered: which file, what was found, what to do.

use super::members_file::MembersFileError;
use crate::consensus::NodeId;
use crate::log::LogError;
use crate::node::members::MembersError;
use crate::snapshot::SnapshotError;
use std::io;
use std::path::{Path, PathBuf};

#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    #[error(transparent)]
    Log(#[from] LogError),
    #[error("{source}. Nothing is recovered from a damaged log: `raftlog-tool repair {}` says what can be mended", .directory.display())]
    Damaged { directory: PathBuf, source: Box<LogError> },
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    #[error(
        "{}: the log begins behind entry {base}, and there is no intact snapshot of it or of a later one: put the \
         snapshot-*.rdb and its .about back, or recover another node",
        .directory.display()
    )]
    SnapshotMissing { directory: PathBuf, base: u64 },
    #[error("{}: entry {index}: {source}; recover another node", .file.display())]
    Members { file: PathBuf, index: u64, source: MembersError },
    #[error(
        "{}: the newest membership in this log ({members}) does not name this node, {id}: it was removed, or never \
         learnt that it was a member. Recover another node; or, if there is none, say where this one is to be reached \
         by --members",
        .directory.display()
    )]
    NotAMember { directory: PathBuf, id: NodeId, members: String },
    #[error("{0}")]
    MembersFile(#[from] MembersFileError),
    #[error("{} has no name beside which another directory could be made: name the directory itself", .directory.display())]
    NoName { directory: PathBuf },
    #[error("{} is there already, from an earlier recovery: move it away first", .path.display())]
    InTheWay { path: PathBuf },
    #[error("cannot {operation} {}: {source}", .file.display())]
    Io {
        /// The verb, as in "cannot write".
        operation: &'static str,
        file: PathBuf,
        source: io::Error,
    },
    #[error("{} is not on the disk of {}: name a directory there, as the log is moved and not copied", .backup.display(), .directory.display())]
    OtherDisk { directory: PathBuf, backup: PathBuf },
    #[error(
        "{reason}. The log as it was is in {}, what was made of it in {}, or in {} already. If there is no {}, run the \
         command again to finish, or rename the log back",
        .kept.display(), .made.display(), .directory.display(), .directory.display()
    )]
    HalfPlaced { made: PathBuf, directory: PathBuf, kept: PathBuf, reason: String },
}

impl RecoverError {
    /// For `map_err`: the operation that failed, and on which file.
    pub(super) fn io<'p>(
        operation: &'static str,
        file: &'p Path,
    ) -> impl FnOnce(io::Error) -> RecoverError + 'p {
        move |source| RecoverError::Io { operation, file: file.to_path_buf(), source }
    }
}
