//! A cluster of servers with the module.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use super::client::Client;
use super::ports::peer_port;
use super::proxy::{Fault, Proxy};
use super::server::{Server, Setup};
use super::wire::{Connection, Value};
use super::{holds_within, wait_for};

/// How to start a cluster.
#[derive(Clone, Debug)]
pub struct Options {
    pub size: usize,
    /// Peers reach each other through a [`Proxy`].
    pub proxied: bool,
    /// Further arguments of the module on every node.
    pub module_arguments: Vec<String>,
    /// Further arguments of the server on every node, as one line.
    pub server_arguments: Option<String>,
    /// Every node has a disk of its own, of this many megabytes; see [`Setup::disk_mb`].
    pub disk_mb: Option<u32>,
    /// See [`Setup::limits_files`].
    pub limits_files: bool,
    /// Variables of every node's environment.
    pub environment: Vec<(String, String)>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            size: 3,
            proxied: false,
            module_arguments: Vec::new(),
            server_arguments: None,
            disk_mb: None,
            limits_files: false,
            environment: Vec::new(),
        }
    }
}

/// The fields of `INFO raft` of one node, at one moment.
pub type Info = BTreeMap<String, String>;

/// Running nodes, named by their position from 0.
pub struct Cluster {
    options: Options,
    nodes: Vec<Server>,
    proxy: Option<Proxy>,
}

/// How long a cluster may take to agree on a leader in a test: elections are randomized, the machine is shared.
const ELECTION: Duration = Duration::from_secs(15);
const CONVERGENCE: Duration = Duration::from_secs(30);
/// Longer than a node may keep news from `INFO raft`.
const REPORTED: Duration = Duration::from_millis(30);

impl Cluster {
    /// Starts `size` nodes that form one cluster, all of them voters.
    ///
    /// # Panics
    /// When that does not succeed.
    pub fn start(size: usize) -> Self {
        Self::start_with(&Options { size, ..Options::default() })
    }

    /// Like [`start`](Self::start) with a proxy between the nodes.
    pub fn start_proxied(size: usize) -> Self {
        Self::start_with(&Options { size, proxied: true, ..Options::default() })
    }

    /// Starts a cluster.
    ///
    /// # Panics
    /// When that does not succeed.
    pub fn start_with(options: &Options) -> Self {
        let mut cluster = Self::start_apart(options);
        let initialized = cluster.nodes[0].connect().run("RAFT.CLUSTER INIT");
        assert!(initialized.text().starts_with("OK"), "RAFT.CLUSTER INIT: {initialized}");
        let address = format!("127.0.0.1:{}", cluster.port(0));
        for node in &cluster.nodes[1..] {
            let joined = node.connect().run(&format!("RAFT.CLUSTER JOIN {address}"));
            assert!(joined.text().starts_with("OK"), "RAFT.CLUSTER JOIN: {joined}");
        }
        cluster.wait_voting(options.size);
        cluster
    }

    /// Starts the servers and leaves it to the caller to make them a cluster.
    ///
    /// # Panics
    /// When a server does not start.
    pub fn start_apart(options: &Options) -> Self {
        let proxy = options.proxied.then(Proxy::default);
        let nodes = (0..options.size).map(|_| Server::spawn(node_setup(options, proxy.as_ref()))).collect();
        let mut cluster = Self { options: options.clone(), nodes, proxy };
        cluster.nodes.iter_mut().for_each(Server::wait_ready);
        cluster
    }

    /// Starts one more server, like the others, and leaves it to the caller to make it a member. Returns its position.
    ///
    /// # Panics
    /// When it does not start.
    pub fn grow(&mut self) -> usize {
        self.nodes.push(Server::start(node_setup(&self.options, self.proxy.as_ref())));
        self.nodes.len() - 1
    }

    /// Starts a killed node again where clients and peers do not expect it: on other ports.
    pub fn restart_elsewhere(&mut self, node: usize) {
        self.nodes[node].move_to(super::free_port());
        self.nodes[node].restart();
    }

    /// Waits until every running node knows a leader and counts `size` voters.
    ///
    /// # Panics
    /// After 30 s.
    pub fn wait_voting(&mut self, size: usize) {
        let size = size.to_string();
        wait_for("every node to be a voter", CONVERGENCE, || {
            self.running().into_iter().all(|node| {
                self.try_info(node).is_ok_and(|info| {
                    info.get("raft_state").is_some_and(|state| state == "up")
                        && info.get("raft_num_voting_nodes") == Some(&size)
                        && info.get("raft_leader_id").is_some_and(|leader| leader != "-1")
                })
            })
        });
    }

    pub fn size(&self) -> usize {
        self.nodes.len()
    }

    pub fn port(&self, node: usize) -> u16 {
        self.nodes[node].port()
    }

    pub fn ports(&self) -> Vec<u16> {
        self.nodes.iter().map(Server::port).collect()
    }

    pub fn server(&mut self, node: usize) -> &mut Server {
        &mut self.nodes[node]
    }

    /// A client of the whole cluster.
    pub fn client(&self) -> Client {
        Client::new(self.ports())
    }

    /// A connection to one node.
    pub fn connect(&self, node: usize) -> Connection {
        self.nodes[node].connect()
    }

    /// Nodes whose process runs and is not paused.
    pub fn running(&mut self) -> Vec<usize> {
        (0..self.nodes.len()).filter(|node| self.nodes[*node].is_running()).collect()
    }

    /// `INFO raft` of one node.
    ///
    /// # Errors
    /// When the node does not answer within two seconds.
    pub fn try_info(&self, node: usize) -> io::Result<Info> {
        let mut connection = Connection::open(self.port(node))?;
        connection.set_timeout(Duration::from_secs(2))?;
        Ok(parse_info(&connection.call(&["INFO", "raft"])?.text()))
    }

    /// `INFO raft` of one node.
    ///
    /// # Panics
    /// When the node does not answer.
    pub fn info(&self, node: usize) -> Info {
        self.try_info(node).unwrap_or_else(|error| panic!("INFO raft of node {node}: {error}"))
    }

    /// One field of `INFO raft`.
    ///
    /// # Panics
    /// When there is no such field.
    pub fn field(&self, node: usize, name: &str) -> String {
        self.info(node).remove(name).unwrap_or_else(|| panic!("INFO raft of node {node} has no {name}"))
    }

    /// One field of `INFO raft` as a number.
    ///
    /// # Panics
    /// When there is no such field, or it is no number.
    pub fn number(&self, node: usize, name: &str) -> i64 {
        let text = self.field(node, name);
        text.parse().unwrap_or_else(|_| panic!("{name} of node {node} is {text:?}, not a number"))
    }

    /// The id of a node in the cluster.
    pub fn id(&self, node: usize) -> u64 {
        u64::try_from(self.number(node, "raft_node_id")).expect("the id of a member")
    }

    /// The ids of all nodes.
    pub fn ids(&self) -> Vec<u64> {
        (0..self.size()).map(|node| self.id(node)).collect()
    }

    /// The node that leads by its own word and by that of a majority, itself included.
    pub fn find_leader(&mut self) -> Option<usize> {
        let infos: Vec<(usize, Info)> =
            self.running().into_iter().filter_map(|node| Some((node, self.try_info(node).ok()?))).collect();
        let is_leader = |info: &Info| info.get("raft_role").is_some_and(|role| role == "leader");
        let (node, leader) = infos.iter().find(|(_, info)| {
            let followed_by =
                infos.iter().filter(|(_, other)| other.get("raft_leader_id") == info.get("raft_node_id"));
            let voters = info.get("raft_num_voting_nodes").and_then(|count| count.parse::<usize>().ok());
            is_leader(info) && voters.is_some_and(|voters| followed_by.count() > voters / 2)
        })?;
        assert!(leader.contains_key("raft_node_id"), "INFO raft names no raft_node_id");
        Some(*node)
    }

    /// The leader, waiting for one to be elected.
    ///
    /// # Panics
    /// When there is none after 15 s.
    pub fn leader(&mut self) -> usize {
        let mut leader = None;
        wait_for("a leader that a majority follows", ELECTION, || {
            leader = self.find_leader();
            leader.is_some()
        });
        leader.expect("the condition has held")
    }

    /// Some running node that does not lead.
    pub fn follower(&mut self) -> usize {
        let leader = self.leader();
        self.running().into_iter().find(|node| *node != leader).expect("a second node")
    }

    /// `kill -9`.
    pub fn kill(&mut self, node: usize) {
        self.nodes[node].kill();
    }

    /// `kill -9`, and waits until every other running member knows that the process is not there.
    ///
    /// # Panics
    /// When they do not notice within 30 s.
    pub fn kill_noticed(&mut self, node: usize) {
        let id = format!("id={},", self.id(node));
        let witnesses: Vec<usize> = self.running().into_iter().filter(|other| *other != node).collect();
        let line = |cluster: &Self, other: usize| {
            let info = cluster.try_info(other).ok()?;
            info.into_values().find(|line| line.starts_with(&id))
        };
        let errors = |line: &str| -> u64 {
            let count = line.split(',').find_map(|field| field.strip_prefix("conn_errors="));
            count.and_then(|count| count.parse().ok()).unwrap_or(0)
        };
        let before: Vec<u64> =
            witnesses.iter().map(|other| line(self, *other).map_or(0, |line| errors(&line))).collect();
        self.kill(node);
        wait_for("the others to notice that a node is gone", CONVERGENCE, || {
            witnesses.iter().zip(&before).all(|(other, before)| {
                line(self, *other)
                    .is_none_or(|line| line.contains("state=disconnected") && errors(&line) > *before)
            })
        });
    }

    /// Starts a killed node again.
    pub fn restart(&mut self, node: usize) {
        self.nodes[node].restart();
    }

    /// Applies a fault to all traffic between one node and the others, both ways.
    ///
    /// # Panics
    /// When the cluster was not started with a proxy.
    pub fn isolate(&self, ids: &[u64], node: usize, fault: Fault) {
        for other in (0..ids.len()).filter(|other| *other != node) {
            self.proxy().set(ids[node], ids[other], fault);
            self.proxy().set(ids[other], ids[node], fault);
        }
    }

    /// The proxy between the nodes.
    ///
    /// # Panics
    /// When the cluster was started without one.
    pub fn proxy(&self) -> &Proxy {
        self.proxy.as_ref().expect("a cluster with a proxy")
    }

    /// `DEBUG DIGEST` of one node's own dataset.
    pub fn digest(&self, node: usize) -> String {
        match self.connect(node).run("DEBUG DIGEST") {
            Value::Error(error) => panic!("DEBUG DIGEST of node {node}: {error}"),
            digest => digest.text(),
        }
    }

    /// Whether the leader has committed its whole log, and every running node has applied it and holds the same
    /// dataset. Under load this is a matter of luck.
    pub fn has_converged(&mut self) -> bool {
        // What was written just before may not be reported yet, and not all of it shows in a digest.
        std::thread::sleep(REPORTED);
        let Some(leader) = self.find_leader() else { return false };
        let running = self.running();
        let Ok(mut info) = self.try_info(leader) else { return false };
        let commit = info.remove("raft_commit_index");
        let applied = |node: usize| self.try_info(node).ok()?.remove("raft_last_applied_index");
        // A leader that has just been elected does not know yet what is committed: its log says what will be.
        commit.is_some()
            && commit == info.remove("raft_current_index")
            && running.iter().all(|node| applied(*node) == commit)
            && running.iter().all(|node| self.digest(*node) == self.digest(leader))
    }

    /// Waits until [`has_converged`](Self::has_converged) for all nodes, and returns their common digest.
    ///
    /// # Panics
    /// After 30 s, with what each node says.
    pub fn wait_converged(&mut self) -> String {
        if !holds_within(CONVERGENCE, || self.has_converged()) {
            let states: Vec<String> = self.running().into_iter().map(|node| self.describe(node)).collect();
            panic!("the nodes did not converge:\n{}", states.join("\n"));
        }
        let leader = self.leader();
        self.digest(leader)
    }

    fn describe(&self, node: usize) -> String {
        let Ok(info) = self.try_info(node) else { return format!("node {node} does not answer") };
        let fields =
            ["raft_role", "raft_state", "raft_current_term", "raft_commit_index", "raft_last_applied_index"];
        let values: Vec<String> = fields
            .iter()
            .map(|field| format!("{field}:{}", info.get(*field).map_or("?", String::as_str)))
            .collect();
        format!("node {node} {} digest {}", values.join(" "), self.digest(node))
    }

    /// Reads from a node's own dataset, past Raft.
    pub fn local(&self, node: usize, line: &str) -> Value {
        self.connect(node).run(&format!("RAFT.DEBUG EXEC {line}"))
    }
}

fn node_setup(options: &Options, proxy: Option<&Proxy>) -> Setup {
    let mut setup = Setup {
        disk_mb: options.disk_mb,
        limits_files: options.limits_files,
        environment: options.environment.clone(),
        ..Setup::with_module()
    };
    if let Some(proxy) = proxy {
        let listen = peer_port(setup.port);
        let front = proxy.front(listen);
        setup = setup
            .module_argument(&format!("peer-addr=127.0.0.1:{front}"))
            .module_argument(&format!("peer-listen=127.0.0.1:{listen}"));
    }
    for argument in &options.module_arguments {
        setup = setup.module_argument(argument);
    }
    match &options.server_arguments {
        Some(line) => setup.server_arguments(line),
        None => setup,
    }
}

/// The `name:value` lines of an INFO text.
pub fn parse_info(text: &str) -> Info {
    text.lines()
        .filter_map(|line| line.trim_end().split_once(':'))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}
