//! Runs that end early: by one Ctrl-C, by two, by a kill. What was packed is not lost, and what was saved is not read again.

use std::fs;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use crate::support::needs::needs;
use crate::support::repository::is_encrypted;
use crate::support::vault::Running;
use crate::whole::world::{Summary, World, files_below, quiet, settle};

const MIB: usize = 1 << 20;

/// So many files of 1 MiB that do not compress.
fn files(count: u64) -> World {
    let world = World::new();
    for i in 0..count {
        world.write_random(&format!("{:02}/{i:03}", i / 20), i, MIB);
    }
    settle();
    world
}

fn start(world: &World, more: &[&str]) -> Running {
    world.vault.spawn(&world.snapshot_args(more))
}

fn lines_of_files(running: &Running) -> usize {
    let lines = running.stdout() + &running.stderr();
    lines.lines().filter(|line| line.contains("/source/")).count()
}

fn states(world: &World) -> Vec<String> {
    let output = world.vault.run(&["snapshots", "--json"]).ok();
    let values = output.text().lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    values.map(|value| value["state"].as_str().unwrap().to_owned()).collect()
}

/// The files of `tmp/`.
fn temporary(world: &World) -> usize {
    world.files("tmp").len()
}

#[test]
fn one_ctrl_c_leaves_a_partial_snapshot_and_nothing_is_read_twice() {
    needs!("rsync");
    let world = files(60);
    let mut running = start(&world, &["-v", "--limit-read", "20M"]);
    running.wait_until("some files are saved", |running| lines_of_files(running) >= 12);
    running.signal(Signal::INT);
    let sent = Instant::now();
    let partial = Summary::of(running.wait(), 130);
    assert!(sent.elapsed() < Duration::from_secs(30), "it takes {:?} to stop", sent.elapsed());
    assert_eq!(partial.state(), "partial");
    let saved = partial.count("total_files_processed");
    assert!((12..60).contains(&saved), "{saved}");
    assert_eq!(states(&world), ["partial"]);
    assert_eq!(temporary(&world), 0);
    // `latest` does not pick it, its id does.
    world.vault.run(&["restore".into(), world.selector("latest"), "-n".into()]).code(1);
    let restored = world.restore(&partial.id(), &[]);
    assert_eq!(files_below(&restored.target()).len() as u64, saved);
    world.is_sound();

    let next = world.snapshot(&[]);
    assert_eq!(next.read(), 60 - saved, "what was saved is not read again");
    assert!(next.added() <= (60 - saved) * MIB as u64 + MIB as u64 / 2, "{}", next.added());
    assert_eq!(states(&world), ["partial", "complete"]);
    world.is_sound();
    world.comes_back();
}

#[test]
fn an_interrupted_run_keeps_what_was_known_of_what_it_did_not_come_to() {
    let world = files(60);
    world.snapshot(&[]);
    let mut running = start(&world, &["-v", "--force", "--limit-read", "20M"]);
    running.wait_until("some files are saved", |running| lines_of_files(running) >= 12);
    running.signal(Signal::INT);
    let partial = Summary::of(running.wait(), 130);
    assert!(partial.read() < 60, "{}", partial.read());
    assert_eq!(world.snapshot(&[]).read(), 0);
}

#[test]
fn one_ctrl_c_in_a_long_file_keeps_what_was_read_of_it() {
    needs!("rsync");
    let world = World::new();
    world.write_random("long", 1, 60 * MIB);
    world.write_random("small", 2, 5000);
    settle();
    let mut running = start(&world, &["-v", "--limit-read", "20M"]);
    let started = Instant::now();
    running.wait_until("a third of it is read", |_| started.elapsed() > Duration::from_millis(1500));
    running.signal(Signal::INT);
    let partial = Summary::of(running.wait(), 130);
    assert!(partial.added() > 5 * MIB as u64, "{}", partial.added());
    let next = world.snapshot(&[]);
    assert!(next.added() + partial.added() < 62 * MIB as u64, "{} {}", partial.added(), next.added());
    world.comes_back();
}

/// Saves 160 MiB until the first pack of data is published, and lets `end` end it.
fn cut_off(end: impl FnOnce(Running)) {
    let world = files(160);
    let mut running = start(&world, &["--limit-write", "20M"]);
    running.wait_until("a pack is published", |_| !world.files("packs").is_empty());
    end(running);
    let packed: u64 = world.files("packs").iter().map(|path| fs::metadata(path).unwrap().len()).sum();
    assert!(packed > 60 * MIB as u64);
    assert_eq!(states(&world), [""; 0]);
    assert!(world.files("index").is_empty());

    let next = world.snapshot(&[]);
    let rest = (160 * MIB) as u64 - packed;
    // A sealed pack is padded to its full length where the next frame of 2 MiB has no room.
    let more = if is_encrypted() { 4 * MIB } else { 2 * MIB };
    assert!(next.added() < rest + more as u64, "{} of {rest}", next.added());
    assert!(next.output.stderr.contains("as after an interrupted run"), "{}", next.output.stderr);
    assert_eq!(temporary(&world), 0);
    world.is_sound();
    world.comes_back();
}

#[test]
fn two_ctrl_c_end_it_at_once_and_its_packs_are_used() {
    needs!("rsync");
    cut_off(|running| {
        running.signal(Signal::INT);
        // At once, as no limit holds the end of a run up; another signal, as two of one kind may become one.
        running.signal(Signal::TERM);
        let sent = Instant::now();
        quiet(&running.wait().code(130));
        assert!(sent.elapsed() < Duration::from_secs(2), "{:?}", sent.elapsed());
    });
}

#[test]
fn the_packs_of_a_killed_run_are_used() {
    needs!("rsync");
    cut_off(|running| {
        running.signal(Signal::KILL);
        let output = running.wait();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&output.status), Some(9));
    });
}

#[test]
fn a_restore_that_is_interrupted_leaves_no_temporary_file() {
    needs!("rsync");
    let world = files(60);
    world.write_random("long", 99, 40 * MIB);
    world.snapshot(&[]);
    let target = world.vault.join("restored");
    let mut args: Vec<std::ffi::OsString> = vec!["restore".into(), world.selector("latest")];
    args.extend(["--target".into(), target.clone().into()]);
    let mut slow = args.clone();
    slow.extend(["--limit-read".into(), "15M".into()]);
    for round in 0..2 {
        let mut running = world.vault.spawn(&slow);
        running.wait_until("files are being written", |_| {
            target.exists() && files_below(&target).iter().any(|path| name(path).starts_with(".vault-"))
        });
        running.signal(if round == 0 { Signal::INT } else { Signal::TERM });
        quiet(&running.wait().code(130));
        let left: Vec<_> =
            files_below(&target).into_iter().filter(|path| name(path).starts_with('.')).collect();
        assert!(left.is_empty(), "{left:?}");
    }
    world.vault.run(&args).ok();
    crate::whole::world::same(&world.source, &target);
}

fn name(path: &std::path::Path) -> String {
    path.file_name().unwrap().to_string_lossy().into_owned()
}
