//! Wrong input from the network, damage on the disk, and local links that are cut.
#![cfg(feature = "redis")]

mod cluster;

use std::fs::{self, OpenOptions};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::FileExt;

use cluster::damage::{flip_bit, segments};
use cluster::load::Load;
use cluster::{encode, millis, seconds, serial, wait_for, Cluster, Connection, Server, Value};

/// Sends bytes to a peer port; whether the node closes the connection within five seconds.
fn is_closed_after(port: u16, bytes: &[u8]) -> bool {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("the peer port accepts");
    stream.set_read_timeout(Some(seconds(5))).expect("a timeout");
    // The node may close before it has taken everything.
    let _ = stream.write_all(bytes);
    let mut rest = Vec::new();
    match stream.read_to_end(&mut rest) {
        Ok(_) => true,
        Err(error) => !matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut),
    }
}

#[test]
fn garbage_on_the_peer_port_is_closed_and_harms_nothing() {
    let _serial = serial(seconds(120));
    let mut cluster = Cluster::start(3);
    let load = Load::start(&cluster.ports(), 2);
    load.wait_for_more(100);
    let leader = cluster.leader();
    let term = cluster.number(leader, "raft_current_term");
    let memory_before: Vec<u64> = (0..3).map(|node| cluster.server(node).resident_bytes()).collect();
    let nested = b"*1\r\n".repeat(5_000);
    let megabytes = vec![b'x'; 4_000_000];
    let mut noise: Vec<u8> =
        (0..4_096_u32).map(|step| (step.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    noise[0] = 0xff;
    let attacks: [&[u8]; 12] = [
        b"\0\0\0\0\0\0\0\0",
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"*99999999999\r\n",
        b"*-5\r\n",
        b"*3\r\n$1073741824\r\n",
        b"*2\r\n$-7\r\n",
        b"$5\r\nhello\r\n",
        &nested,
        &megabytes,
        &noise,
        b"*6\r\n$10\r\nHELLO-RAFT\r\n$3\r\n999\r\n$1\r\nc\r\n$1\r\n1\r\n$1\r\n2\r\n$1\r\nn\r\n",
        b"*1\r\n$13\r\nAPPENDENTRIES\r\n",
    ];
    for node in 0..3 {
        let peer_port = cluster.port(node) + 10_000;
        for attack in attacks {
            let start = String::from_utf8_lossy(&attack[..attack.len().min(40)]).into_owned();
            assert!(is_closed_after(peer_port, attack), "node {node} keeps a connection that said {start:?}");
        }
        // A connection that says nothing, and one that says half a hello, are in nobody's way.
        let silent = TcpStream::connect(("127.0.0.1", peer_port)).expect("the peer port accepts");
        let mut half = TcpStream::connect(("127.0.0.1", peer_port)).expect("the peer port accepts");
        half.write_all(b"*6\r\n$10\r\nHELLO").expect("sent");
        load.wait_for_more(50);
        drop((silent, half));
        let pong = Connection::open(peer_port).and_then(|mut connection| connection.call(&["PING"]));
        assert_eq!(pong.expect("a peer port answers PING").text(), "PONG");
    }
    let report = load.stop();
    cluster.wait_converged();
    let mut client = cluster.client();
    report.verify(&mut |command| client.repeat(command));
    assert_eq!(cluster.number(leader, "raft_current_term"), term, "garbage has caused an election");
    for (node, before) in memory_before.into_iter().enumerate() {
        let after = cluster.server(node).resident_bytes();
        assert!(after < before + 100_000_000, "node {node} grew from {before} to {after} bytes");
    }
}

#[test]
fn a_peer_of_another_cluster_is_refused() {
    let _serial = serial(seconds(90));
    let mut first = Cluster::start(3);
    let mut second = Cluster::start(1);
    let identity = |cluster: &Cluster| cluster.field(0, "raft_dbid");
    assert_ne!(identity(&first), identity(&second));
    let leader = first.leader();
    let term = first.number(leader, "raft_current_term");
    let hello = |cluster_id: &str, from: u64, to: u64| {
        let (from, to) = (from.to_string(), to.to_string());
        encode(&["HELLO-RAFT", "1", cluster_id, &from, &to, "0123456789abcdef0123456789abcdef"])
    };
    let own = second.id(0);
    for node in 0..3 {
        let (peer_port, target) = (first.port(node) + 10_000, first.id(node));
        let member = first.id((node + 1) % 3);
        assert!(is_closed_after(peer_port, &hello(&identity(&second), own, target)), "another cluster's id");
        assert!(
            is_closed_after(peer_port, &hello(&identity(&first), member, target + 1)),
            "another node's id"
        );
        // The right names, but not the secret: whatever follows the hello is no proof.
        let mut forged = hello(&identity(&first), member, target);
        forged.extend(encode(&["AUTH-RAFT", &"0".repeat(64)]));
        assert!(is_closed_after(peer_port, &forged), "a member's id without the secret");
    }
    let address = format!("127.0.0.1:{}", first.port(0));
    assert!(matches!(second.connect(0).run(&format!("RAFT.CLUSTER JOIN {address}")), Value::Error(_)));
    assert!(second.client().run("SET k second").is_ok());
    assert!(first.client().run("SET k first").is_ok());
    first.wait_converged();
    assert_eq!(first.number(leader, "raft_current_term"), term);
    assert_eq!(first.number(leader, "raft_num_nodes"), 3);
    second.wait_converged();
    assert_eq!(second.client().run("GET k").text(), "second");
}

#[test]
fn a_flipped_bit_in_the_log_of_a_single_node_is_refused_by_name() {
    let _serial = serial(seconds(90));
    let mut cluster = Cluster::start(1);
    let mut client = cluster.client();
    for number in 0..200 {
        assert!(client.run(&format!("SET marked:{number} value-{number}-end")).is_ok());
    }
    cluster.kill(0);
    let log = cluster.server(0).directory().join("raftlog");
    let (segment, position) = flip_bit(&log, b"value-77-end");
    let damaged = fs::read(&segment).expect("the segment");
    let setup = cluster.server(0).setup().clone();
    let directory = cluster.server(0).directory().to_owned();
    let mut server = Server::spawn(setup.clone().directory(&directory));
    assert_ne!(server.wait_exit(), Some(0), "a damaged log was started");
    let text = server.log_text();
    let file = segment.file_name().expect("a name").to_string_lossy().into_owned();
    let names_all = |line: &&str| [&file, "offset", "entry"].iter().all(|part| line.contains(*part));
    let reason = text.lines().find(names_all);
    let reason =
        reason.unwrap_or_else(|| panic!("no line names the file, the offset and the entry:\n{text}"));
    assert!(reason.contains("raftlog-tool"), "the line does not name the tool: {reason}");
    assert!(!text.contains("panicked at"), "{text}");
    drop(server);
    assert_eq!(fs::read(&segment).expect("the segment"), damaged, "a refused start has changed the log");
    // With the bit as it was, the node starts and has everything.
    let file = OpenOptions::new().write(true).open(&segment).expect("the segment");
    file.write_all_at(&[damaged[usize::try_from(position).expect("an offset")] ^ 0x10], position)
        .expect("one byte");
    cluster.restart(0);
    assert_eq!(cluster.client().run("GET marked:199").text(), "value-199-end");
}

#[test]
fn a_torn_tail_is_dropped_and_reported() {
    let _serial = serial(seconds(90));
    let mut cluster = Cluster::start(3);
    let mut client = cluster.client();
    for number in 0..50 {
        client.run(&format!("SET k:{number} v"));
    }
    cluster.wait_converged();
    let follower = cluster.follower();
    cluster.kill(follower);
    let log = cluster.server(follower).directory().join("raftlog");
    let newest = segments(&log).pop().expect("a segment");
    let bytes = fs::read(&newest).expect("a segment");
    let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1).next_multiple_of(8);
    let file = OpenOptions::new().write(true).open(&newest).expect("a segment");
    // The start of a record whose rest never reached the disk.
    file.write_all_at(&[0x5a; 24], used as u64).expect("a torn record");
    cluster.restart(follower);
    assert!(client.run("SET after torn").is_ok());
    cluster.wait_converged();
    let log_text = cluster.server(follower).log_text();
    assert!(log_text.to_lowercase().contains("torn"), "the dropped tail is not reported");
}

#[test]
fn a_lost_directory_is_not_a_member_any_more() {
    let _serial = serial(seconds(90));
    let mut cluster = Cluster::start(3);
    cluster.client().run("SET k v");
    cluster.wait_converged();
    let follower = cluster.follower();
    cluster.kill(follower);
    fs::remove_dir_all(cluster.server(follower).directory().join("raftlog")).expect("the log is removed");
    cluster.restart(follower);
    assert_eq!(cluster.field(follower, "raft_state"), "uninitialized");
    assert!(cluster.connect(follower).run("GET k").is_error("NOCLUSTER"));
    assert!(cluster.client().run("RAFT SET k w").is_ok());
}

#[test]
fn cutting_the_local_links_under_load_loses_nothing() {
    let _serial = serial(seconds(120));
    let mut cluster = Cluster::start(3);
    let load = Load::start(&cluster.ports(), 4);
    load.wait_for_more(200);
    let mut killed = 0;
    for _ in 0..10 {
        for node in 0..3 {
            let mut connection = cluster.connect(node);
            for kind in ["replica", "master"] {
                killed += connection.run(&format!("CLIENT KILL TYPE {kind}")).integer();
            }
        }
        load.wait_for_more(100);
        std::thread::sleep(millis(50));
    }
    assert!(killed >= 20, "only {killed} local links were there to be cut");
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
    }
}

#[test]
fn a_node_that_cannot_write_is_in_nobodys_way() {
    let _serial = serial(seconds(90));
    let mut cluster = Cluster::start(3);
    let mut client = cluster.client();
    client.run("SET k v");
    let follower = cluster.follower();
    // A limit of the file size stands for a disk that takes no more: every further write of the log fails.
    let pid = cluster.server(follower).pid().expect("a running node").to_string();
    let limited = std::process::Command::new("prlimit").args(["--pid", &pid, "--fsize=4096"]).status();
    assert!(limited.expect("prlimit can be started").success());
    let value = "x".repeat(100_000);
    for number in 0..100 {
        let reply = client.repeat(&["SET", &format!("big:{number}"), &value]);
        assert!(reply.is_ok(), "the other two are a majority: {reply}");
    }
    cluster.kill(follower);
    cluster.restart(follower);
    wait_for("the node to catch up", seconds(20), || cluster.has_converged());
    assert_eq!(client.run("STRLEN big:99").integer(), 100_000);
}
