//! Leases: what the main thread is told of them, and when it is not told any more.

use super::{Driven, OFFSET};
use crate::consensus::Body;
use crate::node::bridge::ToMain;
use crate::node::settings::Settings;
use std::sync::Arc;

fn configure(driven: &mut Driven, read_lease: bool) {
    let settings = Settings { read_lease, ..Settings::default() };
    driven.node.on_settings(&mut driven.world, Arc::new(settings)).unwrap();
    driven.turn();
}

fn lease_until_us(driven: &Driven) -> u64 {
    driven.world.bridge.lease_until_us()
}

/// Leads three nodes by a lease.
fn leaseholder() -> Driven {
    let mut leader = Driven::leader_of_three();
    assert_eq!(lease_until_us(&leader), 0);
    configure(&mut leader, true);
    leader.acknowledge(2);
    assert_eq!(lease_until_us(&leader), leader.world.now_us + 800_000);
    leader
}

#[test]
fn a_lease_is_renewed_by_each_heartbeat_and_ends_with_the_setting() {
    let mut leader = leaseholder();
    leader.sent(2);
    leader.world.now_us += 200_000;
    leader.turn();
    assert!(leader.sent(2).iter().any(|m| matches!(m.body, Body::Append { lease_us: 1_000_000, .. })));
    leader.acknowledge(3);
    assert_eq!(lease_until_us(&leader), leader.world.now_us + 800_000);
    configure(&mut leader, false);
    assert_eq!(lease_until_us(&leader), 0);
}

#[test]
fn a_read_under_a_lease_is_released_in_the_same_turn_and_not_before_what_it_saw() {
    let mut leader = leaseholder();
    leader.node.on_read_barrier(1, 1);
    leader.turn();
    assert_eq!(leader.released(), 1);
    leader.execute(&["SET a 1", "RAFT.MARK 1 2"]);
    leader.node.on_read_barrier(1, 3);
    leader.turn();
    assert_eq!(leader.released(), 1, "entry 3 is on no disk");
    leader.persist();
    leader.acknowledge(3);
    assert_eq!(leader.released(), 3);
}

#[test]
fn a_lease_that_ran_out_leaves_reads_to_a_round() {
    let mut leader = leaseholder();
    leader.sent(2);
    leader.sent(3);
    leader.world.now_us += 800_000;
    leader.node.on_read_barrier(1, 1);
    leader.turn();
    assert_eq!(leader.released(), 0);
    leader.acknowledge(2);
    assert_eq!(leader.released(), 1);
}

#[test]
fn the_main_thread_loses_the_lease_with_leadership() {
    let mut leader = leaseholder();
    leader.depose();
    assert_eq!(lease_until_us(&leader), 0);
}

/// The core leads, and the local Redis is that of a leadership before: it may lack what others wrote in between.
#[test]
fn a_lease_of_another_leadership_is_not_told() {
    let mut leader = leaseholder();
    leader.depose();
    leader.final_mark(1);
    assert!(leader.told().contains(&ToMain::Demote { epoch: 1 }));
    leader.node.on_feed_psync(&mut leader.world, "?", -1);
    leader.turn();
    leader.receive(2, 3, Body::TimeoutNow, &[]);
    leader.persist();
    leader.receive(2, 4, Body::VoteReply { granted: true }, &[]);
    leader.persist();
    leader.acknowledge(2);
    assert!(leader.node.raft().lease_until_us() > 0, "the core has a lease");
    assert_eq!(lease_until_us(&leader), 0, "the gate is not open in this leadership");
}

/// The world asserts it whenever such a word is queued.
#[test]
fn the_lease_is_gone_before_the_word_that_ends_it_leaves() {
    let mut leader = leaseholder();
    leader.node.on_transfer(&mut leader.world, 9, Some(2));
    leader.turn();
    assert!(lease_until_us(&leader) > 0, "nobody has been told to stand");
    leader.node.on_sealed(1, OFFSET);
    leader.turn();
    assert!(leader.sent(2).iter().any(|m| m.body == Body::TimeoutNow));
    assert_eq!(lease_until_us(&leader), 0);
}
