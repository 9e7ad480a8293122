//! The redb copy of the index, on the system disk: what deduplication asks first. Nothing depends on it.
//!
//! redb serves flipped bits without an error, locks its file against other processes, and may panic on a file it did not
//! write. So every value carries a checksum over key and value, a locked file means going without, and at any doubt the file is
//! deleted and filled again from the segments. A value that is silently missing costs a chunk stored twice, never more.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use redb::{Database, DatabaseError, ReadableDatabase, ReadableTable, TableDefinition};

use crate::backend::open_regular;
use crate::budget::Budget;
use crate::error::{Error, Result};
use crate::guard::{self, Guarded};
use crate::header::array;
use crate::id::{self, ChunkId, ChunkKind, PackId, SegmentId};
use crate::index::merged::Merged;
use crate::index::{Index, Segment};
use crate::pack::{Location, Placed};

const CHUNKS: TableDefinition<&[u8; 32], &[u8; VALUE_LEN]> = TableDefinition::new("chunks");
const SEGMENTS: TableDefinition<&[u8; 32], ()> = TableDefinition::new("segments");
const VALUE_LEN: usize = 57;
/// What redb may keep in memory, in a budget of the default size.
const MEMORY_BYTES: usize = 32 << 20;
/// Facts that are taken in at once.
const FACTS_PER_COMMIT: u64 = 1 << 20;
const FILE_NAME: &str = "chunks.redb";

/// Hears how many facts more were read, and of how many in all; whether to go on.
pub type GoOn<'a> = &'a dyn Fn(u64, u64) -> bool;

/// So many segments are merged at once: a block of each is in memory.
const MERGED_AT_ONCE: usize = 128;

/// The cache, open and locked.
pub struct ChunkCache {
    database: Guarded<Database>,
    path: PathBuf,
}

/// Opens a database file, or makes one that nobody else can read, whatever the umask: there are names and content of files in it.
pub(crate) fn open_private(path: &Path) -> io::Result<File> {
    open_regular(path, OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600))
}

impl ChunkCache {
    /// Opens the cache in `folder` and brings it up to the segments of `index`: those that are not in yet are read whole, and set
    /// aside if they are damaged. A damaged cache is deleted and filled again.
    ///
    /// # Errors
    /// `Cache` if it is locked by another process or cannot be made: the caller goes on without it. Any error of a segment, `NotFound`
    /// among them if it vanished. `Interrupted` if `go_on` says no.
    pub fn open(folder: &Path, index: &mut Index, budget: Budget, go_on: GoOn<'_>) -> Result<Self> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .map_err(Error::path("create", folder))?;
        let path = folder.join(FILE_NAME);
        match Self::open_and_fill(&path, index, budget, go_on) {
            Err(Failure::Doubt(_)) => {
                // Also reached when redb cannot read what another version wrote.
                fs::remove_file(&path).map_err(Error::path("remove", &path))?;
                Self::open_and_fill(&path, index, budget, go_on)
            }
            other => other,
        }
        .map_err(|failure| match failure {
            Failure::Doubt(reason) => Error::Cache { path: path.clone(), reason },
            Failure::Locked => {
                Error::Cache { path: path.clone(), reason: "another process is using it".into() }
            }
            Failure::Segment(error) => error,
        })
    }

    fn open_and_fill(
        path: &Path,
        index: &mut Index,
        budget: Budget,
        go_on: GoOn<'_>,
    ) -> Result<Self, Failure> {
        guarded(|| {
            let file = open_private(path).map_err(|error| Failure::Doubt(error.to_string()))?;
            let memory = budget.share(MEMORY_BYTES);
            let database = match redb::Builder::new().set_cache_size(memory).create_file(file) {
                Ok(database) => database,
                Err(DatabaseError::DatabaseAlreadyOpen) => return Err(Failure::Locked),
                Err(error) => return Err(Failure::Doubt(error.to_string())),
            };
            let cache = Self { database: Guarded::new(database), path: path.to_owned() };
            cache.fill(index, go_on)?;
            Ok(cache)
        })
    }

    fn database(&self) -> Result<&Database, Failure> {
        self.database.get().ok_or_else(|| Failure::Doubt("it is closed".into()))
    }

    /// Takes in the facts of all segments that are not in yet: in the order of ids through all of them, so that redb writes each of
    /// its pages once, and in portions, so that what it remembers of a transaction stays small.
    fn fill(&self, index: &mut Index, go_on: GoOn<'_>) -> Result<(), Failure> {
        let known = self.known_segments()?;
        let new: Vec<_> = index.segments().filter(|segment| !known.contains(&segment.id())).collect();
        let facts: u64 = new.iter().map(|segment| segment.fact_count()).sum();
        let others: u64 = index.segments().map(Segment::fact_count).sum::<u64>() - facts;
        if !known.is_empty() && facts >= FACTS_PER_COMMIT && facts > others {
            // Filled in order from nothing, redb takes half of the room.
            return Err(Failure::Doubt("most of it is not in".into()));
        }
        let mut damaged = Vec::new();
        for segments in new.chunks(MERGED_AT_ONCE) {
            damaged.extend(self.merge(segments, &|more| go_on(more, facts))?);
        }
        // The cache does without what is left of their facts, so the index must as well: it is asked only for what no segment covers.
        for (segment, error) in damaged {
            index.set_aside(segment, error);
        }
        Ok(())
    }

    /// Takes in the facts of some segments, and returns which of them are damaged.
    fn merge(
        &self,
        segments: &[&Segment],
        go_on: &dyn Fn(u64) -> bool,
    ) -> Result<Vec<(SegmentId, Error)>, Failure> {
        let mut merged = Merged::of(segments);
        loop {
            let write = self.database()?.begin_write().map_err(doubt)?;
            let mut taken = 0;
            {
                let mut chunks = write.open_table(CHUNKS).map_err(doubt)?;
                while taken < FACTS_PER_COMMIT {
                    let Some((id, location)) = merged.next().map_err(Failure::Segment)? else { break };
                    chunks.insert(id.as_bytes(), &encode(&id, &location)).map_err(doubt)?;
                    taken += 1;
                }
                if taken < FACTS_PER_COMMIT {
                    let mut known = write.open_table(SEGMENTS).map_err(doubt)?;
                    for segment in merged.whole() {
                        known.insert(segment.id().as_bytes(), ()).map_err(doubt)?;
                    }
                }
            }
            write.commit().map_err(doubt)?;
            if taken < FACTS_PER_COMMIT {
                return Ok(merged.damaged);
            }
            if !go_on(taken) {
                return Err(Failure::Segment(Error::Interrupted));
            }
        }
    }

    fn known_segments(&self) -> Result<HashSet<SegmentId>, Failure> {
        let read = self.database()?.begin_read().map_err(doubt)?;
        match read.open_table(SEGMENTS) {
            Ok(table) => table
                .iter()
                .map_err(doubt)?
                .map(|row| row.map(|(key, _)| SegmentId::from_bytes(*key.value())).map_err(doubt))
                .collect(),
            Err(redb::TableError::TableDoesNotExist(_)) => Ok(HashSet::new()),
            Err(error) => Err(doubt(error)),
        }
    }

    /// Forgets that a segment is in: the next run reads it again.
    ///
    /// # Errors
    /// `Cache`: throw the cache away.
    pub fn forget(&self, segment: SegmentId) -> Result<()> {
        guarded(|| {
            let write = self.database()?.begin_write().map_err(doubt)?;
            write.open_table(SEGMENTS).map_err(doubt)?.remove(segment.as_bytes()).map_err(doubt)?;
            write.commit().map_err(doubt)
        })
        .map_err(|failure| self.error(failure))
    }

    /// Adds the facts of a segment that was just published.
    ///
    /// # Errors
    /// `Cache`: throw the cache away.
    pub fn add(&self, segment: SegmentId, facts: impl Iterator<Item = Placed>) -> Result<()> {
        guarded(|| {
            let write = self.database()?.begin_write().map_err(doubt)?;
            {
                let mut chunks = write.open_table(CHUNKS).map_err(doubt)?;
                for (id, location) in facts {
                    chunks.insert(id.as_bytes(), &encode(&id, &location)).map_err(doubt)?;
                }
                let mut segments = write.open_table(SEGMENTS).map_err(doubt)?;
                segments.insert(segment.as_bytes(), ()).map_err(doubt)?;
            }
            write.commit().map_err(doubt)
        })
        .map_err(|failure| self.error(failure))
    }

    /// What the cache says of a chunk; nothing if it does not know it.
    ///
    /// # Errors
    /// `Cache` if a value is not what was written: throw the cache away.
    pub fn get(&self, id: &ChunkId) -> Result<Option<Location>> {
        guarded(|| {
            let read = self.database()?.begin_read().map_err(doubt)?;
            let table = match read.open_table(CHUNKS) {
                Ok(table) => table,
                Err(redb::TableError::TableDoesNotExist(_)) => return Ok(None),
                Err(error) => return Err(doubt(error)),
            };
            match table.get(id.as_bytes()).map_err(doubt)? {
                None => Ok(None),
                Some(value) => decode(id, value.value())
                    .map(Some)
                    .ok_or_else(|| Failure::Doubt("a value does not match its checksum".into())),
            }
        })
        .map_err(|failure| self.error(failure))
    }

    /// Closes the cache and deletes its file.
    pub fn throw_away(self) {
        let path = self.path.clone();
        drop(self);
        let _ = fs::remove_file(path);
    }

    fn error(&self, failure: Failure) -> Error {
        match failure {
            Failure::Doubt(reason) => Error::Cache { path: self.path.clone(), reason },
            Failure::Locked => {
                Error::Cache { path: self.path.clone(), reason: "another process is using it".into() }
            }
            Failure::Segment(error) => error,
        }
    }
}

/// Why the cache could not be used.
enum Failure {
    Locked,
    Doubt(String),
    Segment(Error),
}

fn doubt(error: impl std::fmt::Display) -> Failure {
    Failure::Doubt(error.to_string())
}

/// Runs something of redb; a panic in it is a doubt about the file like any other.
fn guarded<T>(run: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
    guard::guarded(run).unwrap_or_else(|| Err(Failure::Doubt("redb cannot make sense of it".into())))
}

fn encode(id: &ChunkId, location: &Location) -> [u8; VALUE_LEN] {
    let mut value = [0; VALUE_LEN];
    value[0..32].copy_from_slice(location.pack.as_bytes());
    value[32..36].copy_from_slice(&location.frame_offset.to_le_bytes());
    value[36..40].copy_from_slice(&location.frame_stored_len.to_le_bytes());
    value[40..44].copy_from_slice(&location.offset.to_le_bytes());
    value[44..48].copy_from_slice(&location.len.to_le_bytes());
    value[48] = location.kind.number();
    let checksum = id::checksum_64(&[id.as_bytes(), &value[..49]]);
    value[49..57].copy_from_slice(&checksum);
    value
}

fn decode(id: &ChunkId, value: &[u8; VALUE_LEN]) -> Option<Location> {
    if value[49..57] != id::checksum_64(&[id.as_bytes(), &value[..49]]) {
        return None;
    }
    Some(Location {
        pack: PackId::from_bytes(array(value)),
        frame_offset: u32::from_le_bytes(array(&value[32..])),
        frame_stored_len: u32::from_le_bytes(array(&value[36..])),
        offset: u32::from_le_bytes(array(&value[40..])),
        len: u32::from_le_bytes(array(&value[44..])),
        kind: ChunkKind::from_number(value[48])?,
    })
}
