//! Replies, for the few requests that this program makes itself.

use super::RespError;
use crate::limits::{MAX_REPLY_BYTES, MAX_REPLY_DEPTH, MAX_REPLY_ELEMENTS};

/// One RESP2 reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    Status(String),
    /// Without the leading `-`.
    Error(String),
    Integer(i64),
    Bulk(Vec<u8>),
    Nil,
    Array(Vec<Reply>),
}

/// Parses the reply at the start of `buf`: the reply and its length, or `None` while it is incomplete.
/// Bounded by `MAX_REPLY_BYTES`, `MAX_REPLY_ELEMENTS` and `MAX_REPLY_DEPTH`.
pub fn parse_reply(buf: &[u8]) -> Result<Option<(Reply, usize)>, RespError> {
    let mut reader = Reader { buf, position: 0, elements_left: MAX_REPLY_ELEMENTS };
    let outcome = reader.reply(0)?;
    if reader.position > MAX_REPLY_BYTES || (outcome.is_none() && buf.len() >= MAX_REPLY_BYTES) {
        return Err(RespError::TooLong { found: buf.len() as u64, limit: MAX_REPLY_BYTES });
    }
    Ok(outcome.map(|reply| (reply, reader.position)))
}

struct Reader<'a> {
    buf: &'a [u8],
    position: usize,
    elements_left: usize,
}

impl<'a> Reader<'a> {
    /// Recursion is bounded by `MAX_REPLY_DEPTH`.
    fn reply(&mut self, depth: usize) -> Result<Option<Reply>, RespError> {
        let offset = self.position;
        let Some(&marker) = self.buf.get(offset) else { return Ok(None) };
        if !matches!(marker, b'+' | b'-' | b':' | b'$' | b'*') {
            return Err(RespError::Unexpected { offset, expected: "one of + - : $ *", found: marker });
        }
        let Some(line) = self.line() else { return Ok(None) };
        Ok(Some(match marker {
            b'+' => Reply::Status(String::from_utf8_lossy(line).into_owned()),
            b'-' => Reply::Error(String::from_utf8_lossy(line).into_owned()),
            b':' => Reply::Integer(number(line, offset)?),
            b'$' => return self.bulk(number(line, offset)?, offset),
            _ => return self.array(number(line, offset)?, offset, depth),
        }))
    }

    /// The line at the position without its marker and its CR LF; moves behind it.
    fn line(&mut self) -> Option<&'a [u8]> {
        let rest = &self.buf[self.position + 1..];
        let length = rest.windows(2).position(|pair| pair == b"\r\n")?;
        self.position += 1 + length + 2;
        Some(&rest[..length])
    }

    fn bulk(&mut self, length: i64, offset: usize) -> Result<Option<Reply>, RespError> {
        let length = match length {
            -1 => return Ok(Some(Reply::Nil)),
            0.. if length as u64 <= MAX_REPLY_BYTES as u64 => length as usize,
            0.. => return Err(RespError::TooLong { found: length as u64, limit: MAX_REPLY_BYTES }),
            _ => return Err(RespError::Number { offset: offset + 1 }),
        };
        let end = self.position + length;
        let Some(terminator) = self.buf.get(end..end + 2) else { return Ok(None) };
        if terminator != b"\r\n" {
            return Err(RespError::Unexpected { offset: end, expected: "CR LF", found: terminator[0] });
        }
        let content = self.buf[self.position..end].to_vec();
        self.position = end + 2;
        Ok(Some(Reply::Bulk(content)))
    }

    fn array(&mut self, count: i64, offset: usize, depth: usize) -> Result<Option<Reply>, RespError> {
        let count = match count {
            -1 => return Ok(Some(Reply::Nil)),
            0.. if count as u64 <= self.elements_left as u64 => count as usize,
            0.. => return Err(RespError::TooMany { found: count as u64, limit: MAX_REPLY_ELEMENTS }),
            _ => return Err(RespError::Number { offset: offset + 1 }),
        };
        if depth == MAX_REPLY_DEPTH {
            return Err(RespError::TooDeep { limit: MAX_REPLY_DEPTH });
        }
        self.elements_left -= count;
        let mut elements = Vec::new();
        for _ in 0..count {
            let Some(element) = self.reply(depth + 1)? else { return Ok(None) };
            elements.push(element);
        }
        Ok(Some(Reply::Array(elements)))
    }
}

fn number(line: &[u8], offset: usize) -> Result<i64, RespError> {
    let text = std::str::from_utf8(line).ok();
    text.and_then(|text| text.parse().ok()).ok_or(RespError::Number { offset: offset + 1 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn encode(reply: &Reply, out: &mut Vec<u8>) {
        match reply {
            Reply::Status(text) => out.extend_from_slice(format!("+{text}\r\n").as_bytes()),
            Reply::Error(text) => out.extend_from_slice(format!("-{text}\r\n").as_bytes()),
            Reply::Integer(number) => out.extend_from_slice(format!(":{number}\r\n").as_bytes()),
            Reply::Bulk(bytes) => super::super::write_bulk(out, bytes),
            Reply::Nil => out.extend_from_slice(b"$-1\r\n"),
            Reply::Array(elements) => {
                super::super::write_array_header(out, elements.len());
                elements.iter().for_each(|element| encode(element, out));
            }
        }
    }

    fn replies() -> impl Strategy<Value = Reply> {
        let leaf = prop_oneof![
            "[a-zA-Z ]{0,12}".prop_map(Reply::Status),
            "[a-zA-Z ]{0,12}".prop_map(Reply::Error),
            any::<i64>().prop_map(Reply::Integer),
            proptest::collection::vec(any::<u8>(), 0..20).prop_map(Reply::Bulk),
            Just(Reply::Nil),
        ];
        leaf.prop_recursive(4, 24, 4, |inner| proptest::collection::vec(inner, 0..4).prop_map(Reply::Array))
    }

    #[test]
    fn depth_count_and_length_are_bounded() {
        let nested = |depth: usize| [b"*1\r\n".repeat(depth), b":1\r\n".to_vec()].concat();
        assert!(parse_reply(&nested(MAX_REPLY_DEPTH)).unwrap().is_some());
        assert_eq!(
            parse_reply(&nested(MAX_REPLY_DEPTH + 1)),
            Err(RespError::TooDeep { limit: MAX_REPLY_DEPTH })
        );
        assert!(matches!(parse_reply(b"*4097\r\n"), Err(RespError::TooMany { .. })));
        assert!(matches!(parse_reply(b"*2\r\n*4000\r\n"), Ok(None)));
        assert!(matches!(parse_reply(b"*9223372036854775807\r\n"), Err(RespError::TooMany { .. })));
        assert!(matches!(parse_reply(b"$1048577\r\n"), Err(RespError::TooLong { .. })));
        assert!(matches!(parse_reply(&vec![b'+'; MAX_REPLY_BYTES]), Err(RespError::TooLong { .. })));
        assert!(parse_reply(b"$-2\r\n").is_err());
        assert!(parse_reply(b"*-2\r\n").is_err());
        assert!(parse_reply(b"!x\r\n").is_err());
        assert!(parse_reply(b":12a\r\n").is_err());
        assert!(parse_reply(b"$1\r\nabc").is_err());
    }

    proptest! {
        #[test]
        fn every_prefix_is_incomplete_and_the_whole_is_the_reply(reply in replies()) {
            let mut buf = Vec::new();
            encode(&reply, &mut buf);
            for end in 0..buf.len() {
                prop_assert_eq!(parse_reply(&buf[..end]).unwrap(), None);
            }
            let length = buf.len();
            buf.extend_from_slice(b"+next");
            prop_assert_eq!(parse_reply(&buf).unwrap(), Some((reply, length)));
        }

        #[test]
        fn garbage_never_panics(garbage in "[*$+:\r\n0-9a-z-]{0,60}") {
            if let Ok(Some((_, length))) = parse_reply(garbage.as_bytes()) {
                prop_assert!(length <= garbage.len());
            }
        }
    }
}
