//! One TCP connection with its buffers and what is known of its readiness.

use super::reactor::{Class, Reactor, Readiness};
use super::send_queue::SendQueue;
use crate::limits::{READ_BUDGET_BYTES, WRITE_BUDGET_BYTES};
use bytes::BytesMut;
use mio::net::TcpStream;
use mio::Token;
use nix::sys::socket::{setsockopt, sockopt};
use std::io::{self, Read};
use std::time::Duration;

/// A receive buffer that grew beyond this is given back once it is empty.
const KEEP_INPUT_BYTES: usize = 4 << 20;

pub(super) struct Socket {
    stream: TcpStream,
    pub token: Token,
    /// Received and not yet consumed.
    pub input: BytesMut,
    pub output: SendQueue,
    /// Bytes read since the start.
    pub received_bytes: u64,
    readable: bool,
    writable: bool,
    hangup: bool,
    input_grew: bool,
}

/// How a turn of reading ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Filled {
    /// Nothing more for now.
    Drained,
    /// The budget is used up: there may be more.
    Budget,
    /// The other side closed; everything before that has been read.
    Closed,
}

impl Socket {
    pub fn new(mut stream: TcpStream, class: Class, reactor: &mut Reactor) -> io::Result<Socket> {
        let token = reactor.register(&mut stream, class)?;
        Ok(Socket {
            stream,
            token,
            input: BytesMut::new(),
            output: SendQueue::default(),
            received_bytes: 0,
            readable: false,
            writable: false,
            hangup: false,
            input_grew: false,
        })
    }

    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// To be called once connected: no delay for small frames, and an end to connections whose other side
    /// vanished without a word (`silence`: how long it may leave our bytes or probes unanswered).
    pub fn set_options(&self, silence: Duration) -> io::Result<()> {
        self.stream.set_nodelay(true)?;
        let seconds = u32::try_from(silence.as_secs().max(1)).unwrap_or(u32::MAX);
        setsockopt(&self.stream, sockopt::KeepAlive, &true)?;
        setsockopt(&self.stream, sockopt::TcpKeepIdle, &seconds.min(32767))?;
        setsockopt(&self.stream, sockopt::TcpKeepInterval, &1)?;
        setsockopt(&self.stream, sockopt::TcpKeepCount, &seconds.min(127))?;
        let silence_ms = u32::try_from(silence.as_millis()).unwrap_or(u32::MAX);
        setsockopt(&self.stream, sockopt::TcpUserTimeout, &silence_ms)?;
        Ok(())
    }

    pub fn note(&mut self, readiness: Readiness) {
        self.readable |= readiness.readable || readiness.hangup;
        self.writable |= readiness.writable;
        self.hangup |= readiness.hangup;
    }

    pub fn is_writable(&self) -> bool {
        self.writable
    }

    /// The readiness seen is used up: only a new edge may set it again.
    pub fn clear_readiness(&mut self) {
        (self.readable, self.writable, self.hangup) = (false, false, false);
    }

    /// Reads what has arrived, within the budget, to the end of `input`.
    pub fn fill(&mut self, reactor: &mut Reactor) -> io::Result<Filled> {
        let mut input = std::mem::take(&mut self.input);
        let filled = self.fill_into(&mut input, reactor);
        if input.is_empty() && self.input_grew {
            self.input_grew = false;
            input = BytesMut::new();
        }
        self.input_grew |= input.len() > KEEP_INPUT_BYTES;
        self.input = input;
        filled
    }

    /// As `fill`, to the end of `target`.
    pub fn fill_into(&mut self, target: &mut BytesMut, reactor: &mut Reactor) -> io::Result<Filled> {
        let mut budget = READ_BUDGET_BYTES;
        while self.readable {
            if budget == 0 {
                reactor.remember(self.token);
                return Ok(Filled::Budget);
            }
            let wanted = reactor.scratch.len().min(budget);
            match self.stream.read(&mut reactor.scratch[..wanted]) {
                Ok(0) => return Ok(Filled::Closed),
                Ok(length) => {
                    target.extend_from_slice(&reactor.scratch[..length]);
                    self.received_bytes += length as u64;
                    budget -= length;
                    // A short read of a stream socket has emptied it (epoll(7)): later bytes are a new edge.
                    // After a hang-up there is none, so go on to the end of the stream.
                    self.readable = length == wanted || self.hangup;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.readable = false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => (),
                Err(error) => return Err(error),
            }
        }
        Ok(Filled::Drained)
    }

    /// Writes what is queued, as far as the socket takes it, within the budget.
    pub fn flush(&mut self, reactor: &mut Reactor) -> io::Result<()> {
        self.flush_within(WRITE_BUDGET_BYTES, reactor)
    }

    fn flush_within(&mut self, budget: usize, reactor: &mut Reactor) -> io::Result<()> {
        if self.output.is_empty() || !self.writable {
            return Ok(());
        }
        self.writable = self.output.write_to(&mut self.stream, budget)?;
        if self.writable && !self.output.is_empty() {
            reactor.remember(self.token);
        }
        Ok(())
    }

    /// Deregisters; the socket closes when dropped.
    pub fn close(mut self, reactor: &mut Reactor) {
        // Closing the descriptor would do it as well; nothing can be done about a failure.
        let _ = reactor.registry.deregister(&mut self.stream);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_budget_used_up_leaves_the_socket_to_the_next_turn() {
        let poll = mio::Poll::new().unwrap();
        let mut reactor = Reactor::new(poll.registry().try_clone().unwrap());
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        stream.set_nonblocking(true).unwrap();
        let stream = TcpStream::from_std(stream);
        let mut socket = Socket::new(stream, Class::Feed, &mut reactor).unwrap();
        socket.note(Readiness { writable: true, ..Readiness::leftover(socket.token) });
        // More pieces than one call writes, and fewer bytes than the kernel buffers.
        for _ in 0..70 {
            socket.output.push(vec![1; 4096].into());
        }
        socket.flush_within(1, &mut reactor).unwrap();
        assert!(!socket.output.is_empty(), "one call's worth is the least");
        assert_eq!(reactor.ready, [socket.token]);
        reactor.ready.clear();
        socket.flush_within(WRITE_BUDGET_BYTES, &mut reactor).unwrap();
        assert!(socket.output.is_empty() && reactor.ready.is_empty());
    }
}
