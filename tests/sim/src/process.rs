//! One process: a server with the module in it. Plays the runtime (`src/node/runtime.rs`), which gives what has
//! happened to the node, turn by turn.

use crate::coverage;
use crate::links::CaptureStage;
use crate::random::Random;
use crate::redis::dump::DATA_DIRECTORY;
use crate::redis::{Kill, Outcome, Server, Turn};
use crate::snapshots::Worker;
use crate::store::{Store, DIRECTORY};
use crate::world::SimWorld;
use bytes::Bytes;
use redisraft::consensus::{NodeId, Position};
use redisraft::node::bridge::{ToMain, ToRaft};
use redisraft::node::requests::without_node;
use redisraft::node::settings::Settings;
use redisraft::node::status::{State, Status};
use redisraft::node::{runtime, Fatal, Node, Start, World};
use redisraft::snapshot::{Done, Job};
use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;

/// What the sockets have for the raft thread.
#[derive(Debug)]
pub enum RaftEvent {
    Frame { to: NodeId, from: NodeId, kind: u8, header: Vec<u8>, payload: Bytes },
    PeerUp { id: NodeId },
    PeerUnreachable { id: NodeId },
    CaptureUp,
    FeedPsync { replid: String, offset: i64 },
    FeedAck { offset: u64 },
    FeedLost,
}

/// Who this process tells others that it is.
#[derive(Clone, Debug)]
pub struct Names {
    pub address: String,
    pub peer_address: String,
}

pub struct Process {
    /// Tells this life of the machine from earlier ones.
    pub life: u64,
    pub world: SimWorld,
    pub server: Server,
    pub node: Option<Node>,
    pub inbox: VecDeque<RaftEvent>,
    pub settings: Arc<Settings>,
    pub feed_token: Vec<u8>,
    /// The last write that the node was told to be durable.
    durable_told: u64,
    /// The commit index that the judge has seen.
    pub judged: u64,
}

/// What a turn of the raft thread came to.
pub enum Ended {
    /// The process goes on; the raft thread must look again at once.
    No {
        look_again: bool,
    },
    /// It died in the middle, as it was told to.
    Dead,
    Fatal(Fatal),
}

impl Process {
    pub fn new(
        life: u64,
        world: SimWorld,
        server: Server,
        settings: Arc<Settings>,
        feed_token: Vec<u8>,
    ) -> Process {
        world.bridge.publish(Arc::new(Status { state: State::Uninitialized, ..Status::default() }));
        Process {
            life,
            world,
            server,
            node: None,
            inbox: VecDeque::new(),
            settings,
            feed_token,
            durable_told: 0,
            judged: 0,
        }
    }

    /// Starts the node that the log describes, and tells the server to follow it.
    pub fn start_node(&mut self, seed: u64, names: &Names) -> Result<(), Fatal> {
        let log = self.world.store().log();
        let snapshot = self.world.snapshots.as_ref().and_then(Worker::durable).cloned();
        if snapshot.is_some() {
            coverage::mark("started from a snapshot");
        }
        runtime::check(Path::new(DIRECTORY), log, snapshot.as_ref(), &log.holes())?;
        let (entries, members) = runtime::read_back(log, snapshot.as_ref())?;
        let (index, term) = log.base();
        let identity = self.world.store().identity().clone();
        let start = Start {
            id: identity.node_id,
            cluster_id: identity.cluster_id,
            secret: identity.secret.to_vec(),
            settings: self.settings.clone(),
            seed,
            hard_state: self.world.store().hard_state(),
            promise_us: self.world.store().log().promise_us(),
            trusted: self.world.store().is_trusted(),
            base: Position { index, term },
            entries,
            snapshot,
            members,
            address: names.address.clone(),
            peer_address: names.peer_address.clone(),
            feed_token: self.feed_token.clone(),
        };
        (self.durable_told, self.judged) = (0, 0);
        let node = Node::new(start, &mut self.world);
        // A dump that was finished while the process was being killed.
        let dump = Path::new(DATA_DIRECTORY).join(runtime::dump_name(node.cluster_id(), node.id()));
        self.world.snapshot(Job::Discard { file: dump });
        self.node = Some(node);
        self.world.bridge.tell_main(ToMain::Follow { port: crate::world::FEED_PORT });
        Ok(())
    }

    /// One turn of the raft thread.
    pub fn raft_turn(&mut self, now_us: u64) -> Ended {
        self.world.now_us = now_us;
        match self.try_raft_turn() {
            _ if self.world.is_dead() => Ended::Dead,
            Err(fatal) => Ended::Fatal(fatal),
            Ok(()) => {
                let under_way = self.node.as_ref().is_some_and(Node::read_round_is_under_way);
                Ended::No { look_again: self.world.bridge.set_round_under_way(under_way) }
            }
        }
    }

    fn try_raft_turn(&mut self) -> Result<(), Fatal> {
        self.receive_capture();
        while let Some(event) = self.inbox.pop_front() {
            self.on_event(event)?;
            if self.world.is_dead() {
                return Ok(());
            }
        }
        let mut messages = Vec::new();
        self.world.bridge.take_for_raft(&mut messages);
        for message in messages {
            self.on_message(message)?;
        }
        let Some(node) = &mut self.node else { return Ok(()) };
        let durable = self.world.store().durable()?;
        if durable > self.durable_told {
            self.durable_told = durable;
            node.on_durable(&mut self.world, durable)?;
        }
        while let Some(done) = self.world.snapshots.as_mut().and_then(Worker::take_answer) {
            if let Done::Read { reader, .. } = &done {
                coverage::mark(if reader >> 63 == 0 { "part of a snapshot sent" } else { "snapshot fed" });
            }
            node.on_snapshot_done(&mut self.world, done)?;
            if self.world.is_dead() {
                return Ok(());
            }
            // The log may have begun anew, and its writes count from the beginning.
        }
        node.turn(&mut self.world)
    }

    /// Moves what has arrived on the capture link, and tells of its end.
    fn receive_capture(&mut self) {
        let links = &mut self.world.links;
        let Some(link) = &mut links.capture else { return };
        links.capture_buffer.receive(link, &mut self.world.random);
        if let CaptureStage::Lost { resumable } = link.stage {
            links.capture = None;
            coverage::mark(if resumable { "capture cut" } else { "capture refused" });
            if let Some(node) = &mut self.node {
                node.on_capture_lost(&mut self.world, "simulated", resumable);
            }
        }
    }

    fn on_event(&mut self, event: RaftEvent) -> Result<(), Fatal> {
        let Some(node) = &mut self.node else { return Ok(()) };
        let world = &mut self.world;
        match event {
            // A node that was taken out takes its links with it.
            RaftEvent::Frame { to, .. } if to != node.id() => {}
            RaftEvent::Frame { from, kind, header, payload, .. } => {
                node.on_peer_frame(world, from, kind, &header, &payload)?
            }
            RaftEvent::PeerUp { id } => node.on_peer_up(world, id)?,
            RaftEvent::PeerUnreachable { id } => node.on_peer_unreachable(world, id)?,
            RaftEvent::CaptureUp => node.on_capture_up(),
            RaftEvent::FeedPsync { replid, offset } => node.on_feed_psync(world, &replid, offset),
            RaftEvent::FeedAck { offset } => node.on_feed_acknowledged(offset),
            RaftEvent::FeedLost => node.on_feed_lost(),
        }
        Ok(())
    }

    fn on_message(&mut self, message: ToRaft) -> Result<(), Fatal> {
        if let ToRaft::Init { .. } | ToRaft::Join { .. } | ToRaft::Shutdown = message {
            panic!("not part of the simulation: {message:?}");
        }
        match &mut self.node {
            Some(node) => node.on_request(&mut self.world, message)?,
            None => without_node(&self.world.bridge, &message),
        }
        Ok(())
    }

    /// A node that was taken out ends; the process goes on without one. Its id and its log.
    pub fn retire_if_removed(&mut self) -> Option<(NodeId, Store)> {
        let mut node = self.node.take_if(|node| node.is_removed())?;
        let (id, cluster_id) = (node.id(), node.cluster_id().to_string());
        let leader_addr = node.where_to_go();
        node.retire(&mut self.world);
        self.world.feed_close();
        self.world.capture_stop();
        self.world.snapshots = None;
        let store = self.world.store.take().expect("a node has a log");
        let status =
            Status { state: State::Removed, cluster_id, node_id: id, leader_addr, ..Status::default() };
        self.world.bridge.publish(Arc::new(status));
        self.world.bridge.tell_main(ToMain::Retire);
        Some((id, store))
    }

    /// One turn of the main thread.
    pub fn main_turn(&mut self, now_us: u64, wall_ms: u64, random: &mut Random) -> Outcome {
        let mut outcome = Outcome::default();
        let bridge = self.world.bridge.clone();
        let woken = self.world.wake_main.take();
        let mut turn = Turn {
            now_us,
            wall_ms,
            random,
            bridge: &bridge,
            links: &mut self.world.links,
            outcome: &mut outcome,
            woken,
        };
        self.server.turn(&mut turn);
        self.inbox.extend(outcome.events.drain(..));
        outcome
    }

    /// Somebody cuts a local link: what is under way is lost from some byte on.
    pub fn cut_local(&mut self, kill: Kill, random: &mut Random) {
        match kill {
            Kill::Feed => {
                if let Some(link) = self.world.links.open_feed() {
                    coverage::mark("feed cut");
                    link.close(random);
                    self.inbox.push_back(RaftEvent::FeedLost);
                }
            }
            Kill::Capture => {
                if let Some(link) = &mut self.world.links.capture {
                    link.cut(random);
                }
            }
        }
    }

    /// The raft thread has something to look at.
    pub fn raft_has_work(&self) -> bool {
        let capture = self.world.links.capture.as_ref();
        !self.inbox.is_empty()
            || capture.is_some_and(|link| link.has_bytes() || matches!(link.stage, CaptureStage::Lost { .. }))
    }

    /// The main thread has something to look at.
    pub fn main_has_work(&self) -> bool {
        let feed = self.world.links.feed.as_ref();
        let capture = self.world.links.capture.as_ref();
        self.server.has_work()
            || feed.is_some_and(|link| link.closed || !link.is_empty())
            || capture.is_some_and(|link| link.stage == CaptureStage::Requested)
    }
}
