//! `[FRAME-n]` and `[PACK-n]`: packs whose names are the hash of their bytes.

use vault::header::HEADER_LEN;
use vault::id::{ChunkKind, IdKeys, PackId};
use vault::pack::{Compression, Compressor, FrameBuilder, ScannedPack, scan_pack};

use super::broken;
use super::crafted::{Frame, Pack, Place, finish_header};
use crate::support::repository::is_encrypted;

/// What a full reading of the pack finds.
fn scan(place: &Place, bytes: &[u8]) -> ScannedPack {
    let id = PackId::from_bytes(place.write_hashed("packs", bytes));
    scan_pack(&*place.backend, id, &place.keys, &mut |_| true).unwrap()
}

/// The rules that a pack breaks, each once.
#[track_caller]
fn rules(change: impl FnOnce(&mut Pack)) -> Vec<&'static str> {
    let place = Place::new();
    let mut pack = Pack::new(&place.keys);
    change(&mut pack);
    let scanned = scan(&place, &pack.bytes(&place.keys));
    let mut rules: Vec<_> = scanned.faults.iter().map(|error| broken(error, "packs/")).collect();
    rules.sort_unstable();
    rules.dedup();
    rules
}

/// A frame whose plain bytes are these.
fn of(plain: &[u8]) -> Frame {
    Frame {
        stored: plain.to_vec(),
        plain_len: u32::try_from(plain.len()).unwrap(),
        ..Frame::raw(&IdKeys::plain(), 0, &[(ChunkKind::Data, b"x")])
    }
}

#[test]
fn a_crafted_pack_that_breaks_no_rule_is_sound() {
    let place = Place::new();
    let scanned = scan(&place, &Pack::new(&place.keys).bytes(&place.keys));
    assert!(scanned.faults.is_empty(), "{:?}", scanned.faults);
    assert_eq!(scanned.chunks.len(), 3);
}

#[test]
fn frame_1_a_frame_stands_at_a_multiple_of_64_behind_the_header() {
    assert_eq!(rules(|pack| pack.frames[1].magic = *b"VFRN"), ["FRAME-1"]);
    // The whole file moved by 32 bytes: nothing is where it has to be.
    let place = Place::new();
    let mut bytes = Pack::new(&place.keys).bytes(&place.keys);
    bytes.splice(HEADER_LEN..HEADER_LEN, [0; 32]);
    let scanned = scan(&place, &bytes);
    assert_eq!(scanned.faults.iter().map(|error| broken(error, "packs/")).collect::<Vec<_>>(), ["PACK-4"]);
    assert!(scanned.chunks.is_empty());
}

#[test]
fn frame_2_the_checksum_of_a_frame_is_right() {
    assert_eq!(rules(|pack| pack.frames[0].checksum = 1), ["FRAME-2"]);
    assert_eq!(rules(|pack| pack.frames[1].checksum = 128), ["FRAME-2"]);
}

#[test]
fn frame_3_stored_bytes_are_no_more_than_plain_bytes_and_these_no_more_than_allowed() {
    assert!(rules(|pack| pack.frames[0].plain_len -= 1).contains(&"FRAME-3"));
    assert!(rules(|pack| pack.frames[0].plain_len = (32 << 20) + (64 << 10) + 1).contains(&"FRAME-3"));
}

#[test]
fn frame_4_stored_bytes_decode_to_exactly_the_plain_length() {
    assert_eq!(rules(|pack| pack.frames[0].plain_len += 1), ["FRAME-4"]);
    assert_eq!(rules(|pack| pack.frames[1].plain_len += 1), ["FRAME-4"]);
    assert_eq!(rules(|pack| pack.frames[0].codec = 2), ["FRAME-4"]);
    assert_eq!(rules(|pack| pack.frames[0].codec = 1), ["FRAME-4"]);
    // A second frame behind the first, of nothing, or to be skipped.
    let empty = zstd::bulk::compress(b"", 3).unwrap();
    assert_eq!(rules(|pack| pack.frames[1].stored.extend(empty)), ["FRAME-4"]);
    assert_eq!(rules(|pack| pack.frames[1].stored.extend(b"\x50\x2a\x4d\x18\x01\0\0\0x")), ["FRAME-4"]);
    // One that does not state its size.
    assert_eq!(
        rules(|pack| {
            let plain = zstd::bulk::decompress(&pack.frames[1].stored, 10_000).unwrap();
            pack.frames[1].stored = zstd::stream::encode_all(&plain[..], 3).unwrap();
        }),
        ["FRAME-4"]
    );
}

#[test]
fn frame_5_the_table_of_chunks_adds_up_and_fits_the_pack() {
    let row = |kind: u8, len: u32| [vec![kind], len.to_le_bytes().to_vec()].concat();
    let plain = |count: u32, rows: &[Vec<u8>], bytes: &[u8]| {
        [count.to_le_bytes().to_vec(), rows.concat(), bytes.to_vec()].concat()
    };
    let cases = [
        ("no chunk", plain(0, &[], b"")),
        ("no count", vec![1, 0]),
        ("a chunk of no bytes", plain(2, &[row(1, 0), row(1, 1)], b"x")),
        ("fewer bytes than it says", plain(1, &[row(1, 3)], b"xx")),
        ("more bytes than it says", plain(1, &[row(1, 1)], b"xx")),
        ("no kind", plain(1, &[row(0, 1)], b"x")),
        ("a tree among data", plain(1, &[row(2, 1)], b"x")),
        ("a list among data", plain(1, &[row(3, 1)], b"x")),
        ("more rows than bytes", plain(u32::MAX, &[row(1, 1)], b"x")),
        ("too many chunks", plain(13_108, &vec![row(1, 1); 13_108], &[1; 13_108])),
        ("too long a chunk", plain(1, &[row(1, (16 << 20) + 1)], &vec![1; (16 << 20) + 1])),
    ];
    for (what, plain) in cases {
        let found = rules(|pack| pack.frames[0] = of(&plain));
        assert!(found.contains(&"FRAME-5"), "{what}: {found:?}");
    }
    assert!(rules(|pack| pack.kind = 2).contains(&"FRAME-5"), "data among trees");
}

#[test]
fn frame_6_the_id_of_a_chunk_is_its_keyed_hash() {
    let keys = IdKeys::plain();
    let ids: Vec<_> =
        [ChunkKind::Data, ChunkKind::Tree, ChunkKind::List].map(|kind| keys.chunk_id(kind, b"same")).to_vec();
    assert!(ids[0] != ids[1] && ids[1] != ids[2] && ids[0] != ids[2]);
    assert_eq!(ids[0].to_string(), "09125eb5fd0ee58c3734d59aadaf26859592e16e8a02b98c3d9b6c7855ac8469");
    // The directory has another id than the bytes: the frame is right, and a reader that trusts the directory refuses the chunk.
    let place = Place::new();
    let mut pack = Pack::new(&place.keys);
    pack.frames[0].chunks[0].1 = [9; 32];
    place.write_hashed("packs", &pack.bytes(&place.keys));
    let reader = place.open().reader().unwrap();
    let wrong = vault::id::ChunkId::from_bytes([9; 32]);
    let error = vault::chunk::GetChunk::get(&reader, ChunkKind::Data, &wrong).unwrap_err();
    assert_eq!(broken(&error, "packs/"), "FRAME-6");
}

#[test]
fn frame_7_frames_count_up_and_reserved_bytes_are_zero() {
    assert_eq!(rules(|pack| pack.frames[0].number = 1), ["FRAME-7"]);
    assert_eq!(rules(|pack| pack.frames[1].number = 0), ["FRAME-7"]);
    for at in 0..7 {
        assert_eq!(rules(|pack| pack.frames[0].reserved[at] = 1), ["FRAME-7"], "reserved byte {at}");
    }
}

#[test]
fn pack_1_the_directory_has_exactly_the_length_that_its_counts_give() {
    assert_eq!(rules(|pack| pack.directory = |bytes| bytes.push(1)), ["PACK-1"]);
    // A sealed one may end in zeros.
    let padded = rules(|pack| pack.directory = |bytes| bytes.push(0));
    assert_eq!(padded, if is_encrypted() { vec![] } else { vec!["PACK-1"] });
    assert_eq!(rules(|pack| pack.directory = |bytes| bytes.truncate(bytes.len() - 45)), ["PACK-1"]);
    assert_eq!(rules(|pack| pack.directory = |bytes| bytes[0] = 3), ["PACK-1"]);
    assert_eq!(rules(|pack| pack.directory = |bytes| bytes[4..8].fill(255)), ["PACK-1"]);
    assert!(rules(|pack| pack.directory = |bytes| *bytes = vec![0; 8]).contains(&"PACK-1"));
    // Longer than any: refused before it is read.
    assert_eq!(rules(|pack| pack.directory = |bytes| bytes.resize(73 << 20, 0)), ["PACK-1"]);
}

#[test]
fn pack_2_a_directory_that_says_other_than_the_frames_is_reported() {
    assert_eq!(rules(|pack| pack.frames[1].chunks[0].1[0] ^= 1), ["PACK-2"]);
    // The codec of a frame, the length of a chunk, a chunk left out.
    assert_eq!(rules(|pack| pack.directory = |bytes| bytes[8 + 12] = 1), ["PACK-2"]);
    assert_eq!(rules(|pack| pack.frames[1].chunks[0].3 -= 1), ["PACK-2"]);
    assert_eq!(rules(|pack| pack.frames[0].chunks.truncate(1)), ["PACK-2"]);
    // The chunks are there all the same, as the frames have them.
    let place = Place::new();
    let mut pack = Pack::new(&place.keys);
    pack.frames[1].chunks[0].1[0] ^= 1;
    let scanned = scan(&place, &pack.bytes(&place.keys));
    assert!(scanned.chunks_are_sound && scanned.chunks.len() == 3);
}

#[test]
fn pack_3_frames_lie_without_gaps_and_padding_is_zero() {
    assert!(rules(|pack| pack.frames[0].padding = 1).contains(&"PACK-3"));
    assert!(rules(|pack| pack.frames[1].padding = 1).contains(&"PACK-3"));
    assert!(rules(|pack| pack.frames[0].gap = 64).contains(&"PACK-3"));
    assert!(rules(|pack| pack.frames[1].gap = 64).contains(&"PACK-3"));
    assert!(rules(|pack| pack.directory = |bytes| bytes[8 + 13] = 1).contains(&"PACK-3"));
}

#[test]
fn pack_4_the_tail_fits_the_length_and_its_checksum_is_right() {
    assert_eq!(rules(|pack| pack.tail = Box::new(|tail| tail[0] ^= 64)), ["PACK-4"]);
    assert_eq!(rules(|pack| pack.tail = Box::new(|tail| tail[8] ^= 1)), ["PACK-4"]);
    assert_eq!(rules(|pack| pack.tail = Box::new(|tail| tail[0..16].fill(255))), ["PACK-4"]);
    assert_eq!(rules(|pack| pack.tail = Box::new(|tail| tail[170] = 1)), ["PACK-4"]);
    assert_eq!(rules(|pack| pack.tail = Box::new(|tail| tail[191] = 0)), ["PACK-4"]);
}

#[test]
fn pack_5_the_key_box_is_that_of_the_header_and_reserved_bytes_are_zero() {
    for at in [16, 143, 144, 167] {
        assert_eq!(rules(|pack| pack.tail = Box::new(move |tail| tail[at] ^= 1)), ["PACK-5"], "{at}");
    }
}

#[test]
fn head_6_a_pack_has_a_kind_and_no_lengths() {
    for (at, value) in [(10, 0), (10, 3), (12, 1), (16, 1), (23, 1), (168, 1), (175, 1)] {
        let place = Place::new();
        // Only a plain one has a salt.
        if at >= 168 && !place.keys.is_sealed() {
            continue;
        }
        let mut bytes = Pack::new(&place.keys).bytes(&place.keys);
        bytes[at] = value;
        finish_header(&mut bytes);
        let scanned = scan(&place, &bytes);
        assert_eq!(broken(&scanned.faults[0], "packs/"), "HEAD-6", "byte {at}");
    }
}

#[test]
fn dur_4_a_frame_is_decoded_and_its_ids_are_computed_again_before_it_is_written() {
    let mut compressor = Compressor::new(Compression::default(), IdKeys::plain()).unwrap();
    let mut frame = FrameBuilder::default();
    // As if a bit had flipped between naming the chunk and compressing it.
    frame.push(ChunkKind::Data, IdKeys::plain().chunk_id(ChunkKind::Data, b"as it was"), b"as it is");
    let error = compressor.compress(&mut frame).err().unwrap();
    assert!(
        matches!(error, vault::error::FrameError::NotReproduced(source) if super::rule(&source) == "FRAME-6")
    );
}
