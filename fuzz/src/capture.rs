//! The local server's replication stream on the leader: the handshake, and the effects, marks and databases in it.

use crate::input::{pieces, Input};
use crate::memory::within;
use crate::Seeds;
use redisraft::link::fuzz::Capture as Link;
use redisraft::link::CaptureRequest;
use redisraft::node::capture::{Capture, CaptureError, Mark, Piece};
use redisraft::resp::{encode_command, parse_command, Limits};

/// Handshake or stream, length of a piece, and then what arrives.
pub fn check(data: &[u8]) {
    let mut input = Input(data);
    let (mode, step) = (input.u8(), input.u8());
    let bytes = input.rest();
    let limit_bytes = (64 << 10) + 64 * bytes.len();
    within(limit_bytes, || if mode % 4 == 0 { handshake(step, bytes) } else { stream(step, bytes) });
}

fn handshake(step: u8, bytes: &[u8]) {
    let request = CaptureRequest {
        address: ([127, 0, 0, 1], 6379).into(),
        secret: "secret".into(),
        replid: "r".repeat(40),
        next_offset: 101,
    };
    let mut link = Link::new(request);
    for (position, piece) in pieces(bytes, step).enumerate() {
        if link.receive(piece).is_err() {
            return;
        }
        if link.is_up() {
            let rest = &bytes[position * usize::from(step.max(1))..];
            assert!(rest.len() >= link.stream().len(), "what is behind the handshake is stream");
            assert!(bytes.starts_with(b"+OK") || bytes.starts_with(b"\n"));
            return;
        }
    }
}

/// What a stream says, in order, as a simple reader sees it.
#[derive(Clone, Debug, PartialEq)]
enum Said {
    /// A database, and a command in it.
    Effect(u32, Vec<u8>),
    Mark(Mark),
    Snapshot(u64),
}

fn stream(step: u8, bytes: &[u8]) {
    let expected = simple_reading(bytes);
    for step in [usize::from(step.max(1)), bytes.len().max(1)] {
        let (pieces, consumed, end) = feed_in(bytes, step);
        let said = flattened(&pieces);
        let effects = |said: &[Said]| -> Vec<Said> {
            said.iter().filter(|said| matches!(said, Said::Effect(..))).cloned().collect()
        };
        let (all, got) = (effects(&expected), effects(&said));
        assert!(consumed <= bytes.len() && all.starts_with(&got), "{got:?} of {all:?}");
        let others = |said: &Said| !matches!(said, Said::Effect(..));
        let marks: Vec<&Said> = expected.iter().filter(|said| others(said)).collect();
        let got_marks: Vec<&Said> = said.iter().filter(|said| others(said)).collect();
        assert!(marks.starts_with(&got_marks), "{got_marks:?} of {marks:?}");
        if end.is_none() && !is_in_transaction(&expected) {
            assert_eq!((got.len(), got_marks.len()), (all.len(), marks.len()));
        }
        // All effects of a batch are before its mark; a snapshot is of exactly what is before it.
        for (number, mark) in got_marks.iter().enumerate() {
            let before = |said: &[Said]| {
                let end =
                    said.iter().enumerate().filter(|(_, said)| others(said)).nth(number).expect("a mark").0;
                effects(&said[..end]).len()
            };
            let (in_stream, in_pieces) = (before(&expected), before(&said));
            assert!(in_pieces >= in_stream, "mark {number} comes before effects of its batch");
            assert!(in_pieces == in_stream || matches!(mark, Said::Mark(_)));
        }
    }
}

fn feed_in(bytes: &[u8], step: usize) -> (Vec<Piece>, usize, Option<CaptureError>) {
    const START: u64 = 100;
    let (mut capture, mut pieces, mut at, mut end) = (Capture::new(START), Vec::new(), 0, 0);
    loop {
        match capture.feed(&bytes[at..end], &mut pieces) {
            Ok(used) => at += used,
            Err(error) => return (pieces, (capture.offset() - START) as usize, Some(error)),
        }
        assert_eq!(capture.offset(), START + at as u64);
        if end == bytes.len() {
            return (pieces, at, None);
        }
        end = bytes.len().min(end + step);
    }
}

fn simple_reading(bytes: &[u8]) -> Vec<Said> {
    let (mut said, mut at, mut database, mut args) = (Vec::new(), 0, 0, Vec::new());
    while let Ok(Some(used)) = parse_command(&bytes[at..], &Limits::STREAM, &mut args) {
        let command = &bytes[at..at + used];
        let word =
            |i: usize| args.get(i).map_or(&b""[..], |range: &std::ops::Range<usize>| &command[range.clone()]);
        let number = |i: usize| std::str::from_utf8(word(i)).ok().and_then(|text| text.parse::<u64>().ok());
        at += used;
        match &word(0).to_ascii_uppercase()[..] {
            b"" if args.is_empty() => {}
            b"PING" | b"REPLCONF" => {}
            b"SELECT" => database = number(1).and_then(|db| u32::try_from(db).ok()).unwrap_or(database),
            b"RAFT.MARK" => {
                let (Some(epoch), Some(sequence)) = (number(1), number(2)) else { break };
                if args.len() == 3 || sequence > 0 {
                    said.push(Said::Mark(Mark { epoch, sequence }));
                }
                said.extend(number(3).filter(|_| args.len() > 3).map(Said::Snapshot));
            }
            _ => said.push(Said::Effect(database, command.to_vec())),
        }
    }
    said
}

/// Each entry is read by itself: it starts and ends in database 0, and holds whole transactions.
fn flattened(pieces: &[Piece]) -> Vec<Said> {
    let mut said = Vec::new();
    for piece in pieces {
        match piece {
            Piece::Mark(mark) => said.push(Said::Mark(*mark)),
            Piece::Snapshot { attempt } => said.push(Said::Snapshot(*attempt)),
            Piece::Effects(payload) => {
                let effects = simple_reading(payload);
                assert!(!effects.is_empty(), "an entry of nothing");
                assert!(!is_in_transaction(&effects), "half a transaction");
                assert_eq!(last_database(payload), 0, "an entry ends in database 0");
                said.extend(effects);
            }
        }
    }
    said
}

fn is_in_transaction(said: &[Said]) -> bool {
    let is = |said: &Said, name: &[u8]| {
        let Said::Effect(_, command) = said else { return false };
        let mut args = Vec::new();
        let whole = parse_command(command, &Limits::STREAM, &mut args).is_ok();
        whole && args.first().is_some_and(|range| command[range.clone()].eq_ignore_ascii_case(name))
    };
    said.iter().rfind(|said| is(said, b"MULTI") || is(said, b"EXEC")).is_some_and(|said| is(said, b"MULTI"))
}

fn last_database(payload: &[u8]) -> u64 {
    let (mut database, mut at, mut args) = (0, 0, Vec::new());
    while let Ok(Some(used)) = parse_command(&payload[at..], &Limits::STREAM, &mut args) {
        let word = |i: usize| &payload[at..][args[i].clone()];
        if !args.is_empty() && word(0).eq_ignore_ascii_case(b"SELECT") {
            database = std::str::from_utf8(word(1)).expect("digits").parse().expect("a database");
        }
        at += used;
    }
    database
}

pub fn seeds() -> Seeds {
    let commands = |head: &[u8], commands: &[&str]| {
        let mut bytes = head.to_vec();
        for command in commands {
            encode_command(&mut bytes, &command.split(' ').map(str::as_bytes).collect::<Vec<_>>());
        }
        bytes
    };
    let batches = ["SELECT 3", "SET a 1", "MULTI", "INCR b", "EXEC", "RAFT.MARK 7 42", "PING", "SET c 1"];
    let snapshot =
        ["SET a 1", "RAFT.MARK 7 2 5", "SELECT 1", "DEL a", "RAFT.MARK 7 0 6", "REPLCONF GETACK *"];
    vec![
        ("answers", b"\x00\x04\n+OK\r\n+OK\r\n+CONTINUE\r\n*1\r\n".to_vec()),
        ("refusal", b"\x00\x09-LOADING Redis is loading\r\n".to_vec()),
        ("batches", commands(&[1, 200], &batches)),
        ("snapshot", commands(&[1, 30], &snapshot)),
        ("open", commands(&[1, 9], &["MULTI", "SET a 1"])),
    ]
}
