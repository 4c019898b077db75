//! The snapshot store of one process at work: its jobs take simulated time, one after the other, and count when that is
//! over. A crash before lets some first part of a job's disk calls have happened.

use crate::coverage;
use crate::disk::SimDisk;
use crate::network::Host;
use crate::redis::dump::Child;
use crate::simulation::{Event, Simulation};
use redisraft::consensus::NodeId;
use redisraft::log::disk::{Disk, Mode};
use redisraft::snapshot::{About, Done, Id, Job, Store};
use std::collections::VecDeque;
use std::io;
use std::path::Path;

/// What a child takes when nothing goes wrong any more.
const HEALED_DUMP_US: u64 = 10_000;

pub struct Worker {
    store: Store,
    disk: SimDisk,
    jobs: VecDeque<Job>,
    /// The job at work: its name, and what it will answer.
    busy: Option<(&'static str, Option<Done>)>,
    done: VecDeque<Done>,
    /// The newest snapshot that the raft thread may rely on.
    durable: Option<About>,
}

fn name_of(job: &Job) -> &'static str {
    match job {
        Job::Keep { .. } => "crashed while a snapshot was kept",
        Job::Part { .. } => "crashed while a part was written",
        Job::Discard { .. }
        | Job::Proven
        | Job::Read { .. }
        | Job::Check { .. }
        | Job::Receive { .. }
        | Job::StopReceiving => "",
    }
}

impl Worker {
    pub fn new(store: Store, disk: SimDisk) -> Worker {
        let durable = store.newest().cloned();
        Worker { store, disk, jobs: VecDeque::new(), busy: None, done: VecDeque::new(), durable }
    }

    pub fn submit(&mut self, job: Job) {
        self.jobs.push_back(job);
    }

    /// Begins the next job. True: `finish` is due later.
    pub fn start(&mut self) -> bool {
        if self.busy.is_some() {
            return false;
        }
        let Some(job) = self.jobs.pop_front() else { return false };
        log::trace!("snapshot store: {job:?}");
        self.busy = Some((name_of(&job), self.store.run(job)));
        true
    }

    /// The job at work is a part of a snapshot that a peer sends.
    pub fn receives(&self) -> bool {
        self.busy.as_ref().is_some_and(|(_, done)| matches!(done, Some(Done::Parted { .. })))
    }

    /// The disk is done with the job. The snapshot that has become the newest one by it.
    pub fn finish(&mut self) -> Option<About> {
        let (_, done) = self.busy.take().expect("a job is at work");
        self.disk.settle();
        let became_newest = match &done {
            Some(Done::Kept { result: Ok(about) }) => {
                coverage::mark("snapshot made");
                Some(about.clone())
            }
            Some(Done::Parted { result: Ok(true), .. }) => self.store.newest().cloned(),
            Some(Done::Kept { result: Err(error) }) => {
                log::info!("not kept: {error}");
                coverage::mark("snapshot not kept");
                None
            }
            Some(Done::Parted { result: Err(error), .. }) => {
                log::info!("part not taken: {error}");
                coverage::mark("part of a snapshot refused");
                None
            }
            _ => None,
        };
        self.done.extend(done);
        if became_newest.is_some() {
            self.durable = became_newest.clone();
        }
        became_newest
    }

    /// An answer for the raft thread.
    pub fn take_answer(&mut self) -> Option<Done> {
        self.done.pop_front()
    }

    pub fn durable(&self) -> Option<&About> {
        self.durable.as_ref()
    }

    /// The process dies.
    pub fn crash(self) -> Option<Id> {
        if let Some((name, _)) = self.busy.filter(|(name, _)| !name.is_empty()) {
            coverage::mark(name);
        }
        self.durable.map(|about| about.id)
    }
}

/// The child writes its dump as a server does: under another name first.
fn write_dump(disk: &SimDisk, child: &Child) -> io::Result<()> {
    let temporary = child.path.with_extension("temp");
    if disk.exists(&child.path) {
        disk.remove(&child.path)?;
    }
    if disk.exists(&temporary) {
        disk.remove(&temporary)?;
    }
    let file = disk.open(&temporary, Mode::CreateNew)?;
    file.write_at(&child.bytes, 0)?;
    file.sync_all()?;
    disk.rename(&temporary, &child.path)
}

impl Simulation {
    /// Lets the store begin with what was asked of it.
    pub fn start_snapshot_job(&mut self, host: Host) {
        let machine = &mut self.machines[host];
        let life = machine.life;
        let Some(process) = &mut machine.process else { return };
        let Some(node) = process.node.as_ref().map(|node| node.id()) else { return };
        let Some(worker) = &mut process.world.snapshots else { return };
        if worker.start() {
            let job_us = match self.healed {
                true => self.plan.sync_us,
                false => self.faults.long_tailed(self.plan.sync_us) + machine.slow_sync_us,
            };
            self.queue.after(job_us.max(1), Event::SnapshotJobDone { host, life, node });
        }
    }

    pub fn snapshot_job_done(&mut self, host: Host, life: u64, node: NodeId) {
        let now_us = self.now_us();
        let paused_until_us = self.machines[host].paused_until_us;
        let Some(process) = self.machines[host].process_of(life) else { return };
        if now_us < paused_until_us {
            return self.queue.at(paused_until_us, Event::SnapshotJobDone { host, life, node });
        }
        // The store ends with the node; another one may have joined since.
        let same = process.node.as_ref().is_some_and(|now| now.id() == node);
        let Some(worker) = process.world.snapshots.as_mut().filter(|_| same) else { return };
        let received = worker.receives();
        let newest = worker.finish();
        process.world.wake_raft.set();
        if let Some(about) = newest {
            let machine = &self.machines[host];
            let path = Path::new(crate::store::DIRECTORY).join(about.file_name());
            self.judge.snapshot(&about, &machine.disk.contents_of(&path), machine.may_be_damaged);
            self.note(about.id.index ^ u64::from(about.id.crc) << 32);
            if received {
                self.crash_on_receipt(host);
            }
        }
        self.start_snapshot_job(host);
        self.plan_turns(host);
    }

    /// A server has forked: its child takes its time, but not beyond the end of all faults.
    pub fn forked(&mut self, host: Host, child: Child) {
        let life = self.machines[host].life;
        let left_us = self.plan.fault_us.saturating_sub(self.now_us());
        let dump_us = match self.healed {
            true => HEALED_DUMP_US,
            false => self.faults.long_tailed(self.plan.dump_us).min(left_us + HEALED_DUMP_US),
        };
        self.queue.after(dump_us.max(1), Event::ChildDone { host, life, child });
    }

    pub fn child_done(&mut self, host: Host, life: u64, child: Child) {
        let machine = &mut self.machines[host];
        let disk = machine.disk.clone();
        let Some(process) = machine.process_of(life) else { return };
        if !process.server.saver.is_running(child.attempt) {
            return;
        }
        crate::trace::set_machine(host);
        let written = write_dump(&disk, &child);
        if let Err(error) = &written {
            log::info!("the dump was not written: {error}");
            coverage::mark("dump not written");
        }
        process.server.saver.child_ended(written.is_ok());
        self.rot_dump(host, &child.path);
        self.plan_turns(host);
    }
}
