//! What of this node's state is durable, and the messages that wait for it.

use std::collections::VecDeque;

use super::io::Output;
use super::message::{Index, Message, NodeId, Term, WriteId};

/// The disk as the core sees it: writes are numbered, become durable in order, and may be several at once.
#[derive(Debug)]
pub(super) struct Disk {
    /// The last write handed out. Invariant: `persisted <= issued`.
    issued: WriteId,
    persisted: WriteId,
    /// The last write that held a hard state.
    hard_write: WriteId,
    /// Writes not yet durable, each with the last index that is durable with it.
    /// Invariant: ids rise; an index never names an entry that a later write truncated.
    pending: VecDeque<(WriteId, Index)>,
    durable: Index,
    /// Messages that promise a hard state. Invariant: write ids do not fall.
    held: VecDeque<(WriteId, NodeId, Message)>,
}

impl Disk {
    /// Everything up to `durable` was read back from the disk.
    pub fn new(durable: Index) -> Disk {
        Disk {
            issued: 0,
            persisted: 0,
            hard_write: 0,
            pending: VecDeque::new(),
            durable,
            held: VecDeque::new(),
        }
    }

    /// Numbers a write after which the log ends at `last`.
    pub fn issue(&mut self, hard_state: bool, truncate_from: Option<Index>, last: Index) -> WriteId {
        if let Some(from) = truncate_from {
            self.durable = self.durable.min(from - 1);
            for (_, index) in &mut self.pending {
                *index = (*index).min(from - 1);
            }
        }
        self.issued += 1;
        if hard_state {
            self.hard_write = self.issued;
        }
        self.pending.push_back((self.issued, last));
        self.issued
    }

    /// The log on disk holds nothing but what a snapshot stands for, up to `durable`.
    pub fn restart(&mut self, durable: Index) {
        assert!(self.pending.is_empty(), "writes are under way: {:?}", self.pending);
        self.durable = durable;
    }

    /// All writes up to `write` are durable.
    pub fn persisted(&mut self, write: WriteId) {
        assert!(
            write <= self.issued,
            "the disk answered write {write}, but only {} were issued",
            self.issued
        );
        self.persisted = self.persisted.max(write);
        while let Some(&(id, index)) = self.pending.front() {
            if id > write {
                break;
            }
            self.durable = self.durable.max(index);
            self.pending.pop_front();
        }
    }

    /// Whether a write that was issued is durable.
    pub fn is_durable(&self, write: WriteId) -> bool {
        write <= self.persisted
    }

    /// The last index that is durable, with all before it.
    pub fn durable(&self) -> Index {
        self.durable
    }

    /// Whether the present term and vote are durable.
    pub fn hard_state_durable(&self) -> bool {
        self.hard_write <= self.persisted
    }

    /// Keeps a message back until the last hard state is durable.
    pub fn hold(&mut self, to: NodeId, message: Message) {
        self.held.push_back((self.hard_write, to, message));
    }

    /// Sends what no longer has to wait; what was meant for an older term than `term` is dropped.
    pub fn release(&mut self, term: Term, outputs: &mut Vec<Output>) {
        while self.held.front().is_some_and(|(write, ..)| *write <= self.persisted) {
            if let Some((_, to, message)) = self.held.pop_front() {
                if message.term == term {
                    outputs.push(Output::Send { to, message });
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::message::Body;
    use super::*;

    #[test]
    fn durable_follows_the_answers_in_order() {
        let mut disk = Disk::new(4);
        let first = disk.issue(false, None, 6);
        let second = disk.issue(false, None, 9);
        assert_eq!(disk.durable(), 4);
        disk.persisted(first);
        assert_eq!(disk.durable(), 6);
        disk.persisted(second);
        assert_eq!(disk.durable(), 9);
        disk.persisted(first);
        assert_eq!(disk.durable(), 9, "an old answer changes nothing");
    }

    #[test]
    fn a_truncation_takes_durability_back_at_once() {
        let mut disk = Disk::new(4);
        let first = disk.issue(false, None, 9);
        let second = disk.issue(false, Some(3), 3);
        assert_eq!(disk.durable(), 2);
        disk.persisted(first);
        assert_eq!(disk.durable(), 2, "what the first write made durable is void");
        disk.persisted(second);
        assert_eq!(disk.durable(), 3);
    }

    #[test]
    fn held_messages_wait_and_old_terms_are_dropped() {
        let mut disk = Disk::new(0);
        let mut outputs = Vec::new();
        let reply = |term| Message { term, body: Body::VoteReply { granted: true } };
        let first = disk.issue(true, None, 0);
        disk.hold(2, reply(1));
        let second = disk.issue(true, None, 0);
        disk.hold(3, reply(2));
        assert!(!disk.hard_state_durable());
        disk.persisted(first);
        disk.release(2, &mut outputs);
        assert!(outputs.is_empty(), "{outputs:?}");
        disk.persisted(second);
        disk.release(2, &mut outputs);
        assert_eq!(outputs, [Output::Send { to: 3, message: reply(2) }]);
        assert!(disk.hard_state_durable());
    }

    #[test]
    #[should_panic(expected = "only 0 were issued")]
    fn an_answer_to_no_write_is_refused() {
        Disk::new(0).persisted(1);
    }
}
