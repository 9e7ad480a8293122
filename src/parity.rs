//! Parity of the packs of one copy: made, read, used and dropped at any time, and no part of what a mirror takes over. `spec/format.md` §13.
//!
//! - No parity is made of a pack that is damaged: it would keep the damage.
//! - A pack that was mended is written beside the damaged one and read back; it has the hash that is its name before it takes its place
//!   `[PAR-5]`.
//! - Who deletes a pack deletes its parity before and after, and who makes parity looks afterwards whether the pack is still there: so no
//!   parity is left of what was pruned `[PAR-6]`.
//!
//! No key is needed. Packs that come later have no parity until it is added again.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::backend::Backend;
use crate::error::{Corruption, Error, Result};
use crate::event::{Change, Event, Item, Observer};
use crate::id::PackId;
use crate::index::is_vanished;
use crate::pack::pack_file_name;
use crate::repository::{Repository, clean_up};
use crate::session::Session;
use crate::sidecar::{self, Mending, Shape, Sidecar, sidecar_name};

/// How much parity is made, and of what.
#[derive(Debug, Clone, Default)]
pub struct AddOptions {
    /// Recovery shards of so many of a hundred bytes of each pack, 1 to 100.
    pub percent: u32,
    /// Only of these packs, whether they have some or not; of all that have none as strong if there are none here.
    pub packs: Vec<PackId>,
    /// Read all parity that is there too, and make it anew where it is damaged.
    pub verify: bool,
    /// Only say what would be done.
    pub dry_run: bool,
}

/// What became of packs when parity was added.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AddSummary {
    /// Packs that got parity.
    pub added: u64,
    /// The bytes of it.
    pub added_bytes: u64,
    /// Packs that had it.
    pub present: u64,
    /// Packs that are damaged, and got none.
    pub damaged: u64,
}

/// What parity there is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ParityReport {
    /// Packs that have parity.
    pub packs: u64,
    /// Its bytes.
    pub bytes: u64,
    /// Packs that have none.
    pub without: u64,
    /// Files of parity whose pack is gone.
    pub orphans: u64,
    /// Files of parity that are damaged.
    pub damaged: u64,
}

/// What became of packs that were read to be mended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RepairSummary {
    /// Packs that are whole.
    pub whole: u64,
    /// Packs that were damaged or gone and are whole now, or would be.
    pub mended: u64,
    /// The bytes of them that were damaged, in shards.
    pub mended_bytes: u64,
    /// Packs that stay damaged, because their parity is not enough, or is damaged itself.
    pub beyond: u64,
    /// Packs that have no parity, and were not read.
    pub without: u64,
}

/// Makes parity of packs. Those that are damaged get none: each is sent to `observer` as a `Problem`. What was made before an interruption stays.
///
/// # Errors
/// `Usage` for an impossible percentage; `NotFound` for a pack that is named and not there; a feature or record that forbids writing; `Parity`;
/// `Interrupted`; any error of the medium.
pub fn add(
    repository: &Repository,
    options: &AddOptions,
    observer: &dyn Observer,
    stop: &AtomicBool,
) -> Result<AddSummary> {
    if !(1..=100).contains(&options.percent) {
        return Err(Error::Usage("parity is 1 to 100 percent of a pack".to_owned()));
    }
    let run = Run::begin(repository, observer, stop, options.dry_run)?;
    // Marks before packs.
    let condemned = repository.condemned()?;
    let mut packs: BTreeMap<PackId, u64> = repository.listed_packs()?.into_iter().collect();
    if options.packs.is_empty() {
        packs.retain(|pack, _| !condemned.contains(pack));
    } else {
        let missing = options.packs.iter().find(|pack| !packs.contains_key(*pack));
        if let Some(pack) = missing {
            return Err(Error::NotFound { what: format!("pack {pack}") });
        }
        packs.retain(|pack, _| options.packs.contains(pack));
    }
    let summary = Mutex::new(AddSummary::default());
    observer.event(&Event::Phase("making parity"));
    run.each(&packs, |pack, len| {
        let change = run.add(pack, len, options)?;
        if let Ok(mut summary) = summary.lock() {
            summary.added += change.added;
            summary.added_bytes += change.added_bytes;
            summary.present += change.present;
            summary.damaged += change.damaged;
        }
        Ok(())
    })?;
    summary.into_inner().map_err(|_| Error::Thread("making parity"))
}

/// Removes the parity of these packs, of all if there are none. Returns how many files that were, or would be, and their bytes.
///
/// # Errors
/// `NotFound` for a pack that is named and has none; a feature or record that forbids writing; any error of the medium.
pub fn remove(repository: &Repository, packs: &[PackId], dry_run: bool) -> Result<(u64, u64)> {
    repository.check_writable(repository.copy().copy)?;
    let backend = &**repository.backend();
    let mut sidecars = sidecar::list(backend)?;
    if let Some(pack) = packs.iter().find(|pack| !sidecars.contains_key(*pack)) {
        return Err(Error::NotFound { what: format!("parity of pack {pack}") });
    }
    sidecars.retain(|pack, _| packs.is_empty() || packs.contains(pack));
    if !dry_run {
        sidecars.keys().try_for_each(|pack| remove_sidecar(backend, pack))?;
    }
    Ok((sidecars.len() as u64, sidecars.values().sum()))
}

/// Reads all parity. What is damaged is sent to `observer` as a `Problem`, and is in the report.
///
/// # Errors
/// `Interrupted`; any error of the medium that is no damage.
pub fn verify(repository: &Repository, observer: &dyn Observer, stop: &AtomicBool) -> Result<ParityReport> {
    let run = Run { repository, observer, stop, session: Session::begin() };
    let sidecars = sidecar::list(&**repository.backend())?;
    let mut report = report(repository, &sidecars)?;
    let damaged = AtomicUsize::new(0);
    observer.event(&Event::Phase("reading parity"));
    run.each(&sidecars, |pack, _| {
        let opened = Sidecar::open(&**repository.backend(), repository.id(), pack);
        let faults = match opened.and_then(|sidecar| sidecar.verify(&mut |bytes| run.advance(bytes))) {
            Err(error) if is_vanished(&error) => Vec::new(),
            Err(error) if error.is_damage() => vec![error],
            other => other?,
        };
        damaged.fetch_add(usize::from(!faults.is_empty()), Ordering::Relaxed);
        for error in &faults {
            run.problem(&sidecar_name(&pack), error);
        }
        Ok(())
    })?;
    report.damaged = damaged.into_inner() as u64;
    Ok(report)
}

/// What parity there is, without reading it.
///
/// # Errors
/// Any error of the medium.
pub fn listed(repository: &Repository) -> Result<ParityReport> {
    report(repository, &sidecar::list(&**repository.backend())?)
}

/// Reads packs that have parity, these or all of them, and mends those that are damaged, cut off or gone. Those that cannot be mended are sent to
/// `observer` as a `Problem`, and stay as they are. With `dry_run` it is only said what could be mended.
///
/// # Errors
/// `NotFound` for a pack that is named and has no parity; a feature or record that forbids writing; `Interrupted`; any error of the medium that
/// is no damage.
pub fn repair(
    repository: &Repository,
    packs: &[PackId],
    dry_run: bool,
    observer: &dyn Observer,
    stop: &AtomicBool,
) -> Result<RepairSummary> {
    let run = Run::begin(repository, observer, stop, dry_run)?;
    let mut sidecars = sidecar::list(&**repository.backend())?;
    let without = report(repository, &sidecars)?.without;
    if let Some(pack) = packs.iter().find(|pack| !sidecars.contains_key(*pack)) {
        return Err(Error::NotFound { what: format!("parity of pack {pack}") });
    }
    sidecars.retain(|pack, _| packs.is_empty() || packs.contains(pack));
    let summary = Mutex::new(RepairSummary { without, ..RepairSummary::default() });
    observer.event(&Event::Phase("reading packs"));
    run.each(&sidecars, |pack, _| {
        let mended = run.repair(pack, dry_run)?;
        if let Ok(mut summary) = summary.lock() {
            match mended {
                Some(Mending::Whole) => summary.whole += 1,
                Some(Mending::Mended { bytes, .. }) => {
                    summary.mended += 1;
                    summary.mended_bytes += bytes;
                }
                Some(Mending::Beyond { .. }) | None => summary.beyond += 1,
            }
        }
        Ok(())
    })?;
    summary.into_inner().map_err(|_| Error::Thread("mending packs"))
}

/// Mends one pack by its parity, if it has some: durable on return, and verified by its id. Nothing is changed but if that succeeds.
///
/// # Errors
/// A feature or record that forbids writing; damage to the parity that makes it useless; `Interrupted`; any error of the medium.
pub fn repair_pack(repository: &Repository, pack: &PackId, stop: &AtomicBool) -> Result<Option<Mending>> {
    repository.check_writable(repository.copy().copy)?;
    let mut go_on = |_| !stop.load(Ordering::Relaxed);
    let of = (repository.id(), *pack);
    match sidecar::mend(&**repository.backend(), &Session::begin(), of, false, &mut go_on) {
        Err(error) if is_vanished(&error) && error.file() == Some(&sidecar_name(pack)) => Ok(None),
        other => other.map(Some),
    }
}

fn report(repository: &Repository, sidecars: &BTreeMap<PackId, u64>) -> Result<ParityReport> {
    let present = repository.listed_packs()?;
    let packs = sidecars.keys().filter(|pack| present.contains_key(*pack)).count() as u64;
    Ok(ParityReport {
        packs,
        bytes: sidecars.values().sum(),
        without: present.len() as u64 - packs,
        orphans: sidecars.len() as u64 - packs,
        damaged: 0,
    })
}

fn remove_sidecar(backend: &dyn Backend, pack: &PackId) -> Result<()> {
    let name = sidecar_name(pack);
    match backend.remove(&name) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(Error::repository("remove", &name)),
    }
}

/// What is done with one pack after the other.
struct Run<'a> {
    repository: &'a Repository,
    observer: &'a dyn Observer,
    stop: &'a AtomicBool,
    session: Session,
}

impl<'a> Run<'a> {
    fn begin(
        repository: &'a Repository,
        observer: &'a dyn Observer,
        stop: &'a AtomicBool,
        dry_run: bool,
    ) -> Result<Self> {
        if !dry_run {
            repository.check_writable(repository.copy().copy)?;
            clean_up(&**repository.backend())?;
        }
        Ok(Self { repository, observer, stop, session: Session::begin() })
    }

    /// Does something with each pack, several at a time: as many as there is memory for.
    fn each(
        &self,
        packs: &BTreeMap<PackId, u64>,
        one: impl Fn(PackId, u64) -> Result<()> + Sync,
    ) -> Result<()> {
        let list: Vec<(PackId, u64)> = packs.iter().map(|(pack, len)| (*pack, *len)).collect();
        let bytes = list.iter().map(|(_, len)| len).sum();
        self.observer.event(&Event::Planned { items: list.len() as u64, bytes });
        let next = AtomicUsize::new(0);
        let failure = Mutex::new(None);
        let threads = self.repository.budget().threads(sidecar::THREAD_BYTES).min(list.len());
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    while let Some((pack, len)) = list.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let done = if self.go_on() { one(*pack, *len) } else { Err(Error::Interrupted) };
                        if let Err(error) = done {
                            next.store(list.len(), Ordering::Relaxed);
                            if let Ok(mut failure) = failure.lock() {
                                failure.get_or_insert(error);
                            }
                        }
                    }
                });
            }
        });
        failure.into_inner().map_err(|_| Error::Thread("reading packs"))?.map_or(Ok(()), Err)
    }

    fn go_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    fn advance(&self, bytes: u64) -> bool {
        self.observer.event(&Event::Advanced { bytes });
        self.go_on()
    }

    fn problem(&self, file: &str, error: &Error) {
        self.observer.event(&Event::Problem { path: Path::new(file), error });
    }

    fn done(&self, file: &str, change: Change, bytes: u64) {
        let path = Path::new(file);
        self.observer.event(&Event::Done { path, item: Item::RepositoryFile, change, bytes });
    }

    /// Makes the parity of one pack, if it is to get some.
    fn add(&self, pack: PackId, len: u64, options: &AddOptions) -> Result<AddSummary> {
        let backend = &**self.repository.backend();
        let name = sidecar_name(&pack);
        if options.packs.is_empty() && self.has_parity(pack, len, options)? {
            self.done(&name, Change::Unchanged, 0);
            return Ok(AddSummary { present: 1, ..AddSummary::default() });
        }
        if options.dry_run {
            let added_bytes = Shape::new(len, options.percent).file_len();
            return Ok(AddSummary { added: 1, added_bytes, ..AddSummary::default() });
        }
        let mut progress = |bytes| self.advance(bytes);
        let (id, percent) = (self.repository.id(), options.percent);
        match sidecar::make(backend, &self.session, id, pack, percent, &mut progress) {
            Ok(added_bytes) => {
                // [PAR-6]
                if !self.is_there(pack)? {
                    remove_sidecar(backend, &pack)?;
                    return Ok(AddSummary::default());
                }
                self.done(&name, Change::New, added_bytes);
                Ok(AddSummary { added: 1, added_bytes, ..AddSummary::default() })
            }
            // Pruned meanwhile.
            Err(error) if is_vanished(&error) && !self.is_there(pack)? => Ok(AddSummary::default()),
            Err(error) if error.is_damage() => {
                self.problem(&pack_file_name(&pack), &error);
                Ok(AddSummary { damaged: 1, ..AddSummary::default() })
            }
            Err(error) => Err(error),
        }
    }

    /// Whether a pack has sound parity that is as strong.
    fn has_parity(&self, pack: PackId, len: u64, options: &AddOptions) -> Result<bool> {
        let opened = Sidecar::open(&**self.repository.backend(), self.repository.id(), pack);
        let sidecar = match opened {
            Err(error) if error.is_damage() => return Ok(false),
            other => other?,
        };
        if !sidecar.shape().is_as_strong_as(Shape::new(len, options.percent)) {
            return Ok(false);
        }
        let faults = if options.verify {
            sidecar.verify(&mut |_| self.go_on())?.len()
        } else {
            sidecar.faults().len()
        };
        Ok(faults == 0)
    }

    /// By its name: a folder that is listed short would make a pruned pack of it.
    fn is_there(&self, pack: PackId) -> Result<bool> {
        let name = pack_file_name(&pack);
        match self.repository.backend().open(&name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            other => other.map(|_| true).map_err(Error::repository("read", &name)),
        }
    }

    /// Mends one pack. Nothing, if its parity is of no use.
    fn repair(&self, pack: PackId, dry_run: bool) -> Result<Option<Mending>> {
        let name = pack_file_name(&pack);
        let mut progress = |bytes| self.advance(bytes);
        let of = (self.repository.id(), pack);
        match sidecar::mend(&**self.repository.backend(), &self.session, of, dry_run, &mut progress) {
            Ok(mending) => {
                match mending {
                    Mending::Whole => self.done(&name, Change::Unchanged, 0),
                    Mending::Mended { bytes, .. } => self.done(&name, Change::Changed, bytes),
                    Mending::Beyond { .. } => {
                        let what = "it is damaged, or gone, and more of it than its parity makes up for";
                        self.problem(&name, &Error::damaged(&name)(Corruption::rule("PAR-5", what)));
                    }
                }
                Ok(Some(mending))
            }
            Err(error) if error.is_damage() => {
                self.problem(&sidecar_name(&pack), &error);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}
