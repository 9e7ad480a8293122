//! What is left of this copy alone, put in order: the index written anew from packs, chunks out of damaged packs stored again, and new
//! snapshots of what is left of damaged ones.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crate::chunk::PutChunk;
use crate::error::{Error, Result};
use crate::event::{Event, Observer};
use crate::heal::rebuild::Rebuilder;
use crate::heal::remake::{self, Draft, Remade};
use crate::heal::rescue::LostChunks;
use crate::heal::{HealOptions, HealSummary, Run};
use crate::id::{ChunkId, ChunkKind, IdKeys, SnapshotId};
use crate::repository::{Reader, Repository, Writer, while_pruned};
use crate::snapshot::Snapshot;
use crate::transfer::mend_config;

/// What was found, and what became of it.
#[derive(Debug, Default)]
pub struct RepairSummary {
    /// The files and chunks.
    pub files: HealSummary,
    /// The damaged snapshots.
    pub remade: Vec<Remade>,
}

/// Repairs a copy without another one: of `config` and `config.2` the damaged one is written anew as the other one is, damaged segments are written anew, chunks that can still be had from damaged packs are stored again, and
/// for each snapshot that lacks something, or each one of `chosen` that does, a new one is published of what is left. No snapshot and no pack
/// is deleted. Where nothing is damaged, nothing is written.
///
/// Damage that stays is no error: it is in the summary; each file is sent to `observer` as a `Problem`, each lost path as a `Notice`.
///
/// # Errors
/// `Locked`; `UnknownFeature`, `UnknownRecord`; `Interrupted`; any error of the medium that is no damage; `PrunedMeanwhile`: somebody prunes
/// again and again.
pub fn repair(
    repository: &Repository,
    chosen: Option<&[SnapshotId]>,
    options: &HealOptions,
    observer: &Arc<dyn Observer>,
    stop: &AtomicBool,
) -> Result<RepairSummary> {
    if repository.is_locked() {
        return Err(Error::Locked);
    }
    while_pruned(&**observer, || Run::new(repository, None, options, observer, stop)?.repair(chosen))
}

impl Run<'_> {
    fn repair(mut self, chosen: Option<&[SnapshotId]>) -> Result<RepairSummary> {
        let config = self.repository.config().encode(self.repository.id());
        let [mut missing, mut damaged] = mend_config(&self.copier, &config, self.options.dry_run)?;
        for (names, what) in [(&missing, "missing"), (&damaged, "damaged")] {
            for name in names {
                let done = if self.options.dry_run { "would be" } else { "is" };
                let other = if name == "config" { "config.2" } else { "config" };
                self.notice(&format!("{name} is {what}, and {done} written anew as {other} is"));
            }
        }
        self.summary.fetched.append(&mut missing);
        self.summary.replaced.append(&mut damaged);
        self.survey()?;
        self.unmark()?;
        self.fetch_named_packs()?;
        self.mark()?;
        let missing = self.missing(None)?;
        let snapshots = self.readable_snapshots()?;
        let reader = self.repository.reader()?;
        let mut writer = self.writer(&reader)?;
        let lost = self.rescue(&missing, &reader, None, &writer)?;
        let (mut remade, drafts) = self.drafts((&reader, &writer), &lost, &snapshots, chosen)?;
        self.settle(&mut writer, lost.is_empty())?;
        if !drafts.is_empty() {
            remade.append(&mut self.publish(&writer, drafts, snapshots)?);
            writer.merge_segments()?;
        }
        Ok(RepairSummary { files: self.finish(), remade })
    }

    /// The damaged snapshots of which none is to be published, and drafts of the others.
    fn drafts(
        &self,
        (reader, writer): (&Reader, &Writer),
        lost: &LostChunks,
        snapshots: &[(SnapshotId, Snapshot)],
        chosen: Option<&[SnapshotId]>,
    ) -> Result<(Vec<Remade>, Vec<Draft>)> {
        self.observer.event(&Event::Phase("finding what is lost"));
        // Nothing is written for what is whole, or made anew already.
        let (nowhere, stop) = (Nowhere(self.repository.keys().ids()), self.copier.stop);
        let mut looking = Rebuilder { get: reader, put: &nowhere, lost, stop, whole: HashSet::new() };
        let is_chosen = |id: &SnapshotId| chosen.is_none_or(|chosen| chosen.contains(id));
        let (mut settled, mut damaged) = (Vec::new(), Vec::new());
        for snapshot in snapshots.iter().filter(|(id, _)| is_chosen(id)) {
            let Some(mut found) = remake::look(&mut looking, snapshot, &**self.observer)? else { continue };
            found.remade.snapshot = found.find_same(snapshots);
            found.remade.was_there = found.remade.snapshot.is_some();
            if found.remade.was_there || found.remade.is_nothing_left || self.options.dry_run {
                settled.push(found.remade);
            } else {
                damaged.push((found, &snapshot.1));
            }
        }
        let mut making = Rebuilder { get: reader, put: writer, lost, stop, whole: looking.whole };
        let drafts = damaged.into_iter().map(|(found, old)| found.write(&mut making, old));
        Ok((settled, drafts.collect::<Result<_>>()?))
    }

    fn publish(
        &self,
        writer: &Writer,
        drafts: Vec<Draft>,
        mut snapshots: Vec<(SnapshotId, Snapshot)>,
    ) -> Result<Vec<Remade>> {
        let mut done = Vec::new();
        for mut draft in drafts {
            let same = draft.damaged.find_same(&snapshots);
            draft.damaged.remade.was_there = same.is_some();
            let id = if let Some(same) = same {
                same
            } else {
                let reader = self.repository.reader()?;
                let id = draft.publish(self.repository, &reader, writer, self.copier.stop)?;
                snapshots.push((id, self.repository.snapshot(&id)?));
                id
            };
            draft.damaged.remade.snapshot = Some(id);
            done.push(draft.damaged.remade);
        }
        Ok(done)
    }
}

/// Names chunks and keeps none.
struct Nowhere<'k>(&'k IdKeys);

impl PutChunk for Nowhere<'_> {
    fn put(&self, kind: ChunkKind, plain: &[u8]) -> Result<ChunkId> {
        Ok(self.0.chunk_id(kind, plain))
    }
}
