//! The two links between a server and its own module. Byte streams: what is read at once is anybody's guess, and a
//! cut loses what was not read.

use crate::random::Random;
use bytes::Bytes;
use std::collections::VecDeque;

/// What the raft thread sends to its server as a master.
#[derive(Debug)]
pub enum FeedItem {
    Continue {
        replid: String,
    },
    /// The next `rdb_bytes` are a dump.
    FullResync {
        replid: String,
        offset: u64,
        rdb_bytes: u64,
    },
    Bytes(Bytes),
}

/// The feed: the server is a replica of the raft thread.
pub struct FeedLink {
    /// Tells this connection from earlier ones.
    pub number: u64,
    /// The PSYNC was answered.
    pub streaming: bool,
    queue: VecDeque<FeedItem>,
    queued_bytes: usize,
    /// The server reads what is left and then the end.
    pub closed: bool,
}

impl FeedLink {
    pub fn new(number: u64) -> FeedLink {
        FeedLink { number, streaming: false, queue: VecDeque::new(), queued_bytes: 0, closed: false }
    }

    pub fn push(&mut self, item: FeedItem) {
        if let FeedItem::Bytes(bytes) = &item {
            self.queued_bytes += bytes.len();
        }
        self.queue.push_back(item);
    }

    pub fn queued_bytes(&self) -> usize {
        self.queued_bytes
    }

    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// What one read gives: one item, or a part of its bytes.
    pub fn read(&mut self, random: &mut Random) -> Option<FeedItem> {
        match self.queue.pop_front()? {
            FeedItem::Bytes(mut bytes) => {
                let whole = bytes.len() <= 1 || random.chance(800);
                let taken =
                    if whole { bytes.len() } else { random.between(1, bytes.len() as u64 - 1) as usize };
                let rest = bytes.split_off(taken);
                if !rest.is_empty() {
                    self.queue.push_front(FeedItem::Bytes(rest));
                }
                self.queued_bytes -= taken;
                Some(FeedItem::Bytes(bytes))
            }
            other => Some(other),
        }
    }

    /// Closed by one side or by fate: of what was queued, some first part arrives.
    pub fn close(&mut self, random: &mut Random) {
        self.closed = true;
        let mut kept = random.index(self.queued_bytes + 1);
        let mut queue = VecDeque::new();
        for item in self.queue.drain(..) {
            match item {
                FeedItem::Bytes(bytes) => {
                    let length = kept.min(bytes.len());
                    kept -= length;
                    queue.push_back(FeedItem::Bytes(bytes.slice(..length)));
                    if length < bytes.len() {
                        break;
                    }
                }
                other => queue.push_back(other),
            }
        }
        self.queued_bytes =
            queue.iter().map(|item| if let FeedItem::Bytes(b) = item { b.len() } else { 0 }).sum();
        self.queue = queue;
    }
}

/// How far the opening of a capture link has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CaptureStage {
    /// The server has not looked at the request.
    Requested,
    Up,
    Lost {
        resumable: bool,
    },
}

/// The capture: the raft thread is a replica of its server.
pub struct CaptureLink {
    pub stage: CaptureStage,
    pub replid: String,
    /// Offset of the next byte that the server sends.
    pub next: u64,
    in_flight: VecDeque<u8>,
}

impl CaptureLink {
    pub fn new(replid: &str, next: u64) -> CaptureLink {
        CaptureLink {
            stage: CaptureStage::Requested,
            replid: replid.to_string(),
            next,
            in_flight: VecDeque::new(),
        }
    }

    /// The server sends these bytes, the first of offset `next`.
    pub fn send(&mut self, bytes: &[u8]) {
        self.in_flight.extend(bytes);
        self.next += bytes.len() as u64;
    }

    pub fn has_bytes(&self) -> bool {
        !self.in_flight.is_empty()
    }

    /// Cut: of what is under way, some first part arrives.
    pub fn cut(&mut self, random: &mut Random) {
        self.in_flight.truncate(random.index(self.in_flight.len() + 1));
        self.stage = CaptureStage::Lost { resumable: true };
    }

    /// What one read gives.
    fn read(&mut self, random: &mut Random, whole: bool) -> Vec<u8> {
        let available = self.in_flight.len();
        let taken = if whole || random.chance(700) { available } else { random.index(available + 1) };
        self.in_flight.drain(..taken).collect()
    }
}

/// What the raft thread has received of the stream and not consumed.
#[derive(Default)]
pub struct CaptureBuffer {
    pub bytes: Vec<u8>,
    start_offset: u64,
}

impl CaptureBuffer {
    /// Bytes from `next_offset` on are to come; what is here is kept if it ends there.
    pub fn go_on_at(&mut self, next_offset: u64) {
        if self.start_offset + self.bytes.len() as u64 != next_offset {
            self.bytes.clear();
            self.start_offset = next_offset;
        }
    }

    /// Takes what has arrived; all of it when the link is at its end.
    pub fn receive(&mut self, link: &mut CaptureLink, random: &mut Random) {
        let whole = matches!(link.stage, CaptureStage::Lost { .. });
        let bytes = link.read(random, whole);
        self.bytes.extend(bytes);
    }

    pub fn consume(&mut self, length: usize) {
        self.bytes.drain(..length);
        self.start_offset += length as u64;
    }
}

/// Both links of one process, between its two threads.
#[derive(Default)]
pub struct Links {
    pub feed: Option<FeedLink>,
    pub capture: Option<CaptureLink>,
    pub capture_buffer: CaptureBuffer,
    connections: u64,
}

impl Links {
    /// The server dials the feed. True: it takes the place of an older connection.
    pub fn connect_feed(&mut self) -> (u64, bool) {
        self.connections += 1;
        let before = self.feed.replace(FeedLink::new(self.connections));
        (self.connections, before.is_some_and(|link| !link.closed))
    }

    /// The feed, as long as the raft thread has it open.
    pub fn open_feed(&mut self) -> Option<&mut FeedLink> {
        self.feed.as_mut().filter(|link| !link.closed)
    }
}
