//! A queue of lines, one per entry, that grows and shrinks in chunks: a million entries are never copied at once.

use std::collections::VecDeque;

use super::record::Kind;

/// Where an entry is. 24 bytes: a million entries are 24 MB.
#[derive(Clone, Copy, Debug)]
pub struct Line {
    pub term: u64,
    /// In its segment; 0 as long as it is not written.
    pub offset: u32,
    pub length: u32,
    pub segment: u32,
    pub kind: Kind,
}

const _: () = assert!(size_of::<Line>() == 24);
/// Lines in a chunk.
const CHUNK: usize = 4096;

/// Lines by position, from 0.
///
/// Invariant: every chunk but the last holds `CHUNK` lines; the first `skipped` of the first one count no more.
#[derive(Default)]
pub struct Lines {
    chunks: VecDeque<Vec<Line>>,
    skipped: usize,
    length: usize,
}

impl Lines {
    pub fn len(&self) -> usize {
        self.length
    }

    pub fn get(&self, position: usize) -> Option<&Line> {
        let at = position.checked_add(self.skipped)?;
        self.chunks.get(at / CHUNK)?.get(at % CHUNK)
    }

    pub fn get_mut(&mut self, position: usize) -> Option<&mut Line> {
        let at = position.checked_add(self.skipped)?;
        self.chunks.get_mut(at / CHUNK)?.get_mut(at % CHUNK)
    }

    pub fn push(&mut self, line: Line) {
        if self.chunks.back().is_none_or(|chunk| chunk.len() == CHUNK) {
            self.chunks.push_back(Vec::with_capacity(CHUNK));
        }
        self.chunks.back_mut().expect("just seen to").push(line);
        self.length += 1;
    }

    /// Keeps the first `length`.
    pub fn truncate(&mut self, length: usize) {
        assert!(length <= self.length);
        self.length = length;
        let end = self.skipped + length;
        self.chunks.truncate(end.div_ceil(CHUNK));
        if let Some(last) = self.chunks.back_mut() {
            last.truncate((end - 1) % CHUNK + 1);
        }
        if end == 0 {
            self.chunks.clear();
        }
    }

    /// Drops the first `count`.
    pub fn drop_front(&mut self, count: usize) {
        assert!(count <= self.length);
        self.length -= count;
        self.skipped += count;
        while self.skipped >= CHUNK {
            self.chunks.pop_front();
            self.skipped -= CHUNK;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn line(term: u64) -> Line {
        Line { term, offset: 8, length: 0, segment: 1, kind: Kind::Normal }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn they_are_a_queue(actions in prop::collection::vec((0..3, 0usize..6000), 1..20)) {
            let (mut lines, mut model) = (Lines::default(), VecDeque::new());
            for (action, count) in actions {
                match action {
                    0 => (0..count as u64).for_each(|term| {
                        lines.push(line(term));
                        model.push_back(term);
                    }),
                    1 => {
                        let kept = model.len().saturating_sub(count);
                        lines.truncate(kept);
                        model.truncate(kept);
                    }
                    _ => {
                        let dropped = count.min(model.len());
                        lines.drop_front(dropped);
                        model.drain(..dropped);
                    }
                }
                prop_assert_eq!(lines.len(), model.len());
                prop_assert!(lines.get(model.len()).is_none() && lines.get(usize::MAX).is_none());
                for (position, term) in model.iter().enumerate().step_by(97) {
                    prop_assert_eq!(lines.get(position).map(|line| line.term), Some(*term));
                }
                prop_assert_eq!(lines.get_mut(0).map(|line| line.term), model.front().copied());
            }
        }
    }
}
