//! Beside a running writer.

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::sync::mpsc::{channel, Receiver};
use std::time::Duration;

use redisraft::log::Kind;

use crate::support::*;

#[test]
fn a_running_node_is_read_and_named() {
    let fixture = Fixture::empty();
    let writer = fixture.create().standard();
    let report = run(0, &["verify", &fixture.name]);
    let note = format!("note: process {} has the log open", std::process::id());
    assert!(report.contains(&note), "{report}");
    let object = json(&run(0, &["verify", "--format", "json", &fixture.name]));
    assert_eq!(object["in_use_by"], std::process::id());
    assert_eq!(run(0, &["dump", "--last", "1", &fixture.name]).lines().count(), 4);
    assert!(run(0, &["meta", &fixture.name]).contains("in use"));
    drop(writer);
    assert!(!run(0, &["verify", &fixture.name]).contains("has the log open"));
}

#[test]
fn reading_while_entries_are_written_and_truncated_never_sees_damage() {
    let fixture = Fixture::empty();
    let mut writer = fixture.create_as(5, 64 << 10);
    writer.append(1, Kind::Normal, SET);
    std::thread::scope(|scope| {
        let (stop, stopped) = channel::<()>();
        scope.spawn(move || {
            let mut term = 1;
            while stopped.try_recv().is_err() {
                for _ in 0..20 {
                    writer.append_all(term, Kind::Normal, &[SET; 7]);
                }
                term += 1;
                let last = writer.log.last_index();
                writer.replace(last - 3, term, SET);
            }
        });
        for _ in 0..6 {
            for arguments in [&["verify", "--deep"][..], &["dump", "--last", "3"], &["stat"]] {
                let output = tool(&[arguments, &[&fixture.name]].concat());
                assert_eq!(output.status.code(), Some(0), "{arguments:?}: {output:?}");
            }
        }
        stop.send(()).expect("the writer runs");
    });
}

/// Lines of a process, as they come.
fn stream(output: impl std::io::Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    receiver
}

#[test]
fn follow_prints_what_is_written_across_segments_and_truncations() {
    let fixture = Fixture::empty();
    let mut writer = fixture.create();
    writer.append(1, Kind::Normal, SET);
    let mut child = command(&["dump", "--follow", "--last", "1", "--format", "jsonl", &fixture.name])
        .stdout(Stdio::piped())
        .spawn()
        .expect("run");
    let lines = stream(child.stdout.take().expect("stdout"));
    let next = || {
        let line = lines.recv_timeout(Duration::from_secs(20)).expect("a line in time");
        serde_json::from_str::<serde_json::Value>(&line).expect("JSON")
    };
    assert_eq!(next()["index"], 1);
    let payload = effects(&[&format!("SET k {}", "v".repeat(1000))]);
    for index in 2..20u64 {
        writer.append(1, Kind::Normal, &payload);
        let object = next();
        assert_eq!((&object["index"], &object["type"]), (&index.into(), &"normal".into()));
    }
    writer.replace(15, 2, SET);
    let truncate = next();
    assert_eq!((&truncate["type"], &truncate["index"]), (&"truncate".into(), &15.into()));
    assert_eq!(next()["index"], 15);
    writer.append(3, Kind::NoOp, b"");
    assert_eq!(next()["term"], 3);
    child.kill().expect("kill");
    child.wait().expect("wait");
}

#[test]
fn follow_begins_with_a_log_that_is_still_empty() {
    let fixture = Fixture::empty();
    let mut writer = fixture.create();
    let mut child = command(&["dump", "-f", &fixture.name]).stdout(Stdio::piped()).spawn().expect("run");
    let lines = stream(child.stdout.take().expect("stdout"));
    std::thread::sleep(Duration::from_millis(100));
    writer.append(1, Kind::NoOp, b"");
    let line = lines.recv_timeout(Duration::from_secs(20)).expect("a line in time");
    assert_eq!(line, "1 term 1 no-op 0 bytes");
    child.kill().expect("kill");
    child.wait().expect("wait");
}
