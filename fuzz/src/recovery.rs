//! Whole logs with any damage: read, opened, filled, written on and opened again.

use crate::disk::{Files, MemoryDisk};
use crate::input::Input;
use crate::memory::within;
use crate::Seeds;
use bytes::Bytes;
use redisraft::log::record::RecordType;
use redisraft::log::segment::{parse_file_name, FileName};
use redisraft::log::{
    Entry, HardState, Hole, Identity, InlineWriter, Kind, Log, LogError, Options, Reader, ScanEnd,
    WriteRequest,
};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

const DIRECTORY: &str = "/log";
const SECTOR_BYTES: usize = 512;
/// Windows on all segments, what is cached, and the files themselves.
const LIMIT_BYTES: usize = 64 << 20;
/// Most edits of one input.
const MAX_EDITS: usize = 12;

/// Index, term, length of the payload.
type Known = (u64, u64, usize);

/// A log that was written, and what is known of it.
struct Sample {
    files: Files,
    /// Before the last batch.
    before: Files,
    /// Whether the last batch was acknowledged: its frames are in the index file.
    last_acknowledged: bool,
    before_last: Vec<Known>,
    all: Vec<Known>,
    /// Every entry that ever was in it.
    ever: BTreeMap<(u64, u64), (Kind, usize)>,
}

/// Which log, and edits of its files.
pub fn check(data: &[u8]) {
    let samples = samples();
    within(LIMIT_BYTES, || {
        let mut input = Input(data);
        let sample = &samples[usize::from(input.u8()) % samples.len()];
        let mut files = sample.files.clone();
        let mut edits = Vec::new();
        while !input.is_empty() && edits.len() < MAX_EDITS {
            edits.extend(edit(&mut input, &mut files, sample));
        }
        let promise = Promise::of(sample, &files, &edits);
        let seen = read(sample, &files, promise);
        open(sample, &files, seen);
    });
}

fn options() -> Options {
    Options { segment_bytes: 16 << 10, direct_io: false, ..Options::default() }
}

fn payload(index: u64, term: u64, bytes: usize) -> Bytes {
    let pattern = format!("<{index}:{term}>");
    let mut payload = pattern.repeat(bytes / pattern.len() + 1).into_bytes();
    payload.truncate(bytes);
    payload.into()
}

/// Writes a log.
struct Author {
    disk: std::sync::Arc<MemoryDisk>,
    log: Log,
    writer: InlineWriter,
    id: u64,
    ever: BTreeMap<(u64, u64), (Kind, usize)>,
}

impl Author {
    fn new() -> Author {
        let identity =
            Identity { cluster_id: "0123456789abcdef0123456789abcdef".into(), node_id: 7, secret: [9; 32] };
        let disk = MemoryDisk::of(&Files::new());
        let (log, writer) =
            Log::create_inline(disk.clone(), Path::new(DIRECTORY), identity, options()).expect("a log");
        Author { disk, log, writer, id: 0, ever: BTreeMap::new() }
    }

    fn write(&mut self, request: WriteRequest) {
        self.id += 1;
        let written = request.entries.iter().map(|e| ((e.index, e.term), (e.kind, e.payload.len())));
        self.ever.extend(written);
        self.log.submit(WriteRequest { id: self.id, ..request });
        while self.writer.run_once() {}
        assert_eq!(self.log.durable().expect("memory does not fail"), self.id);
    }

    /// Appends entries of these lengths.
    fn append(&mut self, term: u64, kind: Kind, lengths: &[usize]) {
        let indexes = self.log.last_index() + 1..;
        let entries = lengths.iter().zip(indexes);
        let entries =
            entries.map(|(length, index)| Entry::new(index, term, kind, payload(index, term, *length)));
        self.write(WriteRequest { entries: entries.collect(), ..Default::default() });
    }

    /// Terms, votes, a membership, no-ops and a truncation.
    fn tell(&mut self, first_term: u64) {
        for term in first_term..first_term + 5 {
            let hard_state = Some(HardState { term, vote: Some(term % 3 + 1) });
            self.write(WriteRequest { hard_state, ..Default::default() });
            self.append(term, Kind::NoOp, &[0]);
            let length = (term as usize * 53) % 90;
            self.append(term, Kind::Normal, &[length, length]);
            self.append(term, Kind::Normal, &[1000]);
        }
        let term = first_term + 6;
        let hard_state = Some(HardState { term, vote: None });
        let truncate_from = Some(self.log.last_index() - 4);
        self.write(WriteRequest { hard_state, truncate_from, ..Default::default() });
        self.append(term, Kind::Normal, &[40, 40, 40]);
        self.append(term, Kind::Membership, &[45]);
        self.append(term, Kind::Normal, &[7]);
    }

    fn known(&self) -> Vec<Known> {
        let info = |index| self.log.info(index).expect("an entry");
        let known = |index| (index, info(index).term, info(index).payload_bytes as usize);
        (self.log.first_index()..=self.log.last_index()).map(known).collect()
    }

    fn finish(mut self, last_acknowledged: bool) -> Sample {
        let term = self.log.hard_state().term;
        // The last batch is one that begins no segment.
        let (before, before_last) = loop {
            let (before, known) = (self.disk.files(), self.known());
            // Some of it stands in blocks that the next batch does not touch.
            self.append(term, Kind::Normal, &[1300, 1300, 1300, 1300]);
            if self.disk.files().keys().eq(before.keys()) {
                break (before, known);
            }
        };
        let mut files = self.disk.files();
        let used = files.values().filter(|bytes| bytes.starts_with(b"RRAFTSEG")).count();
        assert!(used >= 3, "{used} segments");
        if !last_acknowledged {
            let is_index = |path: &Path| path.extension() == Some("idx".as_ref());
            files.extend(before.clone().into_iter().filter(|(path, _)| is_index(path)));
        }
        Sample { all: self.known(), files, before, last_acknowledged, before_last, ever: self.ever }
    }
}

/// A fresh log, one of recycled segments, and each with a last batch that nobody was promised.
fn samples() -> &'static [Sample] {
    static SAMPLES: OnceLock<Vec<Sample>> = OnceLock::new();
    SAMPLES.get_or_init(|| {
        let fresh = || {
            let mut author = Author::new();
            [1, 11, 21, 31].into_iter().for_each(|term| author.tell(term));
            author
        };
        let recycled = || {
            let mut author = fresh();
            let mut term = 31;
            while author.log.stats().recycled_segments < 6 {
                author.log.purge(author.log.last_index() - 1);
                term += 10;
                author.tell(term);
            }
            author.tell(term + 10);
            author
        };
        vec![fresh().finish(true), recycled().finish(true), fresh().finish(false), recycled().finish(false)]
    })
}

/// What was done to which file.
#[derive(Clone, PartialEq)]
enum Edit {
    Bytes(PathBuf),
    /// Sectors of the last batch are as they were before it.
    OldSectors(PathBuf),
    Length(PathBuf),
    Removed(PathBuf),
}

fn edit(input: &mut Input, files: &mut Files, sample: &Sample) -> Option<Edit> {
    let (what, which, place, length) =
        (input.u8() % 9, input.u8(), input.u32() as usize, input.u16() as usize);
    let paths: Vec<PathBuf> = files.keys().cloned().collect();
    let path = paths.get(usize::from(which) % paths.len().max(1))?.clone();
    let other = paths[length % paths.len()].clone();
    let other_bytes = files[&other].clone();
    let bytes = files.get_mut(&path)?;
    if bytes.is_empty() {
        return None;
    }
    let at = place % bytes.len();
    let sectors = |start: usize, of: usize| start.min(of)..of.min(start + SECTOR_BYTES * (1 + length % 8));
    let start = at - at % SECTOR_BYTES;
    match what {
        0..=2 => bytes[at] ^= (length as u8).max(1),
        3 => {
            let end = bytes.len().min(at + length % 4096);
            bytes[at..end].fill(0);
        }
        // A write that went astray.
        4 => {
            let range = sectors(start, bytes.len().min(other_bytes.len()));
            bytes[range.clone()].copy_from_slice(other_bytes.get(range)?);
        }
        // A write that was lost.
        5 => {
            let before = sample.before.get(&path)?;
            let range = sectors(start, bytes.len().min(before.len()));
            bytes[range.clone()].copy_from_slice(before.get(range)?);
            return Some(Edit::OldSectors(path));
        }
        6 => {
            bytes.truncate(at);
            return Some(Edit::Length(path));
        }
        7 => {
            bytes.resize(bytes.len() + length, 0);
            return Some(Edit::Length(path));
        }
        _ if length % 2 == 0 => {
            files.remove(&path);
            return Some(Edit::Removed(path));
        }
        _ => *bytes = other_bytes,
    }
    Some(Edit::Bytes(path))
}

/// What must be true of a log, by what was done to it.
#[derive(Clone, Copy, PartialEq)]
enum Promise {
    /// Nothing false is read.
    NothingFalse,
    /// Besides, no acknowledged entry is gone unless the log is refused.
    NothingLost,
    /// Besides, it is not refused, and nothing was damaged.
    NoDamage,
}

impl Promise {
    fn of(sample: &Sample, files: &Files, edits: &[Edit]) -> Promise {
        let paths: BTreeSet<&PathBuf> = edits
            .iter()
            .map(|edit| match edit {
                Edit::Bytes(path) | Edit::OldSectors(path) | Edit::Length(path) | Edit::Removed(path) => path,
            })
            .filter(|path| files.get(*path) != sample.files.get(*path))
            .collect();
        let name =
            |path: &Path| parse_file_name(path.file_name().and_then(|name| name.to_str()).unwrap_or(""));
        let all = |is: fn(FileName) -> bool| paths.iter().all(|path| is(name(path)));
        let unpromised = || edits.iter().all(|edit| matches!(edit, Edit::OldSectors(_)));
        if all(|name| matches!(name, FileName::Index(_))) {
            return Promise::NoDamage;
        }
        // What power may take: sectors of a batch that nobody was promised.
        if !sample.last_acknowledged && unpromised() && all(|name| matches!(name, FileName::Segment(_))) {
            return Promise::NoDamage;
        }
        let one_segment = paths.len() == 1 && all(|name| matches!(name, FileName::Segment(_)));
        let one_block_of_meta = edits.len() == 1 && all(|name| name == FileName::Other);
        match one_segment || one_block_of_meta {
            true => Promise::NothingLost,
            false => Promise::NothingFalse,
        }
    }
}

/// What a scan saw: entries in order, and which of them are holes.
struct Seen {
    entries: Vec<Known>,
    end: ScanEnd,
}

/// Damage is named; nothing else may go wrong, as memory can always be read.
fn is_named(error: &LogError) -> bool {
    let named = matches!(
        error,
        LogError::Corrupt { .. }
            | LogError::Foreign { .. }
            | LogError::MetaMissing { .. }
            | LogError::NotALog { .. }
            | LogError::NewerFormat { .. }
    );
    named && error.to_string().contains(DIRECTORY)
}

fn read(sample: &Sample, files: &Files, promise: Promise) -> Option<Seen> {
    let mut entries: Vec<Known> = Vec::new();
    let reader = Reader::open_on(MemoryDisk::of(files), Path::new(DIRECTORY));
    let scan = reader.and_then(|reader| {
        reader.scan_past_damage(&mut |read| {
            let header = read.record.header;
            if let Some(kind) = read.record.record_type.entry_kind() {
                let known = sample.ever.get(&(header.index, header.term));
                let (written_kind, length) = *known.expect("an entry that nobody wrote");
                assert_eq!(kind, written_kind);
                let expected = payload(header.index, header.term, length);
                match read.hole {
                    // Its length may be known only up to padding.
                    Some(_) => assert!((length..length + 8).contains(&(header.length as usize))),
                    None => assert!(read.record.payload == expected, "a false entry"),
                }
                let behind =
                    entries.last().is_none_or(|last| last.0 + 1 == header.index && last.1 <= header.term);
                assert!(behind, "entry {} of term {} is out of order", header.index, header.term);
                entries.push((header.index, header.term, length));
            } else if read.record.record_type == RecordType::Truncate {
                entries.retain(|entry| entry.0 < header.index);
            }
            ControlFlow::Continue(())
        })
    });
    let end = match scan {
        Ok(end) => end,
        Err(error) => {
            assert!(is_named(&error), "{error}");
            assert!(promise != Promise::NoDamage, "{error}");
            return None;
        }
    };
    entries.retain(|entry| entry.0 >= end.sequence.first_index());
    let acknowledged = if sample.last_acknowledged { &sample.all } else { &sample.before_last };
    if promise != Promise::NothingFalse {
        assert!(entries.starts_with(acknowledged), "acknowledged entries are gone");
        assert!(sample.all.starts_with(&entries), "entries that were dropped are back");
    }
    if promise == Promise::NoDamage {
        assert!(end.lost.is_empty() && end.rewrites.is_empty());
    }
    for lost in &end.lost {
        let entry = right_entry(sample, &lost.hole);
        lost.rebuild(&entry).expect("the right entry fits");
        let later = Entry { term: entry.term + 1, ..entry.clone() };
        assert!(lost.rebuild(&later).is_err(), "an entry of another term fits");
        let mut wrong = entry.payload.to_vec();
        if let Some(first) = wrong.first_mut() {
            *first ^= 1;
            let wrong = Entry::new(entry.index, entry.term, entry.kind, wrong.into());
            assert!(lost.rebuild(&wrong).is_err(), "another entry fits");
        }
    }
    Some(Seen { entries, end })
}

fn right_entry(sample: &Sample, hole: &Hole) -> Entry {
    let (kind, length) = sample.ever[&(hole.index, hole.term)];
    Entry::new(hole.index, hole.term, kind, payload(hole.index, hole.term, length))
}

/// Opens it as a node does: what was seen is there, holes are filled, and what is written behind it stays.
fn open(sample: &Sample, files: &Files, seen: Option<Seen>) {
    let disk = MemoryDisk::of(files);
    let (mut log, mut writer, recovery) =
        match Log::open_inline(disk.clone(), Path::new(DIRECTORY), options()) {
            Ok(opened) => opened,
            Err(error) => {
                assert!(seen.is_none() && is_named(&error), "{error}");
                return assert!(disk.files() == *files, "a log that is refused was changed");
            }
        };
    let Seen { mut entries, end } = seen.expect("what is refused is not opened");
    assert_eq!(recovery.torn, end.torn);
    assert_eq!(recovery.holes, end.holes().cloned().collect::<Vec<_>>());
    for hole in log.holes() {
        assert!(log.read(hole.index).is_err(), "a hole is not read");
        assert_eq!(log.fill(right_entry(sample, &hole)).ok(), Some(true));
    }
    while writer.run_once() {}
    log.durable().expect("memory does not fail");
    assert!(log.holes().is_empty(), "all were filled");
    assert_eq!(contents(&log), entries);

    let (index, term) =
        (log.last_index() + 1, log.hard_state().term.max(entries.last().map_or(1, |last| last.1)));
    let hard_state = (term > log.hard_state().term).then_some(HardState { term, vote: None });
    let appended = vec![Entry::new(index, term, Kind::Normal, payload(index, term, 90))];
    log.submit(WriteRequest { id: 1, hard_state, entries: appended, ..Default::default() });
    while writer.run_once() {}
    assert_eq!(log.durable().expect("memory does not fail"), 1);
    drop(log);
    while writer.run_once() {}
    drop(writer);
    entries.push((index, term, 90));

    let opened = Log::open_inline(disk, Path::new(DIRECTORY), options());
    let (log, _writer, recovery) = opened.expect("what was mended is whole");
    assert!(recovery.torn.is_none() && recovery.holes.is_empty(), "{recovery}");
    assert!(recovery.rewritten.is_empty() && recovery.leftovers.is_empty(), "{recovery}");
    assert_eq!(contents(&log), entries);
}

fn contents(log: &Log) -> Vec<Known> {
    let known = |index| {
        let entry = log.read(index).expect("an entry");
        assert!(entry.is_intact() && entry.index == index);
        assert_eq!(entry.payload, payload(index, entry.term, entry.payload.len()), "entry {index}");
        (index, entry.term, entry.payload.len())
    };
    (log.first_index()..=log.last_index()).map(known).collect()
}

/// The first sector in which the last batch of a sample stands: number of its file, and offset.
fn last_batch(sample: &Sample) -> (u8, u32) {
    let changed = |(path, bytes): (&PathBuf, &Vec<u8>)| {
        let is_log = path.extension() == Some("log".as_ref());
        let before = sample.before.get(path).filter(|before| is_log && before.len() == bytes.len())?;
        bytes.iter().zip(before).position(|(new, old)| new != old)
    };
    let place = sample.files.iter().enumerate().find_map(|(number, file)| Some((number, changed(file)?)));
    let (number, offset) = place.expect("it was written");
    (number as u8, offset as u32)
}

pub fn seeds() -> Seeds {
    let [fresh, recycled] = [2, 3].map(|sample| last_batch(&samples()[sample]));
    let edit = |what: u8, which: u8, place: u32, length: u16| {
        [&[what, which][..], &place.to_le_bytes(), &length.to_le_bytes()].concat()
    };
    let with = |sample: u8, edits: &[Vec<u8>]| [&[sample][..], &edits.concat()].concat();
    vec![
        ("intact", with(0, &[])),
        ("flipped", with(0, &[edit(0, 1, 5000, 4)])),
        ("flipped-recycled", with(1, &[edit(0, 3, 4400, 64), edit(1, 5, 4500, 1)])),
        ("zeros", with(1, &[edit(3, 4, 5000, 900)])),
        ("astray", with(0, &[edit(4, 4, 4096, 3)])),
        ("lost-write", with(2, &[edit(5, fresh.0, fresh.1, 0)])),
        ("lost-write-recycled", with(3, &[edit(5, recycled.0, recycled.1, 2)])),
        ("cut", with(3, &[edit(6, 3, 6000, 0)])),
        ("removed", with(0, &[edit(8, 2, 0, 0)])),
        ("indexes", with(1, &[edit(0, 2, 40, 9), edit(8, 4, 0, 0)])),
    ]
}
