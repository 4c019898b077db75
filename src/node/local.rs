//! Where the local Redis stands with the log: who feeds whom.
//!
//! ```text
//!            own-term entry applied            NO ONE done
//!  Following ----------------------> Promoting -----------> Leading
//!      ^                                  `---- lost ----.     | leadership lost
//!      |      last mark read, REPLICAOF                  v     v
//!      `------------------------------------------------ Draining
//! ```

use super::batches::Batches;
use super::bridge::Epoch;
use super::capture::Capture;
use super::feed::Feed;
use super::load::Loading;
use crate::consensus::Index;

/// What the local Redis' dataset is, when that is known exactly.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holds {
    /// Replication id of the server at that point.
    pub replid: String,
    /// Last entry of the log whose effects the dataset holds, with all before it.
    pub index: Index,
    /// Replication offset of the server at that point.
    pub offset: u64,
}

impl Holds {
    /// Redis asks for the byte after it: not one was executed later.
    pub fn is_at(&self, replid: &str, wanted: i64) -> bool {
        self.replid == replid && i64::try_from(self.offset + 1) == Ok(wanted)
    }
}

/// Redis is a replica of this node, or about to become one.
#[derive(Default)]
pub struct Following {
    pub feed: Option<Feed>,
    /// A snapshot goes before the first bytes of the feed.
    pub loading: Option<Loading>,
    pub connected: bool,
    /// Known when Redis comes from a leadership that left nothing behind which the log does not hold.
    pub holds: Option<Holds>,
    /// When the link must be given a PING.
    pub ping_at_us: u64,
    /// Committed entries wait for `chunk_at_us`.
    pub chunk_due: bool,
    /// The next chunk is sent at this time or later.
    pub chunk_at_us: u64,
}

/// Redis is a master, and its effects are read by this node.
pub struct Leading {
    pub epoch: Epoch,
    pub replid: String,
    pub capture: Capture,
    pub batches: Batches,
    /// Barriers of this turn, for which leadership is not being confirmed yet.
    pub barriers: Vec<u64>,
    /// Last entry that holds effects of this leadership, or the last one fed before it.
    pub executed: Index,
    /// The dataset holds effects that no entry of the log holds.
    pub dirty: bool,
    /// The link is down and must be opened again at this time.
    pub reopen_at_us: Option<u64>,
    /// The stream flows.
    pub connected: bool,
    /// How long the next pause before opening it will be.
    pub reopen_pause_us: u64,
    pub acknowledge_at_us: u64,
    /// The hand-over for which the main thread was told to execute nothing any more.
    pub sealing: Option<u64>,
    /// It executes nothing: the stream ends at this offset, without a last mark.
    pub sealed: Option<u64>,
    /// Leadership was handed over; the main thread is told of it when the successor is known.
    pub demote_due: bool,
}

pub enum Local {
    Following(Following),
    /// `lost`: leadership went before Redis had answered.
    Promoting {
        epoch: Epoch,
        lost: bool,
    },
    Leading(Leading),
    /// Leadership is lost; the stream is read up to the last mark.
    Draining(Leading),
}

impl Local {
    /// Nothing is known of the dataset: Redis will be given all of it.
    pub fn fresh() -> Local {
        Local::Following(Following::default())
    }

    pub fn leading(&mut self) -> Option<&mut Leading> {
        match self {
            Local::Leading(leading) => Some(leading),
            _ => None,
        }
    }

    pub fn deadline_us(&self) -> u64 {
        match self {
            Local::Following(following)
                if following.feed.is_some() && following.connected && following.loading.is_none() =>
            {
                match following.chunk_due {
                    true => following.ping_at_us.min(following.chunk_at_us),
                    false => following.ping_at_us,
                }
            }
            Local::Leading(leading) | Local::Draining(leading) => {
                leading.acknowledge_at_us.min(leading.reopen_at_us.unwrap_or(u64::MAX))
            }
            _ => u64::MAX,
        }
    }
}
