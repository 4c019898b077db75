//! Which entries and commands are meant.

use std::ops::RangeInclusive;

use clap::{Args, ValueEnum};
use redisraft::log::record::RecordType;

use crate::effects::{Effect, Walk};
use crate::glob::Glob;
use crate::source::{Item, Outline};

/// Options that choose entries.
#[derive(Args, Clone, Debug, Default)]
pub struct Selection {
    /// From this index on
    #[arg(long, value_name = "INDEX", help_heading = "Which entries")]
    pub from: Option<u64>,
    /// Up to this index, included
    #[arg(long, value_name = "INDEX", help_heading = "Which entries")]
    pub to: Option<u64>,
    /// Only entries of this term
    #[arg(long, value_name = "TERM", help_heading = "Which entries")]
    pub term: Option<u64>,
    /// Only entries of these types
    #[arg(long = "type", value_name = "TYPE", value_delimiter = ',', help_heading = "Which entries")]
    pub types: Vec<TypeName>,
    /// Only commands that work in this database
    #[arg(long, value_name = "NUMBER", help_heading = "Which entries")]
    pub db: Option<u64>,
}

/// What a record is, by the name that the tool prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum TypeName {
    /// Effects of commands
    Normal,
    /// First entry of a term
    NoOp,
    /// The members of the cluster
    Membership,
    /// Drops an entry and all after it (with --headers)
    Truncate,
    /// Says which META was durable (with --headers)
    Mark,
    /// Ends a segment (with --headers)
    Seal,
    /// Repeats a membership (with --headers)
    Copy,
}

impl TypeName {
    pub fn of(record_type: RecordType) -> TypeName {
        match record_type {
            RecordType::Normal => TypeName::Normal,
            RecordType::NoOp => TypeName::NoOp,
            RecordType::Membership => TypeName::Membership,
            RecordType::Truncate => TypeName::Truncate,
            RecordType::Mark => TypeName::Mark,
            RecordType::Seal => TypeName::Seal,
            RecordType::Copy => TypeName::Copy,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            TypeName::Normal => "normal",
            TypeName::NoOp => "no-op",
            TypeName::Membership => "membership",
            TypeName::Truncate => "truncate",
            TypeName::Mark => "mark",
            TypeName::Seal => "seal",
            TypeName::Copy => "copy",
        }
    }
}

/// The choice, made ready to be asked.
pub struct Filter {
    indexes: RangeInclusive<u64>,
    term: Option<u64>,
    types: Vec<TypeName>,
    db: Option<u64>,
    key: Option<Glob>,
    /// Records that are no entries, and entries that were truncated or purged.
    all_records: bool,
}

impl Filter {
    pub fn new(selection: &Selection, key: Option<&str>, all_records: bool) -> Filter {
        Filter {
            indexes: selection.from.unwrap_or(0)..=selection.to.unwrap_or(u64::MAX),
            term: selection.term,
            types: selection.types.clone(),
            db: selection.db,
            key: key.map(|pattern| Glob::new(&unescape(pattern))),
            all_records,
        }
    }

    /// Only the last `count` entries of the log.
    pub fn only_last(&mut self, count: u64, outline: &Outline) {
        let from = outline.last_index.saturating_add(1).saturating_sub(count);
        self.indexes = from.max(*self.indexes.start())..=*self.indexes.end();
    }

    /// Whether it chooses by anything else than the index.
    pub fn looks_inside(&self) -> bool {
        self.term.is_some() || !self.types.is_empty() || self.by_command()
    }

    /// Whether it chooses single commands.
    pub fn by_command(&self) -> bool {
        self.key.is_some() || self.db.is_some()
    }

    pub fn takes(&self, item: &Item) -> bool {
        let record = &item.read.record;
        self.takes_record(item)
            && (!self.by_command()
                || record.record_type == RecordType::Normal && self.takes_one_of(record.payload))
    }

    /// Whether a record is chosen, its commands apart.
    pub fn takes_record(&self, item: &Item) -> bool {
        let record = &item.read.record;
        (self.all_records || item.is_live())
            && self.indexes.contains(&record.header.index)
            && self.term.is_none_or(|term| record.header.term == term)
            && (self.types.is_empty() || self.types.contains(&TypeName::of(record.record_type)))
    }

    /// Whether a command concerns all keys of a database that is chosen.
    pub fn concerns(&self, effect: &Effect) -> bool {
        let everywhere = effect.is("FLUSHALL") || effect.is("SWAPDB");
        effect.concerns_all_keys() && (everywhere || self.db.is_none_or(|db| effect.database == db))
    }

    fn takes_one_of(&self, payload: &[u8]) -> bool {
        let mut walk = Walk::new(payload);
        while let Some(effect) = walk.step() {
            if self.takes_command(&effect) {
                return true;
            }
        }
        false
    }

    /// Whether a command is chosen. What belongs to no key is left out where keys are chosen; `SELECT`, `MULTI` and
    /// `EXEC` where databases are.
    pub fn takes_command(&self, effect: &Effect) -> bool {
        if !self.by_command() {
            return true;
        }
        let frames = ["SELECT", "MULTI", "EXEC"].iter().any(|name| effect.is(name));
        self.db.is_none_or(|db| effect.database == db && !frames)
            && self.key.as_ref().is_none_or(|key| effect.keys().any(|own| key.matches(own)))
    }
}

/// `\xff` in a pattern given on the command line is that byte; every other escape is the pattern's own.
pub fn unescape(pattern: &str) -> Vec<u8> {
    let bytes = pattern.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = (bytes[at..].starts_with(b"\\x"))
            .then(|| bytes.get(at + 2..at + 4))
            .flatten()
            .and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok());
        match hex {
            // Escaped again, so that the byte stands for itself and is no `*`.
            Some(byte) => {
                out.extend([b'\\', byte]);
                at += 4;
            }
            None if bytes[at] == b'\\' && at + 1 < bytes.len() => {
                out.extend_from_slice(&bytes[at..at + 2]);
                at += 2;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_can_be_named_in_hex() {
        assert_eq!(unescape(r"a\xffb*"), b"a\\\xffb*");
        assert_eq!(unescape(r"\\x41\xg1\"), br"\\x41\xg1\");
        assert!(Glob::new(&unescape(r"\x2a")).matches(b"*"));
        assert!(!Glob::new(&unescape(r"\x2a")).matches(b"a"));
    }
}
