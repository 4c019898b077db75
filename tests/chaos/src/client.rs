//! A client at work: it asks, notes what it was told, and never repeats what may have been done.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use redisraft_sim::history::Operation;

use crate::cluster::{encode, Value};
use crate::record::Record;
use crate::session::{is_refusal, Outcome, Session};
use crate::violation::{Result, Violation};
use crate::workload::{Task, Workload, MEMBERS_PER_LOCK};

const WRITE_ALL: &str = "redis.call('SET', KEYS[1], ARGV[1]) local count = redis.call('INCR', KEYS[2]) \
     redis.call('RPUSH', KEYS[3], ARGV[1]) return count";
const GIVE_BACK: &str =
    "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) else return 0 end";
/// How long a request that is refused is tried.
const PATIENCE: Duration = Duration::from_secs(5);

/// What kind of client it is. When the leader is cut off, those that write are soon stuck with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Habit {
    /// Does everything.
    Plain,
    /// Only reads, and stays where it is answered: with a leader that was replaced, too.
    Reader,
    /// Goes to any server again and again, and so finds a new leader first.
    Wanderer,
}

impl Habit {
    pub fn of(client: usize) -> Habit {
        [Habit::Plain, Habit::Reader, Habit::Wanderer][client % 3]
    }

    /// Of a thousand tasks, so many begin with another server.
    fn wandering_per_mille(self) -> u64 {
        match self {
            Habit::Plain => 30,
            Habit::Reader => 2,
            Habit::Wanderer => 300,
        }
    }
}

pub struct Client {
    pub number: usize,
    pub session: Session,
    pub record: Arc<Mutex<Record>>,
    pub workload: Arc<Mutex<Workload>>,
    pub think_us: u64,
}

/// What came of a request.
enum Answer {
    Replies(Vec<Value>),
    /// Refused until the client lost patience: certainly not done.
    Refused,
    Unknown,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn number(value: &Value) -> Option<u64> {
    match value {
        Value::Integer(number) => u64::try_from(*number).ok(),
        Value::Bulk(bytes) => std::str::from_utf8(bytes).ok()?.parse().ok(),
        _ => None,
    }
}

/// A value or nothing; the outer `None` stands for anything else.
fn register(value: &Value) -> Option<Option<u64>> {
    match value {
        Value::Nil => Some(None),
        value => number(value).map(Some),
    }
}

fn numbers(value: &Value) -> Option<Vec<u64>> {
    match value {
        Value::Array(values) => values.iter().map(number).collect(),
        _ => None,
    }
}

fn key(kind: char, bundle: u32) -> String {
    format!("{kind}:{bundle}")
}

impl Client {
    /// Works until it is stopped.
    ///
    /// # Errors
    /// When a reply cannot be explained.
    pub fn work(mut self) -> Result<()> {
        let habit = Habit::of(self.number);
        while !self.session.is_stopped() {
            if self.session.random.chance(habit.wandering_per_mille()) {
                self.session.wander();
            }
            let reads = habit == Habit::Reader;
            let (bundle, task) = lock(&self.workload).draw(reads, &mut self.session.random);
            self.perform(bundle, task)?;
            let pause_us = self.session.random.below(2 * self.think_us);
            std::thread::sleep(Duration::from_micros(pause_us));
        }
        Ok(())
    }

    /// False if nobody answered.
    fn perform(&mut self, bundle: u32, task: Task) -> Result<bool> {
        match task {
            Task::Read => self.read(bundle),
            Task::Set => self.set(bundle, None),
            Task::SetExpiring { ttl_ms } => self.set(bundle, Some(ttl_ms)),
            Task::Delete => self.single(
                bundle,
                &["DEL", &key('r', bundle)],
                Some(Operation::DeleteRegister { removed: None }),
                |reply| Some(Operation::DeleteRegister { removed: Some(number(reply)? == 1) }),
            ),
            Task::Increment => self.single(
                bundle,
                &["INCR", &key('c', bundle)],
                Some(Operation::Increment { count: None }),
                |reply| Some(Operation::Increment { count: Some(number(reply)?) }),
            ),
            Task::Append => {
                let value = lock(&self.workload).fresh_value();
                self.single(
                    bundle,
                    &["RPUSH", &key('l', bundle), &value.to_string()],
                    Some(Operation::Append { value, length: None }),
                    |reply| Some(Operation::Append { value, length: Some(number(reply)?) }),
                )
            }
            Task::ReadAll => self.read_all(bundle),
            Task::WriteAll { script: true } => self.write_all_by_script(bundle),
            Task::WriteAll { script: false } => self.write_all(bundle),
            Task::CompareAndSet => self.compare_and_set(bundle),
            Task::Hold => self.hold(bundle),
            Task::ReadMembers => self.read_members(bundle),
        }
    }

    /// Reads the register; false if nobody answered.
    pub fn read(&mut self, bundle: u32) -> Result<bool> {
        self.single(bundle, &["GET", &key('r', bundle)], None, |reply| {
            Some(Operation::ReadRegister { found: register(reply)? })
        })
    }

    /// Reads the set; false if nobody answered.
    pub fn read_members(&mut self, bundle: u32) -> Result<bool> {
        self.single(bundle, &["SMEMBERS", &key('s', bundle)], None, |reply| {
            Some(Operation::ReadMembers { members: numbers(reply)? })
        })
    }

    /// One command with one reply; false if nobody answered. `unknown`: what it may have done then.
    fn single(
        &mut self,
        bundle: u32,
        command: &[&str],
        unknown: Option<Operation>,
        read: impl Fn(&Value) -> Option<Operation>,
    ) -> Result<bool> {
        let (answer, sent) = self.request(&encode(command), 1)?;
        match answer {
            Answer::Replies(replies) => {
                let operation = read(&replies[0]).ok_or_else(|| self.unexplained(command[0], &replies))?;
                lock(&self.record).answered(bundle, operation, sent);
                return Ok(true);
            }
            Answer::Unknown => {
                if let Some(operation) = unknown {
                    lock(&self.record).unknown(bundle, operation, sent);
                }
            }
            Answer::Refused => {}
        }
        Ok(false)
    }

    fn set(&mut self, bundle: u32, ttl_ms: Option<u64>) -> Result<bool> {
        let value = lock(&self.workload).fresh_value();
        let (register, text) = (key('r', bundle), value.to_string());
        let ttl = ttl_ms.map(|ttl_ms| ttl_ms.to_string());
        let mut command = vec!["SET", &register, &text];
        if let Some(ttl) = &ttl {
            command.extend(["PX", ttl]);
            lock(&self.record).may_expire(bundle, value, Instant::now());
        }
        let operation = Operation::SetRegister { value };
        self.single(bundle, &command, Some(operation.clone()), |reply| {
            reply.is_ok().then(|| operation.clone())
        })
    }

    fn write_all_by_script(&mut self, bundle: u32) -> Result<bool> {
        let value = lock(&self.workload).fresh_value();
        let keys = ['r', 'c', 'l'].map(|kind| key(kind, bundle));
        let text = value.to_string();
        self.single(
            bundle,
            &["EVAL", WRITE_ALL, "3", &keys[0], &keys[1], &keys[2], &text],
            Some(Operation::WriteAll { value, count: None }),
            |reply| Some(Operation::WriteAll { value, count: Some(number(reply)?) }),
        )
    }

    fn write_all(&mut self, bundle: u32) -> Result<bool> {
        let value = lock(&self.workload).fresh_value();
        let keys = ['r', 'c', 'l'].map(|kind| key(kind, bundle));
        let text = value.to_string();
        let commands: [&[&str]; 3] =
            [&["SET", &keys[0], &text], &["INCR", &keys[1]], &["RPUSH", &keys[2], &text]];
        let (answer, sent) = self.transaction(&commands)?;
        match answer {
            Answer::Replies(replies) => {
                let count = match &replies[..] {
                    [Value::Array(results)] if results.len() == 3 => number(&results[1]),
                    _ => None,
                };
                let Some(count) = count else { return Err(self.unexplained("EXEC", &replies)) };
                let operation = Operation::WriteAll { value, count: Some(count) };
                lock(&self.record).answered(bundle, operation, sent);
                return Ok(true);
            }
            Answer::Unknown => {
                lock(&self.record).unknown(bundle, Operation::WriteAll { value, count: None }, sent);
            }
            Answer::Refused => {}
        }
        Ok(false)
    }

    /// Reads all three in one transaction; false if nobody answered.
    pub fn read_all(&mut self, bundle: u32) -> Result<bool> {
        let keys = ['r', 'c', 'l'].map(|kind| key(kind, bundle));
        let commands: [&[&str]; 3] =
            [&["GET", &keys[0]], &["GET", &keys[1]], &["LRANGE", &keys[2], "0", "-1"]];
        let (answer, sent) = self.transaction(&commands)?;
        let Answer::Replies(replies) = answer else { return Ok(false) };
        let found = match &replies[..] {
            [Value::Array(results)] if results.len() == 3 => {
                register(&results[0]).zip(register(&results[1])).zip(numbers(&results[2]))
            }
            _ => None,
        };
        let Some(((register, counter), list)) = found else { return Err(self.unexplained("EXEC", &replies)) };
        let operation = Operation::ReadAll { register, counter: counter.unwrap_or(0), list };
        lock(&self.record).answered(bundle, operation, sent);
        Ok(true)
    }

    fn compare_and_set(&mut self, bundle: u32) -> Result<bool> {
        let register_key = key('r', bundle);
        let mut request = encode(&["WATCH", &register_key]);
        request.extend(encode(&["GET", &register_key]));
        let (answer, sent) = self.request(&request, 2)?;
        let Answer::Replies(replies) = answer else { return Ok(false) };
        let expected = register(&replies[1]).filter(|_| replies[0].is_ok());
        let Some(expected) = expected else { return Err(self.unexplained("WATCH", &replies)) };
        lock(&self.record).answered(bundle, Operation::ReadRegister { found: expected }, sent);

        let value = lock(&self.workload).fresh_value();
        let text = value.to_string();
        let sent = Instant::now();
        // Once only: elsewhere nothing is watched.
        let (request, count) = in_transaction(&[&["SET", &register_key, &text]]);
        let operation = Operation::CompareAndSet { expected, value };
        match self.session.send(&request, count) {
            Outcome::NotSent => {}
            Outcome::Unknown => lock(&self.record).unknown(bundle, operation, sent),
            Outcome::Replies(replies) => match self.executed(&replies)? {
                Ok(Value::Array(results)) if results.len() == 1 && results[0].is_ok() => {
                    lock(&self.record).answered(bundle, operation, sent);
                }
                Ok(Value::Nil) => {}
                Ok(other) => return Err(self.unexplained("EXEC", &[other])),
                Err(refusal) => {
                    lock(&self.record).refused(&refusal);
                    self.session.redirect(&refusal);
                }
            },
        }
        Ok(true)
    }

    fn hold(&mut self, bundle: u32) -> Result<bool> {
        let token = lock(&self.workload).fresh_value();
        let (lock_key, set_key, text) = (key('r', bundle), key('s', bundle), token.to_string());
        let (answer, sent) = self.request(&encode(&["SET", &lock_key, &text, "NX"]), 1)?;
        match answer {
            Answer::Refused => return Ok(false),
            Answer::Unknown => {
                let operation = Operation::SetIfAbsent { value: token, taken: None };
                lock(&self.record).unknown(bundle, operation, sent);
            }
            Answer::Replies(replies) => {
                let taken = match &replies[0] {
                    Value::Nil => false,
                    reply if reply.is_ok() => true,
                    _ => return Err(self.unexplained("SET NX", &replies)),
                };
                let operation = Operation::SetIfAbsent { value: token, taken: Some(taken) };
                lock(&self.record).answered(bundle, operation, sent);
                for _ in 0..if taken { MEMBERS_PER_LOCK } else { 0 } {
                    let value = lock(&self.workload).fresh_value();
                    let operation = Operation::AddMember { value };
                    let unknown = Some(operation.clone());
                    self.single(bundle, &["SADD", &set_key, &value.to_string()], unknown, |reply| {
                        (number(reply)? == 1).then(|| operation.clone())
                    })?;
                }
            }
        }
        // Also by those who did not get it, or do not know: it must have no effect then.
        self.single(
            bundle,
            &["EVAL", GIVE_BACK, "1", &lock_key, &text],
            Some(Operation::DeleteIfEqual { value: token, removed: None }),
            |reply| Some(Operation::DeleteIfEqual { value: token, removed: Some(number(reply)? == 1) }),
        )
    }

    /// Sends a request until somebody takes it; when it was sent the last time.
    fn request(&mut self, request: &[u8], count: usize) -> Result<(Answer, Instant)> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let sent = Instant::now();
            let refusal = match self.session.send(request, count) {
                Outcome::Unknown => return Ok((Answer::Unknown, sent)),
                Outcome::NotSent => "unreachable".to_owned(),
                Outcome::Replies(replies) => match replies.iter().find(|reply| is_refusal(reply)) {
                    None => return Ok((Answer::Replies(replies), sent)),
                    Some(refusal) => refusal.text(),
                },
            };
            lock(&self.record).refused(&refusal);
            self.session.redirect(&refusal);
            if self.session.is_stopped() || sent > deadline {
                return Ok((Answer::Refused, sent));
            }
        }
    }

    /// Sends a transaction until somebody takes it; the reply of its `EXEC`.
    fn transaction(&mut self, commands: &[&[&str]]) -> Result<(Answer, Instant)> {
        let (request, count) = in_transaction(commands);
        let deadline = Instant::now() + PATIENCE;
        loop {
            let sent = Instant::now();
            let refusal = match self.session.send(&request, count) {
                Outcome::Unknown => return Ok((Answer::Unknown, sent)),
                Outcome::NotSent => "unreachable".to_owned(),
                Outcome::Replies(replies) => match self.executed(&replies)? {
                    Ok(result) => return Ok((Answer::Replies(vec![result]), sent)),
                    Err(refusal) => refusal,
                },
            };
            lock(&self.record).refused(&refusal);
            self.session.redirect(&refusal);
            if self.session.is_stopped() || sent > deadline {
                return Ok((Answer::Refused, sent));
            }
        }
    }

    /// The result of a transaction from its replies, or why it certainly was not executed.
    fn executed(&self, replies: &[Value]) -> Result<std::result::Result<Value, String>> {
        let (Some(first), Some(last)) = (replies.first(), replies.last()) else {
            unreachable!("a transaction has a reply for MULTI and one for EXEC")
        };
        if is_refusal(first) {
            // A follower answers the reads behind it one by one to those who said READONLY: they change nothing.
            let only_reads = Habit::of(self.number) == Habit::Reader;
            return match only_reads || replies.iter().all(|reply| matches!(reply, Value::Error(_))) {
                true => Ok(Err(first.text())),
                false => Err(Violation::RanWithoutMulti { client: self.number, replies: describe(replies) }),
            };
        }
        match last {
            refusal if is_refusal(refusal) => Ok(Err(refusal.text())),
            Value::Error(_) => Err(self.unexplained("EXEC", replies)),
            result => Ok(Ok(result.clone())),
        }
    }

    fn unexplained(&self, command: &str, replies: &[Value]) -> Violation {
        Violation::Reply { client: self.number, command: command.to_owned(), reply: describe(replies) }
    }
}

fn describe(replies: &[Value]) -> String {
    replies.iter().map(Value::to_string).collect::<Vec<_>>().join(" | ")
}

/// `commands` between `MULTI` and `EXEC`, and how many replies they have.
fn in_transaction(commands: &[&[&str]]) -> (Vec<u8>, usize) {
    let mut request = encode(&["MULTI"]);
    commands.iter().for_each(|command| request.extend(encode(command)));
    request.extend(encode(&["EXEC"]));
    (request, commands.len() + 2)
}
