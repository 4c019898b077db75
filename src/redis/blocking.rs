//! Blocking commands (`BLPOP`, `XREAD BLOCK`, ..) on the leader: tried at once, which never waits inside a call of
//! a module; when there is nothing, the client is blocked on the command's keys and the try is repeated as they
//! become ready. When served, the reply is held as any other.

use super::data;
use super::ffi::{self, api, Context, OwnedText, Text};
use super::main_thread::{self, MainThread};
use super::wait;
use std::cell::RefCell;
use std::collections::HashSet;
use std::ffi::{c_int, c_void};

/// The command as it will be tried again; `$` of XREAD is the id it meant when the client began to wait.
struct Attempt {
    words: Vec<OwnedText>,
    client: u64,
}

#[derive(Default)]
pub struct Blocked {
    clients: RefCell<HashSet<u64>>,
}

impl Blocked {
    /// Leadership is lost: each waiting client is answered by its timeout callback, which redirects it.
    pub fn redirect_all(&self, ctx: Context) {
        let clients = self.clients.take();
        for client in clients {
            if let Err(error) = ffi::call(ctx, &["CLIENT", "UNBLOCK", &client.to_string(), "TIMEOUT"]) {
                log::warn!("cannot unblock client {client}: {error}");
            }
        }
    }
}

/// Runs `command`, blocking as it says.
pub fn run(ctx: Context, state: &MainThread, command: &[Text]) -> c_int {
    let words = resolve_ids(ctx, command);
    let texts: Vec<Text> = words.iter().map(|word| word.0).collect();
    let on_nothing = if wait::is_possible(ctx) { OnNothing::Block } else { OnNothing::Answer };
    match try_now(ctx, state, &texts, on_nothing) {
        Tried::Answered => ffi::OK,
        Tried::Empty => match timeout_ms(&texts) {
            // The try would have said so if the timeout were invalid.
            None => ffi::reply_error(ctx, "ERR timeout is not a float or out of range"),
            Some(timeout_ms) => block(ctx, state, words, &texts, timeout_ms),
        },
    }
}

enum Tried {
    Answered,
    Empty,
}

/// What a try does with a reply that serves nothing.
#[derive(PartialEq, Eq)]
enum OnNothing {
    /// The last try: the client gets it.
    Answer,
    /// The first try: an error is the client's, nil means that it waits.
    Block,
    /// A later try: the client goes on waiting.
    Wait,
}

fn try_now(ctx: Context, state: &MainThread, command: &[Text], on_nothing: OnNothing) -> Tried {
    match data::call(ctx, command) {
        Ok(reply) if reply.is_null() && on_nothing != OnNothing::Answer => return Tried::Empty,
        Ok(reply) if reply.is_error() && on_nothing == OnNothing::Wait => return Tried::Empty,
        Ok(reply) => {
            // Only now it is known that it took something; an XREADGROUP may have made a consumer.
            state.gate.wrote();
            reply.forward(ctx);
            state.gate.hold(ffi::client_id(ctx));
        }
        Err(message) => {
            ffi::reply_error(ctx, &message);
        }
    }
    Tried::Answered
}

fn block(ctx: Context, state: &MainThread, words: Vec<OwnedText>, texts: &[Text], timeout_ms: i64) -> c_int {
    let mut keys = ffi::keys(ctx, texts);
    let client = ffi::client_id(ctx);
    let attempt = Box::new(Attempt { words, client });
    // SAFETY: the keys are copied by the server; the private data is freed by `free` exactly once.
    unsafe {
        api!(RedisModule_BlockClientOnKeys)(
            ctx,
            Some(ready),
            Some(timed_out),
            Some(free),
            timeout_ms,
            keys.as_mut_ptr(),
            keys.len() as c_int,
            Box::into_raw(attempt).cast(),
        );
    }
    state.blocked.clients.borrow_mut().insert(client);
    ffi::OK
}

/// One of the keys has something: served, or not and the client stays blocked.
unsafe extern "C" fn ready(ctx: Context, _: *mut Text, _: c_int) -> c_int {
    let state = main_thread::get();
    if !state.gate.is_open() {
        return ffi::ERR;
    }
    // A key that became another type serves nobody; natively, too, the client goes on waiting.
    match try_now(ctx, state, &attempt_words(ctx), OnNothing::Wait) {
        Tried::Answered => ffi::OK,
        Tried::Empty => ffi::ERR,
    }
}

/// Its time is over, or leadership is.
unsafe extern "C" fn timed_out(ctx: Context, _: *mut Text, _: c_int) -> c_int {
    let state = main_thread::get();
    let texts = attempt_words(ctx);
    if state.gate.is_open() {
        // The last try gives the right kind of nothing.
        try_now(ctx, state, &texts, OnNothing::Answer);
        return ffi::OK;
    }
    if state.gate.leads() {
        return data::send_here(ctx, state, &texts); // leadership is being handed over: nothing may be tried now
    }
    let raft = [&[state.words.raft.0][..], &texts].concat();
    data::run(ctx, &raft, wait::Patience::Over)
}

unsafe extern "C" fn free(_: Context, attempt: *mut c_void) {
    let attempt: Box<Attempt> = Box::from_raw(attempt.cast());
    main_thread::get().blocked.clients.borrow_mut().remove(&attempt.client);
}

fn attempt_words(ctx: Context) -> Vec<Text> {
    // SAFETY: the private data is the `Attempt` given to the server when the client was blocked.
    let attempt = unsafe { &*api!(RedisModule_GetBlockedClientPrivateData)(ctx).cast::<Attempt>() };
    attempt.words.iter().map(|word| word.0).collect()
}

/// How long the command wants to wait; 0 = for ever.
fn timeout_ms(command: &[Text]) -> Option<i64> {
    let words: Vec<&[u8]> = command.iter().map(|word| ffi::bytes(*word)).collect();
    let name = words[0].to_ascii_lowercase();
    let seconds = |word: &[u8]| -> Option<i64> {
        let seconds: f64 = std::str::from_utf8(word).ok()?.trim().parse().ok()?;
        (seconds.is_finite() && seconds >= 0.0).then(|| (seconds * 1000.0).ceil() as i64)
    };
    match name.as_slice() {
        b"xread" | b"xreadgroup" => {
            let at = words.iter().position(|word| word.eq_ignore_ascii_case(b"block"))?;
            std::str::from_utf8(words.get(at + 1)?).ok()?.parse().ok()
        }
        b"blmpop" | b"bzmpop" => seconds(words.get(1)?),
        _ => seconds(words.last()?),
    }
}

/// The words to try, `$` of XREAD replaced by the id it means now: a later try would find it moved on.
fn resolve_ids(ctx: Context, command: &[Text]) -> Vec<OwnedText> {
    let words: Vec<&[u8]> = command.iter().map(|word| ffi::bytes(*word)).collect();
    let mut resolved: Vec<OwnedText> = words.iter().map(|word| OwnedText::new(word)).collect();
    if !words[0].eq_ignore_ascii_case(b"xread") {
        return resolved;
    }
    let Some(streams) = words.iter().position(|word| word.eq_ignore_ascii_case(b"streams")) else {
        return resolved;
    };
    let count = (words.len() - streams - 1) / 2;
    for i in 0..count {
        let id = streams + 1 + count + i;
        if words[id] == b"$" {
            resolved[id] = OwnedText::new(last_id(ctx, command[streams + 1 + i]).as_bytes());
        }
    }
    resolved
}

/// Last id of a stream; 0-0 for one that is not there. (Another type is refused by the try itself.)
fn last_id(ctx: Context, key: Text) -> String {
    use super::command_table::Tree;
    let stream = OwnedText::new(b"STREAM");
    let info = ffi::call_vector(ctx, c"XINFO", c"Ev", &[stream.0, key]);
    let Some(Tree::Array(fields)) = info.filter(|reply| !reply.is_error()).map(|reply| reply.tree()) else {
        return "0-0".to_string();
    };
    let name = Tree::Text("last-generated-id".into());
    match fields.iter().position(|field| *field == name).and_then(|at| fields.get(at + 1)) {
        Some(Tree::Text(id)) => id.clone(),
        _ => "0-0".to_string(),
    }
}
