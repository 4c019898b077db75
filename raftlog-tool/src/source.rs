//! Reading a log in two passes: the first learns what was truncated and where the log ends, the second hands the
//! records out. Memory is bounded, and beside a running writer both passes speak of the same log.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use redisraft::log::record::RecordType;
use redisraft::log::scan::Record;
use redisraft::log::{Hole, LogError, ReadRecord, Reader, ScanEnd, Torn, Visitor};
use redisraft::snapshot::Depth;
use serde::Serialize;

use crate::failure::Failure;
use crate::holder;
use crate::progress::Progress;
use crate::snapshots::Snapshots;

/// Where a record stands: segment and offset. In order of the log.
pub type Place = (u32, u64);

/// A log to be read.
pub struct Source {
    pub directory: PathBuf,
    pub reader: Reader,
    /// Process id of a server that has the log open.
    pub writer: Option<u32>,
    pub outline: Outline,
    pub snapshots: Snapshots,
    pub progress: Progress,
}

/// What must be known of the whole log before its first entry can be judged.
#[derive(Default)]
pub struct Outline {
    pub first_index: u64,
    /// One below `first_index` if there is no entry.
    pub last_index: u64,
    pub last_term: u64,
    /// (place of the record, smallest index that it or a later truncation drops), in order.
    truncations: Vec<(Place, u64)>,
    /// Of the last record.
    end: Place,
    pub torn: Option<Torn>,
    /// Entries that were acknowledged and cannot be read.
    pub holes: Vec<Hole>,
    /// What ended the reading.
    pub damage: Option<LogError>,
}

/// A record, and what became of its entry.
pub struct Item<'r> {
    pub read: ReadRecord<'r>,
    /// `None` if it is no entry.
    pub state: Option<EntryState>,
}

/// Whether an entry that is read belongs to the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum EntryState {
    /// A start would load it.
    Live,
    /// A later record drops it.
    Truncated,
    /// It stands in the first segment that was kept, before the entry that the log begins with.
    Purged,
}

impl Item<'_> {
    pub fn is_live(&self) -> bool {
        self.state == Some(EntryState::Live)
    }
}

/// What to do about an entry that is known but for its payload.
pub const HOLE_ADVICE: &str =
    "other nodes of the cluster have it, and this one fetches it when it is started";

/// How often reading begins anew behind what it has read because a running node purged it meanwhile.
const PURGE_RETRIES: usize = 16;

impl Source {
    /// Opens the log and makes the first pass. Damage is no error yet: [`Source::read`] meets it after all
    /// that can be read.
    pub fn open(directory: &Path, mut progress: Progress) -> Result<Source, Failure> {
        // Asked before reading: a server that starts meanwhile is none that wrote what is read first.
        let writer = holder::find(directory);
        let mut reader = Reader::open(directory)?;
        let outline = Outline::of(&mut reader, directory, &mut progress)?;
        let snapshots = Snapshots::find(directory, reader.meta(), Depth::Length)?;
        Ok(Source { directory: directory.to_path_buf(), reader, writer, outline, snapshots, progress })
    }

    /// Hands out all records in order, up to the end that the first pass saw, and says then what damage was met, if any -
    /// unless the visitor had enough before.
    pub fn read(
        &mut self,
        what: &'static str,
        visit: &mut dyn FnMut(Item<'_>) -> Result<ControlFlow<()>, Failure>,
    ) -> Result<(), Failure> {
        let Source { reader, outline, progress, directory, .. } = self;
        progress.pass(what);
        let mut failure = None;
        let mut handed_out = None;
        let mut enough = false;
        let scan = scan_on(reader, directory, &mut |read| {
            let place = (read.segment_sequence, read.record.offset);
            if handed_out.is_some_and(|last| place <= last) {
                return ControlFlow::Continue(());
            }
            if place > outline.end {
                return ControlFlow::Break(());
            }
            handed_out = Some(place);
            progress.record(place.0, place.1);
            let state = outline.state(place, &read.record);
            match visit(Item { read, state }) {
                Ok(ControlFlow::Continue(())) if place < outline.end => ControlFlow::Continue(()),
                Ok(flow) => {
                    enough = flow.is_break();
                    ControlFlow::Break(())
                }
                Err(error) => {
                    failure = Some(error);
                    ControlFlow::Break(())
                }
            }
        });
        progress.end();
        scan?;
        if let Some(failure) = failure {
            return Err(failure);
        }
        outline.failure().filter(|_| !enough).map_or(Ok(()), Err)
    }

    /// Whether a record was there in the first pass.
    pub fn has_read(&self, place: Place) -> bool {
        place <= self.outline.end
    }

    /// Hands out the entries that a start would load, without a gap.
    pub fn read_entries(
        &mut self,
        what: &'static str,
        visit: &mut dyn FnMut(&ReadRecord<'_>) -> Result<ControlFlow<()>, Failure>,
    ) -> Result<(), Failure> {
        let mut next = self.outline.first_index;
        let directory = self.directory.clone();
        self.read(what, &mut |item| {
            if !item.is_live() {
                return Ok(ControlFlow::Continue(()));
            }
            let index = item.read.record.header.index;
            if index != next {
                let directory = directory.display();
                return Err(Failure::Usage(format!(
                    "{directory}: entries {next}..={} were purged while they were read; start again",
                    index - 1
                )));
            }
            next += 1;
            visit(&item.read)
        })
    }

    /// Tells what the log begins behind, if it was compacted.
    pub fn note_beginning(&self) {
        let base = self.outline.first_index - 1;
        if base > 0 {
            let holds = match self.snapshots.line() {
                Some(line) => format!("a snapshot holds what was before: {line}"),
                None => "no intact snapshot holds what was before".to_string(),
            };
            eprintln!("raftlog-tool: the log begins behind entry {base}; {holds}");
        }
    }

    /// Tells of a torn tail, which is no damage.
    pub fn note_torn(&self) {
        if let Some(Torn { file, offset, bytes, .. }) = &self.outline.torn {
            let file = file.display();
            let then = if self.writer.is_some() {
                "being written"
            } else {
                "never acknowledged, dropped at a start"
            };
            eprintln!(
                "raftlog-tool: {file} ends in {bytes} bytes at offset {offset} that belong to no complete batch: {then}"
            );
        }
    }
}

/// Scans, and begins anew with the next META when a running node purged or recycled what was being read. The visitor
/// sees records again then.
pub fn scan_on(reader: &mut Reader, directory: &Path, visit: &mut Visitor) -> Result<ScanEnd, LogError> {
    let mut retries = 0;
    loop {
        let error = match reader.scan_past_damage(visit) {
            Ok(end) => return Ok(end),
            Err(error) => error,
        };
        let newer = Reader::open(directory)?;
        if newer.meta().first_sequence <= reader.meta().first_sequence || retries == PURGE_RETRIES {
            return Err(error);
        }
        *reader = newer;
        retries += 1;
    }
}

impl Outline {
    fn of(reader: &mut Reader, directory: &Path, progress: &mut Progress) -> Result<Outline, Failure> {
        progress.pass("reading");
        let mut outline = Outline::default();
        let mut seen = None;
        let scan = scan_on(reader, directory, &mut |read| {
            let place = (read.segment_sequence, read.record.offset);
            if seen.is_some_and(|last| place <= last) {
                return ControlFlow::Continue(());
            }
            seen = Some(place);
            progress.record(place.0, place.1);
            outline.take(place, &read.record);
            ControlFlow::Continue(())
        });
        progress.end();
        let base = (reader.meta().base_index, reader.meta().base_term);
        outline.first_index = base.0 + 1;
        if outline.last_index <= base.0 {
            (outline.last_index, outline.last_term) = base;
        }
        match scan {
            Ok(end) => {
                outline.last_term = end.sequence.last_term();
                outline.holes = end.holes().cloned().collect();
                outline.torn = end.torn;
            }
            Err(
                error @ (LogError::Corrupt { .. } | LogError::Foreign { .. } | LogError::NewerFormat { .. }),
            ) => outline.damage = Some(error),
            Err(error) => return Err(error.into()),
        }
        let mut smallest = u64::MAX;
        for truncation in outline.truncations.iter_mut().rev() {
            smallest = smallest.min(truncation.1);
            truncation.1 = smallest;
        }
        Ok(outline)
    }

    /// The damage, if there is any.
    pub fn failure(&self) -> Option<Failure> {
        if let Some(damage) = &self.damage {
            return Some(damage.clone().into());
        }
        let first = self.holes.first()?;
        let more = match self.holes.len() - 1 {
            0 => String::new(),
            more => format!(", and {more} more"),
        };
        Some(Failure::Damage(format!("{first}{more}; {HOLE_ADVICE}")))
    }

    fn take(&mut self, place: Place, record: &Record) {
        let header = record.header;
        if record.record_type.entry_kind().is_some() {
            (self.last_index, self.last_term) = (header.index, header.term);
        } else if record.record_type == RecordType::Truncate {
            self.truncations.push((place, header.index));
            self.last_index = header.index - 1;
        }
        self.end = place;
    }

    fn state(&self, place: Place, record: &Record) -> Option<EntryState> {
        record.record_type.entry_kind()?;
        let index = record.header.index;
        let later = self.truncations.partition_point(|truncation| truncation.0 <= place);
        let dropped = self.truncations.get(later).is_some_and(|truncation| truncation.1 <= index);
        Some(match (dropped, index < self.first_index) {
            (true, _) => EntryState::Truncated,
            (false, true) => EntryState::Purged,
            (false, false) => EntryState::Live,
        })
    }
}
