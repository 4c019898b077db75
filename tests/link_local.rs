//! The two local links, against a server that is played by the test.

mod link_support;

use link_support::*;
use redisraft::link::{CaptureRequest, Event, Rejection};
use std::net::{SocketAddr, TcpListener};
use std::process::{Command, Stdio};

fn feed_address(node: &Node) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], node.links.feed_port()))
}

/// A replica that has said all that a server says before PSYNC.
fn greeted_replica(node: &mut Node) -> Raw {
    let mut replica = Raw::connect(feed_address(node));
    replica.send(&command(&["PING"]));
    replica.expect(node, "+PONG\r\n");
    replica.send(&command(&["AUTH", "user", "password"]));
    replica.send(&command(&["REPLCONF", "listening-port", "5001"]));
    replica.send(&command(&["replconf", "capa", "eof", "capa", "psync2"]));
    replica.send(&command(&["REPLCONF", "version", "8.0.2"]));
    replica.expect(node, "+OK\r\n+OK\r\n+OK\r\n+OK\r\n");
    replica
}

fn psync(node: &mut Node, replica: &mut Raw, replid: &str, offset: &str) {
    replica.send(&command(&["PSYNC", replid, offset]));
    run(&mut [node], |nodes| nodes[0].saw(|e| matches!(e, Event::FeedPsync { .. })));
}

#[test]
fn a_feed_goes_on_where_the_replica_is() {
    let mut node = Node::without_identity();
    let mut replica = greeted_replica(&mut node);
    assert!(!node.links.feed_continue("x"), "nobody asked yet");
    assert!(!node.links.feed_write(b"x".as_slice().into()));
    let replid = "a".repeat(40);
    psync(&mut node, &mut replica, &replid, "4711");
    assert!(node.saw(|e| matches!(e, Event::FeedPsync { replid: r, offset: 4711 } if *r == replid)));
    assert!(!node.links.feed_write(b"x".as_slice().into()), "not before the answer");
    assert!(node.links.feed_continue(&replid));
    assert!(!node.links.feed_continue(&replid), "answered once");
    let stream: Vec<u8> = command(&["SET", "k", "v"]).repeat(10_000);
    for piece in stream.chunks(6000) {
        assert!(node.links.feed_write(piece.to_vec().into()));
    }
    assert!(node.links.feed_unsent() > stream.len());
    let expected = [format!("+CONTINUE {replid}\r\n").as_bytes(), &stream].concat();
    let got = replica.until(&mut node, |input| input.len() >= expected.len());
    assert!(got == expected);
    assert_eq!(node.links.feed_unsent(), 0);

    replica.send(&command(&["REPLCONF", "ACK", "5000"]));
    replica.send(&command(&["REPLCONF", "GETACK", "*"]));
    replica.send(&command(&["REPLCONF", "ACK", "5001", "FACK", "4999"]));
    run(&mut [&mut node], |nodes| nodes[0].saw(|e| matches!(e, Event::FeedAck { offset: 5001 })));
    assert!(node.saw(|e| matches!(e, Event::FeedAck { offset: 5000 })));
    node.turn();
    replica.receive();
    assert!(replica.input.is_empty() && !replica.closed, "acknowledgements have no answer");
    drop(replica);
    run(&mut [&mut node], |nodes| nodes[0].saw(|e| matches!(e, Event::FeedLost)));
    assert!(!node.links.feed_write(b"x".as_slice().into()));
}

#[test]
fn a_full_resync_sends_the_rdb_and_the_stream_at_once() {
    let mut node = Node::without_identity();
    let mut replica = greeted_replica(&mut node);
    psync(&mut node, &mut replica, "?", "-1");
    assert!(node.saw(|e| matches!(e, Event::FeedPsync { replid, offset: -1 } if replid == "?")));
    let rdb = vec![0xAA; 100_000];
    let replid = "b".repeat(40);
    assert!(node.links.feed_full_resync(&replid, 77, rdb.len() as u64));
    assert!(node.links.feed_write(rdb.clone().into()));
    assert!(node.links.feed_write(b"*1\r\n".as_slice().into()));
    let head = format!("+FULLRESYNC {replid} 77\r\n$100000\r\n");
    let expected = [head.as_bytes(), &rdb, b"*1\r\n"].concat();
    let got = replica.until(&mut node, |input| input.len() >= expected.len());
    assert!(got == expected);
    node.links.feed_close();
    assert_eq!(replica.last_words(&mut node), "");
    assert!(!node.saw(|e| matches!(e, Event::FeedLost)), "the caller closed it");
}

#[test]
fn a_newer_feed_replaces_the_older() {
    let mut node = Node::without_identity();
    let mut older = greeted_replica(&mut node);
    psync(&mut node, &mut older, "?", "-1");
    assert!(node.links.feed_continue("x"));
    node.seen.clear();
    let mut newer = greeted_replica(&mut node);
    psync(&mut node, &mut newer, "y", "5");
    assert!(
        matches!(node.seen[..], [Event::FeedLost, Event::FeedPsync { offset: 5, .. }]),
        "{:?}",
        node.seen
    );
    older.last_words(&mut node);
    assert!(node.links.feed_continue("y"));
    newer.expect(&mut node, "+CONTINUE y\r\n");
}

#[test]
fn what_no_replica_says_ends_the_feed() {
    for wrong in [
        command(&["SYNC"]),
        command(&["GET", "k"]),
        command(&["PSYNC", "?"]),
        command(&["PSYNC", "?", "x"]),
        command(&["PSYNC", "?", "1", "FAILOVER"]),
        command(&["REPLCONF", "ACK", "-1"]),
        b"*1\r\n$1000000\r\n".to_vec(),
        vec![0; 100_000],
    ] {
        let mut node = Node::without_identity();
        let mut replica = greeted_replica(&mut node);
        replica.send(&wrong);
        replica.last_words(&mut node);
        assert!(matches!(node.seen[..], [Event::FeedLost]), "{:?}", node.seen);
    }
    let mut node = Node::without_identity();
    let mut replica = greeted_replica(&mut node);
    psync(&mut node, &mut replica, "?", "-1");
    replica.send(&command(&["PSYNC", "?", "-1"]));
    replica.last_words(&mut node);
    assert!(!node.links.feed_continue("x"), "it did not wait for the answer");
}

#[test]
fn other_processes_do_not_get_the_feed() {
    let mut node = Node::without_identity();
    let port = node.links.feed_port();
    let script = format!("exec 3<>/dev/tcp/127.0.0.1/{port}; printf 'PING\\r\\n' >&3; cat <&3; true");
    let mut child = Command::new("/bin/bash")
        .args(["-c", &script])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    run(&mut [&mut node], |nodes| nodes[0].links.rejections().get(Rejection::ForeignFeed) == 1);
    child.wait().unwrap();
    let mut said = String::new();
    std::io::Read::read_to_string(&mut child.stdout.take().unwrap(), &mut said).unwrap();
    assert_eq!(said, "");
    // It does not disturb the one that is allowed.
    greeted_replica(&mut node);
    assert!(!node.saw(|e| matches!(e, Event::FeedLost)));
}

struct Server {
    listener: TcpListener,
    node: Node,
}

impl Server {
    fn new() -> Server {
        Server { listener: TcpListener::bind("127.0.0.1:0").unwrap(), node: Node::without_identity() }
    }

    fn request(&self, next_offset: i64) -> CaptureRequest {
        CaptureRequest {
            address: self.listener.local_addr().unwrap(),
            secret: "s3cret".into(),
            replid: "r".repeat(40),
            next_offset,
        }
    }

    /// Starts a capture and answers it up to, and without, the answer to PSYNC.
    fn greeted(&mut self, next_offset: i64) -> Raw {
        let request = self.request(next_offset);
        let psync = command(&["RAFT.PSYNC", "s3cret", &request.replid, &next_offset.to_string()]);
        self.node.links.capture_start(request);
        let mut raw = accept_from(&self.listener, &mut self.node);
        let node = &mut self.node;
        raw.expect(node, &String::from_utf8(command(&["RAFT.CAPTURE", "s3cret"])).unwrap());
        raw.send(b"+OK\r\n");
        raw.expect(
            node,
            &String::from_utf8(command(&["REPLCONF", "capa", "eof", "capa", "psync2"])).unwrap(),
        );
        raw.send(b"\n+OK\r\n");
        raw.expect(node, &String::from_utf8(psync).unwrap());
        raw
    }

    fn lost(&mut self) -> (String, bool) {
        let lost = |event: &Event| match event {
            Event::CaptureLost { reason, resumable } => Some((reason.clone(), *resumable)),
            _ => None,
        };
        run(&mut [&mut self.node], |nodes| nodes[0].seen.iter().any(|event| lost(event).is_some()));
        self.node.seen.iter().find_map(lost).unwrap()
    }
}

fn ack(offset: u64) -> String {
    String::from_utf8(command(&["REPLCONF", "ACK", &offset.to_string()])).unwrap()
}

#[test]
fn a_capture_is_resumed_at_the_exact_byte() {
    let mut server = Server::new();
    let mut raw = server.greeted(101);
    // The stream right behind the answer, in the same packet.
    raw.send(b"+CONTINUE\r\nhello ");
    raw.expect(&mut server.node, &ack(100));
    raw.send(b"world");
    run(&mut [&mut server.node], |nodes| nodes[0].links.capture_buffer().as_slice() == b"hello world");
    let buffer = server.node.links.capture_buffer();
    assert_eq!((buffer.start_offset(), buffer.end_offset()), (101, 112));
    buffer.consume(6);
    server.node.links.capture_ack(106);
    raw.expect(&mut server.node, &ack(106));
    // Cut with bytes on their way: they are not lost.
    raw.send(b"!!");
    drop(raw);
    assert!(server.lost().1);
    let data = server.node.seen.iter().rposition(|e| matches!(e, Event::CaptureData)).unwrap();
    let lost = server.node.seen.iter().position(|e| matches!(e, Event::CaptureLost { .. })).unwrap();
    assert!(data < lost && matches!(server.node.seen[0], Event::CaptureUp));
    assert_eq!(server.node.links.capture_buffer().as_slice(), b"world!!");

    server.node.seen.clear();
    let next = server.node.links.capture_buffer().end_offset();
    assert_eq!(next, 114);
    let mut raw = server.greeted(next);
    raw.send(b"+CONTINUE 0123456789\r\nmore");
    raw.expect(&mut server.node, &ack(113));
    run(&mut [&mut server.node], |nodes| nodes[0].links.capture_buffer().as_slice() == b"world!!more");
    server.node.links.capture_stop();
    assert!(server.node.links.capture_buffer().as_slice().is_empty());
    raw.last_words(&mut server.node);
    assert!(!server.node.saw(|e| matches!(e, Event::CaptureLost { .. })), "the caller stopped it");
}

#[test]
fn a_refused_capture_says_why() {
    for (answer, resumable) in [
        ("+FULLRESYNC x 1\r\n", false),
        ("+CONTINUED\r\n", false),
        ("-ERR Can't SYNC\r\n", false),
        ("-NOMASTERLINK x\r\n", false),
        ("-LOADING x\r\n", true),
        ("-BUSY x\r\n", true),
        ("?\r\n", false),
        ("", true),
    ] {
        let mut server = Server::new();
        let mut raw = server.greeted(1);
        raw.send(answer.as_bytes());
        if answer.is_empty() {
            drop(raw);
        }
        assert_eq!(server.lost().1, resumable, "{answer}");
        assert!(!server.node.saw(|e| matches!(e, Event::CaptureUp | Event::CaptureData)));
    }
}

#[test]
fn a_capture_without_a_server_or_an_answer_ends() {
    let mut server = Server::new();
    let request = server.request(1);
    // Nobody accepts: the handshake times out.
    server.node.links.capture_start(request.clone());
    let (reason, resumable) = server.lost();
    assert!(reason.contains("did not answer") && resumable, "{reason}");
    server.node.seen.clear();
    server.listener = TcpListener::bind("127.0.0.1:0").unwrap();
    server.node.links.capture_start(request);
    let (reason, resumable) = server.lost();
    assert!(reason.contains("refused") && resumable, "{reason}");
}

#[test]
fn a_large_stream_arrives_whole_in_bounded_turns() {
    let mut server = Server::new();
    let mut raw = server.greeted(1);
    raw.send(b"+CONTINUE\r\n");
    raw.expect(&mut server.node, &ack(0));
    let stream: Vec<u8> = (0..20_000_000u32).map(|byte| (byte % 251) as u8).collect();
    let expected = stream.clone();
    let sender = std::thread::spawn(move || {
        raw.send(&stream);
        raw
    });
    let mut got = Vec::new();
    let node = &mut server.node;
    run(&mut [node], |nodes| {
        let buffer = nodes[0].links.capture_buffer();
        assert!(buffer.as_slice().len() <= redisraft::limits::READ_BUDGET_BYTES, "one turn's budget");
        assert_eq!(buffer.start_offset() as usize, got.len() + 1);
        let length = buffer.as_slice().len();
        got.extend_from_slice(&buffer.take(length));
        got.len() == expected.len()
    });
    assert!(got == expected);
    drop(sender.join().unwrap());
}
