//! Ports for servers: the client port and the peer port, 10,000 above it, must both be free.

use std::net::TcpListener;
use std::sync::atomic::{AtomicU32, Ordering};

/// Distance of the peer port from the client port.
const PEER_PORT_OFFSET: u16 = 10_000;
/// Client ports are taken from here; with the peer ports this stays below Linux' ephemeral ports (32768).
const FIRST_PORT: u16 = 10_100;
const PORT_COUNT: u32 = 12_000;

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A port such that it and the port 10,000 above it can be bound now, different for every call.
///
/// # Panics
/// When no such pair is found.
pub fn free_port() -> u16 {
    let start = std::process::id().wrapping_mul(97);
    for _ in 0..PORT_COUNT {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let offset = start.wrapping_add(step) % PORT_COUNT;
        let port = FIRST_PORT + u16::try_from(offset).expect("the range is below 65,536");
        if is_free(port) && is_free(port + PEER_PORT_OFFSET) {
            return port;
        }
    }
    panic!("no pair of free ports between {FIRST_PORT} and 32,100");
}

/// Whether 127.0.0.1:`port` can be bound now.
pub fn is_free(port: u16) -> bool {
    TcpListener::bind(("127.0.0.1", port)).is_ok()
}

/// The port on which the peers of the server at `port` arrive.
pub const fn peer_port(port: u16) -> u16 {
    port + PEER_PORT_OFFSET
}
