//! Choosing by key and database, in `dump` and `find`.

use crate::support::*;

fn fixture() -> Fixture {
    Fixture::with_entries(&[
        effects(&["SET user:1 a", "SET other b", "SELECT 3", "SET user:1 c", "SELECT 0"]),
        effects(&["MULTI", "DEL user:2 user:1", "EXEC"]),
        effects(&["FLUSHALL"]),
        effects(&["RENAME x user:1"]),
    ])
}

#[test]
fn dump_shows_the_commands_that_write_a_key() {
    let fixture = fixture();
    let dump = |arguments: &[&str]| run(0, &[&["dump"], arguments, &[&fixture.name]].concat());
    let expected = [
        "1 term 1 normal 138 bytes",
        r#"    "SET" "user:1" "a""#,
        r#"    [3] "SET" "user:1" "c""#,
        "    (3 other commands)",
        "2 term 1 normal 62 bytes",
        r#"    "DEL" "user:2" "user:1""#,
        "    (2 other commands)",
        "4 term 1 normal 34 bytes",
        r#"    "RENAME" "x" "user:1""#,
    ];
    let shown = dump(&["--key", "user:1"]);
    let without_sizes = |line: &str| line.split(" normal ").next().map(str::to_string);
    assert_eq!(
        lines(&shown).into_iter().map(without_sizes).collect::<Vec<_>>(),
        expected.into_iter().map(without_sizes).collect::<Vec<_>>()
    );
    assert_eq!(dump(&["--key", "user:*"]), shown);
    assert_eq!(dump(&["--key", "use[q-s]:?"]), shown);
    assert_eq!(dump(&["--key", r"\x75ser:1"]), shown);
    assert!(dump(&["--key", "user"]).is_empty());
    let third = dump(&["--db", "3", "--key", "user:1"]);
    assert_eq!(lines(&third)[1], r#"    [3] "SET" "user:1" "c""#);
    assert_eq!(dump(&["--db", "3", "--key", "user:1", "--last", "1"]), third);
    assert!(dump(&["--db", "7"]).is_empty());
}

#[test]
fn find_tells_the_life_of_a_key() {
    let fixture = fixture();
    let find = |arguments: &[&str]| run(0, &[&["find", "--key"], arguments, &[&fixture.name]].concat());
    let expected = [
        r#"1 term 1 [0] "SET" "user:1" "a""#,
        r#"1 term 1 [3] "SET" "user:1" "c""#,
        r#"2 term 1 [0] "DEL" "user:2" "user:1""#,
        r#"3 term 1 [0] "FLUSHALL""#,
        r#"4 term 1 [0] "RENAME" "x" "user:1""#,
    ];
    assert_eq!(lines(&find(&["user:1"])), expected);
    assert_eq!(lines(&find(&["user:1", "--last", "2"])), expected[3..]);
    assert_eq!(lines(&find(&["user:1", "--db", "3"])), [expected[1], expected[3]]);
    assert_eq!(lines(&find(&["user:1", "--from", "2", "--to", "3"])), expected[2..4]);
    let objects = json_lines(&find(&["user:2", "--format", "jsonl"]));
    assert_eq!((&objects[0]["index"], &objects[0]["position"]), (&2.into(), &2.into()));
    assert_eq!(objects[0]["command"], serde_json::json!(["DEL", "user:2", "user:1"]));
    let none = tool(&["find", "--key", "nobody", "--to", "2", &fixture.name]);
    assert_eq!((none.status.code(), none.stdout.len()), (Some(0), 0));
    assert!(text(&none.stderr).contains("no command"), "{none:?}");
}
