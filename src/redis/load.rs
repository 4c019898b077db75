//! Loading the module: everything is checked before anything is started, and a load that fails says why in one line.

use super::access::Access;
use super::command_table::{renamed, CommandTable};
use super::ffi::{self, Context, OwnedText, Text};
use super::gate::Gate;
use super::info::Build;
use super::main_thread::{self, MainThread, Words};
use super::options::Arguments;
use super::{
    admin, configs, data, filter, follower_reads, logger, roles, settings, shutdown, signals, snapshot,
    symbols, topology, transfer,
};
use crate::link::{LinkConfig, Links};
use crate::log::disk::{Disk, SystemDisk};
use crate::log::memory::MemoryDisk;
use crate::node::address::HostPort;
use crate::node::bridge::{Bridge, ToMain, ToRaft};
use crate::node::runtime::{find_log, Found, Runtime, Setup};
use crate::node::settings::Settings;
use redis_module::raw;
use std::cell::{Cell, RefCell};
use std::ffi::{c_int, c_void};
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

const MODULE_VERSION: c_int = 1;

/// Called by the server.
///
/// # Safety
/// The arguments are those that the server passes to a module's load function.
#[no_mangle]
pub unsafe extern "C" fn RedisModule_OnLoad(ctx: Context, argv: *mut Text, argc: c_int) -> c_int {
    let initialized = raw::Export_RedisModule_Init(
        ctx,
        c"raft".as_ptr(),
        MODULE_VERSION,
        raw::REDISMODULE_APIVER_1 as c_int,
    );
    if initialized != ffi::OK {
        return ffi::ERR;
    }
    logger::install();
    match load(ctx, ffi::arguments(argv, argc)) {
        Ok(()) => ffi::OK,
        Err(reason) => {
            ffi::log_line(
                c"warning",
                &format!("raft cannot be loaded: {}", reason.replace(['\r', '\n'], " ")),
            );
            ffi::ERR
        }
    }
}

fn load(ctx: Context, words: &[Text]) -> Result<(), String> {
    let arguments: Vec<&[u8]> = words.iter().map(|word| ffi::bytes(*word)).collect();
    let arguments = Arguments::parse(&arguments).map_err(|error| error.to_string())?;
    symbols::find()?;
    settings::check(ctx)?;
    // SAFETY (both): `ctx` is that of the running OnLoad.
    unsafe { configs::register(ctx, &arguments)? };
    let settings = unsafe { configs::load(ctx)? };
    logger::configure(&settings);
    settings.without_effect().for_each(|name| log::warn!("raft.{name} has no effect yet"));
    let setup = setup(ctx, &settings)?;
    let links = Links::new(LinkConfig {
        peer_listen: listen_addresses(ctx, &settings, &setup.peer_address)?,
        resolve: crate::link::by_the_system,
        connect_timeout: Duration::from_millis(settings.connection_timeout_ms),
        reconnect_interval: Duration::from_millis(settings.reconnect_interval_ms),
    })
    .map_err(|error| error.to_string())?;
    if settings.persist {
        check_directory(&setup.log_directory)?;
    }
    let found = find_log(&setup, &links)?;
    let table = command_table(ctx, &settings)?;
    register_commands(ctx)?;
    start(ctx, setup, links, found, table)
}

/// What the node is called and where it lives.
fn setup(ctx: Context, settings: &Arc<Settings>) -> Result<Setup, String> {
    let port = server_port(ctx)?;
    let address = match settings.addr.is_empty() {
        true => HostPort { host: &own_host(), port }.to_string(),
        false => settings.addr.clone(),
    };
    let parsed = HostPort::parse(&address).map_err(|error| format!("addr '{address}': {error}"))?;
    let peer_address = match settings.peer_addr.is_empty() {
        true => admin::default_peer_address(&HostPort { host: parsed.host, port })?,
        false => settings.peer_addr.clone(),
    };
    let directory = std::env::current_dir()
        .map_err(|error| format!("cannot find the server's working directory: {error}"))?
        .join(&settings.log_filename);
    let disk: Arc<dyn Disk> = match settings.persist {
        true => Arc::new(SystemDisk),
        false => Arc::new(MemoryDisk::new(&directory)),
    };
    Ok(Setup {
        settings: settings.clone(),
        log_directory: directory,
        disk,
        address,
        peer_address,
        server: server_address(ctx, port)?,
        capture_secret: random_hex()?,
        feed_token: random_hex()?.into_bytes(),
    })
}

fn server_port(ctx: Context) -> Result<u16, String> {
    match ffi::config_get(ctx, "port")?.parse() {
        Ok(0) | Err(_) => {
            Err("port is 0: raft reads the server's replication stream over a plain port; set one \
                               (it may be bound to 127.0.0.1)"
                .into())
        }
        Ok(port) => Ok(port),
    }
}

/// Where the capture link reaches this server: loopback, if it listens there.
fn server_address(ctx: Context, port: u16) -> Result<SocketAddr, String> {
    let binds = bind_addresses(ctx)?;
    let any = binds.iter().any(|bind| bind == "*" || bind == "0.0.0.0" || bind == "127.0.0.1");
    let host = match binds.first() {
        Some(first) if !any => first.as_str(),
        _ => "127.0.0.1",
    };
    (host, port)
        .to_socket_addrs()
        .ok()
        .and_then(|mut addresses| addresses.next())
        .ok_or_else(|| format!("bind {host}: cannot be resolved"))
}

/// The server's bind addresses, without the sign that makes one optional.
fn bind_addresses(ctx: Context) -> Result<Vec<String>, String> {
    let binds = ffi::config_get(ctx, "bind")?;
    Ok(binds.split_whitespace().map(|bind| bind.trim_start_matches('-').to_string()).collect())
}

/// Where to listen for peers: the port of `peer-addr` on the addresses that the server itself listens on.
fn listen_addresses(
    ctx: Context,
    settings: &Settings,
    peer_address: &str,
) -> Result<Vec<SocketAddr>, String> {
    let resolve = |host: &str, port: u16| -> Result<SocketAddr, String> {
        (host, port)
            .to_socket_addrs()
            .ok()
            .and_then(|mut addresses| addresses.next())
            .ok_or_else(|| format!("cannot listen for peers on {host}: the name cannot be resolved"))
    };
    if !settings.peer_listen.is_empty() {
        let listen = HostPort::parse(&settings.peer_listen).map_err(|error| error.to_string())?;
        return Ok(vec![resolve(listen.host, listen.port)?]);
    }
    let port = HostPort::parse(peer_address).map_err(|error| format!("peer-addr: {error}"))?.port;
    let mut addresses = Vec::new();
    for bind in bind_addresses(ctx)? {
        match bind.as_str() {
            "*" => addresses.push(SocketAddr::from(([0, 0, 0, 0], port))),
            "::*" => {} // the server's own spelling of "every IPv6 address, if there is any"
            host => addresses.push(resolve(host, port)?),
        }
    }
    if addresses.is_empty() {
        addresses.push(SocketAddr::from(([0, 0, 0, 0], port)));
    }
    Ok(addresses)
}

/// First address of this machine that is not loopback; loopback if there is none.
fn own_host() -> String {
    let interfaces = nix::ifaddrs::getifaddrs().into_iter().flatten();
    let addresses = interfaces.filter_map(|interface| Some(interface.address?.as_sockaddr_in()?.ip()));
    let first = addresses.filter(|ip| !ip.is_loopback()).map(|ip| ip.to_string()).next();
    first.unwrap_or_else(|| "127.0.0.1".to_string())
}

fn random_hex() -> Result<String, String> {
    let mut bytes = [0; 20];
    getrandom::fill(&mut bytes).map_err(|error| format!("the system gives no random numbers: {error}"))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// The log's directory can be made and written to.
fn check_directory(directory: &Path) -> Result<(), String> {
    let parent = if directory.exists() { directory } else { directory.parent().unwrap_or(Path::new("/")) };
    let probe = parent.join(format!(".raft-probe-{}", std::process::id()));
    let failed = |error: std::io::Error| {
        format!(
            "cannot write to {}, where the log {} belongs: {error}",
            parent.display(),
            directory.display()
        )
    };
    std::fs::File::create(&probe).map_err(failed)?;
    std::fs::remove_file(&probe).map_err(failed)
}

fn command_table(ctx: Context, settings: &Settings) -> Result<CommandTable, String> {
    let table = CommandTable::parse(&ffi::call(ctx, &["COMMAND"])?.tree(), &settings.ignored_commands)
        .map_err(|error| error.to_string())?;
    let names = table.names();
    let words: Vec<&str> = ["COMMAND", "INFO"].into_iter().chain(names.iter().map(String::as_str)).collect();
    let moved = renamed(&names, &ffi::call(ctx, &words)?.tree()).map_err(|error| error.to_string())?;
    match moved.is_empty() {
        true => Ok(table),
        false => Err(format!(
            "rename-command has moved {}: a command under another name would pass by raft; remove rename-command and \
             use ACLs",
            moved.join(", ")
        )),
    }
}

fn register_commands(ctx: Context) -> Result<(), String> {
    let anytime = c"allow-stale allow-loading deny-script";
    let admin_flags = c"admin allow-stale allow-loading deny-script";
    ffi::create_command(ctx, c"RAFT", data::raft_command, anytime)?;
    ffi::create_command(ctx, c"RAFT.TOPOLOGY", topology::topology_command, anytime)?;
    ffi::create_command(ctx, c"RAFT.DENIED", topology::denied_command, anytime)?;
    ffi::create_command(ctx, c"RAFT.APPLIED", roles::applied_command, anytime)?;
    ffi::create_command(ctx, c"RAFT.READ", follower_reads::read_command, anytime)?;
    ffi::create_command(ctx, c"RAFT.MARK", roles::mark_command, anytime)?;
    ffi::create_command(ctx, c"RAFT.SNAPSHOT", snapshot::snapshot_command, anytime)?;
    ffi::create_command(ctx, c"RAFT.CLUSTER", admin::cluster_command, admin_flags)?;
    ffi::create_command(ctx, c"RAFT.NODE", admin::node_command, admin_flags)?;
    ffi::create_command(ctx, c"RAFT.TRANSFER_LEADER", transfer::transfer_command, admin_flags)?;
    ffi::create_command(ctx, c"RAFT.SHUTDOWN", shutdown::shutdown_command, anytime)?;
    ffi::create_command(ctx, c"RAFT.INFO", topology::info_command, admin_flags)?;
    ffi::create_command(ctx, c"RAFT.DEBUG", data::debug_command, admin_flags)?;
    let no_auth = c"admin no-auth no-monitor no-slowlog allow-stale allow-loading deny-script";
    ffi::create_command(ctx, c"RAFT.CAPTURE", capture_command, no_auth)
}

/// `RAFT.CAPTURE <secret>`: this connection is the module's own capture link and may do anything.
unsafe extern "C" fn capture_command(ctx: Context, argv: *mut Text, argc: c_int) -> c_int {
    let state = main_thread::get();
    let words = ffi::arguments(argv, argc);
    if words.len() != 2 || ffi::bytes(words[1]) != state.capture_secret {
        return ffi::reply_error(ctx, "ERR RAFT.CAPTURE is the module's own");
    }
    let result = ffi::api!(RedisModule_AuthenticateClientWithUser)(
        ctx,
        state.capture_user,
        None,
        std::ptr::null_mut(),
        std::ptr::null_mut(),
    );
    match result == ffi::OK {
        true => ffi::reply_status(ctx, "OK"),
        false => ffi::reply_error(ctx, "ERR cannot authenticate the capture link"),
    }
}

/// Everything was checked: from here on nothing is expected to fail.
fn start(
    ctx: Context,
    setup: Setup,
    links: Links,
    found: Option<Found>,
    table: CommandTable,
) -> Result<(), String> {
    let wake_fd = event_fd()?;
    let waker = links.waker();
    let bridge = Arc::new(Bridge::new(
        Box::new(move || {
            if let Err(error) = waker.wake() {
                log::error!("cannot wake the raft thread: {error}");
            }
        }),
        Box::new(move || wake_main(wake_fd)),
    ));
    let capture_user = capture_user()?;
    if found.is_some() {
        // Before the first client can wait for anything: becoming a replica ends whoever waits.
        bridge.tell_main(ToMain::Follow { port: links.feed_port() });
    }
    main_thread::set(MainThread {
        context: ffi::lasting_context(ctx),
        bridge: bridge.clone(),
        gate: Gate::new(),
        access: Access::new(),
        table: RefCell::new(table),
        waiters: Default::default(),
        follower_reads: Default::default(),
        transactions: Default::default(),
        blocked: Default::default(),
        tickets: Default::default(),
        timers: Default::default(),
        saver: Default::default(),
        process: std::process::id(),
        words: Words {
            raft: OwnedText::new(b"RAFT"),
            psync: OwnedText::new(b"PSYNC"),
            denied: OwnedText::new(b"RAFT.DENIED"),
            topology: OwnedText::new(b"RAFT.TOPOLOGY"),
            nothread: OwnedText::new(b"NOTHREAD"),
            shutdown: OwnedText::new(b"RAFT.SHUTDOWN"),
        },
        build: Build {
            version: env!("CARGO_PKG_VERSION").to_string(),
            git_sha1: option_env!("REDISRAFT_GIT_SHA1").map(str::to_string),
        },
        feed_token: setup.feed_token.clone(),
        capture_secret: setup.capture_secret.clone().into_bytes(),
        capture_user,
        woken: Cell::new(true),
        seal_due: Cell::new(None),
        executing: Cell::new(false),
        shutdown: Default::default(),
        pause_due: Cell::new(false),
        pause_ends: Cell::new(None),
        follow_due: Cell::new(None),
        retired: Cell::new(None),
        took_over: Cell::new(false),
        raft_thread: RefCell::new(None),
    });
    subscribe(ctx, wake_fd)?;
    signals::install(wake_fd);
    configs::set_on_change(on_settings);
    let runtime = Runtime::new(setup, links, bridge, found);
    let thread = std::thread::Builder::new()
        .name("raft".into())
        .spawn(move || run(runtime))
        .map_err(|error| format!("cannot start the raft thread: {error}"))?;
    *main_thread::get().raft_thread.borrow_mut() = Some(thread);
    Ok(())
}

/// The raft thread. A node that cannot trust its state stops the server: it starts again from what is on disk.
fn run(runtime: Runtime) {
    if let Err(fatal) = runtime.run() {
        log::error!("stopping the server: {fatal}");
        // At once, as a crash would: nothing may be done with a state that is not trusted, not even cleaning up.
        // SAFETY: ends the process.
        unsafe { libc::_exit(1) };
    }
}

fn event_fd() -> Result<c_int, String> {
    // SAFETY: plain values.
    let fd = unsafe { libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC) };
    match fd >= 0 {
        true => Ok(fd),
        false => Err(format!("cannot make an eventfd: {}", std::io::Error::last_os_error())),
    }
}

fn wake_main(fd: c_int) {
    let one = 1u64.to_ne_bytes();
    // A full counter means that the main thread is awake already.
    // SAFETY: the descriptor stays open as long as the process runs; eight bytes are given.
    let _ = unsafe { libc::write(fd, one.as_ptr().cast(), one.len()) };
}

fn capture_user() -> Result<*mut raw::RedisModuleUser, String> {
    // SAFETY: the strings are copied; the user is kept for ever.
    unsafe {
        let user = ffi::api!(RedisModule_CreateModuleUser)(c"raft-capture".as_ptr());
        for rule in [c"on", c"allcommands", c"allkeys", c"allchannels"] {
            if ffi::api!(RedisModule_SetModuleUserACL)(user, rule.as_ptr()) != ffi::OK {
                return Err(format!("the server refused the ACL rule {rule:?} for the capture link"));
            }
        }
        Ok(user)
    }
}

fn subscribe(ctx: Context, wake_fd: c_int) -> Result<(), String> {
    let event = |id: u64, version: u64| raw::RedisModuleEvent { id, dataver: version };
    // SAFETY (all): the callbacks are functions of this module, which is never unloaded.
    unsafe {
        // The expiry of a hash's field (Redis 7.4 and newer) is an event of hashes.
        let keys_gone = (raw::REDISMODULE_NOTIFY_EXPIRED
            | raw::REDISMODULE_NOTIFY_EVICTED
            | raw::REDISMODULE_NOTIFY_HASH) as c_int;
        let registered = [
            ffi::api!(RedisModule_SubscribeToServerEvent)(
                ctx,
                event(raw::REDISMODULE_EVENT_EVENTLOOP, 1),
                Some(roles::on_event_loop),
            ),
            ffi::api!(RedisModule_SubscribeToServerEvent)(
                ctx,
                event(raw::REDISMODULE_EVENT_SHUTDOWN, 1),
                Some(roles::on_shutdown),
            ),
            ffi::api!(RedisModule_SubscribeToServerEvent)(
                ctx,
                event(raw::REDISMODULE_EVENT_CLIENT_CHANGE, 1),
                Some(roles::on_client),
            ),
            ffi::api!(RedisModule_SubscribeToServerEvent)(
                ctx,
                event(raw::REDISMODULE_EVENT_MODULE_CHANGE, 1),
                Some(on_module_change),
            ),
            ffi::api!(RedisModule_SubscribeToServerEvent)(
                ctx,
                event(raw::REDISMODULE_EVENT_PERSISTENCE, 1),
                Some(snapshot::on_persistence),
            ),
            ffi::api!(RedisModule_SubscribeToKeyspaceEvents)(ctx, keys_gone, Some(roles::on_key_gone)),
            ffi::api!(RedisModule_EventLoopAdd)(
                wake_fd,
                raw::REDISMODULE_EVENTLOOP_READABLE as c_int,
                Some(roles::on_wake),
                std::ptr::null_mut::<c_void>(),
            ),
            ffi::api!(RedisModule_RegisterInfoFunc)(ctx, Some(topology::info_section)),
        ];
        let filter = ffi::api!(RedisModule_RegisterCommandFilter)(
            ctx,
            Some(filter::run),
            raw::REDISMODULE_CMDFILTER_NOSELF as c_int,
        );
        match registered.iter().all(|result| *result == ffi::OK) && !filter.is_null() {
            true => Ok(()),
            false => Err("the server refused a callback of the module".into()),
        }
    }
}

/// Another module was loaded or unloaded: it brings or takes commands.
unsafe extern "C" fn on_module_change(ctx: Context, _: raw::RedisModuleEvent, _: u64, _: *mut c_void) {
    match command_table(ctx, &configs::current()) {
        Ok(table) => *main_thread::get().table.borrow_mut() = table,
        Err(error) => log::error!("cannot read the server's commands again: {error}"),
    }
}

fn on_settings(settings: &Settings) {
    logger::configure(settings);
    let state = main_thread::get();
    match command_table(state.context, settings) {
        Ok(table) => *state.table.borrow_mut() = table,
        Err(error) => log::error!("cannot read the server's commands again: {error}"),
    }
    state.bridge.tell_raft(ToRaft::Configure(Arc::new(settings.clone())));
}
