//! What clients saw: each operation with the time it was sent and the time it was answered.

use crate::redis::{Reply, Step};
use std::collections::BTreeMap;

/// One operation on one bundle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    ReadRegister {
        found: Option<u64>,
    },
    SetRegister {
        value: u64,
    },
    /// `removed` is unknown when no reply has come.
    DeleteRegister {
        removed: Option<bool>,
    },
    /// The server took the register away, if it still held this value.
    ExpireRegister {
        value: u64,
    },
    CompareAndSet {
        expected: Option<u64>,
        value: u64,
    },
    Increment {
        count: Option<u64>,
    },
    Append {
        value: u64,
        length: Option<u64>,
    },
    ReadAll {
        register: Option<u64>,
        counter: u64,
        list: Vec<u64>,
    },
    WriteAll {
        value: u64,
        count: Option<u64>,
    },
    /// `SET NX`: a lock is taken. A register that is a lock is only read, taken and given back.
    SetIfAbsent {
        value: u64,
        taken: Option<bool>,
    },
    /// The lock is given back, if it still has this value.
    DeleteIfEqual {
        value: u64,
        removed: Option<bool>,
    },
    /// A value that was not in the set before.
    AddMember {
        value: u64,
    },
    /// All members of the set, in any order.
    ReadMembers {
        members: Vec<u64>,
    },
}

#[derive(Clone, Debug)]
pub struct Event {
    pub sent_us: u64,
    /// `None`: the outcome is unknown; it may have taken effect any time later, or never.
    pub answered_us: Option<u64>,
    pub operation: Operation,
}

/// Events by bundle.
#[derive(Default)]
pub struct History {
    pub bundles: BTreeMap<u32, Vec<Event>>,
    pub answered: u64,
    pub unknown: u64,
}

impl History {
    /// Notes one event; answered and unknown ones are counted.
    pub fn add(&mut self, bundle: u32, event: Event) {
        *if event.answered_us.is_some() { &mut self.answered } else { &mut self.unknown } += 1;
        self.bundles.entry(bundle).or_default().push(event);
    }

    /// A request was answered. `watched`: what the connection's `WATCH` has read.
    pub fn answered(
        &mut self,
        (bundle, step): (u32, &Step),
        (sent_us, now_us): (u64, u64),
        watched: Option<u64>,
        reply: &Reply,
    ) {
        let operation = match (step, reply) {
            (Step::Get | Step::Watch, Reply::Register(found)) => Operation::ReadRegister { found: *found },
            (Step::Set { value } | Step::SetExpiring { value, .. }, Reply::Ok) => {
                Operation::SetRegister { value: *value }
            }
            (Step::Delete, Reply::Number(removed)) => {
                Operation::DeleteRegister { removed: Some(*removed == 1) }
            }
            (Step::Increment, Reply::Number(count)) => Operation::Increment { count: Some(*count) },
            (Step::Append { value }, Reply::Number(length)) => {
                Operation::Append { value: *value, length: Some(*length) }
            }
            (Step::ReadAll, Reply::All { register, counter, list }) => {
                Operation::ReadAll { register: *register, counter: *counter, list: list.clone() }
            }
            (Step::WriteAll { value }, Reply::Number(count)) => {
                Operation::WriteAll { value: *value, count: Some(*count) }
            }
            (Step::Exec { value }, Reply::Ok) => {
                Operation::CompareAndSet { expected: watched, value: *value }
            }
            (Step::Exec { .. }, Reply::Aborted) => return,
            (step, reply) => panic!("{step:?} was answered with {reply:?}"),
        };
        self.add(bundle, Event { sent_us, answered_us: Some(now_us), operation });
        self.may_expire(bundle, step, sent_us);
    }

    /// No reply will come.
    pub fn unknown(&mut self, (bundle, step): (u32, &Step), sent_us: u64, watched: Option<u64>) {
        let operation = match step {
            Step::Get | Step::Watch | Step::ReadAll => return,
            Step::Set { value } | Step::SetExpiring { value, .. } => Operation::SetRegister { value: *value },
            Step::Delete => Operation::DeleteRegister { removed: None },
            Step::Increment => Operation::Increment { count: None },
            Step::Append { value } => Operation::Append { value: *value, length: None },
            Step::WriteAll { value } => Operation::WriteAll { value: *value, count: None },
            Step::Exec { value } => Operation::CompareAndSet { expected: watched, value: *value },
        };
        self.add(bundle, Event { sent_us, answered_us: None, operation });
        self.may_expire(bundle, step, sent_us);
    }

    /// Whether all of a bundle was read at `from_us` or later; also if it was never used.
    pub fn is_audited(&self, bundle: u32, from_us: u64) -> bool {
        let reads_all = |event: &Event| {
            let all = matches!(event.operation, Operation::ReadAll { .. });
            all && event.answered_us.is_some() && event.sent_us >= from_us
        };
        self.bundles.get(&bundle).is_none_or(|events| events.iter().any(reads_all))
    }

    fn may_expire(&mut self, bundle: u32, step: &Step, sent_us: u64) {
        if let Step::SetExpiring { value, .. } = step {
            let operation = Operation::ExpireRegister { value: *value };
            let event = Event { sent_us, answered_us: None, operation };
            self.bundles.entry(bundle).or_default().push(event);
        }
    }
}
