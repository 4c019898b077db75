//! A client of the whole cluster that knows of each command what became of it.

use std::fmt;
use std::time::{Duration, Instant};

use super::wire::{Connection, Value};

/// Why a command has no reply.
#[derive(Clone, Debug)]
pub enum Failure {
    /// It certainly took no effect: every server that was asked refused it until the time was over.
    Refused(String),
    /// It was sent and the connection ended or stayed silent: it may have taken effect.
    Unknown(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(reason) => write!(formatter, "refused: {reason}"),
            Self::Unknown(reason) => write!(formatter, "unknown outcome: {reason}"),
        }
    }
}

/// Follows `-MOVED`, tries again on `-CLUSTERDOWN`, `-LOADING` and refused connections, and never sends a command
/// twice once its outcome is unknown.
pub struct Client {
    ports: Vec<u16>,
    next: usize,
    connection: Option<(u16, Connection)>,
    /// How long a command is tried.
    pub patience: Duration,
    /// How long one server may take for its reply.
    pub reply_timeout: Duration,
}

impl Client {
    pub fn new(ports: Vec<u16>) -> Self {
        assert!(!ports.is_empty(), "a client needs a server");
        Self {
            ports,
            next: 0,
            connection: None,
            patience: Duration::from_secs(15),
            reply_timeout: Duration::from_secs(3),
        }
    }

    /// Runs a command once. The server's own errors (`-WRONGTYPE ..`) are replies like any other.
    ///
    /// # Errors
    /// [`Failure`] says whether the command may have taken effect.
    pub fn call<A: AsRef<[u8]>>(&mut self, command: &[A]) -> Result<Value, Failure> {
        let deadline = Instant::now() + self.patience;
        let mut refusal = String::from("no server was reached");
        while Instant::now() < deadline {
            let Some(connection) = self.connected() else {
                std::thread::sleep(Duration::from_millis(2));
                continue;
            };
            match connection.call(command) {
                Ok(Value::Error(error)) if is_redirection(&error) => {
                    self.redirect(&error);
                    refusal = error;
                }
                Ok(reply) => return Ok(reply),
                Err(error) => {
                    self.give_up_connection();
                    return Err(Failure::Unknown(error.to_string()));
                }
            }
        }
        Err(Failure::Refused(refusal))
    }

    /// Runs a command that may be repeated (a read, or an idempotent write) until it is answered.
    ///
    /// # Panics
    /// When it is not answered within the client's patience.
    pub fn repeat<A: AsRef<[u8]>>(&mut self, command: &[A]) -> Value {
        let deadline = Instant::now() + self.patience;
        loop {
            match self.call(command) {
                Ok(reply) => return reply,
                Err(failure) => {
                    let name = String::from_utf8_lossy(command[0].as_ref()).into_owned();
                    assert!(Instant::now() < deadline, "{name} was not answered: {failure}");
                }
            }
        }
    }

    /// [`repeat`](Self::repeat) with the words of a line as the command.
    ///
    /// # Panics
    /// When it is not answered within the client's patience.
    pub fn run(&mut self, line: &str) -> Value {
        self.repeat(&line.split_whitespace().collect::<Vec<_>>())
    }

    /// The port of the server that answered last.
    pub fn port(&self) -> Option<u16> {
        self.connection.as_ref().map(|(port, _)| *port)
    }

    fn connected(&mut self) -> Option<&mut Connection> {
        if self.connection.is_none() {
            let port = self.ports[self.next % self.ports.len()];
            match Connection::open(port) {
                Ok(mut connection) => {
                    connection.set_timeout(self.reply_timeout).ok()?;
                    self.connection = Some((port, connection));
                }
                Err(_) => self.next += 1,
            }
        }
        self.connection.as_mut().map(|(_, connection)| connection)
    }

    fn give_up_connection(&mut self) {
        self.connection = None;
        self.next += 1;
    }

    fn redirect(&mut self, error: &str) {
        let moved_to = error
            .strip_prefix("MOVED ")
            .and_then(|rest| rest.rsplit(':').next())
            .and_then(|port| port.parse::<u16>().ok())
            .and_then(|port| self.ports.iter().position(|known| *known == port));
        self.connection = None;
        match moved_to {
            Some(position) if position != self.next % self.ports.len() => self.next = position,
            _ => {
                self.next += 1;
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }
}

/// Errors that say: not here, or not now; nothing was executed.
fn is_redirection(error: &str) -> bool {
    ["MOVED ", "CLUSTERDOWN", "LOADING", "MASTERDOWN", "NOCLUSTER"]
        .iter()
        .any(|prefix| error.starts_with(prefix))
}
