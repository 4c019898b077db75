//! One server process as its main thread sees it: connections, dataset, stream, gate, and the turns of the event loop.

use super::commands::{Master, Reply, Request, Step, Watched};
use super::dataset::Dataset;
use super::dump::{Child, Saver};
use super::gate::Gate;
use super::reads::Reads;
use super::replica::{Applied, Applying, Link, Replica};
use super::stream::Stream;
use crate::coverage;
use crate::links::{CaptureStage, Links};
use crate::plan::Plan;
use crate::process::RaftEvent;
use crate::random::Random;
use redisraft::node::bridge::{Answer, Bridge, Ticket};
use redisraft::node::status::{State, Status};
use std::collections::{BTreeMap, VecDeque};

const ACKNOWLEDGE_PERIOD_US: u64 = 1_000_000;
const EXPIRE_PERIOD_US: u64 = 100_000;
/// How long a command waits for a leader.
const LEADER_WAIT_US: u64 = 1_000_000;

/// What leaves the server.
#[derive(Debug)]
pub enum Delivery {
    Reply {
        connection: u64,
        number: u64,
        reply: Reply,
    },
    /// Without a byte of what was not delivered before.
    Closed {
        connection: u64,
    },
    Answer {
        ticket: Ticket,
        answer: Answer,
    },
}

/// What a turn has brought.
#[derive(Default)]
pub struct Outcome {
    pub deliveries: Vec<Delivery>,
    pub events: Vec<RaftEvent>,
    pub applied: Vec<Applied>,
    /// The server has forked.
    pub child: Option<Child>,
}

/// What a turn works with.
pub struct Turn<'a> {
    /// The process's monotonic clock.
    pub now_us: u64,
    /// The machine's wall clock.
    pub wall_ms: u64,
    pub random: &'a mut Random,
    pub bridge: &'a Bridge,
    pub links: &'a mut Links,
    pub outcome: &'a mut Outcome,
    /// The raft thread has used its wake-up.
    pub woken: bool,
}

#[derive(Default)]
pub(super) struct Connection {
    inbox: VecDeque<Request>,
    outbox: Vec<(u64, Reply)>,
    watched: Watched,
    /// Waits for a leader with this request until this time.
    waiting: Option<(Request, u64)>,
    /// It said `READONLY`.
    readonly: bool,
    /// Waits for its turn in the feed.
    reading: bool,
    closed: bool,
}

impl Connection {
    /// Nothing more is read from it for now.
    fn is_blocked(&self) -> bool {
        self.waiting.is_some() || self.reading
    }
}

pub(super) enum Role {
    Master,
    Replica(Replica),
}

pub struct Server {
    pub dataset: Dataset,
    pub(super) stream: Stream,
    pub(super) role: Role,
    pub(super) gate: Gate,
    pub saver: Saver,
    reads: Reads,
    /// PSYNC names the stream; else it asks for everything.
    pub(super) has_history: bool,
    pub(super) connections: BTreeMap<u64, Connection>,
    /// REPLICAOF is due at this time: the server was loading.
    pub(super) follow_at_us: Option<u64>,
    /// The gate is to be sealed for this hand-over, as soon as nothing is open.
    pub(super) seal_due: Option<u64>,
    /// The next REPLICAOF NO ONE fails.
    pub refuse_promotion: bool,
    feed_token: Vec<u8>,
    acknowledge_at_us: u64,
    expire_at_us: u64,
    /// `repl-ping-replica-period`.
    ping_period_us: u64,
    ping_at_us: u64,
    woken: bool,
    tickets: u64,
}

impl Server {
    /// `stale`: dataset, id and offset that an old RDB brought back, which the log knows nothing of.
    pub fn new(
        now_us: u64,
        feed_token: Vec<u8>,
        plan: &Plan,
        random: &mut Random,
        stale: Option<(Dataset, String, u64)>,
    ) -> Server {
        let has_history = stale.is_some();
        let (dataset, replid, offset) = stale.unwrap_or_else(|| (Dataset::default(), random.replid(), 0));
        Server {
            dataset,
            stream: Stream::new(replid, offset, plan.backlog_bytes),
            role: Role::Master,
            gate: Gate::default(),
            saver: Saver::default(),
            reads: Reads::default(),
            has_history,
            connections: BTreeMap::new(),
            follow_at_us: None,
            seal_due: None,
            refuse_promotion: false,
            feed_token,
            acknowledge_at_us: now_us,
            expire_at_us: now_us,
            ping_period_us: plan.ping_period_us,
            ping_at_us: now_us + random.below(plan.ping_period_us),
            woken: false,
            tickets: 0,
        }
    }

    /// `readonly`: it says `READONLY` at once.
    pub fn connect(&mut self, connection: u64, readonly: bool) {
        self.connections.insert(connection, Connection { readonly, ..Connection::default() });
    }

    /// A client's request arrives. False: its connection is not there.
    pub fn receive(&mut self, connection: u64, request: Request) -> bool {
        match self.connections.get_mut(&connection) {
            Some(open) => open.inbox.push_back(request),
            None => return false,
        }
        true
    }

    /// The client has gone; what it has sent is still read.
    pub fn client_closed(&mut self, id: u64) {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.closed = true;
            if std::mem::take(&mut connection.reading) {
                self.reads.forget(id);
            }
        }
    }

    pub fn new_ticket(&mut self) -> Ticket {
        self.tickets += 1;
        self.tickets
    }

    pub fn gate_is_open(&self) -> bool {
        self.gate.is_open()
    }

    pub fn position(&self) -> (String, u64) {
        (self.stream.replid.clone(), self.stream.offset)
    }

    /// Some client can be served now.
    pub fn has_work(&self) -> bool {
        if self.seal_due.is_some() || self.saver.has_work() {
            return true;
        }
        let paused = self.gate.is_sealed();
        let can = |(id, connection): (&u64, &Connection)| {
            let idle = !connection.is_blocked() && !self.gate.holds(*id);
            let asks = !connection.inbox.is_empty() && !paused;
            idle && (asks || (connection.closed && connection.inbox.is_empty()))
        };
        self.connections.iter().any(can)
    }

    /// One turn of the event loop.
    pub fn turn(&mut self, turn: &mut Turn) {
        self.woken |= turn.woken;
        // The order of what the event loop finds in one turn is chance.
        let release_first = turn.random.chance(500);
        if release_first && turn.woken {
            self.release(turn);
        }
        self.seal(turn);
        self.saver.poll(turn.bridge);
        self.timers(turn);
        self.serve_clients(turn);
        self.read_feed(turn);
        if turn.woken {
            self.release(turn);
        }
        // Before the server sleeps and writes to its clients.
        if std::mem::take(&mut self.woken) {
            self.handle_messages(turn);
            self.release(turn);
        }
        let forked = self.saver.fork_if_due(self.gate.epoch(), &self.dataset, turn.bridge);
        self.gate.before_sleep(&mut self.stream, turn.bridge, forked, turn.now_us);
        self.reads.tell(turn.bridge);
        turn.outcome.child = self.saver.take_child();
        self.write_replies(turn);
        self.serve_capture(turn);
    }

    /// When the next turn must be, even if nothing happens.
    pub fn deadline_us(&self) -> u64 {
        let follow = self.follow_at_us.unwrap_or(u64::MAX);
        let waiting = self.connections.values().filter_map(|c| Some(c.waiting.as_ref()?.1)).min();
        let role = match &self.role {
            Role::Replica(Replica { link: Link::Connect { at_us }, .. }) => *at_us,
            Role::Replica(_) => self.acknowledge_at_us,
            Role::Master => self.expire_at_us.min(self.ping_at_us),
        };
        follow.min(role).min(waiting.unwrap_or(u64::MAX)).min(self.reads.deadline_us())
    }

    fn release(&mut self, turn: &mut Turn) {
        if !self.gate.release(turn.bridge).is_empty() {
            coverage::mark("batch released");
        }
    }

    fn timers(&mut self, turn: &mut Turn) {
        if self.follow_at_us.is_some_and(|at| turn.now_us >= at) {
            self.follow_at_us = None;
            self.follow(turn);
        }
        match &self.role {
            Role::Master => {
                if turn.now_us >= self.expire_at_us {
                    self.expire_at_us = turn.now_us + EXPIRE_PERIOD_US;
                    self.expire(turn.wall_ms);
                }
                if turn.now_us >= self.ping_at_us {
                    self.ping_at_us = turn.now_us + self.ping_period_us;
                    self.stream.ping();
                }
            }
            Role::Replica(replica) => {
                if turn.now_us >= self.acknowledge_at_us {
                    self.acknowledge_at_us = turn.now_us + ACKNOWLEDGE_PERIOD_US;
                    if matches!(replica.link, Link::Up { .. }) {
                        turn.outcome.events.push(RaftEvent::FeedAck { offset: self.stream.offset });
                    }
                }
            }
        }
        let expired: Vec<u64> =
            self.connections.iter().filter(|(_, c)| over(c, turn.now_us)).map(|(id, _)| *id).collect();
        for id in expired {
            let connection = self.connections.get_mut(&id).expect("listed above");
            let (request, _) = connection.waiting.take().expect("listed above");
            connection.outbox.push((request.number, Reply::NoLeader));
        }
        while let Some(late) = self.reads.take_late(turn.now_us) {
            coverage::mark("read at a follower given up");
            self.has_read(late.connection, late.request.number, Reply::NoLeader);
        }
    }

    /// A closed gate means that the module is about to follow: the server is paused then, and expires nothing.
    fn expire(&mut self, wall_ms: u64) {
        if !self.gate.is_open() {
            return;
        }
        let mut master = Master { dataset: &mut self.dataset, stream: &mut self.stream, wall_ms };
        if master.expire() {
            coverage::mark("key expired");
            self.gate.wrote();
        }
    }

    fn serve_clients(&mut self, turn: &mut Turn) {
        // Clients are paused as long as the gate is sealed.
        let paused = self.gate.is_sealed();
        let ids: Vec<u64> = self.connections.keys().copied().filter(|_| !paused).collect();
        for id in ids {
            // A pipeline that was read is executed to its end, even if its first command holds the client.
            if self.gate.holds(id) {
                continue;
            }
            while let Some(connection) = self.connections.get_mut(&id) {
                if connection.is_blocked() {
                    break;
                }
                let Some(request) = connection.inbox.pop_front() else { break };
                self.run(id, request, true, turn);
            }
        }
    }

    /// `fresh`: the request has not waited for a leader yet.
    pub(super) fn run(&mut self, id: u64, request: Request, fresh: bool, turn: &mut Turn) {
        if !self.gate.is_open() {
            return self.elsewhere(id, request, fresh, turn);
        }
        self.expire(turn.wall_ms);
        if request.step.may_write() {
            self.gate.wrote();
        }
        self.gate.hold(id);
        let connection = self.connections.get_mut(&id).expect("it asks");
        let mut master =
            Master { dataset: &mut self.dataset, stream: &mut self.stream, wall_ms: turn.wall_ms };
        let reply = master.execute(request.bundle, &request.step, &mut connection.watched);
        connection.outbox.push((request.number, reply));
    }

    fn elsewhere(&mut self, id: u64, request: Request, fresh: bool, turn: &mut Turn) {
        let status = turn.bridge.status();
        let connection = self.connections.get_mut(&id).expect("it asks");
        let only_reads = matches!(request.step, Step::Get | Step::ReadAll);
        let follows = matches!(self.role, Role::Replica(_)) && status.state == State::Up;
        if connection.readonly && only_reads && follows && fresh {
            connection.reading = true;
            return self.reads.ask(id, request, turn.now_us + LEADER_WAIT_US, turn.bridge);
        }
        let reply = match (status.state, leader_elsewhere(&status)) {
            (State::Uninitialized | State::Joining | State::Removed, _) => Reply::NoLeader,
            (_, Some(address)) => Reply::Moved { address: address.to_string() },
            (_, None) if fresh => {
                connection.waiting = Some((request, turn.now_us + LEADER_WAIT_US));
                return;
            }
            (_, None) => Reply::NoLeader,
        };
        connection.outbox.push((request.number, reply));
    }

    /// A read at this follower has its reply.
    fn has_read(&mut self, id: u64, number: u64, reply: Reply) {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.reading = false;
            connection.outbox.push((number, reply));
        }
    }

    /// This server follows no more: who reads here starts over.
    pub(super) fn reads_start_over(&mut self, turn: &mut Turn) {
        for read in self.reads.take_all() {
            if let Some(connection) = self.connections.get_mut(&read.connection) {
                coverage::mark("read at a follower that was promoted or removed");
                connection.reading = false;
                self.run(read.connection, read.request, false, turn);
            }
        }
    }

    /// A leader is known: everyone who waits tries again.
    pub(super) fn wake_waiters(&mut self, turn: &mut Turn) {
        let ids: Vec<u64> = self.connections.keys().copied().collect();
        for id in ids {
            let waiting = self.connections.get_mut(&id).expect("just listed").waiting.take();
            if let Some((request, _)) = waiting {
                coverage::mark("client waited for a leader");
                self.run(id, request, false, turn);
            }
        }
    }

    fn write_replies(&mut self, turn: &mut Turn) {
        for (id, connection) in &mut self.connections {
            if self.gate.holds(*id) {
                continue;
            }
            let replies = connection.outbox.drain(..);
            turn.outcome.deliveries.extend(replies.map(|(number, reply)| Delivery::Reply {
                connection: *id,
                number,
                reply,
            }));
        }
        let gate = &self.gate;
        self.connections.retain(|id, connection| {
            !connection.closed || gate.holds(*id) || !connection.inbox.is_empty() || connection.is_blocked()
        });
    }

    /// Closes a connection without a byte of what is in its output buffer.
    pub(super) fn cut_off(&mut self, id: u64, turn: &mut Turn) {
        if self.connections.remove(&id).is_some_and(|connection| !connection.closed) {
            turn.outcome.deliveries.push(Delivery::Closed { connection: id });
        }
    }

    fn read_feed(&mut self, turn: &mut Turn) {
        let Role::Replica(replica) = &mut self.role else { return };
        if let Link::Connect { at_us } = replica.link {
            if turn.now_us < at_us {
                return;
            }
            let (number, replaced) = turn.links.connect_feed();
            if replaced {
                turn.outcome.events.push(RaftEvent::FeedLost);
            }
            replica.link = Link::Asked { number };
            let (replid, offset) = match self.has_history {
                true => (self.stream.replid.clone(), self.stream.offset as i64 + 1),
                false => ("?".to_string(), -1),
            };
            turn.outcome.events.push(RaftEvent::FeedPsync { replid, offset });
            return;
        }
        let (Link::Asked { number } | Link::Up { number }) = replica.link else { return };
        let mut on = Applying {
            dataset: &mut self.dataset,
            stream: &mut self.stream,
            has_history: &mut self.has_history,
            bridge: turn.bridge,
            feed_token: &self.feed_token,
            applied: &mut turn.outcome.applied,
            saver: &mut self.saver,
            reads: &mut self.reads,
        };
        let mut alive = false;
        if let Some(link) = turn.links.feed.as_mut().filter(|link| link.number == number) {
            alive = true;
            for _ in 0..turn.random.between(1, 4) {
                alive = alive && replica.read(link, turn.random, &mut on);
            }
        }
        if !alive {
            replica.disconnected(turn.now_us + turn.random.between(500, 200_000));
            turn.links.feed = turn.links.feed.take().filter(|link| link.number != number);
        }
        for (id, number, reply) in self.reads.take_answered() {
            self.has_read(id, number, reply);
        }
    }

    /// Answers the raft thread's PSYNC, and sends it what is new in the stream.
    fn serve_capture(&mut self, turn: &mut Turn) {
        let Some(link) = &mut turn.links.capture else { return };
        if link.stage == CaptureStage::Requested {
            let known = link.replid == self.stream.replid && self.stream.since(link.next).is_some();
            link.stage = match known {
                true => {
                    turn.outcome.events.push(RaftEvent::CaptureUp);
                    CaptureStage::Up
                }
                false => CaptureStage::Lost { resumable: false },
            };
        }
        if link.stage == CaptureStage::Up {
            match self.stream.since(link.next) {
                Some(bytes) => link.send(bytes),
                None => link.stage = CaptureStage::Lost { resumable: false },
            }
        }
    }
}

fn over(connection: &Connection, now_us: u64) -> bool {
    connection.waiting.as_ref().is_some_and(|(_, until_us)| now_us >= *until_us)
}

/// The leader's address, if the leader is another node.
pub(super) fn leader_elsewhere(status: &Status) -> Option<&str> {
    status.leader_id.filter(|id| *id != status.node_id)?;
    status.leader_addr.as_deref()
}
