//! What a leader knows of one peer, and what it may send it.

use std::collections::VecDeque;

use super::message::{Index, Nonce};

/// How one peer is doing, for INFO and for the choice of a successor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerProgress {
    /// Everything up to here is durable at the peer.
    pub matched: Index,
    /// Messages with entries that are not acknowledged.
    pub inflight_messages: usize,
    /// When the peer was last heard from, on the driver's clock.
    pub heard_us: u64,
    pub learner: bool,
    /// It lacks entries that the log does not hold any more.
    pub needs_snapshot: bool,
    /// The link to the peer is not known to be down.
    pub reachable: bool,
}

/// How entries are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// It is not known where the peer's log agrees with ours: one message at a time, from `next` on.
    Probe { sent: bool },
    /// It lacks what our log starts behind; nothing is sent but heartbeats until it says that it has it.
    Snapshot,
    /// It agrees up to `next - 1`, or will when all in flight has arrived: send ahead, within the window.
    Replicate,
}

#[derive(Clone, Copy, Debug)]
struct Inflight {
    last: Index,
    sent_us: u64,
}

/// A peer that lost what it had acknowledged, and is counted anew.
#[derive(Clone, Copy, Debug)]
pub(super) struct Forgotten {
    pub nonce: Nonce,
    /// Last entry of our log when it said so.
    pub through: Index,
    /// Acknowledgements that answer an earlier round are from before.
    round: u64,
}

/// Invariant: `matched < next`, and messages in flight end between the two, rising.
#[derive(Debug)]
pub(super) struct Progress {
    pub matched: Index,
    /// First entry to send next.
    pub next: Index,
    pub mode: Mode,
    inflight: VecDeque<Inflight>,
    pub heard_us: u64,
    /// The newest read round that the peer has answered.
    pub answered_round: u64,
    /// The link is down: only heartbeats are sent.
    pub paused: bool,
    /// No longer a member; kept until the change is committed, so that it can learn of it.
    pub leaving: bool,
    pub forgotten: Option<Forgotten>,
    /// A learner has caught up when it reaches, within a moment, what was the end of the log when it set out.
    catch_up_target: Index,
    ready_reported_us: Option<u64>,
    /// When a refusal last ended sending ahead.
    refused_us: Option<u64>,
}

/// A learner this close to the end of the log will not delay a commit for long.
const CAUGHT_UP_ENTRIES: Index = 1000;

impl Progress {
    /// A peer of which nothing is known: it is asked whether it has all before `next`, the optimistic guess.
    pub fn new(next: Index, now_us: u64) -> Progress {
        Progress {
            matched: 0,
            next,
            mode: Mode::Probe { sent: false },
            inflight: VecDeque::new(),
            heard_us: now_us,
            answered_round: 0,
            paused: false,
            leaving: false,
            forgotten: None,
            catch_up_target: next - 1,
            ready_reported_us: None,
            refused_us: None,
        }
    }

    /// An answer of this term came.
    pub fn heard(&mut self, now_us: u64, round: u64) {
        self.heard_us = now_us;
        self.answered_round = self.answered_round.max(round);
        self.paused = false;
    }

    /// Whether a message with entries may be sent now.
    pub fn may_send(&self, max_inflight_messages: usize) -> bool {
        !self.paused
            && match self.mode {
                Mode::Probe { sent } => !sent,
                Mode::Snapshot => false,
                Mode::Replicate => self.inflight.len() < max_inflight_messages.max(1),
            }
    }

    /// A message with entries up to `last` was sent.
    pub fn sent(&mut self, last: Index, now_us: u64) {
        match &mut self.mode {
            Mode::Probe { sent } => *sent = true,
            Mode::Snapshot => unreachable!("nothing is sent to a peer that needs a snapshot"),
            Mode::Replicate => {
                self.next = last + 1;
                self.inflight.push_back(Inflight { last, sent_us: now_us });
            }
        }
    }

    /// The peer holds everything up to `matched`; true when that is news.
    pub fn acknowledge(&mut self, matched: Index) -> bool {
        let news = matched > self.matched;
        self.matched = self.matched.max(matched);
        while self.inflight.front().is_some_and(|message| message.last <= self.matched) {
            self.inflight.pop_front();
        }
        if self.mode != Mode::Replicate && matched + 1 >= self.next {
            self.mode = Mode::Replicate;
        }
        self.next = self.next.max(self.matched + 1);
        news
    }

    /// The peer holds nothing for certain; what answers a round before `round` says nothing of its present log.
    pub fn forget(&mut self, nonce: Nonce, through: Index, round: u64) {
        self.matched = 0;
        self.forgotten = Some(Forgotten { nonce, through, round });
        self.probe_from(through + 1);
    }

    /// Whether an acknowledgement that answers `round` is of the peer's present log.
    pub fn counts(&self, round: u64) -> bool {
        self.forgotten.is_none_or(|forgotten| round >= forgotten.round)
    }

    /// Starts over: it is asked whether it has all before `next`.
    pub fn probe_from(&mut self, next: Index) {
        debug_assert!(next > self.matched);
        self.inflight.clear();
        self.next = next;
        self.mode = Mode::Probe { sent: false };
    }

    /// Only a snapshot, or the news that it holds all before `next`, brings the peer on.
    pub fn await_snapshot(&mut self, next: Index) {
        self.probe_from(next);
        self.mode = Mode::Snapshot;
    }

    pub fn awaits_snapshot(&self) -> bool {
        self.mode == Mode::Snapshot
    }

    pub fn is_probing(&self) -> bool {
        matches!(self.mode, Mode::Probe { .. })
    }

    /// Whether a refusal of `prev` is an answer to what is in flight, and not an old one. While entries are sent ahead, one in
    /// `pause_us` counts: the refusals of all that was in flight at the first one may still be under way, and each of
    /// them would send everything again. What is lost meanwhile is missed by [`Self::has_lost`].
    pub fn take_refusal(&mut self, prev: Index, now_us: u64, pause_us: u64) -> bool {
        match self.mode {
            Mode::Snapshot => false,
            Mode::Probe { .. } => prev + 1 == self.next && prev > self.matched,
            Mode::Replicate => {
                let rested = self.refused_us.is_none_or(|at_us| now_us.saturating_sub(at_us) >= pause_us);
                let fresh = rested && prev > self.matched && prev < self.next;
                if fresh {
                    self.refused_us = Some(now_us);
                }
                fresh
            }
        }
    }

    /// The oldest message in flight is older than `timeout_us`: it, or its answer, was lost.
    pub fn has_lost(&self, now_us: u64, timeout_us: u64) -> bool {
        self.inflight.front().is_some_and(|message| now_us.saturating_sub(message.sent_us) >= timeout_us)
    }

    pub fn inflight_messages(&self) -> usize {
        self.inflight.len()
    }

    /// Whether this learner should be reported as caught up, at most once per `period_us`.
    pub fn take_ready(&mut self, last: Index, now_us: u64, period_us: u64) -> bool {
        if self.matched < self.catch_up_target && self.matched < last {
            return false;
        }
        self.catch_up_target = last;
        let near = last - self.matched <= CAUGHT_UP_ENTRIES;
        let due = self.ready_reported_us.is_none_or(|reported| now_us.saturating_sub(reported) >= period_us);
        if near && due {
            self.ready_reported_us = Some(now_us);
        }
        near && due
    }

    /// Whether the invariant above holds; for `invariants::check`.
    pub fn is_consistent(&self, last: Index) -> bool {
        let mut before = self.matched;
        self.matched < self.next
            && self.matched <= last
            && self.next <= last + 1
            && self.inflight.iter().all(|message| {
                let rising = before < message.last && message.last < self.next;
                before = message.last;
                rising
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replicating() -> Progress {
        let mut peer = Progress::new(11, 0);
        assert!(peer.acknowledge(10));
        peer
    }

    #[test]
    fn a_probe_is_one_message_and_its_answer_opens_the_window() {
        let mut peer = Progress::new(11, 0);
        assert!(peer.may_send(8));
        peer.sent(12, 0);
        assert_eq!((peer.next, peer.may_send(8)), (11, false));
        assert!(peer.acknowledge(4), "an old ack is news, but not the answer");
        assert!(!peer.may_send(8));
        assert!(peer.acknowledge(12));
        assert_eq!((peer.mode, peer.next), (Mode::Replicate, 13));
    }

    #[test]
    fn the_window_is_counted_in_messages() {
        let mut peer = replicating();
        peer.sent(11, 0);
        peer.sent(14, 0);
        assert!(!peer.may_send(2));
        assert!(peer.acknowledge(13));
        assert!(!peer.may_send(2) || peer.inflight_messages() == 1);
        assert_eq!((peer.inflight_messages(), peer.next), (1, 15));
        assert!(!peer.acknowledge(12), "an old ack changes nothing");
        assert!(peer.acknowledge(14));
        assert_eq!(peer.inflight_messages(), 0);
        assert!(peer.is_consistent(14));
    }

    #[test]
    fn loss_is_noticed_and_probing_starts_over() {
        let mut peer = replicating();
        peer.sent(12, 100);
        assert!(!peer.has_lost(399, 300));
        assert!(peer.has_lost(400, 300));
        peer.probe_from(peer.matched + 1);
        assert_eq!((peer.next, peer.inflight_messages(), peer.has_lost(999, 300)), (11, 0, false));
    }

    #[test]
    fn old_refusals_are_told_from_fresh_ones() {
        let mut peer = replicating();
        peer.sent(12, 0);
        peer.sent(13, 0);
        assert!(!peer.take_refusal(10, 0, 100), "the peer has said that it holds 10");
        assert!(!peer.take_refusal(14, 0, 100), "never sent");
        assert!(peer.take_refusal(12, 0, 100));
        peer.probe_from(12);
        assert!(peer.take_refusal(11, 0, 100));
        assert!(!peer.take_refusal(12, 0, 100));
    }

    /// A window of refusals, out of order, that each sent the window again would grow without end.
    #[test]
    fn of_a_storm_of_refusals_one_counts() {
        let mut peer = replicating();
        (12..20).for_each(|last| peer.sent(last, 0));
        assert!(peer.take_refusal(13, 5, 100));
        peer.probe_from(11);
        peer.acknowledge(10);
        (12..20).for_each(|last| peer.sent(last, 6));
        assert!((11..19).all(|prev| !peer.take_refusal(prev, 104, 100)));
        assert!(peer.take_refusal(13, 105, 100));
    }

    #[test]
    fn a_learner_is_ready_when_it_reached_its_target_and_is_near() {
        let mut peer = Progress::new(5001, 0);
        peer.acknowledge(100);
        assert!(!peer.take_ready(5000, 0, 10));
        peer.acknowledge(5000);
        assert!(!peer.take_ready(9000, 0, 10), "reached the target, but the log has run away: next round");
        peer.acknowledge(8500);
        assert!(!peer.take_ready(9100, 0, 10), "near, but before the target");
        peer.acknowledge(9000);
        assert!(peer.take_ready(9100, 0, 10));
        peer.acknowledge(9100);
        assert!(!peer.take_ready(9100, 9, 10), "once per period");
        assert!(peer.take_ready(9100, 10, 10));
    }

    #[test]
    fn a_paused_peer_gets_nothing_until_it_is_heard() {
        let mut peer = replicating();
        peer.paused = true;
        assert!(!peer.may_send(8));
        peer.heard(5, 3);
        assert!(peer.may_send(8));
        peer.heard(6, 2);
        assert_eq!((peer.answered_round, peer.heard_us), (3, 6), "rounds do not fall");
    }
}
