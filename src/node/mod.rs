//! The driver: one node of a cluster, as one state machine around the consensus core.
//!
//! ```text
//!   peers ---.                                    .--> peers
//!   disk  ---|   collect         step      flush  |--> log (sync thread)
//!   capture -+--> on_* methods -> core -> outputs-+--> feed
//!   main  ---'                                    '--> main thread (bridge)
//! ```
//!
//! One turn of the raft thread gives each event that was collected to an `on_*` method, then calls
//! [`Node::turn`]. Nothing here blocks, sleeps, reads a clock or touches a socket: all that is the
//! [`World`]'s, so that a simulator can stand in its place.
//!
//! Numbered invariants, asserted where they are cited:
//! * N1 What the local Redis is fed is committed.
//! * N2 The gate opens only on a dataset that equals the log up to its last entry, in a term of which an
//!   entry is committed.
//! * N3 A batch is released after every batch before it, after its effects are committed, and after
//!   leadership was confirmed by a majority later than it was executed.
//! * N4 A dataset that may hold effects which the log does not is never fed on top of: it is rolled back.
//! * N5 Leadership is handed over only when the successor's log holds all that was executed here; see `handover`.
//! * N6 Reads on a node that does not lead are executed on a dataset that equals the log at one position, committed and at
//!   or behind an index that a leader confirmed after they came.

pub mod address;
pub mod batches;
pub mod bridge;
mod callers;
pub mod capture;
mod change;
pub mod clock;
pub mod feed;
pub mod fetch;
mod follow;
pub mod follower_reads;
mod handover;
mod heal;
mod install;
pub mod kinds;
mod lead;
mod load;
pub mod local;
pub mod members;
pub mod notices;
mod parting;
mod removal;
pub mod report;
pub mod requests;
pub mod runtime;
pub mod settings;
mod snapshot;
pub mod status;
#[cfg(test)]
mod tests;
pub mod transfer;
mod watchdog;
mod whereabouts;
pub mod wire;

use crate::consensus::{
    Body, EntryMeta, Input, Message, NodeId, Output, Position, Raft, Refusal, Restored, Role, Source, Write,
    WriteId,
};
use crate::log::{Entry, HardState, Hole, Kind, LogError, WriteRequest};
use crate::snapshot::{About, Job, SnapshotError};
use bridge::Bridge;
use bytes::Bytes;
use callers::Callers;
use change::Changes;
use follower_reads::FollowerReads;
use handover::Handover;
pub use heal::Damage;
use heal::Healing;
use install::Transfers;
use local::Local;
use members::Members;
use notices::Notice;
use parting::Partings;
use removal::Leaving;
use report::Reports;
use settings::Settings;
use snapshot::Snapshots;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use watchdog::Watchdog;
use whereabouts::Whereabouts;

/// Everything outside the node that it acts upon.
pub trait World {
    /// Monotonic microseconds.
    fn now_us(&self) -> u64;
    /// A fresh id for a replication stream: 40 hex characters.
    fn fresh_replid(&mut self) -> String;
    fn bridge(&self) -> &Bridge;

    /// Queues a frame; it may be lost.
    fn send(&mut self, to: NodeId, frame: wire::Encoded);
    fn set_peers(&mut self, peers: &[(NodeId, String)]);
    fn peer_report(&mut self, id: NodeId) -> report::PeerReport;
    fn rejected_links(&self) -> Vec<(&'static str, u64)>;

    /// Takes a write in order; it is answered by [`Node::on_durable`].
    fn submit(&mut self, request: WriteRequest);
    /// An entry of the log. `LogError::Damaged` names a hole, which is in `holes` from then on; all else is final.
    fn read(&self, index: u64) -> Result<Entry, LogError>;
    /// Entries that were durable and cannot be read, known by what they were; in order.
    fn holes(&self) -> Vec<Hole>;
    /// How many were met and made good so far. Asked for in each turn.
    fn damage(&self) -> Damage;
    /// Puts a lost entry back: it can be read at once, and leaves `holes` when it is durable. False: nothing is
    /// lost there any more. An error: it is another entry than the one that was lost.
    fn fill(&mut self, entry: Entry) -> Result<bool, LogError>;
    /// Gives entries up to `through` up, at least so many that no hole is left there; says up to where it has.
    fn purge(&mut self, through: u64) -> u64;
    /// Waits until all writes are durable; the last one's id. Rare: the log is about to be replaced.
    fn settle_log(&mut self) -> Result<WriteId, LogError>;
    /// The log is an empty one behind `base` from now on, durably. No write is under way.
    fn replace_log(&mut self, base: Position) -> Result<(), LogError>;
    fn log_report(&self) -> report::LogReport;

    /// Takes a job in order; its answer, if it has one, is given to [`Node::on_snapshot_done`].
    fn snapshot(&mut self, job: Job);

    fn feed_port(&self) -> u16;
    fn feed_continue(&mut self, replid: &str);
    /// The next `rdb_bytes` written are the dataset.
    fn feed_full_resync(&mut self, replid: &str, offset: u64, rdb_bytes: u64);
    fn feed_write(&mut self, bytes: Bytes);
    /// Bytes written to the feed and not yet accepted by the kernel.
    fn feed_unsent(&self) -> usize;
    fn feed_close(&mut self);

    /// Opens the capture link; the first byte wanted has offset `next_offset`.
    fn capture_start(&mut self, replid: &str, next_offset: u64);
    /// Gives the bytes received and not consumed yet to `parse`, which says how many it consumed.
    fn capture_read(&mut self, parse: &mut dyn FnMut(&[u8]) -> usize);
    fn capture_acknowledge(&mut self, offset: u64);
    fn capture_stop(&mut self);
}

/// What cannot be gone on from: the process must stop, and start again from what is on disk.
#[derive(Debug, thiserror::Error)]
pub enum Fatal {
    #[error("{0}")]
    Log(#[from] LogError),
    #[error("replication stream of the local server: {0}")]
    Capture(#[from] capture::CaptureError),
    #[error("the local server refuses to become a master: {0}")]
    Promotion(String),
    #[error("{0}")]
    Start(String),
    #[error("{0}")]
    Snapshot(#[from] SnapshotError),
    #[error(
        "snapshot-{index}-{term}.rdb is damaged: expected crc {expected:08x}, found {found:08x}; restore the file, or \
         move the node's log directory away and let it join anew"
    )]
    SnapshotDamaged { index: u64, term: u64, expected: u32, found: u32 },
    #[error("the log holds an entry that cannot be read: {0}")]
    Entry(#[from] wire::WireError),
    #[error(
        "{hole}; {reason}. Nothing was changed; run `raftlog-tool verify {dir}`, then put the file back, or, if that \
         cannot be done, give up this entry and all after it: `raftlog-tool repair --truncate-at {index} \
         --accept-data-loss --apply {dir}`",
        dir = .directory.display(),
        index = .hole.index
    )]
    Unhealable { hole: Box<Hole>, reason: &'static str, directory: PathBuf },
    #[error(
        "the end of the log {} was cut off, and by what is left of it no other voter is there: the part that was cut may \
         have named some, who go on without this node, so it cannot lead alone. Put back what the cut has kept aside, or \
         let this node join anew with an empty directory",
        .directory.display()
    )]
    CutAlone { directory: PathBuf },
}

/// What a node is started with.
pub struct Start {
    pub id: NodeId,
    pub cluster_id: String,
    pub secret: Vec<u8>,
    pub settings: Arc<Settings>,
    pub seed: u64,
    pub hard_state: HardState,
    /// The longest promise to a leader that may be in force.
    pub promise_us: u64,
    /// False: acknowledged entries may have been cut from the log.
    pub trusted: bool,
    /// The entry before the first one of the log.
    pub base: Position,
    /// All entries of the log, in order.
    pub entries: Vec<EntryMeta>,
    /// The newest one; it reaches to the log's base or beyond.
    pub snapshot: Option<About>,
    /// What the log's membership entries say, by index. The first is in force until the log says more: what the
    /// snapshot says, or what a joiner was told.
    pub members: Vec<(u64, Members)>,
    /// Where clients, and where peers, find this node: `host:port`. The log learns of it when it says something else.
    pub address: String,
    pub peer_address: String,
    /// First word of every command that is fed to the local Redis.
    pub feed_token: Vec<u8>,
}

pub struct Node {
    id: NodeId,
    cluster_id: String,
    secret: Vec<u8>,
    settings: Arc<Settings>,
    raft: Raft,
    /// Members by the index of the entry that brought them; the first holds what is in force without any.
    member_history: Vec<(u64, Members)>,
    /// As in [`Start`].
    address: String,
    peer_address: String,
    local: Local,
    feed_token: Vec<u8>,
    /// Leaderships so far, in this process.
    epochs: u64,
    /// Ids of reads given to the core, and the last one that it confirmed.
    last_read: u64,
    confirmed_read: u64,
    follower_reads: FollowerReads,
    changes: Changes,
    callers: Callers,
    whereabouts: Whereabouts,
    /// Members that a joiner was told of, and that its log does not know yet, with their addresses for peers.
    told: BTreeMap<NodeId, String>,
    partings: Partings,
    leaving: Option<Leaving>,
    handover: Handover,
    watchdog: Watchdog,
    reports: Reports,
    healing: Healing,
    snapshots: Snapshots,
    transfers: Transfers,
    /// The last write handed to the log, as it is since it began; 0: none.
    last_write: WriteId,
    /// Snapshots given to the local Redis so far, in this process.
    loads: u64,
    refused: Option<Refusal>,
    /// As the outputs executed so far say; the core may be ahead by those that are not executed yet.
    committed: u64,
    outputs: Vec<Output>,
}

impl Node {
    /// The main thread must have been told to `Follow`.
    pub fn new<W: World>(start: Start, world: &mut W) -> Node {
        let snapshots = Snapshots::new(start.snapshot);
        let restored = Restored {
            term: start.hard_state.term,
            vote: start.hard_state.vote,
            promise_us: start.promise_us,
            base: start.base,
            membership: start.members[0].1.membership(),
            entries: start.entries,
            committed: snapshots.newest_index(),
            holes: world.holes().iter().map(|hole| hole.index).collect(),
            distrusted: (!start.trusted).then_some(start.seed),
        };
        let core = core_settings(start.id, &start.settings, start.seed);
        let whereabouts = Whereabouts::new(world.now_us(), &start.settings);
        let mut node = Node {
            id: start.id,
            cluster_id: start.cluster_id,
            secret: start.secret,
            settings: start.settings,
            raft: Raft::new(core, restored, world.now_us()),
            member_history: start.members,
            address: start.address,
            peer_address: start.peer_address,
            local: Local::fresh(),
            feed_token: start.feed_token,
            epochs: 0,
            last_read: 0,
            confirmed_read: 0,
            follower_reads: FollowerReads::new(start.seed),
            changes: Changes::default(),
            callers: Callers::default(),
            whereabouts,
            told: BTreeMap::new(),
            partings: Partings::default(),
            leaving: None,
            handover: Handover::default(),
            watchdog: Watchdog::default(),
            reports: Reports::default(),
            healing: Healing::default(),
            snapshots,
            transfers: Transfers::default(),
            last_write: 0,
            loads: 0,
            refused: None,
            committed: 0,
            outputs: Vec::new(),
        };
        node.committed = node.raft.commit();
        if let Some(about) = node.snapshots.newest.clone() {
            node.has_snapshot(about);
        }
        node.dial(world);
        node
    }

    pub fn id(&self) -> NodeId {
        self.id
    }

    /// The core, to be looked at.
    pub fn raft(&self) -> &Raft {
        &self.raft
    }

    pub fn members(&self) -> &Members {
        &self.member_history.last().expect("holds at least what is in force without any entry").1
    }

    pub fn cluster_id(&self) -> &str {
        &self.cluster_id
    }

    /// What a joiner was told of the members; in force until the log says more.
    pub fn set_known_members<W: World>(&mut self, world: &mut W, members: Members) {
        let address = |(id, member): (&NodeId, &members::Member)| (*id, member.peer_address.clone());
        self.told = members.0.iter().map(address).collect();
        self.member_history[0].1 = members;
        self.dial(world);
    }

    pub fn on_peer_frame<W: World>(
        &mut self,
        world: &mut W,
        from: NodeId,
        kind: u8,
        header: &[u8],
        payload: &Bytes,
    ) -> Result<(), Fatal> {
        if !self.members().0.contains_key(&from) && self.was_removed(from) {
            self.on_stranger(world, from, notices::decode(kind, header, payload).ok());
            return Ok(());
        }
        let result = if fetch::is_kind(kind) {
            fetch::decode(kind, header, payload).map(|frame| self.on_fetch_frame(world, from, frame))
        } else if transfer::is_kind(kind) {
            transfer::decode(kind, header, payload).map(|frame| self.on_transfer_frame(world, from, frame))
        } else if follower_reads::is_kind(kind) {
            follower_reads::decode(kind, header, payload).map(|frame| self.on_read_frame(world, from, frame))
        } else if notices::is_kind(kind) {
            notices::decode(kind, header, payload).map(|notice| {
                self.on_notice(world, from, notice);
                Ok(())
            })
        } else {
            wire::decode(kind, header, payload)
                .map(|(message, entries)| self.on_message(world, from, message, &entries))
        };
        result.unwrap_or_else(|error| {
            log::warn!("dropped a message of node {from}: {error}");
            self.reports.bad_frames += 1;
            Ok(())
        })
    }

    fn on_message<W: World>(
        &mut self,
        world: &mut W,
        from: NodeId,
        message: Message,
        entries: &[Entry],
    ) -> Result<(), Fatal> {
        log::trace!("from node {from}: {message:?}");
        self.take_lost(world, entries)?;
        self.step(world, Input::Receive { from, message }, entries)
    }

    pub fn on_peer_up<W: World>(&mut self, world: &mut W, peer: NodeId) -> Result<(), Fatal> {
        if self.was_removed(peer) {
            world.send(peer, notices::encode(&Notice::Farewell { id: peer }));
            return Ok(());
        }
        self.say_where(world, peer);
        self.healing_peer_up();
        self.reports.touch();
        self.step(world, Input::PeerReachable { peer }, &[])
    }

    pub fn on_peer_unreachable<W: World>(&mut self, world: &mut W, peer: NodeId) -> Result<(), Fatal> {
        self.reports.touch();
        self.step(world, Input::PeerUnreachable { peer }, &[])
    }

    /// All writes up to `write` are on disk.
    pub fn on_durable<W: World>(&mut self, world: &mut W, write: WriteId) -> Result<(), Fatal> {
        self.watchdog.durable(write, world.now_us());
        let was_trusted = self.raft.is_trusted();
        self.step(world, Input::Persisted { write }, &[])?;
        if self.raft.is_trusted() && !was_trusted {
            log::info!("nothing is missing in the log any more: this node votes again");
            self.reports.touch();
        }
        Ok(())
    }

    pub fn on_settings<W: World>(&mut self, world: &mut W, settings: Arc<Settings>) -> Result<(), Fatal> {
        let core = core_settings(self.id, &settings, 0);
        self.settings = settings;
        self.step(world, Input::Reconfigure { settings: core }, &[])
    }

    /// Acts on all that this turn's events have changed. Call it once after them, and at [`Node::deadline_us`].
    pub fn turn<W: World>(&mut self, world: &mut W) -> Result<(), Fatal> {
        let now_us = world.now_us();
        if now_us >= self.raft.next_deadline_us() {
            self.step(world, Input::Tick, &[])?;
        }
        self.watch(world)?;
        self.pump_healing(world)?;
        self.pump_capture(world)?;
        self.confirm_reads(world)?;
        self.pump_changes(world)?;
        self.pump_leaving(world);
        self.pump_partings(world);
        self.pump_whereabouts(world);
        self.pump_load(world);
        self.pump_feed(world)?;
        self.pump_follower_reads(world)?;
        self.pump_incoming(world);
        self.pump_snapshots(world)?;
        self.pump_offers(world);
        self.maybe_promote(world);
        self.release(world);
        self.pump_handover(world)?;
        self.report(world);
        Ok(())
    }

    /// When [`Node::turn`] must be called even if nothing happens, in microseconds of the world's clock.
    pub fn deadline_us(&self) -> u64 {
        let own_us = self.local.deadline_us().min(self.reports.deadline_us()).min(self.healing.deadline_us());
        let watched_us = self.handover.deadline_us().min(self.watchdog.deadline_us());
        let snapshot_us = self.snapshots.deadline_us().min(self.transfers.deadline_us());
        let parting_us = parting::deadline_us(&self.partings, self.leaving.as_ref());
        self.raft
            .next_deadline_us()
            .min(self.follower_reads.deadline_us())
            .min(own_us)
            .min(watched_us)
            .min(snapshot_us)
            .min(parting_us)
            .min(self.whereabouts.deadline_us())
    }

    /// One step of the core. `entries`: payloads of the message or proposal being stepped.
    fn step<W: World>(&mut self, world: &mut W, input: Input, entries: &[Entry]) -> Result<(), Fatal> {
        let mut outputs = std::mem::take(&mut self.outputs);
        self.raft.step(world.now_us(), input, &mut outputs);
        // Before anything leaves that may end it.
        world.bridge().set_lease(self.lease_until_us());
        let result = outputs.drain(..).try_for_each(|output| self.execute(world, output, entries));
        self.outputs = outputs;
        result
    }

    fn execute<W: World>(&mut self, world: &mut W, output: Output, entries: &[Entry]) -> Result<(), Fatal> {
        match output {
            Output::Send { to, message } => self.send(world, to, message)?,
            Output::Persist(write) => self.persist(world, write, entries)?,
            Output::Commit { index } => {
                let before = std::mem::replace(&mut self.committed, index);
                self.reports.committed(index, world.now_us());
                self.members_committed(world, before);
                self.changes_committed(world, index);
            }
            Output::ReadReady { id, index } => {
                self.confirmed_read = self.confirmed_read.max(id);
                self.follower_reads.confirmed(id, index);
            }
            Output::ReadFailed { .. } => {} // the leadership that the reads belong to is over: see `Changed`
            Output::Changed { role, term, leader } => self.on_changed(world, role, term, leader),
            Output::MembershipChanged { .. } => {
                self.dial(world);
                self.report_now(world);
            }
            Output::SnapshotNeeded { to } => self.snapshot_needed(to),
            Output::LearnerReady { id } => self.learner_ready(id),
            Output::ProposalRefused { reason } => self.refused = Some(reason),
            Output::TransferFailed => self.transfer_failed(world),
        }
        Ok(())
    }

    fn send<W: World>(&mut self, world: &mut W, to: NodeId, mut message: Message) -> Result<(), Fatal> {
        let mut payloads = Vec::new();
        if let Body::Append { prev, entries, .. } = &mut message.body {
            for index in (prev.index + 1..).take(entries.len()) {
                match world.read(index) {
                    Ok(entry) => payloads.push(entry),
                    Err(LogError::Damaged(_)) => break,
                    Err(error) => return Err(error.into()),
                }
            }
            if payloads.len() < entries.len() {
                // What lies before the damage may go. An empty message must not: its answer would ask for the next
                // one at once, and so on without end. The core sends again when it takes this one for lost.
                self.healing.starves(to, prev.index + 1 + payloads.len() as u64);
                entries.truncate(payloads.len());
                if payloads.is_empty() {
                    return Ok(());
                }
            }
        }
        log::trace!("to node {to}: {message:?}");
        world.send(to, wire::encode(&message, &payloads));
        Ok(())
    }

    fn persist<W: World>(&mut self, world: &mut W, write: Write, input: &[Entry]) -> Result<(), Fatal> {
        if let Some(from) = write.truncate_from {
            self.truncated(world, from);
        }
        let entries = write.append.map_or(Vec::new(), |append| to_write(&append, input));
        for entry in entries.iter().filter(|entry| entry.kind == Kind::Membership) {
            let members = Members::decode(&entry.payload).expect("decoded once when it came in");
            self.member_history.push((entry.index, members));
        }
        entries.iter().for_each(|entry| self.snapshots.grew(entry.payload.len()));
        self.watchdog.submitted(write.id, world.now_us());
        let hard_state = write.hard_state.map(|(term, vote)| HardState { term, vote });
        let truncate_from = write.truncate_from;
        self.last_write = write.id;
        world.submit(WriteRequest {
            id: write.id,
            hard_state,
            promise_us: write.promise_us,
            truncate_from,
            entries,
            regain_trust: write.regain_trust,
        });
        Ok(())
    }

    /// The log loses `from` and all after it.
    fn truncated<W: World>(&mut self, world: &mut W, from: u64) {
        assert!(from > self.committed, "entry {from} is committed and cannot be truncated");
        self.member_history.retain(|(index, _)| *index < from);
        self.healing.look_again();
        self.snapshots.truncated(from);
        self.executed_truncated(world, from);
    }

    fn on_changed<W: World>(&mut self, world: &mut W, role: Role, term: u64, leader: Option<NodeId>) {
        self.reports.role_changed(role, term, leader);
        if role != Role::Leader {
            self.follower_reads.leadership_lost();
            self.leadership_lost(world);
            self.changes_lost(world);
        }
        self.report_now(world);
        world.bridge().tell_main(bridge::ToMain::LeaderChanged);
    }
}

/// The entries of an append, with their payloads.
fn to_write(append: &crate::consensus::Append, input: &[Entry]) -> Vec<Entry> {
    let skip = match append.source {
        Source::Message { skip } => skip,
        Source::Proposal | Source::NoOp => 0,
    };
    let entry = |(i, meta): (usize, &EntryMeta)| {
        let index = append.first + i as u64;
        match append.source {
            Source::NoOp => Entry::new(index, meta.term, Kind::NoOp, Bytes::new()),
            Source::Message { .. } | Source::Proposal => {
                let entry = &input[skip + i];
                assert_eq!(entry.payload.len() as u32, meta.bytes, "entry {index}: payload of another entry");
                Entry { index, term: meta.term, ..entry.clone() }
            }
        }
    };
    append.entries.iter().enumerate().map(entry).collect()
}

fn core_settings(id: NodeId, settings: &Settings, seed: u64) -> crate::consensus::Settings {
    crate::consensus::Settings {
        id,
        election_timeout_us: settings.election_timeout_ms * 1000,
        heartbeat_us: settings.request_timeout_ms * 1000,
        max_inflight_messages: settings.append_req_max_count as usize,
        max_message_bytes: settings.append_req_max_bytes,
        lease_us: if settings.read_lease { settings.election_timeout_ms * 1000 } else { 0 },
        seed,
    }
}
