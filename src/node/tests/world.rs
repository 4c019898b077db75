//! The world of paper.

use crate::consensus::{Body, NodeId, Position, WriteId};
use crate::log::{Entry, Hole, LogError, WriteRequest};
use crate::node::bridge::Bridge;
use crate::node::report::{LogReport, PeerReport};
use crate::node::{wire, Damage, World};
use crate::snapshot::Job;
use bytes::Bytes;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

/// What the local Redis was sent as a replica.
#[derive(Debug, PartialEq, Eq)]
pub enum Fed {
    Continue(String),
    FullResync(String, u64),
    Bytes(Bytes),
    Close,
}

pub struct PaperWorld {
    pub now_us: u64,
    pub bridge: Bridge,
    replids: u64,
    pub sent: Vec<(NodeId, wire::Encoded)>,
    pub dialled: Vec<NodeId>,
    pub entries: Vec<Entry>,
    /// Entries that cannot be read; those with `true` are filled, and durable when the test says so.
    damaged: BTreeMap<u64, bool>,
    damage: Damage,
    /// Damaged records that nobody has read yet.
    unseen: RefCell<BTreeSet<u64>>,
    /// Whether what is damaged on the disk can still be read from memory.
    pub in_memory: bool,
    /// Links that are down.
    pub unconnected: BTreeSet<NodeId>,
    pub trust_written: bool,
    /// Last write taken; it is durable when the test says so.
    pub submitted: u64,
    pub fed: Vec<Fed>,
    pub unsent: usize,
    /// The dataset of the last full resync, and how long it was said to be.
    pub rdb: Vec<u8>,
    rdb_wanted: usize,
    /// `entries` follow this one.
    pub begins_behind: u64,
    pub purged: u64,
    pub replaced: Vec<Position>,
    pub jobs: Vec<Job>,
    /// Bytes of the local Redis' stream that were not consumed.
    pub captured: Vec<u8>,
    /// Replication id and first byte wanted, for each time that the capture link was opened.
    pub captures: Vec<(String, u64)>,
    pub capture_stops: usize,
}

impl PaperWorld {
    pub fn new(entries: Vec<Entry>) -> PaperWorld {
        PaperWorld {
            now_us: 1_000_000,
            bridge: Bridge::new(Box::new(|| {}), Box::new(|| {})),
            replids: 0,
            sent: Vec::new(),
            dialled: Vec::new(),
            entries,
            damaged: BTreeMap::new(),
            damage: Damage::default(),
            unseen: RefCell::default(),
            in_memory: false,
            unconnected: BTreeSet::new(),
            trust_written: false,
            submitted: 0,
            fed: Vec::new(),
            unsent: 0,
            rdb: Vec::new(),
            rdb_wanted: 0,
            begins_behind: 0,
            purged: 0,
            replaced: Vec::new(),
            jobs: Vec::new(),
            captured: Vec::new(),
            captures: Vec::new(),
            capture_stops: 0,
        }
    }

    /// The same, but the log finds it only when it is read.
    pub fn harm_unseen(&mut self, index: u64) {
        self.harm(index);
        self.unseen.get_mut().insert(index);
    }

    /// The record of this entry is damaged from now on, and the log knows.
    pub fn harm(&mut self, index: u64) {
        assert!(index <= self.last_index());
        self.damaged.insert(index, false);
        self.damage.found += 1;
    }

    /// What was filled is on the disk.
    pub fn persist_filled(&mut self) {
        let before = self.damaged.len();
        self.damaged.retain(|_, filled| !*filled);
        self.damage.repaired += (before - self.damaged.len()) as u64;
    }

    /// The record can be read after all.
    pub fn heal(&mut self, index: u64) {
        self.damaged.remove(&index);
        self.damage.repaired += 1;
    }

    /// Index of the last entry of the log.
    pub fn last_index(&self) -> u64 {
        self.begins_behind + self.entries.len() as u64
    }
}

impl PaperWorld {
    fn hole(&self, index: u64) -> Hole {
        let entry = &self.entries[(index - self.begins_behind) as usize - 1];
        Hole {
            index,
            term: entry.term,
            kind: entry.kind,
            payload_bytes: entry.payload.len() as u32,
            file: PathBuf::from("1.log"),
            offset: 4096 * index,
            expected: "crc 1".into(),
            found: "crc 2".into(),
        }
    }
}

impl World for PaperWorld {
    fn now_us(&self) -> u64 {
        self.now_us
    }

    fn fresh_replid(&mut self) -> String {
        self.replids += 1;
        // Node ids are made of the first digits.
        format!("{0:08x}{0:032x}", self.replids)
    }

    fn bridge(&self) -> &Bridge {
        &self.bridge
    }

    fn send(&mut self, to: NodeId, frame: wire::Encoded) {
        let hands_over = wire::decode(frame.kind, &frame.header, &Bytes::new())
            .is_ok_and(|(message, _)| message.body == Body::TimeoutNow);
        assert!(!hands_over || self.bridge.lease_until_us() == 0, "a successor is called under a lease");
        self.sent.push((to, frame));
    }

    fn set_peers(&mut self, peers: &[(NodeId, String)]) {
        self.dialled = peers.iter().map(|(id, _)| *id).collect();
    }

    fn peer_report(&mut self, id: NodeId) -> PeerReport {
        PeerReport { connected: !self.unconnected.contains(&id), ..PeerReport::default() }
    }

    fn rejected_links(&self) -> Vec<(&'static str, u64)> {
        Vec::new()
    }

    fn submit(&mut self, request: WriteRequest) {
        assert!(request.id > self.submitted, "writes come in order");
        self.submitted = request.id;
        self.trust_written |= request.regain_trust;
        if let Some(from) = request.truncate_from {
            self.entries.truncate((from - self.begins_behind) as usize - 1);
            self.damaged.split_off(&from);
        }
        for entry in request.entries {
            assert_eq!(entry.index, self.last_index() + 1, "the log has no holes");
            assert!(entry.is_intact());
            self.entries.push(entry);
        }
    }

    fn read(&self, index: u64) -> Result<Entry, LogError> {
        self.unseen.borrow_mut().remove(&index);
        match self.damaged.get(&index) {
            Some(false) if !self.in_memory => Err(LogError::Damaged(Box::new(self.hole(index)))),
            _ => Ok(self.entries[(index - self.begins_behind) as usize - 1].clone()),
        }
    }

    fn holes(&self) -> Vec<Hole> {
        let unseen = self.unseen.borrow();
        let known = self.damaged.keys().filter(|index| !unseen.contains(index));
        known.map(|index| self.hole(*index)).collect()
    }

    fn damage(&self) -> Damage {
        Damage { found: self.damage.found - self.unseen.borrow().len() as u64, ..self.damage }
    }

    fn fill(&mut self, entry: Entry) -> Result<bool, LogError> {
        let Some(filled) = self.damaged.get_mut(&entry.index) else { return Ok(false) };
        if self.entries[(entry.index - self.begins_behind) as usize - 1] != entry {
            let (file, index) = (PathBuf::from("1.log"), entry.index);
            return Err(LogError::PayloadChanged { file, index, expected: 1, found: 2 });
        }
        *filled = true;
        Ok(true)
    }

    fn purge(&mut self, through: u64) -> u64 {
        self.purged = self.purged.max(through);
        self.damaged = self.damaged.split_off(&(through + 1));
        self.purged
    }

    fn settle_log(&mut self) -> Result<WriteId, LogError> {
        Ok(self.submitted)
    }

    fn replace_log(&mut self, base: Position) -> Result<(), LogError> {
        self.entries.clear();
        self.begins_behind = base.index;
        self.submitted = 0;
        self.replaced.push(base);
        Ok(())
    }

    fn snapshot(&mut self, job: Job) {
        self.jobs.push(job);
    }

    fn log_report(&self) -> LogReport {
        LogReport::default()
    }

    fn feed_port(&self) -> u16 {
        7777
    }

    fn feed_continue(&mut self, replid: &str) {
        self.fed.push(Fed::Continue(replid.to_string()));
    }

    fn feed_full_resync(&mut self, replid: &str, offset: u64, rdb_bytes: u64) {
        self.rdb_wanted = rdb_bytes as usize;
        self.rdb.clear();
        self.fed.push(Fed::FullResync(replid.to_string(), offset));
    }

    fn feed_write(&mut self, bytes: Bytes) {
        match self.rdb.len() < self.rdb_wanted {
            true => self.rdb.extend_from_slice(&bytes),
            false => self.fed.push(Fed::Bytes(bytes)),
        }
    }

    fn feed_unsent(&self) -> usize {
        self.unsent
    }

    fn feed_close(&mut self) {
        self.fed.push(Fed::Close);
    }

    fn capture_start(&mut self, replid: &str, next_offset: u64) {
        self.captures.push((replid.to_string(), next_offset));
    }

    fn capture_read(&mut self, parse: &mut dyn FnMut(&[u8]) -> usize) {
        let used = parse(&self.captured);
        self.captured.drain(..used);
    }

    fn capture_acknowledge(&mut self, _: u64) {}

    fn capture_stop(&mut self) {
        self.capture_stops += 1;
    }
}
