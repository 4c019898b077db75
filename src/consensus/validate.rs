//! Is this a message that a correct node could have sent? The sender is authenticated; this keeps a defect or an
//! unlucky frame from reaching the state machine.

use super::message::{Body, EntryKind, EntryMeta, Index, Message, Position, Term};
use crate::limits::{MAX_ENTRIES_PER_MESSAGE, MAX_ENTRY_BYTES, MAX_LEASE_US};

/// Beyond any term or index that a cluster can reach, and far from overflow.
const BEYOND_REACH: u64 = 1 << 62;

/// False when the message contradicts itself.
pub(super) fn is_well_formed(message: &Message) -> bool {
    if message.term == 0 || message.term > BEYOND_REACH {
        return false;
    }
    match &message.body {
        Body::PreVote { last } | Body::Vote { last, .. } => {
            position_fits(*last, message.term) && last.term < message.term
        }
        Body::Append { prev, entries, lease_us, .. } => {
            position_fits(*prev, message.term)
                && entries_fit(*prev, entries, message.term)
                && *lease_us <= MAX_LEASE_US
        }
        Body::Remember { through, .. } => *through <= BEYOND_REACH,
        Body::PreVoteReply { .. }
        | Body::VoteReply { .. }
        | Body::Appended { .. }
        | Body::Refused { .. }
        | Body::TimeoutNow
        | Body::Forgot { .. } => true,
    }
}

/// Index 0 and term 0 go together, and nothing is of a later term than its sender's.
fn position_fits(position: Position, term: Term) -> bool {
    (position.index == 0) == (position.term == 0) && position.index <= BEYOND_REACH && position.term <= term
}

/// Terms do not fall along the log and do not pass the leader's.
fn entries_fit(prev: Position, entries: &[EntryMeta], term: Term) -> bool {
    let mut before = prev.term.max(1);
    entries.len() <= MAX_ENTRIES_PER_MESSAGE
        && entries.iter().all(|entry| {
            let rising = before <= entry.term && entry.term <= term;
            before = entry.term;
            rising && entry.bytes as usize <= MAX_ENTRY_BYTES && kind_fits(&entry.kind)
        })
}

fn kind_fits(kind: &EntryKind) -> bool {
    match kind {
        EntryKind::Normal | EntryKind::NoOp => true,
        EntryKind::Membership(membership) => membership.is_valid(),
    }
}

/// The last index that an `Append` speaks of. Cannot overflow once the message is well formed.
pub(super) fn end_of(prev: Position, entries: &[EntryMeta]) -> Index {
    prev.index + entries.len() as Index
}

#[cfg(test)]
mod tests {
    use super::super::message::Membership;
    use super::*;

    fn append(prev: (Index, Term), terms: &[Term], term: Term) -> Message {
        let entry = |term: &Term| EntryMeta { term: *term, kind: EntryKind::Normal, bytes: 1 };
        Message {
            term,
            body: Body::Append {
                prev: Position { index: prev.0, term: prev.1 },
                entries: terms.iter().map(entry).collect(),
                commit: 0,
                round: 0,
                lease_us: 0,
            },
        }
    }

    #[test]
    fn appends_that_contradict_themselves_are_dropped() {
        assert!(is_well_formed(&append((0, 0), &[1, 1, 2], 2)));
        assert!(is_well_formed(&append((3, 1), &[], 1)));
        assert!(!is_well_formed(&append((0, 1), &[], 1)), "no term before the log");
        assert!(!is_well_formed(&append((1, 0), &[], 1)), "no entry of term 0");
        assert!(!is_well_formed(&append((0, 0), &[0], 1)), "no entry of term 0");
        assert!(!is_well_formed(&append((3, 2), &[1], 2)), "terms fall");
        assert!(!is_well_formed(&append((3, 1), &[3], 2)), "entry of a later term than the leader's");
        assert!(!is_well_formed(&append((3, 3), &[], 2)), "prev of a later term than the leader's");
        assert!(!is_well_formed(&append((u64::MAX, 1), &[1], 1)), "index would overflow");
        assert!(!is_well_formed(&append((0, 0), &[], u64::MAX)), "term would overflow");
        assert!(!is_well_formed(&append((0, 0), &[1; MAX_ENTRIES_PER_MESSAGE + 1], 1)), "too many");
    }

    #[test]
    fn an_invalid_membership_is_dropped() {
        let kind = EntryKind::Membership(Membership::default().into());
        let entries = vec![EntryMeta { term: 1, kind, bytes: 1 }];
        let body = Body::Append { prev: Position::default(), entries, commit: 0, round: 0, lease_us: 0 };
        assert!(!is_well_formed(&Message { term: 1, body }));
    }

    #[test]
    fn a_vote_is_asked_for_in_a_later_term_than_the_log_ends() {
        let vote = |term, last| Message {
            term,
            body: Body::Vote { last: Position { index: 1, term: last }, transfer: false },
        };
        assert!(is_well_formed(&vote(2, 1)));
        assert!(!is_well_formed(&vote(2, 2)));
    }
}
