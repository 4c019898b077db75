//! The shim that makes one process's disk and clock fail: built from `shim/faults.c`, steered through a file.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::time::{clock_gettime, ClockId};

use crate::violation::{Result, Violation};

const SOURCE: &str = include_str!("../shim/faults.c");

/// Compiles the shim into `directory`.
///
/// # Errors
/// When there is no C compiler, or it refuses.
pub fn build(directory: &Path) -> Result<PathBuf> {
    let (source, library) = (directory.join("faults.c"), directory.join("faults.so"));
    let failed = |reason: String| Violation::Setup(format!("the shim for disk and clock: {reason}"));
    fs::write(&source, SOURCE).map_err(|error| failed(error.to_string()))?;
    let mut compiler = Command::new("cc");
    compiler.args(["-O2", "-shared", "-fPIC", "-o"]).arg(&library).arg(&source).arg("-ldl");
    let output = compiler.output().map_err(|error| failed(format!("cc cannot be started: {error}")))?;
    match output.status.success() {
        true => Ok(library),
        false => Err(failed(String::from_utf8_lossy(&output.stderr).into_owned())),
    }
}

/// What syncs of the log do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sync {
    Fine,
    Fails,
    Slow { delay_us: u64 },
    Hangs,
}

/// What writes to the log do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Write {
    Fine,
    Fails,
    /// Whole sectors of the first half arrive; the caller is told that it failed.
    Half,
    NoSpace,
}

/// How often the shim has done something.
#[derive(Clone, Copy, Debug, Default)]
pub struct Done {
    pub failed_syncs: u64,
    pub slow_syncs: u64,
    pub hung_syncs: u64,
    pub failed_writes: u64,
    pub shifted_times: u64,
}

/// The control file of one process. The process may come and go; what is set stays.
pub struct Control {
    path: PathBuf,
    file: File,
}

/// Fields of the file, 8 bytes each, as `struct control` has them.
#[derive(Clone, Copy)]
enum Field {
    SyncMode,
    WriteMode,
    DelayUs,
    ClockOffsetUs,
    ClockDriftPpm,
    DriftFromUs,
    FailedSyncs,
    SlowSyncs,
    HungSyncs,
    FailedWrites,
    ShiftedTimes,
}

const FIELD_BYTES: u64 = 8;
const FIELDS: u64 = Field::ShiftedTimes as u64 + 1;

impl Control {
    /// Makes a control file under which nothing fails.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn create(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path)?;
        file.set_len(FIELDS * FIELD_BYTES)?;
        Ok(Self { path: path.to_owned(), file })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    fn put(&self, field: Field, value: i64) {
        let written = self.file.write_all_at(&value.to_ne_bytes(), field as u64 * FIELD_BYTES);
        written.expect("a control file of a few bytes can be written");
    }

    fn get(&self, field: Field) -> u64 {
        let mut bytes = [0; FIELD_BYTES as usize];
        let read = self.file.read_exact_at(&mut bytes, field as u64 * FIELD_BYTES);
        read.expect("a control file has all its fields");
        u64::from_ne_bytes(bytes)
    }

    pub fn set_sync(&self, sync: Sync) {
        if let Sync::Slow { delay_us } = sync {
            self.put(Field::DelayUs, i64::try_from(delay_us).expect("a delay of less than 292,000 years"));
        }
        let mode = match sync {
            Sync::Fine => 0,
            Sync::Fails => 1,
            Sync::Slow { .. } => 2,
            Sync::Hangs => 3,
        };
        self.put(Field::SyncMode, mode);
    }

    pub fn set_write(&self, write: Write) {
        let mode = match write {
            Write::Fine => 0,
            Write::Fails => 1,
            Write::Half => 2,
            Write::NoSpace => 3,
        };
        self.put(Field::WriteMode, mode);
    }

    /// The clock of the time of day jumps by so much, and runs fast or slow from now on.
    pub fn set_clock(&self, offset_ms: i64, drift_ppm: i64) {
        let now = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("a monotonic clock");
        self.put(Field::ClockDriftPpm, 0);
        self.put(Field::ClockOffsetUs, offset_ms * 1000);
        self.put(Field::DriftFromUs, now.tv_sec() * 1_000_000 + now.tv_nsec() / 1000);
        self.put(Field::ClockDriftPpm, drift_ppm);
    }

    pub fn done(&self) -> Done {
        Done {
            failed_syncs: self.get(Field::FailedSyncs),
            slow_syncs: self.get(Field::SlowSyncs),
            hung_syncs: self.get(Field::HungSyncs),
            failed_writes: self.get(Field::FailedWrites),
            shifted_times: self.get(Field::ShiftedTimes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a program says under the shim, and whether it succeeded. `log` is where its disk may fail.
    fn run(shim: &Path, control: &Control, log: &Path, program: &[&str]) -> (bool, String) {
        let mut command = Command::new(program[0]);
        command.args(&program[1..]).env("LD_PRELOAD", shim);
        let output = command.env("CHAOS_CONTROL", control.path()).env("CHAOS_LOG", log).output();
        let output = output.expect("the program can be started");
        (output.status.success(), String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    #[test]
    fn the_clock_is_shifted_and_syncs_below_the_log_fail() {
        let home = tempfile::tempdir().expect("a directory");
        let directory = fs::canonicalize(home.path()).expect("a directory");
        let shim = build(&directory).expect("the shim is built");
        let control = Control::create(&directory.join("control")).expect("a control file");
        let log = directory.join("log");
        fs::create_dir(&log).expect("a directory");

        let clock = || run(&shim, &control, &log, &["date", "+%s"]).1.parse::<i64>().expect("seconds");
        let before = clock();
        control.set_clock(-7_200_000, 0);
        assert!(clock() < before - 3600, "two hours back");
        control.set_clock(0, 0);
        assert!(clock() >= before);
        assert!(control.done().shifted_times > 0);

        let write = |directory: &Path| {
            let output = format!("of={}", directory.join("file").display());
            run(
                &shim,
                &control,
                &log,
                &["dd", "if=/dev/zero", &output, "bs=4096", "count=1", "conv=fdatasync"],
            )
            .0
        };
        assert!(write(&log));
        control.set_sync(Sync::Fails);
        assert!(!write(&log), "the sync fails");
        assert!(write(&directory), "elsewhere nothing does");
        control.set_sync(Sync::Slow { delay_us: 1000 });
        assert!(write(&log));
        let done = control.done();
        assert!(done.failed_syncs > 0 && done.slow_syncs > 0 && done.hung_syncs == 0);
    }
}
