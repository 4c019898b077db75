//! Giving up the beginning of a log, the pool of purged segments, and what the helper fails at.

mod log_support;

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use log_support::*;
use redisraft::log::disk::SystemDisk;
use redisraft::log::{HardState, LogError, WriteRequest};

fn names(directory: &Path, suffix: &str) -> Vec<String> {
    let names = std::fs::read_dir(directory).expect("list").map(|item| item.expect("list").file_name());
    let mut names: Vec<_> = names.map(|name| name.to_string_lossy().into_owned()).collect();
    names.retain(|name| name.ends_with(suffix));
    names.sort();
    names
}

fn create(path: &Path) -> Harness {
    Harness::create_inline(Arc::new(SystemDisk), path).expect("create")
}

fn open(path: &Path) -> Harness {
    Harness::open_inline(Arc::new(SystemDisk), path).expect("open")
}

#[test]
fn whole_segments_go_and_nothing_behind_them() {
    let directory = fast_directory();
    let mut harness = create(directory.path());
    harness.append(1, 60, 500).expect("append");
    harness.run();
    let all = contents(&harness.log);
    let segments = names(directory.path(), ".log").len();
    let file_bytes = harness.log.stats().file_bytes;
    harness.log.purge(0);
    assert_eq!(harness.log.first_index(), 1);
    harness.log.purge(30);
    let first = harness.log.first_index();
    assert!(first > 20 && first <= 31, "{first}: as much as whole segments allow");
    let refused = harness.log.read(first - 1).expect_err("purged");
    assert!(matches!(refused, LogError::OutOfRange { last: 60, .. }), "{refused}");
    assert_eq!(contents(&harness.log), all[first as usize - 1..]);
    harness.run();
    assert!(names(directory.path(), ".log").len() < segments);
    assert!(harness.log.stats().file_bytes < file_bytes);
    assert_eq!(names(directory.path(), ".free").len(), 2, "no more than two wait for another life");
    harness.append(2, 1, 10).expect("append");
    for purged in [false, true] {
        if purged {
            harness.log.purge(harness.log.last_index());
            harness.run();
            assert!(harness.log.first_index() > first);
        }
        let before = (harness.log.first_index(), contents(&harness.log), harness.log.stats().file_bytes);
        harness.close();
        harness = open(directory.path());
        let recovery = harness.recovery.as_ref().expect("recovered");
        assert!(recovery.leftovers.is_empty() && recovery.rebuilt_indexes.is_empty(), "{recovery}");
        let after = (harness.log.first_index(), contents(&harness.log), harness.log.stats().file_bytes);
        assert_eq!(after, before);
    }
    harness.append(3, 100, 500).expect("append");
    harness.close();
    assert_eq!(open(directory.path()).log.last_index(), 161);
}

#[test]
fn purged_segments_are_used_again() {
    let directory = fast_directory();
    let mut harness = create(directory.path());
    for round in 0..30 {
        harness.append(1, 12, 400 + round).expect("append");
        harness.run();
        harness.log.purge(harness.log.last_index() - 6);
        harness.run();
        let files = names(directory.path(), "").len();
        assert!(files < 20, "{files} files after {round} rounds");
    }
    let stats = harness.log.stats();
    assert!(stats.recycled_segments > 15, "{stats:?}");
    assert_eq!((stats.prepare_failures, harness.log.prepare_last_error()), (0, None));
    let before = (harness.log.first_index(), contents(&harness.log));
    harness.close();
    // And so by the next process, whatever the file held before.
    let mut harness = open(directory.path());
    assert_eq!((harness.log.first_index(), contents(&harness.log)), before);
    harness.append(2, 40, 100).expect("append");
    let before = contents(&harness.log);
    harness.close();
    assert_eq!(contents(&open(directory.path()).log), before);
}

#[test]
fn free_files_of_another_length_are_removed_and_no_more_than_two_kept() {
    let directory = fast_directory();
    let mut harness = create(directory.path());
    harness.append(1, 5, 500).expect("append");
    harness.close();
    for number in 1..6 {
        let path = directory.path().join(format!("000000000{number}.free"));
        std::fs::write(path, vec![7; if number == 2 { 4096 } else { SEGMENT_BYTES as usize }])
            .expect("write");
    }
    let mut harness = open(directory.path());
    harness.append(1, 40, 500).expect("append");
    harness.run();
    assert_eq!(names(directory.path(), ".free"), Vec::<String>::new());
    assert_eq!(harness.log.stats().recycled_segments, 1, "the other one was too short");
    assert_eq!(contents(&harness.log).len(), 45);
}

/// Entries that were truncated later are still in the segments that are kept, and must not count.
#[test]
fn a_purge_knows_dead_entries_from_live_ones() {
    for through in 0..=60 {
        let directory = fast_directory();
        let mut harness = create(directory.path());
        harness.append(1, 40, 500).expect("append");
        for (from, term, count) in [(25, 2, 30), (26, 4, 1), (20, 5, 41)] {
            let entries = (from..from + count).map(|index| entry(index, term, 400)).collect();
            let hard_state = Some(HardState { term, vote: None });
            let request =
                WriteRequest { hard_state, truncate_from: Some(from), entries, ..Default::default() };
            harness.write(request).expect("write");
        }
        let all = contents(&harness.log);
        harness.log.purge(through);
        let first = harness.log.first_index();
        assert!(first <= through + 1);
        assert!(through < 60 || first > 50, "through {through}: {first} is first");
        harness.close();
        let mut harness = open(directory.path());
        assert_eq!(harness.log.first_index(), first, "through {through}");
        assert_eq!(contents(&harness.log), all[first as usize - 1..], "through {through}");
        harness.append(6, 10, 500).expect("append");
    }
}

/// What is handed in and not written yet replaces entries that the purge counts on.
#[test]
fn a_purge_waits_for_what_was_handed_in_before_it() {
    let directory = fast_directory();
    let mut harness = create(directory.path());
    harness.append(1, 40, 500).expect("append");
    let entries: Vec<_> = (10..60).map(|index| entry(index, 2, 300)).collect();
    harness.submit(WriteRequest { truncate_from: Some(10), entries, ..Default::default() });
    harness.log.purge(50);
    let first = harness.log.first_index();
    let all = contents(&harness.log);
    // A crash before anything of it was done, and one after all of it.
    let image = directory.path().join("image");
    crash_image(directory.path(), &image);
    let before = open(&image);
    assert_eq!((before.log.first_index(), before.log.last_index()), (1, 40));
    harness.close();
    let harness = open(directory.path());
    assert_eq!((harness.log.first_index(), contents(&harness.log)), (first, all));
}

#[test]
#[should_panic(expected = "purge through 6, the log ends at 5")]
fn a_log_is_not_purged_of_what_it_never_held() {
    let directory = fast_directory();
    let mut harness = create(directory.path());
    harness.append(1, 5, 10).expect("append");
    harness.log.purge(6);
}

/// A disk on which calls fail as long as they are told to.
fn failing_disk(errno: i32, names: &'static [&'static str]) -> (Arc<HookedDisk>, Arc<Mutex<bool>>) {
    let failing = Arc::new(Mutex::new(false));
    let fail = failing.clone();
    let disk = HookedDisk::new(Box::new(move |_, name| {
        if *fail.lock().expect("failing") && names.contains(&name) {
            return Err(io::Error::from_raw_os_error(errno));
        }
        Ok(())
    }));
    (disk, failing)
}

#[test]
fn what_cannot_be_put_away_is_counted_and_finished_later() {
    for names_of_calls in [&["rename"][..], &["remove"], &["sync_directory"]] {
        for restart in [false, true] {
            let directory = fast_directory();
            let (disk, failing) = failing_disk(libc::EIO, names_of_calls);
            let mut harness = Harness::create_inline(disk.clone(), directory.path()).expect("create");
            harness.append(1, 60, 500).expect("append");
            harness.run();
            *failing.lock().expect("failing") = true;
            harness.log.purge(30);
            harness.run();
            let stats = harness.log.stats();
            let told = harness.log.prepare_last_error().expect("an error");
            assert!(
                stats.prepare_failures > 0 && told.contains(&directory.path().display().to_string()),
                "{told}"
            );
            harness.append(1, 1, 10).expect("appends go on");
            *failing.lock().expect("failing") = false;
            let last = harness.log.last_index();
            if restart {
                harness.close();
                harness = Harness::open_inline(disk, directory.path()).expect("open");
            } else {
                harness.log.purge(45);
                harness.run();
            }
            let first_segment: u32 = names(directory.path(), ".log")[0][..10].parse().expect("a number");
            let first_index: u32 = names(directory.path(), ".idx")[0][..10].parse().expect("a number");
            assert!(first_segment >= 5 && first_index == first_segment, "{names_of_calls:?}");
            assert_eq!(harness.log.last_index(), last);
            contents(&harness.log);
        }
    }
}

/// ENOSPC comes ahead of need: it is told, the segment that is there is filled, and it is tried again each second.
#[test]
fn a_full_disk_is_known_ahead_of_need() {
    let directory = fast_directory();
    let (hooked, full) = failing_disk(libc::ENOSPC, &["allocate"]);
    let disk = Arc::new(ClockedDisk(hooked, Mutex::default()));
    let mut harness = Harness::create_inline(disk.clone(), directory.path()).expect("create");
    *full.lock().expect("full") = true;
    harness.append(1, 1, 1500).expect("append");
    harness.run();
    assert_eq!(harness.log.stats().prepare_failures, 1);
    let told = harness.log.prepare_last_error().expect("an error");
    assert!(told.contains("0000000002.log.tmp") && told.contains("free space"), "{told}");
    assert_eq!(names(directory.path(), ".tmp"), Vec::<String>::new(), "what was half-made holds no space");
    for _ in 0..10 {
        harness.append(1, 1, 10).expect("append");
        harness.run();
    }
    assert_eq!(harness.log.stats().prepare_failures, 1, "not at every batch");
    *disk.1.lock().expect("clock") += Duration::from_secs(1);
    harness.append(1, 1, 10).expect("append");
    harness.run();
    harness.append(1, 1, 10).expect("append");
    assert_eq!(harness.log.stats().prepare_failures, 2);
    // Space comes back before the segment is full.
    *full.lock().expect("full") = false;
    harness.append(1, 3, 2000).expect("append");
    let acknowledged = contents(&harness.log);
    // And does not come back: the append fails that needs a segment, and nothing is acknowledged any more.
    *full.lock().expect("full") = true;
    let error = (0..10).find_map(|_| harness.append(1, 1, 3000).err()).expect("full");
    assert!(error.to_string().contains("free space"), "{error}");
    assert!(harness.vote(9, None).is_err());
    drop(harness);
    assert!(contents(&open(directory.path()).log).starts_with(&acknowledged));
}

#[test]
fn two_segments_are_ready_ahead_and_taken_over_by_the_next_process() {
    let directory = fast_directory();
    let mut harness = create(directory.path());
    harness.append(1, 2, 500).expect("append");
    harness.run();
    assert_eq!(names(directory.path(), ".log").len(), 3);
    let calls = Arc::new(Mutex::new(Vec::new()));
    let noted = calls.clone();
    harness.close();
    let disk = HookedDisk::new(Box::new(move |_, name| {
        noted.lock().expect("calls").push(name);
        Ok(())
    }));
    let mut harness = Harness::open_inline(disk, directory.path()).expect("open");
    calls.lock().expect("calls").clear();
    harness.append(1, 14, 500).expect("append");
    let calls = calls.lock().expect("calls");
    assert!(!calls.contains(&"allocate"), "no segment was made: {calls:?}");
    assert_eq!(
        calls.iter().filter(|call| **call == "sync_data").count(),
        3,
        "a sync for each seal, one at the end"
    );
}
