//! Puts a copy of a repository right again: [`heal()`] with what another copy has whole, [`repair()`] with what is left of it alone.
//!
//! - `survey` reads the files of this copy and holds each against its name; `files` takes those that are damaged or missing from the other
//!   copy. Both need no key.
//! - `needed` walks the trees of all snapshots and finds the chunks that are in no pack that can be relied on; `rescue` takes these from
//!   wherever a whole frame holds them: packs of the other copy, however they are packed there, and what is left of damaged ones on either side.
//! - `rebuild` makes the largest whole part of a damaged tree, `remake` a snapshot of it, `notes` says in it what is missing.
//!
//! Nothing is deleted but damaged segments whose facts are in others `[HEAL-4]`, and a file is replaced only by one whose bytes are those of
//! its name `[HEAL-1]`. So whatever it is cut off at, no less can be restored than before.
//!
//! Memory: 16 bytes for each distinct node of the trees and each folder, and what is lost.

mod files;
mod needed;
mod notes;
mod rebuild;
mod remake;
mod repair;
mod rescue;
mod survey;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crate::backend::{Backend, WEAK_FOLDER_SYNC};
use crate::error::{Error, Result};
use crate::event::{Event, Observer};
use crate::id::PackId;
use crate::pack::{Compression, pack_file_name};
use crate::repository::{
    DEFAULT_PACK_LEN, Presence, Reader, Repository, Work, WriteOptions, Writer, clean_up, make_folders,
    while_pruned,
};
use crate::session::Session;
use crate::transfer::{Copier, FileId, Folder, Listing, check_apart};

pub use files::prepare;
pub use remake::{Lost, LostPath, Remade};
pub use repair::{RepairSummary, repair};

/// How to heal or repair.
#[derive(Debug, Clone)]
pub struct HealOptions {
    /// Believe packs that have the right length and that no record calls damaged, and do not read them.
    pub quick: bool,
    /// Only say what would be done.
    pub dry_run: bool,
    /// For files that are gone when the run is.
    pub scratch: PathBuf,
    /// The folder of the redb cache of this repository, if there may be one.
    pub cache_folder: Option<PathBuf>,
    /// How frames are compressed.
    pub compression: Compression,
    /// Where packs are closed, in bytes.
    pub pack_len: u64,
}

impl HealOptions {
    /// The defaults, with this folder for what there is no memory for.
    #[must_use]
    pub fn new(scratch: PathBuf) -> Self {
        Self {
            quick: false,
            dry_run: false,
            scratch,
            cache_folder: None,
            compression: Compression::default(),
            pack_len: DEFAULT_PACK_LEN,
        }
    }
}

/// What was found, and what became of it.
#[derive(Debug, Default)]
pub struct HealSummary {
    /// Files that were read and held against their names.
    pub files_read: u64,
    /// Their bytes.
    pub bytes_read: u64,
    /// Files that were damaged, and are replaced.
    pub replaced: Vec<String>,
    /// Files that were missing, and are here again.
    pub fetched: Vec<String>,
    /// Files that are damaged, or missing though the index names them, and whole nowhere.
    pub damaged: Vec<String>,
    /// Files that were to be taken over from the other copy and are damaged there, and why.
    pub damaged_there: BTreeMap<String, Error>,
    /// Chunks that were in no whole pack here, and are stored again.
    pub chunks_saved: u64,
    /// Chunks that a snapshot needs and that cannot be had any more.
    pub chunks_lost: u64,
    /// Packs that are recorded as damaged from now on.
    pub marked: Vec<PackId>,
    /// Packs that were recorded as damaged, and no longer are.
    pub unmarked: Vec<PackId>,
}

/// Heals a copy with another one: what is damaged or missing here and whole there is taken over, whole files first, then single chunks.
/// Without keys only whole files. On return all that was taken over is durable.
///
/// Damage that stays is no error: it is in the summary, and each file is sent to `observer` as a `Problem`.
///
/// # Errors
/// - `OtherRepository`, `Nested`: it is no other copy of this repository; nothing was written.
/// - `UnknownFeature`, `UnknownRecord`; `Interrupted`; any error of the medium that is no damage.
/// - `PrunedMeanwhile`: somebody prunes one of the two again and again.
pub fn heal(
    repository: &Repository,
    other: &Arc<dyn Backend>,
    options: &HealOptions,
    observer: &Arc<dyn Observer>,
    stop: &AtomicBool,
) -> Result<HealSummary> {
    check_apart(repository.backend().place(), other.place())?;
    let about_other = Error::about(other.place());
    let there = Repository::open(other.clone()).map_err(&about_other)?;
    let mut there = there.with_budget(repository.budget());
    if there.id() != repository.id() {
        return Err(Error::OtherRepository { expected: repository.id(), found: there.id() });
    }
    there.unlock_like(repository).map_err(&about_other)?;
    // What it says of this copy is heeded from the moment it is taken over.
    there.check_writable(repository.copy().copy).map_err(&about_other)?;
    while_pruned(&**observer, || Run::new(repository, Some(&there), options, observer, stop)?.heal())
        .map_err(about_this(repository.backend().place()))
}

/// Says of an error that it is about this copy, unless it may be about either: only this one is written to.
fn about_this(place: &Path) -> impl Fn(Error) -> Error {
    let about = Error::about(place);
    move |error| match error {
        Error::Repository { action: "read" | "list", .. } => error,
        _ => about(error),
    }
}

/// Healing or repairing under way.
struct Run<'a> {
    repository: &'a Repository,
    /// The other copy.
    other: Option<&'a Repository>,
    options: &'a HealOptions,
    observer: &'a Arc<dyn Observer>,
    copier: Copier<'a>,
    presence: Option<Presence>,
    here: Listing,
    there: Listing,
    /// Files here whose bytes are not those of their names.
    damaged: BTreeSet<FileId>,
    /// Packs here that somebody who prunes is about to delete: none is published under such a name `[PRUNE-3]`.
    condemned: HashSet<PackId>,
    /// Packs that were read and whose bytes are right.
    sound: HashSet<PackId>,
    /// Packs that were taken over.
    new_packs: HashSet<PackId>,
    /// Packs that were here and not about to be deleted when the trees were walked.
    relied: HashSet<PackId>,
    summary: HealSummary,
}

impl<'a> Run<'a> {
    fn new(
        repository: &'a Repository,
        other: Option<&'a Repository>,
        options: &'a HealOptions,
        observer: &'a Arc<dyn Observer>,
        stop: &'a AtomicBool,
    ) -> Result<Self> {
        let (mut presence, backend) = (None, &**repository.backend());
        if !options.dry_run {
            repository.check_writable(repository.copy().copy)?;
            // What takes away files may have taken folders.
            make_folders(backend)?;
            clean_up(backend)?;
            // Before anything is listed: who prunes sees that a run goes on.
            presence = Some(Presence::announce(repository, Work::Writing)?);
        }
        let list = |backend: &dyn Backend| {
            let listed = Listing::of(backend, true);
            listed
                .map_err(|(folder, source)| Error::repository("list", &folder)(source))
                .map_err(Error::about(backend.place()))
        };
        let there = other.map(|other| list(&**other.backend())).transpose()?.unwrap_or_default();
        Ok(Self {
            repository,
            other,
            options,
            observer,
            copier: Copier {
                from: &**other.unwrap_or(repository).backend(),
                to: backend,
                session: Session::begin(),
                rate: None,
                read_rate: None,
                observer: &**observer,
                stop,
            },
            presence,
            here: list(backend)?,
            there,
            damaged: BTreeSet::new(),
            condemned: repository.condemned()?,
            sound: HashSet::new(),
            new_packs: HashSet::new(),
            relied: HashSet::new(),
            summary: HealSummary::default(),
        })
    }

    fn heal(mut self) -> Result<HealSummary> {
        self.survey()?;
        self.replace_damaged()?;
        self.take_over_records()?;
        self.take_over_keys()?;
        self.unmark()?;
        if self.repository.is_locked() {
            self.take_over(Folder::Packs)?;
            if !self.is_pruned_there()? {
                self.take_over(Folder::Index)?;
            }
        } else {
            self.heal_chunks()?;
        }
        self.take_over_snapshots()?;
        Ok(self.finish())
    }

    /// What needs keys: the packs, segments and chunks without which something here cannot be restored.
    fn heal_chunks(&mut self) -> Result<()> {
        self.fetch_named_packs()?;
        self.mark()?;
        let reader = |other: &Repository| other.reader().map_err(Error::about(other.backend().place()));
        let other = self.other.map(reader).transpose()?;
        let missing = self.missing(other.as_ref())?;
        self.fetch_packs_of(&missing, other.as_ref())?;
        self.fetch_segments()?;
        self.unmark()?;
        // As it is now, with the packs that were fetched.
        let reader = self.repository.reader()?;
        if self.is_writer_needed(&reader, &missing)? {
            let mut writer = self.writer(&reader)?;
            let lost = self.rescue(&missing, &reader, other.as_ref(), &writer)?;
            self.settle(&mut writer, lost.is_empty())?;
        }
        Ok(())
    }

    /// Makes durable what was written, and puts the index in order. What it says of packs that are gone stays as long as something of
    /// them is missed: it says what was in them.
    fn settle(&mut self, writer: &mut Writer, is_all_there: bool) -> Result<()> {
        writer.finish()?;
        if self.options.dry_run {
            return Ok(());
        }
        writer.remove_damaged_segments()?;
        let gone = self.gone_packs();
        if is_all_there && !gone.is_empty() {
            // Also those of which everything is elsewhere: the same segments may name them.
            writer.drop_packs(&self.repository.reader()?.index().absent_packs(), &|_| false)?;
            for file in gone {
                self.damaged.remove(&file);
                self.notice(&format!("{} is gone, and nothing of it is missed any more", file.name()));
            }
        }
        self.relied.extend(writer.used_packs());
        Ok(())
    }

    /// A writer for which damaged packs do not count; those that no segment covers it finds damaged itself.
    fn writer(&self, reader: &Reader) -> Result<Writer> {
        let uncovered = reader.index().uncovered_packs();
        let bad = self.bad_packs(reader);
        let condemned = bad.into_iter().filter(|pack| uncovered.binary_search(pack).is_err()).collect();
        let options = WriteOptions {
            compression: self.options.compression,
            pack_len: self.options.pack_len,
            cache_folder: self.options.cache_folder.clone(),
            dry_run: self.options.dry_run,
            condemned,
            ..WriteOptions::new(self.observer.clone())
        };
        self.repository.writer_until(&options, self.copier.stop)
    }

    /// Packs that are here and not to be relied on: those that were found damaged, and those that a record calls so and nobody has found whole.
    fn bad_packs(&self, reader: &Reader) -> HashSet<PackId> {
        let recorded = &reader.index().present().damaged;
        let mut bad: HashSet<PackId> = recorded.difference(&self.sound).copied().collect();
        bad.extend(self.damaged_packs());
        bad
    }

    fn damaged_packs(&self) -> impl Iterator<Item = PackId> {
        let packs = self.damaged.iter().filter(|file| file.folder == Folder::Packs);
        packs.map(|file| PackId::from_bytes(file.hash))
    }

    /// Packs that the index names and that are neither here nor to be had.
    fn gone_packs(&self) -> Vec<FileId> {
        let is_gone = |file: &&FileId| file.folder == Folder::Packs && !self.here.files.contains_key(*file);
        self.damaged.iter().filter(is_gone).copied().collect()
    }

    /// Whether somebody has to write the index anew, or chunks.
    fn is_writer_needed(&self, reader: &Reader, missing: &needed::Missing) -> Result<bool> {
        let is_index_damaged = self.damaged.iter().any(|file| file.folder == Folder::Index);
        let bad = self.bad_packs(reader);
        let is_uncovered = reader.index().uncovered_packs().iter().any(|pack| !bad.contains(pack));
        let is_out_of_order = is_uncovered || is_index_damaged || !reader.problems().is_empty();
        Ok(!missing.is_empty()? || is_out_of_order || !self.gone_packs().is_empty())
    }

    /// Whether records about this copy can be made.
    fn may_say_of_copy(&self) -> bool {
        let is_nameless = self.repository.problems().iter().any(|problem| problem.file() == Some("copy"));
        !is_nameless && !self.options.dry_run
    }

    /// Takes back what is recorded of packs that are whole.
    fn unmark(&mut self) -> Result<()> {
        if self.may_say_of_copy() && !self.repository.is_locked() {
            self.summary.unmarked.append(&mut self.repository.unmark_damaged(&self.sound)?);
        }
        Ok(())
    }

    /// Records the packs that stay damaged `[HEAL-5]`, so that nothing new relies on them and the next snapshot stores again what the source has.
    fn mark(&mut self) -> Result<()> {
        if !self.may_say_of_copy() {
            return Ok(());
        }
        let known = self.repository.damaged_packs()?;
        let is_here = |file: &&FileId| file.folder == Folder::Packs && self.here.files.contains_key(*file);
        let new = self.damaged.iter().filter(is_here).map(|file| PackId::from_bytes(file.hash));
        let new: Vec<PackId> = new.filter(|pack| !known.contains(pack)).collect();
        for pack in new {
            self.repository.mark_damaged(pack, "its bytes are not those it was written with".to_owned())?;
            self.summary.marked.push(pack);
        }
        Ok(())
    }

    fn finish(mut self) -> HealSummary {
        let damaged = std::mem::take(&mut self.damaged);
        for file in damaged {
            self.stays_damaged(&file);
        }
        if self.copier.to.folder_sync_is_weak() {
            self.notice(WEAK_FOLDER_SYNC);
        }
        self.summary
    }

    fn is_damaged_there(&mut self, name: &str, error: Error) {
        let error = Error::about(self.copier.from.place())(error);
        self.summary.damaged_there.insert(name.to_owned(), error);
    }

    fn stays_damaged(&mut self, file: &FileId) {
        let name = file.name();
        // Segments that were written again in its place.
        if file.folder == Folder::Index && self.copier.is_whole(file).unwrap_or(false) {
            return;
        }
        let is_gone = self.copier.to.open(&name).is_err_and(|e| e.kind() == std::io::ErrorKind::NotFound);
        if file.folder == Folder::Index && is_gone {
            return;
        }
        let error = if is_gone {
            Error::repository("read", &name)(std::io::ErrorKind::NotFound.into())
        } else {
            Error::damaged(&name)(crate::error::Corruption::WrongHash)
        };
        self.observer.event(&Event::Problem { path: Path::new(&name), error: &error });
        self.summary.damaged.push(name);
    }

    fn notice(&self, text: &str) {
        self.observer.event(&Event::Notice { path: Path::new(""), text });
    }

    /// Whether all these packs are here and stay: nobody who prunes is about to delete them.
    fn check_reliance(&mut self, packs: &[PackId]) -> Result<()> {
        if let Some(presence) = &mut self.presence {
            presence.rely(packs)?;
            self.repository.check_reliance(packs)?;
        }
        Ok(())
    }
}

/// The packs that have vanished or are about to, as an error.
fn pruned(pack: &PackId) -> Error {
    Error::PrunedMeanwhile { pack: pack_file_name(pack) }
}
