//! Marks that say that something worth testing has happened. A run in which one of them is missing proves less than
//! it seems, and fails.

use std::cell::RefCell;
use std::collections::BTreeMap;

thread_local! {
    static MARKS: RefCell<BTreeMap<&'static str, u64>> = const { RefCell::new(BTreeMap::new()) };
}

/// Counts one occurrence. The name must be listed in [`EXPECTED`].
pub fn mark(name: &'static str) {
    debug_assert!(EXPECTED.contains(&name), "the mark {name} is not listed");
    MARKS.with_borrow_mut(|marks| *marks.entry(name).or_insert(0) += 1);
}

/// All counts since the last call.
pub fn take() -> BTreeMap<&'static str, u64> {
    MARKS.with_borrow_mut(std::mem::take)
}
