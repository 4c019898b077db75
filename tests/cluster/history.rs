//! Linearizability of a register: the search of Wing and Gong (1993) with the memory of Lowe (2017).
//!
//! A history is what clients saw of one register: reads, writes and compare-and-set, each with the time it was sent
//! and the time it was answered. It is linearizable when each operation can be given one moment between the two
//! such that a single register, doing them in that order, gives the same replies. An operation of unknown outcome
//! may take its moment any time later, or never.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::client::{Client, Failure};
use super::wire::Value;

/// Longest history that [`is_linearizable`] takes: the operations done are a set of bits.
pub const MAX_OPERATIONS: usize = 128;

/// Values of a register are numbers; 0 stands for the absent key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    Read {
        found: u64,
    },
    Write {
        value: u64,
    },
    /// `swapped` is `None` when the outcome is unknown.
    CompareAndSet {
        expected: u64,
        value: u64,
        swapped: Option<bool>,
    },
}

/// An operation in time.
#[derive(Clone, Copy, Debug)]
pub struct Event {
    pub sent_us: u64,
    /// `None` when no reply has come.
    pub answered_us: Option<u64>,
    pub operation: Operation,
}

impl Event {
    /// The register after this operation, or `None` when the operation cannot have happened on `value`.
    fn apply(&self, value: u64) -> Option<u64> {
        match self.operation {
            Operation::Read { found } => (found == value).then_some(value),
            Operation::Write { value: written } => Some(written),
            Operation::CompareAndSet { expected, value: written, swapped } => {
                let swaps = expected == value;
                match swapped {
                    Some(said) if said != swaps => None,
                    _ => Some(if swaps { written } else { value }),
                }
            }
        }
    }
}

/// Whether one register, absent at first, can have given these replies.
///
/// # Panics
/// When there are more than [`MAX_OPERATIONS`] events.
pub fn is_linearizable(events: &[Event]) -> bool {
    assert!(events.len() <= MAX_OPERATIONS, "a history of {} operations is too long", events.len());
    let answered: u128 = bits(events, |event| event.answered_us.is_some());
    let mut seen = HashSet::new();
    let mut open = vec![(0_u128, 0_u64)];
    while let Some((done, value)) = open.pop() {
        if done & answered == answered {
            return true;
        }
        if !seen.insert((done, value)) {
            continue;
        }
        let is_open = |index: &usize| done & (1 << index) == 0;
        let first_answer = (0..events.len())
            .filter(is_open)
            .filter_map(|index| events[index].answered_us)
            .min()
            .unwrap_or(u64::MAX);
        for index in (0..events.len()).filter(is_open) {
            if events[index].sent_us <= first_answer {
                if let Some(after) = events[index].apply(value) {
                    open.push((done | 1 << index, after));
                }
            }
        }
    }
    false
}

fn bits(events: &[Event], is_set: impl Fn(&Event) -> bool) -> u128 {
    (0..events.len()).filter(|index| is_set(&events[*index])).map(|index| 1_u128 << index).sum()
}

/// Operations on one register before the workers go on to the next.
const OPERATIONS_PER_REGISTER: u64 = 64;
const COMPARE_AND_SET: &str = "local found = redis.call('GET', KEYS[1]) or '0' \
    if found == ARGV[1] then redis.call('SET', KEYS[1], ARGV[2]) return 1 end return 0";

/// Clients that read and write a sequence of registers and note what they see.
pub struct Recorder {
    stop: Arc<AtomicBool>,
    events: Arc<Mutex<Vec<(u64, Event)>>>,
    workers: Vec<JoinHandle<()>>,
}

impl Recorder {
    /// Starts `count` workers. Each asks the servers in another order at first, so that several are asked.
    pub fn start(ports: &[u16], count: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let events = Arc::new(Mutex::new(Vec::new()));
        let (operations, values) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let origin = Instant::now();
        let workers = (0..count).map(|worker| {
            let mut ports = ports.to_vec();
            let first = worker % ports.len();
            ports.rotate_left(first);
            let mut client = Client::new(ports);
            client.reply_timeout = Duration::from_millis(700);
            let (stop, events) = (Arc::clone(&stop), Arc::clone(&events));
            let (operations, values) = (Arc::clone(&operations), Arc::clone(&values));
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let number = operations.fetch_add(1, Ordering::Relaxed);
                    let register = number / OPERATIONS_PER_REGISTER;
                    let value = values.fetch_add(1, Ordering::Relaxed) + 1;
                    if let Some(event) = perform(&mut client, register, number, value, origin) {
                        events.lock().unwrap_or_else(PoisonError::into_inner).push((register, event));
                    }
                }
            })
        });
        let workers = workers.collect();
        Self { stop, events, workers }
    }

    /// Operations noted so far.
    pub fn len(&self) -> usize {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Ends the workers; the histories of all registers.
    ///
    /// # Panics
    /// When a worker has failed.
    pub fn stop(self) -> Vec<Vec<Event>> {
        self.stop.store(true, Ordering::Relaxed);
        for worker in self.workers {
            worker.join().expect("a worker failed");
        }
        let events = std::mem::take(&mut *self.events.lock().unwrap_or_else(PoisonError::into_inner));
        let registers = events.iter().map(|(register, _)| *register).max().map_or(0, |last| last + 1);
        let mut histories = vec![Vec::new(); usize::try_from(registers).expect("a count of registers")];
        for (register, event) in events {
            histories[usize::try_from(register).expect("counted above")].push(event);
        }
        histories
    }
}

/// One operation; `None` when it certainly had no effect, or was a read without a reply.
fn perform(client: &mut Client, register: u64, number: u64, value: u64, origin: Instant) -> Option<Event> {
    let key = format!("register:{register}");
    let now_us = || u64::try_from(origin.elapsed().as_micros()).expect("a test is shorter than that");
    let sent_us = now_us();
    let text = value.to_string();
    // Half of the operations read; a compare-and-set guesses the value of a moment ago, and is often wrong.
    let expected = value.saturating_sub(1 + value % 3);
    let (reply, unknown) = match number % 6 {
        0 | 1 => (client.call(&["SET", &key, &text]), Some(Operation::Write { value })),
        2 => (
            client.call(&["EVAL", COMPARE_AND_SET, "1", &key, &expected.to_string(), &text]),
            Some(Operation::CompareAndSet { expected, value, swapped: None }),
        ),
        _ => (client.call(&["GET", &key]), None),
    };
    match reply {
        Ok(reply) => {
            let operation = match (unknown, reply) {
                (None, Value::Nil) => Operation::Read { found: 0 },
                (None, found) => {
                    Operation::Read { found: found.text().parse().expect("a value that was written") }
                }
                (Some(Operation::CompareAndSet { .. }), reply) => {
                    Operation::CompareAndSet { expected, value, swapped: Some(reply.integer() == 1) }
                }
                (Some(write), reply) => {
                    assert!(reply.is_ok(), "SET was answered with {reply}");
                    write
                }
            };
            Some(Event { sent_us, answered_us: Some(now_us()), operation })
        }
        Err(Failure::Unknown(_)) => unknown.map(|operation| Event { sent_us, answered_us: None, operation }),
        Err(Failure::Refused(_)) => None,
    }
}
