//! The log as its owner uses it: append, read, truncate, roll, reopen, refuse.

mod log_support;

use bytes::Bytes;
use log_support::*;
use proptest::prelude::*;
use redisraft::log::{Entry, HardState, Kind, Log, LogError, Options, WriteRequest};

#[test]
fn what_was_written_is_read_back_after_reopening() {
    let directory = tempfile::tempdir().expect("tempdir");
    let path = directory.path().join("deep").join("raftlog");
    assert!(!Log::exists(&path));
    let mut harness = Harness::create(&path);
    assert!(Log::exists(&path));
    assert_eq!((harness.log.first_index(), harness.log.last_index()), (1, 0));
    assert_eq!(harness.log.info(1), None);
    harness.vote(3, Some(7)).expect("vote");
    let entries = vec![
        Entry::new(1, 3, Kind::NoOp, Bytes::new()),
        Entry::new(2, 3, Kind::Membership, Bytes::from_static(b"voters 7")),
        entry(3, 3, 1),
    ];
    harness.write(WriteRequest { entries: entries.clone(), ..Default::default() }).expect("write");
    harness.append(4, 5, 100).expect("append");
    for reopened in [false, true] {
        if reopened {
            drop(harness);
            harness = Harness::open(&path).expect("open");
            let recovery = harness.recovery.as_ref().expect("recovered");
            assert_eq!((recovery.entries, recovery.torn.clone()), (8, None), "{recovery}");
        }
        assert_eq!(harness.log.hard_state(), HardState { term: 3, vote: Some(7) });
        assert_eq!(harness.log.identity(), &identity());
        assert_eq!(harness.log.last_index(), 8);
        for (expected, index) in entries.iter().zip(1..) {
            assert_eq!(&harness.log.read(index).expect("read"), expected);
        }
        assert_eq!(harness.log.read(8).expect("read"), entry(8, 4, 100));
        assert!(matches!(harness.log.read(9), Err(LogError::OutOfRange { first: 1, last: 8, .. })));
        assert!(matches!(harness.log.read(0), Err(LogError::OutOfRange { .. })));
    }
}

#[test]
fn requests_are_visible_at_once_and_durable_in_order() {
    let directory = tempfile::tempdir().expect("tempdir");
    let mut harness = Harness::create(directory.path());
    let ids: Vec<u64> = (1..=300)
        .map(|index| {
            let id =
                harness.submit(WriteRequest { entries: vec![entry(index, 1, 50)], ..Default::default() });
            assert_eq!(harness.log.read(index).expect("read"), entry(index, 1, 50));
            id
        })
        .collect();
    harness.wait(ids[299]).expect("durable");
    let stats = harness.log.stats();
    assert!(stats.fsync_count < 300, "requests share syncs: {stats:?}");
    assert!(stats.fsync_max_us >= stats.fsync_p50_us && stats.cached_entries == 300, "{stats:?}");
}

#[test]
fn segments_roll_and_chain() {
    let directory = tempfile::tempdir().expect("tempdir");
    let mut harness = Harness::create(directory.path());
    for round in 0..60 {
        harness.append(1 + round / 7, 1 + round % 5, (round * 37 % 900) as usize).expect("append");
    }
    let before = contents(&harness.log);
    drop(harness);
    let harness = Harness::open(directory.path()).expect("open");
    assert!(harness.recovery.as_ref().expect("recovered").segments >= 3);
    assert_eq!(harness.recovery.as_ref().expect("recovered").rebuilt_indexes.len(), 0);
    assert_eq!(contents(&harness.log), before);
}

#[test]
fn an_entry_larger_than_a_segment_gets_its_own() {
    let directory = tempfile::tempdir().expect("tempdir");
    let mut harness = Harness::create(directory.path());
    for bytes in [10, 5 << 20, 10, SEGMENT_BYTES as usize, SEGMENT_BYTES as usize - 4096 - 104, 10] {
        harness.append(1, 1, bytes).expect("append");
    }
    let before = contents(&harness.log);
    drop(harness);
    let harness = Harness::open(directory.path()).expect("open");
    assert_eq!(contents(&harness.log), before);
}

#[test]
fn a_truncation_replaces_the_suffix() {
    let directory = tempfile::tempdir().expect("tempdir");
    let mut harness = Harness::create(directory.path());
    harness.append(1, 40, 700).expect("append");
    let entries = (11..=13).map(|index| entry(index, 2, 30)).collect();
    let hard_state = Some(HardState { term: 2, vote: None });
    let request = WriteRequest { hard_state, truncate_from: Some(11), entries, ..Default::default() };
    harness.write(request).expect("write");
    harness.write(WriteRequest { truncate_from: Some(13), ..Default::default() }).expect("write");
    harness.append(2, 2, 5).expect("append");
    harness.write(WriteRequest { truncate_from: Some(1), ..Default::default() }).expect("write");
    assert_eq!(harness.log.last_index(), 0);
    harness.append(5, 3, 6).expect("append");
    let before = contents(&harness.log);
    assert_eq!(before, vec![(1, 5, 6), (2, 5, 6), (3, 5, 6)]);
    drop(harness);
    let harness = Harness::open(directory.path()).expect("open");
    assert_eq!(contents(&harness.log), before);
    assert_eq!(harness.log.hard_state(), HardState { term: 2, vote: None });
}

#[test]
fn old_entries_leave_the_cache_and_are_read_from_the_segments() {
    let directory = tempfile::tempdir().expect("tempdir");
    let mut harness = Harness::create(directory.path());
    for _ in 0..20 {
        harness.append(1, 1, 1 << 20).expect("append");
    }
    let stats = harness.log.stats();
    assert!(stats.cached_entries < 20 && stats.cached_bytes <= 16 << 20, "{stats:?}");
    assert!(stats.file_bytes > 20 << 20, "{stats:?}");
    assert_eq!(contents(&harness.log).len(), 20);
    harness.log.set_fsync(false);
    let syncs = harness.log.stats().fsync_count;
    harness.append(1, 1, 10).expect("append");
    assert_eq!(harness.log.stats().fsync_count, syncs, "no sync without need");
}

#[test]
fn a_second_opener_is_refused_by_name() {
    let directory = tempfile::tempdir().expect("tempdir");
    let harness = Harness::create(directory.path());
    let error = Harness::open(directory.path()).err().expect("in use");
    assert!(
        matches!(error, LogError::InUse { holder: Some(pid), .. } if pid == std::process::id()),
        "{error}"
    );
    assert!(error.to_string().contains(&directory.path().display().to_string()));
    drop(harness);
    Harness::open(directory.path()).expect("free again");
}

#[test]
fn a_log_is_not_created_over_another_and_not_opened_from_nothing() {
    let directory = tempfile::tempdir().expect("tempdir");
    let create = |path: &std::path::Path| Log::create(path, identity(), options(), Box::new(|| ()));
    assert!(matches!(Harness::open(directory.path()), Err(LogError::NotALog { .. })));
    let mut harness = Harness::create(directory.path());
    harness.append(1, 1, 1).expect("append");
    drop(harness);
    assert!(matches!(create(directory.path()), Err(LogError::AlreadyExists { .. })));
    std::fs::remove_file(directory.path().join("META")).expect("remove");
    assert!(matches!(create(directory.path()), Err(LogError::MetaMissing { .. })));
    let path = directory.path().join("other");
    let small = Options { segment_bytes: 100, ..Options::default() };
    let refused = Log::create(&path, identity(), small, Box::new(|| ()));
    assert!(matches!(refused, Err(LogError::InvalidSegmentSize { .. })));
}

#[test]
fn a_payload_that_changed_on_its_way_is_never_written() {
    let directory = tempfile::tempdir().expect("tempdir");
    let mut harness = Harness::create(directory.path());
    harness.append(1, 2, 10).expect("append");
    let mut changed = entry(3, 1, 10);
    changed.payload_crc ^= 1;
    let error =
        harness.write(WriteRequest { entries: vec![changed], ..Default::default() }).expect_err("refused");
    assert!(matches!(error, LogError::PayloadChanged { index: 3, .. }), "{error}");
    drop(harness);
    let harness = Harness::open(directory.path()).expect("open");
    assert_eq!(harness.log.last_index(), 2);
}

#[test]
#[should_panic(expected = "term: 3, vote: Some(1)")]
fn a_second_vote_in_a_term_is_a_broken_invariant() {
    let directory = tempfile::tempdir().expect("tempdir");
    let mut harness = Harness::create(directory.path());
    harness.vote(3, None).expect("vote");
    harness.vote(3, Some(1)).expect("vote");
    let _ = harness.vote(3, Some(2));
}

#[derive(Clone, Debug)]
enum Action {
    Append { count: u64, bytes: usize, new_term: bool },
    Truncate { keep_percent: u64, count: u64 },
    Vote { vote: u64 },
    Purge { percent: u64 },
    Reopen,
    Crash,
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        6 => (1u64..20, 0usize..700, any::<bool>())
            .prop_map(|(count, bytes, new_term)| Action::Append { count, bytes, new_term }),
        1 => Just(Action::Append { count: 1, bytes: 40_000, new_term: false }),
        2 => (0u64..=100, 0u64..5).prop_map(|(keep_percent, count)| Action::Truncate { keep_percent, count }),
        1 => (1u64..9).prop_map(|vote| Action::Vote { vote }),
        2 => (0u64..=100).prop_map(|percent| Action::Purge { percent }),
        1 => Just(Action::Reopen),
        1 => Just(Action::Crash),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    /// Against a vector as the model: whatever is done, and wherever it is reopened or crashes, the log is the model.
    #[test]
    fn the_log_is_its_model(actions in prop::collection::vec(action(), 1..25)) {
        let root = fast_directory();
        let mut path = root.path().join("0");
        let mut harness = Harness::create(&path);
        let mut model: Vec<(u64, u64, usize)> = Vec::new();
        let mut hard_state = HardState { term: 1, vote: None };
        for (step, action) in actions.into_iter().enumerate() {
            match action {
                Action::Append { count, bytes, new_term } => {
                    if new_term {
                        hard_state = HardState { term: hard_state.term + 1, vote: None };
                    }
                    let first = model.len() as u64 + 1;
                    model.extend((first..first + count).map(|index| (index, hard_state.term, bytes)));
                    harness.append(hard_state.term, count, bytes).expect("append");
                }
                Action::Truncate { keep_percent, count } => {
                    hard_state = HardState { term: hard_state.term + 1, vote: None };
                    let first = harness.log.first_index();
                    let from = first + (model.len() as u64 + 1 - first) * keep_percent / 100;
                    model.truncate(from as usize - 1);
                    let added: Vec<_> = (from..from + count).map(|index| (index, hard_state.term, 9)).collect();
                    let entries = added.iter().map(|(index, term, bytes)| entry(*index, *term, *bytes)).collect();
                    model.extend(added);
                    let truncate_from = Some(from);
                    harness.write(WriteRequest { truncate_from, entries, ..Default::default() }).expect("write");
                }
                Action::Purge { percent } => {
                    let through = model.len() as u64 * percent / 100;
                    let first = harness.log.first_index();
                    harness.log.purge(through.max(first - 1));
                    let kept_first = harness.log.first_index();
                    prop_assert!(kept_first >= first && kept_first <= through.max(first - 1) + 1);
                }
                Action::Vote { vote } => hard_state = HardState { term: hard_state.term + 1, vote: Some(vote) },
                Action::Reopen => {
                    drop(harness);
                    harness = Harness::open(&path).expect("reopen");
                }
                Action::Crash => {
                    let image = root.path().join((step + 1).to_string());
                    crash_image(&path, &image);
                    path = image;
                    drop(harness);
                    harness = Harness::open(&path).expect("open crash image");
                }
            }
            harness.vote(hard_state.term, hard_state.vote).expect("vote");
            prop_assert_eq!(harness.log.hard_state(), hard_state);
            // A crash may come before a purge that was asked for.
            let first = harness.log.first_index() as usize;
            prop_assert_eq!(contents(&harness.log), model[first - 1..].to_vec());
            prop_assert_eq!(harness.log.last_index(), model.len() as u64);
        }
    }
}

/// A start that is killed while it rebuilds an index leaves half of one, which the next start makes anew.
#[test]
fn an_index_that_was_half_rebuilt_is_rebuilt() {
    let directory = tempfile::tempdir().expect("tempdir");
    let mut harness = Harness::create(directory.path());
    harness.append(1, 20, 100).expect("append");
    harness.close();
    let index = directory.path().join("0000000001.idx");
    std::fs::remove_file(&index).expect("there is one");
    std::fs::write(index.with_extension("idx.tmp"), b"half").expect("written");
    let harness = Harness::open(directory.path()).expect("open");
    let recovery = harness.recovery.as_ref().expect("recovered");
    assert_eq!((recovery.rebuilt_indexes.len(), recovery.leftovers.len()), (1, 1), "{recovery}");
    assert_eq!(harness.log.last_index(), 20);
    harness.close();
    let harness = Harness::open(directory.path()).expect("open");
    let recovery = harness.recovery.as_ref().expect("recovered");
    assert!(recovery.rebuilt_indexes.is_empty() && recovery.leftovers.is_empty(), "{recovery}");
}
