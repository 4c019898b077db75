//! What all clients of a run saw, counted and kept for the judge.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::{Duration, Instant};

use redisraft_sim::history::{Event, History, Operation};
use redisraft_sim::linearizability::{judge, Verdict};

use crate::violation::{Result, Violation};

/// The history of a run, and counts of it.
pub struct Record {
    started: Instant,
    history: History,
    /// Answered operations by name.
    pub answered: BTreeMap<&'static str, u64>,
    pub unknown: BTreeMap<&'static str, u64>,
    /// Requests that were refused and sent again or given up, by the first word of the error.
    pub refused: BTreeMap<String, u64>,
    last_answer: Instant,
    /// The longest time in which nobody was answered anything.
    pub longest_silence: Duration,
}

fn name(operation: &Operation) -> &'static str {
    match operation {
        Operation::ReadRegister { .. } => "read",
        Operation::SetRegister { .. } => "set",
        Operation::DeleteRegister { .. } => "delete",
        Operation::ExpireRegister { .. } => "expiry",
        Operation::CompareAndSet { .. } => "compare-and-set",
        Operation::Increment { .. } => "increment",
        Operation::Append { .. } => "append",
        Operation::ReadAll { .. } => "read all",
        Operation::WriteAll { .. } => "write all",
        Operation::SetIfAbsent { .. } => "take lock",
        Operation::DeleteIfEqual { .. } => "give lock",
        Operation::AddMember { .. } => "add member",
        Operation::ReadMembers { .. } => "read members",
    }
}

impl Default for Record {
    fn default() -> Self {
        let now = Instant::now();
        Record {
            started: now,
            history: History::default(),
            answered: BTreeMap::new(),
            unknown: BTreeMap::new(),
            refused: BTreeMap::new(),
            last_answer: now,
            longest_silence: Duration::ZERO,
        }
    }
}

impl Record {
    fn micros(&self, at: Instant) -> u64 {
        u64::try_from(at.duration_since(self.started).as_micros()).expect("a run of less than 584,000 years")
    }

    pub fn answered(&mut self, bundle: u32, operation: Operation, sent: Instant) {
        let now = Instant::now();
        *self.answered.entry(name(&operation)).or_default() += 1;
        self.longest_silence = self.longest_silence.max(now.saturating_duration_since(self.last_answer));
        self.last_answer = now;
        let (sent_us, answered_us) = (self.micros(sent), Some(self.micros(now)));
        self.history.add(bundle, Event { sent_us, answered_us, operation });
    }

    /// It may take effect at any time, or never. Not to be called for what only reads.
    pub fn unknown(&mut self, bundle: u32, operation: Operation, sent: Instant) {
        *self.unknown.entry(name(&operation)).or_default() += 1;
        self.history.add(bundle, Event { sent_us: self.micros(sent), answered_us: None, operation });
    }

    /// The register may lose this value by itself.
    pub fn may_expire(&mut self, bundle: u32, value: u64, sent: Instant) {
        let operation = Operation::ExpireRegister { value };
        self.history.add(bundle, Event { sent_us: self.micros(sent), answered_us: None, operation });
    }

    pub fn refused(&mut self, reason: &str) {
        let word = reason.split(' ').next().unwrap_or_default().to_owned();
        *self.refused.entry(word).or_default() += 1;
    }

    /// Operations that were answered.
    pub fn answers(&self) -> u64 {
        self.answered.values().sum()
    }

    /// Silence before this moment does not count.
    pub fn start_listening(&mut self) {
        self.last_answer = Instant::now();
    }

    /// Judges every bundle; the bundles that no order of operations explains, and how many could not be judged.
    ///
    /// # Errors
    /// When a bundle is not linearizable, or so many cannot be judged that the run proves little.
    pub fn judge(&self) -> Result<usize> {
        let mut undecided = 0;
        for (bundle, events) in &self.history.bundles {
            match judge(events) {
                Verdict::Linearizable => {}
                Verdict::Impossible => return Err(Violation::NotLinearizable { bundle: *bundle }),
                Verdict::Undecided => undecided += 1,
            }
        }
        let bundles = self.history.bundles.len();
        match undecided * 20 > bundles {
            true => Err(Violation::Undecided { count: undecided, bundles }),
            false => Ok(undecided),
        }
    }

    /// The whole history, an operation a line, by bundle and time.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for (bundle, events) in &self.history.bundles {
            let mut events: Vec<&Event> = events.iter().collect();
            events.sort_by_key(|event| event.sent_us);
            for Event { sent_us, answered_us, operation } in events {
                let answered = answered_us.map_or("unknown".to_owned(), |at_us| at_us.to_string());
                writeln!(text, "bundle {bundle}: {sent_us:>10} {answered:>10} {operation:?}")
                    .expect("a String takes all");
            }
        }
        text
    }
}
