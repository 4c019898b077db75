//! Servers whose time of day jumps: neither a change of roles nor anybody's patience goes by it. The clock is set by the shim of `tests/chaos`.
#![cfg(feature = "redis")]

mod cluster;

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use cluster::{holds_within, millis, seconds, serial, Cluster, Connection, Options};

const LIMIT: Duration = seconds(180);
const PATIENCE: Duration = seconds(60);
/// Bytes of the shim's control file, and where the offset of the clock in microseconds is in it (`struct control`).
const CONTROL_BYTES: u64 = 88;
const CLOCK_OFFSET_AT: u64 = 24;
const HOUR_US: i64 = 3_600_000_000;
/// Ten years: further back is of no use.
const MOST_HOURS: i64 = 87_600;

/// The shim, and the file that steers it.
struct Clock {
    library: PathBuf,
    control: PathBuf,
}

impl Clock {
    fn build(directory: &Path) -> Clock {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/chaos/shim/faults.c");
        let (library, control) = (directory.join("faults.so"), directory.join("control"));
        let mut compiler = Command::new("cc");
        compiler.args(["-O2", "-shared", "-fPIC", "-o"]).arg(&library).arg(source).arg("-ldl");
        let output = compiler.output().expect("cc can be started");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        std::fs::write(&control, vec![0; CONTROL_BYTES as usize]).expect("a control file");
        Clock { library, control }
    }

    /// Every millisecond or so it is an hour earlier, until the result is dropped.
    fn run_backwards(&self) -> Meanwhile {
        let file = std::fs::OpenOptions::new().write(true).open(&self.control).expect("the control file");
        let mut hours = 0;
        Meanwhile::start(move || {
            hours = MOST_HOURS.min(hours + 1);
            let offset_us = -HOUR_US * hours;
            file.write_all_at(&offset_us.to_ne_bytes(), CLOCK_OFFSET_AT).expect("a few bytes");
            std::thread::sleep(millis(1));
        })
    }

    fn environment(&self, log: &Path) -> Vec<(String, String)> {
        [("LD_PRELOAD", &*self.library), ("CHAOS_CONTROL", &*self.control), ("CHAOS_LOG", log)]
            .map(|(name, path)| (name.to_string(), path.display().to_string()))
            .to_vec()
    }
}

/// What a thread does again and again until this is dropped.
struct Meanwhile {
    stopped: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Meanwhile {
    fn start(mut work: impl FnMut() + Send + 'static) -> Meanwhile {
        let stopped = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&stopped);
        let thread = std::thread::spawn(move || {
            while !seen.load(Ordering::Relaxed) {
                work();
            }
        });
        Meanwhile { stopped, thread: Some(thread) }
    }

    /// Asks a server for what it refuses, again and again: some request is always under way to its raft thread.
    fn ask(port: u16) -> Meanwhile {
        let mut open = None;
        Meanwhile::start(move || {
            open = open.take().or_else(|| Connection::open(port).ok());
            // The server closes it now and then; whatever it says is not what this is about.
            if open
                .as_mut()
                .is_some_and(|it: &mut Connection| it.call(&["RAFT.NODE", "REMOVE", "1"]).is_err())
            {
                open = None;
            }
        })
    }
}

impl Drop for Meanwhile {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Relaxed);
        // Its panic is in the output of the test.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

#[test]
fn leaders_step_down_and_follow_while_the_time_of_day_runs_backwards() {
    let _serial = serial(LIMIT);
    let home = tempfile::tempdir().expect("a directory");
    let clock = Clock::build(home.path());
    let options = Options { environment: clock.environment(home.path()), ..Options::default() };
    let mut cluster = Cluster::start_with(&options);
    let clock = clock.run_backwards();
    let ports = cluster.ports();
    let asking: Vec<Meanwhile> =
        (0..4).flat_map(|_| ports.iter().map(|port| Meanwhile::ask(*port))).collect();
    for round in 0..4 {
        let leader = cluster.leader();
        let followers: Vec<usize> = (0..3).filter(|node| *node != leader).collect();
        followers.iter().for_each(|node| cluster.server(*node).pause());
        let info = |name: &str| cluster.try_info(leader).ok()?.remove(name);
        let stepped_down = holds_within(PATIENCE, || info("raft_role").is_some_and(|role| role != "leader"));
        followers.iter().for_each(|node| cluster.server(*node).resume());
        assert!(stepped_down, "node {leader} does not say that it leads no more");
        let mut client = cluster.client();
        client.patience = PATIENCE;
        let reply = client.repeat(&["SET", "round", &round.to_string()]);
        assert!(reply.is_ok(), "{reply}");
    }
    drop(asking);
    cluster.wait_converged();
    drop(clock);
    for node in 0..3 {
        assert_eq!(cluster.local(node, "GET round").text(), "3");
    }
}

#[test]
fn snapshots_and_clients_that_wait_go_on_while_the_time_of_day_runs_backwards() {
    let _serial = serial(LIMIT);
    let home = tempfile::tempdir().expect("a directory");
    let clock = Clock::build(home.path());
    let options = Options { environment: clock.environment(home.path()), ..Options::default() };
    let mut cluster = Cluster::start_with(&options);
    let _clock = clock.run_backwards();
    let leader = cluster.leader();
    let mut client = Connection::open(cluster.port(leader)).expect("a connection");
    client.set_timeout(PATIENCE).expect("a timeout");
    let compacted = client.call(&["RAFT.DEBUG", "COMPACT"]).expect("the end of the child is noticed");
    assert_eq!(compacted.text(), "OK");
    let followers: Vec<usize> = (0..3).filter(|node| *node != leader).collect();
    followers.iter().for_each(|node| cluster.server(*node).pause());
    let role = || cluster.try_info(leader).ok()?.remove("raft_role");
    assert!(
        holds_within(PATIENCE, || role().is_some_and(|role| role != "leader")),
        "it leads without a majority"
    );
    let mut client = Connection::open(cluster.port(leader)).expect("a connection");
    client.set_timeout(PATIENCE).expect("a timeout");
    let reply = client.call(&["SET", "key", "value"]).expect("patience ends");
    followers.iter().for_each(|node| cluster.server(*node).resume());
    assert!(reply.text().starts_with("CLUSTERDOWN"), "{reply}");
}
