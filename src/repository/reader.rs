//! From ids to bytes: every chunk is verified against its id before it leaves here.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use crate::backend::Backend;
use crate::budget::Budget;
use crate::chunk::GetChunk;
use crate::error::{Corruption, Error, Result};
use crate::id::{ChunkId, ChunkKind, PackId};
use crate::index::{Index, Problems, is_deleted};
use crate::pack::{Frame, FrameChunk, Location, PackFile, PackKind, WholeFrame, pack_file_name};
use crate::repository::Repository;
use crate::seal::Keys;

/// Plain bytes of frames kept, in each of two generations, in a budget of the default size.
const CACHED_BYTES: usize = 16 << 20;
/// Packs kept open.
const OPEN_PACKS: usize = 128;

/// The way to the chunks of a repository, as it was listed when the reader was made; or, where somebody has pruned since, as it is listed
/// then `[DUR-10]`.
pub struct Reader {
    backend: Arc<dyn Backend>,
    keys: Keys,
    budget: Budget,
    /// To list it anew.
    repository: Repository,
    /// What takes over where packs of this listing are gone …
    newer: Mutex<Option<Arc<Reader>>>,
    /// … or where its listing, which takes a while, missed the new ones: made once, since a chunk that is lost is lost in all.
    second: OnceLock<Option<Arc<Reader>>>,
    index: Index,
    problems: Problems,
    frames: Mutex<FrameCache>,
    packs: Mutex<HashMap<PackId, Arc<PackFile>>>,
}

type FrameKey = (PackId, u32);

#[derive(Default)]
struct FrameCache {
    /// Plain bytes in each generation.
    most: usize,
    young: HashMap<FrameKey, Arc<Frame>>,
    young_bytes: usize,
    old: HashMap<FrameKey, Arc<Frame>>,
}

impl FrameCache {
    fn get(&mut self, key: FrameKey) -> Option<Arc<Frame>> {
        if let Some(frame) = self.young.get(&key) {
            return Some(frame.clone());
        }
        let frame = self.old.remove(&key)?;
        self.put(key, frame.clone());
        Some(frame)
    }

    fn put(&mut self, key: FrameKey, frame: Arc<Frame>) {
        if self.young_bytes >= self.most {
            self.old = std::mem::take(&mut self.young);
            self.young_bytes = 0;
        }
        self.young_bytes += frame.plain_len();
        self.young.insert(key, frame);
    }
}

impl Reader {
    pub(super) fn new(repository: &Repository, index: Index, problems: Problems) -> Self {
        let budget = repository.budget();
        Self {
            backend: repository.backend().clone(),
            keys: repository.keys().clone(),
            budget,
            repository: repository.to_read_again(),
            newer: Mutex::default(),
            second: OnceLock::new(),
            index,
            problems,
            frames: Mutex::new(FrameCache { most: budget.share(CACHED_BYTES), ..FrameCache::default() }),
            packs: Mutex::default(),
        }
    }

    /// What operations on the repository may take.
    #[must_use]
    pub fn budget(&self) -> Budget {
        self.budget
    }

    /// What was damaged in the index, though packs stood in for it.
    #[must_use]
    pub fn problems(&self) -> &[Error] {
        &self.problems
    }

    /// It, if nothing was damaged in the index.
    ///
    /// # Errors
    /// The first of its problems.
    pub fn if_sound(mut self) -> Result<Self> {
        self.problems.pop().map_or(Ok(self), Err)
    }

    /// The index.
    #[must_use]
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// The keys of the repository.
    #[must_use]
    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    /// The medium of the repository.
    #[must_use]
    pub fn backend(&self) -> &Arc<dyn Backend> {
        &self.backend
    }

    /// Where a chunk lies: one of its places.
    ///
    /// # Errors
    /// `ChunkMissing`; any error of the medium.
    pub fn locate(&self, kind: ChunkKind, id: &ChunkId) -> Result<Location> {
        self.index.locate_any(kind, id)?.ok_or(Error::ChunkMissing { kind, id: *id })
    }

    /// Reads and decodes the frame at a location. All is checked but the ids. Not cached.
    ///
    /// # Errors
    /// Damage; any error of the medium.
    pub fn frame(&self, location: &Location) -> Result<Arc<Frame>> {
        let pack = self.open_pack(location)?;
        Ok(Arc::new(pack.frame(location.frame_offset, location.frame_stored_len)?))
    }

    /// The same, with what is stored of it.
    ///
    /// # Errors
    /// Those of [`Reader::frame`].
    pub fn whole_frame(&self, location: &Location) -> Result<WholeFrame> {
        self.open_pack(location)?.whole_frame(location.frame_offset, location.frame_stored_len)
    }

    /// The bytes of a chunk in its frame, verified against its id.
    ///
    /// # Errors
    /// Damage: the frame does not hold that chunk there.
    pub fn chunk<'f>(
        &self,
        frame: &'f Frame,
        location: &Location,
        kind: ChunkKind,
        id: &ChunkId,
    ) -> Result<&'f [u8]> {
        let plain = frame.bytes(&FrameChunk { kind, offset: location.offset, len: location.len });
        match plain {
            Some(plain) if self.keys.ids().chunk_id(kind, plain) == *id => Ok(plain),
            _ => {
                Err(Error::damaged(&pack_file_name(&location.pack))(Corruption::WrongChunk { kind, id: *id }))
            }
        }
    }

    fn get_at(&self, location: &Location, kind: ChunkKind, id: &ChunkId) -> Result<Vec<u8>> {
        let frame = self.cached_frame(location)?;
        Ok(self.chunk(&frame, location, kind, id)?.to_vec())
    }

    fn cached_frame(&self, location: &Location) -> Result<Arc<Frame>> {
        let key = (location.pack, location.frame_offset);
        if let Some(frame) = self.frames.lock().ok().and_then(|mut frames| frames.get(key)) {
            return Ok(frame);
        }
        let frame = self.frame(location)?;
        if let Ok(mut frames) = self.frames.lock() {
            frames.put(key, frame.clone());
        }
        Ok(frame)
    }

    fn open_pack(&self, location: &Location) -> Result<Arc<PackFile>> {
        let open = |packs: &HashMap<_, _>| packs.get(&location.pack).cloned();
        if let Some(pack) = self.packs.lock().ok().and_then(|packs| open(&packs)) {
            return Ok(pack);
        }
        let opened = match PackFile::open(&*self.backend, location.pack, &self.keys) {
            // Its frames speak for themselves.
            Err(Error::Damaged { .. }) => {
                PackFile::open_damaged(&*self.backend, location.pack, PackKind::of(location.kind), &self.keys)
            }
            other => other,
        };
        let pack = Arc::new(opened?);
        if let Ok(mut packs) = self.packs.lock() {
            if packs.len() >= OPEN_PACKS {
                packs.clear();
            }
            packs.insert(location.pack, pack.clone());
        }
        Ok(pack)
    }
}

impl Reader {
    fn get_here(&self, kind: ChunkKind, id: &ChunkId) -> Result<Vec<u8>> {
        let first = self.locate(kind, id)?;
        let mut failure = match self.get_at(&first, kind, id) {
            Ok(plain) => return Ok(plain),
            Err(error) => error,
        };
        for location in self.index.locate_all(kind, id)?.iter().filter(|location| **location != first) {
            match self.get_at(location, kind, id) {
                Ok(plain) => return Ok(plain),
                // Not the one that says that something newer is to be asked.
                Err(_) if is_deleted(&*self.backend, &failure) => {}
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    /// A reader of the repository as it is now, if that has other packs than this one knows.
    fn newer(&self, failure: &Error) -> Option<Arc<Self>> {
        let again = || self.repository.reader().ok().map(Arc::new);
        let has_others = |reader: &Arc<Self>| {
            let (here, there) = (&self.index.present().packs, &reader.index.present().packs);
            here.len() != there.len() || here.keys().any(|pack| !there.contains_key(pack))
        };
        if let Error::ChunkMissing { .. } = failure {
            return self.second.get_or_init(|| again().filter(has_others)).clone();
        }
        if !is_deleted(&*self.backend, failure) {
            return None;
        }
        let mut newer: MutexGuard<'_, _> = self.newer.lock().unwrap_or_else(PoisonError::into_inner);
        if newer.is_none() {
            *newer = again().filter(has_others);
        }
        newer.clone()
    }
}

impl GetChunk for Reader {
    /// Tries each place where the chunk lies until one has it whole.
    fn get(&self, kind: ChunkKind, id: &ChunkId) -> Result<Vec<u8>> {
        let failure = match self.get_here(kind, id) {
            Ok(plain) => return Ok(plain),
            Err(error) => error,
        };
        self.newer(&failure).map_or(Err(failure), |newer| newer.get(kind, id))
    }
}
