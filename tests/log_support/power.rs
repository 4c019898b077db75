//! A disk that forgets: what was not synced may be there after a loss of power, or not, sector by sector.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};

use redisraft::log::disk::{Disk, DiskFile, FileHandle, Guard, Mode, SystemDisk};

const SECTOR_BYTES: u64 = 512;

/// The system's disk, with a record of what a loss of power could not take away.
#[derive(Default)]
pub struct PowerDisk {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    contents: Vec<Content>,
    /// Names as the process sees them, as they are durable, and the steps between the two.
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    steps: Vec<Step>,
}

#[derive(Default)]
struct Content {
    durable: Vec<u8>,
    /// Offset and bytes of each write; no bytes: the file was made this long.
    pending: Vec<(u64, Vec<u8>)>,
}

#[derive(Clone)]
enum Step {
    Add(String, usize),
    Remove(String),
    Rename(String, String),
}

impl Step {
    fn apply(self, names: &mut BTreeMap<String, usize>) {
        match self {
            Step::Add(name, content) => drop(names.insert(name, content)),
            Step::Remove(name) => drop(names.remove(&name)),
            Step::Rename(from, to) => {
                let content = names.remove(&from).expect("a name that is there");
                names.insert(to, content);
            }
        }
    }
}

fn write_into(bytes: &mut Vec<u8>, offset: u64, written: &[u8]) {
    let end = offset as usize + written.len();
    bytes.resize(bytes.len().max(end), 0);
    bytes[offset as usize..end].copy_from_slice(written);
}

/// xorshift64: the same images for the same seed.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

impl State {
    fn step(&mut self, step: Step) {
        step.clone().apply(&mut self.names);
        self.steps.push(step);
    }
}

impl PowerDisk {
    /// The directory as a loss of power may leave it now: names up to some step, and of every write that was not
    /// synced some sectors.
    pub fn lose_power(&self, random: &mut Random, to: &Path) {
        let state = self.state.lock().expect("power");
        let mut names = state.durable_names.clone();
        let steps = random.below(state.steps.len() as u64 + 1) as usize;
        state.steps[..steps].iter().for_each(|step| step.clone().apply(&mut names));
        std::fs::create_dir_all(to).expect("create directory");
        // Of four images one lost all, one nothing, the others about half.
        let kept_of_four = [0, 2, 2, 4][random.below(4) as usize];
        for (name, content) in names {
            let Content { durable, pending } = &state.contents[content];
            let mut bytes = durable.clone();
            for (offset, written) in pending {
                if written.is_empty() && random.below(4) < kept_of_four {
                    write_into(&mut bytes, *offset, written);
                }
                let mut start = 0;
                while start < written.len() {
                    let at = offset + start as u64;
                    let length = (SECTOR_BYTES - at % SECTOR_BYTES) as usize;
                    let end = (start + length).min(written.len());
                    if random.below(4) < kept_of_four {
                        write_into(&mut bytes, at, &written[start..end]);
                    }
                    start = end;
                }
            }
            std::fs::write(to.join(name), bytes).expect("write");
        }
    }
}

fn name_of(path: &Path) -> String {
    path.file_name().expect("a name").to_string_lossy().into_owned()
}

impl Disk for PowerDisk {
    fn create_directory(&self, path: &Path) -> io::Result<()> {
        SystemDisk.create_directory(path)
    }
    /// Only the log's own directory counts here: the syncs of its parent come before anything is in it.
    fn sync_directory(&self, _: &Path) -> io::Result<()> {
        let state = &mut *self.state.lock().expect("power");
        state.durable_names = state.names.clone();
        state.steps.clear();
        Ok(())
    }
    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        SystemDisk.list(path)
    }
    fn exists(&self, path: &Path) -> bool {
        SystemDisk.exists(path)
    }
    fn open(&self, path: &Path, mode: Mode) -> io::Result<FileHandle> {
        let file = SystemDisk.open(path, mode)?;
        let mut state = self.state.lock().expect("power");
        if mode == Mode::CreateNew {
            state.contents.push(Content::default());
            let content = state.contents.len() - 1;
            state.step(Step::Add(name_of(path), content));
        }
        // LOCK is not looked at by a start: it is the only file that is not known here.
        let content = state.names.get(&name_of(path)).copied();
        Ok(Arc::new(PowerFile { file, content, state: self.state.clone() }))
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        SystemDisk.rename(from, to)?;
        self.state.lock().expect("power").step(Step::Rename(name_of(from), name_of(to)));
        Ok(())
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        SystemDisk.remove(path)?;
        self.state.lock().expect("power").step(Step::Remove(name_of(path)));
        Ok(())
    }
    fn lock(&self, path: &Path) -> io::Result<Option<Guard>> {
        SystemDisk.lock(path)
    }
}

struct PowerFile {
    file: FileHandle,
    content: Option<usize>,
    state: Arc<Mutex<State>>,
}

impl PowerFile {
    fn note(&self, note: impl FnOnce(&mut Content)) {
        if let Some(content) = self.content {
            note(&mut self.state.lock().expect("power").contents[content]);
        }
    }

    fn settle(&self) {
        self.note(|content| {
            for (offset, written) in content.pending.drain(..) {
                write_into(&mut content.durable, offset, &written);
            }
        });
    }
}

impl DiskFile for PowerFile {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_at(bytes, offset)?;
        self.note(|content| content.pending.push((offset, bytes.to_vec())));
        Ok(())
    }
    /// Only these bytes become durable, and what was written of them before.
    fn write_durable_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_at(bytes, offset)?;
        let end = offset + bytes.len() as u64;
        self.note(|content| {
            for (at, written) in &mut content.pending {
                let (from, to) = ((*at).max(offset), (*at + written.len() as u64).min(end));
                if from < to {
                    let range = (from - *at) as usize..(to - *at) as usize;
                    written[range].copy_from_slice(&bytes[(from - offset) as usize..(to - offset) as usize]);
                }
            }
            write_into(&mut content.durable, offset, bytes);
        });
        Ok(())
    }
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_at(bytes, offset)
    }
    fn allocate(&self, length: u64) -> io::Result<()> {
        self.file.allocate(length)?;
        self.note(|content| content.pending.push((length, Vec::new())));
        Ok(())
    }
    /// The real sync is left out: only this model's loss of power is looked at.
    fn sync_data(&self) -> io::Result<()> {
        self.settle();
        Ok(())
    }
    fn sync_all(&self) -> io::Result<()> {
        self.settle();
        Ok(())
    }
    fn length(&self) -> io::Result<u64> {
        self.file.length()
    }
}
