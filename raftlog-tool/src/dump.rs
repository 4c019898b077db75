//! `dump`: entries as a start would load them, or every record as it stands in the files.

use std::io::{self, Write};
use std::ops::ControlFlow;

use crate::cli::{DumpArguments, DumpFormat};
use crate::effects::Walk;
use crate::failure::{despite_damage, Failure, CLEAN};
use crate::follow;
use crate::object::{RecordObject, SCHEMA};
use crate::progress::Progress;
use crate::resp_stream::RespStream;
use crate::select::{Filter, TypeName};
use crate::source::{EntryState, Item, Source};
use crate::text::{self, Output};
use redisraft::log::record::{padding_bytes, Mark, RecordType, BATCH_START};
use redisraft::log::scan::Record;
use redisraft::log::Hole;

pub fn run(arguments: &DumpArguments, output: &mut Output) -> Result<u8, Failure> {
    check(arguments)?;
    let mut source = Source::open(&arguments.directory, Progress::beside_data(&arguments.directory))?;
    let filter = filter(arguments, &mut source)?;
    let mut printer = Printer::new(arguments, filter);
    printer.begin(&source, output)?;
    source.note_beginning();
    let read = source.read("printing", &mut |item| {
        printer.print(&item, output)?;
        Ok(ControlFlow::Continue(()))
    });
    printer.end(&source, read.is_ok(), output)?;
    output.flush()?;
    read?;
    if arguments.follow {
        follow::run(source, &mut printer, output)?;
    } else {
        source.note_torn();
    }
    Ok(CLEAN)
}

fn check(arguments: &DumpArguments) -> Result<(), Failure> {
    let refuse = |text: &str| Err(Failure::Usage(text.to_string()));
    if arguments.follow && arguments.format == DumpFormat::Json {
        return refuse("--follow never ends, and a JSON document must: use --format jsonl");
    }
    if arguments.headers && arguments.format == DumpFormat::Resp {
        return refuse("--headers shows records, and RESP has none: leave one of them out");
    }
    if arguments.follow && arguments.selection.to.is_some() {
        return refuse("--follow never ends, and --to does: leave one of them out");
    }
    let of_entries = |name: &TypeName| {
        matches!(name, TypeName::Normal | TypeName::NoOp | TypeName::Membership) || arguments.headers
    };
    if !arguments.selection.types.iter().all(of_entries) {
        return refuse("records of that type are no entries: add --headers to see them");
    }
    Ok(())
}

/// The choice. `--last` counts what is chosen by all else.
fn filter(arguments: &DumpArguments, source: &mut Source) -> Result<Counted, Failure> {
    let mut filter = Filter::new(&arguments.selection, arguments.key.as_deref(), arguments.headers);
    let mut skip = 0;
    if let Some(last) = arguments.last {
        if !filter.looks_inside() && arguments.selection.to.is_none() && !arguments.headers {
            filter.only_last(last, &source.outline);
        } else {
            let mut count = 0u64;
            let counting = source.read("counting", &mut |item| {
                count += u64::from(filter.takes(&item));
                Ok(ControlFlow::Continue(()))
            });
            despite_damage(counting)?;
            skip = count.saturating_sub(last);
        }
    }
    Ok(Counted { filter, skip })
}

/// A choice of which the first `skip` are left out.
struct Counted {
    filter: Filter,
    skip: u64,
}

/// Prints the records that are chosen.
pub struct Printer {
    chosen: Counted,
    format: DumpFormat,
    headers: bool,
    values: bool,
    printed: u64,
    resp: RespStream,
}

impl Printer {
    fn new(arguments: &DumpArguments, chosen: Counted) -> Printer {
        let DumpArguments { format, headers, values, .. } = *arguments;
        Printer { chosen, format, headers, values, printed: 0, resp: RespStream::default() }
    }

    fn begin(&mut self, source: &Source, output: &mut Output) -> io::Result<()> {
        if self.format != DumpFormat::Json {
            return Ok(());
        }
        let directory = serde_json::to_string(&source.directory.to_string_lossy())?;
        write!(output, "{{\"schema\":{SCHEMA},\"type\":\"dump\",\"directory\":{directory},\"records\":[")
    }

    fn end(&mut self, source: &Source, complete: bool, output: &mut Output) -> io::Result<()> {
        match self.format {
            DumpFormat::Json => {
                let torn = source.outline.torn.is_some();
                let (base, snapshot) = (source.outline.first_index - 1, source.snapshots.json());
                writeln!(
                    output,
                    "\n],\"begins_behind\":{base},\"snapshot\":{snapshot},\"complete\":{complete},\"torn\":{torn}}}"
                )
            }
            DumpFormat::Resp => self.resp.end(output),
            DumpFormat::Text | DumpFormat::Jsonl | DumpFormat::Hex => Ok(()),
        }
    }

    pub fn print(&mut self, item: &Item, output: &mut Output) -> io::Result<()> {
        if !self.chosen.filter.takes(item) {
            return Ok(());
        }
        if self.chosen.skip > 0 {
            self.chosen.skip -= 1;
            return Ok(());
        }
        self.printed += 1;
        match self.format {
            DumpFormat::Json | DumpFormat::Jsonl => {
                if self.format == DumpFormat::Json {
                    output.write_all(if self.printed > 1 { b",\n" } else { b"\n" })?;
                }
                serde_json::to_writer(&mut *output.writer, &self.object(item))?;
                if self.format == DumpFormat::Jsonl {
                    output.write_all(b"\n")?;
                }
                Ok(())
            }
            DumpFormat::Hex => print_hex(item, output),
            DumpFormat::Resp => self.print_resp(item, output),
            DumpFormat::Text if self.headers => {
                let line = header_line(item);
                let gone = item.state.is_some_and(|state| state != EntryState::Live);
                let style = if gone { text::QUIET } else { anstyle::Style::new() };
                output.styled(style, &line)?;
                output.write_all(b"\n")
            }
            DumpFormat::Text => self.print_text(item, output),
        }
    }

    /// Prints a record that was just written. Nobody knows yet whether it stays: a truncation is told.
    pub fn print_live(&mut self, item: &Item, output: &mut Output) -> io::Result<()> {
        let record = &item.read.record;
        if record.record_type != RecordType::Truncate || self.headers {
            return self.print(item, output);
        }
        match self.format {
            DumpFormat::Text => {
                let line = format!("-- entry {} and all after it are truncated", record.header.index);
                output.styled(text::WARNING, &line)?;
                output.write_all(b"\n")
            }
            DumpFormat::Jsonl => {
                serde_json::to_writer(&mut *output.writer, &self.object(item))?;
                output.write_all(b"\n")
            }
            DumpFormat::Json | DumpFormat::Hex | DumpFormat::Resp => {
                eprintln!(
                    "raftlog-tool: entry {} and all after it were printed and are truncated now",
                    record.header.index
                );
                Ok(())
            }
        }
    }

    fn object<'r>(&self, item: &Item<'r>) -> RecordObject<'r> {
        let filter = &self.chosen.filter;
        RecordObject::of(item, !self.headers, &|effect| filter.takes_command(effect))
    }

    fn print_resp(&mut self, item: &Item, output: &mut Output) -> io::Result<()> {
        if item.read.record.record_type != RecordType::Normal {
            return Ok(());
        }
        let mut walk = Walk::new(item.read.record.payload);
        while let Some(effect) = walk.step() {
            if self.chosen.filter.takes_command(&effect) {
                self.resp.write(&effect, output)?;
            }
        }
        Ok(())
    }

    fn print_text(&mut self, item: &Item, output: &mut Output) -> io::Result<()> {
        let Record { record_type, header, payload, .. } = item.read.record;
        output.styled(text::INDEX, &header.index.to_string())?;
        write!(output, " term {} ", header.term)?;
        output.styled(text::KIND, TypeName::of(record_type).name())?;
        writeln!(output, " {} bytes", header.length)?;
        if let Some(Hole { expected, found, .. }) = item.read.hole {
            output.styled(text::BAD, "    (damaged)")?;
            return writeln!(output, " expected {expected}, found {found}");
        }
        if record_type == RecordType::NoOp {
            return Ok(());
        }
        // Effects are commands, and so are the members: `MEMBER <id> voter|learner <address> <peer address>`.
        let mut walk = Walk::new(payload);
        let mut left_out = 0;
        while let Some(effect) = walk.step() {
            if !self.chosen.filter.takes_command(&effect) {
                left_out += 1;
                continue;
            }
            output.write_all(b"    ")?;
            if effect.database != 0 {
                output.styled(text::QUIET, &format!("[{}] ", effect.database))?;
            }
            output.command(&effect, self.values)?;
            output.write_all(b"\n")?;
        }
        if left_out > 0 {
            output.styled(text::QUIET, &format!("    ({left_out} other commands)"))?;
            output.write_all(b"\n")?;
        }
        if !walk.rest().is_empty() {
            output.styled(text::BAD, "    (no command) ")?;
            writeln!(output, "{}", text::quote(walk.rest()))?;
        }
        Ok(())
    }
}

/// Line of a record: where it stands and what it says.
pub fn header_line(item: &Item) -> String {
    let Record { record_type, offset, header, payload, .. } = item.read.record;
    let file = text::file_name(item.read.file);
    let what = match record_type {
        RecordType::Truncate => format!("from {}", header.index),
        RecordType::Copy => format!("of {}", header.index),
        RecordType::Seal => format!("after {}", header.index),
        RecordType::Mark => {
            let generation = Mark::decode(payload).expect("the reader checked it").meta_generation;
            format!("after {} term {}, META {generation}", header.index, header.term)
        }
        RecordType::Normal | RecordType::NoOp | RecordType::Membership => {
            let note = match item.state {
                Some(EntryState::Truncated) => " (truncated later)",
                Some(EntryState::Purged) => " (purged)",
                _ => "",
            };
            let damaged = if item.read.hole.is_some() { " (damaged)" } else { "" };
            format!("{} term {} {} bytes{note}{damaged}", header.index, header.term, header.length)
        }
    };
    let batch = if header.flags & BATCH_START != 0 { " (batch start)" } else { "" };
    format!("{file}:{offset} crc {:08x} {} {what}{batch}", header.crc, TypeName::of(record_type).name())
}

/// The record as it stands in the file: header, payload and padding.
fn print_hex(item: &Item, output: &mut Output) -> io::Result<()> {
    let Record { header, payload, offset, .. } = item.read.record;
    output.styled(text::INDEX, &header_line(item))?;
    output.write_all(b"\n")?;
    if item.read.hole.is_some() {
        return Ok(());
    }
    let mut bytes = header.encode().to_vec();
    bytes.extend_from_slice(payload);
    bytes.resize(bytes.len() + padding_bytes(header.length), 0);
    text::hex_rows(output.writer, &bytes, offset)
}
