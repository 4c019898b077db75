//! The runner: plans one after the other, each from its own seed, until the time is over or one fails.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::Parser;
use redisraft_chaos::plan::{Plan, Scale};
use redisraft_chaos::round;
use redisraft_chaos::summary::Summary;

/// Breaks real clusters and judges what their clients saw.
#[derive(Parser)]
struct Arguments {
    /// Run the plan of this seed alone.
    #[arg(long)]
    seed: Option<u64>,
    /// Run plans for so long; without it and without --seed: one.
    #[arg(long, conflicts_with = "seed")]
    minutes: Option<u64>,
    /// The first seed of a longer run; by default from the clock.
    #[arg(long, conflicts_with = "seed")]
    first: Option<u64>,
    /// Print the plan of each seed.
    #[arg(long)]
    plan: bool,
    /// Nodes at the beginning; by default 3 or 5 by the seed.
    #[arg(long)]
    nodes: Option<usize>,
    /// Rounds of each plan: faults, then none, then the judge.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// How long a round has faults.
    #[arg(long, default_value_t = 15)]
    round_seconds: u64,
    /// Most clients.
    #[arg(long, default_value_t = 10)]
    clients: u64,
    /// How long a cluster may take to serve and to agree after its faults.
    #[arg(long, default_value_t = 60)]
    bound_seconds: u64,
    /// Where runs have their directories; that of a run that fails stays.
    #[arg(long, default_value = "target/chaos")]
    directory: PathBuf,
}

/// Runs of this length must have had everything at least once.
const LONG: Duration = Duration::from_secs(20 * 60);

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let scale = Scale {
        nodes: arguments.nodes,
        rounds: arguments.rounds,
        round_ms: 1000 * arguments.round_seconds,
        clients: arguments.clients.max(1),
    };
    let duration = Duration::from_secs(60 * arguments.minutes.unwrap_or(0));
    let clock = SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| since.as_secs());
    let mut seed = arguments.seed.or(arguments.first).unwrap_or(clock);
    let (started, mut summary) = (Instant::now(), Summary::default());
    loop {
        let plan = Plan::draw(seed, &scale);
        println!("seed {seed}: {} nodes, {}", plan.nodes, plan.kinds().join(", "));
        if arguments.plan {
            print!("{plan}");
        }
        let bound = Duration::from_secs(arguments.bound_seconds);
        if let Err(failure) = round::run(&plan, &arguments.directory, bound, &mut summary) {
            println!("{summary}\n{failure}");
            return ExitCode::FAILURE;
        }
        if started.elapsed() >= duration {
            break;
        }
        seed += 1;
    }
    println!("{summary}");
    match summary.prove(duration >= LONG) {
        Ok(()) => ExitCode::SUCCESS,
        Err(violation) => {
            println!("FAILED: {violation}");
            ExitCode::FAILURE
        }
    }
}
