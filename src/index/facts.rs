//! Facts in memory, 53 bytes each: of packs that no segment covers, and of a segment that is being made.

use std::collections::HashMap;

use crate::backend::Backend;
use crate::codec;
use crate::error::{Corruption, Result};
use crate::field::Field;
use crate::header::{Magic, Seal, array, object_header};
use crate::id::{self, ChunkId, ChunkKind, IdKeys, PackId, SegmentId};
use crate::index::segment::{
    FACT_LEN, FACTS_PER_BLOCK, PackRow, SUPERSEDED, Segment, SegmentHeader, block_len,
};
use crate::pack::{FRAME_HEADER_LEN, Location, PackFile, PackKind, Placed};
use crate::seal::{self, BoxKey, KEY_BOX_LEN, Keys};

/// A fact as it is stored: see the table FACT in `spec/format.md`.
pub(super) type Row = [u8; FACT_LEN];

/// Facts about whole packs.
#[derive(Default)]
pub struct Facts {
    packs: Vec<PackRow>,
    known: HashMap<PackId, u32>,
    rows: Vec<Row>,
}

impl Facts {
    /// How many facts there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The packs they are about.
    #[must_use]
    pub fn packs(&self) -> &[PackRow] {
        &self.packs
    }

    /// Whether the facts of this pack are in.
    #[must_use]
    pub fn has_pack(&self, pack: &PackId) -> bool {
        self.known.contains_key(pack)
    }

    /// Adds all facts of a pack; a pack that is in already is passed over. Call `sort` after the last one.
    pub fn add_pack(
        &mut self,
        pack: PackId,
        stored_len: u64,
        kind: PackKind,
        chunks: impl Iterator<Item = Placed>,
    ) {
        if self.has_pack(&pack) {
            return;
        }
        let stored_len = u32::try_from(stored_len).unwrap_or(u32::MAX);
        let number = self.add_row(PackRow { pack, stored_len, kind: kind as u8 });
        self.rows.extend(chunks.map(|(id, location)| encode_row(&id, number, &location)));
    }

    /// Adds what a segment says of packs that are not in yet, but for those that are out; nothing if it cannot be read. Call `sort` after
    /// the last one.
    ///
    /// # Errors
    /// Any error of the medium; damage.
    pub fn add_segment(&mut self, segment: &Segment, is_out: impl Fn(&PackId) -> bool) -> Result<()> {
        let before = (self.packs.len(), self.rows.len());
        let outcome = self.add_rows_of(segment, is_out);
        if outcome.is_err() {
            for row in self.packs.drain(before.0..) {
                self.known.remove(&row.pack);
            }
            self.rows.truncate(before.1);
        }
        outcome
    }

    fn add_rows_of(&mut self, segment: &Segment, is_out: impl Fn(&PackId) -> bool) -> Result<()> {
        // By the number of a pack there, that which it has here.
        let mut numbers = Vec::with_capacity(segment.packs().len());
        for row in segment.packs() {
            let is_in =
                !is_out(&row.pack) && !self.has_pack(&row.pack) && PackKind::from_number(row.kind).is_some();
            numbers.push(is_in.then(|| self.add_row(*row)));
        }
        // At once: what grows step by step leaves a hole of each size behind.
        self.rows.reserve(usize::try_from(segment.fact_count()).unwrap_or(0));
        let mut rows = segment.rows();
        while let Some(mut row) = rows.next()? {
            let number = u32::from_le_bytes(array(&row[33..])) as usize;
            if let Some(number) = numbers.get(number).copied().flatten() {
                row[33..37].copy_from_slice(&number.to_le_bytes());
                self.rows.push(row);
            }
        }
        Ok(())
    }

    /// Adds a pack, and returns its number.
    fn add_row(&mut self, row: PackRow) -> u32 {
        let number = u32::try_from(self.packs.len()).unwrap_or(u32::MAX);
        self.packs.push(row);
        self.known.insert(row.pack, number);
        number
    }

    /// Adds what the whole frames of a pack say of themselves, computing the ids: for a pack without a sound directory.
    ///
    /// # Errors
    /// Any error of the medium.
    pub fn add_frames(&mut self, backend: &dyn Backend, pack: PackId, keys: &Keys) -> Result<()> {
        let file = match PackFile::open(backend, pack, keys) {
            Ok(file) => file,
            Err(error) if error.is_damage() => return self.add_frames_of_any_kind(backend, pack, keys),
            Err(error) => return Err(error),
        };
        let kind = file.kind();
        self.add_walked(&file, kind, keys.ids())
    }

    /// The header is gone, and with it the kind: frames fit only one of them, and so does the key box of the tail.
    fn add_frames_of_any_kind(&mut self, backend: &dyn Backend, pack: PackId, keys: &Keys) -> Result<()> {
        let mut outcome = Ok(());
        for kind in [PackKind::Data, PackKind::Tree] {
            let file = match PackFile::open_damaged(backend, pack, kind, keys) {
                Ok(file) => file,
                Err(error) if error.is_damage() => {
                    outcome = Err(error);
                    continue;
                }
                Err(error) => return Err(error),
            };
            if file.next_frame(0)?.is_some() {
                return self.add_walked(&file, kind, keys.ids());
            }
        }
        outcome
    }

    fn add_walked(&mut self, file: &PackFile, kind: PackKind, keys: &IdKeys) -> Result<()> {
        let mut placed = Vec::new();
        let mut offset = 0;
        while let Some(walked) = file.next_frame(offset)? {
            for chunk in walked.frame.chunks() {
                let Some(plain) = walked.frame.bytes(chunk) else { continue };
                let location = Location {
                    pack: file.id(),
                    frame_offset: walked.offset,
                    frame_stored_len: walked.stored_len,
                    offset: chunk.offset,
                    len: chunk.len,
                    kind: chunk.kind,
                };
                placed.push((keys.chunk_id(chunk.kind, plain), location));
            }
            offset = u64::from(walked.offset) + FRAME_HEADER_LEN as u64 + u64::from(walked.stored_len);
        }
        self.add_pack(file.id(), file.len(), kind, placed.into_iter());
        Ok(())
    }

    /// Takes the facts apart into parts of at most so many facts and packs, each with all facts of its packs `[SEG-5]`.
    #[must_use]
    pub fn split(self, max_facts: u64, max_packs: usize) -> Vec<Self> {
        if self.rows.len() as u64 <= max_facts && self.packs.len() <= max_packs {
            return vec![self];
        }
        let number = |row: &Row| u32::from_le_bytes(array(&row[33..]));
        let Self { packs, mut rows, .. } = self;
        rows.sort_by_key(number);
        let mut parts = vec![Self::default()];
        let mut rows = rows.chunk_by(|one, other| number(one) == number(other)).peekable();
        for (old, pack) in (0..).zip(packs) {
            let of_pack = rows.next_if(|rows| rows.first().map(number) == Some(old)).unwrap_or_default();
            let is_full = parts.last().is_none_or(|part| {
                (part.rows.len() + of_pack.len()) as u64 > max_facts || part.packs.len() >= max_packs
            });
            if is_full {
                parts.push(Self::default());
            }
            let Some(part) = parts.last_mut() else { continue };
            let new = u32::try_from(part.packs.len()).unwrap_or(u32::MAX);
            part.packs.push(pack);
            part.known.insert(pack.pack, new);
            part.rows.extend(of_pack.iter().map(|row| {
                let mut row = *row;
                row[33..37].copy_from_slice(&new.to_le_bytes());
                row
            }));
        }
        parts.retain(|part| !part.packs.is_empty());
        parts
    }

    /// Puts packs and facts into the order of a segment `[SEG-3]`.
    pub fn sort(&mut self) {
        let mut order: Vec<u32> = (0..u32::try_from(self.packs.len()).unwrap_or(u32::MAX)).collect();
        order.sort_unstable_by_key(|number| self.packs.get(*number as usize).map(|row| row.pack));
        let mut renumbered = vec![0u32; order.len()];
        for (new, old) in order.iter().enumerate() {
            if let Some(slot) = renumbered.get_mut(*old as usize) {
                *slot = u32::try_from(new).unwrap_or(u32::MAX);
            }
        }
        for row in &mut self.rows {
            let old = u32::from_le_bytes(array(&row[33..]));
            let new = renumbered.get(old as usize).copied().unwrap_or(old);
            row[33..37].copy_from_slice(&new.to_le_bytes());
        }
        self.packs.sort_unstable_by_key(|row| row.pack);
        self.known = self.packs.iter().map(|row| row.pack).zip(0..).collect();
        self.rows.sort_unstable_by_key(order_of);
        self.rows.dedup();
    }

    /// Adds the locations of a chunk to `found`. The facts must be sorted.
    pub fn find(&self, id: &ChunkId, found: &mut Vec<Location>) {
        let start = count_below(&self.rows, id, id_of);
        found.extend(locations(self.rows.get(start..).unwrap_or_default(), &self.packs, id));
    }

    /// The bytes of a segment with these facts, which must be sorted; sealed where the repository is encrypted. It says which segments
    /// it stands in for from now on.
    ///
    /// # Errors
    /// `Locked`.
    pub fn encode_segment(&self, keys: &Keys, superseded: &[SegmentId]) -> Result<Vec<u8>, Corruption> {
        let header = SegmentHeader {
            packs: self.packs.clone(),
            fact_count: self.rows.len() as u64,
            first_ids: self
                .rows
                .chunks(FACTS_PER_BLOCK)
                .filter_map(|block| block.first().map(id_of))
                .collect(),
            fields: superseded_field(superseded),
        };
        let body = codec::encode(&header);
        let blocks = self.rows.chunks(FACTS_PER_BLOCK).map(<[Row]>::as_flattened);
        let mut bytes = Vec::with_capacity(body.len() + 512 + self.rows.len() * (FACT_LEN + 1));
        if !keys.is_sealed() {
            let head = object_header(keys.repository(), Seal::Plain, &[], body.len());
            bytes.extend_from_slice(&head.encode(Magic::Segment));
            for part in std::iter::once(&body[..]).chain(blocks) {
                bytes.extend_from_slice(part);
                bytes.extend_from_slice(&id::checksum_128(&[part]));
            }
            return Ok(bytes);
        }
        let body = seal::pad_body(&body);
        let mut head = object_header(keys.repository(), Seal::Sealed([0; KEY_BOX_LEN]), &[], body.len());
        let beside = head.sealed_part(Magic::Segment);
        let mut new = keys.new_file(BoxKey::Index, &beside)?.ok_or(Corruption::Locked)?;
        head.seal = Seal::Sealed(new.key_box);
        bytes.extend_from_slice(&head.encode(Magic::Segment));
        bytes.extend_from_slice(&new.sealer.seal(&beside, &body)?);
        for block in blocks {
            let mut block = block.to_vec();
            block.resize(block_len(block.len() / FACT_LEN, true), 0);
            bytes.extend_from_slice(&new.sealer.seal(&beside, &block)?);
        }
        Ok(bytes)
    }

    /// Whether these are the packs and as many facts as a segment's header says.
    pub(super) fn fit(&self, header: &SegmentHeader) -> bool {
        self.packs == header.packs && self.rows.len() as u64 == header.fact_count
    }

    /// All facts.
    pub fn iter(&self) -> impl Iterator<Item = Placed> + '_ {
        self.rows.iter().filter_map(|row| decode_row(row, &self.packs))
    }
}

/// What a segment says of those that it was made from `[SEG-6]`.
fn superseded_field(superseded: &[SegmentId]) -> Vec<Field> {
    if superseded.is_empty() {
        return Vec::new();
    }
    let value: Vec<u8> = superseded.iter().flat_map(|segment| *segment.as_bytes()).collect();
    vec![Field { tag: SUPERSEDED, critical: false, value: value.into() }]
}

fn encode_row(id: &ChunkId, pack: u32, location: &Location) -> Row {
    let mut row = [0; FACT_LEN];
    row[0..32].copy_from_slice(id.as_bytes());
    row[32] = location.kind.number();
    row[33..37].copy_from_slice(&pack.to_le_bytes());
    row[37..41].copy_from_slice(&location.frame_offset.to_le_bytes());
    row[41..45].copy_from_slice(&location.frame_stored_len.to_le_bytes());
    row[45..49].copy_from_slice(&location.offset.to_le_bytes());
    row[49..53].copy_from_slice(&location.len.to_le_bytes());
    row
}

/// Whether a stored fact names a pack and a kind `[SEG-3]`.
pub(super) fn is_sound(row: &Row, packs: &[PackRow]) -> bool {
    let pack = u32::from_le_bytes(array(&row[33..])) as usize;
    pack < packs.len() && ChunkKind::from_number(row[32]).is_some()
}

/// A stored fact as chunk and location; nothing if it names no pack or kind.
pub(super) fn decode_row(row: &Row, packs: &[PackRow]) -> Option<Placed> {
    let pack = packs.get(u32::from_le_bytes(array(&row[33..])) as usize)?;
    let location = Location {
        pack: pack.pack,
        frame_offset: u32::from_le_bytes(array(&row[37..])),
        frame_stored_len: u32::from_le_bytes(array(&row[41..])),
        offset: u32::from_le_bytes(array(&row[45..])),
        len: u32::from_le_bytes(array(&row[49..])),
        kind: ChunkKind::from_number(row[32])?,
    };
    Some((id_of(row), location))
}

pub(super) fn id_of(row: &Row) -> ChunkId {
    ChunkId::from_bytes(array(row))
}

/// What facts are sorted by `[SEG-3]`.
pub(super) fn order_of(row: &Row) -> ([u8; 32], u32, u32, u32) {
    let number = |at: usize| u32::from_le_bytes(array(&row[at..]));
    (array(row), number(33), number(37), number(45))
}

/// The locations of a chunk in rows of which none is below its id.
pub(super) fn locations(rows: &[Row], packs: &[PackRow], id: &ChunkId) -> impl Iterator<Item = Location> {
    let same = rows.iter().take_while(|row| row[..32] == id.as_bytes()[..]);
    same.filter_map(|row| Some(decode_row(row, packs)?.1))
}

/// How many of the rows, which ascend by their ids, have one that is below another: few, if it is looked for among ids that ascend too.
pub(super) fn count_near<T>(rows: &[T], id: &ChunkId, id_of: impl Fn(&T) -> ChunkId) -> usize {
    let is_below = |row: &T| id_of(row) < *id;
    // All before `start` are below.
    let (mut start, mut reach) = (0, 1);
    while rows.get(start + reach - 1).is_some_and(is_below) {
        start += reach;
        reach *= 2;
    }
    let end = rows.len().min(start + reach - 1);
    start + rows.get(start..end).unwrap_or_default().partition_point(is_below)
}

/// How many of the rows, which ascend by their ids, have one that is below another. Ids are hashes and lie evenly, so it is looked for around
/// the place where it would be: in a hundred segments that is most of the time of a lookup.
pub(super) fn count_below<T>(rows: &[T], id: &ChunkId, id_of: impl Fn(&T) -> ChunkId) -> usize {
    let head = |id: &ChunkId| u64::from_be_bytes(array(id.as_bytes()));
    let is_below = |row: &T| {
        let one = id_of(row);
        head(&one) < head(id) || (head(&one) == head(id) && one < *id)
    };
    let [low, high] = [rows.first(), rows.last()].map(|row| row.map_or(0, |row| head(&id_of(row))));
    let part = u128::from(head(id).clamp(low, high) - low) * rows.len() as u128;
    let guess = usize::try_from(part / (u128::from(high - low) + 1)).unwrap_or(0);
    // All before `start` are below; none from `end` on is.
    let (mut start, mut end, mut reach) = (0, rows.len(), 8);
    if rows.get(guess).is_some_and(is_below) {
        start = guess + 1;
        while let Some(row) = rows.get(start + reach) {
            if !is_below(row) {
                end = start + reach;
                break;
            }
            start += reach + 1;
            reach *= 4;
        }
    } else {
        end = guess;
        while let Some(row) = end.checked_sub(reach).and_then(|at| rows.get(at)) {
            if is_below(row) {
                start = end - reach + 1;
                break;
            }
            end -= reach;
            reach *= 4;
        }
    }
    start + rows.get(start..end).unwrap_or_default().partition_point(is_below)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_below_an_id_is_counted_wherever_the_ids_lie() {
        let spread = |number: u64| ChunkId::from_bytes(crate::id::hash(&number.to_le_bytes()));
        let close = |number: u64| {
            let mut bytes = [7; 32];
            bytes[24..].copy_from_slice(&(number / 3).to_be_bytes());
            ChunkId::from_bytes(bytes)
        };
        let ends = [ChunkId::from_bytes([0; 32]), ChunkId::from_bytes([255; 32])];
        for count in [0, 1, 2, 7, 100, 3000] {
            for ids in [(0..count).map(spread).collect::<Vec<_>>(), (0..count).map(close).collect()] {
                let mut rows = ids.clone();
                rows.extend(&ends[..usize::from(count % 2 == 1)]);
                rows.sort_unstable();
                let asked = ids.iter().copied().chain((count..count + 100).map(spread)).chain(ends);
                for id in asked.chain((0..count + 9).map(close)) {
                    let right = rows.partition_point(|row| *row < id);
                    assert_eq!(count_below(&rows, &id, |row| *row), right, "{id} among {count}");
                    for from in [0, right / 2, right.saturating_sub(1), right] {
                        let near = count_near(&rows[from..], &id, |row| *row);
                        assert_eq!(from + near, right, "{id} among {count} from {from}");
                    }
                }
            }
        }
    }

    #[test]
    fn facts_too_many_for_one_segment_are_split_by_whole_packs() {
        let mut facts = Facts::default();
        for pack in (0..10u8).rev() {
            let id = PackId::from_bytes([pack; 32]);
            let placed = (0..3u8).map(|chunk| {
                let location = Location {
                    pack: id,
                    frame_offset: 192,
                    frame_stored_len: 64,
                    offset: u32::from(chunk),
                    len: 1,
                    kind: ChunkKind::Data,
                };
                (ChunkId::from_bytes([chunk * 16 + pack; 32]), location)
            });
            facts.add_pack(id, 1000, PackKind::Data, placed);
        }
        facts.sort();
        let all: Vec<_> = facts.iter().collect();
        let keys = Keys::plain(crate::id::RepositoryId::from_bytes([7; 16]));
        let mut found = Vec::new();
        for (mut part, packs) in facts.split(7, 100).into_iter().zip([2, 2, 2, 2, 2]) {
            part.sort();
            assert_eq!((part.packs().len(), part.len()), (packs, 3 * packs));
            let bytes = part.encode_segment(&keys, &[]);
            assert_eq!(bytes.and_then(|bytes| Segment::check(&bytes, &keys, &part)), Ok(()));
            found.extend(part.iter());
        }
        found.sort_unstable();
        assert_eq!(found, all);
    }
}
