//! What a simulated machine has stored: writes, logs, and what of them can be read.

use super::super::*;
use std::collections::BTreeSet;

/// One entry on a disk or in a driver's memory, with what stands for its payload.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Stored {
    pub meta: EntryMeta,
    pub payload: u64,
}

/// A write with its payloads, on its way to the disk.
#[derive(Clone)]
pub(super) struct PendingWrite {
    pub(super) write: Write,
    pub(super) payloads: Vec<u64>,
}

#[derive(Default)]
pub(super) struct DiskImage {
    pub(super) term: Term,
    pub(super) vote: Option<NodeId>,
    pub(super) promise_us: u64,
    /// From the first entry on, also those that a snapshot stands for.
    pub(super) log: Vec<Stored>,
    /// Up to here a snapshot stands for the entries.
    pub(super) base: Index,
    /// Entries whose payload cannot be read.
    pub(super) holes: BTreeSet<Index>,
    /// Set when the log is cut: what was committed anywhere then.
    pub(super) cut_at: Option<Index>,
}

impl DiskImage {
    pub(super) fn apply(&mut self, pending: PendingWrite) {
        let PendingWrite { write, payloads } = pending;
        if let Some((term, vote)) = write.hard_state {
            (self.term, self.vote) = (term, vote);
        }
        self.promise_us = write.promise_us.unwrap_or(self.promise_us);
        if let Some(from) = write.truncate_from {
            self.holes.split_off(&from);
        }
        replace_tail(&mut self.log, &write, &payloads);
    }
}

pub(super) fn replace_tail(log: &mut Vec<Stored>, write: &Write, payloads: &[u64]) {
    if let Some(from) = write.truncate_from {
        assert!(from as usize <= log.len(), "truncation of what is not there");
        log.truncate(from as usize - 1);
    }
    if let Some(append) = &write.append {
        assert_eq!(append.first as usize, log.len() + 1, "a gap in the log");
        assert_eq!(append.entries.len(), payloads.len(), "each entry has a payload");
        let stored = |(meta, payload): (&EntryMeta, &u64)| Stored { meta: meta.clone(), payload: *payload };
        log.extend(append.entries.iter().zip(payloads).map(stored));
    }
}

/// Where a log that begins with the first entry stands at `index`.
pub(super) fn position_of(log: &[Stored], index: Index) -> Position {
    let term = (index as usize).checked_sub(1).map_or(0, |at| log[at].meta.term);
    Position { index, term }
}

/// The membership that the entries up to `index` have left.
pub(super) fn membership_at(log: &[Stored], index: Index) -> Option<Membership> {
    log[..index as usize].iter().rev().find_map(|stored| match &stored.meta.kind {
        EntryKind::Membership(membership) => Some((**membership).clone()),
        _ => None,
    })
}
