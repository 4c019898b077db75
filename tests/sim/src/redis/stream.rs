//! A server's replication stream: its id, its offset, and the last bytes of it.

use redisraft::resp;

pub struct Stream {
    pub replid: String,
    /// Offset of the last byte.
    pub offset: u64,
    /// The last bytes, up to `offset`.
    backlog: Vec<u8>,
    backlog_limit_bytes: usize,
    /// Database of the last command; unknown after a change of role.
    db: Option<u32>,
    /// Words that are kept for the commands of a transaction.
    open: Option<Vec<(u32, Vec<Vec<u8>>)>>,
}

impl Stream {
    pub fn new(replid: String, offset: u64, backlog_limit_bytes: usize) -> Stream {
        Stream { replid, offset, backlog: Vec::new(), backlog_limit_bytes, db: None, open: None }
    }

    /// The history goes on under another id, as after a promotion; the next command says its database.
    pub fn rename(&mut self, replid: String) {
        self.replid = replid;
        self.db = None;
    }

    /// Another history begins.
    pub fn restart(&mut self, replid: String, offset: u64) {
        self.rename(replid);
        self.offset = offset;
        self.backlog.clear();
    }

    /// Bytes of a master that were run here: they are this server's stream, too.
    pub fn proxy(&mut self, bytes: &[u8]) {
        self.backlog.extend_from_slice(bytes);
        self.offset += bytes.len() as u64;
        if self.backlog.len() > 2 * self.backlog_limit_bytes {
            self.backlog.drain(..self.backlog.len() - self.backlog_limit_bytes);
        }
    }

    /// A command of this master; inside a transaction it waits for the end.
    pub fn propagate(&mut self, db: u32, words: &[&[u8]]) {
        match &mut self.open {
            Some(open) => open.push((db, words.iter().map(|word| word.to_vec()).collect())),
            None => self.put(db, words),
        }
    }

    pub fn begin_transaction(&mut self) {
        self.open = Some(Vec::new());
    }

    /// What was propagated since the beginning goes out as one transaction; nothing if it was nothing.
    pub fn end_transaction(&mut self) {
        let commands = self.open.take().expect("a transaction was begun");
        let Some((db, _)) = commands.first() else { return };
        self.put(*db, &[b"MULTI"]);
        for (db, words) in &commands {
            self.put(*db, &words.iter().map(Vec::as_slice).collect::<Vec<_>>());
        }
        let last = commands.last().expect("not empty").0;
        self.put(last, &[b"EXEC"]);
    }

    fn put(&mut self, db: u32, words: &[&[u8]]) {
        let mut bytes = Vec::new();
        if self.db != Some(db) {
            self.db = Some(db);
            resp::encode_command(&mut bytes, &[b"SELECT", db.to_string().as_bytes()]);
        }
        resp::encode_command(&mut bytes, words);
        self.proxy(&bytes);
    }

    /// A PING does not depend on a database.
    pub fn ping(&mut self) {
        self.proxy(b"*1\r\n$4\r\nPING\r\n");
    }

    /// The bytes from offset `first` on; `None` when they are not kept any more, or not written yet.
    pub fn since(&self, first: u64) -> Option<&[u8]> {
        let missing = (self.offset + 1).checked_sub(first)? as usize;
        let start = self.backlog.len().checked_sub(missing)?;
        Some(&self.backlog[start..])
    }
}
