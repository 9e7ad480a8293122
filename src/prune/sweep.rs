//! Where packs are deleted: condemned first, then looked for once more, and only then removed `[PRUNE-5]`.

use std::collections::HashSet;

use crate::backend::Backend;
use crate::error::{Error, Result};
use crate::event::Event;
use crate::id::{PackId, SnapshotId};
use crate::pack::pack_file_name;
use crate::prune::Run;
use crate::prune::listed::Listed;
use crate::repository::{Needed, with_reserve};
use crate::sidecar::sidecar_name;

/// Where there is no room to name all, so many packs are condemned first: their names have room where the reserve was.
const SWEPT_FIRST: usize = 4096;

impl Run<'_> {
    /// Deletes packs of which nothing is needed, and forgotten snapshots. Returns how many packs.
    pub(super) fn sweep_dead(&mut self, dead: &[PackId], forgotten: &[SnapshotId]) -> Result<u64> {
        match self.sweep(dead, forgotten) {
            Err(error) if error.is_no_space() && dead.len() > SWEPT_FIRST => {
                let (first, rest) = dead.split_at(SWEPT_FIRST);
                let swept = self.sweep(first, forgotten)?;
                Ok(swept + self.sweep(rest, &[])?)
            }
            other => other,
        }
    }

    /// Condemns packs and forgotten snapshots, asks once more who needs them, and deletes those that nobody does. Returns how many packs.
    pub(super) fn sweep(&mut self, packs: &[PackId], unwanted: &[SnapshotId]) -> Result<u64> {
        if packs.is_empty() && unwanted.is_empty() {
            return Ok(0);
        }
        self.go_on()?;
        self.observer.event(&Event::Phase("deleting packs"));
        let Some(presence) = &mut self.presence else { return Err(Error::Stopped) };
        with_reserve(&**self.repository.backend(), || presence.condemn(packs, unwanted))?;
        // From here on whoever publishes a snapshot sees the mark, or is seen.
        let mut doomed: HashSet<PackId> = packs.iter().copied().collect();
        let wanted_now = self.spare(&mut doomed, unwanted)?;
        self.delete_snapshots(unwanted.iter().filter(|id| !wanted_now.contains(id)))?;
        self.done.spared_packs += (packs.len() - doomed.len()) as u64;
        self.delete_packs(&doomed)?;
        Ok(doomed.len() as u64)
    }

    fn delete_packs(&mut self, packs: &HashSet<PackId>) -> Result<()> {
        let backend = &**self.repository.backend();
        for pack in packs {
            self.go_on()?;
            let name = pack_file_name(pack);
            let len = backend.open(&name).map_or(0, |file| file.len());
            // First, as an error may come after the deed.
            self.deleted.insert(*pack);
            // Its parity goes too, and once more: it may just be in the making [PAR-6].
            let parity = sidecar_name(pack);
            [&parity, &name, &parity].into_iter().try_for_each(|name| remove(backend, name))?;
            self.done.deleted_bytes += len;
        }
        Ok(())
    }

    /// Takes out what is needed after all `[PRUNE-6]`: by running sessions, and by snapshots that were published or brought back since the
    /// plan was made, each time all of them; also by forgotten ones that are not condemned, as whoever brings them back does not see that they
    /// might be deleted. Returns the snapshots that are wanted now.
    fn spare(&self, doomed: &mut HashSet<PackId>, condemned: &[SnapshotId]) -> Result<HashSet<SnapshotId>> {
        for pack in self.repository.sessions()?.iter().flat_map(|notice| &notice.body.packs) {
            doomed.remove(pack);
        }
        let Listed { wanted: mut new, forgotten } = self.listed()?;
        let wanted_now = new.iter().map(|(id, _)| *id).collect();
        new.retain(|(id, _)| !self.known.contains(id));
        for id in forgotten.iter().filter(|id| !self.known.contains(id) && !condemned.contains(id)) {
            new.push((*id, self.repository.snapshot(id)?));
        }
        // Marks and packs after that.
        self.refuse_lost()?;
        if new.is_empty() {
            return Ok(wanted_now);
        }
        let reader = self.reader()?;
        let mut needed = Needed::new(self.repository, &self.options.scratch);
        for (_, snapshot) in &new {
            needed.add(&reader, snapshot, self.stop)?;
        }
        let needed = needed.sort();
        let mut ids = needed.rows();
        let mut next = ids.next()?;
        reader.index().for_each(|id, places| {
            while next.is_some_and(|next| next < *id.as_bytes()) {
                next = ids.next()?;
            }
            let is_needed = next == Some(*id.as_bytes());
            if is_needed && !places.iter().any(|place| reader.index().is_sound_pack(&place.pack)) {
                for place in places {
                    doomed.remove(&place.pack);
                }
            }
            Ok(())
        })?;
        Ok(wanted_now)
    }

    /// Goes no further if a pack is gone, or condemned by somebody else, in which the plan keeps something that is needed.
    fn refuse_lost(&self) -> Result<()> {
        let by_others = self.repository.marks()?.into_iter().filter(|mark| !self.is_own(&mark.name));
        let condemned: HashSet<PackId> = by_others.flat_map(|mark| mark.body.packs).collect();
        let listed = self.repository.listed_packs()?;
        let is_safe = |pack: &PackId| listed.contains_key(pack) && !condemned.contains(pack);
        match self.holding.iter().find(|pack| !is_safe(pack)) {
            Some(lost) => Err(Error::PrunedMeanwhile { pack: pack_file_name(lost) }),
            None => Ok(()),
        }
    }

    /// Deletes the files of forgotten snapshots: what they need is about to go.
    fn delete_snapshots<'s>(&mut self, unwanted: impl Iterator<Item = &'s SnapshotId>) -> Result<()> {
        for id in unwanted {
            let name = format!("snapshots/{id}");
            remove(&**self.repository.backend(), &name)?;
            self.done.forgotten += 1;
        }
        Ok(())
    }
}

fn remove(backend: &dyn Backend, name: &str) -> Result<()> {
    match backend.remove(name) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(Error::repository("remove", name)),
    }
}
