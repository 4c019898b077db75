//! The command filter: sees every command before the server does.
//!
//! | command | becomes |
//! |---|---|
//! | from the feed: `<token> SET k v` | `SET k v`, native: the log is never intercepted again |
//! | a data command | `RAFT <command>`, which executes, waits, or redirects |
//! | `MULTI`, `WATCH` where this node does not lead | `RAFT MULTI`, which redirects |
//! | `REPLICAOF`, `PSYNC`, .. | `RAFT.DENIED REPLICAOF ..` |
//! | `SHUTDOWN` of a leader | `RAFT.SHUTDOWN SHUTDOWN ..`, which hands leadership over first |
//! | `CLUSTER`, `READONLY`, .. | `RAFT.TOPOLOGY CLUSTER ..` |
//! | `RAFT.PSYNC <secret> ..` of the capture link | `PSYNC ..` |
//! | all else, and what the server will refuse itself | untouched |

use super::command_table::Class;
use super::ffi::{self, api, OwnedText, Text};
use super::main_thread::{self, MainThread};
use redis_module::raw;
use std::ffi::c_int;

const CAPTURE_PSYNC: &[u8] = b"RAFT.PSYNC";
/// Read-only DEBUG subcommands: they tell of this node's own dataset, and are not part of the guarantee.
const DEBUG_ALLOWED: &[&[u8]] =
    &[b"digest", b"digest-value", b"object", b"sleep", b"help", b"listpack", b"stringmatch-len", b"jmap"];

type Filtered = *mut raw::RedisModuleCommandFilterCtx;

pub unsafe extern "C" fn run(command: Filtered) {
    let state = main_thread::get();
    let count = count(command);
    if count == 0 {
        return;
    }
    let name = ffi::bytes(argument(command, 0));
    if name.first() == state.feed_token.first() && name == state.feed_token {
        return delete(command, 0);
    }
    if name.eq_ignore_ascii_case(CAPTURE_PSYNC) && count == 4 {
        return capture_psync(state, command);
    }
    let second = (count > 1).then(|| ffi::bytes(argument(command, 1)));
    match state.table.borrow().classify(name, second, count as usize) {
        Class::Local if name.eq_ignore_ascii_case(b"acl") => {
            state.access.acl_command(second.unwrap_or_default())
        }
        Class::Local if name.eq_ignore_ascii_case(b"exec") => state.access.exec(),
        Class::Local if name.eq_ignore_ascii_case(b"client") && is_refused_client_command(command, count) => {
            insert(command, &state.words.denied)
        }
        Class::Unknown | Class::Local | Class::ReplConf => {}
        Class::Shutdown => {
            let options = (1..count).map(|i| ffi::bytes(argument(command, i)));
            if state.shutdown.takes(state, &options.collect::<Vec<_>>()) {
                insert(command, &state.words.shutdown);
            }
        }
        Class::Read | Class::Write | Class::Blocking { .. } | Class::Wait => {
            insert(command, &state.words.raft)
        }
        // Sealed or not: while the gate is sealed clients are paused, and this runs again when they go on.
        Class::Transaction if state.gate.leads() => {}
        Class::Transaction => insert(command, &state.words.raft),
        Class::Replication => insert(command, &state.words.denied),
        Class::Cluster | Class::ReadonlyMode => insert(command, &state.words.topology),
        Class::Debug => {
            let allowed =
                second.is_none_or(|word| DEBUG_ALLOWED.iter().any(|a| word.eq_ignore_ascii_case(a)));
            if !allowed {
                insert(command, &state.words.denied);
            }
        }
    }
}

/// CLIENT PAUSE stops the feed as well (its commands would be filtered twice), and a server must not replicate
/// anything while clients are paused: the mark of a batch would end the process. CLIENT TRACKING without BCAST
/// remembers keys by the client that read them, and a wrapped command is read by the module: it would never tell.
fn is_refused_client_command(command: Filtered, count: c_int) -> bool {
    let is =
        |position: c_int, word: &[u8]| ffi::bytes(argument(command, position)).eq_ignore_ascii_case(word);
    match count {
        0 | 1 => false,
        _ if is(1, b"pause") => true,
        _ => count > 2 && is(1, b"tracking") && is(2, b"on") && !(3..count).any(|i| is(i, b"bcast")),
    }
}

fn capture_psync(state: &MainThread, command: Filtered) {
    if ffi::bytes(argument(command, 1)) == state.capture_secret {
        delete(command, 0);
        // SAFETY: the filter context is alive; the string is given away with a reference of its own.
        unsafe { api!(RedisModule_CommandFilterArgReplace)(command, 0, state.words.psync.share()) };
    }
}

fn count(command: Filtered) -> c_int {
    // SAFETY: the server passes a live context to the filter.
    unsafe { api!(RedisModule_CommandFilterArgsCount)(command) }
}

fn argument(command: Filtered, position: c_int) -> Text {
    // SAFETY: `position` is below the count; the string lives as long as the filter runs.
    unsafe { api!(RedisModule_CommandFilterArgGet)(command, position) as Text }
}

fn delete(command: Filtered, position: c_int) {
    // SAFETY: `position` is below the count.
    unsafe { api!(RedisModule_CommandFilterArgDelete)(command, position) };
}

fn insert(command: Filtered, word: &OwnedText) {
    // SAFETY: the context is alive; the string is given away with a reference of its own.
    unsafe { api!(RedisModule_CommandFilterArgInsert)(command, 0, word.share()) };
}
