//! Segments: immutable files of facts, sorted by chunk id in blocks with a checksum each, `spec/format.md` §7.
//!
//! A look-up reads one block. Header, table of packs and table of first ids stay in memory. The file stays open only where the
//! index says so: a process may have 1,024 files open, and a copy may have more segments than that.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use serde::{Deserialize, Serialize};

use crate::backend::{Backend, StoredFile};
use crate::codec;
use crate::error::{Corruption, Error, Result};
use crate::field::{Field, validate_fields};
use crate::header::{HEADER_LEN, Header, Magic};
use crate::id::{self, ChunkId, PackId, RepositoryId, SegmentId};
use crate::index::facts::{self, Facts, Row};
use crate::pack::{Location, PackKind, Placed};

/// The bytes of a fact.
pub const FACT_LEN: usize = 53;
/// The facts of a block: 64 KiB, checksum included.
pub const FACTS_PER_BLOCK: usize = 1236;
/// The most facts of a segment: 64 MiB of them.
pub const MAX_SEGMENT_FACTS: u64 = (64 << 20) / FACT_LEN as u64;

/// The most packs that a segment is made to cover: a table of them stays well below the limit of the header's body.
pub const MAX_SEGMENT_PACKS: usize = 1 << 16;

/// More small segments than this are merged, and on a mirror those are removed that have become redundant.
pub const SMALL_SEGMENTS: usize = 32;
/// A segment with fewer facts is small.
const SMALL_FACTS: u64 = MAX_SEGMENT_FACTS / 4;

const CHECKSUM_LEN: usize = 16;
/// The most bytes of the header's body.
const MAX_BODY_LEN: u64 = 4 << 20;
/// How many blocks are kept in memory, in each of two generations: 16 MiB.
const CACHED_BLOCKS: usize = 256;

/// What a segment says before its facts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentHeader {
    /// The packs it covers, ascending.
    pub packs: Vec<PackRow>,
    /// How many facts follow.
    pub fact_count: u64,
    /// The id of the first fact of each block.
    pub first_ids: Vec<ChunkId>,
    /// Further fields, tags ascending.
    pub fields: Vec<Field>,
}

/// A pack that a segment covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PackRow {
    /// The pack.
    pub pack: PackId,
    /// Its length.
    pub stored_len: u32,
    /// Its kind, as a number of the format.
    pub kind: u8,
}

impl SegmentHeader {
    fn validate(&self) -> Result<(), Corruption> {
        validate_fields(&self.fields, &[])?;
        if self.packs.windows(2).any(|pair| pair[0].pack >= pair[1].pack) {
            return Err(Corruption::rule("SEG-3", "its packs do not ascend"));
        }
        if self.packs.iter().any(|row| PackKind::from_number(row.kind).is_none()) {
            return Err(Corruption::rule("SEG-3", "it names a pack of an unknown kind"));
        }
        if self.fact_count > MAX_SEGMENT_FACTS || self.fact_count < self.packs.len() as u64 {
            return Err(Corruption::rule("SEG-1", "its number of facts is not possible"));
        }
        let blocks = self.fact_count.div_ceil(FACTS_PER_BLOCK as u64);
        if self.first_ids.len() as u64 != blocks || self.first_ids.windows(2).any(|pair| pair[0] > pair[1]) {
            return Err(Corruption::rule("SEG-4", "its first ids are not those of its blocks"));
        }
        Ok(())
    }

    /// The length of a segment file with this header `[SEG-1]`.
    fn file_len(&self, body_len: u64) -> u64 {
        let blocks = self.first_ids.len() as u64;
        (HEADER_LEN + CHECKSUM_LEN) as u64
            + body_len
            + self.fact_count * FACT_LEN as u64
            + blocks * CHECKSUM_LEN as u64
    }
}

/// A segment open for look-ups.
pub struct Segment {
    id: SegmentId,
    name: String,
    backend: Arc<dyn Backend>,
    /// Nothing if it is opened for each read.
    file: Option<Box<dyn StoredFile>>,
    len: u64,
    header: SegmentHeader,
    blocks_offset: u64,
}

/// Blocks read lately, shared by the segments of an index.
#[derive(Default)]
pub(super) struct BlockCache(Mutex<[Blocks; 2]>);

type Blocks = HashMap<(SegmentId, usize), Arc<Vec<Row>>>;

impl BlockCache {
    fn get(&self, key: (SegmentId, usize)) -> Option<Arc<Vec<Row>>> {
        let mut generations = self.0.lock().ok()?;
        let [young, old] = &mut *generations;
        if let Some(block) = young.get(&key) {
            return Some(block.clone());
        }
        let block = old.remove(&key)?;
        young.insert(key, block.clone());
        Some(block)
    }

    fn put(&self, key: (SegmentId, usize), block: Arc<Vec<Row>>) {
        let Ok(mut generations) = self.0.lock() else { return };
        if generations[0].len() >= CACHED_BLOCKS {
            generations[1] = std::mem::take(&mut generations[0]);
        }
        generations[0].insert(key, block);
    }
}

impl Segment {
    /// Opens a segment and reads its header: `[SEG-1]`, `[SEG-3]` for the packs, `[SEG-4]` but for the blocks.
    ///
    /// # Errors
    /// Any error of the medium; damage.
    pub fn open(backend: &Arc<dyn Backend>, id: SegmentId, repository: RepositoryId) -> Result<Self> {
        let name = format!("index/{id}");
        let file = backend.open(&name).map_err(Error::repository("read", &name))?;
        let (header, body_len) = read_header(&*file, &name, repository)?;
        let expected = header.file_len(body_len);
        let len = file.len();
        if len != expected {
            return Err(Error::damaged(&name)(Corruption::WrongLength { expected, found: len }));
        }
        let blocks_offset = (HEADER_LEN + CHECKSUM_LEN) as u64 + body_len;
        Ok(Self { id, name, backend: backend.clone(), file: Some(file), len, header, blocks_offset })
    }

    /// Closes the file: from now on it is opened for each read, and may have vanished then.
    pub(crate) fn close(&mut self) {
        self.file = None;
    }

    /// Does something with the open file.
    fn with_file<T>(&self, read: impl FnOnce(&dyn StoredFile) -> Result<T>) -> Result<T> {
        if let Some(file) = &self.file {
            return read(&**file);
        }
        let file = self.backend.open(&self.name).map_err(Error::repository("read", &self.name))?;
        read(&*file)
    }

    /// Checks the bytes of a segment with these facts before they are published: its header can be read and says that.
    ///
    /// # Errors
    /// Names the rule.
    pub fn check(bytes: &[u8], repository: RepositoryId, facts: &Facts) -> Result<(), Corruption> {
        let head = Header::decode(bytes, Magic::Segment, Some(repository))?;
        if head.body_len > MAX_BODY_LEN {
            return Err(Corruption::StructTooLong { len: head.body_len });
        }
        let body =
            usize::try_from(head.body_len).ok().and_then(|len| bytes.get(HEADER_LEN..HEADER_LEN + len));
        let header: SegmentHeader = codec::decode(body.unwrap_or_default())?;
        header.validate()?;
        let expected = header.file_len(head.body_len);
        if bytes.len() as u64 != expected {
            return Err(Corruption::WrongLength { expected, found: bytes.len() as u64 });
        }
        if facts.fit(&header) {
            Ok(())
        } else {
            Err(Corruption::rule("SEG-5", "it does not hold the facts it was made from"))
        }
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> SegmentId {
        self.id
    }

    /// Its length.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether it has no facts.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.header.fact_count == 0
    }

    /// Whether it is one of those that are merged when there are many.
    #[must_use]
    pub fn is_small(&self) -> bool {
        self.header.fact_count < SMALL_FACTS
    }

    /// How many facts it has.
    #[must_use]
    pub fn fact_count(&self) -> u64 {
        self.header.fact_count
    }

    /// The packs that it covers, ascending.
    #[must_use]
    pub fn packs(&self) -> &[PackRow] {
        &self.header.packs
    }

    /// What it says of a pack.
    #[must_use]
    pub fn row_of(&self, pack: &PackId) -> Option<&PackRow> {
        let at = self.header.packs.binary_search_by_key(pack, |row| row.pack).ok()?;
        self.header.packs.get(at)
    }

    /// Adds the locations of a chunk to `found`.
    pub(super) fn find(&self, id: &ChunkId, cache: &BlockCache, found: &mut Vec<Location>) -> Result<()> {
        // Equal ids may spill over several blocks: start at the last block whose first id is below.
        let after = self.header.first_ids.partition_point(|first| first < id);
        let mut number = after.saturating_sub(1);
        while self.header.first_ids.get(number).is_some_and(|first| first <= id) {
            let key = (self.id, number);
            let block = if let Some(block) = cache.get(key) {
                block
            } else {
                let block = Arc::new(self.with_file(|file| self.read_block(file, number))?);
                cache.put(key, block.clone());
                block
            };
            facts::find_in_rows(&block, &self.header.packs, id, found);
            number += 1;
        }
        Ok(())
    }

    /// Reads every fact, in order, checked by `[SEG-2]` to `[SEG-4]`.
    ///
    /// # Errors
    /// Any error of the medium; damage.
    pub fn for_each(&self, mut each: impl FnMut(Placed)) -> Result<()> {
        self.with_file(|file| self.for_each_in(file, &mut each))
    }

    fn for_each_in(&self, file: &dyn StoredFile, each: &mut dyn FnMut(Placed)) -> Result<()> {
        let mut last: Option<Row> = None;
        for number in 0..self.header.first_ids.len() {
            let block = self.read_block(file, number)?;
            let ascends = match (&last, block.first()) {
                (Some(last), Some(first)) => facts::order_of(last) < facts::order_of(first),
                _ => true,
            };
            if !ascends {
                return Err(Error::damaged(&self.name)(Corruption::rule("SEG-3", "its facts do not ascend")));
            }
            for row in &block {
                let placed = facts::decode_row(row, &self.header.packs).ok_or_else(|| {
                    Error::damaged(&self.name)(Corruption::rule("SEG-3", "a fact names no pack or kind"))
                })?;
                each(placed);
            }
            last = block.last().copied();
        }
        Ok(())
    }

    fn read_block(&self, file: &dyn StoredFile, number: usize) -> Result<Vec<Row>> {
        let before = number as u64 * FACTS_PER_BLOCK as u64;
        let count = self.header.fact_count.saturating_sub(before).min(FACTS_PER_BLOCK as u64);
        let count = usize::try_from(count).unwrap_or(0);
        let offset = self.blocks_offset + number as u64 * (FACTS_PER_BLOCK * FACT_LEN + CHECKSUM_LEN) as u64;
        let mut rows = vec![[0; FACT_LEN]; count];
        let mut checksum = [0; CHECKSUM_LEN];
        let rows_len = (count * FACT_LEN) as u64;
        file.read_exact_at(rows.as_flattened_mut(), offset)
            .and_then(|()| file.read_exact_at(&mut checksum, offset + rows_len))
            .map_err(Error::repository("read", &self.name))?;
        if id::checksum_128(&[rows.as_flattened()]) != checksum {
            return Err(Error::damaged(&self.name)(Corruption::WrongChecksum { part: "block" }));
        }
        if rows.windows(2).any(|pair| facts::order_of(&pair[0]) >= facts::order_of(&pair[1])) {
            return Err(Error::damaged(&self.name)(Corruption::rule("SEG-3", "its facts do not ascend")));
        }
        if rows.iter().any(|row| facts::decode_row(row, &self.header.packs).is_none()) {
            return Err(Error::damaged(&self.name)(Corruption::rule(
                "SEG-3",
                "a fact names no pack or kind",
            )));
        }
        if rows.first().map(facts::id_of) != self.header.first_ids.get(number).copied() {
            return Err(Error::damaged(&self.name)(Corruption::rule(
                "SEG-4",
                "a first id is not that of its block",
            )));
        }
        Ok(rows)
    }
}

fn read_header(file: &dyn StoredFile, name: &str, repository: RepositoryId) -> Result<(SegmentHeader, u64)> {
    let too_short =
        |expected: u64| Error::damaged(name)(Corruption::WrongLength { expected, found: file.len() });
    if file.len() < (HEADER_LEN + CHECKSUM_LEN) as u64 {
        return Err(too_short((HEADER_LEN + CHECKSUM_LEN) as u64));
    }
    let mut head = [0; HEADER_LEN];
    file.read_exact_at(&mut head, 0).map_err(Error::repository("read", name))?;
    let head = Header::decode(&head, Magic::Segment, Some(repository)).map_err(Error::damaged(name))?;
    if head.outer_len != 0 {
        return Err(Error::damaged(name)(Corruption::rule(
            "HEAD-6",
            "a segment's header has an outer length",
        )));
    }
    if head.body_len > MAX_BODY_LEN {
        return Err(Error::damaged(name)(Corruption::StructTooLong { len: head.body_len }));
    }
    let end = (HEADER_LEN + CHECKSUM_LEN) as u64 + head.body_len;
    if file.len() < end {
        return Err(too_short(end));
    }
    let mut body = vec![0; usize::try_from(head.body_len).unwrap_or(0)];
    let mut checksum = [0; CHECKSUM_LEN];
    file.read_exact_at(&mut body, HEADER_LEN as u64)
        .and_then(|()| file.read_exact_at(&mut checksum, HEADER_LEN as u64 + head.body_len))
        .map_err(Error::repository("read", name))?;
    if id::checksum_128(&[&body]) != checksum {
        return Err(Error::damaged(name)(Corruption::WrongChecksum { part: "segment header" }));
    }
    let header: SegmentHeader = codec::decode(&body).map_err(Error::damaged(name))?;
    header.validate().map_err(Error::damaged(name))?;
    Ok((header, head.body_len))
}
