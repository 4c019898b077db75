//! `find`: the commands that wrote a key.

use std::io::Write;
use std::ops::ControlFlow;

use redisraft::log::record::RecordType;
use serde::Serialize;

use crate::cli::{FindArguments, ListFormat};
use crate::effects::{Effect, Walk};
use crate::failure::{despite_damage, Failure, CLEAN};
use crate::object::{CommandObject, SCHEMA};
use crate::progress::Progress;
use crate::select::Filter;
use crate::source::{Item, Source};
use crate::text::{self, Output};

/// A command that was found. The key is in `command`, unless it concerns all keys.
#[derive(Serialize)]
struct Found<'r> {
    schema: u64,
    #[serde(rename = "type")]
    type_name: &'static str,
    index: u64,
    term: u64,
    /// Position among the commands of the entry, from 1.
    position: usize,
    #[serde(flatten)]
    command: CommandObject<'r>,
}

pub fn run(arguments: &FindArguments, output: &mut Output) -> Result<u8, Failure> {
    let mut source = Source::open(&arguments.directory, Progress::beside_data(&arguments.directory))?;
    let filter = Filter::new(&arguments.selection, Some(&arguments.key), false);
    let mut skip = 0;
    if let Some(last) = arguments.last {
        let mut count = 0u64;
        let counting = source.read("counting", &mut |item| {
            each(&filter, &item, &mut |_, _| {
                count += 1;
                Ok(())
            })
        });
        despite_damage(counting)?;
        skip = count.saturating_sub(last);
    }
    let mut found = 0u64;
    let read = source.read("searching", &mut |item| {
        each(&filter, &item, &mut |position, effect| {
            if skip > 0 {
                skip -= 1;
                return Ok(());
            }
            found += 1;
            print(arguments, &item, position, effect, output)
        })
    });
    output.flush()?;
    read?;
    source.note_torn();
    if found == 0 {
        eprintln!("raftlog-tool: no command in {} writes such a key", arguments.directory.display());
    }
    Ok(CLEAN)
}

/// Calls `take` for every command of an entry that wrote the key, and for those that concern all keys.
fn each(
    filter: &Filter,
    item: &Item,
    take: &mut dyn FnMut(usize, &Effect) -> Result<(), Failure>,
) -> Result<ControlFlow<()>, Failure> {
    if !filter.takes_record(item) || item.read.record.record_type != RecordType::Normal {
        return Ok(ControlFlow::Continue(()));
    }
    let mut walk = Walk::new(item.read.record.payload);
    let mut position = 0;
    while let Some(effect) = walk.step() {
        position += 1;
        if filter.takes_command(&effect) || filter.concerns(&effect) {
            take(position, &effect)?;
        }
    }
    Ok(ControlFlow::Continue(()))
}

fn print(
    arguments: &FindArguments,
    item: &Item,
    position: usize,
    effect: &Effect,
    output: &mut Output,
) -> Result<(), Failure> {
    let header = &item.read.record.header;
    if arguments.format == ListFormat::Jsonl {
        let command = CommandObject::of(effect);
        let (index, term) = (header.index, header.term);
        let found = Found { schema: SCHEMA, type_name: "find", index, term, position, command };
        serde_json::to_writer(&mut *output.writer, &found)?;
    } else {
        output.styled(text::INDEX, &header.index.to_string())?;
        write!(output, " term {} ", header.term)?;
        output.styled(text::QUIET, &format!("[{}] ", effect.database))?;
        output.command(effect, arguments.values)?;
    }
    Ok(output.write_all(b"\n")?)
}
