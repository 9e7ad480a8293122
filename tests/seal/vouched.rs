//! What a seal vouches for beside its own part: the header, the outer part, the place. Each is altered alone, with all made right that needs no
//! key; and the checks that stand in for a seal where there is none.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use vault::backend::{Backend, LocalFolder};
use vault::check::check_hashes;
use vault::codec;
use vault::error::{Corruption, Error};
use vault::event::Silent;
use vault::header::{HEADER_LEN, Magic, Seal, encode_object, open_object, seal_object};
use vault::id::{ChunkId, ChunkKind, KeyId, PackId, RepositoryId, SegmentId, hash};
use vault::index::{Facts, Segment};
use vault::pack::{Location, PackKind};
use vault::repository::{KeyOuter, NewKey, RecordOuter, Scope, record_kind};
use vault::seal::{BoxKey, KEY_BOX_LEN, Keys, SEALED_HEADER_LEN, Secret, TAG_LEN, pad_body, unpad_body};

use super::world::{World, finish_header, finish_object, key, name_of, replace};
use crate::support::scratch::Scratch;

/// What a check says of a file after a change to it.
#[track_caller]
fn said(world: &World, file: &Path, change: impl FnOnce(&mut Vec<u8>)) -> String {
    let mut bytes = fs::read(file).unwrap();
    change(&mut bytes);
    let new = replace(file, &bytes);
    let damages = world.damages();
    damages.get(&name_of(world, &new)).cloned().unwrap_or_else(|| panic!("nothing: {damages:#?}"))
}

const BOX: &str = "the seal of its key box is broken";

#[test]
fn box_1_a_header_that_says_something_else_is_not_that_of_the_key_box() {
    // A pack of data said to be one of trees.
    let world = World::new();
    let said_of_it = said(&world, &world.files("packs")[0], |pack| {
        pack[10] = 3 - pack[10];
        finish_header(pack);
    });
    assert!(said_of_it.contains(BOX), "{said_of_it}");
    // Where the body starts, or the outer part ends.
    for folder in ["snapshots", "index"] {
        let world = World::new();
        let said_of_it = said(&world, &world.files(folder)[0], |file| {
            if folder == "index" {
                file[16] ^= 1;
                finish_header(file);
            } else {
                let lens = (u32::from_le_bytes(file[12..16].try_into().unwrap()) + 1).to_le_bytes();
                file[12..16].copy_from_slice(&lens);
                let len = u64::from_le_bytes(file[16..24].try_into().unwrap()) - 1;
                file[16..24].copy_from_slice(&len.to_le_bytes());
                finish_object(file);
            }
        });
        assert!(said_of_it.contains(BOX), "{folder}: {said_of_it}");
    }
}

#[test]
fn box_2_a_key_box_of_another_kind_or_with_a_reserved_byte_set_is_refused() {
    let keys = keys();
    let header = [7; SEALED_HEADER_LEN];
    let new = keys.new_file(BoxKey::Data, &header).unwrap().unwrap();
    assert!(keys.open_file(BoxKey::Data, &header, &new.key_box).is_ok());
    let reserved = (0..16).chain(96..KEY_BOX_LEN);
    for at in reserved {
        for value in [3, 0x80] {
            let mut altered = new.key_box;
            altered[at] ^= value;
            let refused = keys.open_file(BoxKey::Data, &header, &altered).err();
            let is_rule = matches!(refused, Some(Corruption::Rule { rule: "BOX-2", .. }));
            assert!(is_rule, "byte {at}: {refused:?}");
        }
    }
    // One key does not open what is sealed under the other, whatever the box says.
    let mut disguised = new.key_box;
    disguised[1] = 2;
    let refused = keys.open_file(BoxKey::Index, &header, &disguised).err();
    assert_eq!(refused, Some(Corruption::BrokenSeal { part: "key box" }));
}

fn keys() -> Keys {
    Keys::from_master(RepositoryId::from_bytes([3; 16]), &Secret::new([9; 32]))
}

#[test]
fn seal_2_the_key_box_of_another_file_opens_none_of_the_parts() {
    let world = World::new();
    let packs = world.files("packs");
    let same_kind = |file: &&std::path::PathBuf| fs::read(file).unwrap()[10] == 1;
    let [one, other] = packs.iter().filter(same_kind).take(2).collect::<Vec<_>>()[..] else { panic!() };
    let box_of_other = fs::read(other).unwrap()[40..168].to_vec();
    let said_of_it = said(&world, one, |pack| {
        let tail = pack.len() - 192;
        pack[40..168].copy_from_slice(&box_of_other);
        pack[tail + 16..tail + 144].copy_from_slice(&box_of_other);
        finish_header(pack);
    });
    assert!(!said_of_it.contains(BOX), "{said_of_it}");
    let (right, missing) = world.restore(world.snapshots[1]);
    assert!(right + missing == 10 && missing > 0);
    // Of snapshots with a body of one length, it is the body that says so.
    let keys = keys();
    let object = |body: &[u8]| seal_object(Magic::Snapshot, &keys, &[], body).unwrap();
    let (mut one, other) = (object(b"one"), object(b"another"));
    assert_eq!(open_object(&one, Magic::Snapshot, &keys).unwrap().1, b"one");
    one[40..168].copy_from_slice(&other[40..168]);
    finish_object(&mut one);
    let opened = open_object(&one, Magic::Snapshot, &keys).err();
    assert_eq!(opened, Some(Corruption::BrokenSeal { part: "body" }));
}

#[test]
fn seal_2_two_blocks_of_a_segment_exchanged_and_one_of_another_segment_are_named() {
    let scratch = Scratch::new();
    scratch.dir("index");
    let backend: Arc<dyn Backend> = Arc::new(LocalFolder::new(scratch.path()));
    let keys = keys();
    let pack = PackId::from_bytes([1; 32]);
    let facts = (0..3000u32).map(|number| {
        let offset = number + 9;
        let (frame_offset, frame_stored_len, kind) = (192, 5000, ChunkKind::Data);
        (
            ChunkId::from_bytes(hash(&number.to_le_bytes())),
            Location { pack, frame_offset, frame_stored_len, offset, len: 1, kind },
        )
    });
    let mut gathered = Facts::default();
    gathered.add_pack(pack, 10_000, PackKind::Data, facts);
    gathered.sort();
    let read = |bytes: &[u8]| {
        let id = SegmentId::from_bytes(hash(bytes));
        fs::write(scratch.join(format!("index/{id}")), bytes).unwrap();
        Segment::open(&backend, id, &keys).and_then(|segment| segment.for_each(|_| ())).map_err(|error| {
            match error {
                Error::Damaged { source, .. } => source,
                other => panic!("{other}"),
            }
        })
    };
    let bytes = gathered.encode_segment(&keys, &[]).unwrap();
    let other = gathered.encode_segment(&keys, &[]).unwrap();
    assert_eq!(read(&bytes), Ok(()));
    let first = HEADER_LEN
        + usize::try_from(u64::from_le_bytes(bytes[16..24].try_into().unwrap())).unwrap()
        + TAG_LEN;
    let len = 1236 * 53 + TAG_LEN;
    let mut swapped = bytes.clone();
    swapped[first..first + len].copy_from_slice(&bytes[first + len..first + 2 * len]);
    swapped[first + len..first + 2 * len].copy_from_slice(&bytes[first..first + len]);
    let mut mixed = bytes.clone();
    mixed[first..first + len].copy_from_slice(&other[first..first + len]);
    for altered in [swapped, mixed] {
        assert_eq!(read(&altered), Err(Corruption::BrokenSeal { part: "block" }));
    }
}

#[test]
fn seal_4_the_end_of_a_structure_is_marked_and_bodies_have_few_lengths() {
    let body = pad_body(b"structure");
    assert_eq!(unpad_body(&body), Ok(&b"structure"[..]));
    for last in [0, 1, 127, 129, 255] {
        let mut altered = body.clone();
        altered[9] = last;
        let unpadded = unpad_body(&altered);
        assert!(matches!(unpadded, Err(Corruption::Rule { rule: "SEAL-4", .. })), "{last}: {unpadded:?}");
    }
    let none: [&[u8]; 3] = [&[], &[0], &[0; 1024]];
    assert!(none.iter().all(|body| unpad_body(body).is_err()));
    // A structure may end with what looks like its end.
    for structure in [&b""[..], &[0x80], &[0x80, 0, 0], &[0; 5]] {
        assert_eq!(unpad_body(&pad_body(structure)), Ok(structure));
    }
    let keys = keys();
    let len = |len: usize| seal_object(Magic::Snapshot, &keys, &[], &vec![1; len]).unwrap().len();
    assert_eq!(len(0), len(1000));
    assert_ne!(len(1000), len(1100));
    assert_eq!(len(4000), len(4090));
}

#[test]
fn key_6_a_record_that_someone_without_the_key_made_or_altered_says_nothing() {
    let world = World::new();
    let own = world.open().opened_with().unwrap();
    let second = world.open().add_key(&key(b"second")).unwrap();
    world.open().remove_key(&second).unwrap();
    // The record names another key than it did.
    let record = &world.files("records")[0];
    let bytes = fs::read(record).unwrap();
    let outer_len = u32::from_le_bytes(bytes[12..16].try_into().unwrap()) as usize;
    let mut outer: RecordOuter = codec::decode(&bytes[192..192 + outer_len]).unwrap();
    outer.ids = vec![*own.as_bytes()];
    let mut altered = bytes.clone();
    altered[192..192 + outer_len].copy_from_slice(&codec::encode(&outer));
    finish_object(&mut altered);
    let new = replace(record, &altered);
    let repository = world.open();
    assert_eq!(repository.opened_with(), Some(own));
    let broken = |error: &Error| matches!(error, Error::Damaged { file, source: Corruption::BrokenSeal { part: "body" } } if file.starts_with("records/"));
    assert!(repository.problems().iter().any(broken), "{:?}", repository.problems());
    assert!(world.damages()[&name_of(&world, &new)].contains("the seal of its body is broken"));

    // One that is not sealed at all, and forbids to write: refused with keys and without.
    fs::remove_file(new).unwrap();
    let scope = Scope::AllCopies;
    let outer = RecordOuter {
        kind: record_kind::KEY_REMOVED,
        must_understand: false,
        scope,
        ids: vec![*own.as_bytes()],
    };
    let plain = encode_object(Magic::Record, repository.id(), Seal::Plain, &codec::encode(&outer), b"");
    let id = KeyId::from_bytes(hash(&plain));
    fs::write(world.place().join(format!("records/{id}")), plain).unwrap();
    for repository in [world.locked(), world.open()] {
        let unsealed =
            |error: &Error| matches!(error, Error::Damaged { source: Corruption::MissingSeal, .. });
        assert!(repository.problems().iter().any(unsealed), "{:?}", repository.problems());
    }
}

#[test]
fn key_6_who_opens_it_with_a_removed_key_has_nothing_of_it() {
    let world = World::new();
    let first = world.open().opened_with().unwrap();
    world.open().add_key(&key(b"second")).unwrap();
    let old = fs::read(world.place().join(format!("keys/{first}"))).unwrap();
    let mut repository = world.locked();
    repository.unlock(b"second", None).unwrap();
    repository.remove_key(&first).unwrap();
    fs::write(world.place().join(format!("keys/{first}")), old).unwrap();
    let mut repository = world.locked();
    let refused = repository.unlock(super::world::PASSPHRASE, None);
    assert!(matches!(refused, Err(Error::KeyRemoved { key }) if key == first), "{refused:?}");
    assert!(repository.is_locked());
    assert!(repository.snapshot(&world.snapshots[0]).is_err());
    assert!(repository.recovery_key().is_err());
}

#[test]
fn seal_2_the_outer_part_of_a_key_file_is_vouched_for() {
    let world = World::new();
    let file = world.files("keys").remove(0);
    let bytes = fs::read(&file).unwrap();
    let outer_len = u32::from_le_bytes(bytes[12..16].try_into().unwrap()) as usize;
    let mut outer: KeyOuter = codec::decode(&bytes[192..192 + outer_len]).unwrap();
    // When it was made: no length changes, and none of what the key is made from.
    outer.created.secs -= 1;
    let mut altered = bytes.clone();
    altered[192..192 + outer_len].copy_from_slice(&codec::encode(&outer));
    assert_ne!(altered, bytes);
    finish_object(&mut altered);
    replace(&file, &altered);
    let refused = world.try_open().map(|_| ());
    let is_broken =
        matches!(refused, Err(Error::Damaged { source: Corruption::BrokenSeal { part: "key" }, .. }));
    assert!(is_broken, "{refused:?}");
}

#[test]
fn secrets_are_wiped_when_they_are_dropped_and_do_not_show_in_a_message() {
    fn is_wiped<T: zeroize::ZeroizeOnDrop>(_: &T) {}
    let secret = Secret::new([0xab; 32]);
    is_wiped(&secret);
    let shown = format!("{secret:?}");
    assert!(!shown.contains("ab") && !shown.contains("171"), "{shown}");
    let new = NewKey::new(b"passphrase");
    is_wiped(&new.passphrase);
    let world = World::new();
    is_wiped(&world.open().recovery_key().unwrap());
    is_wiped(world.open().keys().gear().unwrap());
}

#[test]
fn head_5_what_is_not_sealed_is_named_without_a_key_too() {
    let world = World::new();
    let plain = Keys::plain(world.locked().id());
    let snapshot = seal_object(Magic::Snapshot, &plain, &[], b"whatever").unwrap();
    let record = seal_object(Magic::Record, &plain, &[], b"whatever").unwrap();
    let segment = Facts::default().encode_segment(&plain, &[]).unwrap();
    let mut pack = fs::read(&world.files("packs")[0]).unwrap();
    pack[11] = 0;
    pack[40..168].fill(0);
    finish_header(&mut pack);
    for (folder, bytes) in [("snapshots", snapshot), ("records", record), ("index", segment), ("packs", pack)]
    {
        let id = SegmentId::from_bytes(hash(&bytes)).to_string();
        let name =
            if folder == "packs" { format!("packs/{}/{id}", &id[..2]) } else { format!("{folder}/{id}") };
        fs::write(world.place().join(&name), bytes).unwrap();
        let report = check_hashes(&world.locked(), None, &Silent, &AtomicBool::new(false)).unwrap();
        let unsealed = |damage: &vault::check::Damage| {
            damage.object == name
                && matches!(damage.error, Error::Damaged { source: Corruption::MissingSeal, .. })
        };
        assert!(report.damages.iter().any(unsealed), "{name}: {:?}", report.damages);
    }
}
