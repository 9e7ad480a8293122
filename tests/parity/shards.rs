//! Packs of any bytes, damaged in every way, and mended by their parity.

use std::fs;
use std::path::PathBuf;

use vault::backend::LocalFolder;
use vault::error::{Error, Result};
use vault::id::{PackId, RepositoryId, checksum_128, hash};
use vault::session::Session;
use vault::sidecar::{Mending, Shape, Sidecar, make, mend, sidecar_name};

use super::medium::Medium;
use crate::support::scratch::Scratch;
use crate::support::torture::Random;

const REPOSITORY: [u8; 16] = [7; 16];
/// Where the description, and where the table begins.
const DESCRIPTION: usize = 192;
const TABLE: usize = 192 + 112;

/// A pack with parity.
struct Patient {
    at: Scratch,
    pack: PackId,
    bytes: Vec<u8>,
    shape: Shape,
}

impl Patient {
    fn new(len: usize, percent: u32) -> Self {
        let at = Scratch::new();
        at.dir("tmp");
        let bytes = Random(len as u64).bytes(len);
        let pack = PackId::from_bytes(hash(&bytes));
        let patient = Self { at, pack, bytes, shape: Shape::new(len as u64, percent) };
        fs::create_dir_all(patient.file().parent().unwrap()).unwrap();
        patient.lay(&patient.bytes);
        patient.make(percent).unwrap();
        assert_eq!(fs::metadata(patient.sidecar()).unwrap().len(), patient.shape.file_len());
        patient
    }

    fn backend(&self) -> LocalFolder {
        LocalFolder::new(self.at.path())
    }

    fn make(&self, percent: u32) -> Result<u64> {
        let id = RepositoryId::from_bytes(REPOSITORY);
        make(&self.backend(), &Session::begin(), id, self.pack, percent, &mut |_| true)
    }

    fn file(&self) -> PathBuf {
        self.sidecar().with_extension("")
    }

    fn sidecar(&self) -> PathBuf {
        self.at.join(sidecar_name(&self.pack))
    }

    fn lay(&self, bytes: &[u8]) {
        fs::write(self.file(), bytes).unwrap();
    }

    fn mend(&self) -> Result<Mending> {
        let of = (RepositoryId::from_bytes(REPOSITORY), self.pack);
        mend(&self.backend(), &Session::begin(), of, false, &mut |_| true)
    }

    /// Lays these bytes in the place of the pack, and wants it back.
    #[track_caller]
    fn comes_back_from(&self, damaged: &[u8]) {
        self.lay(damaged);
        assert!(matches!(self.mend().unwrap(), Mending::Mended { .. }));
        self.is_back();
    }

    #[track_caller]
    fn is_back(&self) {
        assert!(fs::read(self.file()).unwrap() == self.bytes);
        assert_eq!(self.mend().unwrap(), Mending::Whole);
        assert_eq!(fs::read_dir(self.at.join("tmp")).unwrap().count(), 0, "something is left in tmp");
    }

    /// Lays these bytes in the place of the pack; they are too damaged, and stay as they are.
    #[track_caller]
    fn is_beyond(&self, damaged: &[u8]) {
        self.lay(damaged);
        assert!(matches!(self.mend().unwrap(), Mending::Beyond { lacking: 1.., .. }));
        assert!(fs::read(self.file()).unwrap() == damaged);
        assert_eq!(fs::read_dir(self.at.join("tmp")).unwrap().count(), 0);
    }

    /// The pack with as many shards of each group damaged as it has recovery shards, or so many more.
    fn damaged(&self, random: &mut Random, more: u32) -> Vec<u8> {
        let mut bytes = self.bytes.clone();
        let shape = self.shape;
        for group in 0..shape.groups() {
            let mut shards: Vec<u32> = (group..shape.shards()).step_by(shape.groups() as usize).collect();
            for _ in 0..(shape.recovery() + more).min(u32::try_from(shards.len()).unwrap()) {
                let at = usize::try_from(random.next() % shards.len() as u64).unwrap();
                let begin = shards.swap_remove(at) as usize * shape.shard_len();
                let end = (begin + shape.shard_len()).min(bytes.len());
                let hit = begin + usize::try_from(random.next() % (end - begin) as u64).unwrap();
                bytes[hit] ^= 1 << (random.next() % 8);
            }
        }
        bytes
    }
}

#[test]
fn par_2_par_5_all_damage_within_the_parity_is_mended_byte_for_byte_and_one_shard_more_is_not() {
    let mut random = Random(5);
    for len in [1, 511, 700, 4096, 5000, 65_537, 300_000, 3_000_001, 40_000_000] {
        let all: &[u32] = if len > 1 << 22 { &[1, 5] } else { &[1, 5, 33, 100] };
        for percent in all {
            let patient = Patient::new(len, *percent);
            for _ in 0..3 {
                let damaged = patient.damaged(&mut random, 0);
                patient.comes_back_from(&damaged);
            }
            if patient.shape.recovery() < patient.shape.shards() / patient.shape.groups() {
                let damaged = patient.damaged(&mut random, 1);
                patient.is_beyond(&damaged);
            }
        }
    }
}

#[test]
fn holes_cuts_and_additions_are_mended() {
    let len = 40_000_000;
    let patient = Patient::new(len, 5);
    assert_eq!(patient.shape.groups(), 3);
    for (from, hole) in [(0, 65_536), (len - 100_000, 100_000), (12_345_678, 65_536), (7_000_001, len / 25)] {
        let mut bytes = patient.bytes.clone();
        bytes[from..from + hole].fill(0);
        patient.comes_back_from(&bytes);
    }
    patient.comes_back_from(&patient.bytes[..len - 1]);
    patient.comes_back_from(&patient.bytes[..len - 1_000_000]);
    patient.comes_back_from(&[&patient.bytes[..], &[0]].concat());
    patient.comes_back_from(&[&patient.bytes[..], &Random(1).bytes(100_000)].concat());
    patient.is_beyond(&patient.bytes[..len - 3_000_000]);
    patient.is_beyond(&[]);
}

#[test]
fn a_pack_that_is_gone_comes_back_if_there_is_as_much_parity() {
    for (len, percent) in [(700, 5), (4096, 1), (300_000, 100)] {
        let patient = Patient::new(len, percent);
        fs::remove_file(patient.file()).unwrap();
        assert!(matches!(patient.mend().unwrap(), Mending::Mended { .. }));
        patient.is_back();
    }
    let patient = Patient::new(300_000, 50);
    fs::remove_file(patient.file()).unwrap();
    assert!(matches!(patient.mend().unwrap(), Mending::Beyond { .. }));
    assert!(!patient.file().exists());
}

#[test]
fn par_5_bad_sectors_of_the_pack_and_of_its_parity_are_made_up_for() {
    let patient = Patient::new(3_000_000, 5);
    let name = patient.pack.to_string();
    let of = (RepositoryId::from_bytes(REPOSITORY), patient.pack);
    let parity_len = patient.shape.file_len();
    let mut medium = Medium::new(patient.at.path());
    medium.bad = vec![
        (name.clone(), 0..4096),
        (name.clone(), 1_000_000..1_050_000),
        (name.clone(), 2_999_999..3_000_000),
        (format!("{name}.par"), 0..4096),
        (format!("{name}.par"), parity_len - 60_000..parity_len - 50_000),
    ];
    // Whoever replaces a file on a bad sector writes elsewhere.
    let mended = mend(&medium, &Session::begin(), of, true, &mut |_| true).unwrap();
    assert!(matches!(mended, Mending::Mended { shards: 14..=16, .. }), "{mended:?}");
    mend(&medium, &Session::begin(), of, false, &mut |_| true).unwrap();
    patient.is_back();
    medium.bad.push((name, 2_000_000..2_200_000));
    let beyond = mend(&medium, &Session::begin(), of, false, &mut |_| true).unwrap();
    assert!(matches!(beyond, Mending::Beyond { .. }), "{beyond:?}");
}

/// What is done to a file of parity.
type Fault<'a> = &'a dyn Fn(&mut Vec<u8>);

#[test]
fn par_3_par_4_parity_that_is_damaged_itself_is_used_as_far_as_it_is_right() {
    let patient = Patient::new(3_000_000, 5);
    let shape = patient.shape;
    let whole = fs::read(patient.sidecar()).unwrap();
    let table_len = (shape.shards() + shape.recovery_shards()) as usize * 16;
    let second = whole.len() - 112 - table_len;
    let mut random = Random(9);
    let one_hit = |patient: &Patient| {
        let mut bytes = patient.bytes.clone();
        bytes[1_000_000..1_020_000].fill(0xaa);
        patient.comes_back_from(&bytes);
    };
    let faults: [(&str, Fault<'_>); 8] = [
        ("the front", &|bytes| bytes[..TABLE + table_len].fill(0)),
        ("the end", &|bytes| bytes[second..].fill(0)),
        ("the last sector", &|bytes| bytes.truncate(second + 100)),
        ("more", &|bytes| bytes.extend([0; 100])),
        ("the header", &|bytes| bytes[20] ^= 1),
        ("both tables in different places", &|bytes| {
            bytes[TABLE..TABLE + table_len / 2].fill(0x55);
            bytes[second + table_len / 2..second + table_len].fill(0x55);
        }),
        ("half of the recovery shards", &|bytes| {
            let begin = TABLE + table_len;
            let len = shape.recovery() as usize / 2 * shape.shard_len();
            bytes[begin..begin + len].fill(0);
        }),
        ("one description", &|bytes| bytes[DESCRIPTION + 60] ^= 1),
    ];
    for (what, damage) in faults {
        let mut bytes = whole.clone();
        damage(&mut bytes);
        fs::write(patient.sidecar(), &bytes).unwrap();
        let id = RepositoryId::from_bytes(REPOSITORY);
        let opened = Sidecar::open(&patient.backend(), id, patient.pack).unwrap();
        assert!(!opened.verify(&mut |_| true).unwrap().is_empty(), "{what} is not noticed");
        one_hit(&patient);
    }
    // As many recovery shards as are damaged are lacking.
    let mut bytes = whole.clone();
    bytes[TABLE + table_len] ^= 1;
    fs::write(patient.sidecar(), &bytes).unwrap();
    let too_much = patient.damaged(&mut random, 0);
    patient.is_beyond(&too_much);
    fs::write(patient.sidecar(), &whole).unwrap();
    patient.comes_back_from(&too_much);
}

#[test]
fn par_1_parity_of_another_pack_or_repository_is_refused() {
    let (one, other) = (Patient::new(5000, 5), Patient::new(6000, 5));
    let mut bytes = one.bytes.clone();
    bytes[0] ^= 1;
    one.lay(&bytes);
    fs::copy(other.sidecar(), one.sidecar()).unwrap();
    assert!(matches!(one.mend(), Err(Error::Damaged { .. })));
    one.lay(&one.bytes);
    one.make(5).unwrap();
    one.lay(&bytes);
    let of = (RepositoryId::from_bytes([8; 16]), one.pack);
    let refused = mend(&one.backend(), &Session::begin(), of, false, &mut |_| true);
    assert!(matches!(refused, Err(Error::Damaged { .. })));
    assert!(fs::read(one.file()).unwrap() == bytes);
}

/// Gives the description other bytes, and a checksum that fits.
fn forge(bytes: &mut [u8], at: usize, new: &[u8]) {
    let end = bytes.len() - 112;
    for begin in [DESCRIPTION, end] {
        bytes[begin + at..begin + at + new.len()].copy_from_slice(new);
        let checksum = checksum_128(&[&bytes[begin..begin + 96]]);
        bytes[begin + 96..begin + 112].copy_from_slice(&checksum);
    }
}

#[test]
fn par_5_parity_that_does_not_give_its_pack_back_changes_nothing() {
    let (one, other) = (Patient::new(5000, 5), Patient::new(5001, 5));
    let mut forged = fs::read(other.sidecar()).unwrap();
    forge(&mut forged, 8, one.pack.as_bytes());
    fs::write(one.sidecar(), &forged).unwrap();
    // All that the parity has hashes of is the other pack, but for one shard.
    let mut bytes = other.bytes.clone();
    bytes[17] ^= 1;
    one.lay(&bytes);
    let error = one.mend().unwrap_err();
    assert!(error.is_damage() && error.file() == Some(&sidecar_name(&one.pack)), "{error}");
    assert!(fs::read(one.file()).unwrap() == bytes);
    assert_eq!(fs::read_dir(one.at.join("tmp")).unwrap().count(), 0);
}

#[test]
fn par_6_no_parity_is_made_of_a_damaged_pack() {
    let patient = Patient::new(100_000, 5);
    let before = fs::read(patient.sidecar()).unwrap();
    let mut bytes = patient.bytes.clone();
    bytes[99_999] ^= 1;
    patient.lay(&bytes);
    assert!(patient.make(50).is_err_and(|error| error.is_damage()));
    assert!(fs::read(patient.sidecar()).unwrap() == before, "what can mend it is still there");
    patient.comes_back_from(&bytes);
}

#[test]
fn par_2_no_bytes_of_parity_make_it_panic_take_memory_or_spoil_a_pack() {
    let patient = Patient::new(20_000, 10);
    let whole = fs::read(patient.sidecar()).unwrap();
    let mut damaged = patient.bytes.clone();
    damaged[10_000] ^= 1;
    let mut random = Random(77);
    let number = |random: &mut Random, below: usize| usize::try_from(random.next() % below as u64).unwrap();
    let (mut mended, mut refused) = (0, 0);
    for case in 0..3000 {
        let mut bytes = whole.clone();
        match case % 5 {
            0 => {
                let at = number(&mut random, bytes.len());
                bytes[at] ^= 1 << (random.next() % 8);
            }
            1 => bytes.truncate(number(&mut random, whole.len())),
            2 => {
                let at = number(&mut random, bytes.len());
                let end = (at + number(&mut random, 2000)).min(bytes.len());
                bytes[at..end].fill(0);
            }
            // Lengths and counts of all sizes, with checksums that fit.
            3 => {
                let value = random.next() >> (random.next() % 64);
                let at = 56 + 4 * number(&mut random, 6);
                forge(&mut bytes, at, &u32::try_from(value & 0xffff_ffff).unwrap().to_le_bytes());
            }
            _ => {
                let value = (random.next() >> (random.next() % 64)).to_le_bytes();
                forge(&mut bytes, 56, &value);
                let random_bytes = random.bytes(12);
                forge(&mut bytes, 64, &random_bytes);
            }
        }
        fs::write(patient.sidecar(), &bytes).unwrap();
        patient.lay(&damaged);
        match patient.mend() {
            Ok(Mending::Mended { .. }) => {
                mended += 1;
                assert!(fs::read(patient.file()).unwrap() == patient.bytes, "case {case}");
            }
            Ok(Mending::Whole) => panic!("case {case}"),
            Ok(Mending::Beyond { .. }) | Err(_) => {
                refused += 1;
                assert!(fs::read(patient.file()).unwrap() == damaged, "case {case}");
            }
        }
    }
    assert!(mended > 600 && refused > 300, "{mended} mended, {refused} refused");
}
