//! Small repositories that are large once they are looked at: by nodes that many places share, by depth, by width, by compression.

use vault::codec::{self, Bytes};
use vault::id::{ChunkId, ChunkKind};
use vault::snapshot::{
    Content, Entry, Kind, ListChild, ListNode, MAX_LISTED, MAX_SOURCES, Meta, Piece, Source, TreeChild,
    TreeNode, Why,
};

use super::craft::{Case, Craft, Expects, Make, entry, file, inline, pieces, symlink, xattr};
use crate::format::crafted::{Frame, Pack};
use crate::proof::is_nightly;

const fn case(name: &'static str, expects: Expects, make: Make) -> Case {
    Case { name, make, expects }
}

/// So many levels has the deepest tree.
fn deepest() -> usize {
    if is_nightly() { 1_000_000 } else { 100_000 }
}

/// The longest that a structure may be, with a little room.
const NODE_LEN: usize = (16 << 20) - 4096;

/// An entry that takes few bytes, and nothing to restore.
fn small(number: usize) -> Entry {
    // As many digits as the largest, so that names ascend.
    let name = [number >> 14, number >> 7, number].map(|part| 128 | u8::try_from(part & 127).unwrap());
    let kind = Kind::LeftOut(Why::Excluded, 0);
    Entry { name: name.as_slice().into(), kind, meta: Meta::default(), fields: Vec::new() }
}

/// As many of these as a decoder takes at once, which counts lengths with the eight bytes that they have in memory.
const MANY: usize = 240_000;

/// Levels of directories, each with two of the level below.
fn doubling(craft: &Craft, levels: usize, bottom: ChunkId) -> ChunkId {
    (0..levels).fold(bottom, |node, _| {
        craft.tree(["a", "b"].map(|name| entry(name, 0o755, Kind::Directory(node))).into())
    })
}

pub const SHARED: [Case; 6] = [
    case("2^40 folders", Expects::Endless, |craft| {
        let node = doubling(craft, 40, craft.tree(Vec::new()));
        craft.root_node(node);
    }),
    case("2^40 files", Expects::Endless, |craft| {
        let piece = craft.data(&[1; 3000]);
        let node = doubling(craft, 40, craft.tree(vec![pieces("file", 3000, vec![piece])]));
        craft.root_node(node);
    }),
    case("2^40 names of one file", Expects::Endless, |craft| {
        let mut linked = file("file");
        linked.meta.link_group = Some(vault::id::LinkGroup::from_bytes([1; 16]));
        let node = doubling(craft, 40, craft.tree(vec![linked]));
        craft.root_node(node);
    }),
    case("2^40 lost files", Expects::Endless, |craft| {
        let lost = Piece::Data(ChunkId::from_bytes([9; 32]), 100);
        let node = doubling(craft, 40, craft.tree(vec![pieces("file", 100, vec![lost])]));
        craft.root_node(node);
    }),
    case("2^40 lost folders", Expects::Endless, |craft| {
        let node = doubling(craft, 40, ChunkId::from_bytes([9; 32]));
        craft.root_node(node);
    }),
    case("the same folder 100,000 times", Expects::Endless, |craft| {
        let node = craft.tree((0..100).map(|number| symlink(format!("{number:02}"), "x")).collect());
        let folder = |number| entry(format!("{number:05}"), 0o755, Kind::Directory(node));
        craft.root((0..100_000).map(folder).collect());
    }),
];

pub const DEEP: [Case; 2] = [
    case("levels without end", Expects::Endless, |craft| deep(craft, &[7; 100], deepest())),
    case("levels without end, and nothing to compare with", Expects::Endless, |craft| {
        deep(craft, b"", deepest());
        craft.snapshot.label = "deep".into();
    }),
];

/// A pack of nothing but so many folders in one another.
pub fn deep(craft: &mut Craft, bytes: &[u8], mut left: usize) {
    let bottom = entry("bottom", 0o644, Kind::File(bytes.len() as u64, inline(bytes)));
    let mut node = codec::encode(&TreeNode::Leaf(vec![bottom]));
    let mut pack = Pack { kind: 2, frames: Vec::new(), ..Pack::new(&craft.keys) };
    let mut root = ChunkId::from_bytes([0; 32]);
    while left > 0 {
        let mut chunks = Vec::new();
        for _ in 0..left.min(13_107) {
            root = craft.keys.ids().chunk_id(ChunkKind::Tree, &node);
            chunks.push(std::mem::take(&mut node));
            node = codec::encode(&TreeNode::Leaf(vec![entry("d", 0o700, Kind::Directory(root))]));
        }
        left -= chunks.len();
        let chunks: Vec<_> = chunks.iter().map(|chunk| (ChunkKind::Tree, chunk.as_slice())).collect();
        let number = u32::try_from(pack.frames.len()).unwrap();
        pack.frames.push(Frame::raw(craft.keys.ids(), number, &chunks).compressed());
    }
    let id = craft.pack(&pack);
    craft.cover(id);
    craft.root_node(root);
}

pub const WIDE: [Case; 10] = [
    case("a node of as many entries as it may have", Expects::Endless, |craft| {
        craft.root((0..MANY).map(small).collect());
    }),
    case("folders in one another, each of very many entries", Expects::Endless, |craft| {
        let mut entries: Vec<Entry> = (0..MANY / 2).map(small).collect();
        for _ in 0..12 {
            let node = craft.tree(entries.clone());
            let folder = entry([1], 0o755, Kind::Directory(node));
            if entries[0].name.len() == 1 {
                entries[0] = folder;
            } else {
                entries.insert(0, folder);
            }
        }
        craft.root(entries);
    }),
    case("branches of very many children on each level", Expects::Endless, |craft| {
        let mut node = craft.tree(vec![small(0)]);
        for level in 1..=16 {
            let other = ChunkId::from_bytes([level; 32]);
            let child = |number| TreeChild {
                first: small(number).name,
                entries: 1,
                node: if number == 0 { node } else { other },
            };
            let mut children: Vec<TreeChild> = (0..300_000).map(child).collect();
            children[0].entries = u64::from(level - 1) * 299_999 + 1;
            node = craft.node(ChunkKind::Tree, &TreeNode::Branch(level, children));
        }
        craft.root_node(node);
    }),
    case("lists of very many children on each level", Expects::Endless, |craft| {
        let mut node = craft.list(&ListNode::Leaf(vec![craft.data(b"x")]));
        let mut len = 1;
        for level in 1..=16 {
            let other = ChunkId::from_bytes([level; 32]);
            let child = |number| {
                if number == 0 { ListChild { len, node } } else { ListChild { len: 1, node: other } }
            };
            let children: Vec<ListChild> = (0..400_000).map(child).collect();
            len += 399_999;
            node = craft.list(&ListNode::Branch(level, children));
        }
        let all = (0..8).map(|number| entry(number.to_string(), 0o644, Kind::File(len, Content::List(node))));
        craft.root(all.collect());
    }),
    case("lists of very many pieces", Expects::Endless, |craft| {
        let piece = craft.data(b"x");
        let node = craft.list(&ListNode::Leaf(vec![piece; 400_000]));
        let child = ListChild { len: 400_000, node };
        let node = craft.list(&ListNode::Branch(1, vec![child; 100]));
        let file =
            |number: usize| entry(number.to_string(), 0o644, Kind::File(40_000_000, Content::List(node)));
        craft.root((0..8).map(file).collect());
    }),
    case("an entry of very many attributes", Expects::Endless, |craft| {
        let name = |number| [b"user.", &*small(number).name.0].concat();
        let xattrs = (0..400_000).map(|number| xattr(name(number), inline(b""))).collect();
        let wide = |name: &str| Entry { meta: Meta { xattrs, ..file("a").meta }, ..file(name) };
        let node = craft.tree(vec![wide("z")]);
        craft.root_node(node);
    }),
    case("an entry of very long attributes", Expects::Endless, |craft| {
        let value = Content::Pieces(vec![craft.data(&vec![0; 16 << 20])]);
        let xattrs: Vec<_> = (0..200).map(|n| xattr(format!("user.{n:03}"), value.clone())).collect();
        let wide =
            |name: &str| Entry { meta: Meta { xattrs: xattrs.clone(), ..file("a").meta }, ..file(name) };
        let folder = craft.folder("folder", Vec::new());
        craft.root(vec![wide("a"), Entry { meta: wide("b").meta, ..folder }]);
    }),
    case("very many notes", Expects::Endless, |craft| {
        let note = |number| Entry { kind: Kind::Fifo, ..small(number) };
        craft.snapshot.notes = Some(craft.directory((0..200_000).map(note)));
        craft.root(vec![file("file")]);
    }),
    case("folders in one another, each of a million entries", Expects::Endless, |craft| {
        let mut node = craft.tree(Vec::new());
        for _ in 0..4 {
            let first = entry([1], 0o755, Kind::Directory(node));
            node = craft.directory(std::iter::once(first).chain((0..1_000_000).map(small)));
        }
        craft.root_node(node);
    }),
    case("many frames that are a thousand times as large as they seem", Expects::Harmless, |craft| {
        let (data, tree) = (vec![0; 16 << 20], vec![0; NODE_LEN]);
        let frame = |kind, bytes: &[u8], number| {
            Frame::raw(craft.keys.ids(), number, &[(kind, bytes), (kind, bytes)]).compressed()
        };
        for (kind, number, bytes) in [(ChunkKind::Data, 1, data), (ChunkKind::Tree, 2, tree)] {
            let first = frame(kind, &bytes, 0);
            let frames = (0..20).map(|number| Frame { number, ..first.clone() }).collect();
            craft.pack(&Pack { kind: number, frames, ..Pack::new(&craft.keys) });
        }
        craft.root(vec![file("file")]);
    }),
];

fn no_source() -> Source {
    Source {
        origin: String::new(),
        given: Bytes::default(),
        resolved: Bytes::default(),
        stored_at: Bytes::default(),
        carried: Vec::new(),
        users: Vec::new(),
        groups: Vec::new(),
    }
}

/// Snapshots that are large themselves.
pub const WORDS: [Case; 8] = [
    case("a snapshot of very many tags", Expects::Endless, |craft| {
        craft.root(vec![file("file")]);
        craft.snapshot.tags = vec!["t".to_owned(); MAX_LISTED - 100];
    }),
    case("a snapshot of millions of tags", Expects::Refused(&["SNAP-5"]), |craft| {
        craft.root(vec![file("file")]);
        craft.snapshot.tags = vec![String::new(); 1_900_000];
    }),
    case("a snapshot of very many sources", Expects::Endless, |craft| {
        craft.root(vec![file("file")]);
        craft.snapshot.sources = vec![no_source(); MAX_SOURCES];
    }),
    case("a snapshot of one source too many", Expects::Refused(&["SNAP-5"]), |craft| {
        craft.root(vec![file("file")]);
        craft.snapshot.sources = vec![no_source(); MAX_SOURCES + 1];
    }),
    case("a source of very many owners", Expects::Endless, |craft| {
        craft.root(vec![file("file")]);
        let name = |number: usize| (u32::try_from(number).unwrap(), b"n".as_slice().into());
        craft.snapshot.sources[0].users = (0..MAX_LISTED - 100).map(name).collect();
    }),
    case("a source of which very much was carried over", Expects::Endless, |craft| {
        craft.root(vec![file("file")]);
        let id = vault::id::SnapshotId::from_bytes([1; 32]);
        let name = |number: usize| (number.to_string().into_bytes().into(), id);
        craft.snapshot.sources[0].carried = (0..MAX_LISTED - 100).map(name).collect();
    }),
    case("counters of all ones", Expects::Harmless, |craft| {
        craft.root(vec![file("file")]);
        craft.snapshot.counters = (0..20).map(|tag| (tag, u64::MAX)).collect();
        craft.snapshot.start.secs = i64::MAX;
        craft.snapshot.end.secs = i64::MIN;
        craft.snapshot.utc_offset_secs = i32::MAX;
    }),
    case("a description of 15 MiB", Expects::Harmless, |craft| {
        craft.root(vec![file("file")]);
        craft.snapshot.description = "evil ".repeat(3 << 20);
    }),
];
