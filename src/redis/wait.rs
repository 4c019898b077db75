//! Clients that wait for a leader: a failover is a short pause to them, not an error.
//!
//! The server's own timeout of a blocked client is not used: a client that times out in the turn in which it is
//! also unblocked would be unblocked twice. Each waiter has one owner, this list, and whoever takes it off the
//! list unblocks it: a leader, its timer, or its disconnection.

use super::data;
use super::ffi::{self, api, Context, Text};
use super::main_thread::{self, MainThread};
use redis_module::raw;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ffi::{c_int, c_void};
use std::ptr::{null_mut, NonNull};

/// Whether a command may still wait.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    Fresh,
    /// It has waited, or must not.
    Over,
}

#[derive(Default)]
pub struct Waiters {
    next: Cell<u64>,
    clients: RefCell<BTreeMap<u64, *mut raw::RedisModuleBlockedClient>>,
}

/// Inside EXEC or a script nothing can wait.
pub fn is_possible(ctx: Context) -> bool {
    let never = raw::REDISMODULE_CTX_FLAGS_MULTI
        | raw::REDISMODULE_CTX_FLAGS_LUA
        | raw::REDISMODULE_CTX_FLAGS_DENY_BLOCKING;
    ffi::context_flags(ctx) & never == 0
}

/// Blocks the client for `leader-wait-ms`; when a leader is known its command is run again from the start.
pub fn for_leader(ctx: Context, state: &MainThread) -> c_int {
    let timeout_ms = super::configs::current().leader_wait_ms;
    if timeout_ms == 0 {
        return ffi::reply_error(ctx, data::NO_LEADER);
    }
    let number = state.waiters.next.get() + 1;
    state.waiters.next.set(number);
    // SAFETY: the callbacks are functions of this file; the private data is a mark, never followed; the timer's
    // argument is a number.
    let blocked = unsafe {
        let blocked = api!(RedisModule_BlockClient)(ctx, Some(again), None, None, 0);
        api!(RedisModule_SetDisconnectCallback)(blocked, Some(disconnected));
        api!(RedisModule_CreateTimer)(
            ctx,
            timeout_ms as i64,
            Some(timed_out),
            number as usize as *mut c_void,
        );
        blocked
    };
    state.waiters.clients.borrow_mut().insert(number, blocked);
    ffi::OK
}

/// Private data of a waiter whose time is over.
fn expired_mark() -> *mut c_void {
    NonNull::<u64>::dangling().as_ptr().cast()
}

impl Waiters {
    /// A leader is known: everyone tries again.
    pub fn wake_all(&self) {
        for blocked in self.clients.take().into_values() {
            // SAFETY: still blocked, and taken off the list by this call.
            unsafe { api!(RedisModule_UnblockClient)(blocked, null_mut()) };
        }
    }
}

unsafe extern "C" fn timed_out(_: Context, number: *mut c_void) {
    if let Some(blocked) = main_thread::get().waiters.clients.borrow_mut().remove(&(number as usize as u64)) {
        api!(RedisModule_UnblockClient)(blocked, expired_mark());
    }
}

unsafe extern "C" fn disconnected(_: Context, blocked: *mut raw::RedisModuleBlockedClient) {
    let mut clients = main_thread::get().waiters.clients.borrow_mut();
    let number = clients.iter().find(|(_, other)| **other == blocked).map(|(number, _)| *number);
    if let Some(number) = number {
        clients.remove(&number);
        // The server wants a client that left to be unblocked all the same.
        api!(RedisModule_UnblockClient)(blocked, null_mut());
    }
}

unsafe extern "C" fn again(ctx: Context, argv: *mut Text, argc: c_int) -> c_int {
    if !api!(RedisModule_GetBlockedClientPrivateData)(ctx).is_null() {
        return ffi::reply_error(ctx, data::NO_LEADER);
    }
    let words = ffi::arguments(argv, argc);
    match is_topology(words) {
        true => super::topology::run(ctx, words, Patience::Over),
        false => data::run(ctx, words, Patience::Over),
    }
}

fn is_topology(words: &[Text]) -> bool {
    words.first().is_some_and(|word| ffi::bytes(*word).eq_ignore_ascii_case(b"RAFT.TOPOLOGY"))
}
