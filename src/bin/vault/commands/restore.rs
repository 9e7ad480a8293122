//! `vault restore`: where to, what of it, and what came of it.

mod gaps;
mod place;

use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::json;
use vault::backup::current_host;
use vault::error::{Error, Result};
use vault::id::SnapshotId;
use vault::pattern::{CaseFold, Patterns};
use vault::repository::Reader;
use vault::restore::{NotSet, Overwrite, Owner, RestoreOptions, RestoreSummary, Select, Sparse, restore};
use vault::snapshot::Snapshot;

use super::snapshots::state_name;
use super::{Context, entry_at, short};
use crate::args::{OverwriteArg, OwnerArg, RestoreArgs};
use crate::exit::Outcome;
use crate::render::path_fields;
use crate::render::text::{self, counted};

use place::Job;

/// So many files and folders may be open, if the system lets us: the more, the fewer times the medium is waited for.
const DESCRIPTORS: u64 = 8192;

fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    let most = limit.maximum.unwrap_or(DESCRIPTORS).min(DESCRIPTORS);
    if limit.current.is_some_and(|current| current < most) {
        // Without it restoring is slower.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(most), ..limit });
    }
}

pub fn run(context: &Context, args: &RestoreArgs) -> Result<Outcome> {
    raise_descriptor_limit();
    let repository = context.open()?;
    let snapshots = context.snapshots(&repository, &[&args.selector])?;
    let snapshot = snapshots.select(&args.selector, &context.zone)?;
    let reader = context.reader(&repository)?;
    let damaged = context.screen.tally().problems() > 0;
    // A path that is not there is found out before a folder is made or anything asked.
    entry_at(&reader, snapshot, args.selector.path())?;
    let options = to_options(args, repository.backend().place(), context.global.write_rate())?;
    let (jobs, lost) = if args.in_place {
        place::in_place(&reader, &snapshot.1, args.selector.path())?
    } else {
        let target = match &args.target {
            Some(target) => target.clone(),
            None => place::new_folder(context, snapshot)?,
        };
        (vec![Job { path: args.selector.path().to_vec(), target }], Vec::new())
    };
    for (path, error) in &lost {
        context.screen.problem(&[b"/", &path[..]].concat(), error);
    }
    if args.in_place && !args.dry_run && !agreed(context, args, (&reader, snapshot), &jobs, &options)? {
        context.screen.note("nothing was changed");
        return Ok(Outcome::Failed);
    }
    let begun = Instant::now();
    let restored = all(context, &reader, snapshot, &jobs, &options);
    // Segments that were found damaged only now; packs stood in for them.
    let late = reader.index().take_problems();
    for problem in &late {
        context.screen.problem(b"", problem);
    }
    let mut summary = restored.inspect_err(|error| {
        if let (Error::Interrupted, [job]) = (error, jobs.as_slice()) {
            let target = job.target.display();
            context
                .screen
                .note(&format!("what is in {target} is right: --target {target} goes on from there"));
        }
    })?;
    summary.errors += lost.len() as u64;
    summary.damaged += lost.iter().filter(|(_, error)| error.is_damage()).count() as u64;
    print(context, args, snapshot, &jobs, &summary, begun)?;
    let nothing = options.select.is_some() && summary.selected == 0;
    if nothing {
        context.screen.warn("nothing matched: nothing was restored");
    }
    Ok(match &summary {
        summary if summary.damaged > 0 || damaged || !late.is_empty() => Outcome::Damage,
        summary if !summary.is_success() || nothing => Outcome::Failed,
        _ => Outcome::Done,
    })
}

/// Restores each part to its place, and adds up.
fn all(
    context: &Context,
    reader: &Reader,
    (_, snapshot): &(SnapshotId, Snapshot),
    jobs: &[Job],
    options: &RestoreOptions,
) -> Result<RestoreSummary> {
    let mut total = RestoreSummary::default();
    context.screen.show_changes(options.dry_run);
    if !options.dry_run {
        context.screen.start_progress("restore");
    }
    for job in jobs {
        if options.dry_run {
            context.screen.note(&format!("in {}:", job.target.display()));
        }
        let one = restore(reader, snapshot, &job.path, &job.target, options, &*context.screen, &context.stop);
        let one = match one {
            // One place that cannot be restored to is no reason to leave out the others.
            Err(error) if jobs.len() > 1 && !ends_all(&error) => {
                context.screen.problem(job.target.as_os_str().as_bytes(), &error);
                total.errors += 1;
                total.damaged += u64::from(error.is_damage());
                continue;
            }
            other => other?,
        };
        add(&mut total, one);
    }
    context.screen.end_progress();
    context.screen.show_changes(false);
    Ok(total)
}

/// Whether an error of one place ends the whole restore.
fn ends_all(error: &Error) -> bool {
    matches!(error, Error::Interrupted) || error.is_no_space()
}

/// Of which entry a kind of metadata could not be set first, and why.
fn first_not_set(summary: &RestoreSummary, what: NotSet) -> String {
    let Some((path, error)) = summary.not_set_first.get(&what) else { return String::new() };
    let error = error.as_ref().map(|error| format!(": {error}")).unwrap_or_default();
    format!("; first /{}{error}", text::escape(path))
}

fn add(total: &mut RestoreSummary, one: RestoreSummary) {
    total.files += one.files;
    total.directories += one.directories;
    total.others += one.others;
    total.bytes = total.bytes.saturating_add(one.bytes);
    total.unchanged += one.unchanged;
    total.removed += one.removed;
    total.skipped += one.skipped;
    total.errors += one.errors;
    total.damaged += one.damaged;
    total.as_root |= one.as_root;
    total.selected += one.selected;
    total.not_saved_first.extend(one.not_saved_first);
    for (what, count) in one.not_set {
        *total.not_set.entry(what).or_default() += count;
    }
    for (what, first) in one.not_set_first {
        total.not_set_first.entry(what).or_insert(first);
    }
    for (why, count) in one.not_saved {
        *total.not_saved.entry(why).or_default() += count;
    }
}

/// Shows what would be changed in place, and whether the user agrees. Without a terminal there is nobody to ask, so that has
/// to be said beforehand.
fn agreed(
    context: &Context,
    args: &RestoreArgs,
    (reader, snapshot): (&Reader, &(SnapshotId, Snapshot)),
    jobs: &[Job],
    options: &RestoreOptions,
) -> Result<bool> {
    let here = current_host();
    if snapshot.1.host != here {
        let there = &snapshot.1.host;
        context.screen.warn(&format!("this snapshot was taken on the host {there}, and this is {here}"));
    }
    if args.yes {
        return Ok(true);
    }
    let rehearsal = RestoreOptions { dry_run: true, ..options.clone() };
    let summary = all(context, reader, snapshot, jobs, &rehearsal)?;
    if summary.files + summary.directories + summary.others + summary.removed == 0 && summary.errors == 0 {
        // Nothing to agree to.
        return Ok(true);
    }
    context.screen.note(&format!("would be restored: {}", amounts(&summary)));
    context.screen.ask("Change this?").ok_or_else(|| {
        Error::Usage("--in-place changes existing files: without a terminal to ask on, say --yes".to_owned())
    })
}

fn to_options(args: &RestoreArgs, repository: &Path, write_rate: Option<u64>) -> Result<RestoreOptions> {
    let patterns = |exact: &[String], folded: &[String]| {
        let exact = exact.iter().map(|pattern| (pattern.clone(), CaseFold::Exact));
        Patterns::new(exact.chain(folded.iter().map(|pattern| (pattern.clone(), CaseFold::Ignore))))
    };
    let include = patterns(&args.include, &args.iinclude)?;
    let exclude = patterns(&args.exclude, &args.iexclude)?;
    let select: Option<Arc<dyn Select>> = if include.is_empty() && exclude.is_empty() {
        None
    } else {
        Some(Arc::new(Wanted { include, exclude }))
    };
    Ok(RestoreOptions {
        overwrite: match args.overwrite {
            OverwriteArg::Always => Overwrite::Always,
            OverwriteArg::IfChanged => Overwrite::IfChanged,
            OverwriteArg::IfNewer => Overwrite::IfNewer,
            OverwriteArg::Never => Overwrite::Never,
        },
        delete: args.delete,
        dry_run: args.dry_run,
        verify: args.verify,
        sparse: if args.sparse { Sparse::Always } else { Sparse::AsSaved },
        owner: match args.owner {
            OwnerArg::Name => Owner::Name,
            OwnerArg::Number => Owner::Number,
            OwnerArg::None => Owner::None,
        },
        select,
        keep_damaged: args.keep_damaged,
        write_rate,
        repository_place: Some(repository.to_owned()),
    })
}

/// What the patterns of the command line leave.
struct Wanted {
    include: Patterns,
    exclude: Patterns,
}

/// Whether patterns include a path: each folder on the way hands down what was said of it.
fn includes(patterns: &Patterns, path: &[u8], is_dir: bool) -> bool {
    let mut included = false;
    for (end, _) in path.iter().enumerate().filter(|(_, byte)| **byte == b'/') {
        included = patterns.includes(included, path.get(..end).unwrap_or_default(), true);
    }
    patterns.includes(included, path, is_dir)
}

impl Select for Wanted {
    fn selected(&self, path: &[u8], is_dir: bool) -> bool {
        (self.include.is_empty() || includes(&self.include, path, is_dir))
            && !includes(&self.exclude, path, is_dir)
    }

    fn may_contain(&self, path: &[u8]) -> bool {
        let wanted =
            self.include.is_empty() || includes(&self.include, path, true) || self.include.may_contain(path);
        wanted && !includes(&self.exclude, path, true)
    }
}

fn amounts(summary: &RestoreSummary) -> String {
    let mut parts =
        vec![format!("{}, {}", counted(summary.files, "file", "files"), text::size(summary.bytes))];
    let others = summary.directories + summary.others;
    for (number, words) in [
        (others, if others == 1 { "folder or other entry" } else { "folders and other entries" }),
        (summary.unchanged, "already right"),
        (summary.removed, "removed"),
        (summary.skipped, "passed over"),
    ] {
        if number > 0 {
            parts.push(format!("{} {words}", text::count(number)));
        }
    }
    parts.join(", ")
}

fn print(
    context: &Context,
    args: &RestoreArgs,
    (id, snapshot): &(SnapshotId, Snapshot),
    jobs: &[Job],
    summary: &RestoreSummary,
    begun: Instant,
) -> Result<()> {
    let mut value = json!({
        "message_type": "summary",
        "snapshot_id": id.to_string(),
        "dry_run": args.dry_run,
        "seconds_elapsed": begun.elapsed().as_secs(),
        "total_files": summary.files + summary.directories + summary.others + summary.unchanged,
        "files_restored": summary.files + summary.directories + summary.others,
        "files_unchanged": summary.unchanged,
        "files_skipped": summary.skipped,
        "files_deleted": summary.removed,
        "bytes_restored": summary.bytes,
        "error_count": summary.errors,
        "damaged": summary.damaged,
        "snapshot_state": state_name(snapshot.state),
        "not_in_snapshot": gaps::to_json(summary),
        "not_set": summary.not_set.iter().map(|(what, count)| (what.to_string(), *count)).collect::<std::collections::BTreeMap<_, _>>(),
    });
    let places: Vec<String> = jobs.iter().map(|job| job.target.display().to_string()).collect();
    if let [job] = jobs {
        path_fields(&mut value, "target", job.target.as_os_str().as_bytes());
    }
    let verb = if args.dry_run { "would restore" } else { "restored" };
    let time = text::duration(begun.elapsed());
    let text = format!("{verb} {} into {}: {} in {time}", short(id), places.join(", "), amounts(summary));
    if !summary.not_set.is_empty() {
        let parts: Vec<String> = summary
            .not_set
            .iter()
            .map(|(what, count)| format!("{what} ({}{})", text::count(*count), first_not_set(summary, *what)))
            .collect();
        context.screen.warn(&format!("could not be set: {}", parts.join(", ")));
    }
    if summary.errors > 0 {
        let errors = counted(summary.errors, "thing", "things");
        context.screen.warn(&format!("{errors} could not be restored, see above"));
    }
    gaps::tell(context, (snapshot, args.selector.path().is_empty()), summary);
    context.screen.summary(&text, &value)
}
