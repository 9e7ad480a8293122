//! Nothing that was whole is less so after: cut off anywhere, on a full medium, while others are at work; the other copy is only read.

use std::collections::HashSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use vault::backend::Backend;
use vault::error::Error;
use vault::event::{Observer, Silent};
use vault::heal::{heal, repair};
use vault::repository::{Presence, Work};

use super::world::{World, backend, files, flip_at, names, open, sound};
use crate::mirror::medium::{Op, Watched};
use crate::support::repository;

fn copy_of(from: &Path, to: &Path) {
    let _ = fs::remove_dir_all(to);
    assert!(std::process::Command::new("cp").arg("-a").args([from, to]).status().unwrap().success());
}

/// Damages all kinds of files, one pack in the other copy too.
fn damaged_world() -> (World, std::path::PathBuf, std::path::PathBuf) {
    let world = World::saved();
    let (here, there) = (world.repo(), world.mirror("mirror"));
    let packs = names(&here, "packs/");
    flip_at(&here.join(&packs[0]), 400);
    // The tail is no frame: the file is not to be had, and its chunks are.
    let len = fs::metadata(there.join(&packs[0])).unwrap().len();
    flip_at(&there.join(&packs[0]), len - 10);
    flip_at(&here.join(&packs[1]), 400);
    fs::remove_file(here.join(&packs[2])).unwrap();
    flip_at(&here.join(&names(&here, "index/")[0]), 300);
    fs::remove_file(here.join(&names(&here, "index/")[1])).unwrap();
    fs::remove_file(here.join(&names(&here, "snapshots/")[0])).unwrap();
    (world, here, there)
}

fn silent() -> Arc<dyn Observer> {
    Arc::new(Silent)
}

/// A medium that fails for good after so many changes.
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
fn heal_3_a_run_that_is_cut_off_anywhere_leaves_nothing_worse_and_can_be_repeated() {
    let (world, here, there) = damaged_world();
    let whole = world.vault.join("whole");
    copy_of(&here, &whole);
    world.heal(&whole, &there, &[]);
    let expected = sound(&whole).len();
    let at = world.vault.join("cut");
    let mut points = 0;
    // Making folders that are there already is the same again and again.
    for changes in (0..275).step_by(90).chain((268..).step_by(3)) {
        copy_of(&here, &at);
        let before = sound(&at);
        let (medium, died) = dying_after(&at, changes);
        let run = repository::open(medium).and_then(|cut| {
            heal(&cut, &backend(&there), &world.options(), &silent(), &AtomicBool::new(false))
        });
        let after = sound(&at);
        // Segments are written anew, those of a plain repository under the same name.
        let is_kept = |name: &&String| name.starts_with("index/") || after.contains(*name);
        assert!(before.iter().all(|name| is_kept(&name)), "after {changes} changes");
        let snapshots =
            |names: &HashSet<String>| names.iter().filter(|name| name.starts_with("snapshots/")).count();
        assert!(snapshots(&after) >= snapshots(&before));
        if !died.load(Ordering::Relaxed) {
            run.unwrap();
            break;
        }
        assert!(run.is_err(), "after {changes} changes");
        points += 1;
        world.heal(&at, &there, &[]);
        assert!(sound(&at).len() >= expected.min(before.len() + 3), "after {changes} changes");
        world.assert_restores(&at, "latest");
    }
    assert!(points > 10, "{points}");
}

#[test]
fn heal_1_the_other_copy_is_only_read() {
    let (world, here, there) = damaged_world();
    let before = files(&there);
    let reading = Watched::new(&there, |op, name| {
        assert!(!op.is_change(), "{op:?} of {name}");
        Ok(())
    });
    let reading: Arc<dyn Backend> = reading;
    heal(&open(&here), &reading, &world.options(), &silent(), &AtomicBool::new(false)).unwrap();
    assert_eq!(files(&there), before);
    // Nothing of a session stays on either side.
    for copy in [&here, &there] {
        for folder in ["tmp", "sessions", "marks"] {
            assert_eq!(fs::read_dir(copy.join(folder)).unwrap().count(), 0, "{folder}");
        }
    }
}

#[test]
fn an_interruption_ends_it_and_a_dead_medium_is_no_damage() {
    let (world, here, there) = damaged_world();
    let stop = AtomicBool::new(true);
    let stopped = heal(&open(&here), &backend(&there), &world.options(), &silent(), &stop).unwrap_err();
    assert!(matches!(stopped, Error::Interrupted), "{stopped:?}");
    let stopped = repair(&open(&here), None, &world.options(), &silent(), &stop).unwrap_err();
    assert!(matches!(stopped, Error::Interrupted), "{stopped:?}");
    // A drive that is gone reads as errors of every file: none of them is replaced or recorded for that.
    let before = files(&here);
    let gone = Arc::new(AtomicBool::new(false));
    let flag = gone.clone();
    let medium = Watched::new(&here, move |op, name| {
        let is_read = op == Op::Open && !name.starts_with("records/");
        let is_gone = is_read && flag.load(Ordering::Relaxed);
        if is_gone { Err(std::io::Error::from_raw_os_error(libc::EIO)) } else { Ok(()) }
    });
    let repository = repository::open(medium).unwrap();
    gone.store(true, Ordering::Relaxed);
    let error = heal(&repository, &backend(&there), &world.options(), &silent(), &AtomicBool::new(false));
    error.unwrap_err();
    assert_eq!(files(&here), before);
}

#[test]
fn a_dry_run_changes_nothing_on_either_medium() {
    let (world, here, there) = damaged_world();
    let reading = |path: &Path| -> Arc<dyn Backend> {
        Watched::new(path, |op, name| {
            assert!(!op.is_change(), "{op:?} of {name}");
            Ok(())
        })
    };
    let mut options = world.options();
    options.dry_run = true;
    let repository = repository::open(reading(&here)).unwrap();
    let stop = AtomicBool::new(false);
    let healed = heal(&repository, &reading(&there), &options, &silent(), &stop).unwrap();
    assert!(healed.replaced.len() > 1 && healed.fetched.len() > 1 && healed.chunks_saved > 0, "{healed:?}");
    let repaired = repair(&repository, None, &options, &silent(), &stop).unwrap();
    assert!(repaired.files.chunks_lost > 0 && !repaired.remade.is_empty(), "{repaired:?}");
    assert!(repaired.remade.iter().all(|remade| remade.snapshot.is_none()));
}

#[test]
fn prune_3_no_pack_comes_back_under_the_name_of_one_that_is_being_deleted() {
    let world = World::saved();
    let (here, there) = (world.repo(), world.mirror("mirror"));
    let name = names(&here, "packs/").remove(0);
    let pack = vault::id::PackId::from_hex(name.rsplit('/').next().unwrap()).unwrap();
    let repository = open(&here);
    let mut pruning = Presence::announce(&repository, Work::Pruning).unwrap();
    pruning.condemn(&[pack], &[]).unwrap();
    fs::remove_file(here.join(&name)).unwrap();
    let stop = AtomicBool::new(false);
    let healed = heal(&open(&here), &backend(&there), &world.options(), &silent(), &stop).unwrap();
    assert!(healed.chunks_saved > 0 && healed.chunks_lost == 0, "{healed:?}");
    assert!(!here.join(&name).exists(), "it was published under a mark");
    drop(pruning);
    world.assert_whole(&here);
    world.assert_restores(&here, "latest");
}
