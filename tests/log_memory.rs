//! The log and the snapshots on a disk that is memory: the same code, and nothing on the system's disk.

mod log_support;

use std::path::Path;
use std::sync::Arc;

use log_support::*;
use redisraft::log::disk::{Disk, Mode};
use redisraft::log::memory::MemoryDisk;
use redisraft::log::replace;
use redisraft::snapshot::{Done, Draft, Job, Store};

fn names(disk: &dyn Disk, path: &Path) -> Vec<String> {
    let mut names = disk.list(path).expect("list");
    names.sort();
    names
}

/// As a server with `rdbchecksum no` writes it.
const DUMP: &[u8] = b"REDIS0010 a dump\0\0\0\0\0\0\0\0";

#[test]
fn a_log_is_written_purged_replaced_and_opened_again() {
    let root = tempfile::tempdir().expect("tempdir");
    let path = root.path().join("log");
    let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::new(&path));
    let mut harness = Harness::create_on(disk.clone(), &path).expect("create");
    harness.append(1, 30, 900).expect("append");
    harness.vote(2, Some(3)).expect("vote");
    harness.log.purge(20);
    harness.append(2, 5, 900).expect("append");
    let before = contents(&harness.log);
    assert!(harness.log.first_index() > 1);
    harness.close();
    let harness = Harness::open_on(disk.clone(), &path).expect("open");
    assert_eq!(contents(&harness.log), before);
    assert_eq!((harness.log.hard_state().term, harness.log.hard_state().vote), (2, Some(3)));
    harness.close();
    replace(disk.as_ref(), &path, (40, 2), SEGMENT_BYTES).expect("replace");
    let mut harness = Harness::open_on(disk.clone(), &path).expect("open");
    assert_eq!((harness.log.base(), harness.log.last_index()), ((40, 2), 40));
    harness.append(3, 1, 9000).expect("larger than a segment");
    harness.close();
    assert!(!path.exists(), "nothing is made on the system's disk");
    assert_eq!(std::fs::read_dir(root.path()).expect("list").count(), 0);
    let other = MemoryDisk::new(&path);
    assert!(!other.exists(&path.join("META")), "another process sees nothing of it");
}

#[test]
fn a_dump_is_taken_over_from_the_system_s_disk() {
    let root = tempfile::tempdir().expect("tempdir");
    let path = root.path().join("log");
    let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::new(&path));
    let (mut store, _) = Store::open(disk.clone(), &path, &identity().cluster_id).expect("store");
    for index in [7, 8] {
        let source = root.path().join("server.rdb");
        std::fs::write(&source, DUMP).expect("write");
        let draft = Draft { index, term: 2, members: Default::default(), used_ids: vec![1] };
        let done = store.run(Job::Keep { source: source.clone(), draft });
        let Some(Done::Kept { result: Ok(about) }) = done else { panic!("{done:?}") };
        assert!(!source.exists(), "moved");
        let read = store.run(Job::Read { reader: 1, id: about.id, offset: 0, bytes: 100 });
        let Some(Done::Read { result: Ok(bytes), .. }) = read else { panic!("{read:?}") };
        assert_eq!(&bytes[..], DUMP);
    }
    assert_eq!(
        names(disk.as_ref(), &path),
        ["snapshot-8-2.about", "snapshot-8-2.rdb"],
        "the older one is gone"
    );
    let (store, opened) = Store::open(disk, &path, &identity().cluster_id).expect("store");
    assert_eq!((store.newest().map(|about| about.id.index), opened.damaged.len()), (Some(8), 0));
}

#[test]
fn names_behave_as_on_a_disk() {
    let root = tempfile::tempdir().expect("tempdir");
    let path = root.path().join("log");
    let disk = MemoryDisk::new(&path);
    let kind = |result: std::io::Result<()>| result.expect_err("refused").kind();
    let open = |name: &str, mode| disk.open(&path.join(name), mode).map(drop);
    open("a", Mode::CreateNew).expect("create");
    assert_eq!(kind(open("a", Mode::CreateNew)), std::io::ErrorKind::AlreadyExists);
    assert_eq!(kind(open("b", Mode::Read)), std::io::ErrorKind::NotFound);
    assert_eq!(kind(disk.remove(&path.join("b"))), std::io::ErrorKind::NotFound);
    assert_eq!(kind(disk.rename(&path.join("b"), &path.join("c"))), std::io::ErrorKind::NotFound);
    let file = disk.open(&path.join("a"), Mode::Write).expect("open");
    file.write_at(b"bytes", 2).expect("write");
    assert!(file.read_at(&mut [0; 8], 0).is_err(), "reads are whole or an error");
    let outside = root.path().join("outside");
    assert_eq!(kind(disk.rename(&path.join("a"), &outside)), std::io::ErrorKind::CrossesDevices);
    disk.rename(&path.join("a"), &path.join("b")).expect("rename");
    disk.remove(&path.join("b")).expect("remove");
    let mut bytes = [0; 7];
    file.read_at(&mut bytes, 0).expect("a file without a name can be read while it is open");
    assert_eq!(&bytes, b"\0\0bytes");
    disk.open(&outside, Mode::CreateNew).expect("create");
    assert!(outside.exists() && disk.exists(&outside), "what is elsewhere is the system's");
    assert!(disk.list(&path).expect("list").is_empty());
}
