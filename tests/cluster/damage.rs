//! Damage to the files of a node's log, and the tool's word on them.

use std::fs::{self, OpenOptions};
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use redisraft::log::Reader;

/// The segments of a log directory, oldest first.
pub fn segments(log: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(log).expect("the log directory");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    let mut found: Vec<PathBuf> =
        paths.filter(|path| path.extension().is_some_and(|end| end == "log")).collect();
    found.sort();
    found
}

/// Flips one bit at the first place that holds `marker`, on the disk as well as in the page cache; the segment and the
/// offset of the byte.
///
/// # Panics
/// When the log does not hold it.
pub fn flip_bit(log: &Path, marker: &[u8]) -> (PathBuf, u64) {
    for segment in segments(log) {
        let bytes = fs::read(&segment).expect("a segment");
        if let Some(position) = bytes.windows(marker.len()).position(|window| window == marker) {
            let file = OpenOptions::new().write(true).open(&segment).expect("a segment");
            file.write_all_at(&[bytes[position] ^ 0x10], position as u64).expect("one byte");
            file.sync_all().expect("synced");
            return (segment, position as u64);
        }
    }
    panic!("the log does not hold {:?}", String::from_utf8_lossy(marker));
}

/// Reads a whole log of a node that is down as `raftlog-tool verify` does.
///
/// # Panics
/// When there is damage in it.
pub fn assert_clean(log: &Path) {
    let read = Reader::open(log).and_then(|reader| reader.scan(&mut |_| ControlFlow::Continue(())));
    if let Err(error) = read {
        panic!("{error}");
    }
}

/// Index of the entry whose payload holds `marker`.
///
/// # Panics
/// When there is none.
pub fn index_of(log: &Path, marker: &[u8]) -> u64 {
    let mut index = None;
    let reader = Reader::open(log).expect("a log");
    let scan = reader.scan(&mut |read| {
        let holds = read.record.payload.windows(marker.len()).any(|window| window == marker);
        match holds {
            true => {
                index = Some(read.record.header.index);
                ControlFlow::Break(())
            }
            false => ControlFlow::Continue(()),
        }
    });
    scan.expect("a clean log");
    index.expect("the log holds it")
}

/// Runs `raftlog-tool` with these arguments: the one that was built with the tests of the workspace, or else one that is
/// built apart, because a plain build of the tool replaces the module by a library without it.
pub fn raftlog_tool(arguments: &[&str]) -> Output {
    let test = std::env::current_exe().expect("the path of this test");
    let profile = test.ancestors().nth(2).expect("the test lies in <profile>/deps");
    // A binary lies beside the tool.
    let built = [profile.join("raftlog-tool"), test.with_file_name("raftlog-tool")];
    if let Some(built) = built.iter().find(|path| path.exists()) {
        return Command::new(built).args(arguments).output().expect("the tool can be started");
    }
    let mut command = Command::new(env!("CARGO"));
    command.args(["run", "--quiet", "--package", "raftlog-tool", "--target-dir"]).arg(profile.join("tool"));
    command.arg("--").args(arguments).current_dir(env!("CARGO_MANIFEST_DIR"));
    command.output().expect("cargo can be started")
}
