//! The capture link: this thread is a replica of the local Redis and receives the effects of its commands.
//!
//! ```text
//!   RAFT.CAPTURE <secret>                   -> +OK          (the module authenticates the connection)
//!   REPLCONF capa eof capa psync2           -> +OK          (PSYNC pipelined behind it would be refused)
//!   RAFT.PSYNC <secret> <replid> <offset>   -> +CONTINUE [replid]
//!   REPLCONF ACK <offset - 1>                               (from here on: the stream, from `offset`)
//! ```

use super::reactor::{Class, Reactor, Readiness};
use super::send_queue::SendQueue;
use super::socket::{Filled, Socket};
use super::{CaptureBuffer, Event};
use crate::limits::{MAX_CAPTURE_BUFFER_BYTES, MAX_CAPTURE_QUEUE_BYTES};
use crate::resp::{encode_command, parse_reply, Reply};
use bytes::{Buf, BytesMut};
use mio::net::TcpStream;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// What to capture, and where.
#[derive(Clone)]
pub struct CaptureRequest {
    pub address: SocketAddr,
    /// Known to the module alone; made anew by each process.
    pub secret: String,
    /// Replication id of the history to go on with.
    pub replid: String,
    /// Replication offset of the first byte wanted, as in PSYNC.
    pub next_offset: i64,
}

impl std::fmt::Debug for CaptureRequest {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "capture of {} from {}:{}", self.address, self.replid, self.next_offset)
    }
}

pub(super) struct Capture {
    session: Option<Session>,
    pub buffer: CaptureBuffer,
    /// The buffer is full: the socket is not read until the caller has consumed.
    paused: bool,
    connect_timeout: Duration,
}

struct Session {
    socket: Socket,
    greeting: Greeting,
    deadline: Instant,
}

/// The handshake, apart from the socket on which it is held.
pub(super) struct Greeting {
    request: CaptureRequest,
    step: Step,
}

/// What is awaited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Connection,
    Authenticated,
    Capabilities,
    Continue,
    /// Nothing: the stream flows.
    Up,
}

pub(super) struct Lost {
    pub reason: String,
    pub resumable: bool,
}

impl From<io::Error> for Lost {
    fn from(error: io::Error) -> Lost {
        Lost { reason: error.to_string(), resumable: true }
    }
}

impl Capture {
    pub fn new(connect_timeout: Duration) -> Capture {
        Capture {
            session: None,
            buffer: CaptureBuffer::new(MAX_CAPTURE_BUFFER_BYTES),
            paused: false,
            connect_timeout,
        }
    }

    /// Drops a capture that runs and starts this one.
    pub fn start(&mut self, request: CaptureRequest, reactor: &mut Reactor, now: Instant) {
        self.close(reactor);
        self.buffer.go_on_at(request.next_offset);
        let deadline = now + self.connect_timeout;
        let socket = TcpStream::connect(request.address)
            .and_then(|stream| Socket::new(stream, Class::Capture, reactor));
        match socket {
            Ok(socket) => {
                self.session = Some(Session { socket, greeting: Greeting::new(request), deadline });
            }
            Err(error) => {
                let reason = format!("{}: {error}", request.address);
                reactor.events.push(Event::CaptureLost { reason, resumable: true });
            }
        }
    }

    /// Ends the capture and forgets what was received, at the caller's wish: no event.
    pub fn stop(&mut self, reactor: &mut Reactor) {
        self.close(reactor);
        self.buffer.clear();
    }

    /// Acknowledges the stream up to `offset`.
    pub fn ack(&mut self, offset: u64) {
        if let Some(session) = self.session.as_mut().filter(|session| session.greeting.is_up()) {
            if session.socket.output.len() < MAX_CAPTURE_QUEUE_BYTES {
                acknowledge(&mut session.socket.output, &offset.to_string());
            }
        }
    }

    pub fn flush(&mut self, reactor: &mut Reactor) {
        let Some(session) = &mut self.session else { return };
        if let Err(error) = session.socket.flush(reactor) {
            self.lost(error.into(), reactor);
        }
    }

    /// To be called before each poll: reads on when the caller has made room.
    pub fn resume(&mut self, reactor: &mut Reactor) {
        if self.paused && !self.buffer.is_full() {
            self.paused = false;
            if let Some(session) = &self.session {
                reactor.remember(session.socket.token);
            }
        }
    }

    pub fn serve(&mut self, readiness: Readiness, reactor: &mut Reactor) {
        let Some(session) = self.session.as_mut().filter(|s| s.socket.token == readiness.token) else {
            return;
        };
        session.socket.note(readiness);
        let outcome = if session.greeting.is_up() { Ok(()) } else { session.greet(reactor) };
        let outcome = outcome.and_then(|()| self.receive(reactor));
        if let Err(lost) = outcome {
            self.lost(lost, reactor);
        }
    }

    pub fn expire(&mut self, reactor: &mut Reactor, now: Instant) {
        if self.next_deadline().is_some_and(|deadline| deadline <= now) {
            let reason = format!("the server did not answer within {} s", self.connect_timeout.as_secs_f32());
            self.lost(Lost { reason, resumable: true }, reactor);
        }
    }

    pub fn next_deadline(&self) -> Option<Instant> {
        self.session.as_ref().filter(|session| !session.greeting.is_up()).map(|session| session.deadline)
    }

    /// Moves what has arrived into the buffer.
    fn receive(&mut self, reactor: &mut Reactor) -> Result<(), Lost> {
        let Some(session) = self.session.as_mut().filter(|session| session.greeting.is_up()) else {
            return Ok(());
        };
        session.socket.flush(reactor)?;
        if self.buffer.is_full() {
            self.paused = true;
            return Ok(());
        }
        let before = self.buffer.end_offset();
        self.buffer.append(&mut session.socket.input);
        let filled = self.buffer.append_with(|bytes| session.socket.fill_into(bytes, reactor));
        if self.buffer.end_offset() > before {
            reactor.events.push(Event::CaptureData);
        }
        match filled? {
            Filled::Closed => Err(Lost { reason: "closed by the server".into(), resumable: true }),
            Filled::Drained | Filled::Budget => Ok(()),
        }
    }

    fn close(&mut self, reactor: &mut Reactor) {
        self.paused = false;
        if let Some(session) = self.session.take() {
            session.socket.close(reactor);
        }
    }

    fn lost(&mut self, Lost { reason, resumable }: Lost, reactor: &mut Reactor) {
        self.close(reactor);
        reactor.events.push(Event::CaptureLost { reason, resumable });
    }
}

impl Session {
    /// Takes the handshake as far as the answers allow.
    fn greet(&mut self, reactor: &mut Reactor) -> Result<(), Lost> {
        if self.greeting.step == Step::Connection && !self.connected()? {
            return Ok(());
        }
        let filled = self.socket.fill(reactor)?;
        let Socket { input, output, .. } = &mut self.socket;
        self.greeting.work(input, output, &mut reactor.events)?;
        self.socket.flush(reactor)?;
        // Once up, what came with the end is still wanted: the stream's own reading meets it again.
        if filled == Filled::Closed && !self.greeting.is_up() {
            return Err(Lost { reason: "closed by the server".into(), resumable: true });
        }
        Ok(())
    }

    fn connected(&mut self) -> Result<bool, Lost> {
        if let Some(error) = self.socket.stream().take_error()? {
            return Err(error.into());
        }
        match self.socket.stream().peer_addr() {
            Ok(_) => (),
            Err(error) if error.kind() == io::ErrorKind::NotConnected => {
                self.socket.clear_readiness();
                return Ok(false);
            }
            Err(error) => return Err(error.into()),
        }
        self.socket.stream().set_nodelay(true)?;
        self.greeting.begin(&mut self.socket.output);
        Ok(true)
    }
}

impl Greeting {
    pub fn new(request: CaptureRequest) -> Greeting {
        Greeting { request, step: Step::Connection }
    }

    /// The stream flows.
    pub fn is_up(&self) -> bool {
        self.step == Step::Up
    }

    /// To be called when the connection stands.
    pub fn begin(&mut self, output: &mut SendQueue) {
        send(output, &[b"RAFT.CAPTURE", self.request.secret.as_bytes()]);
        self.step = Step::Authenticated;
    }

    /// Goes as far as the answers in the input allow; what is left in it behind the last one is stream.
    pub fn work(
        &mut self,
        input: &mut BytesMut,
        output: &mut SendQueue,
        events: &mut Vec<Event>,
    ) -> Result<(), Lost> {
        while !self.is_up() {
            // A busy master sends empty lines to show that it lives.
            while input.first() == Some(&b'\n') {
                input.advance(1);
            }
            let parsed = parse_reply(input)
                .map_err(|error| Lost { reason: format!("invalid answer: {error}"), resumable: false })?;
            let Some((reply, length)) = parsed else { break };
            input.advance(length);
            self.answer(reply, output, events)?;
        }
        Ok(())
    }

    fn answer(&mut self, reply: Reply, output: &mut SendQueue, events: &mut Vec<Event>) -> Result<(), Lost> {
        match (self.step, reply) {
            (Step::Authenticated, Reply::Status(text)) if text == "OK" => {
                send(output, &[b"REPLCONF", b"capa", b"eof", b"capa", b"psync2"]);
                self.step = Step::Capabilities;
            }
            (Step::Capabilities, Reply::Status(text)) if text == "OK" => {
                let CaptureRequest { secret, replid, next_offset, .. } = self.request.clone();
                let offset = next_offset.to_string();
                send(output, &[b"RAFT.PSYNC", secret.as_bytes(), replid.as_bytes(), offset.as_bytes()]);
                self.step = Step::Continue;
            }
            (Step::Continue, Reply::Status(text)) if is_continue(&text) => {
                self.step = Step::Up;
                acknowledge(output, &(self.request.next_offset - 1).to_string());
                events.push(Event::CaptureUp);
            }
            (_, Reply::Error(text)) => {
                // A full server turns us away before it looks at what we ask; these and the other two pass without
                // our doing. Everything else is an answer to what we asked.
                let turned_away = matches!(self.step, Step::Authenticated);
                let resumable = turned_away || text.starts_with("BUSY") || text.starts_with("LOADING");
                return Err(Lost { reason: text, resumable });
            }
            (step, reply) => {
                return Err(Lost { reason: format!("{reply:?} in step {step:?}"), resumable: false });
            }
        }
        Ok(())
    }
}

fn acknowledge(output: &mut SendQueue, offset: &str) {
    send(output, &[b"REPLCONF", b"ACK", offset.as_bytes()]);
}

fn send(output: &mut SendQueue, args: &[&[u8]]) {
    let mut command = BytesMut::new();
    encode_command(&mut command, args);
    output.push_slice(&command);
}

fn is_continue(text: &str) -> bool {
    text == "CONTINUE" || text.starts_with("CONTINUE ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::READ_BUDGET_BYTES;
    use std::io::{Read, Write};
    use std::net::TcpListener;

    const LIMIT_BYTES: usize = 2 << 20;
    const STREAM_BYTES: usize = 24 << 20;

    /// Answers the handshake without looking at it and sends the stream.
    fn server(listener: TcpListener) {
        let (mut stream, _) = listener.accept().unwrap();
        for answer in ["+OK\r\n", "+OK\r\n", "+CONTINUE\r\n"] {
            assert!(stream.read(&mut [0; 4096]).unwrap() > 0);
            stream.write_all(answer.as_bytes()).unwrap();
        }
        stream.write_all(&vec![b'x'; STREAM_BYTES]).unwrap();
        // Closing with an acknowledgement unread would reset the connection.
        std::io::copy(&mut stream, &mut std::io::sink()).unwrap();
    }

    struct Driver {
        poll: mio::Poll,
        events: mio::Events,
        reactor: Reactor,
        capture: Capture,
    }

    impl Driver {
        fn turn(&mut self) {
            self.capture.resume(&mut self.reactor);
            let wait = Duration::from_millis(if self.reactor.ready.is_empty() { 5 } else { 0 });
            self.poll.poll(&mut self.events, Some(wait)).unwrap();
            let mut turn: Vec<_> = self.reactor.ready.drain(..).map(Readiness::leftover).collect();
            turn.extend(self.events.iter().map(Readiness::from));
            turn.into_iter().for_each(|readiness| self.capture.serve(readiness, &mut self.reactor));
        }
    }

    #[test]
    fn a_full_buffer_pauses_the_socket_and_room_resumes_it() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let sender = std::thread::spawn(|| server(listener));
        let poll = mio::Poll::new().unwrap();
        let reactor = Reactor::new(poll.registry().try_clone().unwrap());
        let mut capture = Capture::new(Duration::from_secs(10));
        capture.buffer = CaptureBuffer::new(LIMIT_BYTES);
        let mut driver = Driver { poll, events: mio::Events::with_capacity(8), reactor, capture };
        let request = CaptureRequest { address, secret: "s".into(), replid: "r".into(), next_offset: 1 };
        driver.capture.start(request, &mut driver.reactor, Instant::now());
        let started = Instant::now();
        let mut consumed = 0;
        while consumed < STREAM_BYTES {
            // Never consume before the buffer is full, or the stream at its end.
            let held = driver.capture.buffer.as_slice().len();
            if held >= LIMIT_BYTES || consumed + held == STREAM_BYTES {
                (0..5).for_each(|_| driver.turn());
                let held = driver.capture.buffer.as_slice().len();
                // The event of one turn and what is left of it are two services here.
                assert!(held < LIMIT_BYTES + 2 * READ_BUDGET_BYTES, "{held} bytes held");
                consumed += held;
                driver.capture.buffer.consume(held);
            }
            driver.turn();
            assert!(started.elapsed() < Duration::from_secs(20), "stuck at {consumed}");
        }
        driver.capture.stop(&mut driver.reactor);
        sender.join().unwrap();
        assert!(matches!(driver.reactor.events[0], Event::CaptureUp));
    }
}
