//! Target: what users write: patterns, sizes, times, lengths of time, paths; and the rules of `forget` over snapshots of any time.
//!
//! Sizes and times are words of the program, not of the library, so their file is included here. JSON is only ever written.

use jiff::tz::{Offset, TimeZone};
use vault::browse::normalize;
use vault::error::Error;
use vault::forget::{Age, Count, Period, Policy};
use vault::id::ChunkId;
use vault::pattern::{CaseFold, Patterns, read_lines};
use vault::snapshot::{Snapshot, State, Time};

use super::Defect;
use super::fixed::{self, part};

#[path = "../../../src/bin/vault/args/values.rs"]
mod values;

use values::{Level, Memory, Rate, Subset, parse_label, parse_mark, parse_size, parse_time};

/// So many patterns at a time.
const MOST_PATTERNS: usize = 6;

pub fn text(input: &[u8], defect: Defect) {
    let Some((mode, rest)) = input.split_first() else { return };
    match mode % 4 {
        0 => patterns(rest, if mode & 4 == 0 { CaseFold::Exact } else { CaseFold::Ignore }),
        1 => words(rest, defect),
        2 => policy(rest),
        _ => {
            let path = normalize(rest);
            assert_eq!(normalize(&path), path);
            let is_name = |name: &[u8]| !matches!(name, b"" | b"." | b"..");
            assert!(path.is_empty() || path.split(|byte| *byte == b'/').all(is_name));
        }
    }
}

fn compiled(lines: &[String], fold: CaseFold) -> Option<Patterns> {
    match Patterns::new(lines.iter().map(|line| (line.clone(), fold))) {
        Ok(patterns) => Some(patterns),
        Err(Error::Usage(_)) => None,
        Err(error) => panic!("{error}"),
    }
}

/// The last pattern that matches decides, `!` takes back, and a folder is looked into if something below it matches.
fn patterns(input: &[u8], fold: CaseFold) {
    let (text, path) = part(input);
    let Ok(mut lines) = read_lines(text) else { return };
    assert!(lines.iter().all(|line| line.trim() == line && !line.is_empty() && !line.starts_with('#')));
    lines.truncate(MOST_PATTERNS);
    let path = normalize(path);
    let singles: Option<Vec<Patterns>> =
        lines.iter().map(|line| compiled(std::slice::from_ref(line), fold)).collect();
    let (Some(all), Some(singles)) = (compiled(&lines, fold), singles) else { return };
    for is_dir in [false, true] {
        let found = all.matches(&path, is_dir);
        let decisive = singles.iter().rev().find_map(|single| single.matches(&path, is_dir));
        assert_eq!(found, decisive, "the last one that matches does not decide");
        assert_eq!(all.matches(&[b"/", &path[..]].concat(), is_dir), found, "a leading slash counts");
        if found == Some(true) {
            let slashes = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
            for end in slashes.chain([0]).filter(|_| !path.is_empty()) {
                assert!(
                    all.may_contain(&path[..end]),
                    "nobody would look into {}",
                    path[..end].escape_ascii()
                );
            }
        }
        for (line, single) in lines.iter().zip(&singles) {
            let negated = if let Some(line) = line.strip_prefix('!') { line } else { &format!("!{line}") };
            let found = compiled(&[negated.to_owned()], fold).map(|negated| negated.matches(&path, is_dir));
            // What begins with two of them cannot be taken back once more.
            let is_same = found == Some(single.matches(&path, is_dir).map(|includes| !includes));
            assert!(is_same || line.starts_with("!!"), "{line:?}");
        }
    }
}

fn words(input: &[u8], defect: Defect) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    if let Ok(age) = text.parse::<Age>() {
        assert_eq!(age.to_string().parse(), Ok(age), "{text:?}");
        let before = age.before_time(Time { secs: 1_700_000_000, nanos: 0 });
        assert!(before.secs <= 1_700_000_000, "{text:?}");
    }
    if let Ok(size) = parse_size(text) {
        let mut bytes = size.to_le_bytes();
        defect.spoil(size % 10 == 3, &mut bytes);
        assert_eq!(parse_size(&u64::from_le_bytes(bytes).to_string()), Ok(size), "{text:?}");
        let is_rate = text.parse::<Rate>() == Ok(Rate(size));
        assert_eq!(is_rate, size > 0, "{text:?}");
        assert!(text.parse::<Memory>().is_err() || text.parse() == Ok(Memory(size)), "{text:?}");
        assert_eq!(text.parse::<Subset>().is_ok(), size > 0, "{text:?}");
    }
    match text.parse() {
        Ok(Subset::Percent(percent)) => assert!(percent > 0.0 && percent <= 100.0, "{text:?}"),
        Ok(Subset::Part(part, of)) => assert!(part >= 1 && part <= of, "{text:?}"),
        Ok(Subset::Bytes(bytes)) => assert_eq!(parse_size(text), Ok(bytes)),
        Err(_) => {}
    }
    for offset in [0, 13, -12] {
        let zone = TimeZone::fixed(Offset::constant(offset));
        if let Ok(time) = parse_time(text, &zone) {
            assert_eq!(time.validate(), Ok(()), "{text:?}");
        }
    }
    drop(text.parse::<Level>());
    assert!(
        parse_label(text).is_ok_and(|label| label == text)
            || !text.bytes().all(|byte| byte.is_ascii_alphanumeric())
    );
    assert!(
        !parse_mark(text).is_ok_and(|mark| mark.split(':').next().is_some_and(|name| name.contains('/')))
    );
}

/// A number of a few bytes, spread over all sizes.
fn spread(bytes: [u8; 4]) -> i64 {
    let number = i64::from(i32::from_le_bytes(bytes));
    if bytes[0].is_multiple_of(2) { number } else { number << (bytes[0] % 32) }
}

/// A rule more never keeps less; what is kept does not hang on the order.
fn policy(input: &[u8]) {
    let (rules, snapshots) = part(input);
    let mut policy = Policy::default();
    let (periods, mut wider) =
        ([Period::Any, Period::Hour, Period::Day, Period::Week, Period::Month, Period::Year], None);
    for rule in rules.as_chunks::<4>().0.iter().take(8) {
        let [kind, a, b, c] = *rule;
        wider = Some(policy.clone());
        let period = periods[usize::from(kind) % periods.len()];
        let number = |byte: u8| if byte == 255 { u32::MAX } else { u32::from(byte) };
        if kind < 128 {
            let count = if a == 0 { Count::All } else { Count::AtMost(number(a)) };
            policy.newest.push((period, count));
        } else {
            let age = Age { years: number(a), months: number(b), days: number(c), hours: number(a ^ b) };
            policy.within.push((period, age));
        }
    }
    let made = |bytes: &[u8; 10]| {
        let four = |from: usize| spread([bytes[from], bytes[from + 1], bytes[from + 2], bytes[from + 3]]);
        let offset = i32::try_from(four(4) % (1 << 31)).unwrap_or(0);
        let start = Time { secs: four(0), nanos: u32::from(bytes[8]) };
        let state = if bytes[9] % 4 == 3 { State::Partial } else { State::Complete };
        Snapshot { start, state, utc_offset_secs: offset, ..fixed::snapshot(ChunkId::from_bytes([0; 32]), 0) }
    };
    let snapshots: Vec<Snapshot> = snapshots.as_chunks().0.iter().take(40).map(made).collect();
    let now = Time { secs: 1_700_000_000, nanos: 0 };
    let kept = |policy: &Policy, snapshots: &[&Snapshot]| -> Vec<bool> {
        policy.judge(snapshots, now).iter().map(|reasons| !reasons.is_empty()).collect()
    };
    let mut order: Vec<&Snapshot> = snapshots.iter().collect();
    let found = kept(&policy, &order);
    assert_eq!(found.len(), snapshots.len());
    if let Some(wider) = wider {
        let before = kept(&wider, &order);
        assert!(before.iter().zip(&found).all(|(before, found)| !before || *found), "a rule more keeps less");
    }
    let mut starts: Vec<Time> = order.iter().map(|snapshot| snapshot.start).collect();
    starts.sort_unstable();
    order.reverse();
    let mut reversed = kept(&policy, &order);
    reversed.reverse();
    assert!(found == reversed || starts.windows(2).any(|pair| pair[0] == pair[1]), "the order counts");
}
