//! The walk through a source: depth first, one step at a time, without recursion.
//!
//! [`Walk`] holds a frame for each directory it is in: the names in it, sorted by their bytes, and how far it is. Entries are asked about when their
//! turn comes, so a directory of a million entries costs its names. What was decided about an entry by its name is checked
//! again once it is open, since the name may lead elsewhere by then.

use std::collections::HashMap;
use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;

use super::ahead::{self, Ahead, Listing};
use super::directory::{self, Directory};
use super::file::Found;
use super::filesystem::{FileSystem, sync_source};
use super::filter::{Filter, GitRules};
use super::names::Names;
use super::stat::{Device, FileKind, Stat};
use super::{SourceRoot, filesystem, stat};
use crate::error::{Error, Result};
use crate::snapshot::{Why, validate_name};

/// Of each directory that the walk is in, so many of the next ones in it may be listed ahead.
const OFFERED: usize = 24;
/// How often an entry is looked at again that was something else when it was opened.
const MAX_TRIES: usize = 3;

/// What a walk does not go into.
#[derive(Debug, Clone, Default)]
pub struct WalkOptions {
    /// What the user wants left out.
    pub filter: Filter,
    /// Leave out what is on another file system than the source itself.
    pub one_file_system: bool,
    /// The folder of the repository that is written to: left out wherever and under whatever name it is met.
    pub repository: Option<PathBuf>,
    /// The folder that the program itself writes to meanwhile: its files would change while they are read.
    pub cache: Option<PathBuf>,
    /// Write out each file system when the walk comes to it, so that the times of its files are right.
    pub sync: bool,
    /// Threads that list directories ahead of the walk. None is started for a disk that turns: two readers would make its head jump.
    pub ahead: usize,
}

/// One step of a walk.
#[derive(Debug)]
pub enum Step {
    /// A directory: what is in it follows, by ascending name, up to its [`Step::Leave`].
    Enter(Found),
    /// Anything else.
    Entry(Found),
    /// Something that is in the source and is not walked into.
    LeftOut {
        /// Its name.
        name: Vec<u8>,
        /// Its path.
        path: PathBuf,
        /// Why.
        why: Why,
        /// The system's error number, or 0.
        errno: u32,
        /// The error, unless it was left out on purpose.
        error: Option<Error>,
    },
    /// The directory that the walk is in is not known in full; its `Leave` comes next, unless this is about one name.
    Problem {
        /// The path.
        path: PathBuf,
        /// What went wrong.
        error: Error,
    },
    /// The end of the directory last entered and not left.
    Leave,
}

/// A walk through one source: an iterator over its [`Step`]s, the source itself first.
pub struct Walk {
    options: WalkOptions,
    /// What the walk begins with: the directory the source is in, and its name there.
    start: Option<(Arc<Directory>, Vec<u8>)>,
    frames: Vec<Frame>,
    /// The path of the innermost frame, without a slash at its end.
    path: Vec<u8>,
    /// How the source was called, if it was reached through a symlink; and the length of its resolved path.
    alias: Option<(Vec<u8>, usize)>,
    source: Stat,
    repository: Option<(Device, u64)>,
    cache: Option<(Device, u64)>,
    file_systems: HashMap<Device, Arc<FileSystem>>,
    git: GitRules,
    ahead: Option<Ahead>,
    interrupted: bool,
}

/// What is known of a name when its turn comes.
#[derive(Default)]
struct Known {
    is_source: bool,
    stat: Option<Stat>,
    listing: Option<Listing>,
}

/// The names in a directory, what stopped the listing, and what the first ones are as far as that is known.
type Listed = (Names, Option<io::Error>, Option<Seen>);

/// What the first names in a directory are, as seen ahead of the walk.
struct Seen {
    stats: Vec<Option<Stat>>,
    at: Instant,
}

struct Frame {
    directory: Arc<Directory>,
    stat: Stat,
    names: Names,
    seen: Option<Seen>,
    /// The names before this one were offered to those who list ahead.
    offered: usize,
    /// How long the path was before this directory's name.
    path_len: usize,
    /// Listing failed here.
    failure: Option<io::Error>,
    /// The one name that is not left out.
    mark: Option<Vec<u8>>,
}

impl Walk {
    /// Starts a walk.
    ///
    /// # Errors
    /// The directory that the source is in cannot be opened.
    pub fn new(root: &SourceRoot, options: &WalkOptions) -> Result<Self> {
        let resolved = &root.resolved;
        let (above, name) = match (resolved.parent(), resolved.file_name()) {
            (Some(above), Some(name)) => (above, name.as_bytes()),
            _ => (resolved.as_path(), &b""[..]),
        };
        // To pass through the directory above it takes less than to read it; `/` is both.
        let access = if name.is_empty() { OFlags::RDONLY } else { OFlags::PATH };
        let open = || -> io::Result<Arc<Directory>> {
            let flags = access | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let fd = rustix::io::retry_on_intr(|| rustix::fs::openat(CWD, above, flags, Mode::empty()))?;
            Directory::top(above.as_os_str().as_bytes().to_vec(), fd)
        };
        let top = open().map_err(Error::path("open", above))?;
        let id = |path: &PathBuf| {
            let flags = rustix::fs::AtFlags::empty();
            Some(stat::of_name(CWD, path.as_os_str().as_bytes(), flags).ok()?.id())
        };
        let alias = (root.absolute != *resolved)
            .then(|| (root.absolute.as_os_str().as_bytes().to_vec(), resolved.as_os_str().as_bytes().len()));
        Ok(Self {
            options: options.clone(),
            start: Some((top, name.to_vec())),
            frames: Vec::new(),
            path: above
                .as_os_str()
                .as_bytes()
                .strip_suffix(b"/")
                .unwrap_or(above.as_os_str().as_bytes())
                .to_vec(),
            alias,
            source: root.stat,
            repository: options.repository.as_ref().and_then(id),
            cache: options.cache.as_ref().and_then(id),
            file_systems: HashMap::new(),
            git: GitRules::default(),
            ahead: None,
            interrupted: false,
        })
    }

    /// Ends the walk early: what was not delivered yet of the open directories is delivered as left out, unread.
    pub fn skip_rest(&mut self) {
        self.interrupted = true;
    }

    /// The file system on a device that the walk has come to.
    pub fn file_system(&mut self, dev: Device) -> Arc<FileSystem> {
        self.file_systems.entry(dev).or_insert_with(|| Arc::new(FileSystem::unknown(dev))).clone()
    }

    /// The path of a name in the innermost directory.
    fn path_of(&self, name: &[u8]) -> Vec<u8> {
        let mut path = Vec::with_capacity(self.path.len() + 1 + name.len());
        path.extend_from_slice(&self.path);
        path.push(b'/');
        path.extend_from_slice(name);
        path
    }

    /// The step for a name in a directory.
    fn visit(&mut self, parent: &Arc<Directory>, name: Vec<u8>, mut known: Known) -> Step {
        let is_source = known.is_source;
        let path = self.path_of(&name);
        if self.interrupted {
            return left_out(name, path, Why::Interrupted, None);
        }
        let is_unmarked =
            self.frames.last().and_then(|frame| frame.mark.as_ref()).is_some_and(|mark| *mark != name);
        if is_unmarked {
            return left_out(name, path, Why::Excluded, None);
        }
        let mut tries = 0;
        let error = loop {
            tries += 1;
            match self.look(parent, &name, &path, std::mem::take(&mut known)) {
                Ok(step) => return step,
                // It was a directory a moment ago.
                Err(error)
                    if tries < MAX_TRIES
                        && matches!(error.raw_os_error(), Some(libc::ENOTDIR | libc::ELOOP)) =>
                {
                    known.is_source = is_source;
                }
                Err(error) => break error,
            }
        };
        if !is_source && self.options.filter.excludes_path([&path, &self.called(&path)], false) {
            return left_out(name, path, Why::Excluded, None);
        }
        let why = if error.kind() == io::ErrorKind::NotFound { Why::Vanished } else { Why::Unreadable };
        left_out(name, path, why, Some(error))
    }

    fn look(&mut self, parent: &Arc<Directory>, name: &[u8], path: &[u8], known: Known) -> io::Result<Step> {
        let stat = match known.stat {
            Some(stat) => stat,
            None => directory::stat_in(&*parent.descriptor()?, name)?,
        };
        let leave_out = |why| Ok(left_out(name.to_vec(), path.to_vec(), why, None));
        if known.is_source {
            self.source = stat;
        } else {
            let filter = &self.options.filter;
            let is_excluded = filter.excludes([path, &self.called(path)], &stat)
                || (filter.git_ignore && self.git.excludes(path, stat.is_dir()));
            if is_excluded {
                return leave_out(Why::Excluded);
            }
        }
        if let Some(why) = self.barred(&stat) {
            return leave_out(why);
        }
        if stat.is_dir() {
            let (itself, stat, listed) = if let Some(listing) = known.listing {
                let Listing { seen, directory, opened, names, failure, stats, .. } = listing;
                (directory, opened, Some((names, failure, Some(Seen { stats, at: seen }))))
            } else {
                let (itself, stat) = parent.enter(name)?;
                (itself, stat, None)
            };
            if known.is_source {
                // Opening it may have mounted it.
                self.source = stat;
            }
            // Something may have been mounted or renamed there since.
            return match self.barred(&stat) {
                Some(why) => leave_out(why),
                None => self.enter(parent, itself, (name, stat), listed),
            };
        }
        if stat.kind == FileKind::Unknown {
            let error = Errno::OPNOTSUPP.into();
            return Ok(left_out(name.to_vec(), path.to_vec(), Why::Unsupported, Some(error)));
        }
        if !self.file_systems.contains_key(&stat.dev) {
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let above = parent.descriptor()?;
            let fd = rustix::io::retry_on_intr(|| rustix::fs::openat(&*above, name, flags, Mode::empty()))?;
            let path = parent.path();
            let is_synced = self.options.sync && sync_source(&path).is_ok();
            self.meet(&fd, &stat, &path, is_synced);
        }
        Ok(Step::Entry(Found { name: name.to_vec(), stat, parent: parent.clone(), itself: None }))
    }

    /// Why something is not to be walked into, by where it is.
    fn barred(&self, stat: &Stat) -> Option<Why> {
        if stat.is_dir() && self.repository == Some(stat.id()) {
            return Some(Why::Repository);
        }
        if stat.is_dir() && self.cache == Some(stat.id()) {
            return Some(Why::Excluded);
        }
        // An overlay may report files, but not directories, under the devices of its layers.
        let is_elsewhere = stat.dev != self.source.dev
            && (stat.is_dir() || stat.mount.is_none() || stat.mount != self.source.mount);
        (self.options.one_file_system && is_elsewhere).then_some(Why::OtherFileSystem)
    }

    fn enter(
        &mut self,
        parent: &Arc<Directory>,
        itself: Arc<Directory>,
        (name, stat): (&[u8], Stat),
        listed: Option<Listed>,
    ) -> io::Result<Step> {
        if !self.file_systems.contains_key(&stat.dev) {
            let fd = itself.descriptor()?;
            let is_synced =
                self.options.sync && rustix::io::retry_on_intr(|| rustix::fs::syncfs(&*fd)).is_ok();
            self.meet(&fd, &stat, &itself.path(), is_synced);
        }
        let (names, failure, seen) = if let Some(listed) = listed {
            listed
        } else {
            let (names, failure) = Names::list(&*itself.descriptor()?, &stat, usize::MAX).unwrap_or_default();
            (names, failure, None)
        };
        let failure = match failure {
            Some(failure) if names.is_empty() => return Err(failure),
            other => other,
        };
        let path_len = self.path.len();
        if !name.is_empty() {
            self.path.push(b'/');
            self.path.extend_from_slice(name);
        }
        if self.options.filter.git_ignore {
            self.git.enter(&itself, self.frames.len(), self.path.len() + 1, |name| names.contains(name));
        }
        let mark = self.options.filter.mark(&itself, |name| names.contains(name));
        let directory = itself.clone();
        self.frames.push(Frame { directory, stat, names, seen, offered: 0, path_len, failure, mark });
        self.offer(OFFERED);
        Ok(Step::Enter(Found { name: name.to_vec(), stat, parent: parent.clone(), itself: Some(itself) }))
    }

    /// Says to those who list ahead which so many directories the walk may come to next in the innermost one.
    fn offer(&mut self, most: usize) {
        let Some(frame) = self.frames.last() else { return };
        if self.options.ahead == 0 || frame.mark.is_some() || self.interrupted {
            return;
        }
        let (mut names, mut from) = (Vec::new(), frame.offered);
        while names.len() < most
            && let Some((number, name)) = frame.names.next_dir(from)
        {
            from = number + 1;
            let path = self.path_of(name);
            let filter = &self.options.filter;
            // What is left out is not even looked at: a server that does not answer may be mounted there.
            let is_excluded = filter.excludes_path([&path, &self.called(&path)], true)
                || (filter.git_ignore && self.git.excludes(&path, true));
            if !is_excluded {
                names.push(name.to_vec());
            }
        }
        if !names.is_empty() {
            // A source without folders in it needs no threads.
            let ahead = self.ahead.get_or_insert_with(|| {
                let is_rotational = filesystem::is_rotational(self.source.dev);
                Ahead::new(if is_rotational { 0 } else { self.options.ahead })
            });
            ahead.want(&frame.directory, &frame.stat, names);
        }
        if let Some(frame) = self.frames.last_mut() {
            frame.offered = from;
        }
    }

    fn leave(&mut self) -> Step {
        if let Some(frame) = self.frames.pop() {
            if let Some(ahead) = &self.ahead {
                ahead.forget(&frame.directory);
            }
            self.path.truncate(frame.path_len);
            self.git.leave(self.frames.len());
            if self.frames.last().is_some_and(|above| !above.names.is_at_end()) && !self.interrupted {
                frame.directory.reopen_parent();
            }
        }
        Step::Leave
    }

    /// Remembers a file system that the walk has come to.
    fn meet(&mut self, fd: &OwnedFd, stat: &Stat, path: &Path, is_synced: bool) {
        let mut found = FileSystem::of(fd, stat, path, is_synced);
        // Two of them must not be taken for one, for their files may have the same inode numbers.
        if self.file_systems.values().any(|other| other.mount == found.mount) {
            found.mount.push(format!("({}:{})", stat.dev.major, stat.dev.minor));
        }
        self.file_systems.insert(stat.dev, Arc::new(found));
    }

    /// The path by which the user would call an entry, if the source is a symlink.
    fn called<'p>(&self, path: &'p [u8]) -> std::borrow::Cow<'p, [u8]> {
        match &self.alias {
            Some((given, resolved_len)) => {
                [given, path.get(*resolved_len..).unwrap_or_default()].concat().into()
            }
            None => path.into(),
        }
    }

    /// The step for the source itself.
    fn begin(&mut self, top: &Arc<Directory>, name: Vec<u8>) -> Step {
        if !name.is_empty() {
            return self.visit(top, name, Known { is_source: true, ..Known::default() });
        }
        if self.interrupted {
            return left_out(name, b"/".to_vec(), Why::Interrupted, None);
        }
        let enter = top.descriptor().and_then(|fd| stat::of_descriptor(&fd));
        match enter.and_then(|stat| self.enter(top, top.clone(), (b"", stat), None)) {
            Ok(step) => step,
            Err(error) => left_out(name, b"/".to_vec(), Why::Unreadable, Some(error)),
        }
    }
}

impl Iterator for Walk {
    type Item = Step;

    fn next(&mut self) -> Option<Step> {
        if let Some((top, name)) = self.start.take() {
            return Some(self.begin(&top, name));
        }
        let frame = self.frames.last_mut()?;
        let Some((number, name)) = frame.names.next() else {
            let Some(source) = frame.failure.take() else { return Some(self.leave()) };
            let path = PathBuf::from(OsString::from_vec(self.path.clone()));
            return Some(Step::Problem {
                error: Error::Path { action: "list", path: path.clone(), source },
                path,
            });
        };
        if validate_name(&name).is_err() {
            let path = PathBuf::from(OsString::from_vec(self.path_of(&name)));
            let source = io::Error::new(io::ErrorKind::InvalidFilename, "no entry may have this name");
            return Some(Step::Problem {
                error: Error::Path { action: "save", path: path.clone(), source },
                path,
            });
        }
        let parent = frame.directory.clone();
        let seen = frame.seen.as_ref().filter(|seen| ahead::is_fresh(seen.at));
        let stat = seen.and_then(|seen| seen.stats.get(number).copied().flatten());
        let mut known = Known { stat, ..Known::default() };
        if frame.names.is_dir(number) {
            known.listing = self.ahead.as_ref().and_then(|ahead| ahead.take(&parent, &name));
            if let Some(listing) = &known.listing {
                known.stat = Some(listing.found);
            }
            self.offer(1);
        }
        Some(self.visit(&parent, name, known))
    }
}

fn left_out(name: Vec<u8>, path: Vec<u8>, why: Why, source: Option<io::Error>) -> Step {
    let path = PathBuf::from(OsString::from_vec(path));
    let errno = source.as_ref().and_then(io::Error::raw_os_error).and_then(|errno| u32::try_from(errno).ok());
    let error = source.map(|source| Error::Path { action: "read", path: path.clone(), source });
    Step::LeftOut { name, path, why, errno: errno.unwrap_or(0), error }
}

impl FileSystem {
    /// One that the walk has not come to.
    fn unknown(dev: Device) -> Self {
        Self {
            id: filesystem::id_from_numbers(0u64, 0, dev),
            mount: PathBuf::new(),
            mount_id: None,
            ctime_is_meaningful: false,
            maps_move_times: false,
            type_name: String::new(),
            is_synced: false,
        }
    }
}
