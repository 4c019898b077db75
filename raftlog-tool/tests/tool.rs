//! The binary, as an operator runs it.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::mpsc::channel;

use bytes::Bytes;
use redisraft::log::{Entry, HardState, Identity, Kind, Log, Options, WriteRequest};
use serde_json::Value;

const MEMBER: &[u8] =
    b"*5\r\n$6\r\nMEMBER\r\n$1\r\n5\r\n$5\r\nvoter\r\n$6\r\nhost:1\r\n$10\r\nhost:10001\r\n";
const SET: &[u8] = b"*3\r\n$3\r\nSET\r\n$3\r\nkey\r\n$4\r\n\x00\"\r\n\r\n";

fn tool(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_raftlog-tool")).args(arguments).output().expect("run")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

fn lines(output: &Output) -> Vec<String> {
    text(&output.stdout).lines().map(str::to_string).collect()
}

fn json_lines(output: &Output) -> Vec<Value> {
    let lines: Vec<Value> =
        lines(output).iter().map(|line| serde_json::from_str(line).expect("one object per line")).collect();
    assert!(lines.iter().all(|line| line["schema"] == 1));
    lines
}

fn write(log: &mut Log, news: &std::sync::mpsc::Receiver<()>, request: WriteRequest) {
    let id = request.id;
    log.submit(request);
    while log.durable().expect("durable") < id {
        news.recv().expect("news");
    }
}

/// Entries 1..=3, of which 3 was truncated and replaced.
fn open_log(directory: &Path) -> Log {
    let (tell, news) = channel();
    let identity =
        Identity { cluster_id: "c".repeat(32), node_id: 5, secret: *b"the secret must never be shown!!" };
    let notify = Box::new(move || {
        let _ = tell.send(());
    });
    let options = Options { segment_bytes: 8192, ..Options::default() };
    let mut log = Log::create(directory, identity, options, notify).expect("create");
    let entries = vec![
        Entry::new(1, 2, Kind::NoOp, Bytes::new()),
        Entry::new(2, 2, Kind::Membership, Bytes::from_static(MEMBER)),
        Entry::new(3, 2, Kind::Normal, Bytes::from_static(b"*1\r\n$4\r\nOOPS\r\n")),
    ];
    let hard_state = Some(HardState { term: 2, vote: Some(5) });
    write(&mut log, &news, WriteRequest { id: 1, hard_state, entries, ..Default::default() });
    let payload = [SET, SET, b"junk"].concat();
    let entries = vec![Entry::new(3, 3, Kind::Normal, payload.into())];
    write(&mut log, &news, WriteRequest { id: 2, truncate_from: Some(3), entries, ..Default::default() });
    log
}

fn log_directory() -> (tempfile::TempDir, String, PathBuf) {
    let directory = tempfile::tempdir().expect("tempdir");
    let path = directory.path().join("raftlog");
    let name = path.to_str().expect("UTF-8").to_string();
    (directory, name, path)
}

#[test]
fn dump_shows_entries_and_their_effects() {
    let (_directory, name, path) = log_directory();
    drop(open_log(&path));
    let output = tool(&["dump", &name]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
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
    assert_eq!(lines(&output), expected);
    assert_eq!(lines(&tool(&["dump", "--last", "1", &name])), expected[3..]);
    assert_eq!(lines(&tool(&["dump", "--from", "2", "--to", "2", &name])), expected[1..3]);
    assert!(lines(&tool(&["dump", "--last", "0", &name])).is_empty());
}

#[test]
fn dump_as_json_loses_nothing() {
    let (_directory, name, path) = log_directory();
    drop(open_log(&path));
    let objects = json_lines(&tool(&["dump", "--json", &name]));
    assert_eq!(objects.len(), 3);
    let member = ["MEMBER", "5", "voter", "host:1", "host:10001"];
    assert_eq!(objects[1]["commands"], serde_json::json!([member]));
    assert_eq!(objects[2]["commands"][1], serde_json::json!(["SET", "key", "\u{0}\"\r\n"]));
    assert_eq!((&objects[2]["index"], &objects[2]["no_command"]), (&3.into(), &"junk".into()));
    let objects = json_lines(&tool(&["dump", "--json", "--headers", &name]));
    let types: Vec<&str> = objects.iter().map(|object| object["type"].as_str().expect("a type")).collect();
    assert_eq!(types, ["mark", "no-op", "membership", "copy", "normal", "truncate", "normal"]);
    assert_eq!((&objects[4]["truncated"], &objects[6]["truncated"]), (&true.into(), &false.into()));
    assert!(objects[4].get("commands").is_none());
}

#[test]
fn dump_headers_shows_every_record_in_its_place() {
    let (_directory, name, path) = log_directory();
    drop(open_log(&path));
    let lines = lines(&tool(&["dump", "--headers", &name]));
    assert_eq!(lines.len(), 7, "{lines:?}");
    assert!(
        lines[0].starts_with("0000000001.log:4096 crc ") && lines[0].ends_with("mark after 0 term 0, META 2")
    );
    assert!(lines[4].ends_with("normal 3 term 2 14 bytes (truncated later)"), "{}", lines[4]);
    assert!(lines[5].ends_with("truncate from 3 (batch)"), "{}", lines[5]);
}

#[test]
fn verify_says_clean_torn_or_damaged() {
    let (_directory, name, path) = log_directory();
    drop(open_log(&path));
    let output = tool(&["verify", &name]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(text(&output.stdout).starts_with("clean: 3 entries (1..=3), last term 3"), "{output:?}");
    assert!(!text(&output.stdout).contains("secret"));
    assert_eq!(json_lines(&tool(&["verify", "--json", &name]))[0]["last_index"], 3);

    let segment = path.join("0000000001.log");
    let clean = std::fs::read(&segment).expect("read");
    let mut torn = clean.clone();
    torn[6000] = 7;
    std::fs::write(&segment, &torn).expect("write");
    let output = tool(&["verify", &name]);
    assert_eq!(output.status.code(), Some(0));
    assert!(text(&output.stdout).contains("torn tail, not damage"), "{output:?}");

    let mut damaged = clean.clone();
    damaged[4096 + 40 + 5] ^= 1;
    std::fs::write(&segment, &damaged).expect("write");
    let output = tool(&["verify", &name]);
    assert_eq!(output.status.code(), Some(1));
    let report = text(&output.stdout);
    assert!(report.contains("0000000001.log at offset 4136 (entry 1): damaged"), "{report}");
    let object = &json_lines(&tool(&["verify", "--json", &name]))[0];
    assert_eq!((&object["result"], &object["offset"]), (&"damaged".into(), &4136.into()));
    let output = tool(&["dump", &name]);
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.is_empty() && text(&output.stderr).contains("offset 4136"));
    assert_eq!(std::fs::read(&segment).expect("read"), damaged, "the tool changes nothing");

    std::fs::write(&segment, &clean).expect("write");
    let meta = path.join("META");
    let mut bytes = std::fs::read(&meta).expect("read");
    bytes[30] ^= 1;
    std::fs::write(&meta, &bytes).expect("write");
    let output = tool(&["verify", &name]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stdout).contains("1 of 4 copies of META"), "{output:?}");
    std::fs::remove_file(&meta).expect("remove");
    assert_eq!(tool(&["verify", &name]).status.code(), Some(1), "segments without META");
}

#[test]
fn a_running_node_is_read_and_named() {
    let (_directory, name, path) = log_directory();
    let log = open_log(&path);
    let output = tool(&["verify", &name]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let note = format!("note: process {} has the log open", std::process::id());
    assert!(text(&output.stdout).contains(&note), "{output:?}");
    assert_eq!(json_lines(&tool(&["verify", "--json", &name]))[0]["in_use_by"], std::process::id());
    assert_eq!(lines(&tool(&["dump", "--last", "1", &name])).len(), 4);
    drop(log);
    assert!(!text(&tool(&["verify", &name]).stdout).contains("has the log open"));
}

#[test]
fn wrong_use_is_told_apart() {
    let (_directory, name, path) = log_directory();
    assert_eq!(tool(&[]).status.code(), Some(2));
    assert_eq!(tool(&["verify"]).status.code(), Some(2));
    assert_eq!(tool(&["dump", "--last", "2", "--from", "1", &name]).status.code(), Some(2));
    let output = tool(&["verify", &name]);
    assert_eq!(output.status.code(), Some(2), "no log there");
    assert!(text(&output.stderr).contains("holds no log"), "{output:?}");
    drop(open_log(&path));
    let segment = path.join("0000000001.log");
    std::fs::remove_file(&segment).expect("remove");
    std::fs::create_dir(&segment).expect("a directory instead");
    assert_eq!(tool(&["verify", &name]).status.code(), Some(3));
    let help = text(&tool(&["--help"]).stdout);
    assert!(help.contains("Exit codes:") && help.contains("verify"), "{help}");
}

#[test]
fn a_newer_format_is_not_called_damage() {
    let (_directory, name, path) = log_directory();
    drop(open_log(&path));
    let segment = path.join("0000000001.log");
    let mut bytes = std::fs::read(&segment).expect("read");
    bytes[8] = 2;
    let mut header = bytes[..12].to_vec();
    header.extend_from_slice(&bytes[16..4096]);
    let crc = crc32(&header);
    bytes[12..16].copy_from_slice(&crc.to_le_bytes());
    std::fs::write(&segment, bytes).expect("write");
    for command in ["dump", "verify"] {
        let output = tool(&[command, &name]);
        assert_eq!(output.status.code(), Some(5), "{output:?}");
        assert!(text(&output.stderr).contains("newer"), "{output:?}");
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

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let (_directory, name, path) = log_directory();
    let (tell, news) = channel();
    let identity = Identity { cluster_id: "c".repeat(32), node_id: 5, secret: [0; 32] };
    let notify = Box::new(move || {
        let _ = tell.send(());
    });
    let mut log = Log::create(&path, identity, Options::default(), notify).expect("create");
    let entries =
        (1..=20_000).map(|index| Entry::new(index, 1, Kind::Normal, Bytes::from_static(SET))).collect();
    write(&mut log, &news, WriteRequest { id: 1, entries, ..Default::default() });
    let mut child = Command::new(env!("CARGO_BIN_EXE_raftlog-tool"))
        .args(["dump", &name])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("run");
    let mut first = String::new();
    BufReader::new(child.stdout.take().expect("stdout")).read_line(&mut first).expect("a line");
    assert_eq!(first, "1 term 1 normal 32 bytes\n");
    let mut complaints = String::new();
    child.stderr.take().expect("stderr").read_to_string(&mut complaints).expect("stderr");
    assert_eq!((child.wait().expect("wait").code(), complaints.as_str()), (Some(0), ""));
}
