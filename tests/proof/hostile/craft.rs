//! A repository as somebody wrote it who means harm: every hash, checksum and seal is right, and what they vouch for is not.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;
use vault::backend::LocalFolder;
use vault::chunk::PutChunk;
use vault::codec;
use vault::event::Silent;
use vault::header::{Magic, seal_object};
use vault::id::{ChunkId, ChunkKind, PackId, SnapshotId, hash};
use vault::index::Facts;
use vault::pack::PackFile;
use vault::repository::{WriteOptions, Writer};
use vault::seal::Keys;
use vault::snapshot::tree::TreeWriter;
use vault::snapshot::{
    Content, Entry, Kind, ListNode, Meta, Piece, Snapshot, Time, TreeChild, TreeNode, Xattr,
};

use crate::format::crafted::Pack;
use crate::support::repository;

/// Makes one hostile repository.
pub type Make = fn(&mut Craft);

/// A hostile repository, and what is to be expected of it.
#[derive(Clone, Copy)]
pub struct Case {
    pub name: &'static str,
    pub make: Make,
    pub expects: Expects,
}

/// What a run over a hostile repository may come to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Expects {
    /// There is nothing wrong with it: whatever cannot be done is named.
    Harmless,
    /// What shows the tree fails, and one of these words is in the message.
    Refused(&'static [&'static str]),
    /// Reading all packs fails so; the tree may come back from elsewhere.
    Found(&'static [&'static str]),
    /// It may go on for ever, until it is interrupted.
    Endless,
}

/// A repository in the making, which has one sound snapshot already.
pub struct Craft {
    place: PathBuf,
    pub keys: Keys,
    /// What is published in the end.
    pub snapshot: Snapshot,
    writer: Option<Writer>,
    is_published: bool,
}

impl Craft {
    pub fn new(place: &Path) -> Self {
        let repository = repository::open(Arc::new(LocalFolder::new(place))).unwrap();
        let (_, sound) = repository.snapshots().unwrap().pop().unwrap();
        let mut snapshot = sound.unwrap();
        snapshot.start.secs += 60;
        let writer = repository.writer(&WriteOptions::new(Arc::new(Silent))).unwrap();
        let keys = repository.keys().clone();
        Self { place: place.to_owned(), keys, snapshot, writer: Some(writer), is_published: false }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.place.join(name)
    }

    fn writer(&self) -> &Writer {
        self.writer.as_ref().expect("it is published already")
    }

    /// Stores a chunk of any bytes.
    pub fn chunk(&self, kind: ChunkKind, bytes: &[u8]) -> ChunkId {
        self.writer().put(kind, bytes).unwrap()
    }

    /// Stores a node as it is, whatever rule it breaks.
    pub fn node<T: Serialize>(&self, kind: ChunkKind, node: &T) -> ChunkId {
        self.chunk(kind, &codec::encode(node))
    }

    /// A directory of one node, in this order.
    pub fn tree(&self, entries: Vec<Entry>) -> ChunkId {
        self.node(ChunkKind::Tree, &TreeNode::Leaf(entries))
    }

    /// A directory of two nodes, in this order.
    pub fn tree_of_two(&self, one: Vec<Entry>, other: Vec<Entry>) -> ChunkId {
        let child = |entries: Vec<Entry>| TreeChild {
            first: entries[0].name.clone(),
            entries: entries.len() as u64,
            node: self.tree(entries),
        };
        self.node(ChunkKind::Tree, &TreeNode::Branch(1, vec![child(one), child(other)]))
    }

    /// A directory of as many nodes as it takes, in which nothing is wrong.
    pub fn directory(&self, entries: impl Iterator<Item = Entry>) -> ChunkId {
        let mut tree = TreeWriter::new(self.writer());
        entries.for_each(|entry| tree.push(&entry).unwrap());
        tree.finish().unwrap()
    }

    pub fn list(&self, node: &ListNode) -> ChunkId {
        self.node(ChunkKind::List, node)
    }

    /// A data chunk as a piece.
    pub fn data(&self, bytes: &[u8]) -> Piece {
        Piece::Data(self.chunk(ChunkKind::Data, bytes), u32::try_from(bytes.len()).unwrap())
    }

    /// A directory of this name.
    pub fn folder(&self, name: impl AsRef<[u8]>, entries: Vec<Entry>) -> Entry {
        entry(name, 0o755, Kind::Directory(self.tree(entries)))
    }

    /// What the snapshot has at its root.
    pub fn root(&mut self, entries: Vec<Entry>) {
        let node = self.tree(entries);
        self.root_node(node);
    }

    pub fn root_node(&mut self, node: ChunkId) {
        self.snapshot.root = entry("", 0o755, Kind::Directory(node));
    }

    /// Publishes the snapshot, unless that was done.
    pub fn publish(&mut self) {
        if std::mem::replace(&mut self.is_published, true) {
            return;
        }
        let mut writer = self.writer.take().unwrap();
        writer.finish().unwrap();
        drop(writer);
        let body = codec::encode(&self.snapshot);
        self.snapshot_of(&body);
    }

    /// Nothing more is published than was already.
    pub fn publish_nothing(&mut self) {
        self.is_published = true;
        let mut writer = self.writer.take().unwrap();
        writer.finish().unwrap();
    }

    /// A snapshot with this body.
    pub fn snapshot_of(&self, body: &[u8]) {
        self.object("snapshots", Magic::Snapshot, &[], body);
    }

    pub fn object(&self, folder: &str, magic: Magic, outer: &[u8], body: &[u8]) {
        self.named(folder, &seal_object(magic, &self.keys, outer, body).unwrap());
    }

    /// A file under the hash of its bytes.
    pub fn named(&self, folder: &str, bytes: &[u8]) -> [u8; 32] {
        let hash = hash(bytes);
        let name = SnapshotId::from_bytes(hash).to_string();
        let folder = if folder == "packs" { format!("packs/{}", &name[..2]) } else { folder.to_owned() };
        std::fs::write(self.path(&folder).join(name), bytes).unwrap();
        hash
    }

    /// A pack as it was crafted.
    pub fn pack(&self, pack: &Pack) -> PackId {
        PackId::from_bytes(self.named("packs", &pack.bytes(&self.keys)))
    }

    /// A segment that has what the directory of a pack says.
    pub fn cover(&self, id: PackId) {
        let file = PackFile::open(&LocalFolder::new(&self.place), id, &self.keys).unwrap();
        let mut facts = Facts::default();
        facts.add_pack(id, file.len(), file.kind(), file.directory().unwrap().placed(id));
        self.segment(facts);
    }

    pub fn segment(&self, mut facts: Facts) {
        facts.sort();
        self.named("index", &facts.encode_segment(&self.keys, &[]).unwrap());
    }
}

pub fn entry(name: impl AsRef<[u8]>, mode: u32, kind: Kind) -> Entry {
    let meta = Meta { mode, mtime: Time { secs: 1_000_000_000, nanos: 5 }, ..Meta::default() };
    Entry { name: name.as_ref().into(), kind, meta, fields: Vec::new() }
}

/// A file that holds a few words.
pub fn file(name: impl AsRef<[u8]>) -> Entry {
    let bytes = b"evil";
    entry(name, 0o666, Kind::File(bytes.len() as u64, Content::Inline(bytes.as_slice().into())))
}

pub fn pieces(name: impl AsRef<[u8]>, size: u64, pieces: Vec<Piece>) -> Entry {
    entry(name, 0o644, Kind::File(size, Content::Pieces(pieces)))
}

pub fn symlink(name: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Entry {
    entry(name, 0o777, Kind::Symlink(target.as_ref().into()))
}

pub fn xattr(name: impl AsRef<[u8]>, value: Content) -> Xattr {
    Xattr { name: name.as_ref().into(), value }
}

pub fn inline(bytes: impl AsRef<[u8]>) -> Content {
    Content::Inline(bytes.as_ref().into())
}
