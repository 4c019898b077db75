//! The harness of the server tests: real `redis-server` processes with the module, real sockets, real faults.
//!
//! * [`Server`] is one process: started, killed with -9, paused, resumed, restarted in its own directory.
//! * [`Cluster`] is a group of them, with the questions that tests ask: who leads, have all converged.
//! * [`Connection`] is one RESP socket under exact control; [`Client`] follows the leader and knows of every
//!   command whether it was answered, refused, or has an unknown outcome.
//! * [`strict`] holds clients that take no error, [`Hung`] makes one thread stand still.
//! * [`Proxy`] stands between peers and applies faults to a directed pair of nodes.
//! * [`damage`] flips bits in the files of a log and reads them back;
//! * [`load`] writes while something is being broken; [`history`] judges what clients saw.
//!
//! Nothing outlives a test: children are killed by pid when their owner is dropped, and a watchdog ends a test
//! that hangs. The environment variables are `REDISRAFT_SO` (the module), `REDIS_SERVER` (the server binary)
//! and `FULL=1` (the long form of the fault loops).
// Every test binary includes the harness whole and uses its own part of it.
#![allow(dead_code, unused_imports)]

mod client;
pub mod damage;
mod group;
mod hang;
pub mod history;
pub mod load;
mod ports;
mod proxy;
mod server;
pub mod strict;
mod watchdog;
mod wire;

use std::time::{Duration, Instant};

pub use client::{Client, Failure};
pub use group::{parse_info, Cluster, Info, Options};
pub use hang::Hung;
pub use ports::{free_port, peer_port};
pub use proxy::{Fault, Proxy};
pub use server::{can_mount, module_library, redis_server, Account, Server, Setup};
pub use watchdog::{serial, Serial};
pub use wire::{encode, Connection, Value};

/// Waits until `condition` holds, asking every 10 ms.
///
/// # Panics
/// After `timeout`, naming `what` was waited for.
pub fn wait_for(what: &str, timeout: Duration, condition: impl FnMut() -> bool) {
    assert!(holds_within(timeout, condition), "timed out after {timeout:?} waiting for: {what}");
}

/// Whether `condition` comes to hold within `timeout`.
pub fn holds_within(timeout: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + timeout;
    loop {
        if condition() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Whether `FULL=1` asks for the long form of the fault loops.
pub fn full_run() -> bool {
    std::env::var("FULL").is_ok_and(|value| value == "1")
}

/// Rounds of a fault loop: 8 by default, 20 with `FULL=1`.
pub fn fault_rounds() -> usize {
    if full_run() {
        20
    } else {
        8
    }
}

pub const fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

pub const fn millis(count: u64) -> Duration {
    Duration::from_millis(count)
}
