//! Makes segments ahead of need, in a helper thread: allocated, zero-filled and synced, so that an append is one
//! `pwrite` into existing blocks and its `fdatasync` has no metadata to write. A full disk shows up here first.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{channel, Receiver, Sender};
use std::sync::Arc;
use std::thread::JoinHandle;

use super::disk::{Disk, FileHandle, Map, Mode};
use super::error::LogError;
use super::index_file;
use super::segment::{index_path, segment_path, temporary_path};

/// Zeros are written in pieces of this many bytes.
const ZERO_CHUNK_BYTES: u64 = 1 << 20;
/// A sync after this many bytes of zeros keeps the disk's queue short for the appends that go on meanwhile.
const ZERO_SYNC_BYTES: u64 = 8 << 20;

/// A segment file that is ready to be written: its name, space and zeros are durable, its header is zeros.
pub struct Prepared {
    pub sequence: u32,
    pub capacity: u64,
    /// Of the index file already; the segment header takes it over.
    pub salt: u32,
    pub path: PathBuf,
    pub file: FileHandle,
    pub map: Map,
    pub index_path: PathBuf,
    pub index_file: FileHandle,
}

/// Makes segment `sequence`: complete under a temporary name, then renamed, then the directory synced.
pub fn prepare(
    disk: &dyn Disk,
    directory: &Path,
    sequence: u32,
    capacity: u64,
    stop: &AtomicBool,
) -> Result<Prepared, LogError> {
    let path = segment_path(directory, sequence);
    let temporary = temporary_path(&path);
    if disk.exists(&temporary) {
        disk.remove(&temporary).map_err(|source| LogError::io("remove", &temporary, None, source))?;
    }
    let file = disk
        .open(&temporary, Mode::CreateNew)
        .map_err(|source| LogError::io("create", &temporary, None, source))?;
    fill_with_zeros(&file, &temporary, 0..capacity, stop)?;
    let (salt, index_file) = new_index(disk, directory, sequence)?;
    disk.rename(&temporary, &path).map_err(|source| LogError::io("rename", &temporary, None, source))?;
    disk.sync_directory(directory).map_err(|source| LogError::io("fsync", directory, None, source))?;
    let map = file.map().map_err(|source| LogError::io("map", &path, None, source))?;
    let index_path = index_path(directory, sequence);
    Ok(Prepared { sequence, capacity, salt, path, file, map, index_path, index_file })
}

/// Takes over a prepared segment that an earlier process left; the caller has seen that it is all zeros.
pub fn adopt(disk: &dyn Disk, directory: &Path, sequence: u32) -> Result<Prepared, LogError> {
    let path = segment_path(directory, sequence);
    let open = || {
        let file = disk.open(&path, Mode::Write)?;
        Ok((file.length()?, file.map()?, file))
    };
    let (capacity, map, file) = open().map_err(|source| LogError::io("open", &path, None, source))?;
    let (salt, index_file) = new_index(disk, directory, sequence)?;
    disk.sync_directory(directory).map_err(|source| LogError::io("fsync", directory, None, source))?;
    let index_path = index_path(directory, sequence);
    Ok(Prepared { sequence, capacity, salt, path, file, map, index_path, index_file })
}

/// A fresh index file, with a salt that no earlier life of the segment had.
fn new_index(disk: &dyn Disk, directory: &Path, sequence: u32) -> Result<(u32, FileHandle), LogError> {
    let path = index_path(directory, sequence);
    let salt = disk.random().map_err(|source| LogError::io("get random bytes for", &path, None, source))?;
    let file = index_file::replace(disk, &path, &index_file::encode_header(salt, sequence))?;
    Ok((salt, file))
}

impl Prepared {
    /// Makes room for an entry that is larger than a segment.
    pub fn grow(&mut self, capacity: u64) -> Result<(), LogError> {
        assert!(capacity > self.capacity, "segments only grow");
        fill_with_zeros(&self.file, &self.path, self.capacity..capacity, &AtomicBool::new(false))?;
        self.map = self.file.map().map_err(|source| LogError::io("map", &self.path, None, source))?;
        self.capacity = capacity;
        Ok(())
    }
}

fn fill_with_zeros(
    file: &FileHandle,
    path: &Path,
    range: std::ops::Range<u64>,
    stop: &AtomicBool,
) -> Result<(), LogError> {
    file.allocate(range.end).map_err(|source| LogError::io("allocate", path, range.end, source))?;
    let zeros = vec![0; ZERO_CHUNK_BYTES.min(range.end - range.start) as usize];
    let mut offset = range.start;
    while offset < range.end {
        if stop.load(Ordering::Relaxed) {
            let source = std::io::Error::other("the log is being closed");
            return Err(LogError::io("go on with", path, offset, source));
        }
        let length = (zeros.len() as u64).min(range.end - offset);
        file.write_at(&zeros[..length as usize], offset)
            .map_err(|source| LogError::io("write zeros to", path, offset, source))?;
        offset += length;
        if offset % ZERO_SYNC_BYTES == 0 {
            file.sync_data().map_err(|source| LogError::io("fdatasync", path, offset, source))?;
        }
    }
    file.sync_all().map_err(|source| LogError::io("fsync", path, None, source))
}

enum Job {
    Prepare { sequence: u32, capacity: u64 },
    SyncIndex { file: FileHandle, path: PathBuf },
}

/// Does the jobs.
struct Workshop {
    disk: Arc<dyn Disk>,
    directory: PathBuf,
    stop: Arc<AtomicBool>,
    on_failure: OnFailure,
}

type OnFailure = Box<dyn Fn(LogError) + Send>;

impl Workshop {
    /// Does one job; a segment that was asked for is the answer.
    fn perform(&self, job: Job) -> Option<Result<Prepared, LogError>> {
        match job {
            Job::Prepare { sequence, capacity } => {
                Some(prepare(self.disk.as_ref(), &self.directory, sequence, capacity, &self.stop))
            }
            Job::SyncIndex { file, path } => {
                if let Err(source) = file.sync_data() {
                    (self.on_failure)(LogError::io("fdatasync", &path, None, source));
                }
                None
            }
        }
    }
}

/// Who does the jobs.
enum Helper {
    Thread {
        /// `None` while it is being stopped.
        jobs: Option<Sender<Job>>,
        prepared: Receiver<Result<Prepared, LogError>>,
        stop: Arc<AtomicBool>,
        thread: Option<JoinHandle<()>>,
    },
    /// The caller, when it has time or cannot go on without.
    Caller { jobs: VecDeque<Job>, prepared: VecDeque<Result<Prepared, LogError>>, workshop: Workshop },
}

/// The making of segments, seen from the sync thread. Dropping it stops the helper; a half-made segment is left as a
/// temporary file for the next start to remove.
pub struct Preparer {
    helper: Helper,
    /// Left by an earlier process, to be used first.
    adopted: Option<Prepared>,
    /// Whether a segment was asked for and not taken yet. Invariant: at most one is.
    requested: bool,
}

impl Preparer {
    /// With a thread of its own, or in the caller's. `on_failure` is told of an index sync that failed.
    pub fn start(
        disk: Arc<dyn Disk>,
        directory: PathBuf,
        adopted: Option<Prepared>,
        on_failure: OnFailure,
        threads: bool,
    ) -> Result<Preparer, LogError> {
        let stop = Arc::new(AtomicBool::new(false));
        let workshop = Workshop { disk, directory: directory.clone(), stop: stop.clone(), on_failure };
        if !threads {
            let helper = Helper::Caller { jobs: VecDeque::new(), prepared: VecDeque::new(), workshop };
            return Ok(Preparer { helper, adopted, requested: false });
        }
        let (jobs, job_queue) = channel();
        let (done, prepared) = channel();
        let work = move || {
            for job in job_queue {
                if workshop.perform(job).is_some_and(|result| done.send(result).is_err()) {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new()
            .name("raft-log-prepare".into())
            .spawn(work)
            .map_err(|source| LogError::io("start a thread for", &directory, None, source))?;
        let helper = Helper::Thread { jobs: Some(jobs), prepared, stop, thread: Some(thread) };
        Ok(Preparer { helper, adopted, requested: false })
    }

    /// Asks for a segment, unless one is on its way.
    pub fn request(&mut self, sequence: u32, capacity: u64) {
        if !self.requested && self.adopted.is_none() {
            self.requested = true;
            self.send(Job::Prepare { sequence, capacity });
        }
    }

    /// Waits for the segment that was asked for.
    pub fn take(&mut self) -> Result<Prepared, LogError> {
        if let Some(prepared) = self.adopted.take() {
            return Ok(prepared);
        }
        assert!(self.requested, "a segment is taken only after it was asked for");
        self.requested = false;
        loop {
            match &mut self.helper {
                Helper::Thread { prepared, .. } => {
                    return prepared.recv().expect("the helper thread answers every request");
                }
                Helper::Caller { prepared, .. } => {
                    if let Some(result) = prepared.pop_front() {
                        return result;
                    }
                    assert!(self.run_once(), "every request is answered");
                }
            }
        }
    }

    /// Syncs an index file some time soon.
    pub fn sync_index(&mut self, file: FileHandle, path: PathBuf) {
        self.send(Job::SyncIndex { file, path });
    }

    /// Without a thread: does one job in its place. False: there is none.
    pub fn run_once(&mut self) -> bool {
        let Helper::Caller { jobs, prepared, workshop } = &mut self.helper else { return false };
        let Some(job) = jobs.pop_front() else { return false };
        prepared.extend(workshop.perform(job));
        true
    }

    fn send(&mut self, job: Job) {
        match &mut self.helper {
            Helper::Thread { jobs, .. } => {
                let jobs = jobs.as_ref().expect("present until dropped");
                jobs.send(job).expect("the helper thread lives as long as this");
            }
            Helper::Caller { jobs, .. } => jobs.push_back(job),
        }
    }
}

impl Drop for Preparer {
    fn drop(&mut self) {
        if let Helper::Thread { jobs, stop, thread, .. } = &mut self.helper {
            stop.store(true, Ordering::Relaxed);
            *jobs = None;
            if let Some(thread) = thread.take() {
                // A panic there was printed by its hook; this thread is ending anyway.
                let _ = thread.join();
            }
        }
    }
}
