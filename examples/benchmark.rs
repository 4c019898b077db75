//! Ours beside plain servers, in one run on one machine: `redis-benchmark`, 16-byte values, medians of three.
//!
//! Run by `scripts/benchmark.sh`. Prints a table in Markdown. Beside the throughput of each row stand the CPU time of
//! all server processes per operation and the memory per node. `QUICK=1` runs a tenth of the operations, once.

#[path = "../tests/cluster/mod.rs"]
mod cluster;

use std::process::Command;

use cluster::{wait_for, Cluster, Server, Setup};

/// One column of the benchmark: how clients ask.
#[derive(Clone, Copy)]
struct Shape {
    clients: u32,
    pipeline: u32,
    operations: u64,
}

const SHAPES: [Shape; 4] = [
    Shape { clients: 1, pipeline: 1, operations: 20_000 },
    Shape { clients: 50, pipeline: 1, operations: 200_000 },
    Shape { clients: 200, pipeline: 1, operations: 200_000 },
    Shape { clients: 50, pipeline: 16, operations: 1_000_000 },
];
const COMMANDS: [&str; 2] = ["set", "get"];
const KEYS: &str = "100000";
const VALUE_BYTES: &str = "16";

/// What is measured.
enum System {
    Plain(Vec<Server>),
    Ours(Box<Cluster>),
}

impl System {
    /// The port that clients ask.
    fn port(&mut self) -> u16 {
        match self {
            Self::Plain(servers) => servers[0].port(),
            Self::Ours(cluster) => {
                let leader = cluster.leader();
                cluster.port(leader)
            }
        }
    }

    fn over_servers(&mut self, mut of: impl FnMut(&Server) -> u64) -> Vec<u64> {
        match self {
            Self::Plain(servers) => servers.iter().map(of).collect(),
            Self::Ours(cluster) => (0..cluster.size()).map(|node| of(cluster.server(node))).collect(),
        }
    }
}

/// One run of `redis-benchmark`.
#[derive(Clone, Copy, Default)]
struct Sample {
    per_second: f64,
    p50_ms: f64,
    p99_ms: f64,
    cpu_us: f64,
    resident_mb: f64,
}

fn plain(arguments: &str) -> Server {
    let mut setup = Setup::plain();
    setup.arguments.extend(["--save".to_owned(), String::new()]);
    Server::start(if arguments.is_empty() { setup } else { setup.server_arguments(arguments) })
}

/// A master with two asynchronous replicas, in sync.
fn with_replicas() -> Vec<Server> {
    let master = plain("--repl-diskless-sync-delay 0");
    let replicaof = format!("--replicaof 127.0.0.1 {}", master.port());
    let servers = vec![plain(&replicaof), plain(&replicaof)];
    for replica in &servers {
        wait_for("the replica to be in sync", cluster::seconds(30), || {
            replica.connect().run("INFO replication").text().contains("master_link_status:up")
        });
    }
    std::iter::once(master).chain(servers).collect()
}

fn systems() -> Vec<(&'static str, System)> {
    vec![
        ("plain server, no persistence", System::Plain(vec![plain("")])),
        (
            "plain server, `appendfsync always`",
            System::Plain(vec![plain("--appendonly yes --appendfsync always")]),
        ),
        ("plain master, two async replicas", System::Plain(with_replicas())),
        ("ours, three nodes, fsync", System::Ours(Box::new(Cluster::start(3)))),
    ]
}

fn measure(system: &mut System, command: &str, shape: Shape, operations: u64) -> Sample {
    let port = system.port();
    let cpu_before: u64 = system.over_servers(Server::cpu_us).iter().sum();
    let output = Command::new("redis-benchmark")
        .args([
            "-h",
            "127.0.0.1",
            "-p",
            &port.to_string(),
            "-t",
            command,
            "-d",
            VALUE_BYTES,
            "-r",
            KEYS,
            "--csv",
        ])
        .args(["-c", &shape.clients.to_string(), "-P", &shape.pipeline.to_string()])
        .args(["-n", &operations.to_string()])
        .output()
        .expect("redis-benchmark can be started");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    let wanted = format!("\"{}\"", command.to_uppercase());
    let line = text.lines().find(|line| line.starts_with(&wanted));
    let line =
        line.unwrap_or_else(|| panic!("redis-benchmark has no result for {command}:\n{text}\n{errors}"));
    // "test","rps","avg_latency_ms","min_latency_ms","p50_latency_ms","p95_latency_ms","p99_latency_ms","max.."
    let fields: Vec<f64> =
        line.split(',').map(|field| field.trim_matches('"').parse().unwrap_or(0.0)).collect();
    let cpu_after: u64 = system.over_servers(Server::cpu_us).iter().sum();
    let resident = system.over_servers(Server::resident_bytes).into_iter().max().unwrap_or(0);
    Sample {
        per_second: fields[1],
        p50_ms: fields[4],
        p99_ms: fields[6],
        cpu_us: cpu_after.saturating_sub(cpu_before) as f64 / operations as f64,
        resident_mb: resident as f64 / 1e6,
    }
}

/// The run with the median throughput.
fn median(mut samples: Vec<Sample>) -> Sample {
    samples.sort_by(|first, second| first.per_second.total_cmp(&second.per_second));
    samples[samples.len() / 2]
}

fn main() {
    let quick = std::env::var("QUICK").is_ok_and(|value| value == "1");
    let (rounds, divisor) = if quick { (1, 10) } else { (3, 1) };
    let mut systems = systems();
    println!(
        "| | clients | k/s | p50 ms | p99 ms | CPU us/op, all servers | MB per node | ratio to the reference |\n\
         |---|---|---|---|---|---|---|---|"
    );
    for command in COMMANDS {
        for shape in SHAPES {
            let mut samples = vec![Vec::new(); systems.len()];
            for _ in 0..rounds {
                for (system, samples) in systems.iter_mut().zip(&mut samples) {
                    samples.push(measure(&mut system.1, command, shape, shape.operations / divisor));
                }
            }
            let medians: Vec<Sample> = samples.into_iter().map(median).collect();
            // Writes are compared with the master and its two replicas, reads with the plain server.
            let reference = medians[if command == "set" { 2 } else { 0 }].per_second;
            for ((name, _), sample) in systems.iter().zip(&medians) {
                print_row(command, name, shape, sample, reference);
            }
        }
    }
    println!(
        "\nReference: SET, the plain master with two replicas; GET, the plain server. Medians of {rounds}."
    );
}

fn print_row(command: &str, name: &str, shape: Shape, sample: &Sample, reference: f64) {
    let pipeline = if shape.pipeline > 1 { format!(", pipeline {}", shape.pipeline) } else { String::new() };
    println!(
        "| {}, {name} | {}{pipeline} | {:.1} | {:.2} | {:.2} | {:.1} | {:.0} | {:.2} |",
        command.to_uppercase(),
        shape.clients,
        sample.per_second / 1e3,
        sample.p50_ms,
        sample.p99_ms,
        sample.cpu_us,
        sample.resident_mb,
        sample.per_second / reference,
    );
}
