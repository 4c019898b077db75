//! Peers over real sockets: frames, breaks, replacement, bounds.

mod link_support;

use link_support::*;
use redisraft::link::Event;
use std::net::TcpListener;
use std::time::{Duration, Instant};

#[test]
fn frames_of_all_sizes_arrive_in_order_both_ways() {
    let (mut one, mut two) = pair();
    let big = vec![7u8; 3 << 20];
    for kind in 0..200 {
        assert!(one.links.send(2, frame(kind, &[kind; 3], &[b"a", &vec![kind; 5000], b""])));
    }
    assert!(one.links.send(2, frame(200, b"", &[&big, &big])));
    assert!(two.links.send(1, frame(1, b"back", &[])));
    run(&mut [&mut one, &mut two], |nodes| nodes[1].frames().len() == 201 && nodes[0].frames().len() == 1);
    assert_eq!(one.frames(), [(2, 1, b"back".to_vec(), vec![])]);
    for (kind, got) in (0..).zip(&two.frames()[..200]) {
        let payload = [b"a", &vec![kind; 5000][..]].concat();
        assert_eq!(*got, (1, kind, vec![kind; 3], payload));
    }
    assert!(two.frames()[200].3 == [&big[..], &big].concat());
    assert_eq!(one.links.peer_stats(2).unwrap().queued_bytes, 0);
    assert!(two.links.peer_stats(1).unwrap().last_heard.is_some());
}

#[test]
fn three_nodes_hear_each_other() {
    let mut nodes = [Node::new(1), Node::new(2), Node::new(3)];
    let peers: Vec<(u64, String)> = (1..).zip(nodes.iter().map(|node| node.address().to_string())).collect();
    for (id, node) in (1..).zip(&mut nodes) {
        let others: Vec<_> = peers.iter().filter(|(peer, _)| *peer != id).cloned().collect();
        node.links.set_peers(&others);
    }
    let [one, two, three] = &mut nodes;
    let mut all = [one, two, three];
    run(&mut all, |nodes| nodes.iter().all(|node| node.count(|e| matches!(e, Event::PeerUp { .. })) == 2));
    for (id, node) in (1u64..).zip(all.iter_mut()) {
        for other in (1..=3).filter(|&other| other != id) {
            assert!(node.links.send(other, frame(0, id.to_string().as_bytes(), &[])));
        }
    }
    run(&mut all, |nodes| nodes.iter().all(|node| node.frames().len() == 2));
    for (id, node) in (1u64..).zip(all.iter()) {
        let mut from: Vec<u64> = node.frames().iter().map(|frame| frame.0).collect();
        from.sort_unstable();
        assert_eq!(from, (1..=3).filter(|&other| other != id).collect::<Vec<_>>());
    }
}

#[test]
fn a_dead_peer_is_refused_at_once_and_comes_back() {
    let (mut one, two) = pair();
    let address = two.address();
    one.seen.clear();
    let killed = Instant::now();
    drop(two);
    run(&mut [&mut one], |nodes| nodes[0].saw(|e| matches!(e, Event::PeerDown { id: 2, refused: true })));
    assert!(killed.elapsed() < Duration::from_secs(2), "{:?}", killed.elapsed());
    assert!(!one.links.send(2, frame(0, b"", &[])), "no link");
    // Further tries fail silently.
    let until = Instant::now() + Duration::from_millis(400);
    while Instant::now() < until {
        one.turn();
    }
    assert_eq!(one.count(|e| matches!(e, Event::PeerDown { .. })), 1);
    let stats = one.links.peer_stats(2).unwrap();
    assert!(stats.connect_errors > 1 && !stats.connected && stats.last_error.is_some(), "{stats:?}");

    one.seen.clear();
    let mut again = restarted(address, 2);
    run(&mut [&mut one, &mut again], |nodes| nodes[0].is_up(2));
    assert!(one.links.send(2, frame(5, b"again", &[])));
    run(&mut [&mut one, &mut again], |nodes| nodes[1].frames().len() == 1);
}

fn restarted(address: std::net::SocketAddr, id: u64) -> Node {
    let config = redisraft::link::LinkConfig { peer_listen: vec![address], ..config() };
    let mut node = Node { links: redisraft::link::Links::new(config).unwrap(), seen: Vec::new() };
    node.links.set_identity(identity(id));
    node
}

#[test]
fn a_break_with_the_peer_alive_is_mended() {
    let (mut one, two) = pair();
    let address = two.address();
    drop(two);
    // The new process listens before the break is looked at: never refused.
    let mut again = restarted(address, 2);
    one.seen.clear();
    run(&mut [&mut one, &mut again], |nodes| nodes[0].is_up(2));
    assert!(!one.saw(|e| matches!(e, Event::PeerDown { refused: true, .. })), "{:?}", one.seen);
    assert!(one.saw(|e| matches!(e, Event::PeerDown { refused: false, .. })), "{:?}", one.seen);
}

#[test]
fn host_names_are_resolved() {
    let (mut one, mut two) = (Node::new(1), Node::new(2));
    one.links.set_peers(&[(2, format!("localhost:{}", two.address().port()))]);
    run(&mut [&mut one, &mut two], |nodes| nodes[0].is_up(2));
    let mut lost = Node::new(3);
    lost.links.set_peers(&[(2, "no-such-host.invalid:1".into())]);
    run(&mut [&mut lost], |nodes| nodes[0].saw(|e| matches!(e, Event::PeerDown { refused: true, .. })));
}

/// Where the name of node 2 leads at the moment.
static TWO: std::sync::Mutex<Option<std::net::SocketAddr>> = std::sync::Mutex::new(None);

fn resolve_two(name: &str) -> std::io::Result<Vec<std::net::SocketAddr>> {
    assert_eq!(name, "two.example:15000");
    Ok(TWO.lock().unwrap().iter().copied().collect())
}

#[test]
fn a_name_that_leads_elsewhere_is_followed_at_the_next_try() {
    let config = redisraft::link::LinkConfig { resolve: resolve_two, ..config() };
    let mut one = Node { links: redisraft::link::Links::new(config).unwrap(), seen: Vec::new() };
    one.links.set_identity(identity(1));
    let mut two = Node::new(2);
    *TWO.lock().unwrap() = Some(two.address());
    one.links.set_peers(&[(2, "two.example:15000".into())]);
    run(&mut [&mut one, &mut two], |nodes| nodes[0].is_up(2));
    one.seen.clear();
    // It comes up on another machine: nothing is left where it was.
    let mut elsewhere = Node::new(2);
    *TWO.lock().unwrap() = Some(elsewhere.address());
    drop(two);
    run(&mut [&mut one, &mut elsewhere], |nodes| nodes[0].is_up(2));
    assert!(one.links.send(2, frame(5, b"there", &[])));
    run(&mut [&mut one, &mut elsewhere], |nodes| nodes[1].frames().len() == 1);
}

#[test]
fn peers_that_vanish_from_the_list_are_dropped() {
    let (mut one, mut two) = pair();
    one.links.set_peers(&[]);
    assert!(!one.links.send(2, frame(0, b"", &[])));
    assert!(one.links.peer_stats(2).is_none());
    // A new address for the same id: the old link goes, the new one comes.
    two.seen.clear();
    let mut other = Node::new(1);
    two.dial(1, other.address());
    run(&mut [&mut two, &mut other], |nodes| nodes[0].is_up(1));
    assert!(two.saw(|e| matches!(e, Event::PeerDown { id: 1, refused: false })));
}

#[test]
fn a_newer_link_of_the_same_id_replaces_the_older() {
    let mut two = Node::new(2);
    let (mut first, mut second) = (Node::new(1), Node::new(1));
    first.dial(2, two.address());
    run(&mut [&mut first, &mut two], |nodes| nodes[0].is_up(2));
    second.dial(2, two.address());
    run(&mut [&mut second, &mut two], |nodes| nodes[0].is_up(2));
    run(&mut [&mut first, &mut two], |nodes| nodes[0].saw(|e| matches!(e, Event::PeerDown { .. })));
}

#[test]
fn two_processes_with_one_id_do_not_take_the_link_from_each_other_without_pause() {
    let mut two = Node::new(2);
    // Longer than the test: after the tries at once there are no more.
    let patient = || redisraft::link::LinkConfig { reconnect_interval: Duration::from_secs(1), ..config() };
    let twin = || {
        let mut node = Node { links: redisraft::link::Links::new(patient()).unwrap(), seen: Vec::new() };
        node.links.set_identity(identity(1));
        node
    };
    let (mut first, mut second) = (twin(), twin());
    first.dial(2, two.address());
    run(&mut [&mut first, &mut two], |nodes| nodes[0].is_up(2));
    second.dial(2, two.address());
    let until = Instant::now() + Duration::from_millis(600);
    while Instant::now() < until {
        [&mut first, &mut second, &mut two].into_iter().for_each(Node::turn);
    }
    let connects =
        first.links.peer_stats(2).unwrap().connects_ok + second.links.peer_stats(2).unwrap().connects_ok;
    assert!((2..=8).contains(&connects), "{connects} connects in 600 ms");
}

#[test]
fn a_slow_reader_bounds_the_queue() {
    let (mut one, mut two) = pair();
    let chunk = vec![0u8; 1 << 20];
    let mut sent = 0;
    for _ in 0..200 {
        sent += usize::from(one.links.send(2, frame(0, b"", &[&chunk])));
        one.turn();
    }
    let stats = one.links.peer_stats(2).unwrap();
    assert!(stats.queued_bytes <= redisraft::limits::MAX_PEER_QUEUE_BYTES, "{}", stats.queued_bytes);
    assert_eq!(stats.frames_dropped as usize, 200 - sent);
    assert!(sent < 200);
    run(&mut [&mut one, &mut two], |nodes| nodes[1].frames().len() == sent);
    assert!(one.links.send(2, frame(1, b"", &[])));
    run(&mut [&mut one, &mut two], |nodes| nodes[1].frames().len() == sent + 1);
}

#[test]
fn one_busy_socket_does_not_starve_another() {
    let mut hub = Node::new(9);
    let (mut busy, mut calm) = (Node::new(1), Node::new(2));
    busy.dial(9, hub.address());
    calm.dial(9, hub.address());
    run(&mut [&mut hub, &mut busy, &mut calm], |nodes| nodes[1].is_up(9) && nodes[2].is_up(9));
    let chunk = vec![0u8; 1 << 20];
    for _ in 0..40 {
        assert!(busy.links.send(9, frame(1, b"", &[&chunk])));
    }
    busy.turn();
    assert!(calm.links.send(9, frame(2, b"", &[])));
    calm.turn();
    // Let both arrive, then look at the hub's first turn: the small frame is not behind the large ones.
    std::thread::sleep(Duration::from_millis(50));
    hub.turn();
    assert!(hub.frames().iter().any(|frame| frame.1 == 2));
    assert!(hub.frames().iter().filter(|frame| frame.1 == 1).count() <= 3, "the budget of one turn");
    run(&mut [&mut hub, &mut busy], |nodes| nodes[0].frames().len() == 41);
}

#[test]
fn a_peer_that_does_not_answer_is_given_up() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut one = Node::new(1);
    one.dial(2, silent.local_addr().unwrap());
    run(&mut [&mut one], |nodes| nodes[0].saw(|e| matches!(e, Event::PeerDown { id: 2, refused: true })));
    let error = one.links.peer_stats(2).unwrap().last_error.unwrap();
    assert!(error.contains("no answer within"), "{error}");
}

#[test]
fn a_wake_up_ends_the_wait() {
    let mut one = Node::new(1);
    let waker = one.links.waker();
    let thread = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(20));
        waker.wake().unwrap();
    });
    let started = Instant::now();
    one.links.poll(started, Some(PATIENCE), &mut one.seen).unwrap();
    assert!(started.elapsed() < PATIENCE);
    assert!(matches!(one.seen[..], [Event::Woken]));
    thread.join().unwrap();
}

#[test]
fn a_port_in_use_is_named() {
    let one = Node::new(1);
    let config = redisraft::link::LinkConfig { peer_listen: vec![one.address()], ..config() };
    let error = redisraft::link::Links::new(config).err().unwrap().to_string();
    assert!(error.contains(&one.address().to_string()) && error.contains("in use"), "{error}");
}
