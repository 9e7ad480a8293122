//! `vault repair`: the index anew, and new snapshots of what is left of damaged ones.

use std::sync::Arc;
use std::time::Instant;

use serde_json::{Value, json};
use vault::error::{Error, Result};
use vault::event::Observer;
use vault::heal::{Lost, LostPath, Remade, RepairSummary, repair};
use vault::id::SnapshotId;
use vault::repository::Repository;

use super::heal::{Afterwards, name_errors, offer_prune, options, still_damaged, to_json, words};
use super::{Context, passphrase, short};
use crate::args::RepairArgs;
use crate::exit::Outcome;
use crate::render::path_fields;
use crate::render::text::{self, counted, escape};

/// So many paths are named of each snapshot; with `--verbose` more.
const NAMED: usize = 10;

pub fn run(context: &Context, args: &RepairArgs) -> Result<Outcome> {
    let begun = Instant::now();
    let errors = Arc::default();
    let mut repository = context.open_locked_at(context.backend_noting(&errors)?)?;
    passphrase::unlock(context, &mut repository, passphrase::given(context)?)?;
    let chosen = chosen(context, args, &repository)?;
    let options = options(context.cache_folder(repository.id()), args.quick, args.dry_run);
    let observer: Arc<dyn Observer> = Arc::new(Afterwards(context.screen.clone()));
    context.screen.start_progress("repair");
    let repaired = repair(&repository, chosen.as_deref(), &options, &observer, &context.stop);
    context.screen.end_progress();
    name_errors(context, &errors);
    let summary = repaired?;
    summary.files.damaged.iter().try_for_each(|name| still_damaged(context, name))?;
    summary.remade.iter().try_for_each(|remade| print_remade(context, remade, args.dry_run))?;
    offer_help(context, &summary);
    print_summary(context, args, &summary, begun)?;
    let files = &summary.files;
    let mended = !files.fetched.is_empty() || !files.replaced.is_empty() || files.chunks_saved > 0;
    let would = args.dry_run && mended;
    let found = !files.damaged.is_empty() || files.chunks_lost > 0 || !summary.remade.is_empty() || would;
    Ok(Outcome::damage_if(found))
}

fn chosen(context: &Context, args: &RepairArgs, repository: &Repository) -> Result<Option<Vec<SnapshotId>>> {
    if args.selectors.is_empty() {
        return Ok(None);
    }
    let selectors: Vec<_> = args.selectors.iter().collect();
    let snapshots = context.snapshots(repository, &selectors)?;
    let mut chosen = Vec::new();
    for selector in selectors {
        if selector.path.is_some() {
            return Err(Error::Usage("a whole snapshot is named here, without a path".to_owned()));
        }
        chosen.push(snapshots.select(selector, &context.zone)?.0);
    }
    Ok(Some(chosen))
}

fn print_remade(context: &Context, remade: &Remade, is_dry: bool) -> Result<()> {
    if context.screen.is_json() {
        return context.screen.json(&remade_json(remade));
    }
    let parts = [
        (remade.files, "file", "files"),
        (remade.folders, "folder that lacks entries", "folders that lack entries"),
        (remade.attributes, "entry that lacks attributes", "entries that lack attributes"),
    ];
    let parts = parts.into_iter().filter(|(count, ..)| *count > 0);
    let losses: Vec<String> = parts.map(|(count, one, many)| counted(count, one, many)).collect();
    let left = match (&remade.snapshot, remade.is_nothing_left) {
        (Some(id), _) if remade.was_there => format!("what is left is in snapshot {} already", short(id)),
        (Some(id), _) => format!("what is left is the new snapshot {}", short(id)),
        (None, true) => "nothing is left".to_owned(),
        (None, false) if is_dry => "what is left would be a new snapshot".to_owned(),
        (None, false) => "no snapshot was made".to_owned(),
    };
    let from = short(&remade.from);
    context.screen.line(&format!("snapshot {from} has lost {}: {left}", losses.join(", ")))?;
    let most = if context.screen.is_verbose() { usize::MAX } else { NAMED };
    for path in remade.paths.iter().take(most) {
        context.screen.line(&format!("  {} /{}", lost_words(path), escape(&path.path)))?;
    }
    let more = remade.losses().saturating_sub(remade.paths.len().min(most) as u64);
    if more > 0 {
        let notes =
            if remade.snapshot.is_some() { ": the notes of that snapshot have all of them" } else { "" };
        context.screen.line(&format!("  and {} more{notes}", text::count(more)))?;
    }
    Ok(())
}

fn lost_words(path: &LostPath) -> &'static str {
    match path.lost {
        Lost::Content => "lost",
        Lost::Entries => "lost entries of",
        Lost::Attributes => "lost attributes of",
    }
}

fn remade_json(remade: &Remade) -> Value {
    let paths: Vec<Value> = remade
        .paths
        .iter()
        .map(|path| {
            let lost = match path.lost {
                Lost::Content => "content",
                Lost::Entries => "entries",
                Lost::Attributes => "attributes",
            };
            let mut value = json!({"lost": lost});
            path_fields(&mut value, "path", &[b"/", path.path.as_slice()].concat());
            value
        })
        .collect();
    json!({
        "message_type": "repaired",
        "from": remade.from.to_string(),
        "snapshot_id": remade.snapshot.map(|id| id.to_string()),
        "was_there": remade.was_there,
        "nothing_left": remade.is_nothing_left,
        "files_lost": remade.files,
        "folders_lacking_entries": remade.folders,
        "entries_lacking_attributes": remade.attributes,
        "paths": paths,
        "more_paths": remade.losses().saturating_sub(remade.paths.len() as u64),
    })
}

fn offer_help(context: &Context, summary: &RepairSummary) {
    if summary.files.damaged.is_empty() && summary.files.chunks_lost == 0 {
        return;
    }
    context.screen.note(
        "another copy of the repository may have it whole: `vault heal --from FOLDER` takes it from there",
    );
    if summary.files.chunks_lost > 0 {
        context.screen.note("what the source still has, the next `vault snapshot` stores again");
    } else {
        offer_prune(context, &summary.files);
    }
}

fn print_summary(
    context: &Context,
    args: &RepairArgs,
    summary: &RepairSummary,
    begun: std::time::Instant,
) -> Result<()> {
    let files = &summary.files;
    let made = summary.remade.iter().filter(|remade| remade.snapshot.is_some() && !remade.was_there).count();
    let mut value = to_json(files);
    value["dry_run"] = args.dry_run.into();
    value["snapshots_damaged"] = summary.remade.len().into();
    value["snapshots_made"] = made.into();
    value["total_duration"] = begun.elapsed().as_secs_f64().into();
    let mut words = words(files, args.dry_run);
    if made > 0 {
        words.push(format!("{} made", counted(made as u64, "snapshot", "snapshots")));
    }
    if !files.damaged.is_empty() {
        words.push(format!("{} still", counted(files.damaged.len() as u64, "damaged file", "damaged files")));
    }
    if files.chunks_lost > 0 {
        words.push(format!("{} lost", counted(files.chunks_lost, "chunk is", "chunks are")));
    }
    if words.is_empty() {
        words.push(
            if args.quick {
                "nothing to repair, as far as that shows without reading packs"
            } else {
                "nothing to repair"
            }
            .to_owned(),
        );
    }
    let text = format!(
        "{}: {} read, {}, in {}",
        words.join(", "),
        counted(files.files_read, "file", "files"),
        text::size(files.bytes_read),
        text::duration(begun.elapsed()),
    );
    context.screen.summary(&text, &value)
}
