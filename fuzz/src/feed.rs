//! What the local server says while it follows: PING, REPLCONF, PSYNC, acknowledgements.

use crate::input::{pieces, Input};
use crate::memory::within;
use crate::Seeds;
use redisraft::limits::MAX_FEED_COMMAND_BYTES;
use redisraft::link::fuzz::Feed;
use redisraft::link::Event;
use redisraft::resp::encode_command;

/// Length of a piece, and then what arrives.
pub fn check(data: &[u8]) {
    let mut input = Input(data);
    let step = input.u8();
    let bytes = input.rest();
    let limit_bytes = (64 << 10) + 64 * bytes.len();
    let pieces = within(limit_bytes, || listen(bytes, step));
    assert_eq!(pieces, listen(bytes, u8::MAX), "the same in pieces of another length");
}

/// Answers, events, and why the link ended if it did.
fn listen(bytes: &[u8], step: u8) -> (Vec<u8>, String, Option<String>) {
    let (mut feed, mut answers) = (Feed::default(), Vec::new());
    let mut end = None;
    for piece in pieces(bytes, step) {
        match feed.receive(piece) {
            Ok(answer) => answers.extend(answer),
            Err(reason) => {
                end = Some(reason);
                break;
            }
        }
        assert!(feed.kept_bytes() <= MAX_FEED_COMMAND_BYTES);
    }
    let asked = feed.events().iter().filter(|event| matches!(event, Event::FeedPsync { .. })).count();
    assert!(asked <= 1, "asked again before the answer");
    for event in feed.events() {
        assert!(matches!(event, Event::FeedAck { .. } | Event::FeedPsync { .. }), "{event:?}");
    }
    (if end.is_some() { Vec::new() } else { answers }, format!("{:?}", feed.events()), end)
}

pub fn seeds() -> Seeds {
    let commands = |commands: &[&[&[u8]]]| {
        let mut bytes = vec![5];
        commands.iter().for_each(|command| encode_command(&mut bytes, command));
        bytes
    };
    let handshake: &[&[&[u8]]] = &[
        &[b"PING"],
        &[b"REPLCONF", b"listening-port", b"5001"],
        &[b"REPLCONF", b"capa", b"eof", b"capa", b"psync2"],
        &[b"PSYNC", b"0123456789012345678901234567890123456789", b"101"],
        &[b"REPLCONF", b"ACK", b"100"],
    ];
    vec![
        ("handshake", commands(handshake)),
        ("fresh", commands(&[&[b"PSYNC", b"?", b"-1"]])),
        ("twice", commands(&[&[b"PSYNC", b"?", b"-1"], &[b"PSYNC", b"?", b"-1"]])),
        (
            "getack",
            commands(&[&[b"REPLCONF", b"GETACK", b"*"], &[b"replconf", b"ack", b"18446744073709551615"]]),
        ),
        ("inline", b"\x01PING\r\nAUTH x\r\n".to_vec()),
    ]
}
