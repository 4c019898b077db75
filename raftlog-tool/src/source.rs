//! Reading a log in two passes: the first learns what was truncated and where the log ends, the second hands the
//! records out. Memory is bounded, and beside a running writer both passes speak of the same log.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use redisraft::log::record::RecordType;
use redisraft::log::{LogError, ReadRecord, Reader, Torn};

use crate::failure::Failure;
use crate::holder;
use crate::progress::Progress;

/// Where a record stands: segment and offset. In order of the log.
pub type Place = (u32, u64);

/// A log to be read.
pub struct Source {
    pub directory: PathBuf,
    pub reader: Reader,
    /// Process id of a server that has the log open.
    pub writer: Option<u32>,
    pub outline: Outline,
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
    /// What ended the reading.
    pub damage: Option<LogError>,
}

/// A record, and whether a later truncation drops its entry.
pub struct Item<'r> {
    pub read: ReadRecord<'r>,
    pub superseded: bool,
}

impl Item<'_> {
    pub fn is_entry(&self) -> bool {
        self.read.record.record_type.entry_kind().is_some()
    }
}

impl Source {
    /// Opens the log and makes the first pass. `streams`: data is printed while it is read. Damage is no error yet:
    /// [`Source::read`] meets it after all that can be read.
    pub fn open(directory: &Path, streams: bool) -> Result<Source, Failure> {
        // Asked before reading: a server that starts meanwhile is none that wrote what is read first.
        let writer = holder::find(directory);
        let reader = Reader::open(directory)?;
        let mut progress = Progress::new(directory, streams);
        let outline = Outline::of(&reader, &mut progress)?;
        Ok(Source { directory: directory.to_path_buf(), reader, writer, outline, progress })
    }

    /// Hands out all records in order, up to the end that the first pass saw; then the damage that ended it, if any.
    pub fn read(
        &mut self,
        what: &'static str,
        visit: &mut dyn FnMut(Item<'_>) -> Result<ControlFlow<()>, Failure>,
    ) -> Result<(), Failure> {
        let Source { reader, outline, progress, .. } = self;
        progress.pass(what);
        let mut failure = None;
        let scan = reader.scan(&mut |read| {
            let place = (read.segment_sequence, read.record.offset);
            if place > outline.end {
                return ControlFlow::Break(());
            }
            progress.record(place.0, place.1);
            let superseded = read.record.record_type.entry_kind().is_some()
                && outline.is_superseded(place, read.record.header.index);
            match visit(Item { read, superseded }) {
                Ok(ControlFlow::Continue(())) if place < outline.end => ControlFlow::Continue(()),
                Ok(_) => ControlFlow::Break(()),
                Err(error) => {
                    failure = Some(error);
                    ControlFlow::Break(())
                }
            }
        });
        if let Some(failure) = failure {
            return Err(failure);
        }
        scan?;
        outline.damage.clone().map_or(Ok(()), |damage| Err(damage.into()))
    }

    /// Whether a record was there in the first pass.
    pub fn has_read(&self, place: Place) -> bool {
        place <= self.outline.end
    }

    /// Hands out the entries that a start would load.
    pub fn read_entries(
        &mut self,
        what: &'static str,
        visit: &mut dyn FnMut(&ReadRecord<'_>) -> Result<ControlFlow<()>, Failure>,
    ) -> Result<(), Failure> {
        self.read(what, &mut |item| {
            if !item.is_entry() || item.superseded {
                return Ok(ControlFlow::Continue(()));
            }
            visit(&item.read)
        })
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

impl Outline {
    fn of(reader: &Reader, progress: &mut Progress) -> Result<Outline, Failure> {
        progress.pass("reading");
        let base = reader.meta().base_index;
        let mut outline = Outline { first_index: base + 1, last_index: base, ..Outline::default() };
        let scan = reader.scan(&mut |read| {
            let place = (read.segment_sequence, read.record.offset);
            progress.record(place.0, place.1);
            let header = read.record.header;
            if read.record.record_type.entry_kind().is_some() {
                outline.last_index = header.index;
                outline.last_term = header.term;
            } else if read.record.record_type == RecordType::Truncate {
                outline.truncations.push((place, header.index));
                outline.last_index = header.index - 1;
            }
            outline.end = place;
            ControlFlow::Continue(())
        });
        match scan {
            Ok(end) => {
                outline.last_term = end.sequence.last_term();
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

    /// Whether a later truncation drops the entry.
    fn is_superseded(&self, place: Place, index: u64) -> bool {
        let later = self.truncations.partition_point(|truncation| truncation.0 <= place);
        self.truncations.get(later).is_some_and(|truncation| truncation.1 <= index)
    }
}
