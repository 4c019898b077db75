//! Every bound of the program, in one place: a queue or a length without an entry here is a defect.

/// Longest frame accepted from an authenticated peer or from the local Redis: one entry, however large.
pub const MAX_FRAME_BYTES: usize = 1 << 30;
/// Longest frame accepted from a connection that has not proven who it is.
pub const MAX_UNAUTHENTICATED_FRAME_BYTES: usize = 4096;
/// Most arguments of one peer frame.
pub const MAX_PEER_FRAME_ARGS: usize = 64;
/// Most entries in one AppendEntries message.
pub const MAX_ENTRIES_PER_MESSAGE: usize = 1024;
/// Longest payload of one log entry.
pub const MAX_ENTRY_BYTES: usize = MAX_FRAME_BYTES - (1 << 16);
/// An entry is cut at the first command boundary beyond this many bytes, so that large pipelines flow.
pub const ENTRY_TARGET_BYTES: usize = 1 << 20;
/// Length of a cluster id, in characters.
pub const CLUSTER_ID_BYTES: usize = 32;
/// Length of the cluster secret, in bytes.
pub const SECRET_BYTES: usize = 32;
/// Smallest and largest segment of the log, in bytes; an entry larger than a segment gets a larger one.
pub const LOG_SEGMENT_MIN_BYTES: u64 = 8 << 10;
pub const LOG_SEGMENT_MAX_BYTES: u64 = 1 << 30;
/// One sync of the log covers at most about this many payload bytes, so that the first of a queue need not wait
/// for the last.
pub const LOG_BATCH_BYTES: usize = 16 << 20;
/// Recent entries of the log kept in memory after they are on the disk, in bytes.
pub const LOG_CACHE_BYTES: u64 = 16 << 20;
