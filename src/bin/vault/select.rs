//! Which snapshot is meant: `[LABEL@]WHICH[:PATH]`, and its answer among the snapshots of a repository.
//!
//! Pure functions: neither clock nor repository, the time zone is given. Only complete snapshots answer `latest`, `previous` and
//! dates `[SNAP-1]`; an id answers for any.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;

use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;
use vault::error::{Error, Result};
use vault::id::SnapshotId;
use vault::snapshot::{Snapshot, State};

use crate::args::from_timestamp;
use crate::render::text::time;

/// What the user wrote, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selector {
    /// Only among snapshots with this label.
    pub label: Option<String>,
    /// Which one.
    pub which: Which,
    /// What of it: normalized, nothing if the user named no path.
    pub path: Option<Vec<u8>>,
}

/// Which snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Which {
    /// The newest but so many.
    Latest(usize),
    /// The newest whose tree differs from the latest's.
    Previous,
    /// The newest begun before this moment; and the text it was written as.
    Before(DateTime, String),
    /// The one whose id begins so.
    Id(String),
}

impl fmt::Display for Which {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Latest(0) => f.write_str("latest"),
            Self::Latest(back) => write!(f, "latest~{back}"),
            Self::Previous => f.write_str("previous"),
            Self::Before(_, text) | Self::Id(text) => f.write_str(text),
        }
    }
}

impl Selector {
    /// Takes apart what the user wrote.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub fn parse(text: &OsStr) -> std::result::Result<Self, String> {
        let (head, path) = split_path(text.as_bytes());
        let head = std::str::from_utf8(head).map_err(|_| "the name of a snapshot is UTF-8".to_owned())?;
        let (label, which) = match head.rsplit_once('@') {
            Some((label, which)) => (Some(label.to_owned()), which),
            None => (None, head),
        };
        // `work@` is the latest of that label.
        let which = if which.is_empty() && label.is_some() { Which::Latest(0) } else { parse_which(which)? };
        Ok(Self { label, which, path: path.map(vault::browse::normalize) })
    }

    /// The path, empty for the whole snapshot.
    pub fn path(&self) -> &[u8] {
        self.path.as_deref().unwrap_or_default()
    }
}

/// So that clap can read it from raw arguments.
impl clap::builder::ValueParserFactory for Selector {
    type Parser = clap::builder::ValueParser;

    fn value_parser() -> Self::Parser {
        let parser = clap::builder::OsStringValueParser::new();
        clap::builder::ValueParser::new(clap::builder::TypedValueParser::try_map(parser, |text| {
            Self::parse(&text)
        }))
    }
}

/// Splits at the first colon that is not part of a time of day.
fn split_path(text: &[u8]) -> (&[u8], Option<&[u8]>) {
    let start = text.iter().position(|byte| *byte == b'@').map_or(0, |at| at + 1);
    let time_len = text.get(start..).map_or(0, time_of_day_end);
    let from = start + time_len;
    let first = text.iter().position(|byte| *byte == b':');
    // An `@` behind the first colon belongs to a path.
    let from = if first.is_some_and(|colon| colon < start) { 0 } else { from };
    let colon = text.iter().skip(from).position(|byte| *byte == b':').map(|colon| colon + from);
    match colon {
        Some(colon) => {
            let (head, path) = text.split_at(colon);
            (head, path.get(1..))
        }
        None => (text, None),
    }
}

/// How many bytes at the start are a date and time of day, `2026-11-20 14:10` or `2026-11-20T14:10:30`; else 0.
fn time_of_day_end(text: &[u8]) -> usize {
    let fits = |pattern: &[u8]| {
        text.len() >= pattern.len()
            && pattern.iter().zip(text).all(|(pattern, byte)| match pattern {
                b'0' => byte.is_ascii_digit(),
                b'T' => matches!(byte, b'T' | b' '),
                other => other == byte,
            })
    };
    let patterns: [&[u8]; 2] = [b"0000-00-00T00:00:00", b"0000-00-00T00:00"];
    patterns.into_iter().find(|pattern| fits(pattern)).map_or(0, <[u8]>::len)
}

fn parse_which(text: &str) -> std::result::Result<Which, String> {
    if text == "previous" {
        return Ok(Which::Previous);
    }
    if let Some(back) = text.strip_prefix("latest") {
        if back.is_empty() {
            return Ok(Which::Latest(0));
        }
        return match back.strip_prefix('~').map(str::parse) {
            Some(Ok(back)) => Ok(Which::Latest(back)),
            _ => Err("it is latest, or latest~N with a number N".to_owned()),
        };
    }
    if let Some(before) = parse_before(text) {
        return Ok(Which::Before(before, text.to_owned()));
    }
    let is_id = !text.is_empty() && text.len() <= 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_id {
        return Ok(Which::Id(text.to_ascii_lowercase()));
    }
    let path = if text.contains('/') {
        format!("; a path stands behind one, as in latest:{text}")
    } else {
        String::new()
    };
    Err(format!("a snapshot is named by the beginning of its id, latest, latest~N, previous or a date{path}"))
}

/// The first moment after the day, minute or second that is written.
fn parse_before(text: &str) -> Option<DateTime> {
    let time_len = time_of_day_end(text.as_bytes());
    if time_len == 0 {
        let is_date = text.len() == 10 && text.as_bytes().get(4) == Some(&b'-');
        let date: Date = is_date.then(|| text.parse().ok())??;
        return date.tomorrow().ok().map(|date| date.at(0, 0, 0, 0));
    }
    if time_len != text.len() {
        return None;
    }
    let time: DateTime = text.parse().ok()?;
    let unit = if time_len > "0000-00-00T00:00".len() {
        jiff::Span::new().seconds(1)
    } else {
        jiff::Span::new().minutes(1)
    };
    time.checked_add(unit).ok()
}

/// The snapshot that a selector names, by its place among `snapshots`, which are sorted by start, oldest first.
///
/// # Errors
/// `NotFound` if there is none, `Usage` if the beginning of an id fits several.
pub fn select(selector: &Selector, snapshots: &[(SnapshotId, Snapshot)], zone: &TimeZone) -> Result<usize> {
    let labelled = |snapshot: &Snapshot| selector.label.as_ref().is_none_or(|label| *label == snapshot.label);
    let mut complete = snapshots
        .iter()
        .enumerate()
        .filter(|(_, (_, snapshot))| labelled(snapshot) && snapshot.state == State::Complete)
        .map(|(index, (_, snapshot))| (index, snapshot))
        .rev();
    let found = match &selector.which {
        Which::Latest(back) => complete.nth(*back).map(|(index, _)| index),
        Which::Previous => complete
            .next()
            .and_then(|(_, latest)| complete.find(|(_, snapshot)| snapshot.root != latest.root))
            .map(|(index, _)| index),
        Which::Before(moment, _) => {
            let moment = zone
                .to_timestamp(*moment)
                .map_err(|error| Error::Usage(format!("{}: {error}", selector.which)))?;
            let moment = from_timestamp(moment);
            complete.find(|(_, snapshot)| snapshot.start < moment).map(|(index, _)| index)
        }
        Which::Id(prefix) => return select_id(prefix, snapshots, zone, labelled),
    };
    found.ok_or_else(|| not_found(selector, snapshots))
}

fn select_id(
    prefix: &str,
    snapshots: &[(SnapshotId, Snapshot)],
    zone: &TimeZone,
    labelled: impl Fn(&Snapshot) -> bool,
) -> Result<usize> {
    let fitting: Vec<usize> = snapshots
        .iter()
        .enumerate()
        .filter(|(_, (id, snapshot))| id.to_string().starts_with(prefix) && labelled(snapshot))
        .map(|(index, _)| index)
        .collect();
    match fitting.as_slice() {
        [] => Err(Error::NotFound { what: format!("snapshot {prefix}") }),
        [only] => Ok(*only),
        several => {
            let describe = |(id, snapshot): &(SnapshotId, Snapshot)| {
                let time = time(snapshot.start, zone, "%Y-%m-%d %H:%M");
                format!("{} of {time}", short_of(id, (prefix.len() + 4).max(8)))
            };
            let names: Vec<String> =
                several.iter().filter_map(|index| snapshots.get(*index)).map(describe).collect();
            Err(Error::Usage(format!("{prefix} fits several snapshots: {}", names.join(", "))))
        }
    }
}

fn not_found(selector: &Selector, snapshots: &[(SnapshotId, Snapshot)]) -> Error {
    let label = selector.label.as_ref().map(|label| format!(" with the label {label:?}")).unwrap_or_default();
    if snapshots.is_empty() {
        return Error::NotFound { what: "snapshot in this repository".to_owned() };
    }
    let what = match &selector.which {
        Which::Latest(0) => format!("complete snapshot{label}"),
        Which::Latest(back) => format!("latest~{back}{label}: there are fewer complete snapshots"),
        Which::Previous => format!("snapshot{label} that differs from the latest"),
        Which::Before(_, text) => format!("complete snapshot{label} from {text} or before"),
        Which::Id(prefix) => format!("snapshot {prefix}{label}"),
    };
    Error::NotFound { what }
}

/// The first `digits` digits of an id.
pub fn short_of(id: &SnapshotId, digits: usize) -> String {
    id.to_string().chars().take(digits).collect()
}

#[cfg(test)]
mod tests;
