//! A small repository with one of everything that its files can hold.

use std::fs;
use std::os::unix::fs::{FileExt, symlink};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use vault::backend::{Backend, LocalFolder};
use vault::backup::{BackupOptions, backup};
use vault::chunk::{ChunkerParams, PutChunk};
use vault::codec;
use vault::event::{Observer, Silent};
use vault::id::{ChunkId, ChunkKind, SnapshotId};
use vault::repository::{
    InitOptions, Record, RecordBody, RecordOuter, Scope, WriteOptions, Writer, record_kind,
};
use vault::snapshot::{
    Content, Entry, Kind, ListChild, ListNode, Meta, Piece, Time, TreeChild, TreeNode, Xattr,
};

use super::medium::{Change, Medium};
use super::readback::Baseline;
use crate::support::repository;
use crate::support::scratch::Scratch;

/// Small enough for files of a few kilobytes to have many chunks.
const CHUNKER: ChunkerParams = ChunkerParams { min_len: 64, avg_len: 256, max_len: 1024, normalization: 2 };

/// The repository, and what it yields.
pub struct Sample {
    pub scratch: Scratch,
    pub medium: Medium,
    pub baseline: Baseline,
}

impl Sample {
    pub fn new() -> Self {
        let scratch = Scratch::new();
        let source = scratch.dir("source");
        let place = scratch.join("repository");
        let backend: Arc<dyn Backend> = Arc::new(LocalFolder::new(&place));
        repository::init_with(&*backend, InitOptions { chunker: CHUNKER, name: "sample".into(), key: None })
            .unwrap();
        fill(&source);
        snapshot(&backend, &source);
        fs::write(source.join("new"), noise(7, 2000)).unwrap();
        fs::write(source.join("deep/inline"), "changed").unwrap();
        fs::remove_file(source.join("short-3")).unwrap();
        let second = snapshot(&backend, &source);
        crafted(&backend, second);
        statement(&backend);
        repository::add_key(&backend);
        // Nothing depends on it, and every byte of everything else is to be changed.
        fs::remove_file(place.join("reserve")).unwrap();
        let medium = Medium::load(&place);
        let baseline = Baseline::of(&medium);
        let sample = Self { scratch, medium, baseline };
        sample.is_what_it_should_be();
        sample
    }

    /// The middle of the longest pack: in data that several paths need.
    pub fn flip_in_data(&self) -> (String, Change) {
        let packs = self.medium.files().into_iter().filter(|(file, _)| file.starts_with("packs/"));
        let (file, _) = packs.max_by_key(|(_, len)| *len).unwrap();
        (file, Change::Flip { at: 300, bit: 1 })
    }

    /// The campaign is worth what its repository holds.
    fn is_what_it_should_be(&self) {
        let count = |folder: &str| self.medium.files().iter().filter(|(f, _)| f.starts_with(folder)).count();
        let packs: Vec<u8> = self
            .medium
            .files()
            .iter()
            .filter(|(file, _)| file.starts_with("packs/"))
            .map(|(file, _)| self.medium.bytes(file).unwrap()[10])
            .collect();
        for kind in [1, 2] {
            assert!(packs.iter().filter(|found| **found == kind).nth(1).is_some(), "kinds: {packs:?}");
        }
        assert_eq!((count("snapshots/"), count("index/"), count("records/")), (3, 3, 1));
        assert!(self.baseline.paths().count() > 60);
        let bytes: usize = self.medium.files().iter().map(|(_, len)| len).sum();
        assert!((30_000..120_000).contains(&bytes), "{bytes} bytes: too few to mean anything, or too many");
    }
}

/// Bytes that do not compress and do not repeat.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    (0..len).map(|_| next()).collect()
}

fn fill(source: &Path) {
    fs::create_dir_all(source.join("deep/er/est")).unwrap();
    fs::create_dir(source.join("empty folder")).unwrap();
    for number in 0..20u64 {
        fs::write(source.join(format!("short-{number}")), format!("file {number}")).unwrap();
    }
    fs::write(source.join("empty"), "").unwrap();
    fs::write(source.join("deep/inline"), noise(1, 300)).unwrap();
    fs::write(source.join("deep/er/pieces"), noise(2, 1500)).unwrap();
    fs::write(source.join("deep/er/est/list"), noise(3, 6000)).unwrap();
    // Shares most of its chunks with another file.
    let mut shared = noise(3, 6000);
    shared.extend_from_slice(b"and more");
    fs::write(source.join("list again"), shared).unwrap();
    let sparse = fs::File::create(source.join("sparse")).unwrap();
    sparse.set_len(24_000).unwrap();
    sparse.write_all_at(&noise(4, 1200), 8192).unwrap();
    symlink("deep/inline", source.join("symlink")).unwrap();
    fs::hard_link(source.join("deep/er/pieces"), source.join("hard link")).unwrap();
}

pub fn snapshot(backend: &Arc<dyn Backend>, source: &Path) -> SnapshotId {
    let repository = repository::open(backend.clone()).unwrap();
    let observer: Arc<dyn Observer> = Arc::new(Silent);
    let mut options = BackupOptions::new(vec![source.to_owned()]);
    options.as_path = Some(b"saved".to_vec());
    options.pack_len = 4096;
    backup(&repository, options, &observer, &AtomicBool::new(false)).unwrap().snapshot.unwrap()
}

/// A snapshot made by hand, with what needs large files otherwise: a pack of several frames, directories and lists of two levels,
/// and an attribute in chunks.
fn crafted(backend: &Arc<dyn Backend>, predecessor: SnapshotId) {
    let repository = repository::open(backend.clone()).unwrap();
    let mut snapshot = repository.snapshot(&predecessor).unwrap();
    let mut writer = repository.writer(&WriteOptions::new(Arc::new(Silent))).unwrap();
    let pieces: Vec<Piece> = (20..24).map(|seed| data(&writer, &noise(seed, 700))).collect();
    let leaves: Vec<ListChild> = pieces
        .chunks(2)
        .map(|pieces| ListChild {
            len: pieces.iter().map(Piece::len).sum(),
            node: put(&writer, ChunkKind::List, &ListNode::Leaf(pieces.to_vec())),
        })
        .collect();
    let size = leaves.iter().map(|child| child.len).sum();
    let list = put(&writer, ChunkKind::List, &ListNode::Branch(1, leaves));
    let attribute = Content::Pieces(vec![data(&writer, &noise(30, 900))]);
    let xattr = Xattr { name: b"user.long".as_slice().into(), value: attribute };
    let file = |name: &str, xattrs: Vec<Xattr>| Entry {
        name: name.as_bytes().into(),
        kind: Kind::File(size, Content::List(list)),
        meta: Meta { xattrs, ..Meta::default() },
        fields: Vec::new(),
    };
    let inline = |name: &str| Entry { kind: Kind::Fifo, ..file(name, Vec::new()) };
    let leaves = [
        vec![inline("a"), file("b", Vec::new())],
        vec![file("c", vec![xattr.clone()]), inline("d")],
        vec![inline("e"), inline("f")],
    ];
    let children: Vec<TreeChild> = leaves
        .into_iter()
        .map(|entries| TreeChild {
            first: entries[0].name.clone(),
            entries: entries.len() as u64,
            node: put(&writer, ChunkKind::Tree, &TreeNode::Leaf(entries)),
        })
        .collect();
    let directory = put(&writer, ChunkKind::Tree, &TreeNode::Branch(1, children));
    let folder = Entry { kind: Kind::Directory(directory), ..file("folder", vec![xattr]) };
    let root = put(&writer, ChunkKind::Tree, &TreeNode::Leaf(vec![folder]));
    writer.finish().unwrap();
    snapshot.root.kind = Kind::Directory(root);
    snapshot.predecessor = Some(predecessor);
    snapshot.label = "crafted".into();
    writer.publish_snapshot(&snapshot).unwrap();
}

/// A data chunk in a frame of its own.
pub fn data(writer: &Writer, plain: &[u8]) -> Piece {
    let mut batch = writer.batch();
    let id = batch.put(plain).unwrap();
    batch.flush().unwrap();
    Piece::Data(id, u32::try_from(plain.len()).unwrap())
}

pub fn put<T: serde::Serialize>(writer: &Writer, kind: ChunkKind, node: &T) -> ChunkId {
    writer.put(kind, &codec::encode(node)).unwrap()
}

/// A record about a pack that is not there.
fn statement(backend: &Arc<dyn Backend>) {
    let repository = repository::open(backend.clone()).unwrap();
    let record = Record {
        outer: RecordOuter {
            kind: record_kind::PACK_DAMAGED,
            must_understand: true,
            scope: Scope::Copy(repository.copy().copy),
            ids: vec![[7; 32]],
        },
        body: RecordBody {
            created: Time::now(),
            host: "host".into(),
            reason: "reason".into(),
            fields: Vec::new(),
        },
    };
    repository.publish_record(&record).unwrap();
}
