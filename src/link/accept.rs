//! Connections that others dial to us: probes, and peers that send frames.

use super::dialogue::{Dialogue, Fate, Stage};
use super::handshake::PeerIdentity;
use super::listener::Listener;
use super::reactor::{Class, Reactor, Readiness};
use super::socket::{Filled, Socket};
use super::Rejection;
use crate::limits::MAX_UNAUTHENTICATED_LINKS;
use mio::Token;
use std::collections::HashMap;
use std::net::Shutdown;
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
    dialogue: Dialogue,
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
                    let dialogue = Dialogue::new(now + self.connect_timeout);
                    self.unauthenticated += 1;
                    self.links.insert(socket.token, Link { socket, dialogue });
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
        let late = |link: &Link| link.dialogue.deadline().is_some_and(|deadline| deadline <= now);
        let late: Vec<Token> = self.links.iter().filter(|(_, link)| late(link)).map(|(&t, _)| t).collect();
        for token in late {
            let link = self.links.remove(&token).expect("listed above");
            self.unauthenticated -= 1;
            if !matches!(link.dialogue.stage, Stage::Refused { .. }) {
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
        self.links.values().filter_map(|link| link.dialogue.deadline()).chain(retry).min()
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
                link.dialogue.stage = Stage::Refused { deadline: now + self.connect_timeout, discarded: 0 };
            }
        }
        self.unauthenticated += usize::from(link.up().is_none());
        self.links.insert(link.socket.token, link);
    }
}

impl Link {
    fn up(&self) -> Option<u64> {
        self.dialogue.up()
    }

    /// Works through the input.
    fn work(&mut self, identity: Option<&PeerIdentity>, reactor: &mut Reactor) -> Fate {
        let Socket { input, output, .. } = &mut self.socket;
        self.dialogue.work(input, output, identity, &mut reactor.events)
    }
}
