//! Damage to what is stored, as disks do it in silence.

use super::{Operation, SimDisk, State};

/// What was damaged, for the trace.
#[derive(Debug)]
pub struct Damage {
    pub file: String,
    pub offset: u64,
    pub bytes: u64,
}

impl SimDisk {
    /// The last byte of a file whose name will do becomes zero, and whoever reads it sees that. `None`: there is none.
    pub fn rot_end_where(&self, will_do: impl Fn(&str) -> bool) -> Option<Damage> {
        let state = &mut *self.state();
        let (file, content) = state.some_settled_file(will_do)?;
        let content = &mut state.contents[content];
        let offset = content.durable.len() as u64 - 1;
        content.damage(false, |bytes| bytes[offset as usize] = 0);
        Some(Damage { file, offset, bytes: 1 })
    }

    /// Flips a bit, or overwrites a sector, of some file that the log keeps. `None`: there is none yet.
    pub fn rot(&self) -> Option<Damage> {
        let state = &mut *self.state();
        let (file, content) = state.some_settled_file(|_| true)?;
        let content = &mut state.contents[content];
        let cached = state.random.chance(500);
        // Mostly where there is something: the last bytes of a prepared segment are zeros.
        let used = content.durable.iter().rposition(|byte| *byte != 0).map_or(1, |last| last as u64 + 1);
        let offset = state.random.below(used);
        if state.random.chance(700) {
            let bit = 1 << state.random.below(8);
            content.damage(cached, |bytes| bytes[offset as usize] ^= bit);
            return Some(Damage { file, offset, bytes: 1 });
        }
        let start = offset - offset % super::SECTOR_BYTES;
        let end = (start + super::SECTOR_BYTES).min(content.durable.len() as u64);
        let fill = state.random.below(256) as u8;
        content.damage(cached, |bytes| bytes[start as usize..end as usize].fill(fill));
        Some(Damage { file, offset: start, bytes: end - start })
    }

    /// A copy of some segment of the log as it is now, as a backup takes it. `None`: there is none yet.
    pub fn copy_segment(&self) -> Option<(String, Vec<u8>)> {
        let state = &mut *self.state();
        let is_segment = |name: &&String| name.starts_with("/log/") && name.ends_with(".log");
        let segments: Vec<String> = state.names.keys().filter(is_segment).cloned().collect();
        let name = segments.get(state.random.index(segments.len()))?.clone();
        let copy = state.contents[state.names[&name]].written();
        Some((name, copy))
    }

    /// Puts a file back as it was, beside files of today. False: there is no such file any more, or it has not changed.
    pub fn put_back(&self, name: &str, copy: Vec<u8>) -> bool {
        let state = &mut *self.state();
        let Some(content) = state.names.get(name).copied() else { return false };
        let content = &mut state.contents[content];
        if content.written() == copy {
            return false;
        }
        content.replace(copy);
        true
    }
}

impl State {
    /// One with something on the disk, and nothing on its way there.
    fn some_settled_file(&mut self, will_do: impl Fn(&str) -> bool) -> Option<(String, usize)> {
        let busy: Vec<usize> = self
            .journal
            .iter()
            .filter_map(|operation| match operation {
                Operation::Write { content, .. } => Some(*content),
                _ => None,
            })
            .collect();
        let files: Vec<(&String, usize)> = self
            .names
            .iter()
            .map(|(name, content)| (name, *content))
            .filter(|(name, content)| {
                will_do(name) && !self.contents[*content].durable.is_empty() && !busy.contains(content)
            })
            .collect();
        let (file, content) = files.get(self.random.index(files.len()))?;
        Some(((*file).clone(), *content))
    }
}
