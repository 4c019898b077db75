//! A disk or a main thread that stands still.

use super::{stream, Driven, Fed, OFFSET, REPLID};
use crate::consensus::{Body, NodeId, Role};
use crate::node::bridge::ToMain;

const WRITE: [&str; 2] = ["SET a 1", "RAFT.MARK 1 1"];

/// Both followers answer for half seconds; whether `peer` was told to stand.
fn pass_until_told(leader: &mut Driven, half_seconds: u64) -> Option<NodeId> {
    for _ in 0..half_seconds {
        leader.world.now_us += 500_000;
        leader.turn();
        let told = |(peer, frame): &(NodeId, crate::node::wire::Encoded)| (frame.kind == 8).then_some(*peer);
        if let Some(peer) = leader.world.sent.iter().find_map(told) {
            return Some(peer);
        }
        leader.acknowledge(2);
        leader.acknowledge(3);
    }
    None
}

#[test]
fn a_leader_whose_disk_stands_still_hands_over_what_the_others_have() {
    let mut leader = Driven::leader_of_three();
    leader.persist();
    leader.execute(&WRITE);
    leader.pass(5);
    assert_eq!((leader.released(), leader.told()), (1, vec![]), "a majority commits without this disk");
    leader.pass(2);
    assert_eq!(leader.told(), [ToMain::Seal { attempt: 1 }]);
    leader.node.on_sealed(1, OFFSET + stream(&WRITE).len() as u64);
    assert!(pass_until_told(&mut leader, 1).is_some());
    assert_eq!((leader.node.watchdog.disk_stalls, leader.node.watchdog.main_stalls), (1, 0));
}

#[test]
fn a_disk_under_all_nodes_that_stands_still_moves_nobody() {
    let mut leader = Driven::leader_of_three();
    leader.persist();
    leader.execute(&WRITE);
    for _ in 0..60 {
        leader.world.now_us += 500_000;
        leader.turn();
        leader.acknowledge_only(2, 2);
        leader.acknowledge_only(3, 2);
    }
    assert_eq!(
        (leader.told(), leader.node.raft.role()),
        (vec![], Role::Leader),
        "clients are not even paused"
    );
    assert!(leader.node.handover.failed > 0);
    leader.persist();
    leader.pass(1);
    assert_eq!((leader.released(), leader.node.watchdog.stalls.any()), (1, false));
}

#[test]
fn a_leader_whose_main_thread_stands_still_hands_over_without_asking_it() {
    let mut leader = Driven::leader_of_three();
    leader.execute(&WRITE);
    leader.persist();
    leader.main_stalled = true;
    let successor = pass_until_told(&mut leader, 19);
    assert_eq!(successor, None, "a slow script");
    assert_eq!(leader.released(), 1);
    let successor = pass_until_told(&mut leader, 4).expect("a successor");
    leader.world.captured.extend(stream(&["SET late 1"]));
    leader.turn();
    assert_eq!(leader.world.last_index(), 3, "the core takes nothing");
    leader.append(successor, 3, (3, 2), &[], 3);
    leader.main_stalled = false;
    assert_eq!(leader.told(), [ToMain::Demote { epoch: 1 }]);
    assert_eq!(leader.released(), 1, "what was decided is answered when the main thread comes back");
    leader.final_mark(1);
    leader.told();
    let all = stream(&["SET a 1", "RAFT.MARK 1 1", "SET late 1", "RAFT.MARK 1 18446744073709551615"]);
    let fed = leader.psync(REPLID, OFFSET + all.len() as u64 + 1);
    assert!(matches!(fed[0], Fed::FullResync(_, 0)), "SET late is in no log: {fed:?}");
}

#[test]
fn a_main_thread_that_comes_back_before_the_successor_leads_goes_on() {
    let mut leader = Driven::leader_of_three();
    leader.persist();
    leader.main_stalled = true;
    pass_until_told(&mut leader, 23).expect("a successor");
    leader.main_stalled = false;
    leader.execute(&WRITE);
    assert_eq!(leader.world.last_index(), 2, "the core takes nothing");
    leader.acknowledge(2);
    leader.acknowledge(3);
    leader.pass(2);
    leader.persist();
    leader.acknowledge(2);
    assert_eq!((leader.world.last_index(), leader.released()), (3, 1));
    assert_eq!(leader.told(), [], "it was never sealed");
    assert!(!leader.node.watchdog.stalls.any());
}

#[test]
fn what_was_proposed_is_committed_before_a_stalled_leader_goes() {
    let mut leader = Driven::leader_of_three();
    leader.persist();
    leader.main_stalled = true;
    pass_until_told(&mut leader, 18);
    leader.execute(&WRITE);
    for _ in 0..5 {
        leader.world.now_us += 500_000;
        leader.turn();
        let stands = leader.world.sent.iter().any(|(_, frame)| frame.kind == 8);
        assert!(!stands, "entry 3 is on no other disk");
        leader.acknowledge_only(2, 2);
        leader.acknowledge_only(3, 2);
    }
    assert!(pass_until_told(&mut leader, 12).is_some());
    assert_eq!(leader.released(), 1);
}

#[test]
fn a_main_thread_that_comes_back_before_the_core_is_asked_leads_on() {
    let mut leader = Driven::leader_of_three();
    leader.persist();
    leader.execute(&WRITE);
    leader.persist();
    leader.main_stalled = true;
    for _ in 0..23 {
        leader.world.now_us += 500_000;
        leader.turn();
        leader.acknowledge_only(2, 2);
        leader.acknowledge_only(3, 2);
    }
    assert!(leader.node.watchdog.stalls.main, "and nobody holds entry 3 yet");
    leader.main_stalled = false;
    leader.turn();
    assert_eq!(pass_until_told(&mut leader, 6), None);
    assert_eq!((leader.released(), leader.told()), (1, vec![]));
}

/// The target has it and this disk has not: it may still be lost.
#[test]
fn what_only_the_target_has_is_not_committed() {
    let mut leader = Driven::leader_of_three();
    leader.persist();
    leader.main_stalled = true;
    pass_until_told(&mut leader, 18);
    leader.execute(&WRITE);
    for _ in 0..5 {
        leader.world.now_us += 500_000;
        leader.turn();
        let stands = leader.world.sent.iter().any(|(_, frame)| frame.kind == 8);
        assert!(!stands, "entry 3 is on one disk of three");
        leader.acknowledge_only(2, 3);
        leader.acknowledge_only(3, 2);
    }
}

#[test]
fn who_stands_still_does_not_stand_for_election() {
    let mut follower = Driven::start(&[1, 2, 3]);
    follower.connect_feed();
    follower.append(2, 1, (1, 1), &[], 1);
    follower.main_stalled = true;
    for _ in 0..23 {
        follower.world.now_us += 500_000;
        follower.append(2, 1, (1, 1), &[], 1);
    }
    follower.receive(2, 1, Body::TimeoutNow, &[]);
    assert_eq!((follower.node.raft.role(), follower.node.raft.term()), (Role::Follower, 1));
    follower.main_stalled = false;
    follower.turn();
    follower.turn();
    follower.receive(2, 1, Body::TimeoutNow, &[]);
    assert_eq!(follower.node.raft.role(), Role::Candidate, "its main thread is back");
}
