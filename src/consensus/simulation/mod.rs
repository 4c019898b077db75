//! Many cores on a simulated network with simulated disks, driven by one seed, and judged after every step.
//!
//! `world.rs` moves messages, disks and time, `faults.rs` disturbs them; `judge.rs` knows what must hold between nodes; the tests here choose
//! the faults.

mod clock;
mod disk;
mod faults;
mod judge;
mod snapshots;
mod world;

use faults::Faults;
use world::World;

/// `count` seeds from `first` on; `SEEDS=10` in the environment makes it ten times as many.
fn seeds(first: u64, count: u64) -> std::ops::Range<u64> {
    let factor = std::env::var("SEEDS").ok().and_then(|factor| factor.parse().ok()).unwrap_or(1);
    first..first + count * factor
}

/// Runs one seed with faults, then without, and demands progress at the end.
fn run(seed: u64, faults: Faults) -> World {
    let outcome = std::panic::catch_unwind(|| {
        let mut world = World::new(seed, faults);
        world.run_until(2_500_000);
        world.heal();
        world.run_until(4_000_000);
        world.judge_liveness();
        world
    });
    outcome.unwrap_or_else(|panic| {
        eprintln!("seed {seed} of {faults:?} failed");
        std::panic::resume_unwind(panic)
    })
}

#[test]
fn lossy_network() {
    let faults = Faults { loss: 10, duplication: 10, reordering: 20, ..Faults::default() };
    seeds(0, 80).for_each(|seed| drop(run(seed, faults)));
}

#[test]
fn partitions_and_links() {
    let faults = Faults { loss: 2, partitions: true, false_hints: true, ..Faults::default() };
    seeds(100_000, 80).for_each(|seed| drop(run(seed, faults)));
}

#[test]
fn crashes() {
    let faults = Faults { loss: 2, crashes: true, reordering: 5, ..Faults::default() };
    seeds(200_000, 80).for_each(|seed| drop(run(seed, faults)));
}

#[test]
fn membership_changes_and_transfers() {
    let faults = Faults { loss: 3, membership: true, ..Faults::default() };
    seeds(300_000, 80).for_each(|seed| drop(run(seed, faults)));
}

#[test]
fn damaged_and_cut_logs() {
    let faults = Faults { loss: 5, reordering: 10, crashes: true, damage: true, ..Faults::default() };
    seeds(500_000, 120).for_each(|seed| drop(run(seed, faults)));
}

#[test]
fn damaged_and_cut_logs_in_partitions() {
    let faults = Faults { loss: 2, reordering: 20, partitions: true, damage: true, ..Faults::default() };
    seeds(600_000, 120).for_each(|seed| drop(run(seed, faults)));
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
        compaction: true,
        damage: true,
        leases: true,
    };
    seeds(400_000, 120).for_each(|seed| drop(run(seed, faults)));
}

#[test]
fn logs_are_compacted_and_snapshots_installed() {
    let faults = Faults { loss: 5, crashes: true, partitions: true, compaction: true, ..Faults::default() };
    let (mut compactions, mut installations) = (0, 0);
    for seed in seeds(700_000, 80) {
        let world = run(seed, faults);
        compactions += world.compactions;
        installations += world.installations;
    }
    assert!(
        compactions > 1000 && installations > 80,
        "{compactions} compactions, {installations} installations"
    );
}

/// Leases, on bad clocks, with crashes, partitions, transfers, changes of membership and of the setting.
#[test]
fn leases_on_clocks_that_drift() {
    let faults = Faults {
        loss: 2,
        reordering: 5,
        partitions: true,
        crashes: true,
        membership: true,
        leases: true,
        ..Faults::default()
    };
    let mut reads = 0;
    for seed in seeds(800_000, 160) {
        reads += run(seed, Faults { false_hints: seed % 2 == 0, ..faults }).reads_by_lease;
    }
    assert!(reads > 10_000, "{reads} reads by leases");
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
