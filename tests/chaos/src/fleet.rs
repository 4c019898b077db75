//! The servers of a run: each a process of its own with the shim before its disk and clock, and a proxy between all.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::cluster::{parse_info, peer_port, Info, Proxy, Server, Setup};
use crate::plan::Plan;
use crate::session::{ask, Roster};
use crate::shim::{self, Control, Sync, Write};
use crate::violation::{Result, Violation};

/// The directory of a node's log, in that of its server.
pub const LOG: &str = "raftlog";
/// How long one node may take for INFO.
pub const INFO_PATIENCE: Duration = Duration::from_secs(1);
/// How long a cluster may take to be made, without any fault, on a machine that is busy with other things.
const FOUNDING: Duration = Duration::from_secs(60);

pub struct Node {
    pub server: Server,
    pub control: Control,
    /// Faults that keep the process away; it runs when there is none.
    pub down: u32,
    /// Faults that keep the process stopped.
    pub paused: u32,
    /// Faults of its disk.
    pub disk_faults: u32,
    /// Its disk has failed since it was started: it may end by itself.
    pub excused: bool,
    /// It was taken out of the cluster; its process still runs, and must refuse clients.
    pub leaving: bool,
    /// It was taken out of the cluster, and its process has been ended.
    pub gone: bool,
}

impl Node {
    /// Starts the process, if it does not run and nothing keeps it away.
    pub fn start_if_free(&mut self) {
        if self.down == 0 && self.server.has_exited() {
            self.server.kill();
            self.server.relaunch();
            self.excused = self.disk_faults > 0;
        }
    }
}

pub struct Fleet {
    directory: PathBuf,
    shim: PathBuf,
    settings: Vec<String>,
    pub proxy: Proxy,
    pub nodes: Vec<Node>,
    pub roster: Roster,
}

fn is(info: &Info, name: &str, value: &str) -> bool {
    info.get(name).is_some_and(|is| is == value)
}

/// The ids of all members, as one of them knows them.
fn members(info: &Info) -> Vec<String> {
    let others =
        info.iter().filter(|(name, value)| name.starts_with("raft_node") && value.starts_with("id="));
    let others = others.filter_map(|(_, value)| value.strip_prefix("id=")?.split(',').next());
    others.chain(info.get("raft_node_id").map(String::as_str)).map(str::to_owned).collect()
}

fn setup_failed(what: &str) -> impl Fn(std::io::Error) -> Violation + '_ {
    move |error| Violation::Setup(format!("{what}: {error}"))
}

impl Fleet {
    /// Starts the nodes of a plan in directories below `directory` and makes them a cluster.
    ///
    /// # Errors
    /// When that does not succeed.
    pub fn start(directory: &Path, plan: &Plan) -> Result<Fleet> {
        let directory = fs::canonicalize(directory).map_err(setup_failed("the directory of a run"))?;
        let shim = shim::build(&directory)?;
        let mut fleet = Fleet {
            directory,
            shim,
            settings: plan.settings.clone(),
            proxy: Proxy::default(),
            nodes: Vec::new(),
            roster: Roster::default(),
        };
        for _ in 0..plan.nodes {
            fleet.spawn()?;
        }
        fleet.nodes.iter_mut().for_each(|node| node.server.wait_ready());
        let initialized = fleet.ask(0, "RAFT.CLUSTER INIT", FOUNDING);
        if !initialized.starts_with("OK") {
            return Err(Violation::Setup(format!("RAFT.CLUSTER INIT: {initialized}")));
        }
        for node in 1..plan.nodes {
            let joined = fleet.join(node, FOUNDING);
            if !joined.starts_with("OK") {
                return Err(Violation::Setup(format!("RAFT.CLUSTER JOIN: {joined}")));
            }
        }
        let deadline = Instant::now() + FOUNDING;
        while !fleet.all_vote(plan.nodes) {
            if Instant::now() > deadline {
                let states = fleet.describe();
                return Err(Violation::NotAlive { what: "cluster", seconds: FOUNDING.as_secs(), states });
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(fleet)
    }

    /// Starts the process of a new node; its number.
    ///
    /// # Errors
    /// When its directory or its control file cannot be made.
    pub fn spawn(&mut self) -> Result<usize> {
        let number = self.nodes.len();
        let home = self.directory.join(format!("node-{number}"));
        fs::create_dir_all(&home).map_err(setup_failed("the directory of a node"))?;
        let control = Control::create(&self.directory.join(format!("control-{number}")));
        let control = control.map_err(setup_failed("the control file of a node"))?;
        let mut setup = Setup::with_module().directory(&home);
        let listen = peer_port(setup.port);
        let front = self.proxy.front(listen);
        setup = setup
            .module_argument(&format!("peer-addr=127.0.0.1:{front}"))
            .module_argument(&format!("peer-listen=127.0.0.1:{listen}"));
        for argument in &self.settings {
            setup = setup.module_argument(argument);
        }
        let variable = |name: &str, path: &Path| (name.to_owned(), path.display().to_string());
        setup.environment = vec![
            variable("LD_PRELOAD", &self.shim),
            variable("CHAOS_CONTROL", control.path()),
            variable("CHAOS_LOG", &home.join(LOG)),
        ];
        self.roster.add(setup.port);
        let server = Server::spawn(setup);
        self.nodes.push(Node {
            server,
            control,
            down: 0,
            paused: 0,
            disk_faults: 0,
            excused: false,
            leaving: false,
            gone: false,
        });
        Ok(number)
    }

    fn ask(&self, node: usize, line: &str, patience: Duration) -> String {
        ask(self.port(node), line, patience).map_or("no answer".to_owned(), |reply| reply.text())
    }

    /// Asks a node to join; what it says.
    pub fn join(&self, node: usize, patience: Duration) -> String {
        self.ask(node, &self.join_command(node), patience)
    }

    /// The command with which a node joins, by way of any other. Those that are not members, or not any more, refuse.
    pub fn join_command(&self, joiner: usize) -> String {
        let may_know = |node: &usize| *node != joiner && !self.nodes[*node].leaving;
        let others = self.present().into_iter().filter(may_know);
        let addresses: Vec<String> = others.map(|node| format!("127.0.0.1:{}", self.port(node))).collect();
        format!("RAFT.CLUSTER JOIN {}", addresses.join(" "))
    }

    /// The nodes that have not been taken out.
    pub fn present(&self) -> Vec<usize> {
        (0..self.nodes.len()).filter(|node| !self.nodes[*node].gone).collect()
    }

    /// Ends the process of a node that was taken out.
    pub fn retire(&mut self, node: usize) {
        let node = &mut self.nodes[node];
        node.leaving = false;
        node.server.kill();
        node.gone = true;
        node.down += 1;
    }

    /// Ends those that were taken out, by their own word or that of the leader.
    pub fn retire_removed(&mut self) {
        let infos: Vec<(usize, Info)> =
            self.present().into_iter().filter_map(|node| Some((node, self.info(node)?))).collect();
        let leaders = infos.iter().filter(|(_, info)| is(info, "raft_role", "leader"));
        let newest = leaders.max_by_key(|(_, info)| info.get("raft_current_term")?.parse::<u64>().ok());
        let members = newest.map(|(_, leader)| members(leader));
        for (node, info) in &infos {
            let id = info.get("raft_node_id").filter(|_| is(info, "raft_state", "up"));
            let unknown = members.as_ref().zip(id).is_some_and(|(members, id)| !members.contains(id));
            if unknown || is(info, "raft_state", "removed") {
                self.retire(*node);
            }
        }
    }

    pub fn port(&self, node: usize) -> u16 {
        self.nodes[node].server.port()
    }

    /// The directories of the logs of all members.
    pub fn logs(&self) -> Vec<PathBuf> {
        self.present().into_iter().map(|node| self.nodes[node].server.directory().join(LOG)).collect()
    }

    /// `INFO raft` of one node, if it answers.
    pub fn info(&self, node: usize) -> Option<Info> {
        ask(self.port(node), "INFO raft", INFO_PATIENCE).map(|reply| parse_info(&reply.text()))
    }

    fn all_vote(&self, voters: usize) -> bool {
        let voters = voters.to_string();
        (0..self.nodes.len()).all(|node| {
            self.info(node).is_some_and(|info| {
                info.get("raft_state").is_some_and(|state| state == "up")
                    && info.get("raft_num_voting_nodes") == Some(&voters)
                    && info.get("raft_leader_id").is_some_and(|leader| leader != "-1")
            })
        })
    }

    /// Whether there is one leader, which all nodes follow, and all have applied its whole log and hold equal datasets.
    pub fn has_converged(&self) -> bool {
        let infos: Option<Vec<Info>> = self.present().into_iter().map(|node| self.info(node)).collect();
        let Some(infos) = infos else { return false };
        let leaders: Vec<&Info> = infos.iter().filter(|info| is(info, "raft_role", "leader")).collect();
        let [leader] = leaders[..] else { return false };
        let (Some(id), Some(end)) = (leader.get("raft_node_id"), leader.get("raft_current_index")) else {
            return false;
        };
        let follows = |info: &Info| {
            is(info, "raft_state", "up")
                && is(info, "raft_leader_id", id)
                && is(info, "raft_is_voting", "yes")
                && ["raft_current_index", "raft_commit_index", "raft_last_applied_index"]
                    .iter()
                    .all(|field| is(info, field, end))
        };
        infos.iter().all(follows) && self.datasets_agree()
    }

    fn datasets_agree(&self) -> bool {
        let digest = |node| ask(self.port(node), "DEBUG DIGEST", INFO_PATIENCE).map(|reply| reply.text());
        let digests: Vec<Option<String>> = self.present().into_iter().map(digest).collect();
        digests[0].is_some() && digests.iter().all(|digest| *digest == digests[0])
    }

    /// A line for each node.
    pub fn describe(&self) -> String {
        let fields = [
            "raft_state",
            "raft_role",
            "raft_is_voting",
            "raft_current_term",
            "raft_leader_id",
            "raft_current_index",
            "raft_commit_index",
            "raft_last_applied_index",
        ];
        let line = |node: usize| {
            let Some(info) = self.info(node) else { return format!("node {node} does not answer") };
            let value = |field: &&str| format!("{field}:{}", info.get(*field).map_or("?", String::as_str));
            let values: Vec<String> = fields.iter().map(value).collect();
            let digest = self.ask(node, "DEBUG DIGEST", INFO_PATIENCE);
            format!("node {node} {} digest {digest}", values.join(" "))
        };
        self.present().into_iter().map(line).collect::<Vec<_>>().join("\n")
    }

    /// Disk and clock of a node are as they should be.
    pub fn mend(&mut self, node: usize) {
        let control = &self.nodes[node].control;
        control.set_sync(Sync::Fine);
        control.set_write(Write::Fine);
        control.set_clock(0, 0);
        self.nodes[node].disk_faults = 0;
    }

    /// Whoever has ended by itself with a reason is started again.
    ///
    /// # Errors
    /// When one has ended without any.
    pub fn tend(&mut self) -> Result<()> {
        for (number, node) in self.nodes.iter_mut().enumerate() {
            if node.down > 0 || !node.server.has_exited() || node.disk_faults > 0 {
                continue;
            }
            if !node.excused {
                return Err(Violation::Ended { node: number });
            }
            node.start_if_free();
        }
        Ok(())
    }

    /// `kill -9` for all.
    pub fn kill_all(&mut self) {
        self.nodes.iter_mut().for_each(|node| node.server.kill());
    }

    /// Looks for crashes in what the servers have printed.
    ///
    /// # Errors
    /// When there was one.
    pub fn check_logs(&self) -> Result<()> {
        const CRASHES: [&str; 3] = ["panicked at", "REDIS BUG REPORT START", "ASSERTION FAILED"];
        for (node, text) in self.nodes.iter().map(|node| node.server.log_text()).enumerate() {
            let crash = |line: &&str| CRASHES.iter().any(|mark| line.contains(mark));
            if let Some(line) = text.lines().find(crash) {
                return Err(Violation::Crash { node, line: line.to_owned() });
            }
        }
        Ok(())
    }

    /// Puts what the servers have printed into files of `directory`.
    pub fn keep_logs(&self, directory: &Path) {
        for (number, node) in self.nodes.iter().enumerate() {
            // What cannot be kept is missing; the run has failed already.
            let _ = fs::write(directory.join(format!("node-{number}.log")), node.server.log_text());
        }
    }
}
