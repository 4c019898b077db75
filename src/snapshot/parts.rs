//! Buffers for what is read of a snapshot.

use bytes::{Bytes, BytesMut};

/// Buffers that are kept: more than readers have under way at once.
const KEPT: usize = 16;

/// Gives out a buffer again when whoever used it is done: fresh memory of this size comes from the system, whose page
/// faults cost more than the read, and hold up those of a server that loads a dataset meanwhile.
#[derive(Default)]
pub(super) struct Parts {
    given_out: Vec<Bytes>,
}

impl Parts {
    /// A buffer of `length` bytes, of any content.
    pub fn take(&mut self, length: usize) -> BytesMut {
        let free = self.given_out.iter().position(|part| part.len() >= length && part.is_unique());
        let reused = free.and_then(|at| self.given_out.swap_remove(at).try_into_mut().ok());
        let mut buffer = reused.unwrap_or_else(|| BytesMut::zeroed(length));
        buffer.truncate(length);
        buffer
    }

    /// What was read, for its reader.
    pub fn give_out(&mut self, buffer: BytesMut) -> Bytes {
        let part = buffer.freeze();
        if self.given_out.len() >= KEPT {
            self.given_out.swap_remove(0);
        }
        self.given_out.push(part.clone());
        part
    }

    /// Nothing is read for now.
    pub fn forget(&mut self) {
        self.given_out = Vec::new();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_comes_back_when_nobody_has_it_any_more() {
        let mut parts = Parts::default();
        let first = filled(&mut parts, 1000, 1);
        let address = first.as_ptr();
        let second = filled(&mut parts, 1000, 2);
        assert_ne!(second.as_ptr(), address, "the first is in use");
        assert!(first.iter().all(|byte| *byte == 1), "and stays what it was");
        drop(first);
        assert_eq!(parts.take(900).as_ptr(), address);
        assert!(second.iter().all(|byte| *byte == 2));
    }

    fn filled(parts: &mut Parts, length: usize, content: u8) -> Bytes {
        let mut buffer = parts.take(length);
        assert_eq!(buffer.len(), length);
        buffer.fill(content);
        parts.give_out(buffer)
    }

    #[test]
    fn not_more_are_kept_than_are_of_use() {
        let mut parts = Parts::default();
        for _ in 0..100 {
            let buffer = parts.take(10);
            parts.give_out(buffer);
        }
        assert_eq!(parts.given_out.len(), 1);
        let held: Vec<Bytes> = (0..100).map(|_| BytesMut::zeroed(10)).map(|b| parts.give_out(b)).collect();
        assert_eq!((held.len(), parts.given_out.len()), (100, KEPT));
        parts.forget();
        assert!(parts.given_out.is_empty());
    }
}
