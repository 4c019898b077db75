//! How a node comes to be: from a log that is there, by INIT, or by JOIN.

use super::invitation::{ask, Invitation, Joiner, Patience};
use super::snapshots::{self, OnDisk, Worker};
use super::{Runtime, Setup};
use crate::consensus::{EntryMeta, NodeId, Position};
use crate::limits::{MEMORY_SEGMENT_MAX_BYTES, SECRET_BYTES};
use crate::link::{Links, PeerIdentity};
use crate::log::{Entry, HardState, Hole, Identity, Kind, Log, LogError, Options, WriteRequest};
use crate::node::bridge::{Answer, Ticket, ToMain};
use crate::node::members::{Member, Members};
use crate::node::runtime::world::random_hex;
use crate::node::snapshot::dump_name;
use crate::node::status::State;
use crate::node::{change, wire, Fatal, Node, Start, World};
use crate::snapshot::{About, Done, Draft, Job, Store};
use bytes::Bytes;
use mio::Waker;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A cluster that waits for the dump of the server's data.
pub(super) struct Founding {
    ticket: Ticket,
    identity: Identity,
    members: Members,
}

pub(super) fn open(setup: &Setup, links: &Links) -> Result<Log, LogError> {
    let (disk, directory) = (setup.disk.clone(), &setup.log_directory);
    let (log, recovery) = Log::open_on(disk, directory, options(setup), notify(links))?;
    log::info!("log {}: {recovery}", setup.log_directory.display());
    Ok(log)
}

/// A node that was stopped between its invitation and the first entry from the leader has promised nothing to
/// anybody, and does not know where its peers are: it may join again, under another id.
pub(super) fn set_aside(setup: &Setup) -> Result<(), String> {
    let done = put_away(setup, "incomplete").map_err(|error| {
        let directory = setup.log_directory.display();
        format!("cannot move the log of an unfinished join aside, {directory}: {error}")
    })?;
    log::warn!("an unfinished join left a log without an entry; it was {done}");
    Ok(())
}

/// A node that keeps its log in memory must not be one that has promised something on disk.
pub(super) fn refuse_persistent_log(directory: &Path) -> Result<(), String> {
    match Log::exists(directory) {
        false => Ok(()),
        true => Err(format!(
            "raft.persist is no, and {} holds the log of a node: without it this would be another node. Remove that one \
             from its cluster by RAFT.NODE REMOVE, move its directory away, and join anew; or leave raft.persist at yes",
            directory.display()
        )),
    }
}

/// What is not used any more goes out of the way: aside, or away if it is in memory. Says what was done.
pub(super) fn put_away(setup: &Setup, why: &str) -> std::io::Result<String> {
    let Setup { log_directory, disk, .. } = setup;
    if setup.settings.persist {
        return Ok(format!("moved to {}", move_aside(log_directory, why)?.display()));
    }
    for name in disk.list(log_directory)? {
        disk.remove(&log_directory.join(name))?;
    }
    Ok("in memory, and is dropped".to_string())
}

/// Gives a directory a name that says why it is not used any more, and that nothing has; says which.
fn move_aside(directory: &Path, why: &str) -> std::io::Result<PathBuf> {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let mut number = 0;
    loop {
        let mut name = directory.as_os_str().to_owned();
        name.push(match number {
            0 => format!(".{why}-{seconds}"),
            number => format!(".{why}-{seconds}-{number}"),
        });
        let name = PathBuf::from(name);
        if name.symlink_metadata().is_err() {
            std::fs::rename(directory, &name)?;
            return Ok(name);
        }
        number += 1;
    }
}

fn options(setup: &Setup) -> Options {
    let defaults = Options::default();
    let (segment_bytes, fsync) = (setup.settings.log_segment_bytes, setup.settings.log_fsync);
    match setup.settings.persist {
        true => Options { segment_bytes, fsync, ..defaults },
        // Segments that are ready ahead take memory.
        false => {
            let segment_bytes = segment_bytes.min(MEMORY_SEGMENT_MAX_BYTES);
            Options { segment_bytes, fsync, direct_io: false, ..defaults }
        }
    }
}

/// Makes the log an empty one behind `base`, and opens it.
pub(super) fn replace_log(setup: &Setup, links: &Links, base: (u64, u64)) -> Result<Log, LogError> {
    let [index, term] = <[u64; 2]>::from(base);
    replacer(setup, links)(Position { index, term })
}

/// Opens the log anew, empty, behind an entry.
pub(super) type Replace = Box<dyn Fn(Position) -> Result<Log, LogError> + Send>;

/// Replaces and opens the log, whenever it is called; the log must not be open.
pub(super) fn replacer(setup: &Setup, links: &Links) -> Replace {
    let (directory, options, waker) = (setup.log_directory.clone(), options(setup), links.waker());
    let disk = setup.disk.clone();
    Box::new(move |base| {
        crate::log::replace(disk.as_ref(), &directory, (base.index, base.term), options.segment_bytes)?;
        let opened = Log::open_on(disk.clone(), &directory, options.clone(), waking(waker.clone()));
        let (log, recovery) = opened?;
        log::info!("log {}: {recovery}", directory.display());
        Ok(log)
    })
}

fn notify(links: &Links) -> Box<dyn Fn() + Send + Sync> {
    waking(links.waker())
}

fn waking(waker: Arc<Waker>) -> Box<dyn Fn() + Send + Sync> {
    Box::new(move || {
        if let Err(error) = waker.wake() {
            log::error!("cannot wake the raft thread: {error}");
        }
    })
}

impl Runtime {
    /// Starts a node on a log that was just made.
    fn start_new_node(&mut self, log: Log) -> Result<(), Fatal> {
        let on_disk = snapshots::open_beside(&self.setup, &self.world.links, log)?;
        self.start_node(on_disk)?;
        let port = self.world.links.feed_port();
        self.world.bridge.tell_main(ToMain::Follow { port });
        Ok(())
    }

    /// Starts the node that the log describes.
    pub(super) fn start_node(&mut self, on_disk: OnDisk) -> Result<(), Fatal> {
        let OnDisk { log, store, snapshot } = on_disk;
        let identity = log.identity().clone();
        let (entries, members) = read_back(&log, snapshot.as_ref())?;
        let (index, term) = log.base();
        if !log.is_trusted() {
            log::warn!(
                "the end of this log was cut off, with entries that may have been acknowledged: this node does not \
                 vote until it has caught up with a leader"
            );
        }
        let start = Start {
            id: identity.node_id,
            cluster_id: identity.cluster_id.clone(),
            secret: identity.secret.to_vec(),
            settings: self.setup.settings.clone(),
            seed: u64::from_str_radix(&random_hex(8), 16).expect("hex"),
            hard_state: log.hard_state(),
            promise_us: log.promise_us(),
            trusted: log.is_trusted(),
            base: Position { index, term },
            entries,
            snapshot,
            members,
            address: self.setup.address.clone(),
            peer_address: self.setup.peer_address.clone(),
            feed_token: self.setup.feed_token.clone(),
        };
        self.world.log = Some(log);
        let worker = Worker::start(store, self.world.links.waker());
        self.world.snapshots =
            Some(worker.map_err(|error| Fatal::Start(format!("cannot start a thread: {error}")))?);
        self.world.configure(&self.setup.settings);
        let Identity { cluster_id, node_id, secret } = identity;
        self.world.links.set_identity(PeerIdentity { cluster_id, node_id, secret });
        self.durable = 0;
        self.world.submitted = 0;
        let mut node = Node::new(start, &mut self.world);
        node.report_now(&mut self.world); // before anybody is told that there is a cluster
                                          // A dump that was finished while the process was being killed.
        if let Ok(directory) = std::env::current_dir() {
            self.world
                .snapshot(Job::Discard { file: directory.join(dump_name(node.cluster_id(), node.id())) });
        }
        self.node = Some(node);
        Ok(())
    }

    /// Creates a cluster with this node as its only member. Data that the server holds becomes its first snapshot, in
    /// place of the first entry; that takes a dump first.
    pub(super) fn init(
        &mut self,
        ticket: Ticket,
        cluster_id: Option<String>,
        with_data: bool,
    ) -> Result<(), Fatal> {
        let member = Member {
            voting: true,
            address: self.setup.address.clone(),
            peer_address: self.setup.peer_address.clone(),
            in_memory: !self.setup.settings.persist,
        };
        let mut secret = [0; SECRET_BYTES];
        getrandom::fill(&mut secret).expect("the system has random numbers: the links needed them at load");
        let id = self.own_id();
        let cluster_id = cluster_id.unwrap_or_else(|| random_hex(16));
        let members = Members(BTreeMap::from([(id, member)]));
        let founding = Founding { ticket, identity: Identity { cluster_id, node_id: id, secret }, members };
        if with_data {
            let file = dump_name(&founding.identity.cluster_id, id);
            self.world.bridge.tell_main(ToMain::Snapshot { epoch: 0, attempt: 0, file });
            self.founding = Some(founding);
            return Ok(());
        }
        let first = Entry::new(1, 1, Kind::Membership, Bytes::from(founding.members.encode()));
        let log = self.create_log(founding.identity, Some(HardState { term: 1, vote: None }), vec![first]);
        self.founded(founding.ticket, log.map_err(|error| error.to_string()))
    }

    /// The dump of the server's data is there. Until the log begins behind it there is no cluster: a restart in between
    /// sets the directory aside.
    pub(super) fn found_with_data(&mut self, file: PathBuf) -> Result<(), Fatal> {
        let Some(Founding { ticket, identity, members }) = self.founding.take() else {
            // For a node that was removed meanwhile.
            if let Err(error) = std::fs::remove_file(&file) {
                log::error!("cannot remove {}: {error}", file.display());
            }
            return Ok(());
        };
        let (cluster_id, node_id) = (identity.cluster_id.clone(), identity.node_id);
        let log = self.create_log(identity, Some(HardState { term: 1, vote: None }), Vec::new());
        let draft = Draft { index: 1, term: 1, members: members.encode().into(), used_ids: vec![node_id] };
        let log = log.map_err(|error| error.to_string()).and_then(|log| {
            let opened = Store::open(self.setup.disk.clone(), &self.setup.log_directory, &cluster_id);
            let (mut store, _) = opened.map_err(|error| error.to_string())?;
            if let Some(Done::Kept { result: Err(error) }) = store.run(Job::Keep { source: file, draft }) {
                return Err(error.to_string());
            }
            drop(log);
            replace_log(&self.setup, &self.world.links, (1, 1)).map_err(|error| error.to_string())
        });
        self.founded(ticket, log)
    }

    /// The server's data could not be dumped: there is no cluster.
    pub(super) fn founding_failed(&mut self, reason: String) {
        if let Some(Founding { ticket, .. }) = self.founding.take() {
            self.world
                .bridge
                .answer(ticket, Answer::Refused(format!("this server's data cannot be saved: {reason}")));
        }
    }

    fn founded(&mut self, ticket: Ticket, log: Result<Log, String>) -> Result<(), Fatal> {
        match log {
            Ok(log) => {
                // Answered after `Follow` is told: the main thread then lets no other client wait meanwhile.
                let cluster_id = log.identity().cluster_id.clone();
                self.start_new_node(log)?;
                self.world.bridge.answer(ticket, Answer::Created { cluster_id });
            }
            Err(reason) => {
                // What was begun is no cluster; it is set aside, so that INIT can be tried again.
                let Setup { disk, log_directory, .. } = &self.setup;
                if Log::exists_on(disk.as_ref(), log_directory) {
                    if let Err(error) = set_aside(&self.setup) {
                        log::error!("{error}");
                    }
                }
                self.world.bridge.answer(ticket, Answer::Refused(reason));
            }
        }
        Ok(())
    }

    fn own_id(&mut self) -> NodeId {
        match self.setup.settings.id {
            0 => change::random_id(&mut self.world),
            id => id,
        }
    }

    /// Makes the log with its first entries, all on disk, and opens it as any later start does.
    fn create_log(
        &mut self,
        identity: Identity,
        hard_state: Option<HardState>,
        entries: Vec<Entry>,
    ) -> Result<Log, LogError> {
        let directory = &self.setup.log_directory;
        let (disk, options) = (self.setup.disk.clone(), options(&self.setup));
        let mut log = Log::create_on(disk, directory, identity, options, notify(&self.world.links))?;
        if hard_state.is_some() {
            log.submit(WriteRequest { id: 1, hard_state, entries, ..WriteRequest::default() });
            while log.durable()? < 1 {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        drop(log);
        open(&self.setup, &self.world.links)
    }

    /// Asks the cluster for an invitation, on a thread of its own.
    pub(super) fn join(&mut self, ticket: Ticket, addresses: Vec<String>) {
        if self.joining.is_some() {
            let text = "this node is joining already".to_string();
            return self.world.bridge.answer(ticket, Answer::Refused(text));
        }
        self.joining = Some(ticket);
        self.publish(State::Joining);
        let (sender, waker) = (self.joins.0.clone(), self.world.links.waker());
        let settings = self.setup.settings.clone();
        let credentials = (!settings.cluster_password.is_empty())
            .then(|| (settings.cluster_user.clone(), settings.cluster_password.clone()));
        // An id is used once: the one that was taken out does not come back.
        let id = if self.without_cluster == State::Removed { 0 } else { settings.id };
        let (address, peer_address) = (self.setup.address.clone(), self.setup.peer_address.clone());
        let own = Joiner { id, address, peer_address, in_memory: !settings.persist };
        let request_ms = settings.connection_timeout_ms + settings.response_timeout_ms;
        let patience = Patience {
            whole: Duration::from_millis(settings.join_timeout_ms),
            request: Duration::from_millis(request_ms),
        };
        let work = move || {
            let result = ask(&addresses, credentials, &own, patience);
            // The receiver lives as long as the process; a node that is stopping needs no answer.
            let _ = sender.send(result);
            let _ = waker.wake();
        };
        if let Err(error) = std::thread::Builder::new().name("raft-join".into()).spawn(work) {
            self.join_failed(format!("cannot start a thread: {error}"));
        }
    }

    fn join_failed(&mut self, reason: String) {
        let Some(ticket) = self.joining.take() else { return };
        self.publish(self.without_cluster);
        self.world.bridge.answer(ticket, Answer::Refused(reason));
    }

    /// Looks whether the join thread has an answer.
    pub(super) fn on_joined(&mut self) -> Result<(), Fatal> {
        let Ok(result) = self.joins.1.try_recv() else { return Ok(()) };
        let invitation = match result {
            Ok(invitation) => invitation,
            Err(reason) => {
                self.join_failed(reason);
                return Ok(());
            }
        };
        let Invitation { id, cluster_id, secret, members } = invitation;
        // The first entry of the log comes from the leader; until then the members are what we were told.
        match self.create_log(Identity { cluster_id, node_id: id, secret }, None, Vec::new()) {
            Ok(log) => {
                self.start_new_node(log)?;
                let node = self.node.as_mut().expect("just started");
                node.set_known_members(&mut self.world, members);
                if let Some(ticket) = self.joining.take() {
                    self.world.bridge.answer(ticket, Answer::Ok);
                }
            }
            Err(error) => self.join_failed(error.to_string()),
        }
        Ok(())
    }
}

/// Refuses a log that only other nodes could make whole, when there is none.
pub fn check(directory: &Path, log: &Log, snapshot: Option<&About>, holes: &[Hole]) -> Result<(), Fatal> {
    let refuse = |hole: &Hole, reason| {
        let (hole, directory) = (Box::new(hole.clone()), directory.to_path_buf());
        Err(Fatal::Unhealable { hole, reason, directory })
    };
    if holes.is_empty() && log.is_trusted() {
        return Ok(());
    }
    if let Some(hole) = holes.iter().find(|hole| hole.kind == Kind::Membership) {
        return refuse(hole, "it said who the members are, so that nobody can be asked for it");
    }
    let (_, members) = read_back(log, snapshot)?;
    let (_, members) = members.last().expect("holds at least what is in force without any entry");
    match holes.first() {
        _ if has_another_voter(members, log.identity().node_id) => Ok(()),
        Some(first) => refuse(first, "no other voter is there that could have a copy of it"),
        None => Err(Fatal::CutAlone { directory: directory.to_path_buf() }),
    }
}

fn has_another_voter(members: &Members, own: NodeId) -> bool {
    members.0.iter().any(|(id, member)| member.voting && *id != own)
}

/// What the core and the driver need of every entry.
pub type ReadBack = (Vec<EntryMeta>, Vec<(u64, Members)>);

pub fn read_back(log: &Log, snapshot: Option<&About>) -> Result<ReadBack, Fatal> {
    let mut entries = Vec::with_capacity((log.last_index() + 1 - log.first_index()) as usize);
    // What the snapshot says holds at its entry; before, only committed changes can differ, which are not asked for.
    let known = snapshot.map_or(Ok(Members::default()), |about| Members::decode(&about.members));
    let known = known.map_err(|error| Fatal::Start(format!("the newest snapshot: {error}")))?;
    let first = if log.base().0 == 0 { Members::default() } else { known };
    let mut members = vec![(log.base().0, first)];
    for index in log.first_index()..=log.last_index() {
        let info = log.info(index).expect("index is within the log");
        let meta = match info.kind {
            Kind::Membership => {
                let entry = log.read(index)?;
                let meta = wire::meta(&entry)?;
                members.push((index, Members::decode(&entry.payload).expect("wire::meta decoded it")));
                meta
            }
            Kind::Normal => EntryMeta {
                term: info.term,
                kind: crate::consensus::EntryKind::Normal,
                bytes: info.payload_bytes,
            },
            Kind::NoOp => EntryMeta { term: info.term, kind: crate::consensus::EntryKind::NoOp, bytes: 0 },
        };
        entries.push(meta);
    }
    Ok((entries, members))
}
