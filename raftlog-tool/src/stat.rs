//! `stat`: sums over a log, in tables. Memory is bounded: a table that grows too long puts the rest in one row.

use std::collections::HashMap;
use std::io::Write;
use std::ops::ControlFlow;

use hdrhistogram::Histogram;
use redisraft::log::record::{record_bytes, RecordType};
use serde::Serialize;

use crate::cli::{ReportFormat, StatArguments, StatTable};
use crate::effects::Walk;
use crate::failure::{Failure, CLEAN};
use crate::object::SCHEMA;
use crate::progress::Progress;
use crate::select::{Filter, TypeName};
use crate::source::{EntryState, Item, Source};
use crate::text::{self, grouped, quote, size, Output};

/// Most different names of a table that are counted; more are counted together.
const MAX_NAMES: usize = 100_000;
/// Most different names whose sizes get percentiles; a command's name is rarely new.
const MAX_HISTOGRAMS: usize = 500;
/// Name of the row that holds what has no row of its own.
const OTHERS: &str = "(others)";
const NO_PREFIX: &str = "(no prefix)";

/// Counts and sizes of one row.
#[derive(Default)]
struct Tally {
    count: u64,
    bytes: u64,
    max: u64,
    sizes: Option<Box<Histogram<u64>>>,
    /// First and last index.
    first: u64,
    last: u64,
}

impl Tally {
    fn add(&mut self, bytes: u64, index: u64) {
        if self.count == 0 {
            self.first = index;
        }
        self.last = index;
        self.count += 1;
        self.bytes += bytes;
        self.max = self.max.max(bytes);
        if let Some(sizes) = &mut self.sizes {
            sizes.saturating_record(bytes);
        }
    }

    fn percentile(&self, percent: f64) -> Option<u64> {
        // A value stands for a range of up to 1 %; none is larger than the largest.
        self.sizes.as_ref().map(|sizes| sizes.value_at_percentile(percent).min(self.max))
    }
}

/// Rows by name.
struct Table {
    rows: HashMap<Vec<u8>, Tally>,
    with_sizes: bool,
}

impl Table {
    fn new(with_sizes: bool) -> Table {
        Table { rows: HashMap::new(), with_sizes }
    }

    fn add(&mut self, name: &[u8], bytes: u64, index: u64) {
        if let Some(tally) = self.rows.get_mut(name) {
            return tally.add(bytes, index);
        }
        let name = if self.rows.len() >= MAX_NAMES { OTHERS.as_bytes() } else { name };
        let with_sizes = self.with_sizes && self.rows.len() < MAX_HISTOGRAMS;
        let tally = self.rows.entry(name.to_vec()).or_insert_with(|| Tally {
            sizes: with_sizes.then(|| Box::new(Histogram::new(2).expect("two digits are supported"))),
            ..Tally::default()
        });
        tally.add(bytes, index);
    }

    /// The largest rows, and how many more there are.
    fn top(&self, count: usize) -> (Vec<Row>, usize) {
        let mut rows: Vec<Row> = self.rows.iter().map(|(name, tally)| Row::of(name, tally)).collect();
        rows.sort_by(|a, b| b.bytes.cmp(&a.bytes).then(b.count.cmp(&a.count)).then(a.name.cmp(&b.name)));
        let more = rows.len().saturating_sub(count);
        rows.truncate(count);
        (rows, more)
    }
}

/// A row as it is printed.
#[derive(Serialize)]
struct Row {
    name: String,
    count: u64,
    bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    p50: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    p99: Option<u64>,
    max: u64,
    first_index: u64,
    last_index: u64,
}

impl Row {
    fn of(name: &[u8], tally: &Tally) -> Row {
        let name = match std::str::from_utf8(name) {
            Ok(text) if !text.chars().any(char::is_control) => text.to_string(),
            _ => quote(name),
        };
        Row {
            name,
            count: tally.count,
            bytes: tally.bytes,
            p50: tally.percentile(50.0),
            p99: tally.percentile(99.0),
            max: tally.max,
            first_index: tally.first,
            last_index: tally.last,
        }
    }
}

/// A segment file.
#[derive(Serialize)]
struct SegmentRow {
    file: String,
    file_bytes: u64,
    used_bytes: u64,
    records: u64,
    entries: u64,
    first_index: Option<u64>,
    last_index: Option<u64>,
}

/// All that is counted in one pass.
struct Count {
    filter: Filter,
    delimiter: Vec<u8>,
    depth: usize,
    entries: Table,
    types: Table,
    terms: Table,
    commands: Table,
    prefixes: Table,
    segments: Vec<SegmentRow>,
    truncated: u64,
    damaged: u64,
}

impl Count {
    fn new(arguments: &StatArguments) -> Count {
        Count {
            filter: Filter::new(&arguments.selection, arguments.key.as_deref(), false),
            delimiter: arguments.delimiter.clone().into_bytes(),
            depth: arguments.depth,
            entries: Table::new(true),
            types: Table::new(true),
            terms: Table::new(false),
            commands: Table::new(true),
            prefixes: Table::new(false),
            segments: Vec::new(),
            truncated: 0,
            damaged: 0,
        }
    }

    fn take(&mut self, item: &Item) {
        let record = &item.read.record;
        let header = &record.header;
        self.segment(item);
        self.truncated += u64::from(item.state == Some(EntryState::Truncated));
        self.damaged += u64::from(item.is_live() && item.read.hole.is_some());
        if !self.filter.takes(item) {
            return;
        }
        let bytes = u64::from(header.length);
        self.entries.add(b"all", bytes, header.index);
        self.types.add(TypeName::of(record.record_type).name().as_bytes(), bytes, header.index);
        self.terms.add(header.term.to_string().as_bytes(), bytes, header.index);
        if record.record_type == RecordType::Normal {
            self.effects(record.payload, header.index);
        }
    }

    fn segment(&mut self, item: &Item) {
        let record = &item.read.record;
        let file = text::file_name(item.read.file);
        if self.segments.last().is_none_or(|segment| segment.file != file) {
            let file_bytes = std::fs::metadata(item.read.file).map_or(0, |metadata| metadata.len());
            let (records, entries, used_bytes) = (0, 0, 0);
            let (first_index, last_index) = (None, None);
            self.segments.push(SegmentRow {
                file,
                file_bytes,
                used_bytes,
                records,
                entries,
                first_index,
                last_index,
            });
        }
        let segment = self.segments.last_mut().expect("just pushed");
        segment.records += 1;
        segment.used_bytes = record.offset + record_bytes(record.header.length);
        if item.is_live() {
            segment.entries += 1;
            segment.first_index.get_or_insert(record.header.index);
            segment.last_index = Some(record.header.index);
        }
    }

    fn effects(&mut self, payload: &[u8], index: u64) {
        let mut walk = Walk::new(payload);
        let mut name = Vec::new();
        while let Some(effect) = walk.step() {
            if !self.filter.takes_command(&effect) {
                continue;
            }
            let bytes = effect.bytes.len() as u64;
            name.clear();
            name.extend_from_slice(effect.name());
            name.make_ascii_uppercase();
            self.commands.add(&name, bytes, index);
            // A command with several keys is counted once, with the prefix of the first.
            if let Some(key) = effect.keys().next() {
                let prefix = prefix(key, &self.delimiter, self.depth);
                self.prefixes.add(prefix.unwrap_or(NO_PREFIX.as_bytes()), bytes, index);
            }
        }
    }
}

/// The first `depth` parts of a key, each with the delimiter behind it.
fn prefix<'k>(key: &'k [u8], delimiter: &[u8], depth: usize) -> Option<&'k [u8]> {
    if delimiter.is_empty() {
        return None;
    }
    let ends = (0..key.len()).filter(|at| key[*at..].starts_with(delimiter)).map(|at| at + delimiter.len());
    ends.take(depth).last().map(|end| &key[..end])
}

pub fn run(arguments: &StatArguments, output: &mut Output) -> Result<u8, Failure> {
    let mut source = Source::open(&arguments.directory, Progress::new(&arguments.directory))?;
    let mut count = Count::new(arguments);
    let read = source.read("counting", &mut |item| {
        count.take(&item);
        Ok(ControlFlow::Continue(()))
    });
    // What was read is summed up; the damage is told behind it.
    if read.as_ref().is_err_and(|failure| !failure.is_of_the_log()) {
        return read.map(|()| CLEAN);
    }
    match arguments.format {
        ReportFormat::Json => print_json(arguments, &source, &count, output)?,
        ReportFormat::Text => print_text(arguments, &source, &count, output)?,
    }
    output.flush()?;
    read?;
    source.note_torn();
    Ok(CLEAN)
}

impl Count {
    fn table(&self, table: StatTable) -> Option<(&'static str, &'static str, &Table)> {
        match table {
            StatTable::Type => Some(("by_type", "type", &self.types)),
            StatTable::Term => Some(("by_term", "term", &self.terms)),
            StatTable::Command => Some(("by_command", "command", &self.commands)),
            StatTable::Prefix => Some(("by_prefix", "key prefix", &self.prefixes)),
            StatTable::Segment => None,
        }
    }

    /// The largest rows; terms in their own order.
    fn rows(&self, wanted: StatTable, table: &Table, count: usize) -> (Vec<Row>, usize) {
        let (mut rows, more) = table.top(count);
        if wanted == StatTable::Term {
            rows.sort_by_key(|row| row.first_index);
        }
        (rows, more)
    }

    fn total(&self) -> Row {
        let rows = self.entries.top(1).0;
        rows.into_iter().next().unwrap_or_else(|| Row::of(b"all", &Tally::default()))
    }
}

fn print_json(
    arguments: &StatArguments,
    source: &Source,
    count: &Count,
    output: &mut Output,
) -> Result<(), Failure> {
    let mut object = serde_json::json!({
        "schema": SCHEMA,
        "type": "stat",
        "first_index": source.outline.first_index,
        "last_index": source.outline.last_index,
        "snapshot": source.snapshots.json(),
        "entries": count.total(),
        "truncated_entries": count.truncated,
        "damaged_entries": count.damaged,
        "complete": source.outline.damage.is_none(),
    });
    for wanted in &arguments.by {
        let (name, value) = match count.table(*wanted) {
            Some((name, _, table)) => {
                let (rows, more) = count.rows(*wanted, table, arguments.top);
                (name, serde_json::json!({ "rows": rows, "more": more }))
            }
            None => ("by_segment", serde_json::json!({ "rows": count.segments, "more": 0 })),
        };
        object[name] = value;
    }
    serde_json::to_writer(&mut *output.writer, &object)?;
    Ok(writeln!(output)?)
}

fn print_text(
    arguments: &StatArguments,
    source: &Source,
    count: &Count,
    output: &mut Output,
) -> Result<(), Failure> {
    let total = count.total();
    let (first, last) = (source.outline.first_index, source.outline.last_index);
    writeln!(output, "log       {} entries, {first}..={last}", grouped(last + 1 - first))?;
    if let Some(line) = source.snapshots.line() {
        writeln!(output, "snapshot  {line}")?;
    }
    writeln!(
        output,
        "counted   {} entries, {} of payload, each p50 {}, p99 {}, at most {}",
        grouped(total.count),
        size(total.bytes),
        size(total.p50.unwrap_or(0)),
        size(total.p99.unwrap_or(0)),
        size(total.max),
    )?;
    if count.truncated > 0 {
        writeln!(output, "truncated {} entries, not counted", grouped(count.truncated))?;
    }
    if count.damaged > 0 {
        writeln!(output, "damaged   {} entries, their commands not counted", grouped(count.damaged))?;
    }
    for wanted in &arguments.by {
        writeln!(output)?;
        match count.table(*wanted) {
            Some((_, title, table)) => print_table(title, count.rows(*wanted, table, arguments.top), output)?,
            None => print_segments(&count.segments, arguments.top, output)?,
        }
    }
    Ok(())
}

fn print_table(title: &str, (rows, more): (Vec<Row>, usize), output: &mut Output) -> std::io::Result<()> {
    let width = rows.iter().map(|row| row.name.chars().count()).max().unwrap_or(0).clamp(title.len(), 40);
    let head = format!(
        "{title:width$} {:>12} {:>12} {:>10} {:>10} {:>10}  indexes",
        "count", "bytes", "p50", "p99", "max"
    );
    output.styled(text::INDEX, &head)?;
    writeln!(output)?;
    for row in &rows {
        let optional = |value: Option<u64>| value.map_or("-".to_string(), size);
        writeln!(
            output,
            "{:width$} {:>12} {:>12} {:>10} {:>10} {:>10}  {}..={}",
            row.name,
            grouped(row.count),
            size(row.bytes),
            optional(row.p50),
            optional(row.p99),
            size(row.max),
            row.first_index,
            row.last_index,
        )?;
    }
    if more > 0 {
        writeln!(output, "({more} more: --top)")?;
    }
    Ok(())
}

fn print_segments(segments: &[SegmentRow], top: usize, output: &mut Output) -> std::io::Result<()> {
    let head = format!("{:16} {:>10} {:>10} {:>12}  indexes", "segment", "file", "used", "records");
    output.styled(text::INDEX, &head)?;
    writeln!(output)?;
    let hidden = segments.len().saturating_sub(top);
    if hidden > 0 {
        writeln!(output, "({hidden} older ones: --top)")?;
    }
    for segment in &segments[hidden..] {
        let indexes = match (segment.first_index, segment.last_index) {
            (Some(first), Some(last)) => format!("{first}..={last}"),
            _ => "none".to_string(),
        };
        writeln!(
            output,
            "{:16} {:>10} {:>10} {:>12}  {indexes}",
            segment.file,
            size(segment.file_bytes),
            size(segment.used_bytes),
            grouped(segment.records),
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_the_first_parts_of_a_key() {
        let of = |key: &'static [u8], depth| prefix(key, b":", depth).map(<[u8]>::to_vec);
        assert_eq!(of(b"user:17:name", 1), Some(b"user:".to_vec()));
        assert_eq!(of(b"user:17:name", 2), Some(b"user:17:".to_vec()));
        assert_eq!(of(b"user:17:name", 9), Some(b"user:17:".to_vec()));
        assert_eq!((of(b"counter", 1), prefix(b"a:b", b"", 1)), (None, None));
    }

    #[test]
    fn a_table_stays_bounded() {
        let mut table = Table::new(true);
        for number in 0..MAX_NAMES as u64 + 50 {
            table.add(&number.to_le_bytes(), 1, number);
        }
        assert_eq!(table.rows.len(), MAX_NAMES + 1);
        assert_eq!(table.rows[OTHERS.as_bytes()].count, 50);
        assert_eq!(table.rows.values().filter(|tally| tally.sizes.is_some()).count(), MAX_HISTOGRAMS);
        let (rows, more) = table.top(1);
        assert_eq!((rows[0].name.as_str(), more), (OTHERS, MAX_NAMES));
    }
}
