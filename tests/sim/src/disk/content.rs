//! The bytes of one file: as the process reads them, and as a loss of power would leave them.

use super::SECTOR_BYTES;
use crate::random::Random;

#[derive(Default)]
pub(super) struct Content {
    /// What the process reads.
    pub live: Vec<u8>,
    pub durable: Vec<u8>,
    /// Writes that were given to the disk and not synced.
    pending: Vec<(u64, Vec<u8>)>,
    pending_length: u64,
}

pub(super) fn write_into(bytes: &mut Vec<u8>, offset: u64, written: &[u8]) {
    let end = offset as usize + written.len();
    bytes.resize(bytes.len().max(end), 0);
    bytes[offset as usize..end].copy_from_slice(written);
}

pub(super) fn extend(bytes: &mut Vec<u8>, length: u64) {
    bytes.resize(bytes.len().max(length as usize), 0);
}

impl Content {
    pub fn write_live(&mut self, offset: u64, bytes: &[u8]) {
        write_into(&mut self.live, offset, bytes);
    }

    pub fn extend_live(&mut self, length: u64) {
        extend(&mut self.live, length);
    }

    pub fn write_pending(&mut self, offset: u64, bytes: Vec<u8>) {
        self.pending.push((offset, bytes));
    }

    /// The kernel first writes what it holds of this place.
    pub fn write_durable(&mut self, offset: u64, bytes: &[u8]) {
        let end = offset + bytes.len() as u64;
        let overlaps = |write: &(u64, Vec<u8>)| write.0 < end && offset < write.0 + write.1.len() as u64;
        let (flushed, kept): (Vec<_>, Vec<_>) = self.pending.drain(..).partition(overlaps);
        self.pending = kept;
        flushed.iter().for_each(|(offset, bytes)| write_into(&mut self.durable, *offset, bytes));
        write_into(&mut self.durable, offset, bytes);
    }

    /// The bytes land on another sector of the same file.
    pub fn write_elsewhere(&mut self, offset: u64, bytes: Vec<u8>, random: &mut Random) {
        let length = self.durable.len() as u64;
        if length >= bytes.len() as u64 + SECTOR_BYTES {
            let sectors = (length - bytes.len() as u64) / SECTOR_BYTES + 1;
            self.pending
                .push(((offset + random.below(sectors) * SECTOR_BYTES) % (sectors * SECTOR_BYTES), bytes));
        }
    }

    pub fn extend_pending(&mut self, length: u64) {
        self.pending_length = self.pending_length.max(length);
    }

    pub fn sync(&mut self) {
        extend(&mut self.durable, self.pending_length);
        for (offset, bytes) in self.pending.drain(..) {
            write_into(&mut self.durable, offset, &bytes);
        }
    }

    /// The process starts anew and finds all that it gave to the kernel.
    pub fn reread(&mut self) {
        self.live = self.written();
    }

    /// What the disk holds once the kernel has written all that it was given.
    pub fn written(&self) -> Vec<u8> {
        let mut bytes = self.durable.clone();
        extend(&mut bytes, self.pending_length);
        for (offset, written) in &self.pending {
            write_into(&mut bytes, *offset, written);
        }
        bytes
    }

    /// Of what was not synced, about `kept_of_four` of four sectors are there.
    pub fn lose_power(&mut self, kept_of_four: u64, random: &mut Random) {
        if random.below(4) < kept_of_four {
            extend(&mut self.durable, self.pending_length);
        }
        for (offset, bytes) in std::mem::take(&mut self.pending) {
            let mut start = 0;
            while start < bytes.len() {
                let at = offset + start as u64;
                let end = (start + (SECTOR_BYTES - at % SECTOR_BYTES) as usize).min(bytes.len());
                if random.below(4) < kept_of_four {
                    write_into(&mut self.durable, at, &bytes[start..end]);
                }
                start = end;
            }
        }
        self.pending_length = 0;
        self.reread();
    }

    /// Another file has taken the place of this one.
    pub fn replace(&mut self, bytes: Vec<u8>) {
        (self.pending, self.pending_length) = (Vec::new(), 0);
        (self.live, self.durable) = (bytes.clone(), bytes);
    }

    /// The stored bytes change under everybody's feet; `cached`: whoever reads through the page cache sees it only
    /// after a restart.
    pub fn damage(&mut self, cached: bool, change: impl Fn(&mut [u8])) {
        change(&mut self.durable);
        if !cached {
            change(&mut self.live);
        }
    }
}
