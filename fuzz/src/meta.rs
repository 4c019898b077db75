//! META and the headers of segments: checksummed blocks of 4 KiB.

use crate::input::Input;
use crate::memory::within;
use crate::Seeds;
use redisraft::log::meta::{choose, CopyState, Meta, META_BYTES};
use redisraft::log::segment::{
    parse_file_name, segment_path, FileName, HeaderState, Owner, SegmentHeader, BLOCK_BYTES,
};
use redisraft::log::{HardState, LogError};
use std::path::Path;

/// A form, and what fills a block; its checksum is made right, as the fuzzer cannot.
pub fn check(data: &[u8]) {
    let mut input = Input(data);
    within((256 << 10) + 16 * data.len(), || match input.u8() % 4 {
        0 => meta(block(input.rest())),
        1 => header(block(input.rest())),
        2 => names(input.rest()),
        _ => copies(input),
    });
}

fn block(content: &[u8]) -> [u8; BLOCK_BYTES] {
    let mut block = [0; BLOCK_BYTES];
    let length = content.len().min(BLOCK_BYTES);
    block[..length].copy_from_slice(&content[..length]);
    block
}

fn sealed(mut block: [u8; BLOCK_BYTES]) -> [u8; BLOCK_BYTES] {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&block[..12]);
    crc.update(&block[16..]);
    block[12..16].copy_from_slice(&crc.finalize().to_le_bytes());
    block
}

/// Says whether it is valid, and gives what it says.
fn meta(block: [u8; BLOCK_BYTES]) {
    let sealed = sealed(block);
    assert!(block == sealed || !matches!(Meta::decode(&block), CopyState::Valid(_)));
    match Meta::decode(&sealed) {
        CopyState::Valid(meta) => {
            assert_eq!(block[..8], *b"RRAFTMET");
            let again = Meta::decode(&meta.encode());
            assert!(again == CopyState::Valid(meta), "what is encoded comes back");
        }
        CopyState::Newer { version } => assert!(version != 1),
        CopyState::Invalid => assert_ne!(block[..8], *b"RRAFTMET"),
    }
}

fn header(block: [u8; BLOCK_BYTES]) {
    let sealed = sealed(block);
    assert!(block == sealed || !matches!(SegmentHeader::decode(&block), HeaderState::Valid(_)));
    match SegmentHeader::decode(&sealed) {
        HeaderState::Valid(header) => {
            assert_eq!(block[..8], *b"RRAFTSEG");
            assert_eq!(SegmentHeader::salt_of_damaged(&sealed), header.salt);
            let path = Path::new("segment");
            let checked = |bytes| header.check(path, &header.owner, header.sequence, bytes);
            checked(header.capacity).expect("its own");
            assert!(matches!(checked(header.capacity ^ 1), Err(LogError::Corrupt { .. })));
            let again = SegmentHeader::decode(&header.encode());
            assert_eq!(again, HeaderState::Valid(header), "what is encoded comes back");
        }
        HeaderState::Newer { version } => assert!(version != 1),
        HeaderState::Invalid { .. } => assert_ne!(block[..8], *b"RRAFTSEG"),
        HeaderState::Blank => panic!("a checksum was written"),
    }
}

/// A name that is taken for a segment's is the one that the segment would get.
fn names(bytes: &[u8]) {
    let Ok(name) = std::str::from_utf8(bytes) else { return };
    if let FileName::Segment(sequence) = parse_file_name(name) {
        assert_eq!(segment_path(Path::new(""), sequence), Path::new(name));
    }
}

fn sample(generation: u64, input: &mut Input) -> Meta {
    Meta {
        generation,
        owner: Owner { cluster_id: *b"0123456789abcdef0123456789abcdef", node_id: 3 },
        secret: [5; 32],
        hard_state: HardState { term: input.u64(), vote: Some(input.u64()).filter(|vote| vote % 2 == 0) },
        base_index: input.u64(),
        base_term: input.u64(),
        first_sequence: input.u32(),
        floor_sequence: input.u32(),
        floor_offset: input.u64(),
        distrusted: input.u8() % 2 == 1,
        promise_us: input.u64(),
    }
}

/// Two generations in four copies, some of them damaged: the newer one, or a refusal if it may be lost.
fn copies(mut input: Input) {
    let generation = input.u64() >> 1;
    let (damaged, at, mask) = (input.u8() % 16, usize::from(input.u16()) % BLOCK_BYTES, input.u8().max(1));
    let (old, new) = (sample(generation, &mut input), sample(generation + 1, &mut input));
    let mut bytes = [0; META_BYTES];
    for (number, block) in bytes.chunks_exact_mut(BLOCK_BYTES).enumerate() {
        let copy = if number as u64 % 2 == generation % 2 { &old } else { &new };
        block.copy_from_slice(&copy.encode());
        if damaged >> number & 1 == 1 {
            block[at] ^= mask;
        }
    }
    let both = |parity: u8| damaged >> parity & 0b101 == 0b101;
    match choose(Path::new("META"), &bytes) {
        Ok(read) => {
            assert!(!both(0) && !both(1) && read.meta == new);
            assert_eq!(read.damaged_copies, damaged.count_ones() as usize);
        }
        Err(LogError::Corrupt { .. }) => assert!(both(0) || both(1)),
        Err(error) => panic!("{error}"),
    }
}

pub fn seeds() -> Seeds {
    let meta = sample(8, &mut Input(&[6; 64])).encode();
    let header = SegmentHeader {
        salt: 7,
        sequence: 2,
        next_index: 19,
        prev_term: 4,
        prev_crc: 99,
        recycled: true,
        capacity: 8192,
        owner: Owner { cluster_id: *b"0123456789abcdef0123456789abcdef", node_id: 3 },
    };
    vec![
        ("meta", [&[0][..], &meta[..160]].concat()),
        ("header", [&[1][..], &header.encode()[..100]].concat()),
        ("name", b"\x020000000012.log".to_vec()),
        ("one-copy", vec![3, 8, 0, 0, 0, 0, 0, 0, 0, 1, 100, 0, 4, 6]),
        ("both-copies", vec![3, 9, 0, 0, 0, 0, 0, 0, 0, 5, 100, 0, 4, 6]),
    ]
}
