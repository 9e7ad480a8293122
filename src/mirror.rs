//! A further copy of a repository on another medium, file by file identical but for `copy`: made with `--new` once, refreshed after.
//!
//! - The place is believed only if it says that it is a copy of this repository. An unmounted drive is an empty folder: without
//!   `new`, nothing is written into one.
//! - Snapshots are listed first and copied last, and nothing is copied that was not listed at the start `[DUR-13]`. So at any moment each
//!   snapshot on the mirror has there what the repository had of it.
//! - A file is there if it is listed with the right length; with `verify`, if its bytes also hash right. It is hashed while
//!   it is copied, and read back from the medium before it gets its name `[DUR-14]`.
//! - Nothing is deleted on a mirror because the repository lacks it `[DUR-15]`; only redundant small segments are (`spare`). A file is
//!   replaced there only by one whose bytes are right.
//! - A file that is damaged in the repository is not copied, and the snapshots are copied all the same: what does not need that
//!   file has to come back from the mirror too. The summary names the file, and the program ends as one that found damage.
//!
//! A repository with a feature that this program does not know is not mirrored: `[REPO-2]` forbids to write to the copy.
//!
//! `place` looks what is there, `establish` makes it a repository, `crate::transfer` lists and copies, `memory` is what this host remembers about the copy.

mod establish;
mod keys;
mod lost;
mod memory;
mod place;
mod relying;
mod segments;
mod spare;
mod wanted;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crate::backend::{Backend, WEAK_FOLDER_SYNC};
use crate::error::{Error, Result};
use crate::event::{Change, Event, Item, Observer};
use crate::id::{CopyId, SnapshotId};
use crate::index::{is_deleted, is_vanished};
use crate::rate::RateLimit;
use crate::repository::{CopyInfo, PRUNE_TRIES, Repository, clean_up};
use crate::session::Session;
use crate::snapshot::Time;
use crate::transfer::{Copier, FileId, Folder, Listing, check_apart};

use establish::{establish, refuse_unknown};
use memory::Memory;
pub use memory::remember_pruned;
use place::Found;
use relying::Relying;
use segments::Lacking;
use wanted::Wanted;

/// How to mirror.
#[derive(Debug, Clone, Default)]
pub struct MirrorOptions {
    /// The place is a new one, to become a copy of its own. It must be empty; what an interrupted `new` left is taken over.
    pub new: bool,
    /// The name of a new copy, or empty.
    pub name: String,
    /// Read every file that is on the mirror already, and replace those that are not right.
    pub verify: bool,
    /// At most so many bytes per second are written.
    pub write_rate: Option<u64>,
    /// At most so many bytes per second are read of what is on the mirror already.
    pub read_rate: Option<u64>,
    /// The folder where this host remembers what it saw of copies, if it may.
    pub state_folder: Option<PathBuf>,
    /// A folder for files that are gone when the run is; without it, what the mirror has forgotten is not told from the rest.
    pub scratch: Option<PathBuf>,
}

/// One of the two copies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// What is mirrored.
    Repository,
    /// Where it is mirrored to.
    Mirror,
}

/// A file that is damaged, and stays so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DamagedFile {
    /// Its name in the repository.
    pub file: String,
    /// Where it is damaged.
    pub side: Side,
    /// Whether the other copy holds it whole.
    pub whole_on_other_side: bool,
}

/// What became of it.
#[derive(Debug)]
pub struct MirrorSummary {
    /// The id of the mirror's copy.
    pub copy: CopyId,
    /// Its name, or empty.
    pub name: String,
    /// Files copied.
    pub files_copied: u64,
    /// Their bytes.
    pub bytes_copied: u64,
    /// Files that were there already.
    pub files_present: u64,
    /// Files that had another length or, found with `verify`, other bytes on the mirror, and now are right. Not empty: the medium
    /// does not keep what it is given.
    pub replaced: Vec<String>,
    /// Files that are damaged. Not empty: the mirror is not what it should be, though all else is on it.
    pub damaged: Vec<DamagedFile>,
    /// Names of no kind that the format has, on either side: neither copied nor touched.
    pub unknown_names: Vec<PathBuf>,
    /// Segments that were removed from the mirror, because others there say the same.
    pub segments_removed: u64,
    /// Snapshots that are on the mirror only: they are kept.
    pub extra_snapshots: Vec<SnapshotId>,
    /// Packs that are on the mirror only: they are kept.
    pub extra_packs: u64,
    /// The newest snapshot that this host had seen on the copy, if it is gone: an older copy was put in the place.
    pub older_than: Option<SnapshotId>,
    /// When this host last refreshed the copy, as far as it remembers.
    pub last_refreshed: Option<Time>,
}

/// Brings the mirror at `destination` up to `repository`. On return all that was copied is durable there.
///
/// # Errors
/// - `MediumMissing`, `OtherRepository`, `NotEmpty`, `BeingMade`, `Nested`: it is not the place for this mirror; nothing was written.
/// - `Path` of a file on the mirror: the medium is full, failed, or gave back other bytes than were written. Repeat it to go on.
/// - `UnknownFeature`, `UnknownRecord`; `Interrupted`; any error of the repository but damage to single files.
/// - `PrunedMeanwhile`: somebody prunes one of the two again and again.
pub fn mirror(
    repository: &Repository,
    destination: &Arc<dyn Backend>,
    options: &MirrorOptions,
    observer: &dyn Observer,
    stop: &AtomicBool,
) -> Result<MirrorSummary> {
    for _ in 1..PRUNE_TRIES {
        match refresh(repository, destination, options, observer, stop) {
            // What is listed now is another thing.
            Err(error @ Error::PrunedMeanwhile { .. }) => {
                observer.event(&Event::Notice { path: Path::new(""), text: &error.to_string() });
            }
            other => return other,
        }
    }
    refresh(repository, destination, options, observer, stop)
}

/// Brings the mirror up to the repository as it is listed now.
fn refresh(
    repository: &Repository,
    destination: &Arc<dyn Backend>,
    options: &MirrorOptions,
    observer: &dyn Observer,
    stop: &AtomicBool,
) -> Result<MirrorSummary> {
    check_apart(repository.backend().place(), destination.place())?;
    observer.event(&Event::Phase("looking at the mirror"));
    let found = place::look(&**destination, repository.id())?;
    let (copy, is_new) = accept(repository, destination, found, options, observer)?;
    repository.check_writable(copy.copy)?;
    let copier = Copier {
        from: &**repository.backend(),
        to: &**destination,
        session: Session::begin(),
        rate: options.write_rate.map(RateLimit::new),
        read_rate: options.read_rate.map(RateLimit::new),
        observer,
        stop,
    };
    let refreshed =
        Refresh::begin(repository, destination, &copier, options, (&copy, is_new)).and_then(|mut refresh| {
            refresh.copy_all()?;
            refresh.say_lost_packs()?;
            refresh.verify_extra()?;
            refresh.remove_spare_segments()?;
            refresh.remove_keys()?;
            Ok(refresh.finish())
        });
    refreshed.map_err(Error::about(repository.backend().place())).map_err(|error| match error {
        // A drive that is pulled out says all kinds of things: what counts is whether it is still there.
        Error::Path { ref source, .. }
            if !error.is_no_space() && !place::is_still(&**destination, repository.id(), copy.copy) =>
        {
            let reason = format!("it went away meanwhile: {error}: {source}");
            Error::MediumMissing { path: destination.place().to_owned(), reason }
        }
        other => other,
    })
}

/// Decides whether what was found is the place for this mirror; and whether it is still to become one.
fn accept(
    repository: &Repository,
    destination: &Arc<dyn Backend>,
    found: Found,
    options: &MirrorOptions,
    observer: &dyn Observer,
) -> Result<(CopyInfo, bool)> {
    let path = destination.place().to_owned();
    let missing = |reason: &str| Error::MediumMissing { path: path.clone(), reason: reason.into() };
    match found {
        Found::Mirror(copy) if copy.copy == repository.copy().copy => Err(missing(
            "it has the copy id of the repository: it is the repository, or its folder was copied by other means",
        )),
        Found::Mirror(copy) => {
            if options.new {
                let text = "it is a mirror of this repository already, and is refreshed";
                observer.event(&Event::Notice { path: &path, text });
            }
            Ok((copy, false))
        }
        Found::Free(_) if options.new => Ok((CopyInfo::new(&options.name), true)),
        Found::Nameless(_) if options.new => {
            let mut nameless =
                Repository::open(destination.clone()).map_err(Error::about(destination.place()))?;
            nameless.unlock_like(repository).map_err(Error::about(destination.place()))?;
            let renewed = nameless.renew_copy(&options.name).map_err(Error::about(destination.place()))?;
            renewed.map(|renewed| (renewed.copy, false)).ok_or_else(|| missing("it changes meanwhile"))
        }
        Found::Nameless(why) => Err(missing(&format!(
            "its file `copy` is missing or damaged ({why}): `mirror --new` gives it a new one"
        ))),
        Found::Other(_) | Found::Foreign(_) if options.new => Err(Error::NotEmpty { path }),
        Found::Other(found) => Err(Error::OtherRepository { expected: repository.id(), found }),
        Found::Free(reason) | Found::Foreign(reason) => Err(missing(reason)),
    }
}

/// A refresh under way.
struct Refresh<'a> {
    repository: &'a Repository,
    mirror: Arc<Repository>,
    copier: &'a Copier<'a>,
    options: &'a MirrorOptions,
    here: Listing,
    there: Listing,
    doubted: Vec<FileId>,
    memory: Option<Memory>,
    wanted: Wanted,
    /// Once all packs are copied.
    lacking: Option<Lacking>,
    summary: MirrorSummary,
}

impl<'a> Refresh<'a> {
    /// Lists both sides, and makes the place a repository if it is new. The repository is listed before anything else.
    fn begin(
        repository: &'a Repository,
        destination: &Arc<dyn Backend>,
        copier: &'a Copier<'a>,
        options: &'a MirrorOptions,
        (copy, is_new): (&CopyInfo, bool),
    ) -> Result<Self> {
        let here = Listing::of(copier.from, true)
            .map_err(|(folder, source)| Error::repository("list", &folder)(source))?;
        let about_mirror = Error::about(destination.place());
        if !is_new {
            refuse_unknown(destination, copy.copy).map_err(&about_mirror)?;
        }
        let (there, mended) = establish(repository, copier, copy, is_new)?;
        let mut mirror = Repository::open(destination.clone()).map_err(&about_mirror)?;
        mirror.unlock_like(repository).map_err(&about_mirror)?;
        clean_up(copier.to).map_err(|error| relying::on_mirror(copier.to.place(), error))?;
        // A record says that they are damaged there: a listing is not enough.
        let doubted = mirror.damaged_packs().map_err(&about_mirror)?.into_iter();
        let doubted = doubted.map(|pack| FileId { folder: Folder::Packs, hash: *pack.as_bytes() }).collect();
        let state = options.state_folder.as_deref();
        let memory = state.and_then(|folder| Memory::recall(folder, repository.id(), copy.copy));
        let summary = MirrorSummary {
            copy: copy.copy,
            name: copy.name.clone(),
            files_copied: 0,
            bytes_copied: 0,
            files_present: 0,
            replaced: mended,
            damaged: Vec::new(),
            unknown_names: Vec::new(),
            segments_removed: 0,
            extra_snapshots: Vec::new(),
            extra_packs: 0,
            older_than: None,
            last_refreshed: memory.map(|memory| memory.refreshed),
        };
        let mended = summary.replaced.clone();
        let mut refresh = Self {
            repository,
            mirror: Arc::new(mirror),
            copier,
            options,
            here,
            there,
            doubted,
            memory,
            wanted: Wanted::default(),
            lacking: None,
            summary,
        };
        for name in &mended {
            refresh.mended(name);
        }
        let (both, listings) = ((repository, &*refresh.mirror), (&refresh.here, &refresh.there));
        refresh.wanted = Wanted::find(both, listings, options.scratch.as_deref(), copier.stop)?;
        refresh.compare();
        Ok(refresh)
    }

    /// Says what is on the mirror beyond or short of what is expected.
    fn compare(&mut self) {
        let extra = |file: &&FileId| !self.here.files.contains_key(*file);
        let extra: Vec<FileId> = self.there.files.keys().filter(extra).copied().collect();
        let snapshots = extra.iter().filter(|file| file.folder == Folder::Snapshots);
        let snapshots = snapshots.map(|file| SnapshotId::from_bytes(file.hash));
        self.summary.extra_snapshots = snapshots.filter(|id| !self.wanted.forgotten.contains(id)).collect();
        if self.wanted.left_out > 0 {
            self.notice(&format!(
                "forgotten on the mirror, and not copied: snapshots: {}",
                self.wanted.left_out
            ));
        }
        self.summary.extra_packs = extra.iter().filter(|file| file.folder == Folder::Packs).count() as u64;
        if !self.summary.extra_snapshots.is_empty() {
            let count = self.summary.extra_snapshots.len();
            self.notice(&format!("snapshots that are only on the mirror are kept there: {count}"));
        }
        let (from, to) = (self.copier.from.place(), self.copier.to.place());
        let here = self.here.unknown.iter().map(|name| from.join(name));
        self.summary.unknown_names =
            here.chain(self.there.unknown.iter().map(|name| to.join(name))).collect();
        let Some(memory) = self.memory else { return };
        let is_gone = |newest: &SnapshotId| {
            !self.there.has(Folder::Snapshots, newest.as_bytes()) && !self.wanted.forgotten.contains(newest)
        };
        if let Some(newest) = memory.newest.filter(is_gone) {
            self.summary.older_than = Some(newest);
            self.notice(&format!(
                "an older copy was put in the place of the mirror: snapshot {newest} was there and is gone"
            ));
        }
        let gone = memory.packs.saturating_sub(self.there.pack_count());
        if gone > 0 {
            self.notice(&format!("packs that were on the mirror and are gone: {gone}"));
        }
    }

    /// Copies what is missing or not right on the mirror, in the order of the listing.
    fn copy_all(&mut self) -> Result<()> {
        let here = std::mem::take(&mut self.here);
        let is_todo = |file: &FileId, len: &u64| {
            self.is_to_be_there(file)
                && (self.there.files.get(file) != Some(len) || self.is_to_be_verified(file))
        };
        let todo = here.files.iter().filter(|(file, len)| is_todo(file, len));
        let (items, bytes) = todo.fold((0, 0), |(items, bytes), (_, len)| (items + 1, bytes + len));
        self.copier.observer.event(&Event::Phase("copying"));
        self.copier.observer.event(&Event::Planned { items, bytes });
        let mut relying = if items > 0 { Some(Relying::begin(self.mirror.clone())?) } else { None };
        for (file, len) in &here.files {
            if let Some(relying) = relying.as_mut().filter(|_| file.folder >= Folder::Index) {
                relying.rely(&here, &self.there, self.wanted.is_selective())?;
            }
            if !self.is_to_be_there(file) {
                continue;
            }
            let listed = self.there.files.get(file).copied();
            let is_new_segment = file.folder == Folder::Index && listed.is_none();
            if is_new_segment && !self.takes_segment(file)? {
                continue;
            }
            if listed == Some(*len) && (!self.is_to_be_verified(file) || self.copier.is_whole(file)?) {
                self.summary.files_present += 1;
            } else {
                self.copy_one(file, listed.is_some())?;
            }
        }
        relying.map_or(Ok(()), Relying::end)?;
        self.here = here;
        Ok(())
    }

    /// Whether the mirror has a file, or is to have it.
    fn is_to_be_there(&self, file: &FileId) -> bool {
        self.there.files.contains_key(file) || self.wanted.takes(file)
    }

    fn is_to_be_verified(&self, file: &FileId) -> bool {
        self.options.verify || self.doubted.contains(file)
    }

    fn copy_one(&mut self, file: &FileId, is_there: bool) -> Result<()> {
        let name = file.name();
        match self.copier.copy(file) {
            Ok(bytes) => {
                self.summary.files_copied += 1;
                self.summary.bytes_copied += bytes;
                let change = if is_there { Change::Changed } else { Change::New };
                if is_there {
                    self.mended(&name);
                    self.summary.replaced.push(name.clone());
                }
                let (path, item) = (Path::new(&name), Item::RepositoryFile);
                self.copier.observer.event(&Event::Published { file: &name, len: bytes });
                self.copier.observer.event(&Event::Done { path, item, change, bytes });
                self.there.files.insert(*file, bytes);
                Ok(())
            }
            // Small segments are merged and deleted at any time; the packs have all that is in them.
            Err(error) if file.folder == Folder::Index && is_vanished(&error) => Ok(()),
            // Pruned: what is needed of a pack lies in others now, that were not listed.
            Err(error) if is_deleted(self.copier.from, &error) => Err(Error::PrunedMeanwhile { pack: name }),
            Err(error) if error.is_damage() => {
                let whole_on_other_side = is_there && self.copier.is_whole(file)?;
                let path = self.copier.from.place().join(&name);
                self.copier.observer.event(&Event::Problem { path: &path, error: &error });
                let side = Side::Repository;
                self.summary.damaged.push(DamagedFile { file: name, side, whole_on_other_side });
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Verifies what is on the mirror only.
    fn verify_extra(&mut self) -> Result<()> {
        let extra = |file: &&FileId| !self.here.files.contains_key(*file) && self.is_to_be_verified(file);
        let extra: Vec<FileId> = self.there.files.keys().filter(extra).copied().collect();
        for file in extra {
            if self.copier.is_whole(&file)? {
                continue;
            }
            let error = Error::damaged(&file.name())(crate::error::Corruption::WrongHash);
            self.damaged_there(file, &error);
        }
        Ok(())
    }

    fn finish(mut self) -> MirrorSummary {
        for problem in self.repository.problems() {
            let (Error::Damaged { file, .. } | Error::Repository { file, .. }) = problem else { continue };
            // The others were met while copying.
            if !file.contains('/') {
                let path = self.copier.from.place().join(file);
                self.copier.observer.event(&Event::Problem { path: &path, error: problem });
                let damaged = DamagedFile {
                    file: file.clone(),
                    side: Side::Repository,
                    whole_on_other_side: file != "copy",
                };
                self.summary.damaged.push(damaged);
            }
        }
        if self.copier.to.folder_sync_is_weak() {
            self.notice(WEAK_FOLDER_SYNC);
        }
        if let Some(folder) = &self.options.state_folder
            && let Err(error) = self.remember(folder)
        {
            self.notice(&format!("what was seen of the mirror is not remembered: {error}"));
        }
        self.summary
    }

    fn remember(&self, folder: &Path) -> Result<()> {
        // Without the keys nobody can say which began last; what was known of it still holds if it is still there.
        let known = self.memory.and_then(|memory| memory.newest);
        let known = known.filter(|newest| self.there.snapshots().any(|id| id == *newest));
        let newest = self.newest().or(known);
        let mut memory = Memory::new(self.repository.id(), newest, self.there.pack_count());
        memory.verified = if self.options.verify && self.summary.damaged.is_empty() {
            Some(memory.refreshed)
        } else {
            self.memory.and_then(|memory| memory.verified)
        };
        memory.keep(folder, self.summary.copy)
    }

    /// The snapshot on the mirror that began last.
    fn newest(&self) -> Option<SnapshotId> {
        let read = |id: &SnapshotId| match self.repository.snapshot(id) {
            Ok(snapshot) => Some(snapshot),
            Err(_) => self.mirror.snapshot(id).ok(),
        };
        self.there.snapshots().filter_map(|id| Some((read(&id)?.start, id))).max().map(|(_, id)| id)
    }

    fn mended(&self, name: &str) {
        self.notice(&format!("{name} was damaged on the mirror and is replaced"));
    }

    fn notice(&self, text: &str) {
        self.copier.observer.event(&Event::Notice { path: self.copier.to.place(), text });
    }
}
