//! Acknowledged entries that a disk has lost: they come back from the other nodes, and nobody is told a lie meanwhile.
#![cfg(feature = "redis")]

mod cluster;

use std::path::{Path, PathBuf};

use cluster::damage::{assert_clean, flip_bit, index_of, raftlog_tool, segments};
use cluster::load::Load;
use cluster::{millis, seconds, serial, wait_for, Cluster, Options, Server};

/// Three nodes whose logs have small segments, scrubbed at this rate.
fn cluster_with(scrub_rate: &str) -> Cluster {
    let module_arguments = vec!["log-segment-size=64kb".to_owned(), format!("log-scrub-rate={scrub_rate}")];
    Cluster::start_with(&Options { module_arguments, ..Options::default() })
}

fn log_of(cluster: &mut Cluster, node: usize) -> PathBuf {
    cluster.server(node).directory().join("raftlog")
}

/// Writes values that can be found in the segments.
fn write_marked(cluster: &Cluster, count: usize) {
    let mut client = cluster.client();
    for number in 0..count {
        let reply = client.repeat(&["SET", &format!("marked:{number}"), &marked(number)]);
        assert!(reply.is_ok(), "{reply}");
    }
}

fn marked(number: usize) -> String {
    format!("value-{number}-{}", "x".repeat(1000))
}

/// The node has found damage, and all of it is healed and on its disk.
fn wait_healed(cluster: &Cluster, node: usize) {
    wait_for("the damage to be found and healed", seconds(30), || {
        let Ok(info) = cluster.try_info(node) else { return false };
        let repaired = info.get("raft_repaired_entries");
        repaired.is_some_and(|count| count != "0")
            && repaired == info.get("raft_corrupt_entries")
            && info.get("raft_first_hole").is_some_and(String::is_empty)
    });
}

/// Ends a node and reads its log as the tool does.
fn assert_clean_after(cluster: &mut Cluster, node: usize) {
    cluster.kill(node);
    assert_clean(&log_of(cluster, node));
}

#[test]
fn a_follower_that_starts_with_a_damaged_entry_heals_while_clients_write() {
    let _serial = serial(seconds(120));
    let mut cluster = cluster_with("0");
    write_marked(&cluster, 300);
    cluster.wait_converged();
    let load = Load::start(&cluster.ports(), 2);
    load.wait_for_more(100);
    let follower = cluster.follower();
    cluster.kill(follower);
    let log = log_of(&mut cluster, follower);
    assert!(segments(&log).len() > 3, "the damage is to be in an old segment");
    let (segment, _) = flip_bit(&log, b"value-77-");
    cluster.restart(follower);
    wait_healed(&cluster, follower);
    load.wait_for_more(100);
    let report = load.stop();
    cluster.wait_converged();
    let text = cluster.server(follower).log_text();
    let name = segment.file_name().expect("a name").to_string_lossy().into_owned();
    let said =
        |line: &str| [&name[..], "at offset", "(entry ", "damaged"].iter().all(|part| line.contains(part));
    assert!(text.lines().any(said), "no line names the damage:\n{text}");
    let mut client = cluster.client();
    report.verify(&mut |command| client.repeat(command));
    assert_eq!(cluster.local(follower, "GET marked:77").text(), marked(77));
    assert_clean_after(&mut cluster, follower);
    cluster.restart(follower);
    cluster.wait_converged();
    assert_eq!(cluster.number(follower, "raft_corrupt_entries"), 0, "healed on the disk, not in memory");
}

#[test]
fn every_entry_of_a_segment_can_be_fetched_anew() {
    let _serial = serial(seconds(120));
    let mut cluster = cluster_with("0");
    write_marked(&cluster, 300);
    cluster.wait_converged();
    let follower = cluster.follower();
    cluster.kill(follower);
    let log = log_of(&mut cluster, follower);
    for number in (20..270).step_by(3) {
        flip_bit(&log, format!("value-{number}-").as_bytes());
    }
    cluster.restart(follower);
    wait_healed(&cluster, follower);
    cluster.wait_converged();
    assert!(cluster.number(follower, "raft_repaired_entries") > 20);
    assert_clean_after(&mut cluster, follower);
}

#[test]
fn a_leader_fetches_the_entry_that_a_follower_needs() {
    let _serial = serial(seconds(120));
    let module_arguments = vec!["log-segment-size=1mb".to_owned(), "log-scrub-rate=0".to_owned()];
    let mut cluster = Cluster::start_with(&Options { module_arguments, ..Options::default() });
    let (leader, follower) = (cluster.leader(), cluster.follower());
    cluster.kill(follower);
    write_marked(&cluster, 10);
    // More than a node keeps in memory, so that the leader must read its disk.
    let mut client = cluster.client();
    let value = "y".repeat(500_000);
    for number in 0..60 {
        assert!(client.repeat(&["SET", &format!("big:{number}"), &value]).is_ok());
    }
    let term = cluster.number(leader, "raft_current_term");
    flip_bit(&log_of(&mut cluster, leader), b"value-5-");
    cluster.restart(follower);
    wait_healed(&cluster, leader);
    cluster.wait_converged();
    assert_eq!(cluster.number(leader, "raft_current_term"), term, "the leader leads on");
    assert_eq!(cluster.local(follower, "GET marked:5").text(), marked(5));
    assert_clean_after(&mut cluster, leader);
}

#[test]
fn the_scrub_finds_what_nobody_reads() {
    let _serial = serial(seconds(120));
    let mut cluster = cluster_with("0");
    write_marked(&cluster, 300);
    cluster.wait_converged();
    let follower = cluster.follower();
    flip_bit(&log_of(&mut cluster, follower), b"value-33-");
    std::thread::sleep(millis(500));
    assert_eq!(cluster.number(follower, "raft_corrupt_entries"), 0, "nobody has read it");
    assert!(cluster.connect(follower).run("CONFIG SET raft.log-scrub-rate 100mb").is_ok());
    wait_healed(&cluster, follower);
    assert!(cluster.client().run("SET after scrub").is_ok());
    cluster.wait_converged();
    assert_clean_after(&mut cluster, follower);
}

#[test]
fn a_node_that_nobody_can_help_refuses_to_start_and_says_what_to_do() {
    let _serial = serial(seconds(90));
    let mut cluster = Cluster::start(1);
    write_marked(&cluster, 20);
    cluster.kill(0);
    flip_bit(&log_of(&mut cluster, 0), b"value-7-");
    let setup = cluster.server(0).setup().clone();
    let directory = cluster.server(0).directory().to_owned();
    let mut server = Server::spawn(setup.directory(&directory));
    assert_ne!(server.wait_exit(), Some(0), "a log that nobody can heal was started");
    let text = server.log_text();
    let parts = [
        "at offset",
        "(entry ",
        "no other voter",
        "raftlog-tool verify",
        "raftlog-tool repair --truncate-at",
    ];
    let said = |line: &str| parts.iter().all(|part| line.contains(part));
    assert!(text.lines().any(said), "no line says what to do:\n{text}");
    assert!(!text.contains("panicked at"), "{text}");
}

#[test]
fn two_damaged_nodes_heal_each_other_without_a_leader() {
    let _serial = serial(seconds(120));
    let mut cluster = cluster_with("0");
    write_marked(&cluster, 100);
    cluster.wait_converged();
    (0..3).for_each(|node| cluster.kill(node));
    flip_bit(&log_of(&mut cluster, 0), b"value-10-");
    flip_bit(&log_of(&mut cluster, 1), b"value-20-");
    cluster.restart(0);
    cluster.restart(1);
    cluster.leader();
    for (number, value) in [(10, marked(10)), (20, marked(20))] {
        assert_eq!(cluster.client().run(&format!("GET marked:{number}")).text(), value);
    }
    for node in 0..2 {
        wait_healed(&cluster, node);
    }
}

/// Cuts the entry that holds `marker` and all after it off a log.
fn cut(log: &Path, marker: &str) {
    cut_at(log, index_of(log, marker.as_bytes()));
}

fn cut_at(log: &Path, index: u64) {
    let index = index.to_string();
    let directory = log.to_str().expect("a path of text");
    let output =
        raftlog_tool(&["repair", "--truncate-at", &index, "--accept-data-loss", "--apply", directory]);
    let code = output.status.code();
    // Repaired, but acknowledged entries may be gone.
    assert_eq!(
        code,
        Some(6),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn a_node_that_was_always_alone_goes_on_behind_the_cut() {
    let _serial = serial(seconds(90));
    let mut cluster = Cluster::start(1);
    write_marked(&cluster, 20);
    cluster.kill(0);
    let log = log_of(&mut cluster, 0);
    let index = index_of(&log, b"value-7-");
    flip_bit(&log, b"value-7-");
    cut_at(&log, index);
    cluster.restart(0);
    let mut client = cluster.client();
    assert_eq!(client.repeat(&["GET", "marked:6"]).text(), marked(6));
    assert_eq!(client.repeat(&["EXISTS", "marked:7"]).integer(), 0, "given up");
    assert!(client.repeat(&["SET", "after", "cut"]).is_ok());
    assert_eq!(cluster.field(0, "raft_trusted"), "yes");
}

#[test]
fn a_log_that_was_cut_does_not_vote_before_it_has_caught_up() {
    let _serial = serial(seconds(150));
    let mut cluster = cluster_with("0");
    let (leader, behind) = (cluster.leader(), cluster.follower());
    let damaged = 3 - leader - behind;
    cluster.wait_converged();
    cluster.kill(behind);
    // Acknowledged by the leader and the node that will lose them.
    write_marked(&cluster, 50);
    cluster.kill(leader);
    cluster.kill(damaged);
    cut(&log_of(&mut cluster, damaged), "value-0-");
    cluster.restart(damaged);
    cluster.restart(behind);
    assert_eq!(cluster.field(damaged, "raft_trusted"), "no");
    // The two are a majority, and neither has the entries: whoever led now would have lost them.
    std::thread::sleep(seconds(5));
    for node in [damaged, behind] {
        assert_eq!(cluster.field(node, "raft_leader_id"), "-1", "node {node} knows a leader");
    }
    cluster.restart(leader);
    wait_for("the node to be trusted again", seconds(30), || {
        cluster.try_info(damaged).is_ok_and(|info| info.get("raft_trusted").is_some_and(|t| t == "yes"))
    });
    cluster.wait_converged();
    assert_eq!(cluster.client().run("GET marked:49").text(), marked(49));
    // It votes now: the other one that was behind is not needed.
    let leader = cluster.leader();
    let other = (0..3).find(|node| *node != leader && *node != damaged);
    cluster.kill(other.unwrap_or(behind));
    cluster.kill(leader);
    cluster.restart(leader);
    cluster.leader();
    assert_eq!(cluster.client().run("GET marked:0").text(), marked(0));
}

#[test]
fn a_follower_that_is_cut_under_a_leader_that_goes_on_is_counted_anew() {
    let _serial = serial(seconds(150));
    let mut cluster = cluster_with("0");
    let (leader, follower) = (cluster.leader(), cluster.follower());
    write_marked(&cluster, 50);
    cluster.wait_converged();
    let load = Load::start(&cluster.ports(), 2);
    load.wait_for_more(100);
    cluster.kill(follower);
    cut(&log_of(&mut cluster, follower), "value-25-");
    cluster.restart(follower);
    wait_for("the node to be trusted again", seconds(30), || {
        cluster.try_info(follower).is_ok_and(|info| info.get("raft_trusted").is_some_and(|t| t == "yes"))
    });
    load.wait_for_more(100);
    let report = load.stop();
    cluster.wait_converged();
    assert_eq!(cluster.leader(), leader, "the leader leads on");
    // With the other follower gone, what is answered is on the leader and on the node that was cut.
    let mut client = cluster.client();
    report.verify(&mut |command| client.repeat(command));
    assert_eq!(cluster.local(follower, "GET marked:49").text(), marked(49));
    assert_clean_after(&mut cluster, follower);
}
