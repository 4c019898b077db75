//! Handing leadership over: what must be true before each step, and what becomes of it when leadership is lost in it.

use super::{effects, stream, Driven, Fed, OFFSET, REPLID};
use crate::consensus::{Body, Input, NodeId, Position};
use crate::node::bridge::{Answer, ToMain};

const WRITE: [&str; 2] = ["SET a 1", "RAFT.MARK 1 1"];

fn end_of(commands: &[&str]) -> u64 {
    OFFSET + stream(commands).len() as u64
}

fn ask(leader: &mut Driven, target: Option<NodeId>) {
    leader.node.on_transfer(&mut leader.world, 77, target);
    leader.turn();
}

fn sealed(leader: &mut Driven, attempt: u64, offset: u64) {
    leader.node.on_sealed(attempt, offset);
    leader.turn();
}

/// Whether `peer` was told to stand since the last call.
fn told_to_stand(leader: &mut Driven, peer: NodeId) -> bool {
    leader.sent(peer).into_iter().any(|message| message.body == Body::TimeoutNow)
}

/// Node `peer` asks for this node's vote in term 3.
fn stands(leader: &mut Driven, peer: NodeId) {
    let last = Position { index: leader.world.last_index(), term: 2 };
    leader.receive(peer, 3, Body::Vote { last, transfer: true }, &[]);
}

fn leads(leader: &mut Driven, peer: NodeId) {
    let last = leader.world.last_index();
    leader.append(peer, 3, (last, 2), &[], last);
}

fn refusal(told: &[ToMain]) -> &str {
    let text = |message| match message {
        &ToMain::Answer { ticket: 77, answer: Answer::Refused(ref text) } => Some(text.as_str()),
        _ => None,
    };
    told.iter().find_map(text).unwrap_or_else(|| panic!("a refusal among {told:?}"))
}

fn done() -> ToMain {
    ToMain::Answer { ticket: 77, answer: Answer::Ok }
}

/// All that was asked for by `ask`, up to the vote of this node for node 2.
fn transferring() -> Driven {
    let mut leader = Driven::leader_of_three();
    ask(&mut leader, Some(2));
    sealed(&mut leader, 1, OFFSET);
    assert_eq!(leader.told(), [ToMain::Seal { attempt: 1 }]);
    leader
}

#[test]
fn the_dataset_is_kept_and_clients_are_let_go_when_the_successor_is_known() {
    let mut leader = transferring();
    assert!(told_to_stand(&mut leader, 2));
    stands(&mut leader, 2);
    assert_eq!(leader.told(), [], "nobody knows yet where to send clients");
    leads(&mut leader, 2);
    assert_eq!(leader.told(), [done(), ToMain::Demote { epoch: 1 }, ToMain::Follow { port: 7777 }]);
    let fed = leader.psync(REPLID, OFFSET + 1);
    assert!(matches!(fed[0], Fed::Continue(_)), "{fed:?}");
    assert_eq!((leader.node.handover.done, leader.node.handover.failed), (1, 0));
}

#[test]
fn one_byte_after_the_seal_and_the_dataset_is_rebuilt() {
    let mut leader = transferring();
    stands(&mut leader, 2);
    leads(&mut leader, 2);
    let fed = leader.psync(REPLID, OFFSET + 2);
    assert!(matches!(fed[0], Fed::FullResync(_, 0)), "{fed:?}");
}

#[test]
fn what_was_executed_is_committed_and_answered_before_anybody_is_told_to_stand() {
    let mut leader = Driven::leader_of_three();
    leader.execute(&WRITE);
    leader.acknowledge_only(2, 3);
    ask(&mut leader, Some(2));
    assert_eq!(leader.told(), [ToMain::Seal { attempt: 1 }]);
    let more = ["SET b 1", "RAFT.MARK 1 2"];
    sealed(&mut leader, 1, end_of(&[WRITE, more].concat()));
    assert!(!told_to_stand(&mut leader, 2), "the stream is not read to its end");
    leader.execute(&more);
    assert_eq!(leader.world.last_index(), 4);
    leader.persist();
    leader.acknowledge_only(3, 4);
    assert_eq!(leader.released(), 2, "committed on two of three");
    assert!(!told_to_stand(&mut leader, 2), "the target lacks entry 4");
    assert!(
        !leader.node.handover.is_transferring(),
        "nor is the core asked: it would take no more proposals"
    );
    leader.receive(2, 2, Body::Appended { matched: 4, round: 0 }, &[]);
    assert!(told_to_stand(&mut leader, 2));
}

#[test]
fn a_read_that_is_not_confirmed_is_waited_for() {
    let mut leader = Driven::leader_of_three();
    leader.node.on_read_barrier(1, 1);
    leader.turn();
    ask(&mut leader, Some(2));
    sealed(&mut leader, 1, OFFSET);
    let sent: Vec<_> = leader.sent(2);
    assert!(sent.iter().all(|message| message.body != Body::TimeoutNow), "{sent:?}");
    leader.acknowledge(3);
    assert_eq!(leader.released(), 1);
    assert!(told_to_stand(&mut leader, 2));
}

#[test]
fn clients_go_on_until_the_target_is_near() {
    let mut leader = Driven::leader_of_three();
    leader.execute(&WRITE);
    leader.persist();
    leader.acknowledge_only(3, 3);
    ask(&mut leader, Some(2));
    assert_eq!(leader.told(), [], "node 2 lacks entry 3");
    leader.world.now_us += 100_000;
    leader.execute(&["SET b 1", "RAFT.MARK 1 2"]);
    leader.receive(2, 2, Body::Appended { matched: 3, round: 0 }, &[]);
    assert_eq!(leader.told(), [], "it took long, and the log has gone on: once more");
    leader.receive(2, 2, Body::Appended { matched: 4, round: 0 }, &[]);
    assert_eq!(leader.told(), [ToMain::Seal { attempt: 1 }]);
}

#[test]
fn a_target_that_does_not_catch_up_costs_nobody_anything() {
    let mut leader = Driven::leader_of_three();
    leader.execute(&WRITE);
    leader.persist();
    ask(&mut leader, Some(2));
    for _ in 0..4 {
        leader.world.now_us += 500_000;
        leader.acknowledge_only(2, 2);
        leader.acknowledge_only(3, 3);
    }
    let told = leader.told();
    assert!(refusal(&told).contains("did not catch up") && told.len() == 1, "{told:?}");
    assert_eq!((leader.node.handover.done, leader.node.handover.failed), (0, 1));
}

#[test]
fn a_target_that_does_not_take_over_leaves_the_leader_leading() {
    let mut leader = Driven::leader_of_three();
    ask(&mut leader, Some(3));
    sealed(&mut leader, 1, OFFSET);
    leader.told();
    leader.pass(1);
    assert_eq!(leader.told(), []);
    leader.pass(1);
    let told = leader.told();
    assert_eq!(told[0], ToMain::Unseal);
    assert!(refusal(&told).contains("did not take over in time; this node leads on"), "{told:?}");
    leader.execute(&WRITE);
    leader.persist();
    leader.acknowledge(2);
    leader.acknowledge(3);
    assert_eq!(leader.released(), 1);
    ask(&mut leader, None);
    assert_eq!(leader.told(), [ToMain::Seal { attempt: 2 }]);
    sealed(&mut leader, 1, end_of(&WRITE));
    assert!(!told_to_stand(&mut leader, 2), "that was the seal of the first try");
    sealed(&mut leader, 2, end_of(&WRITE));
    leader.acknowledge(3);
    leader.node.on_transfer(&mut leader.world, 78, Some(3));
    let told = leader.told();
    assert!(
        matches!(&told[..], [ToMain::Answer { ticket: 78, answer: Answer::Refused(text) }] if text.contains("to node 2 already")),
        "another one is asked first: {told:?}"
    );
}

#[test]
fn a_target_that_dies_ends_the_wait_at_once() {
    let mut leader = transferring();
    leader.node.on_peer_unreachable(&mut leader.world, 2).unwrap();
    let told = leader.told();
    assert_eq!((&told[0], told.len()), (&ToMain::Unseal, 2), "{told:?}");
    ask(&mut leader, Some(2));
    assert!(refusal(&leader.told()).contains("node 2 is not reachable"));
}

/// Its link breaks before anybody notices that it is dead, or it says nothing any more.
#[test]
fn a_target_that_dies_while_it_catches_up_ends_the_wait_at_once() {
    for breaks in [true, false] {
        let mut leader = Driven::leader_of_three();
        leader.execute(&WRITE);
        leader.persist();
        ask(&mut leader, Some(2));
        assert_eq!(leader.told(), [], "node 2 lacks entry 3");
        if breaks {
            leader.node.on_peer_unreachable(&mut leader.world, 2).unwrap();
        }
        leader.world.now_us += if breaks { 0 } else { 501_000 };
        leader.acknowledge_only(3, 3);
        let told = leader.told();
        assert!(refusal(&told).contains("not reachable any more") && told.len() == 1, "{told:?}");
    }
}

#[test]
fn what_cannot_be_committed_in_time_ends_the_wait() {
    let mut leader = Driven::leader_of_three();
    leader.execute(&WRITE);
    leader.acknowledge_only(2, 3);
    leader.acknowledge_only(3, 3);
    ask(&mut leader, Some(2));
    sealed(&mut leader, 1, end_of(&WRITE) + 1);
    leader.told();
    leader.pass(4);
    let told = leader.told();
    assert_eq!(told[0], ToMain::Unseal);
    assert!(refusal(&told).contains("could not be committed in time"), "{told:?}");
}

#[test]
fn whoever_cannot_lead_is_refused_with_the_reason() {
    let mut leader = Driven::leader_of_three();
    for (target, reason) in [(1, "leads already"), (9, "not a member")] {
        ask(&mut leader, Some(target));
        let told = leader.told();
        assert!(refusal(&told).contains(reason), "{told:?}");
    }
    leader.node.on_add_node(&mut leader.world, 5, 9, "host:9".into(), "host:19".into());
    leader.turn();
    ask(&mut leader, Some(9));
    assert!(refusal(&leader.told()).contains("learner"));
    leader.world.now_us += 501_000;
    ask(&mut leader, Some(2));
    assert!(refusal(&leader.told()).contains("not reachable"), "not heard for longer than a heartbeat");
    ask(&mut leader, None);
    assert!(refusal(&leader.told()).contains("no other voter is reachable"));
    leader.depose();
    leader.told();
    ask(&mut leader, None);
    let moved = Answer::Moved { address: "host:5002".into() };
    assert_eq!(leader.told(), [ToMain::Answer { ticket: 77, answer: moved }]);
}

#[test]
fn a_single_node_has_nobody_to_hand_over_to() {
    let mut node = Driven::start(&[1]);
    node.turn();
    node.persist();
    node.connect_feed();
    node.persist();
    ask(&mut node, None);
    let told = node.told();
    assert!(refusal(&told).contains("no other voter"), "{told:?}");
}

#[test]
fn members_do_not_change_meanwhile() {
    let mut leader = Driven::leader_of_three();
    ask(&mut leader, Some(2));
    leader.node.on_add_node(&mut leader.world, 5, 9, "host:9".into(), "host:19".into());
    leader.turn();
    assert_eq!(leader.world.last_index(), 2);
    leader.pass(4);
    assert_eq!(leader.world.last_index(), 3, "it failed: the change goes on");
}

/// The last mark comes when the main thread was told before it sealed the gate; else there is none.
#[test]
fn leadership_lost_while_the_gate_is_being_sealed() {
    for gate_was_sealed in [false, true] {
        let mut leader = Driven::leader_of_three();
        ask(&mut leader, Some(2));
        leader.depose();
        let told = leader.told();
        assert_eq!(told, [ToMain::Seal { attempt: 1 }, ToMain::Demote { epoch: 1 }, done()]);
        let last_mark = ["RAFT.MARK 1 18446744073709551615"];
        let end = if gate_was_sealed { OFFSET } else { end_of(&last_mark) };
        if gate_was_sealed {
            sealed(&mut leader, 1, OFFSET);
        } else {
            leader.execute(&last_mark);
        }
        assert_eq!(leader.told(), [ToMain::Follow { port: 7777 }], "{gate_was_sealed}");
        let fed = leader.psync(REPLID, end + 1);
        assert!(matches!(fed[0], Fed::Continue(_)), "{fed:?}");
    }
}

#[test]
fn leadership_lost_while_the_stream_is_read_to_its_end() {
    let mut leader = Driven::leader_of_three();
    ask(&mut leader, Some(2));
    sealed(&mut leader, 1, end_of(&WRITE));
    leader.told();
    leader.append(3, 3, (2, 2), &[effects(3, 3, "SET b 2")], 2);
    let told = leader.told();
    assert_eq!(told[0], ToMain::Demote { epoch: 1 });
    assert!(refusal(&told).contains("node 3 leads now, not node 2"), "{told:?}");
    assert_eq!(told.len(), 2, "not before the stream was read: {told:?}");
    leader.execute(&WRITE);
    assert_eq!(leader.told(), [ToMain::Follow { port: 7777 }]);
    let fed = leader.psync(REPLID, end_of(&WRITE) + 1);
    assert!(matches!(fed[0], Fed::FullResync(_, 0)), "SET a is in no log: {fed:?}");
    assert_eq!(leader.released(), 0);
}

#[test]
fn without_a_successor_clients_are_not_kept_for_ever() {
    let mut leader = transferring();
    stands(&mut leader, 2);
    leader.world.now_us += 499_000;
    leader.turn();
    assert_eq!(leader.told(), []);
    assert!(leader.node.deadline_us() <= leader.world.now_us + 1_000);
    leader.world.now_us += 1_000;
    leader.turn();
    let told = leader.told();
    assert!(refusal(&told).contains("no successor is known"), "{told:?}");
    assert_eq!(told[1..], [ToMain::Demote { epoch: 1 }, ToMain::Follow { port: 7777 }]);
}

#[test]
fn a_successor_that_loses_the_election_again_leaves_a_leader_with_its_dataset() {
    let mut leader = transferring();
    stands(&mut leader, 2);
    leader.persist();
    leader.receive(2, 3, Body::TimeoutNow, &[]);
    leader.node.step(&mut leader.world, Input::PeerUnreachable { peer: 2 }, &[]).unwrap();
    for _ in 0..3 {
        leader.world.now_us = leader.node.raft.next_deadline_us();
        leader.turn();
        leader.receive(3, 4, Body::PreVoteReply { granted: true }, &[]);
        leader.persist();
        leader.receive(3, 4, Body::VoteReply { granted: true }, &[]);
    }
    let told = leader.told();
    let follow = told.iter().position(|message| *message == ToMain::Follow { port: 7777 });
    let demote = told.iter().position(|message| *message == ToMain::Demote { epoch: 1 });
    assert!(demote.is_some() && demote < follow, "{told:?}");
    refusal(&told);
    let fed = leader.psync(REPLID, OFFSET + 1);
    assert!(matches!(fed[0], Fed::Continue(_)), "{fed:?}");
}

/// The link that reads the stream would itself be held up by the seal.
#[test]
fn the_gate_is_not_sealed_while_the_stream_does_not_flow() {
    let mut leader = Driven::leader_of_three();
    leader.node.on_capture_lost(&mut leader.world, "cut", true);
    ask(&mut leader, Some(2));
    assert_eq!(leader.told(), []);
    leader.world.now_us += 10_000;
    leader.turn();
    leader.node.on_capture_up();
    leader.turn();
    assert_eq!(leader.told(), [ToMain::Seal { attempt: 1 }]);
    leader.node.on_capture_lost(&mut leader.world, "cut", true);
    leader.turn();
    let told = leader.told();
    assert_eq!(told[0], ToMain::Unseal);
    assert!(refusal(&told).contains("stream"), "{told:?}");
}

#[test]
fn a_stream_that_is_lost_ends_the_hand_over() {
    let mut leader = Driven::leader_of_three();
    ask(&mut leader, Some(2));
    sealed(&mut leader, 1, end_of(&WRITE));
    leader.told();
    leader.node.on_capture_lost(&mut leader.world, "gone", false);
    leader.turn();
    let told = leader.told();
    assert_eq!(told[..2], [ToMain::Demote { epoch: 1 }, ToMain::Follow { port: 7777 }]);
    assert!(refusal(&told).contains("stream"), "{told:?}");
    assert_eq!(told.len(), 3, "no Unseal for a gate that is closed: {told:?}");
}

/// Nothing is read of the stream while the core takes no proposals; what comes all the same is not lost.
#[test]
fn effects_that_come_during_the_transfer_are_proposed_when_it_has_failed() {
    let mut leader = transferring();
    leader.execute(&WRITE);
    assert_eq!(leader.world.last_index(), 2);
    leader.pass(2);
    assert!(leader.told().contains(&ToMain::Unseal));
    assert_eq!(leader.world.last_index(), 3);
    leader.persist();
    leader.acknowledge(2);
    assert_eq!(leader.released(), 1);
}

/// The core refuses what was executed, and leads on: nothing of it may be answered, and the dataset is rolled back
/// before the gate opens again.
#[test]
fn effects_that_the_log_does_not_take_are_rolled_back() {
    let mut leader = Driven::leader_of_three();
    leader.node.step(&mut leader.world, Input::Transfer { target: Some(2) }, &[]).unwrap();
    leader.execute(&WRITE);
    assert_eq!((leader.told(), leader.world.last_index()), (vec![ToMain::Demote { epoch: 1 }], 2));
    let all = [WRITE[0], WRITE[1], "RAFT.MARK 1 18446744073709551615"];
    leader.execute(&all[2..]);
    assert_eq!(leader.told(), [ToMain::Follow { port: 7777 }]);
    let fed = leader.psync(REPLID, end_of(&all) + 1);
    assert!(matches!(fed[0], Fed::FullResync(_, 0)), "{fed:?}");
    leader.pass(2);
    leader.world.bridge.set_applied(2);
    leader.turn();
    assert_eq!(leader.told(), [ToMain::Promote { epoch: 2 }], "it leads on, with the dataset of the log");
    assert_eq!(leader.released(), 0);
}

/// A leader that finds, when it proposes, that it has lost its quorum.
#[test]
fn effects_that_come_after_the_quorum_was_lost_are_rolled_back() {
    let mut leader = Driven::leader_of_three();
    leader.world.now_us += 1_500_000;
    leader.world.captured.extend(stream(&WRITE));
    leader.turn();
    assert_eq!((leader.told(), leader.world.last_index()), (vec![ToMain::Demote { epoch: 1 }], 2));
    leader.final_mark(1);
    leader.told();
    let end = end_of(&[WRITE[0], WRITE[1], "RAFT.MARK 1 18446744073709551615"]);
    let fed = leader.psync(REPLID, end + 1);
    assert!(matches!(fed[0], Fed::FullResync(_, 0)), "{fed:?}");
}
