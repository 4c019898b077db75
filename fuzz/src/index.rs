//! Index files: what is named comes back, what is damaged is left out, and records are compared with it.

use crate::input::{flip, Input};
use crate::memory::within;
use crate::Seeds;
use redisraft::log::index_file::{
    decode_header, encode_header, entries, first_behind, Comparison, Frame, FrameBuilder, Frames, IndexEntry,
    INDEX_HEADER_BYTES,
};
use redisraft::log::record::RecordType;

const SALT: u32 = 0x5A17;
const SEQUENCE: u32 = 9;

/// A form. Either any bytes; or a number of records, each one byte of what is different from the one before, a number
/// of edits, and these.
pub fn check(data: &[u8]) {
    let mut input = Input(data);
    within((64 << 10) + 64 * data.len(), || match input.u8() % 4 {
        0 => anything(input.rest()),
        _ => written(input),
    });
}

/// Any bytes: frames end inside them, and what they name is in order.
fn anything(bytes: &[u8]) {
    let _ = decode_header(bytes);
    if let Some((frame, length)) = Frame::decode(SALT, bytes) {
        assert!(length <= bytes.len() && frame.entries().count() <= length / 4);
    }
    assert!(entries(bytes, SALT).count() <= bytes.len());
    let mut comparison = Comparison::of(bytes, SALT, SEQUENCE);
    let record = IndexEntry {
        record_type: RecordType::Normal,
        index: 1,
        term: 1,
        offset: 4096,
        length: 9,
        record_crc: 7,
    };
    let _ = comparison.take(&record);
    assert!(!comparison.is_exact());
}

fn written(mut input: Input) {
    let count = input.u8();
    let mut builder = FrameBuilder::new(SALT);
    let mut index = encode_header(SALT, SEQUENCE).to_vec();
    let mut records: Vec<IndexEntry> = Vec::new();
    for _ in 0..count {
        let (changes, next) = (input.u8(), following(records.last()));
        let record = vary(next, changes, &mut input);
        records.push(record);
        builder.push(record);
        if changes & 0x80 != 0 {
            index.extend_from_slice(builder.bytes());
            builder.clear();
        }
    }
    index.extend_from_slice(builder.bytes());
    assert!(index.len() <= INDEX_HEADER_BYTES + records.len() * (32 + 4), "at most a frame for each record");
    let edits = input.u8() % 4;
    let changed = flip(&mut index, &mut input, edits);
    assert_eq!(decode_header(&index).is_some(), index[..INDEX_HEADER_BYTES] == encode_header(SALT, SEQUENCE));
    let named: Vec<IndexEntry> = entries(&index, SALT).collect();
    let mut behind = records.iter();
    assert!(named.iter().all(|entry| behind.any(|record| record == entry)), "in order, and nothing made up");
    assert!(changed || named == records);
    assert_eq!(entries(&index, SALT ^ 1).count(), 0, "of another life of the file");
    let mut frames = Frames::of(&index, SALT);
    frames.by_ref().for_each(drop);
    assert!(changed || !frames.is_damaged());

    let mut comparison = Comparison::of(&index, SALT, SEQUENCE);
    for record in &records {
        assert_eq!(comparison.take(record), Ok(()), "an index that lacks some names no other");
    }
    assert_eq!(comparison.is_exact(), !changed);
    if let Some(middle) = records.get(records.len() / 2) {
        let offset = u64::from(middle.offset);
        let expected = named.iter().find(|entry| u64::from(entry.offset) >= offset);
        assert_eq!(first_behind(&index, SALT, offset).as_ref(), expected);
        let other = IndexEntry { record_crc: !middle.record_crc, ..*middle };
        let mut comparison = Comparison::of(&index, SALT, SEQUENCE);
        records.iter().take(records.len() / 2).for_each(|record| comparison.take(record).expect("right"));
        if named.contains(middle) {
            assert_eq!(comparison.take(&other), Err(*middle), "another record was durable here");
        }
    }
}

fn following(last: Option<&IndexEntry>) -> IndexEntry {
    let first = IndexEntry {
        record_type: RecordType::Normal,
        index: 1,
        term: 1,
        offset: 4096,
        length: 40,
        record_crc: 0x1234_5678,
    };
    last.map_or(first, |last| IndexEntry {
        index: last.index + 1,
        offset: last.end() as u32,
        record_crc: last.record_crc.wrapping_mul(0x0019_660D).wrapping_add(0x3C6E_F35F),
        ..*last
    })
}

fn vary(mut next: IndexEntry, changes: u8, input: &mut Input) -> IndexEntry {
    next.length = if changes & 1 != 0 { u32::from(input.u8()) } else { next.length };
    next.term += u64::from(changes >> 1 & 1);
    next.offset += u32::from(changes >> 2 & 1) * 48;
    next.index += u64::from(changes >> 3 & 1);
    let indexed = [1, 2, 3, 4, 6].map(|value| RecordType::from_u8(value).expect("a type"));
    if changes & 0x10 != 0 {
        next.record_type = indexed[usize::from(input.u8()) % indexed.len()];
    }
    next
}

pub fn seeds() -> Seeds {
    let mut anything = vec![0];
    let mut builder = FrameBuilder::new(SALT);
    builder.push(following(None));
    anything.extend_from_slice(&encode_header(SALT, SEQUENCE));
    anything.extend_from_slice(builder.bytes());
    vec![
        ("uniform", vec![1, 40]),
        ("mixed", vec![1, 9, 0, 1, 7, 0x80, 2, 4, 8, 0x10, 3, 0x81, 9, 0]),
        ("damaged", vec![1, 9, 0, 1, 7, 0x80, 2, 4, 8, 0x10, 3, 0x81, 9, 0, 1, 70, 0, 4]),
        ("anything", anything),
    ]
}
