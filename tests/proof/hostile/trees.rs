//! Directories that break the rules, or that say what no file system should hear.

use vault::codec::{self, Bytes};
use vault::field::Field;
use vault::id::{ChunkKind, LinkGroup};
use vault::snapshot::{Content, Entry, Kind, Meta, Piece, Time, TreeChild, TreeNode, Why};

use super::craft::{Case, Craft, Expects, Make, entry, file, inline, symlink, xattr};

const TREE_1: Expects = Expects::Refused(&["TREE-1"]);
const TREE_2: Expects = Expects::Refused(&["TREE-2"]);
const TREE_3: Expects = Expects::Refused(&["TREE-3"]);
const ENTRY_1: Expects = Expects::Refused(&["ENTRY-1"]);
const ENTRY_2: Expects = Expects::Refused(&["ENTRY-2"]);
const ENTRY_3: Expects = Expects::Refused(&["ENTRY-3"]);
const CODEC: Expects = Expects::Refused(&["CODEC", "decod", "follow after its end", "encod"]);

const fn case(name: &'static str, expects: Expects, make: Make) -> Case {
    Case { name, make, expects }
}

/// Names that lead elsewhere, or cannot be, and those that are there twice.
pub const NAMES: [Case; 22] = [
    case("a name of two dots", TREE_3, |craft| craft.root(vec![file("..")])),
    case("a folder of two dots", TREE_3, |craft| {
        let folder = craft.folder("..", vec![file("passwd")]);
        craft.root(vec![folder]);
    }),
    case("a folder of two dots in a folder", TREE_3, |craft| {
        let up = craft.folder("..", vec![craft.folder("victim", vec![file("passwd")])]);
        let folder = craft.folder("dir", vec![up]);
        craft.root(vec![folder]);
    }),
    case("a name of one dot", TREE_3, |craft| craft.root(vec![file(".")])),
    case("an empty name", TREE_3, |craft| craft.root(vec![file("")])),
    case("a name with a slash", TREE_3, |craft| craft.root(vec![file("a/passwd")])),
    case("a name that goes up and down", TREE_3, |craft| craft.root(vec![file("../victim/passwd")])),
    case("an absolute name", TREE_3, |craft| craft.root(vec![file("/etc/vault-was-here")])),
    case("a symlink with a slash in its name", TREE_3, |craft| craft.root(vec![symlink("a/b", "passwd")])),
    case("a name with a NUL", TREE_3, |craft| craft.root(vec![file("passwd\0")])),
    case("a name of 256 bytes", Expects::Harmless, |craft| craft.root(vec![file("n".repeat(256))])),
    case("a name of 4,096 bytes", Expects::Harmless, |craft| craft.root(vec![file("n".repeat(4096))])),
    case("a name that is too long", TREE_3, |craft| craft.root(vec![file("n".repeat(4097))])),
    case("names that do not ascend", TREE_1, |craft| craft.root(vec![file("b"), file("a")])),
    case("a file twice", TREE_1, |craft| craft.root(vec![file("file"), file("file")])),
    case("a symlink, and a folder of the same name", TREE_1, |craft| {
        let folder = craft.folder("a", vec![file("passwd")]);
        craft.root(vec![symlink("a", "../victim"), folder]);
    }),
    case("a symlink, and a file of the same name", TREE_1, |craft| {
        craft.root(vec![symlink("file", "../victim/passwd"), file("file")]);
    }),
    case("a symlink, and a folder of the same name in the next node", TREE_1, |craft| {
        let folder = craft.folder("x", vec![file("passwd")]);
        let node = craft.tree_of_two(vec![symlink("x", "../victim")], vec![folder]);
        craft.root_node(node);
    }),
    case("a symlink, and a folder of the same name later", TREE_1, |craft| {
        let folder = craft.folder("x", vec![file("passwd")]);
        let one = vec![file("a"), symlink("x", "../victim")];
        let node = craft.tree_of_two(one, vec![folder, file("z")]);
        craft.root_node(node);
    }),
    case("nodes out of order", TREE_1, |craft| {
        let node = craft.tree_of_two(vec![file("m"), file("n")], vec![file("a"), file("b")]);
        craft.root_node(node);
    }),
    case("names that a terminal would obey", Expects::Harmless, |craft| {
        let names = ["\u{1b}]0;evil\u{7}", "\u{1b}[2J", "a\rb", "line\nline", "\u{202e}gpj.exe"];
        let mut entries: Vec<Entry> = names.iter().map(file).collect();
        entries.push(symlink("link", "\u{1b}[2J"));
        entries.sort_by(|one, other| one.name.cmp(&other.name));
        craft.root(entries);
        let evil = || "\u{1b}]0;evil\u{7}".to_owned();
        let snapshot = &mut craft.snapshot;
        (snapshot.label, snapshot.host, snapshot.user) = (evil(), evil(), evil());
        (snapshot.description, snapshot.program, snapshot.tags) = (evil(), evil(), vec![evil()]);
    }),
    case("names that are a temporary file's", Expects::Harmless, |craft| {
        craft.root(vec![file(".vault-00000000-00000000-1-1-00000000-1.tmp"), file("file.damaged")]);
    }),
];

/// Nodes that are not what they are used for.
pub const NODES: [Case; 16] = [
    case("a branch whose child has another first name", TREE_2, |craft| {
        let node = craft.tree(vec![file("b")]);
        branch(craft, 1, vec![child("a", 1, node)]);
    }),
    case("a branch whose child has other entries", TREE_2, |craft| {
        let node = craft.tree(vec![file("a")]);
        branch(craft, 1, vec![child("a", u64::MAX, node)]);
    }),
    case("branches whose counts overflow", TREE_2, |craft| {
        let node = craft.tree(vec![file("a")]);
        let children = vec![child("a", u64::MAX, node), child("b", u64::MAX, node)];
        let inner = craft.node(ChunkKind::Tree, &TreeNode::Branch(1, children));
        branch(craft, 2, vec![child("a", 1, inner)]);
    }),
    case("a branch of level 0", TREE_2, |craft| {
        let node = craft.tree(vec![file("a")]);
        branch(craft, 0, vec![child("a", 1, node)]);
    }),
    case("a branch of level 255", TREE_2, |craft| {
        let node = craft.tree(vec![file("a")]);
        branch(craft, 255, vec![child("a", 1, node)]);
    }),
    case("a branch that skips a level", TREE_2, |craft| {
        let node = craft.tree(vec![file("a")]);
        branch(craft, 2, vec![child("a", 1, node)]);
    }),
    case("a branch without children", TREE_2, |craft| branch(craft, 1, Vec::new())),
    case("branches in a ring of levels", TREE_2, |craft| {
        let mut node = craft.tree(vec![file("a")]);
        for level in [1, 2, 3, 3, 2, 1] {
            node = craft.node(ChunkKind::Tree, &TreeNode::Branch(level, vec![child("a", 1, node)]));
        }
        craft.root_node(node);
    }),
    case("a directory that is a piece of a file", Expects::Refused(&["missing", "tree chunk"]), |craft| {
        let bytes = codec::encode(&TreeNode::Leaf(vec![file("passwd")]));
        let Piece::Data(id, _) = craft.data(&bytes) else { return };
        craft.root(vec![entry("dir", 0o755, Kind::Directory(id))]);
    }),
    case("a directory that is a list", Expects::Refused(&["missing", "tree chunk"]), |craft| {
        let id = craft.chunk(ChunkKind::List, &codec::encode(&TreeNode::Leaf(vec![file("passwd")])));
        craft.root(vec![entry("dir", 0o755, Kind::Directory(id))]);
    }),
    case("a directory that is no structure", CODEC, |craft| {
        let node = craft.chunk(ChunkKind::Tree, &[0xff; 100]);
        craft.root_node(node);
    }),
    case("a node with something behind its end", CODEC, |craft| {
        let mut bytes = codec::encode(&TreeNode::Leaf(vec![file("passwd")]));
        bytes.push(0);
        let node = craft.chunk(ChunkKind::Tree, &bytes);
        craft.root_node(node);
    }),
    case("a node that is longer than it need be", CODEC, |craft| {
        // The number of entries, 0, in three bytes.
        let node = craft.chunk(ChunkKind::Tree, &[0, 251, 0, 0]);
        craft.root_node(node);
    }),
    case("a node that claims 2^63 entries", CODEC, |craft| {
        let bytes = [&[0, 253][..], &(1u64 << 63).to_le_bytes(), &[1; 100]].concat();
        let node = craft.chunk(ChunkKind::Tree, &bytes);
        craft.root_node(node);
    }),
    case("a name that claims 2^63 bytes", CODEC, |craft| {
        let bytes = [&[0, 1, 253][..], &(1u64 << 63).to_le_bytes(), &[1; 100]].concat();
        let node = craft.chunk(ChunkKind::Tree, &bytes);
        craft.root_node(node);
    }),
    case("an entry of an unknown kind", CODEC, |craft| {
        let node = craft.chunk(ChunkKind::Tree, &[0, 1, 1, b'a', 9, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        craft.root_node(node);
    }),
];

fn child(first: &str, entries: u64, node: vault::id::ChunkId) -> TreeChild {
    TreeChild { first: first.as_bytes().into(), entries, node }
}

fn branch(craft: &mut Craft, level: u8, children: Vec<TreeChild>) {
    let node = craft.node(ChunkKind::Tree, &TreeNode::Branch(level, children));
    craft.root_node(node);
}

/// An entry with other metadata.
fn with(mut entry: Entry, change: impl FnOnce(&mut Meta)) -> Entry {
    change(&mut entry.meta);
    entry
}

fn linked(entry: Entry) -> Entry {
    with(entry, |meta| meta.link_group = Some(LinkGroup::from_bytes([1; 16])))
}

/// What entries are and carry.
pub const ENTRIES: [Case; 27] = [
    case("hard links through a symlink", Expects::Harmless, |craft| {
        let folder = craft.folder("z", vec![linked(file("file"))]);
        craft.root(vec![linked(symlink("a", "../victim")), linked(file("hard")), folder]);
    }),
    case("hard links of things of all kinds", Expects::Harmless, |craft| {
        let kinds = [Kind::Fifo, Kind::Socket, Kind::CharDevice(1, 3), Kind::BlockDevice(7, 9)];
        let mut all: Vec<Entry> = Vec::new();
        for (number, kind) in kinds.into_iter().enumerate() {
            all.extend(["a", "b"].map(|name| linked(entry(format!("{name}{number}"), 0o666, kind.clone()))));
        }
        all.extend([linked(file("file")), linked(craft.folder("folder", vec![linked(file("hard"))]))]);
        all.sort_by(|one, other| one.name.cmp(&other.name));
        craft.root(all);
    }),
    case("many names of one file", Expects::Harmless, |craft| {
        craft.root((0..5000).map(|number| linked(file(format!("{number:04}")))).collect());
    }),
    case("a symlink without a target", ENTRY_2, |craft| craft.root(vec![symlink("a", "")])),
    case("a symlink with a NUL", ENTRY_2, |craft| craft.root(vec![symlink("a", "../victim\0")])),
    case("a symlink of 64 KiB", Expects::Harmless, |craft| {
        craft.root(vec![symlink("a", "t".repeat(65_536))]);
    }),
    case("a symlink of more", ENTRY_2, |craft| craft.root(vec![symlink("a", "t".repeat(65_537))])),
    case("symlinks to everywhere", Expects::Harmless, |craft| {
        let targets = ["/", "..", "../victim", "/etc/passwd", "/proc/self/root", "link"];
        let links = targets.iter().enumerate().map(|(number, target)| symlink(number.to_string(), target));
        craft.root(links.collect());
    }),
    case("devices and setuid", Expects::Harmless, |craft| {
        let numbers = (u32::MAX, u32::MAX);
        craft.root(vec![
            entry("block", 0o666, Kind::BlockDevice(8, 0)),
            entry("char", 0o666, Kind::CharDevice(1, 1)),
            entry("none", 0o666, Kind::CharDevice(numbers.0, numbers.1)),
            entry("setuid", 0o7777, Kind::File(4, inline("evil"))),
        ]);
    }),
    case("a mode of more than 12 bits", ENTRY_1, |craft| {
        craft.root(vec![with(file("a"), |meta| meta.mode = 0o100_777)]);
    }),
    case("an owner that is nobody's number", Expects::Harmless, |craft| {
        let owned = |name: &str, uid, gid| with(file(name), |meta| (meta.uid, meta.gid) = (uid, gid));
        let folder = with(craft.folder("folder", vec![]), |meta| meta.uid = u32::MAX);
        let entries = vec![
            owned("a", u32::MAX, 1),
            owned("b", 1, u32::MAX),
            owned("file", u32::MAX, u32::MAX),
            folder,
            with(symlink("link", "x"), |meta| meta.gid = u32::MAX),
        ];
        craft.root(entries);
        craft.snapshot.root.meta.uid = u32::MAX;
    }),
    case("the ends of time", Expects::Harmless, |craft| {
        let at = |name: &str, secs, nanos| {
            with(file(name), |meta| {
                meta.mtime = Time { secs, nanos };
                meta.btime = Some(meta.mtime);
            })
        };
        craft.root(vec![
            at("a", i64::MIN, 0),
            at("b", i64::MAX, 999_999_999),
            at("c", i64::MIN / 1_000_000_000, 1),
            with(craft.folder("d", vec![]), |meta| meta.mtime.secs = i64::MIN),
        ]);
        craft.snapshot.end = Time { secs: i64::MIN, nanos: 0 };
        craft.snapshot.utc_offset_secs = i32::MIN;
    }),
    case("more nanoseconds than a second has", Expects::Refused(&["TIME-1"]), |craft| {
        craft.root(vec![with(file("a"), |meta| meta.mtime.nanos = 1_000_000_000)]);
    }),
    case("attributes that do not ascend", ENTRY_3, |craft| attributes(craft, &["user.b", "user.a"])),
    case("an attribute twice", ENTRY_3, |craft| attributes(craft, &["user.a", "user.a"])),
    case("an attribute without a name", ENTRY_3, |craft| attributes(craft, &[""])),
    case("an attribute with a NUL", ENTRY_3, |craft| attributes(craft, &["user.a\0b"])),
    case("an attribute of a long name", ENTRY_3, |craft| attributes(craft, &[&"u".repeat(256)])),
    case("attributes that no system has", Expects::Harmless, |craft| {
        let names = ["=", "nothing", "security.capability", "security.selinux", "system.posix_acl_access"];
        attributes(craft, &[&names[..], &["system.posix_acl_default", "trusted.overlay.opaque"]].concat());
    }),
    case("an attribute that is a list", ENTRY_3, |craft| {
        let Piece::Data(id, _) = craft.data(b"evil") else { return };
        let value = Content::List(id);
        craft.root(vec![with(file("a"), |meta| meta.xattrs = vec![xattr("user.a", value)])]);
    }),
    case("an attribute with a hole", ENTRY_3, |craft| {
        let value = Content::Pieces(vec![Piece::Hole(1 << 60)]);
        craft.root(vec![with(file("a"), |meta| meta.xattrs = vec![xattr("user.a", value)])]);
    }),
    case("an attribute of more than 16 MiB", ENTRY_3, |craft| {
        let value = Content::Pieces(vec![craft.data(&vec![0; 9 << 20]); 2]);
        craft.root(vec![with(file("a"), |meta| meta.xattrs = vec![xattr("user.a", value)])]);
    }),
    case("a directory above a source that has metadata", ENTRY_1, |craft| {
        let node = craft.tree(vec![]);
        craft.root(vec![entry("a", 0o755, Kind::Implied(node))]);
    }),
    case("something left out that has metadata", ENTRY_1, |craft| {
        craft.root(vec![entry("a", 0o755, Kind::LeftOut(Why::Unreadable, 0))]);
    }),
    case("errors that no system has", Expects::Harmless, |craft| {
        let kind = Kind::LeftOut(Why::Unreadable, u32::MAX);
        craft.root(vec![Entry { meta: Meta::default(), ..entry("a", 0, kind) }]);
    }),
    case("a field that must be understood", Expects::Refused(&["critical field 77"]), |craft| {
        craft.root(vec![Entry { fields: vec![field(77, true)], ..file("a") }]);
    }),
    case("a field twice", Expects::Refused(&["FIELD-1"]), |craft| {
        craft.root(vec![Entry { fields: vec![field(200, false), field(200, false)], ..file("a") }]);
    }),
];

fn field(tag: u32, critical: bool) -> Field {
    Field { tag, critical, value: Bytes::from(b"evil".as_slice()) }
}

/// A file and a folder with attributes of these names.
fn attributes(craft: &mut Craft, names: &[&str]) {
    let attributes: Vec<_> = names.iter().map(|name| xattr(name, inline([2, 0, 0, 0, 9, 9, 9]))).collect();
    let folder = craft.folder("b", vec![]);
    let all = [file("a"), folder, symlink("c", "x"), entry("d", 0o666, Kind::Fifo)];
    craft.root(all.map(|entry| with(entry, |meta| meta.xattrs.clone_from(&attributes))).into());
}
