//! The real world: mio sockets, the log on disk, the monotonic clock.

use super::snapshots::Worker;
use super::{start, Setup};
use crate::consensus::{NodeId, Position, WriteId};
use crate::limits::ENTRY_TARGET_BYTES;
use crate::link::{CaptureRequest, Links, OutFrame};
use crate::log::{Entry, Hole, Log, LogError, WriteRequest};
use crate::node::bridge::Bridge;
use crate::node::report::{LogReport, PeerReport};
use crate::node::settings::Settings;
use crate::node::status::Latency;
use crate::node::{clock, wire, Damage, World};
use crate::snapshot::Job;
use bytes::Bytes;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

pub(super) struct RealWorld {
    pub links: Links,
    pub bridge: Arc<Bridge>,
    pub log: Option<Log>,
    pub snapshots: Option<Worker>,
    /// Opens the log anew, empty, behind an entry.
    replace: start::Replace,
    /// The last write that this log was given.
    pub submitted: WriteId,
    server: SocketAddr,
    capture_secret: String,
    scrub_failure_told: bool,
    /// As they are now, for a log that begins anew.
    settings: Arc<Settings>,
}

impl RealWorld {
    pub fn new(setup: &Setup, links: Links, bridge: Arc<Bridge>) -> RealWorld {
        let replace = start::replacer(setup, &links);
        RealWorld {
            links,
            bridge,
            log: None,
            snapshots: None,
            replace,
            submitted: 0,
            server: setup.server,
            capture_secret: setup.capture_secret.clone(),
            scrub_failure_told: false,
            settings: setup.settings.clone(),
        }
    }

    fn log(&self) -> &Log {
        self.log.as_ref().expect("a node has a log")
    }

    /// The last write that is on disk. An error is final.
    pub fn durable(&mut self) -> Result<u64, LogError> {
        self.log.as_mut().map_or(Ok(0), |log| log.durable())
    }

    /// Says once that the background reader has met what the next start will refuse.
    pub fn tell_scrub_failure(&mut self) {
        if let Some(error) =
            self.log.as_ref().filter(|_| !self.scrub_failure_told).and_then(Log::scrub_failure)
        {
            self.scrub_failure_told = true;
            log::error!("the next start will refuse this log: {error}");
        }
    }

    /// Sends what was queued, then lets the disk begin with what was queued for it.
    pub fn flush(&mut self) {
        self.links.flush();
        if let Some(log) = &mut self.log {
            log.start_writing();
        }
    }

    pub fn configure(&mut self, settings: &Arc<Settings>) {
        self.settings = settings.clone();
        self.configure_log();
    }

    fn configure_log(&mut self) {
        let settings = &self.settings;
        if let Some(log) = &mut self.log {
            log.set_fsync(settings.log_fsync);
            // Memory is not a disk that is read too seldom.
            let rate = if settings.persist { settings.log_scrub_bytes_per_s } else { 0 };
            if let Err(error) = log.set_scrub_rate(rate) {
                log::error!("the log is not checked in the background: {error}");
            }
        }
    }
}

/// Random bytes of the system, as hex.
pub(super) fn random_hex(bytes: usize) -> String {
    let mut buffer = vec![0; bytes];
    getrandom::fill(&mut buffer).expect("the system has random numbers: the links needed them at load");
    buffer.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl World for RealWorld {
    fn now_us(&self) -> u64 {
        clock::now_us()
    }

    fn fresh_replid(&mut self) -> String {
        random_hex(20)
    }

    fn bridge(&self) -> &Bridge {
        &self.bridge
    }

    fn send(&mut self, to: NodeId, frame: wire::Encoded) {
        let wire::Encoded { kind, header, payloads } = frame;
        self.links.send(to, OutFrame { kind, header, payloads });
    }

    fn set_peers(&mut self, peers: &[(NodeId, String)]) {
        self.links.set_peers(peers);
    }

    fn peer_report(&mut self, id: NodeId) -> PeerReport {
        let Some(stats) = self.links.peer_stats(id) else { return PeerReport::default() };
        PeerReport {
            connected: stats.connected,
            silent_us: stats.last_heard.map(|at| at.elapsed().as_micros() as u64),
            connects: stats.connects_ok,
            errors: stats.connect_errors,
        }
    }

    fn rejected_links(&self) -> Vec<(&'static str, u64)> {
        self.links.rejections().iter().collect()
    }

    fn submit(&mut self, request: WriteRequest) {
        self.submitted = request.id;
        self.log.as_mut().expect("a node has a log").enqueue(request);
    }

    fn read(&self, index: u64) -> Result<Entry, LogError> {
        self.log().read(index)
    }

    fn holes(&self) -> Vec<Hole> {
        self.log().holes()
    }

    fn damage(&self) -> Damage {
        Damage { found: self.log().damaged(), repaired: self.log().repaired() }
    }

    fn fill(&mut self, entry: Entry) -> Result<bool, LogError> {
        self.log.as_mut().expect("a node has a log").fill(entry)
    }

    fn purge(&mut self, through: u64) -> u64 {
        let log = self.log.as_mut().expect("a node has a log");
        log.purge(through);
        log.base().0
    }

    fn settle_log(&mut self) -> Result<WriteId, LogError> {
        let log = self.log.as_mut().expect("a node has a log");
        log.start_writing();
        loop {
            let durable = log.durable()?;
            if durable >= self.submitted {
                return Ok(self.submitted);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn replace_log(&mut self, base: Position) -> Result<(), LogError> {
        self.log = None;
        self.log = Some((self.replace)(base)?);
        self.submitted = 0;
        self.configure_log();
        Ok(())
    }

    fn snapshot(&mut self, job: Job) {
        self.snapshots.as_ref().expect("a node has a snapshot store").submit(job);
    }

    fn log_report(&self) -> LogReport {
        let stats = self.log().stats();
        LogReport {
            file_bytes: stats.file_bytes,
            cache_bytes: stats.cached_bytes,
            cache_entries: stats.cached_entries,
            sync_count: stats.fsync_count,
            sync_max_us: stats.fsync_max_us,
            sync_avg_us: stats.fsync_avg_us,
            prepare_failures: stats.prepare_failures,
            prepare_last_error: self.log().prepare_last_error(),
            sync: (stats.fsync_count > 0).then_some(Latency {
                p50_us: stats.fsync_p50_us,
                p99_us: stats.fsync_p99_us,
                max_us: stats.fsync_max_us,
            }),
        }
    }

    fn feed_port(&self) -> u16 {
        self.links.feed_port()
    }

    fn feed_continue(&mut self, replid: &str) {
        self.links.feed_continue(replid);
    }

    fn feed_full_resync(&mut self, replid: &str, offset: u64, rdb_bytes: u64) {
        self.links.feed_full_resync(replid, offset, rdb_bytes);
    }

    fn feed_write(&mut self, bytes: Bytes) {
        self.links.feed_write(bytes);
        // The turn that fills the pipe also empties it: a large catch-up does not wait for the next event.
        if self.links.feed_unsent() >= ENTRY_TARGET_BYTES {
            self.links.flush();
        }
    }

    fn feed_unsent(&self) -> usize {
        self.links.feed_unsent()
    }

    fn feed_close(&mut self) {
        self.links.feed_close();
    }

    fn capture_start(&mut self, replid: &str, next_offset: u64) {
        self.links.capture_start(CaptureRequest {
            address: self.server,
            secret: self.capture_secret.clone(),
            replid: replid.to_string(),
            next_offset: next_offset as i64,
        });
    }

    fn capture_read(&mut self, parse: &mut dyn FnMut(&[u8]) -> usize) {
        let buffer = self.links.capture_buffer();
        let used = parse(buffer.as_slice());
        buffer.consume(used);
    }

    fn capture_acknowledge(&mut self, offset: u64) {
        self.links.capture_ack(offset);
    }

    fn capture_stop(&mut self) {
        self.links.capture_stop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::{by_the_system, LinkConfig};
    use crate::log::disk::SystemDisk;
    use crate::log::{Identity, Kind, Options};
    use std::net::Ipv4Addr;
    use std::path::Path;
    use std::time::Instant;

    /// Neither syncs nor scrubs, until it is told to.
    fn careless() -> Settings {
        let (log_fsync, log_scrub_bytes_per_s, log_segment_bytes) = (false, 0, 64 << 10);
        Settings { log_fsync, log_scrub_bytes_per_s, log_segment_bytes, ..Settings::default() }
    }

    fn world(directory: &Path) -> RealWorld {
        let links = Links::new(LinkConfig {
            peer_listen: Vec::new(),
            resolve: by_the_system,
            connect_timeout: Duration::from_secs(1),
            reconnect_interval: Duration::from_secs(1),
        });
        let setup = Setup {
            settings: Arc::new(careless()),
            log_directory: directory.to_path_buf(),
            disk: Arc::new(SystemDisk),
            address: String::new(),
            peer_address: String::new(),
            server: (Ipv4Addr::LOCALHOST, 1).into(),
            capture_secret: String::new(),
            feed_token: Vec::new(),
        };
        let bridge = Bridge::new(Box::new(|| ()), Box::new(|| ()));
        RealWorld::new(&setup, links.expect("sockets of 127.0.0.1"), Arc::new(bridge))
    }

    fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
        let started = Instant::now();
        while !condition() {
            assert!(started.elapsed() < Duration::from_secs(60), "{what}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// What was set at run time is of the node, not of one log.
    #[test]
    fn a_log_that_was_replaced_is_synced_and_scrubbed_as_was_set() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("log");
        let identity =
            Identity { cluster_id: "0123456789abcdef0123456789abcdef".into(), node_id: 7, secret: [9; 32] };
        let options = Options { segment_bytes: 64 << 10, ..Options::default() };
        let log = Log::create(&path, identity, options, Box::new(|| ())).expect("a log");
        let mut world = world(&path);
        world.log = Some(log);
        world.configure(&Arc::new(Settings {
            log_fsync: true,
            log_scrub_bytes_per_s: 1 << 30,
            ..careless()
        }));
        world.replace_log(Position { index: 40, term: 2 }).expect("replaced");

        assert_eq!(world.log_report().sync_count, 0, "nothing was written yet");
        let entries = vec![Entry::new(41, 2, Kind::Normal, Bytes::from_static(b"effects"))];
        world.submit(WriteRequest { id: 1, entries, ..WriteRequest::default() });
        world.settle_log().expect("written");
        assert!(world.log_report().sync_count > 0, "what is acknowledged was synced");
        wait_for("the new log is read in the background", || world.log().stats().scrubbed_bytes > 0);
    }
}
