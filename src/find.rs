//! Finding names through all snapshots: each path once, its identical versions grouped.
//!
//! The trees of all snapshots are walked together, so a directory that many of them share is read once, and matches come
//! path by path.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::browse::{Together, Version};
use crate::chunk::GetChunk;
use crate::error::{Error, Result};
use crate::id::SnapshotId;
use crate::snapshot::{Entry, Kind, Snapshot, Time};

/// What is looked for. All that is set must hold.
pub struct Query<'a> {
    /// Whether a path is wanted; and whether it is that of a directory.
    pub matches: &'a dyn Fn(&[u8], bool) -> bool,
    /// Modified at this time or later.
    pub newer: Option<Time>,
    /// Modified at this time or earlier.
    pub older: Option<Time>,
    /// Only below this path, empty for everything.
    pub below: Vec<u8>,
}

impl Query<'_> {
    fn matches_entry(&self, path: &[u8], entry: &Entry) -> bool {
        (self.matches)(path, entry.kind.directory().is_some())
            && !matches!(entry.kind, Kind::LeftOut(..))
            && self.newer.is_none_or(|time| entry.meta.mtime >= time)
            && self.older.is_none_or(|time| entry.meta.mtime <= time)
    }
}

/// A path that matches, and its versions, the oldest first.
#[derive(Debug)]
pub struct Match {
    /// The path in the snapshots.
    pub path: Vec<u8>,
    /// What it was over time.
    pub versions: Vec<Found>,
}

/// One version of what is at a path.
#[derive(Debug)]
pub struct Found {
    /// The entry. Of directories only name and metadata count: what is in them are paths of their own.
    pub entry: Entry,
    /// The first snapshot that has it.
    pub first: SnapshotId,
    /// The last one.
    pub last: SnapshotId,
    /// How many have it.
    pub count: usize,
}

/// Looks through `snapshots`, oldest first, and hands each match to `found`. What cannot be read goes, with its path, to
/// `problem`, and the search goes on.
///
/// # Errors
/// `Interrupted`, and what `found` returns.
pub fn find(
    get: &dyn GetChunk,
    snapshots: &[(SnapshotId, Snapshot)],
    query: &Query<'_>,
    found: &mut dyn FnMut(&Match) -> Result<()>,
    problem: &mut dyn FnMut(&[u8], Error),
    stop: &AtomicBool,
) -> Result<()> {
    let mut roots = Vec::new();
    for (number, (_, snapshot)) in (0u32..).zip(snapshots) {
        match crate::browse::lookup(get, &snapshot.root, &query.below) {
            Ok(entry) => {
                roots.extend(entry.and_then(|entry| entry.kind.directory()).map(|node| (number, node)));
            }
            Err(error) => problem(&query.below, error),
        }
    }
    let mut together = Together::new(get, &roots, &query.below);
    while let Some(item) = together.next() {
        if stop.load(Ordering::Relaxed) {
            return Err(Error::Interrupted);
        }
        let versions = match item {
            Ok(versions) => versions,
            Err(error) => {
                problem(together.path(), error);
                continue;
            }
        };
        let wanted: Vec<&Version> =
            versions.iter().filter(|version| query.matches_entry(together.path(), &version.entry)).collect();
        if !wanted.is_empty() {
            found(&Match { path: together.path().to_vec(), versions: group(snapshots, &wanted) })?;
        }
        together.descend(&versions);
    }
    Ok(())
}

/// Joins versions that differ only in what is in a directory, and names their snapshots.
fn group(snapshots: &[(SnapshotId, Snapshot)], versions: &[&Version]) -> Vec<Found> {
    let mut groups: Vec<(Vec<u32>, &Entry)> = Vec::new();
    for version in versions {
        match groups.iter_mut().find(|(_, entry)| same_but_inside(entry, &version.entry)) {
            Some((trees, _)) => trees.extend_from_slice(&version.trees),
            None => groups.push((version.trees.clone(), &version.entry)),
        }
    }
    for (trees, _) in &mut groups {
        trees.sort_unstable();
    }
    groups.sort_by(|one, other| one.0.cmp(&other.0));
    let id = |tree: Option<&u32>| Some(snapshots.get(usize::try_from(*tree?).ok()?)?.0);
    groups
        .into_iter()
        .filter_map(|(trees, entry)| {
            let (first, last) = (id(trees.first())?, id(trees.last())?);
            Some(Found { entry: entry.clone(), first, last, count: trees.len() })
        })
        .collect()
}

/// Whether two entries are the same, whatever directories hold.
fn same_but_inside(one: &Entry, other: &Entry) -> bool {
    let same_kind = match (&one.kind, &other.kind) {
        (Kind::Directory(_), Kind::Directory(_)) | (Kind::Implied(_), Kind::Implied(_)) => true,
        (one, other) => one == other,
    };
    same_kind && one.meta == other.meta && one.fields == other.fields
}
