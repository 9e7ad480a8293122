//! Takes a pack apart: by its directory, or frame after frame, or, after damage, wherever a frame can be found.

use std::io;

use crate::backend::{Backend, StoredFile};
use crate::error::{Corruption, Error, Result};
use crate::header::{HEADER_LEN, Header, Magic, Seal, array};
use crate::id::{self, ChunkId, ChunkKind, PackId};
use crate::pack::frame::{Frame, FrameChunk, FrameHeader, WholeFrame, decode_frame, most_stored};
use crate::pack::writer::pack_header;
use crate::pack::{
    ALIGNMENT, DIRECTORY_CHUNK_LEN, DIRECTORY_FRAME_LEN, DIRECTORY_LEN, FRAME_HEADER_LEN, Location,
    MAX_CHUNK_LEN, MAX_FILLER_LEN, MAX_FRAME_LEN, MAX_PACK_CHUNKS, MAX_PACK_LEN, PackKind, Placed, TAIL_LEN,
    TAIL_MAGIC, aligned, mask_tail, pack_file_name,
};
use crate::seal::{BoxKey, DirectoryOpener, KEY_BOX_LEN, Keys, Mask, Opener, SEALED_HEADER_LEN, TAG_LEN};

/// A frame as the directory describes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DirectoryFrame {
    /// Where its header stands in the pack.
    pub offset: u32,
    /// Its stored bytes.
    pub stored_len: u32,
    /// Its plain bytes.
    pub plain_len: u32,
    /// How it is compressed.
    pub codec: u8,
}

/// What a pack says of itself at its end.
#[derive(Debug, PartialEq, Eq)]
pub struct Directory {
    /// The frames, by number.
    pub frames: Vec<DirectoryFrame>,
    /// The chunks with the number of their frame, in order.
    pub chunks: Vec<(ChunkId, u32, FrameChunk)>,
}

impl Directory {
    /// Reads a directory, its seal opened, and checks `[PACK-1]` and that what it says is possible; lengths are those of the bytes. One that
    /// was sealed may end in zeros.
    ///
    /// # Errors
    /// Names the rule.
    pub fn decode(bytes: &[u8], kind: PackKind, is_sealed: bool) -> Result<Self, Corruption> {
        const BROKEN: Corruption = Corruption::rule("PACK-1", "its directory is not possible");
        let frame_count = u32::from_le_bytes(*bytes.first_chunk::<4>().ok_or(BROKEN)?) as usize;
        let chunk_count = u32::from_le_bytes(array(bytes.get(4..8).ok_or(BROKEN)?)) as usize;
        if chunk_count == 0 || chunk_count > MAX_PACK_CHUNKS || frame_count == 0 || frame_count > chunk_count
        {
            return Err(BROKEN);
        }
        let frames_end = DIRECTORY_LEN + DIRECTORY_FRAME_LEN * frame_count;
        let end = frames_end + DIRECTORY_CHUNK_LEN * chunk_count;
        let Some((bytes, filler)) = bytes.split_at_checked(end) else { return Err(BROKEN) };
        if !(is_sealed || filler.is_empty()) || filler.iter().any(|byte| *byte != 0) {
            return Err(BROKEN);
        }
        let frames = decode_frames(&bytes[DIRECTORY_LEN..frames_end], is_sealed)?;
        let mut chunks: Vec<(ChunkId, u32, FrameChunk)> = Vec::with_capacity(chunk_count);
        for row in bytes[frames_end..].chunks_exact(DIRECTORY_CHUNK_LEN) {
            let chunk_kind =
                ChunkKind::from_number(row[32]).filter(|found| PackKind::of(*found) == kind).ok_or(BROKEN)?;
            let frame = u32::from_le_bytes(array(&row[33..]));
            let chunk = FrameChunk {
                kind: chunk_kind,
                offset: u32::from_le_bytes(array(&row[37..])),
                len: u32::from_le_bytes(array(&row[41..])),
            };
            let inside = frames.get(frame as usize).is_some_and(|frame: &DirectoryFrame| {
                u64::from(chunk.offset) + u64::from(chunk.len) <= u64::from(frame.plain_len)
            });
            let in_order = chunks.last().is_none_or(|(_, last, before)| {
                *last < frame || *last == frame && before.offset.checked_add(before.len) == Some(chunk.offset)
            });
            if !inside || !in_order || chunk.len == 0 || chunk.len as usize > MAX_CHUNK_LEN {
                return Err(BROKEN);
            }
            chunks.push((ChunkId::from_bytes(array(row)), frame, chunk));
        }
        Ok(Self { frames, chunks })
    }

    /// The chunks, as facts about the pack `pack`.
    pub fn placed(&self, pack: PackId) -> impl Iterator<Item = Placed> + '_ {
        self.chunks.iter().filter_map(move |(id, number, chunk)| {
            let frame = self.frames.get(*number as usize)?;
            Some((
                *id,
                Location {
                    pack,
                    frame_offset: frame.offset,
                    frame_stored_len: frame.stored_len,
                    offset: chunk.offset,
                    len: chunk.len,
                    kind: chunk.kind,
                },
            ))
        })
    }
}

/// Frames lie one after the other `[PACK-3]`, from the header on `[FRAME-1]`.
fn decode_frames(rows: &[u8], is_sealed: bool) -> Result<Vec<DirectoryFrame>, Corruption> {
    let mut expected = HEADER_LEN as u64;
    let mut frames = Vec::with_capacity(rows.len() / DIRECTORY_FRAME_LEN);
    for row in rows.chunks_exact(DIRECTORY_FRAME_LEN) {
        let frame = DirectoryFrame {
            offset: u32::from_le_bytes(array(row)),
            stored_len: u32::from_le_bytes(array(&row[4..])),
            plain_len: u32::from_le_bytes(array(&row[8..])),
            codec: row[12],
        };
        if u64::from(frame.offset) != expected || row[13..].iter().any(|byte| *byte != 0) {
            return Err(Corruption::rule("PACK-3", "its directory has gaps, or reserved bytes are set"));
        }
        if frame.plain_len as usize > MAX_FRAME_LEN
            || frame.stored_len > most_stored(frame.plain_len, is_sealed)
        {
            return Err(Corruption::rule("FRAME-3", "the lengths of a frame are not possible"));
        }
        expected = aligned(expected + FRAME_HEADER_LEN as u64 + u64::from(frame.stored_len));
        frames.push(frame);
    }
    Ok(frames)
}

/// A frame found by walking.
#[derive(Debug)]
pub struct WalkedFrame {
    /// Where its header stands.
    pub offset: u32,
    /// Its stored bytes.
    pub stored_len: u32,
    /// Its place among the frames of the pack, as it says itself.
    pub number: u32,
    /// Its codec.
    pub codec: u8,
    /// Its content.
    pub frame: Frame,
}

/// A pack open for reading.
pub struct PackFile {
    file: Box<dyn StoredFile>,
    name: String,
    id: PackId,
    kind: PackKind,
    seal: Option<PackSeal>,
}

/// What opens a sealed pack.
struct PackSeal {
    key_box: [u8; KEY_BOX_LEN],
    sealed_header: [u8; SEALED_HEADER_LEN],
    frames: Opener,
    directory: DirectoryOpener,
    mask: Mask,
}

impl PackSeal {
    fn open(kind: PackKind, keys: &Keys, key_box: [u8; KEY_BOX_LEN]) -> Result<Self, Corruption> {
        let sealed_header = pack_header(kind, keys).sealed_part(Magic::Pack);
        let frames = keys.open_file(BoxKey::Data, &sealed_header, &key_box)?;
        let (mask, directory) = keys.open_pack(&key_box)?;
        Ok(Self { key_box, sealed_header, frames, directory, mask })
    }
}

impl PackFile {
    /// Opens a pack and reads its header.
    ///
    /// # Errors
    /// Any error of the medium; damage to the header or its key box; `Locked`.
    pub fn open(backend: &dyn Backend, id: PackId, keys: &Keys) -> Result<Self> {
        let name = pack_file_name(&id);
        let file = backend.open(&name).map_err(Error::repository("read", &name))?;
        let mut bytes = [0; HEADER_LEN];
        read_at(&*file, &name, &mut bytes, 0)?;
        let damaged = Error::damaged(&name);
        let header = Header::decode(&bytes, Magic::Pack, Some(keys.repository()));
        let opened = header.and_then(|header| {
            header.fits(keys)?;
            let kind = PackKind::from_number(header.kind);
            let kind = kind.ok_or(Corruption::rule("HEAD-6", "its kind is unknown"))?;
            let seal = match header.seal {
                Seal::Sealed(key_box) => Some(PackSeal::open(kind, keys, key_box)?),
                Seal::Plain | Seal::Passphrase => None,
            };
            Ok((kind, seal))
        });
        let (kind, seal) = opened.map_err(damaged)?;
        Ok(Self { file, name, id, kind, seal })
    }

    /// Opens a pack whose header may be damaged: what else can be had of it is had by its frames. Sealed ones are opened with the key
    /// box of the tail.
    ///
    /// # Errors
    /// Any error of the medium; of a sealed pack damage to the tail's key box as well.
    pub fn open_damaged(backend: &dyn Backend, id: PackId, kind: PackKind, keys: &Keys) -> Result<Self> {
        let name = pack_file_name(&id);
        let file = backend.open(&name).map_err(Error::repository("read", &name))?;
        let seal = if keys.is_sealed() {
            let mut key_box = [0; KEY_BOX_LEN];
            read_at(&*file, &name, &mut key_box, file.len().saturating_sub(TAIL_LEN as u64 - 16))?;
            Some(PackSeal::open(kind, keys, key_box).map_err(Error::damaged(&name))?)
        } else {
            None
        };
        Ok(Self { file, name, id, kind, seal })
    }

    /// Opens a pack only to hash it: no key is needed, and its kind is not known.
    ///
    /// # Errors
    /// Any error of the medium.
    pub fn open_unread(backend: &dyn Backend, id: PackId) -> Result<Self> {
        let name = pack_file_name(&id);
        let file = backend.open(&name).map_err(Error::repository("read", &name))?;
        Ok(Self { file, name, id, kind: PackKind::Data, seal: None })
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> PackId {
        self.id
    }

    /// What is in it.
    #[must_use]
    pub fn kind(&self) -> PackKind {
        self.kind
    }

    /// Its length.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.file.len()
    }

    /// Whether it has no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Reads tail and directory, checked by `[PACK-4]` and `[PACK-5]`.
    ///
    /// # Errors
    /// Any error of the medium; damage to tail or directory.
    pub fn directory(&self) -> Result<Directory> {
        Ok(self.directory_with_offset()?.0)
    }

    /// The directory, and where in the pack it stands.
    pub(super) fn directory_with_offset(&self) -> Result<(Directory, u64)> {
        let damaged = |corruption| Error::damaged(&self.name)(corruption);
        let (tail, tail_offset) = self.tail()?;
        let offset = u64::from_le_bytes(array(&tail));
        let directory_len = u64::from_le_bytes(array(&tail[8..]));
        if offset.checked_add(directory_len) != Some(tail_offset) || !offset.is_multiple_of(ALIGNMENT) {
            return Err(damaged(Corruption::rule("PACK-4", "its tail does not fit its length")));
        }
        let filler = if self.seal.is_some() { MAX_FILLER_LEN + TAG_LEN } else { 0 };
        let directory_len = usize::try_from(directory_len)
            .ok()
            .filter(|len| {
                *len <= DIRECTORY_LEN + (DIRECTORY_FRAME_LEN + DIRECTORY_CHUNK_LEN) * MAX_PACK_CHUNKS + filler
            })
            .ok_or_else(|| damaged(Corruption::rule("PACK-1", "its directory is too long")))?;
        let mut bytes = vec![0; directory_len];
        read_at(&*self.file, &self.name, &mut bytes, offset)?;
        if tail[168..184] != id::checksum_128(&[&bytes, &tail[..168]]) {
            return Err(damaged(Corruption::WrongChecksum { part: "directory" }));
        }
        let key_box = self.seal.as_ref().map_or([0; KEY_BOX_LEN], |seal| seal.key_box);
        if tail[16..144] != key_box || tail[144..168].iter().any(|byte| *byte != 0) {
            return Err(damaged(Corruption::rule(
                "PACK-5",
                "the key box of its tail is not that of its header, or a reserved byte is set",
            )));
        }
        if let Some(seal) = &self.seal {
            bytes = seal.directory.open(&seal.sealed_header, &bytes).map_err(damaged)?;
        }
        let directory = Directory::decode(&bytes, self.kind, self.seal.is_some()).map_err(damaged)?;
        let end = directory.frames.last().map_or(HEADER_LEN as u64, |frame| {
            aligned(u64::from(frame.offset) + FRAME_HEADER_LEN as u64 + u64::from(frame.stored_len))
        });
        if end != offset {
            return Err(damaged(Corruption::rule(
                "PACK-3",
                "its frames do not end where its directory starts",
            )));
        }
        Ok((directory, offset))
    }

    /// The tail, its mask taken off, and where it stands.
    fn tail(&self) -> Result<([u8; TAIL_LEN], u64)> {
        let damaged = |corruption| Error::damaged(&self.name)(corruption);
        let len = self.len();
        let Some(offset) = len.checked_sub(TAIL_LEN as u64).filter(|offset| *offset > HEADER_LEN as u64)
        else {
            let expected = (HEADER_LEN + TAIL_LEN) as u64;
            return Err(damaged(Corruption::WrongLength { expected, found: len }));
        };
        let mut tail = [0; TAIL_LEN];
        read_at(&*self.file, &self.name, &mut tail, offset)?;
        if len > MAX_PACK_LEN {
            return Err(damaged(Corruption::WrongLength { expected: MAX_PACK_LEN, found: len }));
        }
        if tail[184..] != TAIL_MAGIC {
            return Err(damaged(Corruption::WrongMagic { part: "tail" }));
        }
        if let Some(seal) = &self.seal {
            mask_tail(&seal.mask, offset, &mut tail);
        }
        Ok((tail, offset))
    }

    /// Takes the mask off what stands between the sealed parts of the pack.
    pub(super) fn unmask(&self, offset: u64, bytes: &mut [u8]) {
        if let Some(seal) = &self.seal {
            seal.mask.apply(offset, bytes);
        }
    }

    /// What opens its frames, if it is sealed.
    pub(super) fn opener(&self) -> Option<&Opener> {
        self.seal.as_ref().map(|seal| &seal.frames)
    }

    /// Reads and decodes the frame at `offset` with `stored_len` stored bytes. All is checked but the ids.
    ///
    /// # Errors
    /// Any error of the medium; damage to the frame.
    pub fn frame(&self, offset: u32, stored_len: u32) -> Result<Frame> {
        self.whole_frame(offset, stored_len).map(WholeFrame::into_frame)
    }

    /// The same, with what is stored of it.
    ///
    /// # Errors
    /// Those of [`PackFile::frame`].
    pub fn whole_frame(&self, offset: u32, stored_len: u32) -> Result<WholeFrame> {
        let end = u64::from(offset) + FRAME_HEADER_LEN as u64 + u64::from(stored_len);
        if stored_len as usize > MAX_FRAME_LEN + TAG_LEN || end > self.len() {
            return Err(Error::damaged(&self.name)(Corruption::rule(
                "FRAME-3",
                "a frame lies beyond its end",
            )));
        }
        let mut header = [0; FRAME_HEADER_LEN];
        // One read for both: a frame is far larger than its header.
        let mut bytes = vec![0; FRAME_HEADER_LEN + stored_len as usize];
        read_at(&*self.file, &self.name, &mut bytes, offset.into())?;
        header.copy_from_slice(&bytes[..FRAME_HEADER_LEN]);
        self.unmask(offset.into(), &mut header);
        bytes.drain(..FRAME_HEADER_LEN);
        decode_frame(&header, bytes, Some(self.kind), self.opener()).map_err(Error::damaged(&self.name))
    }

    /// The next whole frame at or after `offset`, found by trying each multiple of 64; nothing if there is none.
    ///
    /// # Errors
    /// Any error of the medium other than reading beyond the end.
    pub fn next_frame(&self, offset: u64) -> Result<Option<WalkedFrame>> {
        let mut offset = aligned(offset.max(HEADER_LEN as u64));
        while offset + FRAME_HEADER_LEN as u64 <= self.len() {
            if let Some(frame) = self.frame_at(offset)? {
                return Ok(Some(frame));
            }
            offset += ALIGNMENT;
        }
        Ok(None)
    }

    fn frame_at(&self, offset: u64) -> Result<Option<WalkedFrame>> {
        let Ok(short) = u32::try_from(offset) else { return Ok(None) };
        let mut bytes = [0; FRAME_HEADER_LEN];
        read_at(&*self.file, &self.name, &mut bytes, offset)?;
        self.unmask(offset, &mut bytes);
        let Ok(header) = FrameHeader::decode(&bytes, self.seal.is_some()) else { return Ok(None) };
        match self.frame(short, header.stored_len) {
            Ok(frame) => Ok(Some(WalkedFrame {
                offset: short,
                stored_len: header.stored_len,
                number: header.number,
                codec: header.codec,
                frame,
            })),
            Err(Error::Damaged { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Reads the whole pack in pieces and returns the hash of its bytes; `progress` hears of each piece and may end it.
    ///
    /// # Errors
    /// Any error of the medium; that of `progress`.
    pub fn hash(&self, mut progress: impl FnMut(&[u8]) -> Result<()>) -> Result<PackId> {
        let mut hasher = id::FileHasher::default();
        let mut buffer = vec![0; 1 << 20];
        let mut offset = 0;
        while offset < self.len() {
            let len =
                usize::try_from(self.len() - offset).map_or(buffer.len(), |rest| rest.min(buffer.len()));
            read_at(&*self.file, &self.name, &mut buffer[..len], offset)?;
            hasher.update(&buffer[..len]);
            progress(&buffer[..len])?;
            offset += len as u64;
        }
        Ok(PackId::from_bytes(hasher.finish()))
    }

    /// Reads bytes of the pack as they are.
    ///
    /// # Errors
    /// Any error of the medium.
    pub fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        read_at(&*self.file, &self.name, buffer, offset)
    }

    /// Drops what the system has cached of it.
    ///
    /// # Errors
    /// Any error of the system.
    pub fn drop_cached(&self) -> Result<()> {
        self.file.drop_cached().map_err(Error::repository("read", &self.name))
    }
}

/// A file that ends early is damaged, not unreadable.
fn read_at(file: &dyn StoredFile, name: &str, buffer: &mut [u8], offset: u64) -> Result<()> {
    file.read_exact_at(buffer, offset).map_err(|error| {
        if error.kind() == io::ErrorKind::UnexpectedEof {
            let expected = offset + buffer.len() as u64;
            Error::damaged(name)(Corruption::WrongLength { expected, found: file.len() })
        } else {
            Error::repository("read", name)(error)
        }
    })
}
