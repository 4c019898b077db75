//! What the gate and the filter keep from clients: effects that are not decided, and words that are the module's own.
#![cfg(feature = "redis")]

mod cluster;

use std::thread::sleep;
use std::time::Instant;

use cluster::{encode, millis, parse_info, seconds, serial, wait_for};
use cluster::{Cluster, Connection, Fault, Options, Value};

/// Bytes of the replication stream so far.
fn stream_bytes(connection: &mut Connection) -> u64 {
    parse_info(&connection.run("INFO replication").text())["master_repl_offset"].parse().expect("bytes")
}

/// A batch that has written is ended by a mark in the stream: its clients wait for the entry, not for a read round.
#[test]
fn what_only_looks_like_a_read_is_marked_when_it_has_written() {
    const EFFECT_ALONE: u64 = 40;
    let _serial = serial(seconds(60));
    // Expired keys wait for whoever reads them.
    let options = Options { size: 1, server_arguments: Some("--hz 1".to_owned()), ..Options::default() };
    let mut cluster = Cluster::start_with(&options);
    let leader = cluster.leader();
    let mut connection = cluster.connect(leader);
    for (prepare, command) in
        [("SET k v PX 5", "GET k"), ("RPUSH list a", "BLPOP list 0"), ("PFADD log a b", "PFCOUNT log")]
    {
        connection.run(prepare);
        let before = stream_bytes(&mut connection);
        sleep(millis(10));
        connection.run(command);
        let bytes = stream_bytes(&mut connection) - before;
        assert!(bytes > EFFECT_ALONE, "{command}: {bytes} bytes of the stream hold no effect with its mark");
    }
}

#[test]
fn a_client_in_two_batches_is_held_until_the_later_one_is_committed() {
    let _serial = serial(seconds(60));
    let mut cluster = Cluster::start_with(&Options {
        proxied: true,
        module_arguments: vec!["election-timeout=5000".to_owned()],
        ..Options::default()
    });
    let ids = cluster.ids();
    let leader = cluster.leader();
    let others: Vec<usize> = (0..3).filter(|node| *node != leader).collect();
    let (mut waiting, mut pushing) = (cluster.connect(leader), cluster.connect(leader));
    assert!(waiting.run("SET a 0").is_ok());

    // The first batch reaches the others, whose answers are kept back; the second does not leave.
    others.iter().for_each(|other| cluster.proxy().set(ids[*other], ids[leader], Fault::Stall));
    waiting.send_raw(&[encode(&["SET", "a", "1"]), encode(&["BLPOP", "list", "0"])].concat()).expect("sent");
    sleep(millis(200));
    others.iter().for_each(|other| cluster.proxy().set(ids[leader], ids[*other], Fault::Stall));
    pushing.send(&["RPUSH", "list", "x"]).expect("sent");
    sleep(millis(100));
    let released = cluster.number(leader, "raft_released_batches");
    others.iter().for_each(|other| cluster.proxy().heal(ids[*other], ids[leader]));
    wait_for("the first batch to be released", seconds(3), || {
        cluster.number(leader, "raft_released_batches") > released
    });
    waiting.set_timeout(millis(200)).expect("a timeout");
    assert!(waiting.receive().is_err(), "an answer left while what it tells of was not committed");
    waiting.set_timeout(seconds(10)).expect("a timeout");
    cluster.proxy().heal_all();
    assert!(waiting.receive().expect("a reply").is_ok());
    assert_eq!(waiting.receive().expect("a reply").text(), "list x");
    assert_eq!(pushing.receive().expect("a reply").integer(), 1);
}

/// Transactions that were begun and clients that wait for a key do not outlive the leadership.
#[test]
fn a_leader_that_steps_down_sends_its_waiting_clients_away() {
    let _serial = serial(seconds(60));
    let mut cluster = Cluster::start_proxied(3);
    let ids = cluster.ids();
    let leader = cluster.leader();
    let (mut transaction, mut blocked) = (cluster.connect(leader), cluster.connect(leader));
    assert!(transaction.run("MULTI").is_ok() && transaction.run("SET half 1").text() == "QUEUED");
    blocked.send(&["BLPOP", "nothing", "0"]).expect("sent");
    sleep(millis(100));
    cluster.isolate(&ids, leader, Fault::Cut);
    wait_for("the leader to step down", seconds(10), || cluster.field(leader, "raft_role") != "leader");
    let reply = blocked.receive().expect("a blocked client is answered");
    assert!(reply.is_error("MOVED ") || reply.is_error("CLUSTERDOWN"), "{reply}");
    assert!(transaction.call(&["EXEC"]).is_err(), "a transaction of the lost leadership went on");
    cluster.proxy().heal_all();
    cluster.wait_converged();
}

/// What follows a refused MULTI must not run by itself because this node has become the leader meanwhile.
#[test]
fn a_transaction_that_was_refused_does_not_go_on_at_a_new_leader() {
    let _serial = serial(seconds(60));
    let mut cluster = Cluster::start(3);
    let leader = cluster.leader();
    let mut connections: Vec<Option<Connection>> =
        (0..3).map(|node| (node != leader).then(|| cluster.connect(node))).collect();
    for connection in connections.iter_mut().flatten() {
        assert!(connection.run("MULTI").is_error("MOVED "));
    }
    cluster.kill(leader);
    let new_leader = cluster.leader();
    assert!(cluster.client().run("SET other 1").is_ok());
    let refused = connections[new_leader].as_mut().expect("another node leads now");
    assert!(refused.call(&["SET", "half", "1"]).is_err(), "a part of a transaction was executed");
    assert_eq!(cluster.client().run("EXISTS half").integer(), 0);
}

/// The same, while one of the commands behind the refused MULTI waits for a leader.
#[test]
fn a_part_of_a_refused_transaction_that_waits_does_not_run_at_a_new_leader() {
    let _serial = serial(seconds(120));
    let mut cluster = Cluster::start(3);
    let (leader, survivor) = (cluster.leader(), cluster.follower());
    let behind = (0..3).find(|node| *node != leader && *node != survivor).expect("three nodes");
    let wait = cluster.connect(survivor).run("CONFIG SET raft.leader-wait-ms 60000");
    assert!(wait.is_ok(), "{wait}");
    let mut connection = cluster.connect(survivor);
    connection.set_timeout(seconds(60)).expect("a timeout");
    assert!(connection.run("MULTI").is_error("MOVED "));
    // Only the survivor can be elected by the two that are left then.
    cluster.kill(behind);
    assert!(cluster.client().run("SET other 1").is_ok());
    cluster.kill(leader);
    wait_for("no leader to be known", seconds(30), || cluster.field(survivor, "raft_leader_id") == "-1");
    connection.send(&["SET", "half", "1"]).expect("the socket takes it");
    wait_for("the command to wait", seconds(30), || {
        let clients = parse_info(&cluster.connect(survivor).run("INFO clients").text());
        clients.get("blocked_clients").is_some_and(|count| count != "0")
    });
    cluster.restart(behind);
    let reply = connection.receive();
    assert!(reply.is_err(), "the connection goes on: {reply:?}");
    assert_eq!(cluster.leader(), survivor);
    assert_eq!(cluster.client().run("EXISTS half").integer(), 0, "a part of a transaction was executed");
}

#[test]
fn the_words_of_the_module_itself_are_refused_to_clients() {
    let _serial = serial(seconds(60));
    let mut cluster = Cluster::start(3);
    let (leader, follower) = (cluster.leader(), cluster.follower());
    cluster.client().run("SET k v");
    cluster.wait_converged();
    for node in [leader, follower] {
        let mut connection = cluster.connect(node);
        for command in [
            "RAFT.APPLIED 999999",
            "RAFT.MARK 1 1",
            "RAFT.CAPTURE 0123456789",
            "RAFT.PSYNC 0123456789 ? -1",
            "0123456789 SET k stolen",
            "CLIENT PAUSE 1",
            "CLIENT PAUSE 1 WRITE",
            "CLIENT TRACKING on",
        ] {
            let reply = connection.run(command);
            assert!(matches!(reply, Value::Error(_)), "{command} on node {node}: {reply}");
        }
        assert!(connection.run("CLIENT TRACKING on BCAST").is_ok());
        assert_eq!(cluster.local(node, "GET k").text(), "v");
    }
    assert!(cluster.client().run("SET k w").is_ok());
    cluster.wait_converged();
}

/// While a script is slow the server serves other clients; it must not read from the one whose command it runs.
#[test]
fn a_client_whose_script_is_slow_is_not_read_meanwhile() {
    let _serial = serial(seconds(60));
    let mut cluster = Cluster::start(1);
    let leader = cluster.leader();
    let mut connection = cluster.connect(leader);
    assert!(connection.run("CONFIG SET busy-reply-threshold 10").is_ok());
    let script = "local n = 0 for i = 1, 120000000 do n = n + 1 end return 7";
    for command in [
        vec!["EVAL", script, "0"],
        vec!["EVAL_RO", script, "0"],
        vec!["RAFT.DEBUG", "EXEC", "EVAL_RO", script, "0"],
    ] {
        let sent = Instant::now();
        connection.send(&command).expect("sent");
        sleep(millis(100));
        connection.send(&["PING"]).expect("sent");
        assert_eq!(connection.receive().expect("a reply").text(), "7", "{}", command[0]);
        assert!(sent.elapsed() > millis(150), "the script is not slow: {:?}", sent.elapsed());
        assert_eq!(connection.receive().expect("a reply").text(), "PONG", "{}", command[0]);
    }
}

/// A client that waited for a leader has two who may end that: the leader and its own timer.
#[test]
fn a_client_that_waited_for_a_leader_is_answered_once() {
    const WAIT_MS: u64 = 3000;
    let _serial = serial(seconds(60));
    let mut cluster = Cluster::start_with(&Options {
        module_arguments: vec![format!("leader-wait-ms={WAIT_MS}")],
        ..Options::default()
    });
    let leader = cluster.leader();
    let alone = cluster.follower();
    let mut connections: Vec<Connection> = (0..20).map(|_| cluster.connect(alone)).collect();
    (0..3).filter(|node| *node != alone).for_each(|node| cluster.kill(node));
    wait_for("the last node to know that nobody leads", seconds(10), || {
        cluster.field(alone, "raft_leader_id") == "0" || cluster.field(alone, "raft_role") != "follower"
    });
    for connection in &mut connections {
        connection.send(&["GET", "k"]).expect("sent");
    }
    cluster.restart(leader);
    for connection in &mut connections {
        let reply = connection.receive().expect("a reply");
        assert!(reply == Value::Nil || reply.is_error("MOVED "), "{reply}");
    }
    sleep(millis(WAIT_MS));
    for connection in &mut connections {
        assert_eq!(connection.run("ECHO again").text(), "again");
    }
    assert!(cluster.server(alone).is_running());
}
