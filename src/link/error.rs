//! What can go wrong for good, and what is counted.

use std::net::SocketAddr;

/// Why the links could not be set up. Breaks of single connections are events, not errors.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    #[error(
        "peer address {address} is in use by another process: stop it, or set raft.peer-addr to a free port"
    )]
    PeerAddressInUse { address: SocketAddr },
    #[error("cannot listen for peers on {address}: {source}; check raft.peer-addr")]
    PeerListen { address: SocketAddr, source: std::io::Error },
    #[error("cannot listen on 127.0.0.1 for the local Redis: {0}")]
    FeedListen(std::io::Error),
    #[error("cannot set up event polling: {0}")]
    Poll(std::io::Error),
    #[error("the system gives no random numbers: {0}")]
    Random(getrandom::Error),
}

/// Why an accepted connection was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Rejection {
    /// This node is not part of a cluster yet.
    NoCluster,
    WrongVersion,
    WrongCluster,
    /// Meant for another node: the address belongs to someone else now.
    WrongTarget,
    /// Node id 0, or this node's own.
    WrongId,
    /// The proof does not come from the cluster's secret.
    Authentication,
    /// Not RESP, too long, or not what the handshake expects.
    Protocol,
    /// The handshake took longer than the connect timeout.
    Timeout,
    /// Too many connections that have not proven who they are.
    TooMany,
    /// A connection to the feed port that is not the local Redis'.
    ForeignFeed,
}

impl Rejection {
    const NAMES: [&'static str; 10] = [
        "no_cluster",
        "wrong_version",
        "wrong_cluster",
        "wrong_target",
        "wrong_id",
        "authentication",
        "protocol",
        "timeout",
        "too_many",
        "foreign_feed",
    ];

    /// Name for INFO.
    pub fn name(self) -> &'static str {
        Self::NAMES[self as usize]
    }
}

/// Refused connections by reason, since the start.
#[derive(Clone, Debug, Default)]
pub struct Rejections {
    counts: [u64; Rejection::NAMES.len()],
}

impl Rejections {
    pub(super) fn count(&mut self, reason: Rejection) {
        self.counts[reason as usize] += 1;
    }

    /// How many were refused for `reason`.
    pub fn get(&self, reason: Rejection) -> u64 {
        self.counts[reason as usize]
    }

    /// Every reason's name and count.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        Rejection::NAMES.into_iter().zip(self.counts)
    }

    /// All reasons together.
    pub fn total(&self) -> u64 {
        self.counts.iter().sum()
    }
}
