//! Between the Redis main thread and the raft thread: two queues, a wake-up each way, and the few numbers
//! that change with every batch, as atomics. Neither side ever waits for the other.

use super::settings::Settings;
use super::status::Status;
use crate::consensus::{Index, NodeId};
use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

/// A leadership of this node: the term in which it leads. 0 = none.
pub type Epoch = u64;
/// An administrator's request that waits for its answer.
pub type Ticket = u64;

/// What the main thread tells the raft thread.
#[derive(Debug)]
pub enum ToRaft {
    /// The batch `sequence` has only read.
    ReadBarrier {
        epoch: Epoch,
        sequence: u64,
    },
    /// `REPLICAOF NO ONE` was run: the dataset is that of the last entry fed, and the stream of effects
    /// starts after `offset` of `replid`.
    Promoted {
        epoch: Epoch,
        replid: String,
        offset: u64,
    },
    /// Could not be promoted; the node must give leadership up.
    PromotionFailed {
        epoch: Epoch,
        reason: String,
    },
    Init {
        ticket: Ticket,
        cluster_id: Option<String>,
        /// The server holds data, which becomes the first snapshot.
        with_data: bool,
    },
    Join {
        ticket: Ticket,
        addresses: Vec<String>,
    },
    /// A node asks to become a learner. `id` 0: choose one.
    AddNode {
        ticket: Ticket,
        id: NodeId,
        address: String,
        peer_address: String,
    },
    /// The same of one whose log is in memory; it is given an id.
    AddInMemory {
        ticket: Ticket,
        address: String,
        peer_address: String,
    },
    /// A member is to go.
    RemoveNode {
        ticket: Ticket,
        id: NodeId,
    },
    /// A snapshot is wanted. `wait`: the answer is given when it is there.
    Compact {
        ticket: Ticket,
        wait: bool,
    },
    /// The server has forked a child that writes the dump of attempt `attempt`.
    SnapshotForked {
        attempt: u64,
    },
    /// The dump is there.
    SnapshotSaved {
        attempt: u64,
        file: PathBuf,
    },
    SnapshotFailed {
        attempt: u64,
        reason: String,
    },
    /// Hand leadership over, to node `target` or to whom this node chooses.
    Transfer {
        ticket: Ticket,
        target: Option<NodeId>,
    },
    /// Nothing is executed any more until `Unseal` or `Demote`; all that was executed is in the stream up to `offset`.
    Sealed {
        attempt: u64,
        offset: u64,
    },
    /// The dataset is empty, as `Empty` has asked.
    Emptied {
        load: u64,
    },
    Configure(Arc<Settings>),
    Shutdown,
}

/// What the raft thread tells the main thread; handled in order.
#[derive(Debug, PartialEq, Eq)]
pub enum ToMain {
    /// `REPLICAOF 127.0.0.1 <port>`.
    Follow {
        port: u16,
    },
    /// `REPLICAOF NO ONE`, open the gate, answer `Promoted`.
    Promote {
        epoch: Epoch,
    },
    /// Leadership is being handed over: execute nothing any more, then answer `Sealed`.
    Seal {
        attempt: u64,
    },
    /// It was not handed over: go on.
    Unseal,
    /// Leadership is lost: close the gate, fail what is held, put `RAFT.MARK <epoch> FINAL_SEQUENCE` into the stream
    /// unless it was sealed before.
    Demote {
        epoch: Epoch,
    },
    /// Drop the whole dataset, answer `Emptied`: another one is about to be loaded in its place. Were it not empty, the
    /// server would write that one to the disk first, under the name of the user's dumps.
    Empty {
        load: u64,
    },
    /// Fork for a dump at the end of this turn, and say so in the stream: `RAFT.MARK <epoch> <sequence> <attempt>`.
    /// Epoch 0: there is no cluster yet, nobody can write, and no mark is needed.
    Snapshot {
        epoch: Epoch,
        attempt: u64,
        /// Name in the server's directory.
        file: String,
    },
    /// This node is no member any more: be a server without a cluster again, and without its data.
    Retire,
    /// Who leads changed: clients that wait for a leader may go on.
    LeaderChanged,
    Answer {
        ticket: Ticket,
        answer: Answer,
    },
}

/// The last mark of a leadership: all that it executed is before it.
pub const FINAL_SEQUENCE: u64 = u64::MAX;

/// Answer to an administrator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Ok,
    Created {
        cluster_id: String,
    },
    Added {
        id: NodeId,
        cluster_id: String,
        secret: Vec<u8>,
        members: Vec<u8>,
    },
    /// Ask the leader there.
    Moved {
        address: String,
    },
    NoLeader,
    /// What was asked for did not happen, and why.
    Refused(String),
    /// Leadership was lost while node `id` was being added or removed: that may have been done or not.
    Unknown {
        id: NodeId,
    },
}

/// A queue with a wake-up that is given once until the other side has taken everything.
struct Mailbox<T> {
    items: Mutex<VecDeque<T>>,
    awake: AtomicBool,
}

impl<T> Mailbox<T> {
    fn new() -> Mailbox<T> {
        Mailbox { items: Mutex::new(VecDeque::new()), awake: AtomicBool::new(false) }
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<T>> {
        self.items.lock().expect("no holder of this lock can panic")
    }

    fn push(&self, item: T) {
        self.lock().push_back(item);
    }

    /// True when the caller has to wake the receiver.
    fn must_wake(&self) -> bool {
        !self.awake.swap(true, Ordering::SeqCst)
    }

    /// The receiver is about to look: whoever comes from now on wakes it again.
    fn taking(&self) {
        self.awake.store(false, Ordering::SeqCst);
    }

    fn take(&self, into: &mut Vec<T>) {
        into.extend(self.lock().drain(..));
    }
}

type Wake = Box<dyn Fn() + Send + Sync>;

/// Shared by the two threads.
pub struct Bridge {
    to_raft: Mailbox<ToRaft>,
    to_main: Mailbox<ToMain>,
    wake_raft: Wake,
    wake_main: Wake,
    /// Batches of `released_epoch` up to this sequence may be answered.
    released: AtomicU64,
    released_epoch: AtomicU64,
    /// The last read that waits for the leader's word, on a node that does not lead.
    reads_wanted: AtomicU64,
    /// See [`Bridge::lease_until_us`].
    lease_until_us: AtomicU64,
    /// What the local Redis holds, as `RAFT.APPLIED` said.
    applied: AtomicU64,
    /// See [`Bridge::read_barrier`].
    round_under_way: AtomicBool,
    /// The raft thread wants to know when `applied` gets here.
    applied_wanted: AtomicU64,
    /// The raft thread wants to know whether the main thread turns: the last ping, and the last one answered.
    asked: AtomicU64,
    answered: AtomicU64,
    status: Mutex<Arc<Status>>,
}

impl Bridge {
    /// `wake_raft` and `wake_main` are called from the other thread and must not block.
    pub fn new(wake_raft: Wake, wake_main: Wake) -> Bridge {
        Bridge {
            to_raft: Mailbox::new(),
            to_main: Mailbox::new(),
            wake_raft,
            wake_main,
            released: AtomicU64::new(0),
            released_epoch: AtomicU64::new(0),
            reads_wanted: AtomicU64::new(0),
            lease_until_us: AtomicU64::new(0),
            applied: AtomicU64::new(0),
            round_under_way: AtomicBool::new(false),
            applied_wanted: AtomicU64::new(u64::MAX),
            asked: AtomicU64::new(0),
            answered: AtomicU64::new(0),
            status: Mutex::new(Arc::new(Status::default())),
        }
    }

    // Main thread.

    pub fn tell_raft(&self, message: ToRaft) {
        self.to_raft.push(message);
        self.wake_raft();
    }

    /// A batch has only read. While the raft thread waits for the answers to a round of reads it is not woken: the
    /// next round cannot begin before they come, and they wake it.
    pub fn read_barrier(&self, epoch: Epoch, sequence: u64) {
        self.to_raft.push(ToRaft::ReadBarrier { epoch, sequence });
        if !self.round_under_way.load(Ordering::SeqCst) {
            self.wake_raft();
        }
    }

    /// Reads up to number `through` wait on this node, which does not lead; `RAFT.READ` in the feed executes them.
    pub fn want_reads(&self, through: u64) {
        self.reads_wanted.store(through, Ordering::SeqCst);
        self.wake_raft();
    }

    fn wake_raft(&self) {
        if self.to_raft.must_wake() {
            (self.wake_raft)();
        }
    }

    pub fn take_for_main(&self, into: &mut Vec<ToMain>) {
        self.to_main.taking();
        self.to_main.take(into);
        self.answered.store(self.asked.load(Ordering::SeqCst), Ordering::SeqCst);
    }

    /// The last sequence of `epoch` that may be answered.
    pub fn released(&self, epoch: Epoch) -> u64 {
        let sequence = self.released.load(Ordering::SeqCst);
        match self.released_epoch.load(Ordering::SeqCst) == epoch {
            true => sequence,
            false => 0,
        }
    }

    /// `RAFT.APPLIED index` was run.
    pub fn set_applied(&self, index: Index) {
        self.applied.store(index, Ordering::SeqCst);
        if index >= self.applied_wanted.load(Ordering::SeqCst) {
            self.applied_wanted.store(u64::MAX, Ordering::SeqCst);
            self.wake_raft();
        }
    }

    pub fn status(&self) -> Arc<Status> {
        self.status.lock().expect("no holder of this lock can panic").clone()
    }

    /// Before this time, by `clock::now_us`, no other node leads; 0 = no lease. What was executed before this is asked,
    /// and has seen nothing that is not committed, needs no round if the clock, read afterwards, is behind it.
    pub fn lease_until_us(&self) -> u64 {
        self.lease_until_us.load(Ordering::SeqCst)
    }

    // Raft thread.

    pub fn reads_wanted(&self) -> u64 {
        self.reads_wanted.load(Ordering::SeqCst)
    }

    pub fn set_lease(&self, until_us: u64) {
        self.lease_until_us.store(until_us, Ordering::SeqCst);
    }

    /// Says whether answers to a round of reads are awaited. True: something came meanwhile without a wake-up, and
    /// the raft thread must look again before it sleeps.
    #[must_use]
    pub fn set_round_under_way(&self, under_way: bool) -> bool {
        let before = self.round_under_way.swap(under_way, Ordering::SeqCst);
        before && !under_way && !self.to_raft.lock().is_empty()
    }

    pub fn take_for_raft(&self, into: &mut Vec<ToRaft>) {
        self.to_raft.taking();
        self.to_raft.take(into);
    }

    pub fn tell_main(&self, message: ToMain) {
        self.to_main.push(message);
        self.wake_main();
    }

    pub fn answer(&self, ticket: Ticket, answer: Answer) {
        self.tell_main(ToMain::Answer { ticket, answer });
    }

    fn wake_main(&self) {
        if self.to_main.must_wake() {
            (self.wake_main)();
        }
    }

    /// Asks the main thread for a sign of life: it answers when it takes its messages.
    pub fn ping(&self, number: u64) {
        self.asked.store(number, Ordering::SeqCst);
        self.wake_main();
    }

    /// The last ping that the main thread has answered.
    pub fn answered(&self) -> u64 {
        self.answered.load(Ordering::SeqCst)
    }

    /// Sequences count anew from 1 in each epoch. To be called before the main thread hears of the epoch.
    pub fn start_epoch(&self, epoch: Epoch) {
        self.released.store(0, Ordering::SeqCst);
        self.released_epoch.store(epoch, Ordering::SeqCst);
    }

    pub fn release(&self, sequence: u64) {
        assert!(sequence >= self.released.load(Ordering::SeqCst), "batches are released in order");
        self.released.store(sequence, Ordering::SeqCst);
        self.wake_main();
    }

    pub fn applied(&self) -> Index {
        self.applied.load(Ordering::SeqCst)
    }

    /// Forget what was applied: a new dataset is on its way.
    pub fn reset_applied(&self, index: Index) {
        self.applied.store(index, Ordering::SeqCst);
    }

    /// Wake me when `applied` reaches `index`. It may be there already: look again after this call.
    pub fn want_applied(&self, index: Index) {
        self.applied_wanted.store(index, Ordering::SeqCst);
    }

    pub fn publish(&self, status: Arc<Status>) {
        *self.status.lock().expect("no holder of this lock can panic") = status;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    fn counted() -> (Bridge, Arc<AtomicUsize>, Arc<AtomicUsize>) {
        let (raft, main) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let count = |counter: &Arc<AtomicUsize>| -> Wake {
            let counter = counter.clone();
            Box::new(move || {
                counter.fetch_add(1, Ordering::SeqCst);
            })
        };
        (Bridge::new(count(&raft), count(&main)), raft, main)
    }

    #[test]
    fn many_messages_are_one_wake_up_until_they_are_taken() {
        let (bridge, _, main) = counted();
        bridge.start_epoch(3);
        bridge.release(1);
        bridge.tell_main(ToMain::LeaderChanged);
        bridge.release(2);
        assert_eq!(main.load(Ordering::SeqCst), 1);
        let mut got = Vec::new();
        bridge.take_for_main(&mut got);
        assert_eq!((got, bridge.released(3), bridge.released(2)), (vec![ToMain::LeaderChanged], 2, 0));
        bridge.release(3);
        assert_eq!(main.load(Ordering::SeqCst), 2);
        bridge.start_epoch(4);
        assert_eq!((bridge.released(4), bridge.released(3)), (0, 0), "sequences begin anew");
    }

    #[test]
    fn a_read_barrier_wakes_unless_a_round_is_under_way_and_is_never_forgotten() {
        let (bridge, raft, _) = counted();
        bridge.read_barrier(1, 1);
        let mut got = Vec::new();
        bridge.take_for_raft(&mut got);
        assert!(!bridge.set_round_under_way(true));
        bridge.read_barrier(1, 2);
        assert_eq!((raft.load(Ordering::SeqCst), got.len()), (1, 1));
        assert!(bridge.set_round_under_way(false), "the second barrier came without a wake-up");
        bridge.take_for_raft(&mut got);
        assert!(!bridge.set_round_under_way(false));
        assert_eq!(got.len(), 2);
    }

    #[test]
    fn a_ping_is_answered_by_who_takes_the_messages() {
        let (bridge, _, main) = counted();
        bridge.tell_main(ToMain::LeaderChanged);
        bridge.ping(7);
        assert_eq!((bridge.answered(), main.load(Ordering::SeqCst)), (0, 1));
        bridge.take_for_main(&mut Vec::new());
        assert_eq!(bridge.answered(), 7);
        bridge.ping(8);
        assert_eq!((bridge.answered(), main.load(Ordering::SeqCst)), (7, 2), "it is woken for a ping alone");
    }

    #[test]
    fn applied_wakes_only_where_it_was_asked_for() {
        let (bridge, raft, _) = counted();
        bridge.set_applied(5);
        assert_eq!(raft.load(Ordering::SeqCst), 0);
        bridge.want_applied(7);
        bridge.set_applied(6);
        assert_eq!(raft.load(Ordering::SeqCst), 0);
        bridge.set_applied(8);
        assert_eq!((raft.load(Ordering::SeqCst), bridge.applied()), (1, 8));
    }
}
