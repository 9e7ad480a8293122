//! Chunks to frames to pack bytes, and back.

/// The longest chunk.
pub const MAX_CHUNK_LEN: usize = 16 << 20;
