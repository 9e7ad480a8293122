//! `vault merge`: one snapshot of several.

use std::sync::Arc;

use serde_json::json;
use vault::error::{Error, Result};
use vault::event::Observer;
use vault::id::SnapshotId;
use vault::merge::{MergeOptions, MergeSummary, Prefer, merge};
use vault::snapshot::{Snapshot, counter};

use super::snapshots::{counters_json, state_name};
use super::{Context, short};
use crate::args::{MergeArgs, PreferArg};
use crate::exit::Outcome;
use crate::render::text;

pub fn run(context: &Context, args: &MergeArgs) -> Result<Outcome> {
    let repository = context.open()?;
    let snapshots = context.snapshots(&repository, &args.selectors.iter().collect::<Vec<_>>())?;
    let mut chosen: Vec<(SnapshotId, Snapshot)> = Vec::new();
    for selector in &args.selectors {
        if selector.path.is_some() {
            return Err(Error::Usage("a whole snapshot is named here, without a path".to_owned()));
        }
        let snapshot = snapshots.select(selector, &context.zone)?;
        if !chosen.iter().any(|(id, _)| *id == snapshot.0) {
            chosen.push(snapshot.clone());
        }
    }
    if chosen.len() < 2 {
        return Err(Error::Usage("these are all the same snapshot: there is nothing to merge".to_owned()));
    }
    let options = MergeOptions {
        prefer: match args.prefer {
            PreferArg::Newest => Prefer::Newest,
            PreferArg::First => Prefer::First,
        },
        label: args.label.clone(),
        tags: args.tag.clone(),
        description: args.description.clone(),
        dry_run: args.dry_run,
        cache_folder: context.cache_folder(repository.id()),
    };
    context.screen.start_progress("merge");
    let observer: Arc<dyn Observer> = context.screen.clone();
    let result = merge(&repository, &chosen, &options, &observer, &context.stop);
    context.screen.end_progress();
    let summary = result?;
    if summary.snapshot.is_some() && !summary.is_known {
        context.lacking(&repository)?;
    }
    print(context, args, &chosen, &summary)?;
    Ok(context.outcome())
}

fn print(
    context: &Context,
    args: &MergeArgs,
    chosen: &[(SnapshotId, Snapshot)],
    summary: &MergeSummary,
) -> Result<()> {
    let mut value = counters_json(&summary.counters);
    let more = json!({
        "message_type": "summary",
        "snapshot_id": summary.snapshot.map(|id| id.to_string()),
        "was_merged_before": summary.is_known,
        "state": state_name(summary.state),
        "dry_run": args.dry_run,
        "merged": chosen.iter().map(|(id, _)| id.to_string()).collect::<Vec<_>>(),
        "conflicts": summary.conflicts,
    });
    if let (Some(value), Some(more)) = (value.as_object_mut(), more.as_object()) {
        value.extend(more.clone());
    }
    let count = |tag| summary.counters.iter().find(|(found, _)| *found == tag).map_or(0, |(_, value)| *value);
    let files = text::counted(count(counter::FILES), "file", "files");
    let what = match summary.snapshot {
        Some(id) if summary.is_known => format!("snapshot {} is that already", short(&id)),
        Some(id) => format!("{} snapshot {}", state_name(summary.state), short(&id)),
        None => "dry run, nothing was written".to_owned(),
    };
    let of = text::counted(chosen.len() as u64, "snapshot", "snapshots");
    let conflicts = match summary.conflicts {
        0 => String::new(),
        conflicts => {
            let names = text::counted(conflicts, "name has another version", "names have another version");
            format!("; {names} in the old ones only (-v shows them)")
        }
    };
    let size = text::size(count(counter::BYTES));
    context.screen.summary(&format!("{what}: {files}, {size}, of {of}{conflicts}"), &value)
}
