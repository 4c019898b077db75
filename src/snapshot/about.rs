//! The sidecar: what a snapshot is. The same bytes go to a peer before the RDB does.

use super::error::SnapshotError;
use crate::limits::{CLUSTER_ID_BYTES, MAX_SNAPSHOT_MEMBERS_BYTES, MAX_USED_IDS};
use byteorder::{ByteOrder, LittleEndian};
use bytes::Bytes;
use std::path::Path;

const MAGIC: &[u8; 8] = b"RRAFTSNP";
const VERSION: u32 = 1;
/// Everything before the members.
const HEADER_BYTES: usize = 96;
/// Longest sidecar.
pub const ABOUT_MAX_BYTES: usize = HEADER_BYTES + MAX_SNAPSHOT_MEMBERS_BYTES + 8 * MAX_USED_IDS;

/// Tells two snapshots apart, also two of the same position made by different nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Id {
    pub index: u64,
    pub term: u64,
    /// Length of the RDB, in bytes.
    pub bytes: u64,
    /// Of the RDB.
    pub crc: u32,
}

/// What a snapshot is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct About {
    pub id: Id,
    /// 32 ASCII characters.
    pub cluster_id: String,
    /// The membership in force at `id.index`, as a membership entry holds it.
    pub members: Bytes,
    /// Every node id that was ever given out: an id is used once.
    pub used_ids: Vec<u64>,
}

impl About {
    /// magic 0..8 | version 8 | crc 12 | cluster id 16..48 | index 48 | term 56 | length of the RDB 64 | crc of the
    /// RDB 72 | length of the members 76 | number of used ids 80 | zeros 84..96 | members | used ids, 8 bytes each;
    /// `crc` covers everything but itself.
    pub fn encode(&self) -> Vec<u8> {
        assert!(self.cluster_id.len() == CLUSTER_ID_BYTES, "a cluster id has {CLUSTER_ID_BYTES} characters");
        let mut bytes = vec![0; HEADER_BYTES];
        bytes[0..8].copy_from_slice(MAGIC);
        LittleEndian::write_u32(&mut bytes[8..], VERSION);
        bytes[16..48].copy_from_slice(self.cluster_id.as_bytes());
        LittleEndian::write_u64(&mut bytes[48..], self.id.index);
        LittleEndian::write_u64(&mut bytes[56..], self.id.term);
        LittleEndian::write_u64(&mut bytes[64..], self.id.bytes);
        LittleEndian::write_u32(&mut bytes[72..], self.id.crc);
        LittleEndian::write_u32(&mut bytes[76..], self.members.len() as u32);
        LittleEndian::write_u32(&mut bytes[80..], self.used_ids.len() as u32);
        bytes.extend_from_slice(&self.members);
        self.used_ids.iter().for_each(|id| bytes.extend_from_slice(&id.to_le_bytes()));
        let crc = crc_of(&bytes);
        LittleEndian::write_u32(&mut bytes[12..], crc);
        bytes
    }

    /// Reads what `encode` wrote; the bytes come from the disk or from a peer. `file`: what errors name.
    ///
    /// Errors: damage, a newer version.
    pub fn decode(bytes: &[u8], file: &Path) -> Result<About, SnapshotError> {
        let damaged = |offset: usize, expected: &str, found: String| {
            SnapshotError::damaged(file, offset as u64, expected, found)
        };
        if bytes.len() < HEADER_BYTES || bytes.len() > ABOUT_MAX_BYTES {
            return Err(damaged(0, "a sidecar", format!("{} bytes", bytes.len())));
        }
        if &bytes[0..8] != MAGIC {
            return Err(damaged(0, "RRAFTSNP", String::from_utf8_lossy(&bytes[0..8]).into_owned()));
        }
        let (found, expected) = (LittleEndian::read_u32(&bytes[12..]), crc_of(bytes));
        if found != expected {
            return Err(damaged(12, &format!("crc {expected:08x}"), format!("{found:08x}")));
        }
        let version = LittleEndian::read_u32(&bytes[8..]);
        if version != VERSION {
            return Err(SnapshotError::NewerFormat { file: file.into(), found: version, known: VERSION });
        }
        let members = LittleEndian::read_u32(&bytes[76..]) as usize;
        let ids = LittleEndian::read_u32(&bytes[80..]) as usize;
        let length = HEADER_BYTES.saturating_add(members).saturating_add(ids.saturating_mul(8));
        if length != bytes.len() {
            return Err(damaged(76, &format!("{length} bytes"), format!("{} bytes", bytes.len())));
        }
        let cluster_id =
            std::str::from_utf8(&bytes[16..48]).ok().filter(|id| id.bytes().all(|b| b.is_ascii_graphic()));
        let cluster_id = cluster_id.ok_or_else(|| {
            damaged(
                16,
                &format!("{CLUSTER_ID_BYTES} ASCII characters"),
                bytes[16..48].escape_ascii().to_string(),
            )
        })?;
        let (members, ids) = bytes[HEADER_BYTES..].split_at(members);
        let id = Id {
            index: LittleEndian::read_u64(&bytes[48..]),
            term: LittleEndian::read_u64(&bytes[56..]),
            bytes: LittleEndian::read_u64(&bytes[64..]),
            crc: LittleEndian::read_u32(&bytes[72..]),
        };
        if id.index == 0 || id.term == 0 {
            return Err(damaged(48, "an index and a term above 0", format!("{} and {}", id.index, id.term)));
        }
        Ok(About {
            id,
            cluster_id: cluster_id.to_string(),
            members: Bytes::copy_from_slice(members),
            used_ids: ids.chunks_exact(8).map(LittleEndian::read_u64).collect(),
        })
    }

    /// Name of the RDB.
    pub fn file_name(&self) -> String {
        rdb_name(self.id.index, self.id.term)
    }
}

fn crc_of(bytes: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&bytes[..12]);
    crc.update(&bytes[16..]);
    crc.finalize()
}

pub(super) fn rdb_name(index: u64, term: u64) -> String {
    format!("snapshot-{index}-{term}.rdb")
}

pub(super) fn about_name(index: u64, term: u64) -> String {
    format!("snapshot-{index}-{term}.about")
}

/// What a file of the log's directory has to do with snapshots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Name {
    Rdb {
        index: u64,
        term: u64,
    },
    About {
        index: u64,
        term: u64,
    },
    /// Half-made.
    Temporary,
    Other,
}

pub(super) fn parse_name(name: &str) -> Name {
    let Some(rest) = name.strip_prefix("snapshot-") else { return Name::Other };
    if rest.ends_with(".tmp") {
        return Name::Temporary;
    }
    let position = |stem: &str| {
        let (index, term) = stem.split_once('-')?;
        Some((index.parse().ok()?, term.parse().ok()?))
    };
    // Only the one way of writing a number: what is found is looked up under this name again.
    let found = if let Some((index, term)) = rest.strip_suffix(".rdb").and_then(position) {
        (Name::Rdb { index, term }, rdb_name(index, term))
    } else if let Some((index, term)) = rest.strip_suffix(".about").and_then(position) {
        (Name::About { index, term }, about_name(index, term))
    } else {
        return Name::Other;
    };
    if found.1 == name {
        found.0
    } else {
        Name::Other
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn about() -> About {
        About {
            id: Id { index: 12, term: 3, bytes: 4000, crc: 77 },
            cluster_id: "c".repeat(32),
            members: Bytes::from_static(b"members"),
            used_ids: vec![1, 9, u64::MAX],
        }
    }

    #[test]
    fn what_is_encoded_is_decoded() {
        assert_eq!(About::decode(&about().encode(), Path::new("x")).unwrap(), about());
        let bare = About { members: Bytes::new(), used_ids: Vec::new(), ..about() };
        assert_eq!(About::decode(&bare.encode(), Path::new("x")).unwrap(), bare);
    }

    #[test]
    fn every_flipped_byte_and_every_cut_is_found() {
        let good = about().encode();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x40;
            assert!(About::decode(&bad, Path::new("x")).is_err(), "byte {at}");
            assert!(About::decode(&good[..at], Path::new("x")).is_err(), "cut at {at}");
        }
        assert!(About::decode(&[&good[..], &[0]].concat(), Path::new("x")).is_err());
    }

    /// `bytes` with the byte at `at` changed and the checksum made right.
    fn resealed(mut bytes: Vec<u8>, at: usize, value: u8) -> Vec<u8> {
        bytes[at] = value;
        let crc = crc_of(&bytes);
        LittleEndian::write_u32(&mut bytes[12..], crc);
        bytes
    }

    #[test]
    fn a_cluster_id_that_no_cluster_has_is_refused() {
        for value in [0xff, b' ', 0] {
            let error = About::decode(&resealed(about().encode(), 20, value), Path::new("x")).unwrap_err();
            assert!(matches!(error, SnapshotError::Damaged { offset: 16, .. }), "{error}");
        }
    }

    #[test]
    fn a_newer_version_is_named() {
        let newer = resealed(about().encode(), 8, 2);
        let error = About::decode(&newer, Path::new("x")).unwrap_err();
        assert!(matches!(error, SnapshotError::NewerFormat { found: 2, .. }), "{error}");
    }

    #[test]
    fn names_are_those_that_are_given_and_no_others() {
        assert_eq!(parse_name("snapshot-12-3.rdb"), Name::Rdb { index: 12, term: 3 });
        assert_eq!(parse_name("snapshot-12-3.about"), Name::About { index: 12, term: 3 });
        assert_eq!(parse_name("snapshot-12-3.rdb.tmp"), Name::Temporary);
        for other in ["snapshot-012-3.rdb", "snapshot-+1-3.rdb", "snapshot-1.rdb", "META", "dump.rdb"] {
            assert_eq!(parse_name(other), Name::Other, "{other}");
        }
    }
}
