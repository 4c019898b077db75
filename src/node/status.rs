//! What a node knows of itself, as plain data: published by the raft thread, shown by `INFO raft` and `CLUSTER`.
//!
//! A fact that cannot be known is `None`; it is shown as `-1`, never guessed.

use crate::consensus::{self, Index, NodeId, Term};

/// Where the node stands in its life. See docs/architecture.md.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// Neither `RAFT.CLUSTER INIT` nor `JOIN` has been given.
    #[default]
    Uninitialized,
    /// Asked to join, not a member yet.
    Joining,
    /// The dataset is being brought to where the log stands.
    Loading,
    Up,
    /// The cluster took this node out; it never comes back under this id.
    Removed,
}

impl State {
    pub fn name(self) -> &'static str {
        match self {
            State::Uninitialized => "uninitialized",
            State::Joining => "joining",
            State::Loading => "loading",
            State::Up => "up",
            State::Removed => "removed",
        }
    }
}

/// The node's part in the cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Role {
    /// Not a member of any cluster.
    #[default]
    None,
    Follower,
    PreCandidate,
    Candidate,
    Leader,
}

impl Role {
    pub fn name(self) -> &'static str {
        match self {
            Role::None => "(none)",
            Role::Follower => "follower",
            Role::PreCandidate => "pre-candidate",
            Role::Candidate => "candidate",
            Role::Leader => "leader",
        }
    }
}

impl From<consensus::Role> for Role {
    fn from(role: consensus::Role) -> Self {
        match role {
            consensus::Role::Follower => Role::Follower,
            consensus::Role::PreCandidate => Role::PreCandidate,
            consensus::Role::Candidate => Role::Candidate,
            consensus::Role::Leader => Role::Leader,
        }
    }
}

/// This node's own link to a member.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Connection {
    /// The member is this node.
    Own,
    Connected,
    Connecting,
    #[default]
    Disconnected,
}

impl Connection {
    pub fn name(self) -> &'static str {
        match self {
            Connection::Own => "self",
            Connection::Connected => "connected",
            Connection::Connecting => "connecting",
            Connection::Disconnected => "disconnected",
        }
    }
}

/// One member of the cluster, this node included.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemberStatus {
    pub id: NodeId,
    /// `host:port` for clients.
    pub addr: String,
    /// `host:port` for peers.
    pub peer_addr: String,
    /// `false` = learner.
    pub voting: bool,
    pub connection: Connection,
    /// Seconds since the link was last up; 0 while it is.
    pub last_conn_secs: Option<u64>,
    pub conn_errors: u64,
    pub conn_oks: u64,
    /// Known on a leader only.
    pub match_index: Option<Index>,
    /// Entries that the member does not have yet. Known on a leader only.
    pub lag_entries: Option<u64>,
    pub rtt_us: Option<u64>,
}

/// The log on disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogStatus {
    pub entries: u64,
    /// Last entry of the log.
    pub current_index: Index,
    pub commit_index: Index,
    /// Last entry that the local Redis holds.
    pub applied_index: Index,
    pub file_bytes: u64,
    pub cache_bytes: u64,
    pub cache_entries: u64,
    pub fsync_count: u64,
    pub fsync_max_us: u64,
    pub fsync_avg_us: u64,
    /// Segments that could not be made ahead of need, and what the last one failed of; empty when none did.
    pub prepare_failures: u64,
    pub prepare_last_error: String,
    /// Entries found damaged since the start, and how many of them were fetched anew.
    pub corrupt_entries: u64,
    pub repaired_entries: u64,
    /// File, offset and index of the first entry that is damaged now; empty when none is.
    pub first_hole: String,
    /// The node may have lost what it acknowledged: it neither votes nor stands.
    pub distrusted: bool,
}

/// The newest snapshot and what became of snapshots so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SnapshotStatus {
    /// Empty when there is none.
    pub filename: String,
    pub last_index: Option<Index>,
    pub last_term: Option<Term>,
    pub size_bytes: Option<u64>,
    /// How long making it took, in seconds.
    pub time_secs: Option<u64>,
    pub created: u64,
    pub received: u64,
    pub in_progress: bool,
}

/// Leadership handed over, and why it might be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HandoverStatus {
    /// Times that this node handed over, and that it tried in vain, since it started.
    pub done: u64,
    pub failed: u64,
    /// Times that the disk, or the server's main thread, stood still for longer than its limit.
    pub disk_stalls: u64,
    pub main_stalls: u64,
    /// One of them does so now.
    pub stalled: bool,
}

/// How long one stage takes, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Latency {
    pub p50_us: u64,
    pub p99_us: u64,
    pub max_us: u64,
}

/// The stages that the raft thread sees; `None` = nothing measured yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StageLatencies {
    /// One write and sync of the log.
    pub sync: Option<Latency>,
    /// From appended to committed.
    pub commit: Option<Latency>,
    /// From committed to held by the local Redis.
    pub apply: Option<Latency>,
    /// From a read barrier taken to its release.
    pub read_barrier: Option<Latency>,
}

/// All that the raft thread publishes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    pub state: State,
    pub role: Role,
    /// Empty before `INIT` or `JOIN`.
    pub cluster_id: String,
    /// 0 before the node has an id.
    pub node_id: NodeId,
    pub term: Term,
    pub vote: Option<NodeId>,
    pub leader_id: Option<NodeId>,
    /// The leader's `host:port` for clients. Known whenever clients can be sent there.
    pub leader_addr: Option<String>,
    /// In the order of their ids, this node included.
    pub members: Vec<MemberStatus>,
    pub log: LogStatus,
    pub snapshot: SnapshotStatus,
    pub leader_changes: u64,
    pub handover: HandoverStatus,
    /// Refused connections by reason; the reasons are words joined by `_`.
    pub rejected_links: Vec<(&'static str, u64)>,
    pub stages: StageLatencies,
}

impl Status {
    /// The member with this id.
    pub fn member(&self, id: NodeId) -> Option<&MemberStatus> {
        self.members.iter().find(|member| member.id == id)
    }

    /// The leader, when it is known and a member.
    pub fn leader(&self) -> Option<&MemberStatus> {
        self.leader_id.and_then(|id| self.member(id))
    }

    /// Whether this node is a voter.
    pub fn is_voting(&self) -> bool {
        self.member(self.node_id).is_some_and(|member| member.voting)
    }
}

/// What the main thread counts at the gate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GateStats {
    /// Clients whose replies are held now.
    pub held_clients: u64,
    pub released_batches: u64,
    /// Clients closed because leadership was lost before their command committed.
    pub failed_clients: u64,
    /// Batches of reads that were answered by a lease, or by the leader's own state, without waiting.
    pub immediate_batches: u64,
    /// Reads that were answered here while another node led.
    pub follower_reads: u64,
    /// How long the lease lasts from now on.
    pub lease_left_us: u64,
    pub proxy_reqs: u64,
    pub proxy_failed_reqs: u64,
    pub proxy_outstanding_reqs: u64,
    /// From executed to answered.
    pub held: Option<Latency>,
}
