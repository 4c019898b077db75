//! One connection of a client: it follows redirections, and knows of each request what became of it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use redisraft_sim::random::Random;

use crate::cluster::{Connection, Value};

/// The ports of all servers, which grow when a node joins.
#[derive(Clone, Default)]
pub struct Roster(Arc<Mutex<Vec<u16>>>);

impl Roster {
    pub fn add(&self, port: u16) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(port);
    }

    pub fn ports(&self) -> Vec<u16> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What became of a request.
#[derive(Debug)]
pub enum Outcome {
    Replies(Vec<Value>),
    /// It was never sent.
    NotSent,
    /// It was sent, or part of it, and the connection ended or stayed silent.
    Unknown,
}

pub struct Session {
    roster: Roster,
    pub random: Random,
    connection: Option<Connection>,
    /// Where to connect next.
    next: Option<u16>,
    reply_timeout: Duration,
    /// Says `READONLY` on each connection: followers may answer its reads.
    readonly: bool,
    stop: Arc<AtomicBool>,
}

/// Longest pause before a refused request is sent again.
const MAX_PAUSE_MS: u64 = 20;

impl Session {
    pub fn new(roster: Roster, random: Random, reply_timeout: Duration, stop: Arc<AtomicBool>) -> Session {
        Session { roster, random, connection: None, next: None, reply_timeout, readonly: false, stop }
    }

    /// Says `READONLY` on each connection from now on.
    #[must_use]
    pub fn readonly(self) -> Session {
        Session { readonly: true, ..self }
    }

    pub fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Connects to any server with the next request, whoever leads.
    pub fn wander(&mut self) {
        self.connection = None;
        self.next = None;
    }

    pub fn disconnect(&mut self) {
        self.connection = None;
    }

    /// Sends `request` once and waits for `count` replies.
    pub fn send(&mut self, request: &[u8], count: usize) -> Outcome {
        let Some(connection) = self.connected() else { return Outcome::NotSent };
        let replies = connection
            .send_raw(request)
            .and_then(|()| (0..count).map(|_| connection.receive()).collect::<std::io::Result<Vec<_>>>());
        match replies {
            Ok(replies) => Outcome::Replies(replies),
            Err(_) => {
                self.wander();
                Outcome::Unknown
            }
        }
    }

    fn connected(&mut self) -> Option<&mut Connection> {
        if self.connection.is_none() {
            let port = self.next.take().unwrap_or_else(|| *self.random.pick(&self.roster.ports()));
            self.connection = Connection::open(port).ok();
            if let Some(connection) = &mut self.connection {
                connection.set_timeout(self.reply_timeout).ok()?;
                if self.readonly && connection.call(&["READONLY"]).is_err() {
                    self.connection = None;
                }
            }
        }
        self.connection.as_mut()
    }

    /// After a refusal: goes where it points, or waits a little and tries any server.
    pub fn redirect(&mut self, refusal: &str) {
        self.connection = None;
        let port = refusal.strip_prefix("MOVED ").and_then(|rest| rest.rsplit(':').next());
        self.next = port.and_then(|port| port.parse().ok());
        // Two nodes may each take the other for the leader for a while.
        let pause_ms = if self.next.is_some() { 2 } else { self.random.between(2, MAX_PAUSE_MS) };
        std::thread::sleep(Duration::from_millis(pause_ms));
    }
}

/// Errors that say: certainly not executed, not here or not now.
pub fn is_refusal(reply: &Value) -> bool {
    const REFUSALS: [&str; 7] =
        ["MOVED ", "CLUSTERDOWN", "LOADING", "MASTERDOWN", "NOCLUSTER", "BUSY ", "EXECABORT"];
    REFUSALS.iter().any(|prefix| reply.is_error(prefix))
}

/// Asks the server at `port` once, and waits for its reply for so long.
pub fn ask(port: u16, line: &str, patience: Duration) -> Option<Value> {
    let words: Vec<&str> = line.split_whitespace().collect();
    ask_words(port, &words, patience)
}

/// [`ask`] with arguments that may hold blanks.
pub fn ask_words(port: u16, words: &[&str], patience: Duration) -> Option<Value> {
    let deadline = Instant::now() + patience;
    let mut connection = Connection::open(port).ok()?;
    let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
    connection.set_timeout(left).ok()?;
    connection.call(words).ok()
}
