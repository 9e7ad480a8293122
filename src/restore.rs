//! Snapshot to disk: [`restore`], what it can be told ([`RestoreOptions`]) and what it says ([`RestoreSummary`]).
//!
//! The tree is walked once, in order (`walk`). Directories and special files are made at once; regular files are
//! gathered (`batch`), whose pieces are fetched by pack and frame (`plan`), each frame once, and written to new files (`content`).
//! These get their names when all of a batch is whole and durable: each its own, or where the directory is new as well they have
//! it, and the directory gets its name then (`place`, `target`). What a file carries besides its bytes is in `metadata`,
//! what the target has too much in `delete`, and every call that touches the target in `target`. Invariants:
//! - nothing below the target is reached but through descriptors, and never through a symlink;
//! - an existing file is never opened for writing; a name shows the old file or the whole new one, after a crash too;
//! - no byte is written that was not verified against the id of its chunk;
//! - memory does not grow with the number, depth or length of files: only names in hard-link groups are remembered.

mod batch;
mod content;
mod delete;
mod frames;
mod metadata;
mod other;
mod place;
mod plan;
mod target;
mod walk;

pub use frames::Frames;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use crate::chunk::GetChunk;
use crate::error::{Error, Result};
use crate::event::{Change, Event, Item, Observer};
use crate::rate::RateLimit;
use crate::snapshot::tree::Entries;
use crate::snapshot::{Entry, Kind, Snapshot, Why};

/// Which part of a snapshot is wanted. Paths are those in the snapshot, without a leading slash.
pub trait Select: Send + Sync {
    /// Whether the entry at `path` is wanted.
    fn selected(&self, path: &[u8], is_dir: bool) -> bool;

    /// Whether anything below the directory at `path` may be wanted.
    fn may_contain(&self, path: &[u8]) -> bool;
}

/// What becomes of files that exist already. Directories are always gone through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Overwrite {
    /// Each file is compared byte for byte and replaced if it differs.
    Always,
    /// As `Always`, but a file with the right size and time of modification is believed.
    #[default]
    IfChanged,
    /// Only what is older than the snapshot's version is replaced.
    IfNewer,
    /// What exists is left as it is.
    Never,
}

/// Which parts of a file become holes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Sparse {
    /// Those that were holes when the file was saved.
    #[default]
    AsSaved,
    /// These, and all blocks of zeros.
    Always,
}

/// Whom restored files belong to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Owner {
    /// The user and group with the name they had on the saved host, by `/etc/passwd` and `/etc/group`; else with the number.
    #[default]
    Name,
    /// The user and group with the number.
    Number,
    /// Whoever restores.
    None,
}

/// How to restore.
#[derive(Default, Clone)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of its own")]
pub struct RestoreOptions {
    /// What becomes of files that exist already.
    pub overwrite: Overwrite,
    /// Whether to remove what the snapshot does not have.
    pub delete: bool,
    /// Whether to only say what would be done.
    pub dry_run: bool,
    /// Whether to read back from the medium what was written, before it takes the place of an older file.
    pub verify: bool,
    /// Which parts of files become holes.
    pub sparse: Sparse,
    /// Whom files belong to.
    pub owner: Owner,
    /// Which part of the snapshot is wanted; all of it if not set.
    pub select: Option<Arc<dyn Select>>,
    /// Whether to write what is left of a damaged file under the name `NAME.damaged`, zeros in place of what is missing.
    pub keep_damaged: bool,
    /// At most so many bytes of content per second are written.
    pub write_rate: Option<u64>,
    /// Where the repository lies, which the target must neither contain nor lie in.
    pub repository_place: Option<PathBuf>,
}

/// A kind of metadata that could not be set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NotSet {
    /// Owner or group.
    Owner,
    /// Permissions.
    Mode,
    /// The bits setuid or setgid, left off because the owner is another one.
    SetId,
    /// The time of modification, or it was rounded by the file system.
    Time,
    /// An extended attribute.
    Xattr,
    /// An access control list.
    Acl,
    /// The capabilities of a program.
    Capability,
    /// A hard link: the file became one of its own.
    HardLink,
    /// A device, which was not made.
    Device,
}

impl fmt::Display for NotSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Owner => "owner",
            Self::Mode => "permissions",
            Self::SetId => "setuid and setgid bits",
            Self::Time => "time of modification",
            Self::Xattr => "extended attribute",
            Self::Acl => "access control list",
            Self::Capability => "capabilities",
            Self::HardLink => "hard link",
            Self::Device => "device",
        })
    }
}

/// What was done. The same for a dry run: what would be done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RestoreSummary {
    /// Regular files made or changed.
    pub files: u64,
    /// Directories made or changed.
    pub directories: u64,
    /// Other entries made or changed.
    pub others: u64,
    /// Bytes of content of the files made or changed.
    pub bytes: u64,
    /// Entries that were right already.
    pub unchanged: u64,
    /// Things removed.
    pub removed: u64,
    /// Entries passed over: existing ones that were not to be overwritten, and devices that only root may make.
    pub skipped: u64,
    /// Things that the target lacks because of an error. Each had a `Problem` event.
    pub errors: u64,
    /// How many of these errors are damage of the repository.
    pub damaged: u64,
    /// How often each kind of metadata could not be set. Expected of an ordinary user, no full success as root:
    /// see [`RestoreSummary::is_success`].
    pub not_set: BTreeMap<NotSet, u64>,
    /// The first of each kind: its path in the snapshot, and what the system said, if it said anything.
    pub not_set_first: BTreeMap<NotSet, (Vec<u8>, Option<String>)>,
    /// Whether the restore ran as root.
    pub as_root: bool,
    /// Entries that were chosen by `select`; not counted without one.
    pub selected: u64,
    /// Of what was to be restored: how many entries the snapshot knows by name only, and why.
    pub not_saved: BTreeMap<Why, u64>,
    /// The first of these, by their path below the target.
    pub not_saved_first: Vec<(Vec<u8>, Why)>,
}

impl RestoreSummary {
    /// Whether all came back: no error, and as root nothing that could not be set.
    #[must_use]
    pub fn is_success(&self) -> bool {
        self.errors == 0 && (self.not_set.is_empty() || !self.as_root)
    }
}

/// Restores what lies at `path` (names joined by slashes, empty for all) of the snapshot into the folder `target`, which
/// is made if need be. Of a directory the content goes into `target`, which also gets its metadata; anything else becomes
/// `target/<name>`. Paths in events are below `target`.
///
/// On success all of it is durable. Errors about single entries are events and counted in the summary; the rest is
/// restored all the same.
///
/// # Errors
/// `NotFound` if nothing lies at `path`; `Nested` if target and repository lie in one another; `Interrupted` after `stop`
/// was set, `Path` if the target cannot be made or is full: then no temporary file stays behind. A new folder whose name
/// somebody else has taken meanwhile is a `Problem`, as is all in it, and keeps a temporary name that a later restore removes.
pub fn restore(
    reader: &dyn Frames,
    snapshot: &Snapshot,
    path: &[u8],
    target: &Path,
    options: &RestoreOptions,
    observer: &dyn Observer,
    stop: &AtomicBool,
) -> Result<RestoreSummary> {
    if let Some(repository) = &options.repository_place {
        target::check_not_nested(repository, target)?;
    }
    target::check_no_repository(target)?;
    let path = trim_slashes(path);
    let entry = find(reader, &snapshot.root, path)?;
    let base = match entry.kind.directory() {
        Some(_) => path,
        None => path.rsplitn(2, |byte| *byte == b'/').nth(1).unwrap_or_default(),
    };
    let private = matches!(entry.kind, Kind::Directory(_));
    let (root, root_is_new) = open_target(target, options.dry_run, private)?;
    let run = Run {
        reader,
        options,
        observer,
        stop,
        target: target.to_owned(),
        root,
        root_is_new,
        base: base.to_vec(),
        root_user: rustix::process::geteuid().is_root(),
        owners: metadata::Owners::new(options.owner, snapshot),
        abort: Mutex::default(),
        aborted: AtomicBool::new(false),
        summary: Mutex::default(),
        links: Mutex::default(),
        kept: Mutex::default(),
        open_temps: Mutex::default(),
        without_room: Mutex::default(),
        file_systems: Mutex::default(),
        spared_mounts: Mutex::default(),
        rate: options.write_rate.map(RateLimit::new),
    };
    observer.event(&Event::Phase("restoring"));
    if path.is_empty() && options.select.is_none() {
        use crate::snapshot::counter;
        observer.event(&Event::Planned {
            items: snapshot.counter(counter::FILES),
            bytes: snapshot.counter(counter::BYTES),
        });
    }
    thread::scope(|scope| walk::Walk::new(&run, scope).run(entry).unwrap_or_else(|error| run.abort(error)));
    run.take_abort()?;
    if let (Some(root), false) = (&run.root, options.dry_run) {
        root.sync().map_err(Error::path("make durable", target))?;
        for dir in lock(&run.file_systems).values() {
            dir.sync().map_err(run.error("make durable", &dir.path))?;
        }
    }
    let mut summary = std::mem::take(&mut *run.summary());
    summary.as_root = run.root_user;
    Ok(summary)
}

/// The entry at a path of a snapshot.
fn find(reader: &dyn GetChunk, root: &Entry, path: &[u8]) -> Result<Entry> {
    let missing = || Error::NotFound { what: format!("/{} in the snapshot", String::from_utf8_lossy(path)) };
    let mut entry = root.clone();
    for name in path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()) {
        let node = entry.kind.directory().ok_or_else(missing)?;
        let mut first_error = None;
        let found = Entries::new(reader, node)
            .filter_map(|item| item.map_err(|error| first_error.get_or_insert(error).is_damage()).ok())
            .find(|entry| *entry.name >= *name)
            .filter(|entry| *entry.name == *name);
        entry = match (found, first_error) {
            (Some(entry), _) => entry,
            // Where a node is damaged, what is not seen may well have been in it.
            (None, Some(error)) => return Err(error),
            (None, None) => return Err(missing()),
        };
    }
    if let Kind::LeftOut(..) = entry.kind {
        return Err(missing());
    }
    Ok(entry)
}

fn trim_slashes(mut path: &[u8]) -> &[u8] {
    while let [b'/', rest @ ..] | [rest @ .., b'/'] = path {
        path = rest;
    }
    path
}

/// The target folder, none if this is a dry run and it does not exist; and whether it is new.
fn open_target(path: &Path, dry_run: bool, private: bool) -> Result<(Option<Arc<target::Dir>>, bool)> {
    let is_new = !dry_run && target::make_root(path, private).map_err(Error::path("make", path))?;
    match target::Dir::open_root(path) {
        Ok(dir) => Ok((Some(Arc::new(dir)), is_new)),
        Err(error) if dry_run && error.kind() == std::io::ErrorKind::NotFound => Ok((None, true)),
        Err(error) => Err(Error::path("open", path)(error)),
    }
}

/// What all parts of one restore share, across threads.
struct Run<'a> {
    reader: &'a dyn Frames,
    options: &'a RestoreOptions,
    observer: &'a dyn Observer,
    stop: &'a AtomicBool,
    target: PathBuf,
    /// The target, open; none in a dry run if it does not exist.
    root: Option<Arc<target::Dir>>,
    root_is_new: bool,
    /// What in the snapshot the target stands for.
    base: Vec<u8>,
    root_user: bool,
    owners: metadata::Owners,
    /// The error that ends the whole restore.
    abort: Mutex<Option<Error>>,
    aborted: AtomicBool,
    summary: Mutex<RestoreSummary>,
    links: Mutex<place::Links>,
    /// Names written by `keep_damaged`, which `delete` must not take for superfluous.
    kept: Mutex<HashSet<Vec<u8>>>,
    /// Temporary files that are open, the longest open first.
    open_temps: Mutex<std::collections::VecDeque<std::sync::Weak<content::Writing>>>,
    /// Files of a batch for which there was no room.
    without_room: Mutex<Vec<batch::Job>>,
    /// A directory on each further file system that is mounted below the target and was gone through.
    file_systems: Mutex<HashMap<u64, Arc<target::Dir>>>,
    /// Mounts of which it was said that nothing is removed in them.
    spared_mounts: Mutex<HashSet<(u64, u64)>>,
    rate: Option<RateLimit>,
}

impl Run<'_> {
    /// Fails once the restore is to end.
    fn check(&self) -> Result<()> {
        if self.stop.load(Ordering::Relaxed) || self.aborted.load(Ordering::Relaxed) {
            return Err(Error::Interrupted);
        }
        Ok(())
    }

    /// Ends the restore with this error, if it is the first.
    fn abort(&self, error: Error) {
        lock(&self.abort).get_or_insert(error);
        self.aborted.store(true, Ordering::Relaxed);
    }

    fn take_abort(&self) -> Result<()> {
        lock(&self.abort).take().map_or(Ok(()), Err)
    }

    fn summary(&self) -> MutexGuard<'_, RestoreSummary> {
        lock(&self.summary)
    }

    /// Where a path below the target lies, for messages.
    fn full_path(&self, path: &[u8]) -> PathBuf {
        self.target.join(std::ffi::OsStr::from_bytes(path))
    }

    /// An error of the system about a path below the target.
    fn error<'p>(
        &'p self,
        action: &'static str,
        path: &'p [u8],
    ) -> impl FnOnce(std::io::Error) -> Error + 'p {
        move |source| Error::Path { action, path: self.full_path(path), source }
    }

    /// An entry is done: the one place that counts.
    fn done(&self, path: &[u8], item: Item, change: Change, bytes: u64) {
        {
            let mut summary = self.summary();
            match change {
                Change::New | Change::Changed => {
                    summary.bytes = summary.bytes.saturating_add(bytes);
                    match item {
                        Item::File => summary.files += 1,
                        Item::Directory => summary.directories += 1,
                        _ => summary.others += 1,
                    }
                }
                Change::Unchanged => summary.unchanged += 1,
                Change::Removed => summary.removed += 1,
                Change::LeftOut => summary.skipped += 1,
            }
        }
        self.observer.event(&Event::Done { path: shown(path), item, change, bytes });
    }

    /// Something is missing in the target because of this; a full medium ends the restore.
    fn problem(&self, path: &[u8], error: &Error) {
        {
            let mut summary = self.summary();
            summary.errors += 1;
            summary.damaged += u64::from(error.is_damage());
        }
        self.observer.event(&Event::Problem { path: shown(path), error });
    }

    /// As `problem`, but a full medium and an interruption end the restore.
    fn problem_or_end(&self, path: &[u8], error: Error) -> Result<()> {
        if error.is_no_space() || matches!(error, Error::Interrupted) {
            return Err(error);
        }
        self.problem(path, &error);
        Ok(())
    }

    fn notice(&self, path: &[u8], text: &str) {
        self.observer.event(&Event::Notice { path: shown(path), text });
    }

    /// Counts a kind of metadata that could not be set, with what the system said if it said anything.
    fn not_set(&self, kind: NotSet, path: &[u8], error: Option<&dyn fmt::Display>) {
        let mut summary = self.summary();
        *summary.not_set.entry(kind).or_default() += 1;
        let first = || (path.to_vec(), error.map(ToString::to_string));
        summary.not_set_first.entry(kind).or_insert_with(first);
    }

    fn selected(&self, path: &[u8], is_dir: bool) -> bool {
        self.options.select.as_ref().is_none_or(|select| select.selected(path, is_dir))
    }

    fn may_contain(&self, path: &[u8]) -> bool {
        self.options.select.as_ref().is_none_or(|select| select.may_contain(path))
    }
}

/// A path below the target as events show it.
fn shown(path: &[u8]) -> &Path {
    Path::new(if path.is_empty() { std::ffi::OsStr::new(".") } else { std::ffi::OsStr::from_bytes(path) })
}

/// `directory/name`, or only the name in the root.
fn joined(directory: &[u8], name: &[u8]) -> Vec<u8> {
    let mut path = Vec::with_capacity(directory.len() + 1 + name.len());
    path.extend_from_slice(directory);
    if !directory.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(name);
    path
}

/// Locks; a panic of another thread ends the restore anyway, with that panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
