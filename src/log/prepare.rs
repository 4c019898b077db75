//! Makes segments ahead of need, in a helper thread: allocated, zero-filled and synced, so that an append is one
//! `pwrite` into existing blocks and its `fdatasync` has no metadata to write. A full disk shows up here first.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{channel, Receiver, Sender};
use std::sync::Arc;
use std::thread::JoinHandle;

use super::disk::{Disk, FileHandle, Mode};
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
    /// Whether bytes of a former life stand behind the header.
    pub recycled: bool,
    pub path: PathBuf,
    pub file: FileHandle,
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
    let index_path = index_path(directory, sequence);
    Ok(Prepared { sequence, capacity, salt, recycled: false, path, file, index_path, index_file })
}

/// Takes over a prepared segment that an earlier process left; the caller has seen that its header is zeros, and
/// behind it, too, if it is not `recycled`.
pub fn adopt(disk: &dyn Disk, directory: &Path, sequence: u32, recycled: bool) -> Result<Prepared, LogError> {
    let path = segment_path(directory, sequence);
    let open = || {
        let file = disk.open(&path, Mode::Write)?;
        Ok((file.length()?, file))
    };
    let (capacity, file) = open().map_err(|source| LogError::io("open", &path, None, source))?;
    let (salt, index_file) = new_index(disk, directory, sequence)?;
    disk.sync_directory(directory).map_err(|source| LogError::io("fsync", directory, None, source))?;
    let index_path = index_path(directory, sequence);
    Ok(Prepared { sequence, capacity, salt, recycled, path, file, index_path, index_file })
}

/// A fresh index file, with a salt that no earlier life of the segment had.
fn new_index(disk: &dyn Disk, directory: &Path, sequence: u32) -> Result<(u32, FileHandle), LogError> {
    let path = index_path(directory, sequence);
    let salt = getrandom::u32().map_err(|error| {
        LogError::io("get random bytes for", &path, None, std::io::Error::other(error.to_string()))
    })?;
    let file = index_file::replace(disk, &path, &index_file::encode_header(salt, sequence))?;
    Ok((salt, file))
}

impl Prepared {
    /// Makes room for an entry that is larger than a segment.
    pub fn grow(&mut self, capacity: u64) -> Result<(), LogError> {
        assert!(capacity > self.capacity, "segments only grow");
        fill_with_zeros(&self.file, &self.path, self.capacity..capacity, &AtomicBool::new(false))?;
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

/// The helper thread, seen from the sync thread. Dropping it stops the helper; a half-made segment is left as a
/// temporary file for the next start to remove.
pub struct Preparer {
    jobs: Option<Sender<Job>>,
    prepared: Receiver<Result<Prepared, LogError>>,
    /// Left by an earlier process, to be used first.
    adopted: Option<Prepared>,
    /// Whether a segment was asked for and not taken yet. Invariant: at most one is.
    requested: bool,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Preparer {
    /// Starts the helper. `on_failure` is told of an index sync that failed.
    pub fn start(
        disk: Arc<dyn Disk>,
        directory: PathBuf,
        adopted: Option<Prepared>,
        on_failure: impl Fn(LogError) + Send + 'static,
    ) -> Result<Preparer, LogError> {
        let (jobs, job_queue) = channel();
        let (done, prepared) = channel();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let work_directory = directory.clone();
        let work = move || {
            for job in job_queue {
                match job {
                    Job::Prepare { sequence, capacity } => {
                        let result = prepare(disk.as_ref(), &work_directory, sequence, capacity, &stopped);
                        if done.send(result).is_err() {
                            return;
                        }
                    }
                    Job::SyncIndex { file, path } => {
                        if let Err(source) = file.sync_data() {
                            on_failure(LogError::io("fdatasync", &path, None, source));
                        }
                    }
                }
            }
        };
        let thread = std::thread::Builder::new()
            .name("raft-log-prepare".into())
            .spawn(work)
            .map_err(|source| LogError::io("start a thread for", &directory, None, source))?;
        Ok(Preparer { jobs: Some(jobs), prepared, adopted, requested: false, stop, thread: Some(thread) })
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
        self.prepared.recv().expect("the helper thread answers every request")
    }

    /// Syncs an index file some time soon.
    pub fn sync_index(&self, file: FileHandle, path: PathBuf) {
        self.send(Job::SyncIndex { file, path });
    }

    fn send(&self, job: Job) {
        let jobs = self.jobs.as_ref().expect("present until dropped");
        jobs.send(job).expect("the helper thread lives as long as this");
    }
}

impl Drop for Preparer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // A panic there was printed by its hook; this thread is ending anyway.
            let _ = thread.join();
        }
    }
}
