//! The Raft log on disk.
//!
//! A directory: `LOCK` (flock), `META` (term, vote, identity), segments `<sequence>.log`, each with its index file
//! `<sequence>.idx`. docs/log-format.md has the byte tables, the assumptions about the disk, and what a crash
//! between any two writes leaves. In short:
//!
//! * Records stand one behind the other, chained by CRC, in zero-filled or recycled segments. A batch is one aligned
//!   `pwrite` and one `fdatasync`; a flag of its first record says that everything before it was durable then.
//! * A record that cannot be read is *torn* if nothing proves that it ever was durable - it is dropped then - and
//!   *damage* if a later record, the index file, a later segment or META proves that it was. Damage is identified:
//!   what is known to the last byte is written again, an entry that is known but for its payload is a *hole*, to be
//!   filled with another node's copy. What is not certain is refused.
//! * A failed write or sync is final. What it left on the disk is decided by the next start.
//!
//! Threads: [`Log`] lives in the raft thread and never waits for the disk but to read what is not in memory; the
//! sync thread owns the files (`writer.rs`), a helper keeps segments ready and puts purged ones away (`helper.rs`), a
//! scrubber reads what nobody reads (`scrub.rs`). `disk.rs` holds all system calls. [`Log::open_inline`] does without
//! threads: [`InlineWriter`] does what they would, when it is told to.
//!
//! Who reads what: `window.rs` reads files; `scan.rs` finds records, in order or without their neighbours; `walk.rs`
//! and `reader.rs` decide between clean, torn and damage, for `recovery.rs` as for `raftlog-tool`; `heal.rs` says what
//! stood in a damaged place; `mend.rs` keeps the holes of an open log.

mod active;
mod buffer;
mod checksum;
pub mod disk;
mod error;
mod files;
mod heal;
mod helper;
mod hole;
pub mod index_file;
mod lease;
mod lines;
mod map;
pub mod memory;
mod mend;
pub mod meta;
mod patience;
mod pool;
mod prepare;
mod reader;
pub mod record;
mod recovery;
mod replace;
pub mod scan;
mod scrub;
pub mod segment;
mod sequence;
mod stats;
mod store;
mod sync;
mod table;
mod walk;
pub mod window;
mod writer;

use std::sync::Arc;

pub use error::LogError;
pub use heal::Rewrite;
pub use hole::{Hole, Lost};
pub use reader::{ReadRecord, Reader, ScanEnd, SegmentEnd, Torn, Visitor};
pub use record::{Entry, Kind};
pub use recovery::Recovery;
pub use replace::replace;
pub use sequence::Sequence;
pub use stats::Stats;
pub use store::Log;
pub use sync::InlineWriter;

/// How a log is kept.
#[derive(Clone, Debug)]
pub struct Options {
    /// Length of a segment file, in bytes; rounded up to whole blocks of 4 KiB.
    pub segment_bytes: u64,
    /// Whether a request counts as durable only after fdatasync. `false`: synced every second; for those who ask.
    pub fsync: bool,
    /// Whether batches go to the disk past the page cache where the file system can (O_DIRECT and O_DSYNC): one call
    /// that copies nothing, but what was written has to be read from the disk when it has left the log's own cache.
    pub direct_io: bool,
    /// Whether a full disk is waited out, see `patience.rs`. `false`: it is an error, for who makes a log and ends.
    pub wait_for_space: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options { segment_bytes: 64 << 20, fsync: true, direct_io: true, wait_for_space: true }
    }
}

impl Options {
    fn write_mode(&self) -> disk::Mode {
        if self.direct_io {
            disk::Mode::Direct
        } else {
            disk::Mode::Write
        }
    }
}

/// Whose log it is.
#[derive(Clone, PartialEq, Eq)]
pub struct Identity {
    /// 32 ASCII characters.
    pub cluster_id: String,
    pub node_id: u64,
    /// Proves to peers that a node belongs to the cluster; kept in META, never shown.
    pub secret: [u8; crate::limits::SECRET_BYTES],
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Identity { cluster_id, node_id, .. } = self;
        f.debug_struct("Identity")
            .field("cluster_id", cluster_id)
            .field("node_id", node_id)
            .finish_non_exhaustive()
    }
}

/// What Raft must never forget (Raft figure 2, "persistent state").
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct HardState {
    pub term: u64,
    pub vote: Option<u64>,
}

impl HardState {
    /// Invariant: terms do not fall, and there is one vote in a term (Raft section 5.2).
    fn may_become(&self, next: HardState) -> bool {
        next.term > self.term || (next.term == self.term && (self.vote.is_none() || self.vote == next.vote))
    }
}

/// One write. Its parts take effect in this order.
#[derive(Clone, Debug, Default)]
pub struct WriteRequest {
    /// Increases from request to request.
    pub id: u64,
    pub hard_state: Option<HardState>,
    /// The longest promise to a leader that may be in force from now on, in microseconds.
    pub promise_us: Option<u64>,
    /// Drop this entry and all after it.
    pub truncate_from: Option<u64>,
    /// To be appended behind what is left.
    pub entries: Vec<Entry>,
    /// A log that had lost acknowledged entries holds again all that was committed: META says so from now on.
    pub regain_trust: bool,
}

/// An entry without its payload.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RecordInfo {
    pub index: u64,
    pub term: u64,
    pub kind: Kind,
    pub payload_bytes: u32,
}

/// Called by the threads of the log after a batch became durable, or failed: ask [`Log::durable`] then.
pub type Notify = Box<dyn Fn() + Send + Sync>;
type SharedNotify = Arc<dyn Fn() + Send + Sync>;
