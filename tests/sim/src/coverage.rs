//! Marks that say that something worth testing has happened. A run in which one of them is missing proves less than
//! it seems, and fails.

use std::cell::RefCell;
use std::collections::BTreeMap;

thread_local! {
    static MARKS: RefCell<BTreeMap<&'static str, u64>> = const { RefCell::new(BTreeMap::new()) };
}

/// Counts one occurrence. The name must be listed in [`EXPECTED`] or [`RARE`].
pub fn mark(name: &'static str) {
    let listed = EXPECTED.contains(&name) || RARE.contains(&name) || name == UNDECIDED;
    debug_assert!(listed, "the mark {name} is not listed");
    MARKS.with_borrow_mut(|marks| *marks.entry(name).or_insert(0) += 1);
}

/// All counts since the last call.
pub fn take() -> BTreeMap<&'static str, u64> {
    MARKS.with_borrow_mut(std::mem::take)
}

/// Everything that is marked, and must be seen in a run of 200 seeds or more.
pub const EXPECTED: &[&str] = &[
    "all machines lost power",
    "batch released",
    "bundle is linearizable",
    "capture cut",
    "capture refused",
    "client gave up waiting",
    "child killed by a load",
    "chain",
    "client waited for a leader",
    "clock disturbed",
    "connection half open",
    "crashed inside a turn",
    "crashed when a snapshot had come",
    "crashed while a snapshot was kept",
    "crashed while recovering",
    "crashed while the log was replaced",
    "cut off while members change",
    "damaged log refused",
    "dataset kept after a leadership",
    "dataset rolled back",
    "disk full",
    "disk hangs",
    "disk is slow",
    "disk loses writes",
    "disturbed when it began to lead",
    "dump not written",
    "dump rots before it is taken over",
    "entries cut away",
    "false hint of a dead peer",
    "feed cut",
    "feed cut inside a command",
    "feed cut inside a load",
    "feed resumed at a byte",
    "fork refused",
    "frame came very late",
    "fsync fails",
    "garbage on the wire",
    "held clients were cut off",
    "gate sealed",
    "hole filled",
    "index file made anew",
    "key expired",
    "leader changed",
    "leader cut off without knowing it",
    "leader removed itself",
    "leadership handed over",
    "leader shuts down",
    "link flaps",
    "log in memory lost",
    "log purged",
    "log scrubbed",
    "loss of power",
    "machine cannot be heard",
    "machine moved",
    "main thread stalled",
    "many messages in flight",
    "node in memory came back as another",
    "node joined",
    "node removed",
    "node retired",
    "one direction cut",
    "one machine cut off",
    "one pair cut",
    "pair with a bridge between them",
    "part of a snapshot sent",
    "process paused",
    "promotion refused",
    "read at a follower",
    "read at a follower given up",
    "read at a follower that was promoted or removed",
    "read at a follower waited for entries",
    "read fails",
    "read under a lease",
    "refused request sent again",
    "removal refused",
    "rolling restart finished",
    "settings changed",
    "snapshot asked for",
    "snapshot fed",
    "snapshot installed",
    "snapshot loaded",
    "snapshot made",
    "snapshot not kept",
    "snapshot offered and wanted",
    "snapshot rots while it is sent",
    "some machines lost power",
    "start failed by its disk",
    "started from a snapshot",
    "started with holes",
    "stopped by its disk",
    "stored bytes damaged",
    "torn tail dropped",
    "transfer refused",
    "two sides",
    "unfinished join set aside",
    "write fails",
    "write of unknown outcome",
];

/// What is too rare to be expected of a few hundred seeds.
pub const RARE: &[&str] = &[
    "copy of META made anew",
    "crashed while a part was written",
    "hand over given up after sealing",
    "removal of unknown outcome",
    "interrupted installation finished",
    "part of a snapshot refused",
    "regrouped while members change",
    "stale segment put back",
];

/// What should not be: a history that was too hard to judge.
pub const UNDECIDED: &str = "bundle was not decided";
