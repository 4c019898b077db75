//! A follower: what it takes, refuses, acknowledges and commits.

use super::*;

fn follower(term: Term, terms: &[Term]) -> Bench {
    Bench::new(2, members(&[1, 2, 3], &[]), term, terms)
}

fn appended(term: Term, matched: Index, round: u64) -> Message {
    Message { term, body: Body::Appended { matched, round } }
}

#[test]
fn entries_are_acknowledged_when_they_are_durable() {
    let mut bench = follower(1, &[1]);
    let outputs = bench.append(1, 1, at(1, 1), &[normal(1), normal(1)]);
    let append =
        Append { first: 2, entries: vec![normal(1), normal(1)], source: Source::Message { skip: 0 } };
    let append = Some(append);
    let write =
        Write { id: 1, hard_state: None, promise_us: None, truncate_from: None, append, regain_trust: false };
    assert_eq!(writes(&outputs), [write]);
    assert!(sent(&outputs, 1).is_empty());
    assert_eq!((bench.raft.last(), bench.raft.durable()), (at(3, 1), 1));
    assert_eq!(sent(&bench.persist(), 1), [appended(1, 3, 0)]);
}

#[test]
fn one_write_after_the_other_is_acknowledged_though_more_are_under_way() {
    let mut bench = follower(1, &[1]);
    bench.append(1, 1, at(1, 1), &[normal(1)]);
    let first = bench.write;
    bench.append(1, 1, at(2, 1), &[normal(1)]);
    assert_eq!(sent(&bench.give(Input::Persisted { write: first }), 1), [appended(1, 2, 0)]);
    assert_eq!(sent(&bench.persist(), 1), [appended(1, 3, 0)]);
    assert_eq!(bench.persist(), [], "nothing more is owed");
}

#[test]
fn a_heartbeat_is_answered_at_once_with_what_is_durable() {
    let mut bench = follower(1, &[1]);
    bench.append(1, 1, at(1, 1), &[normal(1)]);
    let (prev, entries) = (at(2, 1), Vec::new());
    let outputs = bench.hear(1, 1, Body::Append { prev, entries, commit: 0, round: 4, lease_us: 0 });
    assert_eq!(sent(&outputs, 1), [appended(1, 1, 4)]);
    assert_eq!(sent(&bench.persist(), 1), [appended(1, 2, 4)]);
}

#[test]
fn only_what_was_compared_is_acknowledged() {
    let mut bench = follower(1, &[1, 1, 1]);
    assert_eq!(sent(&bench.append(1, 1, at(1, 1), &[]), 1), [appended(1, 1, 0)]);
}

#[test]
fn nothing_is_answered_in_a_term_that_could_be_forgotten() {
    let mut bench = follower(1, &[1]);
    let outputs = bench.append(1, 2, at(1, 1), &[]);
    assert_eq!(writes(&outputs)[0].hard_state, Some((2, None)));
    assert!(sent(&outputs, 1).is_empty());
    assert_eq!(sent(&bench.persist(), 1), [appended(2, 1, 0)]);
}

#[test]
fn an_acknowledgement_of_an_older_term_is_dropped() {
    let mut bench = follower(1, &[1]);
    bench.append(1, 1, at(1, 1), &[normal(1)]);
    bench.append(3, 2, at(1, 1), &[]);
    let outputs = bench.persist();
    assert!(sent(&outputs, 1).is_empty());
    assert_eq!(sent(&outputs, 3), [appended(2, 1, 0)], "only what the new leader compared");
}

#[test]
fn entries_already_held_are_acknowledged_and_not_written_again() {
    let mut bench = follower(1, &[1, 1, 1]);
    let outputs = bench.append(1, 1, at(1, 1), &[normal(1), normal(1)]);
    assert!(writes(&outputs).is_empty());
    assert_eq!(sent(&outputs, 1), [appended(1, 3, 0)]);
    assert_eq!(bench.raft.last(), at(3, 1));
    bench.append(1, 1, at(1, 1), &[normal(1)]);
    assert_eq!(bench.raft.last(), at(3, 1), "an old message truncates nothing");
}

#[test]
fn entries_that_differ_are_replaced_from_there_on() {
    let mut bench = follower(3, &[1, 2, 2, 2]);
    let outputs = bench.append(1, 3, at(1, 1), &[normal(2), normal(3)]);
    let append = Append { first: 3, entries: vec![normal(3)], source: Source::Message { skip: 1 } };
    assert_eq!(writes(&outputs)[0].truncate_from, Some(3));
    assert_eq!(writes(&outputs)[0].append, Some(append));
    assert_eq!((bench.raft.last(), bench.raft.durable()), (at(3, 3), 2));
    assert_eq!(sent(&bench.persist(), 1), [appended(3, 3, 0)]);
}

#[test]
fn a_gap_is_refused_with_a_hint() {
    let mut bench = follower(5, &[1, 1, 4, 4]);
    let refused =
        |prev, conflict| [Message { term: 5, body: Body::Refused { prev, conflict, last: 4, round: 0 } }];
    assert_eq!(sent(&bench.append(1, 5, at(9, 5), &[normal(5)]), 1), refused(9, at(4, 4)));
    assert_eq!(sent(&bench.append(1, 5, at(4, 3), &[]), 1), refused(4, at(2, 1)));
    assert_eq!(bench.raft.last(), at(4, 4));
}

#[test]
fn a_deposed_leader_learns_the_term() {
    let mut bench = follower(5, &[1]);
    let outputs = bench.append(1, 3, at(1, 1), &[normal(3)]);
    let (conflict, last) = (at(0, 0), 1);
    assert_eq!(
        sent(&outputs, 1),
        [Message { term: 5, body: Body::Refused { prev: 1, conflict, last, round: 0 } }]
    );
    assert_eq!((bench.raft.leader(), outputs.len()), (None, 1));
}

#[test]
fn no_more_is_committed_than_was_compared() {
    let mut bench = follower(2, &[1, 1, 1, 1]);
    let commit = |prev, entries, commit| Body::Append { prev, entries, commit, round: 0, lease_us: 0 };
    assert_eq!(committed(&bench.hear(1, 2, commit(at(2, 1), vec![], 4))), Some(2));
    assert_eq!(committed(&bench.hear(1, 2, commit(at(2, 1), vec![normal(2)], 9))), Some(3));
    assert_eq!(bench.raft.last(), at(3, 2));
    assert_eq!(committed(&bench.hear(1, 2, commit(at(3, 2), vec![], 1))), None, "an old message");
    assert_eq!(bench.raft.commit(), 3);
}

#[test]
#[should_panic(expected = "is committed")]
fn a_committed_entry_is_never_replaced() {
    let mut bench = follower(2, &[1, 1]);
    bench.hear(1, 2, Body::Append { prev: at(2, 1), entries: vec![], commit: 2, round: 0, lease_us: 0 });
    bench.append(1, 2, at(1, 1), &[normal(2)]);
}

#[test]
#[should_panic(expected = "both lead in term 2")]
fn two_leaders_in_a_term_stop_the_process() {
    let mut bench = follower(2, &[1]);
    bench.append(1, 2, at(1, 1), &[]);
    bench.append(3, 2, at(1, 1), &[]);
}

#[test]
fn a_membership_is_in_force_from_its_append_until_it_is_truncated() {
    let mut bench = follower(1, &[1]);
    let (former, next) = (members(&[1, 2, 3], &[]), members(&[1, 2, 3, 4], &[]));
    let outputs = bench.append(1, 1, at(1, 1), &[change(1, next.clone())]);
    assert!(outputs.contains(&Output::MembershipChanged { membership: next.clone() }));
    assert_eq!(bench.raft.membership(), &next);
    let outputs = bench.append(3, 2, at(1, 1), &[normal(2)]);
    assert!(outputs.contains(&Output::MembershipChanged { membership: former.clone() }));
    assert_eq!(bench.raft.membership(), &former);
}

#[test]
fn a_fresh_node_learns_all_from_the_leader() {
    let mut bench = Bench::new(4, members(&[], &[]), 0, &[]);
    let next = members(&[1], &[4]);
    bench.append(1, 3, at(0, 0), &[normal(1), change(3, next.clone())]);
    assert_eq!(sent(&bench.persist(), 1), [appended(3, 2, 0)]);
    assert_eq!(bench.raft.membership(), &next);
    assert!(!bench.raft.is_voter());
}

#[test]
fn what_lies_before_the_base_is_known_to_agree() {
    let restored =
        Restored { term: 3, base: at(5, 2), membership: members(&[1, 2, 3], &[]), ..Restored::default() };
    let mut bench = Bench::restored(2, restored);
    assert_eq!((bench.raft.commit(), bench.raft.last()), (5, at(5, 2)));
    assert_eq!(sent(&bench.append(1, 3, at(2, 1), &[normal(2)]), 1), [appended(3, 5, 0)]);
    let outputs = bench.append(1, 3, at(3, 2), &[normal(2), normal(2), normal(3)]);
    let append = Append { first: 6, entries: vec![normal(3)], source: Source::Message { skip: 2 } };
    assert_eq!(writes(&outputs)[0].append, Some(append));
    assert_eq!(sent(&bench.persist(), 1), [appended(3, 6, 0)]);
}

#[test]
fn nonsense_is_dropped() {
    let mut bench = follower(2, &[1]);
    assert_eq!(bench.append(1, 2, at(1, 2), &[normal(1)]), [], "terms fall");
    assert_eq!(bench.append(2, 9, at(0, 0), &[]), [], "from itself");
    assert_eq!(bench.append(0, 9, at(0, 0), &[]), [], "from nobody");
    assert_eq!(bench.append(1, u64::MAX, at(0, 0), &[]), [], "a term beyond reach");
    assert_eq!(bench.acknowledge(1, 7, 7), [], "it does not lead");
    assert_eq!(bench.raft.term(), 2);
}
