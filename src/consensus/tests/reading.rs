//! Reads: rounds, and what confirms them.

use super::*;

fn ready(outputs: &[Output]) -> Option<(u64, Index)> {
    outputs.iter().find_map(|output| match output {
        Output::ReadReady { id, index } => Some((*id, *index)),
        _ => None,
    })
}

fn round(message: &Message) -> u64 {
    match message.body {
        Body::Append { round, .. } => round,
        _ => panic!("{message:?} is no Append"),
    }
}

#[test]
fn a_read_takes_a_round_that_began_after_it() {
    let mut bench = Bench::leader(&[1, 2, 3], &[]);
    let outputs = bench.give(Input::Read { id: 1 });
    assert_eq!(round(&sent(&outputs, 2)[0]), 1);
    assert_eq!(ready(&bench.acknowledge(2, 1, 0)), None, "an answer to something older");
    assert_eq!(ready(&bench.acknowledge(2, 1, 1)), Some((1, 1)));
    assert_eq!(ready(&bench.acknowledge(3, 1, 1)), None, "once");
}

#[test]
fn later_reads_share_the_next_round() {
    let mut bench = Bench::leader(&[1, 2, 3], &[]);
    bench.give(Input::Read { id: 1 });
    assert_eq!(bench.give(Input::Read { id: 2 }), []);
    assert_eq!(bench.give(Input::Read { id: 3 }), []);
    let outputs = bench.acknowledge(2, 1, 1);
    assert_eq!(ready(&outputs), Some((1, 1)));
    assert_eq!(round(&sent(&outputs, 3)[0]), 2, "the next one begins at once");
    assert_eq!(ready(&bench.acknowledge(3, 1, 1)), None);
    assert_eq!(ready(&bench.acknowledge(3, 1, 2)), Some((3, 1)));
}

#[test]
fn a_refusal_proves_leadership_as_well() {
    let mut bench = Bench::leader(&[1, 2, 3], &[]);
    bench.give(Input::Read { id: 1 });
    let refusal = Body::Refused { prev: 1, conflict: at(0, 0), last: 0, round: 1 };
    assert_eq!(ready(&bench.hear(2, 1, refusal)), Some((1, 1)));
}

#[test]
fn entries_carry_the_round() {
    let mut bench = Bench::leader(&[1, 2, 3], &[]);
    bench.give(Input::Read { id: 1 });
    let outputs = bench.give(Input::Propose { bytes: vec![1] });
    assert_eq!(round(&sent(&outputs, 2)[0]), 1);
}

#[test]
fn reads_wait_for_an_own_commit() {
    let mut bench = Bench::new(1, members(&[1, 2, 3], &[]), 1, &[1]);
    bench.elect();
    assert_eq!(bench.give(Input::Read { id: 1 }), []);
    let outputs = bench.acknowledge(2, 2, 0);
    assert_eq!(committed(&outputs), Some(2));
    assert_eq!((ready(&outputs), round(&sent(&outputs, 3)[0])), (None, 1), "now the round begins");
    assert_eq!(ready(&bench.acknowledge(3, 0, 1)), Some((1, 2)));
}

#[test]
fn a_read_sees_what_was_committed_when_it_came() {
    let mut bench = Bench::leader(&[1, 2, 3], &[]);
    bench.give(Input::Propose { bytes: vec![1] });
    bench.persist();
    bench.give(Input::Read { id: 1 });
    assert_eq!(ready(&bench.acknowledge(2, 1, 1)), Some((1, 1)), "the open proposal is no concern of it");
    bench.acknowledge(2, 2, 1);
    bench.give(Input::Read { id: 2 });
    assert_eq!(ready(&bench.acknowledge(2, 2, 2)), Some((2, 2)));
}

#[test]
fn learners_are_not_asked_and_prove_nothing() {
    let mut bench = Bench::leader(&[1, 2, 3], &[4]);
    let outputs = bench.give(Input::Read { id: 1 });
    assert!(sent(&outputs, 4).is_empty());
    assert_eq!(ready(&bench.acknowledge(4, 1, 1)), None);
}

#[test]
fn a_leader_on_its_way_out_does_not_count_itself() {
    let mut bench = Bench::leader(&[1, 2, 3], &[]);
    bench.give(Input::ProposeMembership { membership: members(&[2, 3], &[]), bytes: 9 });
    bench.give(Input::Read { id: 1 });
    assert_eq!(ready(&bench.acknowledge(2, 1, 1)), None);
    assert_eq!(ready(&bench.acknowledge(3, 1, 1)), Some((1, 1)));
}

#[test]
fn who_does_not_lead_reads_nothing() {
    let mut bench = Bench::new(1, members(&[1, 2, 3], &[]), 0, &[]);
    assert_eq!(bench.give(Input::Read { id: 1 }), [Output::ReadFailed { id: 1 }]);
}
