//! A disk in memory that keeps only what it promised to keep.
//!
//! ```text
//!   write --> live (what the process reads)
//!     `-----> journal --- settle ---> pending --- sync ---> durable
//!               |                        |
//!               '-- a crash cuts it      '-- a loss of power takes some sectors of it, in any order
//! ```
//!
//! Calls are noted in a journal and count only when [`SimDisk::settle`] is called, at the simulated time at which the
//! disk is done. A crash in between lets some first part of the journal have happened.

mod content;
mod damage;
mod file;
mod lies;

pub use damage::Damage;

use crate::random::Random;
use content::Content;
use file::SimFile;
use lies::Lies;
use redisraft::log::disk::{Disk, FileHandle, Guard, Mode};
use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

pub const SECTOR_BYTES: u64 = 512;

/// What a crash takes away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    /// `kill -9`: the kernel still writes all that it was given.
    Process,
    /// Loss of power: of what was not synced, any sectors may be there.
    Power,
}

/// A failure that a later call will meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    Sync,
    Write,
    Read,
}

#[derive(Clone, Debug)]
enum Step {
    Add(String, usize),
    Remove(String),
    Rename(String, String),
    /// All names that begin with the first begin with the second.
    Move(String, String),
}

impl Step {
    fn apply(&self, names: &mut BTreeMap<String, usize>) {
        match self {
            Step::Add(name, content) => drop(names.insert(name.clone(), *content)),
            Step::Remove(name) => drop(names.remove(name)),
            Step::Rename(from, to) => {
                if let Some(content) = names.remove(from) {
                    names.insert(to.clone(), content);
                }
            }
            Step::Move(from, to) => {
                let moved: Vec<String> =
                    names.keys().filter(|name| name.starts_with(from)).cloned().collect();
                for name in moved {
                    let content = names.remove(&name).expect("listed");
                    names.insert(format!("{to}{}", &name[from.len()..]), content);
                }
            }
        }
    }
}

enum Operation {
    Write {
        content: usize,
        offset: u64,
        bytes: Vec<u8>,
    },
    /// Past the page cache: durable when it is done.
    WriteDurable {
        content: usize,
        offset: u64,
        bytes: Vec<u8>,
    },
    Extend {
        content: usize,
        length: u64,
    },
    Sync {
        content: usize,
    },
    /// The sync has failed: what was not synced is on the disk or not, and the kernel has forgotten it.
    FailedSync {
        content: usize,
    },
    Name(Step),
    SyncNames,
}

struct State {
    contents: Vec<Content>,
    /// Names as the process sees them.
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    /// What happened to names since they were synced.
    steps: Vec<Step>,
    journal: Vec<Operation>,
    locked: bool,
    now: Duration,
    random: Random,
    failure: Option<Failure>,
    /// No file can grow.
    full: bool,
    lies: Lies,
}

/// One machine's disk; clones are the same disk.
#[derive(Clone)]
pub struct SimDisk(Arc<Mutex<State>>);

impl SimDisk {
    pub fn new(random: Random) -> SimDisk {
        SimDisk(Arc::new(Mutex::new(State {
            contents: Vec::new(),
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            steps: Vec::new(),
            journal: Vec::new(),
            locked: false,
            now: Duration::ZERO,
            random,
            failure: None,
            full: false,
            lies: Lies::default(),
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("there is one thread")
    }

    pub fn set_now(&self, now_us: u64) {
        self.state().now = Duration::from_micros(now_us);
    }

    /// All that was called has happened.
    pub fn settle(&self) {
        self.state().perform(usize::MAX);
    }

    /// Gives a directory another name.
    pub fn move_directory(&self, from: &Path, to: &Path) {
        self.state().name(Step::Move(format!("{}/", key(from)), format!("{}/", key(to))));
    }

    /// What a process reads in this file; nothing if there is none.
    pub fn contents_of(&self, path: &Path) -> Vec<u8> {
        let state = self.state();
        state.find(path).map_or(Vec::new(), |content| state.contents[content].live.clone())
    }

    /// The machine, or the process, stops while the disk is at work.
    pub fn crash(&self, crash: Crash) {
        let state = &mut *self.state();
        let done = state.random.index(state.journal.len() + 1);
        state.perform(done);
        state.journal.clear();
        state.admit_lies();
        let kept_of_four = [0, 2, 2, 4][state.random.index(4)];
        if crash == Crash::Power {
            let steps = state.random.index(state.steps.len() + 1);
            state.names = state.durable_names.clone();
            for step in state.steps.drain(..).take(steps) {
                step.apply(&mut state.names);
            }
            state.durable_names = state.names.clone();
        } else {
            state.names = state.durable_names.clone();
            state.steps.iter().for_each(|step| step.apply(&mut state.names));
        }
        for content in &mut state.contents {
            match crash {
                Crash::Power => content.lose_power(kept_of_four, &mut state.random),
                Crash::Process => content.reread(),
            }
        }
        state.locked = false;
        state.failure = None;
    }

    /// The next call of that kind fails.
    pub fn fail_next(&self, failure: Failure) {
        self.state().failure = Some(failure);
    }

    pub fn set_full(&self, full: bool) {
        self.state().full = full;
    }

    /// Of a thousand writes, this many get lost or go elsewhere although the sync says otherwise.
    pub fn set_lying(&self, per_mille: u64) {
        self.state().lies.per_mille = per_mille;
    }

    /// All faults that are still to come are called off.
    pub fn heal(&self) {
        let mut state = self.state();
        state.failure = None;
        state.full = false;
        state.lies.per_mille = 0;
    }

    /// Everything is gone: a new disk in the machine.
    pub fn wipe(&self) {
        let mut state = self.state();
        state.names.clear();
        state.durable_names.clear();
        state.steps.clear();
        state.journal.clear();
        state.contents.clear();
        state.locked = false;
    }
}

impl State {
    /// Lets the first `count` calls of the journal happen.
    fn perform(&mut self, count: usize) {
        let count = count.min(self.journal.len());
        for operation in self.journal.drain(..count).collect::<Vec<_>>() {
            match operation {
                Operation::Write { content, offset, bytes } => self.write(content, offset, bytes),
                Operation::WriteDurable { content, offset, bytes } => {
                    self.contents[content].write_durable(offset, &bytes);
                    let log = self.is_log(content);
                    self.lies.wrote(content, log);
                    self.lies.synced(content);
                }
                Operation::Extend { content, length } => self.contents[content].extend_pending(length),
                Operation::Sync { content } => {
                    self.contents[content].sync();
                    self.lies.synced(content);
                }
                Operation::FailedSync { content } => self.contents[content].lose_power(2, &mut self.random),
                Operation::Name(step) => self.steps.push(step),
                Operation::SyncNames => {
                    for step in self.steps.drain(..) {
                        step.apply(&mut self.durable_names);
                    }
                }
            }
        }
    }

    /// A file's bytes past the page cache: what the kernel still holds is written first.
    fn stored(&self, content: usize) -> Vec<u8> {
        let mut bytes = self.contents[content].written();
        for operation in &self.journal {
            match operation {
                Operation::Write { content: of, offset, bytes: written }
                | Operation::WriteDurable { content: of, offset, bytes: written }
                    if *of == content =>
                {
                    content::write_into(&mut bytes, *offset, written)
                }
                Operation::Extend { content: of, length } if *of == content => {
                    content::extend(&mut bytes, *length)
                }
                _ => {}
            }
        }
        bytes
    }

    fn name(&mut self, step: Step) {
        step.apply(&mut self.names);
        self.journal.push(Operation::Name(step));
    }

    /// Whether the call that comes now fails.
    fn fails(&mut self, failure: Failure) -> io::Result<()> {
        if self.failure == Some(failure) {
            self.failure = None;
            return Err(io::Error::other(format!("simulated failure: {failure:?}")));
        }
        Ok(())
    }

    fn find(&self, path: &Path) -> io::Result<usize> {
        self.names.get(&key(path)).copied().ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
    }
}

fn key(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

struct Lock(SimDisk);

impl Drop for Lock {
    fn drop(&mut self) {
        self.0.state().locked = false;
    }
}

impl Disk for SimDisk {
    fn create_directory(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn sync_directory(&self, _: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.fails(Failure::Sync)?;
        state.journal.push(Operation::SyncNames);
        Ok(())
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        let prefix = format!("{}/", key(path));
        let state = self.state();
        Ok(state.names.keys().filter_map(|name| Some(name.strip_prefix(&prefix)?.to_string())).collect())
    }

    fn exists(&self, path: &Path) -> bool {
        self.state().names.contains_key(&key(path))
    }

    fn open(&self, path: &Path, mode: Mode) -> io::Result<FileHandle> {
        let mut state = self.state();
        let content = match (mode, state.find(path)) {
            (Mode::CreateNew, Ok(_)) => return Err(io::ErrorKind::AlreadyExists.into()),
            (Mode::CreateNew, Err(_)) => {
                state.contents.push(Content::default());
                let content = state.contents.len() - 1;
                state.name(Step::Add(key(path), content));
                content
            }
            (Mode::Read | Mode::Write | Mode::Direct | Mode::Uncached, found) => found?,
        };
        Ok(Arc::new(SimFile { disk: self.clone(), content, mode }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.find(from)?;
        state.name(Step::Rename(key(from), key(to)));
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.find(path)?;
        state.name(Step::Remove(key(path)));
        Ok(())
    }

    fn lock(&self, _: &Path) -> io::Result<Option<Guard>> {
        let mut state = self.state();
        if std::mem::replace(&mut state.locked, true) {
            return Ok(None);
        }
        Ok(Some(Box::new(Lock(self.clone()))))
    }

    fn now(&self) -> Duration {
        self.state().now
    }

    fn random(&self) -> io::Result<u32> {
        Ok(self.state().random.draw() as u32)
    }
}
