//! Segments: immutable files of facts, sorted by chunk id in blocks with a checksum each, or sealed each, `spec/format.md` §7.
//!
//! A look-up reads one block. Header, table of packs and table of first ids stay in memory. The file stays open only where the
//! index says so: a process may have 1,024 files open, and a copy may have more segments than that.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::backend::{Backend, StoredFile};
use crate::codec;
use crate::error::{Corruption, Error, Result};
use crate::field::{Field, validate_fields};
use crate::header::{HEADER_LEN, Header, Magic, Seal};
use crate::id::{self, ChunkId, PackId, SegmentId};
use crate::index::blocks::BlockCache;
use crate::index::facts::{self, Facts, Row};
use crate::pack::{Location, PackKind, Placed};
use crate::seal::{self, BoxKey, Keys, Opener, SEALED_HEADER_LEN};

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

/// The tag of the field that names the segments which this one was made from.
pub(super) const SUPERSEDED: u32 = 1;
/// The most segments that it names: the oldest are dropped.
pub const MAX_SUPERSEDED: usize = 4096;

/// The length of a checksum, and of the tag of a seal that stands in its place.
const CHECKSUM_LEN: usize = seal::TAG_LEN;
/// The most bytes of the header's body.
const MAX_BODY_LEN: u64 = 4 << 20;

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
        validate_fields(&self.fields, &[SUPERSEDED])?;
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
        let ragged =
            |field: &Field| field.tag == SUPERSEDED && !field.value.len().is_multiple_of(SegmentId::LEN);
        if self.fields.iter().any(ragged) {
            return Err(Corruption::rule("SEG-6", "the segments that it was made from are no list of ids"));
        }
        Ok(())
    }

    /// How many facts a block has.
    fn facts_in(&self, block: usize) -> usize {
        let before = block as u64 * FACTS_PER_BLOCK as u64;
        let count = self.fact_count.saturating_sub(before).min(FACTS_PER_BLOCK as u64);
        usize::try_from(count).unwrap_or(0)
    }

    /// The length of a segment file with this header `[SEG-1]`.
    fn file_len(&self, body_len: u64, is_sealed: bool) -> u64 {
        let block = |number| (block_len(self.facts_in(number), is_sealed) + CHECKSUM_LEN) as u64;
        let blocks: u64 = (0..self.first_ids.len()).map(block).sum();
        (HEADER_LEN + CHECKSUM_LEN) as u64 + body_len + blocks
    }
}

/// The length of a block with so many facts, without its checksum or tag: a sealed one is padded, so that the length of the last says
/// little `[SEAL-4]`.
pub(super) fn block_len(facts: usize, is_sealed: bool) -> usize {
    let len = facts * FACT_LEN;
    if !is_sealed {
        return len;
    }
    let padded = usize::try_from(seal::padded_len(len as u64)).unwrap_or(len);
    padded.min(FACTS_PER_BLOCK * FACT_LEN)
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
    seal: Option<SegmentSeal>,
    blocks_offset: u64,
}

/// What opens a sealed segment.
struct SegmentSeal {
    opener: Opener,
    beside: [u8; SEALED_HEADER_LEN],
}

impl Segment {
    /// Opens a segment and reads its header: `[SEG-1]`, `[SEG-3]` for the packs, `[SEG-4]` but for the blocks.
    ///
    /// # Errors
    /// Any error of the medium; damage; `Locked`.
    pub fn open(backend: &Arc<dyn Backend>, id: SegmentId, keys: &Keys) -> Result<Self> {
        let name = format!("index/{id}");
        let file = backend.open(&name).map_err(Error::repository("read", &name))?;
        let (header, seal, body_len) = read_header(&*file, &name, keys)?;
        let expected = header.file_len(body_len, seal.is_some());
        let len = file.len();
        if len != expected {
            return Err(Error::damaged(&name)(Corruption::WrongLength { expected, found: len }));
        }
        let blocks_offset = (HEADER_LEN + CHECKSUM_LEN) as u64 + body_len;
        Ok(Self { id, name, backend: backend.clone(), file: Some(file), len, header, seal, blocks_offset })
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
    pub fn check(bytes: &[u8], keys: &Keys, facts: &Facts) -> Result<(), Corruption> {
        let head = decode_head(bytes, keys)?;
        let end = usize::try_from(head.body_len).map_or(usize::MAX, |len| len + HEADER_LEN + CHECKSUM_LEN);
        let (header, seal) = open_body(&head, bytes.get(HEADER_LEN..end).unwrap_or_default(), keys)?;
        let expected = header.file_len(head.body_len, seal.is_some());
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

    /// The segments that it was made from, and those that they were made from: none of them is needed any more `[SEG-6]`.
    pub fn superseded(&self) -> impl Iterator<Item = SegmentId> + '_ {
        let fields = self.header.fields.iter().filter(|field| field.tag == SUPERSEDED);
        fields.flat_map(|field| field.value.as_chunks().0).map(|bytes| SegmentId::from_bytes(*bytes))
    }

    /// What it says of a pack.
    #[must_use]
    pub fn row_of(&self, pack: &PackId) -> Option<&PackRow> {
        let at = self.header.packs.binary_search_by_key(pack, |row| row.pack).ok()?;
        self.header.packs.get(at)
    }

    /// Adds the locations of chunks to `found`, with the numbers of their ids, which ascend: each is looked for from where the one before
    /// was.
    pub(super) fn find(
        &self,
        ids: &[ChunkId],
        cache: &BlockCache,
        found: &mut Vec<(usize, Location)>,
    ) -> Result<()> {
        let (first_ids, packs) = (&self.header.first_ids, &self.header.packs);
        let starts_by = |number: usize, id: &ChunkId| first_ids.get(number).is_some_and(|first| first <= id);
        // The block where the one before was looked for, and how many of its rows are below that.
        let mut at: Option<(usize, Arc<Vec<Row>>, usize)> = None;
        for (place, id) in ids.iter().enumerate() {
            // Equal ids may spill over several blocks: start at the last block whose first id is below.
            let start = match &at {
                None => facts::count_below(first_ids, id, |first| *first).saturating_sub(1),
                Some((number, ..)) => {
                    number
                        + facts::count_near(first_ids.get(number + 1..).unwrap_or_default(), id, |first| {
                            *first
                        })
                }
            };
            if !starts_by(start, id) {
                continue;
            }
            let (block, below) = match at.take() {
                Some((number, block, below)) if number == start => {
                    let near = facts::count_near(block.get(below..).unwrap_or_default(), id, facts::id_of);
                    (block, below + near)
                }
                _ => {
                    let block = self.block(start, cache)?;
                    let below = facts::count_below(&block, id, facts::id_of);
                    (block, below)
                }
            };
            let mut add = |rows: &[Row]| {
                found.extend(facts::locations(rows, packs, id).map(|location| (place, location)));
            };
            add(block.get(below..).unwrap_or_default());
            for number in (start + 1..).take_while(|number| starts_by(*number, id)) {
                add(&self.block(number, cache)?);
            }
            at = Some((start, block, below));
        }
        Ok(())
    }

    /// A block of facts, of which some are kept in memory.
    fn block(&self, number: usize, cache: &BlockCache) -> Result<Arc<Vec<Row>>> {
        let key = (self.id, number);
        if let Some(block) = cache.get(key) {
            return Ok(block);
        }
        let block = Arc::new(self.with_file(|file| self.read_block(file, number))?);
        cache.put(key, &block);
        Ok(block)
    }

    /// Reads every fact, in order, checked by `[SEG-2]` to `[SEG-4]`.
    ///
    /// # Errors
    /// Any error of the medium; damage.
    pub fn for_each(&self, mut each: impl FnMut(Placed)) -> Result<()> {
        let mut rows = self.rows();
        while let Some(row) = rows.next()? {
            each(self.placed(&row)?);
        }
        Ok(())
    }

    /// Its facts as they are stored, in order, read block by block and checked by the same rules.
    pub(super) fn rows(&self) -> Rows<'_> {
        Rows { segment: self, next_block: 0, block: Vec::new().into_iter(), last: None }
    }

    /// A fact of its rows.
    pub(super) fn placed(&self, row: &Row) -> Result<Placed> {
        facts::decode_row(row, &self.header.packs).ok_or_else(|| {
            Error::damaged(&self.name)(Corruption::rule("SEG-3", "a fact names no pack or kind"))
        })
    }

    fn read_block(&self, file: &dyn StoredFile, number: usize) -> Result<Vec<Row>> {
        let count = self.header.facts_in(number);
        let offset = self.blocks_offset + number as u64 * (FACTS_PER_BLOCK * FACT_LEN + CHECKSUM_LEN) as u64;
        let mut stored = vec![0; block_len(count, self.seal.is_some()) + CHECKSUM_LEN];
        file.read_exact_at(&mut stored, offset).map_err(Error::repository("read", &self.name))?;
        let number_of_part = u32::try_from(number).map_or(u32::MAX, |number| number + 1);
        let block = open_part(self.seal.as_ref(), number_of_part, stored, "block");
        let block = block.map_err(Error::damaged(&self.name))?;
        let (rows, filler) = block.split_at_checked(count * FACT_LEN).unwrap_or_default();
        if filler.iter().any(|byte| *byte != 0) {
            return Err(Error::damaged(&self.name)(Corruption::rule(
                "SEAL-4",
                "the padding of a block is not zero",
            )));
        }
        let rows: Vec<Row> = rows.as_chunks().0.to_vec();
        if rows.windows(2).any(|pair| facts::order_of(&pair[0]) >= facts::order_of(&pair[1])) {
            return Err(Error::damaged(&self.name)(Corruption::rule("SEG-3", "its facts do not ascend")));
        }
        if !rows.iter().all(|row| facts::is_sound(row, &self.header.packs)) {
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

/// The facts of a segment, one after the other; a block of them is in memory.
pub(super) struct Rows<'s> {
    segment: &'s Segment,
    next_block: usize,
    block: std::vec::IntoIter<Row>,
    last: Option<Row>,
}

impl Rows<'_> {
    /// The next one.
    pub(super) fn next(&mut self) -> Result<Option<Row>> {
        if let Some(row) = self.block.next() {
            return Ok(Some(row));
        }
        let segment = self.segment;
        if self.next_block >= segment.header.first_ids.len() {
            return Ok(None);
        }
        let block = segment.with_file(|file| segment.read_block(file, self.next_block))?;
        let ascends = match (&self.last, block.first()) {
            (Some(last), Some(first)) => facts::order_of(last) < facts::order_of(first),
            _ => true,
        };
        if !ascends {
            return Err(Error::damaged(&segment.name)(Corruption::rule("SEG-3", "its facts do not ascend")));
        }
        self.next_block += 1;
        self.last = block.last().copied();
        self.block = block.into_iter();
        Ok(self.block.next())
    }
}

/// Reads the header of the file, and checks what can be seen in it alone.
fn decode_head(bytes: &[u8], keys: &Keys) -> Result<Header, Corruption> {
    let head = Header::decode(bytes, Magic::Segment, Some(keys.repository()))?;
    head.fits(keys)?;
    if head.outer_len != 0 {
        return Err(Corruption::rule("HEAD-6", "a segment's header has an outer length"));
    }
    if head.body_len > MAX_BODY_LEN {
        return Err(Corruption::StructTooLong { len: head.body_len });
    }
    Ok(head)
}

/// The bytes of a part that stands with a checksum, or with the tag of its seal, behind it.
fn open_part(
    seal: Option<&SegmentSeal>,
    number: u32,
    mut stored: Vec<u8>,
    part: &'static str,
) -> Result<Vec<u8>, Corruption> {
    if let Some(seal) = seal {
        return seal.opener.open(number, &seal.beside, &stored, part);
    }
    let checksum = stored.split_off(stored.len().saturating_sub(CHECKSUM_LEN));
    if id::checksum_128(&[&stored])[..] == checksum[..] {
        Ok(stored)
    } else {
        Err(Corruption::WrongChecksum { part })
    }
}

/// The structure before the blocks, from its stored bytes, and what opens the blocks.
fn open_body(
    head: &Header,
    stored: &[u8],
    keys: &Keys,
) -> Result<(SegmentHeader, Option<SegmentSeal>), Corruption> {
    let seal = match &head.seal {
        Seal::Sealed(key_box) => {
            let beside = head.sealed_part(Magic::Segment);
            Some(SegmentSeal { opener: keys.open_file(BoxKey::Index, &beside, key_box)?, beside })
        }
        Seal::Plain | Seal::Passphrase => None,
    };
    let mut body = open_part(seal.as_ref(), 0, stored.to_vec(), "segment header")?;
    if seal.is_some() {
        body = seal::unpad_body(&body)?.to_vec();
    }
    let header: SegmentHeader = codec::decode(&body)?;
    header.validate()?;
    Ok((header, seal))
}

fn read_header(
    file: &dyn StoredFile,
    name: &str,
    keys: &Keys,
) -> Result<(SegmentHeader, Option<SegmentSeal>, u64)> {
    let too_short =
        |expected: u64| Error::damaged(name)(Corruption::WrongLength { expected, found: file.len() });
    if file.len() < (HEADER_LEN + CHECKSUM_LEN) as u64 {
        return Err(too_short((HEADER_LEN + CHECKSUM_LEN) as u64));
    }
    let mut head = [0; HEADER_LEN];
    file.read_exact_at(&mut head, 0).map_err(Error::repository("read", name))?;
    let head = decode_head(&head, keys).map_err(Error::damaged(name))?;
    let end = (HEADER_LEN + CHECKSUM_LEN) as u64 + head.body_len;
    if file.len() < end {
        return Err(too_short(end));
    }
    let mut stored = vec![0; usize::try_from(head.body_len).unwrap_or(0) + CHECKSUM_LEN];
    file.read_exact_at(&mut stored, HEADER_LEN as u64).map_err(Error::repository("read", name))?;
    let (header, seal) = open_body(&head, &stored, keys).map_err(Error::damaged(name))?;
    Ok((header, seal, head.body_len))
}
