//! Help, manual and completions.

use crate::support::*;

const COMMANDS: [&str; 10] =
    ["dump", "verify", "stat", "find", "diff", "meta", "export", "repair", "completions", "man"];

#[test]
fn help_is_short_or_long() {
    let short = run(0, &["-h"]);
    let long = run(0, &["--help"]);
    assert!(long.len() > short.len() && long.contains("Exit codes:"), "{long}");
    for command in COMMANDS {
        assert!(short.contains(command), "{command}");
        let short = run(0, &[command, "-h"]);
        let long = run(0, &[command, "--help"]);
        assert!(long.len() > short.len(), "{command}: {long}");
        assert!(long.contains("Examples:"), "{command}: {long}");
        assert!(long.lines().all(|line| line.chars().count() <= 120), "{command}: {long}");
    }
    assert!(run(0, &["--version"]).starts_with("raftlog-tool "));
}

#[test]
fn the_manual_and_completions_know_every_command() {
    let manual = run(0, &["man"]);
    let scripts = ["bash", "zsh", "fish"].map(|shell| run(0, &["completions", shell]));
    for command in COMMANDS {
        assert!(manual.contains(command), "{command}");
        assert!(scripts.iter().all(|script| script.contains(command)), "{command}");
        let page = run(0, &["man", command]);
        assert!(page.contains(".TH") && page.contains(&format!("raftlog\\-tool {command}")), "{page}");
    }
    assert!(scripts.iter().all(|script| script.contains("follow")));
}
