//! The one object that the raft thread holds.

use super::accept::Acceptor;
use super::capture::Capture;
use super::dial::Dialler;
use super::feed::Feed;
use super::listener::Listener;
use super::reactor::{Class, Reactor, Readiness};
use super::resolve::{Resolve, Resolver};
use super::{CaptureBuffer, CaptureRequest, Event, LinkError, OutFrame, PeerIdentity, PeerStats, Rejections};
use bytes::Bytes;
use mio::{Events, Poll, Token, Waker};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Kernel events taken per turn; more wait for the next.
const EVENTS_PER_TURN: usize = 256;
/// The reactor gives out none below the number of classes.
const WAKER: Token = Token(0);

/// How to listen and connect.
#[derive(Clone, Debug)]
pub struct LinkConfig {
    /// Addresses to listen on for peers. Port 0: any free one.
    pub peer_listen: Vec<SocketAddr>,
    /// For a connection with its handshake, and for silence of the other side where data is outstanding.
    pub connect_timeout: Duration,
    /// Asked for the addresses of a host name at each try to reach a peer, but for the one right after a break.
    pub resolve: Resolve,
    /// First pause between two tries to reach a peer; it doubles up to `MAX_RECONNECT_INTERVAL_MS`.
    pub reconnect_interval: Duration,
}

/// All sockets of the raft thread. See the module's documentation.
pub struct Links {
    poll: Poll,
    mio_events: Events,
    /// Reused from turn to turn.
    turn: Vec<Readiness>,
    waker: Arc<Waker>,
    reactor: Reactor,
    dialler: Dialler,
    acceptor: Acceptor,
    feed: Feed,
    capture: Capture,
    /// The turn's time.
    now: Instant,
}

impl Links {
    /// Binds the peer listeners, and the feed listener on a free port of 127.0.0.1.
    pub fn new(config: LinkConfig) -> Result<Links, LinkError> {
        let poll = Poll::new().map_err(LinkError::Poll)?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKER).map_err(LinkError::Poll)?);
        let mut reactor = Reactor::new(poll.registry().try_clone().map_err(LinkError::Poll)?);
        let mut listeners = Vec::new();
        for address in config.peer_listen {
            let listener = Listener::bind(address, Class::PeerListener, &mut reactor);
            listeners.push(listener.map_err(|source| match source.kind() {
                io::ErrorKind::AddrInUse => LinkError::PeerAddressInUse { address },
                _ => LinkError::PeerListen { address, source },
            })?);
        }
        let feed_address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let feed_listener = Listener::bind(feed_address, Class::FeedListener, &mut reactor);
        let mut jitter = [0; 8];
        getrandom::fill(&mut jitter).map_err(LinkError::Random)?;
        let dialler = Dialler::new(
            Resolver::new(config.resolve, waker.clone()),
            config.connect_timeout,
            config.reconnect_interval,
            u64::from_le_bytes(jitter),
        );
        Ok(Links {
            poll,
            mio_events: Events::with_capacity(EVENTS_PER_TURN),
            turn: Vec::new(),
            waker,
            reactor,
            dialler,
            acceptor: Acceptor::new(listeners, config.connect_timeout),
            feed: Feed::new(feed_listener.map_err(LinkError::FeedListen)?),
            capture: Capture::new(config.connect_timeout),
            now: Instant::now(),
        })
    }

    /// Wakes `poll` from any thread.
    pub fn waker(&self) -> Arc<Waker> {
        self.waker.clone()
    }

    /// Port on 127.0.0.1 for `REPLICAOF`.
    pub fn feed_port(&self) -> u16 {
        self.feed.listener.address.port()
    }

    /// Where this node listens for peers, with the ports that port 0 became.
    pub fn peer_addresses(&self) -> Vec<SocketAddr> {
        self.acceptor.listeners().iter().map(|listener| listener.address).collect()
    }

    /// Who this node is from now on. Before, every peer is refused and none is dialled; connections made
    /// under another identity are closed. Panics on an identity without the form that it must have.
    pub fn set_identity(&mut self, identity: PeerIdentity) {
        assert!(identity.is_valid(), "invalid identity: {identity:?}");
        self.acceptor.set_identity(identity.clone(), &mut self.reactor);
        self.dialler.set_identity(identity, &mut self.reactor, self.now);
    }

    /// This node is nobody any more: every link with a peer is closed, every peer refused, and none is dialled.
    pub fn forget_identity(&mut self) {
        self.acceptor.forget_identity(&mut self.reactor);
        self.dialler.forget_identity(&mut self.reactor, self.now);
    }

    /// Collects what has happened since the last turn: waits until there is something, `timeout` has passed,
    /// or a deadline of the links' own is due. `now` is the caller's current time.
    pub fn poll(
        &mut self,
        now: Instant,
        timeout: Option<Duration>,
        events: &mut Vec<Event>,
    ) -> io::Result<()> {
        self.capture.resume(&mut self.reactor);
        let idle = self.reactor.ready.is_empty() && self.reactor.events.is_empty();
        let wait = if idle { self.wait(now, timeout) } else { Some(Duration::ZERO) };
        match self.poll.poll(&mut self.mio_events, wait) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
            _ => (),
        }
        self.now = Instant::now().max(now);
        let mut turn = std::mem::take(&mut self.turn);
        turn.extend(self.reactor.ready.drain(..).map(Readiness::leftover));
        let leftovers = turn.len();
        for readiness in self.mio_events.iter().map(Readiness::from) {
            // Served once per turn, or its budget would be twice that of others.
            match turn[..leftovers].iter_mut().find(|leftover| leftover.token == readiness.token) {
                Some(leftover) => *leftover = readiness,
                None => turn.push(readiness),
            }
        }
        for readiness in turn.drain(..) {
            self.serve(readiness);
        }
        self.turn = turn;
        self.expire();
        events.append(&mut self.reactor.events);
        Ok(())
    }

    /// The peers to keep links to: `(id, host:port)`. New ones and those with a new address are dialled, the
    /// missing are dropped without an event.
    pub fn set_peers(&mut self, peers: &[(u64, String)]) {
        self.dialler.set_peers(peers, &mut self.reactor, self.now);
    }

    /// Queues `frame` on the link dialled to `to`. False when it is not: there is no link, its queue is full,
    /// or the frame is longer than a receiver takes.
    pub fn send(&mut self, to: u64, frame: OutFrame) -> bool {
        self.dialler.send(to, frame)
    }

    /// Writes what is queued on all links, as far as the kernel takes it; the rest goes in later turns.
    pub fn flush(&mut self) {
        self.dialler.flush(&mut self.reactor, self.now);
        self.feed.flush(&mut self.reactor);
        self.capture.flush(&mut self.reactor);
    }

    /// `None` for an id that `set_peers` did not name.
    pub fn peer_stats(&self, id: u64) -> Option<PeerStats> {
        let last_heard = self.acceptor.last_heard(id);
        self.dialler.stats(id).map(|stats| PeerStats { last_heard, ..stats })
    }

    /// Refused connections by reason.
    pub fn rejections(&self) -> &Rejections {
        &self.reactor.rejections
    }

    /// Starts to capture, instead of a capture that runs. The buffer is kept when it ends at the offset asked
    /// for, and otherwise emptied.
    pub fn capture_start(&mut self, request: CaptureRequest) {
        self.capture.start(request, &mut self.reactor, self.now);
    }

    /// What was captured and not consumed.
    pub fn capture_buffer(&mut self) -> &mut CaptureBuffer {
        &mut self.capture.buffer
    }

    /// Tells the local Redis that its stream up to `offset` was taken; to be repeated every second.
    pub fn capture_ack(&mut self, offset: u64) {
        self.capture.ack(offset);
    }

    /// Ends the capture and empties the buffer. No event.
    pub fn capture_stop(&mut self) {
        self.capture.stop(&mut self.reactor);
    }

    /// Answers `FeedPsync`: the local Redis goes on from the offset it named. False when none waits.
    pub fn feed_continue(&mut self, replid: &str) -> bool {
        self.feed.answer_continue(replid)
    }

    /// Answers `FeedPsync`: the local Redis loads the next `rdb_bytes` that are written, which are its dataset at
    /// `offset`. False when none waits.
    pub fn feed_full_resync(&mut self, replid: &str, offset: u64, rdb_bytes: u64) -> bool {
        self.feed.answer_full_resync(replid, offset, rdb_bytes)
    }

    /// Queues stream bytes behind everything queued before. False when no feed is streaming.
    pub fn feed_write(&mut self, bytes: Bytes) -> bool {
        self.feed.write(bytes, &mut self.reactor)
    }

    /// Bytes of the feed that the kernel has not accepted yet.
    pub fn feed_unsent(&self) -> usize {
        self.feed.unsent()
    }

    /// Closes the feed link. No event.
    pub fn feed_close(&mut self) {
        self.feed.close(&mut self.reactor);
    }

    fn wait(&self, now: Instant, timeout: Option<Duration>) -> Option<Duration> {
        let deadlines = [
            self.dialler.next_deadline(),
            self.acceptor.next_deadline(),
            self.capture.next_deadline(),
            self.feed.listener.retry_at(),
        ];
        let own = deadlines.into_iter().flatten().min();
        let own = own.map(|deadline| deadline.saturating_duration_since(now));
        own.into_iter().chain(timeout).min()
    }

    fn serve(&mut self, readiness: Readiness) {
        let (reactor, now, token) = (&mut self.reactor, self.now, readiness.token);
        match Class::of(token) {
            Class::Waker => reactor.events.push(Event::Woken),
            Class::PeerListener => self.acceptor.accept(token, reactor, now),
            Class::FeedListener => self.feed.accept(reactor, now),
            Class::Dialled => self.dialler.serve(readiness, reactor, now),
            Class::Accepted => {
                if let Some(id) = self.acceptor.serve(readiness, reactor, now) {
                    self.dialler.nudge(id, reactor, now);
                }
            }
            Class::Feed => self.feed.serve(readiness, reactor),
            Class::Capture => self.capture.serve(readiness, reactor),
        }
    }

    fn expire(&mut self) {
        let (reactor, now) = (&mut self.reactor, self.now);
        self.dialler.expire(reactor, now);
        self.acceptor.expire(reactor, now);
        self.capture.expire(reactor, now);
        if self.feed.listener.is_due(now) {
            self.feed.accept(reactor, now);
        }
    }
}
