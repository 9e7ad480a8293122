//! Takes paths out of snapshots: new ones are made that lack them, and that are else what the old ones are.
//!
//! What a pattern matches becomes an entry that was left out, as if it had been so from the start; so a directory is node for node what a
//! snapshot of the rest would have made of it. What cannot hold a match is taken over by its id. `paths` says by which names patterns know an entry, `tree` makes the new trees.

mod paths;
mod tree;

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::event::{Event, Observer};
use crate::id::{ChunkId, SnapshotId};
use crate::pattern::Patterns;
use crate::repository::{Keeper, Repository, WriteOptions, Writer, while_pruned};
use crate::snapshot::{Entry, How, Snapshot, counter, made};

use tree::Rewriter;

/// How to rewrite.
#[derive(Debug, Clone)]
pub struct RewriteOptions {
    /// What to leave out.
    pub excludes: Patterns,
    /// The same as the user gave it, for the notes.
    pub rules: Vec<String>,
    /// Only say what would be done.
    pub dry_run: bool,
    /// The folder of the redb cache of this repository, if there may be one.
    pub cache_folder: Option<PathBuf>,
}

/// What was left out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removed {
    /// Entries that were left out themselves.
    pub entries: u64,
    /// Files among them and below them.
    pub files: u64,
    /// Directories.
    pub directories: u64,
    /// Anything else.
    pub others: u64,
    /// The sizes of the files.
    pub bytes: u64,
}

impl Removed {
    fn add(&mut self, other: Self) {
        self.entries += other.entries;
        self.files += other.files;
        self.directories += other.directories;
        self.others += other.others;
        self.bytes = self.bytes.saturating_add(other.bytes);
    }
}

/// What became of a snapshot in which something matched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rewritten {
    /// The old one.
    pub old: SnapshotId,
    /// The new one; none in a dry run.
    pub new: Option<SnapshotId>,
    /// It was there already, from an earlier run.
    pub is_known: bool,
    /// What it lacks.
    pub removed: Removed,
    /// Sources that patterns match: they are never left out themselves.
    pub matched_sources: Vec<Vec<u8>>,
}

/// The result of [`rewrite`].
#[derive(Debug, Default)]
pub struct RewriteSummary {
    /// Those in which something matched, oldest first.
    pub rewritten: Vec<Rewritten>,
    /// Those in which nothing did: they are left as they are.
    pub unchanged: Vec<SnapshotId>,
    /// Those that are damaged where something is to stay, and why. They are left as they are.
    pub damaged: Vec<(SnapshotId, Error)>,
}

/// Makes new snapshots from these, which are the whole list of a repository or a part of it, oldest first. All that is new is stored before the
/// first of them is published; on return all are durable. The old ones stay.
///
/// # Errors
/// `Interrupted`: what was stored is adopted by the next run; any error of the medium.
pub fn rewrite(
    repository: &Repository,
    snapshots: &[(SnapshotId, Snapshot)],
    options: &RewriteOptions,
    observer: &Arc<dyn Observer>,
    stop: &AtomicBool,
) -> Result<RewriteSummary> {
    while_pruned(&**observer, || once(repository, snapshots, options, observer, stop))
}

fn once(
    repository: &Repository,
    snapshots: &[(SnapshotId, Snapshot)],
    options: &RewriteOptions,
    observer: &Arc<dyn Observer>,
    stop: &AtomicBool,
) -> Result<RewriteSummary> {
    let known = Known::of(repository)?;
    let write_options = WriteOptions {
        cache_folder: options.cache_folder.clone(),
        dry_run: options.dry_run,
        ..WriteOptions::new(observer.clone())
    };
    let mut writer = repository.writer_until(&write_options, stop)?;
    let reader = repository.reader()?;
    let mut summary = RewriteSummary::default();
    let mut pending: Vec<Pending<'_>> = Vec::new();
    observer.event(&Event::Phase("rewriting snapshots"));
    observer.event(&Event::Planned { items: snapshots.len() as u64, bytes: 0 });
    {
        let mut rewriter = Rewriter::new(Keeper::new(&reader, &writer, stop), &options.excludes, &**observer);
        for (id, snapshot) in snapshots {
            match rewriter.snapshot(snapshot, &options.rules) {
                Ok(None) => summary.unchanged.push(*id),
                Ok(Some(new)) => {
                    let tree::New { root, notes, removed, matched_sources } = new;
                    let rewritten =
                        Rewritten { old: *id, new: None, is_known: false, removed, matched_sources };
                    pending.push((snapshot, (root, notes), rewritten));
                }
                Err(error) if error.is_damage() => summary.damaged.push((*id, error)),
                Err(Error::Interrupted) => {
                    drop(rewriter);
                    writer.finish()?;
                    return Err(Error::Interrupted);
                }
                Err(Error::Stopped) => {
                    drop(rewriter);
                    return Err(writer.give_up().unwrap_or(Error::Stopped));
                }
                Err(error) => return Err(error),
            }
        }
    }
    writer.finish()?;
    summary.rewritten = Publishing { repository, writer: &writer, options, known }.all(pending)?;
    if !options.dry_run {
        writer.merge_segments()?;
    }
    Ok(summary)
}

/// A snapshot, its new root directory and that of its notes, and what became of it.
type Pending<'s> = (&'s Snapshot, (Entry, Option<ChunkId>), Rewritten);

/// What was rewritten before and is not forgotten: what it was made of, and its root directory.
struct Known(Vec<(SnapshotId, SnapshotId, Entry)>);

impl Known {
    fn of(repository: &Repository) -> Result<Self> {
        let mut known = Vec::new();
        for (id, read) in repository.snapshots()? {
            if let Ok(snapshot) = read
                && let Some((How::Rewrite, old)) = snapshot.made_from.first()
            {
                known.push((id, *old, snapshot.root));
            }
        }
        // After the snapshots: one that is forgotten meanwhile does not stand for the old one.
        let forgotten = repository.forgotten()?;
        known.retain(|(id, ..)| !forgotten.contains(id));
        Ok(Self(known))
    }

    /// What an earlier run made of a snapshot, if it comes to the same.
    fn made_of(&self, old: &SnapshotId, root: &Entry) -> Option<SnapshotId> {
        self.0.iter().find(|(_, of, known)| of == old && known == root).map(|(id, ..)| *id)
    }
}

/// The end of a run: what was stored is published.
struct Publishing<'a> {
    repository: &'a Repository,
    writer: &'a Writer,
    options: &'a RewriteOptions,
    known: Known,
}

impl Publishing<'_> {
    fn all(&self, pending: Vec<Pending<'_>>) -> Result<Vec<Rewritten>> {
        let mut seen: HashSet<SnapshotId> = self.repository.snapshot_ids()?.into_iter().collect();
        let mut news: HashMap<SnapshotId, SnapshotId> = HashMap::new();
        let mut all = Vec::new();
        for (snapshot, (root, notes), mut rewritten) in pending {
            let old = rewritten.old;
            if let Some(known) = self.known.made_of(&old, &root) {
                rewritten.is_known = true;
                rewritten.new = Some(known);
            } else if !self.options.dry_run {
                let predecessor = snapshot.predecessor.map(|id| news.get(&id).copied().unwrap_or(id));
                let removed = rewritten.removed;
                let snapshot = Snapshot {
                    predecessor,
                    made_from: [vec![(How::Rewrite, old)], snapshot.made_from.clone()].concat(),
                    program: made::PROGRAM.into(),
                    counters: counters(snapshot, removed),
                    fields: made::lasting_fields(snapshot, vec![made::seen(&seen)]),
                    root,
                    notes,
                    ..snapshot.clone()
                };
                let new = self.repository.publish_snapshot(self.writer, &snapshot)?;
                seen.insert(new);
                rewritten.new = Some(new);
            }
            news.extend(rewritten.new.map(|new| (old, new)));
            all.push(rewritten);
        }
        Ok(all)
    }
}

/// What the old one had less what was left out.
fn counters(old: &Snapshot, removed: Removed) -> Vec<(u32, u64)> {
    let mut counters = made::lasting_counters(old);
    for (tag, value) in &mut counters {
        *value = match *tag {
            counter::FILES => value.saturating_sub(removed.files),
            counter::DIRECTORIES => value.saturating_sub(removed.directories),
            counter::OTHERS => value.saturating_sub(removed.others),
            counter::BYTES => value.saturating_sub(removed.bytes),
            counter::LEFT_OUT => value.saturating_add(removed.entries),
            _ => *value,
        };
    }
    counters
}
