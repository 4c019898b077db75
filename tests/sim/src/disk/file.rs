//! An open file.

use super::{Failure, Operation, SimDisk};
use redisraft::log::disk::{DiskFile, Mode};
use std::io;

/// Unit of direct writes.
const BLOCK_BYTES: u64 = 4096;

pub(super) struct SimFile {
    pub disk: SimDisk,
    pub content: usize,
    pub mode: Mode,
}

fn no_space() -> io::Error {
    io::ErrorKind::StorageFull.into()
}

impl DiskFile for SimFile {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let writable = !matches!(self.mode, Mode::Read | Mode::Uncached);
        assert!(writable, "a file that was opened for reading is written");
        let state = &mut *self.disk.state();
        if let Err(error) = state.fails(Failure::Write) {
            let written = state.random.index(bytes.len() + 1);
            let bytes = bytes[..written].to_vec();
            state.journal.push(Operation::Write { content: self.content, offset, bytes });
            return Err(error);
        }
        let content = &mut state.contents[self.content];
        if state.full && offset + bytes.len() as u64 > content.live.len() as u64 {
            return Err(no_space());
        }
        content.write_live(offset, bytes);
        state.journal.push(Operation::Write { content: self.content, offset, bytes: bytes.to_vec() });
        Ok(())
    }

    fn write_durable_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        if self.mode != Mode::Direct {
            self.write_at(bytes, offset)?;
            return self.sync_data();
        }
        assert!(
            offset.is_multiple_of(BLOCK_BYTES) && (bytes.len() as u64).is_multiple_of(BLOCK_BYTES),
            "whole blocks are written"
        );
        let state = &mut *self.disk.state();
        state.fails(Failure::Sync)?;
        state.contents[self.content].write_live(offset, bytes);
        state.journal.push(Operation::WriteDurable { content: self.content, offset, bytes: bytes.to_vec() });
        Ok(())
    }

    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        let state = &mut *self.disk.state();
        state.fails(Failure::Read)?;
        let uncached;
        let stored = match self.mode {
            Mode::Uncached => {
                uncached = state.stored(self.content);
                &uncached
            }
            _ => &state.contents[self.content].live,
        };
        let found = stored.get(offset as usize..offset as usize + bytes.len());
        bytes.copy_from_slice(found.ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?);
        Ok(())
    }

    fn allocate(&self, length: u64) -> io::Result<()> {
        let state = &mut *self.disk.state();
        if state.full {
            return Err(no_space());
        }
        state.contents[self.content].extend_live(length);
        state.journal.push(Operation::Extend { content: self.content, length });
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let state = &mut *self.disk.state();
        let content = self.content;
        let result = state.fails(Failure::Sync);
        state.journal.push(match result {
            Ok(()) => Operation::Sync { content },
            Err(_) => Operation::FailedSync { content },
        });
        result
    }

    fn sync_all(&self) -> io::Result<()> {
        self.sync_data()
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.disk.state().contents[self.content].live.len() as u64)
    }
}
