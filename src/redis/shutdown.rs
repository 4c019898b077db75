//! A leader that shuts down hands leadership over first: `SHUTDOWN` and SIGTERM wait for that, for `transfer-timeout`
//! at most. A node that has nobody to hand over to shuts down at once.
//!
//! ```text
//!   SHUTDOWN [NOSAVE|SAVE] [FORCE] -.                              successor leads, or cannot:
//!   SIGTERM, SIGINT ----------------+-> Transfer -> .. -> Answer -> the server's own SIGTERM handler, which
//!                                                                   shuts down within its next 100 ms
//! ```
//!
//! * `SHUTDOWN NOW` does not wait for anything, here as in the server. `SHUTDOWN ABORT` takes a waiting shutdown back;
//!   the successor leads all the same. `FORCE` and the save options are passed on.
//! * `SHUTDOWN` cannot be called from a module: a call that fails leaves a blocked client behind, which ends the
//!   process with an assertion. So its options go by way of `shutdown-on-sigterm`.
//! * Between the hand-over and the end, clients that were kept waiting are sent to the successor.
//! * Inside a script that is too slow, where the server takes only `SHUTDOWN NOSAVE`, it runs as it is.

use super::ffi::{self, Context, Text};
use super::main_thread::{self, MainThread};
use super::{access, gate, signals, symbols};
use crate::node::bridge::{Answer, Ticket, ToRaft};
use std::cell::{Cell, RefCell};
use std::ffi::c_int;
use std::time::Duration;

/// From the hand-over to the shutdown: time to follow, and to send waiting clients away.
const LINGER: Duration = Duration::from_millis(50);
/// The server looks once per turn of its cron whether to shut down, which is once a second at the slowest. Whoever
/// lives after this long could not.
const FAILED_AFTER: Duration = Duration::from_secs(3);
const OPTION: &str = "shutdown-on-sigterm";

struct Asked {
    ticket: Ticket,
    signal: c_int,
    /// The options of SHUTDOWN, as the setting takes them; none for a signal.
    options: Option<String>,
    /// Connections that sent SHUTDOWN: nobody answers them.
    clients: Vec<u64>,
}

/// A shutdown that waits for leadership to be handed over.
#[derive(Default)]
pub struct Shutdown {
    asked: RefCell<Option<Asked>>,
    /// What the setting was before, once the signal was given on.
    former: RefCell<Option<String>>,
    given_on: Cell<bool>,
}

fn is(word: &[u8], name: &str) -> bool {
    word.eq_ignore_ascii_case(name.as_bytes())
}

impl Shutdown {
    /// Whether `SHUTDOWN` with these options is this module's to handle. What the server will refuse is not.
    pub fn takes(&self, state: &MainThread, options: &[&[u8]]) -> bool {
        if let [word] = options {
            if is(word, "abort") {
                return self.asked.borrow().is_some() && !self.given_on.get();
            }
        }
        let has = |name: &str| options.iter().any(|word| is(word, name));
        let known = options.iter().all(|word| ["save", "nosave", "force"].iter().any(|name| is(word, name)));
        let valid = known && !(has("save") && has("nosave"));
        valid && state.gate.leads() && !state.executing.get() && !self.given_on.get()
    }

    /// A signal came while this node leads.
    pub fn signalled(&self, ctx: Context, state: &MainThread, signal: c_int) {
        if self.asked.borrow().is_none() {
            self.begin(ctx, state, Asked { ticket: 0, signal, options: None, clients: Vec::new() });
        }
    }

    fn begin(&self, ctx: Context, state: &MainThread, asked: Asked) {
        log::info!("shutting down: handing leadership over first");
        let ticket = state.tickets.number();
        *self.asked.borrow_mut() = Some(Asked { ticket, ..asked });
        let timeout = Duration::from_millis(super::configs::current().transfer_timeout_ms);
        state.timers.after(ctx, timeout, move |ctx| finish_late(ctx, ticket));
        state.bridge.tell_raft(ToRaft::Transfer { ticket, target: None });
    }

    /// True: the answer was to a shutdown.
    pub fn answer(&self, ctx: Context, ticket: Ticket, answer: &Answer) -> bool {
        if self.asked.borrow().as_ref().is_none_or(|asked| asked.ticket != ticket) {
            return false;
        }
        let pause = match answer {
            Answer::Ok | Answer::Moved { .. } => LINGER,
            other => {
                log::warn!("shutting down without a successor: {other:?}");
                Duration::ZERO
            }
        };
        main_thread::get().timers.after(ctx, pause, move |ctx| finish_late(ctx, ticket));
        true
    }

    /// Gives it to the server.
    fn finish(&self, ctx: Context) {
        let Some(asked) = self.asked.take() else { return };
        if let Some(options) = &asked.options {
            *self.former.borrow_mut() = ffi::config_get(ctx, OPTION).ok();
            if let Err(error) = ffi::call(ctx, &["CONFIG", "SET", OPTION, options]) {
                log::error!("shutting down without the options of SHUTDOWN: {error}");
            }
        }
        self.given_on.set(true);
        signals::give_on(asked.signal);
        *self.asked.borrow_mut() = Some(asked);
        main_thread::get().timers.after(ctx, FAILED_AFTER, failed);
    }

    /// Nobody shuts down any more. True: somebody did.
    fn abort(&self, ctx: Context) -> bool {
        let Some(asked) = self.asked.take() else { return false };
        signals::forget();
        asked.clients.into_iter().for_each(|client| gate::cut_off(ctx, client));
        true
    }
}

fn finish_late(ctx: Context, ticket: Ticket) {
    let shutdown = &main_thread::get().shutdown;
    let waits = shutdown.asked.borrow().as_ref().is_some_and(|asked| asked.ticket == ticket);
    if waits && !shutdown.given_on.get() {
        shutdown.finish(ctx);
    }
}

/// The server did not end: it could not save, or somebody aborted it.
fn failed(ctx: Context) {
    let shutdown = &main_thread::get().shutdown;
    shutdown.given_on.set(false);
    let former = shutdown.former.take();
    if let Some(former) = former {
        if let Err(error) = ffi::call(ctx, &["CONFIG", "SET", OPTION, &former]) {
            log::error!("cannot set {OPTION} back to '{former}': {error}");
        }
    }
    if shutdown.abort(ctx) {
        log::error!("the server did not shut down");
    }
}

/// `RAFT.SHUTDOWN SHUTDOWN [option ..]`: `SHUTDOWN` of a leader, put there by the filter. As natively, there is no
/// answer but the end of the connection.
pub unsafe extern "C" fn shutdown_command(ctx: Context, argv: *mut Text, argc: c_int) -> c_int {
    let words = ffi::arguments(argv, argc);
    let state = main_thread::get();
    if words.len() < 2 || !is(ffi::bytes(words[1]), "shutdown") {
        return ffi::reply_error(ctx, "ERR RAFT.SHUTDOWN is the module's own: send SHUTDOWN");
    }
    if let Some(refusal) = access::refusal(ctx, &words[1..]) {
        return ffi::reply_error(ctx, &refusal);
    }
    if !super::wait::is_possible(ctx) {
        return ffi::reply_error(ctx, "ERR SHUTDOWN is not allowed inside a transaction or a script");
    }
    let options: Vec<String> = words[2..].iter().map(|word| ffi::lossy(*word).to_ascii_lowercase()).collect();
    if options == ["abort"] {
        return match state.shutdown.abort(ctx) {
            true => ffi::reply_status(ctx, "OK"),
            false => ffi::reply_error(ctx, "ERR No shutdown in progress."),
        };
    }
    let client = ffi::client_id(ctx);
    symbols::protect(client);
    let waiting = state.shutdown.asked.borrow().is_some();
    if waiting {
        if let Some(asked) = state.shutdown.asked.borrow_mut().as_mut() {
            asked.clients.push(client);
        }
        return ffi::OK;
    }
    let options = if options.is_empty() { "default".to_string() } else { options.join(" ") };
    let asked = Asked { ticket: 0, signal: libc::SIGTERM, options: Some(options), clients: vec![client] };
    state.shutdown.begin(ctx, state, asked);
    ffi::OK
}
