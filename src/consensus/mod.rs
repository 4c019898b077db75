//! The consensus core: Raft as a pure state machine.
//!
//! [`Raft`] has no clock, thread, socket, file or randomness of its own. A driver gives it one [`Input`] at a time
//! together with the present time, and carries out the [`Output`]s; between two inputs the only thing that matters
//! is [`Raft::next_deadline_us`]. The same inputs give the same outputs, always.
//!
//! # The caller's contract
//!
//! 1. **One call at a time, time never runs backwards.** `step(now_us, input, outputs)` appends to `outputs`; all of
//!    them are carried out, in order, before the next call. `now_us` is a monotonic clock; a smaller value than
//!    before counts as the one before. `Tick` is given at or soon after `next_deadline_us()`, however busy the
//!    driver is; any input, not only `Tick`, makes a leader notice that it has lost its quorum.
//! 2. **`Persist` is answered in order.** Writes go to the disk in the order they come, each one whole (hard state,
//!    truncation, entries) before the next. `Persisted { write }` says that this write and all before it are
//!    durable; several may be answered by one. A write that fails is never answered: stop the process.
//! 3. **A message may leave as soon as it is output**, before, during or without any write. What must be durable
//!    first (a granted vote, the request for votes, the acknowledgement of entries) is held back in here until
//!    `Persisted`. Nothing that a crash can lose has been promised to anybody.
//! 4. **Messages may be lost, delayed, doubled and reordered**, but not altered, and `from` must be proven by the
//!    link. A message that no correct node could have sent is dropped without a trace.
//! 5. **Payloads are the driver's.** `Send` of an `Append` needs the payloads `prev.index + 1 ..` from the driver's
//!    log, which must hold every entry from the moment of its `Persist` on, durable or not. A `Write` names the
//!    origin of its payloads by [`Source`]; a later write that truncates makes the former payloads void. No payload
//!    is longer than [`MAX_ENTRY_BYTES`](crate::limits::MAX_ENTRY_BYTES): see to it before proposing.
//! 6. **`Commit { index }` decides.** All up to `index` may be applied. It may run ahead of what is durable here (a
//!    majority of others has it), never ahead of [`Raft::last`].
//! 7. **Reads.** `Read` ids increase. `ReadReady { id, index }` answers all ids up to `id` that came before: wait
//!    until `index` is applied, then read. `ReadFailed { id }` says that ids up to `id` are not answered; nothing
//!    is known about the state then. Each id is answered by exactly one of the two, in order, unless the process dies.
//! 8. **`Changed` comes last** among the outputs of a step and only when role, term or leader differ from the last
//!    one reported. A leader that loses its role first fails its reads. Proposals that were appended and not
//!    committed then are undecided: they may still commit, or be truncated by a later `Persist`.
//! 9. **Restart.** `Restored` is exactly what the answered writes left, or more: a prefix of the writes not yet
//!    answered may have survived. Its term is at least that of its last entry; its entries' terms do not fall.
//!    The commit index starts at `base` and is learned anew.
//! 10. **Links.** `PeerUnreachable` is a hint that the peer's process is gone, given after everything received from
//!     it was stepped: any later message from the peer takes it back. A false hint costs a few messages, never safety.
//! 11. **Holes.** An entry whose payload was lost on the disk stays in `Restored`, and is named in `holes`; `Impaired` is
//!     given whenever the list changes. An entry leaves it when it is durable again, was truncated, or lies before
//!     the log. `Send` of an `Append` that needs such a payload is cut before it, or dropped when nothing is left.
//! 12. **Distrust.** A log from which acknowledged entries may have been cut is restored with `distrusted` until a
//!     write with `regain_trust` is durable. See `trust.rs`.
//! 13. **`Abstain` keeps this node from standing**, whatever asks it to. While all voters abstain nobody is elected: take
//!     it back as soon as its reason is gone.
//! 14. **Snapshots.** `Compacted { through }` says that a durable snapshot holds everything up to `through`, which is
//!     committed and durable: the core forgets these entries, and the driver's log may. The driver itself sends a
//!     snapshot to each peer that [`Raft::progress`] says needs one (`SnapshotNeeded` tells when that begins), for as
//!     long as it says so. `InstalledSnapshot` is given once the received snapshot is durable, all writes are answered,
//!     and the log on disk starts behind it or holds its position. A snapshot is committed state, so it does not matter
//!     who sent it, or in which term.
//! 15. **Leases.** `Write::promise_us` is part of the hard state; `Restored::promise_us` is the last one that was written. With
//!     a lease, [`Raft::lease_until_us`] says until when this node may answer reads of its own: whoever uses it looks at the
//!     value that was in force when the read was executed or later, and at the clock after that. It is looked at anew
//!     after each step, before the step's outputs are carried out. The clock of `now_us` goes on while the machine sleeps.
//! 16. **A panic in here is a broken invariant** (two leaders in one term, a committed entry overwritten): the state
//!     of this node, or of the cluster, can no longer be trusted. Let it stop the process.
//!
//! Sources: Ongaro & Ousterhout, "In Search of an Understandable Consensus Algorithm" (paper), and Ongaro's
//! dissertation "Consensus: Bridging Theory and Practice" (dissertation).

mod disk;
mod election;
mod follower;
mod invariants;
mod io;
mod leader;
mod lease;
mod log_view;
mod membership;
mod message;
mod poll;
mod progress;
mod quorum;
mod raft;
mod random;
mod reads;
mod replication;
#[cfg(test)]
mod simulation;
mod snapshot;
#[cfg(test)]
mod tests;
mod trust;
mod validate;

pub use io::*;
pub use message::*;
pub use progress::PeerProgress;
pub use raft::Raft;
