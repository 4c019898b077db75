//! Logs to look into, and the binary that does.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::mpsc::{channel, Receiver};

use bytes::Bytes;
use redisraft::log::disk::SystemDisk;
use redisraft::log::{Entry, HardState, Identity, Kind, Log, Options, Recovery, WriteRequest};
use redisraft::resp::encode_command;
use redisraft::snapshot::{Done, Draft, Job, Store};
use serde_json::Value;

pub const MEMBER: &[u8] =
    b"*5\r\n$6\r\nMEMBER\r\n$1\r\n5\r\n$5\r\nvoter\r\n$6\r\nhost:1\r\n$10\r\nhost:10001\r\n";
pub const SET: &[u8] = b"*3\r\n$3\r\nSET\r\n$3\r\nkey\r\n$4\r\n\x00\"\r\n\r\n";
/// Never to be seen in any output.
pub const SECRET: [u8; 32] = *b"the secret must never be shown!!";

pub fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_raftlog-tool"));
    command.args(arguments).env_remove("NO_COLOR");
    command
}

pub fn tool(arguments: &[&str]) -> Output {
    let output = command(arguments).output().expect("run");
    for text in [&output.stdout, &output.stderr] {
        assert!(!String::from_utf8_lossy(text).contains("the secret"), "{output:?}");
    }
    output
}

/// Stdout of a run that ended with `code`.
pub fn run(code: i32, arguments: &[&str]) -> String {
    let output = tool(arguments);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {output:?}");
    text(&output.stdout)
}

/// Stderr of a run that ended with `code`.
pub fn complaint(code: i32, arguments: &[&str]) -> String {
    let output = tool(arguments);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {output:?}");
    text(&output.stderr)
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

pub fn lines(text: &str) -> Vec<&str> {
    text.lines().collect()
}

pub fn json_lines(text: &str) -> Vec<Value> {
    let objects: Vec<Value> =
        text.lines().map(|line| serde_json::from_str(line).expect("one object per line")).collect();
    assert!(objects.iter().all(|object| object["schema"] == 1));
    objects
}

pub fn json(text: &str) -> Value {
    let object: Value = serde_json::from_str(text).expect("one JSON document");
    assert_eq!(object["schema"], 1);
    object
}

/// Commands as an entry carries them; words are separated by blanks.
pub fn effects(commands: &[&str]) -> Vec<u8> {
    let mut out = Vec::new();
    for command in commands {
        encode_command(&mut out, &command.split(' ').map(str::as_bytes).collect::<Vec<_>>());
    }
    out
}

/// A directory with a log in it.
pub struct Fixture {
    _home: tempfile::TempDir,
    pub path: PathBuf,
    pub name: String,
}

impl Fixture {
    /// The directory alone.
    pub fn empty() -> Fixture {
        let home = tempfile::tempdir().expect("tempdir");
        let path = home.path().join("raftlog");
        let name = path.to_str().expect("UTF-8").to_string();
        Fixture { _home: home, path, name }
    }

    /// A log with these normal entries in term 1, closed again.
    pub fn with_entries(payloads: &[Vec<u8>]) -> Fixture {
        let fixture = Fixture::empty();
        let mut writer = fixture.create();
        for payload in payloads {
            writer.append(1, Kind::Normal, payload);
        }
        fixture
    }

    /// Entries 1..=3, of which 3 was truncated and replaced.
    pub fn standard() -> Fixture {
        let fixture = Fixture::empty();
        drop(fixture.create().standard());
        fixture
    }

    pub fn create(&self) -> Writer {
        self.create_as(5, 8192)
    }

    pub fn create_as(&self, node_id: u64, segment_bytes: u64) -> Writer {
        let (tell, news) = channel();
        let identity = Identity { cluster_id: "c".repeat(32), node_id, secret: SECRET };
        let notify = Box::new(move || {
            let _ = tell.send(());
        });
        let options = Options { segment_bytes, ..Options::default() };
        let log = Log::create(&self.path, identity, options, notify).expect("create");
        Writer { log, news, request: 0, recovery: None }
    }

    /// Opens the log that is there.
    pub fn open(&self) -> Writer {
        let (tell, news) = channel();
        let notify = Box::new(move || {
            let _ = tell.send(());
        });
        let options = Options { segment_bytes: 8192, ..Options::default() };
        let (log, recovery) = Log::open(&self.path, options, notify).expect("open");
        Writer { log, news, request: 0, recovery: Some(recovery) }
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The first segment.
    pub fn segment(&self) -> PathBuf {
        self.file("0000000001.log")
    }

    /// Place of the record of an entry: file name and offset.
    pub fn place(&self, index: u64) -> (String, usize) {
        let index = index.to_string();
        let arguments = ["dump", "--format", "jsonl", "--from", &index, "--to", &index, &self.name];
        let object = &json_lines(&text(&tool(&arguments).stdout))[0];
        let offset = object["offset"].as_u64().expect("an offset") as usize;
        (object["file"].as_str().expect("a file").to_string(), offset)
    }

    /// Makes several records that stand one behind the other unreadable, and all that says what they were.
    pub fn wreck(&self, name: &str, offset: usize) {
        std::fs::remove_file(self.file(&name.replace(".log", ".idx"))).expect("remove");
        change(&self.file(name), |bytes| bytes[offset..offset + 150].fill(0xa5));
    }

    /// Flips bits of the first place where the first segment holds these bytes.
    pub fn flip_payload(&self, payload: &[u8]) {
        change(&self.segment(), |bytes| {
            let at = bytes.windows(payload.len()).position(|window| window == payload).expect("the payload");
            bytes[at] ^= 0xff;
        });
    }

    /// Flips bits of one byte.
    pub fn flip(&self, name: &str, offset: usize) {
        change(&self.file(name), |bytes| bytes[offset] ^= 0xff);
    }

    /// Panics unless the files are these, naming those that are not.
    pub fn assert_content(&self, expected: &[(PathBuf, Vec<u8>)], what: &str) {
        let found = self.content();
        let only_in = |these: &[(PathBuf, Vec<u8>)], those: &[(PathBuf, Vec<u8>)]| -> Vec<PathBuf> {
            these.iter().filter(|file| !those.contains(file)).map(|file| file.0.clone()).collect()
        };
        let changed = (only_in(&found, expected), only_in(expected, &found));
        assert!(changed.0.is_empty() && changed.1.is_empty(), "{what}: {changed:?}");
    }

    /// Every file with its content.
    pub fn content(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let mut files = Vec::new();
        let mut open = vec![self.path.clone()];
        while let Some(directory) = open.pop() {
            for item in std::fs::read_dir(directory).expect("list") {
                let path = item.expect("an entry").path();
                if path.is_dir() {
                    open.push(path);
                } else {
                    files.push((path.clone(), std::fs::read(path).expect("read")));
                }
            }
        }
        files.sort();
        files
    }
}

/// Changes a file behind the back of everyone.
pub fn change(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = std::fs::read(path).expect("read");
    change(&mut bytes);
    std::fs::write(path, bytes).expect("write");
}

/// A log that is open for writing.
pub struct Writer {
    pub log: Log,
    news: Receiver<()>,
    /// What was found, if the log was there before.
    pub recovery: Option<Recovery>,
    request: u64,
}

impl Writer {
    /// Writes and waits until it is durable.
    pub fn write(&mut self, request: WriteRequest) {
        self.request += 1;
        self.log.submit(WriteRequest { id: self.request, ..request });
        while self.log.durable().expect("durable") < self.request {
            self.news.recv().expect("news");
        }
    }

    /// Appends one entry.
    pub fn append(&mut self, term: u64, kind: Kind, payload: &[u8]) {
        self.append_all(term, kind, &[payload]);
    }

    /// Appends entries of one batch.
    pub fn append_all(&mut self, term: u64, kind: Kind, payloads: &[&[u8]]) {
        let next = self.log.last_index() + 1;
        let entry =
            |(index, payload): (u64, &&[u8])| Entry::new(index, term, kind, Bytes::copy_from_slice(payload));
        let entries = (next..).zip(payloads).map(entry).collect();
        self.write(WriteRequest { entries, ..WriteRequest::default() });
    }

    /// Drops `from` and all after it, and appends one entry in its place.
    pub fn replace(&mut self, from: u64, term: u64, payload: &[u8]) {
        let entries = vec![Entry::new(from, term, Kind::Normal, Bytes::copy_from_slice(payload))];
        self.write(WriteRequest { truncate_from: Some(from), entries, ..WriteRequest::default() });
    }

    /// Keeps a snapshot of entry `index`, and purges the log as far as it can be.
    pub fn compact(&mut self, directory: &Path, index: u64) {
        let term = self.log.info(index).map_or(self.log.base().1, |info| info.term);
        let source = directory.join("server.rdb");
        let no_checksum = "\0".repeat(8);
        std::fs::write(&source, format!("REDIS0010 the dataset of entry {index}{no_checksum}"))
            .expect("write");
        let disk = std::sync::Arc::new(SystemDisk);
        let (mut store, _) = Store::open(disk, directory, &"c".repeat(32)).expect("open");
        let draft = Draft { index, term, members: Bytes::from_static(MEMBER), used_ids: vec![5, 7] };
        match store.run(Job::Keep { source, draft }) {
            Some(Done::Kept { result: Ok(_) }) => self.log.purge(index),
            other => panic!("{other:?}"),
        }
    }

    pub fn standard(mut self) -> Writer {
        let entries = vec![
            Entry::new(1, 2, Kind::NoOp, Bytes::new()),
            Entry::new(2, 2, Kind::Membership, Bytes::from_static(MEMBER)),
            Entry::new(3, 2, Kind::Normal, Bytes::from_static(b"*1\r\n$4\r\nOOPS\r\n")),
        ];
        let hard_state = Some(HardState { term: 2, vote: Some(5) });
        self.write(WriteRequest { hard_state, entries, ..WriteRequest::default() });
        self.replace(3, 3, &[SET, SET, b"junk"].concat());
        self
    }
}
