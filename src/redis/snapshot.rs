//! Dumps: the server forks a child that writes its dataset, exactly where the raft log stands.
//!
//! On a follower that is when it runs `RAFT.SNAPSHOT` in its feed; on a leader at the end of a turn of the event loop,
//! together with a mark in the stream. The dump goes into a file of its own beside the user's, whose name, `SAVE` and
//! `BGSAVE` are not touched: while one child runs, the server refuses another.

use super::ffi::{self, Context, Text};
use super::main_thread::{self, MainThread};
use super::symbols;
use crate::node::bridge::{Bridge, Epoch, ToRaft};
use redis_module::raw;
use std::cell::RefCell;
use std::ffi::{c_int, c_void, CString};
use std::path::PathBuf;
use std::time::Duration;

/// How often the child is looked at.
const POLL: Duration = Duration::from_millis(20);

/// Asked for by the raft thread, for the end of this turn.
struct Due {
    epoch: Epoch,
    attempt: u64,
    file: String,
}

struct Running {
    attempt: u64,
    path: PathBuf,
}

#[derive(Default)]
pub struct Saver {
    due: RefCell<Option<Due>>,
    running: RefCell<Option<Running>>,
}

impl Saver {
    pub fn ask(&self, epoch: Epoch, attempt: u64, file: String) {
        *self.due.borrow_mut() = Some(Due { epoch, attempt, file });
    }

    /// Forks if that was asked for and the leadership it was asked of still holds: the attempt to be told in the
    /// stream.
    pub fn fork_if_due(&self, ctx: Context, bridge: &Bridge, epoch: Epoch) -> Option<u64> {
        let Due { epoch: wanted, attempt, file } = self.due.take()?;
        let forked = match wanted == epoch {
            true => self.fork(ctx, bridge, attempt, &file),
            false => Err("leadership was lost".into()),
        };
        match forked {
            Ok(()) => Some(attempt),
            Err(reason) => {
                bridge.tell_raft(ToRaft::SnapshotFailed { attempt, reason });
                None
            }
        }
    }

    /// Starts the child.
    fn fork(&self, ctx: Context, bridge: &Bridge, attempt: u64, file: &str) -> Result<(), String> {
        if self.running.borrow().is_some() {
            return Err("a dump is being written already".into());
        }
        let path = PathBuf::from(ffi::config_get(ctx, "dir")?).join(file);
        // Its presence says that the child has succeeded: it gets its name last.
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(format!("cannot remove the old {}: {error}", path.display()));
            }
            _ => {}
        }
        let name = CString::new(file).map_err(|error| error.to_string())?;
        if !symbols::save_in_background(&name) {
            return Err(
                "the server cannot fork now: another child of it is running, or memory is short".into()
            );
        }
        *self.running.borrow_mut() = Some(Running { attempt, path });
        bridge.tell_raft(ToRaft::SnapshotForked { attempt });
        look_again(ctx);
        Ok(())
    }

    /// Whether the child is done, one way or the other.
    fn poll(&self, ctx: Context, bridge: &Bridge) {
        let Some(Running { attempt, path }) = self.running.take() else { return };
        // Also when the dump has its name: before the server has seen the child end it could not fork the next one.
        if child_is_running(ctx) {
            *self.running.borrow_mut() = Some(Running { attempt, path });
            return look_again(ctx);
        }
        bridge.tell_raft(match path.exists() {
            true => ToRaft::SnapshotSaved { attempt, file: path },
            false => {
                let reason = "the server's child could not write the dump; its log says why".to_string();
                ToRaft::SnapshotFailed { attempt, reason }
            }
        });
    }
}

fn child_is_running(ctx: Context) -> bool {
    let info = ffi::call(ctx, &["INFO", "persistence"]).map(|reply| reply.text()).unwrap_or_default();
    info.lines().any(|line| line.trim() == "rdb_bgsave_in_progress:1")
}

fn look_again(ctx: Context) {
    main_thread::get().timers.after(ctx, POLL, poll);
}

fn poll(ctx: Context) {
    let state = main_thread::get();
    state.saver.poll(ctx, &state.bridge);
}

/// `RAFT.SNAPSHOT <attempt> <file>`: part of the feed.
pub unsafe extern "C" fn snapshot_command(ctx: Context, argv: *mut Text, argc: c_int) -> c_int {
    let words = ffi::arguments(argv, argc);
    let attempt = words.get(1).and_then(|word| std::str::from_utf8(ffi::bytes(*word)).ok()?.parse().ok());
    match (attempt, words.get(2)) {
        (Some(attempt), Some(file)) if super::data::is_from_feed(ctx) => {
            let state = main_thread::get();
            if let Err(reason) = state.saver.fork(ctx, &state.bridge, attempt, &ffi::lossy(*file)) {
                state.bridge.tell_raft(ToRaft::SnapshotFailed { attempt, reason });
            }
            ffi::reply_status(ctx, "OK")
        }
        _ => ffi::reply_error(ctx, "ERR RAFT.SNAPSHOT is part of the replication stream"),
    }
}

/// `RAFT.DEBUG COMPACT [[ASYNC] 0|1]`.
pub fn compact(ctx: Context, state: &MainThread, words: &[Text]) -> c_int {
    let words: Vec<String> = words.iter().map(|word| ffi::lossy(*word).to_ascii_lowercase()).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let wait = match words[..] {
        [] | ["0"] | ["async", "0"] => true,
        ["1"] | ["async", "1"] => false,
        _ => return ffi::reply_error(ctx, "ERR RAFT.DEBUG COMPACT takes [ASYNC] 0 or 1"),
    };
    super::admin::ask(ctx, state, |ticket| ToRaft::Compact { ticket, wait })
}

/// The child that writes a dump, the module's or a user's, has inherited every socket and the lock of the log. Should
/// the server be killed meanwhile, peers and clients would go on waiting for it, and it could not start again: the
/// child lets go of all of them.
pub unsafe extern "C" fn on_persistence(_: Context, _: raw::RedisModuleEvent, _: u64, _: *mut c_void) {
    if std::process::id() == main_thread::get().process {
        return; // SAVE in the server itself
    }
    let Ok(descriptors) = std::fs::read_dir("/proc/self/fd") else { return };
    let held: Vec<c_int> = descriptors
        .filter_map(|item| {
            let item = item.ok()?;
            let target = std::fs::read_link(item.path()).ok()?;
            let is_socket = target.to_string_lossy().starts_with("socket:");
            let is_lock = target.file_name().is_some_and(|name| name == "LOCK");
            (is_socket || is_lock).then(|| item.file_name().to_str()?.parse().ok()).flatten()
        })
        .collect();
    for descriptor in held {
        libc::close(descriptor);
    }
}
