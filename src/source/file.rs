//! One entry of a source: its metadata is known ([`Found`]), its content, link target and attributes are read on demand.
//!
//! Everything is reached through the descriptor of its directory, never by its path and never through a symlink. A [`Found`] may be sent to
//! another thread and outlive the walk.

use std::fmt;
use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{OFlags, SeekFrom};
use rustix::io::{Errno, retry_on_intr};

use super::directory::{self, Directory};
use super::stat::{self, CLOCK_STEP, FileKind, Stat};
use crate::snapshot::{MAX_TARGET_LEN, Time};

/// Names and values of extended attributes, by ascending name.
pub type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

/// An entry that the walk found.
#[derive(Clone)]
pub struct Found {
    /// Its name; that of a source is the last one of its path, empty for `/`.
    pub name: Vec<u8>,
    /// Its metadata when it was found; of a directory, when it was opened.
    pub stat: Stat,
    /// The directory it is in.
    pub(super) parent: Arc<Directory>,
    /// Itself, if it is a directory.
    pub(super) itself: Option<Arc<Directory>>,
}

impl fmt::Debug for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Found").field("path", &self.path()).field("stat", &self.stat).finish_non_exhaustive()
    }
}

impl Found {
    /// Its path, below the resolved path of the source. Put together on each call.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        match &self.itself {
            Some(directory) => directory.path(),
            None => self.parent.path_of(&self.name),
        }
    }

    /// A hash of the path of the directory it is in; of a directory, of its own path.
    #[must_use]
    pub fn folder_hash(&self) -> [u8; 16] {
        self.itself.as_ref().unwrap_or(&self.parent).path_hash()
    }

    /// Opens a regular file for reading, without moving its access time where that is permitted.
    ///
    /// # Errors
    /// Any error of the system; `ESTALE` if another file is there now: see [`Found::again`].
    pub fn open(&self) -> io::Result<SourceFile> {
        let file = self.open_unasked()?;
        let opened = file.stat()?;
        if self.is(&opened) { Ok(SourceFile { opened, ..file }) } else { Err(Errno::STALE.into()) }
    }

    /// As [`Found::open`], but takes what is there for what was found, without asking: whoever reads it has to do so afterwards, by
    /// [`SourceFile::stat`], and to believe nothing unless it [is](Found::is) that and [was not changed](Stat::has_stamps_of) since.
    ///
    /// # Errors
    /// Any error of the system; `ESTALE` if a symlink is there now.
    pub fn open_unasked(&self) -> io::Result<SourceFile> {
        if self.stat.kind != FileKind::Regular {
            return Err(Errno::INVAL.into());
        }
        // O_NONBLOCK: a FIFO that took the place of the file must not hang us.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let fd =
            directory::open_quietly(&*self.parent.descriptor()?, &self.name, flags).map_err(|error| {
                // It is a symlink now.
                if error.raw_os_error() == Some(libc::ELOOP) { Errno::STALE.into() } else { error }
            })?;
        Ok(SourceFile { fd, opened: self.stat })
    }

    /// Whether these are the metadata of the file that was found, whatever became of its content.
    #[must_use]
    pub fn is(&self, stat: &Stat) -> bool {
        stat.kind == self.stat.kind && stat.id() == self.stat.id()
    }

    /// What has this name now: after `ESTALE`, since programs replace files by renaming a new one over them.
    ///
    /// # Errors
    /// Any error of the system.
    pub fn again(&self) -> io::Result<Self> {
        let stat = match &self.itself {
            Some(directory) => stat::of_descriptor(&*directory.descriptor()?)?,
            None => directory::stat_in(&*self.parent.descriptor()?, &self.name)?,
        };
        Ok(Self { stat, ..self.clone() })
    }

    /// The target of a symlink, exactly.
    ///
    /// # Errors
    /// Any error of the system; `EINVAL` if it is no symlink; `ENAMETOOLONG` over [`MAX_TARGET_LEN`].
    pub fn link_target(&self) -> io::Result<Vec<u8>> {
        let fd = self.parent.descriptor()?;
        let target = retry_on_intr(|| rustix::fs::readlinkat(&*fd, self.name.as_slice(), Vec::new()))?;
        if target.as_bytes().len() > MAX_TARGET_LEN {
            return Err(Errno::NAMETOOLONG.into());
        }
        Ok(target.into_bytes())
    }

    /// The extended attributes, ACLs and capabilities among them, by ascending name; of a symlink its own. None where
    /// the file system has none.
    ///
    /// # Errors
    /// Any error of the system.
    pub fn xattrs(&self) -> io::Result<Xattrs> {
        if let Some(directory) = &self.itself {
            return xattrs_of_descriptor(&*directory.descriptor()?);
        }
        // No call of older kernels takes a directory and a name, and no descriptor of a FIFO, device or symlink
        // serves; but /proc leads to the name without a race.
        let fd = self.parent.descriptor()?;
        let mut path = format!("/proc/self/fd/{}/", fd.as_raw_fd()).into_bytes();
        path.extend_from_slice(&self.name);
        collect_xattrs(
            |buffer| rustix::fs::llistxattr(path.as_slice(), buffer),
            |name, buffer| rustix::fs::lgetxattr(path.as_slice(), name, buffer),
        )
    }
}

/// A regular file of the source, open for reading.
#[derive(Debug)]
pub struct SourceFile {
    fd: OwnedFd,
    opened: Stat,
}

impl SourceFile {
    /// Its metadata when it was opened; when it was found, if it was [opened unasked](Found::open_unasked).
    #[must_use]
    pub fn opened(&self) -> &Stat {
        &self.opened
    }

    /// Its metadata now.
    ///
    /// # Errors
    /// Any error of the system.
    pub fn stat(&self) -> io::Result<Stat> {
        stat::of_descriptor(&self.fd)
    }

    /// Its extended attributes now, as [`Found::xattrs`].
    ///
    /// # Errors
    /// Any error of the system.
    pub fn xattrs(&self) -> io::Result<Xattrs> {
        xattrs_of_descriptor(&self.fd)
    }

    /// Waits until a call that writes to it has ended, if one is under way: it moved the times as it began.
    pub fn wait_for_writes(&self) {
        // To look for a hole takes the lock of the file, which to read takes on few file systems. What is found does not matter.
        let _ = retry_on_intr(|| rustix::fs::seek(&self.fd, SeekFrom::Hole(0)));
    }

    /// Sees to it that each change from now on moves its times, and asks for these anew: waits for writes that are under way; has written out what
    /// was written since `synced` through memory maps, so that the next such write is noticed; and has the clock, which goes on in steps,
    /// go on past the last change, as far as there is `patience` for that. False if that cannot be had: it changes all the time.
    ///
    /// # Errors
    /// Any error of the system.
    pub fn steady(&mut self, synced: Time, patience: &mut Duration) -> io::Result<bool> {
        for is_last in [false, true] {
            let before = Time::now();
            if synced.nanos_since(self.opened.ctime) <= CLOCK_STEP {
                // Where that is not possible, as in memory, there is nothing else either.
                let _ = rustix::fs::fdatasync(&self.fd);
            }
            self.wait_for_writes();
            self.opened = self.stat()?;
            match pause_until_past(self.opened.ctime, before, Time::now()) {
                None => return Ok(true),
                Some(pause) if !is_last && pause <= *patience => {
                    *patience -= pause;
                    std::thread::sleep(pause);
                }
                Some(_) => break,
            }
        }
        Ok(false)
    }

    /// Where its data are among its first `size` bytes; what is between is a hole. Whether it `has_xattrs`, which may take a block of their
    /// own, has to be known.
    #[must_use]
    pub fn extents(&self, size: u64, has_xattrs: bool) -> Extents<'_> {
        // Most files have just the blocks that they need, thus no holes, and need not be asked. Blocks that are reserved behind the end
        // or hold something else would make up for holes.
        let dense = !has_xattrs && self.opened.has_just_its_blocks();
        Extents { file: self, position: 0, size, dense }
    }

    /// Reads bytes at an offset: as many as there are, fewer at the end, 0 behind it.
    ///
    /// The end is believed without asking once more where a read stops short just there where it was when the file was opened.
    ///
    /// # Errors
    /// Any error of the system.
    pub fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut filled = 0;
        while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            let wanted = rest.len();
            match rustix::io::pread(&self.fd, rest, offset + filled as u64) {
                Ok(0) => break,
                Ok(read) => {
                    filled += read;
                    if read < wanted && offset + filled as u64 == self.opened.size {
                        break;
                    }
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(filled)
    }
}

/// For how long a later change may not move a ctime that was `ctime` at some moment between two.
fn pause_until_past(ctime: Time, before: Time, after: Time) -> Option<Duration> {
    // Some file systems know whole seconds only.
    let step = CLOCK_STEP + if ctime.nanos == 0 { 1_000_000_000 } else { 0 };
    // One from the future, which a clock was set back from, is not come upon by chance.
    let is_near = before.nanos_since(ctime) <= step && ctime.nanos_since(after) <= CLOCK_STEP;
    let rest = u64::try_from(step - after.nanos_since(ctime)).unwrap_or(0);
    is_near.then(|| Duration::from_nanos(rest) + Duration::from_millis(1))
}

/// The ranges of a file that hold data, ascending, not touching, none empty. Asked for one by one.
#[derive(Debug)]
pub struct Extents<'f> {
    file: &'f SourceFile,
    position: u64,
    size: u64,
    dense: bool,
}

impl Extents<'_> {
    fn seek(&self, to: SeekFrom) -> Result<u64, Errno> {
        retry_on_intr(|| rustix::fs::seek(&self.file.fd, to))
    }

    fn advance(&mut self) -> Result<Option<Range<u64>>, Errno> {
        let start = if self.dense {
            self.position
        } else {
            match self.seek(SeekFrom::Data(self.position)) {
                Ok(start) => start.max(self.position),
                // No data up to the end.
                Err(Errno::NXIO) => self.size,
                // The file system cannot tell: all of it may be data.
                Err(Errno::INVAL | Errno::OPNOTSUPP) => {
                    self.dense = true;
                    self.position
                }
                Err(error) => return Err(error),
            }
        };
        if start >= self.size {
            self.position = self.size;
            return Ok(None);
        }
        let end = if self.dense {
            self.size
        } else {
            match self.seek(SeekFrom::Hole(start)) {
                // A file that shrinks meanwhile ends before its data begin.
                Ok(end) if end > start => end.min(self.size),
                Ok(_) | Err(Errno::NXIO) => self.size,
                Err(error) => return Err(error),
            }
        };
        self.position = end;
        Ok(Some(start..end))
    }
}

impl Iterator for Extents<'_> {
    type Item = io::Result<Range<u64>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.position >= self.size {
            return None;
        }
        let next = self.advance();
        if next.is_err() {
            self.position = self.size;
        }
        next.map_err(io::Error::from).transpose()
    }
}

fn xattrs_of_descriptor(fd: &OwnedFd) -> io::Result<Xattrs> {
    collect_xattrs(
        |buffer| rustix::fs::flistxattr(fd, buffer),
        |name, buffer| rustix::fs::fgetxattr(fd, name, buffer),
    )
}

fn collect_xattrs(
    list: impl Fn(&mut [u8]) -> Result<usize, Errno>,
    get: impl Fn(&[u8], &mut [u8]) -> Result<usize, Errno>,
) -> io::Result<Xattrs> {
    let names = match fill(&list) {
        Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
        other => other?,
    };
    let mut xattrs = Vec::new();
    for name in names.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        match fill(|buffer| get(name, buffer)) {
            Ok(value) => xattrs.push((name.to_vec(), value)),
            // It was removed meanwhile, or is listed without having a value.
            Err(Errno::NODATA | Errno::OPNOTSUPP) => {}
            // What NFS and CIFS make up of their own ACLs cannot be set elsewhere, and is not always readable.
            Err(_) if name.starts_with(b"system.") && !name.starts_with(b"system.posix_acl_") => {}
            Err(error) => return Err(error.into()),
        }
    }
    xattrs.sort_unstable();
    xattrs.dedup_by(|one, other| one.0 == other.0);
    Ok(xattrs)
}

/// Calls with a buffer that is large enough. The size may change between two calls.
fn fill(call: impl Fn(&mut [u8]) -> Result<usize, Errno>) -> Result<Vec<u8>, Errno> {
    /// The kernel itself allows 64 KiB.
    const MAX_LEN: usize = 16 << 20;
    let mut buffer = vec![0; 1024];
    loop {
        match call(&mut buffer) {
            Ok(len) => {
                buffer.truncate(len);
                return Ok(buffer);
            }
            Err(Errno::INTR) => {}
            Err(Errno::RANGE) if buffer.len() < MAX_LEN => buffer = vec![0; buffer.len() * 8],
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: i64) -> Time {
        let nanos = u32::try_from(millis.rem_euclid(1000) * 1_000_000).unwrap_or(0);
        Time { secs: millis.div_euclid(1000), nanos }
    }

    #[test]
    fn a_change_time_is_trusted_once_the_clock_has_gone_on_past_it() {
        let now = 5_000_400;
        let pause = |ctime: i64, before: i64| pause_until_past(at(ctime), at(before), at(now));
        assert_eq!(pause(now - 21, now), None);
        assert_eq!(pause(now - 5, now), Some(Duration::from_millis(16)));
        // It changed after it was first asked about, and long before it could be looked at.
        assert!(pause(now - 300, now - 305).is_some());
        // Whole seconds.
        assert_eq!(pause(5_000_000, now), Some(Duration::from_millis(621)));
        assert_eq!(pause(4_999_000, now), None);
        // From the future, which a clock was set back from.
        assert_eq!(pause(now + 3_600_000, now), None);
    }
}
