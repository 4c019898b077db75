//! A peer's process is killed: how soon the others know that it cannot be reached.

mod link_support;

use link_support::*;
use redisraft::link::{Event, LinkConfig, Links};
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const CHILD: &str = "LINK_KILL_CHILD_OF";

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // It may be dead already, which is what was wanted.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Node 2, when the other test starts this one in a process of its own; otherwise nothing.
#[test]
fn child_node() {
    let Ok(parent) = std::env::var(CHILD) else { return };
    let mut node = Node::new(2);
    node.dial(1, parent.parse().unwrap());
    println!("\naddress {}", node.address());
    let started = Instant::now();
    while started.elapsed() < 3 * PATIENCE {
        node.turn();
    }
}

#[test]
fn a_killed_process_is_unreachable_within_milliseconds() {
    let mut worst = Duration::ZERO;
    for _ in 0..5 {
        // A pause before the redial would be seen.
        let config = LinkConfig { reconnect_interval: PATIENCE, ..config() };
        let mut node = Node { links: Links::new(config).unwrap(), seen: Vec::new() };
        node.links.set_identity(identity(1));
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child_node", "--nocapture"])
            .env(CHILD, node.address().to_string())
            .stdout(Stdio::piped())
            .spawn();
        let mut child = Killed(child.unwrap());
        let output = BufReader::new(child.0.stdout.take().unwrap());
        let address =
            output.lines().find_map(|line| line.unwrap().strip_prefix("address ").map(str::to_string));
        node.dial(2, address.unwrap().parse().unwrap());
        run(&mut [&mut node], |nodes| {
            nodes[0].is_up(2) && nodes[0].links.peer_stats(2).unwrap().last_heard.is_some()
        });
        child.0.kill().unwrap();
        let killed = Instant::now();
        run(&mut [&mut node], |nodes| {
            nodes[0].saw(|e| matches!(e, Event::PeerDown { id: 2, refused: true }))
        });
        worst = worst.max(killed.elapsed());
    }
    println!("worst of 5: {worst:?}");
    assert!(worst < Duration::from_secs(2), "{worst:?}");
}
