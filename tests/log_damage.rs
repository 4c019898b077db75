//! One damage anywhere in a log: found clean, torn (only what nobody was promised is gone) or corrupt (named) -
//! never a lost acknowledged entry, never a panic, never a false entry.

mod log_support;

use std::io;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

use log_support::sample::*;
use log_support::*;
use proptest::prelude::*;
use redisraft::log::disk::{Disk, FileHandle, Guard, Mode};
use redisraft::log::{HardState, Identity, LogError, Reader, WriteRequest};

fn kind_of(path: &Path) -> &str {
    path.extension().and_then(|extension| extension.to_str()).unwrap_or("META")
}

fn flip_bytes(sample: &Sample, step: usize) {
    assert_eq!(sample.judge(sample.files.clone(), &|| "intact".into()), Outcome::Clean);
    let mut outcomes = std::collections::BTreeMap::new();
    for (path, bytes) in sample.files.0.iter().filter(|(path, _)| ["log", "idx"].contains(&kind_of(path))) {
        // A segment made ahead of need.
        let step = if kind_of(path) == "log" && bytes[..8] == [0; 8] { 31 } else { step };
        for offset in (0..bytes.len()).step_by(step) {
            let what = || format!("{} at {offset} flipped", path.display());
            let files = sample.files.with(path, |bytes| bytes[offset] ^= 1 << (offset % 8));
            let outcome = sample.judge(files.clone(), &what);
            if let Outcome::Corrupt(file) = &outcome {
                assert_eq!(file, path, "{}: another file is blamed", what());
            }
            if offset % 7 == 0 {
                let damaged = !matches!(outcome, Outcome::Clean | Outcome::Torn);
                assert_eq!(sample.is_refused(files), damaged, "{}: {outcome:?}", what());
            }
            *outcomes.entry((kind_of(path), outcome.name())).or_insert(0u64) += 1;
        }
    }
    let count = |kind, name| outcomes.get(&(kind, name)).copied().unwrap_or(0);
    assert_eq!(count("log", "corrupt"), 0, "one byte is always identified: {outcomes:?}");
    let least = [5000, 12_000].map(|count| count / step as u64);
    assert!(count("log", "hole") > least[0] && count("log", "rebuilt") > least[1], "{outcomes:?}");
    let index_damage = ["torn", "rebuilt", "hole", "corrupt"].map(|name| count("idx", name));
    assert_eq!(index_damage, [0; 4], "an index is derived: {outcomes:?}");
}

#[test]
fn a_flipped_byte_in_an_acknowledged_log() {
    flip_bytes(&Sample::fresh(true), 3);
}

/// Every byte of every file.
#[test]
fn a_flipped_byte_in_a_log_of_recycled_segments() {
    let sample = Sample::recycled(true);
    let recycled = used_segments(&sample.files).iter().filter(|(_, bytes)| bytes[44] == 1).count();
    assert!(recycled >= 3, "{recycled}");
    flip_bytes(&sample, 1);
}

/// Without index files, the records alone tell damage from a torn tail, and what was damaged.
#[test]
fn a_flipped_byte_in_a_log_without_index_files() {
    for mut sample in [Sample::fresh(false), Sample::recycled(false)] {
        sample.files.0.retain(|path, _| kind_of(path) != "idx");
        let mut outcomes = std::collections::BTreeMap::new();
        for (path, bytes) in sample.logs().filter(|(_, bytes)| bytes[0] != 0) {
            // The salt of a segment stands in its header and in its index file, and nowhere else.
            for offset in (0..bytes.len()).step_by(5).filter(|offset| !(16..20).contains(offset)) {
                let files = sample.files.with(path, |bytes| bytes[offset] ^= 0x80);
                let outcome = sample.judge(files, &|| format!("{} at {offset} flipped", path.display()));
                *outcomes.entry(outcome.name()).or_insert(0u64) += 1;
            }
        }
        assert!(outcomes["rebuilt"] > 1500 && outcomes["hole"] > 500, "{outcomes:?}");
        assert_eq!(outcomes.get("corrupt"), None, "{outcomes:?}");
    }
}

#[test]
fn a_flipped_byte_in_meta() {
    let sample = Sample::fresh(true);
    let path = sample.path.join("META");
    for offset in 0..sample.files.0[&path].len() {
        let files = sample.files.with(&path, |bytes| bytes[offset] ^= 1 << (offset % 8));
        if offset % 61 == 0 {
            assert_eq!(sample.judge(files.clone(), &|| format!("META at {offset} flipped")), Outcome::Clean);
        }
        let reader = Reader::open_on(Arc::new(files), &sample.path).expect("another copy serves");
        assert_eq!(reader.damaged_meta_copies(), 1);
        assert_eq!(reader.meta().hard_state, HardState { term: 7, vote: None });
    }
}

#[test]
fn a_cut_at_every_512_bytes() {
    for sample in [Sample::fresh(true), Sample::fresh(false), Sample::recycled(true)] {
        for (path, bytes) in &sample.files.0 {
            for length in (0..bytes.len()).step_by(512) {
                let what = || format!("{} cut at {length}", path.display());
                let outcome = sample.judge(sample.files.with(path, |bytes| bytes.truncate(length)), &what);
                // Every segment in use says how long it is.
                let in_use = kind_of(path) == "log" && length >= 4096 && bytes[0] != 0;
                assert!(!in_use || outcome == Outcome::Corrupt(path.clone()), "{}: {outcome:?}", what());
                let what = || format!("{} zeros from {length}", path.display());
                sample.judge(sample.files.with(path, |bytes| bytes[length..].fill(0)), &what);
            }
        }
    }
}

/// Power loss: of the last batch, which nobody was promised, any sectors may have stayed as they were.
#[test]
fn any_sectors_of_the_last_batch_missing() {
    any_sectors_missing(&Sample::fresh(false), 2);
}

/// There, what is missing shows records of the file's former life.
#[test]
fn any_sectors_of_the_last_batch_missing_in_a_recycled_segment() {
    // Torn only where a whole record of the batch is there behind one that is not.
    any_sectors_missing(&Sample::recycled(false), 8);
}

fn any_sectors_missing(sample: &Sample, torn_one_of: u32) {
    let (path, old) =
        sample.before.0.iter().find(|(path, old)| sample.files.0[*path] != **old).expect("written to");
    assert_eq!(kind_of(path), "log");
    let new = &sample.files.0[path];
    let sectors: Vec<_> =
        (0..new.len()).step_by(512).filter(|at| new[*at..*at + 512] != old[*at..*at + 512]).collect();
    assert!(sectors.len() >= 3, "{sectors:?}");
    let mut torn = 0;
    for missing in 0u32..1 << sectors.len() {
        let files = sample.files.with(path, |bytes| {
            for (_, at) in sectors.iter().enumerate().filter(|(bit, _)| missing >> bit & 1 == 1) {
                bytes[*at..*at + 512].copy_from_slice(&old[*at..*at + 512]);
            }
        });
        let outcome = sample.judge(files, &|| format!("sectors {missing:b} missing"));
        assert!(matches!(outcome, Outcome::Clean | Outcome::Torn), "{outcome:?} with {missing:b} missing");
        torn += u32::from(outcome == Outcome::Torn);
    }
    assert!(torn >= (1 << sectors.len()) / torn_one_of, "{torn}");
}

#[test]
fn a_file_that_is_missing_or_of_another_log_is_named() {
    let sample = Sample::fresh(true);
    for (path, bytes) in sample.logs().filter(|(_, bytes)| bytes.iter().any(|byte| *byte != 0)) {
        let mut files = sample.files.clone();
        files.0.remove(path);
        assert_eq!(sample.judge(files, &|| "removed".into()), Outcome::Corrupt(path.clone()));
        for (other, other_bytes) in sample.logs().filter(|(other, _)| *other != path) {
            let mut files = sample.files.clone();
            files.0.insert(path.clone(), other_bytes.clone());
            let outcome = sample.judge(files, &|| format!("{} in its place", other.display()));
            assert_eq!(outcome, Outcome::Corrupt(path.clone()), "{} bytes", bytes.len());
        }
    }
}

#[test]
fn a_meta_that_lost_both_copies_or_is_older_than_the_log_is_refused() {
    let sample = Sample::fresh(true);
    let path = sample.path.join("META");
    for parity in 0..2 {
        let files = sample.files.with(&path, |bytes| {
            bytes[parity * 4096 + 100] ^= 1;
            bytes[(parity + 2) * 4096 + 100] ^= 1;
        });
        assert_eq!(sample.judge(files, &|| "both copies".into()), Outcome::Corrupt(path.clone()));
    }
    let directory = fast_directory();
    drop(Harness::create(directory.path()));
    let first = std::fs::read(directory.path().join("META")).expect("read");
    let mut harness = Harness::open(directory.path()).expect("open");
    harness.vote(2, Some(3)).expect("vote");
    harness.append(2, 1, 10).expect("append");
    drop(harness);
    std::fs::write(directory.path().join("META"), first).expect("write");
    let error = Harness::open(directory.path()).err().expect("refused");
    assert!(matches!(&error, LogError::Corrupt { file, .. } if file.ends_with("META")), "{error}");
}

#[test]
fn a_reader_beside_a_writer_sees_no_damage() {
    let directory = fast_directory();
    let mut harness = Harness::create(directory.path());
    harness.append(1, 1, 1).expect("append");
    let path = directory.path().to_path_buf();
    // The number of scans so far; the top bit tells the reader to stop.
    let scans = Arc::new(AtomicU64::new(0));
    let count = scans.clone();
    let reader = std::thread::spawn(move || {
        let mut last = 0;
        while count.fetch_add(1, Ordering::Relaxed) < 1 << 63 {
            let reader = Reader::open(&path).expect("META");
            let end = reader.scan(&mut |_| ControlFlow::Continue(())).expect("no damage");
            assert!(end.sequence.last_index() >= last, "what was read once stays");
            last = end.sequence.last_index();
        }
    });
    let mut round = 0;
    while round < 300 || (scans.load(Ordering::Relaxed) < 15 && !reader.is_finished()) {
        let entries = (2..=9).map(|n| entry(round * 8 + n, round + 1, (round * 31 % 800) as usize)).collect();
        let hard_state = (round % 9 == 0).then_some(HardState { term: round + 1, vote: None });
        harness.write(WriteRequest { hard_state, entries, ..Default::default() }).expect("write");
        round += 1;
    }
    scans.fetch_or(1 << 63, Ordering::Relaxed);
    reader.join().expect("reader");
}

/// A disk whose segment 1 is seen half-written at first.
struct FlickeringDisk {
    disk: MemoryDisk,
    file: FileHandle,
}

impl Disk for FlickeringDisk {
    fn create_directory(&self, path: &Path) -> io::Result<()> {
        self.disk.create_directory(path)
    }
    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        self.disk.sync_directory(path)
    }
    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        self.disk.list(path)
    }
    fn exists(&self, path: &Path) -> bool {
        self.disk.exists(path)
    }
    fn open(&self, path: &Path, mode: Mode) -> io::Result<FileHandle> {
        let flickers = path.ends_with("0000000001.log");
        if flickers {
            return Ok(self.file.clone());
        }
        self.disk.open(path, mode)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.disk.remove(path)
    }
    fn lock(&self, path: &Path) -> io::Result<Option<Guard>> {
        self.disk.lock(path)
    }
}

#[test]
fn what_looks_damaged_is_looked_at_again() {
    let sample = Sample::fresh(true);
    let (_, good) = sample.logs().next().expect("segment 1");
    let mut half = good.to_vec();
    half[4096 + 100] ^= 1;
    // One look at the header, one at the records; the third finds all written. Or none ever does.
    for (looks, damaged) in [(2, false), (100, true)] {
        let file = Flickering::file(looks, half.clone(), good.to_vec());
        let disk = FlickeringDisk { disk: sample.files.clone(), file };
        let reader = Reader::open_on(Arc::new(disk), &sample.path).expect("META");
        assert_eq!(reader.scan(&mut |_| ControlFlow::Continue(())).is_err(), damaged);
    }
}

#[test]
fn a_segment_with_another_predecessor_is_refused() {
    let root = fast_directory();
    let directories = [root.path().join("1"), root.path().join("2")];
    for (directory, term) in directories.iter().zip(1..) {
        Harness::create(directory).append(term, 6, 1000).expect("append");
    }
    for file in ["0000000002.log", "0000000002.idx"] {
        std::fs::copy(directories[1].join(file), directories[0].join(file)).expect("copy");
    }
    let error = Harness::open(&directories[0]).err().expect("refused");
    assert!(matches!(&error, LogError::Foreign { file, .. } if file.ends_with("0000000002.log")), "{error}");
}

#[test]
fn a_segment_of_another_node_is_refused() {
    let root = fast_directory();
    let (path, other_path) = (root.path().join("log"), root.path().join("other"));
    let mut harness = Harness::create(&path);
    harness.append(1, 3, 10).expect("append");
    drop(harness);
    for (name, identity) in [
        ("another node", Identity { node_id: 8, ..identity() }),
        ("another cluster", Identity { cluster_id: "f".repeat(32), ..identity() }),
    ] {
        drop(redisraft::log::Log::create(&other_path, identity, options(), Box::new(|| ())).expect("create"));
        let mut other = Harness::open(&other_path).expect("open");
        other.append(1, 3, 10).expect("append");
        drop(other);
        let mixed = root.path().join(name);
        crash_image(&path, &mixed);
        for file in ["0000000001.log", "0000000001.idx"] {
            std::fs::copy(other_path.join(file), mixed.join(file)).expect("copy");
        }
        let error = Harness::open(&mixed).err().expect("refused");
        assert!(matches!(&error, LogError::Foreign { .. }), "{name}: {error}");
        std::fs::remove_dir_all(&other_path).expect("remove");
    }
}

/// META's floor: what was durable when term or vote changed is known to be missing, even if every other trace is gone.
#[test]
fn a_log_that_lost_its_end_below_the_floor_of_meta_is_refused() {
    let root = fast_directory();
    let path = root.path().join("log");
    let mut harness = Harness::create(&path);
    harness.append(1, 6, 1000).expect("append");
    harness.vote(2, Some(1)).expect("vote");
    drop(harness);
    let segments = |path: &Path| {
        let used = |bytes: &[u8]| bytes.iter().any(|byte| *byte != 0);
        snapshot(path)
            .into_iter()
            .filter(|(path, bytes)| kind_of(path) == "log" && used(bytes))
            .collect::<Vec<_>>()
    };
    for zeroed in [false, true] {
        let image = root.path().join(if zeroed { "zeroed" } else { "removed" });
        crash_image(&path, &image);
        let (last, bytes) = segments(&image).pop().expect("segments");
        assert!(!last.ends_with("0000000001.log"));
        for later in snapshot(&image)
            .into_iter()
            .map(|(file, _)| file)
            .filter(|file| kind_of(file) != "META" && *file > last)
        {
            std::fs::remove_file(later).expect("remove");
        }
        let _ = std::fs::remove_file(last.with_extension("idx"));
        if zeroed {
            std::fs::write(&last, vec![0; bytes.len()]).expect("write");
        } else {
            std::fs::remove_file(&last).expect("remove");
        }
        let error = Harness::open(&image).err().expect("refused");
        assert!(matches!(&error, LogError::Corrupt { file, .. } if *file == last), "{error}");
    }
}

#[derive(Clone, Debug)]
enum Mutation {
    Flip { at: prop::sample::Index, bit: u8 },
    Fill { at: prop::sample::Index, length: usize, byte: u8 },
    Garbage { at: prop::sample::Index, bytes: Vec<u8> },
    Copy { from: prop::sample::Index, to: prop::sample::Index, length: usize },
    Cut { at: prop::sample::Index },
    Replace { bytes: Vec<u8> },
}

fn mutation() -> impl Strategy<Value = (prop::sample::Index, Mutation)> {
    let place = any::<prop::sample::Index>;
    let bytes = || prop::collection::vec(any::<u8>(), 1..300);
    let mutation = prop_oneof![
        6 => (place(), 0u8..8).prop_map(|(at, bit)| Mutation::Flip { at, bit }),
        3 => (place(), 1usize..5000, prop_oneof![Just(0), Just(0xff), any::<u8>()])
            .prop_map(|(at, length, byte)| Mutation::Fill { at, length, byte }),
        3 => (place(), bytes()).prop_map(|(at, bytes)| Mutation::Garbage { at, bytes }),
        3 => (place(), place(), 1usize..5000).prop_map(|(from, to, length)| Mutation::Copy { from, to, length }),
        1 => place().prop_map(|at| Mutation::Cut { at }),
        1 => bytes().prop_map(|bytes| Mutation::Replace { bytes }),
    ];
    (place(), mutation)
}

impl Mutation {
    fn apply(&self, bytes: &mut Vec<u8>) {
        if bytes.is_empty() {
            return;
        }
        let length = bytes.len();
        match self {
            Mutation::Flip { at, bit } => bytes[at.index(length)] ^= 1 << bit,
            Mutation::Fill { at, length: count, byte } => {
                let at = at.index(length);
                bytes[at..(at + count).min(length)].fill(*byte);
            }
            Mutation::Garbage { at, bytes: garbage } => {
                let at = at.index(length);
                let count = garbage.len().min(length - at);
                bytes[at..at + count].copy_from_slice(&garbage[..count]);
            }
            Mutation::Copy { from, to, length: count } => {
                let (from, to) = (from.index(length), to.index(length));
                let count = (*count).min(length - from).min(length - to);
                bytes.copy_within(from..from + count, to);
            }
            Mutation::Cut { at } => bytes.truncate(at.index(length)),
            Mutation::Replace { bytes: garbage } => *bytes = garbage.clone(),
        }
    }
}

/// Any number of damages of any kind: never a panic, never an entry that nobody wrote.
#[test]
fn a_log_changed_in_many_places() {
    let samples = [Sample::fresh(true), Sample::recycled(false)];
    let config = ProptestConfig { cases: 5000, failure_persistence: None, ..ProptestConfig::default() };
    let mutations = (0..2usize, prop::collection::vec(mutation(), 1..6));
    let mut runner = proptest::test_runner::TestRunner::new(config);
    let result = runner.run(&mutations, |(sample, mutations)| {
        let sample = &samples[sample];
        let mut files = sample.files.clone();
        let paths: Vec<_> = files.0.keys().cloned().collect();
        for (file, mutation) in mutations {
            files = files.with(&paths[file.index(paths.len())], |bytes| mutation.apply(bytes));
        }
        sample.check_anything(files);
        Ok(())
    });
    result.expect("nothing false");
}
