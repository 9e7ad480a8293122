//! A tree on disk, and the edits on it: all by descriptor, as a path may be too long for one call.

use std::ffi::CString;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::{
    AtFlags, FallocateFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags,
};
use rustix::io::Errno;

use super::edit::{Change, Effect, Op, Place, Write};
use super::model::{CAPABILITY, Node, Tree, What};
use crate::support::manifest::proc_path;
use crate::support::scratch::{self, open_dir};

/// What is to replace something has this name first; no generated name is like it.
const NEW: &[u8] = b"\xfe\xfenew";

/// A folder, open.
pub struct Disk(OwnedFd);

impl Disk {
    pub fn at(folder: &Path) -> Self {
        Self(open_dir(folder))
    }

    pub fn apply(&self, op: &Op<'_>) {
        match op {
            Op::Make(at, thing, meta) => self.put(at, &Node::new(thing, meta)),
            Op::Rename(from, to) => {
                let (old_dir, old) = self.open(from);
                let kind = kind_of(&old_dir, &old).unwrap();
                self.replace(to, kind, |dir, name| rustix::fs::renameat(&old_dir, &old, dir, name).unwrap());
            }
            Op::Link(from, to) => {
                let (old_dir, old) = self.open(from);
                let kind = kind_of(&old_dir, &old).unwrap();
                let link = |dir: &OwnedFd, name: &CString| {
                    rustix::fs::linkat(&old_dir, &old, dir, name, AtFlags::empty()).unwrap();
                };
                self.replace(to, kind, link);
            }
            Op::Change(at, change) => {
                let (dir, name) = self.open(at);
                alter(&dir, &name, change);
            }
        }
    }

    /// Makes this anew, in place of what is there.
    pub fn put(&self, place: &Place, node: &Node) {
        self.replace(place, node.kind(), |dir, name| {
            create(dir, name, node);
            dress(dir, name, node);
        });
    }

    /// Sets the metadata of what is there.
    pub fn dress(&self, place: &Place, node: &Node) {
        let (dir, name) = self.open(place);
        dress(&dir, &name, node);
    }

    /// Writes a whole tree into the folder, which is empty.
    pub fn write(&self, tree: &Tree) {
        let places = tree.places();
        for (index, (place, number)) in places.iter().enumerate().skip(1) {
            let (dir, name) = self.open(place);
            let node = tree.node(*number);
            let first = places[..index].iter().find(|(_, other)| other == number);
            if let Some((first, _)) = first {
                let (old_dir, old) = self.open(first);
                rustix::fs::linkat(old_dir, old, dir, name, AtFlags::empty()).unwrap();
            } else {
                create(&dir, &name, node);
                dress(&dir, &name, node);
            }
        }
        // What was made in a folder has changed its time.
        for (place, number) in places.iter().rev().filter(|(_, number)| tree.folder(*number).is_some()) {
            self.dress(place, tree.node(*number));
        }
    }

    /// The folder that a place is in, and its name there.
    fn open(&self, place: &Place) -> (OwnedFd, CString) {
        let mut dir = self.0.try_clone().unwrap();
        let Some((name, folders)) = place.0.split_last() else { return (dir, c".".into()) };
        for folder in folders {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            dir = rustix::fs::openat(&dir, &folder[..], flags, Mode::empty()).unwrap();
        }
        (dir, CString::new(&name[..]).unwrap())
    }

    /// Makes something of this kind; where a file or the like takes the place of another one, it is renamed over it.
    fn replace(&self, place: &Place, kind: FileType, make: impl FnOnce(&OwnedFd, &CString)) {
        let (dir, name) = self.open(place);
        match kind_of(&dir, &name) {
            Some(old) if old != FileType::Directory && kind != FileType::Directory => {
                let new = CString::new(NEW).unwrap();
                make(&dir, &new);
                return rustix::fs::renameat(&dir, &new, &dir, &name).unwrap();
            }
            Some(old) => remove(&dir, &name, old),
            None => {}
        }
        make(&dir, &name);
    }
}

fn kind_of(dir: &OwnedFd, name: &CString) -> Option<FileType> {
    match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Some(FileType::from_raw_mode(stat.st_mode)),
        Err(Errno::NOENT) => None,
        Err(error) => panic!("cannot look at {name:?}: {error}"),
    }
}

fn remove(dir: &OwnedFd, name: &CString, kind: FileType) {
    if kind == FileType::Directory {
        let path = proc_path(dir, name);
        scratch::remove_tree(Path::new(std::ffi::OsStr::from_bytes(&path))).unwrap();
    } else {
        rustix::fs::unlinkat(dir, name, AtFlags::empty()).unwrap();
    }
}

fn create(dir: &OwnedFd, name: &CString, node: &Node) {
    let mode = Mode::from(0o600);
    let special = |major, minor| {
        let device = rustix::fs::makedev(major, minor);
        rustix::fs::mknodat(dir, name, node.kind(), mode, device).unwrap();
    };
    match &node.what {
        What::Folder(_) => rustix::fs::mkdirat(dir, name, Mode::from(0o700)).unwrap(),
        What::Symlink(target) => rustix::fs::symlinkat(&target[..], dir, name).unwrap(),
        What::Fifo | What::Socket => special(0, 0),
        What::Block(major, minor) | What::Char(major, minor) => special(*major, *minor),
        What::File(bytes, data) => {
            let file = open_file(dir, name, OFlags::CREATE | OFlags::EXCL);
            file.set_len(bytes.len() as u64).unwrap();
            for (start, end) in data {
                let range = usize::try_from(*start).unwrap()..usize::try_from(*end).unwrap();
                file.write_all_at(&bytes[range], *start).unwrap();
            }
        }
    }
}

fn open_file(dir: &OwnedFd, name: &CString, more: OFlags) -> File {
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC | more;
    File::from(rustix::fs::openat(dir, name, flags, Mode::from(0o600)).unwrap())
}

/// Sets the metadata: owner, attributes, mode, time, in the order in which they survive each other.
fn dress(dir: &OwnedFd, name: &CString, node: &Node) {
    own(dir, name, node.owner);
    for (xattr, value) in &node.xattrs {
        set_xattr(dir, name, xattr, value);
    }
    if node.kind() != FileType::Symlink {
        rustix::fs::chmodat(dir, name, Mode::from(u32::from(node.mode)), AtFlags::empty()).unwrap();
    }
    if let Some(mtime) = node.mtime {
        touch(dir, name, mtime);
    }
}

fn own(dir: &OwnedFd, name: &CString, (uid, gid): (u32, u32)) {
    let owner = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
    rustix::fs::chownat(dir, name, owner.0, owner.1, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

fn touch(dir: &OwnedFd, name: &CString, (secs, nanos): (i64, u32)) {
    let time = Timespec { tv_sec: secs, tv_nsec: nanos.into() };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(dir, name, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

fn set_xattr(dir: &OwnedFd, name: &CString, xattr: &[u8], value: &[u8]) {
    rustix::fs::lsetxattr(&proc_path(dir, name)[..], xattr, value, XattrFlags::empty()).unwrap();
}

fn remove_xattr(dir: &OwnedFd, name: &CString, xattr: &[u8]) {
    match rustix::fs::lremovexattr(&proc_path(dir, name)[..], xattr) {
        Ok(()) | Err(Errno::NODATA | Errno::NOTSUP) => {}
        Err(error) => panic!("cannot remove an attribute of {name:?}: {error}"),
    }
}

fn alter(dir: &OwnedFd, name: &CString, change: &Change) {
    let stat = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).unwrap();
    let kind = FileType::from_raw_mode(stat.st_mode);
    match change {
        Change::Remove => remove(dir, name, kind),
        Change::Mode(mode) => {
            rustix::fs::chmodat(dir, name, Mode::from(u32::from(*mode)), AtFlags::empty()).unwrap();
        }
        Change::Owner(uid, gid) => {
            own(dir, name, (*uid, *gid));
            remove_xattr(dir, name, CAPABILITY);
            // The system has taken setuid and setgid away.
            if kind != FileType::Symlink {
                rustix::fs::chmodat(dir, name, Mode::from(stat.st_mode & 0o7777), AtFlags::empty()).unwrap();
            }
        }
        Change::Touch(secs, nanos) => touch(dir, name, (*secs, *nanos)),
        Change::Attribute(xattr, Some(value)) => set_xattr(dir, name, &xattr.0, &value.0),
        Change::Attribute(xattr, None) => remove_xattr(dir, name, &xattr.0),
        Change::Write(write, keeps_time) => {
            write_to(&open_file(dir, name, OFlags::empty()), write);
            remove_xattr(dir, name, CAPABILITY);
            if *keeps_time {
                touch(dir, name, (stat.st_mtime, u32::try_from(stat.st_mtime_nsec).unwrap()));
            }
        }
    }
}

fn write_to(file: &File, write: &Write) {
    let len = usize::try_from(file.metadata().unwrap().len()).unwrap();
    match write.effect(len) {
        Effect::Put(at, bytes) => file.write_all_at(&bytes, at as u64).unwrap(),
        Effect::SetLen(len) => file.set_len(len as u64).unwrap(),
        Effect::Punch(at, len) => {
            let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            rustix::fs::fallocate(file, punch, at as u64, len as u64).unwrap();
        }
    }
}
