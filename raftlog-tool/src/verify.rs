//! `verify`: the decision that a start would make, without its consequences.

use std::io::Write;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use redisraft::log::segment::index_path;
use redisraft::log::{Hole, LogError, Lost, Reader, ScanEnd, Torn};
use redisraft::snapshot::Depth;
use serde_json::{json, Value};

use crate::cli::{ReportFormat, VerifyArguments};
use crate::deep::Findings;
use crate::failure::{exit_code_of, Failure, CLEAN, DAMAGE};
use crate::holder;
use crate::object::SCHEMA;
use crate::progress::Progress;
use crate::snapshots::{Meeting, Snapshots};
use crate::source::{scan_on, HOLE_ADVICE};
use crate::text::{self, grouped, Output};

pub fn run(arguments: &VerifyArguments, output: &mut Output) -> Result<u8, Failure> {
    // Asked before reading: a server that starts meanwhile is none that wrote what is read first.
    let writer = holder::find(&arguments.directory);
    let mut findings = Findings::default();
    let mut progress = Progress::new(&arguments.directory);
    progress.pass("verifying");
    let mut seen = None;
    let read = Reader::open(&arguments.directory).and_then(|mut reader| {
        let end = scan_on(&mut reader, &arguments.directory, &mut |read| {
            let place = (read.segment_sequence, read.record.offset);
            progress.record(place.0, place.1);
            if arguments.deep && read.hole.is_none() && seen.is_none_or(|last| last < place) {
                findings.record(&read);
            }
            seen = seen.max(Some(place));
            ControlFlow::Continue(())
        })?;
        Ok((reader, end))
    });
    drop(progress);
    match read {
        Ok((reader, end)) => {
            if arguments.deep {
                findings.segments(&wrong_indexes(&arguments.directory, &end, writer.is_some())?);
            }
            let depth = if arguments.deep { Depth::Checksum } else { Depth::Length };
            let (snapshots, reader) = snapshots_beside(reader, &arguments.directory, depth)?;
            let last = end.sequence.last_index();
            let meeting = snapshots.meet(&arguments.directory, reader.meta().base_index, last);
            let report =
                Report { reader: &reader, end: &end, writer, findings: &findings, snapshots, meeting };
            report.print(arguments.format, output)?;
            Ok(if report.is_damaged() { DAMAGE } else { CLEAN })
        }
        Err(error) if exit_code_of(&error) == DAMAGE => {
            if arguments.format == ReportFormat::Json {
                serde_json::to_writer(&mut *output.writer, &damage_json(&error, &findings))?;
                writeln!(output)?;
            } else {
                output.styled(text::BAD, "damaged")?;
                writeln!(output, ": {error}")?;
                print_findings(&findings, output)?;
            }
            Ok(DAMAGE)
        }
        Err(error) => Err(error.into()),
    }
}

/// The snapshots, and META as it is then: beside a running node a newer snapshot and a purge may have come meanwhile.
fn snapshots_beside(
    mut reader: Reader,
    directory: &Path,
    depth: Depth,
) -> Result<(Snapshots, Reader), Failure> {
    loop {
        let snapshots = Snapshots::find(directory, reader.meta(), depth)?;
        if snapshots.index() >= reader.meta().base_index {
            return Ok((snapshots, reader));
        }
        let now = Reader::open(directory)?;
        if now.meta().base_index == reader.meta().base_index {
            return Ok((snapshots, now));
        }
        reader = now;
    }
}

/// Index files that do not agree with their segments, of complete segments: that of the last may be behind. `live`: a
/// segment may have been completed after its index was read, so it is looked at again.
fn wrong_indexes(directory: &Path, end: &ScanEnd, live: bool) -> Result<Vec<PathBuf>, Failure> {
    let wrong = |end: &ScanEnd| -> Vec<PathBuf> {
        let segments = end.segments.iter().filter(|segment| segment.sealed && !segment.index_intact);
        segments.map(|segment| index_path(directory, segment.sequence)).collect()
    };
    let mut found = wrong(end);
    if live && !found.is_empty() {
        let mut reader = Reader::open(directory)?;
        let again = wrong(&scan_on(&mut reader, directory, &mut |_| ControlFlow::Continue(()))?);
        found.retain(|path| again.contains(path));
    }
    Ok(found)
}

struct Report<'r> {
    reader: &'r Reader,
    end: &'r ScanEnd,
    /// Process id of a server that has the log open.
    writer: Option<u32>,
    findings: &'r Findings,
    snapshots: Snapshots,
    meeting: Meeting,
}

impl Report<'_> {
    fn is_damaged(&self) -> bool {
        let ScanEnd { lost, rewrites, .. } = self.end;
        self.reader.damaged_meta_copies() > 0
            || self.findings.count > 0
            || !lost.is_empty()
            || !rewrites.is_empty()
            || !self.snapshots.damaged.is_empty()
            || matches!(self.meeting, Meeting::Gap(_))
    }

    fn print(&self, format: ReportFormat, output: &mut Output) -> std::io::Result<()> {
        if format == ReportFormat::Json {
            return writeln!(output, "{}", self.json());
        }
        let sequence = &self.end.sequence;
        let (first, last) = (sequence.first_index(), sequence.last_index());
        let hard_state = self.reader.meta().hard_state;
        if self.is_damaged() {
            output.styled(text::BAD, "damaged")?;
        } else {
            output.styled(text::GOOD, "clean")?;
        }
        let vote = hard_state.vote.map_or("none".to_string(), |vote| vote.to_string());
        writeln!(
            output,
            ": {} entries ({first}..={last}), last term {}, {} segments in use, {} bytes; {}; META: term {}, \
             vote {vote}",
            last + 1 - first,
            sequence.last_term(),
            self.used().count(),
            self.bytes(),
            self.reader.meta().owner.describe(),
            hard_state.term,
        )?;
        self.print_notes(output)?;
        self.print_damage(output)?;
        print_findings(self.findings, output)
    }

    fn print_notes(&self, output: &mut Output) -> std::io::Result<()> {
        if let Some(pid) = self.writer {
            writeln!(output, "note: process {pid} has the log open; what it writes now may be missing here")?;
        }
        if let Some(Torn { file, offset, bytes, reason }) = &self.end.torn {
            let then = if self.writer.is_some() { "being written" } else { "dropped at the next start" };
            let file = file.display();
            writeln!(
                output,
                "note: torn tail, not damage: {bytes} bytes of {file} at offset {offset} ({then}): {reason}"
            )?;
        }
        if self.reader.meta().distrusted {
            output.styled(text::WARNING, "note")?;
            writeln!(
                output,
                ": cut by a repair; the node does not vote until it has caught up with the others"
            )?;
        }
        let copies = self.reader.damaged_meta_copies();
        if copies > 0 {
            output.styled(text::BAD, "damage")?;
            writeln!(
                output,
                ": {copies} of 4 copies of META; the others serve, the next start rewrites all"
            )?;
        }
        let incomplete = self.incomplete_indexes();
        if incomplete > 0 && self.writer.is_none() {
            writeln!(output, "note: {incomplete} index files are incomplete; the next start completes them")?;
        }
        if let Some(line) = self.snapshots.line() {
            writeln!(output, "snapshot: {line}")?;
        }
        if self.meeting == Meeting::Ahead && self.writer.is_none() {
            writeln!(output, "note: the log ends before the snapshot: the next start begins it anew there")?;
        }
        for leftover in &self.end.leftovers {
            writeln!(output, "note: {} was left half-made; the next start removes it", leftover.display())?;
        }
        Ok(())
    }

    /// Entries that are known but for their payload, and bytes that are known in spite of their damage.
    fn print_damage(&self, output: &mut Output) -> std::io::Result<()> {
        for error in &self.snapshots.damaged {
            output.styled(text::BAD, "damage")?;
            writeln!(output, ": {error}")?;
        }
        if let Meeting::Gap(reason) = &self.meeting {
            output.styled(text::BAD, "damage")?;
            writeln!(output, ": {reason}")?;
        }
        for lost in &self.end.lost {
            output.styled(text::BAD, "damage")?;
            let then = match lost.superseded {
                true if lost.hole.index < self.end.sequence.first_index() => {
                    "the log begins behind it, so nothing is missing"
                }
                true => "a later record drops it, so nothing is missing",
                false if lost.hole.index <= self.snapshots.index() => {
                    "the snapshot holds it: the next start gives it up"
                }
                false => HOLE_ADVICE,
            };
            writeln!(output, ": {}; {then}", lost.hole)?;
        }
        for rewrite in &self.end.rewrites {
            output.styled(text::BAD, "damage")?;
            writeln!(output, ": {rewrite}; known all the same: the next start writes it anew")?;
        }
        Ok(())
    }

    fn incomplete_indexes(&self) -> usize {
        self.used().filter(|segment| !segment.index_intact).count()
    }

    fn used(&self) -> impl Iterator<Item = &redisraft::log::SegmentEnd> {
        self.end.segments.iter().filter(|segment| segment.header.is_some())
    }

    fn bytes(&self) -> u64 {
        self.used().map(|segment| segment.offset).sum()
    }

    fn json(&self) -> Value {
        let meta = self.reader.meta();
        let torn = self.end.torn.as_ref().map(|torn| {
            json!({ "file": torn.file, "offset": torn.offset, "bytes": torn.bytes, "reason": torn.reason })
        });
        json!({
            "schema": SCHEMA,
            "type": "verify",
            "result": if self.is_damaged() { "damaged" } else { "clean" },
            "first_index": self.end.sequence.first_index(),
            "last_index": self.end.sequence.last_index(),
            "last_term": self.end.sequence.last_term(),
            "segments": self.used().count(),
            "bytes": self.bytes(),
            "cluster_id": String::from_utf8_lossy(&meta.owner.cluster_id),
            "node_id": meta.owner.node_id,
            "term": meta.hard_state.term,
            "vote": meta.hard_state.vote,
            "distrusted": meta.distrusted,
            "damaged_meta_copies": self.reader.damaged_meta_copies(),
            "incomplete_indexes": self.incomplete_indexes(),
            "leftovers": self.end.leftovers,
            "torn": torn,
            "snapshot": self.snapshots.json(),
            "snapshot_meets_log": !matches!(self.meeting, Meeting::Gap(_)),
            "snapshots_damaged": self.snapshots.damaged_json(),
            "holes": self.end.lost.iter().map(hole_json).collect::<Vec<_>>(),
            "rewrites": self.end.rewrites.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "in_use_by": self.writer,
            "findings": self.findings.kept,
            "findings_count": self.findings.count,
        })
    }
}

fn hole_json(lost: &Lost) -> Value {
    let Hole { index, term, kind, payload_bytes, file, offset, expected, found } = &lost.hole;
    json!({
        "index": index,
        "term": term,
        "entry_type": kind.to_string(),
        "payload_bytes": payload_bytes,
        "file": file,
        "offset": offset,
        "expected": expected,
        "found": found,
        "superseded": lost.superseded,
    })
}

fn print_findings(findings: &Findings, output: &mut Output) -> std::io::Result<()> {
    for finding in &findings.kept {
        let entry = finding.index.map_or(String::new(), |index| format!(" (entry {index})"));
        output.styled(text::BAD, "damage")?;
        let (file, offset) = (&finding.file, finding.offset);
        let (expected, found, advice) = (finding.expected, &finding.found, finding.advice);
        writeln!(output, ": {file} at offset {offset}{entry}: expected {expected}, found {found}; {advice}")?;
    }
    let more = findings.count - findings.kept.len() as u64;
    if more > 0 {
        writeln!(output, "and {} more like these", grouped(more))?;
    }
    Ok(())
}

fn damage_json(error: &LogError, findings: &Findings) -> Value {
    let (file, offset, index, expected, found) = match error {
        LogError::Corrupt { file, offset, index, expected, found, .. } => {
            (Some(file), Some(offset), *index, Some(expected), Some(found))
        }
        LogError::Foreign { file, offset, expected, found } => {
            (Some(file), Some(offset), None, Some(expected), Some(found))
        }
        LogError::MetaMissing { file } => (Some(file), None, None, None, None),
        _ => (None, None, None, None, None),
    };
    json!({
        "schema": SCHEMA,
        "type": "verify",
        "result": "damaged",
        "file": file,
        "offset": offset,
        "index": index,
        "expected": expected,
        "found": found,
        "message": error.to_string(),
        "findings": findings.kept,
        "findings_count": findings.count,
    })
}
