//! Nodes that join: killed while their snapshot arrives, through nodes that do not lead, with addresses that do not help.
#![cfg(feature = "redis")]

mod cluster;

use std::net::TcpListener;
use std::path::PathBuf;
use std::time::Duration;

use cluster::load::noise;
use cluster::{millis, seconds, serial, wait_for, Cluster, Fault, Options, Server, Setup, Value};

const LIMIT: Duration = seconds(300);
/// For one condition: the machine may be busy with other things.
const PATIENCE: Duration = seconds(60);
/// Bytes of the dataset, which is more than a snapshot's other contents by far.
const DATASET_BYTES: u64 = 1 << 20;
const KEYS: u64 = DATASET_BYTES >> 14;
/// Each part of a snapshot takes at least this long on a slow link. There are a thousand of them, asked for one by one: on a
/// slow link the snapshot takes more than a minute.
const SLOW: Fault = Fault::Delay(millis(40));

/// Two nodes whose logs do not hold the beginning of their data any more: who joins needs a snapshot.
fn compacted() -> Cluster {
    let arguments = [
        "election-timeout=20000",
        "transfer-timeout=20000",
        "log-segment-size=65536",
        "snapshot-req-max-size=1024",
        "snapshot-req-max-count=1",
    ];
    let module_arguments = arguments.map(str::to_string).to_vec();
    let options = Options { size: 2, proxied: true, module_arguments, ..Options::default() };
    let mut cluster = Cluster::start_with(&options);
    let leader = cluster.leader();
    let mut connection = cluster.connect(leader);
    // What is longer than the snapshot is purged: everything is written three times.
    for at in 0..3 * KEYS {
        let value = noise(at, 1 << 14);
        let key = format!("large:{}", at % KEYS);
        assert!(connection.call(&["SET", &key, &value]).expect("an answer").is_ok());
    }
    cluster.wait_converged();
    for node in 0..2 {
        wait_for("a compacted log", PATIENCE, || cluster.connect(node).run("RAFT.DEBUG COMPACT").is_ok());
        wait_for("a purged log", PATIENCE, || {
            cluster.try_info(node).is_ok_and(|info| {
                let number = |name: &str| info[name].parse::<i64>().expect("a number");
                number("raft_log_entries") < number("raft_current_index")
            })
        });
    }
    cluster
}

/// Starts one more server, and has the cluster give it an id before it asks, so that its links can be made slow. This is
/// what a node leaves that dies before it gets its invitation.
fn grow_with_id(cluster: &mut Cluster, leader: usize) -> (usize, u64) {
    let node = cluster.grow();
    let id = add(cluster, leader, node);
    (node, id)
}

/// `RAFT.NODE ADD` of a server that runs. Returns the id that it is given.
fn add(cluster: &mut Cluster, leader: usize, node: usize) -> u64 {
    let module = cluster.server(node).setup().module.clone().expect("the module");
    let value = |name: &str| module.iter().find_map(|argument| argument.strip_prefix(name)).expect("set");
    let line = format!("RAFT.NODE ADD 0 {} {}", value("addr="), value("peer-addr="));
    let added = cluster.connect(leader).run(&line);
    match &added {
        Value::Array(fields) => u64::try_from(fields[0].integer()).expect("an id"),
        other => panic!("{other}"),
    }
}

fn set_links(cluster: &Cluster, id: u64, members: &[u64], fault: Fault) {
    for member in members {
        cluster.proxy().set(id, *member, fault);
        cluster.proxy().set(*member, id, fault);
    }
}

fn seed(cluster: &Cluster, node: usize) -> String {
    format!("127.0.0.1:{}", cluster.port(node))
}

/// `RAFT.CLUSTER JOIN` of node `node`, with these addresses.
fn join(cluster: &Cluster, node: usize, addresses: &[String]) -> Value {
    let mut connection = cluster.connect(node);
    connection.set_timeout(PATIENCE).expect("a timeout");
    connection.run(&format!("RAFT.CLUSTER JOIN {}", addresses.join(" ")))
}

fn log_of(cluster: &mut Cluster, node: usize) -> PathBuf {
    cluster.server(node).directory().join("raftlog")
}

/// Bytes of the snapshot that a node has received so far, if it is receiving one.
fn received_bytes(log: &PathBuf) -> Option<u64> {
    let names = std::fs::read_dir(log).ok()?;
    let mut files = names.filter_map(|item| item.ok().map(|item| item.path()));
    let partial = files.find(|path| path.to_string_lossy().ends_with(".rdb.tmp"))?;
    Some(std::fs::metadata(partial).ok()?.len())
}

fn wait_receiving(log: &PathBuf) {
    wait_for("a part of a snapshot", PATIENCE, || received_bytes(log).is_some_and(|bytes| bytes > 0));
}

fn assert_in_the_midst(log: &PathBuf) {
    let bytes = received_bytes(log).expect("a snapshot that is being received");
    assert!((1..DATASET_BYTES).contains(&bytes), "{bytes} bytes were received");
}

/// Whether a field of `INFO raft` has this value.
fn is(cluster: &Cluster, node: usize, name: &str, value: &str) -> bool {
    cluster.try_info(node).is_ok_and(|info| info.get(name).is_some_and(|found| found == value))
}

/// Waits until these nodes vote, and know of nobody else.
fn wait_members(cluster: &Cluster, nodes: &[usize]) {
    let count = nodes.len().to_string();
    wait_for("all to be members", PATIENCE, || {
        nodes.iter().all(|node| {
            cluster.try_info(*node).is_ok_and(|info| {
                ["raft_num_nodes", "raft_num_voting_nodes"].iter().all(|name| info.get(*name) == Some(&count))
                    && info["raft_is_voting"] == "yes"
                    && info["raft_state"] == "up"
            })
        })
    });
}

#[test]
fn a_joiner_killed_while_its_snapshot_arrives_joins_again_with_the_whole_dataset() {
    let _serial = serial(LIMIT);
    let mut cluster = compacted();
    let leader = cluster.leader();
    let members = cluster.ids();
    let addresses = [seed(&cluster, leader)];
    let (node, id) = grow_with_id(&mut cluster, leader);
    let log = log_of(&mut cluster, node);
    set_links(&cluster, id, &members, SLOW);
    for _ in 0..2 {
        let joined = join(&cluster, node, &addresses);
        assert!(joined.is_ok(), "{joined}");
        assert_eq!(cluster.id(node), id, "the entry that is there is used");
        wait_receiving(&log);
        cluster.kill(node);
        assert_in_the_midst(&log);
        cluster.restart(node);
        assert_eq!(cluster.field(node, "raft_state"), "uninitialized");
        assert!(!log.exists(), "what it had is not taken for a log");
        let refused = cluster.connect(node).run("GET large:1");
        assert!(refused.is_error("NOCLUSTER"), "{refused}");
        assert!(cluster.connect(leader).run("SET meanwhile 1").is_ok(), "it holds nobody up");
    }
    cluster.proxy().heal_all();
    let joined = join(&cluster, node, &addresses);
    assert!(joined.is_ok(), "{joined}");
    wait_for("the snapshot", PATIENCE, || is(&cluster, node, "raft_snapshots_received", "1"));
    // From here on it has something to keep.
    cluster.kill(node);
    cluster.restart(node);
    wait_members(&cluster, &[0, 1, node]);
    cluster.wait_converged();
    assert_eq!(cluster.id(node), id);
    assert_eq!(cluster.local(node, "DBSIZE").integer(), KEYS as i64 + 1);
    assert_eq!(received_bytes(&log), None, "nothing half-made is left");
}

#[test]
fn a_joiner_killed_while_its_snapshot_arrives_can_be_removed_and_joins_as_a_new_node() {
    let _serial = serial(LIMIT);
    let mut cluster = compacted();
    let leader = cluster.leader();
    let members = cluster.ids();
    let (node, id) = grow_with_id(&mut cluster, leader);
    let log = log_of(&mut cluster, node);
    set_links(&cluster, id, &members, SLOW);
    let joined = join(&cluster, node, &[seed(&cluster, leader)]);
    assert!(joined.is_ok(), "{joined}");
    wait_receiving(&log);
    cluster.kill(node);
    assert_in_the_midst(&log);
    let removed = cluster.connect(leader).run(&format!("RAFT.NODE REMOVE {id}"));
    assert!(removed.is_ok(), "{removed}");
    wait_members(&cluster, &[0, 1]);
    cluster.restart(node);
    assert_eq!(cluster.field(node, "raft_state"), "uninitialized");
    let joined = join(&cluster, node, &[seed(&cluster, leader)]);
    assert!(joined.is_ok(), "{joined}");
    wait_members(&cluster, &[0, 1, node]);
    cluster.wait_converged();
    assert_ne!(cluster.id(node), id, "an id is used once");
}

#[test]
fn a_node_joins_through_a_learner_that_is_still_receiving_its_snapshot() {
    let _serial = serial(LIMIT);
    let mut cluster = compacted();
    let leader = cluster.leader();
    let members = cluster.ids();
    let (learner, id) = grow_with_id(&mut cluster, leader);
    let log = log_of(&mut cluster, learner);
    set_links(&cluster, id, &members, SLOW);
    let joined = join(&cluster, learner, &[seed(&cluster, leader)]);
    assert!(joined.is_ok(), "{joined}");
    wait_receiving(&log);
    let asked = cluster.connect(learner).run("RAFT.NODE ADD 0 127.0.0.1:1 127.0.0.1:2");
    let leaders_address = seed(&cluster, leader);
    assert!(asked.is_error(&format!("MOVED 0 {leaders_address}")), "it names whom to ask: {asked}");
    let node = cluster.grow();
    let joined = join(&cluster, node, &[seed(&cluster, learner)]);
    assert!(joined.is_ok(), "{joined}");
    wait_for("the new node to vote", PATIENCE, || is(&cluster, node, "raft_is_voting", "yes"));
    assert_in_the_midst(&log);
    assert_eq!(cluster.field(learner, "raft_is_voting"), "no");
    cluster.proxy().heal_all();
    wait_members(&cluster, &[0, 1, learner, node]);
    cluster.wait_converged();
}

#[test]
fn join_goes_on_to_the_next_address_whatever_the_one_before_says() {
    let _serial = serial(LIMIT);
    let mut cluster = Cluster::start(2);
    let follower = cluster.follower();
    let plain = Server::start(Setup::plain());
    let (alone, node) = (cluster.grow(), cluster.grow());
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let silent = silent.local_addr().expect("its address").to_string();
    let unhelpful = [
        format!("127.0.0.1:{}", plain.port()),
        seed(&cluster, alone),
        seed(&cluster, node), // all are started with the same list
    ];
    let refused = join(&cluster, node, &unhelpful);
    assert!(refused.is_error("ERR "), "{refused}");
    for address in &unhelpful {
        assert!(refused.text().contains(address), "{address} is not named: {refused}");
    }
    assert_eq!(cluster.field(node, "raft_state"), "uninitialized");
    for nobody in ["127.0.0.1:1".to_string(), silent, "no-such-host.invalid:5001".to_string()] {
        let mut addresses = unhelpful.to_vec();
        addresses.extend([nobody, seed(&cluster, follower)]);
        let node = cluster.grow();
        let joined = join(&cluster, node, &addresses);
        assert!(joined.is_ok(), "{joined}");
        wait_for("the new node to vote", PATIENCE, || is(&cluster, node, "raft_is_voting", "yes"));
    }
    // The two that did not join answer as well, and hold nothing.
    cluster.kill(alone);
    cluster.kill(node);
    cluster.wait_converged();
}
