//! `verify` and `meta`, and the exit codes of all that reads.

use redisraft::log::Kind;

use crate::support::*;

#[test]
fn clean_torn_or_damaged() {
    let fixture = Fixture::standard();
    let name = fixture.name.as_str();
    let report = run(0, &["verify", name]);
    assert!(report.starts_with("clean: 3 entries (1..=3), last term 3"), "{report}");
    let object = json(&run(0, &["verify", "--format", "json", name]));
    assert_eq!((&object["last_index"], &object["result"]), (&3.into(), &"clean".into()));

    let clean = std::fs::read(fixture.segment()).expect("read");
    let end = clean.iter().rposition(|byte| *byte != 0).expect("records");
    change(&fixture.segment(), |bytes| bytes[end + 512] = 7);
    let report = run(0, &["verify", name]);
    assert!(report.contains("torn tail, not damage"), "{report}");
    assert!(json(&run(0, &["verify", "--format", "json", name]))["torn"]["bytes"].is_u64());
    assert!(complaint(0, &["dump", name]).contains("belong to no complete batch"));

    std::fs::write(fixture.segment(), &clean).expect("write");
    let meta = std::fs::read(fixture.file("META")).expect("read");
    fixture.flip("META", 30);
    let report = run(1, &["verify", name]);
    assert!(report.starts_with("damaged") && report.contains("1 of 4 copies of META"), "{report}");
    fixture.flip("META", 8192 + 30);
    assert!(run(1, &["verify", name]).starts_with("damaged"));
    std::fs::write(fixture.file("META"), meta).expect("write");
    assert!(run(0, &["verify", name]).starts_with("clean"));
    std::fs::remove_file(fixture.file("META")).expect("remove");
    assert!(run(1, &["verify", name]).contains("META"), "segments without META");
}

#[test]
fn damage_is_named_and_nothing_is_changed() {
    let payloads: Vec<_> = (1..=8).map(|number| effects(&[&format!("SET key:{number} v")])).collect();
    let fixture = Fixture::with_entries(&payloads);
    fixture.flip_payload(b"key:3");
    let before = fixture.content();
    let report = run(1, &["verify", &fixture.name]);
    assert!(report.starts_with("damaged: 8 entries (1..=8)"), "{report}");
    assert!(report.contains("(entry 3 of term 1): damaged: expected crc "), "{report}");
    let object = json(&run(1, &["verify", "--format", "json", &fixture.name]));
    assert_eq!((&object["result"], &object["holes"][0]["index"]), (&"damaged".into(), &3.into()), "{object}");
    for (command, code) in [("dump", 1), ("stat", 1), ("meta", 0)] {
        assert_eq!(tool(&[command, &fixture.name]).status.code(), Some(code), "{command}");
    }
    fixture.assert_content(&before, "reading changes nothing");

    let offset = object["holes"][0]["offset"].as_u64().expect("an offset") as usize;
    fixture.wreck("0000000001.log", offset);
    let before = fixture.content();
    let report = run(1, &["verify", &fixture.name]);
    assert!(report.starts_with("damaged: ") && report.contains("0000000001.log at offset"), "{report}");
    let object = json(&run(1, &["verify", "--format", "json", &fixture.name]));
    assert_eq!((&object["result"], &object["index"]), (&"damaged".into(), &3.into()), "{object}");
    for command in ["dump", "stat"] {
        assert_eq!(tool(&[command, &fixture.name]).status.code(), Some(1), "{command}");
    }
    assert_eq!(tool(&["find", "--key", "k", &fixture.name]).status.code(), Some(1));
    assert_eq!(tool(&["export", "--all", &fixture.name]).status.code(), Some(1));
    fixture.assert_content(&before, "reading changes nothing");
}

#[test]
fn damage_whose_content_is_known_is_told_and_harms_nobody() {
    let fixture = Fixture::standard();
    let clean = run(0, &["dump", &fixture.name]);
    // The mark, the first membership, the truncation, and an entry that it drops.
    let records = json_lines(&run(0, &["dump", "--headers", "--format", "jsonl", &fixture.name]));
    for (wanted, at, advice) in [
        ("mark", 9, "the next start writes it anew"),
        ("membership", 9, "the next start writes it anew"),
        ("truncate", 9, "the next start writes it anew"),
        ("normal", 9, "the next start writes it anew"),
        ("normal", 34, "a later record drops it, so nothing is missing"),
    ] {
        let record = records.iter().find(|record| record["type"] == wanted).expect("a record");
        let offset = record["offset"].as_u64().expect("an offset") as usize;
        fixture.flip("0000000001.log", offset + at);
        let report = run(1, &["verify", &fixture.name]);
        assert!(report.starts_with("damaged: 3 entries") && report.contains(advice), "{wanted}: {report}");
        assert_eq!(run(0, &["dump", &fixture.name]), clean, "{wanted}");
        fixture.flip("0000000001.log", offset + at);
    }
}

#[test]
fn deep_looks_at_what_entries_carry() {
    let fixture = Fixture::with_entries(&[effects(&["SET k v"]), effects(&["MULTI", "SET k v", "EXEC"])]);
    assert!(run(0, &["verify", "--deep", &fixture.name]).starts_with("clean"));

    let fixture = Fixture::with_entries(&[
        effects(&["SET k v"]),
        effects(&["MULTI", "SET k v"]),
        b"*2\r\n$3\r\nGET\r\n".to_vec(),
        effects(&["SELECT 3", "SET k v"]),
    ]);
    assert!(run(0, &["verify", &fixture.name]).starts_with("clean"), "every checksum is right");
    let report = run(1, &["verify", "--deep", &fixture.name]);
    assert!(report.starts_with("damaged: 4 entries"), "{report}");
    for finding in [
        "(entry 2): expected MULTI and EXEC in one entry, found MULTI alone",
        "(entry 3): expected whole commands, found 13 bytes that are the beginning of a command",
        "(entry 4): expected an entry that ends in database 0, found at byte",
    ] {
        assert!(report.contains(finding), "{finding}: {report}");
    }
    let object = json(&run(1, &["verify", "--deep", "--format", "json", &fixture.name]));
    assert_eq!((&object["findings_count"], &object["findings"][0]["index"]), (&3.into(), &2.into()));

    let fixture = Fixture::empty();
    fixture.create().append(1, Kind::Membership, b"nobody");
    assert!(run(1, &["verify", "--deep", &fixture.name]).contains("members of the cluster"));
}

#[test]
fn deep_misses_lines_of_the_index_of_a_complete_segment() {
    let payload = effects(&[&format!("SET k {}", "v".repeat(2000))]);
    let fixture = Fixture::with_entries(&vec![payload; 5]);
    assert!(run(0, &["verify", "--deep", &fixture.name]).starts_with("clean"));
    change(&fixture.file("0000000001.idx"), |bytes| {
        let last = bytes.iter().rposition(|byte| *byte != 0).expect("lines");
        bytes[last] ^= 1;
    });
    let report = run(0, &["verify", &fixture.name]);
    assert!(report.contains("1 index files are incomplete"), "{report}");
    let report = run(1, &["verify", "--deep", &fixture.name]);
    assert!(report.contains("0000000001.idx") && report.contains("--rebuild-index"), "{report}");
}

#[test]
fn meta_shows_identity_and_the_state_of_its_copies() {
    let fixture = Fixture::standard();
    let shown = run(0, &["meta", &fixture.name]);
    for line in ["node        5", "term        2", "vote        node 5"] {
        assert!(shown.contains(line), "{line}: {shown}");
    }
    assert_eq!(shown.matches(": valid").count(), 4, "{shown}");
    let object = json(&run(0, &["meta", "--format", "json", &fixture.name]));
    assert_eq!((&object["meta"]["node_id"], &object["meta"]["vote"]), (&5.into(), &5.into()));
    fixture.flip("META", 30);
    let shown = run(1, &["meta", &fixture.name]);
    assert!(shown.contains("1 of 4 copies are damaged") && shown.contains("node        5"), "{shown}");
    fixture.flip("META", 8192 + 30);
    let shown = run(1, &["meta", &fixture.name]);
    assert!(shown.contains("two damaged ones") && !shown.contains("node        5"), "{shown}");
    assert_eq!(shown.matches(": damaged\n").count(), 2, "{shown}");
    change(&fixture.file("META"), |bytes| bytes.truncate(100));
    assert!(run(1, &["meta", &fixture.name]).contains("100 bytes"));
}

#[test]
fn wrong_use_is_told_apart() {
    let fixture = Fixture::empty();
    let name = fixture.name.as_str();
    for arguments in [
        &[][..],
        &["verify"],
        &["dump", "--format", "yaml", name],
        &["dump", "--follow", "--format", "json", name],
        &["dump", "--follow", "--to", "3", name],
        &["dump", "--headers", "--format", "resp", name],
        &["dump", "--type", "mark", name],
        &["export", name],
        &["export", "--all", "--to", "3", name],
        &["find", name],
        &["completions", "ksh"],
        &["man", "nothing"],
    ] {
        assert_eq!(tool(arguments).status.code(), Some(2), "{arguments:?}");
    }
    for command in ["dump", "verify", "stat", "meta"] {
        assert!(complaint(2, &[command, name]).contains("holds no log"), "{command}");
    }
    drop(fixture.create());
    std::fs::remove_file(fixture.segment()).expect("remove");
    std::fs::create_dir(fixture.segment()).expect("a directory instead");
    for command in ["dump", "verify", "stat"] {
        assert_eq!(tool(&[command, name]).status.code(), Some(3), "{command}");
    }
}

#[test]
fn a_newer_format_is_not_called_damage() {
    let fixture = Fixture::standard();
    change(&fixture.segment(), |bytes| {
        bytes[8] = 99;
        let crc = crc32(&[&bytes[..12], &bytes[16..4096]].concat());
        bytes[12..16].copy_from_slice(&crc.to_le_bytes());
    });
    for command in ["dump", "verify", "stat"] {
        assert!(complaint(5, &[command, &fixture.name]).contains("newer"), "{command}");
    }
}

/// crc32 (IEEE), bit by bit.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(
            crc ^ u32::from(*byte),
            |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 },
        )
    })
}
