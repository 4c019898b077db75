//! What an entry carries: commands, each in a database, and the keys that a command writes.
//!
//! The payload of a normal entry is a piece of a replication stream: commands as RESP arrays of bulk strings, which
//! start and end in database 0. They are taken apart by the parser that feeds them to Redis.

use std::ops::Range;

use redisraft::resp::{parse_command, Limits, RespError};

/// Goes through the commands of one payload.
pub struct Walk<'p> {
    payload: &'p [u8],
    position: usize,
    database: u64,
    arguments: Vec<Range<usize>>,
}

/// One command as it stands in the payload. Its arguments include its name.
pub struct Effect<'p, 'w> {
    /// The database it works in; of a `SELECT`, the one before.
    pub database: u64,
    /// The whole command, as RESP.
    pub bytes: &'p [u8],
    arguments: &'w [Range<usize>],
}

/// Why the rest of a payload is no command.
#[derive(Debug, PartialEq, Eq)]
pub struct Broken {
    /// In the payload.
    pub offset: usize,
    pub reason: String,
}

impl<'p> Walk<'p> {
    pub fn new(payload: &'p [u8]) -> Walk<'p> {
        Walk { payload, position: 0, database: 0, arguments: Vec::new() }
    }

    /// Steps over the next command; `None` at the end, or where the rest is no command.
    pub fn step(&mut self) -> Option<Effect<'p, '_>> {
        let rest = self.rest();
        let length = parse_command(rest, &Limits::STREAM, &mut self.arguments).ok().flatten()?;
        self.position += length;
        let effect = Effect { database: self.database, bytes: &rest[..length], arguments: &self.arguments };
        if effect.is("SELECT") {
            self.database = effect.number(1).unwrap_or(self.database);
        }
        Some(effect)
    }

    /// The bytes that are not stepped over yet: at the end, those that are no command.
    pub fn rest(&self) -> &'p [u8] {
        &self.payload[self.position..]
    }

    /// The database that the next command would work in.
    pub fn database(&self) -> u64 {
        self.database
    }

    /// Why [`Walk::step`] gave none; `None` if all bytes are commands.
    pub fn broken(&mut self) -> Option<Broken> {
        let rest = self.rest();
        if rest.is_empty() {
            return None;
        }
        let reason = match parse_command(rest, &Limits::STREAM, &mut self.arguments) {
            Ok(Some(_)) => return None,
            Ok(None) => format!("{} bytes that are the beginning of a command", rest.len()),
            Err(error @ RespError::Unexpected { .. }) if self.position == 0 => error.to_string(),
            Err(error) => format!("after {} bytes of commands: {error}", self.position),
        };
        Some(Broken { offset: self.position, reason })
    }
}

impl<'p> Effect<'p, '_> {
    pub fn len(&self) -> usize {
        self.arguments.len()
    }

    pub fn argument(&self, position: usize) -> Option<&'p [u8]> {
        self.arguments.get(position).map(|range| &self.bytes[range.clone()])
    }

    pub fn arguments(&self) -> impl Iterator<Item = &'p [u8]> + '_ {
        self.arguments.iter().map(|range| &self.bytes[range.clone()])
    }

    /// The name as it was sent; empty for an array without elements.
    pub fn name(&self) -> &'p [u8] {
        self.argument(0).unwrap_or_default()
    }

    pub fn is(&self, name: &str) -> bool {
        self.name().eq_ignore_ascii_case(name.as_bytes())
    }

    pub fn number(&self, position: usize) -> Option<u64> {
        std::str::from_utf8(self.argument(position)?).ok()?.parse().ok()
    }

    /// Whether it changes a whole database, so that it concerns every key: `FLUSHALL`, `FLUSHDB`, `SWAPDB`.
    pub fn concerns_all_keys(&self) -> bool {
        ["FLUSHALL", "FLUSHDB", "SWAPDB"].iter().any(|name| self.is(name))
    }

    /// Positions of the keys among the arguments.
    pub fn key_positions(&self) -> Vec<usize> {
        let last = self.len().saturating_sub(1);
        let within = |positions: Vec<usize>| positions.into_iter().filter(|at| *at <= last).collect();
        match Keys::of(self.name()) {
            Keys::None => Vec::new(),
            Keys::Range { first, step } => (first..=last).step_by(step).collect(),
            Keys::First(count) => within((1..=count).collect()),
            Keys::Second => within(vec![2]),
            Keys::Counted { target, count_at } => {
                let count = self.number(count_at).unwrap_or(0).min(last as u64) as usize;
                let counted = count_at + 1..=count_at + count;
                within(target.then_some(1).into_iter().chain(counted).collect())
            }
            Keys::FirstAndStore => {
                let stores = (2..last).filter(|at| {
                    let word = self.argument(*at).unwrap_or_default();
                    word.eq_ignore_ascii_case(b"STORE") || word.eq_ignore_ascii_case(b"STOREDIST")
                });
                within([1].into_iter().chain(stores.map(|at| at + 1)).collect())
            }
        }
    }

    pub fn keys(&self) -> impl Iterator<Item = &'p [u8]> + '_ {
        self.key_positions().into_iter().filter_map(|at| self.argument(at))
    }

    /// The point in time, in milliseconds since 1970, at which this command lets its key expire.
    pub fn expires_at_ms(&self) -> Option<u64> {
        if self.is("PEXPIREAT") || self.is("HPEXPIREAT") {
            return self.number(2);
        }
        if self.is("EXPIREAT") || self.is("HEXPIREAT") {
            return self.number(2).map(|seconds| seconds.saturating_mul(1000));
        }
        let after = |word: &str| {
            let found = (3..self.len()).find(|at| {
                self.argument(*at).is_some_and(|argument| argument.eq_ignore_ascii_case(word.as_bytes()))
            });
            self.number(found? + 1)
        };
        if self.is("SET") {
            return after("PXAT").or_else(|| Some(after("EXAT")?.saturating_mul(1000)));
        }
        let absolute =
            self.is("RESTORE") && self.arguments().any(|word| word.eq_ignore_ascii_case(b"ABSTTL"));
        self.number(2).filter(|at| absolute && *at > 0)
    }
}

/// Where the keys of a command stand.
enum Keys {
    None,
    /// From `first` to the last argument.
    Range {
        first: usize,
        step: usize,
    },
    /// Arguments 1 to this.
    First(usize),
    /// Argument 2, behind a sub-command.
    Second,
    /// As many as the argument at `count_at` says, behind it; and argument 1 where it is the `target`.
    Counted {
        target: bool,
        count_at: usize,
    },
    /// Argument 1, and the one behind `STORE`.
    FirstAndStore,
}

impl Keys {
    /// Of the commands that replication streams carry; one that is not known, such as a module's, has its key first,
    /// as nearly all have.
    fn of(name: &[u8]) -> Keys {
        let mut upper = [0; 24];
        let Some(upper) = upper.get_mut(..name.len()) else { return Keys::First(1) };
        upper.copy_from_slice(name);
        upper.make_ascii_uppercase();
        match &*upper {
            b"SELECT" | b"MULTI" | b"EXEC" | b"DISCARD" | b"FLUSHALL" | b"FLUSHDB" | b"SWAPDB"
            | b"PUBLISH" | b"SPUBLISH" | b"FUNCTION" | b"SCRIPT" | b"PING" | b"REPLCONF" | b"" => Keys::None,
            b"DEL" | b"UNLINK" | b"TOUCH" | b"PFMERGE" | b"SDIFFSTORE" | b"SINTERSTORE" | b"SUNIONSTORE" => {
                Keys::Range { first: 1, step: 1 }
            }
            b"MSET" | b"MSETNX" => Keys::Range { first: 1, step: 2 },
            b"BITOP" => Keys::Range { first: 2, step: 1 },
            b"RENAME" | b"RENAMENX" | b"COPY" | b"SMOVE" | b"LMOVE" | b"BLMOVE" | b"RPOPLPUSH"
            | b"BRPOPLPUSH" | b"ZRANGESTORE" | b"GEOSEARCHSTORE" => Keys::First(2),
            b"XGROUP" => Keys::Second,
            b"ZUNIONSTORE" | b"ZINTERSTORE" | b"ZDIFFSTORE" => Keys::Counted { target: true, count_at: 2 },
            b"EVAL" | b"EVALSHA" | b"FCALL" => Keys::Counted { target: false, count_at: 2 },
            b"LMPOP" | b"ZMPOP" => Keys::Counted { target: false, count_at: 1 },
            b"SORT" | b"GEORADIUS" | b"GEORADIUSBYMEMBER" => Keys::FirstAndStore,
            _ => Keys::First(1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use redisraft::resp::encode_command;

    fn payload(commands: &[&str]) -> Vec<u8> {
        let mut out = Vec::new();
        for command in commands {
            encode_command(&mut out, &command.split(' ').map(str::as_bytes).collect::<Vec<_>>());
        }
        out
    }

    fn keys(command: &str) -> String {
        let payload = payload(&[command]);
        let mut walk = Walk::new(&payload);
        let effect = walk.step().expect("a command");
        effect.keys().map(|key| String::from_utf8_lossy(key).into_owned()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn commands_are_walked_through_and_the_rest_is_kept() {
        let bytes = [payload(&["SELECT 3", "SET k v", "SELECT 0"]), b"junk".to_vec()].concat();
        let mut walk = Walk::new(&bytes);
        let mut seen = Vec::new();
        while let Some(effect) = walk.step() {
            seen.push((effect.database, effect.name().to_vec(), effect.len()));
        }
        assert_eq!(seen, [(0, b"SELECT".to_vec(), 2), (3, b"SET".to_vec(), 3), (3, b"SELECT".to_vec(), 2)]);
        assert_eq!((walk.rest(), walk.database()), (&b"junk"[..], 0));
        assert_eq!(walk.broken().map(|broken| broken.offset), Some(bytes.len() - 4));
    }

    #[test]
    fn what_is_no_command_is_told_with_its_reason() {
        for broken in [
            &b"*2\r\n$3\r\nGET\r\n"[..],
            b"*1\r\n$99999999999\r\nx\r\n",
            b"*+1\r\n",
            b"*1",
            b"junk",
            b"*99999999999\r\n",
        ] {
            let mut walk = Walk::new(broken);
            assert!(walk.step().is_none());
            assert_eq!((walk.rest(), walk.broken().map(|broken| broken.offset)), (broken, Some(0)));
        }
        assert_eq!(Walk::new(b"").broken(), None);
    }

    #[test]
    fn keys_stand_where_each_command_has_them() {
        for (command, expected) in [
            ("SET k v", "k"),
            ("del a b c", "a b c"),
            ("MSET a 1 b 2", "a b"),
            ("RENAME a b", "a b"),
            ("BITOP AND d a b", "d a b"),
            ("XGROUP CREATE s g 0", "s"),
            ("ZUNIONSTORE d 2 a b WEIGHTS 1 2", "d a b"),
            ("EVAL script 1 k v", "k"),
            ("EVAL script 99 k v", "k v"),
            ("EVAL script", ""),
            ("SORT l LIMIT 0 1 STORE d", "l d"),
            ("SORT l STORE", "l"),
            ("FLUSHALL", ""),
            ("SELECT 3", ""),
            ("SET", ""),
            ("JSON.SET doc $ 1", "doc"),
            ("AVERYLONGCOMMANDNAMETHATNOBODYHAS k", "k"),
        ] {
            assert_eq!(keys(command), expected, "{command}");
        }
    }

    #[test]
    fn absolute_times_are_found() {
        for (command, expected) in [
            ("SET k v PXAT 5000", Some(5000)),
            ("SET k v exat 5", Some(5000)),
            ("SET PXAT PXAT", None),
            ("SET k PXAT 7", None),
            ("PEXPIREAT k 7", Some(7)),
            ("EXPIREAT k 7", Some(7000)),
            ("RESTORE k 7 data ABSTTL", Some(7)),
            ("RESTORE k 0 data ABSTTL", None),
            ("RESTORE k 7 data", None),
            ("APPEND k v", None),
        ] {
            let payload = payload(&[command]);
            assert_eq!(Walk::new(&payload).step().expect("a command").expires_at_ms(), expected, "{command}");
        }
    }
}
