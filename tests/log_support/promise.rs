//! What a log has promised, and a story that makes it promise: votes, batches, rolls, truncations, a restart.

use std::path::Path;
use std::sync::{Arc, Mutex};

use redisraft::log::{HardState, Log, LogError, WriteRequest};

use super::*;

type Entries = Vec<(u64, u64, usize)>;

/// What the log may hold: what was acknowledged, and what was handed in and not acknowledged yet.
#[derive(Clone, Default)]
pub struct Promise {
    pub created: bool,
    pub entries: Entries,
    pub hard_state: HardState,
    pub pending: WriteRequest,
    /// Entries up to this one may be given up.
    pub purged_through: u64,
}

impl Promise {
    pub fn settle(&mut self) {
        let pending = std::mem::take(&mut self.pending);
        self.hard_state = pending.hard_state.unwrap_or(self.hard_state);
        if let Some(from) = pending.truncate_from {
            self.entries.truncate(from as usize - 1);
        }
        self.entries
            .extend(pending.entries.iter().map(|entry| (entry.index, entry.term, entry.payload.len())));
    }

    /// The log in `directory` holds what was acknowledged and not purged, and of the rest a prefix of what was handed in.
    pub fn check(&self, directory: &Path, what: &str) {
        if !self.created && !Log::exists(directory) {
            Harness::create(directory).append(1, 1, 1).expect("a new log where creating failed");
            return;
        }
        let harness = Harness::open(directory).unwrap_or_else(|error| panic!("{what}: {error}"));
        let found = contents(&harness.log);
        let first = harness.log.first_index();
        assert!(first <= self.purged_through + 1, "{what}: {first} is first");
        let from_first = |entries: &Entries| entries.get(first as usize - 1..).unwrap_or_default().to_vec();
        let mut settled = self.clone();
        settled.settle();
        let kept = self.pending.truncate_from.map_or(self.entries.len() as u64, |from| from - 1);
        let untouched = found == from_first(&self.entries);
        let begun = harness.log.last_index() >= kept && from_first(&settled.entries).starts_with(&found);
        assert!(untouched || begun, "{what}: {found:?}, promised {:?}", self.entries);
        let hard_state = harness.log.hard_state();
        assert!([self.hard_state, settled.hard_state].contains(&hard_state), "{what}: {hard_state:?}");
        if !untouched {
            assert_eq!(hard_state, settled.hard_state, "{what}: term and vote come before entries");
        }
        drop(harness);
        let mut harness = Harness::open(directory).unwrap_or_else(|error| panic!("{what}, again: {error}"));
        assert_eq!(contents(&harness.log), found, "{what}: the second start finds what the first found");
        let recovery = harness.recovery.as_ref().expect("recovered");
        assert_eq!(recovery.torn, None, "{what}: a torn tail is zeroed");
        assert!(recovery.rebuilt_indexes.is_empty() && recovery.leftovers.is_empty(), "{what}: {recovery}");
        harness.append(99, 5, 600).unwrap_or_else(|error| panic!("{what}: {error}"));
    }
}

/// What is done with a log.
#[derive(Clone)]
pub enum Act {
    Write(WriteRequest),
    Purge(u64),
    Reopen,
}

fn append(first: u64, count: u64, term: u64, bytes: usize) -> WriteRequest {
    let entries = (first..first + count).map(|index| entry(index, term, bytes)).collect();
    WriteRequest { entries, ..Default::default() }
}

/// Votes, batches, rolls, truncations, a large entry, purges into an empty pool and a full one, recycled segments.
fn acts() -> Vec<Act> {
    let vote = |term| {
        Act::Write(WriteRequest { hard_state: Some(HardState { term, vote: Some(2) }), ..Default::default() })
    };
    let write = |first, count, term, bytes| Act::Write(append(first, count, term, bytes));
    vec![
        vote(1),
        write(1, 4, 1, 500),
        write(5, 3, 1, 700),
        Act::Write(WriteRequest {
            truncate_from: Some(7),
            hard_state: Some(HardState { term: 2, vote: None }),
            ..append(7, 2, 2, 30)
        }),
        Act::Reopen,
        write(9, 1, 2, 10_000),
        vote(3),
        Act::Write(WriteRequest { truncate_from: Some(9), ..Default::default() }),
        write(9, 6, 3, 900),
        Act::Purge(8),
        write(15, 5, 3, 900),
        Act::Write(WriteRequest { truncate_from: Some(14), ..append(14, 7, 3, 500) }),
        Act::Purge(20),
        write(21, 8, 3, 800),
        Act::Reopen,
        Act::Purge(25),
        write(29, 4, 3, 800),
        Act::Purge(32),
        write(33, 3, 3, 900),
    ]
}

/// How a log is made and opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Threads {
    Own,
    None,
}

/// What the helper of a log did, over all its lives.
#[derive(Default)]
pub struct Helped {
    pub recycled_segments: u64,
    pub failures: u64,
}

impl Helped {
    fn close(&mut self, mut harness: Harness) {
        harness.run();
        // The helper may fail between two looks.
        let failures_before = harness.log.stats().prepare_failures;
        let last_error = harness.log.prepare_last_error();
        let stats = harness.log.stats();
        assert!(failures_before == 0 || last_error.is_some());
        assert!(stats.prepare_failures > 0 || last_error.is_none());
        self.recycled_segments += stats.recycled_segments;
        self.failures += stats.prepare_failures;
        harness.close();
    }
}

/// Creates, writes, purges, reopens, writes on; returns the first error.
pub fn run(
    disk: &Arc<HookedDisk>,
    directory: &Path,
    promise: &Mutex<Promise>,
    threads: Threads,
) -> Result<Helped, LogError> {
    let mut helped = Helped::default();
    let mut harness = match threads {
        Threads::Own => Harness::create_on(disk.clone(), directory),
        Threads::None => Harness::create_inline(disk.clone(), directory),
    }?;
    promise.lock().expect("promise").created = true;
    for act in acts() {
        match act {
            Act::Reopen => {
                helped.close(harness);
                harness = match threads {
                    Threads::Own => Harness::open_on(disk.clone(), directory),
                    Threads::None => Harness::open_inline(disk.clone(), directory),
                }?;
            }
            Act::Purge(through) => {
                promise.lock().expect("promise").purged_through = through;
                harness.log.purge(through);
            }
            Act::Write(request) => {
                promise.lock().expect("promise").pending = request.clone();
                if let Err(error) = harness.write(request) {
                    let later = harness.submit(WriteRequest::default());
                    assert!(harness.wait(later).is_err(), "nothing is acknowledged after a failure");
                    assert!(harness.log.durable().is_err(), "an error is final");
                    return Err(error);
                }
                promise.lock().expect("promise").settle();
                harness.run();
            }
        }
    }
    helped.close(harness);
    Ok(helped)
}
