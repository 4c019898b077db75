//! The runner: seeds in worker processes, one for each core, so that a seed that ends its process ends nothing else.

use clap::Parser;
use redisraft_sim::runner::{self, Run};
use std::process::ExitCode;
use std::time::Duration;

/// Simulates clusters, one for each seed, and judges them.
#[derive(Parser)]
struct Arguments {
    /// Seeds to run, as FIRST..END (END not included).
    #[arg(long, value_parser = seeds, default_value = "0..200")]
    seeds: std::ops::Range<u64>,
    /// Run this seed alone and print all that happens.
    #[arg(long, conflicts_with = "minutes")]
    replay: Option<u64>,
    /// Go on with the seeds behind the range until this time is over.
    #[arg(long)]
    minutes: Option<u64>,
    /// Also run so many seeds that were never run before, by the clock of this machine.
    #[arg(long, default_value_t = 0)]
    fresh: u64,
    /// Also run the seeds in this file that have failed before: one a line, with its story behind it.
    #[arg(long)]
    kept: Option<std::path::PathBuf>,
    /// Worker processes; 0: one for each core.
    #[arg(long, default_value_t = 0)]
    jobs: usize,
    /// Stop at the first failure.
    #[arg(long)]
    fail_fast: bool,
    /// Run each seed twice and compare.
    #[arg(long)]
    twice: bool,
    /// Print what was seen as a table for docs/testing.md.
    #[arg(long)]
    table: bool,
    /// For this program itself: read seeds from the standard input, tell results on the standard output.
    #[arg(long, hide = true)]
    worker: bool,
}

fn seeds(text: &str) -> Result<std::ops::Range<u64>, String> {
    let (first, end) = text.split_once("..").ok_or("seeds are given as FIRST..END")?;
    let number = |text: &str| text.parse().map_err(|_| format!("'{text}' is not a number"));
    Ok(number(first)?..number(end)?)
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.worker {
        runner::work(arguments.twice);
        return ExitCode::SUCCESS;
    }
    if let Some(seed) = arguments.replay {
        runner::replay(seed);
        return ExitCode::SUCCESS;
    }
    let kept = match arguments.kept.as_deref().map(runner::read_seeds).transpose() {
        Ok(kept) => kept.unwrap_or_default(),
        Err(error) => {
            eprintln!("sim: {error}");
            return ExitCode::from(2);
        }
    };
    let run = Run {
        seeds: arguments.seeds,
        kept,
        fresh: arguments.fresh,
        duration: arguments.minutes.map(|minutes| Duration::from_secs(60 * minutes)),
        jobs: arguments.jobs,
        fail_fast: arguments.fail_fast,
        twice: arguments.twice,
        table: arguments.table,
    };
    match runner::run(run) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("sim: {error}");
            ExitCode::from(3)
        }
    }
}
