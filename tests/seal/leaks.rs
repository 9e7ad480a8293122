//! What the folder of an encrypted repository shows to someone without a key: neither names nor content, nothing that repeats, nothing that
//! two repositories have in common. And that every file of it can be held against its name all the same.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use vault::backend::LocalFolder;
use vault::check::check_hashes;
use vault::event::{Observer, Silent};
use vault::header::HEADER_LEN;
use vault::mirror::{MirrorOptions, mirror};
use vault::pack::TAIL_LEN;
use vault::repository::Repository;

use super::world::{PASSPHRASE, World, files_below, name_of, snapshot_to};

/// What of a file is the cipher's: all but the header, the outer part, the hash of an object file, and of a tail key box and magic.
fn sealed_parts(name: &str, bytes: &[u8]) -> Vec<u8> {
    let outer_len = u32::from_le_bytes(bytes[12..16].try_into().unwrap()) as usize;
    let inner = &bytes[HEADER_LEN + outer_len..];
    match name.split('/').next().unwrap() {
        "packs" => {
            let (before, tail) = inner.split_at(inner.len() - TAIL_LEN);
            [before, &tail[..16], &tail[144..184]].concat()
        }
        "index" => inner.to_vec(),
        _ => inner[..inner.len() - 32].to_vec(),
    }
}

#[test]
fn seal_3_no_name_no_content_and_no_pattern_is_in_the_folder() {
    let world = World::new();
    let needles: Vec<&[u8]> = vec![
        b"secret",
        b"file-",
        b"folder",
        b"saved",
        b"a secret line",
        b"VFRM",
        b"VLTPKEND",
        PASSPHRASE,
        &[0x28, 0xb5, 0x2f, 0xfd],
    ];
    let source = world.scratch.join("source");
    let content: Vec<Vec<u8>> = files_below(&source).iter().map(|file| fs::read(file).unwrap()).collect();
    let host = rustix::system::uname();
    let mut all = Vec::new();
    for file in files_below(&world.place()) {
        let (name, bytes) = (name_of(&world, &file), fs::read(&file).unwrap());
        let has = |needle: &[u8]| bytes.windows(needle.len()).any(|window| window == needle);
        for needle in &needles {
            // The end of a pack is no secret.
            let is_known = *needle == b"VLTPKEND" && name.starts_with("packs/");
            assert!(is_known || !has(needle), "{name} has {:?}", needle.escape_ascii().to_string());
        }
        // A shorter one may be there by chance.
        let host = host.nodename().to_bytes();
        assert!(host.len() < 6 || !has(host), "{name} has the name of the host");
        for content in &content {
            assert!(!content.chunks(16).any(|piece| piece.len() == 16 && has(piece)), "{name} has content");
        }
        if name.contains('/') {
            all.extend(sealed_parts(&name, &bytes));
        }
    }
    assert!(all.len() > 40_000, "{} bytes: too few to mean anything", all.len());
    // Eight bytes that occur twice, anywhere: with so many bytes the odds are 1 to 10^10.
    let mut seen = HashMap::new();
    for (at, window) in all.windows(8).enumerate() {
        if let Some(before) = seen.insert(window.to_vec(), at) {
            panic!("the bytes at {before} are at {at} again: {window:02x?}");
        }
    }
    // Each value of a byte occurs about equally often: chi square with 255 degrees of freedom is below 400 but for once in 10^8.
    let mut counts = [0f64; 256];
    for byte in &all {
        counts[usize::from(*byte)] += 1.0;
    }
    #[expect(clippy::cast_precision_loss, reason = "some thousands")]
    let expected = all.len() as f64 / 256.0;
    let chi_square: f64 = counts.iter().map(|count| (count - expected).powi(2) / expected).sum();
    assert!((150.0..400.0).contains(&chi_square), "{chi_square}");
}

#[test]
fn two_repositories_of_one_tree_have_no_file_in_common() {
    let world = World::new();
    world.init("other");
    let mut other = Repository::open(Arc::new(LocalFolder::new(world.scratch.join("other")))).unwrap();
    other.unlock(PASSPHRASE, None).unwrap();
    let observer: Arc<dyn Observer> = Arc::new(Silent);
    let source = world.scratch.join("source");
    snapshot_to(&other, &source, &observer);
    let contents = |name: &str| -> BTreeSet<Vec<u8>> {
        files_below(&world.scratch.join(name)).iter().map(|file| fs::read(file).unwrap()).collect()
    };
    let (one, two) = (contents("repository"), contents("other"));
    assert!(one.len() > 5 && two.len() > 5);
    assert!(one.is_disjoint(&two));
    // They are not even cut alike: the table of each comes from its key.
    let reader = |repository: &Repository| -> BTreeSet<u32> {
        let reader = repository.reader().unwrap();
        let mut lens = BTreeSet::new();
        for segment in reader.index().segments() {
            segment
                .for_each(|(_, location)| {
                    lens.insert(location.len);
                })
                .unwrap();
        }
        lens
    };
    let (one, two) = (reader(&world.open()), reader(&other));
    assert!(one.intersection(&two).count() * 2 < one.len(), "{one:?} and {two:?}");
}

#[test]
fn all_files_are_for_their_owner_only() {
    let world = World::new();
    for entry in walkdir::WalkDir::new(world.place()) {
        let entry = entry.unwrap();
        let mode = entry.metadata().unwrap().permissions().mode() & 0o777;
        let expected = if entry.file_type().is_dir() { 0o700 } else { 0o600 };
        assert_eq!(mode, expected, "{}", entry.path().display());
    }
}

#[test]
fn without_a_key_every_file_is_held_against_its_name() {
    let world = World::new();
    let run = |world: &World| check_hashes(&world.locked(), None, &Silent, &AtomicBool::new(false)).unwrap();
    let report = run(&world);
    assert!(report.damages.is_empty() && report.unknown_names.is_empty(), "{:?}", report.damages);
    let files: Vec<_> =
        files_below(&world.place()).into_iter().filter(|file| name_of(&world, file).contains('/')).collect();
    let bytes: u64 = files.iter().map(|file| fs::metadata(file).unwrap().len()).sum();
    assert_eq!(report.bytes_read, bytes);
    for file in &files {
        let whole = fs::read(file).unwrap();
        for at in [0, 100, whole.len() / 2, whole.len() - 1] {
            let mut damaged = whole.clone();
            damaged[at] ^= 0x10;
            fs::write(file, damaged).unwrap();
            let report = run(&world);
            let named: Vec<_> = report.damages.iter().map(|damage| damage.object.clone()).collect();
            assert_eq!(named, [name_of(&world, file)], "byte {at}");
        }
        fs::write(file, whole).unwrap();
    }
    assert!(run(&world).damages.is_empty());
}

#[test]
fn a_mirror_needs_no_key_and_can_be_restored_from() {
    let world = World::new();
    let destination: Arc<dyn vault::backend::Backend> =
        Arc::new(LocalFolder::new(world.scratch.join("mirror")));
    let options = MirrorOptions { new: true, ..MirrorOptions::default() };
    let stop = AtomicBool::new(false);
    let summary = mirror(&world.locked(), &destination, &options, &Silent, &stop).unwrap();
    assert!(summary.damaged.is_empty() && summary.replaced.is_empty());
    let mut copy = Repository::open(destination.clone()).unwrap();
    copy.unlock(PASSPHRASE, None).unwrap();
    assert_eq!(copy.snapshot_ids().unwrap().len(), 2);
    let again = mirror(
        &world.locked(),
        &destination,
        &MirrorOptions { verify: true, ..MirrorOptions::default() },
        &Silent,
        &stop,
    );
    assert_eq!(again.unwrap().files_copied, 0);
}

#[test]
fn a_key_that_was_removed_goes_from_the_mirror_once_a_key_is_given() {
    let world = World::new();
    let first = world.open().opened_with().unwrap();
    world.open().add_key(&super::world::key(b"second")).unwrap();
    let destination: Arc<dyn vault::backend::Backend> =
        Arc::new(LocalFolder::new(world.scratch.join("mirror")));
    let stop = AtomicBool::new(false);
    let refresh = |repository: &Repository, new| {
        let options = MirrorOptions { new, ..MirrorOptions::default() };
        mirror(repository, &destination, &options, &Silent, &stop).unwrap();
        world.scratch.join("mirror/keys").read_dir().unwrap().count()
    };
    assert_eq!(refresh(&world.locked(), true), 2);
    let old = fs::read(world.place().join(format!("keys/{first}"))).unwrap();
    let mut repository = world.locked();
    repository.unlock(b"second", None).unwrap();
    repository.remove_key(&first).unwrap();
    assert_eq!(refresh(&world.locked(), false), 2, "a record that was not verified removed a key");
    let mut repository = world.locked();
    repository.unlock(b"second", None).unwrap();
    assert_eq!(refresh(&repository, false), 1);
    // The last one that the mirror has stays, though it is removed here.
    fs::remove_file(world.scratch.join("mirror/keys").read_dir().unwrap().next().unwrap().unwrap().path())
        .unwrap();
    fs::write(world.scratch.join("mirror/keys").join(first.to_string()), old).unwrap();
    let kept = fs::read(&world.files("keys")[0]).unwrap();
    fs::remove_file(&world.files("keys")[0]).unwrap();
    assert_eq!(refresh(&repository, false), 1, "the last key went");
    let second = vault::id::KeyId::from_bytes(vault::id::hash(&kept));
    fs::write(world.place().join(format!("keys/{second}")), kept).unwrap();
    assert_eq!(refresh(&repository, false), 1);
    assert!(world.scratch.join("mirror/keys").join(second.to_string()).exists());
}

#[test]
fn a_mirror_keeps_its_config_when_that_of_the_repository_was_exchanged() {
    let world = World::new();
    let destination: Arc<dyn vault::backend::Backend> =
        Arc::new(LocalFolder::new(world.scratch.join("mirror")));
    let stop = AtomicBool::new(false);
    let options = MirrorOptions { new: true, ..MirrorOptions::default() };
    mirror(&world.locked(), &destination, &options, &Silent, &stop).unwrap();
    let before = fs::read(world.scratch.join("mirror/config")).unwrap();
    let repository = world.locked();
    let config =
        vault::repository::Config { encryption: 0, fields: Vec::new(), ..repository.config().clone() };
    for name in ["config", "config.2"] {
        fs::write(world.place().join(name), config.encode(repository.id())).unwrap();
    }
    for key in world.files("keys") {
        fs::remove_file(key).unwrap();
    }
    let exchanged = Repository::open(world.backend()).unwrap();
    let refused = mirror(&exchanged, &destination, &MirrorOptions::default(), &Silent, &stop).unwrap_err();
    assert!(refused.to_string().contains("exchanged"), "{refused}");
    assert_eq!(fs::read(world.scratch.join("mirror/config")).unwrap(), before);
    assert_eq!(fs::read(world.scratch.join("mirror/config.2")).unwrap(), before);
}

#[test]
fn a_mirror_names_the_packs_that_the_repository_has_lost_if_a_key_is_given() {
    let world = World::new();
    let destination: Arc<dyn vault::backend::Backend> =
        Arc::new(LocalFolder::new(world.scratch.join("mirror")));
    let stop = AtomicBool::new(false);
    let refresh = |repository: &Repository, new| {
        let options = MirrorOptions { new, ..MirrorOptions::default() };
        let summary = mirror(repository, &destination, &options, &Silent, &stop).unwrap();
        summary
            .damaged
            .into_iter()
            .map(|damaged| (damaged.file, damaged.whole_on_other_side))
            .collect::<Vec<_>>()
    };
    assert_eq!(refresh(&world.open(), true), []);
    let pack = world.files("packs").remove(0);
    fs::remove_file(&pack).unwrap();
    // Without one, what is listed is all that there is to go by.
    assert_eq!(refresh(&world.locked(), false), []);
    assert_eq!(refresh(&world.open(), false), [(name_of(&world, &pack), true)]);
}
