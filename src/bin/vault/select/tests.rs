//! Selectors over made-up snapshots.

use jiff::tz::TimeZone;
use vault::id::{ChunkId, SnapshotId};
use vault::snapshot::{Entry, Kind, Meta, Snapshot, State, Time};

use super::*;

fn parse(text: &[u8]) -> Selector {
    Selector::parse(OsStr::from_bytes(text))
        .unwrap_or_else(|error| panic!("{}: {error}", text.escape_ascii()))
}

fn snapshot(id: u8, secs: i64, tree: u8, label: &str, state: State) -> (SnapshotId, Snapshot) {
    let root = Entry {
        name: Vec::new().into(),
        kind: Kind::Directory(ChunkId::from_bytes([tree; 32])),
        meta: Meta::default(),
        fields: Vec::new(),
    };
    let time = Time { secs, nanos: 999_999_999 };
    let snapshot = Snapshot {
        state,
        root,
        notes: None,
        sources: Vec::new(),
        label: label.to_owned(),
        tags: Vec::new(),
        description: String::new(),
        host: String::new(),
        host_id: [0; 16],
        user: String::new(),
        program: String::new(),
        start: time,
        end: time,
        utc_offset_secs: 0,
        predecessor: None,
        made_from: Vec::new(),
        counters: Vec::new(),
        fields: Vec::new(),
    };
    (SnapshotId::from_bytes([id; 32]), snapshot)
}

const DAY: i64 = 86400;

/// Days 0 to 4 of 1970: a complete one each, the fourth labelled, and a partial one at the end.
fn snapshots() -> Vec<(SnapshotId, Snapshot)> {
    vec![
        snapshot(0xa1, 0, 1, "", State::Complete),
        snapshot(0xa2, DAY, 2, "work", State::Complete),
        snapshot(0xb1, 2 * DAY, 3, "", State::Complete),
        snapshot(0xb2, 3 * DAY - 1, 3, "", State::Complete),
        snapshot(0xc1, 4 * DAY, 4, "", State::Partial),
    ]
}

fn chosen(text: &str) -> Option<usize> {
    select(&parse(text.as_bytes()), &snapshots(), &TimeZone::UTC).ok()
}

#[test]
fn paths_are_split_off_at_the_first_colon_outside_of_a_time() {
    assert_eq!(parse(b"latest:/a:b@c").path(), b"a:b@c");
    assert_eq!(parse(b"latest:/a\xff").path(), b"a\xff");
    assert_eq!(parse(b"latest:").path, Some(Vec::new()));
    assert_eq!(parse(b"latest").path, None);
    let timed = parse(b"2026-11-20 14:10:/x");
    assert_eq!((timed.which.to_string().as_str(), timed.path()), ("2026-11-20 14:10", &b"x"[..]));
    let timed = parse(b"work@2026-11-20T14:10:30:y/../z");
    assert_eq!((timed.label.as_deref(), timed.path()), (Some("work"), &b"z"[..]));
    assert_eq!(timed.which.to_string(), "2026-11-20T14:10:30");
    assert_eq!(parse(b"2026-11-20:14").path(), b"14");
}

#[test]
fn what_names_no_snapshot_is_refused() {
    for text in
        ["", "latest~", "latest~x", "latest2", "2026-13-01", "2026-11-20 25:00", "work", ":/x", "xyz@zzz"]
    {
        assert!(Selector::parse(OsStr::new(text)).is_err(), "{text}");
    }
}

#[test]
fn snap_1_only_complete_snapshots_answer_latest_previous_and_dates() {
    assert_eq!(chosen("latest"), Some(3));
    assert_eq!(chosen("latest~1"), Some(2));
    assert_eq!(chosen("latest~3"), Some(0));
    assert_eq!(chosen("latest~4"), None);
    assert_eq!(chosen("1970-01-05"), Some(3));
    assert_eq!(chosen("c1"), Some(4));
}

#[test]
fn previous_differs_from_the_latest() {
    assert_eq!(chosen("previous"), Some(1));
    assert_eq!(chosen("work@previous"), None);
}

#[test]
fn a_date_is_its_whole_day_and_a_minute_its_whole_minute() {
    assert_eq!(chosen("1970-01-01"), Some(0));
    assert_eq!(chosen("1970-01-03"), Some(3));
    assert_eq!(chosen("1970-01-03 23:58"), Some(2));
    assert_eq!(chosen("1970-01-03 23:59"), Some(3));
    assert_eq!(chosen("1970-01-03 23:59:58"), Some(2));
    assert_eq!(chosen("1969-12-31"), None);
    let east = TimeZone::fixed(jiff::tz::offset(1));
    let select_east = |text: &[u8]| select(&parse(text), &snapshots(), &east).ok();
    assert_eq!(select_east(b"1970-01-03"), Some(2));
}

#[test]
fn labels_narrow_the_choice() {
    assert_eq!(chosen("work@latest"), Some(1));
    assert_eq!(chosen("work@"), Some(1));
    assert_eq!(chosen("@latest"), Some(3));
    assert_eq!(chosen("work@b1"), None);
    assert_eq!(chosen("other@latest"), None);
}

#[test]
fn the_beginning_of_an_id_must_fit_one_snapshot_only() {
    assert_eq!(chosen("b1"), Some(2));
    assert_eq!(chosen("B2B2"), Some(3));
    assert_eq!(chosen("d"), None);
    let error = select(&parse(b"a"), &snapshots(), &TimeZone::UTC);
    assert!(matches!(error, Err(Error::Usage(text)) if text.contains("a1a1a1") && text.contains("a2a2a2")));
}
