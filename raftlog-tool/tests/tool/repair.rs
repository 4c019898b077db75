//! `repair`: what it says, what it changes, and that a node starts with what it leaves.

use std::path::{Path, PathBuf};

use redisraft::log::{HardState, Kind, Log, LogError, Options, Recovery, WriteRequest};

use crate::support::*;

/// A log of several segments and 9 entries of about 2 KB; entry 5 was written twice.
fn several_segments(fixture: &Fixture) -> Vec<(u64, u64)> {
    let mut writer = fixture.create();
    let payload = |number: u64| effects(&[&format!("SET key:{number} {}", "v".repeat(2000))]);
    for number in 1..=6 {
        writer.append(1, Kind::Normal, &payload(number));
    }
    writer.replace(5, 2, &payload(50));
    for number in 6..=8 {
        writer.append(2, Kind::Normal, &payload(number));
    }
    writer.append(3, Kind::NoOp, b"");
    // META is written late: it says that nearly all of this was durable.
    let hard_state = Some(HardState { term: 3, vote: None });
    writer.write(WriteRequest { hard_state, ..WriteRequest::default() });
    drop(writer);
    contents(&open(&fixture.path).expect("open").0)
}

fn open(directory: &Path) -> Result<(Log, Recovery), LogError> {
    Log::open(directory, Options { segment_bytes: 8192, ..Options::default() }, Box::new(|| ()))
}

/// Index and term of every entry, after reading it.
fn contents(log: &Log) -> Vec<(u64, u64)> {
    let read = |index| log.read(index).expect("readable");
    (log.first_index()..=log.last_index()).map(|index| (index, read(index).term)).collect()
}

fn copy_of(fixture: &Fixture) -> Fixture {
    let copy = Fixture::empty();
    std::fs::create_dir(&copy.path).expect("create");
    for (path, bytes) in fixture.content() {
        std::fs::write(copy.file(path.file_name().expect("a name").to_str().expect("UTF-8")), bytes)
            .expect("write");
    }
    copy
}

/// The directory that a repair put aside what was there before.
fn kept(directory: &Path) -> PathBuf {
    let names = std::fs::read_dir(directory).expect("list").map(|item| item.expect("an entry").path());
    let cut =
        |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("cut-"));
    names.filter(cut).max().expect("a directory")
}

fn cut_at(index: u64, fixture: &Fixture) -> String {
    let index = index.to_string();
    run(6, &["repair", "--truncate-at", &index, "--accept-data-loss", "--apply", &fixture.name])
}

#[test]
fn a_clean_log_needs_nothing() {
    let fixture = Fixture::standard();
    let before = fixture.content();
    for apply in [&[][..], &["--apply"]] {
        let shown = run(0, &[&["repair"], apply, &[&fixture.name]].concat());
        assert!(shown.starts_with("clean: there is nothing to repair"), "{shown}");
    }
    // The lock was held, and says by whom.
    std::fs::write(
        fixture.file("LOCK"),
        &before.iter().find(|(path, _)| path.ends_with("LOCK")).expect("LOCK").1,
    )
    .expect("write");
    fixture.assert_content(&before, "repair of a clean log");
}

#[test]
fn a_dry_run_changes_not_one_byte() {
    let fixture = Fixture::empty();
    several_segments(&fixture);
    let (file, offset) = fixture.place(4);
    let torn = |fixture: &Fixture| {
        let (file, _) = fixture.place(9);
        change(&fixture.file(&file), |bytes| {
            let end = bytes.iter().rposition(|byte| *byte != 0).expect("records");
            bytes[end + 600] = 7;
        });
    };
    let cut = ["--truncate-at", "3", "--accept-data-loss"];
    type Damage<'d> = &'d dyn Fn(&Fixture);
    let cases: [(Damage, &[&str], i32); 5] = [
        (&|_| (), &cut, 0),
        (&|fixture| fixture.flip(&file, offset + 40), &[], 1),
        (&|fixture| fixture.flip(&file, offset + 40), &cut, 1),
        (&|fixture| fixture.flip("0000000001.idx", 80), &[], 0),
        (&torn, &[], 0),
    ];
    for (damage, arguments, code) in cases {
        let copy = copy_of(&fixture);
        damage(&copy);
        let before = copy.content();
        let shown = run(code, &[&["repair"], arguments, &[&copy.name]].concat());
        assert!(shown.contains("dry run: nothing was changed") || shown.contains("without loss"), "{shown}");
        copy.assert_content(&before, &shown);
    }
}

#[test]
fn a_torn_tail_is_zeroed_and_kept() {
    let fixture = Fixture::standard();
    change(&fixture.segment(), |bytes| {
        let end = bytes.iter().rposition(|byte| *byte != 0).expect("records");
        bytes[end + 100] = 7;
    });
    let torn = std::fs::read(fixture.segment()).expect("read");
    let shown = run(0, &["repair", &fixture.name]);
    assert!(shown.contains("torn: would zero") && shown.contains("never acknowledged"), "{shown}");
    let shown = run(0, &["repair", "--truncate-torn", "--apply", &fixture.name]);
    assert!(shown.contains("torn: zeroed") && shown.contains("kept: what was there before"), "{shown}");
    assert!(std::fs::read(kept(&fixture.path).join("0000000001.log")).expect("read") == torn);
    let (log, recovery) = open(&fixture.path).expect("open");
    assert_eq!((recovery.torn, log.last_index(), log.is_trusted()), (None, 3, true));
}

#[test]
fn index_files_are_made_anew() {
    let fixture = Fixture::empty();
    let entries = several_segments(&fixture);
    let before = fixture.content();
    fixture.flip("0000000001.idx", 80);
    std::fs::remove_file(fixture.file("0000000002.idx")).expect("remove");
    let object = json(&run(0, &["repair", "--rebuild-index", "--apply", "--format", "json", &fixture.name]));
    assert_eq!(object["actions"].as_array().map(Vec::len), Some(2), "{object}");
    assert_eq!((&object["applied"], &object["exit_code"]), (&true.into(), &0.into()));
    for (path, bytes) in before.iter().filter(|(path, _)| path.extension().is_some_and(|end| end == "idx")) {
        assert!(&std::fs::read(path).expect("read") == bytes, "{}", path.display());
    }
    let (log, recovery) = open(&fixture.path).expect("open");
    assert!(recovery.rebuilt_indexes.is_empty());
    assert_eq!((contents(&log), log.is_trusted()), (entries, true));
}

#[test]
fn a_log_can_be_cut_at_every_entry_and_goes_on() {
    let fixture = Fixture::empty();
    let entries = several_segments(&fixture);
    let segments = std::fs::read_dir(&fixture.path).expect("list").count();
    assert!(segments >= 3 * 2 + 2, "{segments} files");
    for index in 1..=entries.len() as u64 {
        let copy = copy_of(&fixture);
        let shown = cut_at(index, &copy);
        assert!(shown.contains(&format!("the log ends at entry {} now", index - 1)), "{shown}");
        let report = run(0, &["verify", "--deep", &copy.name]);
        assert!(report.contains("does not vote until it has caught up"), "{report}");
        let mut writer = copy.open();
        assert_eq!(contents(&writer.log), entries[..index as usize - 1], "cut at {index}");
        assert!(
            !writer.log.is_trusted() && writer.recovery.as_ref().is_some_and(|found| found.torn.is_none())
        );
        writer.append(9, Kind::Normal, SET);
        writer.append(9, Kind::Normal, &effects(&[&format!("SET k {}", "v".repeat(6000))]));
        drop(writer);
        let (log, _) = open(&copy.path).expect("open again");
        assert_eq!((log.last_index(), log.is_trusted()), (index + 1, false));
    }
}

#[test]
fn damage_is_cut_away_where_it_stands() {
    let fixture = Fixture::empty();
    let entries = several_segments(&fixture);
    for index in 2..entries.len() as u64 {
        let (file, offset) = fixture.place(index);
        let copy = copy_of(&fixture);
        copy.flip(&file, offset + 34);
        let broken = copy.content();
        let shown = run(1, &["repair", "--apply", &copy.name]);
        assert!(shown.contains(&format!("(entry {index} of term ")), "{shown}");
        assert!(shown.contains(&format!("--truncate-at {index} --accept-data-loss")), "{shown}");
        cut_at(index, &copy);
        assert_all_is_kept(&copy, &broken);
        let (log, recovery) = open(&copy.path).expect("open");
        assert_eq!((contents(&log), recovery.holes.len()), (entries[..index as usize - 1].to_vec(), 0));
    }
}

/// What was cut is kept, as whole files: putting it back undoes all.
fn assert_all_is_kept(fixture: &Fixture, before: &[(PathBuf, Vec<u8>)]) {
    let kept = kept(&fixture.path);
    for (path, bytes) in before.iter().filter(|(path, _)| !path.ends_with("LOCK")) {
        let aside = kept.join(path.file_name().expect("a name"));
        let found = std::fs::read(if aside.exists() { aside } else { path.clone() }).expect("read");
        assert!(&found == bytes, "{}", path.display());
    }
}

#[test]
fn what_is_known_before_the_cut_is_mended_and_kept_as_it_was() {
    let fixture = Fixture::empty();
    fixture.create().append_all(1, Kind::Normal, &[SET; 6]);
    // The mark at the begin of the segment.
    fixture.flip("0000000001.log", 4096 + 9);
    let before = fixture.content();
    let shown = cut_at(4, &fixture);
    assert!(shown.contains("known: wrote anew"), "{shown}");
    assert_all_is_kept(&fixture, &before);
    let (log, recovery) = open(&fixture.path).expect("open");
    assert_eq!((log.last_index(), recovery.rewritten.len()), (3, 0));
}

#[test]
fn a_hole_before_the_cut_stays_one() {
    let fixture = Fixture::empty();
    let payloads: Vec<_> = (1..=6).map(|number| effects(&[&format!("SET key:{number} v")])).collect();
    let borrowed: Vec<&[u8]> = payloads.iter().map(Vec::as_slice).collect();
    fixture.create().append_all(1, Kind::Normal, &borrowed);
    fixture.flip_payload(b"key:2");
    for cut in [5, 3] {
        cut_at(cut, &fixture);
        let (log, recovery) = open(&fixture.path).expect("open");
        let holes: Vec<u64> = recovery.holes.iter().map(|hole| hole.index).collect();
        assert_eq!((log.last_index(), holes), (cut - 1, vec![2]), "the index still says what it was");
    }
}

#[test]
fn damage_that_nothing_identifies_is_cut_away() {
    let fixture = Fixture::empty();
    let payloads: Vec<_> = (1..=8).map(|number| effects(&[&format!("SET key:{number} v")])).collect();
    let borrowed: Vec<&[u8]> = payloads.iter().map(Vec::as_slice).collect();
    let mut writer = fixture.create();
    writer.append_all(1, Kind::Normal, &borrowed);
    writer.append(2, Kind::NoOp, b"");
    drop(writer);
    let (file, offset) = fixture.place(4);
    fixture.wreck(&file, offset);
    let broken = fixture.content();
    assert!(open(&fixture.path).is_err());
    let shown = run(1, &["repair", "--apply", &fixture.name]);
    assert!(shown.contains("cannot be mended without loss") && shown.contains("--truncate-at 4 "), "{shown}");
    let refused = complaint(2, &["repair", "--truncate-at", "5", "--accept-data-loss", &fixture.name]);
    assert!(refused.contains("give --truncate-at 4 or less"), "{refused}");
    cut_at(4, &fixture);
    assert_all_is_kept(&fixture, &broken);
    let (log, _) = open(&fixture.path).expect("open");
    assert_eq!((log.last_index(), log.is_trusted()), (3, false));
}

#[test]
fn what_is_known_is_written_anew() {
    for (name, offset) in
        [("0000000001.log", 4096 + 9), ("0000000002.log", 60), ("0000000002.log", 4096 + 33)]
    {
        let fixture = Fixture::empty();
        let entries = several_segments(&fixture);
        let before = std::fs::read(fixture.file(name)).expect("read");
        fixture.flip(name, offset);
        let shown = run(1, &["repair", &fixture.name]);
        assert!(shown.contains("known: would write anew") && shown.contains("dry run"), "{shown}");
        let shown = run(0, &["repair", "--apply", &fixture.name]);
        assert!(shown.contains("known: wrote anew"), "{shown}");
        assert!(std::fs::read(fixture.file(name)).expect("read") == before, "{name} at {offset}");
        let (log, recovery) = open(&fixture.path).expect("open");
        assert_eq!((contents(&log), recovery.rewritten.len(), log.is_trusted()), (entries, 0, true));
    }
}

#[test]
fn the_only_member_there_ever_was_is_not_distrusted() {
    let other = MEMBER.to_vec();
    let two = [
        &other[..],
        b"*5\r\n$6\r\nMEMBER\r\n$1\r\n6\r\n$5\r\nvoter\r\n$6\r\nhost:2\r\n$10\r\nhost:10002\r\n",
    ]
    .concat();
    type Payloads<'p> = &'p [&'p [u8]];
    let cases: [(Payloads, Payloads, bool); 5] = [
        (&[MEMBER], &[], true),
        (&[MEMBER, MEMBER], &[], true),
        (&[MEMBER, &two], &[], false),
        (&[MEMBER], &[&two], false),
        (&[], &[], false),
    ];
    for (before, after, trusted) in cases {
        let fixture = Fixture::empty();
        let mut writer = fixture.create();
        before.iter().for_each(|members| writer.append(1, Kind::Membership, members));
        writer.append_all(1, Kind::Normal, &[SET, SET]);
        after.iter().for_each(|members| writer.append(1, Kind::Membership, members));
        drop(writer);
        let shown = cut_at(before.len() as u64 + 2, &fixture);
        assert_eq!(shown.contains("goes on without them"), trusted, "{shown}");
        assert_eq!(open(&fixture.path).expect("open").0.is_trusted(), trusted);
    }
    // A membership that was truncated is not the one in force.
    let fixture = Fixture::empty();
    let mut writer = fixture.create();
    writer.append(1, Kind::Membership, &two);
    writer.append(1, Kind::Membership, MEMBER);
    writer.replace(2, 2, SET);
    writer.append(2, Kind::Normal, SET);
    drop(writer);
    cut_at(3, &fixture);
    assert!(!open(&fixture.path).expect("open").0.is_trusted());
}

#[test]
fn a_segment_without_its_header_and_its_first_record_goes_whole() {
    for name in ["0000000003.log", "0000000001.log"] {
        let fixture = Fixture::empty();
        several_segments(&fixture);
        fixture.wreck(name, 4096);
        fixture.flip(name, 30);
        let object = json(&run(1, &["repair", "--format", "json", &fixture.name]));
        let found = object["last_index"].as_u64().expect("a number");
        let shown = cut_at(found + 1, &fixture);
        assert!(shown.contains(&format!("{name} whole")), "{shown}");
        let mut writer = fixture.open();
        assert_eq!((writer.log.last_index(), writer.log.is_trusted()), (found, false));
        writer.append(9, Kind::Normal, SET);
        drop(writer);
        assert_eq!(open(&fixture.path).expect("open").0.last_index(), found + 1);
    }
}

#[test]
fn a_repair_that_was_interrupted_is_done_by_doing_it_again() {
    let fixture = Fixture::empty();
    let entries = several_segments(&fixture);
    let (file, offset) = fixture.place(3);
    fixture.flip(&file, offset + 40);
    let before = copy_of(&fixture);
    let object = json(&run(
        1,
        &["repair", "--truncate-at", "3", "--accept-data-loss", "--format", "json", &fixture.name],
    ));
    let moved: Vec<String> = object["actions"][0]["moved"]
        .as_array()
        .expect("files")
        .iter()
        .map(|file| {
            Path::new(file.as_str().expect("a path"))
                .file_name()
                .expect("a name")
                .to_str()
                .expect("UTF-8")
                .to_string()
        })
        .collect();
    assert!(moved.len() >= 4, "{object}");
    cut_at(3, &fixture);
    let index = file.replace(".log", ".idx");
    let steps: Vec<&str> =
        ["META"].into_iter().chain(moved.iter().map(String::as_str)).chain([index.as_str(), &file]).collect();
    for done in 0..=steps.len() {
        let halfway = copy_of(&before);
        for name in &steps[..done] {
            match std::fs::read(fixture.file(name)) {
                Ok(bytes) => std::fs::write(halfway.file(name), bytes).expect("write"),
                Err(_) => std::fs::remove_file(halfway.file(name)).expect("remove"),
            }
        }
        let opened = open(&halfway.path);
        let good = |log: &Log| log.last_index() == 2 && contents(log) == entries[..2];
        let holed = |found: &Recovery| found.holes.iter().any(|hole| hole.index == 3);
        assert!(
            opened.is_err() || opened.is_ok_and(|(log, found)| good(&log) || holed(&found)),
            "after step {done}"
        );
        let again = tool(&["repair", "--truncate-at", "3", "--accept-data-loss", "--apply", &halfway.name]);
        let finished = done == steps.len();
        assert_eq!(again.status.code(), Some(if finished { 2 } else { 6 }), "after step {done}: {again:?}");
        let (log, _) = open(&halfway.path).expect("open");
        assert_eq!((contents(&log), log.is_trusted()), (entries[..2].to_vec(), false));
    }
}

#[test]
fn what_goes_can_be_kept_elsewhere() {
    let fixture = Fixture::empty();
    several_segments(&fixture);
    let elsewhere = tempfile::tempdir().expect("tempdir");
    let backup = elsewhere.path().join("new").to_str().expect("UTF-8").to_string();
    let arguments = ["repair", "--truncate-at", "2", "--accept-data-loss", "--apply", "--backup", &backup];
    run(6, &[&arguments[..], &[&fixture.name]].concat());
    let names = |directory: &Path| -> Vec<String> {
        let items = std::fs::read_dir(directory).expect("list");
        items.map(|item| item.expect("an entry").file_name().to_string_lossy().into_owned()).collect()
    };
    let kept = kept(Path::new(&backup));
    assert!(names(&kept).iter().any(|name| name == "META") && names(&kept).len() >= 5);
    assert!(names(&fixture.path).iter().all(|name| !name.starts_with("cut-")));
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::metadata(&kept).expect("metadata").permissions().mode();
    assert_eq!(mode & 0o777, 0o700, "META holds the secret");
}

#[test]
fn no_flag_gets_around_the_lock() {
    let fixture = Fixture::empty();
    let writer = fixture.create().standard();
    let ours = |fixture: &Fixture| {
        ["META", "LOCK", "0000000001.log"].map(|name| std::fs::read(fixture.file(name)).expect("read"))
    };
    let before = ours(&fixture);
    for arguments in [
        &[][..],
        &["--apply"],
        &["--truncate-at", "2", "--accept-data-loss"],
        &["--truncate-at", "2", "--accept-data-loss", "--apply"],
    ] {
        let complaint = complaint(4, &[&["repair"], arguments, &[&fixture.name]].concat());
        assert!(complaint.contains(&format!("by process {}", std::process::id())), "{complaint}");
    }
    assert!(ours(&fixture) == before);
    drop(writer);
    run(0, &["repair", &fixture.name]);
}

#[test]
fn wrong_use_is_refused() {
    let fixture = Fixture::standard();
    for arguments in [
        &["--truncate-at", "2"][..],
        &["--accept-data-loss"],
        &["--truncate-at", "4", "--accept-data-loss", "--apply"],
        &["--truncate-at", "9", "--accept-data-loss", "--apply"],
        &["--truncate-at", "0", "--accept-data-loss", "--apply"],
        &["--truncate-at", "2", "--accept-data-loss", "--rebuild-index"],
    ] {
        complaint(2, &[&["repair"], arguments, &[&fixture.name]].concat());
    }
    let nothing = Fixture::empty();
    assert!(complaint(2, &["repair", "--apply", &nothing.name]).contains("holds no log"));
    assert!(!nothing.path.exists());
    fixture.flip("META", 30);
    fixture.flip("META", 8192 + 30);
    assert!(complaint(1, &["repair", "--apply", &fixture.name]).contains("META"));
}
