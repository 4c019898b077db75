//! Clients that take no error: what a planned change of the leader must look like to them.
//!
//! Each follows `-MOVED`, as a client library does, and nothing else: any other error, and any connection that ends
//! under a command, is noted. Each counts in keys of its own, so that what it was told can be compared with what is
//! there.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::wire::{encode, Connection, Value};
use super::{wait_for, Cluster};

/// How a client talks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// One connection; a new one where `-MOVED` points.
    Plain,
    /// A connection to each node; asks `CLUSTER SLOTS` after each `-MOVED`.
    Cluster,
    /// As `Plain`, 16 commands at a time.
    Pipelined,
    /// As `Plain`; `BLPOP` of what it pushes through a second connection.
    Blocking,
}

/// What one client knows in the end.
#[derive(Debug, Default)]
pub struct Account {
    pub key: String,
    /// Increments that were answered, and increments with an unknown outcome.
    pub answered: i64,
    pub unknown: i64,
    pub errors: Vec<String>,
    /// The longest time from a command to its answer, redirections included.
    pub longest: Duration,
    pub redirections: u64,
}

/// Clients at work.
pub struct Strict {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    workers: Vec<JoinHandle<Account>>,
}

impl Strict {
    pub fn start(ports: &[u16], manners: &[Manner]) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let answered = Arc::new(AtomicU64::new(0));
        let worker = |(number, manner): (usize, &Manner)| {
            let mut worker = Worker {
                manner: *manner,
                ports: ports.to_vec(),
                current: ports[0],
                connections: BTreeMap::new(),
                account: Account { key: format!("strict:{number}"), ..Account::default() },
            };
            let (stop, answered) = (Arc::clone(&stop), Arc::clone(&answered));
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let before = worker.account.answered;
                    worker.work();
                    let more = u64::try_from(worker.account.answered - before).expect("it only grows");
                    answered.fetch_add(more, Ordering::Relaxed);
                }
                worker.account
            })
        };
        let workers = manners.iter().enumerate().map(worker).collect();
        Self { stop, answered, workers }
    }

    /// Waits for `count` more answers.
    ///
    /// # Panics
    /// When they do not come within 20 s.
    pub fn wait_for_more(&self, count: u64) {
        let goal = self.answered.load(Ordering::Relaxed) + count;
        wait_for("the clients to go on", Duration::from_secs(20), || {
            self.answered.load(Ordering::Relaxed) >= goal
        });
    }

    /// Ends the clients; prints the longest time that one has waited.
    ///
    /// # Panics
    /// When a client has failed, or has waited for more than two seconds: something hung.
    pub fn stop(self, what: &str) -> Vec<Account> {
        self.stop_within(what, Duration::from_secs(2))
    }

    /// Like [`stop`](Self::stop), where a wait of up to `limit` is expected.
    ///
    /// # Panics
    /// When a client has failed, or has waited for longer.
    pub fn stop_within(self, what: &str, limit: Duration) -> Vec<Account> {
        self.stop.store(true, Ordering::Relaxed);
        let join = |worker: JoinHandle<Account>| worker.join().expect("a client failed");
        let accounts: Vec<Account> = self.workers.into_iter().map(join).collect();
        let answered: i64 = accounts.iter().map(|account| account.answered).sum();
        let redirections: u64 = accounts.iter().map(|account| account.redirections).sum();
        let longest = accounts.iter().map(|account| account.longest).max().unwrap_or_default();
        println!("{what}: {answered} answers, {redirections} redirections, the longest wait was {longest:?}");
        assert!(longest < limit, "{what}: a client waited for {longest:?}");
        accounts
    }
}

/// Every answered increment is there, and no increment twice; on all nodes.
///
/// # Panics
/// When that is not so.
pub fn verify(cluster: &mut Cluster, accounts: &[Account]) {
    cluster.wait_converged();
    for node in cluster.running() {
        for account in accounts {
            let found = cluster.local(node, &format!("GET {}", account.key)).text().parse().unwrap_or(0);
            assert!(
                (account.answered..=account.answered + account.unknown).contains(&found),
                "node {node}: {} is {found}: {account:?}",
                account.key
            );
        }
    }
}

/// # Panics
/// When a client saw an error.
pub fn without_errors(accounts: &[Account]) {
    for account in accounts {
        assert!(account.errors.is_empty(), "{}: {:?}", account.key, account.errors);
        assert_eq!(account.unknown, 0, "{} has increments of unknown outcome", account.key);
    }
}

struct Worker {
    manner: Manner,
    ports: Vec<u16>,
    current: u16,
    connections: BTreeMap<u16, Connection>,
    account: Account,
}

enum Outcome {
    Answer(Value),
    /// Certainly not executed.
    Moved,
    Failed,
}

impl Worker {
    fn work(&mut self) {
        let started = Instant::now();
        match self.manner {
            Manner::Plain | Manner::Cluster => self.increment(),
            Manner::Pipelined => self.increment_many(),
            Manner::Blocking => self.push_and_pop(),
        }
        self.account.longest = self.account.longest.max(started.elapsed());
    }

    fn increment(&mut self) {
        let key = self.account.key.clone();
        match self.until_answered(&["INCR", &key]) {
            Some(Value::Integer(value)) => self.count(value),
            Some(other) => self.note(format!("INCR was answered with {other}")),
            None => {}
        }
    }

    /// The counter is this client's alone: what it is told is what it has counted.
    fn count(&mut self, value: i64) {
        self.account.answered += 1;
        let (least, most) = (self.account.answered, self.account.answered + self.account.unknown);
        if !(least..=most).contains(&value) {
            self.note(format!("the counter is {value}, expected {least} to {most}"));
        }
    }

    fn increment_many(&mut self) {
        const COUNT: usize = 16;
        let command = encode(&["INCR", &self.account.key]);
        let port = self.current;
        let replies: io::Result<Vec<Value>> = self.connection().and_then(|connection| {
            connection.send_raw(&command.repeat(COUNT))?;
            (0..COUNT).map(|_| connection.receive()).collect()
        });
        match replies {
            Ok(replies) => {
                let mut moved = false;
                for reply in replies {
                    match self.judge(Ok(reply)) {
                        Outcome::Answer(Value::Integer(value)) if !moved => self.count(value),
                        Outcome::Answer(other) => self.note(format!("{other} after a redirection: {moved}")),
                        Outcome::Moved => moved = true,
                        Outcome::Failed => {}
                    }
                }
            }
            Err(error) => {
                self.account.unknown += COUNT as i64;
                self.failed(port, &error);
            }
        }
    }

    /// The pop waits for the push, perhaps at a node that stops leading meanwhile.
    fn push_and_pop(&mut self) {
        let (key, list) = (self.account.key.clone(), format!("{}:list", self.account.key));
        let waiting = self.connection().and_then(|connection| connection.send(&["BLPOP", &list, "5"]));
        if let Err(error) = waiting {
            return self.failed(self.current, &error);
        }
        std::thread::sleep(Duration::from_millis(5));
        let mut pusher = Worker {
            manner: Manner::Plain,
            connections: BTreeMap::new(),
            account: Account::default(),
            ports: self.ports.clone(),
            ..*self
        };
        if pusher.until_answered(&["RPUSH", &list, "x"]).is_none() {
            self.account.errors.append(&mut pusher.account.errors);
        }
        let reply = self.connection().and_then(Connection::receive);
        let popped = match self.judge(reply) {
            Outcome::Answer(value) => Some(value),
            Outcome::Moved => self.until_answered(&["BLPOP", &list, "5"]),
            Outcome::Failed => None,
        };
        match popped {
            Some(Value::Array(_)) => match self.until_answered(&["INCR", &key]) {
                Some(Value::Integer(value)) => self.count(value),
                other => self.note(format!("INCR was answered with {other:?}")),
            },
            other => self.note(format!("BLPOP was answered with {other:?}")),
        }
    }

    fn until_answered(&mut self, command: &[&str]) -> Option<Value> {
        let patience = Instant::now() + Duration::from_secs(10);
        while Instant::now() < patience {
            let reply = self.connection().and_then(|connection| connection.call(command));
            match self.judge(reply) {
                Outcome::Answer(value) => return Some(value),
                Outcome::Moved => {}
                Outcome::Failed => {
                    self.account.unknown += i64::from(command[0] == "INCR");
                    return None;
                }
            }
        }
        self.note("redirected for ten seconds".into());
        None
    }

    fn judge(&mut self, reply: io::Result<Value>) -> Outcome {
        match reply {
            Ok(Value::Error(error)) if error.starts_with("MOVED ") => {
                let port = error.rsplit(':').next().and_then(|port| port.parse().ok());
                self.current = port.unwrap_or_else(|| panic!("{error:?} names no address"));
                self.account.redirections += 1;
                if self.manner == Manner::Cluster {
                    self.ask_for_slots();
                } else {
                    let current = self.current;
                    self.connections.retain(|port, _| *port == current);
                }
                Outcome::Moved
            }
            Ok(Value::Error(error)) => {
                self.note(error);
                Outcome::Failed
            }
            Ok(value) => Outcome::Answer(value),
            Err(error) => {
                self.failed(self.current, &error);
                Outcome::Failed
            }
        }
    }

    /// There is always an answer, and never an empty one. A node that has just been removed says so: a client library
    /// asks another one then.
    fn ask_for_slots(&mut self) {
        match self.connection().and_then(|connection| connection.call(&["CLUSTER", "SLOTS"])) {
            Ok(Value::Array(slots)) if !slots.is_empty() => {}
            Ok(Value::Error(error)) if error.contains("was removed") => {}
            Ok(other) => self.note(format!("CLUSTER SLOTS was answered with {other}")),
            Err(error) => self.failed(self.current, &error),
        }
    }

    fn connection(&mut self) -> io::Result<&mut Connection> {
        match self.connections.entry(self.current) {
            std::collections::btree_map::Entry::Occupied(entry) => Ok(entry.into_mut()),
            std::collections::btree_map::Entry::Vacant(entry) => {
                let mut connection = Connection::open(self.current)?;
                connection.set_timeout(Duration::from_secs(8))?;
                Ok(entry.insert(connection))
            }
        }
    }

    /// The connection ended; another node is asked next.
    fn failed(&mut self, port: u16, error: &io::Error) {
        self.note(format!("connection to {port}: {error}"));
        self.connections.remove(&port);
        let next = self.ports.iter().position(|known| *known == port).map_or(0, |at| at + 1);
        self.current = self.ports[next % self.ports.len()];
        std::thread::sleep(Duration::from_millis(2));
    }

    fn note(&mut self, error: String) {
        if self.account.errors.len() < 20 {
            self.account.errors.push(error);
        }
    }
}
