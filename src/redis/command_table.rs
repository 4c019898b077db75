//! What a command is to the module, by the server's own command table (`COMMAND`), not by a list of our own.
//!
//! The rule: `write` in the flags makes a write, `readonly` a read, both with `blocking` a blocking command, anything
//! else is local: it touches the connection or this server, not the dataset. What the flags do not say is listed in
//! [`exception`], with the reason. Classifying is done for every command of every client: it takes one hash lookup
//! (two for commands with subcommands) and no allocation.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// A reply of the server, in neutral form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tree {
    Array(Vec<Tree>),
    Text(String),
    Integer(i64),
    Nil,
}

/// What is to be done with a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// The server itself will refuse it: unknown, unknown subcommand, or wrong number of arguments. Leave it alone.
    Unknown,
    /// Not about the dataset: connection, pub/sub, administration of this server. Leave it alone.
    Local,
    Read,
    Write,
    /// May wait for a key when [`blocks`] says so; else a write or a read, as `write` says.
    Blocking {
        write: bool,
    },
    /// `MULTI` and `WATCH`: redirected on a node that does not lead, native on a leader.
    Transaction,
    /// Would change who replicates from whom: refused.
    Replication,
    /// `REPLCONF`: refused, except on the module's own capture link.
    ReplConf,
    /// `CLUSTER`: answered by the module.
    Cluster,
    /// `READONLY`, `READWRITE`, `ASKING`: a property of the connection, kept by the module.
    ReadonlyMode,
    Debug,
    /// `WAIT`, `WAITAOF`: answered by the module. Calling WAIT from a module crashes the server.
    Wait,
    Shutdown,
}

/// Why a `COMMAND` reply cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TableError {
    #[error("the reply of COMMAND is not an array of commands")]
    NotATable,
    #[error("entry {position} in the reply of COMMAND is not [name, arity, [flag ..], ..]")]
    InvalidEntry { position: usize },
    #[error(
        "the reply of COMMAND does not list {name}: the module needs it, do not remove it by rename-command"
    )]
    Missing { name: &'static str },
}

/// Longest name of a command that is looked up; longer ones are unknown.
const MAX_NAME_BYTES: usize = 64;

/// Commands that the module itself calls or sends to its server: without them it cannot work.
const NEEDED: &[&str] =
    &["bgsave", "client", "config", "exec", "info", "multi", "psync", "replconf", "replicaof"];

struct Entry {
    /// As in `COMMAND`: exact when positive, the least when negative; the name counts.
    arity: i64,
    class: Class,
    /// By the word after the command, in lower case. `None` for a command that takes none.
    subcommands: Option<Names>,
}

type Names = HashMap<Box<[u8]>, Entry, BuildHasherDefault<NameHasher>>;

/// FNV-1a. Clients choose what is looked up but not what is stored, so collisions cannot be piled up.
struct NameHasher(u64);

impl Default for NameHasher {
    fn default() -> Self {
        NameHasher(0xcbf2_9ce4_8422_2325)
    }
}

impl Hasher for NameHasher {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// The class of every command that the server knows.
pub struct CommandTable {
    entries: Names,
}

impl CommandTable {
    /// Reads the reply of `COMMAND`. `ignored` holds the names of data commands that are to run locally, separated by
    /// commas or blanks (`name` or `container|subcommand`); it has no effect on anything but reads and writes.
    pub fn parse(reply: &Tree, ignored: &str) -> Result<Self, TableError> {
        let Tree::Array(commands) = reply else { return Err(TableError::NotATable) };
        let ignored: Vec<String> = ignored
            .split(|character: char| character == ',' || character.is_whitespace())
            .filter(|name| !name.is_empty())
            .map(str::to_ascii_lowercase)
            .collect();
        let mut entries = Names::default();
        for (position, command) in commands.iter().enumerate() {
            let (name, entry) =
                parse_entry(command, &ignored).ok_or(TableError::InvalidEntry { position })?;
            entries.insert(name.into_bytes().into(), entry);
        }
        for name in NEEDED {
            if !entries.contains_key(name.as_bytes()) {
                return Err(TableError::Missing { name });
            }
        }
        Ok(CommandTable { entries })
    }

    /// The class of a command by its first two words and its number of words, the name included.
    pub fn classify(&self, name: &[u8], second: Option<&[u8]>, argc: usize) -> Class {
        let Some(mut entry) = lookup(&self.entries, name) else { return Class::Unknown };
        if let (Some(subcommands), Some(second)) = (&entry.subcommands, second) {
            match lookup(subcommands, second) {
                Some(found) => entry = found,
                None => return Class::Unknown,
            }
        }
        let enough = match usize::try_from(entry.arity) {
            Ok(exact) => argc == exact,
            Err(_) => argc as u64 >= entry.arity.unsigned_abs(),
        };
        if enough {
            entry.class
        } else {
            Class::Unknown
        }
    }

    /// The names of all commands, without subcommands, sorted.
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<String> =
            self.entries.keys().map(|name| String::from_utf8_lossy(name).into_owned()).collect();
        names.sort();
        names
    }
}

/// The commands that `rename-command` has moved: `names` whose place in the reply of `COMMAND INFO <names ..>` is nil.
/// `COMMAND` lists a renamed command under its old name, so its new name would pass as unknown and its effects would
/// not be waited for: a server that has any cannot be served. (A command that was removed is not listed at all.)
pub fn renamed(names: &[String], info: &Tree) -> Result<Vec<String>, TableError> {
    match info {
        Tree::Array(infos) if infos.len() == names.len() => {
            let moved = names.iter().zip(infos).filter(|(_, info)| **info == Tree::Nil);
            Ok(moved.map(|(name, _)| name.clone()).collect())
        }
        _ => Err(TableError::NotATable),
    }
}

/// Whether a command of class [`Class::Blocking`] may wait. `XREAD` and `XREADGROUP` do only with `BLOCK`, which
/// stands among the options before `STREAMS`; the others always may.
pub fn blocks<A: AsRef<[u8]>>(arguments: &[A]) -> bool {
    let Some(name) = arguments.first() else { return false };
    let name = name.as_ref();
    if !name.eq_ignore_ascii_case(b"xread") && !name.eq_ignore_ascii_case(b"xreadgroup") {
        return true;
    }
    let mut position = 1;
    while let Some(option) = arguments.get(position) {
        let is = |word: &str| option.as_ref().eq_ignore_ascii_case(word.as_bytes());
        if is("block") {
            return position + 1 < arguments.len();
        }
        position += match () {
            () if is("count") => 2,
            () if is("group") => 3,
            () if is("noack") => 1,
            // Streams, or what the server will refuse.
            () => return false,
        };
    }
    false
}

fn lookup<'a>(names: &'a Names, name: &[u8]) -> Option<&'a Entry> {
    let mut buffer = [0u8; MAX_NAME_BYTES];
    let lower = buffer.get_mut(..name.len())?;
    lower.copy_from_slice(name);
    lower.make_ascii_lowercase();
    names.get(&*lower)
}

/// One element of the reply of `COMMAND`: name, arity, flags, 3 x keys, ACL categories, tips, key specifications,
/// subcommands (in the same form, their names as `container|subcommand`).
fn parse_entry(command: &Tree, ignored: &[String]) -> Option<(String, Entry)> {
    let Tree::Array(parts) = command else { return None };
    let [Tree::Text(name), Tree::Integer(arity), Tree::Array(flags), ..] = parts.as_slice() else {
        return None;
    };
    let name = name.to_ascii_lowercase();
    if *arity == 0 {
        return None;
    }
    let mut subcommands = Names::default();
    if let Some(Tree::Array(listed)) = parts.get(9) {
        for subcommand in listed {
            let (full_name, entry) = parse_entry(subcommand, ignored)?;
            let (_, last_word) = full_name.rsplit_once('|')?;
            subcommands.insert(last_word.as_bytes().into(), entry);
        }
    }
    let has_flag = |flag: &str| flags.iter().any(|found| matches!(found, Tree::Text(text) if text == flag));
    let mut class = exception(&name).unwrap_or_else(|| class_by_flags(has_flag));
    let is_data = matches!(class, Class::Read | Class::Write | Class::Blocking { .. });
    if is_data && is_ignored(&name, ignored) {
        class = Class::Local;
    }
    let subcommands = (!subcommands.is_empty()).then_some(subcommands);
    Some((name, Entry { arity: *arity, class, subcommands }))
}

fn is_ignored(name: &str, ignored: &[String]) -> bool {
    let container = name.split('|').next().unwrap_or(name);
    ignored.iter().any(|ignored| ignored == name || ignored == container)
}

fn class_by_flags(has_flag: impl Fn(&str) -> bool) -> Class {
    // 7.0 keeps "may_replicate" to itself; where it is listed, it is as good as "write".
    let write = has_flag("write") || has_flag("may_replicate");
    let read = has_flag("readonly");
    if has_flag("blocking") && (write || read) {
        Class::Blocking { write }
    } else if write {
        Class::Write
    } else if read {
        Class::Read
    } else {
        Class::Local
    }
}

/// The commands whose class the flags do not tell. Subcommands are named in full.
fn exception(name: &str) -> Option<Class> {
    // They carry no flag, but tell of what FUNCTION LOAD wrote.
    if matches!(name, "function|list" | "function|dump") {
        return Some(Class::Read);
    }
    let container = name.split('|').next().unwrap_or(name);
    Some(match container {
        "multi" | "watch" => Class::Transaction,
        "replicaof" | "slaveof" | "psync" | "sync" | "failover" => Class::Replication,
        "replconf" => Class::ReplConf,
        "cluster" => Class::Cluster,
        "readonly" | "readwrite" | "asking" => Class::ReadonlyMode,
        "debug" => Class::Debug,
        "wait" | "waitaof" => Class::Wait,
        "shutdown" => Class::Shutdown,
        // They carry no flag, since it depends on the script; the `_ro` forms are flagged as reads.
        "eval" | "evalsha" | "fcall" => Class::Write,
        // Flagged as a read, but it writes the cached cardinality into the key and replicates that.
        "pfcount" => Class::Write,
        // Replicated, but messages are not part of the dataset: delivered at once, as in Redis.
        "publish" | "spublish" => Class::Local,
        // Only "may replicate" on some servers; the script cache is each node's own, as in Redis.
        "script" => Class::Local,
        // Flagged as a read, but it reads no key: the version, drawn.
        "lolwut" => Class::Local,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table of redis-server 7.0.15, one command a line: name, arity, flags joined by commas (`-` = none);
    /// subcommands follow their container.
    const FIXTURE: &str = include_str!("../../tests/fixtures/command-7.0.15.txt");

    fn tree_of(fixture: &str) -> Tree {
        let mut commands: Vec<Vec<Tree>> = Vec::new();
        for line in fixture.lines().filter(|line| !line.starts_with('#')) {
            let words: Vec<&str> = line.split(' ').collect();
            let [name, arity, flags] = words[..] else { panic!("{line}") };
            let flags = flags.split(',').filter(|flag| *flag != "-");
            let mut entry = vec![
                Tree::Text(name.to_owned()),
                Tree::Integer(arity.parse().unwrap()),
                Tree::Array(flags.map(|flag| Tree::Text(flag.to_owned())).collect()),
            ];
            entry.extend([Tree::Integer(0), Tree::Integer(0), Tree::Integer(0)]);
            entry.extend((0..4).map(|_| Tree::Array(Vec::new())));
            if name.contains('|') {
                let Some(Tree::Array(subcommands)) = commands.last_mut().and_then(|last| last.last_mut())
                else {
                    panic!("{line}")
                };
                subcommands.push(Tree::Array(entry));
            } else {
                commands.push(entry);
            }
        }
        Tree::Array(commands.into_iter().map(Tree::Array).collect())
    }

    fn table() -> CommandTable {
        CommandTable::parse(&tree_of(FIXTURE), "").unwrap()
    }

    fn classify(table: &CommandTable, line: &str) -> Class {
        let words: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        table.classify(words[0], words.get(1).copied(), words.len())
    }

    #[test]
    fn commands_of_each_class() {
        let table = table();
        let blocking_write = Class::Blocking { write: true };
        for (class, lines) in [
            (Class::Read, "get k;MGET a b;keys *;scan 0;dbsize;randomkey;ttl k;object encoding k;memory usage k"),
            (Class::Read, "eval_ro s 0;evalsha_ro s 0;fcall_ro f 0;sort_ro k;xinfo stream k;touch k;dump k;lcs a b"),
            (Class::Write, "set k v;SeT k v;eval s 0;evalsha s 0;fcall f 0;pfcount k;sort k;swapdb 0 1;flushall"),
            (Class::Write, "move k 1;migrate h 1 k 0 1;function load c;function delete l;function flush"),
            (Class::Write, "xgroup create k g 0;getex k;spop k;restore k 0 v;georadius k 1 1 1 m;pfdebug a k"),
            (blocking_write, "blpop k 0;brpoplpush a b 0;blmove a b left right 0;bzmpop 0 1 k min"),
            (blocking_write, "xreadgroup group g c streams k >"),
            (Class::Blocking { write: false }, "xread streams k 0"),
            (Class::Local, "ping;echo x;select 1;hello;auth p;client id;config get *;acl list;info;command;command count"),
            (Class::Local, "publish c m;spublish c m;subscribe c;pubsub numpat;monitor;reset;quit;time;role;lolwut"),
            (Class::Read, "function list;function dump"),
            (Class::Local, "function stats;script load s;script flush;slowlog get"),
            (Class::Local, "exec;discard;unwatch;memory stats;save;bgsave;lastsave;latency latest;module list"),
            (Class::Transaction, "multi;watch k"),
            (Class::Replication, "replicaof no one;slaveof h 1;psync ? -1;sync;failover"),
            (Class::ReplConf, "replconf capa psync2"),
            (Class::Cluster, "cluster slots;CLUSTER Nodes;cluster meet h 1"),
            (Class::ReadonlyMode, "readonly;readwrite;asking"),
            (Class::Debug, "debug sleep 0"),
            (Class::Wait, "wait 1 0"),
            (Class::Shutdown, "shutdown;shutdown nosave"),
            (Class::Unknown, "nonsense;get;get a b;set k;cluster nonsense;cluster;config;object;debug;wait 1;multi x"),
            (Class::Unknown, "object nonsense k;object encoding;function;xgroup nonsense k;client|id;raft;cluster|slots"),
        ] {
            for line in lines.split(';') {
                assert_eq!(classify(&table, line), class, "{line}");
            }
        }
        assert_eq!(table.classify(&[b'x'; 1 << 20], None, 1), Class::Unknown);
        assert_eq!(table.classify(b"config", Some(&[b'x'; 1 << 20]), 2), Class::Unknown);
        assert_eq!(table.classify(b"", None, 1), Class::Unknown);
    }

    /// All classes as reviewed: a change of the rules shows here. Rewritten by `UPDATE=1 cargo test`.
    #[test]
    fn the_class_of_every_command_is_as_reviewed() {
        let table = table();
        let mut lines = Vec::new();
        for (name, entry) in &table.entries {
            let name = String::from_utf8_lossy(name);
            match &entry.subcommands {
                None => lines.push(format!("{name} {:?}", entry.class)),
                Some(subcommands) => lines.extend(subcommands.iter().map(|(last_word, entry)| {
                    format!("{name}|{} {:?}", String::from_utf8_lossy(last_word), entry.class)
                })),
            }
        }
        lines.sort();
        let found = lines.join("\n") + "\n";
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/command-classes-7.0.15.txt");
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(path, &found).unwrap();
        }
        assert_eq!(found, std::fs::read_to_string(path).unwrap());
    }

    #[test]
    fn no_command_that_writes_is_left_alone() {
        for line in FIXTURE.lines() {
            let words: Vec<&str> = line.split(' ').collect();
            if line.starts_with('#') || !words[2].split(',').any(|flag| flag == "write") {
                continue;
            }
            let arity: i64 = words[1].parse().unwrap();
            let (name, second) = match words[0].split_once('|') {
                Some((name, second)) => (name, Some(second.as_bytes())),
                None => (words[0], Some(&b"x"[..])),
            };
            let class = table().classify(name.as_bytes(), second, arity.unsigned_abs() as usize);
            assert!(matches!(class, Class::Write | Class::Blocking { write: true }), "{line}: {class:?}");
        }
    }

    #[test]
    fn a_listed_may_replicate_flag_is_a_write() {
        let module = Tree::Array(vec![
            Tree::Text("graph.query".to_owned()),
            Tree::Integer(-2),
            Tree::Array(vec![Tree::Text("module".to_owned()), Tree::Text("may_replicate".to_owned())]),
        ]);
        let Tree::Array(mut commands) = tree_of(FIXTURE) else { unreachable!() };
        commands.push(module);
        let table = CommandTable::parse(&Tree::Array(commands), "").unwrap();
        assert_eq!(classify(&table, "graph.query q"), Class::Write);
        assert_eq!(classify(&table, "publish c m"), Class::Local);
    }

    #[test]
    fn ignored_commands_are_local_but_refused_ones_stay_refused() {
        let table =
            CommandTable::parse(&tree_of(FIXTURE), "GET, object|freq blpop,replicaof xgroup").unwrap();
        for line in ["get k", "object freq k", "blpop k 0", "xgroup destroy k g"] {
            assert_eq!(classify(&table, line), Class::Local, "{line}");
        }
        assert_eq!(classify(&table, "object encoding k"), Class::Read);
        assert_eq!(classify(&table, "replicaof no one"), Class::Replication);
        assert_eq!(classify(&table, "get"), Class::Unknown);
    }

    #[test]
    fn xread_blocks_only_with_block() {
        for (line, expected) in [
            ("blpop k 0", true),
            ("XREAD BLOCK 0 STREAMS k $", true),
            ("xread count 1 Block 0 streams k $", true),
            ("xread streams block 0", false),
            ("xread count block streams k 0", false),
            ("xread count 2 streams k 0", false),
            ("xread block", false),
            ("xread nonsense block 0 streams k 0", false),
            ("xreadgroup group block c streams k >", false),
            ("xreadgroup group g c noack block 5 streams k >", true),
            ("xread", false),
        ] {
            let words: Vec<&str> = line.split(' ').collect();
            assert_eq!(blocks(&words), expected, "{line}");
        }
        assert!(!blocks::<&[u8]>(&[]));
    }

    #[test]
    fn what_is_not_a_table_is_refused() {
        let Err(error) = CommandTable::parse(&Tree::Nil, "") else { panic!() };
        assert_eq!(error, TableError::NotATable);
        let Err(error) = CommandTable::parse(&Tree::Array(vec![Tree::Integer(1)]), "") else { panic!() };
        assert_eq!(error, TableError::InvalidEntry { position: 0 });
        let without: String = FIXTURE
            .lines()
            .filter(|line| !line.starts_with("psync "))
            .map(|line| format!("{line}\n"))
            .collect();
        let Err(error) = CommandTable::parse(&tree_of(&without), "") else { panic!() };
        assert_eq!(error, TableError::Missing { name: "psync" });
    }

    #[test]
    fn renamed_commands_are_found() {
        let names = ["get".to_owned(), "set".to_owned()];
        let info = Tree::Array(vec![Tree::Array(Vec::new()), Tree::Nil]);
        assert_eq!(renamed(&names, &info).unwrap(), ["set"]);
        assert!(renamed(&names, &Tree::Array(Vec::new())).is_err());
    }
}
