//! What snapshots cost: restarts, the writes of others while one is made, and bringing one to a new node.
//!
//! Run by `scripts/bench-snapshot.sh`; prints tables in Markdown. `SIZE_MB` is the size of the dataset (1024), `ENTRIES`
//! the length of the log that is replayed (1000000), `RATE` the paced writes a second (2000), `ROUNDS` how often each is
//! measured (3), `ONLY` one of `replay`, `restart`, `writes` and `install`. `TMPDIR` chooses the disk.

#[path = "../tests/cluster/mod.rs"]
mod cluster;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use cluster::{seconds, wait_for, Cluster, Connection, Options, Server, Setup};
use redisraft::log::{Entry, Kind, Log, Options as LogOptions, Reader, WriteRequest};
use redisraft::node::settings::Settings;

const VALUE_BYTES: usize = 1000;
/// Tell how long an entry is in the log.
const SAMPLE_ENTRIES: u64 = 10_000;
const PIPELINE: usize = 64;
const CLIENTS: u32 = 10;
const PATIENCE: Duration = seconds(600);

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default).max(1)
}

fn main() {
    let (size_mb, rounds) = (setting("SIZE_MB", 1024), setting("ROUNDS", 3));
    let only = std::env::var("ONLY").ok();
    let wanted = |part: &str| only.as_ref().is_none_or(|only| only == part);
    if wanted("replay") || wanted("restart") {
        println!("\n## Restart, and what a plain server takes for the same\n");
        println!("Process start to the first answered write (ours) or read (plain); medians of {rounds}.\n");
        println!("| | seconds | wanted |\n|---|---|---|");
    }
    if wanted("replay") {
        replay(setting("ENTRIES", 1_000_000), rounds);
        replay_by_default(rounds);
    }
    if wanted("restart") {
        restart_from_snapshot(size_mb, rounds);
    }
    if wanted("writes") {
        write_latency(size_mb, rounds);
    }
    if wanted("install") {
        println!("\n## Bringing a snapshot of {size_mb} MB to an empty node\n");
        install(size_mb);
    }
}

/// Values that no compression makes smaller.
fn value(seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        b'!' + (state % 94) as u8
    };
    (0..VALUE_BYTES).map(|_| next()).collect()
}

fn fill(port: u16, size_mb: u64) {
    let mut connection = Connection::open(port).expect("a connection");
    connection.set_timeout(PATIENCE).expect("a timeout");
    let keys = size_mb * (1 << 20) / VALUE_BYTES as u64;
    let mut key = 0;
    while key < keys {
        let count = (keys - key).min(PIPELINE as u64);
        let mut bytes = Vec::new();
        for number in key..key + count {
            bytes.extend(cluster::encode(&[b"SET".to_vec(), name(number).into_bytes(), value(number)]));
        }
        connection.send_raw(&bytes).expect("sent");
        for _ in 0..count {
            let reply = connection.receive().expect("an answer");
            assert!(reply.is_ok(), "{reply}");
        }
        key += count;
    }
}

fn name(number: u64) -> String {
    format!("key:{number:010}")
}

/// A node with default settings, but for these.
fn alone(module_arguments: Vec<String>) -> Cluster {
    Cluster::start_with(&Options { size: 1, module_arguments, ..Options::default() })
}

fn log_of(cluster: &mut Cluster, node: usize) -> PathBuf {
    cluster.server(node).directory().join("raftlog")
}

/// From the start of the process to the first write that it answers.
fn time_restart(cluster: &mut Cluster) -> f64 {
    cluster.kill(0);
    let port = cluster.port(0);
    let started = Instant::now();
    cluster.restart(0);
    until_answered(port, "SET probe 1", "OK");
    started.elapsed().as_secs_f64()
}

fn until_answered(port: u16, line: &str, answer: &str) {
    wait_for(line, PATIENCE, || {
        Connection::open(port).is_ok_and(|mut connection| {
            let words: Vec<&str> = line.split(' ').collect();
            connection.call(&words).is_ok_and(|reply| reply.text() == answer)
        })
    });
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// (a): a log of entries alone, in turn with a plain server and its append-only file of the same commands.
fn replay(entries: u64, rounds: u64) {
    let mut cluster = alone(vec!["log-max-file-size=1000gb".to_string()]);
    cluster.kill(0);
    let log = log_of(&mut cluster, 0);
    append(&log, 1, entries);
    let files = tempfile::tempdir().expect("a directory");
    let file = files.path().join("commands.aof");
    write_append_only(&file, entries);
    let (mut ours, mut plain) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        cluster.kill(0);
        plain.push(time_append_only(&file, entries));
        ours.push(time_restart(&mut cluster));
    }
    let size = cluster.connect(0).run("DBSIZE").integer();
    assert!(size as u64 >= entries, "{size} keys of {entries} entries");
    println!(
        "| plain server, its append-only file of {entries} commands, 100 B values | {:.2} | |",
        median(plain)
    );
    println!("| ours, a log of {entries} entries, the same commands | {:.2} | 2 |", median(ours));
}

/// The same with the longest log that a node keeps by default: then it makes a snapshot.
fn replay_by_default(rounds: u64) {
    let mut cluster = alone(vec!["log-max-file-size=1000gb".to_string()]);
    cluster.kill(0);
    let log = log_of(&mut cluster, 0);
    append(&log, 1, SAMPLE_ENTRIES);
    let entries = Settings::default().log_max_file_bytes * SAMPLE_ENTRIES / used_bytes(&log);
    append(&log, SAMPLE_ENTRIES + 1, entries - SAMPLE_ENTRIES);
    let times = (0..rounds).map(|_| time_restart(&mut cluster)).collect();
    println!("| ours, {entries} such entries, where by default a snapshot is due | {:.2} | |", median(times));
}

fn used_bytes(log: &Path) -> u64 {
    let end = Reader::open(log).and_then(|log| log.scan(&mut |_| ControlFlow::Continue(())));
    end.expect("the log").segments.iter().map(|segment| segment.offset).sum()
}

fn set_command(number: u64) -> Vec<u8> {
    cluster::encode(&["SET", &name(number), &"v".repeat(100)])
}

fn write_append_only(file: &Path, commands: u64) {
    let bytes: Vec<u8> = (1..=commands).flat_map(set_command).collect();
    std::fs::write(file, bytes).expect("the append-only file");
}

fn time_append_only(file: &Path, commands: u64) -> f64 {
    let home = tempfile::tempdir().expect("a directory");
    std::fs::hard_link(file, home.path().join("appendonly.aof")).expect("the append-only file");
    let setup = Setup::plain().directory(home.path()).server_arguments("--appendonly yes");
    let port = setup.port;
    let started = Instant::now();
    let _server = Server::spawn(setup);
    until_answered(port, "DBSIZE", &commands.to_string());
    started.elapsed().as_secs_f64()
}

/// Appends SETs of 100 B as a leader would, each an entry of its own.
fn append(directory: &Path, first_key: u64, entries: u64) {
    let (mut log, _) = Log::open(directory, LogOptions::default(), Box::new(|| ())).expect("the log");
    let (first, term) = (log.last_index() + 1, log.hard_state().term);
    let mut request = 0;
    for batch in (first..first + entries).collect::<Vec<_>>().chunks(4096) {
        request += 1;
        let entry = |index: &u64| {
            let payload = set_command(first_key + index - first);
            Entry::new(*index, term, Kind::Normal, Bytes::from(payload))
        };
        let entries = batch.iter().map(entry).collect();
        log.submit(WriteRequest { id: request, entries, ..WriteRequest::default() });
        while log.durable().expect("durable") + 8 < request {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    while log.durable().expect("durable") < request {
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// (b): a snapshot and no entries to speak of, against a plain server's load of the same file.
fn restart_from_snapshot(size_mb: u64, rounds: u64) {
    let mut cluster = alone(Vec::new());
    fill(cluster.port(0), size_mb);
    compact(&cluster);
    let log = log_of(&mut cluster, 0);
    let (mut ours, mut plain) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        ours.push(time_restart(&mut cluster));
        cluster.kill(0);
        plain.push(time_plain_load(&log));
    }
    let (ours, plain) = (median(ours), median(plain));
    println!("| plain server, its dump of {size_mb} MB | {plain:.2} | |");
    println!("| ours, the same dump as snapshot | {ours:.2} | {:.2} |", plain * 1.2);
}

fn compact(cluster: &Cluster) {
    let mut connection = cluster.connect(0);
    connection.set_timeout(PATIENCE).expect("a timeout");
    let reply = connection.run("RAFT.DEBUG COMPACT");
    assert!(reply.is_ok(), "{reply}");
}

fn time_plain_load(log: &Path) -> f64 {
    let names = std::fs::read_dir(log).expect("list").map(|item| item.expect("list").path());
    let dump =
        names.filter(|path| path.extension().is_some_and(|end| end == "rdb")).max().expect("a snapshot");
    let home = tempfile::tempdir().expect("a directory");
    std::fs::hard_link(&dump, home.path().join("dump.rdb")).expect("the dump");
    let setup = Setup::plain().directory(home.path());
    let port = setup.port;
    let started = Instant::now();
    let _server = Server::spawn(setup);
    until_answered(port, "GET nothing", "(nil)");
    started.elapsed().as_secs_f64()
}

/// (c): the latency of paced writes before and during a snapshot, in turn.
fn write_latency(size_mb: u64, rounds: u64) {
    println!("\n## Writes while a snapshot of {size_mb} MB is made\n");
    println!(
        "{} SETs a second of {VALUE_BYTES} B, open loop: the time counts from when a write was due. Microseconds; each \
         figure is the median of {rounds} rounds, in which the servers take turns.\n",
        setting("RATE", 2000)
    );
    println!("| | p50 before | p99 before | p50 during | p95 during | p99 during | max during | seconds |");
    println!("|---|---|---|---|---|---|---|---|");
    let plain = [
        ("plain server, BGSAVE", "--save "),
        ("plain, appendfsync always, BGSAVE", "--appendonly yes --appendfsync always"),
    ];
    let servers = plain.map(|(title, line)| {
        let server = Server::start(Setup::plain().server_arguments(line));
        fill(server.port(), size_mb);
        assert!(server.connect().run("CONFIG SET auto-aof-rewrite-percentage 0").is_ok());
        (title, server)
    });
    // So that a snapshot is made only when it is asked for.
    let cluster = alone(vec!["log-max-file-size=1000gb".to_string()]);
    fill(cluster.port(0), size_mb);
    let mut rows: Vec<(&str, Vec<Row>)> = servers.iter().map(|(title, _)| (*title, Vec::new())).collect();
    rows.push(("ours, snapshot", Vec::new()));
    for _ in 0..rounds {
        for (at, (_, server)) in servers.iter().enumerate() {
            rows[at].1.push(measure(server.port(), || save(server)));
        }
        rows[plain.len()].1.push(measure(cluster.port(0), || compact(&cluster)));
    }
    for (title, measured) in rows {
        let column = |at: usize| median(measured.iter().map(|row| row[at]).collect());
        let figures: Vec<String> = (0..6).map(|at| format!("{:.0}", column(at))).collect();
        println!("| {title} | {} | {:.1} |", figures.join(" | "), column(6));
    }
}

fn save(server: &Server) {
    let mut connection = server.connect();
    let begun = connection.run("BGSAVE");
    assert!(begun.text().starts_with("Background saving started"), "{begun}");
    wait_for("the dump", PATIENCE, || {
        connection.run("INFO persistence").text().contains("rdb_bgsave_in_progress:0")
    });
}

/// Of writes before a snapshot p50 and p99, during it p50, p95, p99 and the longest, in microseconds; and its seconds.
type Row = [f64; 7];

/// Paced writers, first for some seconds of nothing else, then while `snapshot` runs.
fn measure(port: u16, snapshot: impl FnOnce()) -> Row {
    // What the filling and the servers before have left to the disk.
    nix::unistd::sync();
    std::thread::sleep(seconds(2));
    let quiet = Writers::start(port);
    std::thread::sleep(seconds(5));
    let before = quiet.stop();
    let busy = Writers::start(port);
    let begun = Instant::now();
    snapshot();
    let took = begun.elapsed().as_secs_f64();
    let during = busy.stop();
    let at = |times: &[u64], part: f64| times[((times.len() - 1) as f64 * part) as usize] as f64;
    let [p50, p95, p99, max] = [0.5, 0.95, 0.99, 1.0].map(|part| at(&during, part));
    [at(&before, 0.5), at(&before, 0.99), p50, p95, p99, max, took]
}

struct Writers {
    stop: Arc<AtomicBool>,
    threads: Vec<std::thread::JoinHandle<Vec<u64>>>,
}

impl Writers {
    fn start(port: u16) -> Writers {
        let stop = Arc::new(AtomicBool::new(false));
        let period = Duration::from_secs_f64(f64::from(CLIENTS) / setting("RATE", 2000) as f64);
        let begin = Instant::now();
        let threads = (0..CLIENTS).map(|client| {
            let stop = stop.clone();
            let offset = period * client / CLIENTS;
            std::thread::spawn(move || write_paced(port, begin + offset, period, &stop))
        });
        Writers { threads: threads.collect(), stop }
    }

    /// All times in microseconds, sorted.
    fn stop(self) -> Vec<u64> {
        self.stop.store(true, Ordering::Relaxed);
        let mut all: Vec<u64> =
            self.threads.into_iter().flat_map(|thread| thread.join().expect("a writer")).collect();
        all.sort_unstable();
        all
    }
}

fn write_paced(port: u16, begin: Instant, period: Duration, stop: &AtomicBool) -> Vec<u64> {
    let mut connection = Connection::open(port).expect("a connection");
    connection.set_timeout(PATIENCE).expect("a timeout");
    let (mut due, mut times, mut number) = (begin, Vec::new(), 0);
    while !stop.load(Ordering::Relaxed) {
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        number += 7919;
        let command = cluster::encode(&[b"SET".to_vec(), name(number % 50_000).into_bytes(), value(number)]);
        connection.send_raw(&command).expect("sent");
        let reply = connection.receive().expect("an answer");
        assert!(reply.is_ok(), "{reply}");
        times.push(due.elapsed().as_micros() as u64);
        due += period;
    }
    times
}

/// (d): a node joins a cluster whose log was compacted.
fn install(size_mb: u64) {
    // So that the log is compacted also when the dataset is small.
    let log_mb = (size_mb / 2).clamp(4, 128);
    let module_arguments = vec!["log-segment-size=1mb".to_string(), format!("log-max-file-size={log_mb}mb")];
    let mut cluster = Cluster::start_apart(&Options { size: 2, module_arguments, ..Options::default() });
    assert!(cluster.connect(0).run("RAFT.CLUSTER INIT").text().starts_with("OK"));
    fill(cluster.port(0), size_mb);
    compact(&cluster);
    let before = [0, 1].map(|node| cluster.server(node).resident_bytes());
    let mut joining = cluster.connect(1);
    let started = Instant::now();
    let joined = joining.run(&format!("RAFT.CLUSTER JOIN 127.0.0.1:{}", cluster.port(0)));
    assert!(joined.is_ok(), "{joined}");
    let mut most = before;
    wait_for("the snapshot", PATIENCE, || {
        for node in [0, 1] {
            most[node] = most[node].max(cluster.server(node).resident_bytes());
        }
        cluster.try_info(1).is_ok_and(|info| info["raft_snapshots_received"] == "1")
    });
    let received = started.elapsed().as_secs_f64();
    wait_for("the new node to vote", PATIENCE, || {
        cluster.try_info(1).is_ok_and(|info| {
            info["raft_state"] == "up" && info.get("raft_num_voting_nodes").is_some_and(|count| count == "2")
        })
    });
    let ready = started.elapsed().as_secs_f64();
    let grown = |node: usize| (most[node] - before[node]) >> 20;
    println!("| | |\n|---|---|");
    println!("| received and durable, MB/s | {:.0} |", size_mb as f64 / received);
    println!("| loaded, and the node votes, seconds after JOIN | {ready:.1} |");
    println!("| memory while it is sent: sender, MB more | {} |", grown(0));
    println!("| memory while it is sent: receiver, MB more | {} |", grown(1));
}
