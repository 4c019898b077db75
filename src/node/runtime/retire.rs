//! The end of a node that was taken out of its cluster: the log is put away, the process goes on without one.

use super::snapshots::Worker;
use super::{start, Runtime};
use crate::node::bridge::ToMain;
use crate::node::status::{State, Status};
use crate::node::World;
use std::path::Path;
use std::sync::Arc;

/// Whether a node was removed that had its log there: the log lies beside it, under the name that it was given.
pub(super) fn was_removed(directory: &Path) -> bool {
    let (Some(parent), Some(name)) = (directory.parent(), directory.file_name()) else { return false };
    let archive = format!("{}.removed-", name.to_string_lossy());
    // A directory that cannot be read has refused the load already.
    let entries = std::fs::read_dir(parent).into_iter().flatten().flatten();
    entries.into_iter().any(|entry| entry.file_name().to_string_lossy().starts_with(&archive))
}

impl Runtime {
    /// Nothing of the log is deleted; its directory gets another name, so that no later start takes it for a member's.
    pub(super) fn retire_if_removed(&mut self) {
        let Some(mut node) = self.node.take_if(|node| node.is_removed()) else { return };
        let (id, cluster_id) = (node.id(), node.cluster_id().to_string());
        let leader_addr = node.where_to_go();
        node.retire(&mut self.world);
        drop(node);
        self.world.feed_close();
        self.world.capture_stop();
        self.world.links.forget_identity();
        self.world.log = None;
        if let Some(worker) = self.world.snapshots.take() {
            Worker::finish(worker);
        }
        let directory = &self.setup.log_directory;
        match start::put_away(&self.setup, &format!("removed-{id}")) {
            Ok(done) => log::warn!(
                "node {id} was removed from cluster {cluster_id}: its log was {done}, its data is dropped, and it takes no \
                 commands. RAFT.CLUSTER JOIN makes it a new node"
            ),
            Err(error) => log::error!(
                "node {id} was removed from cluster {cluster_id}, and its log cannot be moved away, {}: {error}. Move \
                 it before this node joins anew",
                directory.display()
            ),
        }
        self.without_cluster = State::Removed;
        let status =
            Status { state: State::Removed, cluster_id, node_id: id, leader_addr, ..Status::default() };
        self.world.bridge.publish(Arc::new(status));
        self.world.bridge.tell_main(ToMain::Retire);
    }
}
