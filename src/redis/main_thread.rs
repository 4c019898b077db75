//! What the module keeps on the server's main thread.

use super::access::Access;
use super::admin::Tickets;
use super::blocking::Blocked;
use super::command_table::CommandTable;
use super::ffi::{Context, OwnedText};
use super::follower_reads::FollowerReads;
use super::gate::Gate;
use super::info::Build;
use super::shutdown::Shutdown;
use super::snapshot::Saver;
use super::timers::Timers;
use super::transactions::Transactions;
use super::wait::Waiters;
use crate::node::bridge::Bridge;
use std::cell::{Cell, RefCell};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

/// Strings that the filter puts into commands; made once.
pub struct Words {
    pub raft: OwnedText,
    pub psync: OwnedText,
    pub denied: OwnedText,
    pub topology: OwnedText,
    pub nothread: OwnedText,
    pub shutdown: OwnedText,
}

pub struct MainThread {
    /// For callbacks that are given none.
    pub context: Context,
    pub bridge: Arc<Bridge>,
    pub gate: Gate,
    pub access: Access,
    pub table: RefCell<CommandTable>,
    pub waiters: Waiters,
    pub follower_reads: FollowerReads,
    pub transactions: Transactions,
    pub blocked: Blocked,
    pub tickets: Tickets,
    pub timers: Timers,
    pub saver: Saver,
    /// The server's process id: a child that it forks has another.
    pub process: u32,
    pub words: Words,
    pub build: Build,
    /// First word of what the feed sends; taken off by the filter.
    pub feed_token: Vec<u8>,
    /// What the capture link proves itself with.
    pub capture_secret: Vec<u8>,
    pub capture_user: *mut redis_module::raw::RedisModuleUser,
    /// The raft thread has something for this one.
    pub woken: Cell<bool>,
    /// Commands are to be held back for this hand-over, as soon as the batch that is open is closed.
    pub seal_due: Cell<Option<u64>>,
    /// A data command is being executed. While a slow script is, the server serves other clients inside of it.
    pub executing: Cell<bool>,
    pub shutdown: Shutdown,
    /// Leadership was given up in this turn: clients are paused from the next one on, until this node follows.
    pub pause_due: Cell<bool>,
    /// When a pause of all clients ends at the latest.
    pub pause_ends: Cell<Option<Instant>>,
    /// The server is to become a replica of the module, at this port, and not before that time.
    pub follow_due: Cell<Option<(Instant, u16)>>,
    /// When this node was removed from its cluster, and the newest client that had come by then.
    pub retired: Cell<Option<(Instant, u64)>>,
    /// The settings that the module owns were set.
    pub took_over: Cell<bool>,
    /// The thread that runs the node, until it is joined at shutdown.
    pub raft_thread: RefCell<Option<std::thread::JoinHandle<()>>>,
}

struct OnlyMainThread(MainThread);

// SAFETY: `get` is called in callbacks of the server only, all of which run on its main thread (or on a thread
// that holds the server's global lock, which this module never gives up).
unsafe impl Sync for OnlyMainThread {}
// SAFETY: as above; it is made on the main thread at load.
unsafe impl Send for OnlyMainThread {}

static MAIN_THREAD: OnceLock<OnlyMainThread> = OnceLock::new();

/// The state of the module; set before the first callback can run.
pub fn get() -> &'static MainThread {
    &MAIN_THREAD.get().expect("set at load, before anything is registered that can call back").0
}

pub fn set(state: MainThread) {
    assert!(MAIN_THREAD.set(OnlyMainThread(state)).is_ok(), "the module is loaded once");
}
