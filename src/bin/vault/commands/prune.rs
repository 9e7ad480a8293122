//! `vault prune`: deletes what no snapshot needs.

use std::sync::Arc;

use serde_json::json;
use vault::error::Result;
use vault::event::Observer;
use vault::prune::{PruneOptions, PruneSummary, prune};
use vault::repository::DEFAULT_PACK_LEN;
use vault::snapshot::Time;

use super::Context;
use crate::args::PruneArgs;
use crate::exit::Outcome;
use crate::render::text;

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
        kept_since: args.grace.before_time(Time::now()),
        force: args.force,
        scratch: context.cache_folder(repository.id()).unwrap_or_else(std::env::temp_dir),
        compression: args.compression.0,
        pack_len: DEFAULT_PACK_LEN,
    };
    context.screen.start_progress("reading");
    let observer: Arc<dyn Observer> = context.screen.clone();
    let pruned = prune(&repository, &options, &observer, &context.stop);
    context.screen.end_progress();
    let done = pruned?;
    if done.without_room > 0 {
        context.screen.note(&format!(
            "there was no room to pack anew what is needed of {}: they stay as they are",
            text::counted(done.without_room, "pack", "packs")
        ));
    }
    if done.spent_reserve {
        context.screen.note("the medium was full: the reserve of the repository was used");
    }
    context.screen.summary(&words(args, &done), &summary(args, &done))?;
    Ok(context.outcome())
}

fn words(args: &PruneArgs, done: &PruneSummary) -> String {
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

fn summary(args: &PruneArgs, done: &PruneSummary) -> serde_json::Value {
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
        "reserve_used": done.spent_reserve,
    })
}
