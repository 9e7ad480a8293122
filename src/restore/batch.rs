//! Files that are restored together, with the directories that are made for them and finished after them: [`Batch`].
//!
//! One batch is restored while the walk gathers the next one. A batch is bounded by files, bytes and directories (each of which stays
//! open), so memory and descriptors are too. New directories are hidden until all files of their batch are durable; one whose
//! files wait in a batch is finished after them, as they would change its time again. Names of one hard-linked file wait for
//! the first of them.

use std::sync::{Arc, LazyLock};
use std::thread::{Scope, ScopedJoinHandle};

use crate::budget::Budget;
use crate::error::Result;
use crate::event::Change;
use crate::snapshot::{Content, Entry, Meta, Piece};

use super::place::link_key;
use super::target::Dir;
use super::{Run, lock};

/// A batch, of which there are two at a time, has at most so many files …
const MAX_FILES: usize = 8192;
/// … of so many bytes together …
const MAX_BYTES: u64 = 1 << 30;
/// … in so many directories, each of which is held open, as far as the process may hold those of two …
const MAX_DIRS: u64 = 4096;
const MIN_DIRS: u64 = 96;
/// … beside so many descriptors for all else …
const OTHER_DESCRIPTORS: u64 = 832;
/// … that take so many bytes of memory, with their paths, attributes and lists of chunks.
const MAX_HELD: usize = 12 << 20;
/// About what a directory takes that is made or finished with a batch.
const DIR_BYTES: usize = 256;

/// A regular file to be restored.
#[derive(Clone)]
pub(super) struct Job {
    /// Its directory; none if that does not exist, in a dry run.
    pub(super) dir: Option<Arc<Dir>>,
    /// Below the target.
    pub(super) path: Vec<u8>,
    pub(super) entry: Entry,
    pub(super) size: u64,
    pub(super) content: Content,
    pub(super) owner: Option<(u32, u32)>,
    /// Its name may lead to another file of the directory.
    pub(super) is_folded: bool,
}

impl Job {
    /// The memory it takes, beside what each job takes.
    fn held(&self) -> usize {
        let of = |content: &Content| match content {
            Content::Inline(bytes) => bytes.len(),
            Content::Pieces(pieces) => pieces.len() * size_of::<Piece>(),
            Content::List(_) => 0,
        };
        let xattrs = self.entry.meta.xattrs.iter();
        let xattrs: usize =
            xattrs.map(|xattr| size_of_val(xattr) + xattr.name.len() + of(&xattr.value)).sum();
        // The content is in the entry as well.
        self.path.len() + 2 * of(&self.content) + xattrs
    }
}

/// A directory that the walk has left.
pub(super) struct Finish {
    pub(super) dir: Option<Arc<Dir>>,
    pub(super) path: Vec<u8>,
    /// None: its metadata are not known, and left as they are.
    pub(super) meta: Option<(Meta, Option<(u32, u32)>)>,
    /// The mode to go back to if the metadata are not known.
    pub(super) mode_before: Option<u32>,
    pub(super) change: Change,
    /// Whether it is an entry of the snapshot, and not just the folder that one goes into.
    pub(super) counts: bool,
}

/// Files that are restored together.
#[derive(Default)]
pub(super) struct Batch {
    /// Which batch this is, so that a directory knows whether it has files or new directories in it.
    pub(super) number: u64,
    jobs: Vec<Job>,
    linked: Vec<Job>,
    made: NewDirs,
    finishes: Vec<Finish>,
    bytes: u64,
    dirs: usize,
    held: usize,
}

/// Directories that were made while a batch was gathered, the upper ones first. They are shown when a restore is broken off, too: one
/// that stays hidden would be lost to the user with all that is whole in it.
#[derive(Default)]
pub(super) struct NewDirs(pub(super) Vec<Arc<Dir>>);

impl Drop for NewDirs {
    fn drop(&mut self) {
        for dir in &self.0 {
            // Only the end of the restore leaves any, and why it ended is what the user hears of.
            let _ = dir.give_name();
        }
    }
}

/// The most directories of a batch.
fn max_dirs() -> usize {
    static MAX: LazyLock<usize> = LazyLock::new(|| {
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        let dirs = limit.map_or(MAX_DIRS, |limit| limit.saturating_sub(OTHER_DESCRIPTORS) / 2);
        usize::try_from(dirs.clamp(MIN_DIRS, MAX_DIRS)).unwrap_or(usize::MAX)
    });
    *MAX
}

impl Batch {
    /// Adds a file. `first` says that it is the first one of its directory in this batch.
    pub(super) fn push(&mut self, run: &Run<'_>, job: Job, first: bool) {
        self.dirs += usize::from(first);
        self.held += job.held();
        self.bytes = self.bytes.saturating_add(job.size);
        let later = link_key(&job.entry).is_some_and(|group| !lock(&run.links).begin(group));
        if later { &mut self.linked } else { &mut self.jobs }.push(job);
    }

    /// Whether it is to be restored before anything is added.
    pub(super) fn is_full(&self, budget: Budget) -> bool {
        self.jobs.len() + self.linked.len() >= budget.share_at_most(MAX_FILES)
            || self.bytes >= MAX_BYTES
            || self.dirs >= max_dirs()
            || self.held >= budget.share_at_most(MAX_HELD)
    }

    /// Adds a directory that was made just now, below one that may be new in this batch.
    pub(super) fn push_made(&mut self, dir: Arc<Dir>, above_is_new: bool) {
        self.dirs += 1 + usize::from(above_is_new);
        self.held += dir.path.len() + DIR_BYTES;
        self.made.0.push(dir);
    }

    /// Has a directory finished after its files, which may all be in the batch before.
    pub(super) fn push_finish(&mut self, finish: Finish, is_new: bool) {
        self.dirs += usize::from(is_new);
        self.held += finish.path.len() + DIR_BYTES;
        self.finishes.push(finish);
    }

    /// Takes the batch, and leaves an empty one in its place.
    fn take(&mut self) -> Self {
        let next = Self { number: self.number + 1, ..Self::default() };
        std::mem::replace(self, next)
    }

    /// Restores all files of the batch, and finishes the directories.
    fn restore(self, run: &Run<'_>) -> Result<()> {
        let Self { jobs, linked, mut made, finishes, .. } = self;
        run.restore_files(jobs, &mut made)?;
        let no_more = &mut NewDirs::default();
        for job in linked {
            run.check()?;
            let original = link_key(&job.entry).and_then(|group| lock(&run.links).original(group));
            match original {
                Some(original) => {
                    if let Some(job) = run.link_file(job, &original)? {
                        run.restore_files(vec![job], no_more)?;
                    }
                }
                // The first name was left as it was or is damaged: this one is the first now.
                None => run.restore_files(vec![job], no_more)?,
            }
        }
        for finish in finishes {
            run.finish_directory(finish)?;
        }
        Ok(())
    }
}

/// Restores one batch at a time on a thread of its own, while the walk gathers the next one.
pub(super) struct Flusher<'scope, 'a> {
    scope: &'scope Scope<'scope, 'a>,
    run: &'a Run<'a>,
    /// The batch under way, by its number.
    under_way: Option<(u64, ScopedJoinHandle<'scope, ()>)>,
}

impl<'scope, 'a> Flusher<'scope, 'a> {
    pub(super) fn new(scope: &'scope Scope<'scope, 'a>, run: &'a Run<'a>) -> Self {
        Self { scope, run, under_way: None }
    }

    /// Waits for the batch under way, and then has this one restored, and leaves it empty.
    pub(super) fn flush(&mut self, batch: &mut Batch) -> Result<()> {
        self.wait()?;
        let (batch, run) = (batch.take(), self.run);
        if run.threads() < 2 {
            return batch.restore(run);
        }
        let number = batch.number;
        let restore = move || batch.restore(run).unwrap_or_else(|error| run.abort(error));
        self.under_way = Some((number, self.scope.spawn(restore)));
        Ok(())
    }

    /// Whether this is the batch under way.
    pub(super) fn is_under_way(&self, number: u64) -> bool {
        self.under_way.as_ref().is_some_and(|(under_way, _)| *under_way == number)
    }

    /// Waits for the batch under way, which may lay new files beside those that they replace; whether there was one.
    pub(super) fn wait_for_room(&mut self) -> Result<bool> {
        let is_under_way = self.under_way.is_some();
        self.wait()?;
        Ok(is_under_way)
    }

    /// Waits until no batch is under way. Fails once the restore is to end, as it is if a batch could not be restored.
    pub(super) fn wait(&mut self) -> Result<()> {
        if let Some((_, thread)) = self.under_way.take() {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        }
        self.run.check()
    }
}
