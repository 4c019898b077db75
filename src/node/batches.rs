//! The batches of one leadership that wait for their release, in order.
//!
//! Marks (through the stream) and read barriers (through the queue) come by different ways and may overtake
//! each other; the release goes strictly by sequence. So a read that has seen the effects of an earlier batch
//! never leaves before that batch is committed.

use crate::consensus::Index;
use std::collections::VecDeque;

/// What must have happened before a batch may be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Need {
    /// This entry is committed.
    pub commit: Index,
    /// Leadership was confirmed for this read (0: not needed, the entry's own commit confirms it).
    pub read: u64,
}

/// Invariant: every sequence below `next` was released, none at or above it.
#[derive(Debug)]
pub struct Batches {
    next: u64,
    /// `waiting[i]` is batch `next + i`; `None` until it is known.
    waiting: VecDeque<Option<Need>>,
}

impl Batches {
    /// Sequences start at 1.
    pub fn new() -> Batches {
        Batches { next: 1, waiting: VecDeque::new() }
    }

    pub fn add(&mut self, sequence: u64, need: Need) {
        let at = sequence.checked_sub(self.next).expect("a batch is closed once") as usize;
        if self.waiting.len() <= at {
            self.waiting.resize(at + 1, None);
        }
        assert!(self.waiting[at].is_none(), "batch {sequence} is closed once");
        self.waiting[at] = Some(need);
    }

    /// The last batch that may be answered now, if it is a new one.
    pub fn release(&mut self, commit: Index, confirmed_read: u64) -> Option<u64> {
        let before = self.next;
        while let Some(Some(need)) = self.waiting.front() {
            if need.commit > commit || need.read > confirmed_read {
                break;
            }
            self.waiting.pop_front();
            self.next += 1;
        }
        (self.next > before).then_some(self.next - 1)
    }

    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

impl Default for Batches {
    fn default() -> Batches {
        Batches::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_leave_in_order_whatever_is_ready_first() {
        let mut batches = Batches::new();
        batches.add(2, Need { commit: 5, read: 1 });
        assert_eq!(batches.release(9, 9), None, "batch 1 is not known yet");
        batches.add(1, Need { commit: 6, read: 0 });
        batches.add(3, Need { commit: 0, read: 2 });
        assert_eq!(batches.release(5, 9), None);
        assert_eq!(batches.release(6, 1), Some(2));
        assert_eq!(batches.release(6, 1), None);
        assert_eq!(batches.release(6, 2), Some(3));
        assert!(batches.is_empty());
    }

    #[test]
    #[should_panic(expected = "closed once")]
    fn a_batch_twice_is_a_broken_invariant() {
        let mut batches = Batches::new();
        batches.add(1, Need { commit: 1, read: 0 });
        batches.add(1, Need { commit: 1, read: 0 });
    }
}
