//! What the fuzz targets check. A target reads any bytes, and asserts what must be true of them: values that come back
//! as they were, bounds, models. Nothing may panic, and memory follows the bytes that are there, never a length that
//! they claim.
//!
//! `fuzz_targets/` has a door for each module here; `examples/corpus.rs` writes the corpus from real encodings.

pub mod capture;
pub mod command;
pub mod disk;
pub mod effects;
pub mod feed;
pub mod handshake;
pub mod index;
pub mod input;
pub mod members;
pub mod memory;
pub mod message;
pub mod meta;
pub mod record;
pub mod recovery;
pub mod reply;
pub mod settings;
pub mod snapshot;

// What `src/redis/options.rs`, which `settings` includes, knows of its crate.
use redisraft::node;

/// Files of the corpus: a name, and the bytes.
pub type Seeds = Vec<(&'static str, Vec<u8>)>;
