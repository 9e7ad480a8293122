//! How a new thing takes the place of what has its name, and how it becomes a further name of a file.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Weak};

use rustix::fs::{FileType, Stat};

use crate::codec;
use crate::error::{Error, Result};
use crate::event::{Change, Item};
use crate::id::{self, LinkGroup};
use crate::snapshot::{Entry, Time};

use super::batch::Job;
use super::target::{self, Dir, Inode, Temp};
use super::{NotSet, Overwrite, RestoreOptions as Options, Run, lock};

/// Files with several names, as far as they are restored.
#[derive(Default)]
pub(super) struct Links {
    /// The first name of each, and none while that waits in a batch.
    files: HashMap<LinkKey, Option<Original>>,
    inodes: HashMap<Inode, LinkKey>,
}

/// What names of one file have in common: their group, and a hash of what they are. An inode number that was used twice while the
/// snapshot was taken gives two files one group.
pub(super) type LinkKey = (LinkGroup, [u8; 16]);

/// The key of an entry that may have further names.
pub(super) fn link_key(entry: &Entry) -> Option<LinkKey> {
    entry.meta.link_group.map(|group| (group, id::checksum_128(&[&codec::encode(&entry.kind)])))
}

/// A name that exists, to link to.
#[derive(Clone)]
pub(super) struct Original {
    /// The path of its directory below the target.
    pub(super) dir: Vec<u8>,
    pub(super) dir_inode: Option<Inode>,
    /// The directory, as long as it is open: while it is hidden it has not that path.
    pub(super) open: Weak<Dir>,
    pub(super) name: Vec<u8>,
    /// Unknown in a dry run of what does not exist.
    pub(super) inode: Option<Inode>,
}

impl Original {
    /// A name in a directory; none in a dry run if that does not exist.
    pub(super) fn new(dir: Option<&Arc<Dir>>, name: Vec<u8>, inode: Option<Inode>) -> Self {
        let path = dir.map_or_else(Vec::new, |dir| dir.path.clone());
        let open = dir.map_or_else(Weak::new, Arc::downgrade);
        Self { dir: path, dir_inode: dir.map(|dir| dir.inode), open, name, inode }
    }
}

impl Links {
    /// Whether no name of this group came up before.
    pub(super) fn begin(&mut self, group: LinkKey) -> bool {
        let before = self.files.len();
        self.files.entry(group).or_default();
        self.files.len() > before
    }

    /// The name that the file of this group has already.
    pub(super) fn original(&self, group: LinkKey) -> Option<Original> {
        self.files.get(&group)?.clone()
    }

    /// Notes under which name the file of this group was restored.
    pub(super) fn restored(&mut self, group: LinkKey, original: Original) {
        if let Some(inode) = original.inode {
            self.inodes.insert(inode, group);
        }
        self.files.insert(group, Some(original));
    }

    /// Whether an existing inode may be the file of this group: it is not that of another one.
    pub(super) fn may_be(&self, inode: Inode, group: LinkKey) -> bool {
        self.inodes.get(&inode).is_none_or(|owner| *owner == group)
    }
}

impl Run<'_> {
    /// Whether what exists may be replaced, by the rule that the user chose.
    pub(super) fn may_replace(&self, stat: &Stat, mtime: Time) -> bool {
        match self.options.overwrite {
            Overwrite::Always | Overwrite::IfChanged => true,
            Overwrite::IfNewer => target::mtime_of(stat) < mtime,
            Overwrite::Never => false,
        }
    }

    /// Fails if a directory is in the way that may not be removed. In a dry run it is said here what would be removed.
    pub(super) fn check_replaceable(
        &self,
        dir: &Arc<Dir>,
        name: &[u8],
        path: &[u8],
        stat: &Stat,
    ) -> Result<()> {
        let Options { delete, dry_run, .. } = self.options;
        if target::type_of(stat) != FileType::Directory || *delete && !dry_run {
            return Ok(());
        }
        let inner =
            dir.open_dir_here(name, path.to_vec()).map_err(self.error("replace the directory", path))?;
        let outcome = inner.list(|_, _| Err(self.in_the_way(path)));
        if outcome.is_err() && *delete && self.remove(dir, name, path)? { Ok(()) } else { outcome }
    }

    /// Gives a temporary file its name. A directory of that name goes if it is empty, or with `delete`.
    pub(super) fn put_in_place(&self, temp: &mut Temp, name: &[u8], path: &[u8]) -> Result<()> {
        match temp.rename(name) {
            Err(error) if error.kind() == io::ErrorKind::IsADirectory => {
                let dir = temp.dir.clone();
                self.clear_directory(&dir, name, path)?;
                temp.rename(name).map_err(self.error("write", path))
            }
            other => other.map_err(self.error("write", path)),
        }
    }

    fn clear_directory(&self, dir: &Arc<Dir>, name: &[u8], path: &[u8]) -> Result<()> {
        match dir.remove_dir(name) {
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {
                if self.options.delete && self.remove(dir, name, path)? {
                    Ok(())
                } else {
                    Err(self.in_the_way(path))
                }
            }
            other => other.map_err(self.error("replace the directory", path)),
        }
    }

    fn in_the_way(&self, path: &[u8]) -> Error {
        self.error("replace the directory", path)(io::ErrorKind::DirectoryNotEmpty.into())
    }

    /// Makes an entry a further name of one that is restored. None if that cannot be, which is told.
    pub(super) fn link(
        &self,
        dir: Option<&Arc<Dir>>,
        entry: &Entry,
        path: &[u8],
        original: &Original,
    ) -> Result<Option<Change>> {
        let Some(dir) = dir else { return Ok(Some(Change::New)) };
        let mut change = Change::New;
        if let Some(stat) = dir.stat(&entry.name).map_err(self.error("look at", path))? {
            if original.inode == Some(target::inode_of(&stat)) {
                return Ok(Some(Change::Unchanged));
            }
            if !self.may_replace(&stat, entry.meta.mtime) {
                return Ok(Some(Change::LeftOut));
            }
            self.check_replaceable(dir, &entry.name, path, &stat)?;
            change = Change::Changed;
        }
        if self.options.dry_run {
            return Ok(Some(change));
        }
        match self.further_name(dir, original) {
            Ok(Some(mut temp)) => {
                self.put_in_place(&mut temp, &entry.name, path)?;
                Ok(Some(change))
            }
            Ok(None) => {
                self.not_set(NotSet::HardLink, path, None);
                Ok(None)
            }
            Err(error) => {
                let said = error.to_string();
                let error = self.error("write", path)(error);
                if error.is_no_space() {
                    return Err(error);
                }
                self.not_set(NotSet::HardLink, path, Some(&said));
                Ok(None)
            }
        }
    }

    /// A temporary further name, if it is of the very file that was restored.
    fn further_name(&self, dir: &Arc<Dir>, original: &Original) -> io::Result<Option<Temp>> {
        let (Some(root), Some(dir_inode)) = (&self.root, original.dir_inode) else { return Ok(None) };
        let temp = if let Some(from) = original.open.upgrade() {
            Temp::link(dir, &from, &original.name)?
        } else {
            let names: Vec<&[u8]> =
                original.dir.split(|byte| *byte == b'/').filter(|name| !name.is_empty()).collect();
            Temp::link(dir, &root.walk_to(&names, original.dir.clone(), dir_inode)?, &original.name)?
        };
        let inode = target::inode_of(&temp.handle()?.stat()?);
        Ok((Some(inode) == original.inode).then_some(temp))
    }

    /// Notes that the file of a link group has this name.
    pub(super) fn note_link(&self, job: &Job, inode: Option<Inode>) {
        if let Some(group) = link_key(&job.entry) {
            let original = Original::new(job.dir.as_ref(), job.entry.name.0.clone(), inode);
            lock(&self.links).restored(group, original);
        }
    }

    /// Makes a file a further name of one that is restored. Gives the job back if that cannot be.
    pub(super) fn link_file(&self, job: Job, original: &Original) -> Result<Option<Job>> {
        let outcome = self.link(job.dir.as_ref(), &job.entry, &job.path, original);
        match outcome {
            Ok(Some(change)) => {
                self.done(
                    &job.path,
                    Item::File,
                    change,
                    if change == Change::Unchanged { job.size } else { 0 },
                );
                Ok(None)
            }
            Ok(None) => Ok(Some(job)),
            Err(error) => {
                self.problem_or_end(&job.path, error)?;
                Ok(None)
            }
        }
    }
}
