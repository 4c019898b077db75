//! What the raft thread asks of the main thread, as `src/redis/roles.rs` has it.

use super::replica::Replica;
use super::server::{leader_elsewhere, Delivery, Role, Server, Turn};
use crate::coverage;
use crate::process::RaftEvent;
use redisraft::node::bridge::{Epoch, ToMain, ToRaft};

impl Server {
    pub(super) fn handle_messages(&mut self, turn: &mut Turn) {
        let mut messages = Vec::new();
        turn.bridge.take_for_main(&mut messages);
        for message in messages {
            match message {
                ToMain::Follow { .. } => {
                    // Now and then it is still loading, or clients wait for their answers.
                    let later_us = if turn.random.chance(100) { turn.random.long_tailed(20_000) } else { 0 };
                    match later_us {
                        0 => self.follow(turn),
                        _ => self.follow_at_us = Some(turn.now_us + later_us),
                    }
                }
                ToMain::Promote { epoch } => self.promote(epoch, turn),
                ToMain::Demote { epoch } => self.demote(epoch, turn),
                ToMain::Seal { attempt } => self.seal_due = Some(attempt),
                ToMain::Unseal => {
                    self.seal_due = None;
                    if self.gate.unseal() {
                        coverage::mark("hand over given up after sealing");
                        self.wake_waiters(turn);
                    }
                }
                ToMain::Empty { load } => {
                    if !self.dataset.is_empty() {
                        coverage::mark("dataset rolled back");
                    }
                    self.dataset.clear();
                    turn.bridge.tell_raft(ToRaft::Emptied { load });
                }
                ToMain::Snapshot { epoch, attempt, file } => self.saver.ask(epoch, attempt, file),
                ToMain::Retire => self.retire(turn),
                ToMain::LeaderChanged => {
                    if leader_elsewhere(&turn.bridge.status()).is_some() {
                        self.wake_waiters(turn);
                    }
                }
                ToMain::Answer { ticket, answer } => {
                    turn.outcome.deliveries.push(Delivery::Answer { ticket, answer })
                }
            }
        }
    }

    /// Leadership is being handed over: nothing is executed or expired from here on.
    pub(super) fn seal(&mut self, turn: &mut Turn) {
        let Some(attempt) = self.seal_due else { return };
        if self.gate.try_seal() {
            self.seal_due = None;
            coverage::mark("gate sealed");
            turn.bridge.tell_raft(ToRaft::Sealed { attempt, offset: self.stream.offset });
        }
    }

    /// `REPLICAOF 127.0.0.1 <feed port>`: a master turns its own history into the one to go on with.
    pub fn follow(&mut self, turn: &mut Turn) {
        if matches!(self.role, Role::Replica(_)) {
            return;
        }
        assert!(!self.gate.leads(), "REPLICAOF while the gate is open");
        self.role = Role::Replica(Replica::new(turn.now_us + turn.random.below(2_000)));
    }

    /// At start a server without an RDB has no history to go on with.
    fn promote(&mut self, epoch: Epoch, turn: &mut Turn) {
        let Role::Replica(_) = &self.role else { panic!("a master is promoted") };
        if std::mem::take(&mut self.refuse_promotion) {
            coverage::mark("promotion refused");
            let reason = "simulated".to_string();
            return turn.bridge.tell_raft(ToRaft::PromotionFailed { epoch, reason });
        }
        self.role = Role::Master;
        self.has_history = true;
        if turn.links.open_feed().is_some() {
            turn.outcome.events.push(RaftEvent::FeedLost);
        }
        turn.links.feed = None;
        let replid = turn.random.replid();
        self.stream.rename(replid.clone());
        self.gate.open(epoch);
        let offset = self.stream.offset;
        turn.bridge.tell_raft(ToRaft::Promoted { epoch, replid, offset });
        self.reads_start_over(turn);
        self.wake_waiters(turn);
    }

    /// This node was taken out of its cluster: a master without data.
    fn retire(&mut self, turn: &mut Turn) {
        assert!(!self.gate.leads(), "a leader is put away");
        self.follow_at_us = None;
        self.role = Role::Master;
        self.has_history = false;
        turn.links.feed = None;
        self.saver.kill();
        self.dataset.clear();
        self.stream.restart(turn.random.replid(), 0);
        self.reads_start_over(turn);
        self.wake_waiters(turn);
    }

    fn demote(&mut self, _: Epoch, turn: &mut Turn) {
        self.seal_due = None;
        let held = self.gate.fail(&mut self.stream);
        if !held.is_empty() {
            coverage::mark("held clients were cut off");
        }
        for id in held {
            self.cut_off(id, turn);
        }
    }
}
