//! The arguments of `loadmodule`: `key=value`, `raft-key=value`, `key value`, `--raft.key value`, in any case.

use crate::node::settings::{shortened, Setting, SettingsError, Value, SETTINGS};
use std::fmt;

/// What was given, in the order given; each setting at most once.
#[derive(Default)]
pub struct Arguments {
    values: Vec<(&'static Setting, Value)>,
}

/// Why the arguments cannot be used. Each reads as one line for the operator.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OptionError {
    #[error("module argument {position} is not valid UTF-8")]
    NotText { position: usize },
    #[error("unknown module argument '{name}'{}", suggestion(.similar))]
    Unknown { name: String, similar: Option<&'static str> },
    #[error("module argument {name} has no value: write {name}=value, where value is {expected}")]
    NoValue { name: &'static str, expected: String },
    #[error("module argument {name} is given twice")]
    Twice { name: &'static str },
    #[error("module argument {0}")]
    Invalid(SettingsError),
}

fn suggestion(similar: &Option<&'static str>) -> String {
    match similar {
        Some(name) => format!(", did you mean '{name}'?"),
        None => {
            let names: Vec<_> = SETTINGS.iter().map(|setting| setting.name).collect();
            format!(": allowed are {}", names.join(", "))
        }
    }
}

impl Arguments {
    /// Reads all arguments of the module, without its path.
    pub fn parse<A: AsRef<[u8]>>(arguments: &[A]) -> Result<Self, OptionError> {
        let mut parsed = Arguments::default();
        let mut position = 0;
        while position < arguments.len() {
            let argument = text(arguments, position)?;
            let (key, inline) = match argument.split_once('=') {
                Some((key, value)) => (key, Some(value)),
                None => (argument, None),
            };
            let setting = find(key)?;
            position += 1;
            let value = match inline {
                Some(value) => value,
                None if position < arguments.len() => {
                    position += 1;
                    text(arguments, position - 1)?
                }
                None => {
                    return Err(OptionError::NoValue { name: setting.name, expected: setting.expected() })
                }
            };
            if parsed.values.iter().any(|(given, _)| given.name == setting.name) {
                return Err(OptionError::Twice { name: setting.name });
            }
            parsed.values.push((setting, setting.parse(value).map_err(OptionError::Invalid)?));
        }
        Ok(parsed)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&'static Setting, &Value)> {
        self.values.iter().map(|(setting, value)| (*setting, value))
    }
}

impl fmt::Debug for Arguments {
    /// Without the values of hidden settings.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |setting: &Setting, value: &Value| {
            if setting.hidden {
                "(hidden)".to_owned()
            } else {
                value.to_string()
            }
        };
        f.debug_map()
            .entries(self.iter().map(|(setting, value)| (setting.name, shown(setting, value))))
            .finish()
    }
}

fn text<A: AsRef<[u8]>>(arguments: &[A], position: usize) -> Result<&str, OptionError> {
    let argument = arguments[position].as_ref();
    std::str::from_utf8(argument).map_err(|_| OptionError::NotText { position: position + 1 })
}

fn find(key: &str) -> Result<&'static Setting, OptionError> {
    let lower = key.to_ascii_lowercase();
    let name = lower.strip_prefix("--").unwrap_or(&lower);
    let name = name.strip_prefix("raft-").or_else(|| name.strip_prefix("raft.")).unwrap_or(name);
    Setting::find(name)
        .ok_or_else(|| OptionError::Unknown { name: shortened(key), similar: most_similar(name) })
}

/// The setting whose name is a few keystrokes away, if there is one.
fn most_similar(name: &str) -> Option<&'static str> {
    const MAX_NAME_BYTES: usize = 64;
    if name.len() > MAX_NAME_BYTES {
        return None;
    }
    let candidates = SETTINGS.iter().map(|setting| (edit_distance(name, setting.name), setting.name));
    // A third of the name may differ: beyond that a suggestion is a guess.
    candidates.filter(|(distance, found)| distance * 3 <= found.len()).min().map(|(_, found)| found)
}

/// Levenshtein distance of two texts, in bytes.
fn edit_distance(left: &str, right: &str) -> usize {
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (left_position, left_byte) in left.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = left_position + 1;
        for (right_position, right_byte) in right.bytes().enumerate() {
            let replaced = diagonal + usize::from(left_byte != right_byte);
            diagonal = row[right_position + 1];
            row[right_position + 1] = replaced.min(diagonal + 1).min(row[right_position] + 1);
        }
    }
    row[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Vec<(&'static str, String)>, String> {
        let arguments: Vec<&str> = line.split_whitespace().collect();
        match Arguments::parse(&arguments) {
            Ok(parsed) => {
                Ok(parsed.iter().map(|(setting, value)| (setting.name, value.to_string())).collect())
            }
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn all_styles_mean_the_same() {
        let expected = vec![
            ("log-filename", "raftlog1.db".to_owned()),
            ("addr", "localhost:5001".to_owned()),
            ("id", "7".to_owned()),
            ("log-max-file-size", (64u64 << 20).to_string()),
            ("persist", "no".to_owned()),
        ];
        for line in [
            "raft-log-filename=raftlog1.db addr=localhost:5001 id=7 log-max-file-size=64mb persist=no",
            "LOG-FILENAME=raftlog1.db RAFT-ADDR=localhost:5001 raft.id=7 raft-log-max-file-size=64MB Persist=NO",
            "log-filename raftlog1.db raft-addr localhost:5001 id 7 log-max-file-size 64mb persist no",
            "--raft.log-filename raftlog1.db --raft.addr localhost:5001 --raft.id 7 \
             --RAFT.log-max-file-size=64mb --persist no",
        ] {
            assert_eq!(parse(line).unwrap(), expected, "{line}");
        }
        assert_eq!(parse("").unwrap(), vec![]);
    }

    #[test]
    fn a_value_may_hold_an_equals_sign_and_be_empty() {
        assert_eq!(parse("cluster-password=a=b").unwrap(), vec![("cluster-password", "a=b".to_owned())]);
        assert_eq!(parse("cluster-password a=b").unwrap(), vec![("cluster-password", "a=b".to_owned())]);
        assert_eq!(parse("addr=").unwrap(), vec![("addr", String::new())]);
    }

    #[test]
    fn errors_name_the_argument_and_what_is_allowed() {
        for (line, message) in [
            (
                "raft-log-filname=x",
                "unknown module argument 'raft-log-filname', did you mean 'log-filename'?",
            ),
            (
                "elections-timeout=1",
                "unknown module argument 'elections-timeout', did you mean 'election-timeout'?",
            ),
            (
                "id=x",
                "module argument id: 'x' is not allowed, it must be a number from 0 to 9223372036854775807",
            ),
            ("id=1 raft-id=1", "module argument id is given twice"),
            (
                "persist",
                "module argument persist has no value: write persist=value, where value is yes or no",
            ),
            (
                "append-req-max-size=1",
                "module argument append-req-max-size: '1' is not allowed, \
                 it must be a number of bytes from 1024 to 1073741824, units as in 64mb",
            ),
        ] {
            assert_eq!(parse(line).unwrap_err(), message);
        }
        assert!(parse("bogus=1")
            .unwrap_err()
            .starts_with("unknown module argument 'bogus': allowed are id, addr,"));
        assert!(parse("addr=localhost").unwrap_err().contains("must be host:port"));
    }

    #[test]
    fn hostile_arguments_give_one_short_line() {
        let long = "x".repeat(1 << 20);
        assert!(parse(&long).unwrap_err().len() < 1000);
        assert_eq!(
            Arguments::parse(&[&b"id=1"[..], b"\xff\xfe"]).unwrap_err(),
            OptionError::NotText { position: 2 }
        );
        let error = Arguments::parse(&["a\r\nb=1"]).unwrap_err().to_string();
        assert!(!error.contains('\n') && !error.contains('\r'), "{error}");
    }

    #[test]
    fn secrets_are_not_shown() {
        let parsed = Arguments::parse(&["cluster-password=hunter2", "id=3"]).unwrap();
        assert_eq!(format!("{parsed:?}"), r#"{"cluster-password": "(hidden)", "id": "3"}"#);
        assert!(!Arguments::parse(&["cluster-password=hun\0ter2"]).unwrap_err().to_string().contains("ter2"));
    }

    #[test]
    fn edit_distances() {
        assert_eq!(edit_distance("", "abc"), 3);
        assert_eq!(edit_distance("kitten", "sitting"), 3);
        assert_eq!(edit_distance("addr", "addr"), 0);
    }
}
