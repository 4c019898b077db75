//! What a dump of the server says of itself: how it begins, and the checksum that it ends with.
//!
//! A snapshot's checksum is taken when the file is taken over. What went wrong before that - between the server's child
//! and this node - would be vouched for by it, given to the server, and sent to others. The server's own checksum (CRC-64
//! with Jones' polynomial, little-endian) covers that.

use super::error::SnapshotError;
use crc_fast::{CrcAlgorithm, Digest};
use std::path::Path;

/// How the servers' dumps begin.
const MAGICS: [&[u8]; 2] = [b"REDIS", b"VALKEY"];
const LONGEST_MAGIC: usize = 6;
/// The checksum at the end.
const TRAILER: usize = 8;
const SHORTEST: u64 = (LONGEST_MAGIC + TRAILER) as u64;

/// Looks at a dump, piece by piece.
pub(super) struct DumpCheck {
    head: Vec<u8>,
    /// The last bytes so far, which may be the checksum.
    held_back: Vec<u8>,
    crc: Digest,
    length: u64,
}

impl DumpCheck {
    pub fn new() -> DumpCheck {
        let crc = Digest::new(CrcAlgorithm::Crc64Redis);
        DumpCheck { head: Vec::new(), held_back: Vec::new(), crc, length: 0 }
    }

    pub fn update(&mut self, piece: &[u8]) {
        let missing = LONGEST_MAGIC - self.head.len();
        self.head.extend_from_slice(&piece[..missing.min(piece.len())]);
        self.length += piece.len() as u64;
        let (covered, rest) = piece.split_at(piece.len().saturating_sub(TRAILER));
        if rest.len() == TRAILER {
            self.crc.update(&self.held_back);
            self.crc.update(covered);
            self.held_back.clear();
            self.held_back.extend_from_slice(rest);
        } else {
            self.held_back.extend_from_slice(rest);
            let known = self.held_back.len().saturating_sub(TRAILER);
            self.crc.update(&self.held_back[..known]);
            self.held_back.drain(..known);
        }
    }

    /// All of it was seen. A server with `rdbchecksum no` writes eight zeros, which say nothing.
    ///
    /// Errors: it is no dump, or its checksum is another one.
    pub fn finish(self, path: &Path) -> Result<(), SnapshotError> {
        let damaged = |offset: u64, expected: String, found: String| {
            Err(SnapshotError::Dump { file: path.to_path_buf(), offset, expected, found })
        };
        if !MAGICS.iter().any(|magic| self.head.starts_with(magic)) {
            return damaged(0, "a dump of the server".into(), format!("{} other bytes", self.length));
        }
        if self.length < SHORTEST {
            return damaged(self.length, "a whole dump".into(), format!("{} bytes", self.length));
        }
        let trailer = self.held_back.try_into().expect("as many bytes as are held back of a longer file");
        let (expected, found) = (u64::from_le_bytes(trailer), self.crc.finalize());
        if expected == 0 {
            let name = path.display();
            log::warn!("{name} carries no checksum (rdbchecksum no): damage to it before now goes unnoticed");
            return Ok(());
        }
        match expected == found {
            true => Ok(()),
            false => damaged(
                self.length - TRAILER as u64,
                format!("checksum {expected:016x}"),
                format!("{found:016x}"),
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One key, as Redis 7.0.15 writes it.
    const SAVED: &[u8] =
        b"REDIS0010\xfa\x09redis-ver\x067.0.15\xfa\x0aredis-bits\xc0\x40\xfa\x05ctime\xc2\xd7\x5a\x0e\x6b\
        \xfa\x08used-mem\xc2\xc0\x54\x0e\x00\xfa\x08aof-base\xc0\x00\xfe\x00\xfb\x01\x00\x00\x01k\x01v\xff\
        \xe8\xb9\x56\x52\x92\x43\xaa\x2a";

    fn check(pieces: &[&[u8]]) -> Result<(), SnapshotError> {
        let mut check = DumpCheck::new();
        pieces.iter().for_each(|piece| check.update(piece));
        check.finish(Path::new("dump.rdb"))
    }

    #[test]
    fn a_servers_own_dump_is_whole_however_it_is_cut() {
        for piece_bytes in 1..=SAVED.len() {
            let pieces: Vec<&[u8]> = SAVED.chunks(piece_bytes).collect();
            assert!(check(&pieces).is_ok(), "in pieces of {piece_bytes}");
        }
    }

    #[test]
    fn every_flipped_bit_is_noticed_and_every_end_that_is_missing() {
        for bit in 0..SAVED.len() * 8 {
            let mut damaged = SAVED.to_vec();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(check(&[&damaged]).is_err(), "bit {bit}");
        }
        for end in 0..SAVED.len() {
            assert!(check(&[&SAVED[..end]]).is_err(), "{end} bytes");
        }
    }

    #[test]
    fn a_server_may_leave_the_checksum_out() {
        let unchecked = [&SAVED[..SAVED.len() - TRAILER], &[0; TRAILER]].concat();
        assert!(check(&[&unchecked]).is_ok());
    }
}
