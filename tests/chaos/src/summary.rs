//! What a number of runs has done and met, and whether it proves anything.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use crate::nemesis::{Counts, Nemesis};
use crate::plan::{Plan, KINDS};
use crate::record::Record;
use crate::violation::{Result, Violation};

#[derive(Default)]
pub struct Summary {
    pub seeds: Vec<u64>,
    answered: Counts,
    unknown: Counts,
    refused: BTreeMap<String, u64>,
    /// Faults by kind that were planned, and that were done.
    planned: Counts,
    done: Counts,
    /// What came of the faults.
    effects: Counts,
    leader_changes: u64,
    longest_silence: Duration,
    longest_silence_seed: u64,
    /// Bundles whose histories could not be judged.
    pub undecided: u64,
}

fn add<K: Ord + Clone>(sum: &mut BTreeMap<K, u64>, more: &BTreeMap<K, u64>) {
    for (name, count) in more {
        *sum.entry(name.clone()).or_default() += count;
    }
}

/// The kinds of operations that a long run must all have had answered.
const OPERATIONS: [&str; 12] = [
    "read",
    "set",
    "delete",
    "compare-and-set",
    "increment",
    "append",
    "read all",
    "write all",
    "take lock",
    "give lock",
    "add member",
    "read members",
];

/// What must have come of the faults of a long run.
const EFFECTS: [&str; 12] = [
    "connections torn at a byte",
    "syncs that failed",
    "syncs that were slow",
    "syncs that hung",
    "writes that failed",
    "times that were shifted",
    "transfers that were made",
    "compactions that were made",
    "nodes that joined at once",
    "nodes that were taken out",
    "sleeps to their end",
    "scripts to their end",
];

impl Summary {
    pub fn add_run(&mut self, plan: &Plan, record: &Record, nemesis: &Nemesis, leader_changes: u64) {
        self.seeds.push(plan.seed);
        add(&mut self.answered, &record.answered);
        add(&mut self.unknown, &record.unknown);
        add(&mut self.refused, &record.refused);
        add(&mut self.done, &nemesis.done);
        add(&mut self.effects, &nemesis.effects());
        for event in plan.rounds.iter().flatten() {
            *self.planned.entry(event.fault.kind()).or_default() += 1;
        }
        let torn = nemesis.fleet.proxy.torn() as u64;
        *self.effects.entry("connections torn at a byte").or_default() += torn;
        for done in nemesis.fleet.nodes.iter().map(|node| node.control.done()) {
            for (name, count) in [
                ("syncs that failed", done.failed_syncs),
                ("syncs that were slow", done.slow_syncs),
                ("syncs that hung", done.hung_syncs),
                ("writes that failed", done.failed_writes),
                ("times that were shifted", done.shifted_times),
            ] {
                *self.effects.entry(name).or_default() += count;
            }
        }
        self.leader_changes += leader_changes;
        if record.longest_silence > self.longest_silence {
            (self.longest_silence, self.longest_silence_seed) = (record.longest_silence, plan.seed);
        }
    }

    /// Operations that were answered.
    pub fn answers(&self) -> u64 {
        self.answered.values().sum()
    }

    /// Says whether what was planned has happened. A `long` run must have had everything.
    ///
    /// # Errors
    /// Naming what has not.
    pub fn prove(&self, long: bool) -> Result<()> {
        let missing = |counts: &Counts, names: &mut dyn Iterator<Item = &'static str>| {
            names.filter(|name| counts.get(name).copied().unwrap_or(0) == 0).collect::<Vec<_>>()
        };
        let mut never: Vec<&str> = match long {
            true => missing(&self.done, &mut KINDS.into_iter()),
            // A short run has each fault once or twice: a single one may have found nobody to be done to.
            false => Vec::new(),
        };
        if long {
            never.extend(missing(&self.answered, &mut OPERATIONS.into_iter()));
            never.extend(missing(&self.effects, &mut EFFECTS.into_iter()));
        }
        let fewest = 100 * self.seeds.len() as u64;
        if self.answers() < fewest {
            return Err(Violation::Vacuous(format!("{} answers, fewer than {fewest}", self.answers())));
        }
        if self.done.is_empty() {
            return Err(Violation::Vacuous("no fault was done".to_owned()));
        }
        match never.is_empty() {
            true => Ok(()),
            false => Err(Violation::Vacuous(format!("never happened: {}", never.join(", ")))),
        }
    }
}

fn table<K: fmt::Display>(
    formatter: &mut fmt::Formatter<'_>,
    title: &str,
    counts: &BTreeMap<K, u64>,
) -> fmt::Result {
    writeln!(formatter, "{title}: {}", counts.values().sum::<u64>())?;
    counts.iter().try_for_each(|(name, count)| writeln!(formatter, "{count:>10}  {name}"))
}

impl fmt::Display for Summary {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        table(formatter, "answered", &self.answered)?;
        table(formatter, "of unknown outcome (only what writes)", &self.unknown)?;
        table(formatter, "refused, and sent again", &self.refused)?;
        writeln!(formatter, "faults: {}", self.done.values().sum::<u64>())?;
        for (kind, planned) in &self.planned {
            let done = self.done.get(kind).copied().unwrap_or(0);
            writeln!(formatter, "{done:>10}  {kind} (planned: {planned})")?;
        }
        writeln!(formatter, "what came of them")?;
        self.effects.iter().try_for_each(|(name, count)| writeln!(formatter, "{count:>10}  {name}"))?;
        writeln!(formatter, "{:>10}  changes of leader", self.leader_changes)?;
        writeln!(
            formatter,
            "longest time without an answer, under faults: {:.1} s (seed {})",
            self.longest_silence.as_secs_f64(),
            self.longest_silence_seed
        )?;
        writeln!(formatter, "bundles that could not be judged: {}", self.undecided)?;
        let seeds: Vec<String> = self.seeds.iter().map(u64::to_string).collect();
        write!(formatter, "seeds: {}", seeds.join(" "))
    }
}
