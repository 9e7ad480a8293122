//! The target file system, by descriptor: the only file of `restore` that makes system calls on it.
//!
//! [`Dir`] is an open directory; every name in it is opened with `openat2`, beneath it and through no symlink. [`Dirs`] is
//! a chain of directories of any depth of which a bounded number is open: one that was closed is found again by its
//! names, from the nearest open one, and believed only if it is still the same inode. [`Temp`] is a new file without
//! its final name, which is removed unless it is given one; a new directory may be without its name for a while too
//! (`hidden`). [`Handle`] is a thing whose metadata is read and set.

mod chain;
mod folding;
mod handle;
mod hidden;
mod root;

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex};

use rustix::fs::{
    AtFlags, CWD, FallocateFlags, FileType, Mode, OFlags, RawDir, RenameFlags, ResolveFlags, SeekFrom, Stat,
    StatxFlags,
};
use rustix::io::{Errno, retry_on_intr};

use crate::error::{Error, Result};
use crate::session::{self, Session};
use crate::snapshot::Time;

pub(super) use chain::Dirs;
pub(super) use folding::{Folding, alike, fold, may_be_short};
pub(super) use handle::Handle;
pub(super) use root::{check_no_repository, check_not_nested, make_root};

/// Names are looked up together in paths up to this length, which the system takes.
const MAX_LOOKUP_LEN: usize = 2048;

/// Device and inode: whether two names are one file.
pub(super) type Inode = (u64, u64);

/// The inode that a stat is of.
pub(super) fn inode_of(stat: &Stat) -> Inode {
    (stat.st_dev, stat.st_ino)
}

/// What kind of thing a stat is of.
pub(super) fn type_of(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

/// The time of modification in a stat.
pub(super) fn mtime_of(stat: &Stat) -> Time {
    Time { secs: stat.st_mtime, nanos: u32::try_from(stat.st_mtime_nsec).unwrap_or(0) }
}

/// An open directory at or below the target.
pub(super) struct Dir {
    fd: OwnedFd,
    /// Below the target, empty for the target itself.
    pub(super) path: Vec<u8>,
    pub(super) inode: Inode,
    /// The mount it was reached through, as far as the system tells.
    mount: u64,
    /// It was made here a moment ago, and nobody but its owner may enter it: what it has was put there by this restore.
    is_own: bool,
    hidden: Mutex<Option<hidden::Hidden>>,
}

impl Dir {
    /// Opens the target itself: the one path that is followed, because the user named it.
    pub(super) fn open_root(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = retry_on_intr(|| rustix::fs::openat(CWD, path, flags, Mode::empty()))?;
        Self::new(fd, Vec::new())
    }

    fn new(fd: OwnedFd, path: Vec<u8>) -> io::Result<Self> {
        let inode = inode_of(&rustix::fs::fstat(&fd)?);
        // Before Linux 5.8 nothing tells one mount of a file system from another: then the file system alone counts.
        let stat = rustix::fs::statx(&fd, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID);
        let mount = stat.ok().filter(|stat| stat.stx_mask & StatxFlags::MNT_ID.bits() != 0);
        let mount = mount.map_or(0, |stat| stat.stx_mnt_id);
        Ok(Self { fd, path, inode, mount, is_own: false, hidden: Mutex::default() })
    }

    /// The file system that it lies on, and the mount through which it was reached.
    pub(super) fn mount(&self) -> (u64, u64) {
        (self.inode.0, self.mount)
    }

    fn open(&self, name: &[u8], flags: OFlags, further: ResolveFlags) -> io::Result<OwnedFd> {
        open_beneath(self.fd.as_fd(), name, flags, Mode::empty(), further)
    }

    /// What `name` is, if it is there.
    pub(super) fn stat(&self, name: &[u8]) -> io::Result<Option<Stat>> {
        match rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// What this directory is now.
    pub(super) fn stat_self(&self) -> io::Result<Stat> {
        Ok(rustix::fs::fstat(&self.fd)?)
    }

    /// Opens the directory `name`.
    pub(super) fn open_dir(&self, name: &[u8], path: Vec<u8>) -> io::Result<Self> {
        Self::new(self.open(name, DIRECTORY, ResolveFlags::empty())?, path)
    }

    /// Opens the directory `name`. One that its owner may not enter is opened to the owner first, and its mode returned.
    pub(super) fn force_open_dir(&self, name: &[u8], path: Vec<u8>) -> io::Result<(Self, Option<u32>)> {
        match self.open_dir(name, path.clone()) {
            Err(error) if error.raw_os_error() == Some(libc::EACCES) => {
                let handle = self.handle(name)?;
                let mode = handle.stat()?.st_mode & 0o7777;
                handle.chmod(mode | 0o700)?;
                Ok((self.open_dir(name, path)?, Some(mode)))
            }
            other => Ok((other?, None)),
        }
    }

    /// Opens the directory `name` unless something else is mounted on it.
    pub(super) fn open_dir_here(&self, name: &[u8], path: Vec<u8>) -> io::Result<Self> {
        Self::new(self.open(name, DIRECTORY, ResolveFlags::NO_XDEV)?, path)
    }

    /// Makes a directory that only its owner may enter, and opens it.
    pub(super) fn make_dir(&self, name: &[u8], path: Vec<u8>) -> io::Result<Self> {
        rustix::fs::mkdirat(&self.fd, name, Mode::RWXU)?;
        Ok(Self { is_own: true, ..self.open_dir(name, path)? })
    }

    /// Whether nothing is in it but what this restore has put there.
    pub(super) fn is_own(&self) -> bool {
        self.is_own
    }

    /// Makes a directory as any program does, by the process's umask.
    pub(super) fn make_default_dir(&self, name: &[u8]) -> io::Result<()> {
        Ok(rustix::fs::mkdirat(&self.fd, name, Mode::from_raw_mode(0o777))?)
    }

    /// Opens the regular file `name` for reading.
    pub(super) fn open_file(&self, name: &[u8]) -> io::Result<File> {
        // NONBLOCK: a FIFO that takes the place of the file meanwhile must not hang us.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = File::from(self.open(name, flags, ResolveFlags::empty())?);
        if file.metadata()?.is_file() { Ok(file) } else { Err(io::ErrorKind::InvalidData.into()) }
    }

    /// A handle on `name`, whatever it is, which may be used on its metadata only.
    pub(super) fn handle(&self, name: &[u8]) -> io::Result<Handle<'static>> {
        Ok(Handle::Place(self.open(name, OFlags::PATH, ResolveFlags::empty())?))
    }

    /// A handle on this directory itself.
    pub(super) fn own_handle(&self) -> Handle<'_> {
        Handle::Open(self.fd.as_fd())
    }

    /// The target of the symlink `name`.
    pub(super) fn read_link(&self, name: &[u8]) -> io::Result<Vec<u8>> {
        Ok(rustix::fs::readlinkat(&self.fd, name, Vec::new())?.into_bytes())
    }

    /// Removes a name that is no directory.
    pub(super) fn unlink(&self, name: &[u8]) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(&self.fd, name, AtFlags::empty())?)
    }

    /// Removes an empty directory.
    pub(super) fn remove_dir(&self, name: &[u8]) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(&self.fd, name, AtFlags::REMOVEDIR)?)
    }

    /// Lists the directory from its beginning.
    pub(super) fn list(&self, mut each: impl FnMut(&[u8], FileType) -> Result<()>) -> Result<()> {
        let error = |errno: Errno| Error::Path {
            action: "list",
            path: PathBuf::from(OsStr::from_bytes(&self.path)),
            source: errno.into(),
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = retry_on_intr(|| rustix::fs::openat(&self.fd, ".", flags, Mode::empty())).map_err(error)?;
        let mut buffer = vec![MaybeUninit::uninit(); 64 << 10];
        let mut names = RawDir::new(&fd, &mut buffer);
        while let Some(item) = names.next() {
            let item = item.map_err(error)?;
            let name = item.file_name().to_bytes();
            if name != b"." && name != b".." {
                each(name, item.file_type())?;
            }
        }
        Ok(())
    }

    /// Makes all of the file system durable.
    pub(super) fn sync(&self) -> io::Result<()> {
        Ok(retry_on_intr(|| rustix::fs::syncfs(&self.fd))?)
    }

    /// The directory at a path of names below this one, if it still is the inode it was.
    pub(super) fn walk_to(&self, names: &[&[u8]], path: Vec<u8>, inode: Inode) -> io::Result<Self> {
        let mut fd = rustix::io::fcntl_dupfd_cloexec(&self.fd, 0)?;
        for lookup in lookups(names) {
            fd = open_beneath(fd.as_fd(), &lookup, DIRECTORY, Mode::empty(), ResolveFlags::empty())?;
        }
        let found = Self::new(fd, path)?;
        if found.inode == inode {
            Ok(found)
        } else {
            Err(io::Error::other("a directory was moved meanwhile"))
        }
    }

    /// Gives what has the name `from` in the directory `from_dir` this further name.
    pub(super) fn link(&self, name: &[u8], from_dir: &Self, from: &[u8]) -> io::Result<()> {
        Ok(rustix::fs::linkat(&from_dir.fd, from, &self.fd, name, AtFlags::empty())?)
    }

    /// Gives `from` the name `to`, in place of anything that is no directory.
    pub(super) fn rename(&self, from: &[u8], to: &[u8]) -> io::Result<()> {
        Ok(rustix::fs::renameat(&self.fd, from, &self.fd, to)?)
    }

    /// Gives `from` the name `to`, which must not exist.
    pub(super) fn rename_new(&self, from: &[u8], to: &[u8]) -> io::Result<()> {
        match rustix::fs::renameat_with(&self.fd, from, &self.fd, to, RenameFlags::NOREPLACE) {
            // A file system that cannot: nobody else is expected to make such a name at this very moment.
            Err(Errno::INVAL | Errno::NOSYS) if self.stat(to)?.is_none() => self.rename(from, to),
            other => Ok(other?),
        }
    }

    /// Whether a repository lies in this directory, be it a damaged one `[REPO-4]`.
    ///
    /// # Errors
    /// What the medium says instead of giving a file that would tell; not what the user may not open, as then no folder that cannot be entered
    /// could be told.
    pub(super) fn is_repository(&self) -> io::Result<bool> {
        let is_ours = |name: &str, magics: &[&[u8; 8]]| {
            let mut found = [0; 8];
            match self.open_file(name.as_bytes()).and_then(|file| file.read_exact_at(&mut found, 0)) {
                Ok(()) => Ok(magics.contains(&&found)),
                Err(error) => {
                    let is_none = matches!(
                        error.kind(),
                        io::ErrorKind::NotFound | io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof
                    ) || matches!(
                        error.raw_os_error(),
                        Some(libc::ELOOP | libc::ENXIO | libc::EACCES)
                    );
                    if is_none { Ok(false) } else { Err(error) }
                }
            }
        };
        let is_folder = |name: &&str| matches!(self.stat(name.as_bytes()), Ok(Some(stat)) if type_of(&stat) == FileType::Directory);
        let config: &[u8; 8] = b"VLTCONFG";
        Ok(is_ours("config", &[config])?
            || is_ours("config.2", &[config])?
            || is_ours("copy", &[b"VLTCOPY1"])?
            || ["packs", "index", "snapshots", "records", "tmp"].iter().all(is_folder))
    }
}

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY);

/// The one way to a name: beneath the directory, through no symlink and not through `/proc`.
fn open_beneath(
    directory: BorrowedFd<'_>,
    name: &[u8],
    flags: OFlags,
    mode: Mode,
    further: ResolveFlags,
) -> io::Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS | further;
    let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    loop {
        match rustix::fs::openat2(directory, name, flags, mode, resolve) {
            // AGAIN: a rename elsewhere kept the system from telling whether the name leads out of the directory.
            Err(Errno::AGAIN | Errno::INTR) => {}
            other => return Ok(other?),
        }
    }
}

/// Names joined into paths short enough to be looked up at once.
fn lookups(names: &[&[u8]]) -> Vec<Vec<u8>> {
    let mut paths: Vec<Vec<u8>> = Vec::new();
    for name in names {
        match paths.last_mut() {
            Some(path) if path.len() + name.len() < MAX_LOOKUP_LEN => {
                path.push(b'/');
                path.extend_from_slice(name);
            }
            _ => paths.push(name.to_vec()),
        }
    }
    paths
}

/// A new thing under a temporary name, or under its own in a directory that is hidden. Dropped without `rename`, it is removed.
pub(super) struct Temp {
    pub(super) dir: Arc<Dir>,
    name: Vec<u8>,
    naming: Naming,
    done: bool,
}

/// What the name of a [`Temp`] is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Naming {
    Temporary,
    /// A temporary one, and a further name of something that may have the final name already.
    Further,
    /// The final one, which is given to it with the directory's.
    Final,
}

impl Temp {
    fn new(dir: &Arc<Dir>, name: Vec<u8>, naming: Naming) -> Self {
        Self { dir: dir.clone(), name, naming, done: false }
    }

    /// A new regular file that is to be called `name`, open for writing and reading. It has as much of the mode that it is to get as
    /// others cannot make use of before it belongs to whom it is to.
    pub(super) fn file(dir: &Arc<Dir>, name: &[u8], mode: u32) -> io::Result<(Self, File)> {
        let (name, naming) = if dir.is_hidden() {
            (name.to_vec(), Naming::Final)
        } else {
            (temporary_name(), Naming::Temporary)
        };
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
        let early = if dir.is_own { mode & 0o777 } else { 0 };
        let mode = Mode::RUSR | Mode::WUSR | Mode::from_raw_mode(early);
        let fd = open_beneath(dir.fd.as_fd(), &name, flags, mode, ResolveFlags::empty())?;
        Ok((Self::new(dir, name, naming), File::from(fd)))
    }

    /// A new symlink.
    pub(super) fn symlink(dir: &Arc<Dir>, target: &[u8]) -> io::Result<Self> {
        let name = temporary_name();
        rustix::fs::symlinkat(target, &dir.fd, &name)?;
        Ok(Self::new(dir, name, Naming::Temporary))
    }

    /// A new FIFO, socket or device.
    pub(super) fn node(dir: &Arc<Dir>, kind: FileType, major: u32, minor: u32) -> io::Result<Self> {
        let name = temporary_name();
        let device = rustix::fs::makedev(major, minor);
        let made = rustix::fs::mknodat(&dir.fd, &name, kind, Mode::RUSR | Mode::WUSR, device);
        if made.is_err_and(|error| error != Errno::EXIST) {
            // exFAT over FUSE makes a regular file, of which the system says then that it is not what was asked for.
            let _ = dir.unlink(&name);
        }
        made?;
        Ok(Self::new(dir, name, Naming::Temporary))
    }

    /// A further name of a thing.
    pub(super) fn link(dir: &Arc<Dir>, from_dir: &Dir, from: &[u8]) -> io::Result<Self> {
        let name = temporary_name();
        dir.link(&name, from_dir, from)?;
        Ok(Self::new(dir, name, Naming::Further))
    }

    /// Opens the file again.
    pub(super) fn reopen(&self, inode: Inode) -> io::Result<File> {
        let flags = OFlags::RDWR | OFlags::NONBLOCK;
        let file = File::from(self.dir.open(&self.name, flags, ResolveFlags::empty())?);
        if inode_of(&rustix::fs::fstat(&file)?) == inode {
            Ok(file)
        } else {
            Err(io::Error::other("a temporary file was replaced meanwhile"))
        }
    }

    /// A handle on it.
    pub(super) fn handle(&self) -> io::Result<Handle<'static>> {
        self.dir.handle(&self.name)
    }

    /// Gives it its name, in place of anything that is no directory.
    pub(super) fn rename(&mut self, name: &[u8]) -> io::Result<()> {
        if self.naming == Naming::Final && self.name == name {
            self.done = !self.dir.is_hidden();
            let hidden = || io::Error::other("its directory did not get its name");
            return self.done.then_some(()).ok_or_else(hidden);
        }
        self.dir.rename(&self.name, name)?;
        // Two names of one inode: the rename did nothing, and the temporary one goes.
        self.done = self.naming != Naming::Further || self.dir.stat(&self.name)?.is_none();
        Ok(())
    }

    /// Gives it its name, which must not exist.
    pub(super) fn rename_new(&mut self, name: &[u8]) -> io::Result<()> {
        self.dir.rename_new(&self.name, name)?;
        self.done = true;
        Ok(())
    }
}

impl Drop for Temp {
    fn drop(&mut self) {
        // What is in a directory that is shown is whole.
        if self.done || self.naming == Naming::Final && !self.dir.is_hidden() {
            return;
        }
        // Nothing refers to it, and what went wrong before is what the user hears of.
        let removed = self.dir.unlink(&self.name);
        let stays = removed.is_err_and(|error| error.kind() != io::ErrorKind::NotFound);
        if stays && self.naming == Naming::Final {
            self.dir.spoil();
        }
    }
}

const TEMPORARY: (&str, &str) = (".vault-", ".tmp");

/// A name that nobody else uses.
fn temporary_name() -> Vec<u8> {
    static SESSION: LazyLock<Session> = LazyLock::new(Session::begin);
    let name = SESSION.temporary();
    let name = name.strip_prefix("tmp/").unwrap_or(&name);
    [TEMPORARY.0, name, TEMPORARY.1].concat().into_bytes()
}

/// Whether a temporary name is of a restore on this host that has ended.
pub(super) fn is_left_over(name: &[u8]) -> bool {
    std::str::from_utf8(name)
        .ok()
        .and_then(|name| name.strip_prefix(TEMPORARY.0)?.strip_suffix(TEMPORARY.1))
        .is_some_and(session::is_left_over)
}

/// Makes `new` a clone of the blocks of `old`, where the file system can.
pub(super) fn clone_blocks(new: &File, old: &File) -> bool {
    rustix::fs::ioctl_ficlone(new, old).is_ok()
}

/// Gives a file its length; no file system has one that is longer than a signed number says.
pub(super) fn set_len(file: &File, len: u64) -> io::Result<()> {
    i64::try_from(len).map_or(Err(Errno::FBIG.into()), |_| file.set_len(len))
}

/// Makes a range of a file a hole.
pub(super) fn punch(file: &File, at: u64, len: u64) -> io::Result<()> {
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    Ok(retry_on_intr(|| rustix::fs::fallocate(file, flags, at, len))?)
}

/// Makes a range of a file read as zeros.
pub(super) fn blank(file: &File, mut at: u64, len: u64) -> io::Result<()> {
    if punch(file, at, len).is_ok() {
        return Ok(());
    }
    let end = at.saturating_add(len);
    let zeros = [0; 16 << 10];
    while at < end {
        let len = usize::try_from(end - at).map_or(zeros.len(), |rest| rest.min(zeros.len()));
        file.write_all_at(zeros.get(..len).unwrap_or_default(), at)?;
        at += len as u64;
    }
    Ok(())
}

/// The first byte at or after `at` that may be other than zero; none if there is none until the end.
pub(super) fn next_data(file: &File, at: u64) -> io::Result<Option<u64>> {
    match rustix::fs::seek(file, SeekFrom::Data(at)) {
        Ok(found) => Ok(Some(found)),
        Err(Errno::NXIO) => Ok(None),
        // A file system that knows nothing of holes.
        Err(Errno::INVAL | Errno::OPNOTSUPP) => Ok(Some(at)),
        Err(error) => Err(error.into()),
    }
}

/// Drops what the system has cached of a file that is synced, so that the next read comes from the medium.
pub(super) fn drop_cached(file: &File) {
    // A file system without a page cache of its own has nothing to drop.
    let _ = rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::DontNeed);
}
