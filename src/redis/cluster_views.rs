//! The replies of `CLUSTER`, in the shapes of Redis Cluster 7.0, for client libraries that speak it.
//!
//! To them the cluster is one shard that owns all slots, the leader its master, the others its replicas. What depends
//! on who leads is never answered without a leader: an empty or stale map would send a client astray for long.

use crate::node::address::HostPort;
use crate::node::status::{Connection, MemberStatus, State, Status};
use sha2::{Digest, Sha256};

/// Slots of a Redis Cluster.
pub const SLOTS: u16 = 16384;
const LAST_SLOT: i64 = SLOTS as i64 - 1;

/// A reply in neutral form. An RESP2 client gets a map as an array of keys and values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    Array(Vec<Reply>),
    Map(Vec<(Reply, Reply)>),
    Bulk(String),
    Integer(i64),
    /// Without the leading minus sign; a single line.
    Error(String),
}

/// What to do with a `CLUSTER` command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Now(Reply),
    /// No leader is known: ask again when the status changes, for `leader-wait-ms` at most.
    Wait,
}

const NO_CLUSTER: &str = "NOCLUSTER No Raft Cluster";
pub const REMOVED: &str = "NOCLUSTER This node was removed from its cluster";
const NOT_SUPPORTED: &str = "ERR not supported: replication is managed by raft";
const NO_SLOT_INDEX: &str = "ERR not supported: keys are not indexed by slot, use SCAN";
/// Most characters of a user's word in an error.
const MAX_ECHO_CHARS: usize = 64;

const HELP: &[&str] = &[
    "CLUSTER <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
    "INFO",
    "    Return information about the cluster.",
    "KEYSLOT <key>",
    "    Return the hash slot for <key>.",
    "MYID",
    "    Return the node id.",
    "NODES",
    "    Return the nodes of the cluster, one a line.",
    "REPLICAS <node-id>",
    "    Return the replicas of the leader <node-id>.",
    "SHARDS",
    "    Return the one shard and its nodes.",
    "SLOTS",
    "    Return the one range of slots and its nodes, the leader first.",
    "HELP",
    "    Print this help.",
];

/// Answers `CLUSTER <arguments ..>` (without the word CLUSTER) from what this node knows. `slot_of` is the hash slot
/// of a key.
pub fn answer<A: AsRef<[u8]>>(status: &Status, arguments: &[A], slot_of: fn(&[u8]) -> u16) -> Answer {
    let Some((subcommand, rest)) = arguments.split_first() else {
        return Answer::Now(wrong_arguments("cluster"));
    };
    let subcommand = subcommand.as_ref().to_ascii_lowercase();
    // Every answer below that says who leads goes through `with_leader`.
    let answer = match (subcommand.as_slice(), rest) {
        (b"slots", []) => with_leader(status, slots),
        (b"shards", []) => with_leader(status, shards),
        (b"nodes", []) => with_leader(status, |status, leader| Reply::Bulk(nodes(status, leader))),
        (b"replicas" | b"slaves", [id]) => {
            with_leader(status, |status, leader| replicas(status, leader, id.as_ref()))
        }
        (b"info", []) => Answer::Now(info(status)),
        (b"myid", []) if status.cluster_id.is_empty() => error(NO_CLUSTER),
        (b"myid", []) => Answer::Now(Reply::Bulk(node_name(&status.cluster_id, status.node_id))),
        (b"keyslot", [key]) => Answer::Now(Reply::Integer(i64::from(slot_of(key.as_ref())))),
        (b"countkeysinslot", [_]) | (b"getkeysinslot", [_, _]) => error(NO_SLOT_INDEX),
        (b"help", []) => {
            Answer::Now(Reply::Array(HELP.iter().map(|line| Reply::Bulk((*line).to_owned())).collect()))
        }
        (
            b"slots" | b"shards" | b"nodes" | b"replicas" | b"slaves" | b"info" | b"myid" | b"keyslot"
            | b"countkeysinslot" | b"getkeysinslot" | b"help",
            _,
        ) => Answer::Now(wrong_arguments(&format!("cluster|{}", String::from_utf8_lossy(&subcommand)))),
        (name, _) if is_managed_by_raft(name) => error(NOT_SUPPORTED),
        _ => Answer::Now(unknown_subcommand(arguments[0].as_ref())),
    };
    debug_assert!(!matches!(&answer, Answer::Now(Reply::Error(line)) if line.contains(['\r', '\n'])));
    answer
}

/// The redirection to `addr` (`host:port`) for a key of `slot`.
pub fn moved(slot: u16, addr: &str) -> String {
    match HostPort::parse(addr) {
        // Redis writes IPv6 addresses here without brackets; clients split at the last colon.
        Ok(address) => format!("MOVED {slot} {}:{}", address.host, address.port),
        Err(_) => format!("MOVED {slot} {addr}"),
    }
}

/// The name of a node in the views: 40 hexadecimal characters, the same on all nodes and for ever.
pub fn node_name(cluster_id: &str, node_id: u64) -> String {
    let digest = Sha256::digest(format!("{cluster_id}:{node_id}"));
    digest[..20].iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Subcommands that change or mend what Raft decides, and what only gossip has.
fn is_managed_by_raft(subcommand: &[u8]) -> bool {
    const NAMES: &[&[u8]] = &[
        b"addslots",
        b"addslotsrange",
        b"bumpepoch",
        b"count-failure-reports",
        b"delslots",
        b"delslotsrange",
        b"failover",
        b"flushslots",
        b"forget",
        b"links",
        b"meet",
        b"replicate",
        b"reset",
        b"saveconfig",
        b"set-config-epoch",
        b"setslot",
    ];
    NAMES.contains(&subcommand)
}

fn with_leader(status: &Status, view: impl FnOnce(&Status, &MemberStatus) -> Reply) -> Answer {
    match status.state {
        State::Uninitialized => error(NO_CLUSTER),
        State::Removed => error(REMOVED),
        State::Joining | State::Loading | State::Up => match status.leader() {
            Some(leader) => Answer::Now(view(status, leader)),
            None => Answer::Wait,
        },
    }
}

fn error(line: &str) -> Answer {
    Answer::Now(Reply::Error(line.to_owned()))
}

fn wrong_arguments(command: &str) -> Reply {
    Reply::Error(format!("ERR wrong number of arguments for '{command}' command"))
}

fn unknown_subcommand(name: &[u8]) -> Reply {
    Reply::Error(format!("ERR unknown subcommand '{}'. Try CLUSTER HELP.", echo(name)))
}

fn echo(word: &[u8]) -> String {
    let text = String::from_utf8_lossy(word);
    text.chars().map(|char| if char.is_control() { ' ' } else { char }).take(MAX_ECHO_CHARS).collect()
}

fn bulk(text: impl Into<String>) -> Reply {
    Reply::Bulk(text.into())
}

/// A member's client address in pieces. One that cannot be read is shown whole, with port 0, as Redis shows a node
/// whose address it does not know.
fn endpoint(addr: &str) -> (&str, u16) {
    HostPort::parse(addr).map_or((addr, 0), |address| (address.host, address.port))
}

/// Whether clients can be sent to `member`, as far as this node can tell.
fn is_healthy(status: &Status, leader: &MemberStatus, member: &MemberStatus) -> bool {
    member.id == leader.id || member.id == status.node_id || member.connection == Connection::Connected
}

/// The leader, then the other members in the order of their ids.
fn leader_first<'a>(status: &'a Status, leader: &'a MemberStatus) -> impl Iterator<Item = &'a MemberStatus> {
    std::iter::once(leader).chain(status.members.iter().filter(|member| member.id != leader.id))
}

/// `[0, 16383, [ip, port, id, {}], ..]`: the leader, then the voters that are connected.
fn slots(status: &Status, leader: &MemberStatus) -> Reply {
    let mut range = vec![Reply::Integer(0), Reply::Integer(LAST_SLOT)];
    for member in leader_first(status, leader) {
        let is_leader = member.id == leader.id;
        if is_leader || (member.voting && is_healthy(status, leader, member)) {
            let (host, port) = endpoint(&member.addr);
            range.push(Reply::Array(vec![
                bulk(host),
                Reply::Integer(i64::from(port)),
                bulk(node_name(&status.cluster_id, member.id)),
                Reply::Map(Vec::new()),
            ]));
        }
    }
    Reply::Array(vec![Reply::Array(range)])
}

fn shards(status: &Status, leader: &MemberStatus) -> Reply {
    let nodes = leader_first(status, leader).map(|member| shard_node(status, leader, member)).collect();
    let slots = Reply::Array(vec![Reply::Integer(0), Reply::Integer(LAST_SLOT)]);
    Reply::Array(vec![Reply::Map(vec![(bulk("slots"), slots), (bulk("nodes"), Reply::Array(nodes))])])
}

fn shard_node(status: &Status, leader: &MemberStatus, member: &MemberStatus) -> Reply {
    let (host, port) = endpoint(&member.addr);
    let own_offset = (member.id == status.node_id).then_some(status.log.applied_index);
    let offset = own_offset.or(member.match_index).unwrap_or(0);
    let health = if !is_healthy(status, leader, member) {
        "fail"
    } else if member.voting || member.id == leader.id {
        "online"
    } else {
        "loading"
    };
    let mut fields = vec![
        (bulk("id"), bulk(node_name(&status.cluster_id, member.id))),
        (bulk("port"), Reply::Integer(i64::from(port))),
        (bulk("ip"), bulk(host)),
        (bulk("endpoint"), bulk(host)),
    ];
    if is_name(&member.addr) {
        fields.push((bulk("hostname"), bulk(host)));
    }
    fields.extend([
        (bulk("role"), bulk(if member.id == leader.id { "master" } else { "replica" })),
        (bulk("replication-offset"), Reply::Integer(i64::try_from(offset).unwrap_or(i64::MAX))),
        (bulk("health"), bulk(health)),
    ]);
    Reply::Map(fields)
}

fn is_name(addr: &str) -> bool {
    HostPort::parse(addr).is_ok_and(|address| address.is_name())
}

fn nodes(status: &Status, leader: &MemberStatus) -> String {
    let lines = leader_first(status, leader).map(|member| node_line(status, leader, member) + "\n");
    lines.collect()
}

/// `<id> <ip:port@cport[,hostname]> <flags> <master> <ping-sent> <pong-recv> <config-epoch> <link-state> [slots]`.
fn node_line(status: &Status, leader: &MemberStatus, member: &MemberStatus) -> String {
    let (host, port) = endpoint(&member.addr);
    let (_, peer_port) = endpoint(&member.peer_addr);
    let hostname = if is_name(&member.addr) { format!(",{host}") } else { String::new() };
    let is_leader = member.id == leader.id;
    let is_healthy = is_healthy(status, leader, member);
    let flags = [
        (member.id == status.node_id).then_some("myself"),
        Some(if is_leader { "master" } else { "slave" }),
        (!is_healthy).then_some("fail"),
    ];
    let flags: Vec<&str> = flags.into_iter().flatten().collect();
    format!(
        "{} {host}:{port}@{peer_port}{hostname} {} {} 0 0 {} {}{}",
        node_name(&status.cluster_id, member.id),
        flags.join(","),
        if is_leader { "-".to_owned() } else { node_name(&status.cluster_id, leader.id) },
        status.term,
        if is_healthy { "connected" } else { "disconnected" },
        if is_leader { format!(" 0-{LAST_SLOT}") } else { String::new() },
    )
}

fn replicas(status: &Status, leader: &MemberStatus, id: &[u8]) -> Reply {
    let asked = status
        .members
        .iter()
        .find(|member| node_name(&status.cluster_id, member.id).as_bytes().eq_ignore_ascii_case(id));
    match asked {
        None => Reply::Error(format!("ERR Unknown node {}", echo(id))),
        Some(member) if member.id != leader.id => {
            Reply::Error("ERR The specified node is not a master".to_owned())
        }
        Some(_) => {
            let others = leader_first(status, leader).skip(1);
            Reply::Array(others.map(|member| bulk(node_line(status, leader, member))).collect())
        }
    }
}

/// Also answered without a leader: it is then what tells so.
fn info(status: &Status) -> Reply {
    let in_cluster = !matches!(status.state, State::Uninitialized | State::Removed);
    let assigned = if in_cluster { SLOTS } else { 0 };
    let served = if in_cluster && status.leader().is_some() { SLOTS } else { 0 };
    let fields: [(&str, u64); 10] = [
        ("slots_assigned", u64::from(assigned)),
        ("slots_ok", u64::from(served)),
        ("slots_pfail", 0),
        ("slots_fail", u64::from(assigned - served)),
        ("known_nodes", status.members.len() as u64),
        ("size", u64::from(in_cluster)),
        ("current_epoch", status.term),
        ("my_epoch", status.term),
        // Nodes of a raft cluster do not gossip.
        ("stats_messages_sent", 0),
        ("stats_messages_received", 0),
    ];
    let mut text = format!("cluster_state:{}\r\n", if served > 0 { "ok" } else { "fail" });
    for (name, value) in fields {
        text.push_str(&format!("cluster_{name}:{value}\r\n"));
    }
    text.push_str("total_cluster_links_buffer_limit_exceeded:0\r\n");
    Reply::Bulk(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::status::{LogStatus, Role};

    const CLUSTER_ID: &str = "0123456789abcdef0123456789abcdef";

    fn member(id: u64, addr: &str, voting: bool, connection: Connection) -> MemberStatus {
        let peer_addr = match HostPort::parse(addr) {
            Ok(address) => HostPort { port: address.port + 10000, ..address }.to_string(),
            Err(_) => String::new(),
        };
        MemberStatus { id, addr: addr.to_owned(), peer_addr, voting, connection, ..MemberStatus::default() }
    }

    /// Seen from node 2, a follower: 3 leads, 1 is cut off, 4 is a learner.
    fn status() -> Status {
        Status {
            state: State::Up,
            role: Role::Follower,
            cluster_id: CLUSTER_ID.to_owned(),
            node_id: 2,
            term: 5,
            leader_id: Some(3),
            members: vec![
                member(1, "10.0.0.1:5001", true, Connection::Disconnected),
                member(2, "localhost:5002", true, Connection::Own),
                member(3, "[::1]:5003", true, Connection::Connecting),
                member(4, "10.0.0.4:5004", false, Connection::Connected),
            ],
            log: LogStatus { applied_index: 77, ..LogStatus::default() },
            ..Status::default()
        }
    }

    fn ask(status: &Status, line: &str) -> Answer {
        let words: Vec<&str> = line.split_whitespace().collect();
        answer(status, &words, |key| key.len() as u16)
    }

    fn reply(status: &Status, line: &str) -> Reply {
        match ask(status, line) {
            Answer::Now(reply) => reply,
            Answer::Wait => panic!("{line} waits"),
        }
    }

    fn text(reply: Reply) -> String {
        match reply {
            Reply::Bulk(text) | Reply::Error(text) => text,
            other => panic!("{other:?}"),
        }
    }

    fn name(id: u64) -> String {
        node_name(CLUSTER_ID, id)
    }

    #[test]
    fn node_names_are_stable_and_differ() {
        // Clients keep them across restarts and upgrades: this value must never change.
        assert_eq!(name(1), "c356cbaed2f99a897958a23567ebe5bcd8a30831");
        assert_ne!(name(1), name(11));
        assert_ne!(node_name("a1", 1), node_name("a", 11));
        assert_eq!(text(reply(&status(), "MYID")), name(2));
    }

    #[test]
    fn slots_name_the_leader_first_then_connected_voters() {
        let node = |host: &str, port, id| {
            Reply::Array(vec![bulk(host), Reply::Integer(port), bulk(name(id)), Reply::Map(Vec::new())])
        };
        let range =
            vec![Reply::Integer(0), Reply::Integer(16383), node("::1", 5003, 3), node("localhost", 5002, 2)];
        assert_eq!(reply(&status(), "SLOTS"), Reply::Array(vec![Reply::Array(range)]));
    }

    #[test]
    fn nodes_are_lines_of_redis_cluster() {
        let expected = format!(
            "{leader} ::1:5003@15003 master - 0 0 5 connected 0-16383\n\
             {} 10.0.0.1:5001@15001 slave,fail {leader} 0 0 5 disconnected\n\
             {} localhost:5002@15002,localhost myself,slave {leader} 0 0 5 connected\n\
             {} 10.0.0.4:5004@15004 slave {leader} 0 0 5 connected\n",
            name(1),
            name(2),
            name(4),
            leader = name(3),
        );
        assert_eq!(text(reply(&status(), "nodes")), expected);
        let mut leading = status();
        leading.node_id = 3;
        assert!(text(reply(&leading, "nodes"))
            .starts_with(&format!("{} ::1:5003@15003 myself,master - ", name(3))));
    }

    #[test]
    fn shards_give_role_offset_and_health() {
        let Reply::Array(shards) = reply(&status(), "shards") else { panic!() };
        let [Reply::Map(shard)] = shards.as_slice() else { panic!() };
        assert_eq!(shard[0], (bulk("slots"), Reply::Array(vec![Reply::Integer(0), Reply::Integer(16383)])));
        let (_, Reply::Array(nodes)) = &shard[1] else { panic!() };
        let seen: Vec<_> = nodes
            .iter()
            .map(|node| {
                let Reply::Map(fields) = node else { panic!() };
                let value =
                    |key| fields.iter().find(|(found, _)| *found == bulk(key)).map(|(_, value)| value);
                let shown = |key| match value(key) {
                    Some(Reply::Bulk(text)) => text.clone(),
                    Some(Reply::Integer(number)) => number.to_string(),
                    _ => "none".to_owned(),
                };
                ["endpoint", "port", "hostname", "role", "replication-offset", "health"].map(shown).join(" ")
            })
            .collect();
        assert_eq!(
            seen,
            [
                "::1 5003 none master 0 online",
                "10.0.0.1 5001 none replica 0 fail",
                "localhost 5002 localhost replica 77 online",
                "10.0.0.4 5004 none replica 0 loading",
            ]
        );
    }

    #[test]
    fn replicas_are_the_lines_of_the_others() {
        let Reply::Array(lines) = reply(&status(), &format!("replicas {}", name(3))) else { panic!() };
        assert_eq!(lines.len(), 3);
        let error = text(reply(&status(), &format!("slaves {}", name(1))));
        assert_eq!(error, "ERR The specified node is not a master");
        assert_eq!(text(reply(&status(), "replicas xx")), "ERR Unknown node xx");
    }

    #[test]
    fn without_a_leader_the_views_wait_and_info_says_so() {
        let mut status = status();
        for unknown in [None, Some(9)] {
            status.leader_id = unknown;
            for line in ["slots", "shards", "nodes", "replicas x"] {
                assert_eq!(ask(&status, line), Answer::Wait, "{line}");
            }
            let info = text(reply(&status, "info"));
            assert!(info
                .starts_with("cluster_state:fail\r\ncluster_slots_assigned:16384\r\ncluster_slots_ok:0\r\n"));
            assert!(info.contains("cluster_slots_fail:16384\r\n"));
        }
        assert_eq!(text(reply(&status, "myid")), name(2));
        assert_eq!(reply(&status, "keyslot abc"), Reply::Integer(3));
    }

    #[test]
    fn info_with_a_leader() {
        let info = text(reply(&status(), "INFO"));
        for line in [
            "cluster_state:ok",
            "cluster_slots_ok:16384",
            "cluster_slots_fail:0",
            "cluster_known_nodes:4",
            "cluster_size:1",
            "cluster_current_epoch:5",
        ] {
            assert!(info.contains(&format!("{line}\r\n")), "{line} in {info}");
        }
    }

    #[test]
    fn a_node_in_no_cluster_says_so() {
        for state in [State::Uninitialized, State::Removed] {
            let status = Status { state, ..Status::default() };
            for line in ["slots", "shards", "nodes", "myid"] {
                assert!(text(reply(&status, line)).starts_with("NOCLUSTER "), "{line}");
            }
            assert!(text(reply(&status, "info"))
                .starts_with("cluster_state:fail\r\ncluster_slots_assigned:0\r\n"));
        }
        let joining = Status { state: State::Joining, ..Status::default() };
        assert_eq!(ask(&joining, "slots"), Answer::Wait);
    }

    #[test]
    fn what_raft_decides_is_refused_with_the_reason() {
        for line in
            "meet h 1;addslots 1;failover;reset;forget x;replicate x;setslot 1 node x;flushslots".split(';')
        {
            assert_eq!(text(reply(&status(), line)), NOT_SUPPORTED, "{line}");
        }
        assert_eq!(text(reply(&status(), "countkeysinslot 1")), NO_SLOT_INDEX);
    }

    #[test]
    fn bad_input_gets_the_errors_of_redis_on_one_line() {
        let status = status();
        assert_eq!(text(reply(&status, "")), "ERR wrong number of arguments for 'cluster' command");
        assert_eq!(
            text(reply(&status, "KeySlot")),
            "ERR wrong number of arguments for 'cluster|keyslot' command"
        );
        assert_eq!(
            text(reply(&status, "slots x")),
            "ERR wrong number of arguments for 'cluster|slots' command"
        );
        assert_eq!(text(reply(&status, "Foo")), "ERR unknown subcommand 'Foo'. Try CLUSTER HELP.");
        let Answer::Now(Reply::Error(error)) = answer(&status, &[&b"a\r\n\xff"[..]], |_| 0) else { panic!() };
        assert_eq!(error, "ERR unknown subcommand 'a  \u{fffd}'. Try CLUSTER HELP.");
        let long = "x".repeat(1 << 16);
        assert!(text(reply(&status, &long)).len() < 200);
    }

    #[test]
    fn redirections() {
        assert_eq!(moved(42, "localhost:5001"), "MOVED 42 localhost:5001");
        assert_eq!(moved(0, "[::1]:5001"), "MOVED 0 ::1:5001");
    }
}
