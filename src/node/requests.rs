//! What the main thread tells the raft thread, handed to the node: one place for the real runtime and for the simulator.

use super::bridge::{Answer, Bridge, ToRaft};
use super::{Fatal, Node, World};
use crate::snapshot::Job;

impl Node {
    /// # Errors
    /// What ends the process.
    pub fn on_request<W: World>(&mut self, world: &mut W, request: ToRaft) -> Result<(), Fatal> {
        match request {
            ToRaft::Init { ticket, .. } | ToRaft::Join { ticket, .. } => {
                let text = format!("this node is a member of cluster {} already", self.cluster_id);
                world.bridge().answer(ticket, Answer::Refused(text));
            }
            ToRaft::AddNode { ticket, id, address, peer_address } => {
                self.on_add_node(world, ticket, id, address, peer_address)
            }
            ToRaft::AddInMemory { ticket, address, peer_address } => {
                self.on_add_in_memory(world, ticket, address, peer_address)
            }
            ToRaft::RemoveNode { ticket, id } => self.on_remove_node(world, ticket, id),
            ToRaft::Transfer { ticket, target } => self.on_transfer(world, ticket, target),
            ToRaft::Sealed { attempt, offset } => self.on_sealed(attempt, offset),
            ToRaft::ReadBarrier { epoch, sequence } => self.on_read_barrier(epoch, sequence),
            ToRaft::Promoted { epoch, replid, offset } => self.on_promoted(world, epoch, replid, offset),
            ToRaft::PromotionFailed { reason, .. } => return Err(self.on_promotion_failed(reason)),
            ToRaft::Emptied { load } => self.on_emptied(world, load),
            ToRaft::Compact { ticket, wait } => self.on_compact(world, ticket, wait),
            ToRaft::SnapshotForked { attempt } => self.on_snapshot_forked(attempt),
            // Of the node that this process was before it was removed.
            ToRaft::SnapshotSaved { file, .. } if !self.is_own_dump(&file) => {
                world.snapshot(Job::Discard { file })
            }
            ToRaft::SnapshotSaved { attempt, file } => self.on_snapshot_saved(world, attempt, file),
            ToRaft::SnapshotFailed { attempt, reason } => self.on_snapshot_failed(world, attempt, &reason),
            ToRaft::Configure(settings) => self.on_settings(world, settings)?,
            ToRaft::Shutdown => {} // it ends the thread, which is not the node's
        }
        Ok(())
    }
}

/// There is no node: administrators are told so, and the rest is for one that was removed meanwhile.
pub fn without_node(bridge: &Bridge, request: &ToRaft) {
    if let ToRaft::AddNode { ticket, .. }
    | ToRaft::AddInMemory { ticket, .. }
    | ToRaft::RemoveNode { ticket, .. }
    | ToRaft::Transfer { ticket, .. }
    | ToRaft::Compact { ticket, .. } = request
    {
        bridge.answer(*ticket, Answer::Refused("this node is not a member of a cluster".into()));
    }
}
