//! Links between the nodes that are cut, stalled, slow or one-way.
#![cfg(feature = "redis")]

mod cluster;

use std::io::ErrorKind;
use std::time::Instant;

use cluster::history::{is_linearizable, Recorder};
use cluster::load::Load;
use cluster::{millis, seconds, serial, wait_for, Client, Cluster, Fault, Value};

/// The default election timeout.
const ELECTION_TIMEOUT_MS: u64 = 1000;

/// A leader without its peers: what it holds is closed, it answers nothing, it steps down; then it follows.
fn leader_without_peers(fault: Fault) {
    let mut cluster = Cluster::start_proxied(3);
    let ids = cluster.ids();
    assert!(cluster.proxy().introduced() >= 4, "the peers do not talk through the proxy");
    let load = Load::start(&cluster.ports(), 2);
    cluster.client().run("SET seen before");
    load.wait_for_more(200);

    let leader = cluster.leader();
    let mut writer = cluster.connect(leader);
    let mut reader = cluster.connect(leader);
    assert!(writer.run("PING").text().contains("PONG") && reader.run("PING").text().contains("PONG"));
    cluster.isolate(&ids, leader, fault);
    let cut = Instant::now();
    // What arrives after the cut cannot commit, and a read cannot be confirmed.
    std::thread::sleep(millis(20));
    writer.send(&["SET", "seen", "uncommitted"]).expect("the socket takes it");
    reader.send(&["GET", "seen"]).expect("the socket takes it");
    for (name, connection) in [("SET", &mut writer), ("GET", &mut reader)] {
        match connection.receive() {
            Ok(Value::Error(error)) => {
                assert!(error.starts_with("CLUSTERDOWN") || error.starts_with("MOVED"), "{name}: {error}");
            }
            Ok(reply) => panic!("{name} was answered by a leader without a majority: {reply}"),
            Err(error) => {
                assert_ne!(error.kind(), ErrorKind::TimedOut, "{name}: the held client was not closed")
            }
        }
    }
    wait_for("the leader to step down", seconds(5), || cluster.field(leader, "raft_role") != "leader");
    let took = cut.elapsed();
    assert!(took < millis(2 * 2 * ELECTION_TIMEOUT_MS), "stepping down took {took:?}");

    wait_for("a new leader", seconds(10), || cluster.find_leader().is_some_and(|node| node != leader));
    let others: Vec<u16> = (0..3).filter(|node| *node != leader).map(|node| cluster.port(node)).collect();
    let mut majority = Client::new(others);
    assert_eq!(
        majority.run("GET seen").text(),
        "before",
        "an unacknowledged write of the minority is visible"
    );
    majority.run("SET seen after");
    load.wait_for_more(200);
    let mut stale = cluster.connect(leader);
    let reply = stale.run("GET seen");
    assert!(reply.is_error("CLUSTERDOWN") || reply.is_error("MOVED"), "the old leader answers {reply}");
    let term = cluster.number(leader, "raft_current_term");
    std::thread::sleep(millis(3 * ELECTION_TIMEOUT_MS));
    assert_eq!(cluster.number(leader, "raft_current_term"), term, "an isolated node raises its term");

    cluster.proxy().heal_all();
    load.wait_for_more(200);
    let report = load.stop();
    cluster.wait_converged();
    let mut client = cluster.client();
    report.verify(&mut |command| client.repeat(command));
    assert_eq!(client.run("GET seen").text(), "after");
    assert_eq!(cluster.local(leader, "GET seen").text(), "after", "the old leader did not roll back");
    assert_ne!(cluster.leader(), leader);
}

#[test]
fn a_leader_whose_links_are_cut_steps_down_and_rolls_back() {
    let _serial = serial(seconds(90));
    leader_without_peers(Fault::Cut);
}

#[test]
fn a_leader_whose_links_are_silent_steps_down_and_rolls_back() {
    let _serial = serial(seconds(90));
    leader_without_peers(Fault::Stall);
}

#[test]
fn a_follower_that_comes_back_does_not_depose_the_leader() {
    let _serial = serial(seconds(90));
    let mut cluster = Cluster::start_proxied(3);
    let ids = cluster.ids();
    let load = Load::start(&cluster.ports(), 2);
    load.wait_for_more(100);
    let (leader, follower) = (cluster.leader(), cluster.follower());
    let term = cluster.number(leader, "raft_current_term");
    for fault in [Fault::Cut, Fault::Stall] {
        cluster.isolate(&ids, follower, fault);
        load.wait_for_more(100);
        std::thread::sleep(millis(3 * ELECTION_TIMEOUT_MS));
        let reply = cluster.connect(follower).run("GET load:counter");
        assert!(
            reply.is_error("CLUSTERDOWN") || reply.is_error("MOVED"),
            "an isolated follower answers {reply}"
        );
        cluster.proxy().heal_all();
        load.wait_for_more(100);
        wait_for("the follower to follow", seconds(15), || {
            cluster.field(follower, "raft_leader_id") == ids[leader].to_string()
        });
    }
    let report = load.stop();
    cluster.wait_converged();
    assert_eq!(cluster.leader(), leader);
    assert_eq!(cluster.number(leader, "raft_current_term"), term);
    let mut client = cluster.client();
    report.verify(&mut |command| client.repeat(command));
}

#[test]
fn a_chain_of_nodes_has_one_stable_leader() {
    let _serial = serial(seconds(90));
    let mut cluster = Cluster::start_proxied(3);
    let ids = cluster.ids();
    let load = Load::start(&cluster.ports(), 2);
    load.wait_for_more(100);
    // Only the middle node reaches both others.
    let (first, last) = (cluster.leader(), cluster.follower());
    for (from, to) in [(first, last), (last, first)] {
        cluster.proxy().set(ids[from], ids[to], Fault::Stall);
    }
    std::thread::sleep(millis(3 * ELECTION_TIMEOUT_MS));
    let highest_term = |cluster: &Cluster| (0..3).map(|node| cluster.number(node, "raft_current_term")).max();
    let term = highest_term(&cluster);
    load.wait_for_more(300);
    std::thread::sleep(millis(4 * ELECTION_TIMEOUT_MS));
    load.wait_for_more(300);
    assert_eq!(highest_term(&cluster), term, "terms grow while a majority is connected");
    cluster.proxy().heal_all();
    let report = load.stop();
    cluster.wait_converged();
    let mut client = cluster.client();
    report.verify(&mut |command| client.repeat(command));
}

#[test]
fn one_way_links_lose_nothing() {
    let _serial = serial(seconds(120));
    let mut cluster = Cluster::start_proxied(3);
    let ids = cluster.ids();
    let load = Load::start(&cluster.ports(), 3);
    for fault in [Fault::Stall, Fault::Cut] {
        load.wait_for_more(100);
        let leader = cluster.leader();
        // The leader is heard by nobody, and hears everybody.
        (0..3).filter(|node| *node != leader).for_each(|to| cluster.proxy().set(ids[leader], ids[to], fault));
        wait_for("another leader", seconds(15), || cluster.find_leader().is_some_and(|node| node != leader));
        load.wait_for_more(200);
        cluster.proxy().heal_all();
    }
    let report = load.stop();
    cluster.wait_converged();
    let mut client = cluster.client();
    report.verify(&mut |command| client.repeat(command));
}

#[test]
fn slow_and_flapping_links_keep_the_register_linearizable() {
    let _serial = serial(seconds(120));
    let mut cluster = Cluster::start_proxied(3);
    let ids = cluster.ids();
    let recorder = Recorder::start(&cluster.ports(), 5);
    for round in 0..6 {
        let recorded = recorder.len();
        let leader = cluster.leader();
        let fault = [Fault::Delay(millis(30)), Fault::Stall, Fault::Cut][round % 3];
        let victim = if round < 3 { leader } else { (leader + 1) % 3 };
        cluster.isolate(&ids, victim, fault);
        wait_for("operations under a fault", seconds(20), || recorder.len() >= recorded + 100);
        std::thread::sleep(millis(500));
        cluster.proxy().heal_all();
        wait_for("operations after healing", seconds(20), || recorder.len() >= recorded + 300);
    }
    let histories = recorder.stop();
    assert!(histories.iter().map(Vec::len).sum::<usize>() >= 1800, "too little was recorded");
    for (register, history) in histories.iter().enumerate() {
        assert!(is_linearizable(history), "register {register} is not linearizable: {history:#?}");
    }
    cluster.wait_converged();
}
