//! The clock of elections and leases.

use nix::time::{clock_gettime, ClockId};

/// Microseconds since the machine was started. Never set back, and it goes on while the machine sleeps: the lease of a
/// leader that was suspended must be over when it wakes. Both threads read the same clock.
pub fn now_us() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_BOOTTIME).expect("Linux has this clock since 2.6.39");
    now.tv_sec() as u64 * 1_000_000 + now.tv_nsec() as u64 / 1000
}
