//! Clients: each has one connection, asks for one or several things at once, and notes what it was told.

use crate::coverage;
use crate::history::History;
use crate::linearizability::MAX_OPERATIONS;
use crate::network::Host;
use crate::random::Random;
use crate::redis::{Reply, Request, Step};
use std::collections::VecDeque;

/// Operations on a bundle before clients go on to a fresh one; what is left of the most that can be judged is for
/// requests under way, expiries, and the last reads.
const OPERATIONS_PER_BUNDLE: usize = 60;
/// Bundles in use at the same time.
const BUNDLES: u32 = 3;

/// Which bundles are in use, and the values that were never written before.
pub struct Workload {
    used: Vec<(u32, usize)>,
    bundles: u32,
    values: u64,
    expiring_per_mille: u64,
}

impl Workload {
    pub fn new(expiring_per_mille: u64) -> Workload {
        let used = (0..BUNDLES).map(|bundle| (bundle, 0)).collect();
        Workload { used, bundles: BUNDLES, values: 0, expiring_per_mille }
    }

    /// Bundles that were ever used.
    pub fn bundles(&self) -> u32 {
        self.bundles
    }

    fn draw_bundle(&mut self, random: &mut Random) -> u32 {
        let slot = random.index(self.used.len());
        let (bundle, count) = self.used[slot];
        self.used[slot].1 += 1;
        if count + 1 >= OPERATIONS_PER_BUNDLE {
            self.used[slot] = (self.bundles, 0);
            self.bundles += 1;
        }
        bundle
    }

    fn draw_read(&mut self, random: &mut Random) -> (u32, Step) {
        let step = if random.chance(500) { Step::Get } else { Step::ReadAll };
        (self.draw_bundle(random), step)
    }

    fn draw(&mut self, random: &mut Random) -> (u32, Step) {
        let bundle = self.draw_bundle(random);
        self.values += 1;
        let value = self.values;
        let step = match random.below(100) {
            0..=14 => Step::Get,
            15..=29 if random.chance(self.expiring_per_mille) => {
                Step::SetExpiring { value, ttl_ms: 1 + random.long_tailed(200) }
            }
            15..=29 => Step::Set { value },
            30..=34 => Step::Delete,
            35..=46 => Step::Increment,
            47..=58 => Step::Append { value },
            59..=74 => Step::ReadAll,
            75..=84 => Step::WriteAll { value },
            _ => Step::Watch,
        };
        (bundle, step)
    }

    fn fresh_value(&mut self) -> u64 {
        self.values += 1;
        self.values
    }
}

/// A request without its answer.
struct Open {
    request: Request,
    sent_us: u64,
    watched: Option<u64>,
}

pub struct Client {
    /// It says `READONLY` wherever it connects, and only reads.
    pub reads_anywhere: bool,
    /// The connection, and the machine that it goes to.
    pub connection: Option<(u64, Host)>,
    /// When the last reply so far arrives: a connection does not reorder.
    pub last_delivery_us: u64,
    open: VecDeque<Open>,
    requests: u64,
    /// What was not executed where it was sent, and may be sent elsewhere.
    again: VecDeque<(u32, Step)>,
    /// A compare-and-set waits for its second half: the bundle and what `WATCH` has read.
    watched: Option<(u32, Option<u64>)>,
}

/// What a client does next.
pub enum Next {
    /// All answers are there: think, then ask again.
    Think,
    Wait,
    /// Connect elsewhere: there, if it is known.
    Reconnect {
        address: Option<String>,
    },
}

impl Client {
    pub fn new() -> Client {
        Client {
            reads_anywhere: false,
            connection: None,
            last_delivery_us: 0,
            open: VecDeque::new(),
            requests: 0,
            again: VecDeque::new(),
            watched: None,
        }
    }

    pub fn reader() -> Client {
        Client { reads_anywhere: true, ..Client::new() }
    }

    pub fn is_waiting(&self) -> bool {
        !self.open.is_empty()
    }

    /// The number of the request sent last.
    pub fn last_request(&self) -> u64 {
        self.requests
    }

    /// The next requests, to be sent at once.
    pub fn ask(
        &mut self,
        now_us: u64,
        pipeline: u64,
        workload: &mut Workload,
        random: &mut Random,
    ) -> Vec<Request> {
        assert!(self.open.is_empty(), "a client waits for its answers");
        let mut steps: Vec<(u32, Step)> = Vec::new();
        let mut watched = None;
        if let Some((bundle, saw)) = self.watched.take() {
            watched = saw;
            steps.push((bundle, Step::Exec { value: workload.fresh_value() }));
        } else if !self.again.is_empty() {
            coverage::mark("refused request sent again");
            steps.extend(self.again.drain(..));
        } else if self.reads_anywhere {
            for _ in 0..random.between(1, pipeline.min(2)) {
                steps.push(workload.draw_read(random));
            }
        } else {
            while steps.len() < random.between(1, pipeline) as usize {
                let (bundle, step) = workload.draw(random);
                // The second half comes when the first was answered.
                let alone = step == Step::Watch;
                if alone && !steps.is_empty() {
                    continue;
                }
                steps.push((bundle, step));
                if alone {
                    break;
                }
            }
        }
        steps.into_iter().map(|(bundle, step)| self.send(bundle, step, now_us, watched)).collect()
    }

    pub fn send(&mut self, bundle: u32, step: Step, now_us: u64, watched: Option<u64>) -> Request {
        self.requests += 1;
        let request = Request { number: self.requests, bundle, step };
        self.open.push_back(Open { request: request.clone(), sent_us: now_us, watched });
        request
    }

    /// A reply has come.
    pub fn receive(&mut self, number: u64, reply: Reply, now_us: u64, history: &mut History) -> Next {
        let open = self.open.pop_front().expect("replies come to requests");
        assert_eq!(open.request.number, number, "replies come in the order of the requests");
        let Request { bundle, step, .. } = open.request;
        match reply {
            Reply::Moved { address } => {
                self.refused(bundle, step);
                return match self.open.is_empty() {
                    true => Next::Reconnect { address: Some(address) },
                    false => Next::Wait,
                };
            }
            Reply::NoLeader => {
                self.refused(bundle, step);
                return if self.open.is_empty() { Next::Reconnect { address: None } } else { Next::Wait };
            }
            reply => {
                history.answered((bundle, &step), (open.sent_us, now_us), open.watched, &reply);
                if let (Step::Watch, Reply::Register(found)) = (&step, &reply) {
                    self.watched = Some((bundle, *found));
                }
            }
        }
        if self.open.is_empty() {
            Next::Think
        } else {
            Next::Wait
        }
    }

    /// Certainly not executed. A transaction that was refused at its end has lost its `WATCH` with its connection.
    fn refused(&mut self, bundle: u32, step: Step) {
        if !matches!(step, Step::Exec { .. }) {
            self.again.push_back((bundle, step));
        }
    }

    /// The connection is gone: what was not answered is of unknown outcome.
    pub fn disconnected(&mut self, history: &mut History) {
        self.connection = None;
        self.watched = None;
        for open in self.open.drain(..) {
            if open.request.step.may_write() {
                coverage::mark("write of unknown outcome");
            }
            history.unknown((open.request.bundle, &open.request.step), open.sent_us, open.watched);
        }
    }
}

impl Default for Client {
    fn default() -> Client {
        Client::new()
    }
}

const _: () = assert!(OPERATIONS_PER_BUNDLE + 40 < MAX_OPERATIONS);
