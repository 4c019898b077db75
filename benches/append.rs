//! Appending 128-byte entries, each batch synced, beside the floor of the disk in the same run: one 4 KiB `pwrite`
//! and one `fdatasync` into a zero-filled file. And opening a log of a million entries, every CRC checked.
//!
//! `cargo bench --no-default-features --bench append`; the files are made below `BENCH_DIRECTORY`, or `target/`.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::mpsc::{channel, Receiver};
use std::time::Duration;

use bytes::Bytes;
use criterion::{criterion_group, criterion_main, Criterion, Throughput};
use redisraft::log::{Entry, Identity, Kind, Log, Options, WriteRequest};

const ENTRY_BYTES: usize = 128;
const PROBE_FILE_BYTES: u64 = 16 << 20;

fn directory() -> tempfile::TempDir {
    let parent = std::env::var_os("BENCH_DIRECTORY").map_or_else(|| PathBuf::from("target"), PathBuf::from);
    tempfile::tempdir_in(parent).expect("a directory on the disk to be measured")
}

struct Appender {
    log: Log,
    news: Receiver<()>,
    id: u64,
    payload: Bytes,
}

impl Appender {
    fn new(directory: &std::path::Path) -> Appender {
        let (tell, news) = channel();
        let identity = Identity { cluster_id: "b".repeat(32), node_id: 1, secret: [0; 32] };
        let notify = Box::new(move || {
            let _ = tell.send(());
        });
        let log = Log::create(directory, identity, Options::default(), notify).expect("create");
        Appender { log, news, id: 0, payload: Bytes::from(vec![0x5a; ENTRY_BYTES]) }
    }

    /// Appends `count` entries as one request and waits until they are durable.
    fn append(&mut self, count: u64) {
        let first = self.log.last_index() + 1;
        let entry = |index| Entry::new(index, 1, Kind::Normal, self.payload.clone());
        let entries = (first..first + count).map(entry).collect();
        self.id += 1;
        self.log.submit(WriteRequest { id: self.id, entries, ..Default::default() });
        while self.log.durable().expect("durable") < self.id {
            self.news.recv().expect("news");
        }
    }
}

fn append(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("append_128_bytes");
    group.sample_size(15).warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(2));

    let probe_directory = directory();
    let path = probe_directory.path().join("probe");
    let file = OpenOptions::new().create_new(true).write(true).open(path).expect("probe file");
    file.write_all_at(&vec![0; PROBE_FILE_BYTES as usize], 0).expect("zeros");
    file.sync_all().expect("fsync");
    let block = [0x5a; 4096];
    let mut offset = 0;
    group.throughput(Throughput::Elements(1));
    group.bench_function("floor_4_kib_pwrite_fdatasync", |bencher| {
        bencher.iter(|| {
            file.write_all_at(&block, offset).expect("pwrite");
            file.sync_data().expect("fdatasync");
            offset = (offset + 4096) % PROBE_FILE_BYTES;
        })
    });
    for batch in [1, 16, 256, 4096] {
        let log_directory = directory();
        let mut appender = Appender::new(&log_directory.path().join("log"));
        group.throughput(Throughput::Elements(batch));
        group.bench_function(format!("batch_{batch}"), |bencher| bencher.iter(|| appender.append(batch)));
    }
    group.finish();
}

fn open(criterion: &mut Criterion) {
    const ENTRIES: u64 = 1_000_000;
    let log_directory = directory();
    let path = log_directory.path().join("log");
    let mut appender = Appender::new(&path);
    for _ in 0..ENTRIES / 4000 {
        appender.append(4000);
    }
    drop(appender);
    let mut group = criterion.benchmark_group("open");
    group.sample_size(10).warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(2));
    group.bench_function("a_million_entries", |bencher| {
        bencher.iter(|| {
            let (log, recovery) = Log::open(&path, Options::default(), Box::new(|| ())).expect("open");
            assert_eq!(recovery.entries, ENTRIES);
            log.last_index()
        })
    });
    group.finish();
}

criterion_group!(benches, append, open);
criterion_main!(benches);
