//! A leader: commits, its quorum, membership, transfer.

use super::*;

fn refused(reason: Refusal) -> [Output; 1] {
    [Output::ProposalRefused { reason }]
}

#[test]
fn a_term_begins_with_a_no_op_sent_to_all() {
    let mut bench = Bench::new(1, members(&[1, 2, 3], &[4]), 1, &[1]);
    let outputs = bench.elect();
    let no_op = EntryMeta { term: 2, kind: EntryKind::NoOp, bytes: 0 };
    let append = Append { first: 2, entries: vec![no_op.clone()], source: Source::NoOp };
    assert_eq!(writes(&outputs)[0].append, Some(append));
    let message = Message {
        term: 2,
        body: Body::Append { prev: at(1, 1), entries: vec![no_op], commit: 0, round: 0, lease_us: 0 },
    };
    for peer in 2..=4 {
        assert_eq!(sent(&outputs, peer), std::slice::from_ref(&message));
    }
    assert!(!bench.raft.own_term_committed());
}

#[test]
fn entries_go_to_the_disk_and_to_the_peers_at_once() {
    let mut bench = Bench::leader(&[1, 2, 3], &[]);
    let outputs = bench.give(Input::Propose { bytes: vec![10, 10] });
    assert!(
        matches!(&outputs[0], Output::Persist(write) if write.append.as_ref().is_some_and(|a| a.first == 2))
    );
    assert_eq!(outputs.len(), 3);
    assert_eq!(bench.give(Input::Propose { bytes: vec![] }), []);
}

#[test]
fn a_majority_commits_with_or_without_the_own_disk() {
    let mut bench = Bench::leader(&[1, 2, 3], &[]);
    bench.give(Input::Propose { bytes: vec![10] });
    assert_eq!(committed(&bench.acknowledge(2, 2, 0)), None, "one of three");
    assert_eq!(committed(&bench.persist()), Some(2), "and the own disk");
    bench.give(Input::Propose { bytes: vec![10] });
    bench.acknowledge(2, 3, 0);
    assert_eq!(committed(&bench.acknowledge(3, 3, 0)), Some(3), "two others, before the own disk");
    assert_eq!(bench.raft.durable(), 2);
    assert_eq!(committed(&bench.persist()), None);
}

#[test]
fn one_own_disk_is_no_majority() {
    let mut bench = Bench::leader(&[1, 2, 3], &[]);
    bench.give(Input::Propose { bytes: vec![10] });
    assert_eq!(committed(&bench.persist()), None);
    let mut bench = Bench::leader(&[1, 2, 3, 4], &[]);
    bench.give(Input::Propose { bytes: vec![10] });
    bench.persist();
    assert_eq!(committed(&bench.acknowledge(2, 2, 0)), None, "two of four");
    assert_eq!(committed(&bench.acknowledge(3, 2, 0)), Some(2));
}

#[test]
fn older_terms_commit_only_with_the_own() {
    let mut bench = Bench::new(1, members(&[1, 2, 3], &[]), 1, &[1, 1]);
    bench.elect();
    assert_eq!(committed(&bench.acknowledge(2, 2, 0)), None, "all of term 1, on a majority");
    assert_eq!(committed(&bench.acknowledge(2, 3, 0)), Some(3));
}

#[test]
fn learners_and_strangers_do_not_count() {
    let mut bench = Bench::leader(&[1, 2, 3], &[4, 5]);
    bench.give(Input::Propose { bytes: vec![10] });
    bench.persist();
    for id in [4, 5, 9] {
        assert_eq!(committed(&bench.acknowledge(id, 2, 0)), None);
    }
    bench.pass_to(TIMEOUT_US);
    bench.acknowledge(4, 2, 0);
    assert_eq!(bench.raft.role(), Role::Follower, "nor do they keep a leader in office");
}

#[test]
fn answers_of_an_older_term_prove_nothing() {
    let mut bench = Bench::new(1, members(&[1, 2, 3], &[]), 4, &[1, 1, 1]);
    bench.elect();
    bench.give(Input::Read { id: 1 });
    assert_eq!(bench.hear(2, 3, Body::Appended { matched: 4, round: 0 }), []);
    assert_eq!(bench.hear(2, 3, Body::Refused { prev: 3, conflict: at(0, 0), last: 0, round: 0 }), []);
    assert_eq!(bench.raft.commit(), 0);
}

#[test]
fn an_answer_beyond_the_log_is_nonsense() {
    let mut bench = Bench::leader(&[1, 2, 3], &[]);
    assert_eq!(bench.acknowledge(2, 99, 0), []);
    assert_eq!(bench.acknowledge(2, 1, 99), []);
    assert_eq!(bench.raft.commit(), 1);
}

#[test]
fn a_leader_without_its_quorum_steps_down_before_anything_else() {
    let inputs = [
        Input::Tick,
        Input::Propose { bytes: vec![1] },
        Input::Persisted { write: 1 },
        Input::Read { id: 9 },
        Input::PeerReachable { peer: 2 },
    ];
    for input in inputs {
        let mut bench = Bench::leader(&[1, 2, 3], &[]);
        bench.give(Input::Read { id: 3 });
        bench.pass_to(TIMEOUT_US / 2);
        bench.acknowledge(2, 1, 0);
        bench.pass_to(TIMEOUT_US);
        bench.give(Input::Tick);
        assert_eq!(bench.raft.role(), Role::Leader, "one was heard half a timeout ago");
        bench.pass_to(TIMEOUT_US + TIMEOUT_US / 2);
        assert!(bench.raft.next_deadline_us() <= bench.now_us);
        let outputs = bench.give(input.clone());
        assert_eq!((bench.raft.role(), bench.raft.term()), (Role::Follower, 1), "{input:?}");
        assert_eq!(outputs[0], Output::ReadFailed { id: 3 }, "{input:?}");
    }
}

#[test]
fn an_answer_after_a_long_sleep_comes_too_late() {
    let mut bench = Bench::leader(&[1, 2, 3], &[]);
    bench.give(Input::Read { id: 3 });
    bench.pass_to(10 * TIMEOUT_US);
    let outputs = bench.acknowledge(2, 1, 1);
    assert!(!outputs.iter().any(|output| matches!(output, Output::ReadReady { .. })), "{outputs:?}");
}

#[test]
fn a_later_term_ends_leadership() {
    let mut bench = Bench::leader(&[1, 2, 3], &[]);
    bench.give(Input::Read { id: 3 });
    let refusal = Body::Refused { prev: 1, conflict: at(0, 0), last: 1, round: 0 };
    let outputs = bench.hear(2, 5, refusal);
    let changed = Output::Changed { role: Role::Follower, term: 5, leader: None };
    assert_eq!((&outputs[0], outputs.last()), (&Output::ReadFailed { id: 3 }, Some(&changed)));
    assert_eq!(writes(&outputs)[0].hard_state, Some((5, None)));
    assert_eq!(bench.give(Input::Propose { bytes: vec![1] }), refused(Refusal::NotLeader));
    assert_eq!(bench.give(Input::Transfer { target: None }), refused(Refusal::NotLeader));
}

#[test]
fn memberships_change_one_at_a_time_after_an_own_commit() {
    let propose =
        |bench: &mut Bench, membership| bench.give(Input::ProposeMembership { membership, bytes: 9 });
    let mut bench = Bench::new(1, members(&[1, 2, 3], &[]), 1, &[1]);
    let next = members(&[1, 2, 3], &[4]);
    assert_eq!(propose(&mut bench, next.clone()), refused(Refusal::NotLeader));
    bench.elect();
    assert_eq!(propose(&mut bench, next.clone()), refused(Refusal::TermNotCommitted));
    bench.acknowledge(2, 2, 0);
    assert_eq!(propose(&mut bench, members(&[1], &[])), refused(Refusal::InvalidChange));
    let outputs = propose(&mut bench, next.clone());
    assert!(outputs.contains(&Output::MembershipChanged { membership: next.clone() }));
    assert_eq!(sent(&outputs, 4).len(), 1, "the new node hears at once");
    assert_eq!(propose(&mut bench, members(&[1, 2, 3], &[])), refused(Refusal::ChangeInProgress));
    bench.persist();
    bench.acknowledge(2, 3, 0);
    assert!(propose(&mut bench, members(&[1, 2, 3, 4], &[])).len() > 1);
}

#[test]
fn a_new_voter_counts_from_the_append_on() {
    let mut bench = Bench::leader(&[1, 2, 3], &[4]);
    bench.give(Input::ProposeMembership { membership: members(&[1, 2, 3, 4], &[]), bytes: 9 });
    bench.persist();
    assert_eq!(committed(&bench.acknowledge(2, 2, 0)), None, "two of four");
    assert_eq!(committed(&bench.acknowledge(4, 2, 0)), Some(2));
}

#[test]
fn a_removed_peer_hears_of_it_and_is_forgotten() {
    let mut bench = Bench::leader(&[1, 2, 3], &[]);
    bench.give(Input::ProposeMembership { membership: members(&[1, 2], &[]), bytes: 9 });
    bench.persist();
    assert_eq!(committed(&bench.acknowledge(3, 2, 0)), None, "it does not count any more");
    assert_eq!(bench.raft.progress().count(), 2);
    let outputs = bench.acknowledge(2, 2, 0);
    let goodbye = Body::Append { prev: at(2, 1), entries: vec![], commit: 2, round: 0, lease_us: 0 };
    assert_eq!(sent(&outputs, 3), [Message { term: 1, body: goodbye }]);
    assert_eq!(bench.raft.progress().map(|(id, _)| id).collect::<Vec<_>>(), [2]);
}

#[test]
fn a_leader_that_removes_itself_goes_when_the_others_have_decided() {
    let mut bench = Bench::leader(&[1, 2, 3], &[]);
    bench.give(Input::ProposeMembership { membership: members(&[2, 3], &[]), bytes: 9 });
    bench.persist();
    assert_eq!(committed(&bench.acknowledge(2, 2, 0)), None, "its own disk does not count");
    let outputs = bench.acknowledge(3, 2, 0);
    assert_eq!(committed(&outputs), Some(2));
    assert_eq!((bench.raft.role(), bench.raft.next_deadline_us()), (Role::Follower, u64::MAX));
    let told = (2..=3).filter(|id| sent(&outputs, *id).iter().any(|m| m.body == Body::TimeoutNow)).count();
    assert_eq!(told, 1, "one of them goes on at once: {outputs:?}");
}

#[test]
fn a_smaller_quorum_may_be_content_at_once() {
    let mut bench = Bench::leader(&[1, 2], &[]);
    bench.give(Input::Propose { bytes: vec![1] });
    bench.persist();
    assert_eq!(bench.raft.commit(), 1);
    bench.give(Input::ProposeMembership { membership: members(&[1], &[]), bytes: 9 });
    assert_eq!(bench.raft.commit(), 2, "what waited for node 2");
    assert_eq!(committed(&bench.persist()), Some(3));
}

#[test]
fn leadership_is_handed_to_who_has_everything() {
    let mut bench = Bench::leader(&[1, 2, 3], &[4]);
    for target in [1, 4, 9] {
        assert_eq!(bench.give(Input::Transfer { target: Some(target) }), refused(Refusal::InvalidTarget));
    }
    bench.give(Input::Propose { bytes: vec![1] });
    assert_eq!(bench.give(Input::Transfer { target: Some(3) }), [], "it lags");
    assert_eq!(bench.give(Input::Propose { bytes: vec![1] }), refused(Refusal::Transferring));
    assert_eq!(bench.give(Input::Transfer { target: Some(2) }), refused(Refusal::Transferring));
    let outputs = bench.acknowledge(2, 2, 0);
    assert!(sent(&outputs, 2).is_empty());
    let outputs = bench.acknowledge(3, 2, 0);
    assert_eq!(sent(&outputs, 3), [Message { term: 1, body: Body::TimeoutNow }]);
}

#[test]
fn a_transfer_goes_to_the_most_advanced_and_is_given_up_in_time() {
    let mut bench = Bench::leader(&[1, 2, 3], &[]);
    bench.give(Input::Propose { bytes: vec![1] });
    bench.acknowledge(3, 2, 0);
    let outputs = bench.give(Input::Transfer { target: None });
    assert_eq!(sent(&outputs, 3).len(), 1);
    bench.pass_to(TIMEOUT_US - 1);
    bench.acknowledge(2, 2, 0);
    let outputs = bench.give(Input::Tick);
    assert!(sent(&outputs, 3).iter().any(|m| m.body == Body::TimeoutNow), "told again with each heartbeat");
    bench.pass_to(TIMEOUT_US);
    assert!(bench.give(Input::Tick).contains(&Output::TransferFailed));
    assert!(bench.give(Input::Propose { bytes: vec![1] }).len() > 1, "it leads on");
}

#[test]
fn a_transfer_to_a_process_that_is_gone_is_given_up_at_once() {
    let mut bench = Bench::leader(&[1, 2, 3], &[]);
    bench.give(Input::Transfer { target: Some(3) });
    assert!(
        !bench.give(Input::PeerUnreachable { peer: 2 }).contains(&Output::TransferFailed),
        "not the target"
    );
    assert!(bench.give(Input::PeerUnreachable { peer: 3 }).contains(&Output::TransferFailed));
    assert_eq!(writes(&bench.give(Input::Propose { bytes: vec![1] })).len(), 1, "it leads on");
    let reachable: Vec<bool> = bench.raft.progress().map(|(_, progress)| progress.reachable).collect();
    assert_eq!(reachable, [false, false]);
}

#[test]
fn a_target_that_declines_ends_the_transfer() {
    let mut bench = Bench::leader(&[1, 2, 3], &[]);
    bench.give(Input::Transfer { target: Some(3) });
    assert_eq!(bench.hear(2, 1, Body::VoteReply { granted: false }), [], "not the target");
    assert_eq!(bench.hear(3, 1, Body::VoteReply { granted: false }), [Output::TransferFailed]);
}

#[test]
fn a_leader_that_abstains_leads_on() {
    let mut bench = Bench::leader(&[1, 2, 3], &[]);
    assert_eq!(bench.give(Input::Abstain { abstain: true }), []);
    assert!(bench.give(Input::Propose { bytes: vec![1] }).len() > 1);
    assert!(bench.raft.next_deadline_us() < u64::MAX, "and sends heartbeats");
}

#[test]
fn new_timeouts_take_effect() {
    let mut bench = Bench::leader(&[1, 2, 3], &[]);
    let faster = Settings { id: 9, heartbeat_us: 10, election_timeout_us: 50, ..settings(9) };
    bench.give(Input::Reconfigure { settings: faster });
    bench.give(Input::Tick);
    assert_eq!(bench.raft.next_deadline_us(), bench.now_us + 10);
    bench.pass_to(50);
    bench.give(Input::Tick);
    assert_eq!((bench.raft.role(), bench.raft.is_voter()), (Role::Follower, true), "the id has stayed");
    assert!((50..100).contains(&(bench.raft.next_deadline_us() - bench.now_us)));
}
