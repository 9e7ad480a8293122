//! A repository whose prune was killed when it had deleted packs and not yet written the index is copied: its segments name what is gone, and
//! only its own marks say why.

use std::fs;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use vault::backend::{Backend, LocalFolder};
use vault::check::{CheckOptions, check};
use vault::event::{Event, Observer, Silent};
use vault::heal::{HealOptions, heal};
use vault::id::PackId;
use vault::mirror::{MirrorOptions, MirrorSummary, mirror};
use vault::pack::pack_file_name;
use vault::prune::PruneOptions;
use vault::repository::{Presence, Repository, Work};

use super::store::{Store, thorough};
use crate::support::repository::{self, is_encrypted};

/// A store of a snapshot that is wanted; a pack is gone that only the segment names which also names its data. And a mirror from before.
fn killed() -> Store {
    let store = Store::new();
    refresh(&store, &store.open(), "drive", true);
    let (first, _) = store.save(&[1, 9]).unwrap();
    let path = |pack: &PackId| store.place().join(pack_file_name(pack));
    let folder = store.packs().into_iter().find(|pack| fs::metadata(path(pack)).unwrap().len() < 50_000);
    store.save(&[1]).unwrap();
    store.forget(first);
    let mut killed = Presence::announce(&store.open(), Work::Pruning).unwrap();
    killed.condemn(&[folder.unwrap()], &[first]).unwrap();
    killed.leave();
    fs::remove_file(store.place().join(format!("snapshots/{first}"))).unwrap();
    fs::remove_file(path(&folder.unwrap())).unwrap();
    store.check();
    store
}

fn at(store: &Store, name: &str) -> Arc<dyn Backend> {
    Arc::new(LocalFolder::new(store.scratch.join(name)))
}

fn refresh(store: &Store, repository: &Repository, name: &str, new: bool) {
    assert_eq!(refreshed(store, repository, name, new).damaged, []);
}

fn refreshed(store: &Store, repository: &Repository, name: &str, new: bool) -> MirrorSummary {
    watched(store, repository, (name, new), &Silent)
}

fn watched(
    store: &Store,
    repository: &Repository,
    (name, new): (&str, bool),
    observer: &dyn Observer,
) -> MirrorSummary {
    let options = MirrorOptions { new, ..MirrorOptions::default() };
    mirror(repository, &at(store, name), &options, observer, &AtomicBool::new(false)).unwrap()
}

/// Asserts that nothing is missed in a copy, that it has the snapshot, and so many segments.
#[track_caller]
fn assert_whole(copy: Arc<dyn Backend>, segments: usize) {
    let copy = repository::open(copy).unwrap();
    let options = CheckOptions { read_data: true, ..CheckOptions::default() };
    let report = check(&copy, &options, &Silent, &AtomicBool::new(false)).unwrap();
    assert!(report.damages.is_empty(), "{:?}", report.damages);
    assert_eq!(report.snapshots, 1);
    assert_eq!(count(&copy.backend().place().join("index")), segments);
}

fn count(folder: &Path) -> usize {
    fs::read_dir(folder).unwrap().count()
}

/// Goes on where the killed run stopped.
fn finish(store: &Store) {
    for entry in fs::read_dir(store.place().join("marks")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        // As long as its process is there, only the user can say that it has ended.
        let _ = store.open().declare_ended(name.rsplit_once('-').unwrap().0);
    }
    store.prune(&PruneOptions { force: false, ..thorough() }).unwrap();
}

#[test]
fn dur_13_what_a_killed_prune_deleted_is_not_missed_on_a_mirror() {
    let store = killed();
    refresh(&store, &store.open(), "drive", false);
    // One of the two names what is gone.
    assert_eq!(count(&store.place().join("index")), 2);
    assert_whole(at(&store, "drive"), 1);
    finish(&store);
    refresh(&store, &store.open(), "drive", false);
    assert_whole(at(&store, "drive"), count(&store.place().join("index")));
}

#[test]
fn dur_13_a_mark_that_cannot_be_read_may_speak_of_any_pack() {
    let store = killed();
    for entry in fs::read_dir(store.place().join("marks")).unwrap() {
        fs::write(entry.unwrap().path(), "rotten").unwrap();
    }
    // So in the repository it is missed.
    assert_eq!(refreshed(&store, &store.open(), "drive", false).damaged.len(), 1);
    assert_whole(at(&store, "drive"), 1);
}

#[test]
fn dur_13_without_keys_nobody_can_say_which_segment_names_it() {
    if !is_encrypted() {
        return;
    }
    let store = killed();
    let locked = Repository::open(store.backend.clone()).unwrap();
    assert!(locked.is_locked());
    let said = Mutex::new(Vec::new());
    let observer = |event: &Event<'_>| {
        if let Event::Notice { text, .. } = event {
            said.lock().unwrap().push((*text).to_owned());
        }
    };
    watched(&store, &locked, ("drive", false), &observer);
    let said = said.into_inner().unwrap();
    assert!(said.len() == 1 && said[0].contains("a prune has not finished"), "{said:?}");
    assert_whole(at(&store, "drive"), 0);
    refresh(&store, &store.open(), "drive", false);
    assert_whole(at(&store, "drive"), 1);

    // The same of a copy that is healed.
    refresh(&store, &store.open(), "other", true);
    for folder in ["packs", "index", "snapshots"] {
        fs::remove_dir_all(store.scratch.join("other").join(folder)).unwrap();
    }
    let observer: Arc<dyn Observer> = Arc::new(Silent);
    let other = Repository::open(at(&store, "other")).unwrap();
    let options = HealOptions::new(store.scratch.join("cache"));
    heal(&other, &store.backend, &options, &observer, &AtomicBool::new(false)).unwrap();
    assert_whole(at(&store, "other"), 0);
}
