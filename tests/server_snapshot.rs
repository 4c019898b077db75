//! Snapshots on real servers: made, restarted from, sent to followers; members, data types and the user's own dumps
//! survive them.
#![cfg(feature = "redis")]

mod cluster;

use std::path::{Path, PathBuf};
use std::time::Duration;

use cluster::damage::{assert_clean, flip_bit, segments};
use cluster::load::{noise, Load};
use cluster::{millis, seconds, serial, wait_for, Cluster, Connection, Fault, Options, Value};

/// A cluster whose logs have small segments, and are compacted by themselves beyond `max_bytes`.
fn options(size: usize, max_bytes: u64) -> Options {
    let module_arguments =
        vec!["log-segment-size=65536".to_string(), format!("log-max-file-size={max_bytes}")];
    Options { size, module_arguments, ..Options::default() }
}

/// The same, with leaders that stay leaders also on a machine that is busy.
fn patient(size: usize, max_bytes: u64) -> Options {
    let mut options = options(size, max_bytes);
    options.module_arguments.push(PATIENT.to_string());
    options
}

const NEVER: u64 = 1 << 40;
/// For one test, and for one condition: the machine may be busy with other things.
const LIMIT: Duration = seconds(300);
const PATIENCE: Duration = seconds(60);
/// Where elections would confuse what is tested.
const PATIENT: &str = "election-timeout=5000";

/// Something of every type, in two databases, with and without a time to live.
fn fill(connection: &mut Connection) {
    // First: DEBUG DIGEST does not see it. Whose digest shows what was written behind it has it, too.
    let code = "#!lua name=library\nredis.register_function('answer', function() return 42 end)";
    let loaded = connection.call(&["FUNCTION", "LOAD", code]).expect("an answer");
    assert_eq!(loaded.text(), "library");
    for line in [
        "SET string value",
        "SET volatile value PX 900000",
        "RPUSH list a b c",
        "SADD set a b c",
        "SADD integers 1 2 3",
        "HSET hash a 1 b 2",
        "ZADD sorted 1 a 2 b",
        "PFADD log a b c",
        "SETBIT bits 100 1",
        "GEOADD places 13.36 38.11 Palermo",
        "XADD stream 1-1 field value",
        "XADD stream 2-1 field value",
        "XGROUP CREATE stream group 0",
        "XREADGROUP GROUP group reader COUNT 1 STREAMS stream >",
        "SELECT 3",
        "SET elsewhere value",
        "EXPIRE elsewhere 1000",
        "SELECT 0",
    ] {
        let reply = connection.run(line);
        assert!(!reply.is_error(""), "{line}: {reply}");
    }
}

/// What `fill` has left, as this node's own dataset has it.
fn check_filled(cluster: &Cluster, node: usize) {
    let local = |line: &str| cluster.local(node, line).text();
    assert_eq!(local("GET string"), "value");
    assert_eq!(cluster.local(node, "LRANGE list 0 -1").array().len(), 3);
    assert_eq!(cluster.local(node, "XPENDING stream group").array()[0].integer(), 1);
    let left_ms = cluster.local(node, "PTTL volatile").integer();
    assert!(left_ms > 500_000 && left_ms <= 900_000, "{left_ms} ms to live");
    let mut connection = cluster.connect(node);
    let info = connection.run("INFO keyspace").text();
    assert!(info.contains("db3:keys=1,expires=1"), "{info}");
    assert_eq!(cluster.local(node, "FUNCTION LIST").array().len(), 1);
}

fn compact(cluster: &Cluster, node: usize) {
    let reply = cluster.connect(node).run("RAFT.DEBUG COMPACT");
    assert!(reply.is_ok(), "COMPACT on node {node}: {reply}");
}

fn write_keys(connection: &mut Connection, from: usize, count: usize) {
    for at in from..from + count {
        let key = format!("key:{}", at % 500);
        let reply = connection.call(&["SET", &key, &format!("{at}:{}", "v".repeat(500))]).expect("an answer");
        assert!(reply.is_ok(), "{reply}");
    }
}

/// Names of the server's directory that a snapshot may have left there.
fn dumps(directory: &Path) -> Vec<String> {
    let names = std::fs::read_dir(directory).expect("list");
    let names = names.map(|item| item.expect("list").file_name().to_string_lossy().into_owned());
    names.filter(|name| name.ends_with(".rdb")).collect()
}

#[test]
fn a_node_alone_compacts_its_log_and_restarts_from_the_snapshot() {
    let _serial = serial(LIMIT);
    let mut cluster = Cluster::start_with(&options(1, NEVER));
    let mut connection = cluster.connect(0);
    fill(&mut connection);
    write_keys(&mut connection, 0, 1000);
    compact(&cluster, 0);
    let info = cluster.info(0);
    assert_eq!(info["raft_snapshots_created"], "1", "{info:?}");
    assert_eq!(info["raft_snapshot_last_idx"], info["raft_commit_index"]);
    let entries: u64 = info["raft_log_entries"].parse().expect("a number");
    assert!(entries < 500, "{entries} entries are left in the log");
    assert_eq!(dumps(cluster.server(0).directory()), [""; 0], "nothing is left beside the user's dumps");
    for round in 0..2 {
        write_keys(&mut cluster.connect(0), 1000 + 10 * round, 10);
        let before = cluster.digest(0);
        cluster.kill(0);
        cluster.restart(0);
        cluster.leader();
        assert_eq!(cluster.wait_converged(), before);
        check_filled(&cluster, 0);
        let id = cluster.id(0);
        compact(&cluster, 0);
        assert_eq!(cluster.id(0), id, "members survive a snapshot of a snapshot");
    }
    compact(&cluster, 0);
    assert_eq!(cluster.number(0, "raft_snapshots_created"), 1, "nothing new, no new snapshot");
}

#[test]
fn leaders_and_followers_compact_while_clients_write() {
    let _serial = serial(LIMIT);
    let mut cluster = Cluster::start_with(&patient(3, 150_000));
    let leader = cluster.leader();
    fill(&mut cluster.connect(leader));
    let load = Load::start(&cluster.ports(), 4);
    for node in 0..3 {
        wait_for("three snapshots", PATIENCE, || {
            cluster
                .try_info(node)
                .is_ok_and(|info| info["raft_snapshots_created"].parse::<u64>().is_ok_and(|count| count >= 3))
        });
    }
    let report = load.stop();
    assert_eq!(cluster.leader(), leader, "nobody lost leadership over it");
    for node in 0..3 {
        assert_eq!(
            cluster.number(node, "raft_snapshots_received"),
            0,
            "node {node} has followed all the time"
        );
    }
    cluster.wait_converged();
    let mut client = cluster.client();
    report.verify(&mut |command| client.repeat(command));
    for node in 0..3 {
        check_filled(&cluster, node);
        let entries = cluster.number(node, "raft_log_entries");
        assert!(entries < cluster.number(node, "raft_current_index"), "node {node} holds {entries} entries");
        // One more compaction may be under way.
        wait_for(&format!("node {node} to leave no dump behind"), PATIENCE, || {
            dumps(cluster.server(node).directory()).is_empty()
        });
    }
    for node in 0..3 {
        cluster.kill(node);
    }
    for node in 0..3 {
        cluster.restart(node);
    }
    cluster.leader();
    cluster.wait_converged();
    let mut client = cluster.client();
    report.verify(&mut |command| client.repeat(command));
    (0..3).for_each(|node| check_filled(&cluster, node));
}

#[test]
fn a_follower_that_was_away_comes_back_by_a_snapshot_and_then_entries() {
    let _serial = serial(LIMIT);
    let mut cluster = Cluster::start_with(&options(3, 150_000));
    let (leader, follower) = (cluster.leader(), cluster.follower());
    fill(&mut cluster.connect(leader));
    cluster.kill(follower);
    let load = Load::start(&cluster.ports(), 4);
    let created = cluster.number(leader, "raft_snapshots_created");
    wait_for("several compactions", PATIENCE, || {
        cluster.number(leader, "raft_snapshots_created") >= created + 4
    });
    cluster.restart(follower);
    wait_for("a snapshot from the leader", PATIENCE, || {
        cluster.try_info(follower).is_ok_and(|info| info["raft_snapshots_received"] != "0")
    });
    wait_for("entries after it", PATIENCE, || {
        cluster.try_info(follower).is_ok_and(|info| {
            let applied: u64 = info["raft_last_applied_index"].parse().expect("a number");
            let snapshot: u64 = info["raft_snapshot_last_idx"].parse().unwrap_or(u64::MAX);
            info["raft_state"] == "up" && applied > snapshot
        })
    });
    let report = load.stop();
    cluster.wait_converged();
    check_filled(&cluster, follower);
    let mut connection = cluster.connect(follower);
    report.verify(&mut |command| {
        let local: Vec<&str> = ["RAFT.DEBUG", "EXEC"].iter().chain(command).copied().collect();
        connection.call(&local).expect("a read of the node's own dataset")
    });
    let received = cluster.number(follower, "raft_snapshots_received");
    assert!(received <= 3, "{received} snapshots: it went round in circles");
    cluster.kill(leader);
    cluster.leader();
    let mut client = cluster.client();
    report.verify(&mut |command| client.repeat(command));
}

#[test]
fn a_new_member_is_brought_a_snapshot_and_keeps_its_members_over_a_restart() {
    let _serial = serial(LIMIT);
    let mut cluster = Cluster::start_apart(&options(3, NEVER));
    assert!(cluster.connect(0).run("RAFT.CLUSTER INIT").text().starts_with("OK"));
    fill(&mut cluster.connect(0));
    write_keys(&mut cluster.connect(0), 0, 1000);
    compact(&cluster, 0);
    for node in 1..3 {
        let joined = cluster.connect(node).run(&format!("RAFT.CLUSTER JOIN 127.0.0.1:{}", cluster.port(0)));
        assert!(joined.is_ok(), "{joined}");
    }
    cluster.wait_voting(3);
    cluster.wait_converged();
    for node in 1..3 {
        assert_eq!(cluster.number(node, "raft_snapshots_received"), 1);
        check_filled(&cluster, node);
    }
    (0..3).for_each(|node| compact(&cluster, node));
    (0..3).for_each(|node| cluster.kill(node));
    (0..3).for_each(|node| cluster.restart(node));
    cluster.wait_voting(3);
    cluster.wait_converged();
    (0..3).for_each(|node| check_filled(&cluster, node));
}

#[test]
fn init_makes_the_servers_data_the_first_snapshot() {
    let _serial = serial(LIMIT);
    let server_arguments = Some("--dbfilename own.rdb".to_string());
    let mut cluster = Cluster::start_apart(&Options { size: 2, server_arguments, ..options(2, NEVER) });
    // Data from before the module: a plain server's dump, which this one loads at start.
    cluster.server(0).kill();
    let path = cluster.server(0).directory().join("own.rdb");
    let plain = cluster::Server::start(cluster::Setup::plain().server_arguments("--dbfilename own.rdb"));
    let mut connection = plain.connect();
    fill(&mut connection);
    assert!(connection.run("SAVE").is_ok());
    std::fs::copy(plain.directory().join("own.rdb"), &path).expect("copy");
    cluster.restart(0);
    assert!(cluster.connect(0).run("GET string").is_error("NOCLUSTER"));
    let created = cluster.connect(0).run("RAFT.CLUSTER INIT");
    assert!(created.text().starts_with("OK"), "{created}");
    wait_for("the data", PATIENCE, || cluster.connect(0).run("GET string").text() == "value");
    check_filled(&cluster, 0);
    assert_eq!(cluster.info(0)["raft_snapshot_last_idx"], "1");
    write_keys(&mut cluster.connect(0), 0, 10);
    let joined = cluster.connect(1).run(&format!("RAFT.CLUSTER JOIN 127.0.0.1:{}", cluster.port(0)));
    assert!(joined.is_ok(), "{joined}");
    cluster.wait_voting(2);
    cluster.wait_converged();
    check_filled(&cluster, 1);
    (0..2).for_each(|node| cluster.kill(node));
    (0..2).for_each(|node| cluster.restart(node));
    cluster.wait_voting(2);
    cluster.wait_converged();
    (0..2).for_each(|node| check_filled(&cluster, node));
}

#[test]
fn a_users_own_dumps_and_their_name_are_not_touched() {
    let _serial = serial(LIMIT);
    let mut cluster = Cluster::start_with(&options(1, NEVER));
    let mut connection = cluster.connect(0);
    write_keys(&mut connection, 0, 10);
    let name = connection.run("CONFIG GET dbfilename").array()[1].text();
    assert!(connection.run("SAVE").is_ok());
    let own = cluster.server(0).directory().join(&name);
    let before = std::fs::read(&own).expect("the user's dump");
    write_keys(&mut connection, 10, 10);
    compact(&cluster, 0);
    assert_eq!(std::fs::read(&own).expect("the user's dump"), before);
    assert_eq!(connection.run("CONFIG GET dbfilename").array()[1].text(), name);
    wait_for("the server to be free for a dump", PATIENCE, || {
        std::thread::sleep(millis(50));
        connection.run("BGSAVE").text().starts_with("Background saving started")
    });
    write_keys(&mut connection, 20, 10);
    wait_for("the user's dump", PATIENCE, || {
        connection.run("INFO persistence").text().contains("rdb_bgsave_in_progress:0")
    });
    compact(&cluster, 0);
    assert_ne!(std::fs::read(&own).expect("the user's dump"), before);
}

#[test]
fn kill_9_at_any_moment_of_a_compaction_or_an_installation_loses_nothing() {
    let _serial = serial(LIMIT);
    let mut cluster = Cluster::start_with(&options(3, 60_000));
    let load = Load::start(&cluster.ports(), 4);
    load.wait_for_more(300);
    // Compactions come one after the other: a kill at a random moment is a kill at some step of one.
    for round in 0..cluster::fault_rounds() as u64 {
        let node = if round % 3 == 2 { cluster.leader() } else { cluster.follower() };
        let created = cluster.number(node, "raft_snapshots_created");
        wait_for("the next compaction", PATIENCE, || {
            cluster.try_info(node).is_ok_and(|info| {
                info["raft_snapshot_in_progress"] == "yes"
                    || info["raft_snapshots_created"].parse::<i64>().is_ok_and(|count| count > created)
            })
        });
        std::thread::sleep(millis(round * 7 % 60));
        cluster.kill(node);
        load.wait_for_more(300);
        cluster.restart(node);
        // It needs a snapshot by now; every other time it is killed while it takes it over, too.
        if round % 2 == 0 {
            std::thread::sleep(millis(40 + round * 13 % 120));
            cluster.kill(node);
            cluster.restart(node);
        }
        load.wait_for_more(100);
    }
    let report = load.stop();
    cluster.wait_converged();
    let mut client = cluster.client();
    report.verify(&mut |command| client.repeat(command));
    for node in 0..3 {
        let mut connection = cluster.connect(node);
        report.verify(&mut |command| {
            let local: Vec<&str> = ["RAFT.DEBUG", "EXEC"].iter().chain(command).copied().collect();
            connection.call(&local).expect("a read of the node's own dataset")
        });
        // A compaction may still be under way. The server's own half-written files of children that died with it are not the
        // module's to remove.
        wait_for(&format!("node {node} to leave no dump behind"), PATIENCE, || {
            dumps(cluster.server(node).directory()).iter().all(|name| name.starts_with("temp-"))
        });
    }
}

#[test]
fn a_large_snapshot_goes_on_after_the_link_was_cut_and_disturbs_nobody() {
    let _serial = serial(LIMIT);
    let mut cluster = Cluster::start_with(&Options { proxied: true, ..patient(3, 1_000_000) });
    let (leader, follower) = (cluster.leader(), cluster.follower());
    let (ids, term) = (cluster.ids(), cluster.number(leader, "raft_current_term"));
    cluster.kill(follower);
    let mut connection = cluster.connect(leader);
    for at in 0..200u64 {
        let value = noise(at, 20_000);
        assert!(connection.call(&["SET", &format!("large:{at}"), &value]).expect("an answer").is_ok());
    }
    compact(&cluster, leader);
    cluster.restart(follower);
    for _ in 0..4 {
        std::thread::sleep(millis(150));
        cluster.isolate(&ids, follower, Fault::Cut);
        std::thread::sleep(millis(100));
        cluster.proxy().heal_all();
    }
    wait_for("the snapshot", PATIENCE, || {
        cluster.try_info(follower).is_ok_and(|info| info["raft_snapshots_received"] == "1")
    });
    cluster.wait_converged();
    assert_eq!(cluster.leader(), leader);
    assert_eq!(cluster.number(leader, "raft_current_term"), term, "no election");
}

/// A child of the server is at work on a dump.
fn writes_a_dump(connection: &mut Connection) -> bool {
    connection.run("INFO persistence").text().contains("rdb_bgsave_in_progress:1")
}

#[test]
fn a_child_that_outlives_its_server_holds_neither_its_links_nor_its_log() {
    let _serial = serial(LIMIT);
    let mut cluster = Cluster::start_with(&options(3, NEVER));
    let leader = cluster.leader();
    let mut connection = cluster.connect(leader);
    write_keys(&mut connection, 0, 200);
    // The child takes 10 s for its dump.
    assert!(connection.run("CONFIG SET rdb-key-save-delay 50000").is_ok());
    assert!(connection.run("RAFT.DEBUG COMPACT ASYNC 1").is_ok());
    wait_for("the child", PATIENCE, || writes_a_dump(&mut connection));
    std::thread::sleep(millis(200));
    cluster.kill(leader);
    cluster.leader();
    cluster.restart(leader);
    cluster.wait_converged();
}

#[test]
fn a_snapshot_that_is_asked_for_holds_what_was_written_before() {
    let _serial = serial(LIMIT);
    let cluster = Cluster::start_with(&options(1, NEVER));
    let mut connection = cluster.connect(0);
    write_keys(&mut connection, 0, 20);
    // The first dump takes a second.
    assert!(connection.run("CONFIG SET rdb-key-save-delay 50000").is_ok());
    assert!(connection.run("RAFT.DEBUG COMPACT ASYNC 1").is_ok());
    wait_for("the child", PATIENCE, || writes_a_dump(&mut connection));
    assert!(connection.run("CONFIG SET rdb-key-save-delay 0").is_ok());
    assert!(connection.run("SET late 1").is_ok());
    // Two entries before the twenty keys, and one behind them.
    wait_for("the commit to be told", PATIENCE, || cluster.number(0, "raft_commit_index") >= 23);
    let written = cluster.number(0, "raft_commit_index");
    assert!(writes_a_dump(&mut connection), "the first one does not hold the late write");
    assert!(connection.run("RAFT.DEBUG COMPACT").is_ok());
    let held = cluster.number(0, "raft_snapshot_last_idx");
    assert!(held >= written, "the snapshot ends with entry {held}, the write was entry {written}");
}

fn log_of(cluster: &mut Cluster, node: usize) -> PathBuf {
    cluster.server(node).directory().join("raftlog")
}

/// The node has found damage, taken one snapshot for it - `counter` counts them - and has no hole any more.
fn wait_whole(cluster: &Cluster, node: usize, counter: &str) {
    wait_for("the damage to be found and gone", PATIENCE, || {
        let info = cluster.try_info(node).unwrap_or_default();
        info.get("raft_corrupt_entries").is_some_and(|count| count != "0")
            && info.get(counter).is_some_and(|count| count == "1")
            && info.get("raft_first_hole").is_some_and(String::is_empty)
    });
}

#[test]
fn an_entry_that_is_damaged_here_and_purged_everywhere_else_comes_as_a_snapshot() {
    let _serial = serial(LIMIT);
    let mut cluster = Cluster::start_with(&options(3, NEVER));
    let (leader, follower) = (cluster.leader(), cluster.follower());
    fill(&mut cluster.connect(leader));
    write_keys(&mut cluster.connect(leader), 0, 1000);
    cluster.wait_converged();
    cluster.kill(follower);
    let log = log_of(&mut cluster, follower);
    let segments_before = segments(&log).len();
    flip_bit(&log, b"\n77:v");
    for node in (0..3).filter(|node| *node != follower) {
        compact(&cluster, node);
        wait_for("the entry to be purged", PATIENCE, || cluster.number(node, "raft_log_entries") < 500);
    }
    let load = Load::start(&[cluster.port(leader)], 2);
    cluster.restart(follower);
    wait_whole(&cluster, follower, "raft_snapshots_received");
    load.wait_for_more(100);
    let report = load.stop();
    cluster.wait_converged();
    check_filled(&cluster, follower);
    assert!(segments(&log).len() < segments_before, "what lies before the damage is gone");
    cluster.kill(leader);
    let mut client = cluster.client();
    assert!(client.repeat(&["SET", "with", "its vote"]).is_ok());
    cluster.restart(leader);
    cluster.kill(follower);
    assert_clean(&log);
    cluster.restart(follower);
    cluster.wait_converged();
    let mut client = cluster.client();
    report.verify(&mut |command| client.repeat(command));
    check_filled(&cluster, follower);
}

#[test]
fn a_node_alone_puts_a_snapshot_of_its_dataset_in_the_place_of_a_damaged_entry() {
    let _serial = serial(LIMIT);
    let mut cluster = Cluster::start_with(&options(1, NEVER));
    fill(&mut cluster.connect(0));
    write_keys(&mut cluster.connect(0), 0, 1000);
    cluster.kill(0);
    cluster.restart(0); // what it has just written is not in its memory any more
    cluster.leader();
    let before = cluster.wait_converged();
    let log = log_of(&mut cluster, 0);
    flip_bit(&log, b"\n77:v");
    assert!(cluster.connect(0).run("CONFIG SET raft.log-scrub-rate 100mb").is_ok());
    wait_whole(&cluster, 0, "raft_snapshots_created");
    // Damage in what was kept for others: the snapshot holds it.
    cluster.kill(0);
    flip_bit(&log, b":vvvv");
    cluster.restart(0);
    cluster.leader();
    assert_eq!(cluster.wait_converged(), before);
    assert_eq!(cluster.field(0, "raft_first_hole"), "");
    check_filled(&cluster, 0);
}

/// Fills what is left of the disk of a node, but for some room.
fn fill_disk(cluster: &mut Cluster, node: usize, room_bytes: u64) -> PathBuf {
    let process = cluster.server(node).pid().expect("a running node");
    let path = PathBuf::from(format!("/proc/{process}/cwd/filler"));
    let mut file = std::fs::File::create(&path).expect("a file on the node's disk");
    while std::io::Write::write_all(&mut file, &[1; 4096]).is_ok() {}
    let length = file.metadata().expect("its length").len();
    file.set_len(length.saturating_sub(room_bytes)).expect("some room");
    path
}

#[test]
fn a_full_disk_and_a_users_child_put_a_snapshot_off_and_the_old_one_stays() {
    let _serial = serial(LIMIT);
    if !cluster::can_mount() {
        eprintln!("skipped: this account may not mount a small disk");
        return;
    }
    let mut cluster = Cluster::start_with(&Options { disk_mb: Some(48), ..options(1, NEVER) });
    let mut connection = cluster.connect(0);
    compact(&cluster, 0);
    let old = cluster.field(0, "raft_snapshot_filename");
    for at in 0..100u64 {
        let value = noise(at, 50_000);
        assert!(connection.call(&["SET", &format!("large:{at}"), &value]).expect("an answer").is_ok());
    }
    let process = cluster.server(0).pid().expect("a running node");
    let names = || dumps(Path::new(&format!("/proc/{process}/cwd/raftlog")));
    let filler = fill_disk(&mut cluster, 0, 1 << 20);
    let refused = connection.run("RAFT.DEBUG COMPACT");
    assert!(refused.text().contains("no snapshot was made"), "{refused}");
    assert_eq!(cluster.field(0, "raft_snapshot_filename"), old);
    assert_eq!(names(), [old.as_str()], "nothing is left of the attempt");
    assert_eq!(dumps(Path::new(&format!("/proc/{process}/cwd"))), [""; 0], "nor beside the user's dumps");
    std::fs::remove_file(filler).expect("remove");
    wait_for("a snapshot when there is space", PATIENCE, || connection.run("RAFT.DEBUG COMPACT").is_ok());
    assert_ne!(cluster.field(0, "raft_snapshot_filename"), old);
    assert_eq!(names().len(), 1);
    // A user's child, which takes long: the module says so and goes on trying.
    assert!(connection.run("CONFIG SET rdb-key-save-delay 150000").is_ok());
    wait_for("the module's own child to be gone", PATIENCE, || {
        connection.run("BGSAVE").text().starts_with("Background saving started")
    });
    assert!(connection.run("SET one more").is_ok());
    let refused = connection.run("RAFT.DEBUG COMPACT");
    assert!(refused.text().contains("another child of it is running"), "{refused}");
    assert!(connection.run("CONFIG SET rdb-key-save-delay 0").is_ok());
    wait_for("a snapshot after the user's", PATIENCE, || connection.run("RAFT.DEBUG COMPACT").is_ok());
    assert!(connection.run("INFO persistence").text().contains("rdb_last_bgsave_status:ok"));
}

/// Redis since 7.4, and no Valkey of the matrix.
#[test]
fn times_to_live_of_hash_fields_survive_snapshots() {
    let _serial = serial(LIMIT);
    let mut cluster = Cluster::start_with(&options(2, NEVER));
    let leader = cluster.leader();
    let mut connection = cluster.connect(leader);
    if connection.run("COMMAND INFO hpexpire").array()[0] == Value::Nil {
        eprintln!("skipped: fields of hashes do not expire on this server");
        return;
    }
    for line in [
        "HSET hash kept 1 volatile 2 short 3 gone 4",
        "HPEXPIRE hash 900000 FIELDS 1 volatile",
        "HPEXPIRE hash 900000 FIELDS 1 short",
        "HPEXPIRE hash 1 FIELDS 1 gone",
        "HSET other volatile 1",
        "HPEXPIRE other 900000 FIELDS 1 volatile",
    ] {
        let reply = connection.run(line);
        assert!(!reply.is_error(""), "{line}: {reply}");
    }
    wait_for("a field to expire", PATIENCE, || connection.run("HLEN hash").integer() == 3);
    // What is longer than the snapshot is purged: who joins does not get it from the log.
    write_keys(&mut connection, 0, 1000);
    let asked =
        ["HPEXPIRETIME hash FIELDS 4 kept volatile short gone", "HPEXPIRETIME other FIELDS 1 volatile"];
    let before = asked.map(|line| connection.run(line));
    assert!(before[0].array()[1].integer() > 0, "{}", before[0]);
    (0..2).for_each(|node| compact(&cluster, node));
    let joiner = cluster.grow();
    let joined =
        cluster.connect(joiner).run(&format!("RAFT.CLUSTER JOIN 127.0.0.1:{}", cluster.port(leader)));
    assert!(joined.is_ok(), "{joined}");
    cluster.wait_voting(3);
    assert_eq!(cluster.number(joiner, "raft_snapshots_received"), 1);
    (0..2).for_each(|node| cluster.kill(node));
    (0..2).for_each(|node| cluster.restart(node));
    cluster.wait_voting(3);
    cluster.wait_converged();
    for node in 0..3 {
        let after = asked.map(|line| cluster.local(node, line));
        assert_eq!(after, before, "node {node}");
    }
    // The leader of now lets a field expire that it has from a snapshot, and the others follow.
    let mut client = cluster.client();
    let reply = client.run("HPEXPIRE hash 1 FIELDS 1 short");
    assert_eq!(reply.array()[0].integer(), 1, "{reply}");
    wait_for("the field to expire everywhere", PATIENCE, || {
        (0..3).all(|node| cluster.local(node, "HLEN hash").integer() == 2)
    });
    cluster.wait_converged();
}

/// A follower without space cannot take over the snapshot that it needs. It says so and goes on with what it has, and takes
/// the snapshot over when there is space.
fn receive_without_space(
    options: Options,
    take: impl Fn(&mut Cluster, usize),
    give: impl Fn(&mut Cluster, usize),
) {
    let mut cluster = Cluster::start_with(&options);
    let (leader, follower) = (cluster.leader(), cluster.follower());
    let ids = cluster.ids();
    fill(&mut cluster.connect(leader));
    cluster.wait_converged();
    compact(&cluster, follower);
    let old = cluster.field(follower, "raft_snapshot_filename");
    cluster.isolate(&ids, follower, Fault::Cut);
    let mut connection = cluster.connect(leader);
    for at in 0..300u64 {
        let key = format!("large:{}", at % 100);
        assert!(connection.call(&["SET", &key, &noise(at, 20_000)]).expect("an answer").is_ok());
    }
    let needed = cluster.number(follower, "raft_current_index") + 1;
    for node in (0..3).filter(|node| *node != follower) {
        compact(&cluster, node);
        wait_for("a log that does not help the follower", PATIENCE, || {
            cluster.try_info(node).is_ok_and(|info| {
                let number = |name: &str| info[name].parse::<i64>().expect("a number");
                number("raft_current_index") - number("raft_log_entries") > needed
            })
        });
    }
    let directory = PathBuf::from(format!(
        "/proc/{}/cwd/raftlog",
        cluster.server(follower).pid().expect("a running node")
    ));
    let pair =
        |name: &str| [name.to_string(), name.replace(".rdb", ".about")].map(|name| directory.join(name));
    take(&mut cluster, follower);
    cluster.proxy().heal_all();
    wait_for("the node to say so, and to try again", PATIENCE, || {
        let text = cluster.server(follower).log_text();
        let said = text.lines().filter(|line| line.contains("was not taken over: cannot write"));
        said.count() >= 2
    });
    assert_eq!(cluster.field(follower, "raft_snapshot_filename"), old);
    assert!(pair(&old).iter().all(|file| file.exists()), "the old pair stays");
    assert_eq!(cluster.number(follower, "raft_snapshots_received"), 0);
    assert_eq!(cluster.field(follower, "raft_state"), "up");
    check_filled(&cluster, follower);
    assert!(cluster.client().run("SET meanwhile 1").is_ok());
    give(&mut cluster, follower);
    wait_for("the snapshot", PATIENCE, || {
        cluster.try_info(follower).is_ok_and(|info| info["raft_snapshots_received"] == "1")
    });
    cluster.wait_converged();
    let new = cluster.field(follower, "raft_snapshot_filename");
    assert!(new != old && pair(&new).iter().all(|file| file.exists()), "{new}");
    let left = dumps(&directory);
    assert!(!left.contains(&old), "the old one is gone: {left:?}");
    check_filled(&cluster, follower);
    assert_eq!(cluster.local(follower, "GET large:99").text(), noise(299, 20_000));
}

#[test]
fn a_follower_whose_files_may_not_grow_takes_over_a_snapshot_when_they_may() {
    let _serial = serial(LIMIT);
    receive_without_space(
        Options { proxied: true, limits_files: true, ..patient(3, NEVER) },
        |cluster, node| cluster.server(node).limit_files(Some(1 << 20)),
        |cluster, node| cluster.server(node).limit_files(None),
    );
}

#[test]
fn a_follower_whose_disk_is_full_takes_over_a_snapshot_when_there_is_space() {
    let _serial = serial(LIMIT);
    if !cluster::can_mount() {
        eprintln!("skipped: this account may not mount a small disk");
        return;
    }
    receive_without_space(
        Options { proxied: true, disk_mb: Some(48), ..patient(3, NEVER) },
        |cluster, node| drop(fill_disk(cluster, node, 1 << 20)),
        |cluster, node| {
            let process = cluster.server(node).pid().expect("a running node");
            std::fs::remove_file(format!("/proc/{process}/cwd/filler")).expect("remove");
        },
    );
}

/// A node whose only snapshot is damaged ends once, while its server loads it, and is refused at each start from then
/// on: it does not take part in votes in between. The others go on, and with the file as it was it comes back.
#[test]
fn a_node_with_a_damaged_snapshot_ends_once_and_is_refused_until_it_is_whole() {
    let _serial = serial(LIMIT);
    let mut cluster = Cluster::start_with(&patient(3, NEVER));
    let (leader, node) = (cluster.leader(), cluster.follower());
    fill(&mut cluster.connect(leader));
    write_keys(&mut cluster.connect(leader), 0, 1000);
    compact(&cluster, node);
    cluster.kill(node);
    let log = cluster.server(node).directory().join("raftlog");
    let snapshot = dumps(&log).pop().expect("a snapshot");
    let (path, mark) = (log.join(&snapshot), log.join("snapshot-unread"));
    let whole = std::fs::read(&path).expect("read");
    let mut damaged = whole.clone();
    damaged[whole.len() / 2] ^= 1;
    std::fs::write(&path, &damaged).expect("write");
    // Taken for intact and loaded in part; then read first.
    for loads in [true, false] {
        let before = cluster.server(node).log_text().len();
        cluster.server(node).relaunch();
        assert_ne!(cluster.server(node).wait_exit(), Some(0));
        let text = cluster.server(node).log_text()[before..].to_string();
        let parts = [&snapshot, "expected crc", "found", "restore"];
        let says = |line: &str| parts.iter().all(|part| line.contains(part));
        assert!(text.lines().any(says), "no line says what to do:\n{text}");
        assert_eq!(text.contains("local server is given the whole dataset"), loads, "{text}");
        assert!(mark.exists());
        write_keys(&mut cluster.connect(leader), 1000, 100);
    }
    assert_eq!(std::fs::read(&path).expect("read"), damaged, "nothing was changed");
    std::fs::write(&path, &whole).expect("write");
    for _ in 0..2 {
        cluster.restart(node);
        cluster.wait_converged();
        check_filled(&cluster, node);
        wait_for("the snapshot to be proven", PATIENCE, || !mark.exists());
        cluster.kill(node);
    }
}
