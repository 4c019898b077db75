//! `RAFT <command ..>`: data commands, put there by the filter or written by a client.
//!
//! On the leader the command is executed at once, and its reply is held by the gate. Elsewhere it is redirected;
//! where no leader is known it waits. An error is sent only for a command that was not executed.

use super::access;
use super::blocking;
use super::cluster_views::{moved, REMOVED};
use super::command_table::{blocks, Class};
use super::ffi::{self, Context, Text};
use super::gate;
use super::main_thread::{self, MainThread};
use super::vector_sets::unthreaded;
use super::wait;
use crate::node::status::{State, Status};
use crate::resp::key_slot;
use redis_module::raw;
use std::ffi::{c_int, CStr};
use std::time::Duration;

/// Replicate; errors as replies; the client's protocol version; its ACL user; respect maxmemory.
pub const CALL_FORMAT: &CStr = c"!E0CMv";

/// As above, but nothing is replicated: for commands that only read.
const READ_FORMAT: &CStr = c"E0Cv";

pub unsafe extern "C" fn raft_command(ctx: Context, argv: *mut Text, argc: c_int) -> c_int {
    run(ctx, ffi::arguments(argv, argc), wait::Patience::Fresh)
}

/// `words`: `RAFT` and the command.
pub fn run(ctx: Context, words: &[Text], patience: wait::Patience) -> c_int {
    if words.len() < 2 {
        return ffi::wrong_arity(ctx);
    }
    let state = main_thread::get();
    if state.transactions.is_closing(ffi::client_id(ctx)) {
        return ffi::reply_error(ctx, NO_LEADER); // nobody reads it
    }
    let command = &words[1..];
    let second = command.get(1).map(|word| ffi::bytes(*word));
    let class = state.table.borrow().classify(ffi::bytes(command[0]), second, command.len());
    match class {
        Class::Unknown => refuse_unknown(ctx, command),
        Class::Read | Class::Write | Class::Blocking { .. } | Class::Wait | Class::Transaction => {
            match state.gate.is_open() {
                true => execute(ctx, state, command, class, patience),
                false => {
                    if class == Class::Transaction {
                        state.transactions.refused(ffi::client_id(ctx));
                    }
                    elsewhere(ctx, state, command, class, patience)
                }
            }
        }
        _ => ffi::reply_error(ctx, "ERR RAFT runs commands that read or write data; send others as they are"),
    }
}

fn execute(
    ctx: Context,
    state: &MainThread,
    command: &[Text],
    class: Class,
    patience: wait::Patience,
) -> c_int {
    match class {
        Class::Wait => return execute_wait(ctx, state),
        // It waited for a leader, and this node became it. It cannot be begun from here, and the commands behind it
        // must not run without it.
        Class::Transaction => {
            gate::cut_off(ctx, ffi::client_id(ctx));
            return ffi::OK;
        }
        Class::Blocking { .. } if blocking_words(command) => {
            return match patience {
                wait::Patience::Fresh => blocking::run(ctx, state, command),
                wait::Patience::Over => send_here(ctx, state, command),
            };
        }
        Class::Write | Class::Blocking { write: true } => state.gate.wrote(),
        _ => {}
    }
    call_and_hold(ctx, state, command)
}

fn blocking_words(command: &[Text]) -> bool {
    blocks(&command.iter().map(|word| ffi::bytes(*word)).collect::<Vec<_>>())
}

/// Executes now, answers into the client's buffer, and holds that. Held first: while a slow script runs, the server
/// serves other clients, and would read and answer this one.
fn call_and_hold(ctx: Context, state: &MainThread, command: &[Text]) -> c_int {
    state.gate.hold(ffi::client_id(ctx));
    match call(ctx, command) {
        Ok(reply) => reply.forward(ctx),
        Err(message) => ffi::reply_error(ctx, &message),
    }
}

/// Runs a data command for the calling client. `Err`: it was refused before it ran.
pub fn call(ctx: Context, command: &[Text]) -> Result<ffi::CallReply, String> {
    let reply = call_as(ctx, command, CALL_FORMAT)?;
    // The server words a missing right differently inside a module.
    match reply.is_error() {
        true => access::refusal(ctx, command).map_or(Ok(reply), Err),
        false => Ok(reply),
    }
}

/// Runs a read for the user of the context, whose rights to the command itself were looked at before.
pub fn call_in_feed(ctx: Context, command: &[Text]) -> Result<ffi::CallReply, String> {
    call_as(ctx, command, READ_FORMAT)
}

fn call_as(ctx: Context, command: &[Text], format: &CStr) -> Result<ffi::CallReply, String> {
    let state = main_thread::get();
    let nothread = &state.words.nothread;
    let unthreaded = unthreaded(command, ffi::bytes, nothread.0);
    let command = unthreaded.as_deref().unwrap_or(command);
    let name = ffi::bytes(command[0]);
    // The server ends its strings with a zero, so the name is a C string as it stands, if it has no zero within.
    // SAFETY: the byte after a server string's last one belongs to it and is zero.
    let name =
        CStr::from_bytes_with_nul(unsafe { std::slice::from_raw_parts(name.as_ptr(), name.len() + 1) })
            .map_err(|_| "ERR unknown command".to_string())?;
    let outer = state.executing.replace(true);
    let reply = ffi::call_vector(ctx, name, format, &command[1..]);
    state.executing.set(outer);
    reply.ok_or_else(|| format!("ERR {}", std::io::Error::last_os_error()))
}

/// What this connection wrote before was answered, so a majority has it on disk. Calling the server's own WAIT
/// would end the process.
fn execute_wait(ctx: Context, state: &MainThread) -> c_int {
    let voters = state.bridge.status().members.iter().filter(|member| member.voting).count();
    ffi::reply_integer(ctx, (voters / 2) as i64);
    state.gate.hold(ffi::client_id(ctx));
    ffi::OK
}

/// This node does not lead, or not yet.
fn elsewhere(
    ctx: Context,
    state: &MainThread,
    command: &[Text],
    class: Class,
    patience: wait::Patience,
) -> c_int {
    let status = state.bridge.status();
    match status.state {
        State::Uninitialized | State::Joining => return ffi::reply_error(ctx, "NOCLUSTER No Raft Cluster"),
        State::Removed => return removed(ctx, state, &status, command),
        State::Up if patience == wait::Patience::Fresh && only_reads(command, class) => {
            if state.follower_reads.serve(ctx) {
                let result = state.follower_reads.ask(ctx, command);
                if state.gate.has_slept() {
                    state.follower_reads.tell(state);
                }
                return result;
            }
        }
        State::Loading | State::Up => {}
    }
    match (leader_elsewhere(&status), patience) {
        (Some(address), _) => ffi::reply_error(ctx, &moved(slot_of(ctx, command), address)),
        (None, wait::Patience::Fresh) if wait::is_possible(ctx) => wait::for_leader(ctx, state),
        (None, _) => ffi::reply_error(ctx, NO_LEADER),
    }
}

/// How long clients that come to a removed node are sent on: the others may still be sending them here.
const SENT_ON: Duration = Duration::from_secs(60);

/// Clients that came to the cluster are sent there: those that were connected when this node was removed, and those that
/// were redirected here until then and come a moment later. Others are told that this is the wrong place.
fn removed(ctx: Context, state: &MainThread, status: &Status, command: &[Text]) -> c_int {
    let sent_on = state
        .retired
        .get()
        .is_none_or(|(at, last_client)| ffi::client_id(ctx) <= last_client || at.elapsed() < SENT_ON);
    match &status.leader_addr {
        Some(address) if sent_on => ffi::reply_error(ctx, &moved(slot_of(ctx, command), address)),
        _ => ffi::reply_error(ctx, REMOVED),
    }
}

/// Whether the command changes nothing and never waits.
fn only_reads(command: &[Text], class: Class) -> bool {
    match class {
        Class::Read => true,
        Class::Blocking { write: false } => !blocking_words(command),
        _ => false,
    }
}

pub const NO_LEADER: &str = "CLUSTERDOWN No raft leader";

/// The leader's address, if the leader is another node.
pub fn leader_elsewhere(status: &Status) -> Option<&str> {
    status.leader_id.filter(|id| *id != status.node_id)?;
    status.leader_addr.as_deref()
}

/// This node leads: the client is told to come back here.
pub fn send_here(ctx: Context, state: &MainThread, command: &[Text]) -> c_int {
    let status = state.bridge.status();
    match &status.leader_addr {
        Some(address) => ffi::reply_error(ctx, &moved(slot_of(ctx, command), address)),
        None => ffi::reply_error(ctx, NO_LEADER),
    }
}

/// Slot of the command's first key; 0 for a command without keys.
fn slot_of(ctx: Context, command: &[Text]) -> u16 {
    ffi::keys(ctx, command).first().map_or(0, |key| key_slot(ffi::bytes(*key)))
}

/// `RAFT NOSUCHCOMMAND`: the server's own words.
fn refuse_unknown(ctx: Context, command: &[Text]) -> c_int {
    match call(ctx, command) {
        Ok(reply) if reply.is_error() => reply.forward(ctx),
        Ok(_) => ffi::reply_error(ctx, "ERR unknown command"),
        Err(message) => ffi::reply_error(ctx, &message),
    }
}

/// `RAFT.DEBUG EXEC <command ..>`: a read of this node's own dataset, without Raft. `RAFT.DEBUG COMPACT`: a snapshot now.
pub unsafe extern "C" fn debug_command(ctx: Context, argv: *mut Text, argc: c_int) -> c_int {
    let words = ffi::arguments(argv, argc);
    match words.get(1) {
        Some(word) if ffi::bytes(*word).eq_ignore_ascii_case(b"exec") && words.len() > 2 => {}
        Some(word) if ffi::bytes(*word).eq_ignore_ascii_case(b"compact") => {
            return super::snapshot::compact(ctx, main_thread::get(), &words[2..]);
        }
        _ => return ffi::reply_error(ctx, "ERR RAFT.DEBUG takes EXEC <command ..> or COMPACT [ASYNC 0|1]"),
    }
    let command = &words[2..];
    let second = command.get(1).map(|word| ffi::bytes(*word));
    let state = main_thread::get();
    let class = state.table.borrow().classify(ffi::bytes(command[0]), second, command.len());
    match class {
        Class::Read => state.gate.shield(ffi::client_id(ctx), || match call(ctx, command) {
            Ok(reply) => reply.forward(ctx),
            Err(message) => ffi::reply_error(ctx, &message),
        }),
        Class::Unknown => refuse_unknown(ctx, command),
        _ => ffi::reply_error(ctx, "ERR RAFT.DEBUG EXEC runs commands that only read"),
    }
}

/// Whether the callback runs for the feed, the server's link to this module as its master.
pub fn is_from_feed(ctx: Context) -> bool {
    ffi::context_flags(ctx) & raw::REDISMODULE_CTX_FLAGS_REPLICATED != 0
}
