//! Reads at a server that does not lead, as `src/redis/follower_reads.rs` has them: the client is blocked until
//! `RAFT.READ` in the feed says that its turn has come.

use super::commands::{self, Reply, Request};
use super::dataset::Dataset;
use crate::coverage;
use redisraft::consensus::Index;
use redisraft::node::bridge::Bridge;
use std::collections::VecDeque;

pub struct Pending {
    number: u64,
    pub connection: u64,
    pub request: Request,
    deadline_us: u64,
    /// What the server held when it was asked.
    applied: Index,
}

#[derive(Default)]
pub struct Reads {
    /// In order of their numbers.
    pending: VecDeque<Pending>,
    last: u64,
    /// The raft thread knows of reads up to here.
    told: u64,
    /// Connections, numbers of requests, and their replies, to be given to the connections.
    answered: Vec<(u64, u64, Reply)>,
}

impl Reads {
    pub fn ask(&mut self, connection: u64, request: Request, deadline_us: u64, bridge: &Bridge) {
        self.last += 1;
        let applied = bridge.applied();
        self.pending.push_back(Pending { number: self.last, connection, request, deadline_us, applied });
    }

    /// One request of the raft thread for all reads of a turn.
    pub fn tell(&mut self, bridge: &Bridge) {
        if self.told != self.last {
            self.told = self.last;
            bridge.want_reads(self.last);
        }
    }

    /// `RAFT.READ <through>` was run.
    pub fn run(&mut self, through: u64, dataset: &Dataset, applied: Index) {
        assert!(through <= self.last, "RAFT.READ {through}, and {} were asked for", self.last);
        while let Some(read) = self.take_due(|read| read.number <= through) {
            coverage::mark("read at a follower");
            if applied > read.applied {
                coverage::mark("read at a follower waited for entries");
            }
            let Request { number, bundle, step } = read.request;
            let reply = commands::read(dataset, bundle, &step).expect("only reads are asked for");
            self.answered.push((read.connection, number, reply));
        }
    }

    pub fn take_answered(&mut self) -> Vec<(u64, u64, Reply)> {
        std::mem::take(&mut self.answered)
    }

    /// The first one, if it has waited long enough.
    pub fn take_late(&mut self, now_us: u64) -> Option<Pending> {
        self.take_due(|read| read.deadline_us <= now_us)
    }

    fn take_due(&mut self, is_due: impl Fn(&Pending) -> bool) -> Option<Pending> {
        let due = self.pending.front().is_some_and(is_due);
        due.then(|| self.pending.pop_front()).flatten()
    }

    /// The server becomes a master: whoever waits starts over.
    pub fn take_all(&mut self) -> VecDeque<Pending> {
        std::mem::take(&mut self.pending)
    }

    /// The client is gone.
    pub fn forget(&mut self, connection: u64) {
        self.pending.retain(|read| read.connection != connection);
    }

    pub fn deadline_us(&self) -> u64 {
        self.pending.front().map_or(u64::MAX, |read| read.deadline_us)
    }
}
