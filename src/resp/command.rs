//! Commands: an array of bulk strings, or one line of words.

use super::RespError;
use crate::limits;
use std::ops::Range;

/// What one sender may send.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Longest frame, from its first byte to its last.
    pub max_frame_bytes: usize,
    /// Most arguments.
    pub max_args: usize,
    /// Take a line of words (`PING\r\n`) for a command. Words are split at blanks; there is no quoting.
    pub allow_inline: bool,
    /// Longest such line.
    pub max_inline_bytes: usize,
}

impl Limits {
    /// For the command stream of the local Redis.
    pub const STREAM: Limits = Limits {
        max_frame_bytes: limits::MAX_FRAME_BYTES,
        max_args: limits::MAX_STREAM_ARGS,
        allow_inline: false,
        max_inline_bytes: 0,
    };
    /// For a peer that has proven who it is.
    pub const PEER: Limits = Limits {
        max_frame_bytes: limits::MAX_FRAME_BYTES,
        max_args: limits::MAX_PEER_FRAME_ARGS,
        allow_inline: false,
        max_inline_bytes: 0,
    };
    /// For anyone else.
    pub const UNAUTHENTICATED: Limits = Limits {
        max_frame_bytes: limits::MAX_UNAUTHENTICATED_FRAME_BYTES,
        max_args: limits::MAX_PEER_FRAME_ARGS,
        allow_inline: true,
        max_inline_bytes: limits::MAX_INLINE_BYTES,
    };
}

/// Parses the command at the start of `buf`. `Some(length)`: `args` are the ranges of its arguments and it
/// ends at `length`; `None`: the rest has not arrived. An empty array or line is a command of no arguments.
///
/// Each call starts anew; [`CommandParser`] goes on where it stopped.
#[inline]
pub fn parse_command(
    buf: &[u8],
    limits: &Limits,
    args: &mut Vec<Range<usize>>,
) -> Result<Option<usize>, RespError> {
    args.clear();
    parse_from(buf, limits, &mut Progress::default(), args)
}

/// Parses a command that arrives in pieces without looking at any argument twice.
#[derive(Debug, Default)]
pub struct CommandParser {
    progress: Progress,
    args: Vec<Range<usize>>,
}

/// How far a command has been parsed. Invariant: `args` parsed so far + `missing` = the count announced,
/// and `position` is where the next argument's header starts.
#[derive(Debug, Default)]
struct Progress {
    position: usize,
    missing: usize,
}

impl CommandParser {
    /// As [`parse_command`]. After `None` the next call must be given the same bytes with more behind them.
    pub fn parse(&mut self, buf: &[u8], limits: &Limits) -> Result<Option<usize>, RespError> {
        if self.progress.position == 0 {
            self.args.clear();
        }
        let outcome = parse_from(buf, limits, &mut self.progress, &mut self.args);
        if !matches!(outcome, Ok(None)) {
            self.progress = Progress::default();
        }
        outcome
    }

    /// Ranges of the arguments of the command that `parse` completed last.
    pub fn args(&self) -> &[Range<usize>] {
        &self.args
    }

    /// Forgets a command begun: the next bytes come from another connection.
    pub fn reset(&mut self) {
        self.progress = Progress::default();
        self.args.clear();
    }
}

#[inline]
fn parse_from(
    buf: &[u8],
    limits: &Limits,
    progress: &mut Progress,
    args: &mut Vec<Range<usize>>,
) -> Result<Option<usize>, RespError> {
    if progress.position == 0 {
        match buf.first() {
            None => return Ok(None),
            Some(b'*') => (),
            Some(_) if limits.allow_inline => return parse_inline(buf, limits, args),
            Some(&found) => return Err(RespError::Unexpected { offset: 0, expected: "'*'", found }),
        }
        let Some((count, position)) = number_line(buf, 1, true)? else { return Ok(None) };
        if count > limits.max_args as u64 {
            return Err(RespError::TooMany { found: count, limit: limits.max_args });
        }
        *progress = Progress { position, missing: count as usize };
    }
    while progress.missing > 0 {
        let Some(range) = bulk(buf, progress.position, limits)? else { return Ok(None) };
        progress.position = range.end + 2;
        progress.missing -= 1;
        args.push(range);
    }
    Ok(Some(progress.position))
}

/// The content of the bulk string whose header starts at `at`.
#[inline(always)]
fn bulk(buf: &[u8], at: usize, limits: &Limits) -> Result<Option<Range<usize>>, RespError> {
    match buf.get(at) {
        None => return Ok(None),
        Some(b'$') => (),
        Some(&found) => return Err(RespError::Unexpected { offset: at, expected: "'$'", found }),
    }
    let Some((length, start)) = number_line(buf, at + 1, false)? else { return Ok(None) };
    // At most ten digits: no overflow in 64 bits.
    let end = start as u64 + length;
    if end + 2 > limits.max_frame_bytes as u64 {
        return Err(RespError::TooLong { found: end + 2, limit: limits.max_frame_bytes });
    }
    let end = end as usize;
    let Some(terminator) = buf.get(end..end + 2) else { return Ok(None) };
    if terminator != b"\r\n" {
        return Err(RespError::Unexpected { offset: end, expected: "CR LF", found: terminator[0] });
    }
    Ok(Some(start..end))
}

/// The number at `at` and the position behind its CR LF. `-1` counts as 0 where `allow_nil`.
#[inline(always)]
fn number_line(buf: &[u8], at: usize, allow_nil: bool) -> Result<Option<(u64, usize)>, RespError> {
    let mut value = 0u64;
    let mut position = at;
    loop {
        match buf.get(position) {
            Some(digit @ b'0'..=b'9') if position - at < limits::MAX_RESP_HEADER_DIGITS => {
                value = value * 10 + u64::from(digit - b'0');
                position += 1;
            }
            Some(b'\r') if position > at => break,
            Some(b'-') if allow_nil && position == at => return nil_line(buf, at),
            Some(_) => return Err(RespError::Number { offset: at }),
            None => return Ok(None),
        }
    }
    match buf.get(position + 1) {
        Some(b'\n') => Ok(Some((value, position + 2))),
        Some(&found) => Err(RespError::Unexpected { offset: position + 1, expected: "LF", found }),
        None => Ok(None),
    }
}

#[cold]
fn nil_line(buf: &[u8], at: usize) -> Result<Option<(u64, usize)>, RespError> {
    const NIL: &[u8] = b"-1\r\n";
    let given = &buf[at..buf.len().min(at + NIL.len())];
    if !NIL.starts_with(given) {
        return Err(RespError::Number { offset: at });
    }
    Ok((given.len() == NIL.len()).then_some((0, at + NIL.len())))
}

#[cold]
fn parse_inline(
    buf: &[u8],
    limits: &Limits,
    args: &mut Vec<Range<usize>>,
) -> Result<Option<usize>, RespError> {
    let searched = &buf[..buf.len().min(limits.max_inline_bytes)];
    let Some(end) = searched.iter().position(|&byte| byte == b'\n') else {
        if searched.len() == limits.max_inline_bytes {
            return Err(RespError::LineTooLong { limit: limits.max_inline_bytes });
        }
        return Ok(None);
    };
    let mut position = 0;
    for word in buf[..end].split(|byte| byte.is_ascii_whitespace()) {
        if !word.is_empty() {
            if args.len() == limits.max_args {
                return Err(RespError::TooMany { found: args.len() as u64 + 1, limit: limits.max_args });
            }
            args.push(position..position + word.len());
        }
        position += word.len() + 1;
    }
    Ok(Some(end + 1))
}

#[cfg(test)]
mod tests {
    use super::super::encode_command;
    use super::*;
    use proptest::prelude::*;

    const TEST: Limits =
        Limits { max_frame_bytes: 1 << 20, max_args: 64, allow_inline: true, max_inline_bytes: 256 };

    type Command = (usize, Vec<Vec<u8>>);

    fn parsed(buf: &[u8]) -> Result<Option<Command>, RespError> {
        let mut args = Vec::new();
        let length = parse_command(buf, &TEST, &mut args)?;
        Ok(length.map(|length| (length, args.into_iter().map(|range| buf[range].to_vec()).collect())))
    }

    fn words(words: &[&str]) -> Vec<Vec<u8>> {
        words.iter().map(|word| word.as_bytes().to_vec()).collect()
    }

    #[test]
    fn a_command_ends_where_its_last_argument_ends() {
        let buf = b"*2\r\n$3\r\nGET\r\n$0\r\n\r\n*1\r\n";
        assert_eq!(parsed(buf).unwrap(), Some((19, words(&["GET", ""]))));
    }

    #[test]
    fn inline_words_and_empty_commands() {
        assert_eq!(parsed(b"PING  x\r\nrest").unwrap(), Some((9, words(&["PING", "x"]))));
        assert_eq!(parsed(b"\n").unwrap(), Some((1, vec![])));
        assert_eq!(parsed(b"*0\r\n").unwrap(), Some((4, vec![])));
        assert_eq!(parsed(b"*-1\r\n").unwrap(), Some((5, vec![])));
        assert_eq!(parsed(b"*-").unwrap(), None);
        assert_eq!(parsed(&[b'x'; 255]).unwrap(), None);
        assert_eq!(parsed(&[b'x'; 256]).unwrap_err(), RespError::LineTooLong { limit: 256 });
        let strict = Limits { allow_inline: false, ..TEST };
        assert!(parse_command(b"PING\r\n", &strict, &mut Vec::new()).is_err());
    }

    #[test]
    fn lengths_beyond_a_limit_are_refused_before_their_bytes_arrive() {
        for bad in [
            &b"*65\r\n"[..],
            b"*99999999999",
            b"*1\r\n$1048577\r\n",
            b"*1\r\n$4294967296\r\n",
            b"*1\r\n$18446744073709551615\r\n",
            b"*1\r\n$-1\r\n",
            b"*-2\r\n",
            b"*1x",
            b"*\r\n",
            b"*1\r\r",
            b"*1\r\n+OK\r\n",
            b"*1\r\n$2\r\nabc\r\n",
        ] {
            assert!(parsed(bad).is_err(), "{}", String::from_utf8_lossy(bad));
        }
    }

    #[test]
    fn the_frame_limit_counts_to_the_last_byte() {
        let limits = Limits { max_frame_bytes: 11, ..TEST };
        let mut args = Vec::new();
        assert_eq!(parse_command(b"*1\r\n$1\r\na\r\n", &limits, &mut args), Ok(Some(11)));
        let error = parse_command(b"*1\r\n$2\r\nab\r\n", &limits, &mut args).unwrap_err();
        assert_eq!(error, RespError::TooLong { found: 12, limit: 11 });
    }

    #[test]
    fn a_long_command_in_pieces_is_parsed_once() {
        let mut buf = Vec::new();
        write_many(&mut buf, 100_000);
        let limits = Limits { max_args: 1 << 20, max_frame_bytes: 1 << 30, ..TEST };
        let mut parser = CommandParser::default();
        let started = std::time::Instant::now();
        // One byte at a time: 1.1 million calls; parsing anew at each would take hours.
        for end in 0..buf.len() {
            assert_eq!(parser.parse(&buf[..end], &limits), Ok(None));
        }
        assert_eq!(parser.parse(&buf, &limits), Ok(Some(buf.len())));
        assert_eq!(parser.args().len(), 100_000);
        assert!(started.elapsed().as_secs() < 20);
    }

    fn write_many(buf: &mut Vec<u8>, count: usize) {
        super::super::write_array_header(buf, count);
        for _ in 0..count {
            super::super::write_bulk(buf, b"value");
        }
    }

    proptest! {
        #[test]
        fn what_was_encoded_is_parsed_at_every_split(
            commands in proptest::collection::vec(
                proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 0..6), 1..4)
        ) {
            let mut buf = Vec::new();
            for command in &commands {
                encode_command(&mut buf, &command.iter().map(Vec::as_slice).collect::<Vec<_>>());
            }
            for split in 0..=buf.len() {
                let mut parser = CommandParser::default();
                let mut start = 0;
                let mut seen = Vec::new();
                for end in [split, buf.len()] {
                    while let Some(length) = parser.parse(&buf[start..end], &TEST).unwrap() {
                        let args = parser.args().iter();
                        seen.push(args.map(|r| buf[start..][r.clone()].to_vec()).collect::<Vec<_>>());
                        start += length;
                    }
                }
                prop_assert_eq!(start, buf.len());
                prop_assert_eq!(&seen, &commands);
            }
        }

        #[test]
        fn garbage_never_panics_and_ranges_stay_inside(
            garbage in "[*$+:\r\n0-9a-z -]{0,60}",
            binary in proptest::collection::vec(any::<u8>(), 0..60),
        ) {
            for buf in [garbage.as_bytes(), &binary] {
                let mut args = Vec::new();
                if let Ok(Some(length)) = parse_command(buf, &TEST, &mut args) {
                    prop_assert!(length <= buf.len());
                    prop_assert!(args.iter().all(|range| range.end <= length && range.start <= range.end));
                }
            }
        }
    }
}
