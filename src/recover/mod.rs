//! A way back when a majority of the nodes is lost for good: of the log and the snapshot of one node that is left, the
//! beginning of a new cluster. `raftlog-tool recover` is the command; docs/operations.md tells the operator's side.
//!
//! Nothing of what is there is changed. `examine.rs` reads it and says what is known, `build.rs` writes complete
//! directories beside it - with the log's and the snapshot store's own writing - and `place.rs` puts them in place:
//!
//! ```text
//!   DIR                 the node's log        DIR.before-recovery-<time>      the same, untouched
//!   DIR.recovering/     half-made      --->   DIR                             what was made for this node
//!                                             DIR.recovered/member-<id>       what was made for the others
//! ```
//!
//! What is made: the same entries and the same snapshot; behind them, in a term above all that this node has seen, a
//! membership with the new members; in META this term and no vote. The cluster id and the secret are always new:
//!
//! * R1 No node of the old cluster and none of the new one ever exchange a word. Whatever the lost nodes hold - votes,
//!   acknowledgements, entries, a majority - counts in the old cluster only, should they come back.
//! * R2 All members begin with the same log and have promised nothing in the new cluster: as after INIT.
//! * R3 Every entry of the old log is kept, known to be committed or not: what was answered is among them, as far as
//!   this node has it.
//! * R4 A node id that was ever given out is not given out again.

mod build;
mod error;
mod examine;
mod members_file;
mod place;

pub use build::{build, Beginning};
pub use error::RecoverError;
pub use examine::{examine, Found};
pub use members_file::{parse as parse_members, Line, MembersFileError};
pub use place::{finish, is_interrupted, recover, Recovered};
