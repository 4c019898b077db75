//! The server as a replica of its own module.

use super::dataset::{Dataset, RDB_HEAD};
use super::dump::Saver;
use super::reads::Reads;
use super::stream::Stream;
use crate::coverage;
use crate::links::{FeedItem, FeedLink};
use crate::random::Random;
use bytes::{Buf, Bytes, BytesMut};
use redisraft::node::bridge::Bridge;
use redisraft::resp;

/// Where the link to the master stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// To be opened at this local time.
    Connect {
        at_us: u64,
    },
    /// PSYNC was sent on the connection of this number.
    Asked {
        number: u64,
    },
    Up {
        number: u64,
    },
}

type Command = (u32, Vec<Vec<u8>>);

/// `RAFT.APPLIED` was run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Applied {
    pub index: u64,
    pub digest: u64,
}

pub struct Replica {
    pub link: Link,
    input: BytesMut,
    db: u32,
    open: Option<Transaction>,
    loading: Option<Loading>,
}

/// A dump on its way, and what holds when it is there.
struct Loading {
    bytes: Vec<u8>,
    length: usize,
    replid: String,
    offset: u64,
}

/// A transaction whose end has not come.
struct Transaction {
    commands: Vec<Command>,
    /// The bytes that they took.
    bytes: Vec<u8>,
    db_before: u32,
}

/// What a replica works on.
pub struct Applying<'a> {
    pub dataset: &'a mut Dataset,
    pub stream: &'a mut Stream,
    /// The stream's id and offset mean something to the master.
    pub has_history: &'a mut bool,
    pub bridge: &'a Bridge,
    pub feed_token: &'a [u8],
    pub applied: &'a mut Vec<Applied>,
    pub saver: &'a mut Saver,
    pub reads: &'a mut Reads,
}

impl Replica {
    pub fn new(connect_at_us: u64) -> Replica {
        Replica {
            link: Link::Connect { at_us: connect_at_us },
            input: BytesMut::new(),
            db: 0,
            open: None,
            loading: None,
        }
    }

    /// The link is gone: what is not a whole command is forgotten and will be asked for again.
    pub fn disconnected(&mut self, connect_at_us: u64) {
        if !self.input.is_empty() || self.open.is_some() {
            coverage::mark("feed cut inside a command");
        }
        if self.loading.is_some() {
            coverage::mark("feed cut inside a load");
        }
        let db = self.open.as_ref().map_or(self.db, |open| open.db_before);
        *self = Replica { db, ..Replica::new(connect_at_us) };
    }

    /// One read of the link, and all whole commands that are there now. False: the link is at its end.
    pub fn read(&mut self, link: &mut FeedLink, random: &mut Random, on: &mut Applying) -> bool {
        match link.read(random) {
            None => return !link.closed,
            Some(FeedItem::Continue { replid }) => {
                self.link = Link::Up { number: link.number };
                let same = on.stream.replid == replid;
                coverage::mark(if same {
                    "feed resumed at a byte"
                } else {
                    "dataset kept after a leadership"
                });
                on.stream.replid = replid;
            }
            Some(FeedItem::FullResync { replid, offset, rdb_bytes }) => {
                self.link = Link::Up { number: link.number };
                self.db = 0;
                assert!(on.dataset.is_empty(), "a full resync goes into an emptied dataset");
                *on.has_history = false;
                on.saver.kill();
                self.loading =
                    Some(Loading { bytes: Vec::new(), length: rdb_bytes as usize, replid, offset });
            }
            Some(FeedItem::Bytes(mut bytes)) => {
                assert!(matches!(self.link, Link::Up { .. }), "stream bytes before the PSYNC was answered");
                self.load(&mut bytes, on);
                self.input.extend_from_slice(&bytes);
                self.run_whole_commands(on);
            }
        }
        true
    }

    /// Takes what is part of the dump off the front of `bytes`; loads it when all of it is there.
    fn load(&mut self, bytes: &mut Bytes, on: &mut Applying) {
        let Some(loading) = &mut self.loading else { return };
        let missing = loading.length - loading.bytes.len();
        loading.bytes.extend_from_slice(&bytes.split_to(missing.min(bytes.len())));
        if loading.bytes.len() == loading.length {
            let Loading { bytes, replid, offset, .. } = self.loading.take().expect("loading");
            assert!(bytes.starts_with(RDB_HEAD), "a dump is loaded");
            on.dataset.load(&bytes);
            if !on.dataset.is_empty() {
                coverage::mark("snapshot loaded");
            }
            on.stream.restart(replid, offset);
            *on.has_history = true;
        }
    }

    fn run_whole_commands(&mut self, on: &mut Applying) {
        let mut ranges = Vec::new();
        loop {
            let parsed = resp::parse_command(&self.input, &resp::Limits::STREAM, &mut ranges);
            let Some(used) = parsed.expect("the feed is RESP") else { return };
            let command = self.input.copy_to_bytes(used);
            let words: Vec<&[u8]> = ranges.iter().map(|range| &command[range.clone()]).collect();
            match &mut self.open {
                Some(open) => open.bytes.extend_from_slice(&command),
                None if is(&words, on.feed_token, b"MULTI") => {
                    let (commands, bytes) = (Vec::new(), command.to_vec());
                    self.open = Some(Transaction { commands, bytes, db_before: self.db });
                }
                None => on.stream.proxy(&command),
            }
            self.run(&words, on);
        }
    }

    fn run(&mut self, words: &[&[u8]], on: &mut Applying) {
        if words == [b"PING"] {
            return;
        }
        if words[0] == b"RAFT.APPLIED" {
            assert!(self.open.is_none(), "RAFT.APPLIED inside a transaction");
            let index = std::str::from_utf8(words[1]).expect("digits").parse().expect("a number");
            on.bridge.set_applied(index);
            on.applied.push(Applied { index, digest: on.dataset.digest() });
            return;
        }
        if words[0] == b"RAFT.READ" {
            assert!(self.open.is_none(), "RAFT.READ inside a transaction");
            let through = std::str::from_utf8(words[1]).expect("digits").parse().expect("a number");
            on.reads.run(through, on.dataset, on.bridge.applied());
            return;
        }
        if words[0] == b"RAFT.SNAPSHOT" {
            assert!(self.open.is_none(), "RAFT.SNAPSHOT inside a transaction");
            let text = |word: &[u8]| String::from_utf8(word.to_vec()).expect("a text");
            let attempt = text(words[1]).parse().expect("a number");
            on.saver.fork(attempt, &text(words[2]), on.dataset, on.bridge);
            return;
        }
        assert!(
            words[0] == on.feed_token && words.len() > 1,
            "a command of the log would be intercepted again: {:?}",
            words.iter().map(|word| String::from_utf8_lossy(word)).collect::<Vec<_>>()
        );
        let words = &words[1..];
        match words[0] {
            b"MULTI" => {}
            b"EXEC" => {
                let Transaction { commands, bytes, .. } = self.open.take().expect("EXEC after MULTI");
                on.stream.proxy(&bytes);
                for (db, words) in commands {
                    on.dataset.apply(db, &words.iter().map(Vec::as_slice).collect::<Vec<_>>());
                }
            }
            b"SELECT" => {
                self.db = std::str::from_utf8(words[1]).expect("digits").parse().expect("a database")
            }
            _ => match &mut self.open {
                Some(open) => open.commands.push((self.db, words.iter().map(|word| word.to_vec()).collect())),
                None => {
                    on.dataset.apply(self.db, words);
                }
            },
        }
    }
}

fn is(words: &[&[u8]], token: &[u8], name: &[u8]) -> bool {
    words.len() == 2 && words[0] == token && words[1] == name
}
