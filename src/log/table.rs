//! What the raft thread knows of the log without asking the disk: a line per entry, and the recent entries whole.

use std::collections::VecDeque;

use bytes::Bytes;

use super::record::{Entry, Kind};

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

/// Where the sync thread put an entry.
#[derive(Clone, Copy, Debug)]
pub struct Placement {
    /// The request that brought it: an index may be written more than once.
    pub request: u64,
    pub index: u64,
    pub segment: u32,
    pub offset: u32,
}

struct Cached {
    payload: Bytes,
    payload_crc: u32,
    request: u64,
    written: bool,
}

impl Cached {
    /// Memory this takes, roughly: without it a cache of empty entries would have no bound.
    fn bytes(&self) -> u64 {
        (self.payload.len() + size_of::<Cached>()) as u64
    }
}

/// All entries' lines and the tail's payloads.
///
/// Invariants: lines are `first_index..=last_index`; the cache holds a suffix of them, every entry that is not
/// written, and of the others not more than `cache_limit_bytes`.
pub struct Table {
    first_index: u64,
    base_term: u64,
    lines: VecDeque<Line>,
    cache: VecDeque<Cached>,
    cached_bytes: u64,
    cache_limit_bytes: u64,
}

impl Table {
    pub fn new(base_index: u64, base_term: u64, cache_limit_bytes: u64) -> Table {
        Table {
            first_index: base_index + 1,
            base_term,
            lines: VecDeque::new(),
            cache: VecDeque::new(),
            cached_bytes: 0,
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

    /// Bytes and number of cached entries.
    pub fn cached(&self) -> (u64, u64) {
        (self.cached_bytes, self.cache.len() as u64)
    }

    /// Appends an entry that recovery found on the disk.
    pub fn push_recovered(&mut self, line: Line) {
        assert!(line.offset > 0, "a recovered entry has a place");
        self.lines.push_back(line);
    }

    /// Appends a new entry, brought by `request`. Panics unless it is the next one and its term does not fall.
    pub fn push(&mut self, request: u64, entry: &Entry) {
        let last = self.last_index();
        assert!(entry.index == last + 1, "entry {} appended behind entry {last}", entry.index);
        let last_term = self.term_at(last).expect("the last entry has a term");
        assert!(entry.term >= last_term, "entry {} has a term below {last_term}", entry.index);
        let Entry { term, kind, payload_crc, .. } = *entry;
        let length = entry.payload.len() as u32;
        self.lines.push_back(Line { term, offset: 0, length, segment: 0, kind });
        let cached = Cached { payload: entry.payload.clone(), payload_crc, request, written: false };
        self.cached_bytes += cached.bytes();
        self.cache.push_back(cached);
    }

    /// Drops entry `from` and all after it. Panics unless `from` is in the log or next to its end.
    pub fn truncate(&mut self, from: u64) {
        let last = self.last_index();
        assert!(
            from >= self.first_index && from <= last + 1,
            "truncation from {from}, the log ends at {last}"
        );
        let drop_count = (last + 1 - from) as usize;
        self.lines.truncate(self.lines.len() - drop_count);
        for _ in 0..drop_count.min(self.cache.len()) {
            let cached = self.cache.pop_back().expect("counted");
            self.cached_bytes -= cached.bytes();
        }
    }

    /// Notes where entries were written, and lets the oldest of them go from the cache when it is over its limit.
    pub fn place(&mut self, placements: &[Placement]) {
        for placement in placements {
            let cache_first = self.last_index() + 1 - self.cache.len() as u64;
            // Truncated meanwhile, or replaced by an entry of a later request.
            if placement.index < cache_first || placement.index > self.last_index() {
                continue;
            }
            let cached = &mut self.cache[(placement.index - cache_first) as usize];
            if cached.request != placement.request {
                continue;
            }
            cached.written = true;
            let line = &mut self.lines[(placement.index - self.first_index) as usize];
            line.offset = placement.offset;
            line.segment = placement.segment;
        }
        while self.cached_bytes > self.cache_limit_bytes
            && self.cache.front().is_some_and(|cached| cached.written)
        {
            let cached = self.cache.pop_front().expect("just seen");
            self.cached_bytes -= cached.bytes();
        }
    }

    /// An entry that is cached.
    pub fn cached_entry(&self, index: u64) -> Option<Entry> {
        let line = self.line(index)?;
        let cache_first = self.last_index() + 1 - self.cache.len() as u64;
        let cached = self.cache.get(usize::try_from(index.checked_sub(cache_first)?).ok()?)?;
        let Line { term, kind, .. } = *line;
        Some(Entry { index, term, kind, payload: cached.payload.clone(), payload_crc: cached.payload_crc })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(index: u64, term: u64) -> Entry {
        Entry::new(index, term, Kind::Normal, Bytes::from(vec![term as u8; 100]))
    }

    #[test]
    fn a_place_counts_only_for_the_request_that_brought_the_entry() {
        let mut table = Table::new(0, 0, 0);
        table.push(1, &entry(1, 1));
        table.push(1, &entry(2, 1));
        table.truncate(2);
        table.push(2, &entry(2, 2));
        let place = |request, index, offset| Placement { request, index, segment: 1, offset };
        table.place(&[place(1, 1, 4144), place(1, 2, 4280)]);
        assert_eq!(table.cached_entry(1), None, "written, and over the limit");
        assert_eq!(table.cached_entry(2), Some(entry(2, 2)), "what is not written stays");
        assert_eq!(
            (table.line(1).map(|line| line.offset), table.line(2).map(|line| line.offset)),
            (Some(4144), Some(0))
        );
        table.place(&[place(2, 2, 4500)]);
        assert_eq!(table.line(2).map(|line| line.offset), Some(4500));
        assert_eq!(table.cached(), (0, 0));
    }

    #[test]
    #[should_panic(expected = "entry 3 appended behind entry 1")]
    fn a_gap_is_a_broken_invariant() {
        let mut table = Table::new(0, 0, 0);
        table.push(1, &entry(1, 1));
        table.push(2, &entry(3, 1));
    }
}
