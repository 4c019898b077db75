//! Every command and flag, defined once: help, manual and completions are made from this.

use std::path::PathBuf;

use clap::{Args, ColorChoice, Parser, Subcommand, ValueEnum};

use crate::select::Selection;

pub const EXIT_CODES: &str = "\
Exit codes:
  0  clean (a torn tail is no damage: it was never acknowledged)
  1  damage: what was acknowledged cannot be read, or is of another log; of `diff`: they differ
  2  wrong usage, or no log in DIR
  3  a file could not be read or written
  4  the log is in use, and the command needs its lock (`repair`, `recover`)
  5  written in a newer format: use the newer tool
  6  repaired or recovered, but acknowledged entries may be gone";

const ABOUT: &str = "\
Looks into the Raft log of a redis-raft node: shows, checks, compares, exports and mends it.

DIR is the directory that raft.log-filename names, below the server's dir. All commands but `repair` and `recover` only read, take \
no lock, and work beside a running server. Data goes to stdout, diagnostics to stderr.";

#[derive(Parser)]
#[command(name = "raftlog-tool", version, about = "Looks into the Raft log of a redis-raft node", long_about = ABOUT)]
#[command(after_help = EXIT_CODES, after_long_help = EXIT_CODES, max_term_width = 110)]
pub struct CommandLine {
    /// Colours: on a terminal and without NO_COLOR, always, or never
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto", hide_possible_values = true)]
    pub color: ColorChoice,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand)]
pub enum Command {
    Dump(DumpArguments),
    Verify(VerifyArguments),
    Stat(StatArguments),
    Find(FindArguments),
    Diff(DiffArguments),
    Meta(MetaArguments),
    Export(ExportArguments),
    Repair(RepairArguments),
    Recover(RecoverArguments),
    Completions(CompletionsArguments),
    Man(ManArguments),
}

/// How data is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DumpFormat {
    /// For people: a line per entry and one per command
    Text,
    /// One JSON document
    Json,
    /// One JSON object per line
    Jsonl,
    /// The bytes of each record with their offsets in the file
    Hex,
    /// The commands as RESP, as they were replicated
    Resp,
}

/// How a report is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ReportFormat {
    /// For people
    Text,
    /// One JSON object
    Json,
}

/// How a list is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ListFormat {
    /// For people
    Text,
    /// One JSON object per line
    Jsonl,
}

const DUMP_EXAMPLES: &str = "\
Examples:
  raftlog-tool dump --last 10 raftlog
  raftlog-tool dump --from 100 --to 200 --format jsonl raftlog | jq .commands
  raftlog-tool dump --key 'user:*' --db 0 --values raftlog
  raftlog-tool dump --type membership raftlog   who belonged to the cluster, and since when
  raftlog-tool dump --headers raftlog   every record as it stands in the files
  raftlog-tool dump --format hex --headers --last 1 raftlog
  raftlog-tool dump --last 0 --follow raftlog   what a running node writes, as it writes it

What is printed is in the log of this node. Whether it is committed is not in the log: the last entries of a node may \
be truncated when another node leads. See raft_commit_index in INFO raft of a running node.";

/// Print the entries of a log, with the commands they carry
#[derive(Args)]
#[command(after_long_help = DUMP_EXAMPLES)]
pub struct DumpArguments {
    #[command(flatten)]
    pub selection: Selection,
    /// Only commands that write a key like PATTERN: *, ?, [a-z], [^a-z], \ as in KEYS, \xff for a byte
    #[arg(long, value_name = "PATTERN", help_heading = "Which entries")]
    pub key: Option<String>,
    /// Only the last COUNT of them
    #[arg(long, value_name = "COUNT", help_heading = "Which entries")]
    pub last: Option<u64>,
    /// How: text, json, jsonl (one object per line), hex or resp
    ///
    /// JSON carries "schema", the version of its fields; it grows when a field changes its meaning or goes away. What
    /// is not UTF-8 stands in it as {"hex": ".."}. json, jsonl, hex and resp are always complete; text shortens.
    #[arg(long, value_name = "FORMAT", default_value = "text", hide_possible_values = true)]
    pub format: DumpFormat,
    /// Show long values whole (text only: the other formats always do)
    #[arg(long)]
    pub values: bool,
    /// Print every record with its file and offset - truncated entries, marks, truncations and seals too - but no
    /// commands
    #[arg(long)]
    pub headers: bool,
    /// Go on: print what a running node writes, until interrupted
    ///
    /// Entries are printed when they are written, which may be before they are durable, and before they are
    /// committed. Where a later record drops entries again, a line says so.
    #[arg(long, short)]
    pub follow: bool,
    /// The directory of the log (raft.log-filename)
    #[arg(value_name = "DIR")]
    pub directory: PathBuf,
}

const VERIFY_EXAMPLES: &str = "\
Examples:
  raftlog-tool verify raftlog
  raftlog-tool verify --deep --format json raftlog
  raftlog-tool verify raftlog >/dev/null; test $? -eq 0 || echo 'see to this node'

The decision between clean, torn and damaged is the one that a start of the node makes, by the same code.";

/// Read the whole log and check every checksum, chain and identity
#[derive(Args)]
#[command(after_help = EXIT_CODES, after_long_help = [VERIFY_EXAMPLES, "\n\n", EXIT_CODES].concat())]
pub struct VerifyArguments {
    /// Check what the entries carry, too
    ///
    /// Every entry must be whole commands, with MULTI and EXEC in pairs, ending in database 0; memberships must
    /// decode; the index file of a segment that is complete must agree with it.
    #[arg(long)]
    pub deep: bool,
    /// How: text or json
    #[arg(long, value_name = "FORMAT", default_value = "text", hide_possible_values = true)]
    pub format: ReportFormat,
    /// The directory of the log (raft.log-filename)
    #[arg(value_name = "DIR")]
    pub directory: PathBuf,
}

const STAT_EXAMPLES: &str = "\
Examples:
  raftlog-tool stat raftlog
  raftlog-tool stat --by prefix --depth 2 --top 50 raftlog
  raftlog-tool stat --by command,segment --from 1000000 --format json raftlog";

/// Sum up a log: by term, type, command, key prefix and segment
#[derive(Args)]
#[command(after_long_help = STAT_EXAMPLES)]
pub struct StatArguments {
    #[command(flatten)]
    pub selection: Selection,
    /// Only commands that write a key like PATTERN: *, ?, [a-z], [^a-z], \ as in KEYS, \xff for a byte
    #[arg(long, value_name = "PATTERN", help_heading = "Which entries")]
    pub key: Option<String>,
    /// Which tables: term, type, command, prefix, segment
    #[arg(long, value_name = "TABLES", value_delimiter = ',', hide_possible_values = true)]
    #[arg(default_value = "type,term,command,prefix,segment")]
    pub by: Vec<StatTable>,
    /// Most rows of a table
    #[arg(long, value_name = "COUNT", default_value = "20")]
    pub top: usize,
    /// What ends a part of a key
    #[arg(long, value_name = "TEXT", default_value = ":")]
    pub delimiter: String,
    /// Parts that make a prefix
    #[arg(long, value_name = "COUNT", default_value = "1")]
    pub depth: usize,
    /// How: text or json
    #[arg(long, value_name = "FORMAT", default_value = "text", hide_possible_values = true)]
    pub format: ReportFormat,
    /// The directory of the log (raft.log-filename)
    #[arg(value_name = "DIR")]
    pub directory: PathBuf,
}

/// A table of `stat`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum StatTable {
    Type,
    Term,
    Command,
    Prefix,
    Segment,
}

const FIND_EXAMPLES: &str = "\
Examples:
  raftlog-tool find --key user:17 raftlog   the life of one key, also FLUSHALL and the like
  raftlog-tool find --key 'session:*' --last 5 --values raftlog
  raftlog-tool find --key '\\xff\\x00*' --format jsonl raftlog";

/// Find the commands that wrote a key: one line each, with the index of its entry
#[derive(Args)]
#[command(after_long_help = FIND_EXAMPLES)]
pub struct FindArguments {
    /// The key: *, ?, [a-z], [^a-z], \ as in KEYS, \xff for a byte
    #[arg(long, value_name = "PATTERN")]
    pub key: String,
    #[command(flatten)]
    pub selection: Selection,
    /// Only the last COUNT commands
    #[arg(long, value_name = "COUNT", help_heading = "Which entries")]
    pub last: Option<u64>,
    /// How: text or jsonl (one object per line)
    #[arg(long, value_name = "FORMAT", default_value = "text", hide_possible_values = true)]
    pub format: ListFormat,
    /// Show long values whole
    #[arg(long)]
    pub values: bool,
    /// The directory of the log (raft.log-filename)
    #[arg(value_name = "DIR")]
    pub directory: PathBuf,
}

const DIFF_EXAMPLES: &str = "\
Examples:
  raftlog-tool diff node1/raftlog node2/raftlog

Two logs of one cluster that hold an entry of the same index and term are equal up to it (Log Matching, Raft section \
5.3). They may differ at their ends, in entries that are not committed: then the terms differ. Where they hold \
different entries of one index and one term, one of them was changed, or damaged and not noticed.";

/// Compare the logs of two nodes: the first entry in which they differ
#[derive(Args)]
#[command(after_help = EXIT_CODES, after_long_help = [DIFF_EXAMPLES, "\n\n", EXIT_CODES].concat())]
pub struct DiffArguments {
    /// How: text or json
    #[arg(long, value_name = "FORMAT", default_value = "text", hide_possible_values = true)]
    pub format: ReportFormat,
    /// Show long values whole
    #[arg(long)]
    pub values: bool,
    /// The log of one node
    #[arg(value_name = "A")]
    pub left: PathBuf,
    /// The log of another
    #[arg(value_name = "B")]
    pub right: PathBuf,
}

const META_EXAMPLES: &str = "\
Examples:
  raftlog-tool meta raftlog
  raftlog-tool meta --format json raftlog | jq .meta.term

The secret of the cluster, which META holds too, is never shown.";

/// Show term, vote, identity and where the log begins
#[derive(Args)]
#[command(after_long_help = META_EXAMPLES)]
pub struct MetaArguments {
    /// How: text or json
    #[arg(long, value_name = "FORMAT", default_value = "text", hide_possible_values = true)]
    pub format: ReportFormat,
    /// The directory of the log (raft.log-filename)
    #[arg(value_name = "DIR")]
    pub directory: PathBuf,
}

const EXPORT_EXAMPLES: &str = "\
Examples:
  raftlog-tool export --to 123456 raftlog | redis-cli -p 7000 --pipe
  raftlog-tool export --to 123456 raftlog > data/appendonly.aof
  redis-server --port 7000 --appendonly yes --dir data

--to is yours to give, because the log does not say what is committed: ask a running node for raft_commit_index in \
INFO raft, or find the entry with `find` or `dump`. --all takes the log to its end, with entries at the end that the \
cluster may never have committed.

The second way, loading the export as an append only file, is exact at any time. By the first, Redis runs the \
commands as those of a client: a key whose time to live is over is gone at once, and a later command that would have \
changed it finds nothing. A note on stderr says whether the export holds such keys.";

/// Print entries as plain RESP, which rebuilds the dataset as it was at any point in time
#[derive(Args)]
#[command(after_long_help = EXPORT_EXAMPLES)]
#[command(group = clap::ArgGroup::new("end").required(true).args(["to", "all"]))]
pub struct ExportArguments {
    /// From this index on; without it from entry 1, which must be there
    #[arg(long, value_name = "INDEX")]
    pub from: Option<u64>,
    /// Up to this index, included
    #[arg(long, value_name = "INDEX")]
    pub to: Option<u64>,
    /// Up to the last entry of the log, committed or not
    #[arg(long)]
    pub all: bool,
    /// How: resp is the only one
    #[arg(long, value_name = "FORMAT", default_value = "resp")]
    pub format: ExportFormat,
    /// The directory of the log (raft.log-filename)
    #[arg(value_name = "DIR")]
    pub directory: PathBuf,
}

/// How an export is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ExportFormat {
    /// Commands, as a client sends them
    Resp,
}

const REPAIR_EXAMPLES: &str = "\
Examples:
  raftlog-tool repair raftlog   what is wrong, and what can be done
  raftlog-tool repair --apply raftlog   torn tail and index files: loses nothing
  raftlog-tool repair --truncate-at 5001 --accept-data-loss raftlog
  raftlog-tool repair --truncate-at 5001 --accept-data-loss --apply --backup /backup raftlog

A damaged entry of a node whose cluster is up needs no repair by hand: start the node, and it fetches the entry from \
the others. Cutting a log is for a node that is alone, or for a cluster that has lost its majority.

Without --apply nothing is changed. With it, what is changed is kept first, as whole files, in a directory \
cut-<seconds since 1970> in DIR, or in the one that --backup names: putting these files back undoes all. A node whose \
log was cut by --truncate-at does not vote until it has caught up with the others.

The lock of the log is taken, also for the dry run; there is no way around it.";

/// Mend a log, or show how: a dry run unless --apply is given
#[derive(Args)]
#[command(after_help = EXIT_CODES, after_long_help = [REPAIR_EXAMPLES, "\n\n", EXIT_CODES].concat())]
pub struct RepairArguments {
    /// Do it; without this only say what would be done
    #[arg(long)]
    pub apply: bool,
    /// Keep what was there before in a new directory below PATH, not in DIR
    #[arg(long, value_name = "PATH")]
    pub backup: Option<PathBuf>,
    /// Make incomplete or damaged index files anew from their segments
    #[arg(long)]
    pub rebuild_index: bool,
    /// Zero what the last write left half-done, if nothing proves that it was acknowledged
    #[arg(long)]
    pub truncate_torn: bool,
    /// Drop this entry and all after it, acknowledged or not
    #[arg(long, value_name = "INDEX", requires = "accept_data_loss")]
    #[arg(conflicts_with_all = ["rebuild_index", "truncate_torn"])]
    pub truncate_at: Option<u64>,
    /// Yes, answered writes may be lost by --truncate-at
    #[arg(long, requires = "truncate_at")]
    pub accept_data_loss: bool,
    /// How: text or json
    #[arg(long, value_name = "FORMAT", default_value = "text", hide_possible_values = true)]
    pub format: ReportFormat,
    /// The directory of the log (raft.log-filename)
    #[arg(value_name = "DIR")]
    pub directory: PathBuf,
}

const RECOVER_EXAMPLES: &str = "\
Examples:
  raftlog-tool recover --single raftlog   what is there, what is known of it, what would be made
  raftlog-tool recover --single --new-cluster-id --apply raftlog
  raftlog-tool recover --members members.txt --apply --backup /var/lib/redis/aside raftlog

The file of members has a line for each voter of the new cluster; empty lines and those that begin with # do not count:
  # id   clients connect to   peers connect to
  7      10.0.0.3:6379        10.0.0.3:16379
  new    10.0.0.4:6379        10.0.0.4:16379
One of them is the node whose log this is, under its own id; the others have ids that were never given out, or `new`.

What is recovered: all entries and the snapshot of this one log. What only the lost nodes had is gone, acknowledged or not, \
and a log cannot say what that is; of several nodes that are left, recover the one whose last entry has the highest term \
and, in that, the highest index. Entries at the end of this log that were never committed are kept, too.

The new cluster always has a new id and a new secret: no node of the old one can speak with it. Nodes of the old one that \
come back all the same must not be started, or clients that know them would be served by two clusters.

With --single, start this node and let the others join it, each with an empty directory. With --members, directories for the \
other members are made in DIR.recovered: move each to its machine, start all of them, and start none of them twice.

Without --apply nothing is changed. With it, the log as it was is kept in DIR.before-recovery-<seconds since 1970>. The lock \
of the log is taken, also for the dry run; there is no way around it.";

/// Begin a new cluster with the log of one node, when the others are lost for good: a dry run unless --apply is given
#[derive(Args)]
#[command(after_help = EXIT_CODES, after_long_help = [RECOVER_EXAMPLES, "\n\n", EXIT_CODES].concat())]
#[command(group = clap::ArgGroup::new("who").required(true).args(["single", "members"]))]
pub struct RecoverArguments {
    /// This node is the only voter; others can join it
    #[arg(long)]
    pub single: bool,
    /// The voters are those that FILE names; a directory is made for each
    #[arg(long, value_name = "FILE")]
    pub members: Option<PathBuf>,
    /// Id of the new cluster: 32 letters, digits or other visible ASCII characters. It is made at random without this, or without ID
    #[arg(long, value_name = "ID", num_args = 0..=1, require_equals = true, default_missing_value = "")]
    pub new_cluster_id: Option<String>,
    /// Do it; without this only say what would be done
    #[arg(long)]
    pub apply: bool,
    /// Keep the log as it was below PATH, on the same disk, not beside DIR
    #[arg(long, value_name = "PATH")]
    pub backup: Option<PathBuf>,
    /// How: text or json
    #[arg(long, value_name = "FORMAT", default_value = "text", hide_possible_values = true)]
    pub format: ReportFormat,
    /// The directory of the log (raft.log-filename)
    #[arg(value_name = "DIR")]
    pub directory: PathBuf,
}

const COMPLETIONS_EXAMPLES: &str = "\
Examples:
  raftlog-tool completions bash > /usr/share/bash-completion/completions/raftlog-tool
  raftlog-tool completions zsh > /usr/local/share/zsh/site-functions/_raftlog-tool
  raftlog-tool completions fish > ~/.config/fish/completions/raftlog-tool.fish";

/// Print a script that completes commands and flags
#[derive(Args)]
#[command(after_long_help = COMPLETIONS_EXAMPLES)]
pub struct CompletionsArguments {
    /// bash, zsh, fish, elvish or powershell
    #[arg(value_name = "SHELL", hide_possible_values = true)]
    pub shell: clap_complete::Shell,
}

const MAN_EXAMPLES: &str = "\
Examples:
  raftlog-tool man | man -l -
  raftlog-tool man > /usr/local/share/man/man1/raftlog-tool.1
  raftlog-tool man repair | man -l -";

/// Print the manual, or that of one command
#[derive(Args)]
#[command(after_long_help = MAN_EXAMPLES)]
pub struct ManArguments {
    /// A command
    #[arg(value_name = "COMMAND")]
    pub command: Option<String>,
}
