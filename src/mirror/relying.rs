//! What others see of a refresh on the mirror, so that nobody who prunes there deletes what it copies: `spec/concurrency.md`.

use std::path::Path;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::id::PackId;
use crate::repository::{Presence, Repository, Work};
use crate::transfer::{FileId, Folder, Listing};

/// A run that copies, as others see it.
pub(super) struct Relying {
    mirror: Arc<Repository>,
    presence: Presence,
    packs: Option<Vec<PackId>>,
}

impl Relying {
    /// Announces it `[PRUNE-1]`.
    pub(super) fn begin(mirror: Arc<Repository>) -> Result<Self> {
        let presence = Presence::announce(&mirror, Work::Writing)
            .map_err(|error| on_mirror(mirror.backend().place(), error))?;
        Ok(Self { mirror, presence, packs: None })
    }

    /// Says, before the first segment or snapshot is copied, which packs on the mirror they name or may need, and looks whether these are there and stay.
    /// With `all`, those that only the mirror has may stand for some that are not copied.
    pub(super) fn rely(&mut self, here: &Listing, there: &Listing, all: bool) -> Result<()> {
        if self.packs.is_some() {
            return Ok(());
        }
        let is_relied_on = |file: &&FileId| all || here.files.contains_key(*file);
        let packs = there.files.keys().filter(|file| file.folder == Folder::Packs).filter(is_relied_on);
        let packs: Vec<PackId> = packs.map(|file| PackId::from_bytes(file.hash)).collect();
        self.presence
            .rely(&packs)
            .and_then(|()| self.mirror.check_reliance(&packs))
            .map_err(|error| on_mirror(self.mirror.backend().place(), error))?;
        self.packs = Some(packs);
        Ok(())
    }

    /// Looks once more, if somebody has declared this run ended, so that nobody heeds it any more.
    pub(super) fn end(self) -> Result<()> {
        let Some(packs) = &self.packs else { return Ok(()) };
        let is_heard =
            self.presence.is_heard().map_err(|error| on_mirror(self.mirror.backend().place(), error))?;
        if is_heard {
            return Ok(());
        }
        self.mirror.check_reliance(packs).map_err(|error| on_mirror(self.mirror.backend().place(), error))
    }
}

/// What went wrong on the mirror, as the other errors there are: with the whole path.
pub(super) fn on_mirror(place: &Path, error: Error) -> Error {
    match error {
        Error::Repository { action, file, source, .. } => {
            Error::Path { action, path: place.join(file), source }
        }
        other => other,
    }
}
