//! Files that say more than is there, or of which there is no end.

use vault::id::{ChunkId, ChunkKind};
use vault::snapshot::{Content, Entry, Kind, ListChild, ListNode, Meta, Piece, TreeNode};

use super::craft::{Case, Craft, Expects, Make, entry, file, inline, pieces, symlink, xattr};

const ENTRY_4: Expects = Expects::Refused(&["ENTRY-4"]);
const ENTRY_5: Expects = Expects::Refused(&["ENTRY-5"]);
/// The content is found wrong when it is read, and `ls` does not read it.
const LIST_1: Expects = Expects::Found(&["LIST-1", "ENTRY-5"]);
const LIST_2: Expects = Expects::Found(&["LIST-2"]);
const MISSING: Expects = Expects::Found(&["missing", "is in no pack", "not there", "lost"]);

const fn case(name: &'static str, expects: Expects, make: Make) -> Case {
    Case { name, make, expects }
}

fn list(name: &str, size: u64, node: ChunkId) -> Entry {
    entry(name, 0o644, Kind::File(size, Content::List(node)))
}

fn hole(name: &str, len: u64) -> Entry {
    pieces(name, len, vec![Piece::Hole(len)])
}

/// A list whose every level has so many times the level below; and how long it says it is.
fn tower(craft: &Craft, levels: u8, times: usize) -> (ChunkId, u64) {
    let piece = craft.data(&[7; 4096]);
    let mut len = piece.len() * times as u64;
    let mut node = craft.list(&ListNode::Leaf(vec![piece; times]));
    for level in 1..=levels {
        node = craft.list(&ListNode::Branch(level, vec![ListChild { len, node }; times]));
        len = len.saturating_mul(times as u64);
    }
    (node, len)
}

pub const LENGTHS: [Case; 23] = [
    case("a file that is shorter than it says", ENTRY_4, |craft| {
        craft.root(vec![entry("a", 0o644, Kind::File(100, inline("evil")))]);
    }),
    case("a content of too many bytes", ENTRY_4, |craft| {
        craft.root(vec![entry("a", 0o644, Kind::File(65_537, inline(vec![1; 65_537])))]);
    }),
    case("pieces that do not add up", ENTRY_5, |craft| {
        let piece = craft.data(b"evil");
        craft.root(vec![pieces("a", u64::MAX, vec![piece])]);
    }),
    case("pieces that overflow", ENTRY_5, |craft| {
        craft.root(vec![pieces("a", 8, vec![Piece::Hole(u64::MAX), Piece::Hole(9)])]);
    }),
    case("a piece without bytes", ENTRY_5, |craft| {
        craft.root(vec![pieces("a", 0, vec![Piece::Data(ChunkId::from_bytes([1; 32]), 0)])]);
    }),
    case("a piece of 4 GiB", ENTRY_5, |craft| {
        let len = u32::MAX;
        craft.root(vec![pieces("a", len.into(), vec![Piece::Data(ChunkId::from_bytes([1; 32]), len)])]);
    }),
    case("65 pieces", ENTRY_5, |craft| {
        let piece = craft.data(b"evil");
        craft.root(vec![pieces("a", 65 * 4, vec![piece; 65])]);
    }),
    case("a piece that is longer than its chunk", LIST_2, |craft| {
        let Piece::Data(id, _) = craft.data(b"evil") else { return };
        craft.root(vec![pieces("a", 1 << 20, vec![Piece::Data(id, 1 << 20)])]);
    }),
    case("a piece that is shorter than its chunk", LIST_2, |craft| {
        let Piece::Data(id, _) = craft.data(&[1; 100_000]) else { return };
        craft.root(vec![pieces("a", 2, vec![Piece::Data(id, 1); 2])]);
    }),
    case("an attribute of one byte a piece, and 16 MiB a chunk", LIST_2, |craft| {
        let Piece::Data(id, _) = craft.data(&vec![0; 16 << 20]) else { return };
        let value = Content::Pieces(vec![Piece::Data(id, 1); 64]);
        let meta = Meta { xattrs: vec![xattr("user.a", value)], ..file("a").meta };
        craft.root(vec![Entry { meta, ..file("a") }]);
    }),
    case("chunks that are nowhere", MISSING, |craft| {
        let lost = ChunkId::from_bytes([9; 32]);
        craft.root(vec![pieces("a", 4, vec![Piece::Data(lost, 4)]), list("b", 4, lost)]);
    }),
    case("a directory as the bytes of a file", MISSING, |craft| {
        let node = craft.tree(vec![file("passwd")]);
        craft.root(vec![pieces("a", 40, vec![Piece::Data(node, 40)]), list("b", 40, node)]);
    }),
    case("the bytes of a file as a list", MISSING, |craft| {
        let Piece::Data(id, _) = craft.data(&vault::codec::encode(&ListNode::Leaf(vec![Piece::Hole(4)])))
        else {
            return;
        };
        craft.root(vec![list("a", 4, id)]);
    }),
    case("a list that is longer than its file", LIST_1, |craft| {
        let node = craft.list(&ListNode::Leaf(vec![Piece::Hole(100)]));
        craft.root(vec![list("a", 99, node)]);
    }),
    case("a list without pieces", LIST_1, |craft| {
        let node = craft.list(&ListNode::Leaf(Vec::new()));
        craft.root(vec![list("a", 0, node)]);
    }),
    case("a list whose levels do not go down", LIST_1, |craft| {
        let mut node = craft.list(&ListNode::Leaf(vec![Piece::Hole(1)]));
        for level in [1, 2, 2, 1] {
            node = craft.list(&ListNode::Branch(level, vec![ListChild { len: 1, node }]));
        }
        craft.root(vec![list("a", 1, node)]);
    }),
    case("a list of 200 levels", LIST_1, |craft| {
        let mut node = craft.list(&ListNode::Leaf(vec![Piece::Hole(1)]));
        for level in 1..200 {
            node = craft.list(&ListNode::Branch(level, vec![ListChild { len: 1, node }]));
        }
        craft.root(vec![list("a", 1, node)]);
    }),
    case("lists whose lengths overflow", LIST_1, |craft| {
        let node = craft.list(&ListNode::Leaf(vec![Piece::Hole(1)]));
        let child = ListChild { len: u64::MAX, node };
        let node = craft.list(&ListNode::Branch(1, vec![child.clone(), child]));
        craft.root(vec![list("a", u64::MAX, node)]);
    }),
    case("a list that is a directory's node", LIST_1, |craft| {
        let node = craft.chunk(ChunkKind::List, &vault::codec::encode(&TreeNode::Leaf(Vec::new())));
        craft.root(vec![list("a", 0, node)]);
    }),
    case("files of holes that are longer together than a number can be", Expects::Endless, |craft| {
        craft.root(["a", "b", "c"].map(|name| hole(name, u64::MAX)).into());
    }),
    case("a file of 2^60 bytes of one chunk", Expects::Endless, |craft| {
        let (node, len) = tower(craft, 11, 16);
        assert_eq!(len, 1 << 60);
        craft.root(vec![list("a", len, node)]);
    }),
    case("a file of 8 TiB of one chunk", Expects::Endless, |craft| {
        let (node, len) = tower(craft, 2, 1291);
        craft.root(vec![list("a", len, node), symlink("b", "a")]);
    }),
    case("a file of 2^60 bytes of which one is lost", Expects::Endless, |craft| {
        let lost = craft.list(&ListNode::Leaf(vec![Piece::Data(ChunkId::from_bytes([9; 32]), 1); 1000]));
        let mut node = craft.list(&ListNode::Branch(1, vec![ListChild { len: 1000, node: lost }; 1000]));
        let mut len = 1_000_000;
        for level in 2..=6 {
            node = craft.list(&ListNode::Branch(level, vec![ListChild { len, node }; 200]));
            len *= 200;
        }
        craft.root(vec![list("a", len, node)]);
    }),
];
