//! The floor under every durable write on this machine: one 4 KiB `pwrite` and one `fdatasync`, over and over.
//!
//! Usage: `sync_floor [directory]` (default: the directory for temporary files, where the benchmark runs its servers).

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::Instant;

const BLOCK_BYTES: usize = 4096;
const SYNCS: usize = 2_000;

fn main() -> io::Result<()> {
    let directory = std::env::args_os().nth(1).map_or_else(std::env::temp_dir, PathBuf::from);
    let file: File = tempfile::tempfile_in(&directory)?;
    // The file exists in full beforehand: a growing file would sync its metadata each time as well.
    let zeros = vec![0; BLOCK_BYTES * SYNCS];
    file.write_all_at(&zeros, 0)?;
    file.sync_all()?;

    let block = [0x5a; BLOCK_BYTES];
    let mut took_us = Vec::with_capacity(SYNCS);
    let started = Instant::now();
    for sync in 0..SYNCS {
        let before = Instant::now();
        file.write_all_at(&block, (sync * BLOCK_BYTES) as u64)?;
        file.sync_data()?;
        took_us.push(before.elapsed().as_secs_f64() * 1e6);
    }
    let per_second = SYNCS as f64 / started.elapsed().as_secs_f64();
    took_us.sort_by(f64::total_cmp);
    println!(
        "fdatasync floor in {}: {per_second:.0}/s, p50 {:.0} us, p99 {:.0} us, max {:.0} us",
        directory.display(),
        took_us[SYNCS / 2],
        took_us[SYNCS * 99 / 100],
        took_us[SYNCS - 1],
    );
    Ok(())
}
