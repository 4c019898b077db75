//! The log of one process, and when its disk is done (in memory for now).
use redisraft::log::{Entry, HardState, Identity, LogError, WriteRequest};

#[derive(Clone, Default)]
pub struct Image {
    pub identity: Option<Identity>,
    pub hard_state: HardState,
    pub entries: Vec<Entry>,
}
impl Image {
    fn apply(&mut self, request: WriteRequest) {
        if let Some(h) = request.hard_state { self.hard_state = h; }
        if let Some(from) = request.truncate_from { self.entries.truncate(from as usize - 1); }
        for e in request.entries { assert_eq!(e.index, self.entries.len() as u64 + 1); self.entries.push(e); }
    }
}
pub struct Store { pub image: Image, live: Image, pending: Vec<WriteRequest>, busy: usize, durable: u64 }
impl Store {
    pub fn open(image: Image) -> Store { Store { live: image.clone(), image, pending: vec![], busy: 0, durable: 0 } }
    pub fn submit(&mut self, request: WriteRequest) { self.live.apply(request.clone()); self.pending.push(request); }
    pub fn read(&self, index: u64) -> Result<Entry, LogError> { Ok(self.live.entries[index as usize - 1].clone()) }
    pub fn identity(&self) -> &Identity { self.live.identity.as_ref().unwrap() }
    pub fn hard_state(&self) -> HardState { self.live.hard_state }
    pub fn last_index(&self) -> u64 { self.live.entries.len() as u64 }
    pub fn first_index(&self) -> u64 { 1 }
    /// True: a sync began, tell `done` later.
    pub fn start_writing(&mut self) -> bool { if self.busy > 0 || self.pending.is_empty() { return false; } self.busy = self.pending.len(); true }
    pub fn done(&mut self) { for r in self.pending.drain(..self.busy) { self.durable = r.id; self.image.apply(r); } self.busy = 0; }
    pub fn durable(&mut self) -> Result<u64, LogError> { Ok(self.durable) }
    pub fn crash(mut self, random: &mut crate::random::Random) -> Image { let n = random.index(self.pending.len() + 1); for r in self.pending.drain(..n) { self.image.apply(r); } self.image }
}
