//! The two frames of healing: a node asks a peer for an entry that it lost, and the peer gives it or has not got it.
//!
//! They go past the consensus: index and term name an entry for ever, whoever leads. As for all frames, nothing is
//! believed before it was decoded to its end, and a payload not before its checksum was compared.

use super::kinds::{FETCH, FETCHED};
use super::wire::{decode_entries, put_entries, Encoded, Fields, WireError};
use crate::consensus::Position;
use crate::log::Entry;
use bytes::Bytes;

#[derive(Debug, PartialEq, Eq)]
pub enum Frame {
    /// Asks for the entry at this index, if it is of this term.
    Fetch(Position),
    /// The entry asked for; `None`: not there, or not readable there either.
    Fetched(Position, Option<Entry>),
}

/// Whether a frame of this kind is one of these.
pub fn is_kind(kind: u8) -> bool {
    matches!(kind, FETCH | FETCHED)
}

pub fn encode(frame: &Frame) -> Encoded {
    let (kind, wanted, entries) = match frame {
        Frame::Fetch(wanted) => (FETCH, wanted, None),
        Frame::Fetched(wanted, entry) => (FETCHED, wanted, Some(entry.as_slice())),
    };
    let mut header = Vec::with_capacity(48);
    header.extend_from_slice(&wanted.index.to_le_bytes());
    header.extend_from_slice(&wanted.term.to_le_bytes());
    if let Some(entries) = entries {
        put_entries(&mut header, entries);
    }
    let payloads = entries.unwrap_or_default().iter().map(|entry| entry.payload.clone()).collect();
    Encoded { kind, header, payloads }
}

/// # Errors
/// What is not whole, has something left over, fails its checksum, or is another entry than the one it says.
pub fn decode(kind: u8, header: &[u8], payload: &Bytes) -> Result<Frame, WireError> {
    let mut fields = Fields::new(kind, header);
    let wanted = fields.position()?;
    let frame = match kind {
        FETCH if payload.is_empty() => Frame::Fetch(wanted),
        FETCHED => {
            let mut entries = decode_entries(&mut fields, wanted.index.saturating_sub(1), payload)?;
            let entry = entries.pop();
            let is_wanted = |entry: &Entry| (entry.index, entry.term) == (wanted.index, wanted.term);
            if !entries.is_empty() || entry.as_ref().is_some_and(|entry| !is_wanted(entry)) {
                return Err(WireError::NotTheEntry { index: wanted.index, term: wanted.term });
            }
            Frame::Fetched(wanted, entry)
        }
        kind => return Err(WireError::UnknownKind { kind }),
    };
    fields.end()?;
    Ok(frame)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::Kind;

    const WANTED: Position = Position { index: 7, term: 3 };

    fn entry(index: u64, term: u64) -> Entry {
        Entry::new(index, term, Kind::Normal, Bytes::from_static(b"payload"))
    }

    fn pass(frame: &Frame) -> Result<Frame, WireError> {
        let encoded = encode(frame);
        decode(encoded.kind, &encoded.header, &Bytes::from(encoded.payloads.concat()))
    }

    #[test]
    fn frames_come_back_as_they_were() {
        for frame in
            [Frame::Fetch(WANTED), Frame::Fetched(WANTED, None), Frame::Fetched(WANTED, Some(entry(7, 3)))]
        {
            assert!(is_kind(encode(&frame).kind));
            assert_eq!(pass(&frame).as_ref(), Ok(&frame));
        }
    }

    #[test]
    fn an_answer_holds_the_entry_that_it_names() {
        let refused = Err(WireError::NotTheEntry { index: 7, term: 3 });
        assert_eq!(pass(&Frame::Fetched(WANTED, Some(entry(7, 2)))), refused);
        let nothing = Position { index: 0, term: 0 };
        assert!(pass(&Frame::Fetched(nothing, Some(entry(1, 0)))).is_err(), "there is no entry 0");
        let mut encoded = encode(&Frame::Fetched(WANTED, None));
        encoded.header.truncate(16);
        put_entries(&mut encoded.header, &[entry(7, 3), entry(8, 3)]);
        let payload = Bytes::from_static(b"payloadpayload");
        assert_eq!(decode(FETCHED, &encoded.header, &payload), refused, "two entries");
    }

    #[test]
    fn what_is_cut_grown_or_flipped_is_refused() {
        let encoded = encode(&Frame::Fetched(WANTED, Some(entry(7, 3))));
        let payload = Bytes::from(encoded.payloads.concat());
        for cut in 0..encoded.header.len() {
            assert!(decode(FETCHED, &encoded.header[..cut], &payload).is_err());
        }
        for cut in 0..payload.len() {
            assert!(decode(FETCHED, &encoded.header, &payload.slice(..cut)).is_err());
            let mut flipped = payload.to_vec();
            flipped[cut] ^= 4;
            assert!(decode(FETCHED, &encoded.header, &Bytes::from(flipped)).is_err());
        }
        let grown = [&encoded.header[..], b"x"].concat();
        assert!(decode(FETCHED, &grown, &payload).is_err());
        let asked = encode(&Frame::Fetch(WANTED));
        assert!(decode(FETCH, &asked.header, &payload).is_err(), "a question has no payload");
        assert!(decode(FETCH, &grown, &Bytes::new()).is_err());
        assert_eq!(decode(5, &encoded.header, &payload), Err(WireError::UnknownKind { kind: 5 }));
    }
}
