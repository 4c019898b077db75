//! Elections: pre-votes, votes, stickiness, fast failover.

use super::*;

fn vote(last: Position) -> Body {
    Body::Vote { last, transfer: false }
}

fn granted(outputs: &[Output], to: NodeId) -> bool {
    sent(outputs, to).iter().any(|message| {
        matches!(message.body, Body::VoteReply { granted: true } | Body::PreVoteReply { granted: true })
    })
}

/// Node 2 of three, which follows node 1 in term 1 and holds one entry.
fn follower() -> Bench {
    let mut bench = Bench::new(2, members(&[1, 2, 3], &[]), 1, &[1]);
    bench.append(1, 1, at(1, 1), &[]);
    bench
}

#[test]
fn a_vote_leaves_after_its_write_and_is_given_once() {
    let mut bench = Bench::new(2, members(&[1, 2, 3], &[]), 1, &[1]);
    let outputs = bench.hear(1, 2, vote(at(1, 1)));
    assert_eq!(writes(&outputs)[0].hard_state, Some((2, Some(1))), "term and vote in one write");
    assert!(!granted(&outputs, 1), "not before it is durable");
    assert!(!granted(&bench.hear(1, 2, vote(at(1, 1))), 1), "nor when asked again");
    assert!(granted(&bench.persist(), 1));
    let outputs = bench.hear(3, 2, vote(at(9, 1)));
    assert!(!granted(&outputs, 3), "the vote of this term is given");
    let outputs = bench.hear(1, 2, vote(at(1, 1)));
    assert!(granted(&outputs, 1) && writes(&outputs).is_empty(), "asked again, answered again");
}

#[test]
fn a_restored_vote_binds() {
    let restored =
        Restored { term: 4, vote: Some(3), membership: members(&[1, 2, 3], &[]), ..Restored::default() };
    let mut bench = Bench::restored(2, restored);
    assert!(!granted(&bench.hear(1, 4, vote(at(0, 0))), 1));
    assert!(granted(&bench.hear(3, 4, vote(at(0, 0))), 3), "it is durable already");
}

#[test]
fn a_log_that_is_behind_gets_no_vote_but_its_term_counts() {
    let mut bench = Bench::new(2, members(&[1, 2, 3], &[]), 3, &[1, 3]);
    assert!(!granted(&bench.hear(1, 4, vote(at(9, 2))), 1), "longer, but of an older term");
    assert_eq!((bench.raft.term(), bench.raft.vote()), (4, None));
    assert!(!granted(&bench.hear(1, 5, vote(at(1, 3))), 1), "shorter");
    bench.hear(1, 6, vote(at(2, 3)));
    assert!(granted(&bench.persist(), 1));
}

#[test]
fn a_held_vote_of_an_older_term_is_dropped() {
    let mut bench = Bench::new(2, members(&[1, 2, 3], &[]), 1, &[]);
    bench.hear(1, 2, vote(at(0, 0)));
    bench.hear(3, 3, vote(at(0, 0)));
    let outputs = bench.persist();
    assert!(!granted(&outputs, 1) && granted(&outputs, 3), "{outputs:?}");
}

#[test]
fn a_new_term_frees_the_vote() {
    let mut bench = Bench::new(2, members(&[1, 2, 3], &[]), 1, &[]);
    bench.hear(1, 2, vote(at(0, 0)));
    bench.persist();
    bench.append(1, 3, at(0, 0), &[]);
    assert_eq!((bench.raft.term(), bench.raft.vote()), (3, None));
}

#[test]
fn while_the_leader_lives_votes_are_not_heard() {
    let mut bench = follower();
    bench.now_us = TIMEOUT_US - 1;
    assert!(!granted(&bench.hear(3, 2, Body::PreVote { last: at(9, 1) }), 3));
    assert_eq!(bench.hear(3, 2, vote(at(9, 1))), [], "not even the term");
    assert_eq!(bench.raft.term(), 1);
    bench.now_us = TIMEOUT_US;
    assert!(granted(&bench.hear(3, 2, Body::PreVote { last: at(9, 1) }), 3));
    bench.hear(3, 2, vote(at(9, 1)));
    assert!(granted(&bench.persist(), 3));
}

#[test]
fn the_leaders_own_candidate_and_the_leader_itself_are_heard() {
    let mut bench = follower();
    bench.hear(3, 2, Body::Vote { last: at(1, 1), transfer: true });
    assert!(granted(&bench.persist(), 3), "sent by the leader");
    let mut bench = follower();
    assert!(granted(&bench.hear(1, 2, Body::PreVote { last: at(1, 1) }), 1), "it leads no more");
}

#[test]
fn a_leader_hears_no_votes_either() {
    let mut bench = Bench::leader(&[1, 2, 3], &[]);
    let outputs = bench.hear(3, 9, Body::PreVote { last: at(9, 1) });
    let refused = Message { term: 1, body: Body::PreVoteReply { granted: false } };
    assert_eq!(sent(&outputs, 3), [refused]);
    assert_eq!(bench.hear(3, 9, vote(at(9, 8))), []);
    assert_eq!((bench.raft.role(), bench.raft.term()), (Role::Leader, 1));
    bench.hear(3, 9, Body::Vote { last: at(9, 8), transfer: true });
    assert_eq!((bench.raft.role(), bench.raft.term()), (Role::Follower, 9));
}

#[test]
fn a_pre_vote_changes_nothing() {
    let mut bench = Bench::new(2, members(&[1, 2, 3], &[]), 1, &[1]);
    for (from, last) in [(1, at(1, 1)), (3, at(2, 1))] {
        let outputs = bench.hear(from, 7, Body::PreVote { last });
        assert!(granted(&outputs, from) && outputs.len() == 1, "yes to each, and no write: {outputs:?}");
        assert_eq!(sent(&outputs, from)[0].term, 7, "the promise is for the term asked for");
    }
    assert!(!granted(&bench.hear(1, 7, Body::PreVote { last: at(0, 0) }), 1), "behind");
    assert!(!granted(&bench.hear(1, 1, Body::PreVote { last: at(0, 0) }), 1), "not a later term");
    assert_eq!((bench.raft.term(), bench.raft.vote()), (1, None));
}

#[test]
fn candidacy_takes_a_majority_of_pre_votes_for_the_next_term() {
    let mut bench = Bench::new(1, members(&[1, 2, 3], &[4]), 5, &[5]);
    let outputs = bench.tick();
    assert_eq!(sent(&outputs, 2), [Message { term: 6, body: Body::PreVote { last: at(1, 5) } }]);
    assert!(sent(&outputs, 4).is_empty() && writes(&outputs).is_empty());
    bench.hear(4, 6, Body::PreVoteReply { granted: true });
    bench.hear(2, 5, Body::PreVoteReply { granted: true });
    bench.hear(2, 5, Body::PreVoteReply { granted: false });
    assert_eq!(
        (bench.raft.role(), bench.raft.term()),
        (Role::PreCandidate, 5),
        "a learner, an old yes, a no"
    );
    let outputs = bench.hear(2, 6, Body::PreVoteReply { granted: true });
    assert_eq!((bench.raft.role(), bench.raft.vote()), (Role::Candidate, Some(1)));
    assert!(sent(&outputs, 2).is_empty(), "no request before its own vote is durable");
    assert_eq!(bench.raft.term(), 6);
    assert_eq!(sent(&bench.persist(), 2), [Message { term: 6, body: vote(at(1, 5)) }]);
    bench.hear(3, 6, Body::VoteReply { granted: false });
    assert_eq!(bench.raft.role(), Role::Candidate);
    bench.hear(3, 6, Body::VoteReply { granted: true });
    assert_eq!(bench.raft.role(), Role::Leader);
}

#[test]
fn the_own_vote_counts_with_its_own_write_and_no_earlier_one() {
    let mut bench = Bench::new(1, members(&[1, 2, 3], &[]), 1, &[1]);
    bench.append(2, 1, at(1, 1), &[normal(1)]);
    let earlier = bench.write;
    bench.tick();
    bench.hear(3, 2, Body::PreVoteReply { granted: true });
    assert!(bench.write > earlier);
    assert_eq!(bench.give(Input::Persisted { write: earlier }), []);
    bench.hear(3, 2, Body::VoteReply { granted: true });
    assert_eq!(bench.raft.role(), Role::Candidate);
    bench.persist();
    assert_eq!(bench.raft.role(), Role::Leader);
}

#[test]
fn votes_of_an_older_term_do_not_count() {
    let mut bench = Bench::new(1, members(&[1, 2, 3], &[]), 1, &[1]);
    bench.tick();
    bench.hear(2, 2, Body::PreVoteReply { granted: true });
    bench.persist();
    bench.tick();
    bench.hear(2, 3, Body::PreVoteReply { granted: true });
    bench.persist();
    bench.hear(2, 2, Body::VoteReply { granted: true });
    assert_eq!((bench.raft.role(), bench.raft.term()), (Role::Candidate, 3));
}

#[test]
fn a_refusal_of_a_later_term_is_learned_from() {
    let mut bench = Bench::new(1, members(&[1, 2, 3], &[]), 5, &[5]);
    bench.tick();
    bench.hear(2, 8, Body::PreVoteReply { granted: false });
    assert_eq!((bench.raft.role(), bench.raft.term(), bench.raft.vote()), (Role::Follower, 8, None));
}

#[test]
fn an_election_without_answers_begins_again_with_a_pre_vote() {
    let mut bench = Bench::new(1, members(&[1, 2, 3], &[]), 0, &[]);
    for _ in 0..20 {
        bench.tick();
        assert_eq!((bench.raft.role(), bench.raft.term()), (Role::PreCandidate, 0), "the term does not grow");
    }
    bench.hear(2, 1, Body::PreVoteReply { granted: true });
    bench.persist();
    bench.tick();
    assert_eq!((bench.raft.role(), bench.raft.term()), (Role::PreCandidate, 1));
}

#[test]
fn timeouts_lie_between_one_and_two_election_timeouts() {
    let deadline_us = |id| Bench::new(id, members(&[1, 2, 3], &[]), 0, &[]).raft.next_deadline_us();
    let deadlines: Vec<u64> = (1..=3).map(deadline_us).collect();
    assert!(deadlines.iter().all(|us| (TIMEOUT_US..2 * TIMEOUT_US).contains(us)), "{deadlines:?}");
    assert!(deadlines[0] != deadlines[1] && deadlines[1] != deadlines[2]);
}

#[test]
fn only_voters_stand() {
    for membership in [members(&[2, 3], &[1]), members(&[2, 3], &[]), members(&[], &[])] {
        let mut bench = Bench::new(1, membership, 1, &[1]);
        assert_eq!(bench.raft.next_deadline_us(), u64::MAX);
        bench.now_us = 100 * TIMEOUT_US;
        assert_eq!(bench.give(Input::Tick), []);
        bench.append(2, 1, at(1, 1), &[]);
        assert_eq!(bench.give(Input::PeerUnreachable { peer: 2 }), []);
        assert_eq!(bench.raft.next_deadline_us(), u64::MAX);
        let declined = bench.hear(2, 1, Body::TimeoutNow);
        assert!(matches!(
            declined[..],
            [Output::Send { to: 2, message: Message { body: Body::VoteReply { granted: false }, .. } }]
        ));
    }
}

/// Its log may be the longest: then it alone can bring the change, or its end, to the others.
#[test]
fn who_was_removed_stands_until_that_is_committed() {
    let mut bench = Bench::new(3, members(&[1, 2, 3], &[]), 1, &[1]);
    bench.append(1, 1, at(1, 1), &[change(1, members(&[1, 2], &[]))]);
    assert!(!bench.raft.is_voter() && bench.raft.next_deadline_us() != u64::MAX);
    bench.persist();
    let (prev, entries) = (at(2, 1), Vec::new());
    bench.hear(1, 1, Body::Append { prev, entries, commit: 2, round: 0, lease_us: 0 });
    assert_eq!(bench.raft.next_deadline_us(), u64::MAX, "it knows now, and keeps quiet");
}

#[test]
fn a_sole_voter_needs_nobody() {
    let mut bench = Bench::new(1, members(&[1], &[]), 0, &[]);
    assert_eq!(bench.raft.next_deadline_us(), 0, "there is nobody to wait for");
    bench.give(Input::Tick);
    assert_eq!(bench.raft.role(), Role::Candidate);
    bench.persist();
    assert_eq!(bench.raft.role(), Role::Leader);
    assert_eq!(committed(&bench.persist()), Some(1));
    let ready = Output::ReadReady { id: 5, index: 1 };
    assert_eq!(bench.give(Input::Read { id: 5 }), [ready]);
    bench.give(Input::Propose { bytes: vec![1, 2] });
    assert_eq!(committed(&bench.persist()), Some(3));
    bench.now_us = 100 * TIMEOUT_US;
    bench.give(Input::Tick);
    assert_eq!(bench.raft.role(), Role::Leader, "it is its own quorum");
}

#[test]
fn a_dead_leader_is_succeeded_in_haste_with_growing_patience() {
    let mut bench = follower();
    bench.give(Input::PeerUnreachable { peer: 3 });
    assert!(bench.raft.next_deadline_us() >= TIMEOUT_US, "not the leader");
    bench.give(Input::PeerUnreachable { peer: 1 });
    assert!(bench.raft.next_deadline_us() < 10_000);
    let mut waits = Vec::new();
    for _ in 0..10 {
        bench.tick();
        assert_eq!((bench.raft.role(), bench.raft.term()), (Role::PreCandidate, 1));
        waits.push(bench.raft.next_deadline_us() - bench.now_us);
    }
    assert!(waits[0] < 40_000 && waits[2] > 30_000, "{waits:?}");
    assert!(waits[9] >= TIMEOUT_US && waits[9] < 2 * TIMEOUT_US, "back to the ordinary pace: {waits:?}");
}

#[test]
fn who_lost_its_link_to_the_leader_too_grants_votes() {
    let mut bench = follower();
    assert!(!granted(&bench.hear(3, 2, Body::PreVote { last: at(1, 1) }), 3));
    bench.give(Input::PeerUnreachable { peer: 1 });
    assert!(granted(&bench.hear(3, 2, Body::PreVote { last: at(1, 1) }), 3));
    assert!(bench.raft.next_deadline_us() >= 10_000, "and lets it go first");
    bench.hear(3, 2, vote(at(1, 1)));
    assert!(granted(&bench.persist(), 3));
}

#[test]
fn a_false_alarm_is_taken_back() {
    for taken_back in [true, false] {
        let mut bench = follower();
        bench.give(Input::PeerUnreachable { peer: 1 });
        if taken_back {
            bench.give(Input::PeerReachable { peer: 1 });
        } else {
            bench.append(1, 1, at(1, 1), &[]);
        }
        assert!(bench.raft.next_deadline_us() >= TIMEOUT_US);
        assert!(!granted(&bench.hear(3, 2, Body::PreVote { last: at(1, 1) }), 3));
    }
}

/// The leader has given the transfer up, and leads on: what it sent before is found in the mail after a pause.
#[test]
fn a_leader_that_speaks_again_takes_the_transfer_back() {
    let mut bench = follower();
    bench.now_us = TIMEOUT_US / 2;
    bench.hear(1, 1, Body::TimeoutNow);
    bench.append(1, 1, at(1, 1), &[]);
    assert!(bench.raft.next_deadline_us() >= bench.now_us + TIMEOUT_US);
    bench.give(Input::Tick);
    assert_eq!((bench.raft.role(), bench.raft.term()), (Role::Follower, 1));
    bench.tick();
    assert_eq!(bench.raft.role(), Role::PreCandidate, "without the leader's word it asks first");
    let mut bench = follower();
    bench.append(1, 1, at(1, 1), &[]);
    bench.hear(1, 1, Body::TimeoutNow);
    bench.give(Input::Tick);
    assert_eq!(bench.raft.role(), Role::Candidate, "told again behind a heartbeat");
}

#[test]
fn only_the_leader_sends_into_an_election() {
    let mut bench = follower();
    assert_eq!(bench.hear(3, 1, Body::TimeoutNow), []);
    assert_eq!(bench.hear(1, 1, Body::TimeoutNow), []);
    assert_eq!(bench.raft.next_deadline_us(), bench.now_us, "at once");
    bench.give(Input::Tick);
    assert_eq!((bench.raft.role(), bench.raft.term()), (Role::Candidate, 2));
    let request = Message { term: 2, body: Body::Vote { last: at(1, 1), transfer: true } };
    assert_eq!(sent(&bench.persist(), 3), [request]);
}

#[test]
fn who_abstains_does_not_stand_whatever_asks_for_it_and_votes_all_the_same() {
    let mut bench = follower();
    bench.give(Input::Abstain { abstain: true });
    let (leader, term) = (bench.raft.leader().unwrap(), bench.raft.term());
    assert_eq!(bench.raft.next_deadline_us(), u64::MAX);
    let declined = bench.hear(leader, term, Body::TimeoutNow);
    assert_eq!(sent(&declined, leader), [Message { term, body: Body::VoteReply { granted: false } }]);
    assert_eq!(declined.len(), 1);
    bench.give(Input::PeerUnreachable { peer: leader });
    bench.now_us += 10 * TIMEOUT_US;
    assert_eq!(bench.give(Input::Tick), []);
    bench.hear(3, term + 1, vote(bench.raft.last()));
    assert!(granted(&bench.persist(), 3));
    bench.give(Input::Abstain { abstain: false });
    let patience_us = bench.raft.next_deadline_us() - bench.now_us;
    assert!((TIMEOUT_US..2 * TIMEOUT_US).contains(&patience_us), "as after a start, not at once");
    bench.tick();
    assert_eq!(bench.raft.role(), Role::PreCandidate);
}

#[test]
fn who_stands_and_must_abstain_gives_it_up() {
    let mut bench = follower();
    let term = bench.raft.term();
    bench.tick();
    bench.hear(3, term + 1, Body::PreVoteReply { granted: true });
    assert_eq!(bench.raft.role(), Role::Candidate);
    bench.give(Input::Abstain { abstain: true });
    bench.persist();
    bench.hear(3, term + 1, Body::VoteReply { granted: true });
    assert_eq!((bench.raft.role(), bench.raft.vote()), (Role::Follower, Some(2)), "its vote stays given");
}
