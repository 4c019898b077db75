//! What the tests of the log share: a log with a waiting room, and disks that do as they are told.
#![allow(dead_code)] // Each test binary uses its own part.

pub mod power;
pub mod promise;
pub mod sample;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{channel, Receiver};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use redisraft::log::disk::{Disk, DiskFile, FileHandle, Guard, Mode, SystemDisk};
use redisraft::log::window::Window;
use redisraft::log::{
    Entry, HardState, Identity, InlineWriter, Kind, Log, LogError, Options, Recovery, WriteRequest,
};

pub const SEGMENT_BYTES: u64 = 8 << 10;

pub fn identity() -> Identity {
    Identity { cluster_id: "0123456789abcdef0123456789abcdef".into(), node_id: 7, secret: [9; 32] }
}

pub fn options() -> Options {
    Options { segment_bytes: SEGMENT_BYTES, ..Options::default() }
}

/// The payload every test gives entry `index` of `term`, so that a false entry is seen.
pub fn payload(index: u64, term: u64, bytes: usize) -> Bytes {
    let pattern = format!("<{index}:{term}>");
    let mut payload = pattern.repeat(bytes / pattern.len() + 1).into_bytes();
    payload.truncate(bytes);
    payload.into()
}

pub fn entry(index: u64, term: u64, bytes: usize) -> Entry {
    Entry::new(index, term, Kind::Normal, payload(index, term, bytes))
}

/// A log, and how to wait for it.
pub struct Harness {
    pub log: Log,
    pub recovery: Option<Recovery>,
    news: News,
    next_id: u64,
}

/// Who writes: threads that tell, or the one who waits.
enum News {
    Threads(Receiver<()>),
    Inline(Box<InlineWriter>),
}

impl Harness {
    pub fn create(directory: &Path) -> Harness {
        Harness::create_on(Arc::new(SystemDisk), directory).expect("create")
    }

    pub fn create_on(disk: Arc<dyn Disk>, directory: &Path) -> Result<Harness, LogError> {
        let (notify, news) = notify();
        let log = Log::create_on(disk, directory, identity(), options(), notify)?;
        Ok(Harness { log, recovery: None, news: News::Threads(news), next_id: 1 })
    }

    /// Without threads: everything is done while something is waited for, in the same order each time.
    pub fn create_inline(disk: Arc<dyn Disk>, directory: &Path) -> Result<Harness, LogError> {
        let (log, writer) = Log::create_inline(disk, directory, identity(), options())?;
        Ok(Harness { log, recovery: None, news: News::Inline(Box::new(writer)), next_id: 1 })
    }

    pub fn open(directory: &Path) -> Result<Harness, LogError> {
        Harness::open_on(Arc::new(SystemDisk), directory)
    }

    pub fn open_on(disk: Arc<dyn Disk>, directory: &Path) -> Result<Harness, LogError> {
        let (notify, news) = notify();
        let (log, recovery) = Log::open_on(disk, directory, options(), notify)?;
        Ok(Harness { log, recovery: Some(recovery), news: News::Threads(news), next_id: 1 })
    }

    pub fn open_inline(disk: Arc<dyn Disk>, directory: &Path) -> Result<Harness, LogError> {
        let (log, writer, recovery) = Log::open_inline(disk, directory, options())?;
        Ok(Harness { log, recovery: Some(recovery), news: News::Inline(Box::new(writer)), next_id: 1 })
    }

    /// Ends the log in good order.
    pub fn close(self) {
        let Harness { log, news, .. } = self;
        drop(log);
        if let News::Inline(mut writer) = news {
            while writer.run_once() {}
        }
    }

    /// Without threads: does all that is to be done.
    pub fn run(&mut self) {
        if let News::Inline(writer) = &mut self.news {
            while writer.run_once() {}
        }
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
            match &mut self.news {
                News::Threads(news) => {
                    news.recv_timeout(Duration::from_secs(20)).expect("news of the sync thread");
                }
                News::Inline(writer) => assert!(writer.run_once(), "there is something to do"),
            }
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

fn notify() -> (Box<dyn Fn() + Send + Sync>, Receiver<()>) {
    let (tell, news) = channel();
    let notify = Box::new(move || {
        let _ = tell.send(());
    });
    (notify, news)
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

/// Every file of a log but LOCK, with its bytes. One that is renamed meanwhile, as a segment made ahead is, is not there yet.
pub fn snapshot(directory: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files: Vec<_> = std::fs::read_dir(directory)
        .expect("list")
        .map(|item| item.expect("list").path())
        .filter(|path| !path.ends_with("LOCK"))
        .filter_map(|path| match std::fs::read(&path) {
            Ok(bytes) => Some((path, bytes)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => panic!("{}: {error}", path.display()),
        })
        .collect();
    files.sort();
    files
}

/// A directory for many small logs: in memory where the system has such a place, as the loops sync a lot.
pub fn fast_directory() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() {
        tempfile::tempdir_in(memory).expect("tempdir")
    } else {
        tempfile::tempdir().expect("tempdir")
    }
}

/// Called with the number and the name of a system call before it is made; may make it fail.
pub type Hook = Box<dyn Fn(u64, &'static str) -> io::Result<()> + Send + Sync>;

/// A disk with a hook before every call. Calls are made one at a time.
pub struct HookedDisk {
    disk: Arc<dyn Disk>,
    hook: Arc<HookState>,
}

struct HookState {
    calls: Mutex<u64>,
    hook: Hook,
}

impl HookState {
    /// `partly` is what a call that fails does nevertheless.
    fn call<T>(
        &self,
        name: &'static str,
        call: impl Fn() -> io::Result<T>,
        partly: impl Fn(),
    ) -> io::Result<T> {
        let mut calls = self.calls.lock().expect("hook");
        *calls += 1;
        if let Err(error) = (self.hook)(*calls, name) {
            partly();
            return Err(error);
        }
        call()
    }
}

impl HookedDisk {
    pub fn new(hook: Hook) -> Arc<HookedDisk> {
        HookedDisk::over(Arc::new(SystemDisk), hook)
    }

    pub fn over(disk: Arc<dyn Disk>, hook: Hook) -> Arc<HookedDisk> {
        let hook = Arc::new(HookState { calls: Mutex::new(0), hook });
        Arc::new(HookedDisk { disk, hook })
    }

    pub fn calls(&self) -> u64 {
        *self.hook.calls.lock().expect("hook")
    }
}

impl Disk for HookedDisk {
    fn create_directory(&self, path: &Path) -> io::Result<()> {
        self.hook.call("create_directory", || self.disk.create_directory(path), || ())
    }
    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        self.hook.call("sync_directory", || self.disk.sync_directory(path), || ())
    }
    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        self.hook.call("list", || self.disk.list(path), || ())
    }
    fn exists(&self, path: &Path) -> bool {
        self.disk.exists(path)
    }
    fn open(&self, path: &Path, mode: Mode) -> io::Result<FileHandle> {
        let file = self.hook.call("open", || self.disk.open(path, mode), || ())?;
        Ok(Arc::new(HookedFile { file, hook: self.hook.clone() }))
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.hook.call("rename", || self.disk.rename(from, to), || ())
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.hook.call("remove", || self.disk.remove(path), || ())
    }
    fn lock(&self, path: &Path) -> io::Result<Option<Guard>> {
        self.hook.call("lock", || self.disk.lock(path), || ())
    }
    fn pause(&self, duration: Duration) -> bool {
        self.disk.pause(duration)
    }
}

struct HookedFile {
    file: FileHandle,
    hook: Arc<HookState>,
}

impl DiskFile for HookedFile {
    /// A write that fails has written its first half.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let half = || self.file.write_at(&bytes[..bytes.len() / 2], offset).expect("half a write");
        self.hook.call("write_at", || self.file.write_at(bytes, offset), half)
    }
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        // Not through `call`: its closure cannot be called twice.
        self.hook.call("read_at", || Ok(()), || ())?;
        self.file.read_at(bytes, offset)
    }
    fn allocate(&self, length: u64) -> io::Result<()> {
        self.hook.call("allocate", || self.file.allocate(length), || ())
    }
    fn sync_data(&self) -> io::Result<()> {
        self.hook.call("sync_data", || self.file.sync_data(), || ())
    }
    fn sync_all(&self) -> io::Result<()> {
        self.hook.call("sync_all", || self.file.sync_all(), || ())
    }
    fn length(&self) -> io::Result<u64> {
        self.hook.call("length", || self.file.length(), || ())
    }
    fn give_back(&self, length: u64) -> io::Result<()> {
        self.hook.call("give_back", || self.file.give_back(length), || ())
    }
}

/// The system's disk with a clock that stands until it is moved.
pub struct ClockedDisk(pub Arc<HookedDisk>, pub Mutex<Duration>);

impl Disk for ClockedDisk {
    fn create_directory(&self, path: &Path) -> io::Result<()> {
        self.0.create_directory(path)
    }
    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        self.0.sync_directory(path)
    }
    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        self.0.list(path)
    }
    fn exists(&self, path: &Path) -> bool {
        self.0.exists(path)
    }
    fn open(&self, path: &Path, mode: Mode) -> io::Result<FileHandle> {
        self.0.open(path, mode)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.0.remove(path)
    }
    fn lock(&self, path: &Path) -> io::Result<Option<Guard>> {
        self.0.lock(path)
    }
    fn now(&self) -> Duration {
        *self.1.lock().expect("clock")
    }
}

/// Bytes of a file that looks damaged at first: what a reader beside a writer may see.
pub struct Flickering {
    looks: AtomicU64,
    before: Vec<u8>,
    after: Vec<u8>,
}

impl Flickering {
    /// The first `looks` see `before`.
    pub fn file(looks: u64, before: Vec<u8>, after: Vec<u8>) -> FileHandle {
        Arc::new(Flickering { looks: AtomicU64::new(looks), before, after })
    }
}

impl DiskFile for Flickering {
    fn write_at(&self, _: &[u8], _: u64) -> io::Result<()> {
        read_only()
    }
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        let left = self.looks.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |looks| looks.checked_sub(1));
        let file = if left.is_ok() { &self.before } else { &self.after };
        bytes.copy_from_slice(&file[offset as usize..][..bytes.len()]);
        Ok(())
    }
    fn allocate(&self, _: u64) -> io::Result<()> {
        read_only()
    }
    fn sync_data(&self) -> io::Result<()> {
        read_only()
    }
    fn sync_all(&self) -> io::Result<()> {
        read_only()
    }
    fn length(&self) -> io::Result<u64> {
        Ok(self.after.len() as u64)
    }
}

/// A directory in memory, for reading only: thousands of variants of a log are looked at in it.
#[derive(Clone)]
pub struct MemoryDisk(pub BTreeMap<PathBuf, Arc<Vec<u8>>>);

struct MemoryFile(Arc<Vec<u8>>);

/// A window on bytes.
pub fn window(bytes: &[u8]) -> Window {
    Window::of(Arc::new(MemoryFile(Arc::new(bytes.to_vec()))), Path::new("bytes")).expect("a window")
}

fn read_only<T>() -> io::Result<T> {
    Err(io::ErrorKind::ReadOnlyFilesystem.into())
}

impl MemoryDisk {
    pub fn load(directory: &Path) -> MemoryDisk {
        MemoryDisk(snapshot(directory).into_iter().map(|(path, bytes)| (path, Arc::new(bytes))).collect())
    }

    /// The same with one file changed.
    pub fn with(&self, path: &Path, change: impl FnOnce(&mut Vec<u8>)) -> MemoryDisk {
        let mut files = self.0.clone();
        change(Arc::make_mut(files.get_mut(path).expect("a file of the log")));
        MemoryDisk(files)
    }
}

impl Disk for MemoryDisk {
    fn create_directory(&self, _: &Path) -> io::Result<()> {
        read_only()
    }
    fn sync_directory(&self, _: &Path) -> io::Result<()> {
        read_only()
    }
    fn list(&self, _: &Path) -> io::Result<Vec<String>> {
        let name = |path: &PathBuf| path.file_name().expect("a name").to_string_lossy().into_owned();
        Ok(self.0.keys().map(name).collect())
    }
    fn exists(&self, path: &Path) -> bool {
        self.0.contains_key(path)
    }
    fn open(&self, path: &Path, _: Mode) -> io::Result<FileHandle> {
        Ok(Arc::new(MemoryFile(self.0.get(path).ok_or(io::ErrorKind::NotFound)?.clone())))
    }
    fn rename(&self, _: &Path, _: &Path) -> io::Result<()> {
        read_only()
    }
    fn remove(&self, _: &Path) -> io::Result<()> {
        read_only()
    }
    fn lock(&self, _: &Path) -> io::Result<Option<Guard>> {
        read_only()
    }
}

impl DiskFile for MemoryFile {
    fn write_at(&self, _: &[u8], _: u64) -> io::Result<()> {
        read_only()
    }
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        let start = offset as usize;
        bytes.copy_from_slice(self.0.get(start..start + bytes.len()).ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
    fn allocate(&self, _: u64) -> io::Result<()> {
        read_only()
    }
    fn sync_data(&self) -> io::Result<()> {
        read_only()
    }
    fn sync_all(&self) -> io::Result<()> {
        read_only()
    }
    fn length(&self) -> io::Result<u64> {
        Ok(self.0.len() as u64)
    }
}
