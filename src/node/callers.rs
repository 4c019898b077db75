//! Where peers say that they are, when the log says something else: they were made members while this node was down,
//! they are only joining, or they have moved.
//!
//! Frames travel only on a link that their sender has dialled. A leader that came later than the end of this node's log
//! would never get an answer, and without an answer it sends no entries: so whoever has dialled a peer first says where
//! it can be dialled itself. Its place in the cluster is decided by the log alone; the leader puts an address that has
//! changed there.

use super::members::{Member, Members};
use crate::consensus::NodeId;
use std::collections::BTreeMap;

/// Most callers that are kept; more than can join while one node is away.
const MAX_CALLERS: usize = 32;

/// What a caller said of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Caller {
    pub peer_address: String,
    pub address: String,
    /// The leader has said why this address is not taken over.
    pub refused: bool,
}

impl Caller {
    pub fn is_at(&self, member: &Member) -> bool {
        self.peer_address == member.peer_address && self.address == member.address
    }
}

/// Kept until the log says the same, or something newer; or until this node restarts.
#[derive(Default)]
pub(super) struct Callers(BTreeMap<NodeId, Caller>);

impl Callers {
    /// True: there is something new. `known`: what the log says.
    pub fn heard(
        &mut self,
        id: NodeId,
        peer_address: String,
        address: String,
        known: Option<&Member>,
    ) -> bool {
        let caller = Caller { peer_address, address, refused: false };
        if known.is_some_and(|member| caller.is_at(member)) {
            return self.0.remove(&id).is_some();
        }
        let same =
            |before: &Caller| before.peer_address == caller.peer_address && before.address == caller.address;
        if self.0.get(&id).is_some_and(same) {
            return false;
        }
        let fits = self.0.len() < MAX_CALLERS || self.0.contains_key(&id) || known.is_some();
        if fits {
            self.0.insert(id, caller);
        }
        fits
    }

    /// These are committed: who is where they say, or is not one of them any more, need not be remembered.
    pub fn agree(&mut self, members: &Members, removed: impl Fn(NodeId) -> bool) {
        let known =
            |id: &NodeId, caller: &Caller| members.0.get(id).is_some_and(|member| caller.is_at(member));
        self.0.retain(|id, caller| !known(id, caller) && !removed(*id));
    }

    /// A member that says that it is elsewhere, and was not refused that.
    pub fn moved(&self, members: &Members) -> Option<(NodeId, &Caller)> {
        let elsewhere = |(id, caller): &(NodeId, &Caller)| {
            !caller.refused && members.0.get(id).is_some_and(|member| !caller.is_at(member))
        };
        self.iter().find(elsewhere)
    }

    /// Its address cannot be taken over.
    pub fn refuse(&mut self, id: NodeId) {
        if let Some(caller) = self.0.get_mut(&id) {
            caller.refused = true;
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = (NodeId, &Caller)> {
        self.0.iter().map(|(id, caller)| (*id, caller))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(peer_address: &str) -> Member {
        let address = "host:5000".into();
        Member { voting: true, address, peer_address: peer_address.into(), in_memory: false }
    }

    fn hear(callers: &mut Callers, id: NodeId, peer_address: &str, known: Option<&Member>) -> bool {
        callers.heard(id, peer_address.into(), "host:5000".into(), known)
    }

    #[test]
    fn strangers_are_bounded_and_members_are_not() {
        let mut callers = Callers::default();
        assert!((0..MAX_CALLERS as u64).all(|id| hear(&mut callers, id + 1, "host:1", None)));
        assert!(!hear(&mut callers, 1, "host:1", None) && hear(&mut callers, 1, "host:2", None));
        assert!(!hear(&mut callers, 1000, "host:1", None), "there are enough");
        assert!(hear(&mut callers, 1000, "host:1", Some(&member("host:7"))));
        assert_eq!(callers.iter().count(), MAX_CALLERS + 1);
    }

    #[test]
    fn what_the_log_says_as_well_is_not_kept() {
        let (mut callers, member) = (Callers::default(), member("host:7"));
        assert!(!hear(&mut callers, 1, "host:7", Some(&member)));
        assert!(hear(&mut callers, 1, "host:8", Some(&member)));
        let members = Members([(1, member.clone())].into());
        assert_eq!(
            callers.moved(&members).map(|(id, caller)| (id, caller.peer_address.clone())),
            Some((1, "host:8".into()))
        );
        assert_eq!(callers.moved(&Members::default()), None);
        assert!(
            hear(&mut callers, 1, "host:7", Some(&member)),
            "it has come back: it is dialled there again"
        );
        assert_eq!(callers.iter().count(), 0);
    }
}
