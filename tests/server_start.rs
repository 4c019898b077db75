//! Starting: the lines of the README in both styles, the configuration, and everything that must be refused.
#![cfg(feature = "redis")]

mod cluster;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use cluster::{
    can_mount, free_port, module_library, parse_info, seconds, serial, wait_for, Account, Cluster, Options,
    Server, Setup, Value,
};

/// A server that is started with the words of a README line after `redis-server`, in its own directory.
fn started_as_in_the_readme(line: &str, port: u16) -> Server {
    let line = line.replace("PORT", &port.to_string());
    let (arguments, module) =
        line.split_once(" --loadmodule <path>/libredisraft.so ").expect("a README line");
    // The README leaves the addresses to the server's default, which is every interface: a test stays on loopback.
    let arguments = format!("{arguments} --bind 127.0.0.1 -::1 --enable-debug-command yes");
    let words = |text: &str| text.split(' ').map(str::to_owned).collect();
    let setup = Setup { port, arguments: words(&arguments), module: Some(words(module)), ..Setup::plain() };
    Server::start(setup)
}

fn redis_cli(port: u16, arguments: &str) -> String {
    let output = Command::new("redis-cli")
        .args(["-p", &port.to_string()])
        .args(arguments.split(' '))
        .output()
        .expect("redis-cli can be started");
    String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
}

fn lines_of_the_readme(line: &str) {
    let ports = [free_port(), free_port(), free_port()];
    let mut servers: Vec<Server> = ports.iter().map(|port| started_as_in_the_readme(line, *port)).collect();
    let initialized = redis_cli(ports[0], "raft.cluster init");
    assert!(initialized.starts_with("OK ") && initialized.len() == 3 + 32, "{initialized}");
    for port in &ports[1..] {
        let joined = redis_cli(*port, &format!("raft.cluster join localhost:{}", ports[0]));
        assert!(joined.starts_with("OK"), "{joined}");
    }
    let info = |port: u16| parse_info(&redis_cli(port, "--raw RAFT.INFO"));
    wait_for("three voters", seconds(20), || {
        ports.iter().all(|port| info(*port).get("raft_num_voting_nodes").is_some_and(|count| count == "3"))
    });
    assert_eq!(redis_cli(ports[0], "SET mykey myvalue"), "OK");
    assert_eq!(redis_cli(ports[0], "GET mykey"), "myvalue");
    for port in &ports[1..] {
        assert!(
            redis_cli(*port, "GET mykey").contains(&format!("localhost:{}", ports[0])),
            "a host name is kept"
        );
        wait_for("the write on every node", seconds(10), || {
            redis_cli(*port, "RAFT.DEBUG EXEC GET mykey") == "myvalue"
        });
    }
    for server in &mut servers {
        assert!(server.directory().join("raftlog1.db").is_dir(), "the log is where it was asked for");
        server.terminate();
    }
}

#[test]
fn the_lines_of_the_readme_work_as_they_stand() {
    let _serial = serial(seconds(90));
    lines_of_the_readme(
        "--port PORT --dbfilename raft1.rdb --loadmodule <path>/libredisraft.so \
         raft-log-filename=raftlog1.db addr=localhost:PORT",
    );
}

#[test]
fn the_lines_of_the_readme_work_as_server_settings() {
    let _serial = serial(seconds(90));
    lines_of_the_readme(
        "--port PORT --loadmodule <path>/libredisraft.so --raft.log-filename raftlog1.db --raft.addr localhost:PORT",
    );
}

#[test]
fn a_configuration_file_names_the_settings() {
    let _serial = serial(seconds(60));
    let home = tempfile::tempdir().expect("a temporary directory");
    let setup = Setup::plain();
    let file = home.path().join("redis.conf");
    let text = format!(
        "port {port}\nbind 127.0.0.1\nloadmodule {library}\nraft.log-filename fromfile\nraft.addr 127.0.0.1:{port}\n\
         raft.election-timeout 800\nraft.request-timeout 100\n",
        port = setup.port,
        library = module_library().display()
    );
    fs::write(&file, text).expect("a configuration file");
    let arguments = vec![file.display().to_string()];
    let server = Server::start(Setup { arguments, ..setup }.directory(home.path()));
    let mut connection = server.connect();
    assert_eq!(connection.run("CONFIG GET raft.election-timeout").text(), "raft.election-timeout 800");
    assert!(connection.run("RAFT.CLUSTER INIT").text().starts_with("OK"));
    assert!(home.path().join("fromfile").is_dir());
}

#[test]
fn settings_are_read_and_changed_at_run_time() {
    let _serial = serial(seconds(60));
    let mut cluster = Cluster::start_with(&Options { size: 1, ..Options::default() });
    let leader = cluster.leader();
    let mut connection = cluster.connect(leader);
    let defaults = [
        ("log-filename", "raftlog"),
        ("log-fsync", "yes"),
        ("persist", "yes"),
        ("election-timeout", "1000"),
        ("request-timeout", "200"),
        ("connection-timeout", "3000"),
        ("join-timeout", "120000"),
        ("response-timeout", "1000"),
        ("reconnect-interval", "100"),
        ("append-req-max-count", "8"),
        ("quorum-reads", "yes"),
        ("leader-wait-ms", "1500"),
        ("loglevel", "notice"),
    ];
    for (name, value) in defaults {
        let reply = connection.run(&format!("CONFIG GET raft.{name}"));
        assert_eq!(reply.text(), format!("raft.{name} {value}"));
    }
    assert!(connection.run("CONFIG GET raft.*").array().len() >= 2 * defaults.len());
    for (name, value) in [("leader-wait-ms", "300"), ("election-timeout", "2000"), ("quorum-reads", "no")] {
        assert!(connection.run(&format!("CONFIG SET raft.{name} {value}")).is_ok(), "{name}");
        assert_eq!(connection.run(&format!("CONFIG GET raft.{name}")).text(), format!("raft.{name} {value}"));
    }
    for wrong in
        ["election-timeout 300", "election-timeout -1", "leader-wait-ms x", "log-filename other", "nosuch 1"]
    {
        let reply = connection.run(&format!("CONFIG SET raft.{wrong}"));
        assert!(matches!(reply, Value::Error(_)), "CONFIG SET raft.{wrong}: {reply}");
    }
    assert_eq!(connection.run("CONFIG GET raft.election-timeout").text(), "raft.election-timeout 2000");
}

/// Starts a server that must refuse to load, and returns the line that says why: one that names all of `names`.
fn refused(setup: Setup, names: &[&str]) -> String {
    let what = format!("{:?} {:?}", setup.arguments, setup.module);
    let mut server = Server::spawn(setup);
    let code = server.wait_exit();
    assert_ne!(code, Some(0), "{what} ended without an error");
    let text = server.log_text();
    assert!(!text.contains("panicked at"), "{what} panicked:\n{text}");
    assert!(!text.contains("REDIS BUG REPORT"), "{what} crashed:\n{text}");
    let lower: Vec<String> = names.iter().map(|name| name.to_lowercase()).collect();
    let is_reason = |line: &&str| {
        let line = line.to_lowercase();
        line.contains("raft") && lower.iter().all(|name| line.contains(name))
    };
    let reason = text.lines().find(is_reason);
    reason.unwrap_or_else(|| panic!("{what}: no line names {names:?}:\n{text}")).to_owned()
}

#[test]
fn bad_arguments_are_refused_with_one_clear_line() {
    let _serial = serial(seconds(90));
    for (argument, names) in [
        ("nosuch=1", ["nosuch", ""]),
        ("election-timeout=soon", ["election-timeout", "soon"]),
        ("election-timeout=300", ["election-timeout", "request-timeout"]),
        ("peer-addr=nowhere", ["peer-addr", "nowhere"]),
        ("peer-listen=host:99999", ["peer-listen", "99999"]),
        ("log-fsync=maybe", ["log-fsync", "maybe"]),
        ("novalue", ["novalue", ""]),
    ] {
        let module = vec!["log-filename=raftlog".to_owned(), argument.to_owned()];
        refused(Setup { module: Some(module), ..Setup::plain() }, &names);
    }
    refused(Setup::with_module().module_argument("log-filename=twice"), &["log-filename", "twice"]);
}

#[test]
fn server_settings_that_break_the_promise_are_refused() {
    let _serial = serial(seconds(90));
    for (arguments, names) in [
        ("--cluster-enabled yes", ["cluster-enabled", "remove"]),
        ("--appendonly yes", ["appendonly", "no"]),
        ("--replicaof 127.0.0.1 1", ["replicaof", ""]),
        ("--io-threads 4", ["io-threads", "1"]),
        ("--rename-command REPLICAOF secret", ["REPLICAOF", "rename"]),
    ] {
        refused(Setup::with_module().server_arguments(arguments), &names);
    }
    refused(Setup::with_module().module_argument("log-filename=twice"), &["log-filename", "twice"]);
}

#[test]
fn a_peer_port_in_use_is_refused() {
    let _serial = serial(seconds(60));
    let setup = Setup::with_module();
    let peer_port = setup.port + 10_000;
    let _taken = std::net::TcpListener::bind(("127.0.0.1", peer_port)).expect("a free port");
    refused(setup, &[&peer_port.to_string(), "in use"]);
}

#[test]
fn a_read_only_directory_is_refused() {
    let _serial = serial(seconds(60));
    let home = tempfile::tempdir().expect("a temporary directory");
    fs::set_permissions(home.path(), fs::Permissions::from_mode(0o555)).expect("permissions");
    let setup = Setup { account: Account::Nobody, ..Setup::with_module() }.directory(home.path());
    refused(setup, &["raftlog", "permission"]);
    fs::set_permissions(home.path(), fs::Permissions::from_mode(0o755)).expect("permissions");
}

#[test]
fn a_full_disk_is_refused() {
    let _serial = serial(seconds(60));
    if !can_mount() {
        eprintln!("skipped: this account may not mount a small disk");
        return;
    }
    let setup = Setup { disk_mb: Some(1), ..Setup::with_module() };
    let mut server = Server::start(setup);
    let mut connection = server.connect();
    let reply = connection.run("RAFT.CLUSTER INIT");
    assert!(
        matches!(reply, Value::Error(_)) && reply.text().contains("space"),
        "INIT on a full disk: {reply}"
    );
    assert!(connection.run("SET k v").is_error("NOCLUSTER"));
    assert!(!server.has_exited());
}

#[test]
fn a_log_that_is_a_file_is_refused() {
    let _serial = serial(seconds(60));
    let home = tempfile::tempdir().expect("a temporary directory");
    fs::write(home.path().join("raftlog"), "not a directory").expect("a file");
    refused(Setup::with_module().directory(home.path()), &["raftlog", "directory"]);
    let kept = fs::read_to_string(home.path().join("raftlog")).expect("the file is still there");
    assert_eq!(kept, "not a directory");
}

#[test]
fn a_second_server_on_the_same_log_is_refused_and_harms_nothing() {
    let _serial = serial(seconds(60));
    let mut cluster = Cluster::start(1);
    cluster.client().run("SET k v");
    let directory = cluster.server(0).directory().to_owned();
    refused(Setup::with_module().directory(&directory), &["raftlog", "in use"]);
    assert!(cluster.client().run("SET k w").is_ok());
    cluster.kill(0);
    cluster.restart(0);
    assert_eq!(cluster.client().run("GET k").text(), "w");
}

#[test]
fn existing_data_is_kept_by_init_and_protected_from_join() {
    let _serial = serial(seconds(60));
    let cluster = Cluster::start(1);
    let home = tempfile::tempdir().expect("a temporary directory");
    let mut before = Server::start(Setup::plain().directory(home.path()));
    before.connect().run("SET old data");
    assert!(before.connect().run("SAVE").is_ok());
    before.terminate();
    let server = Server::start(Setup::with_module().directory(home.path()));
    let mut connection = server.connect();
    let address = format!("127.0.0.1:{}", cluster.port(0));
    let reply = connection.run(&format!("RAFT.CLUSTER JOIN {address}"));
    assert!(reply.text().contains("FORCE"), "a node with data joined: {reply}");
    let reply = connection.run("RAFT.CLUSTER INIT");
    // Existing data becomes the first snapshot; a module without snapshots must refuse instead of losing it.
    if reply.text().starts_with("OK") {
        assert_eq!(connection.run("GET old").text(), "data");
    } else {
        assert!(reply.text().contains("data"), "{reply}");
    }
    assert!(cluster.client().run("SET k v").is_ok());
}
