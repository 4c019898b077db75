//! The node: what all roles share, and the one entry point that hands each input to the role it concerns.

use std::collections::BTreeSet;

use super::disk::Disk;
use super::election::{Candidate, PreCandidate};
use super::follower::Follower;
use super::invariants::Checkpoint;
use super::io::{Append, Input, Output, Restored, Role, Settings, Source, Write};
use super::leader::Leader;
use super::lease::Promise;
use super::log_view::LogView;
use super::message::{Body, EntryMeta, Index, Membership, Message, NodeId, Position, Term, WriteId};
use super::progress::PeerProgress;
use super::random::Random;
use super::trust::Trust;
use super::validate::is_well_formed;

/// One node of the consensus. See the caller's contract in the module's documentation.
#[derive(Debug)]
pub struct Raft {
    pub(super) core: Core,
    pub(super) state: State,
    reported: (Role, Term, Option<NodeId>),
}

/// What a node keeps through all roles.
#[derive(Debug)]
pub(super) struct Core {
    pub settings: Settings,
    /// The driver's clock at the input being stepped. Invariant: never falls.
    pub now_us: u64,
    /// Invariant: never falls.
    pub term: Term,
    /// Invariant: within one term it is set at most once.
    pub vote: Option<NodeId>,
    /// Term, vote or promise have changed since the last write.
    unsaved: bool,
    pub promise: Promise,
    pub log: LogView,
    pub disk: Disk,
    /// Entries whose payload cannot be read. Invariant: they rise, and lie within the log.
    pub holes: Vec<Index>,
    pub trust: Trust,
    /// Invariant: never falls, never beyond the end of the log.
    pub commit: Index,
    random: Random,
    /// Peers whose process is said to be gone, and that were not heard since.
    pub unreachable: BTreeSet<NodeId>,
    /// Must not stand for election: see [`Input::Abstain`].
    abstains: bool,
    /// The leader's process is gone: attempts to succeed it so far, each more patient than the one before.
    pub hurry: Option<u32>,
}

/// The role, with what belongs to it alone.
#[derive(Debug)]
pub(super) enum State {
    Follower(Follower),
    PreCandidate(PreCandidate),
    Candidate(Candidate),
    Leader(Leader),
}

/// First attempt to succeed a leader whose process is gone: within this long.
const HURRY_JITTER_US: u64 = 10_000;

impl Core {
    pub fn id(&self) -> NodeId {
        self.settings.id
    }

    pub fn membership(&self) -> &Membership {
        self.log.membership()
    }

    pub fn is_voter(&self) -> bool {
        self.membership().is_voter(self.id())
    }

    /// Whether this node may stand for election: unless it abstains, as a voter, or as one whose removal is not known to be committed.
    /// The latter may hold the longest log, and then nobody else can be elected (dissertation 4.2.2).
    pub fn may_stand(&self) -> bool {
        let undecided = self.log.membership_index() > self.commit;
        let voted_before = || self.log.previous_membership().is_some_and(|former| former.is_voter(self.id()));
        !self.abstains && self.may_vote() && (self.is_voter() || (undecided && voted_before()))
    }

    /// Whether the log is what this node has acknowledged, as far as it knows.
    pub fn may_vote(&self) -> bool {
        self.holes.is_empty() && self.trust == Trust::Full
    }

    /// The last entry that may be counted as held here: durable with all before it, and readable unless it was
    /// committed already, by others or by this node at a time when it was readable.
    pub fn intact(&self) -> Index {
        let durable = self.disk.durable();
        self.open_hole().map_or(durable, |hole| durable.min(hole - 1))
    }

    /// Whether there is a hole that is not known to be committed: perhaps nobody else has that entry.
    pub fn has_open_hole(&self) -> bool {
        self.open_hole().is_some()
    }

    fn open_hole(&self) -> Option<Index> {
        let at = self.holes.partition_point(|hole| *hole <= self.commit);
        self.holes.get(at).copied()
    }

    /// Sends a message of the present term.
    pub fn send(&self, to: NodeId, body: Body, outputs: &mut Vec<Output>) {
        outputs.push(Output::Send { to, message: Message { term: self.term, body } });
    }

    /// Moves to a later term, in which no vote has been given yet.
    pub fn adopt_term(&mut self, term: Term) {
        assert!(term > self.term, "the term cannot go from {} to {term}", self.term);
        self.term = term;
        self.vote = None;
        self.unsaved = true;
        self.promise.forget_if_over(self.now_us);
    }

    /// Whoever hears a leader that answers reads by itself elects nobody else for a while.
    pub fn promise(&mut self, leader: NodeId, lease_us: u64) {
        if lease_us > 0 {
            self.unsaved |= self.promise.give(leader, lease_us, self.now_us);
        }
    }

    /// Whether an answer may tell the leader that it was promised what it asked for.
    pub fn promise_is_durable(&self) -> bool {
        self.promise.write.is_some_and(|write| self.disk.is_durable(write))
    }

    /// Gives the vote of the present term.
    pub fn set_vote(&mut self, vote: NodeId) {
        assert!(self.vote.is_none_or(|given| given == vote), "a second vote in term {}", self.term);
        self.unsaved |= self.vote.is_none();
        self.vote = Some(vote);
    }

    /// Hands a write to the disk, with term and vote if they changed.
    pub fn write(
        &mut self,
        truncate_from: Option<Index>,
        append: Option<Append>,
        regain_trust: bool,
        outputs: &mut Vec<Output>,
    ) -> WriteId {
        let hard_state = self.unsaved.then_some((self.term, self.vote));
        self.unsaved = false;
        let id = self.disk.issue(hard_state.is_some(), truncate_from, self.log.last_index());
        let promise_us = hard_state.and(self.promise.recorded_by(id));
        outputs.push(Output::Persist(Write {
            id,
            hard_state,
            promise_us,
            truncate_from,
            append,
            regain_trust,
        }));
        id
    }

    /// Hands term and vote to the disk if they changed.
    pub fn save_hard_state(&mut self, outputs: &mut Vec<Output>) {
        if self.unsaved {
            self.write(None, None, false, outputs);
        }
    }

    /// Replaces the log from `first` on by `entries`, in memory and in one write. Reports a new membership.
    pub fn replace_tail(
        &mut self,
        first: Index,
        entries: Vec<EntryMeta>,
        source: Source,
        outputs: &mut Vec<Output>,
    ) {
        let truncate_from = (first <= self.log.last_index()).then_some(first);
        let mut changed = false;
        if let Some(from) = truncate_from {
            assert!(
                from > self.commit,
                "entry {from} is committed (up to {}) and cannot be replaced",
                self.commit
            );
            changed |= self.log.truncate(from);
            self.holes.retain(|hole| *hole < from);
        }
        assert!(first == self.log.last_index() + 1, "the log would have a gap before entry {first}");
        for entry in &entries {
            changed |= self.log.append(entry);
        }
        self.write(truncate_from, Some(Append { first, entries, source }), false, outputs);
        if changed {
            outputs.push(Output::MembershipChanged { membership: self.membership().clone() });
        }
    }

    /// All up to `index` is decided.
    pub fn commit_up_to(&mut self, index: Index, outputs: &mut Vec<Output>) {
        if index > self.commit {
            self.commit = index;
            outputs.push(Output::Commit { index });
        }
    }

    /// When to stand for election, if nothing happens before: never before a promise has run out; then after 1x..2x the election timeout, or soon when the
    /// leader's process is known to be gone. Each hasty attempt waits about twice as long as the one before.
    pub fn draw_election_deadline_us(&mut self) -> u64 {
        let timeout_us = self.settings.election_timeout_us.max(1);
        let free_us = self.promise.until_us;
        if let Some(attempt) = self.hurry {
            let jitter_us = HURRY_JITTER_US << attempt.min(32);
            if jitter_us < timeout_us {
                self.hurry = Some(attempt + 1);
                let patience_us = if attempt == 0 { 0 } else { jitter_us / 2 };
                return self.now_us.max(free_us) + patience_us + self.random.below(jitter_us);
            }
            self.hurry = None;
        }
        (self.now_us + timeout_us).max(free_us) + self.random.below(timeout_us)
    }

    /// Paper 5.4.1: a log may lead only if it is not behind ours.
    pub fn is_up_to_date(&self, last: Position) -> bool {
        let ours = self.log.last();
        (last.term, last.index) >= (ours.term, ours.index)
    }
}

impl Raft {
    /// A node that has just started, as a follower of nobody. A sole voter stands for election at once.
    ///
    /// # Panics
    /// When `restored` breaks point 9 of the caller's contract.
    pub fn new(settings: Settings, restored: Restored, now_us: u64) -> Raft {
        let Restored { term, vote, promise_us, base, membership, entries, committed, holes, distrusted } =
            restored;
        let mut log = LogView::new(base, membership);
        for entry in &entries {
            log.append(entry);
        }
        assert!(log.last().term <= term, "the log ends at {:?}, but the restored term is {term}", log.last());
        assert!(
            committed <= log.last_index(),
            "entry {committed} is committed, the log ends at {:?}",
            log.last()
        );
        let random = Random::new(settings.seed, settings.id);
        let mut core = Core {
            settings,
            now_us,
            term,
            vote,
            unsaved: false,
            promise: Promise::restored(promise_us, now_us),
            disk: Disk::new(log.last_index()),
            log,
            commit: base.index.max(committed),
            holes,
            trust: distrusted.map_or(Trust::Full, |nonce| Trust::Lost { nonce }),
            random,
            unreachable: BTreeSet::new(),
            abstains: false,
            hurry: None,
        };
        let alone = core.is_voter() && core.membership().voters.len() == 1;
        let deadline_us = if alone { core.promise.until_us } else { core.draw_election_deadline_us() };
        let state = State::Follower(Follower::new(None, now_us, deadline_us));
        Raft { reported: (Role::Follower, term, None), core, state }
    }

    /// Takes one input at the time `now_us` and appends what is to be done about it to `outputs`.
    pub fn step(&mut self, now_us: u64, input: Input, outputs: &mut Vec<Output>) {
        let before = Checkpoint::of(self);
        self.core.now_us = self.core.now_us.max(now_us);
        self.check_quorum(outputs);
        match input {
            Input::Tick => self.tick(outputs),
            Input::Receive { from, message } => self.receive(from, message, outputs),
            Input::Propose { bytes } => self.propose(bytes, outputs),
            Input::ProposeMembership { membership, bytes } => {
                self.propose_membership(membership, bytes, outputs)
            }
            Input::Persisted { write } => self.persisted(write, outputs),
            Input::Read { id } => self.read(id, outputs),
            Input::Inform { peer } => self.inform(peer, outputs),
            Input::PeerUnreachable { peer } => self.peer_unreachable(peer, outputs),
            Input::PeerReachable { peer } => self.peer_reachable(peer, outputs),
            Input::Transfer { target } => self.transfer(target, outputs),
            Input::Compacted { through } => self.compacted(through),
            Input::InstalledSnapshot { position, membership } => {
                self.installed(position, membership, outputs)
            }
            Input::Abstain { abstain } => self.abstain(abstain, outputs),
            Input::Impaired { holes } => self.impaired(holes, outputs),
            Input::Reconfigure { settings } => self.reconfigure(settings),
        }
        self.core.save_hard_state(outputs);
        self.report_change(outputs);
        before.verify(self);
        #[cfg(any(test, debug_assertions))]
        self.check_invariants();
    }

    /// Panics, naming it, when a numbered invariant does not hold. Debug builds do so after every step.
    pub fn check_invariants(&self) {
        super::invariants::check(self);
    }

    /// When `Tick` is due, on the driver's clock, in microseconds; `u64::MAX` when nothing is waited for.
    pub fn next_deadline_us(&self) -> u64 {
        match &self.state {
            State::Leader(leader) => leader.deadline_us(),
            _ if !self.core.may_stand() => u64::MAX,
            State::Follower(follower) => follower.election_deadline_us,
            State::PreCandidate(candidate) => candidate.deadline_us,
            State::Candidate(candidate) => candidate.deadline_us,
        }
    }

    fn tick(&mut self, outputs: &mut Vec<Output>) {
        if self.core.now_us < self.next_deadline_us() {
            return;
        }
        match self.state {
            State::Leader(_) => self.leader_tick(outputs),
            State::Follower(Follower { told_to_stand: true, .. }) => self.campaign(true, outputs),
            State::Follower(_) | State::PreCandidate(_) | State::Candidate(_) => self.stand(outputs),
        }
    }

    fn receive(&mut self, from: NodeId, message: Message, outputs: &mut Vec<Output>) {
        if from == self.core.id() || from == 0 || !is_well_formed(&message) {
            return;
        }
        self.core.unreachable.remove(&from);
        let Message { term, body } = message;
        // Elections decide for themselves whether the sender's term counts.
        match body {
            Body::PreVote { last } => return self.on_pre_vote(from, term, last, outputs),
            Body::PreVoteReply { granted: true } => return self.on_pre_vote_granted(from, term, outputs),
            Body::Vote { last, transfer } => return self.on_vote(from, term, last, transfer, outputs),
            _ => {}
        }
        if term > self.core.term {
            self.become_follower(term, None, outputs);
        }
        let current = term == self.core.term;
        match body {
            Body::Append { prev, .. } if !current => self.refuse_stale(from, prev, outputs),
            Body::Append { prev, entries, commit, round, lease_us } => {
                self.core.promise(from, lease_us);
                self.on_append(from, prev, entries, commit, round, outputs)
            }
            _ if !current => {}
            Body::Appended { matched, round } => self.on_appended(from, matched, round, outputs),
            Body::Refused { prev, conflict, round, .. } => {
                self.on_refused(from, prev, conflict, round, outputs)
            }
            Body::VoteReply { granted: true } => self.on_vote_granted(from, outputs),
            Body::TimeoutNow => self.on_timeout_now(from, outputs),
            Body::Forgot { nonce } => self.on_forgot(from, nonce, outputs),
            Body::Remember { nonce, through } => self.on_remember(from, nonce, through),
            // From the target of a transfer: it declines. (A late refusal of our own election only costs another try.)
            Body::VoteReply { granted: false } => self.abandon_transfer(from, outputs),
            Body::PreVote { .. } | Body::PreVoteReply { .. } | Body::Vote { .. } => {}
        }
    }

    /// A sender that lags behind learns our term from the refusal, and steps down.
    fn refuse_stale(&self, to: NodeId, prev: Position, outputs: &mut Vec<Output>) {
        let (conflict, last) = (Position::default(), self.core.log.last_index());
        self.core.send(to, Body::Refused { prev: prev.index, conflict, last, round: 0 }, outputs);
    }

    fn persisted(&mut self, write: WriteId, outputs: &mut Vec<Output>) {
        self.core.disk.persisted(write);
        self.core.disk.release(self.core.term, outputs);
        self.trust_regained();
        match self.state {
            State::Follower(_) => self.acknowledge(outputs),
            State::PreCandidate(_) => {}
            State::Candidate(_) => self.on_own_vote_durable(outputs),
            State::Leader(_) => self.leader_progressed(outputs),
        }
    }

    /// Follows `leader`, or waits for one, in `term`. What the former role had under way is given up.
    pub(super) fn become_follower(&mut self, term: Term, leader: Option<NodeId>, outputs: &mut Vec<Output>) {
        if let State::Leader(former) = &mut self.state {
            if let Some(id) = former.reads.take_all() {
                outputs.push(Output::ReadFailed { id });
            }
        }
        if term > self.core.term {
            self.core.adopt_term(term);
        }
        let deadline_us = self.core.draw_election_deadline_us();
        self.state = State::Follower(Follower::new(leader, self.core.now_us, deadline_us));
    }

    /// A node that stands already gives it up; one that may stand again waits as after its start.
    fn abstain(&mut self, abstain: bool, outputs: &mut Vec<Output>) {
        if abstain == self.core.abstains {
            return;
        }
        self.core.abstains = abstain;
        let deadline_us = self.core.draw_election_deadline_us();
        match &mut self.state {
            State::Follower(follower) => follower.wait_until(deadline_us),
            State::PreCandidate(_) | State::Candidate(_) => {
                self.become_follower(self.core.term, None, outputs)
            }
            State::Leader(_) => {}
        }
    }

    fn peer_unreachable(&mut self, peer: NodeId, outputs: &mut Vec<Output>) {
        if peer == self.core.id() {
            return;
        }
        self.core.unreachable.insert(peer);
        match &mut self.state {
            State::Follower(follower) if follower.leader == Some(peer) && self.core.may_stand() => {
                self.core.hurry = Some(0);
                follower.election_deadline_us = self.core.draw_election_deadline_us();
            }
            State::Leader(_) => {
                self.pause_peer(peer);
                self.abandon_transfer(peer, outputs);
            }
            State::Follower(_) | State::PreCandidate(_) | State::Candidate(_) => {}
        }
    }

    fn peer_reachable(&mut self, peer: NodeId, outputs: &mut Vec<Output>) {
        let was_unreachable = self.core.unreachable.remove(&peer);
        match &mut self.state {
            State::Follower(follower) if was_unreachable && follower.leader == Some(peer) => {
                self.core.hurry = None;
                follower.election_deadline_us = self.core.draw_election_deadline_us();
            }
            State::Leader(_) => self.resume_peer(peer, outputs),
            State::Follower(_) | State::PreCandidate(_) | State::Candidate(_) => {}
        }
    }

    fn reconfigure(&mut self, settings: Settings) {
        let (id, seed) = (self.core.settings.id, self.core.settings.seed);
        self.core.settings = Settings { id, seed, ..settings };
        let deadline_us = self.core.draw_election_deadline_us();
        match &mut self.state {
            State::Follower(follower) => follower.wait_until(deadline_us),
            State::PreCandidate(candidate) => candidate.deadline_us = deadline_us,
            State::Candidate(candidate) => candidate.deadline_us = deadline_us,
            State::Leader(leader) => leader.reset_timers(&self.core),
        }
    }

    fn report_change(&mut self, outputs: &mut Vec<Output>) {
        let now = (self.role(), self.term(), self.leader());
        if now != self.reported {
            self.reported = now;
            outputs.push(Output::Changed { role: now.0, term: now.1, leader: now.2 });
        }
    }
}

/// What the driver and INFO may see.
impl Raft {
    pub fn role(&self) -> Role {
        match self.state {
            State::Follower(_) => Role::Follower,
            State::PreCandidate(_) => Role::PreCandidate,
            State::Candidate(_) => Role::Candidate,
            State::Leader(_) => Role::Leader,
        }
    }

    pub fn term(&self) -> Term {
        self.core.term
    }

    pub fn vote(&self) -> Option<NodeId> {
        self.core.vote
    }

    /// Who leads, as far as this node knows; itself when it does.
    pub fn leader(&self) -> Option<NodeId> {
        match &self.state {
            State::Follower(follower) => follower.leader,
            State::PreCandidate(_) | State::Candidate(_) => None,
            State::Leader(_) => Some(self.core.id()),
        }
    }

    /// How long the leader was not heard, in microseconds. `None`: none is known, or this node leads itself.
    pub fn leader_silence_us(&self, now_us: u64) -> Option<u64> {
        match &self.state {
            State::Follower(follower) => follower.leader.map(|_| now_us.saturating_sub(follower.heard_us)),
            State::Leader(_) | State::PreCandidate(_) | State::Candidate(_) => None,
        }
    }

    pub fn commit(&self) -> Index {
        self.core.commit
    }

    /// The end of the log, durable or not.
    pub fn last(&self) -> Position {
        self.core.log.last()
    }

    /// The last entry of this node's own log that is durable, with all before it.
    pub fn durable(&self) -> Index {
        self.core.disk.durable()
    }

    /// The entry before the first one that the log holds; (0, 0) while it holds all.
    pub fn base(&self) -> Position {
        self.core.log.base()
    }

    /// Whether the log holds this very entry, or has held it and forgotten.
    pub fn holds(&self, position: Position) -> bool {
        self.core.log.holds(position)
    }

    /// The last entry at or before `through` behind which, up to `through`, `bytes` of payload are left.
    pub fn leaving(&self, through: Index, bytes: u64) -> Index {
        self.core.log.leaving(through, bytes)
    }

    /// Payload bytes of the entries after `index`.
    pub fn bytes_after(&self, index: Index) -> u64 {
        self.core.log.bytes_after(index)
    }

    /// The term of the entry at `index`; None outside of the log.
    pub fn term_at(&self, index: Index) -> Option<Term> {
        self.core.log.term_at(index)
    }

    /// The membership in force: the newest in the log, committed or not.
    pub fn membership(&self) -> &Membership {
        self.core.membership()
    }

    /// Where it was appended.
    pub fn membership_index(&self) -> Index {
        self.core.log.membership_index()
    }

    pub fn is_voter(&self) -> bool {
        self.core.is_voter()
    }

    /// False on a node that may have lost what it acknowledged: it neither votes nor stands.
    pub fn is_trusted(&self) -> bool {
        self.core.trust == Trust::Full
    }

    /// This node leads, and an entry of its own term is committed: it may serve reads and change the membership.
    pub fn own_term_committed(&self) -> bool {
        match &self.state {
            State::Leader(leader) => leader.own_term_committed(&self.core),
            _ => false,
        }
    }

    /// Until when, on the driver's clock, no other node can lead: reads executed before this was looked at need no
    /// round as long as the clock is behind it. 0 on nodes without a lease.
    pub fn lease_until_us(&self) -> u64 {
        match &self.state {
            State::Leader(leader) => leader.lease_until_us(&self.core),
            _ => 0,
        }
    }

    /// On a leader: how each peer is doing. Nothing on other nodes.
    pub fn progress(&self) -> impl Iterator<Item = (NodeId, PeerProgress)> + '_ {
        let leader = match &self.state {
            State::Leader(leader) => Some(leader),
            _ => None,
        };
        leader.into_iter().flat_map(|leader| leader.progress(&self.core))
    }
}
