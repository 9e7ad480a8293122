//! Target: single frames.

use vault::error::Corruption;
use vault::id::{self, ChunkId, ChunkKind, PackId};
use vault::pack::{
    Compression, Compressor, FRAME_HEADER_LEN, FrameBuilder, MAX_FRAME_LEN, PackFile, PackKind, PackWriter,
    ReadyFrame, WholeFrame, decode_frame,
};
use vault::seal::{BoxKey, Keys, NewSeal, Opener};

use super::Defect;
use super::fixed;
use super::memory::Memory;

/// The part of a frame's header that is its own: all but the checksum.
type Head = [u8; 24];

/// The header of a frame of so many bytes.
fn head(codec: u8, plain_len: usize, stored_len: usize) -> Head {
    let mut head = [0; 24];
    let len = |len: usize| u32::try_from(len).unwrap_or(u32::MAX).to_le_bytes();
    head[..4].copy_from_slice(b"VFRM");
    head[8] = codec;
    head[12..16].copy_from_slice(&len(plain_len));
    head[16..20].copy_from_slice(&len(stored_len));
    head
}

/// What seals a frame of the encrypted repository, and what opens it.
fn seal(keys: &Keys) -> Option<(NewSeal, Opener)> {
    let new = keys.new_file(BoxKey::Data, &[0; 40]).ok()??;
    let opener = keys.open_file(BoxKey::Data, &[0; 40], &new.key_box).ok()?;
    Some((new, opener))
}

/// A frame: whole as the input has it, but for its checksum; or the plain bytes, as they are or compressed.
pub fn frame(input: &[u8], defect: Defect) {
    let Some((mode, rest)) = input.split_first() else { return };
    let (is_sealed, pack) = (mode & 4 != 0, [None, Some(PackKind::Data), Some(PackKind::Tree)]);
    let pack = pack[usize::from(mode >> 3) % 3];
    let (mut head, stored) = match mode & 3 {
        0 => {
            let Some((head, stored)) = rest.split_first_chunk::<24>() else { return };
            (*head, stored.to_vec())
        }
        1 => (head(0, rest.len(), rest.len()), rest.to_vec()),
        _ => {
            let stored = zstd::bulk::compress(rest, 1).unwrap_or_default();
            (head(1, rest.len(), stored.len()), stored)
        }
    };
    let keys = fixed::keys(is_sealed);
    let (stored, opener) = match seal(keys) {
        None => (stored, None),
        Some((mut seal, opener)) => {
            let len = u32::from_le_bytes([head[16], head[17], head[18], head[19]]).wrapping_add(16);
            head[16..20].copy_from_slice(&len.to_le_bytes());
            let sealed = seal.sealer.seal(&head, &stored);
            (sealed.unwrap_or_else(|error| panic!("{error}")), Some(opener))
        }
    };
    let mut header = [0; FRAME_HEADER_LEN];
    header[..24].copy_from_slice(&head);
    header[24..].copy_from_slice(&id::checksum_64(&[&head, &stored]));
    match decode_frame(&header, stored, pack, opener.as_ref()) {
        Ok(whole) => accepted(whole, rest, mode & 3 == 1, keys, defect),
        Err(Corruption::WrongChecksum { .. }) => panic!("its checksum was made right"),
        Err(_) => {}
    }
}

/// What was accepted adds up, and comes back from another pack, taken over as it is or made anew.
fn accepted(whole: WholeFrame, rest: &[u8], is_plain: bool, keys: &Keys, defect: Defect) {
    let frame = whole.frame();
    assert!(frame.plain_len() <= MAX_FRAME_LEN, "[FRAME-3]");
    let mut plain = u32::try_from(frame.chunks().len()).unwrap_or(0).to_le_bytes().to_vec();
    for chunk in frame.chunks() {
        plain.push(chunk.kind.number());
        plain.extend(chunk.len.to_le_bytes());
    }
    let mut chunks = Vec::new();
    for chunk in frame.chunks() {
        let mut bytes = frame.bytes(chunk).unwrap_or_default().to_vec();
        assert!(!bytes.is_empty() && bytes.len() == chunk.len as usize, "[FRAME-5]");
        defect.spoil(bytes.first() == Some(&0xff), &mut bytes);
        plain.extend_from_slice(&bytes);
        chunks.push((chunk.kind, bytes));
    }
    assert_eq!(plain.len(), frame.plain_len(), "[FRAME-5]");
    assert!(!is_plain || plain == rest, "other plain bytes were read than are there");
    let ids: Vec<ChunkId> = chunks.iter().map(|(kind, bytes)| keys.ids().chunk_id(*kind, bytes)).collect();
    // All chunks of a pack are of one kind.
    let pack = PackKind::of(chunks.first().map_or(ChunkKind::Data, |(kind, _)| *kind));
    let is_of_one_pack = chunks.iter().all(|(kind, _)| PackKind::of(*kind) == pack);
    let named = whole.named(keys.ids(), &ids).unwrap_or_else(|error| panic!("{error}"));
    if is_of_one_pack {
        comes_back(&named.into_ready(), &chunks, pack, keys);
        let compression = if ids.len().is_multiple_of(2) { Compression::Off } else { Compression::Level(1) };
        comes_back(&made_anew(&chunks, &ids, keys, compression), &chunks, pack, keys);
    }
}

fn made_anew(
    chunks: &[(ChunkKind, Vec<u8>)],
    ids: &[ChunkId],
    keys: &Keys,
    compression: Compression,
) -> ReadyFrame {
    let mut builder = FrameBuilder::default();
    for ((kind, bytes), id) in chunks.iter().zip(ids) {
        builder.push(*kind, *id, bytes);
    }
    let compressor = Compressor::new(compression, keys.ids().clone());
    let made = compressor.and_then(|mut compressor| compressor.compress(&mut builder));
    made.unwrap_or_else(|error| panic!("{error}"))
}

/// Lays the frame into a pack, and wants the chunks back from it.
fn comes_back(frame: &ReadyFrame, chunks: &[(ChunkKind, Vec<u8>)], kind: PackKind, keys: &Keys) {
    let medium = Memory::default();
    let write = || -> vault::error::Result<(PackId, u32)> {
        let mut pack = PackWriter::new(&medium, "tmp/pack", kind, keys, (1 << 20, 0))?;
        assert!(pack.has_room_for(frame));
        pack.add(frame)?;
        let finished = pack.finish()?;
        Ok((finished.id, finished.chunks.first().map_or(0, |(_, location)| location.frame_stored_len)))
    };
    let (id, stored_len) = write().unwrap_or_else(|error| panic!("{error}"));
    let pack = PackFile::open(&medium, id, keys).unwrap_or_else(|error| panic!("{error}"));
    let read = pack.frame(192, stored_len).unwrap_or_else(|error| panic!("{error}"));
    let back: Vec<_> = read.chunks().iter().map(|chunk| (chunk.kind, read.bytes(chunk))).collect();
    let wanted: Vec<_> = chunks.iter().map(|(kind, bytes)| (*kind, Some(&bytes[..]))).collect();
    assert!(back == wanted, "what was read does not come back");
}
