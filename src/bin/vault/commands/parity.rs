//! `vault parity`: what mends packs without a second copy.

use std::collections::BTreeSet;

use serde_json::json;
use vault::error::{Error, Result};
use vault::id::PackId;
use vault::pack::pack_file_name;
use vault::parity::{self, AddOptions};
use vault::repository::Repository;
use vault::sidecar;

use super::Context;
use crate::args::{AddParityArgs, DropParityArgs, ParityArgs, ParityVerb, RepairParityArgs};
use crate::exit::Outcome;
use crate::passphrase;
use crate::render::text::{counted, size};

pub fn run(context: &Context, args: &ParityArgs) -> Result<Outcome> {
    // Parity is of bytes as they are stored: no key is needed.
    let mut repository = context.open_locked()?;
    let given = passphrase::given(context)?;
    if !repository.config().is_encrypted() || given.is_some() {
        repository = context.open_with(given)?;
    }
    match &args.verb {
        ParityVerb::Add(args) => add(context, &repository, args),
        ParityVerb::Check => check(context, &repository),
        ParityVerb::Repair(args) => repair(context, &repository, args),
        ParityVerb::Drop(args) => drop_some(context, &repository, args),
    }
}

fn add(context: &Context, repository: &Repository, args: &AddParityArgs) -> Result<Outcome> {
    let options = AddOptions {
        percent: args.percent,
        packs: named(repository, &args.packs)?,
        verify: args.verify,
        dry_run: args.dry_run,
    };
    context.screen.start_progress("parity");
    let added = parity::add(repository, &options, &*context.screen, &context.stop);
    context.screen.end_progress();
    let done = added.inspect_err(|error| {
        if let Error::Interrupted = error {
            context.screen.note("what was made is kept: `vault parity add` goes on where it stopped");
        }
    })?;
    let value = json!({
        "message_type": "summary",
        "dry_run": args.dry_run,
        "percent": args.percent,
        "packs_added": done.added,
        "bytes_added": done.added_bytes,
        "packs_present": done.present,
        "packs_damaged": done.damaged,
    });
    let would = if args.dry_run { "would make parity of" } else { "made parity of" };
    let damaged = match done.damaged {
        0 => String::new(),
        damaged => {
            context.screen.note(
                "if a damaged pack has parity, `vault parity repair` mends it; a mirror may hold it whole",
            );
            format!("; none of {}", counted(damaged, "damaged pack", "damaged packs"))
        }
    };
    let text = format!(
        "{would} {} ({}); {} had it{damaged}",
        counted(done.added, "pack", "packs"),
        size(done.added_bytes),
        counted(done.present, "pack", "packs"),
    );
    context.screen.summary(&text, &value)?;
    if args.packs.is_empty() && !repository.is_locked() {
        name_missing(context, repository)?;
    }
    Ok(outcome(context, done.damaged))
}

/// Names the packs that the index has and that are gone, or not listed: they have no parity now.
fn name_missing(context: &Context, repository: &Repository) -> Result<()> {
    let absent = |repository: &Repository| -> Result<BTreeSet<PackId>> {
        Ok(repository.reader()?.index().absent_packs().into_iter().collect())
    };
    let mut missing = absent(repository)?;
    if !missing.is_empty() {
        // Who prunes condemns what it deletes, and takes it out of the index before it takes that back.
        let condemned = repository.condemned()?;
        let still = absent(repository)?;
        missing.retain(|pack| still.contains(pack) && !condemned.contains(pack));
    }
    for pack in missing {
        let file = pack_file_name(&pack);
        let source = std::io::ErrorKind::NotFound.into();
        context.screen.problem(b"", &Error::repository("read", &file)(source));
    }
    Ok(())
}

fn check(context: &Context, repository: &Repository) -> Result<Outcome> {
    context.screen.start_progress("parity");
    let verified = parity::verify(repository, &*context.screen, &context.stop);
    context.screen.end_progress();
    let found = verified?;
    let value = json!({
        "message_type": "summary",
        "packs_with_parity": found.packs,
        "packs_without_parity": found.without,
        "parity_bytes": found.bytes,
        "parity_damaged": found.damaged,
        "parity_without_pack": found.orphans,
    });
    if found.damaged > 0 {
        context.screen.note("`vault parity add --verify` makes damaged parity anew");
    }
    if found.orphans > 0 {
        let files = counted(found.orphans, "file of parity", "files of parity");
        context
            .screen
            .note(&format!("{files} without a pack: `vault parity repair` brings back what it can"));
    }
    let verdict = match found.damaged {
        0 if found.bytes == 0 => "there is no parity".to_owned(),
        0 => "all parity is whole".to_owned(),
        damaged => counted(damaged, "damaged file of parity", "damaged files of parity"),
    };
    let text = format!(
        "{verdict}: {} with parity ({}), {} without",
        counted(found.packs, "pack", "packs"),
        size(found.bytes),
        counted(found.without, "pack", "packs"),
    );
    context.screen.summary(&text, &value)?;
    Ok(outcome(context, found.damaged))
}

fn repair(context: &Context, repository: &Repository, args: &RepairParityArgs) -> Result<Outcome> {
    let packs = named(repository, &args.packs)?;
    context.screen.start_progress("repair");
    let repaired = parity::repair(repository, &packs, args.dry_run, &*context.screen, &context.stop);
    context.screen.end_progress();
    let done = repaired?;
    let value = json!({
        "message_type": "summary",
        "dry_run": args.dry_run,
        "packs_whole": done.whole,
        "packs_mended": done.mended,
        "bytes_mended": done.mended_bytes,
        "packs_not_mended": done.beyond,
        "packs_without_parity": done.without,
    });
    if done.mended > 0 && !args.dry_run {
        context.screen.note(
            "if a mended pack was recorded as damaged, `vault check --read-data --mark-damaged` takes that back",
        );
    }
    let beyond = match done.beyond {
        0 => String::new(),
        beyond => format!("; {} not, and left as they are", counted(beyond, "pack", "packs")),
    };
    let without = match done.without {
        0 => String::new(),
        without => format!("; {} not read: no parity", counted(without, "pack", "packs")),
    };
    let text = format!(
        "{} {} ({} damaged); {} whole{beyond}{without}",
        if args.dry_run { "can mend" } else { "mended" },
        counted(done.mended, "pack", "packs"),
        size(done.mended_bytes),
        counted(done.whole, "pack", "packs"),
    );
    context.screen.summary(&text, &value)?;
    // A dry run leaves damage where it found it.
    let left = if args.dry_run { done.beyond + done.mended } else { done.beyond };
    Ok(outcome(context, left))
}

fn drop_some(context: &Context, repository: &Repository, args: &DropParityArgs) -> Result<Outcome> {
    let packs = named(repository, &args.packs)?;
    let (files, bytes) = parity::remove(repository, &packs, args.dry_run)?;
    let value = json!({
        "message_type": "summary",
        "dry_run": args.dry_run,
        "files_removed": files,
        "bytes_removed": bytes,
    });
    let removed = if args.dry_run { "would remove" } else { "removed" };
    let text = format!("{removed} the parity of {} ({})", counted(files, "pack", "packs"), size(bytes));
    context.screen.summary(&text, &value)?;
    Ok(context.outcome())
}

fn outcome(context: &Context, damaged: u64) -> Outcome {
    Outcome::damage_if(damaged > 0 || context.screen.tally().problems() > 0)
}

/// The packs that are meant: by the beginning of their id, or the name of their file or of its parity.
fn named(repository: &Repository, names: &[String]) -> Result<Vec<PackId>> {
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let mut all: BTreeSet<PackId> = repository.listed_packs()?.into_keys().collect();
    all.extend(sidecar::list(&**repository.backend())?.into_keys());
    let find = |name: &String| {
        let file = name.rsplit('/').next().unwrap_or_default();
        let prefix = file.strip_suffix(".par").unwrap_or(file);
        let mut fitting =
            all.iter().filter(|pack| !prefix.is_empty() && pack.to_string().starts_with(prefix));
        match (fitting.next(), fitting.next()) {
            (Some(pack), None) => Ok(*pack),
            (Some(_), Some(_)) => Err(Error::Usage(format!("several packs begin with {prefix}"))),
            (None, _) => Err(Error::NotFound { what: format!("pack {name}") }),
        }
    };
    names.iter().map(find).collect()
}
