//! `[TREE-n]` and `[LIST-n]`: what a reader checks of nodes, and between them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use vault::check::CheckOptions;
use vault::chunk::{GetChunk, PutChunk as _};
use vault::codec;
use vault::error::{Error, Result};
use vault::event::Silent;
use vault::id::{ChunkId, ChunkKind, IdKeys};
use vault::repository::WriteOptions;
use vault::snapshot::list::Pieces;
use vault::snapshot::tree::{Entries, TreeWriter};
use vault::snapshot::{
    Content, Entry, Kind, ListChild, ListNode, Meta, Piece, Snapshot, State, Time, TreeChild, TreeNode,
};

use super::broken;
use super::crafted::Place;

/// Chunks in memory, under whatever id.
#[derive(Default)]
struct Chunks(Mutex<HashMap<ChunkId, Vec<u8>>>);

impl Chunks {
    fn put(&self, kind: ChunkKind, bytes: Vec<u8>) -> ChunkId {
        let id = IdKeys::plain().chunk_id(kind, &bytes);
        self.0.lock().unwrap().insert(id, bytes);
        id
    }
}

impl GetChunk for Chunks {
    fn get(&self, kind: ChunkKind, id: &ChunkId) -> Result<Vec<u8>> {
        self.0.lock().unwrap().get(id).cloned().ok_or(Error::ChunkMissing { kind, id: *id })
    }
}

#[test]
fn list_1_the_pieces_below_a_child_add_up_to_its_length() {
    let chunks = Chunks::default();
    let leaf = ListNode::Leaf(vec![Piece::Hole(100), Piece::Data(ChunkId::from_bytes([1; 32]), 28)]);
    let node = chunks.put(ChunkKind::List, codec::encode(&leaf));
    let branch = |len: u64, level: u8| {
        let children = vec![ListChild { len, node }];
        chunks.put(ChunkKind::List, codec::encode(&ListNode::Branch(level, children)))
    };
    let read = |root: ChunkId, size: u64| -> Result<Vec<Piece>> {
        Pieces::new(&chunks, &Content::List(root), size).collect()
    };
    assert_eq!(read(branch(128, 1), 128).unwrap().len(), 2);
    for (root, size) in [(branch(127, 1), 127), (branch(128, 1), 129), (branch(128, 2), 128)] {
        assert_eq!(broken(&read(root, size).unwrap_err(), "list node"), "LIST-1");
    }
}

#[test]
fn list_2_a_chunk_of_another_length_than_its_piece_is_refused() {
    for wrong in [999, 1001, 1000] {
        let place = Place::new();
        let repository = place.open();
        let mut writer = repository.writer(&WriteOptions::new(Arc::new(Silent))).unwrap();
        let id = writer.put(ChunkKind::Data, &[5; 1000]).unwrap();
        let kind = Kind::File(wrong.into(), Content::Pieces(vec![Piece::Data(id, wrong)]));
        let entry = |name: &[u8], kind: Kind| Entry {
            name: name.into(),
            kind,
            meta: Meta::default(),
            fields: Vec::new(),
        };
        let mut tree = TreeWriter::new(&writer);
        tree.push(&entry(b"file", kind)).unwrap();
        let root = tree.finish().unwrap();
        writer.finish().unwrap();
        let snapshot = Snapshot { root: entry(b"", Kind::Directory(root)), ..empty_snapshot() };
        writer.publish_snapshot(&snapshot).unwrap();
        let stop = std::sync::atomic::AtomicBool::new(false);
        let report = vault::check::check(&repository, &CheckOptions::default(), &Silent, &stop).unwrap();
        let rules: Vec<_> = report.damages.iter().map(|damage| broken(&damage.error, "")).collect();
        assert_eq!(rules, if wrong == 1000 { vec![] } else { vec!["LIST-2"] }, "{wrong}");
        if wrong != 1000 {
            assert_eq!(report.damages[0].costs[0].path, b"file");
        }
    }
}

#[test]
fn list_3_a_node_has_no_more_items_than_the_writer_gives_it() {
    let chunks = Chunks::default();
    let read = |count: usize, levels: u8| {
        let leaf = ListNode::Leaf(vec![Piece::Hole(1); if levels == 0 { count } else { 1 }]);
        let mut node = chunks.put(ChunkKind::List, codec::encode(&leaf));
        if levels > 0 {
            let children = vec![ListChild { len: 1, node }; count];
            node = chunks.put(ChunkKind::List, codec::encode(&ListNode::Branch(1, children)));
        }
        Pieces::new(&chunks, &Content::List(node), count as u64).collect::<Result<Vec<_>>>()
    };
    for levels in [0, 1] {
        assert_eq!(read(1024, levels).unwrap().len(), 1024);
        assert_eq!(broken(&read(1025, levels).unwrap_err(), "list node"), "LIST-3");
    }
}

#[test]
fn tree_5_a_node_ends_with_the_entry_that_makes_it_long_enough() {
    let chunks = Chunks::default();
    let entry = |name: String, kind: Kind| Entry {
        name: name.into_bytes().into(),
        kind,
        meta: Meta::default(),
        fields: Vec::new(),
    };
    // Each of about 4 KiB, but for the first one.
    let leaf = |first: usize| {
        let long = |number: usize| entry(format!("1{}", format!("{number:02}").repeat(2038)), Kind::Fifo);
        let mut entries = vec![entry("0".repeat(first), Kind::Fifo)];
        entries.extend((0..65).map(long));
        entries
    };
    let len = |entries: &[Entry]| entries.iter().map(|entry| codec::encode(entry).len()).sum::<usize>();
    let right = 300 + (256 << 10) - 1 - len(&leaf(300)[..65]);
    for (first, expected) in [(right, None), (right + 1, Some("TREE-5"))] {
        let entries = leaf(first);
        assert_eq!(len(&entries[..65]), (256 << 10) - 1 + usize::from(expected.is_some()));
        let root = chunks.put(ChunkKind::Tree, codec::encode(&TreeNode::Leaf(entries)));
        let read = Entries::new(&chunks, root).collect::<Result<Vec<_>>>();
        assert_eq!(read.err().map(|error| broken(&error, "tree node")), expected);
    }
    // The last one may be as long as it likes; so may children.
    let long = entry("2".into(), Kind::Symlink(vec![b't'; 65_536].into()));
    let mut entries = leaf(right);
    entries.pop();
    entries.push(long);
    let root = chunks.put(ChunkKind::Tree, codec::encode(&TreeNode::Leaf(entries)));
    assert!(Entries::new(&chunks, root).all(|entry| entry.is_ok()));
    let child = |number: usize| TreeChild {
        first: format!("{number:04}").repeat(1000).into_bytes().into(),
        entries: 1,
        node: root,
    };
    let branch = codec::encode(&TreeNode::Branch(1, (0..67).map(child).collect()));
    let error = Entries::new(&chunks, chunks.put(ChunkKind::Tree, branch)).next().unwrap().unwrap_err();
    assert_eq!(broken(&error, "tree node"), "TREE-5");
}

fn empty_snapshot() -> Snapshot {
    let time = Time { secs: 0, nanos: 0 };
    Snapshot {
        state: State::Complete,
        root: Entry {
            name: b"".as_slice().into(),
            kind: Kind::Fifo,
            meta: Meta::default(),
            fields: Vec::new(),
        },
        notes: None,
        sources: Vec::new(),
        label: String::new(),
        tags: Vec::new(),
        description: String::new(),
        host: String::new(),
        host_id: [0; 16],
        user: String::new(),
        program: String::new(),
        start: time,
        end: time,
        utc_offset_secs: 0,
        predecessor: None,
        made_from: Vec::new(),
        counters: Vec::new(),
        fields: Vec::new(),
    }
}

#[test]
fn tree_4_a_node_of_more_than_16_mib_is_refused() {
    let chunks = Chunks::default();
    let root = chunks.put(ChunkKind::Tree, vec![0; (16 << 20) + 1]);
    let error = Entries::new(&chunks, root).next().unwrap().unwrap_err();
    // One variant for whatever is encoded as a structure.
    assert_eq!(broken(&error, ""), "OBJ-3");
}
