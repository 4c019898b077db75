//! What the raft thread knows of the log without asking the disk: a line per entry, and the recent entries whole.

use std::collections::VecDeque;
use std::sync::Arc;

pub use super::lines::Line;
use super::lines::Lines;
use super::record::Entry;
use crate::limits::MAX_ENTRY_BYTES;

/// Where the sync thread put entries: consecutive ones, one right behind the other.
#[derive(Clone, Copy, Debug)]
pub struct Placement {
    /// The request that brought them: an index may be written more than once.
    pub request: u64,
    pub first_index: u64,
    pub count: u32,
    pub segment: u32,
    /// Of the first one.
    pub offset: u32,
    /// Offset behind the last one.
    pub end: u32,
}

/// The entries of one request, kept whole.
struct Run {
    request: u64,
    /// Shared with the sync thread until they are written.
    entries: Arc<Vec<Entry>>,
    /// Of these, entries `skipped..end` are in the log; the others were purged or truncated.
    skipped: usize,
    end: usize,
    /// How many were written, truncated ones included.
    written: usize,
    /// Memory this takes, roughly: without the structures a cache of empty entries would have no bound.
    bytes: u64,
}

impl Run {
    /// Index of the first entry that is in the log.
    fn first_index(&self) -> u64 {
        self.entries[self.skipped].index
    }

    fn len(&self) -> usize {
        self.end - self.skipped
    }

    fn is_written(&self) -> bool {
        self.written == self.entries.len()
    }
}

/// All entries' lines and the tail's payloads.
///
/// Invariants: lines are `first_index..=last_index`; the cache holds a suffix of them in runs that are not empty and
/// of increasing requests: every entry that is not written, and of the others not more than `cache_limit_bytes`.
pub struct Table {
    first_index: u64,
    base_term: u64,
    lines: Lines,
    cache: VecDeque<Run>,
    cached_bytes: u64,
    cached_entries: u64,
    cache_limit_bytes: u64,
}

impl Table {
    pub fn new(base_index: u64, base_term: u64, cache_limit_bytes: u64) -> Table {
        Table {
            first_index: base_index + 1,
            base_term,
            lines: Lines::default(),
            cache: VecDeque::new(),
            cached_bytes: 0,
            cached_entries: 0,
            cache_limit_bytes,
        }
    }

    pub fn first_index(&self) -> u64 {
        self.first_index
    }

    pub fn last_index(&self) -> u64 {
        self.first_index + self.lines.len() as u64 - 1
    }

    pub fn line(&self, index: u64) -> Option<&Line> {
        self.lines.get(usize::try_from(index.checked_sub(self.first_index)?).ok()?)
    }

    /// Term of an entry, or of the one before the first.
    pub fn term_at(&self, index: u64) -> Option<u64> {
        if index + 1 == self.first_index {
            return Some(self.base_term);
        }
        self.line(index).map(|line| line.term)
    }

    /// The length of an entry that was known only roughly.
    pub fn set_length(&mut self, index: u64, length: u32) {
        let position = index.checked_sub(self.first_index).expect("an entry of the log") as usize;
        self.lines.get_mut(position).expect("an entry of the log").length = length;
    }

    /// Bytes and number of cached entries.
    pub fn cached(&self) -> (u64, u64) {
        (self.cached_bytes, self.cached_entries)
    }

    /// Appends an entry that recovery found on the disk.
    pub fn push_recovered(&mut self, line: Line) {
        assert!(line.offset > 0, "a recovered entry has a place");
        self.lines.push(line);
    }

    /// Appends the entries of `request`. Panics unless each is the next one and no term falls. Returns the bytes of
    /// their payloads.
    pub fn push(&mut self, request: u64, entries: Arc<Vec<Entry>>) -> usize {
        if entries.is_empty() {
            return 0;
        }
        let mut last = self.last_index();
        let mut last_term = self.term_at(last).expect("the last entry has a term");
        let mut payload_bytes = 0;
        for entry in entries.iter() {
            let Entry { index, term, kind, ref payload, .. } = *entry;
            assert!(index == last + 1, "entry {index} appended behind entry {last}");
            assert!(payload.len() <= MAX_ENTRY_BYTES, "an entry of {} bytes", payload.len());
            assert!(term >= last_term, "entry {index} has a term below {last_term}");
            (last, last_term) = (index, term);
            payload_bytes += payload.len();
            self.lines.push(Line { term, offset: 0, length: payload.len() as u32, segment: 0, kind });
        }
        let structures = size_of::<Run>() + entries.len() * size_of::<Entry>();
        let bytes = (payload_bytes + structures) as u64;
        self.cached_bytes += bytes;
        self.cached_entries += entries.len() as u64;
        let end = entries.len();
        self.cache.push_back(Run { request, entries, skipped: 0, end, written: 0, bytes });
        payload_bytes
    }

    /// Drops entry `from` and all after it. Panics unless `from` is in the log or next to its end.
    pub fn truncate(&mut self, from: u64) {
        let last = self.last_index();
        assert!(
            from >= self.first_index && from <= last + 1,
            "truncation from {from}, the log ends at {last}"
        );
        self.lines.truncate((from - self.first_index) as usize);
        while let Some(run) = self.cache.back_mut() {
            let kept = (from.saturating_sub(run.first_index()) as usize).min(run.len());
            self.cached_entries -= (run.len() - kept) as u64;
            run.end = run.skipped + kept;
            if kept > 0 {
                break;
            }
            self.let_go(true);
        }
    }

    /// Drops all entries up to `base_index`. Panics unless it is in the log or right before it.
    pub fn purge(&mut self, base_index: u64) {
        let base_term = self.term_at(base_index).expect("the log holds its new base");
        self.base_term = base_term;
        self.lines.drop_front((base_index + 1 - self.first_index) as usize);
        self.first_index = base_index + 1;
        while let Some(run) = self.cache.front_mut() {
            let dropped = ((base_index + 1).saturating_sub(run.first_index()) as usize).min(run.len());
            self.cached_entries -= dropped as u64;
            run.skipped += dropped;
            if run.len() > 0 {
                break;
            }
            self.let_go(false);
        }
    }

    /// Removes the last or the first run.
    fn let_go(&mut self, last: bool) {
        let run = if last { self.cache.pop_back() } else { self.cache.pop_front() };
        let run = run.expect("there is a run");
        self.cached_bytes -= run.bytes;
        self.cached_entries -= run.len() as u64;
    }

    /// Notes where entries were written, and lets the oldest of them go from the cache when it is over its limit.
    pub fn place(&mut self, placements: &[Placement]) {
        for placement in placements {
            let at = self.cache.partition_point(|run| run.request < placement.request);
            // Else all of it was truncated meanwhile, or purged.
            let Some(run) = self.cache.get_mut(at).filter(|run| run.request == placement.request) else {
                continue;
            };
            run.written += placement.count as usize;
            let first = (placement.first_index - run.entries[0].index) as usize;
            let mut offset = u64::from(placement.offset);
            for at in first..first + placement.count as usize {
                let entry = &run.entries[at];
                if (run.skipped..run.end).contains(&at) {
                    let position = (entry.index - self.first_index) as usize;
                    let line = self.lines.get_mut(position).expect("the cache holds a suffix of the lines");
                    line.offset = offset as u32;
                    line.segment = placement.segment;
                }
                offset += entry.segment_bytes();
            }
            assert!(offset == u64::from(placement.end), "records stand one right behind the other");
        }
        while self.cached_bytes > self.cache_limit_bytes && self.cache.front().is_some_and(Run::is_written) {
            self.let_go(false);
        }
    }

    /// An entry that is cached.
    pub fn cached_entry(&self, index: u64) -> Option<Entry> {
        let behind = self.cache.partition_point(|run| run.first_index() <= index);
        let run = self.cache.get(behind.checked_sub(1)?)?;
        let at = run.skipped + (index - run.first_index()) as usize;
        (at < run.end).then(|| run.entries[at].clone())
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::log::Kind;

    fn entry(index: u64, term: u64) -> Entry {
        Entry::new(index, term, Kind::Normal, Bytes::from(vec![term as u8; 100]))
    }

    fn entries(indexes: std::ops::Range<u64>, term: u64) -> Arc<Vec<Entry>> {
        Arc::new(indexes.map(|index| entry(index, term)).collect())
    }

    /// 100 bytes of payload make records of 136.
    fn place(request: u64, first_index: u64, count: u32, offset: u32) -> Placement {
        Placement { request, first_index, count, segment: 1, offset, end: offset + 136 * count }
    }

    fn offset(table: &Table, index: u64) -> Option<u32> {
        table.line(index).map(|line| line.offset)
    }

    #[test]
    fn a_place_counts_only_for_the_request_that_brought_the_entry() {
        let mut table = Table::new(0, 0, 0);
        assert_eq!(table.push(1, entries(1..3, 1)), 200);
        table.truncate(2);
        table.push(2, entries(2..3, 2));
        table.place(&[place(1, 1, 2, 4144)]);
        assert_eq!(table.cached_entry(1), None, "written, and over the limit");
        assert_eq!(table.cached_entry(2), Some(entry(2, 2)), "what is not written stays");
        assert_eq!((offset(&table, 1), offset(&table, 2)), (Some(4144), Some(0)));
        table.place(&[place(2, 2, 1, 4500)]);
        assert_eq!(offset(&table, 2), Some(4500));
        assert_eq!(table.cached(), (0, 0));
    }

    #[test]
    fn a_request_may_be_written_in_pieces() {
        let mut table = Table::new(0, 0, 0);
        table.push(7, entries(1..6, 1));
        table.place(&[place(7, 1, 3, 4096)]);
        assert_eq!(table.cached().1, 5, "kept until all of it is written");
        table.place(&[place(7, 4, 2, 8192)]);
        let offsets: Vec<_> = (1..6).filter_map(|index| offset(&table, index)).collect();
        assert_eq!(offsets, [4096, 4232, 4368, 8192, 8328]);
        assert_eq!(table.cached(), (0, 0));
    }

    #[test]
    fn truncation_and_purge_take_parts_of_runs() {
        let mut table = Table::new(0, 0, u64::MAX);
        table.push(1, entries(1..5, 1));
        table.push(2, entries(5..9, 1));
        table.purge(2);
        table.truncate(8);
        assert_eq!((table.first_index(), table.last_index(), table.term_at(2)), (3, 7, Some(1)));
        assert_eq!(table.cached().1, 5);
        for index in 0..10 {
            let expected = (3..8).contains(&index).then(|| entry(index, 1));
            assert_eq!(table.cached_entry(index), expected, "{index}");
        }
        // What was handed in is written all the same, and placed.
        table.place(&[place(1, 1, 4, 4096), place(2, 5, 4, 4096 + 4 * 136)]);
        assert_eq!((offset(&table, 2), offset(&table, 3), offset(&table, 8)), (None, Some(4368), None));
        table.purge(7);
        assert_eq!((table.last_index(), table.cached(), table.term_at(7)), (7, (0, 0), Some(1)));
        table.push(3, entries(8..10, 4));
        assert_eq!((table.cached_entry(7), table.cached_entry(9)), (None, Some(entry(9, 4))));
        table.truncate(8);
        assert_eq!((table.last_index(), table.cached()), (7, (0, 0)));
    }

    #[test]
    #[should_panic(expected = "entry 3 appended behind entry 1")]
    fn a_gap_is_a_broken_invariant() {
        let mut table = Table::new(0, 0, 0);
        table.push(1, entries(1..2, 1));
        table.push(1, entries(3..4, 1));
    }
}
