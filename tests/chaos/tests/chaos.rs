//! A short run on real servers: one seed that is always the same, and one that was never run before.
#![cfg(feature = "redis")]

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use redisraft_chaos::plan::{Plan, Scale};
use redisraft_chaos::round;
use redisraft_chaos::summary::Summary;

/// A plan with many kinds of faults.
const FIXED_SEED: u64 = 2620;
/// On a machine that is busy with other things, servers may take long to find back to each other.
const BOUND: Duration = Duration::from_secs(120);

#[test]
#[ignore = "half a minute of faults: scripts/test.sh runs it by itself"]
fn real_servers_keep_their_word_under_faults() {
    let fresh = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970").as_millis() as u64;
    let mut summary = Summary::default();
    for (seed, nodes) in [(FIXED_SEED, 3), (fresh, 5)] {
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
