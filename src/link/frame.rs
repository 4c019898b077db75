//! Frames between peers, on the wire: `["RAFT", kind as decimal, header, payload]`.

use super::send_queue::SendQueue;
use crate::limits::MAX_FRAME_BYTES;
use crate::resp::{write_array_header, write_bulk, write_bulk_header, CRLF};
use bytes::Bytes;
use std::ops::Range;

const NAME: &[u8] = b"RAFT";
/// Upper bound of what the wire adds to header and payload.
const OVERHEAD_BYTES: usize = 64;

/// A received frame. `header` and `payload` share the receive buffer: short-lived, or to be copied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub kind: u8,
    pub header: Bytes,
    pub payload: Bytes,
}

/// A frame to send; its payload is all `payloads` together, which are not copied when they are long.
#[derive(Clone, Debug, Default)]
pub struct OutFrame {
    pub kind: u8,
    pub header: Vec<u8>,
    pub payloads: Vec<Bytes>,
}

impl OutFrame {
    /// Upper bound of the length on the wire, in bytes.
    pub(super) fn wire_bytes(&self) -> usize {
        self.payload_bytes().saturating_add(self.header.len()).saturating_add(OVERHEAD_BYTES)
    }

    /// Whether a receiver takes a frame of this length.
    pub(super) fn fits(&self) -> bool {
        self.wire_bytes() <= MAX_FRAME_BYTES
    }

    fn payload_bytes(&self) -> usize {
        self.payloads.iter().map(Bytes::len).fold(0, usize::saturating_add)
    }

    pub(super) fn queue(self, output: &mut SendQueue) {
        let mut start = Vec::with_capacity(self.header.len() + OVERHEAD_BYTES);
        write_array_header(&mut start, 4);
        write_bulk(&mut start, NAME);
        write_bulk(&mut start, self.kind.to_string().as_bytes());
        write_bulk(&mut start, &self.header);
        write_bulk_header(&mut start, self.payload_bytes());
        assert!(start.len() + CRLF.len() <= self.header.len() + OVERHEAD_BYTES, "frame overhead");
        output.push_slice(&start);
        for payload in self.payloads {
            output.push(payload);
        }
        output.push_slice(CRLF);
    }
}

/// The frame in `command` with arguments at `args`; `None` when it is not one.
pub(super) fn decode(command: Bytes, args: &[Range<usize>]) -> Option<Frame> {
    let [name, kind, header, payload] = args else { return None };
    if &command[name.clone()] != NAME {
        return None;
    }
    let kind = std::str::from_utf8(&command[kind.clone()]).ok()?.parse().ok()?;
    Some(Frame { kind, header: command.slice(header.clone()), payload: command.slice(payload.clone()) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp::{parse_command, Limits};

    fn written(frame: OutFrame) -> Vec<u8> {
        let bound = frame.wire_bytes();
        let mut queue = SendQueue::default();
        frame.queue(&mut queue);
        let mut wire = Vec::new();
        assert!(queue.write_to(&mut wire, usize::MAX).unwrap());
        assert!(wire.len() <= bound);
        wire
    }

    #[test]
    fn a_frame_comes_back_as_it_was() {
        for sizes in [vec![], vec![0], vec![10, 0, 5000], vec![100_000]] {
            let payloads: Vec<Bytes> = sizes.iter().map(|&size| vec![size as u8; size].into()).collect();
            let header = b"\r\n*1".to_vec();
            let wire = written(OutFrame { kind: 255, header: header.clone(), payloads: payloads.clone() });
            let mut args = Vec::new();
            let length = parse_command(&wire, &Limits::PEER, &mut args).unwrap();
            assert_eq!(length, Some(wire.len()));
            let frame = decode(wire.into(), &args).unwrap();
            assert_eq!(frame, Frame { kind: 255, header: header.into(), payload: payloads.concat().into() });
        }
    }

    #[test]
    fn other_commands_are_not_frames() {
        for command in [&["RAFT", "1", "h"][..], &["RAFT", "256", "h", "p"], &["PING", "1", "h", "p"]] {
            let mut wire = Vec::new();
            let slices: Vec<&[u8]> = command.iter().map(|word| word.as_bytes()).collect();
            crate::resp::encode_command(&mut wire, &slices);
            let mut args = Vec::new();
            parse_command(&wire, &Limits::PEER, &mut args).unwrap();
            assert_eq!(decode(wire.into(), &args), None);
        }
    }
}
