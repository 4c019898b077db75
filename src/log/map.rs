//! Read-only shared mappings of whole files: the one place of the log with `unsafe`.
//!
//! Why mapped at all: peers, the feed and recovery read old entries at memory speed without a copy of the file
//! in this process, and the page cache keeps the mapping coherent with the `pwrite`s of the sync thread.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;

/// A file's bytes as they are now and as they will be written.
pub struct Mapping(memmap2::Mmap);

impl Mapping {
    pub fn of(file: &File) -> io::Result<Mapping> {
        // SAFETY: a mapping is sound as long as the file does not shrink below it and nobody relies on bytes
        // that are still being written. This program never truncates a mapped file, readers look only at records
        // that were written before they learnt where these are (or check the CRC of a private copy), and no
        // reference to the bytes leaves this room. A file cut by somebody else ends the process with SIGBUS:
        // docs/log-format.md, "Limitations".
        let map = unsafe { memmap2::Mmap::map(file)? };
        Ok(Mapping(map))
    }
}

impl AsRef<[u8]> for Mapping {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}
