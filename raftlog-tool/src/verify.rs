//! `verify`: the decision that a start would make, without its consequences.

use std::io::Write;
use std::ops::ControlFlow;

use redisraft::log::{LogError, Reader, ScanEnd, Torn};
use serde_json::{json, Value};

use crate::{exit_code_of, holder, Failure, VerifyArguments, JSON_SCHEMA};

pub fn run(arguments: &VerifyArguments, output: &mut dyn Write) -> Result<u8, Failure> {
    // Asked before reading: a server that starts meanwhile is none that wrote what is read first.
    let writer = holder::find(&arguments.directory);
    let read = Reader::open(&arguments.directory).and_then(|reader| {
        let end = reader.scan(&mut |_| ControlFlow::Continue(()))?;
        Ok((reader, end))
    });
    match read {
        Ok((reader, end)) => {
            let report = Report { reader: &reader, end: &end, writer };
            report.print(arguments.json, output)?;
            Ok(u8::from(reader.damaged_meta_copies() > 0))
        }
        Err(error) if exit_code_of(&error) == 1 => {
            if arguments.json {
                writeln!(output, "{}", damage_json(&error))?;
            } else {
                writeln!(output, "damaged: {error}")?;
            }
            Ok(1)
        }
        Err(error) => Err(error.into()),
    }
}

struct Report<'r> {
    reader: &'r Reader,
    end: &'r ScanEnd,
    /// Process id of a server that has the log open.
    writer: Option<u32>,
}

impl Report<'_> {
    fn print(&self, json: bool, output: &mut dyn Write) -> std::io::Result<()> {
        if json {
            return writeln!(output, "{}", self.json());
        }
        let sequence = &self.end.sequence;
        let (first, last) = (sequence.first_index(), sequence.last_index());
        let hard_state = self.reader.meta().hard_state;
        let verdict = if self.reader.damaged_meta_copies() > 0 { "damaged" } else { "clean" };
        let vote = hard_state.vote.map_or("none".to_string(), |vote| vote.to_string());
        writeln!(
            output,
            "{verdict}: {} entries ({first}..={last}), last term {}, {} segments in use, {} bytes; {}; META: term {}, \
             vote {vote}",
            last + 1 - first,
            sequence.last_term(),
            self.used().count(),
            self.bytes(),
            self.reader.meta().owner.describe(),
            hard_state.term,
        )?;
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
        let copies = self.reader.damaged_meta_copies();
        if copies > 0 {
            writeln!(
                output,
                "damage: {copies} of 4 copies of META; the others serve, the next start rewrites all"
            )?;
        }
        let incomplete = self.used().filter(|segment| !segment.index_intact).count();
        if incomplete > 0 && self.writer.is_none() {
            writeln!(output, "note: {incomplete} index files are incomplete; the next start completes them")?;
        }
        for leftover in self.end.leftovers.iter().filter(|_| self.writer.is_none()) {
            writeln!(output, "note: {} is half-made; the next start removes it", leftover.display())?;
        }
        Ok(())
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
            "schema": JSON_SCHEMA,
            "type": "verify",
            "result": if self.reader.damaged_meta_copies() > 0 { "damaged" } else { "clean" },
            "first_index": self.end.sequence.first_index(),
            "last_index": self.end.sequence.last_index(),
            "last_term": self.end.sequence.last_term(),
            "segments": self.used().count(),
            "bytes": self.bytes(),
            "cluster_id": String::from_utf8_lossy(&meta.owner.cluster_id),
            "node_id": meta.owner.node_id,
            "term": meta.hard_state.term,
            "vote": meta.hard_state.vote,
            "damaged_meta_copies": self.reader.damaged_meta_copies(),
            "incomplete_indexes": self.used().filter(|segment| !segment.index_intact).count(),
            "leftovers": self.end.leftovers,
            "torn": torn,
            "in_use_by": self.writer,
        })
    }
}

fn damage_json(error: &LogError) -> Value {
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
        "schema": JSON_SCHEMA,
        "type": "verify",
        "result": "damaged",
        "file": file,
        "offset": offset,
        "index": index,
        "expected": expected,
        "found": found,
        "message": error.to_string(),
    })
}
