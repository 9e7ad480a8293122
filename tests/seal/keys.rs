//! Key files: passphrases right and wrong, files altered and exchanged, keys added and removed, recovery keys.

use std::fs;
use std::path::PathBuf;

use vault::codec;
use vault::error::{Corruption, Error};
use vault::id::KeyId;
use vault::repository::{KeyOuter, NewKey, OpenedWith, Repository};

use super::world::{PASSPHRASE, World, finish_object, key, replace};

fn only_key(world: &World) -> PathBuf {
    let keys = world.files("keys");
    assert_eq!(keys.len(), 1);
    keys[0].clone()
}

/// Why a passphrase does not open it.
fn refusal(world: &World, passphrase: &[u8]) -> Error {
    world.locked().unlock(passphrase, None).unwrap_err()
}

#[test]
fn key_3_key_4_a_wrong_passphrase_an_altered_key_and_one_from_elsewhere_are_three_errors() {
    let world = World::new();
    assert!(matches!(refusal(&world, b"wrong"), Error::WrongPassphrase { tried: 1, .. }));
    assert!(matches!(refusal(&world, b""), Error::WrongPassphrase { tried: 1, .. }));

    // Every byte of the file, as rot would have it: the name is not the hash any more.
    let file = only_key(&world);
    let bytes = fs::read(&file).unwrap();
    for at in (0..bytes.len()).step_by(37) {
        let mut rotten = bytes.clone();
        rotten[at] ^= 1;
        fs::write(&file, rotten).unwrap();
        match refusal(&world, PASSPHRASE) {
            Error::Damaged { source: Corruption::WrongHash, file } => assert!(file.starts_with("keys/")),
            other => panic!("byte {at}: {other:?}"),
        }
    }

    // What is sealed, altered by someone who makes the hashes right.
    let mut altered = bytes.clone();
    let at = bytes.len() - 100;
    altered[at] ^= 1;
    finish_object(&mut altered);
    fs::write(&file, &bytes).unwrap();
    let new = replace(&file, &altered);
    match refusal(&world, PASSPHRASE) {
        Error::Damaged { source: Corruption::BrokenSeal { part: "key" }, .. } => {}
        other => panic!("{other:?}"),
    }

    // The key of another repository with the same passphrase.
    world.init("other");
    let other = super::world::files_below(&world.scratch.join("other/keys")).remove(0);
    let elsewhere = fs::read(&other).unwrap();
    let new = replace(&new, &elsewhere);
    match refusal(&world, PASSPHRASE) {
        Error::Damaged { source: Corruption::WrongRepository { .. }, .. } => {}
        other => panic!("{other:?}"),
    }
    // And with the repository's id written into it.
    let mut disguised = elsewhere.clone();
    disguised[24..40].copy_from_slice(world.locked().id().as_bytes());
    finish_object(&mut disguised);
    let new = replace(&new, &disguised);
    assert!(matches!(
        refusal(&world, PASSPHRASE),
        Error::Damaged { source: Corruption::KeyOfOtherConfig, .. }
    ));
    // And with the hash of its config.
    let outer_len = u32::from_le_bytes(elsewhere[12..16].try_into().unwrap()) as usize;
    let mut outer: KeyOuter = codec::decode(&elsewhere[192..192 + outer_len]).unwrap();
    outer.config = vault::id::hash(&fs::read(world.place().join("config")).unwrap());
    disguised[192..192 + outer_len].copy_from_slice(&codec::encode(&outer));
    finish_object(&mut disguised);
    replace(&new, &disguised);
    assert!(matches!(
        refusal(&world, PASSPHRASE),
        Error::Damaged { source: Corruption::BrokenSeal { part: "key" }, .. }
    ));
}

#[test]
fn key_2_a_key_that_asks_for_too_much_is_refused_before_it_gets_it() {
    let world = World::new();
    let file = only_key(&world);
    let bytes = fs::read(&file).unwrap();
    let outer_len = u32::from_le_bytes(bytes[12..16].try_into().unwrap()) as usize;
    let outer: KeyOuter = codec::decode(&bytes[192..192 + outer_len]).unwrap();
    let mut file = file;
    for (memory_kib, passes, lanes) in [
        ((1 << 20) + 1, 1, 1),
        (1 << 20, 5, 1),
        (8, 17, 1),
        (u32::MAX, u32::MAX, 1),
        (8, 1, 9),
        (128, 1, 9),
        (0, 1, 1),
        (8, 0, 1),
        (8, 1, 2),
    ] {
        let mut outer = outer.clone();
        outer.kdf.memory_kib = memory_kib;
        outer.kdf.passes = passes;
        outer.kdf.lanes = lanes;
        let outer = codec::encode(&outer);
        let mut altered = [&bytes[..192], &outer, &bytes[192 + outer_len..]].concat();
        altered[12..16].copy_from_slice(&u32::try_from(outer.len()).unwrap().to_le_bytes());
        finish_object(&mut altered);
        file = replace(&file, &altered);
        match refusal(&world, PASSPHRASE) {
            Error::Damaged { source: Corruption::Rule { rule: "KEY-2", .. }, .. } => {}
            other => panic!("{memory_kib}, {passes}, {lanes}: {other:?}"),
        }
    }
}

#[test]
fn a_file_that_is_no_key_does_not_stand_in_the_way_of_the_others() {
    let world = World::new();
    let own = world.open().opened_with().unwrap();
    let bytes = fs::read(only_key(&world)).unwrap();
    let outer_len = u32::from_le_bytes(bytes[12..16].try_into().unwrap()) as usize;
    let outer: KeyOuter = codec::decode(&bytes[192..192 + outer_len]).unwrap();
    // One that asks for too much, and one that has the right commitment and does not open: with ids that come first.
    for change in [|outer: &mut KeyOuter| outer.kdf.passes = 99, |outer: &mut KeyOuter| outer.name.push('x')]
    {
        for number in 0.. {
            let mut planted = outer.clone();
            change(&mut planted);
            planted.created.secs += number;
            let planted = codec::encode(&planted);
            let mut bytes = [&bytes[..192], &planted, &bytes[192 + outer_len..]].concat();
            bytes[12..16].copy_from_slice(&u32::try_from(planted.len()).unwrap().to_le_bytes());
            finish_object(&mut bytes);
            let id = KeyId::from_bytes(vault::id::hash(&bytes));
            if id < own {
                fs::write(world.place().join(format!("keys/{id}")), bytes).unwrap();
                break;
            }
        }
    }
    // And what is not even a file.
    let name = |number: u8| world.place().join(format!("keys/{}", KeyId::from_bytes([number; 32])));
    std::os::unix::fs::symlink("nowhere", name(0)).unwrap();
    std::os::unix::fs::symlink(name(0), name(1)).unwrap();
    fs::create_dir(name(2)).unwrap();
    let repository = world.open();
    assert_eq!(repository.opened_with(), Some(own));
    let named = |rule: fn(&Corruption) -> bool| {
        let is = |error: &Error| matches!(error, Error::Damaged { source, .. } if rule(source));
        repository.problems().iter().any(is)
    };
    assert!(named(|source| matches!(source, Corruption::Rule { rule: "KEY-2", .. })));
    assert!(named(|source| matches!(source, Corruption::BrokenSeal { part: "key" })));
    assert!(matches!(refusal(&world, b"wrong"), Error::WrongPassphrase { tried: 2, .. }));
}

#[test]
fn key_6_keys_are_added_and_removed_and_each_opens_with_its_own_passphrase() {
    let world = World::new();
    let first = world.open().opened_with().unwrap();
    let second = world.open().add_key(&NewKey { name: "second".into(), ..key(b"battery staple") }).unwrap();
    let open = |passphrase: &[u8], only| {
        let mut repository = world.locked();
        repository.unlock(passphrase, only).map(|with| (with, repository))
    };
    assert_eq!(open(PASSPHRASE, None).unwrap().0, OpenedWith::Key(first));
    assert_eq!(open(b"battery staple", None).unwrap().0, OpenedWith::Key(second));
    assert_eq!(open(b"battery staple", Some(second)).unwrap().0, OpenedWith::Key(second));
    assert!(matches!(open(b"battery staple", Some(first)), Err(Error::WrongPassphrase { tried: 1, .. })));
    assert!(matches!(open(b"neither", None), Err(Error::WrongPassphrase { tried: 2, .. })));
    let names: Vec<String> =
        world.locked().keys_listed().unwrap().into_iter().map(|(_, read)| read.unwrap().name).collect();
    assert!(names.contains(&"second".to_owned()) && names.contains(&String::new()));

    // Neither the one that opened it, nor one that is not there, nor by someone without a key.
    let repository = world.open();
    assert!(matches!(repository.remove_key(&first), Err(Error::Usage(_))));
    let unknown = KeyId::from_bytes([1; 32]);
    assert!(matches!(repository.remove_key(&unknown), Err(Error::NotFound { .. })));
    assert!(world.locked().remove_key(&second).is_err());
    assert_eq!(world.files("keys").len(), 2);

    let old = fs::read(world.place().join(format!("keys/{first}"))).unwrap();
    open(b"battery staple", None).unwrap().1.remove_key(&first).unwrap();
    assert!(matches!(open(PASSPHRASE, None), Err(Error::WrongPassphrase { tried: 1, .. })));
    // Put back, it stays removed: a record says so.
    fs::write(world.place().join(format!("keys/{first}")), old).unwrap();
    match open(PASSPHRASE, None).map(|_| ()) {
        Err(Error::KeyRemoved { key }) => assert_eq!(key, first),
        other => panic!("{other:?}"),
    }
    // Nor does it stand in the way of a newer one with the same passphrase.
    let again = open(b"battery staple", None).unwrap().1.add_key(&key(PASSPHRASE)).unwrap();
    assert_eq!(open(PASSPHRASE, None).unwrap().0, OpenedWith::Key(again));
    open(b"battery staple", None).unwrap().1.remove_key(&again).unwrap();
    fs::remove_file(world.place().join(format!("keys/{first}"))).unwrap();

    // The last one stays, whoever asks.
    let mut repository = open(b"battery staple", None).unwrap().1;
    assert!(matches!(repository.remove_key(&second), Err(Error::Usage(_))));
    let recovery = repository.recovery_key().unwrap();
    repository = world.locked();
    assert_eq!(repository.unlock(recovery.as_bytes(), None).unwrap(), OpenedWith::Recovery);
    assert!(matches!(repository.remove_key(&second), Err(Error::Usage(_))));
    assert_eq!(world.files("keys").len(), 1);
}

#[test]
fn key_5_a_recovery_key_opens_the_repository_without_any_key_file() {
    let world = World::new();
    let recovery = world.open().recovery_key().unwrap().to_string();
    assert_eq!(recovery.len(), 16 + 14 * 5);
    for key in world.files("keys") {
        fs::remove_file(key).unwrap();
    }
    assert!(matches!(refusal(&world, PASSPHRASE), Error::NoKeys));
    let spoken = recovery.to_lowercase().replace('-', " ");
    for text in [recovery.clone(), format!("  {recovery}\n"), spoken] {
        let mut repository = world.locked();
        assert_eq!(repository.unlock(text.as_bytes(), None).unwrap(), OpenedWith::Recovery, "{text}");
        assert!(repository.snapshot(&world.snapshots[0]).is_ok());
        assert_eq!(*repository.recovery_key().unwrap(), recovery);
    }
    // A slip at any letter, a letter too few, one too many, two exchanged.
    for at in 17..recovery.len() {
        let mut typed = recovery.clone().into_bytes();
        if typed[at] == b'-' {
            continue;
        }
        typed[at] = if typed[at] == b'A' { b'B' } else { b'A' };
        assert!(matches!(refusal(&world, &typed), Error::Usage(_)), "letter {at}");
    }
    assert!(matches!(refusal(&world, &recovery.as_bytes()[..recovery.len() - 1]), Error::Usage(_)));
    assert!(matches!(refusal(&world, format!("{recovery}A").as_bytes()), Error::Usage(_)));

    // From it, a passphrase is made again.
    let mut repository = world.locked();
    repository.unlock(recovery.as_bytes(), None).unwrap();
    repository.add_key(&key(b"a new one")).unwrap();
    assert!(world.locked().unlock(b"a new one", None).is_ok());
}

#[test]
fn conf_4_the_recovery_key_of_another_repository_is_refused() {
    let world = World::new();
    world.init("other");
    let backend = std::sync::Arc::new(vault::backend::LocalFolder::new(world.scratch.join("other")));
    let mut other = Repository::open(backend).unwrap();
    other.unlock(PASSPHRASE, None).unwrap();
    let recovery = other.recovery_key().unwrap();
    assert!(matches!(
        refusal(&world, recovery.as_bytes()),
        Error::Damaged { source: Corruption::OtherConfig, .. }
    ));
}

#[test]
fn what_is_no_passphrase_is_not_taken_for_one() {
    let world = World::new();
    let repository = world.open();
    assert!(matches!(repository.add_key(&key(b"")), Err(Error::Usage(_))));
    let recovery = repository.recovery_key().unwrap();
    assert!(matches!(repository.add_key(&key(recovery.as_bytes())), Err(Error::Usage(_))));
    assert_eq!(world.files("keys").len(), 1);
}

#[test]
fn a_locked_repository_says_so_and_gives_nothing() {
    let world = World::new();
    let repository = world.locked();
    assert!(repository.is_locked());
    for (_, read) in repository.snapshots().unwrap() {
        assert!(matches!(read, Err(Error::Damaged { source: Corruption::Locked, .. })));
    }
    assert!(repository.reader().is_err());
    assert!(repository.recovery_key().is_err());
    assert!(repository.add_key(&key(b"mine")).is_err());
}

#[test]
fn the_last_key_that_can_be_used_is_not_removed() {
    let world = World::new();
    let first = world.open().opened_with().unwrap();
    let second = world.open().add_key(&key(b"second")).unwrap();
    let file = world.place().join(format!("keys/{second}"));
    let mut bytes = fs::read(&file).unwrap();
    bytes[300] ^= 1;
    fs::write(&file, &bytes).unwrap();
    let recovery = world.open().recovery_key().unwrap();
    let mut repository = world.locked();
    repository.unlock(recovery.as_bytes(), None).unwrap();
    assert!(matches!(repository.remove_key(&first), Err(Error::Usage(_))), "the other one is damaged");
    bytes[300] ^= 1;
    fs::write(&file, &bytes).unwrap();
    repository.remove_key(&first).unwrap();
    assert!(world.locked().unlock(b"second", None).is_ok());
}
