//! The log as the raft thread sees it.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use super::active::SegmentView;
use super::disk::{Disk, Guard, SystemDisk};
use super::error::LogError;
use super::files::ReadFiles;
use super::helper::{Helper, Settings};
use super::mend::Holes;
use super::meta::{Meta, META_NAME};
use super::patience::Patience;
use super::record::Entry;
use super::recovery::{self, Opened, Recovery};
use super::scrub::{Scrub, ScrubControl};
use super::segment::{Owner, BLOCK_BYTES};
use super::stats::{Stats, SyncStats};
use super::sync::{InlineWriter, Shared, Syncer};
use super::table::Table;
use super::writer::{LogWriter, Purge, Work};
use super::{HardState, Identity, Notify, Options, RecordInfo, SharedNotify, WriteRequest};
use crate::limits::*;

/// A Raft log, open for reading and writing.
///
/// Dropping it stops its threads after all that was submitted is written.
pub struct Log {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) directory: PathBuf,
    identity: Identity,
    hard_state: HardState,
    promise_us: u64,
    trusted: bool,
    pub(super) table: Table,
    pub(super) holes: Arc<Holes>,
    /// In order of sequence, without gaps.
    segments: Vec<Arc<SegmentView>>,
    files: ReadFiles,
    last_request: u64,
    /// Something was enqueued that the sync thread was not woken for.
    unstarted: bool,
    pub(super) shared: Arc<Shared>,
    scrub: Arc<ScrubControl>,
    /// Until it is turned on for the first time; `None` then, and in a program of one thread.
    scrubber: Option<Scrub>,
    scrub_thread: Option<JoinHandle<()>>,
    /// `None` while the log is being closed, and in a program of one thread.
    sync_thread: Option<JoinHandle<()>>,
    /// Released after the threads have ended.
    lock: Arc<Guard>,
}

impl Log {
    /// Whether a log was created here: META is present.
    pub fn exists(directory: &Path) -> bool {
        Log::exists_on(&SystemDisk, directory)
    }

    /// The same on another disk.
    pub fn exists_on(disk: &dyn Disk, directory: &Path) -> bool {
        disk.exists(&directory.join(META_NAME))
    }

    /// Makes a new log; the directory, too, if it is missing. All of it is durable on return.
    ///
    /// Panics if the cluster id is not 32 ASCII characters. Errors: the disk's, a log that exists already, segments
    /// without META.
    pub fn create(
        directory: &Path,
        identity: Identity,
        options: Options,
        notify: Notify,
    ) -> Result<Log, LogError> {
        Log::create_on(Arc::new(SystemDisk), directory, identity, options, notify)
    }

    /// The same on another disk.
    pub fn create_on(
        disk: Arc<dyn Disk>,
        directory: &Path,
        identity: Identity,
        options: Options,
        notify: Notify,
    ) -> Result<Log, LogError> {
        make(disk.as_ref(), directory, &identity, (0, 0), &options)?;
        Ok(Log::open_on(disk, directory, options, notify)?.0)
    }

    /// The same without threads, see [`Log::open_inline`].
    pub fn create_inline(
        disk: Arc<dyn Disk>,
        directory: &Path,
        identity: Identity,
        options: Options,
    ) -> Result<(Log, InlineWriter), LogError> {
        Log::create_behind(disk, directory, identity, (0, 0), options)
    }

    /// The same of a log that begins behind an entry (index, term): what lies before is in a snapshot.
    pub fn create_behind(
        disk: Arc<dyn Disk>,
        directory: &Path,
        identity: Identity,
        base: (u64, u64),
        options: Options,
    ) -> Result<(Log, InlineWriter), LogError> {
        make(disk.as_ref(), directory, &identity, base, &options)?;
        let (log, writer, _) = Log::open_inline(disk, directory, options)?;
        Ok((log, writer))
    }

    /// Opens a log: locks it, reads all records and checks every CRC, drops what a crash left unfinished.
    ///
    /// Errors: in use, no log there, damage (named; nothing is changed then), a newer format, the disk's.
    pub fn open(directory: &Path, options: Options, notify: Notify) -> Result<(Log, Recovery), LogError> {
        Log::open_on(Arc::new(SystemDisk), directory, options, notify)
    }

    /// The same on another disk.
    pub fn open_on(
        disk: Arc<dyn Disk>,
        directory: &Path,
        options: Options,
        notify: Notify,
    ) -> Result<(Log, Recovery), LogError> {
        let (mut log, syncer, recovery) = Log::assemble(disk, directory, options, notify.into(), true)?;
        let sync_thread = std::thread::Builder::new()
            .name("raft-log-sync".into())
            .spawn(move || syncer.run())
            .map_err(|source| LogError::io("start a thread for", directory, None, source))?;
        log.sync_thread = Some(sync_thread);
        Ok((log, recovery))
    }

    /// Opens a log for a program of one thread, as a simulator is: nothing is written until
    /// [`InlineWriter::run_once`] is called. The same code, without threads and without a clock but the disk's.
    ///
    /// Errors: as `open`.
    pub fn open_inline(
        disk: Arc<dyn Disk>,
        directory: &Path,
        options: Options,
    ) -> Result<(Log, InlineWriter, Recovery), LogError> {
        let notify: SharedNotify = Arc::new(|| ());
        let (mut log, syncer, recovery) = Log::assemble(disk, directory, options, notify, false)?;
        let scrub = log.scrubber.take().expect("made with the log");
        let writer = InlineWriter::new(syncer, scrub, log.lock.clone());
        Ok((log, writer, recovery))
    }

    fn assemble(
        disk: Arc<dyn Disk>,
        directory: &Path,
        options: Options,
        notify: SharedNotify,
        threads: bool,
    ) -> Result<(Log, Syncer, Recovery), LogError> {
        let segment_bytes = checked_segment_bytes(directory, &options)?;
        let mode = options.write_mode();
        let Opened { lock, meta, table, views, start, prepared, recovery, holes } =
            recovery::open(&disk, directory, segment_bytes, mode)?;
        let files = ReadFiles::new(disk.clone());
        let holes = Arc::new(holes);
        let scrub = Arc::new(ScrubControl::default());
        let stats = Arc::new(Mutex::new(SyncStats::new(start.used_bytes.iter().sum())));
        let shared = Arc::new(Shared::new(options.fsync, stats.clone()));
        let (failing, failing_notify) = (shared.clone(), notify.clone());
        let on_failure = Box::new(move |error| {
            failing.fail(error);
            failing_notify();
        });
        let settings =
            Settings { disk: disk.clone(), directory: directory.to_path_buf(), segment_bytes, mode };
        let helper = Helper::start(settings, prepared, stats.clone(), on_failure, threads)?;
        let both = (shared.clone(), holes.clone());
        let scrubber = Scrub::new(disk.clone(), directory, both, notify.clone(), scrub.clone());
        let patience = Patience::new(disk.clone(), shared.closing(), options.wait_for_space);
        let writer = LogWriter::new(disk.clone(), directory.to_path_buf(), helper, patience, stats, start)?;
        let log = Log {
            disk,
            directory: directory.to_path_buf(),
            identity: Identity {
                cluster_id: String::from_utf8_lossy(&meta.owner.cluster_id).into_owned(),
                node_id: meta.owner.node_id,
                secret: meta.secret,
            },
            hard_state: meta.hard_state,
            promise_us: meta.promise_us,
            trusted: !meta.distrusted,
            table,
            holes: holes.clone(),
            segments: views,
            files,
            last_request: 0,
            unstarted: false,
            shared: shared.clone(),
            scrub,
            scrubber: Some(scrubber),
            scrub_thread: None,
            sync_thread: None,
            lock: Arc::new(lock),
        };
        Ok((log, Syncer { shared, writer, holes, notify }, recovery))
    }

    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Term and vote as last handed in (or read back).
    pub fn hard_state(&self) -> HardState {
        self.hard_state
    }

    /// The longest promise to a leader that may have been in force, as last handed in (or read back); in microseconds.
    pub fn promise_us(&self) -> u64 {
        self.promise_us
    }

    /// Whether no acknowledged entry can have been cut away. A node whose log is not trusted neither votes nor stands
    /// until it has caught up, and says so by [`WriteRequest::regain_trust`].
    pub fn is_trusted(&self) -> bool {
        self.trusted
    }

    /// Index of the first entry; 1 if nothing was purged, also while the log is empty.
    pub fn first_index(&self) -> u64 {
        self.table.first_index()
    }

    /// Index and term of the entry before the first one; (0, 0) if nothing was purged.
    pub fn base(&self) -> (u64, u64) {
        let index = self.first_index() - 1;
        (index, self.table.term_at(index).expect("the table knows its base"))
    }

    /// Index of the last entry, durable or not; `first_index() - 1` if there is none.
    pub fn last_index(&self) -> u64 {
        self.table.last_index()
    }

    /// What is known of an entry without reading it; from memory.
    pub fn info(&self, index: u64) -> Option<RecordInfo> {
        let line = self.table.line(index)?;
        Some(RecordInfo { index, term: line.term, kind: line.kind, payload_bytes: line.length })
    }

    /// Hands a request to the sync thread; never waits for the disk. Its entries can be read at once.
    ///
    /// Panics if the request breaks the caller's contract: ids increase (the first is at least 1), entries continue
    /// the log, terms do not fall, a vote is not changed within its term, payloads are at most `MAX_ENTRY_BYTES` long.
    pub fn submit(&mut self, request: WriteRequest) {
        self.enqueue(request);
        self.start_writing();
    }

    /// Lets the sync thread begin with what was enqueued.
    pub fn start_writing(&mut self) {
        if std::mem::take(&mut self.unstarted) {
            self.shared.wake();
        }
    }

    /// As `submit`, but the write may wait for `start_writing`: a leader first sends the entries to its followers,
    /// whose way to the disk is the longer one.
    ///
    /// # Panics
    /// As `submit`.
    pub fn enqueue(&mut self, request: WriteRequest) {
        assert!(request.id > self.last_request, "request {} after {}", request.id, self.last_request);
        self.last_request = request.id;
        if let Some(hard_state) = request.hard_state {
            assert!(self.hard_state.may_become(hard_state), "{:?} -> {hard_state:?}", self.hard_state);
            self.hard_state = hard_state;
        }
        self.promise_us = request.promise_us.unwrap_or(self.promise_us);
        self.trusted |= request.regain_trust;
        if let Some(from) = request.truncate_from {
            self.table.truncate(from);
            self.holes.keep(self.table.first_index(), self.table.last_index());
        }
        let term_left = self.table.term_at(self.table.last_index()).expect("the last entry has a term");
        let WriteRequest { id, hard_state, promise_us, truncate_from, entries, regain_trust } = request;
        let entries = Arc::new(entries);
        let payload_bytes = self.table.push(id, entries.clone());
        let work = Work {
            id,
            hard_state,
            promise_us,
            regain_trust,
            truncate_from,
            term_left,
            entries,
            payload_bytes,
        };
        self.unstarted |= self.shared.submit(work);
    }

    /// Gives up entries up to `through` at most: whole segments that hold nothing else, and whatever else it takes so
    /// that no hole is left up to there. They cannot be read from now on; the sync thread writes META and the helper
    /// puts the segments away, some time soon.
    ///
    /// # Panics
    /// If `through` is beyond the last entry: a log is not purged of what it never held.
    pub fn purge(&mut self, through: u64) {
        assert!(
            through <= self.last_index(),
            "purge through {through}, the log ends at {}",
            self.last_index()
        );
        // A segment whose first entry came behind one that is still in the log: all that is behind it is in this
        // segment or a later one.
        let begins_the_log = |view: &Arc<SegmentView>| {
            view.next_index <= through + 1 && self.table.term_at(view.next_index - 1) == Some(view.prev_term)
        };
        let at = self.segments.iter().rposition(begins_the_log).filter(|at| *at > 0).unwrap_or(0);
        let whole = if at > 0 { self.segments[at].next_index - 1 } else { 0 };
        let last_hole = self.holes().iter().map(|hole| hole.index).rfind(|index| *index <= through);
        let base_index = whole.max(last_hole.unwrap_or(0));
        if base_index < self.first_index() {
            return;
        }
        let base_term = self.table.term_at(base_index).expect("the log holds its new base");
        let first_sequence = self.segments.first().map(|_| self.segments[at].sequence);
        let first_sequence = first_sequence.expect("what is purged or damaged was written");
        self.table.purge(base_index);
        self.holes.keep(self.table.first_index(), self.table.last_index());
        self.files.forget_before(first_sequence);
        self.shared.purge(Purge {
            after_request: self.last_request,
            base_index,
            base_term,
            first_sequence,
            views: self.segments.drain(..at).collect(),
        });
    }

    /// Id of the last request that is durable, 0 at first. An error is final: no later request is ever
    /// acknowledged, nothing is tried again; what the disk holds is found out by the next start.
    pub fn durable(&mut self) -> Result<u64, LogError> {
        // Asked first: what is durable now has its places among the news taken next.
        let durable = self.shared.durable()?;
        let placed = self.shared.take_placed();
        self.segments.extend(placed.segments);
        self.table.place(&placed.placements);
        Ok(durable)
    }

    /// Reads an entry: from memory if it is recent, else from its segment, its CRC checked.
    ///
    /// Errors: not in the log; `Damaged`: a hole, known from now on if it was not; damage of which nothing certain is
    /// known; the disk's.
    pub fn read(&self, index: u64) -> Result<Entry, LogError> {
        if let Some(entry) = self.table.cached_entry(index) {
            return Ok(entry);
        }
        let Some(line) = self.table.line(index) else {
            let (first, last) = (self.first_index(), self.last_index());
            return Err(LogError::OutOfRange { directory: self.directory.clone(), index, first, last });
        };
        assert!(line.offset > 0, "an entry that is not written is cached");
        let first_segment = self.segments.first().expect("written entries have segments").sequence;
        let view = &self.segments[(line.segment - first_segment) as usize];
        assert!(view.sequence == line.segment, "segments are in order");
        match self.files.read(view, index, line)? {
            Ok(entry) => Ok(entry),
            Err(texts) => self.read_damaged(index, view, texts),
        }
    }

    /// Numbers for INFO.
    pub fn stats(&self) -> Stats {
        let (cached_bytes, cached_entries) = self.table.cached();
        let holes = self.holes().len() as u64;
        let scrubbed_bytes = self.scrub.bytes();
        let mut stats = Stats { cached_bytes, cached_entries, holes, scrubbed_bytes, ..Stats::default() };
        self.shared.describe(&mut stats);
        stats
    }

    /// Why a segment could not be made ahead of need, or a purged one not put away, the last time that happened.
    pub fn prepare_last_error(&self) -> Option<String> {
        self.shared.prepare_last_error()
    }

    /// Lets the log be read in the background to find damage early, at most so many bytes a second; 0 turns it off, as
    /// it is at first. What is found is in `holes`, or is mended.
    ///
    /// Errors: no thread could be started.
    pub fn set_scrub_rate(&mut self, bytes_per_second: u64) -> Result<(), LogError> {
        self.scrub.set_rate(bytes_per_second);
        if let Some(scrubber) = self.scrubber.take_if(|_| bytes_per_second > 0) {
            self.scrub_thread = Some(scrubber.spawn()?);
        }
        Ok(())
    }

    /// Damage that the scrubber met and of which nothing certain is known: the next start will refuse the log.
    pub fn scrub_failure(&self) -> Option<LogError> {
        self.scrub.failure()
    }

    /// Whether later requests wait for fdatasync.
    pub fn set_fsync(&mut self, fsync: bool) {
        self.shared.set_fsync(fsync);
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.scrub.stop();
        if let Some(thread) = self.scrub_thread.take() {
            let _ = thread.join();
        }
        self.shared.close();
        if let Some(thread) = self.sync_thread.take() {
            // A panic there was printed by its hook; there is nothing left to do with it.
            let _ = thread.join();
        }
    }
}

/// The files of a new log.
fn make(
    disk: &dyn Disk,
    directory: &Path,
    identity: &Identity,
    (base_index, base_term): (u64, u64),
    options: &Options,
) -> Result<(), LogError> {
    let segment_bytes = checked_segment_bytes(directory, options)?;
    assert!(identity.cluster_id.is_ascii(), "a cluster id is ASCII");
    let cluster_id = identity.cluster_id.as_bytes().try_into();
    let meta = Meta {
        generation: 1,
        owner: Owner {
            cluster_id: cluster_id.expect("a cluster id has 32 characters"),
            node_id: identity.node_id,
        },
        secret: identity.secret,
        hard_state: HardState::default(),
        base_index,
        base_term,
        first_sequence: 1,
        floor_sequence: 1,
        floor_offset: 0,
        distrusted: false,
        promise_us: 0,
    };
    recovery::create(disk, directory, &meta, segment_bytes)
}

fn checked_segment_bytes(directory: &Path, options: &Options) -> Result<u64, LogError> {
    let (min, max) = (LOG_SEGMENT_MIN_BYTES, LOG_SEGMENT_MAX_BYTES);
    let segment_bytes = options.segment_bytes;
    if !(min..=max).contains(&segment_bytes) {
        let directory = directory.to_path_buf();
        return Err(LogError::InvalidSegmentSize { directory, segment_bytes, min, max });
    }
    Ok(segment_bytes.next_multiple_of(BLOCK_BYTES as u64))
}
