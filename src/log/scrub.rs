//! Reads the whole log again and again, slowly and past the page cache, to find what rots before it is needed.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use super::disk::{Disk, Mode};
use super::error::LogError;
use super::heal::{Chain, Evidence, Piece, Rewrite};
use super::index_file;
use super::mend::{Holes, Mend};
use super::meta;
use super::record::RecordType;
use super::scan::Step;
use super::segment::{index_path, segment_path, HeaderState, SegmentHeader, SEGMENT_HEADER_BYTES};
use super::sync::Shared;
use super::window::Window;
use super::SharedNotify;

/// Bytes that are read before it is asked whether that was too fast.
const STEP_BYTES: u64 = 256 << 10;
/// From the end of the log to the next look at its beginning, at least.
const PAUSE: Duration = Duration::from_secs(10);
/// When something could not be read.
const IDLE: Duration = Duration::from_secs(1);

/// What the scrubber is told by other threads.
#[derive(Default)]
pub struct ScrubControl {
    /// Bytes a second; 0 turns it off.
    rate: AtomicU64,
    stopped: AtomicBool,
    changed: Condvar,
    /// For `changed` alone.
    waiting: Mutex<()>,
    /// Read since start.
    bytes: AtomicU64,
    failure: Mutex<Option<LogError>>,
}

impl ScrubControl {
    pub fn set_rate(&self, bytes_per_second: u64) {
        self.rate.store(bytes_per_second, Ordering::Relaxed);
        self.wake();
    }

    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
        self.wake();
    }

    fn wake(&self) {
        drop(self.waiting.lock().expect("no thread of the log panics"));
        self.changed.notify_all();
    }

    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Damage of which nothing certain is known.
    pub fn failure(&self) -> Option<LogError> {
        self.failure.lock().expect("no thread of the log panics").clone()
    }
}

/// The segment being read.
struct Pass {
    sequence: u32,
    path: PathBuf,
    window: Window,
    chain: Chain,
    meta_generation: u64,
}

/// One reader of the whole log, in small steps.
pub struct Scrub {
    disk: Arc<dyn Disk>,
    directory: PathBuf,
    shared: Arc<Shared>,
    holes: Arc<Holes>,
    notify: SharedNotify,
    control: Arc<ScrubControl>,
    pass: Option<Pass>,
    /// The segment to be read when this one is done; 0: the first.
    next: u32,
    /// By the disk's clock.
    due: Duration,
}

impl Scrub {
    pub fn new(
        disk: Arc<dyn Disk>,
        directory: &Path,
        (shared, holes): (Arc<Shared>, Arc<Holes>),
        notify: SharedNotify,
        control: Arc<ScrubControl>,
    ) -> Scrub {
        let due = disk.now();
        let directory = directory.to_path_buf();
        Scrub { disk, directory, shared, holes, notify, control, pass: None, next: 0, due }
    }

    /// Starts a thread that reads on until `ScrubControl::stop`.
    pub fn spawn(mut self) -> Result<JoinHandle<()>, LogError> {
        let directory = self.directory.clone();
        let life = move || {
            let control = self.control.clone();
            while !control.stopped.load(Ordering::Relaxed) {
                self.step();
                let waiting = control.waiting.lock().expect("no thread of the log panics");
                if control.stopped.load(Ordering::Relaxed) {
                    return;
                }
                // Woken early or for nothing: the step then finds that it is not due.
                if control.rate.load(Ordering::Relaxed) == 0 {
                    drop(control.changed.wait(waiting).expect("no thread of the log panics"));
                } else {
                    let wait = self.due.saturating_sub(self.disk.now()).max(Duration::from_millis(1));
                    drop(control.changed.wait_timeout(waiting, wait).expect("no thread of the log panics"));
                }
            }
        };
        std::thread::Builder::new()
            .name("raft-log-scrub".into())
            .spawn(life)
            .map_err(|source| LogError::io("start a thread for", &directory, None, source))
    }

    /// Reads on, if it is time to. False: it was not.
    pub fn step(&mut self) -> bool {
        let rate = self.control.rate.load(Ordering::Relaxed);
        let now = self.disk.now();
        if rate == 0 {
            self.pass = None;
            return false;
        }
        if now < self.due {
            return false;
        }
        match self.read_on() {
            Ok(Some(bytes)) => {
                self.control.bytes.fetch_add(bytes, Ordering::Relaxed);
                self.due = now + Duration::from_micros(bytes.saturating_mul(1_000_000) / rate);
            }
            Ok(None) => self.due = now + PAUSE,
            // A segment that was purged under its hands, or damage of which nothing certain is known. On with the next.
            Err(error) => {
                self.pass = None;
                self.due = now + IDLE;
                // The segment being read is the one before the next.
                let first =
                    meta::read(self.disk.as_ref(), &self.directory).map(|read| read.meta.first_sequence);
                let purged = first.is_ok_and(|first| self.next <= first);
                if matches!(error, LogError::Corrupt { .. }) && !purged {
                    *self.control.failure.lock().expect("no thread of the log panics") = Some(error);
                    (self.notify)();
                }
            }
        }
        true
    }

    /// Checks about `STEP_BYTES`. `None`: the end of the log.
    fn read_on(&mut self) -> Result<Option<u64>, LogError> {
        let (last, durable_offset) = self.holes.durable_place();
        let Some(mut pass) = self.pass.take() else {
            // The last one may not have been begun.
            let last = if durable_offset > 0 { last } else { last.saturating_sub(1) };
            self.pass = self.begin(last)?;
            return Ok(self.pass.is_some().then_some(SEGMENT_HEADER_BYTES as u64));
        };
        let end = if pass.sequence < last { u64::MAX } else { durable_offset };
        let started = pass.chain.scanner.offset();
        while pass.chain.scanner.offset() < end {
            if pass.chain.scanner.offset() >= started + STEP_BYTES {
                let bytes = pass.chain.scanner.offset() - started;
                self.pass = Some(pass);
                return Ok(Some(bytes));
            }
            let texts = match pass.chain.scanner.next(&mut pass.window)? {
                Step::Record(record) => {
                    let sealed = record.record_type == RecordType::Seal;
                    pass.chain.note(&record);
                    if sealed {
                        break;
                    }
                    continue;
                }
                Step::Invalid { expected, found } => (expected, found),
                Step::Blank => ("a record".to_string(), "zeros".to_string()),
                Step::Newer { .. } => break,
            };
            if self.meet(&mut pass, texts)? {
                break;
            }
        }
        Ok(Some(pass.chain.scanner.offset() - started))
    }

    /// Opens the next segment. `None`: there is no more; the one after that is the first again.
    fn begin(&mut self, last: u32) -> Result<Option<Pass>, LogError> {
        let meta = meta::read(self.disk.as_ref(), &self.directory)?.meta;
        let sequence = self.next.max(meta.first_sequence);
        if sequence > last {
            self.next = 0;
            return Ok(None);
        }
        self.next = sequence + 1;
        let path = segment_path(&self.directory, sequence);
        let mut window = self.open(&path, Mode::Uncached)?;
        let Some(block) = window.get_array::<SEGMENT_HEADER_BYTES>(0)? else { return Ok(None) };
        let header = match SegmentHeader::decode(block) {
            HeaderState::Valid(header) => Some(header),
            _ => self.mend_header(&path, sequence)?,
        };
        let Some(SegmentHeader { salt, next_index, prev_term, prev_crc, .. }) = header else {
            return Err(LogError::corrupt(&path, 0, None, "a segment header", "another block"));
        };
        let before = (next_index.saturating_sub(1), Some(prev_term));
        let chain = Chain::new(salt, SEGMENT_HEADER_BYTES as u64, prev_crc, before);
        Ok(Some(Pass { sequence, path, window, chain, meta_generation: meta.generation }))
    }

    fn open(&self, path: &Path, mode: Mode) -> Result<Window, LogError> {
        let file = self.disk.open(path, mode).map_err(|source| LogError::io("open", path, None, source))?;
        Window::of(file, path)
    }

    /// The page cache may still have the header that the disk has lost.
    fn mend_header(&self, path: &Path, sequence: u32) -> Result<Option<SegmentHeader>, LogError> {
        let mut cached = self.open(path, Mode::Read)?;
        let Some(block) = cached.get_array::<SEGMENT_HEADER_BYTES>(0)? else { return Ok(None) };
        let HeaderState::Valid(header) = SegmentHeader::decode(block) else { return Ok(None) };
        let what = "the header of the segment".to_string();
        let rewrite = Rewrite { file: path.to_path_buf(), sequence, offset: 0, bytes: block.to_vec(), what };
        self.shared.mend(Mend { rewrite, index: None });
        Ok(Some(header))
    }

    /// A record that is damaged on the disk: taken from the page cache, rebuilt, or reported as lost. True: it was the
    /// last of the segment.
    fn meet(&self, pass: &mut Pass, (expected, found): (String, String)) -> Result<bool, LogError> {
        let Pass { sequence, path, window, chain, meta_generation } = pass;
        let offset = chain.scanner.offset();
        // What another thread mended meanwhile is whole when it is read again.
        window.forget();
        if let Step::Record(record) = chain.scanner.next(window)? {
            chain.note(&record);
            return Ok(record.record_type == RecordType::Seal);
        }
        let index = index_file::read(self.disk.as_ref(), &index_path(&self.directory, *sequence))?;
        let evidence = Evidence {
            sequence: *sequence,
            named: index_file::first_behind(&index, chain.salt, offset),
            meta_generation: *meta_generation,
            seal_crc: None,
            expected,
            found,
        };
        let mut cached = self.open(path, Mode::Read)?;
        let from_cache = chain.resolve(&mut cached, &evidence)?;
        let Some(pieces) = from_cache.or(chain.resolve(window, &evidence)?) else {
            let Evidence { expected, found, .. } = evidence;
            return Err(LogError::corrupt(path, offset, None, expected, found));
        };
        let mut sealed = false;
        for piece in pieces {
            let offset = chain.scanner.offset();
            chain.pass(&piece);
            match piece {
                Piece::Rebuilt { record_type, bytes, what, .. } => {
                    sealed = record_type == RecordType::Seal;
                    let rewrite = Rewrite { file: path.clone(), sequence: *sequence, offset, bytes, what };
                    self.shared.mend(Mend { rewrite, index: None });
                }
                Piece::Lost(lost) => {
                    self.holes.report(lost);
                    (self.notify)();
                }
            }
        }
        Ok(sealed)
    }
}
