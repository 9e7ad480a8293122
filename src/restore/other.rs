//! Symlinks, FIFOs, sockets and devices: made under a temporary name, or left in place if they are right. And what was not saved: counted.

use std::io;
use std::sync::Arc;

use rustix::fs::{FileType, Stat};

use crate::error::Result;
use crate::event::Change;
use crate::snapshot::{Entry, Kind, Why};

use super::metadata::Wanted;
use super::place::{Original, link_key};
use super::target::{self, Dir, Temp};
use super::{NotSet, Run, lock};

/// So many entries that were not saved are named.
const FIRST_NOT_SAVED: usize = 10;

impl Run<'_> {
    /// The snapshot has no more than the name of an entry.
    pub(super) fn not_saved(&self, path: Vec<u8>, why: Why) {
        let mut summary = self.summary();
        *summary.not_saved.entry(why).or_default() += 1;
        if summary.not_saved_first.len() < FIRST_NOT_SAVED {
            summary.not_saved_first.push((path, why));
        }
    }

    /// Restores a symlink, FIFO, socket or device.
    pub(super) fn restore_other(
        &self,
        dir: Option<&Arc<Dir>>,
        entry: &Entry,
        path: &[u8],
        owner: Option<(u32, u32)>,
    ) -> Result<Change> {
        let original = link_key(entry).and_then(|group| lock(&self.links).original(group));
        if let Some(original) = original
            && let Some(change) = self.link(dir, entry, path, &original)?
        {
            return Ok(change);
        }
        let Some(dir) = dir else { return Ok(Change::New) };
        let wanted = Wanted { path, meta: &entry.meta, owner };
        let mut change = Change::New;
        if let Some(stat) = dir.stat(&entry.name).map_err(self.error("look at", path))? {
            if !self.may_replace(&stat, entry.meta.mtime) {
                return Ok(Change::LeftOut);
            }
            if let Some(change) = self.adopt_other(dir, entry, path, &wanted, &stat)? {
                return Ok(change);
            }
            self.check_replaceable(dir, &entry.name, path, &stat)?;
            change = Change::Changed;
        }
        if self.options.dry_run {
            return Ok(change);
        }
        let made = match &entry.kind {
            Kind::Symlink(target) => Temp::symlink(dir, target),
            Kind::Fifo => Temp::node(dir, FileType::Fifo, 0, 0),
            Kind::Socket => Temp::node(dir, FileType::Socket, 0, 0),
            Kind::BlockDevice(major, minor) => Temp::node(dir, FileType::BlockDevice, *major, *minor),
            Kind::CharDevice(major, minor) => Temp::node(dir, FileType::CharacterDevice, *major, *minor),
            Kind::Directory(_) | Kind::Implied(_) | Kind::File(..) | Kind::LeftOut(..) => {
                return Ok(Change::LeftOut);
            }
        };
        let device = matches!(entry.kind, Kind::BlockDevice(..) | Kind::CharDevice(..));
        let mut temp = match made {
            Err(error) if device && error.kind() == io::ErrorKind::PermissionDenied => {
                self.not_set(NotSet::Device, path, Some(&error));
                return Ok(Change::LeftOut);
            }
            other => other.map_err(self.error("make", path))?,
        };
        let handle = temp.handle().map_err(self.error("open", path))?;
        self.set_metadata(&handle, &wanted, None).map_err(|fault| fault.at(self, path))?;
        let inode = target::inode_of(&handle.stat().map_err(self.error("look at", path))?);
        self.put_in_place(&mut temp, &entry.name, path)?;
        self.note_name(dir, entry, inode);
        Ok(change)
    }

    /// Leaves an existing special file in its place if it is the right one, and sets its metadata.
    fn adopt_other(
        &self,
        dir: &Arc<Dir>,
        entry: &Entry,
        path: &[u8],
        wanted: &Wanted<'_>,
        stat: &Stat,
    ) -> Result<Option<Change>> {
        let inode = target::inode_of(stat);
        let alone = match link_key(entry) {
            Some(group) => lock(&self.links).may_be(inode, group),
            None => stat.st_nlink == 1,
        };
        if !alone || !is_same_thing(&entry.kind, dir, &entry.name, stat) {
            return Ok(None);
        }
        let handle = dir.handle(&entry.name).map_err(self.error("open", path))?;
        if handle.stat().map(|now| target::inode_of(&now)).ok() != Some(inode) {
            return Ok(None);
        }
        let differ = self.metadata_differ(&handle, wanted).map_err(|fault| fault.at(self, path))?;
        if differ && stat.st_nlink > 1 {
            return Ok(None);
        }
        if differ && !self.options.dry_run {
            self.set_metadata(&handle, wanted, None).map_err(|fault| fault.at(self, path))?;
        }
        self.note_name(dir, entry, inode);
        Ok(Some(if differ { Change::Changed } else { Change::Unchanged }))
    }

    fn note_name(&self, dir: &Arc<Dir>, entry: &Entry, inode: target::Inode) {
        if let Some(group) = link_key(entry) {
            let original = Original::new(Some(dir), entry.name.0.clone(), Some(inode));
            lock(&self.links).restored(group, original);
        }
    }
}

/// Whether a special file is what the entry says, but for the metadata.
fn is_same_thing(kind: &Kind, dir: &Dir, name: &[u8], stat: &Stat) -> bool {
    let device = |major, minor| stat.st_rdev == rustix::fs::makedev(major, minor);
    match (kind, target::type_of(stat)) {
        (Kind::Symlink(target), FileType::Symlink) => {
            dir.read_link(name).is_ok_and(|found| found == **target)
        }
        (Kind::Fifo, FileType::Fifo) | (Kind::Socket, FileType::Socket) => true,
        (Kind::BlockDevice(major, minor), FileType::BlockDevice)
        | (Kind::CharDevice(major, minor), FileType::CharacterDevice) => device(*major, *minor),
        _ => false,
    }
}
