//! What each stage of a snapshot and of a restore does in a second on one core, beside what the machine does at best.
//!
//! `cargo bench --bench stages` runs them all, `cargo bench --bench stages -- cut` those with that name. The bytes are made from seeds:
//! `text` compresses to about a third, `noise` not at all.

#![expect(clippy::expect_used, reason = "a measurement that cannot go on ends")]
#![expect(clippy::cast_possible_truncation, reason = "numbers are made to fit")]

use std::fs;
use std::hint::black_box;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, LazyLock};

use divan::Bencher;
use divan::counter::{BytesCount, ItemsCount};
use tempfile::TempDir;

use vault::backend::{Backend, LocalFolder};
use vault::backup::{BackupOptions, backup};
use vault::chunk::{Chunker, ChunkerParams, PutChunk};
use vault::error::Result;
use vault::event::{Observer, Silent};
use vault::id::{ChunkId, ChunkKind, IdKeys, PackId, RepositoryId};
use vault::index::Facts;
use vault::pack::{Compression, Compressor, FrameBuilder, Location, PackKind, PackWriter};
use vault::repository::{InitOptions, Repository};
use vault::restore::{RestoreOptions, restore};
use vault::seal::{BoxKey, Keys};
use vault::snapshot::tree::TreeWriter;
use vault::snapshot::{Content, Entry, Kind, Meta, Piece};
use vault::source::{SourceRoot, Step, Walk, WalkOptions};

/// The length of a frame of data.
const FRAME_LEN: usize = 4 << 20;
/// A file of the kernel has about so many bytes.
const FILE_LEN: usize = 16 << 10;
const FILES: usize = 2000;

fn main() {
    divan::main();
}

/// Numbers that look random.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut random = Random(seed);
    let mut bytes: Vec<u8> = (0..len.div_ceil(8)).flat_map(|_| random.next().to_le_bytes()).collect();
    bytes.truncate(len);
    bytes
}

/// Words of a language of 2,000, the first ones the most frequent.
fn text(seed: u64, len: usize) -> Vec<u8> {
    let mut random = Random(0x5eed);
    let letters =
        |random: &mut Random| (0..2 + random.next() % 8).map(|_| b'a' + (random.next() % 26) as u8).collect();
    let words: Vec<Vec<u8>> = (0..2000).map(|_| letters(&mut random)).collect();
    let mut random = Random(seed);
    let mut bytes = Vec::with_capacity(len + 16);
    while bytes.len() < len {
        let place = (random.next() % 2000) * (random.next() % 2000) / 2000;
        bytes.extend_from_slice(&words[place as usize]);
        bytes.push(if random.next().is_multiple_of(12) { b'\n' } else { b' ' });
    }
    bytes.truncate(len);
    bytes
}

static TEXT: LazyLock<Vec<u8>> = LazyLock::new(|| text(1, FRAME_LEN));
static NOISE: LazyLock<Vec<u8>> = LazyLock::new(|| noise(2, FRAME_LEN));

/// A folder in memory, where there is one.
fn folder() -> TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.expect("a folder")
}

/// Files of text in 20 folders.
fn tree() -> TempDir {
    let folder = folder();
    for number in 0..FILES {
        let below = folder.path().join(format!("{:02}", number % 20));
        fs::create_dir_all(&below).expect("a folder");
        fs::write(below.join(format!("{number:04}")), text(number as u64 + 1, FILE_LEN)).expect("a file");
    }
    folder
}

fn bytes(len: usize) -> BytesCount {
    BytesCount::new(len)
}

mod baseline {
    use super::{
        Bencher, FILE_LEN, FILES, FRAME_LEN, ItemsCount, TEXT, black_box, bytes, folder, fs, text, tree,
    };

    #[divan::bench]
    fn memcpy(bencher: Bencher) {
        let mut to = vec![0; FRAME_LEN];
        bencher
            .counter(bytes(FRAME_LEN))
            .bench_local(|| black_box(&mut to).copy_from_slice(black_box(&TEXT)));
    }

    /// Open, read, close.
    #[divan::bench]
    fn read_small_files(bencher: Bencher) {
        let tree = tree();
        let paths: Vec<_> = walkdir::WalkDir::new(tree.path())
            .into_iter()
            .filter_map(|entry| entry.ok().filter(|entry| entry.file_type().is_file()))
            .map(walkdir::DirEntry::into_path)
            .collect();
        bencher
            .counter(bytes(FILES * FILE_LEN))
            .bench_local(|| paths.iter().map(|path| fs::read(path).expect("a file").len()).sum::<usize>());
    }

    /// As `find` does with the size of each.
    #[divan::bench]
    fn find(bencher: Bencher) {
        let tree = tree();
        bencher.counter(ItemsCount::new(FILES)).bench_local(|| {
            walkdir::WalkDir::new(tree.path())
                .into_iter()
                .filter_map(|entry| entry.ok()?.metadata().ok())
                .map(|metadata| metadata.len())
                .sum::<u64>()
        });
    }

    #[divan::bench]
    fn write_small_files(bencher: Bencher) {
        let content = text(1, FILE_LEN);
        bencher.counter(bytes(FILES * FILE_LEN)).with_inputs(folder).bench_local_values(|folder| {
            for number in 0..FILES {
                fs::write(folder.path().join(number.to_string()), &content).expect("a file");
            }
            folder
        });
    }
}

#[divan::bench]
fn walk(bencher: Bencher) {
    let tree = tree();
    let root = SourceRoot::open(tree.path()).expect("a source");
    bencher.counter(ItemsCount::new(FILES)).bench_local(|| {
        let walk = Walk::new(&root, &WalkOptions::default()).expect("a walk");
        walk.filter(|step| matches!(step, Step::Entry(_))).count()
    });
}

/// Through the descriptors of the walk.
#[divan::bench]
fn read(bencher: Bencher) {
    let tree = tree();
    let root = SourceRoot::open(tree.path()).expect("a source");
    let found: Vec<_> = Walk::new(&root, &WalkOptions::default())
        .expect("a walk")
        .filter_map(|step| if let Step::Entry(found) = step { Some(found) } else { None })
        .collect();
    let mut buffer = vec![0; FILE_LEN + 1];
    bencher.counter(bytes(FILES * FILE_LEN)).bench_local(|| {
        let mut read = |file: vault::source::SourceFile| file.read_at(&mut buffer, 0).expect("its bytes");
        found.iter().map(|found| read(found.open().expect("a file"))).sum::<usize>()
    });
}

#[divan::bench]
fn cut(bencher: Bencher) {
    let chunker = Chunker::new(ChunkerParams::default(), None).expect("a chunker");
    bencher.counter(bytes(FRAME_LEN)).bench_local(|| {
        let mut rest = black_box(&NOISE[..]);
        while !rest.is_empty() {
            rest = &rest[chunker.cut(rest)..];
        }
    });
}

#[divan::bench(args = [4 << 10, 16 << 10, 256 << 10])]
fn hash(bencher: Bencher, len: usize) {
    let keys = IdKeys::plain();
    bencher.counter(bytes(FRAME_LEN)).bench_local(|| {
        for chunk in TEXT.chunks(len) {
            black_box(keys.chunk_id(ChunkKind::Data, chunk));
        }
    });
}

/// The chunks of a frame, and their ids.
fn chunks(bytes: &'static [u8]) -> Vec<(ChunkId, &'static [u8])> {
    let keys = IdKeys::plain();
    bytes.chunks(FILE_LEN).map(|chunk| (keys.chunk_id(ChunkKind::Data, chunk), chunk)).collect()
}

fn gather(builder: &mut FrameBuilder, chunks: &[(ChunkId, &[u8])]) {
    for (id, chunk) in chunks {
        builder.push(ChunkKind::Data, *id, chunk);
    }
}

#[divan::bench]
fn gather_frame(bencher: Bencher) {
    let chunks = chunks(&TEXT);
    let mut buffer = Vec::new();
    bencher.counter(bytes(FRAME_LEN)).bench_local(|| {
        let mut builder = FrameBuilder::with_buffer(std::mem::take(&mut buffer));
        gather(&mut builder, &chunks);
        buffer = builder.into_buffer();
        buffer.clear();
    });
}

/// Gathered, compressed, decoded and hashed again.
#[divan::bench(args = ["text", "noise"])]
fn compress_and_verify(bencher: Bencher, what: &str) {
    let chunks = chunks(if what == "text" { &TEXT } else { &NOISE });
    let mut compressor = Compressor::new(Compression::default(), IdKeys::plain()).expect("memory");
    let mut builder = FrameBuilder::default();
    bencher.counter(bytes(FRAME_LEN)).bench_local(|| {
        gather(&mut builder, &chunks);
        compressor.compress(&mut builder).expect("a frame")
    });
}

#[divan::bench]
fn seal(bencher: Bencher) {
    let keys = Keys::from_master(RepositoryId::from_bytes([1; 16]), &[2; 32].into());
    let mut new = keys.new_file(BoxKey::Data, &[0; 40]).expect("a key").expect("an encrypted repository");
    bencher
        .counter(bytes(FRAME_LEN))
        .bench_local(|| new.sealer.seal(&[0; 24], black_box(&NOISE)).expect("sealed"));
}

/// A pack of 16 frames, laid out, hashed, published.
#[divan::bench(args = ["plain", "sealed"])]
fn pack(bencher: Bencher, how: &str) {
    let repository = RepositoryId::from_bytes([1; 16]);
    let keys =
        if how == "plain" { Keys::plain(repository) } else { Keys::from_master(repository, &[2; 32].into()) };
    let mut compressor = Compressor::new(Compression::Off, keys.ids().clone()).expect("memory");
    let mut builder = FrameBuilder::default();
    for chunk in NOISE.chunks(FILE_LEN) {
        builder.push(ChunkKind::Data, keys.ids().chunk_id(ChunkKind::Data, chunk), chunk);
    }
    let frame = compressor.compress(&mut builder).expect("a frame");
    let folder = folder();
    let backend = LocalFolder::new(folder.path().join("r"));
    Repository::init(&backend, &InitOptions::default()).expect("a repository");
    bencher.counter(bytes(16 * FRAME_LEN)).bench_local(|| {
        let mut pack =
            PackWriter::new(&backend, "tmp/pack", PackKind::Data, &keys, (1 << 30, 0)).expect("a pack");
        (0..16).for_each(|_| pack.add(&frame).expect("room"));
        pack.finish().expect("a pack").stored_len
    });
}

/// Facts about 100,000 chunks.
fn facts() -> (Facts, Vec<ChunkId>) {
    let mut random = Random(3);
    let mut id = || ChunkId::from_bytes(std::array::from_fn(|_| random.next() as u8));
    let ids: Vec<ChunkId> = (0..100_000).map(|_| id()).collect();
    let pack = PackId::from_bytes([7; 32]);
    let location = |number: usize| Location {
        pack,
        frame_offset: (number / 256 * 64) as u32,
        frame_stored_len: 1 << 20,
        offset: (number % 256) as u32 * FILE_LEN as u32,
        len: FILE_LEN as u32,
        kind: ChunkKind::Data,
    };
    let mut facts = Facts::default();
    let placed = ids.iter().enumerate().map(|(number, id)| (*id, location(number)));
    facts.add_pack(pack, 64 << 20, PackKind::Data, placed);
    (facts, ids)
}

#[divan::bench]
fn index_insert(bencher: Bencher) {
    bencher.counter(ItemsCount::new(100_000usize)).with_inputs(facts).bench_local_values(|(mut facts, _)| {
        facts.sort();
        facts.encode_segment(&Keys::plain(RepositoryId::from_bytes([1; 16])), &[]).expect("a segment")
    });
}

#[divan::bench]
fn index_lookup(bencher: Bencher) {
    let (mut facts, ids) = facts();
    facts.sort();
    let mut found = Vec::new();
    bencher.counter(ItemsCount::new(ids.len())).bench_local(|| {
        for id in &ids {
            found.clear();
            facts.find(black_box(id), &mut found);
        }
        found.len()
    });
}

/// Takes chunks and keeps nothing of them but their names.
struct Nowhere(IdKeys);

impl PutChunk for Nowhere {
    fn put(&self, kind: ChunkKind, plain: &[u8]) -> Result<ChunkId> {
        Ok(self.0.chunk_id(kind, plain))
    }
}

#[divan::bench]
fn encode_tree(bencher: Bencher) {
    let nowhere = Nowhere(IdKeys::plain());
    let piece = Piece::Data(ChunkId::from_bytes([1; 32]), FILE_LEN as u32);
    let entry = |number: usize| Entry {
        name: format!("{number:06}").into_bytes().into(),
        kind: Kind::File(FILE_LEN as u64, Content::Pieces(vec![piece])),
        meta: Meta { mode: 0o644, ..Meta::default() },
        fields: Vec::new(),
    };
    let entries: Vec<Entry> = (0..10_000).map(entry).collect();
    bencher.counter(ItemsCount::new(entries.len())).bench_local(|| {
        let mut tree = TreeWriter::new(&nowhere);
        for entry in &entries {
            tree.push(entry).expect("room");
        }
        tree.finish().expect("a tree")
    });
}

fn quiet() -> Arc<dyn Observer> {
    Arc::new(Silent)
}

fn saved(folder: &TempDir) -> (Arc<dyn Backend>, TempDir) {
    let source = tree();
    let backend: Arc<dyn Backend> = Arc::new(LocalFolder::new(folder.path().join("r")));
    Repository::init(&*backend, &InitOptions::default()).expect("a repository");
    (backend, source)
}

/// All of it, on all cores: 2,000 files into a new repository.
#[divan::bench(sample_count = 10)]
fn whole_snapshot(bencher: Bencher) {
    bencher
        .counter(bytes(FILES * FILE_LEN))
        .with_inputs(|| {
            let folder = folder();
            (saved(&folder), folder)
        })
        .bench_local_values(|((backend, source), folder)| {
            let repository = Repository::open(backend).expect("a repository");
            let options = BackupOptions::new(vec![source.path().to_owned()]);
            backup(&repository, options, &quiet(), &AtomicBool::new(false)).expect("a snapshot");
            (source, folder)
        });
}

#[divan::bench(sample_count = 10)]
fn whole_restore(bencher: Bencher) {
    let folder = folder();
    let (backend, source) = saved(&folder);
    let repository = Repository::open(backend).expect("a repository");
    let mut options = BackupOptions::new(vec![source.path().to_owned()]);
    options.as_path = Some(b"s".to_vec());
    let stop = AtomicBool::new(false);
    let summary = backup(&repository, options, &quiet(), &stop).expect("a snapshot");
    let snapshot = repository.snapshot(&summary.snapshot.expect("it was written")).expect("a snapshot");
    let reader = repository.reader().expect("a reader");
    bencher.counter(bytes(FILES * FILE_LEN)).with_inputs(self::folder).bench_local_values(|target| {
        let path = target.path().join("t");
        restore(&reader, &snapshot, b"s", &path, &RestoreOptions::default(), &Silent, &stop).expect("files");
        target
    });
}
