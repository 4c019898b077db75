//! Stories of the consensus core: `tests/transcripts/*.txt` are played and compared, line by line.
//!
//! `UPDATE=1 cargo test --test transcripts` writes what really happened into the files; read the difference before
//! you commit it. A line starting with `> ` is a command, the indented lines below it are what it caused, all else
//! is prose. Messages arrive at once and in order unless a story holds them; disks write at once unless held.
//!
//! ```text
//! nodes 1 2 3          voters with empty logs               deliver            until nothing is under way
//! learner 4            a node that was told nothing         deliver 1 2        only messages from 1 to 2
//! tick 1               the clock moves to its deadline      drop 1 2 / drop    lose them / all instead
//! pass 300             the clock moves, in ms               cut 1 2 / cut 1    lose all from now on, both ways
//! run 300              the same, with ticks and delivery    heal               no link is cut
//! propose 1 3          3 entries of 100 bytes               hold 1 / free 1    the disk of 1 stalls / goes on
//! read 1               a read                               crash 1 / start 1  unwritten writes are lost
//! members 1 1,2,3 4    propose voters and learners          unreachable 2 1    2 hears that 1's process is gone
//! compact 1 5          1 has a snapshot to entry 5       install 2 1 5      2 takes over 1's snapshot at 5
//! transfer 1 2         hand over to 2 (or to anybody)       reachable 2 1      and that it is back
//! status               one line per node                    log 1              the terms of its log
//! damage 1 3,5         payloads that 1 cannot read          mend 1             it can read all again
//! truncate 1 5         cuts 5 and all after it off the log of 1, which is down and knows that afterwards
//! quiet <command>      shows changes of role, commits, reads and refusals only
//! ```

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Write as _;
use std::path::Path;

use redisraft::consensus::*;

const ELECTION_TIMEOUT_US: u64 = 1_000_000;
const HEARTBEAT_US: u64 = 200_000;

#[derive(Default)]
struct Node {
    raft: Option<Raft>,
    settings: Option<Settings>,
    // What is on the disk.
    term: Term,
    vote: Option<NodeId>,
    promise_us: u64,
    entries: Vec<EntryMeta>,
    writes: VecDeque<Write>,
    held: bool,
    /// The entry before the first of `entries`.
    base: Position,
    membership: Membership,
    holes: Vec<Index>,
    distrusted: bool,
    starts: u64,
}

#[derive(Default)]
struct Story {
    nodes: BTreeMap<NodeId, Node>,
    now_us: u64,
    network: VecDeque<(NodeId, NodeId, Message)>,
    cut: BTreeSet<(NodeId, NodeId)>,
    reads: u64,
    quiet: bool,
    text: String,
}

fn set(list: &str) -> BTreeSet<NodeId> {
    list.split(',').filter(|id| !id.is_empty()).map(|id| id.parse().expect("a node id")).collect()
}

fn position(at: Position) -> String {
    format!("{}/{}", at.index, at.term)
}

fn list(ids: &BTreeSet<NodeId>) -> String {
    ids.iter().map(NodeId::to_string).collect::<Vec<_>>().join(",")
}

fn members(membership: &Membership) -> String {
    match membership.learners.is_empty() {
        true => format!("voters {}", list(&membership.voters)),
        false => format!("voters {} learners {}", list(&membership.voters), list(&membership.learners)),
    }
}

fn entries(first: Index, entries: &[EntryMeta]) -> String {
    let entry = |(at, entry): (usize, &EntryMeta)| {
        let kind = match &entry.kind {
            EntryKind::Normal => String::new(),
            EntryKind::NoOp => " no-op".into(),
            EntryKind::Membership(membership) => format!(" {}", members(membership)),
        };
        format!("{}/{}{kind}", first + at as Index, entry.term)
    };
    entries.iter().enumerate().map(entry).collect::<Vec<_>>().join(", ")
}

fn body(body: &Body) -> String {
    match body {
        Body::PreVote { last } => format!("PreVote, log ends at {}", position(*last)),
        Body::PreVoteReply { granted } => format!("PreVoteReply {}", if *granted { "yes" } else { "no" }),
        Body::Vote { last, transfer } => {
            let transfer = if *transfer { ", sent by the leader" } else { "" };
            format!("Vote, log ends at {}{transfer}", position(*last))
        }
        Body::VoteReply { granted } => format!("VoteReply {}", if *granted { "yes" } else { "no" }),
        Body::Append { prev, entries: sent, commit, round, lease_us } => {
            let sent = if sent.is_empty() { "-".into() } else { entries(prev.index + 1, sent) };
            let lease = if *lease_us == 0 { String::new() } else { format!(" lease {} ms", lease_us / 1000) };
            format!("Append after {}: {sent}; commit {commit} round {round}{lease}", position(*prev))
        }
        Body::Appended { matched, round } => format!("Appended to {matched} round {round}"),
        Body::Refused { prev, conflict, last, round } => {
            format!("Refused {prev}, conflict {}, last {last} round {round}", position(*conflict))
        }
        Body::TimeoutNow => "TimeoutNow".into(),
        Body::Forgot { nonce } => format!("Forgot, nonce {nonce}"),
        Body::Remember { nonce, through } => format!("Remember, nonce {nonce}, through {through}"),
    }
}

impl Node {
    fn start(&mut self, now_us: u64) {
        let settings = self.settings.clone().expect("settings");
        self.starts += 1;
        let restored = Restored {
            term: self.term,
            vote: self.vote,
            promise_us: self.promise_us,
            base: self.base,
            membership: self.membership.clone(),
            entries: self.entries.clone(),
            committed: self.base.index,
            holes: self.holes.clone(),
            distrusted: self.distrusted.then_some(self.starts),
        };
        self.raft = Some(Raft::new(settings, restored, now_us));
    }

    fn write_out(&mut self, write: Write) {
        if let Some((term, vote)) = write.hard_state {
            (self.term, self.vote) = (term, vote);
        }
        self.promise_us = write.promise_us.unwrap_or(self.promise_us);
        if let Some(from) = write.truncate_from {
            self.entries.truncate((from - self.base.index) as usize - 1);
            self.holes.retain(|hole| *hole < from);
        }
        self.distrusted &= !write.regain_trust;
        self.entries.extend(write.append.into_iter().flat_map(|append| append.entries));
    }
}

impl Story {
    fn say(&mut self, always: bool, line: String) {
        if always || !self.quiet {
            writeln!(self.text, "    {line}").expect("a string takes all");
        }
    }

    fn add(&mut self, id: NodeId, membership: Membership) {
        let settings = Settings {
            id,
            election_timeout_us: ELECTION_TIMEOUT_US,
            heartbeat_us: HEARTBEAT_US,
            max_inflight_messages: 2,
            max_message_bytes: 250,
            lease_us: 0,
            seed: 1,
        };
        let mut node = Node { settings: Some(settings), membership, ..Node::default() };
        node.start(self.now_us);
        self.nodes.insert(id, node);
    }

    fn step(&mut self, id: NodeId, input: Input) {
        let Some(raft) = self.nodes.get_mut(&id).and_then(|node| node.raft.as_mut()) else { return };
        let mut outputs = Vec::new();
        let told = matches!(&input, Input::Receive { message: Message { body: Body::TimeoutNow, .. }, .. });
        raft.step(self.now_us, input, &mut outputs);
        if told {
            // A driver's turn ends with a tick when one is due.
            raft.step(self.now_us, Input::Tick, &mut outputs);
        }
        for output in outputs {
            self.carry_out(id, output);
        }
    }

    /// What the driver does with a message that needs payloads it cannot read.
    fn cut_before_holes(&self, id: NodeId, message: &mut Message) -> bool {
        let Body::Append { prev, entries, .. } = &mut message.body else { return true };
        let holes = &self.nodes[&id].holes;
        let intact =
            (prev.index + 1..).take(entries.len()).take_while(|index| !holes.contains(index)).count();
        let whole = intact == entries.len();
        entries.truncate(intact);
        whole || intact > 0
    }

    fn carry_out(&mut self, id: NodeId, output: Output) {
        match output {
            Output::Send { to, mut message } => {
                if !self.cut_before_holes(id, &mut message) {
                    return self.say(false, format!("{id} cannot read what {to} needs"));
                }
                let lost = if self.cut.contains(&(id, to)) { "  (lost)" } else { "" };
                self.say(false, format!("{id} -> {to} term {}: {}{lost}", message.term, body(&message.body)));
                if lost.is_empty() {
                    self.network.push_back((id, to, message));
                }
            }
            Output::Persist(write) => {
                let mut parts = Vec::new();
                if let Some((term, vote)) = write.hard_state {
                    parts.push(format!("term {term} vote {}", vote.unwrap_or(0)));
                }
                parts.extend(write.promise_us.map(|us| format!("promise {} ms", us / 1000)));
                parts.extend(write.truncate_from.map(|from| format!("truncate from {from}")));
                parts.extend(
                    write.append.as_ref().map(|a| format!("append {}", entries(a.first, &a.entries))),
                );
                if write.regain_trust {
                    parts.push("that it is trusted".into());
                }
                self.say(false, format!("{id} writes {}", parts.join(", ")));
                self.nodes.get_mut(&id).expect("a node").writes.push_back(write);
            }
            Output::Commit { index } => self.say(true, format!("{id} commits {index}")),
            Output::ReadReady { id: read, index } => {
                self.say(true, format!("{id} answers reads to {read} at index {index}"))
            }
            Output::ReadFailed { id: read } => self.say(true, format!("{id} fails reads to {read}")),
            Output::Changed { role, term, leader } => {
                let leader = leader.map_or("nobody".into(), |leader| leader.to_string());
                self.say(true, format!("{id} is {role:?} in term {term}, led by {leader}"))
            }
            Output::MembershipChanged { membership } => {
                self.say(true, format!("{id} has {}", members(&membership)))
            }
            Output::SnapshotNeeded { to } => self.say(true, format!("{id} must send {to} a snapshot")),
            Output::LearnerReady { id: learner } => {
                self.say(true, format!("{id} finds learner {learner} ready"))
            }
            Output::ProposalRefused { reason } => self.say(true, format!("{id} refuses: {reason:?}")),
            Output::TransferFailed => self.say(true, format!("{id} gives the transfer up")),
        }
    }

    /// Disks first, then the oldest message; true when something was done.
    fn progress(&mut self, link: Option<(NodeId, NodeId)>) -> bool {
        let due = |(_, node): &(&NodeId, &mut Node)| !node.held && !node.writes.is_empty();
        if let Some((id, node)) = self.nodes.iter_mut().find(due) {
            let id = *id;
            let mut last = 0;
            while let Some(write) = node.writes.pop_front() {
                last = write.id;
                node.write_out(write);
            }
            self.step(id, Input::Persisted { write: last });
            return true;
        }
        let wanted = |(from, to, _): &(NodeId, NodeId, Message)| link.is_none_or(|link| link == (*from, *to));
        let Some(at) = self.network.iter().position(wanted) else { return false };
        let (from, to, message) = self.network.remove(at).expect("it was found");
        if !self.cut.contains(&(from, to)) {
            self.step(to, Input::Receive { from, message });
        }
        true
    }

    fn deliver(&mut self, link: Option<(NodeId, NodeId)>) {
        let mut budget = 10_000;
        while self.progress(link) {
            budget -= 1;
            assert!(budget > 0, "the nodes never come to rest");
        }
    }

    /// Time goes on for all nodes together.
    fn run(&mut self, duration_us: u64) {
        let end_us = self.now_us + duration_us;
        loop {
            self.deliver(None);
            let deadline = |(id, node): (&NodeId, &Node)| Some((node.raft.as_ref()?.next_deadline_us(), *id));
            let next = self.nodes.iter().filter_map(deadline).min();
            let Some((due_us, id)) = next.filter(|(due_us, _)| *due_us <= end_us) else { break };
            self.now_us = self.now_us.max(due_us);
            self.step(id, Input::Tick);
        }
        self.now_us = end_us;
    }

    fn cut(&mut self, ids: &[NodeId]) {
        let others: Vec<NodeId> = match ids.get(1) {
            Some(other) => vec![*other],
            None => self.nodes.keys().copied().filter(|id| *id != ids[0]).collect(),
        };
        for other in others {
            self.cut.extend([(ids[0], other), (other, ids[0])]);
        }
    }

    /// Node `id` has a snapshot of all up to `through`, and drops these entries.
    fn compact(&mut self, id: NodeId, through: Index) {
        let node = self.nodes.get_mut(&id).expect("a node");
        let term =
            node.raft.as_ref().and_then(|raft| raft.term_at(through)).expect("an entry of a running node");
        let dropped = node.entries.drain(..(through - node.base.index) as usize);
        for entry in dropped {
            if let EntryKind::Membership(membership) = entry.kind {
                node.membership = (*membership).clone();
            }
        }
        node.base = Position { index: through, term };
        self.step(id, Input::Compacted { through });
    }

    /// Node `id` takes over the snapshot of `from` at `index`.
    fn install(&mut self, id: NodeId, from: NodeId, index: Index) {
        let sender = &self.nodes[&from];
        let term =
            sender.raft.as_ref().and_then(|raft| raft.term_at(index)).expect("a place in the sender's log");
        let (position, membership) = (Position { index, term }, sender.membership.clone());
        let node = self.nodes.get_mut(&id).expect("a node");
        if !node.raft.as_ref().expect("a running node").holds(position) {
            node.entries.clear();
            node.base = position;
            node.membership = membership.clone();
        }
        self.step(id, Input::InstalledSnapshot { position, membership });
    }

    fn crash(&mut self, id: NodeId) {
        let node = self.nodes.get_mut(&id).expect("a node");
        node.raft = None;
        node.writes.clear();
        node.held = false;
        self.network.retain(|(from, to, _)| *from != id && *to != id);
    }

    fn status(&mut self) {
        let line = |(id, node): (&NodeId, &Node)| match &node.raft {
            None => format!("{id}: down"),
            Some(raft) => format!(
                "{id}: {:?} term {} vote {} leader {} last {} durable {} commit {}{}",
                raft.role(),
                raft.term(),
                raft.vote().unwrap_or(0),
                raft.leader().unwrap_or(0),
                position(raft.last()),
                raft.durable(),
                raft.commit(),
                if raft.is_trusted() { "" } else { " distrusted" }
            ),
        };
        let lines: Vec<String> = self.nodes.iter().map(line).collect();
        lines.into_iter().for_each(|line| self.say(true, line));
    }

    fn log(&mut self, id: NodeId) {
        let raft = self.nodes[&id].raft.as_ref().expect("a running node");
        let terms: Vec<String> =
            (1..=raft.last().index).filter_map(|at| raft.term_at(at)).map(|term| term.to_string()).collect();
        let base = match raft.base().index {
            0 => String::new(),
            index => format!("from {index} on, "),
        };
        self.say(true, format!("{id}: {base}terms {}", terms.join(" ")));
    }

    /// The payloads that `id` cannot read are those of `holes` from now on.
    fn impair(&mut self, id: NodeId, holes: Vec<Index>) {
        self.nodes.get_mut(&id).expect("a node").holes.clone_from(&holes);
        self.step(id, Input::Impaired { holes });
    }

    fn truncate(&mut self, id: NodeId, from: Index) {
        let node = self.nodes.get_mut(&id).expect("a node");
        assert!(node.raft.is_none(), "node {id} is running");
        node.entries.truncate(from as usize - 1);
        node.distrusted = true;
    }

    fn command(&mut self, line: &str) {
        let (quiet, line) = line.strip_prefix("quiet ").map_or((false, line), |rest| (true, rest));
        self.quiet = quiet;
        let words: Vec<&str> = line.split_whitespace().collect();
        let ids: Vec<NodeId> = words[1..].iter().filter_map(|word| word.parse().ok()).collect();
        let link = (ids.len() == 2).then(|| (ids[0], ids[1]));
        match words[0] {
            "nodes" => {
                let voters: BTreeSet<NodeId> = ids.iter().copied().collect();
                for id in &ids {
                    self.add(*id, Membership { voters: voters.clone(), learners: BTreeSet::new() });
                }
            }
            "learner" => self.add(ids[0], Membership::default()),
            "tick" => {
                let raft = self.nodes[&ids[0]].raft.as_ref().expect("a running node");
                let due_us = raft.next_deadline_us();
                assert!(due_us != u64::MAX, "node {} waits for nothing", ids[0]);
                self.now_us = self.now_us.max(due_us);
                self.step(ids[0], Input::Tick);
            }
            "pass" => self.now_us += ids[0] * 1000,
            "run" => self.run(ids[0] * 1000),
            "deliver" => self.deliver(link),
            "drop" => self.network.retain(|(from, to, _)| link.is_some_and(|link| link != (*from, *to))),
            "cut" => self.cut(&ids),
            "heal" => self.cut.clear(),
            "hold" => self.nodes.get_mut(&ids[0]).expect("a node").held = true,
            "free" => self.nodes.get_mut(&ids[0]).expect("a node").held = false,
            "propose" => {
                let bytes = vec![100; *ids.get(1).unwrap_or(&1) as usize];
                self.step(ids[0], Input::Propose { bytes });
            }
            "read" => {
                self.reads += 1;
                self.step(ids[0], Input::Read { id: self.reads });
            }
            "members" => {
                let learners = set(words.get(3).unwrap_or(&""));
                let membership = Membership { voters: set(words[2]), learners };
                self.step(ids[0], Input::ProposeMembership { membership, bytes: 50 });
            }
            "compact" => self.compact(ids[0], ids[1]),
            "install" => self.install(ids[0], ids[1], ids[2]),
            "transfer" => self.step(ids[0], Input::Transfer { target: ids.get(1).copied() }),
            "unreachable" => self.step(ids[0], Input::PeerUnreachable { peer: ids[1] }),
            "reachable" => self.step(ids[0], Input::PeerReachable { peer: ids[1] }),
            "crash" => self.crash(ids[0]),
            "start" => self.nodes.get_mut(&ids[0]).expect("a node").start(self.now_us),
            "damage" => self.impair(ids[0], set(words[2]).into_iter().collect()),
            "mend" => self.impair(ids[0], Vec::new()),
            "truncate" => self.truncate(ids[0], ids[1]),
            "status" => self.status(),
            "log" => self.log(ids[0]),
            other => panic!("no command {other:?}"),
        }
    }
}

/// The story with what really happened in it.
fn play(text: &str) -> String {
    let mut story = Story::default();
    for line in text.lines() {
        if line.starts_with("    ") {
            continue;
        }
        writeln!(story.text, "{line}").expect("a string takes all");
        if let Some(command) = line.strip_prefix("> ") {
            story.command(command);
        }
    }
    story.text
}

#[test]
fn stories_go_as_they_are_told() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/transcripts");
    let update = std::env::var_os("UPDATE").is_some();
    let mut paths: Vec<_> = std::fs::read_dir(&directory)
        .expect("stories")
        .map(|entry| entry.expect("an entry").path())
        .collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "txt"));
    paths.sort();
    assert!(!paths.is_empty(), "no stories in {}", directory.display());
    for path in paths {
        let told = std::fs::read_to_string(&path).expect("a readable story");
        let happened = play(&told);
        if update {
            std::fs::write(&path, &happened).expect("a writable story");
            continue;
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        for (number, (told, happened)) in told.lines().zip(happened.lines()).enumerate() {
            assert_eq!(told, happened, "{name}, line {}: told (left), happened (right)", number + 1);
        }
        assert_eq!(told.lines().count(), happened.lines().count(), "{name} ends otherwise than told");
    }
}
