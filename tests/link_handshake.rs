//! What strangers, damaged peers and peers of other clusters meet on the peer port.

mod link_support;

use hmac::{Hmac, Mac};
use link_support::*;
use redisraft::limits;
use redisraft::link::{Event, PeerIdentity, Rejection};
use redisraft::resp::{parse_reply, Reply};
use sha2::Sha256;
use std::net::TcpListener;
use std::time::Instant;

const NONCE: [u8; 16] = [0xAB; 16];

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &[u8]) -> Vec<u8> {
    text.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

/// The proof as the protocol's description says, written down a second time.
fn proof(label: &str, dialler: u64, acceptor: u64, acceptor_nonce: &[u8]) -> String {
    let identity = identity(acceptor);
    let mut mac = Hmac::<Sha256>::new_from_slice(&identity.secret).unwrap();
    mac.update(label.as_bytes());
    mac.update(&1u32.to_le_bytes());
    mac.update(&NONCE);
    mac.update(acceptor_nonce);
    mac.update(&dialler.to_le_bytes());
    mac.update(&acceptor.to_le_bytes());
    mac.update(identity.cluster_id.as_bytes());
    hex(&mac.finalize().into_bytes())
}

fn hello(version: &str, cluster: &str, own: &str, target: &str) -> Vec<u8> {
    command(&["HELLO-RAFT", version, cluster, own, target, &hex(&NONCE)])
}

fn good_hello() -> Vec<u8> {
    hello("1", &"c".repeat(32), "1", "2")
}

/// Sends the hello to `node` (id 2) and returns the acceptor's nonce after checking its proof.
fn greeted(raw: &mut Raw, node: &mut Node) -> Vec<u8> {
    raw.send(&good_hello());
    let answer = raw.until(node, |input| matches!(parse_reply(input), Ok(Some(_))));
    let Some((Reply::Array(parts), _)) = parse_reply(&answer).unwrap() else { panic!("{answer:?}") };
    let [Reply::Bulk(nonce), Reply::Bulk(given)] = &parts[..] else { panic!("{parts:?}") };
    let nonce = unhex(nonce);
    assert_eq!(String::from_utf8_lossy(given), proof("accept", 1, 2, &nonce));
    nonce
}

/// A raw connection that has become the link from node 1.
fn authenticated(node: &mut Node) -> Raw {
    let mut raw = Raw::connect(node.address());
    let nonce = greeted(&mut raw, node);
    raw.send(&command(&["AUTH-RAFT", &proof("dial", 1, 2, &nonce)]));
    raw.expect(node, "+OK\r\n");
    raw
}

#[test]
fn ping_is_answered_to_anyone_even_without_a_cluster() {
    let mut node = Node::without_identity();
    let mut raw = Raw::connect(node.address());
    raw.send(b"PING\r\n\r\nping\n*1\r\n$4\r\nPING\r\n");
    raw.expect(&mut node, "+PONG\r\n+PONG\r\n+PONG\r\n");
    raw.send(&good_hello());
    assert!(raw.last_words(&mut node).starts_with("-ERR no cluster"));
    assert_eq!(node.links.rejections().get(Rejection::NoCluster), 1);

    node.links.set_identity(identity(2));
    let mut raw = Raw::connect(node.address());
    greeted(&mut raw, &mut node);
    raw.send(b"PING\r\n");
    raw.expect(&mut node, "+PONG\r\n");
}

#[test]
fn wrong_hellos_get_one_line_and_are_counted() {
    let cluster = "c".repeat(32);
    for (message, words, reason) in [
        (hello("2", &cluster, "1", "2"), "-ERR wrong protocol version", Rejection::WrongVersion),
        (command(&["HELLO-RAFT", "7", "other", "shape"]), "-ERR wrong protocol", Rejection::WrongVersion),
        (hello("1", &"d".repeat(32), "1", "2"), "-ERR wrong cluster", Rejection::WrongCluster),
        (hello("1", &cluster, "1", "3"), "-ERR wrong target", Rejection::WrongTarget),
        (hello("1", &cluster, "2", "2"), "-ERR wrong node id", Rejection::WrongId),
        (hello("1", &cluster, "0", "2"), "-ERR wrong node id", Rejection::WrongId),
        (hello("1", &cluster, "x", "2"), "-ERR invalid id", Rejection::Protocol),
        (command(&["HELLO-RAFT", "1", &cluster, "1", "2", "zz"]), "-ERR invalid id", Rejection::Protocol),
        (command(&["HELLO-RAFT", "1"]), "-ERR wrong number", Rejection::Protocol),
        (command(&["AUTH-RAFT", &"0".repeat(64)]), "-ERR unknown command", Rejection::Protocol),
        (command(&["RAFT", "1", "h", "p"]), "-ERR unknown command", Rejection::Protocol),
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(), "-ERR unknown command", Rejection::Protocol),
        (b"*9999999999\r\n".to_vec(), "-ERR protocol error", Rejection::Protocol),
        (b"*1\r\n$1000000000\r\n".to_vec(), "-ERR protocol error", Rejection::Protocol),
        (b"*1\r\n*1\r\n*1\r\n".to_vec(), "-ERR protocol error", Rejection::Protocol),
        (vec![0xFF; 100_000], "-ERR protocol error", Rejection::Protocol),
    ] {
        let mut node = Node::new(2);
        let mut raw = Raw::connect(node.address());
        raw.send(&message);
        let got = raw.last_words(&mut node);
        assert!(got.starts_with(words) && got.ends_with("\r\n") && got.lines().count() == 1, "{got:?}");
        assert_eq!(node.links.rejections().get(reason), 1, "{words}");
        assert_eq!(node.links.rejections().total(), 1);
        assert!(!node.saw(|_| true), "nothing of it is an event: {:?}", node.seen);
    }
}

#[test]
fn a_wrong_proof_is_refused() {
    let mut node = Node::new(2);
    for wrong in ["", "00", &"0".repeat(64), "accept"] {
        let mut raw = Raw::connect(node.address());
        let nonce = greeted(&mut raw, &mut node);
        // The acceptor's own proof, sent back, is none.
        let wrong = if wrong == "accept" { proof("accept", 1, 2, &nonce) } else { wrong.to_string() };
        raw.send(&command(&["AUTH-RAFT", &wrong]));
        raw.send(&command(&["RAFT", "1", "h", "p"]));
        assert!(raw.last_words(&mut node).starts_with("-ERR authentication failed"));
    }
    assert_eq!(node.links.rejections().get(Rejection::Authentication), 4);
    assert!(node.frames().is_empty());
}

#[test]
fn a_proof_serves_once() {
    let mut node = Node::new(2);
    let mut first = Raw::connect(node.address());
    let old = greeted(&mut first, &mut node);
    let mut second = Raw::connect(node.address());
    let fresh = greeted(&mut second, &mut node);
    assert_ne!(old, fresh, "each connection has its own nonce");
    second.send(&command(&["AUTH-RAFT", &proof("dial", 1, 2, &old)]));
    assert!(second.last_words(&mut node).starts_with("-ERR authentication failed"));
}

#[test]
fn a_proven_peer_sends_frames_byte_by_byte() {
    let mut node = Node::new(2);
    let mut raw = Raw::connect(node.address());
    for byte in good_hello() {
        raw.send(&[byte]);
        node.turn();
    }
    let answer = raw.until(&mut node, |input| matches!(parse_reply(input), Ok(Some(_))));
    let Some((Reply::Array(parts), _)) = parse_reply(&answer).unwrap() else { panic!("{answer:?}") };
    let Reply::Bulk(nonce) = &parts[0] else { panic!("{parts:?}") };
    // The frame right behind the proof, without waiting for the welcome.
    let mut rest = command(&["AUTH-RAFT", &proof("dial", 1, 2, &unhex(nonce))]);
    rest.extend(command(&["RAFT", "17", "header", "pay\r\nload"]));
    for byte in rest {
        raw.send(&[byte]);
        node.turn();
    }
    raw.expect(&mut node, "+OK\r\n");
    run(&mut [&mut node], |nodes| nodes[0].frames().len() == 1);
    assert_eq!(node.frames(), [(1, 17, b"header".to_vec(), b"pay\r\nload".to_vec())]);
}

#[test]
fn a_proven_peer_that_sends_garbage_is_dropped_alone() {
    for garbage in [
        &b"PING\r\n"[..],
        b"*4\r\n$4\r\nRAFT\r\n$1\r\nx\r\n$0\r\n\r\n$0\r\n\r\n",
        b"*4\r\n$4\r\nRAFT\r\n$10\r\n",
        b"*65\r\n",
        b"*1\r\n$4\r\nPING\r\n",
    ] {
        let mut node = Node::new(2);
        let mut raw = authenticated(&mut node);
        raw.send(&command(&["RAFT", "1", "good", ""]));
        raw.send(garbage);
        if garbage.ends_with(b"$10\r\n") {
            raw.send(&[b'x'; 30]);
        }
        assert!(raw.last_words(&mut node).starts_with("-ERR protocol error"));
        assert_eq!(node.frames().len(), 1, "what came before is valid");
        assert_eq!(node.links.rejections().get(Rejection::Protocol), 1);
        authenticated(&mut node);
    }
}

#[test]
fn a_frame_announced_beyond_the_limit_costs_no_memory() {
    let mut node = Node::new(2);
    let mut raw = authenticated(&mut node);
    raw.send(format!("*4\r\n$4\r\nRAFT\r\n$1\r\n1\r\n$0\r\n\r\n${}\r\n", limits::MAX_FRAME_BYTES).as_bytes());
    assert!(raw.last_words(&mut node).starts_with("-ERR protocol error"));
    // Within the limit, but it never comes: only what has arrived is kept.
    let mut raw = authenticated(&mut node);
    raw.send(format!("*4\r\n$4\r\nRAFT\r\n$1\r\n1\r\n$0\r\n\r\n${}\r\n", 1 << 29).as_bytes());
    let before = resident_bytes();
    for _ in 0..20 {
        node.turn();
    }
    assert!(resident_bytes() < before + (64 << 20));
}

fn resident_bytes() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    text.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

#[test]
fn silence_and_crowds_are_bounded() {
    let mut node = Node::new(2);
    let mut crowd: Vec<Raw> = Vec::new();
    for _ in 0..limits::MAX_UNAUTHENTICATED_LINKS + 10 {
        crowd.push(Raw::connect(node.address()));
        node.turn();
    }
    run(&mut [&mut node], |nodes| nodes[0].links.rejections().get(Rejection::TooMany) == 10);
    // The rest is thrown out when its time is over, and there is room again.
    run(&mut [&mut node], |nodes| {
        nodes[0].links.rejections().get(Rejection::Timeout) == limits::MAX_UNAUTHENTICATED_LINKS as u64
    });
    for raw in &mut crowd {
        raw.last_words(&mut node);
    }
    authenticated(&mut node);
}

#[test]
fn a_flood_of_pings_without_reading_ends() {
    let mut node = Node::new(2);
    let mut raw = Raw::connect(node.address());
    let flood = b"PING\r\n".repeat(10_000);
    raw.stream.set_nonblocking(true).unwrap();
    let until = Instant::now() + PATIENCE;
    loop {
        match std::io::Write::write(&mut raw.stream, &flood) {
            Err(error) if error.kind() != std::io::ErrorKind::WouldBlock => break,
            _ => node.turn(),
        }
        assert!(Instant::now() < until, "never closed");
    }
}

#[test]
fn the_dialler_checks_the_acceptor() {
    for (answer, words) in [
        (&b"-ERR wrong cluster\r\n"[..], "wrong cluster"),
        (b"*2\r\n$32\r\n00000000000000000000000000000000\r\n$1\r\n0\r\n", "secret"),
        (b"*2\r\n$1\r\n0\r\n$1\r\n0\r\n", "nonce"),
        (b"+OK\r\n", "unexpected"),
        (b"*1\r\n:1\r\n", "unexpected"),
        (b"SSH-2.0-x\r\n", "expected one of"),
        (&[b'+'; 10_000], "too long"),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut node = Node::new(1);
        node.dial(2, listener.local_addr().unwrap());
        let mut raw = accept_from(&listener, &mut node);
        raw.until(&mut node, |input| input.ends_with(b"\r\n") && input.len() > 100);
        raw.send(answer);
        run(&mut [&mut node], |nodes| nodes[0].saw(|e| matches!(e, Event::PeerDown { refused: true, .. })));
        let stats = node.links.peer_stats(2).unwrap();
        assert!(stats.last_error.as_ref().unwrap().contains(words), "{stats:?}");
        assert_eq!((stats.rejected, stats.connects_ok), (1, 0));
        assert!(!node.is_up(2));
    }
}

#[test]
fn nodes_of_other_clusters_or_secrets_never_link() {
    let strangers = [
        PeerIdentity { cluster_id: "d".repeat(32), ..identity(1) },
        PeerIdentity { secret: [1; 32], ..identity(1) },
        identity(2),
    ];
    for stranger in strangers {
        let mut node = Node::new(2);
        let mut other = Node::without_identity();
        other.links.set_identity(stranger);
        other.dial(2, node.address());
        node.dial(1, other.address());
        let down = |node: &Node| node.saw(|e| matches!(e, Event::PeerDown { refused: true, .. }));
        run(&mut [&mut node, &mut other], |nodes| nodes.iter().all(|node| down(node)));
        for each in [&node, &other] {
            assert!(!each.saw(|e| matches!(e, Event::PeerUp { .. } | Event::Peer { .. })), "{:?}", each.seen);
        }
        // Each dialler was refused, or refused the acceptor, which cannot prove itself either.
        assert!(
            node.links.peer_stats(1).unwrap().rejected > 0 && other.links.peer_stats(2).unwrap().rejected > 0
        );
    }
}
