//! Hands seeds to worker processes, gathers what they found, and says whether the run proves anything.

use crate::{coverage, trace, Simulation};
use std::collections::{BTreeMap, VecDeque};
use std::io::{self, BufRead, BufReader, Write};
use std::ops::Range;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A run of fewer seeds may miss a mark by chance.
const SEEDS_FOR_COVERAGE: u64 = 200;
/// From here on what is rare must have been seen, too.
const SEEDS_FOR_RARE: u64 = 5_000;
/// Lines of a failure that are shown.
const SHOWN_LINES: usize = 40;

/// What to run.
pub struct Run {
    pub seeds: Range<u64>,
    pub kept: Vec<u64>,
    pub fresh: u64,
    /// Go on behind the range for so long.
    pub duration: Option<Duration>,
    /// 0: one for each core.
    pub jobs: usize,
    pub fail_fast: bool,
    pub twice: bool,
    /// The marks are printed as a table for the documents.
    pub table: bool,
}

/// The first word of each line; empty lines and those that begin with `#` are comments.
pub fn read_seeds(path: &Path) -> Result<Vec<u64>, String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let lines = text.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#'));
    let seed = |line: &str| {
        let word = line.split_whitespace().next().unwrap_or_default();
        word.parse().map_err(|_| format!("{}: '{word}' is not a seed", path.display()))
    };
    lines.map(seed).collect()
}

/// Prints everything that happens in one seed.
pub fn replay(seed: u64) {
    trace::print(log::LevelFilter::Trace);
    let mut simulation = Simulation::new(seed);
    eprintln!("{:#?}", simulation.plan);
    simulation.run();
    println!("seed {seed}: fingerprint {:016x}\n{}", simulation.fingerprint, simulation.describe());
}

/// The life of a worker: a seed on each line that comes in, a result on each that goes out.
pub fn work(twice: bool) {
    let mut output = io::stdout();
    for line in io::stdin().lines() {
        let seed: u64 = line.expect("a line").trim().parse().expect("a seed");
        let mut simulation = Simulation::new(seed);
        simulation.run();
        let marks: Vec<String> =
            coverage::take().iter().map(|(name, count)| format!("{count} {name}")).collect();
        if twice {
            let mut again = Simulation::new(seed);
            again.run();
            coverage::take();
            assert_eq!(again.fingerprint, simulation.fingerprint, "seed {seed} has two histories");
        }
        let operations = simulation.history.answered + simulation.history.unknown;
        let entries = simulation.judge.committed();
        writeln!(output, "{operations}\t{entries}\t{}", marks.join("\t")).expect("the parent reads");
        output.flush().expect("the parent reads");
    }
}

/// What all workers have found so far.
#[derive(Default)]
struct Found {
    seeds: u64,
    operations: u64,
    entries: u64,
    marks: BTreeMap<String, u64>,
    failures: Vec<u64>,
}

struct Source {
    waiting: VecDeque<u64>,
    next: u64,
    until: Option<Instant>,
    stopped: bool,
}

impl Source {
    fn take(&mut self) -> Option<u64> {
        if self.stopped {
            return None;
        }
        self.waiting.pop_front().or_else(|| {
            let goes_on = self.until.is_some_and(|until| Instant::now() < until);
            self.next += u64::from(goes_on);
            goes_on.then_some(self.next - 1)
        })
    }
}

/// True: no seed failed, and the run has covered what it must.
pub fn run(run: Run) -> io::Result<bool> {
    let started = Instant::now();
    let cores = std::thread::available_parallelism()?.get();
    let jobs = if run.jobs == 0 { cores } else { run.jobs };
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let first_fresh = since_1970.as_micros() as u64;
    let mut waiting: VecDeque<u64> = run.kept.iter().copied().collect();
    waiting.extend(run.seeds.clone());
    waiting.extend(first_fresh..first_fresh + run.fresh);
    let until = run.duration.map(|duration| started + duration);
    let source = Mutex::new(Source { waiting, next: run.seeds.end, until, stopped: false });
    let found = Mutex::new(Found::default());
    std::thread::scope(|scope| {
        let drivers: Vec<_> =
            (0..jobs).map(|_| scope.spawn(|| drive(&source, &found, &run, started))).collect();
        drivers.into_iter().try_for_each(|driver| driver.join().expect("a driver does not panic"))
    })?;
    let found = found.into_inner().expect("no driver panics");
    Ok(report(&found, started.elapsed(), jobs, run.table))
}

struct Worker {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Worker {
    fn start(twice: bool) -> io::Result<Worker> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("--worker").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        if twice {
            command.arg("--twice");
        }
        let mut child = command.spawn()?;
        let input = child.stdin.take().expect("piped");
        let output = BufReader::new(child.stdout.take().expect("piped"));
        Ok(Worker { child, input, output })
    }

    /// The worker's result, or `None`: the seed has ended it.
    fn ask(&mut self, seed: u64) -> io::Result<Option<String>> {
        let mut line = String::new();
        writeln!(self.input, "{seed}")?;
        self.output.read_line(&mut line)?;
        Ok(line.ends_with('\n').then_some(line))
    }

    /// What it said before it ended.
    fn last_words(self) -> io::Result<String> {
        let Worker { child, input, .. } = self;
        drop(input);
        Ok(String::from_utf8_lossy(&child.wait_with_output()?.stderr).into_owned())
    }
}

fn drive(source: &Mutex<Source>, found: &Mutex<Found>, run: &Run, started: Instant) -> io::Result<()> {
    let mut worker = Worker::start(run.twice)?;
    loop {
        let Some(seed) = source.lock().expect("no driver panics").take() else { break };
        let result = worker.ask(seed)?;
        let mut found = found.lock().expect("no driver panics");
        found.seeds += 1;
        match result {
            Some(line) => found.add(&line),
            None => {
                let words = std::mem::replace(&mut worker, Worker::start(run.twice)?).last_words()?;
                let shown: Vec<&str> = words.lines().take(SHOWN_LINES).collect();
                println!("seed {seed} FAILED; `sim --replay {seed}` shows it\n{}\n", shown.join("\n"));
                found.failures.push(seed);
                source.lock().expect("no driver panics").stopped |= run.fail_fast;
            }
        }
        if found.seeds.is_multiple_of(500) {
            println!("{} seeds in {:.0} s", found.seeds, started.elapsed().as_secs_f32());
        }
    }
    worker.last_words().map(drop)
}

impl Found {
    fn add(&mut self, line: &str) {
        let mut fields = line.trim_end().split('\t');
        let mut number = || fields.next().and_then(|field| field.parse::<u64>().ok()).unwrap_or(0);
        self.operations += number();
        self.entries += number();
        for field in fields {
            if let Some((count, name)) = field.split_once(' ') {
                *self.marks.entry(name.to_string()).or_insert(0) += count.parse::<u64>().unwrap_or(0);
            }
        }
    }
}

fn report(found: &Found, duration: Duration, jobs: usize, table: bool) -> bool {
    if table {
        println!("| seen | what |\n|---:|---|");
    }
    let mut missing = Vec::new();
    let expected = coverage::EXPECTED.iter().map(|name| (*name, true));
    for (name, is_expected) in expected.chain(coverage::RARE.iter().map(|name| (*name, false))) {
        let count = found.marks.get(name).copied().unwrap_or(0);
        let rare = if is_expected { "" } else { " (rare)" };
        match table {
            true => println!("| {count} | {name}{rare} |"),
            false => println!("{count:>10}  {name}{rare}"),
        }
        if count == 0 && (is_expected || found.seeds >= SEEDS_FOR_RARE) {
            missing.push(name);
        }
    }
    let undecided = found.marks.get(coverage::UNDECIDED).copied().unwrap_or(0);
    println!("{undecided:>10}  {}", coverage::UNDECIDED);
    let per_minute = found.seeds as f64 * 60.0 / duration.as_secs_f64();
    println!(
        "{} seeds, {} failed; {} operations, {} entries; {:.0} s, {per_minute:.0} seeds a minute with {jobs} workers",
        found.seeds,
        found.failures.len(),
        found.operations,
        found.entries,
        duration.as_secs_f64()
    );
    if !found.failures.is_empty() {
        println!("failed seeds: {:?}", found.failures);
    }
    let enough = found.seeds >= SEEDS_FOR_COVERAGE && found.failures.is_empty();
    if enough && !missing.is_empty() {
        println!("never seen: {}: the run proves too little", missing.join(", "));
    }
    found.failures.is_empty() && (missing.is_empty() || !enough)
}
