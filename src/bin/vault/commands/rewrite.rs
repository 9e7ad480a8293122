//! `vault rewrite`: takes paths out of snapshots.

use std::sync::Arc;

use serde_json::json;
use vault::error::{Error, Result};
use vault::event::Observer;
use vault::forget;
use vault::id::SnapshotId;
use vault::pattern::Patterns;
use vault::repository::Repository;
use vault::rewrite::{Removed, RewriteOptions, RewriteSummary, Rewritten, rewrite};
use vault::snapshot::Snapshot;

use super::snapshot::exclude_rules;
use super::{Context, Snapshots, short};
use crate::args::RewriteArgs;
use crate::exit::Outcome;
use crate::render::text;

pub fn run(context: &Context, args: &RewriteArgs) -> Result<Outcome> {
    if !args.says_which() {
        let what = "nothing says which snapshots: name them, or use --all, --label, --tag or --host";
        return Err(Error::Usage(what.to_owned()));
    }
    let (patterns, rules) = exclude_rules(&args.exclude_file, &args.exclude, &args.iexclude)?;
    let repository = context.open()?;
    let selectors: Vec<_> = args.selectors.iter().collect();
    let snapshots = context.snapshots(&repository, &selectors)?;
    let chosen = chosen(context, args, snapshots)?;
    let options = RewriteOptions {
        excludes: Patterns::new(patterns)?,
        rules,
        dry_run: args.dry_run,
        cache_folder: context.cache_folder(repository.id()),
    };
    context.screen.start_progress("rewrite");
    let observer: Arc<dyn Observer> = context.screen.clone();
    let result = rewrite(&repository, &chosen, &options, &observer, &context.stop);
    context.screen.end_progress();
    let summary = result?;
    for (id, error) in &summary.damaged {
        context.screen.problem(format!("snapshot {}", short(id)).as_bytes(), error);
        context.screen.note(&format!("snapshot {} is left as it is", short(id)));
    }
    say_matched_sources(context, &summary);
    show(context, &summary)?;
    let (forgotten, held) = forget_old(context, args, &repository, &summary)?;
    print_summary(context, args, &summary, &forgotten, &held)?;
    if !args.dry_run && !summary.rewritten.is_empty() {
        context.lacking(&repository)?;
    }
    Ok(match context.outcome() {
        Outcome::Done if !held.is_empty() => Outcome::Failed,
        other => other,
    })
}

fn chosen(
    context: &Context,
    args: &RewriteArgs,
    snapshots: Snapshots,
) -> Result<Vec<(SnapshotId, Snapshot)>> {
    let mut ids = Vec::new();
    for selector in &args.selectors {
        if selector.path.is_some() {
            return Err(Error::Usage(
                "a whole snapshot is named here, without a path: --exclude names paths".to_owned(),
            ));
        }
        ids.push(snapshots.select(selector, &context.zone)?.0);
    }
    let mut chosen = snapshots.whole;
    chosen.retain(
        |(id, snapshot)| {
            if args.selectors.is_empty() { args.among.takes(snapshot) } else { ids.contains(id) }
        },
    );
    Ok(chosen)
}

fn say_matched_sources(context: &Context, summary: &RewriteSummary) {
    let mut said: Vec<&[u8]> = Vec::new();
    for source in summary.rewritten.iter().flat_map(|rewritten| &rewritten.matched_sources) {
        if !said.contains(&&source[..]) {
            said.push(source);
            let name = text::escape(source);
            context.screen.warn(&format!(
                "/{name} is what was saved, and never left out itself: --exclude '/{name}/**' leaves out what is in it"
            ));
        }
    }
}

fn show(context: &Context, summary: &RewriteSummary) -> Result<()> {
    for Rewritten { old, new, removed, is_known, .. } in &summary.rewritten {
        if context.screen.is_json() {
            context.screen.json(&json!({
                "message_type": "rewritten",
                "snapshot_id": old.to_string(),
                "new_snapshot_id": new.map(|new| new.to_string()),
                "was_rewritten_before": is_known,
                "left_out": removed.entries,
                "files": removed.files,
                "directories": removed.directories,
                "others": removed.others,
                "bytes": removed.bytes,
            }))?;
            continue;
        }
        let made = match new {
            Some(new) if *is_known => format!("{} is {} already", short(old), short(new)),
            Some(new) => format!("{} is now {}", short(old), short(new)),
            None => short(old),
        };
        context.screen.line(&format!("{made}: {}", removed_words(*removed)))?;
    }
    Ok(())
}

fn removed_words(removed: Removed) -> String {
    let entries = text::counted(removed.entries, "entry", "entries");
    let files = text::counted(removed.files, "file", "files");
    format!("{entries} left out, {files} with {}", text::size(removed.bytes))
}

/// Forgets what was rewritten, but for what is held. Returns both.
fn forget_old(
    context: &Context,
    args: &RewriteArgs,
    repository: &Repository,
    summary: &RewriteSummary,
) -> Result<(Vec<SnapshotId>, Vec<SnapshotId>)> {
    if !args.forget {
        return Ok((Vec::new(), Vec::new()));
    }
    let held = repository.held()?;
    let (held, old): (Vec<SnapshotId>, Vec<SnapshotId>) =
        summary.rewritten.iter().map(|rewritten| rewritten.old).partition(|id| held.contains(id));
    for id in &held {
        let id = short(id);
        context.screen.warn(&format!("snapshot {id} is held and stays as it is, with what was to be left out: `vault unhold {id}` lets go of it"));
    }
    if !args.dry_run && !old.is_empty() {
        forget::forget(repository, &old, &super::forget::statement(repository, &args.statement))?;
    }
    Ok((old, held))
}

fn print_summary(
    context: &Context,
    args: &RewriteArgs,
    summary: &RewriteSummary,
    forgotten: &[SnapshotId],
    held: &[SnapshotId],
) -> Result<()> {
    let texts = |ids: &[SnapshotId]| ids.iter().map(SnapshotId::to_string).collect::<Vec<_>>();
    let damaged: Vec<SnapshotId> = summary.damaged.iter().map(|(id, _)| *id).collect();
    let value = json!({
        "message_type": "summary",
        "dry_run": args.dry_run,
        "rewritten": summary.rewritten.len(),
        "unchanged": summary.unchanged.len(),
        "damaged": texts(&damaged),
        "forgotten": texts(forgotten),
        "held": texts(held),
    });
    let counted = |count: usize| text::counted(count as u64, "snapshot", "snapshots");
    let rewritten = counted(summary.rewritten.len());
    let mut words = match (summary.rewritten.is_empty(), args.dry_run) {
        (true, _) => "nothing matched".to_owned(),
        (false, true) => format!("would rewrite {rewritten}"),
        (false, false) => format!("rewrote {rewritten}"),
    };
    if !summary.unchanged.is_empty() {
        words = format!("{words}; {} as before", counted(summary.unchanged.len()));
    }
    if !forgotten.is_empty() {
        let would = if args.dry_run { "would forget" } else { "forgot" };
        words = format!(
            "{words}; {would} {}, and `vault prune` frees what only they need",
            counted(forgotten.len())
        );
    } else if !summary.rewritten.is_empty() && !args.forget {
        words = format!("{words}; the old ones are still there: --forget forgets them");
    }
    context.screen.summary(&words, &value)
}
