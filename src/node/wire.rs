//! Consensus messages as peer frames, and back.
//!
//! A frame is a kind, a fixed little-endian header, and for AppendEntries one payload that holds the entries'
//! bytes one after the other. Whatever arrives is untrusted until this file has read it to the end: a frame
//! that is short, long, or whose payload fails its checksum is an error, and the core never sees it.

use super::kinds::*;
use super::members::Members;
use crate::consensus::{Body, EntryKind, EntryMeta, Message, Position};
use crate::limits::{MAX_ENTRIES_PER_MESSAGE, MAX_ENTRY_BYTES};
use crate::log::{Entry, Kind};
use byteorder::{ByteOrder, LittleEndian};
use bytes::Bytes;
use std::sync::Arc;
use thiserror::Error;

/// Header bytes of one entry in an AppendEntries: term, kind, length, checksum.
const ENTRY_HEADER_BYTES: usize = 8 + 1 + 4 + 4;

#[derive(Debug, Error, PartialEq, Eq)]
pub enum WireError {
    #[error("peer frame of kind {kind}: unknown")]
    UnknownKind { kind: u8 },
    #[error("peer frame of kind {kind}: header of {length} bytes is too short or too long")]
    Length { kind: u8, length: usize },
    #[error("peer frame of kind {kind}: byte {value} where 0 or 1 is allowed")]
    NotABool { kind: u8, value: u8 },
    #[error("peer frame with {count} entries; at most {MAX_ENTRIES_PER_MESSAGE} are allowed")]
    TooManyEntries { count: usize },
    #[error("peer frame: entry {index} has unknown kind {kind}")]
    EntryKind { index: u64, kind: u8 },
    #[error("peer frame: entry {index} says {says} bytes, the frame holds {holds}")]
    EntryLength { index: u64, says: usize, holds: usize },
    #[error("peer frame: entry {index} fails its checksum (expected {expected:#010x}, found {found:#010x})")]
    EntryChecksum { index: u64, expected: u32, found: u32 },
    #[error("offer of a snapshot: {error}")]
    Offer { error: String },
    #[error(
        "part of a snapshot at byte {offset} fails its checksum (expected {expected:08x}, found {found:08x})"
    )]
    PartChecksum { offset: u64, expected: u32, found: u32 },
    #[error("peer frame: entry {index}: {error}")]
    Membership { index: u64, error: super::members::MembersError },
    #[error("peer frame: not the one entry {index} of term {term} that it names")]
    NotTheEntry { index: u64, term: u64 },
}

/// A message ready for a link: the payload's parts are sent one after the other.
pub struct Encoded {
    pub kind: u8,
    pub header: Vec<u8>,
    pub payloads: Vec<Bytes>,
}

/// `entries`: for an Append, its entries with payloads, in order; empty otherwise.
pub fn encode(message: &Message, entries: &[Entry]) -> Encoded {
    let mut header = Vec::with_capacity(48 + entries.len() * ENTRY_HEADER_BYTES);
    let mut put = |value: u64| header.extend_from_slice(&value.to_le_bytes());
    put(message.term);
    let kind = match &message.body {
        Body::PreVote { last } => {
            put(last.index);
            put(last.term);
            PRE_VOTE
        }
        Body::PreVoteReply { granted } => {
            header.push(u8::from(*granted));
            PRE_VOTE_REPLY
        }
        Body::Vote { last, transfer } => {
            put(last.index);
            put(last.term);
            header.push(u8::from(*transfer));
            VOTE
        }
        Body::VoteReply { granted } => {
            header.push(u8::from(*granted));
            VOTE_REPLY
        }
        Body::Append { prev, entries: metas, commit, round, lease_us } => {
            assert_eq!(metas.len(), entries.len(), "an Append leaves with the payloads of its entries");
            [prev.index, prev.term, *commit, *round].into_iter().for_each(&mut put);
            put_entries(&mut header, entries);
            // Only where there is one: a node that does not know leases refuses the frame, and promises nothing.
            if *lease_us > 0 {
                header.extend_from_slice(&lease_us.to_le_bytes());
            }
            APPEND
        }
        Body::Appended { matched, round } => {
            put(*matched);
            put(*round);
            APPENDED
        }
        Body::Refused { prev, conflict, last, round } => {
            [*prev, conflict.index, conflict.term, *last, *round].into_iter().for_each(&mut put);
            REFUSED
        }
        Body::TimeoutNow => TIMEOUT_NOW,
        Body::Forgot { nonce } => {
            put(*nonce);
            FORGOT
        }
        Body::Remember { nonce, through } => {
            put(*nonce);
            put(*through);
            REMEMBER
        }
    };
    Encoded { kind, header, payloads: entries.iter().map(|e| e.payload.clone()).collect() }
}

pub(super) fn put_entries(header: &mut Vec<u8>, entries: &[Entry]) {
    header.extend_from_slice(&(entries.len() as u32).to_le_bytes());
    for entry in entries {
        header.extend_from_slice(&entry.term.to_le_bytes());
        header.push(entry.kind as u8);
        header.extend_from_slice(&(entry.payload.len() as u32).to_le_bytes());
        header.extend_from_slice(&entry.payload_crc.to_le_bytes());
    }
}

/// Takes the header apart; every read is checked.
pub(super) struct Fields<'a> {
    kind: u8,
    whole: usize,
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    pub fn new(kind: u8, header: &'a [u8]) -> Fields<'a> {
        Fields { kind, whole: header.len(), rest: header }
    }

    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// Nothing may be left over.
    pub fn end(&self) -> Result<(), WireError> {
        match self.rest.is_empty() {
            true => Ok(()),
            false => Err(WireError::Length { kind: self.kind, length: self.whole }),
        }
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], WireError> {
        if self.rest.len() < count {
            return Err(WireError::Length { kind: self.kind, length: self.whole });
        }
        let (head, tail) = self.rest.split_at(count);
        self.rest = tail;
        Ok(head)
    }

    pub fn u64(&mut self) -> Result<u64, WireError> {
        Ok(LittleEndian::read_u64(self.take(8)?))
    }

    pub fn u32(&mut self) -> Result<u32, WireError> {
        Ok(LittleEndian::read_u32(self.take(4)?))
    }

    fn bool(&mut self) -> Result<bool, WireError> {
        match self.take(1)?[0] {
            0 => Ok(false),
            1 => Ok(true),
            value => Err(WireError::NotABool { kind: self.kind, value }),
        }
    }

    pub fn position(&mut self) -> Result<Position, WireError> {
        Ok(Position { index: self.u64()?, term: self.u64()? })
    }
}

/// A message and, for an Append, its entries with payloads (slices of `payload`), checked.
pub fn decode(kind: u8, header: &[u8], payload: &Bytes) -> Result<(Message, Vec<Entry>), WireError> {
    let mut fields = Fields::new(kind, header);
    let term = fields.u64()?;
    let mut entries = Vec::new();
    let body = match kind {
        PRE_VOTE => Body::PreVote { last: fields.position()? },
        PRE_VOTE_REPLY => Body::PreVoteReply { granted: fields.bool()? },
        VOTE => Body::Vote { last: fields.position()?, transfer: fields.bool()? },
        VOTE_REPLY => Body::VoteReply { granted: fields.bool()? },
        APPEND => {
            let prev = fields.position()?;
            let (commit, round) = (fields.u64()?, fields.u64()?);
            entries = decode_entries(&mut fields, prev.index, payload)?;
            let metas = entries.iter().map(meta).collect::<Result<_, _>>()?;
            let lease_us = if fields.is_empty() { 0 } else { fields.u64()? };
            Body::Append { prev, entries: metas, commit, round, lease_us }
        }
        APPENDED => Body::Appended { matched: fields.u64()?, round: fields.u64()? },
        REFUSED => Body::Refused {
            prev: fields.u64()?,
            conflict: fields.position()?,
            last: fields.u64()?,
            round: fields.u64()?,
        },
        TIMEOUT_NOW => Body::TimeoutNow,
        FORGOT => Body::Forgot { nonce: fields.u64()? },
        REMEMBER => Body::Remember { nonce: fields.u64()?, through: fields.u64()? },
        kind => return Err(WireError::UnknownKind { kind }),
    };
    fields.end()?;
    if kind != APPEND && !payload.is_empty() {
        return Err(WireError::Length { kind, length: header.len() + payload.len() });
    }
    Ok((Message { term, body }, entries))
}

/// The entries that `fields` describe and whose payloads are all of `payload`; the first comes after `prev_index`.
pub(super) fn decode_entries(
    fields: &mut Fields,
    prev_index: u64,
    payload: &Bytes,
) -> Result<Vec<Entry>, WireError> {
    let count = fields.u32()? as usize;
    if count > MAX_ENTRIES_PER_MESSAGE {
        return Err(WireError::TooManyEntries { count });
    }
    // Nothing is made room for that is not there.
    let mut entries = Vec::with_capacity(count.min(fields.rest.len() / ENTRY_HEADER_BYTES));
    let mut at = 0;
    for i in 0..count {
        let index = prev_index.saturating_add(1 + i as u64);
        let term = fields.u64()?;
        let kind = fields.take(1)?[0];
        let kind = kind_of(kind).ok_or(WireError::EntryKind { index, kind })?;
        let (length, payload_crc) = (fields.u32()? as usize, fields.u32()?);
        if length > MAX_ENTRY_BYTES || length > payload.len() - at {
            return Err(WireError::EntryLength { index, says: length, holds: payload.len() - at });
        }
        let bytes = payload.slice(at..at + length);
        at += length;
        let found = crc32fast::hash(&bytes);
        if found != payload_crc {
            return Err(WireError::EntryChecksum { index, expected: payload_crc, found });
        }
        entries.push(Entry { index, term, kind, payload: bytes, payload_crc });
    }
    match at == payload.len() {
        true => Ok(entries),
        false => Err(WireError::EntryLength { index: prev_index, says: at, holds: payload.len() }),
    }
}

fn kind_of(byte: u8) -> Option<Kind> {
    [Kind::Normal, Kind::NoOp, Kind::Membership].into_iter().find(|kind| *kind as u8 == byte)
}

/// What the core must know of an entry.
pub fn meta(entry: &Entry) -> Result<EntryMeta, WireError> {
    let kind = match entry.kind {
        Kind::Normal => EntryKind::Normal,
        Kind::NoOp => EntryKind::NoOp,
        Kind::Membership => {
            let members = Members::decode(&entry.payload)
                .map_err(|error| WireError::Membership { index: entry.index, error })?;
            EntryKind::Membership(Arc::new(members.membership()))
        }
    };
    Ok(EntryMeta { term: entry.term, kind, bytes: entry.payload.len() as u32 })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(index: u64, payload: &'static [u8]) -> Entry {
        let payload_crc = crc32fast::hash(payload);
        Entry { index, term: 3, kind: Kind::Normal, payload: Bytes::from_static(payload), payload_crc }
    }

    fn append() -> (Message, Vec<Entry>) {
        let entries = vec![entry(8, b"one"), entry(9, b""), entry(10, b"three")];
        let metas = entries.iter().map(|e| meta(e).unwrap()).collect();
        let prev = Position { index: 7, term: 2 };
        let body = Body::Append { prev, entries: metas, commit: 6, round: 11, lease_us: 0 };
        (Message { term: 4, body }, entries)
    }

    fn join(encoded: &Encoded) -> Bytes {
        Bytes::from(encoded.payloads.concat())
    }

    #[test]
    fn every_kind_of_message_comes_back_as_it_was() {
        let last = Position { index: 5, term: 2 };
        let bodies = [
            Body::PreVote { last },
            Body::PreVoteReply { granted: true },
            Body::Vote { last, transfer: true },
            Body::VoteReply { granted: false },
            Body::Appended { matched: 4, round: 9 },
            Body::Refused { prev: 9, conflict: last, last: 6, round: 3 },
            Body::TimeoutNow,
            Body::Forgot { nonce: u64::MAX },
            Body::Remember { nonce: 7, through: 12 },
        ];
        for body in bodies {
            let message = Message { term: 9, body };
            let encoded = encode(&message, &[]);
            let (decoded, entries) = decode(encoded.kind, &encoded.header, &Bytes::new()).unwrap();
            assert_eq!(decoded, message);
            assert!(entries.is_empty());
            let grown = decode(encoded.kind, &encoded.header, &Bytes::from_static(b"x"));
            assert!(matches!(grown, Err(WireError::Length { .. })), "only an append has a payload");
        }
    }

    #[test]
    fn an_append_carries_its_payloads() {
        let (message, entries) = append();
        let encoded = encode(&message, &entries);
        let (decoded, got) = decode(encoded.kind, &encoded.header, &join(&encoded)).unwrap();
        assert_eq!(decoded, message);
        assert_eq!(got.iter().map(|e| &e.payload[..]).collect::<Vec<_>>(), [&b"one"[..], b"", b"three"]);
    }

    #[test]
    fn a_lease_stands_at_the_end_of_an_append() {
        let (mut message, entries) = append();
        let without = encode(&message, &entries);
        let Body::Append { lease_us, .. } = &mut message.body else { panic!("{message:?}") };
        *lease_us = 1_000_000;
        let encoded = encode(&message, &entries);
        assert_eq!(encoded.header[..without.header.len()], without.header[..]);
        let (decoded, _) = decode(encoded.kind, &encoded.header, &join(&encoded)).unwrap();
        assert_eq!(decoded, message);
        let cut = &encoded.header[..encoded.header.len() - 1];
        assert!(decode(encoded.kind, cut, &join(&encoded)).is_err());
    }

    #[test]
    fn a_flipped_byte_anywhere_in_a_payload_is_refused() {
        let (message, entries) = append();
        let encoded = encode(&message, &entries);
        let good = join(&encoded);
        for i in 0..good.len() {
            let mut bad = good.to_vec();
            bad[i] ^= 1;
            let error = decode(encoded.kind, &encoded.header, &Bytes::from(bad)).unwrap_err();
            assert!(matches!(error, WireError::EntryChecksum { .. }), "{error}");
        }
    }

    #[test]
    fn a_cut_or_grown_frame_is_refused_and_never_panics() {
        let (message, entries) = append();
        let encoded = encode(&message, &entries);
        let payload = join(&encoded);
        for cut in 0..encoded.header.len() {
            assert!(decode(encoded.kind, &encoded.header[..cut], &payload).is_err());
        }
        for cut in 0..payload.len() {
            assert!(decode(encoded.kind, &encoded.header, &payload.slice(..cut)).is_err());
        }
        let grown = [&encoded.header[..], b"x"].concat();
        assert!(decode(encoded.kind, &grown, &payload).is_err());
        assert_eq!(decode(99, &encoded.header, &payload), Err(WireError::UnknownKind { kind: 99 }));
    }
}
