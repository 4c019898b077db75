//! Leaders that die, stand still, and come back: nothing that was answered is lost, doubled or contradicted.
#![cfg(feature = "redis")]

mod cluster;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::Arc;
use std::time::Instant;

use cluster::history::{is_linearizable, Recorder};
use cluster::load::{Load, Report};
use cluster::{encode, fault_rounds, millis, seconds, serial, wait_for, Client, Cluster, Failure, Value};

/// Compares the account of a load with every node's own dataset.
fn verify_on_all_nodes(cluster: &mut Cluster, report: &Report) {
    cluster.wait_converged();
    let mut client = cluster.client();
    report.verify(&mut |command| client.repeat(command));
    for node in 0..cluster.size() {
        let mut connection = cluster.connect(node);
        report.verify(&mut |command| {
            let local: Vec<&str> = ["RAFT.DEBUG", "EXEC"].iter().chain(command).copied().collect();
            connection.call(&local).expect("a read of the node's own dataset")
        });
    }
}

#[test]
fn killing_the_leader_again_and_again_loses_no_answered_write() {
    let _serial = serial(seconds(240));
    let mut cluster = Cluster::start(3);
    let load = Load::start(&cluster.ports(), 4);
    load.wait_for_more(200);
    for _ in 0..fault_rounds() {
        let leader = cluster.leader();
        cluster.kill(leader);
        load.wait_for_more(100);
        cluster.restart(leader);
        load.wait_for_more(100);
        wait_for("the killed node to follow again", seconds(20), || {
            cluster.try_info(leader).is_ok_and(|info| {
                info["raft_state"] == "up"
                    && info["raft_role"] == "follower"
                    && info["raft_leader_id"] != "-1"
            })
        });
    }
    let report = load.stop();
    assert!(report.answered() > 200 * fault_rounds(), "there was hardly any load: {}", report.answered());
    verify_on_all_nodes(&mut cluster, &report);
}

#[test]
fn killing_a_follower_disturbs_nobody() {
    let _serial = serial(seconds(90));
    let mut cluster = Cluster::start(3);
    let load = Load::start(&cluster.ports(), 4);
    load.wait_for_more(200);
    let (leader, follower) = (cluster.leader(), cluster.follower());
    let term = cluster.number(leader, "raft_current_term");
    for _ in 0..3 {
        cluster.kill(follower);
        load.wait_for_more(200);
        cluster.restart(follower);
        load.wait_for_more(200);
    }
    let report = load.stop();
    assert_eq!(cluster.leader(), leader);
    assert_eq!(
        cluster.number(leader, "raft_current_term"),
        term,
        "a follower's restart cost the leader its term"
    );
    verify_on_all_nodes(&mut cluster, &report);
}

#[test]
fn killing_all_nodes_at_once_loses_no_answered_write() {
    let _serial = serial(seconds(120));
    let mut cluster = Cluster::start(3);
    let load = Load::start(&cluster.ports(), 4);
    for _ in 0..3 {
        load.wait_for_more(300);
        (0..3).for_each(|node| cluster.kill(node));
        (0..3).for_each(|node| cluster.restart(node));
    }
    load.wait_for_more(300);
    let report = load.stop();
    verify_on_all_nodes(&mut cluster, &report);
}

#[test]
fn a_cluster_stopped_in_order_starts_with_all_its_data() {
    let _serial = serial(seconds(90));
    let mut cluster = Cluster::start(3);
    let mut client = cluster.client();
    for number in 0..500 {
        assert!(client.run(&format!("SET key:{number} {number}")).is_ok());
    }
    let digest = cluster.wait_converged();
    (0..3).for_each(|node| cluster.server(node).terminate());
    for node in 0..3 {
        cluster.restart(node);
        let reply = cluster.connect(node).run("GET key:1");
        assert!(!reply.is_error("NOCLUSTER"), "a member that starts says that it is none: {reply}");
        assert!(matches!(reply, Value::Error(_)) || reply.text() == "1", "a stale read at start: {reply}");
    }
    assert_eq!(cluster.wait_converged(), digest);
    assert_eq!(cluster.client().run("GET key:499").text(), "499");
}

#[test]
fn a_leader_that_stood_still_serves_nothing_stale() {
    let _serial = serial(seconds(90));
    let mut cluster = Cluster::start(3);
    let load = Load::start(&cluster.ports(), 2);
    let mut client = cluster.client();
    client.run("SET still before");
    load.wait_for_more(100);
    let leader = cluster.leader();
    let mut on_old_leader = cluster.connect(leader);
    assert_eq!(on_old_leader.run("GET still").text(), "before");
    cluster.server(leader).pause();
    // These wait in the socket and are read after the pause, when another leader has moved on.
    on_old_leader.send(&["GET", "still"]).expect("the socket takes it");
    on_old_leader.send(&["SET", "still:lost", "x"]).expect("the socket takes it");
    let paused = Instant::now();
    wait_for("a new leader", seconds(10), || cluster.find_leader().is_some_and(|node| node != leader));
    client.run("SET still after");
    load.wait_for_more(100);
    std::thread::sleep(seconds(5).saturating_sub(paused.elapsed()));
    cluster.server(leader).resume();
    match on_old_leader.receive() {
        Ok(reply) => {
            assert!(
                reply.is_error("MOVED") || reply.is_error("CLUSTERDOWN") || reply.text() == "after",
                "{reply}"
            );
            let second = on_old_leader.receive();
            assert!(!second.is_ok_and(|reply| reply.is_ok()), "a deposed leader acknowledged a write");
        }
        Err(error) => {
            assert_ne!(error.kind(), std::io::ErrorKind::TimedOut, "the held client was not closed")
        }
    }
    let report = load.stop();
    verify_on_all_nodes(&mut cluster, &report);
    assert_eq!(client.run("GET still").text(), "after");
    assert_eq!(client.run("EXISTS still:lost").text(), "0");
}

#[test]
fn a_register_stays_linearizable_while_leaders_die_and_stand_still() {
    let _serial = serial(seconds(150));
    let mut cluster = Cluster::start(3);
    let recorder = Recorder::start(&cluster.ports(), 5);
    for round in 0..4 {
        let recorded = recorder.len();
        wait_for("operations to be recorded", seconds(20), || recorder.len() >= recorded + 500);
        let leader = cluster.leader();
        if round % 2 == 0 {
            cluster.kill(leader);
            wait_for("a new leader", seconds(10), || cluster.find_leader().is_some());
            cluster.restart(leader);
        } else {
            cluster.server(leader).pause();
            wait_for("a new leader", seconds(10), || {
                cluster.find_leader().is_some_and(|node| node != leader)
            });
            cluster.server(leader).resume();
        }
    }
    let histories = recorder.stop();
    assert!(histories.iter().map(Vec::len).sum::<usize>() >= 2000, "too little was recorded");
    for (register, history) in histories.iter().enumerate() {
        assert!(is_linearizable(history), "register {register} is not linearizable: {history:#?}");
    }
}

/// What contenders for the lock share.
#[derive(Default)]
struct Contest {
    stop: AtomicBool,
    /// Who is certain to hold the lock now; 0 is nobody.
    holder: AtomicU64,
    acquired: AtomicUsize,
    violations: AtomicUsize,
}

/// Takes the lock with `SET NX PX`, holds it for a moment, gives it back if it is still its own.
fn contend(contest: &Contest, mut client: Client, identity: u64) {
    const TTL_MS: u64 = 1_500;
    const MARGIN_MS: u64 = 700;
    let release =
        "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0";
    let mut attempt = 0;
    while !contest.stop.load(Ordering::Relaxed) {
        attempt += 1;
        let token = format!("{identity}:{attempt}");
        let asked = Instant::now();
        match client.call(&["SET", "lock", &token, "NX", "PX", &TTL_MS.to_string()]) {
            Ok(reply) if reply.is_ok() => {}
            Ok(_) => {
                std::thread::sleep(millis(2));
                continue;
            }
            Err(_) => continue,
        }
        // The time to live counts from the execution, which is after `asked`: until then the lock is surely held.
        if asked.elapsed() > millis(TTL_MS - MARGIN_MS) {
            continue;
        }
        let others = contest.holder.swap(identity, Ordering::SeqCst);
        contest.violations.fetch_add(usize::from(others != 0), Ordering::SeqCst);
        contest.acquired.fetch_add(1, Ordering::SeqCst);
        std::thread::sleep(millis(3));
        let alone = contest.holder.swap(0, Ordering::SeqCst) == identity;
        assert!(
            asked.elapsed() < millis(TTL_MS),
            "this machine is too slow for the test: {:?}",
            asked.elapsed()
        );
        contest.violations.fetch_add(usize::from(!alone), Ordering::SeqCst);
        // When this is not answered, the lock runs out by itself.
        let _ = client.call(&["EVAL", release, "1", "lock", &token]);
    }
}

#[test]
fn a_lock_is_never_held_by_two_across_failovers() {
    let _serial = serial(seconds(300));
    let mut cluster = Cluster::start(3);
    let contest = Arc::new(Contest::default());
    let contenders: Vec<_> = (1..=4)
        .map(|identity| {
            let (contest, client) = (Arc::clone(&contest), cluster.client());
            std::thread::spawn(move || contend(&contest, client, identity))
        })
        .collect();
    let acquired = || contest.acquired.load(Ordering::SeqCst);
    for _ in 0..fault_rounds() {
        let before = acquired();
        wait_for("the lock to change hands", seconds(20), || acquired() >= before + 10);
        let leader = cluster.leader();
        cluster.kill(leader);
        let before = acquired();
        wait_for("the lock to change hands after a failover", seconds(20), || acquired() >= before + 5);
        cluster.restart(leader);
    }
    contest.stop.store(true, Ordering::Relaxed);
    for contender in contenders {
        contender.join().expect("a contender failed");
    }
    assert_eq!(contest.violations.load(Ordering::SeqCst), 0, "two held the lock at a time");
    assert!(acquired() >= 15 * fault_rounds());
    cluster.wait_converged();
}

/// Pushes `total` numbers through one connection, kills the leader under them, and counts the answers.
fn push_until_killed(cluster: &mut Cluster, round: usize, total: usize) -> usize {
    const BEFORE_KILL: usize = 1_000;
    let leader = cluster.leader();
    let mut connection = cluster.connect(leader);
    connection.set_timeout(seconds(3)).expect("a timeout");
    let pushes = |numbers: std::ops::Range<usize>| -> Vec<u8> {
        numbers.flat_map(|number| encode(&["RPUSH", "sequence", &format!("{round}:{number}")])).collect()
    };
    connection.send_raw(&pushes(0..BEFORE_KILL)).expect("the socket takes it");
    let mut last = connection.receive().expect("the first answer").integer();
    connection.send_raw(&pushes(BEFORE_KILL..total)).expect("the socket takes it");
    let mut answered = 1;
    while answered < total {
        if answered == BEFORE_KILL {
            cluster.kill(leader);
        }
        let Ok(reply) = connection.receive() else { break };
        assert_eq!(reply.integer(), last + 1, "replies are out of order");
        last = reply.integer();
        answered += 1;
    }
    wait_for("a new leader", seconds(15), || cluster.find_leader().is_some());
    cluster.restart(leader);
    answered
}

#[test]
fn pipelines_keep_their_order_when_the_leader_dies_under_them() {
    const TOTAL: usize = 30_000;
    let _serial = serial(seconds(120));
    let mut cluster = Cluster::start(3);
    let mut interrupted = 0;
    for round in 0..4 {
        let answered = push_until_killed(&mut cluster, round, TOTAL);
        interrupted += usize::from(answered < TOTAL);
        let items = cluster.client().run("LRANGE sequence 0 -1");
        let items: Vec<String> = items.array().iter().map(Value::text).collect();
        let prefix = format!("{round}:");
        let own: Vec<&String> = items.iter().filter(|item| item.starts_with(&prefix)).collect();
        assert!(own.len() >= answered, "{answered} pushes were answered, {} are there", own.len());
        for (number, item) in own.iter().enumerate() {
            assert_eq!(**item, format!("{prefix}{number}"), "a pipeline was applied with a gap");
        }
        assert_eq!(items.iter().collect::<BTreeSet<_>>().len(), items.len(), "a push was applied twice");
    }
    assert!(interrupted > 0, "every pipeline had ended before the leader was killed");
    cluster.wait_converged();
}

#[test]
fn a_refused_write_took_no_effect() {
    let _serial = serial(seconds(90));
    let mut cluster = Cluster::start(3);
    let follower = cluster.follower();
    let mut on_follower = cluster.connect(follower);
    for number in 0..100 {
        let reply = on_follower.run(&format!("SET refused:{number} x"));
        assert!(reply.is_error("MOVED "), "{reply}");
    }
    let leader = cluster.leader();
    (0..3).filter(|node| *node != leader && *node != follower).for_each(|node| cluster.kill(node));
    cluster.kill(leader);
    let mut lonely = Client::new(vec![cluster.port(follower)]);
    lonely.patience = seconds(4);
    assert!(matches!(lonely.call(&["SET", "refused:alone", "x"]), Err(Failure::Refused(_))));
    (0..3).filter(|node| *node != follower).for_each(|node| cluster.restart(node));
    assert_eq!(cluster.client().run("KEYS refused:*"), Value::Array(Vec::new()));
    cluster.wait_converged();
}
