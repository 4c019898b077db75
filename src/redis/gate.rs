//! The gate: replies leave when what they tell of is decided.
//!
//! ```text
//!   one turn of the event loop
//!   | a: SET | b: GET | a: INCR | .. | BEFORE_SLEEP |            | released: 41 |
//!     hold a   hold b                  batch 41 = {a, b}           a, b unprotected
//! ```
//!
//! A *batch* is what the main thread has executed in one turn of its event loop. A batch that may have written
//! ends with `RAFT.MARK <epoch> <sequence>` in the replication stream; one that has only read is told to the raft
//! thread as a read barrier. Batches are released in order.
//!
//! Invariants: G1 a client's replies are held from before the server could write them until the last batch it is
//! in is released; G2 while the gate is closed nothing is held; G3 a batch after an unmarked effect (an active
//! expiry) is a writing one; G4 while the gate is sealed, for a hand-over, nothing is executed; G5 a batch that only read is
//! answered without the raft thread only if all batches before it were released, and by a lease, or by an operator who asked
//! for reads that may be stale (`raft.quorum-reads no`).

use super::{ffi, symbols};
use crate::node::bridge::{Bridge, Epoch, FINAL_SEQUENCE};
use crate::node::clock;
use crate::node::report::latency_of;
use crate::node::status::GateStats;
use hdrhistogram::Histogram;
use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::ffi::CString;
use std::time::Instant;

struct Batch {
    sequence: u64,
    clients: Vec<u64>,
    closed_at: Instant,
}

pub struct Gate {
    /// 0 = closed.
    epoch: Cell<Epoch>,
    /// What was executed is still answered, but nothing more is executed.
    sealed: Cell<bool>,
    /// The last batch that was closed.
    sequence: Cell<u64>,
    /// Clients of the batch that is open.
    current: RefCell<Vec<u64>>,
    /// The client that was held last: a pipeline is held once.
    last: Cell<u64>,
    batches: RefCell<VecDeque<Batch>>,
    /// The last batch of each held client.
    held: RefCell<HashMap<u64, u64>>,
    /// The open batch may have written; so may something between batches.
    wrote: Cell<bool>,
    /// The BEFORE_SLEEP of this turn is over: what is executed now must ask for another turn.
    slept: Cell<bool>,
    released_batches: Cell<u64>,
    failed_clients: Cell<u64>,
    immediate_batches: Cell<u64>,
    held_us: RefCell<Histogram<u64>>,
}

impl Gate {
    pub fn new() -> Gate {
        Gate {
            epoch: Cell::new(0),
            sealed: Cell::new(false),
            sequence: Cell::new(0),
            current: RefCell::default(),
            last: Cell::new(0),
            batches: RefCell::default(),
            held: RefCell::default(),
            wrote: Cell::new(false),
            slept: Cell::new(false),
            released_batches: Cell::new(0),
            failed_clients: Cell::new(0),
            immediate_batches: Cell::new(0),
            held_us: RefCell::new(Histogram::new_with_max(60_000_000, 2).expect("bounds are valid")),
        }
    }

    /// Commands may be executed.
    pub fn is_open(&self) -> bool {
        self.leads() && !self.sealed.get()
    }

    /// Open or sealed.
    pub fn leads(&self) -> bool {
        self.epoch.get() != 0
    }

    /// The leadership whose effects are in the stream; 0 = none, or nothing may be put there any more.
    pub fn epoch(&self) -> Epoch {
        match self.sealed.get() {
            true => 0,
            false => self.epoch.get(),
        }
    }

    /// Seals the gate, unless something was executed since the last batch was closed: then again after the next turn.
    pub fn try_seal(&self) -> bool {
        let idle = self.leads() && self.current.borrow().is_empty();
        self.sealed.set(self.sealed.get() || idle);
        idle
    }

    /// True: it was sealed.
    pub fn unseal(&self) -> bool {
        self.sealed.replace(false)
    }

    pub fn open(&self, epoch: Epoch) {
        assert!(!self.leads() && self.held.borrow().is_empty(), "G2: the gate opens once, with nothing held");
        self.epoch.set(epoch);
        self.sequence.set(0);
        self.wrote.set(false);
    }

    /// The open batch has, or may have, changed the dataset.
    pub fn wrote(&self) {
        self.wrote.set(true);
    }

    /// Holds the client's replies until the open batch is released.
    pub fn hold(&self, client: u64) {
        debug_assert!(self.is_open());
        if self.last.replace(client) == client {
            return;
        }
        let first = {
            let mut current = self.current.borrow_mut();
            current.push(client);
            current.len() == 1
        };
        self.held.borrow_mut().insert(client, self.sequence.get() + 1);
        symbols::protect(client);
        if first && self.slept.get() {
            ffi::next_turn(nothing);
        }
    }

    /// Runs `work` for a client that is not held: while a slow script runs, the server must not read from it.
    pub fn shield<T>(&self, client: u64, work: impl FnOnce() -> T) -> T {
        symbols::protect(client);
        let result = work();
        if !self.held.borrow().contains_key(&client) {
            symbols::unprotect(client);
        }
        result
    }

    /// What this turn has executed was closed as a batch; what comes now belongs to the next one.
    pub fn has_slept(&self) -> bool {
        self.slept.get()
    }

    pub fn after_sleep(&self) {
        self.slept.set(false);
    }

    /// Closes the batch of this turn. Called before the server writes to its clients. `forked`: the server has just
    /// forked for this attempt of a snapshot. One mark says both: two would be wrapped in a transaction.
    pub fn before_sleep(&self, ctx: ffi::Context, bridge: &Bridge, forked: Option<u64>) {
        self.slept.set(true);
        if !self.leads() {
            return;
        }
        if self.current.borrow().is_empty() {
            if forked.is_some() {
                mark(ctx, self.epoch.get(), 0, forked);
            }
            return;
        }
        assert!(!self.sealed.get(), "G4: a command was executed while the gate was sealed");
        let wrote = self.wrote.take();
        if !wrote && self.batches.borrow().is_empty() && may_answer_at_once(bridge) {
            self.answer_at_once();
            if forked.is_some() {
                mark(ctx, self.epoch.get(), 0, forked);
            }
            return;
        }
        let clients = self.current.take();
        let sequence = self.sequence.get() + 1;
        self.sequence.set(sequence);
        self.last.set(0);
        self.batches.borrow_mut().push_back(Batch { sequence, clients, closed_at: Instant::now() });
        let epoch = self.epoch.get();
        match wrote {
            true => mark(ctx, epoch, sequence, forked),
            false => {
                bridge.read_barrier(epoch, sequence);
                if forked.is_some() {
                    mark(ctx, epoch, 0, forked);
                }
            }
        }
    }

    /// The open batch has only read, and no other one is held: it has seen nothing that is not committed (G5).
    fn answer_at_once(&self) {
        self.current.take();
        self.last.set(0);
        self.immediate_batches.set(self.immediate_batches.get() + 1);
        for client in self.held.take().into_keys() {
            symbols::unprotect(client);
        }
    }

    /// Lets the clients of all batches up to the released one go.
    pub fn release(&self, bridge: &Bridge) {
        if !self.leads() {
            return;
        }
        let released = bridge.released(self.epoch.get());
        loop {
            let batch = {
                let mut batches = self.batches.borrow_mut();
                match batches.front() {
                    Some(batch) if batch.sequence <= released => {
                        batches.pop_front().expect("there is a front")
                    }
                    _ => break,
                }
            };
            let held_us = batch.closed_at.elapsed().as_micros() as u64;
            self.held_us.borrow_mut().saturating_record(held_us);
            self.released_batches.set(self.released_batches.get() + 1);
            self.let_go(&batch);
        }
    }

    fn let_go(&self, batch: &Batch) {
        let mut held = self.held.borrow_mut();
        for client in &batch.clients {
            // A client that is in a later batch as well stays held (G1).
            if held.get(client) == Some(&batch.sequence) {
                held.remove(client);
                symbols::unprotect(*client);
            }
        }
    }

    /// Closes the gate. The outcome of what is held is unknown, and a reply may sit in an output buffer: the
    /// connections are closed without a byte of it. The stream ends with the last mark of this leadership, unless it
    /// was sealed: then the raft thread knows its end, and clients are paused, so that nothing may be replicated.
    pub fn fail(&self, ctx: ffi::Context) {
        let epoch = self.epoch.replace(0);
        if epoch == 0 {
            return;
        }
        self.current.take();
        self.batches.take();
        self.last.set(0);
        self.wrote.set(false);
        let held: Vec<u64> = self.held.take().into_keys().collect();
        for client in held {
            cut_off(ctx, client);
            self.failed_clients.set(self.failed_clients.get() + 1);
        }
        if !self.sealed.take() {
            mark(ctx, epoch, FINAL_SEQUENCE, None);
        }
    }

    pub fn stats(&self) -> GateStats {
        GateStats {
            held_clients: self.held.borrow().len() as u64,
            released_batches: self.released_batches.get(),
            failed_clients: self.failed_clients.get(),
            immediate_batches: self.immediate_batches.get(),
            held: latency_of(&self.held_us.borrow()),
            ..GateStats::default()
        }
    }
}

/// Whether a batch that only read may be answered without asking anybody. First the lease, then the clock: at the moment
/// of the first look the lease had not been given up, and if its time was not over at the second, it was not at the first.
/// The batch was executed before both, so however long the process stands still from here on, its replies were the
/// newest state at that moment, which lies between the commands and their replies.
fn may_answer_at_once(bridge: &Bridge) -> bool {
    let until_us = bridge.lease_until_us();
    !super::configs::current().quorum_reads || (until_us > 0 && clock::now_us() < until_us)
}

/// Closes a connection without a byte of what is in its output buffer; a client that is gone is no matter.
/// Protecting it makes the server free it later: it may be the one whose command is running.
pub fn cut_off(ctx: ffi::Context, client: u64) {
    if symbols::protect(client) {
        close(ctx, client);
        symbols::unprotect(client);
    }
}

fn close(ctx: ffi::Context, client: u64) {
    if let Err(error) = ffi::call(ctx, &["CLIENT", "KILL", "ID", &client.to_string()]) {
        log::error!("cannot close client {client}: {error}");
    }
}

/// Sequence 0: no batch ends here.
fn mark(ctx: ffi::Context, epoch: Epoch, sequence: u64, forked: Option<u64>) {
    let number = |value: u64| CString::new(value.to_string()).expect("digits");
    let words: Vec<CString> =
        [Some(epoch), Some(sequence), forked].into_iter().flatten().map(number).collect();
    ffi::replicate(ctx, c"RAFT.MARK", &words.iter().map(CString::as_c_str).collect::<Vec<_>>());
}

/// Only there to make the event loop turn.
pub unsafe extern "C" fn nothing(_: *mut std::ffi::c_void) {}
