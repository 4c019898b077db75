//! Acknowledged entries that cannot be read: named, filled with the right entry and no other, and whole again after.

mod log_support;

use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use log_support::sample::*;
use log_support::*;
use redisraft::log::disk::{Disk, DiskFile, FileHandle, Guard, Mode, SystemDisk};
use redisraft::log::{Entry, HardState, Kind, LogError, WriteRequest};

/// What another node would send for a hole.
fn copy_of(sample: &Entries, index: u64, kind: Kind) -> Entry {
    let (index, term, bytes) = *sample.iter().find(|entry| entry.0 == index).expect("an entry of the log");
    Entry::new(index, term, kind, payload(index, term, bytes))
}

/// Waits for the sync thread.
fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < Duration::from_secs(20), "{what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn fill_all(harness: &mut Harness, all: &Entries) {
    for hole in harness.log.holes() {
        let error = harness.log.read(hole.index).expect_err("a hole");
        assert!(matches!(&error, LogError::Damaged(known) if **known == hole), "{error}");
        let right = copy_of(all, hole.index, hole.kind);
        let mut wrong = right.clone();
        wrong.term += 1;
        let error = harness.log.fill(wrong).expect_err("another entry");
        assert!(matches!(&error, LogError::AnotherEntry { index, .. } if *index == hole.index), "{error}");
        assert!(harness.log.read(hole.index).is_err());
        assert!(harness.log.fill(right.clone()).expect("the right one"));
        assert_eq!(harness.log.read(hole.index).expect("filled"), right);
        assert_eq!(
            harness.log.info(hole.index).map(|info| info.payload_bytes as usize),
            Some(right.payload.len())
        );
    }
    wait_for("holes are filled", || harness.log.holes().is_empty());
    assert_eq!(harness.log.repaired(), harness.log.damaged());
}

/// What a real start makes of one damage: refused and unchanged, or in the end whole.
fn open_damaged(sample: &Sample, path: &Path, damage: impl FnOnce(&mut Vec<u8>)) -> &'static str {
    let directory = fast_directory();
    crash_image(&sample.path, directory.path());
    let target = directory.path().join(path.file_name().expect("a name"));
    let mut damaged = sample.files.0[path].to_vec();
    damage(&mut damaged);
    std::fs::write(&target, damaged).expect("write");
    let before = snapshot(directory.path());
    let mut harness = match Harness::open(directory.path()) {
        Ok(harness) => harness,
        Err(error) => {
            assert!(error.to_string().contains("raftlog-tool verify"), "{error}");
            assert_eq!(snapshot(directory.path()), before, "{}", target.display());
            return "refused";
        }
    };
    let recovery = harness.recovery.take().expect("recovered");
    assert_eq!(recovery.holes, harness.log.holes());
    fill_all(&mut harness, &sample.all);
    assert_eq!(contents(&harness.log), sample.all, "{}: {recovery}", target.display());
    let hard_state = harness.log.hard_state();
    harness.append(hard_state.term, 2, 10).expect("append");
    drop(harness);
    let harness = Harness::open(directory.path()).expect("a mended log");
    let again = harness.recovery.as_ref().expect("recovered");
    assert_eq!((again.damaged_meta_copies, &again.torn), (0, &None), "{again}");
    assert!(again.holes.is_empty() && again.rewritten.is_empty(), "{recovery}; {again}");
    assert_eq!(harness.log.hard_state(), hard_state);
    assert_eq!(harness.log.last_index(), sample.all.last().expect("entries").0 + 2);
    match (recovery.holes.is_empty(), recovery.rewritten.is_empty()) {
        (false, _) => "hole",
        (true, false) => "rebuilt",
        (true, true) => "clean",
    }
}

#[test]
fn a_damaged_log_is_whole_in_the_end() {
    for sample in [Sample::fresh(true), Sample::recycled(true)] {
        let mut outcomes = std::collections::BTreeMap::new();
        for (path, bytes) in &sample.files.0 {
            for offset in (0..bytes.len()).step_by(if bytes[..8] == [0; 8] { 4001 } else { 199 }) {
                let outcome = open_damaged(&sample, path, |bytes| bytes[offset] ^= 0x10);
                *outcomes.entry(outcome).or_insert(0) += 1;
            }
        }
        assert!(outcomes["hole"] > 15 && outcomes["rebuilt"] > 30, "{outcomes:?}");
        assert_eq!(outcomes.get("refused"), None, "{outcomes:?}");
    }
}

/// The header is made anew from what is around it; the length of the file says no more how it was made if it ends inside a
/// block, and what is written there would not fit (found by fuzzing).
#[test]
fn a_header_of_a_file_that_was_cut_inside_a_block_is_not_made_anew() {
    let sample = Sample::fresh(true);
    let (path, _) = used_segments(&sample.files).pop().expect("segments");
    let cut = |bytes: &mut Vec<u8>, length| {
        bytes[20] ^= 1;
        bytes.truncate(length);
    };
    let length = sample.files.0[path].len();
    assert_eq!(open_damaged(&sample, path, |bytes| cut(bytes, length)), "rebuilt");
    assert_eq!(open_damaged(&sample, path, |bytes| cut(bytes, length - 2043)), "refused");
}

/// What a disk loses is a sector or a page: all of their records, where the index file knows them.
#[test]
fn lost_sectors_and_pages_are_filled_or_refused() {
    let sample = Sample::fresh(true);
    let mut outcomes = std::collections::BTreeMap::new();
    for bytes in [512, 4096] {
        for (path, content) in used_segments(&sample.files) {
            for offset in (0..content.len()).step_by(bytes) {
                let lost = offset..offset + bytes;
                let outcome = open_damaged(&sample, path, |content| content[lost].fill(0xff));
                *outcomes.entry((bytes, outcome)).or_insert(0) += 1;
            }
        }
    }
    let count = |bytes, outcome| outcomes.get(&(bytes, outcome)).copied().unwrap_or(0);
    assert!(count(512, "hole") > 10 && count(512, "refused") < 12, "{outcomes:?}");
    assert!(count(4096, "rebuilt") >= 3, "each header: {outcomes:?}");
}

/// A log of one segment that lost its index file, and what stood in it from the first byte of entry 1 on.
struct WithoutIndex {
    directory: tempfile::TempDir,
    all: Entries,
}

/// Where the first record behind the mark stands.
const FIRST_RECORD: usize = 4096 + 40;
/// A record with a payload of 53 bytes.
const RECORD_BYTES: usize = 88;

impl WithoutIndex {
    fn of(write: impl FnOnce(&mut Harness)) -> WithoutIndex {
        let directory = fast_directory();
        let mut harness = Harness::create(directory.path());
        write(&mut harness);
        let all = contents(&harness.log);
        drop(harness);
        std::fs::remove_file(directory.path().join("0000000001.idx")).expect("remove");
        WithoutIndex { directory, all }
    }

    /// Damages what stands at `offset` behind the mark.
    fn damage(&self, offset: usize, damage: impl FnOnce(&mut [u8])) {
        let segment = self.directory.path().join("0000000001.log");
        let mut bytes = std::fs::read(&segment).expect("read");
        damage(&mut bytes[FIRST_RECORD + offset..]);
        std::fs::write(&segment, bytes).expect("write");
    }

    fn open(&self) -> Result<Harness, LogError> {
        Harness::open(self.directory.path())
    }

    /// It is refused because nothing certain is known of entry 2, and not changed.
    fn is_refused(&self, offset: usize) {
        let before = snapshot(self.directory.path());
        let error = self.open().err().expect("refused");
        let offset = (FIRST_RECORD + offset) as u64;
        let named = matches!(&error, LogError::Corrupt { index: Some(2), offset: at, .. } if *at == offset);
        assert!(named && error.to_string().contains("raftlog-tool verify"), "{error}");
        assert_eq!(snapshot(self.directory.path()), before);
    }
}

/// The flag of entry 3 says that entry 2 was durable.
fn two_then_one(harness: &mut Harness) {
    harness.append(1, 2, 53).expect("append");
    harness.append(1, 1, 53).expect("append");
}

/// Nothing but its own header says what it was, and that may be damaged too where the gap does not tell: the right entry must
/// fit all the same.
#[test]
fn without_an_index_file_what_is_left_of_its_header_says_what_is_missing() {
    for length in [53u32, 49, 56] {
        let log = WithoutIndex::of(two_then_one);
        log.damage(RECORD_BYTES, |bytes| {
            bytes[4..8].copy_from_slice(&length.to_le_bytes());
            bytes[40] ^= 1;
        });
        let mut harness = log.open().expect("open");
        let holes = harness.log.holes();
        assert_eq!(
            holes.iter().map(|hole| (hole.index, hole.term, hole.payload_bytes)).collect::<Vec<_>>(),
            [(2, 1, 56)]
        );
        fill_all(&mut harness, &log.all);
        assert_eq!(contents(&harness.log), log.all);
    }
}

/// Without its header too, what is around the gap shows that an entry is missing, but not that nothing stood beside it.
#[test]
fn an_entry_that_is_lost_whole_with_the_index_file_is_not_guessed() {
    let log = WithoutIndex::of(two_then_one);
    log.damage(RECORD_BYTES, |bytes| bytes[..RECORD_BYTES].fill(0));
    log.is_refused(RECORD_BYTES);
}

/// Its kind and its term stand in the header alone: another kind, or a term when there is more than one that fits, would
/// make a hole that no peer's entry fits.
#[test]
fn what_a_header_says_without_a_witness_is_not_believed() {
    // Another kind.
    let log = WithoutIndex::of(two_then_one);
    log.damage(RECORD_BYTES, |bytes| (bytes[24], bytes[40]) = (3, 0));
    log.is_refused(RECORD_BYTES);
    // Another term, between entries of terms 1 and 5, without a mark.
    let log = WithoutIndex::of(|harness| {
        let entry = |index, term| Entry::new(index, term, Kind::Normal, payload(index, term, 53));
        let entries = vec![entry(1, 1), entry(2, 4), entry(3, 5)];
        harness.write(WriteRequest { entries, ..Default::default() }).expect("append");
        harness.append(5, 1, 53).expect("append");
    });
    log.damage(RECORD_BYTES, |bytes| (bytes[16], bytes[40]) = (5, 0));
    log.is_refused(RECORD_BYTES);
    // Another term than the next entry's, behind a truncation: no entry before says one.
    let log = WithoutIndex::of(|harness| {
        harness.append(1, 2, 53).expect("append");
        let entry = |index| Entry::new(index, 5, Kind::Normal, payload(index, 5, 53));
        let (truncate_from, entries) = (Some(2), vec![entry(2), entry(3)]);
        harness.write(WriteRequest { truncate_from, entries, ..Default::default() }).expect("append");
        harness.append(5, 1, 53).expect("append");
    });
    let offset = 2 * RECORD_BYTES + 32;
    log.damage(offset, |bytes| (bytes[16], bytes[40]) = (4, 0));
    log.is_refused(offset);
}

/// A membership is followed by its copy. When nothing is left of both and of the index file, the gap could as well have been
/// one entry of twice the length, which no peer has (found by fuzzing).
#[test]
fn a_membership_that_is_lost_with_its_copy_and_the_index_file_is_not_taken_for_another_entry() {
    let log = WithoutIndex::of(|harness| {
        harness.append(1, 1, 53).expect("append");
        let membership = Entry::new(2, 1, Kind::Membership, payload(2, 1, 53));
        harness.write(WriteRequest { entries: vec![membership], ..Default::default() }).expect("append");
        harness.append(1, 2, 53).expect("append");
    });
    // Nor if the header says so, as the crc in it is not the last one of the gap.
    log.damage(RECORD_BYTES, |bytes| {
        bytes[4..8].copy_from_slice(&(2 * RECORD_BYTES as u32 - 32).to_le_bytes());
        bytes[24] = 1;
        bytes[32..2 * RECORD_BYTES].fill(0);
    });
    log.is_refused(RECORD_BYTES);
    log.damage(RECORD_BYTES, |bytes| bytes[..2 * RECORD_BYTES].fill(0));
    log.is_refused(RECORD_BYTES);
}

/// The copy of a membership that is itself a hole, and the entry behind, leave a gap in which one entry is missing; it
/// is not of the length of the gap (found by fuzzing).
#[test]
fn the_copy_of_a_lost_membership_is_not_taken_for_a_part_of_the_next_entry() {
    let directory = fast_directory();
    let mut harness = Harness::create(directory.path());
    let membership = Entry::new(1, 1, Kind::Membership, payload(1, 1, 53));
    harness.write(WriteRequest { entries: vec![membership], ..Default::default() }).expect("append");
    let index = directory.path().join("0000000001.idx");
    let names_membership = std::fs::read(&index).expect("read");
    harness.append(1, 1, 45).expect("append");
    harness.append(1, 1, 53).expect("append");
    drop(harness);
    // Of the index file there is left what names the membership; of it, its copy and entry 2, nothing.
    std::fs::write(&index, names_membership).expect("write");
    let log = WithoutIndex { directory, all: Vec::new() };
    log.damage(0, |bytes| bytes[..2 * RECORD_BYTES + 80].fill(0));
    log.is_refused(RECORD_BYTES);
}

#[test]
fn a_hole_that_is_truncated_is_none() {
    let sample = Sample::fresh(true);
    let directory = fast_directory();
    crash_image(&sample.path, directory.path());
    let (last, _) = used_segments(&sample.files).pop().expect("segments");
    let target = directory.path().join(last.file_name().expect("a name"));
    let mut bytes = std::fs::read(&target).expect("read");
    let index = sample.all.last().expect("entries").0;
    let pattern = payload(index, sample.all.last().expect("entries").1, 100);
    let at = bytes.windows(100).rposition(|window| window == pattern).expect("its payload");
    bytes[at] ^= 1;
    std::fs::write(&target, bytes).expect("write");
    let mut harness = Harness::open(directory.path()).expect("open");
    assert_eq!(harness.log.holes().iter().map(|hole| hole.index).collect::<Vec<_>>(), [index]);
    let hard_state = Some(HardState { term: 50, vote: None });
    let entries = vec![entry(index, 50, 33)];
    let request = WriteRequest { hard_state, truncate_from: Some(index), entries, ..Default::default() };
    harness.write(request).expect("write");
    for reopened in [false, true] {
        if reopened {
            drop(harness);
            harness = Harness::open(directory.path()).expect("open");
        }
        assert!(harness.log.holes().is_empty());
        assert_eq!(harness.log.read(index).expect("read"), entry(index, 50, 33));
        assert!(!harness.log.fill(copy_of(&sample.all, index, Kind::Normal)).expect("no hole"));
    }
}

/// A log of two segments and more, opened again so that nothing is cached.
fn reopened(directory: &Path) -> Harness {
    let mut harness = Harness::create(directory);
    for _ in 0..8 {
        harness.append(1, 3, 300).expect("append");
    }
    drop(harness);
    Harness::open(directory).expect("open")
}

fn flip(path: &Path, offset: u64) {
    let file = std::fs::OpenOptions::new().read(true).write(true).open(path).expect("open");
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).expect("read");
    file.write_all_at(&[byte[0] ^ 0x40], offset).expect("write");
}

/// Mark, then entries of 300 bytes.
fn offset_of(entry: u64) -> u64 {
    4096 + 40 + (entry - 1) * 336
}

/// The index file does not name copies; what is behind a damaged one is found all the same.
#[test]
fn a_damaged_copy_does_not_hide_the_entry_behind_it() {
    let directory = fast_directory();
    let mut harness = Harness::create(directory.path());
    let membership = Entry::new(1, 1, Kind::Membership, payload(1, 1, 53));
    harness.write(WriteRequest { entries: vec![membership], ..Default::default() }).expect("append");
    harness.append(1, 2, 53).expect("append");
    let all = contents(&harness.log);
    drop(harness);
    let harness = Harness::open(directory.path()).expect("open");
    let segment = directory.path().join("0000000001.log");
    let record = |number: usize| (FIRST_RECORD + number * RECORD_BYTES) as u64;
    // The payload of the copy, the header of the entry.
    flip(&segment, record(1) + 40);
    flip(&segment, record(2) + 16);
    assert_eq!(contents(&harness.log), all);
    assert_eq!(harness.log.read(2).expect("known by the index file"), entry(2, 1, 53));
}

#[test]
fn damage_that_comes_while_the_log_is_open() {
    let directory = fast_directory();
    let mut harness = reopened(directory.path());
    let all = contents(&harness.log);
    let segment = directory.path().join("0000000001.log");
    // A header: whole again without a peer. A payload: not.
    flip(&segment, offset_of(2) + 16);
    flip(&segment, offset_of(4) + 50);
    assert_eq!(harness.log.read(2).expect("its payload is there"), entry(2, 1, 300));
    assert!(harness.log.holes().is_empty());
    let error = harness.log.read(4).expect_err("damaged");
    assert!(matches!(&error, LogError::Damaged(hole) if hole.index == 4 && hole.file == segment), "{error}");
    assert!(error.to_string().contains("0000000001.log at offset"), "{error}");
    assert_eq!((harness.log.holes().len(), harness.log.damaged(), harness.log.stats().holes), (1, 1, 1));
    assert_eq!(harness.log.read(3).expect("read"), entry(3, 1, 300));
    fill_all(&mut harness, &all);
    assert_eq!(harness.log.repaired(), 1);
    assert!(!harness.log.fill(entry(4, 1, 300)).expect("no hole any more"));
    drop(harness);
    let harness = Harness::open(directory.path()).expect("open");
    let recovery = harness.recovery.as_ref().expect("recovered");
    assert!(recovery.holes.is_empty() && recovery.rewritten.is_empty(), "{recovery}");
    assert_eq!(contents(&harness.log), all);
}

/// The last block of the segment that is written is in memory: what is filled must not be overwritten by it.
#[test]
fn a_hole_in_the_block_that_is_written_next() {
    let directory = fast_directory();
    let mut harness = Harness::create(directory.path());
    harness.append(1, 3, 300).expect("append");
    drop(harness);
    let segment = directory.path().join("0000000001.log");
    flip(&segment, offset_of(2) + 50);
    flip(&segment, offset_of(3) + 299 + 32);
    let mut harness = Harness::open(directory.path()).expect("open");
    assert_eq!(harness.log.holes().len(), 2);
    let all = vec![(1, 1, 300), (2, 1, 300), (3, 1, 300)];
    fill_all(&mut harness, &all);
    harness.append(1, 1, 10).expect("append");
    drop(harness);
    let harness = Harness::open(directory.path()).expect("open");
    assert!(harness.log.holes().is_empty());
    assert_eq!(contents(&harness.log)[..3], all);
}

/// A mapping would end the process here.
#[test]
fn a_segment_that_somebody_cuts_is_an_error() {
    let directory = fast_directory();
    let harness = reopened(directory.path());
    let segment = directory.path().join("0000000001.log");
    let status = std::process::Command::new("truncate").args(["-s", "4500"]).arg(&segment).status();
    assert!(status.expect("truncate").success());
    assert_eq!(harness.log.read(1).expect("before the cut"), entry(1, 1, 300));
    let error = harness.log.read(5).expect_err("behind the cut");
    assert!(matches!(&error, LogError::Io { file, .. } if *file == segment), "{error}");
    drop(harness);
    let error = Harness::open(directory.path()).err().expect("refused");
    assert!(matches!(&error, LogError::Corrupt { file, offset: 4500, .. } if *file == segment), "{error}");
}

/// A disk of which one block cannot be read until it is written again.
struct BadBlockDisk {
    path: PathBuf,
    block: Arc<AtomicU64>,
}

struct BadBlockFile {
    file: FileHandle,
    block: Option<Arc<AtomicU64>>,
}

impl Disk for BadBlockDisk {
    fn create_directory(&self, path: &Path) -> io::Result<()> {
        SystemDisk.create_directory(path)
    }
    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        SystemDisk.sync_directory(path)
    }
    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        SystemDisk.list(path)
    }
    fn exists(&self, path: &Path) -> bool {
        SystemDisk.exists(path)
    }
    fn open(&self, path: &Path, mode: Mode) -> io::Result<FileHandle> {
        let file = SystemDisk.open(path, mode)?;
        let block = (path == self.path).then(|| self.block.clone());
        Ok(Arc::new(BadBlockFile { file, block }))
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        SystemDisk.rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        SystemDisk.remove(path)
    }
    fn lock(&self, path: &Path) -> io::Result<Option<Guard>> {
        SystemDisk.lock(path)
    }
}

impl BadBlockFile {
    fn hits(&self, bytes: usize, offset: u64) -> bool {
        self.block.as_ref().is_some_and(|block| {
            let bad = block.load(Ordering::SeqCst);
            offset < bad + 4096 && offset + bytes as u64 > bad
        })
    }
}

impl DiskFile for BadBlockFile {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        if self.hits(bytes.len(), offset) {
            self.block.as_ref().expect("hit").store(u64::MAX - 4096, Ordering::SeqCst);
        }
        self.file.write_at(bytes, offset)
    }
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        if self.hits(bytes.len(), offset) {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        self.file.read_at(bytes, offset)
    }
    fn allocate(&self, length: u64) -> io::Result<()> {
        self.file.allocate(length)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }
    fn sync_all(&self) -> io::Result<()> {
        self.file.sync_all()
    }
    fn length(&self) -> io::Result<u64> {
        self.file.length()
    }
}

#[test]
fn a_block_that_the_disk_cannot_read_is_holes() {
    let directory = fast_directory();
    let mut harness = Harness::create(directory.path());
    // One entry that fills the second block of the first segment and more.
    harness.append(1, 1, 20).expect("append");
    harness.append(1, 1, 3 * 4096).expect("append");
    harness.append(1, 1, 20).expect("append");
    drop(harness);
    let all = vec![(1, 1, 20), (2, 1, 3 * 4096), (3, 1, 20)];
    let path = directory.path().join("0000000002.log");
    for at_start in [true, false] {
        let block = Arc::new(AtomicU64::new(if at_start { 8192 } else { u64::MAX - 4096 }));
        let disk = Arc::new(BadBlockDisk { path: path.clone(), block: block.clone() });
        let mut harness = Harness::open_on(disk, directory.path()).expect("open");
        block.store(8192, Ordering::SeqCst);
        let error = harness.log.read(2).expect_err("unreadable");
        let LogError::Damaged(hole) = &error else { panic!("{error}") };
        assert!(hole.found.contains("cannot read"), "{error}");
        fill_all(&mut harness, &all);
        assert_eq!(contents(&harness.log), all);
    }
}

#[test]
fn the_scrubber_finds_what_nobody_reads() {
    let directory = tempfile::tempdir().expect("tempdir");
    let mut harness = reopened(directory.path());
    let all = contents(&harness.log);
    let scrubbed = |harness: &Harness| harness.log.stats().scrubbed_bytes;
    assert_eq!(scrubbed(&harness), 0);
    let first = directory.path().join("0000000001.log");
    flip(&first, 4096 + 3);
    flip(&first, offset_of(5) + 100);
    flip(&first, offset_of(6) + 9);
    harness.log.set_scrub_rate(1 << 30).expect("a thread");
    wait_for("the hole is found", || !harness.log.holes().is_empty());
    assert_eq!(harness.log.holes().iter().map(|hole| hole.index).collect::<Vec<_>>(), [5]);
    fill_all(&mut harness, &all);
    wait_for("the last segment is read, too", || scrubbed(&harness) > 4 * 4096);
    assert!(harness.log.scrub_failure().is_none());
    // It reads behind the writer without finding what is not there.
    for _ in 0..20 {
        harness.append(1, 2, 700).expect("append");
    }
    harness.log.set_scrub_rate(0).expect("off");
    assert!(harness.log.holes().is_empty() && harness.log.scrub_failure().is_none());
    drop(harness);
    let harness = Harness::open(directory.path()).expect("open");
    let recovery = harness.recovery.as_ref().expect("recovered");
    assert!(
        recovery.holes.is_empty() && recovery.rewritten.is_empty(),
        "the mark was mended, too: {recovery}"
    );
}

#[test]
fn the_scrubber_keeps_to_its_rate() {
    let directory = tempfile::tempdir().expect("tempdir");
    let mut harness = reopened(directory.path());
    harness.log.set_scrub_rate(20_000).expect("a thread");
    wait_for("it has begun", || harness.log.stats().scrubbed_bytes > 0);
    let (started, before) = (Instant::now(), harness.log.stats().scrubbed_bytes);
    std::thread::sleep(Duration::from_millis(300));
    let read = harness.log.stats().scrubbed_bytes - before;
    // A segment of this log is read in two steps of at most 4 KiB.
    let allowed = 20_000.0 * started.elapsed().as_secs_f64() + 4096.0;
    assert!(read > 0 && read as f64 <= allowed, "{read} bytes, {allowed} allowed");
}

/// Every call of a start that mends, and of the filling, fails once: the next start has the whole log.
#[test]
fn mending_may_be_interrupted_anywhere() {
    let sample = Sample::fresh(true);
    let (segment, bytes) = used_segments(&sample.files)[1];
    for number in 1.. {
        let directory = fast_directory();
        crash_image(&sample.path, directory.path());
        let target = directory.path().join(segment.file_name().expect("a name"));
        let mut damaged = bytes.to_vec();
        // The header, and some entry's payload.
        damaged[30] ^= 1;
        let at = damaged.windows(60).rposition(|window| window.starts_with(b"<")).expect("a payload");
        damaged[at + 50] ^= 1;
        std::fs::write(&target, damaged).expect("write");
        let failed = Arc::new(Mutex::new(false));
        let flag = failed.clone();
        let disk = HookedDisk::new(Box::new(move |call, _| {
            if call >= number {
                *flag.lock().expect("flag") = true;
                return Err(io::Error::from_raw_os_error(libc::EIO));
            }
            Ok(())
        }));
        if let Ok(mut harness) = Harness::open_on(disk, directory.path()) {
            let holes = harness.log.holes();
            for hole in &holes {
                let _ = harness.log.fill(copy_of(&sample.all, hole.index, hole.kind));
            }
            wait_for("filled or failed", || {
                harness.log.holes().is_empty()
                    || harness.log.durable().is_err()
                    || *failed.lock().expect("flag")
            });
        }
        let mut harness =
            Harness::open(directory.path()).unwrap_or_else(|error| panic!("call {number}: {error}"));
        fill_all(&mut harness, &sample.all);
        assert_eq!(contents(&harness.log), sample.all, "call {number}");
        if !*failed.lock().expect("flag") {
            break;
        }
    }
}

#[test]
fn a_purge_takes_the_holes_with_it_also_those_of_the_segment_that_is_written() {
    let directory = fast_directory();
    let mut harness = Harness::create(directory.path());
    for _ in 0..6 {
        harness.append(1, 1, 300).expect("append");
    }
    let all = contents(&harness.log);
    drop(harness);
    let segment = directory.path().join("0000000001.log");
    flip(&segment, offset_of(2) + 50);
    flip(&segment, offset_of(5) + 50);
    let mut harness = Harness::open(directory.path()).expect("open");
    assert_eq!(harness.log.holes().iter().map(|hole| hole.index).collect::<Vec<_>>(), [2, 5]);
    harness.log.purge(4);
    assert_eq!(harness.log.base(), (2, 1), "no more than it takes");
    assert_eq!(harness.log.holes().iter().map(|hole| hole.index).collect::<Vec<_>>(), [5]);
    harness.log.purge(6);
    assert_eq!(harness.log.base(), (5, 1));
    assert!(harness.log.holes().is_empty());
    for round in 0..2 {
        harness.append(1, 1, 300).expect("append");
        assert_eq!(harness.log.first_index(), 6);
        assert_eq!(contents(&harness.log)[0], all[5]);
        assert_eq!(harness.log.last_index(), 7 + round);
        drop(harness);
        harness =
            Harness::open(directory.path()).expect("what the log does not count any more may be damaged");
        assert!(harness.log.holes().is_empty());
    }
}
