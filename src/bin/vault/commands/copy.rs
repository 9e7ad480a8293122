//! `vault copy`: snapshots into another repository.

use std::sync::Arc;

use serde_json::json;
use vault::copy::{Copied, CopyOptions, CopySummary, copy};
use vault::error::{Error, Result};
use vault::event::Observer;
use vault::id::SnapshotId;
use vault::repository::Repository;
use vault::snapshot::Snapshot;

use super::{Context, Snapshots, short};
use crate::args::CopyArgs;
use crate::exit::Outcome;
use crate::passphrase;
use crate::render::text;

pub fn run(context: &Context, args: &CopyArgs) -> Result<Outcome> {
    let from = context.open()?.with_budget(context.global.half_budget()?);
    let snapshots = context.snapshots(&from, &args.selectors.iter().collect::<Vec<_>>())?;
    let chosen = chosen(context, args, snapshots)?;
    let to = open_target(context, args)?.with_budget(context.global.half_budget()?);
    let options = CopyOptions {
        dry_run: args.dry_run,
        compression: args.compression.0,
        cache_folder: context.cache_folder(to.id()),
    };
    context.screen.start_progress("copy");
    let observer: Arc<dyn Observer> = context.screen.clone();
    let result = copy((&from, &to), &chosen, &options, &observer, &context.stop);
    context.screen.end_progress();
    let summary = result.inspect_err(|error| {
        if !matches!(error, Error::Usage(_)) {
            context.screen.note("what was copied is kept: run it again, and it goes on where it stopped");
        }
    })?;
    if !args.dry_run {
        context.lacking(&to)?;
    }
    show(context, &summary)?;
    print_summary(context, args, &summary)?;
    let is_damaged = summary.copied.iter().any(|(_, copied)| *copied == Copied::Damaged);
    Ok(match context.outcome() {
        _ if summary.is_interrupted => Outcome::Interrupted,
        // Damage of what is copied to, which the copies do without.
        Outcome::Done if is_damaged || context.screen.tally().damages() > 0 => Outcome::Damage,
        other => other,
    })
}

fn chosen(context: &Context, args: &CopyArgs, snapshots: Snapshots) -> Result<Vec<(SnapshotId, Snapshot)>> {
    let mut ids = Vec::new();
    for selector in &args.selectors {
        if selector.path.is_some() {
            return Err(Error::Usage("a whole snapshot is named here, without a path".to_owned()));
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

fn open_target(context: &Context, args: &CopyArgs) -> Result<Repository> {
    let opened = context.open_other(&args.to, passphrase::given_to(args)?, args.to_key.as_deref());
    opened.inspect_err(|error| {
        let place = args.to.display();
        context.screen.note(&format!("that is about the repository that is copied to, {place}"));
        if matches!(error, Error::Locked | Error::WrongPassphrase { .. }) {
            let ways = passphrase::WAYS_TO;
            context.screen.note(&format!(
                "its passphrase is given by {ways}; a recovery key by --to-recovery-key-file"
            ));
        }
    })
}

fn show(context: &Context, summary: &CopySummary) -> Result<()> {
    for (id, copied) in &summary.copied {
        let (what, new) = match copied {
            Copied::As(new) => ("copied", Some(new)),
            Copied::Rehearsed => ("would be copied", None),
            Copied::Before(new) => ("copied before", Some(new)),
            Copied::Forgotten(new) => ("forgotten there", Some(new)),
            Copied::Damaged => ("damaged", None),
        };
        if context.screen.is_json() {
            context.screen.json(&json!({
                "message_type": "copied",
                "snapshot_id": id.to_string(),
                "done": what,
                "new_snapshot_id": new.map(SnapshotId::to_string),
            }))?;
            continue;
        }
        match (copied, new) {
            (Copied::As(_), Some(new)) => {
                context.screen.line(&format!("{} is {} there", short(id), short(new)))?;
            }
            (Copied::Rehearsed, _) => context.screen.line(&format!("{} would be copied", short(id)))?,
            (Copied::Damaged, _) => {
                context
                    .screen
                    .warn(&format!("snapshot {} is damaged, see above, and was not copied", short(id)));
            }
            _ => {}
        }
    }
    Ok(())
}

fn print_summary(context: &Context, args: &CopyArgs, summary: &CopySummary) -> Result<()> {
    let count =
        |is_it: fn(&Copied) -> bool| summary.copied.iter().filter(|(_, copied)| is_it(copied)).count() as u64;
    let copied = count(|copied| matches!(copied, Copied::As(_) | Copied::Rehearsed));
    let before = count(|copied| matches!(copied, Copied::Before(_)));
    let forgotten = count(|copied| matches!(copied, Copied::Forgotten(_)));
    let damaged = count(|copied| matches!(copied, Copied::Damaged));
    let value = json!({
        "message_type": "summary",
        "dry_run": args.dry_run,
        "copied": copied,
        "copied_before": before,
        "forgotten_there": forgotten,
        "damaged": damaged,
        "interrupted": summary.is_interrupted,
        "data_added": summary.plain_bytes,
        "data_added_packed": summary.stored_bytes,
    });
    let snapshots = |count| text::counted(count, "snapshot", "snapshots");
    let would = if args.dry_run { "would copy" } else { "copied" };
    let (plain, stored) = (text::size(summary.plain_bytes), text::size(summary.stored_bytes));
    let mut words = format!("{would} {}: {plain} new, stored as {stored}", snapshots(copied));
    for (count, what) in [
        (before, "there already"),
        (forgotten, "forgotten there, and left so"),
        (damaged, "damaged and not copied"),
    ] {
        if count > 0 {
            words = format!("{words}; {} {what}", snapshots(count));
        }
    }
    if summary.is_interrupted {
        words = format!("interrupted; {words}; the rest follows when it is run again");
    }
    context.screen.summary(&words, &value)
}
