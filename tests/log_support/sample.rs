//! Logs to be damaged, and what may be found in them then.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use redisraft::log::record::RecordType;
use redisraft::log::{Entry, HardState, Kind, LogError, Reader, WriteRequest};

use super::*;

pub type Entries = Vec<(u64, u64, usize)>;

/// A log of at least three segments in use; its last batch may be one that was not acknowledged.
pub struct Sample {
    _directory: tempfile::TempDir,
    pub path: PathBuf,
    pub files: MemoryDisk,
    /// Without the last batch.
    pub before: MemoryDisk,
    pub acknowledged: Entries,
    pub all: Entries,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Clean,
    Torn,
    /// Damaged, and known to the last byte.
    Rebuilt,
    /// Entries are known but for their payload.
    Hole,
    /// Refused, with this file named.
    Corrupt(PathBuf),
}

impl Outcome {
    pub fn name(&self) -> &'static str {
        match self {
            Outcome::Clean => "clean",
            Outcome::Torn => "torn",
            Outcome::Rebuilt => "rebuilt",
            Outcome::Hole => "hole",
            Outcome::Corrupt(_) => "corrupt",
        }
    }
}

fn membership(index: u64, term: u64, bytes: usize) -> Entry {
    Entry::new(index, term, Kind::Membership, payload(index, term, bytes))
}

/// Terms, votes, a membership, a no-op and truncations.
fn story(harness: &mut Harness, first_term: u64) {
    for round in first_term..first_term + 5 {
        harness.vote(round, Some(round % 3 + 1)).expect("vote");
        let no_op = Entry::new(harness.log.last_index() + 1, round, Kind::NoOp, Bytes::new());
        harness.write(WriteRequest { entries: vec![no_op], ..Default::default() }).expect("write");
        harness.append(round, 2, (round as usize * 53) % 90).expect("append");
        harness.append(round, 1, 1000).expect("append");
    }
    let from = harness.log.last_index() - 4;
    let term = first_term + 6;
    let entries = (from..=from + 2).map(|index| entry(index, term, 40)).collect();
    let hard_state = Some(HardState { term, vote: None });
    let truncate_from = Some(from);
    harness.write(WriteRequest { hard_state, truncate_from, entries, ..Default::default() }).expect("write");
    let entries = vec![membership(from + 3, term, 45), entry(from + 4, term, 7)];
    harness.write(WriteRequest { entries, ..Default::default() }).expect("write");
}

fn is_log(path: &Path) -> bool {
    path.extension() == Some("log".as_ref())
}

/// Segments that are in use, oldest first.
pub fn used_segments(files: &MemoryDisk) -> Vec<(&PathBuf, &Arc<Vec<u8>>)> {
    let used = |(path, bytes): &(&PathBuf, &Arc<Vec<u8>>)| is_log(path) && bytes[..8] == *b"RRAFTSEG";
    files.0.iter().filter(used).collect()
}

impl Sample {
    pub fn fresh(last_acknowledged: bool) -> Sample {
        Sample::of(last_acknowledged, |harness| story(harness, 1))
    }

    /// The older segments were purged, and their files are in use again.
    pub fn recycled(last_acknowledged: bool) -> Sample {
        Sample::of(last_acknowledged, |harness| {
            let mut term = 1;
            let stats = loop {
                story(harness, term);
                let stats = harness.log.stats();
                // Those ahead of the log are used up before the recycled ones: two rounds more.
                if stats.recycled_segments >= 6 {
                    break stats;
                }
                harness.log.purge(harness.log.last_index() - 1);
                term += 10;
                assert!(term < 1000, "{stats:?}");
            };
            assert!(harness.log.first_index() > 1, "{stats:?}");
            story(harness, term + 10);
        })
    }

    fn of(last_acknowledged: bool, write: impl FnOnce(&mut Harness)) -> Sample {
        let directory = fast_directory();
        let path = directory.path().join("log");
        let mut harness = Harness::create(&path);
        write(&mut harness);
        let (before, after) = (directory.path().join("before"), directory.path().join("after"));
        let term = harness.log.hard_state().term;
        // The last batch is one that fits into its segment.
        let acknowledged = loop {
            let acknowledged = contents(&harness.log);
            still_image(&path, &before);
            harness.append(term, 3, 500).expect("append");
            still_image(&path, &after);
            let used = [&before, &after].map(|path| used_segments(&MemoryDisk::load(path)).len());
            if used[0] == used[1] {
                break acknowledged;
            }
        };
        let all = contents(&harness.log);
        drop(harness);
        if !last_acknowledged {
            // Frames are written once their batch is durable: without them, it was not.
            let index_files = snapshot(&before).into_iter().filter(|(file, _)| !is_log(file));
            for (file, bytes) in index_files.filter(|(file, _)| file.extension() == Some("idx".as_ref())) {
                std::fs::write(after.join(file.file_name().expect("a name")), bytes).expect("write");
            }
        }
        let files = MemoryDisk::load(&after);
        let before = MemoryDisk::load(&before).0.into_iter();
        let before = before.map(|(path, bytes)| (after.join(path.file_name().expect("a name")), bytes));
        let before = MemoryDisk(before.collect());
        assert!(used_segments(&files).len() >= 3);
        let acknowledged = if last_acknowledged { all.clone() } else { acknowledged };
        Sample { _directory: directory, path: after, files, before, acknowledged, all }
    }

    pub fn logs(&self) -> impl Iterator<Item = (&PathBuf, &Arc<Vec<u8>>)> {
        self.files.0.iter().filter(|(path, _)| is_log(path))
    }

    /// Reads a variant of the log and checks that nothing is lost or made up.
    pub fn judge(&self, files: MemoryDisk, what: &dyn Fn() -> String) -> Outcome {
        let mut entries: Entries = Vec::new();
        let scan = Reader::open_on(Arc::new(files), &self.path).and_then(|reader| {
            reader.scan_past_damage(&mut |read| {
                let header = read.record.header;
                let mut entry = (header.index, header.term, header.length as usize);
                if read.hole.is_some() {
                    // Its length may be known only up to padding.
                    let written = |known: &&(u64, u64, usize)| (known.0, known.1) == (entry.0, entry.1);
                    let length = self.all.iter().find(written).map_or(entry.2, |known| known.2);
                    assert!((length..length + 8).contains(&entry.2), "{}: {entry:?}", what());
                    entry.2 = length;
                }
                if read.record.record_type.entry_kind().is_some() {
                    let expected = payload(entry.0, entry.1, entry.2);
                    assert!(
                        read.hole.is_some() || read.record.payload == expected,
                        "{}: a false entry",
                        what()
                    );
                    entries.push(entry);
                } else if read.record.record_type == RecordType::Truncate {
                    entries.retain(|entry| entry.0 < header.index);
                }
                ControlFlow::Continue(())
            })
        });
        let end = match scan {
            Ok(end) => end,
            Err(LogError::Corrupt { file, .. } | LogError::Foreign { file, .. }) => {
                return Outcome::Corrupt(file)
            }
            Err(error) => panic!("{}: {error}", what()),
        };
        entries.retain(|entry| entry.0 >= end.sequence.first_index());
        assert!(entries.starts_with(&self.acknowledged), "{}: acknowledged entries are gone", what());
        assert!(self.all.starts_with(&entries), "{}: entries that were not written", what());
        let in_place = |file: &Path, offset: u64, bytes: &[u8]| {
            let original = &self.files.0[file][offset as usize..][..bytes.len()];
            assert_eq!(bytes, original, "{}: {} at {offset}", what(), file.display());
        };
        for rewrite in &end.rewrites {
            in_place(&rewrite.file, rewrite.offset, &rewrite.bytes);
        }
        for lost in &end.lost {
            let hole = &lost.hole;
            let entry = |payload: Bytes| Entry::new(hole.index, hole.term, hole.kind, payload);
            // One that was truncated later is not in `all`; and its length may be known only up to padding.
            let longest = hole.payload_bytes as usize;
            let (right, bytes) = (longest.saturating_sub(7)..=longest)
                .rev()
                .map(|bytes| payload(hole.index, hole.term, bytes))
                .find_map(|right| Some((right.clone(), lost.rebuild(&entry(right)).ok()?)))
                .unwrap_or_else(|| panic!("{}: no entry fits {hole}", what()));
            in_place(&hole.file, hole.offset, &bytes);
            let mut wrong = right.to_vec();
            wrong[0] ^= 1;
            assert!(lost.rebuild(&entry(wrong.into())).is_err(), "{}: another entry fits", what());
            let later = Entry { term: hole.term + 1, ..entry(right) };
            assert!(lost.rebuild(&later).is_err(), "{}: an entry of another term fits", what());
        }
        if !end.lost.is_empty() {
            Outcome::Hole
        } else if !end.rewrites.is_empty() {
            Outcome::Rebuilt
        } else if end.torn.is_some() {
            Outcome::Torn
        } else {
            Outcome::Clean
        }
    }

    /// Reads any bytes in place of the log's: whatever comes out was written once.
    pub fn check_anything(&self, files: MemoryDisk) {
        let mut last_index = 0;
        let Ok(reader) = Reader::open_on(Arc::new(files), &self.path) else { return };
        let _ = reader.scan_past_damage(&mut |read| {
            let header = read.record.header;
            if read.record.record_type.entry_kind().is_some() {
                assert!(last_index == 0 || header.index == last_index + 1, "a gap at {}", header.index);
                last_index = header.index;
                let expected = payload(header.index, header.term, header.length as usize);
                assert!(read.hole.is_some() || read.record.payload == expected, "a false entry");
            } else if read.record.record_type == RecordType::Truncate {
                last_index = header.index - 1;
            }
            ControlFlow::Continue(())
        });
    }

    /// Whether a reader that stops at damage says that there is some.
    pub fn is_refused(&self, files: MemoryDisk) -> bool {
        let reader = Reader::open_on(Arc::new(files), &self.path);
        reader.and_then(|reader| reader.scan(&mut |_| ControlFlow::Continue(()))).is_err()
    }
}

/// The directory when no thread works on it any more.
fn still_image(from: &Path, to: &Path) {
    loop {
        let before = snapshot(from);
        std::thread::sleep(Duration::from_millis(30));
        if snapshot(from) == before {
            return crash_image(from, to);
        }
    }
}
