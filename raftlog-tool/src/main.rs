//! `raftlog-tool`: looks into the log of a node, stopped or running, and never changes it.
//!
//! Data goes to stdout, diagnostics to stderr. Exit codes are part of the interface: see [`EXIT_CODES`].

mod dump;
mod effects;
mod holder;
mod verify;

use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use redisraft::log::LogError;

const EXIT_CODES: &str = "\
Exit codes:
  0  clean
  1  damage: records that were acknowledged cannot be read, or do not belong to this log
  2  wrong usage, or no log in DIR
  3  a file could not be read
  4  the log is in use (commands that need its lock)
  5  written in a newer format: use the newer tool

Both commands work beside a running server: they take no lock and change nothing.";

#[derive(Parser)]
#[command(name = "raftlog-tool", version, about = "Looks into the Raft log of a redis-raft node", after_help = EXIT_CODES)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Print the entries of a log, with the effects they carry as commands
    #[command(after_help = "\
Examples:
  raftlog-tool dump --last 10 raftlog
  raftlog-tool dump --json --from 100 --to 200 raftlog | jq .commands
  raftlog-tool dump --headers raftlog      every record as it stands in the files, truncated ones too")]
    Dump(DumpArguments),
    /// Read the whole log and check every checksum, chain and identity
    #[command(after_help = EXIT_CODES)]
    Verify(VerifyArguments),
}

#[derive(Args)]
struct DumpArguments {
    /// One JSON object per line, each with "schema": 1
    #[arg(long)]
    json: bool,
    /// First index to print
    #[arg(long, value_name = "N")]
    from: Option<u64>,
    /// Last index to print
    #[arg(long, value_name = "N")]
    to: Option<u64>,
    /// Print only the last N entries
    #[arg(long, value_name = "N", conflicts_with_all = ["from", "to"])]
    last: Option<u64>,
    /// Print every record with its file and offset - truncated entries, marks, truncations and seals too - but no
    /// payloads
    #[arg(long)]
    headers: bool,
    /// The directory of the log (raft.log-filename)
    directory: PathBuf,
}

#[derive(Args)]
struct VerifyArguments {
    /// One JSON object per line, each with "schema": 1
    #[arg(long)]
    json: bool,
    /// The directory of the log (raft.log-filename)
    directory: PathBuf,
}

/// Why a command ended early.
enum Failure {
    Log(LogError),
    Output(io::Error),
}

impl From<LogError> for Failure {
    fn from(error: LogError) -> Failure {
        Failure::Log(error)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        Failure::Output(error)
    }
}

/// Version of the JSON objects; grows when a field changes its meaning or goes away.
const JSON_SCHEMA: u64 = 1;

fn exit_code_of(error: &LogError) -> u8 {
    match error {
        LogError::Corrupt { .. }
        | LogError::Damaged(_)
        | LogError::Foreign { .. }
        | LogError::MetaMissing { .. } => 1,
        LogError::NotALog { .. } | LogError::InvalidSegmentSize { .. } | LogError::OutOfRange { .. } => 2,
        LogError::Io { .. } | LogError::AlreadyExists { .. } | LogError::PayloadChanged { .. } => 3,
        LogError::InUse { .. } => 4,
        LogError::NewerFormat { .. } => 5,
    }
}

fn main() -> ExitCode {
    let command_line = CommandLine::parse();
    let mut output = BufWriter::new(io::stdout().lock());
    let result = match command_line.command {
        Command::Dump(arguments) => dump::run(&arguments, &mut output),
        Command::Verify(arguments) => verify::run(&arguments, &mut output),
    };
    match result.and_then(|code| output.flush().map(|()| code).map_err(Failure::Output)) {
        Ok(code) => ExitCode::from(code),
        // Whoever reads has enough: `| head` is no failure.
        Err(Failure::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(Failure::Output(error)) => {
            eprintln!("raftlog-tool: cannot write to stdout: {error}");
            ExitCode::from(3)
        }
        Err(Failure::Log(error)) => {
            eprintln!("raftlog-tool: {error}");
            ExitCode::from(exit_code_of(&error))
        }
    }
}
