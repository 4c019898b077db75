//! The log as the core sees it: which term each entry is of, how long it is, and the memberships. Never a payload.

use std::collections::VecDeque;
use std::sync::Arc;

use super::message::{EntryKind, EntryMeta, Index, Membership, Position, Term};

/// Entries `first ..` up to the next run are of `term`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    first: Index,
    term: Term,
}

#[derive(Debug)]
pub(super) struct LogView {
    /// The entry before the first one held.
    base: Position,
    /// Invariant: firsts and terms rise strictly; the first run starts at `base.index + 1`.
    runs: VecDeque<Run>,
    /// Payload length of each entry, in bytes; entry `base.index + 1` first.
    sizes: VecDeque<u32>,
    /// Indices of the no-ops, rising.
    no_ops: VecDeque<Index>,
    /// Memberships by the index of their entry, rising. Invariant: never empty, the first stands at `base.index`.
    memberships: VecDeque<(Index, Arc<Membership>)>,
}

impl LogView {
    pub fn new(base: Position, membership: Membership) -> LogView {
        LogView {
            base,
            runs: VecDeque::new(),
            sizes: VecDeque::new(),
            no_ops: VecDeque::new(),
            memberships: VecDeque::from([(base.index, Arc::new(membership))]),
        }
    }

    pub fn base(&self) -> Position {
        self.base
    }

    /// The last entry, or the base when the log is empty.
    pub fn last(&self) -> Position {
        let term = self.runs.back().map_or(self.base.term, |run| run.term);
        Position { index: self.last_index(), term }
    }

    pub fn last_index(&self) -> Index {
        self.base.index + self.sizes.len() as Index
    }

    /// Where the run that holds `index` stands. `index` must be held.
    fn run_of(&self, index: Index) -> usize {
        // Nearly every question is about the newest term.
        let newest = self.runs.len() - 1;
        if self.runs[newest].first <= index {
            return newest;
        }
        self.runs.partition_point(|run| run.first <= index) - 1
    }

    /// The term of the entry at `index`; of the base as well. None outside of the log.
    pub fn term_at(&self, index: Index) -> Option<Term> {
        if index == self.base.index {
            return Some(self.base.term);
        }
        if index < self.base.index || index > self.last_index() {
            return None;
        }
        Some(self.runs[self.run_of(index)].term)
    }

    /// `index` with its term; None outside of the log.
    pub fn position_at(&self, index: Index) -> Option<Position> {
        self.term_at(index).map(|term| Position { index, term })
    }

    /// The largest position at or before `index` whose term is not above `term`; (0, 0) when none is known.
    pub fn at_or_before(&self, index: Index, term: Term) -> Position {
        let mut index = index.min(self.last_index());
        while index > self.base.index {
            let run = self.runs[self.run_of(index)];
            if run.term <= term {
                return Position { index, term: run.term };
            }
            index = run.first - 1;
        }
        if index == self.base.index && self.base.term <= term {
            self.base
        } else {
            Position::default()
        }
    }

    /// Appends one entry; true when the membership in force changed.
    ///
    /// # Panics
    /// When the entry's term is below that of the last one: Raft's logs never do that.
    pub fn append(&mut self, entry: &EntryMeta) -> bool {
        let last = self.last();
        assert!(entry.term >= last.term, "an entry of term {} cannot follow {last:?}", entry.term);
        let index = last.index + 1;
        if self.runs.back().is_none_or(|run| run.term < entry.term) {
            self.runs.push_back(Run { first: index, term: entry.term });
        }
        self.sizes.push_back(entry.bytes);
        match &entry.kind {
            EntryKind::Normal => false,
            EntryKind::NoOp => {
                self.no_ops.push_back(index);
                false
            }
            EntryKind::Membership(membership) => {
                self.memberships.push_back((index, Arc::clone(membership)));
                true
            }
        }
    }

    /// Drops `from` and all after it; true when the membership in force changed.
    pub fn truncate(&mut self, from: Index) -> bool {
        assert!(from > self.base.index, "entry {from} is not in the log, which starts after {:?}", self.base);
        self.sizes.truncate((from - self.base.index - 1) as usize);
        while self.runs.back().is_some_and(|run| run.first >= from) {
            self.runs.pop_back();
        }
        while self.no_ops.back().is_some_and(|index| *index >= from) {
            self.no_ops.pop_back();
        }
        let before = self.memberships.len();
        while self.memberships.back().is_some_and(|(index, _)| *index >= from) {
            self.memberships.pop_back();
        }
        self.memberships.len() != before
    }

    /// Whether this very entry is in the log, or lies before it: then it was committed, and its like was here.
    pub fn holds(&self, position: Position) -> bool {
        position.index < self.base.index || self.term_at(position.index) == Some(position.term)
    }

    /// Forgets all entries up to `through`, which becomes the base; the membership in force there stays known.
    pub fn compact(&mut self, through: Index) {
        let base = self.position_at(through).expect("what is compacted is in the log");
        self.sizes.drain(..(through - self.base.index) as usize);
        while self.no_ops.front().is_some_and(|index| *index <= through) {
            self.no_ops.pop_front();
        }
        while self.memberships.get(1).is_some_and(|(index, _)| *index <= through) {
            self.memberships.pop_front();
        }
        self.memberships[0].0 = through;
        while self.runs.get(1).is_some_and(|run| run.first <= through + 1) {
            self.runs.pop_front();
        }
        match self.sizes.is_empty() {
            true => self.runs.clear(),
            false => self.runs[0].first = through + 1,
        }
        self.base = base;
    }

    /// See [`super::Raft::leaving`].
    pub fn leaving(&self, through: Index, bytes: u64) -> Index {
        let mut left = 0;
        let mut index = through.min(self.last_index());
        while index > self.base.index && left < bytes {
            left += u64::from(self.sizes[(index - self.base.index - 1) as usize]).max(1);
            index -= 1;
        }
        index
    }

    /// Payload bytes of the entries after `index`.
    pub fn bytes_after(&self, index: Index) -> u64 {
        let skip = index.saturating_sub(self.base.index) as usize;
        self.sizes.iter().skip(skip).map(|size| u64::from(*size)).sum()
    }

    /// The membership in force: the newest in the log, committed or not (dissertation 4.1).
    pub fn membership(&self) -> &Arc<Membership> {
        &self.memberships[self.memberships.len() - 1].1
    }

    /// The membership that a truncation of the one in force would bring back; None when it is the first.
    pub fn previous_membership(&self) -> Option<&Membership> {
        let before = self.memberships.len().checked_sub(2)?;
        Some(&self.memberships[before].1)
    }

    /// Where the membership in force was appended.
    pub fn membership_index(&self) -> Index {
        self.memberships[self.memberships.len() - 1].0
    }

    /// Entries from `first` on: at least one if there is any, then as many as fit in `max_entries` and `max_bytes`.
    pub fn entries(&self, first: Index, max_entries: usize, max_bytes: u64) -> Vec<EntryMeta> {
        debug_assert!(first > self.base.index);
        let skip = (first - self.base.index - 1) as usize;
        let mut bytes = 0;
        let count = self
            .sizes
            .iter()
            .skip(skip)
            .take(max_entries)
            .take_while(|size| {
                let started = bytes > 0;
                bytes += u64::from(**size).max(1);
                !started || bytes <= max_bytes
            })
            .count();
        let end = first + count as Index;
        let mut run = if count > 0 { self.run_of(first) } else { 0 };
        let mut no_ops = self.no_ops.range(self.no_ops.partition_point(|index| *index < first)..).peekable();
        let changes = self.memberships.partition_point(|(index, _)| *index < first);
        let mut changes = self.memberships.range(changes..).peekable();
        let mut entries = Vec::with_capacity(count);
        for index in first..end {
            if self.runs.get(run + 1).is_some_and(|next| next.first <= index) {
                run += 1;
            }
            let kind = if no_ops.next_if(|at| **at == index).is_some() {
                EntryKind::NoOp
            } else if let Some((_, membership)) = changes.next_if(|(at, _)| *at == index) {
                EntryKind::Membership(Arc::clone(membership))
            } else {
                EntryKind::Normal
            };
            let bytes = self.sizes[(index - self.base.index - 1) as usize];
            entries.push(EntryMeta { term: self.runs[run].term, kind, bytes });
        }
        entries
    }

    /// Whether the structure holds its own invariants; for `invariants::check`.
    pub fn is_consistent(&self) -> bool {
        let first = self.runs.front().map(|run| run.first);
        let rising = (1..self.runs.len()).all(|at| {
            self.runs[at - 1].first < self.runs[at].first && self.runs[at - 1].term < self.runs[at].term
        });
        let inside = self.runs.back().is_none_or(|run| run.first <= self.last_index());
        let membership = self.memberships.front().map(|(index, _)| *index) == Some(self.base.index)
            && self.membership_index() <= self.last_index();
        let starts = first == (!self.sizes.is_empty()).then_some(self.base.index + 1);
        rising && inside && membership && starts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(term: Term, bytes: u32) -> EntryMeta {
        EntryMeta { term, kind: EntryKind::Normal, bytes }
    }

    fn position(index: Index, term: Term) -> Position {
        Position { index, term }
    }

    /// Terms of the entries after `base`.
    fn log(base: Position, terms: &[Term]) -> LogView {
        let mut log = LogView::new(base, Membership::default());
        for term in terms {
            log.append(&entry(*term, 1));
        }
        assert!(log.is_consistent());
        log
    }

    #[test]
    fn terms_and_ends() {
        let log = log(position(10, 2), &[2, 3, 3, 7]);
        assert_eq!(log.last(), position(14, 7));
        assert_eq!((9..16).map(|i| log.term_at(i)).collect::<Vec<_>>(), {
            vec![None, Some(2), Some(2), Some(3), Some(3), Some(7), None]
        });
        let empty = LogView::new(position(10, 2), Membership::default());
        assert_eq!(empty.last(), position(10, 2));
        assert!(empty.is_consistent());
    }

    #[test]
    fn truncation_restores_what_was() {
        let mut log = log(Position::default(), &[1, 1]);
        let membership = Arc::new(Membership { voters: [1].into(), learners: [].into() });
        let kind = EntryKind::Membership(Arc::clone(&membership));
        log.append(&EntryMeta { term: 2, kind: EntryKind::NoOp, bytes: 0 });
        assert!(log.append(&EntryMeta { term: 2, kind, bytes: 9 }));
        assert_eq!((log.membership(), log.membership_index()), (&membership, 4));
        assert!(!log.truncate(5));
        assert!(log.truncate(3));
        assert_eq!((log.last(), log.membership_index()), (position(2, 1), 0));
        assert!(log.is_consistent());
        assert!(!log.append(&entry(2, 1)));
        assert_eq!(log.entries(3, 9, 9), [entry(2, 1)], "the no-op that stood there is gone");
    }

    #[test]
    fn a_compacted_log_is_the_log_without_its_beginning() {
        let terms = [1, 1, 4, 4, 6, 6];
        let membership = Arc::new(Membership { voters: [1].into(), learners: [].into() });
        let whole = |base: Index| {
            let mut log = LogView::new(Position::default(), Membership::default());
            for (at, term) in terms.iter().enumerate() {
                let kind = match at {
                    2 => EntryKind::Membership(Arc::clone(&membership)),
                    4 => EntryKind::NoOp,
                    _ => EntryKind::Normal,
                };
                log.append(&EntryMeta { term: *term, kind, bytes: at as u32 });
            }
            if base > 0 {
                log.compact(base);
            }
            log
        };
        for base in 1..=6 {
            let (log, full) = (whole(base), whole(0));
            assert!(log.is_consistent(), "{base}: {log:?}");
            assert_eq!((log.last(), log.base()), (full.last(), full.position_at(base).unwrap()));
            for index in base..=7 {
                assert_eq!(log.term_at(index), full.term_at(index));
                assert_eq!(log.bytes_after(index), full.bytes_after(index));
                if index > base {
                    assert_eq!(log.entries(index, 9, 99), full.entries(index, 9, 99));
                }
            }
            assert_eq!(log.term_at(base - 1), None);
            assert_eq!(log.membership().is_voter(1), base >= 3 || log.membership_index() == 3);
            assert!(log.holds(position(base, terms[base as usize - 1])) && log.holds(position(base - 1, 1)));
            assert!(!log.holds(position(base, 9)) && !log.holds(position(7, 6)));
        }
        let mut log = whole(2);
        assert!(log.truncate(3), "the membership goes with its entry");
        assert_eq!((log.membership_index(), log.membership().is_voter(1)), (2, false));
        let mut log = whole(4);
        assert!(!log.truncate(5));
        assert!(log.membership().is_voter(1), "what is in the base cannot be taken back");
        assert!(log.is_consistent());
    }

    #[test]
    fn backtracking_finds_the_end_of_an_older_term() {
        let log = log(Position::default(), &[1, 1, 4, 4, 6]);
        assert_eq!(log.at_or_before(5, 6), position(5, 6));
        assert_eq!(log.at_or_before(9, 6), position(5, 6), "beyond the end");
        assert_eq!(log.at_or_before(5, 5), position(4, 4));
        assert_eq!(log.at_or_before(5, 3), position(2, 1));
        assert_eq!(log.at_or_before(3, 4), position(3, 4));
        assert_eq!(log.at_or_before(5, 0), Position::default());
        let based = LogView::new(position(10, 3), Membership::default());
        assert_eq!(based.at_or_before(12, 2), Position::default(), "before the base nothing is known");
        assert_eq!(based.at_or_before(12, 3), position(10, 3));
        assert_eq!(based.at_or_before(4, 3), Position::default());
    }

    #[test]
    fn entries_are_limited_by_count_and_bytes_but_one_always_goes() {
        let mut log = log(Position::default(), &[]);
        for (term, bytes) in [(1, 0), (1, 10), (2, 10), (2, 500), (2, 0)] {
            log.append(&entry(term, bytes));
        }
        let lengths = |first, count, bytes| log.entries(first, count, bytes).len();
        assert_eq!(lengths(1, 99, 10_000), 5);
        assert_eq!(lengths(1, 2, 10_000), 2);
        assert_eq!(lengths(2, 99, 20), 2);
        assert_eq!(lengths(2, 99, 19), 1);
        assert_eq!(lengths(4, 99, 20), 1, "one entry may exceed the limit");
        assert_eq!(lengths(6, 99, 20), 0);
        assert_eq!(
            log.entries(2, 2, 99).iter().map(|e| (e.term, e.bytes)).collect::<Vec<_>>(),
            [(1, 10), (2, 10)]
        );
    }

    #[test]
    #[should_panic(expected = "cannot follow")]
    fn a_falling_term_is_refused() {
        log(Position::default(), &[3, 2]);
    }
}
