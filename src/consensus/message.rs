//! What goes between two consensus cores: numbers only, never payload bytes.

use std::collections::BTreeSet;
use std::sync::Arc;

/// Identity of a node; used once, for ever. Never 0.
pub type NodeId = u64;
/// Position in the log; the first entry has index 1, 0 means "before the log".
pub type Index = u64;
/// Raft term; 0 is "before any election".
pub type Term = u64;
/// Names one start of a process that lost entries, so that a leader can tell it from the one before. Drawn at random.
pub type Nonce = u64;
/// Identity of one write handed to the disk; strictly increasing within a process.
pub type WriteId = u64;

/// One place in the log: the entry's index and the term of the leader that made it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Position {
    pub index: Index,
    pub term: Term,
}

/// Who takes part. Invariant: `voters` and `learners` are disjoint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Membership {
    pub voters: BTreeSet<NodeId>,
    pub learners: BTreeSet<NodeId>,
}

/// What the core must know of an entry's meaning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// Effects of commands; opaque.
    Normal,
    /// The first entry of a term (dissertation 6.4): empty payload.
    NoOp,
    /// In force from the moment it is appended (dissertation 4.1).
    Membership(Arc<Membership>),
}

/// One entry as the core sees it; its index follows from where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntryMeta {
    pub term: Term,
    pub kind: EntryKind,
    /// Length of the payload, in bytes: the window to a follower is counted with it.
    pub bytes: u32,
}

/// A message between two cores. `term` is the sender's, except in a pre-vote, where it is the term asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    pub term: Term,
    pub body: Body,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// Would you vote for me in `term`? Changes nothing at the receiver (dissertation 9.6).
    PreVote {
        last: Position,
    },
    PreVoteReply {
        granted: bool,
    },
    /// RequestVote. `transfer`: the leader told the sender to (TimeoutNow), so leader stickiness does not apply.
    Vote {
        last: Position,
        transfer: bool,
    },
    VoteReply {
        granted: bool,
    },
    /// AppendEntries; a heartbeat when `entries` is empty. The first entry has index `prev.index + 1`.
    Append {
        prev: Position,
        entries: Vec<EntryMeta>,
        commit: Index,
        round: u64,
        /// The sender answers reads by itself: whoever hears this elects nobody else for so long. 0 = it does not.
        lease_us: u64,
    },
    /// Sent only when all up to `matched` is durable at the sender.
    Appended {
        matched: Index,
        round: u64,
    },
    /// The log does not hold `prev`. `conflict`: the largest position at or before `prev` whose term
    /// is not above the term asked for (fast backtracking); `last`: where the follower's log ends.
    Refused {
        prev: Index,
        conflict: Position,
        last: Index,
        round: u64,
    },
    /// Leadership transfer: stand for election now (dissertation 3.10), unless the leader says more. Whoever cannot answers with a vote refused.
    TimeoutNow,
    /// Answer to an Append by a node that may have lost what it had acknowledged: what this process' forerunners
    /// said of their logs is void. See `trust.rs`.
    Forgot {
        nonce: Nonce,
    },
    /// Answer to `Forgot`: what was acknowledged is not counted any more, and who holds all up to `through` has lost
    /// nothing.
    Remember {
        nonce: Nonce,
        through: Index,
    },
}
