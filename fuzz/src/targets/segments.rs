//! Target: segments of the index.

use std::collections::HashSet;
use std::sync::Arc;

use vault::backend::Backend;
use vault::budget::Budget;
use vault::codec;
use vault::error::Error;
use vault::header::{KEY_BOX_LEN, Magic, Seal, object_header};
use vault::id::{self, ChunkId, PackId, SegmentId};
use vault::index::{FACT_LEN, FACTS_PER_BLOCK, Facts, Index, PackRow, PresentPacks, Segment, SegmentHeader};
use vault::pack::{PackKind, Placed};
use vault::seal::{self, BoxKey, Keys};

use super::Defect;
use super::fixed::{self, finish_header, named, part};
use super::memory::Memory;

const BLOCK_LEN: usize = FACT_LEN * FACTS_PER_BLOCK;

/// A segment: the file but for its checksums; its structure and its facts; or a short form of many facts.
pub fn segment(input: &[u8], defect: Defect) {
    let Some((mode, rest)) = input.split_first() else { return };
    let (is_sealed, is_padded) = (mode & 4 != 0, mode & 8 != 0);
    let keys = fixed::keys(is_sealed);
    if mode % 4 == 0 {
        let file = finish_file(rest);
        if let Ok(facts) = read(&file, keys) {
            assert!(!is_sealed, "a file that nobody sealed was read");
            let body = &file[192..][..number(&file, 16)];
            facts.are_those_of(body);
            assert!(plain(body, &facts.rows) == file, "some of its bytes mean nothing");
        }
        return;
    }
    let (body, mut rows) = if mode & 3 == 1 {
        short(rest)
    } else {
        let (body, rows) = part(rest);
        (body.to_vec(), rows.to_vec())
    };
    let file = if is_sealed { sealed(&body, &rows, !is_padded, keys) } else { Some(plain(&body, &rows)) };
    if is_sealed {
        // Zeros behind a part of a fact make a whole one of it.
        rows.resize(rows.len().next_multiple_of(FACT_LEN), 0);
    }
    let Ok(mut facts) = read(&file.unwrap_or_default(), keys) else {
        return assert!(mode & 3 != 1 || is_sealed && is_padded, "a right one was refused");
    };
    // A chunk that is longer than any.
    let is_the_case = facts.rows.chunks(FACT_LEN).any(|fact| fact.get(52).is_some_and(|byte| *byte != 0));
    defect.spoil(is_the_case, &mut facts.rows);
    if is_sealed && rows.get(facts.rows.len()..).is_some_and(|rest| rest.iter().all(|byte| *byte == 0)) {
        // Nor are zeros at the end facts.
        rows.truncate(facts.rows.len());
    }
    assert!(facts.rows == rows, "other facts were read than are there");
    let structure = if is_sealed && is_padded { seal::unpad_body(&body) } else { Ok(&body[..]) };
    facts.are_those_of(structure.unwrap_or_else(|error| panic!("{error}")));
}

/// The number at a place, 0 beyond the end.
fn number(bytes: &[u8], at: usize) -> usize {
    let found = bytes.get(at..).and_then(|bytes| bytes.first_chunk::<4>());
    found.map_or(0, |bytes| u32::from_le_bytes(*bytes) as usize)
}

/// A segment with facts that are right, many of them: two bytes of the input for each sixteen.
fn short(input: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let mut packs: Vec<PackRow> = Vec::new();
    let mut facts: Vec<[u8; FACT_LEN]> = Vec::new();
    for (pair, number) in input.chunks_exact(2).take(100).zip(0u8..) {
        let pack = PackId::from_bytes([number / 4; 32]);
        if packs.last().is_none_or(|last| last.pack != pack) {
            packs.push(PackRow { pack, stored_len: u32::from(pair[0]) * 100_000, kind: 1 + pair[1] % 2 });
        }
        for copy in 0..16u8 {
            let mut fact = [0; FACT_LEN];
            // Some are the same chunk in several packs.
            fact[..3].copy_from_slice(&[pair[0], copy, if pair[1] < 128 { pair[1] } else { number }]);
            fact[32] = 1;
            fact[33..37].copy_from_slice(&u32::from(number / 4).to_le_bytes());
            fact[37..41].copy_from_slice(&(192 + 64 * u32::from(copy)).to_le_bytes());
            fact[41..45].copy_from_slice(&[pair[1], 0, 0, 0]);
            fact[45..49].copy_from_slice(&u32::from(number).to_le_bytes());
            fact[49..53].copy_from_slice(&[1, pair[0], 0, 0]);
            facts.push(fact);
        }
    }
    facts.sort_by_key(|fact| (fact[..32].to_vec(), number(fact, 33), number(fact, 37), number(fact, 45)));
    let first = |block: &[[u8; FACT_LEN]]| {
        let id = block.first().and_then(|fact| fact.first_chunk::<32>());
        ChunkId::from_bytes(id.copied().unwrap_or_default())
    };
    let first_ids = facts.chunks(FACTS_PER_BLOCK).map(first).collect();
    let header = SegmentHeader { packs, fact_count: facts.len() as u64, first_ids, fields: Vec::new() };
    (codec::encode(&header), facts.concat())
}

fn plain(body: &[u8], facts: &[u8]) -> Vec<u8> {
    let header = object_header(fixed::ID, Seal::Plain, &[], body.len());
    let mut bytes = header.encode(Magic::Segment).to_vec();
    for part in std::iter::once(body).chain(facts.chunks(BLOCK_LEN)) {
        bytes.extend_from_slice(part);
        bytes.extend_from_slice(&id::checksum_128(&[part]));
    }
    bytes
}

/// The same sealed; the body as it is, or padded first.
fn sealed(body: &[u8], facts: &[u8], pads: bool, keys: &Keys) -> Option<Vec<u8>> {
    let body = if pads { seal::pad_body(body) } else { body.to_vec() };
    let mut header = object_header(fixed::ID, Seal::Sealed([0; KEY_BOX_LEN]), &[], body.len());
    let beside = header.sealed_part(Magic::Segment);
    let mut new = keys.new_file(BoxKey::Index, &beside).ok()??;
    header.seal = Seal::Sealed(new.key_box);
    let mut bytes = header.encode(Magic::Segment).to_vec();
    bytes.extend(new.sealer.seal(&beside, &body).ok()?);
    for block in facts.chunks(BLOCK_LEN) {
        let mut block = block.to_vec();
        let len = usize::try_from(seal::padded_len(block.len() as u64)).ok()?;
        block.resize(len.min(BLOCK_LEN), 0);
        bytes.extend(new.sealer.seal(&beside, &block).ok()?);
    }
    Some(bytes)
}

/// Makes all checksums of a plain one right.
fn finish_file(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    finish_header(&mut bytes);
    let mut len = number(&bytes, 16);
    let mut rest = bytes.get_mut(192..).unwrap_or_default();
    while rest.len() >= 16 {
        let (part, behind) = rest.split_at_mut(len.min(rest.len() - 16));
        let (checksum, behind) = behind.split_at_mut(16);
        checksum.copy_from_slice(&id::checksum_128(&[part]));
        (rest, len) = (behind, BLOCK_LEN);
    }
    bytes
}

/// What was read of a segment.
struct Found {
    packs: Vec<PackRow>,
    superseded: Vec<SegmentId>,
    first_ids: Vec<ChunkId>,
    /// All facts as the specification has them.
    rows: Vec<u8>,
}

impl Found {
    /// It is what this structure says.
    fn are_those_of(&self, structure: &[u8]) {
        let header: SegmentHeader = codec::decode(structure).unwrap_or_else(|error| panic!("{error}"));
        assert!(header.packs == self.packs && header.first_ids == self.first_ids, "[SEG-4]");
        assert_eq!(header.fact_count, (self.rows.len() / FACT_LEN) as u64, "[SEG-1]");
        let named = header.fields.iter().find(|field| field.tag == 1);
        let superseded: Vec<u8> = self.superseded.iter().flat_map(|id| *id.as_bytes()).collect();
        assert_eq!(named.map_or(&[][..], |field| &field.value), superseded, "[SEG-6]");
    }
}

/// Reads a segment by all ways that there are.
fn read(file: &[u8], keys: &Keys) -> Result<Found, Error> {
    let medium = Memory::default();
    let (id, name) = (SegmentId::from_bytes(id::hash(file)), named("index", file));
    medium.put(&name, file.to_vec());
    let backend: Arc<dyn Backend> = medium.backend();
    let by_rules = |error: Error| {
        assert!(matches!(&error, Error::Damaged { file, .. } if *file == name), "{error}");
        error
    };
    let segment = Segment::open(&backend, id, keys).map_err(by_rules)?;
    let mut placed: Vec<Placed> = Vec::new();
    segment.for_each(|fact| placed.push(fact)).map_err(by_rules)?;
    assert_eq!(placed.len() as u64, segment.fact_count(), "[SEG-1]");
    comes_back(&segment, &placed, keys);
    look_up(&backend, &segment, &placed, keys);
    let first = |block: &[Placed]| block.first().map(|(id, _)| *id);
    Ok(Found {
        packs: segment.packs().to_vec(),
        superseded: segment.superseded().collect(),
        first_ids: placed.chunks(FACTS_PER_BLOCK).filter_map(first).collect(),
        rows: placed.iter().flat_map(|fact| row(fact, segment.packs())).collect(),
    })
}

/// A fact as it is stored.
fn row((id, location): &Placed, packs: &[PackRow]) -> [u8; FACT_LEN] {
    let pack = packs.iter().position(|row| row.pack == location.pack).unwrap_or(usize::MAX);
    let pack = u32::try_from(pack).unwrap_or(u32::MAX);
    let numbers = [
        location.frame_offset.to_le_bytes(),
        location.frame_stored_len.to_le_bytes(),
        location.offset.to_le_bytes(),
        location.len.to_le_bytes(),
    ];
    let mut row = [0; FACT_LEN];
    row[..32].copy_from_slice(id.as_bytes());
    row[32] = location.kind.number();
    row[33..37].copy_from_slice(&pack.to_le_bytes());
    row[37..].copy_from_slice(&numbers.concat());
    row
}

/// The facts, made into a segment again, are those that were read.
fn comes_back(segment: &Segment, placed: &[Placed], keys: &Keys) {
    let mut facts = Facts::default();
    for row in segment.packs() {
        let of_pack = placed.iter().filter(|(_, location)| location.pack == row.pack).copied();
        let kind = PackKind::from_number(row.kind).unwrap_or(PackKind::Data);
        facts.add_pack(row.pack, row.stored_len.into(), kind, of_pack);
    }
    facts.sort();
    assert!(facts.iter().eq(placed.iter().copied()), "facts do not come back");
    let superseded: Vec<SegmentId> = segment.superseded().collect();
    let bytes = facts.encode_segment(keys, &superseded).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(Segment::check(&bytes, keys, &facts), Ok(()), "what was made of it cannot be read");
}

/// Each fact is found by its chunk, where the pack is there, and nothing else is.
fn look_up(backend: &Arc<dyn Backend>, segment: &Segment, placed: &[Placed], keys: &Keys) {
    let rows = segment.packs().iter().filter(|row| row.stored_len % 3 != 1);
    let packs = rows.map(|row| (row.pack, u64::from(row.stored_len))).collect();
    let present = PresentPacks { packs, damaged: HashSet::default(), condemned: HashSet::default() };
    let is_there: HashSet<PackId> = present.packs.keys().copied().collect();
    let loaded = Index::load(backend, keys, &[segment.id()], present, Budget::default());
    let (index, problems) = loaded.unwrap_or_else(|error| panic!("{error}"));
    assert!(problems.is_empty(), "{problems:?}");
    for (id, location) in placed.iter().step_by(1 + placed.len() / 16) {
        let found = index.locate_all(location.kind, id).unwrap_or_else(|error| panic!("{error}"));
        let wanted: Vec<_> = placed
            .iter()
            .filter(|(other, there)| {
                other == id && there.kind == location.kind && is_there.contains(&there.pack)
            })
            .map(|(_, there)| *there)
            .collect();
        assert!(found.len() == wanted.len() && wanted.iter().all(|there| found.contains(there)), "lost");
    }
}
