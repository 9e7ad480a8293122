//! A tree of a snapshot beside the folder it may have come from.
//!
//! By stamps (kind, size, mtime, target) nothing is read; with `content` each file of the right size is read and its chunks named
//! anew. The folder is walked by descriptor: only the innermost directory is open, and the way up is `..`, checked against
//! where the way down began, so that neither depth nor a folder that is moved away meanwhile leads elsewhere.
//!
//! What cannot be looked at is named and passed over: of what is below it nothing is said, least of all that it is gone.

mod attributes;

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io::{self, Read};
use std::iter::Peekable;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat};

use crate::chunk::GetChunk;
use crate::diff::{DiffSummary, Difference, How, Side, Sinks};
use crate::error::{Error, Result};
use crate::event::Item;
use crate::id::{ChunkId, ChunkKind, IdKeys};
use crate::rate::RateLimit;
use crate::snapshot::list::Pieces;
use crate::snapshot::tree::{Entries, let_rest};
use crate::snapshot::{Content, Entry, Kind, Piece, Time, Why};

/// How a tree is compared with a folder.
pub struct LiveOptions<'a> {
    /// Read the files, instead of believing their stamps.
    pub content: bool,
    /// Report entries as well that differ in mode, owner or time only.
    pub metadata: bool,
    /// The keys of the repository, to name chunks with.
    pub keys: &'a IdKeys,
    /// How quickly files are read at most.
    pub read_rate: Option<&'a RateLimit>,
}

/// One directory that both sides may have.
struct Level<'a> {
    saved: Option<Entries<'a>>,
    names: Peekable<std::vec::IntoIter<Vec<u8>>>,
    /// The directory on the disk: device and inode. None if only the snapshot has it.
    place: Option<(u64, u64)>,
    path_len: usize,
}

struct Live<'a, 's, 'f> {
    get: &'a dyn GetChunk,
    options: &'a LiveOptions<'a>,
    sinks: &'s mut Sinks<'f>,
    stop: &'a AtomicBool,
    summary: DiffSummary,
    levels: Vec<Level<'a>>,
    /// What is compared, without symlinks.
    place: PathBuf,
    /// The innermost directory that is on the disk.
    folder: OwnedFd,
    path: Vec<u8>,
}

/// Compares `saved`, the old side, with what lies at `place` now.
///
/// What cannot be read of the disk is a problem with its full path, and no damage.
///
/// # Errors
/// A `place` that cannot be read itself; `Interrupted`; what the sink returns.
pub fn diff_live(
    get: &dyn GetChunk,
    saved: &Entry,
    place: &Path,
    options: &LiveOptions<'_>,
    sinks: &mut Sinks<'_>,
    stop: &AtomicBool,
) -> Result<DiffSummary> {
    let failed = |error: rustix::io::Errno| Error::path("read", place)(error.into());
    // A place that is itself a symlink is followed, as a source is.
    let stat = rustix::fs::stat(place).map_err(failed)?;
    let place: PathBuf = std::fs::canonicalize(place).map_err(Error::path("read", place))?;
    let parent = place.parent().unwrap_or(Path::new("/"));
    let is_folder = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
    let opened = if is_folder { place.as_path() } else { parent };
    let folder =
        rustix::io::retry_on_intr(|| rustix::fs::openat(CWD, opened, directory_flags(), Mode::empty()))
            .map_err(|error| Error::path("read", opened)(error.into()))?;
    let summary = DiffSummary::default();
    let names =
        if is_folder { list(folder.as_fd()).map_err(Error::path("read", &place))? } else { Vec::new() };
    let name = match place.file_name() {
        Some(name) if !is_folder => name.as_bytes().to_vec(),
        _ => b".".to_vec(),
    };
    let (levels, path) = (Vec::new(), Vec::new());
    let mut live = Live { get, options, sinks, stop, summary, levels, place, folder, path };
    live.compare(Some(saved), Some((&name, &stat)))?;
    match (saved.kind.directory(), is_folder) {
        (None, false) => {}
        (saved, true) => live.enter_open(saved, names, &stat),
        (Some(saved), false) => live.enter_saved(saved),
    }
    live.run()?;
    Ok(live.summary)
}

fn directory_flags() -> OFlags {
    OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC
}

impl Live<'_, '_, '_> {
    fn run(&mut self) -> Result<()> {
        while let Some(level) = self.levels.last_mut() {
            if self.stop.load(Ordering::Relaxed) {
                return Err(Error::Interrupted);
            }
            self.path.truncate(level.path_len);
            let saved = match level.saved.as_mut().and_then(|saved| saved.next_if(Result::is_err)) {
                Some(Err(error)) => {
                    self.sinks.fail(&mut self.summary, &self.path, error);
                    continue;
                }
                _ => level.saved.as_mut().and_then(|saved| saved.peek()).and_then(|item| item.as_ref().ok()),
            };
            let (take_saved, take_live) = match (saved, level.names.peek()) {
                (None, None) => {
                    self.leave()?;
                    continue;
                }
                (Some(_), None) => (true, false),
                (None, Some(_)) => (false, true),
                (Some(entry), Some(name)) => (*entry.name <= **name, **name <= *entry.name),
            };
            let saved = if take_saved {
                level.saved.as_mut().and_then(Iterator::next).and_then(Result::ok)
            } else {
                None
            };
            let name = if take_live { level.names.next() } else { None };
            self.step(saved.as_ref(), name.as_deref())?;
        }
        Ok(())
    }

    /// Compares what is under one name, and enters it where it is a directory.
    fn step(&mut self, saved: Option<&Entry>, name: Option<&[u8]>) -> Result<()> {
        let own_name = name.or(saved.map(|entry| &*entry.name)).unwrap_or_default();
        if !self.path.is_empty() {
            self.path.push(b'/');
        }
        self.path.extend_from_slice(own_name);
        let found = match name {
            None => None,
            Some(name) => match rustix::fs::statat(&self.folder, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => Some((name, stat)),
                Err(rustix::io::Errno::NOENT) => None,
                Err(error) => return self.fail(error.into()),
            },
        };
        if saved.is_some_and(is_left_out_on_purpose) {
            return Ok(());
        }
        self.compare(saved, found.as_ref().map(|(name, stat)| (*name, stat)))?;
        let node = saved.and_then(|entry| entry.kind.directory());
        match &found {
            Some((name, stat)) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {
                self.enter(node, name, stat)
            }
            _ => {
                if let Some(node) = node {
                    self.enter_saved(node);
                }
                Ok(())
            }
        }
    }

    fn compare(&mut self, saved: Option<&Entry>, found: Option<(&[u8], &Stat)>) -> Result<()> {
        let how = match (saved, found) {
            (None, None) => return Ok(()),
            (None, Some(_)) => How::Added,
            (Some(entry), None) if matches!(entry.kind, Kind::LeftOut(..)) => return Ok(()),
            (Some(_), None) => How::Removed,
            (Some(entry), Some(_)) if matches!(entry.kind, Kind::LeftOut(..)) => How::LeftOut,
            (Some(entry), Some((name, stat))) => match self.how(entry, name, stat) {
                Ok(Some(how)) => how,
                Ok(None) => return Ok(()),
                Err(Error::Interrupted) => return Err(Error::Interrupted),
                Err(error) => {
                    self.sinks.fail(&mut self.summary, &self.path, error);
                    return Ok(());
                }
            },
        };
        if how == How::Metadata && !self.options.metadata {
            return Ok(());
        }
        let (old, new) = (saved.map(Side::of), found.map(|(_, stat)| side_of(stat)));
        self.sinks.report(&mut self.summary, &Difference { path: &self.path, how, old, new })
    }

    /// How what is on the disk differs from the entry, or nothing.
    fn how(&self, entry: &Entry, name: &[u8], stat: &Stat) -> Result<Option<How>> {
        let device = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
        let found = side_of(stat);
        let same_time = found.mtime == entry.meta.mtime;
        let same = match (&entry.kind, FileType::from_raw_mode(stat.st_mode)) {
            (Kind::Directory(_), FileType::Directory)
            | (Kind::Fifo, FileType::Fifo)
            | (Kind::Socket, FileType::Socket) => true,
            // Of a directory above a source nothing was saved but its name.
            (Kind::Implied(_), FileType::Directory) => return Ok(None),
            (Kind::File(size, _), FileType::RegularFile) if *size != found.size => false,
            (Kind::File(size, content), FileType::RegularFile) if self.options.content => {
                self.same_content(*size, content, name)?
            }
            (Kind::File(..), FileType::RegularFile) => same_time,
            (Kind::Symlink(target), FileType::Symlink) => {
                let target_now = rustix::fs::readlinkat(&self.folder, name, Vec::new())
                    .map_err(|error| self.error(error.into()))?;
                target_now.as_bytes() == &**target
            }
            (Kind::BlockDevice(major, minor), FileType::BlockDevice)
            | (Kind::CharDevice(major, minor), FileType::CharacterDevice) => device == (*major, *minor),
            _ => return Ok(Some(How::Type)),
        };
        let meta = &entry.meta;
        if !same {
            return Ok(Some(How::Content));
        }
        let same_stat = same_time && (found.mode, found.uid, found.gid) == (meta.mode, meta.uid, meta.gid);
        let same_meta = same_stat && (!self.options.metadata || self.same_xattrs(&meta.xattrs, name)?);
        Ok((!same_meta).then_some(How::Metadata))
    }

    /// Reads a file and compares it, chunk by chunk, with the ids in its entry; no chunk of the repository is read.
    fn same_content(&self, size: u64, content: &Content, name: &[u8]) -> Result<bool> {
        // Not blocking, in case a FIFO has taken the file's place.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = rustix::io::retry_on_intr(|| rustix::fs::openat(&self.folder, name, flags, Mode::empty()))
            .map_err(|error| self.error(error.into()))?;
        let mut file = File::from(file);
        let failed = |error: io::Error| self.error(error);
        if let Content::Inline(bytes) = content {
            self.pass(bytes.len() as u64);
            let mut found = Vec::new();
            (&mut file).take(bytes.len() as u64 + 1).read_to_end(&mut found).map_err(failed)?;
            return Ok(found == **bytes);
        }
        let mut buffer = Vec::new();
        for piece in Pieces::new(self.get, content, size) {
            let (mut left, id): (u64, Option<ChunkId>) = match piece? {
                Piece::Data(id, len) => (u64::from(len), Some(id)),
                Piece::Hole(len) => (len, None),
            };
            while left > 0 {
                if self.stop.load(Ordering::Relaxed) {
                    return Err(Error::Interrupted);
                }
                // A data chunk is read whole; of a hole any part may be.
                let len = if id.is_some() { left } else { left.min(1 << 20) };
                self.pass(len);
                buffer.clear();
                (&mut file).take(len).read_to_end(&mut buffer).map_err(failed)?;
                let same = match id {
                    Some(id) => self.options.keys.chunk_id(ChunkKind::Data, &buffer) == id,
                    None => buffer.iter().all(|byte| *byte == 0),
                };
                if buffer.len() as u64 != len || !same {
                    return Ok(false);
                }
                left -= len;
            }
        }
        buffer.clear();
        Ok((&mut file).take(1).read_to_end(&mut buffer).map_err(failed)? == 0)
    }

    fn pass(&self, len: u64) {
        if let Some(rate) = self.options.read_rate {
            rate.pass_or_stop(len, self.stop);
        }
    }

    /// Goes into a directory of the disk, which the snapshot may have too. One that cannot be listed is not gone into.
    fn enter(&mut self, saved: Option<ChunkId>, name: &[u8], stat: &Stat) -> Result<()> {
        let opened = rustix::io::retry_on_intr(|| {
            rustix::fs::openat(&self.folder, name, directory_flags(), Mode::empty())
        })
        .map_err(io::Error::from)
        .and_then(|folder| Ok((list(folder.as_fd())?, folder)));
        match opened {
            Ok((names, folder)) => {
                self.folder = folder;
                self.enter_open(saved, names, stat);
                Ok(())
            }
            Err(error) => self.fail(error),
        }
    }

    /// The same for the directory that is open already.
    fn enter_open(&mut self, saved: Option<ChunkId>, names: Vec<Vec<u8>>, stat: &Stat) {
        self.push(saved, names, Some((stat.st_dev, stat.st_ino)));
    }

    /// Goes into a directory that only the snapshot has.
    fn enter_saved(&mut self, node: ChunkId) {
        self.push(Some(node), Vec::new(), None);
    }

    fn push(&mut self, saved: Option<ChunkId>, names: Vec<Vec<u8>>, place: Option<(u64, u64)>) {
        self.levels.push(Level {
            saved: saved.map(|node| Entries::new(self.get, node)),
            names: names.into_iter().peekable(),
            place,
            path_len: self.path.len(),
        });
        let_rest(self.levels.iter_mut().rev().map(|level| level.saved.as_mut()));
    }

    fn leave(&mut self) -> Result<()> {
        let left = self.levels.pop();
        let (Some(Level { place: Some(_), .. }), Some(above)) = (left, self.levels.last()) else {
            return Ok(());
        };
        // Nothing is read through it, so it need not be readable. A folder that was closed to us meanwhile has no way up.
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let by_name = |_| {
            let path = full_path(&self.place, self.path.get(..above.path_len).unwrap_or_default());
            rustix::io::retry_on_intr(|| rustix::fs::openat(CWD, &path, flags, Mode::empty()))
        };
        let up = rustix::io::retry_on_intr(|| rustix::fs::openat(&self.folder, "..", flags, Mode::empty()))
            .or_else(by_name)
            .map_err(|error| self.error(error.into()))?;
        let stat = rustix::fs::fstat(&up).map_err(|error| self.error(error.into()))?;
        if above.place != Some((stat.st_dev, stat.st_ino)) {
            return Err(self.error(io::Error::other("a folder was moved away while it was compared")));
        }
        self.folder = up;
        Ok(())
    }

    fn error(&self, error: io::Error) -> Error {
        Error::path("compare", &full_path(&self.place, &self.path))(error)
    }

    #[expect(clippy::unnecessary_wraps, reason = "so that a branch can end with it")]
    fn fail(&mut self, error: io::Error) -> Result<()> {
        let error = self.error(error);
        self.sinks.fail(&mut self.summary, &self.path, error);
        Ok(())
    }
}

/// A path below the place, from the root.
fn full_path(place: &Path, path: &[u8]) -> PathBuf {
    if path.is_empty() { place.to_owned() } else { place.join(OsStr::from_bytes(path)) }
}

/// The names in an open directory, sorted.
fn list(folder: std::os::fd::BorrowedFd<'_>) -> io::Result<Vec<Vec<u8>>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(folder)? {
        let name: CString = entry?.file_name().to_owned();
        if !matches!(name.as_bytes(), b"." | b"..") {
            names.push(name.into_bytes());
        }
    }
    names.sort_unstable();
    Ok(names)
}

fn is_left_out_on_purpose(entry: &Entry) -> bool {
    matches!(entry.kind, Kind::LeftOut(Why::Excluded | Why::OtherFileSystem | Why::Repository, _))
}

fn side_of(stat: &Stat) -> Side {
    let (item, size) = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => (Item::File, u64::try_from(stat.st_size).unwrap_or(0)),
        FileType::Directory => (Item::Directory, 0),
        _ => (Item::Other, 0),
    };
    let nanos = u32::try_from(stat.st_mtime_nsec).unwrap_or(0);
    let mtime = Time { secs: stat.st_mtime, nanos };
    Side { item, size, mode: stat.st_mode & 0o7777, uid: stat.st_uid, gid: stat.st_gid, mtime }
}
