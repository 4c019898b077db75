//! What one node's log and snapshot say, read without changing a byte.

use super::error::RecoverError;
use crate::consensus::NodeId;
use crate::log::disk::Disk;
use crate::log::record::RecordType;
use crate::log::{HardState, LogError, ReadRecord, Reader, Torn};
use crate::node::members::Members;
use crate::snapshot::{survey, About, Depth, SnapshotError};
use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

/// Where a record stands: segment and offset, in order of the log.
pub(super) type Place = (u32, u64);

/// What was found.
#[derive(Debug)]
pub struct Found {
    pub cluster_id: String,
    pub node_id: NodeId,
    pub hard_state: HardState,
    /// An operator has cut this log: it may lack entries that this very node had acknowledged.
    pub distrusted: bool,
    /// Copies of META that are damaged; the others serve.
    pub damaged_meta_copies: usize,
    /// What is recovered begins behind this entry (index, term).
    pub base: (u64, u64),
    /// Its last entry (index, term); the base if there is none.
    pub last: (u64, u64),
    /// Entries up to this one are known to have been committed. Those behind it may have been, too.
    pub committed: u64,
    pub snapshot: Option<About>,
    /// The log does not reach the snapshot, or is another one there: only the snapshot counts.
    pub snapshot_alone: bool,
    /// Snapshots that are damaged and not needed.
    pub damaged_snapshots: Vec<String>,
    /// The newest membership, committed or not.
    pub members: Members,
    /// Every node id that was given out, as far as this node knows.
    pub used_ids: BTreeSet<NodeId>,
    pub torn: Option<Torn>,
    /// (place of the record, smallest index that it or a later truncation drops), in order.
    truncations: Vec<(Place, u64)>,
}

/// A run of entries of one term.
struct Run {
    term: u64,
    first: u64,
    /// The entry behind `first`, if there is one: only a leader that knows that `first` is committed makes it.
    served: Option<u64>,
}

/// What the scan has gathered.
struct Gathered {
    base: (u64, u64),
    last_index: u64,
    runs: Vec<Run>,
    truncations: Vec<(Place, u64)>,
    /// Of the log, in order: index and members.
    memberships: Vec<(u64, Members)>,
    seen: BTreeSet<NodeId>,
    /// Index of the snapshot, and the term of the entry there.
    at_snapshot: (u64, Option<u64>),
    failure: Option<RecoverError>,
}

/// Reads the log and the snapshots of a directory, every checksum included. The log must not be written meanwhile.
///
/// Errors: no log there; damage, also of a snapshot that is needed; a newer format; the disk's.
pub fn examine(disk: &Arc<dyn Disk>, directory: &Path) -> Result<Found, RecoverError> {
    let reader = Reader::open_on(disk.clone(), directory).map_err(|error| damaged(directory, error))?;
    let meta = reader.meta().clone();
    let cluster_id = String::from_utf8_lossy(&meta.owner.cluster_id).into_owned();
    let log_base = (meta.base_index, meta.base_term);
    let (mut snapshot, mut damaged_snapshots) = (None, Vec::new());
    for pair in survey(disk.as_ref(), directory, &cluster_id, Depth::Checksum)? {
        match pair {
            Ok(about) => snapshot = snapshot.or(Some(about)),
            Err(error) if snapshot.is_none() => damaged_snapshots.push(error),
            Err(_) => {} // older than one that is intact
        }
    }
    if snapshot.as_ref().map_or(0, |about| about.id.index) < log_base.0 {
        let missing = RecoverError::SnapshotMissing { directory: directory.to_path_buf(), base: log_base.0 };
        return Err(damaged_snapshots.into_iter().next().map_or(missing, RecoverError::Snapshot));
    }
    let position = snapshot.as_ref().map(|about| (about.id.index, about.id.term));
    let mut gathered = Gathered::new(log_base, position.map_or(0, |at| at.0));
    let end = reader.scan(&mut |read| gathered.take(&read)).map_err(|error| damaged(directory, error))?;
    if let Some(failure) = gathered.failure {
        return Err(failure);
    }
    let held = |at: (u64, u64)| at == log_base || gathered.at_snapshot.1 == Some(at.1);
    let snapshot_alone = position.is_some_and(|at| !held(at));
    let (base, last) = match position.filter(|_| snapshot_alone) {
        Some(at) => (at, at),
        None => (log_base, (gathered.last_index, end.sequence.last_term())),
    };
    let mut used_ids = std::mem::take(&mut gathered.seen);
    let mut members = Members::default();
    if let Some(about) = &snapshot {
        let file = directory.join(about.file_name()).with_extension("about");
        let of_snapshot = Members::decode(&about.members);
        members =
            of_snapshot.map_err(|source| RecoverError::Members { file, index: about.id.index, source })?;
        used_ids.extend(about.used_ids.iter().chain(members.0.keys()));
    }
    let in_log = gathered
        .memberships
        .pop()
        .filter(|(index, _)| !snapshot_alone && *index > position.map_or(0, |at| at.0));
    Ok(Found {
        cluster_id,
        node_id: meta.owner.node_id,
        hard_state: meta.hard_state,
        distrusted: meta.distrusted,
        damaged_meta_copies: reader.damaged_meta_copies(),
        base,
        last,
        committed: gathered.committed(position.map_or(0, |at| at.0)).min(last.0),
        snapshot,
        snapshot_alone,
        damaged_snapshots: damaged_snapshots.iter().map(SnapshotError::to_string).collect(),
        members: in_log.map_or(members, |(_, members)| members),
        used_ids,
        torn: end.torn,
        truncations: smallest_to_come(gathered.truncations),
    })
}

/// Damage gets the advice to mend it first; what is no damage stays what it is.
pub(super) fn damaged(directory: &Path, error: LogError) -> RecoverError {
    match error {
        LogError::Corrupt { .. } | LogError::Foreign { .. } | LogError::Damaged(_) => {
            RecoverError::Damaged { directory: directory.to_path_buf(), source: Box::new(error) }
        }
        other => RecoverError::Log(other),
    }
}

/// For each truncation the smallest index that it or a later one drops.
fn smallest_to_come(mut truncations: Vec<(Place, u64)>) -> Vec<(Place, u64)> {
    let mut smallest = u64::MAX;
    for truncation in truncations.iter_mut().rev() {
        smallest = smallest.min(truncation.1);
        truncation.1 = smallest;
    }
    truncations
}

impl Found {
    /// Whether the entry of a record is one of those that are recovered.
    pub(super) fn is_live(&self, place: Place, index: u64) -> bool {
        let later = self.truncations.partition_point(|truncation| truncation.0 <= place);
        let dropped = self.truncations.get(later).is_some_and(|truncation| truncation.1 <= index);
        !dropped && !self.snapshot_alone && index > self.base.0
    }

    /// A term above all that this node has seen.
    pub fn next_term(&self) -> u64 {
        self.hard_state.term.max(self.last.1) + 1
    }
}

impl Gathered {
    fn new(base: (u64, u64), snapshot_index: u64) -> Gathered {
        Gathered {
            base,
            last_index: base.0,
            // Where the log begins in the middle of a term, this term began before it.
            runs: vec![Run { term: base.1, first: base.0, served: None }],
            truncations: Vec::new(),
            memberships: Vec::new(),
            seen: BTreeSet::new(),
            at_snapshot: (snapshot_index, None),
            failure: None,
        }
    }

    fn take(&mut self, read: &ReadRecord) -> ControlFlow<()> {
        let header = &read.record.header;
        let index = header.index;
        match read.record.record_type {
            RecordType::Truncate => {
                self.truncations.push(((read.segment_sequence, read.record.offset), index));
                self.truncate(index);
            }
            kind @ (RecordType::Normal | RecordType::NoOp | RecordType::Membership)
                if index > self.base.0 =>
            {
                self.last_index = index;
                if index == self.at_snapshot.0 {
                    self.at_snapshot.1 = Some(header.term);
                }
                self.count(index, header.term);
                if kind == RecordType::Membership {
                    match Members::decode(read.record.payload) {
                        Ok(members) => {
                            self.seen.extend(members.0.keys());
                            self.memberships.push((index, members));
                        }
                        Err(source) => {
                            let file = read.file.to_path_buf();
                            self.failure = Some(RecoverError::Members { file, index, source });
                            return ControlFlow::Break(());
                        }
                    }
                }
            }
            _ => {}
        }
        ControlFlow::Continue(())
    }

    fn count(&mut self, index: u64, term: u64) {
        match self.runs.last_mut().filter(|run| run.term == term) {
            Some(run) => drop(run.served.get_or_insert(index)),
            None => self.runs.push(Run { term, first: index, served: None }),
        }
    }

    fn truncate(&mut self, from: u64) {
        self.last_index = from.saturating_sub(1).max(self.base.0);
        self.memberships.retain(|(index, _)| *index < from);
        if self.at_snapshot.0 >= from {
            self.at_snapshot.1 = None;
        }
        self.runs.retain(|run| run.first < from || run.first == self.base.0);
        if let Some(run) = self.runs.last_mut() {
            run.served = run.served.filter(|index| *index < from);
        }
    }

    /// A snapshot holds only what is committed, and a log is purged only of what one holds. A leader takes commands, and
    /// proposes memberships, only when the first entry of its term is committed, and with it all before.
    fn committed(&self, snapshot_index: u64) -> u64 {
        let begun = self.runs.iter().rev().find(|run| run.served.is_some()).map_or(0, |run| run.first);
        begun.max(snapshot_index).max(self.base.0)
    }
}
