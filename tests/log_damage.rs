//! One damage anywhere in a log: found clean, torn (only what nobody was promised is gone) or corrupt (named) -
//! never a lost acknowledged entry, never a panic, never a false entry.

mod log_support;

use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

use log_support::*;
use redisraft::log::disk::{Disk, FileHandle, Guard, Mode};
use redisraft::log::record::RecordType;
use redisraft::log::{HardState, Identity, LogError, Reader, WriteRequest};

type Entries = Vec<(u64, u64, usize)>;

/// A log of three segments, with terms, votes, truncations; its last batch may be one that was not acknowledged.
struct Sample {
    _directory: tempfile::TempDir,
    path: PathBuf,
    files: MemoryDisk,
    /// Without the last batch.
    before: MemoryDisk,
    acknowledged: Entries,
    all: Entries,
}

fn sample(last_acknowledged: bool) -> Sample {
    let directory = fast_directory();
    let path = directory.path().join("log");
    let mut harness = Harness::create(&path);
    for round in 0..5 {
        harness.vote(round + 1, Some(round % 3 + 1)).expect("vote");
        harness.append(round + 1, 3, (round as usize * 53) % 90).expect("append");
        harness.append(round + 1, 1, 1100).expect("append");
    }
    let entries = (16..=18).map(|index| entry(index, 7, 40)).collect();
    let hard_state = Some(HardState { term: 7, vote: None });
    harness
        .write(WriteRequest { hard_state, truncate_from: Some(16), entries, ..Default::default() })
        .expect("write");
    let acknowledged = contents(&harness.log);
    let before = directory.path().join("before");
    crash_image(&path, &before);
    harness.append(7, 3, 500).expect("append");
    let all = contents(&harness.log);
    crash_image(&path, &directory.path().join("after"));
    drop(harness);
    let after = directory.path().join("after");
    if !last_acknowledged {
        // Index lines are written once their batch is durable: without them, it was not.
        for (file, bytes) in
            snapshot(&before).into_iter().filter(|(file, _)| file.extension() == Some("idx".as_ref()))
        {
            std::fs::write(after.join(file.file_name().expect("a name")), bytes).expect("write");
        }
    }
    let files = MemoryDisk::load(&after);
    let before = MemoryDisk(
        MemoryDisk::load(&before)
            .0
            .into_iter()
            .map(|(path, bytes)| (after.join(path.file_name().expect("a name")), bytes))
            .collect(),
    );
    let segments = files.0.keys().filter(|path| path.extension() == Some("log".as_ref())).count();
    assert!(segments >= 3, "{segments} segments");
    let acknowledged = if last_acknowledged { all.clone() } else { acknowledged };
    Sample { _directory: directory, path: after, files, before, acknowledged, all }
}

#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Clean,
    Torn,
    Corrupt(PathBuf),
}

impl Sample {
    /// Reads a variant of the log and checks that nothing is lost or made up.
    fn judge(&self, files: MemoryDisk, what: &dyn Fn() -> String) -> Outcome {
        let mut entries: Entries = Vec::new();
        let scan = Reader::open_on(Arc::new(files), &self.path).and_then(|reader| {
            reader.scan(&mut |read| {
                let header = read.record.header;
                if read.record.record_type.entry_kind().is_some() {
                    let expected = payload(header.index, header.term, header.length as usize);
                    assert_eq!(read.record.payload, expected, "{}: a false entry", what());
                    entries.push((header.index, header.term, header.length as usize));
                } else if read.record.record_type == RecordType::Truncate {
                    entries.truncate(header.index as usize - 1);
                }
                ControlFlow::Continue(())
            })
        });
        match scan {
            Ok(end) => {
                assert!(entries.starts_with(&self.acknowledged), "{}: acknowledged entries are gone", what());
                assert!(self.all.starts_with(&entries), "{}: entries that were not written", what());
                if end.torn.is_some() {
                    Outcome::Torn
                } else {
                    Outcome::Clean
                }
            }
            Err(LogError::Corrupt { file, .. } | LogError::Foreign { file, .. }) => Outcome::Corrupt(file),
            Err(error) => panic!("{}: {error}", what()),
        }
    }

    fn logs(&self) -> impl Iterator<Item = (&PathBuf, &Arc<Vec<u8>>)> {
        self.files.0.iter().filter(|(path, _)| path.extension() == Some("log".as_ref()))
    }
}

fn kind_of(path: &Path) -> &str {
    path.extension().and_then(|extension| extension.to_str()).unwrap_or("META")
}

fn flip_every_byte(sample: &Sample) {
    assert_eq!(sample.judge(sample.files.clone(), &|| "intact".into()), Outcome::Clean);
    let mut outcomes = std::collections::BTreeMap::new();
    for (path, bytes) in sample.files.0.iter().filter(|(path, _)| kind_of(path) != "META") {
        // Nothing but zeros: a segment made ahead of need.
        let step = if bytes.iter().all(|byte| *byte == 0) { 31 } else { 1 };
        for offset in (0..bytes.len()).step_by(step) {
            let what = || format!("{} at {offset} flipped", path.display());
            let files = sample.files.with(path, |bytes| bytes[offset] ^= 1 << (offset % 8));
            let outcome = sample.judge(files, &what);
            if let Outcome::Corrupt(file) = &outcome {
                assert_eq!(file, path, "{}: another file is blamed", what());
            }
            let name = match outcome {
                Outcome::Clean => "clean",
                Outcome::Torn => "torn",
                Outcome::Corrupt(_) => "corrupt",
            };
            *outcomes.entry((kind_of(path), name)).or_insert(0u64) += 1;
        }
    }
    assert!(outcomes[&("log", "corrupt")] > 12_000, "records are covered: {outcomes:?}");
    assert_eq!(outcomes.get(&("idx", "corrupt")), None, "an index is derived: {outcomes:?}");
}

#[test]
fn a_flipped_byte_in_an_acknowledged_log() {
    flip_every_byte(&sample(true));
}

#[test]
fn a_flipped_byte_in_a_log_whose_last_batch_was_not_acknowledged() {
    flip_every_byte(&sample(false));
}

/// Without index files, marks and segment headers alone tell damage from a torn tail.
#[test]
fn a_flipped_byte_in_a_log_without_index_files() {
    let mut sample = sample(false);
    sample.files.0.retain(|path, _| kind_of(path) != "idx");
    let mut corrupt = 0;
    for (path, bytes) in sample.logs() {
        for offset in (0..bytes.len()).step_by(3) {
            let files = sample.files.with(path, |bytes| bytes[offset] ^= 0x80);
            let outcome = sample.judge(files, &|| format!("{} at {offset} flipped", path.display()));
            corrupt += u32::from(outcome == Outcome::Corrupt(path.clone()));
        }
    }
    assert!(corrupt > 4000, "{corrupt}");
}

#[test]
fn a_flipped_byte_in_meta() {
    let sample = sample(true);
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
    for last_acknowledged in [true, false] {
        let sample = sample(last_acknowledged);
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
    let sample = sample(false);
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
        assert!(!matches!(outcome, Outcome::Corrupt(_)), "{outcome:?} with {missing:b} missing");
        torn += u32::from(outcome == Outcome::Torn);
    }
    assert!(torn >= (1 << sectors.len()) / 2, "{torn}");
}

#[test]
fn a_file_that_is_missing_or_of_another_log_is_named() {
    let sample = sample(true);
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

/// The real thing, at some offsets: refused and unchanged, or open with all that was acknowledged.
#[test]
fn opening_a_damaged_log_changes_nothing() {
    let sample = sample(true);
    let mut refused = 0;
    for (path, bytes) in &sample.files.0 {
        for offset in (0..bytes.len()).step_by(331) {
            let directory = fast_directory();
            crash_image(&sample.path, directory.path());
            let target = directory.path().join(path.file_name().expect("a name"));
            let mut damaged = bytes.to_vec();
            damaged[offset] ^= 0x10;
            std::fs::write(&target, damaged).expect("write");
            let before = snapshot(directory.path());
            match Harness::open(directory.path()) {
                Ok(mut harness) => {
                    assert_eq!(contents(&harness.log), sample.all, "{} at {offset}", target.display());
                    assert_eq!(harness.log.hard_state(), HardState { term: 7, vote: None });
                    harness.append(8, 2, 10).expect("append");
                    drop(harness);
                    let harness = Harness::open(directory.path()).expect("a mended log");
                    let recovery = harness.recovery.as_ref().expect("recovered");
                    assert_eq!((recovery.damaged_meta_copies, &recovery.torn), (0, &None));
                    assert_eq!(harness.log.last_index(), sample.all.len() as u64 + 2);
                }
                Err(error) => {
                    refused += 1;
                    assert!(error.to_string().contains("raftlog-tool verify"), "{error}");
                    assert_eq!(snapshot(directory.path()), before, "{} at {offset}", target.display());
                }
            }
        }
    }
    assert!(refused > 30, "{refused}");
}

#[test]
fn a_meta_that_lost_both_copies_or_is_older_than_the_log_is_refused() {
    let sample = sample(true);
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
    let sample = sample(true);
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
