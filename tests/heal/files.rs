//! Whole files from another copy.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use serde_json::{Value, json};

use super::world::{World, damage, files, flip_at, names, open, sound, summary};
use crate::support::needs::needs;
use crate::support::repository::is_encrypted;
use crate::support::torture::Random;
use crate::support::tracer::{Act, traced};

/// Damages so many files of two copies, none of them in both, in various ways.
fn damage_both(one: &Path, other: &Path, seed: u64, of: usize) -> (usize, usize) {
    let mut random = Random(seed);
    let mut all: Vec<String> = files(one).into_keys().collect();
    for at in (1..all.len()).rev() {
        let with = usize::from(u16::from_le_bytes(random.bytes(2).try_into().unwrap())) % (at + 1);
        all.swap(at, with);
    }
    // Both configs of one copy are told apart below.
    let all: Vec<String> = all.into_iter().filter(|name| name != "config.2").collect();
    let count = (all.len() / of).max(2);
    for (number, name) in all[..count * 2].iter().enumerate() {
        let copy = if number < count { one } else { other };
        damage(&copy.join(name), number as u64 + seed, &mut random);
    }
    (count, count)
}

#[test]
fn heal_1_two_copies_that_are_damaged_in_other_places_heal_each_other_to_identical() {
    for (seed, of) in [(1, 10), (2, 10), (3, 10), (4, 4), (5, 4), (6, 3), (7, 2)] {
        let world = World::saved();
        let (here, there) = (world.repo(), world.mirror("mirror"));
        let good = files(&here);
        assert_eq!(good, files(&there));
        assert!(good.len() > 20, "{}", good.len());
        let damaged = damage_both(&here, &there, seed, of);
        assert!(sound(&here).len() < good.len() && sound(&there).len() < good.len());
        let healed = summary(&world.heal(&here, &there, &["--json"]).ok());
        let count = |field: &str| healed[field].as_array().unwrap().len();
        assert_eq!(count("files_replaced") + count("files_fetched"), damaged.0, "seed {seed}: {healed}");
        assert_eq!(files(&here), good, "seed {seed}");
        world.heal(&there, &here, &[]).ok();
        assert_eq!(files(&there), good, "seed {seed}");
        world.heal(&here, &there, &[]).ok().says("nothing to heal");
        for copy in [&here, &there] {
            world.assert_whole(copy);
            world.assert_restores(copy, "latest");
        }
    }
}

#[test]
fn heal_2_what_it_takes_to_open_a_copy_comes_first() {
    let world = World::saved();
    let (here, there) = (world.repo(), world.mirror("mirror"));
    let good = files(&there);
    for name in names(&here, "keys/").iter().map(String::as_str).chain(["config", "config.2"]) {
        fs::write(here.join(name), "rotten").unwrap();
    }
    world.run(&here, &["snapshots"]).code(13);
    // The one that cannot be opened is not the one to heal from.
    world.heal(&there, &here, &[]).code(13).says("config is damaged").says("heal that one first");
    // Nothing is written in a dry run, so it cannot be opened either.
    world.heal(&here, &there, &["--dry-run"]).code(13);
    assert_ne!(files(&here), good);
    let healed = summary(&world.heal(&here, &there, &["--json"]).ok());
    let replaced = healed["files_replaced"].as_array().unwrap().len();
    assert_eq!(replaced, if is_encrypted() { 3 } else { 2 }, "{healed}");
    assert_eq!(files(&here), good);
    // Without `copy` nothing says what it is.
    fs::remove_file(here.join("config")).unwrap();
    fs::remove_file(here.join("config.2")).unwrap();
    fs::remove_file(here.join("copy")).unwrap();
    world.heal(&here, &there, &[]).code(10);
    assert!(!here.join("config").exists());
}

#[test]
fn folders_that_are_gone_with_all_that_was_in_them_come_back() {
    let world = World::saved();
    let (here, there) = (world.repo(), world.mirror("mirror"));
    let good = files(&there);
    for folder in ["packs", "index", "snapshots", "tmp"] {
        fs::remove_dir_all(here.join(folder)).unwrap();
    }
    world.heal(&here, &there, &[]).ok();
    assert_eq!(files(&here), good);
    world.assert_whole(&here);
}

#[test]
fn a_dry_run_says_what_it_would_do_and_does_nothing() {
    for (seed, of) in [(3, 5), (4, 3), (5, 3)] {
        let world = World::saved();
        let (here, there) = (world.repo(), world.mirror("mirror"));
        let good = files(&here);
        damage_both(&here, &there, seed, of);
        // Nothing is written in a dry run, so without its key a copy could not be opened.
        for (name, bytes) in good.iter().filter(|(name, _)| name.starts_with("keys/")) {
            for copy in [&here, &there] {
                fs::write(copy.join(name), bytes).unwrap();
            }
        }
        assert_dry_run_is_right(&world, &here, &there);
    }
    for name in ["config", "config.2"] {
        for is_gone in [true, false] {
            let world = World::saved();
            let (here, there) = (world.repo(), world.mirror("mirror"));
            if is_gone {
                fs::remove_file(here.join(name)).unwrap();
            } else {
                fs::write(here.join(name), "rotten").unwrap();
            }
            let dry = assert_dry_run_is_right(&world, &here, &there);
            let (field, other) = if is_gone {
                ("files_fetched", "files_replaced")
            } else {
                ("files_replaced", "files_fetched")
            };
            assert_eq!((&dry[field], &dry[other]), (&json!([name]), &json!([])));
        }
    }
    // What names the pack that is gone is damaged.
    let world = World::saved();
    let (here, there) = (world.repo(), world.mirror("mirror"));
    fs::remove_file(here.join(&names(&here, "packs/")[0])).unwrap();
    for segment in names(&here, "index/") {
        flip_at(&here.join(segment), 100);
    }
    assert_dry_run_is_right(&world, &here, &there);
}

/// Asserts that it says the same as the run that does it, and writes nothing. Returns what it says.
#[track_caller]
fn assert_dry_run_is_right(world: &World, here: &Path, there: &Path) -> Value {
    let (before, beside) = (files(here), files(there));
    let dry = summary(&world.heal(here, there, &["--dry-run", "--json"]).code(13));
    assert_eq!((files(here), files(there)), (before, beside.clone()));
    let done = summary(&world.heal(here, there, &["--json"]).ok());
    for field in ["files_replaced", "files_damaged", "chunks_lost", "chunks_saved"] {
        assert_eq!(dry[field], done[field], "{field}: {dry} {done}");
    }
    // Which segments are of use shows only when the packs are here.
    let fetched = |summary: &Value| {
        let mut names: Vec<String> = serde_json::from_value(summary["files_fetched"].clone()).unwrap();
        names.retain(|name| !name.starts_with("index/"));
        names
    };
    assert_eq!(fetched(&dry), fetched(&done));
    assert_eq!(files(there), beside, "the other copy is only read");
    world.heal(here, there, &["--dry-run"]).ok().says("nothing to heal");
    dry
}

#[test]
fn in_a_hurry_only_packs_that_something_speaks_against_are_read() {
    let world = World::saved();
    let (here, there) = (world.repo(), world.mirror("mirror"));
    let good = files(&here);
    let packs = names(&here, "packs/");
    let cut = fs::File::options().write(true).open(here.join(&packs[0])).unwrap();
    cut.set_len(500).unwrap();
    fs::remove_file(here.join(&packs[1])).unwrap();
    flip_at(&here.join(&packs[2]), 300);
    flip_at(&here.join(&names(&here, "snapshots/")[0]), 200);
    world.heal(&here, &there, &["--quick"]);
    let after = files(&here);
    for name in [&packs[0], &packs[1], &names(&here, "snapshots/")[0]] {
        assert_eq!(after.get(name), good.get(name), "{name}");
    }
    // Recorded as damaged, it is read.
    world.run(&here, &["check", "--read-data", "--mark-damaged"]);
    world.heal(&here, &there, &["--quick"]).ok();
    let left: Vec<String> = files(&here).into_keys().filter(|name| !name.starts_with("records/")).collect();
    assert_eq!(left, good.keys().cloned().collect::<Vec<_>>());
    assert_eq!(sound(&here).len(), files(&here).len());
    // What was recorded is taken back.
    world.run(&here, &["check"]).ok();
}

#[test]
fn without_a_key_all_files_come_that_the_other_copy_has_whole() {
    let mut world = World::saved();
    let (here, there) = (world.repo(), world.mirror("mirror"));
    let good = files(&here);
    damage_both(&here, &there, 11, 5);
    world.vault.env_remove("VAULT_PASSPHRASE");
    if is_encrypted() {
        world.heal(&here, &there, &[]).code(12);
        world.heal(&here, &there, &["--without-key"]).ok().says("shows with a passphrase");
    } else {
        world.heal(&here, &there, &["--without-key"]).ok();
    }
    assert_eq!(files(&here), good);
    world.heal(&there, &here, &["--without-key"]).ok();
    assert_eq!(files(&there), good);
    // Whole nowhere: it stays, and is named.
    let pack = names(&here, "packs/").remove(0);
    for copy in [&here, &there] {
        flip_at(&copy.join(&pack), 250);
    }
    let output = world.heal(&here, &there, &["--without-key"]).code(13);
    assert!(output.text().contains(&pack), "{}", output.text());
    assert!(here.join(&pack).exists());
}

#[test]
fn heal_3_a_snapshot_that_only_the_other_copy_has_and_that_is_damaged_there_is_named() {
    let world = World::saved();
    let (here, there) = (world.repo(), world.mirror("mirror"));
    let name = names(&here, "snapshots/").pop().unwrap();
    fs::remove_file(here.join(&name)).unwrap();
    flip_at(&there.join(&name), 100);
    for args in [&["-n"][..], &[]] {
        let healed = world.heal(&here, &there, args).code(13);
        assert!(healed.stderr.contains(&name), "{}", healed.report());
        assert!(healed.report().contains("1 file is damaged there"), "{}", healed.report());
        assert!(!here.join(&name).exists());
    }
    let healed = summary(&world.heal(&here, &there, &["--json"]).code(13));
    assert_eq!(healed["files_damaged_there"], json!([name]), "{healed}");
    flip_at(&there.join(&name), 100);
    world.heal(&here, &there, &[]).ok();
    world.assert_whole(&here);
    world.assert_restores(&here, "latest");
}

#[test]
fn places_that_are_no_other_copy_are_refused_and_nothing_is_written() {
    let world = World::saved();
    let here = world.repo();
    let stranger = World::saved();
    let before = files(&here);
    world.heal(&here, &stranger.repo(), &[]).code(15).says("another repository");
    world.heal(&here, &here, &[]).code(1).says("the same folder");
    let link = world.vault.join("link");
    std::os::unix::fs::symlink(&here, &link).unwrap();
    world.heal(&here, &link, &[]).code(1).says("the same folder");
    world.heal(&here, &here.join("packs"), &[]).code(1);
    world.heal(&here, &world.vault.join("nowhere"), &[]).code(10);
    world.heal(&here, &world.src(), &[]).code(10);
    assert_eq!(files(&here), before);
    // A copy made by other means, its file `copy` and all, heals as well as any.
    let clone = world.vault.join("clone");
    let mut copy = std::process::Command::new("cp");
    assert!(copy.arg("-a").args([&here, &clone]).status().unwrap().success());
    fs::remove_file(here.join(&names(&here, "packs/")[0])).unwrap();
    world.heal(&here, &clone, &[]).ok();
    assert_eq!(files(&here), before);
}

#[test]
fn records_and_keys_that_are_missing_come_back_and_keys_that_were_removed_do_not() {
    let world = World::saved();
    let here = world.repo();
    world.run(&here, &["hold", "latest", "--reason", "so"]).ok();
    let there = world.mirror("mirror");
    let good = files(&here);
    fs::remove_file(here.join(&names(&here, "records/")[0])).unwrap();
    world.heal(&here, &there, &[]).ok();
    assert_eq!(files(&here), good);
    if is_encrypted() {
        let passphrase = world.vault.join("second");
        fs::write(&passphrase, "another passphrase, long enough\n").unwrap();
        let file = passphrase.to_str().unwrap();
        world.run(&here, &["key", "add", "--new-passphrase-file", file]).ok();
        let added = names(&here, "keys/").into_iter().find(|name| !good.contains_key(name)).unwrap();
        world.run(&here, &["mirror", there.to_str().unwrap()]).ok();
        fs::remove_file(here.join(&added)).unwrap();
        world.heal(&here, &there, &[]).ok();
        assert!(here.join(&added).exists());
        world.run(&here, &["key", "remove", added.rsplit('/').next().unwrap()]).ok();
        world.heal(&here, &there, &[]).ok();
        assert!(!here.join(&added).exists(), "a removed key came back");
    }
}

/// An encrypted repository without `config`, and a mirror of it that says that it is not encrypted and has no keys.
fn exchanged() -> (World, PathBuf, PathBuf) {
    let world = World::saved();
    let (here, there) = (world.repo(), world.mirror("mirror"));
    let repository = open(&here);
    let mut plain = repository.config().clone();
    (plain.encryption, plain.fields) = (0, Vec::new());
    let plain = plain.encode(repository.id());
    for name in names(&there, "keys/") {
        fs::remove_file(there.join(name)).unwrap();
    }
    for name in ["config", "config.2"] {
        fs::write(there.join(name), &plain).unwrap();
        fs::remove_file(here.join(name)).unwrap();
    }
    (world, here, there)
}

#[test]
fn conf_5_a_config_that_says_less_is_not_taken_over() {
    if !is_encrypted() {
        return;
    }
    let (world, here, there) = exchanged();
    let before = files(&here);
    // This computer has seen it encrypted; another one sees the keys.
    world.heal(&here, &there, &[]).code(13).says("exchanged");
    let state = world.vault.join("state");
    fs::remove_dir_all(&state).unwrap();
    world.heal(&here, &there, &[]).code(13).says("exchanged");
    // Nor where it cannot be said whether there are keys.
    fs::rename(here.join("keys"), world.vault.join("keys")).unwrap();
    fs::write(here.join("keys"), "").unwrap();
    world.heal(&here, &there, &[]).code(1).says("cannot list").says("keys");
    assert!(!here.join("config").exists() && !here.join("config.2").exists());
    fs::remove_file(here.join("keys")).unwrap();
    fs::rename(world.vault.join("keys"), here.join("keys")).unwrap();
    assert_eq!(files(&here), before);
}

#[test]
fn conf_5_a_copy_that_cannot_be_opened_once_is_not_believed_the_next_time() {
    needs!("root", "sh");
    if !is_encrypted() {
        return;
    }
    let (world, here, there) = exchanged();
    for name in names(&here, "keys/") {
        fs::remove_file(here.join(name)).unwrap();
    }
    let before = files(&here);
    let mut failed = HashSet::new();
    let args = ["-r", here.to_str().unwrap(), "heal", "--from", there.to_str().unwrap()];
    let output = traced(&world.vault, &args, |call| {
        let path = call.path().map(PathBuf::from).unwrap_or_default();
        let is_config = [there.join("config"), there.join("config.2")].contains(&path);
        if is_config && call.name() == Some("openat") && failed.insert(path) {
            Act::Fail(Errno::EIO)
        } else {
            Act::Go
        }
    });
    assert_eq!(failed.len(), 2, "{}", output.report());
    assert!(!output.status.success(), "{}", output.report());
    assert_eq!(files(&here), before, "{}", output.report());
}
