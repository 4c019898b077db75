//! Notices a disk or a main thread that stands still.
//!
//! ```text
//!   disk:  write 7, 8, 9 handed out | 7 durable |  . . .  nothing for disk-stall-limit  -> stalled
//!   main:  ping 3 asked             |           |  . . .  no answer for main-stall-limit -> stalled
//! ```
//!
//! A disk that is slow makes progress and is not stalled: what counts is the time since it last finished anything
//! while something is outstanding. The main thread answers a ping when it takes its messages, once in each turn of
//! its event loop; a script or KEYS that runs for long lets no turn end.
//!
//! Time in which the raft thread itself did not run (SIGSTOP, a paused machine) proves nothing about the others.

use super::settings::Settings;
use crate::consensus::WriteId;

/// How often the main thread is asked. It wakes an idle server this often, which costs it nothing to speak of.
const PING_PERIOD_US: u64 = 500_000;
/// A raft thread that was not called for this long was stopped itself: it is woken once a ping period at least.
const OWN_STALL_US: u64 = 2 * PING_PERIOD_US;
/// Each time that leadership was handed over for the main thread, its limit doubles, up to this many times: a script
/// that is longer than the limit and is tried on one leader after the other is let finish in the end.
const MAX_DOUBLINGS: u32 = 3;
/// After this long without such a hand-over the limit is the configured one again.
const FORGET_DOUBLINGS_US: u64 = 600_000_000;

/// What stands still.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Stalls {
    pub disk: bool,
    pub main: bool,
}

impl Stalls {
    pub fn any(self) -> bool {
        self.disk || self.main
    }
}

/// Invariant: `durable <= submitted` and `answered <= asked`.
#[derive(Debug, Default)]
pub(super) struct Watchdog {
    submitted: WriteId,
    durable: WriteId,
    /// When the disk last finished something, or was given something after it had nothing to do.
    disk_moved_us: u64,
    asked: u64,
    asked_us: u64,
    answered: u64,
    looked_us: u64,
    doublings: u32,
    handed_over_us: u64,
    pub stalls: Stalls,
    /// Stalls since the start.
    pub disk_stalls: u64,
    pub main_stalls: u64,
}

impl Watchdog {
    pub fn submitted(&mut self, write: WriteId, now_us: u64) {
        if self.submitted == self.durable {
            self.disk_moved_us = now_us;
        }
        self.submitted = write;
    }

    pub fn durable(&mut self, write: WriteId, now_us: u64) {
        self.durable = self.durable.max(write);
        self.disk_moved_us = now_us;
    }

    /// Looks at everything; `answered`: the last ping that the main thread has answered. True: `stalls` has changed.
    pub fn look(&mut self, now_us: u64, answered: u64, settings: &Settings) -> bool {
        let own_us = now_us.saturating_sub(self.looked_us);
        if own_us > OWN_STALL_US {
            self.disk_moved_us = (self.disk_moved_us + own_us).min(now_us);
            self.asked_us = (self.asked_us + own_us).min(now_us);
        }
        self.looked_us = now_us;
        self.answered = answered;
        if now_us.saturating_sub(self.handed_over_us) >= FORGET_DOUBLINGS_US {
            self.doublings = 0;
        }
        let since = |at_us: u64| now_us.saturating_sub(at_us);
        let over = |idle_us: u64, limit_ms: u64| limit_ms > 0 && idle_us >= limit_ms.saturating_mul(1000);
        let main_limit_ms = settings.main_stall_limit_ms.saturating_mul(1 << self.doublings);
        let stalls = Stalls {
            disk: self.durable < self.submitted
                && over(since(self.disk_moved_us), settings.disk_stall_limit_ms),
            main: self.answered < self.asked && over(since(self.asked_us), main_limit_ms),
        };
        self.disk_stalls += u64::from(stalls.disk && !self.stalls.disk);
        self.main_stalls += u64::from(stalls.main && !self.stalls.main);
        std::mem::replace(&mut self.stalls, stalls) != stalls
    }

    /// The ping to be sent now, if one is due.
    pub fn ping(&mut self, now_us: u64) -> Option<u64> {
        let due = self.answered == self.asked && now_us >= self.asked_us.saturating_add(PING_PERIOD_US);
        due.then(|| {
            self.asked += 1;
            self.asked_us = now_us;
            self.asked
        })
    }

    /// Leadership was handed over because the main thread stands still.
    pub fn handed_over_for_main(&mut self, now_us: u64) {
        self.doublings = (self.doublings + 1).min(MAX_DOUBLINGS);
        self.handed_over_us = now_us;
    }

    pub fn deadline_us(&self) -> u64 {
        self.looked_us.saturating_add(PING_PERIOD_US)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND_US: u64 = 1_000_000;

    /// Looks each half second until `until_us`; the main thread answers at once if `alive`.
    fn watch(dog: &mut Watchdog, from_us: u64, until_us: u64, alive: bool) -> Stalls {
        let mut now_us = from_us;
        while now_us <= until_us {
            let answered = if alive { dog.asked } else { dog.answered };
            dog.look(now_us, answered, &Settings::default());
            dog.ping(now_us);
            now_us += PING_PERIOD_US;
        }
        dog.stalls
    }

    #[test]
    fn a_disk_is_stalled_when_it_finishes_nothing_for_the_limit() {
        let mut dog = Watchdog::default();
        watch(&mut dog, 0, 10 * SECOND_US, true);
        dog.submitted(1, 10 * SECOND_US);
        dog.submitted(2, 12 * SECOND_US);
        assert!(!watch(&mut dog, 10 * SECOND_US, 12_500_000, true).disk, "a sync of 2.5 s is latency");
        dog.durable(1, 12_900_000);
        assert!(!watch(&mut dog, 13 * SECOND_US, 15_500_000, true).disk, "it goes on, if slowly");
        assert!(watch(&mut dog, 16 * SECOND_US, 16 * SECOND_US, true).disk);
        dog.durable(2, 16_100_000);
        assert!(!watch(&mut dog, 16_200_000, 30 * SECOND_US, true).disk, "nothing is outstanding");
        assert_eq!((dog.disk_stalls, dog.main_stalls), (1, 0));
    }

    #[test]
    fn a_main_thread_is_stalled_when_it_does_not_answer_for_the_limit() {
        let mut dog = Watchdog::default();
        watch(&mut dog, 0, 10 * SECOND_US, true);
        assert!(!watch(&mut dog, 10_500_000, 19_500_000, false).main);
        assert!(watch(&mut dog, 20 * SECOND_US, 21 * SECOND_US, false).main);
        assert!(!watch(&mut dog, 21_500_000, 21_500_000, true).main);
        assert_eq!((dog.disk_stalls, dog.main_stalls), (0, 1));
    }

    #[test]
    fn time_in_which_this_thread_did_not_run_is_not_counted() {
        let mut dog = Watchdog::default();
        watch(&mut dog, 0, 10 * SECOND_US, true);
        dog.submitted(1, 10 * SECOND_US);
        let after = watch(&mut dog, 100 * SECOND_US, 102 * SECOND_US, false);
        assert!(!after.any(), "all stood still together");
        assert!(watch(&mut dog, 102_500_000, 104 * SECOND_US, false).disk);
    }

    #[test]
    fn a_script_that_goes_from_leader_to_leader_is_given_more_and_more_time() {
        let mut dog = Watchdog::default();
        dog.look(0, 0, &Settings::default());
        dog.handed_over_for_main(0);
        watch(&mut dog, 0, 10 * SECOND_US, true);
        assert!(!watch(&mut dog, 10_500_000, 29 * SECOND_US, false).main);
        assert!(watch(&mut dog, 29_500_000, 31 * SECOND_US, false).main);
        watch(&mut dog, 31 * SECOND_US, 700 * SECOND_US, true);
        assert!(watch(&mut dog, 700_500_000, 711 * SECOND_US, false).main, "that is forgotten after a while");
    }

    #[test]
    fn a_limit_of_zero_never_ends_a_leadership() {
        let mut dog = Watchdog::default();
        let never = Settings { disk_stall_limit_ms: 0, main_stall_limit_ms: 0, ..Settings::default() };
        dog.submitted(1, 0);
        for now_us in (0..100 * SECOND_US).step_by(PING_PERIOD_US as usize) {
            dog.look(now_us, 0, &never);
            dog.ping(now_us);
        }
        assert!(!dog.stalls.any());
    }
}
