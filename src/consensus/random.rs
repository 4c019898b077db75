//! A small generator of pseudo-random numbers (SplitMix64, Steele et al. 2014): the same seed, the same elections.

#[derive(Clone, Debug)]
pub(super) struct Random {
    state: u64,
}

impl Random {
    /// `id` keeps nodes apart that were given the same seed.
    pub fn new(seed: u64, id: u64) -> Random {
        Random { state: seed ^ id.wrapping_mul(0x9e37_79b9_7f4a_7c15) }
    }

    pub fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number in `0..bound`; 0 when `bound` is 0. The bias is far below what a timeout can notice.
    pub fn below(&mut self, bound: u64) -> u64 {
        if bound == 0 {
            return 0;
        }
        self.next() % bound
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn same_seed_same_numbers_other_node_other_numbers() {
        let draw = |seed, id| {
            let mut random = Random::new(seed, id);
            (0..8).map(|_| random.below(1000)).collect::<Vec<_>>()
        };
        assert_eq!(draw(7, 1), draw(7, 1));
        assert_ne!(draw(7, 1), draw(7, 2));
        assert_ne!(draw(7, 1), draw(8, 1));
    }

    #[test]
    fn below_stays_below() {
        let mut random = Random::new(1, 1);
        assert!((0..1000).all(|_| random.below(10) < 10));
        assert_eq!(random.below(0), 0);
    }
}
