//! The sync thread: takes all that is queued, writes it as one batch, syncs once, tells.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock};

use super::active::SegmentView;
use super::disk::Guard;
use super::error::LogError;
use super::mend::{Holes, Mend};
use super::scrub::Scrub;
use super::stats::{Stats, SyncStats};
use super::table::Placement;
use super::writer::{LogWriter, Purge, Work, SYNC_PERIOD};
use super::SharedNotify;
use crate::limits::LOG_BATCH_BYTES;

/// Damaged places that are written again before the next batch has its turn.
const MENDS_AT_ONCE: usize = 16;

/// What the raft thread asks for.
#[derive(Default)]
struct Queue {
    work: VecDeque<Work>,
    /// The request that was taken last: by the time something else is taken it is written.
    taken: u64,
    purge: Option<Purge>,
    /// Damaged places.
    mends: VecDeque<Mend>,
    /// Whether it was their turn last.
    mended: bool,
    closing: bool,
}

/// What the sync thread does next.
enum Task {
    Write(Vec<Work>),
    Purge(Purge),
    Mend(Vec<Mend>),
    /// Nothing was asked for some time.
    Maintain,
}

impl Queue {
    /// A purge as soon as it may be done; else a batch: all that waits, unless it is more than one sync should cover.
    fn take(&mut self) -> Option<Task> {
        if self.purge.as_ref().is_some_and(|purge| purge.after_request <= self.taken) {
            return self.purge.take().map(Task::Purge);
        }
        // Batches and mending take turns.
        if !self.mends.is_empty() && (self.work.is_empty() || !self.mended) {
            self.mended = true;
            let count = self.mends.len().min(MENDS_AT_ONCE);
            return Some(Task::Mend(self.mends.drain(..count).collect()));
        }
        self.mended = false;
        let mut bytes = 0;
        let count = self.work.iter().take_while(|work| {
            let room = bytes < LOG_BATCH_BYTES;
            bytes += work.payload_bytes;
            room
        });
        let count = count.count();
        self.taken = self.work.get(count.checked_sub(1)?)?.id;
        Some(Task::Write(self.work.drain(..count).collect()))
    }
}

/// News for the raft thread.
#[derive(Default)]
pub struct Placed {
    pub placements: Vec<Placement>,
    pub segments: Vec<Arc<SegmentView>>,
}

/// What raft thread and sync thread share.
pub struct Shared {
    queue: Mutex<Queue>,
    wake: Condvar,
    /// Id of the last durable request.
    durable: AtomicU64,
    /// The first failure; once set nothing is acknowledged any more.
    failure: OnceLock<LogError>,
    fsync: AtomicBool,
    /// For whoever waits for space: nobody waits for the log any more.
    closing: Arc<AtomicBool>,
    placed: Mutex<Placed>,
    stats: Arc<Mutex<SyncStats>>,
}

/// A thread that panicked while holding a lock has left the log in an unknown state.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no thread of the log panics")
}

impl Shared {
    pub fn new(fsync: bool, stats: Arc<Mutex<SyncStats>>) -> Shared {
        Shared {
            queue: Mutex::default(),
            wake: Condvar::new(),
            durable: AtomicU64::new(0),
            failure: OnceLock::new(),
            fsync: AtomicBool::new(fsync),
            closing: Arc::default(),
            placed: Mutex::default(),
            stats,
        }
    }

    /// Hands a request over; after a failure it is dropped, as it can never be acknowledged. True: the thread may be
    /// asleep. (It looks at the queue before it sleeps: it has to be woken only by the first.)
    #[must_use]
    pub fn submit(&self, work: Work) -> bool {
        if self.failure.get().is_some() {
            return false;
        }
        let mut queue = lock(&self.queue);
        queue.work.push_back(work);
        queue.work.len() == 1
    }

    /// Writes a damaged place again, some time soon.
    pub fn mend(&self, mend: Mend) {
        if self.failure.get().is_none() {
            lock(&self.queue).mends.push_back(mend);
            self.wake.notify_one();
        }
    }

    /// Gives up the beginning of the log, some time soon.
    pub fn purge(&self, mut purge: Purge) {
        if self.failure.get().is_some() {
            return;
        }
        let mut queue = lock(&self.queue);
        if let Some(before) = queue.purge.take() {
            // One META for both.
            purge.views.splice(..0, before.views);
        }
        queue.purge = Some(purge);
        drop(queue);
        self.wake.notify_one();
    }

    /// Not while the lock is held: the thread needs it at once.
    pub fn wake(&self) {
        self.wake.notify_one();
    }

    pub fn durable(&self) -> Result<u64, LogError> {
        match self.failure.get() {
            Some(error) => Err(error.clone()),
            None => Ok(self.durable.load(Ordering::Acquire)),
        }
    }

    pub fn take_placed(&self) -> Placed {
        std::mem::take(&mut lock(&self.placed))
    }

    pub fn prepare_last_error(&self) -> Option<String> {
        lock(&self.stats).prepare_last_error()
    }

    /// Fills in what this side knows.
    pub fn describe(&self, stats: &mut Stats) {
        lock(&self.stats).describe(stats);
        stats.queued_requests = lock(&self.queue).work.len() as u64;
    }

    pub fn set_fsync(&self, fsync: bool) {
        self.fsync.store(fsync, Ordering::Relaxed);
    }

    /// Set when the log is being closed.
    pub fn closing(&self) -> Arc<AtomicBool> {
        self.closing.clone()
    }

    pub fn close(&self) {
        self.closing.store(true, Ordering::Relaxed);
        lock(&self.queue).closing = true;
        self.wake.notify_one();
    }

    /// Records the first failure; later ones follow from it.
    pub fn fail(&self, error: LogError) {
        let _ = self.failure.set(error);
    }

    /// Waits for something to do; `None` when the log is closed and all is done.
    fn next_task(&self, maintenance: bool) -> Option<Task> {
        let mut queue = lock(&self.queue);
        loop {
            if let Some(task) = queue.take() {
                return Some(task);
            }
            if queue.closing {
                return None;
            }
            if maintenance {
                let waited = self.wake.wait_timeout(queue, SYNC_PERIOD).expect("no thread of the log panics");
                queue = waited.0;
                if waited.1.timed_out() {
                    return queue.take().or(Some(Task::Maintain));
                }
            } else {
                queue = self.wake.wait(queue).expect("no thread of the log panics");
            }
        }
    }

    /// Tells the raft thread of a batch that is durable.
    fn publish(&self, writer: &mut LogWriter, id: u64) {
        let mut placed = lock(&self.placed);
        placed.placements.append(&mut writer.placements);
        placed.segments.append(&mut writer.new_segments);
        drop(placed);
        self.durable.store(id, Ordering::Release);
    }
}

/// The side of the log that writes: owner of the files, fed through `Shared`.
pub struct Syncer {
    pub shared: Arc<Shared>,
    pub writer: LogWriter,
    pub holes: Arc<Holes>,
    pub notify: SharedNotify,
}

impl Syncer {
    /// The sync thread's life: until the log is closed, or the first failure.
    pub fn run(mut self) {
        if let Err(error) = self.write_all() {
            self.fail(error);
        }
    }

    fn write_all(&mut self) -> Result<(), LogError> {
        while let Some(task) = self.shared.next_task(self.writer.needs_maintenance()) {
            self.perform(task)?;
            self.writer.maintain()?;
        }
        self.writer.close()
    }

    fn perform(&mut self, task: Task) -> Result<(), LogError> {
        if let Some(error) = self.shared.failure.get() {
            return Err(error.clone());
        }
        match task {
            Task::Write(batch) => {
                let id = batch.last().expect("a batch is not empty").id;
                self.writer.write_batch(&batch, self.shared.fsync.load(Ordering::Relaxed))?;
                self.holes.set_durable_place(self.writer.durable_place());
                self.shared.publish(&mut self.writer, id);
                // Freed before telling: the raft thread may wait for memory, never for this.
                drop(batch);
                (self.notify)();
            }
            Task::Purge(purge) => self.writer.purge(purge)?,
            Task::Mend(mends) => {
                self.writer.mend(mends.iter().map(|mend| &mend.rewrite))?;
                let ended = mends.iter().filter(|mend| self.holes.mended(mend)).count();
                if ended > 0 {
                    (self.notify)();
                }
            }
            Task::Maintain => {}
        }
        Ok(())
    }

    fn fail(&self, error: LogError) {
        self.shared.fail(error);
        (self.notify)();
    }
}

/// The threads of a log, for a program that has only one: whatever they would do is done in `run_once`. Dropping it
/// is a crash: what was not written is lost.
pub struct InlineWriter {
    syncer: Syncer,
    scrub: Scrub,
    closed: bool,
    /// Released with the log's, when both are gone.
    _lock: Arc<Guard>,
}

impl InlineWriter {
    pub(super) fn new(syncer: Syncer, scrub: Scrub, lock: Arc<Guard>) -> InlineWriter {
        InlineWriter { syncer, scrub, closed: false, _lock: lock }
    }

    /// Writes and syncs the next batch; without one, does what is due by the disk's clock; without that, what the
    /// helper or the scrubber would do. After the [`Log`](super::Log) was dropped, closes the files. False: there is nothing to do now.
    ///
    /// An error is told by [`Log::durable`](super::Log::durable); nothing is done after it.
    pub fn run_once(&mut self) -> bool {
        if self.closed || self.syncer.shared.failure.get().is_some() {
            return false;
        }
        match self.step() {
            Ok(worked) => worked,
            Err(error) => {
                self.syncer.fail(error);
                true
            }
        }
    }

    fn step(&mut self) -> Result<bool, LogError> {
        let (task, closing) = {
            let mut queue = lock(&self.syncer.shared.queue);
            (queue.take(), queue.closing)
        };
        let worked = task.is_some();
        if let Some(task) = task {
            self.syncer.perform(task)?;
        }
        let writer = &mut self.syncer.writer;
        if writer.maintain()? || worked || writer.help() || self.scrub.step() {
            return Ok(true);
        }
        if closing {
            writer.close()?;
            self.closed = true;
        }
        Ok(closing)
    }
}
