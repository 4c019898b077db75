//! `RAFT.TOPOLOGY CLUSTER ..`: what a cluster client asks, and `RAFT.DENIED`: what nobody may do.

use super::access;
use super::cluster_views::{answer, Answer, Reply};
use super::ffi::{self, Context, Text};
use super::main_thread;
use super::wait::{self, Patience};
use super::{data, info};
use crate::node::clock;
use crate::node::status::{GateStats, State};
use crate::resp::key_slot;
use std::ffi::c_int;

pub unsafe extern "C" fn topology_command(ctx: Context, argv: *mut Text, argc: c_int) -> c_int {
    run(ctx, ffi::arguments(argv, argc), Patience::Fresh)
}

/// `words`: `RAFT.TOPOLOGY` and the command that the filter found.
pub fn run(ctx: Context, words: &[Text], patience: Patience) -> c_int {
    let Some(command) = words.get(1) else { return ffi::wrong_arity(ctx) };
    if let Some(refusal) = access::refusal(ctx, &words[1..]) {
        return ffi::reply_error(ctx, &refusal);
    }
    let state = main_thread::get();
    let status = state.bridge.status();
    let command = ffi::bytes(*command);
    if !command.eq_ignore_ascii_case(b"cluster") {
        return match status.state {
            State::Uninitialized => ffi::reply_error(ctx, "NOCLUSTER No Raft Cluster"),
            _ => {
                if command.eq_ignore_ascii_case(b"readonly") {
                    state.follower_reads.begin(ctx);
                } else if command.eq_ignore_ascii_case(b"readwrite") {
                    state.follower_reads.end(ffi::client_id(ctx));
                }
                ffi::reply_status(ctx, "OK")
            }
        };
    }
    let arguments: Vec<&[u8]> = words[2..].iter().map(|word| ffi::bytes(*word)).collect();
    match answer(&status, &arguments, key_slot) {
        Answer::Now(reply) => send(ctx, &reply),
        Answer::Wait if patience == Patience::Fresh && wait::is_possible(ctx) => wait::for_leader(ctx, state),
        Answer::Wait => ffi::reply_error(ctx, data::NO_LEADER),
    }
}

fn send(ctx: Context, reply: &Reply) -> c_int {
    match reply {
        Reply::Array(items) => {
            ffi::reply_array(ctx, items.len());
            items.iter().for_each(|item| {
                send(ctx, item);
            });
        }
        Reply::Map(pairs) => {
            ffi::reply_map(ctx, pairs.len());
            for (key, value) in pairs {
                send(ctx, key);
                send(ctx, value);
            }
        }
        Reply::Bulk(text) => {
            ffi::reply_bulk(ctx, text.as_bytes());
        }
        Reply::Integer(value) => {
            ffi::reply_integer(ctx, *value);
        }
        Reply::Error(message) => {
            ffi::reply_error(ctx, message);
        }
    }
    ffi::OK
}

pub unsafe extern "C" fn denied_command(ctx: Context, argv: *mut Text, argc: c_int) -> c_int {
    let words = ffi::arguments(argv, argc);
    let name = words.get(1).map_or(Vec::new(), |word| ffi::bytes(*word).to_ascii_lowercase());
    let reason = match name.as_slice() {
        b"debug" => {
            "ERR not supported: this DEBUG subcommand would change one node's dataset behind raft's back"
        }
        b"client" => "ERR not supported: CLIENT PAUSE would stop the log on this node, and CLIENT TRACKING works with BCAST only",
        _ => "ERR not supported: replication is managed by raft",
    };
    ffi::reply_error(ctx, reason)
}

/// `RAFT.INFO`.
pub unsafe extern "C" fn info_command(ctx: Context, _: *mut Text, _: c_int) -> c_int {
    ffi::reply_bulk(ctx, info::to_text(&fields()).as_bytes())
}

/// `INFO raft`.
pub unsafe extern "C" fn info_section(ctx: *mut redis_module::raw::RedisModuleInfoCtx, _: c_int) {
    info::add_to(ctx, &fields());
}

fn fields() -> Vec<info::Field> {
    let state = main_thread::get();
    let mut status = (*state.bridge.status()).clone();
    if status.leader_id != Some(status.node_id) {
        // RAFT.APPLIED is handled on this thread: the number is newer here than in what was published.
        status.log.applied_index = state.bridge.applied();
    }
    let lease_left_us = state.bridge.lease_until_us().saturating_sub(clock::now_us());
    let follower_reads = state.follower_reads.served();
    let gate = GateStats { lease_left_us, follower_reads, ..state.gate.stats() };
    info::fields(&state.build, &status, &gate)
}
