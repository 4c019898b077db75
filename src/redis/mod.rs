//! The module itself: the only room with FFI, and the only one that knows Redis from the inside.
//!
//! All callbacks run on the server's main thread. None of them waits: for the disk, for a peer, or for the raft
//! thread. What the main thread decides alone is small: whether the gate is open, and whose replies it holds.

mod access;
mod admin;
mod blocking;
pub mod cluster_views;
pub mod command_table;
pub mod configs;
mod data;
mod ffi;
mod filter;
mod follower_reads;
mod gate;
pub mod info;
mod load;
mod logger;
mod main_thread;
pub mod options;
mod roles;
mod settings;
mod shutdown;
mod signals;
mod snapshot;
mod symbols;
mod timers;
mod topology;
mod transactions;
mod transfer;
pub mod vector_sets;
mod wait;
