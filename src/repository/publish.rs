//! Publishing while others may be pruning: `spec/concurrency.md`.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use crate::error::{Error, Result};
use crate::event::{Event, Observer};
use crate::id::{PackId, SnapshotId};
use crate::pack::pack_file_name;
use crate::repository::{Presence, Repository, Work, Writer};
use crate::snapshot::Snapshot;

/// So often something is tried while somebody prunes.
pub(crate) const PRUNE_TRIES: usize = 5;

/// Does something again while somebody prunes, or the cache turns out to be no good: what is listed then is another thing, and what the try
/// before has packed is adopted.
///
/// # Errors
/// Those of `once`.
pub(crate) fn while_pruned<T>(observer: &dyn Observer, mut once: impl FnMut() -> Result<T>) -> Result<T> {
    for _ in 1..PRUNE_TRIES {
        match once() {
            Err(error @ (Error::Cache { .. } | Error::PrunedMeanwhile { .. })) => {
                observer.event(&Event::Notice { path: Path::new(""), text: &error.to_string() });
            }
            other => return other,
        }
    }
    once()
}

/// Why a pack is not to be relied on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Loss {
    /// Somebody has condemned it, whether it is still there or not.
    Condemned,
    /// It is gone, or not listed, and nobody condemned it.
    Absent,
}

/// What a run that writes has said of itself, and of the packs that it relies on. Nothing in a dry run.
pub(super) struct Reliance {
    repository: Repository,
    presence: Option<Presence>,
    said: HashSet<PackId>,
}

impl Reliance {
    /// Announces a run.
    ///
    /// # Errors
    /// Any error of the medium.
    pub(super) fn begin(repository: &Repository, dry_run: bool) -> Result<Self> {
        let presence = if dry_run { None } else { Some(Presence::announce(repository, Work::Writing)?) };
        Ok(Self { repository: repository.to_read_again(), presence, said: HashSet::new() })
    }

    /// Says that this run relies on packs, before it publishes something that needs or names them, and returns those that are condemned or
    /// gone: on these it does not rely `[PRUNE-2]`.
    ///
    /// # Errors
    /// Any error of the medium.
    pub(super) fn rely(&mut self, packs: impl IntoIterator<Item = PackId>) -> Result<HashSet<PackId>> {
        Ok(self.rely_but(packs, &|_| false)?.into_keys().collect())
    }

    /// The same, where marks with some names condemn nothing any more.
    ///
    /// # Errors
    /// As [`Self::rely`].
    pub(super) fn rely_but(
        &mut self,
        packs: impl IntoIterator<Item = PackId>,
        is_void: &dyn Fn(&str) -> bool,
    ) -> Result<HashMap<PackId, Loss>> {
        let Some(presence) = &mut self.presence else { return Ok(HashMap::new()) };
        let new: Vec<PackId> = packs.into_iter().filter(|pack| !self.said.contains(pack)).collect();
        if new.is_empty() {
            return Ok(HashMap::new());
        }
        presence.rely(&new)?;
        let lost = self.repository.losses(&new, is_void)?;
        self.said.extend(new.into_iter().filter(|pack| !lost.contains_key(pack)));
        Ok(lost)
    }

    /// Whether somebody has declared this run ended, so that nobody heeds it any more, and packs that it relies on are lost since.
    fn is_deserted(&self) -> Result<Option<PackId>> {
        let Some(presence) = &self.presence else { return Ok(None) };
        if presence.is_heard()? {
            return Ok(None);
        }
        let said: Vec<PackId> = self.said.iter().copied().collect();
        Ok(self.repository.lost_among(&said)?.into_iter().next())
    }
}

impl Repository {
    /// Publishes a snapshot of chunks that are durable. On return the snapshot is, and nobody deletes what it needs `[PRUNE-2]`.
    ///
    /// # Errors
    /// `PrunedMeanwhile`: nothing was published, and what is missing is stored by another try; `Usage` before the writer has finished; any
    /// error of the medium.
    pub fn publish_snapshot(&self, writer: &Writer, snapshot: &Snapshot) -> Result<SnapshotId> {
        let mut reliance = writer.reliance()?;
        refuse(&reliance.rely(writer.used_packs())?)?;
        let id = writer.publish_snapshot(snapshot)?;
        if let Some(lost) = reliance.is_deserted()? {
            let name = format!("snapshots/{id}");
            self.backend.remove(&name).map_err(Error::repository("remove", &name))?;
            return Err(Error::PrunedMeanwhile { pack: pack_file_name(&lost) });
        }
        Ok(id)
    }

    /// Whether all of these packs are here and not condemned.
    ///
    /// # Errors
    /// `PrunedMeanwhile`; any error of the medium.
    pub(crate) fn check_reliance(&self, packs: &[PackId]) -> Result<()> {
        refuse(&self.lost_among(packs)?)
    }

    /// Those of these packs that are condemned or not here any more.
    ///
    /// # Errors
    /// Any error of the medium.
    fn lost_among(&self, packs: &[PackId]) -> Result<HashSet<PackId>> {
        Ok(self.losses(packs, &|_| false)?.into_keys().collect())
    }

    /// The same, and why; but for what only void marks condemn. Marks are listed first, then packs.
    fn losses(&self, packs: &[PackId], is_void: &dyn Fn(&str) -> bool) -> Result<HashMap<PackId, Loss>> {
        let marks = self.marks()?.into_iter().filter(|mark| !is_void(&mark.name));
        let condemned: HashSet<PackId> = marks.flat_map(|mark| mark.body.packs).collect();
        let prefixes: HashSet<u8> = packs.iter().map(|pack| pack.as_bytes()[0]).collect();
        let listed = self.list_packs(|prefix| prefixes.contains(&prefix))?;
        let loss = |pack: &PackId| {
            if condemned.contains(pack) {
                Some(Loss::Condemned)
            } else {
                (!listed.contains_key(pack)).then_some(Loss::Absent)
            }
        };
        Ok(packs.iter().filter_map(|pack| Some((*pack, loss(pack)?))).collect())
    }
}

/// Goes no further if something is lost.
///
/// # Errors
/// `PrunedMeanwhile`.
pub(crate) fn refuse(lost: &HashSet<PackId>) -> Result<()> {
    match lost.iter().next() {
        Some(pack) => Err(Error::PrunedMeanwhile { pack: pack_file_name(pack) }),
        None => Ok(()),
    }
}
