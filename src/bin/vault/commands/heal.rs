//! `vault heal`: another copy makes up for what is damaged here. What cannot be had from it is named as `check` does.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use serde_json::{Value, json};
use vault::backend::{Backend, LocalFolder};
use vault::check::{CheckOptions, CheckReport, check};
use vault::error::{Error, Result};
use vault::event::{Event, Observer};
use vault::heal::{HealOptions, HealSummary, heal, prepare};
use vault::repository::{Repository, Seen};

use super::check::{Quietly, offer_help, print_damage, print_gone};
use super::{Context, passphrase};
use crate::args::HealArgs;
use crate::exit::Outcome;
use crate::medium::{Medium, ReadErrors};
use crate::places;
use crate::render::text::{self, counted};
use crate::render::{Screen, chain, path_fields};

/// So many files are named; with `--verbose` all.
const NAMED: usize = 20;

pub fn run(context: &Context, args: &HealArgs) -> Result<Outcome> {
    let begun = Instant::now();
    let errors = Arc::default();
    let (here, other) = (context.backend_noting(&errors)?, medium_of_other(context, &args.from, &errors));
    let observer: Arc<dyn Observer> = Arc::new(Afterwards(context.screen.clone()));
    let mut options = options(None, args.quick, args.dry_run);
    context.screen.start_progress("heal");
    let prepared =
        refuse_exchanged(&other).and_then(|()| prepare(&here, &other, &options, &observer, &context.stop));
    context.screen.end_progress();
    let mended = prepared.inspect_err(|error| {
        name_errors(context, &errors);
        // Which of the two it is about does not show.
        if error.is_damage() && Repository::open(other.clone()).is_err_and(|error| error.is_damage()) {
            let place = args.from.display();
            context
                .screen
                .note(&format!("this is said of the copy in {place}: heal that one first, from this one"));
        }
    })?;
    // What is wrong with it is in the report, not said before.
    let mut repository = context.open_locked_at(here)?;
    let opened_with = if args.without_key {
        None
    } else {
        passphrase::unlock(context, &mut repository, passphrase::given(context)?)?
    };
    options = self::options(context.cache_folder(repository.id()), args.quick, args.dry_run);
    context.screen.start_progress("heal");
    let healed = heal(&repository, &other, &options, &observer, &context.stop);
    context.screen.end_progress();
    name_errors(context, &errors);
    let mut summary = healed.inspect_err(|error| {
        if let Error::Interrupted = error {
            context.screen.note("what was taken over is right, and nothing is worse: the same again goes on");
        }
    })?;
    summary.replaced.splice(0..0, mended.replaced);
    summary.fetched.splice(0..0, mended.fetched);
    name_files(context, &summary);
    name_damaged_there(context, &args.from, &summary);
    let (mut report, mut gone) = (None, 0);
    if !repository.is_locked() && !args.dry_run {
        let mut healed = context.open_locked()?;
        passphrase::unlock(context, &mut healed, opened_with)?;
        report = Some(examine(context, &healed)?);
        let lacking = context.lacking(&healed)?;
        context.say_lacking(&lacking);
        print_gone(context, &lacking.gone)?;
        gone = lacking.gone.len();
    }
    if report.is_none() {
        summary.damaged.iter().try_for_each(|name| still_damaged(context, name))?;
    }
    if report.as_ref().is_some_and(|report| report.chunks_lost == 0) {
        offer_prune(context, &summary);
    }
    print_summary(context, args, (&summary, report.as_ref()), begun)?;
    let found = &summary;
    let is_damaged = match &report {
        Some(report) => !report.damages.is_empty() || gone > 0,
        None if args.dry_run => {
            let files = found.replaced.len() + found.fetched.len() + found.damaged.len();
            files > 0 || found.chunks_saved + found.chunks_lost > 0
        }
        None => !found.damaged.is_empty(),
    };
    Ok(Outcome::damage_if(is_damaged || !summary.damaged_there.is_empty()))
}

/// The medium of the other copy, from which is only read.
fn medium_of_other(context: &Context, place: &Path, errors: &Arc<ReadErrors>) -> Arc<dyn Backend> {
    let read_rate = context.global.read_rate();
    Arc::new(Medium::new(LocalFolder::new(place), read_rate, None, context.stop.clone()).noting(errors))
}

/// Refuses a copy that says it is not encrypted, if this computer has seen it encrypted.
fn refuse_exchanged(other: &Arc<dyn Backend>) -> Result<()> {
    let Some(folder) = places::states() else { return Ok(()) };
    match Repository::open(other.clone()) {
        Ok(other) => Seen::recall(&folder, &other).map(|_| ()),
        // Why not is said next.
        Err(Error::NoRepository { .. }) => Ok(()),
        Err(error) => Err(Error::about(other.place())(error)),
    }
}

/// How to heal or repair, and where to put what there is no memory for.
pub(super) fn options(cache: Option<std::path::PathBuf>, quick: bool, dry_run: bool) -> HealOptions {
    let scratch = cache.clone().unwrap_or_else(std::env::temp_dir);
    HealOptions { quick, dry_run, cache_folder: cache, ..HealOptions::new(scratch) }
}

/// Shows progress and logs what is damaged: what is still so at the end is said then.
pub(super) struct Afterwards(pub Arc<Screen>);

impl Observer for Afterwards {
    fn event(&self, event: &Event<'_>) {
        match event {
            Event::Problem { .. } => self.0.log_event(event),
            Event::Notice { path, .. } if !path.as_os_str().is_empty() => self.0.log_event(event),
            Event::Damage { .. } => {}
            other => self.0.event(other),
        }
    }
}

/// Looks at the structure once more: which paths of which snapshots are still lost.
fn examine(context: &Context, repository: &Repository) -> Result<CheckReport> {
    let all_costs = context.screen.is_json() || context.screen.is_verbose();
    let scratch = Some(context.scratch(repository));
    let options = CheckOptions { all_costs, scratch, ..CheckOptions::default() };
    context.screen.start_progress("check");
    let checked = check(repository, &options, &Quietly(&context.screen), &context.stop);
    context.screen.end_progress();
    let report = checked?;
    report.damages.iter().try_for_each(|damage| print_damage(context, damage))?;
    offer_help(context, &report);
    Ok(report)
}

/// How damaged packs go that nothing is lost by.
pub(super) fn offer_prune(context: &Context, summary: &HealSummary) {
    if summary.damaged.iter().any(|name| name.starts_with("packs/")) {
        context
            .screen
            .note("nothing is lost: `vault prune` deletes damaged packs of which nothing is needed");
    }
}

/// How many files are named.
fn most(context: &Context) -> usize {
    if context.screen.is_verbose() { usize::MAX } else { NAMED }
}

fn name_files(context: &Context, summary: &HealSummary) {
    let most = most(context);
    for (files, what) in [(&summary.replaced, "was damaged"), (&summary.fetched, "was missing")] {
        for name in files.iter().take(most) {
            context.screen.note(&format!("{name} {what}"));
        }
        if files.len() > most {
            context.screen.note(&format!("and {} more: all of them with -v", files.len() - most));
        }
    }
}

/// What could not be read of either copy, whatever became of it.
pub(super) fn name_errors(context: &Context, errors: &ReadErrors) {
    let errors = errors.take();
    name_some(context, &errors);
}

/// What the other copy could not give for another reason.
fn name_damaged_there(context: &Context, place: &Path, summary: &HealSummary) {
    let damaged = summary.damaged_there.values().filter(|error| matches!(error, Error::Damaged { .. }));
    let damaged = damaged.map(|error| format!("{} (in {})", chain(error), place.display()));
    name_some(context, &damaged.collect::<Vec<_>>());
}

fn name_some(context: &Context, texts: &[String]) {
    let most = most(context);
    texts.iter().take(most).for_each(|text| context.screen.warn(text));
    if texts.len() > most {
        context.screen.warn(&format!("and {} more: all of them with -v", texts.len() - most));
    }
}

pub(super) fn still_damaged(context: &Context, name: &str) -> Result<()> {
    let text = format!("{name} is damaged or missing");
    if context.screen.is_json() {
        let during = "heal";
        return context.screen.json(
            &json!({"message_type": "error", "error": {"message": text}, "during": during, "item": name}),
        );
    }
    context.screen.line(&text)
}

/// What was done to files and chunks, in words.
pub(super) fn words(summary: &HealSummary, is_dry: bool) -> Vec<String> {
    let would = if is_dry { "would be " } else { "" };
    let files = |count: usize| counted(count as u64, "file", "files");
    let mut words = Vec::new();
    if !summary.replaced.is_empty() {
        words.push(format!("{} {would}replaced", files(summary.replaced.len())));
    }
    if !summary.fetched.is_empty() {
        words.push(format!("{} {would}fetched", files(summary.fetched.len())));
    }
    if summary.chunks_saved > 0 {
        words.push(format!("{} {would}stored again", counted(summary.chunks_saved, "chunk", "chunks")));
    }
    words
}

/// The same for JSON.
pub(super) fn to_json(summary: &HealSummary) -> Value {
    let ids = |packs: &[vault::id::PackId]| packs.iter().map(ToString::to_string).collect::<Vec<_>>();
    json!({
        "message_type": "summary",
        "files_read": summary.files_read,
        "bytes_read": summary.bytes_read,
        "files_replaced": summary.replaced,
        "files_fetched": summary.fetched,
        "files_damaged": summary.damaged,
        "files_damaged_there": summary.damaged_there.keys().collect::<Vec<_>>(),
        "chunks_saved": summary.chunks_saved,
        "chunks_lost": summary.chunks_lost,
        "marked": ids(&summary.marked),
        "unmarked": ids(&summary.unmarked),
    })
}

fn print_summary(
    context: &Context,
    args: &HealArgs,
    (summary, report): (&HealSummary, Option<&CheckReport>),
    begun: Instant,
) -> Result<()> {
    let mut value = to_json(summary);
    value["dry_run"] = args.dry_run.into();
    value["without_key"] = args.without_key.into();
    value["damages"] = report.map_or(summary.damaged.len(), |report| report.damages.len()).into();
    value["total_duration"] = begun.elapsed().as_secs_f64().into();
    path_fields(&mut value, "from", args.from.as_os_str().as_bytes());
    let mut words = words(summary, args.dry_run);
    if words.is_empty() {
        words.push("nothing to heal".to_owned());
    }
    let damaged = report.map_or(summary.damaged.len(), |report| report.damages.len()) as u64;
    if damaged > 0 {
        words.push(format!("{} still", counted(damaged, "damaged object", "damaged objects")));
    } else if summary.replaced.len() + summary.fetched.len() > 0 && report.is_some() {
        words.push("nothing is damaged any more".to_owned());
    }
    if !summary.damaged_there.is_empty() {
        let files = counted(summary.damaged_there.len() as u64, "file is", "files are");
        words.push(format!("{files} damaged there"));
    }
    if report.is_none() && summary.chunks_lost > 0 {
        words.push(format!("{} lost", counted(summary.chunks_lost, "chunk is", "chunks are")));
    }
    if report.is_none() && !args.dry_run {
        words.push("what is in the files, and what of it is needed, shows with a passphrase".to_owned());
    }
    if args.quick {
        words.push("packs that nothing speaks against were not read".to_owned());
    }
    let read = text::size(summary.bytes_read);
    let text = format!(
        "{}: {} read, {read}, in {}",
        words.join(", "),
        counted(summary.files_read, "file", "files"),
        text::duration(begun.elapsed()),
    );
    context.screen.summary(&text, &value)
}
