//! Settings and addresses as users write them: arguments of the module, `CONFIG SET`, `host:port`.

use crate::input::Input;
use crate::memory::within;
use crate::Seeds;
use redisraft::node::address::HostPort;
use redisraft::node::settings::{Kind, Settings, Value, SETTINGS};

/// The module's own reader of its arguments. It needs nothing of Redis, but its room does; so it is built here again.
#[path = "../../src/redis/options.rs"]
#[allow(dead_code)]
mod options;

/// A form, and then an address, arguments with a zero byte between two, or a setting and its value.
pub fn check(data: &[u8]) {
    let mut input = Input(data);
    within((64 << 10) + 64 * data.len(), || match input.u8() % 3 {
        0 => address(input.rest()),
        1 => arguments(input.rest()),
        _ => value(input),
    });
}

fn address(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match HostPort::parse(text) {
        Ok(address) => {
            assert!(address.port > 0 && !address.host.is_empty());
            assert!(!text.contains(|letter: char| letter.is_whitespace() || letter.is_control()), "{text:?}");
            let shown = address.to_string();
            assert_eq!(HostPort::parse(&shown), Ok(address), "what is shown is the same address");
        }
        Err(error) => one_short_line(&error.to_string()),
    }
}

fn one_short_line(text: &str) {
    assert!(text.len() < 1000 && !text.contains(['\r', '\n']), "{text:?}");
}

fn arguments(bytes: &[u8]) {
    let arguments: Vec<&[u8]> = bytes.split(|byte| *byte == 0).collect();
    match options::Arguments::parse(&arguments) {
        Ok(parsed) => {
            let mut names: Vec<&str> = parsed.iter().map(|(setting, _)| setting.name).collect();
            assert!(names.len() <= arguments.len());
            let mut settings = Settings::default();
            for (setting, value) in parsed.iter() {
                setting.write(&mut settings, value.clone()).expect("what was parsed is allowed");
                assert_eq!(setting.read(&settings), *value);
            }
            names.sort_unstable();
            assert!(names.windows(2).all(|pair| pair[0] != pair[1]), "a setting twice: {names:?}");
            if let Err(error) = settings.validate() {
                one_short_line(&error.to_string());
            }
            secrets_are_not_shown(&parsed);
        }
        Err(error) => one_short_line(&error.to_string()),
    }
}

/// The word may stand in settings that are shown, too: then it is shown as often as it stands there.
fn secrets_are_not_shown(parsed: &options::Arguments) {
    let of = |text: &str| text.matches("hunter2").count();
    let allowed: usize =
        parsed.iter().filter(|(setting, _)| !setting.hidden).map(|(_, value)| of(&value.to_string())).sum();
    assert_eq!(of(&format!("{parsed:?}")), allowed, "secrets are not shown");
}

fn value(mut input: Input) {
    let setting = &SETTINGS[usize::from(input.u8()) % SETTINGS.len()];
    let Ok(text) = std::str::from_utf8(input.rest()) else { return };
    match setting.parse(text) {
        Ok(value) => {
            let shown = match (&value, setting.kind) {
                (Value::Choice(choice), Kind::Enum { names, .. }) => names[*choice].to_string(),
                (value, _) => value.to_string(),
            };
            assert_eq!(setting.parse(&shown), Ok(value), "what is shown is the same value");
        }
        Err(error) => {
            one_short_line(&error.to_string());
            let secret = setting.hidden && text.len() > 8;
            assert!(!secret || !error.to_string().contains(text), "a secret is shown");
        }
    }
}

pub fn seeds() -> Seeds {
    let number = |name: &str| SETTINGS.iter().position(|s| s.name == name).expect("a setting") as u8;
    let set = |name: &str, value: &str| [&[2, number(name)][..], value.as_bytes()].concat();
    vec![
        ("name", b"\x00localhost:5001".to_vec()),
        ("ipv6", b"\x00[::1]:65535".to_vec()),
        ("equals", b"\x01raft-id=7\0ADDR=localhost:5001\0log-filename=a.db".to_vec()),
        ("words", b"\x01--raft.id\x007\0persist\0no".to_vec()),
        ("secret", b"\x01cluster-password=hunter2".to_vec()),
        ("memory", set("log-max-file-size", "64mb")),
        ("address", set("addr", "10.0.0.1:6379")),
    ]
}
