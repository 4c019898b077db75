//! Damage in an open log: met by a read or by the scrubber, filled with a peer's copy, written again by the sync
//! thread.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};

use bytes::Bytes;

use super::active::SegmentView;
use super::disk::{Disk, Mode};
use super::error::LogError;
use super::heal::{examine, Examined, Piece, Rewrite};
use super::hole::{Hole, Lost};
use super::index_file;
use super::meta;
use super::record::{Entry, HEADER_BYTES};
use super::segment::index_path;
use super::store::Log;
use super::window::Window;

/// A place that is to be written again, and the entry that is whole by that.
pub struct Mend {
    pub rewrite: Rewrite,
    /// `None`: something that is no entry.
    pub index: Option<u64>,
}

/// A damaged entry of the log.
struct Open {
    lost: Lost,
    /// The right one, until it is durable in its place.
    filled: Option<Entry>,
}

/// What is damaged and not written again yet; shared by raft thread, sync thread and scrubber.
#[derive(Default)]
pub struct Holes {
    open: Mutex<BTreeMap<u64, Open>>,
    /// What the scrubber met and nobody has looked at yet.
    found: Mutex<Vec<Lost>>,
    /// Everything before this place was durable: segment and offset.
    durable_place: Mutex<(u32, u64)>,
    repaired: AtomicU64,
    damaged: AtomicU64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no thread of the log panics")
}

impl Holes {
    /// Those that a start has found, in a log that is durable up to a place.
    pub fn new(lost: Vec<Lost>, durable_place: (u32, u64)) -> Holes {
        let holes = Holes { durable_place: Mutex::new(durable_place), ..Holes::default() };
        lost.into_iter().filter(|lost| !lost.superseded).for_each(|lost| holes.register(lost));
        holes
    }

    fn register(&self, lost: Lost) {
        let mut open = lock(&self.open);
        let known = open.get(&lost.hole.index).is_some_and(|known| known.lost.place() == lost.place());
        if !known {
            self.damaged.fetch_add(1, Ordering::Relaxed);
            open.insert(lost.hole.index, Open { lost, filled: None });
        }
    }

    /// To be looked at by the raft thread, which knows whether the entry is still in the log.
    pub fn report(&self, lost: Lost) {
        let mut found = lock(&self.found);
        if found.iter().all(|known| known.place() != lost.place()) {
            found.push(lost);
        }
    }

    pub fn durable_place(&self) -> (u32, u64) {
        *lock(&self.durable_place)
    }

    pub fn set_durable_place(&self, place: (u32, u64)) {
        *lock(&self.durable_place) = place;
    }

    /// Entries that left the log need not be filled.
    pub fn keep(&self, first_index: u64, last_index: u64) {
        lock(&self.open).retain(|index, _| (first_index..=last_index).contains(index));
    }

    /// Written and durable. True: that ended a hole.
    pub fn mended(&self, mend: &Mend) -> bool {
        let Some(index) = mend.index else { return false };
        let mut open = lock(&self.open);
        let place = (mend.rewrite.sequence, mend.rewrite.offset);
        let ended = open.get(&index).is_some_and(|open| open.lost.place() == place && open.filled.is_some());
        if ended {
            open.remove(&index);
            self.repaired.fetch_add(1, Ordering::Relaxed);
        }
        ended
    }
}

impl Log {
    /// The entries that were acknowledged and cannot be read, in order: those that the start found, and those met
    /// since. The notice is given when the scrubber adds one, and when a filled one leaves.
    pub fn holes(&self) -> Vec<Hole> {
        self.take_found();
        lock(&self.holes.open).values().map(|open| open.lost.hole.clone()).collect()
    }

    /// What the scrubber met is a hole unless the entry was truncated or purged meanwhile.
    fn take_found(&self) {
        for lost in lock(&self.holes.found).drain(..) {
            let Hole { index, offset, .. } = lost.hole;
            let here = self.table.line(index).map(|line| (line.segment, u64::from(line.offset)));
            if here == Some((lost.sequence, offset)) {
                self.holes.register(lost);
            }
        }
    }

    /// Entries that were damaged and are whole again, since start.
    pub fn repaired(&self) -> u64 {
        self.holes.repaired.load(Ordering::Relaxed)
    }

    /// Entries that were found damaged and not known without a peer, since start.
    pub fn damaged(&self) -> u64 {
        self.take_found();
        self.holes.damaged.load(Ordering::Relaxed)
    }

    /// Puts an entry where one was lost. True: it is the one; it can be read at once, and leaves `holes` when it is
    /// durable in its place. False: there is no hole.
    ///
    /// Errors: it is another entry than the one that was lost.
    pub fn fill(&mut self, entry: Entry) -> Result<bool, LogError> {
        let mut open = lock(&self.holes.open);
        let Some(hole) = open.get_mut(&entry.index) else { return Ok(false) };
        let Hole { file, offset, index, .. } = hole.lost.hole.clone();
        let bytes = hole.lost.rebuild(&entry).map_err(|(expected, found)| LogError::AnotherEntry {
            file: file.clone(),
            offset,
            index,
            expected,
            found,
        })?;
        if hole.filled.is_none() {
            let sequence = hole.lost.sequence;
            self.table.set_length(index, entry.payload.len() as u32);
            hole.filled = Some(entry);
            drop(open);
            let what = format!("entry {index}");
            let rewrite = Rewrite { file, sequence, offset, bytes, what };
            self.shared.mend(Mend { rewrite, index: Some(index) });
        }
        Ok(true)
    }

    /// An entry whose record is not what it should be: filled already, whole but for its header, or a hole.
    pub(super) fn read_damaged(
        &self,
        index: u64,
        view: &SegmentView,
        (expected, found): (String, String),
    ) -> Result<Entry, LogError> {
        if let Some(open) = lock(&self.holes.open).get(&index) {
            let hole = || LogError::Damaged(Box::new(open.lost.hole.clone()));
            return open.filled.clone().ok_or_else(hole);
        }
        let line = self.table.line(index).expect("the caller has seen it");
        let (term, kind, offset) = (line.term, line.kind, u64::from(line.offset));
        let entry = |payload: Vec<u8>| Entry::new(index, term, kind, Bytes::from(payload));
        match self.examine(view, offset, &expected, &found)? {
            Examined::Whole(payload) => Ok(entry(payload)),
            Examined::Damaged(Piece::Rebuilt { header, bytes, what, .. }) => {
                let payload = bytes[HEADER_BYTES..][..header.length as usize].to_vec();
                let (file, sequence) = (view.path.clone(), view.sequence);
                let rewrite = Rewrite { file, sequence, offset, bytes, what };
                self.shared.mend(Mend { rewrite, index: None });
                Ok(entry(payload))
            }
            Examined::Damaged(Piece::Lost(lost)) => {
                let hole = lost.hole.clone();
                self.holes.register(lost);
                Err(LogError::Damaged(Box::new(hole)))
            }
            Examined::Unknown => Err(LogError::corrupt(&view.path, offset, Some(index), expected, found)),
        }
    }

    fn examine(
        &self,
        view: &SegmentView,
        offset: u64,
        expected: &str,
        found: &str,
    ) -> Result<Examined, LogError> {
        let disk: &dyn Disk = self.disk.as_ref();
        let open = disk.open(&view.path, Mode::Read);
        let file = open.map_err(|source| LogError::io("open", &view.path, None, source))?;
        let mut window = Window::of(file, &view.path)?;
        let index = index_file::read(disk, &index_path(&self.directory, view.sequence))?;
        let meta_generation = meta::read(disk, &self.directory)?.meta.generation;
        let segment = (view.sequence, view.salt);
        examine(&mut window, segment, &index, offset, meta_generation, (expected, found))
    }
}
