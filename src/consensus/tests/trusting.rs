//! Logs that are not what was acknowledged: holes, and ends that were cut off.

use super::*;

const NONCE: Nonce = 77;

/// Node 2, in term 1, with entries of `terms`; those in `holes` cannot be read.
fn impaired(terms: &[Term], holes: &[Index]) -> Bench {
    let entries = terms.iter().map(|term| normal(*term)).collect();
    let membership = members(&[1, 2, 3], &[]);
    let holes = holes.to_vec();
    Bench::restored(2, Restored { term: 1, membership, entries, holes, ..Restored::default() })
}

/// Node 2, in term 1, with entries of `terms`, and perhaps others before its end was cut off.
fn distrusted(terms: &[Term]) -> Bench {
    let entries = terms.iter().map(|term| normal(*term)).collect();
    let membership = members(&[1, 2, 3], &[]);
    let distrusted = Some(NONCE);
    Bench::restored(2, Restored { term: 1, membership, entries, distrusted, ..Restored::default() })
}

fn grants(outputs: &[Output], to: NodeId) -> bool {
    let grant = |body: &Body| {
        matches!(body, Body::VoteReply { granted: true } | Body::PreVoteReply { granted: true })
    };
    sent(outputs, to).iter().any(|message| grant(&message.body))
}

fn vote(last: Position) -> Body {
    Body::Vote { last, transfer: false }
}

fn acknowledged(outputs: &[Output]) -> Vec<Index> {
    let matched = |message: Message| match message.body {
        Body::Appended { matched, .. } => Some(matched),
        _ => None,
    };
    sent(outputs, 1).into_iter().filter_map(matched).collect()
}

fn matched(bench: &Bench, peer: NodeId) -> Index {
    bench.raft.progress().find(|(id, _)| *id == peer).expect("a peer").1.matched
}

#[test]
fn neither_an_impaired_nor_a_distrusted_node_votes_or_stands() {
    for mut bench in [impaired(&[1, 1], &[1]), distrusted(&[1, 1])] {
        assert_eq!(bench.raft.next_deadline_us(), u64::MAX, "there is nothing to stand for");
        bench.now_us = 10 * TIMEOUT_US;
        bench.give(Input::Tick);
        assert_eq!(bench.raft.role(), Role::Follower);
        assert!(!grants(&bench.hear(3, 2, Body::PreVote { last: at(9, 1) }), 3));
        bench.hear(3, 2, vote(at(9, 1)));
        assert!(!grants(&bench.persist(), 3));
        assert_eq!((bench.raft.term(), bench.raft.vote()), (2, None), "a term that others have entered");
        bench.append(1, 3, at(2, 1), &[]);
        bench.give(Input::PeerUnreachable { peer: 1 });
        assert_eq!(bench.raft.next_deadline_us(), u64::MAX, "not in haste either");
        bench.give(Input::PeerReachable { peer: 1 });
        bench.hear(1, 3, Body::TimeoutNow);
        bench.give(Input::Tick);
        assert_eq!(bench.raft.role(), Role::Follower, "not even sent by the leader");
    }
}

#[test]
fn a_sole_voter_with_a_hole_does_not_stand() {
    let restored = Restored {
        term: 1,
        membership: members(&[1], &[]),
        entries: vec![normal(1)],
        holes: vec![1],
        ..Restored::default()
    };
    assert_eq!(Bench::restored(1, restored).raft.next_deadline_us(), u64::MAX);
}

#[test]
fn a_healed_node_votes_and_stands_after_a_new_timeout() {
    let mut bench = impaired(&[1, 1], &[1]);
    bench.now_us = 10 * TIMEOUT_US;
    bench.give(Input::Impaired { holes: Vec::new() });
    let deadline_us = bench.raft.next_deadline_us();
    assert!((11 * TIMEOUT_US..12 * TIMEOUT_US).contains(&deadline_us), "{deadline_us}");
    assert!(grants(&bench.hear(3, 2, Body::PreVote { last: at(2, 1) }), 3));
    bench.tick();
    assert_eq!(bench.raft.role(), Role::PreCandidate);
}

#[test]
fn who_stands_and_becomes_impaired_gives_up() {
    let mut bench = impaired(&[1, 1], &[]);
    bench.tick();
    bench.give(Input::Impaired { holes: vec![1] });
    assert_eq!(bench.raft.role(), Role::Follower);
    let mut bench = impaired(&[1, 1], &[]);
    bench.tick();
    bench.hear(3, 2, Body::PreVoteReply { granted: true });
    assert_eq!(bench.raft.role(), Role::Candidate);
    bench.give(Input::Impaired { holes: vec![1] });
    bench.persist();
    bench.hear(3, 2, Body::VoteReply { granted: true });
    assert_eq!(bench.raft.role(), Role::Follower);
}

#[test]
fn what_cannot_be_read_is_acknowledged_only_if_it_is_committed() {
    let mut bench = impaired(&[1, 1, 1, 1], &[1, 3]);
    let append = |bench: &mut Bench, commit| {
        let (prev, entries) = (at(4, 1), Vec::new());
        acknowledged(&bench.hear(1, 1, Body::Append { prev, entries, commit, round: 0, lease_us: 0 }))
    };
    assert_eq!(append(&mut bench, 0), [0]);
    assert_eq!(append(&mut bench, 2), [2], "entry 1 is committed, entry 3 perhaps not");
    assert_eq!(append(&mut bench, 3), [4]);
}

#[test]
fn an_acknowledgement_that_waited_for_a_hole_leaves_when_it_is_filled() {
    let mut bench = impaired(&[1, 1, 1], &[3]);
    let outputs = bench.append(1, 1, at(2, 1), &[normal(1), normal(1)]);
    assert_eq!(acknowledged(&outputs), []);
    assert_eq!(acknowledged(&bench.persist()), [], "entry 4 is durable, but entry 3 cannot be read");
    assert_eq!(acknowledged(&bench.give(Input::Impaired { holes: Vec::new() })), [4]);
}

#[test]
fn what_is_durable_already_is_acknowledged_as_soon_as_it_can_be_read() {
    let mut bench = impaired(&[1, 1, 1], &[3]);
    assert_eq!(acknowledged(&bench.append(1, 1, at(2, 1), &[normal(1)])), []);
    assert_eq!(acknowledged(&bench.give(Input::Impaired { holes: Vec::new() })), [3]);
}

#[test]
fn a_truncated_hole_is_none_any_more() {
    let mut bench = impaired(&[1, 1, 1], &[3]);
    bench.append(1, 2, at(2, 1), &[normal(2)]);
    assert_eq!(acknowledged(&bench.persist()), [3]);
    bench.now_us = 10 * TIMEOUT_US;
    assert!(grants(&bench.hear(3, 3, Body::PreVote { last: at(3, 2) }), 3));
}

#[test]
fn a_leader_does_not_count_what_it_cannot_read() {
    let mut bench = Bench::leader(&[1, 2, 3], &[]);
    bench.give(Input::Propose { bytes: vec![1, 1] });
    bench.persist();
    bench.give(Input::Impaired { holes: vec![3] });
    assert_eq!(committed(&bench.acknowledge(2, 3, 0)), Some(2));
    assert_eq!(committed(&bench.give(Input::Impaired { holes: Vec::new() })), Some(3));
}

#[test]
fn a_leader_gives_way_if_it_does_not_get_an_entry_back_that_nobody_else_may_have() {
    for (hole, leads_on) in [(1, true), (2, false)] {
        let mut bench = Bench::leader(&[1, 2, 3], &[]);
        bench.give(Input::Propose { bytes: vec![1] });
        bench.persist();
        bench.give(Input::Impaired { holes: vec![hole] });
        for period in 1..=10 {
            bench.pass_to(period * HEARTBEAT_US);
            assert_eq!(bench.raft.role(), Role::Leader, "{period} heartbeats later");
            bench.acknowledge(2, 1, 0);
            bench.give(Input::Tick);
        }
        assert_eq!(bench.raft.role() == Role::Leader, leads_on, "entry {hole}");
    }
}

#[test]
fn a_leader_whose_hole_others_commit_leads_on() {
    let mut bench = Bench::leader(&[1, 2, 3], &[]);
    bench.give(Input::Propose { bytes: vec![1] });
    bench.give(Input::Impaired { holes: vec![2] });
    bench.acknowledge(2, 2, 0);
    assert_eq!(committed(&bench.acknowledge(3, 2, 0)), Some(2));
    for period in 1..=20 {
        bench.pass_to(period * HEARTBEAT_US);
        bench.acknowledge(2, 2, 0);
        bench.give(Input::Tick);
    }
    assert_eq!(bench.raft.role(), Role::Leader);
}

#[test]
fn a_distrusted_follower_asks_to_be_counted_anew_and_takes_nothing_before() {
    let mut bench = distrusted(&[1]);
    let outputs = bench.append(1, 1, at(1, 1), &[normal(1)]);
    assert_eq!(sent(&outputs, 1), [Message { term: 1, body: Body::Forgot { nonce: NONCE } }]);
    assert_eq!((writes(&outputs), bench.raft.last()), (vec![], at(1, 1)));
    for (from, term, nonce) in [(1, 1, NONCE + 1), (3, 1, NONCE)] {
        bench.hear(from, term, Body::Remember { nonce, through: 0 });
        assert_eq!(acknowledged(&bench.append(1, 1, at(1, 1), &[])), [], "{from} {nonce}");
    }
    bench.hear(1, 1, Body::Remember { nonce: NONCE, through: 2 });
    assert_eq!(acknowledged(&bench.append(1, 1, at(1, 1), &[])), [1]);
}

#[test]
fn trust_comes_back_when_all_up_to_the_leaders_end_is_durable_and_so_is_the_write_that_says_so() {
    let mut bench = distrusted(&[1, 1]);
    bench.append(1, 1, at(1, 1), &[]);
    bench.hear(1, 1, Body::Remember { nonce: NONCE, through: 3 });
    assert_eq!(writes(&bench.append(1, 1, at(2, 1), &[])), [], "durable up to 2");
    bench.append(1, 1, at(2, 1), &[normal(1)]);
    let outputs = bench.persist();
    let write = writes(&outputs).pop().expect("a write");
    assert!(write.regain_trust && write.append.is_none(), "{write:?}");
    assert_eq!(acknowledged(&outputs), [3]);
    bench.now_us = 10 * TIMEOUT_US;
    assert!(!bench.raft.is_trusted());
    assert!(!grants(&bench.hear(3, 2, Body::PreVote { last: at(9, 1) }), 3), "a crash would undo it");
    assert_eq!(writes(&bench.persist()), []);
    assert!(bench.raft.is_trusted());
    assert!(grants(&bench.hear(3, 2, Body::PreVote { last: at(9, 1) }), 3));
    assert!(bench.raft.next_deadline_us() > bench.now_us, "it stands after a new timeout");
}

#[test]
fn an_older_write_does_not_bring_trust_back() {
    let mut bench = distrusted(&[1, 1]);
    bench.append(1, 1, at(2, 1), &[]);
    bench.hear(1, 1, Body::Remember { nonce: NONCE, through: 3 });
    bench.append(1, 1, at(2, 1), &[normal(1)]);
    let first = bench.write;
    bench.append(1, 1, at(3, 1), &[normal(1)]);
    let second = bench.write;
    assert!(writes(&bench.give(Input::Persisted { write: first }))[0].regain_trust);
    bench.give(Input::Persisted { write: second });
    assert!(!bench.raft.is_trusted());
    bench.give(Input::Persisted { write: second + 1 });
    assert!(bench.raft.is_trusted());
}

#[test]
fn what_is_durable_but_was_not_compared_brings_no_trust_back() {
    let mut bench = distrusted(&[1, 1, 1]);
    bench.append(1, 1, at(3, 1), &[]);
    bench.hear(1, 1, Body::Remember { nonce: NONCE, through: 3 });
    bench.append(1, 1, at(1, 1), &[]);
    assert!(!bench.raft.is_trusted() && writes(&bench.persist()).is_empty());
    assert!(writes(&bench.append(1, 1, at(3, 1), &[])).pop().is_some_and(|write| write.regain_trust));
}

#[test]
fn under_another_leader_it_begins_anew() {
    let mut bench = distrusted(&[1]);
    bench.append(1, 1, at(1, 1), &[]);
    bench.hear(1, 1, Body::Remember { nonce: NONCE, through: 2 });
    let outputs = bench.append(3, 2, at(1, 1), &[normal(2)]);
    assert!(sent(&outputs, 3).iter().any(|m| m.body == Body::Forgot { nonce: NONCE }), "{outputs:?}");
    bench.hear(1, 1, Body::Remember { nonce: NONCE, through: 1 });
    assert!(writes(&bench.append(3, 2, at(1, 1), &[])).is_empty(), "said by a leader of an older term");
    assert!(!bench.raft.is_trusted());
}

/// A leader with entries up to 4, durable on itself alone; node 2 has acknowledged 4, and 1 is committed.
fn forgotten() -> Bench {
    let mut bench = Bench::leader(&[1, 2, 3], &[]);
    bench.give(Input::Propose { bytes: vec![1, 1, 1] });
    bench.acknowledge(2, 4, 0);
    assert_eq!((matched(&bench, 2), bench.raft.commit()), (4, 1), "its own disk has not got on");
    bench
}

#[test]
fn a_peer_that_forgot_is_counted_anew() {
    let mut bench = forgotten();
    let outputs = bench.hear(2, 1, Body::Forgot { nonce: NONCE });
    assert!(sent(&outputs, 2).iter().any(|m| m.body == Body::Remember { nonce: NONCE, through: 4 }));
    assert_eq!((matched(&bench, 2), bench.raft.commit()), (0, 1));
    assert_eq!(committed(&bench.persist()), None, "on this disk alone");
    assert_eq!(committed(&bench.acknowledge(2, 4, 0)), None, "said before it forgot");
    assert_eq!(matched(&bench, 2), 0);
    assert_eq!(committed(&bench.acknowledge(2, 3, 1)), Some(3), "an answer to what was sent after that");
}

#[test]
fn one_start_of_a_peer_is_counted_anew_once() {
    let mut bench = forgotten();
    bench.hear(2, 1, Body::Forgot { nonce: NONCE });
    bench.acknowledge(2, 2, 1);
    bench.give(Input::Propose { bytes: vec![1] });
    let outputs = bench.hear(2, 1, Body::Forgot { nonce: NONCE });
    assert_eq!(sent(&outputs, 2), [Message { term: 1, body: Body::Remember { nonce: NONCE, through: 4 } }]);
    assert_eq!(matched(&bench, 2), 2);
    let outputs = bench.hear(2, 1, Body::Forgot { nonce: NONCE + 1 });
    let answer = Body::Remember { nonce: NONCE + 1, through: 5 };
    assert!(sent(&outputs, 2).iter().any(|message| message.body == answer), "{outputs:?}");
    assert_eq!(matched(&bench, 2), 0);
    assert_eq!(committed(&bench.acknowledge(2, 4, 1)), None, "an answer of the start before");
}

#[test]
fn commits_do_not_fall_when_a_peer_forgets() {
    let mut bench = forgotten();
    bench.persist();
    assert_eq!(bench.raft.commit(), 4);
    bench.hear(2, 1, Body::Forgot { nonce: NONCE });
    assert_eq!(bench.raft.commit(), 4);
    bench.acknowledge(2, 1, 1);
    assert_eq!(bench.raft.commit(), 4);
    bench.give(Input::Propose { bytes: vec![1] });
    assert_eq!(committed(&bench.persist()), None);
    assert_eq!(committed(&bench.acknowledge(3, 5, 0)), Some(5), "the others' word is what it was");
}

#[test]
fn a_read_under_way_is_confirmed_all_the_same() {
    let mut bench = forgotten();
    bench.give(Input::Read { id: 1 });
    bench.hear(2, 1, Body::Forgot { nonce: NONCE });
    assert!(!bench.acknowledge(3, 1, 1).iter().any(|o| matches!(o, Output::ReadReady { .. })));
    let outputs = bench.acknowledge(3, 1, 2);
    assert!(outputs.contains(&Output::ReadReady { id: 1, index: 1 }), "{outputs:?}");
}

#[test]
fn a_stranger_that_forgot_and_a_follower_that_is_asked_are_silent() {
    let mut bench = forgotten();
    assert_eq!(bench.hear(9, 1, Body::Forgot { nonce: NONCE }), []);
    let mut bench = impaired(&[1], &[]);
    assert_eq!(bench.hear(3, 1, Body::Forgot { nonce: NONCE }), []);
    assert_eq!(bench.hear(3, 1, Body::Remember { nonce: NONCE, through: 1 }), []);
}

/// A peer whose log is shorter than it said, and that does not say why (a directory put back from a backup).
#[test]
fn a_refusal_of_what_a_peer_has_acknowledged_is_no_news_and_no_loop() {
    let mut bench = forgotten();
    for _ in 0..3 {
        let body = Body::Refused { prev: 4, conflict: at(2, 1), last: 2, round: 0 };
        assert_eq!(bench.hear(2, 1, body), []);
    }
    assert_eq!(matched(&bench, 2), 4);
}
