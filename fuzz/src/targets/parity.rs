//! Target: the parity of a pack, and mending by it.

use std::sync::LazyLock;

use vault::error::Error;
use vault::id::{self, PackId};
use vault::pack::pack_file_name;
use vault::session::Session;
use vault::sidecar::{Mending, PARITY_LEN, Sidecar, make, mend, sidecar_name};

use super::Defect;
use super::fixed::{ID, finish_header};
use super::memory::Memory;

/// A pack with parity of so many percent.
struct Patient {
    medium: Memory,
    pack: PackId,
    bytes: Vec<u8>,
    sidecar: Vec<u8>,
}

/// Of each length with each percentage.
const PACKS: [(usize, u32); 8] =
    [(1, 5), (511, 100), (700, 5), (1500, 50), (4096, 30), (8191, 5), (9000, 100), (20_000, 12)];

static SESSION: LazyLock<Session> = LazyLock::new(Session::begin);

impl Patient {
    #[expect(clippy::expect_used, reason = "what cannot be set up is no target")]
    fn new(len: usize, percent: u32) -> Self {
        let bytes: Vec<u8> =
            (0..len.div_ceil(32)).flat_map(|at| id::hash(&at.to_le_bytes())).take(len).collect();
        let (medium, pack) = (Memory::default(), PackId::from_bytes(id::hash(&bytes)));
        medium.put(&pack_file_name(&pack), bytes.clone());
        make(&medium, &SESSION, ID, pack, percent, &mut |_| true).expect("it is whole");
        let sidecar = medium.get(&sidecar_name(&pack)).unwrap_or_default().to_vec();
        Self { medium, pack, bytes, sidecar }
    }

    fn all() -> &'static [Self] {
        static ALL: LazyLock<Vec<Patient>> =
            LazyLock::new(|| PACKS.map(|(len, percent)| Patient::new(len, percent)).into());
        &ALL
    }
}

/// Makes the checksums of header and descriptions right, and if `mends_tables`, the hash of the table in both.
fn finish(bytes: &mut [u8], mends_tables: bool) {
    finish_header(bytes);
    let Some(end) = bytes.len().checked_sub(PARITY_LEN).filter(|end| *end >= 192 + PARITY_LEN) else {
        return;
    };
    for begin in [192, end] {
        let number = |at: usize| {
            let found = bytes.get(begin + at..).and_then(|bytes| bytes.first_chunk::<4>());
            found.map_or(0, |bytes| u64::from(u32::from_le_bytes(*bytes)))
        };
        let shards = number(56).div_ceil(number(64).max(1)) + number(68) * number(72);
        let len = usize::try_from(shards.saturating_mul(16)).unwrap_or(usize::MAX);
        let table = bytes.get(192 + PARITY_LEN..).and_then(|rest| rest.get(..len));
        let hash = table.filter(|_| mends_tables).map(|table| id::checksum_128(&[table]));
        let description = &mut bytes[begin..begin + PARITY_LEN];
        if let Some(hash) = hash {
            description[80..96].copy_from_slice(&hash);
        }
        let checksum = id::checksum_128(&[&description[..96]]);
        description[96..].copy_from_slice(&checksum);
    }
}

/// Changes bytes: each three of the input are a place and what it is changed by. A zero cuts the file off there.
fn change(bytes: &mut Vec<u8>, changes: &[u8]) {
    for change in changes.as_chunks::<3>().0 {
        let at = usize::from(u16::from_le_bytes([change[0], change[1]])) % (bytes.len() + 1);
        match bytes.get_mut(at) {
            Some(byte) if change[2] != 0 => *byte ^= change[2],
            _ => bytes.truncate(at),
        }
    }
}

/// Parity: the file as the input has it, or the right one with changes, and changes to the pack. What is mended is the pack; what is not
/// is as it was.
pub fn parity(input: &[u8], defect: Defect) {
    let Some(([mode, pack_changes], rest)) = input.split_first_chunk::<2>() else { return };
    let patient = &Patient::all()[usize::from(mode >> 4) % PACKS.len()];
    let (in_pack, rest) = rest.split_at(usize::from(pack_changes % 8 * 3).min(rest.len()));
    let (mut bytes, mut sidecar) = (patient.bytes.clone(), rest.to_vec());
    change(&mut bytes, in_pack);
    if mode & 1 == 0 {
        sidecar.clone_from(&patient.sidecar);
        change(&mut sidecar, rest);
    }
    if mode & 2 == 0 {
        finish(&mut sidecar, mode & 4 == 0);
    }
    let (medium, pack) = (&patient.medium.copied(), &patient.pack);
    let (name, sidecar_name) = (pack_file_name(pack), sidecar_name(pack));
    if mode & 8 == 0 {
        medium.put(&name, bytes.clone());
    } else {
        medium.take(&name);
    }
    medium.put(&sidecar_name, sidecar.clone());
    let by_rules = |error: &Error| {
        assert!(matches!(error, Error::Damaged { file, .. } if *file == sidecar_name), "{error}");
    };
    let faults = match Sidecar::open(medium, ID, *pack) {
        Ok(opened) => opened.verify(&mut |_| true).unwrap_or_else(|error| panic!("{error}")),
        Err(error) => vec![error],
    };
    faults.iter().for_each(by_rules);
    assert!(!faults.is_empty() || sidecar.len() == patient.sidecar.len() || mode & 2 == 0, "[PAR-3]");
    let mended = mend(medium, &SESSION, (ID, *pack), false, &mut |_| true);
    let mut left = medium.get(&name).map(|left| left.to_vec());
    if let Some(left) = &mut left {
        defect.spoil(matches!(mended, Ok(Mending::Mended { shards: 3.., .. })), left);
    }
    match mended {
        Ok(Mending::Whole | Mending::Mended { .. }) => {
            assert!(left.as_ref() == Some(&patient.bytes), "[PAR-5]");
        }
        Ok(Mending::Beyond { lacking, .. }) => {
            assert!(lacking > 0 && left == Some(bytes).filter(|_| mode & 8 == 0), "[PAR-5]");
        }
        Err(error) => {
            by_rules(&error);
            assert!(left == Some(bytes).filter(|_| mode & 8 == 0), "[PAR-5]");
        }
    }
    let left = medium.names();
    assert!(!left.iter().any(|name| name.starts_with("tmp/")), "{left:?}");
}
