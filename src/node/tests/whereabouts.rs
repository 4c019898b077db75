//! Who is told again where somebody is.

use super::changing::{here, notice, notices};
use super::{Driven, OWN};
use crate::node::notices::Notice;

fn there(id: u64, port: u16) -> Notice {
    let (peer_address, address) = (format!("host:{port}"), format!("host:{}", port - 10_000));
    Notice::There { id, peer_address, address }
}

/// Longer than an election timeout.
const SILENCE_US: u64 = 1_100_000;

#[test]
fn a_leader_tells_again_who_does_not_answer() {
    let mut leader = Driven::leader_of_three();
    for peer in [2, 3] {
        notices(&mut leader, peer);
    }
    for _ in 0..4 {
        leader.world.now_us += SILENCE_US / 4;
        leader.turn();
        leader.sent(3);
        leader.acknowledge(2);
    }
    leader.world.now_us += SILENCE_US / 4;
    leader.turn();
    assert_eq!(notices(&mut leader, 3), [here(15001)], "once in an election timeout");
    assert_eq!(notices(&mut leader, 2), [], "it answers");
}

#[test]
fn who_hears_no_leader_tells_everybody() {
    let mut node = Driven::start(&[1, 2, 3]);
    node.append(2, 1, (1, 1), &[], 1);
    node.world.now_us += SILENCE_US / 2;
    node.append(2, 1, (1, 1), &[], 1);
    node.world.now_us += SILENCE_US / 2;
    node.turn();
    assert_eq!((notices(&mut node, 2), notices(&mut node, 3)), (vec![], vec![]), "there is a leader");
    node.world.now_us += SILENCE_US;
    node.turn();
    assert_eq!((notices(&mut node, 2), notices(&mut node, 3)), (vec![here(15001)], vec![here(15001)]));
}

/// The leader joined while node 3 was down; it cannot be dialled by it.
#[test]
fn a_follower_tells_its_leader_of_a_member_that_has_moved() {
    let mut follower = Driven::start(&[1, 2, 3]);
    follower.append(2, 1, (1, 1), &[], 1);
    notice(&mut follower, 3, &here(15003));
    assert_eq!(notices(&mut follower, 2), [], "the log says so, too");
    for _ in 0..2 {
        notice(&mut follower, 3, &here(15033));
        assert_eq!(notices(&mut follower, 2), [there(3, 15033)], "also when it is no news to this node");
    }
    notice(&mut follower, 2, &here(15022));
    assert_eq!(notices(&mut follower, 2), [], "it knows where it is itself");
}

#[test]
fn a_leader_dials_a_member_where_others_have_heard_of_it_and_puts_it_into_the_log() {
    let mut leader = Driven::leader_of_three();
    for (id, why) in [(OWN, "itself"), (9, "no member")] {
        notice(&mut leader, 2, &there(id, 15033));
        assert_eq!(leader.node.addresses().get(&id), None, "{why}");
    }
    notice(&mut leader, 2, &there(3, 15033));
    assert_eq!(leader.node.addresses()[&3], "host:15033");
    assert_eq!(leader.node.members().0[&3].peer_address, "host:15033");
    let mut follower = Driven::start(&[1, 2, 3]);
    follower.append(2, 1, (1, 1), &[], 1);
    notice(&mut follower, 2, &there(3, 15033));
    assert_eq!(follower.node.addresses()[&3], "host:15003", "its leader looks after that");
}

/// Two of five are gone, two have moved: these need the fifth to find each other, which cannot lead itself.
#[test]
fn while_nobody_leads_all_are_told_of_a_member_that_has_moved() {
    let mut node = Driven::start(&[1, 2, 3, 4, 5]);
    notice(&mut node, 3, &here(15033));
    for peer in [2, 4, 5] {
        assert_eq!(notices(&mut node, peer), [there(3, 15033)], "node {peer}");
    }
    assert_eq!(notices(&mut node, 3), []);
    notice(&mut node, 2, &there(4, 15044));
    assert_eq!(node.node.addresses()[&4], "host:15044");
    assert_eq!(notices(&mut node, 5), [], "what others have heard goes no further");
}
