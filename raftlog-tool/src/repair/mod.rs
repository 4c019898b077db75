//! `repair`: the one command that changes a log, and only with `--apply`.
//!
//! `plan.rs` decides without changing anything, `apply.rs` carries out, `files.rs` makes each step durable. What goes
//! is copied or moved aside first, never deleted.

mod apply;
mod files;
mod plan;

use std::io::Write;
use std::path::{Path, PathBuf};

use redisraft::log::Reader;
use serde::Serialize;

use crate::cli::{RepairArguments, ReportFormat};
use crate::failure::{Failure, CLEAN, DAMAGE, LOSS};
use crate::lock;
use crate::object::SCHEMA;
use crate::text::{self, file_name, Output};
use plan::{Action, Assessment};

/// What is said in the end.
#[derive(Serialize)]
struct Report {
    schema: u64,
    #[serde(rename = "type")]
    type_name: &'static str,
    /// Whether anything was changed.
    applied: bool,
    /// What was found before.
    damage: Option<String>,
    /// It is that entries are in neither log nor snapshot.
    snapshot_gap: bool,
    /// Highest index that can be read.
    last_index: u64,
    /// Of the entries that cannot be read; one behind the last if there is none.
    first_damaged_index: u64,
    actions: Vec<Action>,
    /// Where what was there before is kept.
    kept_in: Option<PathBuf>,
    exit_code: u8,
}

pub fn run(arguments: &RepairArguments, output: &mut Output) -> Result<u8, Failure> {
    let directory = &arguments.directory;
    // What is no log has no lock either: nothing is made there.
    if !directory.join(redisraft::log::meta::META_NAME).exists() {
        Reader::open(directory)?;
    }
    let _lock = lock::take(directory, !arguments.apply)?;
    let assessment = Assessment::of(directory, arguments.truncate_at)?;
    let actions = assessment.plan(arguments)?;
    let gap = assessment.gap(directory);
    let mut report = Report {
        schema: SCHEMA,
        type_name: "repair",
        applied: false,
        damage: gap.clone().or_else(|| assessment.damage()),
        snapshot_gap: gap.is_some(),
        last_index: assessment.last_index,
        first_damaged_index: assessment.first_damaged(),
        actions,
        kept_in: None,
        exit_code: CLEAN,
    };
    let known = report.actions.iter().any(|action| matches!(action, Action::Rewrite { .. }));
    if report.damage.is_some() || known && !arguments.apply {
        report.exit_code = DAMAGE;
    }
    if arguments.apply && !report.actions.is_empty() {
        let backup = arguments.backup.as_deref();
        let kept_in = apply::carry_out(directory, &assessment.reader, &report.actions, backup)?;
        report.kept_in = Some(kept_in);
        report.applied = true;
        report.last_index = apply::check(directory)?;
        let lost = arguments.truncate_at.is_some();
        assert!(
            !lost || Some(report.last_index + 1) == arguments.truncate_at,
            "the cut is where it was wanted"
        );
        if lost {
            report.exit_code = LOSS;
        }
    }
    match arguments.format {
        ReportFormat::Json => {
            serde_json::to_writer(&mut *output.writer, &report)?;
            writeln!(output)?;
        }
        ReportFormat::Text => print(arguments, &report, output)?,
    }
    Ok(report.exit_code)
}

fn print(arguments: &RepairArguments, report: &Report, output: &mut Output) -> std::io::Result<()> {
    let directory = arguments.directory.display();
    if let Some(damage) = &report.damage {
        output.styled(text::BAD, "damaged")?;
        writeln!(output, ": {}", damage.replace('\n', "\ndamaged: "))?;
    }
    for action in &report.actions {
        print_action(action, report.applied, output)?;
    }
    if let Some(kept_in) = &report.kept_in {
        writeln!(output, "kept: what was there before is in {}", kept_in.display())?;
    }
    if let Some(Action::Truncate(cut)) = report.actions.last().filter(|_| report.applied) {
        output.styled(text::WARNING, "loss")?;
        let then = match cut.distrusted {
            true => "so it does not vote until it has caught up with the others",
            false => "and as the only member there ever was it goes on without them",
        };
        let last = report.last_index;
        return writeln!(
            output,
            ": the log ends at entry {last} now; acknowledged entries may be gone from this node, {then}"
        );
    }
    if report.applied {
        writeln!(output, "done")?;
    } else if !report.actions.is_empty() {
        writeln!(output, "dry run: nothing was changed; add --apply to do this")?;
    } else if report.damage.is_none() {
        output.styled(text::GOOD, "clean")?;
        writeln!(output, ": there is nothing to repair in {directory}")?;
    }
    if report.damage.is_some() && !report.snapshot_gap && arguments.truncate_at.is_none() {
        writeln!(
            output,
            "the damage cannot be mended without loss. The other nodes have the entries: start this node in its cluster, or \
             remove it and let a new one join. Where there is no other node, give up what is damaged and all behind it: \
             raftlog-tool repair --truncate-at {} --accept-data-loss {directory}",
            report.first_damaged_index
        )?;
    }
    Ok(())
}

fn print_action(action: &Action, done: bool, output: &mut Output) -> std::io::Result<()> {
    let would = if done { "" } else { "would " };
    let past = |now: &'static str, then: &'static str| if done { then } else { now };
    match action {
        Action::Rewrite { file, offset, what, .. } => writeln!(
            output,
            "known: {would}{} {what}, {} at offset {offset}",
            past("write anew", "wrote anew"),
            file_name(file),
        ),
        Action::ZeroTorn { file, offset, bytes, reason } => writeln!(
            output,
            "torn: {would}{} {bytes} bytes of {} from offset {offset}, never acknowledged ({reason})",
            past("zero", "zeroed"),
            file_name(file),
        ),
        Action::RebuildIndex { file, .. } => writeln!(
            output,
            "index: {would}{} {} anew from its segment",
            past("make", "made"),
            file_name(file)
        ),
        Action::Truncate(cut) => {
            let part = match cut.offset {
                0 => "whole".to_string(),
                offset => format!("from offset {offset}"),
            };
            let (verb, file) = (past("cut", "cut"), file_name(&cut.file));
            writeln!(output, "cut: {would}{verb} entry {} and all after it: {file} {part}", cut.index)?;
            if !cut.moved.is_empty() {
                writeln!(output, "cut: {would}{} {}", past("move aside", "moved aside"), names(&cut.moved))?;
            }
            Ok(())
        }
    }
}

fn names(files: &[PathBuf]) -> String {
    files.iter().map(|file: &PathBuf| file_name(Path::new(file))).collect::<Vec<_>>().join(" ")
}
