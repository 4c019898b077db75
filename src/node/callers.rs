//! Peers that this node's log does not know yet: it was down, or is only joining, while they became members.
//!
//! Frames travel only on a link that their sender has dialled. A leader that came later than the end of this node's log
//! would never get an answer, and without an answer it sends no entries: so whoever has dialled a peer first says where
//! it can be dialled itself. Its place in the cluster is decided by the log alone.

use super::address::HostPort;
use super::kinds::CALLER;
use super::members::Members;
use super::wire::{Encoded, WireError};
use crate::consensus::NodeId;
use bytes::Bytes;
use std::collections::BTreeMap;

/// Most callers that are kept; more than can join while one node is away.
const MAX_CALLERS: usize = 32;

/// Whether a frame of this kind is a caller's.
pub fn is_kind(kind: u8) -> bool {
    kind == CALLER
}

/// "I am at this address", `host:port` for peers.
pub fn encode(peer_address: &str) -> Encoded {
    Encoded { kind: CALLER, header: peer_address.as_bytes().to_vec(), payloads: Vec::new() }
}

/// The address that the caller named.
///
/// # Errors
/// What is no address, or has something behind it.
pub fn decode<'a>(kind: u8, header: &'a [u8], payload: &Bytes) -> Result<&'a str, WireError> {
    let error = WireError::Length { kind, length: header.len() + payload.len() };
    let text = std::str::from_utf8(header).ok().filter(|_| payload.is_empty());
    text.filter(|text| HostPort::parse(text).is_ok()).ok_or(error)
}

#[derive(Default)]
pub(super) struct Callers(BTreeMap<NodeId, String>);

impl Callers {
    /// True: there is somebody new to dial. Callers are kept until this node restarts: the log will know them.
    pub fn heard(&mut self, id: NodeId, address: &str) -> bool {
        let fits = self.0.len() < MAX_CALLERS || self.0.contains_key(&id);
        fits && self.0.insert(id, address.to_string()).is_none_or(|before| before != address)
    }

    /// Whom to dial: the members, and callers that the log does not know.
    pub fn and_members(&self, members: &Members) -> BTreeMap<NodeId, String> {
        let mut peers = self.0.clone();
        peers.extend(members.0.iter().map(|(id, member)| (*id, member.peer_address.clone())));
        peers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_comes_back_and_nothing_else_does() {
        let frame = encode("[::1]:15000");
        assert_eq!(decode(frame.kind, &frame.header, &Bytes::new()), Ok("[::1]:15000"));
        assert!(decode(CALLER, &frame.header, &Bytes::from_static(b"x")).is_err());
        assert!(decode(CALLER, b"nowhere", &Bytes::new()).is_err());
        assert!(decode(CALLER, b"\xff:1", &Bytes::new()).is_err());
    }

    #[test]
    fn callers_are_bounded_and_members_are_where_the_log_says() {
        let mut callers = Callers::default();
        assert!((0..MAX_CALLERS as u64).all(|id| callers.heard(id + 1, "host:1")));
        assert!(!callers.heard(1, "host:1") && callers.heard(1, "host:2"));
        assert!(!callers.heard(1000, "host:1"), "there are enough");
        let member = super::super::members::Member {
            voting: true,
            address: "host:6".into(),
            peer_address: "host:7".into(),
        };
        let peers = callers.and_members(&Members([(1, member)].into()));
        assert_eq!((peers.len(), peers[&1].as_str()), (MAX_CALLERS, "host:7"));
    }
}
