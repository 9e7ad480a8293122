//! What a mirror is to have, where it has forgotten what the repository still has: not the snapshots that are forgotten there, nor what only
//! they need `[DUR-17]`. So a copy that forgets and prunes on its own is not filled up again.

use std::collections::HashSet;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use crate::error::{Error, Result};
use crate::id::{PackId, SnapshotId};
use crate::repository::{Needed, Repository};
use crate::sorted::Gathered;
use crate::transfer::{FileId, Folder, Listing};

/// So many ids are held in memory, in a budget of the default size.
const IDS_AT_ONCE: usize = 1 << 20;

/// What the mirror is to have.
#[derive(Default)]
pub(super) struct Wanted {
    /// Snapshots that are forgotten there, by records here or there.
    pub forgotten: HashSet<SnapshotId>,
    /// How many of them are here, and neither there nor copied.
    pub left_out: u64,
    /// Of the packs that it lacks, those that are needed there, where that could be found out.
    packs: Option<HashSet<PackId>>,
}

impl Wanted {
    /// Finds out what is to be copied. Where the keys are not known, or something is damaged that would have to be read, that is all packs.
    ///
    /// # Errors
    /// `Interrupted`; any error of the media.
    pub(super) fn find(
        (repository, mirror): (&Repository, &Repository),
        (here, there): (&Listing, &Listing),
        scratch: Option<&Path>,
        stop: &AtomicBool,
    ) -> Result<Self> {
        let forgotten = mirror.forgotten_with(repository)?;
        let is_missing = |id: &SnapshotId| !there.has(Folder::Snapshots, id.as_bytes());
        let left_out = here.snapshots().filter(|id| forgotten.contains(id) && is_missing(id)).count() as u64;
        let mut wanted = Self { forgotten, left_out, packs: None };
        if let Some(scratch) = scratch.filter(|_| left_out > 0 && !repository.is_locked()) {
            wanted.packs = match wanted.needed_packs((repository, mirror), here, scratch, stop) {
                Err(error) if error.is_damage() => None,
                other => Some(other?),
            };
        }
        Ok(wanted)
    }

    /// Whether a file that the mirror lacks is to be copied.
    pub(super) fn takes(&self, file: &FileId) -> bool {
        match file.folder {
            Folder::Snapshots => !self.forgotten.contains(&SnapshotId::from_bytes(file.hash)),
            Folder::Packs => {
                self.packs.as_ref().is_none_or(|packs| packs.contains(&PackId::from_bytes(file.hash)))
            }
            _ => true,
        }
    }

    /// Whether packs are left out, so that those of the mirror may stand for what is not copied.
    pub(super) fn is_selective(&self) -> bool {
        self.packs.is_some()
    }

    /// The packs here that hold what the wanted snapshots need and the mirror does not have.
    fn needed_packs(
        &self,
        (repository, mirror): (&Repository, &Repository),
        here: &Listing,
        scratch: &Path,
        stop: &AtomicBool,
    ) -> Result<HashSet<PackId>> {
        let reader = repository.reader()?;
        let mut needed = Needed::new(repository, scratch);
        for id in here.snapshots().filter(|id| !self.forgotten.contains(id)) {
            needed.add(&reader, &repository.snapshot(&id)?, stop)?;
        }
        let needed = needed.sort();
        let there = mirror.reader().map_err(Error::about(mirror.backend().place()))?;
        let mut lacking = Gathered::<32>::new(scratch, repository.budget().share(IDS_AT_ONCE));
        let mut rows = needed.rows();
        let mut next = rows.next()?;
        there.index().for_each(|id, places| {
            while let Some(before) = next.filter(|next| next < id.as_bytes()) {
                lacking.add(before)?;
                next = rows.next()?;
            }
            if next == Some(*id.as_bytes()) {
                if !places.iter().any(|place| there.index().is_sound_pack(&place.pack)) {
                    lacking.add(*id.as_bytes())?;
                }
                next = rows.next()?;
            }
            Ok(())
        })?;
        while let Some(before) = next {
            lacking.add(before)?;
            next = rows.next()?;
        }
        let lacking = lacking.sort();
        let mut packs = HashSet::new();
        let mut rows = lacking.rows();
        let mut next = rows.next()?;
        reader.index().for_each(|id, places| {
            // One that is nowhere is lost here too.
            while next.is_some_and(|next| next < *id.as_bytes()) {
                next = rows.next()?;
            }
            if next == Some(*id.as_bytes()) && !places.iter().any(|place| packs.contains(&place.pack)) {
                let sound = places.iter().find(|place| reader.index().is_sound_pack(&place.pack));
                packs.extend(sound.or(places.first()).map(|place| place.pack));
            }
            Ok(())
        })?;
        Ok(packs)
    }
}
