//! What a prune makes of the frames of a pack of which a part is needed.

use std::collections::BTreeMap;

use vault::id::{ChunkId, ChunkKind, PackId};
use vault::pack::{Compression, Location};

use super::store::{Store, content, thorough};
use crate::support::torture::Random;

/// Words, so that it shrinks, and the more the higher the level is.
fn compressible(number: u64) -> Vec<u8> {
    let mut random = Random(7);
    let words: Vec<Vec<u8>> = (0..500).map(|at| random.bytes(2 + at % 9)).collect();
    let mut random = Random(1000 + number);
    let mut bytes: Vec<u8> = (0..40_000).flat_map(|_| words[random.below(500)].clone()).collect();
    bytes.truncate(100_000);
    bytes
}

fn contents(numbers: std::ops::Range<u64>) -> Vec<Vec<u8>> {
    numbers.map(compressible).collect()
}

fn place(store: &Store, id: &ChunkId) -> Location {
    store.open().reader().unwrap().locate(ChunkKind::Data, id).unwrap()
}

/// The chunks in frames, in the order in which they lie there.
fn frames(store: &Store, ids: &[ChunkId]) -> Vec<Vec<usize>> {
    let mut frames: BTreeMap<(PackId, u32), Vec<usize>> = BTreeMap::new();
    for (at, id) in ids.iter().enumerate() {
        let place = place(store, id);
        frames.entry((place.pack, place.frame_offset)).or_default().push(at);
    }
    frames.into_values().collect()
}

fn stored(store: &Store, id: &ChunkId) -> Vec<u8> {
    let place = place(store, id);
    let pack = store.place().join(vault::pack::pack_file_name(&place.pack));
    let bytes = std::fs::read(pack).unwrap();
    let start = place.frame_offset as usize + vault::pack::FRAME_HEADER_LEN;
    bytes[start..start + place.frame_stored_len as usize].to_vec()
}

#[test]
fn a_frame_of_which_all_is_needed_is_taken_as_it_is_and_others_are_compressed_again() {
    takes_whole_frames(compressible);
    // Stored as it is.
    takes_whole_frames(content);
}

fn takes_whole_frames(bytes: fn(u64) -> Vec<u8>) {
    let store = Store::new();
    let (whole, ids) =
        store.save_bytes(Compression::Level(12), &(0..60).map(bytes).collect::<Vec<_>>()).unwrap();
    let made = frames(&store, &ids);
    assert!(made.len() >= 2 && made[0].len() > 5, "{made:?}");
    let part = *made[1].first().unwrap();
    // What the first frame has, and one chunk of the second.
    let kept: Vec<Vec<u8>> = made[0].iter().chain([&part]).map(|at| bytes(*at as u64)).collect();
    store.save_bytes(Compression::Level(12), &kept).unwrap();
    let (first, other) = (ids[made[0][0]], ids[part]);
    let (before, frame) = (stored(&store, &first), place(&store, &first));
    let second = place(&store, &other).frame_stored_len;
    store.forget(whole);
    assert!(store.prune(&thorough()).unwrap().repacked_packs > 0);
    let moved = place(&store, &first);
    assert_ne!(moved.pack, frame.pack);
    assert_eq!((moved.frame_stored_len, moved.offset), (frame.frame_stored_len, frame.offset));
    if !store.open().keys().is_sealed() {
        assert!(stored(&store, &first) == before, "the frame was compressed again");
    }
    assert!(place(&store, &other).frame_stored_len < second / 2);
    store.check();
}

#[test]
fn short_frames_of_which_all_is_needed_are_put_together() {
    let store = Store::new();
    let mut kept = Vec::new();
    let mut all = Vec::new();
    for start in [0, 100] {
        let (snapshot, ids) = store.save_bytes(Compression::default(), &contents(start..start + 45)).unwrap();
        let last = frames(&store, &ids).into_iter().find(|frame| frame.contains(&44)).unwrap();
        assert!(last.len() < 10, "{last:?}");
        kept.extend(last.iter().map(|at| compressible(start + *at as u64)));
        all.push(snapshot);
    }
    let (_, ids) = store.save_bytes(Compression::default(), &kept).unwrap();
    assert_eq!(frames(&store, &ids).len(), 2);
    for snapshot in all {
        store.forget(snapshot);
    }
    assert_eq!(store.prune(&thorough()).unwrap().repacked_packs, 2);
    assert_eq!(frames(&store, &ids).len(), 1);
    store.check();
}
