//! Snapshots on disk: kept, received, read in parts; and what crashes, failing calls and damage leave.

mod log_support;

use bytes::Bytes;
use crc_fast::CrcAlgorithm;
use log_support::power::{PowerDisk, Random};
use log_support::{fast_directory, HookedDisk};
use redisraft::log::disk::{Disk, Mode, SystemDisk};
use redisraft::snapshot::{About, Done, Draft, Id, Job, Opened, SnapshotError, Store};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

const CLUSTER: &str = "0123456789abcdef0123456789abcdef";

/// A dump that tells of its position, of more than one piece, with its own checksum.
fn dump(index: u64) -> Vec<u8> {
    let mut bytes = b"REDIS0010".to_vec();
    bytes.extend(format!("<{index}>").bytes().cycle().take((1 << 20) + 4321));
    let checksum = crc_fast::checksum(CrcAlgorithm::Crc64Redis, &bytes);
    bytes.extend(checksum.to_le_bytes());
    bytes
}

fn draft(index: u64) -> Draft {
    Draft { index, term: 3, members: Bytes::from_static(b"members"), used_ids: vec![1, 2] }
}

fn about(index: u64) -> About {
    let (bytes, Draft { term, members, used_ids, .. }) = (dump(index), draft(index));
    let id = Id { index, term, bytes: bytes.len() as u64, crc: crc32fast::hash(&bytes) };
    About { id, cluster_id: CLUSTER.to_string(), members, used_ids }
}

fn open_on(disk: Arc<dyn Disk>, directory: &Path) -> Result<(Store, Opened), SnapshotError> {
    Store::open(disk, directory, CLUSTER)
}

fn open(directory: &Path) -> (Store, Opened) {
    open_on(Arc::new(SystemDisk), directory).expect("open")
}

/// The server's file, in the log's own directory: the power disk knows no other.
fn source(disk: &dyn Disk, directory: &Path, index: u64) -> PathBuf {
    let path = directory.join("server.rdb");
    let file = disk.open(&path, Mode::CreateNew).expect("create");
    file.write_at(&dump(index), 0).expect("write");
    path
}

fn keep(store: &mut Store, source: PathBuf, index: u64) -> Result<About, SnapshotError> {
    match store.run(Job::Keep { source, draft: draft(index) }) {
        Some(Done::Kept { result }) => result,
        other => panic!("{other:?}"),
    }
}

fn keep_from(store: &mut Store, directory: &Path, index: u64) -> Result<About, SnapshotError> {
    keep(store, source(&SystemDisk, directory, index), index)
}

fn part(store: &mut Store, id: Id, offset: u64, bytes: &[u8]) -> Result<bool, SnapshotError> {
    match store.run(Job::Part { id, offset, bytes: Bytes::copy_from_slice(bytes) }) {
        Some(Done::Parted { result, .. }) => result,
        other => panic!("{other:?}"),
    }
}

fn read(store: &mut Store, id: Id, offset: u64, bytes: usize) -> Result<Bytes, SnapshotError> {
    match store.run(Job::Read { reader: 7, id, offset, bytes }) {
        Some(Done::Read { reader: 7, result, .. }) => result,
        other => panic!("{other:?}"),
    }
}

/// Receives the whole of snapshot `index`.
fn receive(store: &mut Store, index: u64) -> Result<bool, SnapshotError> {
    let about = about(index);
    let id = about.id;
    assert!(store.run(Job::Receive { about: Box::new(about) }).is_none());
    let (mut done, mut offset) = (false, 0);
    for bytes in dump(index).chunks(64 << 10) {
        done = part(store, id, offset, bytes)?;
        offset += bytes.len() as u64;
    }
    Ok(done)
}

fn files(directory: &Path) -> Vec<String> {
    let mut names = SystemDisk.list(directory).expect("list");
    names.sort();
    names
}

#[test]
fn a_kept_snapshot_is_the_newest_and_the_only_one_and_is_found_again() {
    let directory = fast_directory();
    let (mut store, opened) = open(directory.path());
    assert!(opened.intact.is_empty() && store.newest().is_none());
    for index in [5, 9] {
        assert_eq!(keep_from(&mut store, directory.path(), index).expect("keep"), about(index));
        assert_eq!(store.newest(), Some(&about(index)));
    }
    assert_eq!(files(directory.path()), ["snapshot-9-3.about", "snapshot-9-3.rdb"]);
    let (mut store, opened) = open(directory.path());
    assert_eq!(opened.intact, [about(9)]);
    assert!(opened.damaged.is_empty() && opened.leftovers.is_empty());
    let again = keep_from(&mut store, directory.path(), 9);
    assert!(matches!(again, Err(SnapshotError::Exists { index: 9, .. })), "{again:?}");
    assert_eq!(open(directory.path()).1.intact, [about(9)]);
}

#[test]
fn a_file_of_another_disk_is_copied() {
    let directory = fast_directory();
    let first = Mutex::new(true);
    let disk = HookedDisk::new(Box::new(move |_, name| {
        let crosses = name == "rename" && std::mem::take(&mut *first.lock().expect("first"));
        if crosses {
            Err(io::ErrorKind::CrossesDevices.into())
        } else {
            Ok(())
        }
    }));
    let (mut store, _) = open_on(disk, directory.path()).expect("open");
    keep_from(&mut store, directory.path(), 5).expect("keep");
    assert_eq!(files(directory.path()), ["snapshot-5-3.about", "snapshot-5-3.rdb"]);
    assert_eq!(open(directory.path()).1.intact, [about(5)]);
}

#[test]
fn what_is_no_dump_is_not_kept() {
    let directory = fast_directory();
    let (mut store, _) = open(directory.path());
    for content in [&b""[..], b"REDI", b"an error page of some proxy"] {
        let path = directory.path().join("server.rdb");
        std::fs::write(&path, content).expect("write");
        let kept = keep(&mut store, path, 5);
        assert!(matches!(kept, Err(SnapshotError::Dump { .. })), "{kept:?}");
        assert_eq!(files(directory.path()), [""; 0]);
    }
}

/// Else this node's own checksum would vouch for it, and the log be purged of what it holds.
#[test]
fn a_dump_that_was_damaged_before_it_is_taken_over_is_not_kept() {
    let directory = fast_directory();
    let (mut store, _) = open(directory.path());
    keep_from(&mut store, directory.path(), 5).expect("keep");
    let whole = dump(9);
    let flipped = |at: usize| whole.iter().enumerate().map(|(i, byte)| byte ^ u8::from(i == at)).collect();
    let cut = |length: usize| whole[..length].to_vec();
    let end = whole.len() - 1;
    for damaged in [flipped(20), flipped(1 << 20), flipped(end - 8), flipped(end), cut(end), cut(1 << 20)] {
        let path = directory.path().join("server.rdb");
        std::fs::write(&path, damaged).expect("write");
        let error = keep(&mut store, path, 9).expect_err("damaged").to_string();
        assert!(error.contains("expected checksum"), "{error}");
        assert_eq!(store.newest(), Some(&about(5)));
        assert_eq!(files(directory.path()), ["snapshot-5-3.about", "snapshot-5-3.rdb"]);
    }
    keep_from(&mut store, directory.path(), 9).expect("keep");
}

/// Makes every call fail once, for as long as there is one more.
fn with_each_call_failing(work: impl Fn(&mut Store, &Path) -> Result<(), SnapshotError>) {
    for n in 1.. {
        let directory = fast_directory();
        keep_from(&mut open(directory.path()).0, directory.path(), 5).expect("keep");
        let disk = HookedDisk::new(Box::new(move |call, _| {
            if call == n {
                Err(io::ErrorKind::StorageFull.into())
            } else {
                Ok(())
            }
        }));
        let Ok((mut store, _)) = open_on(disk.clone(), directory.path()) else { continue };
        let begun = disk.calls();
        let result = work(&mut store, directory.path());
        let newest = store.newest().expect("there is always one").id.index;
        assert_eq!(newest, if result.is_ok() { 9 } else { 5 }, "call {n}: {result:?}");
        let (mut after, opened) = open(directory.path());
        let found = opened.intact.first().unwrap_or_else(|| panic!("call {n}: {opened:?}")).id.index;
        assert!(found == newest || (found == 9 && result.is_err()), "call {n}: {found} after {result:?}");
        keep_from(&mut after, directory.path(), 12).expect("goes on");
        assert_eq!(files(directory.path()), ["snapshot-12-3.about", "snapshot-12-3.rdb"], "call {n}");
        if n > begun && disk.calls() < n {
            return;
        }
    }
}

#[test]
fn whichever_call_fails_while_keeping_the_old_snapshot_or_the_new_one_is_there() {
    with_each_call_failing(|store, directory| keep_from(store, directory, 9).map(drop));
}

#[test]
fn whichever_call_fails_while_receiving_the_old_snapshot_or_the_new_one_is_there() {
    with_each_call_failing(|store, _| receive(store, 9).map(|done| assert!(done)));
}

/// The power goes before each call in turn.
fn with_power_lost(work: impl Fn(&mut Store, &dyn Disk, &Path)) {
    let directory = fast_directory();
    let images = fast_directory();
    let power = Arc::new(PowerDisk::default());
    let (watched, images_path) = (power.clone(), images.path().to_path_buf());
    let random = Mutex::new(Random(0x9e37_79b9));
    let disk: Arc<dyn Disk> = HookedDisk::over(
        power.clone(),
        Box::new(move |call, _| {
            for variant in 0..3 {
                let image = images_path.join(format!("{call}-{variant}"));
                watched.lose_power(&mut random.lock().expect("random"), &image);
            }
            Ok(())
        }),
    );
    let (mut store, _) = open_on(disk.clone(), directory.path()).expect("open");
    let file = source(power.as_ref(), directory.path(), 5);
    keep(&mut store, file, 5).expect("keep");
    let kept = std::fs::read_dir(images.path()).expect("list").count();
    work(&mut store, power.as_ref(), directory.path());
    let (mut old, mut new) = (0, 0);
    let all: Vec<_> = std::fs::read_dir(images.path()).expect("list").collect();
    for image in all.into_iter().map(|image| image.expect("list").path()) {
        let name = image.file_name().expect("a name").to_string_lossy().into_owned();
        let call: usize = name.split('-').next().and_then(|n| n.parse().ok()).expect("a number");
        let (_, opened) = open(&image);
        assert!(opened.damaged.is_empty(), "{name}: {:?}", opened.damaged);
        let found = opened.intact.first().map(|about| about.id.index);
        assert!(found.is_some() || call * 3 <= kept, "{name}: no snapshot after {opened:?}");
        old += usize::from(found == Some(5));
        new += usize::from(found == Some(9));
    }
    assert!(old > 5 && new > 2, "{old} images with the old snapshot, {new} with the new one");
}

#[test]
fn a_loss_of_power_while_keeping_leaves_the_old_snapshot_or_the_new_one() {
    with_power_lost(|store, disk, directory| {
        let file = source(disk, directory, 9);
        drop(keep(store, file, 9).expect("keep"));
    });
}

#[test]
fn a_loss_of_power_while_receiving_leaves_the_old_snapshot_or_the_new_one() {
    with_power_lost(|store, _, _| assert!(receive(store, 9).expect("receive")));
}

#[test]
fn half_made_files_are_removed_at_start() {
    let directory = fast_directory();
    keep_from(&mut open(directory.path()).0, directory.path(), 5).expect("keep");
    for (name, content) in [
        ("snapshot-9-3.rdb", &b""[..]),
        ("snapshot-8-3.rdb", b"REDIS0010 all of it"),
        ("snapshot-9-3.rdb.tmp", b"REDIS"),
        ("snapshot-9-3.about.tmp", b""),
    ] {
        std::fs::write(directory.path().join(name), content).expect("write");
    }
    let (_, opened) = open(directory.path());
    assert_eq!(opened.leftovers.len(), 4, "{opened:?}");
    assert_eq!(opened.intact, [about(5)]);
    assert_eq!(files(directory.path()), ["snapshot-5-3.about", "snapshot-5-3.rdb"]);
}

#[test]
fn a_damaged_snapshot_is_named_and_the_older_one_is_found() {
    let (older, directory) = (fast_directory(), fast_directory());
    keep_from(&mut open(older.path()).0, older.path(), 5).expect("keep");
    keep_from(&mut open(directory.path()).0, directory.path(), 9).expect("keep");
    for name in files(older.path()) {
        std::fs::copy(older.path().join(&name), directory.path().join(&name)).expect("copy");
    }
    for (name, at) in [("snapshot-9-3.rdb", 1 << 20), ("snapshot-9-3.about", 50)] {
        let path = directory.path().join(name);
        let good = std::fs::read(&path).expect("read");
        let mut bad = good.clone();
        bad[at] ^= 1;
        for content in [&bad[..], &good[..at], b""] {
            std::fs::write(&path, content).expect("write");
            let (store, opened) = open(directory.path());
            assert_eq!((store.newest(), &opened.intact[..]), (Some(&about(5)), &[about(5)][..]));
            let message = opened.damaged[0].to_string();
            assert!(message.contains(name) && message.contains("restore"), "{message}");
        }
        std::fs::write(&path, good).expect("write");
    }
    std::fs::remove_file(directory.path().join("snapshot-9-3.rdb")).expect("remove");
    let (_, opened) = open(directory.path());
    assert_eq!((opened.intact, opened.damaged.len()), (vec![about(5)], 1), "an RDB that went is damage");
}

#[test]
fn what_nothing_could_replace_is_read_once_and_a_start_that_does_not_get_through_reads_it_first() {
    let open_unread =
        |directory: &Path| Store::open_unread(Arc::new(SystemDisk), directory, CLUSTER).expect("open");
    let directory = fast_directory();
    keep_from(&mut open(directory.path()).0, directory.path(), 9).expect("keep");
    let path = directory.path().join("snapshot-9-3.rdb");
    let mut bytes = std::fs::read(&path).expect("read");
    bytes[1 << 20] ^= 1;
    std::fs::write(&path, &bytes).expect("write");
    assert_eq!(open_unread(directory.path()).1.intact, [about(9)], "it is taken for intact");
    for _ in 0..2 {
        let (store, opened) = open_unread(directory.path());
        assert_eq!((store.newest(), opened.damaged.len()), (None, 1), "nobody has said that it was");
    }
    bytes[1 << 20] ^= 1;
    std::fs::write(&path, &bytes).expect("write");
    let (mut store, _) = open_unread(directory.path());
    assert_eq!(store.newest(), Some(&about(9)));
    for end in ["loaded", "replaced"] {
        drop(open_unread(directory.path()));
        assert!(files(directory.path()).contains(&"snapshot-unread".to_string()), "{end}");
        match end {
            "loaded" => assert!(store.run(Job::Proven).is_none()),
            _ => drop(keep_from(&mut store, directory.path(), 12).expect("keep")),
        }
        assert_eq!(files(directory.path()).len(), 2, "{end}");
    }
}

#[test]
fn of_two_snapshots_the_newer_is_read_before_the_older_is_passed_over() {
    let (older, directory) = (fast_directory(), fast_directory());
    keep_from(&mut open(older.path()).0, older.path(), 5).expect("keep");
    keep_from(&mut open(directory.path()).0, directory.path(), 9).expect("keep");
    for name in files(older.path()) {
        std::fs::copy(older.path().join(&name), directory.path().join(&name)).expect("copy");
    }
    let path = directory.path().join("snapshot-9-3.rdb");
    let mut bytes = std::fs::read(&path).expect("read");
    bytes[1 << 20] ^= 1;
    std::fs::write(&path, &bytes).expect("write");
    let (store, opened) = Store::open_unread(Arc::new(SystemDisk), directory.path(), CLUSTER).expect("open");
    assert_eq!((store.newest(), opened.damaged.len()), (Some(&about(5)), 1));
}

#[test]
fn another_clusters_snapshot_is_not_taken() {
    let directory = fast_directory();
    keep_from(&mut open(directory.path()).0, directory.path(), 5).expect("keep");
    let (store, opened) = Store::open(Arc::new(SystemDisk), directory.path(), &"x".repeat(32)).expect("open");
    assert!(store.newest().is_none());
    assert!(matches!(opened.damaged[..], [SnapshotError::Foreign { .. }]), "{opened:?}");
}

#[test]
fn a_snapshot_is_received_part_by_part_in_order() {
    let directory = fast_directory();
    let (mut store, _) = open(directory.path());
    let (wanted, bytes) = (about(9), dump(9));
    let id = wanted.id;
    store.run(Job::Receive { about: Box::new(wanted.clone()) });
    assert!(!part(&mut store, id, 0, &bytes[..1000]).expect("part"));
    let early = part(&mut store, id, 2000, &bytes[2000..3000]);
    assert!(matches!(early, Err(SnapshotError::OutOfOrder { expected: 1000, found: 2000 })), "{early:?}");
    assert!(!part(&mut store, id, 0, &bytes[..1000]).expect("again"), "a part that came before is no harm");
    assert!(matches!(part(&mut store, about(8).id, 1000, b"x"), Err(SnapshotError::Gone { index: 8, .. })));
    assert!(part(&mut store, id, 1000, &[&bytes[1000..], b"too much"].concat()).is_err());
    assert!(part(&mut store, id, 1000, &bytes[1000..]).expect("the rest"));
    assert_eq!(store.newest(), Some(&wanted));
    assert_eq!(open(directory.path()).1.intact, [wanted]);
}

#[test]
fn a_snapshot_with_a_wrong_checksum_is_dropped_and_can_be_sent_again() {
    let directory = fast_directory();
    let (mut store, _) = open(directory.path());
    keep_from(&mut store, directory.path(), 5).expect("keep");
    let mut bytes = dump(9);
    bytes[70_000] ^= 1;
    store.run(Job::Receive { about: Box::new(about(9)) });
    let result = part(&mut store, about(9).id, 0, &bytes);
    assert!(matches!(result, Err(SnapshotError::Received { .. })), "{result:?}");
    assert_eq!(store.newest(), Some(&about(5)));
    assert_eq!(files(directory.path()), ["snapshot-5-3.about", "snapshot-5-3.rdb"]);
    assert!(receive(&mut store, 9).expect("again"));
}

#[test]
fn a_newer_offer_replaces_what_was_being_received() {
    let directory = fast_directory();
    let (mut store, _) = open(directory.path());
    store.run(Job::Receive { about: Box::new(about(9)) });
    assert!(!part(&mut store, about(9).id, 0, &dump(9)[..5000]).expect("part"));
    assert!(receive(&mut store, 12).expect("receive"));
    store.run(Job::Receive { about: Box::new(about(15)) });
    assert!(!part(&mut store, about(15).id, 0, &dump(15)[..5000]).expect("part"));
    assert!(store.run(Job::StopReceiving).is_none());
    assert_eq!(files(directory.path()), ["snapshot-12-3.about", "snapshot-12-3.rdb"]);
}

#[test]
fn parts_are_read_also_of_a_snapshot_that_was_just_replaced() {
    let directory = fast_directory();
    let (mut store, _) = open(directory.path());
    keep_from(&mut store, directory.path(), 5).expect("keep");
    let old = about(5).id;
    assert_eq!(read(&mut store, old, 3, 100).expect("read"), &dump(5)[3..103]);
    keep_from(&mut store, directory.path(), 9).expect("keep");
    assert!(read(&mut store, about(9).id, old.bytes + 50, 100).expect("read").is_empty());
    assert!(matches!(read(&mut store, old, 0, 1), Err(SnapshotError::Gone { index: 5, .. })), "it went on");
}

#[test]
fn a_replaced_snapshot_can_be_read_to_its_end_until_there_is_one_more() {
    let directory = fast_directory();
    let (mut store, _) = open(directory.path());
    let is_gone =
        |store: &mut Store, id: Id| matches!(read(store, id, 0, 1), Err(SnapshotError::Gone { .. }));
    keep_from(&mut store, directory.path(), 5).expect("keep");
    let old = about(5).id;
    read(&mut store, old, 0, 100).expect("read");
    keep_from(&mut store, directory.path(), 9).expect("keep");
    let end = read(&mut store, old, old.bytes - 10, 100).expect("read");
    assert_eq!(end, &dump(5)[old.bytes as usize - 10..]);
    assert!(is_gone(&mut store, old), "its only reader was done");
    read(&mut store, about(9).id, 0, 100).expect("read");
    keep_from(&mut store, directory.path(), 12).expect("keep");
    read(&mut store, about(9).id, 100, 100).expect("read");
    keep_from(&mut store, directory.path(), 15).expect("keep");
    assert!(is_gone(&mut store, about(9).id), "two have come since");
}

/// Replaced, and the space of its file given back, as far as the store does that: the length that is left.
fn left_of_replaced(seen_by: impl FnOnce(&Path) -> Option<PathBuf>) -> u64 {
    let directory = fast_directory();
    let (mut store, _) = open(directory.path());
    let mut big = dump(5);
    big.resize(9 << 20, 0);
    std::fs::write(directory.path().join("server.rdb"), &big).expect("write");
    let about = keep(&mut store, directory.path().join("server.rdb"), 5).expect("keep");
    let name = directory.path().join(about.file_name());
    let other_name = seen_by(&name);
    let watcher = other_name.is_none().then(|| std::fs::File::open(&name).expect("open"));
    keep_from(&mut store, directory.path(), 9).expect("keep");
    assert!(!name.exists() && !store.is_tidy());
    for _ in 0..100 {
        store.tidy();
    }
    assert!(store.is_tidy());
    match (other_name, watcher) {
        (Some(other), _) => std::fs::metadata(other).expect("there").len(),
        (None, watcher) => watcher.expect("open").metadata().expect("there").len(),
    }
}

#[test]
fn a_removed_snapshot_that_somebody_copies_or_has_linked_is_not_cut() {
    assert_eq!(left_of_replaced(|_| None), 9 << 20);
    let elsewhere = fast_directory();
    let link = elsewhere.path().join("copy.rdb");
    let linked = |name: &Path| {
        std::fs::hard_link(name, &link).expect("link");
        Some(link.clone())
    };
    assert_eq!(left_of_replaced(linked), 9 << 20);
}

#[test]
fn a_removed_snapshot_gives_its_space_back_in_steps() {
    let directory = fast_directory();
    let cuts = Arc::new(Mutex::new(0));
    let counted = cuts.clone();
    let disk = HookedDisk::new(Box::new(move |_, name| {
        *counted.lock().expect("cuts") += usize::from(name == "give_back");
        Ok(())
    }));
    let (mut store, _) = open_on(disk, directory.path()).expect("open");
    let mut big = dump(5);
    big.resize(9 << 20, 0);
    std::fs::write(directory.path().join("server.rdb"), &big).expect("write");
    keep(&mut store, directory.path().join("server.rdb"), 5).expect("keep");
    keep_from(&mut store, directory.path(), 9).expect("keep");
    assert_eq!(*cuts.lock().expect("cuts"), 0, "not before it is asked for");
    while !store.is_tidy() {
        store.tidy();
    }
    assert_eq!(*cuts.lock().expect("cuts"), 2, "to 5 MiB and to one; the rest goes with the file");
}

#[test]
fn an_older_dump_does_not_take_the_place_of_a_newer_one() {
    let directory = fast_directory();
    let (mut store, _) = open(directory.path());
    assert!(receive(&mut store, 9).expect("receive"));
    let older = keep_from(&mut store, directory.path(), 5);
    assert!(matches!(older, Err(SnapshotError::Older { index: 5, newest: 9 })), "{older:?}");
    let older = receive(&mut store, 5);
    assert!(matches!(older, Err(SnapshotError::Older { index: 5, newest: 9 })), "{older:?}");
    assert_eq!(store.newest(), Some(&about(9)));
    assert_eq!(files(directory.path()), ["snapshot-9-3.about", "snapshot-9-3.rdb"]);
}

#[test]
fn a_damaged_pair_is_replaced_by_one_of_the_same_entry() {
    for received in [false, true] {
        let directory = fast_directory();
        keep_from(&mut open(directory.path()).0, directory.path(), 9).expect("keep");
        std::fs::write(directory.path().join("snapshot-9-3.rdb"), b"REDIS").expect("write");
        let (mut store, opened) = open(directory.path());
        assert_eq!((store.newest(), opened.damaged.len()), (None, 1));
        match received {
            true => assert!(receive(&mut store, 9).expect("receive")),
            false => drop(keep_from(&mut store, directory.path(), 9).expect("keep")),
        }
        assert_eq!(open(directory.path()).1.intact, [about(9)]);
    }
}

#[test]
fn a_survey_changes_nothing_and_says_what_a_start_would_find() {
    use redisraft::snapshot::{survey, Depth};
    let directory = fast_directory();
    keep_from(&mut open(directory.path()).0, directory.path(), 9).expect("keep");
    std::fs::write(directory.path().join("snapshot-12-3.rdb.tmp"), b"REDIS").expect("write");
    let look = |depth| survey(&SystemDisk, directory.path(), CLUSTER, depth).expect("survey");
    assert!(matches!(&look(Depth::Checksum)[..], [Ok(found)] if *found == about(9)));
    let path = directory.path().join("snapshot-9-3.rdb");
    let mut bytes = std::fs::read(&path).expect("read");
    bytes[100] ^= 1;
    std::fs::write(&path, &bytes).expect("write");
    assert!(matches!(&look(Depth::Length)[..], [Ok(_)]));
    assert!(matches!(&look(Depth::Checksum)[..], [Err(SnapshotError::Damaged { .. })]));
    std::fs::write(&path, &bytes[..100]).expect("write");
    assert!(matches!(&look(Depth::Length)[..], [Err(SnapshotError::Damaged { offset: 100, .. })]));
    assert_eq!(files(directory.path()).len(), 3);
}

#[test]
fn a_dump_that_rots_while_it_is_the_newest_is_found_by_a_check() {
    let directory = fast_directory();
    let (mut store, _) = open(directory.path());
    keep_from(&mut store, directory.path(), 5).expect("keep");
    let id = about(5).id;
    let check = |store: &mut Store| match store.run(Job::Check { id }) {
        Some(Done::Checked { result, .. }) => result,
        other => panic!("{other:?}"),
    };
    check(&mut store).expect("intact");
    let path = directory.path().join("snapshot-5-3.rdb");
    let mut bytes = std::fs::read(&path).expect("read");
    bytes[1000] ^= 1;
    std::fs::write(&path, bytes).expect("write");
    assert!(matches!(check(&mut store), Err(SnapshotError::Damaged { .. })));
}
