//! `spec/durability.md`, rule by rule: what is written in which order, what a failure at any point leaves, and what an
//! unchanged source costs. The medium is watched, the program traced; no clock decides anything.

mod order;
mod place;
mod segments;
mod traced;

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use vault::backend::LocalFolder;
use vault::check::{CheckOptions, check};
use vault::event::Silent;
use vault::repository::InitOptions;

use crate::mirror::medium::{Op, Watched};
use crate::support::repository::{self, is_encrypted};
use crate::support::torture::Random;
use crate::support::vault::Vault;
use place::{Place, assert_whole};

/// Runs one snapshot whose medium refuses the change of number `at`, for good (a kill, a pulled drive) or once (a bad sector).
/// Whether it came that far.
fn fails_at(place: &Place, at: usize, for_good: bool) -> bool {
    let (changes, failed) = (AtomicUsize::new(0), Arc::new(AtomicBool::new(false)));
    let published_after = Arc::new(AtomicBool::new(false));
    let (flag, after) = (failed.clone(), published_after.clone());
    let watched = Watched::new(&place.repository(), move |op, name| {
        // An empty name is a temporary file being dropped: no part of the run, but nothing that a dead medium does.
        // Nor is a notice that is taken back at the end.
        let is_over = op == Op::Remove && (name.is_empty() || name.starts_with("sessions/"));
        if !op.is_change() || is_over {
            let dead = op.is_change() && for_good && flag.load(Ordering::Relaxed);
            return if dead { Err(io::Error::from_raw_os_error(libc::EIO)) } else { Ok(()) };
        }
        if op == Op::Publish && flag.load(Ordering::Relaxed) {
            after.store(true, Ordering::Relaxed);
        }
        let here = changes.fetch_add(1, Ordering::Relaxed);
        if here == at || for_good && here > at {
            flag.store(true, Ordering::Relaxed);
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        Ok(())
    });
    let result = place.snapshot_on(watched);
    let came = failed.load(Ordering::Relaxed);
    assert_eq!(result.is_err(), came, "change {at}: {result:?}");
    assert!(for_good || !published_after.load(Ordering::Relaxed), "change {at}: published after a failure");
    came
}

fn a_failure_at_every_change(for_good: bool) {
    let mut at = 0;
    loop {
        let place = Place::new();
        place.fill("kept", 1, 3);
        place.snapshot().unwrap();
        place.fill("new", 100, 60);
        let before = place.snapshots();
        let came = fails_at(&place, at, for_good);
        // The failed run is over: its snapshot is there if, and only if, its name was.
        assert_whole(&place);
        let packs = place.packs();
        let summary = place.snapshot().unwrap();
        assert_eq!(summary.errors, 0);
        assert!(place.snapshots().len() > before.len());
        assert_whole(&place);
        place.assert_each_chunk_is_stored_once();
        assert!(packs.is_subset(&place.packs()), "change {at}: a pack was thrown away");
        if !came {
            break;
        }
        at += 1;
    }
    assert!(at > 10, "only {at} changes were refused");
}

#[test]
fn dur_3_dur_6_dur_11_a_medium_that_dies_at_any_change_costs_the_run_and_nothing_else() {
    a_failure_at_every_change(true);
}

#[test]
fn dur_3_nothing_is_published_after_a_failed_sync_and_what_was_is_used_again() {
    a_failure_at_every_change(false);
}

#[test]
fn dur_7_an_init_that_fails_at_any_change_can_be_done_again() {
    // Most changes are the folders of packs, all alike.
    for at in (0..10).chain(250..) {
        let place = Place::empty();
        let changes = AtomicUsize::new(0);
        let refusing = Watched::new(&place.repository(), move |op, _| {
            let dies = op.is_change() && changes.fetch_add(1, Ordering::Relaxed) >= at;
            if dies { Err(io::Error::from_raw_os_error(libc::EIO)) } else { Ok(()) }
        });
        let options = InitOptions { name: "first".into(), ..InitOptions::default() };
        let done = repository::init_with(&*refusing, options).is_ok();
        if done {
            assert!(at > 256, "the folders alone are more");
            assert_eq!(place.open().copy().name, "first");
            break;
        }
        let plain = LocalFolder::new(place.repository());
        let opened = repository::open(Arc::new(LocalFolder::new(place.repository())));
        if place.repository().join("config.2").exists() {
            assert!(opened.is_ok_and(|repository| repository.problems().len() == 1), "change {at}");
        } else {
            assert!(opened.is_err(), "change {at}");
            repository::init(&plain).unwrap();
            assert!(place.open().problems().is_empty(), "change {at}");
        }
    }
}

#[test]
fn dur_2_dur_11_a_torn_pack_that_no_segment_names_is_not_believed_and_is_replaced() {
    let place = Place::new();
    place.fill("file", 1, 2);
    let first = place.snapshot().unwrap();
    for file in place.files("index") {
        fs::remove_file(file).unwrap();
    }
    for file in place.files("snapshots") {
        fs::remove_file(file).unwrap();
    }
    // The crash came between rename and the sync of the folder: the length is right and the bytes are not.
    let packs = place.files("packs");
    for pack in &packs {
        let mut bytes = fs::read(pack).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(pack, bytes).unwrap();
    }
    let second = place.snapshot().unwrap();
    let added =
        |summary: &vault::backup::BackupSummary| summary.counter(vault::snapshot::counter::CHUNKS_ADDED);
    assert_eq!(added(&first), added(&second), "the torn packs were believed");
    if !is_encrypted() {
        assert_whole(&place);
        return;
    }
    // A seal never comes out twice alike: the torn packs stay beside the new ones, and nothing needs them.
    let named = place.damages();
    assert!(packs.iter().all(|pack| named.iter().any(|(object, _)| pack.ends_with(object))), "{named:?}");
    assert!(named.len() == packs.len() && named.iter().all(|(_, costs)| *costs == 0), "{named:?}");
    for pack in &packs {
        fs::remove_file(pack).unwrap();
    }
    assert_whole(&place);
}

#[test]
fn dur_11_whole_packs_that_no_segment_names_are_adopted_and_synced_before_they_are_named() {
    let place = Place::new();
    place.fill("file", 1, 4);
    place.snapshot().unwrap();
    for file in place.files("index").into_iter().chain(place.files("snapshots")) {
        fs::remove_file(file).unwrap();
    }
    let packs = place.packs();
    let (watched, log) = place.recorded();
    let summary = place.snapshot_on(watched).unwrap();
    assert_eq!(summary.counter(vault::snapshot::counter::CHUNKS_ADDED), 0);
    let log = log.lock().unwrap();
    let at =
        |op: Op, folder: &str| log.iter().position(|(found, name)| *found == op && name.starts_with(folder));
    let synced: HashSet<&str> = log
        .iter()
        .filter(|(op, _)| *op == Op::Sync)
        .map(|(_, name)| name.rsplit('/').next().unwrap())
        .collect();
    assert_eq!(synced, packs.iter().map(String::as_str).collect());
    assert!(at(Op::Publish, "packs").is_none());
    let last_sync = log.iter().rposition(|(op, _)| *op == Op::Sync);
    assert!(last_sync < at(Op::Publish, "index") && at(Op::Publish, "index") < at(Op::Publish, "snapshots"));
    drop(log);
    assert_whole(&place);
}

#[test]
fn dur_1_only_temporary_files_of_ended_sessions_of_this_host_are_removed() {
    let place = Place::new();
    let own = vault::session::Session::begin().temporary();
    let parts: Vec<&str> = own.strip_prefix("tmp/").unwrap().split('-').collect();
    let [host, boot, pid, start, ..] = parts[..] else { panic!("{own}") };
    let dead = u32::MAX;
    let left = [
        (format!("{host}-{boot}-{pid}-{start}-00000000-7"), true, "this process"),
        (format!("{host}-{boot}-{dead}-{start}-00000000-0"), false, "no such process"),
        (format!("{host}-{boot}-{pid}-1{start}-00000000-0"), false, "another process of that number"),
        (format!("{host}-00000000-{pid}-{start}-00000000-0"), false, "before the last boot"),
        (format!("00000000-{boot}-{dead}-{start}-00000000-0"), true, "another host"),
        ("notes.txt".to_owned(), true, "no temporary file of the format"),
    ];
    for (name, ..) in &left {
        fs::write(place.repository().join("tmp").join(name), "x").unwrap();
    }
    place.fill("file", 1, 1);
    place.snapshot().unwrap();
    for (name, stays, what) in &left {
        assert_eq!(place.repository().join("tmp").join(name).exists(), *stays, "{what}");
    }
}

#[test]
fn dur_8_many_small_segments_become_their_union_which_is_verified_before_they_go() {
    let place = Place::new();
    let mut merged = false;
    for round in 0..40 {
        place.fill("file", 1000 + round * 10, 1);
        let before: HashSet<_> = place.files("index").into_iter().collect();
        let (watched, log) = place.recorded();
        place.snapshot_on(watched).unwrap();
        let log = log.lock().unwrap();
        let index = |op: Op| {
            log.iter()
                .enumerate()
                .filter(move |(_, (found, name))| *found == op && name.starts_with("index/"))
        };
        let removed: Vec<usize> = index(Op::Remove).map(|(at, _)| at).collect();
        assert_eq!(removed.is_empty(), before.len() < 32, "{} segments before", before.len());
        if let Some(first_removed) = removed.first() {
            let (published, (_, union)) = index(Op::Publish).next_back().unwrap();
            let read_back = index(Op::Open).filter(|(_, (_, name))| name == union).map(|(at, _)| at).next();
            assert!(published < read_back.unwrap() && read_back.unwrap() < *first_removed);
            let acknowledged =
                log.iter().position(|(op, name)| *op == Op::Publish && name.starts_with("snapshots"));
            assert!(acknowledged.unwrap() < published, "the user does not wait for a merge");
            assert_eq!(removed.len(), before.len() + 1);
            assert_eq!(place.files("index").len(), 1);
            merged = true;
            break;
        }
    }
    assert!(merged);
    assert_whole(&place);
    place.assert_each_chunk_is_stored_once();
}

#[test]
fn dur_8_a_union_that_cannot_be_read_back_removes_nothing() {
    let place = Place::new();
    for round in 0..32 {
        place.fill("file", 1000 + round * 10, 1);
        place.snapshot().unwrap();
    }
    place.fill("file", 9000, 1);
    let published = Arc::new(AtomicUsize::new(0));
    let counted = published.clone();
    let watched = Watched::new(&place.repository(), move |op, name| {
        if op == Op::Publish && name.starts_with("index/") {
            counted.fetch_add(1, Ordering::Relaxed);
        }
        // The union is the second segment of this run.
        let refused = op == Op::Open && name.starts_with("index/") && counted.load(Ordering::Relaxed) == 2;
        assert!(op != Op::Remove || !name.starts_with("index/"), "{name} is removed");
        if refused { Err(io::Error::from_raw_os_error(libc::EIO)) } else { Ok(()) }
    });
    place.snapshot_on(watched).unwrap();
    assert_eq!(published.load(Ordering::Relaxed), 2);
    assert_eq!(place.files("index").len(), 34);
    assert_whole(&place);
}

#[test]
fn dur_10_a_reader_begins_again_when_a_listed_segment_is_gone() {
    let place = Place::new();
    for round in 0..3 {
        place.fill("file", round * 10, 2);
        place.snapshot().unwrap();
    }
    let gone = place.files("index").remove(0);
    let name = format!("index/{}", gone.file_name().unwrap().to_str().unwrap());
    let lists = Arc::new(AtomicUsize::new(0));
    let counted = lists.clone();
    let watched = Watched::new(&place.repository(), move |op, file| {
        if op == Op::List && file == "index" {
            counted.fetch_add(1, Ordering::Relaxed);
        }
        if op == Op::Open && file == name {
            // Another program merged it a moment ago; what it covered is in no other segment here.
            let _ = fs::remove_file(&gone);
        }
        Ok(())
    });
    let repository = repository::open(watched).unwrap();
    let reader = repository.reader().unwrap();
    assert_eq!(lists.load(Ordering::Relaxed), 2);
    assert!(reader.problems().is_empty(), "{:?}", reader.problems());
    place::assert_all_is_read(&repository, &reader);
}

#[test]
fn dur_10_a_listing_that_fails_is_an_error_and_never_an_empty_one() {
    let place = Place::new();
    place.fill("file", 1, 2);
    place.snapshot().unwrap();
    for folder in ["index", "packs/7f", "records"] {
        let watched = Watched::new(&place.repository(), move |op, name| {
            let refused = op == Op::List && name == folder;
            if refused { Err(io::Error::from_raw_os_error(libc::EIO)) } else { Ok(()) }
        });
        let error =
            repository::open(watched).and_then(|repository| repository.reader().map(|_| ())).unwrap_err();
        assert!(error.to_string().contains(folder), "{error}");
        let chain = format!("{error:?}");
        assert!(chain.contains(&format!("code: {}", libc::EIO)), "{chain}");
    }
}

#[test]
fn dur_9_snapshots_are_listed_before_the_index_and_the_index_before_packs() {
    let place = Place::new();
    place.fill("file", 1, 2);
    place.snapshot().unwrap();
    let (watched, log) = place.recorded();
    let repository = repository::open(watched).unwrap();
    log.lock().unwrap().clear();
    let report = check(&repository, &CheckOptions::default(), &Silent, &AtomicBool::new(false)).unwrap();
    assert!(report.damages.is_empty());
    let log = log.lock().unwrap();
    let first =
        |folder: &str| log.iter().position(|(op, name)| *op == Op::List && name.starts_with(folder)).unwrap();
    assert!(first("snapshots") < first("index") && first("index") < first("packs/"));
}

#[test]
fn files_and_folders_have_their_modes_whatever_the_umask() {
    for umask in ["0", "0277"] {
        let vault = Vault::new();
        let (source, repository) = (vault.join("source"), vault.join("a/repository"));
        std::fs::create_dir(&source).unwrap();
        std::fs::write(source.join("file"), "text").unwrap();
        let script = format!("umask {umask}; exec \"$@\"");
        let wrapper = ["sh", "-c", &script, "sh"];
        let place = repository.to_str().unwrap();
        vault.start(vault.command_under(&wrapper, &["-r", place, "init"])).wait().ok();
        let args = ["-r", place, "snapshot", source.to_str().unwrap()];
        vault.start(vault.command_under(&wrapper, &args)).wait().ok();
        for entry in walkdir::WalkDir::new(&repository) {
            let entry = entry.unwrap();
            let wanted = if entry.file_type().is_dir() { 0o700 } else { 0o600 };
            let mode = entry.metadata().unwrap().permissions().mode() & 0o7777;
            assert_eq!(mode, wanted, "{} under umask {umask}", entry.path().display());
        }
    }
}
