//! Packs that the index speaks of and that are not there as it says.

use std::collections::HashSet;

use crate::error::{Corruption, Error, Result};
use crate::id::PackId;
use crate::index::{Index, PackRow, Problems, Segment};
use crate::pack::pack_file_name;

impl Index {
    /// The packs that a segment names and that are not listed, or with another length, so that they are not present `[REPO-6]`; but for
    /// those of which every chunk is present elsewhere, as after what was lost was stored again, and those that somebody is just deleting.
    ///
    /// # Errors
    /// Any error of the medium.
    pub fn unfit_packs(&self) -> Result<Problems> {
        self.unfit_packs_with(&[])
    }

    /// The same, as if these segments were there too.
    ///
    /// # Errors
    /// As [`Self::unfit_packs`].
    pub fn unfit_packs_with(&self, more: &[Segment]) -> Result<Problems> {
        let segments = || self.segments().chain(more);
        let mut lost = HashSet::new();
        for segment in segments() {
            let is_going = |row: &PackRow| {
                self.present.condemned.contains(&row.pack) && !self.present.packs.contains_key(&row.pack)
            };
            let is_unfit =
                |row: &&PackRow| !self.present.has(row) && !lost.contains(&row.pack) && !is_going(row);
            let unfit: HashSet<PackId> =
                segment.packs().iter().filter(is_unfit).map(|row| row.pack).collect();
            if unfit.is_empty() {
                continue;
            }
            let mut chunks = Vec::new();
            let read = segment.for_each(|(id, place)| {
                if unfit.contains(&place.pack) {
                    chunks.push((id, place));
                }
            });
            match read {
                // What it says cannot be read: the worst is assumed.
                Err(error) if error.is_damage() => lost.extend(unfit),
                Err(error) => return Err(error),
                Ok(()) => {
                    for (id, place) in chunks {
                        if !lost.contains(&place.pack) && self.locate_all(place.kind, &id)?.is_empty() {
                            lost.insert(place.pack);
                        }
                    }
                }
            }
        }
        let mut seen = HashSet::new();
        let rows = segments().flat_map(Segment::packs).filter(|row| lost.contains(&row.pack));
        Ok(rows
            .filter(|row| !self.present.has(row) && seen.insert(row.pack))
            .map(|row| {
                let name = pack_file_name(&row.pack);
                match self.present.packs.get(&row.pack) {
                    Some(found) => {
                        let (expected, found) = (row.stored_len.into(), *found);
                        Error::damaged(&name)(Corruption::WrongLength { expected, found })
                    }
                    None => Error::repository("read", &name)(std::io::ErrorKind::NotFound.into()),
                }
            })
            .collect())
    }

    /// The packs that segments name and that are not listed.
    #[must_use]
    pub fn absent_packs(&self) -> HashSet<PackId> {
        let rows = self.segments().flat_map(Segment::packs);
        rows.map(|row| row.pack).filter(|pack| !self.present.packs.contains_key(pack)).collect()
    }
}
