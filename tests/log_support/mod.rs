//! What the tests of the log share: a log with a waiting room, and a disk that fails on demand.
#![allow(dead_code)] // Each test binary uses its own part.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{channel, Receiver};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use redisraft::log::disk::{Disk, DiskFile, FileHandle, Guard, Map, Mode, SystemDisk};
use redisraft::log::{Entry, HardState, Identity, Kind, Log, LogError, Options, Recovery, WriteRequest};

pub const SEGMENT_BYTES: u64 = 16 << 10;

pub fn identity() -> Identity {
    Identity { cluster_id: "0123456789abcdef0123456789abcdef".into(), node_id: 7, secret: [9; 32] }
}

pub fn options() -> Options {
    Options { segment_bytes: SEGMENT_BYTES, fsync: true }
}

/// The payload every test gives entry `index` of `term`, so that a false entry is seen.
pub fn payload(index: u64, term: u64, bytes: usize) -> Bytes {
    let pattern = format!("<{index}:{term}>");
    pattern.bytes().cycle().take(bytes).collect::<Vec<u8>>().into()
}

pub fn entry(index: u64, term: u64, bytes: usize) -> Entry {
    Entry::new(index, term, Kind::Normal, payload(index, term, bytes))
}

/// A log, and how to wait for it.
pub struct Harness {
    pub log: Log,
    pub recovery: Option<Recovery>,
    news: Receiver<()>,
    next_id: u64,
}

impl Harness {
    pub fn create(directory: &Path) -> Harness {
        Harness::create_on(Arc::new(SystemDisk), directory).expect("create")
    }

    pub fn create_on(disk: Arc<dyn Disk>, directory: &Path) -> Result<Harness, LogError> {
        let (tell, news) = channel();
        let notify = Box::new(move || {
            let _ = tell.send(());
        });
        let log = Log::create_on(disk, directory, identity(), options(), notify)?;
        Ok(Harness { log, recovery: None, news, next_id: 1 })
    }

    pub fn open(directory: &Path) -> Result<Harness, LogError> {
        Harness::open_on(Arc::new(SystemDisk), directory)
    }

    pub fn open_on(disk: Arc<dyn Disk>, directory: &Path) -> Result<Harness, LogError> {
        let (tell, news) = channel();
        let notify = Box::new(move || {
            let _ = tell.send(());
        });
        let (log, recovery) = Log::open_on(disk, directory, options(), notify)?;
        Ok(Harness { log, recovery: Some(recovery), news, next_id: 1 })
    }

    /// Hands in a request and does not wait.
    pub fn submit(&mut self, request: WriteRequest) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        self.log.submit(WriteRequest { id, ..request });
        id
    }

    /// Waits until request `id` is durable, or the log has failed.
    pub fn wait(&mut self, id: u64) -> Result<(), LogError> {
        loop {
            if self.log.durable()? >= id {
                return Ok(());
            }
            self.news.recv_timeout(Duration::from_secs(20)).expect("news of the sync thread");
        }
    }

    pub fn write(&mut self, request: WriteRequest) -> Result<(), LogError> {
        let id = self.submit(request);
        self.wait(id)
    }

    /// Appends `count` entries of `bytes` each, in one request.
    pub fn append(&mut self, term: u64, count: u64, bytes: usize) -> Result<(), LogError> {
        let first = self.log.last_index() + 1;
        let entries = (first..first + count).map(|index| entry(index, term, bytes)).collect();
        self.write(WriteRequest { entries, ..Default::default() })
    }

    pub fn vote(&mut self, term: u64, vote: Option<u64>) -> Result<(), LogError> {
        self.write(WriteRequest { hard_state: Some(HardState { term, vote }), ..Default::default() })
    }
}

/// All entries of a log as (index, term, payload length); panics on an entry that nobody wrote.
pub fn contents(log: &Log) -> Vec<(u64, u64, usize)> {
    (log.first_index()..=log.last_index())
        .map(|index| {
            let read = log.read(index).expect("read");
            assert_eq!(read.index, index);
            assert!(read.is_intact());
            assert_eq!(read.payload, payload(index, read.term, read.payload.len()), "entry {index}");
            let info = log.info(index).expect("info");
            assert_eq!((info.term, info.payload_bytes as usize), (read.term, read.payload.len()));
            (index, read.term, read.payload.len())
        })
        .collect()
}

/// The directory as a crash of the process would leave it now.
pub fn crash_image(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("create directory");
    for item in std::fs::read_dir(from).expect("list") {
        let item = item.expect("list");
        // A temporary file may get its name between the listing and the copy: then it was not there yet.
        let _ = std::fs::copy(item.path(), to.join(item.file_name()));
    }
}

/// Every file of a log but LOCK, with its bytes.
pub fn snapshot(directory: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files: Vec<_> = std::fs::read_dir(directory)
        .expect("list")
        .map(|item| item.expect("list").path())
        .filter(|path| !path.ends_with("LOCK"))
        .map(|path| (path.clone(), std::fs::read(&path).expect("read")))
        .collect();
    files.sort();
    files
}

/// A disk whose n-th call fails, and every call after it on the same kind of thing is counted on.
pub struct FaultyDisk {
    disk: SystemDisk,
    faults: Arc<Faults>,
}

pub struct Faults {
    calls: AtomicU64,
    fail_at: AtomicU64,
    errno: i32,
}

impl Faults {
    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::SeqCst)
    }

    /// The n-th call from now on fails; 0: none.
    pub fn fail_in(&self, calls: u64) {
        let at = if calls == 0 { u64::MAX } else { self.calls() + calls };
        self.fail_at.store(at, Ordering::SeqCst);
    }

    pub fn failed(&self) -> bool {
        self.calls() >= self.fail_at.load(Ordering::SeqCst)
    }

    fn call(&self) -> io::Result<()> {
        let number = self.calls.fetch_add(1, Ordering::SeqCst) + 1;
        if number == self.fail_at.load(Ordering::SeqCst) {
            return Err(io::Error::from_raw_os_error(self.errno));
        }
        Ok(())
    }
}

impl FaultyDisk {
    pub fn new(errno: i32) -> (Arc<FaultyDisk>, Arc<Faults>) {
        let faults = Arc::new(Faults { calls: AtomicU64::new(0), fail_at: AtomicU64::new(u64::MAX), errno });
        (Arc::new(FaultyDisk { disk: SystemDisk, faults: faults.clone() }), faults)
    }
}

impl Disk for FaultyDisk {
    fn create_directory(&self, path: &Path) -> io::Result<()> {
        self.faults.call()?;
        self.disk.create_directory(path)
    }
    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        self.faults.call()?;
        self.disk.sync_directory(path)
    }
    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        self.faults.call()?;
        self.disk.list(path)
    }
    fn exists(&self, path: &Path) -> bool {
        self.disk.exists(path)
    }
    fn open(&self, path: &Path, mode: Mode) -> io::Result<FileHandle> {
        self.faults.call()?;
        let file = self.disk.open(path, mode)?;
        Ok(Arc::new(FaultyFile { file, faults: self.faults.clone() }))
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.faults.call()?;
        self.disk.rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.faults.call()?;
        self.disk.remove(path)
    }
    fn lock(&self, path: &Path) -> io::Result<Option<Guard>> {
        self.faults.call()?;
        self.disk.lock(path)
    }
}

struct FaultyFile {
    file: FileHandle,
    faults: Arc<Faults>,
}

impl DiskFile for FaultyFile {
    /// A write that fails may have written a part.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        if let Err(error) = self.faults.call() {
            self.file.write_at(&bytes[..bytes.len() / 2], offset)?;
            return Err(error);
        }
        self.file.write_at(bytes, offset)
    }
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        self.faults.call()?;
        self.file.read_at(bytes, offset)
    }
    fn allocate(&self, length: u64) -> io::Result<()> {
        self.faults.call()?;
        self.file.allocate(length)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.faults.call()?;
        self.file.sync_data()
    }
    fn sync_all(&self) -> io::Result<()> {
        self.faults.call()?;
        self.file.sync_all()
    }
    fn length(&self) -> io::Result<u64> {
        self.faults.call()?;
        self.file.length()
    }
    fn map(&self) -> io::Result<Map> {
        self.faults.call()?;
        self.file.map()
    }
}
