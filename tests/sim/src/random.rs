//! The only source of chance: SplitMix64 (Steele et al. 2014), one stream for each purpose, all from the seed.

#[derive(Clone, Debug)]
pub struct Random {
    state: u64,
}

impl Random {
    /// The stream of `seed` for one purpose: what is drawn for one does not shift what is drawn for another.
    pub fn new(seed: u64, purpose: u64) -> Random {
        let mut random = Random { state: seed ^ purpose.wrapping_mul(0xd6e8_feb8_6659_fd93) };
        random.draw();
        random
    }

    pub fn draw(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number in `0..bound`; 0 when `bound` is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.draw().checked_rem(bound).unwrap_or(0)
    }

    /// A number in `low..=high`.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high - low + 1)
    }

    pub fn index(&mut self, length: usize) -> usize {
        self.below(length as u64) as usize
    }

    /// True with `per_mille` in a thousand.
    pub fn chance(&mut self, per_mille: u64) -> bool {
        self.below(1000) < per_mille
    }

    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.index(items.len())]
    }

    /// Mostly around `typical`, now and then 10 and rarely 100 times as much: how delays are in life.
    pub fn long_tailed(&mut self, typical: u64) -> u64 {
        let stretched = match self.below(1000) {
            0..=4 => typical * 100,
            5..=49 => typical * 10,
            _ => typical,
        };
        stretched / 2 + self.below(stretched + 1)
    }

    /// 40 hex characters, as a replication id.
    pub fn replid(&mut self) -> String {
        let (a, b, c) = (self.draw(), self.draw(), self.draw() as u32);
        format!("{a:016x}{b:016x}{c:08x}")
    }
}
