//! Takes the input of a target apart. Where bytes are missing there are zeros, so that every input is one.

/// The rest of an input.
#[derive(Clone, Copy)]
pub struct Input<'a>(pub &'a [u8]);

impl<'a> Input<'a> {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next `length` bytes, or all that are left.
    pub fn bytes(&mut self, length: usize) -> &'a [u8] {
        let (head, tail) = self.0.split_at(length.min(self.0.len()));
        self.0 = tail;
        head
    }

    fn array<const LENGTH: usize>(&mut self) -> [u8; LENGTH] {
        let mut array = [0; LENGTH];
        let bytes = self.bytes(LENGTH);
        array[..bytes.len()].copy_from_slice(bytes);
        array
    }

    pub fn u8(&mut self) -> u8 {
        self.array::<1>()[0]
    }

    pub fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.array())
    }

    pub fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.array())
    }

    pub fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.array())
    }

    /// All that is left.
    pub fn rest(self) -> &'a [u8] {
        self.0
    }
}

/// Gives `bytes` in pieces of `step` bytes; 0 counts as 1.
pub fn pieces(bytes: &[u8], step: u8) -> impl Iterator<Item = &[u8]> {
    bytes.chunks(usize::from(step.max(1)))
}

/// Changes single bytes of `bytes`: each edit is a place, which is taken modulo the length, and what is XORed there.
/// XOR keeps the fuzzer from forging checksums: what it would have to write never stands in its input.
pub fn flip(bytes: &mut [u8], edits: &mut Input, count: u8) -> bool {
    let before = bytes.to_vec();
    for _ in 0..count {
        let (at, mask) = (usize::from(edits.u16()), edits.u8());
        if !bytes.is_empty() {
            bytes[at % before.len()] ^= mask;
        }
    }
    before != bytes
}
