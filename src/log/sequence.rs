//! The order of records: which may follow which.

use super::record::*;
use super::scan::Record;

/// What was read of a log so far.
///
/// Invariant: entries have consecutive indexes and terms that never fall (Raft section 5.3, Log Matching).
#[derive(Clone, Debug)]
pub struct Sequence {
    /// Index and term of the entry behind which the log starts; entries up to it may still be read.
    base: (u64, u64),
    /// The entry before the first that was read, and its term if that is known.
    start: (u64, Option<u64>),
    last_index: u64,
    /// (first index, term) of each run of entries of one term; strictly increasing in both.
    runs: Vec<(u64, u64)>,
    /// The membership that the record before this one was, for its copy.
    membership: Option<(RecordHeader, u32)>,
}

impl Sequence {
    /// Of a log that starts behind entry `base_index` of `base_term`.
    pub fn new(base_index: u64, base_term: u64) -> Sequence {
        Sequence {
            base: (base_index, base_term),
            start: (base_index, Some(base_term)),
            last_index: base_index,
            runs: Vec::new(),
            membership: None,
        }
    }

    /// The first segment that was not purged may begin with entries that the log does not count any more.
    pub fn start_behind(&mut self, index: u64, term: u64) {
        assert!(index <= self.base.0 && self.runs.is_empty());
        self.start = (index, Some(term));
        self.last_index = index;
    }

    /// Of the log: entries before it are read and skipped.
    pub fn first_index(&self) -> u64 {
        self.base.0 + 1
    }

    pub fn last_index(&self) -> u64 {
        self.last_index
    }

    /// 0 if the last entry was purged and its term with it.
    pub fn last_term(&self) -> u64 {
        self.known_last_term().unwrap_or(0)
    }

    /// `None`: a truncation left an entry that was purged.
    pub fn known_last_term(&self) -> Option<u64> {
        self.runs.last().map_or(self.start.1, |run| Some(run.1))
    }

    /// Says what is missing if the log ends before its base, or has another entry there.
    pub fn check_base(&self) -> Result<(), (String, String)> {
        let (index, term) = self.base;
        let run = self.runs.iter().rev().find(|run| run.0 <= index).map(|run| run.1);
        let found = run.or(if index == self.start.0 { self.start.1 } else { None });
        if self.last_index < index || found.is_some_and(|found| found != term) {
            let expected =
                format!("entry {index} of term {term}, behind which META says that the log starts");
            let found = found.map_or(String::new(), |term| format!(" of term {term} there"));
            return Err((expected, format!("entries up to {}{found}", self.last_index)));
        }
        Ok(())
    }

    /// Takes the next record, or says what was expected instead.
    pub fn apply(&mut self, record: &Record) -> Result<(), (String, String)> {
        let RecordHeader { index, term, .. } = record.header;
        let membership = self.membership.take();
        match record.record_type {
            RecordType::Normal | RecordType::NoOp | RecordType::Membership => {
                if index != self.last_index + 1 || term < self.last_term() {
                    let expected =
                        format!("entry {} of term {} or later", self.last_index + 1, self.last_term());
                    return Err((expected, format!("entry {index} of term {term}")));
                }
                self.last_index = index;
                if self.runs.is_empty() || term > self.last_term() {
                    self.runs.push((index, term));
                }
                if record.record_type == RecordType::Membership {
                    self.membership = Some((record.header, record.payload_crc));
                }
            }
            RecordType::Truncate => self.truncate(index)?,
            RecordType::Seal | RecordType::Mark => {
                let expected = (self.last_index, self.known_last_term().unwrap_or(term));
                if (index, term) != expected {
                    let what = if record.record_type == RecordType::Seal { "seal" } else { "mark" };
                    return Err((
                        format!("a {what} after entry {} of term {}", expected.0, expected.1),
                        format!("after entry {index} of term {term}"),
                    ));
                }
                if record.record_type == RecordType::Mark && Mark::decode(record.payload).is_none() {
                    return Err((
                        format!("a mark with {MARK_PAYLOAD_BYTES} bytes"),
                        format!("{}", record.payload.len()),
                    ));
                }
            }
            RecordType::Copy => {
                let identity = |header: &RecordHeader, crc| (header.index, header.term, header.length, crc);
                let copied = membership.map(|(header, crc)| identity(&header, crc));
                if copied != Some(identity(&record.header, record.payload_crc)) {
                    let expected = "a copy right behind its membership".to_string();
                    return Err((expected, format!("a copy of entry {index} of term {term}")));
                }
            }
        }
        Ok(())
    }

    /// Drops `index` and all after it. What was purged may be dropped too: entries that came later took its place.
    fn truncate(&mut self, index: u64) -> Result<(), (String, String)> {
        let lowest = if self.base.0 == 0 { self.first_index() } else { 1 };
        if index < lowest || index > self.last_index + 1 {
            let expected = format!("a truncation from {lowest}..={}", self.last_index + 1);
            return Err((expected, format!("one from {index}")));
        }
        self.last_index = index - 1;
        while self.runs.last().is_some_and(|run| run.0 >= index) {
            self.runs.pop();
        }
        if self.last_index < self.start.0 {
            self.start = (self.last_index, None);
        }
        Ok(())
    }
}
