//! The lock of a log, for the commands that write.

use std::fs::File;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use redisraft::log::disk::{Disk, SystemDisk};
use redisraft::log::LogError;

use crate::failure::Failure;
use crate::holder;

const LOCK_NAME: &str = "LOCK";

/// Holds the lock until dropped; `None` if there is no file that anyone could hold.
pub type Lock = Option<Box<dyn Send + Sync>>;

/// Takes the lock as a server does. `quietly`: without noting this process in it, so that no byte changes.
pub fn take(directory: &Path, quietly: bool) -> Result<Lock, Failure> {
    let path = directory.join(LOCK_NAME);
    let in_use = || {
        let holder = holder::find(directory);
        Failure::Log(LogError::InUse { directory: directory.to_path_buf(), holder })
    };
    let failed = |source| Failure::File { verb: "lock", path: path.clone(), source };
    if !quietly {
        let guard = SystemDisk.lock(&path).map_err(failed)?.ok_or_else(in_use)?;
        return Ok(Some(guard));
    }
    if !path.exists() {
        return Ok(None);
    }
    match Flock::lock(File::open(&path).map_err(failed)?, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(Some(Box::new(lock))),
        Err((_, Errno::EWOULDBLOCK)) => Err(in_use()),
        Err((_, errno)) => Err(failed(errno.into())),
    }
}
