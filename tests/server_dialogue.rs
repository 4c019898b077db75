//! What an administrator says and hears: `tests/dialogues/*.txt` are played on real servers and compared, line by line.
//!
//! `UPDATE=1 cargo test --test server_dialogue` writes what was really answered into the files; read the difference before
//! you commit it. `2> COMMAND` is said to server 2; the indented lines below it are its answer; `wait 1,3: 2 voters` waits
//! until these servers count so many, `wait 2: removed` until it says that of itself, `kill 2` and `start 2` are what they
//! say; all else is prose. Servers 1, 2, 3 .. are started as they are first named. `{port 2}`, `{id 2}` and `{cluster}`
//! stand for what changes from run to run.
#![cfg(feature = "redis")]

mod cluster;

use std::collections::BTreeMap;
use std::path::Path;

use cluster::{seconds, serial, wait_for, Cluster, Options, Value};

struct Dialogue {
    cluster: Cluster,
    /// Text that changes from run to run, and what stands for it.
    names: BTreeMap<String, String>,
}

impl Dialogue {
    fn server(&mut self, word: &str) -> usize {
        let number: usize = word.parse().unwrap_or_else(|_| panic!("{word:?} is no server"));
        while self.cluster.size() < number {
            let node = self.cluster.grow();
            let port = self.cluster.port(node);
            self.names.insert(port.to_string(), format!("{{port {}}}", node + 1));
            self.names.insert((port + 10_000).to_string(), format!("{{peer port {}}}", node + 1));
        }
        number - 1
    }

    /// Notes ids that are new.
    fn learn(&mut self) {
        for node in self.cluster.running() {
            let info = self.cluster.info(node);
            let (id, cluster) = (&info["raft_node_id"], &info["raft_dbid"]);
            if id != "0" && !self.names.contains_key(id) {
                let times = self
                    .names
                    .values()
                    .filter(|name| name.starts_with(&format!("{{id {}", node + 1)))
                    .count();
                let name = if times == 0 {
                    format!("{{id {}}}", node + 1)
                } else {
                    format!("{{id {}, new}}", node + 1)
                };
                self.names.insert(id.clone(), name);
            }
            if !cluster.is_empty() {
                self.names.insert(cluster.clone(), "{cluster}".into());
            }
        }
    }

    fn with_values(&self, text: &str) -> String {
        self.names.iter().fold(text.to_owned(), |text, (value, name)| text.replace(name, value))
    }

    fn with_names(&self, text: &str) -> String {
        // The longest first: a port may be a part of an id.
        let mut names: Vec<(&String, &String)> = self.names.iter().collect();
        names.sort_by_key(|(value, _)| std::cmp::Reverse(value.len()));
        names.into_iter().fold(text.to_owned(), |text, (value, name)| text.replace(value, name))
    }

    fn say(&mut self, server: &str, command: &str) -> Vec<String> {
        let node = self.server(server);
        let words = self.with_values(command);
        let mut connection = self.cluster.connect(node);
        connection.set_timeout(seconds(60)).expect("a timeout");
        let answer = connection.run(&words);
        self.learn();
        lines(&answer).into_iter().map(|line| format!("    {}", self.with_names(&line))).collect()
    }

    fn wait(&mut self, servers: &str, what: &str) {
        let nodes: Vec<usize> = servers.split(',').map(|word| self.server(word)).collect();
        let (field, value) = match what.split_once(' ') {
            Some((count, "voters")) => ("raft_num_voting_nodes", count),
            _ => ("raft_state", what),
        };
        wait_for(&format!("{servers}: {what}"), seconds(60), || {
            nodes.iter().all(|node| {
                self.cluster
                    .try_info(*node)
                    .is_ok_and(|info| info.get(field).is_some_and(|found| found == value))
            })
        });
        self.learn();
    }
}

fn lines(value: &Value) -> Vec<String> {
    match value {
        Value::Array(values) => values.iter().flat_map(lines).collect(),
        other => vec![other.to_string()],
    }
}

fn play(story: &str) -> String {
    // Server 1 leads until it is told otherwise, however slow the machine is.
    let module_arguments = vec!["election-timeout=20000".to_string()];
    let cluster = Cluster::start_apart(&Options { size: 0, module_arguments, ..Options::default() });
    let mut dialogue = Dialogue { cluster, names: BTreeMap::new() };
    let mut told = Vec::new();
    for line in story.lines().filter(|line| !line.starts_with("    ")) {
        told.push(line.to_owned());
        match line.split_once("> ") {
            Some((server, command)) if server.bytes().all(|byte| byte.is_ascii_digit()) => {
                told.extend(dialogue.say(server, command));
            }
            _ => match line.split_once(' ') {
                Some(("wait", rest)) => {
                    let (servers, what) = rest.split_once(": ").expect("wait <servers>: <what>");
                    dialogue.wait(servers, what);
                }
                Some(("kill", server)) => {
                    let node = dialogue.server(server);
                    dialogue.cluster.kill_noticed(node);
                }
                Some(("start", server)) => {
                    let node = dialogue.server(server);
                    dialogue.cluster.restart(node);
                }
                _ => {}
            },
        }
    }
    told.join("\n") + "\n"
}

#[test]
fn dialogues_go_as_they_are_told() {
    let _serial = serial(seconds(240));
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/dialogues");
    let mut files: Vec<_> = std::fs::read_dir(&directory)
        .expect("the directory of dialogues")
        .map(|entry| entry.expect("an entry").path())
        .collect();
    files.sort();
    assert!(!files.is_empty());
    for file in files {
        let story = std::fs::read_to_string(&file).expect("a dialogue");
        let told = play(&story);
        if std::env::var("UPDATE").is_ok_and(|value| value == "1") {
            std::fs::write(&file, told).expect("the dialogue is written");
        } else {
            assert_eq!(told, story, "{}: run with UPDATE=1 and read the difference", file.display());
        }
    }
}
