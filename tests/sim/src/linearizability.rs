//! Is a history linearizable? The search of Wing and Gong (1993) with the memory of Lowe (2017), for each bundle by
//! itself (Herlihy and Wing: a history is linearizable if and only if it is for each object).
//!
//! An operation can be given its moment next if no other open operation was answered before it was sent. The search
//! remembers which (operations done, state) it has left in vain. An operation of unknown outcome may be done at any
//! time after it was sent, or never.

use crate::history::{Event, Operation};
use std::collections::HashSet;

/// Most operations on one bundle: the set of those done is bits of a number.
pub const MAX_OPERATIONS: usize = 128;
/// A search that has seen so many states gives up.
const MAX_STATES: usize = 2_000_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
struct State {
    register: Option<u64>,
    counter: u64,
    length: u64,
    /// Of the list's elements, in order.
    list: u64,
}

fn push(list: u64, value: u64) -> u64 {
    (list ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(23) ^ 0x51
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
                let after = State { register: Some(*value), counter, length: state.length + 1, list };
                fits(*count, counter).then_some(after)
            }
        }
    }
}

/// Judges what was seen of one bundle that was empty at first.
pub fn judge(events: &[Event]) -> Verdict {
    assert!(events.len() <= MAX_OPERATIONS, "a history of {} operations is too long", events.len());
    let mut events = events.to_vec();
    events.sort_by_key(|event| event.sent_us);
    let is_answered = |i: &usize| events[*i].answered_us.is_some();
    let answered: u128 = (0..events.len()).filter(is_answered).map(|i| 1 << i).sum();
    let mut seen = HashSet::new();
    let mut open = vec![(0_u128, State::default())];
    while let Some((done, state)) = open.pop() {
        if done & answered == answered {
            return Verdict::Linearizable;
        }
        if !seen.insert((done, state)) {
            continue;
        }
        if seen.len() > MAX_STATES {
            return Verdict::Undecided;
        }
        let is_open = |i: &usize| done & (1 << i) == 0;
        let first_answer_us =
            (0..events.len()).filter(is_open).filter_map(|i| events[i].answered_us).min().unwrap_or(u64::MAX);
        // What was answered is tried first: it is pushed last.
        let next = (0..events.len()).filter(is_open).filter(|i| events[*i].sent_us <= first_answer_us);
        let (certain, unknown): (Vec<usize>, Vec<usize>) = next.partition(is_answered);
        for i in unknown.into_iter().rev().chain(certain.into_iter().rev()) {
            if let Some(after) = events[i].operation.apply(state) {
                open.push((done | 1 << i, after));
            }
        }
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
    fn many_unknown_outcomes_are_decided() {
        let mut history: Vec<Event> = (0..14).map(|i| at(i, 0, set(i + 1))).collect();
        history.extend((0..14).map(|i| at(100 + 2 * i, 101 + 2 * i, read(1 + i))));
        assert_eq!(judge(&history), Verdict::Linearizable);
    }
}
