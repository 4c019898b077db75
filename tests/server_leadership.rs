//! Leadership that is handed over: on request, before a shutdown, and by a leader that stands still.
#![cfg(feature = "redis")]

mod cluster;

use std::time::Instant;

use cluster::history::{is_linearizable, Recorder};
use cluster::strict::{verify, without_errors, Manner, Strict};
use cluster::{can_mount, fault_rounds, millis, seconds, serial, wait_for, Cluster, Hung, Options, Value};

const ALL: [Manner; 5] = [Manner::Plain, Manner::Plain, Manner::Cluster, Manner::Pipelined, Manner::Blocking];

/// Asks the leader to hand over, to `target` if there is one.
fn transfer(cluster: &Cluster, leader: usize, target: Option<u64>) -> Value {
    let command = target.map_or("RAFT.TRANSFER_LEADER".into(), |id| format!("RAFT.TRANSFER_LEADER {id}"));
    cluster.connect(leader).run(&command)
}

#[test]
fn a_transfer_costs_clients_a_short_wait_and_no_error() {
    let _serial = serial(seconds(90));
    let mut cluster = Cluster::start(3);
    let clients = Strict::start(&cluster.ports(), &ALL);
    clients.wait_for_more(500);
    for _ in 0..fault_rounds() {
        let (leader, follower) = (cluster.leader(), cluster.follower());
        let id = cluster.id(follower);
        let asked = Instant::now();
        let reply = transfer(&cluster, leader, Some(id));
        println!("transfer to a named node: {reply} after {:?}", asked.elapsed());
        assert!(reply.is_ok(), "{reply}");
        assert_eq!(cluster.number(leader, "raft_leader_id"), id as i64, "answered when the target leads");
        clients.wait_for_more(300);
        assert_eq!(cluster.leader(), follower);
        assert_eq!(cluster.number(leader, "raft_failed_transfers"), 0);
    }
    let accounts = clients.stop("transfers to a named node");
    without_errors(&accounts);
    verify(&mut cluster, &accounts);
    for node in 0..3 {
        let log = cluster.server(node).log_text();
        assert!(!log.contains("rolling back"), "nothing was executed that the log does not hold");
    }
}

#[test]
fn twenty_transfers_in_a_row_lose_nothing() {
    let _serial = serial(seconds(120));
    let mut cluster = Cluster::start(3);
    let clients = Strict::start(&cluster.ports(), &[Manner::Plain, Manner::Cluster, Manner::Pipelined]);
    let recorder = Recorder::start(&cluster.ports(), 4);
    clients.wait_for_more(200);
    for round in 0..20 {
        let leader = cluster.leader();
        let reply = transfer(&cluster, leader, None);
        assert!(reply.is_ok(), "transfer {round}: {reply}");
    }
    clients.wait_for_more(200);
    wait_for("operations to be recorded", seconds(20), || recorder.len() >= 500);
    let accounts = clients.stop("twenty transfers in a row");
    without_errors(&accounts);
    let histories = recorder.stop();
    for (register, history) in histories.iter().enumerate() {
        assert!(is_linearizable(history), "register {register} is not linearizable: {history:#?}");
    }
    verify(&mut cluster, &accounts);
}

#[test]
fn a_transfer_that_cannot_be_made_is_refused_and_disturbs_nobody() {
    let _serial = serial(seconds(60));
    let mut cluster = Cluster::start(3);
    let (leader, follower) = (cluster.leader(), cluster.follower());
    let moved = cluster.connect(follower).run("RAFT.TRANSFER_LEADER");
    assert!(moved.is_error(&format!("MOVED 0 127.0.0.1:{}", cluster.port(leader))), "{moved}");
    let (own, dead) = (cluster.id(leader), cluster.id(follower));
    let clients = Strict::start(&[cluster.port(leader)], &[Manner::Plain, Manner::Pipelined]);
    clients.wait_for_more(100);
    cluster.kill(follower);
    let refused = |command: &str, reason: &str| {
        let reply = cluster.connect(leader).run(command);
        assert!(reply.is_error("ERR ") && reply.text().contains(reason), "{command}: {reply}");
    };
    refused(&format!("RAFT.TRANSFER_LEADER {own}"), "leads already");
    refused("RAFT.TRANSFER_LEADER 12345", "not a member");
    refused("RAFT.TRANSFER_LEADER there", "not a node id");
    refused("RAFT.TRANSFER_LEADER 1 2", "wrong number of arguments");
    refused(&format!("RAFT.TRANSFER_LEADER {dead}"), "reachable");
    clients.wait_for_more(100);
    let accounts = clients.stop("transfers to nobody");
    without_errors(&accounts);
    assert_eq!(cluster.leader(), leader);
    let third = (0..3).find(|node| *node != leader && *node != follower).expect("three nodes");
    assert!(transfer(&cluster, leader, Some(0)).is_ok(), "0 leaves the choice, and there is one left");
    assert_eq!(cluster.leader(), third);
    cluster.restart(follower);
    verify(&mut cluster, &accounts);
}

#[test]
fn a_target_that_stands_still_costs_a_wait_and_the_leader_leads_on() {
    let _serial = serial(seconds(60));
    let mut cluster = Cluster::start(3);
    let (leader, follower) = (cluster.leader(), cluster.follower());
    let id = cluster.id(follower);
    let clients = Strict::start(&[cluster.port(leader)], &ALL);
    clients.wait_for_more(100);
    cluster.server(follower).pause();
    let reply = transfer(&cluster, leader, Some(id));
    cluster.server(follower).resume();
    assert!(reply.is_error("ERR ") && reply.text().contains("this node leads on"), "{reply}");
    clients.wait_for_more(100);
    let accounts = clients.stop("a target that stands still");
    without_errors(&accounts);
    assert_eq!(cluster.leader(), leader);
    verify(&mut cluster, &accounts);
}

/// The target is told to stand, and does not: for an election timeout nothing is executed here.
#[test]
fn clients_of_a_sealed_leader_wait_and_go_on() {
    let _serial = serial(seconds(60));
    let mut cluster = Cluster::start(3);
    let (leader, follower) = (cluster.leader(), cluster.follower());
    let id = cluster.id(follower).to_string();
    let mut connections: Vec<_> = (0..4).map(|_| cluster.connect(leader)).collect();
    let [blocked, asking, writing, queueing] = &mut connections[..] else { unreachable!("four") };
    assert!(queueing.run("MULTI").is_ok());
    assert_eq!(queueing.run("INCR sealed").text(), "QUEUED");
    blocked.send(&["BLPOP", "nothing", "0.6"]).expect("the socket takes it");
    std::thread::sleep(millis(300));
    cluster.server(follower).pause();
    asking.send(&["RAFT.TRANSFER_LEADER", &id]).expect("the socket takes it");
    std::thread::sleep(millis(100));
    writing.send(&["INCR", "sealed"]).expect("the socket takes it");
    let sent = Instant::now();
    let timed_out = blocked.receive().expect("an answer to BLPOP");
    let own = format!("127.0.0.1:{}", cluster.port(leader));
    assert!(timed_out.is_error("MOVED ") && timed_out.text().ends_with(&own), "ask here again: {timed_out}");
    assert_eq!(writing.receive().expect("an answer to INCR").integer(), 1);
    assert!(sent.elapsed() > millis(300), "the gate was not sealed");
    let reply = asking.receive().expect("an answer to the transfer");
    assert!(reply.text().contains("did not take over in time; this node leads on"), "{reply}");
    let executed = queueing.run("EXEC");
    assert_eq!(executed.array()[0].integer(), 2, "a transaction outlives a hand-over that failed");
    cluster.server(follower).resume();
    assert_eq!(cluster.leader(), leader);
    cluster.wait_converged();
}

/// A transaction that is being queued is broken off with its connection, or runs as a whole; never in part.
#[test]
fn transactions_are_whole_or_broken_off() {
    let _serial = serial(seconds(60));
    let mut cluster = Cluster::start(3);
    let mut committed = 0;
    for round in 0..fault_rounds() {
        let leader = cluster.leader();
        let mut connection = cluster.connect(leader);
        assert!(connection.run("MULTI").is_ok());
        assert_eq!(connection.run("INCR whole:a").text(), "QUEUED");
        assert!(transfer(&cluster, leader, None).is_ok());
        let queued = connection.call(&["INCR", "whole:b"]);
        let reply = connection.call(&["EXEC"]);
        assert!(queued.is_err() || reply.is_err(), "round {round}: {queued:?} {reply:?}");
        let next = cluster.leader();
        wait_for("the new leader to serve", seconds(5), || cluster.field(next, "raft_state") == "up");
        let mut connection = cluster.connect(next);
        let queued = ["MULTI", "INCR whole:a", "INCR whole:b"].map(|command| connection.run(command).text());
        assert_eq!(queued, ["OK", "QUEUED", "QUEUED"]);
        assert!(matches!(connection.call(&["EXEC"]), Ok(Value::Array(_))));
        committed += 1;
    }
    let mut client = cluster.client();
    assert_eq!(client.run("GET whole:a").text(), committed.to_string());
    assert_eq!(client.run("GET whole:b").text(), committed.to_string());
    cluster.wait_converged();
}

/// Ends the leader by `end` again and again; its clients go on at once, and it ends with exit code 0.
fn end_leaders(what: &str, end: fn(&mut Cluster, usize)) {
    let mut cluster = Cluster::start(3);
    let clients = Strict::start(&cluster.ports(), &[Manner::Plain, Manner::Cluster, Manner::Pipelined]);
    for _ in 0..3 {
        clients.wait_for_more(300);
        let leader = cluster.leader();
        let asked = Instant::now();
        end(&mut cluster, leader);
        assert_eq!(cluster.server(leader).wait_exit(), Some(0), "{what}");
        println!("{what}: the process ended after {:?}", asked.elapsed());
        let log = cluster.server(leader).log_text();
        assert!(log.contains("leadership was handed over: node"), "{what}: {log}");
        clients.wait_for_more(300);
        cluster.restart(leader);
        cluster.wait_voting(3);
    }
    let accounts = clients.stop(what);
    // The server closes its connections about 100 ms after the hand-over. Who sends nothing in between finds its
    // connection closed later; on a loaded machine that may meet one of these clients, too.
    let unknown = accounts.iter().filter(|account| account.unknown > 0).count();
    println!("{what}: {unknown} clients found a connection closed");
    assert!(accounts.iter().flat_map(|account| &account.errors).all(|error| error.starts_with("connection")));
    verify(&mut cluster, &accounts);
}

#[test]
fn a_leader_that_is_terminated_hands_over_first() {
    let _serial = serial(seconds(90));
    end_leaders("SIGTERM", |cluster, leader| cluster.server(leader).signal_term());
}

#[test]
fn a_leader_that_is_shut_down_hands_over_first() {
    let _serial = serial(seconds(90));
    end_leaders("SHUTDOWN", |cluster, leader| {
        let mut connection = cluster.connect(leader);
        connection.send(&["SHUTDOWN", "NOSAVE"]).expect("the socket takes it");
        let error = connection.receive().expect_err("SHUTDOWN is answered by the end of the connection");
        assert_eq!(error.kind(), std::io::ErrorKind::UnexpectedEof);
    });
}

#[test]
fn a_shutdown_without_a_successor_does_not_wait() {
    let _serial = serial(seconds(60));
    let mut single = Cluster::start(1);
    single.client().run("SET alone 1");
    let asked = Instant::now();
    single.server(0).terminate();
    assert!(asked.elapsed() < seconds(1), "a single node waited for {:?}", asked.elapsed());

    let mut cluster = Cluster::start(3);
    let leader = cluster.leader();
    (0..3).filter(|node| *node != leader).for_each(|node| cluster.kill(node));
    std::thread::sleep(millis(300));
    let asked = Instant::now();
    cluster.server(leader).terminate();
    assert!(asked.elapsed() < seconds(1), "a leader without a quorum waited for {:?}", asked.elapsed());
}

#[test]
fn shutdown_now_does_not_hand_over_and_bad_options_are_refused_as_ever() {
    let _serial = serial(seconds(60));
    let mut cluster = Cluster::start(3);
    let leader = cluster.leader();
    let mut connection = cluster.connect(leader);
    assert!(connection.run("SHUTDOWN SAVE NOSAVE").is_error("ERR syntax error"));
    assert!(connection.run("SHUTDOWN SIDEWAYS").is_error("ERR syntax error"));
    assert!(connection.run("SHUTDOWN ABORT").is_error("ERR No shutdown in progress"));
    connection.run("ACL SETUSER weak on nopass ~* +get +ping");
    let mut weak = cluster.connect(leader);
    assert!(weak.run("AUTH weak x").is_ok());
    assert!(weak.run("SHUTDOWN").is_error("NOPERM"));
    assert!(connection.run("PING").text() == "PONG");
    connection.send(&["SHUTDOWN", "NOW"]).expect("the socket takes it");
    assert_eq!(cluster.server(leader).wait_exit(), Some(0));
    assert!(!cluster.server(leader).log_text().contains("handing leadership over"));
    cluster.leader();
}

#[test]
fn a_shutdown_that_waits_can_be_aborted() {
    let _serial = serial(seconds(60));
    let mut cluster = Cluster::start(3);
    let leader = cluster.leader();
    let followers: Vec<usize> = (0..3).filter(|node| *node != leader).collect();
    // A target that lacks entries and answers nothing: the hand-over waits for it.
    let _hung: Vec<Hung> = followers.iter().map(|node| hang_disk(&mut cluster, *node)).collect();
    let mut writer = cluster.connect(leader);
    writer.send(&["SET", "waits", "1"]).expect("the socket takes it");
    std::thread::sleep(millis(100));
    cluster.server(leader).signal_term();
    std::thread::sleep(millis(500));
    assert!(cluster.connect(leader).run("SHUTDOWN ABORT").is_ok());
    std::thread::sleep(millis(2500));
    assert!(!cluster.server(leader).has_exited(), "the shutdown was aborted");
    drop(_hung);
    assert!(writer.receive().is_ok_and(|reply| reply.is_ok()), "it leads on");
    cluster.server(leader).terminate();
}

/// The thread that writes the log of `node` stands still.
fn hang_disk(cluster: &mut Cluster, node: usize) -> Hung {
    Hung::thread(cluster.server(node).pid().expect("a running node"), "raft-log-sync")
}

fn with_limits() -> Cluster {
    Cluster::start_with(&limits())
}

fn limits() -> Options {
    let arguments = ["disk-stall-limit=1000", "main-stall-limit=1000"].map(str::to_owned).to_vec();
    Options { module_arguments: arguments, ..Options::default() }
}

/// A file that takes all that is left of a node's own disk. (The disk is mounted where only the process sees it.)
struct Filler(std::path::PathBuf);

impl Filler {
    fn on(cluster: &mut Cluster, node: usize) -> Filler {
        let process = cluster.server(node).pid().expect("a running node");
        let path = std::path::PathBuf::from(format!("/proc/{process}/cwd/filler"));
        let mut file = std::fs::File::create(&path).expect("a file on the node's disk");
        let block = [1; 4096];
        while std::io::Write::write_all(&mut file, &block).is_ok() {}
        Filler(path)
    }
}

impl Drop for Filler {
    fn drop(&mut self) {
        // An error means that the process has ended, and its disk with it.
        let _ = std::fs::remove_file(&self.0);
    }
}

#[test]
fn a_leader_whose_disk_is_full_hands_over_and_needs_no_restart_when_there_is_space() {
    let _serial = serial(seconds(90));
    if !can_mount() {
        eprintln!("skipped: this account may not mount a small disk");
        return;
    }
    let mut cluster = Cluster::start_with(&Options { disk_mb: Some(48), ..limits() });
    let clients = Strict::start(&cluster.ports(), &ALL);
    clients.wait_for_more(200);
    let leader = cluster.leader();
    let process = cluster.server(leader).pid();
    let filler = Filler::on(&mut cluster, leader);
    wait_for("another leader", seconds(15), || cluster.find_leader().is_some_and(|node| node != leader));
    clients.wait_for_more(200);
    wait_for("the full node to say so", seconds(5), || cluster.field(leader, "raft_stalled") == "yes");
    drop(filler);
    wait_for("the node to write again", seconds(10), || cluster.field(leader, "raft_stalled") == "no");
    let accounts = clients.stop("a full disk");
    without_errors(&accounts);
    verify(&mut cluster, &accounts);
    assert_eq!(cluster.server(leader).pid(), process, "it was not restarted");
    let id = cluster.id(leader);
    let now = cluster.leader();
    assert!(transfer(&cluster, now, Some(id)).is_ok(), "it can lead again");
}

#[test]
fn full_disks_under_all_nodes_move_nobody_and_lose_nothing() {
    let _serial = serial(seconds(90));
    if !can_mount() {
        eprintln!("skipped: this account may not mount a small disk");
        return;
    }
    let mut cluster = Cluster::start_with(&Options { disk_mb: Some(48), ..limits() });
    let clients = Strict::start(&cluster.ports(), &[Manner::Plain, Manner::Pipelined]);
    clients.wait_for_more(100);
    let highest_term = |cluster: &Cluster| {
        (0..3).map(|node| cluster.number(node, "raft_current_term")).max().expect("three")
    };
    let before = highest_term(&cluster);
    let fillers: Vec<Filler> = (0..3).map(|node| Filler::on(&mut cluster, node)).collect();
    let stalled =
        |cluster: &Cluster| (0..3).filter(|node| cluster.field(*node, "raft_stalled") == "yes").count();
    // The third may have nothing to write: without a majority nothing new comes to it.
    wait_for("a majority to stand still", seconds(20), || stalled(&cluster) >= 2);
    std::thread::sleep(seconds(2));
    let then = highest_term(&cluster);
    assert!(then <= before + 2, "leadership went round: term {then} after {before}");
    std::thread::sleep(seconds(4));
    assert_eq!(highest_term(&cluster), then, "leadership still goes round");
    drop(fillers);
    clients.wait_for_more(100);
    let accounts = clients.stop_within("full disks everywhere", seconds(40));
    verify(&mut cluster, &accounts);
}

#[test]
fn a_leader_whose_disk_hangs_hands_over_and_nobody_notices() {
    let _serial = serial(seconds(60));
    let mut cluster = with_limits();
    let clients = Strict::start(&cluster.ports(), &ALL);
    clients.wait_for_more(200);
    let leader = cluster.leader();
    let hung = hang_disk(&mut cluster, leader);
    wait_for("another leader", seconds(5), || cluster.find_leader().is_some_and(|node| node != leader));
    clients.wait_for_more(200);
    wait_for("the stall to be counted", seconds(2), || {
        cluster.number(leader, "raft_disk_stalls") == 1 && cluster.field(leader, "raft_stalled") == "yes"
    });
    drop(hung);
    let accounts = clients.stop("a disk that hangs");
    without_errors(&accounts);
    verify(&mut cluster, &accounts);
    assert_eq!(cluster.field(leader, "raft_stalled"), "no");
}

#[test]
fn disks_that_hang_under_all_nodes_move_nobody() {
    let _serial = serial(seconds(60));
    let mut cluster = with_limits();
    let leader = cluster.leader();
    let term = cluster.number(leader, "raft_current_term");
    let mut writer = cluster.connect(leader);
    let hung: Vec<Hung> = (0..3).map(|node| hang_disk(&mut cluster, node)).collect();
    writer.send(&["SET", "waits", "1"]).expect("the socket takes it");
    std::thread::sleep(seconds(5));
    assert_eq!(cluster.number(leader, "raft_current_term"), term, "nobody stood for election");
    drop(hung);
    assert!(writer.receive().is_ok_and(|reply| reply.is_ok()));
    assert_eq!((cluster.leader(), cluster.number(leader, "raft_current_term")), (leader, term));
    cluster.wait_converged();
}

#[test]
fn a_leader_whose_main_thread_hangs_is_succeeded() {
    let _serial = serial(seconds(200));
    let mut cluster = with_limits();
    let recorder = Recorder::start(&cluster.ports(), 4);
    let clients = Strict::start(&cluster.ports(), &[Manner::Plain, Manner::Pipelined]);
    for script in [false, true] {
        clients.wait_for_more(200);
        let leader = cluster.leader();
        let mut busy = cluster.connect(leader);
        // Four seconds on any machine: after five the server would answer others that it is busy.
        let loops = "local function now() local t = redis.call('TIME') return t[1] + t[2] / 1000000 end \
                     local stop = now() + 4 \
                     for i = 1, 1000000000 do if i % 1000000 == 0 and now() >= stop then break end end \
                     return redis.call('SET', 'busy', 'x')";
        let command = if script { ["EVAL", loops, "0"] } else { ["DEBUG", "SLEEP", "4"] };
        let asked = Instant::now();
        busy.send(&command).expect("the socket takes it");
        wait_for("another leader", seconds(15), || cluster.find_leader().is_some_and(|node| node != leader));
        println!("{}: another leader after {:?}", command[0], asked.elapsed());
        clients.wait_for_more(100);
        wait_for("the busy node to follow", seconds(90), || {
            cluster
                .try_info(leader)
                .is_ok_and(|info| info["raft_state"] == "up" && info["raft_stalled"] == "no")
        });
    }
    let histories = recorder.stop();
    for (register, history) in histories.iter().enumerate() {
        assert!(is_linearizable(history), "register {register} is not linearizable: {history:#?}");
    }
    clients.wait_for_more(10);
    let accounts = clients.stop_within("a main thread that hangs", seconds(30));
    verify(&mut cluster, &accounts);
}

/// A write that is committed while the main thread sleeps is answered when it wakes up, though leadership is gone.
#[test]
fn what_was_decided_during_a_stall_is_answered_after_it() {
    let _serial = serial(seconds(60));
    let mut cluster = with_limits();
    let leader = cluster.leader();
    let followers: Vec<usize> = (0..3).filter(|node| *node != leader).collect();
    let (mut writer, mut sleeper) = (cluster.connect(leader), cluster.connect(leader));
    assert!(writer.run("SET decided 0").is_ok());
    let hung: Vec<Hung> = followers.iter().map(|node| hang_disk(&mut cluster, *node)).collect();
    writer.send(&["SET", "decided", "1"]).expect("the socket takes it");
    std::thread::sleep(millis(100));
    sleeper.send(&["DEBUG", "SLEEP", "4"]).expect("the socket takes it");
    std::thread::sleep(millis(100));
    drop(hung);
    wait_for("another leader", seconds(15), || cluster.find_leader().is_some_and(|node| node != leader));
    let reply = writer.receive();
    assert!(reply.as_ref().is_ok_and(Value::is_ok), "{reply:?}");
    assert_eq!(cluster.client().run("GET decided").text(), "1");
    cluster.wait_converged();
}
