//! The thread that does the work of the snapshot store, so that the raft thread never waits for it; and what a start
//! makes of the snapshots and the log that it finds.

use super::start;
use super::Setup;
use crate::link::Links;
use crate::log::disk::Disk;
use crate::log::Log;
use crate::node::Fatal;
use crate::snapshot::{About, Done, Job, SnapshotError, Store, STEP_PAUSE};
use mio::Waker;
use std::path::Path;
use std::sync::mpsc::{channel, Receiver, RecvTimeoutError, Sender};
use std::sync::Arc;
use std::thread::JoinHandle;

/// The store behind two queues.
pub(super) struct Worker {
    jobs: Sender<Job>,
    done: Receiver<Done>,
    thread: JoinHandle<()>,
}

impl Worker {
    /// `waker` is used after each answer. The thread ends some time after this is dropped.
    pub fn start(mut store: Store, waker: Arc<Waker>) -> Result<Worker, std::io::Error> {
        let (jobs, work) = channel();
        let (answer, done) = channel();
        let run = move || {
            while let Some(job) = next_job(&work, &mut store) {
                let Some(done) = store.run(job) else { continue };
                if answer.send(done).is_err() || waker.wake().is_err() {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new().name("raft-snapshot".into()).spawn(run)?;
        Ok(Worker { jobs, done, thread })
    }

    /// Waits until everything that was asked for is done.
    pub fn finish(self) {
        drop(self.jobs);
        // Its answers go nowhere; a panic there was printed by its hook.
        drop(self.done);
        let _ = self.thread.join();
    }

    pub fn submit(&self, job: Job) {
        // The thread ends only with the process, or after a panic that its hook has shown.
        if self.jobs.send(job).is_err() {
            log::error!("the snapshot thread has ended");
        }
    }

    pub fn next(&self) -> Option<Done> {
        self.done.try_recv().ok()
    }
}

/// The next job; until it comes the store tidies up. `None`: there will be none.
fn next_job(work: &Receiver<Job>, store: &mut Store) -> Option<Job> {
    while !store.is_tidy() {
        match work.recv_timeout(STEP_PAUSE) {
            Err(RecvTimeoutError::Timeout) => store.tidy(),
            job => return job.ok(),
        }
    }
    work.recv().ok()
}

/// A log with the snapshots beside it.
pub(super) struct OnDisk {
    pub log: Log,
    pub store: Store,
    pub snapshot: Option<About>,
}

/// Opens the snapshots beside a log that was just opened, and makes both fit.
///
/// Errors: as [`beside`], and the log's.
pub(super) fn open_beside(setup: &Setup, links: &Links, mut log: Log) -> Result<OnDisk, Fatal> {
    let (store, anew) = beside(setup.disk.clone(), &setup.log_directory, &mut log)?;
    if let Some(base) = anew {
        drop(log);
        log = start::replace_log(setup, links, base)?;
    }
    let snapshot = store.newest().cloned();
    Ok(OnDisk { log, store, snapshot })
}

/// Opens the snapshots beside a log that was just opened; what the newest one holds is not missed in the log. The
/// position, if there is one, is that of a snapshot whose installation was interrupted before the log was replaced: it
/// must begin anew there before anything is done with it.
///
/// Errors: the disk's; what the log begins behind is in no intact snapshot.
pub fn beside(
    disk: Arc<dyn Disk>,
    directory: &Path,
    log: &mut Log,
) -> Result<(Store, Option<(u64, u64)>), Fatal> {
    // All of it is read in any case when the server loads it: not twice, where nothing could take its place.
    let is_needed = log.base().0 > 0 && log.holes().is_empty();
    beside_read(disk, directory, log, is_needed)
}

fn beside_read(
    disk: Arc<dyn Disk>,
    directory: &Path,
    log: &mut Log,
    unread: bool,
) -> Result<(Store, Option<(u64, u64)>), Fatal> {
    let cluster_id = log.identity().cluster_id.clone();
    let (store, opened) = match unread {
        true => Store::open_unread(disk.clone(), directory, &cluster_id)?,
        false => Store::open(disk.clone(), directory, &cluster_id)?,
    };
    for file in &opened.leftovers {
        log::warn!("removed the half-made snapshot {}", file.display());
    }
    let base = log.base();
    let Some(about) = store.newest().cloned() else {
        return match (base.0, first(opened.damaged)) {
            (0, None) => Ok((store, None)),
            (0, Some(error)) => {
                log::error!("{error}. It is not needed: the log holds all entries");
                Ok((store, None))
            }
            (index, Some(error)) => {
                Err(Fatal::Start(format!("{error}. The log holds only what follows entry {index}")))
            }
            (index, None) => Err(Fatal::Start(format!(
                "{}: the log begins behind entry {index}, and there is no snapshot of what lies before: restore the \
                 missing snapshot-*.rdb and its .about, or move the directory away and let this node join anew",
                directory.display()
            ))),
        };
    };
    for error in &opened.damaged {
        log::error!("{error}. The snapshot of entry {} is used instead", about.id.index);
    }
    if about.id.index < base.0 {
        let reason = first(opened.damaged).map_or(String::new(), |error| format!("{error}. "));
        return Err(Fatal::Start(format!(
            "{reason}{}: the newest intact snapshot is of entry {}, the log begins behind entry {}: the entries between \
             are missing; restore the newer snapshot, or move the directory away and let this node join anew",
            directory.display(),
            about.id.index,
            base.0
        )));
    }
    let position = (about.id.index, about.id.term);
    let held = position == base || log.info(about.id.index).is_some_and(|info| info.term == about.id.term);
    if held {
        // What is damaged and held by the snapshot need not be fetched.
        if log.holes().first().is_some_and(|hole| hole.index <= about.id.index) {
            log::warn!(
                "damaged entries up to entry {} are given up: the snapshot holds them",
                about.id.index
            );
            log.purge(about.id.index);
        }
        return Ok((store, None));
    }
    if unread {
        // What the log holds is not given up for a snapshot that may be damaged.
        return beside_read(disk, directory, log, false);
    }
    log::warn!(
        "the log ends before the snapshot of entry {}, or is another one: it begins anew there",
        position.0
    );
    Ok((store, Some(position)))
}

fn first(damaged: Vec<SnapshotError>) -> Option<SnapshotError> {
    damaged.into_iter().next()
}
