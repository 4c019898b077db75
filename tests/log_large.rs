//! Entries larger than a segment: written and read in bounded memory. In a process of their own, because it is measured.

mod log_support;

use bytes::Bytes;
use log_support::*;
use redisraft::log::{Entry, Kind, WriteRequest};

/// A line of the process's status, in bytes.
fn status(name: &str) -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("status");
    let line = status.lines().find(|line| line.starts_with(name)).expect("a line of the status");
    let number: String = line.chars().filter(char::is_ascii_digit).collect();
    number.parse::<usize>().expect("a number") << 10
}

/// The most memory that `act` needed at one time beyond what was in use before.
fn memory_of(act: impl FnOnce()) -> usize {
    std::fs::write("/proc/self/clear_refs", "5").expect("reset the peak");
    let before = status("VmRSS:");
    act();
    status("VmHWM:").saturating_sub(before)
}

fn write_and_read(bytes: usize) {
    const SLACK_BYTES: usize = 6 << 20;
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("tempdir");
    let mut harness = Harness::create(directory.path());
    harness.append(1, 3, 100).expect("append");
    let pattern: Vec<u8> = (0..251).collect();
    let payload = Bytes::from(pattern.repeat(bytes / pattern.len() + 1)).slice(..bytes);
    let entry = Entry::new(4, 1, Kind::Normal, payload);
    let entries = vec![entry.clone()];
    let needed = memory_of(|| {
        harness.write(WriteRequest { entries, ..Default::default() }).expect("write");
    });
    assert!(needed < SLACK_BYTES, "{needed} bytes to write {bytes}");
    harness.append(2, 3, 100).expect("append");
    let cached = harness.log.stats().cached_bytes;
    assert!(cached < SLACK_BYTES as u64, "{cached} bytes are cached once it is written");
    drop(harness);
    let harness = Harness::open(directory.path()).expect("open");
    assert_eq!(harness.log.last_index(), 7);
    assert_eq!(harness.recovery.as_ref().expect("recovered").torn, None);
    assert!(harness.log.read(4).expect("read") == entry);
}

#[test]
fn an_entry_of_40_mb() {
    write_and_read(40 << 20);
}

/// As long as the longest string of a stock server. By hand: `cargo test --release --test log_large -- --ignored`.
#[test]
#[ignore = "half a gigabyte of disk and memory"]
fn an_entry_of_512_mb() {
    write_and_read((512 << 20) + 100);
}
