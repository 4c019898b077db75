//! The harness itself, on plain servers: what it reports must be true before it may judge the module.
#![cfg(feature = "redis")]

mod cluster;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Instant;

use cluster::history::{is_linearizable, Event, Operation};
use cluster::load::Load;
use cluster::{
    millis, seconds, serial, wait_for, Client, Connection, Failure, Fault, Proxy, Server, Setup, Value,
};

#[test]
fn a_server_is_killed_paused_and_started_again() {
    let _serial = serial(seconds(60));
    let mut server = Server::start(Setup::plain());
    let mut connection = server.connect();
    assert!(connection.run("SET key value").is_ok());
    connection.set_timeout(millis(200)).expect("a timeout");
    server.pause();
    assert!(connection.call(&["GET", "key"]).is_err(), "a paused server answered");
    server.resume();
    connection.set_timeout(seconds(5)).expect("a timeout");
    assert_eq!(connection.receive().expect("the reply of before"), Value::from("value"));
    let pid = server.pid();
    server.kill();
    assert!(Connection::open(server.port()).is_err(), "a killed server accepts connections");
    server.restart();
    assert_ne!(server.pid(), pid);
    assert_eq!(server.connect().run("GET key"), Value::Nil);
    assert!(server.resident_bytes() > 1 << 20, "a server has more than one megabyte");
}

#[test]
fn a_reply_of_many_parts_is_read_whole() {
    let _serial = serial(seconds(60));
    let server = Server::start(Setup::plain());
    let mut connection = server.connect();
    let value = vec![b'x'; 5_000_000];
    assert!(connection.call(&[b"SET".as_slice(), b"key", &value]).expect("a reply").is_ok());
    assert_eq!(connection.run("GET key"), Value::Bulk(value));
    assert_eq!(connection.run("EVAL return{1,{2,'x'},false} 0").text(), "1 2 x (nil)");
    assert!(connection.run("INCR key").is_error("ERR value is not an integer"));
}

#[test]
fn the_load_keeps_account_across_a_kill() {
    let _serial = serial(seconds(60));
    let mut server = Server::start(Setup::plain().server_arguments("--appendonly yes --appendfsync always"));
    let load = Load::start(&[server.port()], 3);
    load.wait_for_more(200);
    server.kill();
    server.restart();
    load.wait_for_more(200);
    let report = load.stop();
    assert!(report.answered() >= 400);
    let mut client = Client::new(vec![server.port()]);
    report.verify(&mut |command| client.repeat(command));
}

#[test]
#[should_panic(expected = "load:")]
fn the_load_notices_a_server_that_forgets() {
    let _serial = serial(seconds(60));
    let mut server = Server::start(Setup::plain());
    let load = Load::start(&[server.port()], 2);
    load.wait_for_more(50);
    server.kill();
    server.restart();
    load.wait_for_more(50);
    let report = load.stop();
    let mut client = Client::new(vec![server.port()]);
    report.verify(&mut |command| client.repeat(command));
}

#[test]
fn a_client_knows_an_unknown_outcome_from_a_refusal() {
    let _serial = serial(seconds(60));
    let mut server = Server::start(Setup::plain());
    let mut client = Client::new(vec![server.port()]);
    client.patience = millis(500);
    client.reply_timeout = millis(200);
    assert!(client.run("SET key 1").is_ok());
    server.pause();
    assert!(matches!(client.call(&["INCR", "key"]), Err(Failure::Unknown(_))));
    server.kill();
    assert!(matches!(client.call(&["INCR", "key"]), Err(Failure::Refused(_))));
}

/// A peer that answers every byte with the same byte.
fn echo_peer() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut reader = stream.try_clone().expect("a second handle");
                let mut writer = stream;
                let _ = std::io::copy(&mut reader, &mut writer);
            });
        }
    });
    port
}

fn hello(from: u64, to: u64) -> Vec<u8> {
    let words =
        ["HELLO-RAFT".to_owned(), "1".into(), "c".repeat(32), from.to_string(), to.to_string(), "n".into()];
    let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        bytes.extend_from_slice(format!("${}\r\n{word}\r\n", word.len()).as_bytes());
    }
    bytes
}

fn dial(front: u16, from: u64, to: u64) -> TcpStream {
    let mut stream = TcpStream::connect(("127.0.0.1", front)).expect("the proxy accepts");
    stream.set_read_timeout(Some(millis(300))).expect("a timeout");
    stream.write_all(&hello(from, to)).expect("the hello is sent");
    stream
}

fn receives(stream: &mut TcpStream, expected: &[u8]) -> bool {
    let mut bytes = vec![0; expected.len()];
    stream.read_exact(&mut bytes).is_ok() && bytes == expected
}

#[test]
fn the_proxy_applies_faults_to_one_direction_of_a_pair() {
    let _serial = serial(seconds(60));
    let proxy = Proxy::default();
    let front = proxy.front(echo_peer());
    proxy.set(1, 2, Fault::Stall);
    let mut stalled = dial(front, 1, 2);
    let mut other = dial(front, 3, 2);
    assert!(receives(&mut other, &hello(3, 2)), "a healthy pair is carried");
    assert!(!receives(&mut stalled, &hello(1, 2)), "a stalled pair carries nothing");
    proxy.heal(1, 2);
    assert!(receives(&mut stalled, &hello(1, 2)), "what was stalled arrives after healing");

    proxy.set(3, 2, Fault::Delay(millis(100)));
    std::thread::sleep(millis(20));
    let sent = Instant::now();
    other.write_all(b"ping").expect("sent");
    assert!(receives(&mut other, b"ping"));
    assert!(sent.elapsed() >= millis(200), "the delay applies to both directions of the connection");

    proxy.set(1, 2, Fault::Cut);
    wait_for("the cut connection to end", seconds(2), || stalled.write_all(b"x").is_err());
    assert!(!receives(&mut dial(front, 1, 2), b"*"), "a new connection of a cut pair is closed");
    assert_eq!(proxy.introduced(), 3);
}

fn event(sent_us: u64, answered_us: u64, operation: Operation) -> Event {
    Event { sent_us, answered_us: Some(answered_us), operation }
}

#[test]
fn the_judge_accepts_what_a_register_can_do() {
    let write = Operation::Write { value: 1 };
    let read = |found| Operation::Read { found };
    // A read that overlaps a write may see either value.
    for found in [0, 1] {
        assert!(is_linearizable(&[event(0, 10, write), event(5, 6, read(found))]));
    }
    // A write of unknown outcome may appear late, or never.
    let unknown = Event { answered_us: None, ..event(0, 0, write) };
    assert!(is_linearizable(&[unknown, event(5, 6, read(0)), event(7, 8, read(1))]));
    assert!(is_linearizable(&[unknown, event(5, 6, read(0))]));
    let swap = |swapped| Operation::CompareAndSet { expected: 1, value: 2, swapped };
    assert!(is_linearizable(&[event(0, 1, write), event(2, 3, swap(Some(true))), event(4, 5, read(2))]));
}

#[test]
fn the_judge_rejects_what_no_register_can_do() {
    let write = |value| Operation::Write { value };
    let read = |found| Operation::Read { found };
    let swap = |expected, value| Operation::CompareAndSet { expected, value, swapped: Some(true) };
    let stale = [event(0, 1, write(1)), event(2, 3, read(0))];
    let went_back = [event(0, 10, write(1)), event(2, 3, read(1)), event(4, 5, read(0))];
    let lost = [event(0, 1, write(1)), event(2, 3, write(2)), event(4, 5, read(1))];
    let both_won = [event(0, 1, write(1)), event(2, 9, swap(1, 2)), event(3, 8, swap(1, 3))];
    let unknown = Event { answered_us: None, ..event(0, 0, write(1)) };
    let unseen = [unknown, event(5, 6, read(1)), event(7, 8, read(0))];
    for history in [&stale[..], &went_back, &lost, &both_won, &unseen] {
        assert!(!is_linearizable(history), "accepted: {history:?}");
    }
}
