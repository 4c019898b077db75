//! What must hold between machines, whatever happened (Raft figure 3), and between logs and datasets.

use crate::coverage;
use crate::redis::dataset::Dataset;
use crate::redis::Applied;
use crate::store::Store;
use redisraft::consensus::{Index, Role, Term};
use redisraft::log::{Entry, Kind, LogError};
use redisraft::node::members::Members;
use redisraft::node::Node;
use redisraft::resp;
use redisraft::snapshot::About;
use std::collections::BTreeMap;

/// One committed entry: what all must agree on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Decided {
    term: Term,
    kind: Kind,
    payload_crc: u32,
}

impl Decided {
    fn of(entry: &Entry) -> Decided {
        Decided { term: entry.term, kind: entry.kind, payload_crc: entry.payload_crc }
    }
}

/// Knows the one history that all nodes must tell.
#[derive(Default)]
pub struct Judge {
    /// Who led in each term.
    leaders: BTreeMap<Term, u64>,
    decided: Vec<Decided>,
    /// A dataset that is given every committed entry, and its digest after each.
    reference: Dataset,
    digests: Vec<u64>,
    /// Entries that changed the membership, and what they made it.
    members: BTreeMap<Index, Members>,
    pub leader_changes: u64,
}

impl Judge {
    /// Last entry that any node has reported as committed.
    pub fn committed(&self) -> Index {
        self.decided.len() as Index
    }

    /// Looks at a node after it has moved. `judged`: the commit index at the last look at this process.
    /// `may_be_damaged`: an entry that cannot be read is not the code's fault, and is looked at when it can be.
    pub fn observe(&mut self, node: &Node, store: &Store, may_be_damaged: bool, judged: &mut Index) {
        let raft = node.raft();
        raft.check_invariants();
        if raft.role() == Role::Leader {
            if raft.progress().any(|(_, peer)| peer.inflight_messages >= 8) {
                coverage::mark("many messages in flight");
            }
            self.leads(node, raft.term());
        }
        self.observe_commits(node, store, may_be_damaged, judged);
    }

    /// What a node has committed, also one that died in the midst of its turn: it may have told others of it.
    pub fn observe_commits(&mut self, node: &Node, store: &Store, may_be_damaged: bool, judged: &mut Index) {
        let raft = node.raft();
        let base = raft.base();
        if base.index > *judged {
            let decided = self.decided.get(base.index as usize - 1);
            assert_eq!(decided.map(|decided| decided.term), Some(base.term), "a log begins behind {base:?}");
            *judged = base.index;
        }
        for index in *judged + 1..=raft.commit() {
            if index > self.committed() + 1 {
                assert!(may_be_damaged, "entries are committed in order");
                return; // those before could not be read, and are in a snapshot by now
            }
            match store.read(index) {
                Ok(entry) => self.commits(node.id(), &entry),
                Err(error) => {
                    let failed = matches!(error, LogError::Io { .. });
                    assert!(may_be_damaged || failed, "a committed entry: {error}");
                    return;
                }
            }
            *judged = index;
        }
    }

    /// Election safety: one leader in a term. Leader completeness: it holds all that was committed before.
    fn leads(&mut self, node: &Node, term: Term) {
        if let Some(leader) = self.leaders.get(&term) {
            assert_eq!(*leader, node.id(), "two leaders in term {term}");
            return;
        }
        self.leaders.insert(term, node.id());
        // Whoever does not know that its removal is committed may be needed: it may hold the longest log (dissertation 4.2.2).
        let knows = self.removed_by(node.id(), node.raft().commit());
        assert!(!knows, "node {} leads and knows that it was removed", node.id());
        self.leader_changes += 1;
        if self.leader_changes > 1 {
            coverage::mark("leader changed");
        }
        let before = node.raft().base().index as usize;
        for (at, decided) in
            self.decided.iter().enumerate().skip(before).filter(|(_, decided)| decided.term < term)
        {
            let held = node.raft().term_at(at as Index + 1);
            assert_eq!(
                held,
                Some(decided.term),
                "leader {} of term {term} lacks entry {}",
                node.id(),
                at + 1
            );
        }
    }

    /// State machine safety: nobody commits anything else at an index, ever.
    fn commits(&mut self, node: u64, entry: &Entry) {
        let at = entry.index as usize - 1;
        match self.decided.get(at) {
            Some(decided) => {
                assert_eq!(*decided, Decided::of(entry), "node {node} commits another entry {}", entry.index)
            }
            None => {
                assert_eq!(at, self.decided.len(), "entries are committed in order");
                self.decided.push(Decided::of(entry));
                self.apply(entry);
            }
        }
    }

    fn apply(&mut self, entry: &Entry) {
        if entry.kind == Kind::Normal {
            let (mut at, mut db, mut ranges) = (0, 0, Vec::new());
            while at < entry.payload.len() {
                let parsed = resp::parse_command(&entry.payload[at..], &resp::Limits::STREAM, &mut ranges);
                let used = parsed.ok().flatten().expect("an entry is whole commands");
                let words: Vec<&[u8]> =
                    ranges.iter().map(|range| &entry.payload[at..][range.clone()]).collect();
                match words[0] {
                    b"SELECT" => {
                        db = std::str::from_utf8(words[1]).expect("digits").parse().expect("a database")
                    }
                    b"MULTI" | b"EXEC" => {}
                    _ => {
                        self.reference.apply(db, &words);
                    }
                }
                at += used;
            }
            assert_eq!(db, 0, "an entry ends in database 0");
        }
        if entry.kind == Kind::Membership {
            let members = Members::decode(&entry.payload).expect("a membership");
            for id in members.0.keys() {
                assert!(!self.was_removed(*id), "entry {}: node id {id} is used again", entry.index);
            }
            self.members.insert(entry.index, members);
        }
        self.digests.push(self.reference.digest());
    }

    /// Whether a decided membership has taken this node out.
    pub fn was_removed(&self, id: u64) -> bool {
        self.removed_by(id, Index::MAX)
    }

    /// Whether the entries up to this one have done so.
    fn removed_by(&self, id: u64, index: Index) -> bool {
        let decided = || self.members.range(..=index).map(|(_, members)| members);
        let present = decided().next_back().is_some_and(|members| members.0.contains_key(&id));
        !present && decided().any(|members| members.0.contains_key(&id))
    }

    /// A snapshot is durable: it is of a decided entry (N5), and holds what all nodes hold there.
    pub fn snapshot(&self, about: &About, dump: &[u8], may_be_damaged: bool) {
        let (index, term) = (about.id.index, about.id.term);
        let decided = index.checked_sub(1).and_then(|at| self.decided.get(at as usize));
        assert_eq!(decided.map(|decided| decided.term), Some(term), "N5: a snapshot of entry {index}");
        let (_, members) = self.members.range(..=index).next_back().expect("the first entry has members");
        let kept = Members::decode(&about.members).expect("members in a snapshot");
        assert_eq!(kept, *members, "members in the snapshot of entry {index}");
        for (_, members) in self.members.range(..=index) {
            let forgotten = members.0.keys().find(|id| !about.used_ids.contains(id));
            assert_eq!(forgotten, None, "an id that the snapshot of entry {index} forgot");
        }
        if !may_be_damaged {
            let digest = Dataset::of(dump).digest();
            assert_eq!(digest, self.digest(index), "the dump of entry {index} holds another dataset");
        }
    }

    /// Digest of the dataset after entry `index`.
    pub fn digest(&self, index: Index) -> u64 {
        index.checked_sub(1).map_or(0, |at| self.digests[at as usize])
    }

    /// A server has run the feed up to an entry: its dataset is what all nodes hold there.
    pub fn applied(&self, node: u64, applied: Applied) {
        let Applied { index, digest } = applied;
        assert!(index <= self.committed(), "N1: node {node} was fed entry {index}, which is not committed");
        assert_eq!(digest, self.digest(index), "node {node} holds another dataset at entry {index}");
    }

    /// Log matching: where two logs have an entry of one term, they are the same up to there.
    pub fn match_logs(&self, stores: &[(u64, &Store)]) {
        for (at, (one_id, one)) in stores.iter().enumerate() {
            for (other_id, other) in &stores[at + 1..] {
                let term = |store: &Store, index| store.info(index).map(|info| info.term);
                let shared = one.last_index().min(other.last_index());
                let first = one.first_index().max(other.first_index());
                let agreed = (first..=shared).rev().find(|i| term(one, *i) == term(other, *i));
                for index in (first..=agreed.unwrap_or(0)).rev().take(200) {
                    let terms = (term(one, index), term(other, index));
                    assert_eq!(
                        terms.0, terms.1,
                        "logs of {one_id} and {other_id} agree later, not at {index}"
                    );
                }
            }
        }
    }
}
