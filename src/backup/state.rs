//! What need not be read again: a redb file per set of sources that remembers the stamps of files and what they held.
//!
//! It is believed only while its snapshot is listed in this copy, and wholly only while every pack it relies on is present; where
//! packs are missing, chunk by chunk. Each value carries a checksum over key and value. An entry is believed only
//! if its times are older than the start of the run that read it, less 2 s for coarse clocks and servers: whatever changes later gets
//! later times. Others are kept with a stamp that no file has, so that the next run can tell a changed file from a new one. Without it everything is read again: slower, never wrong.

use std::collections::HashSet;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use redb::{
    Database, ReadOnlyTable, ReadableDatabase, ReadableTableMetadata, Table, TableDefinition,
    WriteTransaction,
};
use serde::{Deserialize, Serialize};

use crate::backup::place::Placed;
use crate::backup::{BackupOptions, Shared};
use crate::codec;
use crate::error::{Error, Result};
use crate::event::{Event, Observer};
use crate::guard::{self, Guarded};
use crate::id::{self, ChunkKind, PackId, SnapshotId};
use crate::index::open_private;
use crate::repository::{Repository, Writer};
use crate::snapshot::{Content, Entry, Kind, Piece, Time};
use crate::source::{FileSystem, Stat};

const FILES: TableDefinition<&[u8], &[u8]> = TableDefinition::new("files");
const META: TableDefinition<&str, &[u8]> = TableDefinition::new("meta");
const HEADER: &str = "header";
const CHECKSUM_LEN: usize = 8;
const MEMORY_BYTES: usize = 24 << 20;
/// Clocks of file systems may be this coarse, and those of servers this far off.
const SETTLING_SECS: i64 = 2;
/// Raised whenever what is remembered changes its meaning.
const VERSION: u32 = 1;
/// More packs than this are not listed: then entries are believed chunk by chunk.
const MAX_PACKS: usize = 400_000;

/// What tells that a file is still what it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stamp {
    size: u64,
    mtime: Time,
    ctime: Time,
    inode: u64,
    file_system: [u8; 16],
}

impl Stamp {
    pub(super) fn of(stat: &Stat, file_system: &FileSystem) -> Self {
        // Where ctime means nothing it is left out of the comparison; the program says so once.
        let ctime = if file_system.ctime_is_meaningful { stat.ctime } else { Time::default() };
        Self { size: stat.size, mtime: stat.mtime, ctime, inode: stat.inode, file_system: file_system.id }
    }

    /// The stamp of no file: no inode has this number. What is kept under it is never believed, only compared with.
    pub(super) fn void() -> Self {
        Self { size: 0, mtime: Time::default(), ctime: Time::default(), inode: 0, file_system: [0; 16] }
    }

    /// Whether any change after `start` would show in the stamp.
    pub(super) fn is_settled(&self, start: Time) -> bool {
        let latest = self.mtime.max(self.ctime);
        latest.secs < start.secs - SETTLING_SECS
    }
}

/// The key of a file: a hash of its folder's path, then its name, so that a folder's files lie together.
pub(super) struct Key(Vec<u8>);

impl Key {
    pub(super) fn of(path: &Path) -> Self {
        let folder = path.parent().map_or(&b""[..], |folder| folder.as_os_str().as_bytes());
        let name = path.file_name().map_or(&b""[..], |name| name.as_bytes());
        Self([&id::checksum_128(&[folder])[..], name].concat())
    }
}

/// What to keep of a file.
pub(super) struct Remembered {
    pub key: Key,
    pub found: (Stamp, Entry),
}

/// What was kept of a file.
pub(super) struct Known {
    stamp: Stamp,
    entry: Entry,
    all_packs_present: bool,
}

impl Known {
    /// The entry; and whether the file is still what it was and all of its chunks are present.
    pub(super) fn entry(self, stamp: &Stamp, shared: &Shared<'_>) -> (Entry, bool) {
        let usable = !shared.force
            && self.stamp.inode != 0
            && self.stamp == *stamp
            && (self.all_packs_present || has_all_chunks(&self.entry, shared.writer));
        (self.entry, usable)
    }
}

/// Asks chunk by chunk. The pieces of a long file are not at hand: it is read again.
fn has_all_chunks(entry: &Entry, writer: &Writer) -> bool {
    let content = match &entry.kind {
        Kind::File(_, content) => Some(content),
        _ => None,
    };
    content.into_iter().chain(entry.meta.xattrs.iter().map(|xattr| &xattr.value)).all(|content| match content
    {
        Content::Inline(_) => true,
        Content::Pieces(pieces) => pieces.iter().all(|piece| match piece {
            Piece::Data(id, _) => writer.has_chunk(ChunkKind::Data, id).unwrap_or(false),
            Piece::Hole(_) => true,
        }),
        Content::List(_) => false,
    })
}

#[derive(Serialize, Deserialize)]
struct StateHeader {
    version: u32,
    snapshot: SnapshotId,
    packs: Vec<PackId>,
    packs_are_listed: bool,
}

/// The local state of one set of sources.
pub(super) struct LocalState {
    open: Option<Open>,
}

struct Open {
    database: Guarded<Database>,
    path: PathBuf,
    /// What is in it may be believed.
    usable: bool,
    all_packs_present: bool,
    write: Mutex<Option<Guarded<WriteTransaction>>>,
}

impl Open {
    /// Whether only what this run has seen is kept. Otherwise an entry that it did not come to would be vouched for by
    /// the packs of this run, though its own are missing.
    fn begins_anew(&self) -> bool {
        !self.usable || !self.all_packs_present
    }
}

impl LocalState {
    /// Opens the state of these sources. Whatever is wrong with it, the run goes on without.
    pub(super) fn open(
        options: &BackupOptions,
        repository: &Repository,
        sources: &[Placed],
        listed: &HashSet<SnapshotId>,
        writer: &Writer,
        observer: &dyn Observer,
    ) -> Self {
        let Some(folder) = options.cache_folder.as_deref() else {
            return Self { open: None };
        };
        let path = state_path(folder, repository, sources);
        let notice = |text: String| observer.event(&Event::Notice { path: Path::new(""), text: &text });
        if let Err(error) = fs::DirBuilder::new().recursive(true).mode(0o700).create(folder) {
            notice(format!("cannot create {}: {error}: every file is read", folder.display()));
            return Self { open: None };
        }
        let database = match open_database(&path) {
            Ok(database) => database,
            Err(redb::DatabaseError::DatabaseAlreadyOpen) => {
                notice("another process is saving the same sources: every file is read".into());
                return Self { open: None };
            }
            Err(error) => {
                notice(format!("the local state {} is begun anew: {error}", path.display()));
                let begun = fs::remove_file(&path).ok().and_then(|()| open_database(&path).ok());
                let Some(database) = begun else { return Self { open: None } };
                database
            }
        };
        let mut database = Guarded::new(database);
        let header = read_header(&database).filter(|header| listed.contains(&header.snapshot));
        if header.is_none() {
            // What cannot be believed must not survive beside what is written now, nor be built upon.
            drop(database);
            let begun = fs::remove_file(&path).ok().and_then(|()| open_database(&path).ok());
            let Some(begun) = begun else { return Self { open: None } };
            database = Guarded::new(begun);
        }
        let usable = header.is_some();
        let mut all_packs_present = false;
        if let Some(header) = header.filter(|header| header.packs_are_listed) {
            all_packs_present = writer.has_packs(header.packs.iter());
            if all_packs_present {
                writer.use_packs(header.packs.into_iter());
            }
        }
        Self { open: Some(Open { database, path, usable, all_packs_present, write: Mutex::new(None) }) }
    }

    /// A way to ask, for one thread.
    pub(super) fn lookup(&self) -> Lookup<'_> {
        let open = self.open.as_ref().filter(|open| open.usable);
        let table =
            open.and_then(|open| guarded(|| open.database.get()?.begin_read().ok()?.open_table(FILES).ok()));
        Lookup { table, all_packs_present: open.is_some_and(|open| open.all_packs_present), state: self }
    }

    /// A way to remember, for one thread.
    pub(super) fn recorder(&self) -> Recorder<'_> {
        let begun = self.open.as_ref().and_then(|open| {
            let write = guarded(|| open.database.get()?.begin_write().ok().map(Guarded::new))?;
            if open.begins_anew() {
                // What cannot be believed must not survive beside what is written now.
                guarded(|| write.get()?.delete_table(FILES).ok())?;
            }
            Some(write)
        });
        Recorder { state: self, write: begun }
    }

    /// Whether what was found unchanged is to be recorded again.
    pub(super) fn begins_anew(&self) -> bool {
        self.open.as_ref().is_some_and(Open::begins_anew)
    }

    /// Keeps what was recorded, now that the snapshot is acknowledged.
    pub(super) fn commit(&self, snapshot: SnapshotId, packs: Vec<PackId>) -> Result<()> {
        let Some(open) = &self.open else { return Ok(()) };
        let Some(write) = open.write.lock().ok().and_then(|mut write| write.take()) else { return Ok(()) };
        let packs_are_listed = packs.len() <= MAX_PACKS;
        let packs = if packs_are_listed { packs } else { Vec::new() };
        let header = codec::encode(&StateHeader { version: VERSION, snapshot, packs, packs_are_listed });
        let failed = |reason: String| Error::Cache { path: open.path.clone(), reason };
        guarded(|| {
            let write = write.take()?;
            let kept = || -> Result<(), redb::Error> {
                {
                    let mut meta = write.open_table(META)?;
                    meta.insert(HEADER, seal(HEADER.as_bytes(), &header).as_slice())?;
                }
                write.commit()?;
                Ok(())
            };
            Some(kept().map_err(|error| failed(error.to_string())))
        })
        .unwrap_or_else(|| Err(failed("redb cannot make sense of it".into())))
    }
}

/// One thread's way to ask.
pub(super) struct Lookup<'a> {
    table: Option<ReadOnlyTable<&'static [u8], &'static [u8]>>,
    all_packs_present: bool,
    state: &'a LocalState,
}

impl Lookup<'_> {
    /// What was kept of a file. At the first value that is not what was written, nothing more is believed.
    pub(super) fn get(&mut self, key: &Key) -> Option<Known> {
        let table = self.table.as_ref()?;
        let answer = guarded(|| {
            Some(table.get(key.0.as_slice()).map(|value| value.map(|value| value.value().to_vec())))
        });
        let value = if let Some(Ok(value)) = answer {
            value?
        } else {
            self.table = None;
            return None;
        };
        debug_assert!(self.state.open.is_some());
        match unseal(&key.0, &value).and_then(|bytes| codec::decode::<(Stamp, Entry)>(bytes).ok()) {
            Some((stamp, entry)) if entry.validate().is_ok() => {
                Some(Known { stamp, entry, all_packs_present: self.all_packs_present })
            }
            _ => {
                self.table = None;
                None
            }
        }
    }
}

/// One thread's way to remember.
pub(super) struct Recorder<'a> {
    state: &'a LocalState,
    write: Option<Guarded<WriteTransaction>>,
}

impl Recorder<'_> {
    /// Keeps what a file holds.
    pub(super) fn record(&mut self, remembered: &Remembered) {
        let Some(write) = &self.write else { return };
        let done = guarded(|| {
            let mut table: Table<'_, &[u8], &[u8]> = write.get()?.open_table(FILES).ok()?;
            let value = seal(&remembered.key.0, &codec::encode(&remembered.found));
            table.insert(remembered.key.0.as_slice(), value.as_slice()).ok()?;
            Some(())
        });
        if done.is_none() {
            self.write = None;
        }
    }

    /// Hands what was recorded over, to be kept once the snapshot is acknowledged.
    pub(super) fn finish(self) {
        if let Some(open) = &self.state.open
            && let Ok(mut write) = open.write.lock()
        {
            *write = self.write;
        }
    }
}

/// One file per set of sources and places.
fn state_path(folder: &Path, repository: &Repository, sources: &[Placed]) -> PathBuf {
    let mut named: Vec<Vec<u8>> = vec![repository.copy().copy.as_bytes().to_vec()];
    for source in sources {
        named.push([&source.resolved[..], b"\0", &source.stored_at, b"\0"].concat());
    }
    let parts: Vec<&[u8]> = named.iter().map(Vec::as_slice).collect();
    let name = u128::from_be_bytes(id::checksum_128(&parts));
    folder.join(format!("state-{name:032x}.redb"))
}

fn open_database(path: &Path) -> Result<Database, redb::DatabaseError> {
    let open = || {
        let file = open_private(path).map_err(redb::StorageError::Io)?;
        redb::Builder::new().set_cache_size(MEMORY_BYTES).create_file(file)
    };
    guard::guarded(open).unwrap_or_else(|| {
        Err(redb::DatabaseError::Storage(redb::StorageError::Corrupted(
            "redb cannot make sense of it".into(),
        )))
    })
}

fn read_header(database: &Guarded<Database>) -> Option<StateHeader> {
    let bytes = guarded(|| {
        let table = database.get()?.begin_read().ok()?.open_table(META).ok()?;
        Some(table.get(HEADER).ok()??.value().to_vec())
    })?;
    let header: StateHeader = codec::decode(unseal(HEADER.as_bytes(), &bytes)?).ok()?;
    // An empty table and a header belong together only in a state without files; a lost table shows as one.
    let files = guarded(|| database.get()?.begin_read().ok()?.open_table(FILES).ok()?.len().ok());
    (header.version == VERSION && files.is_some()).then_some(header)
}

/// Runs something of redb, which may panic on a damaged file.
fn guarded<T>(run: impl FnOnce() -> Option<T>) -> Option<T> {
    guard::guarded(run).flatten()
}

fn seal(key: &[u8], bytes: &[u8]) -> Vec<u8> {
    [&id::checksum_64(&[key, bytes])[..], bytes].concat()
}

fn unseal<'v>(key: &[u8], value: &'v [u8]) -> Option<&'v [u8]> {
    let (checksum, bytes) = value.split_at_checked(CHECKSUM_LEN)?;
    (id::checksum_64(&[key, bytes]) == checksum).then_some(bytes)
}
