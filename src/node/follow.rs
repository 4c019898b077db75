//! Following: the local Redis is fed committed entries, and nothing else (N1).

use super::feed::{Feed, CHUNK_BYTES, WINDOW_BYTES};
use super::local::{Following, Local};
use super::{Fatal, Node, World};
use crate::consensus::{Index, Role};
use crate::log::{Kind, LogError};
use bytes::Bytes;

/// Bytes given to the socket and not yet taken by the kernel: beyond it, chunks wait in the log instead.
const UNSENT_BYTES: usize = 1 << 20;
/// Shortest time between two chunks, while there is little to send and nobody waits for it: each chunk wakes the
/// server's main thread, and a follower's dataset need not be newer than this.
const CHUNK_PERIOD_US: u64 = 3_000;
/// The local Redis drops a master that is silent for `repl-timeout`, 60 s by default, 1 s at least.
const PING_PERIOD_US: u64 = 500_000;

impl Node {
    /// The local Redis asks to go on at byte `offset` of stream `replid` (`?` and -1: it has none).
    pub fn on_feed_psync<W: World>(&mut self, world: &mut W, replid: &str, offset: i64) {
        let Local::Following(following) = &mut self.local else {
            world.feed_close(); // it is about to become a master, or comes from before that
            return;
        };
        following.connected = true;
        following.ping_at_us = world.now_us() + PING_PERIOD_US;
        let whole = following.loading.take().is_none();
        let rest = following.feed.as_ref().filter(|_| whole).and_then(|feed| feed.resume(replid, offset));
        let holds = following.holds.take();
        match (rest, holds) {
            (Some(rest), _) => {
                let replid = following.feed.as_ref().expect("resumed").replid().to_string();
                world.feed_continue(&replid);
                rest.into_iter().for_each(|bytes| world.feed_write(bytes));
            }
            (None, Some(holds)) if holds.is_at(replid, offset) && holds.index >= self.raft.base().index => {
                let fresh = world.fresh_replid();
                log::info!("local server goes on after entry {}", holds.index);
                world.feed_continue(&fresh);
                world.bridge().reset_applied(holds.index);
                let feed = Feed::new(self.feed_token.clone(), fresh, holds.offset, holds.index + 1);
                following.feed = Some(feed);
                self.snapshots.feed_replaced();
                self.follower_reads.feed_replaced();
            }
            (None, _) => self.full_resync(world),
        }
    }

    pub fn on_feed_acknowledged(&mut self, offset: u64) {
        if let Local::Following(Following { feed: Some(feed), .. }) = &mut self.local {
            feed.acknowledged(offset);
        }
    }

    pub fn on_feed_lost(&mut self) {
        if let Local::Following(following) = &mut self.local {
            following.connected = false;
        }
    }

    /// Sends what is committed and not sent yet, within the window.
    pub(super) fn pump_feed<W: World>(&mut self, world: &mut W) -> Result<(), Fatal> {
        let commit = self.raft.commit();
        // Somebody waits for it: for its own gate to open, or for an answer.
        let at_once = self.raft.role() == Role::Leader || self.follower_reads.are_due();
        let Local::Following(following) = &mut self.local else { return Ok(()) };
        let Following {
            feed: Some(feed),
            connected: true,
            loading: None,
            ping_at_us,
            chunk_at_us,
            chunk_due,
            ..
        } = following
        else {
            return Ok(());
        };
        let now_us = world.now_us();
        feed.applied(world.bridge().applied());
        // What a full window or socket holds back is sent when they say so: only this wait needs a deadline.
        *chunk_due = feed.next() <= commit && !at_once && now_us < *chunk_at_us;
        if *chunk_due {
            return Ok(());
        }
        while feed.next() <= commit && world.feed_unsent() < UNSENT_BYTES {
            if feed.outstanding() >= WINDOW_BYTES {
                world.bridge().want_applied(world.bridge().applied() + 1);
                feed.applied(world.bridge().applied());
                if feed.outstanding() >= WINDOW_BYTES {
                    break;
                }
            }
            let (payloads, last, damaged) = gather(world, feed.next(), commit)?;
            if damaged {
                self.healing.met(last + 1);
            }
            if last < feed.next() {
                break; // the next entry is damaged: on when it is healed
            }
            assert!(last <= commit, "N1: entry {last} is not committed (commit {commit})");
            let bytes = feed.chunk(&payloads, last);
            world.feed_write(bytes);
            *chunk_at_us = now_us + CHUNK_PERIOD_US;
            *ping_at_us = now_us + PING_PERIOD_US;
        }
        if now_us >= *ping_at_us {
            *ping_at_us = now_us + PING_PERIOD_US;
            let ping = feed.ping();
            world.feed_write(ping);
        }
        Ok(())
    }

    /// The log lost entries that the local Redis may have executed: roll back (N4).
    pub(super) fn executed_truncated<W: World>(&mut self, world: &mut W, from: u64) {
        match &mut self.local {
            Local::Following(following) => {
                if following.holds.as_ref().is_some_and(|holds| holds.index >= from) {
                    following.holds = None;
                }
                if following.feed.as_ref().is_some_and(|feed| feed.next() > from) {
                    log::warn!("entry {from} was executed here and is not in the log any more: rolling back");
                    following.feed = None;
                    following.loading = None;
                    following.connected = false;
                    world.feed_close();
                }
            }
            Local::Leading(leading) | Local::Draining(leading) if leading.executed >= from => {
                leading.dirty = true;
            }
            Local::Leading(_) | Local::Draining(_) | Local::Promoting { .. } => {}
        }
    }

    /// Up to here the log may be purged for the sake of the local Redis: it is fed what follows.
    pub(super) fn needed_here(&self) -> Index {
        match &self.local {
            Local::Following(Following { feed: Some(feed), .. }) => feed.next() - 1,
            _ => Index::MAX,
        }
    }

    /// Whether the local Redis has been given entry `index`, so that a dump made by it from now on holds it.
    pub(super) fn dataset_holds(&self, index: Index) -> bool {
        match &self.local {
            Local::Following(Following { feed: Some(feed), loading: None, .. }) => feed.next() > index,
            Local::Following(_) => false,
            Local::Promoting { .. } | Local::Leading(_) | Local::Draining(_) => true,
        }
    }

    /// The local Redis is given the newest snapshot: the log does not lead from what it holds to what comes next.
    pub(super) fn load_anew<W: World>(&mut self, world: &mut W) {
        match &mut self.local {
            Local::Following(following) => {
                following.holds = None;
                if following.feed.take().is_some() {
                    following.loading = None;
                    following.connected = false;
                    world.feed_close();
                }
            }
            Local::Leading(leading) | Local::Draining(leading) => leading.dirty = true,
            Local::Promoting { .. } => {}
        }
    }

    /// First entry of the log.
    pub(super) fn first_index(&self) -> u64 {
        self.raft.base().index + 1
    }
}

/// Payloads of the entries from `from` on that have effects, the last entry looked at, and whether the one behind it
/// cannot be read.
fn gather<W: World>(world: &W, from: u64, to: u64) -> Result<(Vec<Bytes>, u64, bool), Fatal> {
    let (mut payloads, mut bytes, mut last) = (Vec::new(), 0, from - 1);
    while last < to && bytes < CHUNK_BYTES {
        let entry = match world.read(last + 1) {
            Ok(entry) => entry,
            Err(LogError::Damaged(_)) => return Ok((payloads, last, true)),
            Err(error) => return Err(error.into()),
        };
        last += 1;
        if entry.kind == Kind::Normal {
            bytes += entry.payload.len();
            payloads.push(entry.payload);
        }
    }
    Ok((payloads, last, false))
}
