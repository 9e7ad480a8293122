//! `[DUR-15]`: small segments that the source merged go from the mirror once others there say the same, and only then.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use vault::backend::{Backend, LocalFolder};
use vault::backup::{BackupOptions, backup};
use vault::event::{Event, Observer};
use vault::mirror::{Side, mirror};

use super::world::{World, assert_snapshots_complete, flip, names, open};
use crate::support::scratch::Scratch;

/// A mirror that got every segment of a source, and that source now that it has merged them all.
fn before_the_merge_comes_over() -> (World, Scratch, PathBuf) {
    let (world, scratch) = (World::new(20), Scratch::new());
    let at = scratch.join("mirror");
    world.mirror(&at, &world.options(true)).unwrap();
    let at_source = || names(&world.repository_path(), "index/").len();
    while at_source() > 0 && names(&at, "index/").len() < 32 {
        world.snapshot_more(2);
        world.mirror(&at, &world.options(false)).unwrap();
        world.assert_mirrored(&at);
    }
    world.snapshot_more(2);
    assert_eq!(at_source(), 1, "they were to be merged");
    (world, scratch, at)
}

#[test]
fn dur_15_segments_that_the_source_merged_go_from_the_mirror() {
    let (world, _scratch, at) = before_the_merge_comes_over();
    // What is only on the mirror is named by no segment of the source.
    let own = world.snapshot_into(&open(&at), 300);
    assert!(names(&at, "index/").len() <= 2, "a snapshot on the mirror merges too");
    let own_segments = names(&at, "index/");
    let refreshed = world.mirror(&at, &world.options(false)).unwrap();
    assert_eq!((refreshed.segments_removed, &refreshed.extra_snapshots[..]), (0, &[own][..]));
    assert!(own_segments.iter().all(|name| at.join(name).exists()));

    let (world, _scratch, at) = before_the_merge_comes_over();
    let refreshed = world.mirror(&at, &world.options(false)).unwrap();
    assert_eq!((refreshed.segments_removed, refreshed.damaged.len()), (32, 0));
    world.assert_mirrored(&at);
    let again = world.mirror(&at, &world.options(false)).unwrap();
    assert_eq!((again.files_copied, again.segments_removed), (0, 0));
}

#[test]
fn dur_15_nothing_goes_that_hangs_on_a_damaged_segment() {
    let (world, _scratch, at) = before_the_merge_comes_over();
    let union = names(&world.repository_path(), "index/").remove(0);
    // The union is on the mirror, and rotten there.
    fs::copy(world.repository_path().join(&union), at.join(&union)).unwrap();
    flip(&at.join(&union));
    let refreshed = world.mirror(&at, &world.options(false)).unwrap();
    assert_eq!(refreshed.segments_removed, 0);
    let [damaged] = &refreshed.damaged[..] else { panic!("{:?}", refreshed.damaged) };
    assert_eq!((&damaged.file, damaged.side, damaged.whole_on_other_side), (&union, Side::Mirror, true));
    assert_eq!(names(&at, "index/").len(), 33);
    let verify = vault::mirror::MirrorOptions { verify: true, ..world.options(false) };
    let refreshed = world.mirror(&at, &verify).unwrap();
    assert_eq!((refreshed.replaced, refreshed.segments_removed), (vec![union], 32));
    world.assert_mirrored(&at);
}

/// Takes a snapshot of the world's source into a copy, and says what damage it met there.
fn damage_met(world: &World, at: &Path) -> Vec<String> {
    let said = Arc::new(Mutex::new(Vec::new()));
    let kept = said.clone();
    let observer: Arc<dyn Observer> = Arc::new(move |event: &Event<'_>| {
        if let Event::Damage { error } = event {
            kept.lock().unwrap().push(error.to_string());
        }
    });
    let options = BackupOptions::new(vec![world.scratch.join("source")]);
    backup(&open(at), options, &observer, &AtomicBool::new(false)).unwrap();
    let said = said.lock().unwrap();
    said.clone()
}

#[test]
fn a_snapshot_on_a_mirror_that_is_being_written_meets_no_damage() {
    let (world, _scratch, at) = before_the_merge_comes_over();
    world.snapshot_more(600);
    let taken = Mutex::new(0);
    let observer = |event: &Event<'_>| {
        let mut taken = taken.lock().unwrap();
        if matches!(event, Event::Published { .. } | Event::Done { .. }) && *taken < 12 {
            *taken += 1;
            assert_eq!(damage_met(&world, &at), [""; 0]);
        }
    };
    let to: Arc<dyn Backend> = Arc::new(LocalFolder::new(&at));
    mirror(&world.repository(), &to, &world.options(false), &observer, &AtomicBool::new(false)).unwrap();
    let taken = taken.into_inner().unwrap();
    assert!(taken > 4, "{taken}");
    let found = open(&at);
    assert_snapshots_complete(&found, found.snapshot_ids().unwrap().len());
    assert_eq!(damage_met(&world, &at), [""; 0]);
}
