//! Numbers for INFO.

use std::time::Duration;

use hdrhistogram::Histogram;

use super::error::LogError;

/// Longest sync the histogram tells apart, in microseconds: one minute.
const HISTOGRAM_MAX_US: u64 = 60_000_000;

/// A picture of the log at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Bytes of the segments that are in use: headers, records, marks.
    pub file_bytes: u64,
    /// Memory of the entries that are kept whole.
    pub cached_bytes: u64,
    pub cached_entries: u64,
    /// Requests that wait for the batch being written to end.
    pub queued_requests: u64,
    /// Bytes given to the disk since start: segments, their index files and zeros, META.
    pub written_bytes: u64,
    /// Segments made of purged ones since start.
    pub recycled_segments: u64,
    /// Times since start that a segment could not be made ahead of need, or a purged one not put away. Nothing is lost
    /// by that; `Log::prepare_last_error` says why.
    pub prepare_failures: u64,
    /// Entries that were acknowledged and cannot be read.
    pub holes: u64,
    /// Bytes read by the scrubber since start.
    pub scrubbed_bytes: u64,
    /// Syncs of segments and META since start. A batch is timed from its write on.
    pub fsync_count: u64,
    pub fsync_max_us: u64,
    pub fsync_avg_us: u64,
    pub fsync_p50_us: u64,
    pub fsync_p99_us: u64,
}

/// The part that the sync thread counts.
pub struct SyncStats {
    pub file_bytes: u64,
    pub written_bytes: u64,
    pub recycled_segments: u64,
    prepare_failures: u64,
    prepare_last_error: Option<String>,
    total_us: u64,
    histogram: Histogram<u64>,
}

impl SyncStats {
    pub fn new(file_bytes: u64) -> SyncStats {
        let histogram = Histogram::new_with_bounds(1, HISTOGRAM_MAX_US, 2).expect("bounds are valid");
        SyncStats {
            file_bytes,
            written_bytes: 0,
            recycled_segments: 0,
            prepare_failures: 0,
            prepare_last_error: None,
            total_us: 0,
            histogram,
        }
    }

    pub fn note_prepare_failure(&mut self, error: &LogError) {
        self.prepare_failures += 1;
        self.prepare_last_error = Some(error.to_string());
    }

    pub fn prepare_last_error(&self) -> Option<String> {
        self.prepare_last_error.clone()
    }

    pub fn record_sync(&mut self, duration: Duration) {
        let duration_us = duration.as_micros() as u64;
        self.total_us += duration_us;
        self.histogram.saturating_record(duration_us.max(1));
    }

    /// Fills in what is known here.
    pub fn describe(&self, stats: &mut Stats) {
        stats.file_bytes = self.file_bytes;
        stats.written_bytes = self.written_bytes;
        stats.recycled_segments = self.recycled_segments;
        stats.prepare_failures = self.prepare_failures;
        stats.fsync_count = self.histogram.len();
        stats.fsync_avg_us = self.total_us.checked_div(self.histogram.len()).unwrap_or(0);
        if !self.histogram.is_empty() {
            stats.fsync_max_us = self.histogram.max();
            stats.fsync_p50_us = self.histogram.value_at_quantile(0.5);
            stats.fsync_p99_us = self.histogram.value_at_quantile(0.99);
        }
    }
}
