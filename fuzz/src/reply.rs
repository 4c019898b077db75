//! RESP replies, as the handshakes and requests of a node's own get them.

use crate::memory::within;
use crate::Seeds;
use redisraft::limits::{MAX_REPLY_BYTES, MAX_REPLY_DEPTH, MAX_REPLY_ELEMENTS};
use redisraft::resp::{parse_reply, Reply};

/// Places at which a reply is cut.
const CUTS: usize = 16;

/// The reply at the start of the bytes.
pub fn check(bytes: &[u8]) {
    // A `Reply` of 24 bytes for an element of at least 3, in vectors that double.
    let memory = 4096 + 64 * bytes.len();
    let parsed = within(memory, || parse_reply(bytes));
    let cuts = (0..CUTS).map(|cut| cut * bytes.len() / CUTS);
    match parsed {
        Ok(Some((reply, length))) => {
            assert!(length <= bytes.len().min(MAX_REPLY_BYTES));
            assert!(size(&reply, 0) <= MAX_REPLY_ELEMENTS + 1);
            for cut in cuts.filter(|cut| *cut < length).chain([length - 1]) {
                assert_eq!(parse_reply(&bytes[..cut]), Ok(None), "cut at {cut} of {length}");
            }
            let mut again = Vec::new();
            encode(&reply, &mut again);
            assert_eq!(parse_reply(&again), Ok(Some((reply, again.len()))), "what is encoded comes back");
        }
        Ok(None) => {
            assert!(bytes.len() < MAX_REPLY_BYTES);
            cuts.for_each(|cut| assert_eq!(parse_reply(&bytes[..cut]), Ok(None), "cut at {cut}"));
        }
        Err(error) => assert!(error.to_string().len() < 200),
    }
}

/// Replies, that is elements and the whole; checks the depth on the way.
fn size(reply: &Reply, depth: usize) -> usize {
    assert!(depth <= MAX_REPLY_DEPTH);
    match reply {
        Reply::Array(elements) => 1 + elements.iter().map(|element| size(element, depth + 1)).sum::<usize>(),
        _ => 1,
    }
}

fn encode(reply: &Reply, out: &mut Vec<u8>) {
    match reply {
        Reply::Status(text) => out.extend_from_slice(format!("+{text}\r\n").as_bytes()),
        Reply::Error(text) => out.extend_from_slice(format!("-{text}\r\n").as_bytes()),
        Reply::Integer(number) => out.extend_from_slice(format!(":{number}\r\n").as_bytes()),
        Reply::Nil => out.extend_from_slice(b"$-1\r\n"),
        Reply::Bulk(bytes) => {
            out.extend_from_slice(format!("${}\r\n", bytes.len()).as_bytes());
            out.extend_from_slice(bytes);
            out.extend_from_slice(b"\r\n");
        }
        Reply::Array(elements) => {
            out.extend_from_slice(format!("*{}\r\n", elements.len()).as_bytes());
            elements.iter().for_each(|element| encode(element, out));
        }
    }
}

pub fn seeds() -> Seeds {
    let nested = Reply::Array(vec![
        Reply::Integer(-7),
        Reply::Bulk(b"a\r\nb".to_vec()),
        Reply::Nil,
        Reply::Array(vec![Reply::Status("OK".into()), Reply::Error("ERR no".into())]),
    ]);
    let deep = (0..MAX_REPLY_DEPTH).fold(Reply::Nil, |inner, _| Reply::Array(vec![inner]));
    let encoded = |reply: &Reply| {
        let mut out = Vec::new();
        encode(reply, &mut out);
        out
    };
    vec![
        ("nested", encoded(&nested)),
        ("deep", encoded(&deep)),
        ("moved", b"-MOVED 0 localhost:5001\r\n".to_vec()),
        ("continue", b"+CONTINUE 0123456789012345678901234567890123456789\r\n".to_vec()),
    ]
}
