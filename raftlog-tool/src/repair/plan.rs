//! What would be done to a log, decided without changing it.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use redisraft::log::index_file::{self, encode_header, FrameBuilder, IndexEntry};
use redisraft::log::record::{record_bytes, RecordType};
use redisraft::log::segment::{
    index_path, parse_file_name, segment_path, FileName, HeaderState, SegmentHeader, SEGMENT_HEADER_BYTES,
};
use redisraft::log::{LogError, ReadRecord, Reader, Rewrite, ScanEnd, Torn};
use redisraft::node::members::Members;
use redisraft::snapshot::Depth;
use serde::Serialize;

use super::files;
use crate::cli::RepairArguments;
use crate::failure::Failure;
use crate::snapshots::{Meeting, Snapshots};
use crate::source::{Place, HOLE_ADVICE};

/// What was found.
pub struct Assessment {
    pub reader: Reader,
    pub found: Result<ScanEnd, LogError>,
    pub snapshots: Snapshots,
    /// Of what can be read, truncations taken into account.
    pub last_index: u64,
    /// Where the last live record of the entry to cut at stands.
    cut_record: Option<Place>,
    /// Behind the last record that can be read.
    end: Option<Place>,
    members: MembersSeen,
}

/// Who the cluster is, as far as the log says.
#[derive(Default)]
struct MembersSeen {
    /// Before the cut: whether this node is the only member; `None` without a membership.
    only_this: Option<bool>,
    /// A membership is cut away, or cannot be read, or something was truncated: an only member never does that.
    changed: bool,
}

/// One change.
#[derive(Debug, Serialize)]
#[serde(tag = "action", rename_all = "kebab-case")]
pub enum Action {
    /// Damaged bytes that are known all the same are written anew, as a start would do.
    Rewrite {
        file: PathBuf,
        offset: u64,
        what: String,
        #[serde(skip)]
        bytes: Vec<u8>,
        #[serde(skip)]
        segment: u32,
    },
    /// A torn tail becomes zeros, as a start would do.
    ZeroTorn { file: PathBuf, offset: u64, bytes: u64, reason: String },
    /// An index file is made anew from its segment.
    RebuildIndex { file: PathBuf, segment: u32 },
    /// An entry and all after it go.
    Truncate(Cut),
}

/// Where a log is cut.
#[derive(Debug, Serialize)]
pub struct Cut {
    /// The first entry that goes.
    pub index: u64,
    pub segment: u32,
    pub file: PathBuf,
    /// 0: the whole segment goes.
    pub offset: u64,
    /// The node does not vote until it has caught up. False where it is the only member that ever was: nobody else can
    /// have what is gone, or be told otherwise.
    pub distrusted: bool,
    /// Files of later segments.
    pub moved: Vec<PathBuf>,
}

impl Assessment {
    /// Reads the log; `truncate_at`: and looks for that entry.
    pub fn of(directory: &Path, truncate_at: Option<u64>) -> Result<Assessment, Failure> {
        let reader = Reader::open(directory)?;
        let mut last_index = reader.meta().base_index;
        let (mut cut_record, mut end) = (None, None);
        let mut members = MembersSeen::default();
        let node_id = reader.meta().owner.node_id;
        let found = reader.scan_past_damage(&mut |read| {
            let header = &read.record.header;
            let place = (read.segment_sequence, read.record.offset);
            if read.record.record_type.entry_kind().is_some() {
                last_index = last_index.max(header.index);
                if Some(header.index) == truncate_at {
                    cut_record = Some(place);
                }
            } else if read.record.record_type == RecordType::Truncate {
                members.changed = true;
                last_index = (header.index - 1).max(reader.meta().base_index);
                cut_record = cut_record.filter(|_| truncate_at.is_some_and(|cut| cut < header.index));
            }
            if read.record.record_type == RecordType::Membership {
                members.see(&read, truncate_at.is_none_or(|cut| header.index >= cut), node_id);
            }
            end = Some((place.0, place.1 + record_bytes(header.length)));
            ControlFlow::Continue(())
        });
        match &found {
            Ok(_) | Err(LogError::Corrupt { .. } | LogError::Foreign { .. }) => {}
            Err(error) => return Err(error.clone().into()),
        }
        let snapshots = Snapshots::find(directory, reader.meta(), Depth::Length)?;
        Ok(Assessment { reader, found, snapshots, last_index, cut_record, end, members })
    }

    /// Why entries are in neither log nor snapshot; no cut mends that.
    pub fn gap(&self, directory: &Path) -> Option<String> {
        match self.snapshots.meet(directory, self.reader.meta().base_index, self.last_index) {
            Meeting::Gap(reason) => Some(reason),
            _ => None,
        }
    }

    /// The damage that is not made good by writing what is known, if there is any.
    pub fn damage(&self) -> Option<String> {
        match &self.found {
            Err(error) => Some(error.to_string()),
            Ok(end) => {
                let missing = end.holes().filter(|hole| hole.index > self.snapshots.index());
                let holes: Vec<String> = missing.map(|hole| format!("{hole}; {HOLE_ADVICE}")).collect();
                (!holes.is_empty()).then(|| holes.join("\n"))
            }
        }
    }

    /// The first entry that cannot be read.
    pub fn first_damaged(&self) -> u64 {
        let held = self.snapshots.index();
        let hole = self.found.as_ref().ok().and_then(|end| end.holes().find(|hole| hole.index > held));
        hole.map_or(self.last_index + 1, |hole| hole.index)
    }

    /// What the arguments ask for, as far as it is needed. Without a choice: all that loses nothing.
    pub fn plan(&self, arguments: &RepairArguments) -> Result<Vec<Action>, Failure> {
        let directory = &arguments.directory;
        if let Some(index) = arguments.truncate_at {
            let cut = self.cut(directory, index)?;
            let place = (cut.segment, cut.offset);
            let kept = |action: &Action| matches!(action, Action::Rewrite { segment, offset, .. } if (*segment, *offset) < place);
            let mut actions: Vec<Action> = self.rewrites().into_iter().filter(kept).collect();
            actions.push(Action::Truncate(cut));
            return Ok(actions);
        }
        let all = !arguments.rebuild_index && !arguments.truncate_torn;
        let mut actions = if all { self.rewrites() } else { Vec::new() };
        let Ok(end) = &self.found else { return Ok(actions) };
        if let Some(Torn { file, offset, bytes, reason }) =
            end.torn.clone().filter(|_| all || arguments.truncate_torn)
        {
            actions.push(Action::ZeroTorn { file, offset, bytes, reason });
        }
        if all || arguments.rebuild_index {
            let broken =
                end.segments.iter().filter(|segment| segment.header.is_some() && !segment.index_intact);
            actions.extend(broken.map(|segment| Action::RebuildIndex {
                file: index_path(directory, segment.sequence),
                segment: segment.sequence,
            }));
        }
        Ok(actions)
    }

    fn rewrites(&self) -> Vec<Action> {
        let Ok(end) = &self.found else { return Vec::new() };
        let rewrite = |rewrite: &Rewrite| {
            let Rewrite { file, sequence, offset, bytes, what } = rewrite.clone();
            Action::Rewrite { file, offset, what, bytes, segment: sequence }
        };
        end.rewrites.iter().map(rewrite).collect()
    }

    fn cut(&self, directory: &Path, index: u64) -> Result<Cut, Failure> {
        let meta = self.reader.meta();
        let shown = directory.display();
        let highest = self.last_index + 1;
        if index <= meta.base_index {
            return Err(Failure::Usage(format!(
                "{shown} begins behind entry {}: entry {index} is in a snapshot and cannot be cut",
                meta.base_index
            )));
        }
        // A cut before the snapshot would not bring its entries out of the dataset; it is of use only where nothing behind
        // can be read: a start begins the log anew at the snapshot then.
        let held = self.snapshots.index();
        if index <= held && held < highest {
            return Err(Failure::Usage(format!(
                "{shown}: the snapshot of entry {held} holds entry {index}, and a start uses it: give --truncate-at {} or more",
                held + 1
            )));
        }
        if index > highest {
            return Err(Failure::Usage(format!(
                "{shown} can be read up to entry {}: give --truncate-at {highest} or less",
                self.last_index
            )));
        }
        let (segment, offset) = match (self.cut_record, self.found.as_ref().err()) {
            (Some(place), _) => place,
            (None, Some(damage)) => self.damaged_place(damage)?,
            (None, None) => {
                return Err(Failure::Usage(format!(
                    "{shown} ends at entry {}: there is nothing to cut at {index}",
                    self.last_index
                )))
            }
        };
        let moved = moved(directory, segment, offset == 0 && segment > meta.first_sequence)?;
        let alone = self.found.is_ok() && self.members.only_this == Some(true) && !self.members.changed;
        let file = segment_path(directory, segment);
        Ok(Cut { index, segment, file, offset, distrusted: !alone || meta.distrusted, moved })
    }

    /// Where what can be read ends.
    fn damaged_place(&self, damage: &LogError) -> Result<Place, Failure> {
        let (file, offset) = match damage {
            LogError::Corrupt { file, offset, .. } => (file, *offset),
            LogError::Foreign { file, .. } => (file, 0),
            _ => return Err(damage.clone().into()),
        };
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        let FileName::Segment(sequence) = parse_file_name(&name) else {
            return Err(Failure::Damage(format!("{damage} (no cut mends that)")));
        };
        let first = self.reader.meta().first_sequence;
        let reached = self.end.map_or(first, |end| end.0 + 1);
        if sequence > reached || !file.exists() {
            return Err(Failure::Damage(format!(
                "{damage} (it is met before the entries are read, so there is no place to cut at)"
            )));
        }
        Ok((sequence, if offset < SEGMENT_HEADER_BYTES as u64 { 0 } else { offset }))
    }
}

impl MembersSeen {
    fn see(&mut self, read: &ReadRecord, cut: bool, node_id: u64) {
        match Members::decode(read.record.payload) {
            Ok(members) if !cut && read.hole.is_none() => {
                self.only_this = Some(members.0.keys().eq([&node_id]));
            }
            _ => self.changed = true,
        }
    }
}

/// Files of the segments behind `segment` (`itself`: and its own), the latest first; none if those behind were never
/// used.
fn moved(directory: &Path, segment: u32, itself: bool) -> Result<Vec<PathBuf>, Failure> {
    let mut later = Vec::new();
    let mut used = itself;
    for sequence in files::segments(directory)? {
        if sequence > segment || itself && sequence == segment {
            used |= !matches!(header(&segment_path(directory, sequence))?, HeaderState::Blank);
            later.push(sequence);
        }
    }
    if !used {
        return Ok(Vec::new());
    }
    let files = later.into_iter().rev().flat_map(|sequence| {
        [index_path(directory, sequence), segment_path(directory, sequence)].into_iter()
    });
    Ok(files.filter(|file| file.exists()).collect())
}

/// The header of a segment file; one that is shorter goes on with zeros.
fn header(path: &Path) -> Result<HeaderState, Failure> {
    let bytes = files::read_start(path, SEGMENT_HEADER_BYTES)?;
    let mut block = [0; SEGMENT_HEADER_BYTES];
    block[..bytes.len()].copy_from_slice(&bytes);
    Ok(SegmentHeader::decode(&block))
}

/// The index file of a segment, from its records before `end`; `None` without a valid header. What the old one says of
/// records that cannot be read is kept: it tells what they were.
pub fn index_of(reader: &Reader, file: &Path, segment: u32, end: u64) -> Result<Option<Vec<u8>>, Failure> {
    let HeaderState::Valid(SegmentHeader { salt, .. }) = header(file)? else { return Ok(None) };
    let old = files::read_start(&file.with_extension("idx"), usize::MAX)?;
    let mut entries = BTreeMap::new();
    let mut add = |entry: IndexEntry| {
        entries.insert(entry.offset, entry);
    };
    index_file::entries(&old, salt).filter(|entry| entry.end() <= end).for_each(&mut add);
    let scan = reader.scan_past_damage(&mut |read| {
        let record = &read.record;
        if (read.segment_sequence, record.offset) >= (segment, end) {
            return ControlFlow::Break(());
        }
        if read.segment_sequence == segment && record.record_type.is_indexed() && read.hole.is_none() {
            add(IndexEntry::of(&record.header, record.record_type, record.offset as u32));
        }
        ControlFlow::Continue(())
    });
    match scan {
        Ok(found) => {
            let lost = found.lost.iter().filter(|lost| lost.sequence == segment && lost.end() <= end);
            lost.filter_map(|lost| lost.index_entry()).for_each(&mut add);
        }
        // What is damaged lies behind the cut.
        Err(LogError::Corrupt { .. } | LogError::Foreign { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    let mut frames = FrameBuilder::new(salt);
    entries.into_values().for_each(|entry| frames.push(entry));
    Ok(Some([&encode_header(salt, segment)[..], frames.bytes()].concat()))
}
