//! Lays frames into a pack, hashing on the way, and closes it with directory and tail.

use std::io::{self, Write};

use crate::backend::{Backend, NewFile};
use crate::error::{Error, Result};
use crate::header::{Header, Magic};
use crate::id::{self, ChunkId, FileHasher, PackId, RepositoryId};
use crate::pack::frame::{FrameChunk, SealedFrame};
use crate::pack::{
    DIRECTORY_CHUNK_LEN, DIRECTORY_FRAME_LEN, DIRECTORY_LEN, Directory, DirectoryFrame, FRAME_HEADER_LEN,
    Location, MAX_PACK_CHUNKS, MAX_PACK_LEN, PackKind, Placed, TAIL_LEN, TAIL_MAGIC, aligned, pack_file_name,
};

const ALIGNMENT_LEN: usize = 64;

/// A pack being written under a temporary name.
pub struct PackWriter {
    file: Box<dyn NewFile>,
    kind: PackKind,
    repository: RepositoryId,
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

impl PackWriter {
    /// Starts a pack in the file `temporary`.
    ///
    /// # Errors
    /// Any error of the medium.
    pub fn new(
        backend: &dyn Backend,
        temporary: &str,
        kind: PackKind,
        repository: RepositoryId,
    ) -> Result<Self> {
        let file = backend.create(temporary).map_err(Error::repository("create", temporary))?;
        let mut writer = Self {
            file,
            kind,
            repository,
            hasher: FileHasher::default(),
            len: 0,
            frames: Vec::new(),
            chunks: Vec::new(),
        };
        let header = Header { kind: kind as u8, outer_len: 0, body_len: 0, repository };
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

    /// Whether this frame can be added without breaking a limit of the format, directory and tail included.
    #[must_use]
    pub fn has_room_for(&self, frame: &SealedFrame) -> bool {
        let chunks = self.chunks.len() + frame.chunk_count();
        let directory = directory_len(self.frames.len() + 1, chunks);
        chunks <= MAX_PACK_CHUNKS
            && self.len + frame.len_in_pack() + directory + TAIL_LEN as u64 <= MAX_PACK_LEN
    }

    /// Lays a frame into the pack.
    ///
    /// # Errors
    /// Any error of the medium.
    pub fn add(&mut self, frame: &SealedFrame) -> Result<()> {
        let number = u32::try_from(self.frames.len()).unwrap_or(u32::MAX);
        let offset = u32::try_from(self.len).unwrap_or(u32::MAX);
        let padding = (FRAME_HEADER_LEN + frame.stored.len()).wrapping_neg() % ALIGNMENT_LEN;
        [&frame.header(number)[..], &frame.stored, &[0; ALIGNMENT_LEN][..padding]]
            .iter()
            .try_for_each(|bytes| self.write(bytes))
            .map_err(Error::repository("write", "a pack"))?;
        self.frames.push(DirectoryFrame {
            offset,
            stored_len: u32::try_from(frame.stored.len()).unwrap_or(u32::MAX),
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
        let directory = self.encode_directory();
        Directory::decode(&directory, self.kind).map_err(Error::damaged("a pack directory to be written"))?;
        let tail = encode_tail(self.len, &directory);
        self.write(&directory)
            .and_then(|()| self.write(&tail))
            .map_err(Error::repository("write", "a pack"))?;
        let id = PackId::from_bytes(self.hasher.finish());
        let name = pack_file_name(&id);
        self.file.publish(&name).map_err(Error::repository("publish", &name))?;
        let chunks = self
            .chunks
            .iter()
            .filter_map(|(chunk_id, frame, chunk)| {
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
            })
            .collect();
        Ok(FinishedPack { id, kind: self.kind, stored_len: self.len, chunks })
    }

    /// The repository that the pack is for.
    #[must_use]
    pub fn repository(&self) -> RepositoryId {
        self.repository
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

/// The length of a directory `[PACK-1]`.
fn directory_len(frames: usize, chunks: usize) -> u64 {
    (DIRECTORY_LEN + DIRECTORY_FRAME_LEN * frames + DIRECTORY_CHUNK_LEN * chunks) as u64
}

fn encode_tail(directory_offset: u64, directory: &[u8]) -> [u8; TAIL_LEN] {
    debug_assert_eq!(directory_offset, aligned(directory_offset));
    let mut tail = [0; TAIL_LEN];
    tail[0..8].copy_from_slice(&directory_offset.to_le_bytes());
    tail[8..16].copy_from_slice(&(directory.len() as u64).to_le_bytes());
    let checksum = id::checksum_128(&[directory, &tail[..168]]);
    tail[168..184].copy_from_slice(&checksum);
    tail[184..192].copy_from_slice(&TAIL_MAGIC);
    tail
}
