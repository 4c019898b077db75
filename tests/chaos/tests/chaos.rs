//! A short run on real servers, with the same plans each time; `scripts/chaos.sh` draws new ones.
#![cfg(feature = "redis")]

use std::path::Path;
use std::time::Duration;

use redisraft_chaos::plan::{Plan, Scale};
use redisraft_chaos::round;
use redisraft_chaos::summary::Summary;

/// Plans with many kinds of faults, and their number of nodes.
const SEEDS: [(u64, usize); 2] = [(2620, 3), (105, 5)];
/// On a machine that is busy with other things, servers may take long to find back to each other.
const BOUND: Duration = Duration::from_secs(120);

#[test]
#[ignore = "half a minute of faults: scripts/test.sh runs it by itself"]
fn real_servers_keep_their_word_under_faults() {
    let mut summary = Summary::default();
    for (seed, nodes) in SEEDS {
        let plan = Plan::draw(seed, &Scale { nodes: Some(nodes), rounds: 1, round_ms: 12_000, clients: 6 });
        println!("{plan}");
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR"));
        if let Err(failure) = round::run(&plan, directory, BOUND, &mut summary) {
            panic!("{summary}\n{failure}");
        }
    }
    println!("{summary}");
    summary.prove(false).expect("the run proves something");
}
