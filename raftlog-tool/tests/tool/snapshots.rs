//! Logs that were compacted: what they begin behind, and whether it is there.

use redisraft::log::Kind;

use crate::support::*;

/// Twelve entries, the first of which were purged: a snapshot of entry 8 is beside the log. The log begins at the second
/// number.
fn compacted() -> (Fixture, u64) {
    let fixture = Fixture::empty();
    let mut writer = fixture.create();
    for number in 1..=12 {
        writer.append(1, Kind::Normal, &effects(&[&format!("SET key:{number} {}", "v".repeat(1000))]));
    }
    writer.compact(&fixture.path, 8);
    let first = writer.log.first_index();
    assert!((3..=8).contains(&first), "{first}");
    (fixture, first)
}

#[test]
fn every_command_says_what_the_log_begins_behind() {
    let (fixture, first) = compacted();
    let line = "of entry 8 of term 1, 40 B in snapshot-8-1.rdb, members 5";
    assert!(run(0, &["verify", "--deep", &fixture.name]).contains(&format!("snapshot: {line}")));
    assert!(run(0, &["stat", &fixture.name]).contains(&format!("snapshot  {line}")));
    assert!(run(0, &["meta", &fixture.name]).contains(&format!("snapshot    {line}")));
    let dumped = tool(&["dump", &fixture.name]);
    let note = format!("begins behind entry {}; a snapshot holds what was before: {line}", first - 1);
    assert!(text(&dumped.stderr).contains(&note), "{dumped:?}");
    let document = json(&run(0, &["dump", "--format", "json", &fixture.name]));
    assert_eq!(
        (document["begins_behind"].as_u64(), &document["snapshot"]["index"]),
        (Some(first - 1), &8.into())
    );
    for command in ["verify", "stat", "meta"] {
        let object = json(&run(0, &[command, "--format", "json", &fixture.name]));
        assert_eq!(object["snapshot"]["file"], "snapshot-8-1.rdb", "{command}");
        assert_eq!(object["snapshot"]["members"], serde_json::json!([5]), "{command}");
    }
    let whole = Fixture::standard();
    assert!(run(0, &["meta", &whole.name]).contains("snapshot    none"));
    assert!(!text(&tool(&["dump", &whole.name]).stderr).contains("begins behind"));
}

#[test]
fn an_export_from_the_beginning_names_the_snapshot_and_what_follows_it() {
    let (fixture, first) = compacted();
    let refused = complaint(2, &["export", "--all", &fixture.name]);
    assert!(
        refused.contains("snapshot-8-1.rdb as its dump.rdb") && refused.contains("export --from 9"),
        "{refused}"
    );
    let refused = complaint(2, &["export", "--to", "7", &fixture.name]);
    assert!(refused.contains("is of entry 8, later than wanted"), "{refused}");
    assert!(run(0, &["export", "--from", "9", "--all", &fixture.name]).contains("key:9"));
    std::fs::remove_file(fixture.file("snapshot-8-1.about")).expect("remove");
    let refused = complaint(2, &["export", "--all", &fixture.name]);
    assert!(
        refused.contains("no intact snapshot") && refused.contains(&format!("--from {first}")),
        "{refused}"
    );
}

#[test]
fn a_damaged_dump_is_found_by_its_checksum_and_a_shorter_one_by_its_length() {
    let (fixture, _) = compacted();
    change(&fixture.file("snapshot-8-1.rdb"), |bytes| bytes[20] ^= 1);
    run(0, &["verify", &fixture.name]);
    let report = run(1, &["verify", "--deep", &fixture.name]);
    assert!(report.contains("snapshot-8-1.rdb at offset 0: damaged: expected crc"), "{report}");
    assert!(report.contains("no intact snapshot holds what was before"), "{report}");
    change(&fixture.file("snapshot-8-1.rdb"), |bytes| bytes.truncate(20));
    let object = json(&run(1, &["verify", "--format", "json", &fixture.name]));
    assert_eq!(object["snapshot_meets_log"], false);
    assert!(object["snapshots_damaged"][0].as_str().is_some_and(|text| text.contains("a file of 40 bytes")));
    change(&fixture.file("snapshot-8-1.about"), |bytes| bytes[50] ^= 1);
    assert!(run(1, &["verify", &fixture.name]).contains("snapshot-8-1.about at offset 12: damaged"));
}

#[test]
fn a_gap_between_snapshot_and_log_is_damage_that_no_cut_mends() {
    let (fixture, first) = compacted();
    for name in ["snapshot-8-1.about", "snapshot-8-1.rdb"] {
        std::fs::remove_file(fixture.file(name)).expect("remove");
    }
    let gap = format!("begins behind entry {}, and no intact snapshot", first - 1);
    assert!(run(1, &["verify", &fixture.name]).contains(&gap));
    let report = run(1, &["repair", &fixture.name]);
    assert!(report.contains(&gap) && !report.contains("--truncate-at"), "{report}");
}

#[test]
fn a_cut_before_the_snapshot_is_refused_unless_nothing_behind_it_can_be_read() {
    let (fixture, first) = compacted();
    let cut = |at: u64, code| {
        let at = at.to_string();
        let arguments = ["repair", "--accept-data-loss", "--apply", "--truncate-at", &at, &fixture.name];
        let output = tool(&arguments);
        assert_eq!(output.status.code(), Some(code), "{output:?}");
        text(&[output.stdout, output.stderr].concat())
    };
    for at in [first, 8] {
        assert!(cut(at, 2).contains("give --truncate-at 9 or more"));
    }
    assert!(run(0, &["verify", "--deep", &fixture.name]).contains("..=12)"), "nothing was cut");
    let (name, offset) = fixture.place(8);
    fixture.wreck(&name, offset);
    assert!(cut(8, 6).contains("the log ends at entry 7 now"));
    assert!(run(0, &["verify", &fixture.name]).contains("the log ends before the snapshot"));
}

#[test]
fn what_the_snapshot_holds_is_not_missed_in_the_log() {
    let (fixture, first) = compacted();
    let (name, offset) = fixture.place(first);
    fixture.flip(&name, offset + 100);
    let report = run(1, &["verify", &fixture.name]);
    assert!(report.contains("the snapshot holds it: the next start gives it up"), "{report}");
    let report = run(0, &["repair", &fixture.name]);
    assert!(report.contains("nothing to repair"), "{report}");
}
