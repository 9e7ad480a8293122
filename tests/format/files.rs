//! `[HEAD-n]`, `[OBJ-n]`, `[CONF-n]` and `[REPO-n]`.

use std::fs;
use std::sync::Arc;

use vault::check::CheckOptions;
use vault::chunk::{ChunkerParams, GetChunk as _, PutChunk as _};
use vault::codec;
use vault::error::Error;
use vault::event::Silent;
use vault::header::{Header, Magic, Seal, decode_object, encode_object, seal_object};
use vault::id::{ChunkId, ChunkKind, CopyId, PackId, RepositoryId, SnapshotId};
use vault::repository::{Config, Scope, WriteOptions, record_kind};
use vault::seal::Keys;
use vault::snapshot::Time;

use super::crafted::{Place, finish_header, finish_object};
use super::records::record;
use super::{broken, rule};
use crate::support::needs::needs;
use crate::support::repository::{self, is_encrypted};
use crate::support::vault::Vault;

const HERE: RepositoryId = RepositoryId::from_bytes([3; 16]);

/// The rule that the header of a snapshot breaks after a change to it.
fn header(magic: Magic, change: impl FnOnce(&mut [u8; 192])) -> &'static str {
    let kind = u8::from(magic == Magic::Pack);
    let mut bytes = Header { kind, outer_len: 0, body_len: 0, repository: HERE, seal: Seal::Plain, salt: 0 }
        .encode(magic);
    change(&mut bytes);
    finish_header(&mut bytes);
    rule(&Header::decode(&bytes, magic, Some(HERE)).unwrap_err())
}

#[test]
fn head_1_the_magic_is_that_of_the_folder() {
    use Magic::{Config, Copy, Key, Pack, Record, Segment, Snapshot};
    let all = [Config, Copy, Key, Pack, Segment, Snapshot, Record];
    for written in all {
        for expected in all.into_iter().filter(|magic| *magic != written) {
            assert_eq!(header(expected, |bytes| bytes[..8].copy_from_slice(written.bytes())), "HEAD-1");
        }
    }
}

#[test]
fn head_2_the_version_is_1() {
    for (at, value) in [(8, 0), (8, 2), (9, 1)] {
        assert_eq!(header(Magic::Snapshot, |bytes| bytes[at] = value), "HEAD-2");
    }
}

#[test]
fn head_3_no_byte_of_the_header_changes_without_its_checksum() {
    let bytes = Header { kind: 0, outer_len: 1, body_len: 2, repository: HERE, seal: Seal::Plain, salt: 0 }
        .encode(Magic::Record);
    assert!(Header::decode(&bytes, Magic::Record, Some(HERE)).is_ok());
    for at in 8..192 {
        let mut bytes = bytes;
        bytes[at] ^= 16;
        assert_eq!(
            rule(&Header::decode(&bytes, Magic::Record, Some(HERE)).unwrap_err()),
            "HEAD-3",
            "byte {at}"
        );
    }
}

#[test]
fn head_4_the_file_belongs_to_the_repository() {
    assert_eq!(header(Magic::Snapshot, |bytes| bytes[39] ^= 1), "HEAD-4");
    // A snapshot carried over from another repository.
    let (here, there) = (Place::new(), Place::new());
    let bytes = seal_object(Magic::Snapshot, &there.keys, &[], b"whatever").unwrap();
    let id = SnapshotId::from_bytes(here.write_hashed("snapshots", &bytes));
    assert_eq!(broken(&here.open().snapshot(&id).unwrap_err(), "snapshots/"), "HEAD-4");
}

#[test]
fn head_5_what_is_not_sealed_has_no_key_box_and_what_is_sealed_may_be() {
    use Magic::{Config, Copy, Key, Pack, Record, Segment, Snapshot};
    for magic in [Config, Copy, Pack, Segment, Snapshot, Record] {
        for (at, value) in [(40, 1), (167, 1), (11, 2), (11, 255)] {
            assert_eq!(header(magic, |bytes| bytes[at] = value), "HEAD-5", "byte {at} of {magic:?}");
        }
    }
    for magic in [Config, Copy] {
        assert_eq!(header(magic, |bytes| bytes[11] = 1), "HEAD-5", "{magic:?}");
    }
    // A key file is sealed with a passphrase, and has no key box for that.
    assert_eq!(header(Key, |bytes| bytes[11] = 0), "HEAD-5");
    assert_eq!(header(Key, |bytes| (bytes[11], bytes[40]) = (1, 1)), "HEAD-5");
}

#[test]
fn head_5_a_file_is_sealed_exactly_if_the_repository_is_encrypted() {
    let (plain, sealed) = (Keys::plain(HERE), Keys::locked(HERE));
    for magic in [Magic::Pack, Magic::Segment, Magic::Snapshot, Magic::Record] {
        let kind = u8::from(magic == Magic::Pack);
        for (seal, keys) in [(Seal::Plain, &sealed), (Seal::Sealed([7; 128]), &plain)] {
            let header = Header { kind, outer_len: 0, body_len: 0, repository: HERE, seal, salt: 0 };
            let header = Header::decode(&header.encode(magic), magic, Some(HERE)).unwrap();
            assert_eq!(rule(&header.fits(keys).unwrap_err()), "HEAD-5", "{magic:?} {seal:?}");
            assert_eq!(header.fits(if keys.is_sealed() { &plain } else { &sealed }), Ok(()));
        }
        // Only a key file is sealed with a passphrase.
        let header =
            Header { kind, outer_len: 0, body_len: 0, repository: HERE, seal: Seal::Passphrase, salt: 0 };
        assert!(header.fits(&plain).is_err() && header.fits(&sealed).is_err());
    }
}

#[test]
fn head_6_reserved_bytes_are_zero() {
    for at in [10, 168, 175] {
        assert_eq!(header(Magic::Snapshot, |bytes| bytes[at] = 1), "HEAD-6", "byte {at}");
    }
    for (at, value) in [(10, 0), (10, 3), (12, 1), (15, 1), (16, 1), (23, 1)] {
        assert_eq!(header(Magic::Pack, |bytes| bytes[at] = value), "HEAD-6", "byte {at} of a pack");
    }
}

/// The rule that an object file breaks.
fn object(bytes: &[u8]) -> &'static str {
    rule(&decode_object(bytes, Magic::Copy, Some(HERE)).unwrap_err())
}

#[test]
fn obj_1_the_length_is_what_the_header_gives() {
    let whole = encode_object(Magic::Copy, HERE, Seal::Plain, b"outer", b"body");
    let mut longer = whole.clone();
    longer.insert(200, 0);
    finish_object(&mut longer);
    assert_eq!(object(&longer), "a length");
    let mut shorter = whole.clone();
    shorter.remove(196);
    finish_object(&mut shorter);
    assert_eq!(object(&shorter), "a length");
    for len in 0..whole.len() {
        assert_eq!(object(&whole[..len]), "a length", "cut at {len}");
    }
}

#[test]
fn obj_2_the_hash_at_the_end_is_right() {
    let whole = encode_object(Magic::Copy, HERE, Seal::Plain, b"outer", b"body");
    for at in 192..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        assert_eq!(object(&bytes), "OBJ-2", "byte {at}");
    }
}

#[test]
fn obj_3_outer_and_body_have_at_most_16_mib_together() {
    let most = vec![0; (16 << 20) - 5];
    assert!(
        decode_object(
            &encode_object(Magic::Copy, HERE, Seal::Plain, b"outer", &most),
            Magic::Copy,
            Some(HERE)
        )
        .is_ok()
    );
    assert_eq!(object(&encode_object(Magic::Copy, HERE, Seal::Plain, b"outer!", &most)), "OBJ-3");
    let mut huge = encode_object(Magic::Copy, HERE, Seal::Plain, b"", b"");
    huge[12..24].fill(255);
    finish_object(&mut huge);
    assert_eq!(object(&huge), "OBJ-3");
}

/// Why a repository with this config in both places does not open.
fn config(change: impl FnOnce(&mut Config)) -> &'static str {
    let place = Place::new();
    let mut config = place.open().config().clone();
    change(&mut config);
    let bytes = encode_object(Magic::Config, place.id, Seal::Plain, &[], &codec::encode(&config));
    place.write("config", &bytes);
    place.write("config.2", &bytes);
    broken(&repository::open(place.backend.clone()).err().unwrap(), "config")
}

#[test]
fn conf_1_the_version_of_the_format_is_1() {
    // One variant for both versions: `HEAD-2` is that of the header, which is right here.
    assert_eq!(config(|config| config.version = 2), "HEAD-2");
    assert_eq!(config(|config| config.version = 0), "HEAD-2");
}

#[test]
fn conf_2_the_chunker_is_possible() {
    assert_eq!(config(|config| config.chunker.min_len += 1), "CUT-1");
    assert_eq!(config(|config| config.chunker.avg_len = config.chunker.max_len), "CUT-1");
    assert_eq!(
        config(|config| config.chunker = ChunkerParams { normalization: 4, ..config.chunker }),
        "CUT-1"
    );
}

#[test]
fn conf_3_an_encryption_that_is_not_known_is_refused() {
    for encryption in [2, 3, u32::MAX] {
        assert_eq!(config(|config| config.encryption = encryption), "CONF-3");
    }
}

#[test]
fn conf_4_a_config_has_a_check_of_the_keys_exactly_if_there_are_any() {
    assert_eq!(config(|config| config.encryption = 1 - config.encryption), "CONF-4");
    if is_encrypted() {
        // It is over all else that the config says; with a passphrase the key file says so first.
        assert_eq!(config(|config| config.created.secs -= 1), "KEY-4");
    }
}

#[test]
fn repo_1_a_snapshot_or_record_under_another_name_is_refused() {
    let place = Place::new();
    for (folder, magic) in [("snapshots", Magic::Snapshot), ("records", Magic::Record)] {
        let hash = place.write_hashed(folder, &seal_object(magic, &place.keys, &[], b"").unwrap());
        let name = SnapshotId::from_bytes(hash).to_string();
        let other = format!("{}{}", if name.starts_with('0') { '1' } else { '0' }, &name[1..]);
        fs::rename(place.path(&format!("{folder}/{name}")), place.path(&format!("{folder}/{other}")))
            .unwrap();
    }
    let repository = place.open();
    let (_, snapshot) = repository.snapshots().unwrap().remove(0);
    assert_eq!(broken(&snapshot.unwrap_err(), "snapshots/"), "REPO-1");
    let (_, record) = repository.records().unwrap().remove(0);
    assert_eq!(broken(&record.unwrap_err(), "records/"), "REPO-1");
}

#[test]
fn repo_2_unknown_features_forbid_to_read_or_to_write() {
    let place = Place::new();
    place.write("features/write-dances-2", b"");
    let repository = place.open();
    assert!(repository.reader().is_ok());
    let error = repository.writer(&WriteOptions::new(Arc::new(Silent))).err().unwrap();
    assert!(matches!(&error, Error::UnknownFeature { name } if name == "write-dances-2"), "{error:?}");
    // No name of a feature: reported by a check, and nothing else.
    for name in ["write-", "Read-x", "read-X", "note.txt"] {
        place.write(&format!("features/{name}"), b"");
    }
    assert!(place.open().reader().is_ok());
    place.write("features/read-runes", b"");
    let error = repository::open(place.backend.clone()).err().unwrap();
    assert!(matches!(&error, Error::UnknownFeature { name } if name == "read-runes"), "{error:?}");
}

#[test]
fn repo_3_names_of_no_kind_are_reported_and_are_no_damage() {
    let place = Place::new();
    let names =
        ["notes.txt", "packs/3c/.DS_Store", "index/x", "snapshots/abc (1)", "records/~", "features/Read-x"];
    for name in names {
        place.write(name, b"mine");
    }
    let stop = std::sync::atomic::AtomicBool::new(false);
    let options = CheckOptions { read_data: true, ..Default::default() };
    let report = vault::check::check(&place.open(), &options, &Silent, &stop).unwrap();
    assert!(report.damages.is_empty(), "{:?}", report.damages);
    for name in names {
        assert!(report.unknown_names.iter().any(|found| found == name), "{name}: {:?}", report.unknown_names);
        assert_eq!(place.read(name), b"mine");
    }
}

#[test]
fn repo_4_either_config_will_do_and_the_damage_is_reported() {
    let whole = |place: &Place| (place.read("config"), place.id);
    for (damaged, other) in [("config", "config.2"), ("config.2", "config")] {
        for how in ["gone", "cut", "flipped"] {
            let place = Place::new();
            let (bytes, id) = whole(&place);
            match how {
                "gone" => fs::remove_file(place.path(damaged)).unwrap(),
                "cut" => place.write(damaged, &bytes[..100]),
                _ => place.write(damaged, &[&bytes[..200], &[bytes[200] ^ 1], &bytes[201..]].concat()),
            }
            let repository = place.open();
            assert_eq!(repository.id(), id);
            assert_eq!(repository.problems().len(), 1, "{damaged} {how}: {:?}", repository.problems());
            assert!(repository.problems()[0].to_string().contains(damaged), "{damaged} {how}");
            assert_eq!(place.read(other), bytes);
        }
    }
    // Both whole, and not the same.
    let place = Place::new();
    let mut config = place.open().config().clone();
    config.created = Time { secs: 1, nanos: 0 };
    place.write(
        "config.2",
        &encode_object(Magic::Config, place.id, Seal::Plain, &[], &codec::encode(&config)),
    );
    let repository = place.open();
    assert_eq!(broken(&repository.problems()[0], "config.2"), "REPO-4");
}

#[test]
fn codec_3_nothing_is_allocated_for_a_length_that_is_longer_than_what_remains() {
    needs!("strace");
    let (vault, place, len) = (Vault::new(), Place::new(), 15_000_007u32);
    let trace = vault.join("trace");
    let traced = ["strace", "-f", "-e", "trace=mmap,mremap,brk", "-o", trace.to_str().unwrap()];
    let lie = [&[252][..], &len.to_le_bytes(), b"short"].concat();
    // Of a text, and of a byte string: no name, one field, its tag and that it is not critical.
    for before in [&[][..], &[0, 1, 200, 0]] {
        let body = [&[9; 16], before, &lie].concat();
        place.write("copy", &encode_object(Magic::Copy, place.id, Seal::Plain, &[], &body));
        let args = ["-r", place.path("").to_str().unwrap(), "snapshots"].map(str::to_owned);
        vault.start(vault.command_under(&traced, &args)).wait().says("copy");
        let calls = fs::read_to_string(&trace).unwrap();
        assert!(calls.contains("mmap(NULL, "), "nothing was traced");
        let sizes = calls.lines().filter_map(|call| call.split_once("mmap(NULL, ")?.1.split(',').next());
        let of_that_len = sizes.filter(|size| (len..len + (1 << 20)).contains(&size.parse().unwrap_or(0)));
        assert_eq!(of_that_len.count(), 0, "{before:?}");
    }
}

#[test]
fn repo_5_all_folders_of_packs_are_there_from_the_start() {
    let place = Place::new();
    let mut found: Vec<String> = fs::read_dir(place.path("packs"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    found.sort();
    assert_eq!(found, (0..=255u8).map(|byte| format!("{byte:02x}")).collect::<Vec<_>>());
}

/// Writes one data chunk and returns its id and its pack.
pub fn stored(place: &Place, bytes: &[u8]) -> (ChunkId, PackId) {
    let repository = place.open();
    let mut writer = repository.writer(&WriteOptions::new(Arc::new(Silent))).unwrap();
    let id = writer.put(ChunkKind::Data, bytes).unwrap();
    writer.finish().unwrap();
    (id, repository.reader().unwrap().locate(ChunkKind::Data, &id).unwrap().pack)
}

/// The file of a pack.
pub fn name_of(pack: &PackId) -> String {
    format!("packs/{:02x}/{pack}", pack.as_bytes()[0])
}

/// Whether a chunk would be stored again, and whether it can be read.
fn presence(place: &Place, id: &ChunkId) -> (bool, bool) {
    let repository = place.open();
    let writer = repository.writer(&WriteOptions::new(Arc::new(Silent))).unwrap();
    let is_present = writer.has_chunk(ChunkKind::Data, id).unwrap();
    let reader = repository.reader().unwrap();
    (is_present, reader.get(ChunkKind::Data, id).is_ok_and(|bytes| bytes == [5; 1000]))
}

#[test]
fn repo_6_a_chunk_is_present_only_if_its_pack_is_listed_with_the_right_length() {
    let place = Place::new();
    let (id, pack) = stored(&place, &[5; 1000]);
    let name = name_of(&pack);
    assert_eq!(presence(&place, &id), (true, true));
    let whole = place.read(&name);
    // One byte more: the segment speaks of another file, and the pack's own tail is not at its end.
    place.write(&name, &[&whole[..], b"x"].concat());
    assert!(!presence(&place, &id).0, "a pack of another length");
    fs::remove_file(place.path(&name)).unwrap();
    assert_eq!(presence(&place, &id), (false, false));
    let missing = place.open().reader().unwrap().locate(ChunkKind::Data, &id).unwrap_err();
    assert!(matches!(missing, Error::ChunkMissing { .. }), "{missing:?}");
    place.write(&name, &whole);
    assert_eq!(presence(&place, &id), (true, true));
}

#[test]
fn repo_6_rec_2_a_pack_recorded_as_damaged_in_this_copy_is_read_but_not_relied_on() {
    let place = Place::new();
    let (id, pack) = stored(&place, &[5; 1000]);
    let here = Scope::Copy(place.open().copy().copy);
    let elsewhere = Scope::Copy(CopyId::from_bytes([9; 16]));
    record(&place, record_kind::PACK_DAMAGED, false, elsewhere, vec![*pack.as_bytes()]);
    assert_eq!(presence(&place, &id), (true, true), "that was said of another copy");
    let statement = record(&place, record_kind::PACK_DAMAGED, false, here, vec![*pack.as_bytes()]);
    assert_eq!(presence(&place, &id), (false, true));
    record(&place, record_kind::UNDONE, false, elsewhere, vec![statement]);
    assert_eq!(presence(&place, &id), (false, true), "undone in another copy");
    record(&place, record_kind::UNDONE, false, Scope::AllCopies, vec![statement]);
    assert_eq!(presence(&place, &id), (true, true), "undone");
}
