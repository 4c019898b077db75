//! Recovery of a cluster from the log of one node: what is taken over, what is said of it, and that whatever call fails
//! and wherever a crash comes, the old log is there or the new one.

mod log_support;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use log_support::*;
use redisraft::log::disk::{Disk, SystemDisk};
use redisraft::log::{Entry, HardState, Identity, Kind, Log, LogError, Options, WriteRequest};
use redisraft::node::members::{Member, Members};
use redisraft::recover::{self, Beginning, Found, RecoverError, Recovered};
use redisraft::snapshot::{Done, Draft, Job, Store};

const NEW_CLUSTER: &str = "ffffffffffffffffffffffffffffffff";
const NEW_SECRET: [u8; 32] = [3; 32];
const DUMP_BYTES: usize = 10_000;

fn system() -> Arc<dyn Disk> {
    Arc::new(SystemDisk)
}

fn member(port: u16, voting: bool) -> Member {
    let (address, peer_address) = (format!("h:{port}"), format!("h:{}", port + 10000));
    Member { voting, address, peer_address, in_memory: false }
}

fn members(ids: &[u64]) -> Members {
    Members(ids.iter().map(|id| (*id, member(1000 + *id as u16, true))).collect())
}

/// A log under test, written entry by entry.
struct Node {
    harness: Harness,
    path: PathBuf,
}

impl Node {
    fn create(path: &Path) -> Node {
        Node { harness: Harness::create(path), path: path.to_path_buf() }
    }

    fn put(&mut self, term: u64, kind: Kind, payload: impl Into<Bytes>) -> u64 {
        let index = self.harness.log.last_index() + 1;
        let entries = vec![Entry::new(index, term, kind, payload.into())];
        self.harness.write(WriteRequest { entries, ..Default::default() }).expect("write");
        index
    }

    fn put_members(&mut self, term: u64, ids: &[u64]) -> u64 {
        self.put(term, Kind::Membership, members(ids).encode())
    }

    fn no_op(&mut self, term: u64) -> u64 {
        self.put(term, Kind::NoOp, Bytes::new())
    }

    fn some(&mut self, term: u64, count: u64) -> u64 {
        let mut last = 0;
        for number in 0..count {
            last = self.put(term, Kind::Normal, payload(number, term, 900));
        }
        last
    }

    fn truncate(&mut self, from: u64) {
        let truncate_from = Some(from);
        self.harness.write(WriteRequest { truncate_from, ..Default::default() }).expect("write");
    }

    /// A snapshot of entry `index`, and the log purged of what it can be.
    fn compact(&mut self, index: u64, term: u64, ids: &[u64]) {
        self.compact_into(index, term, ids, DUMP_BYTES);
    }

    fn compact_into(&mut self, index: u64, term: u64, ids: &[u64], dump_bytes: usize) {
        let (mut store, _) = Store::open(system(), &self.path, &identity().cluster_id).expect("store");
        let source = self.path.join("server.rdb");
        std::fs::write(&source, dump(dump_bytes)).expect("write");
        let members = members(ids).encode().into();
        let draft = Draft { index, term, members, used_ids: vec![7, 8, 9, 77] };
        let done = store.run(Job::Keep { source, draft });
        assert!(matches!(done, Some(Done::Kept { result: Ok(_) })), "{done:?}");
        self.harness.log.purge(index.min(self.harness.log.last_index()));
        // The purge is done with the next write at the latest.
        self.harness.vote(self.harness.log.hard_state().term + 1, None).expect("vote");
    }

    fn close(self) {
        self.harness.close();
    }
}

/// As a server with `rdbchecksum no` writes it: zeros at its end.
fn dump(bytes: usize) -> Vec<u8> {
    let head = b"REDIS0010";
    let rest = b"dataset".iter().cycle();
    head.iter().chain(rest).copied().take(bytes - 8).chain([0; 8]).collect()
}

/// A log of several segments with a truncation, a snapshot and an end that nobody knows to be committed: index of the
/// last entry known to be committed, and of the last one.
fn old_log(path: &Path) -> (u64, u64) {
    let mut node = Node::create(path);
    node.put_members(1, &[7]);
    node.no_op(2);
    node.put_members(2, &[7, 8]);
    node.put_members(2, &[7, 8, 9]);
    node.some(2, 20);
    node.compact(18, 2, &[7, 8, 9]);
    node.some(2, 3);
    let replaced = node.no_op(4);
    node.truncate(replaced);
    let committed = node.no_op(6);
    let last = node.some(6, 5);
    node.harness.vote(9, Some(8)).expect("vote");
    assert!(node.harness.log.first_index() > 1, "the log was purged");
    node.close();
    (committed, last)
}

fn identity_of(found: &Found) -> Identity {
    Identity { cluster_id: NEW_CLUSTER.into(), node_id: found.node_id, secret: NEW_SECRET }
}

fn recover_on(disk: &Arc<dyn Disk>, path: &Path, ids: &[u64]) -> Result<Recovered, RecoverError> {
    let found = recover::examine(disk, path)?;
    let (identity, term) = (identity_of(&found), found.next_term());
    let beginning = Beginning { identity, members: members(ids), term, options: options() };
    recover::recover(disk, path, &found, &beginning, None)
}

/// All of a log but the membership that a recovery adds: index, term, kind, payload.
type Entries = Vec<(u64, u64, Kind, Bytes)>;

fn entries(log: &Log) -> Entries {
    let read = |index| log.read(index).expect("readable");
    (log.first_index()..=log.last_index())
        .map(|index| (index, read(index).term, read(index).kind, read(index).payload))
        .collect()
}

fn open(path: &Path) -> Harness {
    Harness::open(path).unwrap_or_else(|error| panic!("{error}"))
}

/// The directory must be one of the new cluster, with all that `old` has.
fn assert_recovered(path: &Path, node_id: u64, ids: &[u64], old: &Entries, what: &str) {
    let harness = open(path);
    let log = &harness.log;
    let identity = log.identity();
    assert_eq!((identity.cluster_id.as_str(), identity.node_id), (NEW_CLUSTER, node_id), "{what}");
    assert!(identity.secret == NEW_SECRET && log.is_trusted(), "{what}");
    assert!(harness.recovery.as_ref().is_some_and(|found| found.torn.is_none()));
    let mut found = entries(log);
    let added = found.pop().expect("the membership");
    let before = old.last().expect("entries");
    assert_eq!(&found, old, "{what}");
    assert_eq!((added.0, added.2), (before.0 + 1, Kind::Membership), "{what}");
    assert_eq!(Members::decode(&added.3), Ok(members(ids)), "{what}");
    assert_eq!(log.hard_state(), HardState { term: added.1, vote: None }, "{what}");
    assert_eq!(added.1, 10, "above the term of META and of the last entry");
    let (store, opened) = Store::open(system(), path, NEW_CLUSTER).expect("store");
    assert!(opened.damaged.is_empty());
    let about = store.newest().expect("the snapshot");
    assert_eq!((about.id.index, about.used_ids.as_slice()), (18, &[7, 8, 9, 77][..]));
    assert!(std::fs::read(path.join(about.file_name())).expect("read") == dump(DUMP_BYTES), "{what}");
}

#[test]
fn one_node_goes_on_with_all_that_it_has() {
    let root = fast_directory();
    let path = root.path().join("log");
    let (committed, last) = old_log(&path);
    let old = entries(&open(&path).log);
    let before = snapshot(&path);
    let found = recover::examine(&system(), &path).expect("examine");
    assert_eq!((found.committed, found.last), (committed, (last, 6)));
    assert_eq!((found.node_id, found.hard_state.term, found.next_term()), (7, 9, 10));
    assert_eq!(found.members, members(&[7, 8, 9]));
    assert_eq!(found.used_ids, [7, 8, 9, 77].into());
    assert_eq!(found.snapshot.as_ref().map(|about| about.id.index), Some(18));
    assert!(snapshot(&path) == before, "looking changes nothing");
    let Recovered { kept, others } = recover_on(&system(), &path, &[7]).expect("recover");
    assert_eq!(others, []);
    assert_recovered(&path, 7, &[7], &old, "DIR");
    let kept = kept.expect("kept");
    let kept_bytes: Vec<Vec<u8>> = snapshot(&kept).into_iter().map(|file| file.1).collect();
    assert!(kept_bytes.into_iter().eq(before.into_iter().map(|file| file.1)), "kept as it was");
    assert_eq!(std::fs::read_dir(root.path()).expect("list").count(), 2, "nothing else is left");
    // What was recovered can be recovered once more.
    let found = recover::examine(&system(), &path).expect("examine");
    assert_eq!((found.last, found.members), ((last + 1, 10), members(&[7])));
}

#[test]
fn every_member_gets_the_same_log() {
    let root = fast_directory();
    let path = root.path().join("log");
    old_log(&path);
    let old = entries(&open(&path).log);
    let ids = [7, 21, 22];
    let Recovered { others, .. } = recover_on(&system(), &path, &ids).expect("recover");
    let made = root.path().join("log.recovered");
    assert_eq!(others, [21, 22].map(|id| (id, made.join(format!("member-{id}")))));
    assert_recovered(&path, 7, &ids, &old, "DIR");
    for (id, other) in others {
        assert_recovered(&other, id, &ids, &old, "another member");
    }
    // What an earlier recovery has made for others is not overwritten.
    let error = recover_on(&system(), &path, &[7]).expect_err("in the way");
    assert!(matches!(error, RecoverError::InTheWay { path } if path == made));
}

/// What is known to be committed, of logs that end in different ways.
#[test]
fn only_what_is_known_is_called_committed() {
    type Write = fn(&mut Node) -> u64;
    let cases: [(&str, Write); 8] = [
        ("nothing", |node| {
            node.put_members(1, &[7, 8]);
            node.no_op(2);
            0
        }),
        ("a leader that takes commands has committed its first entry", |node| {
            node.put_members(1, &[7, 8]);
            let first = node.no_op(2);
            node.some(2, 4);
            first
        }),
        ("a leader that has taken none may not have", |node| {
            node.put_members(1, &[7, 8]);
            let first = node.no_op(2);
            node.some(2, 4);
            node.no_op(3);
            first
        }),
        ("a membership is proposed by such a leader, too", |node| {
            node.put_members(1, &[7]);
            node.some(1, 3);
            let first = node.no_op(2);
            node.put_members(2, &[7, 8]);
            first
        }),
        ("what was truncated proves nothing", |node| {
            node.put_members(1, &[7, 8]);
            let first = node.no_op(2);
            node.some(2, 4);
            let replaced = node.no_op(3);
            node.some(3, 2);
            node.truncate(replaced + 1);
            first
        }),
        ("nor does what came before it", |node| {
            node.put_members(1, &[7, 8]);
            let first = node.no_op(2);
            node.some(2, 2);
            node.truncate(first + 1);
            node.no_op(3);
            0
        }),
        ("a snapshot holds what is committed", |node| {
            node.put_members(1, &[7, 8]);
            node.no_op(2);
            let last = node.some(2, 30);
            node.compact(last - 3, 2, &[7, 8]);
            last - 3
        }),
        ("a log that begins in the middle of a term", |node| {
            node.put_members(1, &[7, 8]);
            node.no_op(2);
            let last = node.some(2, 30);
            node.compact(last, 2, &[7, 8]);
            node.some(2, 3);
            last
        }),
    ];
    for (what, write) in cases {
        let root = fast_directory();
        let path = root.path().join("log");
        let mut node = Node::create(&path);
        let committed = write(&mut node);
        node.close();
        let found = recover::examine(&system(), &path).expect("examine");
        assert_eq!(found.committed, committed, "{what}");
    }
}

#[test]
fn a_snapshot_that_the_log_does_not_reach_counts_alone() {
    for term in [2, 5] {
        let root = fast_directory();
        let path = root.path().join("log");
        let mut node = Node::create(&path);
        node.put_members(1, &[7, 8]);
        node.no_op(2);
        let last = node.some(2, 3);
        // Further than the log, or of another term at the same entry: an installation that was interrupted.
        let index = if term == 2 { last + 5 } else { last };
        node.compact(index, term, &[7, 9]);
        node.close();
        let found = recover::examine(&system(), &path).expect("examine");
        assert_eq!((found.base, found.last, found.committed), ((index, term), (index, term), index));
        assert!(found.snapshot_alone && found.members == members(&[7, 9]));
        recover_on(&system(), &path, &[7]).expect("recover");
        let harness = open(&path);
        assert_eq!((harness.log.base(), harness.log.last_index()), ((index, term), index + 1));
    }
}

#[test]
fn damage_is_named_and_nothing_is_made() {
    let root = fast_directory();
    let whole = root.path().join("whole");
    old_log(&whole);
    let names: Vec<String> = snapshot(&whole)
        .iter()
        .map(|(path, _)| path.file_name().expect("a name").to_string_lossy().into_owned())
        .collect();
    let flip = |name: &str, at: usize| {
        let path = root.path().join("log");
        let _ = std::fs::remove_dir_all(&path);
        crash_image(&whole, &path);
        let file = path.join(name);
        let mut bytes = std::fs::read(&file).expect("read");
        bytes[at] ^= 0x40;
        std::fs::write(file, bytes).expect("write");
        let before = snapshot(&path);
        let seen = recover::examine(&system(), &path);
        let result = recover_on(&system(), &path, &[7]);
        assert_eq!(seen.is_ok(), result.is_ok(), "a dry run sees it, too");
        assert!(result.is_ok() || snapshot(&path) == before, "{name} at {at}");
        result
    };
    let segments: Vec<&String> = names.iter().filter(|name| name.ends_with(".log")).collect();
    assert!(segments.len() >= 3, "{names:?}");
    // The header of a segment that is in use, and what its first records hold.
    for at in [20, 4096 + 40, 4096 + 100] {
        let error = flip(segments[0], at).expect_err("damaged");
        assert!(matches!(error, RecoverError::Damaged { .. }), "{error}");
        assert!(error.to_string().contains("raftlog-tool repair"), "{error}");
    }
    for name in ["snapshot-18-2.rdb", "snapshot-18-2.about"] {
        let error = flip(name, 60).expect_err("damaged");
        assert!(error.to_string().contains("damaged"), "{error}");
    }
    flip("META", 30).expect("the other copy serves");
    let path = root.path().join("log");
    std::fs::remove_dir_all(&path).expect("remove");
    crash_image(&whole, &path);
    std::fs::remove_file(path.join("snapshot-18-2.about")).expect("remove");
    let error = recover_on(&system(), &path, &[7]).expect_err("no snapshot");
    assert!(matches!(error, RecoverError::SnapshotMissing { base, .. } if base > 0), "{error}");
}

/// `from` with all that lies in it.
fn copy_tree(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("create");
    for item in std::fs::read_dir(from).expect("list") {
        let item = item.expect("an entry");
        match item.path().is_dir() {
            true => copy_tree(&item.path(), &to.join(item.file_name())),
            false => drop(std::fs::copy(item.path(), to.join(item.file_name())).expect("copy")),
        }
    }
}

/// Whatever was left: the old log as it was, in its place or aside, and from there all can be done.
fn assert_can_go_on(root: &Path, before: &BTreeMap<PathBuf, Vec<u8>>, old: &Entries, what: &str) {
    let path = root.join("log");
    let aside =
        std::fs::read_dir(root).expect("list").map(|item| item.expect("an entry").path()).find(|path| {
            path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("log.before-recovery-"))
        });
    let kept = aside.clone().unwrap_or(path.clone());
    let found: BTreeMap<PathBuf, Vec<u8>> = snapshot(&kept)
        .into_iter()
        .map(|(path, bytes)| (PathBuf::from(path.file_name().expect("a name")), bytes))
        .collect();
    assert!(&found == before, "{what}: the old log has changed");
    match (aside.is_some(), path.exists()) {
        (true, true) => {}
        (true, false) => {
            assert!(recover::is_interrupted(&path), "{what}");
            recover::finish(&system(), &path).unwrap_or_else(|error| panic!("{what}: {error}"));
        }
        (false, _) => {
            assert!(!recover::is_interrupted(&path), "{what}");
            recover_on(&system(), &path, &[7, 21]).unwrap_or_else(|error| panic!("{what}: {error}"));
        }
    }
    assert_recovered(&path, 7, &[7, 21], old, what);
    assert_recovered(&root.join("log.recovered/member-21"), 21, &[7, 21], old, what);
    assert!(!root.join("log.recovering").exists() && !root.join("log.recovered/self").exists(), "{what}");
}

/// A log in `root`, and what a test must find of it.
fn prepared(root: &Path) -> (BTreeMap<PathBuf, Vec<u8>>, Entries) {
    let path = root.join("log");
    old_log(&path);
    let old = entries(&open(&path).log);
    let name = |path: PathBuf| PathBuf::from(path.file_name().expect("a name"));
    (snapshot(&path).into_iter().map(|(path, bytes)| (name(path), bytes)).collect(), old)
}

#[test]
fn the_nth_call_fails() {
    let whole = fast_directory();
    let (before, old) = prepared(whole.path());
    let mut failures = 0;
    let mut unnoticed: BTreeMap<&str, u32> = BTreeMap::new();
    for number in 1.. {
        let root = fast_directory();
        copy_tree(whole.path(), root.path());
        let path = root.path().join("log");
        let failed = Arc::new(Mutex::new(""));
        let note = failed.clone();
        let disk = HookedDisk::new(Box::new(move |call, name| {
            if call == number {
                *note.lock().expect("name") = name;
                return Err(io::Error::from_raw_os_error(libc::EIO));
            }
            Ok(())
        }));
        let result = recover_on(&(disk.clone() as Arc<dyn Disk>), &path, &[7, 21]);
        if disk.calls() < number {
            result.expect("nothing failed");
            break;
        }
        match result {
            Ok(_) => *unnoticed.entry(*failed.lock().expect("name")).or_default() += 1,
            Err(error) => {
                failures += 1;
                let named = error.to_string().contains(&root.path().display().to_string());
                assert!(named, "call {number}: {error}");
            }
        }
        assert_can_go_on(root.path(), &before, &old, &format!("call {number} failed"));
    }
    // A segment that cannot be made ahead of need is made later, and a clean-up that fails is done by the next try.
    println!("{failures} failures; without effect: {unnoticed:?}");
    assert!(failures > 400, "{failures} failures; without effect: {unnoticed:?}");
}

#[test]
fn a_crash_before_every_call() {
    let whole = fast_directory();
    let (before, old) = prepared(whole.path());
    let root = whole.path().join("work");
    std::fs::create_dir(&root).expect("create");
    std::fs::rename(whole.path().join("log"), root.join("log")).expect("rename");
    let images: Arc<Mutex<Vec<PathBuf>>> = Arc::default();
    let hook = {
        let (root, images) = (root.clone(), images.clone());
        move |call, name: &'static str| {
            // Reading leaves what was there.
            if name != "read_at" && name != "list" && name != "length" {
                let image = root.with_file_name(format!("image-{call}"));
                copy_tree(&root, &image);
                images.lock().expect("images").push(image);
            }
            Ok(())
        }
    };
    let disk: Arc<dyn Disk> = HookedDisk::new(Box::new(hook));
    recover_on(&disk, &root.join("log"), &[7, 21]).expect("recover");
    let images = std::mem::take(&mut *images.lock().expect("images"));
    assert!(images.len() > 100, "{}", images.len());
    for image in images {
        assert_can_go_on(&image, &before, &old, &image.display().to_string());
        std::fs::remove_dir_all(&image).expect("remove");
    }
}

#[test]
fn a_full_disk_is_an_error_and_not_waited_for() {
    let root = fast_directory();
    let path = root.path().join("log");
    old_log(&path);
    let hook = |_, name| match name == "allocate" {
        true => Err(io::Error::from_raw_os_error(libc::ENOSPC)),
        false => Ok(()),
    };
    let disk: Arc<dyn Disk> = HookedDisk::new(Box::new(hook));
    let error = recover_on(&disk, &path, &[7]).expect_err("full");
    assert!(matches!(error, RecoverError::Log(LogError::Io { .. })), "{error}");
    assert!(!root.path().join("log.recovering").exists(), "what was begun takes no space");
}

#[test]
fn large_entries_and_snapshots_are_taken_over() {
    let root = fast_directory();
    let path = root.path().join("log");
    let mut node = Node::create(&path);
    node.put_members(1, &[7]);
    node.no_op(2);
    node.put(2, Kind::Normal, payload(3, 2, 6 << 20));
    node.put(2, Kind::Normal, payload(4, 2, 10));
    node.compact_into(4, 2, &[7], (3 << 20) + 77);
    node.close();
    let old = entries(&open(&path).log);
    recover_on(&system(), &path, &[7]).expect("recover");
    let harness = open(&path);
    assert!(entries(&harness.log).starts_with(&old));
    let (store, _) = Store::open(system(), &path, NEW_CLUSTER).expect("store");
    let name = store.newest().expect("the snapshot").file_name();
    assert!(std::fs::read(path.join(name)).expect("read") == dump((3 << 20) + 77));
    drop(harness);
    // Log options other than those of the old log are no matter.
    let reopened = Log::open(&path, Options::default(), Box::new(|| ())).expect("open");
    assert_eq!(reopened.0.last_index(), 5);
}
