//! Writes that get lost, or land elsewhere, although the sync says otherwise.
//!
//! A lost write is found by what was written behind it. The last write of a log, lost with the power of several
//! machines before anything came behind it, is what nobody could find: that is a disk that lies about its sync, and
//! is not promised to be survived. So a lie is final only when a later write to the log is durable.

use super::content::write_into;
use super::State;

struct Lie {
    content: usize,
    offset: u64,
    bytes: Vec<u8>,
    /// The file with the next write to the log, which is not synced yet.
    followed_in: Option<usize>,
}

#[derive(Default)]
pub(super) struct Lies {
    /// Of a thousand writes, so many are lies.
    pub per_mille: u64,
    /// Those that are not final.
    open: Vec<Lie>,
}

impl Lies {
    /// A true write to `content`. `log`: what it holds stands in the chain of the log's records.
    pub fn wrote(&mut self, content: usize, log: bool) {
        for lie in self.open.iter_mut().filter(|lie| log || lie.content == content) {
            lie.followed_in.get_or_insert(content);
        }
    }

    pub fn synced(&mut self, content: usize) {
        self.open.retain(|lie| lie.followed_in != Some(content));
    }
}

impl State {
    /// Whether this file is a segment of the log.
    pub(super) fn is_log(&self, content: usize) -> bool {
        self.names.iter().any(|(name, of)| *of == content && name.ends_with(".log"))
    }

    /// What the disk does with a write.
    pub(super) fn write(&mut self, content: usize, offset: u64, bytes: Vec<u8>) {
        if !self.random.chance(self.lies.per_mille) {
            if !self.lies.open.is_empty() {
                let log = self.is_log(content);
                self.lies.wrote(content, log);
            }
            return self.contents[content].write_pending(offset, bytes);
        }
        if self.random.chance(300) {
            self.contents[content].write_elsewhere(offset, bytes.clone(), &mut self.random);
        }
        self.lies.open.push(Lie { content, offset, bytes, followed_in: None });
    }

    /// The power goes: lies that nobody could find come true.
    pub(super) fn admit_lies(&mut self) {
        for lie in std::mem::take(&mut self.lies.open) {
            // What was written over it and not synced comes later.
            write_into(&mut self.contents[lie.content].durable, lie.offset, &lie.bytes);
        }
    }
}
