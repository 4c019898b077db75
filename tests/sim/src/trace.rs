//! The log of a replayed seed: what the code under test says, with simulated time and machine.

use std::cell::Cell;

thread_local! {
    static TIME_US: Cell<u64> = const { Cell::new(0) };
    static MACHINE: Cell<usize> = const { Cell::new(0) };
}

pub fn set_time(now_us: u64) {
    TIME_US.set(now_us);
}

pub fn set_machine(host: usize) {
    MACHINE.set(host);
}

struct Printer;

impl log::Log for Printer {
    fn enabled(&self, _: &log::Metadata) -> bool {
        true
    }

    fn log(&self, record: &log::Record) {
        let (seconds, micros) = (TIME_US.get() / 1_000_000, TIME_US.get() % 1_000_000);
        eprintln!("{seconds:3}.{micros:06} m{} {}", MACHINE.get(), record.args());
    }

    fn flush(&self) {}
}

/// Prints everything from now on.
pub fn print(level: log::LevelFilter) {
    if log::set_logger(&Printer).is_ok() {
        log::set_max_level(level);
    }
}
