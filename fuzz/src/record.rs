//! Records of a segment: in order, and without their neighbours.

use crate::disk::window;
use crate::input::{flip, Input};
use crate::memory::within;
use crate::Seeds;
use redisraft::log::record::{record_bytes, Place, RecordHeader, RecordType, BATCH_START};
use redisraft::log::scan::{find_own_record, own_record_at, Behind, Scanner, Step};

const SALT: u32 = 0x5A17;
const PREV_CRC: u32 = 0xC4C;
/// Where the first record stands.
const FIRST: usize = 64;
/// A window reads this much at least.
const WINDOW_BYTES: usize = (256 << 10) + (8 << 10);

struct Written {
    offset: u64,
    record_type: RecordType,
    flags: u8,
    position: (u64, u64),
    payload: Vec<u8>,
}

/// A form. Either any bytes; or a number of records, each its type, flags, index, term, length and payload, a number
/// of edits, and these.
pub fn check(data: &[u8]) {
    let mut input = Input(data);
    let limit_bytes = WINDOW_BYTES + (64 << 10) + 8 * data.len();
    within(limit_bytes, || match input.u8() % 4 {
        0 => anything(input.rest()),
        _ => written(input),
    });
}

/// Any bytes end, somewhere.
fn anything(bytes: &[u8]) {
    let mut window = window(bytes);
    let mut scanner = Scanner::new(SALT, 0, PREV_CRC);
    while let Step::Record(_) = scanner.next(&mut window).expect("memory can be read") {}
    assert!(scanner.offset() <= bytes.len() as u64);
    look_behind(bytes, 0);
}

fn look_behind(bytes: &[u8], from: u64) -> Behind {
    let behind = Behind::look(&mut window(bytes), SALT, from).expect("memory can be read");
    assert!(behind.durable_offset <= behind.own_end && behind.own_end <= bytes.len() as u64);
    assert!(behind.data_end >= from && behind.data_end <= from.max(bytes.len() as u64));
    let rest = bytes.get(behind.data_end as usize..).unwrap_or_default();
    assert!(rest.iter().all(|byte| *byte == 0), "behind the data there are zeros");
    behind
}

fn written(mut input: Input) {
    let count = usize::from(input.u8() % 12);
    let mut bytes = vec![0; FIRST];
    let mut prev_crc = PREV_CRC;
    let records: Vec<Written> = (0..count).map(|_| write(&mut input, &mut bytes, &mut prev_crc)).collect();
    let end = bytes.len();
    bytes.resize(end + 64, 0);
    let edits = input.u8() % 6;
    let changed = flip(&mut bytes, &mut input, edits);
    let cut = if input.u8() % 8 == 7 { usize::from(input.u16()) % bytes.len() } else { bytes.len() };
    bytes.truncate(cut);

    let mut window = window(&bytes);
    let mut scanner = Scanner::new(SALT, FIRST as u64, PREV_CRC);
    let mut read = 0;
    loop {
        match scanner.next(&mut window).expect("memory can be read") {
            Step::Record(record) => {
                let written = records.get(read).expect("as many as were written");
                assert_eq!((record.offset, record.record_type), (written.offset, written.record_type));
                assert_eq!((record.header.index, record.header.term), written.position);
                assert!(record.header.flags == written.flags && record.payload == written.payload);
                assert_eq!(record.payload_crc, crc32fast::hash(&written.payload));
                read += 1;
            }
            Step::Invalid { expected, found } => {
                assert!(changed || cut < end, "expected {expected}, found {found}");
                break;
            }
            Step::Newer { what, .. } => panic!("{what} of a newer program, which nobody wrote"),
            Step::Blank => break,
        }
    }
    assert!(changed || cut < end || read == count, "{read} of {count} records");
    found_alone(&bytes, &records);
    look_behind(&bytes, FIRST as u64);
}

/// Whatever is found without its neighbours was written there.
fn found_alone(bytes: &[u8], records: &[Written]) {
    let mut window = window(bytes);
    let mut from = FIRST as u64;
    while let Some(found) =
        find_own_record(&mut window, SALT, from, bytes.len() as u64).expect("memory can be read")
    {
        let written = records.iter().find(|written| written.offset == found.offset);
        let written = written.expect("a record stands where one was written");
        assert_eq!((found.header.index, found.header.term), written.position);
        assert_eq!(found.payload_crc, crc32fast::hash(&written.payload));
        let record = own_record_at(&mut window, SALT, found.offset).expect("memory can be read");
        assert_eq!(record.map(|record| record.payload), Some(&written.payload[..]));
        from = found.end();
    }
}

fn write(input: &mut Input, bytes: &mut Vec<u8>, prev_crc: &mut u32) -> Written {
    let record_type = RecordType::from_u8(1 + input.u8() % 7).expect("one of seven");
    let flags = input.u8() & BATCH_START;
    let position = (input.u64(), input.u64());
    let length = usize::from(input.u16() % 600);
    let payload = input.bytes(length).to_vec();
    let offset = bytes.len() as u64;
    let sum = (payload.len() as u32, crc32fast::hash(&payload));
    let place = Place { salt: SALT, offset };
    let header = RecordHeader::sealed(place, (record_type, flags), position, sum, *prev_crc);
    assert_eq!(RecordHeader::decode(&header.encode()), header);
    *prev_crc = header.crc;
    bytes.extend_from_slice(&header.encode());
    bytes.extend_from_slice(&payload);
    bytes.resize((offset + record_bytes(sum.0)) as usize, 0);
    Written { offset, record_type, flags, position, payload }
}

fn spec(record_type: u8, flags: u8, index: u64, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![record_type - 1, flags];
    bytes.extend_from_slice(&index.to_le_bytes());
    bytes.extend_from_slice(&3u64.to_le_bytes());
    bytes.extend_from_slice(&(payload.len() as u16).to_le_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

pub fn seeds() -> Seeds {
    let batch = [
        spec(5, 0, 1, &9u64.to_le_bytes()),
        spec(1, 1, 1, b"*1\r\n$8\r\nFLUSHALL\r\n"),
        spec(2, 0, 2, b""),
        spec(3, 0, 3, b"members"),
        spec(7, 0, 3, b"members"),
        spec(4, 1, 2, b""),
        spec(6, 0, 1, b""),
    ]
    .concat();
    let with = |edits: &[u8]| [&[1, 7][..], &batch, edits].concat();
    // A payload that holds a record of another place, as a client may store one.
    let sum = (0, crc32fast::hash(b""));
    let alien = RecordHeader::sealed(Place { salt: SALT, offset: 0 }, (RecordType::NoOp, 0), (9, 9), sum, 0);
    let nested =
        [&[1, 2][..], &spec(1, 1, 7, &alien.encode()), &spec(1, 0, 8, &[1; 80]), &[1, 0x41, 0, 8]].concat();
    vec![
        ("intact", with(&[])),
        ("flipped", with(&[1, 100, 0, 0x10])),
        ("cut", with(&[0, 7, 150, 0])),
        ("nested", nested),
        ("anything", [&[0][..], &[1; 200]].concat()),
    ]
}
