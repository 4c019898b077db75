//! ReadIndex rounds (dissertation 6.4).
//!
//! A round proves that this node still led at some moment after the round began: a majority of voters has answered a
//! message sent after it. One round is under way at a time; reads that come meanwhile share the next one. So a burst
//! of reads costs two rounds, however long it is.

use super::message::Index;

/// The round under way.
#[derive(Clone, Copy, Debug)]
struct InFlight {
    /// The last read id that it answers.
    id: u64,
    /// The commit index when it began.
    commit: Index,
    /// A majority must have answered this round, or a later one.
    round: u64,
}

#[derive(Debug, Default)]
pub(super) struct Reads {
    /// Number carried by every message sent from now on; a new round increments it.
    round: u64,
    in_flight: Option<InFlight>,
    /// The last read id that came after the round under way had begun.
    waiting: Option<u64>,
}

impl Reads {
    pub fn round(&self) -> u64 {
        self.round
    }

    /// A read has come; all messages sent so far prove nothing for it.
    pub fn add(&mut self, id: u64) {
        self.waiting = Some(id);
    }

    /// What a majority must have answered for the reads under way.
    pub fn needed_round(&self) -> Option<u64> {
        self.in_flight.map(|under_way| under_way.round)
    }

    /// Begins a round for the waiting reads when none is under way; true when it did. `commit` is the commit index
    /// now, so at least what it was when each of the reads came.
    pub fn begin(&mut self, commit: Index) -> bool {
        if self.in_flight.is_some() {
            return false;
        }
        let Some(id) = self.waiting.take() else { return false };
        self.round += 1;
        self.in_flight = Some(InFlight { id, commit, round: self.round });
        true
    }

    /// What is sent from now on is told from all before it. The reads under way wait for answers to it.
    pub fn fence(&mut self) -> u64 {
        let round = self.advance();
        if let Some(under_way) = &mut self.in_flight {
            under_way.round = round;
        }
        round
    }

    /// What is sent from now on is told from all before it. The reads under way are not delayed by it.
    pub fn advance(&mut self) -> u64 {
        self.round += 1;
        self.round
    }

    /// The round under way was answered by a majority: the last id it answers, and the index to wait for.
    pub fn complete(&mut self) -> Option<(u64, Index)> {
        self.in_flight.take().map(|under_way| (under_way.id, under_way.commit))
    }

    /// All reads are answered, or given up, without a round; the last id of them.
    pub fn take_all(&mut self) -> Option<u64> {
        let in_flight = self.in_flight.take().map(|under_way| under_way.id);
        self.waiting.take().or(in_flight)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_share_the_next_round() {
        let mut reads = Reads::default();
        assert!(!reads.begin(5));
        reads.add(1);
        assert!(reads.begin(5));
        assert_eq!(reads.round(), 1);
        reads.add(2);
        reads.add(3);
        assert!(!reads.begin(6), "one round at a time");
        assert_eq!(reads.complete(), Some((1, 5)));
        assert!(reads.begin(7));
        assert_eq!(reads.round(), 2);
        assert_eq!(reads.complete(), Some((3, 7)));
        assert!(!reads.begin(8));
    }

    #[test]
    fn a_round_between_does_not_delay_reads_and_a_fence_does() {
        let mut reads = Reads::default();
        reads.add(1);
        reads.begin(5);
        assert_eq!((reads.advance(), reads.needed_round()), (2, Some(1)));
        assert_eq!((reads.fence(), reads.needed_round()), (3, Some(3)));
    }

    #[test]
    fn what_is_taken_is_named_by_its_last_read() {
        let mut reads = Reads::default();
        assert_eq!(reads.take_all(), None);
        reads.add(1);
        reads.begin(0);
        assert_eq!(reads.take_all(), Some(1));
        reads.add(2);
        reads.begin(0);
        reads.add(4);
        assert_eq!(reads.take_all(), Some(4));
        assert_eq!(reads.take_all(), None);
    }
}
