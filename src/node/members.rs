//! The members of the cluster with their addresses, as membership entries carry them.
//!
//! The payload of a membership entry is a sequence of RESP commands, one for each member, so that any tool
//! that shows the log shows them as text: `MEMBER <id> voter|learner <client host:port> <peer host:port>`, with
//! `memory` behind it for a node that keeps its log there.

use crate::consensus::{Membership, NodeId};
use crate::resp;
use std::collections::BTreeMap;
use thiserror::Error;

/// The word behind a member whose log is in memory.
const IN_MEMORY: &[u8] = b"memory";

/// One node, as the cluster knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    pub voting: bool,
    /// Where clients connect, `host:port`.
    pub address: String,
    /// Where peers connect, `host:port`.
    pub peer_address: String,
    /// Its log is in memory (`raft.persist no`): a restart makes it another node, which takes the place of this one.
    pub in_memory: bool,
}

#[derive(Debug, Error, PartialEq, Eq)]
pub enum MembersError {
    #[error("membership entry: malformed at byte {offset} of {length}")]
    Malformed { offset: usize, length: usize },
    #[error("membership entry: node {id} appears twice")]
    Duplicate { id: NodeId },
}

/// All members by id. Invariant: ids are not 0.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Members(pub BTreeMap<NodeId, Member>);

impl Members {
    pub fn membership(&self) -> Membership {
        let of = |voting| self.0.iter().filter(|(_, m)| m.voting == voting).map(|(id, _)| *id).collect();
        Membership { voters: of(true), learners: of(false) }
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.0.len() * 96);
        for (id, member) in &self.0 {
            let role: &[u8] = if member.voting { b"voter" } else { b"learner" };
            let id = id.to_string();
            let addresses = (member.address.as_bytes(), member.peer_address.as_bytes());
            let words: [&[u8]; 6] = [b"MEMBER", id.as_bytes(), role, addresses.0, addresses.1, IN_MEMORY];
            resp::encode_command(&mut out, if member.in_memory { &words } else { &words[..5] });
        }
        out
    }

    /// Reads what [`Members::encode`] wrote; the bytes come from a peer or from the disk.
    pub fn decode(bytes: &[u8]) -> Result<Members, MembersError> {
        let mut members = BTreeMap::new();
        let (mut at, mut args) = (0, Vec::new());
        while at < bytes.len() {
            let malformed = MembersError::Malformed { offset: at, length: bytes.len() };
            let Ok(Some(used)) = resp::parse_command(&bytes[at..], &resp::Limits::PEER, &mut args) else {
                return Err(malformed);
            };
            let (id, member) = decode_member(&bytes[at..], &args).ok_or(malformed)?;
            if members.insert(id, member).is_some() {
                return Err(MembersError::Duplicate { id });
            }
            at += used;
        }
        Ok(Members(members))
    }
}

fn decode_member(bytes: &[u8], args: &[std::ops::Range<usize>]) -> Option<(NodeId, Member)> {
    let text = |i: usize| std::str::from_utf8(&bytes[args.get(i)?.clone()]).ok();
    let in_memory = args.len() == 6 && bytes[args[5].clone()] == *IN_MEMORY;
    if args.len() != 5 && !in_memory || text(0)? != "MEMBER" {
        return None;
    }
    let id: NodeId = text(1)?.parse().ok().filter(|id| *id != 0)?;
    let voting = match text(2)? {
        "voter" => true,
        "learner" => false,
        _ => return None,
    };
    let (address, peer_address) = (text(3)?.to_string(), text(4)?.to_string());
    Some((id, Member { voting, address, peer_address, in_memory }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn three() -> Members {
        let member = |voting, port| Member {
            voting,
            address: format!("localhost:{port}"),
            peer_address: format!("localhost:{}", port + 10000),
            in_memory: port == 5003,
        };
        Members(BTreeMap::from([(1, member(true, 5001)), (7, member(false, 5002)), (9, member(true, 5003))]))
    }

    #[test]
    fn what_is_encoded_is_decoded() {
        let members = three();
        assert_eq!(Members::decode(&members.encode()), Ok(members.clone()));
        assert_eq!(members.membership().voters, [1, 9].into());
        assert_eq!(members.membership().learners, [7].into());
    }

    #[test]
    fn every_cut_inside_a_member_is_refused() {
        let bytes = three().encode();
        let whole: Vec<usize> = (0..=bytes.len()).filter(|n| Members::decode(&bytes[..*n]).is_ok()).collect();
        assert_eq!(whole.len(), 4, "none, one, two or three members");
    }

    #[test]
    fn a_member_twice_is_refused() {
        let bytes = [three().encode(), three().encode()].concat();
        assert_eq!(Members::decode(&bytes), Err(MembersError::Duplicate { id: 1 }));
    }
}
