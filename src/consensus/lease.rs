//! Leases: reads without a round, for as long as no other leader can have been elected (dissertation 6.4.1).
//!
//! ```text
//!   leader    round r begins                      now < began + 4/5 T: it answers reads by itself
//!   -------------|---------------------------------------------------------|--------------------> its clock
//!                 \ Append, round r, lease T        / Appended, round r
//!   voter    ------|-------------------------------/-------------------------------|------------> its clock
//!                  heard: T long it elects nobody else, nor itself ................. it may again
//! ```
//!
//! * **The voter's side** ([`Promise`]) stands in the node, not in its role: it outlives a change of term or role, and
//!   the leader's turning the setting off. It is stronger than leader stickiness: also when the leader's process seems
//!   to be gone, nothing is granted before the promise has run out. The length of the longest promise that may be in
//!   force is durable before the first answer that names such a round; a node that has just started keeps a promise of
//!   that length to a leader it does not know.
//! * **The leader's side** ([`Lease`]) counts from the moment at which a round began: all messages that name it were sent
//!   later, and heard later still. It lasts four fifths of what was promised, so it ends first as long as no clock runs
//!   more than a tenth too fast or too slow (11/10 : 9/10 < 5/4).
//! * **`TimeoutNow`** lets its target be elected past all promises to the sender. So the sender gives its lease up before
//!   that message leaves, and for the rest of its term: the message may arrive at any time.
//!
//! docs/guarantees.md has the whole argument.

use std::collections::VecDeque;

use super::message::{Index, NodeId, WriteId};

/// What the leader uses of what is promised to it: the rest is for clocks that run at different rates.
const USED_FIFTHS: u64 = 4;
/// Rounds whose beginning is remembered. More are not needed: what answers a later one counts as of an earlier one.
const MAX_MARKS: usize = 64;

/// What this node has promised: until then it neither votes for anybody but `leader`, nor stands.
#[derive(Debug)]
pub(super) struct Promise {
    /// None: it was given before this process started.
    leader: Option<NodeId>,
    pub until_us: u64,
    /// The length that the disk holds, or will with the next write: at least what is left of any promise in force.
    pub recorded_us: u64,
    /// The length that was handed to the disk last.
    written_us: u64,
    /// The write that holds `recorded_us`; None: no write does yet.
    pub write: Option<WriteId>,
}

impl Promise {
    /// After a start: a promise of `recorded_us` may have been given a moment ago.
    pub fn restored(recorded_us: u64, now_us: u64) -> Promise {
        Promise {
            leader: None,
            until_us: now_us.saturating_add(recorded_us),
            recorded_us,
            written_us: recorded_us,
            write: Some(0),
        }
    }

    /// Promises `lease_us` to `leader`. True: the disk must hold that before the leader may count on it.
    pub fn give(&mut self, leader: NodeId, lease_us: u64, now_us: u64) -> bool {
        self.until_us = self.until_us.max(now_us.saturating_add(lease_us));
        self.leader = Some(leader);
        let longer = lease_us > self.recorded_us;
        if longer {
            self.recorded_us = lease_us;
            self.write = None;
        }
        longer
    }

    /// The next write holds no promise any more, if none is in force.
    pub fn forget_if_over(&mut self, now_us: u64) {
        if now_us >= self.until_us {
            self.recorded_us = 0;
        }
    }

    /// Write `id` holds it, if the disk does not already.
    pub fn recorded_by(&mut self, id: WriteId) -> Option<u64> {
        self.write = self.write.or(Some(id));
        let changed = self.recorded_us != std::mem::replace(&mut self.written_us, self.recorded_us);
        changed.then_some(self.recorded_us)
    }

    /// Whether `asker` must be refused.
    pub fn binds(&self, asker: NodeId, now_us: u64) -> bool {
        now_us < self.until_us && self.leader != Some(asker)
    }
}

/// A leader's right to answer reads by itself.
#[derive(Debug, Default)]
pub(super) struct Lease {
    /// What voters are asked to promise; 0 = no lease is wanted.
    /// Invariant: every message that names a round at or after the first mark has asked for this.
    length_us: u64,
    /// Rounds and when they began, both rising.
    marks: VecDeque<(u64, u64)>,
    /// A majority of voters has promised `length_us` at this time or later.
    start_us: u64,
    given_up: bool,
}

impl Lease {
    /// What the messages of this leader ask voters to promise.
    pub fn announced_us(&self) -> u64 {
        self.length_us
    }

    /// True: a new round must begin, from which on messages announce `length_us`.
    pub fn resize(&mut self, length_us: u64) -> bool {
        let length_us = if self.given_up { 0 } else { length_us };
        let changed = length_us != self.length_us;
        if changed {
            self.length_us = length_us;
            self.marks.clear();
            self.start_us = 0;
        }
        changed
    }

    /// Somebody else may be elected from now on, in this term of this node's.
    pub fn give_up(&mut self) {
        self.resize(0);
        self.given_up = true;
    }

    /// `round` begins now: no message has named it yet.
    pub fn mark(&mut self, round: u64, now_us: u64) {
        if self.length_us == 0 {
            return;
        }
        while self.marks.front().is_some_and(|(_, began_us)| began_us + self.length_us <= now_us) {
            self.marks.pop_front();
        }
        if self.marks.len() < MAX_MARKS {
            self.marks.push_back((round, now_us));
        }
    }

    /// When a voter whose last answer named `round` has promised, at the earliest; 0: it has not, or long ago.
    pub fn promised_us(&self, round: u64) -> u64 {
        let later = self.marks.partition_point(|(marked, _)| *marked <= round);
        later.checked_sub(1).map_or(0, |at| self.marks[at].1)
    }

    /// A majority of voters has promised at `start_us` or later.
    pub fn renew(&mut self, start_us: u64) {
        self.start_us = start_us;
    }

    /// Before this time nobody else leads, by this node's clock; 0 = no lease.
    pub fn until_us(&self) -> u64 {
        match self.length_us == 0 || self.start_us == 0 {
            true => 0,
            false => self.start_us + self.length_us / 5 * USED_FIFTHS,
        }
    }
}

/// What every message of a leader carries.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stamp {
    pub round: u64,
    pub lease_us: u64,
    pub commit: Index,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_promise_binds_to_all_but_its_leader_until_it_runs_out() {
        let mut promise = Promise::restored(0, 5);
        assert!(!promise.binds(2, 5));
        assert!(promise.give(1, 100, 10));
        assert!(promise.binds(2, 109) && !promise.binds(1, 109) && !promise.binds(2, 110));
        assert!(!promise.give(1, 50, 20), "shorter: the disk holds more than enough");
        assert!(promise.binds(2, 109), "a promise is not taken back");
        promise.forget_if_over(109);
        assert_eq!(promise.recorded_us, 100);
        promise.forget_if_over(110);
        assert_eq!(promise.recorded_us, 0);
    }

    #[test]
    fn after_a_start_nobody_is_exempt() {
        let promise = Promise::restored(100, 1000);
        assert!(promise.binds(1, 1099) && !promise.binds(1, 1100));
    }

    #[test]
    fn a_lease_counts_from_the_beginning_of_the_round_that_was_answered() {
        let mut lease = Lease::default();
        assert_eq!((lease.promised_us(9), lease.until_us()), (0, 0));
        assert!(lease.resize(1000));
        lease.mark(3, 100);
        lease.mark(5, 200);
        assert_eq!([2, 3, 4, 5, 6].map(|round| lease.promised_us(round)), [0, 100, 100, 200, 200]);
        lease.renew(200);
        assert_eq!(lease.until_us(), 1000);
        assert!(lease.resize(500), "what was promised before is of another length");
        assert_eq!((lease.promised_us(6), lease.until_us()), (0, 0));
    }

    #[test]
    fn who_gave_it_up_gets_none_again() {
        let mut lease = Lease::default();
        lease.resize(1000);
        lease.mark(1, 1);
        lease.renew(1);
        lease.give_up();
        assert_eq!((lease.until_us(), lease.announced_us()), (0, 0));
        assert!(!lease.resize(1000));
    }

    #[test]
    fn few_marks_are_kept_and_old_ones_dropped() {
        let mut lease = Lease::default();
        lease.resize(1000);
        (1..=200).for_each(|round| lease.mark(round, round));
        assert_eq!((lease.marks.len(), lease.promised_us(200)), (MAX_MARKS, MAX_MARKS as u64));
        lease.mark(201, 1001);
        assert_eq!((lease.promised_us(1), lease.promised_us(201)), (0, 1001));
    }
}
