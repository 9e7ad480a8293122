//! First inputs of the targets: the structures of `spec/vectors`, sound ones and ones that break a rule each, and small files made of them.
//! The same every time.

use vault::codec;
use vault::error::Result;
use vault::header::{HEADER_LEN, Magic};
use vault::id::{self, ChunkId, ChunkKind, PackId, SnapshotId};
use vault::index::{FACT_LEN, PackRow, SegmentHeader};
use vault::pack::{Compression, Compressor, FrameBuilder, PackKind, PackWriter, ReadyFrame, pack_file_name};
use vault::repository::{Config, NoticeBody, Work};
use vault::snapshot::{ListChild, ListNode, Piece, Time, TreeChild, TreeNode};

use super::fixed::{self, Form, as_part, keys};
use super::memory::Memory;

const VECTORS: [&str; 2] = [
    include_str!("../../../spec/vectors/v1/structures.txt"),
    include_str!("../../../spec/vectors/v1/invalid.txt"),
];

type Seeds = Vec<Vec<u8>>;

/// The structures of a kind, sound ones first.
fn structures(kind: &str) -> Seeds {
    let lines = VECTORS.iter().flat_map(|text| text.lines());
    let of_kind = lines.filter_map(|line| line.strip_prefix(kind)?.strip_prefix(' ')?.split_once(": "));
    of_kind.map(|(_, hex)| bytes_of(hex)).collect()
}

fn bytes_of(hex: &str) -> Vec<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let pairs = hex.as_bytes().as_chunks::<2>().0.iter();
    pairs.filter_map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?)).collect()
}

/// Inputs of a mode.
fn of(mode: u8, parts: &[&[u8]]) -> Vec<u8> {
    [&[mode][..], &parts.concat()].concat()
}

#[must_use]
pub fn config() -> Seeds {
    let plain = codec::encode(&fixed::config(false));
    let sealed = codec::encode(&fixed::config(true));
    let mut seeds = vec![of(0, &[&fixed::config(true).encode(fixed::ID)]), of(3, &[&sealed])];
    for body in structures("Config") {
        let of_vector = codec::decode::<Config>(&body).map(|config| config.encode(fixed::ID));
        seeds.push(of(0, &[&of_vector.unwrap_or_default()]));
        seeds.extend([of(1, &[&body]), of(2, &[&as_part(&body), &plain]), of(3, &[&body])]);
    }
    seeds.extend(structures("CopyInfo").iter().map(|body| of(4, &[body])));
    seeds
}

#[must_use]
pub fn key() -> Seeds {
    let (outer, body) = (fixed::key_outer(), fixed::key_body());
    let (encoded, file) = (codec::encode(&outer), fixed::key_file(outer, &body).unwrap_or_default());
    vec![
        of(1, &[&file]),
        of(2, &[&as_part(&encoded), &body]),
        of(2, &[&as_part(&encoded), &body[..33]]),
        of(0, &[b"VAULT-RECOVERY-1-UO5P-PTXH-YRZM-ZGPD-ZVTJ-UASJ-RGZ3-6MIF-4VFZ-ZN35-KKUD-3D5T-O2XU-BO3M"]),
    ]
}

#[must_use]
pub fn snapshot() -> Seeds {
    let mut seeds = Seeds::new();
    for body in structures("Snapshot") {
        let file = Form::Structure.object(Magic::Snapshot, false, (&[], &body));
        let padded = vault::seal::pad_body(&body);
        seeds.extend([of(2, &[&body]), of(6, &[&body]), of(5, &[&padded]), of(0, &[&file])]);
    }
    seeds
}

#[must_use]
pub fn record() -> Seeds {
    let mut seeds = Seeds::new();
    for (outer, body) in structures("RecordOuter").iter().zip(structures("RecordBody").iter().cycle()) {
        let file = Form::Structure.object(Magic::Record, false, (outer, body));
        seeds.extend([2, 6].map(|mode| of(mode, &[&as_part(outer), body])));
        seeds.extend([of(5, &[&as_part(outer), &vault::seal::pad_body(body)]), of(0, &[&file])]);
    }
    let notice = codec::encode(&NoticeBody {
        work: Work::Pruning,
        created: Time { secs: 1_700_000_000, nanos: 3 },
        packs: [1, 2, 9].map(|byte| PackId::from_bytes([byte; 32])).into(),
        snapshots: [3, 200].map(|byte| SnapshotId::from_bytes([byte; 32])).into(),
        fields: Vec::new(),
    });
    let file = Form::Structure.object(Magic::Session, false, (&[], &notice));
    seeds.extend([of(9, &[&notice]), of(11, &[&notice]), of(15, &[&notice]), of(8, &[&file])]);
    seeds
}

#[must_use]
pub fn tree() -> Seeds {
    let mut seeds: Seeds = structures("TreeNode").iter().map(|node| of(0, &[node])).collect();
    // Each entry as the only one of a node.
    let entries = structures("Entry");
    seeds.extend(entries.iter().map(|entry| of(0, &[&[0, 1], entry])));
    let child = |first: &[u8], entries, node| {
        let mut id = [0; 32];
        id[0] = node;
        TreeChild { first: first.into(), entries, node: ChunkId::from_bytes(id) }
    };
    let sound = |from: usize, to: usize| {
        [&[0, u8::try_from(to - from).unwrap_or(0)][..], &entries[from..to].concat()].concat()
    };
    // The names of the vectors ascend from the second to the seventh of them.
    let name = |at: usize| entries[at][1..=usize::from(entries[at][0])].to_vec();
    let root = codec::encode(&TreeNode::Branch(1, vec![child(&name(0), 2, 1), child(&name(2), 3, 2)]));
    seeds.push(of(1, &[&as_part(&root), &as_part(&sound(0, 2)), &as_part(&sound(2, 5))]));
    let top = codec::encode(&TreeNode::Branch(2, vec![child(&name(0), 5, 1)]));
    let below = codec::encode(&TreeNode::Branch(1, vec![child(&name(0), 2, 2), child(&name(2), 3, 3)]));
    let nodes = [top, below, sound(0, 2), sound(2, 5)].map(|node| as_part(&node)).concat();
    seeds.push(of(1, &[&nodes]));
    seeds
}

#[must_use]
pub fn list() -> Seeds {
    let mut seeds: Seeds = structures("ListNode").iter().map(|node| of(0, &[node])).collect();
    let child = |len, node| {
        let mut id = [0; 32];
        id[0] = node;
        ListChild { len, node: ChunkId::from_bytes(id) }
    };
    let leaf = codec::encode(&ListNode::Leaf(vec![
        Piece::Data(ChunkId::from_bytes([1; 32]), 100),
        Piece::Hole(1 << 40),
        Piece::Data(ChunkId::from_bytes([2; 32]), 1 << 20),
    ]));
    let len = 100 + (1 << 40) + (1 << 20);
    let branch = codec::encode(&ListNode::Branch(1, vec![child(len, 2), child(len, 2)]));
    let top = codec::encode(&ListNode::Branch(2, vec![child(2 * len, 1), child(2 * len, 1)]));
    let nodes = [&top, &branch, &leaf].map(|node| as_part(node)).concat();
    seeds.push(of(1, &[&(4 * len).to_le_bytes(), &nodes]));
    seeds.push(of(1, &[&len.to_le_bytes(), &as_part(&leaf)]));
    seeds
}

/// The chunks of two frames of each kind of pack.
fn chunks() -> [(ChunkKind, Vec<u8>); 5] {
    let noise: Vec<u8> = (0..4u8).flat_map(|number| id::hash(&[number])).collect();
    [
        (ChunkKind::Data, b"one".to_vec()),
        (ChunkKind::Data, noise),
        (ChunkKind::Data, vec![8; 1000]),
        (ChunkKind::Tree, structures("TreeNode").swap_remove(1)),
        (ChunkKind::List, structures("ListNode").swap_remove(0)),
    ]
}

#[must_use]
pub fn frame() -> Seeds {
    let mut seeds = Seeds::new();
    let all = chunks();
    for (some, kind) in [(&all[..2], 8), (&all[2..3], 8), (&all[3..], 16), (&all[..], 0)] {
        let count = u32::try_from(some.len()).unwrap_or(0).to_le_bytes();
        let row = |chunk: &(ChunkKind, Vec<u8>)| {
            let len = u32::try_from(chunk.1.len()).unwrap_or(0).to_le_bytes();
            [&[chunk.0.number()][..], &len].concat()
        };
        let rows: Vec<u8> = some.iter().flat_map(row).collect();
        let bytes: Vec<u8> = some.iter().flat_map(|chunk| chunk.1.clone()).collect();
        let plain = [&count[..], &rows, &bytes].concat();
        seeds.extend([1, 2, 5, 6].map(|mode| of(mode + kind, &[&plain])));
        let stored = zstd::bulk::compress(&plain, 3).unwrap_or_default();
        for (codec, stored) in [(0, &plain), (1, &stored)] {
            let len = |len: usize| u32::try_from(len).unwrap_or(0).to_le_bytes();
            let lens = [len(plain.len()), len(stored.len()), [0; 4]].concat();
            let head = [&b"VFRM\0\0\0\0"[..], &[codec, 0, 0, 0], &lens].concat();
            seeds.extend([0, 4].map(|mode| of(mode + kind, &[&head, stored])));
        }
    }
    seeds
}

/// Plain packs, of data and of nodes.
fn packs() -> Seeds {
    let [one, noise, zeros, node, list] = chunks();
    let made = [
        (PackKind::Data, vec![vec![one.clone(), noise], vec![zeros]]),
        (PackKind::Data, vec![vec![one]]),
        (PackKind::Tree, vec![vec![node.clone(), list], vec![node]]),
    ];
    made.into_iter().map(|(kind, frames)| pack_of(kind, &frames).unwrap_or_default()).collect()
}

fn pack_of(kind: PackKind, frames: &[Vec<(ChunkKind, Vec<u8>)>]) -> Result<Vec<u8>> {
    let (medium, keys) = (Memory::default(), keys(false));
    let mut pack = PackWriter::new(&medium, "tmp/pack", kind, keys, (1 << 20, 0))?;
    for chunks in frames {
        pack.add(&frame_of(chunks))?;
    }
    let finished = pack.finish()?;
    Ok(medium.get(&pack_file_name(&finished.id)).unwrap_or_default().to_vec())
}

fn frame_of(chunks: &[(ChunkKind, Vec<u8>)]) -> ReadyFrame {
    let (mut builder, ids) = (FrameBuilder::default(), keys(false).ids());
    for (kind, bytes) in chunks {
        builder.push(*kind, ids.chunk_id(*kind, bytes), bytes);
    }
    let compressor = Compressor::new(Compression::Level(3), ids.clone());
    let made = compressor.and_then(|mut compressor| compressor.compress(&mut builder));
    made.unwrap_or_else(|error| panic!("{error}"))
}

#[must_use]
pub fn pack() -> Seeds {
    packs().iter().flat_map(|pack| [2, 6, 0, 4, 1].map(|mode| of(mode, &[pack]))).collect()
}

#[must_use]
pub fn segment() -> Seeds {
    let fact = |id: u8, pack: u8, at: u8| {
        let mut fact = [0; FACT_LEN];
        fact[..32].fill(id);
        (fact[32], fact[33], fact[37], fact[41], fact[45], fact[49]) = (1, pack, 192, 64, at, 9);
        fact
    };
    let row = |byte: u8| PackRow { pack: PackId::from_bytes([byte; 32]), stored_len: 3000, kind: 1 };
    let one = (vec![row(1)], vec![fact(3, 0, 4), fact(9, 0, 13)]);
    let three =
        (vec![row(1), row(7), row(8)], vec![fact(3, 0, 4), fact(3, 1, 4), fact(3, 1, 50), fact(200, 2, 0)]);
    let mut seeds = Seeds::new();
    for (packs, facts) in [one, three] {
        let first_ids = vec![ChunkId::from_bytes([3; 32])];
        let fact_count = facts.len() as u64;
        let body = codec::encode(&SegmentHeader { packs, fact_count, first_ids, fields: Vec::new() });
        let facts = facts.concat();
        seeds.extend([2, 6].map(|mode| of(mode, &[&as_part(&body), &facts])));
        seeds.push(of(14, &[&as_part(&vault::seal::pad_body(&body)), &facts]));
        let header = vault::header::object_header(fixed::ID, vault::header::Seal::Plain, &[], body.len());
        let file = [&header.encode(Magic::Segment)[..], &body, &[0; 16], &facts, &[0; 16]].concat();
        seeds.push(of(0, &[&file]));
    }
    let short: Vec<u8> = (0..90u8).flat_map(|number| [number.wrapping_mul(37), number % 7]).collect();
    seeds.extend([of(1, &[&short]), of(5, &[&short]), of(1, &[&short[..6]]), of(1, &[])]);
    seeds
}

#[must_use]
pub fn parity() -> Seeds {
    let mut seeds = Seeds::new();
    for pack in 0..8u8 {
        // One byte of the pack; that and two of the parity; a pack that is gone; one that is cut off.
        seeds.push(vec![pack << 4, 1, 3, 0, 0x80]);
        seeds.push(vec![pack << 4, 1, 90, 0, 1, 250, 1, 7, 250, 1, 9]);
        seeds.push(vec![pack << 4 | 8, 0]);
        seeds.push(vec![pack << 4, 1, 200, 1, 0]);
    }
    for vector in include_str!("../../../spec/vectors/v1/parity.txt").lines() {
        let whole = vector.rsplit(' ').next().map(bytes_of).unwrap_or_default();
        if whole.len() > HEADER_LEN {
            seeds.push(of(1, &[&[0], &whole]));
        }
    }
    seeds
}

#[must_use]
pub fn text() -> Seeds {
    let mut seeds = Seeds::new();
    let lists = [
        ("*.o\n!keep.o\n/a/b", "a/b/keep.o"),
        ("/home/*/.cache\n/srv/**/y\nbuild/", "home/me/.cache"),
        ("[!a-c]?\n*.{jpg,PNG}\nfoo/**\n\\#x", "x/foo/a/d.png"),
        ("# no pattern\n/a/{b/c,d}\n!/a/d/\n\\!x", "a/b/c"),
        ("Ärger*\n/ÄB/?c", "äb/xc"),
        ("/home/ann\n!*.o\n**", "home/ann/x.o"),
    ];
    for (patterns, path) in lists {
        seeds.extend([0, 4].map(|mode| of(mode, &[&as_part(patterns.as_bytes()), path.as_bytes()])));
    }
    for word in [
        "1y5m7d2h",
        "0",
        "1.5G",
        "64KiB",
        "17",
        "2 M",
        "0.001k",
        "10M/s",
        "12.5%",
        "3/7",
        "latest",
        "best",
        "19",
        "2026-11-20",
        "2026-11-20 14:10:00",
        "1969-12-31T23:59:59.5Z",
        ".nobackup:a",
        "18014398509481983k",
    ] {
        seeds.push(of(1, &[word.as_bytes()]));
    }
    let start = |day: i32| (1_700_000_000 + day * 40_000).to_le_bytes();
    let snapshots: Vec<u8> =
        (0..20).flat_map(|day| [&start(day)[..], &[0, 14, 0, 0, 5, 0]].concat()).collect();
    let rules = [2, 7, 0, 0, 4, 12, 0, 0, 0, 3, 0, 0, 130, 1, 2, 3, 1, 0, 0, 0];
    seeds.push(of(2, &[&as_part(&rules), &snapshots]));
    seeds.extend([&b"/a//b/../c/./d"[..], b"../..", b"a b/..c"].map(|path| of(3, &[path])));
    seeds
}

/// Steps as `whole` has them.
#[must_use]
pub fn repository() -> Seeds {
    let (put, save, forget, unforget, prune, restore) = (0, 3, 6, 7, 8, 9);
    let (damage, fault, mirror, heal, other, verify) = (10, 11, 12, 13, 14, 15);
    let fill = [
        [put, 0, 2, 200],
        [put, 1, 1, 255],
        [put, 5, 3, 100],
        [put, 2, 0, 40],
        [put, 9, 6, 8],
        [save, 0, 0, 0],
        [put, 0, 7, 200],
        [2, 5, 0, 0],
        [save, 0, 0, 0],
    ];
    let scenes: [&[[u8; 4]]; 10] = [
        &[[verify, 0, 0, 0], [restore, 0, 0, 0], [restore, 1, 0, 0]],
        &[[forget, 0, 0, 0], [prune, 0, 0, 0], [verify, 0, 0, 0], [unforget, 0, 0, 0]],
        &[[forget, 1, 0, 0], [unforget, 1, 0, 0], [prune, 4, 0, 0], [restore, 1, 0, 0]],
        &[[5, 0, 2, 255], [5, 0, 1, 40], [forget, 0, 0, 0], [prune, 2, 0, 0]],
        &[[fault, 5, 1, 4], [put, 3, 9, 200], [save, 0, 0, 0], [save, 0, 0, 0]],
        &[[fault, 5, 2, 0], [forget, 0, 0, 0], [fault, 6, 0, 0], [prune, 0, 0, 0], [prune, 0, 0, 0]],
        &[[mirror, 0, 0, 0], [damage, 120, 0, 128], [verify, 0, 0, 0], [heal, 0, 0, 0]],
        &[[other, 0, 0, 0], [damage, 160, 2, 90], [other, 2, 0, 0], [restore, 0, 0, 0]],
        &[[damage, 100, 1, 200], [restore, 0, 0, 0], [other, 1, 0, 0], [save, 0, 0, 0], [prune, 0, 0, 0]],
        &[[mirror, 0, 0, 0], [fault, 2, 9, 4], [mirror, 0, 0, 0], [damage, 140, 4, 0], [heal, 0, 0, 0]],
    ];
    let seed = |mode: u8, scene: &[[u8; 4]]| of(mode, &[&fill.concat(), &scene.concat()]);
    scenes.iter().flat_map(|scene| [0, 1, 3].map(|mode| seed(mode, scene))).collect()
}
