//! The driver in a world of paper: a log in memory, links that are lists, a local Redis whose part the test plays.

mod changing;
mod following;
mod handing_over;
mod healing;
mod leading;
mod leasing;
mod reading;
mod snapshots;
mod standing_still;
mod whereabouts;
mod world;

use super::bridge::{Epoch, ToMain, FINAL_SEQUENCE};
use super::members::{Member, Members};
use super::settings::Settings;
use super::{fetch, follower_reads, notices, wire, Node, Start};
use crate::consensus::{Body, Message, NodeId, Position};
use crate::log::{Entry, HardState, Kind};
use crate::resp;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::Arc;
use world::{Fed, PaperWorld};

const OWN: NodeId = 1;
/// Offset and id of the local Redis' stream when it was made a master.
const OFFSET: u64 = 500;
const REPLID: &str = "ffffffffffffffffffffffffffffffffffffffff";

/// Node 1 of a cluster of voters, and everything around it.
struct Driven {
    node: Node,
    world: PaperWorld,
    told: Vec<ToMain>,
    /// The main thread takes no messages.
    main_stalled: bool,
}

fn members(voters: &[NodeId]) -> Members {
    let member = |id: &NodeId| Member {
        voting: true,
        address: format!("host:{}", 5000 + id),
        peer_address: format!("host:{}", 15000 + id),
        in_memory: false,
    };
    Members(voters.iter().map(|id| (*id, member(id))).collect::<BTreeMap<_, _>>())
}

fn membership_entry(index: u64, term: u64, members: &Members) -> Entry {
    Entry::new(index, term, Kind::Membership, Bytes::from(members.encode()))
}

/// RESP of the commands, one text each.
fn stream(commands: &[&str]) -> Vec<u8> {
    let mut out = Vec::new();
    for command in commands {
        resp::encode_command(&mut out, &command.split(' ').map(str::as_bytes).collect::<Vec<_>>());
    }
    out
}

fn effects(index: u64, term: u64, command: &str) -> Entry {
    Entry::new(index, term, Kind::Normal, Bytes::from(stream(&[command])))
}

impl Driven {
    /// A restart from a log that holds the membership alone, in term 1.
    fn start(voters: &[NodeId]) -> Driven {
        let first = membership_entry(1, 1, &members(voters));
        Driven::start_in(PaperWorld::new(vec![first]), voters, true)
    }

    /// A restart in this world, whose log begins with the membership.
    fn start_in(mut world: PaperWorld, voters: &[NodeId], trusted: bool) -> Driven {
        let all = members(voters);
        let start = Start {
            id: OWN,
            cluster_id: "c".repeat(32),
            secret: vec![7; 32],
            settings: Arc::new(Settings::default()),
            seed: 1,
            hard_state: HardState { term: 1, vote: None },
            promise_us: 0,
            trusted,
            base: Position::default(),
            snapshot: None,
            entries: world.entries.iter().map(|entry| wire::meta(entry).unwrap()).collect(),
            members: vec![(0, Members::default()), (1, all)],
            address: format!("host:{}", 5000 + OWN),
            peer_address: format!("host:{}", 15000 + OWN),
            feed_token: b"token".to_vec(),
        };
        let node = Node::new(start, &mut world);
        Driven { node, world, told: Vec::new(), main_stalled: false }
    }

    fn turn(&mut self) {
        self.node.turn(&mut self.world).unwrap();
        if self.node.deadline_us() <= self.world.now_us {
            self.node.turn(&mut self.world).unwrap();
            assert!(
                self.node.deadline_us() > self.world.now_us,
                "nothing is done, and the thread turns in a loop"
            );
        }
        self.take_told();
    }

    fn take_told(&mut self) {
        if !self.main_stalled {
            self.world.bridge.take_for_main(&mut self.told);
        }
        let asked = self.told.iter().position(|message| matches!(message, ToMain::Empty { .. }));
        if let Some(ToMain::Empty { load }) = asked.map(|at| self.told.remove(at)) {
            self.node.on_emptied(&mut self.world, load);
            self.turn();
        }
    }

    /// What the main thread was told since the last call, without the news of who leads.
    fn told(&mut self) -> Vec<ToMain> {
        self.take_told();
        std::mem::take(&mut self.told).into_iter().filter(|m| *m != ToMain::LeaderChanged).collect()
    }

    /// The disk has everything.
    fn persist(&mut self) {
        let write = self.world.submitted;
        self.node.on_durable(&mut self.world, write).unwrap();
        self.turn();
    }

    fn receive(&mut self, from: NodeId, term: u64, body: Body, entries: &[Entry]) {
        let frame = wire::encode(&Message { term, body }, entries);
        let payload = Bytes::from(frame.payloads.concat());
        self.node.on_peer_frame(&mut self.world, from, frame.kind, &frame.header, &payload).unwrap();
        self.turn();
    }

    /// AppendEntries from the leader `from`.
    fn append(&mut self, from: NodeId, term: u64, prev: (u64, u64), entries: &[Entry], commit: u64) {
        let metas = entries.iter().map(|entry| wire::meta(entry).unwrap()).collect();
        let prev = Position { index: prev.0, term: prev.1 };
        self.receive(
            from,
            term,
            Body::Append { prev, entries: metas, commit, round: 1, lease_us: 0 },
            entries,
        );
    }

    /// The messages to `peer` since the last call.
    fn sent(&mut self, peer: NodeId) -> Vec<Message> {
        let is_message = |frame: &wire::Encoded| {
            let kind = frame.kind;
            !fetch::is_kind(kind) && !notices::is_kind(kind) && !follower_reads::is_kind(kind)
        };
        let wanted = |(to, frame): &(NodeId, wire::Encoded)| *to == peer && is_message(frame);
        let (to_peer, others) = std::mem::take(&mut self.world.sent).into_iter().partition(wanted);
        self.world.sent = others;
        let to_peer: Vec<(NodeId, wire::Encoded)> = to_peer;
        let message = |frame: wire::Encoded| {
            wire::decode(frame.kind, &frame.header, &Bytes::from(frame.payloads.concat())).unwrap().0
        };
        to_peer.into_iter().map(|(_, frame)| message(frame)).collect()
    }

    /// `peer` answers every AppendEntries that it is sent: all of it is on its disk.
    fn acknowledge(&mut self, peer: NodeId) {
        loop {
            let messages = self.sent(peer);
            if messages.is_empty() {
                return;
            }
            for message in messages {
                if let Body::Append { prev, entries, round, .. } = message.body {
                    let matched = prev.index + entries.len() as u64;
                    self.receive(peer, message.term, Body::Appended { matched, round }, &[]);
                }
            }
        }
    }

    /// `peer` answers the last AppendEntries, but its disk has nothing after `matched`.
    fn acknowledge_only(&mut self, peer: NodeId, matched: u64) {
        let last = self.sent(peer).into_iter().rev().find_map(|message| match message.body {
            Body::Append { round, .. } => Some((message.term, round)),
            _ => None,
        });
        let (term, round) = last.expect("an AppendEntries was sent");
        self.receive(peer, term, Body::Appended { matched, round }, &[]);
    }

    /// Takes over from node 2, with its vote and those that are needed besides; entry 2 is the no-op, on this disk alone.
    fn elect(&mut self) {
        self.append(2, 1, (1, 1), &[], 0);
        self.receive(2, 1, Body::TimeoutNow, &[]);
        self.persist();
        for voter in self.supporters() {
            self.receive(voter, 2, Body::VoteReply { granted: true }, &[]);
        }
        self.persist();
    }

    /// With this node they are a majority, and not one more.
    fn supporters(&self) -> Vec<NodeId> {
        let voters = self.node.raft.membership().voters.clone();
        voters.iter().copied().filter(|id| *id != OWN).take(voters.len() / 2).collect()
    }

    /// The local Redis connects and asks for everything.
    fn connect_feed(&mut self) {
        self.node.on_feed_psync(&mut self.world, "?", -1);
        self.turn();
    }

    /// Leads three nodes, gate open in epoch 1, entries up to 2 committed.
    fn leader_of_three() -> Driven {
        Driven::leader_of(&[1, 2, 3])
    }

    /// The same of other voters.
    fn leader_of(voters: &[NodeId]) -> Driven {
        let mut driven = Driven::start(voters);
        driven.connect_feed();
        driven.elect();
        driven.supporters().into_iter().for_each(|voter| driven.acknowledge(voter));
        driven.world.bridge.set_applied(2);
        driven.turn();
        assert_eq!(driven.told(), [ToMain::Promote { epoch: 1 }]);
        driven.node.on_promoted(&mut driven.world, 1, REPLID.to_string(), OFFSET);
        driven.node.on_capture_up();
        driven.turn();
        driven.acknowledge(3);
        driven.sent(2);
        driven
    }

    /// The local Redis puts these commands into its stream.
    fn execute(&mut self, commands: &[&str]) {
        self.world.captured.extend(stream(commands));
        self.turn();
    }

    fn released(&self) -> u64 {
        self.world.bridge.released(1)
    }

    /// Node 2 leads in term 3, with a log that holds this node's entry 2 and not more.
    fn depose(&mut self) {
        self.append(2, 3, (2, 2), &[], 2);
    }

    /// Half seconds pass; the followers answer all that they are sent.
    fn pass(&mut self, half_seconds: u64) {
        for _ in 0..half_seconds {
            self.world.now_us += 500_000;
            self.turn();
            self.acknowledge(2);
            self.acknowledge(3);
        }
    }

    fn final_mark(&mut self, epoch: Epoch) {
        self.execute(&[&format!("RAFT.MARK {epoch} {FINAL_SEQUENCE}")]);
    }

    fn psync(&mut self, replid: &str, offset: u64) -> Vec<Fed> {
        self.world.fed.clear();
        self.node.on_feed_psync(&mut self.world, replid, offset as i64);
        self.turn();
        std::mem::take(&mut self.world.fed)
    }

    /// What the local Redis was fed since the last call, as text.
    fn fed_text(&mut self) -> String {
        let bytes = std::mem::take(&mut self.world.fed).into_iter().filter_map(|fed| match fed {
            Fed::Bytes(bytes) => Some(bytes),
            _ => None,
        });
        String::from_utf8(bytes.collect::<Vec<_>>().concat()).unwrap()
    }
}
