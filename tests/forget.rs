//! Which snapshots a policy keeps: as in restic, but that what is of the future or not complete pushes nothing out.

use std::collections::HashSet;

use vault::codec::Bytes;
use vault::forget::{Age, Count, GroupBy, Period, Policy, Reason, judge};
use vault::id::{ChunkId, SnapshotId};
use vault::snapshot::{Entry, Kind, Meta, Snapshot, Source, State, Time};

const EXPECTED: &str = include_str!("forget/restic-policies.txt");
const DAY: i64 = 86_400;

/// A snapshot begun at a time as `2014-09-01 10:20:30`, in UTC.
fn snapshot(time: &str, tags: &[&str]) -> Snapshot {
    let timestamp: jiff::Timestamp = format!("{}Z", time.replace(' ', "T")).parse().unwrap();
    let nanos = u32::try_from(timestamp.subsec_nanosecond()).unwrap();
    let start = Time { secs: timestamp.as_second(), nanos };
    let root = Entry {
        name: Bytes::default(),
        kind: Kind::Directory(ChunkId::from_bytes([0; 32])),
        meta: Meta::default(),
        fields: Vec::new(),
    };
    Snapshot {
        state: State::Complete,
        root,
        notes: None,
        sources: Vec::new(),
        label: String::new(),
        tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
        description: String::new(),
        host: "host".to_owned(),
        host_id: [0; 16],
        user: String::new(),
        program: String::new(),
        start,
        end: start,
        utc_offset_secs: 0,
        predecessor: None,
        made_from: Vec::new(),
        counters: Vec::new(),
        fields: Vec::new(),
    }
}

/// The snapshots of restic's test.
fn snapshots_of_restic() -> Vec<Snapshot> {
    let days = |year: u32, month: u32, days: &[u32], tags: &[&str]| -> Vec<Snapshot> {
        days.iter().map(|day| snapshot(&format!("{year}-{month:02}-{day:02} 10:20:30"), tags)).collect()
    };
    let early = [1, 2, 5, 6, 8, 9, 10, 11, 20, 22];
    let middle = [8, 10, 12, 13];
    let late = [15, 18, 20, 21, 22];
    let mut all = Vec::new();
    all.extend(days(2014, 9, &early, &[]));
    all.extend(days(2014, 8, &middle, &[]));
    all.push(snapshot("2014-08-13 10:20:30.1", &[]));
    all.extend(days(2014, 8, &late, &[]));
    all.extend(days(2014, 10, &early, &["foo"]));
    all.extend(days(2014, 11, &middle, &["foo"]));
    all.push(snapshot("2014-11-13 10:20:30.1", &["bar"]));
    all.push(snapshot("2014-11-15 10:20:30", &["foo", "bar"]));
    all.extend(days(2014, 11, &late[1..], &[]));
    all.extend(days(2015, 9, &early, &[]));
    all.extend(days(2015, 8, &middle, &[]));
    all.push(snapshot("2015-08-13 10:20:30.1", &[]));
    all.extend(days(2015, 8, &late, &[]));
    all.extend(days(2015, 10, &early, &[]));
    all.push(snapshot("2015-10-22 10:20:30", &[]));
    all.extend((0..3).map(|_| snapshot("2015-10-22 10:20:30", &["foo", "bar"])));
    all.extend(days(2015, 11, &middle, &[]));
    all.push(snapshot("2015-11-13 10:20:30.1", &[]));
    all.extend(days(2015, 11, &late, &[]));
    let times = [
        "01 01:02:03",
        "01 01:03:03",
        "01 07:08:03",
        "03 07:02:03",
        "04 10:23:03",
        "04 11:23:03",
        "04 12:23:03",
        "04 12:24:03",
        "04 12:28:03",
        "04 12:30:03",
        "04 16:23:03",
        "05 09:02:03",
        "06 08:02:03",
        "07 10:02:03",
        "08 20:02:03",
        "09 21:02:03",
        "12 21:02:03",
        "12 21:08:03",
        "18 12:02:03",
    ];
    all.extend(times.iter().map(|time| snapshot(&format!("2016-01-{time}"), &[])));
    all
}

/// A policy from its rules, as `last 5`, `day all`, `within 1y`, `within-day 7d`, `tags foo,bar`.
fn policy(rules: &[&str]) -> Policy {
    let period = |word: &str| match word {
        "last" => Period::Any,
        "hour" => Period::Hour,
        "day" => Period::Day,
        "week" => Period::Week,
        "month" => Period::Month,
        "year" => Period::Year,
        other => panic!("no period: {other}"),
    };
    let mut policy = Policy::default();
    for rule in rules {
        let (word, value) = rule.split_once(' ').unwrap();
        if word == "tags" {
            policy.tags.push(value.split(',').map(str::to_owned).collect());
        } else if let Some(rest) = word.strip_prefix("within") {
            let of = period(rest.strip_prefix('-').unwrap_or("last"));
            policy.within.push((of, value.parse::<Age>().unwrap()));
        } else {
            let count = if value == "all" { Count::All } else { Count::AtMost(value.parse().unwrap()) };
            policy.newest.push((period(word), count));
        }
    }
    policy
}

/// The policies of restic's test, in its order.
fn policies_of_restic() -> Vec<Policy> {
    const AGE: &str = "1y2m3d3h";
    let mut policies: Vec<Policy> = [
        &[][..],
        &["last 10"],
        &["last 15"],
        &["last 99"],
        &["last 200"],
        &["hour 20"],
        &["day 3"],
        &["day 10"],
        &["day 30"],
        &["last 5", "day 5"],
        &["last 2", "day 10"],
        &["week 2"],
        &["week 4"],
        &["day 3", "week 4"],
        &["month 6"],
        &["day 2", "week 2", "month 6"],
        &["year 10"],
        &["day 7", "week 2", "month 3", "year 10"],
        &["tags foo"],
        &["tags foo,bar"],
        &["tags foo", "tags bar"],
        &["within 1d"],
        &["within 2d"],
        &["within 7d"],
        &["within 1m"],
        &["within 1m14d"],
        &["within 1y1d1m"],
        &["within 13d23h"],
        &["within 2m2h"],
        &["within 1y2m3d3h"],
    ]
    .map(policy)
    .into();
    policies
        .extend(["hour", "day", "week", "month", "year"].map(|of| policy(&[&format!("within-{of} {AGE}")])));
    let all = [
        "within 1h",
        "within-hour 1d",
        "within-day 7d",
        "within-week 1m",
        "within-month 1y",
        "within-year 9999y",
    ];
    policies.push(policy(&all));
    policies.extend([
        policy(&["last all"]),
        policy(&["last all", "hour all"]),
        policy(&["hour all"]),
        policy(&["day 3", "week 2", "month all", "year all"]),
    ]);
    policies
}

/// A reason as restic says it.
fn words(reason: &Reason) -> String {
    let period = |period: &Period| match period {
        Period::Any => "last",
        Period::Hour => "hourly",
        Period::Day => "daily",
        Period::Week => "weekly",
        Period::Month => "monthly",
        Period::Year => "yearly",
    };
    let oldest = |oldest: &bool| if *oldest { "oldest " } else { "" };
    match reason {
        Reason::Tags(tags) => format!("has tags [{}]", tags.join(", ")),
        Reason::Newest(of, is_oldest) => format!("{}{} snapshot", oldest(is_oldest), period(of)),
        Reason::Within(Period::Any, age, _) => format!("within {age}"),
        Reason::Within(of, age, is_oldest) => format!("{}{} within {age}", oldest(is_oldest), period(of)),
        other => panic!("restic knows no such reason: {other:?}"),
    }
}

/// What a policy keeps of these, newest first, each with its reasons.
fn kept(policy: &Policy, snapshots: &[Snapshot], now: Time) -> Vec<String> {
    let all: Vec<&Snapshot> = snapshots.iter().collect();
    let mut kept: Vec<_> =
        all.iter().zip(policy.judge(&all, now)).filter(|(_, why)| !why.is_empty()).collect();
    kept.sort_by_key(|(snapshot, _)| std::cmp::Reverse(snapshot.start));
    let line = |(snapshot, why): (&&Snapshot, Vec<Reason>)| {
        let time =
            jiff::Timestamp::new(snapshot.start.secs, i32::try_from(snapshot.start.nanos).unwrap()).unwrap();
        format!("{time} {}", why.iter().map(words).collect::<Vec<_>>().join(", "))
    };
    kept.into_iter().map(line).collect()
}

fn now() -> Time {
    snapshot("2026-11-28 00:00:00", &[]).start
}

#[test]
fn the_forty_policies_of_restic_keep_what_they_keep_there_and_for_the_same_reasons() {
    let snapshots = snapshots_of_restic();
    assert_eq!(snapshots.len(), 103);
    let expected: Vec<Vec<&str>> =
        EXPECTED.split("case ").skip(1).map(|case| case.lines().skip(1).collect()).collect();
    let policies = policies_of_restic();
    assert_eq!((policies.len(), expected.len()), (40, 40));
    let mut lines = 0;
    for (number, (policy, expected)) in policies.iter().zip(expected).enumerate() {
        assert_eq!(kept(policy, &snapshots, now()), expected, "case {number}: {policy:?}");
        lines += expected.len();
    }
    assert_eq!(lines, 1047);
}

#[test]
fn what_is_of_the_future_pushes_nothing_out_and_is_kept() {
    let days = ["2026-11-25 01:00:00", "2026-11-26 01:00:00", "2026-11-27 01:00:00", "2031-01-01 00:00:00"];
    let snapshots = days.map(|day| snapshot(day, &[]));
    let all: Vec<&Snapshot> = snapshots.iter().collect();
    let judged = policy(&["last 1", "within 1d"]).judge(&all, now());
    let newest = Reason::Newest(Period::Any, false);
    let within = Reason::Within(Period::Any, "1d".parse().unwrap(), false);
    assert_eq!(judged, [vec![], vec![], vec![within, newest], vec![Reason::Future]]);
}

#[test]
fn what_is_not_complete_pushes_nothing_out_and_is_kept_until_a_complete_one_follows() {
    let mut snapshots = [25, 26, 27].map(|day| snapshot(&format!("2026-11-{day} 01:00:00"), &[]));
    for state in [State::Partial, State::Suspect, State::PartOfPlan] {
        snapshots[0].state = state;
        snapshots[1].state = State::Complete;
        snapshots[2].state = state;
        let all: Vec<&Snapshot> = snapshots.iter().collect();
        let judged = policy(&["last 1", "day all"]).judge(&all, now());
        let newest = vec![Reason::Newest(Period::Any, false), Reason::Newest(Period::Day, false)];
        assert_eq!(judged, [vec![], newest, vec![Reason::NotFollowed]], "{state:?}");
        // What is kept for its age pushes nothing out anyway.
        let judged = policy(&["within 7d"]).judge(&all, now());
        assert!(judged.iter().all(|why| !why.is_empty()), "{judged:?}");
        // Nor is one the oldest that a rule with room keeps.
        let judged = policy(&["year 5"]).judge(&all, now());
        assert_eq!(judged[0], [], "{judged:?}");
    }
}

#[test]
fn a_day_is_one_of_the_host_that_took_the_snapshot() {
    let mut snapshots = ["2026-11-25 21:30:00", "2026-11-25 22:30:00"].map(|time| snapshot(time, &[]));
    let kept = |snapshots: &[Snapshot]| {
        let all: Vec<&Snapshot> = snapshots.iter().collect();
        policy(&["day all"])
            .judge(&all, now())
            .iter()
            .filter(|why| !why.is_empty() && why[0] == Reason::Newest(Period::Day, false))
            .count()
    };
    assert_eq!(kept(&snapshots), 1);
    // Two hours east the second one is of the next day.
    for snapshot in &mut snapshots {
        snapshot.utc_offset_secs = 2 * 3600 - 1800;
    }
    assert_eq!(kept(&snapshots), 2);
}

#[test]
fn times_that_no_calendar_has_are_judged_all_the_same() {
    let mut snapshots = [0, 1, 2].map(|_| snapshot("2026-11-25 01:00:00", &[]));
    snapshots[0].start = Time { secs: i64::MIN, nanos: 0 };
    snapshots[1].start = Time { secs: -400 * 366 * DAY, nanos: 999_999_999 };
    snapshots[2].utc_offset_secs = i32::MAX;
    let all: Vec<&Snapshot> = snapshots.iter().collect();
    let judged = policy(&["year 2", "within 4294967295y"]).judge(&all, now());
    assert!(!judged[1].is_empty() && !judged[2].is_empty(), "{judged:?}");
    let judged = policy(&["last all"]).judge(&all, Time { secs: i64::MAX, nanos: 0 });
    assert!(judged.iter().all(|why| why.len() == 1), "{judged:?}");
}

#[test]
fn an_age_is_written_as_it_is_read() {
    for text in ["1y5m7d2h", "9999y", "48h", "1m"] {
        assert_eq!(text.parse::<Age>().unwrap().to_string(), text);
    }
    assert_eq!("1y1d1m".parse::<Age>().unwrap().to_string(), "1y1m1d");
    for wrong in ["", "7", "d", "7x", "0d", "-1d", "1d5", "99999999999y", "1ä"] {
        assert!(wrong.parse::<Age>().is_err(), "{wrong}");
    }
}

/// Three snapshots of a group each, newest last.
fn found() -> Vec<(SnapshotId, Snapshot)> {
    let source = |path: &str| Source {
        origin: String::new(),
        given: Bytes::default(),
        resolved: Bytes(path.into()),
        stored_at: Bytes::default(),
        carried: Vec::new(),
        users: Vec::new(),
        groups: Vec::new(),
    };
    let mut found = Vec::new();
    for (host, label, path) in [("a", "", "/x"), ("b", "", "/x"), ("a", "work", "/x"), ("a", "", "/y")] {
        for day in 20..23 {
            let mut snapshot = snapshot(&format!("2026-11-{day} 01:00:00"), &[]);
            (snapshot.host, snapshot.label) = (host.to_owned(), label.to_owned());
            snapshot.sources = vec![source(path)];
            let number = u8::try_from(found.len()).unwrap();
            found.push((SnapshotId::from_bytes([number; 32]), snapshot));
        }
    }
    found
}

#[test]
fn each_group_is_judged_for_itself_and_what_is_held_is_kept() {
    let found = found();
    let held = HashSet::from([found[0].0]);
    let last = policy(&["last 1"]);
    let forgotten = |by: GroupBy| -> usize {
        let groups = judge(&found, by, &last, &held, now());
        assert!(!groups.iter().any(|group| group.is_emptied(&found)));
        groups.iter().flat_map(|group| &group.members).filter(|(_, why)| why.is_empty()).count()
    };
    assert_eq!(forgotten(GroupBy::default()), 7);
    assert_eq!(forgotten(GroupBy { paths: false, ..GroupBy::default() }), 8);
    assert_eq!(forgotten(GroupBy { paths: false, label: false, ..GroupBy::default() }), 9);
    assert_eq!(forgotten(GroupBy { host: false, paths: false, label: false, tags: false }), 10);
    let groups = judge(&found, GroupBy::default(), &last, &held, now());
    assert_eq!(groups.len(), 4);
    assert_eq!(groups[0].members[0], (0, vec![Reason::Held]));
    // A policy that keeps nothing empties all groups but the one with what is held.
    let groups = judge(&found, GroupBy::default(), &policy(&["tags none"]), &held, now());
    let emptied: Vec<bool> = groups.iter().map(|group| group.is_emptied(&found)).collect();
    assert_eq!(emptied, [false, true, true, true]);
}
