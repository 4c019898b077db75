//! The handshake between peers, from both sides, and what comes behind it.

use crate::input::{flip, pieces, Input};
use crate::memory::within;
use crate::Seeds;
use redisraft::limits::{MAX_UNAUTHENTICATED_FRAME_BYTES, MAX_UNAUTHENTICATED_QUEUE_BYTES};
use redisraft::link::fuzz::{sent, Accepted, Dialled};
use redisraft::link::{Event, OutFrame, PeerIdentity};
use redisraft::resp::encode_command;

const DIALLER: u64 = 11;
const ACCEPTOR: u64 = 22;

fn identity(node_id: u64) -> PeerIdentity {
    PeerIdentity { cluster_id: "0123456789abcdef0123456789abcdef".into(), node_id, secret: [7; 32] }
}

/// Who listens, length of a piece, and then what arrives, or what is changed on the way.
pub fn check(data: &[u8]) {
    let mut input = Input(data);
    let (mode, step) = (input.u8() % 5, input.u8());
    let bytes = input.rest();
    let limit_bytes = (64 << 10) + 16 * bytes.len();
    within(limit_bytes, || match mode {
        0 => stranger(Accepted::new(Some(identity(ACCEPTOR))), step, bytes),
        1 => stranger(Accepted::new(None), step, bytes),
        2 => acceptor_without_secret(step, bytes),
        3 => proven_peer(step, bytes),
        _ => dialogue(step, input),
    });
}

/// Whatever somebody says who does not know the secret: no proof, no event, little is kept.
fn stranger(mut accepted: Accepted, step: u8, bytes: &[u8]) {
    for piece in pieces(bytes, step) {
        let answer = accepted.receive(piece);
        assert!(accepted.up().is_none() && accepted.events().is_empty());
        assert!(accepted.kept_bytes() <= MAX_UNAUTHENTICATED_FRAME_BYTES);
        match answer {
            Ok(answer) => assert!(answer.len() <= MAX_UNAUTHENTICATED_QUEUE_BYTES + 256, "{}", answer.len()),
            Err(_) => return,
        }
    }
}

/// Whatever an acceptor says that does not know the secret: we do not go on.
fn acceptor_without_secret(step: u8, bytes: &[u8]) {
    let (mut dialled, _) = Dialled::new(identity(DIALLER), ACCEPTOR);
    for piece in pieces(bytes, step) {
        let answer = dialled.receive(piece);
        assert!(!dialled.is_proven());
        match answer {
            Ok(answer) => assert!(answer.is_empty(), "not a word before the other side's proof"),
            Err(reason) => return assert!(reason.len() <= 2 * MAX_UNAUTHENTICATED_FRAME_BYTES),
        }
    }
}

/// A peer that has proven itself and says anything: frames, the same however they are cut.
fn proven_peer(step: u8, bytes: &[u8]) {
    let frames = |step| {
        let mut accepted = Accepted::proven(identity(ACCEPTOR), DIALLER);
        let end = pieces(bytes, step).find_map(|piece| accepted.receive(piece).err());
        assert!(accepted.events().iter().all(|event| matches!(event, Event::Peer { from: DIALLER, .. })));
        (format!("{:?}", accepted.events()), end)
    };
    assert_eq!(frames(step), frames(u8::MAX));
}

/// Both sides, and somebody between them who changes bytes.
fn dialogue(step: u8, mut edits: Input) {
    let count = edits.u8() % 4;
    let (mut dialled, mut message) = Dialled::new(identity(DIALLER), ACCEPTOR);
    let mut accepted = Accepted::new(Some(identity(ACCEPTOR)));
    let mut changed = false;
    while !dialled.is_up() {
        changed |= flip(&mut message, &mut edits, count);
        let Some(mut answer) = deliver(&message, step, |piece| accepted.receive(piece).ok()) else { break };
        changed |= flip(&mut answer, &mut edits, count);
        let Some(next) = deliver(&answer, step, |piece| dialled.receive(piece).ok()) else { break };
        if next.is_empty() {
            break; // each waits for the rest of what was changed
        }
        message = next;
        if dialled.is_proven() && changed {
            break;
        }
    }
    assert!(accepted.up().is_none_or(|id| id == DIALLER), "proven to be somebody else");
    if changed {
        return;
    }
    assert!(dialled.is_up() && accepted.up() == Some(DIALLER), "nobody was in the way");
    let frame = sent(OutFrame { kind: 9, header: edits.rest().to_vec(), payloads: Vec::new() });
    assert!(deliver(&frame, step, |piece| accepted.receive(piece).ok()).is_some());
    assert!(matches!(accepted.events(), [Event::Peer { from: DIALLER, frame }] if frame.kind == 9));
}

/// All that is answered; `None` when the connection was closed.
fn deliver(bytes: &[u8], step: u8, mut to: impl FnMut(&[u8]) -> Option<Vec<u8>>) -> Option<Vec<u8>> {
    let mut answers = Vec::new();
    for piece in pieces(bytes, step) {
        answers.extend(to(piece)?);
    }
    Some(answers)
}

pub fn seeds() -> Seeds {
    let (_, hello) = Dialled::new(identity(DIALLER), ACCEPTOR);
    let answer = Accepted::new(Some(identity(ACCEPTOR))).receive(&hello).expect("an answer");
    let mut proof = Vec::new();
    encode_command(&mut proof, &[b"AUTH-RAFT", "5a".repeat(32).as_bytes()]);
    let with = |head: &[u8], bytes: &[u8]| [head, bytes].concat();
    let frame = sent(OutFrame { kind: 5, header: vec![1; 20], payloads: vec![vec![2; 30].into()] });
    vec![
        ("ping", b"\x00\x02PING\r\n*1\r\n$4\r\nPING\r\n".to_vec()),
        ("hello", with(&[0, 40], &hello)),
        ("hello-and-proof", with(&[0, 100], &[&hello[..], &proof].concat())),
        ("hello-without-cluster", with(&[1, 40], &hello)),
        ("answer", with(&[2, 9], &answer)),
        ("refusal", b"\x02\x09-ERR wrong cluster\r\n".to_vec()),
        ("frames", with(&[3, 7], &[frame.clone(), frame].concat())),
        ("honest", vec![4, 13, 0, 1, 2, 3]),
        ("changed", vec![4, 50, 1, 90, 0, 1]),
    ]
}
