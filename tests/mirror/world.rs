//! A small repository of several packs, a place for its mirror, and what must hold of both.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use vault::backend::{Backend, LocalFolder};
use vault::backup::{BackupOptions, backup};
use vault::chunk::GetChunk;
use vault::error::{Error, Result};
use vault::event::{Event, Observer, Silent};
use vault::id::{ChunkKind, RecordId, SnapshotId};
use vault::mirror::{MirrorOptions, MirrorSummary, mirror};
use vault::repository::{Record, RecordBody, RecordOuter, Repository};
use vault::snapshot::list::Pieces;
use vault::snapshot::tree::Entries;
use vault::snapshot::{Content, Kind, Piece, Time};

use crate::support::repository;
use crate::support::scratch::Scratch;
use crate::support::torture::Random;

/// A source, its repository, and a state folder.
pub struct World {
    pub scratch: Scratch,
    random: Mutex<Random>,
}

impl World {
    /// A repository with one snapshot of `kib` KiB that do not compress, in packs of about 256 KiB.
    pub fn new(kib: usize) -> Self {
        let world = Self { scratch: Scratch::new(), random: Mutex::new(Random(kib as u64)) };
        world.scratch.dir("source");
        repository::init(&LocalFolder::new(world.repository_path())).unwrap();
        world.snapshot_more(kib);
        world
    }

    pub fn repository_path(&self) -> PathBuf {
        self.scratch.join("repository")
    }

    pub fn repository(&self) -> Repository {
        open(&self.repository_path())
    }

    /// Adds a file of so many KiB to the source and takes a snapshot.
    pub fn snapshot_more(&self, kib: usize) -> SnapshotId {
        self.snapshot_into(&self.repository(), kib)
    }

    /// The same into any copy.
    pub fn snapshot_into(&self, repository: &Repository, kib: usize) -> SnapshotId {
        let bytes = self.random.lock().unwrap().bytes(kib << 10);
        let id = blake3::hash(&bytes).to_hex();
        fs::write(self.scratch.join("source").join(&id[..8]), bytes).unwrap();
        let mut options = BackupOptions::new(vec![self.scratch.join("source")]);
        options.pack_len = 256 << 10;
        let observer: Arc<dyn Observer> = Arc::new(Silent);
        backup(repository, options, &observer, &AtomicBool::new(false)).unwrap().snapshot.unwrap()
    }

    /// Options with the state folder of this world.
    pub fn options(&self, new: bool) -> MirrorOptions {
        let scratch = Some(std::env::temp_dir());
        let state_folder = Some(self.scratch.join("state"));
        MirrorOptions { new, state_folder, scratch, ..MirrorOptions::default() }
    }

    /// Mirrors to a folder.
    pub fn mirror(&self, to: &Path, options: &MirrorOptions) -> Result<MirrorSummary> {
        self.mirror_to(&(Arc::new(LocalFolder::new(to)) as Arc<dyn Backend>), options)
    }

    /// Mirrors to a medium.
    pub fn mirror_to(&self, to: &Arc<dyn Backend>, options: &MirrorOptions) -> Result<MirrorSummary> {
        mirror(&self.repository(), to, options, &Silent, &AtomicBool::new(false))
    }

    /// Mirrors to a folder, and returns the texts of all notices too.
    pub fn mirror_noting(&self, to: &Path, options: &MirrorOptions) -> (MirrorSummary, Vec<String>) {
        let notices = Mutex::new(Vec::new());
        let observer = |event: &Event<'_>| {
            if let Event::Notice { text, .. } = event {
                notices.lock().unwrap().push((*text).to_owned());
            }
        };
        let stop = AtomicBool::new(false);
        let to: Arc<dyn Backend> = Arc::new(LocalFolder::new(to));
        let summary = mirror(&self.repository(), &to, options, &observer, &stop).unwrap();
        (summary, notices.into_inner().unwrap())
    }

    /// Asserts that the mirror is the repository, file by file, and whole.
    #[track_caller]
    pub fn assert_mirrored(&self, mirror: &Path) {
        let (here, there) = (files(&self.repository_path()), files(mirror));
        let names = |files: &BTreeMap<String, blake3::Hash>| files.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(&here), names(&there));
        assert_eq!(here, there);
        assert_snapshots_complete(&open(mirror), self.repository().snapshot_ids().unwrap().len());
    }
}

/// Opens a copy.
#[track_caller]
pub fn open(path: &Path) -> Repository {
    repository::open(Arc::new(LocalFolder::new(path))).unwrap()
}

/// All files of a copy but those that may differ, and hashes of their bytes.
pub fn files(root: &Path) -> BTreeMap<String, blake3::Hash> {
    let walk = walkdir::WalkDir::new(root).into_iter().map(std::result::Result::unwrap);
    walk.filter(|entry| entry.file_type().is_file())
        .map(|entry| (entry.path().strip_prefix(root).unwrap().to_str().unwrap().to_owned(), entry))
        .filter(|(name, _)| {
            name != "copy" && name != "reserve" && !name.starts_with("tmp/") && !name.starts_with("sessions/")
        })
        .map(|(name, entry)| (name, blake3::hash(&fs::read(entry.path()).unwrap())))
        .collect()
}

/// How many files a copy has, of those.
pub fn count(root: &Path) -> u64 {
    files(root).len() as u64
}

/// The names of the files in a folder of a copy, with that folder.
pub fn names(root: &Path, folder: &str) -> Vec<String> {
    files(root).into_keys().filter(|name| name.starts_with(folder)).collect()
}

/// Asserts that what there is of a mirror that was cut off is whole, and lists its snapshots.
#[track_caller]
pub fn assert_begun_is_whole(at: &Path) {
    match repository::open(Arc::new(LocalFolder::new(at))) {
        // It is copied before all else, and without it there is nothing that could be missed.
        Err(Error::NoKeys) => assert!(count(at) <= 2, "there are files, and no key"),
        found => {
            let found = found.unwrap();
            assert_snapshots_complete(&found, found.snapshot_ids().unwrap().len());
        }
    }
}

/// Asserts that there are so many snapshots, and that every chunk of every one can be read. The reader verifies each.
#[track_caller]
pub fn assert_snapshots_complete(repository: &Repository, count: usize) {
    let (snapshots, reader) = (repository.snapshots().unwrap(), repository.reader().unwrap());
    assert_eq!(snapshots.len(), count);
    for (id, snapshot) in snapshots {
        let mut directories: Vec<_> = snapshot.unwrap().root.kind.directory().into_iter().collect();
        let mut read_bytes = 0;
        while let Some(root) = directories.pop() {
            for entry in Entries::new(&reader, root) {
                let entry = entry.unwrap_or_else(|error| panic!("{id}: {error}"));
                directories.extend(entry.kind.directory());
                if let Kind::File(size, content) = &entry.kind {
                    read_bytes += read(&reader, content, *size);
                }
            }
        }
        assert!(read_bytes > 0, "snapshot {id} has no bytes");
    }
}

fn read(chunks: &dyn GetChunk, content: &Content, size: u64) -> u64 {
    let mut len = 0;
    for piece in Pieces::new(chunks, content, size) {
        match piece.unwrap() {
            Piece::Data(id, _) => len += chunks.get(ChunkKind::Data, &id).unwrap().len() as u64,
            hole @ Piece::Hole(_) => len += hole.len(),
        }
    }
    if let Content::Inline(bytes) = content {
        len = bytes.len() as u64;
    }
    assert_eq!(len, size);
    len
}

/// Changes one byte in the middle of a file, the length kept.
pub fn flip(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    // Anew: not every driver of FAT32 writes into a file that is there.
    fs::remove_file(path).unwrap();
    fs::write(path, bytes).unwrap();
}

/// Puts a record into a copy, as a later version of the program may: this one refuses to add to what it does not know.
pub fn publish_record(copy: &Repository, outer: RecordOuter) {
    let body =
        RecordBody { created: Time::now(), host: String::new(), reason: String::new(), fields: Vec::new() };
    let bytes = Record { outer, body }.encode(copy.keys()).unwrap();
    let id = RecordId::from_bytes(vault::id::hash(&bytes));
    fs::write(copy.backend().place().join(format!("records/{id}")), bytes).unwrap();
}
