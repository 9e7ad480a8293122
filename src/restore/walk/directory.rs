//! One directory: made or opened when the walk enters it, finished when nothing is done in it any more.

use std::sync::Arc;

use rustix::fs::FileType;

use crate::error::Result;
use crate::event::{Change, Item};
use crate::restore::Run;
use crate::restore::batch::Finish;
use crate::restore::metadata::Wanted;
use crate::restore::target::{self, Dir};

use super::Level;

/// What came of making a directory.
pub(super) enum Made {
    Directory(Dir),
    /// A dry run: it would have been made.
    Pretended,
    /// Something is in its place that is to stay.
    LeftOut,
}

impl Run<'_> {
    pub(super) fn make_directory(
        &self,
        parent: &Arc<Dir>,
        name: &[u8],
        path: &[u8],
        level: &mut Level<'_>,
        may_hide: bool,
    ) -> Result<Made> {
        let found = parent.stat(name).map_err(self.error("look at", path))?;
        level.change = Change::New;
        if let Some(stat) = found {
            if target::type_of(&stat) == FileType::Directory {
                level.existed = true;
                level.change = Change::Unchanged;
                if self.options.dry_run {
                    // What may not be looked into is not opened for that.
                    let opened = parent.open_dir(name, path.to_vec());
                    return Ok(opened.map_or(Made::Pretended, Made::Directory));
                }
                let opened = parent.force_open_dir(name, path.to_vec());
                let (dir, mode_before) = opened.map_err(self.error("open", path))?;
                level.mode_before = mode_before;
                return Ok(Made::Directory(dir));
            }
            let mtime = level.meta.as_ref().map(|meta| meta.mtime).unwrap_or_default();
            if !self.may_replace(&stat, mtime) {
                return Ok(Made::LeftOut);
            }
            level.change = Change::Changed;
            if !self.options.dry_run {
                parent.unlink(name).map_err(self.error("replace", path))?;
            }
        }
        if self.options.dry_run {
            return Ok(Made::Pretended);
        }
        let made = if level.meta.is_none() {
            parent.make_default_dir(name).and_then(|()| parent.open_dir(name, path.to_vec()))
        } else if may_hide && found.is_none() {
            parent.make_hidden_dir(name, path.to_vec())
        } else {
            parent.make_dir(name, path.to_vec())
        };
        made.map(Made::Directory).map_err(self.error("make the directory", path))
    }

    /// Sets the metadata of a directory that nothing is done in any more.
    pub(in crate::restore) fn finish_directory(&self, finish: Finish) -> Result<()> {
        let Finish { dir, path, meta, mode_before, change, counts } = finish;
        // That it did not get its name was said.
        if dir.as_ref().is_some_and(|dir| dir.is_hidden()) {
            return Ok(());
        }
        if let (Some(dir), false) = (&dir, self.options.dry_run) {
            let handle = dir.own_handle();
            let set = match (&meta, mode_before) {
                (Some((meta, owner)), _) => self
                    .set_metadata(&handle, &Wanted { path: &path, meta, owner: *owner }, None)
                    .map_err(|fault| fault.at(self, &path)),
                (None, Some(mode)) => handle.chmod(mode).map_err(self.error("set the permissions of", &path)),
                (None, None) => Ok(()),
            };
            if let Err(error) = set {
                return self.problem_or_end(&path, error);
            }
        }
        if counts {
            self.done(&path, Item::Directory, change, 0);
        }
        Ok(())
    }
}
