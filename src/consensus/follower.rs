//! Following: taking entries, and answering when they are durable (paper 5.3).

use super::io::{Output, Source};
use super::message::{Body, EntryMeta, Index, NodeId, Position};
use super::raft::{Raft, State};
use super::trust::Trust;
use super::validate::end_of;

/// A node that takes entries from a leader, or waits for one. New for each term and leader.
#[derive(Debug)]
pub(super) struct Follower {
    pub leader: Option<NodeId>,
    /// When the leader was last heard from.
    pub heard_us: u64,
    pub election_deadline_us: u64,
    /// The leader hands over to us, and has said nothing since: stand at the deadline without asking first.
    pub told_to_stand: bool,
    /// Our log is the leader's up to here: it was compared in this term. Invariant: never beyond the log.
    pub verified: Index,
    /// The newest read round seen from this leader.
    round: u64,
    /// The leader sent entries up to here, and is owed an answer when they are durable.
    owed: Index,
    /// What the last answer said, or need not say. Invariant: `answered <= verified`.
    answered: Index,
    /// A message that need not wait for its entries is not answered yet: our term is not durable.
    owes_answer: bool,
    /// On a distrusted node: the leader counts it anew, and once all up to here is held nothing is missing.
    pub whole_at: Option<Index>,
}

impl Follower {
    pub fn new(leader: Option<NodeId>, now_us: u64, election_deadline_us: u64) -> Follower {
        Follower {
            leader,
            heard_us: now_us,
            election_deadline_us,
            told_to_stand: false,
            verified: 0,
            round: 0,
            owed: 0,
            answered: 0,
            owes_answer: false,
            whole_at: None,
        }
    }

    /// There is no reason to stand before this time.
    pub fn wait_until(&mut self, deadline_us: u64) {
        self.election_deadline_us = deadline_us;
        self.told_to_stand = false;
    }
}

impl Follower {
    /// A snapshot has brought all up to `index`: the leader holds it too, for it is committed. It is told at once.
    pub fn holds_all_up_to(&mut self, index: Index) {
        self.verified = self.verified.max(index);
        self.owes_answer = true;
    }
}

impl Raft {
    /// AppendEntries of the present term.
    pub(super) fn on_append(
        &mut self,
        from: NodeId,
        prev: Position,
        entries: Vec<EntryMeta>,
        commit: Index,
        round: u64,
        outputs: &mut Vec<Output>,
    ) {
        self.hear_leader(from, outputs);
        let Raft { core, state: State::Follower(follower), .. } = self else { return };
        if let (Trust::Lost { nonce }, None) = (core.trust, follower.whole_at) {
            return core.send(from, Body::Forgot { nonce }, outputs);
        }
        follower.round = follower.round.max(round);
        let end = end_of(prev, &entries);
        let base = core.log.base();
        // What lies before our base is committed, so the leader has it too: the comparison starts there.
        let known = base.index.saturating_sub(prev.index).min(entries.len() as Index) as usize;
        let holds_prev = prev.index < base.index || core.log.term_at(prev.index) == Some(prev.term);
        if !holds_prev {
            let conflict = core.log.at_or_before(prev.index, prev.term);
            let last = core.log.last_index();
            // A promise that a crash would make us forget is none yet.
            let round = if core.promise_is_durable() { round } else { 0 };
            core.send(from, Body::Refused { prev: prev.index, conflict, last, round }, outputs);
            return;
        }
        let first = prev.index + 1;
        let differs = |at: &usize| core.log.term_at(first + *at as Index) != Some(entries[*at].term);
        if let Some(skip) = (known..entries.len()).find(differs) {
            let tail = entries[skip..].to_vec();
            core.replace_tail(first + skip as Index, tail, Source::Message { skip }, outputs);
        }
        follower.verified = follower.verified.max(end.max(base.index));
        core.commit_up_to(commit.min(follower.verified), outputs);
        core.save_hard_state(outputs);
        if entries.is_empty() || end <= core.intact() {
            follower.owes_answer = true;
        } else {
            follower.owed = follower.owed.max(end);
            // What was durable before is no news: the next answer comes when the disk has got on.
            follower.answered = follower.answered.max(core.intact().min(follower.verified));
        }
        self.acknowledge(outputs);
    }

    /// A message of this term's leader came: whatever this node was in this term, it follows.
    fn hear_leader(&mut self, from: NodeId, outputs: &mut Vec<Output>) {
        let known = self.leader();
        assert!(
            known.is_none_or(|leader| leader == from),
            "nodes {known:?} and {from} both lead in term {}: node ids or votes were reused",
            self.core.term
        );
        let follows = known == Some(from);
        self.core.hurry = None;
        if !follows {
            self.become_follower(self.core.term, Some(from), outputs);
        }
        let deadline_us = self.core.draw_election_deadline_us();
        if let State::Follower(follower) = &mut self.state {
            follower.heard_us = self.core.now_us;
            follower.wait_until(deadline_us);
        }
    }

    /// Answers the leader what is durable, if an answer is owed and the disk has got on: a heartbeat, or entries that
    /// we had, as soon as our term is durable; new entries, as soon as they are. One answer serves all before it.
    pub(super) fn acknowledge(&mut self, outputs: &mut Vec<Output>) {
        self.regain_trust(outputs);
        let Raft { core, state: State::Follower(follower), .. } = self else { return };
        let Some(leader) = follower.leader else { return };
        let matched = core.intact().min(follower.verified);
        let owed = follower.owes_answer || matched.min(follower.owed) > follower.answered;
        if !owed || !core.disk.hard_state_durable() {
            return;
        }
        follower.owes_answer = false;
        follower.answered = matched;
        core.send(leader, Body::Appended { matched, round: follower.round }, outputs);
    }
}
