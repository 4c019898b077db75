//! The snapshots of one directory.

use super::about::{about_name, parse_name, rdb_name, About, Id, Name};
use super::dump::DumpCheck;
use super::error::SnapshotError;
use super::job::{Done, Draft, Job};
use super::parts::Parts;
use super::readers::Readers;
use super::receive::{Receiving, SYNC_BYTES};
use super::removal::Removal;
use super::survey::{names, positions, read_pair, Depth};
use crate::log::disk::{Disk, FileHandle, Mode};
use bytes::Bytes;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Read and checked at once.
const PIECE_BYTES: usize = 1 << 20;
/// A file of this name says that a start has taken a snapshot for intact and was not proven right yet.
const UNREAD: &str = "snapshot-unread";

/// Invariant: `newest` is complete and durable on the disk.
pub struct Store {
    disk: Arc<dyn Disk>,
    directory: PathBuf,
    cluster_id: String,
    newest: Option<About>,
    receiving: Option<Receiving>,
    readers: Readers,
    parts: Parts,
    removal: Removal,
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
        Store::open_to(disk, directory, cluster_id, Depth::Checksum)
    }

    /// As `open`, where nothing could take the place of a snapshot: if it is the only one, its bytes are not read before
    /// they are used. Who loads it compares its checksum then and says [`Job::Proven`]; until that is said once, another
    /// start reads it first.
    ///
    /// Errors: as `open`.
    pub fn open_unread(
        disk: Arc<dyn Disk>,
        directory: &Path,
        cluster_id: &str,
    ) -> Result<(Store, Opened), SnapshotError> {
        let is_only = positions(disk.as_ref(), directory)?.len() == 1;
        // It is there already when the load of an earlier start has not come to its end.
        let noted = is_only && disk.open(&directory.join(UNREAD), Mode::CreateNew).is_ok();
        let depth = if noted { Depth::Length } else { Depth::Checksum };
        Store::open_to(disk, directory, cluster_id, depth)
    }

    fn open_to(
        disk: Arc<dyn Disk>,
        directory: &Path,
        cluster_id: &str,
        depth: Depth,
    ) -> Result<(Store, Opened), SnapshotError> {
        let mut store = Store::new(disk, directory, cluster_id);
        let leftovers = store.remove_leftovers()?;
        let opened = Opened { leftovers, ..store.look_through(depth)? };
        store.newest = opened.intact.first().cloned();
        if depth == Depth::Checksum && opened.damaged.is_empty() {
            store.proven();
        }
        Ok((store, opened))
    }

    /// All of the newest snapshot was read, and its checksum is right.
    fn proven(&mut self) {
        self.forget(&self.directory.join(UNREAD));
    }

    /// What `open` would find, without removing anything.
    ///
    /// Errors: as `open`.
    pub fn look(disk: Arc<dyn Disk>, directory: &Path, cluster_id: &str) -> Result<Opened, SnapshotError> {
        Store::new(disk, directory, cluster_id).look_through(Depth::Checksum)
    }

    fn new(disk: Arc<dyn Disk>, directory: &Path, cluster_id: &str) -> Store {
        Store {
            disk,
            directory: directory.to_path_buf(),
            cluster_id: cluster_id.to_string(),
            newest: None,
            receiving: None,
            readers: Readers::default(),
            parts: Parts::default(),
            removal: Removal::default(),
        }
    }

    fn look_through(&self, depth: Depth) -> Result<Opened, SnapshotError> {
        let mut opened = Opened::default();
        let (disk, directory) = (self.disk.as_ref(), &self.directory);
        for (index, term) in positions(disk, directory)? {
            match read_pair(disk, directory, &self.cluster_id, (index, term), depth) {
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
                self.forget(&file);
                None
            }
            Job::Read { reader, id, offset, bytes } => {
                Some(Done::Read { reader, id, offset, result: self.read(reader, id, offset, bytes) })
            }
            Job::Proven => {
                self.proven();
                None
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
    fn forget(&mut self, file: &Path) {
        if self.disk.exists(file) {
            if let Err(error) = self.removal.unlink(self.disk.as_ref(), file) {
                log::warn!("cannot remove {}: {error}", file.display());
            }
        }
    }

    /// Moves the server's file into the log's directory, which may be on another disk.
    fn take_over(&mut self, source: &Path, to: &Path) -> Result<(), SnapshotError> {
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

    /// Makes the file durable, and says how long it is and what its checksum is. It is a whole dump: the log is about to
    /// be purged of what it holds.
    fn settle(&self, path: &Path) -> Result<(u64, u32), SnapshotError> {
        let file = self.disk.open(path, Mode::Write).map_err(SnapshotError::io("open", path))?;
        file.sync_all().map_err(SnapshotError::io("fsync", path))?;
        let (mut dump, mut crc, mut bytes) = (DumpCheck::new(), crc32fast::Hasher::new(), 0);
        each_piece(&file, path, |piece| {
            dump.update(piece);
            crc.update(piece);
            bytes += piece.len() as u64;
            Ok(())
        })?;
        dump.finish(path)?;
        Ok((bytes, crc.finalize()))
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
        let former = self.newest.replace(about.clone());
        self.readers.replaced(former.map(|former| former.id));
        self.close_idle_files();
        self.proven();
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
    fn remove_others(&mut self, keep: Id) -> Result<(), SnapshotError> {
        let others: Vec<_> = positions(self.disk.as_ref(), &self.directory)?
            .into_iter()
            .filter(|at| *at != (keep.index, keep.term))
            .collect();
        for (index, term) in &others {
            let path = self.directory.join(about_name(*index, *term));
            self.disk.remove(&path).map_err(SnapshotError::io("remove", &path))?;
        }
        if !others.is_empty() {
            self.sync_directory()?;
        }
        for (index, term) in others {
            let path = self.directory.join(rdb_name(index, term));
            if self.disk.exists(&path) {
                let removed = self.removal.unlink(self.disk.as_ref(), &path);
                removed.map_err(SnapshotError::io("remove", &path))?;
            }
        }
        Ok(())
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

    /// The file of a snapshot that is the newest, or was until lately and is being read.
    fn opened(&mut self, reader: u64, id: Id) -> Result<FileHandle, SnapshotError> {
        if let Some(file) = self.readers.file(id, reader) {
            return Ok(file);
        }
        if self.newest.as_ref().is_none_or(|newest| newest.id != id) {
            return Err(SnapshotError::Gone { index: id.index, term: id.term });
        }
        let path = self.directory.join(rdb_name(id.index, id.term));
        // So that it can be cut when it has lost its name.
        let file = self.disk.open(&path, Mode::Write).map_err(SnapshotError::io("open", &path))?;
        self.readers.opened(id, file.clone(), reader);
        Ok(file)
    }

    fn read(&mut self, reader: u64, id: Id, offset: u64, bytes: usize) -> Result<Bytes, SnapshotError> {
        let file = self.opened(reader, id)?;
        let length = (id.bytes.saturating_sub(offset)).min(bytes as u64) as usize;
        let mut part = self.parts.take(length);
        file.read_at(&mut part, offset).map_err(|error| {
            let path = self.directory.join(rdb_name(id.index, id.term));
            SnapshotError::io("read", &path)(error)
        })?;
        let part = self.parts.give_out(part);
        if offset + length as u64 >= id.bytes {
            self.parts.forget();
            self.readers.finished(id, reader);
            self.close_idle_files();
        }
        Ok(part)
    }

    /// Closes the files that nobody reads; those that have lost their names give their space back.
    fn close_idle_files(&mut self) {
        let newest = self.newest.as_ref().map(|newest| newest.id);
        for (id, file) in self.readers.close_idle() {
            if Some(id) != newest {
                self.removal.add(file);
            }
        }
    }

    /// Whether removed files have given all their space back.
    pub fn is_tidy(&self) -> bool {
        self.removal.is_done()
    }

    /// Gives some of the space of removed files back. The caller pauses for [`STEP_PAUSE`] between two calls; what is
    /// not given back when the store ends goes in one go.
    pub fn tidy(&mut self) {
        self.removal.step();
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
