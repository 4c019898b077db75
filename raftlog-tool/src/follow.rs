//! `dump --follow`: what a running node writes, as it writes it.

use std::io::Write;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Duration;

use redisraft::log::disk::{Disk, Mode, SystemDisk};
use redisraft::log::record::RecordType;
use redisraft::log::scan::{Scanner, Step};
use redisraft::log::segment::{segment_path, HeaderState, SegmentHeader, SEGMENT_HEADER_BYTES};
use redisraft::log::window::Window;
use redisraft::log::{LogError, ReadRecord, ScanEnd};

use crate::dump::Printer;
use crate::failure::Failure;
use crate::source::{EntryState, Item, Source};
use crate::text::Output;

/// How often a log that stands still is looked at.
const POLL: Duration = Duration::from_millis(50);

/// Prints what comes behind the records that `source` has read; ends only by an error.
pub fn run(source: Source, printer: &mut Printer, output: &mut Output) -> Result<(), Failure> {
    let end = catch_up(&source, printer, output)?;
    let mut tail = Tail::behind(&source, &end)?;
    loop {
        if !tail.advance(printer, output)? {
            output.flush()?;
            std::thread::sleep(POLL);
        }
    }
}

/// Prints what was written since the last pass of `source`, and says where the log ends now.
fn catch_up(source: &Source, printer: &mut Printer, output: &mut Output) -> Result<ScanEnd, Failure> {
    let mut failure = None;
    let end = source.reader.scan_past_damage(&mut |read| {
        if source.has_read((read.segment_sequence, read.record.offset)) {
            return ControlFlow::Continue(());
        }
        match printer.print_live(&just_written(read), output) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                failure = Some(error);
                ControlFlow::Break(())
            }
        }
    })?;
    failure.map_or(Ok(end), |error| Err(error.into()))
}

/// Nobody knows yet whether it stays.
fn just_written(read: ReadRecord<'_>) -> Item<'_> {
    let state = read.record.record_type.entry_kind().map(|_| EntryState::Live);
    Item { read, state }
}

/// The place behind the last record that was printed.
struct Tail {
    directory: PathBuf,
    /// The segment that is read; `None` until it is begun.
    segment: Option<Segment>,
    sequence: u32,
    /// CRC of the last record.
    prev_crc: u32,
}

struct Segment {
    path: PathBuf,
    window: Window,
    salt: u32,
    scanner: Scanner,
}

impl Tail {
    fn behind(source: &Source, end: &ScanEnd) -> Result<Tail, Failure> {
        let last = end.segments.iter().rev().find_map(|segment| Some((segment, segment.header.as_ref()?)));
        let directory = source.directory.clone();
        let Some((last, header)) = last else {
            let sequence = source.reader.meta().first_sequence;
            return Ok(Tail { directory, segment: None, sequence, prev_crc: 0 });
        };
        let segment = Segment {
            path: last.path.clone(),
            window: open(&last.path)?,
            salt: header.salt,
            scanner: Scanner::new(header.salt, last.offset, last.prev_crc),
        };
        let (segment, sequence) =
            if last.sealed { (None, last.sequence + 1) } else { (Some(segment), last.sequence) };
        Ok(Tail { directory, segment, sequence, prev_crc: last.prev_crc })
    }

    /// Prints the next record; `false`: there is none yet.
    fn advance(&mut self, printer: &mut Printer, output: &mut Output) -> Result<bool, Failure> {
        let Some(segment) = &mut self.segment else {
            self.segment = self.begin_segment()?;
            return Ok(self.segment.is_some());
        };
        let offset = segment.scanner.offset();
        match segment.scanner.next(&mut segment.window)? {
            Step::Record(record) => {
                let sealed = record.record_type == RecordType::Seal;
                let file = &segment.path;
                let read = ReadRecord { file, segment_sequence: self.sequence, record, hole: None };
                printer.print_live(&just_written(read), output)?;
                if sealed {
                    self.prev_crc = segment.scanner.prev_crc();
                    self.sequence += 1;
                    self.segment = None;
                }
                Ok(true)
            }
            Step::Newer { what, found } => {
                let file = segment.path.clone();
                Err(LogError::NewerFormat { file, offset, what, found, known: 0 }.into())
            }
            // Not written yet, or half-written: the chain of CRCs says when it is whole.
            Step::Blank | Step::Invalid { .. } => segment.check_life().map(|()| false),
        }
    }

    /// The segment behind a seal, as soon as it has a header.
    fn begin_segment(&self) -> Result<Option<Segment>, Failure> {
        let path = segment_path(&self.directory, self.sequence);
        if !path.exists() {
            return Ok(None);
        }
        let mut window = open(&path)?;
        Ok(match header(&mut window)? {
            Some(header) if header.sequence == self.sequence && header.prev_crc == self.prev_crc => {
                let scanner = Scanner::new(header.salt, SEGMENT_HEADER_BYTES as u64, header.prev_crc);
                Some(Segment { path, window, salt: header.salt, scanner })
            }
            _ => None,
        })
    }
}

impl Segment {
    /// A file that was purged, or cut by a repair, will never go on.
    fn check_life(&mut self) -> Result<(), Failure> {
        // What was read before is old.
        self.window.forget();
        if self.path.exists() && header(&mut self.window)?.is_some_and(|header| header.salt == self.salt) {
            self.window.forget();
            return Ok(());
        }
        Err(Failure::Usage(format!(
            "{} was purged or replaced while it was followed; start `dump --follow` again",
            self.path.display()
        )))
    }
}

fn open(path: &Path) -> Result<Window, Failure> {
    let file = SystemDisk.open(path, Mode::Read);
    let file = file.map_err(|source| Failure::File { verb: "open", path: path.to_path_buf(), source })?;
    Ok(Window::of(file, path)?)
}

fn header(window: &mut Window) -> Result<Option<SegmentHeader>, Failure> {
    let Some(block) = window.get_array::<SEGMENT_HEADER_BYTES>(0)? else { return Ok(None) };
    match SegmentHeader::decode(block) {
        HeaderState::Valid(header) => Ok(Some(header)),
        _ => Ok(None),
    }
}
