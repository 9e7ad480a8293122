//! From gathered chunks to frames: compresses them, and verifies what came of that.
//!
//! [`Compressor::compress`] decodes what it has just encoded and computes every id again before it lets go of it `[DUR-4]`: a flipped bit or
//! a fault of the encoder must not reach the disk.

use crate::error::{Corruption, FrameError, Result};
use crate::id::{ChunkId, ChunkKind, IdKeys};
use crate::pack::PackKind;
use crate::pack::frame::{Decoder, FrameBuilder, FrameChunk, RAW, ReadyFrame, ZSTD, parse_table, verify_ids};

/// Frames whose chunks have so many bytes on average are tried first: those of films and pictures are long, and gain nothing.
const TRIED_CHUNK_LEN: usize = 64 << 10;
/// So much is tried, at most a quarter of all, from places far apart: what is compressible and longer than the way between two of them is met.
const TRIED_PARTS: usize = 16;
const TRIED_PART_LEN: usize = 4 << 10;
/// A frame that is too short for so many parts is not tried.
const TRIED_LEAST_PARTS: usize = 4;

/// How frames are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    Off,
    /// By zstd at this level, 1 to 19.
    Level(i32),
}

impl Default for Compression {
    fn default() -> Self {
        Self::Level(3)
    }
}

/// Compresses frames, one thread's worth of state.
pub struct Compressor {
    keys: IdKeys,
    encoder: Option<zstd::bulk::Compressor<'static>>,
    probe: Option<zstd::bulk::Compressor<'static>>,
    /// Frames of short chunks are tried as well.
    tries_all: bool,
    decoder: Decoder,
    /// Memory for what is encoded.
    encoded: Vec<u8>,
}

impl Compressor {
    /// A compressor for chunks named by `keys`.
    ///
    /// # Errors
    /// Memory for zstd could not be had.
    pub fn new(compression: Compression, keys: IdKeys) -> Result<Self, FrameError> {
        let at = |level| encoder(level).map_err(FrameError::Compression);
        let (encoder, probe) = match compression {
            Compression::Off => (None, None),
            Compression::Level(level) => (Some(at(level)?), Some(at(1)?)),
        };
        // Up to level 3 zstd itself gives up soon.
        let tries_all = matches!(compression, Compression::Level(4..));
        let decoder = Decoder::new().map_err(FrameError::Compression)?;
        Ok(Self { keys, encoder, probe, tries_all, decoder, encoded: Vec::new() })
    }

    /// Compresses the gathered chunks, decodes the result, and computes all ids again. The builder is empty then, and has its memory
    /// still unless that is in the frame.
    ///
    /// # Errors
    /// See [`FrameError`].
    pub fn compress(&mut self, builder: &mut FrameBuilder) -> Result<ReadyFrame, FrameError> {
        let start = builder.lay_table();
        let plain = &builder.buffer[start..];
        let plain_len = u32::try_from(plain.len()).unwrap_or(u32::MAX);
        let saves = self.may_save(plain, &builder.ids)? && self.encode(plain)?;
        let (codec, stored) = if saves { (ZSTD, &self.encoded[..]) } else { (RAW, plain) };
        let chunks = verify(&self.keys, &builder.ids, (codec, plain_len, stored), &mut self.decoder)
            .map_err(FrameError::NotReproduced)?;
        builder.ids.clear();
        let (buffer, start) =
            if saves { (self.encoded.clone(), 0) } else { (std::mem::take(&mut builder.buffer), start) };
        builder.buffer.clear();
        Ok(ReadyFrame { codec, plain_len, chunks, buffer, start })
    }

    /// Whether compressing may save something: no, if the chunks are long and some parts of them, tried at level 1, do not shrink by
    /// 1/128; or if they are nodes of trees, which are much the same all over, and do not by 1/32. To compress all of it and find nothing saved
    /// would be an eighth of all the work on a film, and a fifth of that on a million small files, which are in their nodes.
    fn may_save(&mut self, plain: &[u8], chunks: &[(ChunkId, ChunkKind, u32)]) -> Result<bool, FrameError> {
        let Some(probe) = &mut self.probe else { return Ok(false) };
        let count = TRIED_PARTS.min(plain.len() / (4 * TRIED_PART_LEN));
        let is_of_long_chunks = plain.len() / chunks.len().max(1) >= TRIED_CHUNK_LEN;
        let is_of_nodes = chunks.first().is_some_and(|(_, kind, _)| PackKind::of(*kind) == PackKind::Tree);
        if count < TRIED_LEAST_PARTS || !(is_of_long_chunks || is_of_nodes || self.tries_all) {
            return Ok(true);
        }
        let parts = plain.chunks_exact(plain.len() / count).filter_map(|part| part.get(..TRIED_PART_LEN));
        let tried = parts.collect::<Vec<_>>().concat();
        self.encoded.clear();
        self.encoded.reserve(zstd::zstd_safe::compress_bound(tried.len()));
        probe.compress_to_buffer(&tried, &mut self.encoded).map_err(FrameError::Compression)?;
        let least = tried.len() / if is_of_nodes { 32 } else { 128 };
        Ok(self.encoded.len() < tried.len() - least)
    }

    /// Compresses; whether that saves at least 1/16.
    fn encode(&mut self, plain: &[u8]) -> Result<bool, FrameError> {
        let Some(encoder) = &mut self.encoder else { return Ok(false) };
        let (most, result) = (plain.len() - plain.len() / 16, &mut self.encoded);
        result.clear();
        result.reserve(zstd::zstd_safe::compress_bound(plain.len()));
        encoder.compress_to_buffer(plain, result).map_err(FrameError::Compression)?;
        Ok(result.len() <= most)
    }
}

/// An encoder for frames of some megabytes.
fn encoder(level: i32) -> std::io::Result<zstd::bulk::Compressor<'static>> {
    use zstd::zstd_safe::CParameter::{ChainLog, HashLog, WindowLog};
    let mut encoder = zstd::bulk::Compressor::new(level)?;
    if (3..=15).contains(&level) {
        // These levels look back 2 MiB.
        encoder.set_parameter(WindowLog(22))?;
    }
    if level == 3 {
        // Tables that fit into the cache of a core: 8 % quicker and 0.9 % longer on the kernel tree, which the longer window saves.
        encoder.set_parameter(HashLog(16))?;
        encoder.set_parameter(ChainLog(15))?;
    }
    Ok(encoder)
}

/// Decodes a frame, and computes its ids again.
fn verify(
    keys: &IdKeys,
    ids: &[(ChunkId, ChunkKind, u32)],
    (codec, plain_len, stored): (u8, u32, &[u8]),
    decoder: &mut Decoder,
) -> Result<Vec<(ChunkId, FrameChunk)>, Corruption> {
    let plain = if codec == RAW { stored } else { decoder.decode(plain_len, stored)? };
    verify_ids(keys, ids, plain, &parse_table(plain, None)?)
}
