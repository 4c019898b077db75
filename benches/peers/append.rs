//! Appending 128-byte entries, each batch synced: this log beside raft-engine and okaywal, and the floor of the disk,
//! in one run. Each keeps the last entries only and is written on files that it had before, as in a long life.
//!
//! `cd benches/peers && cargo bench`; `scripts/bench-log.sh` does that and draws the picture.

#[path = "../support/mod.rs"]
mod support;

use std::path::Path;
use std::time::{Duration, Instant};

use criterion::{criterion_group, criterion_main, Criterion, Throughput};
use okaywal::{Configuration, LogVoid, WriteAheadLog};
use protobuf::descriptor::UninterpretedOption;
use raft_engine::{Config, Engine, LogBatch, MessageExt, ReadableSize};
use support::{Appender, Floor, BATCHES};

/// Both peers: as long as the segments of this log.
const FILE_BYTES: u64 = 64 << 20;

/// raft-engine takes protobuf messages; this one comes with the library and has a number and bytes.
struct Message;

impl MessageExt for Message {
    type Entry = UninterpretedOption;

    fn index(entry: &UninterpretedOption) -> u64 {
        entry.get_positive_int_value()
    }
}

struct RaftEngine {
    engine: Engine,
    next_index: u64,
    entries: Vec<UninterpretedOption>,
}

impl RaftEngine {
    fn create(directory: &Path) -> RaftEngine {
        let config = Config {
            dir: directory.display().to_string(),
            // The payload does not compress: trying costs only time.
            batch_compression_threshold: ReadableSize(0),
            target_file_size: ReadableSize(FILE_BYTES),
            purge_threshold: ReadableSize(4 * FILE_BYTES),
            enable_log_recycle: true,
            prefill_for_recycle: true,
            ..Config::default()
        };
        let mut entry = UninterpretedOption::new();
        entry.set_string_value(support::payload());
        let entries = vec![entry; *BATCHES.last().expect("batches") as usize];
        RaftEngine { engine: Engine::open(config).expect("open"), next_index: 1, entries }
    }

    fn append(&mut self, count: u64) -> Duration {
        let entries = &mut self.entries[..count as usize];
        for (entry, index) in entries.iter_mut().zip(self.next_index..) {
            entry.set_positive_int_value(index);
        }
        let started = Instant::now();
        let mut batch = LogBatch::with_capacity(1);
        batch.add_entries::<Message>(1, entries).expect("a batch");
        self.engine.write(&mut batch, true).expect("write");
        let took = started.elapsed();
        self.next_index += count;
        if self.next_index % 20_000 < count {
            self.engine.compact_to(1, self.next_index.saturating_sub(100_000));
            self.engine.purge_expired_files().expect("purge");
        }
        took
    }
}

struct OkayWal {
    log: WriteAheadLog,
    payload: Vec<u8>,
}

impl OkayWal {
    fn create(directory: &Path) -> OkayWal {
        let configuration = Configuration::default_for(directory)
            .preallocate_bytes(FILE_BYTES as u32)
            .checkpoint_after_bytes(FILE_BYTES / 4 * 3)
            .buffer_bytes(1 << 20);
        OkayWal { log: configuration.open(LogVoid).expect("open"), payload: support::payload() }
    }

    fn append(&mut self, count: u64) -> Duration {
        let started = Instant::now();
        let mut entry = self.log.begin_entry().expect("begin");
        for _ in 0..count {
            entry.write_chunk(&self.payload).expect("write");
        }
        entry.commit().expect("commit");
        started.elapsed()
    }
}

fn append(criterion: &mut Criterion) {
    let directory = support::directory();
    let mut floor = Floor::new();
    let mut redisraft = Appender::in_caller(&directory.path().join("redisraft"));
    let mut threads = Appender::with_threads(&directory.path().join("threads"));
    redisraft.warm_up();
    threads.warm_up();
    let mut raft_engine = RaftEngine::create(&directory.path().join("raft-engine"));
    let mut okaywal = OkayWal::create(&directory.path().join("okaywal"));
    for _ in 0..500 {
        raft_engine.append(4096);
        okaywal.append(4096);
    }
    for batch in BATCHES {
        let mut group = criterion.benchmark_group(format!("append_{batch}"));
        group
            .sample_size(15)
            .warm_up_time(Duration::from_millis(300))
            .measurement_time(Duration::from_secs(3));
        group.throughput(Throughput::Elements(1));
        group.bench_function("floor", |bencher| bencher.iter_custom(|count| floor.time(count)));
        group.throughput(Throughput::Elements(batch));
        group
            .bench_function("redisraft", |bencher| bencher.iter_custom(|count| redisraft.time(count, batch)));
        group.bench_function("redisraft-threads", |bencher| {
            bencher.iter_custom(|count| threads.time(count, batch))
        });
        group.bench_function("raft-engine", |bencher| {
            bencher.iter_custom(|count| (0..count).map(|_| raft_engine.append(batch)).sum())
        });
        group.bench_function("okaywal", |bencher| {
            bencher.iter_custom(|count| (0..count).map(|_| okaywal.append(batch)).sum())
        });
        group.finish();
    }
}

criterion_group!(benches, append);
criterion_main!(benches);
