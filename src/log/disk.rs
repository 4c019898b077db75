//! Every system call of the log, behind a trait, so that tests can make the n-th one fail.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use nix::fcntl::{fallocate, posix_fadvise, FallocateFlags, Flock, FlockArg, OFlag, PosixFadviseAdvice};

use super::lease::is_unseen;
use super::map::Mapping;
use super::segment::BLOCK_BYTES;

/// A lock, held until dropped.
pub type Guard = Box<dyn Send + Sync>;
/// An open file.
pub type FileHandle = Arc<dyn DiskFile>;

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Must exist; never written.
    Read,
    /// Must exist.
    Write,
    /// Must exist. `write_durable_at` goes past the page cache if the file system can.
    Direct,
    /// Must exist; never written. Read past the page cache if the file system can.
    Uncached,
    /// Must not exist yet; readable by its owner only (META holds the cluster secret).
    CreateNew,
}

/// A file system, as far as the log needs one. Paths are complete.
pub trait Disk: Send + Sync {
    /// Makes the directory and its parents; it is no error if they exist.
    fn create_directory(&self, path: &Path) -> io::Result<()>;
    /// Makes created, renamed and removed names durable.
    fn sync_directory(&self, path: &Path) -> io::Result<()>;
    /// The names in a directory, in no order.
    fn list(&self, path: &Path) -> io::Result<Vec<String>>;
    fn exists(&self, path: &Path) -> bool;
    fn open(&self, path: &Path, mode: Mode) -> io::Result<FileHandle>;
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Takes the exclusive lock of a file, made if missing, and writes this process's id into it.
    /// `None`: another holds it.
    fn lock(&self, path: &Path) -> io::Result<Option<Guard>>;
    /// Time since some fixed moment: for periods and for statistics. It never goes back.
    fn now(&self) -> Duration {
        static START: OnceLock<Instant> = OnceLock::new();
        START.get_or_init(Instant::now).elapsed()
    }
    /// Waits until there may be space again. False: this disk cannot wait, its time is not the clock's.
    fn pause(&self, _: Duration) -> bool {
        false
    }
    /// A random number, for the salt of a segment.
    fn random(&self) -> io::Result<u32> {
        getrandom::u32().map_err(|error| io::Error::other(error.to_string()))
    }
}

/// An open file. Writes and reads are whole or an error.
pub trait DiskFile: Send + Sync {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Writes whole blocks, from memory that begins at a block boundary; on return they are on stable storage. What
    /// was written otherwise need not be.
    fn write_durable_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.write_at(bytes, offset)?;
        self.sync_data()
    }
    /// With `Mode::Uncached` whole blocks, into memory that begins at a block boundary.
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()>;
    /// Reserves disk space for the first `length` bytes and makes the file at least this long.
    fn allocate(&self, length: u64) -> io::Result<()>;
    /// fdatasync: everything written is on stable storage.
    fn sync_data(&self) -> io::Result<()>;
    /// fsync: the file's metadata too.
    fn sync_all(&self) -> io::Result<()>;
    fn length(&self) -> io::Result<u64>;
    /// Gives back the space behind `length` of a file that was removed, and that nobody else uses; else that is an error.
    /// A disk may leave it to the end of the file.
    fn give_back(&self, _length: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
    /// The file as long as it is now, mapped; `None` where that cannot be had.
    fn map(&self) -> Option<Mapping> {
        None
    }
}

/// The disk of the operating system.
pub struct SystemDisk;

struct SystemFile {
    file: File,
    /// The same file, opened with O_DIRECT and O_DSYNC: a write is one call that copies nothing. The kernel keeps
    /// reads of the file coherent with it.
    direct: Option<File>,
    /// Reads show what is on the disk, not what is in the page cache.
    uncached: bool,
}

impl SystemFile {
    /// `None`: the file system cannot, or not with blocks of this size. It is asked to read one to find out.
    fn open_direct(path: &Path, write: bool) -> Option<File> {
        let flags = (OFlag::O_DIRECT | OFlag::O_DSYNC).bits();
        let file = OpenOptions::new().read(true).write(write).custom_flags(flags).open(path).ok()?;
        let mut buffer = vec![0; 2 * BLOCK_BYTES];
        let start = buffer.as_ptr().align_offset(BLOCK_BYTES);
        file.read_exact_at(buffer.get_mut(start..start + BLOCK_BYTES)?, 0).ok()?;
        Some(file)
    }
}

impl Disk for SystemDisk {
    fn pause(&self, duration: Duration) -> bool {
        std::thread::sleep(duration);
        true
    }

    fn create_directory(&self, path: &Path) -> io::Result<()> {
        fs::create_dir_all(path)
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        // A name that is not UTF-8 is none of ours.
        fs::read_dir(path)?
            .filter_map(|item| item.map(|item| item.file_name().into_string().ok()).transpose())
            .collect()
    }

    fn exists(&self, path: &Path) -> bool {
        path.exists()
    }

    fn open(&self, path: &Path, mode: Mode) -> io::Result<FileHandle> {
        let mut options = OpenOptions::new();
        let uncached = mode == Mode::Uncached;
        options
            .read(true)
            .write(mode != Mode::Read && !uncached)
            .create_new(mode == Mode::CreateNew)
            .mode(0o600);
        let file = options.open(path)?;
        let direct = matches!(mode, Mode::Direct | Mode::Uncached)
            .then(|| SystemFile::open_direct(path, !uncached))
            .flatten();
        Ok(Arc::new(SystemFile { file, direct, uncached }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Guard>> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => {
                lock.set_len(0)?;
                lock.write_all_at(format!("{}\n", std::process::id()).as_bytes(), 0)?;
                Ok(Some(Box::new(lock)))
            }
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => Ok(None),
            Err((_, errno)) => Err(errno.into()),
        }
    }
}

impl DiskFile for SystemFile {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)
    }

    fn write_durable_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        match &self.direct {
            Some(direct) => direct.write_all_at(bytes, offset),
            None => {
                self.file.write_all_at(bytes, offset)?;
                self.file.sync_data()
            }
        }
    }

    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        if !self.uncached {
            return self.file.read_exact_at(bytes, offset);
        }
        if let Some(direct) = &self.direct {
            return direct.read_exact_at(bytes, offset);
        }
        let (at, length) = (offset as i64, bytes.len() as i64);
        posix_fadvise(&self.file, at, length, PosixFadviseAdvice::POSIX_FADV_DONTNEED)?;
        self.file.read_exact_at(bytes, offset)
    }

    fn allocate(&self, length: u64) -> io::Result<()> {
        let allocated = loop {
            match fallocate(&self.file, FallocateFlags::empty(), 0, length as i64) {
                Err(nix::errno::Errno::EINTR) => {}
                result => break result,
            }
        };
        match allocated {
            Ok(()) => Ok(()),
            // Some file systems cannot reserve; the zero fill that follows then meets ENOSPC by itself.
            Err(nix::errno::Errno::EOPNOTSUPP) => self.file.set_len(length.max(self.length()?)),
            Err(errno) => Err(errno.into()),
        }
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn sync_all(&self) -> io::Result<()> {
        self.file.sync_all()
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn give_back(&self, length: u64) -> io::Result<()> {
        match is_unseen(&self.file) {
            true => self.file.set_len(length),
            false => Err(io::ErrorKind::ResourceBusy.into()),
        }
    }

    fn map(&self) -> Option<Mapping> {
        // What is in the page cache is not what such a reader asks for.
        if self.uncached {
            return None;
        }
        Mapping::of(&self.file).ok()
    }
}
