//! Entries whose record on the disk is damaged although it was acknowledged: known by what they were, not by payload.

use std::fmt;
use std::path::PathBuf;

use super::record::Kind;

/// An entry that was durable once and cannot be read any more. Its identity is certain: the records around it, or
/// the index file, say what stood there; so whatever is put in its place can be checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hole {
    pub index: u64,
    pub term: u64,
    pub kind: Kind,
    pub payload_bytes: u32,
    /// The segment, and the offset of the record in it.
    pub file: PathBuf,
    pub offset: u64,
    pub expected: String,
    pub found: String,
}

impl fmt::Display for Hole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Hole { index, term, file, offset, expected, found, .. } = self;
        let file = file.display();
        write!(f, "{file} at offset {offset} (entry {index} of term {term}): damaged: expected {expected}, found {found}")
    }
}
