//! Parsing of records, headers, index lines and META: what was encoded comes back, anything else is refused.

use proptest::prelude::*;
use redisraft::log::index_file::{self, IndexEntry};
use redisraft::log::meta::{self, Meta, META_BYTES};
use redisraft::log::record::*;
use redisraft::log::scan::{durable_by_marks, end_of_data, Scanner, Sequence, Step};
use redisraft::log::segment::*;
use redisraft::log::HardState;

fn record_type() -> impl Strategy<Value = RecordType> {
    (1u8..=6).prop_map(|value| RecordType::from_u8(value).expect("a type"))
}

fn owner() -> Owner {
    Owner { cluster_id: *b"0123456789abcdef0123456789abcdef", node_id: 3 }
}

fn encode(
    salt: u32,
    record_type: RecordType,
    position: (u64, u64),
    payload: &[u8],
    prev_crc: u32,
) -> Vec<u8> {
    let length = payload.len() as u32;
    let sum = (length, crc32fast::hash(payload));
    let mut bytes = RecordHeader::sealed(salt, record_type, position, sum, prev_crc).encode().to_vec();
    bytes.extend_from_slice(payload);
    bytes.resize(record_bytes(length) as usize, 0);
    bytes
}

fn block_meta() -> Meta {
    Meta {
        generation: 8,
        owner: owner(),
        secret: [5; 32],
        hard_state: HardState { term: 4, vote: Some(2) },
        base_index: 10,
        base_term: 3,
        first_sequence: 2,
        floor_sequence: 3,
        floor_offset: 4096,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_record_comes_back_and_only_with_its_salt_and_its_predecessor(
        record_type in record_type(), index: u64, term: u64, salt: u32, prev_crc: u32,
        payload in prop::collection::vec(any::<u8>(), 0..300), other in 1u32..,
    ) {
        let bytes = encode(salt, record_type, (index, term), &payload, prev_crc);
        let mut scanner = Scanner::new(salt, 0, prev_crc);
        match scanner.next(&bytes) {
            Step::Record(record) => {
                prop_assert_eq!(record.record_type, record_type);
                prop_assert_eq!((record.header.index, record.header.term), (index, term));
                prop_assert_eq!(record.payload, &payload[..]);
                prop_assert_eq!(record.payload_crc, crc32fast::hash(&payload));
                prop_assert_eq!(scanner.offset(), bytes.len() as u64);
            }
            step => prop_assert!(false, "{:?}", step),
        }
        for mut scanner in [Scanner::new(salt ^ other, 0, prev_crc), Scanner::new(salt, 0, prev_crc ^ other)] {
            let refused = matches!(scanner.next(&bytes), Step::Invalid { .. });
            prop_assert!(refused);
            prop_assert_eq!(scanner.offset(), 0);
        }
    }

    #[test]
    fn a_record_with_any_bit_changed_is_refused(
        payload in prop::collection::vec(any::<u8>(), 0..60), position: prop::sample::Index, bit in 0u8..8,
    ) {
        let mut bytes = encode(77, RecordType::Normal, (5, 2), &payload, 11);
        let position = position.index(bytes.len());
        bytes[position] ^= 1 << bit;
        let refused = matches!(Scanner::new(77, 0, 11).next(&bytes), Step::Invalid { .. });
        prop_assert!(refused, "bit {} of byte {}", bit, position);
    }

    #[test]
    fn garbage_is_never_a_record_and_never_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..600), offset in 0u64..700) {
        prop_assert!(!matches!(Scanner::new(1, offset, 2).next(&bytes), Step::Record(_)));
        prop_assert_eq!(durable_by_marks(&bytes, 1, offset), 0);
        let end = end_of_data(&bytes, offset.min(bytes.len() as u64)) as usize;
        prop_assert!(bytes[end..].iter().all(|byte| *byte == 0));
        prop_assert!(index_file::decode_header(&bytes).is_none());
        prop_assert!(IndexEntry::decode(1, &bytes).is_none());
        let mut block = [0; SEGMENT_HEADER_BYTES];
        block[..bytes.len()].copy_from_slice(&bytes);
        prop_assert!(!matches!(SegmentHeader::decode(&block), HeaderState::Valid(_)));
        prop_assert!(matches!(Meta::decode(&block), meta::CopyState::Invalid));
    }

    #[test]
    fn an_index_line_comes_back(
        record_type in record_type(), index: u64, term: u64, place in 0u32..1 << 29, length: u32, record_crc: u32, salt: u32,
    ) {
        let line = IndexEntry { record_type, index, term, offset: place * 8, length, record_crc };
        let bytes = line.encode(salt);
        prop_assert_eq!(IndexEntry::decode(salt, &bytes), Some(line));
        prop_assert_eq!(IndexEntry::decode(salt ^ 1, &bytes), None);
    }

    #[test]
    fn a_segment_header_comes_back(salt: u32, sequence: u32, next_index: u64, prev_term: u64, prev_crc: u32, capacity: u64, at in 0usize..4096) {
        let header = SegmentHeader { salt, sequence, next_index, prev_term, prev_crc, capacity, owner: owner() };
        let mut bytes = header.encode();
        prop_assert_eq!(SegmentHeader::decode(&bytes), HeaderState::Valid(header));
        bytes[at] ^= 4;
        let refused = matches!(SegmentHeader::decode(&bytes), HeaderState::Invalid { .. });
        prop_assert!(refused);
    }

    #[test]
    fn meta_takes_the_newest_valid_copy(generation in 1u64..1000, term: u64, vote: Option<u64>, damaged in 0usize..4, at in 0usize..4096) {
        let old = Meta { generation, ..block_meta() };
        let new = Meta { generation: generation + 1, hard_state: HardState { term, vote }, ..block_meta() };
        let mut bytes = [0; META_BYTES];
        for block in 0..4 {
            let copy = if (block % 2) as u64 == generation % 2 { &old } else { &new };
            bytes[block * BLOCK_BYTES..(block + 1) * BLOCK_BYTES].copy_from_slice(&copy.encode());
        }
        let path = std::path::Path::new("META");
        for damage in [false, true] {
            bytes[damaged * BLOCK_BYTES + at] ^= u8::from(damage);
            let read = meta::choose(path, &bytes).map_err(|error| TestCaseError::fail(error.to_string()))?;
            prop_assert!(read.meta == new);
            prop_assert_eq!(read.damaged_copies, usize::from(damage));
        }
        bytes[(damaged + 2) % 4 * BLOCK_BYTES + at] ^= 1;
        prop_assert!(meta::choose(path, &bytes).is_err());
    }
}

#[test]
fn a_newer_version_is_refused_as_such() {
    let newer = |bytes: &mut [u8]| {
        bytes[8..12].copy_from_slice(&2u32.to_le_bytes());
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&bytes[..12]);
        hasher.update(&bytes[16..]);
        let crc = hasher.finalize();
        bytes[12..16].copy_from_slice(&crc.to_le_bytes());
    };
    let header = SegmentHeader {
        salt: 1,
        sequence: 1,
        next_index: 1,
        prev_term: 0,
        prev_crc: 0,
        capacity: 8192,
        owner: owner(),
    };
    let mut bytes = header.encode();
    newer(&mut bytes);
    assert_eq!(SegmentHeader::decode(&bytes), HeaderState::Newer { version: 2 });
    let mut bytes = block_meta().encode();
    newer(&mut bytes);
    assert!(matches!(Meta::decode(&bytes), meta::CopyState::Newer { version: 2 }));
    let mut header = RecordHeader::sealed(1, RecordType::Normal, (1, 1), (0, 0), 0);
    for (record_type, flags) in [(9, 0), (1, 1)] {
        header.record_type = record_type;
        header.flags = flags;
        header.crc = header.expected_crc(1, 0);
        assert!(matches!(Scanner::new(1, 0, 0).next(&header.encode()), Step::Newer { .. }));
    }
}

#[test]
fn records_out_of_order_are_refused() {
    let apply = |sequence: &mut Sequence, record_type, index, term| {
        let bytes = encode(1, record_type, (index, term), &[], 0);
        let Step::Record(record) = Scanner::new(1, 0, 0).next(&bytes) else { panic!("a record") };
        sequence.apply(&record).is_ok()
    };
    let mut sequence = Sequence::new(10, 3);
    assert!(!apply(&mut sequence, RecordType::Normal, 12, 3), "a gap");
    assert!(!apply(&mut sequence, RecordType::Normal, 11, 2), "a term that falls");
    assert!(apply(&mut sequence, RecordType::Normal, 11, 3));
    assert!(apply(&mut sequence, RecordType::NoOp, 12, 5));
    assert!(!apply(&mut sequence, RecordType::Truncate, 10, 0), "before the log");
    assert!(!apply(&mut sequence, RecordType::Truncate, 14, 0), "behind the log");
    assert!(!apply(&mut sequence, RecordType::Seal, 11, 5), "a seal elsewhere");
    assert!(apply(&mut sequence, RecordType::Truncate, 12, 0));
    assert_eq!((sequence.last_index(), sequence.last_term()), (11, 3));
    assert!(apply(&mut sequence, RecordType::Normal, 12, 4));
    assert!(apply(&mut sequence, RecordType::Seal, 12, 4));
}
