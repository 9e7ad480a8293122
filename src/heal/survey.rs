//! Every file of this copy against its name.

use crate::error::Result;
use crate::event::Event;
use crate::heal::Run;
use crate::id::PackId;
use crate::transfer::{FileId, Folder};

impl Run<'_> {
    /// Reads what is here and finds what is damaged; in a hurry, of packs only those that something speaks against. No key is needed.
    pub(super) fn survey(&mut self) -> Result<()> {
        let recorded = self.repository.damaged_packs()?;
        let is_doubted = |file: &FileId, len: u64| {
            let pack = PackId::from_bytes(file.hash);
            let is_other = self.there.files.get(file).is_some_and(|other| *other != len);
            file.folder != Folder::Packs || !self.options.quick || is_other || recorded.contains(&pack)
        };
        let todo: Vec<(FileId, u64)> = self.here.files.iter().map(|(file, len)| (*file, *len)).collect();
        let todo: Vec<(FileId, u64)> =
            todo.into_iter().filter(|(file, len)| is_doubted(file, *len)).collect();
        self.observer.event(&Event::Phase("reading files"));
        let bytes = todo.iter().map(|(_, len)| len).sum();
        self.observer.event(&Event::Planned { items: todo.len() as u64, bytes });
        for (file, len) in todo {
            self.copier.check_stop()?;
            self.summary.files_read += 1;
            self.summary.bytes_read += len;
            let pack = (file.folder == Folder::Packs).then(|| PackId::from_bytes(file.hash));
            if self.copier.is_whole(&file)? {
                self.sound.extend(pack);
            } else if self.is_still_listed(&file)? {
                // One bad sector, or the whole medium?
                self.copier.check_medium()?;
                self.damaged.insert(file);
            } else {
                self.here.files.remove(&file);
            }
        }
        self.doubt_lengths()
    }

    /// Segments are merged, packs pruned, at any time.
    fn is_still_listed(&self, file: &FileId) -> Result<bool> {
        let name = file.name();
        let (folder, name) = name.rsplit_once('/').unwrap_or(("", &name));
        let listed = self.copier.to.list(folder).map_err(crate::error::Error::repository("list", folder))?;
        Ok(listed.iter().any(|listed| listed.name == name))
    }

    /// Packs of another length than the index gives were cut off.
    fn doubt_lengths(&mut self) -> Result<()> {
        if !self.options.quick || self.repository.is_locked() {
            return Ok(());
        }
        let reader = self.repository.reader()?;
        let present = &reader.index().present().packs;
        for row in reader.index().segments().flat_map(crate::index::Segment::packs) {
            if present.get(&row.pack).is_some_and(|len| *len != u64::from(row.stored_len)) {
                let file = FileId { folder: Folder::Packs, hash: *row.pack.as_bytes() };
                if !self.copier.is_whole(&file)? {
                    self.damaged.insert(file);
                }
            }
        }
        Ok(())
    }
}
