//! Directories of a walk, held by descriptor.
//!
//! Any number of directories can be referred to at a time: those of a path 10,000 levels deep, those that wait in a queue.
//! Only [`MAX_OPEN`] of them hold a descriptor, the latest opened ones; another one is opened again when it is needed, name by name
//! from the nearest one above it that is open, and is only taken if it has the device and inode it had before. Its path, which may be far longer than the
//! system takes, is put together only when somebody asks.

use std::collections::{HashMap, VecDeque};
use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use super::stat::{self, Device, Stat};
use crate::id;

/// The most directories of a walk that are open at a time, but for its root and the ones in use by other threads.
pub const MAX_OPEN: usize = 64;

/// The open descriptors of one walk.
#[derive(Default)]
pub(super) struct Pool {
    next_serial: AtomicU64,
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    descriptors: HashMap<u64, Arc<OwnedFd>>,
    /// The serials of `descriptors`, the oldest first.
    order: VecDeque<u64>,
}

impl Pool {
    fn hold(&self, serial: u64, fd: Arc<OwnedFd>) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.descriptors.insert(serial, fd).is_none() {
            open.order.push_back(serial);
        }
        if open.order.len() > MAX_OPEN
            && let Some(oldest) = open.order.pop_front()
        {
            open.descriptors.remove(&oldest);
        }
    }

    fn held(&self, serial: u64) -> Option<Arc<OwnedFd>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).descriptors.get(&serial).cloned()
    }

    fn forget(&self, serial: u64) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.descriptors.remove(&serial).is_some() {
            open.order.retain(|held| *held != serial);
        }
    }
}

/// A directory of a walk.
pub(super) struct Directory {
    parent: Option<Arc<Directory>>,
    /// The name in the parent; the whole path of the topmost one.
    name: Vec<u8>,
    id: (Device, u64),
    serial: u64,
    pool: Arc<Pool>,
    /// The descriptor of the topmost one, which is never closed.
    pinned: Option<Arc<OwnedFd>>,
    path_hash: OnceLock<[u8; 16]>,
}

impl Directory {
    /// The directory that a walk starts from.
    pub(super) fn top(path: Vec<u8>, fd: OwnedFd) -> io::Result<Arc<Self>> {
        let stat = stat::of_descriptor(&fd)?;
        Ok(Arc::new(Self {
            parent: None,
            name: path,
            id: stat.id(),
            serial: 0,
            pool: Arc::default(),
            pinned: Some(Arc::new(fd)),
            path_hash: OnceLock::new(),
        }))
    }

    /// Opens a directory in this one.
    pub(super) fn enter(self: &Arc<Self>, name: &[u8]) -> io::Result<(Arc<Self>, Stat)> {
        let fd = open_directory(&*self.descriptor()?, name)?;
        let stat = stat::of_descriptor(&fd)?;
        let directory = Arc::new(Self {
            parent: Some(self.clone()),
            name: name.to_vec(),
            id: stat.id(),
            serial: self.pool.next_serial.fetch_add(1, Ordering::Relaxed) + 1,
            pool: self.pool.clone(),
            pinned: None,
            path_hash: OnceLock::new(),
        });
        directory.pool.hold(directory.serial, Arc::new(fd));
        Ok((directory, stat))
    }

    /// Its descriptor, opened again if need be.
    pub(super) fn descriptor(&self) -> io::Result<Arc<OwnedFd>> {
        let mut missing = Vec::new();
        let mut directory = self;
        let mut fd = loop {
            if let Some(fd) = directory.held() {
                break fd;
            }
            missing.push(directory);
            directory = directory.parent.as_deref().ok_or(Errno::STALE)?;
        };
        while let Some(directory) = missing.pop() {
            fd = Arc::new(open_directory(&fd, &directory.name)?);
            directory.verify(&fd)?;
            // The ones right above are likely to be asked for next, on the way back up.
            if missing.len() < MAX_OPEN / 2 {
                directory.pool.hold(directory.serial, fd.clone());
            }
        }
        Ok(fd)
    }

    /// Opens the parent again if it is not open, in one step, while this one is: the walk goes back to it.
    pub(super) fn reopen_parent(&self) {
        let Some(parent) = &self.parent else { return };
        if parent.held().is_some() {
            return;
        }
        // A failure is no harm: then it is opened from the top when needed.
        if let Some(fd) = self.held()
            && let Ok(fd) = open_directory(&fd, b"..")
            && parent.verify(&fd).is_ok()
        {
            parent.pool.hold(parent.serial, Arc::new(fd));
        }
    }

    fn held(&self) -> Option<Arc<OwnedFd>> {
        self.pinned.clone().or_else(|| self.pool.held(self.serial))
    }

    fn verify(&self, fd: &OwnedFd) -> io::Result<()> {
        if stat::of_descriptor(fd)?.id() == self.id { Ok(()) } else { Err(Errno::STALE.into()) }
    }

    /// Its number in this walk; 0 for the topmost one.
    pub(super) fn serial(&self) -> u64 {
        self.serial
    }

    /// Its path. Costs as much as it is long.
    pub(super) fn path(&self) -> PathBuf {
        self.path_of(&[])
    }

    /// A hash of its path.
    pub(super) fn path_hash(&self) -> [u8; 16] {
        *self.path_hash.get_or_init(|| id::checksum_128(&[self.path().as_os_str().as_bytes()]))
    }

    /// The path of a name in it; of itself for an empty name.
    pub(super) fn path_of(&self, name: &[u8]) -> PathBuf {
        let mut names = vec![name];
        let mut directory = Some(self);
        while let Some(this) = directory {
            names.push(&this.name);
            directory = this.parent.as_deref();
        }
        let mut path = Vec::with_capacity(names.iter().map(|name| name.len() + 1).sum());
        for name in names.into_iter().rev().filter(|name| !name.is_empty()) {
            if path.last().is_some_and(|last| *last != b'/') {
                path.push(b'/');
            }
            path.extend_from_slice(name);
        }
        PathBuf::from(OsString::from_vec(path))
    }
}

impl Drop for Directory {
    /// Closes the descriptor, and lets go of the ones above one by one: the drop of a chain of 10,000 must not recurse.
    fn drop(&mut self) {
        if self.pinned.is_none() {
            self.pool.forget(self.serial);
        }
        let mut parent = self.parent.take();
        while let Some(mut directory) = parent.and_then(Arc::into_inner) {
            parent = directory.parent.take();
        }
    }
}

/// Opens a directory and never a symlink to one.
fn open_directory(parent: &OwnedFd, name: &[u8]) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    open_quietly(parent, name, flags)
}

/// Opens without moving the access time, where that is permitted: it is to the owner and to root.
pub(super) fn open_quietly(parent: &OwnedFd, name: &[u8], flags: OFlags) -> io::Result<OwnedFd> {
    let open = |flags| rustix::io::retry_on_intr(|| rustix::fs::openat(parent, name, flags, Mode::empty()));
    match open(flags | OFlags::NOATIME) {
        Err(Errno::PERM) => Ok(open(flags)?),
        other => Ok(other?),
    }
}

/// The metadata of a name in a directory, of a symlink itself.
pub(super) fn stat_in(parent: &OwnedFd, name: &[u8]) -> io::Result<Stat> {
    stat::of_name(parent, name, AtFlags::SYMLINK_NOFOLLOW)
}
