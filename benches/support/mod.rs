//! What the benches of the log share: the floor of the disk, and a log that is appended to in batches.
#![allow(dead_code)] // Each bench uses its own part.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{channel, Receiver};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use redisraft::log::disk::SystemDisk;
use redisraft::log::{Entry, Identity, InlineWriter, Kind, Log, Options, WriteRequest};

pub const ENTRY_BYTES: usize = 128;
/// Entries per sync.
pub const BATCHES: [u64; 4] = [1, 16, 256, 4096];
const PROBE_FILE_BYTES: u64 = 16 << 20;
/// Entries that a log keeps while it is measured: so it is written on purged segments, as one that lives long.
const KEPT_ENTRIES: u64 = 100_000;

/// A directory on the disk to be measured: below `BENCH_DIRECTORY`, or `target/`.
pub fn directory() -> tempfile::TempDir {
    let parent = std::env::var_os("BENCH_DIRECTORY").map_or_else(|| PathBuf::from("target"), PathBuf::from);
    std::fs::create_dir_all(&parent).expect("a directory to measure in");
    tempfile::tempdir_in(parent).expect("a directory on the disk to be measured")
}

/// A payload that does not compress: xorshift64.
pub fn payload() -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let step = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..ENTRY_BYTES).map(step).collect()
}

/// What no log can be faster than: one 4 KiB `pwrite` and one `fdatasync` into a zero-filled file.
pub struct Floor {
    file: File,
    offset: u64,
    _directory: tempfile::TempDir,
}

impl Floor {
    pub fn new() -> Floor {
        let directory = directory();
        let path = directory.path().join("probe");
        let file = OpenOptions::new().create_new(true).write(true).open(path).expect("probe file");
        file.write_all_at(&vec![0; PROBE_FILE_BYTES as usize], 0).expect("zeros");
        file.sync_all().expect("fsync");
        Floor { file, offset: 0, _directory: directory }
    }

    pub fn write(&mut self) {
        self.file.write_all_at(&[0x5a; 4096], self.offset).expect("pwrite");
        self.file.sync_data().expect("fdatasync");
        self.offset = (self.offset + 4096) % PROBE_FILE_BYTES;
    }

    pub fn time(&mut self, iterations: u64) -> Duration {
        let started = Instant::now();
        (0..iterations).for_each(|_| self.write());
        started.elapsed()
    }
}

/// A log, and how to wait for it.
pub struct Appender {
    pub log: Log,
    news: News,
    id: u64,
    payload: Bytes,
}

/// Who writes.
enum News {
    /// The log's threads, as in the server: two wake-ups for each batch that is waited for.
    Threads(Receiver<()>),
    /// The caller, as with the other logs.
    Caller(Box<InlineWriter>),
}

fn identity() -> Identity {
    Identity { cluster_id: "b".repeat(32), node_id: 1, secret: [0; 32] }
}

impl Appender {
    /// With the log's own threads.
    pub fn with_threads(directory: &Path) -> Appender {
        let (tell, news) = channel();
        let notify = Box::new(move || {
            let _ = tell.send(());
        });
        let log = Log::create(directory, identity(), Options::default(), notify).expect("create");
        Appender { log, news: News::Threads(news), id: 0, payload: payload().into() }
    }

    /// Everything in the caller's thread.
    pub fn in_caller(directory: &Path) -> Appender {
        let disk = Arc::new(SystemDisk);
        let (log, writer) =
            Log::create_inline(disk, directory, identity(), Options::default()).expect("create");
        Appender { log, news: News::Caller(Box::new(writer)), id: 0, payload: payload().into() }
    }

    /// Appends until segments that were purged are written again.
    pub fn warm_up(&mut self) {
        while self.log.stats().recycled_segments < 3 {
            self.append(4096);
            self.tidy();
        }
    }

    pub fn request(&mut self, count: u64) -> WriteRequest {
        let first = self.log.last_index() + 1;
        let entry = |index| Entry::new(index, 1, Kind::Normal, self.payload.clone());
        let entries = (first..first + count).map(entry).collect();
        self.id += 1;
        WriteRequest { id: self.id, entries, ..Default::default() }
    }

    /// Appends `count` entries as one request and waits until they are durable; returns how long that took.
    pub fn append(&mut self, count: u64) -> Duration {
        let request = self.request(count);
        self.write(request)
    }

    pub fn write(&mut self, request: WriteRequest) -> Duration {
        let started = Instant::now();
        let id = request.id;
        self.log.submit(request);
        self.wait(id);
        started.elapsed()
    }

    pub fn wait(&mut self, id: u64) {
        while self.log.durable().expect("durable") < id {
            match &mut self.news {
                News::Threads(news) => news.recv().expect("news"),
                News::Caller(writer) => assert!(writer.run_once(), "there is something to do"),
            }
        }
    }

    /// Drops the last `count` entries, durably.
    pub fn truncate(&mut self, count: u64) -> Duration {
        self.id += 1;
        let truncate_from = Some(self.log.last_index() + 1 - count);
        self.write(WriteRequest { id: self.id, truncate_from, ..Default::default() })
    }

    /// Purges, and does what a thread of the log would do meanwhile.
    pub fn tidy(&mut self) {
        self.log.purge(self.log.last_index().saturating_sub(KEPT_ENTRIES).max(self.log.first_index() - 1));
        if let News::Caller(writer) = &mut self.news {
            while writer.run_once() {}
        }
    }

    /// The time of `iterations` batches, from handing in to durable.
    pub fn time(&mut self, iterations: u64, batch: u64) -> Duration {
        let once = |_| {
            let took = self.append(batch);
            self.tidy();
            took
        };
        (0..iterations).map(once).sum()
    }
}

/// A number that criterion does not measure: printed, and kept for the report in `target/log-speed.tsv`.
pub fn tell(name: &str, value: f64, unit: &str) {
    println!("{name}: {value:.2} {unit}");
    let path = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| PathBuf::from("target"), PathBuf::from);
    let file = OpenOptions::new().create(true).append(true).open(path.join("log-speed.tsv"));
    writeln!(file.expect("a file for the report"), "{name}\t{value}\t{unit}").expect("write");
}
