//! `RAFT.CLUSTER` and `RAFT.NODE`: the administrator's commands. Each blocks its client until the raft thread
//! has an answer.

use super::command_table::Tree;
use super::ffi::{self, api, Context, Text};
use super::main_thread::{self, MainThread};
use crate::limits::CLUSTER_ID_BYTES;
use crate::node::address::HostPort;
use crate::node::bridge::{Answer, Ticket, ToRaft};
use redis_module::raw;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ffi::{c_int, c_void};
use std::time::Duration;

/// Beyond what any request may take by itself: an answer that never comes is a defect, not a hanging client.
pub(super) const GRACE_MS: u64 = 10_000;
/// For what depends on the size of the dataset.
const LONG_MS: u64 = 3_600_000;

#[derive(Clone, Copy)]
pub(super) enum Form {
    /// `+OK`, `+OK <id>`.
    Status,
    /// `*2 :id +cluster-id`.
    Added,
    /// `[id, cluster id, secret, members]`, for a node that joins.
    Invitation,
}

struct Ticketed {
    client: *mut raw::RedisModuleBlockedClient,
    form: Form,
}

/// `None`: no answer came in time.
struct Ready {
    answer: Option<Answer>,
    form: Form,
}

/// Requests that wait for the raft thread. As in `wait`: whoever takes a ticket off the list unblocks its client.
#[derive(Default)]
pub struct Tickets {
    next: Cell<Ticket>,
    waiting: RefCell<HashMap<Ticket, Ticketed>>,
    /// Answers given to the server and not yet sent by it.
    under_way: Cell<usize>,
}

impl Tickets {
    /// Blocks the client and sends the request that `request` makes of its ticket.
    pub(super) fn issue(
        &self,
        ctx: Context,
        form: Form,
        timeout_ms: u64,
        request: impl FnOnce(Ticket) -> ToRaft,
    ) -> c_int {
        if !super::wait::is_possible(ctx) {
            return ffi::reply_error(ctx, "ERR not allowed inside a transaction or a script");
        }
        let ticket = self.number();
        // SAFETY: the callbacks are functions of this file; the private data is given when unblocking.
        let client = unsafe {
            let client = api!(RedisModule_BlockClient)(ctx, Some(reply), None, Some(free), 0);
            api!(RedisModule_SetDisconnectCallback)(client, Some(disconnected));
            client
        };
        self.waiting.borrow_mut().insert(ticket, Ticketed { client, form });
        let timeout = Duration::from_millis(timeout_ms);
        main_thread::get().timers.after(ctx, timeout, move |_| timed_out(ticket));
        main_thread::get().bridge.tell_raft(request(ticket));
        ffi::OK
    }

    /// A number that no other request has.
    pub fn number(&self) -> Ticket {
        self.next.set(self.next.get() + 1);
        self.next.get()
    }

    /// Answers the client, if it still waits.
    pub fn answer(&self, ticket: Ticket, answer: Option<Answer>) {
        let Some(Ticketed { client, form }) = self.waiting.borrow_mut().remove(&ticket) else { return };
        let ready = Box::into_raw(Box::new(Ready { answer, form }));
        self.under_way.set(self.under_way.get() + 1);
        // SAFETY: the client is still blocked, and taken off the list by this call; `free` frees the data.
        unsafe { api!(RedisModule_UnblockClient)(client, ready.cast()) };
    }

    /// Some client is still blocked.
    pub fn are_waiting(&self) -> bool {
        self.under_way.get() > 0 || !self.waiting.borrow().is_empty()
    }
}

fn timed_out(ticket: Ticket) {
    main_thread::get().tickets.answer(ticket, None);
}

unsafe extern "C" fn disconnected(_: Context, client: *mut raw::RedisModuleBlockedClient) {
    let tickets = &main_thread::get().tickets;
    let ticket = tickets.waiting.borrow().iter().find(|(_, t)| t.client == client).map(|(ticket, _)| *ticket);
    if let Some(ticket) = ticket {
        // The server wants a client that left to be unblocked all the same.
        tickets.answer(ticket, None);
    }
}

unsafe extern "C" fn free(_: Context, ready: *mut c_void) {
    if !ready.is_null() {
        drop(Box::from_raw(ready.cast::<Ready>()));
        let under_way = &main_thread::get().tickets.under_way;
        under_way.set(under_way.get() - 1);
    }
}

unsafe extern "C" fn reply(ctx: Context, _: *mut Text, _: c_int) -> c_int {
    let Ready { answer, form } = &*api!(RedisModule_GetBlockedClientPrivateData)(ctx).cast::<Ready>();
    match answer {
        Some(answer) => send(ctx, answer, *form),
        None => ffi::reply_error(ctx, "ERR no answer yet; the request goes on, see RAFT.INFO"),
    }
}

fn send(ctx: Context, answer: &Answer, form: Form) -> c_int {
    match (answer, form) {
        (Answer::Ok, _) => ffi::reply_status(ctx, "OK"),
        (Answer::Created { cluster_id }, _) => ffi::reply_status(ctx, &format!("OK {cluster_id}")),
        (Answer::Added { id, cluster_id, secret, members }, Form::Invitation) => {
            ffi::reply_array(ctx, 4);
            ffi::reply_integer(ctx, *id as i64);
            ffi::reply_bulk(ctx, cluster_id.as_bytes());
            ffi::reply_bulk(ctx, secret);
            ffi::reply_bulk(ctx, members)
        }
        (Answer::Added { id, cluster_id, .. }, _) => {
            ffi::reply_array(ctx, 2);
            ffi::reply_integer(ctx, *id as i64);
            ffi::reply_status(ctx, cluster_id)
        }
        (Answer::Moved { address }, _) => ffi::reply_error(ctx, &super::cluster_views::moved(0, address)),
        (Answer::NoLeader, _) => ffi::reply_error(ctx, super::data::NO_LEADER),
        (Answer::Refused(reason), _) => ffi::reply_error(ctx, &format!("ERR {reason}")),
        (Answer::Unknown { id }, _) => ffi::reply_error(
            ctx,
            &format!(
                "ERR leadership was lost meanwhile: the change of node {id} may have been made or not, see RAFT.INFO"
            ),
        ),
    }
}

/// Blocks the client until the raft thread answers with a status; a snapshot of a large dataset takes its time.
pub fn ask(ctx: Context, state: &MainThread, request: impl FnOnce(Ticket) -> ToRaft) -> c_int {
    state.tickets.issue(ctx, Form::Status, LONG_MS, request)
}

fn is(word: Text, name: &str) -> bool {
    ffi::bytes(word).eq_ignore_ascii_case(name.as_bytes())
}

/// `RAFT.CLUSTER INIT [id]`, `RAFT.CLUSTER JOIN host:port [host:port ..] [FORCE]`.
pub unsafe extern "C" fn cluster_command(ctx: Context, argv: *mut Text, argc: c_int) -> c_int {
    let state = main_thread::get();
    match ffi::arguments(argv, argc) {
        [_, init] if is(*init, "init") => init_cluster(ctx, state, None),
        [_, init, id] if is(*init, "init") => init_cluster(ctx, state, Some(*id)),
        [_, join, rest @ ..] if is(*join, "join") && !rest.is_empty() => join_cluster(ctx, state, rest),
        [_, word, ..] if is(*word, "init") || is(*word, "join") => ffi::wrong_arity(ctx),
        [_, word, ..] => {
            let message =
                format!("ERR unknown subcommand '{}': RAFT.CLUSTER takes INIT or JOIN", shown(*word));
            ffi::reply_error(ctx, &message)
        }
        _ => ffi::wrong_arity(ctx),
    }
}

fn shown(word: Text) -> String {
    ffi::lossy(word).chars().take(64).collect()
}

fn init_cluster(ctx: Context, state: &MainThread, id: Option<Text>) -> c_int {
    let id = id.map(ffi::lossy);
    if let Some(id) = id.as_ref().filter(|id| !is_cluster_id(id)) {
        let message = format!(
            "ERR a cluster id has {CLUSTER_ID_BYTES} letters or digits, '{}' has not",
            id.chars().take(64).collect::<String>()
        );
        return ffi::reply_error(ctx, &message);
    }
    let with_data = has_no_data(ctx).is_err();
    let timeout_ms = super::configs::current().election_timeout_ms * 4 + GRACE_MS;
    let timeout_ms = if with_data { LONG_MS } else { timeout_ms };
    let request = |ticket| ToRaft::Init { ticket, cluster_id: id, with_data };
    state.tickets.issue(ctx, Form::Status, timeout_ms, request)
}

fn is_cluster_id(id: &str) -> bool {
    id.len() == CLUSTER_ID_BYTES && id.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

fn join_cluster(ctx: Context, state: &MainThread, words: &[Text]) -> c_int {
    let force = words.last().is_some_and(|word| is(*word, "force"));
    let addresses: Vec<String> =
        words[..words.len() - usize::from(force)].iter().map(|w| ffi::lossy(*w)).collect();
    if addresses.is_empty() {
        return ffi::wrong_arity(ctx);
    }
    for address in &addresses {
        if let Err(error) = HostPort::parse(address) {
            return ffi::reply_error(ctx, &format!("ERR '{address}' is not an address: {error}"));
        }
    }
    if let Err(reason) = has_no_data(ctx).or_else(|reason| if force { Ok(()) } else { Err(reason) }) {
        return ffi::reply_error(
            ctx,
            &format!("ERR {reason}, which joining replaces; add FORCE if that is meant"),
        );
    }
    let timeout_ms = super::configs::current().join_timeout_ms + GRACE_MS;
    state.tickets.issue(ctx, Form::Status, timeout_ms, |ticket| ToRaft::Join { ticket, addresses })
}

/// `Err`: what this server holds.
fn has_no_data(ctx: Context) -> Result<(), String> {
    let keyspace = ffi::call(ctx, &["INFO", "keyspace"])?.text();
    let mut found: Vec<String> =
        keyspace.lines().filter(|line| line.starts_with("db")).map(str::to_string).collect();
    if let Tree::Array(libraries) = ffi::call(ctx, &["FUNCTION", "LIST"])?.tree() {
        if !libraries.is_empty() {
            found.push(format!("{} libraries of functions", libraries.len()));
        }
    }
    match found.is_empty() {
        true => Ok(()),
        false => Err(format!("this server holds data ({})", found.join("; "))),
    }
}

/// `RAFT.NODE ADD|INVITE <id or 0> <host:port> [peer host:port]`, `RAFT.NODE REMOVE <id>`; a node that keeps its log in
/// memory asks by `RAFT.NODE INVITE 0 <host:port> <peer host:port> MEMORY`.
pub unsafe extern "C" fn node_command(ctx: Context, argv: *mut Text, argc: c_int) -> c_int {
    let state = main_thread::get();
    let words = ffi::arguments(argv, argc);
    let form = match words.get(1) {
        Some(word) if is(*word, "add") => Form::Added,
        Some(word) if is(*word, "invite") => Form::Invitation,
        Some(word) if is(*word, "remove") => return remove_node(ctx, state, &words[2..]),
        Some(word) => {
            let message = format!("ERR unknown subcommand '{}': RAFT.NODE takes ADD or REMOVE", shown(*word));
            return ffi::reply_error(ctx, &message);
        }
        None => return ffi::wrong_arity(ctx),
    };
    let in_memory = words.len() == 6 && is(words[5], "memory") && matches!(form, Form::Invitation);
    let end = if in_memory { 5 } else { words.len() };
    let (id, address, peer) = match &words[2..end] {
        [id, address] => (ffi::lossy(*id), ffi::lossy(*address), None),
        [id, address, peer] => (ffi::lossy(*id), ffi::lossy(*address), Some(ffi::lossy(*peer))),
        _ => return ffi::wrong_arity(ctx),
    };
    match parse_node(&id, &address, peer) {
        Err(reason) => ffi::reply_error(ctx, &format!("ERR {reason}")),
        Ok((id, ..)) if in_memory && id != 0 => ffi::reply_error(
            ctx,
            "ERR a node that keeps its log in memory cannot choose its id: it must be 0",
        ),
        Ok((_, address, peer_address)) if in_memory => {
            let timeout_ms = super::configs::current().join_timeout_ms;
            let request = |ticket| ToRaft::AddInMemory { ticket, address, peer_address };
            state.tickets.issue(ctx, form, timeout_ms, request)
        }
        Ok((id, address, peer_address)) => {
            let timeout_ms = super::configs::current().join_timeout_ms;
            let request = |ticket| ToRaft::AddNode { ticket, id, address, peer_address };
            state.tickets.issue(ctx, form, timeout_ms, request)
        }
    }
}

fn remove_node(ctx: Context, state: &MainThread, words: &[Text]) -> c_int {
    let [id] = words else { return ffi::wrong_arity(ctx) };
    match parse_id(&ffi::lossy(*id)) {
        Err(reason) => ffi::reply_error(ctx, &format!("ERR {reason}")),
        Ok(id) => {
            let timeout_ms = super::configs::current().join_timeout_ms;
            state.tickets.issue(ctx, Form::Status, timeout_ms, |ticket| ToRaft::RemoveNode { ticket, id })
        }
    }
}

pub(super) fn parse_id(id: &str) -> Result<u64, String> {
    id.parse().ok().filter(|id| i64::try_from(*id).is_ok()).ok_or_else(|| {
        let shown: String = id.chars().take(64).collect();
        format!("'{}' is not a node id: a positive number, or 0 to have one chosen", shown.escape_debug())
    })
}

fn parse_node(id: &str, address: &str, peer: Option<String>) -> Result<(u64, String, String), String> {
    let id = parse_id(id)?;
    let parsed =
        HostPort::parse(address).map_err(|error| format!("'{address}' is not an address: {error}"))?;
    let peer_address = match peer {
        None => default_peer_address(&parsed)?,
        Some(peer) => {
            HostPort::parse(&peer).map_err(|error| format!("'{peer}' is not an address: {error}"))?;
            peer
        }
    };
    Ok((id, address.to_string(), peer_address))
}

/// Peers connect 10000 ports above the clients, unless told otherwise.
pub fn default_peer_address(address: &HostPort) -> Result<String, String> {
    let port = address
        .port
        .checked_add(10_000)
        .ok_or_else(|| format!("port {} + 10000 is beyond 65535: set raft.peer-addr", address.port))?;
    Ok(HostPort { host: address.host, port }.to_string())
}
