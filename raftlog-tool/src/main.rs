//! `raftlog-tool`: looks into the log of a node, stopped or running.
//!
//! Data goes to stdout, diagnostics to stderr. Exit codes are part of the interface: see `failure.rs`.

mod cli;
mod deep;
mod diff;
mod dump;
mod effects;
mod export;
mod failure;
mod find;
mod follow;
mod generate;
mod glob;
mod holder;
mod lock;
mod meta;
mod object;
mod progress;
mod recover;
mod repair;
mod resp_stream;
mod select;
mod snapshots;
mod source;
mod stat;
mod text;
mod verify;

use std::io::{self, stdout, BufWriter, Write};
use std::process::ExitCode;

use anstream::AutoStream;
use clap::{ColorChoice, Parser};

use cli::{Command, CommandLine};
use failure::Failure;
use text::Output;

fn main() -> ExitCode {
    let command_line = CommandLine::parse();
    let choice = match command_line.color {
        ColorChoice::Auto => anstream::ColorChoice::Auto,
        ColorChoice::Always => anstream::ColorChoice::Always,
        ColorChoice::Never => anstream::ColorChoice::Never,
    };
    choice.write_global();
    let colour = AutoStream::choice(&stdout()) != anstream::ColorChoice::Never;
    let mut writer = BufWriter::with_capacity(1 << 16, stdout().lock());
    let mut output = Output { writer: &mut writer, colour };
    let result = run(&command_line.command, &mut output);
    match result.and_then(|code| output.flush().map(|()| code).map_err(Failure::Output)) {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            // What was printed before stands before the complaint, where both go to one place.
            let flushed = output.flush();
            if !failure.is_silent() && !is_broken_pipe(&flushed) {
                let style = text::BAD;
                anstream::eprintln!("{style}raftlog-tool:{style:#} {failure}");
            }
            ExitCode::from(failure.exit_code())
        }
    }
}

fn is_broken_pipe(result: &io::Result<()>) -> bool {
    result.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

fn run(command: &Command, output: &mut Output) -> Result<u8, Failure> {
    match command {
        Command::Dump(arguments) => dump::run(arguments, output),
        Command::Verify(arguments) => verify::run(arguments, output),
        Command::Stat(arguments) => stat::run(arguments, output),
        Command::Find(arguments) => find::run(arguments, output),
        Command::Diff(arguments) => diff::run(arguments, output),
        Command::Meta(arguments) => meta::run(arguments, output),
        Command::Export(arguments) => export::run(arguments, output),
        Command::Repair(arguments) => repair::run(arguments, output),
        Command::Recover(arguments) => recover::run(arguments, output),
        Command::Completions(arguments) => generate::completions(arguments, output),
        Command::Man(arguments) => generate::manual(arguments, output),
    }
}
