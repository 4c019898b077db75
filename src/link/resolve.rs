//! Host names, resolved off the raft thread: the system's resolver blocks.

use mio::Waker;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::mpsc::{channel, Receiver, Sender};
use std::sync::Arc;

/// Finds the addresses of `host:port`. It may block.
pub type Resolve = fn(&str) -> io::Result<Vec<SocketAddr>>;

/// The system's own way: `/etc/hosts`, DNS, and what else it is set up for.
pub fn by_the_system(address: &str) -> io::Result<Vec<SocketAddr>> {
    address.to_socket_addrs().map(Iterator::collect)
}

pub(super) struct Resolver {
    resolve: Resolve,
    waker: Arc<Waker>,
    sender: Sender<Resolved>,
    receiver: Receiver<Resolved>,
    next_request: u64,
}

/// Answer to one request.
pub(super) struct Resolved {
    pub request: u64,
    pub result: io::Result<Vec<SocketAddr>>,
}

/// What `lookup` could say at once.
pub(super) enum Lookup {
    Known(SocketAddr),
    /// The answer comes through `next`, after a wake-up.
    Asked {
        request: u64,
    },
}

impl Resolver {
    pub fn new(resolve: Resolve, waker: Arc<Waker>) -> Resolver {
        let (sender, receiver) = channel();
        Resolver { resolve, waker, sender, receiver, next_request: 1 }
    }

    /// Looks up `host:port`: an address at once, a name by a thread of its own. The caller has at most one
    /// request per peer under way, which bounds the threads.
    pub fn lookup(&mut self, address: &str) -> io::Result<Lookup> {
        if let Ok(address) = address.parse() {
            return Ok(Lookup::Known(address));
        }
        let request = self.next_request;
        self.next_request += 1;
        let (sender, waker, address) = (self.sender.clone(), self.waker.clone(), address.to_string());
        let resolve = self.resolve;
        std::thread::Builder::new().name("raft-resolve".into()).spawn(move || {
            let result = resolve(&address);
            // Both fail only when the links are gone, and the answer with them.
            let _ = sender.send(Resolved { request, result });
            let _ = waker.wake();
        })?;
        Ok(Lookup::Asked { request })
    }

    /// The next answer that has come in.
    pub fn next(&mut self) -> Option<Resolved> {
        self.receiver.try_recv().ok()
    }
}
