//! Parsing of records, headers, index lines and META: what was encoded comes back, anything else is refused.

mod log_support;

use log_support::window;
use proptest::prelude::*;
use redisraft::log::index_file::{self, Comparison, Frame, FrameBuilder, IndexEntry};
use redisraft::log::meta::{self, Meta, META_BYTES};
use redisraft::log::record::*;
use redisraft::log::scan::{Behind, Scanner, Step};
use redisraft::log::segment::*;
use redisraft::log::{HardState, LogError, Sequence};

const PLACE: Place = Place { salt: 1, offset: 0 };

fn record_type() -> impl Strategy<Value = RecordType> {
    (1u8..=7).prop_map(|value| RecordType::from_u8(value).expect("a type"))
}

fn owner() -> Owner {
    Owner { cluster_id: *b"0123456789abcdef0123456789abcdef", node_id: 3 }
}

fn encode(
    (salt, offset): (u32, u64),
    record_type: RecordType,
    position: (u64, u64),
    payload: &[u8],
    prev_crc: u32,
) -> Vec<u8> {
    let length = payload.len() as u32;
    let sum = (length, crc32fast::hash(payload));
    let place = Place { salt, offset };
    let header = RecordHeader::sealed(place, (record_type, 0), position, sum, prev_crc);
    let mut bytes = header.encode().to_vec();
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
        distrusted: true,
        promise_us: 800_000,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_record_comes_back_and_only_with_its_salt_its_place_and_its_predecessor(
        record_type in record_type(), index: u64, term: u64, salt: u32, prev_crc: u32,
        payload in prop::collection::vec(any::<u8>(), 0..300), other in 1u32..,
    ) {
        let bytes = encode((salt, 0), record_type, (index, term), &payload, prev_crc);
        let mut scanner = Scanner::new(salt, 0, prev_crc);
        let mut window = window(&bytes);
        match scanner.next(&mut window).expect("read") {
            Step::Record(record) => {
                prop_assert_eq!(record.record_type, record_type);
                prop_assert_eq!((record.header.index, record.header.term), (index, term));
                prop_assert_eq!(record.payload, &payload[..]);
                prop_assert_eq!(record.payload_crc, crc32fast::hash(&payload));
                prop_assert_eq!(scanner.offset(), bytes.len() as u64);
            }
            step => prop_assert!(false, "{:?}", step),
        }
        let mut elsewhere = vec![0; 8];
        elsewhere.extend_from_slice(&bytes);
        let refused = matches!(Scanner::new(salt, 8, prev_crc).next(&mut log_support::window(&elsewhere)).expect("read"), Step::Invalid { .. });
        prop_assert!(refused, "a record counts only where it was written");
        for mut scanner in [Scanner::new(salt ^ other, 0, prev_crc), Scanner::new(salt, 0, prev_crc ^ other)] {
            let refused = matches!(scanner.next(&mut log_support::window(&bytes)).expect("read"), Step::Invalid { .. });
            prop_assert!(refused);
            prop_assert_eq!(scanner.offset(), 0);
        }
    }

    #[test]
    fn a_record_with_any_bit_changed_is_refused(
        payload in prop::collection::vec(any::<u8>(), 0..60), position: prop::sample::Index, bit in 0u8..8,
    ) {
        let mut bytes = encode((77, 0), RecordType::Normal, (5, 2), &payload, 11);
        let position = position.index(bytes.len());
        bytes[position] ^= 1 << bit;
        let refused = matches!(Scanner::new(77, 0, 11).next(&mut window(&bytes)).expect("read"), Step::Invalid { .. });
        prop_assert!(refused, "bit {} of byte {}", bit, position);
    }

    #[test]
    fn garbage_is_never_a_record_and_never_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..600), offset in 0u64..700) {
        prop_assert!(!matches!(Scanner::new(1, offset, 2).next(&mut window(&bytes)).expect("read"), Step::Record(_)));
        let behind = Behind::look(&mut window(&bytes), 1, offset).expect("read");
        prop_assert_eq!((behind.durable_offset, behind.own_end), (0, 0));
        prop_assert!(bytes.iter().skip(behind.data_end as usize).all(|byte| *byte == 0));
        prop_assert!(index_file::decode_header(&bytes).is_none());
        prop_assert!(Frame::decode(1, &bytes).is_none());
        prop_assert_eq!(index_file::entries(&bytes, 1).count(), 0);
        let mut block = [0; SEGMENT_HEADER_BYTES];
        block[..bytes.len()].copy_from_slice(&bytes);
        prop_assert!(!matches!(SegmentHeader::decode(&block), HeaderState::Valid(_)));
        prop_assert!(matches!(Meta::decode(&block), meta::CopyState::Invalid));
    }

    #[test]
    fn an_index_comes_back_and_what_is_behind_a_damaged_frame_too(
        records in prop::collection::vec((record_type(), 0u64..3, 0u64..3, 0u32..40, prop::bool::ANY), 1..60),
        salt: u32, damaged: prop::sample::Index,
    ) {
        let mut builder = FrameBuilder::new(salt);
        let mut index = index_file::encode_header(salt, 9).to_vec();
        let mut entries: Vec<IndexEntry> = Vec::new();
        for (record_type, skip, term, length, gap) in records {
            let record_type = if record_type.is_indexed() { record_type } else { RecordType::Normal };
            let last = entries.last();
            let number = last.map_or(1, |last| last.index + 1 + skip / 2);
            let offset = last.map_or(4096, |last| last.end() as u32 + if gap { 48 } else { 0 });
            // Half of the lengths are equal, so that there are frames of both kinds.
            let length = if length < 20 { 8 } else { length };
            entries.push(IndexEntry { record_type, index: number, term, offset, length, record_crc: number as u32 ^ salt });
            builder.push(entries[entries.len() - 1]);
            if skip == 2 {
                index.extend_from_slice(builder.bytes());
                builder.clear();
            }
        }
        index.extend_from_slice(builder.bytes());
        prop_assert_eq!(index_file::decode_header(&index), Some((salt, 9)));
        prop_assert_eq!(index_file::entries(&index, salt).collect::<Vec<_>>(), entries.clone());
        prop_assert_eq!(index_file::entries(&index, salt ^ 1).count(), 0);
        let mut comparison = Comparison::of(&index, salt, 9);
        prop_assert!(entries.iter().all(|entry| comparison.take(entry).is_ok()));
        prop_assert!(comparison.is_exact());

        let damaged = index_file::INDEX_HEADER_BYTES + damaged.index(index.len() - index_file::INDEX_HEADER_BYTES);
        index[damaged] ^= 0x20;
        let left: Vec<_> = index_file::entries(&index, salt).collect();
        prop_assert!(left.len() < entries.len() && left.iter().all(|entry| entries.contains(entry)));
        let mut comparison = Comparison::of(&index, salt, 9);
        prop_assert!(entries.iter().all(|entry| comparison.take(entry).is_ok()));
        prop_assert!(!comparison.is_exact());
    }

    #[test]
    fn a_segment_header_comes_back(salt: u32, recycled: bool, sequence: u32, next_index: u64, prev_term: u64, prev_crc: u32, capacity: u64, at in 0usize..4096) {
        let header = SegmentHeader { salt, sequence, next_index, prev_term, prev_crc, recycled, capacity, owner: owner() };
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

/// A write of META that went to another block than its own: what stood there is lost, as if it were damaged.
#[test]
fn a_copy_of_meta_in_a_block_of_the_other_parity_does_not_count() {
    let generations = [8, 7].map(|generation| Meta { generation, ..block_meta() }.encode());
    let blocks = |which: [usize; 4]| -> [u8; META_BYTES] {
        which.map(|number| generations[number]).concat().try_into().expect("four blocks")
    };
    let path = std::path::Path::new("META");
    let right = meta::choose(path, &blocks([0, 1, 0, 1])).expect("as it is written");
    assert_eq!((right.meta.generation, right.damaged_copies), (8, 0));
    for astray in 0..4 {
        let mut which = [0, 1, 0, 1];
        which[astray] ^= 1;
        let read = meta::choose(path, &blocks(which)).expect("the other copy serves");
        assert_eq!((read.meta.generation, read.damaged_copies), (8, 1), "block {astray}");
        which[astray ^ 2] ^= 1;
        let error = meta::choose(path, &blocks(which)).err().expect("both copies are gone");
        assert!(matches!(error, LogError::Corrupt { .. }), "{error}");
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
        recycled: false,
        capacity: 8192,
        owner: owner(),
    };
    let mut bytes = header.encode();
    newer(&mut bytes);
    assert_eq!(SegmentHeader::decode(&bytes), HeaderState::Newer { version: 2 });
    let mut bytes = block_meta().encode();
    newer(&mut bytes);
    assert!(matches!(Meta::decode(&bytes), meta::CopyState::Newer { version: 2 }));
    let mut header = RecordHeader::sealed(PLACE, (RecordType::Normal, 0), (1, 1), (0, 0), 0);
    for (record_type, flags) in [(9, 0), (1, 2), (1, 3)] {
        header.record_type = record_type;
        header.flags = flags;
        header.crc = header.expected_crc(PLACE, 0);
        assert!(matches!(
            Scanner::new(1, 0, 0).next(&mut window(&header.encode())).expect("read"),
            Step::Newer { .. }
        ));
    }
}

/// What a client stores may look like the headers of long records at every place: a search must end all the same.
#[test]
fn a_payload_made_of_headers_does_not_stop_a_search() {
    let pair = [1u32.to_le_bytes(), (1u32 << 19).to_le_bytes()].concat();
    let mut bytes = pair.repeat(1 << 17);
    let record = encode((7, 1 << 20), RecordType::Normal, (3, 1), b"found all the same", 0);
    bytes.extend_from_slice(&record);
    let started = std::time::Instant::now();
    let behind = Behind::look(&mut window(&bytes), 7, 0).expect("read");
    assert_eq!(behind.own_end, bytes.len() as u64);
    assert!(started.elapsed() < std::time::Duration::from_secs(10), "{:?}", started.elapsed());
}

#[test]
fn records_out_of_order_are_refused() {
    let apply = |sequence: &mut Sequence, record_type, index, term| {
        let payload: &[u8] = if record_type == RecordType::Mark { &[0; MARK_PAYLOAD_BYTES] } else { &[] };
        let bytes = encode((1, 0), record_type, (index, term), payload, 0);
        let mut window = window(&bytes);
        let Step::Record(record) = Scanner::new(1, 0, 0).next(&mut window).expect("read") else {
            panic!("a record")
        };
        sequence.apply(&record).is_ok()
    };
    let mut sequence = Sequence::new(10, 3);
    assert!(!apply(&mut sequence, RecordType::Normal, 12, 3), "a gap");
    assert!(!apply(&mut sequence, RecordType::Normal, 11, 2), "a term that falls");
    assert!(apply(&mut sequence, RecordType::Normal, 11, 3));
    assert!(apply(&mut sequence, RecordType::NoOp, 12, 5));
    assert!(!apply(&mut sequence, RecordType::Truncate, 0, 0), "before the log");
    assert!(!apply(&mut sequence, RecordType::Truncate, 14, 0), "behind the log");
    assert!(!apply(&mut sequence, RecordType::Seal, 11, 5), "a seal elsewhere");
    assert!(!apply(&mut sequence, RecordType::Mark, 12, 4), "a mark elsewhere");
    assert!(!apply(&mut sequence, RecordType::Copy, 12, 5), "a copy of what is no membership");
    assert!(apply(&mut sequence, RecordType::Truncate, 12, 0));
    assert_eq!((sequence.last_index(), sequence.last_term()), (11, 3));
    assert!(apply(&mut sequence, RecordType::Membership, 12, 4));
    assert!(apply(&mut sequence, RecordType::Copy, 12, 4));
    assert!(!apply(&mut sequence.clone(), RecordType::Copy, 12, 4), "one copy is enough");
    assert!(apply(&mut sequence, RecordType::Mark, 12, 4));
    assert!(apply(&mut sequence, RecordType::Seal, 12, 4));
}

#[test]
fn entries_before_the_base_of_a_purged_log_are_read_and_must_reach_it() {
    let apply = |sequence: &mut Sequence, record_type, index, term| {
        let bytes = encode((1, 0), record_type, (index, term), &[], 0);
        let mut window = window(&bytes);
        let Step::Record(record) = Scanner::new(1, 0, 0).next(&mut window).expect("read") else {
            panic!("a record")
        };
        sequence.apply(&record).expect("in order");
    };
    let mut sequence = Sequence::new(10, 3);
    sequence.start_behind(7, 2);
    apply(&mut sequence, RecordType::Normal, 8, 2);
    // Drops entry 6 too, whose segment is gone: nobody knows the term of entry 5 any more.
    apply(&mut sequence, RecordType::Truncate, 6, 0);
    assert_eq!((sequence.last_index(), sequence.known_last_term(), sequence.first_index()), (5, None, 11));
    for index in 6..=9 {
        apply(&mut sequence, RecordType::Normal, index, 3);
        assert!(sequence.check_base().is_err(), "ends at {index}");
    }
    apply(&mut sequence, RecordType::Normal, 10, 3);
    sequence.check_base().expect("reached");
    apply(&mut sequence, RecordType::Truncate, 10, 0);
    apply(&mut sequence, RecordType::Normal, 10, 4);
    assert!(sequence.check_base().is_err(), "another entry than META says");
}
