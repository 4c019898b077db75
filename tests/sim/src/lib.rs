//! Deterministic simulation of whole clusters: consensus, driver, wire format and log run unchanged in one thread, and
//! everything around them - network, disks, clocks, the local servers, clients - is simulated from one seed. A seed
//! that fails fails again in the same way.
//!
//! ```text
//!   plan (which faults exist) --> faults ----.
//!                                            v
//!   clients --> servers <--links--> nodes  simulation (queue of events)
//!      |           |                  |  `--> network --> other nodes
//!      v           v                  v
//!   history     datasets            store --> disk
//!      `-----------'--> judge <-------'
//! ```
//!
//! * What is real: `redisraft::{consensus, node, log, resp}`.
//! * What is modelled: the server and the module's main thread (`redis/`), the local links, the raft thread's loop
//!   (`process.rs`), machines, network, disk, clients.
//! * Phases of a seed: faults; then none, and the cluster must converge and answer within a bound (`liveness.rs`).

pub mod client;
pub mod clock;
pub mod coverage;
pub mod disk;
pub mod faults;
pub mod history;
pub mod joining;
pub mod judge;
pub mod linearizability;
pub mod links;
pub mod liveness;
pub mod machine;
pub mod membership;
pub mod memory;
pub mod network;
pub mod plan;
pub mod process;
pub mod queue;
pub mod random;
pub mod redis;
pub mod restarts;
pub mod runner;
pub mod shapes;
pub mod simulation;
pub mod snapshots;
pub mod store;
pub mod trace;
pub mod traffic;
pub mod world;
pub mod worst;

pub use simulation::Simulation;
