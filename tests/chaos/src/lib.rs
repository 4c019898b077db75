//! Chaos on real servers: processes of `redis-server` with the module, under faults that a seed draws, and clients whose
//! history is judged by the simulator's checker.
//!
//! ```text
//!   seed --> plan --> nemesis --> fleet: processes, proxy between them, shim (disk, clock)
//!                        ^          ^
//!            observer ---'          |
//!                       workload --> clients --> record --> linearizability
//! ```
//!
//! A run makes a fresh cluster and plays its rounds. After each all faults are taken back, and within a bound the cluster
//! must answer, all nodes must hold the same dataset, and every acknowledged write must be there. In the end all are
//! killed, and their logs must be whole and agree.

pub mod client;
#[path = "../../cluster/mod.rs"]
mod cluster;
pub mod fleet;
pub mod nemesis;
pub mod observer;
pub mod plan;
pub mod record;
pub mod round;
pub mod session;
pub mod shim;
pub mod summary;
pub mod violation;
pub mod workload;
