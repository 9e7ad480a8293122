//! The compression unit: some chunks, compressed together, explaining itself.
//!
//! Plain bytes of a frame: count | (kind, length) of each chunk | the chunks.

use crate::error::Corruption;
use crate::header::array;
use crate::id::{self, ChunkId, ChunkKind, IdKeys};
use crate::pack::{
    FRAME_HEADER_LEN, FRAME_MAGIC, MAX_CHUNK_LEN, MAX_FRAME_CHUNKS, MAX_FRAME_LEN, PackKind, aligned,
};
use crate::seal::{Opener, TAG_LEN};

const TABLE_ROW_LEN: usize = 5;
/// The longest table of chunks.
const MAX_TABLE_LEN: usize = 4 + TABLE_ROW_LEN * MAX_FRAME_CHUNKS;
pub(super) const RAW: u8 = 0;
pub(super) const ZSTD: u8 = 1;

/// A chunk in a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameChunk {
    /// What it is.
    pub kind: ChunkKind,
    /// Where it stands in the plain bytes.
    pub offset: u32,
    /// Its length.
    pub len: u32,
}

/// Chunks being gathered for one frame.
#[derive(Default)]
pub struct FrameBuilder {
    pub(super) ids: Vec<(ChunkId, ChunkKind, u32)>,
    /// Room for the longest table, so that the plain bytes are put together in place; then the chunks.
    pub(super) buffer: Vec<u8>,
}

impl FrameBuilder {
    /// A builder that uses the memory of an earlier one.
    #[must_use]
    pub fn with_buffer(buffer: Vec<u8>) -> Self {
        Self { ids: Vec::new(), buffer }
    }

    /// Its memory, for another one.
    #[must_use]
    pub fn into_buffer(self) -> Vec<u8> {
        self.buffer
    }

    /// Whether it has any memory yet.
    #[must_use]
    pub fn has_buffer(&self) -> bool {
        self.buffer.capacity() > 0
    }

    /// Adds a chunk. The caller keeps the limits: see [`FrameBuilder::has_room_for`].
    pub fn push(&mut self, kind: ChunkKind, id: ChunkId, plain: &[u8]) {
        let len = u32::try_from(plain.len()).unwrap_or(u32::MAX);
        if self.ids.is_empty() {
            self.buffer.resize(MAX_TABLE_LEN, 0);
        }
        self.ids.push((id, kind, len));
        self.buffer.extend_from_slice(plain);
    }

    /// Whether a chunk of this length can be added without breaking a limit.
    #[must_use]
    pub fn has_room_for(&self, len: usize) -> bool {
        self.ids.len() < MAX_FRAME_CHUNKS && self.chunk_bytes() + len <= 2 * MAX_CHUNK_LEN
    }

    /// The bytes of the chunks gathered so far.
    #[must_use]
    pub fn chunk_bytes(&self) -> usize {
        if self.ids.is_empty() { 0 } else { self.buffer.len() - MAX_TABLE_LEN }
    }

    /// How many chunks were gathered so far.
    #[must_use]
    pub fn chunk_count(&self) -> usize {
        self.ids.len()
    }

    /// Whether there is no chunk yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// Lays the table right before the chunks, and returns where in the buffer the plain bytes begin.
    pub(super) fn lay_table(&mut self) -> usize {
        let start = MAX_TABLE_LEN - (4 + TABLE_ROW_LEN * self.ids.len());
        let (count, rows) = self.buffer[start..MAX_TABLE_LEN].split_at_mut(4);
        count.copy_from_slice(&u32::try_from(self.ids.len()).unwrap_or(u32::MAX).to_le_bytes());
        for (row, (_, kind, len)) in rows.chunks_exact_mut(TABLE_ROW_LEN).zip(&self.ids) {
            row[0] = kind.number();
            row[1..].copy_from_slice(&len.to_le_bytes());
        }
        start
    }
}

/// A frame ready to be laid into a pack: compressed, and verified. It is sealed, if that is to be, when the pack gives it its number.
pub struct ReadyFrame {
    pub(super) codec: u8,
    pub(super) plain_len: u32,
    pub(super) chunks: Vec<(ChunkId, FrameChunk)>,
    pub(super) buffer: Vec<u8>,
    /// Where in the buffer the stored bytes begin.
    pub(super) start: usize,
}

impl ReadyFrame {
    /// Its bytes as stored in a plain pack.
    pub(super) fn stored(&self) -> &[u8] {
        self.buffer.get(self.start..).unwrap_or_default()
    }

    /// Its memory, for another frame.
    #[must_use]
    pub fn into_buffer(self) -> Vec<u8> {
        self.buffer
    }

    /// How many bytes it takes in a plain pack.
    #[must_use]
    pub fn len_in_pack(&self) -> u64 {
        aligned((FRAME_HEADER_LEN + self.stored().len()) as u64)
    }

    /// How many chunks it has.
    #[must_use]
    pub fn chunk_count(&self) -> usize {
        self.chunks.len()
    }

    /// How long they are, in order.
    pub fn chunk_lens(&self) -> impl Iterator<Item = u32> {
        self.chunks.iter().map(|(_, chunk)| chunk.len)
    }

    /// The header of this frame as the `number`th of its pack, with so many stored bytes; the checksum is still to come.
    pub(super) fn header(&self, number: u32, stored_len: usize) -> [u8; FRAME_HEADER_LEN] {
        let mut header = [0; FRAME_HEADER_LEN];
        header[0..4].copy_from_slice(&FRAME_MAGIC);
        header[4..8].copy_from_slice(&number.to_le_bytes());
        header[8] = self.codec;
        header[12..16].copy_from_slice(&self.plain_len.to_le_bytes());
        header[16..20].copy_from_slice(&u32::try_from(stored_len).unwrap_or(u32::MAX).to_le_bytes());
        header
    }
}

/// Computes the ids of the chunks found in a frame again.
pub(super) fn verify_ids(
    keys: &IdKeys,
    ids: &[(ChunkId, ChunkKind, u32)],
    plain: &[u8],
    found: &[FrameChunk],
) -> Result<Vec<(ChunkId, FrameChunk)>, Corruption> {
    if found.len() != ids.len() {
        return Err(Corruption::rule("FRAME-5", "the number of chunks differs"));
    }
    let mut chunks = Vec::with_capacity(ids.len());
    for (chunk, (id, kind, _)) in found.iter().zip(ids) {
        let plain =
            chunk_bytes(plain, chunk).ok_or(Corruption::rule("FRAME-5", "a chunk is out of bounds"))?;
        if chunk.kind != *kind || keys.chunk_id(*kind, plain) != *id {
            return Err(Corruption::WrongChunk { kind: *kind, id: *id });
        }
        chunks.push((*id, *chunk));
    }
    Ok(chunks)
}

fn chunk_bytes<'p>(plain: &'p [u8], chunk: &FrameChunk) -> Option<&'p [u8]> {
    let start = chunk.offset as usize;
    plain.get(start..start.checked_add(chunk.len as usize)?)
}

/// A frame decoded: its plain bytes, and where its chunks stand in them.
#[derive(Debug)]
pub struct Frame {
    plain: Vec<u8>,
    chunks: Vec<FrameChunk>,
}

impl Frame {
    /// Its chunks, in order.
    #[must_use]
    pub fn chunks(&self) -> &[FrameChunk] {
        &self.chunks
    }

    /// The bytes of one of its chunks.
    #[must_use]
    pub fn bytes(&self, chunk: &FrameChunk) -> Option<&[u8]> {
        chunk_bytes(&self.plain, chunk)
    }

    /// The length of its plain bytes.
    #[must_use]
    pub fn plain_len(&self) -> usize {
        self.plain.len()
    }

    /// Decodes stored bytes and checks `[FRAME-4]` and `[FRAME-5]`.
    fn from_stored(
        codec: u8,
        plain_len: u32,
        stored: &mut Vec<u8>,
        pack: Option<PackKind>,
    ) -> Result<Self, Corruption> {
        let len = plain_len as usize;
        let plain = match codec {
            RAW => std::mem::take(stored),
            ZSTD => {
                let undecoded = |_| Corruption::rule("FRAME-4", "a zstd frame cannot be decompressed");
                let mut decoder = Decoder::new().map_err(undecoded)?;
                decoder.decode(plain_len, stored)?;
                decoder.plain
            }
            _ => return Err(Corruption::rule("FRAME-4", "its codec is unknown")),
        };
        if plain.len() != len {
            return Err(Corruption::rule("FRAME-4", "a frame does not decode to its length"));
        }
        let chunks = parse_table(&plain, pack)?;
        Ok(Self { plain, chunks })
    }
}

/// A frame decoded, and as it was compressed: what another pack may take over as it is.
#[derive(Debug)]
pub struct WholeFrame {
    frame: Frame,
    codec: u8,
    plain_len: u32,
    /// Empty if it is not compressed.
    compressed: Vec<u8>,
}

impl WholeFrame {
    /// The frame decoded.
    #[must_use]
    pub fn frame(&self) -> &Frame {
        &self.frame
    }

    /// The same without its stored bytes.
    #[must_use]
    pub fn into_frame(self) -> Frame {
        self.frame
    }

    /// The frame with the ids of its chunks, which are computed again.
    ///
    /// # Errors
    /// `WrongChunk`: a chunk has another id; `FRAME-5`: there is another number of chunks.
    pub fn named(self, keys: &IdKeys, ids: &[ChunkId]) -> Result<NamedFrame, Corruption> {
        let found = &self.frame.chunks;
        let named: Vec<_> = found.iter().zip(ids).map(|(chunk, id)| (*id, chunk.kind, chunk.len)).collect();
        let chunks = verify_ids(keys, &named, &self.frame.plain, found)?;
        Ok(NamedFrame { whole: self, chunks })
    }
}

/// A frame whose stored bytes were decoded and whose ids were verified `[DUR-4]`.
#[derive(Debug)]
pub struct NamedFrame {
    whole: WholeFrame,
    chunks: Vec<(ChunkId, FrameChunk)>,
}

impl NamedFrame {
    /// Its chunks, in order.
    #[must_use]
    pub fn chunks(&self) -> &[(ChunkId, FrameChunk)] {
        &self.chunks
    }

    /// The bytes of one of its chunks.
    #[must_use]
    pub fn bytes(&self, chunk: &FrameChunk) -> Option<&[u8]> {
        self.whole.frame.bytes(chunk)
    }

    /// The frame as it can be laid into another pack.
    #[must_use]
    pub fn into_ready(self) -> ReadyFrame {
        let WholeFrame { frame, codec, plain_len, compressed } = self.whole;
        let buffer = if codec == RAW { frame.plain } else { compressed };
        ReadyFrame { codec, plain_len, chunks: self.chunks, buffer, start: 0 }
    }
}

/// Decodes zstd frames, and keeps the memory for it.
pub(super) struct Decoder {
    context: zstd::bulk::Decompressor<'static>,
    plain: Vec<u8>,
}

impl Decoder {
    pub(super) fn new() -> std::io::Result<Self> {
        Ok(Self { context: zstd::bulk::Decompressor::new()?, plain: Vec::new() })
    }

    /// The so many plain bytes of a frame.
    pub(super) fn decode(&mut self, plain_len: u32, stored: &[u8]) -> Result<&[u8], Corruption> {
        let stated = zstd::zstd_safe::get_frame_content_size(stored);
        if !matches!(stated, Ok(Some(stated)) if stated == u64::from(plain_len)) {
            return Err(Corruption::rule("FRAME-4", "a zstd frame states another size than its header"));
        }
        if zstd::zstd_safe::find_frame_compressed_size(stored) != Ok(stored.len()) {
            return Err(Corruption::rule("FRAME-4", "the stored bytes are not one zstd frame"));
        }
        self.plain.clear();
        self.plain.reserve_exact(plain_len as usize);
        match self.context.decompress_to_buffer(stored, &mut self.plain) {
            Ok(len) if len == plain_len as usize => Ok(&self.plain),
            _ => Err(Corruption::rule("FRAME-4", "a zstd frame cannot be decompressed")),
        }
    }
}

pub(super) fn parse_table(plain: &[u8], pack: Option<PackKind>) -> Result<Vec<FrameChunk>, Corruption> {
    const BROKEN: Corruption = Corruption::rule("FRAME-5", "the table of chunks in a frame is not possible");
    let count = u32::from_le_bytes(*plain.first_chunk::<4>().ok_or(BROKEN)?) as usize;
    if count == 0 || count > MAX_FRAME_CHUNKS {
        return Err(BROKEN);
    }
    let table = plain.get(4..4 + TABLE_ROW_LEN * count).ok_or(BROKEN)?;
    let mut offset = 4 + TABLE_ROW_LEN * count;
    let mut chunks = Vec::with_capacity(count);
    for row in table.chunks_exact(TABLE_ROW_LEN) {
        let kind = ChunkKind::from_number(row[0]).ok_or(BROKEN)?;
        let len = u32::from_le_bytes(array(&row[1..]));
        if len == 0 || len as usize > MAX_CHUNK_LEN || pack.is_some_and(|pack| pack != PackKind::of(kind)) {
            return Err(BROKEN);
        }
        chunks.push(FrameChunk { kind, offset: u32::try_from(offset).map_err(|_| BROKEN)?, len });
        offset += len as usize;
    }
    if offset == plain.len() { Ok(chunks) } else { Err(BROKEN) }
}

/// What a frame's header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FrameHeader {
    pub number: u32,
    pub codec: u8,
    pub plain_len: u32,
    pub stored_len: u32,
    checksum: [u8; 8],
}

impl FrameHeader {
    /// Reads a header, its mask taken off, and checks what can be seen in it alone. Sealed bytes have a tag too many.
    pub(super) fn decode(bytes: &[u8; FRAME_HEADER_LEN], is_sealed: bool) -> Result<Self, Corruption> {
        if bytes[0..4] != FRAME_MAGIC {
            return Err(Corruption::WrongMagic { part: "frame" });
        }
        let header = Self {
            number: u32::from_le_bytes(array(&bytes[4..8])),
            codec: bytes[8],
            plain_len: u32::from_le_bytes(array(&bytes[12..16])),
            stored_len: u32::from_le_bytes(array(&bytes[16..20])),
            checksum: array(&bytes[24..32]),
        };
        if header.plain_len as usize > MAX_FRAME_LEN
            || header.stored_len > most_stored(header.plain_len, is_sealed)
        {
            return Err(Corruption::rule("FRAME-3", "the lengths of a frame are not possible"));
        }
        if bytes[9..12].iter().chain(&bytes[20..24]).any(|byte| *byte != 0) {
            return Err(Corruption::rule("FRAME-7", "a reserved byte of a frame is set"));
        }
        Ok(header)
    }
}

/// The most bytes that a frame of so many plain bytes has as stored `[FRAME-3]`.
pub(super) fn most_stored(plain_len: u32, is_sealed: bool) -> u32 {
    let tag_len = if is_sealed { u32::try_from(TAG_LEN).unwrap_or(0) } else { 0 };
    plain_len.saturating_add(tag_len)
}

/// Decodes a frame from its header, its mask taken off, and its stored bytes; checks its checksum `[FRAME-2]`, its seal `[SEAL-2]` and all
/// but the ids.
///
/// # Errors
/// Names the rule it breaks.
pub fn decode_frame(
    header: &[u8; FRAME_HEADER_LEN],
    stored: Vec<u8>,
    pack: Option<PackKind>,
    seal: Option<&Opener>,
) -> Result<WholeFrame, Corruption> {
    let parsed = FrameHeader::decode(header, seal.is_some())?;
    if parsed.stored_len as usize != stored.len() {
        return Err(Corruption::rule("FRAME-3", "a frame has another length than the index says"));
    }
    if parsed.checksum != id::checksum_64(&[&header[..24], &stored]) {
        return Err(Corruption::WrongChecksum { part: "frame" });
    }
    let mut stored = match seal {
        Some(opener) => opener.open(parsed.number, &header[..24], &stored, "frame")?,
        None => stored,
    };
    let frame = Frame::from_stored(parsed.codec, parsed.plain_len, &mut stored, pack)?;
    Ok(WholeFrame { frame, codec: parsed.codec, plain_len: parsed.plain_len, compressed: stored })
}
