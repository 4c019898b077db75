//! Whether a server holds the log, without taking its lock: a probe that locks could turn a starting server away.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Process id of the writer, as the kernel's table of locks says; `None` if there is none.
pub fn find(directory: &Path) -> Option<u32> {
    let metadata = std::fs::metadata(directory.join("LOCK")).ok()?;
    let table = std::fs::read_to_string("/proc/locks").ok()?;
    find_in(&table, metadata.dev(), metadata.ino())
}

/// Lines such as `1: FLOCK  ADVISORY  WRITE 4711 fd:01:123456 0 EOF`: device numbers in hex.
fn find_in(table: &str, device: u64, inode: u64) -> Option<u32> {
    let major = (device >> 8 & 0xfff) | (device >> 32 & !0xfff);
    let minor = (device & 0xff) | (device >> 12 & !0xff & 0xffff_ffff);
    let file = format!("{major:02x}:{minor:02x}:{inode}");
    table.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        match fields[..] {
            [_, "FLOCK", _, "WRITE", pid, place, ..] if place == file => pid.parse().ok(),
            _ => None,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::find_in;

    #[test]
    fn the_holder_is_found_by_device_and_inode() {
        let table =
            "1: POSIX  ADVISORY  WRITE 1 fd:01:77 0 EOF\n2: -> FLOCK  ADVISORY  WRITE 2 fd:01:77 0 EOF\n\
                     3: FLOCK  ADVISORY  WRITE 3 fd:01:77 0 EOF\n";
        assert_eq!(find_in(table, 0xfd01, 77), Some(3));
        assert_eq!(find_in(table, 0xfd01, 78), None);
        assert_eq!(find_in(table, 0xfd02, 77), None);
    }
}
