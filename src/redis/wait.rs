//! Clients that wait for a leader: a failover is a short pause to them, not an error.

use super::data;
use super::ffi::{self, api, Context, Text};
use super::main_thread::{self, MainThread};
use redis_module::raw;
use std::cell::RefCell;
use std::ffi::c_int;
use std::ptr::null_mut;

/// Whether a command may still wait.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    Fresh,
    /// It has waited, or must not.
    Over,
}

#[derive(Default)]
pub struct Waiters {
    clients: RefCell<Vec<*mut raw::RedisModuleBlockedClient>>,
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
    // SAFETY: the callbacks are functions of this file; there is no private data.
    let blocked =
        unsafe { api!(RedisModule_BlockClient)(ctx, Some(again), Some(timed_out), None, timeout_ms as i64) };
    // SAFETY: the blocked client is alive until it is unblocked; the callback forgets it when it goes.
    unsafe { api!(RedisModule_SetDisconnectCallback)(blocked, Some(disconnected)) };
    state.waiters.clients.borrow_mut().push(blocked);
    ffi::OK
}

impl Waiters {
    /// A leader is known: everyone tries again.
    pub fn wake_all(&self) {
        for blocked in self.clients.take() {
            // SAFETY: still blocked: those that timed out or left were taken off the list.
            unsafe { api!(RedisModule_UnblockClient)(blocked, null_mut()) };
        }
    }

    fn forget(&self, blocked: *mut raw::RedisModuleBlockedClient) {
        self.clients.borrow_mut().retain(|other| *other != blocked);
    }
}

unsafe extern "C" fn again(ctx: Context, argv: *mut Text, argc: c_int) -> c_int {
    let words = ffi::arguments(argv, argc);
    match is_topology(words) {
        true => super::topology::run(ctx, words, Patience::Over),
        false => data::run(ctx, words, Patience::Over),
    }
}

fn is_topology(words: &[Text]) -> bool {
    words.first().is_some_and(|word| ffi::bytes(*word).eq_ignore_ascii_case(b"RAFT.TOPOLOGY"))
}

unsafe extern "C" fn timed_out(ctx: Context, _: *mut Text, _: c_int) -> c_int {
    let blocked = api!(RedisModule_GetBlockedClientHandle)(ctx);
    main_thread::get().waiters.forget(blocked);
    ffi::reply_error(ctx, data::NO_LEADER)
}

unsafe extern "C" fn disconnected(_: Context, blocked: *mut raw::RedisModuleBlockedClient) {
    main_thread::get().waiters.forget(blocked);
    // The server wants a client that left to be unblocked all the same.
    api!(RedisModule_UnblockClient)(blocked, null_mut());
}
