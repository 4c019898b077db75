//! Behind damage: what stood there, and its bytes again where no payload is needed for them.
//!
//! Asked only where something proves that the damaged bytes were durable once. A record is known
//!
//! * by the index file: type, index, term, length and crc;
//! * by its neighbours: the record before says which index and term come next, and the next record of this life, found by
//!   trying every multiple of 8, says which crc the missing one had, and ends the gap. They confirm what is left of the
//!   record; nothing is made of them alone.
//!
//! Whatever is put in its place has that crc, or is not accepted. What is not certain is not guessed: the log is
//! refused then.

use std::fmt;
use std::ops::RangeInclusive;
use std::path::PathBuf;

use super::error::LogError;
use super::hole::Lost;
use super::index_file::{self, IndexEntry};
use super::record::*;
use super::scan::*;
use super::segment::{HeaderState, SegmentHeader, SEGMENT_HEADER_BYTES};
use super::window::Window;

/// Most generations of META and most terms that are tried for one record.
const MAX_TRIES: u64 = 1 << 16;

/// Bytes that belong in the place of damaged ones.
#[derive(Clone, PartialEq, Eq)]
pub struct Rewrite {
    pub file: PathBuf,
    pub sequence: u32,
    pub offset: u64,
    pub bytes: Vec<u8>,
    /// What was damaged, as in "a mark".
    pub what: String,
}

impl fmt::Display for Rewrite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at offset {}: {}", self.file.display(), self.offset, self.what)
    }
}

/// One record of a damaged place.
pub enum Piece {
    /// Known to the last byte.
    Rebuilt { record_type: RecordType, header: RecordHeader, bytes: Vec<u8>, what: String },
    /// Known but for its payload.
    Lost(Lost),
}

/// What is known beside the records of the segment.
pub struct Evidence {
    pub sequence: u32,
    /// The first record at or behind the place that the segment's index file names.
    pub named: Option<IndexEntry>,
    /// Generation of the newest META.
    pub meta_generation: u64,
    /// What the next segment's header says about the seal of this one.
    pub seal_crc: Option<u32>,
    /// How the damage showed.
    pub expected: String,
    pub found: String,
}

/// A place in the chain of records, and what was read before it.
pub struct Chain {
    pub salt: u32,
    pub scanner: Scanner,
    /// The last entry, and its term if that is known.
    last: (u64, Option<u64>),
    /// Generation in the last mark.
    generation: u64,
    /// The membership right before this place.
    membership: Option<(RecordHeader, Vec<u8>)>,
}

/// What a record in a gap must lead to.
enum Proof {
    /// The next record follows the one with this crc.
    PrevCrc(u32),
    /// The next record is damaged too, but its crc is known, and its payload is there.
    Next { named: IndexEntry, payload_crc: u32 },
}

/// Bytes without a valid record, and what follows them.
struct Gap {
    bytes: u64,
    next: Option<Found>,
    proof: Proof,
}

impl Chain {
    /// At `offset`, behind a record with `prev_crc` and behind entry `last`.
    pub fn new(salt: u32, offset: u64, prev_crc: u32, last: (u64, Option<u64>)) -> Chain {
        let scanner = Scanner::new(salt, offset, prev_crc);
        Chain { salt, scanner, last, generation: 0, membership: None }
    }

    /// Generation of META that the last mark named; 0 if there was none.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// To be told of every record, in order.
    pub fn note(&mut self, record: &Record) {
        let RecordHeader { index, term, .. } = record.header;
        self.membership = None;
        match record.record_type {
            RecordType::Normal | RecordType::NoOp => self.last = (index, Some(term)),
            RecordType::Membership => {
                self.last = (index, Some(term));
                self.membership = Some((record.header, record.payload.to_vec()));
            }
            RecordType::Truncate => self.last = (index.saturating_sub(1), None),
            RecordType::Mark => {
                self.last.1 = Some(term);
                self.generation = Mark::decode(record.payload).map_or(0, |mark| mark.meta_generation);
            }
            RecordType::Seal | RecordType::Copy => {}
        }
    }

    /// Steps over a piece.
    pub fn pass(&mut self, piece: &Piece) {
        let offset = self.scanner.offset();
        match piece {
            Piece::Rebuilt { record_type, header, bytes, .. } => {
                let payload = &bytes[HEADER_BYTES..][..header.length as usize];
                self.note(&Record {
                    record_type: *record_type,
                    offset,
                    header: *header,
                    payload,
                    payload_crc: crc32fast::hash(payload),
                });
                self.scanner = Scanner::new(self.salt, offset + bytes.len() as u64, header.crc);
            }
            Piece::Lost(lost) => {
                self.last = (lost.hole.index, Some(lost.hole.term));
                self.membership = None;
                self.scanner = Scanner::new(self.salt, lost.end(), lost.crc());
            }
        }
    }

    /// What stood at this place. `None`: that is not certain.
    pub fn resolve(&self, window: &mut Window, evidence: &Evidence) -> Result<Option<Vec<Piece>>, LogError> {
        let offset = self.scanner.offset();
        if let Some(whole) = own_record_at(window, self.salt, offset)? {
            if whole.header.prev_crc != self.scanner.prev_crc() {
                // It does not follow the one before: no damage of one place does this.
                return Ok(None);
            }
            let Record { record_type, header, payload, .. } = whole;
            let bytes = encode_record(&header, payload);
            let what = format!("padding of {}", describe(record_type, header.index));
            return Ok(Some(vec![Piece::Rebuilt { record_type, header, bytes, what }]));
        }
        let named = evidence.named;
        if named.is_some_and(|named| u64::from(named.offset) < offset) {
            // The index file names what should have been passed: more than this place is damaged.
            return Ok(None);
        }
        if let Some(named) = named.filter(|named| u64::from(named.offset) == offset) {
            return Ok(self.resolve_named(window, &named, evidence)?.map(|piece| vec![piece]));
        }
        let end = named.map_or(window.file_bytes(), |named| u64::from(named.offset) + 1);
        let next = find_own_record(window, self.salt, offset + 8, end)?;
        let gap = match (next, named, evidence.seal_crc) {
            (Some(next), ..) => {
                let proof = Proof::PrevCrc(next.header.prev_crc);
                Gap { bytes: next.offset - offset, next: Some(next), proof }
            }
            (None, Some(named), _) => {
                let payload_start = u64::from(named.offset) + HEADER_BYTES as u64;
                let Some(payload) = window.get(payload_start, u64::from(named.length))? else {
                    return Ok(None);
                };
                let proof = Proof::Next { named, payload_crc: crc32fast::hash(payload) };
                Gap { bytes: u64::from(named.offset) - offset, next: None, proof }
            }
            (None, None, Some(crc)) => {
                Gap { bytes: HEADER_BYTES as u64, next: None, proof: Proof::PrevCrc(crc) }
            }
            (None, None, None) => return Ok(None),
        };
        self.resolve_gap(window, &gap, evidence)
    }

    /// The index file names the record: all is known but its payload, which may be there.
    fn resolve_named(
        &self,
        window: &mut Window,
        named: &IndexEntry,
        evidence: &Evidence,
    ) -> Result<Option<Piece>, LogError> {
        let IndexEntry { record_type, index, term, length, record_crc, .. } = *named;
        let offset = self.scanner.offset();
        let is_it = |header: &RecordHeader| header.crc == record_crc;
        let position = (record_type, index, term);
        let payload = window.get(offset + HEADER_BYTES as u64, u64::from(length))?.map(<[u8]>::to_vec);
        let Some(payload) = payload else { return Ok(None) };
        if let Some(piece) = self.rebuild(position, &payload, self.scanner.prev_crc(), is_it) {
            return Ok(Some(piece));
        }
        if record_type == RecordType::Membership {
            let copy = own_record_at(window, self.salt, named.end())?;
            let copy = copy.filter(|copy| copy.record_type == RecordType::Copy);
            if let Some(copy) = copy {
                let piece = self.rebuild(position, copy.payload, self.scanner.prev_crc(), is_it);
                if piece.is_some() {
                    return Ok(piece);
                }
            }
        }
        Ok(self.lost(
            window,
            position,
            (named.end() - u64::from(named.offset), Some(length)),
            record_crc,
            evidence,
        ))
    }

    fn lost(
        &self,
        window: &Window,
        (record_type, index, term): (RecordType, u64, u64),
        (record_bytes, length): (u64, Option<u32>),
        crc: u32,
        evidence: &Evidence,
    ) -> Option<Piece> {
        let kind = record_type.entry_kind()?;
        let (offset, prev_crc) = (self.scanner.offset(), self.scanner.prev_crc());
        let found = if window.is_unreadable(offset, record_bytes) {
            "a block that the disk cannot read".to_string()
        } else {
            evidence.found.clone()
        };
        let place = Place { salt: self.salt, offset };
        let texts = (evidence.expected.clone(), found);
        let position = (index, term, kind);
        let file = (window.path(), evidence.sequence);
        Some(Piece::Lost(Lost::new(file, place, position, (record_bytes, length), (prev_crc, crc), texts)))
    }

    /// The record with this payload, if one of its two possible flags makes it the one that is wanted.
    fn rebuild(
        &self,
        (record_type, index, term): (RecordType, u64, u64),
        payload: &[u8],
        prev_crc: u32,
        is_it: impl Fn(&RecordHeader) -> bool,
    ) -> Option<Piece> {
        self.rebuild_at(self.scanner.offset(), (record_type, index, term), payload, prev_crc, is_it)
    }

    fn rebuild_at(
        &self,
        offset: u64,
        (record_type, index, term): (RecordType, u64, u64),
        payload: &[u8],
        prev_crc: u32,
        is_it: impl Fn(&RecordHeader) -> bool,
    ) -> Option<Piece> {
        let place = Place { salt: self.salt, offset };
        let sum = (payload.len() as u32, crc32fast::hash(payload));
        [0, BATCH_START].into_iter().find_map(|flags| {
            let header = RecordHeader::sealed(place, (record_type, flags), (index, term), sum, prev_crc);
            let what = describe(record_type, index);
            is_it(&header).then(|| Piece::Rebuilt {
                record_type,
                header,
                bytes: encode_record(&header, payload),
                what,
            })
        })
    }

    /// No index file tells what filled the gap.
    fn resolve_gap(
        &self,
        window: &mut Window,
        gap: &Gap,
        evidence: &Evidence,
    ) -> Result<Option<Vec<Piece>>, LogError> {
        if let Some(pieces) = self.copy_and_mark(gap, evidence) {
            return Ok(Some(pieces));
        }
        let offset = self.scanner.offset();
        if let Some(mark) = self.mark(offset, self.scanner.prev_crc(), gap, gap.bytes, evidence) {
            return Ok(Some(vec![mark]));
        }
        if let Some(piece) = self.membership_of_copy(window, gap)? {
            return Ok(Some(vec![piece]));
        }
        if let Some(piece) = self.with_payload_there(window, gap)? {
            return Ok(Some(vec![piece]));
        }
        Ok(self.lost_between(window, gap, evidence)?.map(|piece| vec![piece]))
    }

    /// A membership is followed by its copy; a mark may stand behind that.
    fn copy_and_mark(&self, gap: &Gap, evidence: &Evidence) -> Option<Vec<Piece>> {
        let (membership, payload) = self.membership.as_ref()?;
        let position = (RecordType::Copy, membership.index, membership.term);
        let copy_bytes = record_bytes(membership.length);
        let prev_crc = self.scanner.prev_crc();
        if gap.bytes == copy_bytes {
            let piece = self.rebuild(position, payload, prev_crc, |header| self.proves(gap, header.crc));
            return piece.map(|copy| vec![copy]);
        }
        let rest = gap.bytes.checked_sub(copy_bytes)?;
        // Never the first of a batch: without the flag.
        let copy = self.rebuild(position, payload, prev_crc, |header| header.flags == 0)?;
        let Piece::Rebuilt { header, .. } = &copy else { return None };
        let mark = self.mark(self.scanner.offset() + copy_bytes, header.crc, gap, rest, evidence)?;
        Some(vec![copy, mark])
    }

    /// A mark that fills `bytes` at `offset`; its generation is found by trying.
    fn mark(&self, offset: u64, prev_crc: u32, gap: &Gap, bytes: u64, evidence: &Evidence) -> Option<Piece> {
        if bytes != record_bytes(MARK_PAYLOAD_BYTES as u32) {
            return None;
        }
        let term = self.last.1.or(gap.next.map(|next| next.header.term))?;
        let position = (RecordType::Mark, self.last.0, term);
        let newest = evidence.meta_generation;
        let oldest = self.generation.max(newest.saturating_sub(MAX_TRIES));
        (oldest..=newest).find_map(|meta_generation| {
            let payload = Mark { meta_generation }.encode();
            self.rebuild_at(offset, position, &payload, prev_crc, |header| self.proves(gap, header.crc))
        })
    }

    /// The next record is the copy of the membership that is missing.
    fn membership_of_copy(&self, window: &mut Window, gap: &Gap) -> Result<Option<Piece>, LogError> {
        let Some(next) = gap.next.filter(|next| next.record_type == RecordType::Copy) else {
            return Ok(None);
        };
        let Some(copy) = own_record_at(window, self.salt, next.offset)? else { return Ok(None) };
        let position = (RecordType::Membership, copy.header.index, copy.header.term);
        let is_it = |header: &RecordHeader| header.crc == copy.header.prev_crc;
        let piece = self.rebuild(position, copy.payload, self.scanner.prev_crc(), is_it);
        Ok(piece.filter(|_| gap.bytes == record_bytes(copy.header.length)))
    }

    /// Only header or padding is damaged, or there never was a payload: the crc says which record it was.
    fn with_payload_there(&self, window: &mut Window, gap: &Gap) -> Result<Option<Piece>, LogError> {
        let Some(room) = gap.bytes.checked_sub(HEADER_BYTES as u64) else { return Ok(None) };
        let Some(bytes) = window.get(self.scanner.offset() + HEADER_BYTES as u64, room)? else {
            return Ok(None);
        };
        let bytes = bytes.to_vec();
        let mut positions = self.entry_positions(gap);
        if room == 0 {
            let next_index = gap.next.map(|next| next.header.index);
            let dropped = next_index.into_iter().flat_map(|index| [index, index.saturating_add(1)]);
            positions.extend(dropped.map(|index| (RecordType::Truncate, index, 0)));
            let term = self.last.1.or(gap.next.map(|next| next.header.term)).unwrap_or(0);
            positions.push((RecordType::Seal, self.last.0, term));
        }
        let prev_crc = self.scanner.prev_crc();
        for length in bytes.len().saturating_sub(7)..=bytes.len() {
            for position in &positions {
                let is_it = |header: &RecordHeader| self.proves(gap, header.crc);
                let piece = self.rebuild(*position, &bytes[..length], prev_crc, is_it);
                if piece.is_some() {
                    return Ok(piece);
                }
            }
        }
        Ok(None)
    }

    /// Which entries may stand here.
    fn entry_positions(&self, gap: &Gap) -> Vec<(RecordType, u64, u64)> {
        let Some(index) = self.last.0.checked_add(1) else { return Vec::new() };
        let types = [RecordType::Normal, RecordType::NoOp, RecordType::Membership];
        let terms = self.terms(gap);
        types
            .into_iter()
            .flat_map(|record_type| terms.clone().map(move |term| (record_type, index, term)))
            .collect()
    }

    /// The terms that an entry between its neighbours may have.
    fn terms(&self, gap: &Gap) -> RangeInclusive<u64> {
        let next = gap.next.filter(|next| next.record_type != RecordType::Truncate);
        let next_term = next.map(|next| next.header.term);
        let lowest = self.last.1.or(next_term).unwrap_or(0);
        let highest = next_term.unwrap_or(lowest).min(lowest.saturating_add(MAX_TRIES / 64));
        lowest..=highest
    }

    /// An entry whose payload is gone, known by its own header. No payload can confirm that header, so the neighbours must
    /// confirm each field of it; of the length, the gap tells no more than up to padding.
    ///
    /// Neighbours alone are not enough, even where they show that one entry is missing: a copy of the membership before,
    /// or a truncation of entries of the same batch, may have stood in the gap beside it. A hole of such a length would
    /// fit no peer's entry, ever.
    fn lost_between(
        &self,
        window: &mut Window,
        gap: &Gap,
        evidence: &Evidence,
    ) -> Result<Option<Piece>, LogError> {
        let (Some(next), Proof::PrevCrc(crc)) = (gap.next, &gap.proof) else { return Ok(None) };
        let Some(bytes) = window.get_array::<HEADER_BYTES>(self.scanner.offset())? else { return Ok(None) };
        let header = RecordHeader::decode(bytes);
        let Some(index) = self.last.0.checked_add(1) else { return Ok(None) };
        let Some(term) = self.term_before(&next) else { return Ok(None) };
        // A record without payload would have been rebuilt; behind a membership stands its copy, and no term is certain.
        let certain = header.record_type == RecordType::Normal as u8
            && gap.bytes > HEADER_BYTES as u64
            && header.crc == *crc
            && header.prev_crc == self.scanner.prev_crc()
            && record_bytes(header.length) == gap.bytes
            && (header.index, header.term) == (index, term);
        let position = (RecordType::Normal, index, term);
        let piece = certain.then(|| self.lost(window, position, (gap.bytes, None), *crc, evidence));
        Ok(piece.flatten())
    }

    /// The term of an entry that is missing right before `next`, as far as the neighbours agree on one.
    fn term_before(&self, next: &Found) -> Option<u64> {
        match next.record_type {
            // These carry the term of the entry before them.
            RecordType::Mark | RecordType::Seal => Some(next.header.term),
            // Terms never fall. Behind a truncation there is no term before, and the next entry is the one witness.
            RecordType::Normal | RecordType::NoOp | RecordType::Membership => {
                Some(next.header.term).filter(|term| self.last.1.is_none_or(|last| last == *term))
            }
            RecordType::Truncate | RecordType::Copy => None,
        }
    }

    /// Whether a record with this crc at the end of the gap fits what comes behind.
    fn proves(&self, gap: &Gap, crc: u32) -> bool {
        match &gap.proof {
            Proof::PrevCrc(expected) => crc == *expected,
            Proof::Next { named, payload_crc } => [0, BATCH_START].into_iter().any(|flags| {
                let place = Place { salt: self.salt, offset: u64::from(named.offset) };
                let position = (named.index, named.term);
                let sum = (named.length, *payload_crc);
                let header = RecordHeader::sealed(place, (named.record_type, flags), position, sum, crc);
                header.crc == named.record_crc
            }),
        }
    }
}

/// What a record turned out to be that could not be read.
pub enum Examined {
    /// It can be read after all: its payload.
    Whole(Vec<u8>),
    Damaged(Piece),
    Unknown,
}

/// Looks at the record at `offset` of a segment in use, from the last record before it that the index file names.
pub fn examine(
    window: &mut Window,
    (sequence, salt): (u32, u32),
    index: &[u8],
    offset: u64,
    meta_generation: u64,
    (expected, found): (&str, &str),
) -> Result<Examined, LogError> {
    // Not from a membership on: its copy comes next, which can only be rebuilt by who has read the membership.
    let before = index_file::entries(index, salt)
        .take_while(|named| named.end() <= offset)
        .filter(|named| named.record_type != RecordType::Membership)
        .last();
    let mut chain = match before {
        Some(named) => {
            let entry = named.record_type.entry_kind().map(|_| (named.index, Some(named.term)));
            let last = entry.unwrap_or((named.index.saturating_sub(1), None));
            Chain::new(salt, named.end(), named.record_crc, last)
        }
        None => {
            let Some(block) = window.get_array::<SEGMENT_HEADER_BYTES>(0)? else {
                return Ok(Examined::Unknown);
            };
            let HeaderState::Valid(header) = SegmentHeader::decode(block) else {
                return Ok(Examined::Unknown);
            };
            let last = (header.next_index.saturating_sub(1), Some(header.prev_term));
            Chain::new(salt, SEGMENT_HEADER_BYTES as u64, header.prev_crc, last)
        }
    };
    let mut evidence = Evidence {
        sequence,
        named: None,
        meta_generation,
        seal_crc: None,
        expected: expected.to_string(),
        found: found.to_string(),
    };
    while chain.scanner.offset() <= offset {
        let at = chain.scanner.offset();
        if let Step::Record(record) = chain.scanner.next(window)? {
            if at == offset {
                return Ok(Examined::Whole(record.payload.to_vec()));
            }
            chain.note(&record);
            continue;
        }
        evidence.named = index_file::first_behind(index, salt, at);
        let Some(pieces) = chain.resolve(window, &evidence)? else { return Ok(Examined::Unknown) };
        for piece in pieces {
            if chain.scanner.offset() == offset {
                return Ok(Examined::Damaged(piece));
            }
            chain.pass(&piece);
        }
    }
    Ok(Examined::Unknown)
}

/// A record as it stands in a segment.
pub fn encode_record(header: &RecordHeader, payload: &[u8]) -> Vec<u8> {
    let mut bytes = header.encode().to_vec();
    bytes.extend_from_slice(payload);
    bytes.resize(record_bytes(header.length) as usize, 0);
    bytes
}

fn describe(record_type: RecordType, index: u64) -> String {
    match record_type {
        RecordType::Normal => format!("entry {index}, its payload whole"),
        RecordType::NoOp => format!("entry {index}, a no-op"),
        RecordType::Membership => format!("entry {index}, a membership"),
        RecordType::Truncate => format!("a truncation from entry {index}"),
        RecordType::Mark => "a mark".to_string(),
        RecordType::Seal => "a seal".to_string(),
        RecordType::Copy => format!("the copy of membership {index}"),
    }
}
