//! Is the repository what it should be, and if not, what does it cost? Nothing is changed but by a record, if that is asked for.
//!
//! Four steps. `files` holds names, snapshots, segments and the listing of packs against one another; `packs` reads packs whole; `walk`
//! visits each distinct node of all trees once and asks for every chunk they need; only if something is lost, `costs` walks again, by
//! path. `due` says which packs are read, and remembers when that was. `damage` gathers what was found, one [`Damage`] per object, and `marks` records damaged packs. `names` looks for names of no known
//! kind, `series` whether snapshots are missing, `hashes` checks what can be checked without a key.
//!
//! Memory: 16 bytes for each distinct node of the trees (the walk) and 32 for each node without loss (the walk for costs, after damage), a
//! batch of a million chunk ids, and what is lost. Nothing grows with the depth of a path but the path itself and a list of folders
//! still to be visited. A chunk counts as lost exactly if reading it fails, as restoring would.

mod costs;
mod damage;
mod due;
mod files;
mod hashes;
mod marks;
mod names;
mod packs;
mod series;
mod walk;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::error::{Error, Result};
use crate::event::{Event, Observer};
use crate::id::{ChunkId, ChunkKind, PackId, SegmentId, SnapshotId};
use crate::pack::pack_file_name;
use crate::repository::{PRUNE_TRIES, Reader, Repository};
use crate::sidecar;
use crate::snapshot::{Entry, Time};

pub use hashes::check_hashes;

use damage::Damages;
use due::Remembered;
use names::Names;

/// So many paths are kept for each damage unless all are asked for; the others are counted.
const KEPT_COSTS: usize = 100;

/// How deep to look, and at what.
#[derive(Debug, Clone, Default)]
pub struct CheckOptions {
    /// Read every pack, or with `only`, every chunk: without it a pack is believed if it has the right length.
    pub read_data: bool,
    /// Read only some of the packs.
    pub subset: Option<Subset>,
    /// Check only what this snapshot needs, or what is at this path in it (names joined by slashes, empty for all).
    pub only: Option<(SnapshotId, Vec<u8>)>,
    /// Publish a record for each damaged pack, so that the next snapshot stores again what the source still has; and take such
    /// records back where all bytes of the pack were found to be right.
    pub mark_damaged: bool,
    /// Keep every path that is lost, and not only the first hundred of each object.
    pub all_costs: bool,
    /// Any number: which packs a part consists of.
    pub seed: u32,
    /// Read only packs that were not verified on this copy for so long; instead of `subset`.
    pub max_age: Option<Duration>,
    /// Read no more than that of the packs, those first that were verified longest ago; instead of `subset`.
    pub budget: Option<ReadBudget>,
    /// The folder where this host remembers when it verified packs, if it may.
    pub state_folder: Option<PathBuf>,
    /// For files that are gone when the run is; nothing for the system's folder.
    pub scratch: Option<PathBuf>,
}

/// How much to read. At least one pack is read, and each is read to its end.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ReadBudget {
    /// No pack is begun after so long.
    Time(Duration),
    /// So many of a hundred bytes of all packs.
    Percent(f64),
    /// About so many bytes.
    Bytes(u64),
}

/// Which packs to read. `Percent` and `Bytes` take others for another `seed`; never none.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Subset {
    /// So many of a hundred.
    Percent(f64),
    /// One of several parts of about the same size.
    Part {
        /// Which part, from 1.
        n: u64,
        /// Of how many.
        of: u64,
    },
    /// About so many bytes.
    Bytes(u64),
}

/// What a check found.
#[derive(Debug, Default)]
pub struct CheckReport {
    /// What is damaged, by object.
    pub damages: Vec<Damage>,
    /// Snapshots whose trees were checked.
    pub snapshots: u64,
    /// Packs that are listed.
    pub packs: u64,
    /// The bytes of these.
    pub pack_bytes: u64,
    /// Packs that were read whole.
    pub packs_read: u64,
    /// Bytes of packs that were read whole.
    pub bytes_read: u64,
    /// Segments that were read.
    pub segments: u64,
    /// Distinct chunks that the snapshots need. Of more than a million, one that is needed far apart may count twice where there is no room
    /// for `scratch`.
    pub chunks: u64,
    /// Those of them that are lost.
    pub chunks_lost: u64,
    /// Entries in distinct directories.
    pub entries: u64,
    /// Names of no kind that the format knows `[REPO-3]`: no damage.
    pub unknown_names: Vec<String>,
    /// Temporary files of sessions that have ended: the next snapshot removes them.
    pub left_over: Vec<String>,
    /// Snapshots that others followed and that are not here, though nobody forgot them.
    pub missed: Vec<SnapshotId>,
    /// What is odd and costs nothing.
    pub notices: Vec<String>,
    /// Packs that were newly recorded as damaged.
    pub marked: Vec<PackId>,
    /// Packs that were recorded as damaged, are whole, and were found to be so: the record is undone.
    pub unmarked: Vec<PackId>,
    /// When the packs were verified, where that may be remembered.
    pub ages: Option<Ages>,
    /// Packs that have parity; it is read with them.
    pub with_parity: u64,
    /// Packs that have none.
    pub without_parity: u64,
    /// Files of parity whose pack is gone.
    pub parity_only: u64,
}

/// When the packs of this copy were last read whole and found right, as far as this host remembers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ages {
    /// Packs that never were.
    pub never: u64,
    /// Packs that were not within the greatest age, if there is one, or never.
    pub overdue: u64,
    /// The bytes of these.
    pub overdue_bytes: u64,
    /// When the one was that was verified longest ago, of those that were.
    pub oldest: Option<Time>,
}

/// Something that is not what it should be.
#[derive(Debug)]
pub struct Damage {
    /// A file of the repository, or what names a chunk.
    pub object: String,
    /// What is wrong with it.
    pub error: Error,
    /// What else is.
    pub more_errors: Vec<Error>,
    /// The first of the chunks that are lost by it.
    pub chunks: Vec<(ChunkKind, ChunkId)>,
    /// How many more are.
    pub more_chunks: u64,
    /// The first of what it costs; nothing if all else makes up for it.
    pub costs: Vec<Cost>,
    /// How much more it costs.
    pub more_costs: u64,
}

/// Something that cannot be restored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cost {
    /// From which snapshot.
    pub snapshot: SnapshotId,
    /// At which path, names joined by slashes; empty for the root.
    pub path: Vec<u8>,
    /// What of it.
    pub loss: Loss,
}

/// What is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Loss {
    /// Content, of the file or of an extended attribute of the entry.
    Content,
    /// Entries of the directory, whose names are not known; those that are still known below it are named if they are lost too.
    Entries,
    /// The snapshot as a whole.
    Snapshot,
    /// Notes about the snapshot: no data.
    Notes,
}

/// Checks a repository.
///
/// Damage is no error: it is in the report, and each object is sent to `observer` as a `Problem` when it is found. Every path that is lost
/// is sent as a `Notice`, those that the report only counts too.
///
/// # Errors
/// `Interrupted`; `NotFound` for a path that the snapshot does not have; any error of the medium that is no damage.
pub fn check(
    repository: &Repository,
    options: &CheckOptions,
    observer: &dyn Observer,
    stop: &AtomicBool,
) -> Result<CheckReport> {
    let mut tries = 0;
    loop {
        match check_once(repository, options, observer, stop) {
            // What is needed of a pack lies in others now, that were not listed.
            Err(Error::PrunedMeanwhile { .. }) if tries < PRUNE_TRIES => tries += 1,
            other => return other,
        }
    }
}

fn check_once(
    repository: &Repository,
    options: &CheckOptions,
    observer: &dyn Observer,
    stop: &AtomicBool,
) -> Result<CheckReport> {
    observer.event(&Event::Phase("checking the structure"));
    // Snapshots are listed before the index, and the index before packs: a snapshot that is listed has all its packs listed.
    let snapshots = repository.snapshot_ids()?;
    let reader = repository.reader()?;
    let mut check = Check {
        repository,
        reader: &reader,
        options,
        observer,
        stop,
        damages: Damages::new(observer, if options.all_costs { usize::MAX } else { KEPT_COSTS }),
        report: CheckReport::default(),
        doubted: HashSet::new(),
        undecodable: HashSet::new(),
        healed: HashSet::new(),
        segments: Vec::new(),
        pack_facts: Vec::new(),
        lost: HashMap::new(),
        remembered: None,
        confirmed: HashSet::new(),
        parity: BTreeSet::new(),
    };
    check.report.packs = reader.index().present().packs.len() as u64;
    check.report.pack_bytes = reader.index().present().packs.values().sum();
    check.opened();
    check.remembered = Remembered::of(repository, options.state_folder.as_deref(), &check.damages);
    if options.only.is_none() {
        check.structure()?;
        if options.read_data {
            observer.event(&Event::Phase("checking packs"));
            check.read_packs()?;
        }
    } else {
        // What a record says of a pack is believed as little here: the chunks asked for are read.
        check.doubted.extend(&reader.index().present().damaged);
    }
    let starts = check.starts(&snapshots)?;
    observer.event(&Event::Phase("checking snapshots"));
    check.walk(&starts)?;
    if !check.lost.is_empty() {
        check.refuse_pruned()?;
        observer.event(&Event::Phase("finding what is lost"));
        check.attribute()?;
        check.costs(&starts)?;
        check.name_chunks();
    }
    check.refute_damaged();
    if options.mark_damaged {
        check.mark()?;
    }
    check.report.ages = check.ages();
    let mut report = check.report;
    report.damages = check.damages.finish();
    if options.only.is_none() {
        forgive_replaced(&mut report, &reader.index().unfit_packs()?, observer);
    }
    Ok(report)
}

/// A pack that is gone is no damage once all that was in it is in other packs: what was lost was stored again.
fn forgive_replaced(report: &mut CheckReport, unfit: &[Error], observer: &dyn Observer) {
    let is_unfit = |object: &str| unfit.iter().any(|error| error.file() == Some(object));
    let is_gone = |error: &Error| matches!(error, Error::Repository { source, .. } if source.kind() == std::io::ErrorKind::NotFound);
    let is_replaced = |damage: &mut Damage| {
        damage.object.starts_with("packs/")
            && is_gone(&damage.error)
            && damage.costs.is_empty()
            && !is_unfit(&damage.object)
    };
    for damage in report.damages.extract_if(.., is_replaced) {
        let text = format!("{} is gone, and all that was in it is in other packs", damage.object);
        observer.event(&Event::Notice { path: Path::new(""), text: &text });
        report.notices.push(text);
    }
}

/// A check under way.
struct Check<'a> {
    repository: &'a Repository,
    reader: &'a Reader,
    options: &'a CheckOptions,
    observer: &'a dyn Observer,
    stop: &'a AtomicBool,
    damages: Damages<'a>,
    report: CheckReport,
    /// Packs whose chunks are believed only one by one, after reading.
    doubted: HashSet<PackId>,
    /// Packs whose hash is wrong or that cannot be decoded.
    undecodable: HashSet<PackId>,
    /// Packs that are whole though a record calls them damaged.
    healed: HashSet<PackId>,
    /// The segments that were read, if packs are to be read too …
    segments: Vec<SegmentId>,
    /// … and how many facts which of them has about which pack; in the order of packs once these are read.
    pack_facts: Vec<PackFacts>,
    /// Chunks that cannot be had or are not what they should be.
    lost: HashMap<ChunkId, Lost>,
    /// When packs were verified, if that may be remembered.
    remembered: Option<Remembered>,
    /// Packs that were read and are right.
    confirmed: HashSet<PackId>,
    /// Packs that have parity.
    parity: BTreeSet<PackId>,
}

impl CheckReport {
    fn count_parity(&mut self, parity: &BTreeSet<PackId>, is_there: impl Fn(&PackId) -> bool) {
        self.with_parity = parity.iter().filter(|pack| is_there(pack)).count() as u64;
        self.without_parity = self.packs - self.with_parity;
        self.parity_only = parity.len() as u64 - self.with_parity;
    }
}

/// How many facts a segment has about a pack.
struct PackFacts {
    pack: PackId,
    facts: u64,
    /// Its place among the segments that were read.
    segment: u32,
}

/// A chunk that is lost.
struct Lost {
    kind: ChunkKind,
    /// The numbers of the damages that this is due to.
    damages: Vec<u32>,
}

/// Where a walk begins.
struct Start {
    snapshot: SnapshotId,
    path: Vec<u8>,
    entry: Entry,
    notes: Option<ChunkId>,
}

impl Check<'_> {
    fn go_on(&self) -> Result<()> {
        if self.stop.load(Ordering::Relaxed) { Err(Error::Interrupted) } else { Ok(()) }
    }

    /// Chunks that are lost may lie in packs that were not there yet, if packs that were listed have gone since.
    fn refuse_pruned(&self) -> Result<()> {
        let now = self.repository.listed_packs()?;
        let gone = self.reader.index().present().packs.keys().find(|pack| !now.contains_key(pack));
        gone.map_or(Ok(()), |pack| Err(Error::PrunedMeanwhile { pack: pack_file_name(pack) }))
    }

    /// What the folders and the index say.
    fn structure(&mut self) -> Result<()> {
        let backend = &**self.repository.backend();
        Names { backend, observer: self.observer, report: &mut self.report }.names()?;
        self.keys()?;
        self.segments()?;
        self.listed_packs();
        self.parity = sidecar::list(backend)?.into_keys().collect();
        self.report.count_parity(&self.parity, |pack| self.reader.index().present().packs.contains_key(pack));
        Ok(())
    }

    fn notice(&mut self, text: String) {
        self.observer.event(&Event::Notice { path: Path::new(""), text: &text });
        self.report.notices.push(text);
    }
}
