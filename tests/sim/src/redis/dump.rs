//! Dumps of the dataset, as `src/redis/snapshot.rs` has the server make them: a child that is forked at an exact place of
//! the stream, and a file that gets its name when it is whole. One child at a time.

use super::dataset::Dataset;
use crate::coverage;
use redisraft::node::bridge::{Bridge, Epoch, ToRaft};
use std::path::{Path, PathBuf};

/// Where the server keeps its dumps, on every machine.
pub const DATA_DIRECTORY: &str = "/data";

/// Asked for by the raft thread, for the end of this turn.
struct Due {
    epoch: Epoch,
    attempt: u64,
    file: String,
}

/// What a child is to write.
#[derive(Debug)]
pub struct Child {
    pub attempt: u64,
    pub path: PathBuf,
    pub bytes: Vec<u8>,
}

#[derive(Default)]
pub struct Saver {
    due: Option<Due>,
    /// The attempt whose child lives.
    running: Option<(u64, PathBuf)>,
    /// The child's end, to be noticed: whether the file is there.
    ended: Option<bool>,
    /// A child that was just forked.
    forked: Option<Child>,
    /// The next fork fails.
    pub refuse: bool,
}

impl Saver {
    pub fn ask(&mut self, epoch: Epoch, attempt: u64, file: String) {
        self.due = Some(Due { epoch, attempt, file });
    }

    /// Forks if that was asked for and the leadership still holds: the attempt to be told in the stream.
    pub fn fork_if_due(&mut self, epoch: Epoch, dataset: &Dataset, bridge: &Bridge) -> Option<u64> {
        let Due { epoch: wanted, attempt, file } = self.due.take()?;
        let forked = wanted == epoch && self.fork(attempt, &file, dataset, bridge);
        if wanted != epoch {
            let reason = "leadership was lost".to_string();
            bridge.tell_raft(ToRaft::SnapshotFailed { attempt, reason });
        }
        forked.then_some(attempt)
    }

    /// True: the child lives, and the raft thread knows.
    pub fn fork(&mut self, attempt: u64, file: &str, dataset: &Dataset, bridge: &Bridge) -> bool {
        if self.running.is_some() || std::mem::take(&mut self.refuse) {
            coverage::mark("fork refused");
            let reason = "the server cannot fork now".to_string();
            bridge.tell_raft(ToRaft::SnapshotFailed { attempt, reason });
            return false;
        }
        let path = Path::new(DATA_DIRECTORY).join(file);
        self.running = Some((attempt, path.clone()));
        self.forked = Some(Child { attempt, path, bytes: dataset.dump() });
        bridge.tell_raft(ToRaft::SnapshotForked { attempt });
        true
    }

    /// The child that was forked in this turn.
    pub fn take_child(&mut self) -> Option<Child> {
        self.forked.take()
    }

    /// Whether the child of this attempt lives.
    pub fn is_running(&self, attempt: u64) -> bool {
        self.ended.is_none() && self.running.as_ref().is_some_and(|(running, _)| *running == attempt)
    }

    /// The child has ended; its file is there, or not.
    pub fn child_ended(&mut self, saved: bool) {
        self.ended = Some(saved);
    }

    /// A server that is about to load another dataset kills its child.
    pub fn kill(&mut self) {
        if self.running.is_some() && self.ended.is_none() {
            coverage::mark("child killed by a load");
            self.forked = None;
            self.ended = Some(false);
        }
    }

    pub fn has_work(&self) -> bool {
        self.ended.is_some()
    }

    /// Looks whether the child is done.
    pub fn poll(&mut self, bridge: &Bridge) {
        let Some(saved) = self.ended.take() else { return };
        let Some((attempt, file)) = self.running.take() else { return };
        bridge.tell_raft(match saved {
            true => ToRaft::SnapshotSaved { attempt, file },
            false => ToRaft::SnapshotFailed { attempt, reason: "the child could not write the dump".into() },
        });
    }
}
