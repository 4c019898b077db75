//! Carrying a plan out.
//!
//! What a cut does, in this order, so that a crash between any two steps leaves a log that is refused or good, never
//! one that passes for more than it is:
//!
//! 1. META, the segment and its index file are copied aside.
//! 2. META: what was durable ends at the cut, and the node is distrusted: from here on it does not vote.
//! 3. The files of later segments are moved aside, the latest first: there is never a gap.
//! 4. The index file is replaced by one that ends at the cut.
//! 5. The segment becomes zeros behind the cut.

use std::path::{Path, PathBuf};

use redisraft::log::disk::{Disk, Mode, SystemDisk};
use redisraft::log::meta::{self, META_NAME};
use redisraft::log::segment::index_path;
use redisraft::log::{LogError, Reader};

use super::files;
use super::plan::{index_of, Action, Cut};
use crate::failure::Failure;

/// Does what was planned; gives the directory that what was there before was put into.
pub fn carry_out(
    directory: &Path,
    reader: &Reader,
    actions: &[Action],
    backup: Option<&Path>,
) -> Result<PathBuf, Failure> {
    let aside = files::cut_directory(backup.unwrap_or(directory))?;
    for action in actions {
        match action {
            Action::Rewrite { file, offset, bytes, .. } => {
                files::copy_into(file, &aside)?;
                files::write_at(file, bytes, *offset)?;
            }
            Action::ZeroTorn { file, offset, bytes, .. } => {
                files::copy_into(file, &aside)?;
                files::zero(file, *offset, offset + bytes)?;
            }
            Action::RebuildIndex { file, segment } => {
                if file.exists() {
                    files::copy_into(file, &aside)?;
                }
                let records = redisraft::log::segment::segment_path(directory, *segment);
                if let Some(index) = index_of(reader, &records, *segment, u64::MAX)? {
                    files::replace(file, &index)?;
                }
            }
            Action::Truncate(cut) => truncate(directory, reader, cut, &aside)?,
        }
    }
    Ok(aside)
}

fn truncate(directory: &Path, reader: &Reader, cut: &Cut, aside: &Path) -> Result<(), Failure> {
    let index_file = index_path(directory, cut.segment);
    let whole = cut.offset == 0;
    let index = if whole { None } else { index_of(reader, &cut.file, cut.segment, cut.offset)? };
    files::copy_into(&directory.join(META_NAME), aside)?;
    let stays = !cut.moved.contains(&cut.file);
    if stays {
        files::copy_into(&cut.file, aside)?;
        if index_file.exists() {
            files::copy_into(&index_file, aside)?;
        }
    }
    lower_floor(directory, reader, cut)?;
    for file in &cut.moved {
        files::move_into(file, aside)?;
    }
    if !stays {
        return Ok(());
    }
    match index {
        Some(index) => files::replace(&index_file, &index)?,
        None if index_file.exists() => files::move_into(&index_file, aside)?,
        None => {}
    }
    files::zero(&cut.file, cut.offset, files::length(&cut.file)?)
}

/// Two generations, so that all four copies say it.
fn lower_floor(directory: &Path, reader: &Reader, cut: &Cut) -> Result<(), Failure> {
    let path = directory.join(META_NAME);
    let open = SystemDisk.open(&path, Mode::Write);
    let file = open.map_err(|source| Failure::File { verb: "open", path: path.clone(), source })?;
    let mut meta = reader.meta().clone();
    meta.distrusted = cut.distrusted;
    // A segment that goes whole leaves the one before it, if there is one, as the last.
    let whole = cut.offset == 0 && cut.segment > meta.first_sequence;
    (meta.floor_sequence, meta.floor_offset) = (cut.segment - u32::from(whole), cut.offset);
    for _ in 0..2 {
        meta.generation += 1;
        meta::write(file.as_ref(), &path, &meta)?;
    }
    Ok(())
}

/// Reads the log again: it must be what was wanted. Gives its last index.
pub fn check(directory: &Path) -> Result<u64, LogError> {
    let reader = Reader::open(directory)?;
    let end = reader.scan_past_damage(&mut |_| std::ops::ControlFlow::Continue(()))?;
    Ok(end.sequence.last_index())
}
