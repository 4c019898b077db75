//! A disk that is memory: the same calls give the same files, and thousands of logs a second can be opened.

use redisraft::log::disk::{Disk, DiskFile, FileHandle, Guard, Mode};
use redisraft::log::window::Window;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

/// What the files of a directory hold.
pub type Files = BTreeMap<PathBuf, Vec<u8>>;

#[derive(Default)]
pub struct MemoryDisk {
    files: Mutex<BTreeMap<PathBuf, Arc<MemoryFile>>>,
    drawn: AtomicU32,
}

#[derive(Default)]
struct MemoryFile(Mutex<Vec<u8>>);

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("one thread")
}

impl MemoryDisk {
    pub fn of(files: &Files) -> Arc<MemoryDisk> {
        let file = |bytes: &Vec<u8>| Arc::new(MemoryFile(Mutex::new(bytes.clone())));
        let files = files.iter().map(|(path, bytes)| (path.clone(), file(bytes))).collect();
        Arc::new(MemoryDisk { files: Mutex::new(files), drawn: AtomicU32::new(0) })
    }

    /// All files as they are now.
    pub fn files(&self) -> Files {
        locked(&self.files).iter().map(|(path, file)| (path.clone(), locked(&file.0).clone())).collect()
    }

    fn file(&self, path: &Path) -> io::Result<Arc<MemoryFile>> {
        Ok(locked(&self.files).get(path).ok_or(io::ErrorKind::NotFound)?.clone())
    }
}

/// A window on bytes.
pub fn window(bytes: &[u8]) -> Window {
    let file = Arc::new(MemoryFile(Mutex::new(bytes.to_vec())));
    Window::of(file, Path::new("bytes")).expect("memory can be read")
}

impl Disk for MemoryDisk {
    fn create_directory(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }
    fn sync_directory(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }
    fn list(&self, directory: &Path) -> io::Result<Vec<String>> {
        let files = locked(&self.files);
        let here = files.keys().filter(|path| path.parent() == Some(directory));
        Ok(here.filter_map(|path| Some(path.file_name()?.to_str()?.to_string())).collect())
    }
    fn exists(&self, path: &Path) -> bool {
        locked(&self.files).contains_key(path)
    }
    fn open(&self, path: &Path, mode: Mode) -> io::Result<FileHandle> {
        if mode != Mode::CreateNew {
            return Ok(self.file(path)?);
        }
        if self.exists(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let file = Arc::new(MemoryFile::default());
        locked(&self.files).insert(path.to_path_buf(), file.clone());
        Ok(file)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut files = locked(&self.files);
        let file = files.remove(from).ok_or(io::ErrorKind::NotFound)?;
        files.insert(to.to_path_buf(), file);
        Ok(())
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        locked(&self.files).remove(path).ok_or(io::ErrorKind::NotFound)?;
        Ok(())
    }
    /// Nobody else is here.
    fn lock(&self, _: &Path) -> io::Result<Option<Guard>> {
        Ok(Some(Box::new(())))
    }
    fn now(&self) -> Duration {
        Duration::ZERO
    }
    fn random(&self) -> io::Result<u32> {
        Ok(self.drawn.fetch_add(1, Ordering::Relaxed).wrapping_mul(0x9E37_79B9) ^ 0x5EED_0000)
    }
}

impl DiskFile for MemoryFile {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut content = locked(&self.0);
        let end = offset as usize + bytes.len();
        if content.len() < end {
            content.resize(end, 0);
        }
        content[offset as usize..end].copy_from_slice(bytes);
        Ok(())
    }
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        let content = locked(&self.0);
        let start = usize::try_from(offset).ok().filter(|start| *start <= content.len());
        let wanted = start.and_then(|start| content[start..].get(..bytes.len()));
        bytes.copy_from_slice(wanted.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
    fn allocate(&self, length: u64) -> io::Result<()> {
        let mut content = locked(&self.0);
        let length = (length as usize).max(content.len());
        content.resize(length, 0);
        Ok(())
    }
    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }
    fn sync_all(&self) -> io::Result<()> {
        Ok(())
    }
    fn length(&self) -> io::Result<u64> {
        Ok(locked(&self.0).len() as u64)
    }
}
