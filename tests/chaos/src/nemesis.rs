//! Does to the servers what the plan says, and takes it back when its time is over.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::cluster::{self, Value};
use crate::fleet::Fleet;
use crate::observer::Observer;
use crate::plan::{DiskFault, Ending, Event, Fault, Manner, Shape, Target};
use crate::session::{ask, ask_words};
use crate::shim::{Sync, Write};
use crate::violation::{Result, Violation};

const TICK: Duration = Duration::from_millis(20);
/// How long a flapping link stays as it is.
const FLAP: Duration = Duration::from_millis(150);
/// How long whoever sends an administrator's command waits for its reply.
const REPLY: Duration = Duration::from_secs(10);
/// One of so many times that bytes come to be carried on, their connection ends.
const TORN_ONE_OF: u64 = 40;
/// With fewer nodes none is taken out.
const SMALLEST_CLUSTER: usize = 2;
/// Not by `os.clock`, which 7.0 does not have; the bound is for a server whose time stands still in a script.
const SCRIPT: &str = "local function now() local t = redis.call('TIME') return t[1] * 1000 + t[2] / 1000 end \
                      local stop = now() + ARGV[1] \
                      for i = 1, 1000000000 do if i % 10000 == 0 and now() >= stop then break end end return 1";

/// Pairs of ids: what the first says to the second.
type Pairs = Vec<(u64, u64)>;

/// How a fault is taken back.
enum Undo {
    Nothing,
    Start(usize),
    StartAll(Vec<usize>),
    Resume(usize),
    Heal(Pairs),
    Flap { pairs: Pairs, fault: cluster::Fault, next: Instant, cut: bool },
    Disk(usize),
    Clock(usize),
}

struct Active {
    until: Instant,
    undo: Undo,
}

/// Counts of what was done, and of what came of it.
pub type Counts = BTreeMap<&'static str, u64>;

pub struct Nemesis<'a> {
    pub fleet: &'a mut Fleet,
    pub observer: &'a Observer,
    active: Vec<Active>,
    /// Faults by kind, when they could be done.
    pub done: Counts,
    /// Administrators' commands that were answered as they should be.
    effects: Arc<Mutex<Counts>>,
    errands: Vec<JoinHandle<()>>,
    /// Nodes that a leader said it has taken out, since the last look.
    removed: Arc<Mutex<Vec<usize>>>,
}

impl<'a> Nemesis<'a> {
    pub fn new(fleet: &'a mut Fleet, observer: &'a Observer) -> Nemesis<'a> {
        Nemesis {
            fleet,
            observer,
            active: Vec::new(),
            done: Counts::new(),
            effects: Arc::default(),
            errands: Vec::new(),
            removed: Arc::default(),
        }
    }

    pub fn effects(&self) -> Counts {
        self.effects.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Plays one round, to the end of its last fault.
    ///
    /// # Errors
    /// When a server ends by itself or two lead in one term.
    pub fn play(&mut self, events: &[Event], is_over: &dyn Fn() -> bool) -> Result<()> {
        let started = Instant::now();
        let mut events = events.iter().peekable();
        while (events.peek().is_some() || !self.active.is_empty()) && !is_over() {
            let due = |event: &&&Event| started.elapsed() >= Duration::from_millis(event.at_ms);
            if let Some(event) = events.next_if(|event| due(&event)) {
                if let Some(undo) = self.begin(&event.fault)? {
                    *self.done.entry(event.fault.kind()).or_default() += 1;
                    let until = Instant::now() + Duration::from_millis(event.lasts_ms);
                    self.active.push(Active { until, undo });
                }
            }
            self.tick()?;
            std::thread::sleep(TICK);
        }
        Ok(())
    }

    /// Ends what is over, and looks after the servers.
    ///
    /// # Errors
    /// As [`play`](Self::play).
    pub fn tick(&mut self) -> Result<()> {
        let now = Instant::now();
        for at in (0..self.active.len()).rev() {
            if self.active[at].until <= now {
                let over = self.active.remove(at);
                self.undo(over.undo);
            } else if let Undo::Flap { pairs, fault, next, cut } = &mut self.active[at].undo {
                if *next <= now {
                    (*cut, *next) = (!*cut, now + FLAP);
                    for (from, to) in pairs.iter() {
                        match *cut {
                            true => self.fleet.proxy.set(*from, *to, *fault),
                            false => self.fleet.proxy.heal(*from, *to),
                        }
                    }
                }
            }
        }
        self.replace_removed()?;
        self.observer.check()?;
        self.fleet.tend()
    }

    /// For every node that was taken out a new one comes.
    fn replace_removed(&mut self) -> Result<()> {
        let removed = std::mem::take(&mut *self.removed.lock().unwrap_or_else(PoisonError::into_inner));
        for node in removed {
            self.fleet.nodes[node].leaving = true;
            let new = self.fleet.spawn()?;
            self.join_when_ready(new);
        }
        Ok(())
    }

    /// Takes back all faults; every server is started.
    pub fn heal(&mut self) {
        for over in std::mem::take(&mut self.active) {
            self.undo(over.undo);
        }
        self.fleet.proxy.heal_all();
        for number in 0..self.fleet.nodes.len() {
            if self.fleet.nodes[number].leaving {
                self.fleet.retire(number);
            }
            self.fleet.mend(number);
            self.fleet.nodes[number].start_if_free();
        }
    }

    /// Waits for the administrators' commands that are under way.
    pub fn finish_errands(&mut self) {
        for errand in std::mem::take(&mut self.errands) {
            errand.join().expect("a thread that sends one command does not fail");
        }
    }

    /// Nodes that are or may become members, the one that leads, or has led last, first.
    fn around_leader(&self) -> Vec<usize> {
        let mut nodes = self.fleet.present();
        let leader = self.observer.view().leader;
        let first = nodes.iter().position(|node| Some(*node) == leader).unwrap_or(0);
        nodes.rotate_left(first);
        nodes
    }

    fn leader(&self) -> usize {
        self.around_leader()[0]
    }

    fn resolve(&self, target: Target) -> usize {
        let nodes = self.around_leader();
        match target {
            Target::Leader => nodes[0],
            Target::Follower(which) => nodes[1 + which % (nodes.len() - 1)],
        }
    }

    fn is_running(&mut self, node: usize) -> bool {
        self.fleet.nodes[node].server.is_running()
    }

    /// Sends an administrator's command without waiting for what comes of it. A reply that begins as it should is counted.
    fn errand(&mut self, node: usize, command: &[&str], expected: &'static str, effect: &'static str) {
        let port = self.fleet.port(node);
        let words: Vec<String> = command.iter().map(|word| (*word).to_owned()).collect();
        let effects = Arc::clone(&self.effects);
        self.errands.push(std::thread::spawn(move || {
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            if ask_words(port, &words, REPLY).is_some_and(|reply| reply.text().starts_with(expected)) {
                *effects.lock().unwrap_or_else(PoisonError::into_inner).entry(effect).or_default() += 1;
            }
        }));
    }

    /// `None`: nobody was there whom it could be done to.
    fn begin(&mut self, fault: &Fault) -> Result<Option<Undo>> {
        Ok(match *fault {
            Fault::Kill(target) => {
                let node = self.resolve(target);
                self.kill(node);
                Some(Undo::Start(node))
            }
            Fault::KillSeveral(count) => {
                let mut nodes = self.around_leader();
                nodes.truncate(count);
                nodes.iter().for_each(|node| self.kill(*node));
                Some(Undo::StartAll(nodes))
            }
            Fault::Pause(target) => self.pause(target),
            Fault::Partition(shape, manner) => self.partition(shape, manner),
            Fault::Delay(target, delay_ms) => {
                let node = self.resolve(target);
                self.set_around(node, cluster::Fault::Delay(Duration::from_millis(delay_ms)))
            }
            Fault::Tear(target) => {
                let node = self.resolve(target);
                self.set_around(node, cluster::Fault::Tear { one_of: TORN_ONE_OF })
            }
            Fault::DiskSlow(..) | Fault::DiskHangs(_) | Fault::DiskFails(..) | Fault::DiskFull(_) => {
                Some(self.break_disk(fault))
            }
            Fault::ClockJump(target, offset_ms) => Some(self.shift_clock(target, offset_ms, 0)),
            Fault::ClockDrift(target, drift_ppm) => Some(self.shift_clock(target, 0, drift_ppm)),
            Fault::CutLocal(target) => {
                let port = self.fleet.port(self.resolve(target));
                let kill = |whose| {
                    let killed = ask(port, &format!("CLIENT KILL TYPE {whose}"), Duration::from_millis(300));
                    matches!(killed, Some(Value::Integer(count)) if count > 0)
                };
                // A leader's server has a replica, a follower's a master: the module.
                (kill("replica") || kill("master")).then_some(Undo::Nothing)
            }
            Fault::Transfer => {
                let leader = self.leader();
                self.errand(leader, &["RAFT.TRANSFER_LEADER"], "OK", "transfers that were made");
                Some(Undo::Nothing)
            }
            Fault::Compact(target) => {
                let node = self.resolve(target);
                self.errand(node, &["RAFT.DEBUG", "COMPACT"], "OK", "compactions that were made");
                Some(Undo::Nothing)
            }
            Fault::Shutdown(target, ending) => self.shut_down(target, ending),
            Fault::Sleep(target, sleep_ms) => {
                let node = self.resolve(target);
                let seconds = format!("{:.3}", sleep_ms as f64 / 1000.0);
                self.errand(node, &["DEBUG", "SLEEP", &seconds], "OK", "sleeps to their end");
                Some(Undo::Nothing)
            }
            Fault::Script(script_ms) => {
                let (leader, script_ms) = (self.leader(), script_ms.to_string());
                self.errand(leader, &["EVAL", SCRIPT, "0", &script_ms], "1", "scripts to their end");
                Some(Undo::Nothing)
            }
            Fault::Join => {
                let node = self.fleet.spawn()?;
                self.join_when_ready(node);
                Some(Undo::Nothing)
            }
            Fault::Remove(target) => {
                let node = self.resolve(target);
                self.remove(node)
            }
        })
    }

    fn undo(&mut self, undo: Undo) {
        match undo {
            Undo::Nothing => {}
            Undo::Start(node) => self.release(node),
            Undo::StartAll(nodes) => nodes.into_iter().for_each(|node| self.release(node)),
            Undo::Resume(node) => {
                let node = &mut self.fleet.nodes[node];
                node.paused -= 1;
                if node.paused == 0 && node.server.pid().is_some() {
                    node.server.resume();
                }
            }
            Undo::Heal(pairs) | Undo::Flap { pairs, .. } => {
                pairs.into_iter().for_each(|(from, to)| self.fleet.proxy.heal(from, to));
            }
            Undo::Disk(node) => {
                let node = &mut self.fleet.nodes[node];
                node.disk_faults = node.disk_faults.saturating_sub(1);
                if node.disk_faults == 0 {
                    node.control.set_sync(Sync::Fine);
                    node.control.set_write(Write::Fine);
                }
            }
            Undo::Clock(node) => self.fleet.nodes[node].control.set_clock(0, 0),
        }
    }

    fn kill(&mut self, node: usize) {
        self.fleet.nodes[node].server.kill();
        self.fleet.nodes[node].down += 1;
    }

    /// One fault less keeps the process away. If it should have ended and has not, it is killed now.
    fn release(&mut self, node: usize) {
        let node = &mut self.fleet.nodes[node];
        node.down -= 1;
        if node.down == 0 {
            node.server.kill();
            node.start_if_free();
        }
    }

    fn pause(&mut self, target: Target) -> Option<Undo> {
        let node = self.resolve(target);
        if !self.is_running(node) {
            return None;
        }
        self.fleet.nodes[node].server.pause();
        self.fleet.nodes[node].paused += 1;
        Some(Undo::Resume(node))
    }

    fn shut_down(&mut self, target: Target, ending: Ending) -> Option<Undo> {
        let node = self.resolve(target);
        if !self.is_running(node) {
            return None;
        }
        self.fleet.nodes[node].down += 1;
        match ending {
            // The only answer to it is the end of the connection.
            Ending::Command => self.errand(node, &["SHUTDOWN"], "", "shutdowns that were answered"),
            Ending::Now => self.errand(node, &["SHUTDOWN", "NOW"], "", "shutdowns that were answered"),
            Ending::Signal => self.fleet.nodes[node].server.signal_term(),
        }
        Some(Undo::Start(node))
    }

    /// Asks the leader to take a node out. What comes of it is seen later.
    fn remove(&mut self, node: usize) -> Option<Undo> {
        let (id, port) = (self.id(node)?, self.fleet.port(self.leader()));
        let staying = self.fleet.present().into_iter().filter(|node| !self.fleet.nodes[*node].leaving);
        if self.fleet.nodes[node].leaving || staying.count() <= SMALLEST_CLUSTER {
            return None;
        }
        let (effects, removed) = (Arc::clone(&self.effects), Arc::clone(&self.removed));
        self.errands.push(std::thread::spawn(move || {
            let reply = ask(port, &format!("RAFT.NODE REMOVE {id}"), REPLY);
            if reply.is_some_and(|reply| reply.is_ok()) {
                removed.lock().unwrap_or_else(PoisonError::into_inner).push(node);
                let mut effects = effects.lock().unwrap_or_else(PoisonError::into_inner);
                *effects.entry("nodes that were taken out").or_default() += 1;
            }
        }));
        Some(Undo::Nothing)
    }

    /// The new node asks to join as soon as it answers.
    fn join_when_ready(&mut self, node: usize) {
        let (port, command) = (self.fleet.port(node), self.fleet.join_command(node));
        let effects = Arc::clone(&self.effects);
        self.errands.push(std::thread::spawn(move || {
            let deadline = Instant::now() + REPLY;
            while Instant::now() < deadline {
                if ask(port, "PING", Duration::from_millis(500)).is_some() {
                    let joined =
                        ask(port, &command, REPLY).is_some_and(|reply| reply.text().starts_with("OK"));
                    let mut effects = effects.lock().unwrap_or_else(PoisonError::into_inner);
                    *effects.entry("nodes that joined at once").or_default() += u64::from(joined);
                    return;
                }
                std::thread::sleep(TICK);
            }
        }));
    }

    fn break_disk(&mut self, fault: &Fault) -> Undo {
        let (target, sync, write) = match *fault {
            Fault::DiskSlow(target, delay_us) => (target, Sync::Slow { delay_us }, Write::Fine),
            Fault::DiskHangs(target) => (target, Sync::Hangs, Write::Fine),
            Fault::DiskFails(target, DiskFault::SyncFails) => (target, Sync::Fails, Write::Fine),
            Fault::DiskFails(target, DiskFault::WriteFails) => (target, Sync::Fine, Write::Fails),
            Fault::DiskFails(target, DiskFault::WriteTorn) => (target, Sync::Fine, Write::Half),
            Fault::DiskFull(target) => (target, Sync::Fine, Write::NoSpace),
            ref other => unreachable!("{other:?} is not a fault of the disk"),
        };
        let number = self.resolve(target);
        let node = &mut self.fleet.nodes[number];
        node.control.set_sync(sync);
        node.control.set_write(write);
        node.disk_faults += 1;
        node.excused = true;
        Undo::Disk(number)
    }

    fn shift_clock(&mut self, target: Target, offset_ms: i64, drift_ppm: i64) -> Undo {
        let node = self.resolve(target);
        self.fleet.nodes[node].control.set_clock(offset_ms, drift_ppm);
        Undo::Clock(node)
    }

    fn id(&self, node: usize) -> Option<u64> {
        self.observer.view().ids.get(&node).copied()
    }

    /// Applies a fault to all that a node says to others and hears from them.
    fn set_around(&mut self, node: usize, fault: cluster::Fault) -> Option<Undo> {
        let pairs = self.pairs(&|from, to| from == node || to == node);
        self.apply(pairs, fault)
    }

    /// The pairs of nodes, by their numbers, for which `is_meant` holds.
    fn pairs(&self, is_meant: &dyn Fn(usize, usize) -> bool) -> Pairs {
        let nodes = self.fleet.present();
        let all = nodes.iter().flat_map(|from| nodes.iter().map(move |to| (*from, *to)));
        all.filter(|(from, to)| from != to && is_meant(*from, *to))
            .filter_map(|(from, to)| Some((self.id(from)?, self.id(to)?)))
            .collect()
    }

    fn apply(&mut self, pairs: Pairs, fault: cluster::Fault) -> Option<Undo> {
        pairs.iter().for_each(|(from, to)| self.fleet.proxy.set(*from, *to, fault));
        (!pairs.is_empty()).then_some(Undo::Heal(pairs))
    }

    fn partition(&mut self, shape: Shape, manner: Manner) -> Option<Undo> {
        let fault = match manner {
            Manner::Closed => cluster::Fault::Cut,
            Manner::Silent => cluster::Fault::Stall,
        };
        let nodes = self.around_leader();
        // Places in a line that begins with the leader.
        let place = |node: usize| nodes.iter().position(|at| *at == node).unwrap_or(0);
        let pairs = match shape {
            Shape::Isolated(target) | Shape::Flapping(target) => {
                let node = self.resolve(target);
                self.pairs(&|from, to| from == node || to == node)
            }
            Shape::Halves => {
                let minority = (nodes.len() - 1) / 2;
                self.pairs(&|from, to| (place(from) < minority) != (place(to) < minority))
            }
            Shape::Chain => self.pairs(&|from, to| place(from).abs_diff(place(to)) > 1),
            Shape::Deaf(target) => {
                let node = self.resolve(target);
                self.pairs(&|_, to| to == node)
            }
            Shape::Mute(target) => {
                let node = self.resolve(target);
                self.pairs(&|from, _| from == node)
            }
        };
        match shape {
            Shape::Flapping(_) if !pairs.is_empty() => {
                Some(Undo::Flap { pairs, fault, next: Instant::now(), cut: false })
            }
            _ => self.apply(pairs, fault),
        }
    }

    /// Nodes that are not part of the cluster yet ask again; whether one was taken in.
    pub fn join_again(&mut self) -> bool {
        let mut joined = false;
        for node in self.fleet.present() {
            let info = self.fleet.info(node);
            let outside =
                |info: &cluster::Info| info.get("raft_state").is_some_and(|state| state == "uninitialized");
            if info.is_some_and(|info| outside(&info)) {
                let said = self.fleet.join(node, Duration::from_secs(5));
                if said.starts_with("OK") {
                    let mut effects = self.effects.lock().unwrap_or_else(PoisonError::into_inner);
                    *effects.entry("nodes that joined later").or_default() += 1;
                    joined = true;
                }
            }
        }
        joined
    }
}

/// What a run that is over says of a server that should be alive.
pub fn not_alive(what: &'static str, bound: Duration, fleet: &Fleet) -> Violation {
    Violation::NotAlive { what, seconds: bound.as_secs(), states: fleet.describe() }
}
