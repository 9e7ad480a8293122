//! Where chunks lie, as the segments say, and the directories of packs that no sound segment covers.

use std::slice;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::error::Result;
use crate::id::{ChunkId, ChunkKind, PackId};
use crate::index::{Covered, Facts, Index, Segment, is_deleted, is_vanished};
use crate::pack::Location;

/// So many segments are asked before all others.
const ASKED_FIRST: usize = 16;

impl Index {
    /// All places where a chunk is present, those in packs that can be relied on first.
    ///
    /// # Errors
    /// Any error of the medium other than damage.
    pub fn locate_all(&self, kind: ChunkKind, id: &ChunkId) -> Result<Vec<Location>> {
        let mut each = self.locate_each(kind, slice::from_ref(id), &|| Ok(()))?;
        Ok(each.pop().unwrap_or_default())
    }

    /// The same of several chunks, whose ids ascend: that is quicker than to ask for each of them. Before each segment it is asked whether
    /// to `go_on`.
    ///
    /// # Errors
    /// What `go_on` says; any error of the medium other than damage.
    pub fn locate_each(
        &self,
        kind: ChunkKind,
        ids: &[ChunkId],
        go_on: &dyn Fn() -> Result<()>,
    ) -> Result<Vec<Vec<Location>>> {
        debug_assert!(ids.is_sorted(), "ids that do not ascend");
        let mut each = vec![Vec::new(); ids.len()];
        for covered in &self.segments {
            go_on()?;
            self.find_in(covered, ids, |place, location| each[place].push(location))?;
        }
        for (id, found) in ids.iter().zip(&mut each) {
            self.uncovered.find(id, found);
            found.retain(|location| location.kind == kind && self.present.packs.contains_key(&location.pack));
            found.sort_unstable();
            found.dedup();
            found.sort_by_key(|location| !self.present.is_reliable(&location.pack));
        }
        Ok(each)
    }

    /// Where a chunk is present, in a sound pack if there is one: the first such place that is found. Neighbours most often lie in the same
    /// few segments, so those that had the last ones are asked first, and the others only if they do not know.
    ///
    /// # Errors
    /// Any error of the medium other than damage.
    pub fn locate_any(&self, kind: ChunkKind, id: &ChunkId) -> Result<Option<Location>> {
        let is_sound = |location: &Location| location.kind == kind && self.is_sound_pack(&location.pack);
        let mut found = Vec::new();
        let order = lock(&self.asked_first).clone();
        let rest = (0..self.segments.len()).filter(|number| !order.contains(number));
        for number in order.iter().copied().chain(rest) {
            let Some(covered) = self.segments.get(number) else { continue };
            self.find_in(covered, slice::from_ref(id), |_, location| found.push(location))?;
            if let Some(location) = found.iter().find(|location| is_sound(location)) {
                if order.first() != Some(&number) {
                    let mut order = lock(&self.asked_first);
                    order.retain(|other| *other != number);
                    order.insert(0, number);
                    order.truncate(ASKED_FIRST);
                }
                return Ok(Some(*location));
            }
        }
        Ok(self.locate_all(kind, id)?.into_iter().next())
    }

    /// Whether a chunk is known to lie in just this place: only what covers its pack is asked.
    ///
    /// # Errors
    /// Any error of the medium other than damage.
    pub fn has(&self, id: &ChunkId, place: &Location) -> Result<bool> {
        let mut found = Vec::new();
        for covered in self.segments.iter().filter(|covered| covered.segment.row_of(&place.pack).is_some()) {
            self.find_in(covered, slice::from_ref(id), |_, location| found.push(location))?;
        }
        self.uncovered.find(id, &mut found);
        Ok(self.present.packs.contains_key(&place.pack) && found.contains(place))
    }

    /// Where a chunk is present in a pack that no record calls damaged and nobody condemns: what deduplication may rely on.
    ///
    /// # Errors
    /// Any error of the medium other than damage.
    pub fn locate_sound(&self, kind: ChunkKind, id: &ChunkId) -> Result<Option<Location>> {
        let found = self.locate_all(kind, id)?;
        Ok(found.into_iter().next().filter(|location| self.present.is_reliable(&location.pack)))
    }

    /// Where a chunk is present in a sound pack that no segment covers: what the cache cannot know.
    #[must_use]
    pub fn locate_uncovered(&self, kind: ChunkKind, id: &ChunkId) -> Option<Location> {
        let mut found = Vec::new();
        self.uncovered.find(id, &mut found);
        found.into_iter().find(|location| location.kind == kind && self.is_sound_pack(&location.pack))
    }

    /// Gives what a segment knows of chunks, whose ids ascend, with the number of each.
    fn find_in(
        &self,
        covered: &Covered,
        ids: &[ChunkId],
        mut found: impl FnMut(usize, Location),
    ) -> Result<()> {
        let mut problems = Vec::new();
        if covered.fallback.get().is_none() {
            let mut own = Vec::new();
            match covered.segment.find(ids, &self.blocks, &mut own) {
                Ok(()) => {
                    let is_right = |location: &Location| self.has_right_length(&covered.segment, location);
                    for (place, location) in own.into_iter().filter(|(_, location)| is_right(location)) {
                        found(place, location);
                    }
                    return Ok(());
                }
                Err(error) if !error.is_damage() => return Err(error),
                // Merged by another run: that is no damage.
                Err(error) if is_vanished(&error) => {}
                Err(error) => problems.push(error),
            }
        }
        let facts = covered.fallback.get_or_init(|| {
            let packs: Vec<PackId> = covered.segment.packs().iter().map(|row| row.pack).collect();
            let mut facts = Facts::default();
            self.read_directories(&packs, &mut facts, &mut problems);
            // Pruned since they were listed: whoever misses something of them asks a newer index.
            problems.retain(|problem| !is_deleted(&*self.backend, problem));
            self.note(problems);
            facts
        });
        for (place, id) in ids.iter().enumerate() {
            let mut own = Vec::new();
            facts.find(id, &mut own);
            for location in own {
                found(place, location);
            }
        }
        Ok(())
    }

    /// A fact of a segment counts only if the pack has the length that the segment gives it `[REPO-6]`.
    fn has_right_length(&self, segment: &Segment, location: &Location) -> bool {
        segment.row_of(&location.pack).is_none_or(|row| self.present.has(row))
    }
}

/// An order of asking is as good as any other, whatever happened to the thread that held it.
fn lock(order: &Mutex<Vec<usize>>) -> MutexGuard<'_, Vec<usize>> {
    order.lock().unwrap_or_else(PoisonError::into_inner)
}
