//! What the node tells of itself: counters, latencies of the stages, and the published [`Status`].

use super::local::{Following, Local};
use super::status::{
    Connection, HandoverStatus, Latency, LogStatus, MemberStatus, StageLatencies, State, Status,
};
use super::{Node, World};
use crate::consensus::{Index, NodeId, Role, Term};
use hdrhistogram::Histogram;
use std::collections::VecDeque;
use std::sync::Arc;

/// Facts of the links to one peer.
#[derive(Clone, Copy, Debug, Default)]
pub struct PeerReport {
    pub connected: bool,
    /// Microseconds since the link was last known to be up.
    pub silent_us: Option<u64>,
    pub connects: u64,
    pub errors: u64,
}

/// Facts of the log's files.
#[derive(Clone, Debug, Default)]
pub struct LogReport {
    pub file_bytes: u64,
    pub cache_bytes: u64,
    pub cache_entries: u64,
    pub sync_count: u64,
    pub sync_max_us: u64,
    pub sync_avg_us: u64,
    pub sync: Option<Latency>,
    pub prepare_failures: u64,
    pub prepare_last_error: Option<String>,
}

/// A changed status is published this often; a change of role at once.
const PUBLISH_PERIOD_US: u64 = 20_000;
/// And everything again this often: links come and go, and are counted, without this thread's doing.
const REFRESH_PERIOD_US: u64 = 1_000_000;
/// Most events of a stage that are being timed at once; more are not timed.
const MAX_TIMED: usize = 4096;

/// Times from one event to another, matched by a growing number.
struct Stage {
    started: VecDeque<(u64, u64)>,
    times_us: Histogram<u64>,
}

impl Default for Stage {
    fn default() -> Stage {
        let times_us = Histogram::new_with_max(60_000_000, 2).expect("bounds are valid");
        Stage { started: VecDeque::new(), times_us }
    }
}

impl Stage {
    fn start(&mut self, number: u64, now_us: u64) {
        if self.started.len() < MAX_TIMED {
            self.started.push_back((number, now_us));
        }
    }

    fn end(&mut self, number: u64, now_us: u64) {
        while let Some((_, started_us)) = self.started.front().filter(|(n, _)| *n <= number) {
            self.times_us.saturating_record(now_us.saturating_sub(*started_us));
            self.started.pop_front();
        }
    }

    fn latency(&self) -> Option<Latency> {
        latency_of(&self.times_us)
    }
}

/// Median, 99th percentile and maximum; `None` when nothing was recorded.
pub fn latency_of(times_us: &Histogram<u64>) -> Option<Latency> {
    (!times_us.is_empty()).then(|| Latency {
        p50_us: times_us.value_at_quantile(0.5),
        p99_us: times_us.value_at_quantile(0.99),
        max_us: times_us.max(),
    })
}

#[derive(Default)]
pub(super) struct Reports {
    pub bad_frames: u64,
    leader: Option<NodeId>,
    leader_changes: u64,
    commit: Stage,
    apply: Stage,
    read: Stage,
    published_at_us: u64,
    /// Numbers of the last published status, and whether it said `up`: publish again when they move.
    published: (Index, Index, usize, bool),
    changed: bool,
}

impl Reports {
    pub fn role_changed(&mut self, role: Role, term: Term, leader: Option<NodeId>) {
        log::info!(
            "{role:?} in term {term}, leader: {}",
            leader.map_or("none".to_string(), |id| id.to_string())
        );
        if leader.is_some() && leader != self.leader {
            self.leader = leader;
            self.leader_changes += 1;
        }
        if role != Role::Leader {
            self.commit.started.clear();
            self.read.started.clear();
        }
    }

    pub fn appended(&mut self, index: Index, now_us: u64) {
        self.commit.start(index, now_us);
    }

    pub fn committed(&mut self, index: Index, now_us: u64) {
        self.commit.end(index, now_us);
        self.apply.start(index, now_us);
    }

    fn applied(&mut self, index: Index, now_us: u64) {
        self.apply.end(index, now_us);
    }

    pub fn read_asked(&mut self, id: u64, now_us: u64) {
        self.read.start(id, now_us);
    }

    pub fn read_confirmed(&mut self, id: u64, now_us: u64) {
        self.read.end(id, now_us);
    }

    /// Something has changed that `numbers` in [`Node::report`] do not show.
    pub fn touch(&mut self) {
        self.changed = true;
    }

    pub fn deadline_us(&self) -> u64 {
        match self.changed {
            true => self.published_at_us + PUBLISH_PERIOD_US,
            false => self.published_at_us + REFRESH_PERIOD_US,
        }
    }
}

impl Node {
    /// Last entry whose effects the local Redis holds.
    fn applied_index<W: World>(&self, world: &W) -> Index {
        match &self.local {
            // Executed first, logged later: it holds all that is committed, and more that nobody may see yet.
            Local::Leading(_) => self.raft.commit(),
            _ => world.bridge().applied().min(self.raft.commit()),
        }
    }

    pub(super) fn report<W: World>(&mut self, world: &mut W) {
        let now_us = world.now_us();
        let applied = self.applied_index(world);
        self.reports.applied(applied, now_us);
        let numbers =
            (self.raft.last().index, self.raft.commit() + applied, self.members().0.len(), self.is_serving());
        self.reports.changed |= numbers != self.reports.published;
        if now_us >= self.reports.deadline_us() {
            self.reports.published = numbers;
            self.report_now(world);
        }
    }

    pub(super) fn report_now<W: World>(&mut self, world: &mut W) {
        self.reports.published_at_us = world.now_us();
        self.reports.changed = false;
        let status = self.status(world);
        world.bridge().publish(Arc::new(status));
    }

    /// The local Redis is where the role wants it: a leader's is promoted, a follower's is fed.
    fn is_serving(&self) -> bool {
        match &self.local {
            Local::Leading(_) => true,
            Local::Following(Following { feed: Some(_), connected: true, loading: None, .. }) => {
                self.raft.role() != Role::Leader
            }
            _ => false,
        }
    }

    fn status<W: World>(&self, world: &mut W) -> Status {
        let leader = self.raft.leader();
        Status {
            state: if self.is_serving() { State::Up } else { State::Loading },
            role: self.raft.role().into(),
            cluster_id: self.cluster_id.clone(),
            node_id: self.id,
            term: self.raft.term(),
            vote: self.raft.vote(),
            leader_id: leader,
            leader_addr: leader.and_then(|id| self.members().0.get(&id)).map(|m| m.address.clone()),
            members: self.member_statuses(world),
            log: self.log_status(world),
            snapshot: self.snapshots.status(),
            leader_changes: self.reports.leader_changes,
            handover: self.handover_status(),
            rejected_links: self.rejections(world),
            stages: StageLatencies {
                sync: world.log_report().sync,
                commit: self.reports.commit.latency(),
                apply: self.reports.apply.latency(),
                read_barrier: self.reports.read.latency(),
            },
        }
    }

    fn handover_status(&self) -> HandoverStatus {
        HandoverStatus {
            done: self.handover.done,
            failed: self.handover.failed,
            disk_stalls: self.watchdog.disk_stalls,
            main_stalls: self.watchdog.main_stalls,
            stalled: self.watchdog.stalls.any(),
        }
    }

    fn rejections<W: World>(&self, world: &W) -> Vec<(&'static str, u64)> {
        let mut rejected = world.rejected_links();
        rejected.push(("bad_frame", self.reports.bad_frames));
        rejected.push(("removed", self.partings.refused_frames));
        rejected
    }

    fn log_status<W: World>(&self, world: &W) -> LogStatus {
        let (report, damage) = (world.log_report(), world.damage());
        let last = self.raft.last().index;
        LogStatus {
            entries: last + 1 - self.first_index(),
            current_index: last,
            commit_index: self.raft.commit(),
            applied_index: self.applied_index(world),
            file_bytes: report.file_bytes,
            cache_bytes: report.cache_bytes,
            cache_entries: report.cache_entries,
            fsync_count: report.sync_count,
            fsync_max_us: report.sync_max_us,
            fsync_avg_us: report.sync_avg_us,
            prepare_failures: report.prepare_failures,
            prepare_last_error: report.prepare_last_error.unwrap_or_default(),
            corrupt_entries: damage.found,
            repaired_entries: damage.repaired,
            first_hole: self.healing.first_hole().to_owned(),
            distrusted: !self.raft.is_trusted(),
        }
    }

    fn member_statuses<W: World>(&self, world: &mut W) -> Vec<MemberStatus> {
        let last = self.raft.last().index;
        let matched = |id: NodeId| match id == self.id {
            true => Some(self.raft.durable()),
            false => self.raft.progress().find(|(peer, _)| *peer == id).map(|(_, p)| p.matched),
        };
        let status = |(id, member): (&NodeId, &super::members::Member)| {
            let link = world.peer_report(*id);
            let connection = match (*id == self.id, link.connected) {
                (true, _) => Connection::Own,
                (false, true) => Connection::Connected,
                (false, false) => Connection::Disconnected,
            };
            MemberStatus {
                id: *id,
                addr: member.address.clone(),
                peer_addr: member.peer_address.clone(),
                voting: member.voting,
                connection,
                last_conn_secs: if *id == self.id {
                    Some(0)
                } else {
                    link.silent_us.map(|us| us / 1_000_000)
                },
                conn_errors: link.errors,
                conn_oks: link.connects,
                match_index: matched(*id),
                lag_entries: matched(*id).map(|matched| last.saturating_sub(matched)),
                rtt_us: None,
            }
        };
        self.members().0.iter().map(status).collect()
    }
}
