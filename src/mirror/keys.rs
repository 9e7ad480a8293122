//! Keys that were removed from the repository go from the mirror too, if its keys are known: a record that anybody could have written
//! removes nothing.

use std::path::Path;

use crate::error::Result;
use crate::event::{Change, Event, Item};
use crate::id::KeyId;
use crate::mirror::Refresh;
use crate::repository::{record_kind, remove_key_file};
use crate::transfer::{FileId, Folder};

impl Refresh<'_> {
    /// Removes them, unless no other one would be left.
    pub(super) fn remove_keys(&mut self) -> Result<()> {
        let is_key = |file: &&FileId| file.folder == Folder::Keys;
        let is_extra = |file: &&FileId| !self.here.files.contains_key(*file);
        let on_mirror: Vec<FileId> = self.there.files.keys().filter(is_key).copied().collect();
        let removed = self.repository.stated(record_kind::KEY_REMOVED, self.summary.copy)?;
        let to_go: Vec<FileId> =
            on_mirror.iter().filter(is_extra).filter(|file| removed.contains(&file.hash)).copied().collect();
        if to_go.is_empty() || to_go.len() == on_mirror.len() {
            return Ok(());
        }
        if self.repository.is_locked() {
            self.notice("keys that were removed from the repository are still on the mirror: give a passphrase to remove them there");
            return Ok(());
        }
        for file in to_go {
            remove_key_file(self.copier.to, &KeyId::from_bytes(file.hash))?;
            self.there.files.remove(&file);
            let name = file.name();
            let (path, item, change) = (Path::new(&name), Item::RepositoryFile, Change::Removed);
            self.copier.observer.event(&Event::Done { path, item, change, bytes: 0 });
        }
        Ok(())
    }
}
