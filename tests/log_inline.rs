//! The log in one thread: nothing happens but in `run_once`, and the same calls are made each time.

mod log_support;

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use log_support::*;
use redisraft::log::disk::{Disk, SystemDisk};
use redisraft::log::{HardState, InlineWriter, Log, LogError, WriteRequest};

fn append(log: &mut Log, id: u64, count: u64, bytes: usize) {
    let first = log.last_index() + 1;
    let entries = (first..first + count).map(|index| entry(index, 1, bytes)).collect();
    log.submit(WriteRequest { id, entries, ..Default::default() });
}

fn run(writer: &mut InlineWriter) -> usize {
    std::iter::from_fn(|| writer.run_once().then_some(())).count()
}

/// Creates a log, rolls, truncates, votes, closes and opens it again; returns the calls it made.
fn story(directory: &Path) -> Vec<&'static str> {
    let calls: Arc<Mutex<Vec<&'static str>>> = Arc::default();
    let noted = calls.clone();
    let disk = HookedDisk::new(Box::new(move |_, name| {
        noted.lock().expect("calls").push(name);
        Ok(())
    }));
    let (mut log, mut writer) =
        Log::create_inline(disk.clone(), directory, identity(), options()).expect("create");
    let mut id = 0;
    for round in 0..30 {
        id += 1;
        append(&mut log, id, 3, 100 + 20 * round);
        if round % 3 == 0 {
            run(&mut writer);
        }
        if round % 7 == 0 {
            id += 1;
            let hard_state = Some(HardState { term: id, vote: Some(7) });
            let truncate_from = Some(log.last_index());
            log.submit(WriteRequest { id, hard_state, truncate_from, ..Default::default() });
        }
    }
    let before = contents(&log);
    drop(log);
    run(&mut writer);
    drop(writer);
    let (log, _, recovery) = Log::open_inline(disk, directory, options()).expect("open");
    assert_eq!(recovery.torn, None);
    assert_eq!(contents(&log), before);
    let calls = std::mem::take(&mut *calls.lock().expect("calls"));
    calls
}

#[test]
fn the_same_story_makes_the_same_calls() {
    let (one, other) = (fast_directory(), fast_directory());
    let calls = story(&one.path().join("log"));
    assert!(calls.len() > 100, "{calls:?}");
    assert_eq!(calls, story(&other.path().join("log")));
}

#[test]
fn nothing_is_durable_before_it_is_run() {
    let directory = fast_directory();
    let (mut log, mut writer) =
        Log::create_inline(Arc::new(SystemDisk), directory.path(), identity(), options()).expect("create");
    append(&mut log, 1, 2, 10);
    append(&mut log, 2, 2, 10);
    assert_eq!(log.durable().expect("no error"), 0);
    assert_eq!(log.read(4).expect("read"), entry(4, 1, 10));
    assert!(writer.run_once());
    assert_eq!(log.durable().expect("no error"), 2, "what waits is one batch");
    assert_eq!(log.stats().fsync_count, 1);
    append(&mut log, 3, 1, 10);
    drop((log, writer));
    let (log, _, _) =
        Log::open_inline(Arc::new(SystemDisk), directory.path(), options()).expect("both are gone");
    assert_eq!(log.last_index(), 4, "what was not run was lost in the crash");
}

#[test]
fn the_lock_is_held_until_the_writer_is_gone() {
    let directory = fast_directory();
    let disk: Arc<dyn Disk> = Arc::new(SystemDisk);
    let (mut log, mut writer) =
        Log::create_inline(disk.clone(), directory.path(), identity(), options()).expect("create");
    append(&mut log, 1, 2, 10);
    drop(log);
    let open = || Log::open_inline(disk.clone(), directory.path(), options());
    assert!(matches!(open(), Err(LogError::InUse { .. })));
    assert!(run(&mut writer) > 0, "what was handed in is written, then the files are closed");
    assert!(!writer.run_once());
    drop(writer);
    assert_eq!(open().expect("free").0.last_index(), 2);
}

#[test]
fn what_is_due_is_due_by_the_clock_of_the_disk() {
    let directory = fast_directory();
    let syncs: Arc<Mutex<u64>> = Arc::default();
    let counted = syncs.clone();
    let hooked = HookedDisk::new(Box::new(move |_, name| {
        *counted.lock().expect("syncs") += u64::from(name == "sync_data");
        Ok(())
    }));
    let disk = Arc::new(ClockedDisk(hooked, Mutex::default()));
    let (mut log, mut writer) =
        Log::create_inline(disk.clone(), directory.path(), identity(), options()).expect("create");
    log.set_fsync(false);
    append(&mut log, 1, 1, 10);
    let taken = || std::mem::take(&mut *syncs.lock().expect("syncs"));
    taken();
    run(&mut writer);
    assert_eq!((log.durable().expect("no error"), taken()), (1, 0));
    std::thread::sleep(Duration::from_millis(2));
    *disk.1.lock().expect("clock") += Duration::from_millis(999);
    assert_eq!((run(&mut writer), taken()), (0, 0));
    *disk.1.lock().expect("clock") += Duration::from_millis(1);
    assert_eq!((run(&mut writer), taken()), (1, 1), "the segment");
    *disk.1.lock().expect("clock") += Duration::from_secs(1);
    assert_eq!((run(&mut writer), taken()), (2, 1), "its index");
}

#[test]
fn a_failure_is_told_and_is_the_end() {
    let directory = fast_directory();
    let failing = Arc::new(Mutex::new(false));
    let fail = failing.clone();
    let disk = HookedDisk::new(Box::new(move |_, name| match name {
        "sync_data" if *fail.lock().expect("failing") => Err(io::Error::from_raw_os_error(libc::EIO)),
        _ => Ok(()),
    }));
    let (mut log, mut writer) =
        Log::create_inline(disk.clone(), directory.path(), identity(), options()).expect("create");
    *failing.lock().expect("failing") = true;
    append(&mut log, 1, 1, 10);
    assert!(writer.run_once());
    assert!(matches!(log.durable(), Err(LogError::Io { .. })));
    let calls = disk.calls();
    append(&mut log, 2, 1, 10);
    drop(log);
    assert!(!writer.run_once());
    assert_eq!(disk.calls(), calls, "nothing is done after a failure");
}
