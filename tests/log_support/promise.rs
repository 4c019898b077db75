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

    /// The log in `directory` holds what was acknowledged, and of the rest a prefix of what was handed in.
    pub fn check(&self, directory: &Path, what: &str) {
        if !self.created && !Log::exists(directory) {
            Harness::create(directory).append(1, 1, 1).expect("a new log where creating failed");
            return;
        }
        let harness = Harness::open(directory).unwrap_or_else(|error| panic!("{what}: {error}"));
        let found = contents(&harness.log);
        let mut settled = self.clone();
        settled.settle();
        let kept = self.pending.truncate_from.map_or(self.entries.len(), |from| from as usize - 1);
        let untouched = found == self.entries;
        let begun = found.len() >= kept && settled.entries.starts_with(&found);
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

fn requests() -> Vec<WriteRequest> {
    let append = |first: u64, count: u64, term: u64, bytes: usize| WriteRequest {
        entries: (first..first + count).map(|index| entry(index, term, bytes)).collect(),
        ..Default::default()
    };
    let vote =
        |term| WriteRequest { hard_state: Some(HardState { term, vote: Some(2) }), ..Default::default() };
    vec![
        vote(1),
        append(1, 4, 1, 500),
        append(5, 3, 1, 700),
        WriteRequest {
            truncate_from: Some(7),
            hard_state: Some(HardState { term: 2, vote: None }),
            ..append(7, 2, 2, 30)
        },
        append(9, 1, 2, 10_000),
        vote(3),
        WriteRequest { truncate_from: Some(9), ..Default::default() },
        append(9, 6, 3, 900),
    ]
}

/// Creates, writes, reopens half-way, writes on; returns the first error.
pub fn run(disk: &Arc<HookedDisk>, directory: &Path, promise: &Mutex<Promise>) -> Result<(), LogError> {
    let mut harness = Harness::create_on(disk.clone(), directory)?;
    promise.lock().expect("promise").created = true;
    for (number, request) in requests().into_iter().enumerate() {
        if number == 4 {
            drop(harness);
            harness = Harness::open_on(disk.clone(), directory)?;
        }
        promise.lock().expect("promise").pending = request.clone();
        if let Err(error) = harness.write(request) {
            let later = harness.submit(WriteRequest::default());
            assert!(harness.wait(later).is_err(), "nothing is acknowledged after a failure");
            assert!(harness.log.durable().is_err(), "an error is final");
            return Err(error);
        }
        promise.lock().expect("promise").settle();
    }
    Ok(())
}
