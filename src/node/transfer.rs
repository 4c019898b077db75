//! The three frames that bring a snapshot to a peer. It asks; so it alone decides how much is under way, and after a
//! cut it goes on where it was.
//!
//! ```text
//!   leader  -- Offer: what it is -->            peer
//!           <-- Want id, offset -- (window) --
//!           -- Part id, offset, bytes -->
//! ```

use super::kinds::{OFFER, PART, WANT};
use super::wire::{Encoded, Fields, WireError};
use crate::snapshot::{About, Id};
use bytes::Bytes;
use std::path::Path;

#[derive(Debug, PartialEq, Eq)]
pub enum Frame {
    /// A snapshot that the receiver needs; repeated until it has it.
    Offer(Box<About>),
    /// The part from `offset` on, at most `bytes` long.
    Want {
        id: Id,
        offset: u64,
        bytes: u32,
    },
    Part {
        id: Id,
        offset: u64,
        bytes: Bytes,
    },
}

/// Whether a frame of this kind is one of these.
pub fn is_kind(kind: u8) -> bool {
    matches!(kind, OFFER | WANT | PART)
}

fn put_id(header: &mut Vec<u8>, id: Id, offset: u64) {
    for value in [id.index, id.term, id.bytes, u64::from(id.crc), offset] {
        header.extend_from_slice(&value.to_le_bytes());
    }
}

pub fn encode(frame: &Frame) -> Encoded {
    let mut header = Vec::with_capacity(48);
    let (kind, payloads) = match frame {
        Frame::Offer(about) => {
            header = about.encode();
            (OFFER, Vec::new())
        }
        Frame::Want { id, offset, bytes } => {
            put_id(&mut header, *id, *offset);
            header.extend_from_slice(&bytes.to_le_bytes());
            (WANT, Vec::new())
        }
        Frame::Part { id, offset, bytes } => {
            put_id(&mut header, *id, *offset);
            header.extend_from_slice(&crc32fast::hash(bytes).to_le_bytes());
            (PART, vec![bytes.clone()])
        }
    };
    Encoded { kind, header, payloads }
}

fn id_and_offset(fields: &mut Fields) -> Result<(Id, u64), WireError> {
    let (index, term, bytes) = (fields.u64()?, fields.u64()?, fields.u64()?);
    let crc = fields.u64()? as u32;
    Ok((Id { index, term, bytes, crc }, fields.u64()?))
}

/// # Errors
/// What is not whole, has something left over, or fails its checksum.
pub fn decode(kind: u8, header: &[u8], payload: &Bytes) -> Result<Frame, WireError> {
    let mut fields = Fields::new(kind, header);
    let frame = match kind {
        OFFER if payload.is_empty() => {
            let about = About::decode(header, Path::new("a peer's offer"));
            return about
                .map(|about| Frame::Offer(Box::new(about)))
                .map_err(|error| WireError::Offer { error: error.to_string() });
        }
        WANT if payload.is_empty() => {
            let (id, offset) = id_and_offset(&mut fields)?;
            Frame::Want { id, offset, bytes: fields.u32()? }
        }
        PART => {
            let (id, offset) = id_and_offset(&mut fields)?;
            let (expected, found) = (fields.u32()?, crc32fast::hash(payload));
            if expected != found {
                return Err(WireError::PartChecksum { offset, expected, found });
            }
            Frame::Part { id, offset, bytes: payload.clone() }
        }
        kind => return Err(WireError::UnknownKind { kind }),
    };
    fields.end()?;
    Ok(frame)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn about() -> About {
        About {
            id: Id { index: 9, term: 3, bytes: 100, crc: 7 },
            cluster_id: "c".repeat(32),
            members: Bytes::from_static(b"m"),
            used_ids: vec![4],
        }
    }

    fn frames() -> [Frame; 3] {
        let id = about().id;
        [
            Frame::Offer(Box::new(about())),
            Frame::Want { id, offset: 5, bytes: 64 },
            Frame::Part { id, offset: 5, bytes: Bytes::from_static(b"part") },
        ]
    }

    #[test]
    fn frames_come_back_as_they_were() {
        for frame in frames() {
            let encoded = encode(&frame);
            assert!(is_kind(encoded.kind));
            let decoded = decode(encoded.kind, &encoded.header, &Bytes::from(encoded.payloads.concat()));
            assert_eq!(decoded, Ok(frame));
        }
    }

    #[test]
    fn what_is_cut_grown_or_flipped_is_refused() {
        for frame in frames() {
            let encoded = encode(&frame);
            let payload = Bytes::from(encoded.payloads.concat());
            for cut in 0..encoded.header.len() {
                assert!(decode(encoded.kind, &encoded.header[..cut], &payload).is_err(), "{frame:?}");
            }
            assert!(decode(encoded.kind, &[&encoded.header[..], b"x"].concat(), &payload).is_err());
            let other = Bytes::from([&payload[..], b"x"].concat());
            assert!(decode(encoded.kind, &encoded.header, &other).is_err());
        }
    }
}
