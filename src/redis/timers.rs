//! Calls that are due later, by a clock that nobody sets.
//!
//! The server's own module timers go by the time of day: a clock that is set back by an hour makes each of them an
//! hour late, one that is set forward makes them early. So they only wake this thread; what is due is looked up on a
//! monotonic clock, there and in each turn of the event loop, of which there are several a second.

use super::ffi::{api, Context};
use super::main_thread;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::c_void;
use std::time::{Duration, Instant};

type Call = Box<dyn FnOnce(Context)>;

#[derive(Default)]
pub struct Timers {
    next: Cell<u64>,
    /// By number; each has one timer of the server, which may come before or after it.
    calls: RefCell<BTreeMap<u64, (Instant, Call)>>,
    /// The same calls, by the time at which they are due.
    order: RefCell<BTreeSet<(Instant, u64)>>,
}

impl Timers {
    /// `call` runs on this thread, `pause` from now or a moment later.
    pub fn after(&self, ctx: Context, pause: Duration, call: impl FnOnce(Context) + 'static) {
        let number = self.next.get() + 1;
        self.next.set(number);
        let due = Instant::now() + pause;
        self.calls.borrow_mut().insert(number, (due, Box::new(call)));
        self.order.borrow_mut().insert((due, number));
        wake_after(ctx, pause, number);
    }

    /// Runs what is due; calls may ask for others.
    pub fn run_due(&self, ctx: Context) {
        if self.order.borrow().is_empty() {
            return;
        }
        let now = Instant::now();
        while let Some(call) = self.take_due(now) {
            call(ctx);
        }
    }

    fn take_due(&self, now: Instant) -> Option<Call> {
        let mut order = self.order.borrow_mut();
        let (due, number) = *order.first().filter(|(due, _)| *due <= now)?;
        order.remove(&(due, number));
        self.calls.borrow_mut().remove(&number).map(|(_, call)| call)
    }

    /// When a call is due that has not run yet.
    fn due(&self, number: u64) -> Option<Instant> {
        self.calls.borrow().get(&number).map(|(due, _)| *due)
    }
}

fn wake_after(ctx: Context, pause: Duration, number: u64) {
    // Rounded up: who is woken too early is woken twice.
    let pause_ms = pause.as_millis() as i64 + 1;
    // SAFETY: the callback is a function of this file; its argument is a number.
    unsafe { api!(RedisModule_CreateTimer)(ctx, pause_ms, Some(woken), number as usize as *mut c_void) };
}

unsafe extern "C" fn woken(ctx: Context, number: *mut c_void) {
    let timers = &main_thread::get().timers;
    timers.run_due(ctx);
    let number = number as usize as u64;
    if let Some(due) = timers.due(number) {
        wake_after(ctx, due.saturating_duration_since(Instant::now()), number);
    }
}
