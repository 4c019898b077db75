//! redis-raft: a module that makes a group of stock `redis-server` processes one linearizable Redis.
//!
//! The rooms, and the one direction in which they may know each other:
//! `redis -> node -> {consensus, log, link -> resp}`, `recover -> node`. See docs/architecture.md.
#![deny(unsafe_code)]

pub mod consensus;
pub mod limits;
pub mod link;
pub mod log;
pub mod node;
pub mod recover;
#[cfg(feature = "redis")]
#[allow(unsafe_code)]
pub mod redis;
pub mod resp;
pub mod snapshot;
