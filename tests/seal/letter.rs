//! What is stored, opened by the letter of `spec/format.md` §12 and with other code than that of the program: this could make the same mistake
//! on both sides. A nonce that does not count, associated data that was forgotten, two keys that are one: all of it shows here.

use std::collections::HashSet;
use std::fs;

use argon2::{Algorithm, Argon2, Params, Version};
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use vault::chunk::Chunker;
use vault::codec;
use vault::index::SegmentHeader;
use vault::repository::{Config, KeyOuter, RecordBody, RecordOuter, record_kind};
use vault::snapshot::Snapshot;

use super::world::{PASSPHRASE, World, files_below, key};

type Key = [u8; 32];

/// A world, and the master secret of its repository.
fn world() -> (World, Key) {
    let world = World::new();
    let text = world.open().recovery_key().unwrap();
    let letters = text.strip_prefix("VAULT-RECOVERY-1").unwrap().replace('-', "");
    let bytes = data_encoding::BASE32_NOPAD.decode(letters.as_bytes()).unwrap();
    (world, bytes[..32].try_into().unwrap())
}

fn keyed_hash(key: &Key, parts: &[&[u8]]) -> Key {
    *blake3::keyed_hash(key, &parts.concat()).as_bytes()
}

/// Opens a sealed part; nothing if its tag is wrong.
fn open(key: &Key, nonce: [u8; 12], beside: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
    let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).unwrap());
    let mut bytes = sealed.to_vec();
    let nonce = Nonce::assume_unique_for_key(nonce);
    Some(key.open_in_place(nonce, Aad::from(beside), &mut bytes).ok()?.to_vec())
}

fn number(number: usize) -> [u8; 12] {
    let mut nonce = [0; 12];
    nonce[..4].copy_from_slice(&u32::try_from(number).unwrap().to_le_bytes());
    nonce
}

/// The file key in the key box of a header, if it is sealed under this key.
fn file_key(key: &Key, file: &[u8]) -> Option<Key> {
    let (salt, sealed) = (&file[56..88], &file[88..136]);
    open(&keyed_hash(key, &[salt]), number(0), &file[..40], sealed)?.try_into().ok()
}

/// The number in four bytes of a file.
fn at(bytes: &[u8], offset: usize) -> usize {
    u32::from_le_bytes(bytes[offset..offset + 4].try_into().unwrap()) as usize
}

fn padded(len: usize) -> usize {
    let len = len.max(1024);
    let exponent = len.ilog2();
    let low_bits = (1 << (exponent - exponent.ilog2() - 1)) - 1;
    (len + low_bits) & !low_bits
}

/// The structure in a body; the body has the length that it is to be padded to.
#[track_caller]
fn structure(body: &[u8]) -> &[u8] {
    let end = body.iter().rposition(|byte| *byte != 0).unwrap();
    assert_eq!((body[end], body.len()), (128, padded(end + 1)));
    &body[..end]
}

/// Outer part and body of an object file.
fn parts(file: &[u8]) -> (&[u8], &[u8]) {
    file[192..file.len() - 32].split_at(at(file, 12))
}

/// Each is opened with the key that its kind of file has, and with none of the others.
fn only_key(file: &[u8], right: &str, master: &Key) -> Key {
    let contexts =
        ["vault 2026 data key", "vault 2026 index key", "vault 2026 id key", "vault 2026 gear key"];
    for context in contexts.into_iter().filter(|context| *context != right) {
        assert_eq!(file_key(&blake3::derive_key(context, master), file), None, "{context} opens it too");
    }
    file_key(&blake3::derive_key(right, master), file).expect("the key of its kind opens it")
}

#[test]
fn key_1_seal_2_snapshots_and_records_are_sealed_as_is_written() {
    let (world, master) = world();
    let second = world.open().add_key(&key(b"second")).unwrap();
    world.open().remove_key(&second).unwrap();
    let mut keys = HashSet::new();
    let mut body_of = |file: &[u8]| {
        let key = only_key(file, "vault 2026 data key", &master);
        assert!(
            keys.insert(key) && keys.insert(file[56..88].try_into().unwrap()),
            "a key or salt is used twice"
        );
        let (outer, body) = parts(file);
        open(&key, number(0), &[&file[..40], outer].concat(), body).expect("the body opens")
    };
    for file in world.files("snapshots") {
        let body = body_of(&fs::read(file).unwrap());
        codec::decode::<Snapshot>(structure(&body)).unwrap();
    }
    let record = fs::read(&world.files("records")[0]).unwrap();
    codec::decode::<RecordBody>(structure(&body_of(&record))).unwrap();
    let outer: RecordOuter = codec::decode(parts(&record).0).unwrap();
    assert_eq!((outer.kind, &outer.ids[..]), (record_kind::KEY_REMOVED, &[*second.as_bytes()][..]));
}

#[test]
fn key_1_seg_2_segments_are_sealed_as_is_written() {
    let (world, master) = world();
    for file in world.files("index") {
        let file = fs::read(file).unwrap();
        let key = only_key(&file, "vault 2026 index key", &master);
        let end = 192 + at(&file, 16) + 16;
        let body = open(&key, number(0), &file[..40], &file[192..end]).expect("the body opens");
        let header: SegmentHeader = codec::decode(structure(&body)).unwrap();
        let facts = usize::try_from(header.fact_count).unwrap();
        assert!(facts > 0 && facts < 1236, "one block");
        let block = open(&key, number(1), &file[..40], &file[end..]).expect("the block opens");
        assert_eq!(block.len(), padded(facts * 53));
        assert!(block[facts * 53..].iter().all(|byte| *byte == 0));
        assert_eq!(block[..32], header.first_ids[0].as_bytes()[..]);
    }
}

/// The bytes of a pack's mask.
fn unmasked(index: &Key, pack: &[u8], offset: usize, len: usize) -> Vec<u8> {
    let mut stream = blake3::Hasher::new_keyed(&keyed_hash(index, &[&pack[56..88], b"mask"])).finalize_xof();
    stream.set_position(offset as u64);
    let mut bytes = vec![0; len];
    stream.fill(&mut bytes);
    bytes.iter_mut().zip(&pack[offset..]).for_each(|(byte, stored)| *byte ^= stored);
    bytes
}

/// The rows of a pack's directory, by the index key alone, and where it starts.
fn directory(index: &Key, pack: &[u8]) -> (Vec<u8>, usize) {
    let tail = pack.len() - 192;
    let head = unmasked(index, pack, tail, 16);
    let (start, len) = (at(&head, 0), at(&head, 8));
    assert_eq!(start + len, tail);
    assert_eq!(pack[tail + 16..tail + 144], pack[40..168]);
    let checked = unmasked(index, pack, tail + 144, 40);
    let before = [&pack[start..tail], &head, &pack[tail + 16..tail + 144], &checked[..24]].concat();
    assert_eq!((&checked[..24], &checked[24..]), (&[0; 24][..], &blake3::hash(&before).as_bytes()[..16]));
    let key = keyed_hash(index, &[&pack[56..88], b"directory"]);
    let rows = open(&key, [255; 12], &pack[..40], &pack[start..tail]).expect("the directory opens");
    (rows, start)
}

/// The plain bytes of the frame at `offset`, the `count`th of its pack; and where it ends.
fn frame(index: &Key, file_key: &Key, pack: &[u8], offset: usize, count: usize) -> (Vec<u8>, usize) {
    let header = unmasked(index, pack, offset, 32);
    assert_eq!((&header[..4], at(&header, 4)), (&b"VFRM"[..], count));
    let stored = &pack[offset + 32..offset + 32 + at(&header, 16)];
    assert_eq!(header[24..], blake3::hash(&[&header[..24], stored].concat()).as_bytes()[..8]);
    let opened = open(file_key, number(count), &header[..24], stored).expect("the frame opens");
    let plain = if header[8] == 1 { zstd::bulk::decompress(&opened, 1 << 25).unwrap() } else { opened };
    assert_eq!(plain.len(), at(&header, 12));
    let end = offset + 32 + stored.len();
    let padding = unmasked(index, pack, end, end.next_multiple_of(64) - end);
    assert!(padding.iter().all(|byte| *byte == 0));
    (plain, end.next_multiple_of(64))
}

#[test]
fn key_1_seal_3_packs_are_sealed_and_masked_as_is_written_and_the_index_key_shows_only_where_things_are() {
    let (world, master) = world();
    let index = blake3::derive_key("vault 2026 index key", &master);
    let id_key = blake3::derive_key("vault 2026 id key", &master);
    let kinds = ["data", "tree", "list"];
    let id_keys = kinds.map(|kind| blake3::derive_key(&format!("vault 2026 secret {kind} chunk"), &id_key));
    let mut ids = HashSet::new();
    for file in world.files("packs") {
        let pack = fs::read(file).unwrap();
        let (rows, end) = directory(&index, &pack);
        // The index key is not enough for content: it opens the box of no pack.
        let file_key = only_key(&pack, "vault 2026 data key", &master);
        let mut chunks = rows[8 + 16 * at(&rows, 0)..].chunks(45).take(at(&rows, 4));
        let mut offset = 192;
        for count in 0..at(&rows, 0) {
            let row = &rows[8 + 16 * count..];
            assert_eq!(at(row, 0), offset);
            let (plain, next) = frame(&index, &file_key, &pack, offset, count);
            let mut start = 4 + 5 * at(&plain, 0);
            for number in 0..at(&plain, 0) {
                let (kind, len) = (plain[4 + 5 * number], at(&plain, 5 + 5 * number));
                let id = keyed_hash(&id_keys[usize::from(kind) - 1], &[&plain[start..start + len]]);
                assert_eq!(chunks.next().unwrap()[..33], [&id[..], &[kind]].concat());
                ids.insert(id);
                start += len;
            }
            offset = next;
        }
        assert_eq!(offset, end);
        assert!(chunks.next().is_none());
    }
    // And the files are cut by the secret table.
    let repository = world.open();
    let gear = blake3::derive_key("vault 2026 gear key", &master);
    let chunker = Chunker::new(repository.config().chunker, Some(&gear)).unwrap();
    let mut cut = 0;
    for file in files_below(&world.scratch.join("source")) {
        let bytes = fs::read(file).unwrap();
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let (chunk, behind) = rest.split_at(chunker.cut(rest));
            assert!(
                ids.contains(&keyed_hash(&id_keys[0], &[chunk])),
                "{} bytes are cut elsewhere",
                chunk.len()
            );
            (rest, cut) = (behind, cut + 1);
        }
    }
    assert!(cut > 20);
}

#[test]
fn key_1_key_3_key_4_key_files_are_sealed_as_is_written() {
    let (world, master) = world();
    world.open().add_key(&key(PASSPHRASE)).unwrap();
    let mut salts = HashSet::new();
    for file in world.files("keys") {
        let file = fs::read(file).unwrap();
        let (outer, body) = parts(&file);
        let read: KeyOuter = codec::decode(outer).unwrap();
        assert!(salts.insert(read.salt), "a salt is used twice");
        let params = Params::new(read.kdf.memory_kib, read.kdf.passes, read.kdf.lanes, Some(32)).unwrap();
        let mut root = [0; 32];
        Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
            .hash_password_into(PASSPHRASE, &read.salt, &mut root)
            .unwrap();
        assert_eq!(read.commitment, blake3::derive_key("vault 2026 passphrase commitment", &root));
        let config = fs::read(world.place().join("config")).unwrap();
        assert_eq!(read.config, *blake3::hash(&config).as_bytes());
        let key = blake3::derive_key("vault 2026 passphrase key", &root);
        let body = open(&key, number(0), &[&file[..40], outer].concat(), body).expect("the body opens");
        assert_eq!(structure(&body), [&[0][..], &master].concat());
    }
    assert_eq!(salts.len(), 2);
}

#[test]
fn key_1_conf_4_the_check_of_a_config_is_made_as_is_written() {
    let (world, master) = world();
    let repository = world.open();
    let mut config: Config = repository.config().clone();
    let check = config.fields.remove(0);
    assert_eq!((check.tag, check.critical), (1, true));
    let key = blake3::derive_key("vault 2026 config check", &master);
    let expected = keyed_hash(&key, &[repository.id().as_bytes(), &codec::encode(&config)]);
    assert_eq!(check.value[..], expected);
}
