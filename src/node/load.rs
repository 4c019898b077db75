//! Loading: the local Redis is given a whole dataset, the newest snapshot or none, by a full resync.
//!
//! The file is read in parts by the store's thread and sent as the socket takes them. Its last part leaves only when the
//! checksum of all of it is right: what is damaged is never loaded to its end.

use super::feed::{Feed, EMPTY_RDB};
use super::local::{Following, Local};
use super::{Fatal, Node, World};
use crate::consensus::Index;
use crate::node::bridge::ToMain;
use crate::snapshot::{Id, Job, SnapshotError};
use bytes::Bytes;

/// Read at once.
const PART_BYTES: usize = 256 << 10;
/// Parts asked for and not there yet.
const PARTS_UNDER_WAY: u64 = 4;
/// Bytes given to the socket and not taken by the kernel, beyond which nothing is read.
const UNSENT_BYTES: usize = 1 << 20;
/// Set in a reader's number when it is this node's own Redis; the rest counts the loads.
const LOCAL_READER: u64 = 1 << 63;

/// A snapshot on its way to the local Redis.
pub struct Loading {
    id: Id,
    reader: u64,
    /// Asked for up to here, and sent up to there.
    asked: u64,
    sent: u64,
    crc: crc32fast::Hasher,
}

impl Node {
    /// The local Redis needs the whole dataset. What it has now goes first.
    pub(super) fn full_resync<W: World>(&mut self, world: &mut W) {
        self.snapshots.feed_replaced();
        self.follower_reads.feed_replaced();
        self.loads += 1;
        world.bridge().reset_applied(0);
        world.bridge().tell_main(ToMain::Empty { load: self.loads });
        let Local::Following(following) = &mut self.local else { unreachable!("only a replica is fed") };
        following.feed = None;
    }

    /// Answers the PSYNC with the newest snapshot, or with nothing. What the dataset holds is known when it says so.
    pub fn on_emptied<W: World>(&mut self, world: &mut W, load: u64) {
        match &self.local {
            Local::Following(Following { connected: true, feed: None, .. }) if load == self.loads => {}
            _ => return, // the link was lost meanwhile: it asks again
        }
        let fresh = world.fresh_replid();
        let index = self.snapshots.newest_index();
        log::info!("local server is given the whole dataset: {}", describe(index));
        let loading = match &self.snapshots.newest {
            None => {
                world.feed_full_resync(&fresh, 0, EMPTY_RDB.len() as u64);
                world.feed_write(Bytes::from_static(EMPTY_RDB));
                None
            }
            Some(about) => {
                world.feed_full_resync(&fresh, 0, about.id.bytes);
                let (reader, crc) = (LOCAL_READER | self.loads, crc32fast::Hasher::new());
                Some(Loading { id: about.id, reader, asked: 0, sent: 0, crc })
            }
        };
        let Local::Following(following) = &mut self.local else { unreachable!("only a replica is fed") };
        following.feed = Some(Feed::new(self.feed_token.clone(), fresh, 0, index + 1));
        following.loading = loading;
    }

    /// The dump ends here: the stream begins in database 0, whatever the dump says, and tells what the dataset holds.
    fn loaded<W: World>(&mut self, world: &mut W, index: Index) {
        let Local::Following(Following { feed: Some(feed), loading, .. }) = &mut self.local else { return };
        *loading = None;
        let bytes = feed.begin(index);
        world.feed_write(bytes);
    }

    /// Reads ahead as the socket takes it.
    pub(super) fn pump_load<W: World>(&mut self, world: &mut W) {
        let Local::Following(Following { loading: Some(loading), connected: true, .. }) = &mut self.local
        else {
            return;
        };
        let window = PARTS_UNDER_WAY * PART_BYTES as u64;
        while loading.asked < loading.id.bytes
            && loading.asked - loading.sent < window
            && world.feed_unsent() < UNSENT_BYTES
        {
            let (reader, id, offset) = (loading.reader, loading.id, loading.asked);
            world.snapshot(Job::Read { reader, id, offset, bytes: PART_BYTES });
            loading.asked = (offset + PART_BYTES as u64).min(id.bytes);
        }
    }

    /// A part was read, for the local Redis or for a peer.
    pub(super) fn on_part_read<W: World>(
        &mut self,
        world: &mut W,
        reader: u64,
        id: Id,
        offset: u64,
        result: Result<Bytes, SnapshotError>,
    ) -> Result<(), Fatal> {
        if reader & LOCAL_READER == 0 {
            self.send_part(world, reader, id, offset, result);
            return Ok(());
        }
        let Local::Following(Following { loading: Some(loading), .. }) = &mut self.local else {
            return Ok(());
        };
        if loading.reader != reader {
            return Ok(()); // for a load that was broken off
        }
        let bytes = match result {
            // A newer one took its place before anything was read of it: Redis is given that one.
            Err(SnapshotError::Gone { .. }) => {
                self.load_anew(world);
                return Ok(());
            }
            result => result?,
        };
        assert_eq!(offset, loading.sent, "parts are read in order");
        loading.sent += bytes.len() as u64;
        loading.crc.update(&bytes);
        let complete = loading.sent == id.bytes;
        let crc = loading.crc.clone().finalize();
        if complete && crc != id.crc {
            return Err(Fatal::SnapshotDamaged {
                index: id.index,
                term: id.term,
                expected: id.crc,
                found: crc,
            });
        }
        world.feed_write(bytes);
        if complete {
            world.snapshot(Job::Proven);
            self.loaded(world, id.index);
        }
        Ok(())
    }
}

fn describe(index: Index) -> String {
    match index {
        0 => "entries from the first one on".to_string(),
        index => format!("the snapshot of entry {index}, and the entries after it"),
    }
}
