//! Reads on a node that does not lead, for connections that said `READONLY`.
//!
//! The client is blocked; `RAFT.READ` in the feed executes what waits. So the command runs at one position of the log, and
//! for the server it is its master who runs it: a key whose time to live has passed by this machine's clock is still
//! there, until the leader's DEL comes. That is what the log says, and nobody has been told anything else: were keys
//! hidden here by a clock that is ahead, a client could see one gone that the leader still shows to others.
//!
//! Invariant: while one of these clients is blocked this node follows. (`REPLICAOF` ends every blocked client with an error.)

use super::access;
use super::data;
use super::ffi::{self, api, Context, OwnedText, Text};
use super::main_thread::{self, MainThread};
use super::wait::{self, Reason};
use redis_module::raw;
use std::cell::{Cell, RefCell};
use std::collections::{HashSet, VecDeque};
use std::ffi::{c_int, c_void};
use std::ptr::null_mut;
use std::time::{Duration, Instant};

/// A read waits at least this long, whatever `leader-wait-ms` says: it asks another node.
const MIN_WAIT_MS: u64 = 100;

/// A command that waits for its turn in the feed.
struct Pending {
    number: u64,
    blocked: *mut raw::RedisModuleBlockedClient,
    words: Vec<OwnedText>,
    user: OwnedText,
    deadline: Instant,
}

#[derive(Default)]
pub struct FollowerReads {
    /// Connections that said `READONLY`.
    readonly: RefCell<HashSet<u64>>,
    /// In order of their numbers.
    pending: RefCell<VecDeque<Pending>>,
    last: Cell<u64>,
    /// The raft thread knows of reads up to here.
    told: Cell<u64>,
    /// The server is a replica of the log, by the last word of this thread.
    following: Cell<bool>,
    timer_runs: Cell<bool>,
    served: Cell<u64>,
}

impl FollowerReads {
    /// `READONLY`. Changing the user, which `RESET` does too, ends it: the server tells nothing of `RESET` itself.
    pub fn begin(&self, ctx: Context) {
        watch_user(ctx);
        self.readonly.borrow_mut().insert(ffi::client_id(ctx));
    }

    /// `READWRITE`, or the client is gone.
    pub fn end(&self, client: u64) {
        self.readonly.borrow_mut().remove(&client);
    }

    pub fn served(&self) -> u64 {
        self.served.get()
    }

    /// Whether this client's reads are answered here.
    pub fn serve(&self, ctx: Context) -> bool {
        self.following.get()
            && raw_set_user().is_some()
            && self.readonly.borrow().contains(&ffi::client_id(ctx))
            && wait::is_possible(ctx)
    }

    /// Blocks the client until its command has its turn in the feed.
    pub fn ask(&self, ctx: Context, command: &[Text]) -> c_int {
        if let Some(refusal) = access::refusal(ctx, command) {
            return ffi::reply_error(ctx, &refusal);
        }
        let wait_ms = super::configs::current().leader_wait_ms.max(MIN_WAIT_MS);
        let number = self.last.get() + 1;
        self.last.set(number);
        self.pending.borrow_mut().push_back(Pending {
            number,
            blocked: wait::block(ctx),
            words: command.iter().map(|word| OwnedText::new(ffi::bytes(*word))).collect(),
            user: user_name(ctx),
            deadline: Instant::now() + Duration::from_millis(wait_ms),
        });
        self.run_timer(ctx);
        ffi::OK
    }

    /// One request of the raft thread for all reads of a turn of the event loop.
    pub fn tell(&self, state: &MainThread) {
        if self.told.replace(self.last.get()) != self.last.get() {
            state.bridge.want_reads(self.last.get());
        }
    }

    pub fn follows(&self) {
        self.following.set(true);
    }

    /// The server becomes a master: whoever waits starts over, on a leader or with a redirection.
    pub fn stops_following(&self, state: &MainThread) {
        self.following.set(false);
        for pending in self.pending.take() {
            state.waiters.wake(pending.blocked, Reason::GoOn);
        }
    }

    /// The client is gone; true when it was one of these.
    pub fn forget(&self, blocked: *mut raw::RedisModuleBlockedClient) -> bool {
        let mut pending = self.pending.borrow_mut();
        let before = pending.len();
        pending.retain(|read| read.blocked != blocked);
        pending.len() < before
    }

    fn take_due(&self, is_due: impl Fn(&Pending) -> bool) -> Option<Pending> {
        let mut pending = self.pending.borrow_mut();
        let due = pending.front().is_some_and(is_due);
        due.then(|| pending.pop_front()).flatten()
    }

    /// Sees to it that the first one's time runs out.
    fn run_timer(&self, ctx: Context) {
        let Some(deadline) = self.pending.borrow().front().map(|read| read.deadline) else { return };
        if self.timer_runs.replace(true) {
            return;
        }
        let left = deadline.saturating_duration_since(Instant::now());
        main_thread::get().timers.after(ctx, left, time_passed);
    }
}

fn time_passed(ctx: Context) {
    let state = main_thread::get();
    let reads = &state.follower_reads;
    let now = Instant::now();
    while let Some(late) = reads.take_due(|read| read.deadline <= now) {
        state.waiters.wake(late.blocked, Reason::Expired);
    }
    reads.timer_runs.set(false);
    reads.run_timer(ctx);
}

/// `RAFT.READ <through>`: part of the feed.
pub unsafe extern "C" fn read_command(ctx: Context, argv: *mut Text, argc: c_int) -> c_int {
    let words = ffi::arguments(argv, argc);
    let through = words.get(1).and_then(|word| std::str::from_utf8(ffi::bytes(*word)).ok()?.parse().ok());
    let Some(through) = through.filter(|_| data::is_from_feed(ctx)) else {
        return ffi::reply_error(ctx, "ERR RAFT.READ is part of the replication stream");
    };
    let state = main_thread::get();
    let reads = &state.follower_reads;
    while let Some(read) = reads.take_due(|read: &Pending| read.number <= through) {
        answer(&read);
        reads.served.set(reads.served.get() + 1);
        state.waiters.wake(read.blocked, Reason::Answered);
    }
    ffi::reply_status(ctx, "OK")
}

/// Executes the command; the reply leaves when the client is unblocked.
fn answer(read: &Pending) {
    // SAFETY: the client is blocked, as it was on the list; the context is freed below.
    let ctx = unsafe { api!(RedisModule_GetThreadSafeContext)(read.blocked) };
    match User::named(&read.user) {
        Some(user) => {
            user.runs(ctx);
            let words: Vec<Text> = read.words.iter().map(|word| word.0).collect();
            match data::call_in_feed(ctx, &words) {
                Ok(reply) => reply.forward(ctx),
                Err(message) => ffi::reply_error(ctx, &message),
            };
        }
        None => {
            ffi::reply_error(ctx, "NOPERM this user is gone");
        }
    }
    // SAFETY: made above, freed once; the global lock was never taken or given up.
    unsafe { api!(RedisModule_FreeThreadSafeContext)(ctx) };
}

type SetUser = unsafe extern "C" fn(Context, *const raw::RedisModuleUser);

/// Since 7.0.6: without it a script would run with all rights.
fn raw_set_user() -> Option<SetUser> {
    // SAFETY: written once, while the module is loaded.
    unsafe { raw::RedisModule_SetContextUser }
}

/// An ACL user as the module API knows it; freed on drop, the server's own stays.
struct User(*mut raw::RedisModuleUser);

impl User {
    fn named(name: &OwnedText) -> Option<User> {
        // SAFETY: the name is alive.
        let user = unsafe { api!(RedisModule_GetModuleUserFromUserName)(name.0) };
        (!user.is_null()).then_some(User(user))
    }

    fn runs(&self, ctx: Context) {
        let set_user = raw_set_user().expect("looked for before the client was blocked");
        // SAFETY: both are alive until the context is freed.
        unsafe { set_user(ctx, self.0) };
    }
}

impl Drop for User {
    fn drop(&mut self) {
        // SAFETY: made by `named`, freed once.
        unsafe { api!(RedisModule_FreeModuleUser)(self.0) };
    }
}

/// Name of the calling client's user.
fn user_name(ctx: Context) -> OwnedText {
    // SAFETY: the client was let through to a command, so it has a user; the name is freed after it was copied.
    unsafe {
        let name = api!(RedisModule_GetCurrentUserName)(ctx);
        let copy = OwnedText::new(ffi::bytes(name));
        api!(RedisModule_FreeString)(ctx, name);
        copy
    }
}

/// Authenticates the client as whom it is already, to be told when that changes.
fn watch_user(ctx: Context) {
    let name = user_name(ctx);
    let name = ffi::bytes(name.0);
    // SAFETY: the name is copied; the callback is a function of this file and ignores its private data. It cannot be
    // called after this client is gone, which is a change as well. A failure (a user that was disabled meanwhile) only
    // leaves `RESET` without effect on the mode.
    unsafe {
        api!(RedisModule_AuthenticateClientWithACLUser)(
            ctx,
            name.as_ptr().cast(),
            name.len(),
            Some(user_changed),
            null_mut(),
            null_mut(),
        );
    }
}

unsafe extern "C" fn user_changed(client: u64, _: *mut c_void) {
    main_thread::get().follower_reads.end(client);
}
