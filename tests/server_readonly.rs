//! Linearizable reads on nodes that do not lead, for connections that said `READONLY`.
#![cfg(feature = "redis")]

mod cluster;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;
use std::thread::JoinHandle;

use cluster::{millis, seconds, serial, wait_for, Client, Cluster, Connection, Fault, Options, Value};

fn readonly(cluster: &Cluster, node: usize) -> Connection {
    let mut connection = cluster.connect(node);
    assert!(connection.run("READONLY").is_ok());
    connection
}

/// Three nodes whose leader stays the same, however busy the machine is.
fn steady() -> Cluster {
    let module_arguments = vec!["election-timeout=10000".to_owned(), "leader-wait-ms=30000".to_owned()];
    Cluster::start_with(&Options { module_arguments, ..Options::default() })
}

#[test]
fn a_follower_answers_reads_of_connections_that_asked_for_it() {
    let _serial = serial(seconds(120));
    let mut cluster = steady();
    let mut client = cluster.client();
    client.run("SET k value");
    client.run("RPUSH l a b");
    client.run("XADD s 1-1 f v");
    let follower = cluster.follower();
    let mut connection = cluster.connect(follower);
    assert!(connection.run("GET k").is_error("MOVED"));
    assert!(connection.run("READONLY").is_ok());
    assert_eq!(connection.run("GET k").text(), "value");
    assert_eq!(connection.run("LLEN l").integer(), 2);
    assert_eq!(connection.run("XLEN s").integer(), 1);
    assert_eq!(connection.call(&["XREAD", "STREAMS", "s", "0"]).unwrap().array().len(), 1);
    assert_eq!(
        connection.call(&["EVAL_RO", "return redis.call('GET', KEYS[1])", "1", "k"]).unwrap().text(),
        "value"
    );
    assert!(connection
        .call(&["EVAL_RO", "return redis.call('SET', 'k', 'x')", "0"])
        .unwrap()
        .is_error("ERR"));
    assert!(connection.run("LLEN k").is_error("WRONGTYPE"));
    assert!(connection.run("SELECT 3").is_ok());
    assert_eq!(connection.run("GET k"), Value::Nil);
    assert!(connection.run("SELECT 0").is_ok());
    assert!(cluster.number(follower, "raft_follower_reads") >= 7);
    // What may write, wait, or begin a transaction is the leader's.
    for line in [
        "SET k x",
        "EVAL return(1) 0",
        "MULTI",
        "WATCH k",
        "BLPOP l 0",
        "GETEX k",
        "XREAD BLOCK 0 STREAMS s $",
    ] {
        assert!(connection.run(line).is_error("MOVED"), "{line}");
    }
    // A pipeline, its replies in order.
    let lines = ["GET k", "SET k x", "LRANGE l 0 -1", "PING", "GET k"];
    lines.iter().for_each(|line| connection.send(&line.split(' ').collect::<Vec<_>>()).unwrap());
    let replies: Vec<Value> = lines.iter().map(|_| connection.receive().unwrap()).collect();
    assert_eq!((replies[0].text(), replies[4].text()), ("value".into(), "value".into()));
    assert!(
        replies[1].is_error("MOVED") && replies[2].array().len() == 2 && replies[3].text().contains("PONG")
    );
    for line in ["READWRITE", "RESET"] {
        assert_eq!(readonly_again(&mut connection), "value");
        connection.run(line);
        assert!(connection.run("GET k").is_error("MOVED"), "after {line}");
    }
}

fn readonly_again(connection: &mut Connection) -> String {
    assert!(connection.run("READONLY").is_ok());
    connection.run("GET k").text()
}

#[test]
fn rights_are_those_of_the_user_also_inside_of_scripts() {
    let _serial = serial(seconds(120));
    let mut cluster = steady();
    let follower = cluster.follower();
    cluster.client().run("SET open 1");
    cluster.client().run("SET closed 1");
    let mut admin = cluster.connect(follower);
    assert!(admin.run("ACL SETUSER reader on >secret %R~open +get +eval_ro +mget +readonly").is_ok());
    let mut connection = cluster.connect(follower);
    assert!(connection.run("AUTH reader secret").is_ok());
    assert!(connection.run("READONLY").is_ok());
    assert_eq!(connection.run("GET open").text(), "1");
    assert!(connection.run("GET closed").is_error("NOPERM"));
    assert!(connection.run("STRLEN open").is_error("NOPERM"));
    let script = "return redis.call('GET', ARGV[1])";
    assert_eq!(connection.call(&["EVAL_RO", script, "0", "open"]).unwrap().text(), "1");
    assert!(matches!(connection.call(&["EVAL_RO", script, "0", "closed"]).unwrap(), Value::Error(_)));
    assert!(connection.run("AUTH reader secret").is_ok());
    assert!(connection.run("GET open").is_error("MOVED"), "another user ends the mode");
}

/// Counters that only grow: each writer sets its own to 1, 2, 3, .. and knows what was answered; readers hold what they
/// are told against what was answered, or seen by anybody, before they asked, and against what was sent when they got it.
struct Counters {
    sent: Vec<AtomicU64>,
    answered: Vec<AtomicU64>,
    seen: Vec<AtomicU64>,
    reads: AtomicU64,
    stop: AtomicBool,
}

const COUNTERS: usize = 3;

struct Watch {
    counters: Arc<Counters>,
    threads: Vec<JoinHandle<()>>,
}

impl Watch {
    /// A writer for each counter, and three readers on each of the nodes.
    fn start(cluster: &Cluster, nodes: &[usize]) -> Watch {
        let zeros = || (0..COUNTERS).map(|_| AtomicU64::new(0)).collect();
        let counters = Arc::new(Counters {
            sent: zeros(),
            answered: zeros(),
            seen: zeros(),
            reads: AtomicU64::new(0),
            stop: AtomicBool::new(false),
        });
        let mut threads = Vec::new();
        for counter in 0..COUNTERS {
            let (counters, ports) = (Arc::clone(&counters), cluster.ports());
            threads.push(std::thread::spawn(move || counters.write(counter, ports)));
        }
        for node in nodes.iter().flat_map(|node| [*node; 3]) {
            let (counters, port) = (Arc::clone(&counters), cluster.port(node));
            threads.push(std::thread::spawn(move || counters.read(port)));
        }
        Watch { counters, threads }
    }

    fn wait_for_more(&self, reads: u64) {
        let before = self.counters.reads.load(Ordering::SeqCst);
        let answered =
            |counters: &Counters| -> u64 { counters.answered.iter().map(|a| a.load(Ordering::SeqCst)).sum() };
        let writes = answered(&self.counters);
        wait_for("reads and writes", seconds(60), || {
            assert!(!self.threads.iter().any(JoinHandle::is_finished), "a thread has failed");
            self.counters.reads.load(Ordering::SeqCst) >= before + reads
                && answered(&self.counters) >= writes + 30
        });
    }

    fn stop(self) {
        self.counters.stop.store(true, Ordering::SeqCst);
        for thread in self.threads {
            thread.join().expect("a reader or a writer failed");
        }
    }
}

impl Counters {
    fn write(&self, counter: usize, ports: Vec<u16>) {
        let mut client = Client::new(ports);
        client.patience = seconds(60);
        let (key, mut value) = (format!("counter:{counter}"), 0);
        while !self.stop.load(Ordering::SeqCst) {
            value += 1;
            self.sent[counter].store(value, Ordering::SeqCst);
            client.repeat(&["SET", &key, &value.to_string()]);
            self.answered[counter].store(value, Ordering::SeqCst);
        }
    }

    fn read(&self, port: u16) {
        let (mut connection, mut counter) = (None, 0);
        while !self.stop.load(Ordering::SeqCst) {
            counter = (counter + 1) % COUNTERS;
            let least =
                self.answered[counter].load(Ordering::SeqCst).max(self.seen[counter].load(Ordering::SeqCst));
            match read_once(&mut connection, port, counter) {
                Some(Value::Error(error)) => {
                    assert!(
                        ["MOVED", "CLUSTERDOWN", "LOADING"].iter().any(|word| error.starts_with(word)),
                        "{error}"
                    );
                    std::thread::sleep(millis(5));
                }
                Some(reply) => {
                    let found = if reply == Value::Nil { 0 } else { reply.text().parse().expect("a number") };
                    let most = self.sent[counter].load(Ordering::SeqCst);
                    assert!(
                        least <= found && found <= most,
                        "port {port} says {found} of counter {counter}, which is between {least} and {most}"
                    );
                    self.seen[counter].fetch_max(found, Ordering::SeqCst);
                    self.reads.fetch_add(1, Ordering::SeqCst);
                }
                None => {
                    connection = None;
                    std::thread::sleep(millis(20));
                }
            }
        }
    }
}

/// `None`: the node is gone, or closed the connection.
fn read_once(connection: &mut Option<Connection>, port: u16, counter: usize) -> Option<Value> {
    if connection.is_none() {
        let mut fresh = Connection::open(port).ok()?;
        fresh.call(&["READONLY"]).ok()?;
        *connection = Some(fresh);
    }
    connection.as_mut()?.call(&["GET", &format!("counter:{counter}")]).ok()
}

#[test]
fn followers_never_say_less_than_anybody_was_told() {
    let _serial = serial(seconds(240));
    let mut cluster = Cluster::start(3);
    let watch = Watch::start(&cluster, &[0, 1, 2]);
    watch.wait_for_more(300);
    for lease in ["yes", "no"] {
        for node in 0..3 {
            assert!(cluster.connect(node).run(&format!("CONFIG SET raft.read-lease {lease}")).is_ok());
        }
        watch.wait_for_more(300);
        let leader = cluster.leader();
        // It may fail on a busy machine; what clients see counts.
        let _ = cluster.connect(leader).call(&["RAFT.TRANSFER_LEADER"]);
        watch.wait_for_more(300);
        let leader = cluster.leader();
        cluster.kill(leader);
        watch.wait_for_more(200);
        cluster.restart(leader);
        cluster.wait_voting(3);
        watch.wait_for_more(200);
    }
    watch.stop();
    let served: i64 = (0..3).map(|node| cluster.number(node, "raft_follower_reads")).sum();
    assert!(served > 300, "followers have answered {served} reads");
}

#[test]
fn nodes_that_are_cut_off_answer_nothing_old() {
    let _serial = serial(seconds(240));
    let mut cluster = Cluster::start_proxied(3);
    let ids = cluster.ids();
    let watch = Watch::start(&cluster, &[0, 1, 2]);
    watch.wait_for_more(200);
    for (round, fault) in [Fault::Stall, Fault::Cut, Fault::Stall].into_iter().enumerate() {
        let leader = cluster.leader();
        let victim = if round == 2 { leader } else { (leader + 1) % 3 };
        cluster.client().run(&format!("SET k before{round}"));
        let mut reader = readonly(&cluster, victim);
        cluster.isolate(&ids, victim, fault);
        let others = (0..3).filter(|node| *node != victim).map(|node| cluster.port(node)).collect();
        let mut client = Client::new(others);
        client.patience = seconds(60);
        client.run(&format!("SET k after{round}"));
        let reply = reader.call(&["GET", "k"]);
        let is_old = reply.as_ref().is_ok_and(|reply| reply.text() == format!("before{round}"));
        assert!(!is_old, "round {round}: {reply:?}");
        if round < 2 {
            wait_for("the node to say that it knows no leader", seconds(60), || {
                readonly(&cluster, victim).run("GET k").is_error("CLUSTERDOWN")
            });
        }
        watch.wait_for_more(100);
        cluster.proxy().heal_all();
        cluster.wait_voting(3);
        watch.wait_for_more(200);
    }
    watch.stop();
}

/// The leader's main thread sleeps, so a key outlives its time: nobody was told that it is gone. The follower's own clock
/// says that it is, and must not count.
#[test]
fn a_key_is_there_until_the_leader_has_said_that_it_is_gone() {
    let _serial = serial(seconds(240));
    let mut cluster = steady();
    let (leader, follower) = (cluster.leader(), cluster.follower());
    let mut reader = readonly(&cluster, follower);
    let mut tested = 0;
    for round in 0..10 {
        let key = format!("short:{round}");
        assert!(cluster.client().run(&format!("SET {key} value PX 400")).is_ok());
        let mut sleeper = cluster.connect(leader);
        sleeper.send(&["DEBUG", "SLEEP", "3"]).expect("the socket takes it");
        std::thread::sleep(millis(800));
        let hidden = cluster.local(follower, &format!("GET {key}"));
        let reply = reader.run(&format!("GET {key}"));
        sleeper.set_timeout(millis(1)).expect("a socket has a timeout");
        let still_sleeping = sleeper.receive().is_err();
        sleeper.set_timeout(seconds(30)).expect("a socket has a timeout");
        if still_sleeping && hidden == Value::Nil {
            // Unless the leader's own thread was late and had deleted the key before it slept.
            tested += usize::from(reply.text() == "value");
        }
        wait_for("the key to be gone", seconds(30), || {
            cluster.client().run(&format!("GET {key}")) == Value::Nil
        });
        assert_eq!(reader.run(&format!("GET {key}")), Value::Nil, "the leader has told somebody");
        if tested > 0 {
            return;
        }
    }
    panic!("in no round a key was seen that the leader had not deleted");
}

#[test]
fn a_connection_outlives_a_change_of_roles() {
    let _serial = serial(seconds(180));
    let mut cluster = Cluster::start_with(&Options { size: 5, ..Options::default() });
    cluster.client().run("SET k value");
    let follower = cluster.follower();
    let mut connection = readonly(&cluster, follower);
    assert_eq!(connection.run("GET k").text(), "value");
    let target = cluster.id(follower).to_string();
    wait_for("the follower to lead", seconds(60), || {
        let leader = cluster.leader();
        let _ = cluster.connect(leader).call(&["RAFT.TRANSFER_LEADER", &target]);
        cluster.find_leader() == Some(follower)
    });
    wait_for("an answer of the new leader", seconds(30), || connection.run("GET k").text() == "value");
    assert!(connection.run("SET k other").is_ok());
    assert_eq!(connection.run("GET k").text(), "other");
}
