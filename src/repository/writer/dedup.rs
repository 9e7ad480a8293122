//! Which chunks are new: not in the repository, and not put by another thread of this run.

use std::cell::Cell;
use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::budget::Budget;
use crate::error::{Error, Result};
use crate::event::Event;
use crate::id::{ChunkId, ChunkKind};
use crate::index::{ChunkCache, FACT_LEN, Index, is_vanished};
use crate::pack::Location;
use crate::repository::writer::{Shared, WriteOptions, notice};

/// The cache, if there may be one; every segment that the run will rely on was read whole on return, and damaged ones are set aside.
pub(super) fn open_cache(
    options: &WriteOptions,
    index: &mut Index,
    budget: Budget,
    stop: &AtomicBool,
) -> Result<Option<ChunkCache>> {
    let planned = Cell::new(0);
    // Only a large index takes long enough to speak of it.
    let go_on = |more: u64, facts: u64| {
        if planned.replace(facts) != facts {
            options.observer.event(&Event::Phase("reading the index"));
            options.observer.event(&Event::Planned { items: 0, bytes: facts * FACT_LEN as u64 });
        }
        options.observer.event(&Event::Advanced { bytes: more * FACT_LEN as u64 });
        !stop.load(Ordering::Relaxed)
    };
    if let Some(folder) = &options.cache_folder {
        match ChunkCache::open(folder, index, budget, &go_on) {
            Ok(cache) => return Ok(Some(cache)),
            Err(error) if is_vanished(&error) || matches!(error, Error::Interrupted) => return Err(error),
            Err(error) => notice(&*options.observer, &error),
        }
    }
    index.verify_segments(&go_on)?;
    Ok(None)
}

const SHARDS: usize = 16;

/// The chunks that this run has put and that no segment names yet.
#[derive(Default)]
pub(super) struct Claims([Mutex<HashSet<ChunkId>>; SHARDS]);

impl Claims {
    fn shard(&self, id: &ChunkId) -> &Mutex<HashSet<ChunkId>> {
        &self.0[usize::from(id.as_bytes()[0]) % SHARDS]
    }

    fn has(&self, id: &ChunkId) -> bool {
        lock(self.shard(id)).contains(id)
    }

    /// Whether the chunk was not claimed before.
    fn insert(&self, id: ChunkId) -> bool {
        lock(self.shard(&id)).insert(id)
    }

    /// A segment names these chunks now.
    pub(super) fn release(&self, ids: impl Iterator<Item = ChunkId>) {
        for id in ids {
            lock(self.shard(&id)).remove(&id);
        }
    }
}

/// A set is whole whatever happened to the thread that held it; taking it for lost would drop chunks as known.
fn lock(shard: &Mutex<HashSet<ChunkId>>) -> MutexGuard<'_, HashSet<ChunkId>> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether a chunk is new, and then it is the caller's to store.
pub(super) fn claim(shared: &Shared, kind: ChunkKind, id: ChunkId) -> Result<bool> {
    if shared.claims.has(&id) || is_stored(shared, kind, &id)? {
        return Ok(false);
    }
    Ok(shared.claims.insert(id))
}

/// Whether a chunk is present in a sound pack; the pack counts as used.
pub(super) fn is_stored(shared: &Shared, kind: ChunkKind, id: &ChunkId) -> Result<bool> {
    let found = find(shared, kind, id)?;
    if let Some(location) = &found {
        shared.uses(location.pack);
    }
    Ok(found.is_some())
}

fn find(shared: &Shared, kind: ChunkKind, id: &ChunkId) -> Result<Option<Location>> {
    let index = shared.index.read().map_err(|_| Error::Stopped)?;
    match ask_cache(shared, id) {
        // The cache may know a pack that is gone, or one of several places: only a sound pack counts.
        Answer::At(location) if location.kind == kind && index.is_sound_pack(&location.pack) => {
            Ok(Some(location))
        }
        Answer::Unknown => Ok(index.locate_uncovered(kind, id)),
        Answer::At(_) | Answer::NoCache => index.locate_sound(kind, id),
    }
}

/// What the cache says of a chunk.
enum Answer {
    At(Location),
    Unknown,
    NoCache,
}

/// Asks the cache, which is thrown away at the first doubt.
fn ask_cache(shared: &Shared, id: &ChunkId) -> Answer {
    let answer = match shared.cache.read().as_deref() {
        Ok(Some(cache)) => cache.get(id),
        _ => return Answer::NoCache,
    };
    match answer {
        Ok(Some(location)) => Answer::At(location),
        Ok(None) => Answer::Unknown,
        Err(error) => {
            notice(&*shared.observer, &error);
            if let Some(cache) = shared.cache.write().ok().and_then(|mut cache| cache.take()) {
                cache.throw_away();
            }
            Answer::NoCache
        }
    }
}
