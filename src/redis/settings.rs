//! Settings of the server that the module owns while it runs, and those it cannot live with.

use super::ffi::{self, Context};

/// Name, value, reason. See docs/operations.md.
const OWNED: &[(&str, &str, &str)] = &[
    ("save", "", "snapshots are the module's; an RDB of a moment that is not an entry's is of no use"),
    ("repl-backlog-size", "67108864", "a cut local link resumes at the exact byte"),
    ("repl-backlog-ttl", "0", "the backlog stays while there is no link"),
    (
        "client-output-buffer-limit",
        "replica 0 0 0",
        "the capture link is bounded by the clients that are held",
    ),
    ("repl-diskless-load", "on-empty-db", "no second copy of a snapshot on disk"),
    ("repl-ping-replica-period", "3600", "the raft thread sends its own"),
    ("repl-timeout", "60", "both local links are spoken to each second"),
    ("shutdown-timeout", "0", "the capture link needs no waiting for, and the wait would pause writes"),
    ("min-replicas-to-write", "0", "Raft counts replicas, not the server"),
    ("replica-read-only", "yes", "nothing but the feed writes on a follower"),
    ("replica-serve-stale-data", "yes", "the module itself decides what a follower answers"),
    ("replica-ignore-maxmemory", "yes", "evictions come from the leader"),
];

/// Sets what the module owns; the first time the node follows.
pub fn take_over(ctx: Context) {
    for (name, value, reason) in OWNED {
        if let Err(error) = ffi::call(ctx, &["CONFIG", "SET", name, value]) {
            log::warn!("cannot set {name} to '{value}' ({reason}): {error}");
        }
    }
}

/// Why the module cannot run in this server, if so.
pub fn check(ctx: Context) -> Result<(), String> {
    let is = |name: &str, value: &str| -> Result<bool, String> { Ok(ffi::config_get(ctx, name)? == value) };
    if is("cluster-enabled", "yes")? {
        return Err(
            "cluster-enabled is yes: raft is a cluster of its own; remove it from the configuration".into()
        );
    }
    if is("appendonly", "yes")? {
        return Err("appendonly is yes: the raft log takes its place; set appendonly no".into());
    }
    if !is("replicaof", "")? {
        return Err(
            "replicaof is set: replication is managed by raft; remove it from the configuration".into()
        );
    }
    let threads = ffi::config_get(ctx, "io-threads")?;
    if threads != "1" {
        return Err(format!(
            "io-threads is {threads}: their writes would pass by the gate that holds replies; set io-threads 1"
        ));
    }
    Ok(())
}
