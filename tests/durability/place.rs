//! A source and a repository next to one another, and what they hold.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use vault::backend::{Backend, LocalFolder};
use vault::backup::{BackupOptions, BackupSummary, backup};
use vault::check::{CheckOptions, check};
use vault::chunk::GetChunk;
use vault::error::Result;
use vault::event::{Observer, Silent};
use vault::id::{ChunkKind, PackId};
use vault::pack::PackFile;
use vault::repository::{Reader, Repository};
use vault::snapshot::list::Pieces;
use vault::snapshot::tree::Entries;
use vault::snapshot::{Kind, Piece};

use super::{Op, Random, Watched};
use crate::support::repository;
use crate::support::scratch::Scratch;

/// What was done to a medium, in order.
pub type Log = Arc<Mutex<Vec<(Op, String)>>>;

pub struct Place {
    scratch: Scratch,
}

impl Place {
    /// A repository without a snapshot, and a source without a file.
    pub fn new() -> Self {
        let place = Self::empty();
        repository::init(&LocalFolder::new(place.repository())).unwrap();
        place
    }

    /// No repository yet.
    pub fn empty() -> Self {
        let scratch = Scratch::new();
        scratch.dir("source");
        Self { scratch }
    }

    pub fn source(&self) -> PathBuf {
        self.scratch.join("source")
    }

    pub fn repository(&self) -> PathBuf {
        self.scratch.join("repository")
    }

    /// Files of chunks of their own.
    pub fn fill(&self, name: &str, seed: u64, count: u64) {
        for number in 0..count {
            let bytes = Random(seed + number).bytes(40_000);
            fs::write(self.source().join(format!("{name} {number}")), bytes).unwrap();
        }
    }

    pub fn open(&self) -> Repository {
        repository::open(Arc::new(LocalFolder::new(self.repository()))).unwrap()
    }

    pub fn snapshot(&self) -> Result<BackupSummary> {
        self.snapshot_on(Arc::new(LocalFolder::new(self.repository())))
    }

    pub fn snapshot_on(&self, backend: Arc<dyn Backend>) -> Result<BackupSummary> {
        self.snapshot_with(backend, &(Arc::new(Silent) as Arc<dyn Observer>), &AtomicBool::new(false))
    }

    pub fn snapshot_with(
        &self,
        backend: Arc<dyn Backend>,
        observer: &Arc<dyn Observer>,
        stop: &AtomicBool,
    ) -> Result<BackupSummary> {
        let mut options = BackupOptions::new(vec![self.source()]);
        options.cache_folder = Some(self.scratch.join("cache"));
        // Several packs each time.
        options.pack_len = 100_000;
        backup(&repository::open(backend)?, options, observer, stop)
    }

    /// The repository, and what will be done to it.
    pub fn recorded(&self) -> (Arc<Watched>, Log) {
        let log = Log::default();
        let kept = log.clone();
        let watched = Watched::new(&self.repository(), move |op, name| {
            kept.lock().unwrap().push((op, name.to_owned()));
            Ok(())
        });
        (watched, log)
    }

    /// The files below a folder of the repository.
    pub fn files(&self, folder: &str) -> Vec<PathBuf> {
        walkdir::WalkDir::new(self.repository().join(folder))
            .sort_by_file_name()
            .into_iter()
            .map(|entry| entry.unwrap().into_path())
            .filter(|path| path.is_file())
            .collect()
    }

    fn names(&self, folder: &str) -> HashSet<String> {
        let name = |path: PathBuf| path.file_name().unwrap().to_str().unwrap().to_owned();
        self.files(folder).into_iter().map(name).collect()
    }

    pub fn packs(&self) -> HashSet<String> {
        self.names("packs")
    }

    pub fn snapshots(&self) -> HashSet<String> {
        self.names("snapshots")
    }

    /// What a full check finds damaged, each with the number of paths that it costs.
    pub fn damages(&self) -> Vec<(String, usize)> {
        let options = CheckOptions { read_data: true, ..CheckOptions::default() };
        let report = check(&self.open(), &options, &Silent, &AtomicBool::new(false)).unwrap();
        report.damages.into_iter().map(|damage| (damage.object, damage.costs.len())).collect()
    }

    /// What was stored before a failure is not stored again after it.
    pub fn assert_each_chunk_is_stored_once(&self) {
        let repository = self.open();
        let mut places = HashMap::new();
        for name in self.packs() {
            let id = PackId::from_hex(&name).unwrap();
            let pack = PackFile::open(&**repository.backend(), id, repository.keys()).unwrap();
            for (chunk, location) in pack.directory().unwrap().placed(id) {
                assert_eq!(places.insert(chunk, location), None, "{chunk} is there twice");
            }
        }
        assert!(!places.is_empty());
    }
}

/// Everything that is listed is there and right: each snapshot reads back, and a check finds nothing.
pub fn assert_whole(place: &Place) {
    let repository = place.open();
    let reader = repository.reader().unwrap();
    assert_all_is_read(&repository, &reader);
    let options = CheckOptions { read_data: true, ..CheckOptions::default() };
    let report = check(&repository, &options, &Silent, &AtomicBool::new(false)).unwrap();
    assert!(report.damages.is_empty(), "{:?}", report.damages);
}

/// Reads every chunk of every snapshot; the files of the newest one are those of the source.
pub fn assert_all_is_read(repository: &Repository, reader: &Reader) {
    let snapshots = repository.snapshots().unwrap();
    for (id, snapshot) in snapshots {
        let root = snapshot.unwrap_or_else(|error| panic!("{id}: {error}")).root;
        let mut folders = vec![root.kind.directory().unwrap()];
        while let Some(folder) = folders.pop() {
            for entry in Entries::new(reader, folder) {
                match entry.unwrap().kind {
                    Kind::File(size, content) => {
                        for piece in Pieces::new(reader, &content, size) {
                            if let Piece::Data(chunk, len) = piece.unwrap() {
                                assert_eq!(reader.get(ChunkKind::Data, &chunk).unwrap().len(), len as usize);
                            }
                        }
                    }
                    kind => folders.extend(kind.directory()),
                }
            }
        }
    }
}
