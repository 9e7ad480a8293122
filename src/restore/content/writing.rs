//! A file on its way: its temporary file, open or not, and what of it is lost.

use std::fs::File;
use std::io;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex};

use rustix::fs::Stat;

use crate::error::{Error, Result};
use crate::event::Change;
use crate::restore::batch::Job;
use crate::restore::target::{self, Temp};
use crate::restore::{Run, lock};

/// At most so many temporary files are open.
const MAX_OPEN_TEMPS: usize = 192;

/// A file on its way.
pub(in crate::restore) struct Writing {
    pub(in crate::restore) job: Job,
    pub(super) change: Change,
    /// It is restored together with others: if there is no room for it, it is tried again once these have their names.
    pub(super) may_be_tried_again: bool,
    /// Pieces still to arrive, and one for the listing of them.
    pub(super) waiting: AtomicUsize,
    /// The temporary file, and what it was when it was made.
    pub(super) temp: Mutex<Option<(Temp, Stat)>>,
    pub(super) open: Mutex<Option<Arc<File>>>,
    pub(super) lost: Mutex<Lost>,
}

/// What of a file could not be had.
#[derive(Default)]
pub(super) struct Lost {
    pub(super) error: Option<Error>,
    pub(super) ranges: Vec<(u64, u64)>,
    /// The target's file system failed: then nothing is kept of the file.
    pub(super) target_failed: bool,
}

impl Writing {
    /// A file of which nothing is written yet.
    pub(super) fn new(job: Job, change: Change, may_be_tried_again: bool) -> Self {
        Self {
            job,
            change,
            may_be_tried_again,
            waiting: AtomicUsize::new(1),
            temp: Mutex::default(),
            open: Mutex::default(),
            lost: Mutex::default(),
        }
    }

    /// Does something with the temporary file. A full medium ends the restore, any other failure costs this file.
    pub(super) fn attempt(
        self: &Arc<Self>,
        run: &Run<'_>,
        work: impl FnOnce(&File) -> io::Result<()>,
    ) -> Result<()> {
        if lock(&self.lost).target_failed {
            return Ok(());
        }
        if let Err(error) = self.file(run).and_then(|file| work(&file)) {
            let error = run.error("write", &self.job.path)(error);
            let is_no_space = error.is_no_space();
            if is_no_space && !self.may_be_tried_again {
                return Err(error);
            }
            let mut lost = lock(&self.lost);
            lost.error.get_or_insert(error);
            lost.target_failed = true;
            drop(lost);
            if is_no_space {
                // What it has taken so far is room for the others.
                lock(&self.open).take();
                lock(&self.temp).take();
            }
        }
        Ok(())
    }

    pub(super) fn lose(&self, error: Error, range: (u64, u64)) {
        let mut lost = lock(&self.lost);
        lost.error.get_or_insert(error);
        lost.ranges.push(range);
    }

    /// The temporary file, made or opened again if need be. Only so many are open at once.
    pub(super) fn file(self: &Arc<Self>, run: &Run<'_>) -> io::Result<Arc<File>> {
        let file = {
            let mut open = lock(&self.open);
            if let Some(file) = &*open {
                return Ok(file.clone());
            }
            let mut temp = lock(&self.temp);
            let file = if let Some((temp, made)) = &*temp {
                temp.reopen(target::inode_of(made))?
            } else {
                let dir = self.job.dir.as_ref().ok_or(io::ErrorKind::NotFound)?;
                let entry = &self.job.entry;
                let (new, file) = Temp::file(dir, &entry.name, entry.meta.mode)?;
                *temp = Some((new, rustix::fs::fstat(&file)?));
                file
            };
            open.insert(Arc::new(file)).clone()
        };
        let longest = {
            let mut all = lock(&run.open_temps);
            all.push_back(Arc::downgrade(self));
            if all.len() > MAX_OPEN_TEMPS { all.pop_front() } else { None }
        };
        if let Some(longest) = longest.and_then(|longest| longest.upgrade()) {
            lock(&longest.open).take();
        }
        Ok(file)
    }
}
