//! Writing the directory of one member of the new cluster.

use super::error::RecoverError;
use super::examine::{damaged, Found};
use crate::log::disk::{Disk, Mode};
use crate::log::{
    Entry, HardState, Identity, InlineWriter, Kind, Log, LogError, Options, ReadRecord, Reader, WriteRequest,
};
use crate::node::members::Members;
use crate::snapshot::{About, Done, Job, SnapshotError, Store};
use bytes::Bytes;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

/// Entries are written in batches of about so many bytes.
const BATCH_BYTES: usize = 4 << 20;
/// What an entry of a batch takes besides its payload, about.
const ENTRY_BYTES: usize = 64;
/// The snapshot is copied in pieces of this many bytes.
const PIECE_BYTES: u64 = 1 << 20;

/// How the new cluster begins; the same for all of its members.
#[derive(Clone, Debug)]
pub struct Beginning {
    /// Its id and its secret, and the id of the member that a directory is made for.
    pub identity: Identity,
    pub members: Members,
    /// Of the membership entry, and the term in META.
    pub term: u64,
    pub options: Options,
}

/// The log that is being written.
struct Copy {
    log: Log,
    writer: InlineWriter,
    requests: u64,
    batch: Vec<Entry>,
    batch_bytes: usize,
}

/// Makes directory `to` for one member, of what `examine` has found in `from`: all of it is durable on return.
///
/// Errors: the disk's; damage that came meanwhile. What was begun stays there.
pub fn build(
    disk: &Arc<dyn Disk>,
    from: &Path,
    found: &Found,
    to: &Path,
    beginning: &Beginning,
) -> Result<(), RecoverError> {
    let Beginning { identity, members, term, options } = beginning;
    assert!(*term > found.last.1 && *term > found.hard_state.term, "the new term is above all that were");
    assert!(members.0.contains_key(&identity.node_id), "a directory is made for a member");
    let options = Options { wait_for_space: false, ..options.clone() };
    let (log, writer) = Log::create_behind(disk.clone(), to, identity.clone(), found.base, options)?;
    let mut copy = Copy { log, writer, requests: 0, batch: Vec::new(), batch_bytes: 0 };
    let reader = Reader::open_on(disk.clone(), from)?;
    let mut failure = None;
    let scan = reader.scan(&mut |read| match copy.take(found, &read) {
        Ok(()) => ControlFlow::Continue(()),
        Err(error) => {
            failure = Some(error);
            ControlFlow::Break(())
        }
    });
    scan.map_err(|error| damaged(from, error))?;
    failure.map_or(Ok(()), Err)?;
    copy.write(None)?;
    assert!(copy.log.last_index() == found.last.0, "what was found is what is copied");
    let last = Entry::new(found.last.0 + 1, *term, Kind::Membership, Bytes::from(members.encode()));
    copy.batch.push(last);
    copy.write(Some(HardState { term: *term, vote: None }))?;
    copy.close();
    if let Some(about) = &found.snapshot {
        copy_snapshot(disk, from, about, to, &identity.cluster_id)?;
    }
    check(disk, to, (found.last.0 + 1, *term))
}

impl Copy {
    fn take(&mut self, found: &Found, read: &ReadRecord) -> Result<(), LogError> {
        let record = &read.record;
        let place = (read.segment_sequence, record.offset);
        let Some(kind) = record.record_type.entry_kind() else { return Ok(()) };
        if !found.is_live(place, record.header.index) {
            return Ok(());
        }
        // With the checksum that was read: what changes on its way through memory is not written.
        self.batch.push(Entry {
            index: record.header.index,
            term: record.header.term,
            kind,
            payload: Bytes::copy_from_slice(record.payload),
            payload_crc: record.payload_crc,
        });
        self.batch_bytes += record.payload.len() + ENTRY_BYTES;
        match self.batch_bytes >= BATCH_BYTES {
            true => self.write(None),
            false => Ok(()),
        }
    }

    /// Writes what was taken, and waits until it is durable.
    fn write(&mut self, hard_state: Option<HardState>) -> Result<(), LogError> {
        self.requests += 1;
        self.batch_bytes = 0;
        let entries = std::mem::take(&mut self.batch);
        self.log.submit(WriteRequest { id: self.requests, hard_state, entries, ..WriteRequest::default() });
        while self.log.durable()? < self.requests {
            assert!(self.writer.run_once(), "there is something to write");
        }
        Ok(())
    }

    fn close(self) {
        let Copy { log, mut writer, .. } = self;
        drop(log);
        while writer.run_once() {}
    }
}

/// The snapshot goes through the store as one that a peer sends: its checksum is right before it has a name.
fn copy_snapshot(
    disk: &Arc<dyn Disk>,
    from: &Path,
    about: &About,
    to: &Path,
    cluster_id: &str,
) -> Result<(), RecoverError> {
    let path = from.join(about.file_name());
    let file = disk.open(&path, Mode::Read).map_err(RecoverError::io("open", &path))?;
    let (mut store, _) = Store::open(disk.clone(), to, cluster_id)?;
    let about = About { cluster_id: cluster_id.to_string(), ..about.clone() };
    let id = about.id;
    store.run(Job::Receive { about: Box::new(about) });
    let mut offset = 0;
    loop {
        let length = PIECE_BYTES.min(id.bytes - offset);
        let mut bytes = vec![0; length as usize];
        file.read_at(&mut bytes, offset).map_err(RecoverError::io("read", &path))?;
        offset += length;
        let part = Job::Part { id, offset: offset - length, bytes: bytes.into() };
        match store.run(part) {
            Some(Done::Parted { result: Ok(true), .. }) => return Ok(()),
            Some(Done::Parted { result: Ok(false), .. }) if offset < id.bytes => {}
            Some(Done::Parted { result: Err(error), .. }) => return Err(error.into()),
            _ => return Err(SnapshotError::Gone { index: id.index, term: id.term }.into()),
        }
    }
}

/// Reads what was written: it must be what was wanted.
fn check(disk: &Arc<dyn Disk>, directory: &Path, last: (u64, u64)) -> Result<(), RecoverError> {
    let reader = Reader::open_on(disk.clone(), directory)?;
    let end = reader.scan(&mut |_| ControlFlow::Continue(()))?;
    let found = (end.sequence.last_index(), end.sequence.last_term());
    assert!(found == last && end.torn.is_none(), "made {last:?}, found {found:?}, {:?}", end.torn);
    Ok(())
}
