//! The walk through the snapshot's tree: directories are made and entered, special files made, regular ones gathered.
//!
//! No recursion: a stack of levels, of which only the last ones hold a reader of their entries and an open directory;
//! on the way back the others are opened again. A directory that is not selected itself is made only when something
//! below it is. While it is worked in, a directory is open to nobody but its owner; mode and time come when it is left.

mod directory;
mod folded;

use std::collections::HashMap;
use std::sync::Arc;
use std::thread::Scope;

use crate::error::{Error, Result};
use crate::event::{Change, Item};
use crate::id::ChunkId;
use crate::snapshot::tree::{Entries, let_rest};
use crate::snapshot::{Entry, Kind, Meta};

use super::batch::{Batch, Finish, Flusher, Job};
use super::metadata::Wanted;
use super::target::{Dir, Dirs, Folding};
use super::{Overwrite, Run, lock};
use directory::Made;
use folded::Folded;

/// The walk.
pub(super) struct Walk<'scope, 'a> {
    run: &'a Run<'a>,
    /// The chain of those levels that exist in the target; none if the target does not, in a dry run.
    dirs: Option<Dirs>,
    levels: Vec<Level<'a>>,
    /// Of the current level in the snapshot.
    path: Vec<u8>,
    batch: Batch,
    flusher: Flusher<'scope, 'a>,
    /// Per file system: how it folds names, if it does.
    foldings: HashMap<u64, Option<Folding>>,
}

/// A directory that the walk is in.
struct Level<'a> {
    /// Its name is what the walk's path has from here to its end.
    name_at: usize,
    path_len: usize,
    node: Option<ChunkId>,
    entries: Option<Entries<'a>>,
    meta: Option<Meta>,
    place: Place,
    existed: bool,
    damaged: bool,
    /// Not all names could be listed when it was saved.
    is_incomplete: bool,
    change: Change,
    mode_before: Option<u32>,
    /// The last batch that has a file of this directory, or made it or one in it.
    batch: Option<u64>,
    /// The names so far, where two may be one.
    folded: Option<Folded>,
}

/// What a level is in the target.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// It is the next one of the chain.
    Open,
    /// It does not exist, in a dry run.
    Absent,
    /// It is made when something in it is.
    Later,
    /// It cannot be made, or must not be: nothing in it is restored.
    Passed,
}

/// Where the current level is.
enum Here {
    Open(Arc<Dir>),
    Absent,
    Passed,
}

impl<'scope, 'a> Walk<'scope, 'a> {
    /// A walk that stands at the root of the target.
    pub(super) fn new(run: &'a Run<'a>, scope: &'scope Scope<'scope, 'a>) -> Self {
        Self {
            run,
            dirs: run.root.clone().map(Dirs::new),
            levels: Vec::new(),
            path: run.base.clone(),
            batch: Batch::default(),
            flusher: Flusher::new(scope, run),
            foldings: HashMap::new(),
        }
    }

    /// Restores `entry`: the content of a directory, or the one thing that it is.
    pub(super) fn run(mut self, entry: Entry) -> Result<()> {
        let node = entry.kind.directory();
        let meta = matches!(entry.kind, Kind::Directory(_)).then(|| entry.meta.clone());
        let mut level = Level::new(0, self.path.len(), node, meta);
        level.is_incomplete = entry.is_incomplete();
        level.place = if self.dirs.is_some() { Place::Open } else { Place::Absent };
        level.change = if self.dirs.is_some() { Change::Unchanged } else { Change::New };
        if let Some(root) = self.run.root.clone() {
            level.existed = !self.run.root_is_new;
            if self.run.root_is_new {
                level.change = Change::New;
            }
            self.look_at_directory(&mut level, &root)?;
        }
        self.levels.push(level);
        if node.is_none() {
            self.entry(entry)?;
        }
        loop {
            self.run.check()?;
            match self.next_entry() {
                Some(Ok(entry)) => self.entry(entry)?,
                Some(Err(error)) => {
                    let path = self.target_path();
                    if let Some(level) = self.levels.last_mut() {
                        level.damaged = true;
                    }
                    self.run.problem_or_end(&path, error)?;
                }
                None => {
                    self.leave()?;
                    if self.levels.is_empty() {
                        self.flusher.flush(&mut self.batch)?;
                        return self.flusher.wait();
                    }
                }
            }
            if self.batch.is_full(self.run.reader.budget()) {
                self.flusher.flush(&mut self.batch)?;
            }
        }
    }

    fn next_entry(&mut self) -> Option<Result<Entry>> {
        let level = self.levels.last_mut()?;
        let node = level.node?;
        level.entries.get_or_insert_with(|| Entries::new(self.run.reader, node)).next()
    }

    /// The path of the current level below the target.
    fn target_path(&self) -> Vec<u8> {
        let base = self.run.base.len();
        let below = self.path.get(base..).unwrap_or_default();
        below.strip_prefix(b"/").unwrap_or(below).to_vec()
    }

    fn entry(&mut self, entry: Entry) -> Result<()> {
        let before = self.path.len();
        let name_at = self.path.len() + usize::from(!self.path.is_empty());
        self.path = super::joined(&self.path, &entry.name);
        let is_dir = entry.kind.directory().is_some();
        let selected = self.run.selected(&self.path, is_dir);
        if selected && self.run.options.select.is_some() && !matches!(entry.kind, Kind::LeftOut(..)) {
            self.run.summary().selected += 1;
        }
        match entry.kind {
            Kind::LeftOut(why, _) if selected => self.run.not_saved(self.target_path(), why),
            Kind::LeftOut(..) => {}
            Kind::Directory(node) | Kind::Implied(node) if selected || self.run.may_contain(&self.path) => {
                return self.enter(entry, node, name_at, selected);
            }
            _ if selected => self.leaf(entry)?,
            _ => {}
        }
        self.path.truncate(before);
        Ok(())
    }

    /// Restores what is no directory; the walk's path is its own.
    fn leaf(&mut self, entry: Entry) -> Result<()> {
        let path = self.target_path();
        let dir = match self.here()? {
            Here::Open(dir) => Some(dir),
            Here::Absent => None,
            Here::Passed => return Ok(()),
        };
        if let Some(error) = self.cannot_be_called(&entry.name)? {
            return self.run.problem_or_end(&path, self.run.error("write", &path)(error));
        }
        let owner = self.run.owners.of(&self.path, &entry.meta);
        if let Kind::File(size, content) = &entry.kind {
            let (size, content) = (*size, content.clone());
            let number = self.batch.number;
            let level = self.levels.last_mut();
            let is_folded = level.as_ref().is_some_and(|level| level.folded.is_some());
            let first = level.is_some_and(|level| level.batch.replace(number) != Some(number));
            self.batch.push(self.run, Job { dir, path, entry, size, content, owner, is_folded }, first);
            return Ok(());
        }
        let mut restored = self.run.restore_other(dir.as_ref(), &entry, &path, owner);
        if restored.as_ref().is_err_and(Error::is_no_space) && self.flusher.wait_for_room()? {
            restored = self.run.restore_other(dir.as_ref(), &entry, &path, owner);
        }
        match restored {
            Ok(change) => {
                self.run.done(&path, Item::Other, change, 0);
                Ok(())
            }
            Err(error) => self.run.problem_or_end(&path, error),
        }
    }

    /// Goes down into a directory; the walk's path is its own.
    fn enter(&mut self, entry: Entry, node: ChunkId, name_at: usize, selected: bool) -> Result<()> {
        let is_incomplete = entry.is_incomplete();
        let meta = matches!(entry.kind, Kind::Directory(_)).then_some(entry.meta);
        let wrong_name = self.cannot_be_called(&entry.name)?;
        let mut level = Level::new(name_at, self.path.len(), Some(node), meta);
        level.is_incomplete = is_incomplete;
        if let Some(error) = wrong_name {
            level.place = Place::Passed;
            let path = self.target_path();
            self.run.problem_or_end(&path, self.run.error("make", &path)(error))?;
        }
        self.levels.push(level);
        let_rest(self.levels.iter_mut().rev().map(|level| level.entries.as_mut()));
        if selected {
            self.here()?;
        }
        Ok(())
    }

    /// Where the current level is, after making what was put off.
    fn here(&mut self) -> Result<Here> {
        let first =
            self.levels.iter().rposition(|level| level.place != Place::Later).map_or(0, |index| index + 1);
        for index in first..self.levels.len() {
            let above = self.levels.get(index.wrapping_sub(1)).map_or(Place::Open, |level| level.place);
            let place = match above {
                Place::Open => self.make(index)?,
                other => other,
            };
            let level = &mut self.levels[index];
            level.place = place;
            if place == Place::Absent {
                level.change = if level.change == Change::Changed { Change::Changed } else { Change::New };
            }
            // Levels that were put off are made all at once, however many.
            if self.batch.is_full(self.run.reader.budget()) {
                self.flusher.flush(&mut self.batch)?;
            }
        }
        match (self.levels.last().map(|level| level.place), &mut self.dirs) {
            (Some(Place::Open), Some(dirs)) => {
                let dir = dirs.top();
                let path = self.target_path();
                Ok(Here::Open(dir.map_err(self.run.error("open the directory of", &path))?))
            }
            (Some(Place::Absent), _) | (_, None) => Ok(Here::Absent),
            _ => Ok(Here::Passed),
        }
    }

    /// Makes or opens the directory of a level, below one that is open.
    fn make(&mut self, index: usize) -> Result<Place> {
        let Some(dirs) = &mut self.dirs else { return Ok(Place::Absent) };
        // What `delete` lists has its name.
        let above = index.checked_sub(1).and_then(|above| self.levels.get(above));
        let is_listed = self.run.options.delete && above.is_some_and(|above| above.existed);
        let Some(level) = self.levels.get_mut(index) else { return Ok(Place::Passed) };
        let name = self.path.get(level.name_at..level.path_len).unwrap_or_default().to_vec();
        let base = self.run.base.len();
        let path = self.path.get(base..level.path_len).unwrap_or_default();
        let path = path.strip_prefix(b"/").unwrap_or(path).to_vec();
        let parent = dirs.top().map_err(self.run.error("open the directory of", &path))?;
        let mut made = self.run.make_directory(&parent, &name, &path, level, !is_listed);
        if made.as_ref().is_err_and(Error::is_no_space) && self.flusher.wait_for_room()? {
            made = self.run.make_directory(&parent, &name, &path, level, !is_listed);
        }
        match made {
            Ok(Made::Directory(dir)) => {
                let dir = Arc::new(dir);
                dirs.push(&name, dir.clone());
                if dir.is_hidden() {
                    let number = Some(self.batch.number);
                    level.batch = number;
                    let above = index.checked_sub(1).and_then(|above| self.levels.get_mut(above));
                    let is_new =
                        above.is_some_and(|above| std::mem::replace(&mut above.batch, number) != number);
                    self.batch.push_made(dir.clone(), is_new);
                }
                let mut level = std::mem::replace(&mut self.levels[index], Level::new(0, 0, None, None));
                let looked = self.look_at_directory(&mut level, &dir);
                self.levels[index] = level;
                looked?;
                Ok(Place::Open)
            }
            Ok(Made::Pretended) => Ok(Place::Absent),
            Ok(Made::LeftOut) => {
                self.run.done(&path, Item::Directory, Change::LeftOut, 0);
                Ok(Place::Passed)
            }
            Err(error) => {
                self.run.problem_or_end(&path, error)?;
                Ok(Place::Passed)
            }
        }
    }

    /// Notes of an open directory what is to be known when it is left.
    fn look_at_directory(&mut self, level: &mut Level<'a>, dir: &Arc<Dir>) -> Result<()> {
        let run = self.run;
        if level.existed && run.options.overwrite == Overwrite::Never {
            level.meta = None;
        }
        if let (true, Some(meta)) = (level.existed, &level.meta) {
            let path = self.path.get(..level.path_len).unwrap_or_default();
            let wanted = Wanted { path, meta, owner: run.owners.of(path, meta) };
            let differ =
                run.metadata_differ(&dir.own_handle(), &wanted).map_err(|fault| fault.at(run, &dir.path));
            match differ {
                Ok(true) => level.change = Change::Changed,
                Ok(false) => {}
                Err(error) => run.problem_or_end(&dir.path, error)?,
            }
        }
        if run.options.dry_run {
            return Ok(());
        }
        if run.root.as_ref().is_some_and(|root| root.inode.0 != dir.inode.0) {
            lock(&run.file_systems).entry(dir.inode.0).or_insert_with(|| dir.clone());
        }
        let mode = dir.stat_self().map_or(0o700, |stat| stat.st_mode & 0o7777);
        if !run.root_user && mode & 0o700 != 0o700 && dir.own_handle().chmod(mode | 0o700).is_ok() {
            level.mode_before = Some(mode);
        }
        if level.existed {
            self.run.remove_left_over(dir)?;
        }
        let folding = *self.foldings.entry(dir.inode.0).or_insert_with(|| dir.folding());
        level.folded = folding.map(Folded::new);
        Ok(())
    }

    /// Goes up: removes what is too much, and finishes the directory now or with the batch.
    fn leave(&mut self) -> Result<()> {
        let dir = match self.levels.last().map(|level| level.place) {
            Some(Place::Open) => match self.here()? {
                Here::Open(dir) => Some(dir),
                _ => None,
            },
            _ => None,
        };
        let path = self.target_path();
        let Some(level) = self.levels.pop() else { return Ok(()) };
        let whole = self.path.get(..level.path_len).unwrap_or_default().to_vec();
        self.path.truncate(level.name_at.saturating_sub(1));
        if let (Place::Open, false, Some(dirs)) = (level.place, self.levels.is_empty(), &mut self.dirs) {
            dirs.pop();
        }
        let run = self.run;
        // Temporary files of the batch under way are nothing to be removed, and what is kept of damaged ones is not known yet: it may have
        // some of this directory, whose last files are in the next one.
        if run.options.delete && level.existed {
            self.flusher.wait()?;
        }
        if let (Some(dir), Some(node), true, false, true) =
            (&dir, level.node, level.existed, level.damaged || level.is_incomplete, run.options.delete)
            && let Err(error) = run.delete_superfluous(dir, node, level.folded.is_some())
        {
            run.problem_or_end(&path, error)?;
        }
        // The folder that a single file goes into is not the snapshot's.
        let counts = level.node.is_some();
        if matches!(level.place, Place::Later | Place::Passed) || !counts && level.mode_before.is_none() {
            return Ok(());
        }
        let meta = level.meta.map(|meta| {
            let owner = run.owners.of(&whole, &meta);
            (meta, owner)
        });
        let finish = Finish { dir, path, meta, mode_before: level.mode_before, change: level.change, counts };
        let is_in_this = level.batch == Some(self.batch.number);
        if is_in_this || level.batch.is_some_and(|number| self.flusher.is_under_way(number)) {
            self.batch.push_finish(finish, !is_in_this);
            return Ok(());
        }
        run.finish_directory(finish)
    }
}

impl Level<'_> {
    fn new(name_at: usize, path_len: usize, node: Option<ChunkId>, meta: Option<Meta>) -> Self {
        Self {
            name_at,
            path_len,
            node,
            entries: None,
            meta,
            place: Place::Later,
            existed: false,
            damaged: false,
            is_incomplete: false,
            change: Change::Unchanged,
            mode_before: None,
            batch: None,
            folded: None,
        }
    }
}
