//! The commands in the payload of an entry, as `raftlog-tool` shows them.

use crate::input::Input;
use crate::memory::within;
use crate::Seeds;
use redisraft::resp::encode_command;

/// The tool is a program, not a library: its reader is built here again.
#[path = "../../raftlog-tool/src/effects.rs"]
#[allow(dead_code)]
mod commands;
#[path = "../../raftlog-tool/src/glob.rs"]
#[allow(dead_code)]
mod glob;

use commands::{Effect, Walk};

/// Payload; with a form of 1 a pattern of a length, the pattern, and what is matched.
pub fn check(data: &[u8]) {
    let mut input = Input(data);
    within((64 << 10) + 64 * data.len(), || match input.u8() % 4 {
        0 => {
            let length = usize::from(input.u8());
            pattern(input.bytes(length), input.rest());
        }
        _ => payload(input.rest()),
    });
}

fn payload(bytes: &[u8]) {
    let mut walk = Walk::new(bytes);
    let mut passed = 0;
    while let Some(effect) = walk.step() {
        assert!(bytes[passed..].starts_with(effect.bytes) && !effect.bytes.is_empty());
        passed += effect.bytes.len();
        command(&effect);
    }
    assert_eq!(walk.rest(), &bytes[passed..]);
    match walk.broken() {
        Some(broken) => assert!(broken.offset == passed && broken.reason.len() < 300),
        None => assert_eq!(passed, bytes.len()),
    }
}

fn command(effect: &Effect) {
    let arguments: Vec<&[u8]> = effect.arguments().collect();
    assert_eq!(arguments.len(), effect.len());
    assert_eq!(effect.argument(effect.len()), None);
    let positions = effect.key_positions();
    assert!(positions.iter().all(|at| (1..effect.len()).contains(at)), "{positions:?} of {}", effect.len());
    assert!(effect.keys().eq(positions.iter().map(|at| arguments[*at])));
    let _ = (effect.expires_at_ms(), effect.concerns_all_keys());
    // A command that is written as it was read is read as it was written.
    let mut again = Vec::new();
    encode_command(&mut again, &arguments);
    let mut walk = Walk::new(&again);
    assert!(walk.step().is_some_and(|effect| effect.arguments().eq(arguments)));
    assert!(walk.rest().is_empty());
}

/// Against the plain definition, which takes exponential time: so only where both are short.
fn pattern(pattern: &[u8], text: &[u8]) {
    const SHORT: usize = 10;
    let text = &text[..text.len().min(4096)];
    let matches = glob::Glob::new(pattern).matches(text);
    if pattern.len() <= SHORT && text.len() <= SHORT && !pattern.contains(&b'[') {
        assert_eq!(matches, plainly(pattern, text), "{pattern:?} on {text:?}");
    }
}

fn plainly(pattern: &[u8], text: &[u8]) -> bool {
    match (pattern, text) {
        ([], text) => text.is_empty(),
        ([b'*', rest @ ..], text) => (0..=text.len()).any(|taken| plainly(rest, &text[taken..])),
        ([b'?', rest @ ..], [_, text @ ..]) => plainly(rest, text),
        ([b'\\', byte, rest @ ..], [first, text @ ..]) => byte == first && plainly(rest, text),
        ([b'\\', _, ..], []) => false,
        ([byte, rest @ ..], [first, text @ ..]) => byte == first && plainly(rest, text),
        (_, []) => false,
    }
}

pub fn seeds() -> Seeds {
    let commands = |commands: &[&str]| {
        let mut bytes = vec![1];
        for command in commands {
            encode_command(&mut bytes, &command.split(' ').map(str::as_bytes).collect::<Vec<_>>());
        }
        bytes
    };
    vec![
        ("databases", commands(&["SELECT 3", "SET k v PXAT 5000", "SELECT 0"])),
        ("counted", commands(&["ZUNIONSTORE d 2 a b WEIGHTS 1 2", "EVAL script 99 k v", "LMPOP 1 l LEFT"])),
        ("store", commands(&["SORT l LIMIT 0 1 STORE d", "MSET a 1 b 2", "XGROUP CREATE s g 0"])),
        ("expiry", commands(&["RESTORE k 7 data ABSTTL", "EXPIREAT k 7", "BITOP AND d a b"])),
        ("broken", [&commands(&["DEL a"])[..], b"*2\r\n$3\r\nGET"].concat()),
        ("pattern", b"\x00\x05u?er*user:12".to_vec()),
    ]
}
