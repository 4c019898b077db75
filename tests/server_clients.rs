//! Clients of every kind: long pipelines, many connections, large values, clients that vanish, and real libraries.
#![cfg(feature = "redis")]

mod cluster;

use std::process::Command;
use std::time::Instant;

use cluster::{encode, free_port, millis, seconds, serial, wait_for, Cluster, Connection, Value};
use redis::Commands;

#[test]
fn a_long_pipeline_commits_in_few_batches_and_replies_in_order() {
    const COMMANDS: i64 = 10_000;
    let _serial = serial(seconds(90));
    let mut cluster = Cluster::start(3);
    let leader = cluster.leader();
    let mut connection = cluster.connect(leader);
    connection.run("SET number 0");
    let batches = cluster.number(leader, "raft_released_batches");
    let synced = cluster.number(leader, "raft_fsync_count");
    let pipeline: Vec<u8> = (0..COMMANDS).flat_map(|_| encode(&["INCR", "number"])).collect();
    connection.send_raw(&pipeline).expect("the socket takes it");
    for expected in 1..=COMMANDS {
        assert_eq!(connection.receive().expect("a reply"), Value::Integer(expected));
    }
    let batches = cluster.number(leader, "raft_released_batches") - batches;
    let synced = cluster.number(leader, "raft_fsync_count") - synced;
    assert!(batches > 0 && batches < COMMANDS / 10, "{COMMANDS} commands were released in {batches} batches");
    assert!(synced > 0 && synced < COMMANDS / 10, "{COMMANDS} commands took {synced} syncs");
    cluster.wait_converged();
}

#[test]
fn clients_that_vanish_while_they_are_held_harm_nothing() {
    let _serial = serial(seconds(90));
    let mut cluster = Cluster::start_proxied(3);
    let ids = cluster.ids();
    let leader = cluster.leader();
    let mut admin = cluster.connect(leader);
    for round in 0..3 {
        // Slow links keep the replies back long enough to leave before they come.
        cluster.isolate(&ids, leader, cluster::Fault::Delay(millis(100)));
        for number in 0..50 {
            let mut connection = cluster.connect(leader);
            let key = format!("vanished:{round}:{number}");
            connection.send(&["SET", &key, "v"]).expect("sent");
            connection.send(&["GET", &key]).expect("sent");
        }
        let mut killed = cluster.connect(leader);
        let id = killed.run("CLIENT ID").integer().to_string();
        killed.send(&["SET", "killed", "v"]).expect("sent");
        assert!(matches!(admin.run(&format!("CLIENT KILL ID {id}")), Value::Integer(_)));
        cluster.proxy().heal_all();
        assert!(cluster.client().run("SET still here").is_ok());
    }
    wait_for("no client to be held", seconds(10), || cluster.number(leader, "raft_held_clients") == 0);
    let clients = admin.run("CLIENT LIST").text().lines().count();
    assert!(clients < 20, "{clients} connections are left");
    cluster.wait_converged();
}

#[test]
fn a_thousand_clients_are_answered() {
    let _serial = serial(seconds(120));
    let mut cluster = Cluster::start(3);
    let leader = cluster.leader();
    let mut connections: Vec<Connection> = (0..1_000).map(|_| cluster.connect(leader)).collect();
    for round in 1..=5 {
        for connection in &mut connections {
            connection.send(&["INCR", "together"]).expect("sent");
        }
        let mut replies: Vec<i64> = connections
            .iter_mut()
            .map(|connection| connection.receive().expect("a reply").integer())
            .collect();
        replies.sort_unstable();
        let expected: Vec<i64> = ((round - 1) * 1_000 + 1..=round * 1_000).collect();
        assert_eq!(replies, expected);
    }
    drop(connections);
    cluster.wait_converged();
}

#[test]
fn a_value_of_sixteen_megabytes_is_replicated() {
    let _serial = serial(seconds(120));
    let mut cluster = Cluster::start(3);
    let value: Vec<u8> =
        (0..16_u32 << 20).map(|position| (position.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let mut client = cluster.client();
    client.reply_timeout = seconds(30);
    for key in ["large:1", "large:2"] {
        assert!(client.repeat(&[b"SET".as_slice(), key.as_bytes(), &value]).is_ok());
    }
    assert!(client.run("APPEND large:2 more").integer() == (16 << 20) + 4);
    cluster.wait_converged();
    let leader = cluster.leader();
    cluster.kill(leader);
    assert_eq!(client.repeat(&["GET", "large:1"]), Value::Bulk(value));
    cluster.restart(leader);
    cluster.wait_converged();
}

#[test]
fn blocking_commands_wait_and_are_served() {
    let _serial = serial(seconds(90));
    let mut cluster = Cluster::start(3);
    let leader = cluster.leader();
    let mut blocked = cluster.connect(leader);
    let mut other = cluster.connect(leader);
    for (wait, serve, served) in [
        ("BLPOP list 5", "RPUSH list a b", "list a"),
        ("BLMOVE list moved LEFT RIGHT 5", "PING", "b"),
        ("BZPOPMIN sorted 5", "ZADD sorted 1 m", "sorted m 1"),
        ("XREAD BLOCK 5000 STREAMS stream $", "XADD stream 5-1 f v", "stream 5-1 f v"),
    ] {
        let words: Vec<&str> = wait.split(' ').collect();
        blocked.send(&words).expect("sent");
        std::thread::sleep(millis(100));
        other.run(serve);
        assert_eq!(blocked.receive().expect("a reply").text(), served, "{wait}");
    }
    let asked = Instant::now();
    assert_eq!(blocked.run("BLPOP nothing 0.3"), Value::Nil);
    assert!(asked.elapsed() >= millis(250) && asked.elapsed() < seconds(3));
    cluster.wait_converged();
}

#[test]
fn subscribers_hear_and_monitors_see() {
    let _serial = serial(seconds(60));
    let mut cluster = Cluster::start(3);
    let leader = cluster.leader();
    let (mut subscriber, mut monitor) = (cluster.connect(leader), cluster.connect(leader));
    assert_eq!(subscriber.run("SUBSCRIBE channel").text(), "subscribe channel 1");
    assert!(monitor.run("MONITOR").is_ok());
    let mut connection = cluster.connect(leader);
    assert_eq!(connection.run("PUBLISH channel hello").integer(), 1);
    assert_eq!(subscriber.receive().expect("a message").text(), "message channel hello");
    connection.run("SET seen 1");
    let mut seen = false;
    for _ in 0..200 {
        let line = monitor.receive().expect("a line").text();
        if line.contains("\"seen\"") {
            seen = true;
            break;
        }
    }
    assert!(seen, "MONITOR does not show the command");
}

#[test]
fn a_cluster_client_library_follows_the_leader() {
    let _serial = serial(seconds(90));
    let mut cluster = Cluster::start(3);
    let addresses: Vec<String> =
        cluster.ports().iter().map(|port| format!("redis://127.0.0.1:{port}")).collect();
    let client = redis::cluster::ClusterClientBuilder::new(addresses)
        .retries(30)
        .min_retry_wait(20)
        .max_retry_wait(500)
        .build()
        .expect("a cluster client");
    let mut connection = client.get_connection().expect("a cluster connection");
    for number in 0..100 {
        let _: () = connection.set(format!("library:{number}"), number).expect("SET");
    }
    let leader = cluster.leader();
    cluster.kill(leader);
    for number in 0..100 {
        // A connection that is closed says that the outcome is unknown; a SET of the same value may be repeated.
        let deadline = Instant::now() + seconds(15);
        while let Err(error) = connection.set::<_, _, ()>(format!("library:{number}"), number + 1) {
            assert!(Instant::now() < deadline, "SET after a failover: {error}");
            std::thread::sleep(millis(20));
            // This library asks a dead node for ever; only a new connection asks the others who leads.
            connection = client.get_connection().expect("a cluster connection while a majority is up");
        }
    }
    for number in 0..100 {
        let found: i64 = connection.get(format!("library:{number}")).expect("GET");
        assert_eq!(found, number + 1);
    }
    let counted: i64 = redis::Script::new("return redis.call('INCRBY', KEYS[1], 5)")
        .key("scripted")
        .invoke(&mut connection)
        .expect("a script");
    assert_eq!(counted, 5);
    cluster.restart(leader);
    cluster.wait_converged();
}

#[test]
fn a_plain_client_library_uses_transactions_and_streams() {
    let _serial = serial(seconds(60));
    let mut cluster = Cluster::start(3);
    let leader = cluster.leader();
    let client =
        redis::Client::open(format!("redis://127.0.0.1:{}/2", cluster.port(leader))).expect("a client");
    let mut connection = client.get_connection().expect("a connection");
    let (first, second): (i64, i64) = redis::transaction(&mut connection, &["tx"], |connection, pipe| {
        let before: Option<i64> = connection.get("tx")?;
        pipe.incr("tx", before.unwrap_or(0) + 1).incr("tx", 10).query(connection)
    })
    .expect("a transaction");
    assert_eq!((first, second), (1, 11));
    let id: String =
        redis::cmd("XADD").arg("events").arg("*").arg("f").arg("v").query(&mut connection).expect("XADD");
    assert!(id.contains('-'));
    cluster.wait_converged();
}

#[test]
fn redis_cli_follows_redirections() {
    let _serial = serial(seconds(60));
    let mut cluster = Cluster::start(3);
    let follower = cluster.follower();
    let cli = |arguments: &[&str]| {
        let port = cluster.port(follower).to_string();
        let output =
            Command::new("redis-cli").args(["-c", "-p", &port]).args(arguments).output().expect("redis-cli");
        String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
    };
    assert_eq!(cli(&["SET", "by-cli", "v"]), "OK");
    assert_eq!(cli(&["GET", "by-cli"]), "v");
    assert_eq!(
        cli(&["INCR", "by-cli"]).trim_start_matches("(error) "),
        "ERR value is not an integer or out of range"
    );
}

#[test]
fn resp3_and_inline_commands_work() {
    let _serial = serial(seconds(60));
    let mut cluster = Cluster::start(1);
    let leader = cluster.leader();
    let mut connection = cluster.connect(leader);
    connection.send_raw(b"SET inline 1\r\nINCR inline\r\n").expect("sent");
    assert!(connection.receive().expect("a reply").is_ok());
    assert_eq!(connection.receive().expect("a reply").integer(), 2);
    let client = redis::Client::open(format!("redis://127.0.0.1:{}/?protocol=resp3", cluster.port(leader)));
    let mut typed = client.expect("a client").get_connection().expect("a connection");
    let _: () = typed.hset("map", "field", 1.5).expect("HSET");
    let map: std::collections::HashMap<String, f64> = typed.hgetall("map").expect("HGETALL");
    assert_eq!(map["field"], 1.5);
    assert!(Connection::open(free_port()).is_err());
}
