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
use std::time::Duration;

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
    /// Clients taken off the list whose command the server has not run again yet.
    waking: Cell<usize>,
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
    let blocked = block(ctx);
    state.timers.after(ctx, Duration::from_millis(timeout_ms), move |_| timed_out(number));
    state.waiters.clients.borrow_mut().insert(number, blocked);
    ffi::OK
}

/// Blocks the client until [`Waiters::wake`]. Whoever calls this puts it on the one list from which it is woken.
pub fn block(ctx: Context) -> *mut raw::RedisModuleBlockedClient {
    // SAFETY: the callbacks are functions of this file; the private data is a `Reason`.
    unsafe {
        let blocked = api!(RedisModule_BlockClient)(ctx, Some(again), None, Some(woken), 0);
        api!(RedisModule_SetDisconnectCallback)(blocked, Some(disconnected));
        blocked
    }
}

/// Why a client waits no more; its private data. The server frees only what is not null.
#[repr(usize)]
#[derive(Clone, Copy)]
pub enum Reason {
    GoOn = 1,
    Expired = 2,
    /// Its reply is there already.
    Answered = 3,
}

impl Waiters {
    /// A leader is known, or this node leads on: everyone tries again.
    pub fn wake_all(&self) {
        self.clients.take().into_values().for_each(|blocked| self.wake(blocked, Reason::GoOn));
    }

    /// Some are on their way to run again.
    pub fn are_waking(&self) -> bool {
        self.waking.get() > 0
    }

    /// `blocked` was just taken off its list.
    pub fn wake(&self, blocked: *mut raw::RedisModuleBlockedClient, reason: Reason) {
        self.waking.set(self.waking.get() + 1);
        // SAFETY: still blocked, as it was on the list; the private data is a number that is never followed.
        unsafe { api!(RedisModule_UnblockClient)(blocked, reason as usize as *mut c_void) };
    }
}

/// The server is done with a client that was woken, or gone.
unsafe extern "C" fn woken(_: Context, _: *mut c_void) {
    let waking = &main_thread::get().waiters.waking;
    waking.set(waking.get() - 1);
}

fn timed_out(number: u64) {
    let waiters = &main_thread::get().waiters;
    let blocked = waiters.clients.borrow_mut().remove(&number);
    if let Some(blocked) = blocked {
        waiters.wake(blocked, Reason::Expired);
    }
}

unsafe extern "C" fn disconnected(_: Context, blocked: *mut raw::RedisModuleBlockedClient) {
    let state = main_thread::get();
    let waiters = &state.waiters;
    let mut clients = waiters.clients.borrow_mut();
    let number = clients.iter().find(|(_, other)| **other == blocked).map(|(number, _)| *number);
    if number.is_some_and(|number| clients.remove(&number).is_some()) || state.follower_reads.forget(blocked)
    {
        // The server wants a client that left to be unblocked all the same.
        waiters.wake(blocked, Reason::GoOn);
    }
}

unsafe extern "C" fn again(ctx: Context, argv: *mut Text, argc: c_int) -> c_int {
    let reason = api!(RedisModule_GetBlockedClientPrivateData)(ctx) as usize;
    if reason == Reason::Answered as usize {
        return ffi::OK;
    }
    if reason == Reason::Expired as usize {
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
