//! All sockets of the raft thread, on one `mio::Poll`: peers, and the two local links to Redis.
//!
//! ```text
//!   node A  ── dialled by A: frames A -> B ──>  node B        (two connections per pair: each node sends
//!           <── dialled by B: frames B -> A ──                 only on the one that it dialled)
//!
//!   local Redis  ── capture: its effects, as if we were its replica ──>  this thread     (on the leader)
//!                <── feed: committed entries, as if we were its master ──                (elsewhere)
//! ```
//!
//! **Peers.** Each connection starts with a mutual challenge-response over the cluster secret (`handshake`);
//! no frame is looked at before. When an established dialled link breaks it is redialled in the same turn: a
//! killed process refuses on loopback at once, which the consensus core hears of as
//! `PeerDown { refused: true }`, milliseconds after the kill. Frames are not encrypted.
//!
//! **Turn.** The caller alternates [`Links::poll`] (collects events), its own work, and [`Links::flush`].
//! Registration is edge-triggered: a socket that used up its budget of the turn is remembered and served in the
//! next one, which then does not wait.
//!
//! What is deliberately absent: the meaning of frames and of the effect stream, and any thread but the
//! short-lived ones that resolve host names.

mod accept;
mod capture;
mod capture_buffer;
mod dial;
mod dialogue;
mod error;
mod event;
mod feed;
mod frame;
#[cfg(fuzzing)]
pub mod fuzz;
mod handshake;
pub mod join;
mod links;
mod listener;
mod own_process;
mod peer;
mod reactor;
mod resolve;
mod send_queue;
mod socket;

pub use capture::CaptureRequest;
pub use capture_buffer::CaptureBuffer;
pub use dial::PeerStats;
pub use error::{LinkError, Rejection, Rejections};
pub use event::Event;
pub use frame::{Frame, OutFrame};
pub use handshake::{PeerIdentity, PROTOCOL_VERSION};
pub use links::{LinkConfig, Links};
pub use resolve::{by_the_system, Resolve};
