//! Packs altered by someone who knows everything but the keys: where each frame stands, how long it is, and, since much of what the mask
//! covers can be guessed, the mask itself.

use std::fs;
use std::sync::Arc;

use vault::backend::{Backend, LocalFolder};
use vault::error::{Corruption, Error};
use vault::header::HEADER_LEN;
use vault::id::{ChunkId, ChunkKind, PackId, RepositoryId, checksum_64, checksum_128, hash};
use vault::pack::{
    Compression, Compressor, FRAME_HEADER_LEN, FrameBuilder, PackFile, PackKind, PackWriter, TAIL_LEN,
    pack_file_name, scan_pack,
};
use vault::seal::{BoxKey, Keys, Mask, SEALED_HEADER_LEN, Secret, TAG_LEN};

use super::world::noise;
use crate::support::scratch::Scratch;

/// The plain bytes of a chunk: all frames of the pack have one length, so that they can be exchanged.
const CHUNK_LEN: usize = 1000;
const FULL_LEN: u64 = 64 << 10;

struct Place {
    _scratch: Scratch,
    backend: Arc<dyn Backend>,
    keys: Keys,
}

impl Place {
    fn new() -> Self {
        let scratch = Scratch::new();
        let backend: Arc<dyn Backend> = Arc::new(LocalFolder::new(scratch.path()));
        for folder in (0..=255u8).map(|prefix| format!("packs/{prefix:02x}")).chain(["tmp".to_owned()]) {
            fs::create_dir_all(scratch.join(folder)).unwrap();
        }
        let keys = Keys::from_master(RepositoryId::from_bytes([3; 16]), &Secret::new([9; 32]));
        Self { _scratch: scratch, backend, keys }
    }

    /// A pack of as many frames, of a chunk each.
    fn pack(&self, frames: u8) -> (PackId, Vec<u8>, Vec<ChunkId>) {
        let mut writer =
            PackWriter::new(&*self.backend, "tmp/pack", PackKind::Data, &self.keys, (FULL_LEN, 0)).unwrap();
        let mut compressor = Compressor::new(Compression::Off, self.keys.ids().clone()).unwrap();
        let mut ids = Vec::new();
        for number in 0..frames {
            let mut builder = FrameBuilder::default();
            let plain = noise(number, CHUNK_LEN);
            let id = self.keys.ids().chunk_id(ChunkKind::Data, &plain);
            builder.push(ChunkKind::Data, id, &plain);
            let frame = compressor.compress(&mut builder).unwrap();
            assert!(writer.has_room_for(&frame));
            writer.add(&frame).unwrap();
            ids.push(id);
        }
        let finished = writer.finish().unwrap();
        let bytes = fs::read(self.backend.place().join(pack_file_name(&finished.id))).unwrap();
        (finished.id, bytes, ids)
    }

    /// Puts a pack of these bytes there, under the name that fits, and says what is wrong with it.
    fn faults(&self, bytes: &[u8]) -> Vec<Corruption> {
        let id = PackId::from_bytes(hash(bytes));
        fs::write(self.backend.place().join(pack_file_name(&id)), bytes).unwrap();
        let scanned = scan_pack(&*self.backend, id, &self.keys, &mut |_| true).unwrap();
        let source = |error: Error| match error {
            Error::Damaged { source, file } => {
                assert_eq!(file, pack_file_name(&id));
                source
            }
            other => panic!("{other}"),
        };
        scanned.faults.into_iter().map(source).collect()
    }

    fn mask(&self, bytes: &[u8]) -> Mask {
        self.keys.open_pack(bytes[40..168].try_into().unwrap()).unwrap().0
    }
}

/// Where each frame starts, and the bytes that it takes.
fn frame(number: usize) -> (usize, usize) {
    let len = (FRAME_HEADER_LEN + 4 + 5 + CHUNK_LEN + TAG_LEN).next_multiple_of(64);
    (HEADER_LEN + number * len, len)
}

/// A frame with its mask taken off.
fn unmasked(place: &Place, bytes: &[u8], number: usize) -> Vec<u8> {
    let (start, len) = frame(number);
    let mut found = bytes[start..start + len].to_vec();
    place.mask(bytes).apply(start as u64, &mut found[..FRAME_HEADER_LEN]);
    found
}

/// Puts a frame there, with the mask of the place, and all that needs no key made right.
fn put(place: &Place, bytes: &mut [u8], number: usize, mut new: Vec<u8>) {
    let (start, len) = frame(number);
    let stored_len = u32::from_le_bytes(new[16..20].try_into().unwrap()) as usize;
    let checksum = checksum_64(&[&new[..24], &new[FRAME_HEADER_LEN..FRAME_HEADER_LEN + stored_len]]);
    new[24..32].copy_from_slice(&checksum);
    place.mask(bytes).apply(start as u64, &mut new[..FRAME_HEADER_LEN]);
    bytes[start..start + len].copy_from_slice(&new);
}

#[test]
fn a_sealed_pack_is_sound_and_its_length_says_little() {
    let place = Place::new();
    let (id, bytes, ids) = place.pack(4);
    assert_eq!(place.faults(&bytes), []);
    let scanned = scan_pack(&*place.backend, id, &place.keys, &mut |_| true).unwrap();
    assert!(scanned.chunks.iter().map(|(id, _)| *id).eq(ids));
    // Four or five frames: packs of one length.
    assert_eq!(bytes.len() as u64, vault::seal::padded_len(bytes.len() as u64));
    assert_eq!(place.pack(32).1.len(), place.pack(33).1.len());
    // Nearly full ones are full ones.
    assert_eq!(place.pack(51).1.len() as u64, FULL_LEN);
    assert_eq!(place.pack(55).1.len() as u64, FULL_LEN);
}

#[test]
fn seal_4_frames_are_laid_into_a_pack_until_the_next_would_make_it_longer_than_a_full_one() {
    let place = Place::new();
    for full_len in [FULL_LEN, FULL_LEN + 64, FULL_LEN + 1000] {
        let mut writer =
            PackWriter::new(&*place.backend, "tmp/pack", PackKind::Data, &place.keys, (full_len, 0)).unwrap();
        let mut compressor = Compressor::new(Compression::Off, place.keys.ids().clone()).unwrap();
        let mut builder = FrameBuilder::default();
        let plain = noise(1, CHUNK_LEN);
        builder.push(ChunkKind::Data, place.keys.ids().chunk_id(ChunkKind::Data, &plain), &plain);
        let frame = compressor.compress(&mut builder).unwrap();
        while writer.has_room_for(&frame) {
            writer.add(&frame).unwrap();
        }
        assert_eq!(writer.finish().unwrap().stored_len, full_len);
    }
}

#[test]
fn repo_1_a_pack_under_another_name_is_named() {
    let place = Place::new();
    let (_, bytes, _) = place.pack(2);
    let id = PackId::from_bytes([7; 32]);
    fs::write(place.backend.place().join(pack_file_name(&id)), bytes).unwrap();
    let scanned = scan_pack(&*place.backend, id, &place.keys, &mut |_| true).unwrap();
    assert!(matches!(scanned.faults[..], [Error::Damaged { source: Corruption::WrongHash, .. }]));
    assert!(!scanned.chunks_are_sound);
}

#[test]
fn seal_2_two_frames_exchanged_as_they_are_stored_are_named() {
    let place = Place::new();
    let (_, bytes, _) = place.pack(4);
    let ((first, len), (second, _)) = (frame(1), frame(2));
    let mut swapped = bytes.clone();
    swapped[first..first + len].copy_from_slice(&bytes[second..second + len]);
    swapped[second..second + len].copy_from_slice(&bytes[first..first + len]);
    assert!(!place.faults(&swapped).is_empty());
}

#[test]
fn frame_7_two_frames_exchanged_with_the_mask_made_right_are_named() {
    let place = Place::new();
    let (_, bytes, ids) = place.pack(4);
    let (first, second) = (unmasked(&place, &bytes, 1), unmasked(&place, &bytes, 2));
    let mut swapped = bytes.clone();
    put(&place, &mut swapped, 1, second);
    put(&place, &mut swapped, 2, first);
    let faults = place.faults(&swapped);
    assert!(matches!(faults[..], [Corruption::Rule { rule: "FRAME-7", .. }]), "{faults:?}");
    // Whoever reads one of them by the index gets the wrong chunk, which has another id: that is the error, and never its bytes.
    let pack = PackFile::open(&*place.backend, PackId::from_bytes(hash(&swapped)), &place.keys).unwrap();
    let (offset, _) = frame(1);
    let read = pack
        .frame(u32::try_from(offset).unwrap(), u32::try_from(4 + 5 + CHUNK_LEN + TAG_LEN).unwrap())
        .unwrap();
    let plain = read.bytes(&read.chunks()[0]).unwrap();
    assert_eq!(place.keys.ids().chunk_id(ChunkKind::Data, plain), ids[2]);
}

#[test]
fn seal_2_two_frames_exchanged_and_renumbered_are_named() {
    let place = Place::new();
    let (_, bytes, _) = place.pack(4);
    let (mut first, mut second) = (unmasked(&place, &bytes, 1), unmasked(&place, &bytes, 2));
    first[4..8].copy_from_slice(&2u32.to_le_bytes());
    second[4..8].copy_from_slice(&1u32.to_le_bytes());
    let mut swapped = bytes.clone();
    put(&place, &mut swapped, 1, second);
    put(&place, &mut swapped, 2, first);
    assert_eq!(place.faults(&swapped), [Corruption::BrokenSeal { part: "frame" }]);
}

#[test]
fn seal_2_a_frame_of_another_pack_is_named() {
    let place = Place::new();
    let (_, bytes, _) = place.pack(4);
    let (_, other, _) = place.pack(4);
    let mut mixed = bytes.clone();
    put(&place, &mut mixed, 1, unmasked(&place, &other, 1));
    assert_eq!(place.faults(&mixed), [Corruption::BrokenSeal { part: "frame" }]);
}

#[test]
fn seal_2_a_frame_header_that_says_something_else_is_named() {
    let place = Place::new();
    let (_, bytes, _) = place.pack(4);
    let mut header = unmasked(&place, &bytes, 1);
    header[8] = 1;
    let mut altered = bytes.clone();
    put(&place, &mut altered, 1, header);
    assert_eq!(place.faults(&altered), [Corruption::BrokenSeal { part: "frame" }]);
}

#[test]
fn seal_2_a_directory_that_was_shortened_is_named() {
    let place = Place::new();
    let (_, bytes, _) = place.pack(4);
    let mask = place.mask(&bytes);
    let tail_at = bytes.len() - TAIL_LEN;
    let mut tail = bytes[tail_at..].to_vec();
    mask.apply(tail_at as u64, &mut tail[..16]);
    let (start, _) = frame(4);
    for cut in [1, 16, 64, 192] {
        // With everything made right that no key is needed for.
        let directory = &bytes[start..tail_at - cut];
        let mut tail = tail.clone();
        tail[8..16].copy_from_slice(&(directory.len() as u64).to_le_bytes());
        mask.apply(tail_at as u64 + 144, &mut tail[144..184]);
        let checksum = checksum_128(&[directory, &tail[..168]]);
        tail[168..184].copy_from_slice(&checksum);
        let new_at = (start + directory.len()) as u64;
        mask.apply(new_at, &mut tail[..16]);
        mask.apply(new_at + 144, &mut tail[144..184]);
        let altered = [&bytes[..start], directory, &tail].concat();
        assert_eq!(place.faults(&altered), [Corruption::BrokenSeal { part: "directory" }], "{cut}");
    }
    // And as it is, without the tail.
    let faults = place.faults(&bytes[..tail_at]);
    assert!(!faults.is_empty());
}

#[test]
fn seal_1_a_sealer_counts_and_no_key_is_given_out_twice() {
    let place = Place::new();
    let header = [7; SEALED_HEADER_LEN];
    let mut seals = Vec::new();
    for _ in 0..3 {
        let mut new = place.keys.new_file(BoxKey::Data, &header).unwrap().unwrap();
        let opener = place.keys.open_file(BoxKey::Data, &header, &new.key_box).unwrap();
        for number in 0..5 {
            assert_eq!(new.sealer.next_number(), number);
            let sealed = new.sealer.seal(b"beside", b"the same part").unwrap();
            for other in 0..5 {
                let part = opener.open(other, b"beside", &sealed, "part");
                assert_eq!(part.is_ok(), other == number, "{number} opened as {other}");
            }
            seals.push(sealed);
        }
        seals.push(new.key_box.to_vec());
    }
    let count = seals.len();
    seals.sort();
    seals.dedup();
    assert_eq!(seals.len(), count, "something was sealed alike");
}

#[test]
fn seal_1_the_frames_of_a_pack_have_the_numbers_from_0_on_and_each_pack_a_key_of_its_own() {
    let place = Place::new();
    let (_, one, _) = place.pack(20);
    let (_, other, _) = place.pack(20);
    assert_ne!(one[40..168], other[40..168]);
    for number in 0..20 {
        let header = unmasked(&place, &one, number);
        assert_eq!(header[4..8], u32::try_from(number).unwrap().to_le_bytes());
        let (start, len) = frame(number);
        assert_ne!(one[start..start + len], other[start..start + len]);
    }
}
