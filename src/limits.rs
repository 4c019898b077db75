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
/// Largest segment of a log in memory, in bytes.
pub const MEMORY_SEGMENT_MAX_BYTES: u64 = 4 << 20;
/// One sync of the log covers at most about this many payload bytes, so that the first of a queue need not wait
/// for the last.
pub const LOG_BATCH_BYTES: usize = 16 << 20;
/// Bytes that the log gathers before it writes them: what fits is one write and one sync.
pub const LOG_WRITE_BUFFER_BYTES: usize = 1 << 20;
/// Segments that are kept ready ahead of the one being written.
pub const LOG_SEGMENTS_AHEAD: u32 = 2;
/// Purged segments kept for another life.
pub const LOG_FREE_SEGMENTS: usize = 2;
/// Recent entries of the log kept in memory after they are on the disk, in bytes.
pub const LOG_CACHE_BYTES: u64 = 16 << 20;

// Snapshots (src/snapshot).

/// Longest list of members in a snapshot's sidecar, in bytes.
pub const MAX_SNAPSHOT_MEMBERS_BYTES: usize = 1 << 20;
/// Most node ids that a snapshot remembers as used.
pub const MAX_USED_IDS: usize = 1 << 16;
/// Lost entries that are asked for at once, and their bytes; a single one may exceed them.
pub const HEAL_WINDOW_ENTRIES: usize = 16;
pub const HEAL_WINDOW_BYTES: u64 = 2 << 20;

// Recovery (src/recover).

/// Longest file of members, in bytes, and most members in it.
pub const MAX_MEMBERS_FILE_BYTES: usize = 64 << 10;
pub const MAX_MEMBERS_FILE_LINES: usize = 63;

// Links (src/link) and RESP (src/resp).

/// Most decimal digits of a RESP length or count: enough for `MAX_FRAME_BYTES`.
pub const MAX_RESP_HEADER_DIGITS: usize = 10;
/// Longest inline command line, in bytes.
pub const MAX_INLINE_BYTES: usize = 1024;
/// Most arguments of one command in the stream of the local Redis.
pub const MAX_STREAM_ARGS: usize = 1 << 24;
/// Longest reply to a request of this node's own (join, handshakes), in bytes.
pub const MAX_REPLY_BYTES: usize = 1 << 20;
/// Most elements of all arrays of one reply together.
pub const MAX_REPLY_ELEMENTS: usize = 4096;
/// Deepest nesting of arrays in a reply.
pub const MAX_REPLY_DEPTH: usize = 8;
/// Most `-MOVED` answers that one request follows.
pub const MAX_REDIRECTS: usize = 5;

/// Longest time for which a leader may ask voters to elect nobody else: the longest election timeout.
pub const MAX_LEASE_US: u64 = 3_600_000_000;

/// Most accepted connections on the peer port that have not proven who they are.
pub const MAX_UNAUTHENTICATED_LINKS: usize = 256;
/// Most bytes queued to one peer. A single frame may exceed it when nothing else is queued.
pub const MAX_PEER_QUEUE_BYTES: usize = 64 << 20;
/// Most bytes queued to a connection that has not proven who it is: it asks without reading the answers.
pub const MAX_UNAUTHENTICATED_QUEUE_BYTES: usize = 4096;
/// Most bytes queued to the local Redis on the feed link: two of the largest frames.
pub const MAX_FEED_QUEUE_BYTES: usize = 2 * MAX_FRAME_BYTES;
/// Longest command accepted on the feed link: handshake and acknowledgements only.
pub const MAX_FEED_COMMAND_BYTES: usize = 64 << 10;
/// Received and unconsumed bytes of the capture link beyond which its socket is not read.
pub const MAX_CAPTURE_BUFFER_BYTES: usize = MAX_FRAME_BYTES + (64 << 20);
/// Acknowledgements queued on the capture link beyond which further ones are left out (a later one covers them).
pub const MAX_CAPTURE_QUEUE_BYTES: usize = 4096;
/// Bytes read from one socket in one turn, so that none starves the others.
pub const READ_BUDGET_BYTES: usize = 1 << 20;
/// Bytes written to one socket in one turn.
pub const WRITE_BUDGET_BYTES: usize = 4 << 20;
/// Connections accepted on one listener in one turn.
pub const ACCEPT_BUDGET: usize = 64;
/// Bytes of late input read from a refused connection, so that it sees the error and not a reset.
pub const MAX_DRAIN_BYTES: usize = 256 << 10;
/// Longest pause between two tries to reach a peer, in milliseconds.
pub const MAX_RECONNECT_INTERVAL_MS: u64 = 1000;
/// Tries without a pause when a fresh connection ends before its handshake did.
pub const MAX_QUICK_REDIALS: u32 = 3;
