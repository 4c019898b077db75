//! The log of one process, and its disk at work: a batch takes simulated time, and counts when that is over.

use crate::coverage;
use crate::disk::{Crash, SimDisk};
use redisraft::log::{
    Entry, HardState, Hole, Identity, InlineWriter, Log, LogError, Options, RecordInfo, Recovery,
    WriteRequest,
};
use redisraft::node::Damage;
use std::path::Path;
use std::sync::Arc;

/// Where the log is, on every machine.
pub const DIRECTORY: &str = "/log";

/// What the disk has promised to hold.
#[derive(Clone, Copy, Debug, Default)]
pub struct Promise {
    pub hard_state: HardState,
    /// Index and term of the last entry.
    pub last: (u64, u64),
    /// Entries were being cut away when it ended: some of what was promised may be gone.
    pub cutting: bool,
}

pub struct Store {
    disk: SimDisk,
    options: Options,
    /// The log is read to find what rots.
    scrubs: bool,
    log: Log,
    writer: InlineWriter,
    /// The last write that was asked for.
    submitted: u64,
    /// Counts the batches given to the disk.
    batch: u64,
    /// The disk is at work on what it was given.
    busy: bool,
    /// What the raft thread may know.
    durable: Result<u64, LogError>,
    promise: Promise,
    /// What will be promised when the disk is done.
    promising: Promise,
    /// The last write that is part of it.
    promising_write: u64,
}

impl Store {
    /// Lets go of the log so that it can be replaced, with all its calls on the disk made.
    pub fn close(self) -> (SimDisk, Options) {
        let Store { disk, log, mut writer, options, .. } = self;
        drop(log);
        while writer.run_once() {}
        disk.settle();
        (disk, options)
    }

    /// Whether a log was created there.
    pub fn exists(disk: &SimDisk) -> bool {
        use redisraft::log::disk::Disk;
        disk.exists(&Path::new(DIRECTORY).join("META"))
    }

    pub fn create(disk: &SimDisk, identity: Identity, options: Options) -> Result<Store, LogError> {
        let shared = Arc::new(disk.clone());
        let (log, writer) = Log::create_inline(shared, Path::new(DIRECTORY), identity, options.clone())?;
        disk.settle();
        Ok(Store::new(disk, log, writer, options))
    }

    fn new(disk: &SimDisk, log: Log, writer: InlineWriter, options: Options) -> Store {
        let mut store = Store {
            disk: disk.clone(),
            options,
            scrubs: false,
            log,
            writer,
            submitted: 0,
            batch: 0,
            busy: false,
            durable: Ok(0),
            promise: Promise::default(),
            promising: Promise::default(),
            promising_write: 0,
        };
        store.promise = store.now();
        store
    }

    fn now(&self) -> Promise {
        let last = self.log.last_index();
        let term = self.term_at(last).unwrap_or(0);
        Promise { hard_state: self.log.hard_state(), last: (last, term), cutting: false }
    }

    fn term_at(&self, index: u64) -> Option<u64> {
        let (base_index, base_term) = self.log.base();
        match index == base_index {
            true => Some(base_term),
            false => self.log.info(index).map(|info| info.term),
        }
    }

    /// Everything that was promised is there.
    pub fn keeps(&self, promise: &Promise) -> Result<(), String> {
        let (is, was) = (self.log.hard_state(), promise.hard_state);
        if is.term < was.term || (is.term == was.term && was.vote.is_some() && is.vote != was.vote) {
            return Err(format!("{was:?} was durable, {is:?} came back"));
        }
        let (index, term) = promise.last;
        let found = self.term_at(index);
        // What lies before the log is in the snapshot beside it.
        match promise.cutting || index < self.log.base().0 || found == Some(term) {
            true => Ok(()),
            false => Err(format!("entry {index} of term {term} was durable, {found:?} came back")),
        }
    }

    /// The disk has not settled on return: a crash may still hit the recovery.
    pub fn open(disk: &SimDisk, options: Options) -> Result<(Store, Recovery), LogError> {
        let shared = Arc::new(disk.clone());
        let (log, writer, recovery) = Log::open_inline(shared, Path::new(DIRECTORY), options.clone())?;
        Ok((Store::new(disk, log, writer, options), recovery))
    }

    pub fn identity(&self) -> &Identity {
        self.log.identity()
    }

    pub fn hard_state(&self) -> HardState {
        self.log.hard_state()
    }

    pub fn first_index(&self) -> u64 {
        self.log.first_index()
    }

    pub fn last_index(&self) -> u64 {
        self.log.last_index()
    }

    pub fn info(&self, index: u64) -> Option<RecordInfo> {
        self.log.info(index)
    }

    pub fn submit(&mut self, request: WriteRequest) {
        self.promise.cutting |= request.truncate_from.is_some();
        self.submitted = request.id;
        self.log.enqueue(request);
    }

    pub fn read(&self, index: u64) -> Result<Entry, LogError> {
        self.log.read(index)
    }

    pub fn is_trusted(&self) -> bool {
        self.log.is_trusted()
    }

    pub fn holes(&self) -> Vec<Hole> {
        self.log.holes()
    }

    pub fn damage(&self) -> Damage {
        Damage { found: self.log.damaged(), repaired: self.log.repaired() }
    }

    pub fn fill(&mut self, entry: Entry) -> Result<bool, LogError> {
        let filled = self.log.fill(entry);
        if matches!(filled, Ok(true)) {
            coverage::mark("hole filled");
        }
        filled
    }

    /// Damage that the scrubber has met and cannot name.
    pub fn scrub_failure(&self) -> Option<LogError> {
        self.scrubs.then(|| self.log.scrub_failure()).flatten()
    }

    pub fn set_scrub_rate(&mut self, bytes_per_second: u64) {
        self.scrubs = bytes_per_second > 0;
        self.log.set_scrub_rate(bytes_per_second).expect("no thread is started for an inline log");
    }

    /// The log, to be looked at.
    pub fn log(&self) -> &Log {
        &self.log
    }

    pub fn log_mut(&mut self) -> &mut Log {
        &mut self.log
    }

    /// Index and term of the entry before the first one.
    pub fn base(&self) -> (u64, u64) {
        self.log.base()
    }

    pub fn purge(&mut self, through: u64) -> u64 {
        self.log.purge(through);
        self.log.base().0
    }

    /// What is promised from now on may be less: entries are about to go.
    pub fn cutting(&self) -> Promise {
        Promise { cutting: true, ..self.promise }
    }

    /// All that was asked for is on the disk, in no time; the last write's id.
    pub fn settle(&mut self, now_us: u64) -> Result<u64, LogError> {
        loop {
            if self.busy {
                self.done();
            }
            if self.durable()? >= self.submitted {
                return Ok(self.submitted);
            }
            assert!(self.start_writing(now_us), "what was asked for is written");
        }
    }

    /// The number of the batch that is at work.
    pub fn batch(&self) -> Option<u64> {
        self.busy.then_some(self.batch)
    }

    /// Gives the disk what waits for it, unless it is at work. True: it is from now on; `done` is due later.
    pub fn start_writing(&mut self, now_us: u64) -> bool {
        self.log.start_writing();
        if self.busy {
            return false;
        }
        self.disk.set_now(now_us);
        (self.promising, self.promising_write) = (self.now(), self.submitted);
        let scrubbed_bytes = self.scrubs.then(|| self.log.stats().scrubbed_bytes);
        self.busy = self.writer.run_once();
        if scrubbed_bytes.is_some_and(|before| self.log.stats().scrubbed_bytes > before) {
            coverage::mark("log scrubbed");
        }
        self.batch += u64::from(self.busy);
        self.busy
    }

    /// The disk is done with what it was given.
    pub fn done(&mut self) {
        assert!(self.busy, "the disk was at work");
        self.busy = false;
        self.disk.settle();
        self.durable = self.log.durable();
        // A purge may have gone first, alone.
        if self.durable.as_ref().is_ok_and(|durable| *durable >= self.promising_write) {
            self.promise = Promise { cutting: self.promise.cutting, ..self.promising };
        }
    }

    /// The last write that is on disk. An error is final.
    pub fn durable(&self) -> Result<u64, LogError> {
        self.durable.clone()
    }

    /// Writes one request at once, as a log is made.
    pub fn write_through(&mut self, request: WriteRequest) -> Result<(), LogError> {
        self.log.submit(request);
        while self.writer.run_once() {}
        self.disk.settle();
        self.log.durable().map(drop)
    }

    /// The process is gone; the disk keeps what it must.
    pub fn crash(self, crash: Crash) -> Promise {
        let Store { disk, log, writer, promise, .. } = self;
        drop((log, writer));
        disk.crash(crash);
        promise
    }
}
