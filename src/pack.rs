//! Chunks to frames to pack bytes, and back: `spec/format.md` §6. The only place that knows zstd.
//!
//! `frame` is some chunks together, gathered or decoded; `compress` compresses them and verifies the result before anyone writes it; `writer`
//! lays frames into a pack and closes it with a directory; `reader` takes a pack apart: by directory, or by walking its frames; `scan` reads all of it.
//! Next: `index.rs`.

mod compress;
mod frame;
mod reader;
mod scan;
mod writer;

pub use compress::{Compression, Compressor};
pub use frame::{Frame, FrameBuilder, FrameChunk, NamedFrame, ReadyFrame, WholeFrame, decode_frame};
pub use reader::{Directory, DirectoryFrame, PackFile, WalkedFrame};
pub use scan::{ScannedPack, scan_pack};
pub use writer::{FinishedPack, PackWriter};

use crate::id::{ChunkId, ChunkKind, PackId};
use crate::seal::Mask;

// The limits of [LIMIT-1], here and beside the other structures.

/// The longest chunk.
pub const MAX_CHUNK_LEN: usize = 16 << 20;
/// The most plain bytes of a frame: chunks, and the table in front of them.
pub const MAX_FRAME_LEN: usize = (32 << 20) + (64 << 10);
/// The most chunks of a frame.
pub const MAX_FRAME_CHUNKS: usize = 13_107;
/// The longest pack.
pub const MAX_PACK_LEN: u64 = (1 << 32) - 64;
/// The most chunks of a pack.
pub const MAX_PACK_CHUNKS: usize = 1 << 20;
/// The most zeros behind the rows of a sealed directory.
pub const MAX_FILLER_LEN: usize = 8 << 20;
/// Frames and the directory start at multiples of this.
pub const ALIGNMENT: u64 = 64;
/// The length of a frame's header.
pub const FRAME_HEADER_LEN: usize = 32;
/// The length of a pack's tail.
pub const TAIL_LEN: usize = 192;
/// The length of the fixed part of a directory.
pub const DIRECTORY_LEN: usize = 8;
/// The length of a frame's row in a directory.
pub const DIRECTORY_FRAME_LEN: usize = 16;
/// The length of a chunk's row in a directory.
pub const DIRECTORY_CHUNK_LEN: usize = 45;

const FRAME_MAGIC: [u8; 4] = *b"VFRM";
const TAIL_MAGIC: [u8; 8] = *b"VLTPKEND";

/// What the chunks of a pack are. The numbers are those of the format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum PackKind {
    /// Data chunks.
    Data = 1,
    /// Tree and list chunks: what listing and browsing read.
    Tree = 2,
}

impl PackKind {
    /// The kind with this number in the format.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Data),
            2 => Some(Self::Tree),
            _ => None,
        }
    }

    /// In which packs chunks of a kind go.
    #[must_use]
    pub fn of(kind: ChunkKind) -> Self {
        match kind {
            ChunkKind::Data => Self::Data,
            ChunkKind::Tree | ChunkKind::List => Self::Tree,
        }
    }
}

/// Where a chunk lies. Ordered as the bytes lie in the packs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Location {
    /// In which pack.
    pub pack: PackId,
    /// Where in the pack the header of its frame stands.
    pub frame_offset: u32,
    /// The stored bytes of the frame, without its header.
    pub frame_stored_len: u32,
    /// Where the chunk stands in the plain bytes of the frame.
    pub offset: u32,
    /// The length of the chunk.
    pub len: u32,
    /// What it is.
    pub kind: ChunkKind,
}

/// A chunk and where it lies.
pub type Placed = (ChunkId, Location);

/// The name of a pack's file in the repository.
#[must_use]
pub fn pack_file_name(pack: &PackId) -> String {
    format!("packs/{:02x}/{pack}", pack.as_bytes()[0])
}

/// Puts the mask on a tail that stands at `offset`, or takes it off: on all but the key box and the magic `[SEAL-3]`.
fn mask_tail(mask: &Mask, offset: u64, tail: &mut [u8; TAIL_LEN]) {
    mask.apply(offset, &mut tail[..16]);
    mask.apply(offset + 144, &mut tail[144..184]);
}

/// `len` rounded up to the next multiple of [`ALIGNMENT`].
fn aligned(len: u64) -> u64 {
    len.next_multiple_of(ALIGNMENT)
}
