//! What the module promises, before your eyes: three servers, writing clients, a dead leader, nothing lost.
//!
//! Run by `scripts/demo.sh`. Everything happens on loopback, in temporary directories, on free ports.

#[path = "../tests/cluster/mod.rs"]
mod cluster;

use std::io::IsTerminal;
use std::process::Command;
use std::time::Instant;

use cluster::load::Load;
use cluster::{module_library, redis_server, seconds, wait_for, Cluster, Options};

fn title(text: &str) {
    if std::io::stdout().is_terminal() {
        println!("\n\x1b[1;36m== {text}\x1b[0m");
    } else {
        println!("\n== {text}");
    }
}

/// Runs `redis-cli` and shows the command and its reply.
fn redis_cli(port: u16, arguments: &str) {
    let port = port.to_string();
    let output = Command::new("redis-cli").args(["-p", &port]).args(arguments.split(' ')).output();
    let output = output.expect("redis-cli can be started");
    println!("$ redis-cli -p {port} {arguments}\n{}", String::from_utf8_lossy(&output.stdout).trim_end());
}

fn main() {
    let mut cluster = start();
    title("Four clients write without pause");
    let load = Load::start(&cluster.ports(), 4);
    let started = Instant::now();
    std::thread::sleep(seconds(2));
    let rate = load.answered() as f64 / started.elapsed().as_secs_f64();
    println!(
        "{} writes answered, {rate:.0} per second, each of them on disk on two of three nodes",
        load.answered()
    );

    title("The leader is killed with -9");
    let leader = cluster.leader();
    let mut client = cluster.client();
    client.run("SET demo before");
    let pid = cluster.server(leader).pid().expect("the leader runs");
    println!("$ kill -9 {pid}    # the server at port {}", cluster.port(leader));
    let killed = Instant::now();
    cluster.kill(leader);
    while client.call(&["SET", "demo", "after"]).is_err() {}
    println!("the next write was accepted {:.0} ms later", killed.elapsed().as_secs_f64() * 1e3);
    load.wait_for_more(500);
    let new_leader = cluster.leader();
    println!("the new leader is the server at port {}; the clients go on", cluster.port(new_leader));

    title("The killed server comes back");
    let restarted = Instant::now();
    cluster.restart(leader);
    wait_for("the node to follow", seconds(30), || {
        cluster
            .try_info(leader)
            .is_ok_and(|info| info["raft_state"] == "up" && info["raft_leader_id"] != "-1")
    });
    load.wait_for_more(500);
    println!("it follows again after {:.0} ms", restarted.elapsed().as_secs_f64() * 1e3);
    let report = load.stop();

    title("Every answered write is on all nodes");
    cluster.wait_converged();
    for node in 0..cluster.size() {
        let mut connection = cluster.connect(node);
        report.verify(&mut |command| {
            let local: Vec<&str> = ["RAFT.DEBUG", "EXEC"].iter().chain(command).copied().collect();
            connection.call(&local).expect("a read of the node's own dataset")
        });
        let (port, digest) = (cluster.port(node), cluster.digest(node));
        println!("port {port}: all {} answered writes are there, digest {digest}", report.answered());
    }
    redis_cli(cluster.port(new_leader), "GET demo");
    title("Done: the servers are stopped and their directories removed");
}

/// Starts the servers and forms the cluster, as a user would.
fn start() -> Cluster {
    title("Three stock servers with the module");
    let version =
        Command::new(redis_server()).arg("--version").output().expect("redis-server can be started");
    println!("{}", String::from_utf8_lossy(&version.stdout).trim_end());
    let mut cluster = Cluster::start_apart(&Options::default());
    let library = module_library();
    let library = library.file_name().expect("a file").to_string_lossy();
    for port in cluster.ports() {
        println!(
            "$ redis-server --port {port} --loadmodule {library} log-filename=raftlog addr=127.0.0.1:{port}"
        );
    }
    title("They become one cluster");
    let ports = cluster.ports();
    redis_cli(ports[0], "RAFT.CLUSTER INIT");
    for port in &ports[1..] {
        redis_cli(*port, &format!("RAFT.CLUSTER JOIN 127.0.0.1:{}", ports[0]));
    }
    cluster.wait_voting(3);
    cluster
}
