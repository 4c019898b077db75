//! `stat`.

use redisraft::log::Kind;
use serde_json::Value;

use crate::support::*;

fn row<'o>(object: &'o Value, table: &str, name: &str) -> &'o Value {
    let rows = object[table]["rows"].as_array().expect("rows");
    rows.iter().find(|row| row["name"] == name).unwrap_or_else(|| panic!("{table} {name}: {object}"))
}

#[test]
fn sums_by_term_type_command_prefix_and_segment() {
    let fixture = Fixture::empty();
    let mut writer = fixture.create();
    writer.append(1, Kind::NoOp, b"");
    for number in 0..10 {
        let value = "v".repeat(number * 100);
        let commands = [format!("SET user:{number}:name {value}"), format!("set counter {number}")];
        writer.append(1, Kind::Normal, &effects(&[&commands[0], &commands[1]]));
    }
    writer.append(2, Kind::Normal, &effects(&["DEL user:1:name user:2:name"]));
    writer.replace(12, 3, &effects(&["DEL other:1"]));
    drop(writer);
    let object = json(&run(0, &["stat", "--format", "json", &fixture.name]));
    assert_eq!((&object["entries"]["count"], &object["truncated_entries"]), (&12.into(), &1.into()));
    assert_eq!(row(&object, "by_type", "normal")["count"], 11);
    assert_eq!(
        (row(&object, "by_term", "1")["last_index"].as_u64(), &object["last_index"]),
        (Some(11), &12.into())
    );
    assert_eq!(row(&object, "by_term", "3")["count"], 1);
    let set = row(&object, "by_command", "SET");
    assert_eq!(set["count"], 20, "names are told apart without regard to case");
    assert!(set["p50"].as_u64() <= set["p99"].as_u64() && set["p99"].as_u64() <= set["max"].as_u64());
    assert_eq!(row(&object, "by_prefix", "user:")["count"], 10);
    assert_eq!(row(&object, "by_prefix", "(no prefix)")["count"], 10);
    let segments = object["by_segment"]["rows"].as_array().expect("rows");
    assert!(segments.len() > 1);
    assert_eq!(segments[0]["first_index"], 1);
    let entries: u64 = segments.iter().map(|segment| segment["entries"].as_u64().expect("a number")).sum();
    assert_eq!(entries, 12);

    let deep = json(&run(
        0,
        &["stat", "--by", "prefix", "--depth", "2", "--top", "3", "--format", "json", &fixture.name],
    ));
    assert_eq!(deep["by_prefix"]["rows"].as_array().map(Vec::len), Some(3));
    assert!(deep.get("by_term").is_none() && deep["by_prefix"]["more"].as_u64() > Some(3), "{deep}");
    let chosen =
        json(&run(0, &["stat", "--key", "user:*", "--term", "1", "--format", "json", &fixture.name]));
    assert_eq!(row(&chosen, "by_command", "SET")["count"], 10);
}

#[test]
fn tables_for_people() {
    let fixture = Fixture::standard();
    let shown = run(0, &["stat", &fixture.name]);
    assert!(shown.starts_with("log       3 entries, 1..=3\n"), "{shown}");
    for title in ["type ", "term ", "command ", "key prefix ", "segment "] {
        assert!(shown.lines().any(|line| line.starts_with(title)), "{title}: {shown}");
    }
    assert_eq!(run(0, &["stat", "--by", "segment", &fixture.name]).matches("segment").count(), 1);
    let empty = Fixture::empty();
    drop(empty.create());
    assert!(run(0, &["stat", &empty.name]).starts_with("log       0 entries"));
}
