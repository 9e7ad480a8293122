//! Makes one snapshot of several: directories are united, of everything else one version wins.
//!
//! `tree` unites the trees, `sources` what the snapshots say of where all that came from. The old snapshots stay as they are.

mod sources;
mod tree;

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crate::error::{Error, Result};
use crate::event::{Event, Observer};
use crate::id::SnapshotId;
use crate::repository::{Keeper, Repository, WriteOptions, while_pruned};
use crate::snapshot::{How, Snapshot, State, counter, made};

use tree::{Lane, Merger};

/// Whose version wins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Prefer {
    /// That of the newest snapshot.
    Newest,
    /// That of the snapshot that was named first.
    First,
}

/// How to merge.
#[derive(Debug, Clone)]
pub struct MergeOptions {
    /// Whose version wins.
    pub prefer: Prefer,
    /// The label, instead of the one that all have.
    pub label: Option<String>,
    /// Tags, beside those of all.
    pub tags: Vec<String>,
    /// The user's words.
    pub description: String,
    /// Only say what would be done.
    pub dry_run: bool,
    /// The folder of the redb cache of this repository, if there may be one.
    pub cache_folder: Option<PathBuf>,
}

/// What came of it.
#[derive(Debug)]
pub struct MergeSummary {
    /// The snapshot; none after a dry run.
    pub snapshot: Option<SnapshotId>,
    /// It was there already, from an earlier run.
    pub is_known: bool,
    /// Whether it is whole: no more than the least whole of those it was made from.
    pub state: State,
    /// Its counters.
    pub counters: Vec<(u32, u64)>,
    /// Names of which another version won: these versions are in the old snapshots only.
    pub conflicts: u64,
}

/// Merges snapshots, at least two, in the order in which they were named. On return with a snapshot it is durable.
///
/// # Errors
/// `Usage` where their owners cannot be told apart, or where they list more together than a snapshot may `[SNAP-5]`; damage to any of
/// them; `Interrupted`; any error of the medium.
pub fn merge(
    repository: &Repository,
    snapshots: &[(SnapshotId, Snapshot)],
    options: &MergeOptions,
    observer: &Arc<dyn Observer>,
    stop: &AtomicBool,
) -> Result<MergeSummary> {
    while_pruned(&**observer, || once(repository, snapshots, options, observer, stop))
}

fn once(
    repository: &Repository,
    snapshots: &[(SnapshotId, Snapshot)],
    options: &MergeOptions,
    observer: &Arc<dyn Observer>,
    stop: &AtomicBool,
) -> Result<MergeSummary> {
    let ranked = ranked(snapshots, options.prefer);
    let Some((_, winner)) = ranked.last() else {
        return Err(Error::Usage("nothing is to be merged".to_owned()));
    };
    let (counters, fields) = (Vec::new(), Vec::new());
    let sources = sources::united(&ranked)?;
    let frame = Snapshot { sources, counters, fields, ..described(&ranked, winner, options) };
    if frame.lists_too_much() {
        let text = "together they have more sources, tags or names of owners than one snapshot may list";
        return Err(Error::Usage(text.to_owned()));
    }
    let listed = repository.snapshots()?;
    let forgotten = repository.forgotten()?;
    let write_options = WriteOptions {
        cache_folder: options.cache_folder.clone(),
        dry_run: options.dry_run,
        ..WriteOptions::new(observer.clone())
    };
    let mut writer = repository.writer_until(&write_options, stop)?;
    let reader = repository.reader()?;
    observer.event(&Event::Phase("merging snapshots"));
    let made = {
        let mut merger = Merger::new(Keeper::new(&reader, &writer, stop), &**observer);
        let lanes: Vec<Lane> = ranked.iter().map(|(_, snapshot)| Lane::of(snapshot, winner)).collect();
        merger.root(&lanes).and_then(|(root, lost)| {
            let nodes: Vec<_> = ranked.iter().filter_map(|(_, snapshot)| snapshot.notes).collect();
            Ok((root, lost, merger.keeper.notes(&nodes, &[])?))
        })
    };
    let (root, lost, notes) = match made {
        Ok(made) => made,
        Err(Error::Interrupted) => {
            writer.finish()?;
            return Err(Error::Interrupted);
        }
        Err(Error::Stopped) => return Err(writer.give_up().unwrap_or(Error::Stopped)),
        Err(error) => return Err(error),
    };
    writer.finish()?;
    let seen: HashSet<SnapshotId> = listed.iter().map(|(id, _)| *id).collect();
    let snapshot =
        Snapshot { root, notes, counters: counted(&ranked, &lost), fields: vec![made::seen(&seen)], ..frame };
    let is_it = |known: &Snapshot| known.made_from == snapshot.made_from && known.root == snapshot.root;
    let known = listed
        .iter()
        .filter(|(id, _)| !forgotten.contains(id))
        .find(|(_, read)| read.as_ref().is_ok_and(is_it));
    let mut summary = MergeSummary {
        snapshot: known.map(|(id, _)| *id),
        is_known: known.is_some(),
        state: snapshot.state,
        counters: snapshot.counters.clone(),
        conflicts: lost.conflicts,
    };
    if !summary.is_known && !options.dry_run {
        summary.snapshot = Some(repository.publish_snapshot(&writer, &snapshot)?);
        writer.merge_segments()?;
    }
    Ok(summary)
}

/// The snapshots, the one whose versions win last.
fn ranked(snapshots: &[(SnapshotId, Snapshot)], prefer: Prefer) -> Vec<(SnapshotId, &Snapshot)> {
    let mut ranked: Vec<(SnapshotId, &Snapshot)> =
        snapshots.iter().map(|(id, snapshot)| (*id, snapshot)).collect();
    match prefer {
        Prefer::Newest => ranked.sort_by_key(|(id, snapshot)| (snapshot.start, *id)),
        Prefer::First => ranked.reverse(),
    }
    ranked
}

/// What the snapshot says of its making: that of the newest one, as far as not all have it in common.
fn described(ranked: &[(SnapshotId, &Snapshot)], winner: &Snapshot, options: &MergeOptions) -> Snapshot {
    let newest =
        ranked.iter().map(|(_, snapshot)| *snapshot).max_by_key(|snapshot| snapshot.start).unwrap_or(winner);
    let have_one_label = ranked.iter().all(|(_, snapshot)| snapshot.label == newest.label);
    let label = if have_one_label { newest.label.clone() } else { String::new() };
    let mut known = HashSet::new();
    let tags = ranked.iter().flat_map(|(_, snapshot)| &snapshot.tags).chain(&options.tags);
    let tags = tags.filter(|tag| known.insert(*tag)).cloned().collect();
    let merged = ranked.iter().map(|(id, _)| (How::Merge, *id));
    let before = ranked.iter().flat_map(|(_, snapshot)| &snapshot.made_from).copied();
    let mut noted = HashSet::new();
    let made_from = merged.chain(before).filter(|from| noted.insert(*from)).collect();
    Snapshot {
        state: state(ranked),
        label: options.label.clone().unwrap_or(label),
        tags,
        description: options.description.clone(),
        program: made::PROGRAM.into(),
        end: ranked.iter().map(|(_, snapshot)| snapshot.end).max().unwrap_or(newest.end),
        predecessor: None,
        made_from,
        ..newest.clone()
    }
}

/// No more whole than the least whole of them.
fn state(ranked: &[(SnapshotId, &Snapshot)]) -> State {
    let any = |state| ranked.iter().any(|(_, snapshot)| snapshot.state == state);
    [State::Suspect, State::Partial, State::PartOfPlan]
        .into_iter()
        .find(|state| any(*state))
        .unwrap_or(State::Complete)
}

/// What all have, less what is in several of them or lost to another version.
fn counted(ranked: &[(SnapshotId, &Snapshot)], lost: &tree::Lost) -> Vec<(u32, u64)> {
    let sum = |tag| ranked.iter().map(|(_, snapshot)| snapshot.counter(tag)).fold(0, u64::saturating_add);
    [
        (counter::FILES, lost.files),
        (counter::DIRECTORIES, lost.directories),
        (counter::OTHERS, lost.others),
        (counter::BYTES, lost.bytes),
        (counter::ERRORS, 0),
        (counter::LEFT_OUT, lost.left_out),
    ]
    .into_iter()
    .map(|(tag, lost)| (tag, sum(tag).saturating_sub(lost)))
    .collect()
}
