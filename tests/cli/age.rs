//! `vault check --max-age` and `--budget`: what is remembered of when packs were verified, and which are read next.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use rustix::process::Signal;
use serde_json::Value;
use vault::backend::LocalFolder;
use vault::id::PackId;
use vault::repository::Verified;
use vault::snapshot::Time;

use super::{World, files, flip, summary};
use crate::support::repository;
use crate::support::torture::Random;

/// Several snapshots of other content: `count` packs of data, and as many of trees.
fn world(count: u64) -> World {
    let world = World::new();
    for seed in 0..count {
        fs::write(world.src().join("a.txt"), Random(seed).bytes(300_000)).unwrap();
        world.save(&[]);
    }
    world
}

/// What a check found, and how many packs it read.
#[track_caller]
fn check(world: &World, args: &[&str], code: i32) -> (Value, u64) {
    let output = world.run(&[&["check", "--json"], args].concat()).code(code);
    let found = summary(&output);
    let read = found["packs_read"].as_u64().unwrap();
    (found, read)
}

fn packs(world: &World) -> Vec<PathBuf> {
    files(&world.repo().join("packs"))
}

fn id(pack: &std::path::Path) -> PackId {
    PackId::from_hex(pack.file_name().unwrap().to_str().unwrap()).unwrap()
}

/// Says in the file of this host when packs were verified.
fn remember(world: &World, mut change: impl FnMut(&mut Verified)) {
    let repository = repository::open(Arc::new(LocalFolder::new(world.repo()))).unwrap();
    let mut verified = Verified::recall(&world.vault.join("state/vault"), &repository);
    change(&mut verified);
    verified.keep(|_| true).unwrap();
}

fn state(world: &World) -> PathBuf {
    let state = files(&world.vault.join("state/vault"));
    state.into_iter().find(|file| file.extension().is_some_and(|end| end == "verified")).unwrap()
}

#[test]
fn packs_that_were_verified_of_late_are_not_read_again() {
    let world = world(2);
    let (found, all) = check(&world, &["--max-age", "30d"], 0);
    assert!(all >= 4 && found["packs"] == all && found["ages"]["packs_overdue"] == 0, "{found}");
    assert_eq!(check(&world, &["--max-age", "30d"], 0).1, 0);
    assert_eq!(check(&world, &["--max-age", "0d"], 0).1, all);
    world.save(&[]);
    fs::write(world.src().join("a.txt"), Random(99).bytes(1000)).unwrap();
    world.save(&[]);
    let (found, read) = check(&world, &["--max-age", "30d"], 0);
    assert!(read > 0 && found["packs"] == all + read, "only what is new: {found}");
    world
        .run(&["check", "--max-age", "1d"])
        .ok()
        .says("0 of ")
        .says("none left to verify, the oldest verified 20");
}

#[test]
fn a_full_read_is_remembered_with_a_key_and_without_and_of_this_copy_only() {
    for full in ["--read-data", "--without-key"] {
        let world = world(1);
        let (_, all) = check(&world, &[full], 0);
        assert_eq!(check(&world, &["--max-age", "1h"], 0).1, 0, "{full}");
        world.run(&["mirror", "--new", "copy"]).ok();
        let copy = world.path("cwd/copy");
        assert_eq!(check(&world, &["-r", &copy, "--max-age", "1h"], 0).1, all);
        assert_eq!(check(&world, &["-r", &copy, "--max-age", "1h"], 0).1, 0);
    }
}

#[test]
fn what_was_verified_longest_ago_is_read_first_and_what_never_was_before_all_others() {
    let world = world(3);
    let packs = packs(&world);
    let now = Time::now().secs;
    let age = |at: usize| 86_400 * (i64::try_from(at).unwrap() * 10 + 5);
    // 5, 15, 25 … days ago, and the last one never.
    remember(&world, |verified| {
        for (at, pack) in packs.iter().enumerate().take(packs.len() - 1) {
            verified.confirm(id(pack), now - age(at));
        }
    });
    let last = packs.len() - 1;
    let when = |at: usize| {
        let mut secs = None;
        remember(&world, |verified| secs = verified.when(&id(&packs[at]), i64::MAX));
        secs
    };
    assert_eq!(when(last), None);
    let (found, read) = check(&world, &["--budget", "1k"], 0);
    assert_eq!(
        (read, &found["ages"]["packs_never_verified"]),
        (1, &Value::from(0)),
        "the one that never was"
    );
    assert!(when(last) >= Some(now) && when(last - 1) < Some(now));
    let (found, read) = check(&world, &["--max-age", "12d", "--budget", "1k"], 0);
    assert!(read == 1 && when(last - 1) >= Some(now) && when(last - 2) < Some(now));
    assert_eq!(
        found["ages"]["packs_overdue"],
        last - 2,
        "all but the first, the last, and the one just read"
    );
    let (found, read) = check(&world, &["--max-age", "12d", "--budget", "100%"], 0);
    assert_eq!((read, &found["ages"]["packs_overdue"]), (u64::try_from(last - 2).unwrap(), &Value::from(0)));
    assert_eq!(check(&world, &["--max-age", "12d"], 0).1, 0);
    let told = world.run(&["check", "--max-age", "4d", "--budget", "1k"]).ok();
    told.says("1 of ").says("none left to verify");
}

#[test]
fn a_damaged_pack_is_not_remembered_as_verified() {
    let world = world(1);
    let (_, all) = check(&world, &["--read-data"], 0);
    // Of data: what is in the other one shows in the structure too.
    let pack = packs(&world).into_iter().max_by_key(|pack| fs::metadata(pack).unwrap().len()).unwrap();
    flip(&pack);
    assert_eq!(check(&world, &["--max-age", "1d"], 0).1, 0, "it was right not long ago");
    assert_eq!(check(&world, &["--max-age", "0d"], 13).1, all);
    let (found, read) = check(&world, &["--max-age", "1d"], 13);
    assert_eq!((read, &found["ages"]["packs_overdue"]), (1, &Value::from(1)), "{found}");
    flip(&pack);
    assert_eq!(check(&world, &["--max-age", "1d"], 0).1, 1);
}

#[test]
fn a_pack_in_which_the_structure_shows_damage_is_not_remembered_as_verified_any_more() {
    let world = world(1);
    check(&world, &["--read-data"], 0);
    let trees = packs(&world).into_iter().min_by_key(|pack| fs::metadata(pack).unwrap().len()).unwrap();
    let whole = fs::read(&trees).unwrap();
    let mut bytes = whole.clone();
    bytes.iter_mut().skip(192).for_each(|byte| *byte ^= 1);
    fs::write(&trees, bytes).unwrap();
    assert_eq!(check(&world, &["--max-age", "1d"], 13).1, 0);
    fs::write(&trees, whole).unwrap();
    assert_eq!(check(&world, &["--max-age", "1d"], 0).1, 1);
}

#[test]
fn times_in_the_future_and_a_damaged_file_are_as_if_nothing_were_known() {
    let world = world(1);
    let (_, all) = check(&world, &["--read-data"], 0);
    let pack = id(&packs(&world)[0]);
    remember(&world, |verified| verified.confirm(pack, Time::now().secs + 1000));
    let (_, read) = check(&world, &["--max-age", "1d"], 0);
    assert_eq!(read, 1);
    assert_eq!(check(&world, &["--max-age", "1d"], 0).1, 0);
    flip(&state(&world));
    assert_eq!(check(&world, &["--max-age", "1d"], 0).1, all);
    fs::write(state(&world), b"").unwrap();
    assert_eq!(check(&world, &["--max-age", "1d"], 0).1, all);
    fs::remove_file(state(&world)).unwrap();
    assert_eq!(check(&world, &["--max-age", "1d"], 0).1, all);
}

#[test]
fn what_an_interrupted_check_has_verified_is_kept() {
    let world = world(4);
    let all = packs(&world).len();
    let args = ["check", "--read-data", "--limit-read", "600K", "--threads", "1", "-v"];
    let mut running = world.vault.spawn(&args);
    let log = |running: &crate::support::vault::Running| running.stderr().matches("packs/").count();
    running.wait_until("two packs are read", |running| log(running) >= 3);
    running.signal(Signal::INT);
    running.wait().code(130);
    let (_, read) = check(&world, &["--max-age", "1d"], 0);
    assert!(read > 0 && read < u64::try_from(all).unwrap(), "{read} of {all}");
}

#[test]
fn a_budget_of_time_ends_the_reading_and_no_run_reads_nothing() {
    let world = world(4);
    let begun = std::time::Instant::now();
    // A pack of data takes a second and a half: each of two threads has one, and none begins another.
    let (found, read) = check(&world, &["--budget", "1s", "--limit-read", "200K"], 0);
    assert!(read >= 1 && read < found["packs"].as_u64().unwrap(), "{found}");
    assert!(begun.elapsed().as_secs() < 20);
    let overdue = found["ages"]["packs_overdue"].as_u64().unwrap();
    assert_eq!(overdue + read, found["packs"].as_u64().unwrap());
}

#[test]
fn a_state_that_cannot_be_written_is_said_and_the_check_goes_on() {
    let world = world(1);
    fs::remove_dir_all(world.vault.join("state")).unwrap();
    fs::write(world.vault.join("state"), "no folder").unwrap();
    let told = world.run(&["check", "--max-age", "30d"]).ok();
    told.says("not remembered").says("no damage found");
    let mut world = world;
    world.vault.env_remove("XDG_STATE_HOME");
    world.vault.env("HOME", "relative");
    world.run(&["check", "--budget", "1h"]).ok().says("can not be remembered");
}

#[test]
fn what_is_ambiguous_is_refused() {
    let world = World::new();
    for args in [
        &["--max-age", "5m"][..],
        &["--budget", "10M"],
        &["--budget", "10"],
        &["--max-age", "30"],
        &["--max-age", "1d", "--read-data-subset", "10%"],
        &["--budget", "1h", "latest"],
        &["--budget", "1h", "--without-key"],
    ] {
        world.run(&[&["check"], args].concat()).code(2);
    }
}
