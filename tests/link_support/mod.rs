//! What the tests of the links share.
#![allow(dead_code)] // Each test file uses its part.

use redisraft::link::{Event, LinkConfig, Links, OutFrame, PeerIdentity};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

/// Upper bound for anything that should take milliseconds: the machine may be busy.
pub const PATIENCE: Duration = Duration::from_secs(10);

pub fn config() -> LinkConfig {
    LinkConfig {
        peer_listen: vec!["127.0.0.1:0".parse().unwrap()],
        resolve: redisraft::link::by_the_system,
        connect_timeout: Duration::from_millis(1500),
        reconnect_interval: Duration::from_millis(50),
    }
}

pub fn identity(node_id: u64) -> PeerIdentity {
    PeerIdentity { cluster_id: "c".repeat(32), node_id, secret: [9; 32] }
}

/// One node's links and everything that they reported.
pub struct Node {
    pub links: Links,
    pub seen: Vec<Event>,
}

impl Node {
    pub fn new(id: u64) -> Node {
        let mut node = Node::without_identity();
        node.links.set_identity(identity(id));
        node
    }

    pub fn without_identity() -> Node {
        Node { links: Links::new(config()).unwrap(), seen: Vec::new() }
    }

    pub fn address(&self) -> SocketAddr {
        self.links.peer_addresses()[0]
    }

    pub fn dial(&mut self, id: u64, address: SocketAddr) {
        self.links.set_peers(&[(id, address.to_string())]);
    }

    pub fn turn(&mut self) {
        self.links.poll(Instant::now(), Some(Duration::from_millis(2)), &mut self.seen).unwrap();
        self.links.flush();
    }

    pub fn count(&self, wanted: impl Fn(&Event) -> bool) -> usize {
        self.seen.iter().filter(|event| wanted(event)).count()
    }

    pub fn saw(&self, wanted: impl Fn(&Event) -> bool) -> bool {
        self.count(wanted) > 0
    }

    pub fn is_up(&self, peer: u64) -> bool {
        self.saw(|event| matches!(event, Event::PeerUp { id } if *id == peer))
    }

    pub fn frames(&self) -> Vec<(u64, u8, Vec<u8>, Vec<u8>)> {
        let frames = self.seen.iter().filter_map(|event| match event {
            Event::Peer { from, frame } => {
                Some((*from, frame.kind, frame.header.to_vec(), frame.payload.to_vec()))
            }
            _ => None,
        });
        frames.collect()
    }
}

/// Turns all nodes until `done`; panics when that takes too long.
pub fn run(nodes: &mut [&mut Node], mut done: impl FnMut(&mut [&mut Node]) -> bool) {
    let started = Instant::now();
    while !done(nodes) {
        assert!(
            started.elapsed() < PATIENCE,
            "nothing: {:?}",
            nodes.iter().map(|n| &n.seen).collect::<Vec<_>>()
        );
        nodes.iter_mut().for_each(|node| node.turn());
    }
}

/// Two nodes, 1 and 2, each up at the other.
pub fn pair() -> (Node, Node) {
    let (mut one, mut two) = (Node::new(1), Node::new(2));
    one.dial(2, two.address());
    two.dial(1, one.address());
    run(&mut [&mut one, &mut two], |nodes| nodes[0].is_up(2) && nodes[1].is_up(1));
    (one, two)
}

pub fn frame(kind: u8, header: &[u8], payloads: &[&[u8]]) -> OutFrame {
    let payloads = payloads.iter().map(|payload| payload.to_vec().into()).collect();
    OutFrame { kind, header: header.to_vec(), payloads }
}

pub fn command(args: &[&str]) -> Vec<u8> {
    let mut out = Vec::new();
    redisraft::resp::encode_command(&mut out, &args.iter().map(|arg| arg.as_bytes()).collect::<Vec<_>>());
    out
}

/// A plain connection, driven together with the node it talks to.
pub struct Raw {
    pub stream: TcpStream,
    pub input: Vec<u8>,
    pub closed: bool,
}

impl Raw {
    pub fn connect(address: SocketAddr) -> Raw {
        Raw::from(TcpStream::connect(address).unwrap())
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.set_nonblocking(false).unwrap();
        self.stream.write_all(bytes).unwrap();
    }

    /// Takes what has arrived.
    pub fn receive(&mut self) {
        self.stream.set_nonblocking(true).unwrap();
        let mut piece = [0; 65536];
        loop {
            match self.stream.read(&mut piece) {
                Ok(0) => {
                    self.closed = true;
                    return;
                }
                Ok(length) => self.input.extend_from_slice(&piece[..length]),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return,
                Err(_) => {
                    self.closed = true;
                    return;
                }
            }
        }
    }

    /// Turns `node` until the input satisfies `done`; returns and forgets the input.
    pub fn until(&mut self, node: &mut Node, done: impl Fn(&[u8]) -> bool) -> Vec<u8> {
        run(&mut [node], |_| {
            self.receive();
            done(&self.input) || self.closed
        });
        std::mem::take(&mut self.input)
    }

    /// Turns `node` until the line `expected` has come, and nothing else.
    pub fn expect(&mut self, node: &mut Node, expected: &str) {
        let got = self.until(node, |input| input.len() >= expected.len());
        assert_eq!(String::from_utf8_lossy(&got), expected);
    }

    /// Turns `node` until it has closed the connection; returns what it said.
    pub fn last_words(&mut self, node: &mut Node) -> String {
        run(&mut [node], |_| {
            self.receive();
            self.closed
        });
        String::from_utf8_lossy(&self.input).into_owned()
    }
}

impl From<TcpStream> for Raw {
    fn from(stream: TcpStream) -> Raw {
        stream.set_nodelay(true).unwrap();
        Raw { stream, input: Vec::new(), closed: false }
    }
}

/// A listener that does not block, and the connection that comes in while `node` turns.
pub fn accept_from(listener: &TcpListener, node: &mut Node) -> Raw {
    listener.set_nonblocking(true).unwrap();
    let mut accepted = None;
    run(&mut [node], |_| {
        accepted = accepted.take().or_else(|| listener.accept().ok());
        accepted.is_some()
    });
    Raw::from(accepted.unwrap().0)
}
