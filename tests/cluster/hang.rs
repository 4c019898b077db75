//! Makes one thread of a server stand still, as a disk that hangs does to the thread that syncs it.

use std::fs;

use nix::sys::ptrace::{self, Options};
use nix::sys::wait::{waitpid, WaitPidFlag};
use nix::unistd::Pid;

/// A thread that stands still until this is dropped, by the same thread of the test that made it.
pub struct Hung(Pid);

impl Hung {
    /// Stops the thread called `name` of process `process`, in whatever it does.
    ///
    /// # Panics
    /// When there is no such thread, or this account may not stop it.
    pub fn thread(process: i32, name: &str) -> Self {
        let tasks = fs::read_dir(format!("/proc/{process}/task")).expect("a running process");
        let is_it = |path: &std::path::Path| {
            fs::read_to_string(path.join("comm"))
                .is_ok_and(|comm| comm.trim_end() == &name[..name.len().min(15)])
        };
        let task = tasks.flatten().map(|task| task.path()).find(|path| is_it(path));
        let task = task.unwrap_or_else(|| panic!("process {process} has no thread {name}"));
        let thread = task.file_name().and_then(|name| name.to_str()?.parse().ok()).expect("a thread id");
        let thread = Pid::from_raw(thread);
        ptrace::seize(thread, Options::empty()).expect("this account may trace its children");
        ptrace::interrupt(thread).expect("a traced thread can be stopped");
        waitpid(thread, Some(WaitPidFlag::__WALL)).expect("the thread stops");
        Self(thread)
    }
}

impl Drop for Hung {
    fn drop(&mut self) {
        // An error means that its process has ended.
        let _ = ptrace::detach(self.0, None);
    }
}
