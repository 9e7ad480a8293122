//! What need not be read again: a file per set of sources that remembers the stamps of files and what they held.
//!
//! It is believed only while its snapshot is listed in this copy, and wholly only while every pack it relies on is present; where
//! packs are missing, chunk by chunk. Whatever is not what was written ends the belief in all of it. An entry is believed only
//! if its times are older than the start of the run that read it, less 2 s for coarse clocks and servers: whatever changes later gets
//! later times. Others are kept with a stamp that no file has, so that the next run can tell a changed file from a new one. Without it everything is read again: slower, never wrong.
//!
//! Each run writes the file anew, [`mod@file`] says how. One that was interrupted, or met something that it could not read, takes over from the
//! old one the folders that it did not come to: a drive that is missing for once is not read again.

mod cursor;
mod file;

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::{Deserialize, Serialize};

use crate::backend::make_folders_to;
use crate::backup::place::Placed;
use crate::backup::{BackupOptions, Shared};
use crate::codec;
use crate::error::{Error, Result};
use crate::event::{Event, Observer};
use crate::id::{self, ChunkId, ChunkKind, PackId, SnapshotId};
use crate::repository::{Repository, Writer};
use crate::snapshot::tree::EncodedEntry;
use crate::snapshot::{Content, Entry, Kind, Piece, Time};
use crate::source::{FileSystem, Found, Stat};

use cursor::Cursor;
pub(super) use file::{FolderKey, OpenFolder, Summary};
use file::{NewStateFile, STAMP_LEN, StateFile};

/// Clocks of file systems may be this coarse, and those of servers this far off.
const SETTLING_SECS: i64 = 2;
/// Raised whenever what is remembered changes its meaning.
const VERSION: u32 = 4;
/// More packs than this are not listed: then entries are believed chunk by chunk.
const MAX_PACKS: usize = 400_000;

/// What tells that a file is still what it was.
#[derive(Debug, Clone, PartialEq, Eq)]
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

    fn encode(&self) -> [u8; STAMP_LEN] {
        let mut bytes = [0; STAMP_LEN];
        bytes[..8].copy_from_slice(&self.size.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.mtime.secs.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.mtime.nanos.to_le_bytes());
        bytes[20..28].copy_from_slice(&self.ctime.secs.to_le_bytes());
        bytes[28..32].copy_from_slice(&self.ctime.nanos.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.inode.to_le_bytes());
        bytes[40..].copy_from_slice(&self.file_system);
        bytes
    }

    fn is_void(&self) -> bool {
        self.inode == 0
    }
}

/// As what to keep an entry: its folder, its name there and its stamp.
pub(super) struct Remembered {
    folder: FolderKey,
    name: Vec<u8>,
    stamp: [u8; STAMP_LEN],
}

impl Remembered {
    pub(super) fn new(found: &Found, stamp: &Stamp) -> Self {
        Self { folder: found.folder_hash(), name: found.name.clone(), stamp: stamp.encode() }
    }
}

/// What was kept of a file.
pub(super) enum Known<'k> {
    /// It is still what it was, and all that was known then is present: the number of its record in its folder.
    Same(u32),
    /// Its entry.
    Kept(Kept<'k>),
}

/// The entry that was kept of a file, encoded.
pub(super) struct Kept<'k> {
    is_usable: bool,
    all_packs_present: bool,
    bytes: &'k [u8],
}

impl Kept<'_> {
    /// The entry, if it can be read.
    pub(super) fn entry(&self) -> Option<Entry> {
        let entry = codec::decode::<Entry>(self.bytes).ok().filter(|entry| entry.validate().is_ok());
        entry.filter(|entry| matches!(entry.kind, Kind::File(..)))
    }

    /// The entry, if the file is still what it was and all of its chunks are present.
    pub(super) fn unchanged(&self, name: &[u8], shared: &Shared<'_>) -> Option<EncodedEntry> {
        let is_present = || {
            self.all_packs_present || self.entry().is_some_and(|entry| has_all_chunks(&entry, shared.writer))
        };
        if self.is_usable && is_present() { EncodedEntry::again(name, self.bytes) } else { None }
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
#[derive(Default)]
pub(super) struct LocalState {
    /// What the last run kept, if it may be believed.
    old: Option<StateFile>,
    all_packs_present: bool,
    /// What this run is to keep.
    new: Mutex<Option<NewStateFile>>,
    /// What it keeps, and whether that is what the old file has.
    kept: Mutex<Option<(NewStateFile, bool)>>,
    path: PathBuf,
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
            return Self::default();
        };
        let path = state_path(folder, repository, sources);
        let notice = |text: String| observer.event(&Event::Notice { path: Path::new(""), text: &text });
        if let Err(error) = make_folders_to(folder, 0o700) {
            notice(format!("cannot create {}: {error}: every file is read", folder.display()));
            return Self::default();
        }
        let old = StateFile::open(&path);
        let header = old.as_ref().and_then(decode_header).filter(|header| listed.contains(&header.snapshot));
        let old = old.filter(|_| header.is_some());
        let mut all_packs_present = false;
        if let Some(header) = header.filter(|header| header.packs_are_listed) {
            all_packs_present = writer.has_packs(header.packs.iter());
            if all_packs_present {
                writer.use_packs(header.packs.into_iter());
            }
        }
        let created = (!options.dry_run).then(|| NewStateFile::create(&path)).transpose();
        let new = match created {
            Ok(new) => new,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                notice(
                    "another process is saving the same sources: what this one reads is not remembered"
                        .into(),
                );
                None
            }
            Err(error) => {
                notice(format!("cannot write {}: {error}: the next run reads all files", path.display()));
                None
            }
        };
        Self { old, all_packs_present, new: Mutex::new(new), kept: Mutex::new(None), path }
    }

    /// A way to ask, for one thread.
    pub(super) fn lookup(&self) -> Lookup<'_> {
        let cursor = self.old.as_ref().map(Cursor::new);
        Lookup { cursor, is_spoilt: false, all_packs_present: self.all_packs_present }
    }

    /// A way to remember, for one thread.
    pub(super) fn recorder<'a>(&'a self, stop: &'a AtomicBool) -> Recorder<'a> {
        let new = self.new.lock().ok().and_then(|mut new| new.take());
        // Without all packs, what this run did not come to would be vouched for by its packs, though its own are missing.
        let old = self.old.as_ref().filter(|_| self.all_packs_present);
        let alone = OpenFolder::new(None);
        Recorder { state: self, new, old, cursor: old.map(Cursor::new), alone, same: HashSet::new(), stop }
    }

    /// Keeps what was recorded, now that the snapshot is acknowledged.
    pub(super) fn commit(&self, snapshot: SnapshotId, packs: Vec<PackId>) -> Result<()> {
        let Some((new, is_old)) = self.kept.lock().ok().and_then(|mut kept| kept.take()) else {
            return Ok(());
        };
        let packs_are_listed = packs.len() <= MAX_PACKS;
        let packs = if packs_are_listed { packs } else { Vec::new() };
        let header = codec::encode(&StateHeader { version: VERSION, snapshot, packs, packs_are_listed });
        let written = match self.old.as_ref().filter(|_| is_old) {
            Some(old) => new.keep_old(old, &header),
            None => new.keep(&header),
        };
        written.map_err(|error| self.error(&error.to_string()))
    }

    fn error(&self, reason: &str) -> Error {
        Error::Cache { path: self.path.clone(), reason: reason.to_owned() }
    }
}

fn decode_header(file: &StateFile) -> Option<StateHeader> {
    codec::decode::<StateHeader>(file.header()).ok().filter(|header| header.version == VERSION)
}

/// One thread's way to ask.
pub(super) struct Lookup<'a> {
    cursor: Option<Cursor<'a>>,
    is_spoilt: bool,
    all_packs_present: bool,
}

impl Lookup<'_> {
    /// What was kept of a file with this stamp. At the first value that is not what was written, nothing more is believed.
    pub(super) fn get(
        &mut self,
        found: &Found,
        stamp: &Stamp,
        file_system: &FileSystem,
        shared: &Shared<'_>,
    ) -> Option<Known<'_>> {
        if self.is_spoilt {
            return None;
        }
        let (key, cursor) = (found.folder_hash(), self.cursor.as_mut()?);
        let Ok(known) = cursor.stamp(&key, &found.name) else {
            self.is_spoilt = true;
            return None;
        };
        let (number, kept) = known?;
        // What is kept without a stamp is never believed, only compared with.
        let is_usable = !shared.force && kept == stamp.encode() && !stamp.is_void();
        if is_usable && self.all_packs_present && file_system.ctime_is_meaningful {
            return Some(Known::Same(number));
        }
        let Ok(record) = cursor.get(&key, &found.name) else {
            self.is_spoilt = true;
            return None;
        };
        let all_packs_present = self.all_packs_present;
        Some(Known::Kept(Kept { is_usable, all_packs_present, bytes: record?.value }))
    }

    /// What a folder was, if all that was known then is present.
    pub(super) fn folder(&mut self, found: &Found, shared: &Shared<'_>) -> Option<Summary> {
        if self.is_spoilt || shared.force || !self.all_packs_present {
            return None;
        }
        let summary = self.cursor.as_mut()?.summary(&found.folder_hash());
        self.is_spoilt |= summary.is_err();
        summary.ok()?
    }
}

/// The way to remember, for the thread that takes the entries in the order of the walk.
pub(super) struct Recorder<'a> {
    state: &'a LocalState,
    new: Option<NewStateFile>,
    old: Option<&'a StateFile>,
    cursor: Option<Cursor<'a>>,
    /// Sources that are files, of the folder that the last one is in.
    alone: OpenFolder,
    /// The folders that are what they were.
    same: HashSet<FolderKey>,
    stop: &'a AtomicBool,
}

impl Recorder<'_> {
    /// Keeps what a file holds.
    pub(super) fn record(&mut self, folder: &mut OpenFolder, remembered: &Remembered, entry: &EncodedEntry) {
        let Remembered { folder: key, name, stamp } = remembered;
        if folder.key == Some(*key) {
            self.add(folder, name, stamp, entry.bytes());
        } else {
            self.add_alone(key, name, stamp, entry.bytes());
        }
    }

    /// Keeps an entry that is no file, to be compared with.
    pub(super) fn record_other(&mut self, folder: &mut OpenFolder, name: &[u8], entry: &EncodedEntry) {
        if folder.key.is_some() {
            self.add(folder, name, &Stamp::void().encode(), entry.bytes());
        }
    }

    /// Whether the record of this number in a folder is this entry, which is no file.
    pub(super) fn has_other(&mut self, key: &FolderKey, number: u32, entry: &EncodedEntry) -> bool {
        let Some(Ok(Some(record))) = self.cursor.as_mut().map(|cursor| cursor.at(key, number)) else {
            return false;
        };
        record.stamp == Stamp::void().encode() && record.value == entry.bytes()
    }

    /// Keeps, of a folder, what the record of this number has, and returns the entry.
    pub(super) fn again(
        &mut self,
        folder: &mut OpenFolder,
        key: &FolderKey,
        number: u32,
    ) -> Result<EncodedEntry> {
        let Some(cursor) = &mut self.cursor else { return Err(self.spoilt()) };
        let Ok(Some(record)) = cursor.at(key, number) else { return Err(self.spoilt()) };
        let (name, stamp) = (record.name.to_vec(), record.stamp);
        let Some(entry) = EncodedEntry::again(&name, record.value) else { return Err(self.spoilt()) };
        if folder.key == Some(*key) {
            self.add(folder, &name, &stamp, entry.bytes());
        } else {
            self.add_alone(key, &name, &stamp, entry.bytes());
        }
        Ok(entry)
    }

    /// The old file was read a moment ago, and cannot be read now. The next run is to do without.
    fn spoilt(&self) -> Error {
        let _ = fs::remove_file(&self.state.path);
        self.state.error("it is not what was written: it is removed, and all files are read")
    }

    /// The folder is what it was.
    pub(super) fn leave_same(&mut self, key: FolderKey) {
        self.same.insert(key);
    }

    /// The folder ends; with its tree, if all of it was recorded.
    pub(super) fn leave(&mut self, mut folder: OpenFolder, node: Option<ChunkId>) {
        let Some(new) = &mut self.new else { return };
        let written = if self.stop.load(Ordering::Relaxed) {
            let rest = self.old.map_or(Ok(()), |old| take_over_rest(old, new, &mut folder));
            rest.and_then(|()| new.close_block(&mut folder))
        } else {
            match node {
                Some(node) => new.close_whole(&mut folder, node),
                None => new.close_block(&mut folder),
            }
        };
        self.done(&written);
    }

    /// Hands what was recorded over, to be kept once the snapshot is acknowledged; of a run that did not come to everything with what
    /// was known before.
    pub(super) fn finish(mut self, came_to_all: bool) {
        let Some(mut new) = self.new.take() else { return };
        let mut written = new.close_block(&mut self.alone);
        let is_old = written.is_ok() && self.old.is_some_and(|old| new.adds_nothing_to(old, &self.same));
        if let Some(old) = self.old.filter(|_| !is_old) {
            let same = &self.same;
            written = written.and_then(|()| new.take_over(old, |key| !came_to_all || same.contains(key)));
        }
        if let (Ok(()), Ok(mut kept)) = (written, self.state.kept.lock()) {
            *kept = Some((new, is_old));
        }
    }

    fn add(&mut self, folder: &mut OpenFolder, name: &[u8], stamp: &[u8; STAMP_LEN], value: &[u8]) {
        let written = self.new.as_mut().map_or(Ok(()), |new| new.add(folder, name, stamp, value));
        self.done(&written);
    }

    fn add_alone(&mut self, key: &FolderKey, name: &[u8], stamp: &[u8; STAMP_LEN], value: &[u8]) {
        let Some(new) = &mut self.new else { return };
        let mut written = Ok(());
        if self.alone.key != Some(*key) {
            written = new.close_block(&mut self.alone);
            self.alone = OpenFolder::new(Some(*key));
        }
        let written = written.and_then(|()| new.add(&mut self.alone, name, stamp, value));
        self.done(&written);
    }

    fn done(&mut self, written: &io::Result<()>) {
        if written.is_err() {
            self.new = None;
        }
    }
}

/// Takes over what an interrupted run did not come to of a folder.
fn take_over_rest(old: &StateFile, new: &mut NewStateFile, folder: &mut OpenFolder) -> io::Result<()> {
    let Some(key) = folder.key else { return Ok(()) };
    let (mut cursor, mut after) = (Cursor::new(old), folder.last.clone());
    while let Ok(Some(record)) = cursor.next_after(&key, &after) {
        after = record.name.to_vec();
        new.add(folder, &after, &record.stamp, record.value)?;
    }
    Ok(())
}

/// One file per set of sources and places.
fn state_path(folder: &Path, repository: &Repository, sources: &[Placed]) -> PathBuf {
    let mut named: Vec<Vec<u8>> = vec![repository.copy().copy.as_bytes().to_vec()];
    for source in sources {
        named.push([&source.resolved[..], b"\0", &source.stored_at, b"\0"].concat());
    }
    let parts: Vec<&[u8]> = named.iter().map(Vec::as_slice).collect();
    let name = u128::from_be_bytes(id::checksum_128(&parts));
    folder.join(format!("state-{name:032x}"))
}
