//! Reads on a node that does not lead, for connections that said `READONLY` (dissertation 6.4).
//!
//! ```text
//!   main thread            this node                    leader
//!    reads ..7 wait -----> Ask, request 3 ------------>  Read: a round, or the lease
//!                          <------------ Index 3: 412 --  and an AppendEntries, so that 412 is known to be committed
//!    [feed: .. entry 412, RAFT.READ 7]
//!    executes them <------'
//! ```
//!
//! All that was acknowledged before a read was sent is committed, and the leader that confirms itself after it names an
//! index that covers it. The reads are executed by a command in the feed, so at one position of the log: behind that
//! index, and nothing that is not committed is in the dataset there (N6). One request is under way at a time; reads
//! that come meanwhile share the next one. An index stays true for ever, whoever leads; only the reads must be older than
//! the request.

use super::kinds::{READ_ASK, READ_INDEX};
use super::local::{Following, Local};
use super::wire::{Encoded, Fields, WireError};
use super::{Fatal, Node, World};
use crate::consensus::{Index, Input, NodeId, Role};
use bytes::Bytes;
use std::collections::BTreeMap;

/// A request, by who sent it: the nonce names the process, so that an answer to one before it is not mistaken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    pub nonce: u64,
    pub number: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame {
    /// To the leader: what is committed, now that you know that you lead?
    Ask(Request),
    Index {
        request: Request,
        index: Index,
    },
}

/// Whether a frame of this kind is one of these.
pub fn is_kind(kind: u8) -> bool {
    matches!(kind, READ_ASK | READ_INDEX)
}

pub fn encode(frame: &Frame) -> Encoded {
    let (kind, numbers) = match frame {
        Frame::Ask(request) => (READ_ASK, vec![request.nonce, request.number]),
        Frame::Index { request, index } => (READ_INDEX, vec![request.nonce, request.number, *index]),
    };
    let header = numbers.into_iter().flat_map(u64::to_le_bytes).collect();
    Encoded { kind, header, payloads: Vec::new() }
}

/// # Errors
/// What has another form than [`encode`] gives it.
pub fn decode(kind: u8, header: &[u8], payload: &Bytes) -> Result<Frame, WireError> {
    let mut fields = Fields::new(kind, header);
    let request = Request { nonce: fields.u64()?, number: fields.u64()? };
    let frame = match kind {
        READ_ASK => Frame::Ask(request),
        READ_INDEX => Frame::Index { request, index: fields.u64()? },
        kind => return Err(WireError::UnknownKind { kind }),
    };
    fields.end()?;
    match payload.is_empty() {
        true => Ok(frame),
        false => Err(WireError::Length { kind, length: header.len() + payload.len() }),
    }
}

/// The request under way.
#[derive(Clone, Copy, Debug)]
struct Asked {
    leader: NodeId,
    number: u64,
    /// The last read that it is for.
    through: u64,
    /// It, or its answer, is lost if none has come by then.
    again_at_us: u64,
}

/// Reads up to `through` may be executed behind `index`.
#[derive(Clone, Copy, Debug)]
struct Grant {
    through: u64,
    index: Index,
}

/// A node that asked this one.
#[derive(Clone, Copy, Debug)]
struct Asker {
    read: u64,
    request: Request,
}

pub(super) struct FollowerReads {
    nonce: u64,
    requests: u64,
    asked: Option<Asked>,
    /// Reads up to here have an index.
    answered: u64,
    /// To be put into the feed.
    due: Option<Grant>,
    /// The last one that was.
    given: Option<Grant>,
    /// As the leader: the newest request of each node, and the answers that are ready.
    askers: BTreeMap<NodeId, Asker>,
    ready: Vec<(NodeId, Request, Index)>,
}

impl FollowerReads {
    pub fn new(nonce: u64) -> FollowerReads {
        FollowerReads {
            nonce,
            requests: 0,
            asked: None,
            answered: 0,
            due: None,
            given: None,
            askers: BTreeMap::new(),
            ready: Vec::new(),
        }
    }

    /// Somebody waits for what is committed to be fed.
    pub fn are_due(&self) -> bool {
        self.due.is_some()
    }

    pub fn deadline_us(&self) -> u64 {
        self.asked.map_or(u64::MAX, |asked| asked.again_at_us)
    }

    /// The stream that held the last grant is gone: Redis may not have come to it.
    pub fn feed_replaced(&mut self) {
        self.due = self.due.or(self.given);
    }

    /// This node does not lead any more: who asked it asks its successor.
    pub fn leadership_lost(&mut self) {
        self.askers.clear();
        self.ready.clear();
    }

    /// The core has answered reads up to `read`.
    pub fn confirmed(&mut self, read: u64, index: Index) {
        let ready = &mut self.ready;
        self.askers.retain(|from, asker| {
            let answered = asker.read <= read;
            if answered {
                ready.push((*from, asker.request, index));
            }
            !answered
        });
    }

    fn answered(&mut self, request: Request, index: Index) {
        let asked = self.asked.filter(|asked| request == Request { nonce: self.nonce, number: asked.number });
        let Some(Asked { through, .. }) = asked else { return };
        self.asked = None;
        self.answered = through;
        let index = self.due.map_or(index, |due| due.index.max(index));
        self.due = Some(Grant { through, index });
    }
}

impl Node {
    pub(super) fn on_read_frame<W: World>(
        &mut self,
        world: &mut W,
        from: NodeId,
        frame: Frame,
    ) -> Result<(), Fatal> {
        match frame {
            // Whoever does not lead says nothing: it is asked because the other does not know yet, and will.
            Frame::Ask(_) if self.raft.role() != Role::Leader => Ok(()),
            Frame::Ask(request) => {
                if self.follower_reads.askers.get(&from).is_some_and(|asker| asker.request == request) {
                    return Ok(()); // a round for it is under way
                }
                self.last_read += 1;
                let read = self.last_read;
                self.follower_reads.askers.insert(from, Asker { read, request });
                self.step(world, Input::Read { id: read }, &[])
            }
            Frame::Index { request, index } => {
                self.follower_reads.answered(request, index);
                Ok(())
            }
        }
    }

    pub(super) fn pump_follower_reads<W: World>(&mut self, world: &mut W) -> Result<(), Fatal> {
        for (to, request, index) in std::mem::take(&mut self.follower_reads.ready) {
            world.send(to, encode(&Frame::Index { request, index }));
            self.step(world, Input::Inform { peer: to }, &[])?;
        }
        self.ask_leader(world);
        self.grant(world);
        Ok(())
    }

    fn ask_leader<W: World>(&mut self, world: &mut W) {
        let through = world.bridge().reads_wanted();
        let reads = &mut self.follower_reads;
        let leader = self.raft.leader().filter(|leader| *leader != self.id && through > reads.answered);
        let Some(leader) = leader else {
            reads.asked = None;
            return;
        };
        let now_us = world.now_us();
        if reads.asked.is_some_and(|asked| asked.leader == leader && now_us < asked.again_at_us) {
            return;
        }
        // Repeated as it was, so that a late answer serves as well; reads that came since are for the next one.
        let (number, through) = match reads.asked {
            Some(asked) => (asked.number, asked.through),
            None => (reads.requests + 1, through),
        };
        reads.requests = number;
        let again_at_us = now_us + self.settings.request_timeout_ms * 1000;
        reads.asked = Some(Asked { leader, number, through, again_at_us });
        world.send(leader, encode(&Frame::Ask(Request { nonce: reads.nonce, number })));
    }

    /// Puts the reads into the feed, at a position of the log that is committed and not before their index (N6).
    fn grant<W: World>(&mut self, world: &mut W) {
        let commit = self.raft.commit();
        let Local::Following(Following { feed: Some(feed), connected: true, loading: None, .. }) =
            &mut self.local
        else {
            return;
        };
        // After a leadership, the dataset may be ahead of what is committed.
        let fits = |grant: &mut Grant| grant.index < feed.next() && feed.next() <= commit + 1;
        if let Some(grant) = self.follower_reads.due.take_if(fits) {
            self.follower_reads.given = Some(grant);
            let bytes = feed.read(grant.through);
            world.feed_write(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ASK: Frame = Frame::Ask(Request { nonce: 7, number: 1 });

    #[test]
    fn frames_come_back_and_nothing_else_does() {
        let request = Request { nonce: u64::MAX, number: 3 };
        for frame in [ASK, Frame::Index { request, index: 12 }] {
            let Encoded { kind, mut header, .. } = encode(&frame);
            assert!(is_kind(kind));
            assert_eq!(decode(kind, &header, &Bytes::new()), Ok(frame));
            assert!(decode(kind, &header, &Bytes::from_static(b"x")).is_err());
            header.push(0);
            assert!(decode(kind, &header, &Bytes::new()).is_err());
            assert!(decode(kind, &header[..15], &Bytes::new()).is_err());
            assert!(decode(99, &header[..16], &Bytes::new()).is_err());
        }
    }

    #[test]
    fn only_the_answer_to_the_last_request_counts() {
        let mut reads = FollowerReads::new(7);
        let asked = |number, through| Some(Asked { leader: 2, number, through, again_at_us: 0 });
        reads.asked = asked(2, 5);
        reads.answered(Request { nonce: 7, number: 1 }, 9);
        reads.answered(Request { nonce: 8, number: 2 }, 9);
        assert!(!reads.are_due());
        reads.answered(Request { nonce: 7, number: 2 }, 9);
        assert_eq!(reads.due.map(|due| (due.through, due.index)), Some((5, 9)));
        reads.asked = asked(3, 8);
        reads.answered(Request { nonce: 7, number: 3 }, 8);
        assert_eq!(reads.due.map(|due| (due.through, due.index)), Some((8, 9)), "for the earlier ones, too");
    }

    #[test]
    fn an_asker_is_answered_once_and_by_a_read_that_came_after_it() {
        let mut reads = FollowerReads::new(7);
        let request = |number| Request { nonce: 1, number };
        reads.askers.insert(2, Asker { read: 4, request: request(1) });
        reads.askers.insert(3, Asker { read: 6, request: request(9) });
        reads.confirmed(5, 100);
        assert_eq!(reads.ready, [(2, request(1), 100)]);
        reads.confirmed(6, 101);
        assert_eq!(reads.ready[1..], [(3, request(9), 101)]);
        reads.leadership_lost();
        assert!(reads.ready.is_empty() && reads.askers.is_empty());
    }
}
