//! The master's side of the local replication link: what a follower's own Redis is fed.
//!
//! ```text
//!   offset:  base                                 applied                 sent
//!             |---- forgotten: Redis has it --------|---- kept to resend ---|
//!   stream:   [entry 1..4] APPLIED 4  [entry 5..9] APPLIED 9  PING  [10..11] APPLIED 11
//! ```
//!
//! Each command travels with the feed token as its first word; the command filter takes it off again, and
//! so knows commands of the log from those of a client (a client cannot know the token). `RAFT.APPLIED n`
//! after each chunk is answered by the local Redis' main thread: it is the truth of what the dataset holds.
//!
//! The link is a byte stream with exact offsets: when it is cut, Redis asks for the next byte it wants, and
//! gets just that from the chunks kept, or a full resync when they are gone.

use crate::consensus::Index;
use crate::resp;
use bytes::{Bytes, BytesMut};
use std::collections::VecDeque;
use std::ops::Range;

/// Bytes sent and not yet applied by Redis: beyond it the feed waits, so memory stays bounded.
pub const WINDOW_BYTES: u64 = 16 << 20;
/// Payload bytes of one chunk, unless a single entry is longer.
pub const CHUNK_BYTES: usize = 256 << 10;
/// An RDB without a key: header, end-of-file opcode, no checksum. Accepted by all supported servers.
pub const EMPTY_RDB: &[u8] = b"REDIS0009\xff\0\0\0\0\0\0\0\0";

struct Chunk {
    /// Offset of the byte before the chunk's first.
    start: u64,
    bytes: Bytes,
    /// Redis holds this entry when it has run the chunk.
    last: Index,
}

/// State of the stream. Offsets count as Redis does: `sent` is the offset of the last byte sent.
pub struct Feed {
    token: Vec<u8>,
    replid: String,
    sent: u64,
    /// Next entry to send.
    next: Index,
    chunks: VecDeque<Chunk>,
    args: Vec<Range<usize>>,
}

impl Feed {
    /// A stream under `replid` whose next byte follows `offset` and whose next entry is `next`.
    pub fn new(token: Vec<u8>, replid: String, offset: u64, next: Index) -> Feed {
        Feed { token, replid, sent: offset, next, chunks: VecDeque::new(), args: Vec::new() }
    }

    pub fn replid(&self) -> &str {
        &self.replid
    }

    pub fn next(&self) -> Index {
        self.next
    }

    /// Bytes that Redis has not yet confirmed with `RAFT.APPLIED`.
    pub fn outstanding(&self) -> u64 {
        self.chunks.front().map_or(0, |chunk| self.sent - chunk.start)
    }

    /// Redis holds everything up to `applied`: what led there need not be kept.
    pub fn applied(&mut self, applied: Index) {
        while self.chunks.front().is_some_and(|chunk| chunk.last <= applied) {
            self.chunks.pop_front();
        }
    }

    /// Redis reconnected and wants the bytes from `wanted` on (the first one has offset `wanted`):
    /// those bytes, if they are still here.
    pub fn resume(&self, replid: &str, wanted: i64) -> Option<Vec<Bytes>> {
        let have = u64::try_from(wanted).ok()?.checked_sub(1)?;
        let oldest = self.chunks.front().map_or(self.sent, |chunk| chunk.start);
        if replid != self.replid || have < oldest || have > self.sent {
            return None;
        }
        let rest = self.chunks.iter().filter_map(|chunk| {
            let skip = usize::try_from(have.saturating_sub(chunk.start)).ok()?;
            (skip < chunk.bytes.len()).then(|| chunk.bytes.slice(skip..))
        });
        Some(rest.collect())
    }

    /// The next chunk: `payloads` are those of the entries `next..=last` that have effects.
    pub fn chunk(&mut self, payloads: &[Bytes], last: Index) -> Bytes {
        assert!(last >= self.next, "feed goes forward: {last} after {}", self.next);
        let length: usize = payloads.iter().map(|payload| payload.len()).sum();
        let mut out = BytesMut::with_capacity(length + length / 2 + 64);
        for payload in payloads {
            self.add_token(payload, &mut out);
        }
        let mut applied = Vec::with_capacity(64);
        resp::encode_command(&mut applied, &[b"RAFT.APPLIED", last.to_string().as_bytes()]);
        out.extend_from_slice(&applied);
        self.next = last + 1;
        self.push(out.freeze(), last)
    }

    /// The first bytes behind a full resync, which has brought everything up to `index`.
    pub fn begin(&mut self, index: Index) -> Bytes {
        let index_text = index.to_string();
        let mut out = Vec::with_capacity(128);
        resp::encode_command(&mut out, &[&self.token, b"SELECT", b"0"]);
        resp::encode_command(&mut out, &[b"RAFT.APPLIED", index_text.as_bytes()]);
        self.push(out.into(), index)
    }

    /// Redis makes a dump of what it holds when it runs this: everything before `next`.
    pub fn snapshot(&mut self, attempt: u64, file: &str) -> Bytes {
        let (attempt, mut out, last) = (attempt.to_string(), Vec::with_capacity(128), self.next);
        resp::encode_command(&mut out, &[b"RAFT.SNAPSHOT", attempt.as_bytes(), file.as_bytes()]);
        self.push(out.into(), last)
    }

    /// Redis says by `REPLCONF ACK` that it has run the stream up to `offset`.
    pub fn acknowledged(&mut self, offset: u64) {
        while self.chunks.front().is_some_and(|chunk| chunk.start + chunk.bytes.len() as u64 <= offset) {
            self.chunks.pop_front();
        }
    }

    /// Keeps the link from timing out. Only an ACK or a later entry proves that Redis has read it.
    pub fn ping(&mut self) -> Bytes {
        let last = self.next;
        self.push(Bytes::from_static(b"*1\r\n$4\r\nPING\r\n"), last)
    }

    /// Redis executes the reads up to `through` that wait there when it runs this: behind everything before `next`.
    pub fn read(&mut self, through: u64) -> Bytes {
        let (through, mut out, last) = (through.to_string(), Vec::with_capacity(48), self.next);
        resp::encode_command(&mut out, &[b"RAFT.READ", through.as_bytes()]);
        self.push(out.into(), last)
    }

    fn push(&mut self, bytes: Bytes, last: Index) -> Bytes {
        self.chunks.push_back(Chunk { start: self.sent, bytes: bytes.clone(), last });
        self.sent += bytes.len() as u64;
        bytes
    }

    /// `*3 SET k v` becomes `*4 <token> SET k v`.
    fn add_token(&mut self, payload: &[u8], out: &mut BytesMut) {
        let mut at = 0;
        while at < payload.len() {
            let used = resp::parse_command(&payload[at..], &resp::Limits::STREAM, &mut self.args)
                .ok()
                .flatten()
                .expect("a log entry is whole commands: its checksum was verified when it was read");
            out.extend_from_slice(
                format!("*{}\r\n${}\r\n", self.args.len() + 1, self.token.len()).as_bytes(),
            );
            out.extend_from_slice(&self.token);
            out.extend_from_slice(b"\r\n");
            let first = self.args.first().map_or(0, |range| range.start);
            let header = payload[at..at + first].iter().position(|b| *b == b'\n').map_or(0, |n| n + 1);
            out.extend_from_slice(&payload[at + header..at + used]);
            at += used;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SET: &[u8] = b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1\r\nv\r\n";
    const DEL: &[u8] = b"*2\r\n$3\r\nDEL\r\n$1\r\nk\r\n";

    fn feed() -> Feed {
        Feed::new(b"tok".to_vec(), "r".repeat(40), 1000, 5)
    }

    #[test]
    fn commands_get_the_token_and_a_chunk_ends_with_applied() {
        let payload = Bytes::from([SET, DEL].concat());
        let bytes = feed().chunk(&[payload], 6);
        let expected = b"*4\r\n$3\r\ntok\r\n$3\r\nSET\r\n$1\r\nk\r\n$1\r\nv\r\n*3\r\n$3\r\ntok\r\n$3\r\nDEL\r\n$1\r\nk\r\n*2\r\n$12\r\nRAFT.APPLIED\r\n$1\r\n6\r\n";
        assert_eq!(&bytes[..], &expected[..]);
    }

    #[test]
    fn a_cut_link_resumes_at_every_byte_that_is_kept() {
        let mut feed = feed();
        let sent = [feed.chunk(&[Bytes::from_static(SET)], 5), feed.ping(), feed.chunk(&[], 7)].concat();
        let id = feed.replid().to_string();
        for have in 0..=sent.len() {
            let rest = feed.resume(&id, 1001 + have as i64).unwrap().concat();
            assert_eq!(rest, &sent[have..]);
        }
        assert!(feed.resume(&id, 1000).is_none(), "before the stream");
        assert!(feed.resume(&id, 1002 + sent.len() as i64).is_none(), "after it");
        assert!(feed.resume(&"x".repeat(40), 1001).is_none(), "another stream");
        assert!(feed.resume(&id, -1).is_none() && feed.resume(&id, i64::MIN).is_none());
    }

    #[test]
    fn what_is_applied_is_forgotten() {
        let mut feed = feed();
        let first = feed.chunk(&[Bytes::from_static(SET)], 5).len();
        feed.chunk(&[Bytes::from_static(DEL)], 6);
        let all = feed.outstanding();
        feed.applied(5);
        assert_eq!(feed.outstanding(), all - first as u64);
        let id = feed.replid().to_string();
        assert!(feed.resume(&id, 1000 + first as i64).is_none(), "gone");
        assert!(feed.resume(&id, 1001 + first as i64).is_some());
        feed.applied(6);
        assert_eq!(feed.outstanding(), 0);
    }

    #[test]
    fn a_ping_is_kept_until_redis_acknowledges_it() {
        let mut feed = feed();
        feed.chunk(&[], 5);
        feed.ping();
        feed.applied(5);
        assert_eq!(feed.outstanding(), 14, "applied entry 5 says nothing of the PING behind it");
        let end = feed.sent;
        feed.acknowledged(end - 1);
        assert_eq!(feed.outstanding(), 14);
        feed.acknowledged(end);
        assert_eq!(feed.outstanding(), 0);
    }
}
