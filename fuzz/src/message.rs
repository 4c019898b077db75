//! What peers send each other: the frame on the wire, and in it one of five families of messages.

use crate::input::Input;
use crate::memory::within;
use crate::Seeds;
use bytes::Bytes;
use redisraft::consensus::{Body, Message, Position};
use redisraft::link::fuzz::{received, sent};
use redisraft::link::{Frame, OutFrame};
use redisraft::log::{Entry, Kind};
use redisraft::node::wire::{Encoded, WireError};
use redisraft::node::{fetch, follower_reads, notices, transfer, wire};
use redisraft::resp::{parse_command, Limits};
use redisraft::snapshot::{About, Id};

/// Checksums that are made right at most, as the fuzzer cannot.
const REPAIRS: usize = 8;

/// Kind, where the payload is split, length of the header; header; payload.
pub fn check(data: &[u8]) {
    let mut input = Input(data);
    let (kind, split, header_bytes) = (input.u8(), usize::from(input.u8()), usize::from(input.u16()));
    let mut header = input.bytes(header_bytes).to_vec();
    let payload = Bytes::copy_from_slice(input.rest());
    travels(kind, split, &header, &payload);
    let families = [
        fetch::is_kind(kind),
        transfer::is_kind(kind),
        notices::is_kind(kind),
        follower_reads::is_kind(kind),
    ];
    assert!(families.iter().filter(|is| **is).count() <= 1, "kind {kind} is of two families");
    let limit_bytes = (16 << 10) + 16 * data.len();
    for _ in 0..REPAIRS {
        match within(limit_bytes, || decode(kind, &header, &payload)) {
            Err(error) => {
                let text = error.to_string();
                assert!(text.len() < 400, "{text}");
                let repaired = match error {
                    WireError::EntryChecksum { expected, found, .. }
                    | WireError::PartChecksum { expected, found, .. } => repair(&mut header, expected, found),
                    _ => false,
                };
                if !repaired {
                    return;
                }
            }
            Ok(decoded) => return comes_back(kind, &decoded, payload.len()),
        }
    }
}

/// One of the five families.
#[derive(Debug, PartialEq)]
enum Decoded {
    Fetch(fetch::Frame),
    Transfer(transfer::Frame),
    Notice(notices::Notice),
    Read(follower_reads::Frame),
    Message(Message, Vec<Entry>),
}

fn decode(kind: u8, header: &[u8], payload: &Bytes) -> Result<Decoded, WireError> {
    Ok(if fetch::is_kind(kind) {
        Decoded::Fetch(fetch::decode(kind, header, payload)?)
    } else if transfer::is_kind(kind) {
        Decoded::Transfer(transfer::decode(kind, header, payload)?)
    } else if follower_reads::is_kind(kind) {
        Decoded::Read(follower_reads::decode(kind, header, payload)?)
    } else if notices::is_kind(kind) {
        Decoded::Notice(notices::decode(kind, header, payload)?)
    } else {
        let (message, entries) = wire::decode(kind, header, payload)?;
        Decoded::Message(message, entries)
    })
}

fn comes_back(kind: u8, decoded: &Decoded, payload_bytes: usize) {
    let again = match decoded {
        Decoded::Fetch(frame) => fetch::encode(frame),
        Decoded::Transfer(frame) => transfer::encode(frame),
        Decoded::Read(frame) => follower_reads::encode(frame),
        Decoded::Notice(notice) => notices::encode(notice),
        Decoded::Message(message, entries) => {
            assert!(entries.iter().all(Entry::is_intact));
            let metas = if let Body::Append { entries, .. } = &message.body { &entries[..] } else { &[] };
            assert_eq!(metas.len(), entries.len());
            assert!(metas
                .iter()
                .zip(entries)
                .all(|(meta, entry)| meta.bytes as usize == entry.payload.len()));
            wire::encode(message, entries)
        }
    };
    let payload = Bytes::from(again.payloads.concat());
    assert_eq!((again.kind, payload.len()), (kind, payload_bytes));
    assert_eq!(decode(kind, &again.header, &payload).as_ref(), Ok(decoded), "what is encoded comes back");
}

/// Puts the checksum that was found in the place of the one that was expected.
fn repair(header: &mut [u8], expected: u32, found: u32) -> bool {
    let Some(at) = header.windows(4).position(|bytes| bytes == expected.to_le_bytes()) else { return false };
    header[at..at + 4].copy_from_slice(&found.to_le_bytes());
    true
}

/// A frame arrives as it was sent.
fn travels(kind: u8, split: usize, header: &[u8], payload: &Bytes) {
    let split = split.min(payload.len());
    let payloads = vec![payload.slice(..split), payload.slice(split..)];
    let bytes = Bytes::from(sent(OutFrame { kind, header: header.to_vec(), payloads }));
    let mut args = Vec::new();
    assert_eq!(parse_command(&bytes, &Limits::PEER, &mut args), Ok(Some(bytes.len())));
    let frame = Frame { kind, header: Bytes::copy_from_slice(header), payload: payload.clone() };
    assert_eq!(received(bytes, &args), Some(frame));
}

/// The bytes that `check` takes for a message.
pub fn input_of(encoded: &Encoded) -> Vec<u8> {
    let mut bytes = vec![encoded.kind, 3];
    bytes.extend_from_slice(&(encoded.header.len() as u16).to_le_bytes());
    bytes.extend_from_slice(&encoded.header);
    bytes.extend(encoded.payloads.concat());
    bytes
}

pub fn seeds() -> Seeds {
    let position = Position { index: 8, term: 3 };
    let entry = |index, bytes: &'static [u8]| Entry::new(index, 3, Kind::Normal, Bytes::from_static(bytes));
    let append = {
        let entries = [entry(9, b"*1\r\n$8\r\nFLUSHALL\r\n"), Entry::new(10, 4, Kind::NoOp, Bytes::new())];
        let metas = entries.iter().map(|entry| wire::meta(entry).expect("an entry")).collect();
        let body = Body::Append { prev: position, entries: metas, commit: 7, round: 2, lease_us: 9 };
        wire::encode(&Message { term: 4, body }, &entries)
    };
    let vote = wire::encode(&Message { term: 9, body: Body::Vote { last: position, transfer: true } }, &[]);
    let id = Id { index: 8, term: 3, bytes: 4, crc: crc32fast::hash(b"part") };
    let about = About { id, cluster_id: "c".repeat(32), members: Bytes::new(), used_ids: vec![1, 2] };
    let request = follower_reads::Request { nonce: 5, number: 3 };
    let read = follower_reads::Frame::Index { request, index: 8 };
    let here = notices::Notice::Here { peer_address: "[::1]:15001".into(), address: "localhost:5001".into() };
    let fetched = fetch::Frame::Fetched(position, Some(entry(8, b"lost")));
    let part = transfer::Frame::Part { id, offset: 0, bytes: Bytes::from_static(b"part") };
    vec![
        ("append", input_of(&append)),
        ("vote", input_of(&vote)),
        ("fetch", input_of(&fetch::encode(&fetch::Frame::Fetch(position)))),
        ("fetched", input_of(&fetch::encode(&fetched))),
        ("offer", input_of(&transfer::encode(&transfer::Frame::Offer(Box::new(about))))),
        ("part", input_of(&transfer::encode(&part))),
        ("read", input_of(&follower_reads::encode(&read))),
        ("here", input_of(&notices::encode(&here))),
        ("denied", input_of(&notices::encode(&notices::Notice::Denied { reason: "the last voter".into() }))),
    ]
}
