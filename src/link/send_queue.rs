//! Bytes on their way to one socket.

use bytes::{Buf, Bytes, BytesMut};
use std::collections::VecDeque;
use std::io::{self, IoSlice, Write};

/// Pieces below this size are copied together; longer ones are written from where they are.
const COPY_BELOW_BYTES: usize = 4096;
/// Pieces per `writev`.
const SLICES: usize = 64;

/// Invariant: `bytes` is the length of all `parts` and of `tail`, which comes after them.
#[derive(Default)]
pub(super) struct SendQueue {
    parts: VecDeque<Bytes>,
    tail: BytesMut,
    bytes: usize,
}

impl SendQueue {
    pub fn len(&self) -> usize {
        self.bytes
    }

    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Appends a copy.
    pub fn push_slice(&mut self, slice: &[u8]) {
        self.tail.extend_from_slice(slice);
        self.bytes += slice.len();
    }

    /// Appends without a copy when that pays.
    pub fn push(&mut self, bytes: Bytes) {
        if bytes.len() < COPY_BELOW_BYTES {
            return self.push_slice(&bytes);
        }
        self.seal_tail();
        self.bytes += bytes.len();
        self.parts.push_back(bytes);
    }

    /// Writes until the queue is empty, `budget` is used up (both `Ok(true)`), or the socket takes no more
    /// (`Ok(false)`).
    pub fn write_to(&mut self, stream: &mut impl Write, budget: usize) -> io::Result<bool> {
        self.seal_tail();
        let mut written = 0;
        while !self.parts.is_empty() && written < budget {
            let mut slices = [IoSlice::new(&[]); SLICES];
            let mut count = 0;
            for (slice, part) in slices.iter_mut().zip(&self.parts) {
                *slice = IoSlice::new(part);
                count += 1;
            }
            match stream.write_vectored(&slices[..count]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(length) => {
                    self.advance(length);
                    written += length;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => (),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    fn seal_tail(&mut self) {
        if !self.tail.is_empty() {
            self.parts.push_back(self.tail.split().freeze());
        }
    }

    fn advance(&mut self, mut length: usize) {
        assert!(length <= self.bytes, "more written than queued");
        self.bytes -= length;
        while let Some(front) = self.parts.front_mut() {
            if length < front.len() {
                front.advance(length);
                return;
            }
            length -= front.len();
            self.parts.pop_front();
        }
        assert!(length == 0 && self.bytes == 0, "queue length out of step");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes `step` bytes per call, `room` in all.
    struct Narrow {
        step: usize,
        room: usize,
        taken: Vec<u8>,
    }

    impl Write for Narrow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let length = bytes.len().min(self.step).min(self.room);
            if length == 0 {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            self.room -= length;
            self.taken.extend_from_slice(&bytes[..length]);
            Ok(length)
        }

        fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
            let mut written = 0;
            for slice in slices.iter().filter(|slice| !slice.is_empty()) {
                match self.write(&slice[..slice.len().min(self.step - written)]) {
                    Ok(length) => written += length,
                    Err(error) if written == 0 => return Err(error),
                    Err(_) => break,
                }
                if written == self.step {
                    break;
                }
            }
            Ok(written)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn order_is_kept_across_copied_and_shared_pieces_and_short_writes() {
        for step in [1, 7, 4096, 100_000] {
            let mut queue = SendQueue::default();
            let mut expected = Vec::new();
            for round in 0..100u8 {
                let piece = vec![round; if round % 3 == 0 { 5000 } else { 10 }];
                expected.extend_from_slice(&piece);
                queue.push(piece.into());
                queue.push_slice(&[round]);
                expected.push(round);
            }
            assert_eq!(queue.len(), expected.len());
            let mut narrow = Narrow { step, room: 1000, taken: Vec::new() };
            assert!(!queue.write_to(&mut narrow, usize::MAX).unwrap());
            assert_eq!(queue.len(), expected.len() - 1000);
            narrow.room = usize::MAX;
            assert!(queue.write_to(&mut narrow, 500).unwrap());
            assert!(!queue.is_empty(), "the budget ends the turn");
            assert!(queue.write_to(&mut narrow, usize::MAX).unwrap());
            assert!(queue.is_empty());
            assert!(narrow.taken == expected);
        }
    }
}
