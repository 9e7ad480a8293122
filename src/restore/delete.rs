//! What the target has and the snapshot does not: removed with `delete`, when the walk leaves a directory. And what killed
//! restores have left over, when it enters one.
//!
//! Never what the snapshot left out on purpose (it has an entry), what the user's selection does not take in, what is
//! mounted into the target, or what is in a repository. Both listings pass in portions, so a directory of any length does;
//! where names that differ may be one, those of the snapshot's directory are held at once.

use std::collections::HashSet;
use std::sync::Arc;

use rustix::fs::FileType;

use crate::error::{Error, Result};
use crate::event::{Change, Item};
use crate::id::ChunkId;
use crate::snapshot::tree::Entries;

use super::target::{Dir, Dirs, fold, is_left_over, type_of};
use super::{Run, joined, lock};

/// So many names of the target are compared with the snapshot at a time.
const PORTION: usize = 1 << 18;

/// A directory that is being removed.
struct Level {
    /// Of its path, which the one being worked on begins with.
    path_len: usize,
    name: Vec<u8>,
    folders: Vec<Vec<u8>>,
    /// Something in it stays.
    kept: bool,
}

impl Run<'_> {
    /// Removes what a directory of the target has and that of the snapshot does not. In one that is `folded`, names that differ may be
    /// one.
    pub(super) fn delete_superfluous(&self, dir: &Arc<Dir>, node: ChunkId, folded: bool) -> Result<()> {
        if self.root.as_ref().is_none_or(|root| root.mount() != dir.mount()) {
            if lock(&self.spared_mounts).insert(dir.mount()) {
                self.notice(&dir.path, "nothing is removed in it: something is mounted there");
            }
            return Ok(());
        }
        if dir.is_repository().map_err(self.error("look for a repository in", &dir.path))? {
            self.notice(&dir.path, "nothing is removed in it: it is a repository");
            return Ok(());
        }
        let mut portion = Vec::new();
        dir.list(|name, _| {
            portion.push(name.to_vec());
            if portion.len() < PORTION {
                Ok(())
            } else {
                self.delete_portion(dir, node, folded, std::mem::take(&mut portion))
            }
        })?;
        self.delete_portion(dir, node, folded, portion)
    }

    fn delete_portion(
        &self,
        dir: &Arc<Dir>,
        node: ChunkId,
        folded: bool,
        mut names: Vec<Vec<u8>>,
    ) -> Result<()> {
        names.sort_unstable();
        if folded {
            let wanted = Entries::new(self.reader, node).map(|entry| entry.map(|entry| fold(&entry.name)));
            let wanted = wanted.collect::<Result<HashSet<_>>>()?;
            names.retain(|name| !wanted.contains(&fold(name)));
        }
        let mut wanted = Entries::new(self.reader, node);
        let mut next = wanted.next().transpose()?;
        let mut superfluous = Vec::new();
        for name in names {
            while next.as_ref().is_some_and(|entry| *entry.name < *name) {
                next = wanted.next().transpose()?;
            }
            if next.as_ref().is_none_or(|entry| *entry.name != *name) {
                superfluous.push(name);
            }
        }
        for name in superfluous {
            self.check()?;
            let path = joined(&dir.path, &name);
            if !lock(&self.kept).contains(&path) {
                self.remove(dir, &name, &path)?;
            }
        }
        Ok(())
    }

    /// Removes the temporary files and directories of restores that have ended. A comfort: whatever stays harms nothing.
    pub(super) fn remove_left_over(&self, dir: &Arc<Dir>) -> Result<()> {
        let mut left_over = Vec::new();
        let listed = dir.list(|name, _| {
            if is_left_over(name) {
                left_over.push(name.to_vec());
            }
            Ok(())
        });
        if listed.is_ok() {
            for name in left_over {
                let path = joined(&dir.path, &name);
                Removal { run: self, is_left_over: true }.remove(dir, &name, &path)?;
            }
        }
        Ok(())
    }

    /// Removes a name and all below it. Whether it is gone; what stays is an event.
    pub(super) fn remove(&self, dir: &Arc<Dir>, name: &[u8], path: &[u8]) -> Result<bool> {
        Removal { run: self, is_left_over: false }.remove(dir, name, path)
    }

    /// A path below the target as one in the snapshot.
    fn in_snapshot(&self, path: &[u8]) -> Vec<u8> {
        joined(&self.base, path)
    }
}

/// How things are removed: what is superfluous where the selection takes it in, with events; what is left over all and silently.
struct Removal<'r> {
    run: &'r Run<'r>,
    is_left_over: bool,
}

impl Removal<'_> {
    /// Removes a name and all below it, without recursion. Whether it is gone.
    fn remove(&self, dir: &Arc<Dir>, name: &[u8], path: &[u8]) -> Result<bool> {
        let mut dirs = Dirs::new(dir.clone());
        let mut levels: Vec<Level> = Vec::new();
        let mut path = path.to_vec();
        let mut next = Some(name.to_vec());
        let mut gone = false;
        loop {
            self.run.check()?;
            if let Some(name) = next.take() {
                match self.remove_or_enter(&mut dirs, &name, &path) {
                    Ok(Removed::Entered(level)) => levels.push(level),
                    outcome => {
                        gone = matches!(outcome, Ok(Removed::Gone));
                        if let Err(error) = outcome {
                            self.problem_or_end(&path, error)?;
                        }
                        if let (false, Some(above)) = (gone, levels.last_mut()) {
                            above.kept = true;
                        }
                    }
                }
            }
            let Some(level) = levels.last_mut() else { return Ok(gone) };
            path.truncate(level.path_len);
            if let Some(name) = level.folders.pop() {
                path.push(b'/');
                path.extend_from_slice(&name);
                next = Some(name);
                continue;
            }
            let Some(level) = levels.pop() else { return Ok(gone) };
            dirs.pop();
            gone = !level.kept && self.remove_emptied(&mut dirs, &level.name, &path)?;
            if let (false, Some(above)) = (gone, levels.last_mut()) {
                above.kept = true;
            }
        }
    }

    fn remove_emptied(&self, dirs: &mut Dirs, name: &[u8], path: &[u8]) -> Result<bool> {
        if !self.run.options.dry_run {
            let removed = dirs.top().and_then(|parent| parent.remove_dir(name));
            if let Err(error) = removed.map_err(self.run.error("remove", path)) {
                self.problem_or_end(path, error)?;
                return Ok(false);
            }
        }
        self.done(path, Item::Directory, 0);
        Ok(true)
    }

    fn remove_or_enter(&self, dirs: &mut Dirs, name: &[u8], path: &[u8]) -> Result<Removed> {
        let parent = dirs.top().map_err(self.run.error("open", path))?;
        let Some(stat) = parent.stat(name).map_err(self.run.error("look at", path))? else {
            return Ok(Removed::Gone);
        };
        if type_of(&stat) != FileType::Directory {
            return self.remove_file(&parent, name, path, type_of(&stat));
        }
        if !self.is_wanted(path, true) && !self.may_contain(path) {
            return Ok(Removed::Stays);
        }
        let inner = match parent.open_dir_here(name, path.to_vec()) {
            Err(error) if error.kind() == std::io::ErrorKind::CrossesDevices => {
                self.notice(path, "not removed: something is mounted there");
                return Ok(Removed::Stays);
            }
            other => Arc::new(other.map_err(self.run.error("open", path))?),
        };
        if inner.is_repository().map_err(self.run.error("look for a repository in", path))? {
            self.notice(path, "not removed: it is a repository");
            return Ok(Removed::Stays);
        }
        let mut level = Level {
            path_len: path.len(),
            name: name.to_vec(),
            folders: Vec::new(),
            kept: !self.is_wanted(path, true),
        };
        inner.list(|name, kind| {
            self.run.check()?;
            let path = joined(path, name);
            let kind = match kind {
                FileType::Unknown => match inner.stat(name) {
                    Ok(Some(stat)) => type_of(&stat),
                    _ => FileType::Unknown,
                },
                kind => kind,
            };
            if kind == FileType::Directory {
                level.folders.push(name.to_vec());
                return Ok(());
            }
            match self.remove_file(&inner, name, &path, kind) {
                Ok(Removed::Gone) => {}
                Ok(_) => level.kept = true,
                Err(error) => {
                    self.problem_or_end(&path, error)?;
                    level.kept = true;
                }
            }
            Ok(())
        })?;
        dirs.push(name, inner);
        Ok(Removed::Entered(level))
    }

    fn remove_file(&self, dir: &Dir, name: &[u8], path: &[u8], kind: FileType) -> Result<Removed> {
        if !self.is_wanted(path, false) || lock(&self.run.kept).contains(path) {
            return Ok(Removed::Stays);
        }
        let is_file = kind == FileType::RegularFile;
        let stat = if is_file { dir.stat(name).ok().flatten() } else { None };
        let bytes = stat.map_or(0, |stat| u64::try_from(stat.st_size).unwrap_or(0));
        if !self.run.options.dry_run {
            dir.unlink(name).map_err(self.run.error("remove", path))?;
        }
        self.done(path, if is_file { Item::File } else { Item::Other }, bytes);
        Ok(Removed::Gone)
    }

    fn done(&self, path: &[u8], item: Item, bytes: u64) {
        if !self.is_left_over {
            self.run.done(path, item, Change::Removed, bytes);
        }
    }

    fn problem_or_end(&self, path: &[u8], error: Error) -> Result<()> {
        if self.is_left_over { self.run.check() } else { self.run.problem_or_end(path, error) }
    }

    fn notice(&self, path: &[u8], text: &str) {
        if !self.is_left_over {
            self.run.notice(path, text);
        }
    }

    /// Whether what lies at a path below the target is to go.
    fn is_wanted(&self, path: &[u8], is_dir: bool) -> bool {
        self.is_left_over
            || self.run.options.select.is_none()
            || self.run.selected(&self.run.in_snapshot(path), is_dir)
    }

    /// Whether anything below may be.
    fn may_contain(&self, path: &[u8]) -> bool {
        self.is_left_over || self.run.may_contain(&self.run.in_snapshot(path))
    }
}

/// What became of a name that is to be removed.
enum Removed {
    Gone,
    Stays,
    Entered(Level),
}
