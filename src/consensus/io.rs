//! What goes into the core and what comes out of it.

use super::message::*;

/// Settings of a core; all times in microseconds of the driver's monotonic clock.
#[derive(Clone, Debug)]
pub struct Settings {
    pub id: NodeId,
    /// Elections start after 1x..2x this long without a leader.
    pub election_timeout_us: u64,
    /// Period of heartbeats, and how long an unanswered AppendEntries stays in the window.
    pub heartbeat_us: u64,
    /// Window to one follower: messages with entries in flight.
    pub max_inflight_messages: usize,
    /// Most payload bytes in one AppendEntries message (one entry may exceed it).
    pub max_message_bytes: u64,
    /// As a leader, ask voters to elect nobody else for so long after each message, and answer reads by itself
    /// meanwhile; 0 = do not.
    pub lease_us: u64,
    /// Seed of the election jitter: the core has no randomness of its own.
    pub seed: u64,
}

/// What a core restarts from: everything here was read back from disk.
#[derive(Clone, Debug, Default)]
pub struct Restored {
    pub term: Term,
    pub vote: Option<NodeId>,
    /// The longest promise to a leader that may have been in force when the process ended.
    pub promise_us: u64,
    /// The entry before the first one in the log; (0, 0) when the log starts at 1.
    pub base: Position,
    /// Membership at `base`.
    pub membership: Membership,
    /// Every entry after `base`, in order.
    pub entries: Vec<EntryMeta>,
    /// Known to be committed: at least `base`, more when a snapshot holds more.
    pub committed: Index,
    /// Those of them that are known by index, term and kind alone: their payload cannot be read. Rising.
    pub holes: Vec<Index>,
    /// Entries that this node has acknowledged may be missing at the end of the log. The number is a fresh random
    /// one for each start.
    pub distrusted: Option<Nonce>,
}

#[derive(Clone, Debug)]
pub enum Input {
    /// Time has passed; to be given at or after `next_deadline`.
    Tick,
    Receive {
        from: NodeId,
        message: Message,
    },
    /// Append to the log: valid on a leader only. The driver keeps the payloads.
    Propose {
        bytes: Vec<u32>,
    },
    /// A new membership; must differ from the current one by one node, or one node's role.
    ProposeMembership {
        membership: Membership,
        bytes: u32,
    },
    /// All writes up to and including `write` are durable.
    Persisted {
        write: WriteId,
    },
    /// A read that must see everything answered before now; `id`s increase.
    Read {
        id: u64,
    },
    /// `peer` waits for what is committed: a leader tells it now, and not with the next heartbeat.
    Inform {
        peer: NodeId,
    },
    /// The link to `peer` broke and cannot be reopened: its process is gone or its host refuses.
    PeerUnreachable {
        peer: NodeId,
    },
    PeerReachable {
        peer: NodeId,
    },
    /// Hand leadership over, to `target` or the most up-to-date voter.
    Transfer {
        target: Option<NodeId>,
    },
    /// A durable snapshot holds everything up to `through`: the log forgets it.
    Compacted {
        through: Index,
    },
    /// A peer's snapshot was taken over; see point 14 of the caller's contract.
    InstalledSnapshot {
        position: Position,
        /// In force at `position`.
        membership: Membership,
    },
    /// Whether this node must not become the leader: its disk or what it drives stands still. It goes on voting and
    /// taking entries; as a leader it goes on leading.
    Abstain {
        abstain: bool,
    },
    /// The entries whose payload cannot be read, all of them, rising; none: the log is whole again.
    Impaired {
        holes: Vec<Index>,
    },
    /// New timeouts and windows (the id and the seed stay).
    Reconfigure {
        settings: Settings,
    },
}

/// Where the payloads of an [`Append`] are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// In the `Receive` being stepped: its entries after the first `skip`.
    Message { skip: usize },
    /// In the `Propose` or `ProposeMembership` being stepped.
    Proposal,
    /// Nowhere: the entry is a no-op with an empty payload.
    NoOp,
}

/// Entries to append, the first at `first`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Append {
    pub first: Index,
    pub entries: Vec<EntryMeta>,
    pub source: Source,
}

/// One write to the disk. Its parts take effect together and in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    pub id: WriteId,
    /// Term and vote, when they changed.
    pub hard_state: Option<(Term, Option<NodeId>)>,
    /// The longest promise to a leader that may be in force from now on, when that changed. Durable like a vote.
    pub promise_us: Option<u64>,
    /// Drop this entry and all after it.
    pub truncate_from: Option<Index>,
    pub append: Option<Append>,
    /// The log holds again whatever this node may have acknowledged: it need not be distrusted after a restart.
    pub regain_trust: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Follower,
    PreCandidate,
    Candidate,
    Leader,
}

/// Why a proposal was not taken; nothing of it was appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    NotLeader,
    /// A leader that is handing over takes no more proposals.
    Transferring,
    /// No entry of this leader's own term is committed yet.
    TermNotCommitted,
    /// The previous membership is not committed yet.
    ChangeInProgress,
    /// A change of more than one node, or no voter would be left.
    InvalidChange,
    /// Transfer: the target is not a voter, or is this node.
    InvalidTarget,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// May leave at once. For `Append` the driver adds the payloads of its entries from the log.
    Send { to: NodeId, message: Message },
    /// To be written in order; answered by `Persisted`. Messages that promise durability are held
    /// inside the core until then.
    Persist(Write),
    /// `commit` grew: everything up to it is decided.
    Commit { index: Index },
    /// Reads with ids up to `id` may be answered once `index` is committed (it is, when this comes) and applied.
    ReadReady { id: u64, index: Index },
    /// Reads with ids up to `id` will not be answered: leadership was lost.
    ReadFailed { id: u64 },
    /// Role, term or leader changed.
    Changed { role: Role, term: Term, leader: Option<NodeId> },
    /// The membership in force changed (appended, or taken back by a truncation).
    MembershipChanged { membership: Membership },
    /// Node `to` lacks entries that the log does not hold any more.
    SnapshotNeeded { to: NodeId },
    /// Learner `id` has caught up: propose it as a voter. Repeated until done.
    LearnerReady { id: NodeId },
    /// The last `Propose`, `ProposeMembership` or `Transfer` was not taken.
    ProposalRefused { reason: Refusal },
    /// A transfer asked for did not happen in time, or its target is gone or declined; this node leads on.
    TransferFailed,
}
