//! Looking at the snapshots of a directory without changing anything: what a start makes of them, and what the tool says.

use super::about::{about_name, parse_name, About, Id, Name, ABOUT_MAX_BYTES};
use super::error::SnapshotError;
use super::store::each_piece;
use crate::log::disk::{Disk, FileHandle, Mode};
use std::path::Path;

/// How much of a dump is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// That it is there, and how long it is.
    Length,
    /// Its checksum too: all of it is read.
    Checksum,
}

/// How often looking begins anew because a running node has replaced what was being looked at.
const RETRIES: usize = 64;

/// The snapshots of a log's directory, newest first: intact, or what is wrong with them. This works beside a running node,
/// which may replace them meanwhile.
///
/// Errors: the disk's.
pub fn survey(
    disk: &dyn Disk,
    directory: &Path,
    cluster_id: &str,
    depth: Depth,
) -> Result<Vec<Result<About, SnapshotError>>, SnapshotError> {
    let mut retries = 0;
    'anew: loop {
        let mut found = Vec::new();
        for (index, term) in positions(disk, directory)? {
            let pair = read_pair(disk, directory, cluster_id, (index, term), depth);
            let is_gone = || !disk.exists(&directory.join(about_name(index, term)));
            match pair {
                Err(_) if retries < RETRIES && is_gone() => {
                    retries += 1;
                    continue 'anew;
                }
                Err(error @ SnapshotError::Io { .. }) => return Err(error),
                pair => found.push(pair),
            }
        }
        return Ok(found);
    }
}

/// Positions of the snapshots that have a sidecar, newest first.
pub(super) fn positions(disk: &dyn Disk, directory: &Path) -> Result<Vec<(u64, u64)>, SnapshotError> {
    let mut found: Vec<_> = names(disk, directory)?
        .iter()
        .filter_map(|name| match parse_name(name) {
            Name::About { index, term } => Some((index, term)),
            _ => None,
        })
        .collect();
    found.sort_unstable_by(|a, b| b.cmp(a));
    Ok(found)
}

pub(super) fn names(disk: &dyn Disk, directory: &Path) -> Result<Vec<String>, SnapshotError> {
    disk.list(directory).map_err(SnapshotError::io("list", directory))
}

/// Reads a pair and checks that it is what it says.
pub(super) fn read_pair(
    disk: &dyn Disk,
    directory: &Path,
    cluster_id: &str,
    (index, term): (u64, u64),
    depth: Depth,
) -> Result<About, SnapshotError> {
    let path = directory.join(about_name(index, term));
    let file = disk.open(&path, Mode::Read).map_err(SnapshotError::io("open", &path))?;
    let length = file.length().map_err(SnapshotError::io("find the length of", &path))?;
    let mut bytes = vec![0; length.min(ABOUT_MAX_BYTES as u64 + 1) as usize];
    file.read_at(&mut bytes, 0).map_err(SnapshotError::io("read", &path))?;
    let about = About::decode(&bytes, &path)?;
    if (about.id.index, about.id.term) != (index, term) {
        let found = format!("{} and {}", about.id.index, about.id.term);
        return Err(SnapshotError::damaged(&path, 48, format!("index {index}, term {term}"), found));
    }
    if about.cluster_id != cluster_id {
        let (expected, found) = (cluster_id.to_string(), about.cluster_id);
        return Err(SnapshotError::Foreign { file: path, expected, found });
    }
    let rdb = directory.join(about.file_name());
    if !disk.exists(&rdb) {
        return Err(SnapshotError::damaged(&rdb, 0, "the file that its sidecar tells of", "no file"));
    }
    let file = disk.open(&rdb, Mode::Read).map_err(SnapshotError::io("open", &rdb))?;
    compare(&file, &rdb, about.id, depth)?;
    Ok(about)
}

fn compare(file: &FileHandle, path: &Path, id: Id, depth: Depth) -> Result<(), SnapshotError> {
    let length = file.length().map_err(SnapshotError::io("find the length of", path))?;
    if length != id.bytes {
        let (expected, found) = (format!("a file of {} bytes", id.bytes), format!("{length} bytes"));
        return Err(SnapshotError::damaged(path, length.min(id.bytes), expected, found));
    }
    if depth == Depth::Length {
        return Ok(());
    }
    let mut crc = crc32fast::Hasher::new();
    each_piece(file, path, |piece| {
        crc.update(piece);
        Ok(())
    })?;
    let crc = crc.finalize();
    match crc == id.crc {
        true => Ok(()),
        false => {
            Err(SnapshotError::damaged(path, 0, format!("crc {:08x}", id.crc), format!("crc {crc:08x}")))
        }
    }
}
