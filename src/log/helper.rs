//! The helper: does, in a thread of its own, what an append must not wait for. It keeps segments ready ahead of need,
//! syncs index files, and puts purged segments away.
//!
//! What fails here has lost nothing that was acknowledged: it is counted, its text is kept for INFO, and it is tried
//! again. Only the sync of an index file is final, as every failed sync of something written is.

use std::collections::VecDeque;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{channel, Receiver, Sender, TryRecvError};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use super::active::SegmentView;
use super::disk::{Disk, FileHandle, Mode};
use super::error::LogError;
use super::pool::Pool;
use super::prepare::{planned_bytes, Maker, Prepared};
use super::segment::SEGMENT_HEADER_BYTES;
use super::stats::SyncStats;
use crate::limits::LOG_SEGMENTS_AHEAD;

/// After a failure, segments are asked for ahead of need only when this time has passed: the disk may be full.
const RETRY_PERIOD: Duration = Duration::from_secs(1);

enum Job {
    /// Make these segments, one after the other, up to the first that fails: names have no gaps.
    Prepare {
        sequences: Range<u32>,
    },
    SyncIndex {
        file: FileHandle,
        path: PathBuf,
    },
    /// These segments do not belong to the log any more; META says so. Unmapping them takes time, too.
    PutAway {
        sequences: Range<u32>,
        views: Vec<Arc<SegmentView>>,
    },
}

/// Told of an index sync that failed.
pub type OnFailure = Box<dyn Fn(LogError) + Send>;

/// Where and how segments are made.
pub struct Settings {
    pub disk: Arc<dyn Disk>,
    pub directory: PathBuf,
    /// Length of a segment, from some point on.
    pub segment_bytes: u64,
    /// How segments are opened for writing.
    pub mode: Mode,
}

/// Does the jobs.
struct Workshop {
    settings: Settings,
    pool: Pool,
    stop: Arc<AtomicBool>,
    stats: Arc<Mutex<SyncStats>>,
    on_failure: OnFailure,
}

impl Workshop {
    /// Does one job. Every segment that was asked for is answered, up to the first error.
    fn perform(&mut self, job: Job, answer: &mut dyn FnMut(Result<Prepared, LogError>)) {
        match job {
            Job::Prepare { sequences } => {
                for sequence in sequences {
                    let result = self.prepare(sequence);
                    let failed = result.is_err();
                    answer(result);
                    if failed {
                        break;
                    }
                }
            }
            Job::SyncIndex { file, path } => {
                if let Err(source) = file.sync_data() {
                    (self.on_failure)(LogError::io("fdatasync", &path, None, source));
                }
            }
            Job::PutAway { sequences, views } => {
                drop(views);
                let Settings { disk, segment_bytes, .. } = &self.settings;
                if let Err(error) = self.pool.put_away(disk.as_ref(), sequences, *segment_bytes) {
                    self.note_failure(&error);
                }
            }
        }
    }

    /// From the pool if it has one.
    fn prepare(&mut self, sequence: u32) -> Result<Prepared, LogError> {
        let Settings { disk, directory, segment_bytes, mode } = &self.settings;
        let capacity = planned_bytes(sequence, *segment_bytes);
        let maker = Maker { disk: disk.as_ref(), directory, mode: *mode };
        let made = self.pool.take(maker.disk, capacity).and_then(|free| match free {
            Some(free) => maker.recycle(&free, sequence),
            None => maker.make(sequence, capacity, &self.stop),
        });
        match &made {
            Ok(prepared) => {
                let mut stats = self.stats.lock().expect("no thread of the log panics");
                stats.recycled_segments += u64::from(prepared.recycled);
                stats.written_bytes += if prepared.recycled { SEGMENT_HEADER_BYTES as u64 } else { capacity };
            }
            Err(error) => self.note_failure(error),
        }
        made
    }

    fn note_failure(&self, error: &LogError) {
        // Being told to stop half-way is no failure.
        if !self.stop.load(Ordering::Relaxed) {
            self.stats.lock().expect("no thread of the log panics").note_prepare_failure(error);
        }
    }
}

/// Who does the jobs.
enum Hands {
    Thread {
        /// `None` while it is being stopped.
        jobs: Option<Sender<Job>>,
        made: Receiver<Result<Prepared, LogError>>,
        stop: Arc<AtomicBool>,
        thread: Option<JoinHandle<()>>,
    },
    /// The caller, when it has time or cannot go on without.
    Caller { jobs: VecDeque<Job>, made: VecDeque<Result<Prepared, LogError>>, workshop: Workshop },
}

/// The helper as the sync thread sees it. Dropping it stops the thread; a half-made segment is left as a temporary
/// file for the next start to remove.
pub struct Helper {
    hands: Hands,
    /// Of consecutive sequences. Invariant: with those that are being made, at most `LOG_SEGMENTS_AHEAD`.
    ready: VecDeque<Prepared>,
    /// Number of segments that were asked for and not answered.
    being_made: u32,
    /// Not asked for ahead of need before this time.
    retry_at: Duration,
}

impl Helper {
    /// With a thread of its own, or in the caller's. `ready`: left by an earlier process, to be used first.
    pub fn start(
        settings: Settings,
        ready: Vec<Prepared>,
        stats: Arc<Mutex<SyncStats>>,
        on_failure: OnFailure,
        threads: bool,
    ) -> Result<Helper, LogError> {
        let stop = Arc::new(AtomicBool::new(false));
        let directory = settings.directory.clone();
        let pool = Pool::new(&directory);
        let mut workshop = Workshop { settings, pool, stop: stop.clone(), stats, on_failure };
        let hands = if threads {
            let (jobs, queue) = channel();
            let (answers, made) = channel();
            let work = move || {
                for job in queue {
                    // The other end is gone only when the log is being closed.
                    workshop.perform(job, &mut |answer| drop(answers.send(answer)));
                }
            };
            let thread = std::thread::Builder::new()
                .name("raft-log-helper".into())
                .spawn(work)
                .map_err(|source| LogError::io("start a thread for", &directory, None, source))?;
            Hands::Thread { jobs: Some(jobs), made, stop, thread: Some(thread) }
        } else {
            Hands::Caller { jobs: VecDeque::new(), made: VecDeque::new(), workshop }
        };
        Ok(Helper { hands, ready: ready.into(), being_made: 0, retry_at: Duration::ZERO })
    }

    /// Sees to it that `LOG_SEGMENTS_AHEAD` segments are ready soon, from `next` on; `now` by the disk's clock.
    pub fn keep_ahead(&mut self, next: u32, now: Duration) {
        while let Some(answer) = self.answer() {
            if self.receive(answer).is_err() {
                self.retry_at = now + RETRY_PERIOD;
            }
        }
        if self.being_made == 0 && now >= self.retry_at {
            self.ask(next, LOG_SEGMENTS_AHEAD);
        }
    }

    /// The next segment; waits for it if it is not ready.
    pub fn take(&mut self, next: u32) -> Result<Prepared, LogError> {
        if self.ready.is_empty() && self.wait_for_one(next).is_err() {
            // Nothing that was acknowledged is in it, and what failed ahead of need may work now: space came back.
            self.wait_for_one(next)?;
        }
        let prepared = self.ready.pop_front().expect("waited for");
        assert!(prepared.sequence == next, "segments are prepared in order");
        Ok(prepared)
    }

    fn wait_for_one(&mut self, next: u32) -> Result<(), LogError> {
        if self.being_made == 0 {
            self.ask(next, 1);
        }
        let answer = loop {
            match &mut self.hands {
                Hands::Thread { made, .. } => {
                    break made.recv().expect("the helper answers what it is asked")
                }
                Hands::Caller { made, .. } => match made.pop_front() {
                    Some(answer) => break answer,
                    None => assert!(self.run_once(), "every segment that was asked for is answered"),
                },
            }
        };
        self.receive(answer)
    }

    fn ask(&mut self, next: u32, ahead: u32) {
        let sequences = next + self.ready.len() as u32..next + ahead;
        if !sequences.is_empty() {
            self.being_made = sequences.len() as u32;
            self.send(Job::Prepare { sequences });
        }
    }

    fn answer(&mut self) -> Option<Result<Prepared, LogError>> {
        match &mut self.hands {
            _ if self.being_made == 0 => None,
            Hands::Caller { made, .. } => made.pop_front(),
            Hands::Thread { made, .. } => match made.try_recv() {
                Ok(answer) => Some(answer),
                Err(TryRecvError::Empty) => None,
                Err(TryRecvError::Disconnected) => panic!("the helper lives as long as this"),
            },
        }
    }

    fn receive(&mut self, answer: Result<Prepared, LogError>) -> Result<(), LogError> {
        match answer {
            Ok(prepared) => {
                self.being_made -= 1;
                self.ready.push_back(prepared);
                Ok(())
            }
            Err(error) => {
                // Those behind it are not made either.
                self.being_made = 0;
                Err(error)
            }
        }
    }

    /// Syncs an index file some time soon.
    pub fn sync_index(&mut self, file: FileHandle, path: PathBuf) {
        self.send(Job::SyncIndex { file, path });
    }

    /// Puts segments away that META does not count any more, some time soon.
    pub fn put_away(&mut self, sequences: Range<u32>, views: Vec<Arc<SegmentView>>) {
        self.send(Job::PutAway { sequences, views });
    }

    /// Without a thread: does one job in its place. False: there is none.
    pub fn run_once(&mut self) -> bool {
        let Hands::Caller { jobs, made, workshop } = &mut self.hands else { return false };
        let Some(job) = jobs.pop_front() else { return false };
        workshop.perform(job, &mut |answer| made.push_back(answer));
        true
    }

    fn send(&mut self, job: Job) {
        match &mut self.hands {
            Hands::Thread { jobs, .. } => {
                let jobs = jobs.as_ref().expect("present until dropped");
                jobs.send(job).expect("the helper lives as long as this");
            }
            Hands::Caller { jobs, .. } => jobs.push_back(job),
        }
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        if let Hands::Thread { jobs, stop, thread, .. } = &mut self.hands {
            stop.store(true, Ordering::Relaxed);
            *jobs = None;
            if let Some(thread) = thread.take() {
                // A panic there was printed by its hook; this thread is ending anyway.
                let _ = thread.join();
            }
        }
    }
}
