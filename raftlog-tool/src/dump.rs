//! `dump`: entries as a restart would load them, or every record as it stands in the files.

use std::io::Write;
use std::ops::ControlFlow;
use std::path::Path;

use redisraft::log::record::{Mark, RecordType, BATCH_START};
use redisraft::log::scan::Record;
use redisraft::log::{LogError, ReadRecord, Reader, Torn};
use serde_json::{json, Value};

use crate::{effects, DumpArguments, Failure, JSON_SCHEMA};

pub fn run(arguments: &DumpArguments, output: &mut dyn Write) -> Result<u8, Failure> {
    let reader = Reader::open(&arguments.directory)?;
    let outline = Outline::of(&reader)?;
    let from = match arguments.last {
        Some(last) => outline.last_index.saturating_add(1).saturating_sub(last),
        None => arguments.from.unwrap_or(0),
    };
    let wanted = from..=arguments.to.unwrap_or(u64::MAX);
    let mut ordinal = 0;
    let mut failure = None;
    let scan = reader.scan(&mut |read| {
        let superseded = outline.is_superseded(ordinal, read.record.header.index);
        ordinal += 1;
        let is_entry = read.record.record_type.entry_kind().is_some();
        if !wanted.contains(&read.record.header.index) || !arguments.headers && (!is_entry || superseded) {
            return ControlFlow::Continue(());
        }
        match print(arguments, &read, is_entry && superseded, output) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                failure = Some(error);
                ControlFlow::Break(())
            }
        }
    });
    if let Some(error) = failure {
        return Err(Failure::Output(error));
    }
    output.flush()?;
    if let Some(Torn { file, offset, bytes, .. }) = scan?.torn {
        let file = file.display();
        eprintln!(
            "raftlog-tool: {file} ends in {bytes} bytes at offset {offset} that belong to no complete batch"
        );
    }
    Ok(0)
}

/// What must be known of the whole log before its first entry is printed.
struct Outline {
    last_index: u64,
    /// (ordinal of the record, smallest index that it or a later truncation drops), by ordinal.
    truncations: Vec<(u64, u64)>,
}

impl Outline {
    fn of(reader: &Reader) -> Result<Outline, LogError> {
        let mut outline = Outline { last_index: 0, truncations: Vec::new() };
        let mut ordinal = 0;
        let scan = reader.scan(&mut |read| {
            let index = read.record.header.index;
            match read.record.record_type {
                RecordType::Truncate => {
                    outline.truncations.push((ordinal, index));
                    outline.last_index = index - 1;
                }
                RecordType::Mark | RecordType::Seal | RecordType::Copy => {}
                RecordType::Normal | RecordType::NoOp | RecordType::Membership => outline.last_index = index,
            }
            ordinal += 1;
            ControlFlow::Continue(())
        });
        match scan {
            // Damage is told where it stands: behind all that can be printed.
            Ok(_)
            | Err(LogError::Corrupt { .. } | LogError::Foreign { .. } | LogError::NewerFormat { .. }) => {}
            Err(error) => return Err(error),
        }
        let mut smallest = u64::MAX;
        for truncation in outline.truncations.iter_mut().rev() {
            smallest = smallest.min(truncation.1);
            truncation.1 = smallest;
        }
        Ok(outline)
    }

    /// Whether a later truncation drops the entry.
    fn is_superseded(&self, ordinal: u64, index: u64) -> bool {
        let later = self.truncations.partition_point(|truncation| truncation.0 <= ordinal);
        self.truncations.get(later).is_some_and(|truncation| truncation.1 <= index)
    }
}

fn print(
    arguments: &DumpArguments,
    read: &ReadRecord,
    superseded: bool,
    output: &mut dyn Write,
) -> std::io::Result<()> {
    if arguments.json {
        return writeln!(output, "{}", json_of(read, superseded, !arguments.headers));
    }
    if arguments.headers {
        return writeln!(output, "{}", header_line(read, superseded));
    }
    let Record { record_type, header, payload, .. } = read.record;
    let name = type_name(record_type);
    writeln!(output, "{} term {} {name} {} bytes", header.index, header.term, header.length)?;
    // Effects are commands, and so are the members: `MEMBER <id> voter|learner <address> <peer address>`.
    let (commands, rest) = effects::parse(payload);
    for command in commands {
        writeln!(output, "    {}", effects::command_line(&command))?;
    }
    if !rest.is_empty() {
        writeln!(output, "    (no command) {}", effects::quote(rest))?;
    }
    Ok(())
}

fn type_name(record_type: RecordType) -> &'static str {
    match record_type {
        RecordType::Normal => "normal",
        RecordType::NoOp => "no-op",
        RecordType::Membership => "membership",
        RecordType::Truncate => "truncate",
        RecordType::Mark => "mark",
        RecordType::Seal => "seal",
        RecordType::Copy => "copy",
    }
}

fn file_name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

fn header_line(read: &ReadRecord, superseded: bool) -> String {
    let Record { record_type, offset, header, payload, .. } = read.record;
    let place = format!("{}:{offset}", file_name(read.file));
    let what = match record_type {
        RecordType::Truncate => format!("from {}", header.index),
        RecordType::Copy => format!("of {}", header.index),
        RecordType::Seal => format!("after {}", header.index),
        RecordType::Mark => {
            let mark = Mark::decode(payload).expect("the reader checked it");
            format!("after {} term {}, META {}", header.index, header.term, mark.meta_generation)
        }
        RecordType::Normal | RecordType::NoOp | RecordType::Membership => {
            let note = if superseded { " (truncated later)" } else { "" };
            format!("{} term {} {} bytes{note}", header.index, header.term, header.length)
        }
    };
    let batch = if header.flags & BATCH_START != 0 { " (batch)" } else { "" };
    format!("{place} crc {:08x} {} {what}{batch}", header.crc, type_name(record_type))
}

fn json_of(read: &ReadRecord, superseded: bool, with_payload: bool) -> Value {
    let Record { record_type, offset, header, payload, payload_crc } = read.record;
    let mut object = json!({
        "schema": JSON_SCHEMA,
        "type": type_name(record_type),
        "file": file_name(read.file),
        "offset": offset,
        "index": header.index,
        "term": header.term,
        "crc": format!("{:08x}", header.crc),
    });
    let fields = object.as_object_mut().expect("an object");
    fields.insert("batch_start".into(), json!(header.flags & BATCH_START != 0));
    if let Some(mark) = Mark::decode(payload).filter(|_| record_type == RecordType::Mark) {
        fields.insert("meta_generation".into(), json!(mark.meta_generation));
    }
    if record_type.entry_kind().is_none() {
        return object;
    }
    fields.insert("payload_bytes".into(), json!(header.length));
    fields.insert("payload_crc".into(), json!(format!("{payload_crc:08x}")));
    fields.insert("truncated".into(), json!(superseded));
    if with_payload && record_type != RecordType::NoOp {
        let (commands, rest) = effects::parse(payload);
        let commands: Vec<Vec<Value>> = commands
            .iter()
            .map(|command| command.iter().map(|argument| effects::json_bytes(argument)).collect())
            .collect();
        fields.insert("commands".into(), json!(commands));
        if !rest.is_empty() {
            fields.insert("no_command".into(), effects::json_bytes(rest));
        }
    }
    object
}
