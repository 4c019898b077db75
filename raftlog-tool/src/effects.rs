//! What an entry carries, for people and for programs.
//!
//! The payload of a normal entry is a piece of a replication stream: commands as RESP arrays of bulk strings.

use std::fmt::Write;

use serde_json::{json, Value};

/// A command: its name and arguments.
type Command<'a> = Vec<&'a [u8]>;

/// The commands of a payload, and the bytes behind them that are none.
pub fn parse(payload: &[u8]) -> (Vec<Command<'_>>, &[u8]) {
    let mut commands = Vec::new();
    let mut rest = payload;
    while let Some((command, behind)) = parse_command(rest) {
        commands.push(command);
        rest = behind;
    }
    (commands, rest)
}

fn parse_command(bytes: &[u8]) -> Option<(Command<'_>, &[u8])> {
    let (count, mut rest) = parse_number(b'*', bytes)?;
    let mut command = Vec::new();
    for _ in 0..count {
        let (length, data) = parse_number(b'$', rest)?;
        let argument = data.get(..length)?;
        rest = data.get(length..)?.strip_prefix(b"\r\n")?;
        command.push(argument);
    }
    Some((command, rest))
}

/// `<prefix><digits>\r\n`
fn parse_number(prefix: u8, bytes: &[u8]) -> Option<(usize, &[u8])> {
    let line = bytes.strip_prefix(&[prefix])?;
    let end = line.iter().take(20).position(|byte| *byte == b'\r')?;
    let digits = std::str::from_utf8(&line[..end]).ok().filter(|text| !text.starts_with('+'))?;
    Some((digits.parse().ok()?, line[end..].strip_prefix(b"\r\n")?))
}

/// Quoted as redis-cli does.
pub fn quote(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() + 2);
    text.push('"');
    for byte in bytes {
        match byte {
            b'\\' | b'"' => text.extend(['\\', char::from(*byte)]),
            b'\n' => text.push_str("\\n"),
            b'\r' => text.push_str("\\r"),
            b'\t' => text.push_str("\\t"),
            0x07 => text.push_str("\\a"),
            0x08 => text.push_str("\\b"),
            b' '..=b'~' => text.push(char::from(*byte)),
            _ => write!(text, "\\x{byte:02x}").expect("writing to a string"),
        }
    }
    text.push('"');
    text
}

/// Words of a command, quoted and separated by blanks.
pub fn command_line(command: &[&[u8]]) -> String {
    command.iter().map(|argument| quote(argument)).collect::<Vec<_>>().join(" ")
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a string");
        text
    })
}

/// UTF-8 as a string, anything else as `{"hex": ".."}`: nothing is lost.
pub fn json_bytes(bytes: &[u8]) -> Value {
    match std::str::from_utf8(bytes) {
        Ok(text) => json!(text),
        Err(_) => json!({ "hex": hex(bytes) }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_parsed_and_the_rest_is_kept() {
        let payload = b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n*1\r\n$0\r\n\r\njunk";
        let (commands, rest) = parse(payload);
        assert_eq!(commands, [vec![&b"GET"[..], b"k"], vec![b""]]);
        assert_eq!(rest, b"junk");
        for broken in
            [&b"*2\r\n$3\r\nGET\r\n"[..], b"*1\r\n$99999999999\r\nx\r\n", b"*+1\r\n", b"*-1\r\n", b"*1", b""]
        {
            assert_eq!(parse(broken), (vec![], broken));
        }
        // A count that nothing stands behind is not believed.
        assert!(parse(b"*99999999999\r\n").0.is_empty());
    }

    #[test]
    fn bytes_are_quoted_like_redis_does() {
        assert_eq!(quote(b"a\"\\\r\n\t\x07\x08\x00\xff "), r#""a\"\\\r\n\t\a\b\x00\xff ""#);
        assert_eq!(command_line(&[b"SET", b"k"]), r#""SET" "k""#);
        assert_eq!(json_bytes(b"\xff"), json!({ "hex": "ff" }));
    }
}
