//! How long after `kill -9` of the leader the next write is accepted: the median of ten.
//!
//! Three nodes with default settings, two clients writing all the time, and one that measures: from the moment of the
//! kill to the answer of its first write that was sent after it. `ROUNDS` sets another number of rounds.

#[path = "../tests/cluster/mod.rs"]
mod cluster;

use std::time::Instant;

use cluster::load::Load;
use cluster::Cluster;

fn main() {
    let rounds = std::env::var("ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(10).max(1);
    let mut cluster = Cluster::start(3);
    let load = Load::start(&cluster.ports(), 2);
    let mut client = cluster.client();
    let mut took_ms = Vec::new();
    for round in 1..=rounds {
        load.wait_for_more(500);
        client.run("INCR failover:probe");
        let leader = cluster.leader();
        let killed = Instant::now();
        cluster.kill(leader);
        while client.call(&["INCR", "failover:probe"]).is_err() {}
        let milliseconds = killed.elapsed().as_secs_f64() * 1e3;
        println!("failover {round}: {milliseconds:.0} ms");
        took_ms.push(milliseconds);
        cluster.restart(leader);
        cluster.wait_voting(3);
    }
    let report = load.stop();
    cluster.wait_converged();
    report.verify(&mut |command| client.repeat(command));
    took_ms.sort_by(f64::total_cmp);
    println!(
        "kill -9 of the leader to the next accepted write: median of {rounds} {:.0} ms, best {:.0}, worst {:.0}; \
         {} answered writes, all there",
        took_ms[took_ms.len() / 2],
        took_ms[0],
        took_ms[took_ms.len() - 1],
        report.answered()
    );
}
