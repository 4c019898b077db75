//! Nodes that keep their log in memory (`raft.persist no`), on real servers: they answer while a majority lives, leave
//! nothing on the disk, and come back as other nodes.
#![cfg(feature = "redis")]

mod cluster;

use std::fs;

use cluster::load::Load;
use cluster::{seconds, serial, wait_for, Cluster, Options, Server, Setup};

fn in_memory(size: usize) -> Options {
    let arguments = ["persist=no", "log-segment-size=65536", "log-max-file-size=150000"];
    Options { size, module_arguments: arguments.map(str::to_string).to_vec(), ..Options::default() }
}

/// What lies in the server's directory, but a dump of the user's own.
fn files(cluster: &mut Cluster, node: usize) -> Vec<String> {
    let items = fs::read_dir(cluster.server(node).directory()).expect("list");
    let names = items.map(|item| item.expect("an entry").file_name().to_string_lossy().into_owned());
    names.filter(|name| name != "dump.rdb").collect()
}

fn join(cluster: &Cluster, node: usize, seed: usize) -> String {
    cluster.connect(node).run(&format!("RAFT.CLUSTER JOIN 127.0.0.1:{}", cluster.port(seed))).text()
}

/// Starts a node again that was killed: it knows nothing, and takes the place of the one that it was.
fn come_back(cluster: &mut Cluster, node: usize, seed: usize, former: u64) {
    cluster.restart(node);
    assert_eq!(cluster.field(node, "raft_state"), "uninitialized");
    assert!(cluster.connect(node).run("GET any").is_error("NOCLUSTER"));
    assert_eq!(join(cluster, node, seed), "OK");
    cluster.wait_voting(cluster.size());
    assert_ne!(cluster.id(node), former, "an id is used once");
    for other in 0..cluster.size() {
        let info = cluster.info(other);
        let gone = info.values().all(|value| !value.contains(&format!("id={former},")));
        assert!(gone, "node {former} is still known at {other}: {info:?}");
        assert_eq!(info["raft_num_nodes"], cluster.size().to_string());
    }
}

#[test]
fn a_node_that_was_killed_comes_back_as_another_one() {
    let _serial = serial(seconds(240));
    let mut cluster = Cluster::start_with(&in_memory(3));
    let leader = cluster.leader();
    let load = Load::start(&cluster.ports(), 3);
    load.wait_for_more(300);
    wait_for("a snapshot", seconds(60), || {
        cluster.try_info(leader).is_ok_and(|info| info["raft_snapshots_created"] != "0")
    });
    let follower = cluster.follower();
    let former = cluster.id(follower);
    cluster.kill(follower);
    load.wait_for_more(100);
    come_back(&mut cluster, follower, leader, former);
    load.wait_for_more(100);
    let report = load.stop();
    cluster.wait_converged();
    let mut client = cluster.client();
    report.verify(&mut |command| client.repeat(command));
    // A leader, too: by way of a node that has come back before.
    let leader = cluster.leader();
    let former = cluster.id(leader);
    cluster.kill(leader);
    let seed = (0..3).find(|node| *node != leader).expect("another node");
    wait_for("another leader", seconds(60), || {
        let info = cluster.try_info(seed);
        info.is_ok_and(|info| info["raft_leader_id"] != former.to_string() && info["raft_leader_id"] != "-1")
    });
    come_back(&mut cluster, leader, seed, former);
    cluster.wait_converged();
    let mut client = cluster.client();
    report.verify(&mut |command| client.repeat(command));
    for node in 0..3 {
        let reply = cluster.connect(node).run("RAFT.DEBUG COMPACT");
        assert!(reply.is_ok(), "{reply}");
        // A process that is killed while its child writes a dump leaves that behind, as a plain server does.
        let killed = node == follower || node == leader;
        let is_dump = |name: &String| {
            (name.starts_with("raft-") || name.starts_with("temp-")) && name.ends_with(".rdb")
        };
        wait_for("no file beside the server", seconds(60), || {
            files(&mut cluster, node).iter().all(|name| killed && is_dump(name))
        });
    }
}

#[test]
fn data_that_a_server_has_becomes_a_snapshot_in_memory() {
    let _serial = serial(seconds(120));
    let mut cluster = Cluster::start_apart(&in_memory(2));
    // A plain server's dump, which the module does not touch.
    cluster.kill(0);
    let directory = cluster.server(0).directory().to_path_buf();
    let plain = Server::start(Setup::plain().directory(&directory));
    assert!(plain.connect().run("SET before init").is_ok());
    assert!(plain.connect().run("SAVE").is_ok());
    drop(plain);
    cluster.restart(0);
    assert!(cluster.connect(0).run("RAFT.CLUSTER INIT").text().starts_with("OK"));
    assert_eq!(join(&cluster, 1, 0), "OK");
    cluster.wait_voting(2);
    cluster.wait_converged();
    assert_eq!(cluster.local(1, "GET before").text(), "init");
    assert_eq!((files(&mut cluster, 0), files(&mut cluster, 1)), (vec![], vec![]));
    // A node that is taken out drops what it had, and can join anew.
    let leader = cluster.leader();
    let other = 1 - leader;
    let former = cluster.id(other);
    assert!(cluster.connect(leader).run(&format!("RAFT.NODE REMOVE {former}")).is_ok());
    wait_for("the node to know", seconds(60), || cluster.field(other, "raft_state") == "removed");
    assert_eq!(join(&cluster, other, leader), "OK");
    cluster.wait_voting(2);
    assert_ne!(cluster.id(other), former);
    assert_eq!((files(&mut cluster, 0), files(&mut cluster, 1)), (vec![], vec![]));
}

#[test]
fn only_what_was_in_memory_is_replaced() {
    let _serial = serial(seconds(240));
    // Node 0 keeps its log on disk; 1 and 2 do not.
    let mut cluster = Cluster::start_apart(&in_memory(3));
    cluster.kill(0);
    let persistent = cluster.server(0).setup().module.clone().expect("a module");
    let persistent: Vec<String> = persistent.into_iter().filter(|word| word != "persist=no").collect();
    cluster.server(0).set_module_arguments(persistent.clone());
    cluster.restart(0);
    assert!(cluster.connect(0).run("RAFT.CLUSTER INIT").text().starts_with("OK"));
    for node in 1..3 {
        assert_eq!(join(&cluster, node, 0), "OK");
    }
    cluster.wait_voting(3);
    assert!(cluster.client().run("SET mixed cluster").is_ok());
    cluster.wait_converged();
    // A process that claims the addresses of a node that is up.
    let claimed = cluster.port(1);
    let own = Setup::plain().port;
    let impostor = Setup::plain()
        .module_argument("log-filename=raftlog")
        .module_argument("persist=no")
        .module_argument(&format!("addr=127.0.0.1:{claimed}"))
        .module_argument(&format!("peer-addr=127.0.0.1:{}", claimed + 10_000))
        .module_argument(&format!("peer-listen=127.0.0.1:{}", own + 10_000));
    let impostor = Server::start(impostor);
    let refused = impostor.connect().run(&format!("RAFT.CLUSTER JOIN 127.0.0.1:{}", cluster.port(0)));
    assert!(refused.text().contains("which is up"), "{refused}");
    assert_eq!(cluster.field(0, "raft_num_nodes"), "3");
    drop(impostor);
    // The node with a log on disk does not come back without it.
    cluster.kill(0);
    let mut forgetful = persistent;
    forgetful.push("persist=no".to_string());
    let setup = Setup { module: Some(forgetful), ..cluster.server(0).setup().clone() };
    let directory = cluster.server(0).directory().to_path_buf();
    let mut refused = Server::spawn(setup.clone().directory(&directory));
    assert_eq!(refused.wait_exit(), Some(1));
    assert!(refused.log_text().contains("raft.persist is no, and"), "{}", refused.log_tail(20));
    fs::rename(directory.join("raftlog"), directory.join("lost")).expect("rename");
    let started = Server::start(setup.directory(&directory));
    let reply = started.connect().run(&format!("RAFT.CLUSTER JOIN 127.0.0.1:{}", cluster.port(1)));
    assert!(reply.text().contains("is the address of node"), "{reply}");
    drop(started);
    fs::rename(directory.join("lost"), directory.join("raftlog")).expect("rename");
    cluster.restart(0);
    cluster.wait_voting(3);
    assert_eq!(cluster.client().run("GET mixed").text(), "cluster");
}

#[test]
fn an_id_of_its_own_and_a_log_in_memory_exclude_each_other() {
    let _serial = serial(seconds(60));
    let setup = Setup::with_module().module_argument("persist=no").module_argument("id=5");
    let mut server = Server::spawn(setup);
    assert_eq!(server.wait_exit(), Some(1));
    assert!(server.log_text().contains("exclude each other"), "{}", server.log_tail(20));
}
