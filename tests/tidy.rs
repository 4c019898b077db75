//! Style as a test: sizes, the one direction of imports, where `unsafe` may stand, leftovers, links in the docs.

use std::fs;
use std::path::{Path, PathBuf};

/// No source file is longer.
const MAX_LINES: usize = 900;

/// What each room of `src/` may name of the crate besides itself and `limits`. A room that is not listed is `lib.rs`.
const ARROWS: [(&str, &[&str]); 8] = [
    ("consensus", &[]),
    ("resp", &[]),
    ("log", &["resp"]),
    ("snapshot", &["log"]),
    ("link", &["resp"]),
    ("node", &["consensus", "log", "link", "resp", "snapshot"]),
    ("recover", &["node", "consensus", "log", "snapshot"]),
    ("redis", &["node", "consensus", "log", "link", "resp", "snapshot"]),
];

/// The only places with `unsafe`: the FFI, mapping a file, and asking for a lease of one.
const UNSAFE_ALLOWED: [&str; 3] = ["src/redis/", "src/log/map.rs", "src/log/lease.rs"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The files below `directory` (relative to the root) whose name ends with one of `ends`, with their text.
fn files(directory: &str, ends: &[&str]) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut open = vec![root().join(directory)];
    while let Some(path) = open.pop() {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() {
            if name == "target" || name == ".git" {
                continue;
            }
            let entries = fs::read_dir(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            open.extend(entries.map(|entry| entry.expect("a directory entry").path()));
        } else if path.is_file() && ends.iter().any(|end| name.ends_with(end)) {
            let relative = path.strip_prefix(root()).expect("below the root").display().to_string();
            let text = fs::read(&path).expect("a readable file");
            found.push((relative, String::from_utf8(text).expect("text is UTF-8")));
        }
    }
    found.sort();
    found
}

fn sources() -> Vec<(String, String)> {
    let found = files("src", &[".rs"]);
    assert!(found.len() > 5, "the sources were not found below {}", root().display());
    found
}

/// A line without its comment (good enough for words: a `//` inside a string ends the line here).
fn code(line: &str) -> &str {
    line.split("//").next().unwrap_or_default()
}

fn words(line: &str) -> impl Iterator<Item = &str> {
    line.split(|letter: char| !letter.is_alphanumeric() && letter != '_')
}

/// The modules of the crate that a file of `room` names, by absolute paths or by climbing out with `super`.
fn named_modules(path: &str, text: &str) -> Vec<String> {
    let depth = path.split('/').count() - 2 - usize::from(path.ends_with("/mod.rs"));
    let mut climb = "super::".repeat(depth + 1);
    let mut named = Vec::new();
    for line in text.lines().map(code) {
        if line == "mod tests {" {
            climb.push_str("super::"); // to the end of the file, one module deeper
        }
        for prefix in ["crate::", &climb] {
            for (position, _) in line.match_indices(prefix) {
                let before = &line[..position];
                if !before.ends_with("super::") && !before.ends_with(|letter: char| letter.is_alphanumeric())
                {
                    named.extend(first_names(&line[position + prefix.len()..]));
                }
            }
        }
    }
    named
}

/// The first segments of a path, or of each path of a `{..}` group.
fn first_names(path: &str) -> Vec<String> {
    let first = |part: &str| words(part.trim()).next().unwrap_or_default().to_owned();
    match path.strip_prefix('{') {
        None => vec![first(path)],
        Some(group) => {
            let (mut level, mut parts, mut part) = (0, Vec::new(), String::new());
            for letter in group.chars() {
                match letter {
                    '{' => level += 1,
                    '}' if level == 0 => break,
                    '}' => level -= 1,
                    ',' if level == 0 => parts.push(std::mem::take(&mut part)),
                    _ => part.push(letter),
                }
            }
            parts.push(part);
            parts.iter().map(|part| first(part)).filter(|name| !name.is_empty()).collect()
        }
    }
}

#[test]
fn no_source_file_is_too_long() {
    for (path, text) in
        sources().into_iter().chain(files("tests", &[".rs"])).chain(files("raftlog-tool", &[".rs"]))
    {
        let lines = text.lines().count();
        assert!(lines <= MAX_LINES, "{path} has {lines} lines, more than {MAX_LINES}");
    }
}

#[test]
fn every_source_file_says_first_what_it_is() {
    for (path, text) in sources() {
        assert!(text.starts_with("//! "), "{path} does not open with a `//!` comment");
    }
}

#[test]
fn unsafe_stands_only_where_it_may() {
    for (path, text) in sources().into_iter().chain(files("raftlog-tool", &[".rs"])) {
        if UNSAFE_ALLOWED.iter().any(|allowed| path.starts_with(allowed)) {
            continue;
        }
        for (number, line) in text.lines().enumerate() {
            assert!(!words(code(line)).any(|word| word == "unsafe"), "{path}:{}: unsafe: {line}", number + 1);
        }
    }
}

#[test]
fn imports_point_one_way() {
    for (path, text) in sources() {
        let room =
            path.strip_prefix("src/").and_then(|path| path.split_once('/')).map_or("", |(room, _)| room);
        let Some((_, allowed)) = ARROWS.iter().find(|(name, _)| *name == room) else { continue };
        for module in named_modules(&path, &text) {
            let fine = module == room || module == "limits" || allowed.contains(&module.as_str());
            assert!(fine, "{path}: {room} may not name {module}");
        }
    }
}

#[test]
fn nothing_is_left_over() {
    // Spelled in parts, so that this file is clean by its own measure.
    let marks = [["TO", "DO"], ["FIX", "ME"], ["dbg", "!("], ["todo", "!("], ["unimplemented", "!("]]
        .map(|parts| parts.concat());
    for directory in ["src", "tests", "raftlog-tool", "examples", "scripts", "docs"] {
        for (path, text) in files(directory, &[".rs", ".sh", ".md", ".toml"]) {
            for (number, line) in text.lines().enumerate() {
                for mark in &marks {
                    assert!(!line.contains(mark.as_str()), "{path}:{}: {mark}: {line}", number + 1);
                }
            }
        }
    }
}

#[test]
fn no_file_names_a_path_of_one_machine() {
    let prefixes = ["work", "root", "home"].map(|name| format!("/{name}/"));
    for (path, text) in files("", &[".rs", ".sh", ".md", ".toml", "run"]) {
        for (number, line) in text.lines().enumerate() {
            for prefix in &prefixes {
                // A path starts there; `target/work/` or a web address does not name one.
                let starts = line.match_indices(prefix.as_str()).any(|(position, _)| {
                    !line[..position]
                        .ends_with(|letter: char| letter.is_alphanumeric() || "/.}-_".contains(letter))
                });
                assert!(!starts, "{path}:{}: a path of one machine: {line}", number + 1);
            }
        }
    }
}

/// The targets of the `[text](target)` links of a document, outside code blocks.
fn links(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut in_code = false;
    for line in text.lines() {
        in_code ^= line.trim_start().starts_with("```");
        if in_code {
            continue;
        }
        for (position, _) in line.match_indices("](") {
            let target = &line[position + 2..];
            found.extend(target.split(')').next().map(str::to_owned));
        }
    }
    found
}

/// The anchors that headings make, as GitHub forms them.
fn anchors(text: &str) -> Vec<String> {
    let headings = text.lines().filter_map(|line| line.strip_prefix('#'));
    headings
        .map(|heading| {
            let heading = heading.trim_start_matches('#').trim().to_lowercase();
            let kept = heading.chars().filter(|letter| letter.is_alphanumeric() || " -_".contains(*letter));
            kept.map(|letter| if letter == ' ' { '-' } else { letter }).collect()
        })
        .collect()
}

#[test]
fn links_of_the_documents_resolve() {
    let mut checked = 0;
    for (path, text) in files("", &[".md"]) {
        for link in links(&text) {
            if link.contains("://") || link.starts_with("mailto:") {
                continue;
            }
            let (file, anchor) =
                link.split_once('#').map_or((link.as_str(), None), |(file, anchor)| (file, Some(anchor)));
            let own = root().join(&path);
            let target: PathBuf = match file {
                "" => own,
                _ => own.parent().expect("a file has a directory").join(file),
            };
            assert!(target.exists(), "{path}: the link {link} leads nowhere");
            if let Some(anchor) = anchor {
                let text = fs::read_to_string(&target).expect("a linked document");
                assert!(anchors(&text).iter().any(|known| known == anchor), "{path}: no heading for {link}");
            }
            checked += 1;
        }
    }
    assert!(checked > 0, "no document has a link");
}

#[test]
fn the_checks_see_what_they_look_for() {
    let named = |path: &str, text: &str| named_modules(path, text);
    assert_eq!(named("src/consensus/core.rs", "use crate::log::Store;"), ["log"]);
    assert_eq!(named("src/consensus/core.rs", "use super::super::log;"), ["log"]);
    assert_eq!(named("src/consensus/mod.rs", "use super::{log::{Store, Sync}, limits};"), ["log", "limits"]);
    assert_eq!(named("src/consensus/core.rs", "use super::message; // crate::log"), Vec::<String>::new());
    assert_eq!(named("src/link/mod.rs", "let x = crate::node::start();"), ["node"]);
    assert!(words(code("    let x = unsafe { y };")).any(|word| word == "unsafe"));
    assert!(!words(code("#![deny(unsafe_code)] // unsafe")).any(|word| word == "unsafe"));
    assert_eq!(links("see [a](docs/a.md#b) and [c](d.md)\n```\n[x](y)\n```"), ["docs/a.md#b", "d.md"]);
    assert_eq!(anchors("## What `this` is, exactly"), ["what-this-is-exactly"]);
}
