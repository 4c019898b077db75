//! Leading: the local Redis executes, its effects become entries, batches are released when they are committed.

use super::batches::{Batches, Need};
use super::bridge::{Epoch, ToMain, FINAL_SEQUENCE};
use super::capture::{Capture, CaptureError, Mark, Piece};
use super::local::{Following, Holds, Leading, Local};
use super::{Fatal, Node, World};
use crate::consensus::{Input, Role};
use crate::limits::MAX_ENTRY_BYTES;
use crate::log::{Entry, Kind};
use bytes::Bytes;

/// How often Redis is told how far its stream was read.
const ACKNOWLEDGE_PERIOD_US: u64 = 1_000_000;
/// Pause before the capture link is opened again: the first, and the longest after several tries.
const REOPEN_PAUSE_US: u64 = 10_000;
const MAX_REOPEN_PAUSE_US: u64 = 640_000;

impl Node {
    /// Makes the local Redis a master as soon as it holds the whole log, in a term that is this node's own.
    pub(super) fn maybe_promote<W: World>(&mut self, world: &mut W) {
        let Local::Following(Following { feed: Some(feed), connected: true, .. }) = &self.local else {
            return;
        };
        let last = self.raft.last().index;
        let settled = self.raft.commit() == last && feed.next() == last + 1;
        if self.raft.role() != Role::Leader || !self.raft.own_term_committed() || !settled {
            return;
        }
        world.bridge().want_applied(last);
        if world.bridge().applied() < last {
            return;
        }
        assert_eq!(world.bridge().applied(), last, "N2: the dataset is ahead of the log");
        self.epochs += 1;
        world.bridge().start_epoch(self.epochs);
        world.bridge().tell_main(ToMain::Promote { epoch: self.epochs });
        self.local = Local::Promoting { epoch: self.epochs, lost: false };
    }

    /// The local Redis is a master; its effects start after `offset`.
    pub fn on_promoted<W: World>(&mut self, world: &mut W, epoch: Epoch, replid: String, offset: u64) {
        let Local::Promoting { epoch: expected, lost } = self.local else {
            panic!("promoted without having been asked to");
        };
        assert_eq!(epoch, expected, "promotions are answered in order");
        world.capture_start(&replid, offset + 1);
        let leading = Leading {
            epoch,
            replid,
            capture: Capture::new(offset),
            batches: Batches::new(),
            barriers: Vec::new(),
            executed: world.bridge().applied(),
            dirty: false,
            reopen_at_us: None,
            connected: false,
            reopen_pause_us: REOPEN_PAUSE_US,
            acknowledge_at_us: world.now_us() + ACKNOWLEDGE_PERIOD_US,
            sealing: None,
            sealed: None,
            demote_due: false,
        };
        self.local = if lost { Local::Draining(leading) } else { Local::Leading(leading) };
    }

    pub fn on_promotion_failed(&self, reason: String) -> Fatal {
        Fatal::Promotion(reason)
    }

    pub fn on_read_barrier(&mut self, epoch: Epoch, sequence: u64) {
        if let Some(leading) = self.local.leading().filter(|leading| leading.epoch == epoch) {
            leading.barriers.push(sequence);
        }
    }

    /// The capture link is open: the local server sends its stream.
    pub fn on_capture_up(&mut self) {
        if let Local::Leading(leading) | Local::Draining(leading) = &mut self.local {
            leading.connected = true;
        }
    }

    /// The capture link broke. `resumable`: the bytes that follow can still be had.
    pub fn on_capture_lost<W: World>(&mut self, world: &mut W, reason: &str, resumable: bool) {
        log::warn!("lost the replication stream of the local server: {reason}");
        if let Local::Leading(leading) | Local::Draining(leading) = &mut self.local {
            leading.connected = false;
        }
        match &mut self.local {
            Local::Leading(leading) | Local::Draining(leading) if resumable => {
                leading.reopen_at_us = Some(world.now_us() + leading.reopen_pause_us);
                leading.reopen_pause_us = (leading.reopen_pause_us * 2).min(MAX_REOPEN_PAUSE_US);
            }
            Local::Leading(leading) => {
                world.bridge().tell_main(ToMain::Demote { epoch: leading.epoch });
                leading.dirty = true;
                self.answer_before_role_change(world);
                self.follow_again(world);
            }
            Local::Draining(leading) => {
                leading.dirty = true;
                self.follow_again(world);
            }
            Local::Following(_) | Local::Promoting { .. } => {}
        }
    }

    /// Opens the link again that broke, and says now and then that this end of it is alive.
    fn keep_capture_open<W: World>(&mut self, world: &mut W) {
        let (Local::Leading(leading) | Local::Draining(leading)) = &mut self.local else { return };
        let now_us = world.now_us();
        if leading.reopen_at_us.is_some_and(|at| now_us >= at) {
            leading.reopen_at_us = None;
            world.capture_start(&leading.replid, leading.capture.offset() + 1);
        }
        if now_us >= leading.acknowledge_at_us {
            leading.acknowledge_at_us = now_us + ACKNOWLEDGE_PERIOD_US;
            world.capture_acknowledge(leading.capture.offset());
        }
    }

    /// Reads the stream of effects: entries are proposed, marks become needs.
    pub(super) fn pump_capture<W: World>(&mut self, world: &mut W) -> Result<(), Fatal> {
        self.keep_capture_open(world);
        if self.handover.is_transferring() && matches!(self.local, Local::Leading(_)) {
            return Ok(()); // the core would not take it; it is read when the transfer has failed or succeeded
        }
        let (Local::Leading(leading) | Local::Draining(leading)) = &mut self.local else { return Ok(()) };
        let mut pieces = Vec::new();
        let mut result: Result<usize, CaptureError> = Ok(0);
        world.capture_read(&mut |bytes| {
            result = leading.capture.feed(bytes, &mut pieces);
            *result.as_ref().unwrap_or(&0)
        });
        if result? > 0 {
            leading.reopen_pause_us = REOPEN_PAUSE_US;
        }
        match &self.local {
            Local::Leading(_) => self.propose(world, pieces),
            _ => {
                self.drain(world, pieces);
                Ok(())
            }
        }
    }

    /// One proposal of all entries, then the marks' needs: an entry proposed now is appended and sent after
    /// its batches were executed, so its commit confirms leadership for them as well.
    fn propose<W: World>(&mut self, world: &mut W, pieces: Vec<Piece>) -> Result<(), Fatal> {
        let payloads: Vec<Bytes> = pieces.iter().filter_map(effects).collect();
        if payloads.iter().any(|payload| payload.len() > MAX_ENTRY_BYTES) {
            self.give_up(world, "a single command or transaction wrote more than an entry may hold");
            return Ok(());
        }
        let count = payloads.len() as u64;
        if !payloads.is_empty() {
            let bytes = payloads.iter().map(|payload| payload.len() as u32).collect();
            let entries: Vec<_> = payloads.into_iter().map(|p| Entry::new(0, 0, Kind::Normal, p)).collect();
            self.refused = None;
            self.step(world, Input::Propose { bytes }, &entries)?;
            let last = self.raft.last().index;
            let (Local::Leading(leading) | Local::Draining(leading)) = &mut self.local else { return Ok(()) };
            match self.refused.take() {
                None => leading.executed = last,
                Some(reason) => {
                    self.give_up(world, &format!("the log took no effects: {reason:?}"));
                    return Ok(());
                }
            }
            self.reports.appended(last, world.now_us());
        }
        let last = self.raft.last().index;
        let mut index = last - count;
        for piece in &pieces {
            match piece {
                Piece::Effects(_) => index += 1,
                Piece::Snapshot { attempt } => self.snapshot_marked(*attempt, index),
                Piece::Mark(_) => {}
            }
        }
        let mut proposed = false;
        let Local::Leading(leading) = &mut self.local else { return Ok(()) };
        for piece in pieces {
            match piece {
                Piece::Snapshot { .. } => {}
                Piece::Effects(_) => proposed = true,
                Piece::Mark(mark) if mark.epoch != leading.epoch => {
                    panic!("mark {mark:?} in the stream of leadership {}", leading.epoch)
                }
                Piece::Mark(mark) if proposed => {
                    leading.batches.add(mark.sequence, Need { commit: last, read: 0 })
                }
                Piece::Mark(mark) => leading.barriers.push(mark.sequence),
            }
        }
        Ok(())
    }

    /// Leadership is lost: nothing is proposed any more; whatever still comes makes the dataset dirty. The stream ends
    /// with the last mark, or where it was sealed.
    fn drain<W: World>(&mut self, world: &mut W, pieces: Vec<Piece>) {
        let Local::Draining(leading) = &mut self.local else { return };
        let last = Mark { epoch: leading.epoch, sequence: FINAL_SEQUENCE };
        leading.dirty |= pieces.iter().any(|piece| effects(piece).is_some());
        let sealed_end = leading.sealed.is_some_and(|offset| leading.capture.offset() >= offset);
        if !leading.demote_due && (sealed_end || pieces.contains(&Piece::Mark(last))) {
            self.follow_again(world);
        }
    }

    /// One read for all barriers of this turn (dissertation 6.4, amortised).
    pub(super) fn confirm_reads<W: World>(&mut self, world: &mut W) -> Result<(), Fatal> {
        let commit = self.raft.last().index;
        let Some(leading) = self.local.leading().filter(|leading| !leading.barriers.is_empty()) else {
            return Ok(());
        };
        self.last_read += 1;
        let (id, need) = (self.last_read, Need { commit, read: self.last_read });
        for sequence in leading.barriers.drain(..) {
            leading.batches.add(sequence, need);
        }
        self.reports.read_asked(id, world.now_us());
        match self.settings.quorum_reads {
            true => self.step(world, Input::Read { id }, &[]),
            false => {
                self.confirmed_read = id;
                Ok(())
            }
        }
    }

    /// Until when the main thread may answer reads of this leadership by itself; 0: it may not. The local Redis must be
    /// the leader's in this very leadership: what one has read in an earlier one may lack what others wrote since.
    pub(super) fn lease_until_us(&self) -> u64 {
        match self.local {
            Local::Leading(_) => self.raft.lease_until_us(),
            _ => 0,
        }
    }

    /// Lets go, in order, what is committed and confirmed (N3).
    pub(super) fn release<W: World>(&mut self, world: &mut W) {
        let (commit, confirmed) = (self.raft.commit(), self.confirmed_read);
        self.reports.read_confirmed(confirmed, world.now_us());
        let Some(leading) = self.local.leading() else { return };
        if let Some(sequence) = leading.batches.release(commit, confirmed) {
            world.bridge().release(sequence);
        }
    }

    /// Executed effects will not get into the log: nothing that is held may be answered, and the dataset is rolled
    /// back. Leadership in the consensus is another matter: the gate opens again when the dataset is the log's.
    fn give_up<W: World>(&mut self, world: &mut W, reason: &str) {
        log::error!("closing held clients and rolling back: {reason}");
        self.leadership_lost(world);
        if let Local::Draining(leading) = &mut self.local {
            leading.dirty = true;
        }
    }

    /// Answers to a round of reads are awaited: later reads need not wake this thread.
    pub fn read_round_is_under_way(&self) -> bool {
        matches!(self.local, Local::Leading(_)) && self.confirmed_read < self.last_read
    }

    pub(super) fn leadership_lost<W: World>(&mut self, world: &mut W) {
        if matches!(self.local, Local::Leading(_) | Local::Promoting { .. }) {
            self.answer_before_role_change(world);
        }
        world.bridge().set_lease(0);
        self.snapshots.leadership_lost();
        self.confirmed_read = self.last_read; // whoever waited for a confirmation is failed
        match std::mem::replace(&mut self.local, Local::fresh()) {
            Local::Leading(mut leading) => {
                leading.demote_due = self.handed_over(world, leading.sealed.is_some());
                if !leading.demote_due {
                    world.bridge().tell_main(ToMain::Demote { epoch: leading.epoch });
                }
                self.local = Local::Draining(leading);
            }
            Local::Promoting { epoch, lost: false } => {
                self.handed_over(world, false);
                world.bridge().tell_main(ToMain::Demote { epoch });
                self.local = Local::Promoting { epoch, lost: true };
            }
            other => {
                self.handed_over(world, false);
                self.local = other;
            }
        }
    }

    /// The leadership's stream is read to its end, or lost: the local Redis becomes a replica again.
    pub(super) fn follow_again<W: World>(&mut self, world: &mut W) {
        let (Local::Leading(leading) | Local::Draining(leading)) =
            std::mem::replace(&mut self.local, Local::fresh())
        else {
            unreachable!("only a leadership ends")
        };
        world.capture_stop();
        self.snapshots.leadership_lost();
        if leading.demote_due {
            world.bridge().tell_main(ToMain::Demote { epoch: leading.epoch });
        }
        let clean = !leading.dirty && leading.capture.is_empty();
        let holds = clean.then(|| Holds {
            replid: leading.replid.clone(),
            index: leading.executed,
            offset: leading.capture.offset(),
        });
        log::info!(
            "leadership {} ended after entry {}; the dataset {}",
            leading.epoch,
            leading.executed,
            if clean { "is that of the log" } else { "holds effects that the log does not: rolling back" }
        );
        self.local = Local::Following(Following { holds, ..Following::default() });
        let port = world.feed_port();
        world.bridge().tell_main(ToMain::Follow { port });
    }
}

fn effects(piece: &Piece) -> Option<Bytes> {
    match piece {
        Piece::Effects(payload) => Some(payload.clone()),
        Piece::Mark(_) | Piece::Snapshot { .. } => None,
    }
}
