//! Replacing a log: a snapshot holds what it does not, so it begins anew behind the snapshot's entry.

use std::path::Path;
use std::sync::atomic::AtomicBool;

use super::disk::{Disk, Mode};
use super::error::LogError;
use super::meta::{self, META_NAME};
use super::prepare::{planned_bytes, Maker};
use super::recovery::lock;
use super::segment::*;
use super::HardState;

/// Makes the log of `directory` an empty one behind the entry `base` (index, term); identity stays, and term and vote do unless
/// the base is of a later term: no vote was given in that, for its term would be here, and no log ends in a later term than it knows.
/// The log must not be open. META is the commit point: before it the log is what it was, afterwards it is empty; what is
/// left of the old segments is finished off when it is opened.
///
/// Errors: in use, no log there, META damaged, the disk's.
pub fn replace(
    disk: &dyn Disk,
    directory: &Path,
    base: (u64, u64),
    segment_bytes: u64,
) -> Result<(), LogError> {
    let _lock = lock(disk, directory)?;
    let path = directory.join(META_NAME);
    let mut meta = meta::read(disk, directory)?.meta;
    let sequence = first_unused(disk, directory)?.max(meta.first_sequence);
    if !disk.exists(&segment_path(directory, sequence)) {
        let maker = Maker { disk, directory, mode: Mode::Write };
        maker.make(sequence, planned_bytes(sequence, segment_bytes), &AtomicBool::new(false))?;
    }
    (meta.base_index, meta.base_term) = base;
    if meta.hard_state.term < base.1 {
        meta.hard_state = HardState { term: base.1, vote: None };
    }
    meta.first_sequence = sequence;
    (meta.floor_sequence, meta.floor_offset) = (sequence, 0);
    // Nothing that was cut can be missing any more: the snapshot holds all that was committed up to its entry, and
    // what came after it is the leader's to send. Whether the node may vote is for the leader to say, as before.
    let file = disk.open(&path, Mode::Write).map_err(|source| LogError::io("open", &path, None, source))?;
    meta.generation += 1;
    meta::write(file.as_ref(), &path, &meta)
}

/// The sequence of the first segment behind all that were ever written to.
fn first_unused(disk: &dyn Disk, directory: &Path) -> Result<u32, LogError> {
    let names = disk.list(directory).map_err(|source| LogError::io("list", directory, None, source))?;
    let mut unused = 1;
    for name in names {
        let FileName::Segment(sequence) = parse_file_name(&name) else { continue };
        let path = segment_path(directory, sequence);
        let file =
            disk.open(&path, Mode::Read).map_err(|source| LogError::io("open", &path, None, source))?;
        let length =
            file.length().map_err(|source| LogError::io("find the length of", &path, None, source))?;
        let mut header = [0; SEGMENT_HEADER_BYTES];
        if length >= SEGMENT_HEADER_BYTES as u64 {
            file.read_at(&mut header, 0).map_err(|source| LogError::io("read", &path, 0, source))?;
        }
        if header.iter().any(|byte| *byte != 0) {
            unused = unused.max(sequence + 1);
        }
    }
    Ok(unused)
}
