//! Nodes that come, go, move, and are replaced, under clients that take no error.
#![cfg(feature = "redis")]

mod cluster;

use cluster::strict::{verify, without_errors, Manner, Strict};
use cluster::{seconds, serial, wait_for, Cluster, Fault, Options, Value};

const CLIENTS: [Manner; 3] = [Manner::Plain, Manner::Cluster, Manner::Pipelined];

/// A cluster whose leader changes only when it is told to, however slow the machine is.
fn calm(size: usize) -> Cluster {
    Cluster::start_with(&Options { size, ..calm_options() })
}

fn calm_options() -> Options {
    let module_arguments = vec!["election-timeout=20000".to_string(), "transfer-timeout=20000".to_string()];
    Options { module_arguments, ..Options::default() }
}

/// `RAFT.NODE REMOVE` at node `asked`.
fn remove(cluster: &Cluster, asked: usize, id: u64) -> Value {
    let mut connection = cluster.connect(asked);
    connection.set_timeout(seconds(60)).expect("a timeout");
    connection.run(&format!("RAFT.NODE REMOVE {id}"))
}

/// The leader removes itself. On a machine that is too slow a hand-over is given up, and may be asked for again.
fn remove_leader(cluster: &Cluster, leader: usize) {
    let id = cluster.id(leader);
    wait_for("the leader to remove itself", seconds(90), || {
        let reply = remove(cluster, leader, id);
        println!("removal of the leader, node {leader}: {reply}");
        assert!(reply.is_ok() || reply.text().contains("leads on"), "{reply}");
        reply.is_ok()
    });
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
    let mut cluster = calm(3);
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
    let is_refused = |reply: &Value| reply.is_error("MOVED ") || reply.is_error("NOCLUSTER");
    for command in ["GET strict:0", "SET strict:0 x", "DBSIZE", "MULTI"] {
        let refused = cluster.connect(follower).run(command);
        assert!(is_refused(&refused), "{command}: {refused}");
    }
    let sent_on = idle.run("GET strict:0");
    assert!(sent_on.is_error("MOVED "), "it came to the cluster: {sent_on}");
    wait_for("old data to be dropped", seconds(30), || cluster.local(follower, "GET strict:0") == Value::Nil);
    assert_eq!(archives(&mut cluster, follower).len(), 1);
    let again = remove(&cluster, leader, id);
    assert!(again.is_error("ERR ") && again.text().contains("removed already"), "{again}");
    let accounts = clients.stop_within("a follower removed", seconds(60));
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
    let mut cluster = calm(3);
    let leader = cluster.leader();
    let clients = Strict::start(&cluster.ports(), &[Manner::Blocking, CLIENTS[0], CLIENTS[1], CLIENTS[2]]);
    clients.wait_for_more(200);
    remove_leader(&cluster, leader);
    wait_state(&cluster, leader, "removed");
    wait_members(&cluster, &others(&cluster, leader), 2);
    clients.wait_for_more(200);
    let accounts = clients.stop_within("the leader removed", seconds(60));
    without_errors(&accounts);
    cluster.kill(leader);
    verify(&mut cluster, &accounts);
}

#[test]
fn a_node_that_is_down_is_removed_and_learns_of_it_when_it_comes_back() {
    let _serial = serial(seconds(120));
    let mut cluster = calm(3);
    let (leader, follower) = (cluster.leader(), cluster.follower());
    let id = cluster.id(follower);
    let third = others(&cluster, follower).into_iter().find(|node| *node != leader).expect("three nodes");
    let live = cluster.id(third);
    cluster.kill_noticed(follower);
    let refused = remove(&cluster, leader, live);
    assert!(refused.is_error("ERR ") && refused.text().contains("Start node"), "{refused}");
    let reply = remove(&cluster, leader, id);
    assert!(reply.is_ok(), "{reply}");
    wait_members(&cluster, &[leader, third], 2);
    let term = cluster.number(leader, "raft_current_term");
    cluster.restart(follower);
    wait_state(&cluster, follower, "removed");
    assert_eq!(cluster.number(leader, "raft_current_term"), term, "it disturbed nobody");
    cluster.kill(follower);
    cluster.restart(follower);
    assert_eq!(cluster.field(follower, "raft_state"), "removed", "it remembers");
    let refused = cluster.connect(follower).run("GET a");
    assert!(refused.is_error("NOCLUSTER"), "{refused}");
}

/// Starts one more server and makes it a voter, through node `seed`.
fn join(cluster: &mut Cluster, seed: usize) -> usize {
    let node = cluster.grow();
    join_through(cluster, node, seed);
    node
}

fn join_through(cluster: &Cluster, node: usize, seed: usize) {
    let mut connection = cluster.connect(node);
    connection.set_timeout(seconds(60)).expect("a timeout");
    let joined = connection.run(&format!("RAFT.CLUSTER JOIN 127.0.0.1:{}", cluster.port(seed)));
    assert!(joined.is_ok(), "{joined}");
    wait_for("the new node to vote", seconds(60), || {
        cluster.try_info(node).is_ok_and(|info| info.get("raft_is_voting").is_some_and(|is| is == "yes"))
    });
}

/// The ports that `CLUSTER SLOTS` of this node names, in order.
fn ports_of_slots(cluster: &Cluster, node: usize) -> Vec<i64> {
    let Value::Array(ranges) = cluster.connect(node).run("CLUSTER SLOTS") else { return Vec::new() };
    let port = |member: &Value| match member {
        Value::Array(fields) => match fields.get(1) {
            Some(Value::Integer(port)) => Some(*port),
            _ => None,
        },
        _ => None,
    };
    let mut ports: Vec<i64> = ranges.iter().flat_map(|range| range.array().iter().filter_map(port)).collect();
    ports.sort_unstable();
    ports
}

fn wait_slots(cluster: &Cluster, asked: usize, nodes: &[usize]) {
    let mut wanted: Vec<i64> = nodes.iter().map(|node| i64::from(cluster.port(*node))).collect();
    wanted.sort_unstable();
    wait_for("CLUSTER SLOTS to name the members", seconds(30), || ports_of_slots(cluster, asked) == wanted);
}

#[test]
fn five_nodes_are_replaced_one_by_one_under_load() {
    let _serial = serial(seconds(300));
    let mut cluster = calm(5);
    let clients = Strict::start(&cluster.ports(), &CLIENTS);
    clients.wait_for_more(200);
    let mut members: Vec<usize> = (0..5).collect();
    for old in 0..5 {
        let seed = members[members.len() - 1];
        members.push(join(&mut cluster, seed));
        clients.wait_for_more(50);
        let leader = cluster.leader();
        // The leader goes first, then whoever is the oldest: each way is taken.
        let out = if old % 2 == 0 {
            leader
        } else {
            *members.iter().find(|node| **node != leader).expect("others")
        };
        if out == leader {
            remove_leader(&cluster, leader);
        } else {
            let reply = remove(&cluster, leader, cluster.id(out));
            assert!(reply.is_ok(), "removal of node {out}: {reply}");
        }
        members.retain(|node| *node != out);
        wait_state(&cluster, out, "removed");
        wait_members(&cluster, &members, 5);
        clients.wait_for_more(50);
    }
    let leader = cluster.leader();
    wait_slots(&cluster, leader, &members);
    let accounts = clients.stop_within("five nodes replaced", seconds(60));
    without_errors(&accounts);
    let out: Vec<usize> = (0..cluster.size()).filter(|node| !members.contains(node)).collect();
    out.into_iter().for_each(|node| cluster.kill(node));
    verify(&mut cluster, &accounts);
}

#[test]
fn a_cluster_shrinks_to_one_and_grows_again() {
    let _serial = serial(seconds(300));
    let mut cluster = calm(5);
    let clients = Strict::start(&cluster.ports(), &CLIENTS);
    clients.wait_for_more(100);
    let leader = cluster.leader();
    // All at once: they are made one after the other.
    let followers = others(&cluster, leader);
    let mut asking: Vec<_> = followers.iter().map(|_| cluster.connect(leader)).collect();
    for (connection, node) in asking.iter_mut().zip(&followers) {
        connection.set_timeout(seconds(60)).expect("a timeout");
        connection
            .send(&["RAFT.NODE", "REMOVE", &cluster.id(*node).to_string()])
            .expect("the socket takes it");
    }
    for connection in &mut asking {
        let reply = connection.receive().expect("an answer");
        assert!(reply.is_ok(), "{reply}");
    }
    wait_members(&cluster, &[leader], 1);
    wait_slots(&cluster, leader, &[leader]);
    followers.iter().for_each(|node| wait_state(&cluster, *node, "removed"));
    let last = remove(&cluster, leader, cluster.id(leader));
    assert!(last.is_error("ERR ") && last.text().contains("last voter"), "{last}");
    clients.wait_for_more(100);
    for node in followers {
        join_through(&cluster, node, leader);
        clients.wait_for_more(20);
    }
    cluster.wait_voting(5);
    let accounts = clients.stop_within("to one node and back", seconds(60));
    without_errors(&accounts);
    verify(&mut cluster, &accounts);
}

#[test]
fn an_isolated_leader_does_not_shrink_itself_into_a_majority() {
    let _serial = serial(seconds(120));
    let mut cluster = Cluster::start_proxied(3);
    let leader = cluster.leader();
    let ids = cluster.ids();
    let followers = others(&cluster, leader);
    let mut asking: Vec<_> = followers.iter().map(|_| cluster.connect(leader)).collect();
    cluster.isolate(&ids, leader, Fault::Stall);
    for (connection, node) in asking.iter_mut().zip(&followers) {
        connection.set_timeout(seconds(60)).expect("a timeout");
        connection.send(&["RAFT.NODE", "REMOVE", &ids[*node].to_string()]).expect("the socket takes it");
    }
    for connection in &mut asking {
        let reply = connection.receive().expect("an answer");
        assert!(matches!(reply, Value::Error(_)), "nobody was removed: {reply}");
    }
    let rest = cluster.connect(leader).run("SET island 1");
    assert!(matches!(rest, Value::Error(_)), "{rest}");
    cluster.proxy().heal_all();
    cluster.wait_voting(3);
    let leader = cluster.leader();
    assert!(cluster.connect(leader).run("SET island 2").is_ok());
    cluster.wait_converged();
}

#[test]
fn a_node_that_moves_is_found_again() {
    let _serial = serial(seconds(180));
    let mut cluster = Cluster::start(3);
    let clients = Strict::start(&[cluster.port(0), cluster.port(1), cluster.port(2)], &[Manner::Plain]);
    clients.wait_for_more(50);
    let accounts = clients.stop_within("before the moves", seconds(30));
    for moves_leader in [false, true] {
        let node = if moves_leader { cluster.leader() } else { cluster.follower() };
        let id = cluster.id(node);
        cluster.kill(node);
        cluster.restart_elsewhere(node);
        let port = format!("port={},", cluster.port(node));
        wait_for("every node to know the new address", seconds(60), || {
            (0..3).all(|asked| {
                cluster.try_info(asked).is_ok_and(|info| {
                    info.values().any(|line| line.starts_with(&format!("id={id},")) && line.contains(&port))
                })
            })
        });
        assert_eq!(cluster.id(node), id, "it is the same node");
        cluster.wait_voting(3);
        wait_slots(&cluster, node, &[0, 1, 2]);
    }
    // The log says so, and not only who has heard of it: nobody who starts anew was told anything.
    for node in 0..3 {
        cluster.kill(node);
    }
    for node in 0..3 {
        cluster.restart(node);
    }
    cluster.wait_voting(3);
    verify(&mut cluster, &accounts);
}

#[test]
fn two_clusters_that_are_cross_wired_refuse_each_other() {
    let _serial = serial(seconds(120));
    let mut one = Cluster::start(2);
    let mut two = Cluster::start(2);
    // A node of the first starts where a node of the second was, under the second's eyes.
    let (moved, gone) = (one.follower(), two.follower());
    let port = two.port(gone);
    two.kill(gone);
    one.kill(moved);
    one.server(moved).move_to(port);
    one.server(moved).restart();
    one.wait_voting(2);
    wait_for("the other cluster's calls to be refused", seconds(30), || {
        one.number(moved, "raft_rejected_links_wrong_cluster") > 0
    });
    let seed = two.port(others(&two, gone)[0]);
    assert_eq!(one.field(moved, "raft_dbid"), one.field(others(&one, moved)[0], "raft_dbid"));
    let member = one.connect(moved).run(&format!("RAFT.CLUSTER JOIN 127.0.0.1:{seed}"));
    assert!(member.is_error("ERR ") && member.text().contains("member of cluster"), "{member}");
}

#[test]
fn a_wiped_node_does_not_come_back_under_its_old_id() {
    let _serial = serial(seconds(120));
    let mut cluster = calm(3);
    let (leader, follower) = (cluster.leader(), cluster.follower());
    let id = cluster.id(follower);
    cluster.kill(follower);
    std::fs::remove_dir_all(cluster.server(follower).directory().join("raftlog")).expect("its log");
    let mut arguments = cluster.server(follower).setup().module.clone().expect("the module");
    arguments.push(format!("id={id}"));
    cluster.server(follower).set_module_arguments(arguments);
    cluster.restart(follower);
    let seed = format!("RAFT.CLUSTER JOIN 127.0.0.1:{}", cluster.port(leader));
    let refused = cluster.connect(follower).run(&seed);
    assert!(refused.is_error("ERR ") && refused.text().contains("used once"), "{refused}");
    let removed = remove(&cluster, leader, id);
    assert!(removed.is_ok(), "{removed}");
    let refused = cluster.connect(follower).run(&seed);
    assert!(refused.is_error("ERR ") && refused.text().contains("used once"), "{refused}");
    // A snapshot holds what was used, also when the log does not any more.
    assert!(cluster.connect(leader).run("SET a 1").is_ok());
    for _ in 0..2 {
        wait_for("a snapshot", seconds(60), || cluster.connect(leader).run("RAFT.DEBUG COMPACT").is_ok());
        assert!(cluster.connect(leader).run("SET a 2").is_ok());
    }
    let refused = cluster.connect(follower).run(&seed);
    assert!(refused.is_error("ERR ") && refused.text().contains("used once"), "{refused}");
    assert!(cluster.connect(follower).run("CONFIG GET raft.id").array().len() == 2);
}

#[test]
fn a_joiner_that_dies_midway_tries_again() {
    let _serial = serial(seconds(180));
    let mut cluster = Cluster::start_with(&Options { size: 2, proxied: true, ..calm_options() });
    let leader = cluster.leader();
    let node = cluster.grow();
    let (address, peers) = {
        let server = cluster.server(node);
        let module = server.setup().module.clone().expect("the module");
        let value =
            |name: &str| module.iter().find_map(|argument| argument.strip_prefix(name)).map(str::to_owned);
        (value("addr=").expect("an address"), value("peer-addr=").expect("an address for peers"))
    };
    // Its entry is there; it died before it was told.
    let added = cluster.connect(leader).run(&format!("RAFT.NODE ADD 0 {address} {peers}"));
    let Value::Integer(id) = added.array()[0] else { panic!("{added}") };
    // It was told, and died before the first entry came.
    let id = u64::try_from(id).expect("an id");
    for other in [0, 1] {
        let other = cluster.id(other);
        cluster.proxy().set(other, id, Fault::Cut);
        cluster.proxy().set(id, other, Fault::Cut);
    }
    let seed = format!("RAFT.CLUSTER JOIN {}", format_args!("127.0.0.1:{}", cluster.port(leader)));
    let joined = cluster.connect(node).run(&seed);
    assert!(joined.is_ok(), "{joined}");
    assert_eq!(cluster.id(node), id, "the entry that was there is used");
    cluster.kill(node);
    cluster.restart(node);
    assert_eq!(cluster.field(node, "raft_state"), "uninitialized", "it had promised nothing");
    cluster.proxy().heal_all();
    let joined = cluster.connect(node).run(&seed);
    assert!(joined.is_ok(), "{joined}");
    cluster.wait_voting(3);
    wait_members(&cluster, &[0, 1, 2], 3);
    assert_eq!(cluster.id(node), id);
}

#[test]
fn members_survive_two_generations_of_snapshots_with_a_removal_between() {
    let _serial = serial(seconds(180));
    let module_arguments = vec!["log-segment-size=65536".to_string()];
    let mut cluster = Cluster::start_with(&Options { module_arguments, ..Options::default() });
    // The log is purged by segments, and must be longer than the snapshot.
    let compact = |cluster: &mut Cluster, nodes: &[usize], round: usize| {
        let mut client = cluster.client();
        for byte in b'a'..b'a' + 20 {
            let filler = char::from(byte).to_string().repeat(10_000);
            assert!(client.run(&format!("SET filler {filler}")).is_ok());
        }
        assert!(client.run(&format!("SET round {round}")).is_ok());
        cluster.wait_converged();
        for node in nodes {
            wait_for("a snapshot", seconds(60), || cluster.connect(*node).run("RAFT.DEBUG COMPACT").is_ok());
        }
    };
    compact(&mut cluster, &[0, 1, 2], 1);
    let out = cluster.follower();
    let id = cluster.id(out);
    wait_for("a node to be removed", seconds(60), || {
        let leader = cluster.leader();
        let reply = remove(&cluster, leader, id);
        reply.is_ok() || reply.text().contains("removed already")
    });
    wait_state(&cluster, out, "removed");
    cluster.kill(out);
    let kept = others(&cluster, out);
    compact(&mut cluster, &kept, 2);
    compact(&mut cluster, &kept, 3);
    for node in &kept {
        cluster.kill(*node);
    }
    for node in &kept {
        cluster.restart(*node);
    }
    wait_members(&cluster, &kept, 2);
    let added = join(&mut cluster, kept[0]);
    let members = [kept[0], kept[1], added];
    wait_members(&cluster, &members, 3);
    assert!(cluster.number(added, "raft_snapshots_received") > 0, "what the log began with was given away");
    cluster.wait_converged();
    assert_eq!(cluster.local(added, "GET round").text(), "3");
}
