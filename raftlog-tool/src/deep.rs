//! `verify --deep`: what entries carry, beyond their checksums.

use std::path::PathBuf;

use redisraft::log::record::RecordType;
use redisraft::log::ReadRecord;
use redisraft::node::members::Members;
use serde::Serialize;

use crate::effects::Walk;

/// Findings that are kept; more are counted only.
const MAX_FINDINGS: usize = 100;

/// Something that is not as it must be.
#[derive(Serialize)]
pub struct Finding {
    pub file: String,
    pub offset: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub index: Option<u64>,
    pub expected: &'static str,
    pub found: String,
    pub advice: &'static str,
}

/// What was found so far.
#[derive(Default)]
pub struct Findings {
    pub kept: Vec<Finding>,
    pub count: u64,
}

const ADVICE_ENTRY: &str =
    "the record's checksum is right, so it was written like this: report it, and compare with another node by \
     `raftlog-tool diff`";
const ADVICE_INDEX: &str = "the next start makes it anew from the segment, as does `raftlog-tool repair \
                            --rebuild-index --apply`; check the disk";

impl Findings {
    fn add(&mut self, finding: Finding) {
        self.count += 1;
        if self.kept.len() < MAX_FINDINGS {
            self.kept.push(finding);
        }
    }

    /// Looks at what a record carries.
    pub fn record(&mut self, read: &ReadRecord) {
        let payload = read.record.payload;
        let wrong = match read.record.record_type {
            RecordType::Normal => effects(payload),
            RecordType::Membership => members(payload),
            RecordType::NoOp if !payload.is_empty() => {
                Some((0, "a no-op without a payload", format!("{} bytes", payload.len())))
            }
            _ => None,
        };
        if let Some((at, expected, found)) = wrong {
            let found = if at > 0 { format!("at byte {at} of the payload, {found}") } else { found };
            self.add(Finding {
                file: read.file.display().to_string(),
                offset: read.record.offset,
                index: Some(read.record.header.index),
                expected,
                found,
                advice: ADVICE_ENTRY,
            });
        }
    }

    /// Notes index files that do not name exactly the records of their segments.
    pub fn segments(&mut self, wrong: &[PathBuf]) {
        for file in wrong {
            self.add(Finding {
                file: file.display().to_string(),
                offset: 0,
                index: None,
                expected: "a frame for every record of its segment, which is complete",
                found: "missing or damaged frames".to_string(),
                advice: ADVICE_INDEX,
            });
        }
    }
}

/// What is wrong: offset in the payload, expected, found.
type Wrong = (usize, &'static str, String);

/// Whole commands, `MULTI` and `EXEC` in pairs, in the end database 0.
fn effects(payload: &[u8]) -> Option<Wrong> {
    let mut walk = Walk::new(payload);
    let mut transaction = None;
    let mut at = 0;
    while let Some(effect) = walk.step() {
        if effect.len() == 0 {
            return Some((at, "commands", "an array without elements".to_string()));
        } else if effect.is("MULTI") && transaction.replace(at).is_some() {
            return Some((at, "EXEC before the next MULTI", "another MULTI".to_string()));
        } else if effect.is("EXEC") && transaction.take().is_none() {
            return Some((at, "MULTI before EXEC", "EXEC alone".to_string()));
        } else if effect.is("SELECT") && (effect.len() != 2 || effect.number(1).is_none()) {
            return Some((at, "SELECT with a number", "another".to_string()));
        }
        at += effect.bytes.len();
    }
    if let Some(broken) = walk.broken() {
        return Some((broken.offset, "whole commands", broken.reason));
    }
    if let Some(at) = transaction {
        return Some((at, "MULTI and EXEC in one entry", "MULTI alone".to_string()));
    }
    if payload.is_empty() {
        return Some((0, "commands", "none".to_string()));
    }
    let database = walk.database();
    (database != 0).then(|| (at, "an entry that ends in database 0", format!("database {database}")))
}

fn members(payload: &[u8]) -> Option<Wrong> {
    match Members::decode(payload) {
        Err(error) => Some((0, "members of the cluster", error.to_string())),
        Ok(members) if !members.0.values().any(|member| member.voting) => {
            Some((0, "a voter among the members", "none".to_string()))
        }
        Ok(_) => None,
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

    #[test]
    fn entries_are_whole_transactions_that_end_in_database_0() {
        for good in [&["SET k v"][..], &["MULTI", "SELECT 3", "INCR a", "EXEC", "SELECT 0"]] {
            assert_eq!(effects(&payload(good)), None, "{good:?}");
        }
        for (bad, expected) in [
            (&["MULTI", "INCR a"][..], "MULTI and EXEC in one entry"),
            (&["EXEC"], "MULTI before EXEC"),
            (&["MULTI", "MULTI", "EXEC"], "EXEC before the next MULTI"),
            (&["SELECT 3", "SET k v"], "an entry that ends in database 0"),
            (&["SELECT x"], "SELECT with a number"),
            (&[], "commands"),
        ] {
            assert_eq!(effects(&payload(bad)).map(|wrong| wrong.1), Some(expected), "{bad:?}");
        }
        let cut = payload(&["SET k v", "SET k v"]);
        let (at, expected, found) = effects(&cut[..cut.len() - 1]).expect("wrong");
        assert_eq!((at, expected), (cut.len() / 2, "whole commands"), "{found}");
    }

    #[test]
    fn members_decode_and_one_votes() {
        let member = |role: &str| payload(&[&format!("MEMBER 5 {role} host:1 host:10001")]);
        assert_eq!(members(&member("voter")), None);
        assert!(members(&member("learner")).is_some() && members(&member("king")).is_some());
        assert!(members(b"").is_some());
    }
}
