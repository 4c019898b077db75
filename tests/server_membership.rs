//! Nodes that come, go, move, and are replaced, under clients that take no error.
#![cfg(feature = "redis")]

mod cluster;

use cluster::strict::{verify, without_errors, Manner, Strict};
use cluster::{seconds, serial, wait_for, Cluster, Value};

const CLIENTS: [Manner; 3] = [Manner::Plain, Manner::Cluster, Manner::Pipelined];

/// `RAFT.NODE REMOVE` at node `asked`.
fn remove(cluster: &Cluster, asked: usize, id: u64) -> Value {
    let mut connection = cluster.connect(asked);
    connection.set_timeout(seconds(60)).expect("a timeout");
    connection.run(&format!("RAFT.NODE REMOVE {id}"))
}

fn wait_state(cluster: &Cluster, node: usize, state: &str) {
    wait_for(&format!("node {node} to be {state}"), seconds(30), || {
        cluster.try_info(node).is_ok_and(|info| info.get("raft_state").is_some_and(|found| found == state))
    });
}

/// Waits until these nodes count `voters` voters and no more nodes.
fn wait_members(cluster: &Cluster, nodes: &[usize], voters: usize) {
    let voters = voters.to_string();
    wait_for(&format!("{voters} members"), seconds(30), || {
        nodes.iter().all(|node| {
            cluster.try_info(*node).is_ok_and(|info| {
                info.get("raft_num_voting_nodes") == Some(&voters)
                    && info.get("raft_num_nodes") == Some(&voters)
            })
        })
    });
}

/// All but `out`.
fn others(cluster: &Cluster, out: usize) -> Vec<usize> {
    (0..cluster.size()).filter(|node| *node != out).collect()
}

/// Names beside the node's log that `remove` gave it.
fn archives(cluster: &mut Cluster, node: usize) -> Vec<String> {
    let entries = std::fs::read_dir(cluster.server(node).directory()).expect("the server's directory");
    let names = entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned());
    names.filter(|name| name.starts_with("raftlog.removed-")).collect()
}

#[test]
fn a_follower_is_removed_under_load() {
    let _serial = serial(seconds(120));
    let mut cluster = Cluster::start(3);
    let (leader, follower) = (cluster.leader(), cluster.follower());
    let id = cluster.id(follower);
    let mut idle = cluster.connect(follower);
    let clients = Strict::start(&[cluster.port(leader)], &CLIENTS);
    clients.wait_for_more(200);
    let moved = remove(&cluster, follower, id);
    assert!(moved.is_error(&format!("MOVED 0 127.0.0.1:{}", cluster.port(leader))), "{moved}");
    let reply = remove(&cluster, leader, id);
    assert!(reply.is_ok(), "{reply}");
    wait_state(&cluster, follower, "removed");
    wait_members(&cluster, &others(&cluster, follower), 2);
    clients.wait_for_more(200);
    let refused = cluster.connect(follower).run("GET strict:0");
    assert!(refused.is_error("NOCLUSTER"), "{refused}");
    let sent_on = idle.run("GET strict:0");
    assert!(sent_on.is_error("MOVED "), "it came to the cluster: {sent_on}");
    assert_eq!(
        cluster.connect(follower).run("DBSIZE").text(),
        "NOCLUSTER This node was removed from its cluster"
    );
    assert_eq!(
        cluster.local(follower, "GET strict:0"),
        Value::Nil,
        "old data is not there to be taken for new"
    );
    assert_eq!(archives(&mut cluster, follower).len(), 1);
    let again = remove(&cluster, leader, id);
    assert!(again.is_error("ERR ") && again.text().contains("removed already"), "{again}");
    let accounts = clients.stop("a follower removed");
    without_errors(&accounts);
    let joined =
        cluster.connect(follower).run(&format!("RAFT.CLUSTER JOIN 127.0.0.1:{}", cluster.port(leader)));
    assert!(joined.is_ok(), "{joined}");
    cluster.wait_voting(3);
    assert_ne!(cluster.id(follower), id, "an id is used once");
    verify(&mut cluster, &accounts);
}

#[test]
fn a_leader_removes_itself_and_no_client_notices() {
    let _serial = serial(seconds(120));
    let mut cluster = Cluster::start(3);
    let leader = cluster.leader();
    let id = cluster.id(leader);
    let clients = Strict::start(&cluster.ports(), &CLIENTS);
    clients.wait_for_more(200);
    let reply = remove(&cluster, leader, id);
    assert!(reply.is_ok(), "{reply}");
    wait_state(&cluster, leader, "removed");
    wait_members(&cluster, &others(&cluster, leader), 2);
    clients.wait_for_more(200);
    let accounts = clients.stop("the leader removed");
    without_errors(&accounts);
    cluster.kill(leader);
    verify(&mut cluster, &accounts);
}

#[test]
fn a_node_that_is_down_is_removed_and_learns_of_it_when_it_comes_back() {
    let _serial = serial(seconds(120));
    let mut cluster = Cluster::start(3);
    let (leader, follower) = (cluster.leader(), cluster.follower());
    let id = cluster.id(follower);
    let third = others(&cluster, follower).into_iter().find(|node| *node != leader).expect("three nodes");
    let live = cluster.id(third);
    cluster.kill(follower);
    let refused = remove(&cluster, leader, live);
    assert!(refused.is_error("ERR ") && refused.text().contains("Start node"), "{refused}");
    let reply = remove(&cluster, leader, id);
    assert!(reply.is_ok(), "{reply}");
    wait_members(&cluster, &[leader, third], 2);
    let term = cluster.number(leader, "raft_current_term");
    cluster.restart(follower);
    wait_state(&cluster, follower, "removed");
    assert_eq!(cluster.number(leader, "raft_current_term"), term, "it disturbed nobody");
    assert!(cluster.number(leader, "raft_rejected_links_removed") > 0);
    cluster.kill(follower);
    cluster.restart(follower);
    assert_eq!(cluster.field(follower, "raft_state"), "removed", "it remembers");
    let refused = cluster.connect(follower).run("GET a");
    assert!(refused.is_error("NOCLUSTER"), "{refused}");
}
