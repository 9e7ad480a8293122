//! What a run leaves in the packs: small files share frames, noise is stored raw, long files have list nodes, and a change in a
//! large directory rewrites one node of each level.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use vault::backend::LocalFolder;
use vault::pack::{Directory, PackFile, PackKind};
use vault::snapshot::tree::{Entries, decode_node};
use vault::snapshot::{Content, Entry, Kind, TreeNode, counter};

use super::{new_repository, noise, options, save};
use crate::support::repository::{self, is_encrypted};
use crate::support::scratch::Scratch;
use vault::chunk::{GetChunk, PutChunk};
use vault::event::Silent;
use vault::id::{ChunkId, ChunkKind};
use vault::repository::WriteOptions;

/// The directories of all packs of one kind.
fn directories(place: &Path, kind: PackKind) -> Vec<Directory> {
    let repository = repository::open(Arc::new(LocalFolder::new(place))).unwrap();
    let packs = repository.listed_packs().unwrap();
    let files =
        packs.keys().map(|pack| PackFile::open(&**repository.backend(), *pack, repository.keys()).unwrap());
    files.filter(|file| file.kind() == kind).map(|file| file.directory().unwrap()).collect()
}

/// The entry at a path of the newest snapshot.
fn entry(place: &Path, path: &[&str]) -> Entry {
    let repository = repository::open(Arc::new(LocalFolder::new(place))).unwrap();
    let reader = repository.reader().unwrap();
    let (_, snapshot) = repository.snapshots().unwrap().pop().unwrap();
    path.iter().fold(snapshot.unwrap().root, |folder, name| {
        let mut entries = Entries::new(&reader, folder.kind.directory().unwrap()).map(|entry| entry.unwrap());
        entries.find(|entry| *entry.name == *name.as_bytes()).unwrap()
    })
}

fn saved(scratch: &Scratch, place: &Path) -> u64 {
    let mut options = options(&[scratch.join("s")]);
    options.as_path = Some(b"s".to_vec());
    options.pack_len = 64 << 20;
    let summary = save(Arc::new(LocalFolder::new(place)), options).unwrap();
    assert_eq!(summary.errors, 0);
    summary.counter(counter::CHUNKS_ADDED)
}

#[test]
fn many_small_files_share_frames() {
    let scratch = Scratch::new();
    scratch.dir("s");
    for number in 0..600 {
        fs::write(scratch.join(format!("s/{number}")), noise(number, 4000)).unwrap();
    }
    let place = new_repository(&scratch);
    saved(&scratch, &place);
    let data = directories(&place, PackKind::Data);
    let chunks: usize = data.iter().map(|pack| pack.chunks.len()).sum();
    let frames: usize = data.iter().map(|pack| pack.frames.len()).sum();
    // 2.4 MB in frames of 2 MiB; each reading thread may leave one that is not full.
    let threads = std::thread::available_parallelism().unwrap().get();
    assert_eq!(chunks, 600);
    assert!(frames <= 2 + threads, "{frames} frames");
}

#[test]
fn what_does_not_compress_is_stored_raw_and_the_rest_is_not() {
    for (content, codec) in [(noise(1, 3_000_000), 0), (b"all the same ".repeat(250_000), 1)] {
        let scratch = Scratch::new();
        scratch.dir("s");
        fs::write(scratch.join("s/file"), &content).unwrap();
        let place = new_repository(&scratch);
        saved(&scratch, &place);
        let data = directories(&place, PackKind::Data);
        let frames: Vec<_> = data.iter().flat_map(|pack| &pack.frames).collect();
        assert!(!frames.is_empty() && frames.iter().all(|frame| frame.codec == codec), "{frames:?}");
        let tag_len = if is_encrypted() { 16 } else { 0 };
        assert!(codec == 1 || frames.iter().all(|frame| frame.stored_len == frame.plain_len + tag_len));
    }
}

#[test]
fn frames_lie_in_packs_in_the_order_in_which_they_were_gathered_however_long_each_takes() {
    const ROUNDS: u64 = 40;
    let scratch = Scratch::new();
    let place = new_repository(&scratch);
    let repository = repository::open(Arc::new(LocalFolder::new(&place))).unwrap();
    for round in 0..ROUNDS {
        let options = WriteOptions { pack_len: 256 << 10, ..WriteOptions::new(Arc::new(Silent)) };
        let mut writer = repository.writer(&options).unwrap();
        // The first one fills a pack. Another thread has the second one ready long before it.
        writer.put(ChunkKind::Data, &noise(round, 400_000)).unwrap();
        writer.put(ChunkKind::Data, &noise(round + ROUNDS, 100)).unwrap();
        writer.finish().unwrap();
    }
    let data = directories(&place, PackKind::Data);
    let frames: Vec<usize> = data.iter().map(|pack| pack.frames.len()).collect();
    assert!(frames.len() as u64 == 2 * ROUNDS && frames.iter().all(|count| *count == 1), "{frames:?}");
}

#[test]
fn pack_1_a_pack_of_very_many_short_chunks_is_closed_before_its_directory_takes_much() {
    let scratch = Scratch::new();
    let place = new_repository(&scratch);
    let repository = repository::open(Arc::new(LocalFolder::new(&place))).unwrap();
    let mut writer = repository.writer(&WriteOptions::new(Arc::new(Silent))).unwrap();
    for number in 0..200_000_u32 {
        writer.put(ChunkKind::Tree, &number.to_le_bytes()).unwrap();
    }
    writer.finish().unwrap();
    let trees = directories(&place, PackKind::Tree);
    let mut counts: Vec<usize> = trees.iter().map(|pack| pack.chunks.len()).collect();
    counts.sort_unstable();
    assert_eq!(counts.iter().sum::<usize>(), 200_000);
    // No frame has more than 13,107.
    assert!(counts.len() == 2 && (131_072..131_072 + 13_107).contains(&counts[1]), "{counts:?}");
}

#[test]
fn trees_lie_in_packs_of_their_own() {
    let scratch = Scratch::new();
    scratch.dir("s/inner");
    fs::write(scratch.join("s/inner/file"), noise(1, 300_000)).unwrap();
    let place = new_repository(&scratch);
    saved(&scratch, &place);
    let kinds = |kind| {
        let chunks = directories(&place, kind).into_iter().flat_map(|pack| pack.chunks);
        chunks.map(|(_, _, chunk)| chunk.kind).collect::<Vec<_>>()
    };
    assert!(kinds(PackKind::Data).iter().all(|kind| *kind == ChunkKind::Data));
    assert_eq!(kinds(PackKind::Tree), [ChunkKind::Tree; 3], "root, folder, folder in it");
}

#[test]
fn a_long_file_has_a_list_of_its_own_and_a_shorter_one_none() {
    let scratch = Scratch::new();
    scratch.dir("s");
    fs::write(scratch.join("s/long"), noise(1, 20 << 20)).unwrap();
    fs::write(scratch.join("s/short"), noise(2, 1 << 20)).unwrap();
    let place = new_repository(&scratch);
    saved(&scratch, &place);
    let content = |name| match entry(&place, &["s", name]).kind {
        Kind::File(_, content) => content,
        other => panic!("{other:?}"),
    };
    assert!(matches!(content("long"), Content::List(_)));
    assert!(matches!(content("short"), Content::Pieces(pieces) if pieces.len() <= 8));
    assert_eq!(super::read_all(&place), 1);
}

#[test]
fn one_change_in_a_large_directory_rewrites_one_node_of_each_level() {
    let scratch = Scratch::new();
    scratch.dir("s/large");
    for number in 0..6000 {
        fs::write(scratch.join(format!("s/large/a file with a long name, number {number:05}")), "x").unwrap();
    }
    let place = new_repository(&scratch);
    let first = saved(&scratch, &place);
    let leaves = leaves(&place, entry(&place, &["s", "large"]).kind.directory().unwrap());
    assert!(leaves > 10, "it is split: {leaves} leaves");
    assert!(first >= leaves);
    fs::write(scratch.join("s/large/a file with a long name, number 03000"), "y").unwrap();
    // Without local state all is read again, so nothing but the content tells what is new.
    let second = saved(&scratch, &place);
    assert_eq!(second, 4, "root, `s`, the branch that is the root of `large`, and one leaf");
}

/// The leaves below a node; the tree is one level high.
fn leaves(place: &Path, node: ChunkId) -> u64 {
    let repository = repository::open(Arc::new(LocalFolder::new(place))).unwrap();
    let bytes = repository.reader().unwrap().get(ChunkKind::Tree, &node).unwrap();
    match decode_node(&bytes).unwrap() {
        TreeNode::Branch(_, children) => children.len() as u64,
        TreeNode::Leaf(_) => 1,
    }
}
