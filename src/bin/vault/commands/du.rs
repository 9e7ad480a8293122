//! `vault du`: what snapshots and paths in them hold, and what forgetting them would free.

use std::cell::Cell;

use serde_json::{Value, json};
use vault::error::Result;
use vault::id::SnapshotId;
use vault::snapshot::{Snapshot, counter};
use vault::usage::{Alone, Asking, Held, Target, Usage};

use super::{Context, Snapshots, short};
use crate::args::DuArgs;
use crate::exit::Outcome;
use crate::render::text::{self, escape};
use crate::render::{Align, Table, path_fields, time_text};

pub fn run(context: &Context, args: &DuArgs) -> Result<Outcome> {
    let repository = context.open()?;
    let snapshots = context.snapshots(&repository, &[])?;
    let targets = targets(context, args, &snapshots)?;
    let reader = context.reader(&repository)?;
    let unread = Cell::new(0u64);
    let mut problem = |id: &SnapshotId, error| {
        unread.set(unread.get() + 1);
        context.screen.problem(format!("snapshot {}", short(id)).as_bytes(), &error);
    };
    let asking = Asking {
        reader: &reader,
        snapshots: &snapshots.whole,
        scratch: context.cache_folder(repository.id()).unwrap_or_else(std::env::temp_dir),
        stop: &context.stop,
    };
    let missing = if targets.is_empty() {
        let alone = asking.of_all(&mut problem)?;
        print_all(context, &snapshots, &alone)?;
        alone.missing
    } else {
        let usage = asking.of_targets(&targets, args.depth, &mut problem)?;
        print_targets(context, &snapshots, &targets, &usage)?;
        usage.missing
    };
    if missing > 0 {
        let chunks = text::counted(missing, "chunk is", "chunks are");
        context.screen.warn(&format!("{chunks} needed and not there: `vault check` names what that costs"));
    }
    if unread.get() > 0 || !snapshots.damaged.is_empty() {
        context.screen.warn(
            "what could not be read is not counted, and may need what seems to be of one snapshot alone",
        );
    }
    Ok(if missing > 0 { Outcome::Damage } else { context.outcome() })
}

fn targets(context: &Context, args: &DuArgs, snapshots: &Snapshots) -> Result<Vec<Target>> {
    let mut targets: Vec<Target> = Vec::new();
    for selector in &args.selectors {
        let (id, _) = snapshots.select(selector, &context.zone)?;
        let snapshot = snapshots.whole.iter().position(|(other, _)| other == id).unwrap_or(usize::MAX);
        let target = Target { snapshot, path: selector.path().to_vec() };
        // One that is named twice is meant once.
        if !targets.contains(&target) {
            targets.push(target);
        }
    }
    Ok(targets)
}

fn print_all(context: &Context, snapshots: &Snapshots, alone: &Alone) -> Result<()> {
    let mut table = Table::new(&[
        ("id", Align::Left),
        ("time", Align::Left),
        ("size", Align::Right),
        ("unique", Align::Right),
        ("paths", Align::Left),
    ]);
    for ((id, snapshot), held) in snapshots.whole.iter().zip(&alone.alone) {
        if context.screen.is_json() {
            context.screen.json(&all_json(context, id, snapshot, held))?;
            continue;
        }
        let paths: Vec<String> = snapshot.sources.iter().map(|source| escape(&source.resolved)).collect();
        table.row(vec![
            short(id),
            text::time(snapshot.start, &context.zone, "%Y-%m-%d %H:%M:%S"),
            text::size(snapshot.counter(counter::BYTES)),
            text::size(held.unique),
            paths.join(", "),
        ]);
    }
    let unique = alone.alone.iter().map(|held| held.unique).sum::<u64>();
    let value = json!({
        "message_type": "summary",
        "snapshots_count": snapshots.whole.len(),
        "unique_size": unique,
        "shared_size": alone.shared.unique,
        "missing_chunks": alone.missing,
    });
    if !context.screen.is_json() {
        context.screen.table(&table)?;
    }
    let count = text::counted(snapshots.whole.len() as u64, "snapshot", "snapshots");
    let text = format!(
        "{count}: {} are needed by one of them only, which forgetting it and a prune would free; {} by several",
        text::size(unique),
        text::size(alone.shared.unique),
    );
    context.screen.summary(&text, &value)
}

fn all_json(context: &Context, id: &SnapshotId, snapshot: &Snapshot, held: &Held) -> Value {
    json!({
        "message_type": "usage",
        "snapshot_id": id.to_string(),
        "time": time_text(snapshot.start, &context.zone),
        "paths": snapshot.sources.iter().map(|source| String::from_utf8_lossy(&source.resolved)).collect::<Vec<_>>(),
        "size": snapshot.counter(counter::BYTES),
        "unique_size": held.unique,
        "unique_plain_size": held.unique_plain,
    })
}

fn print_targets(context: &Context, snapshots: &Snapshots, targets: &[Target], usage: &Usage) -> Result<()> {
    let mut table = Table::new(&[
        ("size", Align::Right),
        ("deduplicated", Align::Right),
        ("stored as", Align::Right),
        ("unique", Align::Right),
        ("what", Align::Left),
    ]);
    let cells = |held: &Held, what: String| {
        let sizes = [held.size, held.plain, held.stored, held.unique].into_iter().map(text::size);
        sizes.chain([what]).collect::<Vec<String>>()
    };
    for row in &usage.rows {
        let found = targets.get(row.target).and_then(|target| snapshots.whole.get(target.snapshot));
        let Some((id, _)) = found else { continue };
        if context.screen.is_json() {
            let mut value = held_json("usage", &row.held);
            value["snapshot_id"] = id.to_string().into();
            path_fields(&mut value, "path", &[b"/", &row.path[..]].concat());
            context.screen.json(&value)?;
            continue;
        }
        let path = if row.path.is_empty() { String::new() } else { format!(":/{}", escape(&row.path)) };
        table.row(cells(&row.held, format!("{}{path}", short(id))));
    }
    let together = &usage.together;
    if targets.len() > 1 {
        table.row(cells(together, "together".to_owned()));
    }
    if !context.screen.is_json() {
        context.screen.table(&table)?;
    }
    let whole = targets.iter().all(|target| target.path.is_empty());
    let text = if whole {
        let them = if targets.len() == 1 { "it" } else { "them" };
        format!("forgetting {them} and a prune would free {}", text::size(together.unique))
    } else {
        let text = "no snapshot needs elsewhere: `vault rewrite --exclude` takes paths out of snapshots";
        format!("{} of that {text}", text::size(together.unique))
    };
    let mut value = held_json("summary", together);
    value["missing_chunks"] = usage.missing.into();
    context.screen.summary(&text, &value)
}

fn held_json(kind: &str, held: &Held) -> Value {
    json!({
        "message_type": kind,
        "size": held.size,
        "plain_size": held.plain,
        "stored_size": held.stored,
        "unique_plain_size": held.unique_plain,
        "unique_size": held.unique,
    })
}
