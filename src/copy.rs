//! Copies snapshots into another repository, which may have other keys and cut files elsewhere: all is read, verified, and stored there anew.
//!
//! `content` cuts the bytes of files again, `tree` makes the trees. Snapshots are copied oldest first, and published some at a time: what was
//! published is kept, whatever becomes of the rest. One that is damaged is not published; the others are.

mod content;
mod tree;

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::chunk::Chunker;
use crate::error::{Error, Result};
use crate::event::{Event, Observer};
use crate::id::{RepositoryId, SnapshotId};
use crate::pack::Compression;
use crate::repository::{PRUNE_TRIES, Repository, WriteOptions, Writer, clean_up};
use crate::snapshot::{Snapshot, counter, made};

use tree::{Copier, Roots};

/// Snapshots are published when so much was written for them.
const PUBLISHED_EVERY: u64 = 4 << 30;

/// How to copy.
#[derive(Debug, Clone)]
pub struct CopyOptions {
    /// Only say what would be done.
    pub dry_run: bool,
    /// How frames are compressed.
    pub compression: Compression,
    /// The folder of the redb cache of the repository that is copied to, if there may be one.
    pub cache_folder: Option<PathBuf>,
}

/// What became of a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Copied {
    /// It is there as this one.
    As(SnapshotId),
    /// It would be copied.
    Rehearsed,
    /// It was there as this one before.
    Before(SnapshotId),
    /// It was there as this one before, and was forgotten there.
    Forgotten(SnapshotId),
    /// It is damaged: what is was told as problems.
    Damaged,
}

/// The result of [`copy`].
#[derive(Debug, Default)]
pub struct CopySummary {
    /// What became of each, oldest first; of those that an interruption left, nothing.
    pub copied: Vec<(SnapshotId, Copied)>,
    /// Bytes of the packs and segments that were written.
    pub stored_bytes: u64,
    /// Plain bytes of chunks that were new.
    pub plain_bytes: u64,
    /// It was interrupted: what was copied is kept.
    pub is_interrupted: bool,
}

/// Copies snapshots, given oldest first, from one repository to another. Those that were copied before are passed over.
///
/// # Errors
/// `Usage` if both are copies of one repository; any error of either medium. What was published until then stays.
pub fn copy(
    (from, to): (&Repository, &Repository),
    snapshots: &[(SnapshotId, Snapshot)],
    options: &CopyOptions,
    observer: &Arc<dyn Observer>,
    stop: &AtomicBool,
) -> Result<CopySummary> {
    if from.id() == to.id() {
        let text = "both are copies of one repository: `vault mirror` brings one up to date";
        return Err(Error::Usage(text.to_owned()));
    }
    let run =
        Run { from, to, options, observer, stop, known: HashMap::new(), summary: CopySummary::default() };
    // What is about the other one says so.
    run.all(snapshots).map_err(Error::about(to.backend().place()))
}

struct Run<'a> {
    from: &'a Repository,
    to: &'a Repository,
    options: &'a CopyOptions,
    observer: &'a Arc<dyn Observer>,
    stop: &'a AtomicBool,
    /// What is there, by what it is a copy of.
    known: HashMap<(RepositoryId, SnapshotId), Copied>,
    summary: CopySummary,
}

/// A snapshot whose trees are stored, and their roots; nothing if it is damaged.
type Stored<'s> = (&'s (SnapshotId, Snapshot), Option<Roots>);

impl Run<'_> {
    fn all(mut self, snapshots: &[(SnapshotId, Snapshot)]) -> Result<CopySummary> {
        self.know()?;
        let mut left: Vec<&(SnapshotId, Snapshot)> = Vec::new();
        for snapshot in snapshots {
            match self.known.get(&made::origin(self.from.id(), snapshot.0, &snapshot.1)) {
                Some(known) => self.summary.copied.push((snapshot.0, *known)),
                None => left.push(snapshot),
            }
        }
        if left.is_empty() && !self.options.dry_run {
            // As whoever writes does it first.
            clean_up(&**self.to.backend())?;
        }
        self.observer.event(&Event::Phase("copying snapshots"));
        let files = left.iter().map(|(_, snapshot)| snapshot.counter(counter::FILES));
        let items = files.fold(0, u64::saturating_add);
        self.observer.event(&Event::Planned { items, bytes: 0 });
        let mut tries = 0;
        while !left.is_empty() && !self.summary.is_interrupted {
            match self.some(&mut left) {
                Err(error @ (Error::Cache { .. } | Error::PrunedMeanwhile { .. })) if tries < PRUNE_TRIES => {
                    tries += 1;
                    self.observer.event(&Event::Notice { path: Path::new(""), text: &error.to_string() });
                }
                other => other?,
            }
        }
        Ok(self.summary)
    }

    /// Looks what is there.
    fn know(&mut self) -> Result<()> {
        let forgotten = self.to.forgotten()?;
        for (id, read) in self.to.snapshots()? {
            match read {
                Ok(snapshot) => {
                    let is = if forgotten.contains(&id) { Copied::Forgotten(id) } else { Copied::Before(id) };
                    let known = self.known.entry(made::origin(self.to.id(), id, &snapshot)).or_insert(is);
                    // Of two copies, one that is wanted counts.
                    if matches!(is, Copied::Before(_)) {
                        *known = is;
                    }
                }
                Err(error) => self.observer.event(&Event::Damage { error: &error }),
            }
        }
        Ok(())
    }

    /// Copies the first ones of those that are left, as many as are published together.
    fn some(&mut self, left: &mut Vec<&(SnapshotId, Snapshot)>) -> Result<()> {
        let write_options = WriteOptions {
            compression: self.options.compression,
            cache_folder: self.options.cache_folder.clone(),
            dry_run: self.options.dry_run,
            ..WriteOptions::new(self.observer.clone())
        };
        let mut writer = self.to.writer_until(&write_options, self.stop)?;
        let stored = self.store(&writer, left);
        let (stored, failure) = match stored {
            (stored, Some(Error::Interrupted)) => (stored, None),
            (_, Some(Error::Stopped)) => return Err(writer.give_up().unwrap_or(Error::Stopped)),
            other => other,
        };
        let written = writer.finish()?;
        self.summary.stored_bytes += written.stored_bytes;
        self.summary.plain_bytes += written.plain_bytes;
        for ((id, snapshot), roots) in stored {
            let copied = match roots {
                None => Copied::Damaged,
                Some(_) if self.options.dry_run => Copied::Rehearsed,
                Some(roots) => self.publish(&writer, (id, snapshot), roots)?,
            };
            left.retain(|(other, _)| other != id);
            self.summary.copied.push((*id, copied));
        }
        self.summary.is_interrupted = !left.is_empty() && self.stop.load(Ordering::Relaxed);
        if !self.options.dry_run {
            writer.merge_segments()?;
        }
        failure.map_or(Ok(()), Err)
    }

    /// Stores the trees of snapshots until enough is written; and what ended that too early.
    fn store<'s>(
        &self,
        writer: &Writer,
        left: &[&'s (SnapshotId, Snapshot)],
    ) -> (Vec<Stored<'s>>, Option<Error>) {
        let mut stored = Vec::new();
        let failure = self.store_into(writer, left, &mut stored).err();
        (stored, failure)
    }

    fn store_into<'s>(
        &self,
        writer: &Writer,
        left: &[&'s (SnapshotId, Snapshot)],
        stored: &mut Vec<Stored<'s>>,
    ) -> Result<()> {
        let reader = self.from.reader().map_err(Error::about(self.from.backend().place()))?;
        let gear = self.to.keys().gear().map(|gear| &**gear);
        let chunker = Chunker::new(self.to.config().chunker, gear).map_err(Error::damaged("config"))?;
        let are_plain = !self.from.config().is_encrypted() && !self.to.config().is_encrypted();
        // Then a chunk has one id in both.
        let is_alike = are_plain && self.from.config().chunker == self.to.config().chunker;
        let ends = (&reader, writer);
        let mut copier = Copier::new(ends, chunker, (is_alike, are_plain), &**self.observer, self.stop);
        let mut outcome = Ok(());
        for snapshot in left {
            match copier.snapshot(&snapshot.1) {
                Ok(roots) => stored.push((snapshot, roots)),
                Err(error) => {
                    outcome = Err(error);
                    break;
                }
            }
            if writer.written().stored_bytes >= PUBLISHED_EVERY {
                break;
            }
        }
        // What was gathered belongs to what is published.
        copier.flush()?;
        outcome
    }

    fn publish(
        &mut self,
        writer: &Writer,
        (id, old): (&SnapshotId, &Snapshot),
        (root, notes): Roots,
    ) -> Result<Copied> {
        let origin = made::origin(self.from.id(), *id, old);
        let seen: HashSet<SnapshotId> = self.to.snapshot_ids()?.into_iter().collect();
        let here = |old: &SnapshotId| self.copy_of(old);
        // It may be long: there is one besides the old one.
        let mut snapshot = Snapshot {
            predecessor: old.predecessor.as_ref().and_then(here),
            counters: made::lasting_counters(old),
            fields: made::lasting_fields(old, vec![made::seen(&seen), made::copied_from(origin)]),
            root,
            notes,
            ..old.clone()
        };
        let carried = snapshot.sources.iter_mut().flat_map(|source| &mut source.carried).map(|(_, id)| id);
        for named in carried.chain(snapshot.made_from.iter_mut().map(|(_, id)| id)) {
            *named = here(named).unwrap_or(*named);
        }
        let new = self.to.publish_snapshot(writer, &snapshot)?;
        self.known.insert(origin, Copied::Before(new));
        Ok(Copied::As(new))
    }

    /// The copy of a snapshot that another one names.
    fn copy_of(&self, old: &SnapshotId) -> Option<SnapshotId> {
        match self.known.get(&(self.from.id(), *old))? {
            Copied::As(new) | Copied::Before(new) | Copied::Forgotten(new) => Some(*new),
            Copied::Rehearsed | Copied::Damaged => None,
        }
    }
}
