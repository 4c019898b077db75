//! Every setting of a node, defined once: the struct's field, the name users write, its bounds and its flags all
//! come from the list at the end of this file. Module arguments and `CONFIG` both work from [`SETTINGS`].

use super::address::HostPort;
use std::fmt;

/// What users may choose for `raft.loglevel`; the names are those of Redis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLevel {
    Debug,
    Verbose,
    Notice,
    Warning,
}

/// Whether every message between nodes is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trace {
    Off,
    On,
}

/// The value of one setting, detached from its field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    Bool(bool),
    Number(u64),
    Text(String),
    /// Position in the names of the setting's [`Kind::Enum`].
    Choice(usize),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Bool(true) => f.write_str("yes"),
            Value::Bool(false) => f.write_str("no"),
            Value::Number(number) => write!(f, "{number}"),
            Value::Text(text) => f.write_str(text),
            Value::Choice(choice) => write!(f, "choice {choice}"),
        }
    }
}

/// What a setting accepts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    Bool {
        default: bool,
    },
    /// `memory` numbers are bytes and may be written with a unit (`64mb`).
    Number {
        default: u64,
        min: u64,
        max: u64,
        memory: bool,
    },
    Text {
        default: &'static str,
        syntax: Syntax,
    },
    Enum {
        default: usize,
        names: &'static [&'static str],
    },
}

/// What the text of a setting must look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Syntax {
    Any,
    NotEmpty,
    /// `host:port`, or empty for "find out".
    OptionalAddress,
}

/// One setting.
pub struct Setting {
    /// As users write it, without the `raft.` prefix.
    pub name: &'static str,
    pub kind: Kind,
    /// Can be chosen only when the module is loaded.
    pub immutable: bool,
    /// A secret: never shown, not even in an error.
    pub hidden: bool,
    read: fn(&Settings) -> Value,
    write: fn(&mut Settings, Value) -> bool,
}

/// Why a value, or all values together, cannot be used. Each reads as one line for the operator.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    #[error("{name}: {value} is not allowed, it must be {expected}")]
    Invalid { name: &'static str, value: String, expected: String },
    #[error(
        "election-timeout ({election_timeout_ms} ms) must be more than twice request-timeout \
         ({request_timeout_ms} ms): one lost heartbeat would start an election"
    )]
    ElectionTimeoutTooShort { election_timeout_ms: u64, request_timeout_ms: u64 },
    #[error(
        "id {id} and persist no exclude each other: with its log in memory, this is another node after each start, and an \
         id is used once; leave id at 0"
    )]
    IdInMemory { id: u64 },
    #[error("{name} {value} is not supported yet: leave it at its default")]
    NotSupported { name: &'static str, value: &'static str },
}

impl Setting {
    /// The setting named `name` (any case, no prefix).
    pub fn find(name: &str) -> Option<&'static Setting> {
        SETTINGS.iter().find(|setting| setting.name.eq_ignore_ascii_case(name))
    }

    pub fn default_value(&self) -> Value {
        match self.kind {
            Kind::Bool { default } => Value::Bool(default),
            Kind::Number { default, .. } => Value::Number(default),
            Kind::Text { default, .. } => Value::Text(default.to_owned()),
            Kind::Enum { default, .. } => Value::Choice(default),
        }
    }

    /// Reads `text` as users write it.
    pub fn parse(&self, text: &str) -> Result<Value, SettingsError> {
        let value = match self.kind {
            Kind::Bool { .. } => match text.to_ascii_lowercase().as_str() {
                "yes" => Some(Value::Bool(true)),
                "no" => Some(Value::Bool(false)),
                _ => None,
            },
            Kind::Number { memory: true, .. } => parse_memory(text).map(Value::Number),
            Kind::Number { .. } => parse_digits(text).map(Value::Number),
            Kind::Text { .. } => Some(Value::Text(text.to_owned())),
            Kind::Enum { names, .. } => {
                names.iter().position(|name| name.eq_ignore_ascii_case(text)).map(Value::Choice)
            }
        };
        let value = value.ok_or_else(|| self.invalid(text))?;
        self.check(&value)?;
        Ok(value)
    }

    /// The value that `settings` holds.
    pub fn read(&self, settings: &Settings) -> Value {
        (self.read)(settings)
    }

    /// Puts `value` into `settings`; refuses what is out of bounds or of another kind. Says nothing about how it
    /// goes with the other settings: that is [`Settings::validate`].
    pub fn write(&self, settings: &mut Settings, value: Value) -> Result<(), SettingsError> {
        self.check(&value)?;
        let shown = value.to_string();
        if (self.write)(settings, value) {
            Ok(())
        } else {
            Err(self.invalid(&shown))
        }
    }

    /// What is allowed, in words: "a number from 1 to 10".
    pub fn expected(&self) -> String {
        match self.kind {
            Kind::Bool { .. } => "yes or no".to_owned(),
            Kind::Number { min, max, memory: true, .. } => {
                format!("a number of bytes from {min} to {max}, units as in 64mb")
            }
            Kind::Number { min, max, .. } => format!("a number from {min} to {max}"),
            Kind::Text { syntax: Syntax::Any, .. } => "text without a zero byte".to_owned(),
            Kind::Text { syntax: Syntax::NotEmpty, .. } => "text that is not empty".to_owned(),
            Kind::Text { syntax: Syntax::OptionalAddress, .. } => {
                "host:port, as in 10.0.0.1:6379, db1.example.org:6379 or [::1]:6379".to_owned()
            }
            Kind::Enum { names, .. } => format!("one of {}", names.join(", ")),
        }
    }

    fn check(&self, value: &Value) -> Result<(), SettingsError> {
        let valid = match (self.kind, value) {
            (Kind::Bool { .. }, Value::Bool(_)) => true,
            (Kind::Number { min, max, .. }, Value::Number(number)) => (min..=max).contains(number),
            (Kind::Text { syntax, .. }, Value::Text(text)) => {
                !text.contains('\0')
                    && match syntax {
                        Syntax::Any => true,
                        Syntax::NotEmpty => !text.is_empty(),
                        Syntax::OptionalAddress => text.is_empty() || HostPort::parse(text).is_ok(),
                    }
            }
            (Kind::Enum { names, .. }, Value::Choice(choice)) => *choice < names.len(),
            _ => false,
        };
        if valid {
            Ok(())
        } else {
            Err(self.invalid(&value.to_string()))
        }
    }

    fn invalid(&self, value: &str) -> SettingsError {
        let value = if self.hidden { "(hidden)".to_owned() } else { format!("'{}'", shortened(value)) };
        SettingsError::Invalid { name: self.name, value, expected: self.expected() }
    }
}

/// What is echoed of something that a user wrote: it must stay one line of bearable length.
pub fn shortened(text: &str) -> String {
    const MAX_CHARS: usize = 64;
    let mut letters = text.escape_debug();
    let mut shown: String = letters.by_ref().take(MAX_CHARS).collect();
    if letters.next().is_some() {
        shown.push_str("..");
    }
    shown
}

impl Settings {
    /// Names of settings that were changed and have no effect yet: they belong to snapshots, or to a cache whose size is
    /// fixed. They are taken, so that configurations carry over, and named in the log.
    pub fn without_effect(&self) -> impl Iterator<Item = &'static str> + '_ {
        const NAMES: [&str; 1] = ["log-max-cache-size"];
        let changed = |name: &&str| {
            let setting = Setting::find(name).expect("a name of the table");
            setting.read(self) != setting.default_value()
        };
        NAMES.into_iter().filter(changed)
    }

    /// Whether the values can be used together; each by itself is checked when it is written.
    pub fn validate(&self) -> Result<(), SettingsError> {
        for setting in SETTINGS {
            setting.check(&setting.read(self))?;
        }
        // Accepting what has no effect would be a silent difference.
        for (asked, name, value) in
            [(self.follower_proxy, "follower-proxy", "yes"), (self.tls_enabled, "tls-enabled", "yes")]
        {
            if asked {
                return Err(SettingsError::NotSupported { name, value });
            }
        }
        if !self.persist && self.id != 0 {
            return Err(SettingsError::IdInMemory { id: self.id });
        }
        if self.election_timeout_ms <= self.request_timeout_ms.saturating_mul(2) {
            return Err(SettingsError::ElectionTimeoutTooShort {
                election_timeout_ms: self.election_timeout_ms,
                request_timeout_ms: self.request_timeout_ms,
            });
        }
        Ok(())
    }
}

impl fmt::Debug for Settings {
    /// Without the values of hidden settings.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |setting: &Setting| match setting.kind {
            _ if setting.hidden => "(hidden)".to_owned(),
            Kind::Enum { names, .. } => match setting.read(self) {
                Value::Choice(choice) => names[choice].to_owned(),
                other => other.to_string(),
            },
            _ => setting.read(self).to_string(),
        };
        f.debug_map().entries(SETTINGS.iter().map(|setting| (setting.name, shown(setting)))).finish()
    }
}

fn parse_digits(text: &str) -> Option<u64> {
    // `u64::from_str` would also take a leading plus sign.
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

/// A number of bytes in Redis' notation: `k m g` are powers of 1000, `kb mb gb` powers of 1024, `b` bytes.
fn parse_memory(text: &str) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let factor: u64 = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" => 1000,
        "kb" => 1 << 10,
        "m" => 1000 * 1000,
        "mb" => 1 << 20,
        "g" => 1000 * 1000 * 1000,
        "gb" => 1 << 30,
        _ => return None,
    };
    parse_digits(number)?.checked_mul(factor)
}

/// How a field's type travels as a [`Value`].
trait Field: Sized {
    fn to_value(&self) -> Value;
    fn from_value(value: Value) -> Option<Self>;
}

impl Field for bool {
    fn to_value(&self) -> Value {
        Value::Bool(*self)
    }
    fn from_value(value: Value) -> Option<Self> {
        match value {
            Value::Bool(value) => Some(value),
            _ => None,
        }
    }
}

impl Field for u64 {
    fn to_value(&self) -> Value {
        Value::Number(*self)
    }
    fn from_value(value: Value) -> Option<Self> {
        match value {
            Value::Number(value) => Some(value),
            _ => None,
        }
    }
}

impl Field for String {
    fn to_value(&self) -> Value {
        Value::Text(self.clone())
    }
    fn from_value(value: Value) -> Option<Self> {
        match value {
            Value::Text(value) => Some(value),
            _ => None,
        }
    }
}

/// Names of an enum setting, in the order of the enum's variants.
trait Choices: Copy + PartialEq + 'static {
    const VARIANTS: &'static [Self];
}

impl Choices for LogLevel {
    const VARIANTS: &'static [Self] =
        &[LogLevel::Debug, LogLevel::Verbose, LogLevel::Notice, LogLevel::Warning];
}

impl Choices for Trace {
    const VARIANTS: &'static [Self] = &[Trace::Off, Trace::On];
}

impl<T: Choices> Field for T {
    fn to_value(&self) -> Value {
        let choice = T::VARIANTS.iter().position(|variant| variant == self);
        Value::Choice(choice.expect("every variant of an enum setting is listed in VARIANTS"))
    }
    fn from_value(value: Value) -> Option<Self> {
        match value {
            Value::Choice(choice) => T::VARIANTS.get(choice).copied(),
            _ => None,
        }
    }
}

const fn switch(default: bool) -> Kind {
    Kind::Bool { default }
}

const fn number(default: u64, min: u64, max: u64) -> Kind {
    Kind::Number { default, min, max, memory: false }
}

const fn bytes(default: u64, min: u64, max: u64) -> Kind {
    Kind::Number { default, min, max, memory: true }
}

const fn text(default: &'static str, syntax: Syntax) -> Kind {
    Kind::Text { default, syntax }
}

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const HOUR_MS: u64 = 3_600_000;

/// One line per setting: documentation, field, type, name, what it accepts, flags.
macro_rules! settings {
    ($($(#[doc = $about:literal])+ $field:ident: $type:ty, $name:literal, $kind:expr $(, $flag:ident)*;)+) => {
        /// All settings of a node. See docs/operations.md for what each does.
        #[derive(Clone, PartialEq)]
        pub struct Settings {
            $($(#[doc = $about])+ pub $field: $type,)+
        }

        impl Default for Settings {
            fn default() -> Self {
                Settings {
                    $($field: setting_by_name($name)
                        .and_then(|setting| Field::from_value(setting.default_value()))
                        .expect("the default of a setting is of its field's type"),)+
                }
            }
        }

        /// Every setting, in the order of the documentation.
        pub static SETTINGS: &[Setting] = &[$(
            Setting {
                name: $name,
                kind: $kind,
                read: |settings| settings.$field.to_value(),
                write: |settings, value| match Field::from_value(value) {
                    Some(value) => {
                        settings.$field = value;
                        true
                    }
                    None => false,
                },
                $($flag: true,)*
                ..PLAIN
            },
        )+];
    };
}

/// What a setting is when its line carries no flag.
const PLAIN: Setting = Setting {
    name: "",
    kind: Kind::Bool { default: false },
    immutable: false,
    hidden: false,
    read: |_| Value::Bool(false),
    write: |_, _| false,
};

fn setting_by_name(name: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|setting| setting.name == name)
}

settings! {
    /// Identity of the node; 0 = choose one at random.
    id: u64, "id", number(0, 0, i64::MAX as u64), immutable;
    /// What clients and joiners are told; empty = first non-loopback address and the server's port.
    addr: String, "addr", text("", Syntax::OptionalAddress), immutable;
    /// Where peers connect; empty = the host of `addr`, the server's port + 10000.
    peer_addr: String, "peer-addr", text("", Syntax::OptionalAddress), immutable;
    /// Where this node listens for peers; empty = the port of `peer_addr` on the server's bind addresses. To be
    /// given when a forwarder stands between `peer_addr` and this process.
    peer_listen: String, "peer-listen", text("", Syntax::OptionalAddress), immutable;
    /// Directory of the log, relative to the server's `dir`.
    log_filename: String, "log-filename", text("raftlog", Syntax::NotEmpty), immutable;
    /// Whether an entry counts as written only after it was synced to the disk.
    log_fsync: bool, "log-fsync", switch(true);
    /// `false` = the log lives in memory and the node comes back as a new member.
    persist: bool, "persist", switch(true), immutable;
    /// Snapshot and purge beyond this size.
    log_max_file_bytes: u64, "log-max-file-size", bytes(128_000_000, 4 * KIB, i64::MAX as u64);
    /// Size of one file of the log.
    log_segment_bytes: u64, "log-segment-size", bytes(64 * MIB, 64 * KIB, GIB), immutable;
    /// Bytes of the log read and checked in the background each second; 0 = none.
    log_scrub_bytes_per_s: u64, "log-scrub-rate", bytes(4 * MIB, 0, GIB);
    /// Recent entries kept at hand for followers.
    log_max_cache_bytes: u64, "log-max-cache-size", bytes(64_000_000, 0, i64::MAX as u64);
    /// A follower that hears nothing from a leader for 1x..2x this long stands for election.
    election_timeout_ms: u64, "election-timeout", number(1000, 3, HOUR_MS);
    /// Period of heartbeats.
    request_timeout_ms: u64, "request-timeout", number(200, 1, HOUR_MS);
    /// How long opening a connection to a peer may take.
    connection_timeout_ms: u64, "connection-timeout", number(3000, 1, HOUR_MS);
    /// How long `RAFT.CLUSTER JOIN` goes on trying.
    join_timeout_ms: u64, "join-timeout", number(120_000, 1, 24 * HOUR_MS);
    /// How long a peer may take to answer before its connection is opened anew.
    response_timeout_ms: u64, "response-timeout", number(1000, 1, HOUR_MS);
    /// Pause between two attempts to reach a peer.
    reconnect_interval_ms: u64, "reconnect-interval", number(100, 1, HOUR_MS);
    /// Window to one peer: messages with entries in flight.
    append_req_max_count: u64, "append-req-max-count", number(8, 1, 1024);
    /// Most bytes of entries in one message (a single entry may exceed it).
    append_req_max_bytes: u64, "append-req-max-size", bytes(2 * MIB, KIB, GIB);
    /// Window to one peer: snapshot chunks in flight.
    snapshot_req_max_count: u64, "snapshot-req-max-count", number(32, 1, 1024);
    /// Length of one snapshot chunk.
    snapshot_req_max_bytes: u64, "snapshot-req-max-size", bytes(64 * KIB, KIB, 64 * MIB);
    /// `false` = the leader answers reads from its own state: they may be stale.
    quorum_reads: bool, "quorum-reads", switch(true);
    /// `true` = the leader answers reads without a round while its lease holds (bounded clock drift assumed).
    read_lease: bool, "read-lease", switch(false);
    /// `true` = a follower forwards commands to the leader instead of answering `-MOVED`.
    follower_proxy: bool, "follower-proxy", switch(false);
    /// How long a data command waits for a leader before `-CLUSTERDOWN`.
    leader_wait_ms: u64, "leader-wait-ms", number(1500, 0, HOUR_MS);
    /// How long handing leadership over may take before this node leads on, or shuts down without.
    transfer_timeout_ms: u64, "transfer-timeout", number(2000, 100, HOUR_MS);
    /// A leader whose disk finishes nothing for this long hands over; 0 = never.
    disk_stall_limit_ms: u64, "disk-stall-limit", number(3000, 0, HOUR_MS);
    /// A leader whose main thread does not answer for this long hands over; 0 = never. Twice the server's own idea of
    /// a script that is too slow (`busy-reply-threshold`).
    main_stall_limit_ms: u64, "main-stall-limit", number(10_000, 0, HOUR_MS);
    /// Commands that run locally and are never intercepted, separated by commas or blanks.
    ignored_commands: String, "ignored-commands", text("", Syntax::Any);
    /// User of the connection that asks to join.
    cluster_user: String, "cluster-user", text("default", Syntax::NotEmpty);
    /// Password of that user.
    cluster_password: String, "cluster-password", text("", Syntax::Any), hidden;
    /// Whether peers and joiners talk TLS, with the server's own `tls-*` settings.
    tls_enabled: bool, "tls-enabled", switch(false);
    /// What of the module's own messages reaches the server's log.
    loglevel: LogLevel, "loglevel", Kind::Enum { default: 2, names: &["debug", "verbose", "notice", "warning"] };
    /// Whether every message between nodes is logged.
    trace: Trace, "trace", Kind::Enum { default: 0, names: &["off", "on"] };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setting(name: &str) -> &'static Setting {
        Setting::find(name).unwrap_or_else(|| panic!("no setting {name}"))
    }

    #[test]
    fn defaults_are_those_of_the_documentation_and_valid_together() {
        let settings = Settings::default();
        assert_eq!(settings.validate(), Ok(()));
        assert_eq!((settings.election_timeout_ms, settings.request_timeout_ms), (1000, 200));
        assert_eq!((settings.log_segment_bytes, settings.append_req_max_bytes), (64 << 20, 2 << 20));
        assert_eq!(settings.log_scrub_bytes_per_s, 4 << 20);
        assert_eq!((settings.loglevel, settings.trace), (LogLevel::Notice, Trace::Off));
        assert!(settings.persist && settings.log_fsync && settings.quorum_reads);
    }

    #[test]
    fn every_setting_reads_back_what_was_written() {
        for (position, setting) in SETTINGS.iter().enumerate() {
            let name = setting.name;
            assert!(SETTINGS[..position].iter().all(|other| other.name != name), "{name} is listed twice");
            let other = match setting.kind {
                Kind::Bool { default } => Value::Bool(!default),
                Kind::Number { default, min, max, .. } => {
                    Value::Number(if default == max { min } else { max })
                }
                Kind::Text { .. } => Value::Text("host:17".to_owned()),
                Kind::Enum { default, names } => Value::Choice((default + 1) % names.len()),
            };
            let mut settings = Settings::default();
            assert_eq!(setting.read(&settings), setting.default_value(), "{name}");
            setting.write(&mut settings, other.clone()).unwrap();
            assert_eq!(setting.read(&settings), other, "{name}");
            setting.write(&mut settings, setting.default_value()).unwrap();
            assert_eq!(settings, Settings::default(), "{name} writes more than its own field");
        }
    }

    #[test]
    fn enum_names_match_their_variants() {
        for (text, level) in [("debug", LogLevel::Debug), ("WARNING", LogLevel::Warning)] {
            let mut settings = Settings::default();
            let value = setting("loglevel").parse(text).unwrap();
            setting("loglevel").write(&mut settings, value).unwrap();
            assert_eq!(settings.loglevel, level);
        }
        for setting in SETTINGS {
            if let Kind::Enum { names, .. } = setting.kind {
                let mut settings = Settings::default();
                for choice in 0..names.len() {
                    setting.write(&mut settings, Value::Choice(choice)).expect("a variant for every name");
                }
            }
        }
    }

    #[test]
    fn memory_units_are_those_of_redis() {
        let size = setting("log-max-file-size");
        for (text, bytes) in [
            ("64mb", 64 << 20),
            ("1GB", 1 << 30),
            ("5k", 5000),
            ("5kb", 5120),
            ("1m", 1_000_000),
            ("4096b", 4096),
        ] {
            assert_eq!(size.parse(text), Ok(Value::Number(bytes)), "{text}");
        }
        for text in ["", "mb", "1tb", "-1", "+1", "1.5gb", "4095", "99999999999gb", "64 mb", "0x40"] {
            assert!(size.parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn bad_values_are_refused_with_what_is_allowed() {
        for (name, text, message) in [
            (
                "request-timeout",
                "64mb",
                "request-timeout: '64mb' is not allowed, it must be a number from 1 to 3600000",
            ),
            ("log-fsync", "maybe", "log-fsync: 'maybe' is not allowed, it must be yes or no"),
            ("trace", "all", "trace: 'all' is not allowed, it must be one of off, on"),
            ("log-filename", "", "log-filename: '' is not allowed, it must be text that is not empty"),
            (
                "cluster-password",
                "sec\0ret",
                "cluster-password: (hidden) is not allowed, it must be text without a zero byte",
            ),
        ] {
            assert_eq!(setting(name).parse(text).unwrap_err().to_string(), message);
        }
        let message = setting("addr").parse("local\nhost").unwrap_err().to_string();
        assert!(
            message.starts_with("addr: 'local\\nhost' is not allowed, it must be host:port"),
            "{message}"
        );
    }

    #[test]
    fn a_hostile_value_gives_one_short_line() {
        for hostile in ["x".repeat(1 << 20), "\u{1}\r\n".repeat(30)] {
            for name in ["addr", "persist", "id", "log-max-file-size", "loglevel"] {
                let error = setting(name).parse(&hostile).unwrap_err().to_string();
                assert!(error.len() < 300 && !error.contains('\n') && error.contains(".."), "{error}");
            }
        }
        assert_eq!(shortened("as it is"), "as it is");
    }

    #[test]
    fn a_value_of_another_kind_is_refused() {
        let mut settings = Settings::default();
        assert!(setting("id").write(&mut settings, Value::Bool(true)).is_err());
        assert!(setting("trace").write(&mut settings, Value::Choice(2)).is_err());
        assert_eq!(settings, Settings::default());
    }

    #[test]
    fn the_election_timeout_must_be_more_than_twice_the_request_timeout() {
        let mut settings =
            Settings { election_timeout_ms: 400, request_timeout_ms: 200, ..Settings::default() };
        assert_eq!(
            settings.validate(),
            Err(SettingsError::ElectionTimeoutTooShort { election_timeout_ms: 400, request_timeout_ms: 200 })
        );
        settings.election_timeout_ms = 401;
        assert_eq!(settings.validate(), Ok(()));
    }

    #[test]
    fn secrets_are_not_shown() {
        let settings = Settings { cluster_password: "hunter2".to_owned(), ..Settings::default() };
        let shown = format!("{settings:?}");
        assert!(shown.contains(r#""cluster-password": "(hidden)""#) && !shown.contains("hunter2"), "{shown}");
        assert!(shown.contains(r#""loglevel": "notice""#), "{shown}");
    }

    #[test]
    fn what_has_no_effect_is_named_and_what_is_not_there_is_refused() {
        let mut settings = Settings::default();
        assert_eq!(settings.without_effect().count(), 0);
        settings.log_max_cache_bytes = 4096;
        assert_eq!(settings.without_effect().collect::<Vec<_>>(), ["log-max-cache-size"]);
        assert_eq!(settings.validate(), Ok(()));
        settings.follower_proxy = true;
        let error = settings.validate().unwrap_err().to_string();
        assert_eq!(error, "follower-proxy yes is not supported yet: leave it at its default");
    }

    #[test]
    fn a_log_in_memory_has_no_id_of_its_own() {
        let settings = Settings { persist: false, ..Settings::default() };
        assert_eq!(settings.validate(), Ok(()));
        let settings = Settings { id: 7, ..settings };
        assert_eq!(settings.validate(), Err(SettingsError::IdInMemory { id: 7 }));
    }

    #[test]
    fn values_assigned_past_the_checks_are_found() {
        let settings = Settings { addr: "nowhere".to_owned(), ..Settings::default() };
        assert!(matches!(settings.validate(), Err(SettingsError::Invalid { name: "addr", .. })));
    }
}
