//! Mirrors: on every kind of file system, cut off at every point, filled up, pulled out, and in the wrong place.

mod damage;
pub mod medium;
mod refusals;
mod spare;
mod world;

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use vault::backend::{Backend, LocalFolder};
use vault::error::Error;
use vault::event::{Event, Silent};
use vault::mirror::{MirrorOptions, mirror};
use vault::session::Session;

use crate::support::mount::{FileSystem, Mount, run};
use crate::support::needs::needs;
use crate::support::repository;
use crate::support::scratch::{Scratch, remove_tree};
use medium::{Op, Watched};
use world::{World, assert_begun_is_whole, assert_snapshots_complete, count, files, flip, names, open};

/// Made, refreshed, unplugged, written to, looked into on its own: what happens to a drive.
fn life_of_a_mirror(kind: FileSystem, mb: u64) {
    let (world, mut drive) = (World::new(1500), Mount::new(kind, mb));
    let at = drive.join("backup");
    let made = world.mirror(&at, &world.options(true)).unwrap();
    world.assert_mirrored(&at);
    assert_eq!(made.files_copied, count(&at) - 2, "all but config and config.2");
    assert_ne!(made.copy, world.repository().copy().copy);

    world.snapshot_more(600);
    if kind != FileSystem::Tmpfs {
        drive.remount();
    }
    let before = count(&at);
    let refreshed = world.mirror(&at, &world.options(false)).unwrap();
    world.assert_mirrored(&at);
    assert_eq!(refreshed.copy, made.copy);
    assert_eq!(refreshed.files_present, made.files_copied);
    assert_eq!(refreshed.files_copied, count(&at) - before);
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
    needs!("ext4");
    life_of_a_mirror(FileSystem::Ext4, 64);
}

#[test]
fn a_mirror_lives_on_xfs() {
    needs!("xfs");
    life_of_a_mirror(FileSystem::Xfs, 300);
}

#[test]
fn a_mirror_lives_on_btrfs() {
    needs!("btrfs");
    life_of_a_mirror(FileSystem::Btrfs, 128);
}

#[test]
fn a_mirror_lives_on_fat32() {
    needs!("fat32");
    life_of_a_mirror(FileSystem::Fat32, 64);
}

#[test]
fn a_mirror_lives_on_exfat() {
    needs!("exfat");
    life_of_a_mirror(FileSystem::Exfat, 64);
}

#[test]
fn a_mirror_lives_in_memory() {
    needs!("tmpfs");
    life_of_a_mirror(FileSystem::Tmpfs, 64);
}

/// A medium that fails for good at the change of this number, as a program that is killed there.
fn dying_after(path: &Path, changes: u64) -> (Arc<dyn Backend>, Arc<AtomicBool>) {
    let (left, died) = (AtomicU64::new(changes), Arc::new(AtomicBool::new(false)));
    let flag = died.clone();
    let watched = Watched::new(path, move |op, name| {
        // A notice that is taken back at the end is no part of the run.
        let is_over = op == Op::Remove && name.starts_with("sessions/");
        let is_fatal = op.is_change()
            && !is_over
            && left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_err();
        if is_fatal {
            flag.store(true, Ordering::Relaxed);
        }
        let dead = flag.load(Ordering::Relaxed);
        if dead { Err(std::io::Error::from_raw_os_error(libc::EIO)) } else { Ok(()) }
    });
    (watched, died)
}

#[test]
fn dur_13_a_mirror_that_is_cut_off_anywhere_goes_on_and_shows_no_snapshot_that_lacks_anything() {
    needs!("tmpfs");
    let (world, memory) = (World::new(500), Mount::new(FileSystem::Tmpfs, 64));
    world.snapshot_more(20);
    let at = memory.join("mirror");
    let mut points = 0;
    // Making the folders of an empty repository is the same again and again.
    for changes in (0..5).chain((5..260).step_by(50)).chain(260..) {
        remove_tree(&at).unwrap();
        let (medium, died) = dying_after(&at, changes);
        let cut = world.mirror_to(&medium, &world.options(true));
        if !died.load(Ordering::Relaxed) {
            cut.unwrap();
            break;
        }
        points += 1;
        cut.unwrap_err();
        let begun = at.join("config").exists();
        if begun {
            assert_begun_is_whole(&at);
        }
        let written = if at.exists() { count(&at) } else { 0 };
        let resumed = world.mirror(&at, &world.options(!begun)).unwrap();
        let copied_before = written.saturating_sub(2);
        assert_eq!(resumed.files_present, copied_before, "after {changes} changes");
        world.assert_mirrored(&at);
    }
    assert!(points > 50, "{points}");
}

#[test]
fn a_refresh_that_is_cut_off_anywhere_goes_on_and_shows_no_snapshot_that_lacks_anything() {
    needs!("tmpfs", "cp");
    let (world, memory) = (World::new(300), Mount::new(FileSystem::Tmpfs, 64));
    let (at, before) = (memory.join("mirror"), memory.join("before"));
    world.mirror(&before, &world.options(true)).unwrap();
    world.snapshot_more(300);
    world.snapshot_more(20);
    for changes in 0.. {
        remove_tree(&at).unwrap();
        run(std::process::Command::new("cp").arg("-a").args([&before, &at]));
        let (medium, died) = dying_after(&at, changes);
        let cut = world.mirror_to(&medium, &world.options(false));
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
    needs!("ext4");
    let (world, drive) = (World::new(8000), Mount::new(FileSystem::Ext4, 32));
    let ballast = drive.join("ballast");
    let free = drive.free_bytes() - (5 << 20);
    fs::write(&ballast, vec![1; usize::try_from(free).unwrap()]).unwrap();
    let at = drive.join("mirror");
    let full = world.mirror(&at, &world.options(true)).unwrap_err();
    assert!(full.is_no_space(), "{full:?}");
    assert!(!names(&at, "packs/").is_empty());
    assert_eq!(names(&at, "snapshots/"), [""; 0]);
    assert!(fs::read_dir(at.join("tmp")).unwrap().next().is_none(), "the unfinished file stays");
    let again = world.mirror(&at, &world.options(false)).unwrap_err();
    assert!(again.is_no_space(), "{again:?}");
    fs::remove_file(ballast).unwrap();
    let filled = world.mirror(&at, &world.options(false)).unwrap();
    assert!(filled.files_present > 0);
    world.assert_mirrored(&at);
}

/// Pulls the drive after some files were published; what is on it then must be right, and goes on.
fn pulled_out(kind: FileSystem, mb: u64) {
    let world = World::new(1500);
    world.snapshot_more(100);
    for (published, flush_log) in [(3, false), (6, true), (8, true), (10, false), (11, false)] {
        let mount = Arc::new(Mutex::new(Mount::new(kind, mb)));
        let at = mount.lock().unwrap().join("mirror");
        let (drive, count) = (mount.clone(), AtomicUsize::new(0));
        let medium: Arc<dyn Backend> = Watched::new(&at, move |op, name| {
            let is_copied = op == Op::Publish && !name.starts_with("sessions/") && name != "reserve";
            if is_copied && count.fetch_add(1, Ordering::Relaxed) == published {
                drive.lock().unwrap().shutdown(flush_log);
            }
            Ok(())
        });
        let error = world.mirror_to(&medium, &world.options(true)).unwrap_err();
        assert!(matches!(error, Error::MediumMissing { .. }), "{error:?}");
        mount.lock().unwrap().remount();
        // The first three are `copy` and `config`; the one that was cut off may have come through.
        let there = files(&at).len() + 1;
        assert!((published..=published + 1).contains(&there), "{there} files after {published}");
        assert_begun_is_whole(&at);
        world.mirror(&at, &world.options(false)).unwrap();
        world.assert_mirrored(&at);
    }
}

#[test]
fn an_ext4_drive_that_is_pulled_out_keeps_what_was_copied() {
    needs!("ext4", "xfs_io");
    pulled_out(FileSystem::Ext4, 64);
}

#[test]
fn an_xfs_drive_that_is_pulled_out_keeps_what_was_copied() {
    needs!("xfs", "xfs_io");
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
    let to: Arc<dyn Backend> = Watched::new(&at, record("to"));
    let repository = repository::open(from).unwrap();
    let options = world.options(false);
    let summary = mirror(&repository, &to, &options, &Silent, &AtomicBool::new(false)).unwrap();
    assert_eq!((summary.files_copied, summary.files_present), (0, count(&at) - 2));
    let log = log.lock().unwrap();
    // The headers of the repository's segments tell which packs there should be.
    let is_wrong = |(side, op, name): &&(&str, Op, String)| {
        let is_read = name.starts_with("packs") || name.starts_with("index") && *side == "to";
        op.is_change() || *op == Op::Open && is_read
    };
    assert_eq!(log.iter().find(is_wrong), None);
    assert!(log.iter().any(|(side, op, name)| *side == "to" && *op == Op::List && name == "packs/ff"));
}

#[test]
fn packs_that_vanished_from_the_mirror_and_an_older_copy_in_its_place_are_noticed() {
    needs!("cp");
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
    assert_eq!(
        (summary.files_copied, notices),
        (1, vec!["packs that were on the mirror and are gone: 1".into()])
    );
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
    let to: Arc<dyn Backend> = Arc::new(LocalFolder::new(&at));
    mirror(&world.repository(), &to, &world.options(true), &observer, &AtomicBool::new(false)).unwrap();
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
    let (lies, medium): (_, Arc<dyn Backend>) = (medium.clone(), medium);
    let observer = move |event: &Event<'_>| {
        if matches!(event, Event::Phase("copying")) {
            lies.lies.store(true, Ordering::Relaxed);
        }
    };
    let stop = AtomicBool::new(false);
    let error = mirror(&world.repository(), &medium, &world.options(false), &observer, &stop).unwrap_err();
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
    let to: Arc<dyn Backend> = Arc::new(LocalFolder::new(&at));
    let stopped = mirror(&world.repository(), &to, &world.options(true), &observer, &stop);
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
