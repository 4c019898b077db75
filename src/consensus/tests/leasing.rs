//! Leases: what a leader may count on, and what a voter keeps to.

use super::*;

/// Four fifths of the election timeout.
const USABLE_US: u64 = TIMEOUT_US / 5 * 4;

fn leasing(id: NodeId) -> Settings {
    Settings { lease_us: TIMEOUT_US, ..settings(id) }
}

/// A leader of 1, 2, 3 (and learners) that was promised nothing yet; its round 1 began with its election.
fn leader(learners: &[NodeId]) -> Bench {
    let membership = members(&[1, 2, 3], learners);
    let restored = Restored { membership, ..Restored::default() };
    let mut bench = Bench { raft: Raft::new(leasing(1), restored, 0), now_us: 0, elected_us: 0, write: 0 };
    bench.elect();
    bench
}

/// A follower in term 1, whose log holds one entry, that has heard leader 1.
fn follower(promise_us: u64) -> Bench {
    let membership = members(&[1, 2, 3], &[]);
    let restored =
        Restored { term: 1, membership, entries: vec![normal(1)], promise_us, ..Restored::default() };
    Bench { raft: Raft::new(settings(2), restored, 0), now_us: 0, elected_us: 0, write: 0 }
}

fn heartbeat(lease_us: u64, round: u64) -> Body {
    Body::Append { prev: at(1, 1), entries: vec![], commit: 1, round, lease_us }
}

fn ready(outputs: &[Output]) -> Option<u64> {
    outputs.iter().find_map(|output| match output {
        Output::ReadReady { id, .. } => Some(*id),
        _ => None,
    })
}

fn round_of(outputs: &[Output]) -> u64 {
    match sent(outputs, 2).last().map(|message| message.body.clone()) {
        Some(Body::Append { round, .. }) => round,
        other => panic!("{other:?} is no Append"),
    }
}

/// Does `bench` grant 3 a vote, and a pre-vote?
fn grants(bench: &mut Bench, transfer: bool) -> (bool, bool) {
    let last = at(1, 1);
    let asked = bench.raft.term() + 1;
    let granted = |outputs: Vec<Output>| {
        let yes = |m: &Message| {
            matches!(m.body, Body::PreVoteReply { granted: true } | Body::VoteReply { granted: true })
        };
        sent(&outputs, 3).iter().any(yes)
    };
    let pre_vote = granted(bench.hear(3, asked, Body::PreVote { last }));
    let mut outputs = bench.hear(3, asked, Body::Vote { last, transfer });
    outputs.extend(bench.persist());
    (granted(outputs), pre_vote)
}

#[test]
fn a_lease_counts_from_the_beginning_of_the_round_that_a_majority_has_answered() {
    let mut bench = leader(&[]);
    bench.pass_to(50_000);
    bench.acknowledge(2, 1, 0);
    assert!(bench.raft.own_term_committed());
    assert_eq!(bench.raft.lease_until_us(), 0, "an answer that names no round promises nothing");
    bench.acknowledge(2, 1, 1);
    assert_eq!(bench.raft.lease_until_us(), bench.elected_us + USABLE_US);
    bench.pass_to(100_000);
    let round = round_of(&bench.tick());
    bench.pass_to(150_000);
    bench.acknowledge(3, 1, 1);
    assert_eq!(bench.raft.lease_until_us(), bench.elected_us + USABLE_US, "an old answer renews nothing");
    bench.acknowledge(3, 1, round);
    assert_eq!(bench.raft.lease_until_us(), bench.elected_us + 100_000 + USABLE_US);
}

#[test]
fn reads_are_answered_by_the_lease_and_need_a_round_behind_its_end() {
    let mut bench = leader(&[]);
    bench.give(Input::Read { id: 1 });
    let outputs = bench.acknowledge(2, 1, 1);
    assert_eq!(ready(&outputs), Some(1), "it waited for an own commit, and for no round");
    let outputs = bench.give(Input::Read { id: 2 });
    assert_eq!((ready(&outputs), sent(&outputs, 2).len()), (Some(2), 0));
    bench.pass_to(USABLE_US - 1);
    assert_eq!(ready(&bench.give(Input::Read { id: 3 })), Some(3));
    bench.pass_to(USABLE_US);
    let outputs = bench.give(Input::Read { id: 4 });
    assert_eq!(ready(&outputs), None);
    assert_eq!(ready(&bench.acknowledge(2, 1, round_of(&outputs))), Some(4));
    assert_eq!(bench.raft.lease_until_us(), bench.now_us + USABLE_US, "that round began a lease as well");
}

#[test]
fn there_is_no_lease_before_an_own_commit() {
    let mut bench = leader(&[]);
    bench.hear(2, 1, Body::Refused { prev: 1, conflict: at(0, 0), last: 0, round: 1 });
    assert_eq!((bench.raft.own_term_committed(), bench.raft.lease_until_us()), (false, 0));
}

#[test]
fn learners_promise_nothing_that_counts() {
    let mut bench = leader(&[4]);
    bench.acknowledge(2, 1, 0);
    bench.acknowledge(4, 1, 1);
    assert_eq!(bench.raft.lease_until_us(), 0);
}

#[test]
fn a_change_of_membership_moves_the_majority() {
    let mut bench = leader(&[4]);
    bench.acknowledge(2, 1, 1);
    bench.acknowledge(3, 1, 1);
    bench.acknowledge(4, 1, 0);
    assert!(bench.raft.lease_until_us() > 0);
    bench.give(Input::ProposeMembership { membership: members(&[1, 2, 3, 4], &[]), bytes: 9 });
    assert!(bench.raft.lease_until_us() > 0, "three of four have promised");
    let mut bench = leader(&[]);
    bench.acknowledge(2, 1, 1);
    assert!(bench.raft.lease_until_us() > 0);
    bench.give(Input::ProposeMembership { membership: members(&[1, 3], &[2]), bytes: 9 });
    assert_eq!(bench.raft.lease_until_us(), 0, "2 is no voter any more, and 3 has promised nothing");
}

#[test]
fn a_sole_voter_needs_nobody() {
    let restored = Restored { membership: members(&[1], &[]), ..Restored::default() };
    let mut bench = Bench { raft: Raft::new(leasing(1), restored, 0), now_us: 0, elected_us: 0, write: 0 };
    bench.now_us = 7;
    bench.give(Input::Tick);
    bench.persist();
    bench.persist();
    assert_eq!(bench.raft.lease_until_us(), 7 + USABLE_US);
}

#[test]
fn whoever_promised_elects_nobody_else_though_the_leader_seems_gone() {
    let mut bench = follower(0);
    bench.now_us = 1000;
    bench.hear(1, 1, heartbeat(TIMEOUT_US, 1));
    bench.persist();
    bench.give(Input::PeerUnreachable { peer: 1 });
    let free_us = 1000 + TIMEOUT_US;
    assert!(bench.raft.next_deadline_us() >= free_us, "nor does it stand");
    assert!(bench.raft.next_deadline_us() < free_us + HEARTBEAT_US, "but then it makes haste");
    bench.now_us = free_us - 1;
    assert_eq!(grants(&mut bench, false), (false, false));
    bench.now_us = free_us;
    assert_eq!(grants(&mut bench, false), (true, true));
}

#[test]
fn a_promise_outlives_the_setting_and_the_term() {
    let mut bench = follower(0);
    bench.hear(1, 1, heartbeat(TIMEOUT_US, 1));
    bench.persist();
    bench.now_us = 1000;
    bench.hear(1, 1, heartbeat(0, 2));
    bench.give(Input::PeerUnreachable { peer: 1 });
    // A candidate of a far later term is heard of, and that it leads is not.
    bench.hear(3, 7, Body::VoteReply { granted: false });
    assert_eq!(bench.raft.term(), 7);
    assert_eq!(grants(&mut bench, false), (false, false));
    bench.now_us = TIMEOUT_US;
    assert_eq!(grants(&mut bench, false), (true, true));
}

#[test]
fn the_leader_that_was_promised_may_be_elected_again() {
    let mut bench = follower(0);
    bench.hear(1, 1, heartbeat(TIMEOUT_US, 1));
    bench.hear(1, 2, Body::Vote { last: at(1, 1), transfer: false });
    let outputs = bench.persist();
    assert!(sent(&outputs, 1).iter().any(|m| m.body == Body::VoteReply { granted: true }));
}

#[test]
fn a_hand_over_goes_past_all_promises() {
    let mut bench = follower(0);
    bench.hear(1, 1, heartbeat(TIMEOUT_US, 1));
    assert_eq!(grants(&mut bench, true), (true, false));
    let mut bench = follower(0);
    bench.hear(1, 1, heartbeat(TIMEOUT_US, 1));
    bench.persist();
    bench.hear(1, 1, Body::TimeoutNow);
    bench.tick();
    assert_eq!((bench.raft.role(), bench.now_us), (Role::Candidate, 0));
}

#[test]
fn a_promise_is_durable_before_it_counts() {
    let mut bench = follower(0);
    let outputs = bench.hear(1, 1, heartbeat(TIMEOUT_US, 1));
    assert_eq!(writes(&outputs)[0].promise_us, Some(TIMEOUT_US));
    assert!(sent(&outputs, 1).is_empty());
    let beyond = Body::Append { prev: at(5, 1), entries: vec![], commit: 1, round: 1, lease_us: TIMEOUT_US };
    let refused = |outputs: &[Output]| match sent(outputs, 1)[0].body {
        Body::Refused { round, .. } => round,
        ref other => panic!("{other:?}"),
    };
    assert_eq!(refused(&bench.hear(1, 1, beyond.clone())), 0);
    assert_eq!(sent(&bench.persist(), 1)[0].body, Body::Appended { matched: 1, round: 1 });
    assert_eq!(refused(&bench.hear(1, 1, beyond)), 1);
    let outputs = bench.hear(1, 1, heartbeat(TIMEOUT_US, 2));
    assert!(writes(&outputs).is_empty(), "the disk knows already");
    assert_eq!(sent(&outputs, 1).len(), 1);
    assert_eq!(writes(&bench.hear(1, 1, heartbeat(2 * TIMEOUT_US, 3)))[0].promise_us, Some(2 * TIMEOUT_US));
}

#[test]
fn after_a_restart_the_promise_is_kept_to_everybody() {
    let mut bench = follower(TIMEOUT_US);
    assert!(bench.raft.next_deadline_us() >= TIMEOUT_US);
    bench.now_us = TIMEOUT_US - 1;
    assert_eq!(grants(&mut bench, false), (false, false));
    bench.now_us = TIMEOUT_US;
    assert_eq!(grants(&mut bench, false), (true, true));
    let restored = Restored { membership: members(&[1], &[]), promise_us: 500, ..Restored::default() };
    let mut alone = Bench { raft: Raft::new(settings(1), restored, 0), now_us: 0, elected_us: 0, write: 0 };
    alone.give(Input::Tick);
    assert_eq!((alone.raft.role(), alone.raft.next_deadline_us()), (Role::Follower, 500));
}

#[test]
fn a_promise_that_is_over_is_not_kept_on_the_disk_for_ever() {
    let mut bench = follower(TIMEOUT_US);
    let outputs = bench.hear(3, 2, Body::VoteReply { granted: false });
    assert_eq!(writes(&outputs)[0].promise_us, None, "it may be in force");
    bench.now_us = TIMEOUT_US;
    let outputs = bench.hear(3, 3, Body::VoteReply { granted: false });
    assert_eq!(writes(&outputs)[0].promise_us, Some(0));
    // One as long as the one before is a new one.
    bench.persist();
    let heartbeat =
        Body::Append { prev: at(1, 1), entries: vec![], commit: 1, round: 1, lease_us: TIMEOUT_US };
    let outputs = bench.hear(1, 3, heartbeat);
    assert_eq!((writes(&outputs)[0].promise_us, sent(&outputs, 1).len()), (Some(TIMEOUT_US), 0));
}

#[test]
fn timeout_now_ends_the_lease_for_the_rest_of_the_term() {
    let mut bench = leader(&[]);
    bench.acknowledge(2, 1, 1);
    bench.acknowledge(3, 1, 1);
    assert!(bench.raft.lease_until_us() > 0);
    let outputs = bench.give(Input::Transfer { target: Some(2) });
    assert!(sent(&outputs, 2).iter().any(|m| m.body == Body::TimeoutNow));
    assert_eq!(bench.raft.lease_until_us(), 0);
    bench.hear(2, 1, Body::VoteReply { granted: false });
    let outputs = bench.give(Input::Reconfigure { settings: leasing(1) });
    assert!(outputs.is_empty());
    let heartbeats = bench.tick();
    bench.acknowledge(3, 1, round_of(&heartbeats));
    assert_eq!(bench.raft.lease_until_us(), 0, "the message may still be on its way");
    assert!(sent(&heartbeats, 3).iter().all(|m| matches!(m.body, Body::Append { lease_us: 0, .. })));
    let outputs = bench.give(Input::Read { id: 1 });
    assert_eq!(ready(&outputs), None);
    assert_eq!(ready(&bench.acknowledge(3, 1, round_of(&outputs))), Some(1), "reads go by rounds");
}

#[test]
fn a_transfer_whose_target_is_behind_leaves_the_lease_until_it_is_told() {
    let mut bench = leader(&[]);
    bench.acknowledge(2, 1, 1);
    bench.give(Input::Transfer { target: Some(3) });
    assert!(bench.raft.lease_until_us() > 0);
    bench.acknowledge(3, 1, 1);
    assert_eq!(bench.raft.lease_until_us(), 0);
}

#[test]
fn the_setting_takes_effect_at_once_and_of_another_length_anew() {
    let mut bench = leader(&[]);
    bench.acknowledge(2, 1, 1);
    bench.give(Input::Reconfigure { settings: settings(1) });
    assert_eq!(bench.raft.lease_until_us(), 0);
    bench.give(Input::Reconfigure { settings: Settings { lease_us: 2 * TIMEOUT_US, ..settings(1) } });
    assert_eq!(bench.raft.lease_until_us(), 0, "2 has promised less than that");
    let round = round_of(&bench.tick());
    bench.acknowledge(2, 1, round);
    assert_eq!(bench.raft.lease_until_us(), bench.now_us + 2 * USABLE_US);
}
