//! What is said on a connection that others have dialled, apart from its socket: the handshake, probes, then frames.

use super::frame;
use super::handshake::{self, PeerIdentity, Side, Transcript, PROTOCOL_VERSION};
use super::send_queue::SendQueue;
use super::{Event, Rejection};
use crate::limits::{MAX_DRAIN_BYTES, MAX_UNAUTHENTICATED_QUEUE_BYTES};
use crate::resp::{encode_command, CommandParser, Limits};
use bytes::{Bytes, BytesMut};
use std::ops::Range;
use std::time::Instant;

pub(super) struct Dialogue {
    pub stage: Stage,
    parser: CommandParser,
}

pub(super) enum Stage {
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

/// What becomes of a link after a step.
pub(super) enum Fate {
    Keep,
    Close,
    /// Tell why, count it, and close.
    Refuse(Rejection, &'static str),
}

impl Dialogue {
    /// The hello must have come by `deadline`, and the proof too.
    pub fn new(deadline: Instant) -> Dialogue {
        Dialogue { stage: Stage::AwaitHello { deadline }, parser: CommandParser::default() }
    }

    pub fn deadline(&self) -> Option<Instant> {
        match self.stage {
            Stage::AwaitHello { deadline }
            | Stage::AwaitProof { deadline, .. }
            | Stage::Refused { deadline, .. } => Some(deadline),
            Stage::Up { .. } => None,
        }
    }

    /// The peer that has proven who it is.
    pub fn up(&self) -> Option<u64> {
        match self.stage {
            Stage::Up { id } => Some(id),
            _ => None,
        }
    }

    /// Works through the input.
    pub fn work(
        &mut self,
        input: &mut BytesMut,
        output: &mut SendQueue,
        identity: Option<&PeerIdentity>,
        events: &mut Vec<Event>,
    ) -> Fate {
        loop {
            if let Stage::Refused { discarded, .. } = &mut self.stage {
                *discarded += input.len();
                input.clear();
                return if *discarded > MAX_DRAIN_BYTES { Fate::Close } else { Fate::Keep };
            }
            let limits = if self.up().is_some() { &Limits::PEER } else { &Limits::UNAUTHENTICATED };
            let length = match self.parser.parse(input, limits) {
                Ok(Some(length)) => length,
                Ok(None) if self.up().is_none() && input.len() > limits.max_frame_bytes => {
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
            let command = input.split_to(length).freeze();
            let fate = match self.up() {
                Some(id) => match frame::decode(command, self.parser.args()) {
                    Some(frame) => {
                        events.push(Event::Peer { from: id, frame });
                        Fate::Keep
                    }
                    None => Fate::Refuse(Rejection::Protocol, "protocol error: not a frame"),
                },
                None => self.greet(&command, output, identity),
            };
            if !matches!(fate, Fate::Keep) {
                return fate;
            }
        }
    }

    /// One command of someone who has not proven who they are.
    fn greet(&mut self, command: &Bytes, output: &mut SendQueue, identity: Option<&PeerIdentity>) -> Fate {
        let args: Vec<&[u8]> =
            self.parser.args().iter().map(|range: &Range<usize>| &command[range.clone()]).collect();
        let Some((&name, args)) = args.split_first() else { return Fate::Keep };
        if name.eq_ignore_ascii_case(b"PING") {
            if output.len() > MAX_UNAUTHENTICATED_QUEUE_BYTES {
                return Fate::Close;
            }
            output.push_slice(b"+PONG\r\n");
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
                output.push_slice(&answer);
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
