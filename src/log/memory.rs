//! A disk that is memory, for a node that keeps nothing (`raft.persist no`): the same log code writes to it.
//!
//! What lies in one directory is in memory, each file a memfd: gone with the process, and shared, not copied, when the
//! server forks. Every other path is the system's, so that a dump that the server has written can be taken over from there.
//! "Durable" means "written" here: there is nothing that a sync could add.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use nix::sys::memfd::{memfd_create, MFdFlags};

use super::disk::{Disk, DiskFile, FileHandle, Guard, Mode, SystemDisk};
use super::map::Mapping;

/// A directory in memory.
pub struct MemoryDisk {
    directory: PathBuf,
    files: Mutex<BTreeMap<String, Arc<MemoryFile>>>,
}

struct MemoryFile(File);

impl MemoryDisk {
    /// An empty one; nothing is made on the system's disk.
    pub fn new(directory: &Path) -> MemoryDisk {
        MemoryDisk { directory: directory.to_path_buf(), files: Mutex::default() }
    }

    fn files(&self) -> MutexGuard<'_, BTreeMap<String, Arc<MemoryFile>>> {
        self.files.lock().expect("no holder of this lock can panic")
    }

    /// `None`: the path is the system's.
    fn name(&self, path: &Path) -> Option<String> {
        let inside = path.parent() == Some(self.directory.as_path());
        let name = path.file_name().filter(|_| inside)?;
        Some(name.to_string_lossy().into_owned())
    }
}

fn not_found() -> io::Error {
    io::ErrorKind::NotFound.into()
}

impl Disk for MemoryDisk {
    fn pause(&self, duration: Duration) -> bool {
        SystemDisk.pause(duration)
    }

    fn create_directory(&self, path: &Path) -> io::Result<()> {
        match path == self.directory {
            true => Ok(()),
            false => SystemDisk.create_directory(path),
        }
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        match path == self.directory {
            true => Ok(()),
            false => SystemDisk.sync_directory(path),
        }
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        match path == self.directory {
            true => Ok(self.files().keys().cloned().collect()),
            false => SystemDisk.list(path),
        }
    }

    fn exists(&self, path: &Path) -> bool {
        self.name(path).map_or_else(|| SystemDisk.exists(path), |name| self.files().contains_key(&name))
    }

    fn open(&self, path: &Path, mode: Mode) -> io::Result<FileHandle> {
        let Some(name) = self.name(path) else { return SystemDisk.open(path, mode) };
        let mut files = self.files();
        if mode != Mode::CreateNew {
            return Ok(files.get(&name).ok_or_else(not_found)?.clone());
        }
        if files.contains_key(&name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let descriptor = memfd_create(name.as_str(), MFdFlags::MFD_CLOEXEC)?;
        let file = Arc::new(MemoryFile(File::from(descriptor)));
        files.insert(name, file.clone());
        Ok(file)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        match (self.name(from), self.name(to)) {
            (Some(from), Some(to)) => {
                let mut files = self.files();
                let file = files.remove(&from).ok_or_else(not_found)?;
                files.insert(to, file);
                Ok(())
            }
            (None, None) => SystemDisk.rename(from, to),
            (Some(_), None) | (None, Some(_)) => Err(io::ErrorKind::CrossesDevices.into()),
        }
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        match self.name(path) {
            Some(name) => self.files().remove(&name).map(drop).ok_or_else(not_found),
            None => SystemDisk.remove(path),
        }
    }

    /// Nobody else can see the directory.
    fn lock(&self, _: &Path) -> io::Result<Option<Guard>> {
        Ok(Some(Box::new(())))
    }
}

impl DiskFile for MemoryFile {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_exact_at(bytes, offset)
    }

    /// Takes no memory before it is written.
    fn allocate(&self, length: u64) -> io::Result<()> {
        self.0.set_len(length.max(self.length()?))
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn sync_all(&self) -> io::Result<()> {
        Ok(())
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn map(&self) -> Option<Mapping> {
        Mapping::of(&self.0).ok()
    }
}
