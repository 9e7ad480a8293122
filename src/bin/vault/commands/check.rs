//! `vault check`: what is damaged, and what that costs.
//!
//! While it runs, only progress is shown; what was found is the result, so that it stands together and in one place.

use std::collections::BTreeSet;
use std::time::Instant;

use serde_json::{Value, json};
use vault::check::{Ages, CheckOptions, CheckReport, Cost, Damage, Loss, Subset, check, check_hashes};
use vault::error::{Error, Result};
use vault::event::{Event, Observer};
use vault::id::SnapshotId;
use vault::repository::{Lacking, Repository, Seen, SeenSnapshot};

use super::{COPY, Context, short};
use crate::args::{self, CheckArgs};
use crate::exit::Outcome;
use crate::passphrase;
use crate::places;
use crate::render::text::{self, counted, escape};
use crate::render::{Screen, chain, path_fields, time_text};

pub fn run(context: &Context, args: &CheckArgs) -> Result<Outcome> {
    // What is wrong with it is in the report, not said before.
    let mut repository = context.open_locked()?;
    if args.without_key {
        return without_key(context, &repository);
    }
    let opened_with = passphrase::unlock(context, &mut repository, passphrase::given(context)?)?;
    if args.repair_copy && repair_copy(context, &repository)? {
        repository = context.open_locked()?;
        passphrase::unlock(context, &mut repository, opened_with)?;
    }
    let only = match &args.selector {
        None => None,
        Some(selector) => {
            let snapshots = context.snapshots(&repository, &[selector])?;
            Some((snapshots.select(selector, &context.zone)?.0, selector.path().to_vec()))
        }
    };
    let options = CheckOptions {
        read_data: args.reads_packs(),
        subset: args.read_data_subset.map(|subset| match subset {
            args::Subset::Percent(percent) => Subset::Percent(percent),
            args::Subset::Part(n, of) => Subset::Part { n: n.into(), of: of.into() },
            args::Subset::Bytes(bytes) => Subset::Bytes(bytes),
        }),
        only,
        mark_damaged: args.mark_damaged,
        all_costs: context.screen.is_json() || context.screen.is_verbose(),
        seed: seed(),
        max_age: args.max_age.as_ref().map(|max| max.age),
        budget: args.budget.map(|budget| budget.0),
        state_folder: places::states(),
        scratch: Some(context.scratch(&repository)),
    };
    let begun = Instant::now();
    context.screen.start_progress("check");
    let result = check(&repository, &options, &Quietly(&context.screen), &context.stop);
    context.screen.end_progress();
    let report = result?;
    let lacking = context.lacking(&repository)?;
    context.say_lacking(&lacking);
    report.damages.iter().try_for_each(|damage| print_damage(context, damage))?;
    let gone = if args.accept_loss {
        accept_loss(context, &repository, &lacking, &report.missed)?
    } else {
        &lacking.gone[..]
    };
    print_gone(context, gone)?;
    if !args.accept_loss {
        context.offer_acceptance(&lacking);
    }
    print_oddities(context, &report);
    if args.is_by_age() && report.ages.is_none() {
        context.screen.warn("what was verified can not be remembered: the next check begins anew");
    }
    offer_help(context, &report);
    print_summary(context, args, (&report, gone.len() as u64), begun)?;
    Ok(Outcome::damage_if(
        !report.damages.is_empty() || !gone.is_empty() || context.screen.tally().problems() > 0,
    ))
}

/// Puts a new `copy` in the place of a lost one, and says what that means. Whether there was anything to do.
fn repair_copy(context: &Context, repository: &Repository) -> Result<bool> {
    let Some(renewed) = repository.renew_copy("")? else {
        context.screen.note("the file copy is whole: this copy of the repository keeps its id");
        return Ok(false);
    };
    context.screen.warn(&format!(
        "this copy of the repository has the new id {}, and no name: what was remembered of the old one no longer \
         applies, so the next snapshot reads all files",
        renewed.copy.copy
    ));
    if !renewed.doubted.is_empty() {
        let packs = counted(renewed.doubted.len() as u64, "pack", "packs");
        context.screen.warn(&format!(
            "recorded as damaged in some copy, perhaps this one: {packs}. Until `vault check --read-data \
             --mark-damaged` finds them whole, the next snapshot stores anew what was in them"
        ));
    }
    Ok(true)
}

/// Another one each time, so that parts chosen at random add up to all in the long run.
fn seed() -> u32 {
    jiff::Timestamp::now().as_nanosecond().to_le_bytes().chunks_exact(4).fold(0, |seed, bytes| {
        let bytes = bytes.try_into().map_or(0, u32::from_le_bytes);
        (seed ^ bytes).wrapping_mul(0x9e37_79b1).rotate_left(15)
    })
}

/// Shows progress and logs the rest: the report says it again, in order and without repetitions.
pub(super) struct Quietly<'a>(pub &'a Screen);

impl Observer for Quietly<'_> {
    fn event(&self, event: &Event<'_>) {
        match event {
            Event::Problem { .. } | Event::Notice { .. } => self.0.log_event(event),
            other => self.0.event(other),
        }
    }
}

pub(super) fn print_damage(context: &Context, damage: &Damage) -> Result<()> {
    if context.screen.is_json() {
        let costs: Vec<Value> = damage.costs.iter().map(cost_json).collect();
        let chunks: Vec<Value> = damage
            .chunks
            .iter()
            .map(|(kind, id)| json!({"kind": kind.to_string(), "id": id.to_string()}))
            .collect();
        let more: Vec<String> =
            damage.more_errors.iter().map(|error| escape(chain(error).as_bytes())).collect();
        return context.screen.json(&json!({
            "message_type": "error",
            "error": {"message": escape(chain(&damage.error).as_bytes()), "more": more},
            "during": "check",
            "item": damage.object,
            "costs": costs,
            "more_costs": damage.more_costs,
            "chunks": chunks,
            "more_chunks": damage.more_chunks,
        }));
    }
    print_errors(context, damage)?;
    print_chunks(context, damage)?;
    for cost in &damage.costs {
        context.screen.line(&format!("  {}", cost_text(cost)))?;
    }
    if damage.more_costs > 0 {
        context
            .screen
            .line(&format!("  and {} more: all of them with -v", text::count(damage.more_costs)))?;
    }
    if damage.object == COPY {
        context.screen.line("  `vault check --repair-copy` makes a new one")?;
    }
    if damage.object.strip_suffix(".par").is_some() {
        context.screen.line("  costs nothing yet: `vault parity add --verify` makes it anew")?;
    } else if damage.costs.is_empty() {
        context.screen.line("  costs nothing: all that was in it is elsewhere too, or is not needed")?;
    }
    Ok(())
}

/// How many chunks are lost, and with `--verbose` which.
fn print_chunks(context: &Context, damage: &Damage) -> Result<()> {
    if context.screen.is_verbose() {
        let lines = damage.chunks.iter();
        return lines
            .into_iter()
            .try_for_each(|(kind, id)| context.screen.line(&format!("  loses {kind} chunk {id}")));
    }
    let count = damage.chunks.len() as u64 + damage.more_chunks;
    if count == 0 {
        return Ok(());
    }
    context.screen.line(&format!("  loses {}", counted(count, "chunk", "chunks")))
}

/// What may help where something is lost.
pub(super) fn offer_help(context: &Context, report: &CheckReport) {
    if report.damages.iter().all(|damage| damage.costs.is_empty()) {
        return;
    }
    let recorded = if report.damages.iter().any(|damage| damage.object.starts_with("packs/")) {
        "; damaged packs are recorded by `vault check --read-data --mark-damaged`, so that it does"
    } else {
        ""
    };
    context.screen.note(
        "another copy of the repository may have it whole: `vault heal --from FOLDER` takes it from there",
    );
    context
        .screen
        .note(&format!("what the source still has, the next `vault snapshot` stores again{recorded}"));
    context.screen.note("`vault repair` makes snapshots of what is left of damaged ones");
}

fn print_errors(context: &Context, damage: &Damage) -> Result<()> {
    std::iter::once(&damage.error).chain(&damage.more_errors).try_for_each(|error| {
        let error = chain(error);
        // Most errors name their object themselves.
        let line = if error.contains(&damage.object) { error } else { format!("{}: {error}", damage.object) };
        context.screen.line(&line)
    })
}

fn cost_text(cost: &Cost) -> String {
    let (snapshot, path) = (short(&cost.snapshot), escape(&cost.path));
    match cost.loss {
        Loss::Content => format!("costs {snapshot}:/{path}"),
        Loss::Entries => format!("costs what is in {snapshot}:/{path}, or a part of that"),
        Loss::Snapshot => format!("costs the snapshot {snapshot}"),
        Loss::Notes => format!("costs the notes of the snapshot {snapshot}, no data"),
    }
}

fn cost_json(cost: &Cost) -> Value {
    let loss = match cost.loss {
        Loss::Content => "content",
        Loss::Entries => "entries",
        Loss::Snapshot => "snapshot",
        Loss::Notes => "notes",
    };
    let mut value = json!({"snapshot": cost.snapshot.to_string(), "loss": loss});
    path_fields(&mut value, "path", &[b"/", cost.path.as_slice()].concat());
    value
}

/// What is no damage, but worth a look.
fn print_oddities(context: &Context, report: &CheckReport) {
    for name in &report.unknown_names {
        context.screen.note(&format!("{name} is no file of a repository; it is left alone"));
    }
    if !report.left_over.is_empty() {
        let files = counted(report.left_over.len() as u64, "temporary file", "temporary files");
        context.screen.note(&format!("{files} of interrupted runs: the next snapshot removes them"));
    }
    if report.with_parity > 0 && report.without_parity > 0 {
        let packs = counted(report.without_parity, "pack has", "packs have");
        context.screen.note(&format!("{packs} no parity, as others do: `vault parity add` makes it"));
    }
    if report.parity_only > 0 {
        let files = counted(report.parity_only, "file of parity", "files of parity");
        context.screen.note(&format!(
            "{files} without a pack: `vault parity repair` brings back what it can, `vault parity drop` removes them"
        ));
    }
    for notice in &report.notices {
        context.screen.warn(notice);
    }
    for pack in &report.marked {
        context.screen.note(&format!("marked pack {pack}: the next snapshot stores anew what was in it"));
    }
}

/// Expects no longer what is gone, and says what that is. Nothing is gone then.
fn accept_loss<'a>(
    context: &Context,
    repository: &Repository,
    lacking: &'a Lacking,
    followed: &[SnapshotId],
) -> Result<&'a [SeenSnapshot]> {
    if let Some(folder) = places::states() {
        Seen::recall(&folder, repository)?.accept(lacking, followed)?;
    }
    for key in &lacking.keys {
        context.screen.note(&format!("the key {key} is gone, and is expected no longer"));
    }
    for record in &lacking.records {
        context.screen.note(&format!("the record {record} is gone, and is expected no longer"));
    }
    for seen in &lacking.gone {
        context.screen.note(&format!("snapshot {} is gone, and is expected no longer", seen.id));
    }
    for id in followed.iter().filter(|id| !lacking.gone.iter().any(|seen| seen.id == **id)) {
        context.screen.note(&format!("snapshot {id}, which another one followed, is expected no longer"));
    }
    Ok(&[])
}

/// Names the snapshots that were here and are gone.
pub(super) fn print_gone(context: &Context, gone: &[SeenSnapshot]) -> Result<()> {
    for seen in gone {
        let error = Error::SnapshotGone { snapshot: seen.id };
        if context.screen.is_json() {
            context.screen.json(&json!({
                "message_type": "error",
                "error": {"message": error.to_string()},
                "during": "check",
                "item": format!("snapshots/{}", seen.id),
            }))?;
        } else {
            let time = text::time(seen.first_seen, &context.zone, "%Y-%m-%d %H:%M");
            context.screen.line(&format!("{error} (first seen {time})"))?;
        }
    }
    Ok(())
}

/// What can be said without a key: which files are not the ones that were written.
fn without_key(context: &Context, repository: &Repository) -> Result<Outcome> {
    let begun = Instant::now();
    context.screen.start_progress("check");
    let state = places::states();
    let result = check_hashes(repository, state.as_deref(), &Quietly(&context.screen), &context.stop);
    context.screen.end_progress();
    let report = result?;
    report.damages.iter().try_for_each(|damage| {
        if context.screen.is_json() {
            return print_damage(context, damage);
        }
        print_errors(context, damage)
    })?;
    print_oddities(context, &report);
    let found = report.damages.len() as u64;
    let value = json!({
        "message_type": "summary",
        "num_errors": found,
        "damages": found,
        "snapshots": report.snapshots,
        "packs": report.packs,
        "pack_bytes": report.pack_bytes,
        "packs_read": report.packs_read,
        "bytes_read": report.bytes_read,
        "segments": report.segments,
        "without_key": true,
        "total_duration": begun.elapsed().as_secs_f64(),
    });
    let verdict = if found == 0 {
        "every file has the bytes that it was written with".to_owned()
    } else {
        counted(found, "damaged file", "damaged files")
    };
    let beyond = if repository.is_locked() { "with a passphrase" } else { "without --without-key" };
    let text = format!(
        "{verdict}: {}, {}, {}, {} in {}; what is in them, and whether all that should be here is, shows {beyond}",
        counted(report.snapshots, "snapshot", "snapshots"),
        counted(report.packs, "pack", "packs"),
        counted(report.segments, "segment", "segments"),
        text::size(report.bytes_read),
        text::duration(begun.elapsed()),
    );
    context.screen.summary(&text, &value)?;
    Ok(Outcome::damage_if(found > 0))
}

/// How much is still to be verified, and when what is not was.
fn ages_text(context: &Context, args: &CheckArgs, ages: Ages) -> String {
    let left = match (&args.max_age, ages.overdue) {
        (_, 0) => "none left to verify".to_owned(),
        (max, overdue) => {
            let since = max.as_ref().map_or_else(|| "ever".to_owned(), |max| format!("within {}", max.text));
            let packs = counted(overdue, "pack", "packs");
            format!("{packs} ({}) not verified {since}", text::size(ages.overdue_bytes))
        }
    };
    let oldest = ages.oldest.map(|oldest| text::time(oldest, &context.zone, "%Y-%m-%d %H:%M"));
    oldest.map_or_else(|| format!("; {left}"), |time| format!("; {left}, the oldest verified {time}"))
}

fn ages_json(context: &Context, ages: Ages) -> Value {
    json!({
        "packs_never_verified": ages.never,
        "packs_overdue": ages.overdue,
        "bytes_overdue": ages.overdue_bytes,
        "oldest_verified": ages.oldest.map(|oldest| time_text(oldest, &context.zone)),
    })
}

fn print_summary(
    context: &Context,
    args: &CheckArgs,
    (report, gone): (&CheckReport, u64),
    begun: Instant,
) -> Result<()> {
    // A path counts once, though several damages cost it.
    let costs = report.damages.iter().flat_map(|damage| &damage.costs);
    let lost: BTreeSet<_> = costs.map(|cost| (cost.snapshot, &cost.path)).collect();
    let more: u64 = report.damages.iter().map(|damage| damage.more_costs).sum();
    let value = json!({
        "message_type": "summary",
        "num_errors": report.damages.len() as u64 + gone,
        "damages": report.damages.len(),
        "snapshots_gone": gone,
        "paths_lost": lost.len() as u64 + more,
        "snapshots": report.snapshots,
        "packs": report.packs,
        "pack_bytes": report.pack_bytes,
        "packs_read": report.packs_read,
        "bytes_read": report.bytes_read,
        "segments": report.segments,
        "chunks": report.chunks,
        "chunks_lost": report.chunks_lost,
        "entries": report.entries,
        "marked": report.marked.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "packs_with_parity": report.with_parity,
        "packs_without_parity": report.without_parity,
        "ages": report.ages.map(|ages| ages_json(context, ages)),
        "unknown_names": report.unknown_names.iter().map(|name| escape(name.as_bytes())).collect::<Vec<_>>(),
        "total_duration": begun.elapsed().as_secs_f64(),
    });
    let verdict = match report.damages.len() as u64 {
        0 if gone > 0 => {
            format!("no damage found, but {} gone", counted(gone, "snapshot is", "snapshots are"))
        }
        0 => "no damage found".to_owned(),
        damages => {
            let at_least = if more > 0 { "at least " } else { "" };
            let paths = counted(lost.len() as u64, "path", "paths");
            format!("{}, which cost {at_least}{paths}", counted(damages, "damaged object", "damaged objects"))
        }
    };
    let depth = if args.read_data && args.selector.is_some() {
        "all chunks read".to_owned()
    } else if args.reads_packs() {
        let (packs, all) = (text::count(report.packs_read), text::count(report.packs));
        let ages = report.ages.filter(|_| args.is_by_age()).map(|ages| ages_text(context, args, ages));
        format!("{packs} of {all} packs read, {}{}", text::size(report.bytes_read), ages.unwrap_or_default())
    } else {
        "structure only: --read-data reads all bytes too".to_owned()
    };
    let text = format!(
        "{verdict}: {} with {}, {} in {} ({depth}) in {}",
        counted(report.snapshots, "snapshot", "snapshots"),
        counted(report.entries, "entry", "entries"),
        counted(report.chunks, "chunk", "chunks"),
        counted(report.packs, "pack", "packs"),
        text::duration(begun.elapsed()),
    );
    context.screen.summary(&text, &value)
}
