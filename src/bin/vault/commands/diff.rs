//! `vault diff`.

use std::cell::Cell;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use serde_json::{Value, json};
use vault::browse;
use vault::diff::{DiffSummary, Difference, How, LiveOptions, Side, Sinks, Totals, diff, diff_live};
use vault::error::{Error, Result};
use vault::event::Item;
use vault::rate::RateLimit;
use vault::repository::{Reader, Repository};
use vault::snapshot::Snapshot;

use super::{Context, Snapshots, entry_at, short};
use crate::args::DiffArgs;
use crate::exit::Outcome;
use crate::render::text::{self, escape};
use crate::render::{path_fields, time_text};
use crate::select::Selector;

pub fn run(context: &Context, args: &DiffArgs) -> Result<Outcome> {
    let new = if is_folder(&args.new) { None } else { Some(parse_new(args)?) };
    let repository = context.open()?;
    let selectors: Vec<&Selector> = std::iter::once(&args.old).chain(&new).collect();
    let snapshots = context.snapshots(&repository, &selectors)?;
    let reader = context.reader(&repository)?;
    let (summary, unreadable) = match &new {
        None => with_folder(context, args, &repository, &snapshots, &reader)?,
        Some(new) => (with_snapshot(context, args, new, &snapshots, &reader)?, 0),
    };
    print_summary(context, &summary)?;
    Ok(match context.outcome() {
        Outcome::Damage if context.screen.tally().problems() == unreadable => Outcome::SourceUnreadable,
        outcome => outcome,
    })
}

/// Whether the second argument is meant as a path: it has a slash before any colon, or is `.` or `..`.
fn is_folder(text: &OsStr) -> bool {
    let head = text.as_bytes().split(|byte| *byte == b':').next().unwrap_or_default();
    head.contains(&b'/') || matches!(text.as_bytes(), b"." | b"..")
}

/// The second argument as a snapshot.
fn parse_new(args: &DiffArgs) -> Result<Selector> {
    if args.content {
        return Err(Error::Usage("--content is for comparing with a folder, such as ./here".to_owned()));
    }
    Selector::parse(&args.new).map_err(|error| {
        let text = args.new.to_string_lossy();
        Error::Usage(format!("{text}: {error}; a folder is written with a slash, as ./{text}"))
    })
}

fn with_snapshot(
    context: &Context,
    args: &DiffArgs,
    new: &Selector,
    snapshots: &Snapshots,
    reader: &Reader,
) -> Result<DiffSummary> {
    let old_snapshot = snapshots.select(&args.old, &context.zone)?;
    let new_snapshot = snapshots.select(new, &context.zone)?;
    // One path for both sides, if only one of them is given.
    let old_path = args.old.path.as_deref().or(new.path.as_deref()).unwrap_or_default();
    let new_path = new.path.as_deref().or(args.old.path.as_deref()).unwrap_or_default();
    let old_entry = entry_at(reader, old_snapshot, old_path)?;
    let new_entry = entry_at(reader, new_snapshot, new_path)?;
    context.screen.note(&format!("from {} to {}", short(&old_snapshot.0), short(&new_snapshot.0)));
    let mut show = |difference: &Difference<'_>| show(context, new_path, difference);
    let mut problem = |path: &[u8], error| context.screen.problem(&in_snapshot(new_path, path), &error);
    let mut sinks = Sinks { difference: &mut show, problem: &mut problem };
    diff(reader, &old_entry, &new_entry, args.metadata, &mut sinks, &context.stop)
}

/// What differs, and how much of the folder could not be read.
fn with_folder(
    context: &Context,
    args: &DiffArgs,
    repository: &Repository,
    snapshots: &Snapshots,
    reader: &Reader,
) -> Result<(DiffSummary, u64)> {
    let folder = Path::new(&args.new);
    let snapshot = snapshots.select(&args.old, &context.zone)?;
    let path = match &args.old.path {
        Some(path) => path.clone(),
        None => stored_path(&snapshot.1, folder)?,
    };
    let entry = entry_at(reader, snapshot, &path)?;
    context.screen.note(&format!("from {} to {} as it is now", short(&snapshot.0), folder.display()));
    let unreadable = Cell::new(0);
    let mut show = |difference: &Difference<'_>| show(context, &path, difference);
    let mut problem = |below: &[u8], error| match &error {
        Error::Path { path, .. } => {
            unreadable.set(unreadable.get() + 1);
            context.screen.problem(path.as_os_str().as_bytes(), &error);
        }
        _ => context.screen.problem(&in_snapshot(&path, below), &error),
    };
    let mut sinks = Sinks { difference: &mut show, problem: &mut problem };
    let read_rate = context.global.read_rate().map(RateLimit::new);
    let options = LiveOptions {
        content: args.content,
        metadata: args.metadata,
        keys: repository.keys().ids(),
        read_rate: read_rate.as_ref(),
    };
    let summary = diff_live(reader, &entry, folder, &options, &mut sinks, &context.stop)?;
    Ok((summary, unreadable.get()))
}

/// A path below another one, as snapshots are written about.
fn in_snapshot(path: &[u8], below: &[u8]) -> Vec<u8> {
    [b"/", &*browse::normalize(&[path, b"/", below].concat())].concat()
}

/// Where a folder of this machine lies in a snapshot.
fn stored_path(snapshot: &Snapshot, folder: &Path) -> Result<Vec<u8>> {
    let folder = std::fs::canonicalize(folder).map_err(Error::path("find", folder))?;
    let bytes = browse::normalize(folder.as_os_str().as_bytes());
    let found = snapshot.sources.iter().filter_map(|source| {
        let resolved = browse::normalize(&source.resolved);
        let rest = bytes.strip_prefix(resolved.as_slice())?;
        let is_below = resolved.is_empty() || rest.is_empty() || rest.starts_with(b"/");
        is_below.then(|| (resolved.len(), browse::normalize(&[&source.stored_at, &b"/"[..], rest].concat())))
    });
    let deepest = found.max_by_key(|(len, _)| *len).map(|(_, path)| path);
    // A folder above the sources lies where its path says, if anywhere.
    Ok(deepest.unwrap_or(bytes))
}

fn modifier(how: How) -> &'static str {
    match how {
        How::Added => "+",
        How::Removed => "-",
        How::Content => "M",
        How::Metadata => "U",
        How::Type => "T",
        How::LeftOut => "?",
    }
}

fn show(context: &Context, below: &[u8], difference: &Difference<'_>) -> Result<()> {
    let path = browse::normalize(&[below, b"/", difference.path].concat());
    let modifier = modifier(difference.how);
    if context.screen.is_json() {
        let side = |side: &Side| {
            json!({"size": side.size, "mode": side.mode, "uid": side.uid, "gid": side.gid,
                "mtime": time_text(side.mtime, &context.zone)})
        };
        let mut value = json!({"message_type": "change", "modifier": modifier});
        value["old"] = difference.old.as_ref().map(side).unwrap_or_default();
        value["new"] = difference.new.as_ref().map(side).unwrap_or_default();
        path_fields(&mut value, "path", &[b"/", &*path].concat());
        return context.screen.json(&value);
    }
    let is_directory = difference.new.or(difference.old).is_some_and(|side| side.item == Item::Directory);
    let slash = if is_directory && !path.is_empty() { "/" } else { "" };
    let note = if difference.how == How::LeftOut { " (left out of a snapshot)" } else { "" };
    context.screen.line(&format!("{modifier} /{}{slash}{note}", escape(&path)))
}

fn print_summary(context: &Context, summary: &DiffSummary) -> Result<()> {
    let json = |totals: &Totals| -> Value {
        json!({"files": totals.files, "dirs": totals.directories, "others": totals.others, "bytes": totals.bytes})
    };
    let value = json!({
        "message_type": "statistics",
        "changed_files": summary.changed.files,
        "changed": json(&summary.changed),
        "added": json(&summary.added),
        "removed": json(&summary.removed),
        "metadata": summary.metadata,
        "left_out": summary.left_out,
        "error_count": summary.problems,
    });
    let words = |name: &str, totals: &Totals| {
        let entries = totals.directories + totals.others;
        let more = if entries > 0 { format!(" and {} other", text::count(entries)) } else { String::new() };
        format!(
            "{name} {}{more} ({})",
            text::counted(totals.files, "file", "files"),
            text::size(totals.bytes)
        )
    };
    let text = if summary.is_same() && summary.problems == 0 {
        "no differences".to_owned()
    } else {
        let counts = [
            words("added", &summary.added),
            words("removed", &summary.removed),
            words("changed", &summary.changed),
        ];
        counts.join(", ")
    };
    context.screen.summary(&text, &value)
}
