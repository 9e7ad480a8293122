//! `vault snapshots`.

use std::collections::HashSet;

use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::{Map, Value, json};
use vault::error::Result;
use vault::id::SnapshotId;
use vault::snapshot::{How, Snapshot, Source, State, counter};
use vault::stats::Amount;

use super::{Context, short};
use crate::args::SnapshotsArgs;
use crate::exit::Outcome;
use crate::render::text::{self, escape};
use crate::render::{Align, Table, path_fields, time_text};

/// A table shows so many characters of a description, unless `--verbose` asks for all.
const MAX_DESCRIPTION: usize = 40;

pub fn run(context: &Context, args: &SnapshotsArgs) -> Result<Outcome> {
    let repository = context.open()?;
    let snapshots = context.snapshots(&repository, &[])?;
    let alone = if args.alone {
        let reader = context.reader(&repository)?;
        Some(super::stats::compute(context, &reader, &snapshots)?.alone)
    } else {
        None
    };
    let held = repository.held()?;
    let rows = chosen(args, if args.forgotten { &snapshots.forgotten } else { &snapshots.whole });
    if context.screen.is_json() {
        for (index, snapshot) in &rows {
            let alone = alone.as_ref().and_then(|alone| alone.get(*index));
            let mut line = Line::of(context, snapshot, alone);
            line.head.insert("held".to_owned(), held.contains(&snapshot.0).into());
            context.screen.json(&line)?;
        }
    } else if args.forgotten && rows.is_empty() {
        context.screen.note("no such snapshots that were forgotten and are not deleted yet");
    } else if snapshots.whole.is_empty() && !snapshots.forgotten.is_empty() && !args.forgotten {
        let text = "all snapshots were forgotten: `vault snapshots --forgotten` lists them, `vault undo` brings them back";
        context.screen.note(text);
    } else if snapshots.whole.is_empty() && !snapshots.damaged.is_empty() {
        // There are some: what is wrong with each was said.
    } else if snapshots.whole.is_empty() && !repository.listed_packs()?.is_empty() {
        let text = "no snapshots yet, but packs: what was to be here, a mirror or a first snapshot, was interrupted; \
                    repeat `vault mirror` or `vault snapshot` as it was, and it goes on";
        context.screen.note(text);
    } else if snapshots.whole.is_empty() {
        context.screen.note("no snapshots yet: `vault snapshot PATH` takes one");
    } else if rows.is_empty() {
        context.screen.note("no such snapshots");
    } else {
        print_table(context, &rows, alone.as_deref(), &held)?;
    }
    Ok(context.outcome())
}

/// A snapshot and its place among all of them.
type Row<'a> = (usize, &'a (SnapshotId, Snapshot));

fn chosen<'a>(args: &SnapshotsArgs, snapshots: &'a [(SnapshotId, Snapshot)]) -> Vec<Row<'a>> {
    let mut rows: Vec<Row<'_>> =
        snapshots.iter().enumerate().filter(|(_, (_, snapshot))| args.among.takes(snapshot)).collect();
    if let Some(last) = args.last {
        rows.drain(..rows.len().saturating_sub(last));
    }
    rows
}

fn print_table(
    context: &Context,
    rows: &[Row<'_>],
    alone: Option<&[Amount]>,
    held: &HashSet<SnapshotId>,
) -> Result<()> {
    let mut columns = vec![
        ("id", Align::Left),
        ("time", Align::Left),
        ("host", Align::Left),
        ("label, tags", Align::Left),
        ("files", Align::Right),
        ("size", Align::Right),
        ("added", Align::Right),
    ];
    if alone.is_some() {
        columns.push(("alone", Align::Right));
    }
    columns.extend([("state", Align::Left), ("paths", Align::Left)]);
    let described = rows.iter().any(|(_, (_, snapshot))| !snapshot.description.is_empty());
    if described {
        columns.push(("description", Align::Left));
    }
    let mut table = Table::new(&columns);
    for (index, (id, snapshot)) in rows {
        let mut words: Vec<&str> = Vec::new();
        words.extend(Some(snapshot.label.as_str()).filter(|label| !label.is_empty()));
        words.extend(snapshot.tags.iter().map(String::as_str));
        let mut cells = vec![
            short(id),
            text::time(snapshot.start, &context.zone, "%Y-%m-%d %H:%M:%S"),
            snapshot.host.clone(),
            words.join(","),
            text::count(snapshot.counter(counter::FILES)),
            text::size(snapshot.counter(counter::BYTES)),
            text::size(snapshot.counter(counter::STORED_ADDED)),
        ];
        if let Some(alone) = alone {
            cells.push(text::size(alone.get(*index).copied().unwrap_or_default().plain_bytes));
        }
        let paths: Vec<String> = snapshot.sources.iter().map(|source| escape(&source.resolved)).collect();
        let held = if held.contains(id) { ", held" } else { "" };
        cells.extend([format!("{}{held}", state_words(snapshot)), paths.join(", ")]);
        if described {
            cells.push(shortened(&snapshot.description, context.screen.is_verbose()));
        }
        table.row(cells);
    }
    context.screen.table(&table)?;
    context.screen.note(&text::counted(rows.len() as u64, "snapshot", "snapshots"));
    Ok(())
}

/// A text of one line that does not make a table unreadable, or all of it.
fn shortened(text: &str, all: bool) -> String {
    if all || text.chars().count() <= MAX_DESCRIPTION {
        return text.to_owned();
    }
    let start: String = text.chars().take(MAX_DESCRIPTION - 1).collect();
    format!("{}\u{2026}", start.trim_end())
}

fn state_words(snapshot: &Snapshot) -> String {
    let state = state_name(snapshot.state);
    match snapshot.counter(counter::ERRORS) {
        0 => state.to_owned(),
        errors => format!("{state}, {}", text::counted(errors, "error", "errors")),
    }
}

/// The word for a state.
pub fn state_name(state: State) -> &'static str {
    match state {
        State::Complete => "complete",
        State::Partial => "partial",
        State::Suspect => "suspect",
        State::PartOfPlan => "part of a plan",
    }
}

/// The word for how a snapshot was made from another one.
fn how_name(how: How) -> &'static str {
    match how {
        How::Merge => "merge",
        How::Rewrite => "rewrite",
        How::Repair => "repair",
    }
}

/// A snapshot as a line of JSON, shaped like restic's. Its sources may be very many: they are written one by one.
pub struct Line<'a> {
    pub head: Map<String, Value>,
    sources: &'a [Source],
    tags: &'a [String],
}

impl Serialize for Line<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for (key, value) in &self.head {
            map.serialize_entry(key, value)?;
        }
        map.serialize_entry("tags", self.tags)?;
        map.serialize_entry(
            "paths",
            &Each(self.sources, |source| String::from_utf8_lossy(&source.resolved).into()),
        )?;
        map.serialize_entry("sources", &Each(self.sources, source_json))?;
        map.end()
    }
}

/// What is written of each of them.
struct Each<'a, T>(&'a [T], fn(&T) -> Value);

impl<T> Serialize for Each<'_, T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(self.1))
    }
}

fn source_json(source: &Source) -> Value {
    let mut value = json!({"host": source.origin});
    path_fields(&mut value, "given", &source.given);
    path_fields(&mut value, "path", &source.resolved);
    path_fields(&mut value, "stored_at", &source.stored_at);
    value
}

/// The same as a value.
pub fn to_json(context: &Context, snapshot: &(SnapshotId, Snapshot), alone: Option<&Amount>) -> Value {
    // What it consists of are values.
    serde_json::to_value(Line::of(context, snapshot, alone)).unwrap_or_default()
}

impl<'a> Line<'a> {
    /// A snapshot, and what it alone holds if that is known.
    pub fn of(context: &Context, snapshot: &'a (SnapshotId, Snapshot), alone: Option<&Amount>) -> Self {
        let mut head = Map::new();
        if let Value::Object(fields) = head_json(context, snapshot, alone) {
            head = fields;
        }
        Self { head, sources: &snapshot.1.sources, tags: &snapshot.1.tags }
    }
}

/// All of it but what there may be very much of.
fn head_json(context: &Context, (id, snapshot): &(SnapshotId, Snapshot), alone: Option<&Amount>) -> Value {
    let made_from: Vec<Value> = snapshot
        .made_from
        .iter()
        .map(|(how, id)| json!({"how": how_name(*how), "id": id.to_string()}))
        .collect();
    let mut value = json!({
        "message_type": "snapshot",
        "struct_type": "snapshot",
        "id": id.to_string(),
        "short_id": short(id),
        "time": time_text(snapshot.start, &context.zone),
        "end": time_text(snapshot.end, &context.zone),
        "state": state_name(snapshot.state),
        "hostname": snapshot.host,
        "username": snapshot.user,
        "label": snapshot.label,
        "description": snapshot.description,
        "program_version": snapshot.program,
        "parent": snapshot.predecessor.map(|id| id.to_string()),
        "made_from": made_from,
        "tree": snapshot.root.kind.directory().map(|node| node.to_string()),
        "summary": counters_json(&snapshot.counters),
    });
    if let Some(amount) = alone {
        value["alone"] = json!({"chunks": amount.chunks, "bytes": amount.plain_bytes});
    }
    value
}

/// The counters of a snapshot under the names that restic gives them.
pub fn counters_json(counters: &[(u32, u64)]) -> Value {
    let count = |tag| counters.iter().find(|(found, _)| *found == tag).map_or(0, |(_, value)| *value);
    json!({
        "total_files_processed": count(counter::FILES),
        "total_dirs_processed": count(counter::DIRECTORIES),
        "total_others_processed": count(counter::OTHERS),
        "total_bytes_processed": count(counter::BYTES),
        "files_new": count(counter::FILES_NEW),
        "files_changed": count(counter::FILES_CHANGED),
        "files_unmodified": count(counter::FILES_UNCHANGED),
        "chunks_added": count(counter::CHUNKS_ADDED),
        "data_added": count(counter::PLAIN_ADDED),
        "data_added_packed": count(counter::STORED_ADDED),
        "error_count": count(counter::ERRORS),
        "left_out": count(counter::LEFT_OUT),
        "files_read": count(counter::FILES_READ),
        "bytes_read": count(counter::BYTES_READ),
        "files_changed_while_read": count(counter::FILES_RACED),
    })
}
