//! `diff`.

use redisraft::log::Kind;

use crate::support::*;

/// Two logs that begin with the same two entries, and go on with these.
fn pair(left: &[(u64, &[u8])], right: &[(u64, &[u8])]) -> (Fixture, Fixture) {
    let make = |node_id, entries: &[(u64, &[u8])]| {
        let fixture = Fixture::empty();
        let mut writer = fixture.create_as(node_id, 8192);
        writer.append_all(1, Kind::Normal, &[SET, SET]);
        for (term, payload) in entries {
            writer.append(*term, Kind::Normal, payload);
        }
        drop(writer);
        fixture
    };
    (make(5, left), make(6, right))
}

#[test]
fn equal_logs_and_a_log_that_is_behind_are_clean() {
    let (left, right) = pair(&[(2, SET)], &[(2, SET)]);
    let shown = run(0, &["diff", &left.name, &right.name]);
    assert!(shown.contains("equal: entries 1..=3") && shown.contains("node 6"), "{shown}");
    let (left, right) = pair(&[(2, SET)], &[]);
    let shown = run(0, &["diff", &left.name, &right.name]);
    assert!(shown.contains("equal: entries 1..=2") && shown.contains("goes on where"), "{shown}");
    let object = json(&run(0, &["diff", "--format", "json", &left.name, &right.name]));
    assert_eq!((&object["result"], &object["equal_to"]), (&"prefix".into(), &2.into()));
    let (empty, other) = (Fixture::empty(), Fixture::empty());
    drop((empty.create(), other.create()));
    assert!(run(0, &["diff", &empty.name, &other.name]).contains("same entries"));
}

#[test]
fn the_first_difference_is_shown_with_what_each_holds() {
    let other = effects(&["DEL key"]);
    let (left, right) = pair(&[(2, SET), (2, SET)], &[(3, &other)]);
    let shown = run(1, &["diff", &left.name, &right.name]);
    for line in ["first difference: entry 3", "A: term 2 normal", "B: term 3 normal", r#"    "DEL" "key""#] {
        assert!(shown.contains(line), "{line}: {shown}");
    }
    assert!(shown.contains("the terms differ"), "{shown}");
    let object = json(&run(1, &["diff", "--format", "json", &left.name, &right.name]));
    assert_eq!((&object["result"], &object["first_difference"]["index"]), (&"differ".into(), &3.into()));
    assert_eq!(object["first_difference"]["b"]["commands"][0]["command"][0], "DEL");

    let (left, right) = pair(&[(2, SET)], &[(2, &other)]);
    assert!(run(1, &["diff", &left.name, &right.name]).contains("Raft cannot make that"));
}

#[test]
fn truncated_entries_do_not_count() {
    let (left, right) = (Fixture::empty(), Fixture::empty());
    let mut writer = left.create();
    writer.append_all(1, Kind::Normal, &[SET, b"lost"]);
    writer.replace(2, 2, SET);
    drop(writer);
    let mut writer = right.create_as(6, 8192);
    writer.append(1, Kind::Normal, SET);
    writer.append(2, Kind::Normal, SET);
    drop(writer);
    assert!(run(0, &["diff", &left.name, &right.name]).contains("equal: entries 1..=2"));
}

#[test]
fn many_entries_are_compared_to_the_last() {
    let (left, right) = (Fixture::empty(), Fixture::empty());
    let payloads = vec![SET; 30_000];
    for (fixture, node_id) in [(&left, 5), (&right, 6)] {
        let mut writer = fixture.create_as(node_id, 8 << 20);
        writer.append_all(1, Kind::Normal, &payloads);
        writer.append(node_id, Kind::Normal, SET);
    }
    let shown = run(1, &["diff", &left.name, &right.name]);
    assert!(shown.contains("first difference: entry 30001"), "{shown}");
}

#[test]
fn logs_of_two_clusters_are_not_compared() {
    let (left, right) = pair(&[], &[]);
    change(&right.file("META"), |bytes| {
        for block in bytes.chunks_exact_mut(4096) {
            block[24] = b'd';
            let mut hasher = crc32fast::Hasher::new();
            hasher.update(&block[..12]);
            hasher.update(&block[16..]);
            block[12..16].copy_from_slice(&hasher.finalize().to_le_bytes());
        }
    });
    // Its segments belong to another cluster than its META then: that comes first where it is noticed.
    let output = tool(&["diff", &left.name, &right.name]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(text(&output.stderr).contains("two clusters"), "{output:?}");
}

#[test]
fn a_damaged_entry_is_compared_by_what_is_known_of_it() {
    let entries: [(u64, &[u8]); 4] = [(2, SET); 4];
    let (left, right) = pair(&entries, &entries);
    let bytes = std::fs::read(right.segment()).expect("read");
    let at = bytes.windows(3).rposition(|window| window == b"key").expect("the last entry");
    change(&right.segment(), |bytes| bytes[at] ^= 1);
    let output = tool(&["diff", &left.name, &right.name]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(text(&output.stdout).contains("equal: entries 1..=6"), "{output:?}");
    assert!(text(&output.stderr).contains("(entry 6 of term 2): damaged"), "{output:?}");
    change(&right.segment(), |bytes| bytes[at] ^= 1);
    right.wreck("0000000001.log", right.place(2).1);
    let output = tool(&["diff", &left.name, &right.name]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(text(&output.stdout).contains("equal: entries 1..=1"), "{output:?}");
}
