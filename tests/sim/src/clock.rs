//! The monotonic clock of one machine: it starts anywhere, runs fast or slow, jumps ahead when the machine was
//! suspended, and never goes back.

#[derive(Clone, Debug)]
pub struct Clock {
    true_base_us: u64,
    local_base_us: u64,
    /// Local microseconds in a million true ones.
    rate_ppm: u64,
}

impl Clock {
    pub fn new(local_base_us: u64, rate_ppm: u64) -> Clock {
        Clock { true_base_us: 0, local_base_us, rate_ppm }
    }

    /// What this clock shows at the true time `now_us`.
    pub fn local_us(&self, now_us: u64) -> u64 {
        self.local_base_us + (now_us - self.true_base_us) * self.rate_ppm / 1_000_000
    }

    /// The first true time at which this clock shows `local_us` or more; `u64::MAX` stays what it is.
    pub fn true_us(&self, local_us: u64) -> u64 {
        if local_us == u64::MAX {
            return u64::MAX;
        }
        let ahead = u128::from(local_us.saturating_sub(self.local_base_us)) * 1_000_000;
        self.true_base_us + ahead.div_ceil(u128::from(self.rate_ppm)) as u64
    }

    pub fn set_rate(&mut self, now_us: u64, rate_ppm: u64) {
        self.local_base_us = self.local_us(now_us);
        self.true_base_us = now_us;
        self.rate_ppm = rate_ppm;
    }

    pub fn jump(&mut self, now_us: u64, ahead_us: u64) {
        self.set_rate(now_us, self.rate_ppm);
        self.local_base_us += ahead_us;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_is_met_and_not_missed_by_a_microsecond() {
        for rate_ppm in [900_000, 1_000_000, 1_100_000, 999_983] {
            let mut clock = Clock::new(777, rate_ppm);
            clock.jump(1_000, 5_000);
            for local_us in 6_777..9_000 {
                let true_us = clock.true_us(local_us);
                assert!(clock.local_us(true_us) >= local_us);
                assert!(true_us <= 1_000 || clock.local_us(true_us - 1) < local_us);
            }
        }
    }
}
