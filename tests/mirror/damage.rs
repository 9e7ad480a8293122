//! Damage on either side: named, never spread, never a reason to delete.

use std::fs;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use vault::backend::{Backend, LocalFolder};
use vault::error::Result;
use vault::event::Silent;
use vault::id::PackId;
use vault::mirror::{DamagedFile, MirrorOptions, MirrorSummary, Side, mirror};
use vault::repository::{RecordOuter, Scope, record_kind};

use super::medium::{Op, Watched};
use super::world::{World, assert_snapshots_complete, files, flip, names, open, publish_record};
use crate::support::repository;
use crate::support::scratch::Scratch;

#[test]
fn dur_15_a_file_that_is_damaged_in_the_repository_is_named_and_neither_copied_nor_deleted() {
    let (world, scratch) = (World::new(900), Scratch::new());
    let at = scratch.join("mirror");
    world.mirror(&at, &world.options(true)).unwrap();
    let good = files(&at);
    // Before anything is damaged: a snapshot stores again what it misses, and so may mend a pack.
    world.snapshot_more(600);
    let here = world.repository_path();
    // Of the packs there already, one loses its end and one a bit; of the new ones, one loses a bit.
    let packs = names(&at, "packs/");
    fs::File::options().write(true).open(here.join(&packs[0])).unwrap().set_len(1000).unwrap();
    flip(&here.join(&packs[1]));
    let new: Vec<String> =
        names(&here, "packs/").into_iter().filter(|name| !good.contains_key(name)).collect();
    flip(&here.join(&new[0]));

    let summary = world.mirror(&at, &world.options(false)).unwrap();
    let damaged = |file: &String, whole_on_other_side| DamagedFile {
        file: file.clone(),
        side: Side::Repository,
        whole_on_other_side,
    };
    let mut expected = vec![damaged(&packs[0], true), damaged(&new[0], false)];
    expected.sort_by_key(|damaged| damaged.file.clone());
    assert_eq!(summary.damaged, expected);
    let after = files(&at);
    assert!(good.iter().all(|(name, hash)| after.get(name) == Some(hash)), "what was good is still there");
    assert!(!after.contains_key(&new[0]));
    assert!(new[1..].iter().all(|name| after.contains_key(name)), "what is whole is copied");
    // What does not need that pack comes back: the newer snapshot is there.
    assert_eq!(names(&at, "snapshots/").len(), 2);
    assert!(fs::read_dir(at.join("tmp")).unwrap().next().is_none());

    // Mended in the repository, it is copied.
    flip(&here.join(&new[0]));
    fs::copy(at.join(&packs[0]), here.join(&packs[0])).unwrap();
    let mended = world.mirror(&at, &world.options(false)).unwrap();
    assert_eq!((mended.files_copied, mended.damaged.len()), (1, 0));
    assert_snapshots_complete(&open(&at), 2);
}

#[test]
fn only_verifying_finds_wrong_bytes_of_the_right_length_on_the_mirror() {
    let (world, scratch) = (World::new(600), Scratch::new());
    let at = scratch.join("mirror");
    world.mirror(&at, &world.options(true)).unwrap();
    let wrong: Vec<String> =
        ["packs/", "index/", "snapshots/"].map(|folder| names(&at, folder).remove(0)).into();
    for name in &wrong {
        flip(&at.join(name));
    }
    let plain = world.mirror(&at, &world.options(false)).unwrap();
    assert_eq!((plain.files_copied, plain.damaged.len()), (0, 0));
    let options = MirrorOptions { verify: true, ..world.options(false) };
    let verified = world.mirror(&at, &options).unwrap();
    assert_eq!((verified.replaced, verified.damaged), (wrong.clone(), vec![]));
    world.assert_mirrored(&at);

    // Damaged on both sides: named, and kept for whoever can mend it.
    flip(&at.join(&wrong[0]));
    flip(&world.repository_path().join(&wrong[0]));
    let both = world.mirror(&at, &options).unwrap();
    let file = DamagedFile { file: wrong[0].clone(), side: Side::Repository, whole_on_other_side: false };
    assert_eq!(both.damaged, [file]);
    assert!(at.join(&wrong[0]).exists());
}

/// Mirrors to a new place from a medium on which opening some files fails.
fn mirror_from(
    world: &World,
    to: &Scratch,
    opens: impl Fn(&str) -> io::Result<()> + Send + Sync + 'static,
) -> Result<MirrorSummary> {
    let from = Watched::new(&world.repository_path(), move |op, name| match op {
        Op::Open => opens(name),
        _ => Ok(()),
    });
    let to: Arc<dyn Backend> = Arc::new(LocalFolder::new(to.join("mirror")));
    let repository = repository::open(from).unwrap();
    mirror(&repository, &to, &world.options(true), &Silent, &AtomicBool::new(false))
}

#[test]
fn a_bad_sector_costs_one_file_and_a_dead_medium_ends_the_run() {
    let (world, scratch) = (World::new(2500), Scratch::new());
    let bad = names(&world.repository_path(), "packs/").remove(1);
    let (unreadable, io_error) = (bad.clone(), || io::Error::from_raw_os_error(libc::EIO));
    let opens = move |name: &str| if name == unreadable { Err(io_error()) } else { Ok(()) };
    let summary = mirror_from(&world, &scratch, opens).unwrap();
    assert_eq!(summary.damaged.iter().map(|damaged| &damaged.file).collect::<Vec<_>>(), [&bad]);
    let at = scratch.join("mirror");
    assert_eq!(files(&at).len() + 1, files(&world.repository_path()).len());

    let (scratch, opened) = (Scratch::new(), AtomicUsize::new(0));
    let dies = move |name: &str| {
        let dead = name.starts_with("packs/") && opened.fetch_add(1, Ordering::Relaxed) > 0;
        if dead || opened.load(Ordering::Relaxed) > 1 { Err(io_error()) } else { Ok(()) }
    };
    let error = mirror_from(&world, &scratch, dies).unwrap_err();
    assert!(!error.is_damage(), "{error:?}");
    let at = scratch.join("mirror");
    assert_eq!((names(&at, "packs/").len(), names(&at, "snapshots/").len()), (1, 0));
}

#[test]
fn a_segment_that_was_merged_meanwhile_is_no_damage_and_a_pack_that_vanished_is() {
    let world = World::new(500);
    let packs = names(&world.repository_path(), "packs/").len();
    for (folder, damaged) in [("index/", 0), ("packs/", packs)] {
        let scratch = Scratch::new();
        let opens = move |name: &str| {
            if name.starts_with(folder) { Err(io::ErrorKind::NotFound.into()) } else { Ok(()) }
        };
        let summary = mirror_from(&world, &scratch, opens).unwrap();
        assert_eq!(summary.damaged.len(), damaged);
        let at = scratch.join("mirror");
        assert_eq!((names(&at, folder).len(), names(&at, "snapshots/").len()), (0, 1));
        if damaged == 0 {
            assert_snapshots_complete(&open(&at), 1);
        }
    }
}

#[test]
fn a_pack_that_a_record_calls_damaged_on_the_mirror_is_looked_at_and_replaced() {
    let (world, scratch) = (World::new(500), Scratch::new());
    let at = scratch.join("mirror");
    let copy = world.mirror(&at, &world.options(true)).unwrap().copy;
    let packs = names(&at, "packs/");
    for name in &packs {
        flip(&at.join(name));
    }
    let id = PackId::from_hex(&packs[0][9..]).unwrap();
    let kind = record_kind::PACK_DAMAGED;
    let outer =
        RecordOuter { kind, must_understand: false, scope: Scope::Copy(copy), ids: vec![*id.as_bytes()] };
    publish_record(&open(&at), outer);
    let summary = world.mirror(&at, &world.options(false)).unwrap();
    assert_eq!(summary.replaced, packs[..1]);
}

#[test]
fn copy_1_a_mirror_that_lost_its_copy_keeps_what_was_recorded_of_it() {
    let (world, scratch) = (World::new(500), Scratch::new());
    let at = scratch.join("mirror");
    let copy = world.mirror(&at, &world.options(true)).unwrap().copy;
    let pack = names(&at, "packs/").remove(0);
    flip(&at.join(&pack));
    let ids = vec![*PackId::from_hex(&pack[9..]).unwrap().as_bytes()];
    let (kind, scope) = (record_kind::PACK_DAMAGED, Scope::Copy(copy));
    publish_record(&open(&at), RecordOuter { kind, must_understand: true, scope, ids });
    fs::remove_file(at.join("copy")).unwrap();
    assert!(world.mirror(&at, &world.options(false)).is_err());
    let options = MirrorOptions { name: "stick".into(), ..world.options(true) };
    let summary = world.mirror(&at, &options).unwrap();
    assert!(summary.copy != copy && summary.name == "stick");
    assert_eq!(summary.replaced, [pack], "not looked at under the new id");
    let mirror = open(&at);
    assert!(mirror.problems().is_empty() && mirror.copy().copy == summary.copy);
}
