//! The consensus core: Raft as a pure state machine.
mod io;
mod message;
pub use io::*;
pub use message::*;
