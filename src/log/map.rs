//! Read-only shared mappings of whole files: the one place of the log with `unsafe`.
//!
//! A log is read back through mappings: no copy of what is checked, and the page cache streams ahead. A page that
//! cannot be read would end the process with SIGBUS when it is touched, so the kernel is asked for the pages first
//! (`MADV_POPULATE_READ`): it answers with an error instead.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::ops::Range;

use memmap2::{Advice, Mmap};

/// A file's bytes as they are, and as they will be written.
pub struct Mapping(Mmap);

impl Mapping {
    pub fn of(file: &File) -> io::Result<Mapping> {
        // SAFETY: a mapping is sound as long as the file does not shrink below it and its bytes do not change while
        // somebody relies on them. Only a log that is locked is mapped, while it is opened: nothing writes to it and
        // this program never shortens a segment. What somebody else may do meanwhile is said in docs/log-format.md,
        // "Limitations".
        let map = unsafe { Mmap::map(file)? };
        Ok(Mapping(map))
    }

    /// Brings bytes into memory. Errors: the disk cannot read them, the file was cut, or the kernel is older than
    /// Linux 5.14 and does not know how to ask.
    pub fn populate(&self, range: Range<u64>) -> io::Result<()> {
        let length = (range.end - range.start) as usize;
        self.0.advise_range(Advice::PopulateRead, range.start as usize, length)
    }

    /// Bytes of a range that was populated. Panics if it is not within the file.
    pub fn bytes(&self, range: Range<u64>) -> &[u8] {
        &self.0[range.start as usize..range.end as usize]
    }
}
