//! Snapshots as the driver makes them, loads them, sends them and takes them over.

use super::*;
use crate::consensus::Role;
use crate::node::bridge::Answer;
use crate::node::feed::EMPTY_RDB;
use crate::node::transfer::{self, Frame};
use crate::snapshot::{About, Done, Draft, Id, Job, SnapshotError};
use std::path::PathBuf;

fn about(index: u64, term: u64, rdb: &[u8]) -> About {
    About {
        id: Id { index, term, bytes: rdb.len() as u64, crc: crc32fast::hash(rdb) },
        cluster_id: "c".repeat(32),
        members: Bytes::from(members(&[1, 2, 3]).encode()),
        used_ids: vec![1, 2, 3, 9],
    }
}

impl Driven {
    fn jobs(&mut self) -> Vec<Job> {
        std::mem::take(&mut self.world.jobs)
    }

    /// The draft of the dump that the store was given to keep, if it was.
    fn kept_draft(&mut self) -> Option<Draft> {
        self.jobs().into_iter().find_map(|job| match job {
            Job::Keep { draft, .. } => Some(draft),
            _ => None,
        })
    }

    fn was_discarded(&mut self) -> bool {
        self.jobs().iter().any(|job| matches!(job, Job::Discard { .. }))
    }

    /// The server has written the dump of attempt `attempt`.
    fn saved(&mut self, attempt: u64) {
        self.node.on_snapshot_forked(attempt);
        self.node.on_snapshot_saved(&mut self.world, attempt, PathBuf::from("dump"));
        self.turn();
    }

    fn done(&mut self, done: Done) {
        self.node.on_snapshot_done(&mut self.world, done).unwrap();
        self.turn();
    }

    fn compact(&mut self, wait: bool) {
        self.node.on_compact(&mut self.world, 77, wait);
        self.turn();
    }

    fn answers(&mut self) -> Vec<Answer> {
        let answer = |message| match message {
            ToMain::Answer { ticket: 77, answer } => Some(answer),
            _ => None,
        };
        self.told().into_iter().filter_map(answer).collect()
    }

    /// A follower in term 2 that holds and was fed entries 2 and 3, both committed.
    fn fed_follower() -> Driven {
        let mut driven = Driven::start(&[1, 2, 3]);
        driven.connect_feed();
        driven.append(2, 2, (1, 1), &[effects(2, 2, "SET a 1"), effects(3, 2, "SET b 1")], 3);
        driven.persist();
        driven.world.now_us += 10_000;
        driven.turn();
        driven.world.fed.clear();
        driven.told();
        driven
    }

    fn transferred(&mut self, peer: NodeId) -> Vec<Frame> {
        let sent = std::mem::take(&mut self.world.sent);
        let frames = sent.into_iter().filter(|(to, frame)| *to == peer && transfer::is_kind(frame.kind));
        frames
            .map(|(_, f)| transfer::decode(f.kind, &f.header, &Bytes::from(f.payloads.concat())).unwrap())
            .collect()
    }

    fn hand(&mut self, from: NodeId, frame: Frame) {
        let frame = transfer::encode(&frame);
        let payload = Bytes::from(frame.payloads.concat());
        self.node.on_peer_frame(&mut self.world, from, frame.kind, &frame.header, &payload).unwrap();
        self.turn();
    }
}

#[test]
fn a_followers_dump_is_that_of_the_last_entry_that_was_fed() {
    let mut driven = Driven::fed_follower();
    driven.compact(true);
    assert!(driven.fed_text().contains("RAFT.SNAPSHOT\r\n$1\r\n1\r\n"));
    driven.append(2, 2, (3, 2), &[effects(4, 2, "SET c 1")], 4);
    driven.persist();
    driven.saved(1);
    let draft = driven.kept_draft().expect("kept at once: its entry is committed");
    assert_eq!((draft.index, draft.term), (3, 2));
    assert_eq!(draft.members, Bytes::from(members(&[1, 2, 3]).encode()));
    assert_eq!(draft.used_ids, [1, 2, 3]);
    assert!(driven.answers().is_empty(), "not durable yet");
    driven.done(Done::Kept { result: Ok(about(3, 2, b"REDIS")) });
    assert_eq!(driven.answers(), [Answer::Ok]);
    assert_eq!(
        (driven.world.purged, driven.node.raft.base().index),
        (2, 2),
        "as much as the dump is long is kept"
    );
    driven.compact(true);
    assert!(driven.fed_text().contains("RAFT.SNAPSHOT\r\n$1\r\n2\r\n"), "entry 4 is news");
}

/// Who joins while the dump is written is no member in it, and must not be taken for one that was removed.
#[test]
fn a_dump_names_the_members_and_ids_of_its_entry_and_none_of_later() {
    let mut driven = Driven::fed_follower();
    driven.compact(true);
    let joined = super::membership_entry(4, 2, &members(&[1, 2, 3, 9]));
    driven.append(2, 2, (3, 2), &[joined], 4);
    driven.persist();
    driven.saved(1);
    let draft = driven.kept_draft().expect("kept at once: its entry is committed");
    assert_eq!((draft.index, draft.members), (3, Bytes::from(members(&[1, 2, 3]).encode())));
    assert_eq!(draft.used_ids, [1, 2, 3]);
}

#[test]
fn who_asks_while_an_older_dump_is_under_way_is_answered_by_the_next_one() {
    let mut driven = Driven::fed_follower();
    driven.compact(false);
    driven.append(2, 2, (3, 2), &[effects(4, 2, "SET c 1")], 4);
    driven.persist();
    driven.told();
    driven.compact(true);
    driven.saved(1);
    driven.world.fed.clear();
    driven.done(Done::Kept { result: Ok(about(3, 2, b"REDIS")) });
    assert!(driven.answers().is_empty(), "it lacks entry 4");
    assert!(driven.fed_text().contains("RAFT.SNAPSHOT\r\n$1\r\n2\r\n"), "the next one");
    driven.saved(2);
    driven.done(Done::Kept { result: Ok(about(4, 2, b"REDIS7")) });
    assert_eq!(driven.answers(), [Answer::Ok]);
}

#[test]
fn who_waits_for_a_dump_that_the_feed_has_lost_is_answered_by_another() {
    let mut driven = Driven::fed_follower();
    driven.compact(true);
    assert!(driven.fed_text().contains("RAFT.SNAPSHOT\r\n$1\r\n1\r\n"));
    driven.node.on_feed_lost();
    driven.connect_feed();
    driven.world.now_us += 10_000;
    driven.turn();
    driven.turn();
    assert!(driven.fed_text().contains("RAFT.SNAPSHOT\r\n$1\r\n2\r\n"), "the first was never run");
    driven.saved(2);
    driven.done(Done::Kept { result: Ok(about(3, 2, b"REDIS")) });
    assert_eq!(driven.answers(), [Answer::Ok]);
}

#[test]
fn nothing_new_is_no_new_snapshot() {
    let mut driven = Driven::fed_follower();
    driven.compact(true);
    driven.saved(1);
    driven.done(Done::Kept { result: Ok(about(3, 2, b"REDIS")) });
    driven.told();
    driven.world.fed.clear();
    driven.compact(true);
    assert_eq!(driven.answers(), [Answer::Ok]);
    assert!(driven.world.fed.is_empty());
}

#[test]
fn a_failed_snapshot_is_said_and_tried_again_after_a_pause() {
    let mut driven = Driven::fed_follower();
    driven.compact(true);
    driven.node.on_snapshot_failed(&mut driven.world, 1, "no memory");
    driven.turn();
    assert!(matches!(&driven.answers()[..], [Answer::Refused(text)] if text.contains("no memory")));
    driven.world.fed.clear();
    driven.node.snapshots.grew(1 << 40);
    driven.turn();
    assert!(driven.world.fed.is_empty(), "not yet");
    let due_us = driven.node.deadline_us();
    assert!(due_us <= driven.world.now_us + 1_000_000, "it wakes up for it");
    driven.world.now_us += 1_000_000;
    driven.turn();
    assert!(driven.fed_text().contains("RAFT.SNAPSHOT\r\n$1\r\n2\r\n"));
    driven.saved(1);
    assert!(driven.was_discarded(), "what the first attempt left after all");
}

#[test]
fn a_dump_that_the_store_refuses_leaves_the_log_as_it_is() {
    let mut driven = Driven::fed_follower();
    driven.compact(true);
    driven.saved(1);
    let error = crate::snapshot::SnapshotError::Exists { index: 3, term: 2 };
    driven.done(Done::Kept { result: Err(error) });
    assert!(matches!(driven.answers()[..], [Answer::Refused(_)]));
    assert_eq!((driven.world.purged, driven.node.raft.base().index), (0, 0));
}

#[test]
fn a_log_that_has_grown_is_compacted_by_itself() {
    let mut driven = Driven::fed_follower();
    driven.node.snapshots.grew(driven.node.settings.log_max_file_bytes as usize + 1);
    driven.turn();
    assert!(driven.fed_text().contains("RAFT.SNAPSHOT"));
}

/// A leader of three whose server has forked behind the effects of entry 3.
fn forked_leader() -> Driven {
    let mut driven = Driven::leader_of_three();
    driven.compact(true);
    let file = format!("raft-{}-1.rdb", "c".repeat(32));
    assert!(driven.told().contains(&ToMain::Snapshot { epoch: 1, attempt: 1, file }));
    driven.execute(&["SET a 1", "RAFT.MARK 1 1 1", "SET b 1", "RAFT.MARK 1 2"]);
    driven
}

#[test]
fn a_leaders_dump_counts_when_its_entry_is_committed() {
    let mut driven = forked_leader();
    driven.saved(1);
    driven.persist();
    assert!(driven.kept_draft().is_none(), "not committed yet");
    driven.acknowledge(2);
    let draft = driven.kept_draft().expect("committed and durable");
    assert_eq!((draft.index, draft.term), (3, 2), "the effects behind the mark are not in it");
    assert_eq!(driven.released(), 2);
}

#[test]
fn what_a_majority_has_is_not_kept_before_it_is_durable_here() {
    let mut driven = forked_leader();
    driven.saved(1);
    driven.acknowledge(2);
    driven.acknowledge(3);
    assert_eq!(driven.node.raft.commit(), 4);
    assert!(driven.kept_draft().is_none());
    driven.persist();
    assert!(driven.kept_draft().is_some());
}

#[test]
fn a_mark_without_effects_is_the_end_of_the_log() {
    let mut driven = Driven::leader_of_three();
    driven.compact(false);
    assert_eq!(driven.answers(), [Answer::Ok]);
    driven.execute(&["RAFT.MARK 1 0 1"]);
    driven.saved(1);
    let draft = driven.kept_draft().expect("entry 2 is committed");
    assert_eq!((draft.index, draft.term), (2, 2));
}

#[test]
fn a_dump_of_an_entry_that_was_never_committed_is_thrown_away() {
    let mut driven = forked_leader();
    driven.persist();
    driven.depose();
    driven.append(2, 3, (2, 2), &[effects(3, 3, "SET x 1"), effects(4, 3, "SET y 1")], 4);
    driven.persist();
    driven.saved(1);
    let jobs = driven.jobs();
    assert!(matches!(&jobs[..], [Job::Discard { .. }]), "{jobs:?}");
}

#[test]
fn a_dump_whose_mark_was_not_read_before_leadership_was_lost_is_thrown_away() {
    let mut driven = Driven::leader_of_three();
    driven.compact(true);
    driven.told();
    driven.depose();
    let answers = driven.answers();
    assert!(matches!(&answers[..], [Answer::Refused(_)]), "told before the role changes: {answers:?}");
    driven.execute(&["RAFT.MARK 1 0 1"]);
    driven.final_mark(1);
    driven.saved(1);
    assert!(driven.was_discarded());
}

#[test]
fn a_dump_of_a_committed_entry_outlives_the_leadership() {
    let mut driven = forked_leader();
    driven.persist();
    driven.append(2, 3, (4, 2), &[], 4);
    driven.saved(1);
    assert_eq!(driven.kept_draft().map(|draft| draft.index), Some(3));
}

/// A restart from the snapshot of entry 5, behind which the log holds entry 6.
fn restarted(rdb: &[u8]) -> Driven {
    let mut world = PaperWorld::new(vec![effects(6, 2, "SET f 1")]);
    world.begins_behind = 5;
    let entries = vec![wire::meta(&effects(6, 2, "SET f 1")).unwrap()];
    let start = Start {
        id: OWN,
        cluster_id: "c".repeat(32),
        secret: vec![7; 32],
        settings: Arc::new(Settings::default()),
        seed: 1,
        hard_state: HardState { term: 2, vote: None },
        promise_us: 0,
        trusted: true,
        base: Position { index: 5, term: 2 },
        entries,
        snapshot: Some(about(5, 2, rdb)),
        members: vec![(5, members(&[1, 2, 3]))],
        address: format!("host:{}", 5000 + OWN),
        peer_address: format!("host:{}", 15000 + OWN),
        feed_token: b"token".to_vec(),
    };
    let node = Node::new(start, &mut world);
    Driven { node, world, told: Vec::new(), main_stalled: false }
}

/// True: the node said in the end that it was right.
fn read_parts(driven: &mut Driven, rdb: &[u8]) -> bool {
    while let Some(job) = driven.jobs().pop() {
        let (reader, id, offset, bytes) = match job {
            Job::Read { reader, id, offset, bytes } => (reader, id, offset, bytes),
            Job::Proven => return true,
            job => panic!("{job:?}"),
        };
        let end = (offset as usize + bytes).min(rdb.len());
        let bytes = Bytes::copy_from_slice(&rdb[offset as usize..end]);
        driven.done(Done::Read { reader, id, offset, result: Ok(bytes) });
    }
    false
}

#[test]
fn a_restart_gives_redis_the_snapshot_and_then_the_entries_behind_it() {
    let rdb = b"REDIS0010 a dataset";
    let mut driven = restarted(rdb);
    assert_eq!((driven.node.raft.commit(), driven.node.raft.membership().voters.len()), (5, 3));
    let fed = driven.psync("?", 0);
    assert!(matches!(fed[..], [Fed::FullResync(_, 0)]), "{fed:?}");
    assert_eq!(driven.world.bridge.applied(), 0, "unknown until it says so");
    assert!(read_parts(&mut driven, rdb));
    assert_eq!(driven.world.rdb, rdb);
    let text = driven.fed_text();
    assert!(
        text.contains("SELECT\r\n$1\r\n0\r\n") && text.ends_with("RAFT.APPLIED\r\n$1\r\n5\r\n"),
        "{text}"
    );
    driven.append(2, 2, (6, 2), &[], 6);
    driven.world.now_us += 10_000;
    driven.turn();
    assert!(driven.fed_text().contains("SET\r\n$1\r\nf"));
}

#[test]
fn without_a_snapshot_redis_is_given_nothing_and_all_entries() {
    let mut driven = Driven::start(&[1, 2, 3]);
    driven.psync("?", 0);
    assert_eq!(driven.world.rdb, EMPTY_RDB);
}

#[test]
fn a_snapshot_that_is_damaged_is_never_loaded_to_its_end() {
    let rdb = b"REDIS0010 a dataset";
    let mut driven = restarted(rdb);
    driven.psync("?", 0);
    let Some(Job::Read { reader, id, offset, .. }) = driven.jobs().pop() else { panic!("nothing is read") };
    let result = Ok(Bytes::from_static(b"REDIS0010 a dataseX"));
    let error = driven.node.on_snapshot_done(&mut driven.world, Done::Read { reader, id, offset, result });
    assert!(error.unwrap_err().to_string().contains("snapshot-5-2.rdb is damaged"));
    assert!(driven.world.rdb.is_empty());
}

#[test]
fn a_load_that_is_cut_begins_again_and_ignores_the_parts_of_the_first() {
    let rdb = b"REDIS0010 a dataset";
    let mut driven = restarted(rdb);
    driven.psync("?", 0);
    let Some(Job::Read { reader, id, .. }) = driven.jobs().pop() else { panic!("nothing is read") };
    driven.node.on_feed_lost();
    let fed = driven.psync("?", 0);
    assert!(matches!(fed[..], [Fed::FullResync(_, 0)]), "{fed:?}");
    driven.done(Done::Read { reader, id, offset: 0, result: Ok(Bytes::from_static(b"old")) });
    assert!(driven.world.rdb.is_empty());
    read_parts(&mut driven, rdb);
    assert_eq!(driven.world.rdb, rdb);
}

#[test]
fn a_snapshot_that_a_newer_one_replaces_before_it_is_read_is_asked_for_again() {
    let rdb = b"REDIS0010 a dataset";
    let mut driven = restarted(rdb);
    driven.psync("?", 0);
    let Some(Job::Read { reader, id, offset, .. }) = driven.jobs().pop() else { panic!("nothing is read") };
    driven.world.fed.clear();
    let result = Err(SnapshotError::Gone { index: id.index, term: id.term });
    driven.done(Done::Read { reader, id, offset, result });
    assert_eq!(driven.world.fed, [Fed::Close]);
    driven.psync("?", 0);
    read_parts(&mut driven, rdb);
    assert_eq!(driven.world.rdb, rdb);
}

#[test]
fn a_second_snapshot_may_come_before_anything_is_written_to_the_log_of_the_first() {
    let mut driven = Driven::fed_follower();
    for index in [50, 80] {
        driven.hand(2, Frame::Offer(Box::new(about(index, 2, b"REDIS0010"))));
        serve(&mut driven, 2, b"REDIS0010");
        assert_eq!(driven.world.replaced.last(), Some(&Position { index, term: 2 }));
    }
}

#[test]
fn an_id_that_only_the_snapshot_remembers_is_not_given_out_again() {
    let mut driven = restarted(b"REDIS0010");
    driven.connect_feed();
    driven.append(2, 2, (6, 2), &[], 6);
    driven.receive(2, 2, Body::TimeoutNow, &[]);
    driven.persist();
    driven.receive(2, 3, Body::VoteReply { granted: true }, &[]);
    driven.persist();
    driven.acknowledge(2);
    driven.told();
    driven.node.on_add_node(&mut driven.world, 77, 9, "host:1".to_string(), "host:2".to_string());
    let answers = driven.answers();
    assert!(matches!(&answers[..], [Answer::Refused(text)] if text.contains("used once")), "{answers:?}");
}

/// Hands the node the parts it asks of `from`, until it asks for nothing; says how many it was given.
fn serve(driven: &mut Driven, from: NodeId, rdb: &[u8]) -> usize {
    let mut given = 0;
    loop {
        let wants = driven.transferred(from);
        if wants.is_empty() {
            return given;
        }
        for want in wants {
            let Frame::Want { id, offset, bytes } = want else { panic!("{want:?}") };
            let end = (offset as usize + bytes as usize).min(rdb.len());
            let bytes = Bytes::copy_from_slice(&rdb[offset as usize..end]);
            driven.hand(from, Frame::Part { id, offset, bytes });
            given += 1;
        }
        write_parts(driven, rdb.len() as u64);
    }
}

/// The store writes what it was given.
fn write_parts(driven: &mut Driven, length: u64) {
    for job in driven.jobs() {
        if let Job::Part { id, offset, bytes } = job {
            let through = offset + bytes.len() as u64;
            driven.done(Done::Parted { id, through, result: Ok(through == length) });
        }
    }
}

#[test]
fn a_snapshot_is_asked_for_part_by_part_and_replaces_the_log() {
    let mut driven = Driven::fed_follower();
    let rdb = vec![7; 5_000_000];
    driven.hand(2, Frame::Offer(Box::new(about(50, 2, &rdb))));
    let window = driven.transferred(2);
    assert_eq!(window.len(), 32, "a window at a time");
    driven.world.sent.extend(window.iter().map(|frame| (2, transfer::encode(frame))));
    let given = serve(&mut driven, 2, &rdb);
    assert_eq!(given, rdb.len().div_ceil(65536));
    assert_eq!(driven.world.replaced, [Position { index: 50, term: 2 }]);
    let raft = &driven.node.raft;
    assert_eq!((raft.base().index, raft.last().index, raft.commit()), (50, 50, 50));
    assert!(driven.world.fed.contains(&Fed::Close), "the dataset is loaded anew");
    assert_eq!(driven.node.members_at(50), &members(&[1, 2, 3]));
    let fed = driven.psync("old", 5);
    assert!(matches!(fed[..], [Fed::FullResync(_, 0)]), "{fed:?}");
    driven.append(2, 2, (50, 2), &[effects(51, 2, "SET z 1")], 51);
    assert_eq!(driven.node.raft.last().index, 51);
}

#[test]
fn after_a_cut_it_goes_on_where_it_was_also_with_another_sender() {
    let mut driven = Driven::fed_follower();
    let rdb = vec![7; 300_000];
    let offer = || Frame::Offer(Box::new(about(50, 2, &rdb)));
    driven.hand(2, offer());
    let Some(Frame::Want { id, offset: 0, bytes }) = driven.transferred(2).into_iter().next() else {
        panic!("it asks from the start")
    };
    driven.hand(2, Frame::Part { id, offset: 0, bytes: Bytes::copy_from_slice(&rdb[..bytes as usize]) });
    write_parts(&mut driven, rdb.len() as u64);
    driven.transferred(2);
    driven.hand(2, offer());
    assert!(driven.transferred(2).is_empty(), "what was asked for may be on its way");
    driven.world.now_us += 1_000_000;
    driven.hand(3, offer());
    let wants = driven.transferred(3);
    assert!(matches!(wants[0], Frame::Want { offset: 65536, .. }), "{wants:?}");
    driven.world.sent.extend(wants.iter().map(|frame| (3, transfer::encode(frame))));
    serve(&mut driven, 3, &rdb);
    assert_eq!(driven.node.raft.base().index, 50);
}

#[test]
fn another_snapshot_is_begun_anew_when_the_first_one_has_stalled() {
    let mut driven = Driven::fed_follower();
    driven.hand(2, Frame::Offer(Box::new(about(50, 2, &[1; 100]))));
    driven.transferred(2);
    driven.hand(2, Frame::Offer(Box::new(about(60, 2, &[2; 100]))));
    assert!(driven.transferred(2).is_empty(), "the one under way is as good");
    driven.world.now_us += 1_000_000;
    driven.hand(2, Frame::Offer(Box::new(about(60, 2, &[2; 100]))));
    let wants = driven.transferred(2);
    assert!(matches!(wants[..], [Frame::Want { id: Id { index: 60, .. }, offset: 0, .. }]), "{wants:?}");
}

/// The store makes it the newest one and removes the one before: who does not look would load what is not there any more.
#[test]
fn a_snapshot_that_is_here_in_full_is_waited_for_however_slow_the_disk() {
    let mut driven = Driven::fed_follower();
    let rdb = [1; 100];
    let id = about(50, 2, &rdb).id;
    driven.hand(2, Frame::Offer(Box::new(about(50, 2, &rdb))));
    driven.hand(2, Frame::Part { id, offset: 0, bytes: Bytes::copy_from_slice(&rdb) });
    driven.transferred(2);
    driven.jobs();
    driven.world.now_us += 3_000_000;
    driven.hand(3, Frame::Offer(Box::new(about(60, 2, &[2; 100]))));
    assert!(driven.transferred(3).is_empty());
    assert!(driven.jobs().is_empty(), "no other one is begun");
    driven.done(Done::Parted { id, through: 100, result: Ok(true) });
    assert_eq!(driven.node.raft.base().index, 50);
}

#[test]
fn a_snapshot_that_is_not_needed_any_more_keeps_nobody_from_making_one() {
    let mut driven = Driven::fed_follower();
    driven.hand(2, Frame::Offer(Box::new(about(4, 2, &[1; 100]))));
    assert!(driven.node.is_installing());
    driven.append(2, 2, (3, 2), &[effects(4, 2, "SET c 1")], 4);
    assert!(!driven.node.is_installing(), "the entries came after all");
    assert!(driven.jobs().iter().any(|job| matches!(job, Job::StopReceiving)));
    driven.hand(2, Frame::Offer(Box::new(about(50, 2, &[1; 100]))));
    assert!(driven.node.is_installing());
    driven.world.now_us += 10_000_000;
    driven.turn();
    assert!(!driven.node.is_installing(), "nobody sends it");
}

#[test]
fn a_snapshot_that_the_disk_refuses_is_asked_for_again_later() {
    let mut driven = Driven::fed_follower();
    let offer = || Frame::Offer(Box::new(about(50, 2, &[1; 100])));
    driven.hand(2, offer());
    driven.transferred(2);
    let error = crate::snapshot::SnapshotError::Received { expected: 1, found: 2 };
    let id = about(50, 2, &[1; 100]).id;
    driven.done(Done::Parted { id, through: 100, result: Err(error) });
    assert_eq!(driven.node.raft.base().index, 0, "nothing was replaced");
    driven.hand(2, offer());
    assert!(driven.transferred(2).is_empty(), "not at once");
    driven.world.now_us += 1_000_000;
    driven.hand(2, offer());
    assert!(!driven.transferred(2).is_empty());
}

#[test]
fn offers_that_are_of_no_use_are_not_taken() {
    let mut driven = Driven::fed_follower();
    driven.hand(2, Frame::Offer(Box::new(about(3, 2, &[1; 100]))));
    let foreign = About { cluster_id: "x".repeat(32), ..about(50, 2, &[1; 100]) };
    driven.hand(2, Frame::Offer(Box::new(foreign)));
    let unreadable = About { members: Bytes::from_static(b"?"), ..about(50, 2, &[1; 100]) };
    driven.hand(2, Frame::Offer(Box::new(unreadable)));
    assert!(driven.transferred(2).is_empty() && driven.jobs().is_empty());
    let mut leader = Driven::leader_of_three();
    leader.hand(2, Frame::Offer(Box::new(about(50, 2, &[1; 100]))));
    assert!(leader.jobs().is_empty(), "a leader holds all that is committed");
}

#[test]
fn a_leader_offers_its_snapshot_until_the_peer_has_it_and_reads_no_more_than_a_window_for_it() {
    let mut driven = forked_leader();
    driven.saved(1);
    driven.persist();
    driven.acknowledge(2);
    let rdb = b"";
    driven.jobs();
    driven.node.on_peer_unreachable(&mut driven.world, 3).unwrap();
    driven.done(Done::Kept { result: Ok(about(3, 2, rdb)) });
    let base = driven.node.raft.base();
    assert_eq!(base.index, 3, "nothing is shorter than this dump");
    driven.receive(
        3,
        2,
        Body::Refused { prev: base.index, conflict: Position::default(), last: 0, round: 0 },
        &[],
    );
    driven.turn();
    let offers = driven.transferred(3);
    assert!(matches!(&offers[..], [Frame::Offer(offered)] if **offered == about(3, 2, rdb)), "{offers:?}");
    driven.world.now_us += 200_000;
    driven.turn();
    assert!(matches!(driven.transferred(3)[..], [Frame::Offer(_)]), "again");
    let id = about(3, 2, rdb).id;
    for _ in 0..40 {
        driven.hand(3, Frame::Want { id, offset: 0, bytes: u32::MAX });
    }
    let mut reads = driven.jobs();
    reads.retain(|job| matches!(job, Job::Read { .. }));
    assert_eq!(reads.len(), 32, "a window");
    assert!(matches!(reads[0], Job::Read { reader: 3, bytes: 65536, .. }), "{:?}", reads[0]);
    let result = Ok(Bytes::from_static(rdb));
    driven.done(Done::Read { reader: 3, id, offset: 0, result });
    assert!(matches!(driven.transferred(3)[..], [Frame::Part { offset: 0, .. }]));
    assert_eq!(
        driven.node.needed_by_peers(driven.world.now_us),
        3,
        "what follows the snapshot is kept for it"
    );
    driven.world.now_us += 11_000_000;
    driven.turn();
    assert_eq!(driven.node.needed_by_peers(driven.world.now_us), u64::MAX, "not for ever");
}

/// The damaged entry `index` is asked for and given by nobody: what was purged there is offered as a snapshot of `by`.
fn refuse_everywhere(driven: &mut Driven, index: u64, term: u64) {
    use crate::node::fetch;
    let wanted = Position { index, term };
    for _ in 0..3 {
        driven.turn();
        for peer in [2, 3] {
            let frame = fetch::encode(&fetch::Frame::Fetched(wanted, None));
            let payload = Bytes::from(frame.payloads.concat());
            driven.node.on_peer_frame(&mut driven.world, peer, frame.kind, &frame.header, &payload).unwrap();
            driven.turn();
        }
    }
}

#[test]
fn what_a_peer_that_follows_slowly_needs_is_not_purged_unless_the_log_grows_too_long() {
    let mut driven = forked_leader();
    driven.saved(1);
    driven.persist();
    driven.acknowledge(2);
    driven.done(Done::Kept { result: Ok(about(3, 2, b"")) });
    let bytes = driven.node.settings.log_max_file_bytes;
    assert!(driven.node.raft.base().index < 3, "node 3 has not acknowledged entry 3 yet");
    for _ in 0..3 {
        driven.world.now_us += 400_000;
        driven.turn();
        driven.acknowledge(2);
        driven.acknowledge(3);
    }
    assert_eq!(driven.node.raft.base().index, 3);
    let mut settings = (*driven.node.settings).clone();
    settings.log_max_file_bytes = 1;
    driven.node.settings = Arc::new(settings);
    driven.execute(&["SET c 1", "RAFT.MARK 1 3"]);
    driven.persist();
    driven.acknowledge(2);
    let now_us = driven.world.now_us;
    assert_eq!(driven.node.needed_by_peers(now_us), driven.node.raft.last().index, "node 3 is left behind");
    driven.node.settings =
        Arc::new(Settings { log_max_file_bytes: bytes, ..(*driven.node.settings).clone() });
    assert!(driven.node.needed_by_peers(now_us) < driven.node.raft.last().index);
}

#[test]
fn what_nobody_has_any_more_goes_with_a_snapshot_of_the_own_dataset_that_holds_it() {
    let mut driven = Driven::fed_follower();
    driven.world.harm(3);
    driven.turn();
    assert!(!driven.fed_text().contains("RAFT.SNAPSHOT"), "the peers are asked first");
    refuse_everywhere(&mut driven, 3, 2);
    assert!(driven.fed_text().contains("RAFT.SNAPSHOT"));
    driven.saved(1);
    driven.done(Done::Kept { result: Ok(about(3, 2, &[1; 1000])) });
    assert_eq!(driven.world.purged, 3, "also what would be kept for close followers");
    assert_eq!(driven.node.raft.base().index, 3);
    assert!(!driven.world.fed.contains(&Fed::Close), "the dataset is what it was");
}

/// Node 3 follows, and lacks an entry that is damaged here and that node 2 has purged: it can only be brought the snapshot.
#[test]
fn what_nobody_gives_is_not_kept_for_a_peer_that_needs_it() {
    let mut driven = forked_leader();
    driven.saved(1);
    driven.persist();
    driven.acknowledge(2);
    driven.done(Done::Kept { result: Ok(about(3, 2, b"")) });
    let lacked = driven.node.needed_by_peers(driven.world.now_us) + 1;
    assert!(driven.node.raft.base().index < lacked && lacked <= 3, "kept for node 3: {lacked}");
    driven.world.harm(lacked);
    driven.turn();
    assert!(driven.node.raft.base().index < lacked, "somebody may have it");
    refuse_everywhere(&mut driven, lacked, 2);
    for _ in 0..3 {
        driven.world.now_us += 400_000;
        driven.turn();
        driven.acknowledge(2);
    }
    assert_eq!((driven.node.raft.role(), driven.node.raft.base().index), (Role::Leader, lacked));
    let offers = |frames: Vec<Frame>| frames.iter().any(|frame| matches!(frame, Frame::Offer(_)));
    driven.transferred(3);
    let refused = Body::Refused { prev: lacked, conflict: Position::default(), last: lacked - 1, round: 0 };
    driven.receive(3, 2, refused, &[]);
    driven.turn();
    assert!(offers(driven.transferred(3)));
}

/// Holds entries 2 to 6, all committed, but entry 5 cannot be read: Redis was fed what is before it.
fn stuck_follower() -> Driven {
    let mut driven = Driven::fed_follower();
    let entries: Vec<Entry> = (4..=6).map(|index| effects(index, 2, "SET c 1")).collect();
    driven.append(2, 2, (3, 2), &entries, 3);
    driven.persist();
    driven.world.harm(5);
    driven.turn();
    driven.append(2, 2, (6, 2), &[], 6);
    driven.world.now_us += 10_000;
    driven.turn();
    assert_eq!(
        (driven.node.committed, driven.node.dataset_holds(4), driven.node.dataset_holds(5)),
        (6, true, false)
    );
    driven.world.fed.clear();
    driven
}

#[test]
fn what_all_peers_have_purged_comes_as_a_snapshot_and_the_entries_behind_it_stay() {
    let mut driven = stuck_follower();
    let rdb = vec![7; 100_000];
    driven.hand(3, Frame::Offer(Box::new(about(5, 2, &rdb))));
    assert!(driven.transferred(3).is_empty(), "somebody may have the entry still");
    refuse_everywhere(&mut driven, 5, 2);
    driven.hand(3, Frame::Offer(Box::new(about(4, 2, &rdb))));
    assert!(driven.transferred(3).is_empty(), "that one does not hold it");
    driven.hand(3, Frame::Offer(Box::new(about(5, 2, &rdb))));
    assert!(serve(&mut driven, 3, &rdb) > 0);
    assert!(driven.world.replaced.is_empty(), "acknowledged entries are behind it");
    assert_eq!(
        (driven.world.purged, driven.node.raft.base().index, driven.node.raft.last().index),
        (5, 5, 6)
    );
    assert!(driven.world.fed.contains(&Fed::Close), "the dataset is loaded anew");
    let fed = driven.psync("old", 5);
    assert!(matches!(fed[..], [Fed::FullResync(_, 0)]), "{fed:?}");
    read_parts(&mut driven, &rdb);
    driven.world.now_us += 10_000;
    driven.turn();
    assert!(driven.fed_text().ends_with("RAFT.APPLIED\r\n$1\r\n6\r\n"), "and entry 6 behind it");
}

#[test]
fn an_entry_that_came_back_makes_the_snapshot_needless() {
    let mut driven = stuck_follower();
    refuse_everywhere(&mut driven, 5, 2);
    driven.hand(3, Frame::Offer(Box::new(about(5, 2, &[1; 100]))));
    assert!(driven.node.is_installing());
    driven.world.heal(5);
    driven.turn();
    assert!(!driven.node.is_installing());
    assert!(driven.jobs().iter().any(|job| matches!(job, Job::StopReceiving)));
}

#[test]
fn a_peer_that_asks_for_what_was_purged_is_offered_the_snapshot() {
    let mut driven = restarted(b"REDIS0010");
    let frame = crate::node::fetch::encode(&crate::node::fetch::Frame::Fetch(Position { index: 4, term: 2 }));
    driven.node.on_peer_frame(&mut driven.world, 3, frame.kind, &frame.header, &Bytes::new()).unwrap();
    assert!(matches!(&driven.transferred(3)[..], [Frame::Offer(offered)] if offered.id.index == 5));
    let frame = crate::node::fetch::encode(&crate::node::fetch::Frame::Fetch(Position { index: 6, term: 1 }));
    driven.node.on_peer_frame(&mut driven.world, 3, frame.kind, &frame.header, &Bytes::new()).unwrap();
    assert!(driven.transferred(3).is_empty(), "not purged");
}

#[test]
fn a_dump_that_is_older_than_what_is_being_received_does_not_take_its_place() {
    let mut driven = Driven::fed_follower();
    driven.compact(false);
    let rdb = vec![7; 100];
    driven.hand(2, Frame::Offer(Box::new(about(50, 2, &rdb))));
    for want in driven.transferred(2) {
        let Frame::Want { id, offset, .. } = want else { panic!("{want:?}") };
        driven.hand(2, Frame::Part { id, offset, bytes: Bytes::copy_from_slice(&rdb) });
    }
    let parts = driven.jobs();
    driven.saved(1);
    assert!(driven.kept_draft().is_none(), "the store is at work on a newer one");
    driven.world.jobs = parts;
    write_parts(&mut driven, 100);
    assert_eq!(driven.node.snapshots.newest_index(), 50);
    driven.turn();
    assert!(driven.was_discarded());
}

#[test]
fn what_the_local_redis_must_still_be_fed_is_not_purged() {
    let mut driven = Driven::fed_follower();
    driven.compact(false);
    driven.node.on_snapshot_forked(1);
    // Redis has lost all while its child writes: it is fed from the beginning.
    driven.node.on_feed_lost();
    driven.world.unsent = 1 << 30;
    driven.psync("?", 0);
    driven.saved(1);
    assert!(driven.kept_draft().is_some());
    driven.done(Done::Kept { result: Ok(about(3, 2, b"")) });
    assert_eq!(driven.node.raft.base().index, 0);
    driven.world.unsent = 0;
    driven.world.now_us += 10_000;
    driven.turn();
    assert!(driven.fed_text().contains("RAFT.APPLIED\r\n$1\r\n3\r\n"));
    driven.world.now_us += 1_000_000;
    driven.turn();
    assert_eq!(driven.node.raft.base().index, 3, "now it is");
}

#[test]
fn a_snapshot_that_arrives_damaged_is_checked_and_another_is_made() {
    let mut driven = restarted(b"REDIS0010");
    driven.psync("?", 0);
    read_parts(&mut driven, b"REDIS0010");
    driven.append(2, 2, (6, 2), &[], 6);
    driven.world.now_us += 10_000;
    driven.turn();
    let id = about(5, 2, b"REDIS0010").id;
    let checks =
        |driven: &mut Driven| driven.jobs().iter().filter(|job| matches!(job, Job::Check { .. })).count();
    for offset in [0, 4] {
        driven.hand(3, Frame::Want { id, offset, bytes: 4 });
    }
    assert_eq!(checks(&mut driven), 0);
    driven.hand(3, Frame::Want { id, offset: 0, bytes: 4 });
    assert_eq!(checks(&mut driven), 1, "it begins anew: something was wrong with what it got");
    driven.done(Done::Checked { id, result: Ok(()) });
    driven.world.fed.clear();
    let wanted = crate::node::fetch::Frame::Fetch(Position { index: 4, term: 2 });
    let frame = crate::node::fetch::encode(&wanted);
    driven.node.on_peer_frame(&mut driven.world, 3, frame.kind, &frame.header, &Bytes::new()).unwrap();
    assert!(matches!(driven.transferred(3)[..], [Frame::Offer(_)]), "it is intact");
    let error = crate::snapshot::SnapshotError::Received { expected: 1, found: 2 };
    driven.done(Done::Checked { id, result: Err(error) });
    driven.node.on_peer_frame(&mut driven.world, 3, frame.kind, &frame.header, &Bytes::new()).unwrap();
    assert!(driven.transferred(3).is_empty(), "nobody is sent that");
    assert!(driven.fed_text().contains("RAFT.SNAPSHOT"), "another is made of entry 6");
}

#[test]
fn a_leader_with_a_damaged_snapshot_that_voters_wait_for_hands_over_what_it_cannot_commit() {
    let mut driven = Driven::leader_of(&[1, 2, 3, 4, 5]);
    driven.compact(true);
    driven.execute(&["SET a 1", "RAFT.MARK 1 1 1"]);
    driven.saved(1);
    driven.persist();
    driven.acknowledge(2);
    driven.acknowledge(3);
    for lost in [3, 4, 5] {
        driven.node.on_peer_unreachable(&mut driven.world, lost).unwrap();
    }
    let kept = about(3, 2, b"");
    driven.done(Done::Kept { result: Ok(kept.clone()) });
    let refuse = |driven: &mut Driven| {
        for waiting in [3, 4, 5] {
            let conflict = Position::default();
            driven.receive(waiting, 2, Body::Refused { prev: 3, conflict, last: 0, round: 0 }, &[]);
        }
    };
    refuse(&mut driven);
    driven.execute(&["SET b 1", "RAFT.MARK 1 2"]);
    driven.persist();
    let told_to_stand = |driven: &mut Driven| {
        (0..8).any(|_| {
            driven.world.now_us += 500_000;
            refuse(driven);
            let messages = driven.sent(2);
            for message in &messages {
                if let Body::Append { prev, entries, round, .. } = &message.body {
                    let matched = prev.index + entries.len() as u64;
                    driven.receive(2, 2, Body::Appended { matched, round: *round }, &[]);
                }
            }
            messages.iter().any(|message| message.body == Body::TimeoutNow)
        })
    };
    assert_eq!((driven.node.raft.commit(), driven.node.raft.last().index), (3, 4));
    assert!(!told_to_stand(&mut driven), "the snapshot is on its way to them");
    let error = crate::snapshot::SnapshotError::Received { expected: 1, found: 2 };
    driven.done(Done::Checked { id: kept.id, result: Err(error) });
    assert!(told_to_stand(&mut driven), "node 2 has another one, or all entries");
}
