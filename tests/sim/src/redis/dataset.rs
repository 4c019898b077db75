//! What a server holds: numbers and lists of numbers in several databases, with a digest that is kept up to date.

use crc_fast::CrcAlgorithm;
use std::collections::BTreeMap;

/// Database of the registers and counters; the lists are in another, so that streams must select.
pub const TEXT_DB: u32 = 0;
pub const LIST_DB: u32 = 3;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Value {
    Text(Vec<u8>),
    List(Vec<Vec<u8>>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Item {
    value: Value,
    expires_at_ms: Option<u64>,
}

type Key = (u32, Vec<u8>);

/// First bytes of a dump.
pub const RDB_HEAD: &[u8] = b"REDIS0009";
const TEXT_TAG: u8 = 1;
const LIST_TAG: u8 = 2;
const END_TAG: u8 = 0xff;

/// A dataset. Every command either works or is a defect: the workload knows the types of its keys.
#[derive(Clone, Debug, Default)]
pub struct Dataset {
    items: BTreeMap<Key, Item>,
    digest: u64,
    changes: u64,
    /// The number of the last change of each key, for WATCH.
    touched: BTreeMap<Key, u64>,
    cleared: u64,
}

fn fnv(hash: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(hash, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

fn digest_of((db, key): &Key, item: &Item) -> u64 {
    let mut hash = fnv(0xcbf2_9ce4_8422_2325, &db.to_le_bytes());
    hash = fnv(fnv(hash, key), b"\0");
    hash = match &item.value {
        Value::Text(text) => fnv(fnv(hash, b"t"), text),
        Value::List(list) => list.iter().fold(fnv(hash, b"l"), |hash, word| fnv(fnv(hash, word), b",")),
    };
    fnv(hash, &item.expires_at_ms.unwrap_or(0).to_le_bytes()).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

fn number(bytes: &[u8]) -> u64 {
    std::str::from_utf8(bytes).ok().and_then(|text| text.parse().ok()).expect("a number that was written")
}

impl Dataset {
    /// The same for the same contents, however they came to be.
    pub fn digest(&self) -> u64 {
        self.digest
    }

    /// The dataset as a file: the first bytes and the checksum at the end are those of an RDB, the rest is this
    /// simulator's own.
    pub fn dump(&self) -> Vec<u8> {
        let mut out = RDB_HEAD.to_vec();
        let put = |out: &mut Vec<u8>, word: &[u8]| {
            out.extend_from_slice(&(word.len() as u32).to_le_bytes());
            out.extend_from_slice(word);
        };
        for ((db, key), Item { value, expires_at_ms }) in &self.items {
            let (tag, words) = match value {
                Value::Text(text) => (TEXT_TAG, std::slice::from_ref(text)),
                Value::List(list) => (LIST_TAG, list.as_slice()),
            };
            out.push(tag);
            out.extend_from_slice(&db.to_le_bytes());
            out.extend_from_slice(&expires_at_ms.unwrap_or(0).to_le_bytes());
            put(&mut out, key);
            out.extend_from_slice(&(words.len() as u32).to_le_bytes());
            words.iter().for_each(|word| put(&mut out, word));
        }
        out.push(END_TAG);
        let checksum = crc_fast::checksum(CrcAlgorithm::Crc64Redis, &out);
        out.extend_from_slice(&checksum.to_le_bytes());
        out
    }

    /// What [`Dataset::dump`] has written, or a real server's empty RDB.
    ///
    /// # Panics
    /// On anything else: checksums should have kept it away.
    pub fn of(dump: &[u8]) -> Dataset {
        let mut dataset = Dataset::default();
        dataset.load(dump);
        dataset
    }

    /// Takes in what a dump holds. As [`Dataset::of`].
    pub fn load(&mut self, bytes: &[u8]) {
        let (bytes, checksum) = bytes.split_last_chunk().expect("a dump ends with a checksum");
        let checksum = u64::from_le_bytes(*checksum);
        let found = crc_fast::checksum(CrcAlgorithm::Crc64Redis, bytes);
        assert!([0, found].contains(&checksum), "a damaged dump is loaded");
        let mut at = RDB_HEAD.len();
        let mut take = |length: usize| {
            at += length;
            &bytes[at - length..at]
        };
        let number = |bytes: &[u8]| u32::from_le_bytes(bytes.try_into().expect("four bytes"));
        loop {
            let tag = take(1)[0];
            if tag == END_TAG {
                return;
            }
            let db = number(take(4));
            let expires_at_ms = u64::from_le_bytes(take(8).try_into().expect("eight bytes"));
            let length = number(take(4)) as usize;
            let key = take(length).to_vec();
            let count = number(take(4));
            let mut words = Vec::new();
            for _ in 0..count {
                let length = number(take(4)) as usize;
                words.push(take(length).to_vec());
            }
            let value = match tag {
                TEXT_TAG => Value::Text(words.pop().expect("a text")),
                LIST_TAG => Value::List(words),
                _ => panic!("a dump with an item of kind {tag}"),
            };
            let expires_at_ms = (expires_at_ms > 0).then_some(expires_at_ms);
            self.replace((db, key), Some(Item { value, expires_at_ms }));
        }
    }

    pub fn clear(&mut self) {
        self.items.clear();
        self.digest = 0;
        self.changes += 1;
        self.cleared = self.changes;
    }

    /// Changes whenever the key may have.
    pub fn version(&self, db: u32, key: &[u8]) -> u64 {
        self.touched.get(&(db, key.to_vec())).map_or(self.cleared, |touched| self.cleared.max(*touched))
    }

    fn replace(&mut self, key: Key, item: Option<Item>) -> bool {
        self.changes += 1;
        self.touched.insert(key.clone(), self.changes);
        if let Some(item) = &item {
            self.digest ^= digest_of(&key, item);
        }
        let before = match item {
            Some(item) => self.items.insert(key.clone(), item),
            None => self.items.remove(&key),
        };
        if let Some(before) = &before {
            self.digest ^= digest_of(&key, before);
        }
        before.is_some()
    }

    /// Runs one write; the number is what Redis would reply.
    pub fn apply(&mut self, db: u32, words: &[&[u8]]) -> u64 {
        let key = (db, words[1].to_vec());
        let present = self.items.get(&key).map(|item| item.value.clone());
        let text = |text: Vec<u8>| Item { value: Value::Text(text), expires_at_ms: None };
        match (words[0], present) {
            (b"SET", _) => {
                let expires_at_ms = words.get(4).map(|word| number(word));
                self.replace(key, Some(Item { expires_at_ms, ..text(words[2].to_vec()) }));
                1
            }
            (b"DEL", _) => u64::from(self.replace(key, None)),
            (b"INCR", None | Some(Value::Text(_))) => {
                let value = self.text(db, words[1]).unwrap_or(0) + 1;
                self.replace(key, Some(text(value.to_string().into_bytes())));
                value
            }
            (b"RPUSH", None | Some(Value::List(_))) => {
                let mut list = match present_list(self.items.get(&key)) {
                    Some(list) => list.clone(),
                    None => Vec::new(),
                };
                list.push(words[2].to_vec());
                let length = list.len() as u64;
                self.replace(key, Some(Item { value: Value::List(list), expires_at_ms: None }));
                length
            }
            (name, present) => panic!("{} on {present:?}", String::from_utf8_lossy(name)),
        }
    }

    /// The number under a key of text.
    pub fn text(&self, db: u32, key: &[u8]) -> Option<u64> {
        match &self.items.get(&(db, key.to_vec()))?.value {
            Value::Text(text) => Some(number(text)),
            Value::List(_) => panic!("a list where a text was expected"),
        }
    }

    pub fn list(&self, db: u32, key: &[u8]) -> Vec<u64> {
        let list = present_list(self.items.get(&(db, key.to_vec())));
        list.map_or(Vec::new(), |list| list.iter().map(|word| number(word)).collect())
    }

    /// Keys whose time is over; a master deletes them, a replica waits to be told.
    pub fn expired(&self, wall_ms: u64) -> Vec<(u32, Vec<u8>)> {
        let is_over = |item: &Item| item.expires_at_ms.is_some_and(|at| at <= wall_ms);
        self.items.iter().filter(|(_, item)| is_over(item)).map(|(key, _)| key.clone()).collect()
    }

    pub fn len(&self) -> usize {
        self.items.len()
    }

    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }
}

fn present_list(item: Option<&Item>) -> Option<&Vec<Vec<u8>>> {
    match &item?.value {
        Value::List(list) => Some(list),
        Value::Text(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_tells_contents_not_history() {
        let mut one = Dataset::default();
        one.apply(0, &[b"SET", b"a", b"1"]);
        one.apply(3, &[b"RPUSH", b"l", b"7"]);
        one.apply(0, &[b"INCR", b"a"]);
        let mut other = Dataset::default();
        other.apply(3, &[b"RPUSH", b"l", b"7"]);
        other.apply(0, &[b"SET", b"b", b"9", b"PXAT", b"5"]);
        assert_ne!(one.digest(), other.digest());
        other.apply(0, &[b"SET", b"a", b"2"]);
        assert_eq!(other.expired(5).len(), 1);
        other.apply(0, &[b"DEL", b"b"]);
        assert_eq!(one.digest(), other.digest());
        other.apply(0, &[b"SET", b"e", b"9", b"PXAT", b"5"]);
        let loaded = Dataset::of(&other.dump());
        assert_eq!((loaded.digest(), loaded.items), (other.digest(), other.items));
        assert_eq!(Dataset::of(redisraft::node::feed::EMPTY_RDB).digest(), Dataset::default().digest());
        one.clear();
        assert_eq!(one.digest(), Dataset::default().digest());
    }
}
