//! Many cores on a simulated network with simulated disks, driven by one seed, and judged after every step.
//!
//! `world.rs` moves messages, disks and time; `judge.rs` knows what must hold between nodes; the tests here choose
//! the faults.

mod judge;
mod world;

use world::{Faults, World};

/// Runs one seed with faults, then without, and demands progress at the end.
fn run(seed: u64, faults: Faults) {
    let outcome = std::panic::catch_unwind(|| {
        let mut world = World::new(seed, faults);
        world.run_until(2_500_000);
        world.heal();
        world.run_until(4_000_000);
        world.judge_liveness();
    });
    if let Err(panic) = outcome {
        eprintln!("seed {seed} of {faults:?} failed");
        std::panic::resume_unwind(panic);
    }
}

#[test]
fn lossy_network() {
    let faults = Faults { loss: 10, duplication: 10, reordering: 20, ..Faults::default() };
    (0..80).for_each(|seed| run(seed, faults));
}

#[test]
fn partitions_and_links() {
    let faults = Faults { loss: 2, partitions: true, false_hints: true, ..Faults::default() };
    (100..180).for_each(|seed| run(seed, faults));
}

#[test]
fn crashes() {
    let faults = Faults { loss: 2, crashes: true, reordering: 5, ..Faults::default() };
    (200..280).for_each(|seed| run(seed, faults));
}

#[test]
fn membership_changes_and_transfers() {
    let faults = Faults { loss: 3, membership: true, ..Faults::default() };
    (300..380).for_each(|seed| run(seed, faults));
}

#[test]
fn everything_at_once() {
    let faults = Faults {
        loss: 5,
        duplication: 5,
        reordering: 10,
        partitions: true,
        crashes: true,
        membership: true,
        false_hints: true,
    };
    (400..520).for_each(|seed| run(seed, faults));
}

/// The same seed gives the same history, to the last message.
#[test]
fn a_seed_is_a_history() {
    let history = |seed| {
        let mut world =
            World::new(seed, Faults { loss: 5, crashes: true, partitions: true, ..Faults::default() });
        world.run_until(3_000_000);
        world.fingerprint()
    };
    assert_eq!(history(1), history(1));
    assert_ne!(history(1), history(2));
}
