//! Entries that are damaged on this node's disk, and how they come back.

use super::{effects, fetch, members, membership_entry, Driven, Entry, PaperWorld};
use crate::consensus::{Body, NodeId, Position, Role};
use crate::limits::{HEAL_WINDOW_BYTES, HEAL_WINDOW_ENTRIES};
use crate::log::Kind;
use bytes::Bytes;
use fetch::Frame;

const VOTERS: [NodeId; 3] = [1, 2, 3];

fn at(index: u64, term: u64) -> Position {
    Position { index, term }
}

/// The membership and then `count` entries, all of term 1.
fn log_of(count: u64) -> Vec<Entry> {
    let mut entries = vec![membership_entry(1, 1, &members(&VOTERS))];
    entries.extend((2..=count + 1).map(|index| effects(index, 1, &format!("SET k{index} v{index}"))));
    entries
}

/// Starts with `count` entries behind the membership, of which `holes` are damaged.
fn start(count: u64, holes: &[u64]) -> Driven {
    let mut world = PaperWorld::new(log_of(count));
    holes.iter().for_each(|index| world.harm(*index));
    let mut node = Driven::start_in(world, &VOTERS, true);
    node.turn();
    node
}

impl Driven {
    /// The frames of healing since the last call, and to whom they went.
    fn fetch_frames(&mut self) -> Vec<(NodeId, Frame)> {
        let sent = std::mem::take(&mut self.world.sent);
        let (frames, others) = sent.into_iter().partition(|(_, frame)| fetch::is_kind(frame.kind));
        self.world.sent = others;
        let frames: Vec<(NodeId, super::wire::Encoded)> = frames;
        let decoded = |(to, frame): (NodeId, super::wire::Encoded)| {
            let payload = Bytes::from(frame.payloads.concat());
            (to, fetch::decode(frame.kind, &frame.header, &payload).unwrap())
        };
        frames.into_iter().map(decoded).collect()
    }

    /// What was asked for since the last call.
    fn asked(&mut self) -> Vec<(NodeId, u64)> {
        let wanted = |(to, frame): (NodeId, Frame)| match frame {
            Frame::Fetch(wanted) => Some((to, wanted.index)),
            Frame::Fetched(..) => None,
        };
        self.fetch_frames().into_iter().filter_map(wanted).collect()
    }

    fn hear_frame(&mut self, from: NodeId, frame: &Frame) {
        let frame = fetch::encode(frame);
        let payload = Bytes::from(frame.payloads.concat());
        self.node.on_peer_frame(&mut self.world, from, frame.kind, &frame.header, &payload).unwrap();
        self.turn();
    }

    /// `from` gives its copy of the entry.
    fn give(&mut self, from: NodeId, entry: Entry) {
        self.hear_frame(from, &Frame::Fetched(at(entry.index, entry.term), Some(entry)));
    }

    fn give_own(&mut self, from: NodeId, index: u64) {
        let entry = self.world.entries[index as usize - 1].clone();
        self.give(from, entry);
    }

    /// What was filled is on the disk.
    fn persist_filled(&mut self) {
        self.world.persist_filled();
        self.turn();
    }

    fn log_status(&mut self) -> crate::node::status::LogStatus {
        self.node.report_now(&mut self.world);
        self.world.bridge.status().log.clone()
    }

    /// Whether this node would vote for node 3, after a long silence.
    fn would_vote(&mut self) -> bool {
        self.world.now_us += 4_000_000;
        self.sent(3);
        let last = at(self.world.last_index() + 1, 8);
        self.receive(3, 9, Body::PreVote { last }, &[]);
        self.sent(3).iter().any(|message| message.body == Body::PreVoteReply { granted: true })
    }
}

#[test]
fn lost_entries_come_back_from_any_node_without_a_leader() {
    for peer in [2, 3] {
        let mut node = start(3, &[2, 4]);
        let mut asked = node.asked();
        asked.sort_unstable();
        assert_eq!(asked.len(), 2, "each hole is asked for once: {asked:?}");
        assert!(!node.would_vote());
        node.give_own(peer, 2);
        node.give_own(peer, 4);
        node.asked();
        let status = node.log_status();
        assert_eq!((status.corrupt_entries, status.repaired_entries), (2, 0), "not on the disk yet");
        assert_eq!(status.first_hole, "1.log,8192,2");
        assert!(!node.would_vote(), "not on the disk yet");
        node.persist_filled();
        let status = node.log_status();
        assert_eq!((status.corrupt_entries, status.repaired_entries, &status.first_hole[..]), (2, 2, ""));
        assert!(node.would_vote());
        assert_eq!(node.asked(), [], "nothing is asked for twice");
    }
}

#[test]
fn what_is_healed_is_published_without_other_news() {
    let mut node = start(1, &[2]);
    let published = |node: &mut Driven| {
        node.world.now_us += 20_000;
        node.turn();
        let status = node.world.bridge.status();
        (status.log.corrupt_entries, status.log.repaired_entries, status.log.first_hole.clone())
    };
    assert_eq!(published(&mut node), (1, 0, "1.log,8192,2".into()));
    node.give_own(2, 2);
    node.persist_filled();
    assert_eq!(published(&mut node), (1, 1, String::new()));
}

#[test]
fn who_does_not_answer_or_has_not_got_it_is_passed_over() {
    let mut node = start(1, &[2]);
    let asked = node.asked();
    assert_eq!(asked.len(), 1);
    let (first, other) = (asked[0].0, 5 - asked[0].0);
    let deadline_us = node.node.deadline_us();
    assert!(deadline_us > node.world.now_us, "the thread sleeps while an answer is due");
    node.world.now_us += 600_000;
    node.turn();
    assert_eq!(node.asked(), [(other, 2)], "the first was silent");
    node.hear_frame(other, &Frame::Fetched(at(2, 1), None));
    assert_eq!(node.asked(), [], "both were asked: a pause");
    assert!(node.node.deadline_us() > node.world.now_us);
    node.hear_frame(first, &Frame::Fetched(at(99, 1), None));
    assert_eq!(node.asked(), [], "whatever else happens meanwhile");
    node.world.now_us += 1_100_000;
    node.turn();
    assert_eq!(node.asked(), [(first, 2)], "and again from the first");
    node.give_own(other, 2);
    node.persist_filled();
    assert_eq!(node.log_status().repaired_entries, 1, "an answer that comes late is as good");
}

#[test]
fn an_answer_with_another_entry_is_not_taken() {
    let mut node = start(1, &[2]);
    let (first, _) = node.asked()[0];
    node.give(first, effects(2, 1, "SET k2 forged"));
    assert_eq!(node.asked(), [(5 - first, 2)]);
    node.give(5 - first, effects(2, 2, "SET k2 v2"));
    assert_eq!(node.log_status().first_hole, "1.log,8192,2", "the same effects in another term");
    node.give_own(5 - first, 2);
    node.persist_filled();
    assert_eq!(node.log_status().first_hole, "");
}

#[test]
fn what_was_not_asked_for_changes_nothing() {
    let mut node = start(2, &[2]);
    node.asked();
    node.give(3, effects(3, 1, "SET k3 forged"));
    node.give(3, effects(99, 1, "SET k99 forged"));
    node.hear_frame(3, &Frame::Fetched(at(99, 1), None));
    assert_eq!((node.asked(), node.world.last_index()), (vec![], 3));
    assert_eq!(node.log_status().first_hole, "1.log,8192,2");
}

#[test]
fn links_that_are_down_are_not_asked_until_they_are_up() {
    let mut world = PaperWorld::new(log_of(1));
    world.harm(2);
    world.unconnected = [2, 3].into();
    let mut node = Driven::start_in(world, &VOTERS, true);
    node.turn();
    assert_eq!(node.asked(), []);
    assert!(node.node.deadline_us() > node.world.now_us, "no turning in a loop");
    node.world.unconnected.remove(&3);
    node.node.on_peer_up(&mut node.world, 3).unwrap();
    node.turn();
    assert_eq!(node.asked(), [(3, 2)]);
}

#[test]
fn only_a_window_is_asked_for_at_once() {
    let holes: Vec<u64> = (2..=100).collect();
    let mut node = start(99, &holes);
    let mut asked = node.asked();
    assert_eq!(asked.len(), HEAL_WINDOW_ENTRIES);
    let mut healed = 0;
    while let Some((peer, index)) = asked.pop() {
        node.give_own(peer, index);
        healed += 1;
        let more = node.asked();
        assert!(asked.len() + more.len() <= HEAL_WINDOW_ENTRIES, "{asked:?} {more:?}");
        asked.extend(more);
    }
    node.persist_filled();
    assert_eq!((healed, node.log_status().repaired_entries), (99, 99));
}

#[test]
fn a_large_entry_is_asked_for_alone() {
    let mut entries = log_of(0);
    for index in 2..=4 {
        let payload = Bytes::from(vec![b'x'; HEAL_WINDOW_BYTES as usize]);
        entries.push(Entry::new(index, 1, Kind::Normal, payload));
    }
    let mut world = PaperWorld::new(entries);
    (2..=4).for_each(|index| world.harm(index));
    let mut node = Driven::start_in(world, &VOTERS, true);
    node.turn();
    for index in 2..=4 {
        assert_eq!(node.asked().into_iter().map(|(_, index)| index).collect::<Vec<_>>(), [index]);
        node.give_own(2, index);
    }
}

#[test]
fn an_entry_that_is_sent_anyway_is_taken() {
    let mut node = start(2, &[3]);
    let entries = node.world.entries[1..].to_vec();
    node.append(2, 2, (1, 1), &entries, 3);
    node.persist_filled();
    assert_eq!((node.log_status().repaired_entries, node.log_status().first_hole), (1, String::new()));
}

#[test]
fn what_is_asked_for_is_given_only_if_it_is_exactly_that_and_intact() {
    let mut node = start(3, &[]);
    let answer = |node: &mut Driven, wanted| {
        node.hear_frame(3, &Frame::Fetch(wanted));
        node.turn();
        let frames = node.fetch_frames().into_iter();
        frames.filter(|(_, frame)| matches!(frame, Frame::Fetched(..))).collect::<Vec<_>>()
    };
    let entry = node.world.entries[2].clone();
    assert_eq!(answer(&mut node, at(3, 1)), [(3, Frame::Fetched(at(3, 1), Some(entry)))]);
    for other in [at(3, 2), at(5, 1), at(0, 0), at(u64::MAX, 1)] {
        assert_eq!(answer(&mut node, other), [(3, Frame::Fetched(other, None))]);
    }
    node.world.harm_unseen(3);
    assert_eq!(answer(&mut node, at(3, 1)), [(3, Frame::Fetched(at(3, 1), None))]);
    assert!(!node.would_vote(), "it has found its own damage");
}

#[test]
fn a_damaged_frame_of_healing_is_dropped_and_counted() {
    let mut node = start(1, &[2]);
    let frame = fetch::encode(&Frame::Fetched(at(2, 1), Some(node.world.entries[1].clone())));
    let mut payload = frame.payloads.concat();
    payload[3] ^= 1;
    node.node.on_peer_frame(&mut node.world, 2, frame.kind, &frame.header, &Bytes::from(payload)).unwrap();
    node.turn();
    assert_eq!((node.node.reports.bad_frames, &node.log_status().first_hole[..]), (1, "1.log,8192,2"));
}

#[test]
fn the_feed_stops_before_a_hole_and_goes_on_behind_it() {
    let mut node = start(3, &[3]);
    node.connect_feed();
    node.append(2, 2, (4, 1), &[], 4);
    node.world.now_us += 3_000;
    node.turn();
    let fed = node.fed_text();
    assert!(fed.contains("\r\nk2\r\n") && fed.ends_with("RAFT.APPLIED\r\n$1\r\n2\r\n"), "{fed}");
    node.turn();
    assert!(node.node.deadline_us() > node.world.now_us, "no turning in a loop");
    node.give_own(3, 3);
    node.world.now_us += 3_000;
    node.turn();
    let fed = node.fed_text();
    assert!(fed.contains("\r\nk3\r\n") && fed.ends_with("RAFT.APPLIED\r\n$1\r\n4\r\n"), "{fed}");
}

#[test]
fn the_feed_finds_damage() {
    let mut node = start(2, &[]);
    node.connect_feed();
    node.world.harm_unseen(2);
    node.append(2, 2, (3, 1), &[], 3);
    node.world.now_us += 3_000;
    node.turn();
    node.turn();
    assert_eq!(node.asked().len(), 1);
    assert!(!node.would_vote());
}

/// Leads with entries 3 and 4 of its own, which node 3 has not got.
fn leader_with_a_lagging_peer(damaged: u64) -> Driven {
    let mut leader = Driven::leader_of_three();
    leader.sent(3);
    leader.execute(&["SET a 1"]);
    leader.execute(&["SET b 2"]);
    leader.persist();
    leader.acknowledge(2);
    leader.sent(3);
    leader.world.harm(damaged);
    leader.turn();
    leader.turn();
    assert_eq!(leader.node.raft.role(), Role::Leader, "it leads on");
    assert_eq!(leader.asked().len(), 1);
    leader
}

/// Node 3 is back, with nothing behind entry 2; what it is sent at once.
fn appended_to_the_returning_peer(leader: &mut Driven) -> Vec<u64> {
    leader.node.on_peer_up(&mut leader.world, 3).unwrap();
    leader.turn();
    indexes(leader)
}

fn indexes(leader: &mut Driven) -> Vec<u64> {
    let mut found = Vec::new();
    for message in leader.sent(3) {
        if let Body::Append { prev, entries, .. } = message.body {
            found.extend((1..=entries.len() as u64).map(|i| prev.index + i));
        }
    }
    found
}

#[test]
fn a_leader_sends_what_lies_before_a_hole_and_the_rest_as_soon_as_it_is_back() {
    let mut leader = leader_with_a_lagging_peer(4);
    assert_eq!(appended_to_the_returning_peer(&mut leader), [3]);
    let entry = leader.world.entries[3].clone();
    leader.receive(3, 2, Body::Appended { matched: 3, round: 0 }, &[]);
    indexes(&mut leader);
    leader.give(2, entry);
    assert_eq!(indexes(&mut leader), [4]);
}

#[test]
fn a_leader_sends_nothing_at_a_hole_and_does_not_turn_in_a_loop() {
    let mut leader = leader_with_a_lagging_peer(3);
    assert_eq!(appended_to_the_returning_peer(&mut leader), []);
    for _ in 0..3 {
        leader.receive(3, 2, Body::Appended { matched: 2, round: 0 }, &[]);
    }
    assert_eq!(leader.sent(3).len(), 0, "the heartbeat's answer asks for no more");
    leader.turn();
    assert!(leader.node.deadline_us() > leader.world.now_us);
    let entry = leader.world.entries[2].clone();
    leader.give(2, entry);
    assert_eq!(indexes(&mut leader), [3, 4], "at once, not after a heartbeat");
}

#[test]
fn what_was_put_back_and_is_damaged_still_is_fetched_once_more() {
    let mut node = start(1, &[2]);
    node.asked();
    node.give_own(3, 2);
    node.world.harm(2);
    node.world.now_us += 9_000_000;
    node.turn();
    assert_eq!(node.asked(), [], "the disk may be slow");
    node.world.now_us += 1_000_000;
    assert!(node.node.deadline_us() <= node.world.now_us);
    node.turn();
    assert_eq!(node.asked().len(), 1);
}

#[test]
fn a_hole_that_is_cut_off_is_none() {
    let mut node = start(2, &[3]);
    node.asked();
    node.append(2, 2, (2, 1), &[effects(3, 2, "SET other 1")], 2);
    node.persist();
    node.turn();
    assert_eq!(node.log_status().first_hole, "");
    node.world.now_us += 5_000_000;
    assert!(node.would_vote());
    assert_eq!(node.asked(), []);
}

#[test]
fn a_record_that_is_still_in_memory_needs_no_other_node() {
    let mut node = start(2, &[]);
    node.world.harm(3);
    node.world.in_memory = true;
    node.turn();
    assert_eq!(node.asked(), []);
    node.persist_filled();
    assert_eq!(node.log_status().repaired_entries, 1);
}

#[test]
fn a_sole_voter_with_a_hole_goes_on() {
    let mut node = Driven::start(&[1]);
    node.turn();
    node.persist();
    node.connect_feed();
    node.world.bridge.set_applied(2);
    node.persist();
    node.node.on_promoted(&mut node.world, 1, super::REPLID.to_string(), super::OFFSET);
    node.execute(&["SET a 1", "RAFT.MARK 1 1"]);
    node.persist();
    node.world.harm(3);
    node.turn();
    node.execute(&["SET b 2", "RAFT.MARK 1 2"]);
    node.persist();
    assert_eq!((node.released(), node.asked()), (2, vec![]));
    assert_eq!(node.log_status().first_hole, "1.log,12288,3");
    assert!(node.node.deadline_us() > node.world.now_us);
}

#[test]
fn a_log_that_was_cut_is_trusted_when_the_leaders_log_is_held_and_that_is_written() {
    let mut node = Driven::start_in(PaperWorld::new(log_of(1)), &VOTERS, false);
    node.turn();
    assert!(node.log_status().distrusted && !node.would_vote());
    node.append(2, 2, (2, 1), &[], 2);
    let nonce = match &node.sent(2)[..] {
        [message] => match message.body {
            Body::Forgot { nonce } => nonce,
            _ => panic!("{message:?}"),
        },
        messages => panic!("{messages:?}"),
    };
    node.receive(2, 2, Body::Remember { nonce, through: 3 }, &[]);
    node.append(2, 2, (2, 1), &[effects(3, 2, "SET a 1")], 3);
    assert!(!node.world.trust_written);
    node.persist();
    assert!(node.world.trust_written && node.log_status().distrusted, "the write is under way");
    node.persist();
    assert!(!node.log_status().distrusted && node.would_vote());
}
