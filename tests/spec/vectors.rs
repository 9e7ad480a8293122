//! `spec/vectors/v1`: structures, valid and not, and cuts.

use std::fmt::Write as _;
use std::fs;

use serde::Serialize;
use serde::de::DeserializeOwned;
use vault::chunk::{Chunker, ChunkerParams};
use vault::codec::{self, Bytes};
use vault::error::Corruption;
use vault::id::{ChunkId, CopyId, LinkGroup, SnapshotId};
use vault::repository::{Config, CopyInfo, RecordBody, RecordOuter, Scope};
use vault::snapshot::{
    Content, Entry, Field, How, Kind, ListChild, ListNode, Meta, Piece, Snapshot, Source, State, Time,
    TreeChild, TreeNode, Why, Xattr, list, tree,
};

use super::{bless, package, text};

const STRUCTURES: &str = "spec/vectors/v1/structures.txt";
const INVALID: &str = "spec/vectors/v1/invalid.txt";

pub fn bytes(value: &[u8]) -> Bytes {
    value.into()
}

fn chunk(byte: u8) -> ChunkId {
    ChunkId::from_bytes([byte; 32])
}

fn entry(name: &[u8], kind: Kind) -> Entry {
    let meta = match kind {
        Kind::Implied(_) | Kind::LeftOut(..) => Meta::default(),
        _ => Meta {
            mode: 0o644,
            uid: 1000,
            gid: 100,
            mtime: Time { secs: 1_700_000_000, nanos: 123_456_789 },
            ..Meta::default()
        },
    };
    Entry { name: bytes(name), kind, meta, fields: Vec::new() }
}

/// One of each kind, and what is rare.
fn entries() -> Vec<(&'static str, Entry)> {
    let pieces = vec![Piece::Data(chunk(1), 65_536), Piece::Hole(1 << 40), Piece::Data(chunk(2), 1)];
    let size = pieces.iter().map(Piece::len).sum();
    let mut all = vec![
        ("directory", entry(b"d", Kind::Directory(chunk(7)))),
        ("file_empty", entry(b"e", Kind::File(0, Content::Inline(bytes(b""))))),
        ("file_inline", entry(b"f", Kind::File(3, Content::Inline(bytes(b"abc"))))),
        ("file_pieces_and_a_hole", entry(b"g", Kind::File(size, Content::Pieces(pieces)))),
        ("file_list", entry(b"h", Kind::File(u64::MAX, Content::List(chunk(3))))),
        ("symlink_not_utf8", entry(b"\xff\xfe name", Kind::Symlink(bytes(b"../\xff")))),
        ("fifo", entry(b"i", Kind::Fifo)),
        ("socket", entry(b"j", Kind::Socket)),
        ("block_device", entry(b"k", Kind::BlockDevice(8, 250))),
        ("character_device", entry(b"l", Kind::CharDevice(251, 1_048_575))),
        ("implied", entry(b"m", Kind::Implied(chunk(9)))),
        ("left_out_unreadable", entry(b"n", Kind::LeftOut(Why::Unreadable, 13))),
        ("left_out_unsupported", entry(b"o", Kind::LeftOut(Why::Unsupported, 0))),
    ];
    let mut times = entry(b"before 1970 and far beyond", Kind::Fifo);
    times.meta.mtime = Time { secs: -1, nanos: 999_999_999 };
    times.meta.btime = Some(Time { secs: i64::MAX, nanos: 0 });
    all.push(("times", times));
    let mut least = entry(b"p", Kind::Fifo);
    least.meta.mtime = Time { secs: i64::MIN, nanos: 0 };
    all.push(("time_least", least));
    let mut rich = entry(b"q", Kind::File(1, Content::Inline(bytes(b"x"))));
    rich.meta.mode = 0o7777;
    rich.meta.uid = u32::MAX;
    rich.meta.xattrs = vec![
        Xattr { name: bytes(b"security.capability"), value: Content::Inline(bytes(&[1, 0, 0, 2])) },
        Xattr { name: bytes(b"user.long"), value: Content::Pieces(vec![Piece::Data(chunk(4), 5000)]) },
    ];
    rich.meta.link_group = Some(LinkGroup::from_bytes([5; 16]));
    rich.fields = vec![
        Field { tag: 1, critical: false, value: bytes(b"") },
        Field { tag: 65_536, critical: false, value: bytes(b"unknown, kept") },
    ];
    all.push(("everything", rich));
    all
}

fn snapshot() -> Snapshot {
    Snapshot {
        state: State::Complete,
        root: Entry { name: bytes(b""), ..entry(b"", Kind::Implied(chunk(6))) },
        notes: Some(chunk(8)),
        sources: vec![Source {
            origin: "host".into(),
            given: bytes(b"./me"),
            resolved: bytes(b"/home/me"),
            stored_at: bytes(b"home/me"),
            carried: vec![(bytes(b"home/me/x"), SnapshotId::from_bytes([1; 32]))],
            users: vec![(0, bytes(b"root")), (1000, bytes(b"me"))],
            groups: vec![(100, bytes(b"users"))],
        }],
        label: "home".into(),
        tags: vec!["a".into(), "ü".into()],
        description: String::new(),
        host: "host".into(),
        host_id: [3; 16],
        user: "me".into(),
        program: "vault 0.1.0".into(),
        start: Time { secs: 1_800_000_000, nanos: 5 },
        end: Time { secs: 1_800_000_060, nanos: 0 },
        utc_offset_secs: -12_600,
        predecessor: Some(SnapshotId::from_bytes([2; 32])),
        made_from: vec![(How::Repair, SnapshotId::from_bytes([4; 32]))],
        counters: vec![(1, 250), (2, 251), (3, 65_535), (4, 65_536), (5, u64::from(u32::MAX)), (6, 1 << 32)],
        fields: Vec::new(),
    }
}

fn tree_nodes() -> Vec<(&'static str, TreeNode)> {
    let child = |first: &[u8], entries| TreeChild { first: bytes(first), entries, node: chunk(1) };
    vec![
        ("leaf_empty", TreeNode::Leaf(Vec::new())),
        ("leaf", TreeNode::Leaf(vec![entry(b"a", Kind::Fifo), entry(b"b", Kind::Socket)])),
        ("branch", TreeNode::Branch(1, vec![child(b"a", 1000), child(b"b\xff", 1)])),
        ("branch_highest", TreeNode::Branch(16, vec![child(b"a", u64::MAX)])),
    ]
}

fn list_nodes() -> Vec<(&'static str, ListNode)> {
    vec![
        ("leaf", ListNode::Leaf(vec![Piece::Hole(300), Piece::Data(chunk(1), 16 << 20)])),
        (
            "branch",
            ListNode::Branch(
                2,
                vec![ListChild { len: 1 << 33, node: chunk(2) }, ListChild { len: 1, node: chunk(3) }],
            ),
        ),
    ]
}

fn lines<T: Serialize>(kind: &str, values: &[(&str, T)], out: &mut String) {
    for (name, value) in values {
        writeln!(out, "{kind} {name}: {}", hex(&codec::encode(value))).unwrap();
    }
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

fn from_hex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

/// Compares `text` with the file, or writes it.
pub fn hold(file: &str, wanted: &str) {
    if bless() {
        fs::write(package().join(file), wanted).unwrap();
    }
    assert_eq!(text(file), wanted, "{file}");
}

#[test]
fn structures_encode_as_the_vectors_say() {
    let mut out = String::new();
    lines("Entry", &entries(), &mut out);
    lines("TreeNode", &tree_nodes(), &mut out);
    lines("ListNode", &list_nodes(), &mut out);
    lines("Snapshot", &[("all_fields", snapshot())], &mut out);
    lines("Chunker", &[("default", ChunkerParams::default())], &mut out);
    let created = Time { secs: 1_800_000_000, nanos: 1 };
    let config =
        Config { version: 1, chunker: ChunkerParams::default(), encryption: 0, created, fields: Vec::new() };
    lines("Config", &[("plain", config)], &mut out);
    let copy = CopyInfo { copy: CopyId::from_bytes([9; 16]), name: "blue drive".into(), fields: Vec::new() };
    lines("CopyInfo", &[("named", copy)], &mut out);
    let record = |scope| RecordOuter { kind: 6, must_understand: true, scope, ids: vec![[1; 32], [2; 32]] };
    let here = Scope::Copy(CopyId::from_bytes([9; 16]));
    lines("RecordOuter", &[("all_copies", record(Scope::AllCopies)), ("one_copy", record(here))], &mut out);
    let body = RecordBody { created, host: "host".into(), reason: "read error".into(), fields: Vec::new() };
    lines("RecordBody", &[("damaged_packs", body)], &mut out);
    hold(STRUCTURES, &out);
}

/// Decodes a structure by the name of its type, checks it, and encodes it again.
fn decode(kind: &str, bytes: &[u8]) -> Result<Vec<u8>, Corruption> {
    fn checked<T: Serialize + DeserializeOwned>(
        bytes: &[u8],
        check: impl Fn(&T) -> Result<(), Corruption>,
    ) -> Result<Vec<u8>, Corruption> {
        let value: T = codec::decode(bytes)?;
        check(&value)?;
        Ok(codec::encode(&value))
    }
    match kind {
        "Entry" => checked(bytes, Entry::validate),
        "Snapshot" => checked(bytes, Snapshot::validate),
        "Chunker" => checked(bytes, ChunkerParams::validate),
        "Config" => checked::<Config>(bytes, |_| Ok(())),
        "CopyInfo" => checked::<CopyInfo>(bytes, |_| Ok(())),
        "RecordOuter" => checked::<RecordOuter>(bytes, |_| Ok(())),
        "RecordBody" => checked::<RecordBody>(bytes, |_| Ok(())),
        "TreeNode" => tree::decode_node(bytes).map(|node| codec::encode(&node)),
        "ListNode" => list::decode_node(bytes).map(|node| codec::encode(&node)),
        _ => panic!("no structure has the name {kind}"),
    }
}

#[test]
fn structures_decode_and_encode_to_the_same_bytes() {
    let text = text(STRUCTURES);
    assert!(text.lines().count() > 20);
    for line in text.lines() {
        let (name, hex) = line.split_once(": ").unwrap();
        let bytes = from_hex(hex);
        assert_eq!(decode(name.split(' ').next().unwrap(), &bytes), Ok(bytes), "{name}");
    }
}

/// Structures that break one rule each: the type, the rule, what is wrong, the bytes.
fn invalid() -> Vec<(&'static str, &'static str, &'static str, Vec<u8>)> {
    let mut all = Vec::new();
    let mut add = |rule, what, change: &dyn Fn(&mut Entry)| {
        let mut entry = entry(b"name", Kind::File(1, Content::Inline(bytes(b"x"))));
        change(&mut entry);
        all.push(("Entry", rule, what, codec::encode(&entry)));
    };
    add("TREE-3", "name_empty", &|entry| entry.name = bytes(b""));
    add("TREE-3", "name_dot_dot", &|entry| entry.name = bytes(b".."));
    add("TREE-3", "name_slash", &|entry| entry.name = bytes(b"a/b"));
    add("TREE-3", "name_nul", &|entry| entry.name = bytes(b"a\0"));
    add("TREE-3", "name_long", &|entry| entry.name = bytes(&[b'a'; 4097]));
    add("ENTRY-1", "mode", &|entry| entry.meta.mode = 0o10000);
    add("ENTRY-1", "left_out_with_mode", &|entry| entry.kind = Kind::LeftOut(Why::Excluded, 0));
    add("ENTRY-2", "target_empty", &|entry| entry.kind = Kind::Symlink(bytes(b"")));
    add("ENTRY-2", "target_nul", &|entry| entry.kind = Kind::Symlink(bytes(b"a\0b")));
    let xattr = |name: &[u8], value| Xattr { name: bytes(name), value };
    let short = || Content::Inline(bytes(b"v"));
    add("ENTRY-3", "xattr_name_empty", &|entry| entry.meta.xattrs = vec![xattr(b"", short())]);
    add("ENTRY-3", "xattr_twice", &|entry| {
        entry.meta.xattrs = vec![xattr(b"a", short()), xattr(b"a", short())];
    });
    add("ENTRY-3", "xattr_hole", &|entry| {
        entry.meta.xattrs = vec![xattr(b"a", Content::Pieces(vec![Piece::Hole(1)]))];
    });
    add("ENTRY-3", "xattr_list", &|entry| entry.meta.xattrs = vec![xattr(b"a", Content::List(chunk(1)))]);
    add("ENTRY-4", "inline_size", &|entry| entry.kind = Kind::File(2, Content::Inline(bytes(b"x"))));
    add("ENTRY-5", "no_pieces", &|entry| entry.kind = Kind::File(0, Content::Pieces(Vec::new())));
    let file = |size, piece| Kind::File(size, Content::Pieces(vec![piece]));
    add("ENTRY-5", "piece_empty", &|entry| entry.kind = file(0, Piece::Hole(0)));
    add("ENTRY-5", "pieces_size", &|entry| entry.kind = file(4, Piece::Hole(5)));
    add("ENTRY-5", "piece_long", &|entry| {
        entry.kind = file((16 << 20) + 1, Piece::Data(chunk(1), (16 << 20) + 1));
    });
    add("ENTRY-5", "pieces_many", &|entry| {
        entry.kind = Kind::File(65, Content::Pieces(vec![Piece::Hole(1); 65]));
    });
    add("ENTRY-5", "pieces_overflow", &|entry| {
        entry.kind = Kind::File(0, Content::Pieces(vec![Piece::Hole(u64::MAX), Piece::Hole(1)]));
    });
    add("TIME-1", "nanos", &|entry| entry.meta.mtime.nanos = 1_000_000_000);
    let field = |tag, critical| Field { tag, critical, value: bytes(b"") };
    add("FIELD-1", "fields_twice", &|entry| entry.fields = vec![field(2, false), field(2, false)]);
    add("FIELD-2", "field_critical", &|entry| entry.fields = vec![field(200, true)]);

    all.extend(invalid_nodes());
    let mut with_name = snapshot();
    with_name.root.name = bytes(b"root");
    all.push(("Snapshot", "SNAP-2", "root_with_name", codec::encode(&with_name)));
    let mut no_folder = snapshot();
    no_folder.root.kind = Kind::Fifo;
    all.push(("Snapshot", "SNAP-2", "root_fifo", codec::encode(&no_folder)));
    let mut above = snapshot();
    above.sources[0].stored_at = bytes(b"home/../etc");
    all.push(("Snapshot", "SNAP-3", "stored_above", codec::encode(&above)));
    let params = ChunkerParams { avg_len: 300_000, ..ChunkerParams::default() };
    all.push(("Chunker", "CUT-1", "average_no_power", codec::encode(&params)));
    let params = ChunkerParams { min_len: 262_144, ..ChunkerParams::default() };
    all.push(("Chunker", "CUT-1", "min_not_below_average", codec::encode(&params)));
    all.extend(misencoded());
    all
}

/// Nodes of directories and lists that break one rule each.
fn invalid_nodes() -> Vec<(&'static str, &'static str, &'static str, Vec<u8>)> {
    let mut all = Vec::new();
    let fifo = |name: &[u8]| entry(name, Kind::Fifo);
    let child = |first: &[u8]| TreeChild { first: bytes(first), entries: 1, node: chunk(1) };
    for (rule, what, node) in [
        ("TREE-1", "descending", TreeNode::Leaf(vec![fifo(b"b"), fifo(b"a")])),
        ("TREE-1", "twice", TreeNode::Leaf(vec![fifo(b"a"), fifo(b"a")])),
        ("TREE-1", "children_descending", TreeNode::Branch(1, vec![child(b"b"), child(b"a")])),
        ("TREE-2", "branch_empty", TreeNode::Branch(1, Vec::new())),
        ("TREE-2", "level_0", TreeNode::Branch(0, vec![child(b"a")])),
        ("TREE-2", "level_17", TreeNode::Branch(17, vec![child(b"a")])),
    ] {
        all.push(("TreeNode", rule, what, codec::encode(&node)));
    }
    for (rule, what, node) in [
        ("LIST-1", "leaf_empty", ListNode::Leaf(Vec::new())),
        ("LIST-1", "branch_empty", ListNode::Branch(1, Vec::new())),
        ("LIST-1", "child_empty", ListNode::Branch(1, vec![ListChild { len: 0, node: chunk(1) }])),
        ("LIST-1", "level_17", ListNode::Branch(17, vec![ListChild { len: 1, node: chunk(1) }])),
    ] {
        all.push(("ListNode", rule, what, codec::encode(&node)));
    }
    all
}

/// Bytes that no structure encodes to.
fn misencoded() -> Vec<(&'static str, &'static str, &'static str, Vec<u8>)> {
    let leaf = codec::encode(&TreeNode::Leaf(Vec::new()));
    vec![
        ("TreeNode", "CODEC-1", "long_form_of_0", vec![0, 251, 0, 0]),
        ("TreeNode", "CODEC-2", "trailing", [leaf.as_slice(), &[0]].concat()),
        ("TreeNode", "CODEC-3", "cut_off", vec![0]),
        ("TreeNode", "CODEC-3", "count_too_large", vec![0, 252, 255, 255, 255, 255]),
        ("TreeNode", "CODEC-3", "variant", vec![2, 0]),
        ("ListNode", "CODEC-3", "integer_form", vec![0, 254, 0, 0, 0, 0]),
    ]
}

fn rule_of(corruption: &Corruption) -> &str {
    match corruption {
        Corruption::NotCanonical => "CODEC-1",
        Corruption::TrailingBytes { .. } => "CODEC-2",
        Corruption::Undecodable { .. } => "CODEC-3",
        Corruption::UnknownField { .. } => "FIELD-2",
        Corruption::Rule { rule, .. } => rule,
        other => panic!("not a rule of a structure: {other:?}"),
    }
}

#[test]
fn invalid_structures_are_refused_for_the_rule_they_break() {
    let mut out = String::new();
    for (kind, rule, what, bytes) in invalid() {
        writeln!(out, "{kind} {rule} {what}: {}", hex(&bytes)).unwrap();
    }
    hold(INVALID, &out);
    for line in out.lines() {
        let (head, hex) = line.split_once(": ").unwrap();
        let words: Vec<&str> = head.split(' ').collect();
        let error = decode(words[0], &from_hex(hex)).expect_err(head);
        assert_eq!(rule_of(&error), words[1], "{head}: {error}");
    }
}

#[test]
fn cut_1_cut_2_cut_3_cut_4_streams_are_cut_as_the_vectors_say() {
    for line in text("spec/vectors/v1/chunking.txt").lines() {
        is_cut_as(line, None);
    }
}

#[test]
fn cut_7_streams_are_cut_as_the_vectors_say_with_a_table_made_from_a_key() {
    for line in text("spec/vectors/v1/chunking_secret.txt").lines() {
        let (key, line) = line.split_once(' ').unwrap();
        is_cut_as(line, Some(&from_hex(key).try_into().unwrap()));
    }
}

/// Cuts the stream of a case, and compares the lengths.
#[track_caller]
fn is_cut_as(line: &str, secret: Option<&[u8; 32]>) {
    let (case, lengths) = line.split_once(": ").unwrap();
    let words: Vec<&str> = case.split(' ').collect();
    let number = |at: usize| words[at].parse::<u64>().unwrap();
    let params = ChunkerParams {
        min_len: words[0].parse().unwrap(),
        avg_len: words[1].parse().unwrap(),
        max_len: words[2].parse().unwrap(),
        normalization: words[3].parse().unwrap(),
    };
    let stream: Vec<u8> = match words[4] {
        "zero" => vec![0; usize::try_from(number(5)).unwrap()],
        "lcg" => lcg(number(5)).take(usize::try_from(number(6)).unwrap()).collect(),
        other => panic!("no stream is called {other}"),
    };
    let chunker = Chunker::new(params, secret).unwrap();
    let (mut rest, mut found) = (stream.as_slice(), Vec::new());
    while !rest.is_empty() {
        let len = chunker.cut(rest);
        found.push(len.to_string());
        rest = &rest[len..];
    }
    assert_eq!(found.join(" "), lengths, "{case}");
}

/// The generator of `chunking.md` §6.
pub fn lcg(seed: u64) -> impl Iterator<Item = u8> {
    let mut x = seed;
    std::iter::repeat_with(move || {
        x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        x.to_be_bytes()[0]
    })
}
