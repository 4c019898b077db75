//! One server test at a time, and none for ever.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::signal::{kill, Signal};
use nix::unistd::Pid;

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
/// The running children and their log files.
static CHILDREN: Mutex<BTreeMap<i32, PathBuf>> = Mutex::new(BTreeMap::new());

/// Holds the place of the one running test; see [`serial`].
pub struct Serial {
    finished: Arc<AtomicBool>,
    _place: MutexGuard<'static, ()>,
}

impl Drop for Serial {
    fn drop(&mut self) {
        self.finished.store(true, Ordering::Relaxed);
    }
}

/// Waits for the other server tests of this process to end, then allows this one `limit`. The test keeps the
/// result until its end; when it takes longer, its servers are killed and the whole process fails.
pub fn serial(limit: Duration) -> Serial {
    let place = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let finished = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&finished);
    let name = std::thread::current().name().unwrap_or("test").to_owned();
    let deadline = Instant::now() + limit;
    std::thread::spawn(move || {
        while !seen.load(Ordering::Relaxed) {
            if Instant::now() > deadline {
                give_up(&name, limit);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    });
    Serial { finished, _place: place }
}

/// Notes a child, so that a test that hangs can be ended without leaving it behind.
pub fn note_child(pid: i32, log: PathBuf) {
    CHILDREN.lock().unwrap_or_else(PoisonError::into_inner).insert(pid, log);
}

/// Forgets a child that has been waited for: its pid may belong to somebody else from now on.
pub fn forget_child(pid: i32) {
    CHILDREN.lock().unwrap_or_else(PoisonError::into_inner).remove(&pid);
}

fn give_up(name: &str, limit: Duration) -> ! {
    // Written past the capture of the test runner, which a process that exits does not print.
    let mut stderr = std::io::stderr();
    let _ = writeln!(stderr, "\n{name}: not finished after {limit:?}; its servers are killed");
    for (pid, log) in CHILDREN.lock().unwrap_or_else(PoisonError::into_inner).iter() {
        let _ = writeln!(stderr, "--- log of pid {pid}\n{}", super::server::tail(log, 40));
        let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
    }
    std::process::exit(101);
}
