//! Following: what the local Redis is fed, and when it goes on with the dataset that it has.

use super::{effects, members, membership_entry, stream, Driven, Fed, OFFSET, REPLID};
use crate::consensus::Body;
use crate::consensus::{Message, Position};
use crate::node::bridge::ToMain;
use crate::node::wire;
use bytes::Bytes;

/// Follows node 2; entry 1 was fed.
fn follower() -> Driven {
    let mut node = Driven::start(&[1, 2, 3]);
    node.connect_feed();
    node.append(2, 2, (1, 1), &[], 1);
    node.persist();
    after_a_pause(&mut node);
    assert!(node.fed_text().ends_with("RAFT.APPLIED\r\n$1\r\n1\r\n"));
    node
}

/// Lets the pause between two chunks pass.
fn after_a_pause(node: &mut Driven) {
    node.world.now_us += 3_000;
    node.turn();
}

#[test]
fn only_committed_entries_are_fed() {
    let mut node = follower();
    let entries = [effects(2, 2, "SET a 1"), effects(3, 2, "SET b 2"), effects(4, 2, "SET c 3")];
    node.append(2, 2, (1, 1), &entries, 3);
    node.persist();
    after_a_pause(&mut node);
    let fed = node.fed_text();
    assert!(fed.contains("\r\nb\r\n") && fed.ends_with("RAFT.APPLIED\r\n$1\r\n3\r\n"), "{fed}");
    assert!(!fed.contains("\r\nc\r\n"), "entry 4 is not committed: {fed}");
    node.append(2, 2, (4, 2), &[], 4);
    after_a_pause(&mut node);
    let fed = node.fed_text();
    assert!(fed.starts_with("*4\r\n$5\r\ntoken\r\n$3\r\nSET\r\n$1\r\nc\r\n"), "{fed}");
}

#[test]
fn a_feed_that_the_kernel_does_not_take_waits_in_the_log() {
    let mut node = follower();
    node.world.unsent = 1 << 20;
    node.append(2, 2, (1, 1), &[effects(2, 2, "SET a 1")], 2);
    node.persist();
    after_a_pause(&mut node);
    node.turn(); // publishes what changed, so that nothing else is due
    assert_eq!(node.fed_text(), "");
    let (deadline_us, now_us) = (node.node.deadline_us(), node.world.now_us);
    assert!(deadline_us > now_us, "the socket will say when it goes on; until then the thread sleeps");
    node.world.unsent = 0;
    after_a_pause(&mut node);
    assert!(node.fed_text().contains("token"));
}

#[test]
fn a_cut_feed_goes_on_at_the_byte_that_redis_names_and_else_begins_again() {
    let mut node = follower();
    node.append(2, 2, (1, 1), &[effects(2, 2, "SET a 1")], 2);
    node.persist();
    after_a_pause(&mut node);
    node.node.on_feed_lost();
    let id = format!("{0:08x}{0:032x}", 1);
    let first = stream(&["RAFT.APPLIED 1"]).len() as u64;
    let fed = node.psync(&id, first + 1);
    assert_eq!(fed[0], Fed::Continue(id));
    assert!(matches!(&fed[1], Fed::Bytes(bytes) if bytes.starts_with(b"*4\r\n$5\r\ntoken")), "{fed:?}");
    let fed = node.psync(REPLID, first + 1);
    assert!(matches!(fed[0], Fed::FullResync(_, 0)), "another stream: {fed:?}");
    assert!(matches!(&fed[1], Fed::Bytes(bytes) if bytes.len() > 60), "all of the log again: {fed:?}");
}

#[test]
fn a_message_that_was_damaged_on_the_way_is_dropped() {
    let mut node = follower();
    let entries = [effects(2, 2, "SET a 1")];
    let metas = entries.iter().map(|entry| wire::meta(entry).unwrap()).collect();
    let body = Body::Append {
        prev: Position { index: 1, term: 1 },
        entries: metas,
        commit: 2,
        round: 1,
        lease_us: 0,
    };
    let frame = wire::encode(&Message { term: 2, body }, &entries);
    let mut payload = frame.payloads.concat();
    payload[20] ^= 1;
    node.node.on_peer_frame(&mut node.world, 2, frame.kind, &frame.header, &Bytes::from(payload)).unwrap();
    node.turn();
    assert_eq!((node.world.last_index(), node.node.reports.bad_frames), (1, 1));
}

#[test]
fn a_leader_whose_effects_are_all_in_the_log_goes_on_with_its_dataset() {
    let mut leader = Driven::leader_of_three();
    leader.depose();
    assert_eq!(leader.told(), [ToMain::Demote { epoch: 1 }]);
    leader.turn();
    assert_eq!((leader.told(), leader.world.capture_stops), (vec![], 0), "the last mark is awaited");
    leader.final_mark(1);
    assert_eq!((leader.told(), leader.world.capture_stops), (vec![ToMain::Follow { port: 7777 }], 1));
    let end = OFFSET + stream(&["RAFT.MARK 1 18446744073709551615"]).len() as u64;
    leader.append(2, 3, (2, 2), &[effects(3, 3, "SET n 1")], 3);
    let fed = leader.psync(REPLID, end + 1);
    assert!(matches!(fed[0], Fed::Continue(_)), "{fed:?}");
    let Fed::Bytes(bytes) = &fed[1] else { panic!("{fed:?}") };
    let text = String::from_utf8_lossy(bytes);
    assert!(text.contains("SET") && text.ends_with("APPLIED\r\n$1\r\n3\r\n"), "from entry 3 on: {text}");
}

#[test]
fn one_byte_more_or_another_stream_and_the_dataset_is_rebuilt() {
    let end = OFFSET + stream(&["RAFT.MARK 1 18446744073709551615"]).len() as u64;
    for (replid, wanted) in [(REPLID, end + 2), (REPLID, end), ("x", end + 1), ("?", 0)] {
        let mut leader = Driven::leader_of_three();
        leader.depose();
        leader.final_mark(1);
        let fed = leader.psync(replid, wanted);
        assert!(matches!(fed[0], Fed::FullResync(_, 0)), "{replid} {wanted}: {fed:?}");
    }
}

#[test]
fn effects_that_come_after_leadership_is_lost_are_rolled_back() {
    let mut leader = Driven::leader_of_three();
    leader.depose();
    leader.execute(&["SET late 1"]);
    leader.final_mark(1);
    let end = OFFSET + stream(&["SET late 1", "RAFT.MARK 1 18446744073709551615"]).len() as u64;
    let fed = leader.psync(REPLID, end + 1);
    assert!(matches!(fed[0], Fed::FullResync(_, 0)), "{fed:?}");
    assert_eq!(leader.world.last_index(), 2, "nothing was proposed");
    assert_eq!(leader.released(), 0);
}

/// Entry 3 was executed here and is in no other log: it is cut off while the stream is read to its end, or after.
#[test]
fn executed_entries_that_are_truncated_are_rolled_back() {
    for after_the_last_mark in [false, true] {
        let mut leader = Driven::leader_of_three();
        leader.execute(&["SET a 1", "RAFT.MARK 1 1"]);
        leader.persist();
        leader.depose();
        if after_the_last_mark {
            leader.final_mark(1);
        }
        leader.append(2, 3, (2, 2), &[effects(3, 3, "SET b 2")], 3);
        if !after_the_last_mark {
            leader.final_mark(1);
        }
        leader.persist();
        let marks = stream(&["SET a 1", "RAFT.MARK 1 1", "RAFT.MARK 1 18446744073709551615"]);
        let fed = leader.psync(REPLID, OFFSET + marks.len() as u64 + 1);
        assert!(matches!(fed[0], Fed::FullResync(_, 0)), "{after_the_last_mark}: {fed:?}");
        assert_eq!(leader.released(), 0);
    }
}

#[test]
fn a_feed_during_a_leadership_is_closed() {
    let mut leader = Driven::leader_of_three();
    assert_eq!(leader.psync("?", 0), [Fed::Close]);
}

#[test]
fn leadership_that_is_lost_during_the_promotion_is_drained() {
    let mut node = Driven::start(&[1, 2, 3]);
    node.connect_feed();
    node.elect();
    node.acknowledge(2);
    node.world.bridge.set_applied(2);
    node.turn();
    node.depose();
    assert_eq!(node.told(), [ToMain::Promote { epoch: 1 }, ToMain::Demote { epoch: 1 }]);
    node.node.on_promoted(&mut node.world, 1, REPLID.to_string(), OFFSET);
    node.execute(&["SET a 1"]);
    assert_eq!(node.world.last_index(), 2, "nothing is proposed");
    node.final_mark(1);
    assert_eq!(node.told(), [ToMain::Follow { port: 7777 }]);
}

#[test]
fn who_is_dialled_follows_the_log_also_when_it_is_cut() {
    let mut node = follower();
    assert_eq!(node.world.dialled, [2, 3]);
    node.append(2, 2, (1, 1), &[membership_entry(2, 2, &members(&[1, 2, 3, 4]))], 1);
    assert_eq!(node.world.dialled, [2, 3, 4]);
    node.append(3, 3, (1, 1), &[effects(2, 3, "SET a 1")], 1);
    assert_eq!(node.world.dialled, [2, 3]);
    assert_eq!(node.node.members(), &members(&[1, 2, 3]));
}
