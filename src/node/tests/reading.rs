//! Reads on a node that does not lead: when they are put into the feed, and what a leader says about them.

use super::{effects, stream, Driven, Fed, OFFSET, REPLID};
use crate::consensus::{Body, NodeId};
use crate::node::follower_reads::{decode, encode, is_kind, Frame, Request};
use bytes::Bytes;

/// A follower of node 2 in term 1, whose local Redis holds the log up to entry 2.
fn follower() -> Driven {
    let mut driven = Driven::start(&[1, 2, 3]);
    driven.connect_feed();
    driven.append(2, 1, (1, 1), &[effects(2, 1, "SET a 1")], 2);
    driven.persist();
    driven.world.bridge.set_applied(2);
    driven.turn();
    driven.world.fed.clear();
    driven.world.sent.clear();
    driven
}

/// The frames of follower reads that `peer` was sent since the last call.
fn frames(driven: &mut Driven, peer: NodeId) -> Vec<Frame> {
    let sent = std::mem::take(&mut driven.world.sent);
    let (frames, others) = sent.into_iter().partition(|(to, frame)| *to == peer && is_kind(frame.kind));
    driven.world.sent = others;
    let frames: Vec<(NodeId, crate::node::wire::Encoded)> = frames;
    frames.into_iter().map(|(_, frame)| decode(frame.kind, &frame.header, &Bytes::new()).unwrap()).collect()
}

fn asked(driven: &mut Driven, peer: NodeId) -> Request {
    match frames(driven, peer)[..] {
        [Frame::Ask(request)] => request,
        ref other => panic!("{other:?}"),
    }
}

fn receive(driven: &mut Driven, from: NodeId, frame: &Frame) {
    let frame = encode(frame);
    driven.node.on_peer_frame(&mut driven.world, from, frame.kind, &frame.header, &Bytes::new()).unwrap();
    driven.turn();
}

fn wants(driven: &mut Driven, through: u64) {
    driven.world.bridge.want_reads(through);
    driven.turn();
}

/// What the local Redis was fed since the last call, as one text.
fn fed(driven: &mut Driven) -> String {
    let bytes = |fed: Fed| match fed {
        Fed::Bytes(bytes) => bytes,
        _ => Bytes::new(),
    };
    let all: Vec<Bytes> = std::mem::take(&mut driven.world.fed).into_iter().map(bytes).collect();
    String::from_utf8(all.concat()).unwrap()
}

fn read(through: u64) -> String {
    String::from_utf8(stream(&[&format!("RAFT.READ {through}")])).unwrap()
}

#[test]
fn reads_are_executed_behind_the_index_that_the_leader_names() {
    let mut node = follower();
    wants(&mut node, 3);
    let request = asked(&mut node, 2);
    receive(&mut node, 2, &Frame::Index { request, index: 4 });
    assert_eq!(fed(&mut node), "", "entries 3 and 4 are not here");
    node.append(2, 1, (2, 1), &[effects(3, 1, "SET b 1"), effects(4, 1, "SET c 1")], 3);
    assert!(!fed(&mut node).contains("RAFT.READ"), "entry 4 is not known to be committed");
    node.append(2, 1, (4, 1), &[], 4);
    let text = fed(&mut node);
    assert!(text.contains("RAFT.APPLIED\r\n$1\r\n4\r\n") && text.ends_with(&read(3)), "{text}");
    assert_eq!(fed(&mut node), "");
}

#[test]
fn reads_that_come_meanwhile_share_the_next_request() {
    let mut node = follower();
    wants(&mut node, 1);
    let first = asked(&mut node, 2);
    wants(&mut node, 2);
    wants(&mut node, 5);
    assert_eq!(frames(&mut node, 2), []);
    receive(&mut node, 2, &Frame::Index { request: first, index: 2 });
    assert_eq!(fed(&mut node), read(1), "2 to 5 are younger than the request");
    let second = asked(&mut node, 2);
    assert_ne!(first, second);
    receive(&mut node, 2, &Frame::Index { request: first, index: 2 });
    assert_eq!(fed(&mut node), "", "the answer to the first one, again");
    receive(&mut node, 2, &Frame::Index { request: second, index: 2 });
    assert_eq!(fed(&mut node), read(5));
}

#[test]
fn a_request_that_is_lost_is_repeated_and_goes_to_whoever_leads() {
    let mut node = follower();
    wants(&mut node, 1);
    let request = asked(&mut node, 2);
    wants(&mut node, 3);
    node.world.now_us += 100_000;
    node.turn();
    assert_eq!(frames(&mut node, 2), []);
    node.world.now_us += 100_000;
    node.turn();
    assert_eq!(asked(&mut node, 2), request);
    node.append(3, 2, (2, 1), &[], 2);
    assert_eq!((frames(&mut node, 2), asked(&mut node, 3)), (vec![], request));
    // A late answer of the former leader is as good: it confirmed itself after the reads had come.
    receive(&mut node, 2, &Frame::Index { request, index: 2 });
    assert_eq!(
        fed(&mut node),
        read(1),
        "2 and 3 are younger than the request, however often it was repeated"
    );
    assert_ne!(asked(&mut node, 3), request);
}

#[test]
fn without_a_leader_nobody_is_asked_until_there_is_one() {
    let mut node = follower();
    node.receive(3, 5, Body::VoteReply { granted: false }, &[]);
    wants(&mut node, 1);
    assert_eq!((frames(&mut node, 2), frames(&mut node, 3)), (vec![], vec![]));
    node.append(3, 5, (2, 1), &[], 2);
    asked(&mut node, 3);
}

/// The dataset comes from a leadership that left entries which are not committed: nobody may see them.
#[test]
fn nothing_is_read_while_the_dataset_is_ahead_of_what_is_committed() {
    let mut node = Driven::leader_of_three();
    node.execute(&["SET a 1", "RAFT.MARK 1 1"]);
    node.persist();
    node.append(2, 3, (3, 2), &[], 2);
    node.final_mark(1);
    let offset = node.world.captures[0].1 - 1;
    assert_eq!(offset, OFFSET);
    let end =
        OFFSET + stream(&["SET a 1", "RAFT.MARK 1 1", &format!("RAFT.MARK 1 {}", u64::MAX)]).len() as u64;
    let resumed = node.psync(REPLID, end + 1);
    assert!(matches!(resumed[0], Fed::Continue(_)), "{resumed:?}");
    node.world.fed.clear();
    wants(&mut node, 1);
    let request = asked(&mut node, 2);
    receive(&mut node, 2, &Frame::Index { request, index: 2 });
    assert!(!fed(&mut node).contains("RAFT.READ"), "entry 3 was executed here, and may be taken back");
    node.append(2, 3, (3, 2), &[], 3);
    assert!(fed(&mut node).ends_with(&read(1)));
}

#[test]
fn a_stream_that_is_replaced_gets_the_reads_again() {
    let mut node = follower();
    wants(&mut node, 1);
    let request = asked(&mut node, 2);
    receive(&mut node, 2, &Frame::Index { request, index: 2 });
    assert_eq!(fed(&mut node), read(1));
    node.node.on_feed_lost();
    node.node.on_feed_psync(&mut node.world, "?", -1);
    node.turn();
    node.turn();
    assert!(fed(&mut node).ends_with(&read(1)));
}

#[test]
fn a_leader_answers_when_it_has_confirmed_itself() {
    let mut leader = Driven::leader_of_three();
    leader.acknowledge(2);
    leader.acknowledge(3);
    let request = Request { nonce: 9, number: 4 };
    receive(&mut leader, 3, &Frame::Ask(request));
    assert_eq!(frames(&mut leader, 3), [], "nobody has confirmed it");
    receive(&mut leader, 3, &Frame::Ask(request));
    leader.acknowledge_only(2, 2);
    assert_eq!(frames(&mut leader, 3), [Frame::Index { request, index: 2 }], "once");
    let told = leader.sent(3);
    assert!(told.iter().any(|m| matches!(m.body, Body::Append { commit: 2, .. })), "{told:?}");
    // As reads of its own do, the next one needs a round of its own.
    receive(&mut leader, 3, &Frame::Ask(Request { nonce: 9, number: 5 }));
    assert_eq!(frames(&mut leader, 3), []);
}

#[test]
fn whoever_does_not_lead_answers_nothing() {
    let mut node = follower();
    receive(&mut node, 3, &Frame::Ask(Request { nonce: 9, number: 4 }));
    assert_eq!(frames(&mut node, 3), []);
    let mut leader = Driven::leader_of_three();
    receive(&mut leader, 3, &Frame::Ask(Request { nonce: 9, number: 4 }));
    leader.depose();
    assert_eq!(frames(&mut leader, 3), []);
}
