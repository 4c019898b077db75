//! The `log` crate's messages in the server's own log.

use super::ffi;
use crate::node::settings::{LogLevel, Settings, Trace};
use log::{Level, LevelFilter, Log, Metadata, Record};

struct ServerLog;

impl Log for ServerLog {
    fn enabled(&self, _: &Metadata) -> bool {
        true // the level is the global filter's
    }

    fn log(&self, record: &Record) {
        let level = match record.level() {
            Level::Error | Level::Warn => c"warning",
            Level::Info => c"notice",
            Level::Debug => c"verbose",
            Level::Trace => c"debug",
        };
        ffi::log_line(level, &record.args().to_string());
    }

    fn flush(&self) {}
}

pub fn install() {
    // A second module in the same process has its own copy of the `log` crate: this cannot be taken already.
    if log::set_logger(&ServerLog).is_err() {
        ffi::log_line(c"warning", "messages of raft go to a logger that was installed before");
    }
    log::set_max_level(LevelFilter::Info);
    std::panic::set_hook(Box::new(|panic| {
        // Whichever thread it is: a server without its raft thread would look alive and be none.
        ffi::log_line(c"warning", &format!("broken invariant, stopping: {panic}"));
        std::process::abort();
    }));
}

/// Follows `raft.loglevel` and `raft.trace`.
pub fn configure(settings: &Settings) {
    log::set_max_level(match (settings.trace, settings.loglevel) {
        (Trace::On, _) | (_, LogLevel::Debug) => LevelFilter::Trace,
        (_, LogLevel::Verbose) => LevelFilter::Debug,
        (_, LogLevel::Notice) => LevelFilter::Info,
        (_, LogLevel::Warning) => LevelFilter::Warn,
    });
}
