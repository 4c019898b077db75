//! The snapshots of one directory.

use super::about::{about_name, parse_name, rdb_name, About, Id, Name};
use super::error::SnapshotError;
use super::job::{Done, Draft, Job};
use super::receive::{Receiving, SYNC_BYTES};
use super::survey::{measure, names, positions, read_pair, Depth};
use crate::log::disk::{Disk, FileHandle, Mode};
use bytes::Bytes;
use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Read and checked at once.
const PIECE_BYTES: usize = 1 << 20;
/// Snapshots that stay readable at once: the newest, and the one before it, which a peer may be half through.
const OPEN_SNAPSHOTS: usize = 2;
/// How the servers' dumps begin.
const RDB_MAGICS: [&[u8]; 2] = [b"REDIS", b"VALKEY"];

/// Invariant: `newest` is complete and durable on the disk.
pub struct Store {
    disk: Arc<dyn Disk>,
    directory: PathBuf,
    cluster_id: String,
    newest: Option<About>,
    receiving: Option<Receiving>,
    /// Files being read: they can be read on after they have lost their names.
    open: VecDeque<(Id, FileHandle)>,
}

/// What a start found.
#[derive(Debug, Default)]
pub struct Opened {
    /// Intact, newest first.
    pub intact: Vec<About>,
    pub damaged: Vec<SnapshotError>,
    /// Half-made files that were removed.
    pub leftovers: Vec<PathBuf>,
}

impl Store {
    /// Looks at what the log's directory holds: removes what is half-made, checks every byte of the snapshots from the
    /// newest on until one is intact.
    ///
    /// Errors: the disk's. A snapshot that is damaged, newer or foreign is among `Opened::damaged`.
    pub fn open(
        disk: Arc<dyn Disk>,
        directory: &Path,
        cluster_id: &str,
    ) -> Result<(Store, Opened), SnapshotError> {
        let mut store = Store::new(disk, directory, cluster_id);
        let leftovers = store.remove_leftovers()?;
        let opened = Opened { leftovers, ..store.look_through()? };
        store.newest = opened.intact.first().cloned();
        Ok((store, opened))
    }

    /// What `open` would find, without removing anything.
    ///
    /// Errors: as `open`.
    pub fn look(disk: Arc<dyn Disk>, directory: &Path, cluster_id: &str) -> Result<Opened, SnapshotError> {
        Store::new(disk, directory, cluster_id).look_through()
    }

    fn new(disk: Arc<dyn Disk>, directory: &Path, cluster_id: &str) -> Store {
        Store {
            disk,
            directory: directory.to_path_buf(),
            cluster_id: cluster_id.to_string(),
            newest: None,
            receiving: None,
            open: VecDeque::new(),
        }
    }

    fn look_through(&self) -> Result<Opened, SnapshotError> {
        let mut opened = Opened::default();
        let (disk, directory) = (self.disk.as_ref(), &self.directory);
        for (index, term) in positions(disk, directory)? {
            match read_pair(disk, directory, &self.cluster_id, (index, term), Depth::Checksum) {
                Ok(about) => {
                    opened.intact.push(about);
                    break;
                }
                Err(error @ SnapshotError::Io { .. }) => return Err(error),
                Err(error) => opened.damaged.push(error),
            }
        }
        Ok(opened)
    }

    pub fn newest(&self) -> Option<&About> {
        self.newest.as_ref()
    }

    /// Does one job; `None` where there is nothing to answer.
    pub fn run(&mut self, job: Job) -> Option<Done> {
        match job {
            Job::Keep { source, draft } => Some(Done::Kept { result: self.keep(&source, draft) }),
            Job::Discard { file } => {
                if let Err(error) = self.disk.remove(&file) {
                    if error.kind() != io::ErrorKind::NotFound {
                        log::warn!("cannot remove {}: {error}", file.display());
                    }
                }
                None
            }
            Job::Read { reader, id, offset, bytes } => {
                Some(Done::Read { reader, id, offset, result: self.read(id, offset, bytes) })
            }
            Job::Check { id } => Some(Done::Checked { id, result: self.check(id) }),
            Job::Receive { about } => {
                self.receive(*about);
                None
            }
            Job::StopReceiving => {
                if let Some(receiving) = self.receiving.take() {
                    self.forget(receiving.path());
                }
                None
            }
            Job::Part { id, offset, bytes } => {
                let through = offset + bytes.len() as u64;
                Some(Done::Parted { id, through, result: self.part(id, offset, &bytes) })
            }
        }
    }

    /// Makes the file the newest snapshot. On an error the newest one is what it was.
    fn keep(&mut self, source: &Path, draft: Draft) -> Result<About, SnapshotError> {
        let Draft { index, term, members, used_ids } = draft;
        let temporary = self.temporary(index, term);
        let kept =
            self.make_way(index, term).and_then(|()| self.take_over(source, &temporary)).and_then(|()| {
                let (bytes, crc) = self.settle(&temporary)?;
                let id = Id { index, term, bytes, crc };
                let about = About { id, cluster_id: self.cluster_id.clone(), members, used_ids };
                self.publish(&temporary, about)
            });
        if kept.is_err() {
            self.forget(&temporary);
            self.forget(source);
        }
        kept
    }

    /// Only a later one may follow the newest. A pair of the same names that does not count - damaged, or left by a sync that
    /// failed - is removed.
    fn make_way(&self, index: u64, term: u64) -> Result<(), SnapshotError> {
        let newest = self.newest.as_ref().map_or(0, |about| about.id.index);
        if index < newest {
            return Err(SnapshotError::Older { index, newest });
        }
        if index == newest {
            return Err(SnapshotError::Exists { index, term });
        }
        let sidecar = self.directory.join(about_name(index, term));
        if self.disk.exists(&sidecar) {
            self.disk.remove(&sidecar).map_err(SnapshotError::io("remove", &sidecar))?;
            self.sync_directory()?;
        }
        Ok(())
    }

    pub(super) fn temporary(&self, index: u64, term: u64) -> PathBuf {
        self.directory.join(rdb_name(index, term) + ".tmp")
    }

    /// Removes what may be there, on the way out of an error.
    pub(super) fn forget(&self, file: &Path) {
        if self.disk.exists(file) {
            if let Err(error) = self.disk.remove(file) {
                log::warn!("cannot remove {}: {error}", file.display());
            }
        }
    }

    /// Moves the server's file into the log's directory, which may be on another disk.
    fn take_over(&self, source: &Path, to: &Path) -> Result<(), SnapshotError> {
        self.forget(to);
        match self.disk.rename(source, to) {
            Err(error) if error.kind() == io::ErrorKind::CrossesDevices => (),
            moved => return moved.map_err(SnapshotError::io("rename", source)),
        }
        let from = self.disk.open(source, Mode::Read).map_err(SnapshotError::io("open", source))?;
        let into = self.disk.open(to, Mode::CreateNew).map_err(SnapshotError::io("create", to))?;
        let mut offset = 0;
        each_piece(&from, source, |piece| {
            into.write_at(piece, offset).map_err(SnapshotError::io("write", to))?;
            offset += piece.len() as u64;
            match offset % SYNC_BYTES {
                0 => into.sync_data().map_err(SnapshotError::io("fdatasync", to)),
                _ => Ok(()),
            }
        })?;
        self.disk.remove(source).map_err(SnapshotError::io("remove", source))
    }

    /// Makes the file durable, and says how long it is and what its checksum is.
    fn settle(&self, path: &Path) -> Result<(u64, u32), SnapshotError> {
        let file = self.disk.open(path, Mode::Write).map_err(SnapshotError::io("open", path))?;
        file.sync_all().map_err(SnapshotError::io("fsync", path))?;
        let measured = measure(&file, path)?;
        is_rdb(&file, path, measured.0)?;
        Ok(measured)
    }

    /// Gives the pair its names; then the older pairs go.
    pub(super) fn publish(&mut self, temporary: &Path, about: About) -> Result<About, SnapshotError> {
        let Id { index, term, .. } = about.id;
        let rdb = self.directory.join(rdb_name(index, term));
        let sidecar = self.directory.join(about_name(index, term));
        let half_made = self.directory.join(about_name(index, term) + ".tmp");
        self.forget(&half_made);
        let file =
            self.disk.open(&half_made, Mode::CreateNew).map_err(SnapshotError::io("create", &half_made))?;
        let written = file.write_at(&about.encode(), 0).and_then(|()| file.sync_all());
        let named = written
            .map_err(SnapshotError::io("write", &half_made))
            .and_then(|()| self.disk.rename(temporary, &rdb).map_err(SnapshotError::io("rename", temporary)))
            .and_then(|()| self.sync_directory())
            .and_then(|()| {
                self.disk.rename(&half_made, &sidecar).map_err(SnapshotError::io("rename", &half_made))
            });
        if let Err(error) = named {
            self.forget(&half_made);
            self.forget(&rdb);
            return Err(error);
        }
        // From here on a crash may leave the new pair or the old one. Only the sync says that it is the new one; without
        // it nobody may rely on either, and the old one is kept.
        self.sync_directory()?;
        self.newest = Some(about.clone());
        if let Err(error) = self.remove_others(about.id) {
            log::warn!("an older snapshot stays: {error}");
        }
        Ok(about)
    }

    fn sync_directory(&self) -> Result<(), SnapshotError> {
        let directory = &self.directory;
        self.disk.sync_directory(directory).map_err(SnapshotError::io("fsync", directory))
    }

    /// The sidecars first: an RDB without one is nothing.
    fn remove_others(&self, keep: Id) -> Result<(), SnapshotError> {
        let others: Vec<_> = positions(self.disk.as_ref(), &self.directory)?
            .into_iter()
            .filter(|at| *at != (keep.index, keep.term))
            .collect();
        let remove = |name: String| {
            let path = self.directory.join(name);
            self.disk.remove(&path).map_err(SnapshotError::io("remove", &path))
        };
        others.iter().try_for_each(|(index, term)| remove(about_name(*index, *term)))?;
        if !others.is_empty() {
            self.sync_directory()?;
        }
        let rdb_is_there =
            |(index, term): &&(u64, u64)| self.disk.exists(&self.directory.join(rdb_name(*index, *term)));
        others.iter().filter(rdb_is_there).try_for_each(|(index, term)| remove(rdb_name(*index, *term)))
    }

    /// Removes what a crash left behind: temporary files, and RDBs that never got a sidecar.
    fn remove_leftovers(&self) -> Result<Vec<PathBuf>, SnapshotError> {
        let names = names(self.disk.as_ref(), &self.directory)?;
        let is_left = |name: &&String| match parse_name(name) {
            Name::Temporary => true,
            Name::Rdb { index, term } => !names.contains(&about_name(index, term)),
            Name::About { .. } | Name::Other => false,
        };
        let left: Vec<PathBuf> = names.iter().filter(is_left).map(|name| self.directory.join(name)).collect();
        for path in &left {
            self.disk.remove(path).map_err(SnapshotError::io("remove", path))?;
        }
        if !left.is_empty() {
            self.sync_directory()?;
        }
        Ok(left)
    }

    /// The file of a snapshot that is the newest, or was until lately.
    fn opened(&mut self, id: Id) -> Result<FileHandle, SnapshotError> {
        if let Some((_, file)) = self.open.iter().find(|(known, _)| *known == id) {
            return Ok(file.clone());
        }
        if self.newest.as_ref().is_none_or(|newest| newest.id != id) {
            return Err(SnapshotError::Gone { index: id.index, term: id.term });
        }
        let path = self.directory.join(rdb_name(id.index, id.term));
        let file = self.disk.open(&path, Mode::Read).map_err(SnapshotError::io("open", &path))?;
        self.open.truncate(OPEN_SNAPSHOTS - 1);
        self.open.push_front((id, file.clone()));
        Ok(file)
    }

    fn read(&mut self, id: Id, offset: u64, bytes: usize) -> Result<Bytes, SnapshotError> {
        let file = self.opened(id)?;
        let length = (id.bytes.saturating_sub(offset)).min(bytes as u64) as usize;
        let mut part = vec![0; length];
        let path = self.directory.join(rdb_name(id.index, id.term));
        file.read_at(&mut part, offset).map_err(SnapshotError::io("read", &path))?;
        Ok(part.into())
    }

    fn check(&self, id: Id) -> Result<(), SnapshotError> {
        let position = (id.index, id.term);
        let (disk, directory) = (self.disk.as_ref(), &self.directory);
        read_pair(disk, directory, &self.cluster_id, position, Depth::Checksum).map(drop)
    }

    fn receive(&mut self, about: About) {
        let temporary = self.temporary(about.id.index, about.id.term);
        if let Some(former) = self.receiving.replace(Receiving::new(about, temporary)) {
            self.forget(former.path());
        }
    }

    /// `Ok(true)`: that was the last part, and the snapshot is the newest one now.
    fn part(&mut self, id: Id, offset: u64, bytes: &[u8]) -> Result<bool, SnapshotError> {
        let Some(mut receiving) = self.receiving.take_if(|receiving| receiving.id() == id) else {
            return Err(SnapshotError::Gone { index: id.index, term: id.term });
        };
        if offset == 0 && !receiving.has_begun() {
            self.make_way(id.index, id.term)?;
            self.forget(receiving.path());
        }
        let written = receiving.write(self.disk.as_ref(), offset, bytes);
        match written {
            Ok(false) | Err(SnapshotError::OutOfOrder { .. }) => {
                self.receiving = Some(receiving);
                written
            }
            Ok(true) => {
                let temporary = receiving.path().to_path_buf();
                let named = receiving.finish().and_then(|about| self.publish(&temporary, about));
                if named.is_err() {
                    self.forget(&temporary);
                }
                named.map(|_| true)
            }
            Err(error) => {
                self.forget(receiving.path());
                Err(error)
            }
        }
    }
}

/// Calls `work` with the bytes of a file, in order.
pub(super) fn each_piece(
    file: &FileHandle,
    path: &Path,
    mut work: impl FnMut(&[u8]) -> Result<(), SnapshotError>,
) -> Result<(), SnapshotError> {
    let length = file.length().map_err(SnapshotError::io("find the length of", path))?;
    let mut buffer = vec![0; PIECE_BYTES.min(length as usize)];
    let mut offset = 0;
    while offset < length {
        let piece = &mut buffer[..PIECE_BYTES.min((length - offset) as usize)];
        file.read_at(piece, offset).map_err(SnapshotError::io("read", path))?;
        work(piece)?;
        offset += piece.len() as u64;
    }
    Ok(())
}

fn is_rdb(file: &FileHandle, path: &Path, length: u64) -> Result<(), SnapshotError> {
    let mut head = vec![0; length.min(6) as usize];
    file.read_at(&mut head, 0).map_err(SnapshotError::io("read", path))?;
    match RDB_MAGICS.iter().any(|magic| head.starts_with(magic)) {
        true => Ok(()),
        false => {
            Err(SnapshotError::damaged(path, 0, "a dump of the server", format!("{length} other bytes")))
        }
    }
}
