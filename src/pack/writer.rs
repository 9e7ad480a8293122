//! Lays frames into a pack, hashing on the way, and closes it with directory and tail. In an encrypted repository each frame is sealed
//! here, under the number that it gets: a key seals no number twice, since nobody but this writer ever has it `[SEAL-1]`.

use std::io::{self, Write};

use crate::backend::{Backend, NewFile};
use crate::error::{Corruption, Error, Result};
use crate::header::{Header, KEY_BOX_LEN, Magic, Seal};
use crate::id::{self, ChunkId, FileHasher, PackId};
use crate::pack::frame::{FrameChunk, ReadyFrame};
use crate::pack::{
    DIRECTORY_CHUNK_LEN, DIRECTORY_FRAME_LEN, DIRECTORY_LEN, Directory, DirectoryFrame, FRAME_HEADER_LEN,
    Location, MAX_FILLER_LEN, MAX_PACK_CHUNKS, MAX_PACK_LEN, PackKind, Placed, TAIL_LEN, TAIL_MAGIC, aligned,
    mask_tail, pack_file_name,
};
use crate::seal::{BoxKey, Keys, NewSeal, SEALED_HEADER_LEN, TAG_LEN, padded_len};

const ALIGNMENT_LEN: usize = 64;
/// A pack of so many chunks is full, however short they are: its directory, which takes some 200 bytes of each while it is closed, is to fit
/// into memory.
const FULL_CHUNKS: usize = 1 << 17;

/// A pack being written under a temporary name.
pub struct PackWriter {
    file: Box<dyn NewFile>,
    kind: PackKind,
    sealed_header: [u8; SEALED_HEADER_LEN],
    seal: Option<NewSeal>,
    /// The length that a full pack has.
    full_len: u64,
    hasher: FileHasher,
    len: u64,
    frames: Vec<DirectoryFrame>,
    chunks: Vec<(ChunkId, u32, FrameChunk)>,
}

/// A pack that is published.
#[derive(Debug)]
pub struct FinishedPack {
    /// Its name.
    pub id: PackId,
    /// What is in it.
    pub kind: PackKind,
    /// Its length.
    pub stored_len: u64,
    /// Its chunks.
    pub chunks: Vec<Placed>,
}

/// Names the part that could not be sealed, for `map_err`.
fn unsealed(corruption: Corruption) -> Error {
    Error::damaged("a pack to be written")(corruption)
}

impl PackWriter {
    /// Starts a pack in the file `temporary`, which counts as full at `full_len` bytes. A salt tells a plain one from others with the same
    /// chunks; a sealed one is like no other anyway.
    ///
    /// # Errors
    /// Any error of the medium; `Locked`.
    pub fn new(
        backend: &dyn Backend,
        temporary: &str,
        kind: PackKind,
        keys: &Keys,
        (full_len, salt): (u64, u64),
    ) -> Result<Self> {
        let mut header = pack_header(kind, keys);
        header.salt = if keys.is_sealed() { 0 } else { salt };
        let sealed_header = header.sealed_part(Magic::Pack);
        let seal = keys.new_file(BoxKey::Data, &sealed_header).map_err(unsealed)?;
        if let Some(seal) = &seal {
            header.seal = Seal::Sealed(seal.key_box);
        }
        let file = backend.create(temporary).map_err(Error::repository("create", temporary))?;
        let mut writer = Self {
            file,
            kind,
            sealed_header,
            seal,
            full_len: full_len.min(MAX_PACK_LEN),
            hasher: FileHasher::default(),
            len: 0,
            frames: Vec::new(),
            chunks: Vec::new(),
        };
        writer.write(&header.encode(Magic::Pack)).map_err(Error::repository("write", temporary))?;
        Ok(writer)
    }

    /// How long the pack is so far.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether it has no frames.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Whether it is to be closed.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.len >= self.full_len || self.chunks.len() >= FULL_CHUNKS
    }

    /// Whether this frame can be added without breaking a limit of the format, directory and tail included. In an encrypted
    /// repository all full packs have one length, so a frame must not make it longer.
    #[must_use]
    pub fn has_room_for(&self, frame: &ReadyFrame) -> bool {
        let chunks = self.chunks.len() + frame.chunk_count();
        let tags = if self.seal.is_some() { 2 * TAG_LEN as u64 + ALIGNMENT_LEN as u64 } else { 0 };
        let directory = directory_len(self.frames.len() + 1, chunks);
        let most = if self.seal.is_some() && !self.is_empty() { self.full_len } else { MAX_PACK_LEN };
        chunks <= MAX_PACK_CHUNKS
            && self.len + frame.len_in_pack() + directory + TAIL_LEN as u64 + tags <= most
    }

    /// Lays a frame into the pack.
    ///
    /// # Errors
    /// Any error of the medium.
    pub fn add(&mut self, frame: &ReadyFrame) -> Result<()> {
        let number = u32::try_from(self.frames.len()).unwrap_or(u32::MAX);
        let offset = u32::try_from(self.len).unwrap_or(u32::MAX);
        let tag_len = if self.seal.is_some() { TAG_LEN } else { 0 };
        let stored_len = frame.stored().len() + tag_len;
        let mut header = frame.header(number, stored_len);
        let sealed = match &mut self.seal {
            Some(seal) => Some(seal.sealer.seal(&header[..24], frame.stored()).map_err(unsealed)?),
            None => None,
        };
        let stored = sealed.as_deref().unwrap_or_else(|| frame.stored());
        let checksum = id::checksum_64(&[&header[..24], stored]);
        header[24..32].copy_from_slice(&checksum);
        let mut padding = [0; ALIGNMENT_LEN];
        let padding = &mut padding[..(FRAME_HEADER_LEN + stored_len).wrapping_neg() % ALIGNMENT_LEN];
        if let Some(seal) = &self.seal {
            seal.mask.apply(self.len, &mut header);
            seal.mask.apply(self.len + (FRAME_HEADER_LEN + stored_len) as u64, padding);
        }
        [&header[..], stored, padding]
            .iter()
            .try_for_each(|bytes| self.write(bytes))
            .map_err(Error::repository("write", "a pack"))?;
        self.frames.push(DirectoryFrame {
            offset,
            stored_len: u32::try_from(stored_len).unwrap_or(u32::MAX),
            plain_len: frame.plain_len,
            codec: frame.codec,
        });
        self.chunks.extend(frame.chunks.iter().map(|(id, chunk)| (*id, number, *chunk)));
        Ok(())
    }

    /// Closes the pack and publishes it: durable, under its name. The directory is decoded before it is written.
    ///
    /// # Errors
    /// Any error of the medium; then nothing may refer to the pack.
    pub fn finish(mut self) -> Result<FinishedPack> {
        let rows = self.encode_directory();
        let (directory, tail) = self.close(rows)?;
        self.write(&directory)
            .and_then(|()| self.write(&tail))
            .map_err(Error::repository("write", "a pack"))?;
        let id = PackId::from_bytes(self.hasher.finish());
        let name = pack_file_name(&id);
        self.file.publish(&name).map_err(Error::repository("publish", &name))?;
        let mut chunks = Vec::with_capacity(self.chunks.len());
        chunks.extend(self.chunks.iter().filter_map(|(chunk_id, frame, chunk)| {
            let frame = self.frames.get(*frame as usize)?;
            Some((
                *chunk_id,
                Location {
                    pack: id,
                    frame_offset: frame.offset,
                    frame_stored_len: frame.stored_len,
                    offset: chunk.offset,
                    len: chunk.len,
                    kind: chunk.kind,
                },
            ))
        }));
        Ok(FinishedPack { id, kind: self.kind, stored_len: self.len, chunks })
    }

    /// Directory and tail as stored, decoded once before they are written.
    fn close(&mut self, mut rows: Vec<u8>) -> Result<(Vec<u8>, [u8; TAIL_LEN])> {
        let broken = Error::damaged("a pack directory to be written");
        let Some(NewSeal { key_box, directory, mask, .. }) = self.seal.take() else {
            Directory::decode(&rows, self.kind, false).map_err(broken)?;
            let tail = encode_tail(self.len, &rows, &[0; KEY_BOX_LEN]);
            return Ok((rows, tail));
        };
        let len = self.len + (rows.len() + TAG_LEN + TAIL_LEN) as u64;
        rows.resize(rows.len() + filler_len(len, self.full_len), 0);
        Directory::decode(&rows, self.kind, true).map_err(broken)?;
        let sealed = directory.seal(&self.sealed_header, &rows).map_err(unsealed)?;
        let mut tail = encode_tail(self.len, &sealed, &key_box);
        mask_tail(&mask, self.len + sealed.len() as u64, &mut tail);
        Ok((sealed, tail))
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.hasher.update(bytes);
        self.len += bytes.len() as u64;
        Ok(())
    }

    fn encode_directory(&self) -> Vec<u8> {
        let count = |len: usize| u32::try_from(len).unwrap_or(u32::MAX).to_le_bytes();
        let mut bytes = Vec::new();
        bytes.extend_from_slice(&count(self.frames.len()));
        bytes.extend_from_slice(&count(self.chunks.len()));
        for frame in &self.frames {
            bytes.extend_from_slice(&frame.offset.to_le_bytes());
            bytes.extend_from_slice(&frame.stored_len.to_le_bytes());
            bytes.extend_from_slice(&frame.plain_len.to_le_bytes());
            bytes.extend_from_slice(&[frame.codec, 0, 0, 0]);
        }
        for (id, frame, chunk) in &self.chunks {
            bytes.extend_from_slice(id.as_bytes());
            bytes.push(chunk.kind.number());
            bytes.extend_from_slice(&frame.to_le_bytes());
            bytes.extend_from_slice(&chunk.offset.to_le_bytes());
            bytes.extend_from_slice(&chunk.len.to_le_bytes());
        }
        bytes
    }
}

/// How many zeros follow the rows of a sealed directory, so that the length of the pack, which is `len` without them, says little
/// `[SEAL-4]`.
fn filler_len(len: u64, full_len: u64) -> usize {
    let wanted = if len > full_len {
        padded_len(len)
    } else if len > full_len - full_len / 8 {
        full_len
    } else {
        padded_len(len).min(full_len)
    };
    // More would be too much to read back at once. So huge packs show their length to that.
    let wanted = wanted.min(len.next_multiple_of(MAX_FILLER_LEN as u64)).min(MAX_PACK_LEN);
    usize::try_from(wanted.saturating_sub(len)).unwrap_or(0)
}

/// The length of a directory `[PACK-1]`.
fn directory_len(frames: usize, chunks: usize) -> u64 {
    (DIRECTORY_LEN + DIRECTORY_FRAME_LEN * frames + DIRECTORY_CHUNK_LEN * chunks) as u64
}

/// The header of a pack of this kind, without a key box yet.
pub(super) fn pack_header(kind: PackKind, keys: &Keys) -> Header {
    let seal = if keys.is_sealed() { Seal::Sealed([0; KEY_BOX_LEN]) } else { Seal::Plain };
    Header { kind: kind as u8, outer_len: 0, body_len: 0, repository: keys.repository(), seal, salt: 0 }
}

fn encode_tail(directory_offset: u64, directory: &[u8], key_box: &[u8; KEY_BOX_LEN]) -> [u8; TAIL_LEN] {
    debug_assert_eq!(directory_offset, aligned(directory_offset));
    let mut tail = [0; TAIL_LEN];
    tail[0..8].copy_from_slice(&directory_offset.to_le_bytes());
    tail[8..16].copy_from_slice(&(directory.len() as u64).to_le_bytes());
    tail[16..144].copy_from_slice(key_box);
    let checksum = id::checksum_128(&[directory, &tail[..168]]);
    tail[168..184].copy_from_slice(&checksum);
    tail[184..192].copy_from_slice(&TAIL_MAGIC);
    tail
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seal_4_packs_are_padded_to_few_lengths_and_never_by_more_than_can_be_read_back() {
        let padded = |len: u64, full: u64| len + filler_len(len, full) as u64;
        let full = 64 << 20;
        assert_eq!(padded(600, full), 1024);
        assert_eq!(padded(1025, full), 1088);
        assert_eq!(padded(full - full / 8 + 1, full), full);
        assert_eq!(padded(full, full), full);
        assert!(padded(full + 1, full) > full);
        for full in [64u64 << 20, 1127 << 20, MAX_PACK_LEN] {
            for len in (1..400).map(|part| MAX_PACK_LEN / 400 * part + 7) {
                assert!(filler_len(len, full) <= MAX_FILLER_LEN);
                assert!(padded(len, full) <= MAX_PACK_LEN);
            }
        }
    }
}
