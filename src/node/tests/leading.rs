//! Leading: what is released, and when.

use super::{stream, Driven, OFFSET, REPLID};
use crate::consensus::Body;
use crate::node::bridge::ToMain;

#[test]
fn a_write_is_released_when_its_entry_is_committed() {
    let mut leader = Driven::leader_of_three();
    leader.execute(&["SET a 1", "RAFT.MARK 1 1"]);
    assert_eq!((leader.released(), leader.world.last_index()), (0, 3), "on no disk");
    leader.persist();
    assert_eq!(leader.released(), 0, "on one disk of three");
    leader.acknowledge(3);
    assert_eq!(leader.released(), 1);
}

#[test]
fn a_read_is_released_when_a_majority_confirms_the_leader_after_it() {
    let mut leader = Driven::leader_of_three();
    leader.node.on_read_barrier(1, 1);
    leader.turn();
    assert_eq!(leader.released(), 0, "nobody has confirmed it");
    assert!(leader.node.read_round_is_under_way());
    leader.acknowledge(2);
    assert_eq!(leader.released(), 1);
    assert!(!leader.node.read_round_is_under_way());
}

#[test]
fn a_confirmation_that_is_older_than_the_read_does_not_release_it() {
    let mut leader = Driven::leader_of_three();
    leader.node.on_read_barrier(1, 1);
    leader.turn();
    let before = std::mem::take(&mut leader.world.sent);
    leader.node.on_read_barrier(1, 2);
    leader.turn();
    leader.world.sent = before;
    leader.acknowledge_only(2, 2);
    assert_eq!(leader.released(), 1, "batch 2 was executed after the round that was answered");
    leader.acknowledge(2);
    assert_eq!(leader.released(), 2);
}

#[test]
fn a_mark_without_effects_is_confirmed_as_a_read() {
    let mut leader = Driven::leader_of_three();
    leader.execute(&["RAFT.MARK 1 1"]);
    assert_eq!((leader.released(), leader.world.last_index()), (0, 2));
    leader.acknowledge(2);
    assert_eq!(leader.released(), 1);
}

/// A key that expired under a read: its DEL is in the stream, and what the client did not see must be in the log.
#[test]
fn a_read_waits_for_the_effects_before_it_to_be_committed() {
    let mut leader = Driven::leader_of_three();
    leader.world.captured.extend(stream(&["DEL expired"]));
    leader.node.on_read_barrier(1, 1);
    leader.turn();
    leader.persist();
    leader.acknowledge_only(2, 2);
    assert_eq!(leader.released(), 0, "confirmed, but entry 3 is on one disk of three");
    leader.acknowledge(3);
    assert_eq!(leader.released(), 1);
}

#[test]
fn batches_are_released_in_order_whatever_comes_first() {
    let mut leader = Driven::leader_of_three();
    leader.node.on_read_barrier(1, 2);
    leader.turn();
    leader.acknowledge(2);
    assert_eq!(leader.released(), 0, "batch 1 is still on its way through the stream");
    leader.execute(&["SET a 1", "RAFT.MARK 1 1"]);
    assert_eq!(leader.released(), 0);
    leader.persist();
    leader.acknowledge(2);
    assert_eq!(leader.released(), 2);
}

#[test]
fn what_belongs_to_another_leadership_is_not_counted() {
    let mut leader = Driven::leader_of_three();
    leader.node.on_read_barrier(9, 1);
    leader.turn();
    leader.acknowledge(2);
    assert_eq!(leader.released(), 0);
}

#[test]
fn the_stream_is_read_from_the_byte_after_the_promotion_and_again_from_the_byte_that_is_missing() {
    let mut leader = Driven::leader_of_three();
    assert_eq!(leader.world.captures, [(REPLID.to_string(), OFFSET + 1)]);
    let whole = stream(&["SET a 1"]);
    leader.execute(&["SET a 1"]);
    leader.world.captured.extend(&stream(&["SET b 2"])[..5]);
    leader.turn();
    leader.node.on_capture_lost(&mut leader.world, "cut", true);
    leader.turn();
    assert_eq!(leader.world.captures.len(), 1, "not without a pause");
    leader.world.now_us += 10_000;
    leader.turn();
    let next = OFFSET + whole.len() as u64 + 1;
    assert_eq!(
        leader.world.captures.last(),
        Some(&(REPLID.to_string(), next)),
        "only whole commands are used up"
    );
}

#[test]
fn a_stream_that_cannot_be_resumed_ends_the_leadership_and_the_dataset() {
    let mut leader = Driven::leader_of_three();
    leader.execute(&["SET a 1", "RAFT.MARK 1 1"]);
    leader.node.on_capture_lost(&mut leader.world, "gone", false);
    assert_eq!(leader.told(), [ToMain::Demote { epoch: 1 }, ToMain::Follow { port: 7777 }]);
    let end = OFFSET + stream(&["SET a 1", "RAFT.MARK 1 1"]).len() as u64;
    let fed = leader.psync(REPLID, end + 1);
    assert!(matches!(fed[0], super::Fed::FullResync(_, 0)), "{fed:?}");
}

#[test]
fn the_gate_is_not_opened_before_the_dataset_is_the_whole_log() {
    let mut node = Driven::start(&[1, 2, 3]);
    node.connect_feed();
    node.elect();
    assert_eq!(node.told(), [], "no entry of its term is committed");
    node.acknowledge(2);
    assert_eq!(node.told(), [], "the local server has not said that it holds entry 2");
    node.world.bridge.set_applied(1);
    node.turn();
    assert_eq!(node.told(), []);
    node.world.bridge.set_applied(2);
    node.turn();
    assert_eq!(node.told(), [ToMain::Promote { epoch: 1 }]);
}

#[test]
fn a_single_node_leads_as_soon_as_its_disk_and_its_server_are_ready() {
    let mut node = Driven::start(&[1]);
    node.turn();
    node.persist();
    node.connect_feed();
    node.world.bridge.set_applied(2);
    node.turn();
    assert_eq!(node.told(), [], "the no-op is not on the disk");
    node.persist();
    assert_eq!(node.told(), [ToMain::Promote { epoch: 1 }]);
    node.node.on_promoted(&mut node.world, 1, REPLID.to_string(), OFFSET);
    node.execute(&["SET a 1", "RAFT.MARK 1 1"]);
    assert_eq!(node.released(), 0, "on no disk");
    node.persist();
    assert_eq!(node.released(), 1);
}

#[test]
fn a_second_leadership_begins_anew() {
    let mut node = Driven::leader_of_three();
    node.execute(&["SET a 1", "RAFT.MARK 1 1"]);
    node.persist();
    node.acknowledge(2);
    node.node.on_read_barrier(1, 2);
    node.turn();
    assert_eq!((node.released(), node.node.read_round_is_under_way()), (1, true));
    node.depose();
    node.final_mark(1);
    let marks = stream(&["SET a 1", "RAFT.MARK 1 1", "RAFT.MARK 1 18446744073709551615"]);
    node.psync(REPLID, OFFSET + marks.len() as u64 + 1);
    node.told();

    node.receive(2, 3, Body::TimeoutNow, &[]);
    node.persist();
    node.receive(2, 4, Body::VoteReply { granted: true }, &[]);
    node.persist();
    node.acknowledge(2);
    node.world.bridge.set_applied(4);
    node.turn();
    assert_eq!(node.told(), [ToMain::Promote { epoch: 2 }]);
    node.node.on_promoted(&mut node.world, 2, REPLID.to_string(), 900);
    node.turn();
    assert_eq!(node.world.bridge.released(2), 0);
    assert!(!node.node.read_round_is_under_way(), "nobody waits for a round of the leadership before");
    node.node.on_read_barrier(2, 1);
    node.turn();
    node.acknowledge(2);
    assert_eq!(node.world.bridge.released(2), 1);
}
