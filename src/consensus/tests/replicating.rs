//! Replication: the window, probing, backtracking.

use super::*;

/// Index ranges of the entries in the messages to `peer`; an empty message is (prev + 1, prev).
fn ranges(outputs: &[Output], peer: NodeId) -> Vec<(Index, Index)> {
    let range = |message: &Message| match &message.body {
        Body::Append { prev, entries, .. } => Some((prev.index + 1, prev.index + entries.len() as Index)),
        _ => None,
    };
    sent(outputs, peer).iter().filter_map(range).collect()
}

fn refuse(bench: &mut Bench, from: NodeId, prev: Index, conflict: Position) -> Vec<Output> {
    let term = bench.raft.term();
    bench.hear(from, term, Body::Refused { prev, conflict, last: conflict.index, round: 0 })
}

fn progress(bench: &Bench, peer: NodeId) -> PeerProgress {
    bench.raft.progress().find(|(id, _)| *id == peer).expect("a peer").1
}

#[test]
fn the_window_holds_messages_of_limited_size() {
    let mut bench = Bench::leader(&[1, 2, 3], &[]);
    let outputs = bench.give(Input::Propose { bytes: vec![10; 7] });
    assert_eq!(ranges(&outputs, 2), [(2, 3), (4, 5)], "20 bytes each, two under way");
    assert_eq!(progress(&bench, 2).inflight_messages, 2);
    assert!(ranges(&bench.give(Input::Propose { bytes: vec![10] }), 2).is_empty());
    assert_eq!(ranges(&bench.acknowledge(2, 3, 0), 2), [(6, 7)]);
    assert_eq!(ranges(&bench.acknowledge(2, 7, 0), 2), [(8, 9)]);
    assert!(ranges(&bench.acknowledge(2, 9, 0), 2).is_empty());
}

#[test]
fn a_large_entry_goes_alone() {
    let mut bench = Bench::leader(&[1, 2, 3], &[]);
    let outputs = bench.give(Input::Propose { bytes: vec![1, 500, 1] });
    assert_eq!(ranges(&outputs, 2), [(2, 2), (3, 3)]);
    assert_eq!(ranges(&bench.acknowledge(2, 3, 0), 2), [(4, 4)]);
}

#[test]
fn a_new_leader_probes_with_its_best_guess_one_message_at_a_time() {
    let mut bench = Bench::new(1, members(&[1, 2, 3], &[]), 1, &[1, 1]);
    assert_eq!(ranges(&bench.elect(), 2), [(3, 3)]);
    assert!(ranges(&bench.give(Input::Propose { bytes: vec![10; 9] }), 2).is_empty());
    assert_eq!(ranges(&bench.acknowledge(2, 3, 0), 2), [(4, 5), (6, 7)], "it agrees: the window opens");
}

#[test]
fn refusals_go_back_by_whole_terms() {
    let mut bench = Bench::new(1, members(&[1, 2, 3], &[]), 7, &[1, 1, 1, 4, 4, 7]);
    bench.elect();
    // Node 2 has terms 1 1 3 3 3 3: of terms up to 7 all of it, and the last of ours up to term 3 is entry 3.
    assert_eq!(ranges(&refuse(&mut bench, 2, 6, at(6, 3)), 2), [(4, 5)], "prev is entry 3 of term 1");
    assert_eq!(ranges(&refuse(&mut bench, 2, 3, at(2, 1)), 2), [(3, 4)]);
    assert_eq!(ranges(&bench.acknowledge(2, 4, 0), 2), [(5, 6), (7, 7)]);
}

#[test]
fn a_short_log_is_filled_from_its_end() {
    let mut bench = Bench::new(1, members(&[1, 2, 3], &[]), 1, &[1; 50]);
    bench.elect();
    assert_eq!(ranges(&refuse(&mut bench, 2, 50, at(0, 0)), 2), [(1, 2)]);
    assert_eq!(ranges(&refuse(&mut bench, 3, 50, at(20, 1)), 3), [(21, 22)]);
}

#[test]
fn old_refusals_are_ignored() {
    let mut bench = Bench::leader(&[1, 2, 3], &[]);
    bench.give(Input::Propose { bytes: vec![10; 2] });
    bench.acknowledge(2, 3, 0);
    assert!(ranges(&refuse(&mut bench, 2, 1, at(0, 0)), 2).is_empty(), "it has acknowledged 3 since");
    assert!(ranges(&refuse(&mut bench, 2, 77, at(0, 0)), 2).is_empty(), "never sent");
    assert_eq!(progress(&bench, 2).matched, 3);
    bench.give(Input::Propose { bytes: vec![10; 3] });
    assert_eq!(ranges(&refuse(&mut bench, 2, 5, at(0, 0)), 2), [(4, 5)], "not before what was acknowledged");
    assert!(ranges(&refuse(&mut bench, 2, 5, at(0, 0)), 2).is_empty(), "the same once more");
}

#[test]
fn what_is_not_acknowledged_for_some_heartbeats_is_sent_again() {
    let mut bench = Bench::leader(&[1, 2, 3], &[]);
    bench.give(Input::Propose { bytes: vec![10; 3] });
    for beat in 1..=3 {
        bench.pass_to(beat * HEARTBEAT_US);
        bench.acknowledge(3, 1, 0);
        let outputs = bench.give(Input::Tick);
        assert_eq!(ranges(&outputs, 2), [(2, 1)], "a heartbeat at what is acknowledged");
    }
    assert_eq!(progress(&bench, 2).inflight_messages, 0, "taken for lost");
    assert_eq!(ranges(&bench.acknowledge(2, 1, 0), 2), [(2, 3), (4, 4)]);
}

#[test]
fn a_lost_probe_is_repeated_with_the_heartbeat() {
    let mut bench = Bench::new(1, members(&[1, 2, 3], &[]), 1, &[1, 1]);
    bench.elect();
    bench.now_us += HEARTBEAT_US;
    assert_eq!(ranges(&bench.give(Input::Tick), 2), [(3, 2)]);
    assert_eq!(ranges(&bench.acknowledge(2, 2, 0), 2), [(3, 3)]);
}

#[test]
fn a_broken_link_pauses_a_peer_until_it_is_back() {
    let mut bench = Bench::leader(&[1, 2, 3], &[]);
    bench.give(Input::Propose { bytes: vec![10] });
    bench.give(Input::PeerUnreachable { peer: 2 });
    assert!(ranges(&bench.give(Input::Propose { bytes: vec![10] }), 2).is_empty());
    let outputs = bench.give(Input::PeerReachable { peer: 2 });
    assert_eq!(ranges(&outputs, 2), [(2, 1), (2, 3)], "from what it has acknowledged");
    assert_eq!(committed(&bench.acknowledge(2, 3, 0)), None);
    assert_eq!(committed(&bench.persist()), Some(3), "commits go on as ever");
}

#[test]
fn a_learner_is_reported_when_it_may_be_promoted() {
    let mut bench = Bench::leader(&[1, 2, 3], &[4]);
    let ready = |outputs: &[Output]| outputs.contains(&Output::LearnerReady { id: 4 });
    assert!(!ready(&refuse(&mut bench, 4, 0, at(0, 0))));
    assert!(ready(&bench.acknowledge(4, 1, 0)));
    assert!(!ready(&bench.acknowledge(4, 1, 0)), "once per heartbeat");
    bench.now_us += HEARTBEAT_US;
    assert!(ready(&bench.acknowledge(4, 1, 0)), "until it is done");
    bench.now_us += HEARTBEAT_US;
    bench.give(Input::ProposeMembership { membership: members(&[1, 2, 3], &[4, 5]), bytes: 9 });
    assert!(!ready(&bench.acknowledge(4, 2, 0)), "another change is under way");
    let learner = progress(&bench, 4);
    assert!(learner.learner && learner.matched == 2 && learner.heard_us == bench.now_us);
    assert!(!progress(&bench, 2).learner);
}

#[test]
fn a_peer_before_our_base_waits_without_a_storm() {
    let restored =
        Restored { term: 2, base: at(5, 2), membership: members(&[1, 2, 3], &[]), ..Restored::default() };
    let mut bench = Bench::restored(1, restored);
    bench.elect();
    assert!(ranges(&refuse(&mut bench, 2, 5, at(0, 0)), 2).is_empty(), "there is nothing older to offer");
    bench.now_us += HEARTBEAT_US;
    assert_eq!(ranges(&bench.give(Input::Tick), 2), [(6, 5)], "asked again with each heartbeat");
}
