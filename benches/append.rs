//! Appending 128-byte entries, each batch synced, beside the floor of the disk in the same run: one 4 KiB `pwrite`
//! and one `fdatasync` into a zero-filled file. In the caller's thread, and with the log's own threads as in the server.
//! `benches/peers` has the same beside other logs.
//!
//! `cargo bench --no-default-features --bench append`; the files are made below `BENCH_DIRECTORY`, or `target/`.

mod support;

use std::time::Duration;

use criterion::{criterion_group, criterion_main, Criterion, Throughput};
use support::{Appender, Floor, BATCHES};

fn append(criterion: &mut Criterion) {
    let directory = support::directory();
    let mut floor = Floor::new();
    let mut redisraft = Appender::in_caller(&directory.path().join("log"));
    let mut threads = Appender::with_threads(&directory.path().join("threads"));
    redisraft.warm_up();
    threads.warm_up();
    for batch in BATCHES {
        let mut group = criterion.benchmark_group(format!("append_{batch}"));
        group
            .sample_size(15)
            .warm_up_time(Duration::from_millis(300))
            .measurement_time(Duration::from_secs(2));
        group.throughput(Throughput::Elements(1));
        group.bench_function("floor", |bencher| bencher.iter_custom(|count| floor.time(count)));
        group.throughput(Throughput::Elements(batch));
        group
            .bench_function("redisraft", |bencher| bencher.iter_custom(|count| redisraft.time(count, batch)));
        group.bench_function("redisraft-threads", |bencher| {
            bencher.iter_custom(|count| threads.time(count, batch))
        });
        group.finish();
    }
}

criterion_group!(benches, append);
criterion_main!(benches);
