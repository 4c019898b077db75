//! `diff`: the first entry in which the logs of two nodes differ.

use std::io::Write;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::mpsc::{sync_channel, Receiver, SyncSender};

use redisraft::log::Hole;
use serde::Serialize;

use crate::cli::{DiffArguments, ReportFormat};
use crate::effects::Walk;
use crate::failure::{despite_damage, Failure, CLEAN, DAMAGE};
use crate::object::{RecordObject, SCHEMA};
use crate::progress::Progress;
use crate::select::TypeName;
use crate::source::{Item, Source};
use crate::text::{self, Output};

/// Entries that are handed from a reading thread to the comparison at once, and how many such lots wait.
const LOT: usize = 4096;
const LOTS: usize = 4;

/// What tells entries apart.
#[derive(Clone, Copy)]
struct Summary {
    index: u64,
    term: u64,
    type_name: TypeName,
    length: u32,
    /// `None` of a damaged entry: the rest tells.
    payload_crc: Option<u32>,
}

impl Summary {
    fn equals(&self, other: &Summary) -> bool {
        let identity = |summary: &Summary| (summary.index, summary.term, summary.type_name, summary.length);
        let crcs = self.payload_crc.zip(other.payload_crc);
        identity(self) == identity(other) && crcs.is_none_or(|(own, others)| own == others)
    }
}

/// How the logs compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Verdict {
    Equal,
    /// One goes on where the other ends.
    Prefix,
    /// They differ where their terms do: at least one holds what was never committed.
    Differ,
    /// One index, one term, two entries.
    Contradict,
    /// No entry is in both.
    Apart,
}

/// One of the two logs, in the report.
#[derive(Serialize)]
struct Side {
    directory: String,
    node_id: u64,
    first_index: u64,
    last_index: u64,
    last_term: u64,
}

pub fn run(arguments: &DiffArguments, output: &mut Output) -> Result<u8, Failure> {
    let mut left = Source::open(&arguments.left, Progress::new(&arguments.left))?;
    let mut right = Source::open(&arguments.right, Progress::hidden(&arguments.right))?;
    let clusters = [&left, &right].map(|source| source.reader.meta().owner.clone());
    if clusters[0].cluster_id != clusters[1].cluster_id {
        return Err(Failure::Usage(format!(
            "these are logs of two clusters, which have nothing in common: {} and {}",
            clusters[0].describe(),
            clusters[1].describe()
        )));
    }
    let first = left.outline.first_index.max(right.outline.first_index);
    let end = compare(&mut left, &mut right, first)?;
    report(arguments, (&mut left, &mut right), first, end, output)?;
    output.flush()?;
    for source in [&left, &right] {
        if let Some(failure) = source.outline.failure() {
            return Err(failure);
        }
    }
    Ok(if matches!(end.verdict, Verdict::Differ | Verdict::Contradict) { DAMAGE } else { CLEAN })
}

/// Where the comparison ended.
#[derive(Clone, Copy)]
struct End {
    verdict: Verdict,
    /// The first index that is not in both logs alike.
    index: u64,
}

/// Reads both logs side by side from entry `first` on.
fn compare(left: &mut Source, right: &mut Source, first: u64) -> Result<End, Failure> {
    std::thread::scope(|scope| {
        let (left_sender, left_lots) = sync_channel(LOTS);
        let (right_sender, right_lots) = sync_channel(LOTS);
        scope.spawn(move || summarize(left, first, &left_sender));
        scope.spawn(move || summarize(right, first, &right_sender));
        let (mut left, mut right) = (Lots::new(left_lots), Lots::new(right_lots));
        let mut index = first;
        let verdict = loop {
            match (left.next()?, right.next()?) {
                (Some(a), Some(b)) if a.equals(&b) => index = a.index + 1,
                (Some(a), Some(b)) if a.term != b.term => break Verdict::Differ,
                (Some(_), Some(_)) => break Verdict::Contradict,
                (None, None) if index > first => break Verdict::Equal,
                _ if index > first => break Verdict::Prefix,
                (None, None) => break Verdict::Equal,
                _ => break Verdict::Apart,
            }
        };
        Ok(End { verdict, index })
    })
}

/// Sends what is in a log, in lots. Damage ends it like the end of the log: it is told behind the comparison.
fn summarize(source: &mut Source, first: u64, sender: &SyncSender<Result<Vec<Summary>, Failure>>) {
    let mut lot = Vec::with_capacity(LOT);
    let read = source.read_entries("comparing", &mut |read| {
        let record = &read.record;
        if record.header.index < first {
            return Ok(ControlFlow::Continue(()));
        }
        lot.push(Summary {
            index: record.header.index,
            term: record.header.term,
            type_name: TypeName::of(record.record_type),
            length: record.header.length,
            payload_crc: read.hole.is_none().then_some(record.payload_crc),
        });
        if lot.len() == LOT && sender.send(Ok(std::mem::replace(&mut lot, Vec::with_capacity(LOT)))).is_err()
        {
            // The comparison has ended.
            return Ok(ControlFlow::Break(()));
        }
        Ok(ControlFlow::Continue(()))
    });
    let _ = sender.send(Ok(lot));
    if let Err(error) = read {
        if !error.is_of_the_log() {
            let _ = sender.send(Err(error));
        }
    }
}

/// The entries of one log, one by one.
struct Lots {
    receiver: Receiver<Result<Vec<Summary>, Failure>>,
    lot: std::vec::IntoIter<Summary>,
}

impl Lots {
    fn new(receiver: Receiver<Result<Vec<Summary>, Failure>>) -> Lots {
        Lots { receiver, lot: Vec::new().into_iter() }
    }

    fn next(&mut self) -> Result<Option<Summary>, Failure> {
        loop {
            if let Some(summary) = self.lot.next() {
                return Ok(Some(summary));
            }
            match self.receiver.recv() {
                Ok(lot) => self.lot = lot?.into_iter(),
                Err(_) => return Ok(None),
            }
        }
    }
}

fn side(directory: &Path, source: &Source) -> Side {
    Side {
        directory: directory.display().to_string(),
        node_id: source.reader.meta().owner.node_id,
        first_index: source.outline.first_index,
        last_index: source.outline.last_index,
        last_term: source.outline.last_term,
    }
}

fn conclusion(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Equal => "the logs hold the same entries",
        Verdict::Prefix => "one log goes on where the other ends: that node is behind",
        Verdict::Differ => {
            "the terms differ, so at least one node holds entries that were never committed: it truncates them when it \
             follows the leader; nothing to do"
        }
        Verdict::Contradict => {
            "one index and one term, but two entries: Raft cannot make that, one of the logs was changed or damaged \
             and not noticed; stop both nodes, compare with a third"
        }
        Verdict::Apart => "no entry is in both logs: one was purged beyond the end of the other",
    }
}

fn report(
    arguments: &DiffArguments,
    (left, right): (&mut Source, &mut Source),
    first: u64,
    end: End,
    output: &mut Output,
) -> Result<(), Failure> {
    let sides = [side(&arguments.left, left), side(&arguments.right, right)];
    let differs = matches!(end.verdict, Verdict::Differ | Verdict::Contradict);
    if arguments.format == ReportFormat::Json {
        let [a, b] = &sides;
        let mut object = serde_json::json!({
            "schema": SCHEMA, "type": "diff", "result": end.verdict, "conclusion": conclusion(end.verdict),
            "a": a, "b": b, "equal_from": first, "equal_to": end.index - 1,
        });
        if differs {
            let mut difference = serde_json::json!({ "index": end.index });
            for (name, source) in [("a", left), ("b", right)] {
                at(source, end.index, &mut |item| {
                    difference[name] = serde_json::to_value(RecordObject::of(item, true, &|_| true))?;
                    Ok(())
                })?;
            }
            object["first_difference"] = difference;
        }
        serde_json::to_writer(&mut *output.writer, &object)?;
        return Ok(writeln!(output)?);
    }
    for (name, side) in ["A", "B"].into_iter().zip(&sides) {
        let Side { directory, node_id, first_index, last_index, last_term } = side;
        writeln!(
            output,
            "{name} {directory}: node {node_id}, entries {first_index}..={last_index}, last term {last_term}"
        )?;
    }
    if end.index > first {
        writeln!(output, "equal: entries {first}..={}", end.index - 1)?;
    }
    if differs {
        output.styled(text::BAD, &format!("first difference: entry {}", end.index))?;
        writeln!(output)?;
        for (name, source) in [("A", left), ("B", right)] {
            at(source, end.index, &mut |item| print_entry(name, item, arguments.values, output))?;
        }
    }
    Ok(writeln!(output, "{}", conclusion(end.verdict))?)
}

/// Reads one entry again.
fn at(
    source: &mut Source,
    index: u64,
    take: &mut dyn FnMut(&Item) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let read = source.read("comparing", &mut |item| {
        if !item.is_live() || item.read.record.header.index != index {
            return Ok(ControlFlow::Continue(()));
        }
        take(&item).map(|()| ControlFlow::Break(()))
    });
    despite_damage(read)
}

fn print_entry(name: &str, item: &Item, values: bool, output: &mut Output) -> Result<(), Failure> {
    let record = &item.read.record;
    writeln!(
        output,
        "{name}: term {} {} {} bytes, crc {:08x}, {}:{}",
        record.header.term,
        TypeName::of(record.record_type).name(),
        record.header.length,
        record.payload_crc,
        text::file_name(item.read.file),
        record.offset,
    )?;
    if let Some(Hole { expected, found, .. }) = item.read.hole {
        return Ok(writeln!(output, "    (damaged) expected {expected}, found {found}")?);
    }
    let mut walk = Walk::new(record.payload);
    while let Some(effect) = walk.step() {
        output.write_all(b"    ")?;
        output.command(&effect, values)?;
        output.write_all(b"\n")?;
    }
    if !walk.rest().is_empty() {
        writeln!(output, "    (no command) {}", text::quote(walk.rest()))?;
    }
    Ok(())
}
