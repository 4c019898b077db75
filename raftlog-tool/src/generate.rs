//! `completions` and `man`: made from the one definition of commands and flags.

use clap::CommandFactory;

use crate::cli::{CommandLine, CompletionsArguments, ManArguments};
use crate::failure::{Failure, CLEAN};
use crate::text::Output;

pub fn completions(arguments: &CompletionsArguments, output: &mut Output) -> Result<u8, Failure> {
    // Into memory first: the generator panics where it cannot write.
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut CommandLine::command(), "raftlog-tool", &mut script);
    output.writer.write_all(&script)?;
    Ok(CLEAN)
}

pub fn manual(arguments: &ManArguments, output: &mut Output) -> Result<u8, Failure> {
    let mut command = CommandLine::command();
    command.build();
    let page = match &arguments.command {
        None => command,
        Some(name) => {
            let found = command.find_subcommand(name);
            let unknown = || Failure::Usage(format!("there is no command {name}: see `raftlog-tool --help`"));
            found.ok_or_else(unknown)?.clone()
        }
    };
    clap_mangen::Man::new(page).render(output.writer)?;
    Ok(CLEAN)
}
