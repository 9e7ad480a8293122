//! A thing of the target whose metadata is read and set, open or not.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, CWD, Gid, Mode, Stat, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use crate::snapshot::Time;

/// A thing whose metadata is read and set.
pub(in crate::restore) enum Handle<'a> {
    /// An open file or directory.
    Open(BorrowedFd<'a>),
    /// Anything, not opened itself; reached through `/proc/self/fd`, which leads to the very inode, a symlink too.
    Place(OwnedFd),
}

impl Handle<'_> {
    fn place(fd: &OwnedFd) -> String {
        format!("/proc/self/fd/{}", fd.as_raw_fd())
    }

    /// What it is now.
    pub(in crate::restore) fn stat(&self) -> io::Result<Stat> {
        Ok(match self {
            Self::Open(fd) => rustix::fs::fstat(fd)?,
            Self::Place(fd) => rustix::fs::fstat(fd)?,
        })
    }

    /// Sets owner and group, each if given.
    pub(in crate::restore) fn chown(&self, uid: Option<u32>, gid: Option<u32>) -> io::Result<()> {
        // The system would take this number for "as it is", and say that it is done.
        if [uid, gid].contains(&Some(u32::MAX)) {
            return Err(Errno::INVAL.into());
        }
        let (uid, gid) = (uid.map(Uid::from_raw), gid.map(Gid::from_raw));
        match self {
            Self::Open(fd) => rustix::fs::fchown(fd, uid, gid)?,
            Self::Place(fd) => rustix::fs::chownat(fd, "", uid, gid, AtFlags::EMPTY_PATH)?,
        }
        Ok(())
    }

    /// Sets the lower 12 bits of the mode. Not for symlinks, which have none.
    pub(in crate::restore) fn chmod(&self, mode: u32) -> io::Result<()> {
        let mode = Mode::from_raw_mode(mode);
        match self {
            Self::Open(fd) => rustix::fs::fchmod(fd, mode)?,
            Self::Place(fd) => rustix::fs::chmodat(CWD, Self::place(fd), mode, AtFlags::empty())?,
        }
        Ok(())
    }

    /// Sets the time of modification, and leaves that of access.
    pub(in crate::restore) fn set_mtime(&self, mtime: Time) -> io::Result<()> {
        self.set_times(Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT }, mtime)
    }

    /// The same, and gives it anew the time of access that it has: drivers on libfuse 2 pass on only both times together.
    pub(in crate::restore) fn set_mtime_with_access(&self, mtime: Time, stat: &Stat) -> io::Result<()> {
        let nanos = i64::try_from(stat.st_atime_nsec).unwrap_or(0);
        self.set_times(Timespec { tv_sec: stat.st_atime, tv_nsec: nanos }, mtime)
    }

    fn set_times(&self, last_access: Timespec, mtime: Time) -> io::Result<()> {
        let times = Timestamps {
            last_access,
            last_modification: Timespec { tv_sec: mtime.secs, tv_nsec: mtime.nanos.into() },
        };
        match self {
            Self::Open(fd) => rustix::fs::futimens(fd, &times)?,
            Self::Place(fd) => rustix::fs::utimensat(CWD, Self::place(fd), &times, AtFlags::empty())?,
        }
        Ok(())
    }

    /// The names of its extended attributes; none where there can be none.
    pub(in crate::restore) fn xattr_names(&self) -> io::Result<Vec<Vec<u8>>> {
        let list = sized(|buffer| match self {
            Self::Open(fd) => rustix::fs::flistxattr(fd, buffer),
            Self::Place(fd) => rustix::fs::listxattr(Self::place(fd), buffer),
        });
        match list {
            Ok(list) => Ok(list
                .split(|byte| *byte == 0)
                .filter(|name| !name.is_empty())
                .map(<[u8]>::to_vec)
                .collect()),
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(Vec::new()),
            Err(error) => Err(error.into()),
        }
    }

    /// The value of an extended attribute, if it is there.
    pub(in crate::restore) fn xattr(&self, name: &[u8]) -> io::Result<Option<Vec<u8>>> {
        let value = sized(|buffer| match self {
            Self::Open(fd) => rustix::fs::fgetxattr(fd, name, buffer),
            Self::Place(fd) => rustix::fs::getxattr(Self::place(fd), name, buffer),
        });
        match value {
            Ok(value) => Ok(Some(value)),
            Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Sets an extended attribute.
    pub(in crate::restore) fn set_xattr(&self, name: &[u8], value: &[u8]) -> io::Result<()> {
        let flags = XattrFlags::empty();
        match self {
            Self::Open(fd) => rustix::fs::fsetxattr(fd, name, value, flags)?,
            Self::Place(fd) => rustix::fs::setxattr(Self::place(fd), name, value, flags)?,
        }
        Ok(())
    }

    /// Removes an extended attribute.
    pub(in crate::restore) fn remove_xattr(&self, name: &[u8]) -> io::Result<()> {
        match self {
            Self::Open(fd) => rustix::fs::fremovexattr(fd, name)?,
            Self::Place(fd) => rustix::fs::removexattr(Self::place(fd), name)?,
        }
        Ok(())
    }
}

/// What a call writes into a buffer whose size is not known before.
fn sized(call: impl Fn(&mut [u8]) -> Result<usize, Errno>) -> Result<Vec<u8>, Errno> {
    let mut buffer = vec![0; 256];
    loop {
        match call(&mut buffer) {
            Ok(len) => {
                buffer.truncate(len);
                return Ok(buffer);
            }
            // The system's own limit is 64 KiB; some file systems go beyond it.
            Err(Errno::RANGE) if buffer.len() < 32 << 20 => buffer.resize(buffer.len() * 8, 0),
            Err(error) => return Err(error),
        }
    }
}
