//! What happens in a run, all drawn from its seed before anything is started: the same seed draws the same plan.
//!
//! Swarm testing (Groce et al. 2012): each run first draws which faults exist at all. What the servers and the scheduler
//! make of a plan differs from run to run: who leads when a fault begins is seen only then.

use std::fmt;

use redisraft_sim::random::Random;

/// Who is meant, resolved when the fault begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    Leader,
    /// Some other node: the so-manieth, counted around.
    Follower(usize),
}

/// A shape of the network: who does not reach whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// One node and the others.
    Isolated(Target),
    /// A minority with the leader in it, and the rest.
    Halves,
    /// Each node reaches its neighbours in a line only.
    Chain,
    /// Everybody hears the node; it hears nobody.
    Deaf(Target),
    /// It hears everybody; nobody hears it.
    Mute(Target),
    /// One node, cut off and not, several times a second.
    Flapping(Target),
}

/// How a part of the network is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// Connections are closed.
    Closed,
    /// Connections stay open and carry nothing.
    Silent,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskFault {
    SyncFails,
    WriteFails,
    /// A write arrives in part and fails.
    WriteTorn,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    Command,
    Now,
    Signal,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    Kill(Target),
    /// So many at once, the leader first.
    KillSeveral(usize),
    Pause(Target),
    Partition(Shape, Manner),
    /// All that the node sends arrives later.
    Delay(Target, u64),
    /// Connections of the node end at any byte, again and again.
    Tear(Target),
    DiskSlow(Target, u64),
    DiskHangs(Target),
    DiskFails(Target, DiskFault),
    DiskFull(Target),
    ClockJump(Target, i64),
    ClockDrift(Target, i64),
    /// `CLIENT KILL TYPE replica` and `master`: the link between the module and its server, whichever there is.
    CutLocal(Target),
    Transfer,
    Compact(Target),
    Shutdown(Target, Ending),
    /// `DEBUG SLEEP`, in milliseconds.
    Sleep(Target, u64),
    /// A script that computes for so long, in milliseconds.
    Script(u64),
    /// A new node.
    Join,
    /// A node is taken out, and a new one comes in its place.
    Remove(Target),
}

/// The kinds that a run draws from, and that a long run must all have had.
pub const KINDS: [&str; 20] = [
    "kill",
    "kill several",
    "pause",
    "partition",
    "delay",
    "tear",
    "slow disk",
    "hanging disk",
    "failing disk",
    "full disk",
    "clock jump",
    "clock drift",
    "local link",
    "transfer",
    "compaction",
    "shutdown",
    "sleep",
    "script",
    "join",
    "removal",
];

impl Fault {
    /// One of [`KINDS`].
    pub fn kind(&self) -> &'static str {
        match self {
            Fault::Kill(_) => "kill",
            Fault::KillSeveral(_) => "kill several",
            Fault::Pause(_) => "pause",
            Fault::Partition(..) => "partition",
            Fault::Delay(..) => "delay",
            Fault::Tear(_) => "tear",
            Fault::DiskSlow(..) => "slow disk",
            Fault::DiskHangs(_) => "hanging disk",
            Fault::DiskFails(..) => "failing disk",
            Fault::DiskFull(_) => "full disk",
            Fault::ClockJump(..) => "clock jump",
            Fault::ClockDrift(..) => "clock drift",
            Fault::CutLocal(_) => "local link",
            Fault::Transfer => "transfer",
            Fault::Compact(_) => "compaction",
            Fault::Shutdown(..) => "shutdown",
            Fault::Sleep(..) => "sleep",
            Fault::Script(_) => "script",
            Fault::Join => "join",
            Fault::Remove(_) => "removal",
        }
    }

    fn draw(kind: &str, nodes: usize, random: &mut Random) -> Fault {
        let target = match random.chance(600) {
            true => Target::Leader,
            false => Target::Follower(random.index(nodes)),
        };
        match kind {
            "kill" => Fault::Kill(target),
            "kill several" => Fault::KillSeveral(random.between(2, nodes as u64) as usize),
            "pause" => Fault::Pause(target),
            "partition" => {
                let shape = match random.below(7) {
                    0 | 1 => Shape::Isolated(target),
                    2 => Shape::Halves,
                    3 => Shape::Chain,
                    4 => Shape::Deaf(target),
                    5 => Shape::Mute(target),
                    _ => Shape::Flapping(target),
                };
                Fault::Partition(shape, *random.pick(&[Manner::Closed, Manner::Silent]))
            }
            "delay" => Fault::Delay(target, *random.pick(&[5, 30, 150])),
            "tear" => Fault::Tear(target),
            "slow disk" => Fault::DiskSlow(target, *random.pick(&[5_000, 50_000, 500_000])),
            "hanging disk" => Fault::DiskHangs(target),
            "failing disk" => {
                let faults = [DiskFault::SyncFails, DiskFault::WriteFails, DiskFault::WriteTorn];
                Fault::DiskFails(target, *random.pick(&faults))
            }
            "full disk" => Fault::DiskFull(target),
            "clock jump" => Fault::ClockJump(target, *random.pick(&[-3_600_000, -500, 500, 3_600_000])),
            "clock drift" => Fault::ClockDrift(target, *random.pick(&[-100_000, 100_000])),
            "local link" => Fault::CutLocal(target),
            "transfer" => Fault::Transfer,
            "compaction" => Fault::Compact(target),
            "shutdown" => {
                Fault::Shutdown(target, *random.pick(&[Ending::Command, Ending::Now, Ending::Signal]))
            }
            "sleep" => Fault::Sleep(target, random.between(200, 3_000)),
            "script" => Fault::Script(random.between(200, 2_000)),
            "join" => Fault::Join,
            "removal" => Fault::Remove(target),
            other => unreachable!("{other} is not one of KINDS"),
        }
    }
}

/// A fault in the time of its round.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    pub at_ms: u64,
    pub lasts_ms: u64,
    pub fault: Fault,
}

/// How long and how large runs are.
#[derive(Clone, Debug)]
pub struct Scale {
    /// Nodes to begin with; `None`: drawn.
    pub nodes: Option<usize>,
    pub rounds: usize,
    pub round_ms: u64,
    /// At most.
    pub clients: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    pub seed: u64,
    pub nodes: usize,
    pub clients: usize,
    /// Mean pause of a client between two operations.
    pub think_us: u64,
    pub expiring_per_mille: u64,
    /// Arguments of the module on every node.
    pub settings: Vec<String>,
    pub rounds: Vec<Vec<Event>>,
}

impl Plan {
    pub fn draw(seed: u64, scale: &Scale) -> Plan {
        let random = &mut Random::new(seed, 1);
        let nodes = *random.pick(&[3, 3, 5]);
        let nodes = scale.nodes.unwrap_or(nodes);
        let election_timeout_ms = *random.pick(&[500, 1000, 1000]);
        let settings = vec![
            format!("log-segment-size={}", random.pick(&[64 << 10, 256 << 10, 4 << 20])),
            format!("log-max-file-size={}", random.pick(&[100_000, 1_000_000, 128_000_000])),
            format!("election-timeout={election_timeout_ms}"),
            format!("request-timeout={}", election_timeout_ms / 5),
            format!("log-scrub-rate={}", random.pick(&[0, 4 << 20])),
            format!("read-lease={}", random.pick(&["no", "no", "yes"])),
        ];
        let clients = random.between(scale.clients / 2 + 1, scale.clients) as usize;
        let think_us = *random.pick(&[2_000, 5_000, 10_000]);
        let expiring_per_mille = *random.pick(&[0, 100, 400]);
        let mut kinds: Vec<&str> = KINDS.into_iter().filter(|_| random.chance(400)).collect();
        if kinds.is_empty() {
            kinds.push("kill");
        }
        let rounds = (0..scale.rounds).map(|_| round(&kinds, nodes, scale, random)).collect();
        Plan { seed, nodes, clients, think_us, expiring_per_mille, settings, rounds }
    }

    /// The kinds of faults that it has.
    pub fn kinds(&self) -> Vec<&'static str> {
        let has = |kind: &&str| self.rounds.iter().flatten().any(|event| event.fault.kind() == *kind);
        KINDS.into_iter().filter(has).collect()
    }
}

/// New nodes in one round; each is a process more on the machine.
const MAX_JOINS_PER_ROUND: usize = 2;

fn round(kinds: &[&str], nodes: usize, scale: &Scale, random: &mut Random) -> Vec<Event> {
    let period_ms = *random.pick(&[800, 1_500, 3_000]);
    let mut events = Vec::new();
    let mut joins = 0;
    let mut at_ms = 500;
    while at_ms < scale.round_ms {
        let kind = *random.pick(kinds);
        let fault = Fault::draw(kind, nodes, random);
        let lasts_ms = match fault {
            // Long enough for another leader, or shorter than an election.
            Fault::Pause(_) | Fault::Partition(..) | Fault::DiskHangs(_) => {
                *random.pick(&[300, 2_500, 5_000])
            }
            _ => random.between(300, 3_000),
        };
        let comes = matches!(fault, Fault::Join | Fault::Remove(_));
        joins += usize::from(comes);
        if !comes || joins <= MAX_JOINS_PER_ROUND {
            events.push(Event { at_ms, lasts_ms, fault });
        }
        at_ms += random.between(period_ms / 4, period_ms * 7 / 4);
    }
    events
}

impl fmt::Display for Plan {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            formatter,
            "seed {}: {} nodes, {} clients, pauses of {} us, {} per mille expire, {}",
            self.seed,
            self.nodes,
            self.clients,
            self.think_us,
            self.expiring_per_mille,
            self.settings.join(" ")
        )?;
        for (number, events) in self.rounds.iter().enumerate() {
            writeln!(formatter, "round {number}")?;
            for event in events {
                writeln!(
                    formatter,
                    "  {:>6} ms, for {:>4} ms: {:?}",
                    event.at_ms, event.lasts_ms, event.fault
                )?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCALE: Scale = Scale { nodes: None, rounds: 2, round_ms: 20_000, clients: 8 };

    #[test]
    fn a_seed_has_one_plan_and_seeds_differ() {
        assert_eq!(Plan::draw(7, &SCALE), Plan::draw(7, &SCALE));
        assert_ne!(Plan::draw(7, &SCALE), Plan::draw(8, &SCALE));
    }

    #[test]
    fn every_kind_of_fault_is_drawn_and_named() {
        let mut kinds: Vec<&str> = (0..50).flat_map(|seed| Plan::draw(seed, &SCALE).kinds()).collect();
        kinds.sort_unstable();
        kinds.dedup();
        assert_eq!(kinds.len(), KINDS.len(), "{kinds:?}");
        for kind in KINDS {
            assert_eq!(Fault::draw(kind, 5, &mut Random::new(1, 1)).kind(), kind);
        }
    }
}
