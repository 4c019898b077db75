//! What a log does besides appending: opening, random reads, truncation; how long the caller of an append is held up;
//! and how many bytes are written for one byte of payload.
//!
//! `cargo bench --no-default-features --bench log`; the files are made below `BENCH_DIRECTORY`, or `target/`.

mod support;

use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use criterion::{criterion_group, criterion_main, Criterion};
use hdrhistogram::Histogram;
use nix::fcntl::{posix_fadvise, PosixFadviseAdvice};
use redisraft::log::{Log, Options};
use support::{tell, Appender, ENTRY_BYTES};

const ENTRIES: u64 = 1_000_000;

fn open(path: &Path) -> Log {
    let (log, recovery) = Log::open(path, Options::default(), Box::new(|| ())).expect("open");
    assert_eq!(recovery.entries, ENTRIES);
    log
}

/// Takes the files of a closed log out of the page cache.
fn make_cold(path: &Path) {
    for item in std::fs::read_dir(path).expect("list") {
        let file = std::fs::File::open(item.expect("list").path()).expect("open");
        file.sync_all().expect("fsync");
        posix_fadvise(file.as_fd(), 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED).expect("fadvise");
    }
}

fn million(criterion: &mut Criterion) {
    let directory = support::directory();
    let path = directory.path().join("log");
    let mut appender = Appender::with_threads(&path);
    for _ in 0..ENTRIES / 4000 {
        appender.append(4000);
    }
    drop(appender);
    let mut group = criterion.benchmark_group("million");
    group.sample_size(10).warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(3));
    group.bench_function("open_warm", |bencher| bencher.iter_with_large_drop(|| open(&path)));
    group.bench_function("open_cold", |bencher| {
        bencher.iter_batched(|| make_cold(&path), |()| open(&path), criterion::BatchSize::PerIteration)
    });
    let log = open(&path);
    assert_eq!(log.stats().cached_entries, 0, "reads go to the segments");
    let mut index = 1;
    group.bench_function("random_read", |bencher| {
        bencher.iter(|| {
            index = (index * 6_364_136_223_846_793_005_u64.wrapping_add(1) % ENTRIES).max(1);
            log.read(index).expect("read")
        })
    });
    group.finish();
}

fn truncate(criterion: &mut Criterion) {
    let directory = support::directory();
    let mut appender = Appender::with_threads(&directory.path().join("log"));
    appender.warm_up();
    let mut group = criterion.benchmark_group("truncate");
    group.sample_size(10).warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(2));
    group.bench_function("last_1000_of_many", |bencher| {
        bencher.iter_custom(|iterations| {
            let mut total = Duration::ZERO;
            for _ in 0..iterations {
                appender.append(1000);
                total += appender.truncate(1000);
                appender.tidy();
            }
            total
        })
    });
    group.finish();
}

/// 50,000 entries a second, handed in one by one; the sync thread is told each millisecond.
fn producer(_: &mut Criterion) {
    const PER_MS: u32 = 50;
    const MS: u32 = 4000;
    let directory = support::directory();
    let mut appender = Appender::with_threads(&directory.path().join("log"));
    appender.warm_up();
    let mut histogram = Histogram::<u64>::new(3).expect("a histogram");
    let started = Instant::now();
    for number in 0..PER_MS * MS {
        while started.elapsed() < Duration::from_millis(1) * number / PER_MS {
            std::hint::spin_loop();
        }
        let request = appender.request(1);
        let before = Instant::now();
        appender.log.enqueue(request);
        histogram.saturating_record(before.elapsed().as_nanos() as u64);
        if number % PER_MS == 0 {
            appender.log.start_writing();
            appender.log.durable().expect("no error");
            appender.tidy();
        }
    }
    assert!(started.elapsed() < Duration::from_millis(u64::from(MS)) * 2, "the rate was kept");
    for (name, quantile) in [("producer_p50", 0.5), ("producer_p99", 0.99), ("producer_p99.9", 0.999)] {
        tell(name, histogram.value_at_quantile(quantile) as f64 / 1000.0, "us");
    }
    tell("producer_max", histogram.max() as f64 / 1000.0, "us");
}

/// Bytes that this process gave to the disk, as the kernel counts them.
fn kernel_written_bytes() -> u64 {
    let io = std::fs::read_to_string("/proc/self/io").expect("io");
    let line = io.lines().find_map(|line| line.strip_prefix("write_bytes: ")).expect("a count");
    line.parse().expect("a number")
}

fn amplification(_: &mut Criterion) {
    const BATCHES: u64 = 4000;
    let directory = support::directory();
    let mut appender = Appender::with_threads(&directory.path().join("log"));
    appender.warm_up();
    let before = (appender.log.stats().written_bytes, kernel_written_bytes());
    appender.time(BATCHES, 256);
    let after = (appender.log.stats().written_bytes, kernel_written_bytes());
    let payload_bytes = (BATCHES * 256 * ENTRY_BYTES as u64) as f64;
    tell("written_per_payload_byte", (after.0 - before.0) as f64 / payload_bytes, "");
    tell("written_per_payload_byte_kernel", (after.1 - before.1) as f64 / payload_bytes, "");
}

criterion_group!(benches, million, truncate, producer, amplification);
criterion_main!(benches);
