#[path = "../../support/mod.rs"]
mod support;
use std::time::{Duration, Instant};
use support::*;
fn main() {
    let directory = support::directory();
    let mut a = Appender::in_caller(&directory.path().join("redisraft"));
    a.warm_up();
    let which: u64 = std::env::var("BATCH").map_or(4096, |b| b.parse().unwrap());
    let rounds: u64 = std::env::var("ROUNDS").map_or(1000, |b| b.parse().unwrap());
    let mut t: [Vec<f64>; 4] = Default::default();
    let us = |d: Duration| d.as_secs_f64() * 1e6;
    for _ in 0..rounds {
        let s = Instant::now();
        let request = a.request(which);
        t[0].push(us(s.elapsed()));
        let s1 = Instant::now();
        let id = request.id;
        a.log.submit(request);
        t[1].push(us(s1.elapsed()));
        let s2 = Instant::now();
        a.wait(id);
        t[2].push(us(s2.elapsed()));
        t[3].push(us(s.elapsed()));
        a.tidy();
    }
    for (w, t) in t.iter_mut().enumerate() {
        t.sort_by(f64::total_cmp);
        let n = t.len();
        println!(
            "{which:5} {:12} min {:8.1} p10 {:8.1} p50 {:8.1} p90 {:8.1} us",
            ["make", "submit", "wait", "all"][w],
            t[0],
            t[n / 10],
            t[n / 2],
            t[n * 9 / 10]
        );
    }
}
