//! The fields of `INFO raft` and `RAFT.INFO`: one list of names and values serves both.

use crate::node::address::HostPort;
use crate::node::status::{GateStats, Latency, MemberStatus, Status};
use redis_module::raw;
use std::ffi::{c_int, CString};
use std::fmt::Display;

/// The module's name: the server puts it and `_` before each field.
const PREFIX: &str = "raft";

/// What is shown for a fact that cannot be known.
const UNKNOWN: &str = "-1";

/// One line, its name without the prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    pub name: String,
    pub value: String,
}

/// What is known when the module is built or loaded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Build {
    pub version: String,
    /// `None` when the sources were not in a repository.
    pub git_sha1: Option<String>,
}

#[derive(Default)]
struct Fields(Vec<Field>);

impl Fields {
    fn add(&mut self, name: impl Into<String>, value: impl Display) {
        self.0.push(Field { name: name.into(), value: value.to_string() });
    }

    fn add_known(&mut self, name: impl Into<String>, value: Option<impl Display>) {
        self.add(name, known(value));
    }

    fn add_flag(&mut self, name: &str, value: bool) {
        self.add(name, if value { "yes" } else { "no" });
    }

    fn add_latency(&mut self, stage: &str, latency: Option<Latency>) {
        self.add_known(format!("{stage}_p50_microseconds"), latency.map(|latency| latency.p50_us));
        self.add_known(format!("{stage}_p99_microseconds"), latency.map(|latency| latency.p99_us));
        self.add_known(format!("{stage}_max_microseconds"), latency.map(|latency| latency.max_us));
    }
}

fn known(value: Option<impl Display>) -> String {
    value.map_or_else(|| UNKNOWN.to_owned(), |value| value.to_string())
}

/// All fields, in the order of the documentation.
pub fn fields(build: &Build, status: &Status, gate: &GateStats) -> Vec<Field> {
    let mut fields = Fields::default();
    fields.add("version", &build.version);
    fields.add_known("git_sha1", build.git_sha1.as_ref());
    add_cluster(&mut fields, status);
    add_log(&mut fields, status);
    add_snapshot(&mut fields, status);
    fields.add("proxy_reqs", gate.proxy_reqs);
    fields.add("proxy_failed_reqs", gate.proxy_failed_reqs);
    fields.add("proxy_outstanding_reqs", gate.proxy_outstanding_reqs);
    fields.add("leader_changes", status.leader_changes);
    fields.add("transfers", status.handover.done);
    fields.add("failed_transfers", status.handover.failed);
    fields.add_flag("stalled", status.handover.stalled);
    fields.add("disk_stalls", status.handover.disk_stalls);
    fields.add("main_stalls", status.handover.main_stalls);
    fields.add("held_clients", gate.held_clients);
    fields.add("released_batches", gate.released_batches);
    fields.add("failed_clients", gate.failed_clients);
    fields.add("immediate_batches", gate.immediate_batches);
    fields.add("follower_reads", gate.follower_reads);
    fields.add("lease_ms_left", gate.lease_left_us / 1000);
    fields.add("corrupt_entries", status.log.corrupt_entries);
    fields.add("repaired_entries", status.log.repaired_entries);
    fields.add("first_hole", &status.log.first_hole);
    fields.add_flag("trusted", !status.log.distrusted);
    fields.add("log_prepare_failures", status.log.prepare_failures);
    fields.add("log_prepare_last_error", &status.log.prepare_last_error);
    for (reason, count) in &status.rejected_links {
        fields.add(format!("rejected_links_{reason}"), count);
    }
    fields.add_latency("sync", status.stages.sync);
    fields.add_latency("commit", status.stages.commit);
    fields.add_latency("apply", status.stages.apply);
    fields.add_latency("read_barrier", status.stages.read_barrier);
    fields.add_latency("held", gate.held);
    fields.0
}

fn add_cluster(fields: &mut Fields, status: &Status) {
    fields.add("dbid", &status.cluster_id);
    fields.add("node_id", status.node_id);
    fields.add("state", status.state.name());
    fields.add("role", status.role.name());
    fields.add_flag("is_voting", status.is_voting());
    fields.add_known("voted_for", status.vote);
    fields.add_known("leader_id", status.leader_id);
    fields.add("current_term", status.term);
    fields.add("num_nodes", status.members.len());
    fields.add("num_voting_nodes", status.members.iter().filter(|member| member.voting).count());
    for (position, member) in status.members.iter().enumerate() {
        fields.add(format!("node{position}"), member_line(member));
    }
}

fn member_line(member: &MemberStatus) -> String {
    // An address from the log is shown as it is, also when it is none.
    let (host, port) = match HostPort::parse(&member.addr) {
        Ok(address) => (address.host.to_owned(), address.port.to_string()),
        Err(_) => (member.addr.clone(), UNKNOWN.to_owned()),
    };
    format!(
        "id={},state={},voting={},addr={host},port={port},last_conn_secs={},conn_errors={},conn_oks={},\
         match_idx={},lag_entries={},rtt_us={}",
        member.id,
        member.connection.name(),
        if member.voting { "yes" } else { "no" },
        known(member.last_conn_secs),
        member.conn_errors,
        member.conn_oks,
        known(member.match_index),
        known(member.lag_entries),
        known(member.rtt_us),
    )
}

fn add_log(fields: &mut Fields, status: &Status) {
    let log = &status.log;
    fields.add("log_entries", log.entries);
    fields.add("current_index", log.current_index);
    fields.add("commit_index", log.commit_index);
    fields.add("last_applied_index", log.applied_index);
    fields.add("file_size", log.file_bytes);
    fields.add("cache_memory_size", log.cache_bytes);
    fields.add("cache_entries", log.cache_entries);
    fields.add("fsync_count", log.fsync_count);
    fields.add("fsync_max_microseconds", log.fsync_max_us);
    fields.add("fsync_avg_microseconds", log.fsync_avg_us);
}

fn add_snapshot(fields: &mut Fields, status: &Status) {
    let snapshot = &status.snapshot;
    fields.add("snapshot_filename", &snapshot.filename);
    fields.add_known("snapshot_last_idx", snapshot.last_index);
    fields.add_known("snapshot_last_term", snapshot.last_term);
    fields.add_known("snapshot_size", snapshot.size_bytes);
    fields.add_known("snapshot_time_secs", snapshot.time_secs);
    fields.add("snapshots_created", snapshot.created);
    fields.add("snapshots_received", snapshot.received);
    fields.add_flag("snapshot_in_progress", snapshot.in_progress);
}

/// The reply of `RAFT.INFO`: what `INFO raft` shows.
pub fn to_text(fields: &[Field]) -> String {
    let mut text = format!("# {PREFIX}\r\n");
    for field in fields {
        // A line break inside a value would forge the next field.
        let value = field.value.replace(['\r', '\n'], "_");
        text.push_str(&format!("{PREFIX}_{}:{value}\r\n", field.name));
    }
    text
}

/// Hands the fields to the server, in the callback that `RM_RegisterInfoFunc` registered. The server replaces `#`, `:`
/// and line breaks in values by `_`, so the colons of an IPv6 address are seen only in `RAFT.INFO`.
///
/// # Safety
/// `ctx` must be the context of a running info callback.
pub unsafe fn add_to(ctx: *mut raw::RedisModuleInfoCtx, fields: &[Field]) {
    // SAFETY: the caller vouches for `ctx`; the server copies names and values before it returns.
    unsafe {
        let (Some(add_section), Some(add_field)) =
            (raw::RedisModule_InfoAddSection, raw::RedisModule_InfoAddFieldCString)
        else {
            return;
        };
        // The section without a name is the one that `INFO raft` shows. The server refuses when it was not asked for.
        if add_section(ctx, std::ptr::null()) != raw::REDISMODULE_OK as c_int {
            return;
        }
        for field in fields {
            let texts = (CString::new(field.name.as_str()), CString::new(field.value.replace('\0', "_")));
            if let (Ok(name), Ok(value)) = texts {
                add_field(ctx, name.as_ptr(), value.as_ptr());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::status::{Connection, LogStatus, Role, State};

    /// The fields of INTERFACE in its order.
    const DOCUMENTED: &str = "version git_sha1 dbid node_id state role is_voting voted_for leader_id current_term \
        num_nodes num_voting_nodes node0 node1 log_entries current_index commit_index last_applied_index file_size \
        cache_memory_size cache_entries fsync_count fsync_max_microseconds fsync_avg_microseconds snapshot_filename \
        snapshot_last_idx snapshot_last_term snapshot_size snapshot_time_secs snapshots_created snapshots_received \
        snapshot_in_progress proxy_reqs proxy_failed_reqs proxy_outstanding_reqs leader_changes transfers failed_transfers \
        stalled disk_stalls main_stalls held_clients \
        released_batches failed_clients immediate_batches follower_reads lease_ms_left corrupt_entries repaired_entries first_hole trusted \
        log_prepare_failures log_prepare_last_error";

    fn status() -> Status {
        let member = |id: u64, connection, addr: &str| MemberStatus {
            id,
            addr: addr.to_owned(),
            voting: id == 7,
            connection,
            ..MemberStatus::default()
        };
        Status {
            state: State::Up,
            role: Role::Leader,
            cluster_id: "0123456789abcdef0123456789abcdef".to_owned(),
            node_id: 7,
            term: 3,
            leader_id: Some(7),
            members: vec![
                MemberStatus { match_index: Some(12), ..member(7, Connection::Own, "localhost:5001") },
                member(9, Connection::Disconnected, "[::1]:5002"),
            ],
            log: LogStatus { current_index: 12, ..LogStatus::default() },
            rejected_links: vec![("wrong_cluster", 2)],
            ..Status::default()
        }
    }

    fn value(fields: &[Field], name: &str) -> String {
        let field = fields.iter().find(|field| field.name == name).unwrap_or_else(|| panic!("no {name}"));
        field.value.clone()
    }

    #[test]
    fn names_and_order_are_those_of_the_documentation() {
        let fields = fields(&Build::default(), &status(), &GateStats::default());
        let names: Vec<&str> = fields.iter().map(|field| field.name.as_str()).collect();
        let documented: Vec<&str> = DOCUMENTED.split_whitespace().collect();
        assert_eq!(names[..documented.len()], documented);
        assert_eq!(names[documented.len()], "rejected_links_wrong_cluster");
        assert_eq!(names.len(), documented.len() + 1 + 5 * 3);
    }

    #[test]
    fn values_are_true_or_minus_one() {
        let fields = fields(
            &Build::default(),
            &status(),
            &GateStats { held_clients: 4, lease_left_us: 7999, ..GateStats::default() },
        );
        for (name, expected) in [
            ("git_sha1", "-1"),
            ("role", "leader"),
            ("state", "up"),
            ("is_voting", "yes"),
            ("voted_for", "-1"),
            ("leader_id", "7"),
            ("num_nodes", "2"),
            ("num_voting_nodes", "1"),
            ("current_index", "12"),
            ("snapshot_filename", ""),
            ("snapshot_last_idx", "-1"),
            ("held_clients", "4"),
            ("lease_ms_left", "7"),
            ("sync_p99_microseconds", "-1"),
            (
                "node0",
                "id=7,state=self,voting=yes,addr=localhost,port=5001,last_conn_secs=-1,conn_errors=0,conn_oks=0,\
                 match_idx=12,lag_entries=-1,rtt_us=-1",
            ),
            (
                "node1",
                "id=9,state=disconnected,voting=no,addr=::1,port=5002,last_conn_secs=-1,conn_errors=0,conn_oks=0,\
                 match_idx=-1,lag_entries=-1,rtt_us=-1",
            ),
        ] {
            assert_eq!(value(&fields, name), expected, "{name}");
        }
    }

    #[test]
    fn a_node_before_init_says_so() {
        let fields = fields(&Build::default(), &Status::default(), &GateStats::default());
        assert_eq!(value(&fields, "role"), "(none)");
        assert_eq!(value(&fields, "state"), "uninitialized");
        assert_eq!(value(&fields, "leader_id"), "-1");
        assert_eq!(value(&fields, "is_voting"), "no");
    }

    #[test]
    fn the_text_has_one_line_per_field_whatever_a_value_holds() {
        let fields = [
            Field { name: "role".to_owned(), value: "leader".to_owned() },
            Field { name: "snapshot_filename".to_owned(), value: "a\r\nraft_role:x".to_owned() },
        ];
        assert_eq!(
            to_text(&fields),
            "# raft\r\nraft_role:leader\r\nraft_snapshot_filename:a__raft_role:x\r\n"
        );
    }
}
