//! Handing leadership over: because somebody asks for it, because the server shuts down, or because this node's
//! disk or main thread stands still.
//!
//! Redis executes first and the log comes after, so a leader must stop executing before it stops proposing:
//!
//! ```text
//!   CatchingUp    Redis executes as ever; the target comes near the end of the log
//!   Sealing       main thread: clients are paused, nothing is executed; Sealed { offset }: the stream ends here
//!   Draining      the stream is read to that offset, proposed, committed, answered; the target holds all of it
//!   Transferring  the core tells the target to stand; nothing is proposed any more
//!                    |-- it leads: the local Redis follows with the dataset that it has, clients are sent there
//!                    '-- it does not, in time: Unseal, clients go on here
//! ```
//!
//! When the main thread stands still there is nothing to seal: what was proposed is committed, and what it executes
//! later is rolled back, as after any other loss of leadership.
//!
//! A leader that can commit nothing, because those that it needs wait for a snapshot and its own is damaged, cannot make
//! another one either: that would be at a mark that must be committed. Then it is enough that the target holds all.
//!
//! (N5, see the room: when Redis does not answer, "all that was executed" is what was read of it.)

use super::bridge::{Answer, Ticket, ToMain};
use super::local::Local;
use super::{Fatal, Node, World};
use crate::consensus::{Index, Input, NodeId, PeerProgress, Role, Term};

/// A target that takes this long at most from one end of the log to the next is near enough: what is left then keeps
/// clients waiting about as long.
const NEAR_US: u64 = 20_000;
/// Longest time from the seal to the transfer; clients wait meanwhile.
const SEALED_US: u64 = 1_500_000;
/// How long clients wait, after leadership has gone, to be sent to the successor instead of nowhere.
const SUCCESSOR_PATIENCE_US: u64 = 500_000;
/// Pause before leadership is offered again while something stands still.
const RETRY_US: u64 = 5_000_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The target is to reach `goal`, where the log ended at `since_us`.
    CatchingUp {
        goal: Index,
        since_us: u64,
    },
    Sealing,
    /// `offset`: where the stream ends; `None` when Redis does not answer.
    Draining {
        offset: Option<u64>,
    },
    Transferring,
}

/// Why leadership is to go, as far as it matters for how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    /// Somebody asked, or the disk stands still: nothing is left behind.
    Asked,
    /// The main thread stands still: it is not asked to stop.
    MainStalled,
    /// Nothing can be committed here: nothing is waited for.
    Stuck,
}

struct Attempt {
    number: u64,
    /// Who waits for the outcome.
    tickets: Vec<Ticket>,
    target: NodeId,
    /// The target was chosen by this node: whoever leads in the end is right.
    any: bool,
    cause: Cause,
    term: Term,
    /// Until it begins to transfer; then the core has its own. After leadership is lost: until nobody waits any more
    /// for a successor to be known.
    deadline_us: u64,
    lost: bool,
    phase: Phase,
}

#[derive(Default)]
pub(super) struct Handover {
    attempts: u64,
    current: Option<Attempt>,
    /// Who did not take over the last time: somebody else is asked first.
    failed_target: Option<NodeId>,
    next_offer_us: u64,
    pub done: u64,
    pub failed: u64,
}

impl Handover {
    /// The core takes no proposals.
    pub fn is_transferring(&self) -> bool {
        self.current.as_ref().is_some_and(|attempt| attempt.phase == Phase::Transferring)
    }

    /// Clients wait for its end: nothing else may be put into the log.
    pub fn holds_clients(&self) -> bool {
        self.current.as_ref().is_some_and(|attempt| !matches!(attempt.phase, Phase::CatchingUp { .. }))
    }

    pub fn deadline_us(&self) -> u64 {
        let waits = |attempt: &&Attempt| attempt.lost || attempt.phase != Phase::Transferring;
        self.current.as_ref().filter(waits).map_or(u64::MAX, |attempt| attempt.deadline_us)
    }
}

impl Node {
    /// `RAFT.TRANSFER_LEADER`, or a shutdown.
    pub fn on_transfer<W: World>(&mut self, world: &mut W, ticket: Ticket, target: Option<NodeId>) {
        if self.raft.role() != Role::Leader {
            let answer = self.not_leader();
            return world.bridge().answer(ticket, answer);
        }
        let begun = match &self.handover.current {
            Some(attempt) if target.is_none_or(|id| id == attempt.target) => Ok(()),
            Some(attempt) => {
                Err(format!("leadership is being handed over to node {} already", attempt.target))
            }
            None => self.begin_handover(world, target),
        };
        match (begun, &mut self.handover.current) {
            (Ok(()), Some(attempt)) => attempt.tickets.push(ticket),
            (Err(reason), _) => world.bridge().answer(ticket, Answer::Refused(reason)),
            (Ok(()), None) => unreachable!("it was just begun"),
        }
    }

    pub(super) fn is_handing_over(&self) -> bool {
        self.handover.current.is_some()
    }

    /// There must not be one under way.
    pub(super) fn begin_handover<W: World>(
        &mut self,
        world: &W,
        target: Option<NodeId>,
    ) -> Result<(), String> {
        let now_us = world.now_us();
        let chosen = match target {
            Some(id) => self.check_target(id, now_us).map(|()| id)?,
            None => self.best_target(now_us).ok_or("no other voter is reachable: this node leads on")?,
        };
        log::info!("handing leadership over to node {chosen}");
        self.handover.attempts += 1;
        self.handover.current = Some(Attempt {
            number: self.handover.attempts,
            tickets: Vec::new(),
            target: chosen,
            any: target.is_none(),
            cause: match () {
                _ if self.is_stuck(now_us) => Cause::Stuck,
                _ if self.watchdog.stalls.main => Cause::MainStalled,
                _ => Cause::Asked,
            },
            term: self.raft.term(),
            deadline_us: now_us + self.settings.transfer_timeout_ms * 1000,
            lost: false,
            phase: Phase::CatchingUp { goal: self.raft.last().index, since_us: now_us },
        });
        Ok(())
    }

    fn check_target(&self, id: NodeId, now_us: u64) -> Result<(), String> {
        if id == self.id {
            return Err(format!("node {id} is this node, and it leads already"));
        }
        let member = self.members().0.get(&id).ok_or(format!("node {id} is not a member, see RAFT.INFO"))?;
        if !member.voting {
            return Err(format!("node {id} is a learner: it cannot lead before it votes"));
        }
        let progress = self.raft.progress().find(|(peer, _)| *peer == id);
        match progress.is_some_and(|(_, progress)| self.is_reachable(&progress, now_us)) {
            true => Ok(()),
            false => Err(format!("node {id} is not reachable: this node leads on")),
        }
    }

    /// The voter with the longest log among those that answer, if possible another one than the last time.
    fn best_target(&self, now_us: u64) -> Option<NodeId> {
        let failed = self.handover.failed_target;
        let voters =
            self.raft.progress().filter(|(_, peer)| !peer.learner && self.is_reachable(peer, now_us));
        voters.max_by_key(|(id, peer)| (Some(*id) != failed, peer.matched, peer.heard_us)).map(|(id, _)| id)
    }

    /// Heard within half an election timeout, which is longer than a heartbeat: see the settings.
    pub(super) fn is_reachable(&self, peer: &PeerProgress, now_us: u64) -> bool {
        peer.reachable && now_us.saturating_sub(peer.heard_us) <= self.settings.election_timeout_ms * 500
    }

    /// Looks after disk and main thread; a leader that stands still offers its leadership.
    pub(super) fn watch<W: World>(&mut self, world: &mut W) -> Result<(), Fatal> {
        let now_us = world.now_us();
        if self.watchdog.look(now_us, world.bridge().answered(), &self.settings) {
            let stalls = self.watchdog.stalls;
            match (stalls.disk, stalls.main) {
                (false, false) => log::info!("disk and main thread go on"),
                (disk, main) => log::warn!(
                    "{} stands still: this node will not lead until it goes on",
                    match (disk, main) {
                        (true, false) => "the disk",
                        (false, true) => "the main thread of the server",
                        _ => "the disk and the main thread of the server",
                    }
                ),
            }
            self.handover.next_offer_us = now_us;
            self.step(world, Input::Abstain { abstain: stalls.any() }, &[])?;
            self.report_now(world);
        }
        if let Some(ping) = self.watchdog.ping(now_us) {
            world.bridge().ping(ping);
        }
        let leads = self.raft.role() == Role::Leader;
        let should_go = self.watchdog.stalls.any() || self.is_stuck(now_us);
        let offers = leads && should_go && self.handover.current.is_none();
        if offers && now_us >= self.handover.next_offer_us {
            self.handover.next_offer_us = now_us + RETRY_US;
            if let Err(reason) = self.begin_handover(world, None) {
                log::warn!("leadership cannot be handed over: {reason}");
            }
        }
        Ok(())
    }

    /// The main thread executes nothing any more; its stream ends at `offset`.
    pub fn on_sealed(&mut self, number: u64, offset: u64) {
        if let Local::Leading(leading) | Local::Draining(leading) = &mut self.local {
            if leading.sealing == Some(number) {
                leading.sealed = Some(offset);
            }
        }
        if let Some(attempt) = self.handover.current.as_mut().filter(|attempt| attempt.number == number) {
            if attempt.phase == Phase::Sealing {
                attempt.phase = Phase::Draining { offset: Some(offset) };
            }
        }
    }

    /// Takes the hand-over as far as it goes.
    pub(super) fn pump_handover<W: World>(&mut self, world: &mut W) -> Result<(), Fatal> {
        self.settle(world);
        let now_us = world.now_us();
        let Some(attempt) = &mut self.handover.current else { return Ok(()) };
        if self.raft.role() != Role::Leader || attempt.phase == Phase::Transferring {
            return Ok(());
        }
        if now_us >= attempt.deadline_us {
            let reason = match attempt.phase {
                Phase::CatchingUp { .. } => "it did not catch up in time",
                _ => "what was executed could not be committed in time",
            };
            self.fail_handover(world, reason);
            return Ok(());
        }
        if attempt.cause == Cause::MainStalled && !self.watchdog.stalls.main {
            self.fail_handover(world, "the main thread has come back");
            return Ok(());
        }
        let stops_redis = matches!(attempt.phase, Phase::Sealing | Phase::Draining { offset: Some(_) });
        if stops_redis && !matches!(&self.local, Local::Leading(leading) if leading.connected) {
            self.fail_handover(world, "the stream of the local server was lost");
            return Ok(());
        }
        let last = self.raft.last().index;
        let (target, phase) = (attempt.target, attempt.phase);
        let progress = self.raft.progress().find(|(peer, _)| *peer == target).map(|(_, progress)| progress);
        let Some(progress) = progress.filter(|progress| self.is_reachable(progress, now_us)) else {
            self.fail_handover(world, "it is not reachable any more");
            return Ok(());
        };
        let matched = progress.matched;
        let Some(attempt) = &mut self.handover.current else { return Ok(()) };
        let cause = attempt.cause;
        if let Phase::CatchingUp { goal, since_us } = phase {
            if matched < goal {
                return Ok(());
            }
            if goal < last && now_us - since_us > NEAR_US {
                attempt.phase = Phase::CatchingUp { goal: last, since_us: now_us };
                return Ok(());
            }
            self.seal(world, now_us);
        }
        let committed = self.raft.commit() == last || cause == Cause::Stuck;
        let everything_is_there = committed && matched == last;
        if everything_is_there && self.is_drained() {
            self.transfer(world, target)?;
        }
        Ok(())
    }

    /// Redis is to stop executing, if it can be told and if it executes at all.
    fn seal<W: World>(&mut self, world: &W, now_us: u64) {
        let Some(attempt) = &mut self.handover.current else { return };
        match &mut self.local {
            _ if attempt.cause != Cause::Asked => attempt.phase = Phase::Draining { offset: None },
            Local::Leading(leading) if leading.connected => {
                attempt.phase = Phase::Sealing;
                attempt.deadline_us = attempt.deadline_us.min(now_us + SEALED_US);
                leading.sealing = Some(attempt.number);
                world.bridge().tell_main(ToMain::Seal { attempt: attempt.number });
            }
            // The gate is about to open, or the stream: then it goes on. (The link that reads the stream is a client
            // until it is one; a pause would hold it up, too.)
            Local::Leading(_) | Local::Following(_) | Local::Promoting { .. } | Local::Draining(_) => {}
        }
    }

    /// Everything that Redis has executed is in the log, and answered.
    fn is_drained(&self) -> bool {
        let phase = self.handover.current.as_ref().map(|attempt| attempt.phase);
        match (phase, &self.local) {
            (Some(Phase::Draining { offset: None }), _) => true,
            (Some(Phase::Draining { offset: Some(offset) }), Local::Leading(leading)) => {
                leading.capture.offset() >= offset
                    && leading.capture.is_empty()
                    && leading.batches.is_empty()
                    && leading.barriers.is_empty()
            }
            _ => false,
        }
    }

    fn transfer<W: World>(&mut self, world: &mut W, target: NodeId) -> Result<(), Fatal> {
        self.refused = None;
        if let Some(attempt) = &mut self.handover.current {
            attempt.phase = Phase::Transferring;
        }
        self.step(world, Input::Transfer { target: Some(target) }, &[])?;
        if let Some(reason) = self.refused.take() {
            self.fail_handover(world, &format!("the transfer was not begun: {reason:?}"));
        }
        Ok(())
    }

    /// The core has given it up.
    pub(super) fn transfer_failed<W: World>(&mut self, world: &mut W) {
        self.fail_handover(world, "it did not take over in time");
    }

    /// This node leads on, and so do its clients.
    fn fail_handover<W: World>(&mut self, world: &mut W, reason: &str) {
        let Some(attempt) = self.handover.current.take() else { return };
        let text = format!(
            "leadership was not handed over to node {}: {reason}; this node leads on",
            attempt.target
        );
        log::warn!("{text}");
        self.handover.failed += 1;
        self.handover.failed_target = Some(attempt.target);
        self.handover.next_offer_us = world.now_us() + RETRY_US;
        if let Local::Leading(leading) = &mut self.local {
            if leading.sealing.take().is_some() {
                leading.sealed = None;
                world.bridge().tell_main(ToMain::Unseal);
            }
        }
        self.report_now(world);
        answer_all(world, attempt.tickets, Answer::Refused(text));
    }

    /// Leadership is lost. True: it was handed over with nothing left behind, and the main thread waits, sealed, for
    /// the successor to be known.
    pub(super) fn handed_over<W: World>(&mut self, world: &W, sealed: bool) -> bool {
        let now_us = world.now_us();
        let Some(attempt) = self.handover.current.as_mut().filter(|attempt| !attempt.lost) else {
            return false;
        };
        attempt.lost = true;
        attempt.deadline_us = now_us + SUCCESSOR_PATIENCE_US;
        let transferred = attempt.phase == Phase::Transferring;
        if transferred && attempt.cause == Cause::MainStalled {
            self.watchdog.handed_over_for_main(now_us);
        }
        transferred && sealed
    }

    /// After leadership was lost: tells whoever asked for it how it went, and lets the local Redis follow.
    fn settle<W: World>(&mut self, world: &mut W) {
        let Some(attempt) = &self.handover.current else { return };
        let leader = self.raft.leader();
        let (over, same_term) = (world.now_us() >= attempt.deadline_us, self.raft.term() == attempt.term);
        match leader {
            Some(id) if id == self.id && same_term => return,
            Some(id) if id == self.id => self.fail_handover(world, "this node was elected again"),
            Some(id) => {
                let expected = attempt.any || id == attempt.target;
                let attempt = self.handover.current.take().expect("just seen");
                self.handover.done += 1;
                self.handover.failed_target = None;
                log::info!("leadership was handed over: node {id} leads");
                self.report_now(world);
                let answer = match expected {
                    true => Answer::Ok,
                    false => Answer::Refused(format!("node {id} leads now, not node {}", attempt.target)),
                };
                answer_all(world, attempt.tickets, answer);
            }
            None if over => {
                let attempt = self.handover.current.take().expect("just seen");
                self.handover.failed += 1;
                let text = "leadership was given up, and no successor is known yet; see RAFT.INFO";
                answer_all(world, attempt.tickets, Answer::Refused(text.into()));
            }
            None => return,
        }
        let waits = matches!(&self.local, Local::Draining(leading) if leading.demote_due);
        if waits {
            self.follow_again(world);
        }
    }
}

fn answer_all<W: World>(world: &W, tickets: Vec<Ticket>, answer: Answer) {
    tickets.into_iter().for_each(|ticket| world.bridge().answer(ticket, answer.clone()));
}
