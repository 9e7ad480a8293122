//! Repositories that hold far more than anybody has room for in a test: segments about packs that are nothing but holes. Who asks only
//! whether a chunk is present sees no difference.

use std::fs::{self, File};
use std::path::Path;
use std::sync::Arc;

use vault::backend::LocalFolder;
use vault::chunk::PutChunk;
use vault::codec;
use vault::event::Silent;
use vault::id::{self, ChunkId, ChunkKind, PackId};
use vault::index::Facts;
use vault::pack::{Location, PackKind, pack_file_name};
use vault::repository::WriteOptions;
use vault::snapshot::list::ListWriter;
use vault::snapshot::{Kind, Piece, TreeNode};

use crate::prune::simulator::{entry, snapshot};
use crate::support::repository;
use crate::support::torture::Random;

/// The chunks of a pack: of 256 KiB on average, little compressed.
const CHUNKS: u32 = 256;
const CHUNK_LEN: u32 = 256 << 10;
/// The packs of a segment: as many as it has room for.
const PACKS: usize = 4900;
const PACK_LEN: u64 = 64 << 20;

/// The packs of so many segments, and their chunks, the same each time.
fn packs(segments: usize) -> impl Iterator<Item = (PackId, Vec<ChunkId>)> {
    let mut random = Random(4711);
    let mut id = move || -> [u8; 32] { random.bytes(32).try_into().unwrap() };
    (0..segments * PACKS).map(move |_| {
        let pack = PackId::from_bytes(id());
        (pack, (0..CHUNKS).map(|_| ChunkId::from_bytes(id())).collect())
    })
}

/// Adds so many full segments, of 1.25 million chunks each, with their packs. Returns how many chunks that are.
pub fn crowd(place: &Path, segments: usize) -> u64 {
    let repository = repository::open(Arc::new(LocalFolder::new(place))).unwrap();
    let mut packs = packs(segments).peekable();
    let mut count = 0;
    while packs.peek().is_some() {
        let mut facts = Facts::default();
        for (pack, chunks) in packs.by_ref().take(PACKS) {
            File::create_new(place.join(pack_file_name(&pack))).unwrap().set_len(PACK_LEN).unwrap();
            let placed = chunks.into_iter().zip(0..).map(|(id, number)| {
                let frame = number / 16;
                let location = Location {
                    pack,
                    frame_offset: 192 + frame * (4 << 20),
                    frame_stored_len: 3 << 20,
                    offset: 1024 + number % 16 * CHUNK_LEN,
                    len: CHUNK_LEN,
                    kind: ChunkKind::Data,
                };
                (id, location)
            });
            facts.add_pack(pack, PACK_LEN, PackKind::Data, placed);
        }
        facts.sort();
        count += facts.len() as u64;
        let bytes = facts.encode_segment(repository.keys(), &[]).unwrap();
        let name = vault::id::SegmentId::from_bytes(id::hash(&bytes));
        fs::write(place.join(format!("index/{name}")), bytes).unwrap();
    }
    count
}

/// Publishes a snapshot of one file that has all chunks of every second of these packs. Returns how many these are. Without the `cache`, each
/// node of the list would be looked for in each segment.
pub fn need_half(place: &Path, cache: &Path, segments: usize) -> u64 {
    let repository = repository::open(Arc::new(LocalFolder::new(place))).unwrap();
    let cache_folder = Some(cache.to_owned());
    let options = WriteOptions { cache_folder, ..WriteOptions::new(Arc::new(Silent)) };
    let mut writer = repository.writer(&options).unwrap();
    let mut list = ListWriter::new(&writer);
    let mut count = 0;
    for (_, chunks) in packs(segments).step_by(2) {
        count += chunks.len() as u64;
        for id in chunks {
            list.push(Piece::Data(id, CHUNK_LEN)).unwrap();
        }
    }
    let kind = Kind::File(count * u64::from(CHUNK_LEN), list.finish().unwrap());
    let leaf = TreeNode::Leaf(vec![entry("half", kind)]);
    let root = writer.put(ChunkKind::Tree, &codec::encode(&leaf)).unwrap();
    writer.finish().unwrap();
    repository.publish_snapshot(&writer, &snapshot(root, 0)).unwrap();
    count
}
