//! Every system call fails once, and a crash comes before every one: what was acknowledged is there afterwards,
//! nothing is acknowledged after a failure, and the vote is never forgotten.

mod log_support;

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use log_support::power::{PowerDisk, Random};
use log_support::promise::{run, Promise, Threads};
use log_support::*;
use redisraft::log::{LogError, WriteRequest};

/// Without threads every call has its number; with them they come in one of their orders.
#[test]
fn the_nth_call_fails() {
    let mut failures = 0;
    let mut counted = 0;
    let mut unnoticed = 0;
    for (errno, threads) in
        [(libc::EIO, Threads::None), (libc::ENOSPC, Threads::None), (libc::EIO, Threads::Own)]
    {
        for number in 1.. {
            let directory = fast_directory();
            let path = directory.path().join("log");
            let disk = HookedDisk::new(Box::new(move |call, _| {
                if call == number {
                    return Err(io::Error::from_raw_os_error(errno));
                }
                Ok(())
            }));
            let promise = Mutex::default();
            let result = run(&disk, &path, &promise, threads);
            if disk.calls() < number {
                let helped = result.expect("nothing failed");
                assert!(
                    helped.failures == 0 && helped.recycled_segments > 1,
                    "purged segments are used again"
                );
                break;
            }
            match result {
                Ok(helped) if helped.failures > 0 => counted += 1,
                Ok(_) => unnoticed += 1,
                Err(error @ (LogError::Io { .. } | LogError::InUse { .. })) => {
                    failures += 1;
                    assert!(error.to_string().contains(&directory.path().display().to_string()), "{error}");
                }
                Err(error) => panic!("call {number}: {error}"),
            }
            promise
                .into_inner()
                .expect("promise")
                .check(&path, &format!("call {number} failed, {threads:?} threads"));
        }
    }
    // What the helper fails at is counted and tried again; a read is tried again; the last syncs come after the last
    // answer.
    let numbers = format!("{failures} failures, {counted} counted, {unnoticed} without effect");
    assert!(failures > 500 && counted > 200 && unnoticed < 200, "{numbers}");
}

/// The page cache may say "clean" of what a failed sync never wrote: asking again proves nothing.
#[test]
fn a_write_or_sync_that_fails_is_not_tried_again() {
    for what in ["write_at", "sync_data"] {
        let directory = fast_directory();
        let path = directory.path().join("log");
        drop(Harness::create(&path));
        let armed = Arc::new(Mutex::new(false));
        let later = Arc::new(Mutex::new(Vec::new()));
        let (trigger, calls) = (armed.clone(), later.clone());
        let disk = HookedDisk::new(Box::new(move |_, name| {
            let mut calls = calls.lock().expect("calls");
            if !calls.is_empty() {
                calls.push(name);
            }
            if name == what && calls.is_empty() && *trigger.lock().expect("armed") {
                calls.push(name);
                return Err(io::Error::from_raw_os_error(libc::EIO));
            }
            Ok(())
        }));
        let mut harness = Harness::open_on(disk.clone(), &path).expect("open");
        harness.append(1, 1, 10).expect("append");
        // The helper makes the next segment now: its failures are another matter.
        let mut seen = 0;
        while !path.join("0000000002.log").exists() || disk.calls() > seen {
            seen = disk.calls();
            std::thread::sleep(std::time::Duration::from_millis(30));
        }
        *armed.lock().expect("armed") = true;
        let error = harness.append(1, 1, 10).expect_err("EIO");
        assert!(error.to_string().contains("0000000001.log"), "{error}");
        assert!(harness.vote(5, Some(1)).is_err());
        assert!(harness.append(1, 1, 10).is_err());
        drop(harness);
        assert_eq!(*later.lock().expect("calls"), [what], "nothing follows a failed {what}");
    }
}

#[test]
fn a_crash_before_every_call() {
    for threads in [Threads::None, Threads::Own] {
        crash_before_every_call(threads);
    }
}

fn crash_before_every_call(threads: Threads) {
    let root = fast_directory();
    let path = root.path().join("log");
    let promise = Arc::new(Mutex::new(Promise::default()));
    let images: Arc<Mutex<Vec<(PathBuf, Promise)>>> = Arc::default();
    let hook = {
        let (path, root) = (path.clone(), root.path().to_path_buf());
        let (promise, images) = (promise.clone(), images.clone());
        move |call, _| {
            // What was promised by now; the image can only be newer.
            let promised = promise.lock().expect("promise").clone();
            if path.exists() {
                let image = root.join(format!("image-{call}"));
                crash_image(&path, &image);
                images.lock().expect("images").push((image, promised));
            }
            Ok(())
        }
    };
    run(&HookedDisk::new(Box::new(hook)), &path, &promise, threads).expect("run");
    let images = std::mem::take(&mut *images.lock().expect("images"));
    assert!(images.len() > 100, "{}", images.len());
    for (image, promised) in images {
        promised.check(&image, &image.display().to_string());
    }
}

#[test]
fn a_loss_of_power_before_every_call() {
    for threads in [Threads::None, Threads::Own] {
        lose_power_before_every_call(threads);
    }
}

fn lose_power_before_every_call(threads: Threads) {
    let variants = if threads == Threads::None { 4 } else { 2 };
    let root = fast_directory();
    let path = root.path().join("log");
    let promise = Arc::new(Mutex::new(Promise::default()));
    let images: Arc<Mutex<Vec<(PathBuf, Promise)>>> = Arc::default();
    let disk = Arc::new(PowerDisk::default());
    let random = Mutex::new(Random(0x9e37_79b9_7f4a_7c15));
    let hook = {
        let (root, promise, images, disk) =
            (root.path().to_path_buf(), promise.clone(), images.clone(), disk.clone());
        move |call, _| {
            let promised = promise.lock().expect("promise").clone();
            for variant in 0..variants {
                let image = root.join(format!("image-{call}-{variant}"));
                disk.lose_power(&mut random.lock().expect("random"), &image);
                images.lock().expect("images").push((image, promised.clone()));
            }
            Ok(())
        }
    };
    run(&HookedDisk::over(disk, Box::new(hook)), &path, &promise, threads).expect("run");
    let images = std::mem::take(&mut *images.lock().expect("images"));
    assert!(images.len() > 600, "{}", images.len());
    for (image, promised) in images {
        promised.check(&image, &image.display().to_string());
    }
}

/// What a start reads may be in the page cache only: once it counts as part of the log, it must stay.
#[test]
fn what_a_start_has_read_survives_a_loss_of_power() {
    let root = fast_directory();
    let path = root.path().join("log");
    let power = Arc::new(PowerDisk::default());
    let failing = Arc::new(Mutex::new(false));
    let fail = failing.clone();
    let hook = move |_, name| match name {
        "sync_data" if *fail.lock().expect("failing") => Err(io::Error::from_raw_os_error(libc::EIO)),
        _ => Ok(()),
    };
    let mut harness =
        Harness::create_on(HookedDisk::over(power.clone(), Box::new(hook)), &path).expect("create");
    harness.append(1, 1, 10).expect("append");
    *failing.lock().expect("failing") = true;
    harness.append(1, 1, 10).expect_err("EIO");
    drop(harness);
    let harness = Harness::open_on(power.clone(), &path).expect("open");
    assert_eq!(harness.log.last_index(), 2, "written, though not acknowledged");
    let mut random = Random(77);
    for variant in 0..8 {
        let image = root.path().join(format!("image-{variant}"));
        power.lose_power(&mut random, &image);
        assert_eq!(Harness::open(&image).expect("open").log.last_index(), 2);
    }
}

/// Without fsync the last second may be lost, but marks and index lines never claim what was not synced: what is
/// missing is a torn tail, not damage. Closing leaves nothing behind.
#[test]
fn without_fsync_a_loss_of_power_tears_and_does_not_damage() {
    let root = fast_directory();
    let path = root.path().join("log");
    let power = Arc::new(PowerDisk::default());
    let mut harness = Harness::create_on(power.clone(), &path).expect("create");
    harness.append(1, 2, 100).expect("append");
    harness.log.set_fsync(false);
    let mut random = Random(4711);
    for round in 0..30 {
        harness.append(1, 2, round * 20).expect("append");
        if round % 8 == 7 {
            harness.log.purge(round as u64);
        }
        for variant in 0..4 {
            let image = root.path().join(format!("image-{round}-{variant}"));
            power.lose_power(&mut random, &image);
            let opened = Harness::open(&image).unwrap_or_else(|error| panic!("{error}"));
            let (first, found) = (opened.log.first_index(), contents(&opened.log));
            // The purge may come before the loss of power, or not.
            assert!(first <= harness.log.first_index() && opened.log.last_index() >= 2);
            let common = found.iter().skip_while(|entry| entry.0 < harness.log.first_index());
            assert!(contents(&harness.log).iter().zip(common).all(|(one, other)| one == other), "{found:?}");
        }
    }
    // From the first request with fsync on, everything before it is durable, too.
    harness.log.set_fsync(true);
    harness.append(1, 2, 30).expect("append");
    for variant in 0..8 {
        let image = root.path().join(format!("image-synced-{variant}"));
        power.lose_power(&mut random, &image);
        let opened = Harness::open(&image).unwrap_or_else(|error| panic!("{error}"));
        assert!(contents(&opened.log).ends_with(&contents(&harness.log)));
    }
    harness.log.set_fsync(false);
    harness.append(1, 2, 30).expect("append");
    let all = contents(&harness.log);
    drop(harness);
    let image = root.path().join("closed");
    power.lose_power(&mut random, &image);
    assert_eq!(contents(&Harness::open(&image).expect("open").log), all);
}

#[test]
fn a_disk_that_stays_full_refuses_and_recovers_with_space() {
    let directory = fast_directory();
    let path = directory.path().join("log");
    let mut harness = Harness::create(&path);
    harness.append(1, 2, 100).expect("append");
    drop(harness);
    let writes = Arc::new(Mutex::new(false));
    let full = writes.clone();
    let disk = HookedDisk::new(Box::new(move |_, _| {
        if *full.lock().expect("full") {
            return Err(io::Error::from_raw_os_error(libc::ENOSPC));
        }
        Ok(())
    }));
    let mut harness = Harness::open_on(disk, &path).expect("open");
    *writes.lock().expect("full") = true;
    let error = harness.append(1, 100, 500).expect_err("full");
    assert!(error.to_string().contains("free space"), "{error}");
    assert!(harness.append(1, 1, 1).is_err());
    drop(harness);
    let mut harness = Harness::open(&path).expect("open");
    assert!(contents(&harness.log).starts_with(&[(1, 1, 100), (2, 1, 100)]));
    harness.append(2, 100, 500).expect("append");
}

#[test]
fn a_full_disk_is_waited_out() {
    let directory = fast_directory();
    let path = directory.path().join("log");
    let full = Arc::new(AtomicBool::new(false));
    let is_full = full.clone();
    let disk = HookedDisk::new(Box::new(move |_, name| {
        // Records go into space that is there: only what takes new space fails.
        if name == "allocate" && is_full.load(Ordering::SeqCst) {
            return Err(io::Error::from_raw_os_error(libc::ENOSPC));
        }
        Ok(())
    }));
    let mut harness = Harness::create_on(disk.clone(), &path).expect("create");
    harness.append(1, 1, 100).expect("append");
    for closed_while_full in [false, true] {
        full.store(true, Ordering::SeqCst);
        let first = harness.log.last_index() + 1;
        let entries = (first..first + 100).map(|index| entry(index, 1, 500)).collect();
        let id = harness.submit(WriteRequest { entries, ..Default::default() });
        let failures = harness.log.stats().prepare_failures;
        while harness.log.stats().prepare_failures < failures + 4 {
            assert!(
                harness.log.durable().expect("waiting is no failure") < id,
                "acknowledged on a full disk"
            );
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(harness.log.prepare_last_error().is_some_and(|text| text.contains("free space")));
        if closed_while_full {
            break;
        }
        full.store(false, Ordering::SeqCst);
        harness.wait(id).expect("there is space again");
    }
    drop(harness);
    full.store(false, Ordering::SeqCst);
    let harness = Harness::open_on(disk, &path).expect("open");
    assert!(harness.log.last_index() >= 101, "what was acknowledged is there");
    assert!(contents(&harness.log)[1..].iter().all(|(_, term, bytes)| (*term, *bytes) == (1, 500)));
}

/// A tiny file system of its own, where the rights for that are there; the same faults by hook are above.
struct Tmpfs(tempfile::TempDir);

impl Tmpfs {
    fn mount(options: &str) -> Option<Tmpfs> {
        let directory = tempfile::tempdir().expect("tempdir");
        let mount = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", options, "tmpfs"])
            .arg(directory.path())
            .stderr(std::process::Stdio::null())
            .status();
        mount.is_ok_and(|status| status.success()).then_some(Tmpfs(directory))
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg(self.0.path()).status();
    }
}

#[test]
fn a_full_disk_and_a_read_only_one() {
    let Some(disk) = Tmpfs::mount("size=100k") else {
        println!("no right to mount: skipped");
        return;
    };
    let path = disk.0.path().join("log");
    let mut harness = Harness::create(&path);
    let mut acknowledged = 0;
    let waits = |harness: &mut Harness| {
        let last = harness.log.last_index() + 1;
        let id = harness.submit(WriteRequest { entries: vec![entry(last, 1, 1000)], ..Default::default() });
        let failures = harness.log.stats().prepare_failures;
        loop {
            if harness.log.durable().expect("waiting is no failure") >= id {
                return None;
            }
            if harness.log.stats().prepare_failures > failures + 4 {
                return Some(id);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    };
    let last = loop {
        if let Some(id) = waits(&mut harness) {
            break id;
        }
        acknowledged += 1;
        assert!(acknowledged < 100, "the disk is full by now");
    };
    assert!(harness.log.prepare_last_error().is_some_and(|text| text.contains("free space")));
    let remount = |options: &str| {
        let status = std::process::Command::new("mount").args(["-o", options]).arg(disk.0.path()).status();
        assert!(status.expect("mount").success());
    };
    remount("remount,size=200k");
    harness.wait(last).expect("there is space again");
    acknowledged += 1;
    drop(harness);
    remount("remount,ro");
    let error = Harness::open(&path).err().expect("read-only");
    assert!(error.to_string().contains("writable"), "{error}");
    let error =
        Harness::create_on(HookedDisk::new(Box::new(|_, _| Ok(()))), &disk.0.path().join("new")).err();
    assert!(error.expect("read-only").to_string().contains("writable"));
    remount("remount,rw,size=1m");
    let mut harness = Harness::open(&path).expect("open");
    assert_eq!(harness.log.last_index(), acknowledged);
    harness.append(1, 20, 1000).expect("space came back");
}
