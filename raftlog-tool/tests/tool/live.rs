//! Beside a running writer.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::sync::mpsc::{channel, Receiver, TryRecvError};
use std::time::{Duration, Instant};

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
fn reading_while_entries_are_written_truncated_and_purged_never_sees_damage() {
    let fixture = Fixture::empty();
    let mut writer = fixture.create_as(5, 64 << 10);
    writer.append(1, Kind::Normal, SET);
    std::thread::scope(|scope| {
        let (stop, stopped) = channel::<()>();
        let fixture = &fixture;
        scope.spawn(move || {
            let mut term = 1;
            // Ends with the test, whether it is red or green.
            while stopped.try_recv() == Err(TryRecvError::Empty) {
                for _ in 0..20 {
                    writer.append_all(term, Kind::Normal, &[SET; 7]);
                }
                term += 1;
                let last = writer.log.last_index();
                writer.replace(last - 3, term, SET);
                if last > 2000 {
                    writer.compact(&fixture.path, last - 2000);
                }
            }
        });
        for _ in 0..6 {
            for arguments in [&["verify", "--deep"][..], &["dump", "--last", "3"], &["stat"]] {
                let output = tool(&[arguments, &[&fixture.name]].concat());
                assert_eq!(output.status.code(), Some(0), "{arguments:?}: {output:?}");
            }
        }
        wait_until("a segment is purged", || !fixture.segment().exists());
        stop.send(()).expect("the writer runs");
    });
}

#[test]
fn a_purged_log_begins_later() {
    let fixture = Fixture::empty();
    let mut writer = fixture.create();
    let payload = effects(&[&format!("SET k {}", "v".repeat(1000))]);
    for _ in 0..12 {
        writer.append(1, Kind::Normal, &payload);
    }
    writer.compact(&fixture.path, 6);
    let first = writer.log.first_index();
    assert!((2..=7).contains(&first), "{first}");
    wait_until("the first segment is purged", || !fixture.segment().exists());
    let entries = format!("{} entries ({first}..=12)", 13 - first);
    assert!(run(0, &["verify", "--deep", &fixture.name]).contains(&entries));
    assert!(run(0, &["dump", &fixture.name]).starts_with(&format!("{first} term 1 ")));
    assert!(run(0, &["meta", &fixture.name]).contains(&format!("behind entry {} of term 1", first - 1)));
    let refused = complaint(2, &["export", "--all", &fixture.name]);
    assert!(refused.contains(&format!("begins at entry {first}")), "{refused}");
    let index = first.to_string();
    assert_eq!(run(0, &["export", "--from", &index, "--to", &index, &fixture.name]), text(&payload));
    drop(writer);
    let below = (first - 1).to_string();
    let arguments = ["repair", "--accept-data-loss", "--truncate-at", &below, &fixture.name];
    assert!(complaint(2, &arguments).contains("is in a snapshot"));
    let arguments = ["repair", "--accept-data-loss", "--apply", "--truncate-at", &index, &fixture.name];
    assert!(run(6, &arguments).contains(&format!("the log ends at entry {below} now")));
    let (log, _) =
        redisraft::log::Log::open(&fixture.path, Default::default(), Box::new(|| ())).expect("open");
    assert_eq!((log.first_index(), log.last_index(), log.is_trusted()), (first, first - 1, false));
}

fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "timed out: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A `dump --follow`, which would never end by itself; killed when dropped, whether the test is red or green.
struct Follower {
    child: Child,
    lines: Receiver<String>,
}

impl Follower {
    fn start(arguments: &[&str]) -> Follower {
        let mut child = command(arguments).stdout(Stdio::piped()).spawn().expect("run");
        let lines = stream(child.stdout.take().expect("stdout"));
        Follower { child, lines }
    }

    fn next(&self) -> String {
        self.lines.recv_timeout(Duration::from_secs(20)).expect("a line in time")
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
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
    let follower = Follower::start(&["dump", "--follow", "--last", "1", "--format", "jsonl", &fixture.name]);
    let next = || serde_json::from_str::<serde_json::Value>(&follower.next()).expect("JSON");
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
}

#[test]
fn follow_begins_with_a_log_that_is_still_empty() {
    let fixture = Fixture::empty();
    let mut writer = fixture.create();
    let follower = Follower::start(&["dump", "-f", &fixture.name]);
    std::thread::sleep(Duration::from_millis(100));
    writer.append(1, Kind::NoOp, b"");
    assert_eq!(follower.next(), "1 term 1 no-op 0 bytes");
}
