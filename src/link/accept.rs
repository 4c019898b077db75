//! Connections that others dial to us: probes, and peers that send frames.

use super::frame;
use super::handshake::{self, PeerIdentity, Side, Transcript, PROTOCOL_VERSION};
use super::listener::Listener;
use super::reactor::{Class, Reactor, Readiness};
use super::socket::{Filled, Socket};
use super::{Event, Rejection};
use crate::limits::{MAX_DRAIN_BYTES, MAX_UNAUTHENTICATED_LINKS, MAX_UNAUTHENTICATED_QUEUE_BYTES};
use crate::resp::{encode_command, CommandParser, Limits};
use bytes::Bytes;
use mio::Token;
use std::collections::HashMap;
use std::net::Shutdown;
use std::ops::Range;
use std::time::{Duration, Instant};

/// Invariants: `unauthenticated` is the number of `links` that are not up; each link that is up is the
/// one that `peers` names for its id.
pub(super) struct Acceptor {
    listeners: Vec<Listener>,
    links: HashMap<Token, Link>,
    peers: HashMap<u64, Heard>,
    unauthenticated: usize,
    /// Everyone is refused before this is known.
    identity: Option<PeerIdentity>,
    connect_timeout: Duration,
}

struct Heard {
    link: Option<Token>,
    last: Instant,
}

struct Link {
    socket: Socket,
    stage: Stage,
    parser: CommandParser,
}

enum Stage {
    AwaitHello {
        deadline: Instant,
    },
    AwaitProof {
        transcript: Transcript,
        deadline: Instant,
    },
    Up {
        id: u64,
    },
    /// Refused: the error is on its way, late input is discarded until the other side closes.
    Refused {
        deadline: Instant,
        discarded: usize,
    },
}

impl Stage {
    fn deadline(&self) -> Option<Instant> {
        match *self {
            Stage::AwaitHello { deadline }
            | Stage::AwaitProof { deadline, .. }
            | Stage::Refused { deadline, .. } => Some(deadline),
            Stage::Up { .. } => None,
        }
    }
}

/// What becomes of a link after a step.
enum Fate {
    Keep,
    Close,
    /// Tell why, count it, and close.
    Refuse(Rejection, &'static str),
}

impl Acceptor {
    pub fn new(listeners: Vec<Listener>, connect_timeout: Duration) -> Acceptor {
        Acceptor {
            listeners,
            links: HashMap::new(),
            peers: HashMap::new(),
            unauthenticated: 0,
            identity: None,
            connect_timeout,
        }
    }

    pub fn listeners(&self) -> &[Listener] {
        &self.listeners
    }

    pub fn set_identity(&mut self, identity: PeerIdentity, reactor: &mut Reactor) {
        // What was proven, or begun, under another identity says nothing about this one.
        self.forget_identity(reactor);
        self.identity = Some(identity);
    }

    /// Closes all that was proven or begun.
    pub fn forget_identity(&mut self, reactor: &mut Reactor) {
        self.identity = None;
        for (_, link) in self.links.drain() {
            link.socket.close(reactor);
        }
        self.peers.clear();
        self.unauthenticated = 0;
    }

    pub fn last_heard(&self, id: u64) -> Option<Instant> {
        self.peers.get(&id).map(|heard| heard.last)
    }

    /// Takes the connections that wait on the listener with this token.
    pub fn accept(&mut self, token: Token, reactor: &mut Reactor, now: Instant) {
        let Some(listener) = self.listeners.iter_mut().find(|listener| listener.token == token) else {
            return;
        };
        for (stream, _) in listener.accept(reactor, now) {
            if self.unauthenticated == MAX_UNAUTHENTICATED_LINKS {
                reactor.rejections.count(Rejection::TooMany);
                continue;
            }
            let socket = Socket::new(stream, Class::Accepted, reactor);
            let socket = socket.and_then(|socket| socket.set_options(self.connect_timeout).map(|()| socket));
            match socket {
                Ok(socket) => {
                    let stage = Stage::AwaitHello { deadline: now + self.connect_timeout };
                    self.unauthenticated += 1;
                    self.links.insert(socket.token, Link { socket, stage, parser: CommandParser::default() });
                }
                // It has gone already, or cannot be polled; whoever it was tries again.
                Err(error) => log::debug!("accepted connection dropped: {error}"),
            }
        }
    }

    /// Works on one link. Returns the id of the peer that has proven itself in this step, if one has.
    pub fn serve(&mut self, readiness: Readiness, reactor: &mut Reactor, now: Instant) -> Option<u64> {
        let mut link = self.links.remove(&readiness.token)?;
        let was_up = link.up();
        if was_up.is_none() {
            self.unauthenticated -= 1;
        }
        let received_before = link.socket.received_bytes;
        link.socket.note(readiness);
        let filled = link.socket.fill(reactor);
        let mut fate = link.work(self.identity.as_ref(), reactor);
        if link.socket.flush(reactor).is_err() {
            fate = Fate::Close;
        }
        if let (Fate::Keep, Ok(Filled::Closed) | Err(_)) = (&fate, filled) {
            fate = Fate::Close;
        }
        let is_up = link.up();
        if let Some(id) = is_up.filter(|_| link.socket.received_bytes > received_before) {
            self.heard(id, readiness.token, reactor, now);
        }
        self.decide(link, fate, reactor, now);
        if was_up.is_none() {
            is_up
        } else {
            None
        }
    }

    /// Closes the links whose deadline has passed and accepts again where accepting had failed.
    pub fn expire(&mut self, reactor: &mut Reactor, now: Instant) {
        let due =
            self.listeners.iter().filter(|listener| listener.is_due(now)).map(|listener| listener.token);
        for token in due.collect::<Vec<_>>() {
            self.accept(token, reactor, now);
        }
        if self.unauthenticated == 0 {
            return;
        }
        let late = |link: &Link| link.stage.deadline().is_some_and(|deadline| deadline <= now);
        let late: Vec<Token> = self.links.iter().filter(|(_, link)| late(link)).map(|(&t, _)| t).collect();
        for token in late {
            let link = self.links.remove(&token).expect("listed above");
            self.unauthenticated -= 1;
            if !matches!(link.stage, Stage::Refused { .. }) {
                reactor.rejections.count(Rejection::Timeout);
            }
            link.socket.close(reactor);
        }
    }

    pub fn next_deadline(&self) -> Option<Instant> {
        let retry = self.listeners.iter().filter_map(Listener::retry_at).min();
        if self.unauthenticated == 0 {
            return retry;
        }
        self.links.values().filter_map(|link| link.stage.deadline()).chain(retry).min()
    }

    /// Notes a sign of life of `id`, and closes the link that this one replaces.
    fn heard(&mut self, id: u64, token: Token, reactor: &mut Reactor, now: Instant) {
        let heard = self.peers.entry(id).or_insert(Heard { link: None, last: now });
        heard.last = now;
        let older = heard.link.replace(token).filter(|&older| older != token);
        if let Some(older) = older.and_then(|older| self.links.remove(&older)) {
            debug_assert_eq!(older.up(), Some(id));
            older.socket.close(reactor);
        }
    }

    fn decide(&mut self, mut link: Link, fate: Fate, reactor: &mut Reactor, now: Instant) {
        if !matches!(fate, Fate::Keep) {
            if let Some(heard) = link.up().and_then(|id| self.peers.get_mut(&id)) {
                heard.link = None;
            }
        }
        match fate {
            Fate::Keep => (),
            Fate::Close => return link.socket.close(reactor),
            Fate::Refuse(reason, text) => {
                reactor.rejections.count(reason);
                link.socket.output.push_slice(format!("-ERR {text}\r\n").as_bytes());
                let told = link.socket.flush(reactor);
                if told.is_err() || link.socket.stream().shutdown(Shutdown::Write).is_err() {
                    return link.socket.close(reactor);
                }
                link.stage = Stage::Refused { deadline: now + self.connect_timeout, discarded: 0 };
            }
        }
        self.unauthenticated += usize::from(link.up().is_none());
        self.links.insert(link.socket.token, link);
    }
}

impl Link {
    fn up(&self) -> Option<u64> {
        match self.stage {
            Stage::Up { id } => Some(id),
            _ => None,
        }
    }

    /// Works through the input.
    fn work(&mut self, identity: Option<&PeerIdentity>, reactor: &mut Reactor) -> Fate {
        loop {
            if let Stage::Refused { discarded, .. } = &mut self.stage {
                *discarded += self.socket.input.len();
                self.socket.input.clear();
                return if *discarded > MAX_DRAIN_BYTES { Fate::Close } else { Fate::Keep };
            }
            let limits = if self.up().is_some() { &Limits::PEER } else { &Limits::UNAUTHENTICATED };
            let length = match self.parser.parse(&self.socket.input, limits) {
                Ok(Some(length)) => length,
                Ok(None) if self.up().is_none() && self.socket.input.len() > limits.max_frame_bytes => {
                    return Fate::Refuse(
                        Rejection::Protocol,
                        "protocol error: too long before authentication",
                    );
                }
                Ok(None) => return Fate::Keep,
                Err(error) => {
                    log::debug!("peer port: {error}");
                    return Fate::Refuse(Rejection::Protocol, "protocol error");
                }
            };
            let command = self.socket.input.split_to(length).freeze();
            let fate = match self.up() {
                Some(id) => match frame::decode(command, self.parser.args()) {
                    Some(frame) => {
                        reactor.events.push(Event::Peer { from: id, frame });
                        Fate::Keep
                    }
                    None => Fate::Refuse(Rejection::Protocol, "protocol error: not a frame"),
                },
                None => self.greet(&command, identity),
            };
            if !matches!(fate, Fate::Keep) {
                return fate;
            }
        }
    }

    /// One command of someone who has not proven who they are.
    fn greet(&mut self, command: &Bytes, identity: Option<&PeerIdentity>) -> Fate {
        let args: Vec<&[u8]> =
            self.parser.args().iter().map(|range: &Range<usize>| &command[range.clone()]).collect();
        let Some((&name, args)) = args.split_first() else { return Fate::Keep };
        if name.eq_ignore_ascii_case(b"PING") {
            if self.socket.output.len() > MAX_UNAUTHENTICATED_QUEUE_BYTES {
                return Fate::Close;
            }
            self.socket.output.push_slice(b"+PONG\r\n");
            return Fate::Keep;
        }
        let outcome = match (&self.stage, identity) {
            (Stage::AwaitHello { deadline }, identity) if name == handshake::HELLO => {
                hello(args, identity, *deadline)
            }
            (Stage::AwaitProof { transcript, .. }, Some(identity)) if name == handshake::AUTH => {
                proof(args, identity, transcript)
            }
            _ => Err((Rejection::Protocol, "unknown command: this is the peer port, which answers PING")),
        };
        match outcome {
            Ok((stage, answer)) => {
                self.stage = stage;
                self.socket.output.push_slice(&answer);
                Fate::Keep
            }
            Err((reason, text)) => Fate::Refuse(reason, text),
        }
    }
}

type Greeted = Result<(Stage, Vec<u8>), (Rejection, &'static str)>;

/// `HELLO-RAFT <version> <cluster> <own id> <target id> <nonce>`.
fn hello(args: &[&[u8]], identity: Option<&PeerIdentity>, deadline: Instant) -> Greeted {
    // Checked before the number of arguments: another version may have another number.
    if args.first().is_some_and(|&version| version != PROTOCOL_VERSION.to_string().as_bytes()) {
        return Err((Rejection::WrongVersion, "wrong protocol version: this node speaks version 1"));
    }
    let [_, cluster, id, target, nonce] = args else {
        return Err((Rejection::Protocol, "wrong number of arguments"));
    };
    let (Some(id), Some(target), Some(dialler_nonce)) =
        (number(id), number(target), handshake::from_hex(nonce))
    else {
        return Err((Rejection::Protocol, "invalid id or nonce"));
    };
    let Some(identity) = identity else {
        return Err((Rejection::NoCluster, "no cluster: this node is not a member of one yet"));
    };
    if *cluster != identity.cluster_id.as_bytes() {
        return Err((Rejection::WrongCluster, "wrong cluster: this node is a member of another one"));
    }
    if target != identity.node_id {
        return Err((Rejection::WrongTarget, "wrong target: this is another node of the cluster"));
    }
    if id == identity.node_id || id == 0 {
        return Err((Rejection::WrongId, "wrong node id: it is 0 or this node's own"));
    }
    let Ok(acceptor_nonce) = handshake::fresh_nonce() else {
        return Err((Rejection::Authentication, "no random numbers for the handshake"));
    };
    let transcript = Transcript { dialler_nonce, acceptor_nonce, dialler_id: id, acceptor_id: target };
    let (nonce, proof) = (handshake::to_hex(&acceptor_nonce), transcript.proof(identity, Side::Accept));
    let mut answer = Vec::new();
    encode_command(&mut answer, &[nonce.as_bytes(), proof.as_bytes()]);
    Ok((Stage::AwaitProof { transcript, deadline }, answer))
}

/// `AUTH-RAFT <proof>`.
fn proof(args: &[&[u8]], identity: &PeerIdentity, transcript: &Transcript) -> Greeted {
    let [proof] = args else { return Err((Rejection::Protocol, "wrong number of arguments")) };
    if !transcript.verify(identity, Side::Dial, proof) {
        return Err((Rejection::Authentication, "authentication failed: not the cluster's secret"));
    }
    Ok((Stage::Up { id: transcript.dialler_id }, b"+OK\r\n".to_vec()))
}

fn number(text: &[u8]) -> Option<u64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}
