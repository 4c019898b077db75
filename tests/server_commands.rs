//! What a client sees: native transactions, scripts and databases, and the errors of INTERFACE in their places.
#![cfg(feature = "redis")]

mod cluster;

use std::time::Instant;

use cluster::{
    millis, seconds, serial, wait_for, Client, Cluster, Connection, Options, Server, Setup, Value,
};

fn leader_connection(cluster: &mut Cluster) -> Connection {
    let leader = cluster.leader();
    cluster.connect(leader)
}

#[test]
fn transactions_are_native() {
    let _serial = serial(seconds(60));
    let mut cluster = Cluster::start(3);
    let (mut first, mut second) = (leader_connection(&mut cluster), leader_connection(&mut cluster));
    assert!(first.run("MULTI").is_ok());
    for command in ["SET a 1", "INCR a", "LPUSH a x", "GET a"] {
        assert_eq!(first.run(command), Value::Status("QUEUED".to_owned()));
    }
    assert_eq!(second.run("EXISTS a").integer(), 0, "a queued command was executed");
    let replies = first.run("EXEC");
    let replies = replies.array();
    assert!(replies[0].is_ok() && replies[1].integer() == 2 && replies[2].is_error("WRONGTYPE"));
    assert_eq!(replies[3].text(), "2");
    assert_eq!(second.run("GET a").text(), "2");

    assert!(first.run("MULTI").is_ok());
    assert!(first.run("NOSUCHCOMMAND").is_error("ERR unknown command"));
    assert!(first.run("SET a never").text() == "QUEUED");
    assert!(first.run("EXEC").is_error("EXECABORT"));
    assert!(first.run("EXEC").is_error("ERR EXEC without MULTI"));
    assert!(first.run("MULTI").is_ok() && first.run("SET a never").text() == "QUEUED");
    assert!(first.run("DISCARD").is_ok());
    assert_eq!(second.run("GET a").text(), "2");
    assert_eq!(first.run("MULTI").text() + &first.run("EXEC").text(), "OK");
    cluster.wait_converged();
}

#[test]
fn a_watched_key_that_changes_aborts_the_transaction() {
    let _serial = serial(seconds(60));
    let mut cluster = Cluster::start(3);
    let (mut first, mut second) = (leader_connection(&mut cluster), leader_connection(&mut cluster));
    for (change, outcome) in [("SET watched 2", None), ("GET watched", Some("OK"))] {
        first.run("SET watched 1");
        assert!(first.run("WATCH watched").is_ok());
        assert_eq!(first.run("GET watched").text(), "1");
        second.run(change);
        first.run("MULTI");
        first.run("SET watched 3");
        let result = first.run("EXEC");
        assert_eq!((result != Value::Nil).then(|| result.text()).as_deref(), outcome, "after {change}");
    }
    assert_eq!(second.run("GET watched").text(), "3");
}

#[test]
fn counters_by_watch_are_exact() {
    let _serial = serial(seconds(90));
    let mut cluster = Cluster::start(3);
    let leader = cluster.leader();
    cluster.connect(leader).run("SET exact 0");
    let workers: Vec<_> = (0..4)
        .map(|_| {
            let mut connection = cluster.connect(leader);
            std::thread::spawn(move || {
                let (mut won, mut lost) = (0, 0);
                while won < 50 {
                    connection.run("WATCH exact");
                    let value: i64 = connection.run("GET exact").text().parse().expect("a number");
                    connection.run("MULTI");
                    connection.run(&format!("SET exact {}", value + 1));
                    if connection.run("EXEC") == Value::Nil {
                        lost += 1;
                    } else {
                        won += 1;
                    }
                }
                lost
            })
        })
        .collect();
    let lost: i32 = workers.into_iter().map(|worker| worker.join().expect("a worker failed")).sum();
    assert!(lost > 0, "there was no contention");
    assert_eq!(cluster.connect(leader).run("GET exact").text(), "200");
}

#[test]
fn pipelines_mix_databases_scripts_and_transactions() {
    let _serial = serial(seconds(60));
    let mut cluster = Cluster::start(3);
    let mut connection = leader_connection(&mut cluster);
    let commands: [&[&str]; 14] = [
        &["SELECT", "3"],
        &["SET", "k", "three"],
        &[
            "EVAL",
            "redis.call('SET', KEYS[1], ARGV[1]) return redis.call('GET', KEYS[1])",
            "1",
            "s",
            "script",
        ],
        &["MULTI"],
        &["INCR", "n"],
        &["INCRBY", "n", "5"],
        &["EXEC"],
        &["SELECT", "0"],
        &["GET", "k"],
        &["LPUSH", "l", "a", "b"],
        &["GET", "l"],
        &["PING"],
        &["SELECT", "3"],
        &["GET", "k"],
    ];
    for command in commands {
        connection.send(command).expect("sent");
    }
    let replies: Vec<String> =
        commands.iter().map(|_| connection.receive().expect("a reply").text()).collect();
    let wrong_type = "WRONGTYPE Operation against a key holding the wrong kind of value";
    let expected = [
        "OK", "OK", "script", "OK", "QUEUED", "QUEUED", "1 6", "OK", "(nil)", "2", wrong_type, "PONG", "OK",
        "three",
    ];
    assert_eq!(replies, expected);
    cluster.wait_converged();
    for node in 0..3 {
        assert!(cluster.connect(node).run("INFO keyspace").text().contains("db3:keys=3"), "on node {node}");
    }
}

#[test]
fn commands_of_every_type_answer_as_without_the_module() {
    let _serial = serial(seconds(60));
    let mut cluster = Cluster::start(1);
    let plain = Server::start(Setup::plain());
    let (mut with, mut without) = (leader_connection(&mut cluster), plain.connect());
    let lines = "SET s v|SETRANGE s 3 xyz|APPEND s !|GETRANGE s 0 -1|GETSET s w|STRLEN s|SETNX s z|MSET a 1 b 2|\
        MGET a b c|INCRBY a 7|DECR a|BITCOUNT a|SETBIT bits 7 1|BITOP NOT dest bits|BITFIELD f INCRBY u8 0 200|\
        LPUSH l a b c|LRANGE l 0 -1|LINSERT l BEFORE b x|LMOVE l l2 LEFT RIGHT|RPOPLPUSH l l2|LPOS l2 a|LLEN l|\
        HSET h f1 v1 f2 v2|HGETALL h|HINCRBY h n 3|HDEL h f1|HKEYS h|SADD s1 a b c|SADD s2 b c d|SINTERCARD 2 s1 s2|\
        SDIFFSTORE s3 s1 s2|SMOVE s1 s2 a|SISMEMBER s2 a|ZADD z 1 a 2 b 3 c|ZRANGE z 0 -1 WITHSCORES|ZINCRBY z 5 a|\
        ZRANK z a|ZPOPMIN z|ZRANGEBYSCORE z -inf +inf|PFADD p a b c|PFCOUNT p|GEOADD g 13.36 38.11 palermo|\
        GEODIST g palermo palermo|XADD x 1-1 f v|XADD x 1-1 f v|XLEN x|XRANGE x - +|XGROUP CREATE x grp 0|\
        XREADGROUP GROUP grp c COUNT 1 STREAMS x >|XACK x grp 1-1|EXPIRE s 100|TTL s|PERSIST s|TYPE z|RENAME s t|\
        RENAME nosuch t|EXISTS s t|UNLINK t a|TOUCH z|OBJECT ENCODING z|DUMP nosuch|GET|SET s v EX 0|INCR l|\
        EVAL return{1,2} 0|EVAL error 0|EVALSHA ffffffffffffffffffffffffffffffffffffffff 0|SORT l2 ALPHA|\
        LMPOP 1 l2 LEFT COUNT 2|BLPOP l2 0.01|BLPOP l 0.01|COPY z z2|SELECT 15|SELECT 16|DBSIZE|ECHO hello|\
        GETDEL nosuch|SETEX e 100 v|GETEX e PERSIST|TTL e|SUBSTR e 0 0|LCS a b|NOSUCH x|SET a|FLUSHDB|DBSIZE";
    for line in lines.split('|') {
        assert_eq!(with.run(line), without.run(line), "{line}");
    }
}

#[test]
fn the_explicit_form_runs_a_command() {
    let _serial = serial(seconds(60));
    let mut cluster = Cluster::start(3);
    let mut connection = leader_connection(&mut cluster);
    assert!(connection.run("RAFT SET k v").is_ok());
    assert_eq!(connection.run("RAFT GET k").text(), "v");
    assert!(connection.run("raft incr k").is_error("ERR value is not an integer"));
    assert!(matches!(connection.run("RAFT"), Value::Error(_)));
    assert!(matches!(connection.run("RAFT NOSUCHCOMMAND"), Value::Error(_)));
    cluster.wait_converged();
}

#[test]
fn a_server_outside_a_cluster_refuses_data_and_answers_the_rest() {
    let _serial = serial(seconds(60));
    let server = Server::start(Setup::with_module());
    let mut connection = server.connect();
    for command in ["GET k", "SET k v", "RAFT GET k", "EVAL return(1) 0", "DBSIZE", "BLPOP l 0"] {
        assert!(connection.run(command).is_error("NOCLUSTER No Raft Cluster"), "{command}");
    }
    assert_eq!(connection.run("PING").text(), "PONG");
    let info = cluster::parse_info(&connection.run("INFO raft").text());
    assert_eq!((info["raft_state"].as_str(), info["raft_role"].as_str()), ("uninitialized", "(none)"));
    assert_eq!(info["raft_leader_id"], "-1");
    for command in
        ["RAFT.CLUSTER", "RAFT.CLUSTER NOSUCH", "RAFT.CLUSTER INIT short", "RAFT.CLUSTER INITX", "RAFT.NODE"]
    {
        assert!(matches!(connection.run(command), Value::Error(_)), "{command}");
    }
    let id = "0123456789abcdef0123456789abcdef";
    assert_eq!(connection.run(&format!("raft.cluster init {id}")).text(), format!("OK {id}"));
    assert!(connection.run("SET k v").is_ok());
    assert!(matches!(connection.run("RAFT.CLUSTER INIT"), Value::Error(_)), "a second INIT");
    assert!(matches!(connection.run("RAFT.CLUSTER JOIN 127.0.0.1:1"), Value::Error(_)), "JOIN of a member");
    assert_eq!(cluster::parse_info(&connection.run("RAFT.INFO").text())["raft_dbid"], id);
}

#[test]
fn followers_redirect_by_the_slot_of_the_key() {
    let _serial = serial(seconds(60));
    let mut cluster = Cluster::start(3);
    let (leader, follower) = (cluster.leader(), cluster.follower());
    let mut connection = cluster.connect(follower);
    let address = format!("127.0.0.1:{}", cluster.port(leader));
    let plain = Server::start(Setup::plain().server_arguments("--cluster-enabled yes"));
    let slot = plain.connect().run("CLUSTER KEYSLOT foo").integer();
    assert_eq!(connection.run("CLUSTER KEYSLOT foo").integer(), slot);
    for command in
        ["GET foo", "SET foo bar", "RAFT GET foo", "EVAL return(1) 1 foo", "BLPOP foo 0", "GET {foo}x"]
    {
        assert_eq!(connection.run(command), Value::Error(format!("MOVED {slot} {address}")), "{command}");
    }
    for command in ["DBSIZE", "RANDOMKEY", "KEYS *", "MULTI", "FLUSHALL"] {
        assert_eq!(connection.run(command), Value::Error(format!("MOVED 0 {address}")), "{command}");
    }
    assert!(connection.run("WATCH foo").is_error("MOVED "));
    for command in ["PING", "ECHO x", "CLIENT ID", "CONFIG GET maxmemory", "INFO", "DEBUG DIGEST", "READONLY"]
    {
        assert!(!matches!(connection.run(command), Value::Error(_)), "{command}");
    }
}

#[test]
fn without_a_leader_commands_wait_and_are_then_refused() {
    let _serial = serial(seconds(60));
    let mut cluster = Cluster::start_with(&Options {
        module_arguments: vec!["leader-wait-ms=700".to_owned()],
        ..Options::default()
    });
    let leader = cluster.leader();
    let alone = cluster.follower();
    (0..3).filter(|node| *node != alone).for_each(|node| cluster.kill(node));
    let mut connection = cluster.connect(alone);
    // Until it knows that the leader is gone it may still redirect there.
    wait_for("the last node to know that nobody leads", seconds(10), || {
        !connection.run("GET k").is_error("MOVED")
    });
    for command in ["GET k", "SET k v", "CLUSTER SLOTS"] {
        let asked = Instant::now();
        let reply = connection.run(command);
        let took = asked.elapsed();
        assert!(reply.is_error("CLUSTERDOWN"), "{command}: {reply}");
        assert!(took >= millis(500) && took < millis(2500), "{command} was refused after {took:?}");
    }
    assert_eq!(connection.run("PING").text(), "PONG", "a command that needs no leader waits for one");
    connection.send(&["GET", "k"]).expect("sent");
    cluster.restart(leader);
    assert!(cluster.client().run("SET k v").is_ok());
}

#[test]
fn a_crash_of_the_leader_is_a_short_wait_for_a_client_of_a_follower() {
    let _serial = serial(seconds(60));
    let mut cluster = Cluster::start(3);
    cluster.client().run("SET k v");
    let (leader, follower) = (cluster.leader(), cluster.follower());
    let mut connection = cluster.connect(follower);
    cluster.kill(leader);
    let mut client = Client::new(vec![cluster.port(follower)]);
    client.patience = millis(1);
    // One question only: it waits for the new leader and is then answered or sent there.
    let mut reply = connection.run("GET k");
    let stale_leader = format!(":{}", cluster.port(leader));
    for _ in 0..100 {
        if !reply.text().ends_with(&stale_leader) {
            break;
        }
        std::thread::sleep(millis(10));
        reply = connection.run("GET k");
    }
    assert!(reply.text() == "v" || reply.is_error("MOVED "), "{reply}");
}

#[test]
fn replication_is_refused_because_raft_manages_it() {
    let _serial = serial(seconds(60));
    let mut cluster = Cluster::start(3);
    let (leader, follower) = (cluster.leader(), cluster.follower());
    let refusal = "ERR not supported: replication is managed by raft";
    for node in [leader, follower] {
        let mut connection = cluster.connect(node);
        for command in [
            "REPLICAOF NO ONE",
            "REPLICAOF 127.0.0.1 1",
            "SLAVEOF NO ONE",
            "PSYNC ? -1",
            "SYNC",
            "FAILOVER",
            "CLUSTER MEET 127.0.0.1 1",
            "CLUSTER FAILOVER",
            "CLUSTER RESET",
        ] {
            let reply = connection.run(command);
            assert!(reply.is_error(refusal), "{command} on node {node}: {reply}");
        }
        // Inside a transaction (which a follower does not begin) the refusal comes at once or from EXEC.
        connection.run("MULTI");
        let reply = connection.run("REPLICAOF NO ONE");
        let reply = if reply.text() == "QUEUED" { connection.run("EXEC").array()[0].clone() } else { reply };
        assert!(reply.is_error(refusal), "REPLICAOF in a transaction on node {node}: {reply}");
    }
    assert!(cluster.client().run("SET k v").is_ok());
    cluster.wait_converged();
}

#[test]
fn wait_is_answered_and_shutdown_of_the_leader_is_orderly() {
    let _serial = serial(seconds(60));
    let mut cluster = Cluster::start(3);
    let mut connection = leader_connection(&mut cluster);
    connection.run("SET k v");
    let asked = Instant::now();
    for command in ["WAIT 1 100", "WAIT 9 100"] {
        assert_eq!(connection.run(command), Value::Integer(1), "of three, one other is certain to have it");
    }
    assert!(asked.elapsed() < seconds(3));
    let leader = cluster.leader();
    connection.send(&["SHUTDOWN"]).expect("sent");
    assert_eq!(cluster.server(leader).wait_exit(), Some(0));
    assert_eq!(cluster.client().run("GET k").text(), "v");
    cluster.restart(leader);
    cluster.wait_converged();
}

#[test]
fn debug_reads_and_refuses_the_rest() {
    let _serial = serial(seconds(60));
    let mut cluster = Cluster::start(3);
    cluster.client().run("SET k v");
    cluster.wait_converged();
    let digests: Vec<String> = (0..3).map(|node| cluster.digest(node)).collect();
    assert!(digests.iter().all(|digest| digest.len() == 40 && digest.bytes().any(|byte| byte != b'0')));
    let (leader, follower) = (cluster.leader(), cluster.follower());
    for node in [leader, follower] {
        let mut connection = cluster.connect(node);
        assert!(connection.run("DEBUG SLEEP 0.05").is_ok());
        assert!(connection.run("DEBUG OBJECT k").text().contains("encoding"), "on node {node}");
        for command in [
            "DEBUG RELOAD",
            "DEBUG LOADAOF",
            "DEBUG SET-ACTIVE-EXPIRE 0",
            "DEBUG POPULATE 10",
            "DEBUG FLUSHALL",
        ] {
            assert!(matches!(connection.run(command), Value::Error(_)), "{command}");
        }
        assert_eq!(connection.run("RAFT.DEBUG EXEC GET k").text(), "v");
        assert!(
            matches!(connection.run("RAFT.DEBUG EXEC SET k other"), Value::Error(_)),
            "a write past Raft"
        );
    }
    cluster.wait_converged();
    assert_eq!(cluster.client().run("GET k").text(), "v");
}

#[test]
fn a_slow_main_thread_does_not_cost_the_leader_its_place() {
    let _serial = serial(seconds(60));
    let mut cluster = Cluster::start(3);
    let leader = cluster.leader();
    let term = cluster.number(leader, "raft_current_term");
    // Longer than an election timeout: heartbeats do not pass through the main thread.
    assert!(cluster.connect(leader).run("DEBUG SLEEP 1.5").is_ok());
    assert_eq!(cluster.number(leader, "raft_current_term"), term);
    assert_eq!(cluster.leader(), leader);
}

#[test]
fn the_cluster_commands_describe_one_shard() {
    let _serial = serial(seconds(60));
    let mut cluster = Cluster::start(3);
    let leader = cluster.leader();
    let ids: Vec<String> = (0..3).map(|node| cluster.connect(node).run("CLUSTER MYID").text()).collect();
    for (node, id) in ids.iter().enumerate() {
        assert!(id.len() == 40 && id.bytes().all(|byte| byte.is_ascii_hexdigit()), "node {node}: {id}");
    }
    assert!(ids[0] != ids[1] && ids[1] != ids[2] && ids[0] != ids[2]);
    for node in 0..3 {
        let mut connection = cluster.connect(node);
        let slots = connection.run("CLUSTER SLOTS");
        let [shard] = slots.array() else { panic!("one shard was expected: {slots}") };
        let shard = shard.array();
        assert_eq!((shard[0].integer(), shard[1].integer(), shard.len()), (0, 16_383, 5));
        assert_eq!(shard[2].array()[0].text(), "127.0.0.1");
        assert_eq!(shard[2].array()[1].integer(), i64::from(cluster.port(leader)), "the leader comes first");
        assert_eq!(shard[2].array()[2].text(), ids[leader]);
        let nodes = connection.run("CLUSTER NODES").text();
        assert_eq!(nodes.lines().count(), 3);
        let own = nodes.lines().find(|line| line.contains("myself")).expect("a line for the node itself");
        assert!(own.starts_with(&ids[node]), "{own}");
        let master: Vec<&str> = nodes.lines().filter(|line| line.contains("master")).collect();
        assert!(
            master.len() == 1 && master[0].starts_with(&ids[leader]) && master[0].contains("0-16383"),
            "{nodes}"
        );
        let info = cluster::parse_info(&connection.run("CLUSTER INFO").text());
        assert_eq!(info["cluster_state"], "ok");
        assert_eq!(info["cluster_slots_assigned"], "16384");
        assert_eq!((info["cluster_known_nodes"].as_str(), info["cluster_size"].as_str()), ("3", "1"));
        let shards = connection.run("CLUSTER SHARDS").text();
        assert!(ids.iter().all(|id| shards.contains(id)), "{shards}");
        for command in ["READONLY", "READWRITE", "ASKING"] {
            assert!(connection.run(command).is_ok(), "{command}");
        }
    }
    // Ids are stable across a restart.
    cluster.kill(leader);
    cluster.restart(leader);
    cluster.wait_voting(3);
    assert_eq!(cluster.connect(leader).run("CLUSTER MYID").text(), ids[leader]);
}

#[test]
fn access_is_checked_for_the_user_and_the_original_command() {
    let _serial = serial(seconds(60));
    let mut cluster = Cluster::start(1);
    let mut admin = leader_connection(&mut cluster);
    assert!(admin.run("ACL SETUSER reader on >secret ~allowed:* +get +auth +ping").is_ok());
    admin.run("SET allowed:k v");
    let mut reader = leader_connection(&mut cluster);
    assert!(reader.run("AUTH reader secret").is_ok());
    assert_eq!(reader.run("GET allowed:k").text(), "v");
    for command in [
        "GET other",
        "SET allowed:k x",
        "RAFT SET allowed:k x",
        "RAFT.CLUSTER INIT",
        "RAFT.DEBUG EXEC GET other",
    ] {
        assert!(reader.run(command).is_error("NOPERM"), "{command}");
    }
    assert_eq!(admin.run("GET allowed:k").text(), "v");
}
