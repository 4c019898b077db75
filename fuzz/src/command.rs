//! RESP commands: one parser for peers, strangers and the local server.

use crate::input::Input;
use crate::memory::within;
use crate::Seeds;
use redisraft::resp::{encode_command, parse_command, CommandParser, Limits, RespError};
use std::ops::Range;

/// Bounds small enough to be met.
const SMALL: Limits = Limits { max_frame_bytes: 64, max_args: 3, allow_inline: true, max_inline_bytes: 16 };

type Parsed = Result<Option<(usize, Vec<Range<usize>>)>, RespError>;

/// Limits, length of a piece, and then what arrives.
pub fn check(data: &[u8]) {
    let mut input = Input(data);
    let limits = [Limits::STREAM, Limits::PEER, Limits::UNAUTHENTICATED, SMALL][usize::from(input.u8() % 4)];
    let step = usize::from(input.u8().max(1));
    let bytes = input.rest();
    // A range of 16 bytes for an argument of at least 6; doubled as a vector grows.
    let memory = 1024 + 8 * bytes.len();
    let whole = within(memory, || at_once(bytes, &limits));
    let pieces = within(memory, || in_pieces(bytes, &limits, step));
    assert_eq!(whole, pieces, "the same whether it comes at once or in pieces of {step}");
    written(bytes, step);
    match whole {
        Ok(Some((length, args))) => complete(bytes, &limits, (length, &args)),
        Ok(None) => {
            let open = if bytes.first() == Some(&b'*') {
                limits.max_frame_bytes + 32
            } else {
                limits.max_inline_bytes
            };
            assert!(bytes.len() <= open, "{} bytes without a decision", bytes.len());
        }
        Err(error) => assert!(error.to_string().len() < 200),
    }
}

fn at_once(bytes: &[u8], limits: &Limits) -> Parsed {
    let mut args = Vec::new();
    Ok(parse_command(bytes, limits, &mut args)?.map(|length| (length, args)))
}

fn in_pieces(bytes: &[u8], limits: &Limits, step: usize) -> Parsed {
    let (mut parser, mut end) = (CommandParser::default(), 0);
    loop {
        end = bytes.len().min(end + step);
        match parser.parse(&bytes[..end], limits)? {
            Some(length) => return Ok(Some((length, parser.args().to_vec()))),
            None if end == bytes.len() => return Ok(None),
            None => {}
        }
    }
}

fn complete(bytes: &[u8], limits: &Limits, (length, args): (usize, &[Range<usize>])) {
    assert!(length <= bytes.len() && args.len() <= limits.max_args);
    assert!(args.iter().all(|arg| arg.start <= arg.end && arg.end <= length), "{args:?} of {length}");
    assert!(args.windows(2).all(|pair| pair[0].end < pair[1].start), "{args:?}");
    assert_eq!(at_once(&bytes[..length - 1], limits), Ok(None), "a byte less is not enough");
    let values: Vec<&[u8]> = args.iter().map(|arg| &bytes[arg.clone()]).collect();
    let mut again = Vec::new();
    encode_command(&mut again, &values);
    if bytes[0] == b'*' {
        assert!(length <= limits.max_frame_bytes.max(32) && again.len() <= length);
    } else {
        assert!(limits.allow_inline && length <= limits.max_inline_bytes);
    }
    let (encoded, ranges) =
        at_once(&again, &Limits::STREAM).expect("what is encoded is RESP").expect("and whole");
    assert_eq!(encoded, again.len());
    assert!(ranges.into_iter().map(|range| &again[range]).eq(values), "what is encoded comes back");
}

/// Any words are a command when they are encoded, and come back.
fn written(bytes: &[u8], step: usize) {
    let words: Vec<&[u8]> = bytes.split(|byte| *byte == b' ').collect();
    let mut encoded = Vec::new();
    encode_command(&mut encoded, &words);
    let parsed = in_pieces(&encoded, &Limits::STREAM, step).expect("what is encoded is RESP");
    let (length, args) = parsed.expect("and whole");
    assert_eq!(length, encoded.len());
    assert!(args.into_iter().map(|arg| &encoded[arg]).eq(words), "what is encoded comes back");
}

pub fn seeds() -> Seeds {
    let command = |limits: u8, args: &[&[u8]]| {
        let mut bytes = vec![limits, 3];
        encode_command(&mut bytes, args);
        bytes
    };
    vec![
        ("set", command(0, &[b"SET", b"key", b"value\r\n"])),
        ("frame", command(1, &[b"RAFT", b"5", &[7; 60], &[0; 300]])),
        ("inline", b"\x02\x05PING  hello\r\n".to_vec()),
        ("empty", b"\x03\x01*-1\r\n".to_vec()),
        ("small", command(3, &[b"a", b"", b"c"])),
    ]
}
