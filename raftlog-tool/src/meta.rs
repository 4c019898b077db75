//! `meta`: term, vote, identity, and the state of the four copies.

use std::io::Write;

use redisraft::log::disk::{Disk, Mode, SystemDisk};
use redisraft::log::meta::{choose, CopyState, Meta, META_BYTES, META_NAME};
use redisraft::log::segment::BLOCK_BYTES;
use redisraft::log::Reader;
use redisraft::snapshot::Depth;
use serde::Serialize;

use crate::cli::{MetaArguments, ReportFormat};
use crate::failure::{exit_code_of, Failure, CLEAN, DAMAGE};
use crate::holder;
use crate::object::SCHEMA;
use crate::snapshots::{SnapshotObject, Snapshots};
use crate::text::{self, Output};

/// What META says. The secret of the cluster is never shown.
#[derive(Serialize)]
struct Report {
    schema: u64,
    #[serde(rename = "type")]
    type_name: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    meta: Option<MetaObject>,
    copies: Vec<Copy>,
    /// The newest one, by its sidecar.
    snapshot: Option<SnapshotObject>,
    #[serde(skip_serializing_if = "Option::is_none")]
    damage: Option<String>,
    in_use_by: Option<u32>,
}

#[derive(Serialize)]
struct MetaObject {
    generation: u64,
    cluster_id: String,
    node_id: u64,
    term: u64,
    vote: Option<u64>,
    base_index: u64,
    base_term: u64,
    first_segment: u32,
    floor_segment: u32,
    floor_offset: u64,
    /// Acknowledged entries may have been cut away: the node does not vote until it has caught up.
    distrusted: bool,
}

/// One of the four copies.
#[derive(Serialize)]
struct Copy {
    offset: usize,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    generation: Option<u64>,
}

impl MetaObject {
    fn of(meta: &Meta) -> MetaObject {
        MetaObject {
            generation: meta.generation,
            cluster_id: String::from_utf8_lossy(&meta.owner.cluster_id).into_owned(),
            node_id: meta.owner.node_id,
            term: meta.hard_state.term,
            vote: meta.hard_state.vote,
            base_index: meta.base_index,
            base_term: meta.base_term,
            first_segment: meta.first_sequence,
            floor_segment: meta.floor_sequence,
            floor_offset: meta.floor_offset,
            distrusted: meta.distrusted,
        }
    }
}

pub fn run(arguments: &MetaArguments, output: &mut Output) -> Result<u8, Failure> {
    let directory = &arguments.directory;
    let path = directory.join(META_NAME);
    let mut report = Report {
        schema: SCHEMA,
        type_name: "meta",
        meta: None,
        copies: Vec::new(),
        snapshot: None,
        damage: None,
        in_use_by: holder::find(directory),
    };
    // Says what is wrong with a directory without META, or with one of another length.
    if let Err(error) = Reader::open(directory) {
        if exit_code_of(&error) != DAMAGE {
            return Err(error.into());
        }
        report.damage = Some(error.to_string());
    }
    let mut snapshot_line = None;
    if let Some(bytes) = read_whole(&path)? {
        report.copies = bytes.chunks_exact(BLOCK_BYTES).enumerate().map(copy).collect();
        match choose(&path, &bytes) {
            Ok(read) => {
                let snapshots = Snapshots::find(directory, &read.meta, Depth::Length)?;
                report.snapshot = snapshots.newest.as_ref().map(SnapshotObject::of);
                snapshot_line = snapshots.line();
                report.meta = Some(MetaObject::of(&read.meta));
                if read.damaged_copies > 0 {
                    report.damage = Some(format!(
                        "{} of 4 copies are damaged; the others serve, the next start rewrites all",
                        read.damaged_copies
                    ));
                }
            }
            Err(error) => report.damage = Some(error.to_string()),
        }
    }
    match arguments.format {
        ReportFormat::Json => {
            serde_json::to_writer(&mut *output.writer, &report)?;
            writeln!(output)?;
        }
        ReportFormat::Text => print(&report, snapshot_line.as_deref(), output)?,
    }
    Ok(if report.damage.is_some() { DAMAGE } else { CLEAN })
}

/// The file, if it is there and has the right length.
fn read_whole(path: &std::path::Path) -> Result<Option<[u8; META_BYTES]>, Failure> {
    if !path.exists() {
        return Ok(None);
    }
    let read = || {
        let file = SystemDisk.open(path, Mode::Read)?;
        if file.length()? != META_BYTES as u64 {
            return Ok(None);
        }
        let mut bytes = [0; META_BYTES];
        file.read_at(&mut bytes, 0)?;
        Ok(Some(bytes))
    };
    read().map_err(|source| Failure::File { verb: "read", path: path.to_path_buf(), source })
}

fn copy((block, bytes): (usize, &[u8])) -> Copy {
    let offset = block * BLOCK_BYTES;
    match Meta::decode(bytes.try_into().expect("one block")) {
        CopyState::Valid(meta) => Copy { offset, state: "valid", generation: Some(meta.generation) },
        CopyState::Invalid => Copy { offset, state: "damaged", generation: None },
        CopyState::Newer { .. } => Copy { offset, state: "newer format", generation: None },
    }
}

fn print(report: &Report, snapshot: Option<&str>, output: &mut Output) -> Result<(), Failure> {
    if let Some(meta) = &report.meta {
        let vote = meta.vote.map_or("none".to_string(), |vote| format!("node {vote}"));
        writeln!(output, "cluster     {}", meta.cluster_id)?;
        writeln!(output, "node        {}", meta.node_id)?;
        writeln!(output, "term        {}", meta.term)?;
        writeln!(output, "vote        {vote}")?;
        writeln!(output, "log begins  behind entry {} of term {}", meta.base_index, meta.base_term)?;
        writeln!(output, "            in segment {}", meta.first_segment)?;
        writeln!(output, "snapshot    {}", snapshot.unwrap_or("none"))?;
        writeln!(output, "floor       segment {}, offset {}", meta.floor_segment, meta.floor_offset)?;
        writeln!(output, "            (all before it was durable when META was written)")?;
        writeln!(output, "generation  {}", meta.generation)?;
        if meta.distrusted {
            output.styled(text::WARNING, "distrusted")?;
            writeln!(
                output,
                "  acknowledged entries may have been cut away: no vote until it has caught up"
            )?;
        }
    }
    for copy in &report.copies {
        let generation =
            copy.generation.map_or(String::new(), |generation| format!(", generation {generation}"));
        write!(output, "copy        offset {:5}: ", copy.offset)?;
        let style = if copy.state == "valid" { text::GOOD } else { text::BAD };
        output.styled(style, copy.state)?;
        writeln!(output, "{generation}")?;
    }
    if let Some(pid) = report.in_use_by {
        writeln!(output, "in use      by process {pid}")?;
    }
    if let Some(damage) = &report.damage {
        output.styled(text::BAD, "damage      ")?;
        writeln!(output, "{damage}")?;
    }
    Ok(())
}
