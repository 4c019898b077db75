//! A bar on stderr while a large log is read, for people only.

use std::collections::BTreeMap;
use std::io::{stderr, stdout, IsTerminal};
use std::path::Path;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use redisraft::log::segment::{parse_file_name, FileName};

/// Logs smaller than this are read before a bar could be seen.
const LARGE_BYTES: u64 = 64 << 20;
/// A bar that moves with each record would cost more than reading it.
const RECORDS_PER_STEP: u64 = 4096;

pub struct Progress {
    bar: ProgressBar,
    /// Bytes of all segments before each.
    starts: BTreeMap<u32, u64>,
    records: u64,
}

impl Progress {
    /// Of reading the log in `directory`, while nothing is printed.
    pub fn new(directory: &Path) -> Progress {
        Progress::shown_if(directory, stderr().is_terminal())
    }

    /// The same, while data is printed: on one terminal both would mix.
    pub fn beside_data(directory: &Path) -> Progress {
        Progress::shown_if(directory, stderr().is_terminal() && !stdout().is_terminal())
    }

    /// None.
    pub fn hidden(directory: &Path) -> Progress {
        Progress::shown_if(directory, false)
    }

    fn shown_if(directory: &Path, shown: bool) -> Progress {
        let mut lengths = BTreeMap::new();
        // What cannot be listed here is reported by whoever reads it.
        for item in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            if let FileName::Segment(sequence) = parse_file_name(&item.file_name().to_string_lossy()) {
                lengths.insert(sequence, item.metadata().map_or(0, |metadata| metadata.len()));
            }
        }
        let total: u64 = lengths.values().sum();
        let mut before = 0;
        let starts = lengths.into_iter().map(|(sequence, length)| {
            before += length;
            (sequence, before - length)
        });
        let starts = starts.collect();
        let shown = shown && total >= LARGE_BYTES;
        let target = if shown { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(Some(total), target);
        let style = ProgressStyle::with_template("{msg} {wide_bar} {bytes} of {total_bytes}, {eta} left");
        bar.set_style(style.expect("a valid template"));
        Progress { bar, starts, records: 0 }
    }

    /// Begins another pass.
    pub fn pass(&mut self, what: &'static str) {
        self.bar.reset();
        self.bar.set_message(what);
    }

    /// Ends a pass: the line is free for what is printed now.
    pub fn end(&self) {
        self.bar.finish_and_clear();
    }

    /// A record was read.
    pub fn record(&mut self, segment: u32, offset: u64) {
        self.records += 1;
        if self.records.is_multiple_of(RECORDS_PER_STEP) && !self.bar.is_hidden() {
            self.bar.set_position(self.starts.get(&segment).unwrap_or(&0) + offset);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.end();
    }
}
