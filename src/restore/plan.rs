//! Which pieces are fetched when: those of the files of a batch, sorted by pack and frame, each frame once; a file longer than a batch
//! passes in portions of its own.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use crate::error::Result;
use crate::id::{ChunkId, ChunkKind};
use crate::pack::Location;

use super::batch::{Job, NewDirs};
use super::content::Writing;
use super::target::Dir;
use super::{Run, lock};

/// A file of more bytes than this passes alone, in portions.
const MAX_TOGETHER: u64 = 64 << 20;
/// A portion has so many pieces.
const MAX_NEEDS: usize = 16 << 10;
/// One thread restores so many neighbours, and more of one directory up to a limit.
const RUN_LEN: usize = 32;
const MAX_RUN_LEN: usize = 1024;
/// So many threads fetch and write: one decodes while another waits for the medium.
const MAX_THREADS: usize = 8;
/// Each decodes frames of 4 MiB.
const THREAD_BYTES: usize = 16 << 20;
/// So many pieces of a batch wait at most.
const MAX_GATHERED: usize = 128 << 10;

/// A piece to be fetched for a file.
pub(super) struct Need {
    pub(super) writing: Arc<Writing>,
    pub(super) at: u64,
    pub(super) len: u32,
    pub(super) id: ChunkId,
    pub(super) location: Location,
}

/// What tells the directory of a file from others while both are open.
fn place(job: &Job) -> usize {
    job.dir.as_ref().map_or(0, |dir| Arc::as_ptr(dir).addr())
}

/// Neighbouring files that one thread restores: two would wait for each other in one directory.
fn runs(places: impl Iterator<Item = usize>) -> Vec<Range<usize>> {
    let mut runs: Vec<Range<usize>> = Vec::new();
    let mut last = 0;
    for (index, place) in places.enumerate() {
        match runs.last_mut() {
            Some(run) if run.len() < RUN_LEN || place == last && run.len() < MAX_RUN_LEN => run.end += 1,
            _ => runs.push(index..index + 1),
        }
        last = place;
    }
    runs
}

impl Run<'_> {
    /// Restores regular files.
    pub(super) fn restore_files(&self, jobs: Vec<Job>, made: &mut NewDirs) -> Result<()> {
        let (together, alone): (Vec<_>, Vec<_>) = jobs.into_iter().partition(|job| job.size <= MAX_TOGETHER);
        let without_room = self.restore_together(together, made)?;
        for job in alone.into_iter().chain(without_room) {
            self.check()?;
            let Some(writing) = self.begin(job, false)? else { continue };
            let mut needs = Vec::new();
            self.list_needs(&writing, &mut |need| {
                needs.push(need);
                if needs.len() >= MAX_NEEDS { self.fetch(std::mem::take(&mut needs)) } else { Ok(()) }
            })?;
            self.fetch(needs)?;
            self.listed(&writing);
            self.sync_and_place(&[writing], made)?;
        }
        Ok(())
    }

    /// Restores files of moderate length, and returns those for which there was no room while the others lay beside what they replace.
    fn restore_together(&self, jobs: Vec<Job>, made: &mut NewDirs) -> Result<Vec<Job>> {
        let jobs: Vec<_> = jobs.into_iter().map(|job| std::sync::Mutex::new(Some(job))).collect();
        let gathered = std::sync::Mutex::default();
        let writings: std::sync::Mutex<Vec<Arc<Writing>>> = std::sync::Mutex::default();
        let runs = runs(jobs.iter().map(|job| lock(job).as_ref().map_or(0, place)));
        self.in_parallel_runs(&runs, |index| {
            let Some(job) = jobs.get(index).and_then(|job| lock(job).take()) else { return Ok(()) };
            let Some(writing) = self.begin(job, true)? else { return Ok(()) };
            let mut needs = Vec::new();
            self.list_needs(&writing, &mut |need| {
                needs.push(need);
                if needs.len() < MAX_NEEDS { Ok(()) } else { self.gather(&gathered, &mut needs) }
            })?;
            self.gather(&gathered, &mut needs)?;
            self.listed(&writing);
            lock(&writings).push(writing);
            Ok(())
        })?;
        let needs = std::mem::take(&mut *lock(&gathered));
        self.fetch(needs)?;
        let mut writings = std::mem::take(&mut *lock(&writings));
        writings.sort_by_key(|writing| place(&writing.job));
        self.sync_and_place(&writings, made)?;
        Ok(std::mem::take(&mut *lock(&self.without_room)))
    }

    /// Adds pieces to those that wait, and fetches all if they are too many: a forged list may name millions in one file.
    fn gather(&self, gathered: &std::sync::Mutex<Vec<Need>>, needs: &mut Vec<Need>) -> Result<()> {
        let ready = {
            let mut gathered = lock(gathered);
            gathered.append(needs);
            let most = self.reader.budget().share_at_most(MAX_GATHERED);
            if gathered.len() < most { Vec::new() } else { std::mem::take(&mut *gathered) }
        };
        self.fetch(ready)
    }

    /// Has all that was written reach the medium, and only then gives the files their names: a crash must not leave a file that
    /// has the right length and times and not its bytes. With `verify` they are read back in between.
    fn sync_and_place(&self, writings: &[Arc<Writing>], made: &mut NewDirs) -> Result<()> {
        if let [writing] = writings {
            self.sync_one(writing)?;
        } else {
            let dirs = writings.iter().filter_map(|writing| writing.job.dir.as_ref());
            let by_device: HashMap<u64, &Arc<Dir>> = dirs.map(|dir| (dir.inode.0, dir)).collect();
            for dir in by_device.into_values() {
                dir.sync().map_err(self.error("make durable", &dir.path))?;
            }
        }
        let runs = runs(writings.iter().map(|writing| place(&writing.job)));
        self.in_parallel_runs(&runs, |index| {
            writings.get(index).map_or(Ok(()), |writing| self.settle(writing))
        })?;
        self.show(made)?;
        self.in_parallel_runs(&runs, |index| {
            writings.get(index).map_or(Ok(()), |writing| self.place(writing))
        })
    }

    /// Gives new directories their names, as all files in them are durable.
    fn show(&self, made: &mut NewDirs) -> Result<()> {
        for dir in &made.0 {
            self.check()?;
            dir.show()
                .or_else(|error| self.problem_or_end(&dir.path, self.error("make", &dir.path)(error)))?;
        }
        made.0.clear();
        Ok(())
    }

    /// Fetches pieces, each frame once, in the order in which they lie in the packs.
    fn fetch(&self, mut needs: Vec<Need>) -> Result<()> {
        if needs.is_empty() {
            return Ok(());
        }
        needs.sort_by_key(|need| (need.location.pack, need.location.frame_offset, need.location.offset));
        let mut frames: Vec<&[Need]> = needs
            .chunk_by(|a, b| {
                (a.location.pack, a.location.frame_offset) == (b.location.pack, b.location.frame_offset)
            })
            .collect();
        frames.retain(|frame| !frame.is_empty());
        self.in_parallel(frames.len(), |index| {
            frames.get(index).map_or(Ok(()), |frame| self.fetch_frame(frame))
        })
    }

    fn fetch_frame(&self, needs: &[Need]) -> Result<()> {
        let wanted: Vec<_> = needs.iter().map(|need| (need.id, need.location)).collect();
        let mut handed = vec![false; needs.len()];
        let mut outcome = Ok(());
        let mut take = |index: usize, chunk: Result<&[u8]>| {
            let (Some(need), Some(handed), Ok(())) = (needs.get(index), handed.get_mut(index), &outcome)
            else {
                return;
            };
            if let Ok(chunk) = chunk {
                *handed = true;
                outcome = self.check().and_then(|()| self.write_piece(need, chunk));
            }
        };
        // What a frame does not give is asked for once more, alone: it may lie in another pack as well.
        let whole = self.reader.read_frame(&wanted, &mut take);
        outcome?;
        drop(whole);
        for (need, _) in needs.iter().zip(&handed).filter(|(_, handed)| !**handed) {
            self.check()?;
            match self.reader.get(ChunkKind::Data, &need.id) {
                Ok(chunk) => self.write_piece(need, &chunk)?,
                Err(error) => self.lose_piece(need, error),
            }
        }
        Ok(())
    }

    /// Calls `work` for each number in some ranges, on several threads, each range on one.
    fn in_parallel_runs(
        &self,
        runs: &[Range<usize>],
        work: impl Fn(usize) -> Result<()> + Sync,
    ) -> Result<()> {
        self.in_parallel(runs.len(), |run| {
            let run = runs.get(run).cloned().unwrap_or_default();
            run.into_iter().try_for_each(|index| self.check().and_then(|()| work(index)))
        })
    }

    /// So many threads fetch and write at a time, beside that of the walk if there are several.
    pub(super) fn threads(&self) -> usize {
        self.reader.budget().threads(THREAD_BYTES).min(MAX_THREADS)
    }

    /// Calls `work` for each number below `count`, on several threads. The first error ends the restore.
    pub(super) fn in_parallel(&self, count: usize, work: impl Fn(usize) -> Result<()> + Sync) -> Result<()> {
        let threads = self.threads().min(count);
        let next = AtomicUsize::new(0);
        let worker = || {
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                if index >= count || self.check().is_err() {
                    return;
                }
                if let Err(error) = work(index) {
                    self.abort(error);
                    return;
                }
            }
        };
        if threads < 2 {
            worker();
        } else {
            thread::scope(|scope| {
                for _ in 0..threads {
                    scope.spawn(worker);
                }
            });
        }
        self.check()
    }
}
