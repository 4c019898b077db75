//! What the capture link received and the caller has not consumed, with its replication offsets.

use bytes::{Buf, Bytes, BytesMut};

/// A buffer that grew beyond this is given back once it is empty.
const KEEP_BYTES: usize = 16 << 20;

/// A window of the local Redis' effect stream. Offsets are Redis' own, as in `PSYNC`.
#[derive(Debug)]
pub struct CaptureBuffer {
    bytes: BytesMut,
    /// Length at which the socket is not read any more.
    limit_bytes: usize,
    start_offset: i64,
    grew: bool,
}

impl CaptureBuffer {
    pub(super) fn new(limit_bytes: usize) -> CaptureBuffer {
        CaptureBuffer { bytes: BytesMut::new(), limit_bytes, start_offset: 0, grew: false }
    }

    pub fn as_slice(&self) -> &[u8] {
        &self.bytes
    }

    /// Offset of the first byte of `as_slice`.
    pub fn start_offset(&self) -> i64 {
        self.start_offset
    }

    /// Offset of the next byte to be received.
    pub fn end_offset(&self) -> i64 {
        self.start_offset + self.bytes.len() as i64
    }

    /// Drops the first `length` bytes. Panics when there are fewer.
    pub fn consume(&mut self, length: usize) {
        drop(self.take(length));
    }

    /// Takes the first `length` bytes out, without a copy. Panics when there are fewer.
    pub fn take(&mut self, length: usize) -> Bytes {
        assert!(length <= self.bytes.len(), "consumed {length} of {} captured bytes", self.bytes.len());
        self.start_offset += length as i64;
        let taken = self.bytes.split_to(length).freeze();
        if self.bytes.is_empty() && self.grew {
            self.grew = false;
            self.bytes = BytesMut::new();
        }
        taken
    }

    pub(super) fn is_full(&self) -> bool {
        self.bytes.len() >= self.limit_bytes
    }

    /// Prepares for bytes from `offset` on: what is here is kept when it ends exactly there.
    pub(super) fn go_on_at(&mut self, offset: i64) {
        if self.end_offset() != offset {
            self.bytes.clear();
            self.start_offset = offset;
        }
    }

    pub(super) fn clear(&mut self) {
        *self = CaptureBuffer::new(self.limit_bytes);
    }

    /// Appends what `fill` adds; returns what it returns.
    pub(super) fn append_with<T>(&mut self, fill: impl FnOnce(&mut BytesMut) -> T) -> T {
        let outcome = fill(&mut self.bytes);
        self.grew |= self.bytes.len() > KEEP_BYTES;
        outcome
    }

    /// Appends the handshake's surplus.
    pub(super) fn append(&mut self, surplus: &mut BytesMut) {
        self.bytes.extend_from_slice(surplus);
        surplus.advance(surplus.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_follow_what_is_received_and_consumed() {
        let mut buffer = CaptureBuffer::new(1 << 20);
        buffer.go_on_at(101);
        buffer.append(&mut BytesMut::from(&b"hello world"[..]));
        assert_eq!((buffer.start_offset(), buffer.end_offset()), (101, 112));
        buffer.consume(6);
        assert_eq!((buffer.as_slice(), buffer.start_offset()), (&b"world"[..], 107));
        buffer.go_on_at(112);
        assert_eq!(buffer.as_slice(), b"world", "the rest of a cut stream is kept");
        assert_eq!(&buffer.take(2)[..], b"wo");
        buffer.go_on_at(109);
        assert_eq!(
            (buffer.as_slice(), buffer.start_offset()),
            (&b""[..], 109),
            "what comes again is dropped"
        );
    }
}
