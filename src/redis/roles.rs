//! What the raft thread asks of the main thread: follow, lead, stop leading, answer.

use super::ffi::{self, Context};
use super::main_thread::{self, MainThread};
use super::{gate, settings, signals};
use crate::node::bridge::{Epoch, ToMain, ToRaft};
use redis_module::raw;
use std::ffi::{c_int, c_void};
use std::time::{Duration, Instant};

/// The event loop calls it when the raft thread has used its wake-up. What it asks for is done at the end of the
/// turn, in a context that puts marks into the replication stream at once.
pub unsafe extern "C" fn on_wake(fd: c_int, _: *mut c_void, _: c_int) {
    let mut counter = [0u8; 8];
    // An eventfd gives eight bytes or, when somebody else was faster, none; either way the queues are looked at.
    let _ = libc::read(fd, counter.as_mut_ptr().cast(), counter.len());
    let state = main_thread::get();
    state.woken.set(true);
    state.gate.release(&state.bridge);
}

fn handle_messages(ctx: Context, state: &MainThread) {
    if !state.woken.take() {
        return;
    }
    if let Some(signal) = signals::take() {
        state.shutdown.signalled(ctx, state, signal);
    }
    // What was decided while this thread was busy: leadership may be lost in what follows.
    state.gate.release(&state.bridge);
    let mut messages = Vec::new();
    state.bridge.take_for_main(&mut messages);
    messages.into_iter().for_each(|message| handle(ctx, state, message));
    state.gate.release(&state.bridge); // what was released between the two looks
}

fn handle(ctx: Context, state: &MainThread, message: ToMain) {
    match message {
        ToMain::Follow { port } => follow(ctx, state, port),
        ToMain::Promote { epoch } => promote(ctx, state, epoch),
        ToMain::Demote { epoch } => demote(ctx, state, epoch),
        ToMain::Empty { load } => {
            ffi::reset_dataset();
            state.bridge.tell_raft(ToRaft::Emptied { load });
        }
        ToMain::Retire => retire(ctx, state),
        ToMain::Snapshot { epoch, attempt, file } => state.saver.ask(epoch, attempt, file),
        ToMain::Seal { attempt } => {
            state.seal_due.set(Some(attempt));
            ffi::next_turn(gate::nothing); // what is done at its beginning need not wait for an event
        }
        ToMain::Unseal => unseal(ctx, state),
        ToMain::LeaderChanged => {
            let status = state.bridge.status();
            if super::data::leader_elsewhere(&status).is_some() {
                state.waiters.wake_all();
            }
        }
        ToMain::Answer { ticket, answer } => {
            if !state.shutdown.answer(ctx, ticket, &answer) {
                state.tickets.answer(ticket, Some(answer));
            }
        }
    }
}

/// After a REPLICAOF that failed.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// REPLICAOF ends every blocked client with an error, so none may be blocked then: clients are paused from the
/// moment that this node stops leading, and whoever waits for an answer that is on its way gets it first. Nor can a
/// server change its role while it loads its own RDB at start.
fn follow(ctx: Context, state: &MainThread, port: u16) {
    state.follow_due.set(Some((Instant::now(), port)));
    state.retired.set(None);
    pause(ctx);
    let is_loading = ffi::context_flags(ctx) & raw::REDISMODULE_CTX_FLAGS_LOADING != 0;
    if is_loading || state.tickets.are_waiting() {
        return;
    }
    if !state.took_over.replace(true) {
        settings::take_over(ctx);
    }
    match ffi::call(ctx, &["REPLICAOF", "127.0.0.1", &port.to_string()]) {
        Ok(_) => {
            state.follow_due.set(None);
            state.follower_reads.follows();
        }
        Err(error) => {
            // Without the feed this node can only vote; that is worth more than a dead process.
            log::error!("cannot become a replica of the raft log, trying again: {error}");
            state.follow_due.set(Some((Instant::now() + RETRY_PAUSE, port)));
        }
    }
    // A pause that reached into following would hold up the feed itself, which is a client as well.
    unpause(ctx, state);
}

/// What stood in the way may be over: looked at in each turn, of which there are several a second. No timer of the server
/// would do: they go by the time of day, and one set back by an hour would be an hour late.
fn follow_if_due(ctx: Context, state: &MainThread) {
    if let Some((_, port)) = state.follow_due.get().filter(|(at, _)| Instant::now() >= *at) {
        follow(ctx, state, port);
    }
}

fn unpause(ctx: Context, state: &MainThread) {
    state.pause_due.set(false);
    resume_clients(ctx, state);
}

/// This node was taken out of its cluster: a master without data, as before INIT or JOIN.
fn retire(ctx: Context, state: &MainThread) {
    state.follow_due.set(None);
    state.follower_reads.stops_following(state);
    state.retired.set(Some((Instant::now(), newest_client(ctx))));
    if let Err(error) = ffi::call(ctx, &["REPLICAOF", "NO", "ONE"]) {
        log::error!("cannot stop being a replica of the raft log: {error}");
    }
    ffi::reset_dataset();
    if let Err(error) = ffi::call(ctx, &["FUNCTION", "FLUSH"]) {
        log::error!("cannot drop the functions: {error}");
    }
    unpause(ctx, state);
    state.waiters.wake_all();
}

/// The highest id of a client that is connected; ids only grow.
fn newest_client(ctx: Context) -> u64 {
    let list = ffi::call(ctx, &["CLIENT", "LIST"]).map(|list| list.text()).unwrap_or_else(|error| {
        log::error!("cannot list clients: {error}");
        String::new()
    });
    let id = |line: &str| line.strip_prefix("id=")?.split(' ').next()?.parse().ok();
    list.lines().filter_map(id).max().unwrap_or(0)
}

/// Longest pause of clients while this node changes from leading to following; the server ends it then by itself.
const PAUSE_MS: u64 = 5000;

/// The same, while leadership is handed over: beyond what the raft thread takes before it asks for the transfer, which
/// ends after an election timeout.
const SEALED_PAUSE_MS: u64 = 5000;

fn pause(ctx: Context) {
    pause_for(ctx, PAUSE_MS);
}

fn pause_for(ctx: Context, time_ms: u64) {
    main_thread::get().pause_ends.set(Some(Instant::now() + Duration::from_millis(time_ms)));
    if let Err(error) = ffi::call(ctx, &["CLIENT", "PAUSE", &time_ms.to_string(), "ALL"]) {
        log::error!("cannot pause clients: {error}");
    }
}

/// The server's own end of a pause goes by the time of day: a clock that is set back by an hour makes it an hour longer,
/// also for the module's own links.
fn end_pause_in_time(ctx: Context, state: &MainThread) {
    if state.pause_ends.get().is_some_and(|end| Instant::now() >= end) {
        resume_clients(ctx, state);
    }
}

fn resume_clients(ctx: Context, state: &MainThread) {
    state.pause_ends.set(None);
    if let Err(error) = ffi::call(ctx, &["CLIENT", "UNPAUSE"]) {
        log::error!("cannot resume clients: {error}");
    }
}

fn promote(ctx: Context, state: &MainThread, epoch: Epoch) {
    let promoted = ffi::call(ctx, &["REPLICAOF", "NO", "ONE"]).and_then(|_| replication_position(ctx));
    match promoted {
        Ok((replid, offset)) => {
            state.follower_reads.stops_following(state);
            // Commands that come from here on are in the stream behind `offset`.
            state.transactions.close_all(ctx);
            state.gate.open(epoch);
            signals::set_leading(true);
            state.bridge.tell_raft(ToRaft::Promoted { epoch, replid, offset });
            state.waiters.wake_all();
        }
        Err(reason) => state.bridge.tell_raft(ToRaft::PromotionFailed { epoch, reason }),
    }
}

/// Id and offset of the server's replication stream.
fn replication_position(ctx: Context) -> Result<(String, u64), String> {
    let info = ffi::call(ctx, &["INFO", "replication"])?.text();
    let field =
        |name: &str| info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim);
    let replid = field("master_replid").ok_or("INFO replication has no master_replid")?;
    let offset = field("master_repl_offset").and_then(|text| text.parse().ok());
    Ok((replid.to_string(), offset.ok_or("INFO replication has no master_repl_offset")?))
}

fn demote(ctx: Context, state: &MainThread, epoch: Epoch) {
    log::info!("leadership {epoch} is over: closing held clients");
    state.seal_due.set(None);
    signals::set_leading(false);
    state.gate.fail(ctx);
    state.pause_due.set(true);
    close_transactions(ctx);
    state.blocked.redirect_all(ctx);
}

/// Leadership is being handed over: nothing is executed, expired or evicted from here on, and the raft thread is told
/// where the stream ends. Not before everything that was executed is in a batch, and everybody who waited for a
/// leader has had its turn.
///
/// The pause is the server's own: it holds back commands of every kind, so that a transaction that is being queued
/// is neither broken nor executed, and stops expiry and eviction. The gate is closed beside it, for the case that the
/// pause ends by itself because the raft thread is late.
fn seal(ctx: Context, state: &MainThread) {
    let Some(attempt) = state.seal_due.get() else { return };
    if !state.gate.leads() {
        return state.seal_due.set(None);
    }
    if state.waiters.are_waking() || !state.gate.try_seal() {
        return ffi::next_turn(gate::nothing);
    }
    state.seal_due.set(None);
    pause_for(ctx, SEALED_PAUSE_MS + super::configs::current().election_timeout_ms);
    match replication_position(ctx) {
        Ok((_, offset)) => state.bridge.tell_raft(ToRaft::Sealed { attempt, offset }),
        // Without an answer the raft thread gives the hand-over up.
        Err(error) => log::error!("cannot tell where the replication stream ends: {error}"),
    }
}

fn unseal(ctx: Context, state: &MainThread) {
    state.seal_due.set(None);
    if !state.gate.unseal() {
        return;
    }
    resume_clients(ctx, state);
    state.waiters.wake_all();
}

/// Commands queued after MULTI could only fail inside EXEC's array here.
fn close_transactions(ctx: Context) {
    let list = match ffi::call(ctx, &["CLIENT", "LIST", "TYPE", "normal"]) {
        Ok(list) => list.text(),
        Err(error) => return log::error!("cannot list clients: {error}"),
    };
    for line in list.lines() {
        let field = |name: &str| line.split(' ').find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
        let in_multi = field("flags").is_some_and(|flags| flags.contains('x'));
        if let Some(id) = field("id").filter(|_| in_multi).and_then(|id| id.parse().ok()) {
            gate::cut_off(ctx, id);
        }
    }
}

/// Each turn of the event loop, before the server sleeps and writes to its clients, and after.
pub unsafe extern "C" fn on_event_loop(
    ctx: Context,
    _: raw::RedisModuleEvent,
    subevent: u64,
    _: *mut c_void,
) {
    let state = main_thread::get();
    match subevent {
        BEFORE_SLEEP => {
            // First: a leadership that ends now puts its last mark in place of this batch's. Two would be wrapped in
            // a transaction.
            handle_messages(ctx, state);
            follow_if_due(ctx, state);
            end_pause_in_time(ctx, state);
            state.timers.run_due(ctx);
            let forked = state.saver.fork_if_due(ctx, &state.bridge, state.gate.epoch());
            state.gate.before_sleep(ctx, &state.bridge, forked);
            state.follower_reads.tell(state);
            state.access.refresh(ctx);
        }
        _ => {
            state.gate.after_sleep();
            // Not before the last mark has left: the server must not replicate anything while clients are paused.
            if state.pause_due.take() {
                pause(ctx);
            }
            seal(ctx, state);
        }
    }
}

const BEFORE_SLEEP: u64 = 0;

/// A key expired or was evicted, or a hash changed, which may be a field that expired: a batch that has only read
/// has written after all.
pub unsafe extern "C" fn on_key_gone(
    _: Context,
    _: c_int,
    _: *const std::ffi::c_char,
    _: super::ffi::Text,
) -> c_int {
    main_thread::get().gate.wrote();
    ffi::OK
}

/// A client came or went.
pub unsafe extern "C" fn on_client(_: Context, _: raw::RedisModuleEvent, subevent: u64, data: *mut c_void) {
    if subevent == raw::REDISMODULE_SUBEVENT_CLIENT_CHANGE_DISCONNECTED {
        let (client, state) = (&*data.cast::<raw::RedisModuleClientInfo>(), main_thread::get());
        state.transactions.forget(client.id);
        state.follower_reads.end(client.id);
    }
}

/// The server is ending: the raft thread writes what it has and stops.
pub unsafe extern "C" fn on_shutdown(_: Context, _: raw::RedisModuleEvent, _: u64, _: *mut c_void) {
    let state = main_thread::get();
    state.bridge.tell_raft(ToRaft::Shutdown);
    if let Some(thread) = state.raft_thread.borrow_mut().take() {
        if thread.join().is_err() {
            log::error!("the raft thread ended with a panic");
        }
    }
}

/// `RAFT.APPLIED <index>`: the feed says what the dataset holds now.
pub unsafe extern "C" fn applied_command(ctx: Context, argv: *mut super::ffi::Text, argc: c_int) -> c_int {
    let words = ffi::arguments(argv, argc);
    let index = words.get(1).and_then(|word| std::str::from_utf8(ffi::bytes(*word)).ok()?.parse().ok());
    match index.filter(|_| super::data::is_from_feed(ctx)) {
        Some(index) => {
            main_thread::get().bridge.set_applied(index);
            ffi::reply_status(ctx, "OK")
        }
        None => ffi::reply_error(ctx, "ERR RAFT.APPLIED is part of the replication stream"),
    }
}

/// `RAFT.MARK` is only ever read in the replication stream.
pub unsafe extern "C" fn mark_command(ctx: Context, _: *mut super::ffi::Text, _: c_int) -> c_int {
    ffi::reply_error(ctx, "ERR RAFT.MARK is part of the replication stream")
}
