//! One peer as we dial it: connect, prove, send; and when it breaks, try again.

use super::handshake::{self, Nonce, PeerIdentity, Side, Transcript};
use super::reactor::{Class, Reactor, Readiness};
use super::resolve::{Lookup, Resolver};
use super::send_queue::SendQueue;
use super::socket::{Filled, Socket};
use super::{Event, PeerStats};
use crate::limits::{MAX_QUICK_REDIALS, MAX_RECONNECT_INTERVAL_MS, MAX_UNAUTHENTICATED_FRAME_BYTES};
use crate::resp::{encode_command, parse_reply, Reply};
use bytes::{Buf, BytesMut};
use mio::net::TcpStream;
use mio::Token;
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// What a peer needs from the links to take a step.
pub(super) struct Context<'a> {
    pub reactor: &'a mut Reactor,
    pub resolver: &'a mut Resolver,
    pub identity: &'a PeerIdentity,
    pub connect_timeout: Duration,
    pub reconnect_interval: Duration,
    /// Random; each use moves it on.
    pub jitter: &'a mut u64,
    pub now: Instant,
}

pub(super) struct Peer {
    id: u64,
    pub address: String,
    state: State,
    /// Where the last handshake succeeded: tried first, and at once after a break.
    last_good: Option<SocketAddr>,
    /// Pause before the next try but one.
    backoff: Duration,
    /// Tries without a pause since the link was last up for a while.
    quick_redials: u32,
    reachability: Reachability,
    pub stats: PeerStats,
}

enum State {
    /// Never dialled yet.
    Idle,
    Waiting {
        until: Instant,
    },
    Resolving {
        request: u64,
    },
    Connecting {
        socket: Socket,
        address: SocketAddr,
        others: VecDeque<SocketAddr>,
        deadline: Instant,
    },
    Greeting {
        socket: Socket,
        address: SocketAddr,
        step: Step,
        deadline: Instant,
    },
    Up {
        socket: Socket,
        since: Instant,
    },
}

pub(super) enum Step {
    /// The hello with this nonce is sent; the acceptor's proof is to come.
    AwaitProof(Nonce),
    /// Our proof is sent; `+OK` is to come.
    AwaitWelcome,
}

/// What the caller has been told.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reachability {
    Unknown,
    Up,
    /// Broken, and the redial under way.
    Broken,
    Unreachable,
}

/// Why a try ended.
enum Failure {
    /// No connection, or silence.
    Unreachable(String),
    /// A connection that ended before the handshake did and without a word: a process that is just dying
    /// leaves such ones in its listener's backlog, so the next try tells more.
    Ended(String),
    /// An error line, or something that is not the protocol.
    Rejected(String),
}

impl Peer {
    pub fn new(id: u64, address: String, reconnect_interval: Duration) -> Peer {
        Peer {
            id,
            address,
            state: State::Idle,
            last_good: None,
            backoff: reconnect_interval,
            quick_redials: 0,
            reachability: Reachability::Unknown,
            stats: PeerStats::default(),
        }
    }

    /// The established link, if there is one.
    pub fn link(&mut self) -> Option<&mut Socket> {
        match &mut self.state {
            State::Up { socket, .. } => Some(socket),
            _ => None,
        }
    }

    /// Bytes queued and not yet accepted by the kernel.
    pub fn queued_bytes(&self) -> usize {
        match &self.state {
            State::Up { socket, .. } => socket.output.len(),
            _ => 0,
        }
    }

    pub fn is_up(&self) -> bool {
        matches!(self.state, State::Up { .. })
    }

    pub fn owns(&self, token: Token) -> bool {
        match &self.state {
            State::Connecting { socket, .. } | State::Greeting { socket, .. } | State::Up { socket, .. } => {
                socket.token == token
            }
            _ => false,
        }
    }

    pub fn deadline(&self) -> Option<Instant> {
        match self.state {
            State::Waiting { until } => Some(until),
            State::Connecting { deadline, .. } | State::Greeting { deadline, .. } => Some(deadline),
            State::Idle | State::Resolving { .. } | State::Up { .. } => None,
        }
    }

    /// Starts a try, unless one is under way or the link is up.
    pub fn dial(&mut self, context: &mut Context) {
        if !matches!(self.state, State::Idle | State::Waiting { .. }) {
            return;
        }
        match context.resolver.lookup(&self.address) {
            Ok(Lookup::Known(address)) => self.connect([address].into(), context),
            Ok(Lookup::Asked { request }) => self.state = State::Resolving { request },
            Err(error) => self.failed(Failure::Unreachable(error.to_string()), context),
        }
    }

    /// Takes the answer of the resolver when it is the one waited for.
    pub fn resolved(&mut self, request: u64, result: &io::Result<Vec<SocketAddr>>, context: &mut Context) {
        if !matches!(self.state, State::Resolving { request: waited_for } if waited_for == request) {
            return;
        }
        match result {
            Ok(addresses) => {
                let mut addresses: VecDeque<SocketAddr> = addresses.iter().copied().collect();
                let good = addresses.iter().position(|&address| Some(address) == self.last_good);
                if let Some(position) = good {
                    addresses.swap(0, position);
                }
                self.connect(addresses, context);
            }
            Err(error) => self.failed(Failure::Unreachable(format!("resolving: {error}")), context),
        }
    }

    /// Acts on a deadline that has passed.
    pub fn expire(&mut self, context: &mut Context) {
        if self.deadline().is_none_or(|deadline| deadline > context.now) {
            return;
        }
        match std::mem::replace(&mut self.state, State::Idle) {
            State::Connecting { socket, others, .. } if !others.is_empty() => {
                socket.close(context.reactor);
                self.connect(others, context);
            }
            State::Connecting { socket, .. } | State::Greeting { socket, .. } => {
                socket.close(context.reactor);
                let seconds = context.connect_timeout.as_secs_f32();
                self.failed(Failure::Unreachable(format!("no answer within {seconds} s")), context);
            }
            _ => self.dial(context),
        }
    }

    /// Works on what the poll reported, or what the last turn left.
    pub fn serve(&mut self, readiness: Readiness, context: &mut Context) {
        match &mut self.state {
            State::Connecting { socket, .. } => {
                socket.note(readiness);
                if socket.is_writable() || readiness.hangup {
                    self.connected(context);
                }
            }
            State::Greeting { socket, .. } => {
                socket.note(readiness);
                self.greet(context);
            }
            State::Up { socket, .. } => {
                socket.note(readiness);
                let outcome = socket.fill(context.reactor);
                let flushed = socket.flush(context.reactor);
                match outcome {
                    Ok(Filled::Drained) if socket.input.is_empty() && flushed.is_ok() => (),
                    // An acceptor says something only when it refuses what we sent.
                    Ok(_) if !socket.input.is_empty() => self.refused_when_up(context),
                    _ => self.broke(context),
                }
            }
            State::Idle | State::Waiting { .. } | State::Resolving { .. } => (),
        }
    }

    /// Writes what is queued on the established link.
    pub fn flush(&mut self, context: &mut Context) {
        if let State::Up { socket, .. } = &mut self.state {
            if socket.flush(context.reactor).is_err() {
                self.broke(context);
            }
        }
    }

    /// Drops the connection, for good.
    pub fn close(self, reactor: &mut Reactor) {
        match self.state {
            State::Connecting { socket, .. } | State::Greeting { socket, .. } | State::Up { socket, .. } => {
                socket.close(reactor);
            }
            State::Idle | State::Waiting { .. } | State::Resolving { .. } => (),
        }
    }

    fn connect(&mut self, mut addresses: VecDeque<SocketAddr>, context: &mut Context) {
        let mut failure = format!("{} has no address", self.address);
        while let Some(address) = addresses.pop_front() {
            match open(address, context.reactor) {
                Ok(socket) => {
                    let deadline = context.now + context.connect_timeout;
                    self.state = State::Connecting { socket, address, others: addresses, deadline };
                    return;
                }
                Err(error) => failure = format!("{address}: {error}"),
            }
        }
        self.failed(Failure::Unreachable(failure), context);
    }

    /// The connection attempt has ended, one way or the other.
    fn connected(&mut self, context: &mut Context) {
        let State::Connecting { mut socket, address, others, deadline } =
            std::mem::replace(&mut self.state, State::Idle)
        else {
            unreachable!("called while connecting");
        };
        match outcome_of_connect(&socket) {
            Ok(true) => {
                let greeting = handshake::fresh_nonce().and_then(|nonce| {
                    socket.set_options(context.connect_timeout)?;
                    socket.output.push_slice(&handshake::hello(context.identity, self.id, &nonce));
                    socket.flush(context.reactor)?;
                    Ok(Step::AwaitProof(nonce))
                });
                match greeting {
                    Ok(step) => self.state = State::Greeting { socket, address, step, deadline },
                    Err(error) => {
                        socket.close(context.reactor);
                        self.failed(Failure::Ended(format!("{address}: {error}")), context);
                    }
                }
            }
            // Not yet: the next edge decides.
            Ok(false) => {
                socket.clear_readiness();
                self.state = State::Connecting { socket, address, others, deadline };
            }
            Err(error) => {
                socket.close(context.reactor);
                if others.is_empty() {
                    self.failed(Failure::Unreachable(format!("{address}: {error}")), context);
                } else {
                    self.connect(others, context);
                }
            }
        }
    }

    fn greet(&mut self, context: &mut Context) {
        let State::Greeting { socket, address, step, .. } = &mut self.state else {
            unreachable!("called while greeting");
        };
        let address = *address;
        let outcome = socket.fill(context.reactor);
        let progress = loop {
            match answer(&mut socket.input, &mut socket.output, step, (self.id, context.identity)) {
                Ok(Answer::Incomplete) => break Ok(false),
                Ok(Answer::Proven) => *step = Step::AwaitWelcome,
                Ok(Answer::Welcome) => break Ok(true),
                Err(reason) => break Err(Failure::Rejected(format!("{address}: {reason}"))),
            }
        };
        let flushed = socket.flush(context.reactor);
        let progress = match (progress, outcome, flushed) {
            (Ok(_), Ok(Filled::Closed), _) => Err(Failure::Ended(format!("{address}: closed"))),
            (Ok(_), Err(error), _) | (Ok(_), _, Err(error)) => {
                Err(Failure::Ended(format!("{address}: {error}")))
            }
            (progress, ..) => progress,
        };
        match progress {
            Ok(false) => (),
            Ok(true) => self.went_up(context),
            Err(failure) => {
                self.drop_socket(context);
                self.failed(failure, context);
            }
        }
    }

    fn went_up(&mut self, context: &mut Context) {
        let State::Greeting { socket, address, .. } = std::mem::replace(&mut self.state, State::Idle) else {
            unreachable!("called while greeting");
        };
        self.state = State::Up { socket, since: context.now };
        self.last_good = Some(address);
        self.backoff = context.reconnect_interval;
        self.reachability = Reachability::Up;
        self.stats.connects_ok += 1;
        self.stats.last_error = None;
        context.reactor.events.push(Event::PeerUp { id: self.id });
    }

    /// The established link is gone: whether its process is as well shows the next try, made at once.
    fn broke(&mut self, context: &mut Context) {
        let State::Up { since, .. } = self.state else { unreachable!("called while up") };
        self.drop_socket(context);
        self.reachability = Reachability::Broken;
        if context.now.saturating_duration_since(since) >= context.reconnect_interval {
            self.quick_redials = 0;
        }
        // Without the limit two processes with the same id would take the link from each other for ever.
        match self.last_good {
            Some(address) if self.quick_redials < MAX_QUICK_REDIALS => {
                self.quick_redials += 1;
                self.connect([address].into(), context);
            }
            _ => self.pause(context),
        }
        if self.reachability == Reachability::Broken {
            context.reactor.events.push(Event::PeerDown { id: self.id, refused: false });
        }
    }

    /// The acceptor closed an established link with an error line: it lives, but there is no use in hurrying.
    fn refused_when_up(&mut self, context: &mut Context) {
        if let State::Up { socket, .. } = &self.state {
            let line = socket.input[..].split(|&byte| byte == b'\r').next().unwrap_or_default();
            self.stats.last_error = Some(String::from_utf8_lossy(&line[..line.len().min(256)]).into_owned());
        }
        self.stats.rejected += 1;
        self.drop_socket(context);
        self.reachability = Reachability::Broken;
        self.pause(context);
        context.reactor.events.push(Event::PeerDown { id: self.id, refused: false });
    }

    /// A try has failed: the next one after a pause, or at once where it may say more.
    fn failed(&mut self, failure: Failure, context: &mut Context) {
        self.stats.connect_errors += 1;
        let reason = match failure {
            Failure::Ended(reason) => {
                if let (Some(address), true) = (self.last_good, self.quick_redials < MAX_QUICK_REDIALS) {
                    self.quick_redials += 1;
                    self.stats.last_error = Some(reason);
                    return self.connect([address].into(), context);
                }
                reason
            }
            Failure::Rejected(reason) => {
                self.stats.rejected += 1;
                reason
            }
            Failure::Unreachable(reason) => reason,
        };
        if self.reachability != Reachability::Unreachable {
            log::info!("cannot reach node {} at {}: {reason}", self.id, self.address);
            self.reachability = Reachability::Unreachable;
            context.reactor.events.push(Event::PeerDown { id: self.id, refused: true });
        }
        self.stats.last_error = Some(reason);
        self.pause(context);
    }

    /// Waits for the backoff, give or take a fifth, so that nodes do not knock in step.
    fn pause(&mut self, context: &mut Context) {
        let thousandths = 800 + (next_random(context.jitter) % 401) as u32;
        self.state = State::Waiting { until: context.now + self.backoff * thousandths / 1000 };
        let cap = Duration::from_millis(MAX_RECONNECT_INTERVAL_MS).max(context.reconnect_interval);
        self.backoff = (self.backoff * 2).min(cap);
    }

    fn drop_socket(&mut self, context: &mut Context) {
        match std::mem::replace(&mut self.state, State::Idle) {
            State::Connecting { socket, .. } | State::Greeting { socket, .. } | State::Up { socket, .. } => {
                socket.close(context.reactor);
            }
            State::Idle | State::Waiting { .. } | State::Resolving { .. } => (),
        }
    }
}

pub(super) enum Answer {
    Incomplete,
    /// The acceptor knows the secret; our own proof is queued.
    Proven,
    Welcome,
}

/// Takes one reply of the handshake with `target` from the input; an error is the reason to give up.
pub(super) fn answer(
    input: &mut BytesMut,
    output: &mut SendQueue,
    step: &Step,
    (target, identity): (u64, &PeerIdentity),
) -> Result<Answer, String> {
    if input.len() > MAX_UNAUTHENTICATED_FRAME_BYTES {
        return Err("an answer too long".into());
    }
    let Some((reply, length)) = parse_reply(input).map_err(|error| error.to_string())? else {
        return Ok(Answer::Incomplete);
    };
    input.advance(length);
    match (step, reply) {
        (_, Reply::Error(text)) => Err(text),
        (Step::AwaitProof(dialler_nonce), Reply::Array(parts)) => {
            let [Reply::Bulk(nonce), Reply::Bulk(proof)] = &parts[..] else {
                return Err("an unexpected answer to the hello".into());
            };
            let acceptor_nonce = handshake::from_hex(nonce).ok_or("an invalid nonce")?;
            let transcript = Transcript {
                dialler_nonce: *dialler_nonce,
                acceptor_nonce,
                dialler_id: identity.node_id,
                acceptor_id: target,
            };
            if !transcript.verify(identity, Side::Accept, proof) {
                return Err("it does not know the cluster's secret".into());
            }
            let own_proof = transcript.proof(identity, Side::Dial);
            let mut message = Vec::new();
            encode_command(&mut message, &[handshake::AUTH, own_proof.as_bytes()]);
            output.push_slice(&message);
            Ok(Answer::Proven)
        }
        (Step::AwaitWelcome, Reply::Status(text)) if text == "OK" && input.is_empty() => Ok(Answer::Welcome),
        _ => Err("an unexpected answer in the handshake".into()),
    }
}

/// Starts to connect. An error that is known at once, as a refusal on loopback, is returned at once.
fn open(address: SocketAddr, reactor: &mut Reactor) -> io::Result<Socket> {
    let stream = TcpStream::connect(address)?;
    match stream.take_error()? {
        Some(error) => Err(error),
        None => Socket::new(stream, Class::Dialled, reactor),
    }
}

/// Whether the connection stands; `false` while it is still under way.
fn outcome_of_connect(socket: &Socket) -> io::Result<bool> {
    if let Some(error) = socket.stream().take_error()? {
        return Err(error);
    }
    match socket.stream().peer_addr() {
        // TCP lets a socket connect to itself when nobody listens on a port of the ephemeral range.
        Ok(remote) if socket.stream().local_addr()? == remote => {
            Err(io::Error::new(io::ErrorKind::ConnectionRefused, "nobody listens there"))
        }
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(false),
        Err(error) => Err(error),
    }
}

/// SplitMix64: jitter needs no better.
fn next_random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}
