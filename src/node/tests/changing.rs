//! Changes of the membership, as those who ask for them see it.

use super::{Driven, OWN};
use crate::consensus::Body;
use crate::node::bridge::{Answer, ToMain};
use crate::node::notices::{decode, encode, Notice};
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
    assert_eq!(node.node.members().0.len(), 2, "the log says more already");
    node.node.member_history.truncate(1);
    node.node.set_known_members(&mut node.world, super::members(&[1, 2, 3]));
    assert_eq!(node.world.dialled, [2, 3]);
    assert!(node.node.members().0.contains_key(&OWN));
}

/// The leader, 9, came late, and the joiner's log begins with the founders.
#[test]
fn a_joiner_dials_whom_it_was_told_of_until_its_log_knows_them() {
    let mut node = Driven::start(&[1, 2]);
    node.node.member_history.truncate(1);
    node.node.set_known_members(&mut node.world, super::members(&[1, 2, 9]));
    assert_eq!(node.world.dialled, [2, 9]);
    // Already at the address that it was told: there is nothing to keep.
    notice(&mut node, 9, &here(15009));
    let founders = super::membership_entry(2, 2, &super::members(&[1, 2]));
    node.append(9, 2, (1, 1), &[founders], 2);
    assert_eq!(node.world.dialled, [2, 9], "it must answer the leader");
    let now = super::membership_entry(3, 2, &super::members(&[1, 2, 9]));
    node.append(9, 2, (2, 2), &[now], 3);
    assert_eq!(node.world.dialled, [2, 9]);
    assert!(node.node.told.is_empty(), "from now on the log says where it is");
}

pub(super) fn notice(driven: &mut Driven, from: u64, notice: &Notice) {
    let frame = encode(notice);
    driven.node.on_peer_frame(&mut driven.world, from, frame.kind, &frame.header, &Bytes::new()).unwrap();
    driven.turn();
}

pub(super) fn here(port: u16) -> Notice {
    Notice::Here { peer_address: format!("host:{port}"), address: format!("host:{}", port - 10_000) }
}

/// The notices to `peer` since the last call.
pub(super) fn notices(driven: &mut Driven, peer: u64) -> Vec<Notice> {
    let frames = driven.world.sent.iter().filter(|(to, _)| *to == peer);
    let found =
        frames.filter_map(|(_, frame)| decode(frame.kind, &frame.header, &Bytes::new()).ok()).collect();
    driven.world.sent.retain(|(to, frame)| *to != peer || !crate::node::notices::is_kind(frame.kind));
    found
}

/// A leader that joined while this node was down gets its answers.
#[test]
fn whoever_calls_and_is_not_in_the_log_is_dialled_too() {
    let mut driven = Driven::start(&[1, 2, 3]);
    notice(&mut driven, 9, &here(15009));
    assert_eq!(driven.world.dialled, [2, 3, 9]);
    driven.node.on_peer_up(&mut driven.world, 9).unwrap();
    assert_eq!(notices(&mut driven, 9), [here(15001)]);
}

fn remove(node: &mut Driven, ticket: u64, id: u64) {
    node.node.on_remove_node(&mut node.world, ticket, id);
    node.turn();
}

#[test]
fn a_removed_node_is_sent_its_removal_and_told_farewell_by_all() {
    let mut leader = Driven::leader_of_three();
    remove(&mut leader, 77, 3);
    assert_eq!(leader.world.dialled, [2, 3], "it is to get the entry");
    assert!(leader
        .sent(3)
        .iter()
        .any(|message| matches!(&message.body, Body::Append { entries, .. } if !entries.is_empty())));
    leader.persist();
    assert_eq!(answers(&mut leader), [], "on one disk of two");
    leader.acknowledge(2);
    assert_eq!(answers(&mut leader), [(77, Answer::Ok)]);
    assert_eq!(notices(&mut leader, 3), [Notice::Farewell { id: 3 }]);
    assert_eq!(leader.node.members().0.keys().copied().collect::<Vec<_>>(), [1, 2]);
    leader.pass(30);
    assert_eq!(leader.world.dialled, [2], "it was told, or is down");
    remove(&mut leader, 78, 3);
    let again = answers(&mut leader);
    assert!(matches!(&again[..], [(78, Answer::Refused(text))] if text.contains("already")), "{again:?}");
}

#[test]
fn what_a_removed_node_sends_is_counted_and_answered_with_farewell() {
    let mut leader = Driven::leader_of_three();
    remove(&mut leader, 77, 3);
    leader.persist();
    leader.acknowledge(2);
    leader.pass(30);
    notices(&mut leader, 3);
    let before = refused_frames(&leader);
    let term = leader.node.raft().term();
    let last = crate::consensus::Position { index: 99, term: 99 };
    leader.receive(3, term + 50, Body::Vote { last, transfer: true }, &[]);
    assert_eq!(leader.node.raft().term(), term, "its term is not looked at");
    assert_eq!(notices(&mut leader, 3), [Notice::Farewell { id: 3 }]);
    notice(&mut leader, 3, &here(15033));
    assert_eq!(leader.world.dialled, [2, 3], "it is dialled where it says that it is, to be told");
    leader.node.on_peer_up(&mut leader.world, 3).unwrap();
    assert!(notices(&mut leader, 3).contains(&Notice::Farewell { id: 3 }));
    leader.pass(1);
    assert!(refused_frames(&leader) >= before + 2);
}

fn refused_frames(driven: &Driven) -> u64 {
    let status = driven.world.bridge.status();
    let removed = status.rejected_links.iter().find(|(reason, _)| *reason == "removed");
    removed.expect("INFO shows it").1
}

#[test]
fn a_follower_that_sees_its_removal_committed_retires() {
    let mut follower = Driven::start(&[1, 2, 3]);
    follower.connect_feed();
    let without = super::membership_entry(2, 1, &super::members(&[2, 3]));
    follower.append(2, 1, (1, 1), &[without], 1);
    follower.persist();
    assert!(!follower.node.is_removed(), "that may yet be truncated");
    follower.append(2, 1, (2, 1), &[], 2);
    assert!(follower.node.is_removed());
}

#[test]
fn a_node_that_is_told_farewell_retires() {
    let mut follower = Driven::start(&[1, 2, 3]);
    notice(&mut follower, 3, &Notice::Farewell { id: 2 });
    assert!(!follower.node.is_removed(), "another node was meant, that ran at this place before");
    notice(&mut follower, 3, &Notice::Farewell { id: 1 });
    assert!(follower.node.is_removed());
    assert_eq!(follower.node.where_to_go(), Some("host:5002".to_string()));
    follower.node.retire(&mut follower.world);
    assert_eq!(follower.world.dialled, [] as [u64; 0]);
}

/// The first entries of the log are from before it was a member, and what it was told of the members is from after.
#[test]
fn a_joiner_is_not_removed_by_entries_from_before_its_time() {
    let mut joiner = Driven::start(&[2]);
    joiner.node.member_history.insert(0, (0, super::members(&[1, 2, 3])));
    joiner.append(2, 1, (1, 1), &[], 1);
    assert_eq!(joiner.node.raft().commit(), 1);
    assert!(!joiner.node.is_removed());
    notice(&mut joiner, 3, &here(15003));
    assert!(joiner.world.dialled.contains(&3), "nor are others");
    assert_eq!(notices(&mut joiner, 3), []);
}

#[test]
fn without_a_majority_that_is_up_nobody_is_removed() {
    let mut leader = Driven::leader_of_three();
    leader.node.on_peer_unreachable(&mut leader.world, 3).unwrap();
    remove(&mut leader, 77, 2);
    let refused = answers(&mut leader);
    assert!(
        matches!(&refused[..], [(77, Answer::Refused(text))] if text.contains("Start node 3")),
        "{refused:?}"
    );
    assert_eq!(leader.world.last_index(), 2);
    remove(&mut leader, 78, 3);
    leader.persist();
    leader.acknowledge(2);
    assert_eq!(answers(&mut leader), [(78, Answer::Ok)], "the one that is down can go");
}

/// Time passes in which node 3 says nothing.
fn pass_without_3(leader: &mut Driven, steps: usize) {
    for _ in 0..steps {
        leader.world.now_us += 400_000;
        leader.turn();
        leader.sent(3);
        leader.acknowledge(2);
    }
}

#[test]
fn a_removal_waits_for_a_voter_that_is_silent_but_not_for_ever() {
    let mut leader = Driven::leader_of_three();
    pass_without_3(&mut leader, 2);
    remove(&mut leader, 77, 2);
    assert_eq!((answers(&mut leader), leader.world.last_index()), (vec![], 2));
    leader.pass(1);
    assert_eq!(leader.world.last_index(), 3, "it is back");
    leader.persist();
    leader.acknowledge(3);
    assert_eq!(answers(&mut leader), [(77, Answer::Ok)]);

    let mut leader = Driven::leader_of_three();
    pass_without_3(&mut leader, 2);
    remove(&mut leader, 78, 2);
    pass_without_3(&mut leader, 6);
    let refused = answers(&mut leader);
    assert!(
        matches!(&refused[..], [(78, Answer::Refused(text))] if text.contains("Start node 3")),
        "{refused:?}"
    );
    assert_eq!(leader.world.last_index(), 2);
}

#[test]
fn the_last_voter_stays() {
    let mut leader = Driven::leader_of_three();
    for (ticket, id) in [(77, 3), (78, 2), (79, 1)] {
        leader.node.on_remove_node(&mut leader.world, ticket, id);
    }
    leader.turn();
    assert_eq!(leader.world.last_index(), 3, "one after the other");
    for _ in 0..3 {
        leader.persist();
        leader.acknowledge(2);
    }
    let answers = answers(&mut leader);
    let done = answers.iter().filter(|(_, answer)| *answer == Answer::Ok).count();
    assert_eq!(done, 2, "{answers:?}");
    remove(&mut leader, 80, 1);
    let refused = super::changing::answers(&mut leader);
    assert!(
        matches!(&refused[..], [(80, Answer::Refused(text))] if text.contains("last voter")),
        "{refused:?}"
    );
}

/// Leads three nodes; the administrator's request 77 is that it removes itself, and Redis executes nothing any more.
fn leaving() -> Driven {
    let mut leader = Driven::leader_of_three();
    remove(&mut leader, 77, OWN);
    let seal = leader.told();
    assert_eq!(seal, [ToMain::Seal { attempt: 1 }]);
    leader.node.on_sealed(1, super::OFFSET);
    leader.turn();
    leader
}

#[test]
fn a_leader_hands_over_and_asks_its_successor_to_be_removed() {
    let mut leader = leaving();
    assert_eq!(leader.node.members().0.len(), 3, "it does not remove itself");
    let target = if leader.sent(2).iter().any(|message| message.body == Body::TimeoutNow) { 2 } else { 3 };
    assert_eq!(notices(&mut leader, target), [], "it leads as yet");
    let term = leader.node.raft().term() + 1;
    leader.append(target, term, (2, 2), &[], 2);
    assert_eq!(notices(&mut leader, target), [Notice::Leave]);
    leader.turn();
    assert_eq!(notices(&mut leader, target), [], "not in every turn");
    leader.world.now_us += 300_000;
    leader.turn();
    assert_eq!(notices(&mut leader, target), [Notice::Leave], "it may have been lost");
    let without = super::membership_entry(3, term, &super::members(&[2, 3]));
    leader.append(target, term, (2, 2), &[without], 2);
    leader.persist();
    leader.append(target, term, (3, term), &[], 3);
    assert!(leader.node.is_removed());
    assert_eq!(answers(&mut leader), []);
    leader.node.retire(&mut leader.world);
    assert_eq!(answers(&mut leader), [(77, Answer::Ok)]);
}

#[test]
fn a_leader_whose_successor_will_not_remove_it_says_so() {
    let mut leader = leaving();
    leader.append(2, leader.node.raft().term() + 1, (2, 2), &[], 2);
    notice(&mut leader, 2, &Notice::Denied { reason: "not now".into() });
    assert_eq!(answers(&mut leader), [(77, Answer::Refused("not now".into()))]);
    notices(&mut leader, 2);
    leader.world.now_us += 300_000;
    leader.turn();
    assert_eq!(notices(&mut leader, 2), [], "it does not ask any more");
}

#[test]
fn a_leader_that_is_between_two_leaders_waits_to_ask() {
    let mut leader = leaving();
    let term = leader.node.raft().term() + 1;
    leader.append(2, term, (2, 2), &[], 2);
    assert_eq!(notices(&mut leader, 2), [Notice::Leave]);
    let last = crate::consensus::Position { index: 9, term };
    leader.receive(3, term + 1, Body::Vote { last, transfer: true }, &[]);
    leader.world.now_us += 300_000;
    leader.turn();
    assert_eq!((notices(&mut leader, 2), notices(&mut leader, 3)), (vec![], vec![]));
    leader.append(3, term + 1, (2, 2), &[], 2);
    assert_eq!(notices(&mut leader, 3), [Notice::Leave]);
}

#[test]
fn a_leader_that_cannot_hand_over_stays_and_says_so() {
    let mut leader = leaving();
    for _ in 0..12 {
        leader.world.now_us += 400_000;
        leader.turn();
        leader.acknowledge(2);
        leader.acknowledge(3);
    }
    let refused = answers(&mut leader);
    assert!(
        matches!(&refused[..], [(77, Answer::Refused(text))] if text.contains("leads on")),
        "{refused:?}"
    );
    assert_eq!(leader.node.members().0.len(), 3);
}

#[test]
fn a_successor_removes_who_asks_for_it_once() {
    let mut leader = Driven::leader_of_three();
    notice(&mut leader, 3, &Notice::Leave);
    notice(&mut leader, 3, &Notice::Leave);
    assert_eq!((leader.world.last_index(), leader.node.members().0.len()), (3, 2));
    notice(&mut leader, 9, &Notice::Leave);
    leader.persist();
    leader.acknowledge(2);
    assert_eq!((leader.world.last_index(), leader.node.members().0.len()), (3, 2));
}

#[test]
fn a_successor_that_cannot_spare_who_asks_says_why() {
    let mut leader = Driven::leader_of_three();
    leader.node.on_peer_unreachable(&mut leader.world, 2).unwrap();
    notice(&mut leader, 3, &Notice::Leave);
    let denied = notices(&mut leader, 3);
    assert!(
        matches!(&denied[..], [Notice::Denied { reason }] if reason.contains("Start node 2")),
        "{denied:?}"
    );
    assert_eq!(leader.node.members().0.len(), 3);
}

#[test]
fn a_member_that_moved_is_dialled_there_and_the_leader_puts_it_into_the_log() {
    let mut leader = Driven::leader_of_three();
    notice(&mut leader, 3, &here(16003));
    let moved = leader.node.members().0[&3].clone();
    assert_eq!(
        (moved.peer_address.as_str(), moved.address.as_str(), moved.voting),
        ("host:16003", "host:6003", true)
    );
    assert_eq!(leader.world.last_index(), 3);
    leader.persist();
    leader.acknowledge(2);
    notice(&mut leader, 3, &here(16003));
    assert_eq!(leader.world.last_index(), 3, "the log knows");
    notice(&mut leader, 3, &here(15002));
    assert_eq!(leader.world.last_index(), 3, "that is node 2's");
}

/// A node with its log in memory, at the place of `ticket`, asks to join.
fn add_in_memory(node: &mut Driven, ticket: u64, place: u64) {
    let (address, peer_address) = (format!("host:{}", 5000 + place), format!("host:{}", 15000 + place));
    node.node.on_add_in_memory(&mut node.world, ticket, address, peer_address);
    node.turn();
}

/// Commits what is proposed, entry by entry; node 3 takes no part.
fn commit(leader: &mut Driven) {
    for _ in 0..3 {
        leader.persist();
        leader.acknowledge(2);
    }
}

/// A leader of nodes 1, 2, 3 whose fourth member is a learner in memory; its id.
fn with_one_in_memory() -> (Driven, u64) {
    let mut leader = Driven::leader_of_three();
    add_in_memory(&mut leader, 77, 4);
    commit(&mut leader);
    let joined = answers(&mut leader);
    let [(77, Answer::Added { id, .. })] = joined[..] else { panic!("{joined:?}") };
    assert!(leader.node.members().0[&id].in_memory);
    (leader, id)
}

#[test]
fn a_node_that_was_in_memory_gives_way_to_the_next_one_at_its_address() {
    let (mut leader, former) = with_one_in_memory();
    leader.pass(2);
    commit(&mut leader);
    add_in_memory(&mut leader, 78, 4);
    assert!(!leader.node.members().0.contains_key(&former), "it goes first");
    assert_eq!(leader.node.members().0.len(), 3, "and the next one comes in a change of its own");
    commit(&mut leader);
    let joined = answers(&mut leader);
    let [(78, Answer::Added { id, .. })] = joined[..] else { panic!("{joined:?}") };
    assert_ne!(id, former);
    assert_eq!(leader.node.members().0.len(), 4);
    // It never took an entry; but whoever asks now has another memory.
    leader.pass(2);
    commit(&mut leader);
    add_in_memory(&mut leader, 79, 4);
    commit(&mut leader);
    let joined = answers(&mut leader);
    let [(79, Answer::Added { id: third, .. })] = joined[..] else { panic!("{joined:?}") };
    assert!(third != id && third != former);
}

#[test]
fn only_a_node_in_memory_that_is_down_gives_way() {
    let mut leader = Driven::leader_of_three();
    add_in_memory(&mut leader, 77, 3);
    let refused = answers(&mut leader);
    assert!(
        matches!(&refused[..], [(77, Answer::Refused(text))] if text.contains("address of node 3 already")),
        "node 3 has its log on disk: {refused:?}"
    );
    let (mut leader, former) = with_one_in_memory();
    leader.acknowledge(former);
    add_in_memory(&mut leader, 78, 4);
    assert_eq!((answers(&mut leader), leader.node.members().0.len()), (vec![], 4), "it waits");
    for _ in 0..5 {
        leader.acknowledge(former);
        leader.acknowledge(2);
        leader.pass(1);
    }
    leader.acknowledge(former);
    leader.turn();
    let refused = answers(&mut leader);
    assert!(
        matches!(&refused[..], [(78, Answer::Refused(text))] if text.contains("which is up")),
        "{refused:?}"
    );
    assert!(leader.node.members().0.contains_key(&former));
}

#[test]
fn a_removal_that_is_refused_is_told_to_the_successor() {
    let (mut leader, former) = with_one_in_memory();
    let mut members = leader.node.members().clone();
    members.0.get_mut(&former).expect("a member").voting = true;
    leader.node.member_history.last_mut().expect("a membership").1 = members;
    // Nobody is heard for a moment: without this voter there would be no majority of the others either.
    leader.world.now_us += 700_000;
    add_in_memory(&mut leader, 78, 4);
    let refused = answers(&mut leader);
    assert!(
        matches!(&refused[..], [(78, Answer::Refused(text))] if text.contains("the cluster would stop")),
        "{refused:?}"
    );
    leader.turn();
    assert_eq!(answers(&mut leader), [], "and it is not tried again");
}

#[test]
fn who_wants_to_leave_waits_for_a_leader_without_turning_in_a_loop() {
    let mut driven = Driven::leader_of_three();
    driven.node.on_remove_node(&mut driven.world, 77, OWN);
    driven.turn();
    driven.depose();
    driven.persist();
    assert!(notices(&mut driven, 2).contains(&Notice::Leave));
    for _ in 0..3 {
        driven.world.now_us += 800_000; // nobody is heard of: `turn` asserts that nothing is due
        driven.turn();
    }
    assert_eq!(driven.node.raft.leader(), None);
    notices(&mut driven, 2);
    driven.append(2, 9, (2, 2), &[], 2);
    assert!(notices(&mut driven, 2).contains(&Notice::Leave), "it asks the next one at once");
}
