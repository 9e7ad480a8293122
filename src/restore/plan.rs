//! Which pieces are fetched when: files are gathered in a [`Batch`], and their pieces sorted by pack and frame.
//!
//! A batch is bounded by files, bytes and directories (each of which stays open), so memory and descriptors are too; a
//! file longer than a batch passes in portions of its own. A directory whose files wait in a batch is finished after them,
//! as they would change its time again. Names of one hard-linked file wait for the first of them.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};
use std::thread;

use crate::budget::Budget;
use crate::codec;
use crate::error::Result;
use crate::event::Change;
use crate::id::{self, ChunkId, ChunkKind, LinkGroup};
use crate::pack::Location;
use crate::snapshot::{Content, Entry, Meta, Piece};

use super::content::Writing;
use super::target::{Dir, Inode};
use super::{Run, lock};

/// A batch has at most so many files …
const MAX_FILES: usize = 16_384;
/// … of so many bytes together …
const MAX_BYTES: u64 = 1 << 30;
/// … in so many directories, each of which is held open, as far as the process may …
const MAX_DIRS: u64 = 4096;
const MIN_DIRS: u64 = 192;
/// … beside so many descriptors for all else …
const OTHER_DESCRIPTORS: u64 = 832;
/// … that take so many bytes of memory, with their paths, attributes and lists of chunks.
const MAX_HELD: usize = 24 << 20;
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

/// A piece to be fetched for a file.
pub(super) struct Need {
    pub(super) writing: Arc<Writing>,
    pub(super) at: u64,
    pub(super) len: u32,
    pub(super) id: ChunkId,
    pub(super) location: Location,
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
    /// Which batch this is, so that a directory knows whether it has files in it.
    pub(super) number: u64,
    jobs: Vec<Job>,
    linked: Vec<Job>,
    finishes: Vec<Finish>,
    bytes: u64,
    dirs: usize,
    held: usize,
}

/// Files with several names, as far as they are restored.
#[derive(Default)]
pub(super) struct Links {
    files: HashMap<LinkKey, Linked>,
    inodes: HashMap<Inode, LinkKey>,
}

/// What names of one file have in common: their group, and a hash of what they are. An inode number that was used twice while the
/// snapshot was taken gives two files one group.
pub(super) type LinkKey = (LinkGroup, [u8; 16]);

/// The key of an entry that may have further names.
pub(super) fn link_key(entry: &Entry) -> Option<LinkKey> {
    entry.meta.link_group.map(|group| (group, id::checksum_128(&[&codec::encode(&entry.kind)])))
}

/// Where the first name of a file is.
#[derive(Clone)]
enum Linked {
    /// It is in the batch.
    Waiting,
    /// Below the target, directory and name; the inode is unknown in a dry run of what does not exist.
    Restored { dir: Vec<u8>, dir_inode: Option<Inode>, name: Vec<u8>, inode: Option<Inode> },
}

/// A name that exists, to link to.
pub(super) struct Original {
    pub(super) dir: Vec<u8>,
    pub(super) dir_inode: Option<Inode>,
    pub(super) name: Vec<u8>,
    pub(super) inode: Option<Inode>,
}

impl Links {
    /// The name that the file of this group has already.
    pub(super) fn original(&self, group: LinkKey) -> Option<Original> {
        match self.files.get(&group)?.clone() {
            Linked::Waiting => None,
            Linked::Restored { dir, dir_inode, name, inode } => {
                Some(Original { dir, dir_inode, name, inode })
            }
        }
    }

    /// Notes under which name the file of this group was restored.
    pub(super) fn restored(&mut self, group: LinkKey, original: Original) {
        let Original { dir, dir_inode, name, inode } = original;
        if let Some(inode) = inode {
            self.inodes.insert(inode, group);
        }
        self.files.insert(group, Linked::Restored { dir, dir_inode, name, inode });
    }

    /// Whether an existing inode may be the file of this group: it is not that of another one.
    pub(super) fn may_be(&self, inode: Inode, group: LinkKey) -> bool {
        self.inodes.get(&inode).is_none_or(|owner| *owner == group)
    }
}

/// The most directories of a batch.
fn max_dirs() -> usize {
    static MAX: LazyLock<usize> = LazyLock::new(|| {
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        let dirs = limit.map_or(MAX_DIRS, |limit| limit.saturating_sub(OTHER_DESCRIPTORS));
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
        let links = link_key(&job.entry).map(|group| (lock(&run.links), group));
        let later = links.is_some_and(|(mut links, group)| {
            let known = links.files.contains_key(&group);
            links.files.entry(group).or_insert(Linked::Waiting);
            known
        });
        if later { &mut self.linked } else { &mut self.jobs }.push(job);
    }

    /// Whether it is to be restored before anything is added.
    pub(super) fn is_full(&self, budget: Budget) -> bool {
        self.jobs.len() + self.linked.len() >= budget.share_at_most(MAX_FILES)
            || self.bytes >= MAX_BYTES
            || self.dirs >= max_dirs()
            || self.held >= budget.share_at_most(MAX_HELD)
    }

    /// Has a directory finished after its files.
    pub(super) fn finish_later(&mut self, finish: Finish) {
        self.finishes.push(finish);
    }

    /// Restores all files of the batch, finishes the directories, and leaves it empty.
    pub(super) fn flush(&mut self, run: &Run<'_>) -> Result<()> {
        let Self { number, jobs, linked, finishes, .. } = std::mem::take(self);
        self.number = number + 1;
        run.restore_files(jobs)?;
        for job in linked {
            run.check()?;
            let original = link_key(&job.entry).and_then(|group| lock(&run.links).original(group));
            match original {
                Some(original) => {
                    if let Some(job) = run.link_file(job, &original)? {
                        run.restore_files(vec![job])?;
                    }
                }
                // The first name was left as it was or is damaged: this one is the first now.
                None => run.restore_files(vec![job])?,
            }
        }
        for finish in finishes {
            run.finish_directory(finish)?;
        }
        Ok(())
    }
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
    fn restore_files(&self, jobs: Vec<Job>) -> Result<()> {
        let (together, alone): (Vec<_>, Vec<_>) = jobs.into_iter().partition(|job| job.size <= MAX_TOGETHER);
        let without_room = self.restore_together(together)?;
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
            self.sync_and_place(&[writing])?;
        }
        Ok(())
    }

    /// Restores files of moderate length, and returns those for which there was no room while the others lay beside what they replace.
    fn restore_together(&self, jobs: Vec<Job>) -> Result<Vec<Job>> {
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
        self.sync_and_place(&writings)?;
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
    fn sync_and_place(&self, writings: &[Arc<Writing>]) -> Result<()> {
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
        self.in_parallel_runs(&runs, |index| match writings.get(index) {
            Some(writing) => {
                if self.options.verify {
                    self.read_back(writing)?;
                }
                self.place(writing)
            }
            None => Ok(()),
        })
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

    /// Calls `work` for each number below `count`, on several threads. The first error ends the restore.
    pub(super) fn in_parallel(&self, count: usize, work: impl Fn(usize) -> Result<()> + Sync) -> Result<()> {
        let threads = self.reader.budget().threads(THREAD_BYTES).min(MAX_THREADS).min(count);
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
