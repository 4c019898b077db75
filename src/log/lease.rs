//! Whether anybody else uses a file: the one place of the log that calls the system by itself.
#![allow(unsafe_code)]

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;

use nix::libc;

/// Of Linux (asm-generic/fcntl.h).
const F_SETSIG: libc::c_int = 10;

/// Whether the file has no name any more, and no other open descriptor anywhere: what becomes of it is seen by nobody.
/// The kernel tells by granting a lease for writing, which it does for the only user of a file.
pub fn is_unseen(file: &File) -> bool {
    if file.metadata().map_or(true, |metadata| metadata.nlink() > 0) {
        return false;
    }
    let descriptor = file.as_raw_fd();
    // SAFETY: all calls take a descriptor that is open and a number, and touch no memory of this process.
    unsafe {
        // Who opens a leased file makes the kernel signal its holder. A file without a name can be opened through /proc only;
        // should somebody do that in this very moment, let it be a signal that is ignored, not SIGIO, which kills.
        libc::fcntl(descriptor, F_SETSIG, libc::SIGURG);
        let granted = libc::fcntl(descriptor, libc::F_SETLEASE, libc::F_WRLCK) == 0;
        if granted {
            libc::fcntl(descriptor, libc::F_SETLEASE, libc::F_UNLCK);
        }
        granted
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, OpenOptions};

    #[test]
    fn a_file_is_seen_by_its_names_and_by_who_has_it_open() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("a");
        fs::write(&path, "text").expect("written");
        let open = || OpenOptions::new().read(true).write(true).open(&path).expect("open");
        let (file, reader) = (open(), File::open(&path).expect("open"));
        let link = directory.path().join("b");
        fs::hard_link(&path, &link).expect("a second name");
        fs::remove_file(&path).expect("removed");
        assert!(!is_unseen(&file), "it has another name");
        fs::remove_file(&link).expect("removed");
        assert!(!is_unseen(&file), "somebody has it open");
        drop(reader);
        assert!(is_unseen(&file));
        assert!(is_unseen(&file), "and stays so");
    }
}
