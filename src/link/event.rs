//! What a turn of the links reports.

use super::Frame;

/// One thing that happened, in the order in which it was seen.
#[derive(Debug)]
pub enum Event {
    /// A frame from a peer that has proven to be `from`.
    Peer { from: u64, frame: Frame },
    /// The link that we dialled to `id` takes frames.
    PeerUp { id: u64 },
    /// Our link to `id` is down. `refused`: a try to reach it has failed as well, so the peer is unreachable.
    ///
    /// An established link that breaks gives `refused: true` at once when the redial fails at once, and
    /// otherwise `refused: false`, followed by either `PeerUp` or `refused: true`. The latter comes once, not
    /// for every further try, until the next `PeerUp`. A peer that was never reached gives it as well.
    PeerDown { id: u64, refused: bool },
    /// The local Redis goes on at exactly the byte asked for.
    CaptureUp,
    /// The capture buffer grew; once per turn.
    CaptureData,
    /// The capture link is gone; what was received stays in the buffer. `resumable`: by transport or because
    /// the server was busy, so the same request may succeed; otherwise the server refused it.
    CaptureLost { reason: String, resumable: bool },
    /// The local Redis asks to follow from `offset` of `replid` (`"?"` and -1: from nothing). It waits for
    /// `feed_continue` or `feed_full_resync`.
    FeedPsync { replid: String, offset: i64 },
    /// The local Redis has processed the feed up to `offset`.
    FeedAck { offset: u64 },
    /// The local Redis closed the feed link, or another connection of its took over.
    FeedLost,
    /// The waker was used, here or elsewhere: look at the queues.
    Woken,
}
