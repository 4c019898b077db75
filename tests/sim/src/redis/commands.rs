//! What clients ask for, and how a master executes it.
//!
//! Clients work on *bundles*: a register and a counter in one database, and a list in another, that transactions read
//! and write together.

use super::dataset::{Dataset, LIST_DB, TEXT_DB};
use super::stream::Stream;

/// One request: a command, or a whole transaction, sent at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Tells a client's requests apart.
    pub number: u64,
    pub bundle: u32,
    pub step: Step,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    Get,
    Set {
        value: u64,
    },
    SetExpiring {
        value: u64,
        ttl_ms: u64,
    },
    Delete,
    Increment,
    Append {
        value: u64,
    },
    /// `MULTI`, read all three, `EXEC`; at a server that does not lead, a script that reads them.
    ReadAll,
    /// `MULTI`, set, increment, append, `EXEC`.
    WriteAll {
        value: u64,
    },
    /// `WATCH` the register and read it.
    Watch,
    /// `MULTI`, set the register, `EXEC`: a compare-and-set with what `Watch` saw.
    Exec {
        value: u64,
    },
}

impl Step {
    pub fn may_write(&self) -> bool {
        !matches!(self, Step::Get | Step::ReadAll | Step::Watch)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    Ok,
    Number(u64),
    Register(Option<u64>),
    All {
        register: Option<u64>,
        counter: u64,
        list: Vec<u64>,
    },
    /// `EXEC` found the watched key changed.
    Aborted,
    Moved {
        address: String,
    },
    /// Certainly not executed.
    NoLeader,
}

/// The register of a connection's `WATCH`, and the version that it had.
pub type Watched = Option<(u32, u64)>;

fn key(kind: char, bundle: u32) -> Vec<u8> {
    format!("{kind}:{bundle}").into_bytes()
}

/// What a step that only reads is answered.
pub fn read(dataset: &Dataset, bundle: u32, step: &Step) -> Option<Reply> {
    let register = || dataset.text(TEXT_DB, &key('r', bundle));
    match step {
        Step::Get | Step::Watch => Some(Reply::Register(register())),
        Step::ReadAll => Some(Reply::All {
            register: register(),
            counter: dataset.text(TEXT_DB, &key('c', bundle)).unwrap_or(0),
            list: dataset.list(LIST_DB, &key('l', bundle)),
        }),
        _ => None,
    }
}

/// A master at work: its dataset, and the stream that its effects go to.
pub struct Master<'a> {
    pub dataset: &'a mut Dataset,
    pub stream: &'a mut Stream,
    pub wall_ms: u64,
}

impl Master<'_> {
    /// Deletes what is past its time. True: something was.
    pub fn expire(&mut self) -> bool {
        let expired = self.dataset.expired(self.wall_ms);
        for (db, key) in &expired {
            self.write(*db, &[b"DEL", key]);
        }
        !expired.is_empty()
    }

    fn write(&mut self, db: u32, words: &[&[u8]]) -> u64 {
        let reply = self.dataset.apply(db, words);
        if words[0] != b"DEL" || reply > 0 {
            self.stream.propagate(db, words);
        }
        reply
    }

    pub fn execute(&mut self, bundle: u32, step: &Step, watched: &mut Watched) -> Reply {
        let (register, counter, list) = (key('r', bundle), key('c', bundle), key('l', bundle));
        if *step == Step::Watch {
            *watched = Some((bundle, self.dataset.version(TEXT_DB, &register)));
        }
        match step {
            Step::Get | Step::Watch | Step::ReadAll => {
                read(self.dataset, bundle, step).expect("a step that only reads")
            }
            Step::Set { value } => self.set(&register, *value, None),
            Step::SetExpiring { value, ttl_ms } => self.set(&register, *value, Some(self.wall_ms + ttl_ms)),
            Step::Delete => Reply::Number(self.write(TEXT_DB, &[b"DEL", &register])),
            Step::Increment => Reply::Number(self.write(TEXT_DB, &[b"INCR", &counter])),
            Step::Append { value } => {
                Reply::Number(self.write(LIST_DB, &[b"RPUSH", &list, value.to_string().as_bytes()]))
            }
            Step::WriteAll { value } => {
                self.stream.begin_transaction();
                self.set(&register, *value, None);
                let count = self.write(TEXT_DB, &[b"INCR", &counter]);
                self.write(LIST_DB, &[b"RPUSH", &list, value.to_string().as_bytes()]);
                self.stream.end_transaction();
                Reply::Number(count)
            }
            Step::Exec { value } => {
                let version = self.dataset.version(TEXT_DB, &register);
                if watched.take() != Some((bundle, version)) {
                    return Reply::Aborted;
                }
                self.stream.begin_transaction();
                self.set(&register, *value, None);
                self.stream.end_transaction();
                Reply::Ok
            }
        }
    }

    fn set(&mut self, register: &[u8], value: u64, expires_at_ms: Option<u64>) -> Reply {
        let value = value.to_string();
        match expires_at_ms.map(|at| at.to_string()) {
            None => self.write(TEXT_DB, &[b"SET", register, value.as_bytes()]),
            Some(at) => self.write(TEXT_DB, &[b"SET", register, value.as_bytes(), b"PXAT", at.as_bytes()]),
        };
        Reply::Ok
    }
}
