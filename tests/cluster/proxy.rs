//! A TCP proxy between peers that applies faults to directed pairs of nodes.
//!
//! Every node has one front: the address that the others are told as its `peer-addr`. A front cannot know who
//! dials, so it reads the hello with which each peer connection opens,
//! `HELLO-RAFT <version> <cluster> <own id> <target id> <nonce>`, and takes the dialler's id from it. Messages of
//! a to b travel only on the connection that a has dialled: a fault of the pair (a, b) is a fault of that connection,
//! in both of its directions.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{channel, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::wire::{self, Value};

/// What happens to the traffic of a directed pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Connections are closed and new ones are closed as soon as they have said who they are.
    Cut,
    /// Connections stay open and carry nothing: what is sent is held until the pair is healed or cut.
    Stall,
    /// Every byte arrives this much later.
    Delay(Duration),
    /// Now and then a connection ends, at any byte: one of so many times that something has come to be carried on.
    Tear { one_of: u64 },
}

/// How often a stalled or idle connection looks for a change of its fault.
const LOOK: Duration = Duration::from_millis(5);

#[derive(Default)]
struct Shared {
    faults: Mutex<HashMap<(u64, u64), Fault>>,
    stopped: AtomicBool,
    /// Connections that have said a valid hello, so that a test can assert that its traffic goes through here.
    introduced: AtomicUsize,
    /// Connections that [`Fault::Tear`] has ended.
    torn: AtomicUsize,
    /// What has come to be carried on, counted for [`Fault::Tear`].
    carried: AtomicU64,
}

impl Shared {
    fn fault(&self, pair: (u64, u64)) -> Option<Fault> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner).get(&pair).copied()
    }

    fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    /// How much of `length` bytes is carried on before the connection ends; `None`: all, and it goes on.
    fn torn_after(&self, pair: (u64, u64), length: usize) -> Option<usize> {
        let Some(Fault::Tear { one_of }) = self.fault(pair) else { return None };
        // SplitMix64 (Steele et al. 2014).
        let mut mixed =
            self.carried.fetch_add(1, Ordering::Relaxed).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        if !mixed.is_multiple_of(one_of) {
            return None;
        }
        self.torn.fetch_add(1, Ordering::Relaxed);
        Some((mixed >> 32) as usize % length)
    }
}

/// The fronts of all nodes. Dropping it closes every connection.
#[derive(Default)]
pub struct Proxy {
    shared: Arc<Shared>,
}

impl Proxy {
    /// Opens a front for the node that listens for its peers on 127.0.0.1:`target`; returns the front's port.
    ///
    /// # Panics
    /// When no port can be bound.
    pub fn front(&self, target: u16) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port for the proxy");
        let port = listener.local_addr().expect("the address of a bound socket").port();
        listener.set_nonblocking(true).expect("a non-blocking listener");
        let shared = Arc::clone(&self.shared);
        thread::spawn(move || {
            while !shared.is_stopped() {
                match listener.accept() {
                    Ok((dialler, _)) => {
                        let shared = Arc::clone(&shared);
                        thread::spawn(move || drop(carry(&shared, dialler, target)));
                    }
                    Err(_) => thread::sleep(LOOK),
                }
            }
        });
        port
    }

    /// Applies `fault` to what `from` sends to `to` (ids of nodes).
    pub fn set(&self, from: u64, to: u64, fault: Fault) {
        self.shared.faults.lock().unwrap_or_else(PoisonError::into_inner).insert((from, to), fault);
    }

    pub fn heal(&self, from: u64, to: u64) {
        self.shared.faults.lock().unwrap_or_else(PoisonError::into_inner).remove(&(from, to));
    }

    pub fn heal_all(&self) {
        self.shared.faults.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// How many connections have introduced themselves so far.
    pub fn introduced(&self) -> usize {
        self.shared.introduced.load(Ordering::Relaxed)
    }

    /// How many connections [`Fault::Tear`] has ended so far.
    pub fn torn(&self) -> usize {
        self.shared.torn.load(Ordering::Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::Relaxed);
    }
}

/// One connection from hello to end.
fn carry(shared: &Arc<Shared>, mut dialler: TcpStream, target: u16) -> io::Result<()> {
    dialler.set_nonblocking(false)?;
    let (hello, pair) = read_hello(&mut dialler)?;
    shared.introduced.fetch_add(1, Ordering::Relaxed);
    if shared.fault(pair) == Some(Fault::Cut) {
        return Ok(());
    }
    let mut acceptor = TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], target)))?;
    dialler.set_nodelay(true)?;
    acceptor.set_nodelay(true)?;
    let back = (acceptor.try_clone()?, dialler.try_clone()?);
    let returning = {
        let shared = Arc::clone(shared);
        thread::spawn(move || pump(&shared, pair, back.0, back.1, Vec::new()))
    };
    wait_while_stalled(shared, pair);
    let (input, output) = (dialler.try_clone()?, acceptor.try_clone()?);
    pump(shared, pair, input, output, hello);
    let _ = acceptor.flush();
    let _ = returning.join();
    Ok(())
}

/// Reads the first array of a connection: its bytes, and the pair (dialler, target) that it names.
fn read_hello(dialler: &mut TcpStream) -> io::Result<(Vec<u8>, (u64, u64))> {
    dialler.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut bytes = Vec::new();
    loop {
        let mut chunk = [0; 4096];
        let length = dialler.read(&mut chunk)?;
        if length == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        bytes.extend_from_slice(&chunk[..length]);
        if let Some((Value::Array(words), _)) = wire::parse(&bytes)? {
            return pair_of(&words).map(|pair| (bytes, pair));
        }
    }
}

fn pair_of(hello: &[Value]) -> io::Result<(u64, u64)> {
    let words: Vec<String> = hello.iter().map(Value::text).collect();
    let id = |word: Option<&String>| word.and_then(|word| word.parse::<u64>().ok());
    match (words.first().map(String::as_str), id(words.get(3)), id(words.get(4))) {
        (Some("HELLO-RAFT"), Some(from), Some(to)) => Ok((from, to)),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, format!("not a hello: {words:?}"))),
    }
}

fn wait_while_stalled(shared: &Shared, pair: (u64, u64)) {
    while !shared.is_stopped() && shared.fault(pair) == Some(Fault::Stall) {
        thread::sleep(LOOK);
    }
}

/// Carries bytes from `input` to `output` until either ends or the pair is cut, then closes both.
fn pump(shared: &Arc<Shared>, pair: (u64, u64), input: TcpStream, output: TcpStream, first: Vec<u8>) {
    let (sender, receiver) = channel();
    let closing = output.try_clone();
    let writer = {
        let shared = Arc::clone(shared);
        thread::spawn(move || write_in_time(&shared, pair, output, &receiver))
    };
    if first.is_empty() || sender.send((due(shared, pair), first)).is_ok() {
        read_until_cut(shared, pair, &input, &sender);
    }
    drop(sender);
    let _ = writer.join();
    let _ = input.shutdown(Shutdown::Both);
    if let Ok(output) = closing {
        let _ = output.shutdown(Shutdown::Both);
    }
}

/// When bytes that are read now may leave.
fn due(shared: &Shared, pair: (u64, u64)) -> Instant {
    match shared.fault(pair) {
        Some(Fault::Delay(delay)) => Instant::now() + delay,
        _ => Instant::now(),
    }
}

fn read_until_cut(
    shared: &Shared,
    pair: (u64, u64),
    mut input: &TcpStream,
    sender: &Sender<(Instant, Vec<u8>)>,
) {
    if input.set_read_timeout(Some(LOOK)).is_err() {
        return;
    }
    let mut chunk = vec![0; 1 << 16];
    while !shared.is_stopped() && shared.fault(pair) != Some(Fault::Cut) {
        match input.read(&mut chunk) {
            Ok(0) => return,
            Ok(length) => {
                let torn_after = shared.torn_after(pair, length);
                let carried = chunk[..torn_after.unwrap_or(length)].to_vec();
                if sender.send((due(shared, pair), carried)).is_err() || torn_after.is_some() {
                    return;
                }
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
            Err(_) => return,
        }
    }
}

fn write_in_time(
    shared: &Shared,
    pair: (u64, u64),
    mut output: TcpStream,
    receiver: &Receiver<(Instant, Vec<u8>)>,
) {
    for (due, bytes) in receiver {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        wait_while_stalled(shared, pair);
        let cut = shared.is_stopped() || shared.fault(pair) == Some(Fault::Cut);
        if cut || output.write_all(&bytes).is_err() {
            return;
        }
    }
}
