//! One request to another node's Redis port: for joining, before there is a link.
//!
//! Blocking, to be run on a short-lived thread of its own.

use crate::limits::MAX_REDIRECTS;
use crate::resp::{encode_command, parse_reply, Reply, RespError};
use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

/// Why there is no reply.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    #[error("cannot resolve {address}: {source}")]
    Resolve { address: String, source: io::Error },
    #[error("cannot connect to {address}: {source}")]
    Connect { address: String, source: io::Error },
    #[error("connection to {address} failed: {source}")]
    Connection { address: String, source: io::Error },
    #[error("{address} did not answer within {} ms", timeout.as_millis())]
    Timeout { address: String, timeout: Duration },
    #[error("{address} does not speak RESP: {source}")]
    Protocol { address: String, source: RespError },
    #[error("{address} refused the credentials: {error}; check raft.cluster-user and raft.cluster-password")]
    Credentials { address: String, error: String },
    #[error("{address} is redirecting without end, or to nowhere: {error}")]
    Redirect { address: String, error: String },
}

/// Sends `args` to the server at `address` (`host:port`) and returns its reply, an error reply included.
/// Authenticates first where `credentials` (user, password) are given, and follows `-MOVED`. `timeout` is for
/// everything together, except the resolution of names.
pub fn request(
    address: &str,
    credentials: Option<(&str, &str)>,
    args: &[&[u8]],
    timeout: Duration,
) -> Result<Reply, JoinError> {
    let deadline = Instant::now() + timeout;
    let mut address = address.to_string();
    let mut redirects = 0;
    loop {
        let mut connection = Connection::open(&address, deadline, timeout)?;
        if let Some((user, password)) = credentials {
            let reply = connection.exchange(&[b"AUTH", user.as_bytes(), password.as_bytes()])?;
            if let Reply::Error(error) = reply {
                return Err(JoinError::Credentials { address, error });
            }
        }
        let error = match connection.exchange(args)? {
            Reply::Error(error) if error.starts_with("MOVED ") => error,
            reply => return Ok(reply),
        };
        redirects += 1;
        match moved_to(&error, &address) {
            Some(next) if redirects <= MAX_REDIRECTS => address = next,
            _ => return Err(JoinError::Redirect { address, error }),
        }
    }
}

/// Address in `MOVED <slot> <host>:<port>`; an empty host is the one that answered.
fn moved_to(error: &str, answered: &str) -> Option<String> {
    let target = error.split(' ').nth(2)?;
    let (host, port) = target.rsplit_once(':')?;
    port.parse::<u16>().ok()?;
    let host = if host.is_empty() { answered.rsplit_once(':')?.0 } else { host };
    // A bare IPv6 address, as Redis prints it, needs its brackets to be parsed again.
    let bare_v6 = host.contains(':') && !host.starts_with('[');
    Some(if bare_v6 { format!("[{host}]:{port}") } else { format!("{host}:{port}") })
}

struct Connection<'a> {
    stream: TcpStream,
    address: &'a str,
    deadline: Instant,
    timeout: Duration,
    input: Vec<u8>,
}

impl<'a> Connection<'a> {
    fn open(address: &'a str, deadline: Instant, timeout: Duration) -> Result<Connection<'a>, JoinError> {
        let resolve = |source| JoinError::Resolve { address: address.into(), source };
        let mut failure = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for candidate in address.to_socket_addrs().map_err(resolve)? {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(JoinError::Timeout { address: address.into(), timeout });
            }
            match TcpStream::connect_timeout(&candidate, left) {
                Ok(stream) => {
                    return Ok(Connection { stream, address, deadline, timeout, input: Vec::new() });
                }
                Err(error) => failure = error,
            }
        }
        Err(JoinError::Connect { address: address.into(), source: failure })
    }

    /// Sends one command and waits for its reply.
    fn exchange(&mut self, args: &[&[u8]]) -> Result<Reply, JoinError> {
        let mut command = Vec::new();
        encode_command(&mut command, args);
        let left = self.left()?;
        let sent = self.stream.set_write_timeout(Some(left)).and_then(|()| self.stream.write_all(&command));
        sent.map_err(|error| self.failed(error))?;
        let mut piece = [0; 4096];
        loop {
            let protocol = |source| JoinError::Protocol { address: self.address.into(), source };
            if let Some((reply, length)) = parse_reply(&self.input).map_err(protocol)? {
                self.input.drain(..length);
                return Ok(reply);
            }
            let left = self.left()?;
            let read = self.stream.set_read_timeout(Some(left)).and_then(|()| self.stream.read(&mut piece));
            match read {
                Ok(0) => return Err(self.failed(io::ErrorKind::UnexpectedEof.into())),
                Ok(length) => self.input.extend_from_slice(&piece[..length]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => (),
                Err(error) => return Err(self.failed(error)),
            }
        }
    }

    fn left(&self) -> Result<Duration, JoinError> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(JoinError::Timeout { address: self.address.into(), timeout: self.timeout });
        }
        Ok(left)
    }

    fn failed(&self, source: io::Error) -> JoinError {
        let address = self.address.into();
        match source.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                JoinError::Timeout { address, timeout: self.timeout }
            }
            _ => JoinError::Connection { address, source },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_name_an_address() {
        assert_eq!(moved_to("MOVED 0 h:1", "a:2").as_deref(), Some("h:1"));
        assert_eq!(moved_to("MOVED 0 :1", "a:2").as_deref(), Some("a:1"));
        assert_eq!(moved_to("MOVED 0 ::1:1", "a:2").as_deref(), Some("[::1]:1"));
        assert_eq!(moved_to("MOVED 0 [::1]:1", "a:2").as_deref(), Some("[::1]:1"));
        assert_eq!(moved_to("MOVED 0 h:x", "a:2"), None);
        assert_eq!(moved_to("MOVED 0", "a:2"), None);
    }
}
