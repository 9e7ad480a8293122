//! Mirrors: on every kind of file system, cut off at every point, filled up, pulled out, and in the wrong place.

pub mod medium;
mod refusals;
mod world;

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use vault::backend::LocalFolder;
use vault::error::Error;
use vault::event::{Event, Silent};
use vault::mirror::{DamagedFile, MirrorOptions, Side, mirror};
use vault::session::Session;

use crate::support::mount::{FileSystem, Mount, run};
use crate::support::scratch::{Scratch, remove_tree};
use medium::{Op, Watched};
use world::{World, assert_snapshots_complete, files, flip, names, open};

/// Made, refreshed, unplugged, written to, looked into on its own: what happens to a drive.
fn life_of_a_mirror(kind: FileSystem, mb: u64) {
    let (world, mut drive) = (World::new(1500), Mount::new(kind, mb));
    let at = drive.join("backup");
    let made = world.mirror(&at, &world.options(true)).unwrap();
    world.assert_mirrored(&at);
    assert_eq!(made.files_copied as usize, files(&at).len() - 2, "all but config and config.2");
    assert_ne!(made.copy, world.repository().copy().copy);

    world.snapshot_more(600);
    if kind != FileSystem::Tmpfs {
        drive.remount();
    }
    let before = files(&at);
    let refreshed = world.mirror(&at, &world.options(false)).unwrap();
    world.assert_mirrored(&at);
    assert_eq!(refreshed.copy, made.copy);
    assert_eq!(refreshed.files_present, made.files_copied);
    assert_eq!(refreshed.files_copied as usize, files(&at).len() - before.len());
    assert!(refreshed.last_refreshed.is_some() && refreshed.older_than.is_none());

    // A snapshot straight into the mirror is nothing that a refresh minds.
    let own = world.snapshot_into(&open(&at), 300);
    let own_files = files(&at);
    world.snapshot_more(300);
    let refreshed = world.mirror(&at, &world.options(false)).unwrap();
    assert_eq!(refreshed.extra_snapshots, [own]);
    assert!(refreshed.extra_packs > 0 && refreshed.damaged.is_empty());
    let after = files(&at);
    assert!(own_files.iter().all(|(name, hash)| after.get(name) == Some(hash)));
    assert_snapshots_complete(&open(&at), 4);

    // Torn and rotten files are replaced, even where renaming over a file is emulated.
    let packs = names(&at, "packs/");
    fs::File::options().write(true).open(at.join(&packs[0])).unwrap().set_len(100).unwrap();
    flip(&at.join(&packs[1]));
    let options = MirrorOptions { verify: true, ..world.options(false) };
    let verified = world.mirror(&at, &options).unwrap();
    let extra = |name: &&String| !world.repository_path().join(name).exists();
    let damaged = packs[..2].iter().filter(extra).count();
    assert_eq!((verified.replaced.len(), verified.damaged.len()), (2 - damaged, damaged));
}

#[test]
fn a_mirror_lives_on_ext4() {
    life_of_a_mirror(FileSystem::Ext4, 64);
}

#[test]
fn a_mirror_lives_on_xfs() {
    life_of_a_mirror(FileSystem::Xfs, 300);
}

#[test]
fn a_mirror_lives_on_btrfs() {
    life_of_a_mirror(FileSystem::Btrfs, 128);
}

#[test]
fn a_mirror_lives_on_exfat() {
    life_of_a_mirror(FileSystem::Exfat, 64);
}

#[test]
fn a_mirror_lives_in_memory() {
    life_of_a_mirror(FileSystem::Tmpfs, 64);
}

/// A medium that fails for good at the change of this number, as a program that is killed there.
fn dying_after(path: &Path, changes: u64) -> (Arc<Watched>, Arc<AtomicBool>) {
    let (left, died) = (AtomicU64::new(changes), Arc::new(AtomicBool::new(false)));
    let flag = died.clone();
    let watched = Watched::new(path, move |op, _| {
        let dies = op.is_change()
            && left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_err();
        if dies {
            flag.store(true, Ordering::Relaxed);
        }
        let dead = flag.load(Ordering::Relaxed);
        if dead { Err(std::io::Error::from_raw_os_error(libc::EIO)) } else { Ok(()) }
    });
    (watched, died)
}

#[test]
fn dur_13_a_mirror_that_is_cut_off_anywhere_goes_on_and_shows_no_snapshot_that_lacks_anything() {
    let (world, memory) = (World::new(500), Mount::new(FileSystem::Tmpfs, 64));
    world.snapshot_more(20);
    let at = memory.join("mirror");
    let mut points = 0;
    // Making the folders of an empty repository is the same again and again.
    for changes in (0..5).chain((5..260).step_by(50)).chain(260..) {
        remove_tree(&at).unwrap();
        let (medium, died) = dying_after(&at, changes);
        let cut = world.mirror_to(medium, &world.options(true));
        if !died.load(Ordering::Relaxed) {
            cut.unwrap();
            break;
        }
        points += 1;
        cut.unwrap_err();
        let begun = at.join("config").exists();
        if begun {
            let found = open(&at);
            assert_snapshots_complete(&found, found.snapshot_ids().unwrap().len());
        }
        let written = files(&at).len();
        let resumed = world.mirror(&at, &world.options(!begun)).unwrap();
        let copied_before = written.saturating_sub(2) as u64;
        assert_eq!(resumed.files_present, copied_before, "after {changes} changes");
        world.assert_mirrored(&at);
    }
    assert!(points > 50, "{points}");
}

#[test]
fn a_refresh_that_is_cut_off_anywhere_goes_on_and_shows_no_snapshot_that_lacks_anything() {
    let (world, memory) = (World::new(300), Mount::new(FileSystem::Tmpfs, 64));
    let (at, before) = (memory.join("mirror"), memory.join("before"));
    world.mirror(&before, &world.options(true)).unwrap();
    world.snapshot_more(300);
    world.snapshot_more(20);
    for changes in 0.. {
        remove_tree(&at).unwrap();
        run(std::process::Command::new("cp").arg("-a").args([&before, &at]));
        let (medium, died) = dying_after(&at, changes);
        let cut = world.mirror_to(medium, &world.options(false));
        if !died.load(Ordering::Relaxed) {
            cut.unwrap();
            assert!(changes > 15, "{changes}");
            break;
        }
        cut.unwrap_err();
        let found = open(&at);
        assert_snapshots_complete(&found, found.snapshot_ids().unwrap().len());
        world.mirror(&at, &world.options(false)).unwrap();
        world.assert_mirrored(&at);
    }
}

#[test]
fn a_full_medium_is_said_and_filled_on_later() {
    let (world, drive) = (World::new(3000), Mount::new(FileSystem::Ext4, 16));
    let ballast = drive.join("ballast");
    let free = drive.free_bytes() - (2 << 20);
    fs::write(&ballast, vec![1; usize::try_from(free).unwrap()]).unwrap();
    let at = drive.join("mirror");
    let full = world.mirror(&at, &world.options(true)).unwrap_err();
    assert!(full.is_no_space(), "{full:?}");
    assert!(names(&at, "packs/").len() > 2 && names(&at, "snapshots/").is_empty());
    assert!(fs::read_dir(at.join("tmp")).unwrap().next().is_none(), "the unfinished file stays");
    let again = world.mirror(&at, &world.options(false)).unwrap_err();
    assert!(again.is_no_space(), "{again:?}");
    fs::remove_file(ballast).unwrap();
    let filled = world.mirror(&at, &world.options(false)).unwrap();
    assert!(filled.files_present > 2);
    world.assert_mirrored(&at);
}

/// Pulls the drive after some files were published; what is on it then must be right, and goes on.
fn pulled_out(kind: FileSystem, mb: u64) {
    let world = World::new(1500);
    world.snapshot_more(100);
    for (published, flush_log) in [(3, false), (6, true), (9, false), (12, false), (13, true)] {
        let mount = Arc::new(Mutex::new(Mount::new(kind, mb)));
        let at = mount.lock().unwrap().join("mirror");
        let (drive, count) = (mount.clone(), AtomicUsize::new(0));
        let medium = Watched::new(&at, move |op, _| {
            if op == Op::Publish && count.fetch_add(1, Ordering::Relaxed) == published {
                drive.lock().unwrap().shutdown(flush_log);
            }
            Ok(())
        });
        let error = world.mirror_to(medium, &world.options(true)).unwrap_err();
        assert!(matches!(error, Error::MediumMissing { .. }), "{error:?}");
        mount.lock().unwrap().remount();
        let found = open(&at);
        // The first three are `copy` and `config`; the one that was cut off may have come through.
        let there = files(&at).len() + 1;
        assert!((published..=published + 1).contains(&there), "{there} files after {published}");
        assert_snapshots_complete(&found, found.snapshot_ids().unwrap().len());
        world.mirror(&at, &world.options(false)).unwrap();
        world.assert_mirrored(&at);
    }
}

#[test]
fn an_ext4_drive_that_is_pulled_out_keeps_what_was_copied() {
    pulled_out(FileSystem::Ext4, 64);
}

#[test]
fn an_xfs_drive_that_is_pulled_out_keeps_what_was_copied() {
    pulled_out(FileSystem::Xfs, 300);
}

#[test]
fn a_refresh_with_nothing_new_writes_nothing_and_reads_no_pack() {
    let (world, scratch) = (World::new(600), Scratch::new());
    let at = scratch.join("mirror");
    world.mirror(&at, &world.options(true)).unwrap();
    let log = Arc::new(Mutex::new(Vec::new()));
    let record = |side: &'static str| {
        let log = log.clone();
        move |op: Op, name: &str| {
            log.lock().unwrap().push((side, op, name.to_owned()));
            Ok(())
        }
    };
    let from = Watched::new(&world.repository_path(), record("from"));
    let to = Watched::new(&at, record("to"));
    let repository = vault::repository::Repository::open(from).unwrap();
    let options = world.options(false);
    let summary = mirror(&repository, to, &options, &Silent, &AtomicBool::new(false)).unwrap();
    assert_eq!((summary.files_copied, summary.files_present), (0, names(&at, "").len() as u64 - 2));
    let log = log.lock().unwrap();
    let is_wrong = |(_, op, name): &&(&str, Op, String)| {
        op.is_change() || *op == Op::Open && (name.starts_with("packs") || name.starts_with("index"))
    };
    assert_eq!(log.iter().filter(is_wrong).collect::<Vec<_>>(), [&("", Op::List, String::new()); 0]);
    assert!(log.iter().any(|(side, op, name)| *side == "to" && *op == Op::List && name == "packs/ff"));
}

#[test]
fn dur_15_a_file_that_is_damaged_in_the_repository_is_named_and_neither_copied_nor_deleted() {
    let (world, scratch) = (World::new(900), Scratch::new());
    let at = scratch.join("mirror");
    world.mirror(&at, &world.options(true)).unwrap();
    let good = files(&at);
    // Of the packs there already, one loses its end and one a bit; of the new ones, one loses a bit.
    let packs = names(&at, "packs/");
    let here = world.repository_path();
    fs::File::options().write(true).open(here.join(&packs[0])).unwrap().set_len(1000).unwrap();
    flip(&here.join(&packs[1]));
    world.snapshot_more(600);
    let new: Vec<String> =
        names(&here, "packs/").into_iter().filter(|name| !good.contains_key(name)).collect();
    flip(&here.join(&new[0]));
    fs::remove_file(
        world.scratch.join("repository/snapshots").join(
            names(&here, "snapshots/")
                .iter()
                .find(|name| good.contains_key(*name))
                .unwrap()
                .strip_prefix("snapshots/")
                .unwrap(),
        ),
    )
    .unwrap();

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
    wrong.iter().for_each(|name| flip(&at.join(name)));
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

#[test]
fn packs_that_vanished_from_the_mirror_and_an_older_copy_in_its_place_are_noticed() {
    let (world, scratch) = (World::new(600), Scratch::new());
    let (at, older) = (scratch.join("mirror"), scratch.join("older"));
    world.mirror(&at, &world.options(true)).unwrap();
    run(std::process::Command::new("cp").arg("-a").args([&at, &older]));
    let newest = world.snapshot_more(300);
    let (summary, notices) = world.mirror_noting(&at, &world.options(false));
    assert_eq!((summary.older_than, notices), (None, vec![]));

    fs::remove_file(at.join(&names(&at, "packs/")[0])).unwrap();
    fs::remove_dir_all(at.join("records")).unwrap();
    let (summary, notices) = world.mirror_noting(&at, &world.options(false));
    assert_eq!((summary.files_copied, notices), (1, vec!["1 packs that were on the mirror are gone".into()]));
    world.assert_mirrored(&at);

    fs::rename(&at, scratch.join("newer")).unwrap();
    fs::rename(&older, &at).unwrap();
    let (summary, notices) = world.mirror_noting(&at, &world.options(false));
    assert_eq!(summary.older_than, Some(newest));
    assert!(notices.iter().any(|text| text.contains(&newest.to_string())), "{notices:?}");
    world.assert_mirrored(&at);
    let (summary, notices) = world.mirror_noting(&at, &world.options(false));
    assert_eq!((summary.older_than, notices), (None, vec![]));
}

#[test]
fn a_snapshot_that_is_published_meanwhile_is_left_for_the_next_time() {
    let (world, scratch) = (World::new(600), Scratch::new());
    let at = scratch.join("mirror");
    let taken = Mutex::new(None);
    let observer = |event: &Event<'_>| {
        let mut taken = taken.lock().unwrap();
        if matches!(event, Event::Published { .. }) && taken.is_none() {
            *taken = Some(world.snapshot_more(300));
        }
    };
    let to = Arc::new(LocalFolder::new(&at));
    mirror(&world.repository(), to, &world.options(true), &observer, &AtomicBool::new(false)).unwrap();
    let taken = taken.into_inner().unwrap().unwrap();
    assert!(!open(&at).snapshot_ids().unwrap().contains(&taken));
    assert_snapshots_complete(&open(&at), 1);
    world.mirror(&at, &world.options(false)).unwrap();
    world.assert_mirrored(&at);
}

#[test]
fn dur_14_a_medium_that_gives_back_other_bytes_gets_no_file() {
    let (world, scratch) = (World::new(300), Scratch::new());
    let at = scratch.join("mirror");
    world.mirror(&at, &world.options(true)).unwrap();
    world.snapshot_more(300);
    let before = files(&at);
    let medium = Watched::new(&at, |_, _| Ok(()));
    let lies = medium.clone();
    let observer = move |event: &Event<'_>| {
        if matches!(event, Event::Phase("copying")) {
            lies.lies.store(true, Ordering::Relaxed);
        }
    };
    let stop = AtomicBool::new(false);
    let error = mirror(&world.repository(), medium, &world.options(false), &observer, &stop).unwrap_err();
    let said = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
    assert!(format!("{error} {said}").contains("gave back other bytes"), "{error:?}");
    assert_eq!(files(&at), before);
}

#[test]
fn an_interruption_keeps_what_was_copied() {
    let (world, scratch) = (World::new(900), Scratch::new());
    let (at, stop) = (scratch.join("mirror"), AtomicBool::new(false));
    let published = AtomicUsize::new(0);
    let observer = |event: &Event<'_>| {
        if matches!(event, Event::Published { .. }) && published.fetch_add(1, Ordering::Relaxed) == 1 {
            stop.store(true, Ordering::Relaxed);
        }
    };
    let to = Arc::new(LocalFolder::new(&at));
    let stopped = mirror(&world.repository(), to, &world.options(true), &observer, &stop);
    assert!(matches!(stopped, Err(Error::Interrupted)), "{stopped:?}");
    assert!(fs::read_dir(at.join("tmp")).unwrap().next().is_none());
    let resumed = world.mirror(&at, &world.options(true)).unwrap();
    assert_eq!(resumed.files_present, 2);
    world.assert_mirrored(&at);
}

#[test]
fn a_damaged_config_of_the_mirror_is_put_right_and_what_dead_sessions_left_is_removed() {
    let (world, scratch) = (World::new(100), Scratch::new());
    let at = scratch.join("mirror");
    world.mirror(&at, &world.options(true)).unwrap();
    flip(&at.join("config"));
    fs::remove_file(at.join("config.2")).unwrap();
    // The same session but for its process: there is none of that number.
    let living = Session::begin().temporary();
    let dead = living.replace(&format!("-{}-", std::process::id()), "-4294967290-");
    fs::write(at.join(&living), "x").unwrap();
    fs::write(at.join(&dead), "x").unwrap();
    fs::write(at.join("tmp/of-someone-else"), "x").unwrap();
    world.mirror(&at, &world.options(false)).unwrap();
    world.assert_mirrored(&at);
    assert!(at.join(living).exists() && at.join("tmp/of-someone-else").exists() && !at.join(dead).exists());
}
