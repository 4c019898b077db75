//! Snapshots: the sidecar, a damaged directory of them, parts that a peer sends in any order, and what is said to be a
//! dump of the server.

use crate::disk::{Files, MemoryDisk};
use crate::input::{flip, Input};
use crate::memory::within;
use crate::Seeds;
use bytes::Bytes;
use crc_fast::CrcAlgorithm;
use redisraft::snapshot::{About, Done, Draft, Id, Job, SnapshotError, Store};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

const DIRECTORY: &str = "/log";
const CLUSTER: &str = "0123456789abcdef0123456789abcdef";
/// Without the checksum that a server puts behind it.
const RDB: &[u8] = b"REDIS0010\xfa\x09redis-ver\x067.0.15\xfe\x00\xfb\x01\x00\x00\x01k\x01v\xff";
/// A piece that is read at once, and the files.
const LIMIT_BYTES: usize = 8 << 20;

/// A form, and then a sidecar, damage, parts, or a dump.
pub fn check(data: &[u8]) {
    let mut input = Input(data);
    within(LIMIT_BYTES + 16 * data.len(), || match input.u8() % 4 {
        0 => sidecar(input.rest()),
        1 => damaged(input),
        2 => parts(input),
        _ => dump(input),
    });
}

/// Its checksum is made right, as the fuzzer cannot.
fn sidecar(bytes: &[u8]) {
    let path = Path::new("sidecar");
    let mut sealed = bytes.to_vec();
    if sealed.len() >= 16 {
        let mut crc = crc32fast::Hasher::new();
        crc.update(&bytes[..12]);
        crc.update(&bytes[16..]);
        sealed[12..16].copy_from_slice(&crc.finalize().to_le_bytes());
    }
    assert!(sealed == bytes || About::decode(bytes, path).is_err());
    match About::decode(&sealed, path) {
        Ok(about) => {
            let again = about.encode();
            assert_eq!(About::decode(&again, path).expect("what is encoded comes back"), about);
            assert!(about.id.index > 0 && about.id.term > 0);
        }
        Err(error) => assert!(error.to_string().len() < 500, "{error}"),
    }
}

/// With the checksum that a server would put behind it (its polynomial, little-endian).
fn with_trailer(dump: &[u8]) -> Vec<u8> {
    let crc = crc_fast::checksum(CrcAlgorithm::Crc64Redis, dump);
    [dump, &crc.to_le_bytes()].concat()
}

fn keep(disk: &Arc<MemoryDisk>, source: PathBuf, index: u64) -> Result<About, SnapshotError> {
    let (mut store, _) = Store::open(disk.clone(), Path::new(DIRECTORY), CLUSTER).expect("a directory");
    let Some(Done::Kept { result }) = store.run(Job::Keep { source, draft: draft(index) }) else {
        panic!("a job has its answer")
    };
    result
}

fn draft(index: u64) -> Draft {
    Draft { index, term: 3, members: Bytes::from_static(b"members"), used_ids: vec![1, index] }
}

/// A directory with a snapshot, a younger one that was just made, and what was never finished.
fn sample() -> &'static (Files, Vec<About>) {
    static SAMPLE: OnceLock<(Files, Vec<About>)> = OnceLock::new();
    SAMPLE.get_or_init(|| {
        let (mut files, mut abouts) = (Files::new(), Vec::new());
        for index in [7, 12] {
            let source = PathBuf::from("/temp.rdb");
            let bytes = with_trailer(&[RDB, &[index as u8]].concat());
            let disk = MemoryDisk::of(&[(source.clone(), bytes)].into());
            abouts.push(keep(&disk, source, index).expect("memory does not fail"));
            files.extend(disk.files());
        }
        files.insert(Path::new(DIRECTORY).join("snapshot-13-3.rdb"), RDB.to_vec());
        files.insert(Path::new(DIRECTORY).join("snapshot-14-3.rdb.tmp"), RDB.to_vec());
        (files, abouts)
    })
}

/// What is called intact is one of those that were made, to the last byte; without damage it is the newest.
fn damaged(mut input: Input) {
    let (original, abouts) = sample();
    let mut files = original.clone();
    let paths: Vec<PathBuf> = files.keys().cloned().collect();
    for _ in 0..input.u8() % 6 {
        let (what, path, other) = (input.u8() % 6, input.u8(), input.u8());
        let [path, other] = [path, other].map(|which| paths[usize::from(which) % paths.len()].clone());
        let Some(bytes) = files.get(&path).cloned() else { continue };
        match what {
            0..=2 => {
                flip(files.get_mut(&path).expect("found above"), &mut input, 1);
            }
            3 => files.get_mut(&path).expect("found above").truncate(usize::from(input.u8())),
            4 => drop(files.remove(&path)),
            _ => drop(files.insert(other, bytes)),
        }
    }
    let disk = MemoryDisk::of(&files);
    let (store, opened) =
        Store::open(disk.clone(), Path::new(DIRECTORY), CLUSTER).expect("memory can be read");
    assert_eq!(store.newest(), opened.intact.first());
    for about in &opened.intact {
        assert!(abouts.contains(about), "nobody made {about:?}");
        let rdb = Path::new(DIRECTORY).join(about.file_name());
        assert_eq!(disk.files()[&rdb], original[&rdb], "a changed dataset is called intact");
    }
    let unchanged = |path: &&PathBuf| files.get(*path) == original.get(*path);
    let newest = abouts.last().expect("two were made");
    if paths
        .iter()
        .filter(|path| path.to_str().is_some_and(|path| path.contains("-12-3")))
        .all(|p| unchanged(&p))
    {
        assert_eq!(store.newest(), Some(newest));
    }
    for error in &opened.damaged {
        let named = matches!(
            error,
            SnapshotError::Damaged { .. } | SnapshotError::Foreign { .. } | SnapshotError::NewerFormat { .. }
        );
        assert!(named && error.to_string().contains(DIRECTORY), "{error}");
    }
    assert!(!disk.files().keys().any(|path| path.to_string_lossy().ends_with(".tmp")), "half-made files go");
}

/// A peer offers a snapshot and sends parts of it: it is there when all bytes are, and only then.
fn parts(mut input: Input) {
    let disk = MemoryDisk::of(&sample().0);
    let (mut store, _) =
        Store::open(disk.clone(), Path::new(DIRECTORY), CLUSTER).expect("memory can be read");
    let before = store.newest().cloned();
    let id = Id { index: 20, term: 4, bytes: RDB.len() as u64, crc: crc32fast::hash(RDB) };
    let about = About { id, cluster_id: CLUSTER.into(), members: Bytes::new(), used_ids: vec![9] };
    store.run(Job::Receive { about: Box::new(about.clone()) });
    let (mut through, mut tainted) = (0, false);
    while !input.is_empty() {
        let (what, offset, length) = (input.u8() % 8, u64::from(input.u8()), usize::from(input.u8()));
        // Mostly what comes next.
        let offset = if what < 5 { through } else { offset };
        let start = (offset as usize).min(RDB.len());
        let mut bytes = RDB[start..RDB.len().min(start + length)].to_vec();
        let damaged = what == 7 && flip(&mut bytes, &mut input, 1);
        let end = offset + bytes.len() as u64;
        let done = store.run(Job::Part { id, offset, bytes: bytes.into() });
        let Some(Done::Parted { id: answered, result, .. }) = done else { panic!("a job has its answer") };
        assert_eq!(answered, id);
        if offset == through {
            tainted |= damaged;
            through = end;
        }
        match result {
            Ok(true) => {
                assert!(!tainted && through == id.bytes && store.newest() == Some(&about));
                let rdb = Path::new(DIRECTORY).join(about.file_name());
                return assert_eq!(disk.files()[&rdb], RDB, "all that was sent");
            }
            Ok(false) => assert!(end <= through && through < id.bytes),
            Err(SnapshotError::OutOfOrder { expected, .. }) => {
                assert!(expected == through && offset != through)
            }
            Err(SnapshotError::Received { .. }) => {
                assert!(tainted && through == id.bytes);
                break;
            }
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(store.newest(), before.as_ref());
}

/// A dump is taken over when its checksum is right, and with one change to it no more.
fn dump(mut input: Input) {
    let (position, mask) = (usize::from(input.u16()), input.u8());
    let bytes = input.rest();
    let begins = bytes.starts_with(b"REDIS") || bytes.starts_with(b"VALKEY");
    let source = PathBuf::from("/temp.rdb");
    let try_it =
        |bytes: &[u8]| keep(&MemoryDisk::of(&[(source.clone(), bytes.to_vec())].into()), source.clone(), 7);
    let mut sealed = with_trailer(bytes);
    match try_it(&sealed) {
        Ok(about) => assert!(begins && about.id.bytes == sealed.len() as u64),
        Err(error) => {
            assert!(matches!(error, SnapshotError::Dump { .. }) && error.to_string().len() < 500, "{error}");
            assert!(!begins || sealed.len() < 14, "refused, although it is right: {error}");
        }
    }
    let position = position % sealed.len();
    sealed[position] ^= mask;
    // Eight zeros say that no checksum was made.
    if mask != 0 && !sealed.ends_with(&[0; 8]) {
        try_it(&sealed).expect_err("a changed dump is taken over");
    }
}

pub fn seeds() -> Seeds {
    let (_, abouts) = sample();
    vec![
        ("sidecar", [&[0][..], &abouts[1].encode()].concat()),
        ("intact", vec![1, 0]),
        ("flipped", vec![1, 1, 0, 2, 0, 70, 0, 4]),
        ("swapped", vec![1, 2, 5, 0, 2, 3, 1, 0, 30]),
        ("parts", vec![2, 0, 0, 20, 0, 0, 9, 0, 0, 200]),
        ("out-of-order", vec![2, 0, 0, 20, 6, 4, 30, 0, 0, 200]),
        ("damaged-part", vec![2, 0, 0, 20, 7, 20, 10, 3, 0, 1, 0, 0, 200]),
        ("dump", [&[3, 20, 0, 4][..], RDB].concat()),
        ("other-dump", [&[3, 2, 0, 1][..], b"VALKEY0800\xff"].concat()),
    ]
}
