//! The file that names the members of a recovered cluster.
//!
//! ```text
//! # id   clients connect to   peers connect to
//! 7      10.0.0.3:6379        10.0.0.3:16379
//! new    10.0.0.4:6379        10.0.0.4:16379
//! ```
//!
//! One voter a line, three words, separated by blanks or tabs; empty lines and lines that begin with `#` do not count.
//! One of them is the node whose log is recovered, under its own id. The others have ids that were never given out;
//! `new` stands for such a one.

use crate::consensus::NodeId;
use crate::limits::{MAX_MEMBERS_FILE_BYTES, MAX_MEMBERS_FILE_LINES};
use crate::node::address::HostPort;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// A member, as the file names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// `None`: an id that was never given out.
    pub id: Option<NodeId>,
    pub address: String,
    pub peer_address: String,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}{}: expected {expected}, found {found}", .file.display(), Number(*.line))]
pub struct MembersFileError {
    pub file: PathBuf,
    /// Counted from 1; `None`: the file as a whole.
    pub line: Option<usize>,
    pub expected: String,
    pub found: String,
}

/// ", line 3", or nothing.
struct Number(Option<usize>);
impl std::fmt::Display for Number {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.map_or(Ok(()), |line| write!(f, ", line {line}"))
    }
}

/// Reads the members of a cluster that node `own` begins; `used`: every id that was given out.
///
/// Errors: the first line that is not as it must be.
pub fn parse(
    file: &Path,
    text: &[u8],
    own: NodeId,
    used: &BTreeSet<NodeId>,
) -> Result<Vec<Line>, MembersFileError> {
    let wrong = |line: Option<usize>, expected: &str, found: String| {
        Err(MembersFileError { file: file.to_path_buf(), line, expected: expected.to_string(), found })
    };
    if text.len() > MAX_MEMBERS_FILE_BYTES {
        return wrong(
            None,
            &format!("at most {MAX_MEMBERS_FILE_BYTES} bytes"),
            format!("{} bytes", text.len()),
        );
    }
    let Ok(text) = std::str::from_utf8(text) else {
        return wrong(None, "a text", "bytes that are no UTF-8".into());
    };
    let mut lines: Vec<Line> = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let number = Some(number + 1);
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        if words.first().is_none_or(|word| word.starts_with('#')) {
            continue;
        }
        let [id, address, peer_address] = words[..] else {
            let expected = "three words: an id or `new`, the address for clients, the address for peers";
            return wrong(number, expected, format!("{} words", words.len()));
        };
        for address in [address, peer_address] {
            if let Err(error) = HostPort::parse(address) {
                return wrong(number, "host:port", format!("{address} ({error})"));
            }
            if lines.iter().any(|line| line.address == address || line.peer_address == address) {
                return wrong(
                    number,
                    "an address of its own",
                    format!("{address}, which stands above already"),
                );
            }
        }
        if address == peer_address {
            return wrong(number, "two addresses", format!("{address} twice"));
        }
        let id = match id {
            "new" => None,
            digits => match parse_id(digits) {
                Some(id) => Some(id),
                None => {
                    return wrong(number, "`new` or an id from 1 to 18446744073709551615", digits.to_string())
                }
            },
        };
        if id.is_some() && lines.iter().any(|line| line.id == id) {
            return wrong(number, "an id of its own", format!("{}, which stands above already", words[0]));
        }
        if id.is_some_and(|id| id != own && used.contains(&id)) {
            let expected = "`new`, or an id that was never given out: an id is used once, ever";
            return wrong(number, expected, format!("{}, which was", words[0]));
        }
        if lines.len() == MAX_MEMBERS_FILE_LINES {
            return wrong(number, &format!("at most {MAX_MEMBERS_FILE_LINES} members"), "one more".into());
        }
        lines.push(Line { id, address: address.to_string(), peer_address: peer_address.to_string() });
    }
    match lines.iter().any(|line| line.id == Some(own)) {
        true => Ok(lines),
        false => wrong(None, &format!("a line for node {own}, whose log this is"), "none".into()),
    }
}

/// Decimal digits only, without a leading zero: `u64::from_str` would also take a plus sign.
fn parse_id(text: &str) -> Option<NodeId> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0');
    text.parse().ok().filter(|_| digits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<Line>, MembersFileError> {
        parse(Path::new("members"), text.as_bytes(), 7, &BTreeSet::from([7, 8]))
    }

    #[test]
    fn members_are_read() {
        let text =
            "# the new cluster\n\n  7\t10.0.0.3:6379   10.0.0.3:16379\r\nnew [::1]:1 [::1]:2\n9 a:1 b:1";
        let line = |id, address: &str, peer_address: &str| Line {
            id,
            address: address.to_string(),
            peer_address: peer_address.to_string(),
        };
        let expected = [
            line(Some(7), "10.0.0.3:6379", "10.0.0.3:16379"),
            line(None, "[::1]:1", "[::1]:2"),
            line(Some(9), "a:1", "b:1"),
        ];
        assert_eq!(read(text).unwrap(), expected);
    }

    #[test]
    fn what_is_not_as_it_must_be_is_named() {
        for (text, line, said) in [
            ("", None, "a line for node 7"),
            ("9 a:1 a:2", None, "a line for node 7"),
            ("7 a:1", Some(1), "found 2 words"),
            ("7 a:1 a:2 voter", Some(1), "found 4 words"),
            ("\n7 a:1 a", Some(2), "found a (no port"),
            ("7 a:0 a:2", Some(1), "found a:0"),
            ("7 a:1 a:1", Some(1), "two addresses"),
            ("7 a:1 a:2\nnew a:2 a:3", Some(2), "found a:2, which stands above"),
            ("7 a:1 a:2\nnew a:4 a:1", Some(2), "found a:1, which stands above"),
            ("7 a:1 a:2\n7 a:3 a:4", Some(2), "an id of its own"),
            ("7 a:1 a:2\n8 a:3 a:4", Some(2), "found 8, which was"),
            ("0 a:1 a:2", Some(1), "found 0"),
            ("+7 a:1 a:2", Some(1), "found +7"),
            ("07 a:1 a:2", Some(1), "found 07"),
            ("18446744073709551616 a:1 a:2", Some(1), "found 18446744073709551616"),
        ] {
            let error = read(text).expect_err(text);
            assert_eq!(error.line, line, "{text}: {error}");
            assert!(error.to_string().contains(said), "{text}: {error}");
        }
        let many: String = (0..64).map(|n| format!("new a:{} b:{}\n", n + 1, n + 1)).collect();
        assert!(read(&many).unwrap_err().to_string().contains("line 64: expected at most 63 members"));
        let long = vec![b'#'; MAX_MEMBERS_FILE_BYTES + 1];
        assert!(parse(Path::new("m"), &long, 7, &BTreeSet::new()).is_err());
        assert!(parse(Path::new("m"), b"7 a:1 \xff", 7, &BTreeSet::new()).is_err());
    }
}
