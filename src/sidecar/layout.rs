//! The bytes of a sidecar: header | description | table of hashes | recovery shards | table, again | description, again.
//!
//! All lengths follow from the description, and each is checked before anything is allocated by it `[PAR-2]`.

use crate::error::Corruption;
use crate::header::{HEADER_LEN, array};
use crate::id::{self, PackId, RepositoryId};
use crate::pack::MAX_PACK_LEN;

/// The length of the description.
pub const PARITY_LEN: usize = 112;
/// The length of the hash of a shard.
pub(super) const HASH_LEN: usize = 16;

const MAGIC: [u8; 8] = *b"VLTPARND";
/// The shortest and the longest shards.
const SHARD_LENS: (u64, u64) = (512, 64 << 10);
/// What media lose at a time.
const SECTOR_LEN: u64 = 4096;
/// The most data shards of a pack: of one that is longer than 256 MiB they are longer.
const MAX_SHARDS: u64 = 65_536;
/// The most bytes of the data shards of a group.
const GROUP_BYTES: u64 = 16 << 20;

/// How a pack is cut, and how much parity it has. Shard `i` is the one at place `i / groups` of group `i % groups`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    pack_len: u64,
    shard_len: u32,
    groups: u32,
    recovery: u32,
}

impl Shape {
    /// For a pack of so many bytes, as a writer makes it: recovery shards of so many of a hundred bytes, 1 to 100, and in all of one sector of
    /// the medium at least.
    #[must_use]
    pub fn new(pack_len: u64, percent: u32) -> Self {
        let pack_len = pack_len.clamp(1, MAX_PACK_LEN);
        let mut shard_len = (pack_len / 16).next_power_of_two().clamp(SHARD_LENS.0, SECTOR_LEN);
        while pack_len.div_ceil(shard_len) > MAX_SHARDS {
            shard_len *= 2;
        }
        let shards = pack_len.div_ceil(shard_len);
        let groups = shards.div_ceil(GROUP_BYTES / shard_len);
        let in_group = shards.div_ceil(groups);
        let wanted = (in_group * u64::from(percent)).div_ceil(100);
        let recovery = wanted.max((SECTOR_LEN / shard_len).div_ceil(groups)).clamp(1, in_group);
        let short = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
        Self { pack_len, shard_len: short(shard_len), groups: short(groups), recovery: short(recovery) }
    }

    /// `[PAR-2]`
    fn validate(self) -> Result<Self, Corruption> {
        const BROKEN: Corruption = Corruption::rule("PAR-2", "its shards are not possible");
        let shard_len = u64::from(self.shard_len);
        let is_len = shard_len.is_power_of_two() && (SHARD_LENS.0..=SHARD_LENS.1).contains(&shard_len);
        if !is_len || !(1..=MAX_PACK_LEN).contains(&self.pack_len) {
            return Err(BROKEN);
        }
        let (shards, groups) = (self.pack_len.div_ceil(shard_len), u64::from(self.groups));
        if shards > MAX_SHARDS || groups == 0 || groups > shards {
            return Err(BROKEN);
        }
        let in_group = shards.div_ceil(groups);
        if in_group * shard_len > GROUP_BYTES || !(1..=in_group).contains(&u64::from(self.recovery)) {
            return Err(BROKEN);
        }
        Ok(self)
    }

    /// Whether it mends at least what `other` mends of a pack, shard for shard.
    #[must_use]
    pub fn is_as_strong_as(self, other: Self) -> bool {
        Self { recovery: other.recovery, ..self } == other && self.recovery >= other.recovery
    }

    /// The length of the pack.
    #[must_use]
    pub fn pack_len(self) -> u64 {
        self.pack_len
    }

    /// The length of a shard.
    #[must_use]
    pub fn shard_len(self) -> usize {
        self.shard_len as usize
    }

    /// How many data shards there are; the last one is filled up with zeros.
    #[must_use]
    pub fn shards(self) -> u32 {
        u32::try_from(self.pack_len.div_ceil(self.shard_len.max(1).into())).unwrap_or(u32::MAX)
    }

    /// How many groups there are.
    #[must_use]
    pub fn groups(self) -> u32 {
        self.groups
    }

    /// How many recovery shards each group has.
    #[must_use]
    pub fn recovery(self) -> u32 {
        self.recovery
    }

    /// How many recovery shards there are.
    #[must_use]
    pub fn recovery_shards(self) -> u32 {
        self.recovery * self.groups
    }

    /// The data shards of a group, in the order of their places in it.
    pub(super) fn of_group(self, group: u32) -> impl Iterator<Item = u32> {
        (group..self.shards()).step_by(self.groups.max(1) as usize)
    }

    /// Where the recovery shard of a group with this place in it stands among all of them: dealt out as the data shards are.
    pub(super) fn recovery_at(self, group: u32, place: u32) -> u32 {
        place * self.groups + group
    }

    /// Offset and length of a data shard in the pack.
    pub(super) fn span(self, shard: u32) -> (u64, usize) {
        let offset = u64::from(shard) * u64::from(self.shard_len);
        let rest = self.pack_len.saturating_sub(offset);
        (offset, usize::try_from(rest).unwrap_or(usize::MAX).min(self.shard_len()))
    }

    pub(super) fn table_len(self) -> usize {
        (self.shards() + self.recovery_shards()) as usize * HASH_LEN
    }

    fn recovery_len(self) -> u64 {
        u64::from(self.recovery_shards()) * u64::from(self.shard_len)
    }

    /// Where the tables stand.
    pub(super) fn table_offsets(self) -> [u64; 2] {
        let first = (HEADER_LEN + PARITY_LEN) as u64;
        [first, first + self.table_len() as u64 + self.recovery_len()]
    }

    pub(super) fn recovery_offset(self, at: u32) -> u64 {
        (HEADER_LEN + PARITY_LEN + self.table_len()) as u64 + u64::from(at) * u64::from(self.shard_len)
    }

    /// The bytes of the whole file.
    #[must_use]
    pub fn file_len(self) -> u64 {
        HEADER_LEN as u64 + self.body_len() + PARITY_LEN as u64
    }

    /// The bytes behind header and first description.
    pub(super) fn body_len(self) -> u64 {
        2 * self.table_len() as u64 + self.recovery_len() + PARITY_LEN as u64
    }
}

/// What a sidecar says of itself, at both ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Description {
    pub pack: PackId,
    pub repository: RepositoryId,
    pub shape: Shape,
    /// The hash of the table of hashes.
    pub tables: [u8; HASH_LEN],
}

impl Description {
    pub fn encode(&self) -> [u8; PARITY_LEN] {
        let mut bytes = [0; PARITY_LEN];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..40].copy_from_slice(self.pack.as_bytes());
        bytes[40..56].copy_from_slice(self.repository.as_bytes());
        bytes[56..64].copy_from_slice(&self.shape.pack_len.to_le_bytes());
        bytes[64..68].copy_from_slice(&self.shape.shard_len.to_le_bytes());
        bytes[68..72].copy_from_slice(&self.shape.groups.to_le_bytes());
        bytes[72..76].copy_from_slice(&self.shape.recovery.to_le_bytes());
        bytes[80..96].copy_from_slice(&self.tables);
        let checksum = id::checksum_128(&[&bytes[..96]]);
        bytes[96..].copy_from_slice(&checksum);
        bytes
    }

    /// Reads a description, and checks `[PAR-1]` and `[PAR-2]`.
    pub fn decode(bytes: &[u8], repository: RepositoryId, pack: PackId) -> Result<Self, Corruption> {
        let Some(bytes) = bytes.first_chunk::<PARITY_LEN>() else {
            return Err(Corruption::rule("PAR-1", "its description is cut off"));
        };
        if bytes[..8] != MAGIC {
            return Err(Corruption::WrongMagic { part: "description" });
        }
        if bytes[96..] != id::checksum_128(&[&bytes[..96]]) {
            return Err(Corruption::WrongChecksum { part: "description" });
        }
        let number = |at: usize| u32::from_le_bytes(array(&bytes[at..at + 4]));
        let found = Self {
            pack: PackId::from_bytes(array(&bytes[8..40])),
            repository: RepositoryId::from_bytes(array(&bytes[40..56])),
            shape: Shape {
                pack_len: u64::from_le_bytes(array(&bytes[56..64])),
                shard_len: number(64),
                groups: number(68),
                recovery: number(72),
            },
            tables: array(&bytes[80..96]),
        };
        if found.repository != repository {
            return Err(Corruption::WrongRepository { found: found.repository });
        }
        if found.pack != pack || number(76) != 0 {
            return Err(Corruption::rule(
                "PAR-1",
                "it is the parity of another pack, or reserved bytes are set",
            ));
        }
        found.shape.validate()?;
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_writer_makes_of_any_pack_a_reader_accepts_and_small_packs_get_a_sector_at_most() {
        let mut lens =
            vec![1, 511, 512, 513, 700, 4096, 8192, 65_536, 1 << 20, MAX_PACK_LEN - 1, MAX_PACK_LEN];
        lens.extend((0..32).flat_map(|bit| [(1u64 << bit) - 1, 1 << bit, (1 << bit) + 1]));
        for len in lens.into_iter().filter(|len| (1..=MAX_PACK_LEN).contains(len)) {
            for percent in [1, 5, 33, 100] {
                let shape = Shape::new(len, percent);
                assert_eq!(shape.validate(), Ok(shape), "{len} {percent}");
                let parity = shape.recovery_len();
                let (wanted, sector) = (len * u64::from(percent) / 100, SECTOR_LEN.min(len));
                assert!(parity >= wanted.max(sector), "{len} {percent} {shape:?}");
                // Rounded up in each group, and groups differ by one shard.
                let most =
                    wanted.max(SECTOR_LEN) + u64::from(2 * shape.groups() + 1) * u64::from(shape.shard_len);
                assert!(parity <= most, "{len} {percent}: {parity} {shape:?}");
                assert!(shape.table_len() as u64 <= (len / 100).max(4096), "{len} {percent}");
            }
        }
        assert_eq!((Shape::new(64 << 20, 5).shard_len(), Shape::new(64 << 20, 5).groups()), (4096, 4));
        assert!(Shape::new(64 << 20, 10).is_as_strong_as(Shape::new(64 << 20, 5)));
        assert!(!Shape::new(64 << 20, 5).is_as_strong_as(Shape::new(64 << 20, 10)));
    }

    #[test]
    fn shapes_that_take_more_memory_than_a_group_are_refused() {
        let good = Shape::new(64 << 20, 5);
        for broken in [
            Shape { pack_len: 0, ..good },
            Shape { pack_len: MAX_PACK_LEN + 1, shard_len: 64 << 10, groups: 256, ..good },
            Shape { shard_len: 0, ..good },
            Shape { shard_len: 256, ..good },
            Shape { shard_len: 4097, ..good },
            Shape { shard_len: 128 << 10, ..good },
            Shape { groups: 0, ..good },
            Shape { groups: 3, ..good },
            Shape { groups: u32::MAX, ..good },
            Shape { recovery: 0, ..good },
            Shape { recovery: 4097, ..good },
            Shape { recovery: u32::MAX, ..good },
        ] {
            assert!(broken.validate().is_err(), "{broken:?}");
        }
    }
}
