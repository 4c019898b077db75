//! Reads without a round: by the leader's lease, and by an operator's wish.
#![cfg(feature = "redis")]

mod cluster;

use cluster::history::{is_linearizable, Recorder};
use cluster::load::Load;
use cluster::{millis, seconds, serial, wait_for, Client, Cluster, Connection, Fault, Options, Value};

fn with_leases(proxied: bool) -> Cluster {
    let module_arguments = vec!["read-lease=yes".to_owned()];
    Cluster::start_with(&Options { proxied, module_arguments, ..Options::default() })
}

/// The leader, once it has a lease.
fn leaseholder(cluster: &mut Cluster) -> usize {
    let mut leader = None;
    wait_for("a leader with a lease", seconds(60), || {
        leader = cluster.find_leader().filter(|node| cluster.number(*node, "raft_lease_ms_left") > 0);
        leader.is_some()
    });
    leader.expect("the condition has held")
}

/// Three nodes whose leader stays the same, however busy the machine is.
fn steady() -> Cluster {
    let module_arguments = vec!["election-timeout=10000".to_owned()];
    Cluster::start_with(&Options { module_arguments, ..Options::default() })
}

fn set_everywhere(cluster: &Cluster, name: &str, value: &str) {
    for node in 0..cluster.size() {
        assert!(cluster.connect(node).run(&format!("CONFIG SET {name} {value}")).is_ok());
    }
}

/// Whether a node that does not lead any more, or cannot know whether it does, has kept its reads to itself.
fn is_refusal(reply: &std::io::Result<Value>) -> bool {
    match reply {
        Ok(reply) => reply.is_error("CLUSTERDOWN") || reply.is_error("MOVED"),
        Err(error) => error.kind() != std::io::ErrorKind::TimedOut,
    }
}

/// Reads on `node` until some were answered without waiting.
fn reads_at_once(cluster: &Cluster, node: usize) {
    let before = cluster.number(node, "raft_immediate_batches");
    let mut client = cluster.connect(node);
    wait_for("reads that are answered at once", seconds(30), || {
        assert_eq!(client.run("GET here").text(), "value");
        cluster.number(node, "raft_immediate_batches") > before + 5
    });
}

#[test]
fn leases_are_turned_on_and_off_at_run_time() {
    let _serial = serial(seconds(120));
    let mut cluster = steady();
    cluster.client().run("SET here value");
    let leader = cluster.leader();
    let mut client = cluster.connect(leader);
    for _ in 0..20 {
        assert_eq!(client.run("GET here").text(), "value");
    }
    assert_eq!(cluster.number(leader, "raft_immediate_batches"), 0);
    assert_eq!(cluster.number(leader, "raft_lease_ms_left"), 0);
    set_everywhere(&cluster, "raft.read-lease", "yes");
    assert_eq!(leaseholder(&mut cluster), leader);
    reads_at_once(&cluster, leader);
    // What was just written is seen, whatever waits for its commit.
    let mut writer = cluster.connect(leader);
    for number in 0..200 {
        assert!(writer.run(&format!("SET counted {number}")).is_ok());
        assert_eq!(client.run("GET counted").text(), number.to_string());
    }
    for node in (0..3).filter(|node| *node != leader) {
        assert_eq!(cluster.number(node, "raft_lease_ms_left"), 0, "only a leader has a lease");
    }
    set_everywhere(&cluster, "raft.read-lease", "no");
    wait_for("the lease to end", seconds(30), || cluster.number(leader, "raft_lease_ms_left") == 0);
    let before = cluster.number(leader, "raft_immediate_batches");
    for _ in 0..20 {
        assert_eq!(client.run("GET here").text(), "value");
    }
    assert_eq!(cluster.number(leader, "raft_immediate_batches"), before);
}

/// The leader stands still while the others elect another one and write; what it was asked meanwhile, it does not answer
/// from its own state when it goes on.
#[test]
fn a_leader_that_stood_still_answers_nothing_by_its_lease() {
    let _serial = serial(seconds(180));
    let mut cluster = with_leases(false);
    for round in 0..3 {
        cluster.client().run(&format!("SET seen before{round}"));
        let leader = leaseholder(&mut cluster);
        let mut readers: Vec<Connection> = (0..20).map(|_| cluster.connect(leader)).collect();
        readers.iter_mut().for_each(|reader| assert!(reader.run("GET seen").text().starts_with("before")));
        cluster.server(leader).pause();
        let others: Vec<u16> = (0..3).filter(|node| *node != leader).map(|node| cluster.port(node)).collect();
        let mut client = Client::new(others);
        client.patience = seconds(60);
        client.run(&format!("SET seen after{round}"));
        readers.iter_mut().for_each(|reader| reader.send(&["GET", "seen"]).expect("the socket takes it"));
        cluster.server(leader).resume();
        for reader in &mut readers {
            let reply = reader.receive();
            let fresh = reply.as_ref().is_ok_and(|reply| reply.text() == format!("after{round}"));
            assert!(fresh || is_refusal(&reply), "round {round}: {reply:?}");
        }
        cluster.wait_voting(3);
    }
}

#[test]
fn a_dead_leader_is_replaced_when_its_lease_is_over() {
    let _serial = serial(seconds(180));
    let mut cluster = with_leases(false);
    let load = Load::start(&cluster.ports(), 3);
    for _ in 0..3 {
        load.wait_for_more(100);
        let leader = leaseholder(&mut cluster);
        cluster.kill(leader);
        load.wait_for_more(100);
        // A voter that restarts at once has not forgotten what it promised.
        cluster.restart(leader);
        cluster.wait_voting(3);
    }
    let report = load.stop();
    cluster.wait_converged();
    let mut client = cluster.client();
    report.verify(&mut |command| client.repeat(command));
}

#[test]
fn a_leader_that_hands_over_gives_its_lease_up() {
    let _serial = serial(seconds(180));
    let mut cluster = with_leases(false);
    let recorder = Recorder::start(&cluster.ports(), 5);
    for _ in 0..4 {
        let recorded = recorder.len();
        let leader = leaseholder(&mut cluster);
        // It may fail on a busy machine; what clients see counts.
        let _ = cluster.connect(leader).call(&["RAFT.TRANSFER_LEADER"]);
        wait_for("operations after a hand-over", seconds(60), || recorder.len() >= recorded + 200);
    }
    verify(recorder);
}

/// Registers read and written by several clients while leaders are cut off, again and again.
#[test]
fn leases_keep_registers_linearizable_while_leaders_are_cut_off() {
    let _serial = serial(seconds(240));
    let mut cluster = with_leases(true);
    let ids = cluster.ids();
    let recorder = Recorder::start(&cluster.ports(), 6);
    for round in 0..4 {
        let recorded = recorder.len();
        let leader = leaseholder(&mut cluster);
        cluster.isolate(&ids, leader, [Fault::Stall, Fault::Cut][round % 2]);
        wait_for("another leader", seconds(60), || cluster.find_leader().is_some_and(|node| node != leader));
        wait_for("operations under a fault", seconds(60), || recorder.len() >= recorded + 100);
        let reply = cluster.connect(leader).call(&["GET", "register:0"]);
        assert!(is_refusal(&reply), "the old leader answers {reply:?}");
        cluster.proxy().heal_all();
        wait_for("operations after healing", seconds(60), || recorder.len() >= recorded + 300);
    }
    verify(recorder);
}

fn verify(recorder: Recorder) {
    for (register, history) in recorder.stop().iter().enumerate() {
        assert!(is_linearizable(history), "register {register} is not linearizable: {history:#?}");
    }
}

/// `raft.quorum-reads no`: nobody is asked, and a leader that was deposed closes what it holds all the same.
#[test]
fn fast_reads_ask_nobody_and_end_with_leadership() {
    let _serial = serial(seconds(180));
    let mut cluster = Cluster::start_proxied(3);
    let ids = cluster.ids();
    cluster.client().run("SET here value");
    let leader = cluster.leader();
    set_everywhere(&cluster, "raft.quorum-reads", "no");
    reads_at_once(&cluster, leader);
    let mut writer = cluster.connect(leader);
    let mut reader = cluster.connect(leader);
    assert!(writer.run("PING").text().contains("PONG") && reader.run("PING").text().contains("PONG"));
    cluster.isolate(&ids, leader, Fault::Stall);
    // The write is held, for it cannot commit; a read behind it would have seen it, and is held as well.
    std::thread::sleep(millis(20));
    writer.send(&["SET", "here", "lost"]).expect("the socket takes it");
    std::thread::sleep(millis(20));
    reader.send(&["GET", "here"]).expect("the socket takes it");
    for (name, connection) in [("SET", &mut writer), ("GET", &mut reader)] {
        let reply = connection.receive();
        assert!(is_refusal(&reply), "{name}: {reply:?}");
    }
    wait_for("the leader to step down", seconds(30), || cluster.field(leader, "raft_role") != "leader");
    let reply = cluster.connect(leader).call(&["GET", "here"]);
    assert!(is_refusal(&reply), "{reply:?}");
    cluster.proxy().heal_all();
    cluster.wait_voting(3);
    assert_eq!(cluster.client().run("GET here").text(), "value");
    let leader = cluster.leader();
    set_everywhere(&cluster, "raft.quorum-reads", "yes");
    let before = cluster.number(leader, "raft_immediate_batches");
    let mut client = cluster.connect(leader);
    (0..20).for_each(|_| assert_eq!(client.run("GET here").text(), "value"));
    assert_eq!(cluster.number(leader, "raft_immediate_batches"), before);
}
