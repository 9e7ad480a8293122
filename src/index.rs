//! `ChunkId -> Location`: what is in the repository, and where.
//!
//! [`Index`] answers from segments (immutable files of facts) and from the directories of packs that no segment covers.
//! Whether a chunk is *present* is decided by this run's listing of `packs/` alone `[REPO-6]`: neither a segment nor the cache
//! may vouch for a pack. A damaged segment is replaced, in memory, by the directories of the packs it named; a run that writes
//! sets it aside before it relies on anything, so that its packs are adopted and covered again `[DUR-11]`. What is found damaged is
//! kept until [`Index::take_problems`].
//!
//! `segment` is the file, `facts` the same in memory, `locate` looks chunks up in both, `redundant` says which segments may go, `cache` is
//! the redb copy that makes deduplication quick and that nothing depends on. Next: `snapshot.rs`.

mod blocks;
mod cache;
mod facts;
mod locate;
mod merged;
mod redundant;
mod segment;
mod unfit;

pub(crate) use cache::open_private;
pub use cache::{ChunkCache, GoOn};
pub use facts::Facts;
pub use redundant::redundant;
pub use segment::{
    FACT_LEN, FACTS_PER_BLOCK, MAX_SEGMENT_FACTS, MAX_SEGMENT_PACKS, MAX_SUPERSEDED, PackRow, SMALL_SEGMENTS,
    Segment, SegmentHeader,
};

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, OnceLock};

use crate::backend::Backend;
use crate::budget::Budget;
use crate::error::{Corruption, Error, Result};
use crate::id::{ChunkId, PackId, SegmentId};
use crate::pack::{Location, PackFile, pack_file_name};
use crate::seal::Keys;

/// So many segments keep their file open: more than a repository has whose small ones are merged.
const OPEN_SEGMENTS: usize = 64;

/// The packs of one listing, with their lengths, and which of them a record says are damaged.
#[derive(Debug, Default, Clone)]
pub struct PresentPacks {
    /// Length by pack.
    pub packs: HashMap<PackId, u64>,
    /// Recorded as damaged in this copy: new snapshots do not rely on them, reading still tries.
    pub damaged: HashSet<PackId>,
    /// Condemned by somebody who prunes: new snapshots do not rely on them, reading does as long as they are there.
    pub condemned: HashSet<PackId>,
}

impl PresentPacks {
    fn is_reliable(&self, pack: &PackId) -> bool {
        !self.damaged.contains(pack) && !self.condemned.contains(pack)
    }

    fn has(&self, row: &PackRow) -> bool {
        self.packs.get(&row.pack) == Some(&u64::from(row.stored_len))
    }
}

/// Where every chunk lies.
pub struct Index {
    backend: Arc<dyn Backend>,
    keys: Keys,
    segments: Vec<Covered>,
    uncovered: Facts,
    uncovered_packs: Vec<PackId>,
    present: PresentPacks,
    blocks: blocks::BlockCache,
    /// The numbers of the segments that had what was asked for lately, the last one first.
    asked_first: Mutex<Vec<usize>>,
    /// Segments that are damaged.
    damaged: Vec<SegmentId>,
    /// Of each segment that was set aside, the packs that no other one covers.
    set_aside: Vec<Vec<PackId>>,
    /// What was found damaged since the index was loaded.
    found: Mutex<Problems>,
}

/// A segment, and what stands in for it once it was found damaged.
struct Covered {
    segment: Segment,
    fallback: OnceLock<Facts>,
}

/// What was wrong while an index was loaded; the index is complete all the same where the packs are.
pub type Problems = Vec<Error>;

impl Index {
    /// Loads the index: opens the segments, and reads the directories of all packs that no sound segment covers.
    ///
    /// # Errors
    /// Any error of the medium, `NotFound` among them if a segment vanished since the listing. Damage is no
    /// error here but a problem that is returned.
    pub fn load(
        backend: &Arc<dyn Backend>,
        keys: &Keys,
        segments: &[SegmentId],
        present: PresentPacks,
        budget: Budget,
    ) -> Result<(Self, Problems)> {
        let (mut problems, mut damaged) = (Vec::new(), Vec::new());
        let mut opened = Vec::new();
        let mut covered = HashSet::new();
        for id in segments {
            match Segment::open(backend, *id, keys) {
                Ok(mut segment) => {
                    if opened.len() >= OPEN_SEGMENTS {
                        segment.close();
                    }
                    covered.extend(segment.packs().iter().filter(|row| present.has(row)).map(|row| row.pack));
                    opened.push(Covered { segment, fallback: OnceLock::new() });
                }
                Err(error) if error.is_damage() && !is_vanished(&error) => {
                    damaged.push(*id);
                    problems.push(error);
                }
                Err(error) => return Err(error),
            }
        }
        let mut index = Self {
            backend: backend.clone(),
            keys: keys.clone(),
            segments: opened,
            uncovered: Facts::default(),
            uncovered_packs: Vec::new(),
            present,
            blocks: blocks::BlockCache::new(budget),
            asked_first: Mutex::default(),
            damaged,
            set_aside: Vec::new(),
            found: Mutex::default(),
        };
        let mut uncovered: Vec<PackId> =
            index.present.packs.keys().filter(|pack| !covered.contains(pack)).copied().collect();
        uncovered.sort_unstable();
        let mut facts = Facts::default();
        index.read_directories(&uncovered, &mut facts, &mut problems);
        if let Some(gone) = problems.iter().position(|problem| is_deleted(&**backend, problem)) {
            return Err(problems.swap_remove(gone));
        }
        index.uncovered = facts;
        index.uncovered_packs = uncovered;
        Ok((index, problems))
    }

    /// What was found damaged since the index was loaded, or since this was asked last: each file once.
    #[must_use]
    pub fn take_problems(&self) -> Problems {
        self.found.lock().map(|mut found| std::mem::take(&mut *found)).unwrap_or_default()
    }

    /// Reads all blocks of all segments, and sets aside those that are damaged.
    ///
    /// # Errors
    /// `Interrupted` if `go_on` says no; any error of the medium, `NotFound` among them if a segment vanished.
    pub fn verify_segments(&mut self, go_on: GoOn<'_>) -> Result<()> {
        let mut damaged = Vec::new();
        let facts: u64 = self.segments().map(Segment::fact_count).sum();
        for segment in self.segments() {
            match segment.for_each(|_| ()) {
                Ok(()) if segment.is_small() || go_on(segment.fact_count(), facts) => {}
                Ok(()) => return Err(Error::Interrupted),
                Err(error) if error.is_damage() && !is_vanished(&error) => {
                    damaged.push((segment.id(), error));
                }
                Err(error) => return Err(error),
            }
        }
        for (segment, error) in damaged {
            self.set_aside(segment, error);
        }
        Ok(())
    }

    /// Takes out a segment that was found damaged. Its packs that no other one covers count as uncovered from now on, and their own
    /// directories say what is in them.
    pub(crate) fn set_aside(&mut self, id: SegmentId, error: Error) {
        let (out, rest): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.segments).into_iter().partition(|covered| covered.segment.id() == id);
        self.segments = rest;
        let mut uncovered: Vec<PackId> = out
            .iter()
            .flat_map(|covered| covered.segment.packs())
            .filter(|row| self.present.has(row) && !self.is_covered(&row.pack))
            .map(|row| row.pack)
            .collect();
        let mut problems = vec![error];
        let mut facts = std::mem::take(&mut self.uncovered);
        self.read_directories(&uncovered, &mut facts, &mut problems);
        self.uncovered = facts;
        uncovered.retain(|pack| self.uncovered_packs.binary_search(pack).is_err());
        self.uncovered_packs.extend_from_slice(&uncovered);
        self.uncovered_packs.sort_unstable();
        self.set_aside.push(uncovered);
        self.damaged.push(id);
        self.note(problems);
    }

    fn is_covered(&self, pack: &PackId) -> bool {
        self.segments().any(|segment| segment.row_of(pack).is_some_and(|row| self.present.has(row)))
    }

    fn note(&self, problems: Problems) {
        if let Ok(mut found) = self.found.lock() {
            found.extend(problems);
        }
    }

    /// The packs that no segment covers, ascending.
    #[must_use]
    pub fn uncovered_packs(&self) -> &[PackId] {
        &self.uncovered_packs
    }

    /// Of each segment that was set aside, those of them that it covered: covered again together, they are in a plain repository most often
    /// that segment, byte for byte. In an encrypted one no seal comes out twice alike: there the damaged one is removed.
    pub(crate) fn packs_set_aside(&self) -> &[Vec<PackId>] {
        &self.set_aside
    }

    /// The segments that are damaged and that no sound one of the same name has replaced.
    pub(crate) fn damaged_segments(&self) -> Vec<SegmentId> {
        let is_replaced = |id: &&SegmentId| self.segments().any(|segment| segment.id() == **id);
        self.damaged.iter().filter(|id| !is_replaced(id)).copied().collect()
    }

    /// Whether sound segments cover every pack that is present.
    pub(crate) fn covers_all(&self) -> bool {
        self.present.packs.keys().all(|pack| self.is_covered(pack))
    }

    /// Segments that another one was made from, and that were removed then; and that one `[SEG-6]`.
    pub fn superseded(&self) -> Vec<(&Segment, SegmentId)> {
        let by: HashMap<SegmentId, SegmentId> =
            self.segments().flat_map(|by| by.superseded().map(|id| (id, by.id()))).collect();
        self.segments().filter_map(|segment| Some((segment, *by.get(&segment.id())?))).collect()
    }

    /// The packs of the listing.
    #[must_use]
    pub fn present(&self) -> &PresentPacks {
        &self.present
    }

    /// The segments that could be opened.
    pub fn segments(&self) -> impl Iterator<Item = &Segment> {
        self.segments.iter().map(|covered| &covered.segment)
    }

    /// Whether a pack is present, not recorded as damaged and not condemned.
    #[must_use]
    pub fn is_sound_pack(&self, pack: &PackId) -> bool {
        self.present.packs.contains_key(pack) && self.present.is_reliable(pack)
    }

    /// All chunks in the order of their ids, each with all places where it is present.
    ///
    /// # Errors
    /// That of `each`; damage to a segment, or a pack of another length than one says; any error of the medium.
    pub fn for_each(&self, mut each: impl FnMut(&ChunkId, &[Location]) -> Result<()>) -> Result<()> {
        let segments: Vec<&Segment> = self.segments().collect();
        for row in segments.iter().flat_map(|segment| segment.packs()) {
            if let Some(found) = self.present.packs.get(&row.pack).filter(|_| !self.present.has(row)) {
                let (expected, found) = (row.stored_len.into(), *found);
                return Err(Error::damaged(&pack_file_name(&row.pack))(Corruption::WrongLength {
                    expected,
                    found,
                }));
            }
        }
        let mut merged = merged::Merged::of(&segments);
        let mut uncovered = self.uncovered.iter().peekable();
        let mut next = merged.next()?;
        let (mut id, mut places) = (None, Vec::new());
        loop {
            let from_pack = uncovered.next_if(|(other, _)| next.as_ref().is_none_or(|(id, _)| other <= id));
            let is_last = from_pack.is_none() && next.is_none();
            let fact = match from_pack {
                None => std::mem::replace(&mut next, merged.next()?),
                fact => fact,
            };
            if is_last || fact.as_ref().map(|(id, _)| *id) != id {
                places.sort_unstable();
                places.dedup();
                if let Some(id) = id.filter(|_| !places.is_empty()) {
                    each(&id, &places).map_err(|error| match merged.damaged.pop() {
                        // What is missed may be in the rest of that segment.
                        Some((_, damage)) if error.is_damage() => damage,
                        _ => error,
                    })?;
                }
                places.clear();
            }
            let Some((new, place)) = fact else { break };
            id = Some(new);
            if self.present.packs.contains_key(&place.pack) {
                places.push(place);
            }
        }
        match merged.damaged.pop() {
            Some((_, error)) => Err(error),
            None => Ok(()),
        }
    }

    /// Takes in a segment that this run has just published, with its packs.
    ///
    /// # Errors
    /// Any error of the medium.
    pub fn add_segment(&mut self, id: SegmentId) -> Result<()> {
        let mut segment = Segment::open(&self.backend, id, &self.keys)?;
        if self.segments.len() >= OPEN_SEGMENTS {
            segment.close();
        }
        for row in segment.packs() {
            self.present.packs.insert(row.pack, row.stored_len.into());
        }
        self.segments.push(Covered { segment, fallback: OnceLock::new() });
        Ok(())
    }

    /// Relies on these packs no more: they are to be deleted.
    pub fn condemn(&mut self, packs: impl IntoIterator<Item = PackId>) {
        self.present.condemned.extend(packs);
    }

    /// Takes a pack out: it is not what it should be.
    pub fn drop_pack(&mut self, pack: &PackId) {
        self.present.packs.remove(pack);
    }

    /// Adds the facts of packs from their own directories, or where one is damaged, from its frames.
    fn read_directories(&self, packs: &[PackId], facts: &mut Facts, problems: &mut Problems) {
        for pack in packs.iter().filter(|pack| self.present.packs.contains_key(pack)) {
            let read = PackFile::open(&*self.backend, *pack, &self.keys)
                .and_then(|file| Ok((file.len(), file.kind(), file.directory()?)));
            match read {
                Ok((len, kind, directory)) => facts.add_pack(*pack, len, kind, directory.placed(*pack)),
                // That may happen at any time; whoever misses something of it asks a newer index.
                Err(error) if is_vanished(&error) && self.present.condemned.contains(pack) => {}
                Err(error) if is_vanished(&error) => problems.push(error),
                Err(error) => {
                    problems.push(error);
                    if let Err(error) = facts.add_frames(&*self.backend, *pack, &self.keys) {
                        problems.push(error);
                    }
                }
            }
        }
        facts.sort();
    }
}

/// Whether a file was not there when it was opened: it was listed a moment ago, so someone replaced it.
#[must_use]
pub fn is_vanished(error: &Error) -> bool {
    matches!(error, Error::Repository { source, .. } if source.kind() == std::io::ErrorKind::NotFound)
}

/// Whether a file that was not there when it was opened is listed no more either: somebody has deleted it since it was.
#[must_use]
pub fn is_deleted(backend: &dyn Backend, error: &Error) -> bool {
    let name = error.file().unwrap_or_default();
    let (folder, name) = name.rsplit_once('/').unwrap_or(("", name));
    is_vanished(error)
        && backend.list(folder).is_ok_and(|listed| listed.iter().all(|listed| listed.name != name))
}
