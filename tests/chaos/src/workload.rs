//! What clients ask for. They work on *bundles*, which are judged one by one: a register, a counter and a list that
//! transactions read and write together, or a lock and a set that its holders add to.

use redisraft_sim::linearizability::MAX_OPERATIONS;
use redisraft_sim::random::Random;

/// Operations on a bundle before clients go on to a fresh one; what is left of the most that can be judged is for
/// operations under way, expiries, and the last reads.
const OPERATIONS_PER_BUNDLE: usize = 60;
/// Bundles of each kind in use at the same time.
const BUNDLES: u32 = 3;
/// Members that the holder of a lock adds.
pub const MEMBERS_PER_LOCK: usize = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Register, counter and list.
    Data,
    /// A lock and a set.
    Lock,
}

impl Kind {
    pub fn of(bundle: u32) -> Kind {
        if bundle.is_multiple_of(2) {
            Kind::Data
        } else {
            Kind::Lock
        }
    }
}

/// One thing to do, with all that it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    Read,
    Set,
    SetExpiring {
        ttl_ms: u64,
    },
    Delete,
    Increment,
    Append,
    ReadAll,
    /// All three at once: in a transaction or a script.
    WriteAll {
        script: bool,
    },
    /// `WATCH`, read, `MULTI`, set, `EXEC`.
    CompareAndSet,
    /// Take the lock, add to the set, give the lock back.
    Hold,
    ReadMembers,
}

impl Task {
    /// Most operations on its bundle that it makes.
    fn operations(self) -> usize {
        match self {
            Task::CompareAndSet | Task::SetExpiring { .. } => 2,
            Task::Hold => 2 + MEMBERS_PER_LOCK,
            _ => 1,
        }
    }
}

/// Which bundles are in use, and the values that were never written before.
pub struct Workload {
    /// Bundles in use, and how many operations were drawn for each.
    used: Vec<(u32, usize)>,
    bundles: u32,
    values: u64,
    expiring_per_mille: u64,
}

impl Workload {
    pub fn new(expiring_per_mille: u64) -> Workload {
        let bundles = 2 * BUNDLES;
        let used = (0..bundles).map(|bundle| (bundle, 0)).collect();
        Workload { used, bundles, values: 0, expiring_per_mille }
    }

    /// Bundles that were ever used, from 0.
    pub fn bundles(&self) -> u32 {
        self.bundles
    }

    /// A value that nobody has written.
    pub fn fresh_value(&mut self) -> u64 {
        self.values += 1;
        self.values
    }

    /// What to do next, and on which bundle. `reads`: something that only reads.
    pub fn draw(&mut self, reads: bool, random: &mut Random) -> (u32, Task) {
        let slot = random.index(self.used.len());
        let (bundle, count) = self.used[slot];
        let task = match Kind::of(bundle) {
            _ if reads && random.chance(500) => Task::Read,
            Kind::Data if reads => Task::ReadAll,
            Kind::Lock if reads => Task::ReadMembers,
            Kind::Data => self.draw_data(random),
            Kind::Lock => match random.below(100) {
                0..=39 => Task::Hold,
                40..=69 => Task::Read,
                _ => Task::ReadMembers,
            },
        };
        self.used[slot].1 += task.operations();
        if count + task.operations() >= OPERATIONS_PER_BUNDLE {
            // The next one of the same kind.
            self.bundles += 2;
            self.used[slot] = (self.next_of(Kind::of(bundle)), 0);
        }
        (bundle, task)
    }

    /// The lowest bundle of this kind above all that are or were in use.
    fn next_of(&self, kind: Kind) -> u32 {
        let first = self.bundles - 2;
        (first..self.bundles).find(|bundle| Kind::of(*bundle) == kind).expect("of two neighbours one is even")
    }

    fn draw_data(&self, random: &mut Random) -> Task {
        match random.below(100) {
            0..=14 => Task::Read,
            15..=29 if random.chance(self.expiring_per_mille) => {
                Task::SetExpiring { ttl_ms: 1 + random.long_tailed(300) }
            }
            15..=29 => Task::Set,
            30..=34 => Task::Delete,
            35..=46 => Task::Increment,
            47..=58 => Task::Append,
            59..=73 => Task::ReadAll,
            74..=84 => Task::WriteAll { script: random.chance(400) },
            _ => Task::CompareAndSet,
        }
    }
}

const _: () = assert!(OPERATIONS_PER_BUNDLE + 50 < MAX_OPERATIONS);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bundles_are_small_enough_to_be_judged_and_every_task_is_drawn() {
        let (mut workload, mut random) = (Workload::new(300), Random::new(3, 2));
        let mut operations = std::collections::BTreeMap::new();
        let mut tasks = std::collections::BTreeSet::new();
        for _ in 0..5_000 {
            let (bundle, task) = workload.draw(false, &mut random);
            *operations.entry(bundle).or_insert(0) += task.operations();
            tasks.insert(format!("{task:?}").split(' ').next().unwrap_or_default().to_owned());
            let lock = matches!(task, Task::Hold | Task::ReadMembers);
            assert!(task == Task::Read || lock == (Kind::of(bundle) == Kind::Lock), "{task:?} on {bundle}");
            assert!(bundle < workload.bundles());
        }
        assert!(operations.len() > 50);
        assert!(operations.values().all(|count| *count < OPERATIONS_PER_BUNDLE + 10), "{operations:?}");
        assert_eq!(tasks.len(), 11, "{tasks:?}");
    }
}
