//! `export`: entries as one stream of commands that rebuilds the dataset.

use std::io::Write;
use std::ops::ControlFlow;
use std::time::{SystemTime, UNIX_EPOCH};

use redisraft::log::record::RecordType;

use crate::cli::ExportArguments;
use crate::effects::Walk;
use crate::failure::{Failure, CLEAN};
use crate::progress::Progress;
use crate::resp_stream::RespStream;
use crate::source::{Source, HOLE_ADVICE};
use crate::text::{grouped, Output};

pub fn run(arguments: &ExportArguments, output: &mut Output) -> Result<u8, Failure> {
    let mut source = Source::open(&arguments.directory, Progress::beside_data(&arguments.directory))?;
    let (from, to) = range(arguments, &source)?;
    let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_millis() as u64);
    let mut stream = RespStream::default();
    let (mut entries, mut expired) = (0u64, 0u64);
    let read = source.read_entries("exporting", &mut |read| {
        let header = &read.record.header;
        let next = if header.index < to { ControlFlow::Continue(()) } else { ControlFlow::Break(()) };
        if !(from..=to).contains(&header.index) || read.record.record_type != RecordType::Normal {
            return Ok(next);
        }
        if let Some(hole) = read.hole {
            let last = header.index - 1;
            return Err(Failure::Damage(format!("{hole}; {HOLE_ADVICE}; or export up to --to {last}")));
        }
        let mut walk = Walk::new(read.record.payload);
        while let Some(effect) = walk.step() {
            expired += u64::from(effect.expires_at_ms().is_some_and(|at| at <= now_ms));
            stream.write(&effect, output)?;
        }
        if let Some(broken) = walk.broken() {
            return Err(Failure::Damage(format!(
                "{} at offset {}: entry {} is not whole commands: {}; export up to --to {} instead",
                read.file.display(),
                read.record.offset,
                header.index,
                broken.reason,
                header.index - 1
            )));
        }
        entries += 1;
        Ok(next)
    });
    stream.end(output)?;
    output.flush()?;
    read?;
    note(&stream, entries, expired, (from, to.min(source.outline.last_index)));
    Ok(CLEAN)
}

/// First and last index, checked against what is there.
fn range(arguments: &ExportArguments, source: &Source) -> Result<(u64, u64), Failure> {
    let outline = &source.outline;
    let (first, last) = (outline.first_index, outline.last_index);
    let directory = source.directory.display();
    let from = arguments.from.unwrap_or(1);
    if from < first {
        return Err(Failure::Usage(begins_late(source, arguments.to)));
    }
    // Damage that ends the log is an error of an export of all.
    let to = arguments.to.unwrap_or(u64::MAX);
    if arguments.to.is_some() && to > last {
        if let Some(failure) = outline.failure() {
            return Err(failure);
        }
        return Err(Failure::Usage(format!(
            "{directory} ends at entry {last}, before --to {to}; take the log of a node that holds it"
        )));
    }
    if from > to.saturating_add(1) {
        return Err(Failure::Usage(format!("--from {from} is behind --to {to}")));
    }
    Ok((from, to))
}

/// Why there is no export from the first entry on, and how the dataset comes about all the same.
fn begins_late(source: &Source, to: Option<u64>) -> String {
    let (directory, first) = (source.directory.display(), source.outline.first_index);
    let begins = format!("{directory} begins at entry {first}: what was before was purged");
    let Some(about) = &source.snapshots.newest else {
        return format!(
            "{begins}, and no intact snapshot holds it; give --from {first} to export the rest alone"
        );
    };
    let (index, file) = (about.id.index, about.file_name());
    if to.is_some_and(|to| to < index) {
        return format!(
            "{begins}; the snapshot {file} is of entry {index}, later than wanted: the dataset of entry {} cannot be rebuilt from \
             here; another node, or a backup, may have an older snapshot",
            to.unwrap_or(0)
        );
    }
    format!(
        "{begins}; the snapshot holds everything up to entry {index}. Start a plain server with a copy of \
         {directory}/{file} as its dump.rdb, and give it what follows: export --from {}",
        index + 1
    )
}

fn note(stream: &RespStream, entries: u64, expired: u64, (from, to): (u64, u64)) {
    let commands = grouped(stream.commands);
    eprintln!("raftlog-tool: {commands} commands of {} entries in {from}..={to}", grouped(entries));
    if expired > 0 {
        eprintln!(
            "raftlog-tool: {} commands set a time to live that is over now: run as a client's commands they remove the \
             key at once, and what came later finds none; load the export as an append only file for the exact \
             dataset (see `raftlog-tool help export`)",
            grouped(expired)
        );
    }
}
