//! Commands whose result is not in their words: every node must end with the same dataset, for ever.
#![cfg(feature = "redis")]

mod cluster;

use std::collections::BTreeSet;

use cluster::{millis, seconds, serial, wait_for, Client, Cluster, Value};

/// Runs a command given as separate words until it is answered without an error.
fn must(client: &mut Client, command: &[&str]) -> Value {
    let reply = client.repeat(command);
    assert!(!matches!(reply, Value::Error(_)), "{command:?}: {reply}");
    reply
}

/// One command of each kind that another execution would answer differently.
fn random_commands(client: &mut Client, round: usize) {
    let key = |name: &str| format!("{name}:{round}");
    let members: Vec<String> = (0..50).map(|number| format!("member-{number}")).collect();
    let with_members = |command: &'static str, key: &str| -> Vec<String> {
        [command.to_owned(), key.to_owned()].into_iter().chain(members.iter().cloned()).collect()
    };
    let set = key("set");
    client.repeat(&with_members("SADD", &set));
    for _ in 0..10 {
        must(client, &["SPOP", &set]);
    }
    must(client, &["SPOP", &set, "7"]);
    let take_random = "local m = redis.call('SRANDMEMBER', KEYS[1]) redis.call('SREM', KEYS[1], m) return m";
    must(client, &["EVAL", take_random, "1", &set]);
    let store_time = "local t = redis.call('TIME') redis.call('SET', KEYS[1], t[1] .. '.' .. t[2]) \
        return redis.call('RPUSH', KEYS[2], math.random(1000000))";
    must(client, &["EVAL", store_time, "2", &key("time"), &key("random")]);
    for _ in 0..5 {
        must(client, &["XADD", &key("stream"), "MAXLEN", "~", "1000", "*", "field", "value"]);
    }
    must(client, &["XGROUP", "CREATE", &key("stream"), "group", "0"]);
    must(client, &["XREADGROUP", "GROUP", "group", "consumer", "COUNT", "2", "STREAMS", &key("stream"), ">"]);
    for _ in 0..10 {
        must(client, &["INCRBYFLOAT", &key("float"), "0.1"]);
        must(client, &["HINCRBYFLOAT", &key("hash"), "field", "1.7"]);
    }
    client.repeat(&with_members("SADD", &key("unsorted")));
    must(client, &["SORT", &key("unsorted"), "ALPHA", "LIMIT", "0", "20", "STORE", &key("sorted")]);
    must(client, &["SORT", &key("unsorted"), "BY", "nosort", "STORE", &key("any-order")]);
    must(client, &["SET", &key("expire"), "value", "EX", "1000"]);
    must(client, &["SET", &key("soon"), "value", "PX", "30"]);
    must(client, &["GETEX", &key("expire"), "PX", "900000"]);
}

#[test]
fn random_and_timed_commands_have_the_same_effect_everywhere() {
    let _serial = serial(seconds(120));
    let mut cluster = Cluster::start(3);
    let mut client = cluster.client();
    for round in 0..3 {
        random_commands(&mut client, round);
        cluster.wait_converged();
        // What every node holds survives another leader, and a start from the log alone.
        let leader = cluster.leader();
        cluster.kill(leader);
        wait_for("a new leader", seconds(15), || cluster.find_leader().is_some());
        cluster.restart(leader);
        cluster.wait_converged();
    }
    assert!(client.run("DBSIZE").integer() >= 3 * 10, "the commands have left nothing");
}

#[test]
fn the_dataset_is_rebuilt_from_the_log_alone() {
    let _serial = serial(seconds(90));
    let mut cluster = Cluster::start(3);
    let mut client = cluster.client();
    random_commands(&mut client, 0);
    wait_for("the short-lived key to go", seconds(10), || client.run("EXISTS soon:0").integer() == 0);
    let digest = cluster.wait_converged();
    (0..3).for_each(|node| cluster.kill(node));
    (0..3).for_each(|node| cluster.restart(node));
    assert_eq!(cluster.wait_converged(), digest, "another dataset came out of the same log");
}

#[test]
fn a_key_expires_for_all_nodes_at_once_and_never_comes_back() {
    let _serial = serial(seconds(120));
    let mut cluster = Cluster::start(3);
    let mut client = cluster.client();
    for round in 0..4 {
        let key = format!("expiring:{round}");
        assert!(client.repeat(&["SET", &key, "value", "PX", "400"]).is_ok());
        let leader = cluster.leader();
        cluster.kill(leader);
        // The time to live runs out while nobody leads; the next leader must see to it that all nodes agree.
        std::thread::sleep(millis(450));
        assert_eq!(client.repeat(&["GET", &key]), Value::Nil, "an expired key was read after a failover");
        assert!(client.repeat(&["SET", &key, "new", "NX"]).is_ok(), "an expired key is in the way of NX");
        cluster.restart(leader);
        assert_eq!(client.repeat(&["GET", &key]).text(), "new");
        assert_eq!(client.repeat(&["TTL", &key]).integer(), -1);
        cluster.wait_converged();
        for node in 0..3 {
            assert_eq!(cluster.local(node, &format!("GET {key}")).text(), "new", "on node {node}");
        }
    }
}

#[test]
fn followers_neither_expire_nor_evict_by_themselves() {
    let _serial = serial(seconds(90));
    let mut cluster = Cluster::start(3);
    let mut client = cluster.client();
    for number in 0..300 {
        client.repeat(&["SET", &format!("volatile:{number}"), "value", "PX", "200"]);
    }
    wait_for("active expiry on every node", seconds(20), || {
        (0..3).all(|node| cluster.local(node, "DBSIZE").integer() == 0)
    });
    cluster.wait_converged();

    let value = "v".repeat(10_000);
    let used = |cluster: &Cluster, node: usize| -> u64 {
        let info = cluster::parse_info(&cluster.connect(node).run("INFO memory").text());
        info["used_memory"].parse().expect("bytes")
    };
    let leader = cluster.leader();
    let limit = used(&cluster, leader) + 8_000_000;
    for node in 0..3 {
        let mut connection = cluster.connect(node);
        assert!(connection.run("CONFIG SET maxmemory-policy allkeys-random").is_ok());
        assert!(connection.run(&format!("CONFIG SET maxmemory {limit}")).is_ok());
    }
    let mut written = 0;
    for number in 0..1_500 {
        let reply = client.repeat(&["SET", &format!("big:{number}"), &value]);
        written += usize::from(reply.is_ok());
        assert!(reply.is_ok() || reply.is_error("OOM"), "{reply}");
    }
    let leader = cluster.leader();
    let evicted = cluster::parse_info(&cluster.connect(leader).run("INFO stats").text());
    assert!(evicted["evicted_keys"] != "0", "nothing was evicted after {written} writes");
    cluster.wait_converged();
    let keys = |node: usize| -> BTreeSet<String> {
        cluster.local(node, "KEYS *").array().iter().map(Value::text).collect()
    };
    assert_eq!(keys(0), keys(1));
    assert_eq!(keys(1), keys(2));
}

#[test]
fn functions_scripts_and_databases_are_the_same_everywhere() {
    let _serial = serial(seconds(90));
    let mut cluster = Cluster::start(3);
    let mut client = cluster.client();
    let library = "#!lua name=tests\nredis.register_function('stamp', function(keys) \
        local t = redis.call('TIME') redis.call('SET', keys[1], t[1] .. t[2]) return t[1] end)";
    must(&mut client, &["FUNCTION", "LOAD", library]);
    must(&mut client, &["FCALL", "stamp", "1", "stamped"]);
    let leader = cluster.leader();
    let mut connection = cluster.connect(leader);
    for database in 0..4 {
        assert!(connection.run(&format!("SELECT {database}")).is_ok());
        assert!(connection.run(&format!("SET database {database}")).is_ok());
        connection.run("SADD members a b c d e f g");
        connection.run("SPOP members 2");
    }
    assert!(connection.run("MOVE members 5").text() == "1");
    assert!(connection.run("SWAPDB 0 1").is_ok());
    assert!(connection.run("COPY database copied DB 6").text() == "1");
    cluster.wait_converged();
    cluster.kill(leader);
    // A function is data: the next leader has it.
    must(&mut client, &["FCALL", "stamp", "1", "stamped"]);
    assert_eq!(client.run("GET database").text(), "1", "SWAPDB is lost");
    cluster.restart(leader);
    cluster.wait_converged();
    for node in 0..3 {
        let info = cluster::parse_info(&cluster.connect(node).run("INFO memory").text());
        assert_eq!(info["number_of_functions"], "1", "node {node} lacks the function");
    }
    assert!(client.run("FLUSHALL").is_ok());
    cluster.wait_converged();
    assert_eq!(cluster.local(0, "DBSIZE").text(), "0");
}

/// Whether the server has a command: those of newer servers are tested where there are any.
fn knows(client: &mut Client, command: &str) -> bool {
    match client.run(&format!("COMMAND INFO {command}")).array().first() {
        Some(Value::Nil) | None => false,
        Some(_) => true,
    }
}

#[test]
fn fields_of_hashes_expire_for_all_nodes_at_once() {
    let _serial = serial(seconds(90));
    let mut cluster = Cluster::start(3);
    let mut client = cluster.client();
    if !knows(&mut client, "HPEXPIRE") {
        eprintln!("this server has no fields that expire: nothing to test");
        return;
    }
    // Rounds on keys that nobody reads: the server's own cycle must expire the fields, on the leader alone.
    for number in 0..50 {
        let key = format!("hash:{number}");
        must(&mut client, &["HSET", &key, "stays", "1", "goes", "2", "goes-too", "3"]);
        must(&mut client, &["HPEXPIRE", &key, "150", "FIELDS", "2", "goes", "goes-too"]);
    }
    wait_for("active expiry of fields on every node", seconds(20), || {
        (0..3).all(|node| (0..50).all(|n| cluster.local(node, &format!("HLEN hash:{n}")).integer() == 1))
    });
    // And the time runs out while nobody leads.
    must(&mut client, &["HSET", "late", "stays", "1", "goes", "2"]);
    must(&mut client, &["HPEXPIRE", "late", "400", "FIELDS", "1", "goes"]);
    let leader = cluster.leader();
    cluster.kill(leader);
    std::thread::sleep(millis(450));
    assert_eq!(client.repeat(&["HGET", "late", "goes"]), Value::Nil, "an expired field was read");
    cluster.restart(leader);
    let digest = cluster.wait_converged();
    (0..3).for_each(|node| cluster.kill(node));
    (0..3).for_each(|node| cluster.restart(node));
    assert_eq!(cluster.wait_converged(), digest, "another dataset came out of the same log");
}

#[test]
fn vector_sets_hold_the_same_elements_everywhere() {
    let _serial = serial(seconds(90));
    let cluster = Cluster::start(3);
    let mut client = cluster.client();
    if !knows(&mut client, "VADD") {
        eprintln!("this server has no vector sets: nothing to test");
        return;
    }
    for number in 0..100 {
        let (x, name) = (number.to_string(), format!("element-{number}"));
        let added = must(&mut client, &["VADD", "vectors", "VALUES", "2", &x, "1", &name, "CAS"]);
        assert_eq!(added.integer(), 1, "{name}");
    }
    must(&mut client, &["VREM", "vectors", "element-7"]);
    let similar = must(&mut client, &["VSIM", "vectors", "ELE", "element-3", "COUNT", "1"]);
    assert_eq!(similar.array()[0].text(), "element-3");
    wait_for("every node to hold the elements", seconds(10), || {
        (0..3).all(|node| cluster.local(node, "VCARD vectors").integer() == 99)
    });
}
