//! Commands of many entries as one stream, with a `SELECT` wherever the database changes and nowhere else.

use std::io::{self, Write};

use redisraft::resp::encode_command;

use crate::effects::Effect;

/// Where a stream of commands is. Starts in database 0.
#[derive(Default)]
pub struct RespStream {
    database: u64,
    pub commands: u64,
}

impl RespStream {
    /// Writes a command, and before it the `SELECT` it needs. `SELECT`s of the log itself are left out.
    pub fn write(&mut self, effect: &Effect, output: &mut dyn Write) -> io::Result<()> {
        if effect.is("SELECT") || effect.len() == 0 {
            return Ok(());
        }
        self.select(effect.database, output)?;
        self.commands += 1;
        output.write_all(effect.bytes)
    }

    /// Goes back to database 0.
    pub fn end(&mut self, output: &mut dyn Write) -> io::Result<()> {
        self.select(0, output)
    }

    fn select(&mut self, database: u64, output: &mut dyn Write) -> io::Result<()> {
        if self.database == database {
            return Ok(());
        }
        self.database = database;
        let mut bytes = Vec::new();
        encode_command(&mut bytes, &[b"SELECT", database.to_string().as_bytes()]);
        output.write_all(&bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::effects::Walk;

    #[test]
    fn the_database_is_selected_only_where_it_changes() {
        let command = |words: &[&str]| {
            let mut out = Vec::new();
            encode_command(&mut out, &words.iter().map(|word| word.as_bytes()).collect::<Vec<_>>());
            out
        };
        let (select, back, set) =
            (command(&["SELECT", "2"]), command(&["SELECT", "0"]), command(&["SET", "k", "v"]));
        let entry = [&select[..], &set, &back].concat();
        let (mut stream, mut out) = (RespStream::default(), Vec::new());
        for payload in [&set, &entry, &entry, &set, &entry] {
            let mut walk = Walk::new(payload);
            while let Some(effect) = walk.step() {
                stream.write(&effect, &mut out).expect("written");
            }
        }
        stream.end(&mut out).expect("written");
        let expected = [&set[..], &select, &set, &set, &back, &set, &select, &set, &back].concat();
        assert_eq!((out, stream.commands), (expected, 5));
    }
}
