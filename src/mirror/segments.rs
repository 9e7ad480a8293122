//! Which segments a mirror takes over: none that names a pack which the mirror lacks and the repository does not miss `[DUR-13]`. `check` would
//! miss it on the mirror for ever.

use std::collections::HashSet;

use crate::error::Result;
use crate::event::Event;
use crate::id::{PackId, SegmentId};
use crate::index::{Segment, is_vanished};
use crate::mirror::Refresh;
use crate::transfer::{FileId, Folder};

/// Packs that the mirror lacks and that it is not to have.
pub(super) enum Lacking {
    /// Any may be one: packs are left out, or a mark cannot be read.
    Any,
    /// Those that were deleted in the repository; its segments name them until the prune is through.
    Pruned(HashSet<PackId>),
}

impl Refresh<'_> {
    /// Whether a segment that the mirror lacks is to be copied, now that all packs are.
    ///
    /// # Errors
    /// Any error of the medium.
    pub(super) fn takes_segment(&mut self, file: &FileId) -> Result<bool> {
        let lacking = match self.lacking.take() {
            Some(lacking) => lacking,
            None => self.lacking_now()?,
        };
        let lacking = &*self.lacking.insert(lacking);
        if matches!(lacking, Lacking::Pruned(packs) if packs.is_empty()) {
            return Ok(true);
        }
        if self.repository.is_locked() {
            // Nobody can say what it names. Once the prune is through, the next refresh copies what is then there.
            return Ok(false);
        }
        let id = SegmentId::from_bytes(file.hash);
        let segment = match Segment::open(self.repository.backend(), id, self.repository.keys()) {
            // Merged meanwhile.
            Err(error) if is_vanished(&error) => return Ok(false),
            // What is wrong with it is said when it is to be copied.
            Err(error) if error.is_damage() => return Ok(true),
            other => other?,
        };
        let is_lacking = |pack: &PackId| match lacking {
            Lacking::Any => !self.there.has(Folder::Packs, pack.as_bytes()),
            Lacking::Pruned(packs) => packs.contains(pack),
        };
        Ok(!segment.packs().iter().any(|row| is_lacking(&row.pack)))
    }

    /// The same, and says it where it keeps the index from being copied.
    fn lacking_now(&self) -> Result<Lacking> {
        let lacking = self.lacking()?;
        let is_none = matches!(&lacking, Lacking::Pruned(packs) if packs.is_empty());
        if self.repository.is_locked() && !is_none {
            let text = "a prune has not finished here: the index of new packs is not copied until then, as without \
                        the keys nobody can say what it names";
            let path = self.repository.backend().place();
            self.copier.observer.event(&Event::Notice { path, text });
        }
        Ok(lacking)
    }

    /// Marks are listed after all packs are copied and before any segment is: who takes them back has removed the segments before.
    fn lacking(&self) -> Result<Lacking> {
        if self.wanted.is_selective() {
            return Ok(Lacking::Any);
        }
        match self.repository.condemned() {
            Ok(mut condemned) => {
                condemned.retain(|pack| !self.there.has(Folder::Packs, pack.as_bytes()));
                Ok(Lacking::Pruned(condemned))
            }
            Err(error) if error.is_damage() => Ok(Lacking::Any),
            Err(error) => Err(error),
        }
    }
}
