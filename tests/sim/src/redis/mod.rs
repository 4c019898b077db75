//! A small Redis with the module's main thread: enough of both that the driver cannot tell them from the real ones.
//!
//! What is modelled after the server: commands are executed one by one in turns of an event loop; their effects become
//! a stream with exact offsets; as a replica it applies whole commands, asks after a cut for the byte behind the last
//! one that it has run, and turns into a master at that offset under a new id. What is modelled after `src/redis/`:
//! the gate with its batches, marks and read barriers, the order of a turn, the changes of role, the dumps.

mod commands;
pub mod dataset;
pub mod dump;
mod gate;
mod reads;
mod replica;
mod roles;
mod server;
mod stream;

pub use commands::{Reply, Request, Step};
pub use dataset::Dataset;
pub use replica::Applied;
pub use server::{Delivery, Outcome, Server, Turn};

/// A local link that somebody cuts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kill {
    Feed,
    Capture,
}
