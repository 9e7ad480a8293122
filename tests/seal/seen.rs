//! What a computer that has seen a repository misses in it: the repository itself cannot show that it was set back.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use vault::backend::{Backend, LocalFolder};
use vault::backup::{BackupOptions, backup};
use vault::event::{Observer, Silent};
use vault::id::{RecordId, SnapshotId};
use vault::mirror::{MirrorOptions, mirror};
use vault::repository::{Lacking, Repository, Seen};

use super::world::{PASSPHRASE, World, key, noise};

/// What is missed, and remembers what is there.
fn look(state: &Path, repository: &Repository) -> Lacking {
    Seen::recall(state, repository).unwrap().compare(repository).unwrap()
}

#[track_caller]
fn assert_whole(lacking: &Lacking) {
    let Lacking { gone, elsewhere, keys, keys_elsewhere, records, copy_is_new: _, accepted: _ } = lacking;
    let counts = [gone.len(), elsewhere.len(), keys.len(), keys_elsewhere.len(), records.len()];
    assert_eq!(counts, [0; 5], "{lacking:?}");
}

#[test]
fn snapshots_keys_and_records_that_were_taken_away_are_missed_until_that_is_accepted() {
    let world = World::new();
    let state = world.scratch.dir("state");
    let second = world.open().add_key(&key(b"second")).unwrap();
    let third = world.open().add_key(&key(b"third")).unwrap();
    assert_whole(&look(&state, &world.open()));
    // A key that was removed as it should be is not missed.
    world.open().remove_key(&third).unwrap();
    assert_whole(&look(&state, &world.open()));
    assert_whole(&look(&state, &world.open()));

    fs::remove_file(world.place().join(format!("keys/{second}"))).unwrap();
    assert_eq!(look(&state, &world.open()).keys, [second]);
    let last = world.snapshots[1];
    fs::remove_file(world.place().join(format!("snapshots/{last}"))).unwrap();
    let lacking = look(&state, &world.open());
    let gone: Vec<SnapshotId> = lacking.gone.iter().map(|seen| seen.id).collect();
    assert_eq!((gone, lacking.elsewhere.len(), &lacking.keys[..]), (vec![last], 0, &[second][..]));
    Seen::recall(&state, &world.open()).unwrap().accept(&lacking, &[]).unwrap();
    assert_whole(&look(&state, &world.open()));

    // Without the record the key that it removed is missed as well.
    let record = world.files("records").remove(0);
    let id = RecordId::from_hex(record.file_name().unwrap().to_str().unwrap()).unwrap();
    fs::remove_file(record).unwrap();
    let lacking = look(&state, &world.open());
    assert_eq!(lacking.records, [id]);
    assert_eq!(lacking.keys, [third]);
    // Another computer has seen nothing.
    assert_whole(&look(&world.scratch.dir("another state"), &world.open()));
}

#[test]
fn a_copy_that_was_not_refreshed_is_told_from_one_that_was_set_back() {
    let mut world = World::new();
    let state = world.scratch.dir("state");
    let destination: Arc<dyn Backend> = Arc::new(LocalFolder::new(world.scratch.join("mirror")));
    let options = MirrorOptions { new: true, ..MirrorOptions::default() };
    mirror(&world.locked(), &destination, &options, &Silent, &AtomicBool::new(false)).unwrap();
    fs::write(world.scratch.join("source/file-new"), noise(99, 800)).unwrap();
    world.snapshot();
    let copy = || {
        let mut copy = Repository::open(destination.clone()).unwrap();
        copy.unlock(PASSPHRASE, None).unwrap();
        copy
    };
    assert!(look(&state, &copy()).copy_is_new);
    assert_whole(&look(&state, &world.open()));
    let lacking = look(&state, &copy());
    assert!(!lacking.copy_is_new);
    assert!(lacking.gone.is_empty(), "{lacking:?}");
    assert_eq!(lacking.elsewhere.iter().map(|seen| seen.id).collect::<Vec<_>>(), [world.snapshots[2]]);
    // Once it was in this copy too, it is missed in it.
    let file = format!("snapshots/{}", world.snapshots[2]);
    fs::copy(world.place().join(&file), world.scratch.join("mirror").join(&file)).unwrap();
    assert_whole(&look(&state, &copy()));
    fs::remove_file(world.scratch.join("mirror").join(&file)).unwrap();
    let lacking = look(&state, &copy());
    assert_eq!((lacking.gone.len(), lacking.elsewhere.len()), (1, 0), "{lacking:?}");
}

#[test]
fn a_snapshot_that_no_other_followed_is_missed_by_those_that_came_after_it() {
    let mut world = World::new();
    let labelled = {
        let mut options = BackupOptions::new(vec![world.scratch.join("source/folder")]);
        options.as_path = Some(b"elsewhere".to_vec());
        options.label = "another series".to_owned();
        let observer: Arc<dyn Observer> = Arc::new(Silent);
        backup(&world.open(), options, &observer, &AtomicBool::new(false)).unwrap().snapshot.unwrap()
    };
    fs::write(world.scratch.join("source/file-new"), noise(99, 800)).unwrap();
    world.snapshot();
    let said = |world: &World| world.check().notices.join("\n");
    assert!(!said(&world).contains("was taken when others were here"), "{}", said(&world));
    fs::remove_file(world.place().join(format!("snapshots/{labelled}"))).unwrap();
    let expected = format!("snapshot {} was taken when others were here than are now", world.snapshots[2]);
    assert!(said(&world).contains(&expected), "{}", said(&world));
}
