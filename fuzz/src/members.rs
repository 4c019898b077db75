//! The members of a cluster, as entries and snapshots carry them.

use crate::memory::within;
use crate::Seeds;
use redisraft::node::members::Members;
use redisraft::resp::encode_command;

/// The payload of a membership entry.
pub fn check(bytes: &[u8]) {
    let decoded = within(4096 + 64 * bytes.len(), || Members::decode(bytes));
    match decoded {
        Ok(members) => {
            assert!(!members.0.contains_key(&0));
            let membership = members.membership();
            assert!(membership.voters.is_disjoint(&membership.learners));
            assert_eq!(membership.voters.len() + membership.learners.len(), members.0.len());
            assert_eq!(Members::decode(&members.encode()), Ok(members), "what is encoded comes back");
        }
        Err(error) => assert!(error.to_string().len() < 200),
    }
}

pub fn seeds() -> Seeds {
    let members = |members: &[[&[u8]; 5]]| {
        let mut bytes = Vec::new();
        members.iter().for_each(|member| encode_command(&mut bytes, member));
        bytes
    };
    let voter: [&[u8]; 5] = [b"MEMBER", b"1", b"voter", b"localhost:5001", b"localhost:15001"];
    let learner: [&[u8]; 5] = [b"MEMBER", b"2147483647", b"learner", b"[::1]:5002", b"[::1]:15002"];
    vec![("one", members(&[voter])), ("two", members(&[voter, learner])), ("twice", members(&[voter, voter]))]
}
