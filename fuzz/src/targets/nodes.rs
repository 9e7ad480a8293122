//! Targets: nodes of directories and of lists, single ones and trees of them.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use vault::chunk::{GetChunk, PutChunk};
use vault::codec;
use vault::error::{Error, Result};
use vault::id::{ChunkId, ChunkKind, IdKeys};
use vault::snapshot::list::{self, ListWriter, Pieces};
use vault::snapshot::tree::{self, EncodedEntry, Entries, TreeWriter};
use vault::snapshot::{Content, Entry, ListNode, MAX_ENTRY_PIECES, Piece, TreeNode};

use super::Defect;
use super::fixed::part;

/// So many nodes of a tree are read: of a few bytes one can be made that is longer than any file.
const MOST_NODES: usize = 400;

/// Nodes that refer to one another by the first byte of an id.
struct Nodes<'a> {
    nodes: Vec<&'a [u8]>,
    read: AtomicUsize,
}

impl<'a> Nodes<'a> {
    fn new(mut input: &'a [u8]) -> Self {
        let mut nodes = Vec::new();
        while !input.is_empty() {
            let (node, rest) = part(input);
            nodes.push(node);
            input = rest;
        }
        Self { nodes, read: AtomicUsize::new(0) }
    }
}

impl GetChunk for Nodes<'_> {
    fn get(&self, kind: ChunkKind, id: &ChunkId) -> Result<Vec<u8>> {
        let at = usize::from(id.as_bytes()[0]);
        let node = self.nodes.get(at).filter(|_| self.read.fetch_add(1, Ordering::Relaxed) < MOST_NODES);
        node.map(|node| node.to_vec()).ok_or(Error::ChunkMissing { kind, id: *id })
    }
}

/// Chunks by their ids.
struct Store {
    keys: IdKeys,
    chunks: Mutex<HashMap<ChunkId, Vec<u8>>>,
}

impl Store {
    fn new() -> Self {
        Self { keys: IdKeys::plain(), chunks: Mutex::default() }
    }
}

impl GetChunk for Store {
    fn get(&self, kind: ChunkKind, id: &ChunkId) -> Result<Vec<u8>> {
        let found = self.chunks.lock().ok().and_then(|chunks| chunks.get(id).cloned());
        found.ok_or(Error::ChunkMissing { kind, id: *id })
    }
}

impl PutChunk for Store {
    fn put(&self, kind: ChunkKind, plain: &[u8]) -> Result<ChunkId> {
        let id = self.keys.chunk_id(kind, plain);
        if let Ok(mut chunks) = self.chunks.lock() {
            chunks.insert(id, plain.to_vec());
        }
        Ok(id)
    }
}

fn assert_damage(error: &Error) {
    assert!(matches!(error, Error::Damaged { .. } | Error::ChunkMissing { .. }), "{error}");
}

fn root() -> ChunkId {
    ChunkId::from_bytes([0; 32])
}

/// Nodes of directories.
pub fn tree(input: &[u8], defect: Defect) {
    let Some((mode, rest)) = input.split_first() else { return };
    if mode % 2 == 0 {
        return tree_node(rest, defect);
    }
    let (nodes, mut entries, mut is_whole) = (Nodes::new(rest), Vec::<Entry>::new(), true);
    for entry in Entries::new(&nodes, root()) {
        match entry {
            Ok(entry) => {
                let ascends = entries.last().is_none_or(|last| last.name < entry.name);
                assert!(ascends || !is_whole, "[TREE-1]");
                assert_eq!(entry.validate(), Ok(()));
                entries.push(entry);
            }
            Err(error) => {
                assert_damage(&error);
                is_whole = false;
            }
        }
    }
    if is_whole {
        let store = Store::new();
        let mut writer = TreeWriter::new(&store);
        let pushed = entries.iter().try_for_each(|entry| writer.push(entry));
        let written = pushed.and_then(|()| writer.finish()).unwrap_or_else(|error| panic!("{error}"));
        let again: Result<Vec<Entry>> = Entries::new(&store, written).collect();
        assert!(again.is_ok_and(|again| again == entries), "what was read does not come back");
    }
}

fn tree_node(bytes: &[u8], defect: Defect) {
    let Ok(node) = tree::decode_node(bytes) else { return };
    let mut encoded = codec::encode(&node);
    let TreeNode::Leaf(entries) = &node else {
        return assert!(encoded == bytes, "[CODEC-1]");
    };
    let is_the_case = |entry: &Entry| entry.meta.mode & 0o7000 == 0o1000;
    defect.spoil(entries.iter().any(is_the_case), &mut encoded);
    assert!(encoded == bytes, "[CODEC-1]");
    for entry in entries {
        let one = EncodedEntry::new(entry).unwrap_or_else(|error| panic!("{error}"));
        assert!(one.bytes() == codec::encode(entry));
        assert!(EncodedEntry::again(&entry.name, one.bytes()).is_some());
    }
}

/// Nodes of lists.
pub fn list(input: &[u8], defect: Defect) {
    let Some((mode, rest)) = input.split_first() else { return };
    if mode % 2 == 0 {
        let Ok(node) = list::decode_node(rest) else { return };
        let mut encoded = codec::encode(&node);
        let is_of = |piece: &Piece| matches!(piece, Piece::Hole(301..=65535));
        let is_the_case = matches!(&node, ListNode::Leaf(pieces) if pieces.iter().any(is_of));
        defect.spoil(is_the_case, &mut encoded);
        return assert!(encoded == rest, "[CODEC-1]");
    }
    let Some((size, rest)) = rest.split_first_chunk::<8>() else { return };
    let (nodes, size) = (Nodes::new(rest), u64::from_le_bytes(*size));
    let read: Result<Vec<Piece>> = Pieces::new(&nodes, &Content::List(root()), size).collect();
    let pieces = match read {
        Ok(pieces) => pieces,
        Err(error) => return assert_damage(&error),
    };
    let sum = pieces.iter().try_fold(0u64, |sum, piece| sum.checked_add(piece.len()));
    assert_eq!(sum, Some(size), "[LIST-1]");
    let store = Store::new();
    let mut writer = ListWriter::new(&store);
    let pushed = pieces.iter().try_for_each(|piece| writer.push(*piece));
    let content = pushed.and_then(|()| writer.finish()).unwrap_or_else(|error| panic!("{error}"));
    assert!(!matches!(&content, Content::Pieces(pieces) if pieces.len() > MAX_ENTRY_PIECES));
    let again: Result<Vec<Piece>> = Pieces::new(&store, &content, size).collect();
    assert!(again.is_ok_and(|again| again == joined(&pieces)), "what was read does not come back");
}

/// The pieces as a writer leaves them: neighbouring holes are one.
fn joined(pieces: &[Piece]) -> Vec<Piece> {
    let mut joined: Vec<Piece> = Vec::new();
    for piece in pieces {
        match (joined.last_mut(), piece) {
            (Some(Piece::Hole(last)), Piece::Hole(len)) => *last += len,
            _ => joined.push(*piece),
        }
    }
    joined
}
