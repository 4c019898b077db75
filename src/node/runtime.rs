//! The raft thread: one mio loop around one node.
//!
//! Before `INIT` or `JOIN` there is no log and no node, only the bridge and the sockets. From then on each
//! turn collects what the sockets, the disk and the main thread have, gives it to the [`Node`], and flushes.

mod invitation;
mod retire;
mod snapshots;
mod start;
mod world;

use super::bridge::{Answer, Bridge, Ticket, ToRaft};
use super::requests::without_node;
use super::settings::Settings;
pub use super::snapshot::dump_name;
use super::status::{LogStatus, State, Status};
use super::{Fatal, Node, World};
use crate::link::{Event, Links};
use crate::log::disk::Disk;
use crate::log::Log;
use invitation::JoinResult;
pub use snapshots::beside;
use snapshots::{OnDisk, Worker};
use start::Founding;
pub use start::{check, read_back};
use std::path::PathBuf;
use std::sync::mpsc::{channel, Receiver, Sender};
use std::sync::Arc;
use std::time::{Duration, Instant};
use world::RealWorld;

/// What the thread is given by whoever loads the module.
pub struct Setup {
    pub settings: Arc<Settings>,
    /// Directory of the log, absolute.
    pub log_directory: PathBuf,
    /// Where that is: memory with `raft.persist no`.
    pub disk: Arc<dyn Disk>,
    /// What clients are told of this node, `host:port`.
    pub address: String,
    /// What peers are told of this node, `host:port`.
    pub peer_address: String,
    /// Where the local server listens.
    pub server: std::net::SocketAddr,
    /// What lets the capture link and the feed through the command filter; known to this process alone.
    pub capture_secret: String,
    pub feed_token: Vec<u8>,
}

/// The log that was found at load; opened there, so that damage refuses the load.
pub struct Found(OnDisk);

/// Opens the log that is there, or says that there is none.
pub fn find_log(setup: &Setup, links: &Links) -> Result<Option<Found>, String> {
    if !setup.settings.persist {
        return start::refuse_persistent_log(&setup.log_directory).map(|()| None);
    }
    if !Log::exists(&setup.log_directory) {
        return Ok(None);
    }
    let log = start::open(setup, links).map_err(|error| error.to_string())?;
    if log.last_index() > 0 {
        let on_disk = snapshots::open_beside(setup, links, log).map_err(|error| error.to_string())?;
        let OnDisk { log, snapshot, .. } = &on_disk;
        start::check(&setup.log_directory, log, snapshot.as_ref(), &log.holes())
            .map_err(|error| error.to_string())?;
        return Ok(Some(Found(on_disk)));
    }
    drop(log);
    start::set_aside(setup).map(|()| None)
}

pub struct Runtime {
    setup: Setup,
    world: RealWorld,
    found: Option<Found>,
    node: Option<Node>,
    /// INIT waits for the dump of the server's data.
    founding: Option<Founding>,
    /// What this node is while there is none: it was never a member, or it was removed.
    without_cluster: State,
    /// JOIN is under way on its own thread.
    joining: Option<Ticket>,
    joins: (Sender<JoinResult>, Receiver<JoinResult>),
    /// The last write id that was reported durable to the node.
    durable: u64,
    stop: bool,
}

impl Runtime {
    /// `found`: the log of an earlier start.
    pub fn new(setup: Setup, links: Links, bridge: Arc<Bridge>, found: Option<Found>) -> Runtime {
        let world = RealWorld::new(&setup, links, bridge);
        let without_cluster = match retire::was_removed(&setup.log_directory) {
            true => State::Removed,
            false => State::Uninitialized,
        };
        let none = || Status { state: without_cluster, ..Status::default() };
        let status = found.as_ref().map_or_else(none, |Found(OnDisk { log, .. })| Status {
            state: State::Loading,
            cluster_id: log.identity().cluster_id.clone(),
            node_id: log.identity().node_id,
            log: LogStatus { distrusted: !log.is_trusted(), ..LogStatus::default() },
            ..Status::default()
        });
        world.bridge.publish(Arc::new(status));
        Runtime {
            setup,
            world,
            found,
            node: None,
            founding: None,
            without_cluster,
            joining: None,
            joins: channel(),
            durable: 0,
            stop: false,
        }
    }

    /// Runs until `Shutdown`, or until the node cannot trust its state.
    pub fn run(mut self) -> Result<(), Fatal> {
        if let Some(Found(on_disk)) = self.found.take() {
            self.start_node(on_disk)?;
        }
        let (mut events, mut messages, mut look_again) = (Vec::new(), Vec::new(), false);
        while !self.stop {
            let timeout = if look_again { Some(Duration::ZERO) } else { self.timeout() };
            if let Err(error) = self.world.links.poll(Instant::now(), timeout, &mut events) {
                log::error!("waiting for events failed: {error}");
                std::thread::sleep(Duration::from_millis(10)); // out of memory or descriptors: not a busy loop
            }
            for event in events.drain(..) {
                self.on_event(event)?;
            }
            self.world.bridge.clone().take_for_raft(&mut messages);
            for message in messages.drain(..) {
                self.on_message(message)?;
            }
            self.on_joined()?;
            self.turn()?;
            self.retire_if_removed();
            self.world.flush();
            let under_way = self.node.as_ref().is_some_and(Node::read_round_is_under_way);
            look_again = self.world.bridge.set_round_under_way(under_way);
        }
        Ok(())
    }

    fn timeout(&self) -> Option<Duration> {
        let deadline_us = self.node.as_ref()?.deadline_us();
        Some(Duration::from_micros(deadline_us.saturating_sub(self.world.now_us())))
    }

    fn turn(&mut self) -> Result<(), Fatal> {
        let Some(node) = &mut self.node else { return Ok(()) };
        self.world.tell_scrub_failure();
        let durable = self.world.durable()?;
        if durable > self.durable {
            self.durable = durable;
            node.on_durable(&mut self.world, durable)?;
        }
        while let Some(done) = self.world.snapshots.as_ref().and_then(Worker::next) {
            node.on_snapshot_done(&mut self.world, done)?;
        }
        node.turn(&mut self.world)
    }

    fn on_event(&mut self, event: Event) -> Result<(), Fatal> {
        let Some(node) = &mut self.node else { return Ok(()) };
        let world = &mut self.world;
        match event {
            Event::Peer { from, frame } => {
                node.on_peer_frame(world, from, frame.kind, &frame.header, &frame.payload)?
            }
            Event::PeerUp { id } => node.on_peer_up(world, id)?,
            Event::PeerDown { id, refused: true } => node.on_peer_unreachable(world, id)?,
            Event::PeerDown { refused: false, .. } => {}
            Event::CaptureUp => {
                log::info!("reading the replication stream of the local server");
                node.on_capture_up();
            }
            Event::CaptureData | Event::Woken => {}
            Event::CaptureLost { reason, resumable } => node.on_capture_lost(world, &reason, resumable),
            Event::FeedPsync { replid, offset } => node.on_feed_psync(world, &replid, offset),
            Event::FeedAck { offset } => node.on_feed_acknowledged(offset),
            Event::FeedLost => node.on_feed_lost(),
        }
        Ok(())
    }

    fn on_message(&mut self, message: ToRaft) -> Result<(), Fatal> {
        match &message {
            ToRaft::Shutdown => self.stop = true,
            ToRaft::Configure(settings) => {
                self.setup.settings = settings.clone();
                self.world.configure(settings);
            }
            _ => {}
        }
        match &mut self.node {
            Some(node) => node.on_request(&mut self.world, message),
            None => self.on_message_without_node(message),
        }
    }

    fn on_message_without_node(&mut self, message: ToRaft) -> Result<(), Fatal> {
        let bridge = &self.world.bridge;
        match message {
            ToRaft::Init { ticket, .. } | ToRaft::Join { ticket, .. } if self.founding.is_some() => {
                bridge.answer(ticket, Answer::Refused("this node is creating a cluster".into()))
            }
            ToRaft::Init { ticket, .. } if self.joining.is_some() => {
                bridge.answer(ticket, Answer::Refused("this node is joining a cluster".into()))
            }
            ToRaft::Init { ticket, cluster_id, with_data } => self.init(ticket, cluster_id, with_data)?,
            ToRaft::Join { ticket, addresses } => self.join(ticket, addresses),
            ToRaft::SnapshotSaved { file, .. } => self.found_with_data(file)?,
            ToRaft::SnapshotFailed { reason, .. } => self.founding_failed(reason),
            message => without_node(bridge, &message),
        }
        Ok(())
    }

    /// Publishes that there is no node yet.
    fn publish(&self, state: State) {
        self.world.bridge.publish(Arc::new(Status { state, ..Status::default() }));
        self.world.bridge.tell_main(super::bridge::ToMain::LeaderChanged);
    }
}
