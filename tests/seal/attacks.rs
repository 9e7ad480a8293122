//! Files altered, exchanged, cut, put back, taken away. An attacker makes every hash and checksum right that needs no key.

use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use vault::error::{Corruption, Error};
use vault::event::{Event, Observer};
use vault::field::Time;
use vault::header::{Magic, Seal, encode_object};
use vault::repository::{Config, Repository};

use super::world::{World, finish_header, finish_object, name_of, noise, replace, snapshot_to};

/// The packs, the longest first.
fn packs(world: &World) -> Vec<PathBuf> {
    let mut packs = world.files("packs");
    packs.sort_by_key(|file| std::cmp::Reverse(fs::metadata(file).unwrap().len()));
    packs
}

/// Where the tail's key box stands.
fn tail_box(bytes: &[u8]) -> usize {
    bytes.len() - 192 + 16
}

/// What a check says of one object.
#[track_caller]
fn said_of(world: &World, name: &str) -> String {
    let damages = world.damages();
    damages.get(name).cloned().unwrap_or_else(|| panic!("nothing about {name}: {damages:#?}"))
}

#[test]
fn box_1_box_2_a_flipped_bit_in_the_key_box_of_a_header_is_named_and_the_tails_box_opens_the_frames() {
    // The salt, the file key, its tag, the kind, what is zero.
    for at in [16, 47, 48, 80, 95, 0, 1, 2, 96, 127] {
        let world = World::new();
        let pack = &packs(&world)[0];
        let mut bytes = fs::read(pack).unwrap();
        bytes[40 + at] ^= 1;
        finish_header(&mut bytes);
        fs::write(pack, bytes).unwrap();
        let said = said_of(&world, &name_of(&world, pack));
        let expected = if (16..96).contains(&at) { "the seal of its key box is broken" } else { "BOX-2" };
        assert!(said.contains(expected), "byte {at}: {said}");
        // All comes back: what the box held stands in the tail again.
        assert_eq!(world.restore(world.snapshots[1]), (10, 0));
    }
}

#[test]
fn pack_5_a_flipped_bit_in_the_key_box_of_a_tail_is_named_and_costs_nothing() {
    for at in [0, 20, 60, 100] {
        let world = World::new();
        let pack = &packs(&world)[0];
        let mut bytes = fs::read(pack).unwrap();
        let start = tail_box(&bytes);
        bytes[start + at] ^= 1;
        fs::write(pack, bytes).unwrap();
        assert!(!said_of(&world, &name_of(&world, pack)).is_empty());
        assert_eq!(world.restore(world.snapshots[1]), (10, 0));
    }
}

#[test]
fn box_1_with_both_key_boxes_altered_a_pack_is_lost_and_named() {
    let world = World::new();
    let pack = &packs(&world)[0];
    let mut bytes = fs::read(pack).unwrap();
    let start = tail_box(&bytes);
    bytes[60] ^= 1;
    bytes[start + 20] ^= 1;
    finish_header(&mut bytes);
    fs::write(pack, bytes).unwrap();
    let report = world.check();
    let damage = report.damages.iter().find(|damage| damage.object == name_of(&world, pack)).unwrap();
    assert!(!damage.costs.is_empty());
    let (right, missing) = world.restore(world.snapshots[1]);
    assert!(right + missing == 10 && missing > 0);
}

#[test]
fn box_1_altered_boxes_of_snapshots_segments_and_records_are_named() {
    for folder in ["snapshots", "index"] {
        let world = World::new();
        let file = &world.files(folder)[0];
        let mut bytes = fs::read(file).unwrap();
        bytes[40 + 50] ^= 4;
        if folder == "index" {
            finish_header(&mut bytes);
        } else {
            finish_object(&mut bytes);
        }
        let new = replace(file, &bytes);
        let said = said_of(&world, &name_of(&world, &new));
        assert!(said.contains("the seal of its key box is broken"), "{said}");
    }
}

#[test]
fn seal_2_an_altered_body_block_or_outer_part_is_named() {
    let world = World::new();
    let snapshot = &world.files("snapshots")[0];
    let mut bytes = fs::read(snapshot).unwrap();
    bytes[192 + 30] ^= 1;
    finish_object(&mut bytes);
    let new = replace(snapshot, &bytes);
    assert!(said_of(&world, &name_of(&world, &new)).contains("the seal of its body is broken"));
    for (at, part) in [(200, "segment header"), (usize::MAX, "block")] {
        let world = World::new();
        let segment = &world.files("index")[0];
        let mut bytes = fs::read(segment).unwrap();
        let at = at.min(bytes.len() - 100);
        bytes[at] ^= 1;
        let new = replace(segment, &bytes);
        assert!(
            said_of(&world, &name_of(&world, &new)).contains(&format!("the seal of its {part} is broken"))
        );
        // The directories of the packs stand in for it.
        assert_eq!(world.restore(world.snapshots[1]), (10, 0));
    }
}

#[test]
fn pack_4_a_pack_cut_after_its_header_or_anywhere_else_is_named() {
    for part in [0, 192, 500, 3000] {
        let world = World::new();
        let pack = &packs(&world)[0];
        let bytes = fs::read(pack).unwrap();
        fs::write(pack, &bytes[..part]).unwrap();
        let name = name_of(&world, pack);
        assert!(said_of(&world, &name).contains(&format!("{part} bytes instead of {}", bytes.len())));
        let (right, missing) = world.restore(world.snapshots[1]);
        assert!(right + missing == 10 && missing > 0, "{right} and {missing}");
        // Under a name that fits it is no pack that anything refers to; it is named all the same.
        fs::write(pack, &bytes).unwrap();
        let new = replace(pack, &bytes[..part]);
        assert!(!said_of(&world, &name_of(&world, &new)).is_empty());
    }
}

#[test]
fn repo_1_packs_and_snapshots_exchanged_for_one_another_are_named_and_never_mixed_up() {
    for folder in ["packs", "snapshots", "index"] {
        let world = World::new();
        let files = if folder == "packs" { packs(&world) } else { world.files(folder) };
        let (first, second) = (fs::read(&files[0]).unwrap(), fs::read(&files[1]).unwrap());
        fs::write(&files[0], &second).unwrap();
        fs::write(&files[1], &first).unwrap();
        for file in &files[..2] {
            let said = said_of(&world, &name_of(&world, file));
            assert!(
                said.contains("do not have the hash that is its name") || said.contains("bytes instead of"),
                "{said}"
            );
        }
        if folder == "packs" {
            // Where their lengths differ each is taken for what it says it is, and all comes back; else files are missed, and none is wrong.
            let (right, missing) = world.restore(world.snapshots[1]);
            assert_eq!(right + missing, 10);
            assert_eq!(missing == 0, first.len() != second.len());
        }
    }
}

#[test]
fn head_5_what_is_not_sealed_is_refused_in_an_encrypted_repository_and_named() {
    let world = World::new();
    let repository = world.open();
    let plain = vault::seal::Keys::plain(repository.id());
    let snapshot = repository.snapshot(&world.snapshots[0]).unwrap();
    let body = vault::codec::encode(&snapshot);
    let bytes = encode_object(Magic::Snapshot, repository.id(), Seal::Plain, &[], &body);
    let new = replace(&world.files("snapshots")[0], &bytes);
    assert!(said_of(&world, &name_of(&world, &new)).contains("it is not sealed"));
    let facts = vault::index::Facts::default();
    let segment = facts.encode_segment(&plain, &[]).unwrap();
    let new = replace(&world.files("index")[0], &segment);
    assert!(said_of(&world, &name_of(&world, &new)).contains("it is not sealed"));
    let mut bytes = fs::read(&packs(&world)[0]).unwrap();
    bytes[11] = 0;
    bytes[40..168].fill(0);
    finish_header(&mut bytes);
    let new = replace(&packs(&world)[0], &bytes);
    assert!(said_of(&world, &name_of(&world, &new)).contains("it is not sealed"));
}

/// A config that says that nothing is encrypted, written over both files.
fn downgrade(world: &World) {
    let repository = world.locked();
    let created = Time { secs: 1, nanos: 0 };
    let config = Config { encryption: 0, fields: Vec::new(), created, ..repository.config().clone() };
    let bytes = config.encode(repository.id());
    for name in ["config", "config.2"] {
        fs::write(world.place().join(name), &bytes).unwrap();
    }
}

#[test]
fn conf_5_a_config_that_says_plain_is_refused_beside_keys() {
    let world = World::new();
    downgrade(&world);
    match Repository::open(world.backend()) {
        Err(Error::Damaged { file, source: Corruption::KeysBesidePlain }) => assert_eq!(file, "config"),
        other => panic!("{:?}", other.map(|_| ())),
    }
}

#[test]
fn head_5_after_a_config_was_exchanged_for_a_plain_one_nothing_sealed_is_read_and_no_passphrase_taken() {
    let world = World::new();
    downgrade(&world);
    for key in world.files("keys") {
        fs::remove_file(key).unwrap();
    }
    let mut repository = Repository::open(world.backend()).unwrap();
    assert!(matches!(repository.unlock(super::world::PASSPHRASE, None), Err(Error::NotEncrypted)));
    for (_, read) in repository.snapshots().unwrap() {
        match read {
            Err(Error::Damaged { source: Corruption::UnexpectedSeal, .. }) => {}
            other => panic!("{:?}", other.map(|_| ())),
        }
    }
    let index = repository.reader().unwrap();
    assert!(
        index
            .problems()
            .iter()
            .any(|problem| { matches!(problem, Error::Damaged { source: Corruption::UnexpectedSeal, .. }) })
    );
}

#[test]
fn conf_5_a_config_and_its_copy_that_differ_in_it_are_refused() {
    let world = World::new();
    let encrypted = fs::read(world.place().join("config")).unwrap();
    downgrade(&world);
    for key in world.files("keys") {
        fs::remove_file(key).unwrap();
    }
    for name in ["config", "config.2"] {
        let plain = fs::read(world.place().join(name)).unwrap();
        fs::write(world.place().join(name), &encrypted).unwrap();
        match Repository::open(world.backend()).map(|_| ()) {
            Err(Error::Damaged { source: Corruption::ModesDiffer, .. }) => {}
            other => panic!("{name}: {other:?}"),
        }
        fs::write(world.place().join(name), plain).unwrap();
    }
}

#[test]
fn conf_5_nothing_is_written_to_a_plain_repository_that_holds_something_sealed() {
    for left in ["packs", "index", "snapshots"] {
        let world = World::new();
        downgrade(&world);
        for folder in ["keys", "packs", "index", "snapshots"].iter().filter(|folder| **folder != left) {
            for file in world.files(folder) {
                fs::remove_file(file).unwrap();
            }
        }
        let before = super::world::files_below(&world.place());
        let repository = Repository::open(world.backend()).unwrap();
        let observer: Arc<dyn Observer> = Arc::new(vault::event::Silent);
        let mut options = vault::backup::BackupOptions::new(vec![world.scratch.join("source")]);
        options.as_path = Some(b"saved".to_vec());
        let stop = std::sync::atomic::AtomicBool::new(false);
        match vault::backup::backup(&repository, options, &observer, &stop).map(|_| ()) {
            Err(Error::Damaged { file, source: Corruption::UnexpectedSeal }) => {
                assert!(file.starts_with(left), "{file}");
            }
            other => panic!("{left}: {other:?}"),
        }
        assert_eq!(super::world::files_below(&world.place()), before);
    }
}

#[test]
fn conf_5_a_computer_that_has_seen_it_encrypted_refuses_a_plain_config() {
    let world = World::new();
    let state = world.scratch.dir("state");
    let repository = world.open();
    vault::repository::Seen::recall(&state, &repository).unwrap().compare(&repository).unwrap();
    downgrade(&world);
    for key in world.files("keys") {
        fs::remove_file(key).unwrap();
    }
    let repository = Repository::open(world.backend()).unwrap();
    match vault::repository::Seen::recall(&state, &repository).map(|_| ()) {
        Err(Error::Damaged { file, source: Corruption::SeenEncrypted }) => assert_eq!(file, "config"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn conf_4_a_config_that_was_altered_is_named_before_anything_is_read_or_written() {
    let world = World::new();
    let recovery = world.open().recovery_key().unwrap();
    let repository = world.locked();
    let mut config = repository.config().clone();
    config.chunker.avg_len *= 2;
    let bytes = config.encode(repository.id());
    for name in ["config", "config.2"] {
        fs::write(world.place().join(name), &bytes).unwrap();
    }
    match world.try_open() {
        Err(Error::Damaged { source: Corruption::KeyOfOtherConfig, .. }) => {}
        other => panic!("{:?}", other.map(|_| ())),
    }
    match world.locked().unlock(recovery.as_bytes(), None) {
        Err(Error::Damaged { source: Corruption::OtherConfig, file }) => assert_eq!(file, "config"),
        other => panic!("{:?}", other.map(|_| ())),
    }
    // Without its check it is no config at all, nor with one that is cut short, or that older programs would pass over.
    let changes: [fn(&mut Config); 4] = [
        |config| config.fields.clear(),
        |config| config.fields[0].critical = false,
        |config| config.fields[0].value.0.truncate(31),
        |config| config.fields[0].value.0.push(0),
    ];
    for change in changes {
        let mut config = config.clone();
        change(&mut config);
        for name in ["config", "config.2"] {
            fs::write(world.place().join(name), config.encode(repository.id())).unwrap();
        }
        match Repository::open(world.backend()) {
            Err(Error::Damaged { source: Corruption::Rule { rule: "CONF-4", .. }, .. }) => {}
            other => panic!("{:?}", other.map(|_| ())),
        }
    }
}

/// Keeps what is noticed.
#[derive(Default)]
struct Heard(Mutex<Vec<String>>);

impl Observer for Heard {
    fn event(&self, event: &Event<'_>) {
        if let Event::Notice { path, text } = event {
            self.0.lock().unwrap().push(format!("{}: {text}", path.display()));
        }
    }
}

#[test]
fn seg_6_an_old_segment_that_is_put_back_is_named_and_removed_by_the_next_snapshot() {
    let mut world = World::new();
    // Merged into one that was merged into another one in turn.
    let (mut old, mut merges) = (None, 0);
    for number in 0.. {
        fs::write(world.scratch.join("source/file-new"), noise(number, 700)).unwrap();
        let read = |file: PathBuf| (fs::read(&file).unwrap(), file);
        let before: Vec<_> = world.files("index").into_iter().map(read).collect();
        world.snapshot();
        if world.files("index").len() < before.len() {
            merges += 1;
            old.get_or_insert_with(|| before[5].clone());
        }
        if merges == 2 {
            break;
        }
    }
    let (bytes, file) = old.unwrap();
    assert!(!file.exists(), "it was not merged");
    let notices = |world: &World| world.check().notices.join("\n");
    assert!(!notices(&world).contains("is here again"));
    fs::write(&file, bytes).unwrap();
    let name = name_of(&world, &file);
    assert!(notices(&world).contains(&format!("{name} was merged into")), "{}", notices(&world));
    let heard = Arc::new(Heard::default());
    let observer: Arc<dyn Observer> = heard.clone();
    snapshot_to(&world.open(), &world.scratch.join("source"), &observer);
    assert!(!file.exists());
    let heard = heard.0.lock().unwrap().join("\n");
    assert!(heard.contains(&name) && heard.contains("is here again: removed"), "{heard}");
    assert!(world.damages().is_empty());
}

#[test]
fn a_damaged_segment_is_replaced_by_the_next_snapshot_and_removed() {
    let mut world = World::new();
    let file = &world.files("index")[0];
    let mut bytes = fs::read(file).unwrap();
    let at = bytes.len() - 30;
    bytes[at] ^= 1;
    fs::write(file, bytes).unwrap();
    assert!(!world.damages().is_empty());
    fs::write(world.scratch.join("source/file-new"), noise(99, 800)).unwrap();
    world.snapshot();
    assert!(!file.exists());
    assert!(world.damages().is_empty());
}

#[test]
fn a_pack_whose_directory_is_damaged_gives_all_that_it_has_after_its_damaged_segment_was_removed() {
    let mut world = World::new();
    let pack = &packs(&world)[0];
    let mut bytes = fs::read(pack).unwrap();
    let at = bytes.len() - 20;
    bytes[at] ^= 1;
    fs::write(pack, bytes).unwrap();
    let damaged = world.files("index");
    for file in &damaged {
        let mut bytes = fs::read(file).unwrap();
        let at = bytes.len() - 30;
        bytes[at] ^= 1;
        fs::write(file, bytes).unwrap();
    }
    assert_eq!(world.restore(world.snapshots[1]), (10, 0));
    fs::write(world.scratch.join("source/later"), noise(99, 800)).unwrap();
    world.snapshot();
    assert!(!damaged.iter().any(|file| file.exists()));
    assert_eq!(world.restore(world.snapshots[1]), (10, 1));
    assert_eq!(world.restore(world.snapshots[2]), (11, 0));
}

#[test]
fn a_snapshot_taken_out_of_the_middle_is_noticed_on_any_computer() {
    let mut world = World::new();
    fs::write(world.scratch.join("source/file-new"), noise(99, 800)).unwrap();
    world.snapshot();
    let whole = world.check().notices.join("\n");
    assert!(!whole.contains("predecessor") && !whole.contains("was taken when others"), "{whole}");
    fs::remove_file(world.place().join(format!("snapshots/{}", world.snapshots[1]))).unwrap();
    let notices = world.check().notices.join("\n");
    assert!(
        notices.contains(&format!("snapshot {}, named as a predecessor, is not here", world.snapshots[1]))
    );
}
