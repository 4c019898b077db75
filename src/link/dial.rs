//! All peers as we dial them.

use super::handshake::PeerIdentity;
use super::peer::{Context, Peer};
use super::reactor::{Reactor, Readiness};
use super::resolve::Resolver;
use super::{Event, OutFrame};
use crate::limits::MAX_PEER_QUEUE_BYTES;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// What is known of the connections to and from one peer, for INFO.
#[derive(Clone, Debug, Default)]
pub struct PeerStats {
    /// The dialled link takes frames.
    pub connected: bool,
    /// When something last came in on the link accepted from it.
    pub last_heard: Option<Instant>,
    pub connects_ok: u64,
    pub connect_errors: u64,
    /// Tries that the other side refused with an error or spoiled; counted in `connect_errors` as well
    /// unless the link was up.
    pub rejected: u64,
    /// Frames not queued because the queue was full or the frame too long.
    pub frames_dropped: u64,
    /// Bytes queued and not yet accepted by the kernel.
    pub queued_bytes: usize,
    /// Why the last try failed, while it is the last.
    pub last_error: Option<String>,
}

pub(super) struct Dialler {
    peers: BTreeMap<u64, Peer>,
    /// Nobody is dialled before this is known.
    identity: Option<PeerIdentity>,
    resolver: Resolver,
    connect_timeout: Duration,
    reconnect_interval: Duration,
    jitter: u64,
}

impl Dialler {
    pub fn new(
        resolver: Resolver,
        connect_timeout: Duration,
        reconnect_interval: Duration,
        jitter: u64,
    ) -> Dialler {
        Dialler {
            peers: BTreeMap::new(),
            identity: None,
            resolver,
            connect_timeout,
            reconnect_interval,
            jitter,
        }
    }

    pub fn set_identity(&mut self, identity: PeerIdentity, reactor: &mut Reactor, now: Instant) {
        self.identity = Some(identity);
        let peers: Vec<_> = self.peers.iter().map(|(&id, peer)| (id, peer.address.clone())).collect();
        // What was proven under another identity says nothing about this one.
        self.set_peers(&[], reactor, now);
        self.set_peers(&peers, reactor, now);
    }

    /// Nobody is dialled any more.
    pub fn forget_identity(&mut self, reactor: &mut Reactor, now: Instant) {
        self.set_peers(&[], reactor, now);
        self.identity = None;
    }

    /// Dials new peers, and anew those whose address changed; drops those that are not in `wanted`.
    pub fn set_peers(&mut self, wanted: &[(u64, String)], reactor: &mut Reactor, now: Instant) {
        let kept = |id: u64, address: &str| wanted.iter().any(|(w, a)| *w == id && a == address);
        let dropped: Vec<u64> =
            self.peers.iter().filter(|(&id, peer)| !kept(id, &peer.address)).map(|(&id, _)| id).collect();
        for id in dropped {
            let peer = self.peers.remove(&id).expect("listed above");
            if peer.is_up() && wanted.iter().any(|(wanted_id, _)| *wanted_id == id) {
                reactor.events.push(Event::PeerDown { id, refused: false });
            }
            peer.close(reactor);
        }
        for (id, address) in wanted {
            if !self.peers.contains_key(id) {
                self.peers.insert(*id, Peer::new(*id, address.clone(), self.reconnect_interval));
                self.with_peer(*id, reactor, now, Peer::dial);
            }
        }
    }

    /// `id` has just dialled us, so it can be reached: no reason to wait.
    pub fn nudge(&mut self, id: u64, reactor: &mut Reactor, now: Instant) {
        self.with_peer(id, reactor, now, Peer::dial);
    }

    pub fn serve(&mut self, readiness: Readiness, reactor: &mut Reactor, now: Instant) {
        let owner = self.peers.iter().find(|(_, peer)| peer.owns(readiness.token)).map(|(&id, _)| id);
        if let Some(id) = owner {
            self.with_peer(id, reactor, now, |peer, context| peer.serve(readiness, context));
        }
    }

    /// Takes the resolver's answers and acts on deadlines.
    pub fn expire(&mut self, reactor: &mut Reactor, now: Instant) {
        while let Some(resolved) = self.resolver.next() {
            self.each_peer(reactor, now, |peer, context| {
                peer.resolved(resolved.request, &resolved.result, context);
            });
        }
        self.each_peer(reactor, now, Peer::expire);
    }

    pub fn next_deadline(&self) -> Option<Instant> {
        self.peers.values().filter_map(Peer::deadline).min()
    }

    pub fn send(&mut self, to: u64, frame: OutFrame) -> bool {
        let Some(peer) = self.peers.get_mut(&to) else { return false };
        let fits = frame.fits();
        let Some(socket) = peer.link() else { return false };
        let queued = socket.output.len();
        if !fits || (queued > 0 && queued.saturating_add(frame.wire_bytes()) > MAX_PEER_QUEUE_BYTES) {
            peer.stats.frames_dropped += 1;
            return false;
        }
        frame.queue(&mut socket.output);
        true
    }

    pub fn flush(&mut self, reactor: &mut Reactor, now: Instant) {
        self.each_peer(reactor, now, Peer::flush);
    }

    pub fn stats(&self, id: u64) -> Option<PeerStats> {
        let peer = self.peers.get(&id)?;
        Some(PeerStats { connected: peer.is_up(), queued_bytes: peer.queued_bytes(), ..peer.stats.clone() })
    }

    fn each_peer(
        &mut self,
        reactor: &mut Reactor,
        now: Instant,
        mut act: impl FnMut(&mut Peer, &mut Context),
    ) {
        if let Some((peers, mut context)) = self.split(reactor, now) {
            peers.values_mut().for_each(|peer| act(peer, &mut context));
        }
    }

    fn with_peer(
        &mut self,
        id: u64,
        reactor: &mut Reactor,
        now: Instant,
        act: impl FnOnce(&mut Peer, &mut Context),
    ) {
        if let Some((peers, mut context)) = self.split(reactor, now) {
            if let Some(peer) = peers.get_mut(&id) {
                act(peer, &mut context);
            }
        }
    }

    /// The peers, and what a step of theirs needs; `None` without an identity.
    fn split<'a>(
        &'a mut self,
        reactor: &'a mut Reactor,
        now: Instant,
    ) -> Option<(&'a mut BTreeMap<u64, Peer>, Context<'a>)> {
        let context = Context {
            reactor,
            resolver: &mut self.resolver,
            identity: self.identity.as_ref()?,
            connect_timeout: self.connect_timeout,
            reconnect_interval: self.reconnect_interval,
            jitter: &mut self.jitter,
            now,
        };
        Some((&mut self.peers, context))
    }
}
