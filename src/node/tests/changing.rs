//! Changes of the membership, as those who ask for them see it.

use super::{Driven, OWN};
use crate::node::bridge::{Answer, ToMain};
use crate::node::callers;
use bytes::Bytes;

fn add(node: &mut Driven, ticket: u64, id: u64) {
    let (address, peer_address) = (format!("host:{}", 5000 + ticket), format!("host:{}", 15000 + ticket));
    node.node.on_add_node(&mut node.world, ticket, id, address, peer_address);
    node.turn();
}

fn answers(node: &mut Driven) -> Vec<(u64, Answer)> {
    let answer = |message| match message {
        ToMain::Answer { ticket, answer } => Some((ticket, answer)),
        _ => None,
    };
    node.told().into_iter().filter_map(answer).collect()
}

#[test]
fn a_new_node_is_told_when_its_entry_is_committed() {
    let mut leader = Driven::leader_of_three();
    leader.execute(&["SET a 1", "RAFT.MARK 1 1"]);
    add(&mut leader, 77, 9);
    leader.persist();
    assert_eq!(answers(&mut leader), [], "on one disk of three");
    leader.acknowledge_only(2, 3);
    assert_eq!((answers(&mut leader), leader.released()), (vec![], 1), "the entry before it is committed");
    leader.acknowledge(3);
    let answers = answers(&mut leader);
    assert!(matches!(answers[..], [(77, Answer::Added { id: 9, .. })]), "{answers:?}");
    assert!(!leader.node.members().0[&9].voting);
}

#[test]
fn changes_go_one_after_the_other() {
    let mut leader = Driven::leader_of_three();
    add(&mut leader, 77, 9);
    add(&mut leader, 78, 10);
    assert_eq!(leader.world.last_index(), 3, "the second waits for the first");
    add(&mut leader, 79, 10);
    let refused = answers(&mut leader);
    assert!(matches!(&refused[..], [(79, Answer::Refused(text))] if text.contains("used")), "{refused:?}");
    leader.persist();
    leader.acknowledge(2);
    leader.persist();
    leader.acknowledge(2);
    let added: Vec<u64> = answers(&mut leader).into_iter().map(|(ticket, _)| ticket).collect();
    assert_eq!((added, leader.node.members().0.len()), (vec![77, 78], 5));
}

#[test]
fn a_change_under_way_when_leadership_is_lost_has_an_unknown_outcome() {
    let mut leader = Driven::leader_of_three();
    add(&mut leader, 77, 9);
    add(&mut leader, 78, 10);
    leader.depose();
    let mut answers = answers(&mut leader);
    answers.sort_by_key(|(ticket, _)| *ticket);
    assert_eq!(answers[0], (77, Answer::Unknown { id: 9 }));
    assert!(matches!(&answers[1], (78, Answer::Moved { address }) if address == "host:5002"), "{answers:?}");
}

#[test]
fn what_a_joiner_was_told_is_in_force_until_the_log_says_more() {
    let mut node = Driven::start(&[1, 2]);
    node.node.set_known_members(&mut node.world, super::members(&[1, 2, 3]));
    assert_eq!(node.world.dialled, [2], "the log says more already");
    node.node.member_history.truncate(1);
    node.node.set_known_members(&mut node.world, super::members(&[1, 2, 3]));
    assert_eq!(node.world.dialled, [2, 3]);
    assert!(node.node.members().0.contains_key(&OWN));
}

/// A leader that joined while this node was down gets its answers.
#[test]
fn whoever_calls_and_is_not_in_the_log_is_dialled_too() {
    let mut driven = Driven::start(&[1, 2, 3]);
    let call = |driven: &mut Driven, from, address: &str| {
        let frame = callers::encode(address);
        driven.node.on_peer_frame(&mut driven.world, from, frame.kind, &frame.header, &Bytes::new()).unwrap();
    };
    call(&mut driven, 9, "host:15009");
    assert_eq!(driven.world.dialled, [2, 3, 9]);
    call(&mut driven, 10, "no address");
    assert_eq!(driven.world.dialled, [2, 3, 9], "what cannot be read is dropped");
    driven.node.on_peer_up(&mut driven.world, 9).unwrap();
    let (to, frame) = driven.world.sent.pop().unwrap();
    assert_eq!((to, callers::decode(frame.kind, &frame.header, &Bytes::new())), (9, Ok("host:15001")));
}
