//! `recover`: what it says, what it makes, and what it refuses. That no crash and no failing disk leaves anything between
//! the old log and the new one is tested in the library's `tests/recover.rs`.

use std::path::{Path, PathBuf};

use redisraft::log::{HardState, Kind, Log, Options, WriteRequest};
use redisraft::node::members::{Member, Members};

use crate::support::*;

const NEW: &str = "0123456789abcdefghijklmnopqrstuv";

/// A log of node 5, one of three voters, whose last entries nobody knows to be committed.
fn one_of_three() -> Fixture {
    let fixture = Fixture::empty();
    let mut writer = fixture.create();
    let member = |port: u16| Member {
        voting: true,
        address: format!("host:{port}"),
        peer_address: format!("host:{}", port + 10000),
        in_memory: false,
    };
    let members = Members([(5, member(1)), (6, member(2)), (7, member(3))].into());
    writer.append(1, Kind::Membership, &members.encode());
    writer.append(2, Kind::NoOp, b"");
    writer.append_all(2, Kind::Normal, &[SET, SET, SET]);
    let hard_state = Some(HardState { term: 4, vote: Some(6) });
    writer.write(WriteRequest { hard_state, ..WriteRequest::default() });
    fixture
}

fn open(directory: &Path) -> Log {
    let options = Options { segment_bytes: 8192, ..Options::default() };
    Log::open(directory, options, Box::new(|| ())).expect("open").0
}

/// Every file with its content, but LOCK, in which a process notes itself.
fn files(fixture: &Fixture) -> Vec<(PathBuf, Vec<u8>)> {
    fixture.content().into_iter().filter(|file| !file.0.ends_with("LOCK")).collect()
}

/// Names of what lies beside the log.
fn beside(fixture: &Fixture) -> Vec<String> {
    let parent = fixture.path.parent().expect("a parent");
    let items = std::fs::read_dir(parent).expect("list");
    let mut names: Vec<String> =
        items.map(|item| item.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

fn members_file(fixture: &Fixture, text: &str) -> String {
    let path = fixture.path.with_file_name("members.txt");
    std::fs::write(&path, text).expect("write");
    path.to_str().expect("UTF-8").to_string()
}

#[test]
fn a_dry_run_says_all_and_changes_nothing() {
    let fixture = one_of_three();
    let before = fixture.content();
    let shown = run(0, &["recover", "--single", &fixture.name]);
    for said in [
        &format!("node 5 of cluster {}", "c".repeat(32))[..],
        "entries 1..=5, the last of term 2",
        "found: voter 7 at host:3, peers at host:10003",
        "known: entries up to 2 were committed",
        "unknown: whether entries 3..=5 were",
        "loss: what the other nodes had",
        "new: would be cluster made at random from term 5 on",
        "new: voter 5 at host:1, peers at host:10001",
        "dry run: nothing was changed",
    ] {
        assert!(shown.contains(said), "{said}: {shown}");
    }
    assert!(!shown.contains("new: voter 6"), "{shown}");
    let object = json(&run(0, &["recover", "--single", "--format", "json", &fixture.name]));
    assert_eq!((&object["committed_index"], &object["last_index"]), (&2.into(), &5.into()));
    assert_eq!(object["after"]["cluster_id"], serde_json::Value::Null);
    fixture.assert_content(&before, "a dry run");
    assert_eq!(beside(&fixture), ["raftlog"]);
}

#[test]
fn a_single_node_goes_on_under_a_new_name() {
    let fixture = one_of_three();
    let before = files(&fixture);
    let flag = format!("--new-cluster-id={NEW}");
    let shown = run(6, &["recover", "--single", &flag, "--apply", &fixture.name]);
    assert!(shown.contains("done: start node 5") && shown.contains(&format!("cluster {NEW}")), "{shown}");
    let log = open(&fixture.path);
    assert_eq!((log.identity().cluster_id.as_str(), log.identity().node_id), (NEW, 5));
    assert!(log.identity().secret != SECRET && log.identity().secret != [0; 32]);
    assert_eq!((log.last_index(), log.hard_state()), (6, HardState { term: 5, vote: None }));
    let members = Members::decode(&log.read(6).expect("read").payload).expect("members");
    assert_eq!(members.membership().voters, [5].into());
    drop(log);
    let names = beside(&fixture);
    assert!(names.len() == 2 && names[1].starts_with("raftlog.before-recovery-"), "{names:?}");
    let kept = fixture.path.with_file_name(&names[1]);
    for (path, bytes) in &before {
        let kept = kept.join(path.file_name().expect("a name"));
        assert!(&std::fs::read(&kept).expect("read") == bytes, "{}", kept.display());
    }
    run(0, &["verify", "--deep", &fixture.name]);
}

#[test]
fn without_an_id_the_new_cluster_gets_one_of_its_own() {
    let mut seen = vec!["c".repeat(32)];
    for flags in [&[][..], &["--new-cluster-id"]] {
        let fixture = one_of_three();
        run(6, &[&["recover", "--single", "--apply"], flags, &[&fixture.name]].concat());
        let id = open(&fixture.path).identity().cluster_id.clone();
        assert!(id.len() == 32 && !seen.contains(&id), "{id}");
        seen.push(id);
    }
}

#[test]
fn members_get_directories_that_begin_alike() {
    let fixture = one_of_three();
    let file = members_file(&fixture, "# id clients peers\n5 a:1 a:2\nnew b:1 b:2\n99 c:1 c:2\n");
    let shown = run(0, &["recover", "--members", &file, &fixture.name]);
    assert!(shown.contains("new: voter 99 at c:1, peers at c:2") && shown.contains("dry run"), "{shown}");
    let elsewhere = fixture.path.with_file_name("aside").join("here");
    let backup = elsewhere.to_str().expect("UTF-8");
    let arguments =
        ["recover", "--members", &file, "--apply", "--backup", backup, "--format", "json", &fixture.name];
    let object = json(&run(6, &arguments));
    let kept = PathBuf::from(object["kept_in"].as_str().expect("a path"));
    assert!(kept.starts_with(elsewhere.canonicalize().expect("a path")) && kept.join("META").exists());
    let others = object["others"].as_array().expect("directories");
    assert_eq!(others.len(), 2, "{object}");
    let own = open(&fixture.path);
    for other in others {
        let log = open(Path::new(other["directory"].as_str().expect("a path")));
        assert_eq!(Some(log.identity().node_id), other["id"].as_u64());
        assert_eq!(log.identity().cluster_id, own.identity().cluster_id);
        assert!(log.identity().secret == own.identity().secret);
        assert_eq!((log.last_index(), log.hard_state()), (own.last_index(), own.hard_state()));
        let (mine, its) = (own.read(6).expect("read"), log.read(6).expect("read"));
        assert_eq!(mine.payload, its.payload);
        let members = Members::decode(&its.payload).expect("members");
        assert!(members.0.values().all(|member| member.voting) && members.0.len() == 3);
    }
    // These are somebody's by now.
    drop(own);
    let again = complaint(2, &["recover", "--single", "--apply", &fixture.name]);
    assert!(again.contains("raftlog.recovered is there already"), "{again}");
}

#[test]
fn no_flag_gets_around_the_lock() {
    let fixture = Fixture::empty();
    let writer = fixture.create().standard();
    for flags in [&["--single"][..], &["--single", "--apply"], &["--single", "--new-cluster-id", "--apply"]] {
        let complaint = complaint(4, &[&["recover"], flags, &[&fixture.name]].concat());
        assert!(complaint.contains(&format!("by process {}", std::process::id())), "{complaint}");
    }
    assert_eq!(beside(&fixture), ["raftlog"]);
    drop(writer);
    run(0, &["recover", "--single", &fixture.name]);
}

#[test]
fn damage_is_for_repair() {
    let fixture = one_of_three();
    let (file, offset) = fixture.place(4);
    fixture.flip(&file, offset + 34);
    let before = files(&fixture);
    for flags in [&["--single"][..], &["--single", "--apply"]] {
        let complaint = complaint(1, &[&["recover"], flags, &[&fixture.name]].concat());
        assert!(complaint.contains("0000000001.log at offset"), "{complaint}");
        assert!(complaint.contains(&format!("raftlog-tool repair {}", fixture.name)), "{complaint}");
    }
    assert!(files(&fixture) == before);
    run(6, &["repair", "--truncate-at", "4", "--accept-data-loss", "--apply", &fixture.name]);
    let shown = run(6, &["recover", "--single", "--apply", &fixture.name]);
    assert!(shown.contains("note: the end of this log was cut off"), "{shown}");
    let log = open(&fixture.path);
    assert!(log.is_trusted() && log.last_index() == 4, "the new cluster begins with what is left");
}

#[test]
fn an_interrupted_recovery_is_finished() {
    let fixture = one_of_three();
    let parent = fixture.path.parent().expect("a parent").to_path_buf();
    run(6, &["recover", "--single", "--apply", &fixture.name]);
    // As a crash before the last rename leaves it.
    std::fs::create_dir(parent.join("raftlog.recovered")).expect("create");
    std::fs::rename(&fixture.path, parent.join("raftlog.recovered/self")).expect("rename");
    let shown = run(0, &["recover", "--single", &fixture.name]);
    assert!(shown.contains("interrupted") && !fixture.path.exists(), "{shown}");
    run(6, &["recover", "--single", "--apply", &fixture.name]);
    assert_eq!(open(&fixture.path).last_index(), 6);
    assert_eq!(beside(&fixture).len(), 2);
}

#[test]
fn wrong_use_is_refused() {
    let fixture = one_of_three();
    let before = files(&fixture);
    let good = members_file(&fixture, "5 a:1 a:2\n");
    let old = format!("--new-cluster-id={}", "c".repeat(32));
    for arguments in [
        &[][..],
        &["--single", "--members", &good],
        &["--single", "--new-cluster-id=short", "--apply"],
        &["--single", "--new-cluster-id=0123456789abcdef 123456789abcdef"],
        &["--single", &old, "--apply"],
        &["--single", "--truncate-at", "2"],
    ] {
        complaint(2, &[&["recover"], arguments, &[&fixture.name]].concat());
    }
    complaint(3, &["recover", "--members", "/nowhere/members.txt", &fixture.name]);
    for (text, said) in
        [("5 a:1\n", "line 1"), ("6 a:1 a:2\n", "6, which was"), ("new a:1 a:2\n", "a line for node 5")]
    {
        let file = members_file(&fixture, text);
        let complaint = complaint(2, &["recover", "--members", &file, "--apply", &fixture.name]);
        assert!(complaint.contains("members.txt") && complaint.contains(said), "{complaint}");
    }
    assert!(files(&fixture) == before);
    let nothing = Fixture::empty();
    assert!(complaint(2, &["recover", "--single", "--apply", &nothing.name]).contains("holds no log"));
    assert!(!nothing.path.exists());
}

#[test]
fn a_node_that_was_removed_needs_to_be_named() {
    let fixture = Fixture::empty();
    let mut writer = fixture.create_as(8, 8192);
    writer.append(1, Kind::Membership, MEMBER);
    drop(writer);
    let refused = complaint(2, &["recover", "--single", &fixture.name]);
    assert!(refused.contains("membership in this log (5) does not name this node, 8"), "{refused}");
    let file = members_file(&fixture, "8 a:1 a:2\n");
    run(6, &["recover", "--members", &file, "--apply", &fixture.name]);
    let log = open(&fixture.path);
    let members = Members::decode(&log.read(2).expect("read").payload).expect("members");
    assert_eq!(members.membership().voters, [8].into());
}
