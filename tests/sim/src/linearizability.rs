//! Is a history linearizable? The search of Wing and Gong (1993) with the memory of Lowe (2017), for each bundle by
//! itself (Herlihy and Wing: a history is linearizable if and only if it is for each object).
//!
//! An operation can be given its moment next if no other open operation was answered before it was sent. The search
//! remembers which (operations done, state) it has left in vain.
//!
//! An operation of unknown outcome may be done at any time after it was sent, or never, which makes a search without
//! further thought hopeless: so [`Puzzle`] first says of each what can be said. Values are written once. What was seen
//! of one was done before it was seen. What was not seen can matter in few ways, in which those of a kind are alike.

use crate::history::{Event, Operation};
use std::collections::{BTreeMap, HashSet};

/// Most operations on one bundle: the set of those done is bits of a number.
pub const MAX_OPERATIONS: usize = 128;
/// A search that has seen so many states gives up.
const MAX_STATES: usize = 300_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
struct State {
    register: Option<u64>,
    counter: u64,
    length: u64,
    /// Of the list's elements, in order.
    list: u64,
    size: u64,
    /// Of the set's members, in any order.
    members: u64,
}

fn push(list: u64, value: u64) -> u64 {
    (list ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(23) ^ 0x51
}

/// A set with one member more.
fn join(members: u64, value: u64) -> u64 {
    members.wrapping_add(push(0x5e7, value))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Linearizable,
    /// No order explains what clients saw.
    Impossible,
    /// The search was given up.
    Undecided,
}

impl Operation {
    /// The state after it, or `None` if it cannot have happened in this one.
    fn apply(&self, state: State) -> Option<State> {
        let fits = |saw: Option<u64>, is: u64| saw.is_none_or(|saw| saw == is);
        match self {
            Operation::ReadRegister { found } => (*found == state.register).then_some(state),
            Operation::SetRegister { value } => Some(State { register: Some(*value), ..state }),
            Operation::DeleteRegister { removed } => {
                let fits = removed.is_none_or(|removed| removed == state.register.is_some());
                fits.then_some(State { register: None, ..state })
            }
            Operation::ExpireRegister { value } => {
                (state.register == Some(*value)).then_some(State { register: None, ..state })
            }
            Operation::CompareAndSet { expected, value } => {
                (state.register == *expected).then_some(State { register: Some(*value), ..state })
            }
            Operation::Increment { count } => {
                let counter = state.counter + 1;
                fits(*count, counter).then_some(State { counter, ..state })
            }
            Operation::Append { value, length } => {
                let after = State { length: state.length + 1, list: push(state.list, *value), ..state };
                fits(*length, after.length).then_some(after)
            }
            Operation::ReadAll { register, counter, list } => {
                let same = *register == state.register
                    && *counter == state.counter
                    && list.len() as u64 == state.length
                    && list.iter().fold(0, |hash, value| push(hash, *value)) == state.list;
                same.then_some(state)
            }
            Operation::WriteAll { value, count } => {
                let counter = state.counter + 1;
                let list = push(state.list, *value);
                let length = state.length + 1;
                let after = State { register: Some(*value), counter, length, list, ..state };
                fits(*count, counter).then_some(after)
            }
            Operation::SetIfAbsent { value, taken } => match (taken, state.register) {
                (Some(false), Some(_)) => Some(state),
                (Some(true) | None, None) => Some(State { register: Some(*value), ..state }),
                _ => None,
            },
            Operation::DeleteIfEqual { value, removed } => match (removed, state.register == Some(*value)) {
                (Some(false), false) => Some(state),
                (Some(true) | None, true) => Some(State { register: None, ..state }),
                _ => None,
            },
            Operation::AddMember { value } => {
                Some(State { size: state.size + 1, members: join(state.members, *value), ..state })
            }
            Operation::ReadMembers { members } => {
                let same = members.len() as u64 == state.size
                    && members.iter().fold(0, |hash, value| join(hash, *value)) == state.members;
                same.then_some(state)
            }
        }
    }
}

/// A history without what cannot matter.
struct Puzzle {
    /// Each of these took effect between its two times; the second is `u64::MAX` if it may not have.
    events: Vec<(u64, u64, Operation)>,
    /// The bits of those that have to be done.
    certain: u128,
    /// When increments of unknown outcome were sent, in order: whichever took effect, it may have been the first.
    increments: Vec<u64>,
    /// When something that takes the register away was sent, its outcome unknown.
    removals: Vec<u64>,
    /// When values were set that nobody saw: they can only have been there to be deleted.
    unseen: Vec<u64>,
    /// Values that expire, and when they were sent.
    expiring: BTreeMap<u64, u64>,
}

/// How many of each kind of unknown outcome have been used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
struct Used {
    increments: u8,
    removals: u8,
    unseen: u8,
}

impl Puzzle {
    fn of(history: &[Event]) -> Puzzle {
        let mut puzzle = Puzzle {
            events: Vec::new(),
            certain: 0,
            increments: Vec::new(),
            removals: Vec::new(),
            unseen: Vec::new(),
            expiring: BTreeMap::new(),
        };
        let seen = seen(history);
        let lists = history.iter().filter(|event| matches!(event.operation, Operation::ReadAll { .. }));
        let last_list_us = lists.map(|event| event.sent_us).max();
        let answers = || history.iter().filter_map(|event| event.answered_us);
        // Whether something may have happened after the last look at the whole list, but that look itself.
        let later = last_list_us.is_none_or(|last_us| answers().filter(|at_us| *at_us > last_us).count() > 1);
        for event in history {
            if let Operation::ExpireRegister { value } = event.operation {
                puzzle.expiring.insert(value, event.sent_us);
            }
        }
        for event in history {
            let until_us = event.answered_us.or_else(|| seen.get(&event.operation.value()?).copied());
            match (until_us, &event.operation) {
                (_, Operation::ExpireRegister { .. }) => {}
                (Some(until_us), _) => puzzle.events.push((event.sent_us, until_us, event.operation.clone())),
                (None, Operation::Increment { .. }) => puzzle.increments.push(event.sent_us),
                (None, Operation::DeleteRegister { .. }) => puzzle.removals.push(event.sent_us),
                (None, Operation::SetRegister { value }) => {
                    puzzle.unseen.push(event.sent_us);
                    if puzzle.expiring.contains_key(value) {
                        puzzle.removals.push(event.sent_us);
                    }
                }
                (None, Operation::CompareAndSet { .. }) => puzzle.unseen.push(event.sent_us),
                (None, Operation::Append { .. } | Operation::WriteAll { .. }) if !later => {}
                // No reply but that of a look at the whole set depends on it.
                (None, Operation::AddMember { .. }) => {}
                (None, _) => puzzle.events.push((event.sent_us, u64::MAX, event.operation.clone())),
            }
        }
        puzzle.events.sort_by_key(|event| event.0);
        puzzle.increments.sort_unstable();
        puzzle.removals.sort_unstable();
        puzzle.unseen.sort_unstable();
        let certain = (0..puzzle.events.len()).filter(|i| puzzle.events[*i].1 < u64::MAX);
        puzzle.certain = certain.map(|i| 1 << i).sum();
        puzzle
    }

    /// Values are written once, counters and lists only grow: what an open operation must find and is past for good
    /// makes the search vain.
    fn is_vain(&self, done: u128, state: State, before: State) -> bool {
        let left = state.register != before.register;
        (0..self.events.len()).any(|i| {
            if done & (1 << i) != 0 || self.certain & (1 << i) == 0 {
                return false;
            }
            let needs = self.events[i].2.needs();
            let past = |needs: Option<u64>, is: u64| needs.is_some_and(|needs| needs < is);
            let gone = left && needs.register.is_some() && needs.register == before.register;
            gone || past(needs.counter, state.counter)
                || past(needs.length, state.length)
                || past(needs.size, state.size)
        })
    }

    /// What may happen next.
    fn next(&self, done: u128, used: Used, state: State, open: &mut Vec<(u128, Used, State)>) {
        let is_open = |i: &usize| done & (1 << i) == 0;
        let limit_us = (0..self.events.len()).filter(is_open).map(|i| self.events[i].1).min().unwrap_or(0);
        let sent =
            |pool: &[u64], used: u8| pool.get(usize::from(used)).is_some_and(|at_us| *at_us <= limit_us);
        if sent(&self.increments, used.increments) {
            let used = Used { increments: used.increments + 1, ..used };
            open.push((done, used, State { counter: state.counter + 1, ..state }));
        }
        if let Some(value) = state.register {
            let gone = State { register: None, ..state };
            if self.expiring.get(&value).is_some_and(|at_us| *at_us <= limit_us) {
                open.push((done, used, gone));
            }
            if sent(&self.removals, used.removals) {
                open.push((done, Used { removals: used.removals + 1, ..used }, gone));
            }
        }
        // The first to be sent is tried first: it is pushed last.
        for i in (0..self.events.len()).rev().filter(is_open) {
            let (sent_us, _, operation) = &self.events[i];
            if *sent_us > limit_us {
                continue;
            }
            let done = done | 1 << i;
            if let Some(after) = operation.apply(state) {
                open.push((done, used, after));
            } else if *operation == (Operation::DeleteRegister { removed: Some(true) })
                && sent(&self.unseen, used.unseen)
            {
                open.push((done, Used { unseen: used.unseen + 1, ..used }, state));
            }
        }
    }
}

/// Values that were seen, and the first time at which somebody knew them.
fn seen(history: &[Event]) -> BTreeMap<u64, u64> {
    let mut seen = BTreeMap::new();
    for event in history {
        let Some(at_us) = event.answered_us else { continue };
        let mut see = |value: u64| {
            let first_us = seen.entry(value).or_insert(at_us);
            *first_us = at_us.min(*first_us);
        };
        match &event.operation {
            Operation::ReadRegister { found } => found.iter().copied().for_each(&mut see),
            Operation::ReadAll { register, list, .. } => {
                register.iter().chain(list).copied().for_each(&mut see);
            }
            Operation::CompareAndSet { expected, .. } => expected.iter().copied().for_each(&mut see),
            Operation::DeleteIfEqual { value, removed: Some(true) } => see(*value),
            Operation::ReadMembers { members } => members.iter().copied().for_each(&mut see),
            _ => {}
        }
    }
    seen
}

/// What an operation must find, where it must find one thing.
#[derive(Default)]
struct Needs {
    register: Option<u64>,
    counter: Option<u64>,
    length: Option<u64>,
    size: Option<u64>,
}

impl Operation {
    fn needs(&self) -> Needs {
        let nothing = Needs::default();
        match self {
            Operation::ReadRegister { found } => Needs { register: *found, ..nothing },
            Operation::CompareAndSet { expected, .. } => Needs { register: *expected, ..nothing },
            Operation::Increment { count } | Operation::WriteAll { count, .. } => {
                Needs { counter: count.map(|count| count - 1), ..nothing }
            }
            Operation::Append { length, .. } => Needs { length: length.map(|length| length - 1), ..nothing },
            Operation::ReadAll { register, counter, list } => Needs {
                register: *register,
                counter: Some(*counter),
                length: Some(list.len() as u64),
                ..nothing
            },
            Operation::DeleteIfEqual { value, removed: Some(true) } => {
                Needs { register: Some(*value), ..nothing }
            }
            Operation::ReadMembers { members } => Needs { size: Some(members.len() as u64), ..nothing },
            Operation::SetRegister { .. }
            | Operation::DeleteRegister { .. }
            | Operation::ExpireRegister { .. }
            | Operation::SetIfAbsent { .. }
            | Operation::DeleteIfEqual { .. }
            | Operation::AddMember { .. } => nothing,
        }
    }

    /// The value that it wrote.
    fn value(&self) -> Option<u64> {
        match self {
            Operation::SetRegister { value }
            | Operation::CompareAndSet { value, .. }
            | Operation::Append { value, .. }
            | Operation::WriteAll { value, .. }
            | Operation::SetIfAbsent { value, .. }
            | Operation::AddMember { value } => Some(*value),
            _ => None,
        }
    }
}

/// Judges what was seen of one bundle that was empty at first.
///
/// # Panics
/// When more than [`MAX_OPERATIONS`] took effect for certain.
pub fn judge(history: &[Event]) -> Verdict {
    let puzzle = Puzzle::of(history);
    assert!(puzzle.events.len() <= MAX_OPERATIONS, "a history of {} operations", puzzle.events.len());
    let mut visited = HashSet::new();
    let mut open = vec![(0_u128, Used::default(), State::default())];
    while let Some((done, used, state)) = open.pop() {
        if done & puzzle.certain == puzzle.certain {
            return Verdict::Linearizable;
        }
        if !visited.insert((done, used, state)) {
            continue;
        }
        if visited.len() > MAX_STATES {
            return Verdict::Undecided;
        }
        let first = open.len();
        puzzle.next(done, used, state, &mut open);
        let next = open.split_off(first);
        open.extend(next.into_iter().filter(|(done, _, after)| !puzzle.is_vain(*done, *after, state)));
    }
    Verdict::Impossible
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(sent_us: u64, answered_us: u64, operation: Operation) -> Event {
        Event { sent_us, answered_us: (answered_us > 0).then_some(answered_us), operation }
    }

    fn read(found: u64) -> Operation {
        Operation::ReadRegister { found: (found > 0).then_some(found) }
    }

    fn set(value: u64) -> Operation {
        Operation::SetRegister { value }
    }

    fn all(register: u64, counter: u64, list: &[u64]) -> Operation {
        Operation::ReadAll { register: Some(register), counter, list: list.to_vec() }
    }

    #[test]
    fn what_one_register_can_do() {
        assert_eq!(judge(&[]), Verdict::Linearizable);
        assert_eq!(judge(&[at(1, 4, set(7)), at(2, 3, read(0)), at(5, 6, read(7))]), Verdict::Linearizable);
        assert_eq!(judge(&[at(1, 4, set(7)), at(2, 3, read(7)), at(3, 5, read(7))]), Verdict::Linearizable);
        let unknown = [at(1, 0, set(7)), at(2, 3, read(0)), at(8, 9, read(7))];
        assert_eq!(judge(&unknown), Verdict::Linearizable, "it may take effect late");
        assert_eq!(judge(&unknown[..2]), Verdict::Linearizable, "or never");
    }

    #[test]
    fn what_no_register_can_do() {
        let stale = [at(1, 2, set(7)), at(3, 4, read(0))];
        let from_nowhere = [at(1, 2, read(7))];
        let seen_and_gone = [at(1, 0, set(7)), at(2, 3, read(7)), at(4, 5, read(0))];
        let swapped = Operation::CompareAndSet { expected: Some(7), value: 8 };
        let lost_update = [at(1, 2, set(7)), at(3, 4, swapped.clone()), at(5, 6, swapped)];
        let twice = [
            at(1, 2, Operation::Increment { count: Some(1) }),
            at(3, 4, Operation::Increment { count: Some(1) }),
        ];
        let half = [at(1, 2, Operation::WriteAll { value: 7, count: Some(1) }), at(3, 4, all(7, 1, &[]))];
        let order = [
            at(1, 2, Operation::Append { value: 1, length: Some(1) }),
            at(3, 4, Operation::Append { value: 2, length: Some(2) }),
            at(5, 6, Operation::ReadAll { register: None, counter: 0, list: vec![2, 1] }),
        ];
        for history in [&stale[..], &from_nowhere, &seen_and_gone, &lost_update, &twice, &half, &order] {
            assert_eq!(judge(history), Verdict::Impossible, "{history:?}");
        }
    }

    #[test]
    fn a_register_expires_once_at_most_and_only_its_own_value() {
        let expire = at(1, 0, Operation::ExpireRegister { value: 7 });
        let fine = [at(1, 2, set(7)), expire.clone(), at(3, 4, read(7)), at(5, 6, read(0))];
        assert_eq!(judge(&fine), Verdict::Linearizable);
        let back = [at(1, 2, set(7)), expire.clone(), at(3, 4, read(0)), at(5, 6, read(7))];
        assert_eq!(judge(&back), Verdict::Impossible);
        let other = [at(1, 2, set(8)), expire, at(3, 4, read(0))];
        assert_eq!(judge(&other), Verdict::Impossible);
    }

    #[test]
    fn what_nobody_saw_may_have_been_deleted_or_counted() {
        let delete = |removed| Operation::DeleteRegister { removed };
        assert_eq!(judge(&[at(1, 0, set(7)), at(2, 3, delete(Some(true)))]), Verdict::Linearizable);
        let both = [at(1, 0, set(7)), at(2, 3, delete(Some(true))), at(4, 5, delete(Some(true)))];
        assert_eq!(judge(&both), Verdict::Impossible);
        let count = |count| Operation::Increment { count };
        assert_eq!(judge(&[at(1, 0, count(None)), at(2, 3, count(Some(2)))]), Verdict::Linearizable);
        assert_eq!(judge(&[at(4, 0, count(None)), at(2, 3, count(Some(2)))]), Verdict::Impossible);
        let vanished = [at(1, 2, set(7)), at(3, 0, delete(None)), at(4, 5, read(0)), at(6, 7, read(7))];
        assert_eq!(judge(&vanished[..3]), Verdict::Linearizable);
        assert_eq!(judge(&vanished), Verdict::Impossible);
        let unseen = Operation::WriteAll { value: 9, count: None };
        let counted = [at(1, 0, unseen), at(2, 3, count(Some(2))), at(4, 5, all(7, 2, &[]))];
        assert_eq!(judge(&counted[..2]), Verdict::Linearizable, "its value may be there");
        assert_eq!(judge(&counted), Verdict::Impossible, "it would be in the list");
    }

    #[test]
    fn a_lock_has_one_holder_and_only_its_holder_gives_it_back() {
        let take = |value, taken| Operation::SetIfAbsent { value, taken };
        let give = |value, removed| Operation::DeleteIfEqual { value, removed };
        let fine = [
            at(1, 2, take(7, Some(true))),
            at(3, 4, take(8, Some(false))),
            at(5, 6, give(8, Some(false))),
            at(7, 8, give(7, Some(true))),
            at(9, 10, take(9, Some(true))),
        ];
        assert_eq!(judge(&fine), Verdict::Linearizable);
        let two_holders = [at(1, 2, take(7, Some(true))), at(3, 4, take(8, Some(true)))];
        assert_eq!(judge(&two_holders), Verdict::Impossible);
        let never_held = [at(1, 2, take(8, Some(false)))];
        assert_eq!(judge(&never_held), Verdict::Impossible);
        let unknown =
            [at(1, 0, take(7, None)), at(3, 4, take(8, Some(false))), at(5, 6, give(7, Some(true)))];
        assert_eq!(judge(&unknown), Verdict::Linearizable, "it was taken");
        let given_late = [fine[0].clone(), at(3, 0, give(7, None)), at(5, 6, take(8, Some(true)))];
        assert_eq!(judge(&given_late), Verdict::Linearizable, "it was given back");
        let lost = [fine[0].clone(), at(3, 4, read(0))];
        assert_eq!(judge(&lost), Verdict::Impossible);
    }

    #[test]
    fn a_set_keeps_what_was_added() {
        let add = |value| Operation::AddMember { value };
        let all = |members: &[u64]| Operation::ReadMembers { members: members.to_vec() };
        let fine = [at(1, 2, add(7)), at(1, 4, add(8)), at(3, 5, all(&[7])), at(6, 7, all(&[8, 7]))];
        assert_eq!(judge(&fine), Verdict::Linearizable);
        assert_eq!(judge(&[at(1, 2, add(7)), at(3, 4, all(&[]))]), Verdict::Impossible);
        assert_eq!(
            judge(&[at(1, 0, add(7)), at(3, 4, all(&[])), at(5, 6, all(&[7]))]),
            Verdict::Linearizable
        );
        assert_eq!(judge(&[at(1, 0, add(7)), at(3, 4, all(&[7])), at(5, 6, all(&[]))]), Verdict::Impossible);
        assert_eq!(judge(&[at(1, 2, all(&[9]))]), Verdict::Impossible);
    }

    #[test]
    fn many_unknown_outcomes_are_decided() {
        let mut history: Vec<Event> = (0..40).map(|i| at(i, 0, set(i + 1))).collect();
        history.extend((0..40).map(|i| at(100 + 2 * i, 101 + 2 * i, read(1 + i))));
        assert_eq!(judge(&history), Verdict::Linearizable);
    }
}
