//! The wrong place for a mirror: refused, and not a byte written.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use vault::backend::LocalFolder;
use vault::error::Error;
use vault::repository::{RecordOuter, Scope};

use super::world::{World, flip, names, open, publish_record};
use crate::support::manifest::Manifest;
use crate::support::mount::{FileSystem, Mount, run, unmount};
use crate::support::needs::needs;
use crate::support::repository;
use crate::support::scratch::Scratch;

/// Mirrors to a place that is refused, and shows that nothing changed there.
#[track_caller]
fn refused(world: &World, at: &Path, new: bool) -> Error {
    let parent = at.parent().unwrap();
    let (before, here) = (Manifest::of(parent), Manifest::of(&world.repository_path()));
    let error = world.mirror(at, &world.options(new)).expect_err("it was taken");
    assert_eq!(before.diff(&Manifest::of(parent)), [""; 0]);
    assert_eq!(here.diff(&Manifest::of(&world.repository_path())), [""; 0]);
    error
}

#[track_caller]
fn assert_missing(error: &Error) {
    assert!(matches!(error, Error::MediumMissing { .. }), "{error:?}");
}

#[test]
fn an_empty_missing_or_foreign_folder_is_a_missing_medium() {
    let (world, scratch) = (World::new(10), Scratch::new());
    scratch.dir("empty");
    scratch.dir("fresh/lost+found");
    scratch.dir("foreign/photos");
    fs::write(scratch.join("file"), "x").unwrap();
    for name in ["empty", "fresh", "foreign", "missing", "missing/deeper", "file"] {
        let at = scratch.join(name);
        if name == "missing/deeper" {
            assert_missing(&world.mirror(&at, &world.options(false)).unwrap_err());
            assert!(!scratch.join("missing").exists());
        } else {
            assert_missing(&refused(&world, &at, false));
        }
    }
    for name in ["foreign", "file"] {
        let error = refused(&world, &scratch.join(name), true);
        assert!(matches!(error, Error::NotEmpty { .. }), "{error:?}");
    }
    // A folder of packages is no rest of a repository.
    scratch.dir("packages/packs/rpm");
    fs::write(scratch.join("packages/packs/rpm/some.rpm"), "x").unwrap();
    assert!(matches!(refused(&world, &scratch.join("packages"), true), Error::NotEmpty { .. }));
    world.mirror(&scratch.join("fresh"), &world.options(true)).unwrap();
    world.assert_mirrored(&scratch.join("fresh"));
}

#[test]
fn an_unplugged_drive_is_a_missing_medium() {
    needs!("ext4");
    let (world, mut drive) = (World::new(10), Mount::new(FileSystem::Ext4, 16));
    let (at, below) = (drive.path(), drive.join("vault"));
    world.mirror(&at, &world.options(true)).unwrap();
    drive.unmount();
    for at in [&at, &below] {
        assert_missing(&world.mirror(at, &world.options(false)).unwrap_err());
    }
    assert!(fs::read_dir(&at).unwrap().next().is_none());
    drive.remount();
    world.snapshot_more(10);
    world.mirror(&at, &world.options(false)).unwrap();
    assert_eq!(names(&at, "snapshots/").len(), 2);
}

#[test]
fn a_copy_of_another_repository_is_refused() {
    let (world, scratch) = (World::new(10), Scratch::new());
    let at = scratch.join("other");
    let other = repository::init(&LocalFolder::new(&at)).unwrap();
    match refused(&world, &at, false) {
        Error::OtherRepository { expected, found } => {
            assert_eq!((expected, found), (world.repository().id(), other));
        }
        error => panic!("{error:?}"),
    }
    assert!(matches!(refused(&world, &at, true), Error::NotEmpty { .. }));
}

#[test]
fn a_mirror_is_no_part_of_the_repository_nor_the_repository_itself() {
    needs!("root", "mount", "umount", "cp");
    let (world, scratch) = (World::new(10), Scratch::new());
    let here = world.repository_path();
    symlink(&here, scratch.join("link")).unwrap();
    for at in [
        here.clone(),
        here.join("packs"),
        here.join("new/deep"),
        scratch.join("link"),
        scratch.join("link/new"),
        world.scratch.path().to_owned(),
        world.scratch.join("other/../repository"),
    ] {
        for new in [false, true] {
            let error = world.mirror(&at, &world.options(new)).unwrap_err();
            assert!(matches!(error, Error::Nested { .. }), "{}: {error:?}", at.display());
        }
    }
    // The same folder under another name, and the same copy in another folder.
    let bound = scratch.dir("bound");
    run(Command::new("mount").arg("--bind").args([&here, &bound]));
    let error = world.mirror(&bound.join("mirror"), &world.options(true));
    unmount(&bound);
    assert!(matches!(error, Err(Error::Nested { .. })), "{error:?}");
    assert!(!here.join("new").exists() && !here.join("mirror").exists());
    let copied = scratch.join("copied");
    run(Command::new("cp").arg("-a").args([&here, &copied]));
    assert_missing(&refused(&world, &copied, false));
    assert_missing(&refused(&world, &copied, true));
}

#[test]
fn a_mirror_that_does_not_say_which_copy_it_is_takes_a_new_one() {
    let (world, scratch) = (World::new(100), Scratch::new());
    let at = scratch.join("mirror");
    let made = world.mirror(&at, &world.options(true)).unwrap();
    flip(&at.join("copy"));
    assert_missing(&refused(&world, &at, false));
    let named = world.mirror(&at, &world.options(true)).unwrap();
    assert!(named.copy != made.copy && named.files_copied == 0);
    world.mirror(&at, &world.options(false)).unwrap();
    world.assert_mirrored(&at);
}

#[test]
fn a_mirror_with_an_unknown_feature_or_record_is_refused() {
    let (world, scratch) = (World::new(10), Scratch::new());
    let at = scratch.join("mirror");
    world.mirror(&at, &world.options(true)).unwrap();
    world.snapshot_more(10);
    for feature in ["read-later", "write-later"] {
        fs::write(at.join("features").join(feature), "").unwrap();
        let error = refused(&world, &at, false);
        assert!(matches!(error, Error::UnknownFeature { .. }), "{error:?}");
        fs::remove_file(at.join("features").join(feature)).unwrap();
    }
    fs::write(world.repository_path().join("features/write-later"), "").unwrap();
    assert!(matches!(refused(&world, &at, false), Error::UnknownFeature { .. }));
    fs::remove_file(world.repository_path().join("features/write-later")).unwrap();

    // A statement about the repository's own place does not concern the mirror; one about the mirror does.
    let statement =
        |copy| RecordOuter { kind: 99, must_understand: true, scope: Scope::Copy(copy), ids: Vec::new() };
    let here = world.repository();
    publish_record(&here, statement(here.copy().copy));
    world.mirror(&at, &world.options(false)).unwrap();
    publish_record(&here, statement(open(&at).copy().copy));
    let error = refused(&world, &at, false);
    assert!(matches!(error, Error::UnknownRecord { .. }), "{error:?}");
}

#[test]
fn unknown_names_are_said_and_left_where_they_are() {
    let (world, scratch) = (World::new(10), Scratch::new());
    let at = scratch.join("mirror");
    world.mirror(&at, &world.options(true)).unwrap();
    let here = world.repository_path();
    let upper = format!("snapshots/{}", "A".repeat(64));
    fs::write(here.join("notes.txt"), "x").unwrap();
    fs::write(here.join(&upper), "x").unwrap();
    fs::create_dir(at.join("packs/zz")).unwrap();
    fs::write(at.join("packs/0a/thing"), "x").unwrap();
    let summary = world.mirror(&at, &world.options(false)).unwrap();
    let mut found = summary.unknown_names;
    found.sort();
    let mut expected =
        vec![here.join("notes.txt"), here.join(&upper), at.join("packs/0a/thing"), at.join("packs/zz")];
    expected.sort();
    assert_eq!((found, summary.damaged.len()), (expected, 0));
    assert!(
        !at.join("notes.txt").exists() && !at.join(&upper).exists() && at.join("packs/0a/thing").exists()
    );
}
