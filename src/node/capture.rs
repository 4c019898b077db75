//! Takes the local Redis' replication stream apart, on the leader.
//!
//! ```text
//!   SELECT 3 | SET a 1 | MULTI INCR b RPUSH c x EXEC | RAFT.MARK 7 42 | PING | SET d 1 | RAFT.MA..
//!   `------------- effects of batch 42 ------------'`- batch 42 ends -'`cut`'
//! ```
//!
//! Effects gather in one entry, up to the last complete command (or EXEC) that was read; it may end several
//! batches, whose marks follow it. Marks, PINGs and GETACKs are stripped. What a SELECT said is remembered, so that each entry is self-contained: an entry
//! starts and ends in database 0, whatever the stream's database is, and may be replayed from any place.

use crate::limits::ENTRY_TARGET_BYTES;
use crate::resp;
use bytes::{Bytes, BytesMut};
use std::ops::Range;
use thiserror::Error;

/// A batch of executed commands ends here: all its effects are in the pieces before.
/// (Those may hold effects of later batches too.)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// The leadership in which the batch was executed.
    pub epoch: u64,
    pub sequence: u64,
}

/// What the stream says, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// The payload of one log entry; never empty.
    Effects(Bytes),
    Mark(Mark),
    /// The server has forked for attempt `attempt` of a snapshot: it is of all pieces before.
    Snapshot {
        attempt: u64,
    },
}

#[derive(Debug, Error, PartialEq, Eq)]
pub enum CaptureError {
    #[error("replication stream at offset {offset}: {error}")]
    Resp { offset: u64, error: resp::RespError },
    #[error("replication stream at offset {offset}: malformed {command}")]
    Command { offset: u64, command: &'static str },
    #[error(
        "replication stream at offset {offset}: a mark inside a transaction; it is propagated on its own"
    )]
    MarkInTransaction { offset: u64 },
}

/// Parser of one capture link, from a known offset of the stream on.
pub struct Capture {
    /// Replication offset of the last byte consumed; only whole commands are consumed.
    offset: u64,
    /// Database that the stream is in; unknown until its first SELECT.
    stream_db: u32,
    /// Database that the entry being gathered is in.
    entry_db: u32,
    in_transaction: bool,
    entry: BytesMut,
    /// Marks of batches whose effects are in `entry` or before.
    marks: Vec<Mark>,
    args: Vec<Range<usize>>,
}

enum Command {
    Effect,
    Select(u32),
    Multi,
    Exec,
    Mark(Mark),
    /// A mark, where the server has forked as well. Sequence 0: no batch ends here.
    Snapshot(Mark, u64),
    Skip,
}

impl Capture {
    /// The next byte of the stream is the one after `offset`.
    pub fn new(offset: u64) -> Capture {
        Capture {
            offset,
            stream_db: 0,
            entry_db: 0,
            in_transaction: false,
            entry: BytesMut::new(),
            marks: Vec::new(),
            args: Vec::new(),
        }
    }

    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Nothing is gathered that was not given out as a piece.
    pub fn is_empty(&self) -> bool {
        self.entry.is_empty() && self.marks.is_empty()
    }

    /// Consumes whole commands from `buffer`, appends pieces, and says how many bytes were consumed. The
    /// effects read so far become an entry unless a transaction is open: a batch is never split between
    /// an entry and one that may be lost.
    pub fn feed(&mut self, buffer: &[u8], pieces: &mut Vec<Piece>) -> Result<usize, CaptureError> {
        let mut at = 0;
        let mut args = std::mem::take(&mut self.args);
        let result = loop {
            match resp::parse_command(&buffer[at..], &resp::Limits::STREAM, &mut args) {
                Ok(Some(used)) => {
                    let command = &buffer[at..at + used];
                    if let Err(error) = self.take(command, &args, pieces) {
                        break Err(error);
                    }
                    at += used;
                    self.offset += used as u64;
                }
                Ok(None) => break Ok(at),
                Err(error) => break Err(CaptureError::Resp { offset: self.offset, error }),
            }
        };
        self.args = args;
        if !self.in_transaction {
            self.close_entry(pieces);
        }
        result
    }

    fn take(
        &mut self,
        command: &[u8],
        args: &[Range<usize>],
        pieces: &mut Vec<Piece>,
    ) -> Result<(), CaptureError> {
        match self.classify(command, args)? {
            Command::Skip => {}
            Command::Select(db) => self.stream_db = db,
            Command::Mark(_) | Command::Snapshot(..) if self.in_transaction => {
                return Err(CaptureError::MarkInTransaction { offset: self.offset });
            }
            Command::Mark(mark) => self.marks.push(mark),
            Command::Snapshot(mark, attempt) => {
                if mark.sequence > 0 {
                    self.marks.push(mark);
                }
                self.close_entry(pieces);
                pieces.push(Piece::Snapshot { attempt });
            }
            Command::Multi => {
                self.append(command);
                self.in_transaction = true;
            }
            Command::Exec => {
                self.append(command);
                self.in_transaction = false;
            }
            Command::Effect => self.append(command),
        }
        if !self.in_transaction && self.entry.len() >= ENTRY_TARGET_BYTES {
            self.close_entry(pieces);
        }
        Ok(())
    }

    fn classify(&self, command: &[u8], args: &[Range<usize>]) -> Result<Command, CaptureError> {
        let offset = self.offset;
        let Some(name) = args.first().map(|range| &command[range.clone()]) else { return Ok(Command::Skip) };
        let number = |i: usize| -> Option<u64> {
            std::str::from_utf8(&command[args.get(i)?.clone()]).ok()?.parse().ok()
        };
        // The length tells nearly all effects apart before any byte is compared.
        Ok(match name.len() {
            4 if name.eq_ignore_ascii_case(b"PING") => Command::Skip,
            4 if name.eq_ignore_ascii_case(b"EXEC") => Command::Exec,
            5 if name.eq_ignore_ascii_case(b"MULTI") => Command::Multi,
            6 if name.eq_ignore_ascii_case(b"SELECT") => {
                let db = number(1).and_then(|db| u32::try_from(db).ok());
                Command::Select(db.ok_or(CaptureError::Command { offset, command: "SELECT" })?)
            }
            8 if name.eq_ignore_ascii_case(b"REPLCONF") => Command::Skip,
            9 if name.eq_ignore_ascii_case(b"RAFT.MARK") => match (number(1), number(2)) {
                (Some(epoch), Some(sequence)) if args.len() == 3 => Command::Mark(Mark { epoch, sequence }),
                (Some(epoch), Some(sequence)) => {
                    let attempt = number(3).ok_or(CaptureError::Command { offset, command: "RAFT.MARK" })?;
                    Command::Snapshot(Mark { epoch, sequence }, attempt)
                }
                _ => return Err(CaptureError::Command { offset, command: "RAFT.MARK" }),
            },
            _ => Command::Effect,
        })
    }

    fn append(&mut self, command: &[u8]) {
        if self.entry_db != self.stream_db {
            put_select(&mut self.entry, self.stream_db);
            self.entry_db = self.stream_db;
        }
        self.entry.extend_from_slice(command);
    }

    fn close_entry(&mut self, pieces: &mut Vec<Piece>) {
        if self.entry_db != 0 {
            put_select(&mut self.entry, 0);
            self.entry_db = 0;
        }
        if !self.entry.is_empty() {
            pieces.push(Piece::Effects(self.entry.split().freeze()));
        }
        pieces.extend(self.marks.drain(..).map(Piece::Mark));
    }
}

fn put_select(out: &mut BytesMut, db: u32) {
    let db = db.to_string();
    out.extend_from_slice(format!("*2\r\n$6\r\nSELECT\r\n${}\r\n{db}\r\n", db.len()).as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(words: &str) -> Vec<u8> {
        let mut out = Vec::new();
        resp::encode_command(&mut out, &words.split(' ').map(str::as_bytes).collect::<Vec<_>>());
        out
    }

    fn stream(commands: &[&str]) -> Vec<u8> {
        commands.iter().flat_map(|c| command(c)).collect()
    }

    fn effects(commands: &[&str]) -> Piece {
        Piece::Effects(Bytes::from(stream(commands)))
    }

    fn mark(sequence: u64) -> Piece {
        Piece::Mark(Mark { epoch: 7, sequence })
    }

    fn pieces(bytes: &[u8]) -> Vec<Piece> {
        let (mut capture, mut out) = (Capture::new(0), Vec::new());
        assert_eq!(capture.feed(bytes, &mut out), Ok(bytes.len()));
        out
    }

    #[test]
    fn an_entry_ends_where_the_server_has_forked() {
        let bytes = stream(&[
            "SET a 1",
            "RAFT.MARK 7 1",
            "SELECT 2",
            "SET b 1",
            "RAFT.MARK 7 2 5",
            "SET c 1",
            "RAFT.MARK 7 0 6",
        ]);
        let snapshot = |attempt| Piece::Snapshot { attempt };
        let first = effects(&["SET a 1", "SELECT 2", "SET b 1", "SELECT 0"]);
        let second = effects(&["SELECT 2", "SET c 1", "SELECT 0"]);
        assert_eq!(pieces(&bytes), [first, mark(1), mark(2), snapshot(5), second, snapshot(6)]);
        let (mut capture, mut out) = (Capture::new(0), Vec::new());
        assert!(capture.feed(&stream(&["RAFT.MARK 7 2 x"]), &mut out).is_err());
    }

    #[test]
    fn effects_gather_and_marks_are_stripped() {
        let bytes = stream(&["SET a 1", "RAFT.MARK 7 1", "PING", "RAFT.MARK 7 2", "SET b 1"]);
        assert_eq!(pieces(&bytes), [effects(&["SET a 1", "SET b 1"]), mark(1), mark(2)]);
        assert_eq!(pieces(&stream(&["PING", "RAFT.MARK 7 3"])), [mark(3)]);
    }

    #[test]
    fn each_entry_starts_and_ends_in_database_0() {
        let (mut capture, mut out) = (Capture::new(0), Vec::new());
        capture.feed(&stream(&["SELECT 3", "SET a 1"]), &mut out).unwrap();
        capture.feed(&stream(&["SET b 1", "SELECT 0", "SET c 1"]), &mut out).unwrap();
        let first = effects(&["SELECT 3", "SET a 1", "SELECT 0"]);
        let second = effects(&["SELECT 3", "SET b 1", "SELECT 0", "SET c 1"]);
        assert_eq!(out, [first, second]);
    }

    #[test]
    fn a_transaction_is_never_split_at_whatever_byte_the_reads_end() {
        let bytes = stream(&["SET x 1", "MULTI", "SELECT 2", "INCR a", "EXEC", "RAFT.MARK 7 9"]);
        for cut in 0..=bytes.len() {
            let (mut capture, mut out) = (Capture::new(100), Vec::new());
            let used = capture.feed(&bytes[..cut], &mut out).unwrap();
            assert_eq!(capture.offset(), 100 + used as u64);
            assert_eq!(used + capture.feed(&bytes[used..], &mut out).unwrap(), bytes.len());
            for piece in &out {
                let Piece::Effects(payload) = piece else { continue };
                let text = String::from_utf8_lossy(payload);
                assert_eq!(text.contains("MULTI"), text.contains("EXEC"), "cut at {cut}: {text}");
            }
            assert_eq!(out.last(), Some(&mark(9)));
            assert!(capture.is_empty());
        }
    }

    #[test]
    fn a_long_pipeline_becomes_several_entries() {
        let value = "v".repeat(1000);
        let set = command(&format!("SET k {value}"));
        let all = set.repeat(3 * ENTRY_TARGET_BYTES / set.len());
        let lengths: Vec<usize> = pieces(&all)
            .iter()
            .map(|piece| match piece {
                Piece::Effects(payload) => payload.len(),
                Piece::Mark(_) | Piece::Snapshot { .. } => 0,
            })
            .collect();
        assert_eq!(lengths.iter().sum::<usize>(), all.len());
        assert!(lengths.len() >= 3 && lengths.iter().all(|n| *n < ENTRY_TARGET_BYTES + set.len()));
    }

    #[test]
    fn a_long_transaction_is_one_entry() {
        let set = command(&format!("SET k {}", "v".repeat(1000)));
        let sets = set.repeat(2 * ENTRY_TARGET_BYTES / set.len());
        let bytes = [command("MULTI"), sets, command("EXEC"), command("RAFT.MARK 7 1")].concat();
        let out = pieces(&bytes);
        assert!(
            matches!(&out[..], [Piece::Effects(payload), Piece::Mark(_)] if payload.ends_with(b"EXEC\r\n"))
        );
    }

    #[test]
    fn garbage_is_an_error_with_its_offset() {
        let (mut capture, mut out) = (Capture::new(50), Vec::new());
        let bytes = [stream(&["SET a 1"]), b"*1\r\n$x\r\n".to_vec()].concat();
        let error = capture.feed(&bytes, &mut out).unwrap_err();
        assert!(error.to_string().contains(&format!("offset {}", 50 + command("SET a 1").len())), "{error}");
        let bad = stream(&["RAFT.MARK 7"]);
        assert!(matches!(Capture::new(0).feed(&bad, &mut out), Err(CaptureError::Command { .. })));
        for mark in ["RAFT.MARK 7 1", "RAFT.MARK 7 1 2"] {
            let (multi, inside) = (command("MULTI"), stream(&["MULTI", mark]));
            let error = Capture::new(0).feed(&inside, &mut out);
            assert_eq!(error, Err(CaptureError::MarkInTransaction { offset: multi.len() as u64 }));
        }
    }
}
