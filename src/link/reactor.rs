//! What all links share: the poll, tokens, the ready set, pending events.

use super::{Event, Rejections};
use crate::limits::READ_BUDGET_BYTES;
use mio::{Interest, Registry, Token};
use std::io;

/// Bytes per read call. One copy from here into a connection's buffer costs less than growing every buffer
/// by this much before it is known how much there is to read.
const SCRATCH_BYTES: usize = 64 << 10;
const _: () = assert!(READ_BUDGET_BYTES >= SCRATCH_BYTES);

/// Whose socket a token belongs to. Given by the token's remainder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    Waker,
    PeerListener,
    FeedListener,
    Dialled,
    Accepted,
    Feed,
    Capture,
}

const CLASSES: [Class; 7] = [
    Class::Waker,
    Class::PeerListener,
    Class::FeedListener,
    Class::Dialled,
    Class::Accepted,
    Class::Feed,
    Class::Capture,
];

impl Class {
    pub fn of(token: Token) -> Class {
        CLASSES[token.0 % CLASSES.len()]
    }
}

/// What is known of a socket's state: reported by the poll, or left over from the turn before.
#[derive(Clone, Copy, Debug)]
pub(super) struct Readiness {
    pub token: Token,
    pub readable: bool,
    pub writable: bool,
    /// The other side will send no more, or there is an error to collect.
    pub hangup: bool,
}

impl Readiness {
    pub fn leftover(token: Token) -> Readiness {
        Readiness { token, readable: false, writable: false, hangup: false }
    }
}

impl From<&mio::event::Event> for Readiness {
    fn from(event: &mio::event::Event) -> Readiness {
        Readiness {
            token: event.token(),
            readable: event.is_readable(),
            writable: event.is_writable(),
            hangup: event.is_read_closed() || event.is_error(),
        }
    }
}

pub(super) struct Reactor {
    pub registry: Registry,
    pub rejections: Rejections,
    /// Events found since the last turn was handed to the caller.
    pub events: Vec<Event>,
    /// Sockets with work left from this turn: the edge will not come again.
    pub ready: Vec<Token>,
    pub scratch: Box<[u8]>,
    next_token: usize,
}

impl Reactor {
    pub fn new(registry: Registry) -> Reactor {
        Reactor {
            registry,
            rejections: Rejections::default(),
            events: Vec::new(),
            ready: Vec::new(),
            scratch: vec![0; SCRATCH_BYTES].into(),
            next_token: 1,
        }
    }

    /// A token that was never used before, so that a late event of a closed socket meets nobody.
    pub fn token(&mut self, class: Class) -> Token {
        let token = Token(self.next_token * CLASSES.len() + class as usize);
        self.next_token += 1;
        debug_assert_eq!(Class::of(token), class);
        token
    }

    pub fn register(&mut self, source: &mut impl mio::event::Source, class: Class) -> io::Result<Token> {
        let token = self.token(class);
        let interest = match class {
            Class::PeerListener | Class::FeedListener => Interest::READABLE,
            _ => Interest::READABLE | Interest::WRITABLE,
        };
        self.registry.register(source, token, interest)?;
        Ok(token)
    }

    pub fn remember(&mut self, token: Token) {
        if !self.ready.contains(&token) {
            self.ready.push(token);
        }
    }
}
