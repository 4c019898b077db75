//! Elections: pre-vote, vote, and when they are refused (paper 5.2, dissertation 9.6 and 4.2.3).
//!
//! A node stands in two steps. It first asks whether it would be elected, which changes nothing anywhere; only with
//! a majority of such promises does it enter a new term and ask for votes. So a node that was cut off, or that is
//! behind, does not push the others into new terms.
//!
//! Neither promises nor votes come from a node whose log is not what it acknowledged (`trust.rs`), nor does it stand.

use super::io::Output;
use super::message::{Body, Message, NodeId, Position, Term};
use super::poll::Poll;
use super::raft::{Core, Raft, State};

/// Asks whether it would be elected in the next term.
#[derive(Debug)]
pub(super) struct PreCandidate {
    poll: Poll,
    pub deadline_us: u64,
}

/// Asks for votes in its term. Its own vote counts, and the others are asked, once that vote is durable.
#[derive(Debug)]
pub(super) struct Candidate {
    poll: Poll,
    pub deadline_us: u64,
}

impl Raft {
    /// The time for an election has come: begins, or begins again, with a pre-vote.
    pub(super) fn stand(&mut self, outputs: &mut Vec<Output>) {
        let core = &mut self.core;
        let mut poll = Poll::default();
        poll.grant(core.id());
        let won = poll.is_won(core.membership());
        let deadline_us = core.draw_election_deadline_us();
        let message = Message { term: core.term + 1, body: Body::PreVote { last: core.log.last() } };
        for to in other_voters(core) {
            outputs.push(Output::Send { to, message: message.clone() });
        }
        self.state = State::PreCandidate(PreCandidate { poll, deadline_us });
        if won {
            self.campaign(false, outputs);
        }
    }

    /// Enters a new term, votes for itself, and asks the others as soon as that is durable.
    pub(super) fn campaign(&mut self, transfer: bool, outputs: &mut Vec<Output>) {
        let core = &mut self.core;
        assert!(transfer || core.now_us >= core.promise.until_us, "I15: stands against its own promise");
        let next = core.term + 1;
        core.adopt_term(next);
        core.set_vote(core.id());
        core.save_hard_state(outputs);
        let message = Message { term: core.term, body: Body::Vote { last: core.log.last(), transfer } };
        for to in other_voters(core) {
            core.disk.hold(to, message.clone());
        }
        let deadline_us = core.draw_election_deadline_us();
        self.state = State::Candidate(Candidate { poll: Poll::default(), deadline_us });
    }

    /// The disk has got on; perhaps it holds our own vote now.
    pub(super) fn on_own_vote_durable(&mut self, outputs: &mut Vec<Output>) {
        if self.core.disk.hard_state_durable() {
            self.count_vote(self.core.id(), outputs);
        }
    }

    pub(super) fn on_vote_granted(&mut self, from: NodeId, outputs: &mut Vec<Output>) {
        self.count_vote(from, outputs);
    }

    fn count_vote(&mut self, from: NodeId, outputs: &mut Vec<Output>) {
        let State::Candidate(candidate) = &mut self.state else { return };
        candidate.poll.grant(from);
        if candidate.poll.is_won(self.core.membership()) {
            self.become_leader(outputs);
        }
    }

    /// `asked` is the term the promise is for; one for another term than the next is an old one.
    pub(super) fn on_pre_vote_granted(&mut self, from: NodeId, asked: Term, outputs: &mut Vec<Output>) {
        let State::PreCandidate(candidate) = &mut self.state else { return };
        if asked != self.core.term + 1 {
            return;
        }
        candidate.poll.grant(from);
        if candidate.poll.is_won(self.core.membership()) {
            self.campaign(false, outputs);
        }
    }

    /// Whether a leader other than `asker` is known to be alive: it leads itself (a leader without its quorum has
    /// stepped down before this), or it was heard within the election timeout and its process is not known to be gone.
    fn has_live_leader(&self, asker: NodeId) -> bool {
        match &self.state {
            State::Leader(_) => true,
            State::Follower(follower) => follower.leader.is_some_and(|leader| {
                let silent_us = self.core.now_us - follower.heard_us;
                leader != asker
                    && silent_us < self.core.settings.election_timeout_us
                    && !self.core.unreachable.contains(&leader)
            }),
            State::PreCandidate(_) | State::Candidate(_) => false,
        }
    }

    /// Would we vote for `from` in the term `asked`? Nothing changes here, whatever the answer. Members and others
    /// answer alike: a voter may not yet know that it has become one, and the asker counts only voters.
    pub(super) fn on_pre_vote(
        &mut self,
        from: NodeId,
        asked: Term,
        last: Position,
        outputs: &mut Vec<Output>,
    ) {
        let live_leader = self.has_live_leader(from);
        let core = &mut self.core;
        let free = asked > core.term || (asked == core.term && core.vote.is_none_or(|given| given == from));
        let granted = free
            && !live_leader
            && !core.promise.binds(from, core.now_us)
            && core.may_vote()
            && core.is_up_to_date(last);
        let term = if granted { asked } else { core.term };
        outputs
            .push(Output::Send { to: from, message: Message { term, body: Body::PreVoteReply { granted } } });
        // Two in a hurry would split the vote: who says yes lets the other go first.
        if granted && core.hurry.is_some() {
            if let State::Follower(follower) = &mut self.state {
                follower.election_deadline_us = core.draw_election_deadline_us();
            }
        }
    }

    /// RequestVote. While a leader is alive, or may answer reads by itself, it is not even heard: the term stays
    /// (dissertation 4.2.3), unless that leader itself sent the candidate.
    pub(super) fn on_vote(
        &mut self,
        from: NodeId,
        term: Term,
        last: Position,
        transfer: bool,
        outputs: &mut Vec<Output>,
    ) {
        let bound = self.core.promise.binds(from, self.core.now_us) || self.has_live_leader(from);
        if term >= self.core.term && !transfer && bound {
            return;
        }
        if term > self.core.term {
            self.become_follower(term, None, outputs);
        }
        let core = &mut self.core;
        let free = term == core.term && core.vote.is_none_or(|given| given == from);
        if !free || !core.may_vote() || !core.is_up_to_date(last) {
            core.send(from, Body::VoteReply { granted: false }, outputs);
            return;
        }
        core.set_vote(from);
        core.save_hard_state(outputs);
        core.disk.hold(from, Message { term, body: Body::VoteReply { granted: true } });
        core.disk.release(term, outputs);
        // Whoever gave a vote waits for its outcome, and asks for none meanwhile.
        if let State::Follower(follower) = &mut self.state {
            follower.wait_until(core.draw_election_deadline_us());
        } else {
            self.become_follower(term, None, outputs);
        }
    }

    /// The leader hands over to us: stand with the next tick, which is due at once, without asking first (dissertation
    /// 3.10); or decline. Any later message of the leader takes it back: as long as it means it, it says so again
    /// behind each heartbeat. So a node that finds this in its mail after a pause, behind it the word of a leader that
    /// has given it up and leads on, disturbs nobody.
    pub(super) fn on_timeout_now(&mut self, from: NodeId, outputs: &mut Vec<Output>) {
        let may_stand = self.core.may_stand();
        let State::Follower(follower) = &mut self.state else { return };
        if follower.leader != Some(from) {
            return;
        }
        if may_stand {
            follower.told_to_stand = true;
            follower.election_deadline_us = self.core.now_us;
        } else {
            self.core.send(from, Body::VoteReply { granted: false }, outputs);
        }
    }
}

fn other_voters(core: &Core) -> impl Iterator<Item = NodeId> {
    let id = core.id();
    let voters: Vec<NodeId> = core.membership().voters.iter().copied().filter(|voter| *voter != id).collect();
    voters.into_iter()
}
