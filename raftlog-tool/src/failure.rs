//! Why a command ended early, and the exit code that says so.

use std::fmt;
use std::io;
use std::path::PathBuf;

use redisraft::log::LogError;
use redisraft::recover::RecoverError;
use redisraft::snapshot::SnapshotError;

/// Exit codes are part of the interface: scripts and monitoring rely on them.
pub const CLEAN: u8 = 0;
pub const DAMAGE: u8 = 1;
pub const USAGE: u8 = 2;
pub const INPUT_OUTPUT: u8 = 3;
pub const IN_USE: u8 = 4;
pub const NEWER: u8 = 5;
pub const LOSS: u8 = 6;

/// Why a command ended early.
#[derive(Debug)]
pub enum Failure {
    Log(LogError),
    Recover(RecoverError),
    Snapshot(Box<SnapshotError>),
    /// Stdout could not be written.
    Output(io::Error),
    /// Asked for something that cannot be done to this log.
    Usage(String),
    /// What an entry carries is not what it must be.
    Damage(String),
    /// A file of the tool's own.
    File {
        verb: &'static str,
        path: PathBuf,
        source: io::Error,
    },
}

impl Failure {
    pub fn exit_code(&self) -> u8 {
        match self {
            Failure::Log(error) => exit_code_of(error),
            Failure::Recover(error) => exit_code_of_recovery(error),
            Failure::Snapshot(error) if matches!(**error, SnapshotError::Io { .. }) => INPUT_OUTPUT,
            Failure::Snapshot(_) => DAMAGE,
            // Whoever reads has enough: `| head` is no failure.
            Failure::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => CLEAN,
            Failure::Output(_) | Failure::File { .. } => INPUT_OUTPUT,
            Failure::Usage(_) => USAGE,
            Failure::Damage(_) => DAMAGE,
        }
    }

    /// Whether the log is to blame, so that what could be read of it counts.
    pub fn is_of_the_log(&self) -> bool {
        matches!(self.exit_code(), DAMAGE | NEWER)
    }

    /// Whether there is nothing to say about it.
    pub fn is_silent(&self) -> bool {
        self.exit_code() == CLEAN
    }
}

pub fn exit_code_of(error: &LogError) -> u8 {
    match error {
        LogError::Corrupt { .. }
        | LogError::Damaged(_)
        | LogError::AnotherEntry { .. }
        | LogError::Foreign { .. }
        | LogError::MetaMissing { .. } => DAMAGE,
        LogError::NotALog { .. } | LogError::InvalidSegmentSize { .. } | LogError::OutOfRange { .. } => USAGE,
        LogError::Io { .. } | LogError::AlreadyExists { .. } | LogError::PayloadChanged { .. } => {
            INPUT_OUTPUT
        }
        LogError::InUse { .. } => IN_USE,
        LogError::NewerFormat { .. } => NEWER,
    }
}

fn exit_code_of_recovery(error: &RecoverError) -> u8 {
    match error {
        RecoverError::Log(error) => exit_code_of(error),
        RecoverError::Snapshot(SnapshotError::Io { .. }) => INPUT_OUTPUT,
        RecoverError::Snapshot(SnapshotError::NewerFormat { .. }) => NEWER,
        RecoverError::Damaged { .. }
        | RecoverError::Snapshot(_)
        | RecoverError::SnapshotMissing { .. }
        | RecoverError::Members { .. } => DAMAGE,
        RecoverError::NotAMember { .. }
        | RecoverError::MembersFile(_)
        | RecoverError::NoName { .. }
        | RecoverError::InTheWay { .. }
        | RecoverError::OtherDisk { .. } => USAGE,
        RecoverError::Io { .. } | RecoverError::HalfPlaced { .. } => INPUT_OUTPUT,
    }
}

/// Leaves damage aside: it is told later, behind what can be read.
pub fn despite_damage(result: Result<(), Failure>) -> Result<(), Failure> {
    match result {
        Err(failure) if failure.is_of_the_log() => Ok(()),
        other => other,
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Log(error) => error.fmt(f),
            Failure::Recover(error) => error.fmt(f),
            Failure::Snapshot(error) => error.fmt(f),
            Failure::Output(error) => write!(f, "cannot write to stdout: {error}; nothing was changed"),
            Failure::Usage(text) | Failure::Damage(text) => f.write_str(text),
            Failure::File { verb, path, source } => {
                write!(f, "cannot {verb} {}: {source}; check the disk and the permissions", path.display())
            }
        }
    }
}

impl From<LogError> for Failure {
    fn from(error: LogError) -> Failure {
        Failure::Log(error)
    }
}

impl From<RecoverError> for Failure {
    fn from(error: RecoverError) -> Failure {
        Failure::Recover(error)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        Failure::Output(error)
    }
}

impl From<serde_json::Error> for Failure {
    fn from(error: serde_json::Error) -> Failure {
        Failure::Output(error.into())
    }
}
