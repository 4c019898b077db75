//! `export`, into real servers.

use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::*;

/// A plain redis-server on a free port of 127.0.0.1, in its own directory; killed when dropped.
struct Server {
    child: Child,
    port: String,
    _home: tempfile::TempDir,
}

impl Server {
    fn start(append_only_file: Option<&[u8]>) -> Server {
        let home = tempfile::tempdir().expect("tempdir");
        if let Some(bytes) = append_only_file {
            std::fs::write(home.path().join("appendonly.aof"), bytes).expect("write");
        }
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        drop(listener);
        let append_only = if append_only_file.is_some() { "yes" } else { "no" };
        let child = Command::new(std::env::var("REDIS_SERVER").unwrap_or("redis-server".into()))
            .args([
                "--port",
                &port.to_string(),
                "--bind",
                "127.0.0.1",
                "--save",
                "",
                "--appendonly",
                append_only,
            ])
            .args(["--enable-debug-command", "yes"])
            .current_dir(home.path())
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server can be started");
        let server = Server { child, port: port.to_string(), _home: home };
        let deadline = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(("127.0.0.1", port)).is_err() || server.cli(&["PING"]) != "PONG" {
            assert!(Instant::now() < deadline, "the server does not answer");
            std::thread::sleep(Duration::from_millis(20));
        }
        server
    }

    fn cli(&self, arguments: &[&str]) -> String {
        let output = Command::new("redis-cli").args(["-p", &self.port]).args(arguments).output();
        text(&output.expect("redis-cli can be started").stdout).trim_end().to_string()
    }

    fn pipe(&self, file: &Path) {
        let input = std::fs::File::open(file).expect("open");
        let output = Command::new("redis-cli")
            .args(["-p", &self.port, "--pipe"])
            .stdin(input)
            .output()
            .expect("redis-cli");
        assert!(text(&output.stdout).contains("errors: 0"), "{output:?}");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs `export` and gives what it wrote.
fn export(fixture: &Fixture, arguments: &[&str]) -> (Vec<u8>, String) {
    let output = tool(&[&["export"], arguments, &[&fixture.name]].concat());
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    (output.stdout, text(&output.stderr))
}

#[test]
fn a_dataset_comes_back_as_it_was_at_any_entry() {
    let entries: [&[&str]; 6] = [
        &["SET string 1", "SET binary \u{0}\u{1}", "SELECT 3", "HSET hash f v g w", "SELECT 0"],
        &["MULTI", "RPUSH list a b c", "SELECT 5", "SADD set x y", "EXEC", "SELECT 0"],
        &["ZADD sorted 1.5 a 2 b", "XADD stream 5-1 field value", "APPEND string 2"],
        &["SELECT 3", "HDEL hash g", "SELECT 0", "SET expires v PXAT 4102444800000"],
        &["FLUSHALL"],
        &["SELECT 15", "SET last 1", "SELECT 0"],
    ];
    let payloads: Vec<Vec<u8>> = entries.iter().map(|commands| effects(commands)).collect();
    let fixture = Fixture::with_entries(&payloads);
    let (plain, rebuilt) = (Server::start(None), Server::start(None));
    for to in 1..=entries.len() {
        // The same commands one by one, by another way: each in its database.
        let mut database = "0".to_string();
        for command in entries[to - 1] {
            let words: Vec<&str> = command.split(' ').collect();
            match words[0] {
                "SELECT" => database = words[1].to_string(),
                "MULTI" | "EXEC" => {}
                // An argument of a program has no NUL: this one is the same value from a script.
                "SET" if words[1] == "binary" => {
                    plain.cli(&["EVAL", "return redis.call('SET', KEYS[1], '\\0\\1')", "1", "binary"]);
                }
                _ => drop(plain.cli(&[&["-n", database.as_str()], &words[..]].concat())),
            }
        }
        let (bytes, note) = export(&fixture, &["--to", &to.to_string()]);
        assert!(note.contains(&format!("in 1..={to}")) && !note.contains("time to live"), "{note}");
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), bytes).expect("write");
        rebuilt.cli(&["FLUSHALL"]);
        rebuilt.pipe(file.path());
        assert_eq!(rebuilt.cli(&["DEBUG", "DIGEST"]), plain.cli(&["DEBUG", "DIGEST"]), "up to entry {to}");
    }
    assert!(export(&fixture, &["--from", "1", "--to", "0"]).0.is_empty());
    let (whole, _) = export(&fixture, &["--all"]);
    assert_eq!(whole, export(&fixture, &["--to", "6"]).0);
    let (first, second) =
        (export(&fixture, &["--to", "2"]).0, export(&fixture, &["--from", "3", "--to", "6"]).0);
    assert_eq!(text(&[first, second].concat()), text(&whole), "two exports one behind the other");
    assert!(complaint(2, &["export", "--to", "7", &fixture.name]).contains("ends at entry 6"));
}

#[test]
fn keys_whose_time_is_over_need_an_append_only_file_and_are_told() {
    let fixture =
        Fixture::with_entries(&[effects(&["SET k v PXAT 1000", "SET other 1"]), effects(&["APPEND k x"])]);
    let (bytes, note) = export(&fixture, &["--all"]);
    assert!(note.contains("1 commands set a time to live that is over"), "{note}");
    let server = Server::start(Some(&bytes));
    assert_eq!(server.cli(&["GET", "k"]), "", "it expired: APPEND did not make a new one");
    assert_eq!(server.cli(&["GET", "other"]), "1");
}

#[test]
fn an_export_ends_before_a_damaged_entry() {
    let payloads: Vec<_> = (1..=4).map(|number| effects(&[&format!("SET key:{number} v")])).collect();
    let fixture = Fixture::with_entries(&payloads);
    fixture.flip_payload(b"key:3");
    for to in ["3", "4"] {
        assert!(complaint(1, &["export", "--to", to, &fixture.name]).contains("or export up to --to 2"));
    }
    assert_eq!(text(&export(&fixture, &["--to", "2"]).0), text(&payloads[..2].concat()));
    assert_eq!(text(&export(&fixture, &["--from", "4", "--to", "4"]).0), text(&payloads[3]));
}

#[test]
fn an_entry_that_is_no_whole_command_ends_the_export() {
    let fixture = Fixture::with_entries(&[effects(&["SET a 1"]), b"*1\r\n".to_vec()]);
    let output = tool(&["export", "--all", &fixture.name]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(text(&output.stderr).contains("entry 2 is not whole commands"), "{output:?}");
    assert_eq!(text(&export(&fixture, &["--to", "1"]).0), text(&effects(&["SET a 1"])));
}
