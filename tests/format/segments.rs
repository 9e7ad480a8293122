//! `[SEG-n]`: segments whose names are the hash of their bytes.

use std::sync::atomic::AtomicBool;

use vault::check::{CheckOptions, check};
use vault::codec;
use vault::event::Silent;
use vault::field::Field;
use vault::header::{Header, Magic, Seal};
use vault::id::{ChunkId, ChunkKind, PackId, SegmentId, checksum_128};
use vault::index::{PackRow, Segment, SegmentHeader};
use vault::seal::{BoxKey, Keys, pad_body, padded_len};

use super::broken;
use super::crafted::{Pack, Place};
use crate::support::repository::is_encrypted;

/// A fact, as the table FACT has it: the first two bytes of the id; kind; pack, frame offset, stored length, offset, length.
type Fact = (u16, u8, [u32; 5]);

/// A segment in the making.
struct Crafted {
    header: SegmentHeader,
    facts: Vec<Fact>,
    /// Changes this byte of body and blocks, or this one before the end.
    flip: Option<isize>,
    /// What sealed blocks are padded with.
    padding: u8,
    /// Bytes too many at the end.
    more: usize,
    outer_len: u32,
}

impl Crafted {
    /// Two packs and so many facts.
    fn new(count: u16) -> Self {
        let facts: Vec<Fact> =
            (0..count).map(|number| (number, 1, [u32::from(number % 2), 192, 100, 9, 50])).collect();
        let row = |byte: u8| PackRow { pack: PackId::from_bytes([byte; 32]), stored_len: 1000, kind: 1 };
        let header = SegmentHeader {
            packs: vec![row(1), row(2)],
            fact_count: count.into(),
            first_ids: facts.iter().step_by(1236).map(|fact| id(fact.0)).collect(),
            fields: Vec::new(),
        };
        Self { header, facts, flip: None, padding: 0, more: 0, outer_len: 0 }
    }

    fn body(&self, keys: &Keys) -> Vec<u8> {
        let body = codec::encode(&self.header);
        if keys.is_sealed() { pad_body(&body) } else { body }
    }

    fn bytes(&self, keys: &Keys) -> Vec<u8> {
        let body = self.body(keys);
        let mut head = Header {
            kind: 0,
            outer_len: self.outer_len,
            body_len: body.len() as u64,
            repository: keys.repository(),
            seal: if keys.is_sealed() { Seal::Sealed([0; 128]) } else { Seal::Plain },
            salt: 0,
        };
        let beside = head.sealed_part(Magic::Segment);
        let mut seal = keys.new_file(BoxKey::Index, &beside).unwrap();
        if let Some(seal) = &seal {
            head.seal = Seal::Sealed(seal.key_box);
        }
        let mut part = |bytes: &[u8]| match &mut seal {
            Some(seal) => seal.sealer.seal(&beside, bytes).unwrap(),
            None => [bytes, &checksum_128(&[bytes])].concat(),
        };
        let mut bytes = [head.encode(Magic::Segment).to_vec(), part(&body)].concat();
        for block in self.facts.chunks(1236) {
            let mut rows = Vec::new();
            for (first, kind, numbers) in block {
                rows.extend(id(*first).as_bytes());
                rows.push(*kind);
                for number in numbers {
                    rows.extend(number.to_le_bytes());
                }
            }
            if keys.is_sealed() {
                let padded = usize::try_from(padded_len(rows.len() as u64)).unwrap();
                rows.resize(padded.min(1236 * 53), self.padding);
            }
            bytes.extend(part(&rows));
        }
        if let Some(at) = self.flip {
            let at = if at < 0 { bytes.len().wrapping_add_signed(at) } else { 192 + at.unsigned_abs() };
            bytes[at] ^= 1;
        }
        bytes.resize(bytes.len() + self.more, 0);
        bytes
    }
}

fn id(number: u16) -> ChunkId {
    let mut bytes = [0; 32];
    bytes[..2].copy_from_slice(&number.to_be_bytes());
    ChunkId::from_bytes(bytes)
}

/// The rule that reading all of a segment finds broken, if any.
fn read(change: impl FnOnce(&mut Crafted)) -> Option<&'static str> {
    let place = Place::new();
    let mut crafted = Crafted::new(3000);
    change(&mut crafted);
    let id = SegmentId::from_bytes(place.write_hashed("index", &crafted.bytes(&place.keys)));
    let read = Segment::open(&place.backend, id, &place.keys).and_then(|segment| {
        let mut count = 0;
        segment.for_each(|_| count += 1)?;
        assert_eq!(count, crafted.facts.len());
        Ok(())
    });
    read.err().map(|error| broken(&error, "index/"))
}

#[test]
fn a_crafted_segment_that_breaks_no_rule_is_read() {
    assert_eq!(read(|_| ()), None);
}

#[test]
fn seg_1_the_length_is_what_the_header_gives() {
    assert_eq!(read(|segment| segment.more = 1), Some("a length"));
    assert_eq!(read(|segment| segment.facts.truncate(2500)), Some("a length"));
    // One fact less does not show in the length of a padded block: what stands in its place is none.
    let one_less = if is_encrypted() { "SEG-3" } else { "a length" };
    assert_eq!(read(|segment| segment.facts.truncate(2999)), Some(one_less));
    assert_eq!(read(|segment| segment.header.fact_count = u64::MAX), Some("SEG-1"));
    assert_eq!(read(|segment| segment.header.fact_count = 1), Some("SEG-1"));
    assert_eq!(read(|segment| segment.outer_len = 1), Some("HEAD-6"));
}

#[test]
fn seg_2_the_checksums_of_body_and_blocks_are_right() {
    let body = Crafted::new(3000).body(&Place::new().keys).len();
    let body = isize::try_from(body).unwrap();
    // A sealed part has a tag in the place of its checksum.
    let broken = Some(if is_encrypted() { "SEAL-2" } else { "SEG-2" });
    assert_eq!(read(|segment| segment.flip = Some(body)), broken, "the checksum of the body");
    assert_eq!(read(|segment| segment.flip = Some(body + 16 + 5)), broken, "a fact of the first block");
    assert_eq!(read(|segment| segment.flip = Some(-1)), broken, "the checksum of the last block");
}

#[test]
fn seal_4_the_padding_of_a_sealed_block_is_zero() {
    assert_eq!(read(|segment| segment.padding = 1), is_encrypted().then_some("SEAL-4"));
}

#[test]
fn seg_3_facts_and_packs_ascend_and_facts_name_a_pack() {
    assert_eq!(read(|segment| segment.facts.swap(5, 6)), Some("SEG-3"));
    assert_eq!(read(|segment| segment.facts[6] = segment.facts[5]), Some("SEG-3"), "twice the same");
    assert_eq!(read(|segment| segment.facts[6].2[0] = 2), Some("SEG-3"), "no such pack");
    assert_eq!(read(|segment| segment.facts[6].1 = 4), Some("SEG-3"), "no such kind");
    assert_eq!(read(|segment| segment.header.packs.swap(0, 1)), Some("SEG-3"));
    assert_eq!(read(|segment| segment.header.packs[1].pack = segment.header.packs[0].pack), Some("SEG-3"));
    assert_eq!(read(|segment| segment.header.packs[0].kind = 3), Some("SEG-3"));
    // Across the border of two blocks, with the right first id.
    let across = read(|segment| {
        segment.facts[1236].0 = 1235;
        segment.facts[1236].2[0] = 0;
        segment.header.first_ids[1] = id(1235);
    });
    assert_eq!(across, Some("SEG-3"));
}

#[test]
fn seg_4_first_ids_are_those_of_the_blocks() {
    assert_eq!(read(|segment| segment.header.first_ids[1] = id(1237)), Some("SEG-4"));
    assert_eq!(read(|segment| segment.header.first_ids.truncate(2)), Some("SEG-4"));
    assert_eq!(read(|segment| segment.header.first_ids.push(id(9999))), Some("SEG-4"));
    assert_eq!(read(|segment| segment.header.first_ids.swap(0, 1)), Some("SEG-4"));
}

#[test]
fn seg_5_a_segment_that_lacks_a_chunk_of_a_pack_is_named() {
    let place = Place::new();
    let pack = Pack::new(&place.keys);
    let bytes = pack.bytes(&place.keys);
    let row = PackRow {
        pack: PackId::from_bytes(place.write_hashed("packs", &bytes)),
        stored_len: u32::try_from(bytes.len()).unwrap(),
        kind: 1,
    };
    // The facts that the pack itself gives, as the reader would find them without a segment.
    let repository = place.open();
    let directory =
        vault::pack::PackFile::open(&*place.backend, row.pack, &place.keys).unwrap().directory().unwrap();
    let whole: Vec<_> = directory.placed(row.pack).collect();
    for lacking in [false, true] {
        let mut facts = vault::index::Facts::default();
        facts.add_pack(
            row.pack,
            row.stored_len.into(),
            vault::pack::PackKind::Data,
            whole.iter().skip(usize::from(lacking)).copied(),
        );
        facts.sort();
        let name = place.write_hashed("index", &facts.encode_segment(&place.keys, &[]).unwrap());
        let options = CheckOptions { read_data: true, ..CheckOptions::default() };
        let report = check(&repository, &options, &Silent, &AtomicBool::new(false)).unwrap();
        let rules: Vec<_> = report.damages.iter().map(|damage| broken(&damage.error, "index/")).collect();
        assert_eq!(rules, if lacking { vec!["SEG-5"] } else { Vec::new() });
        std::fs::remove_file(place.path(&format!("index/{}", SegmentId::from_bytes(name)))).unwrap();
    }
}

#[test]
fn seg_6_the_segments_that_it_was_made_from_are_whole_ids() {
    let named = |len: usize| {
        read(|segment| {
            segment.header.fields = vec![Field { tag: 1, critical: false, value: vec![7; len].into() }];
        })
    };
    assert_eq!([0, 32, 64].map(named), [None; 3]);
    assert_eq!([1, 31, 33].map(named), [Some("SEG-6"); 3]);
}

#[test]
fn repo_6_a_segment_that_gives_a_pack_another_length_takes_nothing_from_one_that_knows_it() {
    let place = Place::new();
    let [(id, pack), (_, other)] = [[5; 1000], [6; 1000]].map(|bytes| super::files::stored(&place, &bytes));
    let known = place.open().reader().unwrap().locate(ChunkKind::Data, &id).unwrap();
    let len = |pack| place.read(&super::files::name_of(pack)).len() as u64;
    let packs = [(pack, len(&pack) + 1), (other, len(&other))];
    // Some of them are asked before the one that knows the pack, and some after it.
    for number in 0..32u16 {
        let mut facts = vault::index::Facts::default();
        for (pack, len) in packs {
            facts.add_pack(pack, len, vault::pack::PackKind::Data, [(self::id(number), known)].into_iter());
        }
        facts.sort();
        let name = place.write_hashed("index", &facts.encode_segment(&place.keys, &[]).unwrap());
        let reader = place.open().reader().unwrap();
        assert_eq!(reader.index().locate_all(ChunkKind::Data, &id).unwrap(), [known], "{number}");
        std::fs::remove_file(place.path(&format!("index/{}", SegmentId::from_bytes(name)))).unwrap();
    }
}

#[test]
fn chunks_that_are_looked_up_together_are_found_as_each_alone() {
    let place = Place::new();
    let (_, pack) = super::files::stored(&place, &[5; 1000]);
    let known = place.open().reader().unwrap().index().segments().next().unwrap().packs()[0];
    // Some ids have one place, some more, and of one they fill several blocks.
    let times = |number: u16| if number == 704 { 4000 } else { number % 4 };
    let ids = (0..2000).map(|number| number * 16 % 20_011);
    let mut facts = vault::index::Facts::default();
    let placed = ids.flat_map(|number| (0..times(number)).map(move |nth| (id(number), at(pack, nth))));
    facts.add_pack(pack, known.stored_len.into(), vault::pack::PackKind::Data, placed);
    facts.sort();
    place.write_hashed("index", &facts.encode_segment(&place.keys, &[]).unwrap());
    let (repository, mut found) = (place.open(), 0);
    let reader = repository.reader().unwrap();
    for step in [1, 3, 50, 699, 7000] {
        let ids: Vec<ChunkId> = (0..21_000).step_by(step).flat_map(|number| [id(number); 2]).collect();
        let each = reader.index().locate_each(ChunkKind::Data, &ids, &|| Ok(())).unwrap();
        assert_eq!(each.len(), ids.len());
        for (id, places) in ids.iter().zip(each) {
            found += places.len();
            assert_eq!(reader.index().locate_all(ChunkKind::Data, id).unwrap(), places, "{id} by {step}");
        }
    }
    assert!(found > 9000, "{found}");
}

/// A place in a pack; the others are before it.
fn at(pack: PackId, nth: u16) -> vault::pack::Location {
    let kind = ChunkKind::Data;
    vault::pack::Location { pack, frame_offset: 192, frame_stored_len: 100, offset: nth.into(), len: 1, kind }
}

#[test]
fn a_segment_is_taken_over_but_for_packs_that_are_out_and_not_at_all_if_it_is_damaged() {
    let place = Place::new();
    let [first, second] = [1, 2].map(|byte| PackId::from_bytes([byte; 32]));
    let mut facts = vault::index::Facts::default();
    // The last of its blocks is damaged.
    for flip in [Some(-20), None] {
        let crafted = Crafted { flip, ..Crafted::new(3000) };
        let id = SegmentId::from_bytes(place.write_hashed("index", &crafted.bytes(&place.keys)));
        let segment = Segment::open(&place.backend, id, &place.keys).unwrap();
        let outcome = facts.add_segment(&segment, |pack| *pack == first);
        assert_eq!(outcome.is_err(), flip.is_some());
        let count = if flip.is_some() { 0 } else { 1500 };
        assert_eq!((facts.len(), facts.packs().len()), (count, count.min(1)));
        assert!(!facts.has_pack(&first) && facts.has_pack(&second) == flip.is_none());
    }
    facts.sort();
    assert!(facts.iter().all(|(_, place)| place.pack == second));
    let ids: Vec<ChunkId> = facts.iter().map(|(id, _)| id).collect();
    assert_eq!(ids, (0..3000).skip(1).step_by(2).map(id).collect::<Vec<_>>());
}
