//! One `redis-server` process.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use nix::sys::signal::{kill, Signal};
use nix::unistd::Pid;
use tempfile::TempDir;

use super::wire::Connection;
use super::{free_port, holds_within, wait_for, watchdog};

/// The server binary: `REDIS_SERVER`, or `redis-server` of the path.
pub fn redis_server() -> String {
    std::env::var("REDIS_SERVER").unwrap_or_else(|_| "redis-server".to_owned())
}

/// The module: `REDISRAFT_SO`, or what cargo built for this test run.
///
/// Cargo builds the library of the package in all its crate types before an integration test, and puts the
/// shared object into `target/<profile>/deps/`, beside the test executable; the copy one level up is made by
/// `cargo build` only and may be older. The newer of the two is taken. Examples live in a third directory, binaries
/// beside the copy.
///
/// # Panics
/// When there is no module.
pub fn module_library() -> PathBuf {
    static FOUND: OnceLock<PathBuf> = OnceLock::new();
    FOUND.get_or_init(find_module).clone()
}

fn find_module() -> PathBuf {
    if let Ok(path) = std::env::var("REDISRAFT_SO") {
        return fs::canonicalize(&path).unwrap_or_else(|error| panic!("REDISRAFT_SO={path}: {error}"));
    }
    let executable = std::env::current_exe().expect("the test knows its own path");
    let above = executable.ancestors().skip(1).take(2);
    above
        .flat_map(|profile| ["deps", "."].map(|directory| profile.join(directory).join("libredisraft.so")))
        .filter_map(|path| Some((fs::metadata(&path).ok()?.modified().ok()?, path)))
        .max()
        .map(|(_, path)| path)
        .expect(
            "no libredisraft.so in the target directory: build with the default features or set REDISRAFT_SO",
        )
}

/// Whether this account may mount a disk of its own, which [`Setup::disk_mb`] needs.
pub fn can_mount() -> bool {
    let tried = Command::new("unshare").args(["--map-root-user", "--mount", "true"]).output();
    tried.is_ok_and(|output| output.status.success())
}

/// Who the server process runs as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Account {
    Own,
    /// An account without rights of its own: for root, who may write into read-only directories.
    Nobody,
}

/// How to start a server.
#[derive(Clone, Debug)]
pub struct Setup {
    pub port: u16,
    /// Arguments of `redis-server`.
    pub arguments: Vec<String>,
    /// Arguments of the module, or `None` for a plain server.
    pub module: Option<Vec<String>>,
    /// The working directory; a fresh one by default.
    pub directory: Option<PathBuf>,
    pub account: Account,
    /// The working directory is a disk of this many megabytes in memory, which ends with the process.
    pub disk_mb: Option<u32>,
    /// A file that may not grow (see [`Server::limit_files`]) is an error for the process, and not the end of it.
    pub limits_files: bool,
    /// Variables of the process's environment.
    pub environment: Vec<(String, String)>,
}

impl Setup {
    /// A server without the module, on a free port of 127.0.0.1.
    pub fn plain() -> Self {
        let port = free_port();
        let arguments = format!("--port {port} --bind 127.0.0.1 --enable-debug-command yes");
        Self {
            port,
            arguments: arguments.split(' ').map(str::to_owned).collect(),
            module: None,
            directory: None,
            account: Account::Own,
            disk_mb: None,
            limits_files: false,
            environment: Vec::new(),
        }
    }

    /// A server with the module, on a free port, with the log in `raftlog` and 127.0.0.1 as its address.
    pub fn with_module() -> Self {
        let setup = Self::plain();
        let address = format!("addr=127.0.0.1:{}", setup.port);
        Self { module: Some(vec!["log-filename=raftlog".to_owned(), address]), ..setup }
    }

    #[must_use]
    pub fn module_argument(mut self, argument: &str) -> Self {
        self.module.get_or_insert_with(Vec::new).push(argument.to_owned());
        self
    }

    /// Adds the words of `line` to the arguments of the server.
    #[must_use]
    pub fn server_arguments(mut self, line: &str) -> Self {
        self.arguments.extend(line.split(' ').map(str::to_owned));
        self
    }

    #[must_use]
    pub fn directory(mut self, directory: &Path) -> Self {
        self.directory = Some(directory.to_owned());
        self
    }
}

/// One server process and its directory. Dropping it kills the process.
pub struct Server {
    setup: Setup,
    directory: PathBuf,
    log: PathBuf,
    child: Option<Child>,
    paused: bool,
    /// Removes the directory in the end, unless it belongs to somebody else.
    _home: Option<TempDir>,
}

impl Server {
    /// Starts a process and returns at once: it may not be listening yet, or end with an error.
    ///
    /// # Panics
    /// When the process cannot be started.
    pub fn spawn(setup: Setup) -> Self {
        let home = setup.directory.is_none().then(|| {
            let home = tempfile::Builder::new().prefix("redisraft-test-").tempdir();
            home.expect("a temporary directory")
        });
        let directory = match (&setup.directory, &home) {
            (Some(directory), _) => directory.clone(),
            (None, Some(home)) => home.path().to_owned(),
            (None, None) => unreachable!("a home is made when no directory is given"),
        };
        let log =
            std::env::temp_dir().join(format!("redisraft-test-{}-{}.log", std::process::id(), setup.port));
        let _ = fs::remove_file(&log);
        let mut server = Self { setup, directory, log, child: None, paused: false, _home: home };
        server.launch();
        server
    }

    /// Starts a process and waits until it answers.
    ///
    /// # Panics
    /// When it does not answer within 20 s.
    pub fn start(setup: Setup) -> Self {
        let mut server = Self::spawn(setup);
        server.wait_ready();
        server
    }

    fn launch(&mut self) {
        let log =
            OpenOptions::new().create(true).append(true).open(&self.log).expect("the log file of a server");
        let mut command = self.command();
        command.args(&self.setup.arguments).current_dir(&self.directory).stdin(Stdio::null());
        command.envs(self.setup.environment.iter().map(|(name, value)| (name, value)));
        if let Some(arguments) = &self.setup.module {
            command.arg("--loadmodule").arg(self.library()).args(arguments);
        }
        let errors = log.try_clone().expect("a second handle of the log file");
        let child = command.stdout(log).stderr(errors).spawn().expect("redis-server can be started");
        watchdog::note_child(pid_of(&child), self.log.clone());
        self.child = Some(child);
        self.paused = false;
    }

    fn command(&self) -> Command {
        if let Some(megabytes) = self.setup.disk_mb {
            let mut command = Command::new("unshare");
            let script =
                format!("mount -t tmpfs -o size={megabytes}m tmpfs \"$PWD\" && cd \"$PWD\" && exec \"$@\"");
            command.args(["--map-root-user", "--mount", "sh", "-c", &script, "sh", &redis_server()]);
            return command;
        }
        if self.setup.limits_files {
            let mut command = Command::new("sh");
            command.args(["-c", "trap '' XFSZ && exec \"$@\"", "sh", &redis_server()]);
            return command;
        }
        if self.setup.account == Account::Own || !is_root() {
            return Command::new(redis_server());
        }
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups", &redis_server()]);
        command
    }

    /// The module; for another account a copy that it can read, wherever the build directory lies.
    fn library(&self) -> PathBuf {
        let library = module_library();
        if self.setup.account == Account::Own {
            return library;
        }
        let copy = self.log.with_extension("so");
        fs::copy(&library, &copy).expect("a copy of the module for another account");
        fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).expect("permissions of the copy");
        copy
    }

    /// Starts the process again, in the same directory with the same arguments, and waits until it answers.
    ///
    /// # Panics
    /// When it still runs, or does not answer within 20 s.
    pub fn restart(&mut self) {
        self.relaunch();
        self.wait_ready();
    }

    /// Like [`restart`](Self::restart), without waiting for an answer.
    ///
    /// # Panics
    /// When it still runs, or cannot be started.
    pub fn relaunch(&mut self) {
        assert!(self.child.is_none(), "the server at {} still runs", self.port());
        self.launch();
    }

    /// Waits until the server answers (any reply will do: it may be loading).
    ///
    /// # Panics
    /// When it ends, or does not answer within 20 s.
    pub fn wait_ready(&mut self) {
        let port = self.port();
        let answers = holds_within(Duration::from_secs(20), || {
            if self.has_exited() {
                return true;
            }
            Connection::open(port).and_then(|mut connection| connection.call(&["PING"])).is_ok()
        });
        assert!(
            answers && !self.has_exited(),
            "the server at {port} does not answer:\n{}",
            self.log_tail(60)
        );
    }

    /// Whether the process has ended by itself.
    pub fn has_exited(&mut self) -> bool {
        match &mut self.child {
            Some(child) => child.try_wait().expect("the state of a child").is_some(),
            None => true,
        }
    }

    /// Waits for the process to end by itself and gives its exit code (`None` after a signal).
    ///
    /// # Panics
    /// When it does not end within 20 s.
    pub fn wait_exit(&mut self) -> Option<i32> {
        wait_for("the server to end", Duration::from_secs(20), || self.has_exited());
        let mut child = self.child.take().expect("a process that was started");
        watchdog::forget_child(pid_of(&child));
        child.wait().expect("the exit status of a child").code()
    }

    /// `kill -9`, and waits for the process to be gone.
    pub fn kill(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        // An error means that it has ended by itself.
        let _ = child.kill();
        let _ = child.wait();
        watchdog::forget_child(pid_of(&child));
        self.paused = false;
    }

    /// SIGTERM, and waits for the process to end in order.
    ///
    /// # Panics
    /// When it does not end within 20 s.
    pub fn terminate(&mut self) {
        self.signal_term();
        self.wait_exit();
    }

    /// SIGTERM, without waiting for what comes of it.
    pub fn signal_term(&mut self) {
        self.signal(Signal::SIGTERM);
    }

    /// SIGSTOP: the process stands still, its sockets stay open.
    pub fn pause(&mut self) {
        self.signal(Signal::SIGSTOP);
        self.paused = true;
    }

    /// SIGCONT after [`pause`](Self::pause); nothing if the process has ended meanwhile.
    pub fn resume(&mut self) {
        if !self.has_exited() {
            self.signal(Signal::SIGCONT);
        }
        self.paused = false;
    }

    fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().expect("a running server");
        kill(Pid::from_raw(pid_of(child)), signal).expect("a signal to a child");
    }

    /// No file of the process may grow beyond this many bytes from now on; `None`: all may again.
    ///
    /// # Panics
    /// When `prlimit` refuses, or the server was not started with [`Setup::limits_files`].
    pub fn limit_files(&self, bytes: Option<u64>) {
        assert!(self.setup.limits_files, "the limit would end this server");
        let pid = self.pid().expect("a running server").to_string();
        let limit = bytes.map_or("unlimited".to_string(), |bytes| bytes.to_string());
        let done = Command::new("prlimit").args(["--pid", &pid, &format!("--fsize={limit}:")]).output();
        let done = done.expect("prlimit can be started");
        assert!(done.status.success(), "prlimit: {}", String::from_utf8_lossy(&done.stderr));
    }

    /// Whether the process was started, not killed, and is not paused.
    pub fn is_running(&mut self) -> bool {
        !self.paused && !self.has_exited()
    }

    pub fn port(&self) -> u16 {
        self.setup.port
    }

    pub fn pid(&self) -> Option<i32> {
        self.child.as_ref().map(pid_of)
    }

    pub fn directory(&self) -> &Path {
        &self.directory
    }

    pub fn setup(&self) -> &Setup {
        &self.setup
    }

    /// The next start uses these arguments of the module.
    pub fn set_module_arguments(&mut self, arguments: Vec<String>) {
        self.setup.module = Some(arguments);
    }

    /// The next start is on another port, of which clients and peers are told.
    pub fn move_to(&mut self, port: u16) {
        let before = self.setup.port.to_string();
        let now = port.to_string();
        let module = self.setup.module.iter_mut().flatten();
        for argument in self.setup.arguments.iter_mut().chain(module) {
            if *argument == before || argument.starts_with("addr=") {
                *argument = argument.replace(&before, &now);
            }
        }
        self.setup.port = port;
    }

    /// A new connection.
    ///
    /// # Panics
    /// When the server cannot be reached.
    pub fn connect(&self) -> Connection {
        Connection::open(self.port()).unwrap_or_else(|error| panic!("connecting to {}: {error}", self.port()))
    }

    /// Everything that the process has printed since the first start.
    pub fn log_text(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    pub fn log_tail(&self, lines: usize) -> String {
        tail(&self.log, lines)
    }

    /// Memory of the process in bytes, or 0 when it does not run.
    pub fn resident_bytes(&self) -> u64 {
        let Some(pid) = self.pid() else { return 0 };
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kilobytes = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
        kilobytes.unwrap_or(0) * 1024
    }

    /// CPU time of the process (user and system) in microseconds, at the resolution of the kernel's clock tick.
    pub fn cpu_us(&self) -> u64 {
        let Some(pid) = self.pid() else { return 0 };
        let line = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // The fields after the command name, which may hold blanks: state is the first, utime the 12th.
        let fields: Vec<&str> = line.rsplit(") ").next().unwrap_or_default().split(' ').collect();
        let ticks = |field: usize| fields.get(field).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
        const MICROSECONDS_PER_TICK: u64 = 10_000;
        (ticks(11) + ticks(12)) * MICROSECONDS_PER_TICK
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("--- log of the server at {}\n{}", self.port(), self.log_tail(60));
        }
        let _ = fs::remove_file(&self.log);
        let _ = fs::remove_file(self.log.with_extension("so"));
    }
}

fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0)
}

fn pid_of(child: &Child) -> i32 {
    i32::try_from(child.id()).expect("a pid fits")
}

/// The last `count` lines of a log, or those around the start of the crash report, when there is one.
pub fn tail(path: &Path, count: usize) -> String {
    let text = String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned();
    let lines: Vec<&str> = text.lines().collect();
    let crash = lines.iter().position(|line| line.contains("REDIS BUG REPORT START"));
    let end = crash.map_or(lines.len(), |start| lines.len().min(start + count / 2));
    lines[end.saturating_sub(count)..end].join("\n")
}
