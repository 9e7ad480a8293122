//! Packs that the repository lacks: they cannot be copied, so a mirror of it lacks them too, and must not pass for whole.

use crate::error::Result;
use crate::event::Event;
use crate::id::PackId;
use crate::index::is_vanished;
use crate::mirror::{DamagedFile, Refresh, Side};
use crate::transfer::{FileId, Folder};

impl Refresh<'_> {
    /// Names the packs that segments of the repository know and that are not there, if anything in them is nowhere else.
    /// Without the keys nobody can read them.
    pub(super) fn say_lost_packs(&mut self) -> Result<()> {
        if self.repository.is_locked() {
            return Ok(());
        }
        let reader = match self.repository.reader() {
            // Segments come and go while others write; the next refresh sees what there is then.
            Err(error) if is_vanished(&error) => return Ok(()),
            other => other?,
        };
        for problem in reader.index().unfit_packs()? {
            let Some(name) = problem.file().map(str::to_owned) else { continue };
            if self.summary.damaged.iter().any(|damaged| damaged.file == name) {
                continue;
            }
            let pack = name.rsplit('/').next().and_then(PackId::from_hex);
            let file = pack.map(|pack| FileId { folder: Folder::Packs, hash: *pack.as_bytes() });
            let whole_on_other_side = match file.filter(|file| self.there.files.contains_key(file)) {
                Some(file) => self.copier.is_whole(&file)?,
                None => false,
            };
            let path = self.copier.from.place().join(&name);
            self.copier.observer.event(&Event::Problem { path: &path, error: &problem });
            self.summary.damaged.push(DamagedFile {
                file: name,
                side: Side::Repository,
                whole_on_other_side,
            });
        }
        Ok(())
    }
}
