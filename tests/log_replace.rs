//! A log that is replaced by an empty one behind a snapshot's entry: whole or not at all, whatever fails.

mod log_support;

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};

use log_support::power::{PowerDisk, Random};
use log_support::{contents, crash_image, fast_directory, Harness, HookedDisk, SEGMENT_BYTES};
use redisraft::log::disk::{Disk, SystemDisk};
use redisraft::log::{replace, HardState};

const BASE: (u64, u64) = (900, 4);

/// Several segments, a vote in term 5.
fn fill(harness: &mut Harness) {
    harness.vote(5, Some(7)).expect("vote");
    for _ in 0..30 {
        harness.append(3, 5, 300).expect("append");
    }
}

fn is_old(harness: &Harness) -> bool {
    assert_eq!(harness.log.hard_state(), HardState { term: 5, vote: Some(7) }, "term and vote stay");
    match harness.log.base() {
        (0, 0) => {
            assert_eq!(contents(&harness.log).len(), 150);
            true
        }
        base => {
            assert_eq!((base, harness.log.last_index(), harness.log.first_index()), (BASE, 900, 901));
            false
        }
    }
}

/// The replaced log takes entries, and is read back with them.
fn goes_on(mut harness: Harness, directory: &Path) {
    harness.append(5, 3, 100).expect("append");
    drop(harness);
    let harness = Harness::open(directory).expect("open");
    assert_eq!(contents(&harness.log).iter().map(|entry| entry.0).collect::<Vec<_>>(), [901, 902, 903]);
}

#[test]
fn a_replaced_log_is_empty_behind_its_base_and_goes_on() {
    let directory = fast_directory();
    let mut harness = Harness::create(directory.path());
    fill(&mut harness);
    assert!(replace(&SystemDisk, directory.path(), BASE, SEGMENT_BYTES).is_err(), "it is in use");
    drop(harness);
    replace(&SystemDisk, directory.path(), BASE, SEGMENT_BYTES).expect("replace");
    let harness = Harness::open(directory.path()).expect("open");
    assert!(!is_old(&harness));
    goes_on(harness, directory.path());
    replace(&SystemDisk, directory.path(), (2000, 9), SEGMENT_BYTES).expect("and again");
    let log = Harness::open(directory.path()).expect("open").log;
    assert_eq!((log.base(), log.hard_state()), ((2000, 9), HardState { term: 9, vote: None }));
    drop(log);
    replace(&SystemDisk, directory.path(), (3000, 8), SEGMENT_BYTES).expect("of an earlier term");
    assert_eq!(Harness::open(directory.path()).expect("open").log.hard_state().term, 9, "terms never fall");
}

#[test]
fn whichever_call_fails_the_log_is_the_old_one_or_the_new_one() {
    let original = fast_directory();
    fill(&mut Harness::create(original.path()));
    for n in 1.. {
        let directory = fast_directory();
        crash_image(original.path(), directory.path());
        let disk = HookedDisk::new(Box::new(move |call, _| match call == n {
            true => Err(io::ErrorKind::StorageFull.into()),
            false => Ok(()),
        }));
        let result = replace(disk.as_ref(), directory.path(), BASE, SEGMENT_BYTES);
        let harness = Harness::open(directory.path()).expect("open");
        let old = is_old(&harness);
        assert!(!old || result.is_err(), "call {n}");
        drop(harness);
        replace(&SystemDisk, directory.path(), BASE, SEGMENT_BYTES).expect("again");
        goes_on(Harness::open(directory.path()).expect("open"), directory.path());
        if disk.calls() < n {
            return;
        }
    }
}

#[test]
fn a_loss_of_power_leaves_the_old_log_or_the_new_one() {
    let (directory, images) = (fast_directory(), fast_directory());
    let power = Arc::new(PowerDisk::default());
    let mut harness = Harness::create_on(power.clone(), directory.path()).expect("create");
    fill(&mut harness);
    drop(harness);
    let (watched, path) = (power.clone(), images.path().to_path_buf());
    let random = Mutex::new(Random(0x51_7cc1));
    let disk: Arc<dyn Disk> = HookedDisk::over(
        power,
        Box::new(move |call, _| {
            for variant in 0..4 {
                let image = path.join(format!("{call}-{variant}"));
                watched.lose_power(&mut random.lock().expect("random"), &image);
            }
            Ok(())
        }),
    );
    replace(disk.as_ref(), directory.path(), BASE, SEGMENT_BYTES).expect("replace");
    drop(Harness::open_on(disk, directory.path()).expect("open"));
    let (mut old, mut new) = (0, 0);
    for image in std::fs::read_dir(images.path()).expect("list") {
        let image = image.expect("list").path();
        let harness = Harness::open(&image).unwrap_or_else(|error| panic!("{}: {error}", image.display()));
        match is_old(&harness) {
            true => old += 1,
            false => {
                new += 1;
                goes_on(harness, &image);
            }
        }
    }
    assert!(old > 5 && new > 5, "{old} images with the old log, {new} with the new one");
}
