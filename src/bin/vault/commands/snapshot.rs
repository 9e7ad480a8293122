//! `vault snapshot`: from the command line to a backup, and from its summary to the screen.

mod stream;

use std::ffi::OsStr;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use serde_json::json;
use vault::backend::{Backend, LocalFolder};
use vault::backup::{BackupOptions, BackupSummary, backup};
use vault::error::{Error, Result};
use vault::event::Observer;
use vault::pattern::{self, CaseFold, Patterns};
use vault::repository::{InitOptions, NewKey, Repository};
use vault::session::random;
use vault::snapshot::{State, counter};
use vault::source::Filter;

use super::snapshots::{counters_json, state_name};
use super::{Context, short};
use crate::args::{SnapshotArgs, parse_time};
use crate::exit::Outcome;
use crate::render::text::{self, counted};
use crate::{passphrase, places};

pub fn run(context: &Context, args: &SnapshotArgs) -> Result<Outcome> {
    let mut options = to_options(context, args)?;
    let (repository, rehearsal) = open_or_make(context, args.dry_run)?;
    // Damage that something else stood in for, as that of `config`.
    let gone = context.snapshots_gone();
    let damaged = context.screen.tally().problems() > gone;
    if rehearsal.is_none() {
        options.cache_folder = context.cache_folder(repository.id());
    }
    let begun = Instant::now();
    if stream::is_wanted(args) {
        options.stream = Some(stream::open(args, &context.stop)?);
    }
    context.screen.start_progress("archival");
    let observer: Arc<dyn Observer> = context.screen.clone();
    let result = backup(&repository, options, &observer, &context.stop);
    context.screen.end_progress();
    if rehearsal.is_none() && result.is_ok() {
        context.remember(&repository);
    }
    if stream::is_wanted(args) && matches!(result, Err(Error::Interrupted)) {
        context.screen.note("half a stream is no backup: no snapshot was taken");
    }
    let summary = result?;
    let damaged = damaged || context.screen.tally().damages() > 0;
    print(context, &summary, args.dry_run, begun.elapsed())?;
    // The snapshot is whole all the same, but it is not all well.
    if damaged {
        context.screen.warn(
            "the repository is damaged, see above; what was saved now does not need what is damaged. \
             `vault check --read-data` names all of it and what it costs",
        );
    }
    Ok(match summary.state {
        State::Partial => Outcome::Interrupted,
        _ if damaged || gone > 0 => Outcome::Damage,
        _ if summary.errors > 0 => Outcome::SourceUnreadable,
        _ => Outcome::Done,
    })
}

/// An empty repository for a dry run before the first snapshot. Removed on drop.
struct Rehearsal(PathBuf);

impl Rehearsal {
    fn begin(context: &Context) -> Result<(Repository, Self)> {
        let random = u64::from_le_bytes(random());
        let folder = std::env::temp_dir().join(format!("vault-dry-run-{random:016x}"));
        // It must be new: nobody else has put anything into it then.
        std::fs::DirBuilder::new().mode(0o700).create(&folder).map_err(Error::path("make", &folder))?;
        let rehearsal = Self(folder);
        let backend: Arc<dyn Backend> = Arc::new(LocalFolder::new(&rehearsal.0));
        super::init::make(&*backend, &InitOptions::default())?;
        Ok((Repository::open(backend)?.with_budget(context.global.budget()?), rehearsal))
    }
}

impl Drop for Rehearsal {
    fn drop(&mut self) {
        // A folder that is left in the place for temporary files does no harm.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Opens the repository; the default one is made the first time, unless nothing is to be written.
fn open_or_make(context: &Context, dry_run: bool) -> Result<(Repository, Option<Rehearsal>)> {
    let (folder, is_default) = context.repository_folder()?;
    match context.open() {
        Err(Error::NoRepository { .. }) if is_default && dry_run => {
            context
                .screen
                .note(&format!("there is no repository yet; the first snapshot makes {}", folder.display()));
            Rehearsal::begin(context).map(|(repository, rehearsal)| (repository, Some(rehearsal)))
        }
        Err(Error::NoRepository { .. }) if is_default => {
            if let Some(parent) = folder.parent() {
                std::fs::create_dir_all(parent).map_err(Error::path("make", parent))?;
            }
            // Without a terminal to ask on, or at the user's word, it is not encrypted; which is said.
            let passphrase = match passphrase::given(context)? {
                Some(given) => Some(given),
                None => passphrase::new(
                    context,
                    None,
                    None,
                    "passphrase for a new repository, or nothing for one without",
                )?,
            };
            let key =
                passphrase.filter(|passphrase| !passphrase.is_empty()).map(|secret| NewKey::new(&secret));
            let options = InitOptions { key, ..InitOptions::default() };
            let id = super::init::make(&*context.backend()?, &options)?;
            super::init::print(context, id, &folder, options.key.is_some())?;
            if options.key.is_none() && context.global.quiet {
                // Nobody said that it should not be.
                context.screen.warn(&format!("the new repository {} is not encrypted", folder.display()));
            }
            Ok((context.open_with(options.key.map(|key| key.passphrase))?, None))
        }
        other => Ok((other?, None)),
    }
}

fn to_options(context: &Context, args: &SnapshotArgs) -> Result<BackupOptions> {
    let (filter, rules) = filter(args)?;
    let now = jiff::Timestamp::now();
    let time =
        args.time.as_ref().map(|time| parse_time(time, &context.zone).map_err(Error::Usage)).transpose()?;
    let mut options = BackupOptions::new(sources(args)?);
    options.filter = filter;
    options.rules = rules;
    options.one_file_system = args.one_file_system;
    options.as_path = args.as_path.as_ref().map(|path| path.as_bytes().to_vec());
    options.label.clone_from(&args.label);
    options.tags.clone_from(&args.tag);
    options.host.clone_from(&args.host);
    options.time = time;
    options.description.clone_from(&args.description);
    options.utc_offset_secs = context.zone.to_offset(now).seconds();
    options.force = args.force;
    options.dry_run = args.dry_run;
    options.skip_if_unchanged = args.skip_if_unchanged;
    options.compression = args.compression.0;
    options.read_rate = context.global.read_rate();
    options.count_ahead = !context.global.quiet;
    Ok(options)
}

/// Patterns, and how each counts upper and lower case.
type Excludes = Vec<(String, CaseFold)>;

/// The patterns of what is to be left out, and the arguments that say so.
pub fn exclude_rules(
    files: &[PathBuf],
    exclude: &[String],
    iexclude: &[String],
) -> Result<(Excludes, Vec<String>)> {
    let mut patterns = Vec::new();
    let mut rules = Vec::new();
    for file in files {
        let lines = std::fs::read(file).map_err(Error::path("read", file))?;
        patterns.extend(pattern::read_lines(&lines)?.into_iter().map(|line| (line, CaseFold::Exact)));
    }
    patterns.extend(exclude.iter().map(|pattern| (pattern.clone(), CaseFold::Exact)));
    patterns.extend(iexclude.iter().map(|pattern| (pattern.clone(), CaseFold::Ignore)));
    for (pattern, fold) in &patterns {
        let flag = if *fold == CaseFold::Exact { "--exclude" } else { "--iexclude" };
        rules.push(format!("{flag}={pattern}"));
    }
    Ok((patterns, rules))
}

/// What is to be left out, and the arguments that say so.
fn filter(args: &SnapshotArgs) -> Result<(Filter, Vec<String>)> {
    let (mut patterns, mut rules) = exclude_rules(&args.exclude_file, &args.exclude, &args.iexclude)?;
    rules.extend(args.exclude_if_present.iter().map(|name| format!("--exclude-if-present={name}")));
    rules.extend(args.exclude_larger_than.map(|size| format!("--exclude-larger-than={size}")));
    for (given, flag) in [
        (args.exclude_caches, "--exclude-caches"),
        (args.git_ignore, "--git-ignore"),
        (args.one_file_system, "--one-file-system"),
    ] {
        rules.extend(given.then(|| flag.to_owned()));
    }
    // First, so that it can be taken back.
    patterns.splice(0..0, seen().map(|pattern| (pattern, CaseFold::Exact)));
    let filter = Filter {
        excludes: Patterns::new(patterns)?,
        exclude_caches: args.exclude_caches,
        exclude_if_present: args.exclude_if_present.clone(),
        exclude_larger_than: args.exclude_larger_than,
        git_ignore: args.git_ignore,
    };
    Ok((filter, rules))
}

/// What the program remembers of repositories: it changes with each snapshot, so no tree that has it would ever be unchanged.
fn seen() -> Option<String> {
    let folder = places::states()?.into_os_string().into_string().ok()?;
    let mut pattern = String::new();
    for character in folder.chars() {
        if "*?[]{}\\!".contains(character) {
            pattern.push('\\');
        }
        pattern.push(character);
    }
    Some(pattern + "/*.seen")
}

/// The paths to be saved; none for a stream.
fn sources(args: &SnapshotArgs) -> Result<Vec<PathBuf>> {
    if stream::is_wanted(args) {
        return stream::check(args).map(|()| Vec::new());
    }
    let mut paths: Vec<PathBuf> = args.paths.iter().map(PathBuf::from).collect();
    let to_path = |name: &[u8]| PathBuf::from(OsStr::from_bytes(name));
    for file in &args.files_from {
        let list = read_list(file)?;
        let lines = list.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
        let names = lines.filter(|line| !line.trim_ascii().is_empty() && !line.starts_with(b"#"));
        paths.extend(names.map(to_path));
    }
    for file in &args.files_from_raw {
        let list = read_list(file)?;
        paths.extend(list.split(|byte| *byte == 0).filter(|name| !name.is_empty()).map(to_path));
    }
    let is_there = |path: &PathBuf| path.symlink_metadata().is_ok();
    let Some(first) = paths.first() else {
        return Err(Error::Usage("nothing to save: name a file or a folder".to_owned()));
    };
    // Before a repository is made for nothing.
    if !paths.iter().any(is_there) {
        first.symlink_metadata().map_err(Error::path("open", first))?;
    }
    Ok(paths)
}

fn read_list(file: &Path) -> Result<Vec<u8>> {
    if file.as_os_str() == "-" {
        let mut list = Vec::new();
        let read = std::io::stdin().read_to_end(&mut list);
        read.map_err(Error::path("read", Path::new("the standard input")))?;
        return Ok(list);
    }
    std::fs::read(file).map_err(Error::path("read", file))
}

fn print(
    context: &Context,
    summary: &BackupSummary,
    dry_run: bool,
    elapsed: std::time::Duration,
) -> Result<()> {
    let count = |tag| summary.counter(tag);
    let mut value = counters_json(&summary.counters);
    let more = json!({
        "message_type": "summary",
        "snapshot_id": summary.snapshot.map(|id| id.to_string()),
        "state": state_name(summary.state),
        "parent": summary.predecessor.map(|id| id.to_string()),
        "dry_run": dry_run,
        "skipped_unchanged": summary.skipped,
        "error_count": summary.errors,
        "total_duration": elapsed.as_secs_f64(),
    });
    if let (Some(value), Some(more)) = (value.as_object_mut(), more.as_object()) {
        value.extend(more.clone());
    }
    let what = match (summary.snapshot, summary.state) {
        (Some(id), State::Complete) => format!("snapshot {}", short(&id)),
        (Some(id), state) => format!("{} snapshot {}", state_name(state), short(&id)),
        (None, _) if summary.skipped => {
            "nothing differs from the last snapshot, so none was taken".to_owned()
        }
        (None, _) => "dry run, nothing was written".to_owned(),
    };
    let files = counted(count(counter::FILES), "file", "files");
    let text = format!(
        "{what}: {files}, {} in {} ({} new, {} changed, {} unchanged); {} new, stored as {}",
        text::size(count(counter::BYTES)),
        text::duration(elapsed),
        text::count(count(counter::FILES_NEW)),
        text::count(count(counter::FILES_CHANGED)),
        text::count(count(counter::FILES_UNCHANGED)),
        text::size(count(counter::PLAIN_ADDED)),
        text::size(count(counter::STORED_ADDED)),
    );
    context.screen.summary(&text, &value)?;
    if summary.state == State::Partial {
        context
            .screen
            .note("interrupted: what was saved so far is kept, and the next snapshot goes on from there");
    }
    let raced = count(counter::FILES_RACED);
    // A file that changed while it was read is an error too, but it is in the snapshot.
    if summary.errors > raced {
        let errors = counted(summary.errors - raced, "thing", "things");
        context.screen.warn(&format!("the snapshot lacks {errors} that could not be read, see above"));
    }
    if raced > 0 {
        let files = counted(raced, "file", "files");
        context
            .screen
            .warn(&format!("{files} changed while being read, and may be saved half old, half new"));
    }
    Ok(())
}
