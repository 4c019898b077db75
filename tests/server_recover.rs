//! A quorum that is lost for good, on real servers: one node goes on with what it has, others join it or begin beside it,
//! and the old cluster is another one from then on.
#![cfg(feature = "redis")]

mod cluster;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use cluster::damage::{index_of, raftlog_tool};
use cluster::load::Load;
use cluster::{seconds, serial, wait_for, Client, Cluster, Options};
use redisraft::log::Reader;

/// Servers of which the first three are a cluster, and the others, if any, are stopped and know nothing.
fn three_of(size: usize) -> Cluster {
    let module_arguments = vec!["log-segment-size=65536".to_string()];
    let mut cluster = Cluster::start_apart(&Options { size, module_arguments, ..Options::default() });
    (3..size).for_each(|node| cluster.kill(node));
    assert!(cluster.connect(0).run("RAFT.CLUSTER INIT").text().starts_with("OK"));
    for node in 1..3 {
        join(&cluster, node, 0);
    }
    cluster.wait_voting(3);
    cluster
}

fn join(cluster: &Cluster, node: usize, seed: usize) {
    let reply = cluster.connect(node).run(&format!("RAFT.CLUSTER JOIN 127.0.0.1:{}", cluster.port(seed)));
    assert!(reply.is_ok(), "node {node} joins: {reply}");
}

fn log_of(cluster: &mut Cluster, node: usize) -> PathBuf {
    cluster.server(node).directory().join("raftlog")
}

fn client_of(cluster: &Cluster, nodes: &[usize]) -> Client {
    Client::new(nodes.iter().map(|node| cluster.port(*node)).collect())
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// `raftlog-tool recover` with these arguments, which ends with `code`.
fn recover(code: i32, arguments: &[&str], log: &Path) -> String {
    let directory = log.to_str().expect("a path of text");
    let output = raftlog_tool(&[&["recover"], arguments, &[directory]].concat());
    assert_eq!(output.status.code(), Some(code), "{}", said(&output));
    said(&output)
}

/// Waits until `nodes`, and no others, agree on a leader among them; which one it is.
fn leader_of(cluster: &Cluster, nodes: &[usize]) -> usize {
    let mut leader = None;
    wait_for("a leader among the nodes that are left", seconds(60), || {
        let infos: Vec<_> = nodes.iter().filter_map(|node| cluster.try_info(*node).ok()).collect();
        leader = infos.iter().position(|info| info.get("raft_role").is_some_and(|role| role == "leader"));
        let id = leader.and_then(|at| infos[at].get("raft_node_id"));
        infos.len() == nodes.len() && infos.iter().all(|info| info.get("raft_leader_id") == id)
    });
    nodes[leader.expect("the condition has held")]
}

fn wait_voters(cluster: &Cluster, nodes: &[usize], count: usize) {
    let count = count.to_string();
    wait_for("the nodes to vote", seconds(60), || {
        nodes.iter().all(|node| {
            cluster.try_info(*node).is_ok_and(|info| info.get("raft_num_voting_nodes") == Some(&count))
        })
    });
}

/// Waits until what the leader has committed is in the datasets of all.
fn wait_equal(cluster: &Cluster, nodes: &[usize]) {
    let leader = leader_of(cluster, nodes);
    wait_for("equal datasets", seconds(60), || {
        let commit = cluster.field(leader, "raft_commit_index");
        let applied = |node: &usize| cluster.field(*node, "raft_last_applied_index") == commit;
        nodes.iter().all(applied) && nodes.iter().all(|node| cluster.digest(*node) == cluster.digest(leader))
    });
}

#[test]
fn one_node_that_is_left_begins_a_new_cluster_and_others_join_it() {
    let _serial = serial(seconds(240));
    let mut cluster = three_of(5);
    let load = Load::start(&cluster.ports()[..3], 3);
    load.wait_for_more(300);
    let report = load.stop();
    cluster.wait_converged();
    let log = log_of(&mut cluster, 0);
    let old_id = cluster.field(0, "raft_dbid");
    let refused = recover(4, &["--single", "--apply"], &log);
    assert!(refused.contains("in use"), "{refused}");
    (0..3).for_each(|node| cluster.kill(node));
    // Two are lost; their directories come to light again later.
    for node in 1..3 {
        let log = log_of(&mut cluster, node);
        fs::rename(&log, log.with_extension("lost")).expect("rename");
    }
    assert!(recover(0, &["--single"], &log).contains("dry run"));
    let shown = recover(6, &["--single", "--new-cluster-id", "--apply"], &log);
    assert!(shown.contains("done"), "{shown}");
    cluster.restart(0);
    assert_eq!(leader_of(&cluster, &[0]), 0);
    assert_ne!(cluster.field(0, "raft_dbid"), old_id);
    let mut client = client_of(&cluster, &[0]);
    report.verify(&mut |command| client.repeat(command));
    assert!(client.run("SET after recovery").is_ok());
    for node in [3, 4] {
        cluster.restart(node);
        join(&cluster, node, 0);
    }
    let new = [0, 3, 4];
    wait_voters(&cluster, &new, 3);
    // The lost ones are a majority of the old cluster, and call the node that was their third.
    for node in 1..3 {
        let log = log_of(&mut cluster, node);
        fs::rename(log.with_extension("lost"), &log).expect("rename");
        cluster.restart(node);
    }
    leader_of(&cluster, &[1, 2]);
    for node in 1..3 {
        wait_for("a refusal", seconds(60), || cluster.server(node).log_text().contains("wrong cluster"));
        assert_eq!(cluster.field(node, "raft_dbid"), old_id);
    }
    assert!(client_of(&cluster, &new).run("SET after return").is_ok());
    assert_eq!(cluster.field(0, "raft_num_nodes"), "3", "nobody was let in");
    assert_eq!(client_of(&cluster, &[1, 2]).run("EXISTS after").integer(), 0, "two clusters");
    (1..3).for_each(|node| cluster.kill(node));
    wait_equal(&cluster, &new);
    let leader = leader_of(&cluster, &new);
    cluster.kill(leader);
    let left: Vec<usize> = new.into_iter().filter(|node| *node != leader).collect();
    leader_of(&cluster, &left);
    let mut client = client_of(&cluster, &left);
    assert_eq!(client.run("GET after").text(), "return");
    report.verify(&mut |command| client.repeat(command));
}

#[test]
fn what_was_never_committed_is_kept_behind_a_snapshot() {
    let _serial = serial(seconds(240));
    let mut cluster = three_of(4);
    let leader = cluster.leader();
    let mut client = cluster.client();
    for line in ["RPUSH list a b c", "SET volatile value PX 900000", "XADD stream 1-1 f v", "SADD set x y"] {
        assert!(!matches!(client.run(line), cluster::Value::Error(_)), "{line}");
    }
    for number in 0..300 {
        let key = format!("key:{}", number % 50);
        assert!(client.repeat(&["SET", &key, &"v".repeat(1000)]).is_ok());
    }
    assert!(cluster.connect(leader).run("RAFT.DEBUG COMPACT").is_ok());
    assert!(client.run("SET behind snapshot").is_ok());
    cluster.wait_converged();
    let committed: u64 = cluster.field(leader, "raft_commit_index").parse().expect("an index");
    // So that it takes one more command before it notices that it is alone.
    assert!(cluster.connect(leader).run("CONFIG SET raft.election-timeout 60000").is_ok());
    let others: Vec<usize> = (0..3).filter(|node| *node != leader).collect();
    others.iter().for_each(|node| cluster.kill(*node));
    // Nobody can commit this, and nobody is told that it was done.
    let mut alone = cluster.connect(leader);
    alone.send(&["SET", "never", "committed-by-anybody"]).expect("sent");
    let log = log_of(&mut cluster, leader);
    let mut index = 0;
    wait_for("the entry in the leader's log", seconds(60), || {
        let reader = Reader::open(&log).expect("a log");
        let scan = reader.scan(&mut |read| {
            if read.record.payload.windows(9).any(|window| window == b"committed") {
                index = read.record.header.index;
            }
            std::ops::ControlFlow::Continue(())
        });
        scan.is_ok() && index > 0
    });
    assert!(index > committed);
    cluster.kill(leader);
    assert_eq!(index_of(&log, b"committed-by-anybody"), index);
    let shown = recover(6, &["--single", "--apply"], &log);
    assert!(shown.contains("a snapshot of entry"), "{shown}");
    assert!(
        shown.contains("unknown: whether entries") && shown.contains(&format!("..={index} were")),
        "{shown}"
    );
    cluster.restart(leader);
    leader_of(&cluster, &[leader]);
    let check = |client: &mut Client| {
        assert_eq!(client.run("GET never").text(), "committed-by-anybody");
        assert_eq!(client.run("GET behind").text(), "snapshot");
        assert_eq!(client.run("LLEN list").integer(), 3);
        assert_eq!(client.run("XLEN stream").integer(), 1);
        assert_eq!(client.run("SCARD set").integer(), 2);
        assert!(client.run("PTTL volatile").integer() > 0);
        assert_eq!(client.run("STRLEN key:49").integer(), 1000);
    };
    check(&mut client_of(&cluster, &[leader]));
    // A node that joins is brought the snapshot, which bears the new cluster's name, and the next one is of its own.
    cluster.restart(3);
    join(&cluster, 3, leader);
    wait_voters(&cluster, &[leader, 3], 2);
    wait_equal(&cluster, &[leader, 3]);
    assert_eq!(cluster.number(3, "raft_snapshots_received"), 1);
    assert!(cluster.connect(leader).run("RAFT.DEBUG COMPACT").is_ok());
    for node in [leader, 3] {
        cluster.kill(node);
    }
    for node in [leader, 3] {
        cluster.restart(node);
    }
    leader_of(&cluster, &[leader, 3]);
    check(&mut client_of(&cluster, &[leader, 3]));
}

#[test]
fn named_members_begin_together() {
    let _serial = serial(seconds(240));
    let mut cluster = three_of(5);
    let load = Load::start(&cluster.ports()[..3], 3);
    load.wait_for_more(200);
    let report = load.stop();
    cluster.wait_converged();
    let own = cluster.id(0);
    (0..3).for_each(|node| cluster.kill(node));
    let log = log_of(&mut cluster, 0);
    let file = log.with_file_name("members.txt");
    let line = |id: &str, port: u16| format!("{id} 127.0.0.1:{port} 127.0.0.1:{}\n", port + 10_000);
    let text = [
        line(&own.to_string(), cluster.port(0)),
        line("2147483001", cluster.port(3)),
        line("2147483002", cluster.port(4)),
    ];
    fs::write(&file, text.concat()).expect("write");
    let shown = recover(6, &["--members", file.to_str().expect("a path of text"), "--apply"], &log);
    assert!(shown.contains("made: the directory of node 2147483001"), "{shown}");
    for (node, id) in [(3, 2_147_483_001_u64), (4, 2_147_483_002)] {
        let made = log.with_file_name("raftlog.recovered").join(format!("member-{id}"));
        fs::rename(made, log_of(&mut cluster, node)).expect("rename");
    }
    let new = [0, 3, 4];
    // One of three is no majority, also with all the data.
    cluster.restart(3);
    assert_eq!(cluster.id(3), 2_147_483_001);
    cluster.restart(4);
    leader_of(&cluster, &[3, 4]);
    let mut client = client_of(&cluster, &[3, 4]);
    report.verify(&mut |command| client.repeat(command));
    assert!(client.run("SET two of-three").is_ok());
    cluster.restart(0);
    assert_eq!(cluster.id(0), own);
    wait_voters(&cluster, &new, 3);
    wait_equal(&cluster, &new);
    let leader = leader_of(&cluster, &new);
    cluster.kill(leader);
    let left: Vec<usize> = new.into_iter().filter(|node| *node != leader).collect();
    leader_of(&cluster, &left);
    let mut client = client_of(&cluster, &left);
    assert_eq!(client.run("GET two").text(), "of-three");
    report.verify(&mut |command| client.repeat(command));
}
