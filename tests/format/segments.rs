//! `[SEG-n]`: segments whose names are the hash of their bytes.

use std::sync::atomic::AtomicBool;

use vault::check::{CheckOptions, check};
use vault::codec;
use vault::event::Silent;
use vault::header::{Header, Magic};
use vault::id::{ChunkId, PackId, SegmentId, checksum_128};
use vault::index::{PackRow, Segment, SegmentHeader};

use super::broken;
use super::crafted::{Pack, Place};

/// A fact, as the table FACT has it: the first two bytes of the id; kind; pack, frame offset, stored length, offset, length.
type Fact = (u16, u8, [u32; 5]);

/// A segment in the making.
struct Crafted {
    header: SegmentHeader,
    facts: Vec<Fact>,
    /// Behind the body; changes the number of the byte given.
    flip: Option<usize>,
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
        Self { header, facts, flip: None, more: 0, outer_len: 0 }
    }

    fn bytes(&self, place: &Place) -> Vec<u8> {
        let body = codec::encode(&self.header);
        let head =
            Header { kind: 0, outer_len: self.outer_len, body_len: body.len() as u64, repository: place.id };
        let mut bytes = head.encode(Magic::Segment).to_vec();
        bytes.extend_from_slice(&body);
        bytes.extend(checksum_128(&[&body]));
        for block in self.facts.chunks(1236) {
            let mut rows = Vec::new();
            for (first, kind, numbers) in block {
                rows.extend(id(*first).as_bytes());
                rows.push(*kind);
                for number in numbers {
                    rows.extend(number.to_le_bytes());
                }
            }
            bytes.extend_from_slice(&rows);
            bytes.extend(checksum_128(&[&rows]));
        }
        if let Some(at) = self.flip {
            bytes[192 + at] ^= 1;
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
    let id = SegmentId::from_bytes(place.write_hashed("index", &crafted.bytes(&place)));
    let read = Segment::open(&place.backend, id, place.id).and_then(|segment| {
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
    assert_eq!(read(|segment| segment.facts.truncate(2999)), Some("a length"));
    assert_eq!(read(|segment| segment.header.fact_count = u64::MAX), Some("SEG-1"));
    assert_eq!(read(|segment| segment.header.fact_count = 1), Some("SEG-1"));
    assert_eq!(read(|segment| segment.outer_len = 1), Some("HEAD-6"));
}

#[test]
fn seg_2_the_checksums_of_body_and_blocks_are_right() {
    let body = codec::encode(&Crafted::new(3000).header).len();
    assert_eq!(read(|segment| segment.flip = Some(body)), Some("SEG-2"), "the checksum of the body");
    assert_eq!(
        read(|segment| segment.flip = Some(body + 16 + 5)),
        Some("SEG-2"),
        "a fact of the first block"
    );
    let last = body + 16 + 3000 * 53 + 3 * 16 - 1;
    assert_eq!(read(|segment| segment.flip = Some(last)), Some("SEG-2"), "the checksum of the last block");
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
    let pack = Pack::new();
    let bytes = pack.bytes(place.id);
    let row = PackRow {
        pack: PackId::from_bytes(place.write_hashed("packs", &bytes)),
        stored_len: u32::try_from(bytes.len()).unwrap(),
        kind: 1,
    };
    // The facts that the pack itself gives, as the reader would find them without a segment.
    let repository = place.open();
    let directory =
        vault::pack::PackFile::open(&*place.backend, row.pack, place.id).unwrap().directory().unwrap();
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
        let name = place.write_hashed("index", &facts.encode_segment(place.id));
        let options = CheckOptions { read_data: true, ..CheckOptions::default() };
        let report = check(&repository, &options, &Silent, &AtomicBool::new(false)).unwrap();
        let rules: Vec<_> = report.damages.iter().map(|damage| broken(&damage.error, "index/")).collect();
        assert_eq!(rules, if lacking { vec!["SEG-5"] } else { Vec::new() });
        std::fs::remove_file(place.path(&format!("index/{}", SegmentId::from_bytes(name)))).unwrap();
    }
}
