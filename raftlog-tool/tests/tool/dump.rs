//! `dump`, stopped logs.

use std::io::{BufRead, BufReader, Read};
use std::process::Stdio;

use redisraft::log::Kind;

use crate::support::*;

#[test]
fn entries_and_their_effects() {
    let fixture = Fixture::standard();
    let set = r#"    "SET" "key" "\x00\"\r\n""#;
    let expected = [
        "1 term 2 no-op 0 bytes",
        "2 term 2 membership 63 bytes",
        r#"    "MEMBER" "5" "voter" "host:1" "host:10001""#,
        "3 term 3 normal 68 bytes",
        set,
        set,
        r#"    (no command) "junk""#,
    ];
    let dump = |arguments: &[&str]| run(0, &[&["dump"], arguments, &[&fixture.name]].concat());
    assert_eq!(lines(&dump(&[])), expected);
    assert_eq!(lines(&dump(&["--last", "1"])), expected[3..]);
    assert_eq!(lines(&dump(&["--from", "2", "--to", "2"])), expected[1..3]);
    assert_eq!(lines(&dump(&["--term", "3"])), expected[3..]);
    assert_eq!(lines(&dump(&["--type", "membership,normal"])), expected[1..]);
    assert_eq!(lines(&dump(&["--type", "membership,normal", "--last", "1"])), expected[3..]);
    assert_eq!(lines(&dump(&["--term", "2", "--last", "1"])), expected[1..3]);
    assert!(dump(&["--last", "0"]).is_empty());
}

#[test]
fn an_entry_that_only_a_later_truncation_drops_is_not_shown() {
    let fixture = Fixture::empty();
    let mut writer = fixture.create();
    writer.append_all(1, Kind::Normal, &[SET; 5]);
    writer.replace(4, 2, SET);
    writer.replace(2, 3, SET);
    drop(writer);
    let expected = ["1 term 1 normal 32 bytes", "2 term 3 normal 32 bytes"];
    let shown = run(0, &["dump", &fixture.name]);
    assert_eq!(shown.lines().filter(|line| !line.starts_with(' ')).collect::<Vec<_>>(), expected);
}

#[test]
fn json_loses_nothing() {
    let fixture = Fixture::standard();
    let objects = json_lines(&run(0, &["dump", "--format", "jsonl", &fixture.name]));
    assert_eq!(objects.len(), 3);
    let member =
        serde_json::json!([{ "db": 0, "command": ["MEMBER", "5", "voter", "host:1", "host:10001"] }]);
    assert_eq!(objects[1]["commands"], member);
    assert_eq!(objects[2]["commands"][1]["command"], serde_json::json!(["SET", "key", "\u{0}\"\r\n"]));
    assert_eq!((&objects[2]["index"], &objects[2]["no_command"]), (&3.into(), &"junk".into()));
    let document = json(&run(0, &["dump", "--format", "json", &fixture.name]));
    assert_eq!(document["records"].as_array().expect("an array"), &objects);
    assert_eq!((&document["complete"], &document["torn"]), (&true.into(), &false.into()));
    let none = json(&run(0, &["dump", "--format", "json", "--last", "0", &fixture.name]));
    assert_eq!(none["records"], serde_json::json!([]));

    let objects = json_lines(&run(0, &["dump", "--format", "jsonl", "--headers", &fixture.name]));
    let types: Vec<&str> = objects.iter().map(|object| object["type"].as_str().expect("a type")).collect();
    let entries: Vec<&str> = types.iter().copied().filter(|name| !["mark", "copy"].contains(name)).collect();
    assert_eq!((types[0], entries), ("mark", vec!["no-op", "membership", "normal", "truncate", "normal"]));
    let normal: Vec<_> = objects.iter().filter(|object| object["type"] == "normal").collect();
    assert_eq!((&normal[0]["state"], &normal[1]["state"]), (&"truncated".into(), &"live".into()));
    assert!(normal[0].get("commands").is_none());
}

#[test]
fn headers_show_every_record_in_its_place() {
    let fixture = Fixture::standard();
    let output = run(0, &["dump", "--headers", &fixture.name]);
    let lines = lines(&output);
    assert!(lines[0].starts_with("0000000001.log:4096 crc ") && lines[0].contains(" mark "), "{output}");
    assert!(
        lines.iter().any(|line| line.ends_with("normal 3 term 2 14 bytes (truncated later)")),
        "{output}"
    );
    assert!(lines.iter().any(|line| line.contains(" truncate from 3")), "{output}");
    let truncates = run(0, &["dump", "--headers", "--type", "truncate", &fixture.name]);
    assert_eq!(truncates.lines().count(), 1);
}

#[test]
fn hex_is_what_stands_in_the_file() {
    let fixture = Fixture::standard();
    let output = run(0, &["dump", "--headers", "--format", "hex", &fixture.name]);
    let file = std::fs::read(fixture.segment()).expect("read");
    let mut seen = 0;
    for line in output.lines().filter(|line| !line.starts_with("0000000001.log")) {
        let (offset, rest) = line.split_once(' ').expect("an offset");
        let offset = usize::from_str_radix(offset, 16).expect("hex");
        let bytes = rest.split('|').next().expect("hex").split_whitespace();
        for (position, byte) in bytes.enumerate() {
            assert_eq!(u8::from_str_radix(byte, 16).ok(), Some(file[offset + position]), "{line}");
            seen += 1;
        }
    }
    let used = file[4096..].iter().rposition(|byte| *byte != 0).expect("records") + 1;
    assert!(seen >= used && seen - used < 8, "{seen} bytes were shown of {used}");
}

#[test]
fn resp_is_the_stream_itself() {
    let first = effects(&["SET a 1", "SELECT 3", "SET b 2", "SELECT 0"]);
    let second = effects(&["SELECT 3", "DEL b", "SELECT 0"]);
    let fixture = Fixture::with_entries(&[first, second]);
    let output = tool(&["dump", "--format", "resp", &fixture.name]);
    let expected = effects(&["SET a 1", "SELECT 3", "SET b 2", "DEL b", "SELECT 0"]);
    assert_eq!(text(&output.stdout), text(&expected));
    let output = tool(&["dump", "--format", "resp", "--key", "a", &fixture.name]);
    assert_eq!(text(&output.stdout), text(&effects(&["SET a 1"])));
}

#[test]
fn long_values_are_shortened_on_request_only_shown_whole() {
    let value = "v".repeat(100);
    let fixture = Fixture::with_entries(&[effects(&[&format!("SET {} {value}", "k".repeat(100))])]);
    let short = run(0, &["dump", &fixture.name]);
    assert!(
        short.contains(&format!("\"{}\" \"{}\"... (100 bytes)", "k".repeat(100), "v".repeat(32))),
        "{short}"
    );
    assert!(run(0, &["dump", "--values", &fixture.name]).contains(&value));
    assert!(run(0, &["dump", "--format", "jsonl", &fixture.name]).contains(&value));
}

#[test]
fn colours_are_for_terminals_or_on_demand() {
    let fixture = Fixture::standard();
    assert!(!run(0, &["dump", &fixture.name]).contains('\x1b'));
    assert!(run(0, &["dump", "--color", "always", &fixture.name]).contains('\x1b'));
    assert!(!run(0, &["--color", "never", "dump", &fixture.name]).contains('\x1b'));
    let resp = run(0, &["dump", "--color", "always", "--format", "resp", &fixture.name]);
    assert!(!resp.contains('\x1b'), "data for programs has no colours");
}

#[test]
fn a_damaged_entry_is_shown_as_such_and_what_is_behind_it_too() {
    let payloads: Vec<_> = (1..=4).map(|number| effects(&[&format!("SET key:{number} v")])).collect();
    let fixture = Fixture::with_entries(&payloads);
    let clean = run(0, &["dump", &fixture.name]);
    fixture.flip_payload(b"key:2");
    let output = tool(&["dump", &fixture.name]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let (shown, clean) = (text(&output.stdout), lines(&clean));
    assert_eq!((&lines(&shown)[..3], &lines(&shown)[4..]), (&clean[..3], &clean[4..]));
    assert!(lines(&shown)[3].starts_with("    (damaged) expected crc "), "{shown}");
    let complaint = text(&output.stderr);
    assert!(
        complaint.contains("(entry 2 of term 1): damaged") && complaint.contains("fetches it"),
        "{complaint}"
    );
    let document = json(&run(1, &["dump", "--format", "json", &fixture.name]));
    assert_eq!(
        (&document["complete"], document["records"].as_array().map(Vec::len)),
        (&false.into(), Some(4))
    );
    assert!(document["records"][1]["damage"]["expected"].is_string(), "{document}");
    assert!(run(1, &["dump", "--headers", &fixture.name]).contains(" (damaged)"));
    let last = run(1, &["dump", "--key", "*", "--last", "2", &fixture.name]);
    assert_eq!(lines(&last), clean[4..]);
    assert!(run(1, &["stat", &fixture.name]).contains("damaged   1 entries"));
    assert_eq!(run(1, &["find", "--key", "key:*", &fixture.name]).lines().count(), 3);
}

#[test]
fn all_before_damage_that_nothing_identifies_is_printed() {
    let payloads: Vec<_> = (1..=8).map(|number| effects(&[&format!("SET key:{number} v")])).collect();
    let fixture = Fixture::with_entries(&payloads);
    let clean = run(0, &["dump", &fixture.name]);
    fixture.wreck("0000000001.log", fixture.place(3).1);
    let output = tool(&["dump", &fixture.name]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert_eq!(lines(&text(&output.stdout)), lines(&clean)[..4]);
    let complaint = text(&output.stderr);
    assert!(complaint.contains("0000000001.log at offset") && complaint.contains("(entry 3)"), "{complaint}");
    let document = run(1, &["dump", "--format", "json", &fixture.name]);
    assert_eq!(json(&document)["complete"], false, "a JSON document is closed all the same");
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let fixture = Fixture::empty();
    let payloads = vec![SET; 20_000];
    fixture.create_as(5, 64 << 20).append_all(1, Kind::Normal, &payloads);
    for arguments in
        [&["dump"][..], &["dump", "--format", "json"], &["find", "--key", "*"], &["export", "--all"]]
    {
        let mut child = command(&[arguments, &[&fixture.name]].concat())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("run");
        let mut first = String::new();
        BufReader::new(child.stdout.take().expect("stdout")).read_line(&mut first).expect("a line");
        let mut complaints = String::new();
        child.stderr.take().expect("stderr").read_to_string(&mut complaints).expect("stderr");
        let code = child.wait().expect("wait").code();
        assert_eq!((code, complaints.as_str()), (Some(0), ""), "{arguments:?}");
    }
}
