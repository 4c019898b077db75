//! Writing past the page cache: who reads through it sees every byte as soon as it is acknowledged.

mod log_support;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;

use log_support::*;
use redisraft::log::disk::{Disk, FileHandle, Mode, SystemDisk};
use redisraft::log::{Log, Options, Reader, WriteRequest};

const PAYLOAD_BYTES: usize = 100;
/// A record of that, padded.
const RECORD_BYTES: u64 = 136;
/// Where the first one is: behind the segment's header and a mark.
const FIRST_OFFSET: u64 = 4096 + 40;

fn assert_seen(file: &FileHandle, index: u64) {
    let mut bytes = [0; PAYLOAD_BYTES];
    let at = FIRST_OFFSET + (index - 1) * RECORD_BYTES + 32;
    file.read_at(&mut bytes, at).expect("read");
    assert_eq!(bytes[..], payload(index, 1, PAYLOAD_BYTES), "entry {index}");
}

/// Waits for the disk, not for news: these logs are few.
fn write(log: &mut Log, id: u64, count: u64) {
    let first = log.last_index() + 1;
    let entries = (first..first + count).map(|index| entry(index, 1, PAYLOAD_BYTES)).collect();
    log.submit(WriteRequest { id, entries, ..Default::default() });
    while log.durable().expect("durable") < id {
        std::thread::yield_now();
    }
}

#[test]
fn the_page_cache_shows_what_was_acknowledged() {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("tempdir");
    let path = directory.path().join("log");
    let mut log = Log::create(&path, identity(), Options::default(), Box::new(|| ())).expect("create");
    let segment = path.join("0000000001.log");
    let file = SystemDisk.open(&segment, Mode::Read).expect("open");
    let (stop, written) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    // Fills the page cache all the time, also with what is being written.
    let reader = {
        let (file, stop, written) = (file.clone(), stop.clone(), written.clone());
        std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let last = written.load(Ordering::Acquire);
                (1..=last).rev().take(40).for_each(|index| assert_seen(&file, index));
                file.read_at(&mut [0; 16 << 10], FIRST_OFFSET + last * RECORD_BYTES).expect("read ahead");
            }
        })
    };
    for id in 1..=400 {
        // With and without fsync: some writes go through the page cache, some past it.
        log.set_fsync(id % 50 < 40);
        write(&mut log, id, 1 + id % 7);
        let last = log.last_index();
        written.store(last, Ordering::Release);
        assert_seen(&file, last);
        if id % 100 == 0 {
            (1..=last).for_each(|index| assert_seen(&file, index));
            let end = Reader::open(&path).expect("reader").scan(&mut |_| std::ops::ControlFlow::Continue(()));
            assert_eq!(end.expect("in good order").sequence.last_index(), last);
        }
    }
    stop.store(true, Ordering::Relaxed);
    reader.join().expect("everything acknowledged was seen");
    let last = log.last_index();
    drop(log);
    let (log, recovery) = Log::open(&path, Options::default(), Box::new(|| ())).expect("open");
    assert_eq!((recovery.entries, recovery.torn), (last, None));
    assert_eq!(contents(&log).len() as u64, last);
}

#[test]
fn both_ways_of_writing_make_the_same_log() {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("tempdir");
    let options = |direct_io| Options { segment_bytes: 64 << 10, direct_io, ..Options::default() };
    let path = directory.path().join("log");
    let mut log = Log::create(&path, identity(), options(true), Box::new(|| ())).expect("create");
    for (round, direct_io) in [true, false, true, false].into_iter().enumerate() {
        for id in 1..=30 {
            write(&mut log, id, 1 + id * 3 % 40);
        }
        assert_eq!(log.stats().prepare_failures, 0);
        let before = contents(&log);
        drop(log);
        let recovery;
        (log, recovery) = Log::open(&path, options(direct_io), Box::new(|| ())).expect("open");
        assert_eq!((recovery.torn, recovery.rebuilt_indexes), (None, Vec::new()), "round {round}");
        assert_eq!(contents(&log), before);
    }
}
