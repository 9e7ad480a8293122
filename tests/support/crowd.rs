//! Repositories that hold far more than anybody has room for in a test: segments about packs that are nothing but holes. Who asks only
//! whether a chunk is present sees no difference.

use std::fs::{self, File};
use std::path::Path;
use std::sync::Arc;

use vault::backend::LocalFolder;
use vault::id::{self, ChunkId, ChunkKind, PackId};
use vault::index::Facts;
use vault::pack::{Location, PackKind, pack_file_name};

use crate::support::repository;
use crate::support::torture::Random;

/// The chunks of a pack: of 256 KiB on average, little compressed.
const CHUNKS: u32 = 256;
const CHUNK_LEN: u32 = 256 << 10;
/// The packs of a segment: as many as it has room for.
const PACKS: usize = 4900;
const PACK_LEN: u64 = 64 << 20;

/// Adds so many full segments, of 1.25 million chunks each, with their packs. Returns how many chunks that are.
pub fn crowd(place: &Path, segments: usize) -> u64 {
    let repository = repository::open(Arc::new(LocalFolder::new(place))).unwrap();
    let mut random = Random(4711);
    let mut count = 0;
    for _ in 0..segments {
        let mut facts = Facts::default();
        for _ in 0..PACKS {
            let pack = PackId::from_bytes(random.bytes(32).try_into().unwrap());
            File::create_new(place.join(pack_file_name(&pack))).unwrap().set_len(PACK_LEN).unwrap();
            let placed = (0..CHUNKS).map(|number| {
                let frame = number / 16;
                let location = Location {
                    pack,
                    frame_offset: 192 + frame * (4 << 20),
                    frame_stored_len: 3 << 20,
                    offset: 1024 + number % 16 * CHUNK_LEN,
                    len: CHUNK_LEN,
                    kind: ChunkKind::Data,
                };
                (ChunkId::from_bytes(random.bytes(32).try_into().unwrap()), location)
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
