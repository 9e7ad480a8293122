//! A repository in a folder, with snapshots of a few contents each.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use vault::backend::{Backend, LocalFolder};
use vault::check::{CheckOptions, CheckReport, check};
use vault::chunk::PutChunk;
use vault::codec;
use vault::error::Result;
use vault::event::{Observer, Silent};
use vault::forget::{self, Statement};
use vault::id::{ChunkId, ChunkKind, PackId, SnapshotId};
use vault::pack::Compression;
use vault::prune::{Limit, NO_GRACE, PruneOptions, PruneSummary, prune};
use vault::repository::{Lacking, Repository, Scope, WriteOptions};
use vault::snapshot::{Content, Kind, Piece, TreeNode};

use super::simulator::{entry, snapshot};
use crate::support::repository;
use crate::support::scratch::Scratch;
use crate::support::torture::Random;

/// A repository, empty at first.
pub struct Store {
    pub scratch: Scratch,
    pub backend: Arc<dyn Backend>,
}

/// Deletes whatever it can.
pub fn thorough() -> PruneOptions {
    PruneOptions {
        dry_run: false,
        max_unused: Limit::Bytes(0),
        max_repack: None,
        kept_since: NO_GRACE,
        preferred: HashSet::new(),
        force: true,
        lacking: Lacking::default(),
        scratch: std::env::temp_dir(),
        compression: Compression::default(),
        pack_len: 64 << 20,
    }
}

/// What a number stands for: bytes that do not compress.
pub fn content(number: u64) -> Vec<u8> {
    Random(number).bytes(100_000)
}

impl Store {
    pub fn new() -> Self {
        let scratch = Scratch::new();
        let backend: Arc<dyn Backend> = Arc::new(LocalFolder::new(scratch.join("repository")));
        repository::init(&*backend).unwrap();
        Self { scratch, backend }
    }

    pub fn place(&self) -> PathBuf {
        self.scratch.join("repository")
    }

    pub fn open(&self) -> Repository {
        repository::open(self.backend.clone()).unwrap()
    }

    /// Stores some contents, and returns the snapshot, and the ids of these.
    pub fn save(&self, contents: &[u64]) -> Result<(SnapshotId, Vec<ChunkId>)> {
        let contents: Vec<Vec<u8>> = contents.iter().map(|number| content(*number)).collect();
        self.save_bytes(Compression::default(), &contents)
    }

    pub fn save_bytes(
        &self,
        compression: Compression,
        contents: &[Vec<u8>],
    ) -> Result<(SnapshotId, Vec<ChunkId>)> {
        let repository = self.open();
        let options = WriteOptions { compression, ..WriteOptions::new(Arc::new(Silent)) };
        let mut writer = repository.writer(&options)?;
        let (mut entries, mut ids) = (Vec::new(), Vec::new());
        for (number, plain) in contents.iter().enumerate() {
            let id = writer.put(ChunkKind::Data, plain)?;
            let piece = Piece::Data(id, u32::try_from(plain.len()).unwrap());
            let kind = Kind::File(plain.len() as u64, Content::Pieces(vec![piece]));
            entries.push(entry(&format!("{number:04}"), kind));
            ids.push(id);
        }
        let root = writer.put(ChunkKind::Tree, &codec::encode(&TreeNode::Leaf(entries)))?;
        writer.finish()?;
        let number = self.open().snapshot_ids()?.len();
        Ok((repository.publish_snapshot(&writer, &snapshot(root, number))?, ids))
    }

    pub fn forget(&self, id: SnapshotId) {
        forget::forget(&self.open(), &[id], &statement()).unwrap();
    }

    pub fn unforget(&self, id: SnapshotId) -> Result<()> {
        forget::unforget(&self.open(), &[id], &statement()).map(drop)
    }

    pub fn prune(&self, options: &PruneOptions) -> Result<PruneSummary> {
        let observer: Arc<dyn Observer> = Arc::new(Silent);
        prune(&self.open(), options, &observer, &AtomicBool::new(false))
    }

    pub fn packs(&self) -> HashSet<PackId> {
        self.open().listed_packs().unwrap().into_keys().collect()
    }

    /// Everything is read, and no damage found.
    pub fn check(&self) -> CheckReport {
        let options = CheckOptions { read_data: true, ..CheckOptions::default() };
        let report = check(&self.open(), &options, &Silent, &AtomicBool::new(false)).unwrap();
        assert!(report.damages.is_empty(), "{:?}", report.damages);
        report
    }
}

fn statement() -> Statement {
    Statement { scope: Scope::AllCopies, host: String::new(), reason: String::new() }
}
