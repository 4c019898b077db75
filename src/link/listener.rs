//! Accepting connections within a budget.

use super::reactor::{Class, Reactor};
use crate::limits::ACCEPT_BUDGET;
use mio::net::{TcpListener, TcpStream};
use mio::Token;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Pause after a failed accept (no descriptors, no memory): the edge will not come again.
const RETRY_AFTER: Duration = Duration::from_millis(100);

pub(super) struct Listener {
    inner: TcpListener,
    pub token: Token,
    pub address: SocketAddr,
    retry_at: Option<Instant>,
}

impl Listener {
    pub fn bind(address: SocketAddr, class: Class, reactor: &mut Reactor) -> io::Result<Listener> {
        let mut inner = TcpListener::bind(address)?;
        let token = reactor.register(&mut inner, class)?;
        let address = inner.local_addr()?;
        Ok(Listener { inner, token, address, retry_at: None })
    }

    /// The connections that wait, at most `ACCEPT_BUDGET`.
    pub fn accept(&mut self, reactor: &mut Reactor, now: Instant) -> Vec<(TcpStream, SocketAddr)> {
        let mut accepted = Vec::new();
        while accepted.len() < ACCEPT_BUDGET {
            match self.inner.accept() {
                Ok(connection) => {
                    accepted.push(connection);
                    self.retry_at = None;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return accepted,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => (),
                // The one that waited has gone already.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => (),
                Err(error) => {
                    log::warn!("cannot accept on {}: {error}; trying again", self.address);
                    self.retry_at = Some(now + RETRY_AFTER);
                    return accepted;
                }
            }
        }
        reactor.remember(self.token);
        accepted
    }

    /// When a failed accept is due again.
    pub fn retry_at(&self) -> Option<Instant> {
        self.retry_at
    }

    pub fn is_due(&self, now: Instant) -> bool {
        self.retry_at.is_some_and(|retry_at| retry_at <= now)
    }
}
