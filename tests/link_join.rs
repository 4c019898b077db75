//! The blocking request client, against servers that are played by threads.

mod link_support;

use link_support::command;
use redisraft::link::join::{request, JoinError};
use redisraft::resp::Reply;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::time::Duration;

const TIMEOUT: Duration = Duration::from_secs(10);

/// Serves connections one after the other: each is a list of (expected bytes, answer). Returns its address.
fn server(connections: Vec<Vec<(Vec<u8>, String)>>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    serve(listener, connections)
}

fn serve(listener: TcpListener, connections: Vec<Vec<(Vec<u8>, String)>>) -> String {
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for exchanges in connections {
            let (mut stream, _) = listener.accept().unwrap();
            for (expected, answer) in exchanges {
                let mut got = vec![0; expected.len()];
                stream.read_exact(&mut got).unwrap();
                assert_eq!(String::from_utf8_lossy(&got), String::from_utf8_lossy(&expected));
                for byte in answer.as_bytes() {
                    stream.write_all(&[*byte]).unwrap();
                }
            }
        }
    });
    address
}

fn asked() -> Vec<u8> {
    command(&["RAFT.NODE", "ADD"])
}

fn ask(address: &str, credentials: Option<(&str, &str)>) -> Result<Reply, JoinError> {
    request(address, credentials, &[b"RAFT.NODE", b"ADD"], TIMEOUT)
}

#[test]
fn a_request_gets_its_reply() {
    let address = server(vec![vec![(asked(), "*2\r\n:3\r\n$2\r\nid\r\n".into())]]);
    let port = address.rsplit_once(':').unwrap().1;
    let reply = ask(&format!("localhost:{port}"), None).unwrap();
    assert_eq!(reply, Reply::Array(vec![Reply::Integer(3), Reply::Bulk(b"id".to_vec())]));
}

#[test]
fn credentials_come_first_on_every_server_and_redirects_are_followed() {
    let auth = || (command(&["AUTH", "default", "pw"]), "+OK\r\n".to_string());
    let target = server(vec![vec![auth(), (asked(), "+done\r\n".into())]]);
    let first = server(vec![vec![auth(), (asked(), format!("-MOVED 0 {target}\r\n"))]]);
    assert_eq!(ask(&first, Some(("default", "pw"))).unwrap(), Reply::Status("done".into()));
}

#[test]
fn error_replies_are_replies() {
    let address = server(vec![vec![(asked(), "-ERR no\r\n".into())]]);
    assert_eq!(ask(&address, None).unwrap(), Reply::Error("ERR no".into()));
}

#[test]
fn wrong_credentials_endless_redirects_garbage_and_ends_are_named() {
    let auth = (command(&["AUTH", "u", "pw"]), "-WRONGPASS no\r\n".to_string());
    let address = server(vec![vec![auth]]);
    let error = ask(&address, Some(("u", "pw"))).unwrap_err();
    assert!(matches!(error, JoinError::Credentials { .. }) && !error.to_string().contains("pw"));
    assert!(error.to_string().contains(&address));

    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let moved = format!("-MOVED 0 {}\r\n", listener.local_addr().unwrap());
    let address = serve(listener, vec![vec![(asked(), moved)]; 6]);
    assert!(matches!(ask(&address, None), Err(JoinError::Redirect { .. })));
    let address = server(vec![vec![(asked(), "-MOVED nowhere\r\n".into())]]);
    assert!(matches!(ask(&address, None), Err(JoinError::Redirect { .. })));

    let address = server(vec![vec![(asked(), "HTTP/1.1 400\r\n".into())]]);
    assert!(matches!(ask(&address, None), Err(JoinError::Protocol { .. })));
    let address = server(vec![vec![(asked(), "+hal".into())]]);
    assert!(matches!(ask(&address, None), Err(JoinError::Connection { .. })));
}

#[test]
fn nobody_there_and_nobody_answering() {
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let error = ask(&address, None).unwrap_err();
    assert!(matches!(error, JoinError::Connect { .. }) && error.to_string().contains(&address), "{error}");
    assert!(matches!(ask("no-such-host.invalid:1", None), Err(JoinError::Resolve { .. })));
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap().to_string();
    let error = request(&address, None, &[b"PING"], Duration::from_millis(50)).unwrap_err();
    assert!(matches!(error, JoinError::Timeout { .. }), "{error}");
}
