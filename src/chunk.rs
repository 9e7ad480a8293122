//! Bytes to chunks: where a stream is cut, and the two traits through which chunks come and go.
//!
//! Content-defined chunking by fastcdc (v2020, normalized), so that an insertion moves only the cuts next to it. The only file that knows
//! that crate. `spec/chunking.md` has the algorithm and its vectors. Next: `pack.rs`.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::error::{Corruption, Result};
use crate::id::{self, ChunkId, ChunkKind};

/// Where chunks are read from.
pub trait GetChunk: Send + Sync {
    /// The plain bytes of a chunk, verified against its id.
    ///
    /// # Errors
    /// `ChunkMissing`, or the damage or error of the file it is in.
    fn get(&self, kind: ChunkKind, id: &ChunkId) -> Result<Vec<u8>>;
}

/// Where chunks are written to.
pub trait PutChunk: Send + Sync {
    /// Stores a chunk unless it is stored already, and returns its id. It is durable only once the run is published.
    ///
    /// # Errors
    /// Any error of the repository.
    fn put(&self, kind: ChunkKind, plain: &[u8]) -> Result<ChunkId>;
}

/// How files are cut: fixed for the life of a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChunkerParams {
    /// No chunk but the last of a stream is shorter.
    pub min_len: u32,
    /// The length that chunks tend to.
    pub avg_len: u32,
    /// No chunk is longer.
    pub max_len: u32,
    /// How strongly lengths are drawn to the average: 0 to 3.
    pub normalization: u8,
}

impl Default for ChunkerParams {
    fn default() -> Self {
        Self { min_len: 64 << 10, avg_len: 256 << 10, max_len: 1 << 20, normalization: 2 }
    }
}

impl ChunkerParams {
    /// Checks `[CUT-1]`: the crate checks only in debug builds, and panics on some values.
    ///
    /// # Errors
    /// Names the rule.
    pub fn validate(&self) -> Result<(), Corruption> {
        use fastcdc::v2020::{AVERAGE_MAX, AVERAGE_MIN, MAXIMUM_MAX, MAXIMUM_MIN, MINIMUM_MAX, MINIMUM_MIN};
        let (min, avg, max) = (self.min_len as usize, self.avg_len as usize, self.max_len as usize);
        let in_range = (MINIMUM_MIN..=MINIMUM_MAX).contains(&min)
            && (AVERAGE_MIN..=AVERAGE_MAX).contains(&avg)
            && (MAXIMUM_MIN..=MAXIMUM_MAX).contains(&max);
        if !(in_range && min < avg && avg < max) {
            return Err(Corruption::rule("CUT-1", "the chunker's lengths are out of range or out of order"));
        }
        if min % 2 != 0 || max % 2 != 0 || !avg.is_power_of_two() {
            return Err(Corruption::rule(
                "CUT-1",
                "the chunker's lengths are odd, or the average is no power of two",
            ));
        }
        if self.normalization > 3 {
            return Err(Corruption::rule("CUT-1", "the chunker's normalization is above 3"));
        }
        Ok(())
    }
}

/// A table of 256 numbers, and the same shifted left by one. Wiped when it is dropped: it may be a secret.
type Gear = [Zeroizing<Vec<u64>>; 2];

/// A gear table, and the same shifted left by one, from the stream of a secret `[CUT-7]`: whoever does not know it cannot
/// tell known content by the lengths of its chunks.
fn secret_gear(secret: &[u8; 32]) -> Gear {
    let mut bytes = Zeroizing::new([0; 256 * 8]);
    id::xor_stream(secret, 0, &mut bytes[..]);
    let (numbers, _) = bytes.as_chunks::<8>();
    let gear: Vec<u64> = numbers.iter().map(|bytes| u64::from_le_bytes(*bytes)).collect();
    let shifted: Vec<u64> = gear.iter().map(|number| number << 1).collect();
    [gear.into(), shifted.into()]
}

/// Cuts streams into chunks.
#[derive(Clone)]
pub struct Chunker {
    params: ChunkerParams,
    mask_strict: u64,
    mask_loose: u64,
    gear: Arc<Gear>,
}

impl Chunker {
    /// A chunker with these parameters; in an encrypted repository with a table made from its secret `[CUT-7]`.
    ///
    /// # Errors
    /// `[CUT-1]`.
    pub fn new(params: ChunkerParams, secret: Option<&[u8; 32]>) -> Result<Self, Corruption> {
        use fastcdc::v2020::Normalization;
        params.validate()?;
        let level = match params.normalization {
            0 => Normalization::Level0,
            1 => Normalization::Level1,
            2 => Normalization::Level2,
            _ => Normalization::Level3,
        };
        // [CUT-2] and [CUT-3]: the crate's tables are those of the specification, as its vectors show.
        let (mask_strict, mask_loose) = fastcdc::v2020::select_masks(params.avg_len as usize, level);
        let gear = match secret {
            None => {
                let (gear, gear_shifted) = fastcdc::v2020::get_gear_with_seed(0);
                [gear.into_owned().into(), gear_shifted.into_owned().into()]
            }
            Some(secret) => secret_gear(secret),
        };
        Ok(Self { params, mask_strict, mask_loose, gear: Arc::new(gear) })
    }

    /// Its parameters.
    #[must_use]
    pub fn params(&self) -> ChunkerParams {
        self.params
    }

    /// The length of the first chunk of `bytes` `[CUT-4]`. Right only if `bytes` has at least `max_len` bytes or is all that
    /// remains of the stream. 0 only for no bytes.
    #[must_use]
    pub fn cut(&self, bytes: &[u8]) -> usize {
        let max = self.params.max_len as usize;
        let window = bytes.get(..max).unwrap_or(bytes);
        if window.len() <= self.params.min_len as usize {
            return window.len();
        }
        let (_, len) = fastcdc::v2020::cut_gear(
            window,
            self.params.min_len as usize,
            self.params.avg_len as usize,
            max,
            self.mask_strict,
            self.mask_loose,
            self.mask_strict << 1,
            self.mask_loose << 1,
            &self.gear[0],
            &self.gear[1],
        );
        len
    }
}
