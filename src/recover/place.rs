//! Putting what was made in place: by renames, each of which leaves the old state or the new one.
//!
//! | step | a crash behind it leaves |
//! |---|---|
//! | all directories are made in `DIR.recovering` | `DIR` as it was; what is half-made goes with the next try |
//! | `DIR.recovering` becomes `DIR.recovered` | the same |
//! | `DIR` becomes `DIR.before-recovery-<time>` | no `DIR`: the next try finishes the work |
//! | `DIR.recovered/self` becomes `DIR` | all is done |

use super::build::{build, Beginning};
use super::error::RecoverError;
use super::examine::Found;
use crate::consensus::NodeId;
use crate::log::disk::Disk;
use crate::log::Identity;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// In the directory of those that were made, the one of the node whose log was there.
const OWN: &str = "self";

/// What is where now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// The log as it was; `None`: an earlier try has moved it.
    pub kept: Option<PathBuf>,
    /// What was made for the other members.
    pub others: Vec<(NodeId, PathBuf)>,
}

/// `directory` with an ending. Errors: it has no name.
fn beside(directory: &Path, ending: &str) -> Result<PathBuf, RecoverError> {
    let name = directory.file_name();
    let mut name =
        name.ok_or_else(|| RecoverError::NoName { directory: directory.to_path_buf() })?.to_os_string();
    name.push(ending);
    Ok(directory.with_file_name(name))
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Whether an earlier try was interrupted when only the last step was left.
pub fn is_interrupted(directory: &Path) -> bool {
    let made = beside(directory, ".recovered").map(|made| made.join(OWN));
    !directory.exists() && made.is_ok_and(|made| made.is_dir())
}

/// Makes the directories of all members of the new cluster, and puts them in place. Whoever calls holds the lock of the
/// log. `backup`: where the log as it was is kept, on the disk of `directory`; beside it by default.
///
/// Errors: the disk's; damage that came meanwhile. The log is what it was then, unless the error says otherwise.
pub fn recover(
    disk: &Arc<dyn Disk>,
    directory: &Path,
    found: &Found,
    beginning: &Beginning,
    backup: Option<&Path>,
) -> Result<Recovered, RecoverError> {
    let (half_made, made) = (beside(directory, ".recovering")?, beside(directory, ".recovered")?);
    let kept = kept_name(directory, backup)?;
    // Of a try that was interrupted: copies, which are made anew.
    remove(&half_made)?;
    if made.join(OWN).is_dir() {
        remove(&made)?;
    }
    if made.exists() {
        return Err(RecoverError::InTheWay { path: made });
    }
    let built = build_all(disk, directory, found, &half_made, beginning);
    let named = built.and_then(|()| rename(disk, &half_made, &made));
    if named.is_err() {
        // The first error is the one to be told; what is left takes space and does no harm.
        let _ = remove(&half_made);
    }
    named?;
    disk.rename(directory, &kept).map_err(RecoverError::io("rename", directory))?;
    let placed = sync(disk, [&kept, directory]).and_then(|()| rename(disk, &made.join(OWN), directory));
    if let Err(error) = placed {
        let reason = error.to_string();
        return Err(RecoverError::HalfPlaced {
            made: made.join(OWN),
            directory: directory.to_path_buf(),
            kept,
            reason,
        });
    }
    Ok(Recovered { kept: Some(kept), others: others(&made)? })
}

/// Does the last step of a try that was interrupted.
///
/// Errors: the disk's.
pub fn finish(disk: &Arc<dyn Disk>, directory: &Path) -> Result<Recovered, RecoverError> {
    let made = beside(directory, ".recovered")?;
    rename(disk, &made.join(OWN), directory)?;
    Ok(Recovered { kept: None, others: others(&made)? })
}

fn build_all(
    disk: &Arc<dyn Disk>,
    directory: &Path,
    found: &Found,
    to: &Path,
    beginning: &Beginning,
) -> Result<(), RecoverError> {
    disk.create_directory(to).map_err(RecoverError::io("create", to))?;
    for id in beginning.members.0.keys() {
        let name = if *id == found.node_id { OWN.to_string() } else { format!("member-{id}") };
        let identity = Identity { node_id: *id, ..beginning.identity.clone() };
        build(disk, directory, found, &to.join(name), &Beginning { identity, ..beginning.clone() })?;
    }
    disk.sync_directory(to).map_err(RecoverError::io("fsync", to))
}

/// A name that is free, on the disk of `directory`.
fn kept_name(directory: &Path, backup: Option<&Path>) -> Result<PathBuf, RecoverError> {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
    let first = beside(directory, &format!(".before-recovery-{seconds}"))?;
    let parent = backup.unwrap_or(parent(&first));
    fs::create_dir_all(parent).map_err(RecoverError::io("create", parent))?;
    let device = |path: &Path| fs::metadata(path).map(|found| found.dev());
    let (here, there) = (device(directory), device(parent));
    let same = here.and_then(|here| there.map(|there| here == there));
    if !same.map_err(RecoverError::io("look at", parent))? {
        let (directory, backup) = (directory.to_path_buf(), parent.to_path_buf());
        return Err(RecoverError::OtherDisk { directory, backup });
    }
    let first = parent.join(first.file_name().unwrap_or_default());
    let names = (1..).map(|number| first.with_extension(format!("before-recovery-{seconds}-{number}")));
    Ok([first.clone()].into_iter().chain(names).find(|name| !name.exists()).expect("some number is free"))
}

/// Durable on return.
fn rename(disk: &Arc<dyn Disk>, from: &Path, to: &Path) -> Result<(), RecoverError> {
    disk.rename(from, to).map_err(RecoverError::io("rename", from))?;
    sync(disk, [to, from])
}

/// Makes the names of these durable, or that they are gone.
fn sync(disk: &Arc<dyn Disk>, names: [&Path; 2]) -> Result<(), RecoverError> {
    names.map(parent).into_iter().try_for_each(|directory| {
        disk.sync_directory(directory).map_err(RecoverError::io("fsync", directory))
    })
}

/// Removes what an interrupted try has made.
fn remove(directory: &Path) -> Result<(), RecoverError> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(RecoverError::io("remove", directory)(error))
        }
        _ => Ok(()),
    }
}

/// What was made for the other members; without any the directory goes.
fn others(made: &Path) -> Result<Vec<(NodeId, PathBuf)>, RecoverError> {
    let mut found = Vec::new();
    for item in fs::read_dir(made).map_err(RecoverError::io("list", made))? {
        let path = item.map_err(RecoverError::io("list", made))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if let Some(id) = name.strip_prefix("member-").and_then(|id| id.parse().ok()) {
            found.push((id, path));
        }
    }
    found.sort();
    if found.is_empty() {
        fs::remove_dir(made).map_err(RecoverError::io("remove", made))?;
    }
    Ok(found)
}
