//! Writing clients that keep account, and the judge of what they were told.
//!
//! Each worker takes turns with four kinds of command, all of which would show a write that is lost, doubled or
//! half done: `INCR` of a common counter, `SET` of a fresh key, `RPUSH` of a running number to its own list, and
//! a script that increments a pair of counters.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::client::{Client, Failure};
use super::wait_for;
use super::wire::Value;

const COUNTER: &str = "load:counter";
const PAIR: [&str; 2] = ["load:pair:a", "load:pair:b"];
const PAIR_SCRIPT: &str = "redis.call('INCR', KEYS[1]) return redis.call('INCR', KEYS[2])";

/// A command that was answered with a number, and when.
#[derive(Clone, Copy, Debug)]
struct Answer {
    sent: Instant,
    answered: Instant,
    value: i64,
}

/// Answers to one counting command, and how many attempts have an unknown outcome.
#[derive(Clone, Debug, Default)]
struct Count {
    answers: Vec<Answer>,
    unknown: i64,
}

/// What one worker knows.
#[derive(Clone, Debug, Default)]
struct Account {
    worker: usize,
    counter: Count,
    pair: Count,
    set: Vec<String>,
    pushed: Vec<i64>,
    push_unknown: BTreeSet<i64>,
}

/// Running workers.
pub struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    workers: Vec<JoinHandle<Account>>,
}

impl Load {
    /// Starts `count` workers against the servers at `ports`.
    pub fn start(ports: &[u16], count: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let answered = Arc::new(AtomicU64::new(0));
        let workers = (0..count)
            .map(|worker| {
                let (stop, answered) = (Arc::clone(&stop), Arc::clone(&answered));
                let client = Client::new(ports.to_vec());
                std::thread::spawn(move || work(worker, client, &stop, &answered))
            })
            .collect();
        Self { stop, answered, workers }
    }

    /// Commands answered so far.
    pub fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }

    /// Waits for `count` more answers.
    ///
    /// # Panics
    /// When they do not come within 20 s.
    pub fn wait_for_more(&self, count: u64) {
        let goal = self.answered() + count;
        wait_for("the load to go on", Duration::from_secs(20), || self.answered() >= goal);
    }

    /// Ends the workers and collects what they know.
    ///
    /// # Panics
    /// When a worker has failed.
    pub fn stop(mut self) -> Report {
        self.stop.store(true, Ordering::Relaxed);
        let workers = std::mem::take(&mut self.workers);
        Report {
            accounts: workers.into_iter().map(|worker| worker.join().expect("a worker failed")).collect(),
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn work(worker: usize, mut client: Client, stop: &AtomicBool, answered: &AtomicU64) -> Account {
    let mut account = Account { worker, ..Account::default() };
    let mut number = 0_i64;
    while !stop.load(Ordering::Relaxed) {
        number += 1;
        let known = match number % 4 {
            0 => count(&mut client, &mut account.counter, &["INCR", COUNTER]),
            1 => count(&mut client, &mut account.pair, &["EVAL", PAIR_SCRIPT, "2", PAIR[0], PAIR[1]]),
            2 => set(&mut client, &mut account, number),
            _ => push(&mut client, &mut account, number),
        };
        answered.fetch_add(u64::from(known), Ordering::Relaxed);
    }
    account
}

fn count(client: &mut Client, count: &mut Count, command: &[&str]) -> bool {
    let sent = Instant::now();
    match client.call(command) {
        Ok(Value::Integer(value)) => {
            count.answers.push(Answer { sent, answered: Instant::now(), value });
            true
        }
        Ok(other) => panic!("{} was answered with {other}", command[0]),
        Err(Failure::Unknown(_)) => {
            count.unknown += 1;
            false
        }
        Err(Failure::Refused(_)) => false,
    }
}

fn set(client: &mut Client, account: &mut Account, number: i64) -> bool {
    let key = format!("load:set:{}:{number}", account.worker);
    match client.call(&["SET", &key, &key]) {
        Ok(reply) => {
            assert!(reply.is_ok(), "SET was answered with {reply}");
            account.set.push(key);
            true
        }
        Err(_) => false,
    }
}

fn push(client: &mut Client, account: &mut Account, number: i64) -> bool {
    match client.call(&["RPUSH", &list_of(account.worker), &number.to_string()]) {
        Ok(Value::Integer(_)) => {
            account.pushed.push(number);
            true
        }
        Ok(other) => panic!("RPUSH was answered with {other}"),
        Err(Failure::Unknown(_)) => {
            account.push_unknown.insert(number);
            false
        }
        Err(Failure::Refused(_)) => false,
    }
}

fn list_of(worker: usize) -> String {
    format!("load:list:{worker}")
}

/// What all workers know, after they have ended.
pub struct Report {
    accounts: Vec<Account>,
}

impl Report {
    /// Answered commands.
    pub fn answered(&self) -> usize {
        let one = |account: &Account| {
            account.counter.answers.len()
                + account.pair.answers.len()
                + account.set.len()
                + account.pushed.len()
        };
        self.accounts.iter().map(one).sum()
    }

    /// Compares all that was answered with what `read` finds now.
    ///
    /// # Panics
    /// When an answered write is lost, doubled, half done or out of order.
    pub fn verify(&self, read: &mut dyn FnMut(&[&str]) -> Value) {
        self.verify_count(read, COUNTER, |account| &account.counter);
        self.verify_count(read, PAIR[0], |account| &account.pair);
        assert_eq!(read(&["GET", PAIR[0]]), read(&["GET", PAIR[1]]), "a script was applied in part");
        for account in &self.accounts {
            verify_sets(read, account);
            verify_list(read, account);
        }
    }

    fn verify_count(
        &self,
        read: &mut dyn FnMut(&[&str]) -> Value,
        key: &str,
        of: impl Fn(&Account) -> &Count,
    ) {
        let mut by_value = BTreeMap::new();
        for answer in self.accounts.iter().flat_map(|account| &of(account).answers) {
            let twice = by_value.insert(answer.value, *answer);
            assert!(twice.is_none(), "{key}: the reply {} was given twice", answer.value);
        }
        let mut latest_start: Option<Answer> = None;
        for answer in by_value.values() {
            if let Some(earlier) = latest_start {
                assert!(
                    earlier.sent <= answer.answered,
                    "{key}: {} was answered before {} was even sent",
                    answer.value,
                    earlier.value
                );
            }
            if latest_start.is_none_or(|latest| latest.sent < answer.sent) {
                latest_start = Some(*answer);
            }
        }
        let answered = i64::try_from(by_value.len()).expect("a count of replies");
        let unknown: i64 = self.accounts.iter().map(|account| of(account).unknown).sum();
        let found: i64 = read(&["GET", key]).text().parse().unwrap_or(0);
        assert!(
            (answered..=answered + unknown).contains(&found),
            "{key} is {found} after {answered} answered increments and {unknown} of unknown outcome"
        );
        let highest = by_value.last_key_value().map_or(0, |(value, _)| *value);
        assert!(found >= highest, "{key} is {found}, but {highest} had been answered");
    }
}

fn verify_sets(read: &mut dyn FnMut(&[&str]) -> Value, account: &Account) {
    for keys in account.set.chunks(500) {
        let mut command = vec!["MGET"];
        command.extend(keys.iter().map(String::as_str));
        for (key, found) in keys.iter().zip(read(&command).array()) {
            assert_eq!(found.text(), *key, "an answered SET is lost");
        }
    }
}

fn verify_list(read: &mut dyn FnMut(&[&str]) -> Value, account: &Account) {
    let name = list_of(account.worker);
    let found = read(&["LRANGE", &name, "0", "-1"]);
    let found: Vec<i64> = found.array().iter().map(|value| value.text().parse().expect("a number")).collect();
    let mut seen = BTreeSet::new();
    for number in &found {
        assert!(seen.insert(*number), "{name}: {number} was pushed once and is there twice");
    }
    let answered: BTreeSet<i64> = account.pushed.iter().copied().collect();
    let in_list: Vec<i64> = found.iter().copied().filter(|number| answered.contains(number)).collect();
    assert_eq!(in_list, account.pushed, "{name}: answered pushes are lost or out of order");
    for number in found.iter().filter(|number| !answered.contains(number)) {
        assert!(account.push_unknown.contains(number), "{name}: {number} was refused and is there");
    }
}

/// What cannot be compressed: `length` printable letters, the same ones for the same seed.
pub fn noise(seed: u64, length: usize) -> String {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        char::from(b'!' + (state % 90) as u8)
    };
    (0..length).map(|_| next()).collect()
}
