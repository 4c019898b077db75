//! What must hold between nodes, whatever happened.

use std::collections::BTreeMap;

use super::super::message::{Index, NodeId, Term};
use super::disk::Stored;

/// Knows the one history that all nodes must tell.
#[derive(Default)]
pub(super) struct Judge {
    /// Who led in each term.
    leaders: BTreeMap<Term, NodeId>,
    /// Term and payload of all that any node ever reported as committed.
    pub committed: Vec<(Term, u64)>,
    /// What was committed anywhere when a read was asked for, by node and id.
    reads: BTreeMap<(NodeId, u64), Index>,
    pub reads_answered: u64,
}

fn identity(entry: &Stored) -> (Term, u64) {
    (entry.meta.term, entry.payload)
}

impl Judge {
    /// Election safety (at most one leader per term) and leader completeness (it holds all that was committed).
    pub fn leads(&mut self, id: NodeId, term: Term, log: &[Stored]) {
        let first_seen = !self.leaders.contains_key(&term);
        let leader = *self.leaders.entry(term).or_insert(id);
        assert_eq!(leader, id, "two leaders in term {term}");
        if first_seen {
            for (at, committed) in self.committed.iter().enumerate().filter(|(_, c)| c.0 < term) {
                let held = log.get(at).map(identity);
                assert_eq!(held, Some(*committed), "leader {id} of term {term} lacks committed {}", at + 1);
            }
        }
    }

    /// State machine safety: nobody commits anything else at an index, ever.
    pub fn commits(&mut self, id: NodeId, from: Index, to: Index, log: &[Stored]) {
        for (at, entry) in log.iter().enumerate().take(to as usize).skip(from as usize) {
            let entry = identity(entry);
            match self.committed.get(at) {
                Some(committed) => {
                    assert_eq!(*committed, entry, "node {id} commits another entry {}", at + 1)
                }
                None => self.committed.push(entry),
            }
        }
    }

    /// Log matching: where two logs have an entry of one term, they are the same up to there.
    pub fn match_logs(logs: &[&[Stored]]) {
        for (at, one) in logs.iter().enumerate() {
            for other in &logs[at + 1..] {
                let shared = one.len().min(other.len());
                let agreed = (0..shared).rev().find(|i| one[*i].meta.term == other[*i].meta.term);
                let Some(agreed) = agreed else { continue };
                let differs = (0..=agreed).find(|i| one[*i] != other[*i]);
                assert_eq!(differs, None, "logs agree at {} and differ before", agreed + 1);
            }
        }
    }

    /// A node whose log was cut, when `known` entries were committed anywhere, says that nothing is missing.
    pub fn trusted(&self, id: NodeId, known: Index, log: &[Stored]) {
        for (at, committed) in self.committed.iter().enumerate().take(known as usize) {
            let held = log.get(at).map(identity);
            assert_eq!(held, Some(*committed), "{id} is trusted again and lacks {}", at + 1);
        }
    }

    pub fn read_asked(&mut self, id: NodeId, read: u64) {
        self.reads.insert((id, read), self.committed.len() as Index);
    }

    /// Linearizable reads: what was committed anywhere when the read came is in its answer.
    pub fn read_ready(&mut self, id: NodeId, up_to: u64, index: Index, commit: Index) {
        assert!(index <= commit, "read {up_to} on {id} waits for {index}, committed are {commit}");
        for (read, known) in self.take_reads(id, up_to) {
            assert!(index >= known, "read {read} on {id} sees {index} of {known} committed before it");
            self.reads_answered += 1;
        }
    }

    pub fn read_failed(&mut self, id: NodeId, up_to: u64) {
        self.take_reads(id, up_to);
    }

    /// Reads that a crash took with it are never answered.
    pub fn reads_lost(&mut self, id: NodeId) {
        self.take_reads(id, u64::MAX);
    }

    pub fn reads_open(&self, id: NodeId) -> usize {
        self.reads.range((id, 0)..=(id, u64::MAX)).count()
    }

    fn take_reads(&mut self, id: NodeId, up_to: u64) -> Vec<(u64, Index)> {
        let due: Vec<_> =
            self.reads.range((id, 0)..=(id, up_to)).map(|(key, known)| (key.1, *known)).collect();
        for (read, _) in &due {
            self.reads.remove(&(id, *read));
        }
        due
    }
}
