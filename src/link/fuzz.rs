//! Doors for the targets of `fuzz/`: what is said on a link, without its socket. Only built with `--cfg fuzzing`.

use super::dialogue::{Dialogue, Fate, Stage};
use super::handshake::{fresh_nonce, hello};
use super::peer::{answer, Answer, Step};
use super::send_queue::SendQueue;
use super::{capture, feed, frame, CaptureRequest, Event, Frame, OutFrame, PeerIdentity};
use bytes::{Bytes, BytesMut};
use std::ops::Range;
use std::time::Instant;

/// Input, output and events of a link.
#[derive(Default)]
struct Ends {
    input: BytesMut,
    output: SendQueue,
    events: Vec<Event>,
}

impl Ends {
    fn sent(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.output.write_to(&mut bytes, usize::MAX).expect("a vector takes all");
        bytes
    }
}

/// A connection that somebody dialled to this node.
pub struct Accepted {
    dialogue: Dialogue,
    identity: Option<PeerIdentity>,
    ends: Ends,
}

impl Accepted {
    pub fn new(identity: Option<PeerIdentity>) -> Accepted {
        Accepted { dialogue: Dialogue::new(Instant::now()), identity, ends: Ends::default() }
    }

    /// One whose other side has proven to be node `id`.
    pub fn proven(identity: PeerIdentity, id: u64) -> Accepted {
        let mut accepted = Accepted::new(Some(identity));
        accepted.dialogue.stage = Stage::Up { id };
        accepted
    }

    /// Takes bytes and says what is answered; the error is why the connection is closed.
    pub fn receive(&mut self, bytes: &[u8]) -> Result<Vec<u8>, &'static str> {
        let Ends { input, output, events } = &mut self.ends;
        input.extend_from_slice(bytes);
        match self.dialogue.work(input, output, self.identity.as_ref(), events) {
            Fate::Keep => Ok(self.ends.sent()),
            Fate::Close => Err("closed"),
            Fate::Refuse(_, reason) => Err(reason),
        }
    }

    pub fn up(&self) -> Option<u64> {
        self.dialogue.up()
    }

    /// Bytes that are kept because the rest of a command is missing.
    pub fn kept_bytes(&self) -> usize {
        self.ends.input.len()
    }

    pub fn events(&self) -> &[Event] {
        &self.ends.events
    }
}

/// A connection that this node has dialled.
pub struct Dialled {
    identity: PeerIdentity,
    target: u64,
    step: Option<Step>,
    ends: Ends,
}

impl Dialled {
    /// The link, and its first words.
    pub fn new(identity: PeerIdentity, target: u64) -> (Dialled, Vec<u8>) {
        let nonce = fresh_nonce().expect("random numbers");
        let hello = hello(&identity, target, &nonce);
        (Dialled { identity, target, step: Some(Step::AwaitProof(nonce)), ends: Ends::default() }, hello)
    }

    /// Takes bytes and says what is answered; the error is why the connection is closed.
    pub fn receive(&mut self, bytes: &[u8]) -> Result<Vec<u8>, String> {
        let Ends { input, output, .. } = &mut self.ends;
        input.extend_from_slice(bytes);
        while let Some(step) = &self.step {
            match answer(input, output, step, (self.target, &self.identity))? {
                Answer::Incomplete => break,
                Answer::Proven => self.step = Some(Step::AwaitWelcome),
                Answer::Welcome => self.step = None,
            }
        }
        Ok(self.ends.sent())
    }

    pub fn is_up(&self) -> bool {
        self.step.is_none()
    }

    /// The acceptor has proven that it knows the secret.
    pub fn is_proven(&self) -> bool {
        !matches!(self.step, Some(Step::AwaitProof(_)))
    }
}

/// The link on which the local server follows.
#[derive(Default)]
pub struct Feed {
    dialogue: feed::Dialogue,
    ends: Ends,
}

impl Feed {
    /// Takes bytes and says what is answered; the error is why the connection is closed.
    pub fn receive(&mut self, bytes: &[u8]) -> Result<Vec<u8>, String> {
        let Ends { input, output, events } = &mut self.ends;
        input.extend_from_slice(bytes);
        match self.dialogue.work(input, output, events) {
            Ok(()) => Ok(self.ends.sent()),
            Err(feed::Lost(reason)) => Err(reason),
        }
    }

    pub fn kept_bytes(&self) -> usize {
        self.ends.input.len()
    }

    pub fn events(&self) -> &[Event] {
        &self.ends.events
    }
}

/// The link on which this node follows the local server, up to the stream.
pub struct Capture {
    greeting: capture::Greeting,
    ends: Ends,
}

impl Capture {
    pub fn new(request: CaptureRequest) -> Capture {
        let (mut greeting, mut ends) = (capture::Greeting::new(request), Ends::default());
        greeting.begin(&mut ends.output);
        Capture { greeting, ends }
    }

    /// Takes bytes and says what is answered; the error is why the connection is closed.
    pub fn receive(&mut self, bytes: &[u8]) -> Result<Vec<u8>, String> {
        let Ends { input, output, events } = &mut self.ends;
        input.extend_from_slice(bytes);
        match self.greeting.work(input, output, events) {
            Ok(()) => Ok(self.ends.sent()),
            Err(capture::Lost { reason, .. }) => Err(reason),
        }
    }

    pub fn is_up(&self) -> bool {
        self.greeting.is_up()
    }

    /// What came behind the handshake.
    pub fn stream(&self) -> &[u8] {
        &self.ends.input
    }
}

/// A frame as it is sent.
pub fn sent(frame: OutFrame) -> Vec<u8> {
    let bound = frame.wire_bytes();
    let mut ends = Ends::default();
    frame.queue(&mut ends.output);
    let bytes = ends.sent();
    assert!(bytes.len() <= bound, "{} bytes where at most {bound} were announced", bytes.len());
    bytes
}

/// The frame in a command with arguments at `args`.
pub fn received(command: Bytes, args: &[Range<usize>]) -> Option<Frame> {
    frame::decode(command, args)
}
