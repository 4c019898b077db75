//! The feed link: the local Redis is a replica of this thread.
//!
//! Redis dials us after `REPLICAOF 127.0.0.1 <feed port>`. We answer its handshake as a master does; what it gets
//! on `PSYNC` decides the caller. After that the link is a byte stream whose offsets the caller counts.

use super::listener::Listener;
use super::own_process;
use super::reactor::{Class, Reactor, Readiness};
use super::send_queue::SendQueue;
use super::socket::{Filled, Socket};
use super::{Event, Rejection};
use crate::limits::{MAX_FEED_COMMAND_BYTES, MAX_FEED_QUEUE_BYTES, MAX_PEER_FRAME_ARGS};
use crate::resp::{CommandParser, Limits};
use bytes::{Bytes, BytesMut};
use mio::net::TcpStream;
use std::net::SocketAddr;
use std::time::Instant;

const LIMITS: Limits = Limits {
    max_frame_bytes: MAX_FEED_COMMAND_BYTES,
    max_args: MAX_PEER_FRAME_ARGS,
    allow_inline: true,
    max_inline_bytes: crate::limits::MAX_INLINE_BYTES,
};

pub(super) struct Feed {
    pub listener: Listener,
    session: Option<Session>,
}

struct Session {
    socket: Socket,
    dialogue: Dialogue,
}

/// What the server says, apart from the socket on which it comes.
#[derive(Default)]
pub(super) struct Dialogue {
    stage: Stage,
    parser: CommandParser,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stage {
    #[default]
    Handshake,
    /// PSYNC was reported: the caller decides.
    AwaitCaller,
    Streaming,
}

/// The link is to be closed, for this reason.
pub(super) struct Lost(pub String);

impl Feed {
    pub fn new(listener: Listener) -> Feed {
        Feed { listener, session: None }
    }

    /// Takes the connections that wait; a newer one of the local Redis replaces the older.
    pub fn accept(&mut self, reactor: &mut Reactor, now: Instant) {
        for (stream, remote) in self.listener.accept(reactor, now) {
            if !is_own(&stream, remote) {
                reactor.rejections.count(Rejection::ForeignFeed);
                log::warn!("feed connection from {remote} refused: not the server of this process");
                continue;
            }
            let socket = stream.set_nodelay(true).and_then(|()| Socket::new(stream, Class::Feed, reactor));
            match socket {
                Ok(socket) => {
                    self.lost("replaced by a newer connection", reactor);
                    self.session = Some(Session { socket, dialogue: Dialogue::default() });
                }
                Err(error) => log::warn!("feed connection dropped: {error}"),
            }
        }
    }

    pub fn serve(&mut self, readiness: Readiness, reactor: &mut Reactor) {
        let Some(session) = self.session.as_mut().filter(|s| s.socket.token == readiness.token) else {
            return;
        };
        session.socket.note(readiness);
        let filled = session.socket.fill(reactor);
        let Socket { input, output, .. } = &mut session.socket;
        let worked = session.dialogue.work(input, output, &mut reactor.events);
        let flushed = session.socket.flush(reactor);
        match (worked, filled, flushed) {
            (Err(Lost(reason)), ..) => self.lost(&reason, reactor),
            (_, Ok(Filled::Closed), _) => self.lost("closed by the server", reactor),
            (_, Err(error), _) | (_, _, Err(error)) => self.lost(&error.to_string(), reactor),
            (Ok(()), Ok(_), Ok(())) => (),
        }
    }

    /// Answers the PSYNC reported last with `+CONTINUE`. False when none waits for an answer.
    pub fn answer_continue(&mut self, replid: &str) -> bool {
        self.answer(|socket| socket.output.push_slice(format!("+CONTINUE {replid}\r\n").as_bytes()))
    }

    /// Answers the PSYNC reported last with `+FULLRESYNC`; the RDB and the stream are written behind it, without a
    /// CR LF between them. False when none waits for an answer.
    pub fn answer_full_resync(&mut self, replid: &str, offset: u64, rdb_bytes: u64) -> bool {
        let head = format!("+FULLRESYNC {replid} {offset}\r\n${rdb_bytes}\r\n");
        self.answer(|socket| socket.output.push_slice(head.as_bytes()))
    }

    fn answer(&mut self, write: impl FnOnce(&mut Socket)) -> bool {
        match &mut self.session {
            Some(session) if session.dialogue.stage == Stage::AwaitCaller => {
                write(&mut session.socket);
                session.dialogue.stage = Stage::Streaming;
                true
            }
            _ => false,
        }
    }

    /// Queues stream bytes. False, and nothing queued, when no feed is streaming.
    pub fn write(&mut self, bytes: Bytes, reactor: &mut Reactor) -> bool {
        let Some(session) = self.session.as_mut().filter(|s| s.dialogue.stage == Stage::Streaming) else {
            return false;
        };
        if session.socket.output.len().saturating_add(bytes.len()) > MAX_FEED_QUEUE_BYTES {
            self.lost("more is queued than the limit allows", reactor);
            return false;
        }
        session.socket.output.push(bytes);
        true
    }

    pub fn unsent(&self) -> usize {
        self.session.as_ref().map_or(0, |session| session.socket.output.len())
    }

    pub fn flush(&mut self, reactor: &mut Reactor) {
        let Some(session) = &mut self.session else { return };
        if let Err(error) = session.socket.flush(reactor) {
            self.lost(&error.to_string(), reactor);
        }
    }

    /// Closes the link at the caller's wish: no event.
    pub fn close(&mut self, reactor: &mut Reactor) {
        if let Some(session) = self.session.take() {
            session.socket.close(reactor);
        }
    }

    fn lost(&mut self, reason: &str, reactor: &mut Reactor) {
        if let Some(session) = self.session.take() {
            log::info!("feed link closed: {reason}");
            session.socket.close(reactor);
            reactor.events.push(Event::FeedLost);
        }
    }
}

impl Dialogue {
    /// Works through the input.
    pub fn work(
        &mut self,
        input: &mut BytesMut,
        output: &mut SendQueue,
        events: &mut Vec<Event>,
    ) -> Result<(), Lost> {
        loop {
            let length = match self.parser.parse(input, &LIMITS) {
                Ok(Some(length)) => length,
                Ok(None) if input.len() > LIMITS.max_frame_bytes => {
                    return Err(Lost("command too long".into()))
                }
                Ok(None) => return Ok(()),
                Err(error) => return Err(Lost(error.to_string())),
            };
            let command = input.split_to(length);
            let args: Vec<&[u8]> = self.parser.args().iter().map(|range| &command[range.clone()]).collect();
            if let Some((name, args)) = args.split_first() {
                let answer = respond(self.stage, &name.to_ascii_uppercase(), args)?;
                match answer {
                    Answer::None => (),
                    Answer::Text(text) => output.push_slice(text),
                    Answer::Ack { offset } => events.push(Event::FeedAck { offset }),
                    Answer::Psync { replid, offset } => {
                        self.stage = Stage::AwaitCaller;
                        events.push(Event::FeedPsync { replid, offset });
                    }
                }
            }
        }
    }
}

enum Answer {
    None,
    Text(&'static [u8]),
    Ack { offset: u64 },
    Psync { replid: String, offset: i64 },
}

/// What a master says to one command of its replica.
fn respond(stage: Stage, name: &[u8], args: &[&[u8]]) -> Result<Answer, Lost> {
    let option = args.first().map(|option| option.to_ascii_uppercase()).unwrap_or_default();
    let refused = || Lost(format!("{} is not expected here", String::from_utf8_lossy(name)));
    match (name, stage) {
        (b"REPLCONF", _) if option == b"ACK" => {
            let offset = args.get(1).and_then(|offset| parse(offset)).ok_or_else(refused)?;
            Ok(Answer::Ack { offset })
        }
        (b"REPLCONF", _) if option == b"GETACK" => Ok(Answer::None),
        (b"REPLCONF" | b"AUTH", Stage::Handshake) => Ok(Answer::Text(b"+OK\r\n")),
        (b"PING", Stage::Handshake) => Ok(Answer::Text(b"+PONG\r\n")),
        (b"PSYNC", Stage::Handshake) => match args {
            [replid, offset] => {
                let offset = parse(offset).ok_or_else(refused)?;
                Ok(Answer::Psync { replid: String::from_utf8_lossy(replid).into_owned(), offset })
            }
            _ => Err(refused()),
        },
        _ => Err(refused()),
    }
}

fn parse<T: std::str::FromStr>(text: &[u8]) -> Option<T> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

fn is_own(stream: &TcpStream, remote: SocketAddr) -> bool {
    let own = stream.local_addr().and_then(|local| own_process::is_own_socket(remote, local));
    own.unwrap_or_else(|error| {
        log::warn!("cannot tell whose connection {remote} is: {error}");
        false
    })
}
