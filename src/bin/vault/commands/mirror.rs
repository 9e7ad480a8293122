//! `vault mirror`.

use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::time::Instant;

use serde_json::{Value, json};
use vault::backend::{Backend, LocalFolder};
use vault::error::{Error, Result};
use vault::mirror::{DamagedFile, MirrorOptions, MirrorSummary, Side, mirror};
use vault::prune::PruneOptions;
use vault::repository::Repository;

use super::{Context, prune};
use crate::args::MirrorArgs;
use crate::exit::Outcome;
use crate::passphrase;
use crate::places;
use crate::render::text::{self, counted, escape};
use crate::render::{chain, path_fields, time_text};

pub fn run(context: &Context, args: &MirrorArgs) -> Result<Outcome> {
    let mut repository = context.open_locked()?;
    // A mirror needs no key. With one, more can be put in order there.
    let given = passphrase::given(context)?;
    if !repository.config().is_encrypted() || given.is_some() || args.prune {
        repository = context.open_with(given)?;
    }
    let options = MirrorOptions {
        new: args.new,
        name: args.name.clone().unwrap_or_default(),
        verify: args.verify,
        write_rate: context.global.write_rate(),
        read_rate: context.global.read_rate(),
        state_folder: places::states(),
        scratch: Some(context.scratch(&repository)),
    };
    let destination: Arc<dyn Backend> = Arc::new(LocalFolder::new(args.destination.clone()));
    let begun = Instant::now();
    context.screen.start_progress("mirror");
    let result = mirror(&repository, &destination, &options, &*context.screen, &context.stop);
    context.screen.end_progress();
    let summary = result.inspect_err(|error| {
        if let Error::Interrupted = error {
            // Before it has a `config` it is no mirror yet.
            let new = if destination.open("config").is_ok() { "" } else { "--new " };
            let place = args.destination.display();
            let text =
                format!("what was copied is right: `vault mirror {new}{place}` goes on where it stopped");
            context.screen.note(&text);
        }
    })?;
    // So that it is known when it is opened, and missed what is gone from it then.
    let seen = Repository::open(destination.clone()).and_then(|mirror| context.lacking(&mirror));
    if let Err(error) = seen {
        context.screen.warn(&chain(&error));
    }
    for file in &summary.damaged {
        context.screen.warn(&damaged_text(file));
    }
    for name in &summary.unknown_names {
        let name = escape(name.as_os_str().as_bytes());
        context.screen.note(&format!("{name} is no file of a repository; it is left alone"));
    }
    print_summary(context, args, &summary, begun)?;
    // That an older copy took the mirror's place is no damage: it was brought up to date. It was said.
    let found = !summary.damaged.is_empty() || !summary.replaced.is_empty();
    if args.prune && summary.damaged.is_empty() {
        prune_there(context, &repository, destination)?;
    } else if args.prune {
        context.screen.warn("nothing is pruned while something is damaged");
    }
    Ok(Outcome::damage_if(found || context.screen.tally().problems() > 0))
}

/// Prunes the copy; of what lies there twice, what the repository has stays.
fn prune_there(context: &Context, repository: &Repository, place: Arc<dyn Backend>) -> Result<()> {
    let mut copy = Repository::open(place)?.with_budget(context.global.budget()?);
    copy.unlock_like(repository)?;
    let preferred = repository.listed_packs()?.into_keys().collect();
    let options = PruneOptions { preferred, ..prune::default_options(context, &copy)? };
    let place = copy.backend().place();
    prune::run_on(context, &copy, &options).map_err(|error| match error {
        Error::Usage(text) => Error::Usage(format!("{}: {text}", place.display())),
        other => other,
    })
}

fn damaged_text(file: &DamagedFile) -> String {
    let name = &file.file;
    match (file.side, file.whole_on_other_side) {
        (Side::Repository, true) => {
            format!(
                "{name} is damaged in the repository; the mirror has it whole: `vault heal --from` takes it from there"
            )
        }
        (Side::Repository, false) => format!("{name} is damaged in the repository and was not copied"),
        (Side::Mirror, true) => format!("{name} is damaged on the mirror; the repository has it whole"),
        (Side::Mirror, false) => {
            format!("{name} is damaged on the mirror, and the repository does not have it")
        }
    }
}

fn print_summary(
    context: &Context,
    args: &MirrorArgs,
    summary: &MirrorSummary,
    begun: Instant,
) -> Result<()> {
    let damaged: Vec<Value> = summary
        .damaged
        .iter()
        .map(|file| {
            let side = if file.side == Side::Mirror { "mirror" } else { "repository" };
            json!({"file": file.file, "side": side, "whole_on_other_side": file.whole_on_other_side})
        })
        .collect();
    let mut value = json!({
        "message_type": "summary",
        "copy_id": summary.copy.to_string(),
        "name": summary.name,
        "new": args.new,
        "files_copied": summary.files_copied,
        "bytes_copied": summary.bytes_copied,
        "files_present": summary.files_present,
        "files_replaced": summary.replaced,
        "segments_removed": summary.segments_removed,
        "damaged": damaged,
        "unknown_names": summary.unknown_names.len(),
        "extra_snapshots": summary.extra_snapshots.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "extra_packs": summary.extra_packs,
        "older_copy_without": summary.older_than.map(|id| id.to_string()),
        "last_refreshed": summary.last_refreshed.map(|time| time_text(time, &context.zone)),
        "total_duration": begun.elapsed().as_secs_f64(),
    });
    path_fields(&mut value, "mirror", args.destination.as_os_str().as_bytes());
    let name = if summary.name.is_empty() { String::new() } else { format!(" ({})", summary.name) };
    let mut text = format!(
        "mirror {}{name}: {} copied, {}, {} there already, in {}",
        args.destination.display(),
        counted(summary.files_copied, "file", "files"),
        text::size(summary.bytes_copied),
        text::count(summary.files_present),
        text::duration(begun.elapsed()),
    );
    if !summary.replaced.is_empty() {
        let files = counted(summary.replaced.len() as u64, "damaged file", "damaged files");
        text = format!("{text}; {files} of the mirror replaced");
    }
    if let Some(time) = summary.last_refreshed {
        let time = text::time(time, &context.zone, "%Y-%m-%d %H:%M");
        text = format!("{text}; last refreshed {time}");
    }
    context.screen.summary(&text, &value)
}
