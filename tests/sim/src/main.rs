//! Runs seeds.
use redisraft_sim::{coverage, trace, Simulation};
fn main() {
    let args: Vec<String> = std::env::args().collect();
    if args[1] == "--replay" {
        trace::print(log::LevelFilter::Trace);
        Simulation::new(args[2].parse().unwrap()).run();
        return;
    }
    let (a, b): (u64, u64) = (args[1].parse().unwrap(), args[2].parse().unwrap());
    let started = std::time::Instant::now();
    for seed in a..b {
        let t = std::time::Instant::now();
        let ok = std::panic::catch_unwind(|| {
            let mut s = Simulation::new(seed);
            s.run();
            (s.history.answered, s.history.unknown, s.judge.committed(), s.queue.scheduled(), s.fingerprint)
        });
        match ok {
            Ok(x) => println!("{seed} {x:?} {:?}", t.elapsed()),
            Err(_) => println!("{seed} FAILED"),
        }
    }
    println!("{:?} {:?}", started.elapsed(), coverage::take());
}
