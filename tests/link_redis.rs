//! Both local links against a real `redis-server`, through one change of roles and back.
//!
//! The feed takes connections of its own process only, and the stock server knows no `RAFT.PSYNC`: a relay in this
//! process stands between them, which is what the module is in production.

mod link_support;

use link_support::*;
use redisraft::link::{CaptureRequest, Event};
use redisraft::resp::{parse_command, parse_reply, Limits, Reply};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

struct Server {
    child: Child,
    address: SocketAddr,
    _directory: tempfile::TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Server {
    fn start() -> Server {
        let directory = tempfile::tempdir().unwrap();
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let child = Command::new("redis-server")
            .args(["--port", &address.port().to_string(), "--bind", "127.0.0.1", "--save", ""])
            .arg("--dir")
            .arg(directory.path())
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is installed");
        let server = Server { child, address, _directory: directory };
        let started = Instant::now();
        while TcpStream::connect(address).is_err() {
            assert!(started.elapsed() < PATIENCE);
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        server
    }

    fn call(&self, args: &[&str]) -> Reply {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(&command(args)).unwrap();
        let mut input = Vec::new();
        loop {
            let mut piece = [0; 4096];
            let length = stream.read(&mut piece).unwrap();
            input.extend_from_slice(&piece[..length]);
            if let Some((reply, _)) = parse_reply(&input).unwrap() {
                return reply;
            }
        }
    }

    fn info(&self, field: &str) -> String {
        let Reply::Bulk(text) = self.call(&["INFO", "replication"]) else { panic!("INFO") };
        let text = String::from_utf8(text).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("{field}:")));
        line.unwrap_or_else(|| panic!("{field} in {text}")).to_string()
    }

    fn text(&self, args: &[&str]) -> String {
        match self.call(args) {
            Reply::Bulk(bytes) => String::from_utf8(bytes).unwrap(),
            Reply::Status(text) => text,
            other => format!("{other:?}"),
        }
    }
}

/// Passes bytes on in both directions, one connection after the other, for as long as the test runs.
fn relay(to: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for from in listener.incoming() {
            let (from, to) = (from.unwrap(), TcpStream::connect(to).unwrap());
            let (from_2, to_2) = (from.try_clone().unwrap(), to.try_clone().unwrap());
            std::thread::spawn(move || copy(from_2, to_2));
            std::thread::spawn(move || copy(to, from));
        }
    });
    address
}

fn copy(mut from: TcpStream, mut to: TcpStream) {
    // An error is the end of the connection, as is the end of the stream.
    let _ = std::io::copy(&mut from, &mut to);
    let _ = to.shutdown(std::net::Shutdown::Both);
}

/// As `relay`, for the capture link: answers `RAFT.CAPTURE` and turns `RAFT.PSYNC` into `PSYNC`.
fn capture_relay(to: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for from in listener.incoming() {
            let (mut from, mut to) = (from.unwrap(), TcpStream::connect(to).unwrap());
            let (from_2, to_2) = (from.try_clone().unwrap(), to.try_clone().unwrap());
            std::thread::spawn(move || copy(to_2, from_2));
            std::thread::spawn(move || {
                let (mut input, mut piece, mut args) = (Vec::new(), [0; 4096], Vec::new());
                while let Ok(length @ 1..) = from.read(&mut piece) {
                    input.extend_from_slice(&piece[..length]);
                    while let Some(length) = parse_command(&input, &Limits::STREAM, &mut args).unwrap() {
                        let words: Vec<&str> =
                            args.iter().map(|r| std::str::from_utf8(&input[r.clone()]).unwrap()).collect();
                        match words[..] {
                            ["RAFT.CAPTURE", "s3cret"] => from.write_all(b"+OK\r\n").unwrap(),
                            ["RAFT.PSYNC", "s3cret", replid, offset] => {
                                to.write_all(&command(&["PSYNC", replid, offset])).unwrap();
                            }
                            _ => to.write_all(&input[..length]).unwrap(),
                        }
                        input.drain(..length);
                    }
                }
            });
        }
    });
    address
}

const EMPTY_RDB: &[u8] = b"REDIS0009\xFF\0\0\0\0\0\0\0\0";

#[test]
fn a_real_server_follows_leads_and_follows_again() {
    let server = Server::start();
    server.call(&["SET", "old", "x"]);
    let mut node = Node::without_identity();
    let feed = relay(SocketAddr::from(([127, 0, 0, 1], node.links.feed_port())));
    let replid = "a".repeat(40);

    // Follow: an empty dataset, then a stream.
    assert_eq!(server.text(&["REPLICAOF", "127.0.0.1", &feed.port().to_string()]), "OK");
    run(&mut [&mut node], |nodes| nodes[0].saw(|e| matches!(e, Event::FeedPsync { .. })));
    assert!(node.links.feed_full_resync(&replid, 1000, EMPTY_RDB.len() as u64));
    assert!(node.links.feed_write(EMPTY_RDB.into()));
    let stream = [command(&["SELECT", "0"]), command(&["SET", "k", "fed"])].concat();
    let fed = 1000 + stream.len() as u64;
    assert!(node.links.feed_write(stream.into()));
    run(&mut [&mut node], |nodes| nodes[0].saw(|e| matches!(e, Event::FeedAck { offset } if *offset == fed)));
    assert_eq!(server.text(&["GET", "k"]), "fed");
    assert_eq!(server.text(&["DBSIZE"]), "Integer(1)");

    // Lead: capture goes on at the next byte.
    assert_eq!(server.text(&["REPLICAOF", "NO", "ONE"]), "OK");
    run(&mut [&mut node], |nodes| nodes[0].saw(|e| matches!(e, Event::FeedLost)));
    node.links.capture_start(CaptureRequest {
        address: capture_relay(server.address),
        secret: "s3cret".into(),
        replid: server.info("master_replid"),
        next_offset: fed as i64 + 1,
    });
    run(&mut [&mut node], |nodes| nodes[0].saw(|e| matches!(e, Event::CaptureUp)));
    assert_eq!(server.text(&["SET", "k", "led"]), "OK");
    let effect = command(&["SET", "k", "led"]);
    run(&mut [&mut node], |nodes| nodes[0].links.capture_buffer().as_slice().ends_with(&effect));
    let end = node.links.capture_buffer().end_offset() - 1;
    assert_eq!(server.info("master_repl_offset"), end.to_string());

    // Follow again, without a resync.
    node.seen.clear();
    assert_eq!(server.text(&["REPLICAOF", "127.0.0.1", &feed.port().to_string()]), "OK");
    let asked = |event: &Event| matches!(event, Event::FeedPsync { offset, .. } if *offset == end + 1);
    run(&mut [&mut node], |nodes| nodes[0].saw(asked));
    assert!(node.links.feed_continue(&replid));
    assert!(node.links.feed_write(command(&["SELECT", "0"]).into()));
    assert!(node.links.feed_write(command(&["APPEND", "k", "+fed"]).into()));
    run(&mut [&mut node], |nodes| {
        nodes[0].saw(|e| matches!(e, Event::FeedAck { offset } if *offset > end as u64))
    });
    assert_eq!(server.text(&["GET", "k"]), "led+fed");
}
