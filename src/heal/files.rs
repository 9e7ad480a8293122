//! Whole files from the other copy: those that are damaged here, and those that are missing and needed `[HEAL-2]`.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crate::backend::Backend;
use crate::error::{Corruption, Error, Result};
use crate::event::{Change, Event, Item, Observer};
use crate::heal::{HealOptions, HealSummary, Run, about_this, pruned};
use crate::id::{PackId, RecordId, SegmentId, SnapshotId};
use crate::index::{Index, Segment, is_deleted, is_vanished};
use crate::repository::{Repository, make_folders, read_config, read_copy, record_kind};
use crate::session::Session;
use crate::transfer::{Copier, FileId, Folder, check_apart, put_config};

/// Puts right what it takes to open a copy: `config`, and where it has key files, those. Of what it returns the files count: those that were
/// damaged or missing and are right now; in a dry run, of `config` only, which would be. Needs no key.
///
/// # Errors
/// - `OtherRepository`, `Nested`: it is no other copy of this repository.
/// - `NoRepository`, `Damaged`: nothing at the place says which repository it is, neither `config` nor `copy`; a `config` that was exchanged.
/// - `MediumMissing`: the two configs are whole and differ. Any error of the medium.
pub fn prepare(
    here: &Arc<dyn Backend>,
    other: &Arc<dyn Backend>,
    options: &HealOptions,
    observer: &Arc<dyn Observer>,
    stop: &AtomicBool,
) -> Result<HealSummary> {
    check_apart(here.place(), other.place())?;
    let there = Repository::open(other.clone()).map_err(Error::about(other.place()))?;
    let mut problems = Vec::new();
    // [CONF-5]
    if !there.config().is_encrypted() && has_keys(here)? {
        return Err(Error::damaged("config")(Corruption::KeysBesidePlain));
    }
    match read_config(&**here, &mut problems) {
        Ok((found, ..)) if found != there.id() => {
            return Err(Error::OtherRepository { expected: found, found: there.id() });
        }
        Ok(_) => {}
        // `copy` names the repository too.
        Err(error @ (Error::NoRepository { .. } | Error::Damaged { .. })) => {
            let mut nameless = Vec::new();
            read_copy(&**here, there.id(), &mut nameless)?;
            if !nameless.is_empty() {
                return Err(error);
            }
        }
        Err(error) => return Err(error),
    }
    let copier = Copier {
        from: &**other,
        to: &**here,
        session: Session::begin(),
        rate: None,
        read_rate: None,
        observer: &**observer,
        stop,
    };
    let is_missing =
        |name: &&str| here.open(name).is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound);
    let missing = ["config.2", "config"].into_iter().filter(is_missing).map(str::to_owned);
    let mut done = HealSummary { fetched: missing.collect(), ..HealSummary::default() };
    done.replaced = put_config(&copier, &there.config().encode(there.id()), options.dry_run)?;
    if options.dry_run {
        return Ok(done);
    }
    let mut found = keys_of(here, &there, options, observer, stop).map_err(about_this(here.place()))?;
    done.fetched.append(&mut found.fetched);
    done.replaced.append(&mut found.replaced);
    Ok(done)
}

/// Whether there are key files. A folder that cannot be listed may have some.
fn has_keys(here: &Arc<dyn Backend>) -> Result<bool> {
    match here.list("keys") {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(about_this(here.place())(Error::repository("list", "keys")(error))),
        Ok(keys) => Ok(keys.iter().any(|key| key.is_file)),
    }
}

/// Takes over the key files without which a copy cannot be opened.
fn keys_of(
    here: &Arc<dyn Backend>,
    there: &Repository,
    options: &HealOptions,
    observer: &Arc<dyn Observer>,
    stop: &AtomicBool,
) -> Result<HealSummary> {
    let repository = Repository::open(here.clone())?;
    repository.check_writable(repository.copy().copy)?;
    make_folders(&**here)?;
    let mut run = Run::new(&repository, Some(there), options, observer, stop)?;
    run.take_over_keys()?;
    Ok(run.summary)
}

impl Run<'_> {
    /// Replaces what is damaged here and whole there.
    pub(super) fn replace_damaged(&mut self) -> Result<()> {
        let damaged: Vec<FileId> =
            self.damaged.iter().filter(|file| self.there.files.contains_key(file)).copied().collect();
        if !damaged.is_empty() {
            self.plan("replacing files", &damaged);
        }
        for file in damaged {
            self.fetch(&file)?;
        }
        Ok(())
    }

    fn plan(&self, phase: &'static str, files: &[FileId]) {
        self.observer.event(&Event::Phase(phase));
        let bytes = files.iter().filter_map(|file| self.there.files.get(file)).sum();
        self.observer.event(&Event::Planned { items: files.len() as u64, bytes });
    }

    /// Takes a file over from the other copy, and says whether it is here and whole now. In a dry run, whether it would be.
    pub(super) fn fetch(&mut self, file: &FileId) -> Result<bool> {
        if file.folder == Folder::Packs && self.condemned.contains(&PackId::from_bytes(file.hash)) {
            return Ok(false);
        }
        let name = file.name();
        let copied = if self.options.dry_run { self.would_copy(file) } else { self.copier.copy(file) };
        let bytes = match copied {
            Ok(bytes) => bytes,
            Err(error) if is_deleted(self.copier.from, &error) => {
                return match file.folder {
                    Folder::Packs => Err(pruned(&PackId::from_bytes(file.hash))),
                    // Merged, removed: it is not wanted there any more.
                    _ => Ok(false),
                };
            }
            Err(error) if error.is_damage() => {
                self.is_damaged_there(&name, error);
                return Ok(false);
            }
            Err(error) => return Err(error),
        };
        let was_here = self.here.files.insert(*file, bytes).is_some();
        self.damaged.remove(file);
        if file.folder == Folder::Packs {
            let pack = PackId::from_bytes(file.hash);
            self.sound.insert(pack);
            self.new_packs.insert(pack);
        }
        let list = if was_here { &mut self.summary.replaced } else { &mut self.summary.fetched };
        list.push(name.clone());
        let change = if was_here { Change::Changed } else { Change::New };
        let (path, item) = (Path::new(&name), Item::RepositoryFile);
        self.observer.event(&Event::Done { path, item, change, bytes });
        Ok(true)
    }

    /// Reads a file there and hashes it, as copying it would.
    fn would_copy(&self, file: &FileId) -> Result<u64> {
        let name = file.name();
        let reading = self.reading();
        if reading.is_whole(file)? {
            Ok(self.there.files.get(file).copied().unwrap_or(0))
        } else {
            Err(Error::damaged(&name)(Corruption::WrongHash))
        }
    }

    fn reading(&self) -> Copier<'_> {
        Copier {
            from: self.copier.from,
            to: self.copier.from,
            session: Session::begin(),
            rate: None,
            read_rate: None,
            observer: self.copier.observer,
            stop: self.copier.stop,
        }
    }

    /// The files of a folder that only the other copy has.
    fn only_there(&self, folder: Folder) -> Vec<FileId> {
        let is_only_there = |file: &&FileId| file.folder == folder && !self.here.files.contains_key(*file);
        self.there.files.keys().filter(is_only_there).copied().collect()
    }

    /// Takes over all of a folder: without the keys nobody can say what of it is needed.
    pub(super) fn take_over(&mut self, folder: Folder) -> Result<()> {
        let files = self.only_there(folder);
        self.plan("fetching files", &files);
        for file in files {
            self.fetch(&file)?;
        }
        Ok(())
    }

    /// Whether packs were deleted in the other copy that segments there may name yet, and that are not here. Without the keys nobody can say
    /// which segments: here these packs would be missed.
    pub(super) fn is_pruned_there(&self) -> Result<bool> {
        let Some(other) = self.other else { return Ok(false) };
        let is_here = |pack: &PackId| {
            self.here.files.contains_key(&FileId { folder: Folder::Packs, hash: *pack.as_bytes() })
        };
        match other.condemned() {
            Ok(condemned) => Ok(!condemned.iter().all(is_here)),
            // Nobody can say of which packs it speaks.
            Err(error) if error.is_damage() => Ok(true),
            Err(error) => Err(Error::about(other.backend().place())(error)),
        }
    }

    /// Takes over what was said. Where the keys are known, only what someone said who has them.
    pub(super) fn take_over_records(&mut self) -> Result<()> {
        let Some(other) = self.other else { return Ok(()) };
        let missing: HashSet<[u8; 32]> =
            self.only_there(Folder::Records).iter().map(|file| file.hash).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let sound = other.readable_statements().map_err(Error::about(other.backend().place()))?;
        let sound: Vec<RecordId> =
            sound.into_iter().map(|(id, _)| id).filter(|id| missing.contains(id.as_bytes())).collect();
        for id in sound {
            self.fetch(&FileId { folder: Folder::Records, hash: *id.as_bytes() })?;
        }
        Ok(())
    }

    /// Takes over key files that are damaged or missing here, but none that was removed.
    pub(super) fn take_over_keys(&mut self) -> Result<()> {
        let Some(other) = self.other else { return Ok(()) };
        let copy = self.repository.copy().copy;
        let mut removed = self.repository.stated(record_kind::KEY_REMOVED, copy)?;
        removed.extend(
            other.stated(record_kind::KEY_REMOVED, copy).map_err(Error::about(other.backend().place()))?,
        );
        let keys = self.there.files.keys().filter(|file| file.folder == Folder::Keys);
        let keys: Vec<FileId> = keys.filter(|file| !removed.contains(&file.hash)).copied().collect();
        for file in keys {
            if !self.here.files.contains_key(&file) || !self.copier.is_whole(&file)? {
                self.fetch(&file)?;
            }
        }
        Ok(())
    }

    /// Fetches the packs that the index here names and that are not here, if something in them is nowhere else.
    pub(super) fn fetch_named_packs(&mut self) -> Result<()> {
        let mut files = Vec::new();
        let reader = self.repository.reader()?;
        let replaced = self.segments_in_place_of(reader.index())?;
        for problem in reader.index().unfit_packs_with(&replaced)? {
            let name = problem.file().and_then(|file| file.rsplit('/').next());
            let Some(pack) = name.and_then(PackId::from_hex) else { continue };
            // In a dry run those that would be replaced are still what they were.
            if !self.new_packs.contains(&pack) && !self.condemned.contains(&pack) {
                files.push(FileId { folder: Folder::Packs, hash: *pack.as_bytes() });
            }
        }
        drop((reader, replaced));
        files.sort_unstable();
        self.plan("fetching packs", &files);
        for file in files {
            let is_there = self.there.files.contains_key(&file);
            if !is_there || !self.fetch(&file)? {
                self.damaged.insert(file);
            }
        }
        Ok(())
    }

    /// In a dry run, what would be in place of the damaged segments of the index here.
    fn segments_in_place_of(&self, index: &Index) -> Result<Vec<Segment>> {
        let Some(other) = self.other.filter(|_| self.options.dry_run) else { return Ok(Vec::new()) };
        let mut opened = Vec::new();
        for id in index.damaged_segments() {
            match Segment::open(other.backend(), id, other.keys()) {
                // It has it as little.
                Err(error) if error.is_damage() || is_vanished(&error) => {}
                segment => opened.push(segment?),
            }
        }
        Ok(opened)
    }

    /// Fetches the segments about packs that are here and in no segment here, if these name nothing that is not here.
    pub(super) fn fetch_segments(&mut self) -> Result<()> {
        let Some(other) = self.other else { return Ok(()) };
        let reader = self.repository.reader()?;
        let mut uncovered: HashSet<PackId> = reader.index().uncovered_packs().iter().copied().collect();
        let present = &reader.index().present().packs;
        for file in self.only_there(Folder::Index) {
            if uncovered.is_empty() {
                break;
            }
            let id = SegmentId::from_bytes(file.hash);
            let segment = match Segment::open(other.backend(), id, other.keys()) {
                Ok(segment) => segment,
                Err(error) if error.is_damage() => continue,
                Err(error) => return Err(Error::about(other.backend().place())(error)),
            };
            let rows = segment.packs();
            let is_here = |pack: &PackId, len: u32| present.get(pack) == Some(&u64::from(len));
            let fits = rows.iter().all(|row| is_here(&row.pack, row.stored_len))
                && rows.iter().any(|row| uncovered.contains(&row.pack));
            if !fits {
                continue;
            }
            // Before a segment names them here [PRUNE-2].
            self.check_reliance(&rows.iter().map(|row| row.pack).collect::<Vec<_>>())?;
            if self.fetch(&file)? {
                for row in rows {
                    uncovered.remove(&row.pack);
                }
            }
        }
        Ok(())
    }

    /// Takes over the snapshots that are missing and not forgotten, now that all they need is here `[HEAL-3]`.
    pub(super) fn take_over_snapshots(&mut self) -> Result<()> {
        let files = self.snapshots_to_come()?;
        let mut packs: Vec<PackId> = self.new_packs.iter().copied().collect();
        if !files.is_empty() && self.repository.is_locked() {
            let is_here = |file: &&FileId| self.here.files.contains_key(*file);
            let shared = self.there.files.keys().filter(|file| file.folder == Folder::Packs).filter(is_here);
            packs.extend(shared.map(|file| PackId::from_bytes(file.hash)));
        } else if !files.is_empty() {
            packs.extend(&self.relied);
        }
        if files.is_empty() && packs.is_empty() || self.options.dry_run {
            return files.iter().try_for_each(|file| self.fetch(file).map(|_| ()));
        }
        packs.sort_unstable();
        packs.dedup();
        self.check_reliance(&packs)?;
        for file in &files {
            self.fetch(file)?;
        }
        // Somebody has declared this run ended, so that nobody heeds it any more.
        match &self.presence {
            Some(presence) if !presence.is_heard()? => self.repository.check_reliance(&packs),
            _ => Ok(()),
        }
    }

    /// The snapshots that only the other copy has, that are not known to be damaged there, and that no record calls forgotten.
    pub(super) fn snapshots_to_come(&self) -> Result<Vec<FileId>> {
        let forgotten = self.repository.forgotten()?;
        let mut files = self.only_there(Folder::Snapshots);
        files.retain(|file| {
            !forgotten.contains(&SnapshotId::from_bytes(file.hash))
                && !self.summary.damaged_there.contains_key(&file.name())
        });
        Ok(files)
    }
}
