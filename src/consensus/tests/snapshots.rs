//! Compaction and installed snapshots, one node at a time.

use super::*;

fn append_of(messages: &[Message]) -> Vec<(Index, usize)> {
    let append = |message: &Message| match &message.body {
        Body::Append { prev, entries, .. } => Some((prev.index, entries.len())),
        _ => None,
    };
    messages.iter().filter_map(append).collect()
}

/// A leader of three with entries up to 6 committed by node 2; node 3 was never heard of. The log starts behind 4.
fn compacted_leader() -> Bench {
    let mut bench = Bench::leader(&[1, 2, 3], &[]);
    bench.give(Input::Propose { bytes: vec![10; 5] });
    bench.persist();
    bench.acknowledge(2, 6, 0);
    assert_eq!(bench.raft.commit(), 6);
    bench.give(Input::Compacted { through: 4 });
    assert_eq!(bench.raft.base(), at(4, 1));
    bench
}

fn needs_snapshot(bench: &Bench, peer: NodeId) -> bool {
    bench.raft.progress().any(|(id, progress)| id == peer && progress.needs_snapshot)
}

fn refuse(bench: &mut Bench, peer: NodeId, prev: Index, last: Index) -> Vec<Output> {
    bench.hear(peer, 1, Body::Refused { prev, conflict: at(last, u64::from(last > 0)), last, round: 0 })
}

#[test]
fn a_peer_that_refuses_the_base_needs_a_snapshot_and_gets_heartbeats_only() {
    let mut bench = compacted_leader();
    bench.acknowledge(3, 1, 0);
    let outputs = refuse(&mut bench, 3, 4, 1);
    assert!(outputs.contains(&Output::SnapshotNeeded { to: 3 }), "{outputs:?}");
    assert!(needs_snapshot(&bench, 3) && !needs_snapshot(&bench, 2));
    let outputs = bench.give(Input::Propose { bytes: vec![10] });
    assert!(sent(&outputs, 3).is_empty(), "no entries");
    assert_eq!(append_of(&sent(&outputs, 2)), [(6, 1)]);
    let outputs = bench.tick();
    assert_eq!(append_of(&sent(&outputs, 3)), [(4, 0)], "but heartbeats");
    assert!(refuse(&mut bench, 3, 4, 1).is_empty(), "which it goes on refusing");
    assert!(needs_snapshot(&bench, 3));
}

#[test]
fn a_peer_that_has_the_base_again_is_sent_the_rest() {
    let mut bench = compacted_leader();
    bench.acknowledge(3, 1, 0);
    refuse(&mut bench, 3, 4, 1);
    let outputs = bench.acknowledge(3, 5, 0);
    assert!(!needs_snapshot(&bench, 3));
    assert_eq!(append_of(&sent(&outputs, 3)), [(5, 1)]);
}

#[test]
fn a_peer_with_entries_in_flight_is_asked_again_when_these_are_dropped() {
    let mut bench = Bench::leader(&[1, 2, 3], &[]);
    bench.acknowledge(3, 1, 0);
    bench.give(Input::Propose { bytes: vec![10; 4] });
    bench.persist();
    bench.acknowledge(2, 5, 0);
    bench.give(Input::Compacted { through: 5 });
    let outputs = bench.tick();
    assert_eq!(append_of(&sent(&outputs, 3)), [(5, 0)]);
    assert!(!needs_snapshot(&bench, 3), "it may have them all");
    bench.acknowledge(3, 5, 0);
    let outputs = bench.give(Input::Propose { bytes: vec![10] });
    assert_eq!(append_of(&sent(&outputs, 3)), [(5, 1)]);
}

#[test]
fn a_waiting_peer_moves_with_the_base() {
    let mut bench = compacted_leader();
    bench.acknowledge(3, 1, 0);
    refuse(&mut bench, 3, 4, 1);
    bench.give(Input::Compacted { through: 6 });
    assert!(needs_snapshot(&bench, 3));
    bench.acknowledge(3, 4, 0);
    assert!(needs_snapshot(&bench, 3), "what it has is not enough any more");
    bench.acknowledge(3, 6, 0);
    assert!(!needs_snapshot(&bench, 3));
}

#[test]
fn a_peer_whose_link_breaks_while_it_waits_is_found_to_need_a_snapshot_again() {
    let mut bench = compacted_leader();
    bench.acknowledge(3, 1, 0);
    refuse(&mut bench, 3, 4, 1);
    bench.give(Input::PeerUnreachable { peer: 3 });
    assert!(!needs_snapshot(&bench, 3), "perhaps it comes back with another log");
    let outputs = bench.tick();
    assert_eq!(append_of(&sent(&outputs, 3)), [(4, 0)]);
    let outputs = refuse(&mut bench, 3, 4, 1);
    assert!(outputs.contains(&Output::SnapshotNeeded { to: 3 }), "with nothing proposed: {outputs:?}");
}

#[test]
#[should_panic(expected = "not decided")]
fn what_is_not_committed_is_not_compacted() {
    let mut bench = Bench::leader(&[1, 2, 3], &[]);
    bench.give(Input::Propose { bytes: vec![10] });
    bench.persist();
    bench.give(Input::Compacted { through: 2 });
}

#[test]
#[should_panic(expected = "not decided")]
fn what_is_not_durable_here_is_not_compacted() {
    let mut bench = Bench::new(2, members(&[1, 2, 3], &[]), 1, &[]);
    bench.hear(
        1,
        1,
        Body::Append { prev: at(0, 0), entries: vec![normal(1)], commit: 1, round: 0, lease_us: 0 },
    );
    assert_eq!(bench.raft.commit(), 1);
    bench.give(Input::Compacted { through: 1 });
}

#[test]
fn a_snapshot_beyond_the_log_replaces_it_and_is_acknowledged_at_once() {
    let mut bench = Bench::new(3, members(&[1, 2, 3], &[]), 4, &[1, 2, 2]);
    bench.append(1, 4, at(9, 4), &[]);
    bench.persist();
    let voted = (bench.raft.term(), bench.raft.vote());
    let membership = members(&[1, 2, 3, 4], &[]);
    let outputs = bench.give(Input::InstalledSnapshot { position: at(9, 4), membership: membership.clone() });
    assert_eq!((bench.raft.base(), bench.raft.last(), bench.raft.commit()), (at(9, 4), at(9, 4), 9));
    assert_eq!((bench.raft.durable(), bench.raft.membership()), (9, &membership));
    assert_eq!((bench.raft.term(), bench.raft.vote()), voted);
    assert!(outputs.contains(&Output::Commit { index: 9 }));
    assert!(outputs.contains(&Output::MembershipChanged { membership }));
    let answers: Vec<_> = sent(&outputs, 1).into_iter().map(|message| message.body).collect();
    assert_eq!(answers, [Body::Appended { matched: 9, round: 0 }]);
    let outputs = bench.append(1, 4, at(9, 4), &[normal(4)]);
    assert_eq!(writes(&outputs)[0].append.as_ref().map(|append| append.first), Some(10));
}

#[test]
fn a_vote_outlives_a_snapshot_of_the_same_term() {
    let restored =
        Restored { term: 4, vote: Some(2), membership: members(&[1, 2, 3], &[]), ..Restored::default() };
    let mut bench = Bench::restored(3, restored);
    bench.give(Input::InstalledSnapshot { position: at(9, 4), membership: members(&[1, 2, 3], &[]) });
    assert_eq!((bench.raft.term(), bench.raft.vote()), (4, Some(2)));
    let outputs = bench.hear(1, 4, Body::Vote { last: at(20, 3), transfer: true });
    assert!(!format!("{outputs:?}").contains("granted: true"), "{outputs:?}");
}

#[test]
fn a_snapshot_of_a_later_term_brings_that_term_along() {
    let mut bench = Bench::new(3, members(&[1, 2, 3], &[]), 2, &[1]);
    let outputs =
        bench.give(Input::InstalledSnapshot { position: at(9, 5), membership: members(&[1, 2, 3], &[]) });
    assert_eq!((bench.raft.term(), bench.raft.vote()), (5, None));
    assert_eq!(writes(&outputs)[0].hard_state, Some((5, None)));
}

#[test]
fn a_snapshot_that_the_log_holds_keeps_what_follows() {
    let mut bench = Bench::new(3, members(&[1, 2, 3], &[]), 2, &[1, 1, 2, 2]);
    bench.give(Input::InstalledSnapshot { position: at(3, 2), membership: members(&[1, 2, 3], &[]) });
    assert_eq!((bench.raft.base(), bench.raft.last(), bench.raft.commit()), (at(0, 0), at(4, 2), 3));
}

#[test]
fn an_entry_of_another_term_at_its_place_does_not_hold_a_snapshot() {
    let mut bench = Bench::new(3, members(&[1, 2, 3], &[]), 3, &[1, 1, 1, 1, 1]);
    bench.give(Input::InstalledSnapshot { position: at(3, 2), membership: members(&[1, 2, 3], &[]) });
    assert_eq!((bench.raft.base(), bench.raft.last()), (at(3, 2), at(3, 2)), "what followed is void");
}

#[test]
fn members_survive_a_snapshot_of_a_snapshot() {
    let mut bench = Bench::new(1, members(&[1], &[]), 0, &[]);
    bench.elect();
    bench.persist();
    bench.give(Input::ProposeMembership { membership: members(&[1], &[2]), bytes: 9 });
    bench.persist();
    bench.give(Input::Compacted { through: 2 });
    bench.give(Input::Propose { bytes: vec![10; 2] });
    bench.persist();
    bench.give(Input::Compacted { through: 4 });
    assert_eq!(bench.raft.membership(), &members(&[1], &[2]));
    assert_eq!((bench.raft.base().index, bench.raft.last().index), (4, 4));
}

#[test]
fn a_restart_knows_what_a_snapshot_has_proven_committed() {
    let entries = vec![normal(2), normal(2), normal(2)];
    let membership = members(&[1, 2, 3], &[]);
    let base = at(5, 2);
    let restored = Restored { term: 2, base, membership, entries, committed: 7, ..Restored::default() };
    let bench = Bench::restored(1, restored);
    assert_eq!((bench.raft.commit(), bench.raft.last(), bench.raft.term_at(4)), (7, at(8, 2), None));
}
