//! `vault prune`: deletes what no snapshot needs.

use std::collections::HashSet;
use std::sync::Arc;

use serde_json::json;
use vault::error::{Error, Result};
use vault::event::Observer;
use vault::forget::Age;
use vault::mirror::remember_pruned;
use vault::pack::Compression;
use vault::prune::{NO_GRACE, PruneOptions, PruneSummary, prune};
use vault::repository::{DEFAULT_PACK_LEN, Repository};
use vault::snapshot::Time;

use super::Context;
use crate::args::{MaxUnused, PruneArgs};
use crate::exit::Outcome;
use crate::places;
use crate::render::{chain, text};

pub fn run(context: &Context, args: &PruneArgs) -> Result<Outcome> {
    let repository = context.open()?;
    for session in &args.ended {
        let removed = repository.declare_ended(session)?;
        context.screen.note(&format!(
            "what session {session} left is removed: {}",
            text::counted(removed, "file", "files")
        ));
    }
    let options = PruneOptions {
        dry_run: args.dry_run,
        max_unused: args.max_unused.0,
        max_repack: args.max_repack_size,
        kept_since: if args.grace == Age::default() { NO_GRACE } else { args.grace.before_time(Time::now()) },
        force: args.force,
        compression: args.compression.0,
        ..default_options(context, &repository)?
    };
    run_on(context, &repository, &options)?;
    Ok(context.outcome())
}

/// What is done unless the user says otherwise.
pub fn default_options(context: &Context, repository: &Repository) -> Result<PruneOptions> {
    Ok(PruneOptions {
        dry_run: false,
        max_unused: MaxUnused::default().0,
        max_repack: None,
        kept_since: NO_GRACE,
        preferred: HashSet::new(),
        force: false,
        lacking: context.lacking(repository)?,
        scratch: context.scratch(repository),
        compression: Compression::default(),
        pack_len: DEFAULT_PACK_LEN,
    })
}

/// Prunes a copy, and says what was done.
pub fn run_on(context: &Context, repository: &Repository, options: &PruneOptions) -> Result<()> {
    context.screen.start_progress("reading");
    let observer: Arc<dyn Observer> = context.screen.clone();
    let pruned = prune(repository, options, &observer, &context.stop);
    context.screen.end_progress();
    if let Err(Error::SnapshotGone { .. }) = &pruned {
        context.screen.note(
            "nothing is deleted while a snapshot is missed: `vault heal --from` brings it back from another copy; \
             if it is not to come back, `vault check --accept-loss` expects it no longer, and --force prunes all the same",
        );
    }
    let done = pruned?;
    if !options.dry_run
        && let Some(folder) = places::states()
        && let Err(error) = remember_pruned(&folder, repository)
    {
        context.screen.warn(&chain(&error));
    }
    if done.needs_force {
        context.screen.note(
            "more than half of all bytes, all snapshots, or with a part of the index lost: only with --force",
        );
    }
    if done.without_room > 0 {
        context.screen.note(&format!(
            "there was no room to pack anew what is needed of {}: they stay as they are",
            text::counted(done.without_room, "pack", "packs")
        ));
    }
    context.screen.summary(&words(options, &done), &summary(options, &done))
}

fn words(args: &PruneOptions, done: &PruneSummary) -> String {
    let packs = |count| text::counted(count, "pack", "packs");
    let deleted = packs(done.dead_packs + done.repacked_packs);
    if done.dead_packs + done.repacked_packs + done.forgotten + done.spared_packs == 0 {
        return format!(
            "nothing to prune: {} unused in packs that hold something else",
            text::size(done.unused_bytes)
        );
    }
    if args.dry_run {
        return format!(
            "would delete {deleted} ({}), {} of them after what is needed is packed anew",
            text::size(done.deleted_bytes),
            done.repacked_packs
        );
    }
    let spared = if done.spared_packs > 0 {
        format!("; {} needed after all", packs(done.spared_packs))
    } else {
        String::new()
    };
    format!(
        "deleted {deleted} ({}), {} of them after what is needed was packed anew ({}){spared}; {} unused in the others",
        text::size(done.deleted_bytes),
        done.repacked_packs,
        text::size(done.written_bytes),
        text::size(done.unused_bytes),
    )
}

fn summary(args: &PruneOptions, done: &PruneSummary) -> serde_json::Value {
    json!({
        "message_type": "summary",
        "dry_run": args.dry_run,
        "snapshots": done.snapshots,
        "snapshots_deleted": done.forgotten,
        "chunks": done.chunks,
        "dead_packs": done.dead_packs,
        "repacked_packs": done.repacked_packs,
        "spared_packs": done.spared_packs,
        "deleted_bytes": done.deleted_bytes,
        "written_bytes": done.written_bytes,
        "before_bytes": done.before_bytes,
        "unused_bytes": done.unused_bytes,
        "packs_without_room": done.without_room,
        "needs_force": done.needs_force,
    })
}
