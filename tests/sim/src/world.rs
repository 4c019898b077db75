//! The driver's world: what a node does is noted here and carried out after its turn.

use crate::coverage;
use crate::links::{CaptureLink, FeedItem, Links};
use crate::random::Random;
use crate::snapshots::Worker;
use crate::store::{Promise, Store, DIRECTORY};
use bytes::Bytes;
use redisraft::consensus::{NodeId, Position, WriteId};
use redisraft::log::{self, Entry, Hole, LogError, WriteRequest};
use redisraft::node::bridge::Bridge;
use redisraft::node::report::{LogReport, PeerReport};
use redisraft::node::{wire, Damage, World};
use redisraft::snapshot::Job;
use std::cell::Cell;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

pub const FEED_PORT: u16 = 7000;

/// A wake-up from one thread to the other.
#[derive(Clone, Default)]
pub struct Wake(Arc<AtomicBool>);

impl Wake {
    fn closure(&self) -> Box<dyn Fn() + Send + Sync> {
        let flag = self.0.clone();
        Box::new(move || flag.store(true, Ordering::Relaxed))
    }

    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    pub fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    pub fn take(&self) -> bool {
        self.0.swap(false, Ordering::Relaxed)
    }
}

pub struct SimWorld {
    /// What this process's clock shows during the turn.
    pub now_us: u64,
    pub random: Random,
    pub bridge: Arc<Bridge>,
    pub wake_raft: Wake,
    pub wake_main: Wake,
    /// `None` before the machine belongs to a cluster.
    pub store: Option<Store>,
    /// Beside the log.
    pub snapshots: Option<Worker>,
    /// What the disk holds while the log is being replaced.
    pub replacing: Option<Promise>,
    pub scrub_bytes_per_s: u64,
    /// Of a thousand logs that are replaced, so many lose their process meanwhile.
    pub crash_replacing_per_mille: u64,
    pub links: Links,
    /// Frames of this turn.
    pub sent: Vec<(NodeId, wire::Encoded)>,
    pub peers: Vec<(NodeId, String)>,
    /// Those of them whose link takes frames.
    pub connected: Vec<NodeId>,
    /// Who was not dialled before.
    pub dialled: Vec<NodeId>,
    /// The server was told to go on with its dataset.
    pub went_on: bool,
    /// Bytes that the kernel takes of the feed before the rest counts as unsent.
    pub feed_kernel_bytes: usize,
    /// The process dies when so many calls of this world were made: none of the later ones has an effect.
    pub calls_left: Cell<Option<u64>>,
}

impl SimWorld {
    pub fn new(random: Random, store: Option<Store>, feed_kernel_bytes: usize) -> SimWorld {
        let (wake_raft, wake_main) = (Wake::default(), Wake::default());
        SimWorld {
            now_us: 0,
            random,
            bridge: Arc::new(Bridge::new(wake_raft.closure(), wake_main.closure())),
            wake_raft,
            wake_main,
            store,
            snapshots: None,
            replacing: None,
            scrub_bytes_per_s: 0,
            crash_replacing_per_mille: 0,
            links: Links::default(),
            sent: Vec::new(),
            peers: Vec::new(),
            connected: Vec::new(),
            dialled: Vec::new(),
            went_on: false,
            feed_kernel_bytes,
            calls_left: Cell::new(None),
        }
    }

    pub fn store(&self) -> &Store {
        self.store.as_ref().expect("a node has a log")
    }

    /// The process has died in the middle of its turn.
    pub fn is_dead(&self) -> bool {
        self.calls_left.get() == Some(0)
    }

    /// Counts a call that has an effect outside. False: the process is dead by now.
    fn lives(&self) -> bool {
        if let Some(left) = self.calls_left.get() {
            self.calls_left.set(Some(left.saturating_sub(1)));
            return left > 1;
        }
        true
    }
}

/// Ends the turn of a process that has died in it; nobody sees this.
fn died() -> LogError {
    LogError::NotALog { directory: DIRECTORY.into() }
}

impl World for SimWorld {
    fn now_us(&self) -> u64 {
        self.now_us
    }

    fn fresh_replid(&mut self) -> String {
        self.random.replid()
    }

    fn bridge(&self) -> &Bridge {
        &self.bridge
    }

    fn send(&mut self, to: NodeId, frame: wire::Encoded) {
        if self.lives() {
            self.sent.push((to, frame));
        }
    }

    fn set_peers(&mut self, peers: &[(NodeId, String)]) {
        if self.lives() {
            let new = peers.iter().filter(|peer| !self.peers.contains(peer));
            self.dialled.extend(new.map(|(id, _)| *id));
            self.peers = peers.to_vec();
        }
    }

    fn peer_report(&mut self, id: NodeId) -> PeerReport {
        PeerReport { connected: self.connected.contains(&id), ..PeerReport::default() }
    }

    fn rejected_links(&self) -> Vec<(&'static str, u64)> {
        Vec::new()
    }

    /// Taken in any case: a dead process's log is never written.
    fn submit(&mut self, request: WriteRequest) {
        self.lives();
        if request.truncate_from.is_some() {
            coverage::mark("entries cut away");
        }
        self.store.as_mut().expect("a node has a log").submit(request);
    }

    fn read(&self, index: u64) -> Result<Entry, LogError> {
        self.store().read(index)
    }

    fn holes(&self) -> Vec<Hole> {
        self.store().holes()
    }

    fn damage(&self) -> Damage {
        self.store().damage()
    }

    fn fill(&mut self, entry: Entry) -> Result<bool, LogError> {
        self.store.as_mut().expect("a node has a log").fill(entry)
    }

    /// In memory in any case: a dead process's files stay.
    fn purge(&mut self, through: u64) -> u64 {
        self.lives();
        let durable = self.snapshots.as_ref().and_then(Worker::durable).map_or(0, |about| about.id.index);
        assert!(through <= durable, "N6: purged up to {through}, the newest snapshot is of entry {durable}");
        let store = self.store.as_mut().expect("a node has a log");
        let before = store.base().0;
        let base = store.purge(through);
        if base > before {
            coverage::mark("log purged");
        }
        base
    }

    fn settle_log(&mut self) -> Result<WriteId, LogError> {
        if !self.lives() {
            return Err(died());
        }
        self.store.as_mut().expect("a node has a log").settle(self.now_us)
    }

    fn replace_log(&mut self, base: Position) -> Result<(), LogError> {
        if !self.lives() {
            return Err(died());
        }
        let store = self.store.take().expect("a node has a log");
        self.replacing = Some(store.cutting());
        let (disk, options) = store.close();
        let position = (base.index, base.term);
        log::replace(&disk, Path::new(DIRECTORY), position, options.segment_bytes)?;
        let (mut store, _) = Store::open(&disk, options)?;
        store.set_scrub_rate(self.scrub_bytes_per_s);
        if self.random.chance(self.crash_replacing_per_mille) {
            // Nothing has settled: some first part of these calls will have happened.
            coverage::mark("crashed while the log was replaced");
            self.calls_left.set(Some(0));
            return Err(died());
        }
        disk.settle();
        coverage::mark("snapshot installed");
        self.replacing = None;
        self.store = Some(store);
        Ok(())
    }

    fn snapshot(&mut self, job: Job) {
        if self.lives() {
            if let Job::Receive { .. } = &job {
                coverage::mark("snapshot offered and wanted");
            }
            self.snapshots.as_mut().expect("a node has a snapshot store").submit(job);
        }
    }

    fn log_report(&self) -> LogReport {
        LogReport::default()
    }

    fn feed_port(&self) -> u16 {
        FEED_PORT
    }

    fn feed_continue(&mut self, replid: &str) {
        if self.lives() {
            self.went_on = true;
            self.answer_psync(FeedItem::Continue { replid: replid.to_string() });
        }
    }

    fn feed_full_resync(&mut self, replid: &str, offset: u64, rdb_bytes: u64) {
        if self.lives() {
            self.answer_psync(FeedItem::FullResync { replid: replid.to_string(), offset, rdb_bytes });
        }
    }

    fn feed_write(&mut self, bytes: Bytes) {
        if !self.lives() {
            return;
        }
        if let Some(link) = self.links.open_feed().filter(|link| link.streaming) {
            link.push(FeedItem::Bytes(bytes));
        }
    }

    fn feed_unsent(&self) -> usize {
        let queued =
            self.links.feed.as_ref().filter(|link| !link.closed).map_or(0, |link| link.queued_bytes());
        queued.saturating_sub(self.feed_kernel_bytes)
    }

    fn feed_close(&mut self) {
        if self.lives() {
            if let Some(link) = self.links.feed.as_mut().filter(|link| !link.closed) {
                link.close(&mut self.random);
            }
        }
    }

    fn capture_start(&mut self, replid: &str, next_offset: u64) {
        if self.lives() {
            self.links.capture_buffer.go_on_at(next_offset);
            self.links.capture = Some(CaptureLink::new(replid, next_offset));
        }
    }

    fn capture_read(&mut self, parse: &mut dyn FnMut(&[u8]) -> usize) {
        let used = parse(&self.links.capture_buffer.bytes);
        self.links.capture_buffer.consume(used);
    }

    fn capture_acknowledge(&mut self, _: u64) {}

    fn capture_stop(&mut self) {
        if self.lives() {
            self.links.capture = None;
            self.links.capture_buffer = Default::default();
        }
    }
}

impl SimWorld {
    fn answer_psync(&mut self, item: FeedItem) {
        if let Some(link) = self.links.open_feed().filter(|link| !link.streaming) {
            link.push(item);
            link.streaming = true;
        }
    }
}
