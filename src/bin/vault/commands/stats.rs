//! `vault stats`.

use serde_json::json;
use vault::error::Result;
use vault::id::SnapshotId;
use vault::repository::{Reader, Repository};
use vault::snapshot::counter;
use vault::stats::{CHUNKS_AT_ONCE, Stats, stats};

use super::{Context, Snapshots, short};
use crate::args::StatsArgs;
use crate::exit::Outcome;
use crate::render::{Align, Table, text};

/// Looks at all snapshots, and says what cannot be read.
pub fn compute(context: &Context, reader: &Reader, snapshots: &Snapshots) -> Result<Stats> {
    let mut problem = |id: &SnapshotId, error| {
        context.screen.problem(format!("snapshot {}", short(id)).as_bytes(), &error);
    };
    let at_once = reader.budget().share(CHUNKS_AT_ONCE);
    stats(reader, &snapshots.whole, at_once, &mut problem, &context.stop)
}

pub fn run(context: &Context, args: &StatsArgs) -> Result<Outcome> {
    let repository = context.open()?;
    let snapshots = context.snapshots(&repository, &[])?;
    let mut chosen = Vec::new();
    for selector in &args.selectors {
        chosen.push(snapshots.select(selector, &context.zone)?.0);
    }
    let reader = context.reader(&repository)?;
    let stats = compute(context, &reader, &snapshots)?;
    if context.screen.is_json() {
        for (snapshot, alone) in snapshots.whole.iter().zip(&stats.alone) {
            if chosen.is_empty() || chosen.contains(&snapshot.0) {
                context.screen.json(&super::snapshots::to_json(context, snapshot, Some(alone)))?;
            }
        }
    } else {
        print_table(context, &snapshots, &stats, &chosen)?;
    }
    print_totals(context, &snapshots, &stats, &repository)?;
    Ok(context.outcome())
}

fn print_table(context: &Context, snapshots: &Snapshots, stats: &Stats, chosen: &[SnapshotId]) -> Result<()> {
    let mut table = Table::new(&[
        ("id", Align::Left),
        ("time", Align::Left),
        ("files", Align::Right),
        ("size", Align::Right),
        ("added", Align::Right),
        ("stored as", Align::Right),
        ("alone", Align::Right),
        ("in chunks", Align::Right),
    ]);
    for ((id, snapshot), alone) in snapshots.whole.iter().zip(&stats.alone) {
        if !chosen.is_empty() && !chosen.contains(id) {
            continue;
        }
        table.row(vec![
            short(id),
            text::time(snapshot.start, &context.zone, "%Y-%m-%d %H:%M:%S"),
            text::count(snapshot.counter(counter::FILES)),
            text::size(snapshot.counter(counter::BYTES)),
            text::size(snapshot.counter(counter::PLAIN_ADDED)),
            text::size(snapshot.counter(counter::STORED_ADDED)),
            text::size(alone.plain_bytes),
            text::count(alone.chunks),
        ]);
    }
    context.screen.table(&table)?;
    context.screen.line("")
}

fn print_totals(
    context: &Context,
    snapshots: &Snapshots,
    stats: &Stats,
    repository: &Repository,
) -> Result<()> {
    let present = repository.listed_packs()?;
    let packs = present.len() as u64;
    let stored = present.values().fold(0u64, |sum, len| sum.saturating_add(*len));
    let sizes = snapshots.whole.iter().map(|(_, snapshot)| snapshot.counter(counter::BYTES));
    let size = sizes.fold(0u64, u64::saturating_add);
    let (data, trees) = (stats.data, stats.trees);
    let plain = data.plain_bytes.saturating_add(trees.plain_bytes);
    if context.screen.is_json() {
        return context.screen.json(&json!({
            "message_type": "summary",
            "snapshots_count": snapshots.whole.len(),
            "total_restore_size": size,
            "total_uncompressed_size": plain,
            "total_size": stored,
            "packs": packs,
            "data_chunks": data.chunks,
            "data_bytes": data.plain_bytes,
            "tree_chunks": trees.chunks,
            "tree_bytes": trees.plain_bytes,
        }));
    }
    let chunks = |number| text::counted(number, "chunk", "chunks");
    let count = snapshots.whole.len() as u64;
    for line in [
        format!("{}, to restore: {}", text::counted(count, "snapshot", "snapshots"), text::size(size)),
        format!("deduplicated: {}", text::size(plain)),
        format!("  files: {} in {}", text::size(data.plain_bytes), chunks(data.chunks)),
        format!("  folders: {} in {}", text::size(trees.plain_bytes), chunks(trees.chunks)),
        format!("stored: {} in {}", text::size(stored), text::counted(packs, "pack", "packs")),
    ] {
        context.screen.line(&line)?;
    }
    Ok(())
}
