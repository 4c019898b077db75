//! Segment files that were read lately, kept open.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, Mutex};

use bytes::Bytes;

use super::active::SegmentView;
use super::disk::{Disk, FileHandle, Mode};
use super::error::LogError;
use super::record::{Entry, Place, RecordHeader, RecordType, HEADER_BYTES};
use super::table::Line;

/// Readers of the log's past are few; each reads on where it was.
const MAX_OPEN_FILES: usize = 16;

/// Opens segments for reading, and keeps those open that were asked for last.
pub struct ReadFiles {
    disk: Arc<dyn Disk>,
    /// The one asked for last is the first.
    open: Mutex<VecDeque<(u32, FileHandle)>>,
}

impl ReadFiles {
    pub fn new(disk: Arc<dyn Disk>) -> ReadFiles {
        ReadFiles { disk, open: Mutex::default() }
    }

    /// Segment `sequence`, which stands at `path`.
    fn get(&self, sequence: u32, path: &Path) -> Result<FileHandle, LogError> {
        let mut open = self.open.lock().expect("no thread of the log panics");
        if let Some(position) = open.iter().position(|(other, _)| *other == sequence) {
            open.swap(0, position);
            return Ok(open[0].1.clone());
        }
        let file =
            self.disk.open(path, Mode::Read).map_err(|source| LogError::io("open", path, None, source))?;
        open.truncate(MAX_OPEN_FILES - 1);
        open.push_front((sequence, file.clone()));
        Ok(file)
    }

    /// Reads an entry that was written. Inner `Err`: what was expected, and what is there instead. Outer: the disk's
    /// errors, also of a segment that was cut.
    pub fn read(
        &self,
        view: &SegmentView,
        index: u64,
        line: &Line,
    ) -> Result<Result<Entry, (String, String)>, LogError> {
        let Line { term, kind, length, .. } = *line;
        let offset = u64::from(line.offset);
        let file = self.get(view.sequence, &view.path)?;
        let mut bytes = vec![0; HEADER_BYTES + length as usize];
        if let Err(source) = file.read_at(&mut bytes, offset) {
            if source.raw_os_error() == Some(nix::libc::EIO) {
                return Ok(Err(("a record".to_string(), format!("what the disk cannot read ({source})"))));
            }
            return Err(LogError::io("read", &view.path, offset, source));
        }
        let header = RecordHeader::decode(bytes[..HEADER_BYTES].try_into().expect("a header"));
        let identity = (header.index, header.term, header.length, header.record_type);
        let expected = (index, term, length, RecordType::from(kind) as u8);
        if identity != expected {
            return Ok(Err((format!("{expected:?} (index, term, length, type)"), format!("{identity:?}"))));
        }
        let payload = Bytes::from(bytes).slice(HEADER_BYTES..);
        let payload_crc = crc32fast::hash(&payload);
        let expected_crc = header.expected_crc(Place { salt: view.salt, offset }, payload_crc);
        if header.crc != expected_crc {
            return Ok(Err((format!("crc {expected_crc:08x}"), format!("crc {:08x}", header.crc))));
        }
        Ok(Ok(Entry { index, term, kind, payload, payload_crc }))
    }

    /// Closes what stands before segment `first`: the space of a file that was removed is free only then.
    pub fn forget_before(&self, first: u32) {
        self.open.lock().expect("no thread of the log panics").retain(|(sequence, _)| *sequence >= first);
    }
}
