//! The gate, as `src/redis/gate.rs` has it: batches of held clients, in order of release.

use super::stream::Stream;
use crate::coverage;
use redisraft::node::bridge::{Bridge, Epoch, FINAL_SEQUENCE};
use std::collections::{BTreeMap, VecDeque};

struct Batch {
    sequence: u64,
    clients: Vec<u64>,
}

#[derive(Default)]
pub struct Gate {
    /// 0 = closed.
    epoch: Epoch,
    /// What was executed is still answered, but nothing more is executed.
    sealed: bool,
    sequence: u64,
    current: Vec<u64>,
    batches: VecDeque<Batch>,
    /// The last batch of each held client.
    held: BTreeMap<u64, u64>,
    wrote: bool,
}

impl Gate {
    /// Commands may be executed.
    pub fn is_open(&self) -> bool {
        self.leads() && !self.sealed
    }

    /// The leadership in which commands may be executed; 0 = closed or sealed.
    pub fn epoch(&self) -> Epoch {
        match self.sealed {
            true => 0,
            false => self.epoch,
        }
    }

    /// Open or sealed.
    pub fn leads(&self) -> bool {
        self.epoch != 0
    }

    pub fn is_sealed(&self) -> bool {
        self.sealed
    }

    /// Seals the gate, unless something was executed since the last batch was closed.
    pub fn try_seal(&mut self) -> bool {
        let idle = self.leads() && self.current.is_empty();
        self.sealed |= idle;
        idle
    }

    /// True: it was sealed.
    pub fn unseal(&mut self) -> bool {
        std::mem::take(&mut self.sealed)
    }

    pub fn open(&mut self, epoch: Epoch) {
        assert!(!self.leads() && self.held.is_empty(), "G2: the gate opens once, with nothing held");
        *self = Gate { epoch, ..Gate::default() };
    }

    pub fn wrote(&mut self) {
        self.wrote = true;
    }

    pub fn hold(&mut self, client: u64) {
        assert!(self.is_open(), "G2: nothing is held by a closed gate");
        if !self.current.contains(&client) {
            self.current.push(client);
        }
        self.held.insert(client, self.sequence + 1);
    }

    pub fn holds(&self, client: u64) -> bool {
        self.held.contains_key(&client)
    }

    /// Closes the batch of this turn.
    pub fn before_sleep(&mut self, stream: &mut Stream, bridge: &Bridge, forked: Option<u64>, now_us: u64) {
        if !self.leads() {
            return;
        }
        if self.current.is_empty() {
            if forked.is_some() {
                mark(stream, self.epoch, 0, forked);
            }
            return;
        }
        assert!(!self.sealed, "G4: a command was executed while the gate was sealed");
        let wrote = std::mem::take(&mut self.wrote);
        if !wrote && self.batches.is_empty() && now_us < bridge.lease_until_us() {
            coverage::mark("read under a lease");
            self.current.clear();
            self.held.clear();
            if forked.is_some() {
                mark(stream, self.epoch, 0, forked);
            }
            return;
        }
        self.sequence += 1;
        let clients = std::mem::take(&mut self.current);
        self.batches.push_back(Batch { sequence: self.sequence, clients });
        match wrote {
            true => mark(stream, self.epoch, self.sequence, forked),
            false => {
                bridge.read_barrier(self.epoch, self.sequence);
                if forked.is_some() {
                    mark(stream, self.epoch, 0, forked);
                }
            }
        }
    }

    /// The clients that are let go now. Each that was held is given here or by `fail`, once.
    pub fn release(&mut self, bridge: &Bridge) -> Vec<u64> {
        if !self.leads() {
            return Vec::new();
        }
        let released = bridge.released(self.epoch);
        assert!(released <= self.sequence, "batch {released} is released before it is closed");
        let mut free = Vec::new();
        while self.batches.front().is_some_and(|batch| batch.sequence <= released) {
            let batch = self.batches.pop_front().expect("there is a front");
            for client in batch.clients {
                if self.held.get(&client) == Some(&batch.sequence) {
                    self.held.remove(&client);
                    free.push(client);
                }
            }
        }
        free
    }

    /// Closes the gate; the clients whose connections must be closed without a byte.
    pub fn fail(&mut self, stream: &mut Stream) -> Vec<u64> {
        if !self.leads() {
            return Vec::new();
        }
        let Gate { epoch, held, sealed, .. } = std::mem::take(self);
        if !sealed {
            mark(stream, epoch, FINAL_SEQUENCE, None);
        }
        held.into_keys().collect()
    }
}

/// Sequence 0: no batch ends here. `forked`: the server has just forked for this attempt of a snapshot.
fn mark(stream: &mut Stream, epoch: Epoch, sequence: u64, forked: Option<u64>) {
    let numbers: Vec<String> = [Some(epoch), Some(sequence), forked]
        .into_iter()
        .flatten()
        .map(|number| number.to_string())
        .collect();
    let mut words: Vec<&[u8]> = vec![b"RAFT.MARK"];
    words.extend(numbers.iter().map(|number| number.as_bytes()));
    stream.propagate(0, &words);
}
