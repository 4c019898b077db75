//! `recover`: of the log of one node, a new cluster. What it does is in `redisraft::recover`; here are the arguments, the
//! lock, and what the operator is told.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use redisraft::limits::{CLUSTER_ID_BYTES, SECRET_BYTES};
use redisraft::log::disk::{Disk, SystemDisk};
use redisraft::log::{Identity, Options};
use redisraft::node::members::{Member, Members};
use redisraft::recover::{self as recovery, Beginning, Found, RecoverError, Recovered};
use serde::Serialize;

use crate::cli::{RecoverArguments, ReportFormat};
use crate::failure::{Failure, CLEAN, LOSS};
use crate::lock;
use crate::object::SCHEMA;
use crate::text::{self, Output};

/// What is said in the end.
#[derive(Serialize)]
struct Report {
    schema: u64,
    #[serde(rename = "type")]
    type_name: &'static str,
    applied: bool,
    node_id: u64,
    before: Cluster,
    first_index: u64,
    last_index: u64,
    last_term: u64,
    snapshot_index: Option<u64>,
    /// Entries up to this one are known to have been committed.
    committed_index: u64,
    /// What should be known of what was found.
    notes: Vec<String>,
    /// `cluster_id`: null in a dry run that would make one at random.
    after: Cluster,
    term: u64,
    /// The log as it was.
    kept_in: Option<PathBuf>,
    /// Directories for the other members.
    others: Vec<Other>,
    exit_code: u8,
}

#[derive(Serialize)]
struct Cluster {
    cluster_id: Option<String>,
    members: Vec<MemberObject>,
}

#[derive(Serialize)]
struct MemberObject {
    id: u64,
    voting: bool,
    address: String,
    peer_address: String,
}

#[derive(Serialize)]
struct Other {
    id: u64,
    directory: PathBuf,
}

pub fn run(arguments: &RecoverArguments, output: &mut Output) -> Result<u8, Failure> {
    let disk: Arc<dyn Disk> = Arc::new(SystemDisk);
    let directory = whole(&arguments.directory)?;
    if recovery::is_interrupted(&directory) {
        return finish(arguments, &disk, &directory, output);
    }
    if !directory.join(redisraft::log::meta::META_NAME).exists() {
        redisraft::log::Reader::open(&directory)?;
    }
    let chosen = arguments.new_cluster_id.as_deref().filter(|id| !id.is_empty());
    let _lock = lock::take(&directory, !arguments.apply)?;
    let found = recovery::examine(&disk, &directory)?;
    check_cluster_id(chosen, &found.cluster_id)?;
    let members = members(arguments, &directory, &found)?;
    let cluster_id = chosen.map_or_else(random_id, str::to_string);
    let known_id = (chosen.is_some() || arguments.apply).then(|| cluster_id.clone());
    let mut report = Report {
        schema: SCHEMA,
        type_name: "recover",
        applied: false,
        node_id: found.node_id,
        before: Cluster::of(Some(found.cluster_id.clone()), &found.members),
        first_index: found.base.0 + 1,
        last_index: found.last.0,
        last_term: found.last.1,
        snapshot_index: found.snapshot.as_ref().map(|about| about.id.index),
        committed_index: found.committed,
        notes: notes(&found),
        after: Cluster::of(known_id, &members),
        term: found.next_term(),
        kept_in: None,
        others: Vec::new(),
        exit_code: CLEAN,
    };
    if arguments.apply {
        let identity = Identity { cluster_id, node_id: found.node_id, secret: random::<SECRET_BYTES>() };
        let beginning = Beginning { identity, members, term: report.term, options: Options::default() };
        let backup = arguments.backup.as_deref();
        let Recovered { kept, others } = recovery::recover(&disk, &directory, &found, &beginning, backup)?;
        report.applied = true;
        report.kept_in = kept;
        report.others = others.into_iter().map(|(id, directory)| Other { id, directory }).collect();
        report.exit_code = LOSS;
    }
    match arguments.format {
        ReportFormat::Json => {
            serde_json::to_writer(&mut *output.writer, &report)?;
            writeln!(output)?;
        }
        ReportFormat::Text => print(&directory, &report, output)?,
    }
    Ok(report.exit_code)
}

/// The path without links and dots: other directories are made beside it. It need not be there.
fn whole(directory: &Path) -> Result<PathBuf, Failure> {
    if let Ok(whole) = directory.canonicalize() {
        return Ok(whole);
    }
    let failed = |source| Failure::File { verb: "find", path: directory.to_path_buf(), source };
    std::path::absolute(directory).map_err(failed)
}

fn check_cluster_id(chosen: Option<&str>, old: &str) -> Result<(), Failure> {
    let Some(id) = chosen else { return Ok(()) };
    if id.len() != CLUSTER_ID_BYTES || !id.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Failure::Usage(format!(
            "--new-cluster-id={id}: expected {CLUSTER_ID_BYTES} visible ASCII characters, found {} bytes",
            id.len()
        )));
    }
    if id == old {
        return Err(Failure::Usage(format!(
            "--new-cluster-id={id} is the id of the old cluster: its nodes, should they come back, could not be told from \
             those of the new one; give another, or none, and one is made"
        )));
    }
    Ok(())
}

fn members(arguments: &RecoverArguments, directory: &Path, found: &Found) -> Result<Members, Failure> {
    let Some(file) = &arguments.members else {
        let Some(own) = found.members.0.get(&found.node_id) else {
            let members = found.members.0.keys().map(u64::to_string).collect::<Vec<_>>().join(", ");
            let members = if members.is_empty() { "none".to_string() } else { members };
            let directory = directory.to_path_buf();
            return Err(RecoverError::NotAMember { directory, id: found.node_id, members }.into());
        };
        let own = Member { voting: true, in_memory: false, ..own.clone() };
        return Ok(Members(BTreeMap::from([(found.node_id, own)])));
    };
    let text = std::fs::read(file);
    let text = text.map_err(|source| Failure::File { verb: "read", path: file.clone(), source })?;
    let lines = recovery::parse_members(file, &text, found.node_id, &found.used_ids);
    let mut used: BTreeSet<u64> = found.used_ids.clone();
    let lines = lines.map_err(RecoverError::from)?;
    used.extend(lines.iter().filter_map(|line| line.id));
    let mut members = BTreeMap::new();
    for line in lines {
        let id = line.id.unwrap_or_else(|| unused_id(&used));
        used.insert(id);
        let (address, peer_address) = (line.address, line.peer_address);
        let member = Member { voting: true, address, peer_address, in_memory: false };
        members.insert(id, member);
    }
    Ok(Members(members))
}

/// Positive and of 31 bits, as those that a cluster gives out.
fn unused_id(used: &BTreeSet<u64>) -> u64 {
    loop {
        let id = u64::from(u32::from_le_bytes(random::<4>()) >> 1);
        if id != 0 && !used.contains(&id) {
            return id;
        }
    }
}

fn random<const LENGTH: usize>() -> [u8; LENGTH] {
    let mut bytes = [0; LENGTH];
    getrandom::fill(&mut bytes).expect("the system has random numbers");
    bytes
}

/// A cluster id, as INIT makes one.
fn random_id() -> String {
    random::<{ CLUSTER_ID_BYTES / 2 }>().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn notes(found: &Found) -> Vec<String> {
    let mut notes = found.damaged_snapshots.clone();
    if let Some(torn) = &found.torn {
        let (bytes, offset, file) = (torn.bytes, torn.offset, torn.file.display());
        notes.push(format!(
            "{bytes} bytes of {file} at offset {offset} belong to no complete batch: never acknowledged"
        ));
    }
    if found.damaged_meta_copies > 0 {
        notes
            .push(format!("{} of 4 copies of META are damaged; the others serve", found.damaged_meta_copies));
    }
    if found.snapshot_alone {
        notes.push("an installation of the snapshot was interrupted: the entries of the log lie before it or are others".into());
    }
    if found.distrusted {
        notes.push("the end of this log was cut off by `repair`: even what this node had acknowledged may be missing".into());
    }
    match found.members.0.get(&found.node_id) {
        Some(member) if !member.voting => {
            notes.push("this node was a learner: it may be far behind what the voters had".into())
        }
        Some(_) => {}
        None => notes.push("the newest membership does not name this node".into()),
    }
    notes
}

fn finish(
    arguments: &RecoverArguments,
    disk: &Arc<dyn Disk>,
    directory: &Path,
    output: &mut Output,
) -> Result<u8, Failure> {
    let shown = directory.display();
    if arguments.format == ReportFormat::Json {
        return Err(Failure::Usage(format!(
            "a recovery of {shown} was interrupted: finish it without --format json"
        )));
    }
    writeln!(output, "interrupted: a recovery of {shown} was complete but for its last step")?;
    if !arguments.apply {
        writeln!(
            output,
            "dry run: nothing was changed; add --apply to put {shown}.recovered/self in its place"
        )?;
        return Ok(CLEAN);
    }
    let Recovered { others, .. } = recovery::finish(disk, directory)?;
    for (id, path) in others {
        writeln!(output, "made: the directory of node {id} is {}", path.display())?;
    }
    writeln!(
        output,
        "done: what was there before is in a directory whose name begins with {shown}.before-recovery-"
    )?;
    Ok(LOSS)
}

fn print(directory: &Path, report: &Report, output: &mut Output) -> std::io::Result<()> {
    let Report { before, after, last_index, last_term, committed_index, .. } = report;
    let unknown = "made at random".to_string();
    writeln!(
        output,
        "found: node {} of cluster {}",
        report.node_id,
        before.cluster_id.as_ref().unwrap_or(&unknown)
    )?;
    if let Some(index) = report.snapshot_index {
        writeln!(output, "found: a snapshot of entry {index}")?;
    }
    let first = report.first_index;
    match first > *last_index {
        true => writeln!(
            output,
            "found: no entries; the log begins behind entry {last_index} of term {last_term}"
        )?,
        false => writeln!(output, "found: entries {first}..={last_index}, the last of term {last_term}")?,
    }
    before.members.iter().try_for_each(|member| member.print("found: ", output))?;
    for note in &report.notes {
        output.styled(text::WARNING, "note")?;
        writeln!(output, ": {note}")?;
    }
    writeln!(output, "known: entries up to {committed_index} were committed")?;
    if committed_index < last_index {
        writeln!(
            output,
            "unknown: whether entries {}..={last_index} were; they are kept, as they may have been answered",
            committed_index + 1
        )?;
    }
    output.styled(text::WARNING, "loss")?;
    writeln!(
        output,
        ": what the other nodes had and this one did not is gone, acknowledged or not; this log cannot say what it is. Of \
         several nodes that are left, recover the one whose last entry has the highest term, then the highest index"
    )?;
    let would = if report.applied { "" } else { "would be " };
    writeln!(
        output,
        "new: {would}cluster {} from term {} on, with a new secret",
        after.cluster_id.as_ref().unwrap_or(&unknown),
        report.term
    )?;
    after.members.iter().try_for_each(|member| member.print("new: ", output))?;
    if !report.applied {
        return writeln!(output, "dry run: nothing was changed; add --apply to do this");
    }
    if let Some(kept) = &report.kept_in {
        writeln!(output, "kept: the log as it was is in {}", kept.display())?;
    }
    for Other { id, directory } in &report.others {
        writeln!(output, "made: the directory of node {id} is {}", directory.display())?;
    }
    match report.others.is_empty() {
        true => writeln!(
            output,
            "done: start node {} with {}; others can join it",
            report.node_id,
            directory.display()
        ),
        false => writeln!(output, "done: move each directory to its machine, and start each node once"),
    }
}

impl Cluster {
    fn of(cluster_id: Option<String>, members: &Members) -> Cluster {
        let object = |(id, member): (&u64, &Member)| MemberObject {
            id: *id,
            voting: member.voting,
            address: member.address.clone(),
            peer_address: member.peer_address.clone(),
        };
        Cluster { cluster_id, members: members.0.iter().map(object).collect() }
    }
}

impl MemberObject {
    fn print(&self, what: &str, output: &mut Output) -> std::io::Result<()> {
        let role = if self.voting { "voter" } else { "learner" };
        writeln!(output, "{what}{role} {} at {}, peers at {}", self.id, self.address, self.peer_address)
    }
}
