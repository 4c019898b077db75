//! Snapshots on disk: an RDB of the server's own making, and beside it what it is.
//!
//! In the log's directory, `snapshot-<index>-<term>.rdb` is the dataset with the effects of all entries up to `index`,
//! and `snapshot-<index>-<term>.about` says so: position, members, cluster, size, checksum ([`About`]).
//!
//! ```text
//!   .rdb.tmp written, fsync      .rdb named, directory fsync      .about named, directory fsync
//!   ---------|----------------------------|-------------------------------|------------------------> older pairs go
//!            '-- removed at start         '-- removed at start            '-- there is a snapshot
//! ```
//!
//! The sidecar's name is the commit point: before it there is the old snapshot, after it the new one. Whoever removes
//! a pair removes the sidecar first. What a peer sends goes through a temporary file in the same way, and nothing has a
//! name before its checksum is right.
//!
//! [`Store`] does the work, one [`Job`] at a time, and blocks on the disk; the raft thread leaves it to a thread of
//! its own. *No knowledge of RDB's inside beyond its first bytes and the checksum at its
//! end, none of Raft beyond index and term.* See
//! docs/log-format.md for the byte tables.

mod about;
mod dump;
mod error;
mod job;
mod parts;
mod readers;
mod receive;
mod removal;
mod store;
mod survey;

pub use about::{About, Id, ABOUT_MAX_BYTES};
pub use error::SnapshotError;
pub use job::{Done, Draft, Job};
pub use removal::STEP_PAUSE;
pub use store::{Opened, Store};
pub use survey::{survey, Depth};
