//! The event queue: what happens next, and when. Events of one moment happen in the order they were scheduled.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

struct Scheduled<E> {
    at_us: u64,
    number: u64,
    event: E,
}

impl<E> Scheduled<E> {
    fn key(&self) -> (u64, u64) {
        (self.at_us, self.number)
    }
}

impl<E> PartialEq for Scheduled<E> {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl<E> Eq for Scheduled<E> {}

impl<E> PartialOrd for Scheduled<E> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> Ord for Scheduled<E> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.key().cmp(&other.key())
    }
}

/// Time of the simulation, in microseconds, and all that is going to happen.
pub struct Queue<E> {
    now_us: u64,
    scheduled: u64,
    heap: BinaryHeap<Reverse<Scheduled<E>>>,
}

impl<E> Queue<E> {
    pub fn new() -> Queue<E> {
        Queue { now_us: 0, scheduled: 0, heap: BinaryHeap::new() }
    }

    pub fn now_us(&self) -> u64 {
        self.now_us
    }

    /// Never earlier than now.
    pub fn at(&mut self, at_us: u64, event: E) {
        self.scheduled += 1;
        let at_us = at_us.max(self.now_us);
        self.heap.push(Reverse(Scheduled { at_us, number: self.scheduled, event }));
    }

    pub fn after(&mut self, delay_us: u64, event: E) {
        self.at(self.now_us.saturating_add(delay_us), event);
    }

    /// The next event not later than `end_us`; time moves to it.
    pub fn next(&mut self, end_us: u64) -> Option<E> {
        if self.heap.peek()?.0.at_us > end_us {
            return None;
        }
        let Reverse(Scheduled { at_us, event, .. }) = self.heap.pop()?;
        self.now_us = at_us;
        Some(event)
    }

    /// Events scheduled so far.
    pub fn scheduled(&self) -> u64 {
        self.scheduled
    }
}

impl<E> Default for Queue<E> {
    fn default() -> Queue<E> {
        Queue::new()
    }
}
