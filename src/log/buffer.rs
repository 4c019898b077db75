//! Memory that a disk can take directly: it begins at a block boundary, and what is written of it are whole blocks.

use super::segment::BLOCK_BYTES;
use crate::limits::LOG_WRITE_BUFFER_BYTES;

const _: () = assert!(LOG_WRITE_BUFFER_BYTES.is_multiple_of(BLOCK_BYTES));

/// The bytes of a segment from some block on that are to be written next.
pub struct Buffer {
    memory: Vec<u8>,
    /// Where the first aligned byte is.
    start: usize,
    length: usize,
}

impl Buffer {
    /// Empty, of `LOG_WRITE_BUFFER_BYTES`.
    pub fn new() -> Buffer {
        let memory = vec![0; LOG_WRITE_BUFFER_BYTES + BLOCK_BYTES];
        let start = memory.as_ptr().align_offset(BLOCK_BYTES);
        assert!(start < BLOCK_BYTES, "bytes can be aligned to a block");
        Buffer { memory, start, length: 0 }
    }

    pub fn len(&self) -> usize {
        self.length
    }

    /// Bytes that can be appended before some are written.
    pub fn room(&self) -> usize {
        LOG_WRITE_BUFFER_BYTES - self.length
    }

    pub fn clear(&mut self) {
        self.length = 0;
    }

    /// The next `length` bytes, with anything in them, to be filled in. Panics without room for them.
    pub fn append(&mut self, length: usize) -> &mut [u8] {
        assert!(length <= self.room(), "{length} bytes into a buffer with room for {}", self.room());
        let at = self.start + self.length;
        self.length += length;
        &mut self.memory[at..at + length]
    }

    /// Replaces what is there from `at` on, as far as it reaches.
    pub fn patch(&mut self, at: usize, bytes: &[u8]) {
        if at >= self.length {
            return;
        }
        let length = bytes.len().min(self.length - at);
        let at = self.start + at;
        self.memory[at..at + length].copy_from_slice(&bytes[..length]);
    }

    /// Everything, and zeros up to the next whole block.
    pub fn padded(&mut self) -> &[u8] {
        let (start, end) = (self.start, self.start + self.length);
        let padded_end = start + self.length.next_multiple_of(BLOCK_BYTES);
        self.memory[end..padded_end].fill(0);
        &self.memory[start..padded_end]
    }

    /// The blocks that are full.
    pub fn whole_blocks(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.length - self.length % BLOCK_BYTES]
    }

    /// Lets go of the full blocks, which are written; returns their length. The rest of the last block stays.
    pub fn keep_partial_block(&mut self) -> usize {
        let kept = self.length % BLOCK_BYTES;
        let whole = self.length - kept;
        let from = self.start + whole;
        self.memory.copy_within(from..from + kept, self.start);
        self.length = kept;
        whole
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_aligned_and_padded_and_the_rest_stays() {
        let mut buffer = Buffer::new();
        buffer.append(LOG_WRITE_BUFFER_BYTES).fill(7);
        assert_eq!((buffer.room(), buffer.keep_partial_block()), (0, LOG_WRITE_BUFFER_BYTES));
        buffer.append(BLOCK_BYTES).fill(1);
        buffer.append(3).copy_from_slice(&[2, 3, 4]);
        assert_eq!(buffer.whole_blocks(), [1; BLOCK_BYTES]);
        let padded = buffer.padded();
        assert_eq!(padded.as_ptr().align_offset(BLOCK_BYTES), 0);
        assert_eq!(
            (padded.len(), &padded[BLOCK_BYTES..BLOCK_BYTES + 4]),
            (2 * BLOCK_BYTES, &[2, 3, 4, 0][..])
        );
        assert!(padded[BLOCK_BYTES + 3..].iter().all(|byte| *byte == 0), "nothing of what was there before");
        assert_eq!(buffer.keep_partial_block(), BLOCK_BYTES);
        assert_eq!((buffer.len(), &buffer.padded()[..4]), (3, &[2, 3, 4, 0][..]));
        buffer.clear();
        assert!(buffer.padded().is_empty());
    }
}
