//! Where peers say that they are, when the log says something else: they were made members while this node was down,
//! they are only joining, or they have moved.
//!
//! Frames travel only on a link that their sender has dialled. A leader that came later than the end of this node's log
//! would never get an answer, and without an answer it sends no entries: so whoever has dialled a peer first says where
//! it can be dialled itself. Its place in the cluster is decided by the log alone; the leader puts an address that has
//! changed there.

use super::members::{Member, Members};
use crate::consensus::{Index, NodeId};
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

    /// What is committed says the same, and nothing behind it says otherwise: that is where the member is dialled.
    fn is_known_to(&self, log: &[(Index, Members)], id: NodeId) -> bool {
        let mut places = log.iter().map(|(_, members)| members.0.get(&id));
        places.next().flatten().is_some_and(|member| self.is_at(member))
            && places.flatten().all(|member| self.is_at(member))
    }
}

/// Kept until the log says the same, or something newer; or until this node restarts.
#[derive(Default)]
pub(super) struct Callers(BTreeMap<NodeId, Caller>);

impl Callers {
    /// True: there is something new. `log`: the members of the last committed change, and of those after it.
    pub fn heard(
        &mut self,
        id: NodeId,
        peer_address: String,
        address: String,
        log: &[(Index, Members)],
    ) -> bool {
        let caller = Caller { peer_address, address, refused: false };
        if caller.is_known_to(log, id) {
            return self.0.remove(&id).is_some();
        }
        let same =
            |before: &Caller| before.peer_address == caller.peer_address && before.address == caller.address;
        if self.0.get(&id).is_some_and(same) {
            return false;
        }
        let is_member = log.first().is_some_and(|(_, members)| members.0.contains_key(&id));
        let fits = self.0.len() < MAX_CALLERS || self.0.contains_key(&id) || is_member;
        if fits {
            self.0.insert(id, caller);
        }
        fits
    }

    /// A change was committed: who is where the log says, or is not a member any more, need not be remembered. `log`: as
    /// for `heard`.
    pub fn agree(&mut self, log: &[(Index, Members)], removed: impl Fn(NodeId) -> bool) {
        self.0.retain(|id, caller| !caller.is_known_to(log, *id) && !removed(*id));
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

    /// What the log says of node `id`, committed first: that it is at these places, or nothing.
    fn log(id: NodeId, places: &[Option<&str>]) -> Vec<(Index, Members)> {
        let members = |place: &Option<&str>| Members(place.iter().map(|place| (id, member(place))).collect());
        places.iter().zip(1..).map(|(place, index)| (index, members(place))).collect()
    }

    fn hear(callers: &mut Callers, id: NodeId, peer_address: &str, places: &[Option<&str>]) -> bool {
        callers.heard(id, peer_address.into(), "host:5000".into(), &log(id, places))
    }

    #[test]
    fn strangers_are_bounded_and_members_are_not() {
        let mut callers = Callers::default();
        assert!((0..MAX_CALLERS as u64).all(|id| hear(&mut callers, id + 1, "host:1", &[None])));
        assert!(!hear(&mut callers, 1, "host:1", &[None]) && hear(&mut callers, 1, "host:2", &[None]));
        assert!(!hear(&mut callers, 1000, "host:1", &[None]), "there are enough");
        assert!(hear(&mut callers, 1000, "host:1", &[Some("host:7")]));
        assert_eq!(callers.iter().count(), MAX_CALLERS + 1);
    }

    #[test]
    fn what_the_log_says_as_well_is_not_kept() {
        let mut callers = Callers::default();
        assert!(!hear(&mut callers, 1, "host:7", &[Some("host:7")]));
        assert!(hear(&mut callers, 1, "host:8", &[Some("host:7")]));
        let members = Members([(1, member("host:7"))].into());
        assert_eq!(
            callers.moved(&members).map(|(id, caller)| (id, caller.peer_address.clone())),
            Some((1, "host:8".into()))
        );
        assert_eq!(callers.moved(&Members::default()), None);
        assert!(
            hear(&mut callers, 1, "host:7", &[Some("host:7")]),
            "it has come back: it is dialled there again"
        );
        assert_eq!(callers.iter().count(), 0);
    }

    #[test]
    fn what_the_end_of_the_log_says_otherwise_is_kept() {
        let mut callers = Callers::default();
        let (moving, removing) = ([Some("host:7"), Some("host:8")], [Some("host:7"), None]);
        assert!(hear(&mut callers, 1, "host:7", &moving), "it is dialled at host:8 else");
        assert!(!hear(&mut callers, 1, "host:7", &moving));
        callers.agree(&log(1, &moving), |_| false);
        assert_eq!(callers.iter().count(), 1);
        callers.agree(&log(1, &removing), |_| false);
        assert_eq!(callers.iter().count(), 0, "it is dialled at host:7 until that is committed");
    }
}
